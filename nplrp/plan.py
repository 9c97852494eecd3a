"""From a model and a composite to the list of steps that run: batch norms merged, weights checked and converted, a rule for each step.

Batch normalisation is y = g x + h per channel, g = gamma / sqrt(variance + epsilon), h = beta - mean g. It is merged into the linear
layer before it when nothing lies between, else into the dense layer (or the convolution without padding) that follows; where neither is
exact it stays a linear step of its own, "scale". A merged batch norm passes relevance on as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.errors import ModelError, NumericsError, RuleError
from nplrp.model import Layer, Model, Window
from nplrp.rules import Part, Rule
from nplrp.rules.composites import PASSED, Composite, composite_named
from nplrp.rules.dialects import Dialect, dialect_named
from nplrp.step import Step
from nplrp.workspace import room_of

DTYPES = ("float32", "float64")
ALGORITHMS = ("auto", "direct")


@dataclass(frozen=True, eq=False)
class Plan:
    """Which rule with which constants runs on which step; prints itself.

    Attributes
    ----------
    model : Model
    composite : Composite
    dtype : numpy.dtype
    algorithm : str
    steps : tuple of Step
    rules : tuple of Rule
        One for each step.
    parts : tuple of tuple of Part
        For each step what its rule runs: the rule's parts, without the terms that vanish because the step's input can't be negative, and
        without parts for units that get no relevance.
    dialect : Dialect
    fusible : dict
        What `nplrp.fused` has found out about each step.
    """

    model: Model
    composite: Composite
    dtype: np.dtype
    algorithm: str
    steps: tuple[Step, ...]
    rules: tuple[Rule, ...]
    parts: tuple[tuple[Part, ...], ...]
    dialect: Dialect
    fusible: dict[int, tuple[Part, ...]] = field(default_factory=dict, init=False, repr=False)

    @property
    def start(self) -> str:
        """What the pass begins with, unless it is told otherwise."""
        return self.composite.start or self.dialect.start

    def __str__(self) -> str:
        rules = [str(rule) + ("" if self.dialect.knows(rule) else f"  (as in nplrp: {self.dialect.name} has none)") for rule in self.rules]
        if self.composite.gradient:
            rules = [self.composite.gradient] * len(self.steps)
        rows = [("layer", "kind", "rule")] + [(step.name, step.kind, rule) for step, rule in zip(self.steps, rules, strict=True)]
        first, second = (max(len(row[i]) for row in rows) for i in (0, 1))
        lines = [f"{a:<{first}}  {b:<{second}}  {c}" for a, b, c in rows]
        head = f"{self.composite.name} on {self.model.name}, {self.dtype}, start {self.start}, dialect {self.dialect.name}"
        return "\n".join([head, *lines])


def make_plan(
    model: Model,
    composite: str | Composite | Mapping[str, Any] = "notebook",
    dtype: Any = "float32",
    algorithm: str = "auto",
    dialect: str | Dialect | None = None,
) -> Plan:
    """Choose a rule for each layer of a model and prepare its weights.

    Parameters
    ----------
    model : Model
    composite : str, Composite or mapping
        A name, a name with parameters, a TOML file, or your own (see `nplrp.rules.composites.composite_named`).
    dtype : "float32" or "float64"
    algorithm : "auto" or "direct"
        ``"direct"``: every convolution by its definition, also where a faster algorithm would run.
    dialect : str, Dialect or None
        Whose switches to set (see `nplrp.rules.dialects`); None is the composite's own.

    Raises
    ------
    RuleError
        If the composite, dialect, dtype or algorithm is unknown, or a rule doesn't fit a layer.
    ModelError
        If the layers can't be explained as a chain.
    NumericsError
        If a weight is NaN or infinite.
    """
    composite = composite_named(composite)
    dtype = check_dtype(dtype)
    if algorithm not in ALGORITHMS:
        raise RuleError(f"there is no algorithm {algorithm!r}; expected one of {', '.join(ALGORITHMS)}")
    if dialect is not None:
        dialect = dialect_named(dialect)
        composite = dataclasses.replace(composite, start=None)  # a dialect that is asked for brings its start with it
    else:
        dialect = dialect_named(composite.dialect)
    key = ("plan", composite, dialect, dtype.name, algorithm)
    if key not in model._cache:
        steps = make_steps(model, dtype, algorithm, merge=True)
        rules = _rules(model, steps, composite, dialect)
        model._cache[key] = Plan(model, composite, dtype, algorithm, steps, rules, parts_below(steps, rules, len(steps)), dialect)
    plan: Plan = model._cache[key]
    return plan


def _rules(model: Model, steps: Sequence[Step], composite: Composite, dialect: Dialect) -> tuple[Rule, ...]:
    """Return every step's rule with all its switches and constants set."""
    if composite.gradient:
        return (Rule("pass"),) * len(steps)
    kinds = [(step.name, "input" if layer.kind == "input" else step.kind) for step, layer in zip(steps, model.layers, strict=True)]
    rules = [dialect.resolve(rule, step.kind) for rule, step in zip(composite.choose(kinds), steps, strict=True)]
    return tuple(_with_box(rule, step, model) if rule.name == "zbox" else rule for rule, step in zip(rules, steps, strict=True))


def _with_box(rule: Rule, step: Step, model: Model) -> Rule:
    """Return a zB rule with the ends of its box: those given, else those of the model's pixels (the widest where channels are others).

    Raises
    ------
    RuleError
        If given ends don't fit the layer's channels.
    """
    if rule.low is None or rule.high is None:
        low, high = pixel_bounds(model.preprocessing.mode)
        if len(low) != step.input_shape[-1] or step.input_shape != model.input_shape:
            low, high = (min(low),), (max(high),)
        return dataclasses.replace(rule, low=low if len(low) > 1 else low[0], high=high if len(high) > 1 else high[0])
    for end in ("low", "high"):
        value = getattr(rule, end)
        if isinstance(value, tuple) and len(value) not in (1, step.input_shape[-1]):
            raise RuleError(
                f"rule {rule} doesn't fit layer {step.name!r}: {end} has {len(value)} numbers, expected one for each of its "
                f"{step.input_shape[-1]} input channels, or one for all"
            )
    return rule


def pixel_bounds(mode: str) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the least and the largest value that a pixel has after preprocessing, channel by channel in the tensor's order.

    Examples
    --------
    >>> pixel_bounds("caffe")
    ((-103.939, -116.779, -123.68), (151.061, 138.221, 131.32))
    """
    mean, deviation = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
    if mode == "caffe":
        shift = (103.939, 116.779, 123.68)
        return tuple(-v for v in shift), tuple(255 - v for v in shift)
    if mode == "torch":
        return tuple(-m / d for m, d in zip(mean, deviation, strict=True)), tuple((1 - m) / d for m, d in zip(mean, deviation, strict=True))
    low, high = {"tf": (-1.0, 1.0), "unit": (0.0, 1.0)}.get(mode, (0.0, 255.0))
    return (low,) * 3, (high,) * 3


def parts_below(steps: Sequence[Step], rules: Sequence[Rule], top: int) -> tuple[tuple[Part, ...], ...]:
    """Return what each step's rule runs when relevance is given at the output of step `top` - 1.

    Dropped are terms with negative inputs where the step's input can't be negative, and parts for units with z < 0 where a ReLU follows
    and the rule above multiplies with its output, so that such units have no relevance. Neither changes a bit.
    """
    signs = _nonnegative_inputs(steps)
    full = [without_vanishing_terms(rule.parts) if sign else rule.parts for rule, sign in zip(rules, signs, strict=True)]
    return tuple(
        tuple(p for p in parts if not (p.units.endswith("<0") and step.activation == "relu" and _dead_get_nothing(steps, rules, i, top)))
        for i, (step, parts) in enumerate(zip(steps, full, strict=True))
    )


def _dead_get_nothing(steps: Sequence[Step], rules: Sequence[Rule], i: int, top: int) -> bool:
    """Tell whether the relevance of step i's output has a factor a from the rule above, so that it is 0 where a is."""
    for rule in rules[i + 1 : top]:
        if rule.name in ("pass", "winner", "winner_ties"):
            continue
        return all(term.input in ("a", "a+", "a-") for part in rule.parts for term in part.terms)
    return False


def _nonnegative_inputs(steps: Sequence[Step]) -> list[bool]:
    """Tell for each step whether its input can't be negative: there is a ReLU below, and nothing but pools and moves since."""
    signs, sign = [], False
    for step in steps:
        signs.append(sign)
        keeps = step.kind in (*PASSED, "maxpool", "avgpool")
        sign = step.activation in ("relu", "softmax") or (sign and keeps)
    return signs


def without_vanishing_terms(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return a rule's parts for an input that can't be negative: its positive part is itself, its negative part is 0."""
    return tuple(
        dataclasses.replace(
            part, terms=tuple(term._replace(input="a" if term.input == "a+" else term.input) for term in part.terms if term.input != "a-")
        )
        for part in parts
    )


def check_dtype(dtype: Any) -> np.dtype:
    """Return the dtype to compute in.

    Raises
    ------
    RuleError
        If it is not float32 or float64.
    """
    try:
        found = np.dtype(dtype)
    except TypeError:
        found = None
    if found is None or found.name not in DTYPES:
        raise RuleError(f"there is no dtype {dtype!r} to compute in; expected {' or '.join(DTYPES)}")
    return found


def make_steps(model: Model, dtype: np.dtype, algorithm: str, merge: bool) -> tuple[Step, ...]:
    """Return a model's layers as steps, with batch norms merged or (``merge=False``) each as a scale of its own."""
    key = ("steps", dtype.name, algorithm, merge and any(layer.kind == "batchnorm" for layer in model))
    if key not in model._cache:
        check_weights(model)
        steps = [_step(layer, algorithm) for layer in model.layers]
        _check_softmax(steps)
        if merge:
            _merge_batch_norms(steps)
        model._cache[key] = tuple(
            dataclasses.replace(step, weight=_cast(step.weight, dtype), bias=_cast(step.bias, dtype), room=room_of(model)) for step in steps
        )
    made: tuple[Step, ...] = model._cache[key]
    return made


def check_weights(model: Model) -> None:
    """Look for NaN and infinity in a model's weights, once for each model.

    Raises
    ------
    NumericsError
        Naming file, layer, array and index.
    """
    if model._cache.get("weights_checked"):
        return
    for layer in model:
        for key, array in layer.arrays.items():
            index = layers.first_nonfinite(array)
            if index is not None:
                raise NumericsError(
                    f"{model.source or model.name}: layer {layer.name!r}: {key}{list(index)} is {array[index]}; "
                    "weights must be finite: export the model again"
                )
    model._cache["weights_checked"] = True


def _cast(array: np.ndarray | None, dtype: np.dtype) -> np.ndarray | None:
    return None if array is None else np.require(array, dtype=dtype, requirements=["C", "A"])  # a file may hold it unaligned


_KINDS = {
    "conv": "conv",
    "dense": "dense",
    "maxpool": "maxpool",
    "avgpool": "avgpool",
    "global_maxpool": "maxpool",
    "global_avgpool": "avgpool",
    "flatten": "reshape",
    "batchnorm": "scale",
    "pad": "pad",
    "input": "identity",
    "activation": "identity",
    "identity": "identity",
}


def _step(layer: Layer, algorithm: str) -> Step:
    """Translate one layer; a batch norm becomes a scale."""
    window = layer.window
    if layer.kind.startswith("global_"):
        size = (layer.input_shape[0], layer.input_shape[1])
        window = Window(size=size, stride=size)
    weight, bias = layer.arrays.get("kernel"), layer.arrays.get("bias")
    if layer.kind == "batchnorm":
        weight, bias = _scale_of(layer)
    elif layer.kind in ("avgpool", "global_avgpool"):
        bias = np.zeros(layer.input_shape[-1])
    elif weight is not None and bias is None:
        bias = np.zeros(weight.shape[-1])
    return Step(
        name=layer.name,
        kind=_KINDS[layer.kind],
        input_shape=layer.input_shape,
        output_shape=layer.output_shape,
        activation=layer.activation,
        window=window,
        pads=layer.pads if layer.kind == "pad" else None,
        weight=weight,
        bias=bias,
        algorithm=algorithm,
    )


def _scale_of(layer: Layer) -> tuple[np.ndarray, np.ndarray]:
    """Return a batch norm's g and h, float64: y = g x + h."""
    arrays = {key: np.asarray(array, dtype=np.float64) for key, array in layer.arrays.items()}
    variance = arrays["variance"] + layer.epsilon
    if not np.all(variance > 0):
        worst = int(np.argmin(variance))
        raise NumericsError(
            f"layer {layer.name!r}: variance + epsilon is {variance[worst]:g} at channel {worst}; it must be > 0: export the model again"
        )
    g = arrays.get("gamma", 1.0) / np.sqrt(variance)
    h = arrays.get("beta", 0.0) - arrays["mean"] * g
    return np.asarray(g), np.asarray(h)


def _check_softmax(steps: Sequence[Step]) -> None:
    for i, step in enumerate(steps):
        if step.activation == "softmax" and (len(step.output_shape) != 1 or any(_computes(later) for later in steps[i + 1 :])):
            raise ModelError(
                f"layer {step.name!r} has a softmax of shape {step.output_shape} inside the network; LRP is defined up to the logits, "
                "so a softmax may only be the last thing that the model does, on a vector"
            )


def _computes(step: Step) -> bool:
    return step.kind != "identity" or step.activation != "linear"


def _merge_batch_norms(steps: list[Step]) -> None:
    """Merge every scale into a neighbour where that is exact, in float64; the step itself becomes an identity."""
    for i, step in enumerate(steps):
        if step.kind != "scale" or step.weight is None or step.bias is None:
            continue
        g, h = step.weight, step.bias
        before = next((j for j in range(i - 1, -1, -1) if _computes(steps[j])), None)
        after = next((j for j in range(i + 1, len(steps)) if _computes(steps[j]) and steps[j].kind != "reshape"), None)
        if before is not None and steps[before].kind in ("conv", "dense", "scale") and steps[before].activation == "linear":
            j, (w, b) = before, _float64(steps[before])
            merged = (w * g, b * g + h)
        elif after is not None and step.activation == "linear" and steps[after].kind == "dense":
            j, (w, b) = after, _float64(steps[after])
            repeat = w.shape[0] // g.size  # behind a flatten the channels come again for every pixel
            merged = (w * np.tile(g, repeat)[:, None], b + np.tile(h, repeat) @ w)
        elif (
            after is not None
            and step.activation == "linear"
            and steps[after].kind == "conv"
            and (not np.any(h) or not _padded(steps[after]))
        ):
            j, (w, b) = after, _float64(steps[after])
            merged = (w * g[:, None], b + np.einsum("ijkl,k->l", w, h))
        else:
            continue
        steps[j] = dataclasses.replace(steps[j], weight=merged[0], bias=merged[1])
        steps[i] = dataclasses.replace(step, kind="identity", weight=None, bias=None, merged=True)


def _padded(step: Step) -> bool:
    return step.window is None or any(step.window.pads(*step.input_shape[:2]))


def _float64(step: Step) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(step.weight, dtype=np.float64), np.asarray(step.bias, dtype=np.float64)


def unit_name(index: Sequence[int]) -> str:
    """Write a unit's place as the messages do: image, then row, column, channel or unit."""
    image, *rest = index
    return f"image {image}, unit {tuple(rest) if len(rest) > 1 else rest[0] if rest else 0}"
