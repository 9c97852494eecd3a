"""Softmax over rows, with an exponential of our own: NumPy's and LLVM's change bits with the CPU.

exp(x) = 2^k exp(r), r = x - k ln 2 in two parts, exp(r) by a polynomial, all in float64.
"""

import math

import numpy as np

from nplrp.kernels.fma import fma
from nplrp.kernels.parallel import kernel

_LN2_HIGH = 6.93147180369123816490e-01  # ln 2, its last 21 bits zero (fdlibm's split), so that k * _LN2_HIGH is exact
_LN2_LOW = 1.90821492927058770002e-10
_COEFFICIENTS = tuple(1 / math.factorial(n) for n in range(13, -1, -1))


@kernel
def exponential(x):
    """Return exp(x) in float64 for x <= 0; below -708 it is 0."""
    if x != x:
        return x
    if x < -708.0:
        return 0.0
    k = math.floor(x * 1.4426950408889634 + 0.5)
    r = fma(-k, _LN2_LOW, fma(-k, _LN2_HIGH, x))
    p = 0.0
    for c in _COEFFICIENTS:
        p = fma(p, r, c)
    for _ in range(-int(k)):
        p *= 0.5
    return p


@kernel
def _softmax(z, out):
    for n in range(z.shape[0]):
        top = z[n, 0]
        for i in range(z.shape[1]):
            if z[n, i] > top or z[n, i] != z[n, i]:
                top = z[n, i]
        total = 0.0
        for i in range(z.shape[1]):
            total += exponential(np.float64(z[n, i]) - np.float64(top))
        for i in range(z.shape[1]):
            out[n, i] = exponential(np.float64(z[n, i]) - np.float64(top)) / total


def softmax(z, out):
    """Write exp(z) / sum(exp(z)) over the last axis of z [n, c] to `out`."""
    _softmax(z, out)
