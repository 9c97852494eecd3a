"""Dense layers: z = a w and its transpose, with the weights' positive and negative parts scaled on the fly.

    w' = pos * max(w, 0) + neg * min(w, 0)        (1, 1) is w, (1, 0) is w+, (0, 1) is w-

Order of operations, for any number of threads, batch and vector width:
forward    z_o  = fma(a_i, w'_io, z_o) for i ascending, from 0 or from what is in z;
transpose  lane l of 64: fma(s_o, w'_io, lane) for o = l, l + 64, ...; then lanes l and l + 32 are added, then l and l + 16, ...
"""

import numpy as np

from nplrp.kernels.fma import fma
from nplrp.kernels.parallel import kernel

LANES = 64


@kernel
def _clamped(w, pos, neg):
    return pos * w if w > 0 else neg * w


@kernel
def _forward(x, w, pos, neg, z):
    for n in range(x.shape[0]):
        for i in range(x.shape[1]):
            for o in range(w.shape[1]):
                z[n, o] = fma(x[n, i], _clamped(w[i, o], pos, neg), z[n, o])


@kernel
def _transpose(s, w, pos, neg, c, accumulate):
    lanes = np.empty(LANES, s.dtype)
    for n in range(s.shape[0]):
        for i in range(w.shape[0]):
            lanes[:] = 0
            for o in range(w.shape[1]):
                lanes[o % LANES] = fma(s[n, o], _clamped(w[i, o], pos, neg), lanes[o % LANES])
            half = LANES // 2
            while half:
                for lane in range(half):
                    lanes[lane] += lanes[lane + half]
                half //= 2
            c[n, i] = c[n, i] + lanes[0] if accumulate else lanes[0]


def dense_forward(x, w, pos, neg, z, accumulate, nt=1):
    """Write x [n, i] times w' [i, o] to z [n, o], or add it to what is there."""
    if not accumulate:
        z[...] = 0
    _forward(x, w, x.dtype.type(pos), x.dtype.type(neg), z)


def dense_forward_two(x, w, pos, neg, z, pos2, neg2, z2, accumulate, nt=1):
    """Write x times w' to z and x times w'' to z2, both [n, o], reading w once."""
    dense_forward(x, w, pos, neg, z, accumulate, nt)
    dense_forward(x, w, pos2, neg2, z2, accumulate, nt)


def dense_transpose(s, w, pos, neg, c, accumulate, nt=1):
    """Write s [n, o] times the transpose of w' [i, o] to c [n, i], or add it to what is there."""
    _transpose(s, w, s.dtype.type(pos), s.dtype.type(neg), c, accumulate)
