"""What each kind of step computes: apply it (`forward`) and apply its transpose (`transpose`).

The one place between the page (`nplrp.lrp`) and the kernels: it allocates outputs, looks up prepared weights, and turns names into numbers.
Arrays are NHWC or (n, c), C-contiguous, all of the plan's dtype.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from nplrp.model import size_of
from nplrp.rules import AS_IS, NOTHING, Clamp, Part, Rule

if TYPE_CHECKING:
    from nplrp.kernels.conv import Geometry, Packed, Workspace
    from nplrp.step import Step


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


def forward_beside(step: Step, a: np.ndarray, part: Part | None, workspace: Workspace) -> tuple[np.ndarray, np.ndarray | None]:
    """Apply a linear step to its activation, and beside it with the weights and bias of a rule's part, in one pass over the input.

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
    part : Part or None
        With one term; None if the first result is all that is wanted.
    workspace : Workspace

    Returns
    -------
    (ndarray [n, *output_shape], ndarray [n, *output_shape] or None)
        The step's z, already max(z, 0) if its activation is a ReLU; and the part's.
    """
    from nplrp.kernels import conv, dense, elementwise

    relu, nt = step.activation == "relu", threads()
    if step.kind != "conv" and part is None:
        return forward(step, [a], [AS_IS], AS_IS, relu), None
    z = np.empty((len(a), *step.output_shape), a.dtype)
    if part is None:
        conv.conv_forward(a, _packed(step, (AS_IS,), False), step.bias, relu, z, threads=nt, workspace=workspace)
        return z, None
    beside = np.empty_like(z)
    b, change = changed_bias(step, part.bias), part.terms[0].weight
    if step.kind == "conv":
        first, second = _packed(step, (AS_IS,), False), _packed(step, (change,), False)
        conv.conv_forward(a, first, step.bias, relu, z, packed2=second, bias2=b, out2=beside, threads=nt, workspace=workspace)
    else:
        dense.dense_forward_two(a, step.weight, *AS_IS, z, *change, beside, False, nt)
        elementwise.add_bias(z, step.bias, relu, nt)
        elementwise.add_bias(beside, b, False, nt)
    return z, beside


def transpose_times(
    step: Step, s: np.ndarray, change: Clamp, a: np.ndarray, divide_by: tuple[np.ndarray, Rule, float] | None, workspace: Workspace
) -> np.ndarray:
    """Do lines 3 and 4 in one pass, and line 2 of the step below: R = a * c, or with (z, rule, weight) weight * R / stabilise(z).

    Parameters
    ----------
    step : Step
        Of kind conv or dense.
    s : ndarray [n, *output_shape]
    change : Clamp
    a : ndarray [n, *input_shape]
    divide_by : (ndarray [n, *input_shape], Rule, float) or None
        The denominators of the step below, its rule, and its part's weight.
    workspace : Workspace

    Returns
    -------
    ndarray [n, *input_shape]
    """
    from nplrp.kernels import conv

    if step.kind == "conv" and (divide_by is None or divide_by[2] == 1):
        R = np.empty_like(a)
        packed, nt = _packed(step, (change,), True), threads()
        if divide_by is None:
            conv.conv_transpose(s, packed, R, a=a, threads=nt, workspace=workspace)
        else:
            z, rule, _ = divide_by
            signed = rule.stabiliser == "sign"
            conv.conv_transpose(s, packed, R, a=a, z=z, eps=rule.epsilon, signed=signed, threads=nt, workspace=workspace)
        return R
    R = multiply([a], transpose(step, s, [change]))
    return R if divide_by is None else divide(R, *divide_by)


def route(step: Step, R: np.ndarray, winner: np.ndarray, divide_by: tuple[np.ndarray, Rule, float] | None) -> np.ndarray:
    """Give a max-pool's relevance to its winners, and do line 2 of the step below."""
    (c,) = transpose(step, R, [AS_IS], winner)
    return c if divide_by is None else divide(c, *divide_by)


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


def tie_labels(steps: Sequence[Step], x: np.ndarray) -> dict[int, np.ndarray]:
    """Find where max-pools have structural ties, by step; nothing for networks whose convolutions keep ties exact by themselves.

    Parameters
    ----------
    steps : sequence of Step
    x : ndarray [n, h, w, c]
        The image.

    Returns
    -------
    dict of int to ndarray [n, ho, wo, height * width]
        For each place in a window the first place that sees the same pixels (see `nplrp.kernels.ties`).
    """
    from nplrp.kernels import pool, ties

    rounds, chain, pools = False, list[tuple[int, ...]](), list[tuple[int, int]]()
    for i, step in enumerate(steps):
        if step.kind in ("dense", "reshape"):
            break
        if step.kind == "conv":
            rounds |= _algorithm(step, x.dtype) != "direct"
        if step.kind in ("conv", "avgpool", "maxpool", "pad"):
            if step.kind == "maxpool" and rounds:
                pools.append((i, len(chain)))
            chain.append(_tie_row(step))
    if not pools:
        return {}
    last = pools[-1][1]
    labels = ties.tie_labels(x, chain[: last + 1], threads())
    at = [k for k, row in enumerate(chain[: last + 1]) if row[0] == ties.MAX_POOL]
    found = {}
    for i, position in pools:
        each = labels[at.index(position)]
        if each is not None:
            found[i] = each.astype(pool.winner_dtype(*_window(steps[i])[:2]), copy=False)
    return found


def choose(step: Step, a: np.ndarray, labels: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Run a max-pool: the maxima and where they were, the first one in row-major order if several are equal.

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
    labels : ndarray or None
        Structural ties, from `tie_labels`.

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
    ties = pool.no_labels(height, width) if labels is None else labels
    pool.max_forward(a, *_window(step), image, winner, ties, labels is not None, threads())
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
    """Return the kernels' number for a rule's stabiliser; without an epsilon, a unit with z = 0 passes nothing on."""
    from nplrp.kernels import elementwise

    if rule.stabiliser == "sign" and rule.epsilon == 0:
        return elementwise.NONE_DROP
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


def new_workspace() -> Workspace:
    """Return scratch memory for one pass."""
    from nplrp.kernels import conv

    return conv.Workspace()


def threads() -> int:
    """Return the number of threads that kernels may use."""
    from nplrp.kernels import parallel

    return int(parallel.threads())


def _geometry(step: Step) -> Geometry:
    from nplrp.kernels import conv

    window = step.window
    assert window is not None
    height, width, cin = step.input_shape
    pads = window.pads(height, width)
    return conv.Geometry(height, width, cin, step.output_shape[2], window.size, window.stride, window.dilation, pads)


def _algorithm(step: Step, dtype: np.dtype) -> str:
    """Return which algorithm a convolution runs with: a fixed function of its shape and dtype, or the direct one if asked for."""
    from nplrp.kernels import conv

    return "direct" if step.algorithm == "direct" else conv.algorithm(_geometry(step), dtype)


def _packed(step: Step, changes: tuple[Clamp, ...], transposed: bool) -> Packed:
    """Return a convolution's weights as the kernels want them, prepared once for each change."""
    from nplrp.kernels import conv

    key = (transposed, changes)
    if key not in step.prepared:
        assert step.weight is not None
        algorithm = _algorithm(step, step.weight.dtype)
        step.prepared[key] = conv.pack(step.weight, _geometry(step), transposed, changes, algorithm=algorithm, threads=threads())
    packed: Packed = step.prepared[key]
    return packed


def _tie_row(step: Step) -> tuple[int, ...]:
    """Describe a step with a window to `nplrp.kernels.ties`."""
    from nplrp.kernels import ties

    if step.kind == "pad":
        return (ties.WINDOW, 1, 1, 1, 1, 1, 1, *(step.pads or (0, 0, 0, 0)))
    window = step.window
    assert window is not None
    kind = ties.MAX_POOL if step.kind == "maxpool" else ties.WINDOW
    return (kind, *window.size, *window.stride, *window.dilation, *window.pads(*step.input_shape[:2]))


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
