"""The page at speed: the same four lines, with what repeats done once and what follows each other done in one pass over memory.

Four things are saved, and nothing else changes:

- line 1: z is what the forward pass computed anyway, where the rule's weights and bias are the layer's own; or it is computed beside
  it from the same input, where the rule changes them. Below a ReLU the pass has max(z, 0) instead of z. That serves as well if the
  relevance comes from a rule with a factor a: units with z <= 0 then have R = 0, and so s = 0.
- lines 4 and 2: R = a * c of one layer and s = R / stabilise(z) of the layer below are the last thing that the kernel of line 3 does
  with a number, in this order and so with the page's bits.
- Python: kernels that don't wait for it are run by one team of threads, one after the other (see `nplrp.kernels.together`). Between them
  nothing may read or write an array but by a kernel.
- checks: a NaN or an infinity can't be lost on its way to the logits or to the input, so only these are looked at. If one is found,
  the pass is run again by the page, which names the layer.

Whatever isn't one of these cases is done by the page itself.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from nplrp import layers
from nplrp.plan import Plan
from nplrp.rules import AS_IS, Clamp, Part, Term
from nplrp.rules.composites import PASSED
from nplrp.workspace import Workspace

#: Stabilisers that the convolution kernels can divide by.
_STABILISERS = ("plus", "sign")

#: Steps that only look at the same numbers in another way.
_VIEWS = ("reshape", "identity")

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
    denominators : mapping of int to tuple of ndarray
        By step: z of every part of its rule (see `fusible_parts`), before stabilising, where the pass has it.
    """

    activations: tuple[np.ndarray, ...]
    winners: Mapping[int, np.ndarray]
    logits: np.ndarray
    denominators: Mapping[int, tuple[np.ndarray, ...]]

    @property
    def output(self) -> np.ndarray:
        """The model's output, [n, *output_shape]."""
        return self.activations[-1]


def run_forward(plan: Plan, x: np.ndarray, workspace: Workspace | None = None) -> Trace:
    """Run a plan's steps on x [n, *input_shape]; nothing is checked. The arrays are the workspace's, if there is one."""
    workspace = workspace or Workspace(reuse=False)
    activations, winners, denominators = [x], {}, {}
    logits, queue = None, layers.queue()
    ties = layers.tie_labels(plan.steps, x)
    for i, step in enumerate(plan.steps):
        a, parts = activations[-1], fusible_parts(plan, i)
        others = [part for part in parts if _is_plain(part) and not _is_own(part)]
        waits = step.kind in ("maxpool", "conv") or (step.kind == "dense" and not others)
        if not waits and (step.kind not in _VIEWS or step.activation != "linear"):
            queue.run()
        if step.kind == "maxpool":
            with queue:
                a, winners[i] = layers.choose(step, a, ties.get(i), workspace)
                a = layers.activate(step, a, in_place=True)
        elif step.kind in PASSED:
            a = layers.activate(step, layers.reshape(step, a), in_place=False)
        else:
            with queue if waits else nullcontext():
                z, beside = layers.forward_beside(step, a, others, workspace)
            if not all(map(_is_plain, parts)) or step.activation == "softmax":
                queue.run()
            if parts:
                computed, rule = iter(beside), plan.rules[i]
                denominators[i] = tuple(
                    z if _is_own(part) else next(computed) if _is_plain(part) else layers.forward_part(step, a, rule, part)
                    for part in parts
                )
            a = z
            if step.activation == "softmax":
                logits, a = z, layers.softmax(z)
        if step.kind in PASSED and step.activation == "softmax":
            logits = activations[-1].reshape(a.shape)
        activations.append(a)
    queue.run()
    return Trace(tuple(activations), winners, activations[-1] if logits is None else logits, denominators)


def run_backward(
    plan: Plan, trace: Trace, R: np.ndarray, step_back: StepBack, workspace: Workspace | None = None, keep: Keep | None = None
) -> np.ndarray:
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
    workspace : Workspace or None
        None, or one that doesn't use memory again, if there is a `keep`.
    keep : callable or None
        Called with (i, relevance of the output of step i), and with -1 for the input. The bits are the same with and without.

    Returns
    -------
    ndarray [n, *input_shape]
    """
    workspace = workspace or Workspace(reuse=False)
    s: list[np.ndarray] = []  # of step i, part by part, if the step above has divided already
    queue = layers.queue()
    for i in range(len(plan.steps) - 1, -1, -1):
        step, rule, a = plan.steps[i], plan.rules[i], trace.activations[i]
        if keep and not s:
            queue.run()
            keep(i, R)
        divide = _division(plan, trace, i - 1) if i and not keep else None
        if i in trace.denominators:
            parts = fusible_parts(plan, i)
            plain = all(map(_is_plain, parts))
            with queue:
                s = s or layers.divide_parts(R, _division(plan, trace, i), workspace)
            if not plain or (step.kind == "dense" and len(parts) > 1):
                queue.run()
            if plain:
                with queue:
                    result = layers.transpose_times(step, s, layers.clamps(parts), a, divide, workspace)
            else:
                result, divide = [layers.transpose_parts(step, s, a, rule, parts)], None
            workspace.give(*s)
        elif rule.name == "winner":
            with queue:
                result = layers.route(step, R, trace.winners[i], divide, workspace)
        elif rule.name == "winner_epsilon" and rule.stabiliser in _STABILISERS and rule.epsilon:
            with queue:
                s = layers.divide_parts(R, layers.Division((trace.activations[i + 1],), rule, (1.0,)), workspace)
                result = layers.route_times(step, s[0], trace.winners[i], a, divide, workspace)
            workspace.give(*s)
        else:
            if step.kind not in _VIEWS:
                queue.run()
            result, divide = [step_back(i, R)], None
        s, R = (result, R) if divide else ([], result[0])
    queue.run()
    if keep:
        keep(-1, R)
    return R


def fusible_parts(plan: Plan, i: int) -> tuple[Part, ...]:
    """Return the parts of step i's rule as the fused pass runs them; none if the page has to.

    Each is made of products with the activation or a part of it, over a denominator that the kernels can divide by. Parts for units
    that a ReLU has set to 0 are left out where such units get no relevance.
    """
    found = plan.fusible.get(i)
    if found is None:
        found = plan.fusible[i] = _find_fusible(plan, i)
    return found


def _find_fusible(plan: Plan, i: int) -> tuple[Part, ...]:
    step, rule, parts = plan.steps[i], plan.rules[i], plan.parts[i]
    if step.kind not in ("conv", "dense") or rule.stabiliser not in _STABILISERS or not rule.epsilon:
        return ()
    if step.activation == "relu":
        if not _dead_units_get_nothing(plan, i):
            return ()
        parts = tuple(replace(part, units="") for part in parts if part.units not in ("z<0", "y<0"))
    return parts if all(_is_simple(part) for part in parts) and len(parts) <= 2 else ()


def _is_simple(part: Part) -> bool:
    return all(term.input in ("a", "a+", "a-") and isinstance(term.weight, Clamp) for term in part.terms) and not part.units


def _is_plain(part: Part) -> bool:
    """Tell whether a part is one product with the activation itself, as every one is behind a ReLU."""
    return [term.input for term in part.terms] == ["a"]


def _is_own(part: Part) -> bool:
    """Tell whether a part's denominator is what the layer itself computes."""
    return part.terms == (Term("a", AS_IS),) and part.bias == AS_IS


def _division(plan: Plan, trace: Trace, i: int) -> layers.Division | None:
    """Return what line 2 divides by at step i, if the forward pass has it."""
    if i not in trace.denominators:
        return None
    return layers.Division(trace.denominators[i], plan.rules[i], tuple(part.weight for part in fusible_parts(plan, i)))


def _dead_units_get_nothing(plan: Plan, i: int) -> bool:
    """Tell whether the relevance of step i's output has a factor a from the rule above, so that it is 0 where a is."""
    for j in range(i + 1, len(plan.steps)):
        step, parts = plan.steps[j], plan.parts[j]
        if step.kind in PASSED or plan.rules[j].name in ("pass", "winner", "winner_ties"):
            continue
        return all(term.input in ("a", "a+", "a-") for part in parts for term in part.terms)
    return False
