"""What happens to every number on its own: ReLU, bias, products, and the stabilised division of LRP.

Arrays are C-contiguous and of any shape, float32 or float64; `out` may be one of the inputs. `nt` is a number of threads.
"""

import numpy as np

from nplrp.kernels.parallel import kernel

# Denominators that LRP implementations put below R, by what they do to z (sgn(0) = +1). "Dropped": the unit passes nothing on.
PLUS = 0  #: z + eps
SIGN = 1  #: z + eps sgn(z)
ZERO_REPLACE = 2  #: z, or eps where z = 0
SIGN_ZERO_SKIP = 3  #: z + eps sgn(z); where z = 0, R passes undivided
SIGN_ZERO_DROP = 4  #: z + eps sgn(z); dropped where z = 0
GUARD = 5  #: z; dropped unless z > 0
NONE_DROP = 6  #: z; dropped where z = 0
SPLIT = 7  #: z + eps sgn(z); where z = 0, 1e-6 in float32 and 1e-15 in float64
CLIP = 8  #: sgn(z) max(|z|, eps)


@kernel
def denominator(z, kind, eps, tiny):
    """Return the stabilised z, 0 meaning dropped; NaN stays NaN."""
    if kind == PLUS:
        return z + eps
    if kind == ZERO_REPLACE:
        return eps if z == 0 else z
    if kind == GUARD:
        return z - z if z <= 0 else z
    if kind == NONE_DROP:
        return z
    if kind == CLIP:
        if z < 0:
            return z if z < -eps else -eps
        return eps if z < eps else z
    if z == 0:
        if kind == SIGN_ZERO_SKIP:
            return eps - eps + 1
        if kind == SIGN_ZERO_DROP:
            return z
        if kind == SPLIT:
            return tiny
    return z - eps if z < 0 else z + eps


@kernel
def _relu(x, out):
    zero = x.dtype.type(0)
    for i in range(x.size):
        out[i] = zero if x[i] < zero else x[i]


@kernel
def _add_bias(z, b, relu):
    zero = z.dtype.type(0)
    for r in range(z.shape[0]):
        for i in range(z.shape[1]):
            v = z[r, i] + b[i]
            z[r, i] = zero if relu and v < zero else v


@kernel
def _multiply(a, c, out):
    for i in range(a.size):
        out[i] = a[i] * c[i]


@kernel
def _multiply_add(a, c, out):
    for i in range(a.size):
        out[i] += a[i] * c[i]


@kernel
def _stabilise(z, kind, eps, tiny, out):
    for i in range(z.size):
        out[i] = denominator(z[i], kind, eps, tiny)


@kernel
def _stabilise_divide(R, z, kind, eps, tiny, weight, out):
    zero = z.dtype.type(0)
    for i in range(z.size):
        d = denominator(z[i], kind, eps, tiny)
        out[i] = zero if d == zero and kind != PLUS else weight * R[i] / d


@kernel
def _affine(x, g, h, out):
    for r in range(x.shape[0]):
        for i in range(x.shape[1]):
            out[r, i] = x[r, i] * g[i] + h[i]


@kernel
def _first_nonfinite(x):
    for i in range(x.size):
        if not np.isfinite(x[i]):
            return i
    return -1


@kernel
def _part(x, sign, out):
    zero = x.dtype.type(0)
    for i in range(x.size):
        out[i] = zero if x[i] * sign < zero else x[i]


def relu(x, out, nt=1):
    """Write max(x, 0) to `out`; NaN stays NaN."""
    _relu(x.reshape(-1), out.reshape(-1))


def add_bias(z, b, relu_flag, nt=1):
    """Add b [c] to z [..., c] in place, and clamp at 0 if `relu_flag`."""
    _add_bias(z.reshape(-1, b.size), b, bool(relu_flag))


def multiply(a, c, out, nt=1):
    """Write a * c to `out`."""
    _multiply(a.reshape(-1), c.reshape(-1), out.reshape(-1))


def multiply_add(a, c, out, nt=1):
    """Add a * c to `out`: two roundings, as in the formula."""
    _multiply_add(a.reshape(-1), c.reshape(-1), out.reshape(-1))


def stabilise(z, kind, eps, out, nt=1):
    """Write the stabilised z to `out`, 0 where a unit is dropped (or where z + eps vanishes)."""
    _stabilise(z.reshape(-1), kind, *_scalars(z, eps), out.reshape(-1))


def stabilise_divide(R, z, kind, eps, weight, out, nt=1):
    """Write s = weight * R / stabilise(z) to `out`, 0 where a unit is dropped."""
    _stabilise_divide(R.reshape(-1), z.reshape(-1), kind, *_scalars(z, eps), z.dtype.type(weight), out.reshape(-1))


def affine(x, g, h, out, nt=1):
    """Write x [..., c] * g [c] + h [c] to `out`."""
    _affine(x.reshape(-1, g.size), g, h, out.reshape(-1, g.size))


def first_nonfinite(x, nt=1):
    """Return the flat index of the first NaN or infinity, or -1."""
    return _first_nonfinite(x.reshape(-1))


def positive_part(x, out, nt=1):
    """Write max(x, 0) to `out`."""
    _part(x.reshape(-1), x.dtype.type(1), out.reshape(-1))


def negative_part(x, out, nt=1):
    """Write min(x, 0) to `out`."""
    _part(x.reshape(-1), x.dtype.type(-1), out.reshape(-1))


def _scalars(z, eps):
    return z.dtype.type(eps), z.dtype.type(1e-6 if z.dtype == np.float32 else 1e-15)
