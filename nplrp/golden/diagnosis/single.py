"""A single weight or bias that is wrong: found by its index, and its value solved for.

If one weight w_jk (or the bias b_k) is another one, unit k alone has another z. Forward that is seen at once. Backward only s_k is another
one, so the relevance of all inputs differs by a_i w_ik ds_k, but for that of input j itself, where the weight stands in line 3 as well.
ds follows from the other inputs by least squares, z_k from s_k = R_k / z_k, and dz_k over all places of an image is a constant if it is the
bias, and follows one input, shifted as the weight's place in the kernel says, if it is a weight.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from functools import partial

import numpy as np

from nplrp import layers
from nplrp.golden.diagnosis.cutting import Piece
from nplrp.golden.diagnosis.matching import Hypothesis, nice, plain
from nplrp.golden.diagnosis.rules import lines
from nplrp.golden.faults import Place
from nplrp.layers import Step, operation
from nplrp.lrp import four_lines
from nplrp.rules import AS_IS, NOTHING, Change, Clamp

#: How many units, and how many weights, are looked at closely; and how many unknowns are solved for at once.
UNITS, WEIGHTS, UNKNOWNS = 4, 6, 200
#: Weights of a layer whose units are all tried.
LOOKED_AT = 1 << 16
#: What of dz a weight or a bias must leave at most to be run: forward, where dz is known, and backward.
LEFT, ROUGHLY = 0.02, 0.4


def changed(weight: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    """Return weights with one changed."""
    other = weight.copy()
    other[index] = value
    return other


def backward(piece: Piece, target: np.ndarray, reference: np.ndarray) -> Iterator[Hypothesis]:
    """Return single weights and biases that would explain a target, the relevance that a piece gives `within`.

    Parameters
    ----------
    piece : Piece
    target, reference : ndarray
    """
    at, step = piece.at, piece.at.step
    weight, parts = at.matrix, at.parts
    if weight is None or len(parts) != 1 or len(parts[0].terms) != 1 or parts[0].terms[0].input != "a" or at.rule.undivided:
        return
    if operation(step).name not in ("conv", "dense") or weight.shape[-2] != step.input_shape[-1] or step.stand_in is not None:
        return  # with groups, a unit doesn't see all channels
    change = parts[0].terms[0].weight
    if change in ("square", "ones"):
        return
    ((_, _, of_lines),) = four_lines(at.plan, at.trace, at.i, at.R)
    w = layers.change_weight(weight, change)
    q = np.zeros(at.a.shape)
    a = at.a[piece.within]
    if a.shape != target.shape:  # the piece's step reads another part than relevance is told of
        return
    q[piece.within] = np.divide(target - reference, a, out=np.zeros(a.shape), where=a != 0)  # w ds, where the input isn't 0
    known = np.zeros(at.a.shape, bool)
    known[piece.within] = a != 0
    z, s = of_lines.z, of_lines.s
    plain_step = dataclasses.replace(step, weight=np.ascontiguousarray(w), prepared={})
    matched = layers.forward(plain_step, [q], [AS_IS], NOTHING)  # large where q looks like a unit's weights
    seen = layers.forward(dataclasses.replace(plain_step, weight=w * w, prepared={}), [known.astype(float)], [AS_IS], NOTHING)
    axes = tuple(range(matched.ndim - 1))
    score = np.divide(matched**2, seen, out=np.zeros_like(matched), where=seen > 0).sum(axes)
    for k in map(int, np.argsort(-score)[:UNITS]):
        solved = _of_unit(w, q, known, s, step, k)
        if solved is None:
            continue
        ds, error = solved
        new = s[..., k] + ds
        R = at.R.reshape(z.shape)[..., k] * parts[0].weight
        usable = (np.abs(ds) > 1e-6 * np.abs(s[..., k])) & (new != 0) & (R != 0) & (error <= 30 * np.min(error))
        if usable.sum() < 1:
            continue
        d = layers.denominator(np.ascontiguousarray(z), at.rule)[..., k]
        dz = np.where(usable, np.divide(R, new, out=np.zeros_like(new), where=new != 0) - d, 0.0)
        error = np.where(np.isfinite(error), error, 0.0)
        off = np.where(usable, np.abs(np.divide(R, new * new, out=np.zeros_like(new), where=new != 0)) * error, 1.0)
        trust = 1 / (off + 1e-3 * off[usable].max() + 1e-300)
        yield from _causes(at, step, k, dz, usable, change, trust, piece.kept)


def _of_unit(w: np.ndarray, q: np.ndarray, known: np.ndarray, s: np.ndarray, step: Step, k: int) -> tuple[np.ndarray, np.ndarray] | None:
    """Return ds of unit k at every place, by least squares over all inputs but the channel that fits worst; and its relative error."""
    if w.ndim == 2:
        found = np.zeros(s.shape[:-1])
        for n in range(len(q)):
            use = known[n] & (w[:, k] != 0)
            if not use.any():
                return None
            ratios = q[n][use] / w[use, k]
            weights = np.abs(w[use, k])
            found[n] = _median(ratios, weights)
        return found, np.ones(found.shape)
    shape = s.shape[:-1]
    places = np.flatnonzero(s[..., k])  # elsewhere the unit has no relevance, whatever its z
    if not 0 < len(places) <= UNKNOWNS:
        return None
    columns = []
    single = dataclasses.replace(
        step, weight=np.ascontiguousarray(w[..., k : k + 1]), bias=np.zeros(1), output_shape=(*step.output_shape[:2], 1), prepared={}
    )
    for place in places:
        unit = np.zeros((*shape, 1))
        unit.reshape(-1)[place] = 1
        columns.append(layers.transpose(single, unit, [AS_IS])[0])
    m = np.stack(columns, -1)  # [n, h, w, c, unknowns]
    channels = np.arange(q.shape[-1])
    ds, worst, error = np.zeros(shape), None, np.full(shape, np.inf)
    for _ in range(2):
        use = known & (channels != worst if worst is not None else True)
        square = m[use].T @ m[use]
        inverse = np.linalg.pinv(square, rcond=1e-12, hermitian=True)
        solved = inverse @ (m[use].T @ q[use])
        sizes = np.sqrt(np.maximum(np.diag(inverse), 0))
        error.reshape(-1)[places] = np.where(sizes > 0, sizes, np.inf)
        ds.reshape(-1)[places] = solved
        left = np.where(known, q - m @ solved, 0.0)
        worst = int(np.argmax((left**2).sum(tuple(range(left.ndim - 1)))))
        if len(channels) == 1:
            break
    return ds, error


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(values[order][min(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2), len(order) - 1)])


def _causes(
    at: Place, step: Step, k: int, dz: np.ndarray, usable: np.ndarray, change: Change, trust: np.ndarray, kept: np.ndarray | None
) -> Iterator[Hypothesis]:
    """Return the bias, and the weights, that would change z of unit k by dz, which is known as well as trust says."""
    sure = trust[usable]
    size = float((sure * np.abs(dz[usable])).sum())
    if not size:
        return
    bias = step.bias
    constant = _median(dz[usable], sure)
    change_of_bias = at.parts[0].bias
    left = float((sure * np.abs(dz[usable] - constant)).sum())
    if bias is not None and isinstance(change_of_bias, Clamp) and change_of_bias != NOTHING and left <= ROUGHLY * size:
        now = float(layers.changed_bias(step, change_of_bias)[k]) + constant
        factor = change_of_bias.positive if now >= 0 else change_of_bias.negative
        if factor or abs(now) < 1e-5:
            yield _bias(k, now / factor if factor else 0.0)
    weight = at.matrix
    assert weight is not None
    found = []
    for index, values in _inputs(at.a, step, weight):
        v = values[usable]
        norm = float((v * v * sure**2).sum())
        if norm:
            delta = float((v * dz[usable] * sure**2).sum()) / norm
            left = float((sure * np.abs(dz[usable] - delta * v)).sum())
            if left <= ROUGHLY * size:
                found.append((left, (*index, k), delta))
    for _, index, delta in sorted(found)[:WEIGHTS]:
        old = float(weight[index])
        factor = 1.0
        now = float(layers.change_weight(np.array([old]), change)[0])
        if isinstance(change, Clamp):
            factor = change.positive if now + delta >= 0 else change.negative
        if factor and kept is None:
            yield _weight(index, (now + delta) / factor, old)
        elif factor and kept is not None and index[0] < len(kept):
            yield dataclasses.replace(_weight((int(kept[index[0]]), k), (now + delta) / factor, old), whole=True)


def _inputs(a: np.ndarray, step: Step, weight: np.ndarray) -> Iterator[tuple[tuple[int, ...], np.ndarray]]:
    """Return for each weight of a unit what it multiplies at each of its places, [n, *places]."""
    if weight.ndim == 2:
        for j in range(a.shape[-1]):
            yield (j,), a[..., j]
        return
    window = step.window
    assert window is not None
    top, bottom, left, right = window.pads(*step.input_shape[:2])
    padded = np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))
    rows, columns = step.output_shape[:2]
    for i in range(weight.shape[0]):
        for j in range(weight.shape[1]):
            y, x, (down, across) = i * window.dilation[0], j * window.dilation[1], window.stride
            view = padded[:, y : y + (rows - 1) * down + 1 : down, x : x + (columns - 1) * across + 1 : across]
            for c in range(a.shape[-1]):
                yield (i, j, c), view[..., c]


def _bias(k: int, value: float) -> Hypothesis:
    value = _short(value)
    value = 0.0 if abs(value) < 1e-6 else value
    return Hypothesis(f"bias[{k}] is {plain(value)}", lambda p: lines(p, bias=lambda b: changed(b, (k,), value)), {"value": value})


def _weight(index: tuple[int, ...], value: float, old: float) -> Hypothesis:
    value = 0.0 if abs(value) <= 1e-4 * abs(old) else _short(value)
    name = f"weight[{', '.join(map(str, index))}] is {plain(value)} for {plain(old)}"
    return Hypothesis(name, lambda p: lines(p, weight=lambda w: changed(w, index, value)), {"value": value})


def _short(value: float) -> float:
    """Return the short number that a solved one is likely to be: rounding leaves about four digits of it."""
    short = nice(value, lambda each: abs(each - value) <= 3e-5 * abs(value))
    return 0.0 if abs(value) < 1e-7 else short


def lost(piece: Piece, target: np.ndarray, reference: np.ndarray) -> Iterator[Hypothesis]:
    """Return single input channels, and units, whose weights are all 0."""
    at, kept = piece.at, piece.kept
    weight = at.matrix
    if weight is None or weight.shape[-2] != at.step.input_shape[-1]:
        return
    axes = tuple(range(target.ndim - 1))
    size, there = np.abs(target).sum(axes), np.abs(reference).sum(axes)
    if size.size in (weight.shape[-2], len(kept) if kept is not None else 0):
        for place in map(int, np.flatnonzero((size == 0) & (there > 0))[:WEIGHTS]):
            c = place if kept is None else int(kept[place])
            name = f"weights of input {'channel ' if weight.ndim == 4 else ''}{c} are 0"
            yield Hypothesis(name, partial(_run_without, k=c, axis=-2), whole=kept is not None)
    found = []
    for k in range(weight.shape[-1] if weight.size <= LOOKED_AT else 0):
        values = _run_without(at, k, -1)[piece.within]
        if np.isfinite(values).all():
            found.append((float(np.abs(values - target).sum()), k))
    for _, k in sorted(found)[:2]:
        yield Hypothesis(f"weights of unit {k} (its filter) are 0", partial(_run_without, k=k, axis=-1))


def _run_without(p: Place, k: int, axis: int) -> np.ndarray:
    return lines(p, weight=lambda w: _without(w, k, axis))


def _without(w: np.ndarray, k: int, axis: int) -> np.ndarray:
    other = w.copy()
    other[(..., k, slice(None)) if axis == -2 else (..., k)] = 0
    return other


def forward(step: Step, a: np.ndarray, z: np.ndarray, candidate: np.ndarray, told: np.ndarray) -> Iterator[tuple[str, Step]]:
    """Return steps with a single weight or bias that would explain a candidate's sums, known where `told`: [n, *output_shape] each."""
    weight, bias = step.weight, step.bias
    if weight is None or weight.ndim not in (2, 4) or weight.shape[-2] != step.input_shape[-1]:
        return
    axes = tuple(range(z.ndim - 1))
    d = np.where(told, candidate - z, 0.0)
    size = np.abs(d).sum(axes)
    k = int(np.argmax(size))
    usable = told[..., k]
    total = float(size[k])
    if not total or size.sum() > 1.05 * total or usable.sum() < 1:
        return
    dz = d[..., k]
    constant = float(np.median(dz[usable]))
    if bias is not None and float(np.abs(dz[usable] - constant).sum()) <= LEFT * total:
        value = _short(float(bias[k]) + constant)
        yield (
            f"bias[{k}] is {plain(value)} for {plain(float(bias[k]))}",
            dataclasses.replace(step, bias=changed(bias, (k,), value), prepared={}),
        )
    found = []
    for index, values in _inputs(a, step, weight):
        v = values[usable]
        norm = float(v @ v)
        if norm:
            delta = float(v @ dz[usable]) / norm
            found.append((float(np.abs(dz[usable] - delta * v).sum()), (*index, k), delta))
    for left, index, delta in sorted(found)[:WEIGHTS]:
        if left <= LEFT * total:
            old = float(weight[index])
            value = old + delta
            value = 0.0 if abs(value) <= 1e-4 * abs(old) else _short(value)
            name = f"weight[{', '.join(map(str, index))}] is {plain(value)} for {plain(old)}"
            yield name, dataclasses.replace(step, weight=changed(weight, index, value), prepared={})
