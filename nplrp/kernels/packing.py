"""Weights in the order in which the kernels read them: slabs of 32 output channels, cut into panels as wide as the registers.

A `change` (p, n) stands for the weights p * max(w, 0) + n * min(w, 0): (1, 1) is w, (1, 0) is w+, (0, 1) is w- and
(1 + gamma, 1) the gamma rule's. It is made here, on the way, so that no rule needs another copy of a layer's weights.
"""

from nplrp.jit import kernel, shared_kernel
from nplrp.jit.lazy import intrinsic, types
from nplrp.kernels.microkernel import PANEL_32, PANEL_64, SLAB
from nplrp.kernels.simd import keep_apart
from nplrp.kernels.vector_loop import for_vectors
from nplrp.kernels.winograd import SIDE, transpose_square


@intrinsic
def _change(typing, w, w_from, y, y_from, positive, negative, count):
    """Write the changed w[w_from + n] to y[y_from + n] for n < count."""

    def emit(context, builder, signature, args):
        def work(asm, at):
            v = asm.load(asm.array(0, builder.add(args[1], at)))
            factor = asm.select(builder.fcmp_ordered(">", v, asm.constant(0.0)), asm.splat(args[4]), asm.splat(args[5]))
            asm.store(asm.mul(v, factor), asm.array(2, builder.add(args[3], at)))

        for_vectors(context, builder, signature, args, y.dtype, args[6], 1, work)
        return context.get_dummy_value()

    return types.void(w, types.int64, y, types.int64, y.dtype, y.dtype, types.int64), emit


@kernel
def _tap(w, w_from, c_step, n_step, cin, channels, panel, step, packed, to, positive, negative):
    """Pack w[w_from + c * c_step + n * n_step] for c < cin and n < channels; one of the steps is 1."""
    keep_apart()
    whole = 0
    if n_step != 1:
        whole = channels // SIDE * SIDE
        for n in range(0, whole, SIDE):
            at = to + n // panel * step + n % panel
            for c in range(0, cin // SIDE * SIDE, SIDE):
                transpose_square(w, w_from + n * n_step + c, n_step, packed, at + c * panel, panel)
            for c in range(cin // SIDE * SIDE, cin):
                for each in range(SIDE):
                    packed[at + c * panel + each] = w[w_from + (n + each) * n_step + c]
            if positive != 1 or negative != 1:
                for c in range(cin):
                    _change(packed, at + c * panel, packed, at + c * panel, positive, negative, SIDE)
    for first in range(0, channels if n_step == 1 else 0, panel):
        count, at = min(panel, channels - first), to + first // panel * step
        for c in range(cin):
            _change(w, w_from + c * c_step + first, packed, at + c * panel, positive, negative, count)
    if n_step != 1:
        for n in range(whole, channels):
            for c in range(cin):
                v = w[w_from + n * n_step + c * c_step]
                packed[to + n // panel * step + c * panel + n % panel] = v * (positive if v > 0 else negative)


@shared_kernel
def pack_direct(thread, threads, p, layout, taps, w, transposed, changes, packed):
    """Pack HWIO weights for `direct.convolve`: [group][slab][panel][row of `direct.Plan.taps`, zero-padded][column of the panel].

    Parameters
    ----------
    p : Problem
    layout : direct.Layout
    taps : ndarray of int64 [taps, 6]
    w : ndarray, flat
        [kh, kw, i, o].
    transposed : bool
        Turn the kernel round and swap its channels.
    changes : ndarray [terms, 2]
        One change (p, n) per term.
    packed : ndarray, flat
        `layout.slab_size` numbers for every 32 output channels of every group.
    """
    panel = PANEL_32 if packed.itemsize == 4 else PANEL_64
    step = layout.slab_size // SLAB * panel
    cin, cout, slabs = p.cin // p.groups, p.cout // p.groups, layout.slabs
    tap_size = p.cin * cout
    c_step, n_step = (1, p.cin) if transposed else (p.cout, 1)
    for each in range(p.groups * slabs * thread // threads, p.groups * slabs * (thread + 1) // threads):
        group, slab, begin = each // slabs, each % slabs, each * layout.slab_size
        packed[begin : begin + layout.slab_size] = 0
        for t in range(len(taps)):
            term, i, j, j_step, columns, k = taps[t, 0], taps[t, 1], taps[t, 2], taps[t, 3], taps[t, 4], taps[t, 5]
            for column in range(columns):
                # channels of the slab that stand for this column
                channels = min(SLAB, cout - slab * SLAB) if columns == 1 else cout
                tap = i * p.kernel_w + j + column * j_step
                tap = p.kernel_h * p.kernel_w - 1 - tap if transposed else tap
                w_from = tap * tap_size + group * (cin if transposed else cout) * (c_step if transposed else n_step) + slab * SLAB * n_step
                first = column * cout
                if columns == 1:
                    to = begin + k * panel
                    _tap(w, w_from, c_step, n_step, cin, channels, panel, step, packed, to, changes[term, 0], changes[term, 1])
                else:
                    for c in range(cin):
                        for n in range(channels):
                            v = w[w_from + c * c_step + n * n_step]
                            to = begin + (first + n) // panel * step + (k + c) * panel + (first + n) % panel
                            packed[to] = v * (changes[term, 0] if v > 0 else changes[term, 1])
