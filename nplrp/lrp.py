"""Layer-wise Relevance Propagation: the four steps, the pass through a network, and `explain`.

z, s, c and R are the names of the literature (Montavon et al. 2019, sec. 10.2). `redistribute` is all of LRP; the rest of this file
brings it its inputs and keeps its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp import fused, gradients, layers
from nplrp.errors import ModelError, NumericsError, RuleError
from nplrp.fused import Keep, Trace
from nplrp.ledger import Entry, Ledger, account
from nplrp.model import Model
from nplrp.plan import Plan, check_dtype, make_plan, make_steps, parts_below, unit_name
from nplrp.rules import AS_IS, Part, Rule
from nplrp.rules.composites import PASSED, STARTS, Composite
from nplrp.rules.dialects import Dialect
from nplrp.span import INPUT, Span, find_span
from nplrp.step import Step
from nplrp.targets import WHOLE, Label, find_several, label_of, labels_of, start_relevance
from nplrp.workspace import Workspace, workspace_of

#: Images that are in memory at once; results don't depend on it.
CHUNK = 8


def redistribute(
    R: np.ndarray, a: Sequence[np.ndarray], step: Step, rule: Rule, part: Part, winner: np.ndarray | None = None
) -> np.ndarray:
    """Carry relevance from a linear layer's output to its input: the four steps of LRP.

    Parameters
    ----------
    R : ndarray [n, *output_shape]
        Relevance of the layer's outputs.
    a : one ndarray [n, *input_shape] for each term
        The layer's input, as the rule changes it.
    step, rule, part
        The layer, its rule, and the part of the rule to run.
    winner : ndarray or None
        Of a max-pool: the decisions that make it linear.

    Returns
    -------
    ndarray [n, *input_shape]
        Relevance of the layer's inputs.
    """
    w, b = [term.weight for term in part.terms], part.bias

    z = layers.forward(step, a, w, b, winner=winner)  # 1  what each output received
    s = layers.divide(R, z, rule, part.weight)  # 2  relevance per unit received
    c = layers.transpose(step, s, w, winner)  # 3  carried back along the same weights
    R = layers.multiply(a, c)  # 4  times what each input gave
    return R


def run_forward(steps: Sequence[Step], x: np.ndarray) -> Trace:
    """Run steps on x [n, *input_shape] and keep every activation, checking each.

    Raises
    ------
    NumericsError
        If a value is NaN or infinite; the message names layer and unit.
    """
    activations, winners, logits = [x], {}, None
    ties = layers.tie_labels(steps, x)
    for i, step in enumerate(steps):
        a = activations[-1]
        if step.kind == "maxpool":
            a, winners[i] = layers.choose(step, a, ties.get(i))
        elif step.kind in PASSED:
            a = layers.reshape(step, a)
        else:
            a = layers.forward(step, [a], [AS_IS], AS_IS)
        _check_finite(a, f"layer {step.name!r}")
        if step.activation == "softmax":
            logits = a
        activations.append(layers.activate(step, a, in_place=step.kind not in PASSED))
    return Trace(tuple(activations), winners, activations[-1] if logits is None else logits, {})


def run_backward(plan: Plan, trace: Trace, R: np.ndarray, keep: Keep | None = None, span: Span | None = None) -> np.ndarray:
    """Carry relevance from the logits to the input, or along a span, by the page alone, checking every layer.

    Parameters
    ----------
    plan : Plan
    trace : Trace
        From `run_forward` or `nplrp.fused.run_forward`.
    R : ndarray [n, units]
        Relevance of the logits, or of the output of the span's top.
    keep : callable or None
        Called with (i, relevance of the output of step i, after its mask), and with -1 for the input.
    span : Span or None
        None is all of the network.

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
        plan = replace(plan, parts=parts_below(plan.steps, plan.rules, span.top + 1))
    for i in range(span.top, span.bottom, -1):
        R = span.mask(i, R)
        if keep:
            keep(i, R)
        below = step_back(plan, trace, i, R)
        if layers.first_nonfinite(below) is not None:
            _report_nonfinite(plan, i, trace.activations[i], R)
        R = below
    R = span.mask(span.bottom, R)
    if plan.composite.gradient == "input_t_gradient":
        R = R * trace.activations[span.bottom + 1]
    if keep:
        keep(span.bottom, R)
    return R


def step_back(plan: Plan, trace: Trace, i: int, R: np.ndarray) -> np.ndarray:
    """Carry relevance back through step i, the sum over its rule's parts: [n, *output_shape] -> [n, *input_shape]."""
    step, rule, parts = plan.steps[i], plan.rules[i], plan.parts[i]
    a, y, winner = trace.activations[i], trace.activations[i + 1], trace.winners.get(i)
    if plan.composite.gradient:
        return gradients.step_back(step, plan.composite.gradient, y, R, winner)
    if not parts:
        return layers.reshape_back(step, R)
    if rule.name == "winner_ties":
        winner = layers.share_ties(step, a, layers.tie_labels(plan.steps, trace.activations[0]).get(i))
    step = layers.linear_step(step, rule)
    shares = (
        redistribute(layers.relevance_of_units(R, step, a, part.units, y), layers.changed_inputs(a, rule, part), step, rule, part, winner)
        for part in parts
    )
    total = next(shares)
    for share in shares:
        total += share
    return total


def run(plan: Plan, x: np.ndarray, workspace: Workspace | None = None) -> Trace:
    """Run a plan forward in a workspace's memory, and by the checking pass if a number turns out not to be finite.

    Raises
    ------
    NumericsError
        Naming layer and unit.
    """
    trace = fused.run_forward(plan, x, workspace)
    if layers.first_nonfinite(trace.logits) is not None:
        run_forward(plan.steps, x)
        _check_finite(trace.logits, "the logits")
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
    if plan.composite.gradient or not span.covers(plan.steps):
        return run_backward(plan, trace, start, keep, span)
    R = fused.run_backward(plan, trace, start, lambda i, R: step_back(plan, trace, i, R), workspace, keep)
    if layers.first_nonfinite(R) is not None:
        run_backward(plan, trace, start)
        _check_finite(R, "the input's relevance")
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
        image, gives several maps of each image. None leaves it to the start: all of the vector for "softmax" and "all", else the
        largest logit.
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
    plan = make_plan(model, composite, dtype, algorithm, dialect)
    span = find_span(plan.steps, at, until, masks)
    x = _tensor(model, x, plan.dtype)
    begin = _check_start(plan, plan.start if start is None else start, span, target, len(x))
    wanted = None if isinstance(begin, np.ndarray) else find_several(model, target, len(x))
    done = []
    with workspace_of(model) as workspace:
        for chunk in _chunks(len(x)):
            trace = run(plan, x[chunk], workspace)
            targets = _targets(wanted, begin, trace.logits, chunk)
            starts = [_start(begin, trace.logits, chosen, chunk) for chosen in _columns(targets)]
            maps = np.stack([carry_back(plan, trace, R, span, workspace) for R in starts], axis=1)
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
    traces = [run_forward(steps, x[chunk]).activations for chunk in _chunks(len(x))]
    names = ["input", *(step.name for step in steps)]
    return {name: np.concatenate(arrays) for name, arrays in zip(names, zip(*traces, strict=True), strict=True)}


def predict(model: Model, x: np.ndarray, top: int = 5, dtype: Any = "float32", algorithm: str = "auto") -> list[list[Label]]:
    """Return for each image the `top` outputs with the largest softmax scores.

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
        logits = []
        for chunk in _chunks(len(x)):
            logits.append(run(plan, x[chunk], workspace).logits.copy())
            workspace.give_all()
    return [labels_of(model, scores, top) for scores in layers.softmax(np.concatenate(logits))]


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
    output, logits : ndarray [n, units]
        The model's output, and the same before its softmax.
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
        return MappingProxyType(forward(self.model, self.x, self.plan.dtype, self.plan.algorithm))

    @property
    def relevances(self) -> Mapping[str, np.ndarray]:
        """Relevance at the output of every layer of the pass by name, down to the ``"input"``, [maps, *shape]; after masks."""
        return self._record[0]

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
        ledger = self._record[1]
        ledger.warn()
        return ledger

    def labels(self, top: int = 5) -> list[list[Label]]:
        """Return for each image its `top` outputs with the largest scores (of equal ones the first)."""
        return [labels_of(self.model, scores, top) for scores in self._probabilities]

    def target_labels(self) -> list[Label]:
        """Return for each map the label of the output that was explained, or of the largest one where all were."""
        scores = self._probabilities[self.images]
        targets = np.argmax(scores, axis=-1) if self.targets is None else self.targets
        return [label_of(self.model, int(t), float(p[t])) for t, p in zip(targets, scores, strict=True)]

    @property
    def _probabilities(self) -> np.ndarray:
        return layers.softmax(self.logits)

    @cached_property
    def _record(self) -> tuple[Mapping[str, np.ndarray], Ledger]:
        plan, span = self.plan, self.span
        names = [INPUT, *(step.name for step in plan.steps)][span.bottom + 1 : span.top + 2]
        parts = parts_below(plan.steps, plan.rules, span.top + 1)
        targets = None if self.targets is None else self.targets.reshape(-1, self._maps_per_image)
        kept: list[list[np.ndarray]] = []
        books, order, count = [], [], 0
        for chunk in _chunks(len(self.x)):
            trace = run(plan, self.x[chunk])
            columns = _columns(None if targets is None else targets[chunk])
            order.append(count + np.arange(len(columns) * len(trace.logits)).reshape(len(columns), -1).T.reshape(-1))
            count += len(order[-1])
            for chosen in columns:
                start = _start(self.start, trace.logits, chosen, chunk)
                at: dict[int, np.ndarray] = {}
                carry_back(plan, trace, start, span, keep=at.__setitem__)
                kept.append([at[i] for i in range(span.bottom, span.top + 1)])
                if not plan.composite.gradient:
                    books.append(_book(plan, parts, trace, start, span, at))
        rows = np.concatenate(order)
        arrays = [np.concatenate(each)[rows] for each in zip(*kept, strict=True)]
        return MappingProxyType(dict(zip(names, arrays, strict=True))), Ledger.join(books).take(rows) if books else Ledger(())

    @property
    def _maps_per_image(self) -> int:
        return 1 if self.targets is None or not len(self.x) else len(self.targets) // len(self.x)

    def __repr__(self) -> str:
        what = "all outputs" if self.targets is None else f"targets {self.targets.tolist()}"
        return f"Explanation({self.plan.composite.name} of {self.model.name}, {len(self.x)} images, {what}, {self.plan.dtype})"


def _book(
    plan: Plan, parts: Sequence[Sequence[Part]], trace: Trace, start: np.ndarray, span: Span, at: Mapping[int, np.ndarray]
) -> list[Entry]:
    """Balance every step of a pass; `at` is the relevance after masks."""
    plan = replace(plan, parts=tuple(map(tuple, parts)))

    def unmasked(i: int) -> np.ndarray:
        if i not in span.masks:
            return at[i]
        return start if i == span.top else step_back(plan, trace, i + 1, at[i + 1])

    return [
        account(
            plan.steps[i],
            plan.rules[i],
            plan.parts[i],
            trace.activations[i],
            at[i],
            unmasked(i - 1),
            unmasked(i) - at[i] if i in span.masks else None,
        )
        for i in range(span.bottom + 1, span.top + 1)
    ]


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
            raise RuleError(f"there is no start {start!r}; expected one of {', '.join(STARTS)}, or an array of relevance")
        if any(step.kind != "identity" for step in above):
            raise RuleError(f"a pass that begins at layer {steps[span.top].name!r} needs relevance to begin with; give start=array")
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
    _check_finite(given, "the relevance to start with")
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


def _start(begin: str | np.ndarray, logits: np.ndarray, chosen: np.ndarray | None, chunk: slice) -> np.ndarray:
    """Return the relevance that a chunk's pass begins with."""
    if isinstance(begin, np.ndarray):
        return begin[chunk]
    return start_relevance(begin, logits, layers.softmax(logits), chosen)


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
    x = np.asarray(x)
    expected = ", ".join(str(n) for n in model.input_shape)
    if x.shape[1:] != model.input_shape or x.ndim != len(model.input_shape) + 1:
        hint = "; add the batch axis with x[None]" if x.shape == model.input_shape else "; make it with nplrp.preprocess(images, model)"
        raise ModelError(f"the input has shape {x.shape}, but {model.name} takes (n, {expected}){hint}")
    if x.dtype.kind not in "fiu":
        raise ModelError(f"the input has dtype {x.dtype}, expected float32 or float64; make it with nplrp.preprocess(images, model)")
    x = np.ascontiguousarray(x, dtype=dtype)
    _check_finite(x, "the input")
    return x


def _check_finite(values: np.ndarray, where: str) -> None:
    index = layers.first_nonfinite(values)
    if index is not None:
        raise NumericsError(f"{where}: {values[index]} at {unit_name(index)}; no explanation can be computed from it")


def _report_nonfinite(plan: Plan, i: int, a: np.ndarray, R: np.ndarray) -> None:
    """Run one step's page again and raise for the first line that gives a NaN or an infinity."""
    step, rule = plan.steps[i], plan.rules[i]
    step = layers.linear_step(step, rule)
    for part in plan.parts[i]:
        weights = [term.weight for term in part.terms]
        z = layers.forward(step, layers.changed_inputs(a, rule, part), weights, part.bias)
        s = layers.divide(layers.relevance_of_units(R, step, a, part.units), z, rule, part.weight)
        for values, what in ((z, "z"), (s, "s = R / z")):
            index = layers.first_nonfinite(values)
            if index is not None:
                R, d = R.reshape(z.shape), layers.denominator(z, rule)
                raise NumericsError(
                    f"layer {step.name!r}, rule {rule}: {what} is {values[index]} at {unit_name(index)} (R = {R[index]:g}, denominator "
                    f"{d[index]:g}); use a stabiliser with the sign of z, or a larger epsilon"
                )
    raise NumericsError(f"layer {step.name!r}, rule {rule}: its relevance overflows {plan.dtype}; use dtype='float64' or a larger epsilon")
