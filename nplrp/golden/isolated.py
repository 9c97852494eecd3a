"""nplrp itself as a backend: every layer's backward step from golden inputs, right or with a seeded fault."""

from __future__ import annotations

import numpy as np

from nplrp.golden import edges
from nplrp.golden.candidate import Candidate
from nplrp.golden.diagnosis import plan_of, trace_of
from nplrp.golden.faults import FAULTS, Fault, Place
from nplrp.golden.values import Golden
from nplrp.lrp import step_back
from nplrp.model import Model


def isolated_run(golden: Golden, model: Model, dtype: str = "float32", algorithm: str = "direct") -> Candidate:
    """Run each layer's backward step on the golden numbers, rounded to a dtype.

    Parameters
    ----------
    golden : Golden
        Of profile ``"full"``.
    model : Model
    dtype : "float32" or "float64"
    algorithm : "direct" or "auto"
    """
    places = places_of(golden, model, dtype, algorithm).values()
    steps = next(iter(places)).plan.steps if places else ()
    found = {at.i: step_back(at.plan, at.trace, at.i, at.R) for at in places}
    relevances, along = edges.along(steps, found)
    return Candidate(relevances, edges=along, source=f"nplrp in {dtype}, {algorithm}")


def candidate_of(at: Place, R: np.ndarray) -> Candidate:
    """Return a candidate that has nothing but what one layer gives to its inputs: R [n, *input_shape] is relevance of what it works on."""
    steps = at.plan.steps
    names, above = edges.names_of(steps), edges.readers(steps)
    shares = edges.cut(at.step, R)
    relevances = {names[j + 1]: share for j, share in shares.items() if len(above[j]) == 1}
    return Candidate(relevances, edges={(at.step.name, names[j + 1]): share for j, share in shares.items() if len(above[j]) > 1})


def places_of(golden: Golden, model: Model, dtype: str, algorithm: str = "direct") -> dict[str, Place]:
    """Return every layer's backward step with golden inputs, by the layer's name."""
    plan = plan_of(golden, model, dtype, algorithm)
    own = {layer.name: layer.activation.values for layer in golden.layers}
    trace = trace_of(golden, plan, own)
    found = {}
    for i, step in enumerate(plan.steps):
        tensor = golden[step.name].relevance
        if tensor is not None:
            found[step.name] = Place(plan, trace, i, np.ascontiguousarray(tensor.values, plan.dtype))
    return found


def fault_named(number: int) -> Fault:
    """Return the seeded fault of that number."""
    return next(fault for fault in FAULTS if fault.number == number)
