"""Convolutions in which an output sees few channels: depthwise ones, and groups of 4 or 8 channels.

A depthwise kernel [kh, kw, c, m] makes m outputs of every channel, c * m + j (Keras's order). The registers hold output channels that lie
side by side; of a group's inputs each is copied to the places of all outputs of its group.

Order per output element, from 0: term by term, then kernel rows, kernel columns, and input channels (j, if transposed) ascending, each
product fused into the sum; taps outside the image are left out. The kernel's rows and columns count as the transpose sees them, that is
turned round. These are the bits of a direct convolution.
"""

from typing import NamedTuple

import numpy as np
from llvmlite import ir

from nplrp.jit import DISABLED, frozen, kernel, queueable, shared_kernel
from nplrp.jit.lazy import cgutils, intrinsic, types
from nplrp.kernels.epilogue import finish_pixels, forward_epilogue, transpose_epilogue
from nplrp.kernels.fma import fma
from nplrp.kernels.simd import VECTOR_BITS
from nplrp.kernels.vector_loop import I64, for_vectors

#: Channels of a group that are done here.
GROUPS = (4, 8)
#: Numbers whose sums wait to be finished.
_CACHED = 4096
#: Output pixels whose sums are held in registers together, so that a weight is read once for them.
PIXELS = 4


class Cut(NamedTuple):
    """How a problem falls into sums of the same length."""

    channels: int  # of a sum
    sums: int  # for every output pixel: m, or 1 if transposed or grouped
    parts: int  # of every tap: 1, or m if transposed
    group: int  # channels of a group
    terms: int
    transposed: bool

    @property
    def tap_size(self):
        """Return the number of weights of a tap."""
        return self.channels * max(self.sums, self.parts, self.group)


@queueable
def depthwise_forward(x, w, geometry, changes, bias, relu, out, x2=None, threads=1):
    """Convolve: out = f(sum over terms conv(x_t, w_t) + bias), f the ReLU or nothing.

    Parameters
    ----------
    x, x2 : ndarray [n, height, width, c]
        The inputs of the terms.
    w : ndarray [kh, kw, c, m]
        Of the dtype of x; may be read-only and memory-mapped.
    geometry : Geometry
        With ``cin`` = c and ``cout`` = c * m.
    changes : sequence of (float, float)
        One (p, n) per term: the term's weights are p * max(w, 0) + n * min(w, 0).
    bias : ndarray [c * m]
        Added once, to the finished sum.
    relu : bool or float
        A number is where to clamp at the top, too. A NaN passes the ReLU.
    out : ndarray [n, out_height, out_width, c * m]
        Overwritten.
    threads : int
    """
    _run(x, x2, w, geometry, False, changes, forward_epilogue(relu, out, bias), threads)


@queueable
def depthwise_transpose(
    s, w, geometry, changes, out, s2=None, a=None, z=None, eps=0.0, signed=False, out2=None, z2=None, weights=(1.0, 1.0), threads=1
):
    """Carry back: c = sum over terms of the transpose of conv applied to s_t, and what the next layer needs of it.

    Parameters
    ----------
    s, s2 : ndarray [n, out_height, out_width, c * m]
        The inputs of the terms.
    w, geometry, changes
        As in `depthwise_forward`.
    out : ndarray [n, height, width, c]
        Overwritten: c; with `a` R = a * c; with `a` and `z` R / stab(z).
    a, z, eps, signed, out2, z2, weights
        As in `nplrp.kernels.conv.conv_transpose`.
    threads : int
    """
    _run(s, s2, w, geometry, True, changes, transpose_epilogue(out, a, z, eps, signed, out2, z2, weights), threads)


def _run(x, x2, w, geometry, transposed, changes, e, threads):
    p, factors = geometry.problem(transposed)._replace(groups=geometry.cin), np.array(changes, x.dtype)
    x = frozen(x)
    w = frozen(np.require(w, requirements="A"))
    cut = cut_of(p, len(changes), transposed, x.dtype)
    convolve(p, cut, x, x if x2 is None else frozen(x2), pack(p, cut, w, factors), e, threads)


def cut_of(p, terms, transposed, dtype):
    """Return the `Cut` of a problem, or None if this isn't the kernel for it."""
    group = p.cin // p.groups
    if group in GROUPS and p.cin == p.cout and group <= VECTOR_BITS // (8 * np.dtype(dtype).itemsize):
        return Cut(p.cin, 1, 1, group, terms, transposed)
    channels, wide = (p.cout, p.cin) if transposed else (p.cin, p.cout)
    m = wide // max(1, channels)
    return Cut(channels, 1 if transposed else m, m if transposed else 1, 1, terms, transposed) if channels == p.groups else None


def pack(p, cut, w, changes):
    """Return the changed weights of all terms, flat: [term][kernel row][kernel column][m or channel of the group][channel].

    Parameters
    ----------
    p : Problem
    cut : Cut
    w : ndarray, flat
        [kh, kw, c, m], or [kh, kw, channels of a group, c].
    changes : ndarray [terms, 2]
        One change (p, n) per term.
    """
    packed = np.empty(cut.terms * p.kernel_h * p.kernel_w * cut.tap_size, w.dtype)
    _pack(1, p, cut, cut.tap_size, w, frozen(changes), packed)
    return frozen(packed)


def convolve(p, cut, x, x2, weights, e, threads, weights2=None, e2=None):
    """Convolve flat arrays.

    Parameters
    ----------
    p : Problem
    cut : Cut
    x, x2 : ndarray, flat
        The inputs of the first and second term, [n, height, width, channels]; `x2` counts only if there are two terms.
    weights : ndarray, flat
        From `pack`.
    e : Epilogue
    threads : int
        The work is split over rows of pixels.
    weights2, e2 : ndarray, Epilogue, optional
        A second convolution of the same cut and inputs.
    """
    threads = threads if e.out.size > 16384 else 1
    images = e.out.size // max(1, p.out_height * p.out_width * p.cout)
    if cut.parts > 1:
        x, x2 = _planes(x, cut, threads), _planes(x2, cut, threads) if cut.terms > 1 else x
    second = (weights, 1, e, e) if weights2 is None else (weights2, 2, e, e2)
    _depthwise(threads, p, cut, cut.tap_size, images, x, x2, weights, *second)


def _planes(s, cut, threads):
    """Return s [..., c, m] as [..., m, c], so that numbers that are added lie side by side."""
    out = np.empty(s.size, s.dtype)
    _swap(threads, s, cut.channels, cut.parts, out)
    return frozen(out)


@shared_kernel
def _swap(t, nt, s, channels, m, out):
    size = channels * m
    pixels = s.size // size
    for pixel in range(pixels * t // nt, pixels * (t + 1) // nt):
        for j in range(m):
            for c in range(channels):
                out[pixel * size + j * channels + c] = s[pixel * size + c * m + j]


@shared_kernel
def _pack(t, nt, p, cut, size, w, changes, weights):
    taps, channels, group, m, zero = p.kernel_h * p.kernel_w, cut.channels, cut.group, size // cut.channels, w.dtype.type(0)
    for term in range(cut.terms):
        positive, negative = changes[2 * term], changes[2 * term + 1]
        for tap in range(taps):
            source, to = (taps - 1 - tap if cut.transposed else tap) * size, (term * taps + tap) * size
            for j in range(m):
                for c in range(channels):
                    at = c * m + j
                    if group > 1:
                        first = c // group * group
                        at = (c - first) * channels + first + j if cut.transposed else j * channels + c
                    v = w[source + at]
                    weights[to + j * channels + c] = v * (positive if v > zero else negative)


def _make_accumulate(pixels, group):
    """Return an intrinsic that adds the products of the taps to the sums of `runs` times `pixels` neighbours."""

    @intrinsic
    def accumulate(typing, runs, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels):
        whole, dtype = types.int64, sums.dtype
        signature = types.void(whole, x, whole, places, w, whole, w_places, whole, types.boolean, sums, whole, whole)

        def emit(context, builder, signature, args):
            runs, _, step, _, _, w_from, _, taps, add, _, s_step, channels = args
            if VECTOR_BITS // dtype.bitwidth < group:
                return context.get_dummy_value()

            def work(asm, at, first):
                totals = [cgutils.alloca_once_value(builder, asm.constant(0.0)) for _ in range(pixels)]
                numbers = [builder.add(first, ir.Constant(I64, k)) for k in range(pixels)]
                to = [asm.array(9, builder.add(builder.mul(s_step, k), at)) for k in numbers]
                for total in totals:
                    builder.store(asm.constant(0.0), total)
                with builder.if_then(add):
                    for total, place in zip(totals, to, strict=True):
                        builder.store(asm.load(place), total)
                with cgutils.for_range(builder, taps) as counter:
                    place = builder.add(asm.number(asm.array(3, counter.index, I64), I64), at)
                    w_place = builder.add(asm.number(asm.array(6, counter.index, I64), I64), builder.add(w_from, at))
                    values = [asm.load(asm.array(1, builder.add(builder.mul(step, k), place))) for k in numbers]
                    for n in range(group):
                        weight = asm.load(asm.array(4, builder.add(w_place, builder.mul(channels, ir.Constant(I64, n)))))
                        own = [lane // group * group + n for lane in range(asm.lanes)]
                        for value, total in zip(values, totals, strict=True):
                            one = asm.shuffle(value, value, own) if group > 1 else value
                            builder.store(asm.fma(one, weight, builder.load(total, typ=asm.vector)), total)
                for total, place in zip(totals, to, strict=True):
                    asm.store(builder.load(total, typ=asm.vector), place)

            with cgutils.for_range(builder, runs) as counter:
                first = builder.mul(counter.index, ir.Constant(I64, pixels))
                for_vectors(context, builder, signature, args, dtype, channels, 1, lambda asm, at: work(asm, at, first), least=group)
            return context.get_dummy_value()

        return signature, emit

    return accumulate


def _make_loops(pixels, group):
    """Return the same in plain loops, for runs with the JIT off."""

    def accumulate(runs, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels):
        for k in range(runs * pixels):
            for c in range(channels):
                to = k * s_step + c
                total = sums[to] if add else sums.dtype.type(0)
                for t in range(taps):
                    for n in range(group):
                        own = c // group * group + n if group > 1 else c
                        total = fma(x[k * step + places[t] + own], w[w_from + w_places[t] + n * channels + c], total)
                sums[to] = total

    return accumulate


_make = _make_loops if DISABLED else _make_accumulate
_some, _one = _make(PIXELS, 1), _make(1, 1)
_some_of_4, _one_of_4, _some_of_8, _one_of_8 = _make(PIXELS, 4), _make(1, 4), _make(PIXELS, 8), _make(1, 8)


@kernel
def _accumulate(group, runs, x, step, places, w, w_from, w_places, add, sums, shape):
    """Add the products of the taps to the sums of `runs` times `PIXELS` neighbours, or of one pixel if `runs` is 0."""
    taps, s_step, channels = shape
    if group == 1 and runs > 0:
        _some(runs, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels)
    elif group == 1:
        _one(1, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels)
    elif group == 4 and runs > 0:
        _some_of_4(runs, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels)
    elif group == 4:
        _one_of_4(1, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels)
    elif runs > 0:
        _some_of_8(runs, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels)
    else:
        _one_of_8(1, x, step, places, w, w_from, w_places, taps, add, sums, s_step, channels)


@kernel
def _interleave(cut, sums, s_from, ordered, o_from):
    """Copy sums [m, c] to [c, m]."""
    for j in range(cut.sums):
        for c in range(cut.channels):
            ordered[o_from + c * cut.sums + j] = sums[s_from + j * cut.channels + c]


@shared_kernel
def _depthwise(thread, threads, p, cut, size, images, x, x2, weights, weights2, outputs, e, e2):
    """Compute one thread's share of the output rows, each for one or both outputs."""
    channels, out_size = cut.channels, p.cout
    taps = p.kernel_h * p.kernel_w
    most = max(1, _CACHED // (PIXELS * out_size))
    sums = np.empty(most * PIXELS * out_size, x.dtype)
    ordered = np.empty(sums.size, x.dtype) if cut.sums > 1 else sums
    places, w_places = np.empty(taps * cut.parts, np.int64), np.empty(taps * cut.parts, np.int64)
    rows, row_taps = np.empty(p.kernel_h, np.int64), np.empty(p.kernel_h, np.int64)
    for row in range(images * p.out_height * thread // threads, images * p.out_height * (thread + 1) // threads):
        image, y = row // p.out_height, row % p.out_height
        count_h = 0
        for i in range(p.kernel_h):
            v = y * p.stride_h + i * p.dilation_h - p.top
            if v >= 0 and v % p.up_h == 0 and v // p.up_h < p.height:
                rows[count_h], row_taps[count_h] = (image * p.height + v // p.up_h) * p.width, i
                count_h += 1
        for phase in range(min(p.up_w, p.out_width)):
            q = phase
            while q < p.out_width:
                # the taps of this pixel, and for how many runs of pixels they lie inside the image
                count, least, most_right = 0, p.width, 0
                for h in range(count_h):
                    for j in range(p.kernel_w):
                        v = q * p.stride_w + j * p.dilation_w - p.left
                        if v % p.up_w != 0:
                            continue
                        u = v // p.up_w
                        least, most_right = min(least, u), max(most_right, u)
                        if 0 <= u < p.width:
                            for part in range(cut.parts):
                                places[count] = (rows[h] + u) * p.cin + part * channels
                                w_places[count] = (row_taps[h] * p.kernel_w + j) * size + part * channels
                                count += 1
                runs = 0
                if least >= 0:
                    pixels = min((p.width - 1 - most_right) // p.stride_w, (p.out_width - 1 - q) // p.up_w) + 1
                    runs = min(pixels // PIXELS, most)
                number = runs * PIXELS if runs > 0 else 1
                step, shape = p.stride_w * p.cin, (count, out_size, channels)
                for output in range(outputs):
                    w, on = (weights, e) if output == 0 else (weights2, e2)
                    for term in range(cut.terms):
                        source, add = x if term == 0 else x2, term > 0
                        for n in range(cut.sums):
                            w_from, some = term * taps * size + n * channels, sums[n * channels :]
                            _accumulate(cut.group, runs, source, step, places, w, w_from, w_places, add, some, shape)
                    for k in range(number if cut.sums > 1 else 0):
                        _interleave(cut, sums, k * out_size, ordered, k * out_size)
                    finish_pixels(on, ordered, 0, out_size, number, out_size, 0, (row * p.out_width + q) * out_size, p.up_w * out_size)
                q += number * p.up_w
