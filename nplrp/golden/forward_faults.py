"""Known deviations of one layer's forward pass: what ports get wrong before relevance is even begun."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np

from nplrp import layers
from nplrp.layers import Step, operation
from nplrp.lrp import run_step
from nplrp.model import Layer
from nplrp.rules import AS_IS

#: Bits of mantissa, the leading 1 not counted, that a format keeps.
FORMATS = {"TF32 (tensor cores' default; float16 has as many)": 10, "bfloat16": 7}
#: Epsilons of batch norms in Keras, and in PyTorch.
NORM_EPSILONS = (1e-3, 1e-5)


def forward_deviations(step: Step, layer: Layer, a: np.ndarray, image: tuple[int, ...] | None) -> Iterator[tuple[str, np.ndarray]]:
    """Run a step forward under every known deviation that can show in it.

    Parameters
    ----------
    step : Step
        With float64 weights, its batch norm not merged.
    layer : Layer
    a : ndarray [n, *input_shape]
    image : tuple of int, or None
        Shape that a flatten below has made the step's input from.
    """

    def run(x: np.ndarray = a, **changed: object) -> np.ndarray:
        return run_step(dataclasses.replace(step, **changed, prepared={}), np.ascontiguousarray(x))  # type: ignore[arg-type]

    op, bias = operation(step), step.bias
    weight = layers.wide(step) if layers.is_linear(step) and step.weight is not None and step.weight.ndim in (2, 4) else None
    if weight is not None and bias is not None:
        if np.any(bias):
            yield "bias left out", run(bias=np.zeros_like(bias))
            yield "bias counted twice", run(bias=2 * bias)
        for name, bits in FORMATS.items():
            yield f"inputs and weights rounded to {name}", run(coarse(a, bits), weight=coarse(weight, bits))
    if weight is not None and weight.ndim == 4 and weight.shape[:2] != (1, 1):
        yield "kernel flipped: a convolution instead of a correlation", run(weight=weight[::-1, ::-1].copy())
        if weight.shape[0] == weight.shape[1]:
            yield "rows and columns of the kernel exchanged", run(weight=weight.transpose(1, 0, 2, 3).copy())
        for rows, columns in ((1, 1), (-1, -1)):
            yield "padding off by one", run(np.roll(a, (rows, columns), (1, 2)) * _inside(a, rows, columns))
        if step.input_shape[-1] == 3:
            yield "channels RGB for BGR", run(a[..., ::-1])
    if weight is not None and weight.ndim == 2 and weight.shape[0] == weight.shape[1]:
        yield "weights transposed", run(weight=weight.T.copy())
    if weight is not None and weight.ndim == 2 and image is not None:
        yield "flatten CHW for HWC", run(_channels_first(a, image))
    if flattens(step):
        yield "flatten CHW for HWC", _channels_first(a.reshape(len(a), -1), step.input_shape)
    if op.average:
        yield "average instead of maximum", layers.forward(op.average(step), [a], [AS_IS], AS_IS)
    if "variance" in layer.arrays:
        yield "batch norm left out", a
        for epsilon in NORM_EPSILONS:
            if not np.isclose(epsilon, layer.epsilon, rtol=1e-6):
                yield f"epsilon {epsilon:g} in the batch norm", normalised(layer, a, epsilon)
    if step.activation != "linear":
        yield f"{step.activation} left out", run(activation="linear")
    if step.activation != "relu":
        yield "a ReLU behind it", np.maximum(run(activation="linear"), 0)


def flattens(step: Step) -> bool:
    """Tell whether a step makes a vector of an image."""
    return operation(step).view and len(step.input_shape) == 3 and len(step.output_shape) == 1


def coarse(values: np.ndarray, bits: int) -> np.ndarray:
    """Round float64 to so many bits of mantissa, ties to even; the exponent keeps its range."""
    mantissa, exponent = np.frexp(values)
    return np.ldexp(np.rint(np.ldexp(mantissa, bits + 1)), exponent - bits - 1)


def normalised(layer: Layer, a: np.ndarray, epsilon: float) -> np.ndarray:
    """Return a batch norm's output with another epsilon."""
    arrays = {key: np.asarray(array, np.float64) for key, array in layer.arrays.items()}
    g = arrays.get("gamma", 1.0) / np.sqrt(arrays["variance"] + epsilon)
    return np.asarray((a - arrays["mean"]) * g + arrays.get("beta", 0.0))


def _channels_first(a: np.ndarray, image: tuple[int, ...]) -> np.ndarray:
    return a.reshape(len(a), *image).transpose(0, 3, 1, 2).reshape(len(a), -1)


def _inside(a: np.ndarray, rows: int, columns: int) -> np.ndarray:
    """Return 0 where `np.roll` has brought in the opposite edge, 1 elsewhere."""
    inside = np.ones((1, *a.shape[1:3], 1))
    inside[:, 0 if rows > 0 else -1] = 0
    inside[:, :, 0 if columns > 0 else -1] = 0
    return inside
