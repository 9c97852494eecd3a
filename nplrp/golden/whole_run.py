"""One run of LRP from end to end with everything that it leaves: one forward and one backward pass, nothing twice."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.explanation import carry_back
from nplrp.fused import fusions
from nplrp.golden.blocks import in_blocks
from nplrp.layers import Step
from nplrp.lrp import run_backward, step_back
from nplrp.model import Model
from nplrp.outputs import forward, run
from nplrp.plan import Plan, make_steps
from nplrp.scores import scoring_of
from nplrp.span import find_span
from nplrp.trace import Trace

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


@dataclass(frozen=True, eq=False)
class Noise:
    """Rounding as a backend may have it that sums naively: added to every sum, forward and backward.

    Attributes
    ----------
    forward, backward : sequence of ndarray
        By step: its size, for the output [n, *output_shape] and for the relevance of what it works on [n, *input_shape]; uniform in +-
        that.
    seed : int
    even : bool
        Equal numbers of equal channels get equal noise, so that exact ties last; else every number has its own.
    """

    forward: Sequence[np.ndarray] = field(repr=False)
    backward: Sequence[np.ndarray] = field(repr=False)
    seed: int
    even: bool

    def of(self, values: np.ndarray, size: np.ndarray, place: int) -> np.ndarray:
        """Return values with noise; the bits are the same everywhere."""
        if self.even:
            seed = 2 * place + self.seed * 1000003
            return in_blocks(lambda v, spread: _noisy(v, spread, _hashed(v, seed)), values, size)
        uniform = np.random.Generator(np.random.PCG64([self.seed, place])).random(values.shape)
        return in_blocks(_noisy, values, size, uniform)


def _noisy(values: np.ndarray, size: np.ndarray, uniform: np.ndarray) -> np.ndarray:
    return np.asarray(values + size * (2 * uniform - 1)).astype(values.dtype)


def _hashed(values: np.ndarray, seed: int) -> np.ndarray:
    """Return numbers in [0, 1) that depend on each value's bits and its channel alone (SplitMix64)."""
    channels = np.arange(values.shape[-1], dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    h = (values + 0.0).astype(np.float64).view(np.uint64) + channels + np.uint64(seed)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    h ^= h >> np.uint64(31)
    return np.asarray((h >> np.uint64(11)).astype(np.float64) * 2.0**-53)


def whole_run(
    plan: Plan,
    x: np.ndarray,
    start: str,
    targets: Sequence[int] | None,
    largest: bool = False,
    noise: Noise | None = None,
    one_pass: bool = True,
) -> Run:
    """Run a plan and keep everything.

    Parameters
    ----------
    plan : Plan
    x : ndarray [n, *input_shape]
    start : str
        One of `nplrp.rules.composites.STARTS`.
    targets : sequence of int, or None
    largest : bool
        Explain each image's largest logit instead.
    noise : Noise or None
    one_pass : bool
        Where batch norms are merged into neighbours, relevance is computed from the activations that are reported, which aren't merged;
        else, as up to version 2 of golden files, from those of a merged pass, which are rounded otherwise.

    Raises
    ------
    NumericsError
        If a number isn't finite.
    """
    x = np.ascontiguousarray(x, plan.dtype)
    trace = run(plan, x) if noise is None else _noisy_forward(plan, x, noise)
    activations = _activations(plan, trace)
    merged = one_pass and noise is None and any(step.merged for step in plan.steps)
    if merged:
        trace = with_activations(plan, trace, activations)
    scoring = scoring_of(plan.model)
    if largest:
        targets = np.argmax(scoring.logits(trace.logits), axis=-1).tolist()
    chosen = None if targets is None else np.array(targets)
    R = scoring.begin(start, trace.logits, trace.output, chosen)
    at: dict[int, np.ndarray] = {}
    if merged:
        run_backward(plan, trace, R, at.__setitem__)
    elif noise is None:
        carry_back(plan, trace, R, find_span(plan.steps, None, None, None), keep=at.__setitem__)
    else:
        run_backward(plan, trace, R, at.__setitem__, back=lambda i, R: _noisy_back(plan, trace, i, R, noise))
    names = ["input", *(step.name for step in plan.steps)]
    relevances = {name: at[i - 1].reshape(len(x), *shape) for i, (name, shape) in enumerate(zip(names, _shapes(plan), strict=True))}
    kept = None if targets is None else tuple(int(t) for t in targets)
    return Run(plan, start, kept, trace, dict(zip(names, activations, strict=True)), relevances)


def _noisy_back(plan: Plan, trace: Trace, i: int, R: np.ndarray, noise: Noise) -> np.ndarray:
    R = step_back(plan, trace, i, R)
    return R if plan.steps[i].weight is None else noise.of(R, noise.backward[i], -1 - i + 2 * len(plan.steps))


def _noisy_forward(plan: Plan, x: np.ndarray, noise: Noise) -> Trace:
    activations, held, logits = [x], dict[int, Any](), None
    for i, step in enumerate(plan.steps):
        z, decided = layers.apply(step, layers.gather(step, activations))
        held |= {} if decided is None else {i: decided}
        if step.weight is not None:
            z = noise.of(z, noise.forward[i], i)
        logits = z if step.score else logits
        activations.append(layers.activate(step, z, in_place=False))
    return Trace(tuple(activations), held, activations[-1] if logits is None else logits.reshape(activations[-1].shape), {})


def _shapes(plan: Plan) -> list[tuple[int, ...]]:
    return [plan.model.input_shape, *(step.output_shape for step in plan.steps)]


def _activations(plan: Plan, trace: Trace) -> Sequence[np.ndarray]:
    """Return every layer's activation, the input first.

    Batch norms that the plan has merged, and ReLUs that a step below has done in passing, are run again as what they are.
    """
    steps = make_steps(plan.model, plan.dtype, plan.algorithm, merge=False)
    if not any(
        _differ(own.weight, merged.weight) or own.activation != fusion.step.activation
        for own, merged, fusion in zip(steps, plan.steps, fusions(plan), strict=True)
    ):
        return trace.activations
    return list(forward(plan.model, trace.activations[0], plan.dtype, plan.algorithm).values())


def _differ(a: np.ndarray | None, b: np.ndarray | None) -> bool:
    return a is not b and (a is None or b is None or not np.array_equal(a, b))


def with_activations(plan: Plan, trace: Trace, activations: Sequence[np.ndarray]) -> Trace:
    """Return a plan's trace with other activations [n, *output_shape] of every layer, the input's first, and decisions by these."""
    own = list(activations)
    for i, step in enumerate(plan.steps):
        if step.merged:
            _hide_norm(plan.steps, trace, own, i)
    held = {i: layers.apply(plan.steps[i], layers.gather(plan.steps[i], own))[1] for i in trace.held}
    scores = next((step for step in reversed(plan.steps) if step.score), None)
    logits = own[-1] if scores is None else layers.apply(scores, layers.gather(scores, own))[0]
    return dataclasses.replace(trace, activations=tuple(own), held=held, logits=logits.reshape(own[-1].shape), denominators={})


def _hide_norm(steps: Sequence[Step], trace: Trace, own: list[np.ndarray], i: int) -> None:
    """Change activations to those of a plan in which batch norm i lives in a neighbour: its own step, and those between, do nothing."""
    into, between = int(steps[i].options["into"]), []
    at = i
    while at != into:  # nobody else reads what lies between
        at = steps[at].inputs[0] if into < i else next(k for k in range(at + 1, len(steps)) if at in steps[k].inputs)
        between.append(at)
    if into > i:
        for k in (i, *between[:-1]):
            own[k + 1] = layers.move(steps[k], layers.gather(steps[k], own))
    elif steps[i].activation == "linear":
        for k in between:
            own[k + 1] = own[i + 1].reshape(len(own[i + 1]), *steps[k].output_shape)
    else:
        for k in (i, *between):
            own[k + 1] = trace.activations[k + 1]
