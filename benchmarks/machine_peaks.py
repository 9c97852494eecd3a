"""What the machine can do at most: fused multiply-adds out of registers and first-level cache, and bytes from memory."""

import time

import numba
import numpy as np

from nplrp.kernels.microkernel import BLOCK, MAX_ROWS, SLAB, multiply
from nplrp.kernels.parallel import in_threads

#: Blocks of channels: A, B and C together take 15 to 20 KB of a first-level cache of 32 KB.
BLOCKS = 6
#: float32 numbers of each array of the triad: 128 MB, more than any cache here holds.
NUMBERS = 1 << 25


@numba.njit(nogil=True)
def _multiply_often(times, offsets, a, b, c, panel, t, nt):
    for _ in range(times):
        multiply(MAX_ROWS, SLAB, a[t], 0, 0, offsets, 0, len(offsets), BLOCK, b[t], 0, 0, panel, c[t], 0)


@numba.njit(nogil=True)
def _triad(a, b, c, t, nt):
    for i in range(a.size * t // nt, a.size * (t + 1) // nt):
        a[i] = b[i] + np.float32(3) * c[i]


@numba.njit(nogil=True)
def _add_up(x, sums, t, nt):
    total = np.uint64(0)
    for i in range(x.size * t // nt, x.size * (t + 1) // nt):
        total += x[i]
    sums[t] = total


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


def memory_peak(threads):
    """Return the bandwidth of a triad (three streams, as STREAM counts) or of reading alone, whichever is larger, in bytes/s."""
    a, b, c = (np.ones(NUMBERS, np.float32) for _ in range(3))
    sums, rates = np.zeros(threads, np.uint64), []
    for function, args, streams in ((_triad, (a, b, c), 3), (_add_up, (b.view(np.uint64), sums), 1)):
        in_threads(function, threads, *args)
        start = time.perf_counter()
        in_threads(function, threads, *args)
        rates.append(streams * a.nbytes / (time.perf_counter() - start))
    return max(rates)
