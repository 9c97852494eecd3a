"""A model's scores and maps of many inputs, equal inputs computed once: metrics and composites share what they share."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.errors import InputWarning, nearest
from nplrp.evaluate.errors import EvaluationError
from nplrp.model import Model
from nplrp.outputs import logits, predict
from nplrp.scores import scoring_of

#: What a score is: what the model gives (of several logits their softmax), or the logit before it.
SCORES = ("probability", "logit")
#: Inputs that are explained at once, and measured together.
CHUNK = 8


def scores_of(model: Model, x: np.ndarray, score: str = "probability", dtype: Any = "float32", algorithm: str = "auto") -> np.ndarray:
    """Return the score of each class, [n, classes].

    Parameters
    ----------
    model : Model
    x : ndarray [n, *input_shape]
    score : {"probability", "logit"}
        What the model gives, or the softmax of its logits if it gives several of those; or the logits.
    dtype, algorithm
        As for `nplrp.explain`.

    Raises
    ------
    EvaluationError
        If there is no such score.
    """
    check_score(score)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", InputWarning)  # of changed inputs; whoever explains the input itself is warned
        output = predict(model, x, dtype, algorithm) if score == "probability" else logits(model, x, dtype, algorithm)
    return of_outputs(model, output, output, score)


def of_outputs(model: Model, output: np.ndarray, sums: np.ndarray, score: str) -> np.ndarray:
    """Return the score of each class [n, classes] from the model's output or its logits, [n, *output_shape]."""
    scoring = scoring_of(model)
    if score == "logit":
        return scoring.logits(sums)
    return scoring.scores(layers.softmax(output) if scoring.what == "logit" and scoring.has_softmax else output)


def check_score(score: str) -> None:
    """Raise an EvaluationError if there is no such score."""
    if score not in SCORES:
        raise EvaluationError(f"there is no score {score!r}; {nearest(score, SCORES)}")


class Once:
    """A function of inputs that is called once for equal ones.

    Parameters
    ----------
    function : callable
        (x [m, *shape]) -> [m, ...].
    size : int
        How many bytes of results are kept at most; the oldest go first.

    Attributes
    ----------
    asked, computed : int
        Inputs.
    """

    def __init__(self, function: Callable[[np.ndarray], np.ndarray], size: int = 256_000_000) -> None:
        self._function, self._size, self._held = function, size, 0
        self._known: dict[bytes, np.ndarray] = {}
        self.asked = self.computed = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the function's values, computing those that aren't known."""
        keys = [digest(each) for each in x]
        new = {key: i for i, key in enumerate(keys) if key not in self._known}
        found = dict(zip(new, self._function(x[list(new.values())]), strict=True)) if new or not len(x) else {}
        self.asked, self.computed = self.asked + len(keys), self.computed + len(new)
        results = [found[key] if key in found else self._known[key] for key in keys]
        for key, value in found.items():
            self._known[key] = value.copy()
            self._held += value.nbytes
        while self._held > self._size:
            self._held -= self._known.pop(next(iter(self._known))).nbytes
        return np.stack(results) if results else self._function(x)

    def forget(self) -> None:
        """Drop what is known."""
        self._known.clear()
        self._held = 0


def digest(x: np.ndarray) -> bytes:
    """Return what tells one input from another."""
    return hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).digest()
