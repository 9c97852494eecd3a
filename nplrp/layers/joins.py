"""Layers that join several inputs of one shape, number by number: sums, means, differences; maxima and minima; products as gates.

A join works on its inputs stacked [n, m, *shape], those of fewer places repeated. A sum is then linear with a weight for each input; a
maximum is linear once it is known who won; a product is linear in any one of its inputs once the others are held.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers import operators
from nplrp.layers.base import (
    DECIDES,
    LINEAR,
    MAX_VALUES,
    SEVERAL,
    Carried,
    Choice,
    Division,
    Fused,
    Kind,
    Layer,
    Operation,
    Shape,
    Step,
    fits,
    listed,
)
from nplrp.layers.lines import change_weight, clamps, runs, stabilisers, threads
from nplrp.layers.ties import point_row
from nplrp.rules.rule import AS_IS, Change, Part
from nplrp.workspace import Workspace


def shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Shapes that are equal, or have sides of 1 where they aren't."""
    try:
        if len({len(each) for each in shapes}) != 1:
            raise ValueError
        found = fits(layer, shapes[0], tuple(map(int, np.broadcast_shapes(*shapes))))
    except ValueError:
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}) joins inputs of different shapes: {listed(layer, shapes)}; expected equal ones, or "
            "sides of 1"
        ) from None
    if len(shapes) * math.prod(found) > MAX_VALUES:
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}) joins {len(shapes)} inputs of shape {found}; at most {MAX_VALUES} numbers are supported"
        )
    return found


def stack(step: Step, inputs: Sequence[np.ndarray], workspace: Workspace | None = None) -> np.ndarray:
    """Return inputs [n, *shape] as one array [n, m, *shape]."""
    out = np.empty((len(inputs[0]), *step.input_shape), inputs[0].dtype)
    for k, each in enumerate(inputs):
        out[:, k] = each
    return out


def unstack(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> list[np.ndarray]:
    """Cut relevance [n, m, *shape] into that of each input; where an input was repeated, its relevances are added."""
    shares = []
    for k, own in enumerate(step.input_shapes):
        share = R[:, k]
        for axis, (side, whole) in enumerate(zip(own, share.shape[1:], strict=True), 1):
            if side != whole:
                share = share.sum(axis=axis, keepdims=True)
        shares.append(np.ascontiguousarray(share))
    return shares


def _stacked(layer: Layer) -> dict[str, Any]:
    return {"input_shape": (len(layer.input_shapes), *layer.output_shape), "input_shapes": layer.input_shapes}


# Sums


def _weights(of: Callable[[int], Sequence[float]], kind: str) -> Callable[[Layer], dict[str, Any]]:
    def fields(layer: Layer) -> dict[str, Any]:
        return {"kind": kind, "weight": np.array(of(len(layer.input_shapes)), float), **_stacked(layer)}

    return fields


def forward(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: Any, relu: bool, held: Any = None) -> np.ndarray:
    """Add up all inputs of all terms, in order."""
    from nplrp.kernels import elementwise

    z = np.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype)
    for t, (a, change) in enumerate(zip(inputs, changes, strict=True)):
        for k, weight in enumerate(change_weight(step.weight, change)):
            elementwise.add_scaled(np.ascontiguousarray(a[:, k]), weight, z, t + k > 0, threads())
    if relu:
        elementwise.relu(z, z, threads())
    return z


def transpose(step: Step, s: np.ndarray, change: Change, held: Any, c: np.ndarray) -> None:
    """Write s times each input's weight to c [n, m, *shape]."""
    for k, weight in enumerate(change_weight(step.weight, change)):
        np.multiply(s, weight, out=c[:, k])


def fused_forward(
    step: Step, inputs: Sequence[np.ndarray], relu: bool | float, parts: Sequence[Part], workspace: Workspace
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Add up the inputs where they are."""
    from nplrp.kernels import joins

    outs = [workspace.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype) for _ in (None, *parts)]
    for k, (out, change) in enumerate(zip(outs, (AS_IS, *clamps(parts)), strict=True)):
        joins.sum_forward(inputs, change_weight(step.weight, change), out, relu if k == 0 else False, threads())
    return outs[0], outs[1:]


def carry(step: Step, s: Sequence[np.ndarray], parts: Sequence[Part], inputs: Sequence[np.ndarray], workspace: Workspace) -> Carried:
    """Do lines 3 and 4 for each input."""
    from nplrp.kernels import joins

    shares = [workspace.empty((len(s[0]), *a.shape[1:]), a.dtype) for a in inputs]
    for p, (each, change) in enumerate(zip(s, clamps(parts), strict=True)):
        weights, add = change_weight(step.weight, change), [p > 0] * len(shares)
        for maps in runs(each, inputs[0]):
            joins.sum_transpose_times(each[maps], inputs, weights, [share[maps] for share in shares], add, threads())
    return Carried(shares, False)


def whole(step: Step, R: np.ndarray, division: Division, part: Part, inputs: Sequence[np.ndarray], workspace: Workspace) -> Carried:
    """Do lines 2, 3 and 4 for each input in one pass, without writing s."""
    from nplrp.kernels import joins

    shares = [workspace.empty((len(R), *a.shape[1:]), a.dtype) for a in inputs]
    ((_, kind, epsilon),) = stabilisers(division.z[0], division.rule)
    weights = change_weight(step.weight, *clamps([part]))
    for maps in runs(R, inputs[0]):
        own = [share[maps] for share in shares]
        joins.sum_relevance(R[maps], division.z[0], kind, epsilon, inputs, weights, own, None, threads())
    workspace.give(R)
    return Carried(shares, False)


def _fusible(step: Step) -> bool:
    """Tell whether no input is repeated, so that nothing has to be added up behind the kernels."""
    return all(each == step.output_shape for each in step.input_shapes)


def sum_terms(step: Step) -> tuple[int, int]:
    """Return the number of terms in a sum over inputs, and over outputs."""
    return step.input_shape[0], 1


# Maxima and minima: the first of equal inputs wins, and a NaN wins over everything


def _choose(best: Callable[..., np.ndarray]) -> Callable[..., tuple[np.ndarray, np.ndarray]]:
    def choose(step: Step, a: np.ndarray, labels: Any = None, workspace: Workspace | None = None) -> tuple[np.ndarray, np.ndarray]:
        winner = best(a, axis=1)
        return np.take_along_axis(a, winner[:, None], axis=1)[:, 0], winner.astype(np.uint16)

    return choose


def _share(best: Callable[..., np.ndarray]) -> Callable[..., np.ndarray]:
    def share(step: Step, a: np.ndarray, labels: Any, decision: str) -> np.ndarray:
        won: np.ndarray = (a == best(a, axis=1, keepdims=True)).astype(a.dtype)
        return won / won.sum(axis=1, keepdims=True)

    return share


def _chosen(step: Step, inputs: Sequence[np.ndarray], changes: Any, b: Any, relu: bool, held: np.ndarray | None = None) -> np.ndarray:
    assert held is not None
    if held.dtype.kind == "f":
        return _weighed(step, inputs, changes, b, relu, held)
    return np.take_along_axis(inputs[0], held[:, None].astype(np.intp), axis=1)[:, 0]


def _to_winner(step: Step, s: np.ndarray, change: Change, held: np.ndarray, c: np.ndarray) -> None:
    if held.dtype.kind == "f":
        _weighed_back(step, s, change, held, c)
        return
    for k in range(c.shape[1]):
        c[:, k] = np.where(held == k, s, s.dtype.type(0))


def _places(sign: float) -> Callable[[Step, np.ndarray], np.ndarray]:
    return lambda step, a: np.moveaxis(sign * a, 1, -1)


def _held_shares(step: Step, shares: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.moveaxis(shares, -1, 1))


def as_mean(step: Step) -> Step:
    """Return a maximum as the step that weighs all inputs alike."""
    if "average" not in step.prepared:
        m = step.input_shape[0]
        step.prepared["average"] = dataclasses.replace(step, kind=SUM.name, weight=np.full(m, 1 / m), prepared={})
    average: Step = step.prepared["average"]
    return average


# Products as gates


def multiply(step: Step, a: np.ndarray, labels: Any = None, workspace: Workspace | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Return the product of the inputs, and hold for each the product of the others, [n, m, *shape]."""
    m, others = a.shape[1], np.ones_like(a)
    for k in range(1, m):  # those before it ...
        np.multiply(others[:, k - 1], a[:, k - 1], out=others[:, k])
    z, behind = others[:, m - 1] * a[:, m - 1], a[:, m - 1].copy()
    for k in range(m - 2, -1, -1):  # ... times those behind it
        others[:, k] *= behind
        behind *= a[:, k]
    return z, others


def _hold_shares(step: Step, a: np.ndarray, labels: Any, decision: str) -> np.ndarray:
    """Return each input's share of a product's relevance: all of it to the signal, or equal ones."""
    m = a.shape[1]
    shares = np.full(m, 1 / m) if decision == "shared" else np.eye(m)[signal(step)]
    return np.broadcast_to(shares.astype(a.dtype).reshape(1, m, *[1] * (a.ndim - 2)), a.shape)


def signal(step: Step) -> int:
    """Return which input of a product carries the signal and isn't a gate: the largest, of equal ones the first (or as an option says)."""
    sizes = [math.prod(each) for each in step.input_shapes]
    return int(step.options.get("signal", sizes.index(max(sizes))))


def _weighed(step: Step, inputs: Sequence[np.ndarray], changes: Any, b: Any, relu: bool, held: np.ndarray | None = None) -> np.ndarray:
    """Return the sum over inputs of a times what is held for it."""
    assert held is not None
    z = inputs[0][:, 0] * held[:, 0]
    for k in range(1, held.shape[1]):
        z += inputs[0][:, k] * held[:, k]
    return z


def _weighed_back(step: Step, s: np.ndarray, change: Change, held: np.ndarray, c: np.ndarray) -> None:
    np.multiply(s[:, None], held, out=c)


def _product_terms(step: Step) -> tuple[int, int]:
    """Return how often a product is rounded, its factors among them, forward and back."""
    return 2 * step.input_shape[0], 2 * step.input_shape[0]


SUM = Operation(
    "sum",
    LINEAR,
    "add",
    forward,
    transpose,
    gather=stack,
    scatter=unstack,
    terms=sum_terms,
    fused=Fused(fused_forward, carry, whole=whole, fits=_fusible, tops=True),
    queueable=True,
    tie=point_row,
    keeps_sign=True,
)
MEAN = dataclasses.replace(SUM, name="mean", family="mean")
DIFFERENCE = dataclasses.replace(SUM, name="difference", family="subtract", keeps_sign=False)
MAXIMUM = Operation(
    "maximum",
    DECIDES,
    "maximum",
    _chosen,
    _to_winner,
    decide=_choose(np.argmax),
    redecide=_share(np.max),
    average=as_mean,
    choice=Choice(_places(1.0), _held_shares),
    gather=stack,
    scatter=unstack,
    terms=lambda step: (2, 1),
    tie=point_row,
    keeps_sign=True,
    keeps_zero=True,
)
MINIMUM = dataclasses.replace(
    MAXIMUM, name="minimum", decide=_choose(np.argmin), redecide=_share(np.min), choice=Choice(_places(-1.0), _held_shares)
)
PRODUCT = Operation(
    "product",
    DECIDES,
    "gate",
    _weighed,
    _weighed_back,
    decide=multiply,
    redecide=_hold_shares,
    gather=stack,
    scatter=unstack,
    terms=_product_terms,
    tie=point_row,
    keeps_sign=True,
    keeps_zero=True,
)

KINDS = (
    Kind("add", shape, _weights(lambda m: [1.0] * m, "sum"), SEVERAL, keras=operators.ADD),
    Kind("average", shape, _weights(lambda m: [1 / m] * m, "mean"), SEVERAL, keras=operators.AVERAGE),
    Kind("subtract", shape, _weights(lambda m: [1.0, -1.0], "difference"), (2, 2), keras=operators.SUBTRACT),
    Kind("maximum", shape, lambda layer: {"kind": "maximum", **_stacked(layer)}, SEVERAL, keras=operators.MAXIMUM, chooses=True),
    Kind("minimum", shape, lambda layer: {"kind": "minimum", **_stacked(layer)}, SEVERAL, keras=operators.MINIMUM, chooses=True),
    Kind("multiply", shape, lambda layer: {"kind": "product", **_stacked(layer)}, SEVERAL, keras=operators.MULTIPLY),
)
OPERATIONS = (SUM, MEAN, DIFFERENCE, MAXIMUM, MINIMUM, PRODUCT)
