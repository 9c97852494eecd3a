"""Every layer computed again in float64, with bounds: from a candidate's own numbers around it, or from golden ones."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from nplrp import layers
from nplrp.golden import edges
from nplrp.golden.bounds import Bounds, Forward, activation_scales, carried_error, forward_bounds, gains, relevance_errors
from nplrp.golden.diagnosis import plan_of, trace_of
from nplrp.golden.errors import GoldenError
from nplrp.golden.forward_faults import normalised
from nplrp.golden.judging import CHAINED, FLOOR
from nplrp.golden.recording import start_errors, tensor_of
from nplrp.golden.threads import side_by_side
from nplrp.golden.values import UNIT, Golden, Scales, Tensor
from nplrp.golden.whole_run import Progress, with_activations
from nplrp.layers import INPUT, Layer, Step
from nplrp.lrp import check_finite, four_lines, step_back
from nplrp.model import Model
from nplrp.plan import Plan, make_steps
from nplrp.scores import scoring_of
from nplrp.trace import Trace

#: An array's name: a layer's, or a layer's and that of an input which it gives relevance to; and with it "relevance" or "activation".
Name = str | tuple[str, str]
Key = tuple[str, Name]


def derived_again(
    golden: Golden,
    relevances: Mapping[str, np.ndarray],
    activations: Mapping[str, np.ndarray],
    along: Mapping[tuple[str, str], np.ndarray],
    model: Model,
    mode: str,
    convolutions: str,
    progress: Progress = lambda what: None,
) -> dict[Key, Tensor]:
    """Compute again what a candidate gave.

    Parameters
    ----------
    golden : Golden
    relevances, activations, along : mapping
        The candidate's, in golden shapes.
    model : Model
    mode : "local" or "isolated"
        From the candidate's own numbers around each layer, or from golden ones. Locally an activation that isn't given is computed from
        those below it that are, and may be off by as much as the layers between round.
    convolutions : "direct", "winograd" or "fft"
    progress : callable
        Told what is being done.

    Returns
    -------
    dict of (str, Name) to Tensor
        What there is enough for: locally a relevance needs that of all layers that read it.
    """
    plan, local = plan_of(golden, model), mode == "local"
    if not local and golden.profile != "full":
        raise GoldenError(f"this digest has samples only, so bounds of convolutions by {convolutions} can't be derived; record a full file")
    names, found, gaps = golden.names, dict[Key, Tensor](), dict[str, Bounds]()
    if local:
        before = _forward_again(golden, activations, model, plan, convolutions, progress, found, gaps)
        trace = _trace(plan, before)
        top = names[-1]
        if top in relevances:
            found["relevance", top] = _start_again(golden, model, plan, trace, before, gaps)
    else:
        kept = [layer.activation.values for layer in golden.layers]
        _forward_bounds(golden, activations, model, plan, convolutions, kept, found)
        trace = trace_of(golden, plan)
    above, shares, sums = edges.readers(plan.steps), dict[int, dict[int, edges.Share]](), dict[int, Scales | None]()
    errors = [UNIT * np.abs(each) for each in trace.activations]
    if local and convolutions != "direct":  # places that see the same pixels may differ there, and a backend may know better who wins
        errors = errors[:1]
        for i, step in enumerate(make_steps(model, plan.dtype, plan.algorithm, merge=False)):
            a = np.ascontiguousarray(layers.gather(step, before))
            errors.append(forward_bounds(step, a, before[i + 1], layers.gather(step, errors), convolutions)[2])

    def again(i: int) -> None:
        """Put what step i's rule gives, and its bounds, into `shares` and `sums`; each step hangs on what was given alone."""
        step = plan.steps[i]
        recorded = golden[step.name].relevance
        wanted = any(names[j + 1] in relevances or (step.name, names[j + 1]) in along for j in step.inputs)
        if not wanted or (local and step.name not in relevances):
            return
        R = np.ascontiguousarray(relevances[step.name] if local or recorded is None else recorded.values, np.float64)
        if not np.isfinite(R).all():
            return
        progress(f"relevance of {', '.join(names[j + 1] for j in step.inputs)} again")
        done = list(four_lines(plan, trace, i, R)) if plan.parts[i] else []
        values = edges.total(lines.R for _, _, lines in done) if done else step_back(plan, trace, i, R)
        whole, unknown = values if local and len(step.inputs) == 1 else None, _unknown(golden, step, plan, gaps)
        a_error = layers.gather(step, errors) if local else None
        bounds, sums[i] = relevance_errors(plan, i, trace, R, whole, a_error, convolutions, unknown, done)
        shares[i] = edges.cut_bounds(step, values, bounds)

    side_by_side(again, range(len(plan.steps)))
    for j, readers in above.items():
        name = names[j + 1]
        if name in relevances and readers and all(i in shares for i in readers):
            values, bounds = edges.add([shares[i][j] for i in readers])
            tensor, alone = golden[name].relevance, sums[readers[0]] if len(readers) == 1 else None
            found["relevance", name] = tensor_of(values if local or tensor is None else tensor.values, bounds, scales=alone)
        for i in readers:
            edge = (names[i + 1], name)
            if edge in along and i in shares:
                values, bounds = shares[i][j]
                found["relevance", edge] = tensor_of(values if local else golden[edge[0]].edges[name].values, bounds, scales=sums[i])
    return found


def _forward_again(
    golden: Golden,
    activations: Mapping[str, np.ndarray],
    model: Model,
    plan: Plan,
    convolutions: str,
    progress: Progress,
    found: dict[Key, Tensor],
    gaps: dict[str, Bounds],
) -> list[np.ndarray]:
    """Compute every activation from the candidate's own; return what each layer's readers see, and put what was computed into `found`."""
    if golden.input is None:
        raise GoldenError("this digest doesn't hold its input, which is large, so layers can't be run again; record with --profile full")
    finite = {name: a for name, a in activations.items() if np.isfinite(a).all()}
    before = [np.asarray(finite.get(INPUT, golden.input), np.float64)]
    if INPUT in activations:
        exact = np.zeros(golden.input.shape)
        found["activation", INPUT] = tensor_of(
            golden.input, Bounds(2 * UNIT * np.abs(golden.input), 2 * UNIT * np.abs(golden.input), exact)
        )
    errors = [UNIT * np.abs(before[0])]

    def summed_up(step: Step, y: np.ndarray, bounds: Bounds, sure: bool) -> Tensor:
        return tensor_of(y, bounds, scales=activation_scales(step, y, bounds.expected) if sure else None)

    with ThreadPoolExecutor(1) as beside:  # while the next layer is computed
        waiting: dict[Key, Future[Tensor]] = {}
        for step, layer in zip(make_steps(model, plan.dtype, plan.algorithm, merge=False), model.layers, strict=True):
            progress(f"activation of {step.name} again")
            a = np.ascontiguousarray(layers.gather(step, before))
            done = layers.apply(step, a)
            check_finite(done[0], f"layer {step.name!r}")
            y = layers.activate(step, done[0], in_place=False)
            bounds, error = _any_way(layer, forward_bounds(step, a, y, layers.gather(step, errors), convolutions, done))
            errors.append(error)
            open_ = [gaps.get(name) for name in golden.inputs[step.name]]
            if any(open_):
                shapes = [before[j + 1].shape for j in step.inputs]
                parts = ([np.zeros(shape) if gap is None else gap[k] for gap, shape in zip(open_, shapes, strict=True)] for k in (0, 1))
                most = _most(golden, step.name)
                passed = [np.minimum(carried_error(step, a, _gathered(step, part)), most) for part in parts]
                bounds = Bounds(bounds.expected + passed[0], bounds.certified + passed[1], bounds.undecided)
            if step.name in activations:
                sure = convolutions == "direct" and not any(open_)
                waiting["activation", step.name] = beside.submit(summed_up, step, y, bounds, sure)
            if step.name in finite:
                before.append(np.ascontiguousarray(finite[step.name], np.float64))
            else:
                before.append(y)
                gaps[step.name] = bounds
        found.update((key, each.result()) for key, each in waiting.items())
    return before


def _any_way(layer: Layer, known: Forward) -> tuple[Bounds, np.ndarray]:
    """Return the bounds of an activation, and what of it decides further up, however a backend computes a batch norm.

    They are those of g x + h with h = beta - mean g. Who computes (x - mean) g + beta adds up numbers that may be far larger than h.
    """
    if "variance" not in layer.arrays:
        return known.bounds, known.carried
    h, sum_of_both = (normalised(layer, np.full(layer.arrays["variance"].shape, x), layer.epsilon) for x in (0.0, 1.0))
    g = sum_of_both - h
    beta = np.abs(layer.arrays.get("beta", np.zeros(h.shape)).astype(np.float64))
    more = np.maximum(np.abs(layer.arrays["mean"].astype(np.float64) * g) + beta - np.abs(h), 0.0)
    expected, certified = (each + gain * UNIT * more for each, gain in zip(known.bounds[:2], gains(2), strict=True))
    return Bounds(expected, certified, known.bounds.undecided), known.carried + expected - known.bounds.expected


def _gathered(step: Step, parts: list[np.ndarray]) -> np.ndarray:
    """Return what a step works on, made of what each of its inputs gives, in their order."""
    return np.ascontiguousarray(layers.operation(step).gather(step, parts))


def _forward_bounds(
    golden: Golden,
    activations: Mapping[str, np.ndarray],
    model: Model,
    plan: Plan,
    convolutions: str,
    kept: list[np.ndarray],
    found: dict[Key, Tensor],
) -> None:
    """Bound golden activations, each given golden inputs."""
    errors = [UNIT * np.abs(kept[0])]
    for i, (step, layer) in enumerate(zip(make_steps(model, plan.dtype, plan.algorithm, merge=False), model.layers, strict=True)):
        a = np.ascontiguousarray(layers.gather(step, kept))
        bounds, error = _any_way(layer, forward_bounds(step, a, kept[i + 1], layers.gather(step, errors), convolutions))
        errors.append(error)
        if step.name in activations:
            found["activation", step.name] = tensor_of(kept[i + 1], bounds)


def _trace(plan: Plan, activations: list[np.ndarray]) -> Trace:
    """Return a plan's trace with such activations."""
    held = {i: None for i, step in enumerate(plan.steps) if layers.decides(step)}
    return with_activations(plan, Trace(tuple(activations), held, activations[-1], {}), activations)


def _start_again(golden: Golden, model: Model, plan: Plan, trace: Trace, before: list[np.ndarray], gaps: Mapping[str, Bounds]) -> Tensor:
    """Return what the pass begins with, from the candidate's own activations."""
    scoring, start, chosen = scoring_of(model), str(golden.facts["start"]), golden.facts["targets"]
    scores = next((i for i in range(len(plan.steps) - 1, -1, -1) if plan.steps[i].score), None)
    output = before[-1] if scores is None else layers.activate(plan.steps[scores], trace.logits.copy(), in_place=False)
    R = scoring.begin(start, trace.logits, output, None if chosen is None else np.array(chosen))
    known = None
    if scores is not None:
        step = plan.steps[scores]
        gap = _unknown(golden, step, plan, gaps)
        if gap is not None:
            z = np.asarray(carried_error(dataclasses.replace(step, activation="linear"), layers.gather(step, before), gap)).reshape(
                trace.logits.shape
            )
            known = Bounds(z, z, np.zeros(z.shape))
    recorded = golden[golden.names[-1]].relevance
    shape = R.shape if recorded is None else recorded.shape
    top = R.reshape(shape)
    return tensor_of(top, start_errors(model, plan.steps, trace.activations, trace.logits, start, top, known))


def _unknown(golden: Golden, step: Step, plan: Plan, gaps: Mapping[str, Bounds]) -> np.ndarray | None:
    """Return how far what a step reads may be off where the candidate didn't tell: no more than rounding moves it from end to end."""
    names = golden.names
    merging = {plan.steps[each.options["into"]].name for i, each in enumerate(plan.steps) if each.merged and each.options["into"] > i}
    if step.merged or step.name in merging or not any(names[j + 1] in gaps for j in step.inputs):
        return None
    parts = []
    for j in step.inputs:
        name = names[j + 1]
        tensor = golden[name].activation
        if name not in gaps:
            parts.append(np.zeros(tensor.shape))
            continue
        parts.append(np.minimum(gaps[name].expected, _most(golden, name)))
    unknown = _gathered(step, parts)
    return unknown if unknown.any() else None


def _most(golden: Golden, name: str) -> float:
    """Return by how much float32's rounding moves a layer's activations from end to end."""
    tensor = golden[name].activation
    return max(CHAINED * float(tensor.spread[:, 1].max(initial=0.0)), FLOOR * UNIT) * tensor.sums[2]
