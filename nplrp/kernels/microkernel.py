"""The microkernel: a small block of outputs held in registers while the products run past.

`multiply` is the inner loop of every convolution here, direct or Winograd. For `rows` pixels and 32 columns (output
channels) it computes

    C[m, n] = (C[m, n] +) sum over blocks b, k < depth of A[offsets[b] + 16 m + k] * B[(b - first) * depth + k, n]

as one chain of fused multiply-adds per element, k ascending, starting from +0. The offset table lets the same loop walk the
taps of a convolution or the channel blocks of a matrix product. A call may add its chain to C, or go on with the chain that
C holds: so a long chain runs in parts whose operands fit into a cache, with the same bits as in one go.
Which pixels and columns share registers is a matter of speed only.
"""

import numpy as np
from llvmlite import ir

from nplrp.jit import kernel
from nplrp.jit.lazy import intrinsic, types
from nplrp.kernels.simd import VECTOR_BITS, Assembler, keep_apart, lanes_of

#: Channels in a block of A: the distance from one pixel to the next.
BLOCK = 16
#: Columns (output channels) that are computed together.
SLAB = 32
#: Pixels come in even numbers; a caller pads.
ROW_STEP = 2
#: Most pixels (and vectors of columns) that the register file holds: 28, 12 and 24 accumulators.
MAX_ROWS, VECTORS = {512: (14, 2), 256: (6, 2), 128: (6, 4)}[VECTOR_BITS]
#: Columns of a panel of B, in which they are neighbours: as many as the registers hold.
PANEL_32, PANEL_64 = VECTORS * VECTOR_BITS // 32, VECTORS * VECTOR_BITS // 64
#: What becomes of C: overwritten; the chain is added to it; the chain goes on from it.
NEW, ADDED, CONTINUED = range(3)
_UNROLL = 4


def make_microkernel(rows, vectors=VECTORS, lanes=None, panel=None):
    """Return an intrinsic for `rows` pixels and `vectors * lanes` columns; nothing is emitted for more rows than fit.

    Parameters
    ----------
    rows, vectors : int
    panel : int, optional
        Vectors of columns in a panel of B, of which the first are used. Default: `vectors`.
    lanes : int, optional
        Default: the vector width of the target. `lanes=1` is the scalar twin, with the same bits.
    """

    @intrinsic
    def microkernel(typing, a, a_from, a_next, offsets, first, last, depth, b, b_from, b_next, c, c_from, into):
        dtype = a.dtype
        whole = types.int64
        signature = types.void(a, whole, whole, offsets, whole, whole, whole, b, whole, whole, c, whole, whole)

        def emit(context, builder, signature, args):
            if rows <= MAX_ROWS:
                asm = Assembler(context, builder, signature, args, dtype, lanes or lanes_of(dtype))
                _emit(asm, args, rows, vectors, (panel or vectors) * asm.lanes)
            return context.get_dummy_value()

        return signature, emit

    return microkernel


def _emit(asm, args, rows, vectors, panel):
    _, a_from, a_next, _, first, last, depth, _, b_from, b_next, _, c_from, into = args
    builder, index = asm.builder, ir.IntType(64)
    cells = [(m, v) for m in range(rows) for v in range(vectors)]
    a, table, b, c = asm.array(0, a_from), asm.array(3, 0, index), asm.array(7, b_from), asm.array(10, c_from)
    before = builder.block
    places = {(m, v): asm.step(c, m * SLAB + v * asm.lanes) for m, v in cells}
    names = ("resume", "blocks", "depth", "next", "done", "add", "store")
    resume, over_blocks, over_depth, next_block, done, add, store = (builder.function.append_basic_block(n) for n in names)
    builder.cbranch(builder.icmp_signed("==", into, ir.Constant(index, CONTINUED)), resume, over_blocks)

    builder.position_at_end(resume)
    held = {cell: asm.load(places[cell]) for cell in cells}
    builder.branch(over_blocks)

    builder.position_at_end(over_blocks)
    block, b_block = builder.phi(index), builder.phi(b.type)
    sums_block = {cell: builder.phi(asm.vector) for cell in cells}
    for earlier in (before, resume):
        block.add_incoming(first, earlier)
        b_block.add_incoming(b, earlier)
    for cell in cells:
        sums_block[cell].add_incoming(asm.constant(0.0), before)
        sums_block[cell].add_incoming(held[cell], resume)
    a_block = asm.step(a, asm.number(asm.step(table, block, index), index))
    for m in range(rows):
        asm.prefetch(asm.step(a_block, m * BLOCK), a_next)
    builder.branch(over_depth)

    builder.position_at_end(over_depth)
    k, b_k = builder.phi(index), builder.phi(b.type)
    sums = {cell: builder.phi(asm.vector) for cell in cells}
    k.add_incoming(ir.Constant(index, 0), over_blocks)
    b_k.add_incoming(b_block, over_blocks)
    for cell in cells:
        sums[cell].add_incoming(sums_block[cell], over_blocks)
    now, a_k = dict(sums), asm.step(a_block, k)
    for u in range(_UNROLL):
        wanted = [asm.step(b_k, u * panel + v * asm.lanes) for v in range(vectors)]
        columns = [asm.load(place) for place in wanted]
        for place in wanted:
            asm.prefetch(place, b_next)
        for m in range(rows):
            pixel = asm.splat(asm.number(asm.step(a_k, m * BLOCK + u)))
            for v in range(vectors):
                now[m, v] = asm.fma(pixel, columns[v], now[m, v])
    k_next, b_next = builder.add(k, ir.Constant(index, _UNROLL)), asm.step(b_k, _UNROLL * panel)
    k.add_incoming(k_next, over_depth)
    b_k.add_incoming(b_next, over_depth)
    for cell in cells:
        sums[cell].add_incoming(now[cell], over_depth)
    builder.cbranch(builder.icmp_signed("<", k_next, depth), over_depth, next_block)

    builder.position_at_end(next_block)
    block_next = builder.add(block, ir.Constant(index, 1))
    block.add_incoming(block_next, next_block)
    b_block.add_incoming(b_next, next_block)
    for cell in cells:
        sums_block[cell].add_incoming(now[cell], next_block)
    builder.cbranch(builder.icmp_signed("<", block_next, last), over_blocks, done)

    builder.position_at_end(done)
    builder.cbranch(builder.icmp_signed("==", into, ir.Constant(index, ADDED)), add, store)

    builder.position_at_end(add)
    for cell in cells:
        asm.store(asm.add(asm.load(places[cell]), now[cell]), places[cell])
    finished = builder.append_basic_block("finished")
    builder.branch(finished)

    builder.position_at_end(store)
    for cell in cells:
        asm.store(now[cell], places[cell])
    builder.branch(finished)
    builder.position_at_end(finished)


_rows_2, _rows_4, _rows_6, _rows_8 = (make_microkernel(n) for n in (2, 4, 6, 8))
_rows_10, _rows_12, _rows_14 = (make_microkernel(n) for n in (10, 12, 14))
# Few columns and many pixels, as of a transpose to an image: half a panel, in the two sizes that a long row falls into.
_half_most, _half_less = (make_microkernel(n, VECTORS // 2, panel=VECTORS) for n in (MAX_ROWS, MAX_ROWS - ROW_STEP))


@kernel
def multiply(rows, columns, a, a_from, a_next, offsets, first, last, depth, b, b_from, b_next, b_panel, c, c_from, into):
    """Multiply `rows` pixels (an even number) with the first `columns` (at most 32) columns of a slab.

    Parameters
    ----------
    rows, columns : int
    a, b, c : ndarray, flat
        C has 32 columns; columns that fill up the last half panel, or panel, are written too.
    a_from, b_from, c_from : int
        Where the block starts in each of them; `b_from` is where the first panel starts.
    a_next, b_next : int
        How much further on the numbers lie that are wanted next: they are prefetched meanwhile.
    offsets : ndarray of int64
        Where each block of channels starts in `a`, relative to `a_from`.
    first, last : int
        The blocks to do: `first` to `last - 1`.
    depth : int
        Channels in a block that count: a multiple of 4, at most 16.
    b_panel : int
        Numbers from one panel of B to the next.
    into : int
        `NEW`, `ADDED` or `CONTINUED`.
    """
    keep_apart()
    panel = PANEL_32 if a.itemsize == 4 else PANEL_64
    calls = (rows + MAX_ROWS - 1) // MAX_ROWS
    pairs = rows // ROW_STEP
    for n in range((columns + panel - 1) // panel):
        bn, cn = b_from + n * b_panel, c_from + n * panel
        half = columns - n * panel <= panel // 2
        for i in range(calls):
            m = pairs * i // calls * ROW_STEP
            count = pairs * (i + 1) // calls * ROW_STEP - m
            am, cm = a_from + m * BLOCK, cn + m * SLAB
            if half and count == MAX_ROWS:
                _half_most(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif half and count == MAX_ROWS - ROW_STEP:
                _half_less(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif count == 6:
                _rows_6(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif count == 4:
                _rows_4(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif count == 2:
                _rows_2(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif count == 14:
                _rows_14(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif count == 12:
                _rows_12(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif count == 10:
                _rows_10(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)
            elif count == 8:
                _rows_8(a, am, a_next, offsets, first, last, depth, b, bn, b_next, c, cm, into)


def multiply_loops(a, offsets, depth, b, rows, columns):
    """Return C [rows, columns] by the definition of `multiply` in plain loops, for the tests.

    Python has no fused multiply-add, so the sums agree with the kernel to rounding only.
    """
    c = np.zeros((rows, columns), a.dtype)
    for m in range(rows):
        for block, start in enumerate(offsets):
            for k in range(depth):
                c[m] += a[start + m * BLOCK + k] * b[block * depth + k, :columns]
    return c
