"""How much a map changes when the input hardly does.

`explain` is any function (x [m, *shape]) -> maps [m, ...] that explains input i as it did the original i modulo n: the originals are
repeated in order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np

from nplrp.errors import nearest
from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.perturbing import Bounds, whole

Explain = Callable[[np.ndarray], np.ndarray]

#: What maps are divided by before they are compared: each by its own largest magnitude, nothing, or the largest of a sample of all inputs.
SCALES = ("map", "none", "batch")
#: Inputs that are explained at once.
BATCH = 8


def uniform_noise(x: np.ndarray, radius: float = 0.02, samples: int = 10, bounds: Bounds | None = None, seed: int = 0) -> np.ndarray:
    """Return changes of every feature, evenly between -radius and radius of its range, [samples, 1, *shape]: the same for every input.

    The range is what `bounds` tell, else from the least to the largest number of each input ([samples, n, *shape]).
    """
    if not radius > 0:
        raise EvaluationError(f"radius is {radius!r}; expected a share of a feature's range above 0")
    draws = np.random.default_rng(seed).uniform(-radius, radius, (whole(samples, "samples"), 1, *x.shape[1:]))
    if bounds is not None:
        return draws * (bounds[1] - bounds[0])
    every = tuple(range(1, x.ndim))
    return draws * (x.max(axis=every, keepdims=True) - x.min(axis=every, keepdims=True))


def local_lipschitz(
    explain: Explain,
    x: np.ndarray,
    relevance: np.ndarray,
    *,
    samples: int = 10,
    radius: float = 0.02,
    scale: str = "map",
    noise: np.ndarray | None = None,
    bounds: Bounds | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Estimate how many times as far as the input a map moves: max |R(x) - R(x')| / |x - x'|.

    Alvarez-Melis and Jaakkola 2018; the neighbourhood is sampled.

    Parameters
    ----------
    explain : callable
        (x [m, *shape]) -> maps [m, ...].
    x : ndarray [n, *shape]
    relevance : ndarray [n, ...]
        Of x, as `explain` gives it.
    samples : int
        Neighbours of each input.
    radius : float
        How far features move at most, in shares of their range.
    scale : {"map", "none", "batch"}
        What maps are divided by first.
    noise : ndarray [samples, 1 or n, *shape], or None
        The changes themselves.
    bounds : (ndarray, ndarray) or None
        As for `nplrp.evaluate.baseline_values`.
    seed : int

    Returns
    -------
    ndarray [n], float64

    Raises
    ------
    EvaluationError
    """
    x = np.asarray(x)
    noise = uniform_noise(x, radius, samples, bounds, seed) if noise is None else noise
    worst = np.zeros(len(x))
    before = _scaled(relevance, scale)
    for near, after in _moved(explain, x, noise, scale):
        way = _norms(near.astype(np.float64) - x)
        far = _norms(after - before)
        worst = np.fmax(worst, np.divide(far, way, out=np.zeros_like(far), where=way > 0))
    return worst


def max_sensitivity(
    explain: Explain,
    x: np.ndarray,
    relevance: np.ndarray,
    *,
    samples: int = 10,
    radius: float = 0.02,
    scale: str = "none",
    noise: np.ndarray | None = None,
    bounds: Bounds | None = None,
    seed: int = 0,
) -> np.ndarray:
    """Return the largest change of a map in its own size: max |R(x') - R(x)| / |R(x)|.

    Yeh et al. 2019, divided by the map's norm so that maps of any unit can be compared; the neighbourhood is sampled.

    Parameters
    ----------
    explain, x, relevance, samples, radius, scale, noise, bounds, seed
        As for `local_lipschitz`.

    Returns
    -------
    ndarray [n], float64
        NaN for a map of zeros.

    Raises
    ------
    EvaluationError
    """
    x = np.asarray(x)
    noise = uniform_noise(x, radius, samples, bounds, seed) if noise is None else noise
    before, worst = _scaled(relevance, scale), np.zeros(len(x))
    for _, after in _moved(explain, x, noise, scale):
        worst = np.fmax(worst, _norms(after - before))
    with np.errstate(invalid="ignore", divide="ignore"):
        size = _norms(before)
        return np.where(size > 0, worst / size, np.nan)


def _moved(explain: Explain, x: np.ndarray, noise: np.ndarray, scale: str) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield neighbours [n, *shape] and their maps, scaled, sample by sample."""
    together = max(BATCH // max(len(x), 1), 1)
    for at in range(0, len(noise), together):
        near = [(x + change).astype(x.dtype) for change in noise[at : at + together]]
        maps = np.asarray(explain(np.concatenate(near)))
        if len(maps) != len(near) * len(x):
            raise EvaluationError(f"explain gave {len(maps)} maps for {len(near) * len(x)} inputs; expected one for each")
        for one, after in zip(near, np.split(maps, len(near)), strict=True):
            yield one, _scaled(after, scale)


def _scaled(relevance: np.ndarray, scale: str) -> np.ndarray:
    """Return maps divided by what `scale` says; a map of zeros stays one."""
    if scale not in SCALES:
        raise EvaluationError(f"there is no scale {scale!r}; {nearest(scale, SCALES)}")
    relevance = np.asarray(relevance, np.float64)
    if scale == "none":
        return relevance
    axes = None if scale == "batch" else tuple(range(1, relevance.ndim))
    largest = np.abs(relevance).max(axis=axes, keepdims=True, initial=0.0)
    return relevance / np.where(largest > 0, largest, 1)


def _norms(a: np.ndarray) -> np.ndarray:
    return np.sqrt((a.reshape(len(a), -1) ** 2).sum(axis=1))
