"""Dense kernels: a loop that keeps the documented order, the adjoint law, batches, threads, canaries."""

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from nplrp.kernels.dense import GROUP, dense_forward, dense_forward_beside, dense_transpose, dense_transpose_times
from nplrp.kernels.fma import fma_exact
from tests.kernels.guard import guarded, same_bits, untouched

DTYPES = (np.float32, np.float64)
PARTS = ((1, 1), (1, 0), (0, 1), (1.25, 1), (-1, 2))


def changed(w, pos, neg):
    return (w.dtype.type(pos) * np.maximum(w, 0) + w.dtype.type(neg) * np.minimum(w, 0)).astype(w.dtype)


def case(n, i, o, dtype, seed=0):
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal((n, i)) * (rng.random((n, i)) < 0.6)).astype(dtype)
    return x, rng.standard_normal((i, o)).astype(dtype), rng.standard_normal((n, o)).astype(dtype)


def forward(x, w, pos, neg, nt=1, start=None):
    z = guarded((len(x), w.shape[1]), x.dtype)
    if start is not None:
        z[...] = start
    with untouched([z], [x, w]):
        dense_forward(x, w, pos, neg, z, start is not None, nt)
    return z


def transpose(s, w, pos, neg, nt=1, start=None):
    c = guarded((len(s), w.shape[0]), s.dtype)
    if start is not None:
        c[...] = start
    with untouched([c], [s, w]):
        dense_transpose(s, w, pos, neg, c, start is not None, nt)
    return c


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10), st.integers(1, 40), st.integers(1, 150), st.sampled_from(PARTS), st.sampled_from(DTYPES), st.booleans())
@example(9, 200, 1200, (1, 0), np.float32, False)  # several tiles, several blocks of rows, more than one group of images
@example(1, 70, 2500, (1, 1), np.float64, True)
@example(2, 3, 1, (1, 1), np.float32, True)
def test_any_shape(n, i, o, parts, dtype, accumulate):
    x, w, s = case(n, i, o, dtype)
    exact = changed(w, *parts).astype(np.float64)
    tolerance = (i + o) * np.finfo(dtype).eps * 10
    start = 0.5 if accumulate else None
    z, c = forward(x, w, *parts, start=start), transpose(s, w, *parts, start=start)
    np.testing.assert_allclose(z, x.astype(np.float64) @ exact + (start or 0), rtol=0, atol=tolerance)
    np.testing.assert_allclose(c, s.astype(np.float64) @ exact.T + (start or 0), rtol=0, atol=tolerance)
    assert same_bits(z, forward(x, w, *parts, 2, start))
    assert same_bits(c, transpose(s, w, *parts, 2, start))
    for k in range(n):
        assert same_bits(z[k : k + 1], forward(x[k : k + 1], w, *parts, 2, start))
        assert same_bits(c[k : k + 1], transpose(s[k : k + 1], w, *parts, 2, start))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", PARTS)
def test_order_of_operations(dtype, parts):
    """The documented order with exact fused multiply-adds, one number at a time, gives the same bits."""
    x, w, s = case(2, 11, 70, dtype)
    v, zero = changed(w, *parts), dtype(0)
    z = np.full((2, 70), zero)
    for n, o in np.ndindex(z.shape):
        for i in range(11):
            z[n, o] = fma_exact(x[n, i], v[i, o], z[n, o])
    assert same_bits(forward(x, w, *parts), z)
    c, width = np.empty_like(x), 64 if dtype == np.float32 else 32
    for n, i in np.ndindex(c.shape):
        lanes = [zero] * width
        for o in range(70):
            lanes[o % width] = fma_exact(s[n, o], v[i, o], lanes[o % width])
        while len(lanes) > 1:
            half = len(lanes) // 2
            lanes = [a + b for a, b in zip(lanes[:half], lanes[half:], strict=True)]
        c[n, i] = lanes[0]
    assert same_bits(transpose(s, w, *parts), c)


@pytest.mark.parametrize("parts", PARTS)
@pytest.mark.parametrize("shape", [(1, 300, 70), (3, 140, 1201), (9, 33, 5)])
def test_narrow_weights_are_widened_on_the_way(shape, parts):
    """float32 weights give float64 sums the bits of the same numbers in float64."""
    x, w, s = case(*shape, np.float64)
    narrow = w.astype(np.float32)
    w = narrow.astype(np.float64)
    assert same_bits(forward(x, narrow, *parts, 2), forward(x, w, *parts))
    assert same_bits(transpose(s, narrow, *parts, 2), transpose(s, w, *parts))
    found = [[np.empty_like(s) for _ in range(2)] for _ in range(2)]
    back = np.empty((2, *x.shape))
    for k, weights in enumerate((narrow, w)):
        dense_forward_beside(x, weights, ((1.0, 1.0), parts), found[k], 2)
        dense_transpose_times([s, 2 * s], weights, (parts, (1.0, 0.0)), x, back[k], 2)
    assert all(map(same_bits, *found))
    assert same_bits(*back)


def test_long_sums_are_made_of_groups():
    """Chains of `GROUP` inputs, added in order, also where a whole group or parts of it are skipped."""
    n, inputs = 2, 2 * GROUP + 7
    x, w, _ = case(n, inputs, 3, np.float32)
    x[:, GROUP : 2 * GROUP] = 0
    x[1, 5:GROUP] = 0
    z = np.zeros((n, 3), np.float32)
    for image, o in np.ndindex(z.shape):
        for start in range(0, inputs, GROUP):
            partial = np.float32(0)
            for i in range(start, min(start + GROUP, inputs)):
                partial = fma_exact(x[image, i], w[i, o], partial)
            z[image, o] += partial
    assert same_bits(forward(x, w, 1.0, 1.0), z)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adjoint(dtype):
    x, w, s = case(3, 97, 131, dtype)
    for parts in PARTS:
        left = np.vdot(forward(x, w, *parts).astype(np.float64), s)
        right = np.vdot(x.astype(np.float64), transpose(s, w, *parts))
        assert left == pytest.approx(right, rel=float(200 * np.finfo(dtype).eps), abs=float(1e4 * np.finfo(dtype).eps))


def test_by_hand():
    x, w = np.array([[1, 2]], np.float32), np.array([[3, -4], [-5, 6]], np.float32)
    assert forward(x, w, 1, 1).tolist() == [[-7, 8]]
    assert forward(x, w, 1, 0).tolist() == [[3, 12]]
    assert forward(x, w, 0, 1).tolist() == [[-10, -4]]
    assert transpose(x, w, 1, 1).tolist() == [[-5, 7]]
    assert transpose(x, w, 2, 1).tolist() == [[-2, 19]]


@pytest.mark.parametrize("dtype", DTYPES)
def test_several_outputs_are_several_calls(dtype):
    x, w, _ = case(9, 90, 700, dtype)
    for nt in (1, 2):
        outs = [guarded((9, 700), dtype) for _ in range(3)]
        with untouched(outs, [x, w]):
            dense_forward_beside(x, w, PARTS[:3], outs, nt)
        for z, parts in zip(outs, PARTS, strict=False):
            assert same_bits(z, forward(x, w, *parts))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("parts", PARTS)
def test_fused_product_is_two_steps(dtype, parts):
    a, w, s = case(9, 90, 131, dtype)
    for nt in (1, 2):
        out = guarded(a.shape, dtype)
        with untouched([out], [a, w, s]):
            dense_transpose_times([s], w, [parts], a, out, nt)
        assert same_bits(out, a * transpose(s, w, *parts) + dtype(0))  # + 0: no zero has a sign
        with untouched([out], [a, w, s]):
            dense_transpose_times([s, s[::-1].copy()], w, [parts, (0, 1)], a, out, nt)
        assert same_bits(out, a * transpose(s, w, *parts) + a * transpose(s[::-1].copy(), w, 0, 1) + dtype(0))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(("run", "times"), [(1, 10), (3, 4)])
def test_inputs_of_fewer_images_repeat(dtype, run, times):
    a, w, s = case(run * times, 90, 131, dtype)
    a = a[:run]
    a[:, ::3] = 0
    found, expected = guarded((run * times, 90), dtype), guarded((run * times, 90), dtype)
    for nt in (1, 2):
        with untouched([found], [a, w, s]):
            dense_transpose_times([s, s[::-1].copy()], w, [(1, 1), (0, 1)], a, found, nt)
        dense_transpose_times([s, s[::-1].copy()], w, [(1, 1), (0, 1)], np.concatenate([a] * times), expected, nt)
        assert same_bits(found, expected)


def test_nan_and_infinity_reach_every_output():
    x, w, s = case(2, 20, 70, np.float32)
    x[1, 3] = np.nan
    s[0, 65] = np.inf
    z, c = forward(x, w, 1, 1), transpose(s, w, 1, 1)
    assert np.isfinite(z[0]).all()
    assert np.isnan(z[1]).all()
    assert not np.isfinite(c[0]).any()
    assert np.isfinite(c[1]).all()


def test_mapped_weights(tmp_path):
    x, w, _ = case(2, 30, 200, np.float32)
    w.tofile(tmp_path / "w")
    mapped = np.memmap(tmp_path / "w", np.float32, "r", shape=w.shape)
    assert same_bits(forward(x, mapped, 1, 1, 2), forward(x, w, 1, 1))
