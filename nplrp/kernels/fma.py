"""A scalar fused multiply-add: x * y + z with one rounding, the same on every CPU."""

from fractions import Fraction

import numpy as np

from nplrp.jit import DISABLED
from nplrp.jit.lazy import intrinsic, types


@intrinsic
def _fma(context, x, y, z):
    number = types.float32 if x == y == z == types.float32 else types.float64

    def build(context, builder, signature, args):
        return builder.fma(*(context.cast(builder, a, t, number) for a, t in zip(args, (x, y, z), strict=True)))

    return number(x, y, z), build


def fma_exact(x, y, z):
    """Compute the same in fractions: for runs with the JIT off, and to check the other one."""
    kind = np.result_type(x, y, z)
    if not np.isfinite([x, y, z]).all():
        return kind.type(x * y + z)
    exact = Fraction(float(x)) * Fraction(float(y)) + Fraction(float(z))
    near = kind.type(float(exact))  # rounded twice in float32, hence perhaps not the nearest
    around = (near, np.nextafter(near, kind.type(-np.inf)), np.nextafter(near, kind.type(np.inf)))
    return min((v for v in around if np.isfinite(v)), key=lambda v: (abs(Fraction(float(v)) - exact), int(v.view(f"i{v.itemsize}")) & 1))


#: x * y + z, rounded once, in float32 if all three are, else in float64.
fma = fma_exact if DISABLED else _fma
