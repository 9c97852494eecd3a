"""Shapes of kinds whose operations are on their way; read from configurations, not computed yet."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers import operators, shapes
from nplrp.layers.base import Kind, Layer, Shape, check_vector, fits, image_shape, window_of
from nplrp.layers.config import Call, Tensor
from nplrp.layers.conv import DEPTHWISE_READERS, TRANSPOSED_READERS


def _step(layer: Layer) -> dict[str, Any]:
    raise ModelError(f"layer {layer.name!r}: {layer.kind} can't be computed yet")


def _broadcast(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    try:
        return tuple(int(side) for side in np.broadcast_shapes(*given))
    except ValueError:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) gets {', '.join(map(str, given))}, which don't fit each other") from None


def _concatenated(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    axis = layer.options["axis"]
    rest = {(*shape[:axis], *shape[axis + 1 :]) for shape in given}
    if len(rest) > 1 or len({len(shape) for shape in given}) > 1:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) gets {', '.join(map(str, given))}, which don't fit each other")
    return fits(layer, given[0], (*given[0][:axis], sum(shape[axis] for shape in given), *given[0][axis + 1 :]))


def _depthwise(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    image, kernel, window = image_shape(layer, given), layer.arrays["kernel"], window_of(layer)
    if kernel.ndim != 4 or kernel.shape[:3] != (*window.size, image[2]):
        raise ModelError(f"layer {layer.name!r}: its kernel has shape {kernel.shape}, which doesn't fit {image}")
    channels = kernel.shape[2] * kernel.shape[3]
    check_vector(layer, "bias", channels)
    return fits(layer, image, (*window.output_size(*image[:2]), channels))


def _transposed(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    image, kernel, window = image_shape(layer, given), layer.arrays["kernel"], window_of(layer)
    more, sides = layer.options.get("output_padding"), []
    for i in range(2):
        k = (window.size[i] - 1) * window.dilation[i] + 1
        s, n = window.stride[i], image[i]
        if more is None:
            sides.append(n * s if window.padding == "same" else n * s + max(k - s, 0))
        else:
            pad = k // 2 if window.padding == "same" else 0
            sides.append((n - 1) * s + k - 2 * pad + more[i])
    return fits(layer, image, (sides[0], sides[1], kernel.shape[2]))


def _reshaped(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    before, wanted = math.prod(given[0]), list(layer.options["shape"])
    known = math.prod(side for side in wanted if side != -1)
    if wanted.count(-1) == 1 and known and before % known == 0:
        wanted = [before // known if side == -1 else side for side in wanted]
    if math.prod(wanted) != before or min(wanted) < 1:
        raise ModelError(f"layer {layer.name!r} (reshape): {given[0]} can't become {tuple(layer.options['shape'])}")
    return tuple(wanted)


def _permuted(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    return tuple(given[0][axis - 1] for axis in layer.options["dims"])


def _cropped(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    image, (top, bottom, left, right) = image_shape(layer, given), layer.pads or (0, 0, 0, 0)
    return fits(layer, image, (image[0] - top - bottom, image[1] - left - right, image[2]))


def _upsampled(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    image, (rows, columns) = image_shape(layer, given), layer.options["size"]
    return fits(layer, image, (image[0] * rows, image[1] * columns, image[2]))


def _resized(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    image = image_shape(layer, given)
    return fits(layer, image, (*layer.options["size"], image[2]))


def _same(layer: Layer, given: tuple[Shape, ...]) -> Shape:
    return given[0]


# Norms: readers


def _norm(call: Call) -> Tensor:
    x = call.tensor
    axes = call.axes(call.get("axis"), len(x.axes))
    return _normed(call, x, axes, {"rms_scaling": True} if call.only("rms_scaling", False, True) else {})


def _normed(call: Call, x: Tensor, axes: tuple[int, ...], options: dict[str, Any]) -> Tensor:
    places = [x.axes[axis] for axis in axes]
    shape = tuple(x.shape[place] for place in places)  # as Keras has the arrays
    kept = tuple(x.keras_shape[axis] for axis in sorted(axes))  # how Keras broadcasts them
    order = np.argsort([x.axes[axis] for axis in sorted(axes)]).tolist()
    if "RMS" in call.class_name:
        variables = {"scale": shape}
    else:
        given = [key for key, option in (("gamma", "scale"), ("beta", "center")) if call.only(option, True, False)]
        given = [key for key in given if key == "gamma" or not options.get("rms_scaling")]
        variables = dict.fromkeys(given, shape)

    def make(arrays: Any) -> Any:
        return {"gamma" if key == "scale" else key: array.reshape(kept).transpose(order) for key, array in arrays.items()}

    return call.add("layernorm", x, variables=variables, make=make, epsilon=call.epsilon(), options={"axes": sorted(places), **options})


def _rms(call: Call) -> Tensor:
    x = call.tensor
    return _normed(call, x, call.axes(call.get("axis"), len(x.axes)), {"uncentred": True})


def _group(call: Call) -> Tensor:
    x = call.tensor
    (axis,) = call.axes(call.get("axis"), len(x.axes))
    x = call.last(x, axis)
    channels, groups = x.shape[-1], call.get("groups")
    groups = channels if groups == -1 else groups
    if isinstance(groups, bool) or not isinstance(groups, int) or groups < 1 or channels % groups:
        raise ValueError(f"groups={groups!r} doesn't divide {channels} channels")
    given = [key for key, option in (("gamma", "scale"), ("beta", "center")) if call.only(option, True, False)]
    return call.add("groupnorm", x, variables=dict.fromkeys(given, (channels,)), epsilon=call.epsilon(), options={"groups": groups})


def _unit(call: Call) -> Tensor:
    x = call.tensor
    return call.add("unitnorm", x, options={"axes": sorted(x.axes[axis] for axis in call.axes(call.get("axis"), len(x.axes)))})


def _prelu(call: Call) -> Tensor:
    x, shared = call.tensor, call.get("shared_axes")
    rank = len(x.axes)
    same = call.axes(shared, rank) if shared else ()
    shape = tuple(1 if i in same else side for i, side in enumerate(x.keras_shape))
    order = sorted(range(rank), key=lambda i: x.axes[i])
    stored = tuple(shape[i] for i in order)

    def make(arrays: Any) -> Any:
        alpha = arrays["alpha"].transpose(order)
        return {"alpha": alpha.reshape((1,) * (len(x.shape) - rank) + stored)}

    return call.add("prelu", x, variables={"alpha": shape}, make=make)


_SEVERAL = (2, 1 << 20)
KINDS = (
    Kind("add", _broadcast, _step, _SEVERAL, keras=operators.ADD),
    Kind("subtract", _broadcast, _step, (2, 2), keras=operators.SUBTRACT),
    Kind("multiply", _broadcast, _step, _SEVERAL, keras=operators.MULTIPLY),
    Kind("average", _broadcast, _step, _SEVERAL, keras=operators.AVERAGE),
    Kind("maximum", _broadcast, _step, _SEVERAL, keras=operators.MAXIMUM),
    Kind("minimum", _broadcast, _step, _SEVERAL, keras=operators.MINIMUM),
    Kind("concatenate", _concatenated, _step, _SEVERAL, keras=shapes.CONCATENATE),
    Kind("depthwise", _depthwise, _step, keras=DEPTHWISE_READERS),
    Kind("conv_transpose", _transposed, _step, keras=TRANSPOSED_READERS),
    Kind("reshape", _reshaped, _step, keras=shapes.RESHAPE),
    Kind("permute", _permuted, _step, keras=shapes.PERMUTE),
    Kind("crop", _cropped, _step, keras=shapes.CROP),
    Kind("upsample", _upsampled, _step, keras=shapes.UPSAMPLE),
    Kind("resize", _resized, _step, keras=shapes.RESIZE),
    Kind("layernorm", _same, _step, keras={"LayerNormalization": _norm, "RMSNormalization": _rms}),
    Kind("groupnorm", _same, _step, keras={"GroupNormalization": _group}),
    Kind("unitnorm", _same, _step, keras={"UnitNormalization": _unit}),
    Kind("prelu", _same, _step, keras={"PReLU": _prelu}),
)
OPERATIONS: tuple[Any, ...] = ()
