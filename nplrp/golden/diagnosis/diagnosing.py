"""Diagnose the first diverging layer of a report, forward and backward."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from nplrp import layers
from nplrp.golden import edges
from nplrp.golden.bounds import Bounds, forward_bounds, relevance_bounds
from nplrp.golden.diagnosis import backward, forward
from nplrp.golden.diagnosis.matching import Finding, Hypothesis, Target, finding
from nplrp.golden.diagnosis.replay import plan_of, trace_of
from nplrp.golden.diagnosis.reported import relations
from nplrp.golden.fast_convolutions import is_fast
from nplrp.golden.faults import Place, other_starts
from nplrp.golden.judging import REACH, UNITS
from nplrp.golden.values import UNIT, Golden
from nplrp.lrp import run_forward, run_step
from nplrp.model import Model
from nplrp.plan import last_sum, make_steps
from nplrp.scores import scoring_of

if TYPE_CHECKING:
    from nplrp.golden.report import Report, Row

#: No more other classes are tried as targets.
CLASSES = 2000


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
    found = find(golden, model, report, relevances, activations, along, convolutions)
    told = [str(each) for each in found]
    if any(row.what == "activation" and row.verdict == "DIVERGED" for row in report.rows):
        told.insert(0, "the forward pass diverges: look there first, relevance follows from it")
    return tuple(told)


def find(
    golden: Golden,
    model: Model,
    report: Report,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    along: Mapping[tuple[str, str], np.ndarray],
    convolutions: str = "direct",
) -> tuple[Finding | str, ...]:
    """Return what is found out about the first diverging layer, forward and backward: a `Finding`, or a sentence that says why not.

    Parameters
    ----------
    golden, model, report, relevances, activations, along, convolutions
        As of `diagnose`.
    """
    if golden.input is None:
        return ("this digest doesn't hold its input, which is large, so no layer can be run again; record with --profile full",)
    found: list[Finding | str] = []
    row = next((row for row in report.rows if row.what == "activation" and row.verdict == "DIVERGED"), None)
    if row is not None:
        found.append(_of_activation(golden, model, report, row, activations, convolutions))
    first = report.first
    if first is not None and first.what == "relevance":
        found.append(_of_relevance(golden, model, report, first, relevances, activations, along, convolutions))
    return tuple(found)


def _of_activation(
    golden: Golden, model: Model, report: Report, row: Row, activations: Mapping[str, np.ndarray], convolutions: str
) -> Finding | str:
    """Run a layer forward with something changed, from the candidate's own input if it has that."""
    candidate = np.asarray(activations[row.array], np.float64)
    if not np.isfinite(candidate).all():
        return f"{row.layer}: not a number: it was too large for the backend's precision, or came so from below"
    i = golden.names.index(row.array)
    scale = UNITS.get(report.precision, UNIT) / UNIT
    if i == 0:
        target = Target(candidate, np.asarray(golden.input, np.float64), None, None, scale, False)
        return forward.of_input(row.layer, target)
    steps = make_steps(model, np.dtype("float64"), "direct", merge=False)
    step, reads = steps[i - 1], golden.inputs[row.array]
    given = [activations.get(name) if report.mode != "isolated" else None for name in reads]
    own = all(each is not None and np.isfinite(each).all() for each in given)
    inputs = [np.ascontiguousarray(each, np.float64) for each in given if each is not None]
    if not own:
        ran = run_forward(steps[: i - 1], np.asarray(golden.input, np.float64)).activations
        inputs = [ran[j + 1] for j in step.inputs]
    a = np.ascontiguousarray(layers.gather(step, _sparse(step.inputs, inputs)))
    reference = run_step(step, a)

    def bounds(way: str) -> Bounds:
        return forward_bounds(step, a, reference, np.zeros(a.shape), way).bounds

    at_hand = bounds("direct")
    loose = not (own or report.mode == "isolated" or reads == ("input",))
    target = Target(candidate, reference.reshape(candidate.shape), at_hand.expected, at_hand.undecided, scale, loose)
    found = forward.search(
        row.layer, target, step, model.layers[i - 1], inputs, reads, _flattened(steps, step), _others(golden, row.array, "activation")
    )
    if found.matches or not is_fast(step, "winograd") or not _winograd_explains(bounds, candidate, reference, report, convolutions):
        return found
    return _hint(row.layer)


def _sparse(places: tuple[int, ...], inputs: list[np.ndarray]) -> dict[int, np.ndarray]:
    return {j + 1: each for j, each in zip(places, inputs, strict=True)}


def _flattened(steps: tuple[layers.Step, ...], step: layers.Step) -> tuple[int, ...] | None:
    """Return the shape of the image that a flatten right below a step has made a vector of."""
    below = steps[step.inputs[0]] if step.inputs[0] >= 0 else None
    return below.input_shape if below is not None and forward.flattens(below) else None


def _others(golden: Golden, array: str, what: str) -> dict[str, np.ndarray]:
    """Return the golden arrays of other layers with as many numbers, whole ones."""
    own = golden[array]
    found = {}
    for layer in golden.layers:
        tensor = layer.relevance if what == "relevance" else layer.activation
        if layer.name != array and tensor is not None and layer.indices is None and tensor.values.size == own.activation.values.size:
            found[f"the {what} of another layer: {layer.name}"] = tensor.values
    return found


def _of_relevance(
    golden: Golden,
    model: Model,
    report: Report,
    row: Row,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    along: Mapping[tuple[str, str], np.ndarray],
    convolutions: str,
) -> Finding | str:
    """Run a layer's rule with something changed, from the relevance that the candidate itself had above."""
    edge = len(golden.readers[row.array]) > len(row.made_by) == 1
    candidate = np.asarray(along[row.made_by[0], row.array] if edge else relevances[row.array], np.float64)
    if not np.isfinite(candidate).all():
        return f"{row.layer}: not a number: a denominator vanished, or a number was too large for the backend's precision"
    tensor = golden[row.made_by[0]].edges[row.array] if edge else golden[row.array].relevance
    assert tensor is not None
    scale = UNITS.get(report.precision, UNIT) / UNIT
    plan = plan_of(golden, model)
    if row.layer == "start":
        return _of_start(golden, model, row, candidate, activations, report)
    j = golden.names.index(row.array) - 1
    exact = report.mode == "isolated"
    trace = trace_of(golden, plan, {} if exact else activations)
    places = []
    for name in row.made_by:
        above = golden[name].relevance
        assert above is not None
        given = above.values if exact or name not in relevances else relevances[name]
        R = np.ascontiguousarray(given, np.float64)
        if R.shape != above.shape:
            return f"{name}: this digest has samples only, and the candidate no relevance of {name}, so it can't be run again"
        if not np.isfinite(R).all():
            return f"{row.layer}: the relevance above it, of {name}, is not a number"
        places.append(Place(plan, trace, golden.names.index(name) - 1, R))
    right = [at.run() for at in places]
    shares = [edges.cut(at.step, R)[j] for at, R in zip(places, right, strict=True)]
    reference = edges.total(shares[::-1])  # the last reader first, as the engine adds

    def cut_bounds(way: str) -> list[dict[int, edges.Share]]:
        each = [relevance_bounds(plan, at.i, at.trace, at.R, None, way) for at in places]
        return [edges.cut_bounds(at.step, R, of) for at, R, of in zip(places, right, each, strict=True)]

    def bounds(way: str) -> Bounds:
        return edges.add([each[j] for each in cut_bounds(way)]).bounds

    needed = {golden.names[k + 1] for at in places for k in (*at.step.inputs, at.i)}
    known = exact or (all(name in activations for name in needed - {"input"}) and all(at.step.name in relevances for at in places))
    if exact and tensor.expected.shape == candidate.shape:
        expected, undecided = tensor.expected, tensor.undecided
    else:
        expected, _, undecided = bounds("direct")
    target = Target(candidate, reference, expected.reshape(candidate.shape), undecided.reshape(candidate.shape), scale, not known)
    others = _others(golden, row.array, "relevance")
    for at in places:
        own = golden[at.step.name].relevance
        same = [name for name, other in others.items() if own is not None and np.array_equal(other.reshape(-1), own.values.reshape(-1))]
        for name in same:  # a layer that hands on what came to it
            del others[name]
        if at.R.size == candidate.size and len(at.step.inputs) == 1:  # what joins give to each input is looked for by itself
            others[f"the relevance of another layer: {at.step.name}, handed on as it is"] = at.R.reshape(candidate.shape)
    beside = {}
    if len(places) == 1 and len(places[0].step.inputs) > 1:
        for other, (values, limits) in cut_bounds("direct")[0].items():
            theirs = _given(golden, golden.names[other + 1], row.made_by[0], relevances, along)
            if other != j and theirs is not None and theirs.shape == values.shape:
                beside[other] = Target(theirs, values, limits.expected, limits.undecided, scale, not known)
    found = backward.search(row.layer, target, places, shares, j, others, beside)
    fast = any(is_fast(at.step, "winograd") for at in places)
    if found.matches or not fast or not _winograd_explains(bounds, candidate, reference, report, convolutions):
        return found
    return _hint(row.layer)


def _given(
    golden: Golden, name: str, reader: str, relevances: Mapping[str, np.ndarray], along: Mapping[tuple[str, str], np.ndarray]
) -> np.ndarray | None:
    """Return what a candidate says that one reader of an output gave to it, if it says so."""
    theirs = along.get((reader, name), relevances.get(name) if tuple(golden.readers[name]) == (reader,) else None)
    return None if theirs is None or not np.isfinite(theirs).all() else np.asarray(theirs, np.float64)


def _of_start(
    golden: Golden, model: Model, row: Row, candidate: np.ndarray, activations: Mapping[str, np.ndarray], report: Report
) -> Finding:
    """Look for another start, or another class, from the candidate's own scores if it has them."""
    tensor = golden.layers[-1].relevance
    assert tensor is not None
    chosen = golden.facts["targets"]
    wanted = None if chosen is None else np.array(chosen)
    scoring, start = scoring_of(model), str(golden.facts["start"])
    logits, output, scale = golden.logits, golden.output, UNITS.get(report.precision, UNIT) / UNIT
    if report.mode != "isolated":
        logits, output = _own_scores(golden, model, activations)
    right = scoring.begin(start, logits, output, wanted).reshape(candidate.shape)
    expected = tensor.expected.reshape(candidate.shape) if tensor.expected.size == candidate.size else None
    target = Target(candidate, right, expected, None, scale, report.mode != "isolated")

    def tries() -> Iterator[tuple[Hypothesis, np.ndarray]]:
        for name, values in other_starts(scoring, start, logits, output, wanted):
            yield Hypothesis(name), values
        classes = scoring.classes
        if wanted is not None and classes <= CLASSES:
            largest = np.argmax(scoring.logits(logits), axis=-1)
            for name, targets in (
                ("the class with the largest logit as target", largest),
                ("the next class as target: counted from 1", wanted + 1),
                ("the class before as target: counted from 1", wanted - 1),
                ("the first image's target for all", np.full_like(wanted, wanted[0])),
                ("the images' targets in opposite order", wanted[::-1].copy()),
            ):
                if not np.array_equal(targets % classes, wanted):
                    values = scoring.begin(start, logits, output, targets % classes)
                    yield Hypothesis(name), values
            alone = np.abs(candidate.reshape(len(candidate), -1))
            if scoring.binary is False and (np.count_nonzero(alone, axis=1) == 1).all():
                theirs = alone.argmax(axis=1)
                if not np.array_equal(theirs, wanted):
                    for other in dict.fromkeys((start, "one", "logit", "softmax")):
                        values = scoring.begin(other, logits, output, theirs)
                        told = "" if other == start else f", start {other}"
                        name = f"other classes as targets: {', '.join(map(str, theirs[:8]))}{told}"
                        yield Hypothesis(name, fitted={"target": 0}), values
        yield from relations(target, {})

    found = backward.Matches(target)
    if target.apart <= 1:
        return finding(row.layer, target, (), 0, found.nearest)
    for hypothesis, values in tries():
        found.judge(hypothesis, values.reshape(candidate.shape))
    return finding(row.layer, target, found.matches, found.tried, found.nearest)


def _own_scores(golden: Golden, model: Model, activations: Mapping[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Return the logits and the output that a candidate's own activations give, the golden ones if it hasn't those."""
    steps = make_steps(model, np.dtype("float64"), "direct", merge=False)
    last = last_sum(steps)
    reads = [golden.names[j + 1] for j in steps[last].inputs]
    own = [activations.get(name, golden.input if name == "input" else None) for name in reads]
    given = [np.ascontiguousarray(each, np.float64) for each in own if each is not None and np.isfinite(each).all()]
    if last < 0 or len(given) < len(reads):
        return golden.logits, golden.output
    logits = layers.apply(steps[last], np.ascontiguousarray(layers.gather(steps[last], _sparse(steps[last].inputs, given))))[0]
    logits = logits.reshape(golden.logits.shape)
    return logits, layers.activate(steps[last], logits.copy(), in_place=False)


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
