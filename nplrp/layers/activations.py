"""Activations: what follows a layer's own operation, number by number, or a softmax over the last axis."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers.base import Step
from nplrp.layers.lines import threads


@dataclass(frozen=True)
class Activation:
    """What the engine has to know of an activation.

    Attributes
    ----------
    name : str
    opens : bool
        y = max(z, 0): a unit is open or shut, so that y > 0 tells as much as z > 0.
    positive : bool
        y is never negative.
    score : bool
        As the last thing of a model it makes scores of the logits, and LRP begins before it.
    """

    name: str
    opens: bool = False
    positive: bool = False
    score: bool = True


ACTIVATIONS = MappingProxyType(
    {
        each.name: each
        for each in (
            Activation("linear", score=False),
            Activation("relu", opens=True, positive=True, score=False),
            Activation("softmax", positive=True),
        )
    }
)


def activation(name: str) -> Activation:
    """Return the activation that a layer names.

    Raises
    ------
    ModelError
        If there is none of that name.
    """
    found = ACTIVATIONS.get(name)
    if found is None:
        raise ModelError(f"there is no activation {name!r}; there are {', '.join(ACTIVATIONS)}")
    return found


def activate(step: Step, z: np.ndarray, in_place: bool) -> np.ndarray:
    """Apply a step's activation to z [n, *output_shape]; z may be overwritten if `in_place`."""
    from nplrp.kernels import elementwise

    if step.activation == "linear":
        return z
    if step.activation == "softmax":
        return softmax(z)
    a = z if in_place else np.empty_like(z)
    elementwise.relu(z, a, threads())
    return a


def softmax(z: np.ndarray) -> np.ndarray:
    """Return exp(z) / sum(exp(z)) over the last axis of z [..., units]."""
    from nplrp.kernels import softmax as kernel

    p = np.empty_like(z)
    kernel.softmax(z.reshape(-1, z.shape[-1]), p.reshape(-1, z.shape[-1]))
    return p


__all__ = ["ACTIVATIONS", "Activation", "activate", "activation", "softmax"]
