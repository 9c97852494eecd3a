"""Pooling kernels against loops, the adjoint law, ties, labels, fused steps against the separate ones."""

import numpy as np
import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from nplrp.kernels import elementwise as ew
from nplrp.kernels import pool
from tests import naive
from tests.kernels.guard import guarded, same_bits, untouched

DTYPES = (np.float32, np.float64)
SQUARE = (2, 2, 2, 2, 0, 0)


def image(shape, dtype, seed=0):
    """Small whole numbers, so that maxima tie often."""
    return np.random.default_rng(seed).integers(-3, 4, shape).astype(dtype)


def output_shape(x, window, bottom=0, right=0):
    kh, kw, sh, sw, top, left = window
    n, h, w, c = x.shape
    return n, (h + top + bottom - kh) // sh + 1, (w + left + right - kw) // sw + 1, c


def max_forward(x, window, shape, nt=1, labels=None):
    z, winner = guarded(shape, x.dtype), guarded(shape, pool.winner_dtype(*window[:2]))
    tied = pool.no_labels(*window[:2]) if labels is None else labels
    with untouched([z, winner], [x]):
        pool.max_forward(x, *window, z, winner, tied, labels is not None, nt)
    return z, winner


def max_transpose(s, winner, window, shape, nt=1):
    c = guarded(shape, s.dtype)
    with untouched([c], [s, winner]):
        pool.max_transpose(s, winner, *window, c, nt)
    return c


@st.composite
def pools(draw):
    """An image's shape, a window that fits it, and zero padding at the bottom and right; every window meets the image."""
    n, h, w, c = draw(st.integers(0, 2)), draw(st.integers(1, 12)), draw(st.integers(1, 12)), draw(st.sampled_from((1, 3, 4, 8, 19, 33)))
    kh, kw, sh, sw = (draw(st.integers(1, 4)) for _ in range(4))
    top, bottom, left, right = (draw(st.integers(0, k - 1)) for k in (kh, kh, kw, kw))
    assume(h + top + bottom >= kh and w + left + right >= kw)
    return (n, h, w, c), (kh, kw, sh, sw, top, left), (bottom, right)


@settings(deadline=None, max_examples=80)
@given(pools(), st.sampled_from(DTYPES), st.integers(0, 9))
@example(((2, 17, 15, 64), SQUARE, (0, 0)), np.float32, 0)
@example(((1, 9, 7, 3), (9, 7, 9, 7, 0, 0), (0, 0)), np.float32, 1)
@example(((1, 17, 16, 5), (17, 16, 1, 1, 0, 0), (0, 0)), np.float64, 1)  # 272 positions: winners are int32
def test_any_window_agrees_with_loops(case, dtype, seed):
    shape, window, (bottom, right) = case
    x = image(shape, dtype, seed)
    size, stride, pads = window[:2], window[2:4], (window[4], bottom, window[5], right)
    wanted, won = naive.max_winners(x, size, stride, pads)
    z, winner = max_forward(x, window, wanted.shape)
    assert np.array_equal(z, wanted)
    assert np.array_equal(winner.astype(np.uint8), won)  # the twin counts in uint8
    s = np.random.default_rng(seed).standard_normal(wanted.shape).astype(dtype)
    c = max_transpose(s, winner, window, shape)
    assert np.array_equal(c, naive.max_transpose(s, winner, *shape[1:3], size, stride, pads))
    mean, back = guarded(wanted.shape, dtype), guarded(shape, dtype)
    with untouched([mean, back], [x, s]):
        pool.avg_forward(x, *window, mean)
        pool.avg_transpose(s, *window, back)
    tolerance = 20 * np.finfo(dtype).eps
    assert np.array_equal(mean, naive.avg_forward(x.astype(np.float64), size, stride, pads).astype(dtype))  # rounded once
    np.testing.assert_allclose(back, naive.avg_transpose(s, *shape[1:3], size, stride, pads), rtol=tolerance, atol=10 * tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [SQUARE, (3, 3, 2, 2, 1, 1), (3, 2, 1, 2, 0, 1)])
def test_threads_and_batches_give_the_same_bits(dtype, window):
    x = np.random.default_rng(0).standard_normal((3, 30, 31, 19)).astype(dtype)
    shape = output_shape(x, window)
    s = np.random.default_rng(1).standard_normal(shape).astype(dtype)

    def run(some, nt):
        a, r = x[some], s[some]
        z, winner = max_forward(a, window, r.shape, nt)
        out = [z, winner, max_transpose(r, winner, window, a.shape, nt)]
        for kernel, source, like in ((pool.avg_forward, a, r), (pool.avg_transpose, r, a)):
            out.append(guarded(like.shape, dtype))
            with untouched(out[-1:], [source]):
                kernel(source, *window, out[-1], nt)
        return out

    whole = run(slice(0, 3), 1)
    for a, b in zip(whole, run(slice(0, 3), 2), strict=True):
        assert same_bits(a, b)
    for n in range(3):
        for a, b in zip(whole, run(slice(n, n + 1), 2), strict=True):
            assert same_bits(a[n : n + 1], b)


@pytest.mark.parametrize("dtype", DTYPES)
def test_adjoint(dtype):
    window = (3, 2, 2, 1, 1, 0)
    a = np.random.default_rng(0).standard_normal((2, 9, 8, 5)).astype(dtype)
    shape = output_shape(a, window, bottom=1)
    s = np.random.default_rng(1).standard_normal(shape).astype(dtype)
    z, winner = max_forward(a, window, shape)
    c, mean, back = max_transpose(s, winner, window, a.shape), np.empty_like(z), np.empty_like(a)
    pool.avg_forward(a, *window, mean)
    pool.avg_transpose(s, *window, back)
    assert np.vdot(z.astype(float), s) == pytest.approx(np.vdot(a.astype(float), c), rel=1e-5 if dtype == np.float32 else 1e-13)
    assert np.vdot(mean.astype(float), s) == pytest.approx(np.vdot(a.astype(float), back), rel=1e-5 if dtype == np.float32 else 1e-13)


def test_by_hand():
    x = np.array([[1, 5, 5, 2], [5, 0, -1, 7]], np.float32).reshape(1, 2, 4, 1)
    z, winner = max_forward(x, SQUARE, (1, 1, 2, 1))
    assert z.ravel().tolist() == [5, 7]
    assert winner.ravel().tolist() == [1, 3], "the first of equal maxima wins"
    c = max_transpose(np.array([10, 20], np.float32).reshape(1, 1, 2, 1), winner, SQUARE, x.shape)
    assert c.ravel().tolist() == [0, 10, 0, 0, 0, 0, 0, 20]
    slide = (2, 2, 1, 1, 0, 0)  # overlapping: the 5 at column 2 loses to the one before it, the 7 wins once
    z, winner = max_forward(x, slide, (1, 1, 3, 1))
    assert winner.ravel().tolist() == [1, 0, 3]
    c = max_transpose(np.array([1, 2, 4], np.float32).reshape(1, 1, 3, 1), winner, slide, x.shape)
    assert c.ravel().tolist() == [0, 3, 0, 0, 0, 0, 0, 4]


@pytest.mark.parametrize("dtype", DTYPES)
def test_padding_never_wins_and_isnt_counted(dtype):
    x = np.full((1, 2, 2, 9), -5, dtype)
    window = (3, 3, 1, 1, 1, 1)
    z, winner = max_forward(x, window, (1, 2, 2, 9))
    assert (z == -5).all()
    assert winner[0, :, :, 0].tolist() == [[4, 3], [1, 0]]
    mean = np.empty_like(x)
    pool.avg_forward(x, *window, mean)
    assert (mean == -5).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_wins_and_the_first_of_two(dtype):
    x = np.ones((1, 2, 4, 17), dtype)
    x[0, 1, 0], x[0, 1, 1], x[0, 0, 3], x[0, 1, 3] = np.nan, 9, np.nan, np.nan
    z, winner = max_forward(x, SQUARE, (1, 1, 2, 17))
    assert np.isnan(z).all()
    assert (winner[0, 0, 0] == 2).all()
    assert (winner[0, 0, 1] == 1).all()
    low = np.full((1, 2, 2, 17), -np.inf, dtype)
    z, winner = max_forward(low, SQUARE, (1, 1, 1, 17))
    assert (z == -np.inf).all()
    assert (winner == 0).all()


@pytest.mark.parametrize("dtype", DTYPES)
def test_labels_make_tied_positions_equal(dtype):
    """Positions 1 and 3 tie by their labels though 3 is larger; 2 is the largest of the rest in the second window."""
    x = np.array([[0, 4, 1, 2], [3, 4.5, 7, 2.5]], dtype).reshape(1, 2, 4, 1) * np.ones(9, dtype)
    labels = np.array([[0, 1, 2, 1], [0, 1, 2, 3]], np.int32).reshape(1, 1, 2, 4)
    z, winner = max_forward(x, SQUARE, (1, 1, 2, 9), labels=labels)
    assert (winner[0, 0, 0] == 1).all()
    assert (z[0, 0, 0] == 4).all()
    assert (winner[0, 0, 1] == 2).all()
    plain, _ = max_forward(x, SQUARE, (1, 1, 2, 9))
    assert (plain[0, 0, 0] == 4.5).all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("window", [SQUARE, (3, 3, 2, 2, 1, 1)])
def test_fused_steps_are_the_separate_ones(dtype, window):
    rng = np.random.default_rng(0)
    a = np.maximum(rng.standard_normal((2, 30, 27, 19)), 0).astype(dtype)
    below = a - dtype(0.3) * (rng.random(a.shape) < 0.5)
    s = rng.standard_normal(output_shape(a, window)).astype(dtype)
    _, winner = max_forward(a, window, s.shape)
    carried = max_transpose(s, winner, window, a.shape)
    product = a * carried
    for nt in (1, 2):
        out = guarded(a.shape, dtype)
        with untouched([out], [a, s, winner]):
            pool.max_transpose_times(s, winner, *window, a, out, nt)
        assert same_bits(out, product)
        for kind in range(9):
            for R, with_a in ((carried, False), (product, True)):
                wanted = np.empty_like(out)
                ew.stabilise_divide(R, below, kind, 0.125, 1, wanted)
                with untouched([out], [a, below, s, winner]):
                    if with_a:
                        pool.max_transpose_ratio(s, winner, *window, a, below, kind, 0.125, out, nt)
                    else:
                        pool.max_transpose_divide(s, winner, *window, below, kind, 0.125, out, nt)
                np.testing.assert_array_equal(out, wanted)
                assert same_bits(np.abs(out), np.abs(wanted)), kind


def test_nothing_to_do():
    x = np.empty((0, 4, 4, 3), np.float32)
    z, winner = max_forward(x, SQUARE, (0, 2, 2, 3), 2)
    assert max_transpose(z, winner, SQUARE, x.shape, 2).shape == x.shape
