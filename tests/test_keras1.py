"""Files of Keras 1 and of Theano: real ones compute what Keras 1.2.2 computed, and turned kernels what Theano gives, worked by hand."""

import json

import h5py
import numpy as np
import pytest

import nplrp
from nplrp.errors import WeightsError
from nplrp.files import keras1
from tests.keras_files import FILES, vgg, write_by_name

REAL = sorted(path.stem for path in FILES.glob("keras1_*.h5"))


def output(model, x):
    return list(nplrp.forward(model, np.asarray(x), "float64").values())[-1][0]


@pytest.mark.parametrize("name", REAL)
def test_real_files_compute_what_keras_computed(name, caplog):
    """They were made on TensorFlow, also those with Theano's order of axes."""
    with np.load(FILES / f"{name}.npz") as expected, caplog.at_level("INFO"):
        model = nplrp.load(FILES / f"{name}.h5", kernels="tensorflow")
        assert model.input_shape == expected["x"].shape[1:]
        np.testing.assert_allclose(output(model, expected["x"]), expected["y"][0], atol=1e-6)
    assert "backend" not in caplog.text


def test_there_are_real_files():
    assert len(REAL) == 6


@pytest.mark.parametrize(
    ("name", "assumed", "other"), [("keras1_fun_th", "Theano", "tensorflow"), ("keras1_fun_tf", "TensorFlow", "theano")]
)
def test_an_assumed_backend_is_said_with_the_other_choice(name, assumed, other, caplog):
    with caplog.at_level("INFO"):
        nplrp.load(FILES / f"{name}.h5")
    assert f"kernels are taken as {assumed}'s" in caplog.text and f"--kernels {other}" in caplog.text
    assert nplrp.load(FILES / f"{name}.h5").content_hash != nplrp.load(FILES / f"{name}.h5", kernels=other).content_hash


# By hand


def layer(class_name, name, **options):
    return {"class_name": class_name, "config": {"name": name, **options}}


def convolution(name, order="th", **options):
    kernel = {"nb_filter": 1, "nb_row": 2, "nb_col": 2, "subsample": [1, 1], "border_mode": "valid", "W_regularizer": None}
    return layer("Convolution2D", name, dim_ordering=order, activation="linear", bias=True, **kernel | options)


def model_file(path, layers, arrays, **attributes):
    """Write a Sequential model as Keras 1.2 does, its datasets named after the layer."""
    with h5py.File(path, "w") as file:
        file.attrs["model_config"] = json.dumps({"class_name": "Sequential", "config": layers})
        file.attrs["keras_version"] = "1.2.2"
        for key, value in attributes.items():
            file.attrs[key] = value
        group = file.create_group("model_weights")
        group.attrs["layer_names"] = [each["config"]["name"].encode() for each in layers]
        for each in layers:
            name = each["config"]["name"]
            names = [f"{name}_{what}" for what in "Wb"[: len(arrays.get(name, []))]]
            group.create_group(name).attrs["weight_names"] = [one.encode() for one in names]
            for one, array in zip(names, arrays.get(name, []), strict=True):
                group[name][one] = np.asarray(array, "f4")
    return path


IMAGE = np.array([[1, 0, 0], [0, 0, 0], [0, 0, 5]], float)[None, :, :, None]
KERNEL = np.array([[1, 2], [3, 4]], float)


@pytest.mark.parametrize("order", ["th", "tf"])
@pytest.mark.parametrize(
    ("said", "corners"),
    [
        ({"kernels": "theano"}, (4 + 10, 5 + 10)),  # 1 at (0, 0) meets the last weight of the turned kernel: 4
        ({"kernels": "tensorflow"}, (1 + 10, 20 + 10)),  # correlation: it meets the first one
    ],
)
def test_theano_turns_kernels_round(tmp_path, order, said, corners):
    shape = [None, 1, 3, 3] if order == "th" else [None, 3, 3, 1]
    kernel = KERNEL[None, None] if order == "th" else KERNEL[:, :, None, None]
    path = model_file(tmp_path / "m.h5", [convolution("c", order, batch_input_shape=shape)], {"c": [kernel, [10]]})
    found = output(nplrp.load(path, **said), IMAGE).squeeze()  # what the model gives has its own order of axes
    assert (found[0, 0], found[1, 1]) == corners
    assert found[0, 1] == found[1, 0] == 10


def test_rows_behind_a_flatten_are_in_theanos_order(tmp_path):
    """Two channels of 1 x 2 pixels: row 1 of the dense kernel is channel 0, column 1."""
    layers = [convolution("c", nb_filter=2, nb_row=1, nb_col=1, batch_input_shape=[None, 1, 1, 2]), layer("Flatten", "f")]
    layers += [layer("Dense", "d", output_dim=1, activation="linear", bias=False, W_regularizer=None)]
    arrays = {"c": [np.array([1, 10]).reshape(2, 1, 1, 1), [0, 0]], "d": [np.array([[1], [100], [10000], [1000000]])]}
    model = nplrp.load(model_file(tmp_path / "m.h5", layers, arrays))
    assert output(model, [[[[2], [3]]]]) == 2 + 300 + 200_000 + 30_000_000


@pytest.mark.parametrize(
    ("size", "stride", "backend", "first"),
    [
        (3, 2, "theano", 1 + 2 + 5 + 6),  # half of the window on every side: rows and columns -1 to 1
        (3, 2, "tensorflow", 1 + 2 + 3 + 5 + 6 + 7 + 9 + 10 + 11),  # one row and column at the end: 0 to 2
        (2, 1, "theano", 1),  # a row and a column before, none behind
        (2, 1, "tensorflow", 1 + 2 + 5 + 6),
    ],
)
def test_same_padding_was_another_on_theano(tmp_path, size, stride, backend, first):
    options = {"nb_row": size, "nb_col": size, "subsample": [stride, stride], "border_mode": "same"}
    path = model_file(
        tmp_path / "m.h5", [convolution("c", batch_input_shape=[None, 1, 4, 4], **options)], {"c": [np.ones((1, 1, size, size)), [0]]}
    )
    found = output(nplrp.load(path, kernels=backend), np.arange(1, 17).reshape(1, 4, 4, 1)).squeeze()
    assert found.shape == (4 // stride, 4 // stride) and found[0, 0] == first


def test_keras_2_on_theano_says_so_itself(tmp_path):
    """Keras 2 has one order of axes for all backends, but Theano still turned kernels round."""
    config = {
        "class_name": "Sequential",
        "config": [layer("Conv2D", "c", batch_input_shape=[None, 3, 3, 1], filters=1, kernel_size=[2, 2], strides=[1, 1], padding="valid")],
    }
    config["config"][0]["config"] |= {"activation": "linear", "use_bias": True, "data_format": "channels_last", "dilation_rate": [1, 1]}
    arrays = [("c", [KERNEL[:, :, None, None].astype("f4"), np.zeros(1, "f4")])]
    for backend, first in (("theano", 4), ("tensorflow", 1)):
        path = write_by_name(tmp_path / "m.h5", arrays, config=config, attributes={"backend": backend, "keras_version": "2.0.8"})
        assert output(nplrp.load(path), IMAGE)[0, 0, 0] == first


# Weights alone


def old_vgg(path, flipped=True, named=False, **more):
    """Write a VGG16 as the files before Keras 1 have it: channels first, dense rows (C, H, W); all layers but dropouts are counted."""
    layers = vgg(side=2, **more)
    turned = []
    for name, (kernel, bias) in layers:
        old = kernel
        if kernel.ndim == 4:
            old = (kernel[::-1, ::-1] if flipped else kernel).transpose(3, 2, 0, 1)
        elif name == "fc1":
            old = kernel.reshape(2, 2, -1, kernel.shape[1]).transpose(2, 0, 1, 3).reshape(kernel.shape)
        turned.append((name, [np.ascontiguousarray(old), bias]))
    if named:
        return write_by_name(path, turned, variables=("W", "b"))
    with h5py.File(path, "w") as file:
        file.attrs["nb_layers"] = 2 * len(turned)
        for i, (_, arrays) in enumerate(turned):
            for place, values in ((2 * i, []), (2 * i + 1, arrays)):  # a ZeroPadding2D has none
                group = file.create_group(f"layer_{place}")
                group.attrs["nb_params"] = len(values)
                for k, array in enumerate(values):
                    group[f"param_{k}"] = array
    return path


@pytest.mark.parametrize("named", [False, True])
@pytest.mark.parametrize("flipped", [False, True])
def test_old_weights_are_those_of_a_new_file(tmp_path, named, flipped, caplog):
    new = nplrp.load(write_by_name(tmp_path / "new.h5", vgg(side=2)))
    said = {} if flipped else {"kernels": "tensorflow"}
    with caplog.at_level("INFO"):
        model = nplrp.load(old_vgg(tmp_path / "old.h5", flipped, named), head="flatten", **said)
    assert ("kernels are taken as Theano's" in caplog.text) == flipped
    assert model.input_shape == (64, 64, 3) and [layer.name for layer in model if layer.arrays] == [
        layer.name for layer in new if layer.arrays
    ]
    x = np.random.default_rng(0).normal(size=(1, 64, 64, 3))
    np.testing.assert_allclose(output(model, x), output(new, x), rtol=1e-12)


def test_names_of_official_files_say_whose_kernels_they_have(tmp_path, caplog):
    path = old_vgg(tmp_path / "vgg16_weights_th_dim_ordering_tf_kernels.h5", False, True)
    with caplog.at_level("INFO"):
        model = nplrp.load(path)
    assert "backend" not in caplog.text
    assert model.content_hash == nplrp.load(path, kernels="tensorflow").content_hash != nplrp.load(path, kernels="theano").content_hash


# Refused


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([layer("MaxoutDense", "m", W_regularizer=None)], "layer 'm' is of Keras 1's class MaxoutDense, which isn't read"),
        ([layer("BatchNormalization", "b", mode=1, b_constraint=None)], "mode=1 normalises each image by itself"),
        ([layer("Merge", "m", mode="dot", concat_axis=-1)], "a Merge with mode='dot' isn't read"),
        ([convolution("c", ["th"])], "dim_ordering is ['th'], expected 'th' or 'tf'"),
        ([convolution("c", "up")], "dim_ordering is 'up', expected 'th' or 'tf'"),
        (
            [layer("ZeroPadding2D", "z", padding=[1, 1]), convolution("a"), convolution("b", "tf")],
            "'z' (ZeroPadding2D): Keras 1 doesn't say",
        ),
        ([convolution("a"), layer("MaxPooling2D", "p", pool_size=[2, 2], strides=[2, 2], border_mode="same")], "--kernels tensorflow"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, layers, words):
    layers[0]["config"]["batch_input_shape"] = [None, 1, 4, 4]
    with pytest.raises(WeightsError) as caught:
        nplrp.load(model_file(tmp_path / "m.h5", layers, {}))
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_keras_0_is_named(tmp_path):
    (tmp_path / "old.json").write_text(json.dumps({"name": "Sequential", "layers": [{"name": "Dense"}], "loss": "mse"}))
    with pytest.raises(WeightsError, match=r"configuration of Keras 0\.x; load the model in Keras 1"):
        nplrp.load(write_by_name(tmp_path / "w.h5", vgg()), config=tmp_path / "old.json")


def test_a_wrong_backend_is_refused(tmp_path):
    with pytest.raises(WeightsError, match="kernels is 'torch', expected one of theano, tensorflow"):
        nplrp.load(tmp_path / "w.h5", kernels="torch")


def test_padding_of_four_sides():
    options = {"padding": {"top_pad": 1, "bottom_pad": 2, "left_pad": 3, "right_pad": 4}}
    modern = keras1.modern({"class_name": "Sequential", "config": [layer("ZeroPadding2D", "z", **options)]})
    assert modern.config["config"][0]["config"]["padding"] == [[1, 2], [3, 4]]
