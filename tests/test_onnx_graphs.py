"""ONNX graphs that aren't chains: every operator computes what onnxruntime computes, and becomes the layers that it means."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import nplrp
from nplrp.errors import ModelError, WeightsError
from nplrp.files.arithmetic import ACTIVATIONS, POINTS

pytest.importorskip("tests.onnx_files", reason="needs the extras tools and test")
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from tests.onnx_files import agrees, by_runtime, graph_file, node, numbers, output
from weights_tools.from_onnx import from_onnx
from weights_tools.onnx_operators import HANDLERS
from weights_tools.write_hdf5 import write

IMAGE = [1, 4, 6, 5]  # what most graphs here read: (N, C, H, W)
VALUES = {
    "w": numbers(4, 4, 3, 3, seed=1) / 6,
    "w6": numbers(6, 4, 1, 1, seed=2) / 2,
    "channel": numbers(1, 4, 1, 1, seed=3),
    "flat": numbers(4, 1, 1, seed=4),
    "k": numbers(120, 3, seed=5) / 11,
    "half": np.float32(0.5),
    "zero": np.array([0]),
    "one": np.array([1]),
    "two": np.array([2]),
    "three": np.array([3]),
    "minus": np.array([-1]),
    "rows": np.array([2, 3]),
}


def kinds(model):
    return [layer.kind for layer in model]


def check(tmp_path, nodes, constants=(), sizes=IMAGE, opset=17, **options):
    """Hold a graph's output to onnxruntime's, in the graph's own order, and what is written to what was read."""
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in (VALUES | dict(constants)).items() if name in used}
    path = graph_file(tmp_path / "net.onnx", nodes, constants, sizes, opset=opset)
    model = agrees(path, numbers(*sizes, seed=9), **options)
    write(model, tmp_path / "out.h5", path, "from-onnx", force=True)
    found = nplrp.load(tmp_path / "out.h5")
    assert found.content_hash == model.content_hash
    return model


# Joins

SECOND = node("Conv", "x w", "b", pads=[1, 1, 1, 1])


@pytest.mark.parametrize(
    ("operator", "kind"),
    [("Add", "add"), ("Sub", "subtract"), ("Mul", "multiply"), ("Max", "maximum"), ("Min", "minimum"), ("Mean", "average"), ("Sum", "add")],
)
@pytest.mark.parametrize("wide", [False, True])
def test_joins_of_two_tensors(tmp_path, operator, kind, wide):
    """The second is computed from the first; or it is one number for each channel."""
    second = node("GlobalAveragePool", "x", "b") if wide else SECOND
    model = check(tmp_path, [second, node(operator, "x b" if operator != "Sub" else "b x")])
    assert kinds(model) == ["global_avgpool" if wide else "conv", kind]


@pytest.mark.parametrize("operator", ["Max", "Min", "Mean", "Sum"])
def test_joins_of_three(tmp_path, operator):
    model = check(tmp_path, [SECOND, node("Relu", "b", "c"), node(operator, "x b c")])
    assert len(model.layers[-1].inputs) == 3


@pytest.mark.parametrize("axis", [1, 2, 3, -3])
def test_concatenation_along_any_axis(tmp_path, axis):
    model = check(tmp_path, [SECOND, node("Concat", "x b", axis=axis)])
    assert model.layers[-1].options == {"axis": {1: 2, 2: 0, 3: 1, -3: 2}[axis]}


def test_residual_block_keeps_its_batch_norm_and_fuses_only_what_one_layer_reads(tmp_path):
    nodes = [
        node("Conv", "x w", "a", "/layer1/layer1.0/conv1/Conv", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b", "/layer1/layer1.0/relu/Relu"),
        node("Conv", "b w", "c", "/layer1/layer1.0/conv2/Conv", pads=[1, 1, 1, 1]),
        node("Add", "c a", "d", "/layer1/layer1.0/Add"),
        node("Relu", "d", "y", "/layer1/layer1.0/relu_1/Relu"),
    ]
    model = check(tmp_path, nodes)
    assert [(layer.name, layer.activation, layer.inputs) for layer in model] == [
        ("layer1.0.conv1", "linear", ()),
        ("layer1.0.relu", "relu", ()),
        ("layer1.0.conv2", "linear", ()),
        ("layer1.0", "linear", ("layer1.0.conv2", "layer1.0.conv1")),
        ("layer1.0.relu_1", "relu", ()),
    ]


def test_what_nobody_reads_is_left_out_and_any_order_is_read(tmp_path):
    nodes = [node("Relu", "a"), node("Erf", "a", "lost"), node("LSTM", "lost w w", "gone"), node("Conv", "x w", "a")]
    path = graph_file(tmp_path / "net.onnx", nodes, {"w": VALUES["w"]}, IMAGE)
    assert [(layer.kind, layer.activation) for layer in from_onnx(path)] == [("conv", "relu")]


# Convolutions and pools


@pytest.mark.parametrize(
    ("group", "shape", "kind"), [(2, (6, 2, 3, 3), "conv"), (4, (4, 1, 3, 3), "depthwise"), (4, (8, 1, 3, 2), "depthwise")]
)
def test_grouped_and_depthwise_convolutions(tmp_path, group, shape, kind):
    nodes = [node("Conv", "x g bias", group=group, strides=[2, 1], pads=[1, 0, 1, 0])]
    model = check(tmp_path, nodes, {"g": numbers(*shape), "bias": numbers(shape[0], seed=3)})
    assert model.layers[-1].kind == kind


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"strides": [2, 2]},
        {"strides": [2, 2], "pads": [1, 0, 1, 0]},
        {"strides": [2, 3], "output_padding": [1, 2], "pads": [1, 1, 0, 1]},
        {"strides": [2, 2], "auto_pad": "SAME_UPPER"},
        {"dilations": [2, 1]},
        {"strides": [2, 2], "output_shape": [12, 10]},
    ],
)
def test_transposed_convolutions(tmp_path, options):
    model = check(tmp_path, [node("ConvTranspose", "x t bias", **options)], {"t": numbers(4, 5, 3, 3) / 6, "bias": numbers(5, seed=3)})
    assert kinds(model) == ["conv_transpose"]


@pytest.mark.parametrize("groups", [2, 4])
def test_transposed_convolutions_in_groups(tmp_path, groups):
    arrays = {"t": numbers(4, 3, 3, 2) / 6, "bias": numbers(3 * groups, seed=3)}
    nodes = [node("ConvTranspose", "x t bias", group=groups, strides=[2, 1], pads=[1, 0, 0, 1], output_padding=[1, 0])]
    assert kinds(check(tmp_path, nodes, arrays)).count("conv_transpose") == groups
    path = graph_file(tmp_path / "odd.onnx", [node("ConvTranspose", "x t", group=3)], {"t": arrays["t"]}, IMAGE)
    with pytest.raises(WeightsError, match="group=3 of 4 channels isn't supported, at most 64 that they fall into"):
        from_onnx(path)


SIDE = st.integers(1, 3)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    kind=st.sampled_from(["MaxPool", "AveragePool"]),
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(SIDE, SIDE),
    stride=st.tuples(SIDE, SIDE),
    pads=st.tuples(*[st.integers(0, 2)] * 4),
    ceil=st.booleans(),
    counted=st.booleans(),
)
@example("MaxPool", (112, 112), (3, 3), (2, 2), (1, 1, 1, 1), False, False)  # ResNet's
@example("MaxPool", (9, 9), (3, 3), (2, 2), (0, 0, 0, 0), True, False)  # SqueezeNet's
@example("MaxPool", (9, 8), (3, 3), (2, 2), (0, 0, 0, 0), True, False)
@example("MaxPool", (9, 9), (2, 2), (2, 2), (1, 1, 1, 1), True, False)  # a window may not begin behind the image
@example("AveragePool", (9, 9), (3, 3), (1, 1), (1, 1, 1, 1), False, True)  # Inception's
def test_pools_of_any_geometry(tmp_path, kind, size, kernel, stride, pads, ceil, counted):
    assume(all(pads[i] < k and pads[i + 2] < k for i, k in enumerate(kernel)))
    assume(all(n + pads[i] + pads[i + 2] >= kernel[i] for i, n in enumerate(size)))
    options = {"kernel_shape": kernel, "strides": stride, "pads": pads, "ceil_mode": int(ceil)}
    if kind == "AveragePool":
        assume(not (ceil and counted))  # onnxruntime and torch count differently there
        options["count_include_pad"] = int(counted)
    path = graph_file(tmp_path / "net.onnx", [node("Neg", "x", "a"), node(kind, "a", **options)], {}, [1, 2, *size], opset=19)
    agrees(path, np.abs(numbers(1, 2, *size)) + 1)  # below 0: a zero of the padding would win


def test_average_pool_over_the_border_counts_the_padding_only(tmp_path):
    """torch: sum / (window cut at the padding), worked by hand: ones 5 wide, padded by one, windows of 3 at stride 2 with ceil_mode."""
    options = {"kernel_shape": [1, 3], "strides": [1, 2], "pads": [0, 1, 0, 1], "ceil_mode": 1, "count_include_pad": 1}
    path = graph_file(tmp_path / "net.onnx", [node("AveragePool", "x", **options)], {}, [1, 1, 1, 6], opset=19)
    found = output(from_onnx(path), np.ones((1, 1, 6, 1)))
    np.testing.assert_allclose(found.ravel(), [2 / 3, 1, 1, 1 / 2])


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("axes", "kind"), [([2, 3], "global_avgpool"), ([-1, -2], "global_avgpool"), ([3], "avgpool"), ([1], "avgpool")])
def test_means_over_axes(tmp_path, axes, kind, keepdims):
    nodes = [node("ReduceMean", "x", "a", axes=axes, keepdims=keepdims), node("Flatten", "a", "f"), node("MatMul", "f m")]
    rest = int(np.prod([side for axis, side in enumerate(IMAGE) if axis not in (axes if axes[0] > 0 else (2, 3))]))
    model = check(tmp_path, nodes, {"m": numbers(rest, 3)})
    assert kind in kinds(model)


@pytest.mark.parametrize("keepdims", [0, 1])
@pytest.mark.parametrize(("axes", "places"), [([2, 3], 30), ([-1], 5), ([1], 4), ([1, 2], 24)])
def test_sums_over_axes_are_as_many_times_the_mean(tmp_path, axes, places, keepdims):
    over = {"axes": np.array(axes)}
    model = compare(tmp_path, [node("ReduceSum", "x axes", keepdims=keepdims)], over)
    (scale,) = (layer for layer in model if layer.kind in ("affine", "batchnorm"))
    assert set(scale.arrays["gamma" if scale.kind == "batchnorm" else "scale"].tolist()) == {places}


# Shapes


def test_flatten_keeps_its_order_whoever_reads_it(tmp_path):
    """A dense layer's rows are permuted; where a vector is joined, cut or given out, its numbers are brought to the graph's order."""
    dense = check(tmp_path, [node("Relu", "x", "a"), node("Flatten", "a", "f"), node("Tanh", "f", "t"), node("MatMul", "t k")])
    assert kinds(dense) == ["activation", "flatten", "activation", "dense"]
    assert "permute" in kinds(check(tmp_path, [node("Relu", "x", "a"), node("Flatten", "a")]))
    moved = [node("Flatten", "x", "f"), node("Relu", "f", "g"), node("Concat", "g f", "c", axis=1), node("Slice", "c two minus one")]
    check(tmp_path, moved)
    both = [node("Flatten", "x", "f"), SECOND, node("Flatten", "b", "g"), node("Add", "f g", "h"), node("MatMul", "h k")]
    assert "permute" not in kinds(check(tmp_path, both))


@pytest.mark.parametrize(
    "nodes",
    [
        # ShuffleNet's channel shuffle
        [node("Reshape", "x five", "a"), node("Transpose", "a", "b", perm=[0, 2, 1, 3, 4]), node("Reshape", "b four")],
        [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Relu", "a")],
        [node("Transpose", "x", "a", perm=[0, 2, 3, 1]), node("MatMul", "a m")],
        [node("Unsqueeze", "x one", "a"), node("Relu", "a", "b"), node("Squeeze", "b one")],
        [node("Slice", "x one three two")],
        [node("Slice", "x one three one")],
        [node("Gather", "x zero", "a", axis=1), node("Relu", "a")],
        [node("Gather", "x flip", axis=1)],
        [node("Split", "x", "a y", axis=1)],
        [node("Split", "x sizes", "a y b", axis=3)],
        [node("Slice", "x back before one step")],
        [node("Slice", "x zero six three two", "a"), node("Relu", "a")],
        [node("DepthToSpace", "x", blocksize=2)],
        [node("DepthToSpace", "x", "a", blocksize=2, mode="CRD"), node("Relu", "a", "b"), node("SpaceToDepth", "b", blocksize=2)],
        [node("Transpose", "x", "a", perm=[0, 1, 3, 2]), node("DepthToSpace", "a", blocksize=2)],
        [node("Tile", "x twice", "a"), node("Relu", "a")],
        [node("GlobalAveragePool", "x", "a"), node("Expand", "a whole", "b"), node("Mul", "x b")],
        [node("ReduceMean", "x", "a", axes=[1], keepdims=1), node("Expand", "a whole", "b"), node("Mul", "b x")],
        [node("Unsqueeze", "x three", "a"), node("Expand", "a again", "b"), node("Reshape", "b wide")],
        [node("Unsqueeze", "x three", "a"), node("Tile", "a more", "b"), node("Reshape", "b wide")],
        [node("Pad", "x pads")],
        [node("Pad", "x chpads")],
        [node("Pad", "x pads", mode="reflect")],
        [node("Pad", "x allpads", "a", mode="edge"), node("Relu", "a")],
        [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Pad", "a chpads", mode="edge")],
        [node("GlobalAveragePool", "x", "a"), node("Squeeze", "a rows", "b"), node("Unsqueeze", "b rows", "c"), node("Mul", "x c")],
        [node("Expand", "x ones", "a"), node("Relu", "a")],
        [node("Identity", "x", "a"), node("Dropout", "a", "b"), node("Cast", "b", "c", to=1), node("Relu", "c")],
        [node("Concat", "x x", "a", axis=2), node("Gemm", "g k"), node("Flatten", "b", "g"), node("Slice", "a zero three two", "s"),
         node("Slice", "a three six two", "t"), node("Concat", "s t", "b", axis=2)],
    ],
)  # fmt: skip
def test_moves(tmp_path, nodes):
    constants = {
        "five": np.array([0, 2, 2, 6, 5]),
        "four": np.array([0, 4, 6, 5]),
        "six": np.array([6]),
        "m": numbers(4, 3),
        "flip": np.array([2, 1, 0]),
        "sizes": np.array([1, 3, 1]),
        "pads": np.array([0, 0, 1, 2, 0, 0, 0, 3]),
        "chpads": np.array([0, 2, 0, 0, 0, 1, 0, 0]),
        "allpads": np.array([0, 1, 2, 0, 0, 2, 0, 7]),
        "ones": np.array([1, 1, 1, 1]),
        "back": np.array([-1]),
        "before": np.array([-9223372036854775807]),
        "step": np.array([-1]),
        "twice": np.array([1, 1, 2, 3]),
        "whole": np.array([1, 4, 6, 5]),
        "again": np.array([1, 1, 1, 2, 1]),
        "more": np.array([1, 1, 1, 2, 1]),
        "wide": np.array([1, 4, 12, 5]),
    }
    compare(tmp_path, nodes, constants)


def test_padding_that_goes_around(tmp_path):
    compare(tmp_path, [node("Pad", "x pads", mode="wrap")], {"pads": np.array([0, 0, 1, 2, 0, 0, 3, 0])}, opset=19)
    pads = {"pads": np.array([0, 0, 6, 0, 0, 0, 0, 0])}
    with pytest.raises(WeightsError, match="pads 6 places by 6 and 0, at most 5 can be copied"):
        from_onnx(graph_file(tmp_path / "far.onnx", [node("Pad", "x pads", mode="reflect")], pads, IMAGE))


def compare(tmp_path, nodes, constants=(), sizes=IMAGE, opset=17):
    """Hold a graph's output to onnxruntime's by its sorted numbers' places: in the graph's order, wherever our axes lie."""
    used = {name for each in nodes for name in each.input}
    constants = {name: value for name, value in (VALUES | dict(constants)).items() if name in used}
    path = graph_file(
        tmp_path / "net.onnx", [*nodes[:-1], nodes[-1], node("Flatten", "y", "z")], constants, sizes, outputs=("z",), opset=opset
    )
    model = from_onnx(path)
    x = numbers(*sizes, seed=9)
    expected = by_runtime(path, x)
    given = x if x.ndim == 2 else x.transpose(0, 2, 3, 1) if x.ndim == 4 else x
    found = output(model, given if x.ndim != 3 or model.input_shape == x.shape[1:] else x.transpose(0, 2, 1))
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=2e-5, atol=2e-5 * np.abs(expected).max())
    return model


def test_sequences_are_images_of_height_1(tmp_path):
    nodes = [
        node("Conv", "x s", "a", pads=[1, 1]),
        node("BatchNormalization", "a g h m v", "b"),
        node("MaxPool", "b", "c", kernel_shape=[2], strides=[2]),
        node("Conv", "c d", "e", group=5, dilations=[2]),
        node("GlobalAveragePool", "e", "p"),
        node("Flatten", "p", "f"),
        node("Gemm", "f o", transB=1),
    ]
    constants = {"s": numbers(5, 3, 3), "d": numbers(5, 1, 2), "o": numbers(4, 5)}
    constants |= {name: np.abs(numbers(5, seed=i)) + 0.5 for i, name in enumerate("ghmv")}
    model = compare(tmp_path, nodes, constants, [1, 3, 12])
    assert model.input_shape == (12, 3)


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ({"mode": "nearest", "coordinate_transformation_mode": "asymmetric", "nearest_mode": "floor"}, "upsample"),
        ({"mode": "nearest"}, "upsample"),
        ({"mode": "linear"}, "resize"),
        ({"mode": "linear", "coordinate_transformation_mode": "pytorch_half_pixel"}, "resize"),
        ({"mode": "linear", "coordinate_transformation_mode": "align_corners"}, "resize"),
    ],
)
def test_images_are_enlarged(tmp_path, options, kind):
    nodes = [node("Resize", "x - scales", **options)]
    model = check(tmp_path, nodes, {"scales": np.array([1, 1, 3, 2], "f4")})
    assert kinds(model) == [kind]


def test_images_are_resized_to_sizes(tmp_path):
    to = {"to": np.array([1, 4, 4, 9]), "down": np.array([1, 1, 0.5, 0.8], "f4"), "twice": np.array([1, 1, 2, 2], "f4")}
    assert kinds(check(tmp_path, [node("Resize", "x - - to", mode="linear")], to)) == ["resize"]
    assert kinds(check(tmp_path, [node("Resize", "x - down", mode="linear")], to)) == ["resize"]
    corners = {"mode": "linear", "coordinate_transformation_mode": "align_corners"}
    assert kinds(check(tmp_path, [node("Resize", "x - - to", **corners)], to)) == ["resize"]
    to["to"] = np.array([1, 4, 1, 3])
    assert kinds(check(tmp_path, [node("Resize", "x - - to", **corners)], to)) == ["resize"]
    assert kinds(check(tmp_path, [node("Upsample", "x twice", mode="nearest")], to, opset=9)) == ["upsample"]


# Norms and arithmetic


def test_norms(tmp_path):
    arrays = {name: numbers(4, seed=i) for i, name in enumerate(("g", "h"), 1)}
    assert kinds(check(tmp_path, [node("InstanceNormalization", "x g h", epsilon=1e-3)], arrays)) == ["groupnorm"]
    per_group = {"g": numbers(2, seed=1), "h": numbers(2, seed=2), "g4": numbers(4, seed=1), "h4": numbers(4, seed=2)}
    assert kinds(check(tmp_path, [node("GroupNormalization", "x g4 h4", num_groups=2)], per_group, opset=21)) == ["groupnorm"]
    nodes = [
        node("Transpose", "x", "a", perm=[0, 2, 3, 1]),
        node("LayerNormalization", "a g h", "b"),
        node("Transpose", "b", perm=[0, 3, 1, 2]),
    ]
    assert kinds(check(tmp_path, nodes, arrays)) == ["layernorm"]
    whole = {"g": numbers(4, 6, 5, seed=1), "h": numbers(4, 6, 5, seed=2)}
    assert kinds(check(tmp_path, [node("LayerNormalization", "x g h", axis=1)], whole)) == ["layernorm"]
    rows = {"g": numbers(5, seed=1)}
    assert "permute" in kinds(compare(tmp_path, [node("LayerNormalization", "x g", axis=-1)], rows))


def test_group_norm_as_pytorch_writes_it(tmp_path):
    nodes = [
        node("Shape", "x", "s"),
        node("Reshape", "x groups", "a"),
        node("InstanceNormalization", "a unit nothing", "b"),
        node("Reshape", "b s", "c"),
        node("Mul", "c flat", "d"),
        node("Add", "d flat"),
    ]
    compare(tmp_path, nodes, {"groups": np.array([0, 2, -1]), "unit": np.ones(2, "f4"), "nothing": np.zeros(2, "f4")})


@pytest.mark.parametrize(
    ("nodes", "arrays"),
    [
        ([node("Div", "x flat")], ["gamma"]),
        ([node("Sub", "channel x")], ["beta", "gamma"]),
        ([node("Sub", "x half")], ["beta"]),
        ([node("Mul", "half x", "a"), node("Add", "flat a")], ["beta", "gamma"]),
        ([node("Neg", "x")], ["gamma"]),
    ],
)
def test_arithmetic_with_constants_is_a_scale(tmp_path, nodes, arrays):
    prepares = check(tmp_path, nodes)
    assert kinds(prepares) == ["affine"] and sorted(prepares.layers[0].arrays) == [{"gamma": "scale", "beta": "offset"}[a] for a in arrays]
    behind = [node("Erf", "x", "e"), *nodes]
    for each in behind[1:]:
        each.input[:] = ["e" if name == "x" else name for name in each.input]
    model = check(tmp_path, behind)
    assert kinds(model) == ["activation", "batchnorm"] and sorted(model.layers[1].arrays) == sorted([*arrays, "mean", "variance"])


def test_a_graph_that_begins_with_the_pictures_arithmetic_tells_it(tmp_path):
    """As torch writes (x / 255 - mean) / std: what prepares the picture, and no layer that rules for the first one would take for it."""
    constants = {"full": np.float32(255), "m": np.full((1, 4, 1, 1), 0.45, "f4"), "d": np.full((1, 4, 1, 1), 0.22, "f4"), "w": VALUES["w"]}
    nodes = [node("Div", "x full", "a"), node("Sub", "a m", "b"), node("Div", "b d", "c"), node("Conv", "c w", pads=[1, 1, 1, 1])]
    path = graph_file(tmp_path / "net.onnx", nodes, constants, IMAGE)
    write(from_onnx(path), tmp_path / "out.h5", path, "from-onnx")
    model = nplrp.load(tmp_path / "out.h5")
    assert model.preprocessing.mode == "none" and kinds(model)[-1] == "conv" and set(kinds(model)[:-1]) == {"affine"}
    e = nplrp.explain(model, np.abs(numbers(1, 6, 5, 4)) * 99, "flat", dtype="float64", start="all")
    plain = nplrp.model.chain((6, 5, 4), [dataclasses.replace(model.layers[-1], inputs=())], "conv")
    rest = nplrp.explain(plain, e.activations[model.layers[-2].name], "flat", dtype="float64", start=e.logits)
    np.testing.assert_allclose(e.relevance, rest.relevance, rtol=1e-9)


@pytest.mark.parametrize(
    ("mean", "mode"), [((103.939, 116.779, 123.68, 110.0), "none"), ((0.4, 0.45, 0.5, 0.4), "unit"), ((0.0, 0.0, 0.0, 0.0), "unknown")]
)
@pytest.mark.parametrize("first", [True, False])
def test_arithmetic_around_exchanged_channels_tells_it(first, mean, mode, tmp_path):
    """As Keras's `preprocess_input` of ResNet50 and VGG16 does it, called inside of a model."""
    scale = np.float32(0.2 if mode == "unit" else 1)
    constants = {"m": np.reshape(mean, (1, 4, 1, 1)).astype("f4"), "d": scale, "w": VALUES["w"], "back": np.array([3, 2, 1, 0])}
    turn = node("Gather", "x back" if first else "b back", "e" if first else "c", axis=1)
    nodes = [
        node("Sub", "e m" if first else "x m", "a"),
        node("Div", "a d", "b"),
        node("Conv", "b w" if first else "c w", pads=[1, 1, 1, 1]),
    ]
    nodes.insert(0 if first else 2, turn)
    path = graph_file(tmp_path / "net.onnx", nodes, constants, IMAGE)
    write(from_onnx(path), tmp_path / "out.h5", path, "from-onnx")
    assert nplrp.load(tmp_path / "out.h5").preprocessing.mode == mode


def test_constants_along_other_axes_find_theirs(tmp_path):
    assert kinds(compare(tmp_path, [node("Mul", "x rowwise")], {"rowwise": numbers(6, 1)})).count("permute") == 2


def test_bias_is_fused_only_where_nobody_else_reads_the_convolution(tmp_path):
    alone = check(tmp_path, [node("Conv", "x w", "a"), node("Add", "a flat")])
    assert kinds(alone) == ["conv"] and "bias" in alone.layers[0].arrays
    shared = check(tmp_path, [node("Conv", "x w", "a"), node("Add", "a flat", "b"), node("Mul", "a b")])
    assert kinds(shared) == ["conv", "batchnorm", "multiply"]


def test_gemm_with_factors(tmp_path):
    nodes = [node("Gemm", "x m c", alpha=0.5, beta=2.0)]
    check(tmp_path, nodes, {"m": numbers(4, 3), "c": numbers(3, seed=2)}, [2, 4])


# Activations


@pytest.mark.parametrize(
    ("nodes", "activation"),
    [
        ([node("LeakyRelu", "x", alpha=0.1)], "leaky_relu(negative_slope=0.1)"),
        ([node("Elu", "x")], "elu"),
        ([node("Elu", "x", alpha=0.5)], "elu(alpha=0.5)"),
        ([node("Celu", "x", alpha=2.0)], "celu(alpha=2.0)"),
        ([node("Selu", "x")], "selu"),
        ([node("Sigmoid", "x")], "sigmoid"),
        ([node("Tanh", "x")], "tanh"),
        ([node("Softplus", "x")], "softplus"),
        ([node("Softsign", "x")], "softsign"),
        ([node("HardSwish", "x")], "hard_silu"),
        ([node("HardSigmoid", "x")], "hard_sigmoid_2"),
        ([node("HardSigmoid", "x", alpha=1 / 6)], "hard_sigmoid"),
        ([node("HardSigmoid", "x", alpha=0.3, beta=0.4)], "clipped_line(slope=0.3, offset=0.4)"),
        ([node("Selu", "x", alpha=1.5, gamma=0.75)], "selu(alpha=1.5, scale=0.75)"),
        ([node("ThresholdedRelu", "x", alpha=0.5)], "relu(threshold=0.5)"),
        ([node("Erf", "x")], "erf"),
        ([node("Exp", "x")], "exponential"),
        ([node("Shrink", "x", lambd=0.5, bias=0.5)], "soft_shrink"),
        ([node("Shrink", "x", lambd=0.25)], "hard_shrink(threshold=0.25)"),
        ([node("Clip", "x zero_ six")], "relu(max_value=6.0)"),
        ([node("Clip", "x zero_")], "relu"),
        ([node("Clip", "x - half")], "hard_tanh(low=-inf, high=0.5)"),
        ([node("Clip", "x minus_ half")], "hard_tanh(high=0.5)"),
        ([node("Max", "x zero_")], "relu"),
        ([node("Min", "x half")], "hard_tanh(low=-inf, high=0.5)"),
        # in pieces
        ([node("Sigmoid", "x", "a"), node("Mul", "x a")], "silu"),
        ([node("HardSigmoid", "x", "a", alpha=1 / 6), node("Mul", "a x")], "hard_silu"),
        ([node("Add", "x three_", "a"), node("Clip", "a zero_ six", "b"), node("Mul", "x b", "c"), node("Div", "c six")], "hard_silu"),
        ([node("Add", "three_ x", "a"), node("Clip", "a zero_ six", "b"), node("Div", "b six")], "hard_sigmoid"),
        ([node("Softplus", "x", "a"), node("Tanh", "a", "b"), node("Mul", "b x")], "mish"),
        ([node("Exp", "x", "a"), node("Add", "a one_", "b"), node("Log", "b", "c"), node("Tanh", "c", "d"), node("Mul", "x d")], "mish"),
        ([node("Div", "x root2", "a"), node("Erf", "a", "b"), node("Add", "b one_", "c"), node("Mul", "x c", "d"), node("Mul", "d half")],
         "gelu"),
        ([node("Mul", "x half", "h"), node("Mul", "x inv2", "a"), node("Erf", "a", "b"), node("Add", "one_ b", "c"), node("Mul", "h c")],
         "gelu"),
        ([node("Pow", "x three_", "p"), node("Mul", "p c44", "q"), node("Add", "x q", "r"), node("Mul", "r c79", "s"),
          node("Tanh", "s", "t"), node("Add", "t one_", "u"), node("Mul", "x u", "v"), node("Mul", "v half")], "gelu_tanh"),
        ([node("Neg", "x", "a"), node("Exp", "a", "b"), node("Add", "b one_", "c"), node("Reciprocal", "c")], "sigmoid"),
    ],
)  # fmt: skip
def test_activations_whole_and_in_pieces(tmp_path, nodes, activation):
    scalars = {"zero_": 0, "six": 6, "minus_": -1, "three_": 3, "one_": 1, "root2": 2**0.5, "inv2": 0.5**0.5}
    scalars |= {"c44": 0.044715, "c79": (2 / np.pi) ** 0.5}
    model = check(tmp_path, nodes, {name: np.float32(value) for name, value in scalars.items()})
    assert [(layer.kind, layer.activation) for layer in model] == [("activation", activation)]


@pytest.mark.parametrize(
    ("operator", "opset", "options", "activation"),
    [
        ("Gelu", 20, {}, "gelu"),
        ("Gelu", 20, {"approximate": "tanh"}, "gelu_tanh"),
        ("Mish", 18, {}, "mish"),
        ("HardSwish", 14, {}, "hard_silu"),
        ("Swish", 24, {}, "silu"),
    ],
)
def test_activations_of_newer_versions(tmp_path, operator, opset, options, activation):
    path = graph_file(tmp_path / "net.onnx", [node(operator, "x", **options)], {}, IMAGE, opset=opset)
    x = numbers(*IMAGE)
    (found,) = ReferenceEvaluator(str(path)).run(None, {"x": x})
    model = from_onnx(path)
    assert model.layers[0].activation == activation
    np.testing.assert_allclose(output(model, x.transpose(0, 2, 3, 1)), found.transpose(0, 2, 3, 1), rtol=1e-5, atol=1e-6)


def test_an_activation_in_pieces_behind_another_reads_that(tmp_path):
    nodes = [node("Conv", "x w", "a"), node("Relu", "a", "b"), node("Sigmoid", "b", "c"), node("Mul", "b c")]
    model = check(tmp_path, nodes)
    assert [(layer.kind, layer.activation) for layer in model] == [("conv", "relu"), ("activation", "silu")]


def test_gates_and_other_products_stay_products(tmp_path):
    gate = check(tmp_path, [SECOND, node("Sigmoid", "b", "c"), node("Mul", "x c")])
    assert kinds(gate) == ["conv", "activation", "multiply"]
    quick = check(tmp_path, [node("Mul", "x half", "a"), node("Sigmoid", "a", "b"), node("Mul", "x b")])
    assert kinds(quick) == ["affine", "activation", "multiply"]


def test_the_table_of_activations_holds_the_engines_functions():
    from nplrp.layers import bend

    x = np.array(POINTS)
    for name, function in ACTIVATIONS.items():
        np.testing.assert_allclose(function(x), bend(name, x[None].copy())[0], rtol=1e-12, atol=1e-12, err_msg=name)


@pytest.mark.parametrize(("operator", "activation"), [("Softmax", "softmax"), ("LogSoftmax", "log_softmax")])
def test_softmax_at_the_end(tmp_path, operator, activation):
    nodes = [node("Flatten", "x", "f"), node("MatMul", "f k", "a"), node(operator, "a")]
    assert check(tmp_path, nodes).layers[-1].activation == activation


@pytest.mark.parametrize("shape", [(4, 1, 1), (1,), (4, 6, 5)])
def test_slopes_of_prelu(tmp_path, shape):
    assert kinds(check(tmp_path, [node("PRelu", "x alpha")], {"alpha": numbers(*shape)})) == ["prelu"]


# Names and the rest


def test_names_from_the_newer_exporter(tmp_path):
    conv = node("Conv", "x w", name="node_conv2d_3")
    entry = conv.metadata_props.add()
    entry.key, entry.value = "pkg.torch.onnx.name_scopes", "['', 'layer1', 'layer1.0', 'layer1.0.conv1', 'conv2d_3']"
    path = graph_file(tmp_path / "net.onnx", [conv], {"w": VALUES["w"]}, IMAGE)
    assert [layer.name for layer in from_onnx(path)] == ["layer1.0.conv1"]


def test_local_functions_are_unfolded(tmp_path):
    body = [helper.make_node("Sigmoid", ["v"], ["s"]), helper.make_node("Mul", ["v", "s"], ["out"])]
    function = helper.make_function("own", "swish", ["v"], ["out"], body, [helper.make_opsetid("", 17)])
    inside = [node("Conv", "x w", "a"), node("swish", "a", domain="own")]
    info = [helper.make_tensor_value_info("x", TensorProto.FLOAT, IMAGE)], [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)]
    graph = helper.make_graph(inside, "graph", *info, [numpy_helper.from_array(VALUES["w"], "w")])
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("own", 1)]
    model = helper.make_model(graph, opset_imports=opsets, functions=[function], ir_version=8)
    (tmp_path / "net.onnx").write_bytes(model.SerializeToString())
    assert [(layer.kind, layer.activation) for layer in from_onnx(tmp_path / "net.onnx")] == [("conv", "linear"), ("activation", "silu")]


def test_softmax_inside_is_refused_when_it_is_explained(tmp_path):
    nodes = [node("Conv", "x w6", "a"), node("Softmax", "a", "b", axis=1), node("Conv", "b w9")]
    path = graph_file(tmp_path / "net.onnx", nodes, {"w6": VALUES["w6"], "w9": numbers(2, 6, 1, 1)}, IMAGE)
    with pytest.raises(ModelError, match="a softmax may only be the last thing that the model does"):
        nplrp.explain(from_onnx(path), numbers(1, 6, 5, 4), "epsilon", 0)


def test_a_graph_is_explained(tmp_path):
    """LRP-0 on a residual block without biases: relevance of the input adds up to that of the logit."""
    nodes = [SECOND, node("Relu", "b", "c"), node("Conv", "c w", "d", pads=[1, 1, 1, 1]), node("Add", "d x", "e")]
    nodes += [
        node("MaxPool", "e", "p", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        node("Flatten", "p", "f"),
        node("MatMul", "f k"),
    ]
    constants = {"w": VALUES["w"], "k": numbers(36, 3)}
    model = from_onnx(graph_file(tmp_path / "net.onnx", nodes, constants, IMAGE))
    x = numbers(1, 6, 5, 4, seed=9)
    found = nplrp.explain(model, x, "zero", dtype="float64", start=np.array([[1.0, 0.0, 0.0]]))
    np.testing.assert_allclose(found.relevance.sum(), 1.0, rtol=1e-6)  # the Add's epsilon is 1e-7
    assert dataclasses.asdict(model["max_pooling2d"].window)["padding"] == (1, 1, 1, 1)


def test_every_operator_is_met_here():
    here = Path(__file__)
    text = here.read_text() + here.with_name("test_weights_tools.py").read_text()
    assert [name for name in HANDLERS if f'"{name}"' not in text] == []


@pytest.mark.parametrize("opset", [11, 17])
def test_scores_of_every_pixel(tmp_path, opset):
    """Before opset 13 a softmax was over all axes from one on: torch turned the tensor so that the channels are the last."""
    if opset == 11:
        turned = [
            node("Transpose", "b", "t", perm=[0, 2, 3, 1]),
            node("Softmax", "t", "s", axis=3),
            node("Transpose", "s", perm=[0, 3, 1, 2]),
        ]
    else:
        turned = [node("Softmax", "b", axis=1)]
    model = check(tmp_path, [SECOND, *turned], opset=opset)
    assert nplrp.explain(model, numbers(1, 6, 5, 4), "epsilon", (2, 3, 1)).target_labels()[0].what == "probability"
    path = graph_file(tmp_path / "all.onnx", [node("Softmax", "x", axis=2)], {}, IMAGE, opset=11)
    with pytest.raises(WeightsError, match="only the one over one axis"):
        from_onnx(path)


@pytest.mark.parametrize("squares", [node("Pow", "d two_", "p"), node("Mul", "d d", "p")])
@pytest.mark.parametrize(("axis", "shape"), [(-1, (5,)), (1, (4, 1, 1)), (3, (1, 1, 1, 5))])
def test_a_layer_norm_that_was_taken_apart(tmp_path, squares, axis, shape):
    """As PyTorch writes it before opset 17; over the channels as ConvNeXt's own code has it, which subtracts the mean twice."""
    constants = {"two_": np.float32(2), "eps": np.float32(0.01), "g_": numbers(*shape, seed=3), "h_": numbers(*shape, seed=4)}
    nodes = [
        SECOND,
        node("ReduceMean", "b", "m", axes=[axis]),
        node("Sub", "b m", "d"),
        node("Sub", "b m", "e"),
        squares,
        node("ReduceMean", "p", "v", axes=[axis]),
        node("Add", "v eps", "s"),
        node("Sqrt", "s", "r"),
        node("Div", "e r", "q"),
        node("Mul", "q g_", "t"),
        node("Add", "h_ t"),
    ]
    model = check(tmp_path, nodes, constants)
    found = [layer for layer in model if layer.kind == "layernorm"]
    assert len(found) == 1 and set(kinds(model)) <= {"conv", "layernorm", "permute"} and np.isclose(found[0].epsilon, 0.01)
    channels = int(np.prod(shape))
    assert {key: array.size for key, array in found[0].arrays.items()} == {"gamma": channels, "beta": channels}
    plain = check(tmp_path, [*nodes[:9], node("Relu", "q")], constants)
    assert [layer.arrays for layer in plain if layer.kind == "layernorm"] == [{}]
    read = check(tmp_path, [*nodes[:9], node("Add", "q d")], constants)  # somebody reads what lies between: it is there still
    assert {"layernorm", "subtract", "avgpool"} <= set(kinds(read))


def test_what_only_looks_like_a_layer_norm_is_none(tmp_path):
    constants = {"three_": np.float32(3), "two_": np.float32(2), "eps": np.float32(0.01)}

    def nodes(power="two_", axis=1, mean="x m"):
        return [
            node("ReduceMean", "x", "m", axes=[1]),
            node("Sub", mean, "d"),
            node("Pow", f"d {power}", "p"),
            node("ReduceMean", "p", "v", axes=[axis]),
            node("Add", "v eps", "s"),
            node("Sqrt", "s", "r"),
            node("Div", "d r"),
        ]

    assert kinds(check(tmp_path, nodes(), constants)) == ["layernorm"]
    for other in (nodes(power="three_"), nodes(axis=2), nodes(mean="m x")):
        path = graph_file(tmp_path / "other.onnx", other, constants, IMAGE)
        with pytest.raises(WeightsError, match="Pow"):
            from_onnx(path)
