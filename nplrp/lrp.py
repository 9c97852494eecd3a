"""Layer-wise Relevance Propagation: the four steps, and the pass through a network that is made of them.

z, s, c and R are the names of the literature (Montavon et al. 2019, sec. 10.2). `redistribute` is all of LRP; the rest of this file
brings it its inputs and adds up its outputs. `nplrp.fused` does the same at speed.

Several targets of n images are carried back together: R, s and c hold maps [k n, ...] then, target after target, and a and z [n, ...] serve
them all. A map's bits don't depend on those beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np

from nplrp import gradients, layers
from nplrp.errors import NumericsError, UnitError
from nplrp.layers import Step
from nplrp.plan import Plan, parts_below
from nplrp.rules import Part, Rule
from nplrp.span import Span, find_span
from nplrp.trace import Trace

Keep = Callable[[int, np.ndarray], None]
Back = Callable[[int, np.ndarray], np.ndarray]


class Lines(NamedTuple):
    """What the four lines give: z [n, *output_shape], s as z, c as a, R [n, *input_shape]; of several targets s, c and R of each."""

    z: np.ndarray
    s: np.ndarray
    c: list[np.ndarray]
    R: np.ndarray


def redistribute(R: np.ndarray, a: Sequence[np.ndarray], step: Step, rule: Rule, part: Part, held: Any = None) -> Lines:
    """Carry relevance from a linear layer's output to its input: the four steps of LRP.

    Parameters
    ----------
    R : ndarray [n, *output_shape]
        Relevance of the layer's outputs.
    a : one ndarray [n, *input_shape] for each term
        The layer's input, as the rule changes it.
    step, rule, part
        The layer, its rule, and the part of the rule to run.
    held : object
        The decisions that make the layer linear: of a max-pool, who won.

    Returns
    -------
    Lines
        All four; the last is relevance of the layer's inputs.
    """
    w, b = [term.weight for term in part.terms], part.bias

    z = layers.forward(step, a, w, b, held=held)  # 1  what each output received
    s = layers.divide(R, z, rule, part.weight)  # 2  relevance per unit received
    c = layers.transpose(step, s, w, held)  # 3  carried back along the same weights
    R = layers.multiply(a, c)  # 4  times what each input gave
    return Lines(z, s, c, R)


class Done(NamedTuple):
    """One step forward: z [n, *output_shape], what it decided, and a, behind its activation."""

    z: np.ndarray
    held: Any
    a: np.ndarray


def walk_forward(steps: Sequence[Step], x: np.ndarray) -> Iterator[Done]:
    """Run steps on x [n, *input_shape] one by one, checking each, and hold on to those alone that a later one reads.

    Raises
    ------
    NumericsError
        If a value is NaN or infinite; the message names layer and unit.
    """
    alive = {0: x}  # by place among the activations
    last = {j + 1: i for i, step in enumerate(steps) for j in step.inputs}
    ties = layers.tie_labels(steps, x)
    for i, step in enumerate(steps):
        z, decided = layers.apply(step, layers.gather(step, alive), ties.get(i))
        check_finite(z, f"layer {step.name!r}")
        alive[i + 1] = layers.activate(step, z, in_place=not (layers.only_moves(step) or step.score))
        alive = {j: a for j, a in alive.items() if last.get(j, i) > i or j == i + 1}
        yield Done(z, decided, alive[i + 1])


def run_forward(steps: Sequence[Step], x: np.ndarray) -> Trace:
    """Run steps on x [n, *input_shape] and keep every activation, checking each.

    Raises
    ------
    NumericsError
        If a value is NaN or infinite; the message names layer and unit.
    """
    done = list(walk_forward(steps, x))
    held = {i: each.held for i, each in enumerate(done) if each.held is not None}
    output = done[-1].a if done else x
    logits = next((each.z for step, each in zip(reversed(steps), reversed(done), strict=True) if step.score), output)
    return Trace((x, *(each.a for each in done)), held, logits.reshape(output.shape), {})


def run_step(step: Step, a: np.ndarray) -> np.ndarray:
    """Run one step on what it works on, a [n, *input_shape] -> [n, *output_shape], checking the result."""
    z, _ = layers.apply(step, a)
    check_finite(z, f"layer {step.name!r}")
    return layers.activate(step, z, in_place=False)


def run_backward(
    plan: Plan, trace: Trace, R: np.ndarray, keep: Keep | None = None, span: Span | None = None, back: Back | None = None
) -> np.ndarray:
    """Carry relevance from the logits to the input, or along a span, by the page alone, checking every layer.

    Relevance of an output is the sum over the steps that read it, the last of them first.

    Parameters
    ----------
    plan : Plan
    trace : Trace
        From `run_forward` or `nplrp.fused.run_forward`.
    R : ndarray [n, units], or of several targets
        Relevance of the logits, or of the output of the span's top.
    keep : callable or None
        Called with (i, relevance of the output of step i, after its mask), and with -1 for the input.
    span : Span or None
        None is all of the network.
    back : callable or None
        Instead of `step_back`.

    Returns
    -------
    ndarray [n, *input_shape]

    Raises
    ------
    NumericsError
        If a relevance is NaN or infinite; the message names layer, line of the page, and unit.
    """
    span = span or find_span(plan.steps, None, None, None)
    if span.top != len(plan.steps) - 1:
        plan = replace(plan, parts=parts_below(plan.steps, plan.rules, span.top, plan.composite.slopes))
    arrived = {span.top: R}
    for i in range(span.top, span.bottom, -1):
        if i not in arrived:
            continue
        R = span.mask(i, arrived.pop(i))
        if keep:
            keep(i, R)
        below = back(i, R) if back else step_back(plan, trace, i, R)
        if layers.first_nonfinite(below) is not None:
            _report_nonfinite(plan, trace, i, R)
        for j, share in zip(plan.steps[i].inputs, layers.scatter(plan.steps[i], below), strict=True):
            arrived[j] = arrived[j] + share if j in arrived else share
    R = span.mask(span.bottom, arrived[span.bottom])
    if plan.composite.gradient == "input_t_gradient":
        R = gradients.times(R, trace.activations[span.bottom + 1])
    if keep:
        keep(span.bottom, R)
    return R


def step_back(plan: Plan, trace: Trace, i: int, R: np.ndarray) -> np.ndarray:
    """Carry relevance back through step i, the sum over its rule's parts: [n, *output_shape] -> [n, *input_shape]."""
    step = plan.steps[i]
    if plan.composite.gradient:
        return gradients.step_back(plan, trace, i, R)
    if not plan.parts[i]:
        return layers.move_back(step, gradients.behind_activation(plan, trace, i, R))
    shares = (lines.R for _, _, lines in four_lines(plan, trace, i, R))
    total = next(shares)
    for share in shares:
        total += share
    return total


def four_lines(plan: Plan, trace: Trace, i: int, R: np.ndarray) -> Iterator[tuple[Part, np.ndarray, Lines]]:
    """Run the four lines for each part of step i's rule.

    Yields
    ------
    (Part, ndarray [n, *output_shape], Lines)
        The part, the relevance of the units that it is for, and what the lines give.
    """
    R = gradients.behind_activation(plan, trace, i, R)
    rule, (step, a, held) = plan.rules[i], as_linear(plan, trace, i)
    for part in plan.parts[i]:
        of_units = layers.relevance_of_units(R, step, a, part.units, trace.activations[i + 1], held)
        yield part, of_units, redistribute(of_units, layers.changed_inputs(a, rule, part), step, rule, part, held)


def as_linear(plan: Plan, trace: Trace, i: int) -> tuple[Step, np.ndarray, Any]:
    """Return step i as its rule has it, which is linear; what it works on, [n, *input_shape]; and the decisions that make it linear."""
    step, rule, held = plan.steps[i], plan.rules[i], trace.held.get(i)
    a, redecide = layers.gather(step, trace.activations), layers.operation(step).redecide
    if redecide and (held is None or rule.row.decision not in ("held", "average")):
        held = redecide(step, a, layers.tie_labels(plan.steps, trace.activations[0]).get(i), rule.row.decision)
    return layers.linear_step(step, rule), a, held


def check_finite(values: np.ndarray, where: str, images: int | None = None) -> None:
    """Raise NumericsError for the first NaN or infinity among values [n, ...], or maps of n `images`, naming the unit."""
    index = layers.first_nonfinite(values)
    if index is not None:
        image = index[0] % (images or len(values))
        raise UnitError(f"{where}: {values[index]}", image, index[1:], "; no explanation can be computed from it")


def _report_nonfinite(plan: Plan, trace: Trace, i: int, R: np.ndarray) -> None:
    """Run one step's page again and raise for the first line that gives a NaN or an infinity."""
    step, rule = plan.steps[i], plan.rules[i]
    for _, of_units, lines in four_lines(plan, trace, i, R):
        for values, what in ((lines.z, "z"), (lines.s, "s = R / z")):
            index = layers.first_nonfinite(values)
            if index is not None:
                R, d = of_units.reshape(lines.s.shape), layers.denominator(lines.z, rule)
                own = index[0] % len(d), *index[1:]
                raise UnitError(
                    f"layer {step.name!r}, rule {rule}: {what} is {values[index]}",
                    own[0],
                    own[1:],
                    f" (R = {R[index]:g}, denominator {d[own]:g}); use a stabiliser with the sign of z, or a larger epsilon",
                )
    raise NumericsError(f"layer {step.name!r}, rule {rule}: its relevance overflows {plan.dtype}; use dtype='float64' or a larger epsilon")
