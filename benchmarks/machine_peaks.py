"""What the machine can do at most: fused multiply-adds out of registers and first-level cache, and bytes from memory."""

import time

import numba
import numpy as np

from nplrp.jit import in_threads
from nplrp.kernels.microkernel import BLOCK, MAX_ROWS, NEW, SLAB, multiply

#: Blocks of channels: A, B and C together take 15 to 20 KB of a first-level cache of 32 KB.
BLOCKS = 6
#: float32 numbers of each array: 128 MB, more than any cache here holds.
NUMBERS = 1 << 25


@numba.njit(nogil=True)
def _multiply_often(times, offsets, a, b, c, panel, t, nt):
    for _ in range(times):
        multiply(MAX_ROWS, SLAB, a[t], 0, 0, offsets, 0, len(offsets), BLOCK, b[t], 0, 0, panel, c[t], 0, NEW)


def _part(x, t, nt):
    return x[x.size * t // nt : x.size * (t + 1) // nt]


def _copy(a, b, t, nt):
    np.copyto(_part(a, t, nt), _part(b, t, nt))


def _add_up(b, t, nt):
    _part(b, t, nt).sum()


def fma_peak(threads, times=20_000):
    """Return the rate of the engine's own microkernel on data in the first-level cache, in FLOP/s (a multiply-add counts two)."""
    from nplrp.kernels.microkernel import PANEL_32

    offsets = np.arange(BLOCKS) * MAX_ROWS * BLOCK
    a, b, c = (np.zeros((threads, n), np.float32) for n in (BLOCKS * MAX_ROWS * BLOCK, BLOCKS * BLOCK * SLAB, MAX_ROWS * SLAB))
    panel = BLOCKS * BLOCK * PANEL_32
    in_threads(_multiply_often_with(times // 100, offsets, a, b, c, panel), threads)
    start = time.perf_counter()
    in_threads(_multiply_often_with(times, offsets, a, b, c, panel), threads)
    return threads * times * 2 * MAX_ROWS * SLAB * BLOCKS * BLOCK / (time.perf_counter() - start)


def _multiply_often_with(*args):
    return lambda t, nt: _multiply_often(*args, t, nt)


def memory_peak(threads, times=4):
    """Return the bandwidth of a copy (two streams) or of reading alone, whichever is larger, in bytes/s: NumPy's loops, best of `times`."""
    a, b = (np.ones(NUMBERS, np.float32) for _ in range(2))
    rates = []
    for function, args, streams in ((_copy, (a, b), 2), (_add_up, (b,), 1)):
        for _ in range(times):
            start = time.perf_counter()
            in_threads(function, threads, *args)
            rates.append(streams * a.nbytes / (time.perf_counter() - start))
    return max(rates)
