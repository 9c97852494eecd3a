"""Structural ties of max-pools: which places of a window see the same pixels (`nplrp.kernels.ties`)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from nplrp.layers.base import Step, Window, window_of
from nplrp.layers.lines import threads

Row = tuple[int, ...]

#: A window of one place: what treats every position alike.
_POINT = (1, 1, 1, 1, 1, 1, 0, 0, 0, 0)


def window_row(step: Step) -> Row:
    """Describe a step whose outputs see windows of its input."""
    return _row(window_of(step), step)


def point_row(step: Step) -> Row | None:
    """Describe a step that treats every position alike; vectors have none."""
    return _POINT if len(step.output_shape) == 3 else None


def pad_row(step: Step) -> Row:
    """Describe a step that pads: a window of one place over the padded image."""
    return (1, 1, 1, 1, 1, 1, *(step.pads or (0, 0, 0, 0)))


def crop_row(step: Step) -> Row:
    """Describe a step that cuts off what is around an image."""
    return (1, 1, 1, 1, 1, 1, *(-amount for amount in step.pads or (0, 0, 0, 0)))


def _row(window: Window, step: Step) -> Row:
    return (*window.size, *window.stride, *window.dilation, *window.pads(*step.input_shape[:2]))


def tie_labels(
    steps: Sequence[Step],
    x: np.ndarray,
    rounds: Callable[[Step], bool],
    row_of: Callable[[Step], Row | None],
    pools: Sequence[int],
    base: int = -1,
) -> dict[int, np.ndarray]:
    """Find where max-pools have structural ties, by step; nothing for networks whose convolutions keep ties exact by themselves.

    Parameters
    ----------
    steps : sequence of Step
    x : ndarray [n, *input_shape]
        The image.
    rounds : callable
        Whether a step's sums round differently by place, so that equal windows may give unequal numbers.
    row_of : callable
        A step's window, None where ties can't be told behind it.
    pools : sequence of int
        The steps that choose winners.
    base : int
        The step whose output `x` is, and on which all later ones hang; -1 is the model's input.

    Returns
    -------
    dict of int to ndarray [n, ho, wo, height * width]
        For each place in a window the first place that sees the same pixels.
    """
    from nplrp.kernels import pool, ties

    reached, told = list[bool](), list[bool]()  # by step: does anything up to its output round; can ties be told there
    for i, step in enumerate(steps[: max(pools, default=-1) + 1]):
        reads = _joined(step)
        told.append(i > base and row_of(step) is not None and all(told[j] if j > base else x.ndim == 4 for j in reads))
        reached.append(i > base and (rounds(step) or any(reached[j] for j in reads if j > base)))
    asked = [i for i in pools if told[i] and any(reached[j] for j in steps[i].inputs if j > base)]
    if not asked:
        return {}
    nodes: list[tuple[Any, ...]] = []
    place = {base: -1}  # of each step among the nodes; one that treats all positions of its only input alike is where that is
    for i in _ancestors(steps, asked, base):
        reads = _joined(steps[i])
        row = row_of(steps[i])
        if row == _POINT and len(reads) == 1:
            place[i] = place[reads[0]]
            continue
        place[i] = len(nodes)
        nodes.append((ties.MAX_POOL if i in asked else ties.WINDOW, *(row or ()), tuple(place[j] for j in reads)))
    labels = ties.tie_labels(x, nodes, threads())
    found = {}
    for i, each in zip(asked, labels, strict=True):
        if each is not None:
            found[i] = each.astype(pool.winner_dtype(*window_of(steps[i]).size), copy=False)
    return found


def _joined(step: Step) -> list[int]:
    """Return the steps that a step reads place by place: not those that are the same for all places, as a gate for each channel is."""
    shapes = step.input_shapes or (step.input_shape,)
    same = [len(shape) == 3 and len(step.output_shape) == 3 and shape[:2] == (1, 1) != step.output_shape[:2] for shape in shapes]
    reads = [j for j, alike in zip(step.inputs, same, strict=True) if not alike]
    return list(dict.fromkeys(reads if len(shapes) > 1 and reads else step.inputs))


def _ancestors(steps: Sequence[Step], ends: Sequence[int], base: int) -> list[int]:
    """Return the steps behind `base` that the ends hang on, and these, in order."""
    wanted = set(ends)
    for i in range(max(ends), base, -1):
        if i in wanted:
            wanted.update(j for j in _joined(steps[i]) if j > base)
    return sorted(wanted)
