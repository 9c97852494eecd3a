"""Does the model look where the map says? Parts of an input are replaced, and the score of the target is looked at.

`predict` is any function (x [m, *shape]) -> scores [m, classes]; maps are anybody's.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.perturbing import Bounds, baseline_values, boxes_in_order, features_of, ranks_in_order, whole

if TYPE_CHECKING:
    from nplrp.evaluate.partial import Walk

Predict = Callable[[np.ndarray], np.ndarray]

#: Inputs that are predicted at once.
BATCH = 16
#: Inputs whose layers are all kept while patches of them are replaced.
WALKING = 4
#: Steps of a curve, unless it is told otherwise.
STEPS = 50


@dataclass(frozen=True, eq=False)
class Curves:
    """What becomes of a score while an input is replaced step by step.

    Attributes
    ----------
    shares : ndarray [steps + 1]
        Of the regions that were replaced (or brought back), from 0.
    scores : ndarray [n, steps + 1], float64
        The target's.
    """

    shares: np.ndarray
    scores: np.ndarray

    @property
    def auc(self) -> np.ndarray:
        """Area below each curve by the trapezoidal rule, over the share from 0 to its largest, as a mean height, [n]."""
        width = self.shares[-1] - self.shares[0]
        if width == 0:
            return self.scores[:, 0].copy()
        return np.trapezoid(self.scores, self.shares, axis=1) / width

    @property
    def aopc(self) -> np.ndarray:
        """Mean fall of the score over all steps, the start (a fall of 0) included, [n]: AOPC of Samek et al. 2017."""
        return (self.scores[:, :1] - self.scores).mean(axis=1)


def pixel_flipping(
    predict: Predict,
    x: np.ndarray,
    relevance: np.ndarray,
    targets: np.ndarray,
    *,
    order: str = "morf",
    baseline: str | float | np.ndarray = "black",
    patch: int = 1,
    step: int | None = None,
    most: int | None = None,
    insert: bool = False,
    bounds: Bounds | None = None,
    seed: int = 0,
    walker: Callable[[int], Walk | None] | None = None,
) -> Curves:
    """Replace regions of inputs in the order of their relevance, and follow the target's score.

    Bach et al. 2015, section "Pixel-flipping"; with patches region perturbation (Samek et al. 2017); deletion and, with `insert`, insertion
    (Petsiuk et al. 2018).

    Parameters
    ----------
    predict : callable
        (x [m, *shape]) -> scores [m, classes].
    x : ndarray [n, *shape]
    relevance : ndarray [n, *shape], or [n, H, W] with one number a pixel
        Decides what is replaced at once: single values, or pixels with all their channels.
    targets : ndarray [n] of int
    order : {"morf", "lerf", "random"}
    baseline : str, number or ndarray
        See `nplrp.evaluate.BASELINES`.
    patch : int
        Side of the square regions; 1: pixels or values.
    step : int or None
        Regions that are replaced between two points of the curve; None: a fiftieth of them, rounded up.
    most : int or None
        Points of the curve behind the first; None: until everything is replaced.
    insert : bool
        Begin with the baseline, and bring the input's own regions back.
    bounds : (ndarray, ndarray) or None
        As for `baseline_values`.
    seed : int
        Of random orders and baselines.
    walker : callable or None
        (patch) -> what predicts images in which one patch after the other is replaced (`nplrp.evaluate.partial.Walk`), or None if nothing
        does; it is asked where patches are replaced, and takes the place of `predict`.

    Returns
    -------
    Curves

    Raises
    ------
    EvaluationError
        If arrays don't fit each other, or a parameter is out of range.
    """
    x, relevance, targets = checked(x, relevance, targets)
    other = np.broadcast_to(baseline_values(baseline, x, bounds, seed), x.shape)
    turns, count = ranks_in_order(relevance, patch, order, seed)
    step = -(-count // STEPS) if step is None else whole(step, "step")
    steps = -(-count // step) if most is None else min(whole(most, "most"), -(-count // step))
    first, then = (other, x) if insert else (x, other)
    done = np.minimum(np.arange(steps + 1) * step, count)
    scores = np.empty((len(x), steps + 1))
    walk = walker(patch) if walker is not None and patch > 1 and x.ndim == 4 else None
    if walk is not None and walk.pays(step):
        boxes = boxes_in_order(turns, patch, int(done[-1]))
        for at in range(0, len(x), WALKING):
            few = slice(at, at + WALKING)
            followed = walk(first[few], then[few], boxes[few], done.tolist())
            scores[few] = np.take_along_axis(followed, targets[few, None, None], axis=2)[..., 0]
        return Curves(done / count, scores)
    together = max(BATCH // max(len(x), 1), 1)
    for at in range(0, steps + 1, together):
        some = done[at : at + together]
        changed = np.concatenate([np.where(turns < k, then, first) for k in some])
        found = of_targets(predict, changed, np.tile(targets, len(some)))
        scores[:, at : at + len(some)] = found.reshape(len(some), len(x)).T
    return Curves(done / count, scores)


def random_subsets(features: int, size: int, runs: int, seed: int = 0) -> np.ndarray:
    """Draw sets of features without replacement, [runs, size] of int; the same for every input, so that none depends on its neighbours."""
    rng = np.random.default_rng(seed)
    return np.stack([rng.choice(features, size, replace=False, shuffle=False) for _ in range(runs)])


def faithfulness_correlation(
    predict: Predict,
    x: np.ndarray,
    relevance: np.ndarray,
    targets: np.ndarray,
    *,
    baseline: str | float | np.ndarray = "black",
    subset: float = 0.1,
    runs: int = 100,
    subsets: np.ndarray | None = None,
    bounds: Bounds | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Correlate what the map says that a set of features is worth with what the score loses without them.

    Bhatt, Weller and Moura 2020: corr_S(sum_{i in S} R_i, f(x) - f(x with x_S = baseline)).

    Parameters
    ----------
    predict, x, relevance, targets, baseline, bounds
        As for `pixel_flipping`.
    subset : float or int
        Size of the sets: a share below 1, or how many features.
    runs : int
        How many sets.
    subsets : ndarray of int [runs, size] or [n, runs, size], or None
        The sets themselves, as places in a flattened map.
    seed : int

    Returns
    -------
    ndarray [n], float64
        Pearson's correlation, from -1 to 1; NaN where the map or the score doesn't change.

    Raises
    ------
    EvaluationError
    """
    x, relevance, targets = checked(x, relevance, targets)
    other = np.broadcast_to(baseline_values(baseline, x, bounds, seed), x.shape)
    flat = relevance.reshape(len(x), -1).astype(np.float64)
    features = flat.shape[1]
    if subsets is None:
        size = max(round(subset * features), 1) if isinstance(subset, float) and 0 < subset < 1 else whole(subset, "subset")
        if size > features:
            raise EvaluationError(f"subset is {size}, but a map has {features} features; give fewer, or a share below 1")
        subsets = random_subsets(features, size, whole(runs, "runs", 2), seed)
    subsets = np.asarray(subsets)
    own = subsets.ndim == 3  # each input has sets of its own
    runs = subsets.shape[-2]
    before = of_targets(predict, x, targets)
    lost, worth = np.empty((len(x), runs)), np.empty((len(x), runs))
    together = max(BATCH // max(len(x), 1), 1)
    rows = np.arange(len(x))[:, None]
    for at in range(0, runs, together):
        changed, some = [], range(at, min(at + together, runs))
        for run in some:
            places = subsets[:, run] if own else np.broadcast_to(subsets[run], (len(x), subsets.shape[-1]))
            mask = np.zeros((len(x), features), bool)
            mask[rows, places] = True
            worth[:, run] = flat[rows, places].sum(axis=1)
            changed.append(np.where(mask.reshape(relevance.shape), other, x))
        found = of_targets(predict, np.concatenate(changed), np.tile(targets, len(some)))
        lost[:, at : at + len(some)] = before[:, None] - found.reshape(len(some), len(x)).T
    return pearson(worth, lost)


def sufficiency(relevance: np.ndarray, classes: np.ndarray, *, threshold: float = 0.6, alone: float = np.nan) -> np.ndarray:
    """Tell for each input how many of those with a similar explanation have the same class.

    Dasgupta, Frost and Moshkovitz 2022 (local sufficiency), an explanation holding for all inputs whose maps are near: by
    Euclidean distance in units of each feature's standard deviation over the inputs, at most `threshold` of the largest between any two.

    Parameters
    ----------
    relevance : ndarray [n, ...]
    classes : ndarray [n] of int
        What the model takes each input for.
    threshold : float
    alone : float
        The value for inputs that have nobody near: nothing is known of them.

    Returns
    -------
    ndarray [n], float64
        From 0 to 1.

    Raises
    ------
    EvaluationError
    """
    flat = np.asarray(relevance, np.float64).reshape(len(relevance), -1)
    classes = np.asarray(classes)
    if classes.shape != (len(flat),):
        raise EvaluationError(f"there are {len(flat)} maps, but classes of shape {classes.shape}; give one for each")
    if not threshold >= 0:
        raise EvaluationError(f"threshold is {threshold!r}; expected a number >= 0")
    deviation = flat.std(axis=0)
    known = deviation > 0  # what is the same in all inputs tells none from another
    flat = flat[:, known] / deviation[known]
    distances = np.stack([np.sqrt(((flat - each) ** 2).sum(axis=1)) for each in flat]) if len(flat) else np.zeros((0, 0))
    largest = distances.max(initial=0.0)
    near = distances <= threshold * largest
    np.fill_diagonal(near, False)
    agree = (near & (classes[:, None] == classes)).sum(axis=1)
    count = near.sum(axis=1)
    return np.where(count > 0, agree / np.maximum(count, 1), alone)


def pearson(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of rows, [n, k] and [n, k] -> [n]; NaN where one of them is constant."""
    a, b = (np.asarray(each, np.float64) for each in (a, b))
    constant = (np.ptp(a, axis=1) == 0) | (np.ptp(b, axis=1) == 0)
    a, b = (each - each.mean(axis=1, keepdims=True) for each in (a, b))
    size = np.sqrt((a * a).sum(axis=1)) * np.sqrt((b * b).sum(axis=1))
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(constant, np.nan, np.clip((a * b).sum(axis=1) / size, -1, 1))


def checked(x: Any, relevance: Any, targets: Any) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return inputs, maps that broadcast to them, and targets.

    Raises
    ------
    EvaluationError
        If they don't fit each other.
    """
    x, targets = np.asarray(x), np.asarray(targets)
    if x.dtype.kind not in "fiu" or x.ndim < 2:
        raise EvaluationError(f"inputs have shape {x.shape} and dtype {x.dtype}; expected numbers [n, ...]")
    x = x if x.dtype.kind == "f" else x.astype(np.float32)
    if targets.shape != (len(x),) or (targets.dtype.kind not in "iu" and targets.size):
        raise EvaluationError(f"targets have shape {targets.shape} and dtype {targets.dtype}; {len(x)} inputs take one whole number each")
    return x, features_of(x, relevance), targets.astype(np.int64)


def of_targets(predict: Predict, x: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """Return the targets' scores, [n] float64, a few inputs at a time.

    Raises
    ------
    EvaluationError
        If `predict` doesn't give a score for each class.
    """
    found = np.empty(len(x))
    for at in range(0, len(x), BATCH):
        some = x[at : at + BATCH]
        scores = np.asarray(predict(some))
        if scores.ndim != 2 or len(scores) != len(some):
            raise EvaluationError(f"predict gave shape {scores.shape} for {len(some)} inputs; expected [{len(some)}, classes]")
        chosen = targets[at : at + len(some)]
        if len(some) and not 0 <= chosen.min() <= chosen.max() < scores.shape[1]:
            raise EvaluationError(f"there is a target {chosen.max()}, but predict gives {scores.shape[1]} classes")
        found[at : at + len(some)] = scores[np.arange(len(some)), chosen]
    return found
