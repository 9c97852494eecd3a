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


def check_features(features: str) -> None:
    """Raise an EvaluationError if there are no such features."""
    if features not in ("pixels", "values"):
        raise EvaluationError(f"there are no features {features!r}; {nearest(features, ('pixels', 'values'))}")


class Once:
    """A function of inputs that is called once for equal ones.

    Parameters
    ----------
    function : callable
        (x [m, *shape]) -> [m, ...]; with a cycle (x, places [m]).
    size : int
        How many bytes of results are kept at most; the oldest go first.
    cycle : int
        0, or what input i is given stands for its i modulo `cycle`, its place: it is asked for anew at another one.

    Attributes
    ----------
    asked, computed : int
        Inputs.
    """

    def __init__(self, function: Callable[..., np.ndarray], size: int = 256_000_000, cycle: int = 0) -> None:
        self._function, self._size, self._cycle, self._held = function, size, cycle, 0
        self._known: dict[bytes, np.ndarray] = {}
        self.asked = self.computed = 0

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """Return the function's values, computing those that aren't known."""
        places = np.arange(len(x)) % (self._cycle or 1)
        keys = [digest(each) + int(place).to_bytes(4) for each, place in zip(x, places, strict=True)]
        new = {key: i for i, key in reversed(list(enumerate(keys))) if key not in self._known}
        rows = sorted(new.values())
        found = dict(zip([keys[i] for i in rows], self._call(x[rows], places[rows]), strict=True)) if rows else {}
        self.asked, self.computed = self.asked + len(keys), self.computed + len(new)
        results = [found[key] if key in found else self._known[key] for key in keys]
        for key, value in found.items():
            self._known[key] = value.copy()
            self._held += value.nbytes
        while self._held > self._size:
            self._held -= self._known.pop(next(iter(self._known))).nbytes
        return np.stack(results) if results else self._call(x, places)

    def _call(self, x: np.ndarray, places: np.ndarray) -> np.ndarray:
        return self._function(x, places) if self._cycle else self._function(x)

    def forget(self) -> None:
        """Drop what is known."""
        self._known.clear()
        self._held = 0


def digest(x: np.ndarray) -> bytes:
    """Return what tells one input from another."""
    return hashlib.blake2b(np.ascontiguousarray(x).data, digest_size=16).digest()
