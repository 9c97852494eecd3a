"""Max and average pooling, their transposes, and the fused steps of LRP around a max-pool.

Arrays are NHWC. A window of kh x kw moves by (sh, sw) over an image with `top` rows and `left` columns before it; what lies outside
never wins a maximum and isn't counted in a mean. A winner is i * kw + j, of dtype `winner_dtype(kh, kw)`.
"""

import numpy as np

from nplrp.kernels.elementwise import denominator, stabiliser
from nplrp.kernels.parallel import kernel


def winner_dtype(kh, kw):
    """Return the dtype of winners and tie labels: uint8 for windows of up to 256 positions, else int32 (global pooling)."""
    return np.uint8 if kh * kw <= 256 else np.int32


def no_labels(kh, kw):
    """Return the array to pass as `labels` when `use_labels` is false."""
    return np.empty((0, 0, 0, 0), winner_dtype(kh, kw))


@kernel
def _max_forward(x, kh, kw, sh, sw, top, left, z, winner, labels, use_labels):
    n, h, w, channels = x.shape
    for b in range(n):
        for r in range(z.shape[1]):
            for q in range(z.shape[2]):
                for k in range(channels):
                    found, best, at = False, x.dtype.type(0), 0
                    for i in range(kh):
                        for j in range(kw):
                            y, u = r * sh + i - top, q * sw + j - left
                            if y < 0 or y >= h or u < 0 or u >= w:
                                continue
                            p = i * kw + j
                            if use_labels:
                                first = np.int64(labels[b, r, q, p])
                                y, u = r * sh + first // kw - top, q * sw + first % kw - left
                            v = x[b, y, u, k]
                            if not found or v > best or (v != v and best == best):
                                found, best, at = True, v, p
                    z[b, r, q, k] = best
                    winner[b, r, q, k] = at


@kernel
def _max_transpose(s, winner, kh, kw, sh, sw, top, left, c):
    c[...] = 0
    for b in range(c.shape[0]):
        for r in range(s.shape[1]):
            for q in range(s.shape[2]):
                for k in range(c.shape[3]):
                    p = np.int64(winner[b, r, q, k])
                    c[b, r * sh + p // kw - top, q * sw + p % kw - left, k] += s[b, r, q, k]


@kernel
def _avg_forward(x, kh, kw, sh, sw, top, left, z):
    n, h, w, channels = x.shape
    for b in range(n):
        for r in range(z.shape[1]):
            for q in range(z.shape[2]):
                y0, y1 = max(r * sh - top, 0), min(r * sh - top + kh, h)
                u0, u1 = max(q * sw - left, 0), min(q * sw - left + kw, w)
                count = x.dtype.type((y1 - y0) * (u1 - u0))
                for k in range(channels):
                    total = x.dtype.type(0)
                    for y in range(y0, y1):
                        for u in range(u0, u1):
                            total += x[b, y, u, k]
                    z[b, r, q, k] = total / count


@kernel
def _avg_transpose(s, kh, kw, sh, sw, top, left, c):
    n, h, w, channels = c.shape
    c[...] = 0
    for b in range(n):
        for r in range(s.shape[1]):
            for q in range(s.shape[2]):
                y0, y1 = max(r * sh - top, 0), min(r * sh - top + kh, h)
                u0, u1 = max(q * sw - left, 0), min(q * sw - left + kw, w)
                count = c.dtype.type((y1 - y0) * (u1 - u0))
                for y in range(y0, y1):
                    for u in range(u0, u1):
                        for k in range(channels):
                            c[b, y, u, k] += s[b, r, q, k] / count


@kernel
def _times(a, out):
    for i in range(a.size):
        out[i] = a[i] * out[i]


@kernel
def _ratio(z, numbers, out):
    for i in range(z.size):
        d = denominator(z[i], numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5])
        out[i] = d if d == 0 and numbers[6] else out[i] / d


def max_forward(x, kh, kw, sh, sw, top, left, z, winner, labels, use_labels, nt=1):
    """Write the maximum of every window of x [n, h, w, c] to z and its position to `winner`, both [n, ho, wo, c].

    The first maximum in row-major order wins; a NaN wins over everything. With `use_labels`, position p of a window counts with the
    value at position labels[n, ho, wo, p] (see `nplrp.kernels.ties`).
    """
    _max_forward(x, kh, kw, sh, sw, top, left, z, winner, labels, use_labels)


def max_transpose(s, winner, kh, kw, sh, sw, top, left, c, nt=1):
    """Write to c [n, h, w, c] the sum of the s [n, ho, wo, c] that each position won, windows in row-major order, 0 elsewhere."""
    _max_transpose(s, winner, kh, kw, sh, sw, top, left, c)


def max_transpose_times(s, winner, kh, kw, sh, sw, top, left, a, out, nt=1):
    """Write a * max_transpose(s) to `out`: R of the layer below, bit for bit as in two steps."""
    _max_transpose(s, winner, kh, kw, sh, sw, top, left, out)
    _times(a.reshape(-1), out.reshape(-1))


def max_transpose_ratio(s, winner, kh, kw, sh, sw, top, left, a, z, kind, eps, out, nt=1):
    """Write a * max_transpose(s) / stabilise(z) to `out`: s of the layer below, bit for bit as in three steps."""
    _max_transpose(s, winner, kh, kw, sh, sw, top, left, out)
    _times(a.reshape(-1), out.reshape(-1))
    _ratio(z.reshape(-1), stabiliser(kind, eps, z.dtype), out.reshape(-1))


def avg_forward(x, kh, kw, sh, sw, top, left, z, nt=1):
    """Write the mean over the part of every window that lies inside the image to z [n, ho, wo, c]; summed in row-major order."""
    _avg_forward(x, kh, kw, sh, sw, top, left, z)


def avg_transpose(s, kh, kw, sh, sw, top, left, c, nt=1):
    """Write the transpose of `avg_forward` to c [n, h, w, c]: sums of s / count, windows in row-major order."""
    _avg_transpose(s, kh, kw, sh, sw, top, left, c)
