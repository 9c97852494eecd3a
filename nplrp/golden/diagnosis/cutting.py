"""A small piece of a layer that gives some of its numbers exactly: where hypotheses are tried before whole layers are run."""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from nplrp.golden.faults import Place
from nplrp.layers import Step, operation
from nplrp.rules import Box

#: Pixels along a side of the piece, of its input; a layer of fewer multiplications than this is run whole.
SIDE, SMALL = 10, 1 << 21
#: Inputs of a dense layer that its piece keeps.
KEPT = 384


class Piece(NamedTuple):
    """A place that is small, and which numbers of a whole array of its input's relevance it gives.

    Attributes
    ----------
    at : Place
    inside : tuple
        Index into the whole array [n, *input_shape].
    within : tuple
        Index into the piece's: the same numbers.
    exact : bool
        It is the whole layer.
    """

    at: Place
    inside: tuple[Any, ...]
    within: tuple[Any, ...]
    exact: bool

    @property
    def kept(self) -> np.ndarray | None:
        """Of a dense layer cut short: which inputs it has kept, in order; else None."""
        return None if self.exact or self.at.a.ndim != 2 else np.asarray(self.inside[1])


def cut_out(at: Place, weight: np.ndarray, small: float = SMALL, side: int = SIDE) -> Piece:
    """Return the piece of a layer where most of a weight lies, [n, *input_shape]; all of one that is small or of another kind.

    A layer of fewer multiplications than `small` is small; `side` is that of the piece in pixels.
    """
    step, everything = at.step, Piece(at, (slice(None),), (slice(None),), True)
    matrix = at.matrix
    if matrix is None or len(step.inputs) != 1 or step.options.get("turned") or step.stand_in is not None:
        return everything
    work = float(np.prod(step.output_shape)) * np.prod(matrix.shape[:-1]) * len(at.a)
    if work <= small or not np.any(weight):
        return everything
    if matrix.ndim == 2:
        return _of_matrix(at, weight, matrix) if at.a.ndim == 2 and len(matrix) > 2 * KEPT else everything
    return _of_image(at, weight, step, side) if operation(step).name == "conv" else everything


def _of_image(at: Place, weight: np.ndarray, step: Step, side: int) -> Piece:
    """Cut a square out of a convolution's input, with all that its numbers hang on."""
    window = step.window
    assert window is not None
    size = weight.sum(axis=-1)
    n, y, x = np.unravel_index(int(np.argmax(size)), size.shape)
    top, _, left, _ = window.pads(*step.input_shape[:2])
    inside, padding, needed, outputs, within = [], [], [], [], []
    for at_pixel, length, made, kernel, stride, dilation, before in zip(
        (int(y), int(x)), step.input_shape, step.output_shape, window.size, window.stride, window.dilation, (top, left), strict=False
    ):
        reach = (kernel - 1) * dilation
        first = max(0, min(at_pixel - side // 2, length - side))
        last = min(length, first + side)
        low = max(0, -(-(first + before - reach) // stride))  # outputs that see these pixels
        high = min(made, (last - 1 + before) // stride + 1)
        a, b = low * stride - before, (high - 1) * stride - before + reach + 1
        padding.append((max(0, -a), max(0, b - length)))
        needed.append(slice(max(0, a), min(length, b)))
        outputs.append(slice(low, high))
        inside.append(slice(first, last))
        within.append(slice(first - max(0, a), last - max(0, a)))
    image = slice(int(n), int(n) + 1)
    a = np.ascontiguousarray(at.a[image, needed[0], needed[1]])
    R = np.ascontiguousarray(at.R.reshape(len(at.R), *step.output_shape)[image, outputs[0], outputs[1]])
    y_all = at.trace.activations[at.i + 1].reshape(len(at.R), *step.output_shape)
    (above, beneath), (before, behind) = padding
    cut = dataclasses.replace(
        step,
        window=dataclasses.replace(window, padding=(above, beneath, before, behind)),
        input_shape=a.shape[1:],
        output_shape=R.shape[1:],
        prepared={},
    )
    box, rule = at.rule.box, at.rule
    if box is not None:
        rule = dataclasses.replace(rule, box=Box(*(np.asarray(end)[needed[0], needed[1]] if np.ndim(end) == 3 else end for end in box)))
    small = _substituted(at, cut, a, R, np.ascontiguousarray(y_all[image, outputs[0], outputs[1]]))
    small = small.changed(rule=rule, parts=at.parts) if rule is not at.rule else small
    return Piece(small, (image, inside[0], inside[1]), (slice(None), within[0], within[1]), False)


def _of_matrix(at: Place, weight: np.ndarray, matrix: np.ndarray) -> Piece:
    """Keep some inputs of a dense layer; four more stand for all others, by the signs of input and weight, so that clamps fit."""
    n = int(np.argmax(weight.sum(axis=1)))
    kept = np.sort(np.argsort(-weight[n], kind="stable")[:KEPT])
    a = at.a[n]
    others = a.copy()
    others[kept] = 0
    rows, values = [matrix[kept]], [a[kept]]
    for sign in (1.0, -1.0):
        of_sign = np.maximum(others * sign, 0)
        used = np.flatnonzero(of_sign)
        total = of_sign[used] @ matrix[used] if len(used) else np.zeros(matrix.shape[1])
        up = of_sign[used] @ np.maximum(matrix[used], 0) if len(used) else np.zeros(matrix.shape[1])
        rows.append(np.stack([up, total - up]).astype(matrix.dtype))
        values.append(np.array([sign, sign], a.dtype) if len(used) else np.zeros(2, a.dtype))
    weight_of_all = np.ascontiguousarray(np.concatenate(rows))
    small = np.ascontiguousarray(np.concatenate(values)[None])
    step = dataclasses.replace(at.step, weight=weight_of_all, input_shape=(len(weight_of_all),), prepared={})
    image = slice(n, n + 1)
    R, y = (np.ascontiguousarray(each[image]) for each in (at.R.reshape(len(at.R), -1), at.trace.activations[at.i + 1]))
    return Piece(_substituted(at, step, small, R, y), (image, kept), (slice(None), slice(0, len(kept))), False)


def _substituted(at: Place, step: Step, a: np.ndarray, R: np.ndarray, y: np.ndarray) -> Place:
    """Return a place with another step, input, and output."""
    activations = list(at.trace.activations)
    activations[at.step.inputs[0] + 1], activations[at.i + 1] = a, y
    trace = dataclasses.replace(at.trace, activations=tuple(activations), held={})
    steps = (*at.plan.steps[: at.i], step, *at.plan.steps[at.i + 1 :])
    return dataclasses.replace(at, plan=dataclasses.replace(at.plan, steps=steps), trace=trace, R=R)
