"""Why a layer diverges: run it again under every known deviation, and name those that give the candidate's numbers."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from nplrp import layers
from nplrp.golden import edges
from nplrp.golden.bounds import Bounds, forward_bounds, relevance_bounds
from nplrp.golden.errors import GoldenError
from nplrp.golden.fast_convolutions import is_fast
from nplrp.golden.faults import FAULTS, Place, dialect_switches, other_starts, too_slow
from nplrp.golden.forward_faults import flattens, forward_deviations
from nplrp.golden.judging import CHAINED, FLOOR, REACH, UNITS
from nplrp.golden.recording import check_weights, rebuilt_composite, rebuilt_dialect
from nplrp.golden.values import UNIT, Golden, Tensor
from nplrp.golden.whole_run import with_activations
from nplrp.lrp import run_forward, run_step
from nplrp.model import Model
from nplrp.outputs import run
from nplrp.plan import Plan, make_plan, make_steps
from nplrp.scores import scoring_of
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


def diagnose(
    golden: Golden,
    model: Model,
    report: Report,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    along: Mapping[tuple[str, str], np.ndarray],
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
    along : mapping of (str, str) to ndarray
        The candidate's relevance along edges, by layer and input.
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
        sentences.append(_of_relevance(golden, model, report, first, relevances, activations, along, convolutions))
    return tuple(sentences)


def _of_activation(golden: Golden, model: Model, report: Report, row: Row, activations: Mapping[str, np.ndarray], convolutions: str) -> str:
    """Run a layer forward under every known deviation, from the candidate's own input if it has that."""
    candidate = np.asarray(activations[row.array], np.float64)
    if not np.isfinite(candidate).all():
        return f"{row.layer}: not a number: it was too large for the backend's precision, or came so from below"
    i = golden.names.index(row.array)
    if i == 0:
        return "the input's own numbers differ: preprocess the same image in the same way"
    steps = make_steps(model, np.dtype("float64"), "direct", merge=False)
    step, reads = steps[i - 1], golden.inputs[row.array]
    inputs = [activations.get(name) if report.mode != "isolated" else None for name in reads]
    if any(each is None or not np.isfinite(each).all() for each in inputs):
        ran = run_forward(steps[: i - 1], np.asarray(golden.input)).activations
        inputs = [ran[j + 1] for j in step.inputs]
    inputs = [np.ascontiguousarray(each, np.float64) for each in inputs]
    op = layers.operation(step)
    a = np.ascontiguousarray(op.gather(step, inputs))
    reference = run_step(step, a)

    def bounds(way: str) -> Bounds:
        return forward_bounds(step, a, reference, np.zeros(a.shape), way).bounds

    def left_out() -> Iterator[tuple[str, np.ndarray]]:
        for k, name in enumerate(reads if len(reads) > 1 else ()):
            others = [np.zeros_like(each) if j == k else each for j, each in enumerate(inputs)]
            yield f"input {name} left out", run_step(step, np.ascontiguousarray(op.gather(step, others)))

    below = steps[step.inputs[0]] if step.inputs[0] >= 0 else None
    flattened = below.input_shape if below is not None and flattens(below) else None
    tries = itertools.chain(forward_deviations(step, model.layers[i - 1], a, flattened), left_out())
    name, sentence = _matched(row.layer, candidate, reference, tries, golden[row.array].activation, report)
    if name or not is_fast(step, "winograd") or not _winograd_explains(bounds, candidate, reference, report, convolutions):
        return sentence
    return _hint(row.layer)


def _of_relevance(
    golden: Golden,
    model: Model,
    report: Report,
    row: Row,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    along: Mapping[tuple[str, str], np.ndarray],
    convolutions: str,
) -> str:
    """Run a layer's rule under every known deviation, from the relevance that the candidate itself had above."""
    edge = len(golden.readers[row.array]) > len(row.made_by) == 1
    candidate = np.asarray(along[row.made_by[0], row.array] if edge else relevances[row.array], np.float64)
    if not np.isfinite(candidate).all():
        return f"{row.layer}: not a number: a denominator vanished, or a number was too large for the backend's precision"
    tensor = golden[row.made_by[0]].edges[row.array] if edge else golden[row.array].relevance
    assert tensor is not None
    plan = plan_of(golden, model)
    if row.layer == "start":
        chosen = golden.facts["targets"]
        wanted = None if chosen is None else np.array(chosen)
        tries = other_starts(scoring_of(model), golden.facts["start"], golden.logits, golden.output, wanted)
        return _matched(row.layer, candidate, tensor.values.reshape(candidate.shape), tries, tensor, report)[1]
    j = golden.names.index(row.array) - 1
    trace = trace_of(golden, plan, activations if report.mode == "local" else {})
    places = []
    for name in row.made_by:
        above = golden[name].relevance
        assert above is not None
        given = above.values if report.mode == "isolated" or name not in relevances else relevances[name]
        R = np.ascontiguousarray(given, np.float64)
        if R.shape != above.shape:
            return f"{name}: this digest has samples only, and the candidate no relevance of {name}, so it can't be run again"
        places.append(Place(plan, trace, golden.names.index(name) - 1, R))
    shares = [edges.cut(at.step, at.run())[j] for at in places[::-1]][::-1]  # the last reader first, as the engine adds
    reference = edges.total(shares[::-1])

    def bounds(way: str) -> Bounds:
        each = [relevance_bounds(plan, at.i, at.trace, at.R, None, way) for at in places]
        return edges.add([edges.cut_bounds(at.step, at.run(), of)[j] for at, of in zip(places, each, strict=True)]).bounds

    name, sentence = _matched(row.layer, candidate, reference, _of_readers(places, shares, j), tensor, report)
    fast = any(is_fast(at.step, "winograd") for at in places)
    if name or not fast or not _winograd_explains(bounds, candidate, reference, report, convolutions):
        return sentence
    return _hint(row.layer)


def _of_readers(places: Sequence[Place], shares: Sequence[np.ndarray], j: int) -> Iterator[tuple[str, np.ndarray]]:
    """Return what the relevance of step j's output would be under every known deviation of one of those who read it."""
    for k, at in enumerate(places):
        others = [share for other, share in enumerate(shares) if other != k]
        where = f" in {at.step.name}" if others else ""
        for name, R in _tries(at):
            yield f"{name}{where}", edges.total([edges.cut(at.step, R)[j], *others])
        if others:
            yield f"what {at.step.name} gives left out", edges.total(others)
            yield f"what {at.step.name} gives counted twice", edges.total([shares[k], *shares])
            more = shares[k] * at.trace.activations[j + 1]  # Captum, of what reads beside a layer with a rule
            yield f"what {at.step.name} gives times the activation once more", edges.total([more, *others])


def _winograd_explains(
    bounds: Callable[[str], Bounds], candidate: np.ndarray, reference: np.ndarray, report: Report, convolutions: str
) -> bool:
    if report.mode == "chained" or convolutions != "direct":
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
