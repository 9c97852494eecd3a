"""A graph of layers -> the `model_config` that Keras 2 writes, which Keras 3 reads too.

What Keras has no word for stands in our own words where Keras has its: a window's padding as four numbers, an activation with parameters
as a call. `nplrp.load` reads them; Keras refuses them by name, and never computes something else.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers.base import window_of
from nplrp.model import Layer, Model, sources
from nplrp.rules.rule import parse_call

#: Our names of a layer's arrays, in Keras's order -> Keras's.
ARRAYS: Mapping[str, str] = MappingProxyType(
    {
        "kernel": "kernel",
        "bias": "bias",
        "gamma": "gamma",
        "beta": "beta",
        "mean": "moving_mean",
        "variance": "moving_variance",
        "alpha": "alpha",
    }
)
#: Where Keras's name depends on the kind of layer.
_ARRAYS_OF: Mapping[str, Mapping[str, str]] = MappingProxyType(
    {"depthwise": {"kernel": "depthwise_kernel"}, "rmsnorm": {"gamma": "scale"}, "affine": {}}
)
#: Our names of activations -> Keras 2's, where they differ; empty parentheses mark what Keras 2 means otherwise by the name.
_WORDS = {"hard_sigmoid_2": "hard_sigmoid", "hard_sigmoid": "hard_sigmoid()", "relu(max_value=6.0)": "relu6", "silu": "swish"}

Options = dict[str, Any]


def stored_arrays(layer: Layer) -> dict[str, np.ndarray]:
    """Return the arrays that a layer keeps in the file, by Keras's names and in its order; constants stand in the configuration."""
    if layer.kind == "affine":
        return {}
    names = {**ARRAYS, **_ARRAYS_OF.get(layer.kind, {})}
    found = {names[key]: layer.arrays[key] for key in names if key in layer.arrays}
    if layer.kind == "prelu":
        found["alpha"] = _alpha(layer)
    return found


def model_config(model: Model) -> dict[str, Any]:
    """Describe a model as Keras 2's Functional.

    Raises
    ------
    ModelError
        If a layer applies an activation that Keras would need a layer of its own for.
    """
    names = [layer.name for layer in model.layers]
    first = _input_name(names)
    entries: list[dict[str, Any]] = [
        {
            "class_name": "InputLayer",
            "config": {
                "batch_input_shape": [None, *model.input_shape],
                "dtype": "float32",
                "sparse": False,
                "ragged": False,
                "name": first,
            },
            "name": first,
            "inbound_nodes": [],
        }
    ]
    for layer, reads in zip(model.layers, sources(model.layers), strict=True):
        class_name, options = _class_and_options(layer)
        config = {"name": layer.name, "trainable": True, "dtype": "float32", **options}
        node = [[names[i] if i >= 0 else first, 0, 0, {}] for i in reads]
        entries.append({"class_name": class_name, "config": config, "name": layer.name, "inbound_nodes": [node]})
    ends = {"input_layers": [[first, 0, 0]], "output_layers": [[names[-1] if names else first, 0, 0]]}
    return {"class_name": "Functional", "config": {"name": model.name, "trainable": True, "layers": entries, **ends}}


def _input_name(taken: list[str]) -> str:
    number = 1
    while f"input_{number}" in taken:
        number += 1
    return f"input_{number}"


def _class_and_options(layer: Layer) -> tuple[str, Options]:
    """Return a layer's class in Keras and what its constructor takes."""
    if layer.activation != "linear" and layer.kind not in ("conv", "depthwise", "conv_transpose", "dense", "activation"):
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}) applies {layer.activation!r} itself, which no Keras layer of this kind does; "
            "put an activation layer behind it"
        )
    entry = _CLASSES.get(layer.kind)
    if entry is None:
        raise ModelError(f"layer {layer.name!r} is of kind {layer.kind!r}, which Keras has no class for; it can't be written")
    class_name, options = entry
    return (class_name, options(layer)) if class_name else _activation(layer)


def _activation(layer: Layer) -> tuple[str, Options]:
    """Return the layer that Keras has for an activation with parameters, else its general one."""
    name, given = parse_call(layer.activation, "an activation")
    if name == "relu" and given:
        ends = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}
        return "ReLU", ends | given
    if name == "leaky_relu":
        return "LeakyReLU", {"alpha": given.get("negative_slope", 0.2)}
    if name == "elu" and given:
        return "ELU", given
    return "Activation", {"activation": _word(layer)}


def _word(layer: Layer) -> str:
    return _WORDS.get(layer.activation, layer.activation)


def _movement(layer: Layer) -> Options:
    window = window_of(layer)
    padding = window.padding if isinstance(window.padding, str) else list(window.padding)
    return {"strides": list(window.stride), "padding": padding, "data_format": "channels_last"}


def _convolution(layer: Layer) -> Options:
    window = window_of(layer)
    common = {"kernel_size": list(window.size), "dilation_rate": list(window.dilation), **_movement(layer)}
    return {**common, "activation": _word(layer), "use_bias": "bias" in layer.arrays}


def _conv(layer: Layer) -> Options:
    return {"filters": layer.arrays["kernel"].shape[3], **_convolution(layer), "groups": layer.options.get("groups", 1)}


def _depthwise(layer: Layer) -> Options:
    return {"depth_multiplier": layer.arrays["kernel"].shape[3], **_convolution(layer)}


def _conv_transpose(layer: Layer) -> Options:
    more = layer.options.get("output_padding")
    return {"filters": layer.arrays["kernel"].shape[2], **_convolution(layer), "output_padding": None if more is None else list(more)}


def _dense(layer: Layer) -> Options:
    return {"units": layer.arrays["kernel"].shape[1], "activation": _word(layer), "use_bias": "bias" in layer.arrays}


def _pool(layer: Layer) -> Options:
    return {"pool_size": list(window_of(layer).size), **_movement(layer)}


def _global_pool(layer: Layer) -> Options:
    return {"data_format": "channels_last", "keepdims": layer.keepdims}


def _scale_and_centre(layer: Layer) -> Options:
    return {"epsilon": layer.epsilon, "scale": "gamma" in layer.arrays, "center": "beta" in layer.arrays}


def _rescaling(layer: Layer) -> Options:
    """Return factors and summands as constants, exactly."""
    found = {}
    for key, default in (("scale", 1.0), ("offset", 0.0)):
        array = layer.arrays.get(key)
        found[key] = default if array is None else [float(each) for each in array]
    return found


def _sides(layer: Layer, key: str) -> Options:
    top, bottom, left, right = layer.pads or (0, 0, 0, 0)
    return {key: [[top, bottom], [left, right]], "data_format": "channels_last"}


def _axes(layer: Layer) -> list[int]:
    """Return the axes that a normalisation works over, counted with the batch."""
    return [axis + 1 for axis in layer.options.get("axes", (len(layer.output_shape) - 1,))]


def _layernorm(layer: Layer) -> Options:
    rms = {"rms_scaling": True} if layer.options.get("rms_scaling") else {}
    return {"axis": _axes(layer), **_scale_and_centre(layer), **rms}


def _resizing(layer: Layer) -> Options:
    height, width = layer.options["size"]
    how = layer.options.get("interpolation", "bilinear")
    corners = {"align_corners": True} if layer.options.get("align_corners") else {}  # our own word, see docs/weights-format.md
    return {"height": height, "width": width, "interpolation": how, "crop_to_aspect_ratio": False, **corners}


def _upsampling(layer: Layer) -> Options:
    how = layer.options.get("interpolation", "nearest")
    return {"size": list(layer.options["size"]), "interpolation": how, "data_format": "channels_last"}


def _alpha(layer: Layer) -> np.ndarray:
    """Return PReLU's slopes with as many axes as images have."""
    alpha = layer.arrays["alpha"]
    return alpha.reshape((1,) * (len(layer.output_shape) - alpha.ndim) + alpha.shape)


def _prelu(layer: Layer) -> Options:
    sides = zip(_alpha(layer).shape, layer.output_shape, strict=True)
    shared = [axis for axis, (side, whole) in enumerate(sides, 1) if side != whole]
    return {"shared_axes": shared or None}


#: Kinds of layers -> Keras's class, and what its constructor takes; activations have several classes.
_CLASSES: Mapping[str, tuple[str, Callable[[Layer], Options]]] = MappingProxyType(
    {
        "activation": ("", lambda layer: {}),
        "add": ("Add", lambda layer: {}),
        "affine": ("Rescaling", _rescaling),
        "average": ("Average", lambda layer: {}),
        "avgpool": ("AveragePooling2D", _pool),
        "batchnorm": ("BatchNormalization", lambda layer: {"axis": -1, "momentum": 0.99, **_scale_and_centre(layer)}),
        "concatenate": ("Concatenate", lambda layer: {"axis": layer.options["axis"] + 1}),
        "conv": ("Conv2D", _conv),
        "conv_transpose": ("Conv2DTranspose", _conv_transpose),
        "crop": ("Cropping2D", lambda layer: _sides(layer, "cropping")),
        "dense": ("Dense", _dense),
        "depthwise": ("DepthwiseConv2D", _depthwise),
        "flatten": ("Flatten", lambda layer: {"data_format": "channels_last"}),
        "global_avgpool": ("GlobalAveragePooling2D", _global_pool),
        "global_maxpool": ("GlobalMaxPooling2D", _global_pool),
        "groupnorm": (
            "GroupNormalization",
            lambda layer: {"groups": layer.options.get("groups", 1), "axis": -1, **_scale_and_centre(layer)},
        ),
        # Dropout is what an identity was made from, and its rate isn't kept: nothing is computed with it.
        "identity": ("Dropout", lambda layer: {"rate": 0.0, "noise_shape": None, "seed": None}),
        "layernorm": ("LayerNormalization", _layernorm),
        "maximum": ("Maximum", lambda layer: {}),
        "maxpool": ("MaxPooling2D", _pool),
        "minimum": ("Minimum", lambda layer: {}),
        "multiply": ("Multiply", lambda layer: {}),
        "pad": ("ZeroPadding2D", lambda layer: _sides(layer, "padding")),
        "permute": ("Permute", lambda layer: {"dims": list(layer.options["dims"])}),
        "prelu": ("PReLU", _prelu),
        "reshape": ("Reshape", lambda layer: {"target_shape": list(layer.options["shape"])}),
        "resize": ("Resizing", _resizing),
        "rmsnorm": ("RMSNormalization", lambda layer: {"axis": _axes(layer), "epsilon": layer.epsilon}),
        "subtract": ("Subtract", lambda layer: {}),
        "unitnorm": ("UnitNormalization", lambda layer: {"axis": _axes(layer)}),
        "upsample": ("UpSampling2D", _upsampling),
    }
)
