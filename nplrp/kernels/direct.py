"""Direct convolution: any kernel, stride, dilation and padding, and the transposes of all these.

A thread copies a strip of input rows into a scratch in which zeros stand for everything outside the image, channels come
in blocks of 16 and the columns that a stride skips are sorted apart, so that the pixels of an output row are neighbours
under every tap. The taps are then a table of offsets for the microkernel.

Order per output element: term by term, then kernel rows, kernel columns, input channels ascending, each product fused
into the sum; padding takes part as exact zeros.

A transpose back to few channels (the image's three) would waste most columns of the registers. There the kernel's columns
count as output channels: a chain runs over terms, kernel rows and input channels, and the chains of the kernel columns are
added from left to right.
"""

from typing import NamedTuple

import numpy as np

from nplrp.jit import kernel, shared_kernel
from nplrp.kernels.epilogue import finish_tile
from nplrp.kernels.microkernel import BLOCK, PANEL_32, PANEL_64, ROW_STEP, SLAB, multiply
from nplrp.kernels.simd import copy_16, keep_apart

_STRIP_NUMBERS = 131072  # half a megabyte of float32, about the second-level cache


class Fold(NamedTuple):
    """How the sums of a widened problem become those of the narrow one: kernel columns, their dilation, output columns and channels."""

    taps: int
    dilation: int
    width: int
    cout: int


def is_narrow(p):
    """Return whether the columns of a kernel fit beside each other into 16 output channels."""
    return p.kernel_w > 1 and p.kernel_w * p.cout <= 16 and p.stride_w == 1


def widen(p, narrow):
    """Return the problem that the kernel solves, and how to fold its result; widened, kernel columns count as output channels."""
    if not narrow:
        return p, Fold(1, 1, p.out_width, p.cout)
    width = p.out_width + (p.kernel_w - 1) * p.dilation_w
    return p._replace(kernel_w=1, out_width=width, cout=p.kernel_w * p.cout), Fold(p.kernel_w, p.dilation_w, p.out_width, p.cout)


@kernel
def _fold(fold, sums, folded):
    """Add up the kernel columns, from left to right."""
    for x in range(fold.width):
        for c in range(fold.cout):
            total = sums[x * SLAB + c]
            for j in range(1, fold.taps):
                total += sums[(x + j * fold.dilation) * SLAB + j * fold.cout + c]
            folded[x * fold.cout + c] = total


def blocking(channels):
    """Return into how many blocks the channels fall, and how many (a multiple of 4, at most 16) are in each."""
    blocks = max(-(-channels // BLOCK), 1)
    return blocks, max(-(-channels // (4 * blocks)) * 4, 4)


class Plan(NamedTuple):
    """How the work is cut: channel blocks and their depth, scratch columns of a stride phase, and the sizes of strips and weights."""

    terms: int
    blocks: int
    depth: int
    columns: int
    pixels: int
    strip_rows: int
    strips: int
    slabs: int
    slab_size: int


def plan(p, terms):
    """Return the `Plan` of a problem; the bits don't depend on it."""
    blocks, depth = blocking(p.cin)
    pixels = -(-p.out_width // ROW_STEP) * ROW_STEP
    columns = ((pixels - 1) * p.stride_w + (p.kernel_w - 1) * p.dilation_w) // p.stride_w + 1
    fit = _STRIP_NUMBERS // (terms * blocks * p.stride_w * max(columns, 1) * BLOCK)
    strip_rows = max(1, min(p.out_height, (fit - (p.kernel_h - 1) * p.dilation_h - 1) // p.stride_h + 1))
    slab_size = terms * p.kernel_h * p.kernel_w * blocks * depth * SLAB
    return Plan(terms, blocks, depth, columns, pixels, strip_rows, -(-p.out_height // strip_rows), -(-p.cout // SLAB), slab_size)


@kernel
def _fill_strip(p, cut, x, x_from, first_row, rows, strip, strip_from):
    """Copy the (dilated, padded) input rows first_row ... first_row + rows - 1 to [block][row][phase][column][16]."""
    keep_apart()
    columns, depth = cut.columns, cut.depth
    row_size = p.stride_w * columns * BLOCK
    # the input's columns that the strip has: source column q lies at q * up_w + left
    first = max(0, -(p.left // p.up_w))
    last = max(first, min(p.width, (p.stride_w * columns - p.left + p.up_w - 1) // p.up_w))
    dense = p.up_w == 1 and p.stride_w == 1
    for block in range(cut.blocks):
        c0 = block * depth
        count = min(depth, p.cin - c0)
        for r in range(rows):
            y = first_row + r
            to = strip_from + (block * rows + r) * row_size
            if y < 0 or y % p.up_h != 0 or y // p.up_h >= p.height:
                strip[to : to + row_size] = 0
                continue
            if dense and last > first:
                strip[to : to + (first + p.left) * BLOCK] = 0
                strip[to + (last + p.left) * BLOCK : to + row_size] = 0
            else:
                strip[to : to + row_size] = 0
            pixel = x_from + ((y // p.up_h) * p.width + first) * p.cin + c0
            for q in range(first, last):
                column = q * p.up_w + p.left
                if not dense:
                    column = column % p.stride_w * columns + column // p.stride_w
                if count == BLOCK:
                    copy_16(x, pixel, strip, to + column * BLOCK)
                else:
                    for c in range(depth):
                        strip[to + column * BLOCK + c] = x[pixel + c] if c < count else 0
                pixel += p.cin


@shared_kernel
def _convolve(thread, threads, p, cut, fold, images, x, x2, weights, e):
    """Do one thread's share: of all (image, strip of rows, group of slabs)."""
    row_size = p.stride_w * cut.columns * BLOCK
    reach = (p.kernel_h - 1) * p.dilation_h + 1
    strip = np.empty(cut.terms * cut.blocks * ((cut.strip_rows - 1) * p.stride_h + reach) * row_size, x.dtype)
    sums = np.empty(cut.pixels * SLAB, x.dtype)
    folded = np.empty(fold.width * fold.cout, x.dtype) if fold.taps > 1 else sums
    offsets = np.empty(cut.terms * p.kernel_h * p.kernel_w * cut.blocks, np.int64)
    panel = cut.slab_size // SLAB * (PANEL_32 if x.itemsize == 4 else PANEL_64)
    zero, one = thread - thread, thread - thread + 1  # not literals: Numba would compile the callees anew for them
    groups = max(1, min(cut.slabs, 2 * threads // max(1, images * cut.strips)))
    tasks = images * cut.strips * groups
    for task in range(tasks * thread // threads, tasks * (thread + 1) // threads):
        image, s, group = task // (cut.strips * groups), task // groups % cut.strips, task % groups
        first = s * cut.strip_rows
        rows = min(cut.strip_rows, p.out_height - first)
        rows_in = (rows - 1) * p.stride_h + reach
        term_size = cut.blocks * rows_in * row_size
        for term in range(cut.terms):
            source = x if term == 0 else x2
            _fill_strip(p, cut, source, image * p.height * p.width * p.cin, first * p.stride_h - p.top, rows_in, strip, term * term_size)
            for i in range(p.kernel_h):
                for j in range(p.kernel_w):
                    column = j * p.dilation_w
                    tap = i * p.dilation_h * row_size + (column % p.stride_w * cut.columns + column // p.stride_w) * BLOCK
                    for block in range(cut.blocks):
                        k = ((term * p.kernel_h + i) * p.kernel_w + j) * cut.blocks + block
                        offsets[k] = term * term_size + block * rows_in * row_size + tap
        for slab in range(cut.slabs * group // groups, cut.slabs * (group + 1) // groups):
            channels = min(SLAB, p.cout - slab * SLAB)
            for r in range(rows):
                at, w_from = r * p.stride_h * row_size, slab * cut.slab_size
                multiply(
                    cut.pixels, channels, strip, at, zero, offsets, zero, len(offsets), cut.depth, weights, w_from, zero, panel, sums, zero
                )
                width, count, row = p.out_width, channels, image * p.out_height + first + r
                if fold.taps > 1:
                    _fold(fold, sums, folded)
                    width, count = one, fold.width * fold.cout
                o_from = row * fold.width * fold.cout + slab * SLAB
                finish_tile(e, folded, zero, zero, one, width, count, slab * SLAB, o_from, p.cout, p.cout)


def convolve(p, narrow, images, x, x2, terms, weights, e, threads):
    """Convolve `images` images with packed weights.

    Parameters
    ----------
    p : Problem
    narrow : bool
        Do it the narrow way; the epilogue has no bias.
    images : int
    x, x2 : ndarray, flat
        The inputs of the first and second term, [images, height, width, cin]; `x2` counts only if `terms` is 2.
    terms : int
    weights : ndarray, flat
        From `packing.pack_direct`.
    e : Epilogue
    threads : int
        The work is split over image strips and output channels, never over a sum.
    """
    wide, fold = widen(p, narrow)
    _convolve(threads, wide, plan(wide, terms), fold, images, x, x2, weights, e)
