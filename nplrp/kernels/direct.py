"""Direct convolution: any kernel, stride, dilation, padding and groups, and the transposes of all these.

It is a matrix product. A thread gathers what some output pixels read, a row of numbers for each, with zeros for what lies outside the
image; then it multiplies these rows with one slab of weights after the other, a part of the chain at a time that stays in the cache. Taps
of a kernel that read the same pixels of the image, only further on, share what is gathered.

A transpose with strides falls into phases: output pixels that lie `up` apart see the same taps of the kernel, one after the other in the
image, and no zeros in between. Each phase is a convolution of its own.

Order per output element: term by term, then kernel rows, kernel columns, input channels ascending, each product fused into the sum;
padding takes part as exact zeros.

A transpose back to few channels (the image's three) would waste most columns of the registers. There the columns of a phase's kernel count
as output channels: a chain runs over terms, kernel rows and input channels, and the chains of the kernel columns are added from left to
right.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from nplrp.jit import kernel, shared_kernel
from nplrp.jit.lazy import cgutils, intrinsic, types
from nplrp.kernels.epilogue import bring_pixels, finish_pixels
from nplrp.kernels.microkernel import BLOCK, CONTINUED, MAX_ROWS, NEW, PANEL_32, PANEL_64, ROW_STEP, SLAB, multiply
from nplrp.kernels.simd import Assembler, copy_16, copy_some, keep_apart
from nplrp.kernels.vector_loop import I64

#: Bytes that are gathered at a time, and bytes of a slab's weights that are multiplied with before the next part of the chain: with what
#: else is touched about half a second-level cache.
_GATHERED, _WEIGHTS = 524288, 262144
#: Channels of a folded sum: two columns at least fit into a block.
_MOST_FOLDED = BLOCK // 2
#: Pixels that are multiplied before their sums are finished.
_PIECE = max(2, 28 // MAX_ROWS) * MAX_ROWS


class Layout(NamedTuple):
    """What all phases have in common: terms, groups, slabs of a group, and how many numbers a slab of weights has."""

    terms: int
    groups: int
    slabs: int
    slab_size: int


class Plan(NamedTuple):
    """A convolution as the kernel takes it.

    Attributes
    ----------
    layout : Layout
    phases : ndarray of int64 [phases, 16]
        First row and column of the output; rows and columns (widened, if folded); kernel rows and their dilation in the source; runs of a
        kernel row; blocks of a run and their depth; first unit; where the weights start, in rows of a slab; kernel columns that are
        folded and their dilation; runs of a kernel row that no other is a part of, and how many pixels more they must have for that; first
        of the `places`.
    places : ndarray of int64 [runs of all phases, 2]
        Of each run: in which of those runs its pixels lie, too, and how many pixels further on.
    units : ndarray of int64 [units, 3]
        What every pixel reads, phase by phase, kernel row by kernel row, run by run: source row and column relative to the pixel's, how
        many columns.
    taps : ndarray of int64 [taps, 6]
        Where weights go: term, kernel row and column, step to the kernel column that further output channels stand for, how many such
        columns, row in the slab.
    """

    layout: Layout
    phases: np.ndarray
    places: np.ndarray
    units: np.ndarray
    taps: np.ndarray


def blocking(channels):
    """Return into how many blocks the channels fall, and how many (a multiple of 4, at most 16) are in each."""
    blocks = max(-(-channels // BLOCK), 1)
    return blocks, max(-(-channels // (4 * blocks)) * 4, 4)


def plan(p, terms, transposed):
    """Return the `Plan` of a problem; it is a function of the arguments alone."""
    cin, cout = p.cin // p.groups, p.cout // p.groups
    rows = [_taps(phase, p.kernel_h, p.stride_h, p.dilation_h, p.top, p.up_h) for phase in range(min(p.up_h, p.out_height))]
    columns = [_taps(phase, p.kernel_w, p.stride_w, p.dilation_w, p.left, p.up_w) for phase in range(min(p.up_w, p.out_width))]
    most = max((len(each) for each in columns), default=0)
    fold = transposed and most > 1 and most * cout <= BLOCK and p.groups == 1
    phases, places, units, taps, k = [], [], [], [], 0
    for y, down in enumerate(rows):
        for x, across in enumerate(columns):
            step, dilation = (across[1][n] - across[0][n] if len(across) > 1 else 0 for n in range(2))
            # few channels of neighbours in the image are neighbours in memory, too
            merged = not fold and cin < BLOCK and p.groups == 1 and dilation == 1
            width, runs = (len(across), across[:1]) if merged else (1, across[:1] if fold else across)
            blocks, depth = blocking(width * cin)
            first, start, folded = len(units), k, max(1, len(across)) if fold else 1
            heads, first_place = {}, len(places)
            for _, u in runs:  # those that lie strides apart
                head, begin = heads.setdefault(u % p.stride_w, (len(heads), u))
                places.append((head, (u - begin) // p.stride_w))
            more = max((shift for _, shift in places[first_place:]), default=0)
            units += [(v, u, width) for _, v in down for _, u in runs]
            for term in range(terms):
                for i, _ in down:
                    for j, _ in runs:
                        taps += [(term, i, j + n * step, step, folded, k + n * cin) for n in range(width)]
                        k += blocks * depth
            out_rows, wide = -(-(p.out_height - y) // p.up_h), -(-(p.out_width - x) // p.up_w) + (folded - 1) * dilation
            kernel_rows = len(down), down[1][1] - down[0][1] if len(down) > 1 else 0
            runs_of_a_row = len(runs), blocks, depth, first, start, folded, dilation, len(heads), more, first_place
            phases.append((y, x, out_rows, wide, *kernel_rows, *runs_of_a_row))
    layout = Layout(terms, p.groups, -(-(most if fold else 1) * cout // SLAB), k * SLAB)
    return Plan(layout, *(_table(*each) for each in ((phases, 16), (places, 2), (units, 3), (taps, 6))))


def _taps(first, count, stride, dilation, before, up):
    """Return (position in the kernel, offset in the source) of the taps that output `first`, and others `up` apart, see."""
    places = [(n, first * stride + n * dilation - before) for n in range(count)]
    return [(n, place // up) for n, place in places if place % up == 0]


def _table(rows, width):
    table = np.array(rows, np.int64).reshape(-1, width)
    table.flags.writeable = False
    return table


@kernel
def _zero(a, first, blocks, block_step, pixels):
    """Clear the rows of `pixels` pixels."""
    for block in range(blocks):
        at = first + block * block_step
        a[at : at + pixels * BLOCK] = 0


@kernel
def _copy_runs(x, x_from, x_step, run, pixels, blocks, depth, a, to, block_step):
    """Copy `run` numbers for each pixel to [block][pixel][16], zeros behind them."""
    last = run - (blocks - 1) * depth
    # the numbers of the last block are read with what lies behind them, as far as the array reaches
    whole = max(0, min(pixels, (x.size - BLOCK - (blocks - 1) * depth - x_from + x_step) // x_step))
    for n in range(whole):
        for block in range(blocks - 1):
            copy_16(x, x_from + n * x_step + block * depth, a, to + n * BLOCK + block * block_step)
    for n in range(whole):
        copy_some(x, x_from + n * x_step + (blocks - 1) * depth, a, to + n * BLOCK + (blocks - 1) * block_step, last)
    for n in range(whole, pixels):
        for block in range(blocks):
            for c in range(depth):
                v = x[x_from + n * x_step + block * depth + c] if block < blocks - 1 or c < last else 0
                a[to + n * BLOCK + block * block_step + c] = v


@kernel
def _gather(p, unit, cin, group, many, x, rows, columns, more, first, count, blocks, depth, a, a_from, group_step, block_step):
    """Copy what a unit's pixels first ... first + count - 1 of a phase read to [group][block][pixel][16], for `many` groups.

    With `more` it is one row of pixels from its first column on, and `more` pixels behind it are copied, too.
    """
    keep_apart()
    v, u, width = unit
    run, done = width * cin, 0
    while done < count:
        pixel = first + done
        image, y, q = pixel // (rows * columns), pixel // columns % rows, pixel % columns
        pixels, to = min(columns - q, count - done) + more, a_from + done * BLOCK
        done += pixels
        row, column = y * p.stride_h + v, q * p.stride_w + u
        source = (image * p.height + row) * p.width + column
        # pixels low ... high - 1 read nothing that lies outside
        low = min(pixels, max(0, (p.stride_w - 1 - column) // p.stride_w))
        high = max(low, min(pixels, (p.width - width - column) // p.stride_w + 1))
        if row < 0 or row >= p.height:
            low, high = pixels, pixels
        for g in range(many):
            c_from, at = (group + g) * cin, to + g * group_step
            if low < high:
                x_from = (source + low * p.stride_w) * p.cin + c_from
                _copy_runs(x, x_from, p.stride_w * p.cin, run, high - low, blocks, depth, a, at + low * BLOCK, block_step)
            _zero(a, at, blocks, block_step, low)
            _zero(a, at + high * BLOCK, blocks, block_step, pixels - high)
        for n in range(pixels if width > 1 and 0 <= row < p.height else 0):
            for k in range(run if n < low or n >= high else 0):
                if 0 <= column + n * p.stride_w + k // cin < p.width:
                    a[to + n * BLOCK + k // depth * block_step + k % depth] = x[(source + n * p.stride_w) * p.cin + k]


@intrinsic
def _fold(typing, sums, s_from, s_step, c_step, folded, totals, cout, columns):
    """Add up the kernel columns j, from left to right: totals[x * cout + c] = sums[s_from + x * 32 + j * (s_step + c_step) + c] + ...

    Eight channels are written for every pixel, of which later pixels overwrite what is too much.
    """

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, sums.dtype, _MOST_FOLDED)
        _, s_from, s_step, c_step, folded, _, cout, columns = args
        total, step = cgutils.alloca_once_value(builder, asm.constant(0.0)), builder.add(s_step, c_step)
        with cgutils.for_range(builder, columns) as counter:
            first = asm.array(0, builder.add(s_from, builder.mul(counter.index, ir.Constant(I64, SLAB))))
            builder.store(asm.load(first), total)
            with cgutils.for_range_slice(builder, ir.Constant(I64, 1), folded, ir.Constant(I64, 1)) as (j, _):
                other = asm.load(asm.step(first, builder.mul(j, step)))
                builder.store(asm.add(builder.load(total, typ=asm.vector), other), total)
            asm.store(builder.load(total, typ=asm.vector), asm.array(5, builder.mul(counter.index, cout)))
        return context.get_dummy_value()

    whole = types.int64
    return types.void(sums, whole, whole, whole, whole, totals, whole, whole), emit


@kernel
def _shares(pieces, most, slabs, threads):
    """Return into how many chunks of at most `most` pieces to cut, so that threads have about equal shares of (chunk, slab)."""
    chunks = max(1, (pieces + most - 1) // most)
    while chunks < pieces and 8 * (-chunks * slabs % threads) > chunks * slabs:
        chunks += 1
    return chunks


class Cut(NamedTuple):
    """How a thread gathers a phase.

    A chunk of pixels lies in segments, which are rows of the output if these share what they read, else everything in one.
    """

    shared: bool
    heads: int  # runs that are gathered of a kernel row
    more: int  # pixels that are gathered behind a row, if shared
    groups: int  # gathered together, at most
    chunk: int  # pixels, at most
    per_image: int  # chunks of an image, if shared
    segment: int  # pixels, at most
    segment_step: int  # from one to the next in what was gathered
    block_step: int
    row_step: int  # from one kernel row to the next
    run_step: int
    term_step: int


@kernel
def _cut(p, layout, images, threads, rows, columns, kernel_rows, dilation_h, runs, heads, more, blocks, depth, folded, itemsize):
    """Return the `Cut` of a phase."""
    slabs, room = layout.groups * layout.slabs, _GATHERED // itemsize
    units = kernel_rows * runs
    rows_share = kernel_rows > 1 and dilation_h == 1
    if folded > 1 or ((rows_share or (kernel_rows == 1 and heads < runs)) and columns >= MAX_ROWS):
        block_step = ((columns + more) // ROW_STEP * ROW_STEP + ROW_STEP + 1) * BLOCK  # an odd number of cache lines
        row_step, reach = heads * blocks * block_step, (kernel_rows - 1) * dilation_h + 1
        most = max(1, (room // max(1, layout.terms * row_step) - reach) // p.stride_h + 1)
        per_image = _shares(rows, min(rows, most), slabs * images, threads)
        most = (rows + per_image - 1) // per_image
        term_step = ((most - 1) * p.stride_h + reach) * row_step
        run_step, segment_step, row_step = blocks * block_step, p.stride_h * row_step, dilation_h * row_step
        return Cut(True, heads, more, 1, most * columns, per_image, columns, segment_step, block_step, row_step, run_step, term_step)
    size, pixels = layout.terms * units * blocks * BLOCK, images * rows * columns
    most = max(1, room // max(1, size * MAX_ROWS))
    if layout.terms * units * blocks * depth * p.cout // layout.groups < room:  # weights that stay near may be read often
        most = min(most, 2)
    pieces = (pixels + MAX_ROWS - 1) // MAX_ROWS
    chunk = min(pixels, (pieces + _shares(pieces, most, slabs, threads) - 1) // _shares(pieces, most, slabs, threads) * MAX_ROWS)
    block_step = (chunk // ROW_STEP * ROW_STEP + ROW_STEP + 1) * BLOCK
    run_step = blocks * block_step
    many = max(1, min(p.groups, room // max(1, size * chunk)))  # a thread that has few channels of many pixels copies no more
    return Cut(False, runs, 0, many, chunk, 0, chunk, 0, block_step, runs * run_step, run_step, units * run_step)


@kernel
def _gather_chunk(p, cut, terms, term, x, group, many, shape, units, first, places, place, begin, count, a):
    """Gather what a chunk of pixels reads of one term's input."""
    keep_apart()
    rows, columns, kernel_rows, dilation_h, runs, blocks, depth = shape
    cin, group_step = p.cin // p.groups, terms * cut.term_step
    reach = (count // columns - 1) * p.stride_h + (kernel_rows - 1) * dilation_h + 1
    for each in range(reach if cut.shared else kernel_rows):
        for run in range(runs):
            unit, row, pixels, step, head = first + each * runs + run, 0, count, cut.row_step, run
            if cut.shared:  # source rows one after the other
                unit, row, pixels, step, head = first + run, each, columns, cut.heads * cut.run_step, places[place + run, 0]
                if places[place + run, 1] > 0:
                    continue
            where = units[unit, 0] + row, units[unit, 1], units[unit, 2]
            at = term * cut.term_step + each * step + head * cut.run_step
            more, behind = cut.more, at + (pixels + cut.more) * BLOCK
            _gather(p, where, cin, group, many, x, rows, columns, more, begin, pixels, blocks, depth, a, at, group_step, cut.block_step)
            for g in range(many if (pixels + more) % ROW_STEP != 0 else 0):
                _zero(a, behind + g * group_step, blocks, cut.block_step, 1)


@shared_kernel
def _convolve(thread, threads, p, layout, phases, places, units, images, x, x2, weights, weights2, outputs, e, e2):
    """Do one thread's share of every phase: of all (gathered pixels, group, slab), each for one or both outputs."""
    cout, slabs, groups = p.cout // p.groups, layout.slabs, p.groups
    panel = PANEL_32 if weights.itemsize == 4 else PANEL_64
    b_panel = layout.slab_size // SLAB * panel
    whole = p.up_h == 1 and p.up_w == 1
    run = e.a.size // p.cout if e.a.size > 0 else e.out.size  # pixels that the epilogue's operands have
    o = thread - thread  # not a literal: Numba would compile the callees anew for it
    for phase in range(len(phases)):
        y, q, rows, columns, kernel_rows = phases[phase, 0], phases[phase, 1], phases[phase, 2], phases[phase, 3], phases[phase, 4]
        dilation_h, runs, blocks, depth, first = phases[phase, 5], phases[phase, 6], phases[phase, 7], phases[phase, 8], phases[phase, 9]
        start, folded, dilation = phases[phase, 10], phases[phase, 11], phases[phase, 12]
        heads, more, place = phases[phase, 13], phases[phase, 14], phases[phase, 15]
        if images * rows * columns == 0:
            continue
        size = weights.itemsize
        cut = _cut(p, layout, images, threads, rows, columns, kernel_rows, dilation_h, runs, heads, more, blocks, depth, folded, size)
        k_blocks, out_columns = layout.terms * kernel_rows * runs * blocks, columns - (folded - 1) * dilation
        piece = columns if folded > 1 else min(_PIECE, cut.segment)
        group_step = layout.terms * cut.term_step
        a = np.empty(cut.groups * group_step, x.dtype)
        stretches = max(1, (k_blocks * depth * SLAB * size + _WEIGHTS - 1) // _WEIGHTS)  # parts of a chain
        stretch = max(1, (k_blocks + stretches - 1) // stretches)
        stretches = max(1, (k_blocks + stretch - 1) // stretch)
        most, s_step = (cut.segment + piece - 1) // piece * (cut.chunk // cut.segment), (piece + ROW_STEP) * SLAB
        sums = np.zeros((most if stretches > 1 else 1) * s_step, x.dtype)
        totals, s_pixel = (np.empty(out_columns * cout + _MOST_FOLDED, x.dtype), cout) if folded > 1 else (sums, o + SLAB)
        offsets = np.empty(k_blocks, np.int64)
        for k in range(k_blocks):
            term, i, j, block = k // (kernel_rows * runs * blocks), k // (runs * blocks) % kernel_rows, k // blocks % runs, k % blocks
            head, shift = (places[place + j, 0], places[place + j, 1]) if cut.shared else (j, o)
            offsets[k] = term * cut.term_step + i * cut.row_step + head * cut.run_step + block * cut.block_step + shift * BLOCK
        chunks = images * cut.per_image if cut.shared else (images * rows * columns + cut.chunk - 1) // cut.chunk
        shares = groups * slabs
        from_share, to_share = chunks * shares * thread // threads, chunks * shares * (thread + 1) // threads
        for chunk in range(from_share // shares, (to_share + shares - 1) // shares):
            begin, end = chunk * cut.chunk, images * rows * columns
            if cut.shared:
                image = chunk // cut.per_image
                begin, end = image * rows * columns + chunk % cut.per_image * cut.chunk, (image + 1) * rows * columns
            count = min(cut.chunk, end - begin)
            if count <= 0:
                continue
            segment, from_slab = min(count, cut.segment), max(0, from_share - chunk * shares)
            to_slab, begun, gathered = min(shares, to_share - chunk * shares), 0, 0
            pieces, pairs = (segment + piece - 1) // piece, (segment + ROW_STEP - 1) // ROW_STEP
            for group in range(from_slab // slabs, (to_slab + slabs - 1) // slabs):
                if group >= gathered:
                    begun, gathered = group, min(group + cut.groups, (to_slab + slabs - 1) // slabs)
                    for term in range(layout.terms if k_blocks > 0 else 0):
                        source, shape = x if term == 0 else x2, (rows, columns, kernel_rows, dilation_h, runs, blocks, depth)
                        many = gathered - group
                        _gather_chunk(p, cut, layout.terms, term, source, group, many, shape, units, first, places, place, begin, count, a)
                for slab in range(max(0, from_slab - group * slabs), min(slabs, to_slab - group * slabs)):
                    channels, wide = min(SLAB, cout - slab * SLAB), min(SLAB, folded * cout - slab * SLAB)
                    w_from, c_from = (group * slabs + slab) * layout.slab_size + start * panel, group * cout + slab * SLAB
                    for turn in range(outputs * stretches):
                        (ws, on), k = (weights, e) if turn < stretches else (weights2, e2), turn % stretches * stretch
                        last, into = min(k + stretch, k_blocks), NEW if k == 0 else CONTINUED
                        w = w_from + k * depth * panel
                        w_next = stretch * depth * panel if last < k_blocks else layout.slab_size - k * depth * panel
                        for n in range(pieces * (count // segment)):
                            part, done = (n, 0) if n < pieces else (n % pieces, n // pieces)
                            low, high = pairs * part // pieces * ROW_STEP, min(segment, pairs * (part + 1) // pieces * ROW_STEP)
                            pixel, left, width = begin + done * segment + low, high - low, columns
                            s_from = n * s_step if stretches > 1 else 0
                            if k_blocks > 0:
                                if whole and folded == 1 and last == k_blocks:
                                    bring_pixels(on, left, pixel * p.cout + c_from, p.cout)
                                even = (left + ROW_STEP - 1) // ROW_STEP * ROW_STEP
                                a_from = (group - begun) * group_step + done * cut.segment_step + low * BLOCK
                                b_next = w_next if n == 0 else o  # what comes next comes from memory
                                multiply(even, wide, a, a_from, o, offsets, k, last, depth, ws, w, b_next, b_panel, sums, s_from, into)
                            if last < k_blocks:
                                continue
                            if folded > 1:
                                _fold(sums, s_from, dilation * SLAB, cout, folded, totals, cout, out_columns)
                                pixel, left, width, s_from = pixel // columns * out_columns, out_columns, out_columns, 0
                            while left > 0:
                                at, some = pixel, min(left, run - pixel % run)
                                if not whole:  # pixels that are neighbours here have others between them
                                    image, row, column = pixel // (rows * width), pixel // width % rows, pixel % width
                                    at = (image * p.out_height + y + row * p.up_h) * p.out_width + q + column * p.up_w
                                    some = min(width - column, left)
                                finish_pixels(on, totals, s_from, s_pixel, some, channels, c_from, at * p.cout + c_from, p.up_w * p.cout)
                                pixel, left, s_from = pixel + some, left - some, s_from + some * s_pixel


def convolve(p, cut, images, x, x2, weights, e, threads, weights2=None, e2=None):
    """Convolve `images` images with packed weights.

    Parameters
    ----------
    p : Problem
    cut : Plan
    images : int
    x, x2 : ndarray, flat
        The inputs of the first and second term, [images, height, width, cin]; `x2` counts only if there are two terms.
    weights : ndarray, flat
        From `packing.pack_direct`.
    e : Epilogue
        Without bias, if the plan folds.
    threads : int
        The work is split over pixels and output channels, never over a sum.
    weights2, e2 : ndarray, Epilogue, optional
        A second convolution of the same plan, which shares the gathered inputs.
    """
    second = (weights, weights, 1, e, e) if weights2 is None else (weights, weights2, 2, e, e2)
    _convolve(threads, p, cut.layout, cut.phases, cut.places, cut.units, images, x, x2, *second)
