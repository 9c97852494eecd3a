"""What each kind of step computes: apply it (`forward`) and apply its transpose (`transpose`).

The one place between the page (`nplrp.lrp`) and the kernels: it allocates outputs, looks up prepared weights, and turns names into numbers.
Arrays are NHWC or (n, c), C-contiguous, all of the plan's dtype.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from nplrp.rules import AS_IS, NOTHING, Change, Clamp, Part, Rule

if TYPE_CHECKING:
    from nplrp.jit.queue import Queue
    from nplrp.kernels.conv import Geometry, Packed
    from nplrp.step import Step
    from nplrp.workspace import Workspace


def forward(step: Step, inputs: Sequence[np.ndarray], weights: Sequence[Change], bias: Change, relu: bool = False) -> np.ndarray:
    """Apply a linear step: z = sum over terms of (input times changed weight), plus the changed bias.

    Parameters
    ----------
    step : Step
        Of kind conv, dense, scale, avgpool, or maxpool, which has one term and neither weights nor bias.
    inputs, weights : one array [n, *input_shape] and one `Change` for each term
    bias : Change
    relu : bool
        Clamp the result at 0.

    Returns
    -------
    ndarray [n, *output_shape]
    """
    if step.kind == "maxpool":
        return choose(step, inputs[0])[0]
    z = np.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype)
    b = changed_bias(step, bias).astype(z.dtype, copy=False)
    from nplrp.kernels import conv, dense, elementwise, pool

    nt = threads()
    if step.kind == "conv":
        second = inputs[1] if len(inputs) > 1 else None
        packed = _packed(step, tuple(weights[:2]), False)
        conv.conv_forward(inputs[0], packed, b, relu and len(inputs) < 3, z, x2=second, threads=nt)
        for a, change in zip(inputs[2:], weights[2:], strict=True):
            term = np.empty_like(z)
            conv.conv_forward(a, _packed(step, (change,), False), np.zeros_like(b), False, term, threads=nt)
            z += term
        if relu and len(inputs) > 2:
            elementwise.relu(z, z, nt)
        return z
    for t, (a, change) in enumerate(zip(inputs, weights, strict=True)):
        if step.kind == "dense":
            if change == "ones":
                term = np.broadcast_to(a.sum(axis=1, keepdims=True), z.shape)
                z[...] = z + term if t > 0 else term
            else:
                dense.dense_forward(a, *_dense_weight(step, change), z, t > 0, nt)
            continue
        term = z if t == 0 else np.empty_like(z)
        if step.kind == "avgpool":
            pool.avg_forward(a, *_window(step), _image(term, step), nt)
            if _scale(change) != 1:
                elementwise.affine(term, np.full_like(b, _scale(change)), np.zeros_like(b), term, nt)
        else:
            elementwise.affine(a, change_weight(step.weight, change), np.zeros_like(b), term, nt)
        if t > 0:
            z += term
    elementwise.add_bias(z, b, relu, nt)
    return z


def forward_beside(step: Step, a: np.ndarray, parts: Sequence[Part], workspace: Workspace) -> tuple[np.ndarray, list[np.ndarray]]:
    """Apply a linear step to its activation, and beside it with the weights and bias of parts of its rule.

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
    parts : sequence of Part
        Each with one term; the first is computed in the same pass over the input. Empty for kinds other than conv and dense.
    workspace : Workspace

    Returns
    -------
    (ndarray [n, *output_shape], list of ndarray [n, *output_shape])
        The step's z, already max(z, 0) if its activation is a ReLU; and each part's.
    """
    from nplrp.kernels import conv, dense, elementwise

    relu, nt, scratch = step.activation == "relu", threads(), _scratch(workspace)
    if step.kind != "conv" and not parts:
        return forward(step, [a], [AS_IS], AS_IS, relu), []
    z = workspace.empty((len(a), *step.output_shape), a.dtype)
    besides = [workspace.empty(z.shape, z.dtype) for _ in parts]
    biases, changes = [changed_bias(step, part.bias) for part in parts], clamps(parts)
    if step.kind == "conv":
        packed = [_packed(step, (change,), False) for change in (AS_IS, *changes)]
        pairs = list(zip(packed[1:], biases, besides, strict=True))
        second = dict(zip(("packed2", "bias2", "out2"), pairs[0], strict=True)) if pairs else {}
        conv.conv_forward(a, packed[0], step.bias, relu, z, **second, threads=nt, workspace=scratch)
        for each, b, out in pairs[1:]:
            conv.conv_forward(a, each, b, False, out, threads=nt, workspace=scratch)
        return z, besides
    dense.dense_forward_beside(a, step.weight, (AS_IS, *changes), (z, *besides), nt)
    elementwise.add_bias(z, step.bias, relu, nt)
    for b, out in zip(biases, besides, strict=True):
        elementwise.add_bias(out, b, False, nt)
    return z, besides


def clamps(parts: Sequence[Part]) -> list[Clamp]:
    """Return the change of weights of each part, which has one term."""
    return [Clamp(*part.terms[0].weight) for part in parts]


def transpose_times(
    step: Step, s: Sequence[np.ndarray], changes: Sequence[Clamp], a: np.ndarray, division: Division | None, workspace: Workspace
) -> list[np.ndarray]:
    """Do lines 3 and 4 in one pass, and line 2 of the step below.

    Parameters
    ----------
    step : Step
        Of kind conv or dense.
    s : one ndarray [n, *output_shape] for each part, at most two
    changes : one Clamp for each part
    a : ndarray [n, *input_shape]
    division : Division or None
        What the step below divides by.
    workspace : Workspace

    Returns
    -------
    list of ndarray [n, *input_shape]
        R = sum of a * c; or with a division s of the step below, part by part.
    """
    from nplrp.kernels import conv, dense

    if step.kind == "dense":
        R = workspace.empty(a.shape, a.dtype)
        dense.dense_transpose_times(s, step.weight, changes, a, R, threads())
        return [R] if division is None else divide_parts(R, division, workspace)
    scratch = _scratch(workspace)
    outs = [workspace.empty(a.shape, a.dtype) for _ in (division.z if division else (a,))]
    second = {"s2": s[1]} if len(s) > 1 else {}
    packed, nt = _packed(step, tuple(changes), True), threads()
    if division is None:
        conv.conv_transpose(s[0], packed, outs[0], **second, a=a, threads=nt, workspace=scratch)
        return outs
    if len(outs) == 1 and division.weights != (1.0,):
        conv.conv_transpose(s[0], packed, outs[0], **second, a=a, threads=nt, workspace=scratch)
        return divide_parts(outs[0], division, workspace)
    rule = division.rule
    two = {"out2": outs[1], "z2": division.z[1], "weights": division.weights} if len(outs) > 1 else {}
    signed = rule.stabiliser == "sign"
    conv.conv_transpose(
        s[0], packed, outs[0], **second, a=a, z=division.z[0], eps=rule.epsilon, signed=signed, **two, threads=nt, workspace=scratch
    )
    return outs


def forward_part(step: Step, a: np.ndarray, rule: Rule, part: Part) -> np.ndarray:
    """Do line 1 for one part of a rule: z [n, *output_shape] of an activation [n, *input_shape]."""
    return forward(step, changed_inputs(a, rule, part), [term.weight for term in part.terms], part.bias)


def transpose_parts(step: Step, s: Sequence[np.ndarray], a: np.ndarray, rule: Rule, parts: Sequence[Part]) -> np.ndarray:
    """Do lines 3 and 4 for all parts of a rule: R [n, *input_shape] of s [n, *output_shape], part by part."""
    total: np.ndarray | None = None
    for each, part in zip(s, parts, strict=True):
        share = multiply(changed_inputs(a, rule, part), transpose(step, each, [term.weight for term in part.terms]))
        total = share if total is None else np.add(total, share, out=total)
    assert total is not None
    return total


def route(step: Step, R: np.ndarray, winner: np.ndarray, division: Division | None, workspace: Workspace) -> list[np.ndarray]:
    """Give a max-pool's relevance to its winners, and do line 2 of the step below."""
    from nplrp.kernels import pool

    c = workspace.empty((len(R), *step.input_shape), R.dtype)
    image, window = _image(R, step), _window(step)
    if division is not None and division.weights == (1.0,):
        ((_, kind, epsilon),) = _stabilisers(division.z[0], division.rule)
        pool.max_transpose_divide(image, winner, *window, division.z[0], kind, epsilon, c, threads())
        workspace.give(R)
        return [c]
    pool.max_transpose(image, winner, *window, c, threads())
    workspace.give(R)
    return [c] if division is None else divide_parts(c, division, workspace)


def route_times(
    step: Step, s: np.ndarray, winner: np.ndarray, a: np.ndarray, division: Division | None, workspace: Workspace
) -> list[np.ndarray]:
    """Do lines 3 and 4 of a max-pool in one pass, and line 2 of the step below (as `transpose_times`)."""
    from nplrp.kernels import pool

    out, image, window = workspace.empty(a.shape, a.dtype), _image(s, step), _window(step)
    if division is not None and division.weights == (1.0,):
        ((_, kind, epsilon),) = _stabilisers(division.z[0], division.rule)
        pool.max_transpose_ratio(image, winner, *window, a, division.z[0], kind, epsilon, out, threads())
        return [out]
    pool.max_transpose_times(image, winner, *window, a, out, threads())
    return [out] if division is None else divide_parts(out, division, workspace)


class Division(NamedTuple):
    """What line 2 divides by at a step: z of each part of its rule, the rule that stabilises them, and the parts' weights."""

    z: tuple[np.ndarray, ...]
    rule: Rule
    weights: tuple[float, ...]


def divide_parts(R: np.ndarray, division: Division | None, workspace: Workspace) -> list[np.ndarray]:
    """Do line 2 for each part: s = weight * R / stabilise(z). R's memory may be used again afterwards."""
    assert division is not None
    outs = [workspace.empty(z.shape, z.dtype) for z in division.z]
    for z, weight, out in zip(division.z, division.weights, outs, strict=True):
        divide(R, z, division.rule, weight, out)
    workspace.give(R)
    return outs


def transpose(step: Step, s: np.ndarray, weights: Sequence[Change], winner: np.ndarray | None = None) -> list[np.ndarray]:
    """Apply the transpose of a linear step, for each term: c = s times changed weight, transposed.

    Parameters
    ----------
    step : Step
    s : ndarray [n, *output_shape]
    weights : one `Change` for each term
    winner : ndarray [n, ho, wo, c] of int, or [n, ho, wo, c, height * width] of float
        Of a max-pool: which place of each window gave the maximum (see `choose`), or each place's share (see `share_ties`).

    Returns
    -------
    list of ndarray [n, *input_shape]
    """
    from nplrp.kernels import conv, dense, elementwise, pool

    nt = threads()
    carried = []
    for change in weights:
        c = np.empty((len(s), *step.input_shape), s.dtype)
        if step.kind == "maxpool" and winner is not None and winner.dtype.kind == "f":
            _transpose_shares(step, _image(s, step), winner, c)
        elif step.kind == "maxpool":
            pool.max_transpose(_image(s, step), winner, *_window(step), c, nt)
        elif step.kind == "conv":
            conv.conv_transpose(s, _packed(step, (change,), True), c, threads=nt)
        elif step.kind == "dense" and change == "ones":
            c[...] = s.sum(axis=1, keepdims=True)
        elif step.kind == "dense":
            dense.dense_transpose(s, *_dense_weight(step, change), c, False, nt)
        elif step.kind == "avgpool":
            pool.avg_transpose(_image(s, step), *_window(step), c, nt)
            if _scale(change) != 1:
                c *= c.dtype.type(_scale(change))
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


def choose(
    step: Step, a: np.ndarray, labels: np.ndarray | None = None, workspace: Workspace | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Run a max-pool: the maxima and where they were, the first one in row-major order if several are equal.

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
    labels : ndarray or None
        Structural ties, from `tie_labels`.
    workspace : Workspace or None

    Returns
    -------
    (ndarray [n, *output_shape], ndarray of int [n, ho, wo, c])
        The winner's place in its window is row * width + column.
    """
    from nplrp.kernels import pool

    empty = workspace.empty if workspace else np.empty
    z = empty((len(a), *step.output_shape), a.dtype)
    image = _image(z, step)
    height, width = _window(step)[:2]
    winner = empty(image.shape, np.dtype(pool.winner_dtype(height, width)))
    ties = pool.no_labels(height, width) if labels is None else labels
    pool.max_forward(a, *_window(step), image, winner, ties, labels is not None, threads())
    return z, winner


def share_ties(step: Step, a: np.ndarray, labels: np.ndarray | None = None) -> np.ndarray:
    """Return each place's share of every window's maximum: 1 / n at each of its n places, [n, ho, wo, c, height * width].

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
    labels : ndarray or None
        Structural ties, from `tie_labels`: such places count as equal.
    """
    taps = np.stack([tap for _, _, tap in window_taps(step, a)], axis=-1)
    if labels is not None:
        taps = np.take_along_axis(taps, np.broadcast_to(labels[:, :, :, None, :], taps.shape).astype(np.intp), axis=-1)
    won: np.ndarray = (taps == taps.max(axis=-1, keepdims=True)).astype(a.dtype)
    won /= won.sum(axis=-1, keepdims=True)
    return won


def _transpose_shares(step: Step, s: np.ndarray, shares: np.ndarray, c: np.ndarray) -> None:
    """Write to c the sum over windows of s times each place's share."""
    c[...] = 0
    places = np.arange(c[..., 0].size).reshape(c.shape[:-1])
    for p, (rows, columns, _) in enumerate(window_taps(step, c)):
        inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
        at = places[:, np.maximum(rows, 0)[:, None], np.maximum(columns, 0)[None, :]][:, inside]
        c.reshape(-1, c.shape[-1])[at.reshape(-1)] += (s * shares[..., p])[:, inside].reshape(-1, c.shape[-1])


def window_taps(step: Step, a: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return for each place of a pool's window its row and column in the image, by window (-1 outside), and a there (-inf outside)."""
    height, width, down, right, top, left = _window(step)
    rows, columns = step.window.output_size(*step.input_shape[:2])  # type: ignore[union-attr]
    found = []
    for i in range(height):
        for j in range(width):
            y, x = np.arange(rows) * down + i - top, np.arange(columns) * right + j - left
            y[(y >= a.shape[1])], x[(x >= a.shape[2])] = -1, -1
            tap = a[:, np.maximum(y, 0)[:, None], np.maximum(x, 0)[None, :]]
            outside = (y < 0)[:, None] | (x < 0)[None, :]
            tap[:, outside] = -np.inf
            found.append((np.maximum(y, -1), np.maximum(x, -1), tap))
    return found


def linear_step(step: Step, rule: Rule) -> Step:
    """Return what a rule makes of a max-pool: an average pool, for the rules that don't ask who won; else the step itself."""
    if step.kind != "maxpool" or rule.name not in ("average", "flat"):
        return step
    if "average" not in step.prepared:
        zeros = np.zeros(step.input_shape[-1])
        step.prepared["average"] = dataclasses.replace(step, kind="avgpool", bias=zeros, prepared={})
    average: Step = step.prepared["average"]
    return average


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


def changed_inputs(a: np.ndarray, rule: Rule, part: Part) -> list[np.ndarray]:
    """Return what each term of a part works on: the activation a [n, *input_shape], a part of it, ones, or an end of the rule's box."""
    return [_changed_input(a, rule, term.input) for term in part.terms]


def _changed_input(a: np.ndarray, rule: Rule, change: str) -> np.ndarray:
    from nplrp.kernels import elementwise

    if change == "a":
        return a
    if change == "1":
        return np.ones_like(a)
    if change in ("low", "high"):
        return np.ascontiguousarray(np.broadcast_to(np.asarray(getattr(rule, change), a.dtype), a.shape))
    part = np.empty_like(a)
    (elementwise.positive_part if change == "a+" else elementwise.negative_part)(a, part, threads())
    return part


def relevance_of_units(R: np.ndarray, step: Step, a: np.ndarray, units: str, y: np.ndarray | None = None) -> np.ndarray:
    """Return the relevance that a part of a rule carries: R where z, or y, has the part's sign, 0 elsewhere.

    Parameters
    ----------
    R : ndarray [n, *output_shape]
    step : Step
    a : ndarray [n, *input_shape]
        The step's input.
    units : str
        One of `nplrp.rules.UNITS`.
    y : ndarray [n, *output_shape] or None
        What follows the step's activation, if it is at hand.
    """
    if not units:
        return R
    positive = units.endswith(">0")
    if units == "y<0" and step.activation == "relu":
        return np.zeros_like(R)
    known = y is not None and (step.activation == "linear" or (step.activation == "relu" and positive))
    signs = y if known and y is not None else forward(step, [a], [AS_IS], AS_IS)
    return np.where((signs > 0) if positive else (signs < 0), R.reshape(signs.shape), R.dtype.type(0))


def change_weight(w: np.ndarray | None, change: Change) -> np.ndarray:
    """Return positive * max(w, 0) + negative * min(w, 0), or w^2, or ones."""
    assert w is not None
    if change == AS_IS:
        return w
    if isinstance(change, str):
        return w * w if change == "square" else np.ones_like(w)
    return w.dtype.type(change.positive) * np.maximum(w, 0) + w.dtype.type(change.negative) * np.minimum(w, 0)


def changed_bias(step: Step, change: Change) -> np.ndarray:
    """Return a linear step's bias after a change; zeros for `NOTHING`."""
    return np.zeros_like(step.bias) if change == NOTHING else change_weight(step.bias, change)


def _dense_weight(step: Step, change: Change) -> tuple[np.ndarray, float, float]:
    """Return a matrix and a clamp that make a dense layer's changed weights; the matrix is prepared once if the clamp isn't enough."""
    assert step.weight is not None
    if isinstance(change, Clamp):
        return step.weight, *change
    if change not in step.prepared:
        step.prepared[change] = change_weight(step.weight, change)
    return step.prepared[change], *AS_IS


def _scale(change: Change) -> float:
    """Return what a change does to the weights of an average pool, which are positive and all alike."""
    return change.positive if isinstance(change, Clamp) else 1.0


def divide(R: np.ndarray, z: np.ndarray, rule: Rule, weight: float = 1.0, out: np.ndarray | None = None) -> np.ndarray:
    """Return s = weight * R / stabilise(z), 0 where the rule's stabiliser drops a unit; in `out` if it is given."""
    from nplrp.kernels import elementwise

    s, R = np.empty_like(z) if out is None else out, R.reshape(z.shape)
    for images, kind, epsilon in _stabilisers(z, rule):
        elementwise.stabilise_divide(R[images], z[images], kind, epsilon, weight, s[images], threads())
    return s


def denominator(z: np.ndarray, rule: Rule) -> np.ndarray:
    """Return the stabilised z; 0 where the unit is dropped."""
    from nplrp.kernels import elementwise

    d = np.empty_like(z)
    for images, kind, epsilon in _stabilisers(z, rule):
        elementwise.stabilise(z[images], kind, epsilon, d[images], threads())
    return d


def _stabilisers(z: np.ndarray, rule: Rule) -> list[tuple[slice, int, float]]:
    """Return (images, the kernels' number of a stabiliser, epsilon): one for all images, or one for each if it is relative to z."""
    from nplrp.kernels import elementwise

    rule = rule.resolved()
    name, epsilon = rule.stabiliser or "sign", rule.epsilon or 0.0
    if name == "sign" and epsilon == 0:  # without an epsilon, a unit with z = 0 passes nothing on
        name = "drop"
    if not name.startswith("rms"):
        kinds = {"zero": "ZERO_REPLACE", "sign_skip": "SIGN_ZERO_SKIP", "sign_drop": "SIGN_ZERO_DROP", "drop": "NONE_DROP"}
        return [(slice(None), getattr(elementwise, kinds.get(name, name.upper())), epsilon)]
    kind = {"rms": elementwise.PLUS, "rms_sign": elementwise.SIGN, "rms_clip": elementwise.CLIP}[name]
    shift = 1e-9 if name == "rms" else 0.0
    roots = np.sqrt(np.mean(np.square(z, dtype=np.float64).reshape(len(z), -1), axis=1)) if z.size else np.zeros(len(z))
    return [(slice(i, i + 1), kind, shift + epsilon * float(root)) for i, root in enumerate(roots)]


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
    i = elementwise.first_nonfinite(np.require(x, requirements=["C", "A"]), threads())
    return None if i < 0 else tuple(int(k) for k in np.unravel_index(i, x.shape))


def _scratch(workspace: Workspace) -> Any:
    """Return what the convolution kernels keep between calls."""
    from nplrp.kernels import conv

    workspace.scratch = workspace.scratch or conv.Workspace()
    return workspace.scratch


def queue() -> Queue:
    """Return a queue for kernels that one team of threads runs one after the other (see `nplrp.kernels.together`)."""
    from nplrp.jit.queue import Queue

    return Queue()


def threads() -> int:
    """Return the number of threads that kernels may use."""
    from nplrp import jit as parallel

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


def _packed(step: Step, changes: tuple[Change, ...], transposed: bool) -> Packed:
    """Return a convolution's weights as the kernels want them, prepared once for each change.

    From the second use on transformed weights are kept that the first has made on the fly, while there is room: who explains one image
    shouldn't wait for memory.
    """
    from nplrp.kernels import conv

    key = (transposed, changes)
    again, held = ("again", key), ("held", key)
    if key not in step.prepared:
        step.prepared[key] = _pack(step, changes, transposed, None)
        step.prepared[again] = True
    elif step.prepared.pop(again, False):  # so that one of several threads does it
        size = conv.unstored(step.prepared[key])
        hold = step.room.take(size) if size else None
        if hold:
            step.prepared[held] = hold
            step.prepared[key] = _pack(step, changes, transposed, True)
    packed: Packed = step.prepared[key]
    return packed


def _pack(step: Step, changes: tuple[Change, ...], transposed: bool, stored: bool | None) -> Packed:
    from nplrp import jit as parallel
    from nplrp.kernels import conv

    assert step.weight is not None
    algorithm = _algorithm(step, step.weight.dtype)
    clamps = [change if isinstance(change, Clamp) else AS_IS for change in changes]
    weight = step.weight if all(isinstance(change, Clamp) for change in changes) else change_weight(step.weight, changes[0])
    with parallel.at_once():  # other threads may use it right away, and it stays if this pass fails
        return conv.pack(weight, _geometry(step), transposed, clamps, algorithm=algorithm, threads=threads(), stored=stored)


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
    from nplrp.kernels import sums as kernel

    return np.asarray(kernel.image_sums(np.ascontiguousarray(x), threads()))
