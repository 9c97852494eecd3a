"""A recorded run again: its plan, and its forward pass with a candidate's own activations in it."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from nplrp import layers
from nplrp.golden.errors import GoldenError
from nplrp.golden.recording import check_weights, rebuilt_composite, rebuilt_dialect
from nplrp.golden.values import Golden
from nplrp.layers import Step
from nplrp.model import Model
from nplrp.outputs import run
from nplrp.plan import Plan, make_plan
from nplrp.trace import Trace


def plan_of(golden: Golden, model: Model, dtype: str = "float64", algorithm: str = "direct") -> Plan:
    """Return the plan that was recorded.

    Raises
    ------
    ProvenanceError
        If the model has other weights.
    """
    check_weights(golden, model)
    return make_plan(model, rebuilt_composite(golden.facts), dtype, algorithm, rebuilt_dialect(golden.facts))


def trace_of(golden: Golden, plan: Plan, activations: Mapping[str, np.ndarray] | None = None) -> Trace:
    """Return the forward pass that was recorded, with a candidate's activations where it has them.

    Raises
    ------
    GoldenError
        If the file doesn't hold the input.
    """
    if golden.input is None:
        raise GoldenError("this digest doesn't hold its input, which is large, so layers can't be run again; record with --profile full")
    trace = run(plan, np.ascontiguousarray(golden.input, plan.dtype))
    if not activations:
        return trace
    own = [
        np.ascontiguousarray(activations[name], plan.dtype) if name in activations and np.isfinite(activations[name]).all() else kept
        for name, kept in zip(golden.names, trace.activations, strict=True)
    ]
    for i, step in enumerate(plan.steps):
        if step.merged:
            _hide_norm(plan.steps, trace, own, i)
    held = {i: layers.apply(plan.steps[i], layers.gather(plan.steps[i], own))[1] for i in trace.held}
    return dataclasses.replace(trace, activations=tuple(own), held=held)


def _hide_norm(steps: Sequence[Step], trace: Trace, own: list[np.ndarray], i: int) -> None:
    """Change activations to those of a plan in which batch norm i lives in a neighbour: its own step, and those between, do nothing."""
    into, between = int(steps[i].options["into"]), []
    at = i
    while at != into:  # nobody else reads what lies between
        at = steps[at].inputs[0] if into < i else next(k for k in range(at + 1, len(steps)) if at in steps[k].inputs)
        between.append(at)
    if into > i:
        for k in (i, *between[:-1]):
            own[k + 1] = layers.move(steps[k], layers.gather(steps[k], own))
    elif steps[i].activation == "linear":
        for k in between:
            own[k + 1] = own[i + 1].reshape(len(own[i + 1]), *steps[k].output_shape)
    else:
        for k in (i, *between):
            own[k + 1] = trace.activations[k + 1]
