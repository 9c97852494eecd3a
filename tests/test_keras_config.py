"""Both dialects of Keras's configuration become the same layers, in the same order; what isn't supported is refused by name."""

import json
import zipfile

import h5py
import pytest

from nplrp.errors import WeightsError
from nplrp.files.keras_config import parse
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
    for other in others:
        assert other.input_shape == first.input_shape
        for a, b in zip(first.layers, other.layers, strict=True):
            assert {**a.layer.describe(), "name": ""} == {**b.layer.describe(), "name": ""}
            assert (a.variables, a.store, a.path) == (b.variables, b.store, (*b.path[:-1], a.path[-1]))


def test_convolution():
    item = only("Conv2D", {**CONV, "kernel_size": [5, 3], "strides": 2, "padding": "same", "dilation_rate": [1, 2], "activation": "relu"})
    assert item.layer.window == Window((5, 3), (2, 2), (1, 2), "same")
    assert (item.layer.activation, item.variables) == ("relu", {"kernel": (5, 3, 3, 4), "bias": (4,)})
    assert only("Conv2D", {**CONV, "use_bias": False}).variables == {"kernel": (3, 3, 3, 4)}


@pytest.mark.parametrize("kind", ["MaxPooling2D", "AveragePooling2D"])
def test_a_pool_strides_by_its_size_unless_told(kind):
    assert only(kind, {**POOL, "pool_size": [3, 2]}).layer.window == Window((3, 2), (3, 2))
    assert only(kind, {**POOL, "strides": [1, 2], "padding": "same"}).layer.window == Window((2, 2), (1, 2), (1, 1), "same")


@pytest.mark.parametrize(("padding", "pads"), [(2, (2, 2, 2, 2)), ([1, 2], (1, 1, 2, 2)), ([[1, 2], [3, 0]], (1, 2, 3, 0))])
def test_zero_padding(padding, pads):
    assert only("ZeroPadding2D", {"padding": padding}).layer.pads == pads


def test_batch_normalisation():
    item = only("BatchNormalization", {**NORM, "epsilon": 1e-5, "axis": [3]})
    assert (item.layer.epsilon, list(item.variables)) == (1e-5, ["gamma", "beta", "mean", "variance"])
    assert set(item.variables.values()) == {(3,)}
    assert list(only("BatchNormalization", {**NORM, "scale": False}).variables) == ["beta", "mean", "variance"]
    assert list(only("BatchNormalization", {**NORM, "center": False, "axis": 1}, shape=(5,)).variables) == ["gamma", "mean", "variance"]


def test_the_last_axis_depends_on_what_lies_before():
    norm = ("BatchNormalization", {**NORM, "axis": 1})
    assert len(parse(sequential(("Flatten", {}), norm)).layers) == 2
    assert len(parse(sequential(("GlobalMaxPooling2D", {}), norm)).layers) == 2
    layers = parse(sequential(("GlobalMaxPooling2D", {"keepdims": True}), norm)).layers  # over the first of (1, 1, 3)
    assert [item.layer.kind for item in layers] == ["global_maxpool", "permute", "batchnorm", "permute"]


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
        ("Conv2D", {**CONV, "data_format": "channels_middle"}, "channels_middle"),
        ("Conv2D", {**CONV, "padding": "causal"}, "causal"),
        ("Conv2D", {**CONV, "activation": "gelo"}, "gelo"),
        ("Conv2D", {**CONV, "activation": {"class_name": "LeakyReLU", "config": {}}}, "negative_slope"),
        ("Conv2D", {**CONV, "activation": {"class_name": "PReLU", "config": {}}}, "make it a PReLU layer"),
        ("Conv2D", {**CONV, "activation": {"class_name": "Softmax", "config": {"axis": 1}}}, "axis=1"),
        ("Conv2D", {**CONV, "activation": {"class_name": "ReLU", "config": {**RELU, "max_value": "6"}}}, "'6'"),
        ("Conv2D", {**CONV, "activation": {"class_name": "function", "config": "relu", "registered_name": "mine>relu"}}, "mine"),
        ("Conv2D", {**CONV, "activation": {"value": ["4wEAAAAA", None, None]}}, "a lambda"),  # as Keras 2.16 and 3.15 write one
        ("Dense", {**DENSE, "activation": {"class_name": "__lambda__", "config": {"value": "4wEAAAAA"}}}, "a lambda"),
        ("Dense", {**DENSE, "activation": ["relu"]}, "expected the name"),
        ("Dense", {**DENSE, "dtype": {"class_name": "QuantizedDTypePolicy", "config": {"mode": "int8"}}}, "quantised ('int8')"),
        ("LayerScale", {"gamma": 2}, "isn't one of Keras's"),
        ("Conv2D", {**CONV, "strides": [0, 1]}, "strides"),
        ("Conv2D", {**CONV, "kernel_size": [3, 3, 3]}, "kernel_size"),
        ("Conv2D", {**CONV, "filters": True}, "filters"),
        ("Conv2D", {**CONV, "filters": 1 << 40}, "filters"),
        ("MaxPooling2D", {**POOL, "pool_size": "2"}, "pool_size"),
        ("ReLU", {**RELU, "max_value": [6.0, 7.0]}, "max_value"),
        ("Softmax", {"axis": 4}, "axis is 4"),
        ("Softmax", {"axis": 0}, "0 is the batch's"),
        ("BatchNormalization", {**NORM, "axis": [1, 2]}, "axis"),
        ("BatchNormalization", {**NORM, "axis": "last"}, "axis"),
        ("BatchNormalization", {**NORM, "epsilon": -1}, "epsilon"),
        ("BatchNormalization", {**NORM, "renorm": True}, "renorm"),
        ("ZeroPadding2D", {"padding": [1, 2, 3]}, "padding"),
        ("ZeroPadding2D", {"padding": [[-1, 0], [0, 0]]}, "padding"),
        ("DepthwiseConv2D", {}, "kernel_size"),
        ("LeakyReLU", {}, "negative_slope"),
        ("Conv1D", CONV, "expected a sequence"),
        ("Lambda", {}, "Python code"),
        ("LSTM", {}, "recurrence"),
        ("Bidirectional", {}, "recurrence"),
        ("MultiHeadAttention", {}, "attention"),
        ("Conv3D", {}, "3-D"),
        ("Embedding", {}, "whole numbers"),
        ("SpectralNormalization", {}, "wraps another layer"),
        ("TimeDistributed", {"layer": {"class_name": "Conv2D", "config": CONV}}, "3-D isn't"),
        ("EinsumDense", {"equation": "abc,cde->abde", "output_shape": [4, 4], "bias_axes": None, "activation": None}, "only dense layers"),
        ("EinsumDense", {"equation": "abcd,de->abce", "output_shape": 4, "bias_axes": "c", "activation": None}, "bias_axes"),
        ("Split", {"indices_or_sections": 3, "axis": 1}, "3 equal pieces of 8 places"),
        ("Split", {"indices_or_sections": [5, 3], "axis": 1}, "doesn't fit"),
        ("Split", {"indices_or_sections": 2, "axis": 0}, "0 is the batch's"),
        ("ArraySplit", {"indices_or_sections": 0, "axis": 1}, "doesn't fit"),
        ("Unstack", {"num": None, "axis": 4}, "axis is 4"),
        ("Take", {"axis": -1}, "constants"),
        ("Take", {"axis": -1, "indices": [0, 3]}, "[0, 3] of 3"),
        ("Roll", {"shift": 1, "axis": None}, "give it an axis"),
        ("Roll", {"shift": [1], "axis": [1, 2]}, "for each axis"),
        ("Repeat", {"repeats": [1, 2], "axis": 1}, "repeats"),
        ("Tile", {"repeats": [2, 1, 1, 1]}, "1 for the batch"),
        ("Moveaxis", {"source": [1, 2], "destination": 1}, "moves axes"),
        ("Swapaxes", {"axis1": 0, "axis2": 1}, "0 is the batch's"),
        ("DepthToSpace", {"block_size": 2, "data_format": "channels_last"}, "of 3 channels"),
        ("SpaceToDepth", {"block_size": 3, "data_format": "channels_last"}, "8 x 8 pixels"),
        ("MaxPool", {"pool_size": [2, 2, 2, 1], "strides": None, "padding": "valid"}, "1 for batch and channels"),
        ("Pad", {"pad_width": [[0, 0], [8, 0], [0, 0], [0, 0]], "mode": "reflect"}, "at most 7 can be copied"),
        (
            "Pad",
            {"pad_width": [[0, 0], [1, 0], [0, 0], [0, 0]], "mode": "linear_ramp"},
            "only zeros and copies (reflect, symmetric, edge, wrap)",
        ),
        ("Sum", {"axis": [1, 2, 3], "keepdims": False}, "not over all"),
        ("Resize", {"size": [4], "interpolation": "nearest"}, "size is"),
        ("Resize", {"size": [4, 4], "interpolation": "bicubic"}, "bicubic"),
        ("mine>Conv2D", CONV, "isn't one of Keras's"),
        ("Conv2d", CONV, "names that look like it: Conv2D"),
    ],
)
def test_other_layers_and_options_are_refused(kind, options, words):
    with pytest.raises(WeightsError) as caught:
        only(kind, options)
    message = str(caught.value)
    assert "'layer0'" in message
    assert kind in message
    assert words in message


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


@pytest.mark.parametrize(
    ("own", "module", "registered"),
    [
        (True, None, "Dense"),  # a class of one's own that is called as Keras's
        (True, "__main__", "Dense"),
        (True, None, "mine>Dense"),
        (True, "kerastuner.layers", "Dense"),
        (False, "keras.layers", None),
        (False, "keras.src.layers.core.dense", "Dense"),
        (False, "tf_keras.src.layers.core.dense", "Dense"),
        (False, None, None),
    ],
)
def test_own_classes_are_told_from_keras_ones_of_the_same_name(own, module, registered):
    config = sequential(("Dense", DENSE), shape=(4,))
    config["config"]["layers"][1] |= {"module": module, "registered_name": registered}
    if own:
        with pytest.raises(
            WeightsError, match=r"'layer0' is of class Dense, .*: it isn't one of Keras's, and its Python code isn't in the"
        ):
            parse(config)
    else:
        assert [item.layer.kind for item in parse(config).layers] == ["dense"]


def test_open_sides_are_imagenets():
    assert parse(sequential(("Flatten", {}), shape=(None, None, 3))).input_shape == (224, 224, 3)


def test_open_sides_behind_the_channels():
    assert parse(sequential(("Flatten", {}), shape=(3, None, None))).input_shape == (3, 224, 224)


@pytest.mark.parametrize("shape", [(8, 3), (3,), (8, 8, 3)])
def test_images_sequences_and_vectors(shape):
    assert parse(sequential(("Flatten", {}), shape=shape)).input_shape == shape


@pytest.mark.parametrize("shape", [(8, 8, None), (None,) * 3, (0, 8, 3), (8, 8, 8, 3), ("8", 8, 3), (8.0, 8, 3), ()])
def test_other_input_shapes_are_refused(shape):
    with pytest.raises(WeightsError, match="input shape"):
        parse(sequential(("Flatten", {}), shape=shape))


@pytest.mark.parametrize(
    ("shape", "given", "expected"),
    [
        ((None, None, 3), (150, 200), (150, 200, 3)),
        ((None, 40, 3), (150, 40), (150, 40, 3)),
        ((40, None, 3), (40, 20), (40, 20, 3)),
        ((3, None, None), (150, 200), (3, 150, 200)),
        ((None, 3), (20, 20), (20, 3)),
        ((32, 32, 3), (32, 32), (32, 32, 3)),
    ],
)
def test_open_sides_are_those_that_are_given(shape, given, expected):
    network = parse(sequential(("Flatten", {}), shape=shape), input_size=given)
    assert network.input_shape == expected and not network.assumed_size


@pytest.mark.parametrize(
    ("shape", "given", "message"),
    [
        ((32, 32, 3), (64, 64), "32 x 32 x 3, so it can't be 64 x 64; leave the input size out"),
        ((None, 40, 3), (40, 50), "open x 40 x 3, so it can't be 40 x 50; .* the sides that it has"),
        ((7,), (7, 7), "its input is 7, so it can't be 7 x 7"),
        ((None, 3), (20, 30), "can't be 20 x 30"),
        ((None, 3), None, "its input is open x 3; say how many steps"),
    ],
)
def test_other_sizes_are_refused(shape, given, message):
    with pytest.raises(WeightsError, match=message):
        parse(sequential(("Flatten", {}), shape=shape), input_size=given)


def test_old_sequential_without_input_layer():
    """Keras 2 before 2.2.3 kept a bare list, and the shape in the first layer."""
    layers = [
        {"class_name": "Flatten", "config": {"name": "f", "batch_input_shape": {"class_name": "__tuple__", "items": [None, 4, 4, 1]}}}
    ]
    network = parse({"class_name": "Sequential", "config": layers})
    assert (network.input_shape, [item.layer.name for item in network.layers]) == ((4, 4, 1), ["f"])


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
