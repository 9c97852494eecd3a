"""Joins against a line of NumPy each, the adjoint law, NaN and infinity, threads."""

import numpy as np
import pytest

from nplrp.kernels import elementwise as ew
from nplrp.kernels import joins
from tests import naive
from tests.kernels.guard import guarded, same_bits, untouched

DTYPES = (np.float32, np.float64)
SHAPES = ((0,), (1,), (3, 5), (2, 3, 4, 33), (1, 40, 30, 20))  # the last is worth a second thread
WEIGHTS = (1.0, -0.5, 1 / 3, 2.0)


def arrays(count, shape, dtype, seed=0):
    """Normal numbers with ties and zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    found = [np.round(rng.standard_normal(shape) * 4).astype(dtype) / dtype(3) for _ in range(count)]
    for x in found:
        x[rng.random(shape) < 0.1] = -0.0
    return found


def run(kernel, inputs, shape, dtype, count=1, start=None):
    """Run kernel(outs, nt) with 1, 2 and 3 threads; check canaries and that all give the same bits."""
    results = []
    for nt in (1, 2, 3):
        outs = [guarded(shape, dtype) for _ in range(count)]
        if start is not None:
            for out, first in zip(outs, start, strict=True):
                out[...] = first
        with untouched(outs, inputs):
            kernel(outs, nt)
        results.append([out.copy() for out in outs])
    for other in results[1:]:
        assert all(same_bits(a, b) for a, b in zip(results[0], other, strict=True))
    return results[0]


def weighted(a, weights):
    """Return the sum in the order that the module states."""
    total = a[0].dtype.type(weights[0]) * a[0]
    for x, w in zip(a[1:], weights[1:], strict=True):
        total = total + x.dtype.type(w) * x
    return total


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_a_sum_is_its_formula(shape, dtype, count):
    a, weights = arrays(count, shape, dtype), WEIGHTS[:count]
    for relu, expected in (
        (False, weighted(a, weights)),
        (True, np.maximum(weighted(a, weights), 0)),
        (0.5, np.clip(weighted(a, weights), 0, 0.5)),
    ):
        (out,) = run(lambda outs, nt, relu=relu: joins.sum_forward(a, weights, outs[0], relu, nt), a, shape, dtype)
        assert np.array_equal(out, expected)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("count", [2, 3, 4])
def test_shares_are_their_formula(shape, dtype, count):
    a, weights = arrays(count, shape, dtype), WEIGHTS[:count]
    R, z = arrays(2, shape, dtype, 1)
    before, add = arrays(count, shape, dtype, 2), [i % 3 == 1 for i in range(count)]
    number = dtype

    def expected(s):
        each = [x * (number(w) * s) for x, w in zip(a, weights, strict=True)]
        return [first + r if more else r for first, r, more in zip(before, each, add, strict=True)]

    found = run(lambda outs, nt: joins.sum_transpose_times(R, a, weights, outs, add, nt), [*a, R], shape, dtype, count, before)
    assert all(same_bits(x, y) for x, y in zip(found, expected(R), strict=True))
    for kind in range(9):
        s = np.empty_like(R)
        with np.errstate(all="ignore"):
            ew.stabilise_divide(R, z, kind, 0.125, 1, s)
            wanted = expected(s)
        found = run(
            lambda outs, nt, k=kind: joins.sum_relevance(R, z, k, 0.125, a, weights, outs, add, nt), [*a, R, z], shape, dtype, count, before
        )
        for x, y in zip(found, wanted, strict=True):
            np.testing.assert_array_equal(x, y)
    (out,) = run(lambda outs, nt: joins.sum_transpose(R, 1 / 3, outs[0], nt=nt), [R], shape, dtype)
    assert same_bits(out, number(1 / 3) * R)
    (out,) = run(lambda outs, nt: joins.sum_transpose(R, 1 / 3, outs[0], True, nt), [R], shape, dtype, 1, [z])
    assert same_bits(out, z + number(1 / 3) * R)
    (out,) = run(lambda outs, nt: joins.accumulate(R, outs[0], nt), [R], shape, dtype, 1, [z])
    assert same_bits(out, z + R)


def test_what_is_shared_is_all_there_was():
    """With the sum itself as denominator the shares add up to R, by hand: 6 = 1 + 2 + 3 gets 12 as 2 + 4 + 6."""
    a = [np.full(3, v, np.float64) for v in (1, 2, 3)]
    z, R, outs = np.empty(3), np.full(3, 12.0), [np.empty(3) for _ in range(3)]
    joins.sum_forward(a, (1, 1, 1), z)
    joins.sum_relevance(R, z, ew.NONE_DROP, 0, a, (1, 1, 1), outs)
    assert [out.tolist() for out in outs] == [[2] * 3, [4] * 3, [6] * 3]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lowest", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_extremes_and_who_wins(shape, dtype, lowest):
    a = arrays(4, shape, dtype)
    z, winner = guarded(shape, dtype), guarded(shape, np.uint8)
    stack = np.stack(a)
    for count in (2, 4):
        for nt in (1, 2):
            with untouched([z, winner], a):
                joins.extreme_forward(a[:count], z, winner, lowest, nt)
            assert np.array_equal(z, (np.min if lowest else np.max)(stack[:count], axis=0))
            assert np.array_equal(winner, (np.argmin if lowest else np.argmax)(stack[:count], axis=0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_the_winner_takes_all(shape, dtype):
    s, first = arrays(2, shape, dtype, 3)
    winner = np.random.default_rng(0).integers(0, 3, shape).astype(np.uint8)
    for i in range(3):

        def route(outs, nt, i=i):
            joins.extreme_transpose(s, winner, i, outs[0], False, nt)
            joins.extreme_transpose(s, winner, i, outs[1], True, nt)

        mine = np.where(winner == i, s, dtype(0))
        out, more = run(route, [s, winner], shape, dtype, 2, [first, first])
        assert same_bits(out, mine)
        assert same_bits(more, first + mine)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("lowest", [False, True])
def test_a_nan_wins_and_the_first_of_two(dtype, lowest):
    nan, inf = np.nan, np.inf
    a = [np.array(v, dtype) for v in ([nan, 1, nan, inf, -inf, 2], [1, nan, nan, nan, 1, 2], [0, inf, 1, 0, nan, 2])]
    z, winner = np.empty(6, dtype), np.empty(6, np.uint8)
    joins.extreme_forward(a, z, winner, lowest)
    assert np.isnan(z).tolist() == [True] * 5 + [False]
    assert winner.tolist() == [0, 1, 0, 1, 2, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_never_lost(dtype):
    nan, inf = np.nan, np.inf
    a, b = np.array([nan, inf, -inf, inf, 1, -1], dtype), np.array([1, 1, 1, -inf, 1, -1], dtype)
    out = np.empty_like(a)
    joins.sum_forward([a, b], (1, 1), out)
    np.testing.assert_array_equal(out, [nan, inf, -inf, nan, 2, -2])
    joins.sum_forward([a, b], (1, 1), out, True)
    np.testing.assert_array_equal(out, [nan, inf, nan, nan, 2, 0])
    joins.sum_forward([a, b], (1, 1), out, 1.5)
    np.testing.assert_array_equal(out, [nan, nan, nan, nan, 1.5, 0])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(0, 3, 4, 5), (1, 1, 1, 3), (3, 7, 5, 19), (2, 40, 30, 20), (4, 6)])
def test_gates(shape, dtype):
    (x, s), (g,) = arrays(2, shape, dtype), arrays(1, (shape[0], shape[-1]), dtype, 1)
    wide = g.reshape(shape[0], *[1] * (len(shape) - 2), shape[-1])
    for gate in (g, wide):
        (out,) = run(lambda outs, nt, gate=gate: joins.gate_forward(x, gate, outs[0], nt), [x, gate], shape, dtype)
        assert same_bits(out, x * wide)
        (back,) = run(lambda outs, nt: joins.gate_transpose(s, x, outs[0], nt), [s, x], gate.shape, dtype)
        pixels = x.size // max(1, g.size)
        exact, size = (
            naive.gate_transpose(s.astype(float), x.astype(float)),
            naive.gate_transpose(abs(s.astype(float)), abs(x.astype(float))),
        )
        # a chain of at most RUN products, then one sum a chain; float64's twin rounds too
        terms = min(pixels, joins.RUN) + -(-pixels // joins.RUN) + (pixels if dtype is np.float64 else 0)
        assert np.all(abs(back.reshape(g.shape) - exact) <= terms * np.finfo(dtype).eps / 2 * size)
        assert np.vdot(out.astype(float), s) == pytest.approx(np.vdot(gate.astype(float), back), rel=1e-5 if dtype is np.float32 else 1e-13)
    for i in range(shape[0]):
        one = np.empty((1, shape[-1]), dtype)
        joins.gate_transpose(s[i : i + 1], x[i : i + 1], one)
        assert same_bits(one[0], back.reshape(g.shape)[i])
