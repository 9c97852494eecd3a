"""The threads that share a kernel's work.

A team is one of OpenMP's where GNU's library for it is installed: it wakes in microseconds. Python threads do the same elsewhere, in a
process that was forked off (OpenMP would wait there for threads that are gone), and if NUMBA_THREADING_LAYER names another layer than omp.
Compiled code doesn't hold the interpreter's lock.
"""

import ctypes
import functools
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

#: Held while a team works: further callers wait, instead of sharing the cores with it.
lock = threading.RLock()
_orphaned = threading.Event()  # set in a process that was forked off one with a team of OpenMP's


@functools.cache
def openmp():
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


@functools.cache
def pool(count):
    """Return `count` Python threads that take the place of OpenMP's."""
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


def exclusive():
    """Return the lock that a team holds, as a context manager; a thread that holds it may take it again."""
    return lock


def _forked():
    lock._at_fork_reinit()
    if openmp.cache_info().currsize:
        _orphaned.set()
    openmp.cache_clear()
    pool.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
