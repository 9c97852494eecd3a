"""Known deviations of one layer's backward step: the seeded faults, and what dialects do otherwise.

The faults have the numbers of the list in docs/golden.md. A deviation that can't show in a layer (there is no epsilon, no bias, no tie)
returns None.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.golden.forward_faults import coarse, flattens
from nplrp.layers import Step, operation
from nplrp.lrp import four_lines, step_back
from nplrp.plan import Plan
from nplrp.rules import RULES, STABILISERS, Change, Clamp, Part, Rule
from nplrp.rules.composites import STARTS
from nplrp.rules.dialects import DIALECTS, OWN
from nplrp.rules.recorded import bare
from nplrp.scores import Scoring
from nplrp.trace import Trace


@dataclass(frozen=True, eq=False)
class Place:
    """A backward step to be run otherwise; relevance that it gives is that of what it works on.

    Attributes
    ----------
    plan : Plan
    trace : Trace
    i : int
        The step.
    R : ndarray [n, *output_shape]
        Relevance of its output, in the plan's dtype.
    """

    plan: Plan
    trace: Trace
    i: int
    R: np.ndarray

    @property
    def step(self) -> Step:
        """The step as it should be."""
        return self.plan.steps[self.i]

    @property
    def rule(self) -> Rule:
        """Its rule as it should be."""
        return self.plan.rules[self.i]

    @property
    def a(self) -> np.ndarray:
        """What it works on."""
        return layers.gather(self.step, self.trace.activations)

    @property
    def decided(self) -> bool:
        """Whether its outputs are numbers that it sees, and its rule asks which."""
        return operation(self.step).choice is not None and not self.rule.averages

    @property
    def matrix(self) -> np.ndarray | None:
        """Its weights, where it multiplies with a matrix of them, or with a window of matrices; else None."""
        weight = self.step.weight
        return layers.wide(self.step) if weight is not None and layers.is_linear(self.step) and weight.ndim in (2, 4) else None

    @property
    def kernel(self) -> np.ndarray | None:
        """Its weights, where these are a window of more than one place; else None."""
        weight = self.matrix
        return weight if weight is not None and weight.ndim == 4 and weight.shape[:2] != (1, 1) else None

    @property
    def parts(self) -> tuple[Part, ...]:
        """What its rule runs."""
        return self.plan.parts[self.i]

    def run(self, step: Step | None = None, rule: Rule | None = None, parts: tuple[Part, ...] | None = None) -> np.ndarray:
        """Run the step, perhaps with another step, rule, or parts of the rule."""
        at = self.changed(step, rule, parts)
        return step_back(at.plan, at.trace, at.i, at.R)

    def changed(self, step: Step | None = None, rule: Rule | None = None, parts: tuple[Part, ...] | None = None) -> Place:
        """Return the same with another step, rule, or parts of the rule."""
        rule = rule or self.rule
        if parts is None:
            parts = self.plan.parts[self.i] if rule == self.rule else rule.parts

        def put(row: tuple[Any, ...], value: Any) -> tuple[Any, ...]:
            return (*row[: self.i], value, *row[self.i + 1 :])

        p = self.plan
        plan = dataclasses.replace(p, steps=put(p.steps, step or self.step), rules=put(p.rules, rule), parts=put(p.parts, parts))
        return dataclasses.replace(self, plan=plan)


Deviation = Callable[[Place], np.ndarray | None]


@dataclass(frozen=True)
class Fault:
    """A seeded fault.

    Attributes
    ----------
    number : int
        In the list of docs/golden.md.
    name : str
    run : callable
        From a `Place` to the relevance of the step's input, or None if it can't show there.
    """

    number: int
    name: str
    run: Deviation


def _other_sign(at: Place) -> np.ndarray | None:
    other = {"sign": "plus", "plus": "sign"}.get(str(at.rule.stabiliser))
    return at.run(rule=dataclasses.replace(at.rule, stabiliser=other)) if other and at.rule.epsilon else None


def _ten_epsilons(at: Place) -> np.ndarray | None:
    return at.run(rule=dataclasses.replace(at.rule, epsilon=10 * at.rule.epsilon)) if at.rule.epsilon else None


def _no_bias(at: Place) -> np.ndarray | None:
    takes = "bias" in at.rule.row.parameters and at.rule.bias != "none"
    return at.run(rule=dataclasses.replace(at.rule, bias="none")) if takes and _has_bias(at) else None


def _bias_twice(at: Place) -> np.ndarray | None:
    if not _has_bias(at) or at.rule.bias in (None, "none"):
        return None
    assert at.step.bias is not None
    return at.run(step=dataclasses.replace(at.step, bias=2 * at.step.bias, prepared={}))


def _other_weights(at: Place) -> np.ndarray | None:
    def turned(change: Change) -> Change:
        return Clamp(change.negative, change.positive) if isinstance(change, Clamp) else change

    parts = at.plan.parts[at.i]
    if at.rule.row.boxed or all(term.weight == turned(term.weight) for part in parts for term in part.terms):
        return None
    new = tuple(dataclasses.replace(part, terms=tuple(t._replace(weight=turned(t.weight)) for t in part.terms)) for part in parts)
    return at.run(parts=new)


def _rgb(at: Place) -> np.ndarray | None:
    weight, (source, *others) = at.matrix, at.step.inputs
    if weight is None or weight.ndim != 4 or others or at.step.input_shape != at.plan.model.input_shape or at.a.shape[-1] != 3:
        return None
    activations = list(at.trace.activations)
    activations[source + 1] = np.ascontiguousarray(at.a[..., ::-1])
    trace = dataclasses.replace(at.trace, activations=tuple(activations))
    return dataclasses.replace(at, trace=trace).run()


def _channels_first(at: Place) -> np.ndarray | None:
    if not flattens(at.step):
        return None
    height, width, channels = at.step.input_shape
    return np.ascontiguousarray(at.R.reshape(-1, channels, height, width).transpose(0, 2, 3, 1))


def _not_flipped(at: Place) -> np.ndarray | None:
    if at.kernel is None:
        return None
    flipped = dataclasses.replace(at.step, weight=np.ascontiguousarray(at.kernel[::-1, ::-1]), prepared={})
    return redistributed(at, lambda s, changes: layers.transpose(flipped, s, changes))


def _shifted(at: Place) -> np.ndarray | None:
    if at.kernel is None:
        return None

    def shift(c: np.ndarray) -> np.ndarray:
        moved = np.zeros_like(c)
        moved[:, 1:, 1:] = c[:, :-1, :-1]
        return moved

    return redistributed(at, lambda s, changes: [shift(c) for c in layers.transpose(at.step, s, changes)])


def _last_winner(at: Place) -> np.ndarray | None:
    choice = operation(at.step).choice
    if choice is None or not at.decided:
        return None
    places = choice.places(at.step, at.a)
    last = places.shape[-1] - 1 - np.argmax(places[..., ::-1], axis=-1)
    shares = choice.held(at.step, (np.arange(places.shape[-1]) == last[..., None]).astype(at.a.dtype))
    return redistributed(at, lambda s, changes: layers.transpose(at.step, s, changes, shares))


def _average(at: Place) -> np.ndarray | None:
    return at.run(rule=Rule("average").resolved()) if at.decided else None


def _swapped_box(at: Place) -> np.ndarray | None:
    if not at.rule.row.boxed:
        return None
    other = {"low": "high", "high": "low"}
    parts = tuple(
        dataclasses.replace(part, terms=tuple(t._replace(input=other.get(t.input, t.input)) for t in part.terms))
        for part in at.plan.parts[at.i]
    )
    return at.run(parts=parts)


def _half(at: Place) -> np.ndarray | None:
    """Sum in float16, one term after the other, with inputs scaled to its range."""
    if at.matrix is None or at.step.options.get("turned") or any(part.units for part in at.plan.parts[at.i]):
        return None
    step, rule, total = at.step, at.rule, np.zeros(at.a.shape)
    for part in at.plan.parts[at.i]:
        inputs = layers.changed_inputs(at.a, rule, part)
        weights = [layers.change_weight(step.weight, term.weight) for term in part.terms]
        b = layers.changed_bias(step, part.bias)
        z = sum(_half_sum(step, a, w) for a, w in zip(inputs, weights, strict=True)) + b
        s = layers.divide(at.R, np.ascontiguousarray(z, at.a.dtype), rule, part.weight)
        total += sum(a * _half_transposed(step, s, w) for a, w in zip(inputs, weights, strict=True))
    return total.astype(at.a.dtype)


FAULTS = (
    Fault(1, "sign of epsilon at z < 0", _other_sign),
    Fault(2, "epsilon x 10", _ten_epsilons),
    Fault(3, "bias left out of z", _no_bias),
    Fault(4, "bias counted twice", _bias_twice),
    Fault(5, "w+ where w- belongs", _other_weights),
    Fault(6, "channels RGB for BGR", _rgb),
    Fault(7, "flatten CHW for HWC", _channels_first),
    Fault(8, "kernel not flipped in the transposed convolution", _not_flipped),
    Fault(9, "padding off by one", _shifted),
    Fault(10, "pool tie to the last instead of the first", _last_winner),
    Fault(12, "average instead of winner pooling", _average),
    Fault(13, "zB bounds swapped", _swapped_box),
    Fault(14, "float16 accumulation", _half),
)

#: The fault that isn't in a layer but at the top.
SOFTMAX_START = 11


def too_slow(fault: Fault, at: Place) -> bool:
    """Tell whether a fault would take minutes: float16 sums one after the other in NumPy."""
    return fault.run is _half and at.a.size * at.step.output_shape[-1] > 1 << 24


def dialect_switches(at: Place) -> Iterator[tuple[str, Rule]]:
    """Return a step's rule under every switch, as every known system has it, and every other rule."""
    rule, takes, family = at.rule, at.rule.row.parameters, operation(at.step).family
    tried = [rule]

    def attempt(name: str, other: Rule) -> Iterator[tuple[str, Rule]]:
        if other not in tried and family in other.fits:
            tried.append(other)
            yield name, other

    if "bias" in takes:
        for bias in rule.row.biases:
            yield from attempt(f"bias={bias} in the denominators", dataclasses.replace(rule, bias=bias))
    if "split" in takes:
        yield from attempt("weights told by sign, not contributions (split)", dataclasses.replace(rule, split=not rule.split))
    for dialect in DIALECTS.values():
        for asked in ([None] if family in OWN else []) + [bare(rule)]:
            yield from attempt(f"as {dialect.name} has it", dialect.resolve(asked, family))
    if "stabiliser" in takes:
        for stabiliser in STABILISERS:
            yield from attempt(f"stabiliser {stabiliser}: {STABILISERS[stabiliser]}", dataclasses.replace(rule, stabiliser=stabiliser))
    if "epsilon" in takes:
        for epsilon in (0.25, 0.1, 1e-2, 1e-3, 1e-4, 1e-5, 1e-6, 1e-7, 1e-9, 0.0):
            yield from attempt(f"epsilon={epsilon:g}", dataclasses.replace(rule, epsilon=epsilon))
    for name, row in sorted(RULES.items(), key=lambda item: item[0] == "zero"):  # the epsilon rule without one comes last
        if not row.boxed:
            other = Rule(name).resolved()
            if "epsilon" in row.parameters and rule.epsilon is not None:
                same = Rule(name, epsilon=rule.epsilon, stabiliser=rule.stabiliser).resolved()
                yield from attempt(f"another rule: {name}", same)
                other = same
            yield from attempt(f"another rule: {name}", Rule(name).resolved())
            for bias in row.biases if "bias" in row.parameters and _has_bias(at) else ():
                yield from attempt(f"another rule: {name}, bias={bias}", dataclasses.replace(other, bias=bias))


def other_starts(
    scoring: Scoring, start: str, logits: np.ndarray, output: np.ndarray, chosen: np.ndarray | None
) -> Iterator[tuple[str, np.ndarray]]:
    """Return what a pass would begin with under every other start."""
    for other in STARTS:
        for targets, what in ((chosen, ""), (None, ", all outputs")):
            if other != start or targets is not chosen:
                yield f"start {other}{what}", scoring.begin(other, logits, output, targets)


def redistributed(at: Place, transpose: Callable[[np.ndarray, Sequence[Change]], list[np.ndarray]]) -> np.ndarray:
    """Run the four lines with another line 3."""
    total = np.zeros_like(at.a)
    for part, _, lines in four_lines(at.plan, at.trace, at.i, at.R):
        inputs, changes = layers.changed_inputs(at.a, at.rule, part), [term.weight for term in part.terms]
        total += layers.multiply(inputs, transpose(lines.s, changes))
    return total


def in_format(at: Place, bits: int) -> np.ndarray:
    """Run the four lines with what enters each product rounded to so many bits."""
    assert at.matrix is not None
    step, rule = dataclasses.replace(at.step, weight=coarse(at.matrix, bits).astype(at.a.dtype), prepared={}), at.rule
    total = np.zeros_like(at.a)
    for part, of_units, _ in four_lines(at.plan, at.trace, at.i, at.R):
        inputs, changes = layers.changed_inputs(at.a, rule, part), [term.weight for term in part.terms]
        z = layers.forward(step, [coarse(a, bits).astype(at.a.dtype) for a in inputs], changes, part.bias)
        s = coarse(layers.divide(of_units, z, rule, part.weight), bits).astype(at.a.dtype)
        total += layers.multiply(inputs, layers.transpose(step, s, changes))
    return total


def _has_bias(at: Place) -> bool:
    return at.step.bias is not None and bool(np.any(at.step.bias))


def _scaled(values: np.ndarray) -> tuple[np.ndarray, float]:
    largest = float(np.max(np.abs(values), initial=0.0)) or 1.0
    return (values / largest).astype(np.float16), largest


def _half_sum(step: Step, a: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return sum a w, each partial sum rounded to float16."""
    (a, size_a), (w, size_w) = _scaled(a), _scaled(w)
    total = np.zeros((len(a), *step.output_shape), np.float16)
    if w.ndim == 2:
        for j in range(a.shape[-1]):
            total += a[..., j, None] * w[j]
    else:
        first = _first_channels(step, w)  # of each filter's group
        for i, j, taps in _tap_views(step, a, w.shape[:2]):
            for c in range(w.shape[2]):
                total += taps[..., first + c] * w[i, j, c]
    return total.astype(np.float64) * (size_a * size_w)


def _half_transposed(step: Step, s: np.ndarray, w: np.ndarray) -> np.ndarray:
    (s, size_s), (w, size_w) = _scaled(s), _scaled(w)
    total = np.zeros((len(s), *step.input_shape), np.float16)
    if w.ndim == 2:
        for k in range(s.shape[-1]):
            total += s[..., k, None] * w[:, k]
        return total.astype(np.float64) * (size_s * size_w)
    window = step.window
    assert window is not None
    top, bottom, left, right = window.pads(*step.input_shape[:2])
    height, width = step.input_shape[:2]
    padded = np.zeros((len(s), height + top + bottom, width + left + right, step.input_shape[2]), np.float16)
    first, several = _first_channels(step, w), w.shape[2]
    for i, j, view in _tap_views(step, padded, w.shape[:2], padded=True):
        for k, c in enumerate(first.tolist()):
            view[..., c : c + several] += s[..., k, None] * w[i, j, :, k]
    return padded[:, top : top + height, left : left + width].astype(np.float64) * (size_s * size_w)


def _first_channels(step: Step, w: np.ndarray) -> np.ndarray:
    """Return for each filter the first input channel of its group."""
    groups = step.input_shape[2] // w.shape[2]
    return np.arange(w.shape[3]) // (w.shape[3] // groups) * w.shape[2]


def _tap_views(step: Step, a: np.ndarray, size: tuple[int, ...], padded: bool = False) -> Iterator[tuple[int, int, np.ndarray]]:
    """Return for each place in a convolution's kernel what it sees, [n, ho, wo, cin]."""
    window = step.window
    assert window is not None
    top, bottom, left, right = window.pads(*step.input_shape[:2])
    if not padded:
        a = np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = step.output_shape[:2]
    for i in range(size[0]):
        for j in range(size[1]):
            y, x = i * window.dilation[0], j * window.dilation[1]
            down, across = window.stride
            yield i, j, a[:, y : y + (rows - 1) * down + 1 : down, x : x + (columns - 1) * across + 1 : across]
