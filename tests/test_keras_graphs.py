"""Graphs of Keras's configurations: who reads whom, in which order, how often, under which name; damaged ones are refused in one line."""

import json
import time

import numpy as np
import pytest

from nplrp.errors import WeightsError
from nplrp.files.keras_config import parse
from tests.keras_files import T, functional, sequential

CONV = {"filters": 3, "kernel_size": 3, "strides": 1, "padding": "same", "activation": "linear", "use_bias": True}
DENSE = {"units": 4, "activation": "linear", "use_bias": True}
DIALECTS = pytest.mark.parametrize("dialect", [2, 3])


def conv(*uses, filters=3):
    return ("Conv2D", {**CONV, "filters": filters}, *uses)


def drop(*uses):
    return ("Dropout", {"rate": 0.5}, *uses)


def named(network):
    """[(name, names of what it reads), ...]."""
    return [(item.layer.name, item.layer.inputs) for item in network.layers]


def refused(config, *words, **options):
    with pytest.raises(WeightsError) as caught:
        parse(config, **options)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


# Order


@DIALECTS
def test_layers_are_in_keras_order_where_it_can_be(dialect):
    layers = {"c": drop(["b"]), "d": drop(["c"]), "b": drop(["x"])}
    assert named(parse(functional(layers, ["d"], dialect))) == [("b", ("input",)), ("c", ("b",)), ("d", ("c",))]
    side = {"a": drop(["x"]), "z": drop(["x"]), "b": drop(["a"]), "sum": ("Add", {}, [["b", "z"]])}
    assert [name for name, _ in named(parse(functional(side, ["sum"], dialect)))] == ["a", "z", "b", "sum"]


@DIALECTS
def test_single_ends_may_be_written_without_a_list(dialect):
    config = functional({"b": drop(["x"])}, ["b"], dialect)
    config["config"].update(input_layers=["x", 0, 0], output_layers=["b", 0, 0])
    assert named(parse(config)) == [("b", ("input",))]


@DIALECTS
def test_what_lies_beside_the_way_is_left_out(dialect):
    layers = {"a": drop(["x"]), "beside": ("Lambda", {}, ["a"]), "b": drop(["a"])}
    network = parse(functional(layers, ["b"], dialect))
    assert (named(network), network.whole) == ([("a", ("input",)), ("b", ("a",))], False)
    del layers["beside"]
    assert parse(functional(layers, ["b"], dialect)).whole


@DIALECTS
def test_an_input_that_nothing_needs_is_left_out(dialect):
    layers = {"a": drop(["x"]), "b": drop(["other"])}
    assert named(parse(functional(layers, ["a"], dialect, inputs=("x", "other")))) == [("a", ("input",))]


@DIALECTS
def test_joins_read_in_the_order_of_their_call(dialect):
    layers = {"a": conv(["x"]), "b": conv(["x"]), "sum": ("Subtract", {}, [["b", "a"]]), "twice": ("Add", {}, [["sum", "sum", "x"]])}
    assert named(parse(functional(layers, ["twice"], dialect)))[2:] == [("sum", ("b", "a")), ("twice", ("sum", "sum", "input"))]


# Operators: the second operand is by place in Keras 3, by keyword in Keras 2


def function(name):
    return {"function": name}


@pytest.mark.parametrize(
    ("keras3", "keras2", "kind"),
    [
        ("Add", "__operators__.add", "add"),
        ("Subtract", "math.subtract", "subtract"),
        ("Multiply", "math.multiply", "multiply"),
        ("Maximum", "math.maximum", "maximum"),
        ("Minimum", "math.minimum", "minimum"),
    ],
)
def test_operators_join(keras3, keras2, kind):
    for dialect, (class_name, options) in ((3, (keras3, {})), (2, ("TFOpLambda", function(keras2)))):
        layers = {"a": conv(["x"]), "op": (class_name, options, ["x", "a"])}
        *_, last = parse(functional(layers, ["op"], dialect)).layers
        assert (last.layer.kind, last.layer.inputs) == (kind, ("input", "a"))


@pytest.mark.parametrize(
    ("keras3", "keras2", "operands", "scale", "offset"),
    [
        ("Add", "__operators__.add", ["x", 0.1], None, 0.1),
        ("Subtract", "math.subtract", ["x", 1.0], None, -1),
        ("Subtract", "math.subtract", [1.0, "x"], -1, 1),
        ("Multiply", "math.multiply", [0.5, "x"], 0.5, None),
        ("Multiply", "math.multiply", ["x", [1.0, 2.0, 3.0]], [1, 2, 3], None),
        ("Add", "nn.bias_add", ["x", [1.0, 2.0, 3.0]], None, [1, 2, 3]),
        ("TrueDivide", "math.truediv", ["x", 127.5], 1 / 127.5, None),
        ("Divide", "math.divide", ["x", [1.0, 2.0, 4.0]], [1, 0.5, 0.25], None),
    ],
)
def test_arithmetic_with_constants_is_affine(keras3, keras2, operands, scale, offset):
    for dialect, (class_name, options) in ((3, (keras3, {})), (2, ("TFOpLambda", function(keras2)))):
        (item,) = parse(functional({"op": (class_name, options, operands)}, ["op"], dialect)).layers
        assert (item.layer.kind, item.layer.inputs) == ("affine", ("input",))
        expected = {key: value for key, value in (("scale", scale), ("offset", offset)) if value is not None}
        assert set(item.layer.arrays) == set(expected)
        for key, value in expected.items():
            np.testing.assert_array_equal(item.layer.arrays[key], np.broadcast_to(np.float64(value), (3,)))


def test_constant_arrays_as_keras_3_writes_them():
    value = {"class_name": "__tensor__", "config": {"value": [[[[1.5, 2.5, 3.5]]]], "dtype": "float32"}}
    (item,) = parse(functional({"op": ("Add", {}, ["x", value])}, ["op"])).layers
    np.testing.assert_array_equal(item.layer.arrays["offset"], [1.5, 2.5, 3.5])


def test_a_constant_along_rows_turns_the_image():
    rows = [[[float(i)]] for i in range(8)]
    network = parse(functional({"op": ("Add", {}, ["x", rows])}, ["op"]))
    assert [item.layer.kind for item in network.layers] == ["permute", "affine", "permute"]
    assert network.layers[1].layer.arrays["offset"].shape == (8,)


@pytest.mark.parametrize(
    ("class_name", "operands", "words"),
    [
        ("Add", ["x", [[1.0, 2.0, 3.0]] * 8], "several axes"),
        ("Add", ["x", [1.0, 2.0]], "2 numbers"),
        ("Add", ["x", "text to add"], "'text to add'"),
        ("Add", ["x", [1.0, None]], "None"),
        ("Add", ["x", float("inf")], "inf"),
        ("TrueDivide", [1.0, "x"], "divides by what a layer gives"),
        ("TrueDivide", ["x", 0.0], "by 0"),
        ("Maximum", ["x", [1.0, 2.0, 3.0]], "a number"),
        ("Average", [["x", 1.0]], "all be what layers give"),
        ("Add", ["x", "flat"], "as many axes"),
    ],
)
def test_other_operands_are_refused(class_name, operands, words):
    layers = {"flat": ("Flatten", {}, ["x"]), "op": (class_name, {}, operands)}
    config = functional(layers, ["op"])
    if operands[1:] == ["text to add"]:
        config["config"]["layers"][-1]["inbound_nodes"][0]["args"][1] = "text to add"
    refused(config, "'op'", words)


@pytest.mark.parametrize(
    ("keras3", "keras2", "value", "activation"),
    [
        ("Maximum", "math.maximum", 0.0, "relu"),
        ("Maximum", "math.maximum", 0.25, "hard_tanh(low=0.25, high=inf)"),
        ("Minimum", "math.minimum", 6, "hard_tanh(low=-inf, high=6.0)"),
    ],
)
def test_bounds_are_activations(keras3, keras2, value, activation):
    for dialect, (class_name, options) in ((3, (keras3, {})), (2, ("TFOpLambda", function(keras2)))):
        (item,) = parse(functional({"op": (class_name, options, ["x", value])}, ["op"], dialect)).layers
        assert (item.layer.kind, item.layer.activation) == ("activation", activation)


def test_nodes_of_tensorflow_2_0():
    definition = json.dumps({"name": "truediv", "op": "RealDiv", "input": ["x", "truediv/y"]})
    layers = {
        "tf_op_layer_truediv": ("TensorFlowOpLayer", {"node_def": definition, "constants": {"1": 255.0}}, ["x"]),
        "tf_op_layer_sub": ("TensorFlowOpLayer", {"node_def": {"op": "Sub"}, "constants": {"0": 1.0}}, ["tf_op_layer_truediv"]),
        "tf_op_layer_add": ("TensorFlowOpLayer", {"node_def": {"op": "AddV2"}, "constants": {}}, [["tf_op_layer_sub", "x"]]),
        "tf_op_layer_relu": ("TensorFlowOpLayer", {"node_def": {"op": "Relu"}, "constants": {}}, ["tf_op_layer_add"]),
    }
    first, second, join, relu = (item.layer for item in parse(functional(layers, list(layers)[-1:], 2)).layers)
    assert (first.arrays["scale"][0], second.arrays["scale"][0], second.arrays["offset"][0]) == (1 / 255, -1, 1)
    assert (join.kind, join.inputs, relu.activation) == ("add", (second.name, "input"), "relu")


# Shared layers and models inside


@DIALECTS
def test_a_layer_used_twice_becomes_two_with_one_place_in_the_file(dialect):
    layers = {"c": conv(["x"], [T("c", 0)], [T("c", 1)]), "sum": ("Add", {}, [[T("c", 2), T("c", 0)]])}
    network = parse(functional(layers, ["sum"], dialect))
    assert named(network) == [("c", ("input",)), ("c#2", ("c",)), ("c#3", ("c#2",)), ("sum", ("c#3", "c"))]
    assert {(item.path, item.store) for item in network.layers[:3]} == {(("c",), "layers/conv2d")}


def block(dialect, name="block", shape=(8, 8, 3)):
    layers = {"conv": conv(["in"]), "add": ("Add", {}, [["in", "conv"]])}
    return functional(layers, ["add"], dialect, inputs=("in",), shape=shape, name=name)["config"]


@DIALECTS
@pytest.mark.parametrize("first", [0, 1])
def test_a_model_used_twice(dialect, first):
    """Keras 2 counts the making of a model as its use 0, Keras 3 doesn't."""
    layers = {"conv": conv(["x"]), "block": ("Functional", block(dialect), ["conv"], [T("block", first)])}
    network = parse(functional(layers, [T("block", first + 1)], dialect))
    assert named(network) == [
        ("conv", ("input",)),
        ("block/conv", ("conv",)),
        ("add", ("conv", "block/conv")),
        ("block/conv#2", ("add",)),
        ("add#2", ("add", "block/conv#2")),
    ]
    assert [item.store for item in network.layers[1:4:2]] == ["layers/functional/layers/conv2d"] * 2
    assert [item.path for item in network.layers[1:4:2]] == [("block", "conv")] * 2


def test_models_in_models_have_short_names_where_they_can():
    inner = {"class_name": "Functional", "name": "b", "config": block(3, "b")}
    middle = {
        "class_name": "Sequential",
        "config": {"name": "m", "layers": [inner, {"class_name": "Conv2D", "config": {"name": "c", **CONV}}]},
    }
    config = sequential(("Conv2D", {**CONV, "name": "conv"}), ("Conv2D", {**CONV, "name": "c"}))
    config["config"]["layers"].append(middle)
    network = parse(config)
    assert [item.layer.name for item in network.layers] == ["conv", "c", "m/conv", "add", "m/c"]
    assert [item.path for item in network.layers] == [("conv",), ("c",), ("m", "b", "conv"), ("m", "b", "add"), ("m", "c")]
    assert network.layers[2].store == "layers/sequential/layers/functional/layers/conv2d"


@DIALECTS
def test_a_model_inside_with_two_inputs_and_outputs(dialect):
    layers = {"l": conv(["p"]), "r": conv(["q"]), "unused": ("Lambda", {}, ["r"])}
    inner = functional(layers, ["unused", "r", "l"], dialect, inputs=("p", "q"), name="two")["config"]
    outer = {"a": drop(["x"]), "two": ("Functional", inner, [["a", "x"]]), "sum": ("Add", {}, [[T("two", 0, 2), T("two", 0, 1)]])}
    assert named(parse(functional(outer, ["sum"], dialect))) == [("a", ("input",)), ("l", ("a",)), ("r", ("input",)), ("sum", ("l", "r"))]


def test_a_model_inside_called_by_names():
    inner = functional({"sub": ("Subtract", {}, [["p", "q"]])}, ["sub"], inputs=("p", "q"), name="two")["config"]
    config = functional({"a": drop(["x"]), "two": ("Functional", inner, [["a", "x"]])}, ["two"])
    args = config["config"]["layers"][-1]["inbound_nodes"][0]["args"]
    config["config"]["layers"][-1]["inbound_nodes"][0]["args"] = [{"q": args[0][0], "p": args[0][1]}]
    assert named(parse(config))[-1] == ("sub", ("input", "a"))


def test_a_model_without_layers_inside_passes_on():
    inner = functional({}, ["in"], inputs=("in",))["config"]
    assert named(parse(functional({"m": ("Functional", inner, ["x"]), "d": drop(["m"])}, ["d"]))) == [("d", ("input",))]


# Several outputs


@DIALECTS
def test_one_of_several_outputs_is_chosen_by_name(dialect):
    layers = {"a": conv(["x"]), "kind": conv(["a"]), "size": conv(["a"])}
    config = functional(layers, ["kind", "size", "a"], dialect)
    refused(config, "3 outputs", "'kind', 'size', 'a'", "output='kind'", "--output-layer kind")
    assert named(parse(config, "size")) == [("a", ("input",)), ("size", ("a",))]
    assert named(parse(config, "a")) == [("a", ("input",))]
    refused(config, "no output 'kin'", "'kind', 'size', 'a'", "did you mean 'kind'", output="kin")


def test_names_of_outputs_in_a_dict_and_of_twins():
    config = functional({"a": conv(["x"], [T("a", 0)])}, [T("a", 0), T("a", 1)])
    assert len(parse(config, "a").layers) == 1
    assert len(parse(config, "a_1").layers) == 2
    config["config"]["output_layers"] = {"first": ["a", 0, 0], "second": ["a", 1, 0]}
    assert len(parse(config, "second").layers) == 2
    refused(config, "'first', 'second'", output="a")


def test_the_only_output_may_be_named():
    assert len(parse(functional({"a": conv(["x"])}, ["a"]), "a").layers) == 1
    assert len(parse(sequential(("Flatten", {})), "layer0").layers) == 1
    refused(sequential(("Flatten", {})), "no output 'b'", output="b")


# Damage


@DIALECTS
@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ({"b": drop(["c"]), "c": drop(["b"])}, ["circle", "'b' <- 'c' <- 'b'"]),
        ({"c": drop(["c"])}, ["circle", "'c' <- 'c'"]),
        ({"c": drop(["gone"])}, ["layer 'c' (Dropout) reads layer 'gone'", "isn't in the configuration"]),
        ({"bone": drop(["x"]), "c": drop(["bon"])}, ["'bon'", "there is 'bone'"]),
        ({"c": drop([T("x", 1)])}, ["layer 'c' (Dropout) reads use 1 of layer 'x'"]),
        ({"b": drop(["x"]), "c": drop([T("b", 7)])}, ["reads use 7 of layer 'b', which has 1"]),
        ({"b": drop(["x"]), "c": drop([T("b", 0, 1)])}, ["reads output 1 of layer 'b'"]),
        ({"c": ("Dropout", {})}, ["use 0 of layer 'c'"]),
        ({"c": ("Add", {}, [["x"]])}, ["'c'", "Add", "1 input, expected 2 or more"]),
        ({"c": ("Concatenate", {"axis": -1}, [["x"]])}, ["'c'", "1 input, expected 2 or more"]),
        ({"c": conv([["x", "x"]])}, ["'c'", "Conv2D", "2 inputs, expected 1"]),
        ({"b": conv(["x"], filters=4), "c": ("Add", {}, [["x", "b"]])}, ["'c'", "'input' (8, 8, 3), 'b' (8, 8, 4)"]),
        ({"b": ("Cropping2D", {"cropping": 1}, ["x"]), "c": ("Concatenate", {"axis": -1}, [["x", "b"]])}, ["'c'", "(8, 8, 3), (6, 6, 3)"]),
        ({"c": ("MyLayer", {}, ["x"])}, ["'c' is of class MyLayer, which isn't supported"]),
    ],
)
def test_damaged_graphs(layers, words, dialect):
    refused(functional(layers, ["c"], dialect), *words)


@DIALECTS
def test_several_inputs_are_refused(dialect):
    config = functional({"c": ("Add", {}, [["x", "other"]])}, ["c"], dialect, inputs=("x", "other"))
    refused(config, "2 inputs ('x', 'other')", "expected 1")


def test_ends_that_are_damaged():
    def ends(**changes):
        config = functional({"c": drop(["x"])}, ["c"])
        config["config"].update(changes)
        return config

    refused(ends(output_layers=[]), "no output layers")
    refused(ends(output_layers=None), "no output layers")
    refused(ends(output_layers=[["c", "0", 0]]), "expected [name, use, output]")
    refused(ends(output_layers=[[3, 0, 0]]), "expected [name, use, output]")
    refused(ends(output_layers=[["gone", 0, 0]]), "its output reads layer 'gone'")
    refused(ends(input_layers=[["gone", 0, 0]]), "input 'gone'")
    refused(ends(input_layers=[["c", 0, 0]]), "no input shape")
    refused(ends(output_layers=[["x", 0, 0]]), "no layers but its input")


def test_a_keras_tensor_without_history():
    config = functional({"c": drop(["x"])}, ["c"])
    config["config"]["layers"][-1]["inbound_nodes"][0]["args"][0]["config"]["keras_history"] = None
    refused(config, "for a tensor")


def test_twins_are_refused():
    config = functional({"c": drop(["x"])}, ["c"])
    config["config"]["layers"].append(config["config"]["layers"][-1])
    refused(config, "two layers of one name")


def test_an_input_layer_within_a_sequential_model():
    config = sequential(("Flatten", {}), ("InputLayer", {"batch_input_shape": [None, 3]}))
    refused(config, "'layer1' (InputLayer)", "stands behind other layers")


# Size: nothing takes more than linear time


def seconds(work):
    start = time.process_time()
    work()
    return time.process_time() - start


def test_a_hundred_thousand_layers_are_refused_at_once():
    config = sequential(*[("Dropout", {"rate": 0.5})] * 100_000)
    assert seconds(lambda: refused(config, "100001 layers", "at most 20000")) < 1


@DIALECTS
def test_long_graphs_take_linear_time(dialect):
    """5000 residual blocks, listed from the back."""
    layers, before = {}, "x"
    for i in range(5000):
        layers[f"d{i}"] = drop([before])
        layers[f"a{i}"] = ("Add", {}, [[before, f"d{i}"]])
        before = f"a{i}"
    config = functional(dict(reversed(layers.items())), [before], dialect)
    found = []
    assert seconds(lambda: found.append(parse(config))) < 8
    assert len(found[0].layers) == 10_000


def test_long_arguments_take_linear_time():
    """9 MB of nested arguments: a layer that reads one tensor 80,000 times, within 300 lists."""
    config = functional({"c": ("Add", {}, [["x"] * 60_000])}, ["c"])
    node = config["config"]["layers"][-1]["inbound_nodes"][0]
    for _ in range(300):
        node["kwargs"] = {"mask": [node["kwargs"], []]}
    assert len(json.dumps(config)) > 7_000_000
    found = []
    assert seconds(lambda: found.append(parse(config))) < 4
    assert len(found[0].layers[0].layer.inputs) == 60_000


def test_models_that_use_each_other_without_end():
    """Ten uses of ten uses of ...: 10^15 layers, described in a few kilobytes."""
    config = functional({"d": drop(["x"])}, ["d"])["config"]
    for depth in range(15):
        uses = [["x"], *([T("m", i)] for i in range(9))]
        config = functional({"m": ("Functional", config, *uses)}, [T("m", 9)], name=f"m{depth}")["config"]
    assert seconds(lambda: refused({"class_name": "Functional", "config": config}, "more than 20000")) < 10


@pytest.mark.parametrize("dialect", [2, 3])
def test_empty_models_that_use_each_other_without_end(dialect):
    config = functional({}, ["x"], dialect)["config"]
    for _ in range(15):
        uses = [["x"], *([T("m", i)] for i in range(9))]
        config = functional({"m": ("Functional", config, *uses)}, [T("m", 9)], dialect)["config"]
    assert seconds(lambda: refused({"class_name": "Functional", "config": config}, "more than 20000")) < 10
