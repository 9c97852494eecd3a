"""Why a layer diverges: run it again under every known deviation, and name those that give the candidate's numbers."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from nplrp import layers
from nplrp.explanation import run
from nplrp.golden.bounds import Bounds, forward_bounds, relevance_bounds
from nplrp.golden.errors import GoldenError
from nplrp.golden.fast_convolutions import is_fast
from nplrp.golden.faults import FAULTS, Place, dialect_switches, other_starts, too_slow
from nplrp.golden.forward_faults import forward_deviations
from nplrp.golden.judging import CHAINED, FLOOR, REACH, UNITS
from nplrp.golden.recording import check_weights, rebuilt_composite
from nplrp.golden.values import UNIT, Golden, Tensor
from nplrp.layers import Step
from nplrp.lrp import run_forward, run_step
from nplrp.model import Model
from nplrp.plan import Plan, make_plan, make_steps
from nplrp.trace import Trace

if TYPE_CHECKING:
    from nplrp.golden.report import Report, Row

#: How many matches are named.
NAMED = 3
#: A deviation that leaves less than this share of the divergence matches as well; none matches that leaves more than the other.
EXPLAINED, LEAST = 0.02, 0.5


def plan_of(golden: Golden, model: Model, dtype: str = "float64", algorithm: str = "direct") -> Plan:
    """Return the plan that was recorded.

    Raises
    ------
    ProvenanceError
        If the model has other weights.
    """
    check_weights(golden, model)
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
    held = {i: layers.apply(plan.steps[i], layers.gather(plan.steps[i], own))[1] for i in trace.held}
    return dataclasses.replace(trace, activations=tuple(own), held=held)


def diagnose(
    golden: Golden,
    model: Model,
    report: Report,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    convolutions: str = "direct",
) -> tuple[str, ...]:
    """Return sentences about the first diverging layer, forward and backward.

    Parameters
    ----------
    golden : Golden
    model : Model
    report : Report
    relevances, activations : mapping of str to ndarray
        The candidate's, in golden shapes.
    convolutions : str
        What it was judged by.
    """
    if golden.input is None:
        return ("this digest doesn't hold its input, which is large, so no layer can be run again; record with --profile full",)
    sentences = []
    forward = next((row for row in report.rows if row.what == "activation" and row.verdict == "DIVERGED"), None)
    if forward is not None:
        sentences.append("the forward pass diverges: look there first, relevance follows from it")
        sentences.append(_of_activation(golden, model, report, forward, activations, convolutions))
    first = report.first
    if first is not None and first.what == "relevance":
        sentences.append(_of_relevance(golden, model, report, first, relevances, activations, convolutions))
    return tuple(sentences)


def _of_activation(golden: Golden, model: Model, report: Report, row: Row, activations: Mapping[str, np.ndarray], convolutions: str) -> str:
    """Run a layer forward under every known deviation, from the candidate's own input if it has that."""
    candidate = np.asarray(activations[row.array], np.float64)
    if not np.isfinite(candidate).all():
        return f"{row.layer}: not a number: it was too large for the backend's precision, or came so from below"
    i = golden.names.index(row.array)
    if i == 0:
        return "the input's own numbers differ: preprocess the same image in the same way"
    plan = plan_of(golden, model)
    step = make_steps(model, plan.dtype, plan.algorithm, merge=False)[i - 1]
    below = golden.names[i - 1]
    own = activations.get(below) if report.mode != "isolated" else None
    if own is None or not np.isfinite(own).all():
        own = run_forward(make_steps(model, plan.dtype, plan.algorithm, merge=False)[: i - 1], np.asarray(golden.input)).activations[-1]
    a = np.ascontiguousarray(own, np.float64)
    reference = run_step(step, a)

    def bounds(way: str) -> Bounds:
        return forward_bounds(step, a, reference, np.zeros(a.shape), way).bounds

    flattened = model.layers[i - 2].input_shape if i > 1 and model.layers[i - 2].kind == "flatten" else None
    tries = forward_deviations(step, model.layers[i - 1], a, flattened)
    name, sentence = _matched(row.layer, candidate, reference, tries, golden[row.array].activation, report)
    return sentence if name or not _winograd_explains(bounds, step, candidate, reference, report, convolutions) else _hint(row.layer)


def _of_relevance(
    golden: Golden,
    model: Model,
    report: Report,
    row: Row,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    convolutions: str,
) -> str:
    """Run a layer's rule under every known deviation, from the relevance that the candidate itself had above."""
    candidate = np.asarray(relevances[row.array], np.float64)
    if not np.isfinite(candidate).all():
        return f"{row.layer}: not a number: a denominator vanished, or a number was too large for the backend's precision"
    tensor = golden[row.array].relevance
    assert tensor is not None
    plan = plan_of(golden, model)
    if row.layer == "start":
        chosen = golden.facts["targets"]
        tries = other_starts(golden.facts["start"], golden.logits, None if chosen is None else np.array(chosen))
        return _matched(row.layer, candidate, tensor.values.reshape(candidate.shape), tries, tensor, report)[1]
    i = golden.names.index(row.array)
    above = golden[row.layer].relevance
    assert above is not None
    given = above.values if report.mode == "isolated" or row.layer not in relevances else relevances[row.layer]
    R = np.ascontiguousarray(given, np.float64)
    if R.shape != above.shape:
        return f"{row.layer}: this digest has samples only, and the candidate no relevance of {row.layer}, so it can't be run again"
    at = Place(plan, trace_of(golden, plan, activations if report.mode == "local" else {}), i, R)
    reference = at.run()

    def bounds(way: str) -> Bounds:
        return relevance_bounds(plan, i, at.trace, R, None, way)

    name, sentence = _matched(row.layer, candidate, reference, _tries(at), tensor, report)
    return sentence if name or not _winograd_explains(bounds, at.step, candidate, reference, report, convolutions) else _hint(row.layer)


def _winograd_explains(
    bounds: Callable[[str], Bounds], step: Step, candidate: np.ndarray, reference: np.ndarray, report: Report, convolutions: str
) -> bool:
    if report.mode == "chained" or convolutions != "direct" or not is_fast(step, "winograd"):
        return False
    _, certified, undecided = bounds("winograd")
    scale = UNITS.get(report.precision, UNIT) / UNIT
    return bool((np.abs(candidate - reference.reshape(candidate.shape)) <= certified * scale + REACH * undecided).all())


def _hint(layer: str) -> str:
    return f"{layer}: direct sums can't err so, but a Winograd convolution can: if that is what it uses, check with --convolutions winograd"


def _matched(
    layer: str, candidate: np.ndarray, reference: np.ndarray, tries: Iterator[tuple[str, np.ndarray]], tensor: Tensor, report: Report
) -> tuple[str, str]:
    """Return the deviation that gives the candidate's numbers ("" for none), and a sentence about it."""
    scored = []
    for name, tried in tries:
        values = tried.reshape(candidate.shape)
        if np.isfinite(values).all() and _relative(values, reference) > 0:
            scored.append((_distance(candidate, values, tensor.expected, report), name))
    scored.sort()
    apart = _distance(candidate, reference.reshape(candidate.shape), tensor.expected, report)
    near = min(max(1.0, EXPLAINED * apart), LEAST * apart)
    matches = [(d, name) for d, name in scored if d <= near]
    if matches:
        alike = [name for d, name in matches[1 : NAMED + 1] if d <= 2 * matches[0][0] + 0.1]
        more = f" (not to be told apart here: {', '.join(alike)})" if alike else ""
        return matches[0][1], f'{layer} matches "{matches[0][1]}" to {matches[0][0]:.2g} tol{more}'
    closest = f"; the closest is {scored[0][1]!r}, {scored[0][0]:.2g} tol away" if scored else ""
    return "", f"{layer} matches none of the {len(scored)} known deviations{closest}"


def _tries(at: Place) -> Iterator[tuple[str, np.ndarray]]:
    for fault in FAULTS:
        found = None if too_slow(fault, at) else fault.run(at)
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
