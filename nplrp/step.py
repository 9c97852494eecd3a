"""One layer as it is computed: what `nplrp.plan` makes of a model's layers, and what `nplrp.layers` runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nplrp.model import Shape, Window
from nplrp.workspace import Room


@dataclass(frozen=True, eq=False)
class Step:
    """One layer as it is computed.

    Attributes
    ----------
    name : str
        The layer's.
    kind : str
        ``conv``, ``dense``, ``scale``, ``avgpool`` (linear), ``maxpool``, or ``reshape``, ``pad``, ``identity``.
    input_shape, output_shape : tuple of int
        Without the batch axis.
    activation : str
        ``"linear"``, ``"relu"`` or ``"softmax"``.
    window : Window or None
    pads : (int, int, int, int) or None
    weight, bias : ndarray or None
        In the plan's dtype: HWIO, (in, out), or (channels,) of a scale. Linear steps always have a bias, zeros if the layer has none.
    merged : bool
        A batch norm that lives in a neighbour's weights.
    algorithm : str
        ``"auto"`` or ``"direct"``.
    prepared : dict
        Packed weights by change; filled on first use and shared by every plan of the model and dtype.
    room : Room
        What may be held for speed alone, by all steps of the model together.
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    activation: str = "linear"
    window: Window | None = None
    pads: tuple[int, int, int, int] | None = None
    weight: np.ndarray | None = field(default=None, repr=False)
    bias: np.ndarray | None = field(default=None, repr=False)
    merged: bool = False
    algorithm: str = "auto"
    prepared: dict[Any, Any] = field(default_factory=dict, repr=False)
    room: Room = field(default_factory=lambda: Room(0), repr=False)

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what is prepared: it can be made again."""
        return {**self.__dict__, "prepared": {}}
