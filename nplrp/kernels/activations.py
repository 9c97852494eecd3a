"""The activation functions of Keras and ONNX that act on every number alone, and their derivatives; PReLU and log-softmax.

`ACTIVATIONS` is the table, by name and in the order of the numbers. Arrays are C-contiguous and of any shape, all float32 or all float64;
`out` may be the input. `nt` is a number of threads. All calls may be queued (`nplrp.jit.queue`).

Every result is within 4 ulp of the exact value, subnormal numbers included; parameters count as rounded to the arrays' type. Derivatives
are within 8 ulp, but near the zeros that those of silu, gelu and mish have, where the error is less than two roundings of a 1. A NaN stays
as it is. An infinity gives the limit, also where Keras's formula says inf * 0 or inf - inf; with `mark` it gives NaN, so that a function
with bounds doesn't hide an overflow.

Derivatives at kinks and jumps are those of Keras on TensorFlow:

    0                                        relu at the threshold and at max_value, PReLU, threshold, hard_sigmoid, sparse_sigmoid,
                                             hard_shrink, soft_shrink; hard_silu at -3, and 1 at 3
    as between the ends                      hard_tanh, hard_sigmoid_2, clipped_line
    as below 0, as above 0                   leaky_relu and elu, selu

PyTorch has 0 for hard_tanh, and what is below 0 for selu and PReLU. Two oddities of Keras are left out: celu at 0 has its derivative, 1,
where Keras says 2; and relu at a max_value other than 6 has 0, where Keras says 1.
"""

import functools
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from nplrp.jit import DISABLED, frozen, kernel, queueable, shared_kernel
from nplrp.kernels.elementary import (
    LN2,
    at_least,
    at_most,
    by_type,
    down,
    end_of_normal,
    erf,
    exp,
    exp_minus,
    expm1_negative,
    far,
    inline,
    like,
    log1p_unit,
    normal_parts,
    tanh,
    tanh_shrink,
    with_sign,
)
from nplrp.kernels.fma import fma
from nplrp.kernels.simd import writable
from nplrp.kernels.softmax import exp_of_difference
from nplrp.kernels.sums import add_exactly

#: Numbers below which a call isn't worth a second thread.
SMALL = 8192
#: Numbers that are worked on in turn. Where input and output are the same memory a loop isn't vectorised: the input is copied first.
_BLOCK = 2048


@kernel
def _linear(x, p):
    inline()
    return x


@kernel
def _linear_slope(x, p):
    inline()
    return like(x, 1)


@kernel
def _relu(x, p):
    inline()
    slope, threshold, low, high, dead = p
    rest = x - threshold
    below = like(x, 0) if x < dead else slope * rest
    return at_least(at_most(x, high), low) if x > threshold else below


@kernel
def _relu_slope(x, p):
    inline()
    slope, threshold, low, high, dead = p
    zero, one = like(x, 0), like(x, 1)
    inside = x > threshold and x > low and (x < high or high == np.inf)
    return one if inside else (slope if x < threshold and x >= dead else zero)


@kernel
def _leaky_relu(x, p):
    inline()
    return x if x > like(x, 0) else p[0] * x


@kernel
def _leaky_relu_slope(x, p):
    inline()
    return like(x, 1) if x > like(x, 0) else p[0]


@kernel
def _elu(x, p):
    inline()
    e = p[1] * expm1_negative(at_most(x, like(x, 0)))
    return p[0] * x if x > like(x, 0) else e


@kernel
def _elu_slope(x, p):
    inline()
    e = p[1] * exp(x)
    return e if x < like(x, 0) else (p[0] if x > like(x, 0) else p[2])


@kernel
def _celu(x, p):
    inline()
    e = p[0] * expm1_negative(at_most(x, like(x, 0)) / p[0])
    return x if x > like(x, 0) else e


@kernel
def _celu_slope(x, p):
    inline()
    zero = like(x, 0)
    a = -at_most(x, zero) / p[0]
    rest = fma(a, p[0], x) / -p[0]
    inside = a < far(x)
    e = exp_minus(a if inside else far(x), rest if inside else zero) * down(x)
    return e if x < zero else like(x, 1)


@kernel
def _exp_minus_size(x):
    """Return exp(-|x|) / down(x), and exp(-|x|)."""
    inline()
    z = exp_minus(at_most(abs(x), far(x)), like(x, 0))
    return z, z * down(x)


@kernel
def _sigmoid(x, p):
    inline()
    _, z = _exp_minus_size(x)
    one = like(x, 1)
    return (z if x < like(x, 0) else one) / (one + z)


@kernel
def _sigmoid_slope(x, p):
    inline()
    z_up, z = _exp_minus_size(x)
    d = like(x, 1) + z
    return z_up / (d * d) * down(x)


@kernel
def _gated(x, z_up, z):
    """Return x sigmoid(w), where x and w have the same sign and exp(-|w|) is z and z_up * down."""
    inline()
    q = at_least(x, -far(x)) / (like(x, 1) + z)
    return q * z_up * down(x) if x < like(x, 0) else q


@kernel
def _gated_slope(negative, g, z_up, z):
    """Return the derivative of x sigmoid(w): g is |x| times the derivative of w."""
    inline()
    d = like(z, 1) + z
    v = (d - g if negative else fma(g, z, d)) / (d * d)
    return v * z_up * down(z) if negative else v


@kernel
def _silu(x, p):
    inline()
    z_up, z = _exp_minus_size(x)
    return _gated(x, z_up, z)


@kernel
def _silu_slope(x, p):
    inline()
    z_up, z = _exp_minus_size(x)
    return _gated_slope(x < like(x, 0), at_most(abs(x), far(x)), z_up, z)


@kernel
def _cubic(x):
    """Return exp(-w(|x|)) / down(x), the same without `down`, and |x| w'(x), for w(x) = sqrt(8 / pi) (x + 0.044715 x^3)."""
    inline()
    a = at_most(abs(x), by_type(x, 11.0, 22.5))
    c, c3 = like(a, 1.5957691216057308), like(a, 0.07135481627260025)
    square = a * a
    q = c3 * square
    low = fma(c3, square, -q) + fma(c3, fma(a, a, -square), by_type(a, 2.3988323959931355e-09, -6.175149918155315e-19) * square)
    s = q + c
    back = s - q
    low += ((q - (s - back)) + (c - back)) + by_type(a, -4.534068042105272e-08, -9.96930880911092e-17)
    w = a * s
    z_up = exp_minus(w, fma(a, low, fma(a, s, -w)))
    return z_up, z_up * down(x), a * fma(like(a, 3), q, c)


@kernel
def _gelu_tanh(x, p):
    inline()
    z_up, z, _ = _cubic(x)
    return _gated(x, z_up, z)


@kernel
def _gelu_tanh_slope(x, p):
    inline()
    z_up, z, g = _cubic(x)
    return _gated_slope(x < like(x, 0), g, z_up, z)


@kernel
def _gelu(x, p):
    inline()
    end, zero, one = end_of_normal(x), like(x, 0), like(x, 1)
    a = at_most(abs(x), end)
    z, t, m = normal_parts(a)
    tail = z * t
    chance = fma(m, x, like(x, 0.5)) if a < one else (tail if x < zero else fma(-tail, down(x), one))  # that X < x
    y = at_least(x, -end) * chance
    return y * down(x) if x <= -one else y


@kernel
def _gelu_slope(x, p):
    inline()
    a, zero, one = at_most(abs(x), end_of_normal(x)), like(x, 0), like(x, 1)
    z, t, m = normal_parts(a)
    v = z * (t - a)
    outer = v * down(x) if x < zero else fma(-v, down(x), one)
    return fma(x, fma(z, down(x), m), like(x, 0.5)) if a < one else outer


@kernel
def _mish(x, p):
    inline()
    z_up, z = _exp_minus_size(x)
    negative, one, two = x < like(x, 0), like(x, 1), like(x, 2)
    # tanh(log(1 + w)) = w (w + 2) / (w (w + 2) + 2) with w = exp(x); z is w, or 1 / w
    top = z + two if negative else fma(two, z, one)
    bottom = fma(z, z + two, two) if negative else fma(two * z, z + one, one)
    v = at_least(x, -far(x)) * (top / bottom)
    return v * z_up * down(x) if negative else v


@kernel
def _mish_slope(x, p):
    inline()
    z_up, z = _exp_minus_size(x)
    negative, one, two = x < like(x, 0), like(x, 1), like(x, 2)
    x4 = like(x, 4) * at_least(at_most(x, far(x)), -far(x)) * (z + one)
    top = z + two if negative else fma(two, z, one)
    bottom = fma(z, z + two, two) if negative else fma(two * z, z + one, one)
    v = fma(top, bottom, x4 if negative else x4 * z * z) / (bottom * bottom)
    return v * z_up * down(x) if negative else v


@kernel
def _softplus(x, p):
    inline()
    _, z = _exp_minus_size(x)
    return at_least(x, like(x, 0)) + log1p_unit(z)


@kernel
def _log_sigmoid(x, p):
    inline()
    return -_softplus(-x, p)


@kernel
def _log_sigmoid_slope(x, p):
    inline()
    return _sigmoid(-x, p)


@kernel
def _finite_size(x):
    inline()
    return at_most(abs(x), by_type(x, 3.4028234663852886e38, 1.7976931348623157e308))


@kernel
def _softsign(x, p):
    inline()
    a = _finite_size(x)
    return with_sign(a / (like(x, 1) + a), x)


@kernel
def _softsign_slope(x, p):
    inline()
    q = like(x, 1) / (like(x, 1) + abs(x))
    return q * q


@kernel
def _tanh(x, p):
    inline()
    return tanh(x)


@kernel
def _tanh_slope(x, p):
    inline()
    z = exp_minus(at_most(like(x, 2) * abs(x), far(x)), like(x, 0))
    d = fma(z, down(x), like(x, 1))
    return like(x, 4) * z / (d * d) * down(x)


@kernel
def _tanh_shrink(x, p):
    inline()
    return tanh_shrink(x)


@kernel
def _tanh_shrink_slope(x, p):
    inline()
    t = tanh(x)
    return t * t


@kernel
def _erf(x, p):
    inline()
    return erf(x)


@kernel
def _erf_slope(x, p):
    inline()
    a = at_most(abs(x), by_type(x, 11.0, 28.0))
    square = a * a
    return like(x, 1.1283791670955126) * exp_minus(square, fma(a, a, -square)) * down(x)


@kernel
def _exponential(x, p):
    inline()
    return exp(x)


@kernel
def _hard_sigmoid(x, p):
    inline()
    return at_least(at_most(x + like(x, 3), like(x, 6)), like(x, 0)) * like(x, 1 / 6)


@kernel
def _hard_sigmoid_slope(x, p):
    inline()
    return like(x, 1 / 6) if abs(x) < like(x, 3) else like(x, 0)


@kernel
def _hard_sigmoid_2(x, p):
    inline()
    return at_least(at_most(x + like(x, 2.5), like(x, 5)), like(x, 0)) * like(x, 0.2)


@kernel
def _hard_sigmoid_2_slope(x, p):
    inline()
    return like(x, 0.2) if abs(x) <= like(x, 2.5) else like(x, 0)


@kernel
def _clipped_line(x, p):
    inline()
    return at_least(at_most(fma(p[0], x, p[1]), like(x, 1)), like(x, 0))


@kernel
def _clipped_line_slope(x, p):
    inline()
    y = fma(p[0], x, p[1])
    return p[0] if y >= like(x, 0) and y <= like(x, 1) else like(x, 0)


@kernel
def _sparse_sigmoid(x, p):
    inline()
    return like(x, 0.5) * at_least(at_most(x + like(x, 1), like(x, 2)), like(x, 0))


@kernel
def _sparse_sigmoid_slope(x, p):
    inline()
    return like(x, 0.5) if abs(x) < like(x, 1) else like(x, 0)


@kernel
def _hard_silu(x, p):
    inline()
    return at_least(x, like(x, -3)) * _hard_sigmoid(x, p)


@kernel
def _hard_silu_slope(x, p):
    inline()
    three = like(x, 3)
    middle = fma(like(x, 2), x, three) * like(x, 1 / 6)
    return like(x, 0) if x <= -three else (like(x, 1) if x >= three else middle)


@kernel
def _hard_tanh(x, p):
    inline()
    return at_least(at_most(x, p[1]), p[0])


@kernel
def _hard_tanh_slope(x, p):
    inline()
    return like(x, 1) if x >= p[0] and x <= p[1] else like(x, 0)


@kernel
def _shrink(x, p):
    inline()
    threshold, bias = p
    return x - bias if x > threshold else (x + bias if x < -threshold else like(x, 0))


@kernel
def _shrink_slope(x, p):
    inline()
    return like(x, 1) if x > p[0] or x < -p[0] else like(x, 0)


@kernel
def _threshold(x, p):
    inline()
    return x if x > p[0] else p[1]


@kernel
def _threshold_slope(x, p):
    inline()
    return like(x, 1) if x > p[0] else like(x, 0)


@kernel
def _root(a, p):
    """Return sqrt(a^2 + b), for a >= 0; where a^2 is too large for its type, or b is 0, that is a."""
    inline()
    b, large = p
    root = np.sqrt(a * a + b)
    return a if a > large else root


@kernel
def _not_zero(x):
    inline()
    return at_least(x, by_type(x, 2.0**-126, 2.0**-1022))


@kernel
def _squareplus(x, p):
    inline()
    a, half = abs(x), like(x, 0.5)
    sum_of_halves = half * a + half * _root(a, p)
    tail = half * half * p[0] / _not_zero(sum_of_halves)  # where x + root would cancel
    return tail if x < like(x, 0) else sum_of_halves


@kernel
def _squareplus_slope(x, p):
    inline()
    a, half = _finite_size(x), like(x, 0.5)
    root = _root(a, p)
    quarter = half * half * p[0] / _not_zero(half * a + half * root)
    return quarter / root if x < like(x, 0) else half + half * (a / root)


@kernel
def _sparse_plus(x, p):
    inline()
    one = like(x, 1)
    t = at_least(x, -one) + one
    return x if x >= one else like(x, 0.25) * t * t


@kernel
def _sparse_plus_slope(x, p):
    inline()
    return like(x, 0.5) * (at_least(at_most(x, like(x, 1)), like(x, -1)) + like(x, 1))


@kernel
def _prelu(x, a):
    inline()
    return x if x > like(x, 0) else a * x


@kernel
def _prelu_slope(x, a):
    inline()
    zero = like(x, 0)
    return like(x, 1) if x > zero else (a if x < zero else zero)


_writable = (lambda array: array) if DISABLED else writable


@kernel
def _copy(source, to, mark):
    for i in range(source.size):
        v = source[i]
        to[i] = like(v, np.nan) if mark and abs(v) == np.inf else v


@functools.cache
def _loop(function):
    """Return the shared kernel that writes function(v, p) of every number v of a flat array."""

    def loop(t, nt, x, out, p, mark, in_place):
        first, last = x.size * t // nt, x.size * (t + 1) // nt
        copy = np.empty(_BLOCK if mark or in_place else 0, out.dtype)
        for begin in range(first, last, _BLOCK):
            source, to = x[begin : min(begin + _BLOCK, last)], out[begin : min(begin + _BLOCK, last)]
            if mark or in_place:
                _copy(source, copy, mark)
                here = copy[: to.size]
            else:
                here = _writable(source)
            for i in range(to.size):
                v = here[i]
                y = function(v, p)
                to[i] = v if v != v else y

    loop.__name__ = loop.__qualname__ = f"loop{function.__name__}"
    return shared_kernel(loop)


def _loop_with_array(function):
    """Return the shared kernel that writes function(v, a) of every number v of a flat array and a of another, which is repeated."""

    def loop(t, nt, x, alpha, out, mark, in_place):
        begin, last = x.size * t // nt, x.size * (t + 1) // nt
        copy = np.empty(_BLOCK if mark or in_place else 0, out.dtype)
        while begin < last:
            at = begin % alpha.size
            end = begin + min(_BLOCK, last - begin, alpha.size - at)
            source, to, a = x[begin:end], out[begin:end], alpha[at : at + end - begin]
            if mark or in_place:
                _copy(source, copy, mark)
                here = copy[: to.size]
            else:
                here = _writable(source)
            for i in range(to.size):
                v = here[i]
                y = function(v, a[i])
                to[i] = v if v != v else y
            begin = end

    loop.__name__ = loop.__qualname__ = f"loop{function.__name__}"
    return shared_kernel(loop)


_INF = np.inf
# The constants that a function takes beside x, from its parameters and T, the type.


def _as_given(T, *parameters):
    return tuple(map(T, parameters))


def _of_relu(T, max_value, negative_slope, threshold):
    flat = negative_slope == 0
    low = -_INF if max_value == _INF else 0
    return T(1 if flat else negative_slope), T(threshold), T(low), T(max_value), T(threshold if flat else -_INF)


def _of_elu(T, alpha):
    return T(1), T(alpha), T(alpha)


def _of_selu(T, alpha, scale):
    return T(scale), T(alpha * scale), T(scale)


def _of_hard_shrink(T, threshold):
    return T(threshold), T(0)


def _of_soft_shrink(T, threshold):
    return T(threshold), T(threshold)


def _of_squareplus(T, b):
    large = 2.0**60 if T is np.float32 else 2.0**500
    return T(b), T(large if b else -1)


# The ends of a function's range and whether it rises, from those constants.


def _relu_ends(slope, threshold, low, high, dead):
    least = 0.0 if threshold >= 0 or low == 0 else threshold
    if dead > -_INF:
        return least, max(high, 0.0)
    return (-_INF, max(high, 0.0)) if slope > 0 else (least, _INF)


def _relu_rises(slope, threshold, low, high, dead):
    return slope >= 0 and (threshold >= 0 or low == 0)


def _leaky_ends(slope):
    return (-_INF if slope > 0 else 0, _INF)


def _first_not_negative(first, *others):
    return first >= 0


def _elu_ends(above, below, at_zero):
    return min(-below, 0.0), _INF


def _elu_rises(above, below, at_zero):
    return below >= 0


def _celu_ends(alpha):
    return -alpha, _INF


def _hard_tanh_ends(low, high):
    return low, high


def _threshold_ends(threshold, value):
    return min(threshold, value), _INF


def _threshold_rises(threshold, value):
    return value <= threshold


class Activation(NamedTuple):
    """A row of the table.

    `parameters` has names and defaults. `constants` makes of a type and the parameters what the kernels take beside x. `ends` are the least
    and the largest output, or a function of those constants; so is `rises`, whether a larger x never gives a smaller output.
    """

    number: int
    name: str
    value: Callable
    slope: Callable
    ends: tuple[float, float] | Callable
    rises: bool | Callable
    constants: Callable
    parameters: dict[str, float]

    def with_defaults(self, **given):
        """Return all parameters in their order.

        Raises
        ------
        TypeError
            If one is given that the function doesn't have.
        """
        if given.keys() - self.parameters:
            raise TypeError(f"{self.name} takes {', '.join(self.parameters) or 'no parameters'}; found {', '.join(given)}")
        return tuple(float(v) for v in (self.parameters | given).values())

    def bounds(self, parameters, dtype):
        """Return the least and the largest number that `activate` may give: the output can't be negative if the first is 0."""
        ends = self.ends(*self.constants(np.dtype(dtype).type, *parameters)) if callable(self.ends) else self.ends
        return float(ends[0]), float(ends[1])

    def monotone(self, parameters):
        """Return whether a larger x never gives a smaller exact value; what is computed may be smaller by rounding."""
        return bool(self.rises(*self.constants(np.float64, *parameters)) if callable(self.rises) else self.rises)


def _rows(*rows):
    """Return the table: rows of name, value, slope, ends, rises, and, if there are parameters, constants and defaults."""
    table = {}
    for number, (name, value, slope, ends, rises, *rest) in enumerate(rows):
        constants, parameters = rest or (_as_given, {})
        table[name] = Activation(number, name, _loop(value), _loop(slope), ends, rises, constants, parameters)
    return table


_ANY, _POSITIVE, _SIGNED, _UNIT = (-_INF, _INF), (0, _INF), (-1, 1), (0, 1)

#: The table. A least number that is no whole one is a minimum of the function, and rounded down a little.
ACTIVATIONS = _rows(
    ("linear", _linear, _linear_slope, _ANY, True),
    ("relu", _relu, _relu_slope, _relu_ends, _relu_rises, _of_relu, {"max_value": _INF, "negative_slope": 0.0, "threshold": 0.0}),
    ("leaky_relu", _leaky_relu, _leaky_relu_slope, _leaky_ends, _first_not_negative, _as_given, {"negative_slope": 0.2}),
    ("elu", _elu, _elu_slope, _elu_ends, _elu_rises, _of_elu, {"alpha": 1.0}),
    ("selu", _elu, _elu_slope, _elu_ends, True, _of_selu, {"alpha": 1.6732632423543772, "scale": 1.0507009873554805}),
    ("celu", _celu, _celu_slope, _celu_ends, True, _as_given, {"alpha": 1.0}),
    ("softplus", _softplus, _sigmoid, _POSITIVE, True),
    ("softsign", _softsign, _softsign_slope, _SIGNED, True),
    ("tanh", _tanh, _tanh_slope, _SIGNED, True),
    ("sigmoid", _sigmoid, _sigmoid_slope, _UNIT, True),
    ("hard_sigmoid", _hard_sigmoid, _hard_sigmoid_slope, _UNIT, True),
    ("hard_sigmoid_2", _hard_sigmoid_2, _hard_sigmoid_2_slope, _UNIT, True),
    ("clipped_line", _clipped_line, _clipped_line_slope, _UNIT, _first_not_negative, _as_given, {"slope": 0.2, "offset": 0.5}),
    ("sparse_sigmoid", _sparse_sigmoid, _sparse_sigmoid_slope, _UNIT, True),
    ("hard_tanh", _hard_tanh, _hard_tanh_slope, _hard_tanh_ends, True, _as_given, {"low": -1.0, "high": 1.0}),
    ("hard_shrink", _shrink, _shrink_slope, _ANY, True, _of_hard_shrink, {"threshold": 0.5}),
    ("soft_shrink", _shrink, _shrink_slope, _ANY, True, _of_soft_shrink, {"threshold": 0.5}),
    ("tanh_shrink", _tanh_shrink, _tanh_shrink_slope, _ANY, True),
    ("threshold", _threshold, _threshold_slope, _threshold_ends, _threshold_rises, _as_given, {"threshold": 1.0, "value": 0.0}),
    ("squareplus", _squareplus, _squareplus_slope, _POSITIVE, True, _of_squareplus, {"b": 4.0}),
    ("sparse_plus", _sparse_plus, _sparse_plus_slope, _POSITIVE, True),
    ("silu", _silu, _silu_slope, (-0.2784646, _INF), False),
    ("hard_silu", _hard_silu, _hard_silu_slope, (-0.3750001, _INF), False),
    ("gelu", _gelu, _gelu_slope, (-0.1699713, _INF), False),
    ("gelu_tanh", _gelu_tanh, _gelu_tanh_slope, (-0.1700408, _INF), False),
    ("mish", _mish, _mish_slope, (-0.3088435, _INF), False),
    ("exponential", _exponential, _exponential, _POSITIVE, True),
    ("log_sigmoid", _log_sigmoid, _log_sigmoid_slope, (-_INF, 0), True),
    ("erf", _erf, _erf_slope, _SIGNED, True),
)
_loop_prelu, _loop_prelu_slope = _loop_with_array(_prelu), _loop_with_array(_prelu_slope)
_BY_NUMBER = tuple(ACTIVATIONS.values())


@queueable
def activate(number, parameters, x, out, nt=1, mark=False):
    """Write an activation of x to `out`.

    Parameters
    ----------
    number : int
        Of a row of `ACTIVATIONS`.
    parameters : sequence of float
        All of the row's, in its order.
    x, out : ndarray
    nt : int
    mark : bool
        Make NaN of infinities.
    """
    row = _BY_NUMBER[number]
    _run(row.value, x, out, nt, row.constants(x.dtype.type, *parameters), mark)


@queueable
def derivative(number, parameters, x, out, nt=1, mark=False):
    """Write the derivative of an activation at x to `out`; the parameters are those of `activate`."""
    row = _BY_NUMBER[number]
    _run(row.slope, x, out, nt, row.constants(x.dtype.type, *parameters), mark)


def _run(loop, x, out, nt, p, mark):
    loop(nt if x.size > SMALL else 1, frozen(x), out.reshape(-1), p, bool(mark), _same_memory(x, out))


def _same_memory(x, out):
    return x.ctypes.data == out.ctypes.data


@queueable
def prelu(x, alpha, out, nt=1, mark=False):
    """Write x [n, ...], and alpha x where x < 0, to `out`; alpha's shape is that of x after the first axis, or broadcast to it."""
    _run_prelu(_loop_prelu, x, alpha, out, nt, mark)


@queueable
def prelu_derivative(x, alpha, out, nt=1, mark=False):
    """Write the derivative of `prelu` at x to `out`."""
    _run_prelu(_loop_prelu_slope, x, alpha, out, nt, mark)


def _run_prelu(loop, x, alpha, out, nt, mark):
    while alpha.ndim and alpha.shape[0] == 1:
        alpha = alpha[0]
    if alpha.shape != x.shape[x.ndim - alpha.ndim :]:
        alpha = np.broadcast_to(alpha, x.shape[1:])
    alpha = np.tile(alpha.reshape(-1), -(-_BLOCK // max(alpha.size, 1)))  # long rows are faster
    loop(nt if x.size > SMALL else 1, frozen(x), frozen(alpha), out.reshape(-1), bool(mark), _same_memory(x, out))


@shared_kernel
def _log_softmax(t, nt, z, width, out):
    rows = z.size // width if width else 0
    for n in range(rows * t // nt, rows * (t + 1) // nt):
        row, to = z[n * width : (n + 1) * width], out[n * width : (n + 1) * width]
        first = 0
        for i in range(width):
            if row[i] > row[first] or row[i] != row[i]:
                first = i
        top = np.float64(row[first])
        total, error = 0.0, 0.0
        for i in range(width):
            if i != first:
                total, error = add_exactly(total, error, exp_of_difference(np.float64(row[i]), top))
        log, total = 0.0, total + error
        if total > 1.0:  # of 1 + total = 2^k (1 + f)
            total += 1.0
            while total > 2.0:
                total *= 0.5
                log += LN2
            total -= 1.0
        log += log1p_unit(total)
        for i in range(width):
            to[i] = (np.float64(row[i]) - top) - log


@shared_kernel
def _log_softmax_back(t, nt, y, g, width, out):
    rows = y.size // width if width else 0
    for n in range(rows * t // nt, rows * (t + 1) // nt):
        total, error = 0.0, 0.0
        for i in range(n * width, (n + 1) * width):
            total, error = add_exactly(total, error, np.float64(g[i]))
        total += error
        for i in range(n * width, (n + 1) * width):
            out[i] = g[i] - exp(np.float64(y[i])) * total


@queueable
def log_softmax(z, out, nt=1):
    """Write z - log(sum(exp(z))) over the last axis to `out`; a NaN in a row spreads over it."""
    _log_softmax(nt if z.size > SMALL else 1, frozen(z), z.shape[-1], out.reshape(-1))


@queueable
def log_softmax_back(y, g, out, nt=1):
    """Write the gradient of log_softmax's input to `out`, of its output y and that one's gradient g."""
    _log_softmax_back(nt if y.size > SMALL else 1, frozen(y), frozen(g), y.shape[-1], out.reshape(-1))
