"""A recorded run again: its plan, and its forward pass with a candidate's own activations in it."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from nplrp.golden.errors import GoldenError
from nplrp.golden.recording import check_weights, rebuilt_composite, rebuilt_dialect
from nplrp.golden.values import Golden
from nplrp.golden.whole_run import with_activations
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
    return with_activations(plan, trace, own)
