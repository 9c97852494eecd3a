"""The metrics as Quantus 0.6 computes them: its defaults, scales, draws and order of features, so that numbers can be compared.

Where it differs from the papers, or from itself, is told in docs/evaluate.md. Arrays are this engine's, channels last; Quantus sees them
with channels first, and numbers features in that order. `seed` stands for a call of ``numpy.random.seed`` before the metric. All inputs are
one batch: some of Quantus's numbers depend on who else is in it.

Source: Hedström et al. 2023, "Quantus: an explainable AI toolkit", JMLR 24; formulas and defaults of version 0.6.0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nplrp.evaluate import faithful, randomising, robust, simple
from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.faithful import Predict, checked, of_targets
from nplrp.evaluate.randomising import Decay
from nplrp.evaluate.robust import Explain
from nplrp.model import Model

#: What Quantus calls baselines: a number for each input, made of the input as it has become so far.
BASELINES = ("black", "white", "mean", "uniform")


def normalised(relevance: np.ndarray) -> np.ndarray:
    """Divide maps by the largest magnitude in all of them, which makes each depend on its batch."""
    largest = np.abs(relevance).max(initial=0.0)
    return relevance / largest if largest else relevance


def pixel_flipping(
    predict: Predict,
    x: np.ndarray,
    relevance: np.ndarray,
    targets: np.ndarray,
    features_in_step: int = 1,
    perturb_baseline: str | float = "black",
    seed: int = 0,
) -> np.ndarray:
    """Return the target's scores after each step, without that of the whole input, [n, steps]; its AUC is their trapezoidal sum.

    Parameters
    ----------
    predict, x, relevance, targets
        As for `nplrp.evaluate.pixel_flipping`; relevance by value, [n, *shape].
    features_in_step : int
    perturb_baseline : str or float
    seed : int

    Raises
    ------
    EvaluationError
    """
    x, relevance, targets = checked(x, relevance, targets)
    flat, maps = _first(x), _first(np.broadcast_to(normalised(relevance), x.shape))
    order = np.argsort(-maps, axis=1)
    rng = np.random.RandomState(seed)
    parts = [order[:, at : at + features_in_step] for at in range(0, order.shape[1], features_in_step)]
    return _scores(predict, _replaced(flat, parts, perturb_baseline, rng), x.shape, targets)


def region_perturbation(
    predict: Predict,
    x: np.ndarray,
    relevance: np.ndarray,
    targets: np.ndarray,
    patch_size: int = 8,
    regions_evaluation: int = 100,
    order: str = "morf",
    perturb_baseline: str | float = "black",
    seed: int = 0,
) -> np.ndarray:
    """Return by how much the target's score has fallen after each patch, [n, patches].

    Parameters
    ----------
    predict, x, relevance, targets
        As for `nplrp.evaluate.pixel_flipping`; x [n, h, w, c].
    patch_size, regions_evaluation : int
    order : {"morf", "lerf", "random"}
    perturb_baseline : str or float
    seed : int

    Raises
    ------
    EvaluationError
    """
    x, relevance, targets = checked(x, relevance, targets)
    n = len(x)
    missing = [-side % patch_size for side in x.shape[1:3]]
    pads = [(0, 0), *((each // 2, each - each // 2) for each in missing), (0, 0)]
    maps = np.pad(np.broadcast_to(normalised(relevance), x.shape), pads)
    rows, columns = (side // patch_size for side in maps.shape[1:3])
    places = np.arange(maps[0].size).reshape(maps.shape[3], rows, patch_size, columns, patch_size)  # channels first
    patches = places.transpose(1, 3, 0, 2, 4).reshape(rows * columns, -1)
    sums = _first(maps)[:, patches].sum(axis=2)
    rng = np.random.RandomState(seed)
    if order == "random":
        turns = np.array([rng.permutation(len(patches)) for _ in range(n)])
    elif order in ("morf", "lerf"):
        turns = np.argsort(-sums if order == "morf" else sums, axis=1)
    else:
        raise EvaluationError(f"there is no order {order!r}; there are morf, lerf, random")
    parts = [patches[turns[:, i]] for i in range(min(regions_evaluation, len(patches)))]
    padded = np.pad(x, pads, mode="edge")
    inside = np.s_[:, pads[1][0] : padded.shape[1] - pads[1][1], pads[2][0] : padded.shape[2] - pads[2][1]]
    changed = (_last(each, padded.shape)[inside] for each in _replaced(_first(padded), parts, perturb_baseline, rng))
    return of_targets(predict, x, targets)[:, None] - np.stack([of_targets(predict, each, targets) for each in changed], axis=1)


def faithfulness_correlation(
    predict: Predict,
    x: np.ndarray,
    relevance: np.ndarray,
    targets: np.ndarray,
    nr_runs: int = 100,
    subset_size: int = 224,
    perturb_baseline: str | float = "black",
    seed: int = 0,
) -> np.ndarray:
    """Return the correlation over random sets of values, drawn for each input by itself, [n].

    Parameters
    ----------
    predict, x, relevance, targets
        As for `nplrp.evaluate.faithfulness_correlation`; relevance by value, [n, *shape].
    nr_runs, subset_size : int
    perturb_baseline : str or float
    seed : int

    Raises
    ------
    EvaluationError
    """
    x, relevance, targets = checked(x, relevance, targets)
    maps, flat, rng = _first(np.broadcast_to(normalised(relevance), x.shape)), _first(x), np.random.RandomState(seed)
    rows, before = np.arange(len(x))[:, None], of_targets(predict, x, targets)
    worth, lost = [], []
    for _ in range(nr_runs):
        places = np.stack([rng.choice(flat.shape[1], subset_size, replace=False) for _ in x])
        changed = next(_replaced(flat, [places], perturb_baseline, rng))
        lost.append(before - of_targets(predict, _last(changed, x.shape), targets))
        worth.append(maps[rows, places].sum(axis=1))
    return faithful.pearson(np.stack(worth, axis=1), np.stack(lost, axis=1))


def sufficiency(relevance: np.ndarray, classes: np.ndarray, threshold: float = 0.6) -> np.ndarray:
    """Return the share of inputs with a similar map that have the same class, [n].

    It is 0 where nobody has a similar map, and for all inputs if any feature is the same in all maps.

    Parameters
    ----------
    relevance : ndarray [n, ...]
    classes : ndarray [n] of int
    threshold : float
    """
    flat = np.abs(normalised(np.asarray(relevance, np.float64).reshape(len(relevance), -1)))
    if (np.concatenate([flat, flat]).var(axis=0, ddof=1) == 0).any():  # 0 / 0 makes every distance a NaN, and nobody is near
        return np.zeros(len(flat))
    return faithful.sufficiency(flat, classes, threshold=threshold, alone=0.0)


def sparseness(relevance: np.ndarray) -> np.ndarray:
    """Return the Gini index of |R| / max + 1e-7, the maximum being that of the batch, [n]."""
    return simple.sparseness(normalised(relevance), offset=1e-7)


def complexity(relevance: np.ndarray) -> np.ndarray:
    """Return the entropy of |R| with 1e-12 in the logarithm, [n]."""
    return simple.complexity(relevance, offset=1e-12)


def local_lipschitz_estimate(
    explain: Explain, x: np.ndarray, relevance: np.ndarray, nr_samples: int = 200, perturb_std: float = 0.1, seed: int = 0
) -> np.ndarray:
    """Return max |R(x) - R(x')| / |x - x'| over Gaussian noise, each batch of maps divided by its own largest magnitude, [n].

    Parameters
    ----------
    explain, x, relevance
        As for `nplrp.evaluate.local_lipschitz`.
    nr_samples : int
    perturb_std : float
    seed : int
    """
    rng = np.random.RandomState(seed)
    noise = np.stack([_last(rng.normal(0.0, perturb_std, (len(x), x[0].size)), x.shape) for _ in range(nr_samples)])
    return robust.local_lipschitz(explain, x, relevance, noise=noise, scale="batch")


def max_sensitivity(
    explain: Explain, x: np.ndarray, relevance: np.ndarray, nr_samples: int = 200, lower_bound: float = 0.2, seed: int = 0
) -> np.ndarray:
    """Return max |R(x') - R(x)| / |R(x)| over noise between -lower_bound and lower_bound, [n].

    Parameters
    ----------
    explain, x, relevance
        As for `nplrp.evaluate.max_sensitivity`.
    nr_samples : int
    lower_bound : float
    seed : int
    """
    rng = np.random.RandomState(seed)
    noise = np.stack([_last(rng.uniform(-lower_bound, lower_bound, (len(x), x[0].size)), x.shape) for _ in range(nr_samples)])
    return robust.max_sensitivity(explain, x, relevance, noise=noise)


def mprt(
    explain: Callable[[Model], np.ndarray], model: Model, relevance: np.ndarray, layer_order: str = "top_down", seed: int = 42
) -> Decay:
    """Return the rank correlations of |R| that Quantus gives for a `QuantusModel`, whose layers draw their weights as ours do.

    Parameters
    ----------
    explain, model, relevance
        As for `nplrp.evaluate.mprt`.
    layer_order : {"top_down", "independent"}
    seed : int
        Quantus draws with the one after it.
    """
    return randomising.mprt(explain, model, relevance, order=layer_order, absolute=True, seed=seed + 1)


def _first(x: np.ndarray) -> np.ndarray:
    """Return inputs [n, ..., c] flattened with channels first."""
    return np.moveaxis(x, -1, 1).reshape(len(x), -1) if x.ndim > 2 else x


def _last(flat: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Return flattened inputs as they were, [n, ..., c]."""
    if len(shape) == 2:
        return flat
    return np.ascontiguousarray(np.moveaxis(flat.reshape(shape[0], shape[-1], *shape[1:-1]), 1, -1))


def _replaced(flat: np.ndarray, parts: list[np.ndarray], baseline: str | float, rng: np.random.RandomState) -> Iterator[np.ndarray]:
    """Yield inputs in which more and more features are replaced; parts are [n, k] of places, one after the other."""
    flat, rows = flat.copy(), np.arange(len(flat))[:, None]
    for places in parts:
        if isinstance(baseline, str):
            if baseline not in BASELINES:
                raise EvaluationError(f"there is no baseline {baseline!r} of Quantus's; there are {', '.join(BASELINES)}, or a number")
            drawn = rng.uniform(0.0, 1.0, len(flat))  # it is drawn whether or not it is used
            values = {"black": flat.min(axis=1), "white": flat.max(axis=1), "mean": flat.mean(axis=1), "uniform": drawn}[baseline]
        else:
            values = np.full(len(flat), baseline)
        flat[rows, places] = values[:, None]
        yield flat.copy()


def _scores(predict: Predict, changed: Iterator[np.ndarray], shape: tuple[int, ...], targets: np.ndarray) -> np.ndarray:
    return np.stack([of_targets(predict, _last(each, shape), targets) for each in changed], axis=1)
