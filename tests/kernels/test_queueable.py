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
from nplrp.kernels import conv, dense, elementwise, pool, softmax, sums, ties

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
    yield partial(elementwise.add_bias, out, h, True, 2), [h], [out]


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
            yield partial(transpose, s, both, out, s2, **ratio), inputs, outputs
            yield partial(transpose, s, back, out, **ratio, out2=out2, z2=d2, weights=(2.0, -1.0)), inputs, outputs


GROUPS = [elementwise_cases, dense_cases, pool_cases, conv_cases]


def kernel_functions():
    """Yield every function of the kernels that is called from elsewhere."""
    for info in pkgutil.iter_modules(nplrp.kernels.__path__):
        module = importlib.import_module(f"nplrp.kernels.{info.name}")
        for name, value in vars(module).items():
            if inspect.isfunction(value) and value.__module__ == module.__name__ and not name.startswith("_"):
                yield module, value


def test_every_queueable_function_has_a_case():
    # their own tests compare calls that wait, and test_queue_rule.py whole passes
    elsewhere = ("activations", "depthwise", "joins", "moves", "norms", "resize")
    later = {"add", "add_scaled", "multiply_scaled", "leaky"}
    found = {
        function
        for _, function in kernel_functions()
        if is_queueable(function) and function.__module__.rpartition(".")[2] not in elsewhere and function.__name__ not in later
    }
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
