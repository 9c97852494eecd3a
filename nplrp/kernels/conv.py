"""Convolutions and their transposes: the one place that chooses an algorithm and calls its kernels.

Arrays are NHWC and C-contiguous, kernels HWIO. Nothing is checked here: `nplrp.layers` does.
Results depend on shapes, dtype, weights and inputs, never on threads, batch, vector width or what ran before.
"""

from dataclasses import dataclass

import numpy as np

from nplrp.jit import frozen, queueable
from nplrp.kernels import depthwise, direct, packing, winograd_conv
from nplrp.kernels.epilogue import STORE, epilogue, forward_epilogue, transpose_epilogue
from nplrp.kernels.geometry import Geometry, Problem
from nplrp.kernels.winograd_conv import Weights

__all__ = ["Geometry", "Packed", "Workspace", "algorithm", "conv_forward", "conv_transpose", "pack", "unstored"]


@dataclass(frozen=True)
class Packed:
    """Weights prepared for the kernels, by `pack`.

    Attributes
    ----------
    problem : Problem
    algorithm : str
        ``"winograd"``, ``"direct"``, or ``"depthwise"``, which has the bits of a direct convolution.
    terms : int
        How many inputs are convolved and summed.
    weights : Weights
        Blocks in the kernels' own order, or the HWIO weights to make them from on the fly.
    plan : direct.Plan, depthwise.Cut or None
        How the work of all but Winograd's is cut.
    """

    problem: Problem
    algorithm: str
    terms: int
    weights: Weights
    plan: direct.Plan | depthwise.Cut | None = None


class Workspace:
    """Scratch memory for calls that follow each other; two threads need two.

    Parameters
    ----------
    grown : callable, optional
        Called when an array has made way for a larger one.
    """

    def __init__(self, grown=None) -> None:
        self._arrays: dict[str, np.ndarray] = {}
        self._grown = grown

    def take(self, name, size):
        """Return an uninitialised flat float32 array of at least `size` numbers, which starts on a cache line."""
        if name not in self._arrays or len(self._arrays[name]) < size:
            self._arrays[name] = _scratch(size, np.dtype(np.float32))
            if self._grown is not None:
                self._grown()
        return self._arrays[name]


def algorithm(geometry: Geometry, dtype) -> str:
    """Return the algorithm for a convolution and its transpose: a fixed function of shape and dtype.

    Small ones gain little from Winograd's transforms, and stay as exact as direct sums are.
    """
    simple = geometry.kernel == (3, 3) and geometry.stride == geometry.dilation == (1, 1) and geometry.groups == 1
    enough = min(geometry.cin, geometry.cout) >= 64 and min(geometry.out_height, geometry.out_width) >= 7
    return "winograd" if simple and enough and np.dtype(dtype) == np.float32 else "direct"


_algorithm = algorithm  # `pack` has an argument of this name


def pack(w, geometry, transposed=False, changes=((1.0, 1.0),), dtype=None, algorithm=None, threads=1, stored=None) -> Packed:
    """Prepare weights for `conv_forward`, or for `conv_transpose`.

    Parameters
    ----------
    w : ndarray [kh, kw, cin / groups, cout]
        float32 or float64; may be read-only and memory-mapped. With as many groups as channels Keras's [kh, kw, cin, m] is the same.
    geometry : Geometry
    transposed : bool
        For `conv_transpose`.
    changes : sequence of (float, float)
        One (p, n) per term: the term's weights are p * max(w, 0) + n * min(w, 0).
    dtype : numpy dtype, optional
        That of the computation; default: that of `w`.
    algorithm : {"direct", "winograd"}, optional
        Default: `algorithm(geometry, dtype)`.
    threads : int
    stored : bool, optional
        Whether to keep transformed weights (4 times the size of `w`) or to make them in every call, which costs time and no memory.
        Default: keep them unless a call reads each of them once. The bits are the same.

    Returns
    -------
    Packed
    """
    dtype = np.dtype(dtype or w.dtype)
    name = algorithm or _algorithm(geometry, dtype)
    problem = geometry.problem(transposed)
    factors = _read_only(np.array(changes, dtype))
    nothing = np.empty(0, dtype)
    few = depthwise.cut_of(problem, len(changes), transposed, dtype) if geometry.groups > 1 else None
    if few is not None:
        blocks = depthwise.pack(problem, few, _flat(w.astype(dtype, copy=False)), factors)
        return Packed(problem, "depthwise", len(changes), Weights(_read_only(nothing), transposed, factors, blocks), few)
    if name in ("direct", "depthwise"):  # vectors may be too short for the groups
        cut = direct.plan(problem, len(changes), transposed)
        blocks = _scratch(problem.groups * cut.layout.slabs * cut.layout.slab_size, dtype)
        source = _flat(w.astype(dtype, copy=False))
        packing.pack_direct(threads, problem, cut.layout, cut.taps, source, transposed, factors, blocks)
        return Packed(problem, "direct", len(changes), Weights(_read_only(nothing), transposed, factors, blocks), cut)
    weights = Weights(_flat(w.astype(dtype, copy=False)), transposed, factors, nothing)
    plan = winograd_conv.plan(problem, 1, len(changes))
    if stored if stored is not None else not plan.small:
        blocks = _scratch(plan.slabs * plan.parts * plan.u_size, dtype)
        winograd_conv.pack(problem, plan, weights, epilogue(STORE, nothing), blocks, threads)
        weights = Weights(_read_only(nothing), transposed, factors, blocks)
    return Packed(problem, name, len(changes), weights)


def unstored(packed) -> int:
    """Return how many bytes the transformed weights would take that `packed` makes in every call; 0 if it doesn't make any."""
    if packed.algorithm != "winograd" or len(packed.weights.blocks):
        return 0
    cut = winograd_conv.plan(packed.problem, 1, packed.terms)
    return cut.slabs * cut.parts * cut.u_size * packed.weights.source.itemsize


@queueable
def conv_forward(x, packed, bias, relu, out, x2=None, packed2=None, bias2=None, out2=None, threads=1, workspace=None):
    """Convolve: out = f(sum over terms conv(x_t, w_t) + bias), f the ReLU or nothing.

    Parameters
    ----------
    x, x2 : ndarray [n, height, width, cin]
        The inputs of the terms.
    packed : Packed
    bias : ndarray [cout]
        Added once, to the finished sum.
    relu : bool or float
        A number is where to clamp at the top, too. A NaN passes the ReLU.
    out : ndarray [n, out_height, out_width, cout]
        Overwritten.
    packed2, bias2, out2 : optional
        A second convolution of the same inputs, stored without ReLU.
    threads : int
    workspace : Workspace, optional
    """
    second = None if packed2 is None else forward_epilogue(False, out2, bias2)
    _run(x, x2, packed, forward_epilogue(relu, out, bias), threads, workspace, packed2, second)


@queueable
def conv_transpose(
    s,
    packed,
    out,
    s2=None,
    a=None,
    z=None,
    eps=0.0,
    signed=False,
    out2=None,
    z2=None,
    weights=(1.0, 1.0),
    threads=1,
    workspace=None,
    also=None,
):
    """Carry back: c = sum over terms of the transpose of conv applied to s_t, and what the next layer needs of it.

    Parameters
    ----------
    s, s2 : ndarray [n, out_height, out_width, cout]
        The inputs of the terms.
    packed : Packed
        Made with ``transposed=True``.
    out : ndarray [n, height, width, cin]
        Overwritten: c; with `a` R = a * c; with `a` and `z` R / stab(z).
    a, z : ndarray [n, height, width, cin], optional
        They, and z2, may have a part of the images, which repeat.
    eps : float
        stab(z) = z + eps, or, if `signed`, z + eps * sign(z) with sign(0) = +1.
    out2, z2 : ndarray [n, height, width, cin], optional
        With them out = (alpha * R) / stab(z) and out2 = (beta * R) / stab(z2).
    weights : (float, float)
        alpha and beta.
    threads : int
    workspace : Workspace, optional
    also : (Packed, ndarray), optional
        A second transpose of the same s, and where it is stored as it is.
    """
    other, end = (None, None) if also is None else (also[0], transpose_epilogue(also[1]))
    _run(s, s2, packed, transpose_epilogue(out, a, z, eps, signed, out2, z2, weights), threads, workspace, other, end)


def _run(x, x2, packed, e, threads, workspace, packed2=None, e2=None):
    problem, images = packed.problem, x.shape[0]
    first = frozen(x)
    inputs = [first, first if x2 is None else frozen(x2)]
    together = packed2 is not None and (packed.algorithm, packed.terms) == (packed2.algorithm, packed2.terms)
    second = packed2.weights if packed2 is not None and together else None
    other = (None, None) if second is None else (second.blocks, e2)
    if packed.algorithm == "depthwise":
        depthwise.convolve(problem, packed.plan, *inputs, packed.weights.blocks, e, threads, *other)
    if packed.algorithm == "direct":
        direct.convolve(problem, packed.plan, images, *inputs, packed.weights.blocks, e, threads, *other)
    if packed2 is not None and not together:
        _run(x, x2, packed2, e2, threads, workspace)
    if packed.algorithm != "winograd":
        return
    workspace = workspace or Workspace()
    run = images * len(e.a) // len(e.out) if len(e.a) else max(1, images)  # images that the epilogue's operands have
    for first, count in _groups(images, run, winograd_conv.group_size(problem, images)):
        parts, ends = inputs, [e, e2]
        if count < images:
            parts = [_images(v, first, count, images) for v in inputs]
            ends = [end and _part(end, first, count, images, run) for end in ends]
        winograd_conv.convolve(problem, count, *parts, packed.terms, packed.weights, ends[0], threads, workspace, second, ends[1])


def _groups(images, run, size):
    """Yield (first, count) of groups of at most `size` images: whole runs, or images of one run."""
    whole, first = size // run * run, 0
    while first < images:
        count = min(whole, images - first) if whole else min(size, run - first % run)
        yield first, count
        first += count


def _part(e, first, count, images, run):
    """Return the epilogue of `count` of the images, whose operands have `run` images that repeat."""
    outputs = {name: _images(getattr(e, name), first, count, images) for name in ("out", "out2")}
    operands = {name: _images(getattr(e, name), first % run, min(count, run), run) for name in ("a", "z", "z2")}
    return e._replace(**outputs, **operands)


def _images(flat, first, count, images):
    """Return `count` of the images in a flat array of `images`."""
    size = len(flat) // max(1, images)
    return flat[first * size : (first + count) * size]


def _flat(array):
    return _read_only(array).reshape(-1)


def _read_only(array):
    """Return a plain view that can't be written: one type for Numba, whether the array was mapped from a file or not."""
    view = np.require(array, requirements="A").view(np.ndarray)
    view.flags.writeable = False
    return view


def _scratch(size, dtype):
    """Return an uninitialised flat array that starts on a cache line."""
    whole = np.empty(size * dtype.itemsize + 64, np.uint8)
    start = -whole.ctypes.data % 64
    return whole[start : start + size * dtype.itemsize].view(dtype)
