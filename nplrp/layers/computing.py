"""A step of any kind, computed: forward, its transpose, its decisions. What the page (`nplrp.lrp`) is written in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.layers import ties
from nplrp.layers.activations import activation, bend_ends
from nplrp.layers.base import DECIDES, LINEAR, MOVES, Step
from nplrp.layers.lines import by_target, changed_bias, runs
from nplrp.layers.table import operation
from nplrp.rules.rule import AS_IS, Change, Rule
from nplrp.workspace import Workspace

if TYPE_CHECKING:
    from nplrp.jit import Queue


def forward(
    step: Step, inputs: Sequence[np.ndarray], weights: Sequence[Change], bias: Change, relu: bool = False, held: Any = None
) -> np.ndarray:
    """Apply a linear step, or one whose decisions are held: z = sum over terms of (input times changed weight), plus the changed bias.

    Parameters
    ----------
    step : Step
    inputs, weights : one array [n, *input_shape] and one `Change` for each term
    bias : Change
    relu : bool
        Clamp the result at 0.
    held : object
        What the forward pass decided (`decide`), where the operation asks for it.

    Returns
    -------
    ndarray [n, *output_shape]
    """
    op = operation(step)
    b = None if step.bias is None else changed_bias(step, bias).astype(inputs[0].dtype, copy=False)
    return op.forward(step, inputs, weights, b, relu, held)


def transpose(step: Step, s: np.ndarray, weights: Sequence[Change], held: Any = None) -> list[np.ndarray]:
    """Apply the transpose of a linear step, for each term: c = s times changed weight, transposed.

    Parameters
    ----------
    step : Step
    s : ndarray [n, *output_shape]
    weights : one `Change` for each term
    held : object
        What the forward pass decided, of n images or fewer, which repeat.

    Returns
    -------
    list of ndarray [n, *input_shape]
    """
    carried = []
    decided = s if held is None else held[0] if isinstance(held, tuple) else held
    for change in weights:
        c = np.empty((len(s), *step.input_shape), s.dtype)
        for maps in runs(s, decided):
            operation(step).transpose(step, s[maps], change, held, c[maps])
        carried.append(c)
    return carried


def apply(step: Step, a: np.ndarray, ties: np.ndarray | None = None) -> tuple[np.ndarray, Any]:
    """Run a step up to its activation: its output [n, *output_shape] of a [n, *input_shape], and what it decided, None if nothing."""
    decide = operation(step).decide
    if decide:
        return decide(step, a, ties)
    return (move(step, a) if only_moves(step) else forward(step, [a], [AS_IS], AS_IS)), None


def move(step: Step, a: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Apply a step that only moves numbers: [n, *input_shape] -> [n, *output_shape]."""
    return operation(step).forward(step, a, workspace)


def move_back(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Carry relevance back through a step that only moves numbers, or that hands it on: [n, *output_shape] -> [n, *input_shape]."""
    moved: np.ndarray = operation(step).transpose(step, R, workspace) if only_moves(step) else R.reshape(len(R), *step.input_shape)
    return moved


def ends(step: Step, a: np.ndarray) -> np.ndarray | None:
    """Return the ends that a step's outputs lie between, [2, *output_shape], for inputs between those of a [2, *input_shape], float64.

    None: where numbers are mixed, or an activation doesn't only rise.
    """
    op = operation(step)
    z = op.ends(step, a) if op.ends else None
    return None if z is None else bend_ends(step.activation, z)


def gather(step: Step, activations: Sequence[np.ndarray] | Mapping[int, np.ndarray]) -> np.ndarray:
    """Return the one array [n, *input_shape] that a step works on; `activations` are the model's input and every step's output."""
    return operation(step).gather(step, [activations[j + 1] for j in step.inputs])


def scatter(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> list[np.ndarray]:
    """Cut relevance of what a step works on, [n, *input_shape], into that of each input."""
    return operation(step).scatter(step, R, workspace)


def is_linear(step: Step) -> bool:
    """Tell whether a step is linear as it is."""
    return operation(step).role == LINEAR


def decides(step: Step) -> bool:
    """Tell whether a step is linear once its forward pass has decided something."""
    return operation(step).role == DECIDES


def only_moves(step: Step) -> bool:
    """Tell whether a step only moves numbers."""
    return operation(step).role == MOVES


def linear_step(step: Step, rule: Rule) -> Step:
    """Return what a rule runs on: what stands in for the step; for rules that don't ask who won, the mean; else the step itself."""
    if step.stand_in is not None and not rule.undivided:
        return step.stand_in
    average = operation(step).average
    return average(step) if average and rule.averages else step


def relevance_of_units(R: np.ndarray, step: Step, a: np.ndarray, units: str, y: np.ndarray | None = None, held: Any = None) -> np.ndarray:
    """Return the relevance that a part of a rule carries: R where z, or y, has the part's sign, 0 elsewhere.

    Parameters
    ----------
    R : ndarray [n, *output_shape]
        Or of several targets (`nplrp.layers.lines`).
    step : Step
    a : ndarray [n, *input_shape]
        The step's input.
    units : str
        One of `nplrp.rules.UNITS`.
    y : ndarray [n, *output_shape] or None
        What follows the step's activation, if it is at hand.
    held : object
        What the forward pass decided.
    """
    if not units:
        return R
    positive, bends = units.endswith(">0"), activation(step.activation)
    if units == "y<0" and bends.positive and not step.score:
        return np.zeros_like(R)
    known = y is not None and (step.activation == "linear" or (bends.opens and positive))
    signs = y if known and y is not None else forward(step, [a], [AS_IS], AS_IS, held=held)
    of_sign = np.where((signs > 0) if positive else (signs < 0), by_target(R, signs), R.dtype.type(0))
    return of_sign.reshape(len(R), *signs.shape[1:])


def tie_labels(steps: Sequence[Step], x: np.ndarray) -> dict[int, np.ndarray]:
    """Find where max-pools have structural ties, by step (see `nplrp.layers.ties`).

    Parameters
    ----------
    steps : sequence of Step
    x : ndarray [n, *input_shape]
        The image.

    Returns
    -------
    dict of int to ndarray [n, ho, wo, height * width]
    """

    def row(step: Step) -> tuple[int, ...] | None:
        tie = operation(step).tie
        return None if tie is None else tie(step)

    def rounds(step: Step) -> bool:
        return operation(step).rounds(step, x.dtype)

    x, base = _image(steps, x, row)
    return ties.tie_labels(steps, x, rounds, row, [i for i, step in enumerate(steps) if operation(step).windowed], base)


def _image(steps: Sequence[Step], x: np.ndarray, row: Callable[[Step], Any]) -> tuple[np.ndarray, int]:
    """Return what a reshape or a permutation at the very beginning makes of x, and that step's place; x and -1 if there is none."""
    base = -1
    for i, step in enumerate(steps):
        alone = step.inputs == (i - 1,) and not any(i - 1 in other.inputs for other in steps[i + 1 :])
        if not (alone and only_moves(step) and step.activation == "linear"):
            break
        if row(step) is None:
            base = i
    for step in steps[: base + 1]:
        x = move(step, x)
    return x, base


def queue() -> Queue:
    """Return a queue for kernels that one team of threads runs one after the other (see `nplrp.jit.queue`)."""
    from nplrp.jit import Queue

    return Queue()
