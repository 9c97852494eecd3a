"""How every kernel of this folder is compiled and called.

Numba compiles; what comes out is object code that is kept on disk (`nplrp.kernels.jit_cache`) and called without Numba, which is imported
only when something has to be compiled.
"""

import functools
import importlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np

from nplrp.kernels import arguments, jit_cache, launch
from nplrp.kernels.launch import lock, threads

__all__ = ["DISABLED", "at_once", "exclusive", "frozen", "in_threads", "kernel", "shared_kernel", "threads"]

#: Whether kernels run as plain Python.
DISABLED = os.environ.get("NUMBA_DISABLE_JIT", "0") not in ("", "0")


#: `queue`: where this thread's calls of shared kernels are noted down (see `nplrp.kernels.together`), if not None.
waiting = threading.local()


class Kernel:
    """A compiled function, callable from Python and from other kernels."""

    def __init__(self, function, split=False):
        functools.update_wrapper(self, function)
        self._function, self._split, self._codes, self._lock = function, split, {}, threading.Lock()

    def __call__(self, *args):
        """Call it, after what is noted down; numbers that come back are ints and floats."""
        queue = getattr(waiting, "queue", None)
        if queue is not None:
            queue.run()
        code, numbers = self.code(*args)
        return code.call(numbers)

    @staticmethod
    def run(nt, code, numbers, args):
        """Run split code in `nt` threads, or note it down."""
        queue = getattr(waiting, "queue", None)
        if queue is not None:
            queue.add(max(nt, 1), code, numbers, args)
        elif nt <= 1:
            code.call(numbers)
        else:
            code.share(numbers, nt)

    def code(self, *args):
        """Return the code for arguments, from the cache if it is there, and the arguments as it takes them."""
        kinds, numbers = arguments.describe(args)
        code = self._codes.get(kinds)
        if code is None:
            with self._lock:
                code = self._codes[kinds] = self._codes.get(kinds) or self._kept(kinds) or self._compiled(kinds, args)
        return code, numbers

    def _kept(self, kinds):
        code = jit_cache.load(self._function, kinds)
        try:
            return code and launch.Code(code, kinds)
        except RuntimeError:  # the entry is no reason to fail
            return None

    def _compiled(self, kinds, args):
        jit_cache.announce()
        code = importlib.import_module("nplrp.kernels.compiling").object_code(self._function, args, self._split)
        jit_cache.save(self._function, kinds, code)
        return launch.Code(code, kinds)

    @functools.cached_property
    def _numba_type_(self):  # what Numba asks an object that it doesn't know for, when it compiles a caller
        self._inner = importlib.import_module("nplrp.kernels.compiling").inner(self._function)
        return self._inner._numba_type_


def kernel(function):
    """Compile a serial kernel."""
    return function if DISABLED else Kernel(function)


def shared_kernel(share):
    """Compile a kernel share(t, nt, *args) that does part t of nt of the work.

    The result is a Python function (nt, *args) that runs the parts in parallel; its `in_turn` (nt, firsts, *args) does so for one number
    as first argument after another. Parts write to places of their own.
    """
    compiled = Kernel(share, split=True)

    def run(nt, *args):
        if DISABLED:
            for t in range(nt):
                share(t, nt, *args)
        else:
            compiled.run(nt, *compiled.code(*args), args)

    def in_turn(nt, firsts, *args):
        if DISABLED:
            for first in firsts:
                run(nt, first, *args)
            return
        code, numbers = compiled.code(firsts[0], *args)  # looking at the arguments takes as long as a small kernel
        for first in firsts:
            compiled.run(nt, code, [first, *numbers[1:]], args)

    call = functools.wraps(share)(run)
    call.in_turn = in_turn
    return call


@contextmanager
def at_once():
    """Run the block's calls of shared kernels at once, also where calls are being noted down."""
    queue, waiting.queue = getattr(waiting, "queue", None), None
    try:
        yield
    finally:
        waiting.queue = queue


def in_threads(part, nt, *args):
    """Call part(*args, t, nt) for every t < nt, in nt Python threads; kernels don't hold the interpreter's lock."""
    if nt <= 1:
        part(*args, 0, 1)
        return
    with ThreadPoolExecutor(nt - 1) as pool:
        others = [pool.submit(part, *args, t, nt) for t in range(1, nt)]
        part(*args, 0, nt)
        for other in others:
            other.result()


def frozen(x):
    """Return x as a flat read-only array: an input is of one type for Numba, may it be writable, read-only or mapped from a file."""
    x = x.view(np.ndarray).reshape(-1)
    x.flags.writeable = False
    return x


def exclusive():
    """Return the process-wide lock as a context manager; a thread that holds it may take it again."""
    return lock
