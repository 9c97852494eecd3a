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

from nplrp import layers
from nplrp.golden.bounds import TINY
from nplrp.golden.values import Golden
from nplrp.layers import Step
from nplrp.model import Window

POOLS = ("maxpool", "global_maxpool")
#: A run is like a candidate that opens other ReLUs at most so many times as often. The most alike even and uneven run stay in any case.
ALIKE = 4


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
        Decided otherwise, and how many of those aren't ambiguous.
    """

    layer: str
    what: str
    total: int
    ambiguous: int
    other: int
    unexplained: int


def decided_otherwise(golden: Golden, activations: Mapping[str, np.ndarray]) -> tuple[Decisions, ...]:
    """Compare decisions in every layer where the golden values are whole and the candidate has what they were taken from.

    Parameters
    ----------
    golden : Golden
    activations : mapping of str to ndarray
        The candidate's, in golden shapes.
    """
    found = []
    for i, (layer, facts) in enumerate(zip(golden.layers, golden.facts["layers"], strict=True)):
        pooled = facts["kind"] in POOLS
        seen = golden.layers[i - 1] if pooled else layer
        if layer.ambiguous is None or seen.name not in activations or not (pooled or facts.get("activation") == "relu"):
            continue
        pair = [np.asarray(each, np.float64) for each in (seen.activation.values, activations[seen.name])]
        if np.isfinite(pair[1]).all():
            mine, theirs = ([winners(facts, each) for each in pair]) if pooled else ([each > 0 for each in pair])
            other, ambiguous = mine != theirs, layer.ambiguous.reshape(mine.shape)
            counts = (mine.size, int(ambiguous.sum()), int(other.sum()), int((other & ~ambiguous).sum()))
            found.append(Decisions(layer.name, "winner" if pooled else "sign", *counts))
    return tuple(found)


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
    opening = {facts["name"] for facts in golden.facts["layers"] if facts.get("activation") == "relu" and facts["kind"] not in POOLS}
    own = {each.layer: each.other - each.unexplained for each in decisions if each.what == "sign"}
    even = keeps_ties(golden, activations)
    kept = [i for i, run in enumerate(runs) if run["even"] or not even]
    found = {}
    for place, name in enumerate(names):
        sizes = {layer.name: math.prod(layer.activation.shape) for layer in golden.layers[place + 1 :] if layer.name in opening}
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
    for i, facts in enumerate(golden.facts["layers"]):
        if facts["kind"] not in POOLS:
            continue
        seen = golden.layers[i - 1]
        if seen.indices is not None or seen.name not in activations:
            return False
        values, errors = (_stacked(facts, each) for each in (seen.activation.values, np.asarray(seen.activation.expected, np.float64)))
        tied = (values == values.max(axis=-1, keepdims=True)) & (errors > TINY)
        theirs = _stacked(facts, np.asarray(activations[seen.name], np.float64))
        highest, lowest = (np.where(tied, theirs, edge) for edge in (-np.inf, np.inf))
        if (highest.max(axis=-1) > lowest.min(axis=-1)).any():
            return False
    return True


def winners(facts: Mapping[str, Any], a: np.ndarray) -> np.ndarray:
    """Return the first place with the largest number in each window of a layer that a file describes: [n, h, w, c] -> [n, ho, wo, c]."""
    return np.argmax(_stacked(facts, a), axis=-1)


def _stacked(facts: Mapping[str, Any], a: np.ndarray) -> np.ndarray:
    """Return what each window of a pool sees, [n, ho, wo, c, places]."""
    shape = tuple(facts["input_shape"])
    if facts["window"] is None:
        window = Window(size=shape[:2], stride=shape[:2])
    else:
        size, stride, dilation, padding = facts["window"]
        window = Window(tuple(size), tuple(stride), tuple(dilation), padding)
    step = Step(facts["name"], "maxpool", shape, tuple(facts["output_shape"]), window=window)
    return np.stack([tap for _, _, tap in layers.window_taps(step, a)], axis=-1)
