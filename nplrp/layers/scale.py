"""Batch norms and other layers that are y = g x + h, channel by channel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError, NumericsError, brief
from nplrp.layers.base import LINEAR, Carried, Fused, Kind, Layer, Operation, Shape, Step, Weights, check_vector, float64, scaled_outputs
from nplrp.layers.config import Arrays, Call, Tensor, constant
from nplrp.layers.lines import change_weight, changed_bias, clamps, runs, threads
from nplrp.layers.ties import point_row
from nplrp.rules.rule import Change, Part
from nplrp.workspace import Workspace


def shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Any shape; every array has one number for each channel."""
    if not shapes[0]:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) needs channels, but gets a single number from the layer before it")
    for key in ("gamma", "beta", "mean", "variance", "scale", "offset"):
        check_vector(layer, key, shapes[0][-1])
    return shapes[0]


def batch_norm(layer: Layer) -> dict[str, Any]:
    """Return a batch norm's g = gamma / sqrt(variance + epsilon) and h = beta - mean g, float64."""
    arrays = {key: np.asarray(array, dtype=np.float64) for key, array in layer.arrays.items()}
    variance = arrays["variance"] + layer.epsilon
    if not np.all(variance > 0):
        worst = int(np.argmin(variance))
        raise NumericsError(
            f"layer {layer.name!r}: variance + epsilon is {variance[worst]:g} at channel {worst}; it must be > 0: export the model again"
        )
    g = arrays.get("gamma", 1.0) / np.sqrt(variance)
    h = arrays.get("beta", 0.0) - arrays["mean"] * g
    return {"kind": "scale", "weight": np.asarray(g), "bias": np.asarray(h)}


def surrogate(layer: Layer) -> Weights:
    """Return what iNNvestigate's rules take a batch norm for: k = gamma / d, b = beta - mean / d, d = sqrt(variance^2 + epsilon)."""
    arrays = {key: np.asarray(array, dtype=np.float64) for key, array in layer.arrays.items()}
    deviation = np.sqrt(arrays["variance"] ** 2 + layer.epsilon)
    return arrays.get("gamma", 1.0) / deviation, arrays.get("beta", 0.0) - arrays["mean"] / deviation


def affine(layer: Layer) -> dict[str, Any]:
    """Return the g and h that a layer has as they are, 1 and 0 where it has none."""
    channels = layer.output_shape[-1]
    g, h = layer.arrays.get("scale"), layer.arrays.get("offset")
    return {"kind": "scale", "weight": np.ones(channels) if g is None else g, "bias": np.zeros(channels) if h is None else h}


def forward(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: np.ndarray, relu: bool, held: Any = None) -> np.ndarray:
    """Scale: term after term, the bias last."""
    from nplrp.kernels import elementwise

    nt, z = threads(), np.empty_like(inputs[0])
    for t, (a, change) in enumerate(zip(inputs, changes, strict=True)):
        term = z if t == 0 else np.empty_like(z)
        elementwise.affine(a, change_weight(step.weight, change), np.zeros_like(b), term, nt)
        if t > 0:
            z += term
    elementwise.add_bias(z, b, relu, nt)
    return z


def transpose(step: Step, s: np.ndarray, change: Change, held: Any, c: np.ndarray) -> None:
    """Write s times the changed weights to c."""
    from nplrp.kernels import elementwise

    g = change_weight(step.weight, change)
    elementwise.affine(s, g, np.zeros_like(g), c, threads())


def fused_forward(
    step: Step, inputs: Sequence[np.ndarray], relu: bool | float, parts: Sequence[Part], workspace: Workspace
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Scale in one pass, and in one for each part."""
    from nplrp.kernels import elementwise

    (a,) = inputs
    z, *besides = (workspace.empty(a.shape, a.dtype) for _ in (None, *parts))
    elementwise.affine(a, step.weight, step.bias, z, threads(), relu=bool(relu))
    for part, change, out in zip(parts, clamps(parts), besides, strict=True):
        elementwise.affine(a, change_weight(step.weight, change), changed_bias(step, part.bias), out, threads())
    return z, besides


def carry(step: Step, s: Sequence[np.ndarray], parts: Sequence[Part], inputs: Sequence[np.ndarray], workspace: Workspace) -> Carried:
    """Do lines 3 and 4 in one pass for each part."""
    from nplrp.kernels import elementwise

    (a,) = inputs
    R = workspace.empty((len(s[0]), *a.shape[1:]), a.dtype)
    for p, (each, change) in enumerate(zip(s, clamps(parts), strict=True)):
        for maps in runs(each, a):
            elementwise.multiply_rows(a, each[maps], change_weight(step.weight, change), R[maps], p > 0, threads())
    return Carried([R], False)


def ends(step: Step, a: np.ndarray) -> np.ndarray:
    """Scale both ends, which change places where the scale is negative."""
    g, h = float64(step)
    return np.sort(a * g + h, axis=0)


# From Keras


def read_batch_norm(call: Call) -> Tensor:
    """Read a batch norm over any one axis."""
    call.only("renorm", False)
    x = call.tensor
    (axis,) = _one(call.axes(call.get("axis"), len(x.axes)))
    x = call.last(x, axis)
    given = [key for key, option in (("gamma", "scale"), ("beta", "center")) if call.only(option, True, False)]
    variables = dict.fromkeys((*given, "mean", "variance"), (x.shape[-1],))
    return call.add("batchnorm", x, variables=variables, epsilon=call.epsilon())


def _one(axes: tuple[int, ...]) -> tuple[int, ...]:
    if len(axes) != 1:
        raise ValueError(f"axis has {len(axes)} axes, expected one")
    return axes


def scaled(call: Call, x: Tensor, scale: np.ndarray | None = None, offset: np.ndarray | None = None, part: str = "") -> Tensor:
    """Put down y = scale x + offset, whose constants may have one number for each place along one of Keras's axes.

    Raises
    ------
    ValueError
        If they have more.
    """
    rank, along = len(x.axes), set()
    for each in (scale, offset):
        shape = () if each is None or each.size == 1 else each.shape[-rank:]
        if each is not None and each.size > 1 and math.prod(shape) != each.size:
            raise ValueError(f"its constant of shape {each.shape} doesn't fit its input {x.keras_shape}")
        along |= {rank - len(shape) + i for i, side in enumerate(shape) if side > 1}
    if len(along) > 1:
        raise ValueError("its constant differs along several axes, expected one number, or one for each channel")
    x = call.last(x, *(along or {rank - 1}))
    channels, arrays = x.shape[-1], {}
    for key, each in (("scale", scale), ("offset", offset)):
        if each is not None:
            if each.size not in (1, channels):
                raise ValueError(f"its constant has {each.size} numbers, but its input {x.keras_shape}")
            arrays[key] = np.array(np.broadcast_to(each.reshape(-1), (channels,)))
    return call.add("affine", x, arrays=arrays, part=part)


def read_rescaling(call: Call) -> Tensor:
    """Read y = scale x + offset, the constants as the configuration has them (TensorFlow rounds them to float32)."""
    scale, offset = (constant(call.get(key)) for key in ("scale", "offset"))
    only_shifts = scale.size == 1 and scale.item() == 1 and offset.any()
    return scaled(call, call.tensor, None if only_shifts else scale, offset if offset.any() else None)


#: What Keras takes for a deviation that is smaller, its `epsilon()`.
_LEAST = 1e-7


def read_normalization(call: Call) -> Tensor:
    """Read y = (x - mean) / deviation, or back, with the statistics as options or as variables."""
    x, inverted = call.tensor, bool(call.only("invert", False, True))
    rank, given = len(x.axes), call.get("axis")
    axes = () if given is None or given == [] else call.axes(given, rank)
    if len(axes) > 1:
        raise ValueError(f"axis={brief(given)}: one mean for each place along several axes isn't supported, only for each channel")

    def make(arrays: Arrays) -> Arrays:
        mean, deviation = arrays["mean"].reshape(-1).astype(np.float64), np.sqrt(arrays["variance"].reshape(-1).astype(np.float64))
        deviation = np.maximum(deviation, _LEAST)
        scale, offset = (deviation, mean) if inverted else (1 / deviation, -mean / deviation)
        return {"scale": np.array(np.broadcast_to(scale, channels)), "offset": np.array(np.broadcast_to(offset, channels))}

    x = call.last(x, axes[0] if axes else rank - 1)
    channels = x.shape[-1:]
    statistics = {key: call.get(key) for key in ("mean", "variance")}
    if (statistics["mean"] is None) != (statistics["variance"] is None):
        raise ValueError("one of mean and variance is given, expected both or none")
    if statistics["mean"] is None:
        shape = channels if axes else ()
        return call.add("affine", x, variables={"mean": shape, "variance": shape}, make=make)
    constants = {key: constant(value) for key, value in statistics.items()}
    if any(each.size not in (1, *channels) for each in constants.values()):
        raise ValueError(
            f"mean and variance have {', '.join(str(each.size) for each in constants.values())} numbers, expected {channels[0]}"
        )
    return call.add("affine", x, arrays=make(constants))


def read_layer_scale(call: Call) -> Tensor:
    """Read y = gamma x, of ConvNeXt."""
    x = call.tensor
    x = call.last(x, len(x.axes) - 1)
    return call.add("affine", x, variables={"gamma": x.shape[-1:]}, make=lambda arrays: {"scale": arrays["gamma"]})


SCALE = Operation(
    "scale",
    LINEAR,
    "scale",
    forward,
    transpose,
    terms=lambda step: (2, 1),
    fused=Fused(fused_forward, carry),
    queueable=True,
    tie=point_row,
    ends=ends,
    scale_outputs=scaled_outputs,
)

_CLASSES = dict.fromkeys(
    ("BatchNormalization", "BatchNormalizationV1", "BatchNormalizationV2", "SyncBatchNormalization"),
    read_batch_norm,
)
_AFFINE = {"Rescaling": read_rescaling, "Normalization": read_normalization, "LayerScale": read_layer_scale}

BATCH_NORM = Kind("batchnorm", shape, batch_norm, keras=_CLASSES, stand_in=surrogate)
AFFINE = Kind("affine", shape, affine, keras=_AFFINE)
KINDS = (BATCH_NORM, AFFINE)
OPERATIONS = (SCALE,)
