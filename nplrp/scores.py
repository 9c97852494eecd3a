"""What a model's outputs are: scores as the model gives them, one for each class that can be explained, and what a pass begins with.

The last activation is the score function and nothing else: relevance begins at the logits, what stands before it. A single sigmoid unit
stands for two classes: 1, whose logit z is the unit's own, and 0, with the logit -z and the score 1 - p. Outputs that are no vector have a
class for each position.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from nplrp.layers import KINDS, OPERATIONS, Layer, Shape, softmax
from nplrp.layers.activations import OVER_AXIS, activation
from nplrp.model import Model

#: What the numbers behind a score function are called; of linear outputs `Scoring.what` tells.
NAMES = MappingProxyType({"softmax": "probability", "log_softmax": "log-probability", "sigmoid": "score"})

#: Starts that begin with all outputs at once unless there is a target.
WHOLE = ("softmax", "all")


@dataclass(frozen=True)
class Scoring:
    """What the outputs of a model are.

    Attributes
    ----------
    function : str
        The last activation, with its parameters.
    shape : tuple of int
        Of the output.
    """

    function: str
    shape: Shape

    @property
    def name(self) -> str:
        """The last activation's name."""
        return activation(self.function).name

    @property
    def binary(self) -> bool:
        """Whether one sigmoid unit tells between two classes."""
        return self.name == "sigmoid" and self.shape == (1,)

    @property
    def classes(self) -> int:
        """How many outputs, or classes, or positions can be explained."""
        return 2 if self.binary else math.prod(self.shape)

    @property
    def what(self) -> str:
        """What a score is: "probability", "log-probability", "score" (of one of several labels), "logit" or "value"."""
        if self.binary:
            return "probability"
        if self.name == "linear":
            return "logit" if len(self.shape) == 1 and self.shape[0] > 1 else "value"
        return NAMES.get(self.name, "value")

    @property
    def said(self) -> str:
        """What the scores are, in words."""
        if self.binary:
            return "the probability of class 1; class 0 has the rest"
        if len(self.shape) > 1:
            return f"a {self.what} at each position"
        if self.shape == (1,):
            return f"one {self.what}"
        several = {"probability": "probabilities", "log-probability": "log-probabilities", "score": "a score for each label"}
        return several.get(self.what, f"{self.what}s")

    @property
    def has_softmax(self) -> bool:
        """Whether the start "softmax" means probabilities that sum to 1: the model's own, or those of its logits."""
        return self.name in OVER_AXIS or self.what == "logit"

    def logits(self, logits: np.ndarray) -> np.ndarray:
        """Return the logit of each class, [n, classes], from the model's [n, *shape]."""
        flat = logits.reshape(len(logits), math.prod(self.shape))
        return np.concatenate([-flat, flat], axis=1) if self.binary else flat

    def scores(self, output: np.ndarray) -> np.ndarray:
        """Return the score of each class, [n, classes], from the model's output [n, *shape]."""
        flat = output.reshape(len(output), math.prod(self.shape))
        return np.concatenate([1 - flat, flat], axis=1) if self.binary else flat

    def begin(self, start: str, logits: np.ndarray, output: np.ndarray, chosen: np.ndarray | None, gradient: bool = False) -> np.ndarray:
        """Return the relevance of the logits that a pass begins with, [n, *shape].

        Parameters
        ----------
        start : str
            ``"one"``: 1 at the target; ``"logit"``: its logit; ``"relu_logit"``: its logit, or 0 if that is negative; ``"softmax"``: its
            probability, or without a target all of them (of a model without a softmax: its scores; where it ends in several logits,
            their softmax); ``"all"``: likewise the logits; ``"contrastive"``: the target's logit, and minus the same amount spread
            evenly over all other outputs (CLRP1; Gu, Yang and Tresp 2018).
        logits, output : ndarray [n, *shape]
            The model's output, and the same before its last activation.
        chosen : ndarray [n] of int, or None
            The targets; None: the largest logit, or all for the starts that can.
        gradient : bool
            Derivatives are carried instead: that of class 0 of a single sigmoid unit is the unit's, negated.
        """
        if chosen is None and start in WHOLE:
            return self._soft(logits, output) if start == "softmax" else logits.copy()
        classes = self.logits(logits)
        chosen = np.argmax(classes, axis=-1) if chosen is None else chosen
        rows = np.arange(len(logits))
        soft = self.scores(self._soft(logits, output)) if start == "softmax" else classes
        values = soft[rows, chosen]
        if start == "one":
            values = np.ones_like(values)
        if start == "relu_logit":
            values = np.maximum(values, 0)
        if self.binary:
            return np.where((chosen == 0) & gradient, -values, values)[:, None]
        R = np.zeros_like(classes)
        if start == "contrastive":
            R[...] = -(values / max(classes.shape[1] - 1, 1))[:, None]
        R[rows, chosen] = values
        return R.reshape(logits.shape)

    def _soft(self, logits: np.ndarray, output: np.ndarray) -> np.ndarray:
        return softmax(logits) if self.has_softmax else output.copy()

    def told(self, start: str) -> str:
        """Return what a start begins with, where its name alone would mislead; else an empty text."""
        if start != "softmax" or self.name == "softmax":
            return ""
        if self.has_softmax:
            return f"the softmax of the model's logits, as it gives {'log-probabilities' if self.name in OVER_AXIS else 'logits'}"
        return f"the model's own output ({self.name}), as it has no softmax"


def scoring_of(model: Model) -> Scoring:
    """Return what a model's outputs are."""
    last = last_computing(model.layers)
    return Scoring(model.layers[last].activation if last >= 0 else "linear", model.output_shape)


def last_computing(layers: Sequence[Layer]) -> int:
    """Return the place of the last layer that does more than look at its numbers: its activation makes the scores; -1 if there is none.

    Flattened or reshaped scores are scores still, unless that takes those apart that a softmax made together.
    """
    turned = -1
    for i in range(len(layers) - 1, -1, -1):
        layer = layers[i]
        looks = OPERATIONS[KINDS[layer.kind].step(layer)["kind"]].view
        if layer.activation != "linear" or not looks:
            whole = activation(layer.activation).name not in OVER_AXIS or layer.output_shape[-1] == layers[-1].output_shape[-1]
            return i if turned < 0 or (activation(layer.activation).score and whole) else turned
        if layer.output_shape != layer.input_shape and turned < 0:
            turned = i
    return turned
