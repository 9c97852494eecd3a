"""Does a map depend on what the network has learned? Its weights are replaced by random ones, layer by layer (Adebayo et al. 2018)."""

from __future__ import annotations

import dataclasses
import zlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp.errors import LayerError, nearest
from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.perturbing import whole
from nplrp.layers import Layer
from nplrp.model import Model

#: ``"top_down"``: a layer and all above it, the paper's cascading randomisation; ``"independent"``: the layers that are named alone.
ORDERS = ("top_down", "independent")
#: ``"initial"``: as before training, by Keras's defaults (kernels after Glorot and Bengio 2010, biases 0, gammas 1); what a norm has
#: measured (mean, variance) is kept, for it is no parameter. ``"shuffle"``: each array's own numbers in another order.
HOW = ("initial", "shuffle")
#: What training doesn't change.
_MEASURED = ("mean", "variance")
#: Kinds whose arrays are constants of a configuration, such as a rescaling's.
_GIVEN = ("affine",)
#: What biases and factors begin with; kernels are drawn.
_INITIAL = {"gamma": 1.0, "scale": 1.0, "beta": 0.0, "bias": 0.0, "offset": 0.0, "alpha": 0.25}


def layers_with_weights(model: Model) -> tuple[str, ...]:
    """Return the names of the layers that can be randomised, from the output down."""
    learned = (layer for layer in reversed(model.layers) if layer.kind not in _GIVEN)
    return tuple(layer.name for layer in learned if any(key not in _MEASURED for key in layer.arrays))


def randomise(
    model: Model, seed: int = 0, layers: str | Sequence[str] | None = None, order: str = "top_down", how: str = "initial"
) -> Model:
    """Return a model with random weights in some layers; the other layers' arrays are the model's own, not copies.

    A layer's weights depend on the seed, its name and its shapes alone: they are the same in whatever company it is randomised.

    Parameters
    ----------
    model : Model
    seed : int
    layers : str, sequence of str, or None
        Which layers; None: all.
    order : {"top_down", "independent"}
        ``"top_down"``: from the output down to the lowest of `layers`, which all are randomised; ``"independent"``: `layers` alone.
    how : {"initial", "shuffle"}
        See `HOW`.

    Returns
    -------
    Model

    Raises
    ------
    LayerError
        If there is no such layer, or it has no weights.
    EvaluationError
        If the order or the way is unknown.

    Source: Adebayo et al. 2018.
    """
    for value, known, what in ((order, ORDERS, "order"), (how, HOW, "way")):
        if value not in known:
            raise EvaluationError(f"there is no {what} {value!r} of randomising; {nearest(value, known)}")
    whole(seed, "seed", 0)
    weighted = layers_with_weights(model)
    wanted = weighted if layers is None else (layers,) if isinstance(layers, str) else tuple(layers)
    for name in wanted:
        if name not in weighted:
            reason = "has no weights" if name in {layer.name for layer in model} else "isn't in the model"
            raise LayerError(f"layer {name!r} {reason}, so it can't be randomised; {nearest(name, weighted, 'nplrp info lists them')}")
    if order == "top_down" and wanted:
        wanted = weighted[: max(map(weighted.index, wanted)) + 1]
    changed = tuple(random_layer(layer, seed, how) if layer.name in wanted else layer for layer in model)
    return _like(model, layers=changed, source=None)


def _like(model: Model, **fields: Any) -> Model:
    """Return a model with other fields; that its weights are finite need not be found out again, as what is drawn is."""
    other = dataclasses.replace(model, **fields)
    other.kept.weights_checked = model.kept.weights_checked
    return other


def random_layer(layer: Layer, seed: int, how: str = "initial") -> Layer:
    """Return a layer with random weights, as `randomise` gives them."""
    arrays = {}
    for key, array in layer.arrays.items():
        if key in _MEASURED:
            arrays[key] = array
            continue
        rng = np.random.default_rng([seed, zlib.crc32(layer.name.encode()), zlib.crc32(key.encode())])
        if how == "shuffle":
            arrays[key] = rng.permutation(np.ravel(array)).reshape(array.shape)
        elif key in _INITIAL:
            arrays[key] = np.full_like(array, _INITIAL[key])
        else:
            arrays[key] = _glorot(rng, array)
    return dataclasses.replace(layer, arrays=arrays)


def _glorot(rng: np.random.Generator, like: np.ndarray) -> np.ndarray:
    """Draw evenly from -l to l, l = sqrt(6 / (fan in + fan out)) (Glorot and Bengio 2010, equation 16), as Keras counts them."""
    field = int(np.prod(like.shape[:-2], dtype=np.int64))
    fans = sum(like.shape[-2:]) * field if like.ndim > 1 else 2 * like.size
    limit = like.dtype.type(np.sqrt(6 / max(fans, 1)))
    draws = rng.random(like.shape, dtype=np.float32 if like.dtype == np.float32 else np.float64)
    draws *= 2 * limit
    draws -= limit
    return draws.astype(like.dtype, copy=False)


def randomised(model: Model, seed: int = 0, order: str = "top_down", how: str = "initial") -> Iterator[tuple[str, Model]]:
    """Yield (layer, model) from the output down, each with one layer more randomised, or with that layer alone."""
    at = model
    for name in layers_with_weights(model):
        at = randomise(at if order == "top_down" else model, seed, name, "independent", how)
        yield name, _like(at, source=f"{model.source or model.name}, random {order} {name} ({how}, seed {seed})")


@dataclass(frozen=True, eq=False)
class Decay:
    """How alike maps stay while weights are replaced.

    Attributes
    ----------
    layers : tuple of str
        From the output down.
    correlations : ndarray [n, layers], float64
        Spearman's, of each map with that of the randomised model.
    """

    layers: tuple[str, ...]
    correlations: np.ndarray

    @property
    def mean(self) -> np.ndarray:
        """Mean over the layers where there is a correlation, [n]: near 0 if maps depend on what was learned."""
        known = np.isfinite(self.correlations)
        total = np.where(known, self.correlations, 0).sum(axis=1)
        return np.where(known.any(axis=1), total / np.maximum(known.sum(axis=1), 1), np.nan)


def mprt(
    explain: Callable[[Model], np.ndarray],
    model: Model,
    relevance: np.ndarray,
    *,
    order: str = "top_down",
    how: str = "initial",
    absolute: bool = False,
    seed: int = 0,
) -> Decay:
    """Compare maps with those of the same model with random weights: the model-parameter randomisation test.

    Adebayo et al. 2018: rank correlation of the maps, the weights being randomised from the output down, or one layer at a time.

    Parameters
    ----------
    explain : callable
        (model) -> maps [n, ...] of the same inputs and targets.
    model : Model
    relevance : ndarray [n, ...]
        What it gives for the model itself.
    order : {"top_down", "independent"}
    how : {"initial", "shuffle"}
        See `HOW`.
    absolute : bool
        Compare magnitudes; the paper shows both.
    seed : int

    Returns
    -------
    Decay
        NaN where a map is constant, as where a random network's logit is 0.

    Raises
    ------
    EvaluationError
    """
    if order not in ORDERS:
        raise EvaluationError(f"there is no order {order!r} of randomising; {nearest(order, ORDERS)}")
    shown = np.abs if absolute else np.asarray
    ranks = average_ranks(shown(relevance))
    names, found = [], []
    for name, changed in randomised(model, seed, order, how):
        names.append(name)
        found.append(rank_correlation(ranks, average_ranks(shown(explain(changed)))))
    if not names:
        raise EvaluationError(f"{model.name} has no weights, so there is nothing to randomise")
    return Decay(tuple(names), np.stack(found, axis=1))


def spearman(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Spearman's rank correlation of each map with its partner, [n, ...] and [n, ...] -> [n]; NaN where one is constant."""
    return rank_correlation(average_ranks(a), average_ranks(b))


def average_ranks(a: np.ndarray) -> np.ndarray:
    """Return each number's rank in its map from 1, equal ones sharing their mean: [n, ...] -> [n, k] float64.

    Examples
    --------
    >>> average_ranks(np.array([[2.0, 1.0, 2.0]]))
    array([[2.5, 1. , 2.5]])
    """
    flat = np.asarray(a).reshape(len(a), -1)
    ranks = np.empty(flat.shape)
    for row, into in zip(flat, ranks, strict=True):
        order = np.argsort(row, kind="stable")
        ordered = row[order]
        first = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
        last = np.r_[first[1:], len(row)]
        into[order] = np.repeat((first + 1 + last) / 2, last - first)
    return ranks


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return Pearson's correlation of ranks [n, k] and [n, k] -> [n]."""
    from nplrp.evaluate.faithful import pearson

    if a.shape != b.shape:
        raise EvaluationError(f"maps have {a.shape} and {b.shape} numbers; expected the same")
    return pearson(a, b)
