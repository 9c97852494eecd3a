"""Max and average pooling, their transposes, and the fused steps of LRP around a max-pool.

Arrays are NHWC. A window of kh x kw moves by (sh, sw) over an image with `top` rows and `left` columns before it; what lies outside
never wins a maximum and isn't counted in a mean. A winner is i * kw + j, of dtype `winner_dtype(kh, kw)`.

Order of operations: a mean adds its window up in row-major order, from 0, and divides, in float64, and is rounded once; a transpose adds
up, for each pixel, the windows that hold it in row-major order, from 0.
"""

import numpy as np
from llvmlite import ir

from nplrp.jit import frozen, kernel, queueable, shared_kernel
from nplrp.jit.lazy import cgutils, intrinsic, types
from nplrp.kernels.elementwise import PLUS, stabiliser
from nplrp.kernels.vector_loop import I32, I64, for_vectors

_PLAIN, _DIVIDE, _TIMES, _RATIO = range(4)


def winner_dtype(kh, kw):
    """Return the dtype of winners: uint8 for windows of up to 256 positions, else int32 (global pooling)."""
    return np.uint8 if kh * kw <= 256 else np.int32


def no_labels(kh, kw):
    """Return the array to pass as `labels` when `use_labels` is false."""
    return np.empty((0, 0, 0, 0), np.int32)


@queueable
def max_forward(x, kh, kw, sh, sw, top, left, z, winner, labels, use_labels, nt=1):
    """Write the maximum of every window of x [n, h, w, c] to z and its position to `winner`, both [n, ho, wo, c].

    Every window holds at least one pixel. The first maximum in row-major order wins; a NaN wins over everything. With `use_labels`,
    position p of a window counts with the value at position labels[n, ho, wo, p], int32 (see `nplrp.kernels.ties`).
    """
    geometry = _geometry(x, z, kh, kw, sh, sw, top, left)
    _max_forward(_few(nt, x), frozen(x), geometry, z.reshape(-1), winner.reshape(-1), frozen(labels), bool(use_labels))


@queueable
def max_transpose(s, winner, kh, kw, sh, sw, top, left, c, nt=1):
    """Write to c [n, h, w, c] the sum of the s [n, ho, wo, c] that each position won, 0 where it won nothing."""
    _transpose(s, winner, (kh, kw, sh, sw, top, left), c, c, c, PLUS, 0, _PLAIN, nt)


@queueable
def max_transpose_divide(s, winner, kh, kw, sh, sw, top, left, z, kind, eps, out, nt=1):
    """Write max_transpose(s) / stabilise(z) to `out`: s of the layer below, bit for bit as in two steps."""
    _transpose(s, winner, (kh, kw, sh, sw, top, left), out, z, z, kind, eps, _DIVIDE, nt)


@queueable
def max_transpose_times(s, winner, kh, kw, sh, sw, top, left, a, out, nt=1):
    """Write a * max_transpose(s) to `out`: R of the layer below, bit for bit as in two steps."""
    _transpose(s, winner, (kh, kw, sh, sw, top, left), out, a, a, PLUS, 0, _TIMES, nt)


@queueable
def max_transpose_ratio(s, winner, kh, kw, sh, sw, top, left, a, z, kind, eps, out, nt=1):
    """Write (a * max_transpose(s)) / stabilise(z) to `out`: s of the layer below, bit for bit as in three steps."""
    _transpose(s, winner, (kh, kw, sh, sw, top, left), out, a, z, kind, eps, _RATIO, nt)


@queueable
def avg_forward(x, kh, kw, sh, sw, top, left, z, nt=1):
    """Write the mean over the part of every window that lies inside the image to z [n, ho, wo, c]."""
    _avg_forward(_few(nt, x), frozen(x), _geometry(x, z, kh, kw, sh, sw, top, left), z.reshape(-1))


@queueable
def avg_transpose(s, kh, kw, sh, sw, top, left, c, nt=1):
    """Write the transpose of `avg_forward` to c [n, h, w, c]: sums of s / count."""
    _avg_transpose(_few(nt, c), frozen(s), _geometry(c, s, kh, kw, sh, sw, top, left), c.reshape(-1))


def _transpose(s, winner, window, out, a, z, kind, eps, mode, nt):
    numbers = stabiliser(kind, eps, out.dtype)
    inputs = frozen(s), frozen(winner), _geometry(out, s, *window), frozen(a), frozen(z)
    _max_transpose(_few(nt, out), *inputs, numbers, mode, out.reshape(-1))


def _geometry(image, windows, kh, kw, sh, sw, top, left):
    return np.array([*image.shape, windows.shape[1], windows.shape[2], kh, kw, sh, sw, top, left], np.int64)


def _few(nt, x):
    """Return the number of threads that an image is worth."""
    return nt if x.size > 16384 else 1


@intrinsic
def _window_max(typing, x, places, positions, taps, z, winner, to, channels):
    """Write to z[to + k] the first maximum of x[places[i] + k] over i < taps, and its positions[i] to winner[to + k], for k < channels."""
    whole, dtype = types.int64, z.dtype

    def emit(context, builder, signature, args):
        index = ir.IntType(winner.dtype.bitwidth)

        def work(asm, at):
            whole_lanes, index_lanes = ir.VectorType(I32, asm.lanes), ir.VectorType(index, asm.lanes)

            def tap(i):
                place = asm.number(asm.array(1, i, I64), I64)
                position = builder.trunc(asm.number(asm.array(2, i, I64), I64), I32)
                return asm.load(asm.array(0, builder.add(place, at))), _splat(builder, position, whole_lanes)

            best, where = (cgutils.alloca_once_value(builder, v) for v in tap(0))
            with cgutils.for_range_slice(builder, ir.Constant(I64, 1), args[3], ir.Constant(I64, 1)) as (i, _):
                value, position = tap(i)
                old = builder.load(best, typ=asm.vector)
                # larger or one of them NaN, and the one so far isn't
                better = builder.and_(builder.fcmp_unordered(">", value, old), builder.fcmp_ordered("ord", old, old))
                builder.store(asm.select(better, value, old), best)
                builder.store(asm.select(better, position, builder.load(where, typ=whole_lanes)), where)
            place = builder.add(args[6], at)
            asm.store(builder.load(best, typ=asm.vector), asm.array(4, place))
            found = builder.load(where, typ=whole_lanes)
            found = found if index == I32 else builder.trunc(found, index_lanes)
            builder.store(found, builder.bitcast(asm.array(5, place, index), index_lanes.as_pointer()), align=index.width // 8)

        for_vectors(context, builder, signature, args, dtype, args[7], 1, work)
        return context.get_dummy_value()

    return types.void(x, places, positions, whole, z, winner, whole, whole), emit


@intrinsic
def _gather(typing, s, winner, places, positions, count, a, z, numbers, mode, out, to, channels):
    """out[to + k] = sum over i < count of s[places[i] + k] where winner there is positions[i]; then times a, and divided by stab(z)."""
    whole, dtype = types.int64, out.dtype

    def emit(context, builder, signature, args):
        index = ir.IntType(winner.dtype.bitwidth)

        def work(asm, at):
            whole_lanes, index_lanes = ir.VectorType(I32, asm.lanes), ir.VectorType(index, asm.lanes)
            zero = asm.constant(0)
            total = cgutils.alloca_once_value(builder, zero)
            builder.store(zero, total)
            with cgutils.for_range(builder, args[4]) as counter:
                place = builder.add(asm.number(asm.array(2, counter.index, I64), I64), at)
                position = builder.trunc(asm.number(asm.array(3, counter.index, I64), I64), I32)
                won = builder.bitcast(asm.array(1, place, index), index_lanes.as_pointer())
                won = builder.load(won, align=index.width // 8, typ=index_lanes)
                won = won if index == I32 else builder.zext(won, whole_lanes)
                mine = builder.icmp_signed("==", won, _splat(builder, position, whole_lanes))
                share = asm.select(mine, asm.load(asm.array(0, place)), zero)
                builder.store(asm.add(builder.load(total, typ=asm.vector), share), total)
            place = builder.add(args[10], at)
            with builder.if_then(builder.icmp_signed(">=", args[8], ir.Constant(I64, _TIMES))):
                builder.store(asm.mul(asm.load(asm.array(5, place)), builder.load(total, typ=asm.vector)), total)
            with builder.if_then(builder.trunc(args[8], ir.IntType(1))):  # _DIVIDE and _RATIO are odd
                builder.store(_divide(asm, builder.load(total, typ=asm.vector), asm.load(asm.array(6, place))), total)
            asm.store(builder.load(total, typ=asm.vector), asm.array(9, place))

        for_vectors(context, builder, signature, args, dtype, args[11], 1, work)
        return context.get_dummy_value()

    return types.void(s, winner, places, positions, whole, a, z, numbers, whole, out, whole, whole), emit


def _splat(builder, number, vector):
    """Return an integer vector with `number` in every lane."""
    undefined = ir.Constant(vector, ir.Undefined)
    first = builder.insert_element(undefined, number, ir.Constant(I32, 0))
    return builder.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(I32, vector.count), [0] * vector.count))


def _divide(asm, R, z):
    """Return R / stab(z), 0 where dropped: `nplrp.kernels.elementwise.denominator` in vectors; the numbers are argument 7."""
    builder = asm.builder
    below, lowest, highest, at_zero, above, least, drop = (asm.splat(asm.number(asm.array(7, i))) for i in range(7))
    zero, negative = asm.constant(0), asm.below_zero(z)
    d = asm.add(z, asm.select(negative, below, above))
    low = asm.select(negative, lowest, least)
    d = asm.select(builder.fcmp_ordered("<", d, low), low, d)
    d = asm.select(builder.and_(negative, builder.fcmp_ordered(">", d, highest)), highest, d)
    d = asm.select(builder.fcmp_ordered("==", z, zero), at_zero, d)
    dropped = builder.and_(builder.fcmp_ordered("==", d, zero), builder.fcmp_ordered("!=", drop, zero))
    return asm.select(dropped, d, asm.div(R, d))


@shared_kernel
def _max_forward(t, nt, x, geometry, z, winner, labels, use_labels):
    n, h, w, channels, ho, wo, kh, kw, sh, sw, top, left = geometry
    places, positions = np.zeros(kh * kw, np.int64), np.zeros(kh * kw, np.int64)
    for row in range(n * ho * t // nt, n * ho * (t + 1) // nt):
        b, r = row // ho, row % ho
        y0 = r * sh - top
        for q in range(wo):
            x0, at, taps = q * sw - left, row * wo + q, 0
            for i in range(max(0, -y0), min(kh, h - y0)):
                for j in range(max(0, -x0), min(kw, w - x0)):
                    p = i * kw + j
                    first_i, first_j = i, j
                    if use_labels:
                        first = np.int64(labels[at * kh * kw + p])
                        first_i, first_j = first // kw, first % kw
                    places[taps] = ((b * h + y0 + first_i) * w + x0 + first_j) * channels
                    positions[taps] = p
                    taps += 1
            _window_max(x, places, positions, taps, z, winner, at * channels, channels)


@shared_kernel
def _max_transpose(t, nt, s, winner, geometry, a, z, numbers, mode, out):
    n, h, w, channels, ho, wo, kh, kw, sh, sw, top, left = geometry
    places, positions = np.empty(kh * kw, np.int64), np.empty(kh * kw, np.int64)
    for row in range(n * h * t // nt, n * h * (t + 1) // nt):
        b, y = row // h, row % h
        for u in range(w):
            count = 0
            for r in range(max(0, (y + top - kh + sh) // sh), min(ho, (y + top) // sh + 1)):
                for q in range(max(0, (u + left - kw + sw) // sw), min(wo, (u + left) // sw + 1)):
                    places[count] = ((b * ho + r) * wo + q) * channels
                    positions[count] = (y + top - r * sh) * kw + u + left - q * sw
                    count += 1
            _gather(s, winner, places, positions, count, a, z, numbers, mode, out, (row * w + u) * channels, channels)


@kernel
def _span(start, size, limit):
    """Return the part of a window, from `start` on, that lies in 0 ... limit."""
    return max(start, 0), min(start + size, limit)


@shared_kernel
def _avg_forward(t, nt, x, geometry, z):
    n, h, w, channels, ho, wo, kh, kw, sh, sw, top, left = geometry
    total = np.empty(channels, np.float64)  # a window may be a whole image, whose sum errs by many times its rounding in float32
    for row in range(n * ho * t // nt, n * ho * (t + 1) // nt):
        b, r = row // ho, row % ho
        y0, y1 = _span(r * sh - top, kh, h)
        for q in range(wo):
            u0, u1 = _span(q * sw - left, kw, w)
            count = np.float64((y1 - y0) * (u1 - u0))
            mean = z[(row * wo + q) * channels : (row * wo + q + 1) * channels]
            for k in range(channels):
                total[k] = 0
            for y in range(y0, y1):
                for u in range(u0, u1):
                    pixel = x[((b * h + y) * w + u) * channels : ((b * h + y) * w + u + 1) * channels]
                    for k in range(channels):
                        total[k] += pixel[k]
            for k in range(channels):
                mean[k] = total[k] / count


@shared_kernel
def _avg_transpose(t, nt, s, geometry, c):
    n, h, w, channels, ho, wo, kh, kw, sh, sw, top, left = geometry
    for row in range(n * h * t // nt, n * h * (t + 1) // nt):
        b, y = row // h, row % h
        for u in range(w):
            total = c[(row * w + u) * channels : (row * w + u + 1) * channels]
            for k in range(channels):
                total[k] = 0
            for r in range(max(0, (y + top - kh + sh) // sh), min(ho, (y + top) // sh + 1)):
                y0, y1 = _span(r * sh - top, kh, h)
                for q in range(max(0, (u + left - kw + sw) // sw), min(wo, (u + left) // sw + 1)):
                    u0, u1 = _span(q * sw - left, kw, w)
                    count = c.dtype.type((y1 - y0) * (u1 - u0))
                    share = s[((b * ho + r) * wo + q) * channels : ((b * ho + r) * wo + q + 1) * channels]
                    for k in range(channels):
                        total[k] += share[k] / count
