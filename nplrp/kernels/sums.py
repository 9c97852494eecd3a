"""Sums of millions of numbers, accurate to the last bit or so and the same for any number of threads.

Two accumulators a lane (the sum, and the rounding errors of the sum), `LANES` lanes a chunk of `CHUNK` numbers, all float64; lanes and then
chunks are combined in order, the chunks by `math.fsum`. The error is that of one rounding, plus n 2^-106 times the sum of the magnitudes.

[OgRuOi05] Ogita, Rump, Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26(6), 2005: algorithms 4.4 (Sum2) and 5.3 (Dot2).
"""

import math

import numpy as np

from nplrp.jit import frozen, in_threads, kernel
from nplrp.kernels.fma import fma

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
    parts = np.empty((rows, chunks, 2))
    in_threads(_chunk_sums, min(nt, chunks * rows), frozen(x), frozen(y), kind, columns, parts)
    return np.array([_combine(row) for row in parts], np.float64)


def _combine(parts):
    """Return the sum of the chunks' sums and errors [chunks, 2], rounded once."""
    if np.isfinite(parts).all():
        return math.fsum(parts.ravel().tolist())
    return float(sum(parts[:, 0].tolist()))  # infinities have no rounding errors, and a NaN stays one


@kernel
def _chunk_sums(x, y, kind, columns, parts, t, nt):
    """Write sum and error of the terms of each chunk to parts [rows, chunks, 2], for the t-th part of all chunks."""
    rows, chunks, _ = parts.shape
    totals, errors = np.empty(LANES), np.empty(LANES)
    for task in range(rows * chunks * t // nt, rows * chunks * (t + 1) // nt):
        r, q = task // chunks, task % chunks
        for lane in range(LANES):
            totals[lane], errors[lane] = 0.0, 0.0
        end = r * columns + min((q + 1) * CHUNK, columns)
        for begin in range(r * columns + q * CHUNK, end, LANES):
            left, right = x[begin : min(begin + LANES, end)], y[begin : min(begin + LANES, end)]
            for i in range(left.size):
                a = np.float64(left[i])
                if kind <= _ABSOLUTE:
                    term, rest = abs(a) if kind == _ABSOLUTE else a, 0.0
                else:
                    b = np.float64(right[i])
                    term = a * b
                    rest = fma(a, b, -term)
                    if kind == _ABSOLUTE_PRODUCT and term < 0:
                        term, rest = -term, -rest
                totals[i], errors[i] = add_exactly(totals[i], errors[i] + rest, term)
        for lane in range(1, LANES):
            totals[0], errors[0] = add_exactly(totals[0], errors[0] + errors[lane], totals[lane])
        parts[r, q, 0], parts[r, q, 1] = totals[0], errors[0]


@kernel
def add_exactly(total, error, term):
    """Add a term to a sum and the exact rounding error to its error (Knuth's TwoSum)."""
    new = total + term
    back = new - total
    return new, error + ((total - (new - back)) + (term - back))
