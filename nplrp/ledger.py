"""Where relevance went, layer by layer.

For every layer and image the relevance that arrives at its output is split into what leaves at its input and what is absorbed:

    in = out + bias + epsilon + dropped + residual

Each term is a sum of its own: out = sum_j R_j; bias = sum_k s_k b_k; epsilon = sum_k s_k e_k with e_k what the stabiliser added, over
units with z_k != 0; dropped = what units with z_k = 0 got, which divide nothing (and what lies on padding). The residual is what is left:
rounding, and nothing else.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp import layers
from nplrp.rules import Part, Rule

if TYPE_CHECKING:
    from nplrp.step import Step

TERMS = ("relevance_in", "relevance_out", "bias", "epsilon", "dropped")


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
    """

    layer: str
    rule: str
    relevance_in: np.ndarray
    relevance_out: np.ndarray
    bias: np.ndarray
    epsilon: np.ndarray
    dropped: np.ndarray

    @property
    def residual(self) -> np.ndarray:
        """What the terms leave unexplained: rounding."""
        return self.relevance_in - self.relevance_out - self.bias - self.epsilon - self.dropped

    @property
    def magnitude(self) -> np.ndarray:
        """Sum of the terms' absolute values: what a residual is measured against."""
        return np.sum([np.abs(getattr(self, term)) for term in TERMS], axis=0)


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
            Entry(same[0].layer, same[0].rule, *(np.concatenate([getattr(entry, term) for entry in same]) for term in TERMS))
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
        """Return the ledger of one image."""
        return Ledger(tuple(Entry(e.layer, e.rule, *(getattr(e, term)[i : i + 1] for term in TERMS)) for e in self.entries))

    @property
    def start(self) -> np.ndarray:
        """Relevance that the pass began with, [n]."""
        return self.entries[0].relevance_in

    @property
    def end(self) -> np.ndarray:
        """Relevance that arrived at the model's input, [n]."""
        return self.entries[-1].relevance_out

    def as_rows(self) -> list[dict[str, Any]]:
        """Return the sums over the images as JSON values, one dict for each layer."""
        return [
            {"layer": e.layer, "rule": e.rule, **{term: float(getattr(e, term).sum()) for term in (*TERMS, "residual")}}
            for e in self.entries
        ]

    def __str__(self) -> str:
        head = ("layer", "relevance in", "out", "bias", "epsilon", "dropped", "residual", "rule")
        rows: list[tuple[str, ...]] = [head]
        for e in self.entries:
            sums = [float(getattr(e, term).sum()) for term in TERMS] + [float(e.residual.sum())]
            rows.append((e.layer, *(_number(v) for v in sums), e.rule))
        totals = [float(self.start.sum()), float(self.end.sum())]
        totals += [float(sum(getattr(e, term).sum() for e in self.entries)) for term in ("bias", "epsilon", "dropped", "residual")]
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


def account(step: Step, rule: Rule, parts: Sequence[Part], a: np.ndarray, R_above: np.ndarray, R_below: np.ndarray) -> Entry:
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
    """
    arrived, left = layers.sums(R_above), layers.sums(R_below)
    bias, epsilon, dropped = np.zeros_like(arrived), np.zeros_like(arrived), np.zeros_like(arrived)
    if step.kind == "pad":
        inside = np.zeros((1, *step.output_shape), bool)
        inside |= layers.reshape(step, np.ones((1, *step.input_shape), bool))
        dropped += layers.sums(np.where(inside, 0, R_above))
    for part in parts:
        inputs = [layers.changed_input(a, term.input) for term in part.terms]
        z = layers.forward(step, inputs, [term.weight for term in part.terms], part.bias)
        d = layers.denominator(z, rule)
        s = layers.divide(R_above, z, rule, part.weight)
        added = s * (d - z)
        bias += layers.sums(s * layers.changed_bias(step, part.bias)) if step.bias is not None else 0
        epsilon += layers.sums(np.where(z == 0, 0, added))
        undivided = np.where(d == 0, z.dtype.type(part.weight) * R_above.reshape(z.shape), 0)
        dropped += layers.sums(np.where(z == 0, added, 0)) + layers.sums(undivided)
    return Entry(step.name, str(rule), arrived, left, bias, epsilon, dropped)


def _number(value: float) -> str:
    return f"{value:.6g}"
