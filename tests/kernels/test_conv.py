"""Convolutions against the loops of tests/naive.py, the laws they obey, and bits that nothing may change."""

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numba import njit

from nplrp.kernels.conv import Geometry, Packed, Workspace, algorithm, conv_forward, conv_transpose, pack, unstored
from nplrp.kernels.fma import fma
from tests import naive

UNIT = {np.float32: 2.0**-24, np.float64: 2.0**-53}
FLOATS = (np.float32, np.float64)


@st.composite
def geometries(draw, winograd=False):
    """Layers with at least one output pixel; `winograd` ones are 3 x 3 without stride and dilation."""
    channels = st.sampled_from((1, 2, 3, 5, 16, 20, 33, 64))
    groups = 1 if winograd else draw(st.sampled_from((1, 1, 1, 2, 3, 5)))
    cin, cout = (draw(channels if groups == 1 else st.sampled_from((1, 2, 4, 8, 20))) * groups for _ in range(2))
    cout = cout if groups == 1 or draw(st.booleans()) else cin
    kernel = (3, 3) if winograd else draw(st.tuples(*[st.integers(1, 4)] * 2))
    step = st.just((1, 1)) if winograd else st.tuples(*[st.integers(1, 3)] * 2)
    stride, dilation = draw(step), draw(step)
    pads = draw(st.tuples(*[st.integers(0, 3)] * 4))
    least = [
        max(1, (kernel[0] - 1) * dilation[0] + 1 - pads[0] - pads[1]),
        max(1, (kernel[1] - 1) * dilation[1] + 1 - pads[2] - pads[3]),
    ]
    height, width = (draw(st.integers(n, n + 10)) for n in least)
    return Geometry(height, width, cin, cout, kernel, stride, dilation, pads, groups)


def case(g, dtype, seed=0, images=2):
    """Inputs, weights and all operands of an epilogue for a layer."""
    r = np.random.default_rng(seed)

    def draw(*shape):
        return r.standard_normal(shape).astype(dtype)

    return {
        "x": draw(images, g.height, g.width, g.cin),
        "x2": draw(images, g.height, g.width, g.cin),
        "w": draw(*g.kernel, g.cin // g.groups, g.cout),
        "b": draw(g.cout),
        "s": draw(images, g.out_height, g.out_width, g.cout),
        "s2": draw(images, g.out_height, g.out_width, g.cout),
        "a": draw(images, g.height, g.width, g.cin),
        "z": draw(images, g.height, g.width, g.cin),
        "z2": draw(images, g.height, g.width, g.cin),
    }


def forward(g, x, w, b, relu=False, name=None, threads=1, **options):
    out = np.full((len(x), g.out_height, g.out_width, g.cout), np.nan, x.dtype)
    changes = options.pop("changes", ((1.0, 1.0),))
    conv_forward(x, pack(w, g, changes=changes, algorithm=name, threads=threads), b, relu, out, threads=threads, **options)
    return out


def transpose(g, s, w, name=None, threads=1, **options):
    out = np.full((len(s), g.height, g.width, g.cin), np.nan, s.dtype)
    changes = options.pop("changes", ((1.0, 1.0),))
    packed = pack(w, g, transposed=True, changes=changes, algorithm=name, threads=threads)
    conv_transpose(s, packed, out, threads=threads, **options)
    return out


def forward_loops(g, x, w, b):
    return naive.conv_forward(x.astype(float), w.astype(float), b.astype(float), g.stride, g.dilation, g.pads, g.groups)


def transpose_loops(g, s, w):
    return naive.conv_transpose(s.astype(float), w.astype(float), g.height, g.width, g.stride, g.dilation, g.pads, g.groups)


def changed(w, change):
    return w * np.where(w > 0, w.dtype.type(change[0]), w.dtype.type(change[1]))


def assert_close(found, expected, sizes, units, dtype):
    """The error is at most `units` roundings of the sum of absolute products."""
    assert found.dtype == dtype
    assert np.all(np.abs(found - expected) <= units * UNIT[dtype] * sizes + 1e-300)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=60)
@given(g=geometries(), threads=st.integers(1, 2))
def test_direct_convolution_is_the_definition(g, threads, dtype):
    d = case(g, dtype)
    terms = g.kernel[0] * g.kernel[1] * g.cin + 2  # a chain of n products makes at most n roundings
    found = forward(g, d["x"], d["w"], d["b"], name="direct", threads=threads)
    sizes = forward_loops(g, abs(d["x"]), abs(d["w"]), abs(d["b"]))
    assert_close(found, forward_loops(g, d["x"], d["w"], d["b"]), sizes, terms, dtype)
    if dtype is np.float64:
        np.testing.assert_allclose(found, forward_loops(g, d["x"], d["w"], d["b"]), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=60)
@given(g=geometries(), threads=st.integers(1, 2))
def test_direct_transpose_is_the_definition(g, threads, dtype):
    d = case(g, dtype)
    found = transpose(g, d["s"], d["w"], name="direct", threads=threads)
    terms = g.kernel[0] * g.kernel[1] * g.cout + 2
    assert_close(found, transpose_loops(g, d["s"], d["w"]), transpose_loops(g, abs(d["s"]), abs(d["w"])), terms, dtype)


@njit
def _chains(x, w, out, sh, sw, up_h, up_w, dh, dw, top, left):
    """Sum up each output by one chain: kernel rows, kernel columns, channels; sources are `up` apart, as behind a transpose's strides."""
    images, height, width, cin = x.shape
    for n in range(images):
        for y in range(out.shape[1]):
            for q in range(out.shape[2]):
                for c in range(out.shape[3]):
                    total = out[n, y, q, c]
                    for i in range(w.shape[0]):
                        for j in range(w.shape[1]):
                            v, u = y * sh + i * dh - top, q * sw + j * dw - left
                            if v % up_h or u % up_w or not (0 <= v // up_h < height and 0 <= u // up_w < width):
                                continue
                            for k in range(cin):
                                total = fma(x[n, v // up_h, u // up_w, k], w[i, j, k, c], total)
                    out[n, y, q, c] = total


WIDE = (  # rows of outputs fill the registers, and chains are longer than what is multiplied at a time
    Geometry(3, 15, 20, 36, (3, 3), pads=(1, 1, 1, 1)),
    Geometry(7, 61, 20, 36, (3, 4), (2, 3), (1, 1), (1, 0, 2, 1)),
    Geometry(9, 40, 17, 33, (2, 3), (1, 2), (2, 2), (0, 1, 2, 2)),
    Geometry(2, 33, 40, 8, (1, 7), (1, 1), (1, 1), (0, 0, 3, 3)),
    Geometry(2, 33, 40, 8, (1, 7), (1, 2), (1, 3), (0, 0, 9, 9)),
    Geometry(4, 17, 20, 40, (5, 1), (3, 1), pads=(2, 2, 0, 0)),
    Geometry(4, 30, 260, 34, (3, 3), pads=(1, 1, 1, 1)),
    Geometry(7, 5, 530, 260, (3, 2), pads=(1, 1, 0, 1)),
    Geometry(5, 4, 2100, 3, (1, 1)),
)


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("g", WIDE, ids=lambda g: f"{g.height}x{g.width}x{g.cin}-{g.kernel}")
def test_direct_sums_are_one_chain_bit_for_bit(g, dtype):
    d = case(g, dtype)
    out, back = np.zeros(d["s"].shape, dtype), np.zeros(d["x"].shape, dtype)
    _chains(d["x"], d["w"], out, *g.stride, 1, 1, *g.dilation, g.pads[0], g.pads[2])
    turned = np.ascontiguousarray(d["w"][::-1, ::-1].swapaxes(2, 3))
    before = [(k - 1) * each - pad for k, each, pad in zip(g.kernel, g.dilation, g.pads[::2], strict=True)]
    _chains(d["s"], turned, back, 1, 1, *g.stride, *g.dilation, *before)
    for threads in (1, 2, 3):
        assert same(forward(g, d["x"], d["w"], np.zeros(g.cout, dtype), name="direct", threads=threads), out)
        assert folds(g) or same(transpose(g, d["s"], d["w"], name="direct", threads=threads), back)


@settings(deadline=None, max_examples=50)
@given(g=geometries(winograd=True), threads=st.integers(1, 2), stored=st.booleans())
def test_winograd_is_the_definition(g, threads, stored):
    d = case(g, np.float32)
    out = np.full(d["s"].shape, np.nan, np.float32)
    conv_forward(d["x"], pack(d["w"], g, algorithm="winograd", stored=stored), d["b"], False, out, threads=threads)
    back = np.full(d["x"].shape, np.nan, np.float32)
    conv_transpose(d["s"], pack(d["w"], g, True, algorithm="winograd", stored=stored), back, threads=threads)
    # A tile mixes 36 inputs: the error follows the largest sum of absolute products around, not the output's own.
    sizes = forward_loops(g, abs(d["x"]), abs(d["w"]), abs(d["b"])).max(), transpose_loops(g, abs(d["s"]), abs(d["w"])).max()
    assert_close(out, forward_loops(g, d["x"], d["w"], d["b"]), sizes[0], 60, np.float32)
    assert_close(back, transpose_loops(g, d["s"], d["w"]), sizes[1], 60, np.float32)


def folds(g):
    """Whether a transposed convolution adds up its kernel's columns at the end: few channels, several columns for an output."""
    per_phase = max(sum((j * g.dilation[1] - g.pads[2] + x) % g.stride[1] == 0 for j in range(g.kernel[1])) for x in range(g.stride[1]))
    return per_phase > 1 and per_phase * g.cin <= 16


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=30)
@given(g=geometries())
def test_groups_are_convolutions_side_by_side(g, dtype):
    d = case(g, dtype)
    out, back = forward(g, d["x"], d["w"], d["b"], relu=True, name="direct"), transpose(g, d["s"], d["w"], name="direct", a=d["a"])
    one = dataclasses.replace(g, cin=g.cin // g.groups, cout=g.cout // g.groups, groups=1)
    for i in range(g.groups):
        part = {k: np.ascontiguousarray(np.split(v, g.groups, axis=-1)[i]) for k, v in d.items()}
        assert same(np.split(out, g.groups, axis=3)[i].copy(), forward(one, part["x"], part["w"], part["b"], relu=True, name="direct"))
        if not folds(one):  # else it is added up in another order
            assert same(np.split(back, g.groups, axis=3)[i].copy(), transpose(one, part["s"], part["w"], name="direct", a=part["a"]))


@settings(deadline=None, max_examples=30)
@given(g=geometries())
def test_transpose_is_the_adjoint(g):
    d = case(g, np.float64)
    there = np.vdot(forward(g, d["x"], d["w"], np.zeros(g.cout)), d["s"])
    back = np.vdot(d["x"], transpose(g, d["s"], d["w"]))
    assert there == pytest.approx(back, rel=1e-12, abs=1e-11)


def layers():
    """Direct layers, and Winograd layers of either kind: tiles by chunks, and all tiles at once."""
    return [
        ("direct", Geometry(9, 7, 5, 37, (3, 2), (2, 1), (1, 2), (1, 0, 2, 1))),
        ("direct", Geometry(13, 37, 24, 40, (3, 3), pads=(1, 1, 1, 1), groups=4)),  # rows that pixels share
        ("depthwise", Geometry(11, 9, 20, 40, (3, 3), (2, 1), pads=(1, 1, 1, 1), groups=20)),
        ("depthwise", Geometry(11, 17, 20, 20, (3, 2), (1, 2), pads=(1, 1, 0, 1), groups=5)),
        ("depthwise", Geometry(9, 14, 24, 24, (3, 3), pads=(1, 1, 1, 1), groups=3)),
        ("winograd", Geometry(13, 10, 20, 36, pads=(1, 1, 1, 1))),
        ("winograd", Geometry(37, 41, 32, 64, pads=(1, 1, 1, 1))),
    ]


@pytest.fixture(params=layers(), ids=lambda p: f"{p[0]}-{p[1].height}-{p[1].groups}")
def layer(request):
    return request.param


def test_two_terms_are_summed(layer):
    name, g = layer
    d = case(g, np.float32)
    changes = ((1.0, 0.0), (0.25, 1.0))
    w1, w2 = (changed(d["w"], c).astype(float) for c in changes)
    expected = forward_loops(g, d["x"], w1, d["b"]) + forward_loops(g, d["x2"], w2, 0 * d["b"])
    found = forward(g, d["x"], d["w"], d["b"], name=name, x2=d["x2"], changes=changes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())
    expected = transpose_loops(g, d["s"], w1) + transpose_loops(g, d["s2"], w2)
    found = transpose(g, d["s"], d["w"], name=name, s2=d["s2"], changes=changes)
    np.testing.assert_allclose(found, expected, rtol=0, atol=3e-6 * np.abs(expected).max())


@pytest.mark.parametrize("change", [(1.0, 0.0), (0.0, 1.0), (1.25, 1.0)])
def test_a_change_is_the_changed_weights(layer, change):
    name, g = layer
    d = case(g, np.float32)
    w = changed(d["w"], change)
    assert same(forward(g, d["x"], d["w"], d["b"], name=name, changes=(change,)), forward(g, d["x"], w, d["b"], name=name))
    assert same(transpose(g, d["s"], d["w"], name=name, changes=(change,)), transpose(g, d["s"], w, name=name))


def test_a_second_output_is_a_second_convolution(layer):
    name, g = layer
    d = case(g, np.float32)
    packed = [pack(d["w"], g, algorithm=name, changes=(c,)) for c in ((1.0, 1.0), (1.0, 0.0))]
    out, out2 = np.empty_like(d["s"]), np.empty_like(d["s"])
    conv_forward(d["x"], packed[0], d["b"], True, out, packed2=packed[1], bias2=abs(d["b"]), out2=out2)
    assert same(out, forward(g, d["x"], d["w"], d["b"], relu=True, name=name))
    assert same(out2, forward(g, d["x"], d["w"], abs(d["b"]), name=name, changes=((1.0, 0.0),)))
    assert out.min() == 0 > out2.min()


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("signed", [False, True])
def test_epilogues_are_the_lines_of_the_page(layer, dtype, signed):
    name, g = layer if dtype is np.float32 or layer[0] == "depthwise" else ("direct", layer[1])
    d = case(g, dtype)
    d["z"][:, :, ::2] = 0
    d["z"][:, 0] = -0.0
    c = transpose(g, d["s"], d["w"], name=name)
    relevance = d["a"] * c
    eps = dtype(0.01)

    def stab(z):
        return z + eps * np.where(z >= 0, dtype(1), dtype(-1)) if signed else z + eps

    options = {"name": name, "eps": 0.01, "signed": signed}
    assert same(transpose(g, d["s"], d["w"], name=name, a=d["a"]), relevance)
    assert same(transpose(g, d["s"], d["w"], a=d["a"], z=d["z"], **options), relevance / stab(d["z"]))
    out2 = np.empty_like(c)
    alpha, beta = dtype(2), dtype(-1.1)
    weights = (alpha, beta)
    found = transpose(g, d["s"], d["w"], a=d["a"], z=d["z"], z2=d["z2"], out2=out2, weights=weights, **options)
    assert same(found, (alpha * relevance) / stab(d["z"]))
    assert same(out2, (beta * relevance) / stab(d["z2"]))


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize(("run", "times"), [(1, 9), (2, 3), (3, 4), (9, 2)])
def test_operands_of_fewer_images_repeat(layer, dtype, run, times):
    """Several targets of the same images, whether a group of images holds whole runs or part of one."""
    name, g = layer if dtype is np.float32 or layer[0] == "depthwise" else ("direct", layer[1])
    d = case(g, dtype, images=run * times)
    own = {key: d[key][:run] for key in ("a", "z", "z2")}
    repeated = {key: np.concatenate([each] * times) for key, each in own.items()}
    found, expected = np.full_like(d["x"], np.nan), np.full_like(d["x"], np.nan)
    options = {"name": name, "eps": 0.01, "weights": (2.0, -1.0)}
    for keys in (("a",), ("a", "z"), ("a", "z", "z2")):
        second = [{"out2": each} if "z2" in keys else {} for each in (found, expected)]
        one = transpose(g, d["s"], d["w"], threads=2, **{key: own[key] for key in keys}, **second[0], **options)
        other = transpose(g, d["s"], d["w"], **{key: repeated[key] for key in keys}, **second[1], **options)
        assert same(one, other)
    assert same(found, expected)


def same(x, y):
    return x.shape == y.shape and x.dtype == y.dtype and x.tobytes() == y.tobytes()


def test_batch_position_threads_and_storage_do_not_change_bits(layer):
    name, g = layer
    d = case(g, np.float32, images=5)
    out, back = forward(g, d["x"], d["w"], d["b"], name=name), transpose(g, d["s"], d["w"], name=name)
    for threads in (2, 3):
        assert same(out, forward(g, d["x"], d["w"], d["b"], name=name, threads=threads))
        assert same(back, transpose(g, d["s"], d["w"], name=name, threads=threads))
    for i in range(5):
        assert same(out[i : i + 1], forward(g, d["x"][i : i + 1], d["w"], d["b"], name=name))
        assert same(back[i : i + 1], transpose(g, d["s"][i : i + 1], d["w"], name=name))
    for stored in (True, False):
        again = np.empty_like(out)
        conv_forward(d["x"], pack(d["w"], g, algorithm=name, stored=stored), d["b"], False, again, workspace=Workspace())
        assert same(out, again)


def test_a_nan_passes_the_relu(layer):
    name, g = layer
    d = case(g, np.float32)
    d["x"][0, 2, 3, 0] = np.nan
    out = forward(g, d["x"], d["w"], d["b"], relu=True, name=name)
    expected = np.isnan(forward_loops(g, d["x"], d["w"], d["b"]))
    assert expected.any()
    assert np.isnan(out[expected]).all()  # a Winograd tile spreads it further
    assert not np.isnan(out[1]).any()
    if name != "winograd":
        assert same(np.isnan(out), expected)


class GuardedWorkspace(Workspace):
    """Scratch of exactly the size asked for, between canaries."""

    def __init__(self):
        super().__init__()
        self.guards = []

    def take(self, name, size):
        inside, guard = guarded((size,), np.float32)
        self.guards.append(guard)
        return inside


def guarded(shape, dtype):
    """An array of NaN with canaries before and behind it, and the whole of it."""
    size = int(np.prod(shape))
    whole = np.full(size + 256, 12345.0, dtype)
    whole[128 : 128 + size] = np.nan
    return whole[128 : 128 + size].reshape(shape), whole


def unharmed(whole):
    return np.all(whole[:128] == 12345.0) and np.all(whole[-128:] == 12345.0)


@pytest.mark.parametrize("dtype", FLOATS)
@settings(deadline=None, max_examples=30)
@given(g=geometries() | geometries(winograd=True), threads=st.integers(1, 3))
def test_nothing_is_written_outside(g, threads, dtype):
    d = case(g, dtype)
    tiled = dtype is np.float32 and g.kernel == (3, 3) and g.stride == g.dilation == (1, 1)
    name = "winograd" if tiled else "direct"
    workspace = GuardedWorkspace()
    (out, guard), (back, guard2), (back2, guard3) = (guarded(d[k].shape, dtype) for k in ("s", "x", "x"))
    conv_forward(d["x"], pack(d["w"], g, algorithm=name), d["b"], True, out, threads=threads, workspace=workspace)
    packed = pack(d["w"], g, True, algorithm=name)
    operands = {"a": d["a"], "z": d["z"], "z2": d["z2"], "out2": back2, "eps": 1.0}
    conv_transpose(d["s"], packed, back, threads=threads, workspace=workspace, **operands)
    assert bool(workspace.guards) == tiled
    assert all(map(unharmed, (guard, guard2, guard3, *workspace.guards)))
    assert not np.isnan(out).any()
    assert not np.isnan(back).any()
    assert not np.isnan(back2).any()


@pytest.mark.parametrize("kept", [(False, False), (True, False), (False, True), (True, True)])
def test_two_at_once_are_one_by_one_whoever_keeps_his_weights(kept):
    """The second convolution of the same inputs may make its weights on the fly while the first has them, and the other way round."""
    g = Geometry(13, 9, 64, 70, pads=(1, 1, 1, 1))
    d = case(g, np.float32)
    plus, b2 = ((1.0, 0.0),), 2 * d["b"]
    first, second = pack(d["w"], g, stored=kept[0]), pack(d["w"], g, changes=plus, stored=kept[1])
    assert [unstored(each) == 0 for each in (first, second)] == list(kept)
    workspace = GuardedWorkspace()
    (out, guard), (out2, guard2) = (guarded(d["s"].shape, np.float32) for _ in range(2))
    conv_forward(d["x"], first, d["b"], True, out, packed2=second, bias2=b2, out2=out2, threads=2, workspace=workspace)
    assert all(map(unharmed, (guard, guard2, *workspace.guards)))
    assert same(out, forward(g, d["x"], d["w"], d["b"], relu=True))
    alone = np.empty_like(out2)
    conv_forward(d["x"], second, b2, False, alone)
    assert same(out2, alone)


def test_how_much_is_made_anew_is_what_keeping_takes():
    g = Geometry(13, 9, 64, 70, pads=(1, 1, 1, 1))
    w = case(g, np.float32)["w"]
    for transposed, changes in ((False, ((1.0, 1.0),)), (True, ((1.0, 0.0), (0.0, 1.0)))):
        packed, kept = (pack(w, g, transposed, changes, stored=stored) for stored in (False, True))
        assert unstored(packed) == kept.weights.blocks.nbytes > 0
        assert unstored(kept) == 0
    assert unstored(pack(w, g, algorithm="direct")) == 0


def test_inputs_may_be_read_only_and_mapped(layer, tmp_path):
    name, g = layer
    d = case(g, np.float32)
    expected = forward(g, d["x"], d["w"], d["b"], name=name), transpose(g, d["s"], d["w"], name=name, a=d["a"])
    d["w"].tofile(tmp_path / "w.bin")
    w = np.memmap(tmp_path / "w.bin", np.float32, "r", shape=d["w"].shape)
    for array in d.values():
        array.flags.writeable = False
    assert same(forward(g, d["x"], w, d["b"], name=name), expected[0])
    assert same(transpose(g, d["s"], w, name=name, a=d["a"]), expected[1])


@pytest.mark.parametrize("dtype", FLOATS)
def test_no_images_and_no_pixels(dtype):
    g = Geometry(8, 8, 16, 16, pads=(1, 1, 1, 1))
    w, b = np.ones((3, 3, 16, 16), dtype), np.ones(16, dtype)
    assert forward(g, np.empty((0, 8, 8, 16), dtype), w, b).shape == (0, 8, 8, 16)
    assert transpose(g, np.empty((0, 8, 8, 16), dtype), w).shape == (0, 8, 8, 16)
    too_small = Geometry(2, 2, 16, 16)
    assert too_small.out_height == 0
    assert forward(too_small, np.ones((1, 2, 2, 16), dtype), w, b).size == 0
    assert not transpose(too_small, np.empty((1, 0, 0, 16), dtype), w).any()


def test_the_algorithm_is_a_function_of_shape_and_dtype():
    vgg = Geometry(224, 224, 64, 64, pads=(1, 1, 1, 1))
    assert algorithm(vgg, np.float32) == "winograd"
    assert algorithm(vgg, np.float64) == "direct"
    for g in (Geometry(224, 224, 3, 64), Geometry(9, 9, 64, 64, stride=(2, 2)), Geometry(9, 9, 64, 64, (5, 5)), Geometry(3, 3, 64, 64)):
        assert algorithm(g, np.float32) == "direct"
    grouped = dataclasses.replace(vgg, groups=2)
    assert algorithm(grouped, np.float32) == "direct"
    packed = pack(np.ones((3, 3, 64, 64), np.float32), vgg, algorithm="direct")
    assert isinstance(packed, Packed)
    assert packed.algorithm == "direct"
