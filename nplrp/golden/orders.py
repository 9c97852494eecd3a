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
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from nplrp.golden.whole_run import Noise, Progress, Run, whole_run
from nplrp.model import Model
from nplrp.plan import make_plan

#: Runs of each kind, beside the plain ones.
RENUMBERINGS, NOISY, UNEVEN = 2, 2, 2


def reordered_runs(
    golden: Run, forward: Sequence[np.ndarray], backward: Sequence[np.ndarray], progress: Progress
) -> tuple[dict[tuple[str, str], np.ndarray], list[dict[str, Any]]]:
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
    (dict of (layer, "activation" or "relevance") to ndarray [runs, 2], list of dict)
        For each run sum |d| / sum |v| and max |d| / max |v|; and its kind, whether ties last in it, and by layer how many ReLUs are open in
        it and closed in the golden run, or the other way round.
    """
    found: dict[tuple[str, str], list[list[float]]] = {}
    runs: list[dict[str, Any]] = []
    opening = {layer.name for layer in golden.model if layer.activation == "relu"}
    for number, (kind, model, orders, algorithm, noise) in enumerate(_variants(golden.model, forward, backward), 1):
        progress(f"float32 run {number} of {2 + RENUMBERINGS + NOISY + UNEVEN}")
        plan = make_plan(model, golden.plan.composite, "float32", algorithm, golden.plan.dialect)
        with np.errstate(under="ignore"):
            ran = whole_run(plan, golden.x, golden.start, golden.targets, noise=noise)
        signs: dict[str, int] = {}
        for what in ("activation", "relevance"):
            expected = golden.activations if what == "activation" else golden.relevances
            for name, values in (ran.activations if what == "activation" else ran.relevances).items():
                order = orders.get(name)
                original = values if order is None else values[..., np.argsort(order)]
                found.setdefault((name, what), []).append(deviation(original, expected[name]))
                if what == "activation" and name in opening:
                    other = int(np.count_nonzero((original > 0) != (expected[name] > 0)))
                    signs |= {name: other} if other else {}
        runs.append({"kind": kind, "even": noise is None or noise.even, "signs": signs})
    return {key: np.array(rows) for key, rows in found.items()}, runs


def deviation(got: np.ndarray, expected: np.ndarray) -> list[float]:
    """Return sum |d| / sum |v| and max |d| / max |v| (0 / 0 is 0)."""
    d, size = np.abs(np.asarray(got, np.float64) - expected), np.abs(expected)
    pairs = ((d.sum(), size.sum()), (d.max(initial=0.0), size.max(initial=0.0)))
    return [float(a / b) if b else float(a > 0) for a, b in pairs]


def renumbered(model: Model, seed: int) -> tuple[Model, dict[str, np.ndarray]]:
    """Return a model whose hidden channels have other numbers, and for each layer which of the old ones each place holds.

    Input and output keep their order, and so do rules with constants for each input channel.
    """
    rng = np.random.default_rng(seed)
    last = max((i for i, layer in enumerate(model.layers) if layer.kind in ("conv", "dense")), default=-1)
    order = np.arange(model.input_shape[-1])
    orders, made = {}, []
    for i, layer in enumerate(model.layers):
        arrays = dict(layer.arrays)
        if layer.kind in ("conv", "dense"):
            units = arrays["kernel"].shape[-1]
            after = rng.permutation(units) if i < last else np.arange(units)
            arrays["kernel"] = np.ascontiguousarray(np.take(np.take(arrays["kernel"], order, axis=-2), after, axis=-1))
            if "bias" in arrays:
                arrays["bias"] = arrays["bias"][after]
            order = after
        elif layer.kind == "flatten":
            order = np.arange(np.prod(layer.input_shape, dtype=int)).reshape(layer.input_shape)[..., order].reshape(-1)
        else:
            arrays = {key: array[order] for key, array in arrays.items()}
        orders[layer.name] = order
        made.append(dataclasses.replace(layer, arrays=arrays))
    return dataclasses.replace(model, layers=tuple(made)), orders


def _variants(
    model: Model, forward: Sequence[np.ndarray], backward: Sequence[np.ndarray]
) -> Iterator[tuple[str, Model, dict[str, np.ndarray], str, Noise | None]]:
    yield "direct", model, {}, "direct", None
    yield "auto", model, {}, "auto", None
    for seed in range(RENUMBERINGS):
        yield "renumbered", *renumbered(model, seed), "direct", None
    for seed in range(NOISY + UNEVEN):
        yield "noise", model, {}, "direct", Noise(forward, backward, seed, seed < NOISY)
