"""Depthwise convolutions against loops, against a dense kernel that is zero elsewhere, and the laws they obey."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nplrp.kernels.conv import Geometry, conv_forward, conv_transpose, pack
from nplrp.kernels.depthwise import depthwise_forward, depthwise_transpose
from tests import naive
from tests.kernels.guard import guarded, same_bits, untouched

FLOATS = (np.float32, np.float64)
AS_IS = ((1.0, 1.0),)


@st.composite
def geometries(draw):
    """Layers with at least one output pixel."""
    c, m = draw(st.sampled_from((1, 3, 16, 20, 33))), draw(st.integers(1, 3))
    kernel = draw(st.tuples(*[st.integers(1, 4)] * 2))
    stride, dilation = (draw(st.tuples(*[st.integers(1, 3)] * 2)) for _ in range(2))
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    least = [max(1, (kernel[i] - 1) * dilation[i] + 1 - sum(pads[2 * i : 2 * i + 2])) for i in range(2)]
    height, width = (draw(st.integers(n, n + 12)) for n in least)
    return Geometry(height, width, c, c * m, kernel, stride, dilation, pads)


def case(g, dtype, seed=0, images=2):
    r = np.random.default_rng(seed)
    image, out = (images, g.height, g.width, g.cin), (images, g.out_height, g.out_width, g.cout)
    shapes = {"x": image, "x2": image, "w": (*g.kernel, g.cin, g.cout // g.cin), "b": (g.cout,), "s": out, "s2": out}
    shapes |= {"a": image, "z": image, "z2": image}
    return {name: r.standard_normal(shape).astype(dtype) for name, shape in shapes.items()}


def forward(g, x, w, b, changes=AS_IS, relu=False, **options):
    out = guarded((len(x), g.out_height, g.out_width, g.cout), x.dtype)
    with untouched([out], [x, w, b]):
        depthwise_forward(x, w, g, changes, b, relu, out, **options)
    return out


def transpose(g, s, w, changes=AS_IS, **options):
    out = guarded((len(s), g.height, g.width, g.cin), s.dtype)
    with untouched([out], [s, w]):
        depthwise_transpose(s, w, g, changes, out, **options)
    return out


def loops(g, d):
    """Return forward and transpose in float64, and the sums of absolute products."""
    d = {name: v.astype(float) for name, v in d.items()}
    shape = g.stride, g.dilation, g.pads

    def both(v):
        there = naive.depthwise_forward(v["x"], v["w"], v["b"], *shape)
        return there, naive.depthwise_transpose(v["s"], v["w"], g.height, g.width, *shape)

    return both(d), both({name: abs(v) for name, v in d.items()})


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=60)
@given(g=geometries(), threads=st.integers(1, 2))
def test_it_is_the_definition(g, threads, dtype):
    d = case(g, dtype)
    expected, sizes = loops(g, d)
    taps, m = g.kernel[0] * g.kernel[1], g.cout // g.cin
    unit = 2.0 ** (-24 if dtype is np.float32 else -53)
    # a chain of n products makes at most n roundings, and the bias one more; float64's twin rounds too
    found = forward(g, d["x"], d["w"], d["b"], threads=threads), transpose(g, d["s"], d["w"], threads=threads)
    for value, wanted, size, terms in zip(found, expected, sizes, (taps + 1, taps * m), strict=True):
        assert value.dtype == dtype
        assert np.all(abs(value - wanted) <= (terms + (terms if dtype is np.float64 else 0)) * unit * size)


@settings(deadline=None, max_examples=30)
@given(g=geometries())
def test_the_transpose_is_the_adjoint(g):
    d = case(g, np.float64)
    there = np.vdot(forward(g, d["x"], d["w"], np.zeros(g.cout)), d["s"])
    assert there == pytest.approx(np.vdot(d["x"], transpose(g, d["s"], d["w"])), rel=1e-12, abs=1e-11)


def dense_kernel(w):
    kh, kw, c, m = w.shape
    whole = np.zeros((kh, kw, c, c * m), w.dtype)
    for i in range(c):
        whole[:, :, i, i * m : (i + 1) * m] = w[:, :, i]
    return whole


def layers():
    return [
        Geometry(12, 19, 37, 37, (3, 3), (1, 1), (1, 1), (1, 1, 1, 1)),
        Geometry(23, 17, 40, 80, (3, 2), (2, 3), (1, 2), (1, 0, 2, 1)),
        Geometry(60, 14, 33, 99, (5, 5), (2, 2), (1, 1), (1, 2, 1, 2)),  # worth a second thread
    ]


@pytest.fixture(params=layers(), ids=lambda g: f"{g.height}-{g.cout // g.cin}")
def layer(request):
    return request.param


@pytest.mark.parametrize("dtype", FLOATS)
def test_the_bits_are_those_of_a_dense_kernel_with_zeros(layer, dtype):
    """The order of the chain is the direct convolution's; a product with 0 changes no sum."""
    d, changes = case(layer, dtype), ((1.25, 1.0), (0.0, 1.0))
    whole = dense_kernel(d["w"])
    out, back = np.empty_like(d["s"]), np.empty_like(d["x"])
    conv_forward(d["x"], pack(whole, layer, changes=changes, algorithm="direct"), d["b"], True, out, x2=d["x2"])
    assert same_bits(forward(layer, d["x"], d["w"], d["b"], changes, True, x2=d["x2"]), out)
    conv_transpose(d["s"], pack(whole, layer, True, changes, algorithm="direct"), back, s2=d["s2"])
    assert np.array_equal(transpose(layer, d["s"], d["w"], changes, s2=d["s2"]), back)


def test_a_change_is_the_changed_weights(layer):
    d = case(layer, np.float32)
    w = np.where(d["w"] > 0, np.float32(1.25), np.float32(0.5)) * d["w"]
    assert same_bits(forward(layer, d["x"], d["w"], d["b"], ((1.25, 0.5),)), forward(layer, d["x"], w, d["b"]))
    assert same_bits(transpose(layer, d["s"], d["w"], ((1.25, 0.5),)), transpose(layer, d["s"], w))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("signed", [False, True])
def test_epilogues_are_the_lines_of_the_page(layer, dtype, signed):
    d = case(layer, dtype)
    d["z"][:, :, ::2] = 0
    c = transpose(layer, d["s"], d["w"])
    relevance = d["a"] * c
    eps, alpha, beta = dtype(0.01), dtype(2), dtype(-1.1)

    def stab(z):
        return z + eps * np.where(z >= 0, dtype(1), dtype(-1)) if signed else z + eps

    options = {"eps": 0.01, "signed": signed, "a": d["a"], "z": d["z"]}
    assert same_bits(transpose(layer, d["s"], d["w"], a=d["a"]), relevance)
    assert same_bits(transpose(layer, d["s"], d["w"], **options), relevance / stab(d["z"]))
    out2 = guarded(c.shape, dtype)
    with untouched([out2]):
        found = transpose(layer, d["s"], d["w"], **options, z2=d["z2"], out2=out2, weights=(alpha, beta))
    assert same_bits(found, (alpha * relevance) / stab(d["z"]))
    assert same_bits(out2, (beta * relevance) / stab(d["z2"]))


@pytest.mark.parametrize("dtype", FLOATS)
def test_threads_and_batches_give_the_same_bits(layer, dtype):
    d = case(layer, dtype, images=3)
    out, back = forward(layer, d["x"], d["w"], d["b"], relu=True), transpose(layer, d["s"], d["w"])
    for threads in (2, 3, 7):
        assert same_bits(out, forward(layer, d["x"], d["w"], d["b"], relu=True, threads=threads))
        assert same_bits(back, transpose(layer, d["s"], d["w"], threads=threads))
    for i in range(3):
        one = slice(i, i + 1)
        assert same_bits(out[one], forward(layer, d["x"][one], d["w"], d["b"], relu=True, threads=2))
        assert same_bits(back[one], transpose(layer, d["s"][one], d["w"], threads=2))


def test_a_nan_stays_where_it_is_seen(layer):
    d = case(layer, np.float32)
    d["x"][0, 2, 3, 1] = np.nan
    out = forward(layer, d["x"], d["w"], d["b"], relu=True)
    (expected, _), _ = loops(layer, d)
    assert np.isnan(expected).any()
    assert np.array_equal(np.isnan(out), np.isnan(expected))


def test_weights_may_be_mapped(layer, tmp_path):
    d = case(layer, np.float32)
    d["w"].tofile(tmp_path / "w.bin")
    mapped = np.memmap(tmp_path / "w.bin", np.float32, "r", shape=d["w"].shape)
    out = np.empty_like(d["s"])
    depthwise_forward(d["x"], mapped, layer, AS_IS, d["b"], False, out)
    assert same_bits(out, forward(layer, d["x"], d["w"], d["b"]))


def test_by_hand():
    x = np.array([[1, 10], [2, 20], [3, 30]], np.float32).reshape(1, 1, 3, 2)
    w = np.array([[[1, -1], [2, -2]], [[3, 5], [4, 6]]], np.float32).reshape(1, 2, 2, 2)  # [1, 2, c, m]
    g = Geometry(1, 3, 2, 4, (1, 2))
    out = forward(g, x, w, np.zeros(4, np.float32))
    assert out.tolist() == [[[[1 + 6, -1 + 10, 20 + 80, -20 + 120], [2 + 9, -2 + 15, 40 + 120, -40 + 180]]]]
    s = np.array([[1, 2, 3, 4], [5, 6, 7, 8]], np.float32).reshape(1, 1, 2, 4)
    back = transpose(g, s, w)
    assert back.tolist() == [[[[-1, -2], [3 + 10 - 1, 12 + 24 - 2], [15 + 30, 28 + 48]]]]


def test_nothing_to_do():
    g = Geometry(8, 8, 3, 6)
    w, b = np.ones((3, 3, 3, 2), np.float32), np.ones(6, np.float32)
    assert forward(g, np.empty((0, 8, 8, 3), np.float32), w, b).shape == (0, 6, 6, 6)
    assert transpose(g, np.empty((0, 6, 6, 6), np.float32), w).shape == (0, 8, 8, 3)
