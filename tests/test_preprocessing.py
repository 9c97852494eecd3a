"""How pictures were prepared is known or said: by the file, the caller, official weights; what was assumed is logged, all else refused."""

import json
import logging
import warnings

import numpy as np
import pytest

import nplrp
from nplrp.cli import main
from nplrp.errors import ImageError, InputWarning, RuleError, WeightsError
from nplrp.files import architectures, keras_config
from nplrp.files.preparing import prepared
from nplrp.images import normalize
from nplrp.model import Preprocessing, build, chain
from nplrp.preprocessing import MODES, arithmetic, pixel_bounds, suspicion
from tests.keras_files import sequential, vgg, write_by_name
from tests.networks import small_vgg

CONV = {"filters": 2, "kernel_size": 3, "strides": 1, "padding": "valid", "activation": "relu", "use_bias": True, "name": "conv"}
DENSE = {"units": 3, "activation": "softmax", "use_bias": True, "name": "last"}
HEAD = [("Conv2D", CONV), ("Flatten", {"name": "flatten"}), ("Dense", DENSE)]


def write(path, *before, shape=(8, 8, 3), attributes=None, name="model", taken=None):
    """A small network that isn't a VGG, with layers of its own before it."""
    rng = np.random.default_rng(1)
    convolved = [rng.normal(size=(3, 3, shape[2], 2)).astype("f"), np.zeros(2, "f")]
    dense = [rng.normal(size=(2 * (shape[0] - 2) * (shape[1] - 2), 3)).astype("f"), np.zeros(3, "f")]
    layers = [("conv", convolved), ("flatten", []), ("last", dense)]
    return write_by_name(path, layers, config=sequential(*before, *HEAD, shape=taken or shape, name=name), attributes=attributes)


def rescaling(scale, offset=0.0):
    return ("Rescaling", {"scale": scale, "offset": offset, "name": "rescaling"})


def normalization(mean, variance):
    return ("Normalization", {"axis": -1, "mean": mean, "variance": variance, "name": "normalization"})


def resizing(interpolation):
    return ("Resizing", {"height": 8, "width": 8, "interpolation": interpolation, "name": "resizing"})


# --- known --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("before", "mode"),
    [
        ([rescaling(1 / 255)], "none"),
        ([rescaling(1 / 127.5, -1)], "none"),
        ([rescaling(2.0, -1.0)], "unit"),
        ([rescaling(255.0)], "unit"),
        ([normalization([[[[0.485, 0.456, 0.406]]]], [[[[0.05, 0.05, 0.05]]]])], "unit"),
        ([normalization([[[[123.0, 117.0, 104.0]]]], [[[[1.0, 1.0, 1.0]]]])], "none"),
        ([rescaling(1 / 255), normalization([[[[0.485, 0.456, 0.406]]]], [[[[0.05, 0.05, 0.05]]]])], "none"),
        ([("ZeroPadding2D", {"padding": 1, "name": "pad"}), rescaling(1 / 255), ("Cropping2D", {"cropping": 1, "name": "crop"})], "none"),
        ([resizing("bilinear"), rescaling(1 / 255)], "none"),
        ([rescaling(255.0), resizing("nearest")], "unit"),
        ([resizing("bilinear")], "unknown"),
        ([rescaling(1.0)], "unknown"),
        ([rescaling(127.5, 127.5)], "unknown"),
        ([rescaling(1 / 65535)], "unknown"),
        ([normalization([[[[-0.03, -0.09, -0.19]]]], [[[[0.21, 0.2, 0.2]]]])], "unknown"),
        ([normalization([[[[0.01, 0.0, -0.01]]]], [[[[0.98, 0.98, 0.98]]]])], "unknown"),
        ([normalization([[[[-600.0] * 3]]], [[[[160000.0] * 3]]])], "unknown"),
        ([rescaling(-1 / 255, 1.0)], "none"),
        ([], "unknown"),
    ],
)
def test_arithmetic_in_the_model_tells(tmp_path, before, mode, caplog):
    taken = (6, 11, 3) if any(kind == "Resizing" for kind, _ in before) else (8, 8, 3)
    model = nplrp.load(write(tmp_path / "m.h5", *before, taken=taken))
    assert model.preprocessing.mode == mode and not caplog.records
    assert ("its layer" in model.preprocessing.source) == (mode != "unknown")


def test_the_file_says_so(tmp_path, caplog):
    said = {"nplrp_preprocessing": json.dumps({"mode": "torch", "resample": "bicubic", "crop": True, "resize_to": 9})}
    model = nplrp.load(write(tmp_path / "m.h5", attributes=said))
    assert model.preprocessing == Preprocessing("torch", "bicubic", True, 9) and model.preprocessing.source == "the file"
    assert not caplog.records
    other = nplrp.load(write(tmp_path / "m.h5", attributes=said), preprocessing="tf")
    assert other.preprocessing == Preprocessing("tf", "bicubic", True, 9) and other.preprocessing.source == "given"
    assert caplog.messages == ["pictures are prepared as tf, as was asked for; by the file it would be torch"]


def test_official_weights_tell(caplog):
    for name, mode in (("resnet50", "caffe"), ("mobilenetv2", "tf"), ("densenet121", "torch"), ("vgg16", "caffe"), ("inceptionv3", "tf")):
        network = keras_config.parse(architectures.configurations(name, lambda *_: None)[0])
        model = build(network.input_shape, [item.layer for item in network.layers if not item.variables] and _shaped(network), network.name)
        found = prepared(model, None, None, None)
        assert (found.mode, found.source) == (mode, f"official weights of {name if mode == 'caffe' else found.source.split()[-1]}")
        assert not caplog.records


def _shaped(network):
    """A network's layers with arrays of zeros."""
    rng = np.random.default_rng(0)

    def layer(item):
        arrays = {key: np.abs(rng.normal(size=shape)).astype("f") for key, shape in item.variables.items()}
        return nplrp.files.weights.replace(item.layer, arrays=item.arrays(arrays)) if item.variables else item.layer

    return [layer(item) for item in network.layers]


# --- assumed, and said --------------------------------------------------------------------------------------------------


def test_a_vgg_with_other_weights_is_assumed(tmp_path, caplog):
    model = nplrp.load(write_by_name(tmp_path / "w.h5", vgg()))
    assert model.preprocessing == Preprocessing("caffe") and model.preprocessing.assumed
    (message,) = (each for each in caplog.messages if "pictures" in each)
    assert "assuming caffe, as for the official weights of vgg16 (another: --preprocessing caffe|tf|torch|unit|none|MEAN,STD" in message
    caplog.clear()
    assert nplrp.load(tmp_path / "w.h5", preprocessing="unit").preprocessing.source == "given"
    assert "pictures" not in caplog.text


def test_an_assumption_is_not_written_as_a_fact(tmp_path):
    from weights_tools.write_hdf5 import write as write_out

    path = write_by_name(tmp_path / "w.h5", vgg())
    write_out(nplrp.load(path), tmp_path / "out.h5", path, "tests")
    assert nplrp.load(tmp_path / "out.h5").preprocessing.assumed
    write_out(nplrp.load(path, preprocessing="1,2"), tmp_path / "out.h5", path, "tests", True)
    assert nplrp.load(tmp_path / "out.h5").preprocessing == Preprocessing("1,2")


def test_what_was_assumed_stands_everywhere(tmp_path, capsys):
    from PIL import Image

    path, picture = write_by_name(tmp_path / "w.h5", vgg()), tmp_path / "x.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)).save(picture)
    assert main(["explain", str(picture), "-w", str(path), "-c", "epsilon", "--json"]) == 0
    out, err = capsys.readouterr()
    assert "assumed, as for the official weights of vgg16" in json.loads(out)["results"][0]["about"]["preprocessing"]["source"]
    assert err.count("assuming caffe") == 1
    assert main(["info", str(path)]) == 0
    assert "caffe preprocessing (assumed, as for the official weights of vgg16)" in capsys.readouterr().out
    assert main(["explain", str(picture), "-w", str(path), "-c", "epsilon", "--json", "--preprocessing", "unit"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["results"][0]["about"]["preprocessing"] | {"resample": "nearest"} == {
        "mode": "unit",
        "resample": "nearest",
        "crop": False,
        "resize_to": None,
        "source": "given",
    }
    assert "assuming" not in err


# --- unknown ------------------------------------------------------------------------------------------------------------


def test_what_nothing_tells_is_refused(tmp_path, capsys):
    from PIL import Image

    path, picture = write(tmp_path / "m.h5"), tmp_path / "x.png"
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(picture)
    model = nplrp.load(path)
    with pytest.raises(ImageError, match="nothing tells how this model's pictures were prepared; say how it was trained: --preprocessing"):
        nplrp.preprocess(str(picture), model)
    assert np.array_equal(nplrp.preprocess(str(picture), model, preprocessing="tf"), np.full((1, 8, 8, 3), -1, np.float32))
    nplrp.explain(model, np.zeros((1, 8, 8, 3)), "epsilon")
    with pytest.raises(RuleError, match=r"nothing tells how this model's pictures were prepared; .*; or give low and high, the box"):
        nplrp.explain(model, np.zeros((1, 8, 8, 3)), "epsilon_gamma_box")
    nplrp.explain(model, np.zeros((1, 8, 8, 3)), "epsilon_gamma_box(low=-1, high=1)")
    assert main(["predict", str(picture), "-w", str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert main(["predict", str(picture), "-w", str(path), "--preprocessing", "127.5,127.5"]) == 0


def test_grey_pictures(tmp_path):
    model = nplrp.load(write(tmp_path / "m.h5", shape=(8, 8, 1)), preprocessing="unit")
    assert nplrp.preprocess(np.full((9, 9), 255, np.uint8), model).max() == 1
    with pytest.raises(ImageError, match="'caffe' is for 3 channels, the model's input has 1"):
        nplrp.preprocess(np.zeros((9, 9), np.uint8), model, preprocessing="caffe")


# --- the arithmetic -----------------------------------------------------------------------------------------------------


def test_numbers():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 3), dtype=np.uint8)
    np.testing.assert_allclose(normalize(pixels, "127.5,127.5"), normalize(pixels, "tf"), atol=1e-6)
    each = "123.675,116.28,103.53,58.395,57.12,57.375"
    np.testing.assert_allclose(normalize(pixels, each), normalize(pixels, "torch"), atol=1e-5)
    assert pixel_bounds("100,-50", 1) == ((-3.1,), (2.0,))
    for mode in MODES:
        low, high = pixel_bounds(mode)
        corners = normalize(np.array([[[[0] * 3, [255] * 3]]], np.uint8), mode).reshape(2, 3)
        assert np.allclose(corners.min(axis=0), low, atol=1e-5) and np.allclose(corners.max(axis=0), high, atol=1e-5)


@pytest.mark.parametrize("mode", ["Caffe", "", "1", "1,0", "0,1e-50", "1e39,1", "1,2,3", "nan,1", "1,inf", "unknown", "a,b"])
def test_no_such_mode(mode, tmp_path):
    with pytest.raises(WeightsError, match=r"unknown preprocessing '.*'; expected caffe, tf, torch, unit, none, or numbers MEAN,STD"):
        nplrp.load(write(tmp_path / "m.h5"), preprocessing=mode)


def test_numbers_for_other_channels():
    with pytest.raises(ImageError, match="is for 3 channels, the model's input has 1"):
        arithmetic("1,2,3,4,5,6", 1)


# --- inputs that can hardly be right ------------------------------------------------------------------------------------


def picture_of(mode):
    pixels = np.random.default_rng(0).integers(0, 256, (2, 8, 8, 3), dtype=np.uint8)
    pixels[0, 0, 0], pixels[0, 0, 1] = 0, 255
    return normalize(pixels, mode), pixels


@pytest.mark.parametrize("mode", [*MODES, "1,2", "unknown"])
def test_what_a_mode_gives_is_not_doubted(mode):
    x, _ = picture_of("none" if mode == "unknown" else mode)
    assert suspicion(x, mode) == "" and suspicion(x[:, :1, :1] * 0, mode) == ""
    if mode not in ("tf", "unit", "none"):
        assert suspicion(np.random.default_rng(1).normal(size=(2, 8, 8, 3)), mode) == ""


@pytest.mark.parametrize("mode", ["caffe", "tf", "torch", "unit"])
def test_pixels_as_they_are_are_doubted(mode):
    _, pixels = picture_of("none")
    for x in (pixels, pixels.astype(np.float32), pixels.astype(np.int64)):
        assert "make it with nplrp.preprocess(images, model)" in suspicion(x, mode), x.dtype


def test_other_doubts():
    x, pixels = picture_of("caffe")
    assert "opposite order (RGB for BGR)" in suspicion(x[..., ::-1], "caffe")
    assert "multiply it by 255" in suspicion(pixels / 255, "none")
    assert "pixels as they are" in suspicion(pixels, "unknown")
    for wrong in ("tf", "torch", "unit"):
        assert "those of another mode" in suspicion(picture_of(wrong)[0] / 2.7, "caffe")
    assert "pictures prepared as 'none'" in suspicion(picture_of("tf")[0], "none")
    assert suspicion(pixels, "none") == "" and suspicion(pixels.reshape(2, -1), "caffe") == ""


def test_doubts_are_warnings():
    model, (x, pixels) = small_vgg(), picture_of("caffe")
    for call in (nplrp.forward, nplrp.explain, nplrp.predict):
        with pytest.warns(InputWarning, match="make it with nplrp.preprocess"):
            call(model, pixels)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            call(model, x)


def test_vectors_have_no_pictures():
    model = chain((7,), [nplrp.model.Layer("r", "activation", (), (), "relu")])
    with pytest.raises(ImageError, match=r"takes input of shape \(7,\)"):
        nplrp.preprocess(np.zeros((9, 9, 3), np.uint8), model)


# --- open sides ---------------------------------------------------------------------------------------------------------


def test_open_sides_are_said(tmp_path, caplog):
    layers = [("conv", [np.zeros((3, 3, 3, 2), "f"), np.zeros(2, "f")])]
    path = write_by_name(tmp_path / "w.h5", layers, config=sequential(("Conv2D", CONV), shape=(None, None, 3)))
    with caplog.at_level(logging.WARNING):
        assert nplrp.load(path, preprocessing="caffe").input_shape == (224, 224, 3)
    assert caplog.messages == [
        "the sides of the model's input are open: assuming 224 x 224 (another: --input-size HxW, load(..., input_size=))"
    ]
    caplog.clear()
    assert nplrp.load(path, preprocessing="caffe", input_size=96).input_shape == (96, 96, 3)
    assert nplrp.load(path, preprocessing="caffe", input_size=(64, 96)).input_shape == (64, 96, 3)
    assert nplrp.load(path, input_size=64).content_hash != nplrp.load(path, input_size=96).content_hash
    for wrong in (0, -3, 2.5, (1, 2, 3), "8x8", (0, 4)):
        with pytest.raises(WeightsError, match="the input size is"):
            nplrp.load(path, input_size=wrong)


def test_sizes_on_the_command_line(tmp_path, capsys):
    path = write_by_name(tmp_path / "w.h5", vgg(head=()))
    for text, shown in (("64", "64 x 64 x 3"), ("64x96", "64 x 96 x 3"), ("64X96", "64 x 96 x 3")):
        assert main(["info", str(path), "--input-size", text]) == 0
        assert f"input           {shown}" in capsys.readouterr().out
    for text in ("0", "64x", "axb", "64x96x3"):
        with pytest.raises(SystemExit):
            main(["info", str(path), "--input-size", text])
        assert "is no size; expected a number of pixels, or HxW such as 150x200" in capsys.readouterr().err
