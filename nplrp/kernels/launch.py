"""How compiled code is called: by one thread, or by a team whose threads share the parts of a kernel's work.

A team is one of OpenMP's where GNU's library for it is installed: it wakes in microseconds. Python threads do the same elsewhere, in a
process that was forked off (OpenMP would wait there for threads that are gone), and if NUMBA_THREADING_LAYER names another layer than omp.
Compiled code doesn't hold the interpreter's lock.
"""

import ctypes
import functools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor, wait

from nplrp.kernels.arguments import FAILED, FLOAT, RESULT, STATUS, WHOLE, layout
from nplrp.kernels.target import link

#: Held while a team works: further callers wait, instead of sharing the cores with it.
lock = threading.RLock()
_orphaned = threading.Event()  # set in a process that was forked off one with a team of OpenMP's


class Code:
    """Compiled code for one type of arguments.

    Parameters
    ----------
    code : bytes
        From `nplrp.kernels.compiling`.
    kinds : tuple
        The types, from `nplrp.kernels.arguments.describe`.

    Raises
    ------
    RuntimeError
        If `code` can't be linked.
    """

    def __init__(self, code, kinds):
        self._layout = layout(kinds)
        self._library, (part, self._team) = link(code, ("part", "team"))
        self.part_address = part
        self._part = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_int64, ctypes.c_int64)(part)

    def call(self, numbers, t=0, nt=1):
        """Do part t of nt with arguments described by `numbers`; return what the kernel returns."""
        block = self.block(numbers)
        self._part(block, t, nt)
        return self.result(block)

    def share(self, numbers, nt):
        """Do all parts at once."""
        with lock:
            openmp = _openmp()
            if openmp is None:
                block = self.block(numbers)
                others = [_threads(nt - 1).submit(self._part, block, t, nt) for t in range(1, nt)]
                self._part(block, 0, nt)
                wait(others)
            else:
                start, number, size = openmp
                block = self.block(numbers, nt, number, size)
                start(self._team, block, nt, 0)
        return self.result(block)

    def block(self, numbers, nt=0, number=0, size=0):
        """Return a block of memory with the arguments; the rest is for a team of OpenMP's."""
        return ctypes.create_string_buffer(self._layout.pack(0, 0, nt, number, size, *numbers), self._layout.size)

    @staticmethod
    def result(block):
        """Return what the kernel has left in a block.

        Raises
        ------
        MemoryError
        """
        status = ctypes.c_int64.from_buffer(block, 8 * STATUS).value
        if status == FAILED:
            raise MemoryError("no memory for a kernel's buffers")
        kind = {WHOLE: ctypes.c_int64, FLOAT: ctypes.c_double}.get(status)
        return kind and kind.from_buffer(block, 8 * RESULT).value


@functools.cache
def _openmp():
    """Return GOMP_parallel and the addresses of omp_get_thread_num and omp_get_num_threads, or None."""
    if _orphaned.is_set() or os.environ.get("NUMBA_THREADING_LAYER", "omp") not in ("omp", "default"):
        return None
    try:
        library = ctypes.CDLL("libgomp.so.1")
        start = library.GOMP_parallel
        number, size = (ctypes.cast(library[name], ctypes.c_void_p).value for name in ("omp_get_thread_num", "omp_get_num_threads"))
    except (OSError, AttributeError):
        return None
    start.argtypes, start.restype = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint, ctypes.c_uint], None
    return start, number, size


def team_functions():
    """Return the addresses of omp_get_thread_num and omp_get_num_threads, 0 and 0 without OpenMP."""
    return _openmp()[1:] if _openmp() else (0, 0)


@functools.cache
def _threads(count):
    return ThreadPoolExecutor(count, "nplrp")


def threads():
    """Return how many threads a team has: what `numba.set_num_threads` or NUMBA_NUM_THREADS said, else one for each core."""
    numba = sys.modules.get("numba.np.ufunc.parallel")
    if numba is not None and numba._is_initialized:
        return numba.get_num_threads()
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(given) if given.isdigit() and int(given) > 0 else cores()


@functools.cache
def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _forked():
    lock._at_fork_reinit()
    if _openmp.cache_info().currsize:
        _orphaned.set()
    _openmp.cache_clear()
    _threads.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
