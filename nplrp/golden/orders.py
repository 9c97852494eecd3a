"""The same run in float32, rounded otherwise: how far rounding alone moves the numbers from end to end.

Three kinds of runs: nplrp's own, direct and with its faster algorithms; with the channels of every hidden layer renumbered, which changes
nothing but the order in which convolutions and dense layers sum; and with noise of the size that single chains have, which nplrp's kernels
don't use (`nplrp.golden.bounds.chain_noise`).

nplrp's kernels sum every place of an image alike, so that places which see the same pixels tie to the bit. A backend that leaves its
convolutions to a matrix product may not: there the winners of flat regions are noise, and relevance moves by percents. So the last runs
are uneven: each place has its own noise.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

from nplrp.golden.threads import side_by_side
from nplrp.golden.whole_run import Noise, Progress, Run, whole_run
from nplrp.layers import INPUT, KINDS, Layer, activation
from nplrp.layers.base import FREE, MADE, SAME, Renumbering
from nplrp.model import Model, sources
from nplrp.plan import make_plan

#: Bytes from which on differences take the place, and the memory order, of what they are made of. NumPy has done so by itself on Linux,
#: where it can tell that nobody else wants it, and sums were recorded so.
IN_PLACE = 1 << 18
#: Runs of each kind, beside the plain ones.
RENUMBERINGS, NOISY, UNEVEN = 2, 2, 2


def reordered_runs(
    golden: Run, forward: Sequence[np.ndarray], backward: Sequence[np.ndarray], progress: Progress
) -> tuple[dict[tuple[str, str], np.ndarray], dict[tuple[str, str], np.ndarray], list[dict[str, Any]]]:
    """Measure float32 runs against a float64 one.

    Parameters
    ----------
    golden : Run
        In float64.
    forward, backward : sequence of ndarray
        By step of its plan: size of the noise in its output, and in its input's relevance.
    progress : callable

    Returns
    -------
    (dict of (layer, "activation" or "relevance") to ndarray [runs, 2], dict of the same, list of dict)
        For each run sum |d| / sum |v| and max |d| / max |v|; sum d / sum |v| and sum d v / sum v^2; and its kind, whether ties last in
        it, and by layer how many ReLUs are open in it and closed in the golden run, or the other way round.
    """
    sizes = {(name, what): _Sizes(v) for what in ("activation", "relevance") for name, v in _of(golden, what).items()}
    opening = {layer.name for layer in golden.model if activation(layer.activation).opens}

    def measured(ran: Run, orders: Mapping[str, np.ndarray]) -> tuple[list[list[float]], list[list[float]], dict[str, int]]:
        """Return a run's deviations and shifts, array by array as in `sizes`, and ReLUs that open or close."""
        deviations, shifts, signs = [], [], dict[str, int]()
        for (name, what), size in sizes.items():
            order, expected, values = orders.get(name), _of(golden, what)[name], _of(ran, what)[name]
            original = values if order is None else values[..., np.argsort(order)]
            far, moved = size.compare(original, expected)
            deviations.append(far)
            shifts.append(moved)
            if what == "activation" and name in opening:
                other = int(np.count_nonzero((original > 0) != (expected > 0)))
                signs |= {name: other} if other else {}
        return deviations, shifts, signs

    variants = _variants(golden.model, forward, backward)

    def one_run(number: int) -> tuple[list[list[float]], list[list[float]], dict[str, int]]:
        progress(f"float32 run {number + 1} of {len(variants)}")
        variant = variants[number]
        model, orders = variant.made()
        plan = make_plan(model, golden.plan.composite, "float32", variant.algorithm, golden.plan.dialect)
        with np.errstate(under="ignore"):
            return measured(whole_run(plan, golden.x, golden.start, golden.targets, noise=variant.noise, one_pass=False), orders)

    results = side_by_side(one_run, range(len(variants)))  # so no more than two runs are held
    told = ((each.kind, each.noise is None or each.noise.even, signs) for each, (_, _, signs) in zip(variants, results, strict=True))
    runs = [{"kind": kind, "even": even, "signs": signs} for kind, even, signs in told]
    both = [far for far, _, _ in results], [moved for _, moved, _ in results]
    found, moved = ({key: np.array([each[i] for each in rows]) for i, key in enumerate(sizes)} for rows in both)
    return found, moved, runs


def _of(run: Run, what: str) -> Mapping[str, np.ndarray]:
    return run.activations if what == "activation" else run.relevances


class _Sizes:
    """An array's sums that others' differences from it are shares of."""

    def __init__(self, v: np.ndarray) -> None:
        size, flat = np.abs(v), v.reshape(-1)
        self.sum, self.largest = size.sum(), size.max(initial=0.0)
        self.flat_sum, self.squares = size.reshape(-1).sum(), (flat * flat).sum()

    def compare(self, got: np.ndarray, v: np.ndarray) -> tuple[list[float], list[float]]:
        """Return (sum |d| / sum |v|, max |d| / max |v|), and (sum d / sum |v|, sum d v / sum v^2), for d = got - v (0 / 0 is 0)."""
        wide = np.array(got, np.float64)  # of a renumbered run in another memory order, by which sums have their bits
        d = np.subtract(wide, v, out=wide if wide.nbytes >= IN_PLACE else None)
        flat, size = d.reshape(-1), np.abs(d)
        far = [(size.sum(), self.sum), (size.max(initial=0.0), self.largest)]
        moved = [(flat.sum(), self.flat_sum), ((flat * v.reshape(-1)).sum(), self.squares)]
        return [float(a / b) if b else float(a > 0) for a, b in far], [float(a / b) if b else 0.0 for a, b in moved]


def renumbered(model: Model, seed: int) -> tuple[Model, dict[str, np.ndarray]]:
    """Return a model whose hidden channels have other numbers, and for each layer which of the old ones each place holds.

    Input and output keep their order, and so do rules with constants for each input channel. Layers that are joined place by place have one
    order. What a kind of layer can't renumber, keeps its order.
    """
    rng, groups = np.random.default_rng(seed), _Groups(model)
    drawn: dict[int, np.ndarray] = {}
    orders, made = {INPUT: np.arange(model.input_shape[-1])}, []
    for layer, reads in zip(model.layers, sources(model.layers), strict=True):
        found, group = _renumbering(layer), groups.of[layer.name]
        after = np.arange(layer.output_shape[-1])
        if found is None:
            orders[layer.name] = after
            made.append(layer)
            continue
        if found.how == FREE and groups.moves(group):
            group = groups.root(group)
            after = drawn[group] = drawn[group] if group in drawn else rng.permutation(len(after))
        names = [INPUT if j < 0 else model.layers[j].name for j in reads]
        arrays, orders[layer.name] = found.arrays(layer, [orders[name] for name in names], after)
        made.append(dataclasses.replace(layer, arrays=arrays))
    del orders[INPUT]
    return dataclasses.replace(model, layers=tuple(made)), orders


def _renumbering(layer: Layer) -> Renumbering | None:
    """Return how a layer's channels may be renumbered; those of inputs that have fewer, and are repeated, may not."""
    found = KINDS[layer.kind].renumbering(layer)
    return None if found is not None and found.how == SAME and len({shape[-1:] for shape in layer.input_shapes}) > 1 else found


class _Groups:
    """Which layers' channels must have the same order, and which may have another than they have."""

    def __init__(self, model: Model) -> None:
        self.of, self._above, self._parts, self._fixed = {INPUT: 0}, [0], dict[int, list[int]](), {0}
        for layer, reads in zip(model.layers, sources(model.layers), strict=True):
            groups = [self.of[INPUT if j < 0 else model.layers[j].name] for j in reads]
            found = _renumbering(layer)
            if found is not None and found.how == SAME:
                for group in groups[1:]:
                    self._join(groups[0], group)
                self.of[layer.name] = groups[0]
                continue
            own = self.of[layer.name] = len(self._above)
            self._above.append(own)
            if found is None:
                for group in (*groups, own):
                    self._fix(group)
            elif found.how == MADE:
                self._parts[own] = groups
                if not any(map(self.moves, groups)):
                    self._fix(own)
        self._fix(self.of[model.layers[-1].name] if model.layers else 0)

    def root(self, group: int) -> int:
        """Return the group that stands for all that a group was joined with."""
        while self._above[group] != group:
            group = self._above[group]
        return group

    def moves(self, group: int) -> bool:
        """Tell whether the channels of a group may have another order."""
        return self.root(group) not in self._fixed

    def _fix(self, group: int) -> None:
        group = self.root(group)
        self._fixed.add(group)
        for part in self._parts.pop(group, ()):
            self._fix(part)

    def _join(self, one: int, other: int) -> None:
        one, other = self.root(one), self.root(other)
        if one == other:
            return
        if {one, other} & (self._fixed | self._parts.keys()):  # what is made of others' channels can't follow
            self._fix(one)
            self._fix(other)
        self._above[max(one, other)] = min(one, other)


class _Variant(NamedTuple):
    """How a run rounds otherwise: its kind, the model with the orders of its channels, made when it is wanted, and what else differs."""

    kind: str
    made: Callable[[], tuple[Model, dict[str, np.ndarray]]]
    algorithm: str = "direct"
    noise: Noise | None = None


def _variants(model: Model, forward: Sequence[np.ndarray], backward: Sequence[np.ndarray]) -> list[_Variant]:
    def itself() -> tuple[Model, dict[str, np.ndarray]]:
        return model, {}

    return [
        _Variant("direct", itself),
        _Variant("auto", itself, "auto"),
        *(_Variant("renumbered", functools.partial(renumbered, model, seed)) for seed in range(RENUMBERINGS)),
        *(_Variant("noise", itself, noise=Noise(forward, backward, seed, seed < NOISY)) for seed in range(NOISY + UNEVEN)),
    ]
