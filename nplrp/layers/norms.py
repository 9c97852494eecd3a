"""Normalisations of an image by its own numbers: over axes, over groups of channels, to unit length.

    z = gamma (x - mean) / deviation + beta

The deviation is decided by the forward pass and held; what is left is linear in x, the subtraction of the mean included. Some have no mean.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers.base import DECIDES, Kind, Layer, Operation, Shape, Step, Weights, absolute, check_vector, float64
from nplrp.layers.config import Call, Tensor
from nplrp.layers.lines import changed_bias, threads
from nplrp.layers.ties import point_row
from nplrp.rules.rule import AS_IS, Change
from nplrp.workspace import Workspace

#: Keras's UnitNormalization divides by no less.
SHORTEST = 1e-12


def shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Any shape; gamma and beta have a number for each place along the axes."""
    before, axes = shapes[0], axes_of(layer, shapes[0])
    if not axes or not all(0 <= axis < len(before) for axis in axes) or len(set(axes)) < len(axes):
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has axes {axes} (without the batch), but gets {before}")
    wanted = tuple(before[axis] for axis in axes)
    for key in ("gamma", "beta"):
        array = layer.arrays.get(key)
        if array is not None and array.shape != wanted:
            raise ModelError(f"layer {layer.name!r}: its {key} has shape {array.shape}, expected {wanted}, the sizes of axes {axes}")
    _layout(before, axes)
    return before


def group_shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Any shape whose channels fall into groups; gamma and beta have a number for each channel."""
    before, groups = shapes[0], int(layer.options.get("groups", 1))
    if not before or groups == 0 or before[-1] % groups:
        raise ModelError(f"layer {layer.name!r}: the channels of {before} don't fall into {groups} groups")
    for key in ("gamma", "beta"):
        check_vector(layer, key, before[-1])
    return before


def axes_of(layer: Layer, shape: Shape) -> tuple[int, ...]:
    """Return the axes that a layer normalises over, in order, without the batch; by default the last one."""
    return tuple(sorted(layer.options.get("axes", (len(shape) - 1,))))


def _layout(shape: Shape, axes: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return how many arrays an image falls into, and the rows, groups and numbers of a group's row of each.

    The axes are a run of neighbours; another run may follow at the end.
    """
    first = axes[0]
    last = next(i for i in range(first, len(shape) + 1) if i not in axes)
    tail = next((i for i in range(last, len(shape)) if i in axes), len(shape))
    if any(i not in axes for i in range(tail, len(shape))):
        raise ModelError(f"normalising {shape} over axes {axes} isn't supported: transpose it, so that they lie side by side")
    if last == len(shape):  # all of each array
        return math.prod(shape[:first]), 1, 1, math.prod(shape[first:])
    return math.prod(shape[:first]), math.prod(shape[first:last]), math.prod(shape[last:tail]), math.prod(shape[tail:])


def _spread(array: np.ndarray | None, shape: Shape, axes: tuple[int, ...], default: float) -> np.ndarray:
    """Return gamma or beta so that it broadcasts against images; one for each channel stays a vector."""
    if array is None:
        return np.full(shape[-1], default)
    if axes == (len(shape) - 1,):
        return array
    return array.reshape([n if i in axes else 1 for i, n in enumerate(shape)])


def _over_axes(kind: Callable[[Layer], tuple[str, bool]], epsilon: Callable[[Layer], float]) -> Callable[[Layer], dict[str, Any]]:
    def fields(layer: Layer) -> dict[str, Any]:
        shape = layer.output_shape
        axes, (divisor, centred) = axes_of(layer, shape), kind(layer)
        options = {"layout": _layout(shape, axes), "lead": axes[0], "divisor": divisor, "centred": centred, "epsilon": epsilon(layer)}
        everywhere = axes == (len(shape) - 1,) or (len(shape) == 3 and {0, 1} <= set(axes) and not layer.arrays)
        return {
            "kind": "norm",
            "weight": _spread(layer.arrays.get("gamma"), shape, axes, 1.0),
            "bias": _spread(layer.arrays.get("beta"), shape, axes, 0.0),
            "options": {**options, "alike": everywhere},  # whether all positions of an image are treated alike
        }

    return fields


def _over_groups(layer: Layer) -> dict[str, Any]:
    *sides, channels = layer.output_shape
    groups = int(layer.options.get("groups", 1))
    groups = channels if groups == -1 else groups
    layout = (1, math.prod(sides), groups, channels // groups)
    arrays = {"weight": layer.arrays.get("gamma", np.ones(channels)), "bias": layer.arrays.get("beta", np.zeros(channels))}
    options = {"layout": layout, "divisor": "DEVIATION", "centred": True, "epsilon": layer.epsilon, "alike": True}
    return {"kind": "norm", **arrays, "options": options}


# The operation


def _matrices(step: Step, x: np.ndarray) -> np.ndarray:
    """View images as the kernels have them, [n, rows, groups * numbers]."""
    arrays, rows, groups, numbers = step.options["layout"]
    return x.reshape(len(x) * arrays, rows, groups * numbers)


def _numbers(step: Step, array: np.ndarray) -> np.ndarray:
    """Return weights or a bias as the kernels have them: [rows, groups * numbers], or one row if all are equal."""
    _, rows, groups, numbers = step.options["layout"]
    if array.ndim == 1:
        return np.tile(array, groups * numbers // array.size)[None]
    lead = step.options["lead"]
    return np.ascontiguousarray(np.broadcast_to(array[(0,) * lead], step.output_shape[lead:])).reshape(rows, groups * numbers)


def decide(step: Step, a: np.ndarray, labels: Any = None, workspace: Workspace | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Normalise, and hold 1 / deviation of every group, float64 [n, arrays * groups]."""
    from nplrp.kernels import norms

    empty = workspace.empty if workspace else np.empty
    x, (arrays, _, groups, numbers) = _matrices(step, a), step.options["layout"]
    held = empty((len(a), arrays * groups), np.dtype(np.float64))
    norms.measure(x, numbers, getattr(norms, step.options["divisor"]), step.options["epsilon"], held, threads())
    return _normalised(step, a, changed_bias(step, AS_IS), held, empty(a.shape, a.dtype)), held


class Tangent(NamedTuple):
    """What a norm's derivative is taken at: its input [n, *shape], and 1 / deviation of every group."""

    a: np.ndarray
    held: np.ndarray


def redecide(step: Step, a: np.ndarray, labels: Any, decision: str) -> Tangent | np.ndarray:
    """Hold the deviation, or for the decision "slope" the point at which its derivative counts too."""
    held = decide(step, a)[1]
    return Tangent(a, held) if decision == "slope" else held


def _tangent(step: Step, v: np.ndarray, at: Tangent, turned: bool, out: np.ndarray) -> None:
    from nplrp.kernels import norms

    options = step.options
    norms.normalise_tangent(
        _matrices(step, at.a),
        _matrices(step, v),
        options["layout"][3],
        getattr(norms, options["divisor"]),
        options["epsilon"],
        _kept(step, "weight"),
        at.held,
        options["centred"],
        turned,
        out,
        threads(),
    )


def forward(
    step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: np.ndarray, relu: bool, held: np.ndarray | Tangent
) -> np.ndarray:
    """Normalise with the deviations that are held: term after term, the bias with the first; or apply the derivative."""
    from nplrp.kernels import elementwise

    z = np.empty_like(inputs[0])
    if isinstance(held, Tangent):
        (a,) = inputs
        _tangent(step, a, held, False, z)
        return z
    for t, a in enumerate(inputs):
        term = _normalised(step, a, b if t == 0 else np.zeros_like(b), held, z if t == 0 else np.empty_like(z))
        if t > 0:
            z += term
    if relu:
        elementwise.relu(z, z, threads())
    return z


def _normalised(step: Step, a: np.ndarray, b: np.ndarray, held: np.ndarray, z: np.ndarray) -> np.ndarray:
    from nplrp.kernels import norms

    weights, bias = _kept(step, "weight"), _kept(step, "bias") if b is step.bias else _numbers(step, b)
    if len(bias) != len(weights):  # both have rows, or none has
        weights, bias = (
            np.ascontiguousarray(np.broadcast_to(each, (step.options["layout"][1], each.shape[1]))) for each in (weights, bias)
        )
    norms.normalise(_matrices(step, a), step.options["layout"][3], weights, bias, held, step.options["centred"], z, threads())
    return z


def _kept(step: Step, name: str) -> np.ndarray:
    key = ("rows", name)
    if key not in step.prepared:
        step.prepared[key] = _numbers(step, getattr(step, name))
    kept: np.ndarray = step.prepared[key]
    return kept


def transpose(step: Step, s: np.ndarray, change: Change, held: np.ndarray | Tangent, c: np.ndarray) -> None:
    """Write to c what the held deviations make of s, minus its mean over each group; or what the derivative's transpose makes of it."""
    from nplrp.kernels import norms

    if isinstance(held, Tangent):
        _tangent(step, s, held, True, c)
        return
    norms.normalise_transpose(
        _matrices(step, s), step.options["layout"][3], _kept(step, "weight"), held, step.options["centred"], c, threads()
    )


def _means(step: Step, x: np.ndarray) -> np.ndarray:
    """Return for each number of x the mean of its group, like x."""
    _, rows, groups, numbers = step.options["layout"]
    each = x.reshape(-1, rows, groups, numbers)
    return np.broadcast_to(each.mean(axis=(1, 3), keepdims=True), each.shape).reshape(x.shape)


def _absolute(step: Step) -> Step:
    """Return the step that adds what this one subtracts."""
    return dataclasses.replace(
        absolute(step), kind=ADDED.name, options={**step.options, "centred": False, "added": step.options["centred"]}
    )


def _added(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: np.ndarray, relu: bool, held: np.ndarray) -> np.ndarray:
    return forward(step, [a + _means(step, a) if step.options["added"] else a for a in inputs], changes, b, relu, held)


def _added_back(step: Step, s: np.ndarray, change: Change, held: np.ndarray | Tangent, c: np.ndarray) -> None:
    """Add what the transpose subtracts; of the derivative also what the deviation takes, by n = (|a| + mean |a|) / deviation."""
    centred = step.options["added"]
    if isinstance(held, Tangent):
        plain = _repeated(step, held.held, s)
        n = plain * (held.a + (_means(step, held.a) if centred else 0))
        t = _kept(step, "weight") * _matrices(step, s)
        t = t.reshape(s.shape)
        length = math.prod(step.options["layout"][1::2]) if step.options["divisor"] == "LENGTH" else 1
        c[...] = plain * (t + (_means(step, t) if centred else 0) + n * _means(step, n * t) * length)
        return
    transpose(step, s, change, held, c)
    if centred:
        c += _means(step, c)


def _repeated(step: Step, held: np.ndarray, like: np.ndarray) -> np.ndarray:
    """Return one number of each group for every number of an array."""
    _, rows, groups, numbers = step.options["layout"]
    return np.broadcast_to(held.reshape(-1, 1, groups, 1), (held.size // groups, rows, groups, numbers)).reshape(like.shape)


def _unsure(step: Step, a: np.ndarray, held: np.ndarray | Tangent, decision: str, unit: float) -> np.ndarray | Tangent:
    """Return the error of 1 / deviation: as of a sum of squares, more where the mean is large beside the deviation; at least twice it."""
    if isinstance(held, Tangent):
        return Tangent(held.a, np.asarray(_unsure(step, a, held.held, decision, unit)))
    _, rows, groups, numbers = step.options["layout"]
    squares = np.square(a).reshape(-1, rows, groups, numbers).mean(axis=(1, 3)).reshape(held.shape)
    length = rows * numbers if step.options["divisor"] == "LENGTH" else 1
    return held * (1 + squares * length * np.square(held))


def terms(step: Step) -> tuple[int, int]:
    """Return the number of terms in a sum over inputs, and over outputs."""
    _, rows, _, numbers = step.options["layout"]
    return rows * numbers + 2, rows * numbers + 1


def _row(step: Step) -> tuple[int, ...] | None:
    return point_row(step) if step.options["alike"] else None


def scaled_outputs(step: Step, g: np.ndarray, h: np.ndarray) -> Weights | None:
    """Return weight and bias of a normalisation with a weight for each channel, followed by y = g x + h."""
    w, b = float64(step)
    return (w * g, b * g + h) if w.shape == b.shape == g.shape else None


NORM = Operation(
    "norm",
    DECIDES,
    "norm",
    forward,
    transpose,
    decide=decide,
    redecide=redecide,
    curved=True,
    terms=terms,
    absolute=_absolute,
    unsure=_unsure,
    queueable=True,
    tie=_row,
    scale_outputs=scaled_outputs,
)
#: What error bounds are summed with.
ADDED = dataclasses.replace(NORM, name="norm_added", forward=_added, transpose=_added_back)

# Norms: readers


def _norm(call: Call) -> Tensor:
    x = call.tensor
    axes = call.axes(call.get("axis"), len(x.axes))
    return _normed(call, x, axes, {"rms_scaling": True} if call.only("rms_scaling", False, True) else {})


def _normed(call: Call, x: Tensor, axes: tuple[int, ...], options: dict[str, Any], kind: str = "layernorm") -> Tensor:
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

    return call.add(kind, x, variables=variables, make=make, epsilon=call.epsilon(), options={"axes": sorted(places), **options})


def _rms(call: Call) -> Tensor:
    x = call.tensor
    return _normed(call, x, call.axes(call.get("axis"), len(x.axes)), {}, kind="rmsnorm")


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
    if call.given("epsilon", default=SHORTEST) != SHORTEST:
        raise ValueError(f"epsilon={call.given('epsilon')!r} isn't supported, only Keras's own {SHORTEST:g}")
    return call.add("unitnorm", x, options={"axes": sorted(x.axes[axis] for axis in call.axes(call.get("axis"), len(x.axes)))})


KINDS = (
    Kind(
        "layernorm",
        shape,
        _over_axes(lambda layer: ("DEVIATION", not layer.options.get("rms_scaling")), lambda layer: layer.epsilon),
        keras={"LayerNormalization": _norm},
    ),
    Kind("rmsnorm", shape, _over_axes(lambda layer: ("ROOT", False), lambda layer: layer.epsilon), keras={"RMSNormalization": _rms}),
    Kind(
        "unitnorm",
        shape,
        _over_axes(lambda layer: ("LENGTH", False), lambda layer: SHORTEST),
        keras=dict.fromkeys(("UnitNormalization", "tf.math.l2_normalize"), _unit),
    ),
    Kind("groupnorm", group_shape, _over_groups, keras={"GroupNormalization": _group}, renumbering=lambda layer: None),
)
OPERATIONS = (NORM, ADDED)
