"""exp, expm1, log1p, tanh, erf and the normal distribution, of our own: those of a C library or of LLVM change bits with the CPU.

Functions take and return one number, float32 or float64, and compute in its type: a fixed sequence of multiply-adds, a division at most, no
branches and no tables, so that a loop over them is vectorised. They don't care for NaN; the loops of `nplrp.kernels.activations` do.

exp(x) is 2^k exp(r) with k the integer nearest to x / ln 2, and a polynomial for the exponential of the rest r = x - k ln 2. Exponentials
of negative numbers come 2^64 times too large (2^512 in float64), and what they are multiplied with is multiplied before `down`: so what
is less than the smallest normal number is rounded only once. Polynomials: tests/kernels/fit_elementary.py.
"""

import numpy as np
from llvmlite import ir

from nplrp.jit import DISABLED, kernel
from nplrp.jit.lazy import cgutils, intrinsic, types
from nplrp.kernels.fma import fma

LOG2E, LN2 = 1.4426950408889634, 0.6931471805599453
# ln 2 in two parts, the first with so few bits that k times it is exact.
_LN2_HIGH_32, _LN2_LOW_32 = 0.693359375, -2.1219444005469057e-4
_LN2_HIGH_64, _LN2_LOW_64 = 6.93147180369123816490e-01, 1.90821492927058770002e-10
# x + it - it is the integer nearest to x; the last bits of x + it are that integer's.
_MAGIC_32, _MAGIC_64 = 1.5 * 2.0**23, 1.5 * 2.0**52


def _numbers(text):
    return tuple(map(float, text.split()))


# The polynomials' coefficients, from the highest power down.
_EXP_32 = _numbers("""
    0.0013926181810489343 0.008363177629994445 0.041666554627878084 0.16666576998242924 0.5
""")
_EXP_64 = _numbers("""
    2.510038319586702e-08 2.7620085455018414e-07 2.7557268464831627e-06 2.4801521302241082e-05 0.00019841269863050506
    0.001388888891720967 0.008333333333330063 0.041666666666624136 0.16666666666666669 0.5000000000000001
""")
_LOG_32 = _numbers("""
    0.2995919673416483 0.3997891010792232 0.6666671373620136
""")
_LOG_64 = _numbers("""
    0.13609030262858499 0.13209708242059462 0.15388867805613718 0.18181737626302938 0.2222222304835159 0.28571428567275936
    0.4000000000000794 0.6666666666666666
""")
_SHRINK_32 = _numbers("""
    -0.00014279318799621565 0.0009235008463481761 -0.003206803386846565 0.008697847592814879 -0.02182954884305937 0.05396341475443884
    -0.133333106555451 0.3333333315672231
""")
_SHRINK_64 = _numbers("""
    -2.5155023659382105e-08 2.6330772232959337e-07 -1.3791814499083342e-06 4.987760317520347e-06 -1.4606131676715378e-05
    3.8389607893147334e-05 -9.646277743313181e-05 0.00023895705228738225 -0.0005899792946300052 0.0014558246920964941
    -0.003592126679366341 0.008863235404578283 -0.02186948852912909 0.05396825396804637 -0.1333333333333309 0.3333333333333333
""")
_MIDDLE_32 = _numbers("""
    -0.0002451372214842269 0.0018160367390857826 -0.00949075191041591 0.03989331392502468 -0.1329807211343738 0.3989422801308406
""")
_MIDDLE_64 = _numbers("""
    4.172110824884867e-09 -5.664936080771016e-08 5.812259221933056e-07 -5.276685761812584e-06 4.262195122979348e-05
    -0.00030222898537932304 0.0018469550002649506 -0.009498625723744275 0.03989422804014009 -0.13298076013381085 0.3989422804014327
""")
_ERF_32 = _numbers("""
    7.875875062685488e-05 -0.000801686428716587 0.005189087423433974 -0.026854212010626412 0.11283594715160218 -0.37612626666720334
    1.1283791658483509
""")
_ERF_64 = _numbers("""
    5.957176147748911e-11 -1.1372848856791674e-09 1.4659775274047436e-08 -1.6350312701054695e-07 1.6461000484121368e-06
    -1.4925595266831182e-05 0.0001205533111164271 -0.000854832698083379 0.0052239776248180145 -0.026866170645076792 0.11283791670954879
    -0.3761263890318375 1.1283791670955126
""")
_TAIL_P_32 = _numbers("""
    0.01703457686773838 0.12779879750642767 0.4918356287993043 1.025357185649721 1.0
""")
_TAIL_P_64 = _numbers("""
    7.205580900451754e-06 0.00016047586856508459 0.001836029116552206 0.013627504692471972 0.07118277693037102 0.2691107690503503
    0.7339622988628093 1.3941049590970913 1.6839481763957889 1.0
""")
_TAIL_N_32 = _numbers("""
    0.01703164403484176 0.12793374192800003 0.455163276040017 0.797795190309365
""")
_TAIL_N_64 = _numbers("""
    7.205580900669668e-06 0.0001604758685207488 0.0018216179588070429 0.013306552733021502 0.06758278272486885 0.24346029963063107
    0.6094281902816727 0.980216015201831 0.7978845618169098
""")


def _either(dtype, in_32, in_64):
    return in_32 if dtype == types.float32 else in_64


@intrinsic
def _like(typing, x, number):
    def emit(context, builder, signature, args):
        return context.cast(builder, args[1], number, x)

    return x(x, number), emit


@intrinsic
def _by_type(typing, x, in_32, in_64):
    def emit(context, builder, signature, args):
        return context.cast(builder, args[_either(x, 1, 2)], types.float64, x)

    return x(x, types.float64, types.float64), emit


@intrinsic
def _shifted(typing, m, t):
    def emit(context, builder, signature, args):
        whole, fraction = ir.IntType(m.bitwidth), _either(m, 23, 52)
        m_bits, t_bits = (builder.bitcast(a, whole) for a in args)
        moved = builder.shl(t_bits, ir.Constant(whole, fraction))  # of t's bits, the last ones are k's
        return builder.bitcast(builder.add(m_bits, moved), args[0].type)

    return m(m, m), emit


@intrinsic
def _with_sign(typing, x, y):
    def emit(context, builder, signature, args):
        kind = ir.FunctionType(args[0].type, [args[0].type] * 2)
        return builder.call(cgutils.get_or_insert_function(builder.module, kind, f"llvm.copysign.f{x.bitwidth}"), args)

    return x(x, y), emit


@intrinsic
def _inline(typing):
    def emit(context, builder, signature, args):
        builder.function.attributes.add("alwaysinline")
        return context.get_dummy_value()

    return types.void(), emit


def _polynomial(in_32, in_64):
    """Return a function of one number: the polynomial with these coefficients, by Horner's rule."""

    @intrinsic
    def polynomial(typing, x):
        def emit(context, builder, signature, args):
            number = context.get_value_type(x)
            first, *rest = (ir.Constant(number, float(_either(x, np.float32, np.float64)(c))) for c in _either(x, in_32, in_64))
            for c in rest:
                first = builder.fma(first, args[0], c)
            return first

        return x(x), emit

    def plain(x):
        p = type(x)(0)
        for c in in_32 if isinstance(x, np.float32) else in_64:
            p = fma(p, x, type(x)(c))
        return p

    return plain if DISABLED else polynomial


def _like_plain(x, number):
    return type(x)(number)


def _by_type_plain(x, in_32, in_64):
    return type(x)(in_32 if isinstance(x, np.float32) else in_64)


def _shifted_plain(m, t):
    k = t - by_type(t, _MAGIC_32, _MAGIC_64)
    return np.ldexp(m, int(k)) if abs(k) < 2000 else k


def _nothing():
    pass


#: like(x, number): a number in x's type.
like = _like_plain if DISABLED else _like
#: by_type(x, in_32, in_64): one of two numbers, by x's type and in it.
by_type = _by_type_plain if DISABLED else _by_type
#: shifted(m, k + magic): m 2^k, where that is a normal number.
shifted = _shifted_plain if DISABLED else _shifted
#: with_sign(x, y): |x| with the sign of y.
with_sign = np.copysign if DISABLED else _with_sign
#: Have the function that calls this inlined, however long: loops over calls aren't vectorised.
inline = _nothing if DISABLED else _inline

# exp(r) / sqrt(2 pi)
_DENSITY_32, _DENSITY_64 = (tuple(0.3989422804014327 * c for c in (*rest, 1, 1)) for rest in (_EXP_32, _EXP_64))

_exp, _exp_rest, _density, _log, _shrink, _middle, _erf, _tail_p, _tail_n = (
    _polynomial(*pair)
    for pair in (
        ((*_EXP_32, 1, 1), (*_EXP_64, 1, 1)),
        (_EXP_32, _EXP_64),
        (_DENSITY_32, _DENSITY_64),
        (_LOG_32, _LOG_64),
        (_SHRINK_32, _SHRINK_64),
        (_MIDDLE_32, _MIDDLE_64),
        (_ERF_32, _ERF_64),
        (_TAIL_P_32, _TAIL_P_64),
        (_TAIL_N_32, _TAIL_N_64),
    )
)


@kernel
def at_least(x, low):
    """Return max(x, low)."""
    inline()
    return low if x < low else x


@kernel
def at_most(x, high):
    """Return min(x, high)."""
    inline()
    return high if x > high else x


@kernel
def far(x):
    """Return a number a after which exp(-a) is 0, also times a."""
    inline()
    return by_type(x, 110.0, 760.0)


@kernel
def _reduced(x, low, up):
    """Return r with x + low = r + k ln 2 and |r| <= 0.35, and k + up + magic; `low` is less than a rounding error of x."""
    inline()
    magic = by_type(x, _MAGIC_32, _MAGIC_64) + up
    t = fma(x, like(x, LOG2E), magic)
    k = t - magic
    r = fma(-k, by_type(x, _LN2_HIGH_32, _LN2_HIGH_64), x)
    return fma(-k, by_type(x, _LN2_LOW_32, _LN2_LOW_64), r) + low, t


@kernel
def _up(x):
    inline()
    return by_type(x, 64.0, 512.0)


@kernel
def exp_minus(a, low):
    """Return exp(-(a + low)) / down(a) for a from 0 a little beyond `far`; `low` is less than a rounding error of a."""
    inline()
    r, t = _reduced(-a, -low, _up(a))
    return shifted(_exp(r), t)


@kernel
def down(x):
    """Return how much smaller exponentials are than what `exp_minus` gives."""
    inline()
    return by_type(x, 2.0**-64, 2.0**-512)


@kernel
def exp(x):
    """Return exp(x)."""
    inline()
    x = at_least(at_most(x, far(x)), -far(x))
    zero, up = like(x, 0), _up(x)
    r, t = _reduced(x, zero, up if x < zero else -up)
    return shifted(_exp(r), t) * (down(x) if x < zero else like(x, 1) / down(x))


@kernel
def expm1_negative(x):
    """Return exp(x) - 1 for x <= 0."""
    inline()
    zero, one = like(x, 0), like(x, 1)
    r, t = _reduced(at_least(x, by_type(x, -40.0, -80.0)), zero, zero)
    e = shifted(one, t)
    return fma(e, fma(r * r, _exp_rest(r), r), e - one)


@kernel
def log1p_unit(y):
    """Return log(1 + y) for 0 <= y <= 1: of y, or of 1 + f = (1 + y) / 2."""
    inline()
    half = like(y, 0.5)
    large = y > half
    f = (y - like(y, 1)) * half if large else y
    s = f / (like(y, 2) + f)
    z, h = s * s, half * f * f
    log = f - (h - s * fma(z, _log(z), h))  # log(1 + f) = f - h + s (h + z p(z)), the largest term last
    return log + like(y, LN2) if large else log


@kernel
def tanh(x):
    """Return tanh(x)."""
    inline()
    t = expm1_negative(like(x, -2) * abs(x))
    return with_sign(t / (t + like(x, 2)), x)


@kernel
def tanh_shrink(x):
    """Return x - tanh(x)."""
    inline()
    a, one = abs(x), like(x, 1)
    z = exp_minus(like(x, 2) * at_most(a, far(x) * like(x, 0.5)), like(x, 0)) * down(x)
    rest = (a - one) + like(x, 2) * z / (one + z)  # tanh(a) = 1 - 2 z / (1 + z)
    b = at_most(a, one)
    return with_sign(b * b * b * _shrink(b * b) if a < one else rest, x)


@kernel
def end_of_normal(x):
    """Return a number after which the density of the normal distribution is 0, also times x."""
    inline()
    return by_type(x, 15.0, 39.0)


@kernel
def normal_parts(a):
    """Return (z, t, m) of a standard normal X, for 0 <= a <= end_of_normal.

    Its density at a is z down(a); P(X > a) = z t down(a) if a >= 1, and P(0 < X < a) = m a if a <= 1. t is P(a) / (a P(a) + N(a)) with
    polynomials P and N: nearly 1 / a, whatever their rounding errors are.
    """
    inline()
    half = like(a, 0.5) * a
    square = half * a
    r, shift = _reduced(-square, fma(-half, a, square), _up(a))
    p = _tail_p(a)
    return shifted(_density(r), shift), p / fma(a, p, _tail_n(a)), _middle(square)


@kernel
def erf(x):
    """Return erf(x)."""
    inline()
    a, one = abs(x), like(x, 1)
    z, t, _ = normal_parts(at_most(a * like(x, 1.4142135623730951), end_of_normal(x)))
    b = at_most(a, one)
    return with_sign(b * _erf(b * b) if a < one else fma(like(x, -2) * down(x) * z, t, one), x)
