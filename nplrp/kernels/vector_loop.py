"""The loop that an intrinsic runs over numbers that lie side by side: whole vectors first, then one number at a time."""

from llvmlite import ir

from nplrp.jit.lazy import cgutils
from nplrp.kernels.simd import Assembler, lanes_of

I32, I64 = ir.IntType(32), ir.IntType(64)


def for_vectors(context, builder, signature, args, dtype, n, unroll, work, least=None):
    """Emit work(assembler, place) for all n places: `unroll` vectors a turn, then single vectors, then single numbers.

    With `least` half vectors, quarters and so on down to that many numbers come instead of single ones.
    """
    begin, widest = ir.Constant(I64, 0), lanes_of(dtype)
    some = [widest >> k for k in range(1, widest.bit_length()) if widest >> k >= least] if least else [1]
    for lanes, steps in dict.fromkeys(((widest, unroll), (widest, 1), *((lanes, 1) for lanes in some))):
        asm = Assembler(context, builder, signature, args, dtype, lanes)
        width = ir.Constant(I64, lanes * steps)
        count = builder.sdiv(builder.sub(n, begin), width)
        with cgutils.for_range(builder, count) as counter:
            at = builder.add(begin, builder.mul(counter.index, width))
            for u in range(steps):
                work(asm, builder.add(at, ir.Constant(I64, u * lanes)))
        begin = builder.add(begin, builder.mul(count, width))
