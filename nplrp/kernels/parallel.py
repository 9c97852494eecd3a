"""How every kernel of this folder is compiled, and the one lock that keeps parallel kernels from running at once."""

import functools
import threading

import numba

#: Numba's workqueue layer, the only one that is always there, aborts the process on concurrent entry.
_lock = threading.RLock()


def kernel(function):
    """Compile a serial kernel, cached on disk."""
    return numba.njit(function, cache=True, nogil=True, error_model="numpy")


def parallel_kernel(function):
    """Compile a kernel with `prange`, cached on disk; calls from several threads wait for each other."""
    compiled = numba.njit(function, cache=True, nogil=True, error_model="numpy", parallel=True)

    @functools.wraps(function)
    def call(*args):
        with _lock:
            return compiled(*args)

    return call


def exclusive():
    """Return the process-wide lock as a context manager; a thread that holds it may take it again."""
    return _lock


def threads():
    """Return how many threads Numba would use now."""
    return numba.get_num_threads()
