"""Print a hash of what every kernel but the convolutions gives; run in processes of different CPUs, threads and settings.

python -m tests.kernels.hashes          all kernels
python -m tests.kernels.hashes --plain  only those that also run with the JIT off
"""

import hashlib
import sys

import numpy as np

from nplrp.kernels import activations, conv, dense, depthwise, elementwise, joins, pool, softmax, sums, ties
from nplrp.kernels.geometry import Geometry


def plain(rng, dtype):
    """Yield names and results of kernels without vector code."""
    for shape in ((2, 7, 5, 3), (1, 45, 37, 13)):
        x, y = rng.standard_normal(shape).astype(dtype), rng.standard_normal(shape).astype(dtype)
        x[..., 0] = 0
        out, v = np.empty_like(x), y[0, 0, 0].copy()
        for kind in range(9):
            elementwise.stabilise_divide(y, x, kind, 0.01, 1.5, out, 2)
            yield f"divide {kind}", out
        for name in ("relu", "positive_part", "negative_part"):
            getattr(elementwise, name)(x, out, 2)
            yield name, out
        for name in ("multiply", "multiply_add"):
            getattr(elementwise, name)(x, y, out, 2)
            yield name, out
        elementwise.affine(x, v, v, out, 2)
        elementwise.add_bias(out, v, True, 2)
        yield "affine", out
        yield "finite", np.array([elementwise.first_nonfinite(x, 2)])
        window, z = (3, 2, 2, 1, 1, 0), np.empty((shape[0], (shape[1] - 1) // 2 + 1, shape[2] - 1, shape[3]), dtype)
        pool.avg_forward(x, *window, z, 2)
        yield "mean", z
        pool.avg_transpose(z, *window, out, 2)
        yield "mean transposed", out
        yield "sums", np.array([sums.sum_of(x, 2), sums.sum_abs(x), sums.sum_of_product(x, y, 2), *sums.image_sums(y, 2)])
        labels = ties.tie_labels(np.round(x * 0.4), [(1, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, (-1,)), (0, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1, (0,))])
        yield "ties", labels[0]
    a = [rng.standard_normal((2, 17, 9, 13)).astype(dtype) for _ in range(3)]
    outs, won, gate = [np.empty_like(x) for x in a], np.empty(a[0].shape, np.uint8), np.empty((2, 13), dtype)
    joins.sum_forward(a, (1, -0.5, 0.3), outs[0], True, 2)
    yield "sum", outs[0].copy()
    joins.sum_relevance(a[0], a[1], elementwise.SIGN, 0.1, a, (1, -0.5, 0.3), outs, nt=2)
    yield "shares", np.stack(outs)
    joins.extreme_forward(a, outs[0], won, nt=2)
    yield "winners", won
    joins.gate_transpose(a[0], a[1], gate, 2)
    yield "gate", gate
    for g in (Geometry(5, 9, 19, 19, pads=(1, 1, 1, 1)), Geometry(7, 6, 5, 10, (3, 2), (2, 1), (1, 2), (1, 0, 0, 1))):
        shapes = (1, g.height, g.width, g.cin), (1, g.out_height, g.out_width, g.cout), (*g.kernel, g.cin, g.cout // g.cin)
        x, s, w = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
        out, back, back2 = np.empty_like(s), np.empty_like(x), np.empty_like(x)
        changes, operands = ((1.25, 1), (0, 1)), {"a": x, "z": x * x, "eps": 0.1, "z2": x, "out2": back2, "weights": (2, -1)}
        depthwise.depthwise_forward(x, w, g, changes, s.reshape(-1)[: g.cout], True, out, x2=2 * x, threads=2)
        yield "depthwise", out
        depthwise.depthwise_transpose(s, w, g, changes, back, s2=s * s, threads=2, **operands)
        yield "depthwise transposed", back
        yield "depthwise transposed", back2
    yield from groups(rng, dtype, Geometry(5, 9, 20, 20, pads=(1, 1, 1, 1), groups=5))
    if dtype == np.float32:  # in float64 not every CPU's vectors hold eight channels
        yield from groups(rng, dtype, WIDE_GROUPS)
    z = (rng.standard_normal((3, 20)) * 9).astype(dtype)
    out = np.empty_like(z)
    softmax.softmax(z, out)
    yield "softmax", out
    activations.log_softmax(z, out, 2)
    yield "log softmax", out
    z[0, :2] = np.nan, -np.inf
    z = np.resize(z, (3, 50))  # some vectors, and what is left over
    out = np.empty_like(z)
    activations.prelu(z, z[1], out, 2)
    yield "prelu", out
    for name in ("relu", "hard_silu", "softsign", "squareplus", "exponential", "elu", "softplus", "tanh", "tanh_shrink", "sigmoid", "erf"):
        activations.activate(activations.ACTIVATIONS[name].number, activations.ACTIVATIONS[name].with_defaults(), z, out, 2)
        yield name, out
    for name in ("celu", "silu", "gelu", "gelu_tanh", "mish"):
        for function in (activations.activate, activations.derivative):
            function(activations.ACTIVATIONS[name].number, activations.ACTIVATIONS[name].with_defaults(), z, out, 2)
            yield name, out


#: Two groups of eight channels.
WIDE_GROUPS = Geometry(7, 6, 16, 16, (3, 2), (2, 1), pads=(1, 0, 0, 1), groups=2)


def groups(rng, dtype, g):
    """Yield names and results of a grouped convolution."""
    shapes = (1, g.height, g.width, g.cin), (1, g.out_height, g.out_width, g.cout), (*g.kernel, g.cin // g.groups, g.cout)
    x, s, w = (rng.standard_normal(shape).astype(dtype) for shape in shapes)
    out, back = np.empty_like(s), np.empty_like(x)
    conv.conv_forward(x, conv.pack(w, g), s.reshape(-1)[: g.cout], 0.5, out)
    yield "groups", out
    conv.conv_transpose(s, conv.pack(w, g, True), back)
    yield "groups transposed", back


def vectors(rng, dtype):
    """Yield names and results of kernels in explicit vectors."""
    yield from groups(rng, dtype, WIDE_GROUPS)
    for n, i, o in ((1, 9, 5), (3, 100, 333), (9, 70, 1300)):
        x, w, s = (rng.standard_normal(shape).astype(dtype) for shape in ((n, i), (i, o), (n, o)))
        z, z2, c = np.empty_like(s), np.empty_like(s), np.empty_like(x)
        for parts in ((1, 1), (1, 0), (1.25, 1)):
            dense.dense_forward_beside(x, w, (parts, (0, 1)), (z, z2), 2)
            yield "dense", z
            yield "dense", z2
            dense.dense_transpose(s, w, *parts, c, False, 2)
            yield "dense transposed", c
    for channels in (3, 64):
        x = rng.integers(-3, 4, (2, 34, 35, channels)).astype(dtype)
        for window, shape in (((2, 2, 2, 2, 0, 0), (2, 17, 17, channels)), ((3, 3, 2, 2, 1, 1), (2, 17, 18, channels))):
            z, winner, out = np.empty(shape, dtype), np.empty(shape, np.uint8), np.empty_like(x)
            pool.max_forward(x, *window, z, winner, pool.no_labels(3, 3), False, 2)
            yield "max", z
            yield "winner", winner
            pool.max_transpose_ratio(z, winner, *window, x, x, elementwise.SIGN, 0.3, out, 2)
            yield "max transposed", out


if __name__ == "__main__":
    for dtype in (np.float32,) if "--float32" in sys.argv else (np.float32, np.float64):
        rng = np.random.default_rng(0)
        for group in (plain,) if "--plain" in sys.argv else (plain, vectors):
            for name, result in group(rng, dtype):
                print(np.dtype(dtype).name, name, hashlib.sha256(np.ascontiguousarray(result).tobytes()).hexdigest()[:16])
