"""Copies of boxes between arrays of different sizes, and nearest neighbours: numbers that only change their place.

Arrays are C-contiguous and of one dtype; `nt` is a number of threads.
"""

from nplrp.jit import frozen, kernel, queueable, shared_kernel
from nplrp.kernels.elementwise import SMALL


@queueable
def copy_box(x, out, down, right, fill, nt=1):
    """Copy x to out, shifted: out[i, y, q] = x[i, y - down, q - right], wherever both are.

    Parameters
    ----------
    x : ndarray [n, h, w]
        For an image w counts numbers, pixels times channels.
    out : ndarray [n, ho, wo]
    down, right : int
        Negative to cut off what comes first.
    fill : bool
        Write zeros to the rest of `out`; else leave it as it is.
    """
    _copy_box(nt if out.size > SMALL else 1, frozen(x), *x.shape, down, right, bool(fill), out.reshape(-1), *out.shape[1:])


@queueable
def repeat(x, rows, columns, out, nt=1):
    """Write every pixel of x [n, h, w, c] to a block of rows x columns pixels of `out` [n, h * rows, w * columns, c]."""
    _repeat(nt if out.size > SMALL else 1, frozen(x), *x.shape, rows, columns, out.reshape(-1))


@queueable
def repeat_transpose(s, rows, columns, c, nt=1):
    """Write to c [n, h, w, c] the sum of every block of rows x columns pixels of s, in row-major order, from 0."""
    _repeat_transpose(nt if s.size > SMALL else 1, frozen(s), *c.shape, rows, columns, c.reshape(-1))


@kernel
def _zero(out):
    for i in range(out.size):
        out[i] = 0


@shared_kernel
def _copy_box(t, nt, x, n, h, w, down, right, fill, out, ho, wo):
    first, last = min(max(0, right), wo), max(0, min(wo, w + right))
    last = max(first, last)
    for row in range(n * ho * t // nt, n * ho * (t + 1) // nt):
        i, y = row // ho, row % ho - down
        to = out[row * wo : (row + 1) * wo]
        if 0 <= y < h:
            start = (i * h + y) * w - right + first
            source, middle = x[start : start + last - first], to[first:last]
            for q in range(middle.size):
                middle[q] = source[q]
            if fill:
                _zero(to[:first])
                _zero(to[last:])
        elif fill:
            _zero(to)


@shared_kernel
def _repeat(t, nt, x, n, h, w, c, rows, columns, out):
    width = w * columns * c
    for row in range(n * h * t // nt, n * h * (t + 1) // nt):
        first = out[row * rows * width : (row * rows + 1) * width]
        for q in range(w):
            source = x[(row * w + q) * c : (row * w + q + 1) * c]
            for k in range(columns):
                to = first[(q * columns + k) * c : (q * columns + k + 1) * c]
                for i in range(c):
                    to[i] = source[i]
        for k in range(1, rows):
            to = out[(row * rows + k) * width : (row * rows + k + 1) * width]
            for i in range(width):
                to[i] = first[i]


@shared_kernel
def _repeat_transpose(t, nt, s, n, h, w, c, rows, columns, out):
    width = w * columns * c
    for row in range(n * h * t // nt, n * h * (t + 1) // nt):
        for q in range(w):
            to = out[(row * w + q) * c : (row * w + q + 1) * c]
            _zero(to)
            for k in range(rows):
                for j in range(columns):
                    start = (row * rows + k) * width + (q * columns + j) * c
                    source = s[start : start + c]
                    for i in range(c):
                        to[i] += source[i]
