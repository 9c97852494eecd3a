"""Decisions of the forward pass: which ReLUs are open, which places of a pool's windows win, and where a candidate decided otherwise.

Decisions inside the error bound are ambiguous: any of them is right in float32. They are why two correct runs of a deep network differ
by percents in some elements: relevance takes another path.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp.golden.bounds import TINY
from nplrp.golden.judging import CHAINED, FLOOR, UNITS
from nplrp.golden.values import UNIT, Golden, Tensor
from nplrp.layers import KINDS, Layer, Step, activation, operation

#: A run is like a candidate that opens other ReLUs at most so many times as often. The most alike even and uneven run stay in any case.
ALIKE = 4
#: Relevance that another place won is missing in one and too much in the other, and rules with two signs pass on more than they get.
PASSED_ON = 4.0


@dataclass(frozen=True)
class Decisions:
    """What a candidate decided otherwise in one layer.

    Attributes
    ----------
    layer : str
    what : "sign" or "winner"
    total, ambiguous : int
        Decisions of the golden run, and how many of them lie inside the error bound.
    other, unexplained : int
        Decided otherwise, and how many of those rounding doesn't explain.
    moved : float
        Golden relevance of the outputs that another place won.
    """

    layer: str
    what: str
    total: int
    ambiguous: int
    other: int
    unexplained: int
    moved: float = 0.0


def decided_otherwise(golden: Golden, activations: Mapping[str, np.ndarray], precision: str = "float32") -> tuple[Decisions, ...]:
    """Compare decisions in every layer where the golden values are whole and the candidate has what they were taken from.

    Parameters
    ----------
    golden : Golden
    activations : mapping of str to ndarray
        The candidate's, in golden shapes.
    precision : str
        A decision is explained if it is ambiguous in float32, and the candidate is no more precise; or if what decides differs by no more
        than float32 runs differ from end to end, scaled to this precision.
    """
    found, scale = [], max(UNITS[precision], 2 * UNITS["float64"]) / UNIT
    for layer, facts in zip(golden.layers, golden.facts["layers"], strict=True):
        step = _choosing(facts)
        seen = golden.inputs[layer.name] if step else (layer.name,)
        if layer.ambiguous is None or not (step or _opens(facts)) or not all(name in activations for name in seen):
            continue
        mine = [golden[name].activation.values for name in seen]
        theirs = [np.asarray(activations[name], np.float64) for name in seen]
        if all(np.isfinite(each).all() for each in theirs):
            decided = [_winners(step, each) if step else each[0] > 0 for each in (mine, theirs)]
            other, ambiguous = decided[0] != decided[1], layer.ambiguous.reshape(decided[0].shape)
            unexplained, moved = np.zeros(0, bool), 0.0
            if other.any():
                unexplained = _margins(step, mine, theirs, other) > max(_tolerance(golden[name].activation, scale) for name in seen)
                if scale >= 1:
                    unexplained &= ~ambiguous[other]
                if step and layer.relevance is not None:
                    moved = float(np.abs(layer.relevance.values.reshape(other.shape)[other]).sum())
            counts = (other.size, int(ambiguous.sum()), int(other.sum()), int(unexplained.sum()))
            found.append(Decisions(layer.name, "winner" if step else "sign", *counts, moved))
    return tuple(found)


def deciding_layers(golden: Golden) -> set[str]:
    """Return the layers that open units or choose among places."""
    return {facts["name"] for facts in golden.facts["layers"] if KINDS[facts["kind"]].chooses or _opens(facts)}


def excuse(golden: Golden, decisions: Sequence[Decisions]) -> dict[str, float]:
    """Return by layer how much relevance may be elsewhere because decisions above it fell otherwise, all of which rounding explains.

    Layers are left out above which nothing was decided otherwise, or something that rounding doesn't explain. Of a candidate that doesn't
    give all activations nobody knows: it is taken to have decided otherwise.
    """
    known, deciding, found = {each.layer: each for each in decisions}, deciding_layers(golden), {}
    for name in golden.names:
        above = golden.above(name) | {name}
        seen = [known[each] for each in above if each in known]
        if any(each.unexplained for each in seen):
            continue
        if any(each.other for each in seen) or not (above & deciding) <= known.keys():
            found[name] = PASSED_ON * sum(each.moved for each in seen)
    return found


def _tolerance(tensor: Tensor, scale: float) -> float:
    """Return by how much activations differ from end to end at most."""
    return max(CHAINED * float(tensor.spread[:, 1].max(initial=0.0)), FLOOR * UNIT) * tensor.sums[2] * scale


def _margins(step: Step | None, mine: Sequence[np.ndarray], theirs: Sequence[np.ndarray], other: np.ndarray) -> np.ndarray:
    """Return by how much each decision that fell otherwise was taken: half of what separates two places, or all of what a unit is open."""
    if step is None:
        return np.asarray(np.abs(mine[0] - theirs[0]).reshape(other.shape)[other])
    places, winners = _places(step, mine), _winners(step, theirs)
    there = np.take_along_axis(places, winners[..., None], axis=-1)[..., 0]
    return np.asarray((places.max(axis=-1) - there)[other] / 2)


def comparable_runs(
    golden: Golden, activations: Mapping[str, np.ndarray], decisions: Sequence[Decisions]
) -> dict[str, tuple[list[int], list[int]]]:
    """Return by layer which of the recorded float32 runs its relevance is judged by, and which of these decided as the golden run did.

    A candidate whose activations keep ties isn't excused by runs that don't, and one that opens the same ReLUs above a layer, or nearly so,
    not by runs that open others: a single ReLU of a small dense layer may move all relevance below it by percents.

    Parameters
    ----------
    golden : Golden
    activations : mapping of str to ndarray
        The candidate's, in golden shapes.
    decisions : sequence of Decisions
    """
    runs, names = golden.facts["runs"], golden.names
    opening = {facts["name"] for facts in golden.facts["layers"] if _opens(facts) and not KINDS[facts["kind"]].chooses}
    own = {each.layer: each.other - each.unexplained for each in decisions if each.what == "sign"}
    even = keeps_ties(golden, activations)
    kept = [i for i, run in enumerate(runs) if run["even"] or not even]
    found = {}
    for name in names:
        above = golden.above(name) & opening
        sizes = {layer.name: math.prod(layer.activation.shape) for layer in golden.layers if layer.name in above}
        shares = {i: _share(runs[i]["signs"], sizes) for i in kept}
        chosen = kept
        if set(own) == opening:
            chosen = []
            for group in ([i for i in kept if runs[i]["even"]], [i for i in kept if not runs[i]["even"]]):
                limit = max(ALIKE * _share(own, sizes), min((shares[i] for i in group), default=0.0))
                chosen += [i for i in group if shares[i] <= limit]
        found[name] = chosen, [i for i in chosen if runs[i]["even"] and not shares[i]] or chosen
    return found


def _share(signs: Mapping[str, int], sizes: Mapping[str, int]) -> float:
    """Return how often ReLUs are decided otherwise, summed over layers, so that a unit of a small layer counts for more."""
    return sum(signs.get(name, 0) / size for name, size in sizes.items())


def keeps_ties(golden: Golden, activations: Mapping[str, np.ndarray]) -> bool:
    """Tell whether a candidate's activations tie wherever golden ones do, at every pool: then its winners of flat regions aren't noise."""
    for facts in golden.facts["layers"]:
        step, seen = _choosing(facts), [golden[name] for name in golden.inputs[facts["name"]]]
        if step is None:
            continue
        if any(layer.indices is not None or layer.name not in activations for layer in seen):
            return False
        kept = [layer.activation for layer in seen]
        values, errors = (_places(step, [np.asarray(each, np.float64) for each in of]) for of in _of(kept))
        tied = (values == values.max(axis=-1, keepdims=True)) & (np.abs(errors) > TINY)
        theirs = _places(step, [np.asarray(activations[layer.name], np.float64) for layer in seen])
        highest, lowest = (np.where(tied, theirs, edge) for edge in (-np.inf, np.inf))
        if (highest.max(axis=-1) > lowest.min(axis=-1)).any():
            return False
    return True


def _of(tensors: Sequence[Tensor]) -> tuple[list[np.ndarray], list[np.ndarray]]:
    return [tensor.values for tensor in tensors], [tensor.expected for tensor in tensors]


def _opens(facts: Mapping[str, Any]) -> bool:
    """Tell whether a layer that a file describes opens and shuts units."""
    return activation(facts.get("activation", "linear")).opens


def _choosing(facts: Mapping[str, Any]) -> Step | None:
    """Return the step of a layer that a file describes, if its outputs are numbers that it sees; such layers have no arrays."""
    kind = KINDS[facts["kind"]]
    if not kind.chooses:
        return None
    layer = Layer.described(facts)
    fields = {"input_shape": layer.input_shape, "window": layer.window, "options": layer.options} | kind.step(layer)
    return Step(layer.name, output_shape=layer.output_shape, **fields)


def _places(step: Step, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return what each output of a step is chosen from, [n, *output_shape, places]."""
    op = operation(step)
    assert op.choice
    return op.choice.places(step, op.gather(step, inputs))


def _winners(step: Step, inputs: Sequence[np.ndarray]) -> np.ndarray:
    """Return the first place with the largest number for each output of a step."""
    return np.argmax(_places(step, inputs), axis=-1)
