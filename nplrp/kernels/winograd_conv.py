"""Convolution by Winograd tiles: transform the input, 36 matrix products per slab of 32 output channels, transform back.

Two ways through the same arithmetic, chosen by the shape alone. A large image is cut into chunks of tiles: a thread takes a
chunk through all slabs while it stays in its cache. Of a small image all tiles are transformed first, then the threads share
the slabs; every slab of weights is then read once, and may be made from the HWIO weights on the spot.

Order per product: term by term, then input channels ascending, each fused into the sum. Every 4 blocks (64 channels), or
half of fewer than 8, make a chain of their own, and the chains are added one after the other: with 512 channels that takes
most of the rounding error away.
"""

from typing import NamedTuple

import numpy as np

from nplrp.jit import kernel, shared_kernel
from nplrp.kernels.direct import blocking
from nplrp.kernels.epilogue import RATIO, RATIOS, TIMES, finish_pixels
from nplrp.kernels.microkernel import ADDED, BLOCK, MAX_ROWS, NEW, PANEL_32, ROW_STEP, SLAB, multiply
from nplrp.kernels.simd import VECTOR_BITS, copy_16, keep_apart, prefetch, writable
from nplrp.kernels.winograd import (
    IN,
    OUT,
    POSITIONS,
    SIDE,
    finish_output,
    transform_input,
    transform_kernel,
    transform_output,
    transpose_square,
)

#: Tiles of an image up to which all of them are transformed first.
SMALL = 64
_GROUP_TILES = 128
_PART = 4  # blocks of channels in a chain; their transformed weights fit into the second-level cache
_GAP = 16  # numbers between the 36 matrices of weights, inputs or products, lest all start in the same cache set
_LANES, _LANES_64 = VECTOR_BITS // 32, VECTOR_BITS // 64


class Weights(NamedTuple):
    """Weights of one convolution: transformed ones, or (if `blocks` is empty) what to make them from."""

    source: np.ndarray
    transposed: bool
    changes: np.ndarray
    blocks: np.ndarray


class Plan(NamedTuple):
    """How the work is cut: tiles of one image down and across, tiles of a chunk, blocks of channels done in one go, sizes of scratch."""

    down: int
    across: int
    chunk: int
    small: bool
    terms: int
    blocks: int
    depth: int
    slabs: int
    part: int
    parts: int
    v_size: int
    m_size: int
    u_size: int


def plan(p, images, terms, threads=1):
    """Return the `Plan` for a group of images; the bits don't depend on it."""
    down, across = -(-p.out_height // OUT), -(-p.out_width // OUT)
    small = down * across <= SMALL
    chunk = images * down * across
    if not small:
        share = -(-chunk // threads)
        most = (32 if terms * p.cin <= 128 else 56) // MAX_ROWS * MAX_ROWS
        chunk = -(-share // -(-share // most)) if images else 1
    rows = -(-chunk // ROW_STEP) * ROW_STEP
    blocks, depth = blocking(p.cin)
    part = min(-(-terms * blocks // 2), _PART)
    parts = -(-terms * blocks // part)
    sizes = (terms * blocks * rows * BLOCK, rows * SLAB, part * depth * SLAB)
    return Plan(
        down, across, chunk, small, terms, blocks, depth, -(-p.cout // SLAB), part, parts, *(POSITIONS * (size + _GAP) for size in sizes)
    )


def group_size(p, images):
    """Return how many images to take together: as many small ones as make good use of a slab of weights."""
    tiles = -(-p.out_height // OUT) * -(-p.out_width // OUT)
    return max(1, _GROUP_TILES // tiles) if tiles <= SMALL else max(1, images)


@kernel
def _read(x, first, last):
    """Return the sum of every 16th number of x[first:last]: a number of every cache line, so that all of it is in the cache."""
    keep_apart()
    total = x[0]  # `first` may lie behind the end, if tiles begin in the padding
    for n in range(first, last, 16):
        total += x[n]
    return total


@kernel
def _transform_tiles(p, plan, x, first, count, rows, block_from, v, v_from):
    """Transform tiles first ... first + count - 1 of all channels of one input to [36][block][rows][16]."""
    keep_apart()
    depth = plan.depth
    x = writable(x)  # of one type with `edge`
    edge = np.empty(IN * IN * BLOCK, x.dtype)
    edge_from = first - first
    # A tile's pixels lie in six rows apart: fetched one by one they cost three times what they cost in the order of memory.
    per_image, last = plan.down * plan.across, first + count - 1
    top = first // per_image * p.height + max(0, first % per_image // plan.across * OUT - p.top)
    bottom = last // per_image * p.height + min(p.height, last % per_image // plan.across * OUT - p.top + IN)
    edge[0] = _read(x, top * p.width * p.cin, bottom * p.width * p.cin)
    v_step = plan.v_size // POSITIONS
    for t in range(count):
        tile = first + t
        image, y, q = tile // (plan.down * plan.across), tile // plan.across % plan.down, tile % plan.across
        y, q = y * OUT - p.top, q * OUT - p.left
        inside = y >= 0 and q >= 0 and y + IN <= p.height and q + IN <= p.width
        x_from = ((image * p.height + y) * p.width + q) * p.cin
        for block in range(plan.blocks):
            c0 = block * depth
            to = v_from + ((block_from + block) * rows + t) * BLOCK
            channels = min(depth, p.cin - c0)
            source, source_from, row_step, pixel_step = x, x_from + c0, p.width * p.cin, p.cin
            if not inside or channels < BLOCK:
                source, source_from, row_step, pixel_step = edge, edge_from, edge_from + IN * BLOCK, edge_from + BLOCK
                edge[:] = 0
                for i in range(max(0, -y), min(IN, p.height - y)):
                    for j in range(max(0, -q), min(IN, p.width - q)):
                        pixel = x_from + (i * p.width + j) * p.cin + c0
                        if channels == BLOCK:
                            copy_16(x, pixel, edge, edge_from + (i * IN + j) * BLOCK)
                        else:
                            for c in range(channels):
                                edge[(i * IN + j) * BLOCK + c] = x[pixel + c]
            for n in range(0, depth, _LANES):
                transform_input(source, source_from + n, row_step, pixel_step, v, to + n, v_step)


@kernel
def _transform_slab(p, plan, weights, slab, first, last, u, u_from):
    """Transform the kernels of one slab and the blocks first ... last - 1 to [36][panel][channel, zero-padded][column]."""
    keep_apart()
    channels = min(SLAB, p.cout - slab * SLAB)
    depth, panel_step, step = plan.depth, plan.part * plan.depth * PANEL_32, plan.u_size // POSITIONS
    some = np.zeros(9 * BLOCK * SLAB, weights.source.dtype)
    start = slab - slab
    for block in range(first, last):
        term, c0 = block // plan.blocks, block % plan.blocks * depth
        count = min(depth, p.cin - c0)
        positive, negative = weights.changes[term, 0], weights.changes[term, 1]
        to = u_from + (block - first) * depth * PANEL_32
        _gather(p, weights.source, weights.transposed, c0, count, slab, channels, some)
        for c in range(depth):
            for n in range(0, channels, _LANES_64):
                u_to = to + n // PANEL_32 * panel_step + c * PANEL_32 + n % PANEL_32
                transform_kernel(some, start + c * SLAB + n, u, u_to, step, positive, negative)


@kernel
def _gather(p, w, transposed, c0, count, slab, channels, some):
    """Copy the taps [9, count, channels] to [9, 16, 32], zero-padded, turned round and with swapped channels if transposed."""
    keep_apart()
    whole = channels == SLAB and count == BLOCK
    c_step, n_step = (1, p.cin) if transposed else (p.cout, 1)
    if not whole:
        some[:] = 0
    for tap in range(9):
        w_from = (8 - tap if transposed else tap) * p.cin * p.cout + c0 * c_step + slab * SLAB * n_step
        to = tap * BLOCK * SLAB
        if whole and transposed:
            for n in range(0, SLAB, SIDE):
                for c in range(0, BLOCK, SIDE):
                    transpose_square(w, w_from + n * n_step + c, n_step, some, to + c * SLAB + n, SLAB)
        elif whole:
            for c in range(BLOCK):
                for n in range(0, SLAB, BLOCK):
                    copy_16(w, w_from + c * c_step + n, some, to + c * SLAB + n)
        else:
            for c in range(count):
                for n in range(channels):
                    some[to + c * SLAB + n] = w[w_from + c * c_step + n * n_step]


@kernel
def _prefetch_operands(p, plan, e, slab, tile, first, last):
    """Prefetch what `_finish_slab` is going to multiply and divide with, for pixels first ... last - 1 of the tiles from `tile` on."""
    keep_apart()
    run = e.a.size // (p.out_height * p.out_width * p.cout)
    for pixel in range(first, last):
        t, i = tile + pixel // (OUT * OUT), pixel % (OUT * OUT)
        image, r, q = t // (plan.down * plan.across) % run, t // plan.across % plan.down, t % plan.across
        r, q = min(r * OUT + i // OUT, p.out_height - 1), min(q * OUT + i % OUT, p.out_width - 1)
        at = ((image * p.out_height + r) * p.out_width + q) * p.cout + slab * SLAB
        for n in range(at, at + SLAB, BLOCK):
            prefetch(e.a, n)
            if e.mode >= RATIO:
                prefetch(e.z, n)
            if e.mode == RATIOS:
                prefetch(e.z2, n)


@kernel
def _multiply(p, plan, e, slab, tile, count, first, last, channels, rows, v, v_from, m, m_from, u, u_from):
    """Multiply `count` transformed tiles' blocks first ... last - 1 with one slab of weights, all 36 matrices."""
    keep_apart()
    offsets = np.empty(last, np.int64)
    for k in range(last):
        offsets[k] = k * rows * BLOCK
    v_step, u_step, m_step = plan.v_size // POSITIONS, plan.u_size // POSITIONS, plan.m_size // POSITIONS
    into = ADDED if first > 0 else NEW
    panel_step = plan.part * plan.depth * PANEL_32
    for position in range(POSITIONS):
        if first == 0 and e.mode >= TIMES:
            pixels = count * OUT * OUT
            _prefetch_operands(p, plan, e, slab, tile, pixels * position // POSITIONS, pixels * (position + 1) // POSITIONS)
        v_at, u_at, m_at = v_from + position * v_step, u_from + position * u_step, m_from + position * m_step
        multiply(rows, channels, v, v_at, v_step, offsets, first, last, plan.depth, u, u_at, u_step, panel_step, m, m_at, into)


@kernel
def _finish_slab(p, plan, e, slab, channels, first, count, rows, m, m_from):
    """Transform the products back and finish them."""
    keep_apart()
    m_step, row = plan.m_size // POSITIONS, p.out_width * p.cout
    y = np.empty(OUT * OUT * SLAB, m.dtype)
    y_from = first - first
    for t in range(count):
        tile = first + t
        image, r, q = tile // (plan.down * plan.across), tile // plan.across % plan.down, tile % plan.across
        r, q = r * OUT, q * OUT
        m_at, o_from = m_from + t * SLAB, ((image * p.out_height + r) * p.out_width + q) * p.cout + slab * SLAB
        height, width = min(OUT, p.out_height - r), min(OUT, p.out_width - q)
        if height == OUT and width == OUT and channels == SLAB:
            for n in range(0, SLAB, _LANES):
                b, o = slab * SLAB + n, o_from + n
                finish_output(m, m_at + n, m_step, e, b, o, row, p.cout)
            continue
        for n in range(0, channels, _LANES):
            transform_output(m, m_at + n, m_step, y, y_from + n)
        for i in range(height):
            finish_pixels(e, y, y_from + i * OUT * SLAB, SLAB, width, channels, slab * SLAB, o_from + i * row, p.cout)


_WHOLE, _TILES, _SLABS, _PACK = range(4)


@shared_kernel
def _convolve(thread, threads, phase, p, plan, images, x, x2, weights, weights2, outputs, e, e2, v, m, u):
    """Do one thread's share of a phase.

    WHOLE: chunks of tiles, from input to output. TILES and then SLABS, for small images: all tiles' transforms, all slabs.
    PACK: transform all slabs of weights to `u`.
    """
    tiles = images * plan.down * plan.across
    slabs = plan.slabs * thread // threads, plan.slabs * (thread + 1) // threads
    chunks, some, v_from = (0, 1), (tiles * thread // threads, tiles * (thread + 1) // threads), 0
    if phase == _PACK:
        chunks = (0, 0)
        for slab in range(slabs[0], slabs[1]):
            for k in range(0, plan.terms * plan.blocks, plan.part):
                last = min(k + plan.part, plan.terms * plan.blocks)
                _transform_slab(p, plan, weights, slab, k, last, u, (slab * plan.parts + k // plan.part) * plan.u_size)
    if phase == _WHOLE:
        count = (tiles + plan.chunk - 1) // plan.chunk
        chunks, slabs, v_from = (count * thread // threads, count * (thread + 1) // threads), (0, plan.slabs), thread * plan.v_size
    m_from, u_from = thread * plan.m_size, thread * plan.u_size
    for chunk in range(chunks[0], chunks[1]):
        first = chunk * plan.chunk
        count = min(plan.chunk, tiles - first)
        rows = (count + ROW_STEP - 1) // ROW_STEP * ROW_STEP
        if phase == _WHOLE:
            some = (0, count)
        if phase != _SLABS:
            for term in range(plan.terms):
                source, block = x if term == 0 else x2, term * plan.blocks
                _transform_tiles(p, plan, source, first + some[0], some[1] - some[0], rows, block, v, v_from + some[0] * BLOCK)
        if phase != _TILES:
            for slab in range(slabs[0], slabs[1]):
                channels = min(SLAB, p.cout - slab * SLAB)
                for output in range(outputs):
                    ws, on = (weights, e) if output == 0 else (weights2, e2)
                    ready = len(ws.blocks) > 0
                    for k in range(0, plan.terms * plan.blocks, plan.part):
                        last = min(k + plan.part, plan.terms * plan.blocks)
                        us, at = (ws.blocks, (slab * plan.parts + k // plan.part) * plan.u_size) if ready else (u, u_from)
                        if not ready:
                            _transform_slab(p, plan, ws, slab, k, last, u, u_from)
                        _multiply(p, plan, on, slab, first, count, k, last, channels, rows, v, v_from, m, m_from, us, at)
                    _finish_slab(p, plan, on, slab, channels, first, count, rows, m, m_from)


def convolve(p, images, x, x2, terms, weights, e, threads, workspace, weights2=None, e2=None):
    """Convolve `images` images.

    Parameters
    ----------
    p : Problem
        Of a 3 x 3 kernel without stride and dilation.
    images : int
    x, x2 : ndarray of float32, flat
        The inputs of the first and second term, [images, height, width, cin]; `x2` counts only if `terms` is 2.
    terms : int
    weights : Weights
    e : Epilogue
    threads : int
        The work is split over tiles and output channels, never over a sum.
    workspace : Workspace
    weights2, e2 : Weights, Epilogue, optional
        A second convolution that shares the transformed inputs.
    """
    cut = plan(p, images, terms, threads)
    v = workspace.take("v", cut.v_size * (1 if cut.small else threads))
    m = workspace.take("m", cut.m_size * threads)
    ready = all(len(each.blocks) for each in (weights, weights2) if each)
    u = workspace.take("u", 0 if ready else cut.u_size * threads)
    outputs = 1 if weights2 is None else 2
    phases = (_TILES, _SLABS) if cut.small else (_WHOLE,)
    _convolve.in_turn(threads, phases, p, cut, images, x, x2, weights, weights2 or weights, outputs, e, e2 or e, v, m, u)


def pack(p, cut, weights, e, u, threads):
    """Write the transformed weights of all slabs, `cut.u_size` numbers each, to `u`; `e` is any epilogue."""
    _convolve(threads, _PACK, p, cut, 0, weights.source, weights.source, weights, weights, 0, e, e, u, u, u)
