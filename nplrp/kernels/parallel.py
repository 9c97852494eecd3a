"""How every kernel of this folder is compiled, and the one lock that keeps parallel kernels from running at once."""

import functools
import os
import threading
from concurrent.futures import ThreadPoolExecutor

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


def in_threads(part, nt, *args):
    """Call a serial kernel as part(*args, t, nt) for every t < nt, in nt Python threads.

    For what is too seldom called, or too long, to be worth the second that a `parallel_kernel` takes to compile: a call costs
    0.1 ms instead of 4 us. No layer of Numba's is involved, hence no lock.
    """
    if nt <= 1:
        part(*args, 0, 1)
        return
    with ThreadPoolExecutor(nt - 1) as pool:
        others = [pool.submit(part, *args, t, nt) for t in range(1, nt)]
        part(*args, 0, nt)
        for other in others:
            other.result()


def exclusive():
    """Return the process-wide lock as a context manager; a thread that holds it may take it again."""
    return _lock


def threads():
    """Return how many threads Numba would use now."""
    return numba.get_num_threads()


def _compile(function, parallel):
    if config.DISABLE_JIT:
        return function
    if parallel:  # only what `prange` says: the search for more costs seconds of compile time
        parallel = dict.fromkeys(("comprehension", "reduction", "inplace_binop", "setitem", "numpy", "stencil", "fusion"), False)
        parallel["prange"] = True
    dispatcher = numba.njit(function, nogil=True, error_model="numpy", parallel=parallel)
    dispatcher._cache = KernelCache(function)
    return dispatcher
