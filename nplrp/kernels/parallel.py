"""How every kernel of this folder is compiled, and the one lock that keeps parallel kernels from running at once."""

import functools
import os
import threading

import numba
from numba.core import config

from nplrp.kernels.jit_cache import KernelCache

#: Numba's workqueue layer, the only one that is always there, aborts the process on concurrent entry.
_lock = threading.RLock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_lock._at_fork_reinit)  # type: ignore[attr-defined]


def kernel(function):
    """Compile a serial kernel, cached on disk (`nplrp.kernels.jit_cache`): use it instead of ``numba.njit(cache=True)``."""
    return _compile(function, parallel=False)


def parallel_kernel(function):
    """Compile a kernel with `prange`, cached on disk; calls from several threads wait for each other.

    The result is a Python function: kernels don't call it, they call its serial parts.
    """
    compiled = _compile(function, parallel=True)

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


def _compile(function, parallel):
    if config.DISABLE_JIT:
        return function
    dispatcher = numba.njit(function, nogil=True, error_model="numpy", parallel=parallel)
    dispatcher._cache = KernelCache(function)
    return dispatcher
