"""Structural ties against receptive fields compared one by one, and against the numbers that direct convolution computes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nplrp.kernels import ties
from nplrp.kernels.ties import MAX_POOL, WINDOW
from tests import naive

CONV = (WINDOW, 3, 3, 1, 1, 1, 1, 1, 1, 1, 1)
POOL = (MAX_POOL, 2, 2, 2, 2, 1, 1, 0, 0, 0, 0)


def tie_labels(x, layers, nt=1):
    """The labels of a chain, whose layers each read the one before."""
    return ties.tie_labels(x, [(*layer, (i - 1,)) for i, layer in enumerate(layers)], nt)


def labels_by_receptive_field(image, layers):
    """Give every position of every layer a number that stands for what it sees, tap by tap; compare these within each window."""
    numbers = {}

    def number(seen):
        return numbers.setdefault(seen, len(numbers))

    grid = np.array([[number(tuple(pixel.tolist())) for pixel in row] for row in image])
    found = []
    for kind, kh, kw, sh, sw, dh, dw, top, bottom, left, right in layers:
        padded = np.pad(grid, ((top, bottom), (left, right)), constant_values=-1)
        ho = (padded.shape[0] - (kh - 1) * dh - 1) // sh + 1
        wo = (padded.shape[1] - (kw - 1) * dw - 1) // sw + 1
        windows = [
            [padded[r * sh : r * sh + (kh - 1) * dh + 1 : dh, q * sw : q * sw + (kw - 1) * dw + 1 : dw].ravel().tolist() for q in range(wo)]
            for r in range(ho)
        ]
        if kind == MAX_POOL:
            found.append(np.array([[[p if v < 0 else taps.index(v) for p, v in enumerate(taps)] for taps in row] for row in windows]))
        grid = np.array([[number(("window", len(found), *taps)) for taps in row] for row in windows])
    return found


def check(x, layers):
    got = tie_labels(x, layers)
    wanted = [np.stack(each) for each in zip(*(labels_by_receptive_field(image, layers) for image in x), strict=True)]
    for mine, theirs in zip(got, wanted, strict=True):
        plain = np.broadcast_to(np.arange(theirs.shape[-1]), theirs.shape)
        assert (mine is None) == np.array_equal(theirs, plain)
        if mine is not None:
            np.testing.assert_array_equal(mine, theirs)
    return got


def pictures(n, h, w, c, kind, seed):
    """Noise of two grey values with planted areas in which pixels repeat."""
    rng = np.random.default_rng(seed)
    x = rng.integers(0, 2, (n, h, w, c)).astype(np.float32)
    y, u = np.mgrid[:h, :w]
    pattern = {
        "noise": None,
        "flat": 0 * y,
        "columns": u % 2,
        "rows": y % 2,
        "checkerboard": (y + u) % 2,
        "diagonal": (y - u) % 5,
        "antidiagonal": (y + u) % 3,
        "period 4": u % 4,
    }[kind]
    if pattern is not None:
        area = np.hypot(y - h / 2, u - w / 2) < max(h, w) * rng.uniform(0.3, 0.8)
        x[:, area] = pattern[area][:, None] - 0.5
    return x


PATTERNS = ("noise", "flat", "columns", "rows", "checkerboard", "diagonal", "antidiagonal", "period 4")


@pytest.mark.parametrize("pattern", PATTERNS)
def test_vgg_like_chain_finds_every_tie_and_no_other(pattern):
    layers = [CONV, POOL, CONV, CONV, POOL, POOL]
    got = check(pictures(2, 34, 29, 3, pattern, seed=1), layers)
    if pattern not in ("noise", "diagonal"):
        assert got[0] is not None, "the planted area must show up as ties"


sizes = st.integers(1, 3)


@st.composite
def chains(draw):
    """Images with one to four layers of any geometry that fits them."""
    h, w = draw(st.integers(1, 14)), draw(st.integers(1, 14))
    image, layers = (h, w), []
    for _ in range(draw(st.integers(1, 4))):
        kind = draw(st.sampled_from((WINDOW, MAX_POOL)))
        kh, kw, sh, sw = draw(sizes), draw(sizes), draw(sizes), draw(sizes)
        dh, dw = (draw(sizes), draw(sizes)) if kind == WINDOW else (1, 1)
        pads = (
            draw(st.tuples(*[st.integers(0, 2)] * 4))
            if kind == WINDOW
            else (draw(st.integers(0, kh - 1)), 0, draw(st.integers(0, kw - 1)), 0)
        )
        ho = (h + pads[0] + pads[1] - (kh - 1) * dh - 1) // sh + 1
        wo = (w + pads[2] + pads[3] - (kw - 1) * dw - 1) // sw + 1
        if ho > 0 and wo > 0 and h + pads[0] + pads[1] > (kh - 1) * dh and w + pads[2] + pads[3] > (kw - 1) * dw:
            layers.append((kind, kh, kw, sh, sw, dh, dw, *pads))
            h, w = ho, wo
    return image, layers


@settings(deadline=None, max_examples=150)
@given(chains(), st.integers(1, 3), st.sampled_from(PATTERNS), st.integers(0, 99), st.sampled_from((np.float32, np.float64)))
def test_any_geometry_agrees_with_receptive_fields(chain, channels, pattern, seed, dtype):
    (h, w), layers = chain
    check(pictures(2, h, w, channels, pattern, seed).astype(dtype), layers)


def test_padded_corners_tie_though_no_pixels_do():
    """A padding layer makes 2 x 2 zeros in each corner; the pool over them ties though all pixels differ."""
    x = np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1)
    (labels,) = check(x, [(WINDOW, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2), POOL])
    assert labels[0, 0, 0].tolist() == [0, 0, 0, 0]
    assert labels[0, 1, 1].tolist() == [0, 1, 2, 3]


def test_tied_positions_are_equal_bits_in_direct_convolution():
    rng = np.random.default_rng(3)
    x = pictures(1, 24, 26, 3, "columns", 4).astype(np.float64) * 117.3
    x[0, :9] = 1.7
    layers, value, at = [CONV, CONV, POOL, CONV, POOL], x, 0
    labels = tie_labels(x, layers)
    channels, seen = 3, 0
    for layer in layers:
        if layer[0] == WINDOW:
            w = rng.standard_normal((3, 3, channels, 5))
            value, channels = np.maximum(naive.conv_forward(value, w, rng.standard_normal(5), pads=(1, 1, 1, 1)), 0), 5
            continue
        n, h, wd, c = value.shape
        windows = (
            value[:, : h // 2 * 2, : wd // 2 * 2]
            .reshape(n, h // 2, 2, wd // 2, 2, c)
            .transpose(0, 1, 3, 2, 4, 5)
            .reshape(n, h // 2, wd // 2, 4, c)
        )
        assert labels[at] is not None
        tied = np.take_along_axis(windows, labels[at][..., None], 3)
        assert np.array_equal(tied, windows)
        seen += int((labels[at] != np.arange(4)).sum())
        value, at = windows.max(3), at + 1
    assert seen > 100


def test_same_labels_for_threads_and_batches():
    x = np.concatenate([pictures(1, 32, 32, 3, p, 5) for p in PATTERNS])
    layers = [CONV, POOL, CONV, POOL]
    whole, two = tie_labels(x, layers), tie_labels(x, layers, 2)
    for a, b in zip(whole, two, strict=True):
        np.testing.assert_array_equal(a, b)
    for n in range(len(x)):
        for one, a in zip(tie_labels(x[n : n + 1], layers), whole, strict=True):
            alone = np.broadcast_to(np.arange(4), a[n].shape) if one is None else one[0]
            np.testing.assert_array_equal(alone, a[n])


def test_edges():
    assert tie_labels(np.zeros((1, 4, 4, 3), np.float32), []) == []
    assert tie_labels(np.zeros((0, 4, 4, 3), np.float32), [CONV, POOL]) == [None]
    x = np.zeros((1, 4, 4, 1), np.float32)
    x[0, :, 1::2] = -0.0  # equal numbers
    x.flags.writeable = False
    assert tie_labels(x, [POOL])[0].tolist() == np.zeros((1, 2, 2, 4), int).tolist()
    assert tie_labels(np.full((1, 2, 2, 1), np.nan, np.float32), [POOL])[0] is not None  # the same bits; NaN is found elsewhere
