"""Ctrl-C at any moment: no thread outlives the arrays that it writes, and the next pass has its bits."""

import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from nplrp import explain
from nplrp.jit import DISABLED, Queue, crew, shared_kernel, team
from nplrp.jit import queue as queue_module
from tests.networks import images, small_vgg

ROOT = Path(__file__).parents[2]
LAYERS = {
    "OpenMP": {},
    "a crew": {"NUMBA_THREADING_LAYER": "workqueue"},
    "a crew of many": {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "7"},
    "one thread": {"NUMBA_NUM_THREADS": "1"},
}
#: Explains a small network while a timer interrupts it, after a random part of the time that it takes; argv: seed, interrupts.
RUN = """
import random, signal, sys, time
from tests import networks
from nplrp import explain
model = networks.small_vgg(size=32)
x = networks.images(0, 1, model.input_shape)
expected = explain(model, x, "epsilon_plus").relevance.tobytes()
taken = 1
for _ in range(3):
    begin = time.perf_counter()
    explain(model, x, "epsilon_plus")
    taken = min(taken, time.perf_counter() - begin)
chance, interrupted, shots = random.Random(int(sys.argv[1])), 0, 0

def ring(*_):
    global shots, interrupted
    if shots:
        shots, interrupted = shots - 1, interrupted + 1
        raise KeyboardInterrupt

signal.signal(signal.SIGALRM, ring)
for k in range(100 * int(sys.argv[2])):
    if interrupted >= int(sys.argv[2]):
        break
    try:
        try:
            shots = 2 if k % 3 == 0 else 1
            signal.setitimer(signal.ITIMER_REAL, 1e-5 + chance.random() * taken, taken / 9)
            explain(model, x, "epsilon_plus")
            shots = 0
        except KeyboardInterrupt:
            shots = 0
    except KeyboardInterrupt:  # the second, while the first was caught
        pass
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert explain(model, x, "epsilon_plus").relevance.tobytes() == expected, k
print(interrupted)
"""

pytestmark = pytest.mark.skipif(DISABLED or not hasattr(signal, "setitimer"), reason="plain Python, or no timer")


def run_script(script, *argv, layer, timeout=300):
    done = subprocess.run(
        [sys.executable, "-c", script, *map(str, argv)],
        cwd=ROOT,
        env={**os.environ, **LAYERS[layer]},
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def run(layer, interrupts, seed):
    assert int(run_script(RUN, seed, interrupts, layer=layer, timeout=60 + interrupts)) >= interrupts


@pytest.mark.parametrize("layer", LAYERS)
def test_random_interrupts(layer):
    run(layer, 60, seed=0)


#: What is asked of a small network again and again; the answer is bytes.
ASK = {
    "explain": """
model = networks.small_vgg(size=32)
def ask():  # of two pictures, lest what an earlier pass has left pass for the right one
    return b"".join(nplrp.explain(model, each, "epsilon_plus").relevance.tobytes() for each in (x, -x))
""",
    "float64": """
model = networks.small_vgg(size=16)
def ask():
    return nplrp.explain(model, x, "alpha_beta", dtype="float64").relevance.tobytes()
""",
    "a graph": """
model = networks.small_resnet()
def ask():
    return nplrp.explain(model, x, "epsilon_plus").relevance.tobytes()
""",
    "ledger": """
model = networks.small_resnet()
def ask():
    e = nplrp.explain(model, x, "gamma", target="top-2")
    return (str(e.books) + str(e.relevances)).encode()
""",
    "new plans": """
model = networks.small_resnet()
def ask():
    model.kept.plans.clear(), model.kept.steps.clear()
    return nplrp.explain(model, x, "epsilon_gamma_box(low=-9, high=9)").relevance.tobytes()
""",
    "several": """
model = networks.small_vgg(size=16)
def ask():
    return b"".join(e.relevance.tobytes() for e in nplrp.explain_each(model, x, ["epsilon", "zplus", "alpha_beta"]))
""",
    "explain_many": """
model = networks.small_vgg(size=16)
pictures = [np.random.default_rng(i).integers(0, 256, (20, 20, 3), np.uint8) for i in range(5)]
def ask():
    return b"".join(e.relevance.tobytes() for e in nplrp.explain_many(pictures, model, "zplus"))
""",
    "predict": """
model = networks.small_resnet()
def ask():
    return nplrp.predict(model, x).tobytes() + nplrp.logits(model, x, "float64").tobytes()
""",
    "load": """
from tests.keras_files import FILES
model = networks.small_vgg(size=16)
def ask():
    loaded = nplrp.load(FILES / "small32_k3.keras", mmap=False)
    return loaded.content_hash.encode() + nplrp.load(FILES / "small32_k2_model_save.h5").fresh_hash().encode()
""",
}
#: Interrupts it before one bytecode instruction after another; argv: the part of a path whose frames count, and the stride.
STEPS = """
import gc, os, sys, threading
import numpy as np
import nplrp
from tests import networks
@ASK@
x = networks.images(0, 1, model.input_shape)
ask()
expected = ask()
files = len(os.listdir("/proc/self/fd")) if os.path.isdir("/proc/self/fd") else 0
left, part, stride = 0, sys.argv[1], int(sys.argv[2])

def each(frame, event, _):
    global left
    frame.f_trace_opcodes = True
    if part not in frame.f_code.co_filename:
        return None
    if event == "opcode":
        left -= 1
        if left == 0:
            raise KeyboardInterrupt
    return each

if stride < 0:  # so many steps
    left = 10**9
    sys.settrace(each)
    ask()
    sys.settrace(None)
    stride = max((10**9 - left) // -stride, 1)
step, ended = 1, False
while not ended:
    left = step
    sys.settrace(each)
    try:
        ask()
        ended = True
    except KeyboardInterrupt:
        pass
    sys.settrace(None)
    assert ask() == expected, step
    step += stride
gc.collect()
if files:
    assert len(os.listdir("/proc/self/fd")) <= files + 2, os.listdir("/proc/self/fd")
assert threading.active_count() < 20, threading.enumerate()
print(step)
"""


@pytest.mark.parametrize(("part", "stride"), [("workspace", 43), ("queue", 37), ("replay", 11), ("nplrp", 2011)])
def test_interrupts_before_each_instruction(part, stride):
    assert int(run_script(STEPS.replace("@ASK@", ASK["explain"]), part, stride, layer="OpenMP")) > 100


@pytest.mark.parametrize(
    ("what", "steps"),
    [
        *((name, 6) for name in ("a graph", "explain_many", "load")),
        *(pytest.param(name, 400, marks=pytest.mark.slow) for name in ASK if name != "explain"),
    ],
)
def test_interrupts_of_all_that_is_asked(what, steps):
    """What outlives a pass is whole wherever it is left: plans, prepared weights, workspaces, files and threads."""
    assert int(run_script(STEPS.replace("@ASK@", ASK[what]), "nplrp", -steps, layer="OpenMP", timeout=4000)) > steps


@pytest.mark.slow
def test_interrupts_before_nearly_every_instruction():
    assert int(run_script(STEPS.replace("@ASK@", ASK["explain"]), "nplrp", 17, layer="OpenMP", timeout=1000)) > 1000


@pytest.mark.slow
@pytest.mark.parametrize("layer", LAYERS)
def test_thousands_of_random_interrupts(layer):
    for seed in range(1, 11):
        run(layer, 1000, seed)


@shared_kernel
def _long(t, nt, rounds, out):
    """The last part takes long; the first is done at once. (From a constant LLVM would compute the loop beforehand.)"""
    x = out[t]
    for _ in range(rounds if t == nt - 1 else 1):
        x = x * 0.999999 + 1e-6
    out[t] = x


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("queued", [True, False])
def test_the_caller_waits_for_all_parts_then_raises(openmp, queued, monkeypatch):
    if not openmp:
        monkeypatch.setattr(team, "openmp", lambda: None)
    out, queue = np.zeros(3), Queue()
    _long(3, 10, out)
    begin = time.perf_counter()
    _long(3, 10_000_000, out)
    rounds, out[:] = int(3e6 / (time.perf_counter() - begin)), 0  # 0.3 s
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.05)
            if queued:
                with queue:
                    _long(3, rounds, out)
                queue.run()
            else:
                _long(3, rounds, out)
            time.sleep(1)
    finally:
        signal.signal(signal.SIGALRM, before)
    assert out.all()


def test_a_queue_is_left_between_its_kernels():
    out, queue = np.zeros((40, 2)), Queue()
    _long(2, 10, out[0])
    begin = time.perf_counter()
    _long(2, 10_000_000, out[0])
    rounds, out[:] = int(5e5 / (time.perf_counter() - begin)), 0  # 0.05 s each
    with queue:
        for each in out:
            _long(2, rounds, each)
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            signal.setitimer(signal.ITIMER_REAL, 0.1)
            queue.run()
    finally:
        signal.signal(signal.SIGALRM, before)
    done = out.all(axis=1)
    assert done[0] and not done[-1] and (out.any(axis=1) == done).all()  # each kernel wholly or not at all


def test_slices_change_no_bit(monkeypatch):
    model = small_vgg(size=32)
    x = images(0, 2, model.input_shape)
    expected = explain(model, x, "epsilon_plus").relevance
    for seconds in (0.0, 1e-4, 1e9):
        monkeypatch.setattr(queue_module, "SLICE", seconds)
        assert explain(model, x, "epsilon_plus").relevance.tobytes() == expected.tobytes()


def test_where_no_thread_can_be_started_the_caller_does_all(monkeypatch):
    library, call, _ = crew._compiled()
    refuse = ctypes.CFUNCTYPE(ctypes.c_ulong, ctypes.c_void_p, ctypes.c_void_p)(lambda *_: ctypes.c_ulong(-1).value)
    monkeypatch.setattr(crew, "_compiled", lambda: (library, call, ctypes.cast(refuse, ctypes.c_void_p).value))
    monkeypatch.setattr(team, "openmp", lambda: None)
    out = np.zeros(5)
    _long(5, 10, out)
    assert out.all()


def test_a_queue_that_was_left_by_an_interrupt_takes_no_further_calls():
    Queue().__enter__()  # left as it is if the interrupt comes where the block ends
    queue, out = Queue(), np.zeros(2)
    _long(2, 10, out)
    assert out.all()
    queue.run()
