"""Every function declared as queueable keeps the rule of queues, and every other one that runs kernels is refused in a checked queue.

In the queue its inputs are still to be computed, so that a look at them would show.
"""

import importlib
import inspect
import pkgutil
from functools import partial

import numpy as np
import pytest

import nplrp.kernels
from nplrp.jit import DISABLED, Queue, is_queueable, shared_kernel
from nplrp.jit.queue import DataRaceError
from nplrp.kernels import activations, conv, dense, depthwise, elementwise, joins, moves, norms, pool, resize, softmax, sums, ties

pytestmark = pytest.mark.skipif(DISABLED, reason="plain Python runs at once")

DTYPES = np.float32, np.float64


@shared_kernel
def _copy(t, nt, x, out):
    for i in range(x.size * t // nt, x.size * (t + 1) // nt):
        out[i] = x[i]


def _random(rng, dtype, *shapes):
    return [rng.standard_normal(shape).astype(dtype) for shape in shapes]


# Every case is a call, and the arrays that it reads and writes.


def elementwise_cases(rng, dtype):
    shape = (2, 70, 41, 3)  # large enough for threads
    a, c, out = _random(rng, dtype, shape, shape, shape)
    g, h = _random(rng, dtype, 3, 3)
    a[0, 0, 0] = 0, np.nan, np.inf
    for function in (elementwise.relu, elementwise.positive_part, elementwise.negative_part, elementwise.copy):
        yield partial(function, a, out, 2), [a], [out]
    yield partial(elementwise.relu, c, c, 2), [], [c]
    for function in (elementwise.multiply, elementwise.multiply_add):
        yield partial(function, a, c, out, 2), [a, c], [out]
    for kind in range(9):
        yield partial(elementwise.stabilise, a, kind, 0.01, out, 2), [a], [out]
        yield partial(elementwise.stabilise_divide, c, a, kind, 0.01, 1.5, out, 2), [a, c], [out]
    yield partial(elementwise.affine, a, g, h, out, 2), [a, g, h], [out]
    yield partial(elementwise.add, a, c, out, 2), [a, c], [out]
    for accumulate in (False, True):
        yield partial(elementwise.add_scaled, a, 1.5, out, accumulate, 2), [a], [out]
        yield partial(elementwise.multiply_scaled, a, c, 1.5, out, accumulate, 2), [a, c], [out]
        yield partial(elementwise.multiply_rows, a, c, g, out, accumulate, 2), [a, c, g], [out]
    alpha, slope = np.full(3, 0.5, dtype), np.empty_like(out)
    yield partial(elementwise.leaky, a, alpha, out, slope, 2), [a, alpha], [out, slope]
    yield partial(elementwise.add_bias, out, h, True, 2), [h], [out]


def joins_cases(rng, dtype):
    shape = (2, 70, 41, 3)
    a, b, R, z, out, out2 = _random(rng, dtype, *[shape] * 6)
    arrays, weights, winner = [a, b], (1.0, -0.5), np.zeros(shape, np.uint8)
    for relu in (False, True, 0.5):
        yield partial(joins.sum_forward, arrays, weights, out, relu, 2), arrays, [out]
    for add in (False, True):
        yield partial(joins.sum_transpose, R, 1.5, out, add, 2), [R], [out]
        flags, outs = [add, not add], [out, out2]
        yield partial(joins.sum_transpose_times, R, arrays, weights, outs, flags, 2), [R, *arrays], outs
        yield partial(joins.sum_relevance, R, z, elementwise.SIGN, 0.3, arrays, weights, outs, flags, 2), [R, z, *arrays], outs
        yield partial(joins.extreme_transpose, R, winner, 0, out, add, 2), [R, winner], [out]
    yield partial(joins.accumulate, a, out, 2), [a], [out]
    for lowest in (False, True):
        yield partial(joins.extreme_forward, arrays, out, winner, lowest, 2), arrays, [out, winner]
    g, to = _random(rng, dtype, (2, 3), (2, 3))
    yield partial(joins.gate_forward, a, g, out, 2), [a, g], [out]
    yield partial(joins.gate_transpose, R, a, to, 2), [R, a], [to]


def moves_cases(rng, dtype):
    x, out, small = _random(rng, dtype, (2, 40, 180), (2, 43, 189), (2, 38, 170))
    for fill in (False, True):
        yield partial(moves.copy_box, x, out, 2, 6, fill, 2), [x], [out]
        yield partial(moves.copy_box, x, small, -1, -3, fill, 2), [x], [small]
    image, wide = _random(rng, dtype, (2, 30, 31, 3), (2, 60, 93, 3))
    yield partial(moves.repeat, image, 2, 3, wide, 2), [image], [wide]
    yield partial(moves.repeat_transpose, wide, 2, 3, image, 2), [wide], [image]


def depthwise_cases(rng, dtype):
    for m in (1, 2):
        geometry = conv.Geometry(31, 30, 12, 12 * m, (3, 3), (2, 1), (1, 1), (1, 1, 1, 1), 12)
        below, above = (2, 31, 30, 12), (2, geometry.out_height, geometry.out_width, 12 * m)
        x, x2, a, d, out = _random(rng, dtype, *[below] * 5)
        s, s2, z = _random(rng, dtype, *[above] * 3)
        w, bias = rng.standard_normal((3, 3, 12, m)).astype(dtype), rng.standard_normal(12 * m).astype(dtype)
        one, two = ((1, 1),), ((1, 0), (0, 1))
        forward, transpose = (partial(each, threads=2) for each in (depthwise.depthwise_forward, depthwise.depthwise_transpose))
        yield partial(forward, x, w, geometry, one, bias, True, z), [x, bias], [z]
        yield partial(forward, x, w, geometry, two, bias, 0.5, z, x2), [x, x2, bias], [z]
        yield partial(transpose, s, w, geometry, one, out), [s], [out]
        yield partial(transpose, s, w, geometry, two, out, s2, a=a, z=d, eps=0.25, signed=True), [s, s2, a, d], [out]


def activations_cases(rng, dtype):
    x, g, out = _random(rng, dtype, *[(2, 70, 41, 3)] * 3)
    for name in ("relu", "sigmoid"):
        row = activations.ACTIVATIONS[name]
        number, parameters = row.number, row.with_defaults()
        yield partial(activations.activate, number, parameters, x, out, 2), [x], [out]
        yield partial(activations.derivative, number, parameters, x, out, 2), [x], [out]
    alpha = np.full(3, 0.5, dtype)
    yield partial(activations.prelu, x, alpha, out, 2), [x], [out]
    yield partial(activations.prelu_derivative, x, alpha, out, 2), [x], [out]
    yield partial(activations.log_softmax, x, out, 2), [x], [out]
    yield partial(activations.log_softmax_back, x, g, out, 2), [x, g], [out]


def norms_cases(rng, dtype):
    x, s, z, c = _random(rng, dtype, *[(2, 150, 60)] * 4)
    weights, bias = _random(rng, dtype, (1, 60), (1, 60))
    held = np.ones((2, 20))
    yield partial(norms.measure, x, 3, norms.DEVIATION, 0.1, held, 2), [x], [held]
    held = np.array(rng.uniform(1, 2, (2, 20)))
    yield partial(norms.normalise, x, 3, weights, bias, held, True, z, 2), [x, weights, bias, held], [z]
    yield partial(norms.normalise_transpose, s, 3, weights, held, True, c, 2), [s, weights, held], [c]
    for turned in (False, True):
        tangent = partial(norms.normalise_tangent, x, s, 3, norms.DEVIATION, 0.1, weights, held, True, turned, c, 2)
        yield tangent, [x, s, weights, held], [c]


def resize_cases(rng, dtype):
    x, out = _random(rng, dtype, (2, 40, 41, 6), (2, 3, 2, 6))
    rows, columns = (resize.table([[(i, 0.25), (i + 1, 0.75)] for i in range(n)], dtype) for n in (3, 2))
    yield partial(resize.separable, x, rows, columns, out, 2), [x], [out]


def dense_cases(rng, dtype):
    for n in (1, 9):
        x, w, z, z2 = _random(rng, dtype, (n, 140), (140, 333), (n, 333), (n, 333))
        s, s2, c = _random(rng, dtype, (n, 333), (n, 333), (n, 140))
        x[:, ::3] = 0
        for accumulate in (False, True):
            yield partial(dense.dense_forward, x, w, 1.25, 1, z, accumulate, 2), [x, w], [z]
            yield partial(dense.dense_transpose, s, w, 1, 0, c, accumulate, 2), [s, w], [c]
        changes = (1, 1), (0, 1)
        yield partial(dense.dense_forward_beside, x, w, changes, (z, z2), 2), [x, w], [z, z2]
        yield partial(dense.dense_transpose_times, [s], w, changes[:1], x, c, 2), [s, w, x], [c]
        yield partial(dense.dense_transpose_times, [s, s2], w, changes, x, c, 2), [s, s2, w, x], [c]


def pool_cases(rng, dtype):
    x = rng.integers(-3, 4, (2, 34, 35, 17)).astype(dtype)
    for window, size in (((2, 2, 2, 2, 0, 0), (17, 17)), ((3, 3, 2, 2, 1, 1), (17, 18))):
        (z,), places = _random(rng, dtype, (2, *size, 17)), window[0] * window[1]
        winner = np.zeros(z.shape, np.uint8)
        labels = np.tile(np.arange(places, dtype=np.uint8), (2, *size, 1))
        if not any(window[4:]):  # a label must not lie outside the image
            labels = np.minimum(labels, rng.integers(0, places, labels.shape, np.uint8))
        yield partial(pool.max_forward, x, *window, z, winner, pool.no_labels(3, 3), False, 2), [x], [z, winner]
        yield partial(pool.max_forward, x, *window, z, winner, labels, True, 2), [x, labels], [z, winner]
        a, below, out = _random(rng, dtype, x.shape, x.shape, x.shape)
        back, sign, inputs = (z, winner, *window), (elementwise.SIGN, 0.3), [z, winner, a, below]
        yield partial(pool.max_transpose, *back, out, 2), inputs, [out]
        yield partial(pool.max_transpose_divide, *back, below, *sign, out, 2), inputs, [out]
        yield partial(pool.max_transpose_times, *back, a, out, 2), inputs, [out]
        yield partial(pool.max_transpose_ratio, *back, a, below, *sign, out, 2), inputs, [out]
        yield partial(pool.avg_forward, x, *window, z, 2), [x], [z]
        yield partial(pool.avg_transpose, z, *window, out, 2), [z], [out]


def conv_cases(rng, dtype):
    direct = conv.Geometry(11, 12, 5, 20, (3, 2), (2, 1), (1, 2), (1, 0, 1, 1))
    few = conv.Geometry(11, 12, 3, 20, pads=(1, 1, 1, 1))  # its transpose is a narrow one
    small, large = (conv.Geometry(n, n, 64, 64, pads=(1, 1, 1, 1)) for n in (14, 33))
    for geometry in (direct, few, small, large) if dtype == np.float32 else (direct, few):
        below = (9 if geometry is small else 2, geometry.height, geometry.width, geometry.cin)
        above = (below[0], geometry.out_height, geometry.out_width, geometry.cout)
        w, bias, bias2 = _random(rng, dtype, (*geometry.kernel, geometry.cin, geometry.cout), geometry.cout, geometry.cout)
        x, x2, a, out, out2, d, d2 = _random(rng, dtype, *[below] * 7)
        s, s2, z, z2 = _random(rng, dtype, *[above] * 4)
        for stored in (True, False):
            changes = (1, 1), (1, 0)
            one, two = (conv.pack(w, geometry, False, changes[:terms], stored=stored) for terms in (1, 2))
            back, both = (conv.pack(w, geometry, True, changes[:terms], stored=stored) for terms in (1, 2))
            forward, transpose = partial(conv.conv_forward, threads=2), partial(conv.conv_transpose, threads=2, workspace=conv.Workspace())
            inputs, outputs = [x, x2, bias, bias2], [z, z2]
            yield partial(forward, x, one, bias, True, z), inputs, outputs
            yield partial(forward, x, two, bias, False, z, x2), inputs, outputs
            yield partial(forward, x, one, bias, False, z, packed2=one, bias2=bias2, out2=z2), inputs, outputs
            inputs, outputs = [s, s2, a, d, d2], [out, out2]
            ratio = {"a": a, "z": d, "eps": 0.25, "signed": True}
            yield partial(transpose, s, back, out), inputs, outputs
            yield partial(transpose, s, back, out, a=a), inputs, outputs
            yield partial(transpose, s, back, out, a=a, also=(back, out2)), inputs, outputs
            yield partial(transpose, s, both, out, s2, **ratio), inputs, outputs
            yield partial(transpose, s, back, out, **ratio, out2=out2, z2=d2, weights=(2.0, -1.0)), inputs, outputs


GROUPS = [
    elementwise_cases,
    joins_cases,
    moves_cases,
    depthwise_cases,
    activations_cases,
    norms_cases,
    resize_cases,
    dense_cases,
    pool_cases,
    conv_cases,
]


def kernel_functions():
    """Yield every function of the kernels that is called from elsewhere."""
    for info in pkgutil.iter_modules(nplrp.kernels.__path__):
        module = importlib.import_module(f"nplrp.kernels.{info.name}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                yield module, value


def test_every_queueable_function_has_a_case():
    found = {function for _, function in kernel_functions() if is_queueable(function)}
    assert found == {call.func for group in GROUPS for call, *_ in group(np.random.default_rng(0), np.float32)}


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("group", GROUPS)
def test_in_a_queue_the_bits_are_the_same(group, dtype):
    rng = np.random.default_rng(0)
    for call, inputs, outputs in group(rng, dtype):
        for out in outputs:
            out[...] = rng.integers(-9, 9, out.shape).astype(out.dtype)
        sources = [(x.copy(), x) for x in inputs + outputs]
        call()
        results = [out.tobytes() for out in outputs]
        assert results[0] != sources[len(inputs)][0].tobytes()
        for _, array in sources:
            array[...] = 1
        with Queue(checked=True) as queue:
            for source, array in sources:
                _copy(2, source.reshape(-1), array.reshape(-1))
            call()
        assert not any(out.tobytes() == result for out, result in zip(outputs, results, strict=True)), "it waits"
        queue.run()
        assert [out.tobytes() for out in outputs] == results, call


X = np.random.default_rng(0).standard_normal((2, 8, 8, 3)).astype(np.float32)

#: What runs kernels and looks at what they compute, or gives it to other threads.
REFUSED = {
    elementwise.first_nonfinite: lambda: elementwise.first_nonfinite(X),
    softmax.softmax: lambda: softmax.softmax(X[0, 0], np.empty_like(X[0, 0])),
    ties.tie_labels: lambda: ties.tie_labels(X, [(1, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0, (-1,))]),
    conv.pack: lambda: conv.pack(np.ones((3, 3, 3, 5), np.float32), conv.Geometry(8, 8, 3, 5)),
    sums.sum_of: lambda: sums.sum_of(X),
    sums.sum_abs: lambda: sums.sum_abs(X),
    sums.sum_of_product: lambda: sums.sum_of_product(X, X),
    sums.sum_abs_product: lambda: sums.sum_abs_product(X, X, 2),
    sums.image_sums: lambda: sums.image_sums(X),
    sums.image_sums_abs: lambda: sums.image_sums_abs(X),
    sums.image_sums_of_product: lambda: sums.image_sums_of_product(X, X, 2),
}
#: What runs no kernel.
PURE = {conv.algorithm, conv.unstored, pool.winner_dtype, pool.no_labels, elementwise.stabiliser}


def test_every_other_function_is_refused_or_runs_no_kernel():
    public = {function for module, function in kernel_functions() if module in (conv, dense, elementwise, pool, softmax, sums, ties)}
    shared = {function for function in public if hasattr(function, "in_turn")}
    assert {function for function in public - shared if not is_queueable(function)} == PURE | set(REFUSED)


@pytest.mark.parametrize("function", REFUSED, ids=lambda function: f"{function.__module__.rpartition('.')[2]}.{function.__name__}")
def test_what_is_not_declared_is_refused(function):
    REFUSED[function]()
    with Queue(checked=True), pytest.raises(DataRaceError, match=rf"{function.__module__}.{function.__name__} is called in a queue"):
        REFUSED[function]()
