"""Explain a model's decision: `explain`, and what it gives, an `Explanation`."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np

from nplrp import fused, layers
from nplrp.errors import InputWarning, LayerError, ModelError, RuleError, nearest
from nplrp.ledger import Ledger, balance
from nplrp.lrp import Keep, check_finite, run_backward, run_forward, step_back
from nplrp.model import Model
from nplrp.plan import Plan, check_dtype, last_sum, make_plan, make_steps, parts_below
from nplrp.preprocessing import suspicion
from nplrp.rules.composites import STARTS, Composite
from nplrp.rules.dialects import Dialect
from nplrp.scores import WHOLE, Scoring, scoring_of
from nplrp.span import INPUT, Span, find_span
from nplrp.targets import Label, find_several, label_of, labels_of
from nplrp.trace import Trace
from nplrp.workspace import Workspace, workspace_of

#: Images that are in memory at once; results don't depend on it.
CHUNK = 8


def run(plan: Plan, x: np.ndarray, workspace: Workspace | None = None) -> Trace:
    """Run a plan forward in a workspace's memory, and by the checking pass if a number turns out not to be finite.

    Raises
    ------
    NumericsError
        Naming layer and unit.
    """
    with np.errstate(all="ignore"):  # what overflows is looked for, and named, below
        trace = fused.run_forward(plan, x, workspace)
        if layers.first_nonfinite(trace.logits) is not None:
            run_forward(plan.steps, x)
            check_finite(trace.logits, "the logits")
    return trace


def carry_back(
    plan: Plan, trace: Trace, start: np.ndarray, span: Span, workspace: Workspace | None = None, keep: Keep | None = None
) -> np.ndarray:
    """Carry relevance along a span, fused where that is possible, and by the page if a number turns out not to be finite.

    Parameters
    ----------
    plan : Plan
    trace : Trace
        From `run`.
    start : ndarray [n, *output_shape of the span's top]
    span : Span
    workspace : Workspace or None
    keep : callable or None
        As for `run_backward`.

    Returns
    -------
    ndarray [n, *output_shape of the span's bottom]

    Raises
    ------
    NumericsError
        Naming layer and unit.
    """
    with np.errstate(all="ignore"):
        if plan.composite.gradient or not span.covers(plan.steps):
            return run_backward(plan, trace, start, keep, span)
        R = fused.run_backward(plan, trace, start, lambda i, R: step_back(plan, trace, i, R), workspace, keep)
        if layers.first_nonfinite(R) is not None:
            run_backward(plan, trace, start)
            check_finite(R, "the input's relevance")
    return R


def explain(
    model: Model,
    x: np.ndarray,
    composite: str | Composite | Mapping[str, Any] = "notebook",
    target: Any = None,
    dtype: Any = "float32",
    algorithm: str = "auto",
    *,
    dialect: str | Dialect | None = None,
    start: str | np.ndarray | None = None,
    at: str | None = None,
    until: str | None = None,
    masks: Mapping[str, Any] | None = None,
    merge: bool = True,
) -> Explanation:
    """Explain a model's decision: which parts of its input it was made of.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape], float32 or float64
        Preprocessed images (see `nplrp.preprocess`); converted to `dtype`.
    composite : str, Composite or mapping
        Rules for every layer: a name in `nplrp.rules.composites.COMPOSITES`, perhaps with parameters as in ``"gamma(gamma=0.5)"``, a TOML
        file, or your own.
    target : int, str, a sequence of them, or None
        Which output to explain, by index, class id or class name, one for all images or one for each; ``"top-3"``, or a list for each
        image, gives several maps of each image. A single sigmoid unit stands for the classes 1 and 0. In an output that is no vector a
        target is a position, such as (row, column, channel). None leaves it to the start: all of the output for "softmax" and "all",
        else the largest logit.
    dtype : "float32" or "float64"
    algorithm : "auto" or "direct"
        ``"direct"``: every convolution by its definition.
    dialect : str, Dialect or None
        Compute as this system does (see `nplrp.rules.dialects`); None is the composite's own.
    start : str, ndarray [n, *output_shape], or None
        What to begin with: one of `nplrp.rules.composites.STARTS`, or relevance given at the layer `at`; None is the dialect's.
    at, until : str or None
        Begin and end at the output of these layers, ``"input"`` being the model's input; None is the logits, and the input.
    masks : mapping of str to array, or None
        By layer: the channels whose relevance goes on (a list of whole numbers), or what it is multiplied with.
    merge : bool
        Merge batch norms into their neighbours where that is exact; False keeps each as a layer of its own, with the dialect's rule for it.

    Returns
    -------
    Explanation

    Raises
    ------
    ModelError
        If x doesn't fit the model, or there is no such target.
    RuleError
        If the composite or dtype is unknown, or a rule doesn't fit a layer.
    NumericsError
        If a weight, activation or relevance is NaN or infinite.
    """
    plan = make_plan(model, composite, dtype, algorithm, dialect, merge)
    span = find_span(plan.steps, at, until, masks)
    x = _tensor(model, x, plan.dtype)
    begin, scoring = _check_start(plan, plan.start if start is None else start, span, target, len(x)), scoring_of(model)
    wanted = None if isinstance(begin, np.ndarray) else find_several(model, target, len(x))
    done = []
    with workspace_of(model) as workspace:
        for chunk in _chunks(len(x)):
            trace = run(plan, x[chunk], workspace)
            targets = _targets(wanted, begin, scoring.logits(trace.logits), chunk)
            maps = np.stack(
                [
                    _carried(plan, x[chunk], trace, _start(begin, plan, scoring, trace, chosen, chunk), chosen, span, workspace)
                    for chosen in _columns(targets)
                ],
                axis=1,
            )
            outputs = trace.output.copy(), trace.logits.copy()
            done.append((*outputs, maps.reshape(-1, *maps.shape[2:]), None if targets is None else targets.reshape(-1)))
            workspace.give_all()
    output, logits, relevance = (np.concatenate([each[i] for each in done]) for i in range(3))
    targets = None if done[0][3] is None else np.concatenate([each[3] for each in done])
    return Explanation(plan, x, targets, relevance, output, logits, begin, span)


def forward(model: Model, x: np.ndarray, dtype: Any = "float32", algorithm: str = "auto") -> dict[str, np.ndarray]:
    """Run a model and return every layer's activation by name, ``"input"`` first, the last one after its softmax.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape]
    dtype, algorithm
        As for `explain`.

    Returns
    -------
    dict of str to ndarray [n, *output_shape]
    """
    dtype = check_dtype(dtype)
    steps = make_steps(model, dtype, algorithm, merge=False)
    x = _tensor(model, x, dtype)
    with np.errstate(all="ignore"):
        traces = [run_forward(steps, x[chunk]).activations for chunk in _chunks(len(x))]
    names = ["input", *(step.name for step in steps)]
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*traces, strict=True), strict=True)}


def predict(model: Model, x: np.ndarray, top: int = 5, dtype: Any = "float32", algorithm: str = "auto") -> list[list[Label]]:
    """Return for each image the `top` outputs with the largest scores, as the model gives them: `Label.what` says what they are.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape]
    top : int
    dtype, algorithm
        As for `explain`.
    """
    plan = make_plan(model, "notebook", dtype, algorithm)
    x = _tensor(model, x, plan.dtype)
    with workspace_of(model) as workspace:
        outputs = []
        for chunk in _chunks(len(x)):
            outputs.append(run(plan, x[chunk], workspace).output.copy())
            workspace.give_all()
    return [labels_of(model, scores, top) for scores in scoring_of(model).scores(np.concatenate(outputs))]


class ByLayer(dict[str, np.ndarray]):
    """Arrays by layer."""

    def __missing__(self, name: Any) -> np.ndarray:
        raise LayerError(f"there is no layer {name!r} here; {nearest(name, self, 'they are its keys')}")


class Passes(NamedTuple):
    """What passes back leave: relevance at the output of every layer that they came by, [maps, *shape], after masks; and the ledger."""

    relevances: Mapping[str, np.ndarray]
    ledger: Ledger


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a decision was made of: one map for each image and target, those of one image next to each other.

    Everything but the attributes below is computed when it is first asked for, with the same bits.

    Attributes
    ----------
    plan : Plan
        Which rule ran on which layer.
    x : ndarray [n, *input_shape]
    targets : ndarray [maps] of int, or None
        The explained outputs; None: all of them at once, or relevance that was given.
    relevance : ndarray [maps, *input_shape]
        Relevance of the input, or of the layer where the pass ended, in the units of the start (probability or logit).
    output, logits : ndarray [n, *output_shape]
        The model's output, and the same before its last activation.
    start : str or ndarray
        What the pass began with.
    span : Span
        From which layer to which it ran, and what was masked.
    """

    plan: Plan
    x: np.ndarray = field(repr=False)
    targets: np.ndarray | None
    relevance: np.ndarray = field(repr=False)
    output: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)
    start: str | np.ndarray = field(repr=False)
    span: Span = field(repr=False)

    @property
    def images(self) -> np.ndarray:
        """The image that each map belongs to, [maps] of int."""
        return np.repeat(np.arange(len(self.x)), self._maps_per_image)

    @property
    def layer(self) -> str:
        """The layer whose relevance `relevance` is: "input" unless the pass ended before."""
        return INPUT if self.span.bottom < 0 else self.plan.steps[self.span.bottom].name

    @property
    def model(self) -> Model:
        """The model that was explained."""
        return self.plan.model

    @cached_property
    def activations(self) -> Mapping[str, np.ndarray]:
        """Activation of every layer by name, [n, *output_shape]; the last one after its softmax."""
        return MappingProxyType(ByLayer(forward(self.model, self.x, self.plan.dtype, self.plan.algorithm)))

    @property
    def relevances(self) -> Mapping[str, np.ndarray]:
        """Relevance at the output of every layer of the pass by name, down to the ``"input"``, [maps, *shape]; after masks."""
        return self.passes.relevances

    @property
    def ledger(self) -> Ledger:
        """Where the relevance went, layer by layer; warns if a layer loses or creates more than the pass began with.

        Raises
        ------
        RuleError
            For a gradient, which conserves nothing.
        """
        if self.plan.composite.gradient:
            raise RuleError(f"{self.plan.composite.name!r} is a gradient: it conserves nothing, so it has no ledger; choose a rule of LRP")
        ledger = self.passes.ledger
        ledger.warn()
        return ledger

    def labels(self, top: int = 5) -> list[list[Label]]:
        """Return for each image its `top` outputs with the largest scores (of equal ones the first)."""
        return [labels_of(self.model, scores, top) for scores in self._scores]

    def target_labels(self) -> list[Label]:
        """Return for each map the label of the output that was explained, or of the largest one where all were.

        Where all of an output were explained that is no vector, there is no largest one: the label says so, and has the unit -1.
        """
        scores = self._scores[self.images]
        if self.targets is None and len(self.model.output_shape) != 1:
            return [Label(-1, "all", "all outputs", float(each.sum(dtype=float)), "sum") for each in scores]
        targets = np.argmax(scores, axis=-1) if self.targets is None else self.targets
        return [label_of(self.model, int(t), float(p[t])) for t, p in zip(targets, scores, strict=True)]

    @property
    def begins_with(self) -> str:
        """What the pass began with, where the name of its start would mislead; else an empty text."""
        return scoring_of(self.model).told(self.start) if isinstance(self.start, str) else ""

    @property
    def _scores(self) -> np.ndarray:
        return scoring_of(self.model).scores(self.output)

    @cached_property
    def passes(self) -> Passes:
        """What the passes back leave when everything is kept, computed when it is first asked for."""
        plan, span = self.plan, self.span
        plan = (
            plan
            if span.top == len(plan.steps) - 1
            else replace(plan, parts=parts_below(plan.steps, plan.rules, span.top, plan.composite.slopes))
        )
        targets = None if self.targets is None else self.targets.reshape(-1, self._maps_per_image)
        kept: list[dict[int, np.ndarray]] = []
        books, places = [], []  # the place of each map that is kept
        for chunk in _chunks(len(self.x)):
            whole = run(self.plan, self.x[chunk])
            columns = _columns(None if targets is None else targets[chunk])
            for column, chosen in enumerate(columns):
                start = _start(self.start, plan, scoring_of(self.model), whole, chosen, chunk)
                for negative, images in _sides(plan, chosen, len(start)):
                    own, below = (_negated(each) for each in (self.plan, plan)) if negative else (self.plan, plan)
                    trace = run(own, self.x[chunk][images]) if negative or len(images) < len(start) else whole
                    at: dict[int, np.ndarray] = {}
                    carry_back(own, trace, start[images], span, keep=at.__setitem__)
                    kept.append(at)
                    places.append((chunk.start + images) * len(columns) + column)
                    if not plan.composite.gradient:
                        books.append(balance(below, trace, start[images], span, at))
        rows = np.argsort(np.concatenate(places), kind="stable")
        names = [INPUT, *(step.name for step in plan.steps)]
        relevances: dict[str, np.ndarray] = {names[i + 1]: np.concatenate([at[i] for at in kept])[rows] for i in sorted(kept[0])}
        return Passes(MappingProxyType(ByLayer(relevances)), Ledger.join(books).take(rows) if books else Ledger(()))

    @property
    def _maps_per_image(self) -> int:
        return 1 if self.targets is None or not len(self.x) else len(self.targets) // len(self.x)

    def __repr__(self) -> str:
        what = "all outputs" if self.targets is None else f"targets {self.targets.tolist()}"
        return f"Explanation({self.plan.composite.name} of {self.model.name}, {len(self.x)} images, {what}, {self.plan.dtype})"


def _check_start(plan: Plan, start: str | np.ndarray, span: Span, target: Any, images: int) -> str | np.ndarray:
    """Return what a pass begins with: one of `STARTS`, or given relevance in the plan's dtype.

    Raises
    ------
    RuleError
        If there is no such start, or relevance is needed and not given.
    ModelError
        If given relevance doesn't fit the layer.
    NumericsError
        If it holds a NaN or an infinity.
    """
    steps = plan.steps
    above = steps[span.top + 1 :]
    if isinstance(start, str):
        if start not in STARTS:
            raise RuleError(f"there is no start {start!r}, and it is no array of relevance; {nearest(start, STARTS)}")
        if any(not layers.operation(step).view or step.output_shape != step.input_shape for step in above):
            raise RuleError(f"a pass that begins at layer {steps[span.top].name!r} needs relevance to begin with; give start=array")
        shape = plan.model.output_shape
        if len(shape) != 1 and start not in WHOLE and target is None:
            raise ModelError(
                f"the model ends in an output of shape {shape}, so there is no class to choose; begin with all of it (start='all'), with "
                f"one position (target=(row, column, channel)), or with relevance of your own (start=array, {(images, *shape)})"
            )
        return start
    if target is not None:
        raise ModelError("relevance is given at the start, so there is no target to choose; leave out target, or start")
    given = np.asarray(start)
    shape = steps[span.top].output_shape if span.top >= 0 else plan.model.input_shape
    if given.shape != (images, *shape) or given.dtype.kind not in "fiu":
        where = steps[span.top].name if span.top >= 0 else INPUT
        raise ModelError(
            f"the relevance to start with has shape {given.shape} and dtype {given.dtype}; layer {where!r} takes numbers of shape "
            f"{(images, *shape)}"
        )
    given = np.ascontiguousarray(given, dtype=plan.dtype)
    check_finite(given, "the relevance to start with")
    return given


def _targets(wanted: np.ndarray | int | None, begin: str | np.ndarray, logits: np.ndarray, chunk: slice) -> np.ndarray | None:
    """Return a chunk's targets [n, k], or None where all outputs are explained at once or relevance was given."""
    if isinstance(begin, np.ndarray) or (wanted is None and begin in WHOLE):
        return None
    if isinstance(wanted, np.ndarray):
        return wanted[chunk]
    return np.argsort(-logits, axis=-1, kind="stable")[:, : wanted or 1]


def _columns(targets: np.ndarray | None) -> list[np.ndarray | None]:
    return [None] if targets is None else list(targets.T)


def _start(begin: str | np.ndarray, plan: Plan, scoring: Scoring, trace: Trace, chosen: np.ndarray | None, chunk: slice) -> np.ndarray:
    """Return the relevance that a chunk's pass begins with."""
    if isinstance(begin, np.ndarray):
        return begin[chunk]
    return scoring.begin(begin, trace.logits, trace.output, chosen, bool(plan.composite.gradient))


def _carried(
    plan: Plan, x: np.ndarray, trace: Trace, start: np.ndarray, chosen: np.ndarray | None, span: Span, workspace: Workspace
) -> np.ndarray:
    """Carry the relevance of a chunk's logits back, each image's class by its own side of the network."""
    sides = _sides(plan, chosen, len(start))
    if sides[0][0] is False and len(sides) == 1:
        return carry_back(plan, trace, start, span, workspace)
    found = None
    for negative, images in sides:
        own = _negated(plan) if negative else plan
        R = carry_back(own, run(own, x[images]), start[images], span)
        found = np.empty((len(start), *R.shape[1:]), R.dtype) if found is None else found
        found[images] = R
    assert found is not None
    return found


def _sides(plan: Plan, chosen: np.ndarray | None, count: int) -> list[tuple[bool, np.ndarray]]:
    """Return which images are explained by the network, and which by that whose one sigmoid unit gives -z: (is it that one, images).

    Rules that tell signs apart see the weights that speak for the class. Gradients are negated at the start instead.
    """
    everything = np.arange(count)
    if chosen is None or not scoring_of(plan.model).binary or plan.composite.gradient:
        return [(False, everything)]
    sides = [(False, everything[chosen == 1]), (True, everything[chosen == 0])]
    return [(negative, images) for negative, images in sides if len(images)] or [(False, everything)]


def _negated(plan: Plan) -> Plan:
    """Return the plan of the network whose last linear step has the opposite sign: class 0 of a single sigmoid unit is its logit."""
    steps, last = list(plan.steps), last_sum(plan.steps)
    step = steps[last]
    if last < 0 or step.weight is None or step.bias is None or not (step.score or step.activation == "linear"):
        return plan  # the logit is no sum with weights that a rule could tell apart
    steps[last] = replace(step, weight=-step.weight, bias=-step.bias, prepared={})
    return replace(plan, steps=tuple(steps))


def _chunks(n: int) -> list[slice]:
    """Return slices of at most `CHUNK` images; one empty slice for none, so that shapes come out right."""
    return [slice(i, i + CHUNK) for i in range(0, max(n, 1), CHUNK)]


def _tensor(model: Model, x: Any, dtype: np.dtype) -> np.ndarray:
    """Check and convert the input.

    Raises
    ------
    ModelError
        If its shape or dtype doesn't fit.
    NumericsError
        If it holds a NaN or an infinity.
    """
    takes = model.input_shape
    pictures = len(takes) == 3 and takes[2] in (1, 3)
    make = "make it with nplrp.preprocess(images, model)" if pictures else "make it of the numbers that the model was trained on"
    expected = f"{model.name} takes (n, {', '.join(map(str, takes))})"
    try:
        x = np.asarray(x)
    except ValueError:
        raise ModelError(f"the input is no array (its lists have different lengths), but {expected}; {make}") from None
    if x.shape[1:] != takes or x.ndim != len(takes) + 1:
        if x.shape == takes:
            make = "add the batch axis with x[None]"
        elif x.shape[1:] == (*takes[-1:], *takes[:-1]):
            make = "bring its channels to the end with np.moveaxis(x, 1, -1)"
        raise ModelError(f"the input has shape {x.shape}, but {expected}; {make}")
    if x.dtype.kind not in "fiu":
        raise ModelError(f"the input has dtype {x.dtype}, expected float32 or float64; {make}")
    with np.errstate(over="ignore"):
        taken = np.ascontiguousarray(x, dtype=dtype)
    check_finite(taken, "the input")
    doubt = suspicion(x, model.preprocessing.mode)
    if doubt:
        warnings.warn(doubt, InputWarning, stacklevel=3)
    return taken
