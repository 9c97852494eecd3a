"""What a forward pass leaves for the pass back."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np


@dataclass(frozen=True, eq=False)
class Trace:
    """What a forward pass leaves.

    Attributes
    ----------
    activations : tuple of ndarray
        The model's input, then every step's output [n, *output_shape].
    held : mapping of int to object
        By step: the decisions that make it linear, such as which place of each max-pool window gave the maximum.
    logits : ndarray [n, *output_shape]
        What the scores at the end are made of; the output, if the model makes none.
    denominators : mapping of int to tuple of ndarray
        By step: z of every part of its rule, before stabilising, where the pass has it (`nplrp.fused`).
    """

    activations: tuple[np.ndarray, ...]
    held: Mapping[int, Any]
    logits: np.ndarray
    denominators: Mapping[int, tuple[np.ndarray, ...]]

    @property
    def output(self) -> np.ndarray:
        """The model's output, [n, *output_shape]."""
        return self.activations[-1]
