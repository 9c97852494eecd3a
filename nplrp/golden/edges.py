"""Relevance along the edges of a graph: what each layer gives to each of its inputs, and sums where an input has several readers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from nplrp import layers
from nplrp.golden.bounds import Bounds, gains
from nplrp.golden.values import UNIT
from nplrp.layers import INPUT, Step
from nplrp.lrp import step_back
from nplrp.plan import Plan
from nplrp.trace import Trace


class Share(NamedTuple):
    """Relevance of one input, [n, *shape], and its error bounds."""

    values: np.ndarray
    bounds: Bounds


def names_of(steps: Sequence[Step]) -> list[str]:
    """Return the names of the input and of all steps: the name of step i, and of -1, stands at i + 1."""
    return [INPUT, *(step.name for step in steps)]


def readers(steps: Sequence[Step]) -> dict[int, list[int]]:
    """Return for each step, and for -1, the steps that read its output, the last of them first: in this order they are added up."""
    found: dict[int, list[int]] = {i: [] for i in range(-1, len(steps))}
    for i in range(len(steps) - 1, -1, -1):
        for j in dict.fromkeys(steps[i].inputs):
            found[j].append(i)
    return found


def cut(step: Step, R: np.ndarray) -> dict[int, np.ndarray]:
    """Cut relevance of what a step works on, [n, *input_shape], into that of each step that it reads; one that is read twice gets both."""
    found: dict[int, np.ndarray] = {}
    for j, share in zip(step.inputs, layers.scatter(step, R), strict=True):
        found[j] = found[j] + share if j in found else share
    return found


def cut_bounds(step: Step, R: np.ndarray, bounds: Bounds) -> dict[int, Share]:
    """Cut relevance of what a step works on, and its bounds, into those of each step that it reads."""
    values = cut(step, R)
    expected, certified, undecided = (cut(step, each) for each in bounds)
    if len(step.inputs) > 1:  # of an input that was repeated, or is read twice, several numbers are added up
        size, counts = cut(step, np.abs(R)), cut(step, np.ones((1, *step.input_shape)))
        for j in values:
            several = float(counts[j].max())
            if several > 1:
                few, all_of_them = gains(round(several))
                expected[j] = expected[j] + few * UNIT * size[j]
                certified[j] = certified[j] + all_of_them * UNIT * size[j]
    return {j: Share(values[j], Bounds(expected[j], certified[j], undecided[j])) for j in values}


def add(shares: Sequence[Share]) -> Share:
    """Add up what the readers of an output give to it, in order, each sum rounded."""
    if len(shares) == 1:
        return shares[0]
    total, size = shares[0].values, np.abs(shares[0].values)
    for share in shares[1:]:
        total, size = total + share.values, size + np.abs(share.values)
    rounded = (len(shares) - 1) * UNIT * size
    expected, certified, undecided = (np.sum(each, axis=0) for each in zip(*(share.bounds for share in shares), strict=True))
    return Share(total, Bounds(expected + rounded, certified + rounded, undecided))


def along(steps: Sequence[Step], found: Mapping[int, np.ndarray]) -> tuple[dict[str, np.ndarray], dict[tuple[str, str], np.ndarray]]:
    """Return relevance by layer, and along edges, from that of what steps work on.

    Parameters
    ----------
    steps : sequence of Step
    found : mapping of int to ndarray
        By step, [n, *input_shape].

    Returns
    -------
    (dict of str to ndarray, dict of (str, str) to ndarray)
        Relevance of each output all of whose readers are there; and by (reader, output) what each reader of an output that has several
        gives to it.
    """
    names, shares = names_of(steps), {i: cut(steps[i], R) for i, R in found.items()}
    relevances, edges = dict[str, np.ndarray](), dict[tuple[str, str], np.ndarray]()
    for j, above in readers(steps).items():
        given = [shares[i][j] for i in above if i in shares]
        if len(above) > 1:
            edges |= {(names[i + 1], names[j + 1]): shares[i][j] for i in above if i in shares}
        if given and len(given) == len(above):
            relevances[names[j + 1]] = total(given)
    return relevances, edges


def total(arrays: Iterable[np.ndarray]) -> np.ndarray:
    """Return the sum of arrays, one after the other."""
    first, *others = arrays
    for each in others:
        first = first + each
    return first


def needs_cutting(steps: Sequence[Step], i: int, above: Mapping[int, Sequence[int]]) -> bool:
    """Tell whether what a step works on is anything but the output that it alone reads."""
    return len(steps[i].inputs) > 1 or len(above[steps[i].inputs[0]]) > 1


def given_back(plan: Plan, trace: Trace, relevances: Sequence[np.ndarray], above: Mapping[int, Sequence[int]], i: int) -> np.ndarray:
    """Return the relevance of what step i works on; `relevances` are those of the input and of every step's output."""
    if not needs_cutting(plan.steps, i, above):
        return relevances[plan.steps[i].inputs[0] + 1]
    return step_back(plan, trace, i, relevances[i + 1])
