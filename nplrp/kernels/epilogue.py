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

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from nplrp.kernels.microkernel import SLAB
from nplrp.kernels.numba_later import cgutils, intrinsic, types
from nplrp.kernels.parallel import DISABLED, frozen, kernel
from nplrp.kernels.simd import Assembler, lanes_of
from nplrp.kernels.vector_loop import for_vectors

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


def forward_epilogue(relu, out, bias):
    """Return the epilogue of a forward pass: `out` is the sum plus `bias`, clamped at 0 if `relu`."""
    return epilogue(RELU if relu else BIAS, out, bias=bias)


def transpose_epilogue(out, a=None, z=None, eps=0.0, signed=False, out2=None, z2=None, weights=(1.0, 1.0)):
    """Return the epilogue of a transpose: STORE, with `a` TIMES, with `z` too RATIO, with `z2` and `out2` too RATIOS."""
    mode = STORE if a is None else TIMES if z is None else RATIO if z2 is None else RATIOS
    return epilogue(mode, out, None, a, z, z2, out2, eps, signed, weights)


def epilogue(mode, out, bias=None, a=None, z=None, z2=None, out2=None, eps=0.0, signed=False, weights=(1.0, 1.0)):
    """Return an epilogue with its operands as the kernels take them."""
    number, unused = out.dtype.type, _unused(out.dtype)
    inputs = [unused if v is None else frozen(v) for v in (bias, a, z, z2)]
    return Epilogue(
        mode,
        *inputs,
        out.reshape(-1),
        np.empty(0, out.dtype) if out2 is None else out2.reshape(-1),
        number(eps),
        number(-eps if signed else eps),
        number(weights[0]),
        number(weights[1]),
    )


@functools.cache
def _unused(dtype):
    return frozen(np.empty(0, dtype))


def by_mode(asm, mode, numbers, emit):
    """Branch to code for one mode each.

    Parameters
    ----------
    asm : Assembler
    mode : LLVM value
    numbers : sequence of LLVM values
        eps, below, alpha and beta.
    emit : callable
        Emits the code, given a mode and its formula (v, operand, store2): from a vector of sums to what goes to `out`. `operand` returns
        the vector of bias, a, z or z2 at that place by name, `store2` writes one to `out2`.
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
        emit(number, formula)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def _finish_slabs(typing, mode, v, v_from, v_pixel, pixels, bias, b_from, a, z, z2, out, out2, o_from, o_pixel, eps, below, alpha, beta):
    """Finish 32 sums of each of `pixels` pixels, `v_pixel` numbers apart in v and `o_pixel` in `out`."""
    dtype, whole = v.dtype, types.int64
    signature = types.void(whole, v, whole, whole, whole, bias, whole, a, z, z2, out, out2, whole, whole, dtype, dtype, dtype, dtype)

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, dtype, lanes_of(dtype))

        def each(mode, formula):
            biases = {}
            if mode in (BIAS, RELU):  # read once: the compiler can't know that `out` is another array
                biases = {n: asm.load(asm.step(asm.array(5, args[6]), n)) for n in range(0, SLAB, asm.lanes)}
            with cgutils.for_range(builder, args[4]) as counter:
                v = asm.array(1, builder.add(args[2], builder.mul(counter.index, args[3])))
                place = builder.add(args[12], builder.mul(counter.index, args[13]))
                at = {name: asm.array(k, place) for k, name in enumerate(("a", "z", "z2", "out", "out2"), 7)}
                for n in range(0, SLAB, asm.lanes):

                    def operand(name, n=n, at=at):
                        return biases[n] if name == "bias" else asm.load(asm.step(at[name], n))

                    result = formula(asm.load(asm.step(v, n)), operand, lambda w, n=n, at=at: asm.store(w, asm.step(at["out2"], n)))
                    asm.store(result, asm.step(at["out"], n))

        by_mode(asm, args[0], args[14:], each)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def _finish_numbers(typing, mode, v, v_from, bias, b_from, a, z, z2, out, out2, o_from, eps, below, alpha, beta, count):
    """Finish `count` sums from v[v_from] on and write them to `out` from out[o_from] on."""
    dtype = v.dtype
    whole = types.int64
    signature = types.void(whole, v, whole, bias, whole, a, z, z2, out, out2, whole, dtype, dtype, dtype, dtype, whole)

    def emit(context, builder, signature, args):
        def work(asm, at):
            def place(position, start):
                return asm.array(position, builder.add(start, at))

            operands = {"bias": (3, args[4]), "a": (5, args[10]), "z": (6, args[10]), "z2": (7, args[10])}

            def each(mode, formula):
                v = formula(
                    asm.load(place(1, args[2])), lambda name: asm.load(place(*operands[name])), lambda w: asm.store(w, place(9, args[10]))
                )
                asm.store(v, place(8, args[10]))

            by_mode(asm, args[0], args[11:15], each)

        for_vectors(context, builder, signature, args, dtype, args[15], 1, work, halves=True)
        return context.get_dummy_value()

    return signature, emit


def _finish_loops(mode, v, v_from, bias, b_from, a, z, z2, out, out2, o_from, eps, below, alpha, beta, count):
    """Do the same in plain loops, for runs with the JIT off."""
    for n in range(count):
        y, at, zero = v[v_from + n], o_from + n, v.dtype.type(0)
        if mode in (BIAS, RELU):
            y = y + bias[b_from + n]
            y = zero if mode == RELU and y < 0 else y
        elif mode != STORE:
            y = a[at] * y
        if mode == RATIOS:
            out2[at] = (beta * y) / (z2[at] + (below if z2[at] < 0 else eps))
            y = alpha * y
        if mode in (RATIO, RATIOS):
            y = y / (z[at] + (below if z[at] < 0 else eps))
        out[at] = y


_finish_some = _finish_loops if DISABLED else _finish_numbers


@kernel
def finish_run(e, v, v_from, b_from, o_from, count):
    """Finish the `count` sums from v[v_from] on; where the bias of the first is and where its output goes, `b_from` and `o_from` say."""
    _finish_some(e.mode, v, v_from, e.bias, b_from, e.a, e.z, e.z2, e.out, e.out2, o_from, e.eps, e.below, e.alpha, e.beta, count)


@kernel
def finish_pixels(e, v, v_from, v_pixel, pixels, channels, b_from, o_from, o_pixel):
    """Finish `channels` sums of each of `pixels` pixels, `v_pixel` numbers apart in v and `o_pixel` in the output."""
    if channels == SLAB:
        _finish_slabs(
            e.mode,
            v,
            v_from,
            v_pixel,
            pixels,
            e.bias,
            b_from,
            e.a,
            e.z,
            e.z2,
            e.out,
            e.out2,
            o_from,
            o_pixel,
            e.eps,
            e.below,
            e.alpha,
            e.beta,
        )
        return
    for n in range(pixels):
        finish_run(e, v, v_from + n * v_pixel, b_from, o_from + n * o_pixel, channels)
