"""Where relevance went, layer by layer.

For every layer and image the relevance that arrives at its output is split into what leaves at its input and what is absorbed:

    in + created = out + bias + epsilon + dropped + residual

Each term is a sum of its own: out = sum_j R_j; bias = sum_k s_k b_k; epsilon = sum_k s_k e_k with e_k what the stabiliser added, over
units with z_k != 0; dropped = what units with z_k = 0 got, which divide nothing (and what lies on padding, and what a mask takes away).
The parts of a rule are balanced each on its own, with their weights. Where the part with the weight -beta divides nothing, it takes nothing
away of the alpha R that the other part hands on: that is created. The residual is what is left: rounding, and nothing else.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp import layers
from nplrp.rules import Part, Rule

if TYPE_CHECKING:
    from nplrp.step import Step

TERMS = ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created")


class LedgerWarning(UserWarning):
    """A layer loses or creates more relevance than the pass began with."""


@dataclass(frozen=True, eq=False)
class Entry:
    """One layer's balance; every sum is [n], one for each image, float64, in the units of the start.

    Attributes
    ----------
    layer : str
    rule : str
    relevance_in : ndarray
        What arrived at the layer's output.
    relevance_out : ndarray
        What left at its input.
    bias, epsilon, dropped : ndarray
        What was absorbed by the bias, by the stabiliser, and at units that divide nothing.
    created : ndarray
        What came from nowhere: of units that have no contribution of the sign that a part with a negative weight (beta) takes away.
    magnitude : ndarray
        Sum of the absolute values of everything that was summed: what a residual is measured against.
    size_in : ndarray
        Sum of the absolute values of what arrived.
    """

    layer: str
    rule: str
    relevance_in: np.ndarray
    relevance_out: np.ndarray
    bias: np.ndarray
    epsilon: np.ndarray
    dropped: np.ndarray
    created: np.ndarray
    magnitude: np.ndarray
    size_in: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """What the terms leave unexplained: rounding."""
        return self.relevance_in - self.relevance_out - self.bias - self.epsilon - self.dropped + self.created


_SUMS = (*TERMS, "magnitude", "size_in")


@dataclass(frozen=True, eq=False)
class Ledger:
    """The balances of all layers, from the output down to the input; prints itself as a table of sums over the images.

    Attributes
    ----------
    entries : tuple of Entry
    """

    entries: tuple[Entry, ...]

    @classmethod
    def join(cls, books: Sequence[Sequence[Entry]]) -> Ledger:
        """Join the entries of chunks of images, each in forward order."""
        joined = [
            Entry(same[0].layer, same[0].rule, *(np.concatenate([getattr(entry, term) for entry in same]) for term in _SUMS))
            for same in zip(*books, strict=True)
        ]
        return cls(tuple(reversed(joined)))

    def __getitem__(self, layer: str) -> Entry:
        for entry in self.entries:
            if entry.layer == layer:
                return entry
        raise KeyError(f"the ledger has no layer {layer!r}; it has {', '.join(entry.layer for entry in self.entries)}")

    def __len__(self) -> int:
        return len(self.entries)

    def image(self, i: int) -> Ledger:
        """Return the ledger of one image, or of one map where images have several."""
        return self.take(np.arange(i, i + 1))

    def take(self, maps: np.ndarray) -> Ledger:
        """Return the ledger of some maps, in the order given."""
        return Ledger(tuple(Entry(e.layer, e.rule, *(getattr(e, term)[maps] for term in _SUMS)) for e in self.entries))

    @property
    def start(self) -> np.ndarray:
        """Relevance that the pass began with, [n]."""
        return self.entries[0].relevance_in

    @property
    def end(self) -> np.ndarray:
        """Relevance that arrived at the model's input, [n]."""
        return self.entries[-1].relevance_out

    def alarms(self) -> list[str]:
        """Return a sentence for every layer that loses or creates more than the pass began with, in absolute values, in some image."""
        sentences = []
        for e in self.entries:
            start = self.entries[0].size_in
            lost = np.abs(e.bias + e.epsilon + e.dropped)
            for what, amount, where in (
                ("loses", lost, f"bias {_largest(e.bias)}, stabiliser {_largest(e.epsilon)}, zero denominators {_largest(e.dropped)}"),
                ("creates", np.abs(e.created), "beta at units without negative contributions"),
            ):
                if np.any(amount > start):
                    i = int(np.argmax(amount - start))
                    sentences.append(
                        f"layer {e.layer!r}, rule {e.rule}: {what} {amount[i]:.4g} at image {i}, more than the {start[i]:.4g} that the "
                        f"pass began with ({where}); consider a rule without bias or with a larger epsilon"
                    )
        return sentences

    def warn(self) -> None:
        """Issue a `LedgerWarning` that names the layers in `alarms`, if there are any."""
        alarms = self.alarms()
        if alarms:
            more = f" (and {len(alarms) - 3} more layers)" if len(alarms) > 3 else ""
            warnings.warn("; ".join(alarms[:3]) + more, LedgerWarning, stacklevel=3)

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the sums over the images as JSON values, one dict for each layer."""
        return [
            {"layer": e.layer, "rule": e.rule, **{term: float(getattr(e, term).sum()) for term in (*TERMS, "residual")}}
            for e in self.entries
        ]

    def __str__(self) -> str:
        head = ("layer", "relevance in", "out", "bias", "epsilon", "dropped", "created", "residual", "rule")
        rows: list[tuple[str, ...]] = [head]
        for e in self.entries:
            sums = [float(getattr(e, term).sum()) for term in TERMS] + [float(e.residual.sum())]
            rows.append((e.layer, *(_number(v) for v in sums), e.rule))
        totals = [float(self.start.sum()), float(self.end.sum())]
        totals += [
            float(sum(getattr(e, term).sum() for e in self.entries)) for term in ("bias", "epsilon", "dropped", "created", "residual")
        ]
        rows.append(("total", *(_number(v) for v in totals), ""))
        widths = [max(len(row[i]) for row in rows) for i in range(len(head))]
        lines = [
            "  ".join(
                [f"{row[0]:<{widths[0]}}", *(f"{cell:>{w}}" for cell, w in zip(row[1:-1], widths[1:-1], strict=True)), row[-1]]
            ).rstrip()
            for row in rows
        ]
        images = len(self.start)
        note = [f"sums over {images} images"] if images != 1 else []
        return "\n".join([*lines, *note])


def account(
    step: Step,
    rule: Rule,
    parts: Sequence[Part],
    a: np.ndarray,
    R_above: np.ndarray,
    R_below: np.ndarray,
    masked: np.ndarray | None = None,
) -> Entry:
    """Balance one step.

    Parameters
    ----------
    step, rule, parts
        The step, its rule, and the rule's parts as the plan runs them.
    a : ndarray [n, *input_shape]
        The step's input.
    R_above : ndarray [n, *output_shape]
        Relevance of its output.
    R_below : ndarray [n, *input_shape]
        Relevance of its input, as the pass computed it.
    masked : ndarray [n, *output_shape] or None
        Relevance of its output that a mask took away before the step.
    """
    arrived, left, size = layers.sums(R_above), layers.sums(R_below), layers.sums(np.abs(R_above))
    bias, epsilon, dropped, created = (np.zeros_like(arrived) for _ in range(4))
    magnitude = size + layers.sums(np.abs(R_below))
    if masked is not None:
        taken = layers.sums(masked)
        arrived, dropped, magnitude = arrived + taken, dropped + taken, magnitude + layers.sums(np.abs(masked))
    if step.kind == "pad":
        inside = np.zeros((1, *step.output_shape), bool)
        inside |= layers.reshape(step, np.ones((1, *step.input_shape), bool))
        dropped += layers.sums(np.where(inside, 0, R_above))
    linear = layers.linear_step(step, rule)
    if any(part.units for part in parts):  # units with z = 0 belong to no part
        dropped += layers.sums(R_above) - sum(layers.sums(layers.relevance_of_units(R_above, linear, a, part.units)) for part in parts)
    for part in parts:
        R = layers.relevance_of_units(R_above, linear, a, part.units)
        z = layers.forward(linear, layers.changed_inputs(a, rule, part), [term.weight for term in part.terms], part.bias)
        d = layers.denominator(z, rule)
        s = layers.divide(R, z, rule, part.weight)
        added = s * (d - z)
        by_bias = s * layers.changed_bias(linear, part.bias) if linear.bias is not None else np.zeros_like(s)
        nothing = np.where(z == 0, added, 0) + np.where(d == 0, z.dtype.type(part.weight) * R.reshape(z.shape), 0)
        bias += layers.sums(by_bias)
        epsilon += layers.sums(np.where(z == 0, 0, added))
        if part.weight < 0:
            created -= layers.sums(nothing)
        else:
            dropped += layers.sums(nothing)
        magnitude += layers.sums(np.abs(by_bias)) + layers.sums(np.abs(added)) + layers.sums(np.abs(nothing))
    return Entry(step.name, str(rule), arrived, left, bias, epsilon, dropped, created, magnitude, size)


def _largest(values: np.ndarray) -> str:
    return f"{values[np.argmax(np.abs(values))]:.3g}"


def _number(value: float) -> str:
    return f"{value:.6g}"
