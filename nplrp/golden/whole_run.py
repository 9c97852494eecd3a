"""One run of LRP from end to end with everything that it leaves: one forward and one backward pass, nothing twice."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from nplrp import layers
from nplrp.fused import Trace
from nplrp.lrp import carry_back, forward, run, run_forward
from nplrp.model import Model
from nplrp.plan import Plan, make_steps
from nplrp.span import find_span
from nplrp.targets import start_relevance

#: Told what is being done.
Progress = Callable[[str], None]


@dataclass(frozen=True, eq=False)
class Run:
    """Everything that a run leaves, all images at once.

    Attributes
    ----------
    plan : Plan
    start : str
    targets : tuple of int, or None
        One for each image; None explains all outputs.
    trace : Trace
        The forward pass of the plan, in which batch norms may be merged.
    activations, relevances : mapping of str to ndarray [n, *output_shape]
        Of every layer of the model, ``"input"`` first.
    """

    plan: Plan
    start: str
    targets: tuple[int, ...] | None
    trace: Trace = field(repr=False)
    activations: Mapping[str, np.ndarray] = field(repr=False)
    relevances: Mapping[str, np.ndarray] = field(repr=False)

    @property
    def model(self) -> Model:
        """The model that ran."""
        return self.plan.model

    @property
    def x(self) -> np.ndarray:
        """Its input."""
        return self.trace.activations[0]


def whole_run(
    plan: Plan, x: np.ndarray, start: str, targets: Sequence[int] | None, largest: bool = False, uneven: np.random.Generator | None = None
) -> Run:
    """Run a plan and keep everything.

    Parameters
    ----------
    plan : Plan
    x : ndarray [n, *input_shape]
    start : str
        One of `nplrp.composites.STARTS`.
    targets : sequence of int, or None
    largest : bool
        Explain each image's largest logit instead.
    uneven : Generator or None
        Let pools read activations that are off by a rounding or none, place by place, as those of a backend that sums every place in its
        own order: there exact ties don't last.

    Raises
    ------
    NumericsError
        If a number isn't finite.
    """
    trace = run(plan, np.ascontiguousarray(x, plan.dtype))
    if uneven is not None:
        trace = _uneven(plan, trace, uneven)
    if largest:
        targets = np.argmax(trace.logits, axis=-1).tolist()
    chosen = None if targets is None else np.array(targets)
    R = start_relevance(start, trace.logits, layers.softmax(trace.logits), chosen)
    at: dict[int, np.ndarray] = {}
    carry_back(plan, trace, R, find_span(plan.steps, None, None, None), keep=at.__setitem__)
    names = ["input", *(step.name for step in plan.steps)]
    relevances = {name: at[i - 1].reshape(len(x), *shape) for i, (name, shape) in enumerate(zip(names, _shapes(plan), strict=True))}
    kept = None if targets is None else tuple(int(t) for t in targets)
    return Run(plan, start, kept, trace, dict(zip(names, _activations(plan, trace), strict=True)), relevances)


def _uneven(plan: Plan, trace: Trace, rng: np.random.Generator) -> Trace:
    """Return a trace whose pools have read activations off by at most one unit in the last place, and chosen by them."""
    activations, winners = list(trace.activations), dict(trace.winners)
    for i in winners:
        a = activations[i]
        activations[i] = np.where(rng.random(a.shape, np.float32) < 0.5, a, np.nextafter(a, a.dtype.type(0)))
        winners[i] = layers.choose(plan.steps[i], activations[i])[1]
    return replace(trace, activations=tuple(activations), winners=winners)


def _shapes(plan: Plan) -> list[tuple[int, ...]]:
    return [plan.model.input_shape, *(step.output_shape for step in plan.steps)]


def _activations(plan: Plan, trace: Trace) -> Sequence[np.ndarray]:
    """Return every layer's activation, the input first; batch norms that the plan has merged are run again as what they are."""
    steps = make_steps(plan.model, plan.dtype, plan.algorithm, merge=False)
    changed = [i for i, (own, merged) in enumerate(zip(steps, plan.steps, strict=True)) if _differ(own.weight, merged.weight)]
    if not changed:
        return trace.activations
    first = changed[0]
    if any(step.kind == "maxpool" for step in steps[first:]):  # its winners are told from the image
        return list(forward(plan.model, trace.activations[0], plan.dtype, plan.algorithm).values())
    return [*trace.activations[:first], *run_forward(steps[first:], trace.activations[first]).activations]


def _differ(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not b and (a is None or b is None or not np.array_equal(a, b))
