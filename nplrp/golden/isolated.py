"""nplrp itself as a backend: every layer's backward step from golden inputs, right or with a seeded fault."""

from __future__ import annotations

import itertools

import numpy as np

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
    places = places_of(golden, model, dtype, algorithm)
    found = {name: step_back(at.plan, at.trace, at.i, at.R) for name, at in places.items()}
    return Candidate(found, source=f"nplrp in {dtype}, {algorithm}")


def faulty_layers(golden: Golden, model: Model, fault: Fault, dtype: str = "float32") -> dict[str, np.ndarray]:
    """Return what a fault makes of each layer where it can show, by the name of the layer below; nothing for a fault that can't."""
    found = {name: fault.run(at) for name, at in places_of(golden, model, dtype).items()}
    return {name: R for name, R in found.items() if R is not None}


def places_of(golden: Golden, model: Model, dtype: str, algorithm: str = "direct") -> dict[str, Place]:
    """Return every layer's backward step with golden inputs, by the name of the layer below."""
    plan = plan_of(golden, model, dtype, algorithm)
    own = {layer.name: layer.activation.values for layer in golden.layers}
    trace = trace_of(golden, plan, own)
    found = {}
    for i, (below, name) in enumerate(itertools.pairwise(golden.names)):
        tensor = golden[name].relevance
        if tensor is not None:
            found[below] = Place(plan, trace, i, np.ascontiguousarray(tensor.values, plan.dtype))
    return found


def fault_named(number: int) -> Fault:
    """Return the seeded fault of that number."""
    return next(fault for fault in FAULTS if fault.number == number)
