"""The page at speed: the same four lines, with what repeats done once and what follows each other done in one pass over memory.

Three things are saved, and nothing else changes:

- line 1: z is what the forward pass computed anyway, where the rule's weights and bias are the layer's own; or it is computed beside
  it from the same input, where the rule changes them. Below a ReLU the pass has max(z, 0) instead of z. That serves as well if the
  relevance comes from a rule with a factor a: units with z <= 0 then have R = 0, and so s = 0.
- lines 4 and 2: R = a * c of one layer and s = R / stabilise(z) of the layer below are the last thing that the kernel of line 3 does
  with a number, in this order and so with the page's bits.
- checks: a NaN or an infinity can't be lost on its way to the logits or to the input, so only these are looked at. If one is found,
  the pass is run again by the page, which names the layer.

Whatever isn't one of these cases is done by the page itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from nplrp import layers
from nplrp.composites import PASSED
from nplrp.plan import Plan
from nplrp.rules import AS_IS, Clamp, Part, Rule

#: Where a step's denominator comes from: its own output, a second convolution beside it, or the page.
OUTPUT, BESIDE, PAGE = "output", "beside", "page"

StepBack = Callable[[int, np.ndarray], np.ndarray]
Keep = Callable[[int, np.ndarray], None]


@dataclass(frozen=True, eq=False)
class Trace:
    """What a forward pass leaves.

    Attributes
    ----------
    activations : tuple of ndarray
        Every step's input [n, *input_shape], then the model's output.
    winners : mapping of int to ndarray
        By step: which place of each max-pool window gave the maximum.
    logits : ndarray [n, units]
        What the softmax at the end is taken of; the output, if the model has none.
    denominators : mapping of int to ndarray
        By step: the rule's z, before stabilising, where the pass has it.
    """

    activations: tuple[np.ndarray, ...]
    winners: Mapping[int, np.ndarray]
    logits: np.ndarray
    denominators: Mapping[int, np.ndarray]

    @property
    def output(self) -> np.ndarray:
        """The model's output, [n, *output_shape]."""
        return self.activations[-1]


def run_forward(plan: Plan, x: np.ndarray) -> Trace:
    """Run a plan's steps on x [n, *input_shape]; nothing is checked."""
    activations, winners, denominators = [x], {}, {}
    logits = None
    ties, workspace = layers.tie_labels(plan.steps, x), layers.new_workspace()
    sources = denominator_sources(plan)
    for i, step in enumerate(plan.steps):
        a = activations[-1]
        if step.kind == "maxpool":
            a, winners[i] = layers.choose(step, a, ties.get(i))
            a = layers.activate(step, a, in_place=True)
        elif step.kind in PASSED:
            a = layers.activate(step, layers.reshape(step, a), in_place=False)
        else:
            part = plan.parts[i][0] if sources[i] == BESIDE else None
            z, beside = layers.forward_beside(step, a, part, workspace)
            if sources[i] != PAGE:
                denominators[i] = z if beside is None else beside
            a = z
            if step.activation == "softmax":
                logits, a = z, layers.softmax(z)
        if step.kind in PASSED and step.activation == "softmax":
            logits = activations[-1].reshape(a.shape)
        activations.append(a)
    return Trace(tuple(activations), winners, activations[-1] if logits is None else logits, denominators)


def run_backward(plan: Plan, trace: Trace, R: np.ndarray, step_back: StepBack, keep: Keep | None = None) -> np.ndarray:
    """Carry relevance from the logits to the input; nothing is checked.

    Parameters
    ----------
    plan : Plan
    trace : Trace
        From `run_forward`.
    R : ndarray [n, units]
        Relevance of the logits.
    step_back : callable
        The page for step i: (i, relevance of its output) -> relevance of its input.
    keep : callable or None
        Called with (i, relevance of the output of step i), and with -1 for the input. The bits are the same with and without.

    Returns
    -------
    ndarray [n, *input_shape]
    """
    workspace = layers.new_workspace()
    s: np.ndarray | None = None  # of step i, if the step above has divided already
    for i in range(len(plan.steps) - 1, -1, -1):
        step, rule = plan.steps[i], plan.rules[i]
        if keep and s is None:
            keep(i, R)
        below = i - 1 if not keep and i > 0 and i - 1 in trace.denominators else None
        divide = None if below is None else (trace.denominators[below], plan.rules[below], plan.parts[below][0].weight)
        a = trace.activations[i]
        if i in trace.denominators:
            part = plan.parts[i][0]
            if s is None:
                s = layers.divide(R, trace.denominators[i], rule, part.weight)
            change = part.terms[0].weight
            assert isinstance(change, Clamp)
            R = layers.transpose_times(step, s, change, a, divide, workspace)
            s = R if divide else None
        elif rule.name == "winner":
            R = layers.route(step, R, trace.winners[i], divide)
            s = R if divide else None
        else:
            R = step_back(i, R)
    if keep:
        keep(-1, R)
    return R


def denominator_sources(plan: Plan) -> list[str]:
    """Tell for each step where its z comes from: `OUTPUT`, `BESIDE` or `PAGE`."""
    return [_source(plan, i) for i in range(len(plan.steps))]


def _source(plan: Plan, i: int) -> str:
    step, rule, parts = plan.steps[i], plan.rules[i], plan.parts[i]
    if step.kind not in ("conv", "dense") or not _is_simple(rule, parts):
        return PAGE
    (part,) = parts
    if part.terms[0].weight != AS_IS or part.bias != AS_IS:
        return BESIDE
    return OUTPUT if step.activation != "relu" or _dead_units_get_nothing(plan, i) else PAGE


def _is_simple(rule: Rule, parts: Sequence[Part]) -> bool:
    """Tell whether a rule is one product with the activation, over a denominator that the kernels can divide by."""
    return (
        len(parts) == 1
        and len(parts[0].terms) == 1
        and parts[0].terms[0].input == "a"
        and isinstance(parts[0].terms[0].weight, Clamp)
        and not parts[0].units
        and rule.stabiliser in ("plus", "sign")
        and bool(rule.epsilon)
    )


def _dead_units_get_nothing(plan: Plan, i: int) -> bool:
    """Tell whether the relevance of step i's output has a factor a from the rule above, so that it is 0 where a is."""
    for j in range(i + 1, len(plan.steps)):
        step, parts = plan.steps[j], plan.parts[j]
        if step.kind in PASSED or plan.rules[j].name in ("pass", "winner", "winner_ties"):
            continue
        return all(term.input in ("a", "a+", "a-") for part in parts for term in part.terms)
    return False
