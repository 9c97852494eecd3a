"""zB's box: the least and the largest value that each number has which a layer reads, whatever the picture.

The box belongs to the picture. Its ends are carried to the layer through whatever lies before it, each as if it were a picture: padding
puts the same zeros into both, so that a pad in front of a convolution is the padding of that convolution; scales and norms of channels
scale them, and exchange them where the scale is negative. Behind what mixes channels there is no such box.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nplrp import layers
from nplrp.errors import ImageError, RuleError
from nplrp.layers import Step
from nplrp.preprocessing import pixel_bounds
from nplrp.rules import Box, Rule

if TYPE_CHECKING:
    from nplrp.model import Model

#: Channels of which a rule names the ends of each; of more, where they differ, it names the widest pair.
MOST_NAMED = 64
#: How far ends may be off by rounding and still be equal, relative to the widest pair.
_ROUNDING = 1e-9
_GIVE = "give low and high, the box that its input lies in, as in zbox(low=-1, high=1)"


def with_box(rule: Rule, steps: Sequence[Step], i: int, model: Model) -> Rule:
    """Return step i's zB rule with the ends of its box: those given, or those that the model's pixels have when they come to it.

    Raises
    ------
    RuleError
        If given ends don't fit the layer's channels, or there is no interval for each channel.
    """
    step = steps[i]
    if rule.low is None:
        try:
            return _of_picture(rule, steps, i, model)
        except RuleError:
            if not rule.widest:
                raise
        low, high = _pixels(model)
        return dataclasses.replace(rule, low=min(low), high=max(high))
    for end in ("low", "high"):
        value = getattr(rule, end)
        if isinstance(value, tuple) and len(value) not in (1, step.input_shape[-1]):
            raise RuleError(
                f"rule {rule} doesn't fit layer {step.name!r}: {end} has {len(value)} numbers, expected one for each of its "
                f"{step.input_shape[-1]} input channels, or one for all"
            )
    return rule


def _pixels(model: Model) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return a pixel's ends for each channel of the model's input.

    Raises
    ------
    RuleError
        If they aren't known.
    """
    try:
        return pixel_bounds(model.preprocessing.mode, model.input_shape[-1])
    except ImageError as error:
        raise RuleError(f"{error}; or {_GIVE}") from None


def _of_picture(rule: Rule, steps: Sequence[Step], i: int, model: Model) -> Rule:
    """Carry the ends of the picture to step i, and name them channel by channel."""
    at = _carried(rule, steps, i, model)
    low, high = at.reshape(2, -1, at.shape[-1])
    free = low < high  # all else is a constant, such as padding
    if not free.any():
        raise RuleError(f"rule {rule} in layer {steps[i].name!r}: it reads constants alone, which lie in no box; choose another rule there")
    least, most = np.where(free, low, np.inf).min(axis=0), np.where(free, high, -np.inf).max(axis=0)
    slack = _ROUNDING * (most.max() - least.min())
    if (free & ((low > least + slack) | (high < most - slack))).any():
        raise RuleError(
            f"rule {rule} in layer {steps[i].name!r}: what lies before it mixes pixels or channels, so that the picture's box isn't one "
            f"interval for each channel; {_GIVE}"
        )
    nothing = ~free.any(axis=0)  # channels of constants alone
    least, most = np.where(nothing, low.min(axis=0), least), np.where(nothing, high.max(axis=0), most)
    if not all(layers.only_moves(steps[j]) for j in _below(steps, i)):
        least, most = (np.array([float(f"{v:.12g}") for v in end]) for end in (least, most))  # without what was rounded on the way
    alike = bool(np.all(least == least[0]) and np.all(most == most[0]))
    if len(least) == len(_pixels(model)[0]) or (not alike and len(least) <= MOST_NAMED):
        ends, exact = (tuple(least.tolist()), tuple(most.tolist())), True
    else:
        ends, exact = ((float(least.min()),), (float(most.max()),)), alike
    low_end, high_end = (each if len(each) > 1 else each[0] for each in ends)
    return dataclasses.replace(rule, low=low_end, high=high_end, box=None if exact and free.all() else Box(*at))


def _carried(rule: Rule, steps: Sequence[Step], i: int, model: Model) -> np.ndarray:
    """Return the ends of the picture where step i reads them, [2, *input_shape]."""
    picture = np.empty((2, *model.input_shape))
    for end, values in zip(picture, _pixels(model), strict=True):
        end[...] = values
    found: dict[int, np.ndarray] = {-1: picture}

    def read(step: Step) -> np.ndarray:
        return layers.gather(step, {k + 1: found[k] for k in step.inputs})

    for j in sorted(_below(steps, i)):
        ends = layers.ends(steps[j], read(steps[j]))
        if ends is None:
            raise RuleError(
                f"rule {rule} in layer {steps[i].name!r}: behind layer {steps[j].name!r} ({steps[j].kind}), which lies before it, the "
                f"picture's box isn't an interval for each channel; {_GIVE}"
            )
        found[j] = ends
    return read(steps[i])


def _below(steps: Sequence[Step], i: int) -> set[int]:
    """Return the steps that step i's input is made of."""
    found, waiting = set[int](), [*steps[i].inputs]
    while waiting:
        j = waiting.pop()
        if j >= 0 and j not in found:
            found.add(j)
            waiting.extend(steps[j].inputs)
    return found
