"""Direct convolution: any kernel, stride, dilation, padding and groups, and the transposes of all these.

It is a matrix product. A thread gathers what some output pixels read, a row of numbers for each, with zeros for what lies outside the
image; then it multiplies these rows with one slab of weights after the other.

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

from nplrp.kernels.epilogue import finish_pixels
from nplrp.kernels.microkernel import BLOCK, MAX_ROWS, PANEL_32, PANEL_64, ROW_STEP, SLAB, multiply
from nplrp.kernels.parallel import kernel, shared_kernel
from nplrp.kernels.simd import copy_4, copy_16, keep_apart

#: Numbers that are gathered at a time: half a megabyte of float32, about the second-level cache.
_GATHERED = 131072
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
    phases : ndarray of int64 [phases, 12]
        First row and column of the output; rows and columns (widened, if folded); first unit, and the one after the last; where the
        weights start, in rows of a slab; blocks of a unit and their depth; kernel columns that are folded and their dilation; columns.
    units : ndarray of int64 [units, 4]
        What every pixel reads, phase by phase: term, source row and column relative to the pixel's, how many columns.
    taps : ndarray of int64 [taps, 6]
        Where weights go: term, kernel row and column, step to the kernel column that further output channels stand for, how many such
        columns, row in the slab.
    """

    layout: Layout
    phases: np.ndarray
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
    phases, units, taps, k = [], [], [], 0
    for y, down in enumerate(rows):
        for x, across in enumerate(columns):
            step, dilation = (across[1][n] - across[0][n] if len(across) > 1 else 0 for n in range(2))
            # few channels of neighbours in the image are neighbours in memory, too
            merged = not fold and cin < BLOCK and p.groups == 1 and dilation == 1
            width = len(across) if merged else 1
            blocks, depth = blocking(width * cin)
            first, start, folded = len(units), k, max(1, len(across)) if fold else 1
            for term in range(terms):
                for i, v in down:
                    for j, u in across[:1] if fold or merged else across:
                        units.append((term, v, u, width))
                        taps += [(term, i, j + n * step, step, folded, k + n * cin) for n in range(width)]
                        k += blocks * depth
            out_rows, out_columns = -(-(p.out_height - y) // p.up_h), -(-(p.out_width - x) // p.up_w)
            wide = out_columns + (folded - 1) * dilation
            phases.append((y, x, out_rows, wide, first, len(units), start, blocks, depth, folded, dilation, out_columns))
    layout = Layout(terms, p.groups, -(-(most if fold else 1) * cout // SLAB), k * SLAB)
    return Plan(layout, *(_table(*each) for each in ((phases, 12), (units, 4), (taps, 6))))


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
    whole = run == blocks * BLOCK
    for n in range(pixels):
        source, at = x_from + n * x_step, to + n * BLOCK
        if whole:
            for block in range(blocks):
                copy_16(x, source + block * BLOCK, a, at + block * block_step)
        else:
            for block in range(blocks):
                left = run - block * depth
                for c in range(0, depth, 4):
                    if left - c >= 4:
                        copy_4(x, source + block * depth + c, a, at + block * block_step + c)
                    else:
                        for each in range(4):
                            a[at + block * block_step + c + each] = x[source + block * depth + c + each] if c + each < left else 0


@kernel
def _gather(p, unit, cin, c_from, x, rows, columns, first, count, blocks, depth, a, a_from, block_step):
    """Copy what a unit's pixels first ... first + count - 1 of a phase read to [block][pixel][16]."""
    keep_apart()
    v, u, width = unit
    run, done = width * cin, 0
    while done < count:
        pixel = first + done
        image, y, q = pixel // (rows * columns), pixel // columns % rows, pixel % columns
        pixels, to = min(columns - q, count - done), a_from + done * BLOCK
        done += pixels
        row, column = y * p.stride_h + v, q * p.stride_w + u
        if row < 0 or row >= p.height:
            _zero(a, to, blocks, block_step, pixels)
            continue
        source = (image * p.height + row) * p.width
        # pixels low ... high - 1 read nothing that lies outside
        low = min(pixels, max(0, (p.stride_w - 1 - column) // p.stride_w))
        high = max(low, min(pixels, (p.width - width - column) // p.stride_w + 1))
        if low < high:
            x_from = (source + column + low * p.stride_w) * p.cin + c_from
            _copy_runs(x, x_from, p.stride_w * p.cin, run, high - low, blocks, depth, a, to + low * BLOCK, block_step)
        if width == 1:
            _zero(a, to, blocks, block_step, low)
            _zero(a, to + high * BLOCK, blocks, block_step, pixels - high)
            continue
        for n in range(pixels):
            if low <= n < high:
                continue
            _zero(a, to + n * BLOCK, blocks, block_step, 1)
            for w in range(width):
                if 0 <= column + n * p.stride_w + w < p.width:
                    for c in range(cin):
                        k = w * cin + c
                        from_ = (source + column + n * p.stride_w + w) * p.cin + c
                        a[to + n * BLOCK + k // depth * block_step + k % depth] = x[from_]


@kernel
def _fold(folded, dilation, columns, cout, sums, totals):
    """Add up the kernel columns, from left to right."""
    for x in range(columns):
        for c in range(cout):
            total = sums[x * SLAB + c]
            for j in range(1, folded):
                total += sums[(x + j * dilation) * SLAB + j * cout + c]
            totals[x * cout + c] = total


@kernel
def _finish(p, e, y, x, rows, columns, first, count, sums, s_pixel, channels, c_from):
    """Finish pixels first ... first + count - 1 of a phase that starts at (y, x)."""
    keep_apart()
    done, step = 0, p.up_w * p.cout
    while done < count:
        pixel, pixels = first + done, count - done
        if p.up_h != 1 or p.up_w != 1:
            image, row, column = pixel // (rows * columns), pixel // columns % rows, pixel % columns
            pixel, pixels = (image * p.out_height + y + row * p.up_h) * p.out_width + x + column * p.up_w, min(columns - column, pixels)
        finish_pixels(e, sums, done * s_pixel, s_pixel, pixels, channels, c_from, pixel * p.cout + c_from, step)
        done += pixels


@kernel
def _chunk(pixels, piece, size, cached, slabs, threads):
    """Return how many pixels to gather at a time: so many that threads have equal shares, and weights are read seldom."""
    most = max(1, _GATHERED // max(1, size * piece))
    if cached:  # read them as often as you like
        most = min(most, max(1, 4 * MAX_ROWS // piece))
    pieces = (pixels + piece - 1) // piece
    chunks = (pieces + most - 1) // most
    while chunks < pieces and 8 * (-chunks * slabs % threads) > chunks * slabs:
        chunks += 1
    return (pieces + chunks - 1) // chunks * piece


@shared_kernel
def _convolve(thread, threads, p, layout, phases, units, images, x, x2, weights, e):
    """Do one thread's share of every phase: of all (gathered pixels, group, slab)."""
    cin, cout, slabs, groups = p.cin // p.groups, p.cout // p.groups, layout.slabs, p.groups
    panel = PANEL_32 if weights.itemsize == 4 else PANEL_64
    b_panel = layout.slab_size // SLAB * panel
    zero = thread - thread  # not a literal: Numba would compile the callees anew for it
    for phase in range(len(phases)):
        y, q, rows, columns = phases[phase, 0], phases[phase, 1], phases[phase, 2], phases[phase, 3]
        first, last, start, blocks, depth = phases[phase, 4], phases[phase, 5], phases[phase, 6], phases[phase, 7], phases[phase, 8]
        folded, dilation, out_columns = phases[phase, 9], phases[phase, 10], phases[phase, 11]
        pixels, k_blocks, width = images * rows * columns, (last - first) * blocks, folded * cout
        if pixels == 0:
            continue
        piece = columns if folded > 1 else MAX_ROWS
        chunk = _chunk(pixels, piece, k_blocks * BLOCK, k_blocks * depth * width < _GATHERED, groups * slabs, threads)
        stride = (min(chunk, pixels) // ROW_STEP * ROW_STEP + ROW_STEP + 1) * BLOCK  # an odd number of cache lines
        piece = columns if folded > 1 else min(_PIECE, chunk)
        a = np.empty(k_blocks * stride, x.dtype)
        sums = np.zeros((piece + ROW_STEP) * SLAB, x.dtype)
        totals = np.empty(out_columns * cout, x.dtype) if folded > 1 else sums
        offsets = np.empty(k_blocks, np.int64)
        for k in range(k_blocks):
            offsets[k] = k * stride
        tasks, gathered = (pixels + chunk - 1) // chunk * groups * slabs, -1
        for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
            begin, group, slab = task // (groups * slabs) * chunk, task // slabs % groups, task % slabs
            count, channels = min(chunk, pixels - begin), min(SLAB, width - slab * SLAB)
            if task // slabs != gathered and k_blocks > 0:
                gathered = task // slabs
                for unit in range(first, last):
                    source = x if units[unit, 0] == 0 else x2
                    place = units[unit, 1], units[unit, 2], units[unit, 3]
                    at = (unit - first) * blocks * stride
                    _gather(p, place, cin, group * cin, source, rows, columns, begin, count, blocks, depth, a, at, stride)
                    if count % ROW_STEP != 0:
                        _zero(a, at + count * BLOCK, blocks, stride, 1)
            w_from, c_from = (group * slabs + slab) * layout.slab_size + start * panel, group * cout + slab * SLAB
            pieces, pairs = (count + piece - 1) // piece, (count + ROW_STEP - 1) // ROW_STEP
            for n in range(pieces):
                low, high = pairs * n // pieces * ROW_STEP, min(count, pairs * (n + 1) // pieces * ROW_STEP)
                if folded > 1:
                    low, high = n * columns, (n + 1) * columns
                if k_blocks > 0:
                    even = (high - low + ROW_STEP - 1) // ROW_STEP * ROW_STEP
                    multiply(
                        even, channels, a, low * BLOCK, zero, offsets, zero, k_blocks, depth, weights, w_from, zero, b_panel, sums, zero
                    )
                if folded > 1:
                    _fold(folded, dilation, out_columns, cout, sums, totals)
                    row = (begin + low) // columns
                    _finish(p, e, y, q, rows, out_columns, row * out_columns, out_columns, totals, cout, cout, zero)
                else:
                    _finish(p, e, y, q, rows, columns, begin + low, high - low, sums, zero + SLAB, channels, c_from)


def convolve(p, cut, images, x, x2, weights, e, threads):
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
    """
    _convolve(threads, p, cut.layout, cut.phases, cut.units, images, x, x2, weights, e)
