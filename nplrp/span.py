"""From which layer to which a pass runs, and what is masked on its way: any layer to any layer, channel by channel.

Masking relevance at a layer and going on gives concept-conditional relevance (CRP; Achtibat et al. 2023, Nature Machine Intelligence 5).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp.errors import LayerError, ModelError, brief, nearest
from nplrp.layers.base import INPUT, Step


@dataclass(frozen=True, eq=False)
class Span:
    """The steps of a pass.

    Attributes
    ----------
    top : int
        The step at whose output relevance is given.
    bottom : int
        The step at whose output the pass ends; -1 is the model's input.
    masks : mapping of int to ndarray
        By step: what the relevance of its output is multiplied with, broadcast over images.
    """

    top: int
    bottom: int
    masks: Mapping[int, np.ndarray]

    def mask(self, i: int, R: np.ndarray) -> np.ndarray:
        """Return the relevance of step i's output after its mask, if it has one."""
        return R * self.masks[i].astype(R.dtype) if i in self.masks else R

    def begins_at_the_top(self, steps: Sequence[Step]) -> bool:
        """Tell whether the pass begins at the model's output."""
        return self.top == len(steps) - 1

    def covers(self, steps: Sequence[Step]) -> bool:
        """Tell whether the pass runs from the model's output to its input, without masks."""
        return self.begins_at_the_top(steps) and self.bottom == -1 and not self.masks


def find_span(steps: Sequence[Step], at: str | None, until: str | None, masks: Mapping[str, Any] | None) -> Span:
    """Return the span between two layers, given by name; None is the model's output, or its input.

    Parameters
    ----------
    steps : sequence of Step
    at, until : str or None
        Layers at whose outputs the pass begins and ends; ``"input"`` is the model's input.
    masks : mapping of str to array, or None
        By layer: channels to keep (a list of whole numbers), or what the relevance of its output is multiplied with.

    Raises
    ------
    ModelError
        If there is no such layer, they are in the wrong order, or a mask doesn't fit.
    """
    names = [INPUT, *(step.name for step in steps)]
    shapes = [steps[0].input_shape if steps else (), *(step.output_shape for step in steps)]

    def place(name: str) -> int:
        if name not in names:
            raise LayerError(f"the model has no layer {name!r}; {nearest(name, names, 'nplrp info lists them')}")
        return len(names) - 2 - names[::-1].index(name)  # a layer called "input" is meant before the input itself

    top = len(steps) - 1 if at is None else place(at)
    bottom = -1 if until is None else place(until)
    if bottom > top:
        raise ModelError(f"relevance runs down from layer {names[top + 1]!r}, but layer {until!r} lies above it; exchange them")
    _check_ways(steps, top, bottom, names)
    found = {}
    if not isinstance(masks, Mapping | None):
        raise ModelError(f"masks is {brief(masks)}, expected arrays by the names of layers, {{'conv1': array}}")
    for name, mask in (masks or {}).items():
        i = place(name)
        if not bottom <= i <= top:
            raise ModelError(f"there is a mask at layer {name!r}, but the pass runs from {names[top + 1]!r} to {names[bottom + 1]!r} only")
        found[i] = _mask(name, mask, shapes[i + 1])
    return Span(top, bottom, found)


def _check_ways(steps: Sequence[Step], top: int, bottom: int, names: Sequence[str]) -> None:
    """See that all relevance that leaves the top comes by the bottom."""
    reached, waiting = {top}, [top]
    while waiting:
        i = waiting.pop()
        for j in steps[i].inputs if i > bottom else ():
            if j < bottom:
                raise ModelError(
                    f"relevance of layer {names[top + 1]!r} doesn't all come by layer {names[bottom + 1]!r}: layer {names[i + 1]!r} reads "
                    f"{names[j + 1]!r} past it; end the pass at a layer that lies on every way, or look it up in explanation.relevances"
                )
            if j not in reached:
                reached.add(j)
                waiting.append(j)
    if bottom not in reached:
        raise ModelError(f"layer {names[bottom + 1]!r} isn't below layer {names[top + 1]!r}: no relevance of the one comes to the other")


def _mask(name: str, mask: Any, shape: tuple[int, ...]) -> np.ndarray:
    values = np.array(mask)  # a copy
    if values.ndim == 1 and values.dtype.kind in "iu":
        if values.size and (values.min() < 0 or values.max() >= shape[-1]):
            raise ModelError(f"the mask at layer {name!r} keeps channels {values.tolist()}, but they run from 0 to {shape[-1] - 1}")
        kept = np.zeros(shape[-1])
        kept[values] = 1
        return kept
    try:
        if values.dtype.kind not in "biuf":
            raise ValueError
        return np.array(np.broadcast_to(values, shape), dtype=float)
    except ValueError:
        raise ModelError(
            f"the mask at layer {name!r} has shape {values.shape} and dtype {values.dtype}; expected a list of channels, or numbers that "
            f"broadcast to {shape}"
        ) from None
