"""Dense layers: z = a w and its transpose, with the weights' positive and negative parts scaled on the fly.

    w' = pos * max(w, 0) + neg * min(w, 0)        (1, 1) is w, (1, 0) is w+, (0, 1) is w-

Reading w takes the time (fc1 of VGG16 is 411 MB), so it is read once for `IMAGES` images and, in `dense_forward_two`, for both outputs.
Order of operations, for any number of threads, batch and vector width:

forward    for every `GROUP` inputs p_o = fma(a_i, w'_io, p_o) for i ascending, from 0; z_o + p_o for one group after another, from 0 or
           from what is in z; then + 0, so that no zero has a sign. One chain over 25088 inputs would err twice as much as PyTorch.
transpose  lane l of L: fma(s_o, w'_io, lane) for o = l, l + L, l + 2 L, ...; then lane l + lane l + L/2, then l + L/4, ..., with
           L = 64 in float32 and 32 in float64
"""

import numpy as np
from llvmlite import ir

from nplrp.kernels.fma import fma
from nplrp.kernels.numba_later import cgutils, intrinsic, types
from nplrp.kernels.parallel import frozen, kernel, shared_kernel
from nplrp.kernels.simd import Assembler, lanes_of
from nplrp.kernels.vector_loop import I64, for_vectors

#: Images that share one pass over w.
IMAGES = 8
#: Inputs whose products form one chain.
GROUP = 512
_ROWS = 8  # of w that are added at once: an output is loaded and stored once for them
_BLOCK = 64  # rows of w before the next columns
_SHORT, _LONG = 384, 1152  # columns: for a batch, so few that w and z stay in the first-level cache; for one image, longer runs of w
_LANE_BYTES = 256


def dense_forward(x, w, pos, neg, z, accumulate, nt=1):
    """Write x [n, i] times w' [i, o] to z [n, o], or add it to what is there; inputs that are 0 are skipped."""
    _run_forward(x, w, 1, (pos, pos), (neg, neg), (z, z), accumulate, nt)


def dense_forward_two(x, w, pos, neg, z, pos2, neg2, z2, accumulate, nt=1):
    """Write x [n, i] times w' to z and x times w'' to z2, both [n, o], reading w once; the bits are those of two calls."""
    _run_forward(x, w, 2, (pos, pos2), (neg, neg2), (z, z2), accumulate, nt)


def dense_transpose(s, w, pos, neg, c, accumulate, nt=1):
    """Write s [n, o] times the transpose of w' [i, o] to c [n, i], or add it to what is there."""
    _run_transpose(s, w, pos, neg, c, accumulate, c, False, nt)


def dense_transpose_times(s, w, pos, neg, a, out, nt=1):
    """Write a * dense_transpose(s) to `out` [n, i], without reading the rows of w that belong to zeros of a.

    The bits are those of two steps, but that 0 times a negative number is 0, not -0.
    """
    _run_transpose(s, w, pos, neg, out, False, a, True, nt)


def _run_forward(x, w, outputs, pos, neg, z, accumulate, nt):
    number = x.dtype.type
    if not accumulate:
        for each in z[:outputs]:
            each[...] = 0
    parts = number(pos[0]), number(neg[0]), z[0].reshape(-1), number(pos[1]), number(neg[1]), z[1].reshape(-1)
    _forward(nt if w.size > 4096 else 1, frozen(x), frozen(w), x.shape[0], *w.shape, outputs, *parts)


def _run_transpose(s, w, pos, neg, c, accumulate, a, times, nt):
    number = s.dtype.type
    arrays = c.reshape(-1), accumulate, frozen(a), times
    _transpose(nt if w.size > 4096 else 1, frozen(s), frozen(w), s.shape[0], *w.shape, number(pos), number(neg), *arrays)


def _make_add_rows(rows):
    """Return an intrinsic that adds `rows` rows of w, times numbers of x, to n numbers of z; order: rows ascending, by fma."""

    @intrinsic
    def add_rows(typing, x, x_from, inputs, w, places, w_from, step, z, z_from, n):
        """z[z_from + o] += sum over r of x[x_from + inputs[r]] * w[places[r] * step + w_from + o] for o < n."""
        whole, dtype = types.int64, z.dtype

        def emit(context, builder, signature, args):
            _, x_from, _, _, _, w_from, step, _, z_from, n = args
            scalar, vector = (Assembler(context, builder, signature, args, dtype, lanes) for lanes in (1, lanes_of(dtype)))
            numbers, starts = [], []
            for r in range(rows):
                input_ = scalar.number(scalar.array(2, r, I64), I64)
                numbers.append(scalar.number(scalar.array(0, builder.add(x_from, input_))))
                place = scalar.number(scalar.array(4, r, I64), I64)
                starts.append(scalar.array(3, builder.add(builder.mul(place, step), w_from)))
            out = scalar.array(7, z_from)

            def loop(asm, unroll, begin):
                width = asm.lanes * unroll
                factors = [asm.splat(a) for a in numbers]
                count = builder.sdiv(builder.sub(n, begin), ir.Constant(I64, width))
                with cgutils.for_range(builder, count) as counter:
                    at = builder.add(begin, builder.mul(counter.index, ir.Constant(I64, width)))
                    places = [builder.add(at, ir.Constant(I64, u * asm.lanes)) for u in range(unroll)]
                    sums = [asm.load(asm.step(out, p)) for p in places]
                    for a, start in zip(factors, starts, strict=True):
                        sums = [asm.fma(a, asm.load(asm.step(start, p)), v) for p, v in zip(places, sums, strict=True)]
                    for v, p in zip(sums, places, strict=True):
                        asm.store(v, asm.step(out, p))
                return builder.add(begin, builder.mul(count, ir.Constant(I64, width)))

            loop(scalar, 1, loop(vector, 1, loop(vector, 6, ir.Constant(I64, 0))))
            return context.get_dummy_value()

        return types.void(x, whole, inputs, w, places, whole, whole, z, whole, whole), emit

    return add_rows


_add_eight, _add_one = _make_add_rows(_ROWS), _make_add_rows(1)


@shared_kernel
def _forward(t, nt, x, w, images, inputs, units, outputs, pos, neg, z, pos2, neg2, z2):
    """Fill the t-th part of the columns of z, and of z2 if there are two outputs."""
    first, last = units * t // nt, units * (t + 1) // nt
    rows, identity, scratch = np.empty(GROUP, np.int64), np.empty(_ROWS, np.int64), np.empty(_ROWS * _LONG, w.dtype)
    columns = last - first
    partial = np.empty(min(images, IMAGES) * outputs * columns, w.dtype)
    for r in range(_ROWS):
        identity[r] = r
    for n0 in range(0, images, IMAGES):
        n1 = min(n0 + IMAGES, images)
        tile = _LONG if n1 - n0 == 1 else _SHORT
        for group in range(0, inputs, GROUP):
            count = 0
            for i in range(group, min(group + GROUP, inputs)):
                used = False
                for n in range(n0, n1):
                    used |= x[n * inputs + i] != 0
                if used:
                    rows[count] = i
                    count += 1
            partial[:] = 0
            for block in range(0, count, _BLOCK):
                for o in range(0, columns, tile):
                    size = min(tile, columns - o)
                    for q in range(block, min(block + _BLOCK, count), _ROWS):
                        some = min(_ROWS, count - q)
                        for k in range(outputs):
                            p, g = (pos, neg) if k == 0 else (pos2, neg2)
                            source, places, step, begin = w, rows[q:], units, first + o
                            if p != 1 or g != 1:
                                for r in range(some):
                                    _clamp(w, rows[q + r] * units + first + o, p, g, scratch, r * tile, size)
                                source, places, step, begin = scratch, identity, tile, 0
                            for n in range(n0, n1):
                                out = ((n - n0) * outputs + k) * columns + o
                                if some == _ROWS:
                                    _add_eight(x, n * inputs, rows[q:], source, places, begin, step, partial, out, size)
                                else:
                                    for r in range(some):
                                        _add_one(x, n * inputs, rows[q + r :], source, places[r:], begin, step, partial, out, size)
            for n in range(n0, n1):
                for k in range(outputs):
                    sums = partial[((n - n0) * outputs + k) * columns :]
                    to = (z if k == 0 else z2)[n * units + first : n * units + last]
                    for o in range(columns):
                        to[o] += sums[o]
    for n in range(images):
        for o in range(first, last):
            z[n * units + o] += 0
            z2[n * units + o] += 0


@intrinsic
def _clamp(typing, w, w_from, pos, neg, out, out_from, n):
    """out[out_from + o] = (pos if w > 0 else neg) * w with w = w[w_from + o], for o < n."""
    whole, dtype = types.int64, out.dtype

    def emit(context, builder, signature, args):
        def work(asm, at):
            v = asm.load(asm.step(asm.array(0, args[1]), at))
            positive = builder.fcmp_ordered(">", v, asm.constant(0))
            factor = asm.select(positive, asm.splat(args[2]), asm.splat(args[3]))
            asm.store(asm.mul(factor, v), asm.step(asm.array(4, args[5]), at))

        for_vectors(context, builder, signature, args, dtype, args[6], 4, work)
        return context.get_dummy_value()

    return types.void(w, whole, dtype, dtype, out, whole, whole), emit


@intrinsic
def _dot_lanes(typing, s, s_from, w, w_from, n, lanes):
    """Write sums of s[s_from + o] * w[w_from + o] to `lanes` [L], o < n and n a multiple of L: lane l takes o = l, l + L, ... by fma."""
    whole, dtype = types.int64, lanes.dtype

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, dtype, lanes_of(dtype))
        width = _LANE_BYTES // asm.bytes
        offsets = range(0, width, asm.lanes)
        left, right, out = asm.array(0, args[1]), asm.array(2, args[3]), asm.array(5, 0)
        sums = [cgutils.alloca_once_value(builder, asm.constant(0)) for _ in offsets]
        with cgutils.for_range_slice(builder, ir.Constant(I64, 0), args[4], ir.Constant(I64, width)) as (at, _):
            for place, offset in zip(sums, offsets, strict=True):
                x, y = (asm.load(asm.step(asm.step(side, at), offset)) for side in (left, right))
                builder.store(asm.fma(x, y, builder.load(place, typ=asm.vector)), place)
        for place, offset in zip(sums, offsets, strict=True):
            asm.store(builder.load(place, typ=asm.vector), asm.step(out, offset))
        return context.get_dummy_value()

    return types.void(s, whole, w, whole, whole, lanes), emit


@kernel
def _dot(s, s_from, w, w_from, n, lanes):
    """Return the sum of s[s_from + o] * w[w_from + o] over o < n in the order of this file's head."""
    width = lanes.size
    full = n // width * width
    for lane in range(width):
        lanes[lane] = 0
    _dot_lanes(s, s_from, w, w_from, full, lanes)
    for lane in range(n - full):
        lanes[lane] = fma(s[s_from + full + lane], w[w_from + full + lane], lanes[lane])
    while width > 1:
        width //= 2
        upper = lanes[width:]
        for lane in range(width):
            lanes[lane] += upper[lane]
    return lanes[0]


@shared_kernel
def _transpose(t, nt, s, w, images, inputs, units, pos, neg, c, accumulate, a, times):
    """Write c = s w'^T, or a * c if `times`, for the t-th part of the rows of w; `a` isn't read otherwise."""
    lanes, scratch = np.empty(_LANE_BYTES // w.itemsize, w.dtype), np.empty(units, w.dtype)
    for n0 in range(0, images, IMAGES):
        n1 = min(n0 + IMAGES, images)
        for i in range(inputs * t // nt, inputs * (t + 1) // nt):
            used = not times
            for n in range(n0, n1):
                used |= a[n * inputs + i] != 0
            source, begin = w, i * units
            if used and (pos != 1 or neg != 1):
                _clamp(w, i * units, pos, neg, scratch, 0, units)
                source, begin = scratch, 0
            for n in range(n0, n1):
                at = n * inputs + i
                if times:
                    c[at] = a[at] * _dot(s, n * units, source, begin, units, lanes) if a[at] != 0 else 0
                else:
                    v = _dot(s, n * units, source, begin, units, lanes)
                    c[at] = c[at] + v if accumulate else v
