"""Why a layer diverges: run it again under every known deviation, and name those that give the candidate's numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from nplrp import layers
from nplrp.fused import Trace
from nplrp.golden.errors import GoldenError, ProvenanceError
from nplrp.golden.faults import FAULTS, Place, dialect_switches, other_starts
from nplrp.golden.judging import CHAINED, FLOOR, UNITS
from nplrp.golden.recording import rebuilt_composite
from nplrp.golden.values import UNIT, Golden
from nplrp.lrp import run
from nplrp.model import Model
from nplrp.plan import Plan, make_plan

if TYPE_CHECKING:
    from nplrp.golden.report import Report

#: How many matches are named.
NAMED = 3
#: A deviation that leaves less than this share of the divergence matches as well.
EXPLAINED = 0.02


def plan_of(golden: Golden, model: Model, dtype: str = "float64", algorithm: str = "direct") -> Plan:
    """Return the plan that was recorded.

    Raises
    ------
    ProvenanceError
        If the model has other weights.
    """
    if model.content_hash != golden.facts["weights_sha256"]:
        raise ProvenanceError(
            f"these are other weights: {model.source or model.name} has content SHA-256 {model.content_hash}, the golden values were "
            f"recorded with {golden.facts['weights_sha256']}; give the model that was recorded"
        )
    return make_plan(model, rebuilt_composite(golden.facts), dtype, algorithm)


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
        if step.merged:  # a batch norm that lives in a neighbour: in the plan its own step does nothing
            before = plan.steps[i - 1] if i else None
            absorbed_before = before is not None and before.kind in ("conv", "dense") and before.activation == "linear"
            if absorbed_before and step.activation == "linear":
                own[i] = own[i + 1]
            elif absorbed_before:
                own[i : i + 2] = trace.activations[i : i + 2]
            else:
                own[i + 1] = own[i]
    winners = {i: layers.choose(plan.steps[i], own[i])[1] for i in trace.winners}
    return dataclasses.replace(trace, activations=tuple(own), winners=winners)


def diagnose(
    golden: Golden, model: Model, report: Report, relevances: Mapping[str, np.ndarray], activations: Mapping[str, np.ndarray]
) -> tuple[str, ...]:
    """Return sentences about the first diverging layer.

    Parameters
    ----------
    golden : Golden
    model : Model
    report : Report
    relevances, activations : mapping of str to ndarray
        The candidate's, in golden shapes.
    """
    sentences = []
    forward = next((row for row in report.rows if row.what == "activation" and row.verdict == "DIVERGED"), None)
    if forward is not None:
        sentences.append(f"the forward pass diverges at {forward.layer}: look there first, relevance follows from it")
    first = report.first
    if first is None or first.what != "relevance" or golden.input is None:
        return tuple(sentences)
    candidate = np.asarray(relevances[first.array], np.float64)
    if not np.isfinite(candidate).all():
        return (*sentences, "not a number: a denominator vanished, or a number was too large for the backend's precision")
    tensor = golden[first.array].relevance
    assert tensor is not None
    plan = plan_of(golden, model)
    if first.layer == "start":
        chosen = golden.facts["targets"]
        tries = other_starts(golden.facts["start"], golden.logits, None if chosen is None else np.array(chosen))
        reference = tensor.values
    else:
        own = activations if report.mode == "local" else {}
        i = golden.names.index(first.array)
        above = golden[first.layer].relevance
        assert above is not None
        R = above.values if report.mode == "isolated" or first.layer not in relevances else relevances[first.layer]
        at = Place(plan, trace_of(golden, plan, own), i, np.ascontiguousarray(R, np.float64))
        tries, reference = _tries(at), at.run()
    scored = []
    for name, tried in tries:
        values = tried.reshape(candidate.shape)
        if np.isfinite(values).all() and _relative(values, reference) > 0:
            scored.append((_distance(candidate, values, tensor.expected, report), name))
    scored.sort()
    near = max(1.0, EXPLAINED * _distance(candidate, reference.reshape(candidate.shape), tensor.expected, report))
    matches = [(d, name) for d, name in scored if d <= near]
    if matches:
        alike = [name for d, name in matches[1 : NAMED + 1] if d <= 2 * matches[0][0] + 0.1]
        more = f" (not to be told apart here: {', '.join(alike)})" if alike else ""
        return (*sentences, f'{first.layer} matches "{matches[0][1]}" to {matches[0][0]:.2g} tol{more}')
    closest = f"; the closest is {scored[0][1]!r}, {scored[0][0]:.2g} tol away" if scored else ""
    return (*sentences, f"{first.layer} matches none of the {len(scored)} known deviations{closest}")


def _tries(at: Place) -> Iterator[tuple[str, np.ndarray]]:
    for fault in FAULTS:
        if fault.number == 14 and at.a.size * at.step.output_shape[-1] > 1 << 24:
            continue  # minutes in NumPy
        found = fault.run(at)
        if found is not None:
            yield fault.name, found
    yield from dialect_switches(at)


def _distance(candidate: np.ndarray, values: np.ndarray, bound: np.ndarray, report: Report) -> float:
    """Return how far a deviation's numbers are from the candidate's, in tolerances."""
    scale = UNITS.get(report.precision, UNIT) / UNIT
    relative = _relative(candidate, values) / (CHAINED * FLOOR * UNIT * scale)
    if report.mode == "chained" or bound.shape != candidate.shape:
        return relative
    tolerance = bound * scale + np.abs(values) * 32 * UNIT * scale
    worst = float(np.max(np.abs(candidate - values) / np.maximum(tolerance, np.finfo(np.float32).smallest_subnormal), initial=0.0))
    return min(worst, relative)


def _relative(values: np.ndarray, reference: np.ndarray) -> float:
    size = float(np.abs(reference).sum())
    return float(np.abs(values - reference.reshape(values.shape)).sum()) / (size or 1.0)
