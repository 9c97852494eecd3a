"""What happens to a finished sum on its way to the output array: the last line of every convolution kernel.

======== ===================================================================================================
STORE    out = v
BIAS     out = v + bias
RELU     out = y if not y < 0 else 0, with y = v + bias; a NaN stays a NaN, -inf becomes one
TIMES    out = a * v
RATIO    out = (a * v) / stab(z)
RATIOS   out = (alpha * (a * v)) / stab(z), out2 = (beta * (a * v)) / stab(z2)
======== ===================================================================================================

with stab(z) = z + eps, or z + eps * sign(z) where sign(0) = +1: the operations, their order and so the bits are those of
the page `R = a * c; s = R / stab(z)` in `nplrp.lrp`.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from nplrp.kernels.microkernel import SLAB
from nplrp.kernels.numba_later import intrinsic, types
from nplrp.kernels.parallel import kernel
from nplrp.kernels.simd import Assembler, lanes_of

STORE, BIAS, RELU, TIMES, RATIO, RATIOS = range(6)


class Epilogue(NamedTuple):
    """The operands of an epilogue: flat arrays (`a`, `z`, `z2`, `out`, `out2` of the shape of the output) and scalars.

    `below` is what stab adds to a negative z: eps, or -eps if the stabiliser follows the sign.
    """

    mode: int
    bias: np.ndarray
    a: np.ndarray
    z: np.ndarray
    z2: np.ndarray
    out: np.ndarray
    out2: np.ndarray
    eps: float
    below: float
    alpha: float
    beta: float


def _make_finish(count, lanes=None):
    """Return an intrinsic that finishes `count` sums from v[v_from] on and writes them to `out` from out[o_from] on."""

    @intrinsic
    def finish(typing, mode, v, v_from, bias, b_from, a, z, z2, out, out2, o_from, eps, below, alpha, beta):
        dtype = v.dtype
        whole = types.int64
        signature = types.void(whole, v, whole, bias, whole, a, z, z2, out, out2, whole, dtype, dtype, dtype, dtype)

        def emit(context, builder, signature, args):
            asm = Assembler(context, builder, signature, args, dtype, lanes or lanes_of(dtype))
            mode, v_from, b_from, o_from = args[0], args[2], args[4], args[10]
            eps, below, alpha, beta = (asm.splat(number) for number in args[11:])
            v, bias, a, z, z2, out, out2 = (asm.array(k, at) for k, at in ((1, v_from), (3, b_from), *((k, o_from) for k in range(5, 10))))

            def get(array, n):
                return asm.load(asm.step(array, n))

            def stabilised(array, n):
                z = get(array, n)
                return asm.add(z, asm.select(asm.below_zero(z), below, eps))

            def biased(n):
                return asm.add(get(v, n), get(bias, n))

            def relu(n):
                y = biased(n)
                return asm.select(asm.below_zero(y), asm.constant(0.0), y)

            def times(n):
                return asm.mul(get(a, n), get(v, n))

            def ratios(n):
                relevance = times(n)
                asm.store(asm.div(asm.mul(beta, relevance), stabilised(z2, n)), asm.step(out2, n))
                return asm.div(asm.mul(alpha, relevance), stabilised(z, n))

            formulas = {
                STORE: lambda n: get(v, n),
                BIAS: biased,
                RELU: relu,
                TIMES: times,
                RATIO: lambda n: asm.div(times(n), stabilised(z, n)),
                RATIOS: ratios,
            }
            done = builder.append_basic_block("done")
            switch = builder.switch(mode, done)
            for number, formula in formulas.items():
                block = builder.append_basic_block(f"mode{number}")
                switch.add_case(ir.Constant(mode.type, number), block)
                builder.position_at_end(block)
                for n in range(0, count, asm.lanes):
                    asm.store(formula(n), asm.step(out, n))
                builder.branch(done)
            builder.position_at_end(done)
            return context.get_dummy_value()

        return signature, emit

    return finish


_finish_slab, _finish_number = _make_finish(SLAB), _make_finish(1, lanes=1)


@kernel
def finish_tile(e, v, v_from, v_row, height, width, channels, first_channel, o_from, o_row, o_pixel):
    """Finish a tile of pixels.

    Parameters
    ----------
    e : Epilogue
    v : ndarray, flat
        The sums: 32 for every pixel, `v_row` numbers from one row of pixels to the next.
    height, width, channels : int
        Pixels down and across, and channels; more than 32 only of a single pixel.
    first_channel : int
        Where the bias of the first of them is.
    o_from, o_row, o_pixel : int
        Where the first pixel's first channel is in the output, and the steps from row to row and pixel to pixel there.
    """
    whole = channels // SLAB * SLAB
    for i in range(height):
        for j in range(width):
            vp, op = v_from + i * v_row + j * SLAB, o_from + i * o_row + j * o_pixel
            for c in range(0, whole, SLAB):
                bc = first_channel + c
                _finish_slab(e.mode, v, vp + c, e.bias, bc, e.a, e.z, e.z2, e.out, e.out2, op + c, e.eps, e.below, e.alpha, e.beta)
            for c in range(whole, channels):
                bc = first_channel + c
                _finish_number(e.mode, v, vp + c, e.bias, bc, e.a, e.z, e.z2, e.out, e.out2, op + c, e.eps, e.below, e.alpha, e.beta)
