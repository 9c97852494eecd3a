"""Softmax over rows, with an exponential of our own: NumPy's and LLVM's change bits with the CPU.

exp(x) = 2^k exp(r) with k the integer nearest to x / ln 2 and r = x - k ln 2, ln 2 in two parts; exp(r) for |r| <= 0.35 by its Taylor
polynomial of degree 13. Everything is float64; a float32 softmax is that result, rounded once.
"""

import math

import numpy as np

from nplrp.jit import kernel
from nplrp.kernels.fma import fma
from nplrp.kernels.sums import add_exactly

_LN2_HIGH = 6.93147180369123816490e-01  # ln 2 but for its last 21 bits, as fdlibm splits it: k times it is exact
_LN2_LOW = 1.90821492927058770002e-10
_COEFFICIENTS = tuple(1 / math.factorial(n) for n in range(13, 1, -1))


def softmax(z, out):
    """Write exp(z) / sum(exp(z)) over the last axis of z [n, c] to `out`; a NaN in a row spreads over it."""
    _softmax(z, out)


@kernel
def exp_of_difference(x, top):
    """Return exp(x - top) for x <= top, in float64 and to about 1 ulp: also what is lost in the difference counts."""
    x, lost = add_exactly(x, 0.0, -top)
    if x < -746.0:
        return 0.0
    if np.isnan(x):
        return x
    k = math.floor(x * 1.4426950408889634 + 0.5)
    high, low = fma(-k, _LN2_HIGH, x), k * _LN2_LOW
    r = high - low
    tail = ((high - r) - low) + lost
    p = 0.0
    for c in _COEFFICIENTS:
        p = fma(p, r, c)
    # exp(r + tail) = 1 + r + (r^2 p + tail exp(r)), the large terms last
    return math.ldexp(1.0 + (r + fma(r * r, p, tail * (1.0 + r + r * r * p))), int(k))


@kernel
def _softmax(z, out):
    for n in range(z.shape[0]):
        top = -np.inf
        for i in range(z.shape[1]):
            if z[n, i] > top or np.isnan(z[n, i]):
                top = np.float64(z[n, i])
        total, error = 0.0, 0.0
        for i in range(z.shape[1]):
            total, error = add_exactly(total, error, exp_of_difference(np.float64(z[n, i]), top))
        total += error
        for i in range(z.shape[1]):
            out[n, i] = exp_of_difference(np.float64(z[n, i]), top) / total
