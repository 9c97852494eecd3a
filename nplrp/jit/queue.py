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
        self._calls, self._sanitizer, self._ran = [], None, False
        _state.queue = None  # a pass that was interrupted may have left its own
        if getattr(_state, "checked", False) if checked is None else checked:
            from nplrp.jit.sanitizer import Sanitizer

            self._sanitizer = Sanitizer()

    @property
    def checked(self):
        """Whether it checks its rule."""
        return self._sanitizer is not None

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

    def run(self, keep=None):
        """Run what waits.

        Parameters
        ----------
        keep : sequence of ndarray, optional
            Return what was run as a `Program` for other such arrays.

        Returns
        -------
        Program or None
            None also if it isn't all that this queue was asked to run, or can't be run again so.

        Raises
        ------
        MemoryError
            If a kernel got no memory for its buffers.
        DataRaceError
            If the queue is checked, and somebody used an array that he shouldn't have.
        """
        alone, self._ran = not self._ran and self._sanitizer is None, True  # also with nothing to run: who asks wants to look at numbers
        if not self._calls:
            return None
        threads = max(nt for nt, *_ in self._calls)
        try:
            if self._sanitizer:
                self._sanitizer.release()
            if not runs_in_team(threads):  # a crew may be smaller than asked for: its threads don't wait for each other inside kernels
                for nt, code, numbers, _ in self._calls:
                    code.share(numbers, nt)
                return None
            calls = [(nt, code, code.block(numbers)) for nt, code, numbers, _ in self._calls]
            _run_in_team(threads, _addresses(calls))
            for _, code, block in calls:
                code.result(block)
            return Program(threads, calls, [arguments for *_, arguments in self._calls], keep) if alone and keep is not None else None
        finally:
            self._calls = []


def runs_in_team(threads):
    """Return whether one team of so many threads can run kernels one after the other."""
    return threads <= 1 or team.openmp() is not None


def _addresses(calls):
    """Return calls (nt, code, block) as `nplrp.jit.barrier.run_all` takes them."""
    return np.array([(code.part_address, ctypes.addressof(block), nt) for nt, code, block in calls], np.int64).reshape(-1)


def _run_in_team(threads, calls):
    from nplrp.jit.barrier import run_all

    number, size = team.openmp()[1:] if threads > 1 else (0, 0)  # alone there is no team to ask
    begin, count = 0, _FIRST
    with at_once(), team.exclusive():
        while 3 * begin < len(calls):  # in slices, since Ctrl-C waits for the end of native code
            started = time.perf_counter()
            part = calls[3 * begin : 3 * (begin + count)]
            run_all(threads, part, np.zeros(1, np.int64), number, size, team.yield_address())
            begin += count
            count = max(1, int(count * min(SLICE / max(time.perf_counter() - started, 1e-9), _GROWTH)))


class Program:
    """What a queue has run, to be run again without being noted down anew.

    What is noted down depends on shapes, threads and places in memory, never on numbers: nobody may look at these while kernels wait.
    So the same calls serve wherever the arrays are those of the first time, but for some that may lie elsewhere.

    Parameters
    ----------
    threads : int
    calls : list of (int, Code, block)
    arguments : list of tuples
        Of every call. Their arrays stay in memory, but for those that may lie elsewhere.
    inputs : sequence of ndarray
        The arrays that may lie elsewhere the next time: C-contiguous, and none of them freed while the calls were noted down.
    """

    def __init__(self, threads, calls, arguments, inputs):
        self._threads, self._calls, self._flat = threads, calls, _addresses(calls)
        spans = [(each.ctypes.data, each.nbytes) for each in inputs]
        self._moving = []  # (slot of a block, number of the input that it points into, how far)
        for _, code, block in calls:
            for slot in code.address_slots:
                number = ctypes.c_int64.from_buffer(block, 8 * slot)
                k = next((k for k, (start, size) in enumerate(spans) if start <= number.value < start + size), None)
                if k is not None:
                    self._moving.append((number, k, number.value - spans[k][0]))
        self._kept = {}
        moving = {id(_owner(each)) for each in inputs}
        _keep(arguments, moving, self._kept)

    def runs(self):
        """Return whether there is still a team to run it."""
        return runs_in_team(self._threads)

    def run(self, inputs):
        """Run all of it, on inputs of the same shapes and types as the first ones.

        Raises
        ------
        MemoryError
            If a kernel got no memory for its buffers.
        """
        places = [each.ctypes.data for each in inputs]
        for number, k, offset in self._moving:
            number.value = places[k] + offset
        _run_in_team(self._threads, self._flat)
        for _, code, block in self._calls:
            code.result(block)


def _owner(array):
    """Return the array that a view is of."""
    while isinstance(array.base, np.ndarray):
        array = array.base
    return array


def _keep(values, moving, found):
    """Collect by id the owners of arrays among arguments, also of those in tuples, but for those in `moving`."""
    for value in values:
        if isinstance(value, tuple):
            _keep(value, moving, found)
        elif isinstance(value, np.ndarray):
            owner = _owner(value)
            if id(owner) not in moving:
                found[id(owner)] = owner


@contextmanager
def at_once():
    """Run the block's calls of shared kernels at once, also where calls are being noted down."""
    outer, _state.queue = current(), None
    try:
        yield
    finally:
        _state.queue = outer
