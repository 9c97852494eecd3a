"""A queue of kernels, run one after the other by one team of threads.

After a kernel that is called alone the team goes to sleep, and Python is slow to call the next one, since the kernel has driven Python's
data out of the caches: with 80 kernels this takes a tenth of an explanation. Kernels whose results Python doesn't look at are noted down
instead. Then one team of OpenMP's runs them all; after each of them every thread waits for the others. Without OpenMP they are run singly.

Ctrl-C may come between any two steps of Python's, also where a `with` block is left: what such a pass leaves is dropped by the next.
"""

import ctypes
import sys
import threading
import time
from contextlib import contextmanager

import numpy as np

from nplrp.jit import team

_state = threading.local()
#: Seconds that a slice of a queue is to take, at whose end Ctrl-C is answered; kernels of the first; by how much the next may be longer.
SLICE, _FIRST, _GROWTH = 0.05, 4, 50


class DataRaceError(RuntimeError):
    """Somebody used an array while kernels that use it waited in a queue; only checked queues notice it."""


def current():
    """Return the queue that this thread's calls of shared kernels are noted down in, or None."""
    return getattr(_state, "queue", None)


def queueable(function):
    """Declare that a function may be called in a queue: what it does to the numbers in its arrays, it does by shared kernels."""
    function.queueable = True
    return function


def is_queueable(function):
    """Return whether a function is declared as `queueable`."""
    return getattr(function, "queueable", False)


@contextmanager
def checked_queues():
    """Make queues that check their rule, for tests: all that this thread makes in the block."""
    outer, _state.checked = getattr(_state, "checked", False), True
    try:
        yield
    finally:
        _state.checked = outer


class Queue:
    """Kernels that wait to be run.

    Inside `with queue:` calls of shared kernels are noted down; `run` runs them. Until then nobody may look at what they write, nor write
    what they read, but by further such calls.

    Parameters
    ----------
    checked : bool, optional
        Whether to check this rule (`nplrp.jit.sanitizer`), which takes much longer than the kernels do. Default: inside `checked_queues()`.
    """

    def __init__(self, checked=None):
        self._calls, self._sanitizer = [], None
        _state.queue = None  # a pass that was interrupted may have left its own
        if getattr(_state, "checked", False) if checked is None else checked:
            from nplrp.jit.sanitizer import Sanitizer

            self._sanitizer = Sanitizer()

    def __enter__(self):
        _state.queue = self
        if self._sanitizer:
            self._sanitizer.enter(sys._getframe(1))
        return self

    def __exit__(self, *exception):
        _state.queue = None
        if self._sanitizer:
            self._sanitizer.enter(None)

    def add(self, nt, code, numbers, arguments):
        """Note down a call in `nt` parts; `arguments` are kept until it is done."""
        if self._sanitizer:
            self._sanitizer.note(code.function, arguments)
        self._calls.append((nt, code, numbers, arguments))

    def flush(self, function):
        """Run what waits, because `function` is called at once and returns something."""
        if self._sanitizer:
            self._sanitizer.check_caller(function)
        self.run()

    def run(self):
        """Run what waits.

        Raises
        ------
        MemoryError
            If a kernel got no memory for its buffers.
        DataRaceError
            If the queue is checked, and somebody used an array that he shouldn't have.
        """
        if not self._calls:
            return
        threads, openmp = max(nt for nt, *_ in self._calls), team.openmp()
        try:
            if self._sanitizer:
                self._sanitizer.release()
            if threads > 1 and openmp is None:  # a crew may be smaller than asked for: its threads don't wait for each other inside kernels
                for nt, code, numbers, _ in self._calls:
                    code.share(numbers, nt)
            else:
                self._run_in_team(threads, *(openmp[1:] if threads > 1 else (0, 0)))  # alone there is no team to ask
        finally:
            self._calls = []

    def _run_in_team(self, threads, number, size):
        from nplrp.jit.barrier import run_all

        blocks = [code.block(numbers) for _, code, numbers, _ in self._calls]
        calls = [(code.part_address, ctypes.addressof(block), nt) for (nt, code, *_), block in zip(self._calls, blocks, strict=True)]
        flat, begin, count = np.array(calls, np.int64).reshape(-1), 0, _FIRST
        with at_once(), team.exclusive():
            while begin < len(calls):  # in slices, since Ctrl-C waits for the end of native code
                started = time.perf_counter()
                part = flat[3 * begin : 3 * (begin + count)]
                run_all(threads, part, np.zeros(1, np.int64), number, size, team.yield_address())
                begin += count
                count = max(1, int(count * min(SLICE / max(time.perf_counter() - started, 1e-9), _GROWTH)))
        for (_, code, *_), block in zip(self._calls, blocks, strict=True):
            code.result(block)


@contextmanager
def at_once():
    """Run the block's calls of shared kernels at once, also where calls are being noted down."""
    outer, _state.queue = current(), None
    try:
        yield
    finally:
        _state.queue = outer
