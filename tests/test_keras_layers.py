"""Forward passes of single layers against stored numbers of Keras in float64 (tests/peers/keras_layers.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp.layers import Layer, Window
from nplrp.model import build
from tests.networks import plain

PEERS = Path(__file__).parent / "data" / "peers"


def stored():
    found = {}
    for file in ("keras_layers", "keras_layers_dilated"):
        with np.load(PEERS / f"{file}.npz") as data:
            for key in data.files:
                case, _, name = key.rpartition("/")
                found.setdefault(case, {})[name] = data[key]
    return found


CASES = stored()


def window(size, stride=(1, 1), dilation=(1, 1), padding="valid"):
    return Window(tuple(size), tuple(stride), tuple(dilation), padding)


def layers_of(name, options, shape, weights):
    """What a reader makes of one layer of Keras, in a few lines: see the table of kinds."""
    arrays = dict(zip(("kernel", "bias"), weights, strict=False))
    if name.endswith("1D") or name == "Conv1DTranspose":
        return as_images(name, options, shape, weights)
    if name in ("Conv2D", "DepthwiseConv2D", "Conv2DTranspose"):
        kind = {"Conv2D": "conv", "DepthwiseConv2D": "depthwise", "Conv2DTranspose": "conv_transpose"}[name]
        moved = (options.get(key, [1, 1]) for key in ("strides", "dilation_rate"))
        own = window(options["kernel_size"], *moved, options.get("padding", "valid"))
        return [
            Layer("l", kind, window=own, arrays=arrays, options={k: v for k, v in options.items() if k in ("groups", "output_padding")})
        ]
    if name in ("MaxPooling2D", "AveragePooling2D"):
        own = window(options["pool_size"], options["strides"], padding=options["padding"])
        return [Layer("l", name[:3].lower().replace("ave", "avg") + "pool", window=own)]
    if name.startswith("Global"):
        kind = "global_maxpool" if "Max" in name else "global_avgpool"
        return [Layer("l", kind, keepdims=options["keepdims"])]
    if name.endswith("Normalization"):
        axes = options.get("axis", -1)
        axes = [len(shape) - 1] if axes == -1 else [axis - 1 for axis in axes]
        kind = {"Layer": "layernorm", "RMS": "rmsnorm", "Unit": "unitnorm", "Group": "groupnorm"}[name.removesuffix("Normalization")]
        keys = [key for key, flag in (("gamma", "scale"), ("beta", "center")) if options.get(flag, True)]
        more = {"groups": options["groups"]} if kind == "groupnorm" else {"axes": axes}
        more |= {"rms_scaling": True} if options.get("rms_scaling") else {}
        default = 1e-7 if kind == "rmsnorm" else 1e-3
        arrays = dict(zip(keys, weights, strict=False))
        return [Layer("l", kind, epsilon=options.get("epsilon", 1e-6 if kind == "rmsnorm" else default), arrays=arrays, options=more)]
    if name == "UpSampling2D":
        return [plain("l", "upsample", options=options)]
    if name == "Resizing":
        return [plain("l", "resize", options={"size": [options["height"], options["width"]], "interpolation": options["interpolation"]})]
    if name == "PReLU":
        return [Layer("l", "prelu", arrays={"alpha": weights[0]})]
    if name in ("Cropping2D", "ZeroPadding2D"):
        sides = options.get("cropping") or options["padding"]
        return [plain("l", "crop" if name == "Cropping2D" else "pad", pads=(*sides[0], *sides[1]))]
    if name in ("Permute", "Reshape"):
        return [plain("l", name.lower(), options={"dims": options.get("dims"), "shape": options.get("target_shape")})]
    assert name == "Dense"
    return [Layer("l", "dense", arrays=arrays)]


def as_images(name, options, shape, weights):
    """A layer of sequences as one of images of height 1."""
    options = dict(options)
    for key in ("kernel_size", "strides", "dilation_rate", "pool_size"):
        if key in options:
            options[key] = [1, options[key]]
    two = name.replace("1D", "2D")
    if name.startswith("Global"):
        options["keepdims"] = False
    weights = [w[None] if w.ndim == 3 else w for w in weights]
    (layer,) = layers_of(two, options, (1, *shape), weights)
    after = build((1, *shape), [layer]).output_shape
    if len(after) == 1:
        return [plain("as_image", "reshape", options={"shape": [1, *shape]}), layer]
    back = plain("back", "reshape", options={"shape": list(after[1:])})
    return [plain("as_image", "reshape", options={"shape": [1, *shape]}), layer, back]


@pytest.mark.parametrize("case", CASES)
def test_forward_is_that_of_keras(case):
    data = CASES[case]
    name, options = json.loads(str(data["config"]))
    weights = [data[f"w{k}"] for k in range(sum(key.startswith("w") for key in data))]
    model = build(data["x"].shape[1:], layers_of(name, options, data["x"].shape[1:], weights))
    found = list(nplrp.forward(model, data["x"].astype(float), dtype="float64").values())[-1]
    assert found.shape == data["y"].shape
    single = options.get("interpolation") == "bilinear"  # TensorFlow computes these in float32
    assert np.abs(found - data["y"]).max() <= (2e-6 if single else 1e-12) * np.abs(data["y"]).max()
    rough = list(nplrp.forward(model, data["x"], dtype="float32").values())[-1]
    assert rough.dtype == np.float32
    assert np.abs(rough - data["y"]).max() <= 2e-6 * np.abs(data["y"]).max()


def test_how_many_cases_there_are():
    assert len(CASES) == 141
