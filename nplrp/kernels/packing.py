"""Weights in the order in which the kernels read them: slabs of 32 output channels, cut into panels as wide as the registers.

A `change` (p, n) stands for the weights p * max(w, 0) + n * min(w, 0): (1, 1) is w, (1, 0) is w+, (0, 1) is w- and
(1 + gamma, 1) the gamma rule's. It is made here, on the way, so that no rule needs another copy of a layer's weights.
"""

import numpy as np
from numba import prange

from nplrp.kernels.direct import blocking
from nplrp.kernels.launch import Launcher, call_compiled
from nplrp.kernels.microkernel import PANEL_32, PANEL_64, SLAB
from nplrp.kernels.parallel import kernel, parallel_kernel
from nplrp.kernels.simd import keep_apart


@kernel
def direct_slab_size(p, terms):
    """Return how many numbers a slab of direct weights has."""
    blocks, depth = blocking(p.cin)
    return terms * p.kernel_h * p.kernel_w * blocks * depth * SLAB


@kernel
def _direct_slab(p, w, transposed, changes, slab, packed):
    """Write one slab, [panel][term][kernel row][kernel column][channel, zero-padded][column of the panel]."""
    keep_apart()
    blocks, depth = blocking(p.cin)
    size = direct_slab_size(p, changes.shape[0])
    packed[slab * size : (slab + 1) * size] = 0
    count = min(SLAB, p.cout - slab * SLAB)
    panel = PANEL_32 if packed.itemsize == 4 else PANEL_64
    step = size // SLAB * panel
    to = slab * size
    for term in range(changes.shape[0]):
        positive, negative = changes[term, 0], changes[term, 1]
        for i in range(p.kernel_h):
            for j in range(p.kernel_w):
                for c in range(p.cin):
                    for n in range(count):
                        if transposed:
                            v = packed.dtype.type(w[p.kernel_h - 1 - i, p.kernel_w - 1 - j, slab * SLAB + n, c])
                        else:
                            v = packed.dtype.type(w[i, j, c, slab * SLAB + n])
                        packed[to + n // panel * step + c * panel + n % panel] = v * (positive if v > 0 else negative)
                to += blocks * depth * panel


@kernel
def _direct_share(thread, threads, p, w, transposed, changes, packed):
    slabs = (p.cout + SLAB - 1) // SLAB
    for slab in range(slabs * thread // threads, slabs * (thread + 1) // threads):
        _direct_slab(p, w, transposed, changes, slab, packed)


_direct_launcher = Launcher(_direct_share)


@parallel_kernel
def _pack_direct(address, threads, p, w, transposed, changes, packed):
    for thread in prange(threads):
        call_compiled(address, (np.int64(thread), threads, p, w, transposed, changes, packed))


def pack_direct(p, w, transposed, changes, packed, threads):
    """Pack HWIO weights for `direct.convolve`.

    Parameters
    ----------
    p : Problem
    w : ndarray [kh, kw, i, o]
    transposed : bool
        Turn the kernel round and swap its channels.
    changes : ndarray [terms, 2]
        One change (p, n) per term.
    packed : ndarray, flat
        `direct_slab_size` numbers for every 32 output channels.
    threads : int
    """
    args = (p, w, transposed, changes, packed)
    _pack_direct(_direct_launcher.address((w.dtype, packed.dtype), *args), threads, *args)
