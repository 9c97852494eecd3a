"""Layer-wise Relevance Propagation: the four steps, the pass through a network, and `explain`.

z, s, c and R are the names of the literature (Montavon et al. 2019, sec. 10.2). `redistribute` is all of LRP; the rest of this file
brings it its inputs and keeps its outputs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp import fused, layers
from nplrp.composites import PASSED, Composite
from nplrp.errors import ModelError, NumericsError
from nplrp.fused import Keep, Trace
from nplrp.ledger import Ledger, account
from nplrp.model import Model
from nplrp.plan import Plan, check_dtype, make_plan, make_steps, unit_name
from nplrp.rules import AS_IS, Part, Rule
from nplrp.step import Step
from nplrp.targets import Label, find_targets, label_of, labels_of

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

    z = layers.forward(step, a, w, b)  # 1  what each output received
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


def run_backward(plan: Plan, trace: Trace, R: np.ndarray, keep: Keep | None = None) -> np.ndarray:
    """Carry relevance from the logits to the input by the page alone, checking every layer.

    Parameters
    ----------
    plan : Plan
    trace : Trace
        From `run_forward` or `nplrp.fused.run_forward`.
    R : ndarray [n, units]
        Relevance of the logits.
    keep : callable or None
        Called with (i, relevance of the output of step i), and with -1 for the input.

    Returns
    -------
    ndarray [n, *input_shape]

    Raises
    ------
    NumericsError
        If a relevance is NaN or infinite; the message names layer, line of the page, and unit.
    """
    for i in range(len(plan.steps) - 1, -1, -1):
        if keep:
            keep(i, R)
        below = step_back(plan, trace, i, R)
        if layers.first_nonfinite(below) is not None:
            _report_nonfinite(plan, i, trace.activations[i], R)
        R = below
    if keep:
        keep(-1, R)
    return R


def step_back(plan: Plan, trace: Trace, i: int, R: np.ndarray) -> np.ndarray:
    """Carry relevance back through step i, the sum over its rule's parts: [n, *output_shape] -> [n, *input_shape]."""
    step, rule, parts = plan.steps[i], plan.rules[i], plan.parts[i]
    if not parts:
        return layers.reshape_back(step, R)
    a, winner = trace.activations[i], trace.winners.get(i)
    shares = (redistribute(R, [layers.changed_input(a, term.input) for term in part.terms], step, rule, part, winner) for part in parts)
    total = next(shares)
    for share in shares:
        total += share
    return total


def run(plan: Plan, x: np.ndarray, targets: np.ndarray | None, keep: Keep | None = None) -> tuple[Trace, np.ndarray]:
    """Run a plan forward and backward, fused where that is possible, and by the page if a number turns out not to be finite.

    Parameters
    ----------
    plan : Plan
    x : ndarray [n, *input_shape]
    targets : ndarray [n] of int, or None
    keep : callable or None
        As for `run_backward`.

    Returns
    -------
    (Trace, ndarray [n, *input_shape])
        What the forward pass left, and the relevance of the input.

    Raises
    ------
    NumericsError
        Naming layer and unit.
    """
    trace = fused.run_forward(plan, x)
    if layers.first_nonfinite(trace.logits) is not None:
        run_forward(plan.steps, x)
        _check_finite(trace.logits, "the logits")
    start = _start(plan.composite.start, trace.logits, targets)
    R = fused.run_backward(plan, trace, start, lambda i, R: step_back(plan, trace, i, R), keep)
    if layers.first_nonfinite(R) is not None:
        run_backward(plan, trace, start)
        _check_finite(R, "the input's relevance")
    return trace, R


def explain(
    model: Model,
    x: np.ndarray,
    composite: str | Composite = "notebook",
    target: Any = None,
    dtype: Any = "float32",
    algorithm: str = "auto",
) -> Explanation:
    """Explain a model's decision: which parts of its input it was made of.

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape], float32 or float64
        Preprocessed images (see `nplrp.preprocess`); converted to `dtype`.
    composite : str or Composite
        Rules for every kind of layer: a name in `nplrp.composites.COMPOSITES`, or your own.
    target : int, str, a sequence of them, or None
        Which output to explain, by index, class id or class name; None leaves it to the composite: all of the softmax vector
        (``notebook``) or the largest logit (``zplus``). With a target, a start of "softmax" is that unit's probability.
    dtype : "float32" or "float64"
    algorithm : "auto" or "direct"
        ``"direct"``: every convolution by its definition.

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
    plan = make_plan(model, composite, dtype, algorithm)
    x = _tensor(model, x, plan.dtype)
    targets = find_targets(model, target, len(x))
    parts = [_explain_chunk(plan, x[chunk], None if targets is None else targets[chunk]) for chunk in _chunks(len(x))]
    output, logits, relevance = (np.concatenate(arrays) for arrays in zip(*parts, strict=True))
    if targets is None and plan.composite.start != "softmax":
        targets = np.argmax(logits, axis=-1)
    return Explanation(plan=plan, x=x, targets=targets, relevance=relevance, output=output, logits=logits)


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
    dtype = check_dtype(dtype)
    steps = make_steps(model, dtype, algorithm, merge=True)
    x = _tensor(model, x, dtype)
    logits = np.concatenate([run_forward(steps, x[chunk]).logits for chunk in _chunks(len(x))])
    return [labels_of(model, scores, top) for scores in layers.softmax(logits)]


@dataclass(frozen=True, eq=False)
class Explanation:
    """What a decision was made of. Everything but the first six is computed when it is first asked for, with the same bits.

    Attributes
    ----------
    plan : Plan
        Which rule ran on which layer.
    x : ndarray [n, *input_shape]
    targets : ndarray [n] of int, or None
        The explained outputs; None: all of them at once.
    relevance : ndarray [n, *input_shape]
        Relevance of the input, in the units of the start (probability or logit).
    output, logits : ndarray [n, units]
        The model's output, and the same before its softmax.
    """

    plan: Plan
    x: np.ndarray = field(repr=False)
    targets: np.ndarray | None
    relevance: np.ndarray = field(repr=False)
    output: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)

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
        """Relevance at every layer's output by name, and of the ``"input"``, [n, *shape]."""
        return self._record[0]

    @property
    def ledger(self) -> Ledger:
        """Where the relevance went, layer by layer."""
        return self._record[1]

    def labels(self, top: int = 5) -> list[list[Label]]:
        """Return for each image its `top` outputs with the largest scores (of equal ones the first)."""
        return [labels_of(self.model, scores, top) for scores in self._probabilities]

    def target_labels(self) -> list[Label]:
        """Return for each image the label of the output that was explained, or of the largest one where all were."""
        scores = self._probabilities
        targets = np.argmax(self.logits, axis=-1) if self.targets is None else self.targets
        return [label_of(self.model, int(t), float(p[t])) for t, p in zip(targets, scores, strict=True)]

    @property
    def _probabilities(self) -> np.ndarray:
        return layers.softmax(self.logits)

    @cached_property
    def _record(self) -> tuple[Mapping[str, np.ndarray], Ledger]:
        plan, names = self.plan, ["input", *(step.name for step in self.plan.steps)]
        kept: list[list[np.ndarray]] = []
        books = []
        for chunk in _chunks(len(self.x)):
            at: dict[int, np.ndarray] = {}
            trace, _ = run(plan, self.x[chunk], None if self.targets is None else self.targets[chunk], at.__setitem__)
            kept.append([at[i] for i in range(-1, len(plan.steps))])
            books.append(
                [account(step, plan.rules[i], plan.parts[i], trace.activations[i], at[i], at[i - 1]) for i, step in enumerate(plan.steps)]
            )
        arrays = [np.concatenate(each) for each in zip(*kept, strict=True)]
        return MappingProxyType(dict(zip(names, arrays, strict=True))), Ledger.join(books)

    def __repr__(self) -> str:
        what = "all outputs" if self.targets is None else f"targets {self.targets.tolist()}"
        return f"Explanation({self.plan.composite.name} of {self.model.name}, {len(self.x)} images, {what}, {self.plan.dtype})"


def _explain_chunk(plan: Plan, x: np.ndarray, targets: np.ndarray | None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return (output, logits, relevance) of a few images."""
    trace, R = run(plan, x, targets)
    return trace.output, trace.logits, R


def _start(start: str, logits: np.ndarray, targets: np.ndarray | None) -> np.ndarray:
    """Return the relevance of the logits that the pass begins with."""
    values = layers.softmax(logits) if start == "softmax" else logits
    if targets is None and start == "softmax":
        return values
    chosen = np.argmax(logits, axis=-1) if targets is None else targets
    R = np.zeros_like(values)
    rows = np.arange(len(values))
    R[rows, chosen] = values[rows, chosen]
    return R


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
    for part in plan.parts[i]:
        inputs = [layers.changed_input(a, term.input) for term in part.terms]
        weights = [term.weight for term in part.terms]
        z = layers.forward(step, inputs, weights, part.bias)
        s = layers.divide(R, z, rule, part.weight)
        for values, what in ((z, "z"), (s, "s = R / z")):
            index = layers.first_nonfinite(values)
            if index is not None:
                R, d = R.reshape(z.shape), layers.denominator(z, rule)
                raise NumericsError(
                    f"layer {step.name!r}, rule {rule}: {what} is {values[index]} at {unit_name(index)} (R = {R[index]:g}, denominator "
                    f"{d[index]:g}); use a stabiliser with the sign of z, or a larger epsilon"
                )
    raise NumericsError(f"layer {step.name!r}, rule {rule}: its relevance overflows {plan.dtype}; use dtype='float64' or a larger epsilon")
