"""Sums of millions of numbers, accurate to the last bit or so and the same for any number of threads.

Two accumulators a lane (the sum, and the rounding errors of the sum), `LANES` lanes a chunk of `CHUNK` numbers, all float64; lanes and then
chunks are combined in order. The error is that of one rounding, plus n 2^-106 times the sum of the magnitudes.

[OgRuOi05] Ogita, Rump, Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26(6), 2005: algorithms 4.4 (Sum2) and 5.3 (Dot2).
"""

import numpy as np

from nplrp.kernels.fma import fma
from nplrp.kernels.parallel import in_threads, kernel

LANES = 32
CHUNK = 16384
_PLAIN, _ABSOLUTE, _PRODUCT, _ABSOLUTE_PRODUCT = range(4)


def sum_of(x, nt=1):
    """Return the sum of all numbers of x as a float."""
    return float(_sums(x, x, _PLAIN, 1, nt)[0])


def sum_abs(x, nt=1):
    """Return the sum of |x| as a float."""
    return float(_sums(x, x, _ABSOLUTE, 1, nt)[0])


def sum_of_product(x, y, nt=1):
    """Return the sum of x y, of equal shapes, as a float; the products are exact too."""
    return float(_sums(x, y, _PRODUCT, 1, nt)[0])


def sum_abs_product(x, y, nt=1):
    """Return the sum of |x y| as a float."""
    return float(_sums(x, y, _ABSOLUTE_PRODUCT, 1, nt)[0])


def image_sums(x, nt=1):
    """Return the sums of x [n, ...] over all axes but the first: float64 [n]."""
    return _sums(x, x, _PLAIN, x.shape[0], nt)


def image_sums_abs(x, nt=1):
    """Return the sums of |x| over all axes but the first: float64 [n]."""
    return _sums(x, x, _ABSOLUTE, x.shape[0], nt)


def image_sums_of_product(x, y, nt=1):
    """Return the sums of x y over all axes but the first: float64 [n]."""
    return _sums(x, y, _PRODUCT, x.shape[0], nt)


def _sums(x, y, kind, rows, nt):
    columns = x.size // rows if rows else 0
    chunks = -(-columns // CHUNK)
    parts = np.zeros((rows, chunks, 2))
    in_threads(_chunk_sums, min(nt, chunks * rows), x.reshape(rows, columns), y.reshape(rows, columns), kind, parts)
    total = np.empty(rows)
    _combine(parts, total)
    return total


@kernel
def _chunk_sums(x, y, kind, parts, t, nt):
    """Do part t of nt of the chunks."""
    rows, chunks, _ = parts.shape
    for task in range(rows * chunks * t // nt, rows * chunks * (t + 1) // nt):
        r, q = task // chunks, task % chunks
        begin, end = q * CHUNK, min((q + 1) * CHUNK, x.shape[1])
        _chunk_sum(x[r, begin:end], y[r, begin:end], kind, parts[r, q])


@kernel
def _chunk_sum(x, y, kind, part):
    """Write the sum of up to CHUNK terms and its error to part [2]."""
    total, error = np.zeros(LANES), np.zeros(LANES)
    for begin in range(0, x.size, LANES):
        lanes = min(LANES, x.size - begin)
        if kind == _PLAIN:
            for i in range(lanes):
                total[i], error[i] = add_exactly(total[i], error[i], np.float64(x[begin + i]))
        elif kind == _ABSOLUTE:
            for i in range(lanes):
                total[i], error[i] = add_exactly(total[i], error[i], np.float64(abs(x[begin + i])))
        else:
            for i in range(lanes):
                a, b = np.float64(x[begin + i]), np.float64(y[begin + i])
                product = a * b
                rest = fma(a, b, -product)
                if kind == _ABSOLUTE_PRODUCT and product < 0:
                    product, rest = -product, -rest
                total[i], error[i] = add_exactly(total[i], error[i] + rest, product)
    for i in range(1, LANES):
        total[0], error[0] = add_exactly(total[0], error[0] + error[i], total[i])
    part[0], part[1] = total[0], error[0]


@kernel
def add_exactly(total, error, term):
    """Add a term to a sum and the exact rounding error to its error (Knuth's TwoSum)."""
    new = total + term
    back = new - total
    return new, error + ((total - (new - back)) + (term - back))


@kernel
def _combine(parts, out):
    for r in range(parts.shape[0]):
        total, error = 0.0, 0.0
        for q in range(parts.shape[1]):
            total, error = add_exactly(total, error + parts[r, q, 1], parts[r, q, 0])
        out[r] = total + error if np.isfinite(total) else total
