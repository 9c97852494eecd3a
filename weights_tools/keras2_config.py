"""A chain of layers -> the `model_config` that Keras 2 writes, which Keras 3 reads too."""

from __future__ import annotations

from typing import Any

from nplrp.errors import ModelError
from nplrp.model import Layer, Model, Window

#: Our names of a layer's arrays, in Keras's order -> Keras's.
ARRAYS = {
    "kernel": "kernel",
    "bias": "bias",
    "gamma": "gamma",
    "beta": "beta",
    "mean": "moving_mean",
    "variance": "moving_variance",
}


def model_config(model: Model) -> dict[str, Any]:
    """Describe a model as Keras 2's Functional, one layer after the other.

    Raises
    ------
    ModelError
        If a layer applies an activation that Keras would need a layer of its own for.
    """
    names = [layer.name for layer in model.layers]
    before = _input_name(names)
    shape = [None, *model.input_shape]
    entries: list[dict[str, Any]] = [
        {
            "class_name": "InputLayer",
            "config": {"batch_input_shape": shape, "dtype": "float32", "sparse": False, "ragged": False, "name": before},
            "name": before,
            "inbound_nodes": [],
        }
    ]
    first = before
    for layer in model.layers:
        class_name, options = _class_and_options(layer)
        config = {"name": layer.name, "trainable": True, "dtype": "float32", **options}
        entries.append({"class_name": class_name, "config": config, "name": layer.name, "inbound_nodes": [[[before, 0, 0, {}]]]})
        before = layer.name
    ends = {"input_layers": [[first, 0, 0]], "output_layers": [[before, 0, 0]]}
    return {"class_name": "Functional", "config": {"name": model.name, "trainable": True, "layers": entries, **ends}}


def _input_name(taken: list[str]) -> str:
    number = 1
    while f"input_{number}" in taken:
        number += 1
    return f"input_{number}"


def _class_and_options(layer: Layer) -> tuple[str, dict[str, Any]]:
    """Return a layer's class in Keras and what its constructor takes."""
    if layer.activation != "linear" and layer.kind not in ("conv", "dense", "activation"):
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}) applies {layer.activation!r} itself, which no Keras layer of this kind does; "
            "put an activation layer behind it"
        )
    bias = {"use_bias": "bias" in layer.arrays}
    if layer.kind == "conv":
        window = _window(layer)
        options = {"filters": layer.arrays["kernel"].shape[3], "kernel_size": list(window.size), "dilation_rate": list(window.dilation)}
        return "Conv2D", {**options, **_movement(window), "groups": 1, "activation": layer.activation, **bias}
    if layer.kind == "dense":
        return "Dense", {"units": layer.arrays["kernel"].shape[1], "activation": layer.activation, **bias}
    if layer.kind in ("maxpool", "avgpool"):
        window = _window(layer)
        name = "MaxPooling2D" if layer.kind == "maxpool" else "AveragePooling2D"
        return name, {"pool_size": list(window.size), **_movement(window)}
    if layer.kind in ("global_maxpool", "global_avgpool"):
        name = "GlobalMaxPooling2D" if layer.kind == "global_maxpool" else "GlobalAveragePooling2D"
        return name, {"data_format": "channels_last", "keepdims": layer.keepdims}
    if layer.kind == "batchnorm":
        has = {"scale": "gamma" in layer.arrays, "center": "beta" in layer.arrays}
        return "BatchNormalization", {"axis": -1, "momentum": 0.99, "epsilon": layer.epsilon, **has}
    if layer.kind == "pad":
        top, bottom, left, right = layer.pads or (0, 0, 0, 0)
        return "ZeroPadding2D", {"padding": [[top, bottom], [left, right]], "data_format": "channels_last"}
    if layer.kind == "flatten":
        return "Flatten", {"data_format": "channels_last"}
    if layer.kind == "activation":
        return "Activation", {"activation": layer.activation}
    # Dropout is what an identity was made from, and its rate isn't kept: nothing is computed with it.
    return "Dropout", {"rate": 0.0, "noise_shape": None, "seed": None}


def _movement(window: Window) -> dict[str, Any]:
    return {"strides": list(window.stride), "padding": window.padding, "data_format": "channels_last"}


def _window(layer: Layer) -> Window:
    if layer.window is None:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has no window")
    return layer.window
