"""Dense layers: z = a w and its transpose, with the weights' positive and negative parts scaled on the fly.

    w' = pos * max(w, 0) + neg * min(w, 0)        (1, 1) is w, (1, 0) is w+, (0, 1) is w-

Reading w takes the time (fc1 of VGG16 is 411 MB), so it is read once for `IMAGES` images and for all outputs or parts, and its
parts are taken in registers. So are float32 weights widened to float64, which changes no number: a sum in float64 reads half as much.
Order of operations, for any number of threads, batch and vector width:

forward    for every `GROUP` inputs p_o = fma(a_i, w'_io, p_o) for i ascending, from 0; z_o + p_o for one group after another, from 0 or
           from what is in z; then + 0, so that no zero has a sign. One chain over 25088 inputs would err five times as much as PyTorch, one
           over 256 two and a half times
transpose  lane l of L: fma(s_o, w'_io, lane) for o = l, l + L, l + 2 L, ...; then lane l + lane l + L/2, then l + L/4, ..., with
           L = 64 in float32 and 32 in float64
"""

import numpy as np
from llvmlite import ir

from nplrp.jit import frozen, kernel, queueable, shared_kernel
from nplrp.jit.lazy import cgutils, intrinsic, types
from nplrp.kernels import elementwise
from nplrp.kernels.fma import fma
from nplrp.kernels.simd import Assembler, lanes_of
from nplrp.kernels.vector_loop import I64

#: Images that share one pass over w.
IMAGES = 8
#: Inputs whose products form one chain.
GROUP = 128
_ROWS = 8  # of w that are added at once: an output is loaded and stored once for them
_BLOCK = 64  # rows of w before the next columns
_SHORT, _LONG = 384, 1152  # columns: for a batch, so few that w and z stay in the first-level cache; for one image, longer runs of w
_LANE_BYTES = 256


@queueable
def dense_forward(x, w, pos, neg, z, accumulate, nt=1):
    """Write x [n, i] times w' [i, o] to z [n, o], or add it to what is there; inputs that are 0 are skipped."""
    _run_forward(x, w, ((pos, neg),), z, accumulate, nt)


@queueable
def dense_forward_beside(x, w, changes, outs, nt=1):
    """Write x [n, i] times w' to each of `outs` [n, o], one for each (pos, neg) of `changes`; the bits are those of single calls."""
    z = np.empty((len(outs), *outs[0].shape), x.dtype)
    _run_forward(x, w, changes, z, False, nt)
    for out, each in zip(outs, z, strict=True):
        elementwise.copy(each, out, nt)


@queueable
def dense_transpose(s, w, pos, neg, c, accumulate, nt=1):
    """Write s [n, o] times the transpose of w' [i, o] to c [n, i], or add it to what is there."""
    _run_transpose(s, w, ((pos, neg),), c, accumulate, c, False, nt)


@queueable
def dense_transpose_times(parts, w, changes, a, out, nt=1):
    """Write the sum over parts s of a * dense_transpose(s) to `out` [n, i], without reading rows of w where a is 0.

    There is one (pos, neg) of `changes` for each part. `a` may have a part of the images, which repeat. The bits are those of single steps,
    but 0 times a negative number is 0, not -0.
    """
    s = parts[0]
    if len(parts) > 1:
        s = np.empty((len(parts), *s.shape), s.dtype)
        for to, part in zip(s, parts, strict=True):
            elementwise.copy(part, to, nt)
    _run_transpose(s, w, changes, out, False, a, True, nt)


def _run_forward(x, w, changes, z, accumulate, nt):
    numbers = np.array(changes, x.dtype).reshape(-1)
    _forward(nt if w.size > 4096 else 1, frozen(x), frozen(w), x.shape[0], *w.shape, frozen(numbers), z.reshape(-1), accumulate)


def _run_transpose(s, w, changes, c, accumulate, a, times, nt):
    numbers = np.array(changes, c.dtype).reshape(-1)
    arrays = frozen(numbers), c.reshape(-1), accumulate, frozen(a), times
    _transpose(nt if w.size > 4096 else 1, frozen(s), frozen(w), c.shape[0], *w.shape, *arrays)


def _changed(asm, w, positive, negative):
    """Return w' of a vector of w."""
    return asm.mul(asm.select(asm.builder.fcmp_ordered(">", w, asm.constant(0)), positive, negative), w)


def _element(kind):
    """Return what numbers of w are in memory."""
    return ir.FloatType() if kind.dtype.bitwidth == 32 else ir.DoubleType()


def _load(asm, kind, pointer):
    """Load a vector of w as numbers of the sum's type."""
    if kind.dtype.bitwidth == 8 * asm.bytes:
        return asm.load(pointer)
    narrow = ir.VectorType(_element(kind), asm.lanes)
    loaded = asm.builder.load(asm.builder.bitcast(pointer, narrow.as_pointer()), align=kind.dtype.bitwidth // 8, typ=narrow)
    return asm.builder.fpext(loaded, asm.vector)


def _make_add_rows(rows):
    """Return an intrinsic that adds `rows` rows of w', times numbers of x, to n numbers of z; order: rows ascending, by fma."""

    @intrinsic
    def add_rows(typing, x, x_from, inputs, w, w_from, step, pos, neg, z, z_from, n):
        """z[z_from + o] += sum over r of x[x_from + inputs[r]] * w'[inputs[r] * step + w_from + o] for o < n."""
        whole, dtype = types.int64, z.dtype

        def emit(context, builder, signature, args):
            _, x_from, _, _, w_from, step, pos, neg, _, z_from, n = args
            scalar, vector = (Assembler(context, builder, signature, args, dtype, lanes) for lanes in (1, lanes_of(dtype)))
            numbers, starts = [], []
            for r in range(rows):
                input_ = scalar.number(scalar.array(2, r, I64), I64)
                numbers.append(scalar.number(scalar.array(0, builder.add(x_from, input_))))
                starts.append(scalar.array(3, builder.add(builder.mul(input_, step), w_from), _element(w)))
            out = scalar.array(8, z_from)

            def loop(asm, unroll, begin):
                width = asm.lanes * unroll
                factors, positive, negative = [asm.splat(a) for a in numbers], asm.splat(pos), asm.splat(neg)
                count = builder.sdiv(builder.sub(n, begin), ir.Constant(I64, width))
                with cgutils.for_range(builder, count) as counter:
                    at = builder.add(begin, builder.mul(counter.index, ir.Constant(I64, width)))
                    places = [builder.add(at, ir.Constant(I64, u * asm.lanes)) for u in range(unroll)]
                    sums = [asm.load(asm.step(out, p)) for p in places]
                    for a, start in zip(factors, starts, strict=True):
                        row = [_changed(asm, _load(asm, w, asm.step(start, p, _element(w))), positive, negative) for p in places]
                        sums = [asm.fma(a, v, total) for v, total in zip(row, sums, strict=True)]
                    for v, p in zip(sums, places, strict=True):
                        asm.store(v, asm.step(out, p))
                return builder.add(begin, builder.mul(count, ir.Constant(I64, width)))

            loop(scalar, 1, loop(vector, 1, loop(vector, 4, ir.Constant(I64, 0))))
            return context.get_dummy_value()

        return types.void(x, whole, inputs, w, whole, whole, dtype, dtype, z, whole, whole), emit

    return add_rows


_add_eight, _add_one = _make_add_rows(_ROWS), _make_add_rows(1)


@shared_kernel
def _forward(t, nt, x, w, images, inputs, units, changes, z, accumulate):
    """Write the t-th part of the columns of z [output, image, unit], or add to it."""
    first, last = units * t // nt, units * (t + 1) // nt
    rows, columns, outputs = np.empty(GROUP, np.int64), last - first, changes.size // 2
    partial = np.empty(min(images, IMAGES) * outputs * columns, z.dtype)
    for row in range(0 if accumulate else outputs * images):
        z[row * units + first : row * units + last] = 0
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
                            pos, neg = changes[2 * k], changes[2 * k + 1]
                            for n in range(n0, n1):
                                out = ((n - n0) * outputs + k) * columns + o
                                if some == _ROWS:
                                    _add_eight(x, n * inputs, rows[q:], w, first + o, units, pos, neg, partial, out, size)
                                else:
                                    for r in range(some):
                                        _add_one(x, n * inputs, rows[q + r :], w, first + o, units, pos, neg, partial, out, size)
            for n in range(n0, n1):
                for k in range(outputs):
                    sums, to = partial[((n - n0) * outputs + k) * columns :], (k * images + n) * units + first
                    for o in range(columns):
                        z[to + o] += sums[o]
    for row in range(outputs * images):
        for o in range(first, last):
            z[row * units + o] += 0


@intrinsic
def _dot_lanes(typing, s, s_from, w, w_from, pos, neg, n, lanes):
    """Write sums of s[s_from + o] * w'[w_from + o] to `lanes` [L], o < n and n a multiple of L: lane l takes o = l, l + L, ... by fma."""
    whole, dtype = types.int64, lanes.dtype

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, dtype, lanes_of(dtype))
        width = _LANE_BYTES // asm.bytes
        offsets = range(0, width, asm.lanes)
        left, right, out = asm.array(0, args[1]), asm.array(2, args[3], _element(w)), asm.array(7, 0)
        positive, negative = asm.splat(args[4]), asm.splat(args[5])
        sums = [cgutils.alloca_once_value(builder, asm.constant(0)) for _ in offsets]
        with cgutils.for_range_slice(builder, ir.Constant(I64, 0), args[6], ir.Constant(I64, width)) as (at, _):
            for place, offset in zip(sums, offsets, strict=True):
                x = asm.load(asm.step(asm.step(left, at), offset))
                y = _load(asm, w, asm.step(asm.step(right, at, _element(w)), offset, _element(w)))
                y = _changed(asm, y, positive, negative)
                builder.store(asm.fma(x, y, builder.load(place, typ=asm.vector)), place)
        for place, offset in zip(sums, offsets, strict=True):
            asm.store(builder.load(place, typ=asm.vector), asm.step(out, offset))
        return context.get_dummy_value()

    return types.void(s, whole, w, whole, dtype, dtype, whole, lanes), emit


@intrinsic
def _sum_lanes(typing, lanes):
    """Return lane l + lane l + L/2, then l + L/4, ..., of `lanes` [L]."""
    dtype = lanes.dtype

    def emit(context, builder, signature, args):
        asm = Assembler(context, builder, signature, args, dtype, lanes_of(dtype))
        start = asm.array(0, 0)
        sums = [asm.load(asm.step(start, offset)) for offset in range(0, _LANE_BYTES // asm.bytes, asm.lanes)]
        while len(sums) > 1:
            half = len(sums) // 2
            sums = [asm.add(x, y) for x, y in zip(sums[:half], sums[half:], strict=True)]
        total, width = sums[0], asm.lanes
        while width > 1:
            width //= 2
            lower = [n % width for n in range(asm.lanes)]
            total = asm.add(total, asm.shuffle(total, total, [n + width for n in lower]))
        return builder.extract_element(total, ir.Constant(ir.IntType(32), 0))

    return dtype(lanes), emit


@kernel
def _dot(s, s_from, w, w_from, pos, neg, n, lanes):
    """Return the sum of s[s_from + o] * w'[w_from + o] over o < n in the order of this file's head."""
    full = n // lanes.size * lanes.size
    _dot_lanes(s, s_from, w, w_from, pos, neg, full, lanes)
    for lane in range(n - full):
        v = w[w_from + full + lane]
        lanes[lane] = fma(s[s_from + full + lane], (pos if v > 0 else neg) * v, lanes[lane])
    return _sum_lanes(lanes)


@shared_kernel
def _transpose(t, nt, s, w, images, inputs, units, changes, c, accumulate, a, times):
    """Write c = sum of s w'^T over parts of s [part, image, unit], each times a if `times`, for the t-th part of the rows of w."""
    run = a.size // max(1, inputs)
    lanes = np.empty(_LANE_BYTES // c.itemsize, c.dtype)
    for n0 in range(0, images, IMAGES):
        n1 = min(n0 + IMAGES, images)
        for i in range(inputs * t // nt, inputs * (t + 1) // nt):
            for n in range(n0, n1):
                at, own = n * inputs + i, n % run * inputs + i
                if times and a[own] == 0:
                    c[at] = 0
                    continue
                for k in range(changes.size // 2):
                    v = _dot(s, (k * images + n) * units, w, i * units, changes[2 * k], changes[2 * k + 1], units, lanes)
                    if times:
                        v *= a[own]
                    c[at] = c[at] + v if accumulate or k > 0 else v
