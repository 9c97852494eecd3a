"""Weights in the order in which the kernels read them: slabs of 32 output channels, cut into panels as wide as the registers.

A `change` (p, n) stands for the weights p * max(w, 0) + n * min(w, 0): (1, 1) is w, (1, 0) is w+, (0, 1) is w- and
(1 + gamma, 1) the gamma rule's. It is made here, on the way, so that no rule needs another copy of a layer's weights.
"""

from nplrp.jit import shared_kernel
from nplrp.kernels.microkernel import PANEL_32, PANEL_64, SLAB


@shared_kernel
def pack_direct(thread, threads, p, cut, w, transposed, changes, packed):
    """Pack HWIO weights for `direct.convolve`: [slab][panel][term][kernel row][kernel column][channel, zero-padded][column of the panel].

    Parameters
    ----------
    p : Problem
    cut : direct.Plan
    w : ndarray [kh, kw, i, o]
    transposed : bool
        Turn the kernel round and swap its channels.
    changes : ndarray [terms, 2]
        One change (p, n) per term.
    packed : ndarray, flat
        `cut.slab_size` numbers for every 32 output channels.
    """
    panel = PANEL_32 if packed.itemsize == 4 else PANEL_64
    step = cut.slab_size // SLAB * panel
    for slab in range(cut.slabs * thread // threads, cut.slabs * (thread + 1) // threads):
        packed[slab * cut.slab_size : (slab + 1) * cut.slab_size] = 0
        to = slab * cut.slab_size
        for term in range(cut.terms):
            positive, negative = changes[term, 0], changes[term, 1]
            for tap in range(p.kernel_h * p.kernel_w):
                i, j = tap // p.kernel_w, tap % p.kernel_w
                for c in range(p.cin):
                    for n in range(min(SLAB, p.cout - slab * SLAB)):
                        if transposed:
                            v = packed.dtype.type(w[p.kernel_h - 1 - i, p.kernel_w - 1 - j, slab * SLAB + n, c])
                        else:
                            v = packed.dtype.type(w[i, j, c, slab * SLAB + n])
                        packed[to + n // panel * step + c * panel + n % panel] = v * (positive if v > 0 else negative)
                to += cut.blocks * cut.depth * panel
