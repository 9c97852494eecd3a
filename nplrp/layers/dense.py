"""Dense layers: z = a w + b, over vectors or over the last axis of anything else."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers.activation_names import read_activation
from nplrp.layers.base import (
    LINEAR,
    Carried,
    Fused,
    Kind,
    Layer,
    Operation,
    Shape,
    Step,
    Weights,
    check_vector,
    fits,
    float64,
    scaled_outputs,
)
from nplrp.layers.config import Call, Tensor
from nplrp.layers.conv import OWN_CHANNELS, weights_of
from nplrp.layers.lines import change_weight, changed_bias, clamps, threads
from nplrp.layers.ties import point_row
from nplrp.rules.rule import AS_IS, Change, Clamp, Part
from nplrp.workspace import Workspace


def shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[..., in], kernel [in, out] -> [..., out]."""
    before, kernel = shapes[0], layer.arrays["kernel"]
    if not before or kernel.ndim != 2 or kernel.shape[0] != before[-1]:
        raise ModelError(
            f"layer {layer.name!r}: its kernel has shape {kernel.shape}, expected ({before[-1] if before else 1}, units): the layer before "
            f"it gives {before}" + (f" (behind a Flatten it would be {math.prod(before)})" if len(before) > 1 else "")
        )
    check_vector(layer, "bias", kernel.shape[1])
    return fits(layer, before, (*before[:-1], kernel.shape[1]))


def forward(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: np.ndarray, relu: bool, held: Any = None) -> np.ndarray:
    """Multiply: term after term, each added to what the ones before have given."""
    from nplrp.kernels import dense, elementwise

    z = np.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype)
    rows = _rows(z)
    for t, (a, change) in enumerate(zip(inputs, changes, strict=True)):
        if change == "ones":
            term = np.broadcast_to(_rows(a).sum(axis=1, keepdims=True), rows.shape)
            rows[...] = rows + term if t > 0 else term
        else:
            dense.dense_forward(_rows(a), *_weight(step, change), rows, t > 0, threads())
    elementwise.add_bias(z, b, relu, threads())
    return z


def transpose(step: Step, s: np.ndarray, change: Change, held: Any, c: np.ndarray) -> None:
    """Write s times the transposed weights to c."""
    from nplrp.kernels import dense

    if change == "ones":
        c[...] = s.sum(axis=-1, keepdims=True)
    else:
        dense.dense_transpose(_rows(s), *_weight(step, change), _rows(c), False, threads())


def fused_forward(
    step: Step, inputs: Sequence[np.ndarray], relu: bool | float, parts: Sequence[Part], workspace: Workspace
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Multiply with the weights and with those of all parts in one pass over them."""
    from nplrp.kernels import dense, elementwise

    (a,) = inputs
    assert step.bias is not None
    if not parts:
        return forward(step, inputs, [AS_IS], step.bias, bool(relu)), []
    nt, z = threads(), workspace.empty((len(a), *step.output_shape), a.dtype)
    besides = [workspace.empty(z.shape, z.dtype) for _ in parts]
    dense.dense_forward_beside(_rows(a), step.weight, (AS_IS, *clamps(parts)), [_rows(each) for each in (z, *besides)], nt)
    elementwise.add_bias(z, step.bias, bool(relu), nt)
    for part, out in zip(parts, besides, strict=True):
        elementwise.add_bias(out, changed_bias(step, part.bias), False, nt)
    return z, besides


def carry(step: Step, s: Sequence[np.ndarray], parts: Sequence[Part], inputs: Sequence[np.ndarray], workspace: Workspace) -> Carried:
    """Do lines 3 and 4 in one pass over the weights."""
    from nplrp.kernels import dense

    (a,) = inputs
    R = workspace.empty((len(s[0]), *a.shape[1:]), a.dtype)
    dense.dense_transpose_times([_rows(each) for each in s], step.weight, clamps(parts), _rows(a), _rows(R), threads())
    return Carried([R], False)


def _rows(x: np.ndarray) -> np.ndarray:
    """View an array as a matrix over its last axis."""
    return x.reshape(-1, x.shape[-1])


def _weight(step: Step, change: Change) -> tuple[np.ndarray, float, float]:
    """Return a matrix and a clamp that make the changed weights; the matrix is prepared once if the clamp isn't enough."""
    assert step.weight is not None and step.bias is not None
    if isinstance(change, Clamp):
        return step.weight, *change
    if change not in step.prepared:
        step.prepared[change] = change_weight(np.asarray(step.weight, step.bias.dtype), change)
    return step.prepared[change], *AS_IS


def terms(step: Step) -> tuple[int, int]:
    """Return the number of terms in a sum over inputs, and over outputs."""
    return step.input_shape[-1] + 1, step.output_shape[-1]


def scaled_inputs(step: Step, g: np.ndarray, h: np.ndarray) -> Weights | None:
    """Return weight and bias of a dense layer preceded by y = g x + h; behind a flatten the channels come again for every pixel."""
    w, b = float64(step)
    repeat, rest = divmod(w.shape[0], g.size)
    if rest:  # a reshape between them may part pixels anywhere
        return None
    return w * np.tile(g, repeat)[:, None], b + np.tile(h, repeat) @ w


def read(call: Call) -> Tensor:
    """Read a dense layer, which works on the last axis."""
    units = call.size("units")
    rank = len(call.tensor.axes)
    if not rank:
        raise ValueError("its input is a single number, expected a vector")
    x = call.last(call.tensor, rank - 1)
    variables = {"kernel": (x.shape[-1], units)} | ({"bias": (units,)} if call.only("use_bias", True, False) else {})
    return call.add("dense", x, variables=variables, activation=read_activation(call))


DENSE = Operation(
    "dense",
    LINEAR,
    "dense",
    forward,
    transpose,
    terms=terms,
    fused=Fused(fused_forward, carry, singly=True),
    queueable=True,
    widens=True,
    scale_outputs=scaled_outputs,
    scale_inputs=scaled_inputs,
    tie=point_row,
)

KINDS = (
    Kind(
        "dense",
        shape,
        lambda layer: {"kind": "dense", **weights_of(layer)},
        keras={"Dense": read},
        renumbering=lambda layer: OWN_CHANNELS,
    ),
)
OPERATIONS = (DENSE,)
