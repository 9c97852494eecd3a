"""Weighted sums over rows and columns apart: resizing of images, and its transpose.

An output pixel is the sum over its rows i and columns j of (row weight i times column weight j) times the pixel there, row by row; the
first product begins the sum, and one without rows or columns is 0. Each side has a table: where the taps of every output begin, and places
and weights of all taps, one after the other. The transpose is the same with the tables of the transposed matrices.
"""

import numpy as np

from nplrp.jit import frozen, kernel, queueable, shared_kernel
from nplrp.kernels.elementwise import SMALL


def table(taps, dtype):
    """Return the table of a side from a list of (place, weight) for each output."""
    starts = np.cumsum([0, *map(len, taps)]).astype(np.int64)
    places = np.array([place for each in taps for place, _ in each], np.int64)
    weights = np.array([weight for each in taps for _, weight in each], dtype)
    return tuple(map(frozen, (starts, places, weights)))


@queueable
def separable(x, rows, columns, out, nt=1):
    """Write the weighted sums of x [n, h, w, c] to `out` [n, ho, wo, c]; `rows` and `columns` are tables."""
    many = nt if max(out.size, x.size) > SMALL else 1
    _separable(many, frozen(x), *x.shape, *rows, *columns, out.reshape(-1), *out.shape[1:3])


@kernel
def _add(x, start, c, weight, first, out, to):
    source, sums = x[start : start + c], out[to : to + c]
    if first:
        for i in range(c):
            sums[i] = weight * source[i]
    else:
        for i in range(c):
            sums[i] += weight * source[i]


@shared_kernel
def _separable(t, nt, x, n, h, w, c, row_starts, row_places, row_weights, starts, places, weights, out, ho, wo):
    for row in range(n * ho * t // nt, n * ho * (t + 1) // nt):
        image, y = row // ho, row % ho
        for q in range(wo):
            to, first = (row * wo + q) * c, True
            for i in range(row_starts[y], row_starts[y + 1]):
                line = (image * h + row_places[i]) * w
                for j in range(starts[q], starts[q + 1]):
                    _add(x, (line + places[j]) * c, c, row_weights[i] * weights[j], first, out, to)
                    first = False
            if first:
                for k in range(c):
                    out[to + k] = 0
