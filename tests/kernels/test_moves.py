"""Copies of boxes and of pixels against NumPy's slices."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nplrp.kernels import moves
from tests.kernels.guard import guarded, same_bits, untouched

DTYPES = (np.float32, np.float64)


def numbers(shape, dtype):
    return np.random.default_rng(len(shape)).normal(size=shape).astype(dtype)


@st.composite
def boxes(draw):
    """The shapes of a box and of where it goes, and the shift between them, which may leave nothing in common."""
    n, h, w, ho, wo = draw(st.integers(0, 3)), *(draw(st.integers(1, 9)) for _ in range(4))
    return (n, h, w), (n, ho, wo), draw(st.integers(-10, 10)), draw(st.integers(-10, 10))


@settings(deadline=None, max_examples=150)
@given(boxes(), st.sampled_from(DTYPES), st.booleans(), st.sampled_from([1, 2]))
def test_boxes_are_shifted(case, dtype, fill, nt):
    shape, to, down, right = case
    x, out = numbers(shape, dtype), guarded(to, dtype)
    out[...] = 7
    expected = np.full(to, 0 if fill else 7, dtype)
    for y in range(to[1]):
        for q in range(to[2]):
            if 0 <= y - down < shape[1] and 0 <= q - right < shape[2]:
                expected[:, y, q] = x[:, y - down, q - right]
    with untouched([out], [x]):
        moves.copy_box(x, out, down, right, fill, nt)
    assert same_bits(out, expected)


def test_a_large_box_is_shared_by_threads():
    x = numbers((2, 60, 300), np.float32)
    for nt in (1, 2, 3):
        out = guarded((2, 63, 310), np.float32)
        with untouched([out], [x]):
            moves.copy_box(x, out, 1, 4, True, nt)
        assert same_bits(out, np.pad(x, ((0, 0), (1, 2), (4, 6))))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "rows", "columns"), [((2, 3, 4, 5), 2, 3), ((1, 40, 30, 17), 2, 2), ((0, 2, 2, 1), 2, 2), ((1, 1, 7, 3), 1, 4)]
)
def test_pixels_are_repeated_and_their_copies_added(shape, rows, columns, dtype):
    x = numbers(shape, dtype)
    n, h, w, c = shape
    s = numbers((n, h * rows, w * columns, c), dtype)
    total = np.zeros(shape, dtype)
    for i in range(rows):
        for j in range(columns):
            total += s[:, i::rows, j::columns]
    for nt in (1, 2):
        out, back = guarded(s.shape, dtype), guarded(shape, dtype)
        with untouched([out, back], [x, s]):
            moves.repeat(x, rows, columns, out, nt)
            moves.repeat_transpose(s, rows, columns, back, nt)
        assert same_bits(out, x.repeat(rows, axis=1).repeat(columns, axis=2))
        assert same_bits(back, total)
