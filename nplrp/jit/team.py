"""The threads that share a kernel's work.

A team is one of OpenMP's where GNU's library for it is installed: it wakes in microseconds. Threads of our own (`nplrp.jit.crew`) do the
same elsewhere, in a process that was forked off (OpenMP would wait there for threads that are gone), and if NUMBA_THREADING_LAYER names
another layer than omp. Compiled code doesn't hold the interpreter's lock.

A fork waits until no other thread of ours works or loads: what that has begun would stay half done in the child, its locks held for ever.
"""

import ctypes
import functools
import os
import sys
import threading
from typing import Any

#: Held while a team works: further callers wait, instead of sharing the cores with it.
lock = threading.RLock()
#: Held while code is compiled, or brought into memory: LLVM and Numba let one thread at a time do so anyway.
loading = threading.RLock()
_forking: list[Any] = []  # what a fork that is under way holds
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
def yield_address():
    """Return the address of the C library's sched_yield, or 0."""
    try:
        return ctypes.cast(ctypes.CDLL(None).sched_yield, ctypes.c_void_p).value or 0
    except (OSError, TypeError, AttributeError):
        return 0


def threads():
    """Return how many threads a team has: what `numba.set_num_threads` or NUMBA_NUM_THREADS said, else one for each core."""
    numba = sys.modules.get("numba.np.ufunc.parallel")
    if numba is not None and numba._is_initialized:
        return numba.get_num_threads()
    given = os.environ.get("NUMBA_NUM_THREADS", "")
    return int(given) if given.isascii() and given.isdigit() and len(given) < 5 and int(given) > 0 else cores()


@functools.cache
def cores():
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def exclusive():
    """Return the lock that a team holds, as a context manager; a thread that holds it may take it again."""
    return lock


#: Seconds that a fork waits for other threads: one that compiles may need as long.
_FORK_WAITS = 60


def _held_by_forks():
    """Return the locks that no other thread of ours may hold when a process is forked.

    LLVM's is llvmlite's own: code that is let go is freed by whichever thread the garbage collector runs in.
    """
    llvm = getattr(getattr(sys.modules.get("llvmlite.binding.ffi"), "lib", None), "_lock", None)
    inner = getattr(llvm, "_lock", None)
    return (lock, loading, inner) if hasattr(inner, "_at_fork_reinit") else (lock, loading)


def _before_fork():
    _forking[:] = [each for each in _held_by_forks() if each.acquire(timeout=_FORK_WAITS)]


def _after_fork():
    while _forking:
        _forking.pop().release()


def _forked():
    _forking.clear()
    for each in _held_by_forks():
        each._at_fork_reinit()
    if openmp.cache_info().currsize:
        _orphaned.set()
    openmp.cache_clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_before_fork, after_in_parent=_after_fork, after_in_child=_forked)
