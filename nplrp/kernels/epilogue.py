"""What happens to a finished sum on its way to the output array: the last line of every convolution kernel.

======== ===================================================================================================
STORE    out = v
BIAS     out = v + bias
RELU     out = min(max(y, 0), top) with y = v + bias; a NaN stays a NaN, and an infinity that is cut off becomes one
TIMES    out = a * v
RATIO    out = (a * v) / stab(z)
RATIOS   out = (alpha * (a * v)) / stab(z), out2 = (beta * (a * v)) / stab(z2)
======== ===================================================================================================

with stab(z) = z + eps, or z + eps * sign(z) where sign(0) = +1: the operations, their order and so the bits are those of
the page `R = a * c; s = R / stab(z)` in `nplrp.lrp`.

The output may have several runs of the images that a, z and z2 have, one after the other: one for each of several targets.
"""

import functools
from typing import NamedTuple

import numpy as np
from llvmlite import ir

from nplrp.jit import DISABLED, frozen
from nplrp.jit.lazy import cgutils, intrinsic, types
from nplrp.kernels.microkernel import SLAB
from nplrp.kernels.simd import Assembler
from nplrp.kernels.vector_loop import I64, for_vectors

STORE, BIAS, RELU, TIMES, RATIO, RATIOS = range(6)


class Epilogue(NamedTuple):
    """The operands of an epilogue: flat arrays and scalars.

    `out` and `out2` have the shape of the output, `a`, `z` and `z2` too, or a part of its images, which repeat. `below` is what stab adds
    to a negative z: eps, or -eps if the stabiliser follows the sign. `top` is infinite for a plain ReLU.
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
    top: float


#: The arrays that may have fewer images than the output.
_REPEATED = ("a", "z", "z2")


def forward_epilogue(relu, out, bias):
    """Return the epilogue of a forward pass: `out` is the sum plus `bias`, clamped at 0 if `relu`, and at `relu` if that is a number."""
    top = np.inf if isinstance(relu, (bool, np.bool_)) else relu
    return epilogue(RELU if relu else BIAS, out, bias=bias, top=top)


def transpose_epilogue(out, a=None, z=None, eps=0.0, signed=False, out2=None, z2=None, weights=(1.0, 1.0)):
    """Return the epilogue of a transpose: STORE, with `a` TIMES, with `z` too RATIO, with `z2` and `out2` too RATIOS."""
    mode = STORE if a is None else TIMES if z is None else RATIO if z2 is None else RATIOS
    return epilogue(mode, out, None, a, z, z2, out2, eps, signed, weights)


def epilogue(mode, out, bias=None, a=None, z=None, z2=None, out2=None, eps=0.0, signed=False, weights=(1.0, 1.0), top=np.inf):
    """Return an epilogue with its operands as the kernels take them."""
    number, unused = out.dtype.type, _unused(out.dtype)
    inputs = [unused if v is None else frozen(v) for v in (bias, a, z, z2)]
    second = np.empty(0, out.dtype) if out2 is None else out2.reshape(-1)
    numbers = map(number, (eps, -eps if signed else eps, *weights, top))
    return Epilogue(mode, *inputs, out.reshape(-1), second, *numbers)


@functools.cache
def _unused(dtype):
    return frozen(np.empty(0, dtype))


class Operands:
    """An epilogue inside of an intrinsic: its fields, by name.

    Parameters
    ----------
    context, builder
    kind : numba.types.NamedTuple
    value : LLVM value
    first : LLVM value
        The first place of the output that is finished; all others are in the same run of images.
    """

    def __init__(self, context, builder, kind, value, first):
        self._kinds = dict(zip(Epilogue._fields, kind.types, strict=True))
        self._values = {name: builder.extract_value(value, k) for k, name in enumerate(Epilogue._fields)}
        self.mode = self._values["mode"]
        run = context.make_array(self._kinds["a"])(context, builder, self._values["a"]).nitems
        self._passed = cgutils.alloca_once_value(builder, ir.Constant(I64, 0))
        begins, further = (builder.icmp_signed(test, run, other) for test, other in ((">", ir.Constant(I64, 0)), ("<=", first)))
        with builder.if_then(builder.and_(begins, further), likely=False):
            builder.store(builder.mul(builder.udiv(first, run), run), self._passed)

    def array(self, asm, name, place):
        """Return the address of what an array has for a place of the output, the bias for one of its channels."""
        if name in _REPEATED:
            place = asm.builder.sub(place, asm.builder.load(self._passed, typ=I64))
        return asm.address(self._kinds[name], self._values[name], place)

    def splat(self, asm, name):
        """Return a vector of a scalar."""
        return asm.splat(self._values[name])


def by_mode(asm, e, emit):
    """Branch to code for one mode each.

    Parameters
    ----------
    asm : Assembler
    e : Operands
    emit : callable
        Emits the code, given a mode and its formula (v, operand, store2): from a vector of sums to what goes to `out`. `operand` returns
        the vector of bias, a, z or z2 at that place by name, `store2` writes one to `out2`.
    """
    eps, below, alpha, beta, top = (e.splat(asm, name) for name in ("eps", "below", "alpha", "beta", "top"))
    builder, zero = asm.builder, asm.constant(0.0)

    def stabilised(z):
        return asm.add(z, asm.select(asm.below_zero(z), below, eps))

    def biased(v, operand, store2):
        return asm.add(v, operand("bias"))

    def relu(v, operand, store2):
        y = biased(v, operand, store2)
        nothing = asm.mul(y, zero)  # a NaN, if y is infinite
        y = asm.select(builder.fcmp_ordered(">", y, top), asm.add(nothing, top), y)
        return asm.select(asm.below_zero(y), asm.add(nothing, zero), y)

    def times(v, operand, store2):
        return asm.mul(operand("a"), v)

    def ratio(v, operand, store2):
        return asm.div(times(v, operand, store2), stabilised(operand("z")))

    def ratios(v, operand, store2):
        relevance = times(v, operand, store2)
        store2(asm.div(asm.mul(beta, relevance), stabilised(operand("z2"))))
        return asm.div(asm.mul(alpha, relevance), stabilised(operand("z")))

    formulas = {STORE: lambda v, operand, store2: v, BIAS: biased, RELU: relu, TIMES: times, RATIO: ratio, RATIOS: ratios}
    done = builder.append_basic_block("done")
    switch = builder.switch(e.mode, done)
    for number, formula in formulas.items():
        block = builder.append_basic_block(f"mode{number}")
        switch.add_case(ir.Constant(e.mode.type, number), block)
        builder.position_at_end(block)
        emit(number, formula)
        builder.branch(done)
    builder.position_at_end(done)


@intrinsic
def _finish_vectors(typing, e, v, v_from, v_pixel, pixels, channels, b_from, o_from, o_pixel):
    dtype, whole = v.dtype, types.int64
    signature = types.void(e, v, *[whole] * 7)

    def emit(context, builder, signature, args):
        _, _, v_from, v_pixel, pixels, channels, b_from, o_from, o_pixel = args
        operands = Operands(context, builder, e, args[0], o_from)

        def work(asm, n):
            """Finish the vector of sums n numbers behind the first, of every pixel."""

            def each(mode, formula):
                bias = asm.load(operands.array(asm, "bias", builder.add(b_from, n))) if mode in (BIAS, RELU) else None
                with cgutils.for_range(builder, pixels) as counter:
                    place = builder.add(builder.add(o_from, n), builder.mul(counter.index, o_pixel))
                    total = asm.load(asm.array(1, builder.add(builder.add(v_from, n), builder.mul(counter.index, v_pixel))))
                    result = formula(
                        total,
                        lambda name: bias if name == "bias" else asm.load(operands.array(asm, name, place)),
                        lambda w: asm.store(w, operands.array(asm, "out2", place)),
                    )
                    asm.store(result, operands.array(asm, "out", place))

            by_mode(asm, operands, each)

        for_vectors(context, builder, signature, args, dtype, channels, 1, work, least=1)
        return context.get_dummy_value()

    return signature, emit


def _finish_loops(e, v, v_from, v_pixel, pixels, channels, b_from, o_from, o_pixel):
    zero, passed = v.dtype.type(0), o_from // e.a.size * e.a.size if e.a.size else 0
    for k in range(pixels * channels):
        pixel, n = k // channels, k % channels
        y, at = v[v_from + pixel * v_pixel + n], o_from + pixel * o_pixel + n
        if e.mode in (BIAS, RELU):
            y = y + e.bias[b_from + n]
        if e.mode == RELU:
            nothing = y * zero
            y = nothing + e.top if y > e.top else y
            y = nothing + zero if y < 0 else y
        elif e.mode in (TIMES, RATIO, RATIOS):
            y = e.a[at - passed] * y
        if e.mode == RATIOS:
            z2 = e.z2[at - passed]
            e.out2[at] = (e.beta * y) / (z2 + (e.below if z2 < 0 else e.eps))
            y = e.alpha * y
        if e.mode in (RATIO, RATIOS):
            z = e.z[at - passed]
            y = y / (z + (e.below if z < 0 else e.eps))
        e.out[at] = y


#: finish_pixels(e, v, v_from, v_pixel, pixels, channels, b_from, o_from, o_pixel): finish `channels` sums of each of `pixels` pixels, which
#: are `v_pixel` numbers apart in v, from `v_from` on, and `o_pixel` in the output, from `o_from` on. The first bias is at `b_from`. All
#: pixels are in the same run of the images that `e.a` has.
finish_pixels = _finish_loops if DISABLED else _finish_vectors


@intrinsic
def bring_pixels(typing, e, pixels, o_from, o_pixel):
    """Ask for the lines of memory that 32 channels of `pixels` pixels will be written to and, except for a forward pass, read from."""

    def emit(context, builder, signature, args):
        _, pixels, o_from, o_pixel = args
        operands = Operands(context, builder, e, args[0], o_from)
        asm = Assembler(context, builder, signature, args, e.types[1].dtype, 1)
        line, zero = 64 // asm.bytes, ir.Constant(I64, 0)

        def bring(name):
            with cgutils.for_range(builder, pixels) as counter:
                first = builder.add(o_from, builder.mul(counter.index, o_pixel))
                for n in range(0, SLAB, line):
                    asm.prefetch(operands.array(asm, name, builder.add(first, ir.Constant(I64, n))), zero)

        bring("out")
        for name, mode in (("a", TIMES), ("z", RATIO), ("z2", RATIOS), ("out2", RATIOS)):
            with builder.if_then(builder.icmp_signed(">=", operands.mode, ir.Constant(operands.mode.type, mode))):
                bring(name)
        return context.get_dummy_value()

    whole = types.int64
    return types.void(e, whole, whole, whole), emit
