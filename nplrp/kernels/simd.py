"""Vectors for the kernels: how wide they are on this target, and a small assembler for LLVM vector code.

A kernel that must run at the speed of the machine is written as a Numba `intrinsic` that emits LLVM IR with explicit
vector types. Lanes never talk to each other, so an output element sees the same operations in the same order whether
it sits in a vector of 1, 4, 8 or 16 lanes: the width changes the speed and never a bit.
"""

import numpy as np
from llvmlite import ir

from nplrp.jit.lazy import intrinsic, types
from nplrp.jit.target import vector_bits

_I32, _I64 = ir.IntType(32), ir.IntType(64)

#: Width of a vector register, in bits: 512 (AVX-512), 256 (AVX2) or 128 (NEON, SSE).
VECTOR_BITS = vector_bits()


def lanes_of(dtype) -> int:
    """Return how many numbers of a Numba float type fit into one vector."""
    return VECTOR_BITS // dtype.bitwidth


class Assembler:
    """Emits vector code for the arrays that an intrinsic was given.

    Parameters
    ----------
    context, builder, signature, args
        What Numba hands to the code generator of an intrinsic.
    dtype : numba.types.Float
        Element type of the vectors.
    lanes : int
        Numbers in a vector; 1 gives the scalar twin of the same code.
    """

    def __init__(self, context, builder, signature, args, dtype, lanes):
        self.context, self.builder, self.signature, self.args = context, builder, signature, args
        self.element = ir.FloatType() if dtype.bitwidth == 32 else ir.DoubleType()
        self.round = np.float32 if dtype.bitwidth == 32 else np.float64
        self.bytes, self.lanes = dtype.bitwidth // 8, lanes
        self.vector = ir.VectorType(self.element, lanes)
        self.add, self.sub, self.mul, self.div = builder.fadd, builder.fsub, builder.fmul, builder.fdiv
        self._fma = self._declare("llvm.fma", 3)

    def _declare(self, name, arity):
        suffix = f".v{self.lanes}f{8 * self.bytes}"
        kind = ir.FunctionType(self.vector, [self.vector] * arity)
        module = self.builder.module
        return module.globals.get(name + suffix) or ir.Function(module, kind, name + suffix)

    def array(self, position, offset, element=None):
        """Return the address of element `offset` of the array at `position` among the arguments."""
        return self.address(self.signature.args[position], self.args[position], offset, element)

    def address(self, kind, value, offset, element=None):
        """Return the address of element `offset` of an array of that type."""
        return self.step(self.context.make_array(kind)(self.context, self.builder, value).data, offset, element)

    def step(self, pointer, offset, element=None):
        """Return `pointer` moved on by `offset` elements."""
        offset = ir.Constant(_I64, offset) if isinstance(offset, int) else offset
        return self.builder.gep(pointer, [offset], inbounds=True, source_etype=element or self.element)

    def load(self, pointer):
        """Load a vector; the address needs no more alignment than one element."""
        return self.builder.load(self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.bytes, typ=self.vector)

    def store(self, value, pointer):
        """Store a vector; the address needs no more alignment than one element."""
        self.builder.store(value, self.builder.bitcast(pointer, self.vector.as_pointer()), align=self.bytes)

    def prefetch(self, pointer, offset):
        """Prefetch what lies `offset` elements behind `pointer` into the second-level cache; the address may be outside any array."""
        kind = ir.FunctionType(ir.VoidType(), [ir.PointerType(), _I32, _I32, _I32])
        module = self.builder.module
        function = module.globals.get("llvm.prefetch.p0") or ir.Function(module, kind, "llvm.prefetch.p0")
        read, second_level, data = 0, 2, 1
        there = self.builder.gep(pointer, [offset], inbounds=False, source_etype=self.element)
        self.builder.call(function, [there, *(ir.Constant(_I32, n) for n in (read, second_level, data))])

    def number(self, pointer, element=None):
        """Load one number."""
        return self.builder.load(pointer, typ=element or self.element)

    def splat(self, number):
        """Return a vector with `number` in every lane."""
        undefined = ir.Constant(self.vector, ir.Undefined)
        first = self.builder.insert_element(undefined, number, ir.Constant(_I32, 0))
        return self.builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), [0] * self.lanes))

    def shuffle(self, x, y, lanes):
        """Return the vector of these lanes of x (0, 1, ...) and y (as many later)."""
        return self.builder.shuffle_vector(x, y, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def constant(self, number):
        """Return a vector with `number`, rounded to the element type, in every lane."""
        return ir.Constant(self.vector, [float(self.round(number))] * self.lanes)

    def fma(self, x, y, z):
        """Return x * y + z, rounded once."""
        return self.builder.call(self._fma, [x, y, z])

    def below_zero(self, x):
        """Return per lane whether x < 0, which is false for a NaN."""
        return self.builder.fcmp_ordered("<", x, self.constant(0.0))

    def select(self, condition, yes, no):
        """Return per lane `yes` where `condition` holds, else `no`."""
        return self.builder.select(condition, yes, no)


@intrinsic
def prefetch(typing, x, at):
    """Prefetch the cache line of x[at] into the second-level cache."""

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, x.dtype, 1)
        asm.prefetch(asm.array(0, 0), args[1])
        return context.get_dummy_value()

    return types.void(x, types.int64), emit


@intrinsic
def copy_16(typing, x, x_from, y, y_from):
    """Copy x[x_from : x_from + 16] to y[y_from : y_from + 16]."""

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, x.dtype, lanes_of(x.dtype))
        source, to = asm.array(0, args[1]), asm.array(2, args[3])
        for n in range(0, 16, asm.lanes):
            asm.store(asm.load(asm.step(source, n)), asm.step(to, n))
        return context.get_dummy_value()

    return types.void(x, types.int64, y, types.int64), emit


@intrinsic
def copy_some(typing, x, x_from, y, y_from, count):
    """Copy x[x_from : x_from + count], count <= 16, to y[y_from : y_from + count], and zeros behind it up to y_from + 16; reads all 16."""

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, x.dtype, lanes_of(x.dtype))
        source, to = asm.array(0, args[1]), asm.array(2, args[3])
        whole = ir.VectorType(_I64, asm.lanes)
        undefined = ir.Constant(whole, ir.Undefined)
        count = builder.insert_element(undefined, args[4], ir.Constant(_I32, 0))
        count = builder.shuffle_vector(count, undefined, ir.Constant(ir.VectorType(_I32, asm.lanes), [0] * asm.lanes))
        for n in range(0, 16, asm.lanes):
            within = builder.icmp_signed("<", ir.Constant(whole, list(range(n, n + asm.lanes))), count)
            asm.store(asm.select(within, asm.load(asm.step(source, n)), asm.constant(0.0)), asm.step(to, n))
        return context.get_dummy_value()

    return types.void(x, types.int64, y, types.int64, types.int64), emit


@intrinsic
def writable(typing, array):
    """Return the same array as a type that may be written to, so that it can stand in one variable with others; don't write to it."""

    def emit(context, builder, signature, args):
        from numba.core.imputils import impl_ret_borrowed

        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return array.copy(readonly=False)(array), emit


@intrinsic
def keep_apart(typing):
    """Forbid the compiler to inline the function that calls this: kernels nest, and each level would compile it anew."""

    def emit(context, builder, signature, args):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit
