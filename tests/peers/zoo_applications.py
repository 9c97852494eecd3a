"""Narrow versions of the networks of keras.applications, at full depth where that stays small, for the zoo.

Where a constructor takes widths they are small ones; elsewhere the numbers of filters in the built network's configuration are
divided, and the network is built anew from that.
"""

import importlib
import json
from functools import partial

from tests.peers.zoo_everyday import Builder

PIXELS = (0.0, 255.0)
#: What preprocessing by subtracted means leaves, and by division by 127.5.
CENTRED, UNIT = (-120.0, 130.0), (-1.0, 1.0)


def module(k, name):
    """Return a module of keras.applications, with the functions that it doesn't export."""
    return importlib.import_module(f"{k.__name__}.src.applications.{name}")


def thin(k, model, divide):
    """Return a network like `model` with its filters and units divided, its outputs kept."""
    config = json.loads(model.to_json())
    tops = {layer.name for layer in model.layers[-1:]}

    def smaller(entry):
        options = entry["config"]
        entry.pop("build_config", None)
        if entry["class_name"] in ("Conv2D", "SeparableConv2D", "Dense") and options["name"] not in tops:
            key = "units" if entry["class_name"] == "Dense" else "filters"
            options[key] = max(1, options[key] // divide)
        if entry["class_name"] == "Reshape" and options["name"] not in tops:
            *sides, channels = options["target_shape"]
            options["target_shape"] = [*sides, max(1, channels // divide)]

    for entry in config["config"]["layers"]:
        smaller(entry)
    return k.models.model_from_json(json.dumps(config))


def _thin(name, divide, side, k, L):
    return thin(k, getattr(k.applications, name)(weights=None, input_shape=(side, side, 3), classes=5), divide)


def _alpha(name, alpha, side, k, L, **options):
    return getattr(k.applications, name)(weights=None, input_shape=(side, side, 3), classes=5, alpha=alpha, **options)


def _efficientnet(k, L):
    make = module(k, "efficientnet").EfficientNet
    return make(0.25, 0.4, 32, input_shape=(32, 32, 3), weights=None, classes=5, **_name(k, "efficientnetb0"))


def _efficientnet_v2(version, k, L):
    make = module(k, "efficientnet_v2").EfficientNetV2
    return make(0.25, 0.3, 32, input_shape=(32, 32, 3), weights=None, classes=5, **_name(k, version))


def _convnext(k, L):
    make = module(k, "convnext").ConvNeXt
    depths, widths = [1, 1, 2, 1], [6, 8, 12, 16]
    return make(depths, widths, drop_path_rate=0.1, default_size=32, input_shape=(64, 64, 3), classes=5, **_name(k, "convnext_tiny"))


def _nasnet(k, L):
    make = module(k, "nasnet").NASNet
    return make((32, 32, 3), 96, num_blocks=1, stem_block_filters=4, skip_reduction=False, weights=None, classes=5, default_size=32)


def _regnet(kind, k, L):
    make = module(k, "regnet").RegNet
    options = {"input_shape": (64, 64, 3), "weights": None, "classes": 5, "model_name": f"regnet{kind.lower()}002"}
    return make([1, 1, 2, 1], [8, 12, 16, 24], 4, kind, 64, **options)


def _resnet_rs(k, L):
    model = module(k, "resnet_rs").ResNetRS(50, input_shape=(64, 64, 3), weights=None, classes=5, model_name="resnet-rs-50")
    return thin(k, model, 16)


def _name(k, name):
    """Return the option that names a network: Keras 2 calls it another name."""
    return {"name": name} if k.__name__ == "keras" else {"model_name": name}


def _entry(build, side, pixels, *features, dialects=()):
    layers = dialects[0] if dialects else "keras3"
    return Builder(build, (side, side, 3), ("application", *features), dialects, pixels=pixels, layers=layers)


BUILDERS = {
    "vgg16": _entry(partial(_thin, "VGG16", 16, 32), 32, CENTRED),
    "mobilenet": _entry(partial(_alpha, "MobileNet", 0.125, 32), 32, UNIT, "DepthwiseConv2D", "ReLU6"),
    "mobilenet_v2": _entry(partial(_alpha, "MobileNetV2", 0.125, 32), 32, UNIT, "residual", "DepthwiseConv2D", "ReLU6"),
    "mobilenet_v3_small": _entry(partial(_alpha, "MobileNetV3Small", 0.125, 32), 32, PIXELS, "residual", "gate", "hard_silu"),
    "mobilenet_v3_large": _entry(partial(_alpha, "MobileNetV3Large", 0.125, 32), 32, PIXELS, "residual", "gate", "hard_silu"),
    "densenet121": _entry(partial(_thin, "DenseNet121", 8, 32), 32, UNIT, "Concatenate"),
    "resnet50": _entry(partial(_thin, "ResNet50", 16, 32), 32, CENTRED, "residual"),
    "resnet50_v2": _entry(partial(_thin, "ResNet50V2", 16, 32), 32, UNIT, "residual", "pre-activation"),
    "inception_v3": _entry(partial(_thin, "InceptionV3", 16, 75), 75, UNIT, "Concatenate"),
    "inception_resnet_v2": _entry(partial(_thin, "InceptionResNetV2", 16, 75), 75, UNIT, "residual", "Concatenate"),
    "xception": _entry(partial(_thin, "Xception", 16, 71), 71, UNIT, "residual", "SeparableConv2D"),
    "nasnet": _entry(_nasnet, 32, UNIT, "residual", "SeparableConv2D", "Cropping2D"),
    "efficientnet_b0": _entry(_efficientnet, 32, PIXELS, "residual", "gate", "swish"),
    "efficientnet_v2_b0": _entry(partial(_efficientnet_v2, "efficientnetv2-b0"), 32, PIXELS, "residual", "gate", "swish"),
    "efficientnet_v2_s": _entry(partial(_efficientnet_v2, "efficientnetv2-s"), 32, PIXELS, "residual", "gate", "swish"),
    "convnext": _entry(_convnext, 64, PIXELS, "residual", "nested", "LayerNormalization", "gelu"),
    "regnet_x": _entry(partial(_regnet, "X"), 64, PIXELS, "residual", "groups", dialects=("keras2",)),
    "regnet_y": _entry(partial(_regnet, "Y"), 64, PIXELS, "residual", "groups", "gate", dialects=("keras2",)),
    "resnet_rs50": _entry(_resnet_rs, 64, PIXELS, "residual", "gate", dialects=("keras2",)),
}
