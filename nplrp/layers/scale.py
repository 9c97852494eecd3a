"""Batch norms and other layers that are y = g x + h, channel by channel."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError, NumericsError
from nplrp.layers.base import LINEAR, Kind, Layer, Operation, Shape, Step, check_vector, scaled_outputs
from nplrp.layers.lines import change_weight, threads
from nplrp.layers.ties import point_row
from nplrp.rules.rule import Change


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


SCALE = Operation("scale", LINEAR, "scale", forward, transpose, terms=lambda step: (2, 1), tie=point_row, scale_outputs=scaled_outputs)

KINDS = (Kind("batchnorm", shape, batch_norm), Kind("affine", shape, affine))
OPERATIONS = (SCALE,)
