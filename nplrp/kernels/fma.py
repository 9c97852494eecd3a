"""A scalar fused multiply-add: x * y + z with one rounding, the same on every CPU."""

from numba.core import types
from numba.extending import intrinsic


@intrinsic
def fma(context, x, y, z):
    """Return x * y + z, rounded once, in float32 if all three are, else in float64."""
    number = types.float32 if x == y == z == types.float32 else types.float64

    def build(context, builder, signature, args):
        return builder.fma(*(context.cast(builder, a, t, number) for a, t in zip(args, (x, y, z), strict=True)))

    return number(x, y, z), build
