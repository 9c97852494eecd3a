"""The activation functions and their derivatives, by their definitions, in decimal numbers of as many digits as it takes.

`TWINS` has the two functions of a name, of x and the function's parameters as decimals; `exact` calls them with enough digits.
"""

from decimal import Context, Decimal, DivisionByZero, InvalidOperation, getcontext, localcontext
from functools import cache

import numpy as np

ZERO, HALF, ONE = Decimal(0), Decimal("0.5"), Decimal(1)
INF = Decimal("inf")


@cache
def pi_of(digits):
    """Machin's formula."""

    def arctan_of_inverse(n):
        total, term, k = ZERO, ONE / n, 1
        while abs(term) > Decimal(10) ** -(digits + 5):
            total, term, k = total + term / k, -term / (n * n), k + 2
        return total

    with localcontext(Context(prec=digits + 10)):
        return 4 * (4 * arctan_of_inverse(Decimal(5)) - arctan_of_inverse(Decimal(239)))


def pi():
    return pi_of(getcontext().prec)


def clip(x, low, high):
    return min(max(x, low), high)


def indicator(condition):
    return ONE if condition else ZERO


def sigmoid(x):
    e = (-abs(x)).exp()
    return ONE / (1 + e) if x >= 0 else e / (1 + e)


def softplus(x):
    return max(x, ZERO) + (1 + (-abs(x)).exp()).ln()


def tanh(x):
    e = (-2 * abs(x)).exp()
    return ((1 - e) / (1 + e)).copy_sign(x)


def tanh_slope(x):
    e = (-2 * abs(x)).exp()
    return 4 * e / (1 + e) ** 2


def erf(x):
    """Series 7.1.6 of Abramowitz and Stegun, whose terms are all positive."""
    if abs(x) > 30:  # 1 - erf(x) is less than 10^-391
        return ONE.copy_sign(x)
    term = total = abs(x)
    n = 0
    while total + term != total:
        n += 1
        term *= 2 * x * x / (2 * n + 1)
        total += term
    return (2 / pi().sqrt() * (-x * x).exp() * total).copy_sign(x)


def erf_slope(x):
    return 2 / pi().sqrt() * (-x * x).exp()


def normal(x):
    return HALF * (1 + erf(x / Decimal(2).sqrt()))


def gelu_slope(x):
    return normal(x) + x * (-x * x / 2).exp() / (2 * pi()).sqrt()


def cubic(x):
    return (8 / pi()).sqrt() * (x + Decimal("0.044715") * x**3)


def gelu_tanh_slope(x):
    dw = (8 / pi()).sqrt() * (1 + 3 * Decimal("0.044715") * x**2)
    return sigmoid(cubic(x)) * (1 + x * sigmoid(-cubic(x)) * dw)


def mish_slope(x):
    return tanh(softplus(x)) + x * tanh_slope(softplus(x)) * sigmoid(x)


def relu(x, top, slope, threshold):
    y = x if x > threshold else ZERO
    return (clip(y, ZERO, top) if top < INF else y) - (slope * max(threshold - x, ZERO) if slope else ZERO)


def relu_slope(x, top, slope, threshold):
    if x > threshold:
        return indicator(top == INF or 0 < x < top)
    return slope if x < threshold else ZERO


TWINS = {
    "linear": (lambda x: x, lambda x: ONE),
    "relu": (relu, relu_slope),
    "leaky_relu": (lambda x, a: max(x, ZERO) + a * min(x, ZERO), lambda x, a: ONE if x > 0 else a),
    "elu": (lambda x, a: x if x > 0 else a * (x.exp() - 1), lambda x, a: ONE if x > 0 else a * x.exp()),
    "selu": (lambda x, a, s: s * x if x > 0 else s * a * (x.exp() - 1), lambda x, a, s: s if x >= 0 else s * a * x.exp()),
    "celu": (lambda x, a: x if x > 0 else a * ((x / a).exp() - 1), lambda x, a: ONE if x > 0 else (x / a).exp()),
    "softplus": (softplus, sigmoid),
    "softsign": (lambda x: x / (1 + abs(x)), lambda x: 1 / (1 + abs(x)) ** 2),
    "tanh": (tanh, tanh_slope),
    "sigmoid": (sigmoid, lambda x: sigmoid(x) * sigmoid(-x)),
    "hard_sigmoid": (lambda x: clip(x + 3, ZERO, Decimal(6)) / 6, lambda x: indicator(abs(x) < 3) / 6),
    "hard_sigmoid_2": (lambda x: clip(x / 5 + HALF, ZERO, ONE), lambda x: indicator(abs(x) <= Decimal("2.5")) / 5),
    "clipped_line": (lambda x, a, b: clip(a * x + b, ZERO, ONE), lambda x, a, b: a * indicator(0 <= a * x + b <= 1)),
    "sparse_sigmoid": (lambda x: clip((x + 1) / 2, ZERO, ONE), lambda x: HALF * indicator(abs(x) < 1)),
    "hard_tanh": (clip, lambda x, low, high: indicator(low <= x <= high)),
    "hard_shrink": (lambda x, t: x * indicator(abs(x) > t), lambda x, t: indicator(abs(x) > t)),
    "soft_shrink": (lambda x, t: max(abs(x) - t, ZERO).copy_sign(x), lambda x, t: indicator(abs(x) > t)),
    "tanh_shrink": (lambda x: x - tanh(x), lambda x: tanh(x) ** 2),
    "threshold": (lambda x, t, v: x if x > t else v, lambda x, t, v: indicator(x > t)),
    "squareplus": (lambda x, b: (x + (x * x + b).sqrt()) / 2, lambda x, b: (1 + x / (x * x + b).sqrt()) / 2),
    "sparse_plus": (lambda x: x if x >= 1 else max(x + 1, ZERO) ** 2 / 4, lambda x: clip((x + 1) / 2, ZERO, ONE)),
    "silu": (lambda x: x * sigmoid(x), lambda x: sigmoid(x) * (1 + x * sigmoid(-x))),
    "hard_silu": (
        lambda x: x * clip(x + 3, ZERO, Decimal(6)) / 6,
        lambda x: (2 * x + 3) / 6 if -3 < x < 3 else indicator(x >= 3),
    ),
    "gelu": (lambda x: x * normal(x), gelu_slope),
    "gelu_tanh": (lambda x: x * sigmoid(cubic(x)), gelu_tanh_slope),
    "mish": (lambda x: x * tanh(softplus(x)), mish_slope),
    "exponential": (lambda x: x.exp(), lambda x: x.exp()),
    "log_sigmoid": (lambda x: -softplus(-x), lambda x: sigmoid(-x)),
    "erf": (erf, erf_slope),
}


def exact(name, x, parameters=(), slope=False):
    """Return the value or the derivative of a function at a finite number x, to 30 digits or more."""
    x, parameters = Decimal(float(x)), [Decimal(float(p)) for p in parameters]
    size = abs(x)
    # What cancels: tiny x against 1, three times over; x^2 against a parameter; exp(-x) against 1, twice over; a tail of erf against 1.
    exponent = x.adjusted() if x else 0
    digits = 60 + max(-3 * exponent, 2 * exponent) + int(min(size, 1000) * Decimal("0.9"))
    if name == "squareplus":
        digits += 2 * len(x.as_tuple().digits)  # b may be 0
    if name in ("gelu", "erf"):
        digits += int(min(size, 43) ** 2 * HALF)
    with localcontext(Context(prec=digits, Emin=-(10**9), Emax=10**9, traps=[InvalidOperation, DivisionByZero])):
        return TWINS[name][slope](x, *parameters)


def in_ulps(got, wanted):
    """Return how far a float is from an exact value, in units of the last place there; subnormal places are all the same size."""
    T = type(got)
    largest = np.finfo(T).max
    if wanted.copy_abs() > Decimal(float(largest)):  # which rounds to the largest number or to an infinity
        return 0.0 if abs(got) >= largest and (got > 0) == (wanted > 0) else float("inf")
    unit = Decimal(float(np.spacing(min(np.abs(T(float(wanted))), np.nextafter(largest, T(0))))))
    return float(abs(Decimal(float(got)) - wanted) / unit)
