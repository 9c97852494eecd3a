"""What each kind of step computes: apply it (`forward`) and apply its transpose (`transpose`).

The one place between the page (`nplrp.lrp`) and the kernels: it allocates outputs, looks up prepared weights, and turns names into numbers.
Arrays are NHWC or (n, c), C-contiguous, all of the plan's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nplrp.model import size_of
from nplrp.rules import AS_IS, NOTHING, Clamp, Rule

if TYPE_CHECKING:
    from nplrp.kernels.conv import Packed
    from nplrp.plan import Step


def forward(step: Step, inputs: Sequence[np.ndarray], weights: Sequence[Clamp], bias: Clamp, relu: bool = False) -> np.ndarray:
    """Apply a linear step: z = sum over terms of (input times changed weight), plus the changed bias.

    Parameters
    ----------
    step : Step
        Of kind conv, dense, scale, avgpool, or maxpool, which has one term and neither weights nor bias.
    inputs, weights : one array [n, *input_shape] and one `Clamp` for each term
    bias : Clamp
    relu : bool
        Clamp the result at 0.

    Returns
    -------
    ndarray [n, *output_shape]
    """
    if step.kind == "maxpool":
        return choose(step, inputs[0])[0]
    z = np.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype)
    b = changed_bias(step, bias)
    from nplrp.kernels import conv, dense, elementwise, pool

    nt = threads()
    if step.kind == "conv":
        second = inputs[1] if len(inputs) > 1 else None
        conv.conv_forward(inputs[0], _packed(step, tuple(weights), False), b, relu, z, x2=second, threads=nt)
        return z
    for t, (a, change) in enumerate(zip(inputs, weights, strict=True)):
        if step.kind == "dense":
            dense.dense_forward(a, step.weight, *change, z, t > 0, nt)
            continue
        if step.kind == "avgpool":
            term = z if t == 0 else np.empty_like(z)
            pool.avg_forward(a, *_window(step), _image(term, step), nt)
            if change.positive != 1:
                elementwise.affine(term, np.full_like(b, change.positive), np.zeros_like(b), term, nt)
        else:
            term = z if t == 0 else np.empty_like(z)
            elementwise.affine(a, change_weight(step.weight, change), np.zeros_like(b), term, nt)
        if t > 0:
            z += term
    elementwise.add_bias(z, b, relu, nt)
    return z


def transpose(step: Step, s: np.ndarray, weights: Sequence[Clamp], winner: np.ndarray | None = None) -> list[np.ndarray]:
    """Apply the transpose of a linear step, for each term: c = s times changed weight, transposed.

    Parameters
    ----------
    step : Step
    s : ndarray [n, *output_shape]
    weights : one `Clamp` for each term
    winner : ndarray [n, ho, wo, c]
        Of a max-pool: which place of each window gave the maximum (see `choose`).

    Returns
    -------
    list of ndarray [n, *input_shape]
    """
    from nplrp.kernels import conv, dense, elementwise, pool

    nt = threads()
    carried = []
    for change in weights:
        c = np.empty((len(s), *step.input_shape), s.dtype)
        if step.kind == "maxpool":
            pool.max_transpose(_image(s, step), winner, *_window(step), c, nt)
        elif step.kind == "conv":
            conv.conv_transpose(s, _packed(step, (change,), True), c, threads=nt)
        elif step.kind == "dense":
            dense.dense_transpose(s, step.weight, *change, c, False, nt)
        elif step.kind == "avgpool":
            pool.avg_transpose(_image(s, step), *_window(step), c, nt)
            if change.positive != 1:
                c *= c.dtype.type(change.positive)
        else:
            g = change_weight(step.weight, change)
            elementwise.affine(s, g, np.zeros_like(g), c, nt)
        carried.append(c)
    return carried


def choose(step: Step, a: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Run a max-pool: the maxima and where they were, the first one in row-major order if several are equal.

    Returns
    -------
    (ndarray [n, *output_shape], ndarray of int [n, ho, wo, c])
        The winner's place in its window is row * width + column.
    """
    from nplrp.kernels import pool

    z = np.empty((len(a), *step.output_shape), a.dtype)
    image = _image(z, step)
    height, width = _window(step)[:2]
    winner = np.empty(image.shape, pool.winner_dtype(height, width))
    pool.max_forward(a, *_window(step), image, winner, pool.no_labels(height, width), False, threads())
    return z, winner


def reshape(step: Step, a: np.ndarray) -> np.ndarray:
    """Apply a step that only moves or pads numbers: [n, *input_shape] -> [n, *output_shape]."""
    if step.kind == "pad" and step.pads is not None:
        top, bottom, left, right = step.pads
        return np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))
    return a.reshape(len(a), *step.output_shape)


def reshape_back(step: Step, R: np.ndarray) -> np.ndarray:
    """Carry relevance back through a step that only moves or pads: [n, *output_shape] -> [n, *input_shape]."""
    if step.kind == "pad" and step.pads is not None:
        top, _, left, _ = step.pads
        height, width = step.input_shape[:2]
        return np.ascontiguousarray(R[:, top : top + height, left : left + width])
    return R.reshape(len(R), *step.input_shape)


def activate(step: Step, z: np.ndarray, in_place: bool) -> np.ndarray:
    """Apply a step's activation to z [n, *output_shape]; relu may overwrite z if `in_place`."""
    from nplrp.kernels import elementwise

    if step.activation == "relu":
        a = z if in_place else np.empty_like(z)
        elementwise.relu(z, a, threads())
        return a
    return softmax(z) if step.activation == "softmax" else z


def softmax(z: np.ndarray) -> np.ndarray:
    """Return exp(z) / sum(exp(z)) over the last axis of z [n, units]."""
    from nplrp.kernels import softmax as kernel

    p = np.empty_like(z)
    kernel.softmax(z, p)
    return p


def changed_input(a: np.ndarray, change: str) -> np.ndarray:
    """Return the input that a term works on: the activation, a part of it, or ones."""
    from nplrp.kernels import elementwise

    if change == "a":
        return a
    if change == "1":
        return np.ones_like(a)
    part = np.empty_like(a)
    (elementwise.positive_part if change == "a+" else elementwise.negative_part)(a, part, threads())
    return part


def change_weight(w: np.ndarray | None, change: Clamp) -> np.ndarray:
    """Return positive * max(w, 0) + negative * min(w, 0)."""
    assert w is not None
    if change == AS_IS:
        return w
    return w.dtype.type(change.positive) * np.maximum(w, 0) + w.dtype.type(change.negative) * np.minimum(w, 0)


def changed_bias(step: Step, change: Clamp) -> np.ndarray:
    """Return a linear step's bias after a change; zeros for `NOTHING`."""
    return np.zeros_like(step.bias) if change == NOTHING else change_weight(step.bias, change)


def divide(R: np.ndarray, z: np.ndarray, rule: Rule, weight: float = 1.0) -> np.ndarray:
    """Return s = weight * R / stabilise(z), 0 where the rule's stabiliser drops a unit."""
    from nplrp.kernels import elementwise

    s = np.empty_like(z)
    elementwise.stabilise_divide(R.reshape(z.shape), z, stabiliser_code(rule), rule.epsilon, weight, s, threads())
    return s


def denominator(z: np.ndarray, rule: Rule) -> np.ndarray:
    """Return the stabilised z; 0 where the unit is dropped."""
    from nplrp.kernels import elementwise

    d = np.empty_like(z)
    elementwise.stabilise(z, stabiliser_code(rule), rule.epsilon, d, threads())
    return d


def stabiliser_code(rule: Rule) -> int:
    """Return the kernels' number for a rule's stabiliser."""
    from nplrp.kernels import elementwise

    return {"plus": elementwise.PLUS, "sign": elementwise.SIGN}[rule.stabiliser]


def multiply(inputs: Sequence[np.ndarray], carried: Sequence[np.ndarray], R: np.ndarray | None = None) -> np.ndarray:
    """Return the sum over terms of a * c, added to R if one is given."""
    from nplrp.kernels import elementwise

    for a, c in zip(inputs, carried, strict=True):
        if R is None:
            R = np.empty_like(a)
            elementwise.multiply(a, c, R, threads())
        else:
            elementwise.multiply_add(a, c, R, threads())
    assert R is not None
    return R


def first_nonfinite(x: np.ndarray) -> tuple[int, ...] | None:
    """Return the index of the first NaN or infinity, or None."""
    from nplrp.kernels import elementwise

    if not x.size:
        return None
    i = elementwise.first_nonfinite(np.ascontiguousarray(x), threads())
    return None if i < 0 else tuple(int(k) for k in np.unravel_index(i, x.shape))


def threads() -> int:
    """Return the number of threads that kernels may use."""
    from nplrp.kernels import parallel

    return int(parallel.threads())


def _packed(step: Step, changes: tuple[Clamp, ...], transposed: bool) -> Packed:
    """Return a convolution's weights as the kernels want them, prepared once for each change."""
    from nplrp.kernels import conv

    key = (transposed, changes)
    if key not in step.prepared:
        window = step.window
        assert window is not None and step.weight is not None
        height, width, cin = step.input_shape
        pads = window.pads(height, width)
        geometry = conv.Geometry(height, width, cin, step.output_shape[2], window.size, window.stride, window.dilation, pads)
        algorithm = "direct" if step.algorithm == "direct" else None
        step.prepared[key] = conv.pack(step.weight, geometry, transposed, changes, algorithm=algorithm, threads=threads())
    packed: Packed = step.prepared[key]
    return packed


def _image(x: np.ndarray, step: Step) -> np.ndarray:
    """View a pool's output with height and width, which a global pool may have dropped."""
    height, width = step.window.output_size(*step.input_shape[:2])  # type: ignore[union-attr]
    return x.reshape(len(x), height, width, step.input_shape[2])


def _window(step: Step) -> tuple[int, int, int, int, int, int]:
    """Return a pool's (height, width, vertical stride, horizontal stride, rows of padding above, columns to the left)."""
    window = step.window
    assert window is not None
    top, _, left, _ = window.pads(*step.input_shape[:2])
    return (*window.size, *window.stride, top, left)


def sums(x: np.ndarray) -> np.ndarray:
    """Return the sum over each image's units: [n, ...] -> [n] float64, accurate to rounding and in a fixed order."""
    return x.reshape(len(x), size_of(x.shape[1:])).sum(axis=1, dtype=np.float64)
