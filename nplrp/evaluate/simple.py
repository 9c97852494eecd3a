"""How simple a map is, whatever the model: how much of it lies in how few features."""

from __future__ import annotations

import numpy as np

from nplrp.evaluate.errors import EvaluationError


def sparseness(relevance: np.ndarray, *, offset: float = 0.0) -> np.ndarray:
    """Return the Gini index of |R|: 0 if all features have the same, (n - 1) / n if one has all.

    Chalasani et al. 2020, after Hurley and Rickard 2009: sum_k (2 k - n - 1) v_(k) / (n sum_k v_(k)), v_(1) <= ... <= v_(n).

    Parameters
    ----------
    relevance : ndarray [n, ...]
    offset : float
        Added to every |R|; Quantus adds 1e-7.

    Returns
    -------
    ndarray [n], float64
        NaN for a map of zeros.

    Raises
    ------
    EvaluationError
        If a map holds a NaN or an infinity.
    """
    v = np.sort(np.abs(_flat(relevance)) + offset, axis=1)
    n = v.shape[1]
    with np.errstate(invalid="ignore", divide="ignore"):
        return (v * (2 * np.arange(1, n + 1) - n - 1)).sum(axis=1) / (n * v.sum(axis=1))


def complexity(relevance: np.ndarray, *, offset: float = 0.0) -> np.ndarray:
    """Return the entropy of the features' shares of |R|, in nats: 0 if one has all, ln n if all have the same.

    Bhatt, Weller and Moura 2020: -sum_i P_i ln P_i, P_i = |R_i| / sum_j |R_j|.

    Parameters
    ----------
    relevance : ndarray [n, ...]
    offset : float
        Added to P inside the logarithm; Quantus adds 1e-12.

    Returns
    -------
    ndarray [n], float64
        NaN for a map of zeros.

    Raises
    ------
    EvaluationError
        If a map holds a NaN or an infinity.
    """
    v = np.abs(_flat(relevance))
    with np.errstate(invalid="ignore", divide="ignore"):
        p = v / v.sum(axis=1, keepdims=True)
        return -np.where(p == 0, 0.0, p * np.log(p + offset)).sum(axis=1) + 0.0


def _flat(relevance: np.ndarray) -> np.ndarray:
    array = np.asarray(relevance)
    if array.ndim < 2 or array.dtype.kind not in "fiu" or not np.isfinite(array).all():
        raise EvaluationError(f"maps of shape {array.shape} and dtype {array.dtype}: expected finite numbers [n, ...]")
    return array.reshape(len(array), -1).astype(np.float64)
