"""What happens to every number on its own: ReLU, bias, products, and the stabilised division of LRP.

Arrays are C-contiguous and of any shape, all float32 or all float64; `out` may be one of the inputs. `nt` is a number of threads.
"""

import numpy as np

from nplrp.jit import frozen, kernel, queueable, shared_kernel

# What LRP implementations put below R, by what they do to z (sgn(0) = +1). "Dropped": the unit passes nothing on.
PLUS = 0  #: z + eps
SIGN = 1  #: z + eps sgn(z)
ZERO_REPLACE = 2  #: z, or eps where z = 0
SIGN_ZERO_SKIP = 3  #: z + eps sgn(z); where z = 0, R passes undivided
SIGN_ZERO_DROP = 4  #: z + eps sgn(z); dropped where z = 0
GUARD = 5  #: z; dropped unless z > 0
NONE_DROP = 6  #: z; dropped where z = 0
SPLIT = 7  #: z + eps sgn(z); where z = 0, 1e-6 in float32 and 1e-15 in float64
CLIP = 8  #: sgn(z) max(|z|, eps)

#: Numbers below which a call isn't worth a second thread.
SMALL = 16384


def stabiliser(kind, eps, dtype):
    """Return a stabiliser as the seven numbers that `denominator` takes, an array of `dtype`.

    Below zero z becomes z + below, held between lowest and highest; above zero z + above, at least `least`; zero becomes at_zero.
    The last number is 1 if a unit whose denominator is 0 is dropped.
    """
    inf, tiny = np.inf, 1e-6 if np.dtype(dtype) == np.float32 else 1e-15
    below, lowest, highest, at_zero, above, least, drop = {
        PLUS: (eps, -inf, inf, eps, eps, -inf, 0),
        SIGN: (-eps, -inf, inf, eps, eps, -inf, 0),
        ZERO_REPLACE: (0, -inf, inf, eps, 0, -inf, 0),
        SIGN_ZERO_SKIP: (-eps, -inf, inf, 1, eps, -inf, 0),
        SIGN_ZERO_DROP: (-eps, -inf, inf, 0, eps, -inf, 1),
        GUARD: (0, 0, 0, 0, 0, -inf, 1),
        NONE_DROP: (0, -inf, inf, 0, 0, -inf, 1),
        SPLIT: (-eps, -inf, inf, tiny, eps, -inf, 0),
        CLIP: (0, -inf, -eps, eps, 0, eps, 0),
    }[kind]
    return np.array([below, lowest, highest, at_zero, above, least, drop], dtype)


@kernel
def denominator(z, below, lowest, highest, at_zero, above, least):
    """Return the stabilised z; NaN stays NaN. No branches: what is chosen between is cheap."""
    negative = z < 0
    d = z + (below if negative else above)
    low = lowest if negative else least
    d = low if d < low else d
    d = highest if negative and d > highest else d
    return at_zero if z == 0 else d


@queueable
def relu(x, out, nt=1):
    """Write max(x, 0) to `out`; NaN stays NaN, and an infinity of either sign stays one or becomes NaN."""
    _run(_clamp, nt, [x], out, x.dtype.type(0), x.dtype.type(np.inf))


@queueable
def positive_part(x, out, nt=1):
    """Write max(x, 0) to `out`."""
    relu(x, out, nt)


@queueable
def negative_part(x, out, nt=1):
    """Write min(x, 0) to `out`; NaN and infinities as in `relu`."""
    _run(_clamp, nt, [x], out, x.dtype.type(-np.inf), x.dtype.type(0))


@queueable
def multiply(a, c, out, nt=1):
    """Write a * c to `out`."""
    _run(_multiply, nt, [a, c], out, False)


@queueable
def add(a, b, out, nt=1):
    """Write a + b to `out`."""
    _run(_add, nt, [a, b], out)


@queueable
def add_scaled(a, weight, out, accumulate, nt=1):
    """Write weight * a to `out`, or add it to what is there: two roundings."""
    _run(_add_scaled, nt, [a], out, a.dtype.type(weight), bool(accumulate))


@queueable
def multiply_scaled(a, s, weight, out, accumulate, nt=1):
    """Write a * (weight * s) to `out`, or add it to what is there: a rounding for each operation."""
    _run(_multiply_scaled, nt, [a, s], out, a.dtype.type(weight), bool(accumulate))


@queueable
def multiply_add(a, c, out, nt=1):
    """Add a * c to `out`: two roundings, as in the formula."""
    _run(_multiply, nt, [a, c], out, True)


@queueable
def copy(x, out, nt=1):
    """Write x to `out`: by the kernel that clamps, lest there be another one to compile."""
    _run(_clamp, nt, [x], out, x.dtype.type(-np.inf), x.dtype.type(np.inf))


@queueable
def stabilise(z, kind, eps, out, nt=1):
    """Write the stabilised z to `out`; where a unit is dropped, 0."""
    _run(_divide, nt, [z, z], out, stabiliser(kind, eps, z.dtype), z.dtype.type(1), False)


@queueable
def stabilise_divide(R, z, kind, eps, weight, out, nt=1):
    """Write s = (weight * R) / stabilise(z) to `out`, 0 where a unit is dropped."""
    _run(_divide, nt, [R, z], out, stabiliser(kind, eps, z.dtype), z.dtype.type(weight), True)


@queueable
def affine(x, g, h, out, nt=1, relu=False):
    """Write x [..., c] * g [c] + h [c] to `out`, clamped at 0 if `relu`: two roundings."""
    _affine_rows(x, g, h, bool(relu), out, nt)


@queueable
def multiply_rows(a, s, g, out, accumulate, nt=1):
    """Write a * (g [c] * s [..., c]) to `out`, or add it to what is there: a rounding for each operation."""
    _multiply_rows(nt if a.size > SMALL else 1, frozen(a), frozen(s), frozen(g), out.reshape(-1), bool(accumulate))


@queueable
def add_bias(z, b, relu_flag, nt=1):
    """Add b [c] to z [..., c] in place, and clamp at 0 if `relu_flag`."""
    _affine_rows(z, np.ones_like(b), b, bool(relu_flag), z, nt)


@queueable
def leaky(x, alpha, out, slope, nt=1):
    """Write to `slope` 1 where x >= 0, else alpha, which repeats along x; and x times that to `out`. A NaN stays one."""
    _leaky(nt if x.size > SMALL else 1, frozen(x), frozen(alpha), out.reshape(-1), slope.reshape(-1))


def first_nonfinite(x, nt=1):
    """Return the flat index of the first NaN or infinity, or -1."""
    found = np.full(max(nt, 1), -1, np.int64)
    _run(_find_nonfinite, nt, [x], found)
    found = found[found >= 0]
    return int(found[0]) if len(found) else -1


def _run(share, nt, inputs, out, *rest):
    share(nt if inputs[0].size > SMALL else 1, *map(frozen, inputs), out.reshape(-1), *rest)


def _affine_rows(x, g, h, clamp, out, nt):
    _affine(nt if x.size > SMALL else 1, frozen(x), frozen(g), frozen(h), clamp, out.reshape(-1))


@kernel
def _part(x, t, nt):
    """Return part t of nt of a flat array. Loops over such a part start at 0, which LLVM needs to vectorise them."""
    return x[x.size * t // nt : x.size * (t + 1) // nt]


@shared_kernel
def _clamp(t, nt, x, out, low, high):
    x, out, zero = _part(x, t, nt), _part(out, t, nt), x.dtype.type(0)
    for i in range(x.size):
        v = x[i]
        v = low + v * zero if v < low else v  # v * 0 makes a NaN of an infinity, which must not be lost
        out[i] = high + v * zero if v > high else v


@shared_kernel
def _multiply(t, nt, a, c, out, add):
    a, c, out = _part(a, t, nt), _part(c, t, nt), _part(out, t, nt)
    if add:
        for i in range(a.size):
            out[i] += a[i] * c[i]
    else:
        for i in range(a.size):
            out[i] = a[i] * c[i]


@shared_kernel
def _add(t, nt, a, b, out):
    a, b, out = _part(a, t, nt), _part(b, t, nt), _part(out, t, nt)
    for i in range(a.size):
        out[i] = a[i] + b[i]


@shared_kernel
def _add_scaled(t, nt, a, out, weight, accumulate):
    a, out = _part(a, t, nt), _part(out, t, nt)
    if accumulate:
        for i in range(a.size):
            out[i] = out[i] + weight * a[i]
    else:
        for i in range(a.size):
            out[i] = weight * a[i]


@shared_kernel
def _multiply_scaled(t, nt, a, s, out, weight, accumulate):
    a, s, out = _part(a, t, nt), _part(s, t, nt), _part(out, t, nt)
    if accumulate:
        for i in range(a.size):
            out[i] = out[i] + a[i] * (weight * s[i])
    else:
        for i in range(a.size):
            out[i] = a[i] * (weight * s[i])


@shared_kernel
def _divide(t, nt, R, z, out, numbers, weight, divide):
    below, lowest, highest, at_zero, above, least, drop = numbers[0], numbers[1], numbers[2], numbers[3], numbers[4], numbers[5], numbers[6]
    R, z, out = _part(R, t, nt), _part(z, t, nt), _part(out, t, nt)
    if not divide:
        for i in range(z.size):
            out[i] = denominator(z[i], below, lowest, highest, at_zero, above, least)
    elif drop:
        for i in range(z.size):
            d = denominator(z[i], below, lowest, highest, at_zero, above, least)
            s = weight * R[i] / d
            out[i] = d if d == 0 else s
    else:
        for i in range(z.size):
            out[i] = weight * R[i] / denominator(z[i], below, lowest, highest, at_zero, above, least)


@shared_kernel
def _affine(t, nt, x, g, h, clamp, out):
    zero, width = x.dtype.type(0), g.size
    rows = x.size // width if width else 0
    for r in range(rows * t // nt, rows * (t + 1) // nt):
        row, to = x[r * width : (r + 1) * width], out[r * width : (r + 1) * width]
        if clamp:
            for i in range(width):
                v = row[i] * g[i] + h[i]
                to[i] = v * zero + zero if v < zero else v
        else:
            for i in range(width):
                to[i] = row[i] * g[i] + h[i]


@shared_kernel
def _multiply_rows(t, nt, a, s, g, out, accumulate):
    zero, width = a.dtype.type(0), g.size
    rows = a.size // width if width else 0
    for r in range(rows * t // nt, rows * (t + 1) // nt):
        row, carried, to = a[r * width : (r + 1) * width], s[r * width : (r + 1) * width], out[r * width : (r + 1) * width]
        if accumulate:
            for i in range(width):
                to[i] += row[i] * (carried[i] * g[i] + zero)
        else:
            for i in range(width):
                to[i] = row[i] * (carried[i] * g[i] + zero)


@shared_kernel
def _leaky(t, nt, x, alpha, out, slope):
    one, width = x.dtype.type(1), alpha.size
    rows = x.size // width if width else 0
    for r in range(rows * t // nt, rows * (t + 1) // nt):
        row, to, slopes = x[r * width : (r + 1) * width], out[r * width : (r + 1) * width], slope[r * width : (r + 1) * width]
        for i in range(width):
            factor = one if row[i] >= 0 else alpha[i]
            slopes[i] = factor
            to[i] = row[i] * factor


@shared_kernel
def _find_nonfinite(t, nt, x, found):
    """Write to found[t] the flat index of the first NaN or infinity in part t, if there is one."""
    start, x = x.size * t // nt, _part(x, t, nt)
    for begin in range(0, x.size, 4096):
        block = x[begin : begin + 4096]
        bad = 0
        for i in range(block.size):
            bad |= not (abs(block[i]) < np.inf)
        if bad:
            for i in range(block.size):
                if not (abs(block[i]) < np.inf):
                    found[t] = start + begin + i
                    return
