"""What of an input is replaced, in which order, and with what.

An input is one array of `x` [n, *shape]; its features are the numbers of a map: pixels, if the map has one number for each of them, or
single values, if it has the input's own shape. Regions are square patches of pixels, or features.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import nearest
from nplrp.evaluate.errors import EvaluationError

#: Which regions are replaced first: the most relevant, the least relevant, or any.
ORDERS = ("morf", "lerf", "random")

Bounds = tuple[np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Baseline:
    """What features are replaced with.

    Attributes
    ----------
    name : str
    says : str
        What it is, for lists of them.
    make : callable
        (x [n, *shape], bounds, generator) -> array that broadcasts to x; bounds are the least and the largest value [shape or fewer axes],
        or None where nothing tells.
    """

    name: str
    says: str
    make: Callable[[np.ndarray, Bounds | None, np.random.Generator], np.ndarray]


def _axes(x: np.ndarray) -> tuple[int, ...]:
    """Return the axes of a picture or sequence but its channels; of a vector its only one."""
    return tuple(range(1, max(x.ndim - 1, 2)))


def _black(x: np.ndarray, bounds: Bounds | None, rng: np.random.Generator) -> np.ndarray:
    return np.zeros(1) if bounds is None else np.asarray(bounds[0])


def _mean(x: np.ndarray, bounds: Bounds | None, rng: np.random.Generator) -> np.ndarray:
    return x.mean(axis=_axes(x), keepdims=True, dtype=np.float64)


def _minimum(x: np.ndarray, bounds: Bounds | None, rng: np.random.Generator) -> np.ndarray:
    return x.min(axis=tuple(range(1, x.ndim)), keepdims=True)


def _uniform(x: np.ndarray, bounds: Bounds | None, rng: np.random.Generator) -> np.ndarray:
    draws = rng.random((1, *x.shape[1:]))  # the same for every input, so that none depends on its neighbours
    if bounds is None:
        every = tuple(range(1, x.ndim))
        low, high = x.min(axis=every, keepdims=True), x.max(axis=every, keepdims=True)
    else:
        low, high = bounds
    return low + draws * (high - low)


def _blur(x: np.ndarray, bounds: Bounds | None, rng: np.random.Generator) -> np.ndarray:
    if x.ndim < 3:
        raise EvaluationError(f"there is nothing to blur in a vector of {x.shape[1]} numbers; choose the baseline mean, zero or a number")
    blurred = np.asarray(x, np.float64)
    for axis in _axes(x):
        blurred = _blurred(blurred, axis, sigma=max(x.shape[axis] / 22, 0.5))
    return blurred


def _blurred(x: np.ndarray, axis: int, sigma: float) -> np.ndarray:
    """Blur along an axis with a Gaussian of this standard deviation, the border continued by its own values."""
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights /= weights.sum()
    padded = np.pad(x, [(reach, reach) if each == axis else (0, 0) for each in range(x.ndim)], mode="edge")
    total = np.zeros_like(x)
    for i, weight in enumerate(weights):
        total += weight * np.take(padded, np.arange(i, i + x.shape[axis]), axis)
    return total


BASELINES = MappingProxyType(
    {
        row.name: row
        for row in (
            Baseline("black", "a black picture, prepared as the model's are; 0 where inputs are no pictures", _black),
            Baseline("mean", "each input's own mean, channel by channel", _mean),
            Baseline("blur", "the input, blurred by a Gaussian of 1/22 of its sides (10 pixels of 224)", _blur),
            Baseline("uniform", "noise between a pixel's least and largest value; the same for all inputs", _uniform),
            Baseline("zero", "0 as the model sees it", lambda x, bounds, rng: np.zeros(1)),
            Baseline("minimum", "each input's least number, which Quantus calls black", _minimum),
        )
    }
)


def baseline_values(what: str | float | np.ndarray, x: np.ndarray, bounds: Bounds | None = None, seed: int = 0) -> np.ndarray:
    """Return what features of x are replaced with.

    Parameters
    ----------
    what : str, number or ndarray
        One of `BASELINES`, a value, or values that broadcast to x.
    x : ndarray [n, *shape]
    bounds : (ndarray, ndarray) or None
        The least and the largest value that a feature can have, which broadcast to x; None if nothing tells.
    seed : int

    Returns
    -------
    ndarray
        Broadcasts to x, in its dtype.

    Raises
    ------
    EvaluationError
        If there is no such baseline, it can't be made of such inputs, or it doesn't fit them.
    """
    if isinstance(what, str):
        row = BASELINES.get(what)
        if row is None:
            raise EvaluationError(f"there is no baseline {what!r}; {nearest(what, BASELINES)}, or a number")
        what = row.make(x, bounds, np.random.default_rng(seed))
    try:
        values = np.asarray(what, x.dtype)
        np.broadcast_to(values, x.shape)
    except (TypeError, ValueError):
        raise EvaluationError(
            f"the baseline {np.shape(what)} doesn't broadcast to inputs of shape {x.shape}; give a name, a number, or one value a feature"
        ) from None
    if not np.isfinite(values).all():
        raise EvaluationError("the baseline holds a NaN or an infinity; give finite numbers")
    return values


def features_of(x: np.ndarray, relevance: np.ndarray, what: str = "the map") -> np.ndarray:
    """Return maps as [n, *features, 1 or nothing] that broadcasts to x: one number for each pixel, or for each value.

    Raises
    ------
    EvaluationError
        If they don't fit x, or hold a NaN or an infinity.
    """
    relevance = np.asarray(relevance)
    if relevance.shape == x.shape[:-1] and x.ndim > 2:
        relevance = relevance[..., None]
    if relevance.ndim != x.ndim or relevance.shape[:-1] != x.shape[:-1] or relevance.shape[-1] not in (1, x.shape[-1]):
        pixels = f", or one number a pixel {x.shape[:-1]}" if x.ndim > 2 else ""
        raise EvaluationError(f"{what} has shape {relevance.shape}; inputs of shape {x.shape} take maps of the same{pixels}")
    if relevance.dtype.kind not in "fiu" or not np.isfinite(relevance).all():
        raise EvaluationError(f"{what} holds a NaN, an infinity or no numbers ({relevance.dtype}); give finite floats")
    return relevance


def regions(shape: tuple[int, ...], patch: int = 1) -> np.ndarray:
    """Give every feature of a map the number of its region: squares of `patch` pixels, the grid centred, or each feature by itself.

    Parameters
    ----------
    shape : tuple of int
        Of one map: (H, W, 1 or C), (steps, 1 or C) or (features,).
    patch : int
        Side of a square; a region has all channels. 1: each feature.

    Returns
    -------
    ndarray [*shape] of int
        0 to regions - 1, row by row.

    Raises
    ------
    EvaluationError
        If patches are asked for in a vector, or one is larger than the picture.

    Examples
    --------
    >>> regions((2, 4, 1), 2)[..., 0]
    array([[0, 0, 1, 1],
           [0, 0, 1, 1]])
    """
    patch = whole(patch, "patch")
    if patch == 1:
        return np.arange(int(np.prod(shape))).reshape(shape)
    sides = shape[:-1]
    if not sides or patch > max(sides):
        raise EvaluationError(f"there are no patches of {patch} pixels in inputs of shape {shape}; give a smaller patch, or 1")
    label = np.zeros(sides, np.int64)
    for axis, side in enumerate(sides):
        missing = -side % patch
        places = (np.arange(side) + missing // 2) // patch
        label = label * (places[-1] + 1) + np.expand_dims(places, [a for a in range(len(sides)) if a != axis])
    return np.broadcast_to(label[..., None], shape)


def ranks_in_order(relevance: np.ndarray, patch: int = 1, order: str = "morf", seed: int = 0) -> tuple[np.ndarray, int]:
    """Tell when each feature's turn comes.

    Parameters
    ----------
    relevance : ndarray [n, *features]
    patch : int
        As for `regions`; a region's relevance is the sum over its features.
    order : {"morf", "lerf", "random"}
        Most relevant first, least relevant first, or at random, then the same for all inputs. Of equals the first comes first.
    seed : int

    Returns
    -------
    (ndarray [n, *features] of int, int)
        The turn of each feature's region, from 0, and how many there are.

    Raises
    ------
    EvaluationError
    """
    if order not in ORDERS:
        raise EvaluationError(f"there is no order {order!r}; {nearest(order, ORDERS)}")
    n, shape = len(relevance), relevance.shape[1:]
    label = regions(shape, patch).reshape(-1)
    count = int(label.max()) + 1
    if order == "random":
        sequence = np.broadcast_to(np.random.default_rng(seed).permutation(count), (n, count))
    else:
        flat = np.asarray(relevance, np.float64).reshape(n, -1)
        if count < flat.shape[1]:
            flat = np.stack([np.bincount(label, each, count) for each in flat]) if n else np.zeros((0, count))
        sequence = np.argsort(-flat if order == "morf" else flat, axis=1, kind="stable")
    turns = np.empty((n, count), np.int32)
    np.put_along_axis(turns, sequence, np.broadcast_to(np.arange(count, dtype=np.int32), (n, count)), axis=1)
    return turns[:, label].reshape(relevance.shape), count


def boxes_in_order(turns: np.ndarray, patch: int, most: int) -> np.ndarray:
    """Return where the first patches lie, in their order.

    Parameters
    ----------
    turns : ndarray [n, h, w, 1 or c] of int
        From `ranks_in_order`.
    patch : int
    most : int
        How many patches.

    Returns
    -------
    ndarray [n, most, 2, 2] of int
        (first, end) of rows and of columns.
    """
    sides = []
    for side in turns.shape[1:3]:
        edges = np.r_[0, np.arange(patch - (-side % patch) // 2, side, patch), side]
        sides.append(list(itertools.pairwise(edges)))
    boxes = np.array([(rows, columns) for rows in sides[0] for columns in sides[1]])
    order = np.argsort(turns[:, boxes[:, 0, 0], boxes[:, 1, 0], 0], axis=1)
    return boxes[order[:, :most]]


def whole(value: Any, name: str, least: int = 1) -> int:
    """Return a parameter that is a whole number.

    Raises
    ------
    EvaluationError
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < least:
        raise EvaluationError(f"{name} is {value!r}; expected a whole number >= {least}")
    return int(value)
