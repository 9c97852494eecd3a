"""A process may be forked while another thread of it loads kernels, or computes: the child can do both."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nplrp.jit import DISABLED

ROOT = Path(__file__).parents[2]
RUN = """
import gc, os, threading, time
import numpy as np
from nplrp.jit import dispatcher
from nplrp.kernels import elementwise
from nplrp.kernels.softmax import softmax
from nplrp.workspace import Room

x, loaded, done, room = np.full((4, 50_000), -1.0), [], threading.Event(), Room(100)
elementwise.relu(x, x.copy(), 2)
softmax(x, x.copy())
kernels = [each for each in gc.get_objects() if isinstance(each, dispatcher.Kernel)]

def load():
    while not done.is_set():
        for kernel in kernels:
            loaded.append(dict(kernel._codes))  # kept: what is in use isn't dropped either
            kernel._codes.clear()
        softmax(x, x.copy())
        elementwise.relu(x, x.copy(), 2)

thread = threading.Thread(target=load)
thread.start()
for k in range(25):
    time.sleep(0.004)
    child = os.fork()
    if not child:
        y = x.copy()
        elementwise.relu(y, y, 2)
        softmax(x, x.copy())
        room.take(1)
        os._exit(int(y.any()))
    for _ in range(1000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        print("hung")
    assert not status
done.set()
thread.join()
"""


#: Another thread lets LLVM's objects go, as the garbage collector does in any; the children have to load a kernel.
FREED = """
import os, threading, time
import llvmlite.binding as llvm
import numpy as np
from nplrp.kernels import elementwise
from nplrp.kernels.softmax import softmax

x, done = np.full((4, 50_000), -1.0), threading.Event()
elementwise.relu(x, x.copy(), 2)

def let_go():
    while not done.is_set():
        llvm.parse_assembly("define i64 @f(i64 %x) {\\n ret i64 %x\\n}")

thread = threading.Thread(target=let_go)
thread.start()
children = []
for _ in range(12):
    time.sleep(0.003)
    child = os.fork()
    if not child:
        softmax(x, x.copy())
        os._exit(0)
    children.append(child)
for child in children:
    for _ in range(6000):
        found, status = os.waitpid(child, os.WNOHANG)
        if found:
            break
        time.sleep(0.01)
    else:
        os.kill(child, 9)
        print("hung", flush=True)
        break
    assert not status
done.set()
thread.join()
"""


@pytest.mark.skipif(DISABLED or not hasattr(os, "fork"), reason="nothing to load, or no fork")
@pytest.mark.parametrize("script", [RUN, FREED], ids=["loads", "frees"])
def test_forks_while_another_thread_works(script):
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", script], cwd=ROOT, capture_output=True, text=True, check=False, timeout=400
    )
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
