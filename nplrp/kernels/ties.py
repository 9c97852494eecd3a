"""Structural ties: positions of a max-pool's windows that hold the same value because they see the same pixels.

In exact arithmetic such positions tie, and direct convolution keeps the tie to the bit; Winograd's transforms round differently by place in
the tile, so that the winner would be noise wherever a picture is flat. Hence ties are decided from the image, not from computed values.

Two positions of a pool's input grid at distance D see the same pixels if the image equals itself, shifted by D times the strides so far,
over the whole receptive field. A map e says where: e[p] at a layer is true if the value at p equals the value at p + D. A window (of a
convolution, a pool, or the 1 x 1 window of a padding layer) ANDs e over its taps; a tap outside the grid equals its partner only if the
partner is outside too. A layer that joins several ANDs their maps, which needs the same distance on every way down; where ways differ in
their strides there are no structural ties. Layers that treat every position alike (bias, ReLU, batch normalisation) keep the map.
"""

import functools
import math

import numpy as np

from nplrp.jit import kernel, shared_kernel

# Kinds of layers: what a layer does with its window doesn't matter, only whether winners are chosen there.
WINDOW = 0  #: convolution, average pool, or padding (a window of 1 x 1)
MAX_POOL = 1

#: What is known of a grid for one distance: nothing hangs on it; it may equal itself somewhere; it does nowhere.
_UNUSED, _SOME, _NONE = 0, 1, 2


def tie_labels(x, nodes, nt=1):
    """Find the structural ties of every max-pool.

    Parameters
    ----------
    x : ndarray (n, h, w, c)
        The images.
    nodes : list of (kind, kh, kw, sh, sw, dh, dw, top, bottom, left, right, sources)
        Every layer on the way from the image up to the last max-pool: kind, window, strides, dilations and zero padding, and a tuple of the
        places of the nodes that it reads, all before it; -1 is the image.
    nt : int
        Threads.

    Returns
    -------
    list
        For each max-pool int32 labels (n, ho, wo, kh * kw): the first position of the window, in row-major order, that ties with this one;
        None if there is no tie in any image.
    """
    net = _net(tuple(nodes), x.shape[1:3])
    geometry, grids = net[0], net[1]
    # + 0 turns -0.0 into 0.0, so that equal numbers have equal bits; planes of 4-byte words serve every dtype
    words = np.add(x, 0, dtype=x.dtype, order="C").view(np.uint32)
    planes = np.ascontiguousarray(words.transpose(0, 3, 1, 2)).reshape(len(x), words.shape[3], x.shape[1] * x.shape[2])
    pools = np.flatnonzero(geometry[:, 0] == MAX_POOL)
    shapes = [(len(x), *map(int, grids[p + 1]), int(geometry[p, 1] * geometry[p, 2])) for p in pools]
    starts = np.cumsum([0, *map(math.prod, shapes)])
    labels, found = np.empty(starts[-1], np.int32), np.zeros((len(pools), len(x)), np.bool_)
    # a thread has to be worth starting: one image takes half a millisecond
    _label_all(max(1, min(nt, len(x))), planes, *net, pools, starts, labels, found)
    return [
        labels[start : start + math.prod(shape)].reshape(shape) if some.any() else None
        for start, shape, some in zip(starts[:-1], shapes, found, strict=True)
    ]


@functools.cache
def _net(nodes, image):
    """Return the nodes as arrays.

    Windows [nodes, 11]; grids [nodes + 1, 2], the image's first; whether every window has a tap inside its input grid [nodes]; where the
    map of the image and of each node's output starts in one buffer [nodes + 2]; and the sources of all nodes one after the other, as places
    among the grids, with where each node's start [nodes + 1].
    """
    geometry = np.array([node[:11] for node in nodes], np.int64).reshape(-1, 11)
    grids, covered, sources, starts = [tuple(image)], [], [], [0]
    for node in nodes:
        _, kh, kw, sh, sw, dh, dw, top, bottom, left, right, reads = node
        grid, size, inside = grids[reads[0] + 1], [], True
        if any(grids[j + 1] != grid for j in reads):
            raise ValueError("grids that are joined differ")
        for n, k, s, d, before, after in zip(grid, (kh, kw), (sh, sw), (dh, dw), (top, left), (bottom, right), strict=True):
            size.append((n + before + after - (k - 1) * d - 1) // s + 1)
            taps = np.arange(size[-1])[:, None] * s - before + np.arange(k) * d
            inside &= bool(((taps >= 0) & (taps < n)).any(1).all())
        grids.append(tuple(size))
        covered.append(inside)
        sources += [j + 1 for j in reads]
        starts.append(len(sources))
    sizes = np.array(grids, np.int64)
    maps = np.concatenate([[0], np.cumsum(sizes[:, 0] * sizes[:, 1])])
    return geometry, sizes, np.array(covered, np.bool_), maps, np.array(sources, np.int64), np.array(starts, np.int64)


@shared_kernel
def _label_all(t, nt, planes, geometry, grids, covered, maps, sources, firsts, pools, starts, labels, found):
    """Write the labels of every nt-th image from the t-th on, and by pool whether it has a tie."""
    most = 0
    for i in range(len(geometry)):
        h, w = grids[sources[firsts[i]]]
        most = max(most, (h + geometry[i, 7] + geometry[i, 8]) * (w + geometry[i, 9] + geometry[i, 10]))
    e, work, rows = np.empty(maps[-1], np.uint8), np.empty(most, np.uint8), np.empty(most, np.uint8)
    shifts, state = np.empty((len(grids), 2), np.int64), np.empty(len(grids), np.uint8)
    images = len(planes)
    for n in range(t, images, nt):
        for i in range(len(pools)):
            pool = pools[i]
            source = sources[firsts[pool]]
            (h, w), (ho, wo), kh, kw = grids[source], grids[pool + 1], geometry[pool, 1], geometry[pool, 2]
            size = ho * wo * kh * kw
            mine = labels[starts[i] + n * size : starts[i] + (n + 1) * size]
            for k in range(size):
                mine[k] = k % (kh * kw)
            for dy in range(kh):
                for dx in range(1 - kw if dy else 1, kw):
                    if _tie_map(planes[n], geometry, grids, covered, maps, sources, firsts, source, dy, dx, shifts, state, e, work, rows):
                        found[i, n] |= _label(e[maps[source] : maps[source + 1]], h, w, ho, wo, geometry[pool], dy, dx, mine)


@kernel
def _label(e, h, w, ho, wo, window, dy, dx, labels):
    """Give the positions of each window at distance (dy, dx) from an earlier one that they tie with its number; return whether any does."""
    _, kh, kw, sh, sw, _, _, top, _, left, _ = window
    found = False
    for r in range(ho):
        for i in range(max(0, top - r * sh), min(kh - dy, h + top - r * sh)):
            line = e[(r * sh + i - top) * w : (r * sh + i - top + 1) * w]
            for j in range(max(0, -dx), kw - max(0, dx)):
                this, other = i * kw + j, (i + dy) * kw + j + dx
                for q in range(wo):
                    x = q * sw + j - left
                    if 0 <= x < w and line[x]:
                        place = (r * wo + q) * kh * kw + other
                        labels[place] = min(labels[place], this)
                        found = True
    return found


@kernel
def _tie_map(planes, geometry, grids, covered, maps, sources, firsts, end, dy, dx, shifts, state, e, padded, rows):
    """Write to e, at its place, where grid `end` equals itself at distance (dy, dx); return whether it does anywhere."""
    for k in range(end + 1):
        state[k] = _UNUSED
    state[end], shifts[end, 0], shifts[end, 1] = _SOME, dy, dx
    for i in range(end - 1, -1, -1):  # distances on the way down; grid i + 1 is the output of node i
        if state[i + 1] == _UNUSED:
            continue
        down, right = shifts[i + 1, 0] * geometry[i, 3], shifts[i + 1, 1] * geometry[i, 4]
        for q in range(firsts[i], firsts[i + 1]):
            source = sources[q]
            if state[source] == _UNUSED:
                state[source], shifts[source, 0], shifts[source, 1] = _SOME, down, right
            elif shifts[source, 0] != down or shifts[source, 1] != right:
                return False
    if state[0] != _UNUSED:
        image = e[maps[0] : maps[1]]
        _equal_pixels(planes, grids[0, 0], grids[0, 1], shifts[0, 0], shifts[0, 1], image)
        if not _only_with_partner(image, grids[0, 0], grids[0, 1], shifts[0, 0], shifts[0, 1]):
            state[0] = _NONE
    for i in range(end):
        if state[i + 1] == _UNUSED:
            continue
        _, kh, kw, sh, sw, dh, dw, top, bottom, left, right = geometry[i]
        out, first = e[maps[i + 1] : maps[i + 2]], firsts[i]
        for q in range(first, firsts[i + 1]):  # where one source has no ties and every window has a tap inside, there are none
            if state[sources[q]] == _NONE and covered[i]:
                state[i + 1] = _NONE
        if state[i + 1] == _NONE:
            continue
        for q in range(first, firsts[i + 1]):
            source = sources[q]
            h, w = grids[source]
            inside = e[maps[source] : maps[source + 1]]
            if state[source] == _NONE:
                for p in range(h * w):
                    inside[p] = 0
            _pad(inside, h, w, shifts[source, 0], shifts[source, 1], top, bottom, left, right, padded)
            width, size = left + w + right, (top + h + bottom) * (left + w + right)
            # whole grids as one line, because LLVM vectorises long loops that start at 0; what wraps around isn't used
            _and(padded, size, kh, dh * width, rows)
            _and(rows, size - (kh - 1) * dh * width, kw, dw, padded)
            _take(padded, width, sh, sw, grids[i + 1, 0], grids[i + 1, 1], q > first, out)
        if not _only_with_partner(out, grids[i + 1, 0], grids[i + 1, 1], shifts[i + 1, 0], shifts[i + 1, 1]):
            state[i + 1] = _NONE
    return state[end] == _SOME


@kernel
def _equal_pixels(planes, h, w, dy, dx, e):
    """Write to e [h * w] whether pixel p equals p + (dy, dx) in all planes, wherever that is a pixel."""
    shift = dy * w + dx
    first, last = max(0, -shift), max(0, h * w - max(0, shift))
    middle = e[first:last]
    for c in range(planes.shape[0]):
        plane = planes[c]
        a, b = plane[first:last], plane[first + shift : last + shift]
        if c == 0:
            for p in range(middle.size):
                middle[p] = a[p] == b[p]
        else:
            for p in range(middle.size):
                middle[p] &= a[p] == b[p]


@kernel
def _only_with_partner(e, h, w, dy, dx):
    """Make e [h * w] false where p + (dy, dx) lies outside, dy >= 0; return whether any is true."""
    for y in range(h):
        for x in range(w if y + dy >= h else min(w, max(0, -dx))):
            e[y * w + x] = 0
        for x in range(max(0, w - max(0, dx)), w):
            e[y * w + x] = 0
    some = np.uint8(0)
    for p in range(h * w):
        some |= e[p]
    return some != 0


@kernel
def _pad(e, h, w, dy, dx, top, bottom, left, right, padded):
    """Copy e [h * w] into its place between the paddings, where a tap equals its partner if that is outside too.

    Negative paddings cut off what is there.
    """
    width = left + w + right
    for y in range(-top, h + bottom):
        line = padded[(y + top) * width : (y + top + 1) * width]
        inside, partner_inside = 0 <= y < h, 0 <= y + dy < h
        if inside:
            first, last = max(0, -left), w + min(0, right)
            source, middle = e[y * w + first : y * w + last], line[left + first : left + last]
            for x in range(middle.size):
                middle[x] = source[x]
        for x in range(-left, 0 if inside else w):
            line[x + left] = not (partner_inside and 0 <= x + dx < w)
        for x in range(w, w + right):
            line[x + left] = not (partner_inside and 0 <= x + dx < w)


@kernel
def _and(source, size, taps, step, out):
    """Write source[p] & source[p + step] & ... to out[p], for every p whose taps lie in source [size]."""
    count = size - (taps - 1) * step
    for i in range(taps):
        tap = source[i * step : i * step + count]
        if i == 0:
            for p in range(count):
                out[p] = tap[p]
        else:
            for p in range(count):
                out[p] &= tap[p]


@kernel
def _take(source, width, sh, sw, ho, wo, joined, e):
    """Copy every sh-th row and sw-th column of `source` to e [ho * wo], or AND it to what is there if `joined`."""
    for r in range(ho):
        line, out = source[r * sh * width : r * sh * width + (wo - 1) * sw + 1], e[r * wo : (r + 1) * wo]
        if joined:
            for q in range(wo):
                out[q] &= line[q * sw]
        elif sw == 1:
            for q in range(wo):
                out[q] = line[q]
        else:
            for q in range(wo):
                out[q] = line[q * sw]
