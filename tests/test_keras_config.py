"""Both dialects of Keras's configuration become the same chain; what isn't a chain of supported layers is refused by name."""

import json
import zipfile

import h5py
import pytest

from nplrp.errors import WeightsError
from nplrp.files.keras_config import SUPPORTED, parse
from nplrp.model import Window
from tests.keras_files import FILES, sequential

CONV = {"filters": 4, "kernel_size": [3, 3], "strides": [1, 1], "padding": "valid", "activation": "linear", "use_bias": True}
DENSE = {"units": 4, "activation": "linear", "use_bias": True}
POOL = {"pool_size": [2, 2], "strides": None, "padding": "valid"}
NORM = {"axis": -1, "epsilon": 0.001, "scale": True, "center": True}
RELU = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}


def only(kind, options, shape=(8, 8, 3)):
    """The one layer of a model."""
    (item,) = parse(sequential((kind, options), shape=shape)).layers
    return item


def configuration(name):
    path = FILES / name
    if name.endswith(".keras"):
        with zipfile.ZipFile(path) as archive:
            return json.loads(archive.read("config.json"))
    with h5py.File(path) as file:
        return json.loads(file.attrs["model_config"])


@pytest.mark.parametrize(
    "files",
    [
        ("small32_k2_model_save.h5", "small32_k3_model_save.h5", "small32_k3.keras"),
        ("keras2_compiled.h5", "keras2_compiled.keras", "keras3_compiled.h5", "keras3_compiled.keras"),
        ("keras2_nested.h5", "keras2_nested.keras", "keras3_nested.h5", "keras3_nested.keras"),
    ],
)
def test_dialects_agree(files):
    first, *others = (parse(configuration(name)) for name in files)
    assert len(first.layers) > 5
    for other in others:
        assert other.input_shape == first.input_shape
        for a, b in zip(first.layers, other.layers, strict=True):
            assert {**a.layer.describe(), "name": ""} == {**b.layer.describe(), "name": ""}
            assert (a.variables, a.units, a.store) == (b.variables, b.units, b.store)


def test_convolution():
    item = only("Conv2D", {**CONV, "kernel_size": [5, 3], "strides": 2, "padding": "same", "dilation_rate": [1, 2], "activation": "relu"})
    assert item.layer.window == Window((5, 3), (2, 2), (1, 2), "same")
    assert (item.layer.activation, item.variables, item.units) == ("relu", ("kernel", "bias"), 4)
    assert only("Conv2D", {**CONV, "use_bias": False}).variables == ("kernel",)


@pytest.mark.parametrize("kind", ["MaxPooling2D", "AveragePooling2D"])
def test_a_pool_strides_by_its_size_unless_told(kind):
    assert only(kind, {**POOL, "pool_size": [3, 2]}).layer.window == Window((3, 2), (3, 2))
    assert only(kind, {**POOL, "strides": [1, 2], "padding": "same"}).layer.window == Window((2, 2), (1, 2), (1, 1), "same")


@pytest.mark.parametrize(("padding", "pads"), [(2, (2, 2, 2, 2)), ([1, 2], (1, 1, 2, 2)), ([[1, 2], [3, 0]], (1, 2, 3, 0))])
def test_zero_padding(padding, pads):
    assert only("ZeroPadding2D", {"padding": padding}).layer.pads == pads


def test_batch_normalisation():
    item = only("BatchNormalization", {**NORM, "epsilon": 1e-5, "axis": [3]})
    assert (item.layer.epsilon, item.variables) == (1e-5, ("gamma", "beta", "mean", "variance"))
    assert only("BatchNormalization", {**NORM, "scale": False}).variables == ("beta", "mean", "variance")
    assert only("BatchNormalization", {**NORM, "center": False, "axis": 1}, shape=(5,)).variables == ("gamma", "mean", "variance")


def test_the_last_axis_depends_on_what_lies_before():
    norm = ("BatchNormalization", {**NORM, "axis": 1})
    assert len(parse(sequential(("Flatten", {}), norm)).layers) == 2
    assert len(parse(sequential(("GlobalMaxPooling2D", {}), norm)).layers) == 2
    with pytest.raises(WeightsError, match=r"layer1.*axis=1.*-1 or 3"):
        parse(sequential(("GlobalMaxPooling2D", {"keepdims": True}), norm))


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("Activation", {"activation": "softmax"}, "softmax"),
        ("Activation", {"activation": {"class_name": "function", "config": "relu"}}, "relu"),
        ("Activation", {"activation": {"class_name": "ReLU", "config": RELU}}, "relu"),
        ("Conv2D", {**CONV, "activation": None}, "linear"),
        ("ReLU", RELU, "relu"),
        ("Softmax", {"axis": -1}, "softmax"),
    ],
)
def test_activations(kind, options, expected):
    assert only(kind, options).layer.activation == expected


@pytest.mark.parametrize(
    "kind", ["Dropout", "SpatialDropout2D", "GaussianNoise", "GaussianDropout", "AlphaDropout", "ActivityRegularization"]
)
def test_what_acts_only_in_training_is_the_identity(kind):
    assert only(kind, {"rate": 0.5}).layer.kind == "identity"


@pytest.mark.parametrize(
    ("kind", "options", "words"),
    [
        ("Conv2D", {**CONV, "groups": 2}, "groups=2"),
        ("Conv2D", {**CONV, "data_format": "channels_first"}, "channels_first"),
        ("Conv2D", {**CONV, "padding": "causal"}, "causal"),
        ("Conv2D", {**CONV, "activation": "gelu"}, "gelu"),
        ("Conv2D", {**CONV, "activation": {"class_name": "LeakyReLU", "config": {}}}, "LeakyReLU"),
        ("Conv2D", {**CONV, "activation": {"class_name": "ReLU", "config": {**RELU, "max_value": 6}}}, "max_value=6"),
        ("Conv2D", {**CONV, "strides": [0, 1]}, "strides"),
        ("Conv2D", {**CONV, "kernel_size": [3, 3, 3]}, "kernel_size"),
        ("Conv2D", {**CONV, "filters": True}, "filters"),
        ("Conv2D", {**CONV, "filters": 1 << 40}, "filters"),
        ("MaxPooling2D", {**POOL, "pool_size": "2"}, "pool_size"),
        ("ReLU", {**RELU, "max_value": 6.0}, "max_value=6.0"),
        ("ReLU", {**RELU, "negative_slope": 0.1}, "negative_slope=0.1"),
        ("Softmax", {"axis": 1}, "axis=1"),
        ("Dense", DENSE, "an image"),
        ("BatchNormalization", {**NORM, "axis": [1, 2]}, "axis"),
        ("BatchNormalization", {**NORM, "epsilon": -1}, "epsilon"),
        ("BatchNormalization", {**NORM, "renorm": True}, "renorm"),
        ("ZeroPadding2D", {"padding": [1, 2, 3]}, "padding"),
        ("ZeroPadding2D", {"padding": [[-1, 0], [0, 0]]}, "padding"),
        ("DepthwiseConv2D", {}, "isn't supported"),
        ("LeakyReLU", {}, "isn't supported"),
        ("Lambda", {}, "isn't supported"),
    ],
)
def test_other_layers_and_options_are_refused(kind, options, words):
    with pytest.raises(WeightsError) as caught:
        only(kind, options)
    message = str(caught.value)
    assert "'layer0'" in message
    assert kind in message
    assert words in message
    assert ", ".join(SUPPORTED) in message


@pytest.mark.parametrize(
    ("kind", "options"),
    [
        ("Conv2D", CONV),
        ("Dense", DENSE),
        ("MaxPooling2D", POOL),
        ("BatchNormalization", NORM),
        ("ReLU", RELU),
        ("ZeroPadding2D", {"padding": 1}),
    ],
)
def test_no_option_is_guessed(kind, options):
    """Keras always writes them; a default in place of a damaged key would be another network."""
    for key in options:
        with pytest.raises(WeightsError, match=key):
            only(kind, {other: value for other, value in options.items() if other != key})


def test_open_sides_are_imagenets():
    assert parse(sequential(("Flatten", {}), shape=(None, None, 3))).input_shape == (224, 224, 3)


@pytest.mark.parametrize("shape", [(8, 3), (8, 8, None), (0, 8, 3), (8, 8, 8, 3), ("8", 8, 3), (8.0, 8, 3)])
def test_other_input_shapes_are_refused(shape):
    with pytest.raises(WeightsError, match="input shape"):
        parse(sequential(("Flatten", {}), shape=shape))


def test_old_sequential_without_input_layer():
    """Keras 2 before 2.2.3 kept a bare list, and the shape in the first layer."""
    layers = [
        {"class_name": "Flatten", "config": {"name": "f", "batch_input_shape": {"class_name": "__tuple__", "items": [None, 4, 4, 1]}}}
    ]
    network = parse({"class_name": "Sequential", "config": layers})
    assert (network.input_shape, [item.layer.name for item in network.layers]) == ((4, 4, 1), ["f"])


def functional(edges, outputs=("c",), dialect=2, inputs=("a",)):
    """A Functional model of layers that do nothing: {name: names of its inputs}."""

    def nodes(sources):
        if not sources:
            return []
        if dialect == 2:
            return [[[source, 0, 0, {}] for source in sources]]
        tensors = [{"class_name": "__keras_tensor__", "config": {"keras_history": [source, 0, 0]}} for source in sources]
        return [{"args": [tensors if len(tensors) > 1 else tensors[0]], "kwargs": {"training": False}}]

    layers = [
        {
            "class_name": "Dropout" if sources else "InputLayer",
            "config": {"name": name, **({} if sources else {"batch_shape": [None, 4, 4, 1]})},
            "name": name,
            "inbound_nodes": nodes(sources),
        }
        for name, sources in edges.items()
    ]
    ends = {"input_layers": [[name, 0, 0] for name in inputs], "output_layers": [[name, 0, 0] for name in outputs]}
    return {"class_name": "Functional", "config": {"name": "graph", "layers": layers, **ends}}


@pytest.mark.parametrize("dialect", [2, 3])
def test_a_functional_model_is_followed_along_its_graph(dialect):
    config = functional({"c": ["b"], "a": [], "b": ["a"]}, dialect=dialect)
    assert [item.layer.name for item in parse(config).layers] == ["b", "c"]
    config["config"].update(input_layers=["a", 0, 0], output_layers=["c", 0, 0])  # Keras 3 writes single ends so
    assert [item.layer.name for item in parse(config).layers] == ["b", "c"]


@pytest.mark.parametrize("dialect", [2, 3])
@pytest.mark.parametrize(
    ("edges", "ends", "words"),
    [
        ({"a": [], "b": ["a"], "c": ["a", "b"]}, {}, ["'c'", "2 inputs", "'a', 'b'"]),
        ({"a": [], "b": ["a"], "c": ["a"]}, {"outputs": ("b", "c")}, ["2 output layers"]),
        ({"a": [], "b": [], "c": ["b"]}, {"inputs": ("a", "b")}, ["2 input layers"]),
        ({"a": [], "b": ["a"], "c": ["a"]}, {}, ["isn't a chain", "'b'"]),
        ({"a": [], "b": ["c"], "c": ["b"]}, {}, ["'c'", "comes twice"]),
        ({"a": [], "c": ["gone"]}, {}, ["'gone'", "missing"]),
        ({"a": [], "b": [], "c": ["b"]}, {}, ["isn't a chain", "'a'"]),
        ({"a": []}, {"outputs": ("a",)}, ["no layers"]),
    ],
)
def test_other_graphs_are_refused(edges, ends, words, dialect):
    with pytest.raises(WeightsError) as caught:
        parse(functional(edges, dialect=dialect, **ends))
    assert all(word in str(caught.value) for word in words), caught.value


def test_a_layer_used_twice_is_refused():
    config = functional({"a": [], "c": ["a"]})
    config["config"]["layers"][1]["inbound_nodes"] *= 2
    with pytest.raises(WeightsError, match=r"'c' \(class Dropout\) is used 2 times"):
        parse(config)


def test_nesting_has_an_end():
    config = sequential(("Flatten", {}))
    for _ in range(20):
        config = {"class_name": "Sequential", "config": {"name": "m", "layers": [config]}}
    with pytest.raises(WeightsError, match="more than 16 models"):
        parse(config)


@pytest.mark.parametrize(
    "config",
    [
        None,
        [],
        3,
        {},
        {"class_name": "Sequential", "config": {}},
        {"class_name": "MyModel", "config": {"name": "x"}},
        {"class_name": "Sequential", "config": {"name": 3, "layers": []}},
        {"class_name": "Sequential", "config": {"name": "x", "layers": [3]}},
        {"class_name": "Sequential", "config": {"name": "x", "layers": [{"class_name": "Flatten", "config": {"name": "f"}}]}},
        {
            "class_name": "Functional",
            "config": {"name": "x", "layers": [{"class_name": "Flatten", "config": {"name": "f"}, "inbound_nodes": 3}]},
        },
    ],
)
def test_what_is_no_configuration(config):
    with pytest.raises(WeightsError):
        parse(config)
