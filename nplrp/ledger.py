"""Where relevance went, layer by layer.

For every layer and image the relevance that arrives at its output is split into what leaves at its input and what is absorbed:

    in + created = out + bias + epsilon + dropped + residual

Each term is a sum of its own: out = sum_j R_j; bias = sum_k s_k b_k; epsilon = sum_k s_k e_k with e_k what the stabiliser added, over
units with z_k != 0; dropped = what units with z_k = 0 got, which divide nothing (and what lies on padding, and what a mask takes away).
The parts of a rule are balanced each on its own, with their weights. Where the part with the weight -beta divides nothing, it takes nothing
away of the alpha R that the other part hands on: that is created. The residual is what is left: rounding, and nothing else.
What leaves is also told edge by edge, for every input; what arrives at an output is the sum over the edges that read it.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp import layers
from nplrp.errors import LayerError, OutputError, nearest
from nplrp.fused import fusions
from nplrp.gradients import behind_activation
from nplrp.lrp import as_linear, step_back
from nplrp.plan import Plan
from nplrp.rules import Part
from nplrp.span import INPUT, Span
from nplrp.trace import Trace

if TYPE_CHECKING:
    import pandas

TERMS = ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created")


#: What overflows is told by `Ledger.alarms`; NumPy's warnings would tell nobody what it means.
_OVERFLOWING = np.errstate(over="ignore", invalid="ignore")


@_OVERFLOWING
def total(values: np.ndarray) -> float | None:
    """Return a sum in float64 as a JSON value: None where it overflows, since JSON has no infinity."""
    found = float(np.sum(values, dtype=np.float64))
    return found if math.isfinite(found) else None


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
    edges : mapping of str to ndarray
        What left at each input, by the name of the layer that it reads.
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
    edges: Mapping[str, np.ndarray] = field(default_factory=dict)

    @property
    @_OVERFLOWING
    def residual(self) -> np.ndarray:
        """What the terms leave unexplained: rounding."""
        return self.relevance_in - self.relevance_out - self.bias - self.epsilon - self.dropped + self.created


#: What an entry has for every map.
SUMS = (*TERMS, "magnitude", "size_in")


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
            Entry(
                same[0].layer,
                same[0].rule,
                **{term: np.concatenate([getattr(entry, term) for entry in same]) for term in SUMS},
                edges={name: np.concatenate([entry.edges[name] for entry in same]) for name in same[0].edges},
            )
            for same in zip(*books, strict=True)
        ]
        return cls(tuple(reversed(joined)))

    def __getitem__(self, layer: str) -> Entry:
        for entry in self.entries:
            if entry.layer == layer:
                return entry
        raise LayerError(f"the ledger has no layer {layer!r}; {nearest(layer, (entry.layer for entry in self.entries))}")

    def __len__(self) -> int:
        return len(self.entries)

    def image(self, i: int) -> Ledger:
        """Return the ledger of one image, or of one map where images have several."""
        return self.take(np.arange(i, i + 1))

    def take(self, maps: np.ndarray) -> Ledger:
        """Return the ledger of some maps, in the order given."""
        return Ledger(
            tuple(
                replace(e, **{term: getattr(e, term)[maps] for term in SUMS}, edges={name: edge[maps] for name, edge in e.edges.items()})
                for e in self.entries
            )
        )

    @property
    def start(self) -> np.ndarray:
        """Relevance that the pass began with, [n]."""
        return self.entries[0].relevance_in

    @property
    def end(self) -> np.ndarray:
        """Relevance that arrived where the pass ended, mostly the model's input, [n]: the sum over all that read it."""
        layers = {e.layer for e in self.entries}
        found = [edge for e in reversed(self.entries) for name, edge in e.edges.items() if name not in layers]
        return sum(found[1:], found[0])

    @_OVERFLOWING
    def alarms(self) -> list[str]:
        """Return a sentence for every layer that loses or creates more than the pass began with, in absolute values, in some image."""
        sentences = []
        for e in self.entries if len(self.start) else ():
            start = self.entries[0].size_in
            lost = np.abs(e.bias + e.epsilon + e.dropped)
            for what, amount, where in (
                ("loses", lost, f"bias {_largest(e.bias)}, stabiliser {_largest(e.epsilon)}, zero denominators {_largest(e.dropped)}"),
                ("creates", np.abs(e.created), "beta at units without negative contributions"),
            ):
                too_much = ~(amount <= start)  # also what overflows
                if too_much.any():
                    i = int(np.argmax(np.where(too_much, amount - start, -np.inf)))
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
        """Return the sums over the images as JSON values, one dict for each layer; ``edges``: what left at each input.

        None stands where a sum overflows.
        """
        rows: list[dict[str, Any]] = []
        for e in self.entries:
            sums = {term: total(getattr(e, term)) for term in (*TERMS, "residual")}
            edges = {name: total(edge) for name, edge in e.edges.items()}
            rows.append({"layer": e.layer, "rule": e.rule, **sums, "edges": edges})
        return rows

    @_OVERFLOWING
    def to_frame(self, maps: bool = False) -> pandas.DataFrame:
        """Return it as a table of pandas.

        Parameters
        ----------
        maps : bool
            A row for each map and layer, indexed by both, instead of sums over the maps, indexed by layer.

        Returns
        -------
        pandas.DataFrame
            Columns "rule", "relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created", "residual".

        Raises
        ------
        OutputError
            If pandas isn't installed.
        """
        try:
            import pandas
        except ImportError:
            raise OutputError(
                "a ledger as a frame needs pandas, which isn't installed: pip install pandas; as_rows() does without"
            ) from None
        terms = (*TERMS, "residual")
        if not maps:
            columns: dict[str, Any] = {term: [float(getattr(e, term).sum()) for e in self.entries] for term in terms}
            index = pandas.Index([e.layer for e in self.entries], name="layer")
            return pandas.DataFrame({"rule": [e.rule for e in self.entries]} | columns, index=index)
        count = len(self.start) if self.entries else 0
        names = pandas.MultiIndex.from_product([range(count), [e.layer for e in self.entries]], names=["map", "layer"])
        columns = {term: [float(getattr(e, term)[m]) for m in range(count) for e in self.entries] for term in terms}
        return pandas.DataFrame({"rule": [e.rule for e in self.entries] * count} | columns, index=names)

    @_OVERFLOWING
    def __repr__(self) -> str:
        if not self.entries:
            return "Ledger(no layers)"
        came, left = float(self.start.sum()), float(self.end.sum())
        return f"Ledger({len(self.entries)} layers, {len(self.start)} maps, began with {came:.4g}, {left:.4g} arrived)"

    @_OVERFLOWING
    def _repr_html_(self) -> str:
        from nplrp.tables import bar, table

        if not self.entries:
            return table(("layer",), (), "no layers: a gradient conserves nothing")
        head = ("layer", "relevance in", "out", "", "absorbed", "", "bias", "epsilon", "dropped", "created", "residual", "rule")
        sums = [{term: float(getattr(e, term).sum()) for term in (*TERMS, "residual")} for e in self.entries]
        absorbed = [each["bias"] + each["epsilon"] + each["dropped"] - each["created"] for each in sums]
        values = [abs(value) for each, lost in zip(sums, absorbed, strict=True) for value in (each["relevance_out"], lost)]
        largest = max([value for value in values if np.isfinite(value)], default=0.0)
        rows: list[tuple[object, ...]] = []
        for e, each, lost in zip(self.entries, sums, absorbed, strict=True):
            come, left, *others = (f"{each[term]:.4g}" for term in ("relevance_in", "relevance_out", *TERMS[2:], "residual"))
            rows.append((e.layer, come, left, bar(each["relevance_out"], largest), f"{lost:.4g}", bar(lost, largest), *others, e.rule))
            for name, edge in e.edges.items() if len(e.edges) > 1 else ():
                share = float(edge.sum())
                rows.append((f"to {name}", "", f"{share:.4g}", bar(share, largest), *[""] * 8))
        total = {term: sum(each[term] for each in sums) for term in sums[0]}
        ends = (f"{float(end.sum()):.4g}" for end in (self.start, self.end))
        rows.append(("total", *ends, "", f"{sum(absorbed):.4g}", "", *(f"{total[term]:.4g}" for term in (*TERMS[2:], "residual")), ""))
        count = len(self.start)
        notes = ["in = out + absorbed + residual; absorbed = bias + epsilon + dropped - created; all bars have one unit"]
        notes += [f"sums over {count} maps"] if count != 1 else []
        alarms = [f"Note: {alarm}" for alarm in self.alarms()[:3]]
        return table(head, rows, "Where the relevance went", [*notes, *alarms], "lrrlrlrrrrrl")

    @_OVERFLOWING
    def __str__(self) -> str:
        head = ("layer", "relevance in", "out", "bias", "epsilon", "dropped", "created", "residual", "rule")
        rows: list[tuple[str, ...]] = [head]
        for e in self.entries:
            sums = [float(getattr(e, term).sum()) for term in TERMS] + [float(e.residual.sum())]
            rows.append((e.layer, *(_number(v) for v in sums), e.rule))
            edges = e.edges if len(e.edges) > 1 else {}
            rows += [(f"  to {name}", "", _number(float(edge.sum())), *[""] * (len(head) - 3)) for name, edge in edges.items()]
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


def balance(plan: Plan, trace: Trace, start: np.ndarray, span: Span, at: Mapping[int, np.ndarray]) -> list[Entry]:
    """Balance every step of a pass, in forward order.

    Parameters
    ----------
    plan : Plan
        With the parts that ran.
    trace : Trace
        Of this plan; without denominators if it is another plan's.
    start : ndarray
        What the pass began with.
    span : Span
    at : mapping of int to ndarray
        Relevance of every step's output after masks, as the pass kept it; -1 is the model's input.
    """
    readers: dict[int, list[int]] = {}
    for i in sorted(at):
        if i > span.bottom:
            for j in plan.steps[i].inputs:
                readers.setdefault(j, []).append(i)
    entries = []
    for i in sorted(at):
        if i <= span.bottom:
            continue
        inputs = plan.steps[i].inputs
        if len(inputs) == 1 and readers[inputs[0]] == [i] and inputs[0] not in span.masks:
            shares = [at[inputs[0]]]  # the very numbers of the pass
        else:
            shares = layers.scatter(plan.steps[i], step_back(plan, trace, i, at[i]))
        masked = None
        if i in span.masks:
            masked = (start if i == span.top else _arrived(plan, trace, i, readers.get(i, ()), at)) - at[i]
        entries.append(account(plan, trace, i, at[i], shares, masked))
    return entries


def _arrived(plan: Plan, trace: Trace, i: int, readers: Sequence[int], at: Mapping[int, np.ndarray]) -> np.ndarray:
    """Return what arrived at step i's output before its mask."""
    total: np.ndarray | None = None
    for k in sorted(set(readers), reverse=True):
        shares = layers.scatter(plan.steps[k], step_back(plan, trace, k, at[k]))
        for j, share in zip(plan.steps[k].inputs, shares, strict=True):
            if j == i:
                total = share if total is None else total + share
    assert total is not None
    return total


@_OVERFLOWING
def account(plan: Plan, trace: Trace, i: int, R_above: np.ndarray, shares: Sequence[np.ndarray], masked: np.ndarray | None = None) -> Entry:
    """Balance one step.

    Parameters
    ----------
    plan : Plan
    trace : Trace
    i : int
        The step.
    R_above : ndarray [n, *output_shape]
        Relevance of its output.
    shares : one ndarray [n, *shape] for each input
        Relevance of its inputs, as the pass computed it.
    masked : ndarray [n, *output_shape] or None
        Relevance of its output that a mask took away before the step.
    """
    step, rule, parts = plan.steps[i], plan.rules[i], plan.parts[i]
    each = [layers.sums(share) for share in shares]
    arrived, size = layers.sums(R_above), layers.sums(np.abs(R_above))
    bias, epsilon, dropped, created = (np.zeros_like(arrived) for _ in range(4))
    magnitude = size + sum(layers.sums(np.abs(share)) for share in shares)
    if masked is not None:
        taken = layers.sums(masked)
        arrived, dropped, magnitude = arrived + taken, dropped + taken, magnitude + layers.sums(np.abs(masked))
    if not parts and layers.only_moves(step) and not layers.operation(step).view:  # what lies on padding, or is otherwise nobody's
        theirs = layers.move(step, np.ones((1, *step.input_shape), R_above.dtype)) != 0
        dropped += layers.sums(np.where(theirs, 0, R_above))
    behind = behind_activation(plan, trace, i, R_above)
    if behind is not R_above:
        bent = R_above - behind
        dropped, magnitude = dropped + layers.sums(bent), magnitude + layers.sums(np.abs(bent))
    carried = list(_divided(plan, trace, i, behind)) if parts else []
    if any(part.units for part in parts):  # units with z = 0 belong to no part
        dropped += layers.sums(behind) - sum(layers.sums(R) for _, R, _, _ in carried)
    linear = layers.linear_step(step, rule)
    for part, R, z, s in carried:
        if rule.undivided:  # z is the sum of the weights that R went along: what it is more than 1 is created, what it is less is lost
            more = s * (z - 1)
            created += layers.sums(np.maximum(more, 0))
            dropped -= layers.sums(np.minimum(more, 0))
            magnitude += layers.sums(np.abs(more))
            continue
        d = layers.denominator(z, rule)
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
    names = [INPUT if j < 0 else plan.steps[j].name for j in step.inputs]
    edges: dict[str, np.ndarray] = {}
    for name, amount in zip(names, each, strict=True):
        edges[name] = edges[name] + amount if name in edges else amount
    return Entry(step.name, str(rule), arrived, sum(each[1:], each[0]), bias, epsilon, dropped, created, magnitude, size, edges)


def _divided(plan: Plan, trace: Trace, i: int, behind: np.ndarray) -> Iterator[tuple[Part, np.ndarray, np.ndarray, np.ndarray]]:
    """Run lines 1 and 2 for each part of step i's rule: (part, relevance of its units, z, s). Where the pass has z, it is its own."""
    rule, (step, a, held) = plan.rules[i], as_linear(plan, trace, i)
    known = dict(zip(fusions(plan)[i].parts, trace.denominators.get(i, ()), strict=False))
    for part in plan.parts[i]:
        of_units = layers.relevance_of_units(behind, step, a, part.units, trace.activations[i + 1], held)
        z = known.get(replace(part, units=""))
        if z is None:
            changed = layers.changed_inputs(a, rule, part)
            z = layers.forward(step, changed, [term.weight for term in part.terms], part.bias, held=held)
        yield part, of_units, z, layers.divide(of_units, z, rule, part.weight)


def _largest(values: np.ndarray) -> str:
    return f"{values[np.argmax(np.abs(values))]:.3g}"


def _number(value: float) -> str:
    return f"{value:.6g}"
