"""PReLU, an activation with weights: y = z where z >= 0, else alpha z. Once the slope of every number is held it is linear."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers.base import DECIDES, Kind, Layer, Operation, Shape, Step
from nplrp.layers.config import Call, Tensor
from nplrp.layers.lines import threads
from nplrp.layers.ties import point_row
from nplrp.rules.rule import Change
from nplrp.workspace import Workspace


def shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Any shape that alpha broadcasts against without making it larger."""
    before, alpha = shapes[0], layer.arrays["alpha"]
    sides = (1,) * (len(before) - alpha.ndim) + alpha.shape
    if len(sides) > len(before) or any(side not in (1, whole) for side, whole in zip(sides, before, strict=True)):
        raise ModelError(f"layer {layer.name!r}: its alpha has shape {alpha.shape}, which doesn't broadcast against {before}")
    return before


def _step(layer: Layer) -> dict[str, Any]:
    """Return alpha without its leading sides of 1, and else as large as the input is."""
    alpha, before = layer.arrays["alpha"], layer.output_shape
    while alpha.ndim > 1 and alpha.shape[0] == 1:
        alpha = alpha[0]
    if alpha.shape == (1,):
        alpha = np.broadcast_to(alpha, before[-1:])
    return {"kind": "prelu", "weight": np.broadcast_to(alpha, before[len(before) - alpha.ndim :])}


def decide(step: Step, a: np.ndarray, labels: Any = None, workspace: Workspace | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Run it, and hold the slopes [n, *shape]; at 0 the slope is 1."""
    from nplrp.kernels import elementwise

    empty = workspace.empty if workspace else np.empty
    z, slope = empty(a.shape, a.dtype), empty(a.shape, a.dtype)
    elementwise.leaky(a, step.weight, z, slope, threads())
    return z, slope


def forward(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: Any, relu: bool, held: np.ndarray) -> np.ndarray:
    """Multiply with the slopes, term after term."""
    from nplrp.kernels import elementwise

    z = np.empty_like(inputs[0])
    elementwise.multiply(inputs[0], held, z, threads())
    for a in inputs[1:]:
        elementwise.multiply_add(a, held, z, threads())
    if relu:
        elementwise.relu(z, z, threads())
    return z


def transpose(step: Step, s: np.ndarray, change: Change, held: np.ndarray, c: np.ndarray) -> None:
    """Write s times the slopes to c."""
    from nplrp.kernels import elementwise

    elementwise.multiply(s, held, c, threads())


def redecide(step: Step, a: np.ndarray, labels: Any, decision: str) -> np.ndarray:
    """Return the slopes again: the derivative is what was decided."""
    return decide(step, a)[1]


def ends(step: Step, a: np.ndarray) -> np.ndarray:
    """Return the least and the largest of what the ends give, and of the 0 between them: slopes may be negative."""
    low, high = a
    given = [np.where(end < 0, np.asarray(step.weight, np.float64) * end, end) for end in (low, high, np.clip(0.0, low, high))]
    return np.stack([np.min(given, axis=0), np.max(given, axis=0)])


def _row(step: Step) -> tuple[int, ...] | None:
    assert step.weight is not None
    return point_row(step) if step.weight.ndim == 1 else None


PRELU = Operation(
    "prelu",
    DECIDES,
    "rectifier",
    forward,
    transpose,
    decide=decide,
    redecide=redecide,
    queueable=True,
    tie=_row,
    keeps_sign=True,
    keeps_zero=True,
    ends=ends,
)


def read(call: Call) -> Tensor:
    """Read a PReLU, whose slopes may be shared along some axes."""
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


KINDS = (Kind("prelu", shape, _step, keras={"PReLU": read}),)
OPERATIONS = (PRELU,)
