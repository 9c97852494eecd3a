"""Activations: what follows a layer's own operation, number by number, or over the last axis; and those that are layers of their own.

An activation is written as a name, perhaps with parameters: ``"relu"``, ``"relu(max_value=6.0)"``, ``"leaky_relu(negative_slope=0.1)"``.
The functions are those of `nplrp.kernels.activations`, softmax and log_softmax.

A ReLU only opens and shuts units, and its relevance passes. An activation that bends, as a layer of its own, is a step: relevance passes
(Zennit), or goes by the derivative (iNNvestigate), or by the ratio y / z, as if it were a weight.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp.errors import ModelError, RuleError, brief, nearest
from nplrp.layers import activation_names
from nplrp.layers.base import DECIDES, Kind, Layer, Operation, Shape, Step
from nplrp.layers.lines import threads
from nplrp.layers.ties import point_row
from nplrp.rules.rule import Change, parse_call
from nplrp.workspace import Workspace

#: Over the last axis; only as the last thing that a model does.
OVER_AXIS = ("softmax", "log_softmax", "sparsemax")
#: What Keras has layers for beside ReLU: some systems have rules for these layers.
RECTIFIERS = ("relu", "leaky_relu", "elu")


#: How many units in the last place libraries' exp, erf and tanh may be off; a unit is two unit roundoffs.
ULPS = 4


@dataclass(frozen=True)
class Activation:
    """What the engine has to know of an activation.

    Attributes
    ----------
    name : str
    parameters : tuple of float
        All of the function's, in its order.
    number : int
        The kernels' number of it; -1 for those over an axis.
    opens : bool
        y = max(z, 0): a unit is open or shut, so that y > 0 tells as much as z > 0.
    positive : bool
        y is never negative.
    score : bool
        As the last thing of a model it makes scores of the logits, and LRP begins before it.
    """

    name: str
    parameters: tuple[float, ...] = ()
    number: int = -1
    opens: bool = False
    positive: bool = False
    score: bool = True

    @property
    def clamps(self) -> bool | float:
        """Whether it is max(z, 0), or min(max(z, 0), top): True, the top, or False."""
        if self.opens or self.name != "relu" or self.parameters[1:] != (0.0, 0.0):
            return self.opens
        return self.parameters[0]

    @property
    def rises(self) -> bool:
        """Whether a larger z never gives a smaller y, and each number counts alone."""
        if self.opens or self.name == "linear":
            return True
        from nplrp.kernels.activations import ACTIVATIONS

        return self.name in ACTIVATIONS and ACTIVATIONS[self.name].monotone(self.parameters)

    @property
    def bends(self) -> bool:
        """Whether it is more than opening and shutting."""
        return not self.opens and self.name != "linear"


LINEAR = Activation("linear", score=False)
RELU = Activation("relu", opens=True, positive=True, score=False)


@functools.lru_cache(256)
def activation(text: str) -> Activation:
    """Return the activation that a layer names.

    Raises
    ------
    ModelError
        If there is none of that name, or it doesn't take a parameter.
    """
    if text in ("linear", "relu"):  # without the kernels
        return LINEAR if text == "linear" else RELU
    if text in OVER_AXIS:
        return Activation(text, positive=text != "log_softmax")
    from nplrp.kernels.activations import ACTIVATIONS

    try:
        name, given = parse_call(text, "an activation")
        row = ACTIVATIONS[name]
        parameters = row.with_defaults(**given)
    except RuleError as error:
        raise ModelError(str(error)) from None
    except KeyError:
        raise ModelError(f"there is no activation {brief(text)}; {nearest(text, (*ACTIVATIONS, *OVER_AXIS))}") from None
    except (TypeError, ValueError) as error:
        raise ModelError(f"activation {text!r}: {error}") from None
    opens = name == "relu" and parameters == row.with_defaults()
    if opens:
        return RELU
    return Activation(name, parameters, row.number, positive=row.bounds(parameters, np.float32)[0] >= 0, score=name != "relu")


def activate(step: Step, z: np.ndarray, in_place: bool) -> np.ndarray:
    """Apply a step's activation to z [n, *output_shape]; z may be overwritten if `in_place`."""
    return bend(step.activation, z, z if in_place else None)


def bend(text: str, z: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """Apply an activation to z [n, ...]; in `out`, which may be z, if it is given."""
    from nplrp.kernels import activations, elementwise

    found = activation(text)
    if found.name == "linear":
        return z
    if found.name in ("softmax", "sparsemax"):
        return softmax(z) if found.name == "softmax" else sparsemax(z)
    a = np.empty_like(z) if out is None else out
    if found.opens:
        elementwise.relu(z, a, threads())
    elif found.name == "log_softmax":
        activations.log_softmax(z, a, threads())
    else:
        activations.activate(found.number, found.parameters, z, a, threads(), mark=True)
    return a


def slope(text: str, z: np.ndarray) -> np.ndarray:
    """Return the derivative of an activation at z [n, ...]."""
    from nplrp.kernels import activations

    found, out = activation(text), np.ones_like(z)
    if found.name != "linear":
        number = activations.ACTIVATIONS["relu"].number if found.opens else found.number
        parameters = activations.ACTIVATIONS["relu"].with_defaults() if found.opens else found.parameters
        activations.derivative(number, parameters, z, out, threads())
    return out


def bend_ends(text: str, a: np.ndarray) -> np.ndarray | None:
    """Return what an activation makes of the ends that its inputs lie between, a [2, ...]; None if it isn't one that only rises."""
    return bend(text, a) if activation(text).rises else None


def bend_error(text: str, z: np.ndarray, error: np.ndarray, unit: float) -> np.ndarray:
    """Return how far an activation may be off at z [n, ...] if z is off by `error`, for a unit roundoff.

    Besides what z moves it by, libraries compute exp, erf and tanh to 4 units in the last place of the result, or of 1 or z, from which
    some formulas subtract (gelu's 1 + erf, elu's exp - 1).
    """
    y, moved = bend(text, z), np.abs(slope(text, z)) * error
    for end in (z + error, z - error):
        moved = np.maximum(moved, np.abs(bend(text, end) - y))
    return np.asarray(moved + 2 * ULPS * unit * (np.abs(y) + np.minimum(np.abs(z), 1)))


def softmax(z: np.ndarray) -> np.ndarray:
    """Return exp(z) / sum(exp(z)) over the last axis of z [..., units]."""
    from nplrp.kernels import softmax as kernel

    p = np.empty_like(z)
    kernel.softmax(z.reshape(-1, z.shape[-1]), p.reshape(-1, z.shape[-1]))
    return p


def sparsemax(z: np.ndarray) -> np.ndarray:
    """Return max(z - tau, 0) over the last axis of z [..., units], as Keras 3 computes it, in float64 and in one order.

    Martins and Astudillo (2016) take tau from the sum of the largest k numbers, so that the result adds up to 1. Keras adds up that sum for
    1, 2, ... k, and so gives less where k > 1; networks are trained with what it gives.
    """
    given = z.astype(np.float64)
    falling = np.flip(np.sort(given, axis=-1), axis=-1)
    sums, count = np.cumsum(falling, axis=-1), np.arange(1, z.shape[-1] + 1)
    kept = falling - (sums - 1) / count > 0
    total, k = (np.cumsum(each, axis=-1)[..., -1:] for each in (np.where(kept, sums, 0), kept))
    return np.maximum(given - (total - 1) / k, 0).astype(z.dtype)


# Activations that bend, as steps


def _same(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    return shapes[0]


def _step(layer: Layer) -> dict[str, Any]:
    """Return an identity for what opens or stands over an axis, else a step of its own."""
    found = activation(layer.activation)
    if not found.bends or found.name in OVER_AXIS:
        return {"kind": "identity"}
    kind = RECTIFIER if found.name in RECTIFIERS else CURVE
    return {"kind": kind.name, "activation": "linear", "options": {**layer.options, "function": layer.activation}}


def _curve(step: Step, a: np.ndarray, labels: Any = None, workspace: Workspace | None = None) -> tuple[np.ndarray, None]:
    return bend(function(step), a, workspace.empty(a.shape, a.dtype) if workspace else None), None


def function(step: Step) -> str:
    """Return the activation that a step of its own is."""
    return str(step.options["function"])


def _redecide(step: Step, a: np.ndarray, labels: Any, decision: str) -> np.ndarray:
    """Return what the step is taken to multiply with: its derivative, or y / z (0 where z is)."""
    if decision == "slope":
        return slope(function(step), a)
    y = bend(function(step), a)
    return np.divide(y, a, out=np.zeros_like(a), where=a != 0)


def _unsure(step: Step, a: np.ndarray, held: np.ndarray, decision: str, unit: float) -> np.ndarray:
    """Return how far the derivative, or y / z, may be off at inputs that are rounded, in units of 2 `ULPS` roundings."""
    scale = 2 * ULPS * unit
    if decision != "slope":
        error = bend_error(function(step), a, unit * np.abs(a), unit)
        return np.divide(error / scale, np.abs(a), out=np.zeros_like(a), where=a != 0)
    ends = [np.abs(slope(function(step), a * (1 + part * unit)) - held) for part in (-2, 2)]
    return np.abs(held) + 1 + np.maximum(*ends) / scale


def _times(step: Step, inputs: Sequence[np.ndarray], changes: Any, b: Any, relu: bool, held: np.ndarray | None = None) -> np.ndarray:
    assert held is not None
    z: np.ndarray = inputs[0] * held
    return z


def _times_back(step: Step, s: np.ndarray, change: Change, held: np.ndarray, c: np.ndarray) -> None:
    np.multiply(s, held, out=c)


CURVE = Operation(
    "curve",
    DECIDES,
    "activation",
    _times,
    _times_back,
    decide=_curve,
    redecide=_redecide,
    unsure=_unsure,
    function=function,
    queueable=True,
    alone=function,
    tie=point_row,
    positive=lambda step: activation(function(step)).positive,
    ends=lambda step, a: bend_ends(function(step), a),
)

RECTIFIER = dataclasses.replace(CURVE, name="rectifier", family="rectifier")

KINDS = (Kind("activation", _same, _step, keras=activation_names.READERS),)
OPERATIONS = (CURVE, RECTIFIER)
