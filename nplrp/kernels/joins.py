"""Where several arrays become one: weighted sums, maxima and minima, gates; and what carries relevance back through them.

Arrays are C-contiguous and of one dtype, float32 or float64; those that are joined have one shape. `nt` is a number of threads. `relu` is
True, False, or a number to clamp at, too.

Order of operations: a sum is w_0 a_0, then + w_i a_i for i ascending, every product and every sum rounded. A gate's own share of a
convolution-like sum is one chain of fused multiply-adds for every `RUN` pixels in row-major order, from 0; the chains are added one after
the other, from 0.
"""

import numpy as np

from nplrp.jit import frozen, kernel, queueable, shared_kernel
from nplrp.kernels.elementwise import PLUS, SMALL, denominator, stabiliser
from nplrp.kernels.fma import fma

#: Pixels whose products make a chain.
RUN = 128
_BLOCK = 1024  # numbers that stay in the first-level cache


@queueable
def sum_forward(arrays, weights, out, relu=False, nt=1):
    """Write f(sum of w_i a_i) to `out`, f the ReLU or nothing; NaN stays NaN, and an infinity that is cut off becomes one.

    Parameters
    ----------
    arrays : sequence of ndarray
        Two or more.
    weights : sequence of float
    out : ndarray
        May be the first array.
    relu : bool or float
    nt : int
    """
    number, total = out.dtype.type, arrays[0]
    for i, (a, w) in enumerate(zip(arrays[1:], weights[1:], strict=True), 2):
        low, high = (0 if relu else -np.inf, _top(relu)) if i == len(arrays) else (-np.inf, np.inf)
        _add(
            _few(nt, out),
            frozen(total),
            frozen(a),
            *map(number, (weights[0] if i == 2 else 1, w, low, high)),
            out.reshape(-1),
            total is out,
        )
        total = out


@queueable
def sum_transpose(s, weight, out, add=False, nt=1):
    """Write weight * s to `out`, or add it to what is there: the transpose for the input with this weight."""
    unused = s.reshape(-1)[:0]
    _share(
        _few(nt, s),
        *_division(s, None, PLUS, 0),
        frozen(unused),
        frozen(unused),
        s.dtype.type(weight),
        s.dtype.type(0),
        *_to(out, add, None),
    )


@queueable
def sum_transpose_times(s, arrays, weights, outs, add=None, nt=1):
    """Write a_i * (w_i * s) to each of `outs`, or add it to what is there where `add` says so: the relevance of each array.

    Parameters
    ----------
    s : ndarray
    arrays : sequence of ndarray
    weights : sequence of float
    outs : sequence of ndarray
        None of them may be s.
    add : sequence of bool, optional
        Default: nowhere.
    nt : int
    """
    _shares(_division(s, None, PLUS, 0), arrays, weights, outs, add, nt)


@queueable
def sum_relevance(R, z, kind, eps, arrays, weights, outs, add=None, nt=1):
    """Do the same with s = R / stabilise(z), 0 where a unit is dropped, without writing s: bit for bit as in two steps.

    Parameters
    ----------
    R, z : ndarray
    kind, eps
        As in `nplrp.kernels.elementwise.stabilise_divide`.
    arrays, weights, outs, add, nt
        As in `sum_transpose_times`; with more than two arrays none of `outs` may be R.
    """
    _shares(_division(R, z, kind, eps), arrays, weights, outs, add, nt)


@queueable
def accumulate(r, R, nt=1):
    """Add r to R."""
    _add(_few(nt, R), frozen(R), frozen(r), *map(R.dtype.type, (1, 1, -np.inf, np.inf)), R.reshape(-1), True)


@queueable
def extreme_forward(arrays, z, winner, lowest=False, nt=1):
    """Write the maximum (the minimum, if `lowest`) of 2 to 256 arrays to z and the index of its array to `winner`, uint8.

    The first of equal ones wins; a NaN wins over everything.
    """
    number = z.dtype.type(-1 if lowest else 1)
    for i, a in enumerate(arrays[1:], 1):
        _choose(_few(nt, z), frozen(arrays[0] if i == 1 else z), frozen(a), number, i, z.reshape(-1), winner.reshape(-1))


@queueable
def extreme_transpose(s, winner, index, out, add=False, nt=1):
    """Write s to `out`, or add it to what is there, where the array with this index has won, else 0."""
    _route(_few(nt, s), frozen(s), frozen(winner), index, bool(add), out.reshape(-1))


@queueable
def gate_forward(x, g, out, nt=1):
    """Write x [n, ..., c] * g [n, c] or [n, 1, ..., 1, c] to `out`; also the transpose, for x."""
    _multiply_rows(_few(nt, x), frozen(x), frozen(g), len(x), out.reshape(-1))


@queueable
def gate_transpose(s, x, out, nt=1):
    """Write the transpose of `gate_forward` for g to `out` [n, c] or [n, 1, ..., 1, c]: the sum of s * x over the pixels."""
    images, channels = len(x), x.shape[-1]
    pixels = x.size // max(1, images * channels)
    parts = np.empty((images, -(-pixels // RUN), channels), x.dtype)
    _sum_products(_few(nt, x), frozen(s), frozen(x), pixels, parts)
    _sum_parts(1, parts, out.reshape(images, channels))


def _few(nt, x):
    return nt if x.size > SMALL else 1


def _top(relu):
    return np.inf if isinstance(relu, (bool, np.bool_)) else relu


def _division(R, z, kind, eps):
    """Return R, z (R itself for no division), the numbers of a stabiliser, and whether to divide."""
    return frozen(R), frozen(R if z is None else z), stabiliser(kind, eps, R.dtype), z is not None


def _to(out, add, out2, add2=False):
    return out.reshape(-1), bool(add), (out[..., :0] if out2 is None else out2).reshape(-1), bool(add2)


def _shares(division, arrays, weights, outs, add, nt):
    add, number = add or [False] * len(outs), outs[0].dtype.type
    for i in range(0, len(outs), 2):
        two = i + 1 < len(outs)
        a, b = frozen(arrays[i]), frozen(arrays[i + 1] if two else arrays[i].reshape(-1)[:0])
        to = _to(outs[i], add[i], *((outs[i + 1], add[i + 1]) if two else (None,)))
        _share(_few(nt, outs[i]), *division, a, b, number(weights[i]), number(weights[i + 1] if two else 0), *to)


@kernel
def _clamped(v, low, high, zero):
    v = low + v * zero if v < low else v  # v * 0 makes a NaN of an infinity, which must not be lost
    return high + v * zero if v > high else v


@shared_kernel
def _add(t, nt, a, b, wa, wb, low, high, out, in_place):
    zero = out.dtype.type(0)
    first, last = out.size * t // nt, out.size * (t + 1) // nt
    a, b, out = a[first:last], b[first:last], out[first:last]
    if in_place:  # LLVM makes no vectors of a loop in which `a` may be `out`
        for i in range(out.size):
            out[i] = _clamped(wa * out[i] + wb * b[i], low, high, zero)
    else:
        for i in range(out.size):
            out[i] = _clamped(wa * a[i] + wb * b[i], low, high, zero)


@kernel
def _give(s, a, weight, out, add):
    """Write a * (weight * s) or (without a) weight * s to `out`, or add it."""
    if add and a.size:
        for i in range(s.size):
            out[i] += a[i] * (weight * s[i])
    elif add:
        for i in range(s.size):
            out[i] += weight * s[i]
    elif a.size:
        for i in range(s.size):
            out[i] = a[i] * (weight * s[i])
    else:
        for i in range(s.size):
            out[i] = weight * s[i]


@shared_kernel
def _share(t, nt, R, z, numbers, divide, a, b, wa, wb, out, add, out2, add2):
    below, lowest, highest, at_zero, above, least, drop = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    some = np.empty(_BLOCK, R.dtype)
    for begin in range(R.size * t // nt, R.size * (t + 1) // nt, _BLOCK):
        end = min(begin + _BLOCK, R.size * (t + 1) // nt)
        s, relevance, output = some[: end - begin], R[begin:end], z[begin:end]
        if not divide:
            for i in range(s.size):
                s[i] = relevance[i]
        elif drop:
            for i in range(s.size):
                d = denominator(output[i], below, lowest, highest, at_zero, above, least)
                q = relevance[i] / d
                s[i] = d if d == 0 else q
        else:
            for i in range(s.size):
                s[i] = relevance[i] / denominator(output[i], below, lowest, highest, at_zero, above, least)
        _give(s, a[begin:end], wa, out[begin:end], add)
        if out2.size:
            _give(s, b[begin:end], wb, out2[begin:end], add2)


@shared_kernel
def _choose(t, nt, a, b, sign, index, z, winner):
    first, last = z.size * t // nt, z.size * (t + 1) // nt
    a, b, z, winner = a[first:last], b[first:last], z[first:last], winner[first:last]
    if index == 1:
        for i in range(z.size):
            u, v = a[i], b[i]
            better = not (sign * v <= sign * u) and u == u
            z[i] = v if better else u
            winner[i] = 1 if better else 0
    else:  # `a` is z
        for i in range(z.size):
            u, v = z[i], b[i]
            better = not (sign * v <= sign * u) and u == u
            z[i] = v if better else u
            winner[i] = index if better else winner[i]


@shared_kernel
def _route(t, nt, s, winner, index, add, out):
    zero = out.dtype.type(0)
    first, last = out.size * t // nt, out.size * (t + 1) // nt
    s, winner, out = s[first:last], winner[first:last], out[first:last]
    if add:
        for i in range(out.size):
            out[i] += s[i] if winner[i] == index else zero
    else:
        for i in range(out.size):
            out[i] = s[i] if winner[i] == index else zero


@shared_kernel
def _multiply_rows(t, nt, x, g, images, out):
    width = g.size // images if images else 0
    rows = x.size // width if width else 0
    for r in range(rows * t // nt, rows * (t + 1) // nt):
        image = r // (rows // images)
        row, gate, to = x[r * width : (r + 1) * width], g[image * width : (image + 1) * width], out[r * width : (r + 1) * width]
        for i in range(width):
            to[i] = row[i] * gate[i]


@shared_kernel
def _sum_products(t, nt, s, x, pixels, parts):
    """Write the chain of each `RUN` pixels to parts [images, chains, channels]."""
    images, chains, width = parts.shape
    for task in range(images * chains * t // nt, images * chains * (t + 1) // nt):
        image, chain = task // chains, task % chains
        total = parts[image, chain]
        total[:] = 0
        for pixel in range(chain * RUN, min((chain + 1) * RUN, pixels)):
            at = (image * pixels + pixel) * width
            u, v = s[at : at + width], x[at : at + width]
            for i in range(width):
                total[i] = fma(u[i], v[i], total[i])


@shared_kernel
def _sum_parts(t, nt, parts, out):
    """Add up the chains, one after the other."""
    for image in range(parts.shape[0] * t // nt, parts.shape[0] * (t + 1) // nt):
        total = out[image]
        total[:] = 0
        for chain in range(parts.shape[1]):
            for i in range(total.size):
                total[i] += parts[image, chain, i]
