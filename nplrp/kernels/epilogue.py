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

from nplrp.jit import kernel
from nplrp.jit.lazy import intrinsic, types
from nplrp.kernels.microkernel import SLAB
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


def by_mode(asm, mode, numbers, emit):
    """Emit a branch to the code of the mode, for every mode there is.

    Parameters
    ----------
    asm : Assembler
    mode : LLVM value
    numbers : sequence of LLVM values
        eps, below, alpha and beta.
    emit : callable
        Emits the code of one mode, given its formula (v, operand, store2): it turns the vector of sums v into what goes to `out`.
        operand(name) loads the vector of bias, a, z or z2 at that place; store2(vector) writes to `out2`.
    """
    eps, below, alpha, beta = (asm.splat(number) for number in numbers)

    def stabilised(z):
        return asm.add(z, asm.select(asm.below_zero(z), below, eps))

    def biased(v, operand, store2):
        return asm.add(v, operand("bias"))

    def relu(v, operand, store2):
        y = biased(v, operand, store2)
        return asm.select(asm.below_zero(y), asm.constant(0.0), y)

    def times(v, operand, store2):
        return asm.mul(operand("a"), v)

    def ratio(v, operand, store2):
        return asm.div(times(v, operand, store2), stabilised(operand("z")))

    def ratios(v, operand, store2):
        relevance = times(v, operand, store2)
        store2(asm.div(asm.mul(beta, relevance), stabilised(operand("z2"))))
        return asm.div(asm.mul(alpha, relevance), stabilised(operand("z")))

    formulas = {STORE: lambda v, operand, store2: v, BIAS: biased, RELU: relu, TIMES: times, RATIO: ratio, RATIOS: ratios}
    builder = asm.builder
    done = builder.append_basic_block("done")
    switch = builder.switch(mode, done)
    for number, formula in formulas.items():
        block = builder.append_basic_block(f"mode{number}")
        switch.add_case(ir.Constant(mode.type, number), block)
        builder.position_at_end(block)
        emit(formula)
        builder.branch(done)
    builder.position_at_end(done)


def _make_finish(count, lanes=None):
    """Return an intrinsic that finishes `count` sums from v[v_from] on and writes them to `out` from out[o_from] on."""

    @intrinsic
    def finish(typing, mode, v, v_from, bias, b_from, a, z, z2, out, out2, o_from, eps, below, alpha, beta):
        dtype = v.dtype
        whole = types.int64
        signature = types.void(whole, v, whole, bias, whole, a, z, z2, out, out2, whole, dtype, dtype, dtype, dtype)

        def emit(context, builder, signature, args):
            asm = Assembler(context, builder, signature, args, dtype, lanes or lanes_of(dtype))
            starts = {"v": (1, args[2]), "bias": (3, args[4])} | {
                name: (k, args[10]) for k, name in enumerate(("a", "z", "z2", "out", "out2"), 5)
            }
            starts = {name: asm.array(*start) for name, start in starts.items()}

            def each(formula):
                for n in range(0, count, asm.lanes):
                    at = {name: asm.step(start, n) for name, start in starts.items()}
                    v = formula(asm.load(at["v"]), lambda name, at=at: asm.load(at[name]), lambda w, at=at: asm.store(w, at["out2"]))
                    asm.store(v, at["out"])

            by_mode(asm, args[0], args[11:], each)
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
