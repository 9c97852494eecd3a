"""What convolutions that aren't sums of products lose to rounding: Winograd's, tile by tile, and those by Fourier transforms.

Direct sums err in proportion to A = sum |w a|. Here terms meet that cancel only later, so A is replaced by a larger sum M:

Winograd   Y = A^T [(G g G^T) * (B^T d B)] A errs by at most n u times M = |A^T| [(|G| |g| |G^T|) * (|B^T| |d| |B|)] |A|, since each
           rounding hurts one path through the transforms, and M adds up all paths (Barabasz et al. 2020, sec. 4, by component)
FFT        M = sum over channels of |a|_2 |g|_1 over the whole image, since the transforms' errors are bounded by the norm only and spread
           over all pixels (Higham 2002, theorem 24.2; of the kernel each path has modulus 1)
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from nplrp.layers import Step, operation

CONVOLUTIONS = ("direct", "winograd", "fft")
#: Points of F(4x4, 3x3): the textbook's (Lavin and Gray 2015), and those of nplrp. F(2x2, 3x3) errs less than either.
POINTS = ((0.0, 1.0, -1.0, 2.0, -2.0), (0.0, 0.5**0.5, -(0.5**0.5), 2**0.5, -(2**0.5)))
OUT, IN = 4, 6
#: Roundings on a path through the three transforms, each in two directions, and of their constants.
TRANSFORMS = 2 * (IN + 3 + IN) + 6
#: Roundings of a Fourier transform for each halving: Higham's eta with twiddle factors right to rounding; there are three transforms.
HALVING = 7 * 3


def is_fast(step: Step, convolutions: str) -> bool:
    """Tell whether a step may run by tiles or by Fourier transforms."""
    if convolutions == "direct" or step.window is None or not operation(step).tiled(step):
        return False
    return convolutions == "fft" or step.window.size == (3, 3)


def terms(step: Step, convolutions: str, channels: int) -> int:
    """Return the number of roundings on a path from an input to an output, sums over so many channels among them."""
    if convolutions == "winograd":
        return channels + TRANSFORMS
    height, width = step.input_shape[:2]
    kernel = step.window.size if step.window else (1, 1)
    return channels + HALVING * math.ceil(math.log2((height + kernel[0]) * (width + kernel[1])))


def magnitudes(a: np.ndarray, weight: np.ndarray, pads: Sequence[int], convolutions: str) -> np.ndarray:
    """Return M of a convolution with stride 1.

    Parameters
    ----------
    a : ndarray [n, h, w, cin]
        Nothing negative.
    weight : ndarray [kh, kw, cin, cout]
        Nothing negative.
    pads : (int, int, int, int)
        Rows and columns of zeros: top, bottom, left, right.
    convolutions : "winograd" or "fft"

    Returns
    -------
    ndarray [n, ho, wo, cout]
    """
    top, bottom, left, right = pads
    rows, columns = (a.shape[1] + top + bottom - weight.shape[0] + 1, a.shape[2] + left + right - weight.shape[1] + 1)
    if convolutions == "fft":
        norms = np.sqrt(np.square(a).sum(axis=(1, 2))) @ weight.sum(axis=(0, 1))
        return np.asarray(np.broadcast_to(norms[:, None, None, :], (len(a), rows, columns, weight.shape[3])))
    down, across = -(-rows // OUT), -(-columns // OUT)
    padded = np.zeros((len(a), down * OUT + 2, across * OUT + 2, a.shape[3]))
    padded[:, top : top + a.shape[1], left : left + a.shape[2]] = a[:, : padded.shape[1] - top, : padded.shape[2] - left]
    found = np.zeros((len(a), down * OUT, across * OUT, weight.shape[3]))
    for points in POINTS:
        at, g, bt = (np.abs(matrix) for matrix in matrices(points))
        kernels = np.tensordot(g, np.tensordot(g, weight, (1, 1)), (1, 1)).transpose(1, 0, 2, 3)  # [column, row, cin, cout]
        kernels = np.ascontiguousarray(kernels).reshape(IN * IN, *weight.shape[2:])
        for i in range(down):  # a row of tiles at a time, for memory's sake
            strip = np.tensordot(bt, padded[:, i * OUT : i * OUT + IN], (1, 1))  # [row, n, w, cin]
            tiles = np.stack([strip[:, :, j : j + (across - 1) * OUT + 1 : OUT] for j in range(IN)])
            d = np.tensordot(bt, tiles, (1, 0)).reshape(IN * IN, -1, a.shape[3])  # [column and row, n and tiles, cin]
            m = np.matmul(d, kernels).reshape(IN, IN, -1)
            y = np.tensordot(at, np.tensordot(at, m, (1, 1)), (1, 1))  # [column, row, ...]
            y = y.reshape(OUT, OUT, len(a), across, -1).transpose(2, 1, 3, 0, 4).reshape(len(a), OUT, across * OUT, -1)
            np.maximum(found[:, i * OUT : (i + 1) * OUT], y, out=found[:, i * OUT : (i + 1) * OUT])
    return found[:, :rows, :columns]


def matrices(points: Sequence[float]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return A^T [4, 6], G [6, 3] and B^T [6, 6] of Cook and Toom's construction for five points, and infinity as the sixth."""
    at, g, bt = np.zeros((OUT, IN)), np.zeros((IN, 3)), np.zeros((IN, IN))
    for i, p in enumerate(points):
        others = [q for q in points if q != p]
        at[:, i] = [p**k for k in range(OUT)]
        g[i] = [p**k / math.prod(p - q for q in others) for k in range(3)]
        bt[i, : IN - 1] = np.poly(others)[::-1]
    at[-1, -1] = g[-1, -1] = 1
    bt[-1] = np.poly(points)[::-1]
    return at, g, bt
