"""A single weight or bias that is wrong: found by its index, and its value solved for.

If one weight w_jk (or the bias b_k) is another one, unit k alone has another z. Forward that is seen at once. Backward only s_k is another
one, so the relevance of all inputs differs by a_i w_ik ds_k, but for that of input j itself, where the weight stands in line 3 as well.
ds follows from the other inputs by least squares, z_k from s_k = R_k / z_k, and dz_k over all places of an image is a constant if it is the
bias, and follows one input, shifted as the weight's place in the kernel says, if it is a weight. A rule of two halves has a ds_k of each.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import NamedTuple

import numpy as np

from nplrp import layers
from nplrp.golden import edges
from nplrp.golden.diagnosis.cutting import Piece
from nplrp.golden.diagnosis.fitting import fit
from nplrp.golden.diagnosis.matching import Hypothesis, nice, plain
from nplrp.golden.diagnosis.rules import lines
from nplrp.golden.faults import Place
from nplrp.layers import Step, operation
from nplrp.lrp import four_lines
from nplrp.rules import AS_IS, NOTHING, Change, Clamp, Part

#: How many units, and how many weights, are looked at closely; and how many unknowns are solved for at once.
UNITS, WEIGHTS, UNKNOWNS = 4, 6, 200
#: Of so many units one is looked at that leaves nothing.
MORE_UNITS = 16
#: Weights of a layer whose units are all tried.
LOOKED_AT = 1 << 16
#: What of dz a weight or a bias must leave at most to be run: forward, where dz is known, and backward.
LEFT, ROUGHLY = 0.02, 0.4
#: A number that was solved for is fitted further if it leaves less than this share of the difference.
CLOSER = 0.3
#: An unknown whose error is this share of the largest one's stands in no equation; and equations that leave this share are solved.
UNSEEN, NOTHING_LEFT = 1e-6, 1e-3
#: Where a term's input isn't 0, and is a, by what it takes.
SIGNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "a": np.ones_like,
    "a+": lambda a: (a > 0).astype(a.dtype),
    "a-": lambda a: (a < 0).astype(a.dtype),
}


def changed(weight: np.ndarray, index: tuple[int, ...], value: float) -> np.ndarray:
    """Return weights with one changed."""
    other = weight.copy()
    other[index] = value
    return other


class _Half(NamedTuple):
    """What one part of a rule does at a layer: z, s and d as lines 1 and 2 have them, R as it is divided, the part's weight in it.

    `there` says of each term where its input isn't 0: a term's input is a there, and 0 elsewhere.
    """

    part: Part
    z: np.ndarray
    s: np.ndarray
    d: np.ndarray
    R: np.ndarray
    there: list[np.ndarray]


def backward(piece: Piece, target: np.ndarray, reference: np.ndarray) -> Iterator[Hypothesis]:
    """Return single weights and biases that would explain a target, the relevance that a piece gives `within`.

    Parameters
    ----------
    piece : Piece
    target, reference : ndarray
    """
    at, step = piece.at, piece.at.step
    weight = at.matrix
    if weight is None or not at.parts or at.rule.undivided:
        return
    if operation(step).name not in ("conv", "dense") or weight.shape[-2] != step.input_shape[-1] or step.stand_in is not None:
        return  # with groups, a unit doesn't see all channels
    if any(isinstance(term.weight, str) or term.input not in SIGNS for part in at.parts for term in part.terms):
        return
    q = np.zeros(at.a.shape)
    a = at.a[piece.within]
    if a.shape != target.shape:  # the piece's step reads another part than relevance is told of
        return
    q[piece.within] = np.divide(target - reference, a, out=np.zeros(a.shape), where=a != 0)  # w ds, where the input isn't 0
    known = np.zeros(at.a.shape, bool)
    known[piece.within] = a != 0
    halves, bare = [], dataclasses.replace(step, bias=np.zeros(weight.shape[-1]), prepared={})
    for part, of_units, of_lines in four_lines(at.plan, at.trace, at.i, at.R):
        z = np.ascontiguousarray(of_lines.z)
        there = [SIGNS[term.input](at.a) for term in part.terms]
        d = layers.denominator(z, at.rule)
        halves.append(_Half(part, z, of_lines.s, d, of_units.reshape(z.shape) * part.weight, there))
    for number, k in enumerate(_units(bare, weight, halves, q, known)):
        solved, left = _of_unit(bare, weight, halves, q, known, k)
        if number >= UNITS and left > NOTHING_LEFT:
            continue
        for half, (ds, error) in zip(halves if solved else (), solved, strict=True):
            s, R = half.s[..., k], half.R[..., k]
            new = s + ds
            usable = (np.abs(ds) > 1e-6 * np.abs(s)) & (new != 0) & (R != 0) & (error <= 30 * np.min(error))
            if usable.sum() < 1:
                continue
            dz = np.where(usable, np.divide(R, new, out=np.zeros_like(new), where=new != 0) - half.d[..., k], 0.0)
            known_as = np.where(np.isfinite(error), error, 0.0)
            off = np.where(usable, np.abs(np.divide(R, new * new, out=np.zeros_like(new), where=new != 0)) * known_as, 1.0)
            trust = 1 / (off + 1e-3 * off[usable].max() + 1e-300)
            yield from _causes(piece, target, halves, half, k, dz, usable, trust)


def _units(bare: Step, weight: np.ndarray, halves: Sequence[_Half], q: np.ndarray, known: np.ndarray) -> list[int]:
    """Return the units whose weights q looks most like; a channel that a wrong weight makes louder than others is turned down."""
    scores, axes = np.zeros(weight.shape[-1]), tuple(range(q.ndim - 1))
    size = np.sqrt(np.square(q).sum(axes))
    usual = float(np.median(size[size > 0])) if size.any() else 1.0
    q = q * np.minimum(1.0, np.divide(usual, size, out=np.ones_like(size), where=size > 0))
    for half in halves:
        changes = [term.weight for term in half.part.terms]
        matched = layers.forward(bare, [q * there for there in half.there], changes, NOTHING)
        squares = [dataclasses.replace(bare, weight=np.square(layers.change_weight(weight, change)), prepared={}) for change in changes]
        seen = edges.total(
            layers.forward(each, [(known & (there > 0)).astype(float)], [AS_IS], NOTHING)
            for each, there in zip(squares, half.there, strict=True)
        )
        fits = np.divide(matched**2, seen, out=np.zeros_like(matched), where=(seen > 0) & (half.s != 0))
        scores += fits.sum(axes)
    return [int(k) for k in np.argsort(-scores, kind="stable")[:MORE_UNITS]]


def _of_unit(
    bare: Step, weight: np.ndarray, halves: Sequence[_Half], q: np.ndarray, known: np.ndarray, k: int
) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """Return ds of unit k at every place, and its relative error, half by half ([] if it can't be solved for); and what is left of q.

    By least squares over all inputs but the channel that fits worst; elsewhere than where it has relevance ds is 0, whatever its z.
    """
    shape = q.shape[:1] + halves[0].s.shape[1:-1]
    if weight.ndim == 2 and len(halves) == 1 and len(halves[0].there) == 1:
        w, found = layers.change_weight(weight[:, k], halves[0].part.terms[0].weight), np.zeros(shape)
        for n in range(len(q)):
            use = known[n] & (w != 0)
            if not use.any():
                return [], np.inf
            found[n] = _median(q[n][use] / w[use], np.abs(w[use]))
        return [(found, np.ones(shape))], np.inf
    places = [np.flatnonzero(half.s[..., k]) for half in halves]
    if not 0 < sum(map(len, places)) <= UNKNOWNS:
        return [], np.inf
    single = dataclasses.replace(
        bare, weight=np.ascontiguousarray(weight[..., k : k + 1]), bias=np.zeros(1), output_shape=(*bare.output_shape[:-1], 1), prepared={}
    )
    columns = []
    for half, those in zip(halves, places, strict=True):
        changes = [term.weight for term in half.part.terms]
        for place in those:
            unit = np.zeros((*shape, 1))
            unit.reshape(-1)[place] = 1
            columns.append(edges.total(c * there for c, there in zip(layers.transpose(single, unit, changes), half.there, strict=True)))
    m, of_half = np.stack(columns, -1), np.repeat(np.arange(len(halves)), list(map(len, places)))  # [n, h, w, c, unknowns]
    for only in (*(range(len(halves)) if len(halves) > 1 else ()), None):  # a weight that keeps its sign is in one half
        chosen = np.ones(len(of_half), bool) if only is None else of_half == only
        if chosen.any():
            solved, sizes, left = _least_squares(m[..., chosen], q, known)
            if only is None or left <= NOTHING_LEFT:
                break
    ds, error = np.zeros(len(of_half)), np.full(len(of_half), np.inf)
    ds[chosen], error[chosen] = solved, np.where(sizes > UNSEEN * sizes.max(initial=0.0), sizes, np.inf)
    found_all = []
    for h, those in enumerate(places):
        of_places, its_error = np.zeros(shape), np.full(shape, np.inf)
        of_places.reshape(-1)[those], its_error.reshape(-1)[those] = ds[of_half == h], error[of_half == h]
        found_all.append((of_places, its_error))
    return found_all, left


def _least_squares(m: np.ndarray, q: np.ndarray, known: np.ndarray) -> tuple[np.ndarray, np.ndarray, float]:
    """Solve q = m x over what is known, but for the channel that fits worst if one doesn't fit.

    Returns
    -------
    (x, its relative errors, what it leaves of q as a share of q)
    """
    channels, worst = np.arange(q.shape[-1]), None
    while True:
        use = known & (channels != worst if worst is not None else True)
        inverse = np.linalg.pinv(m[use].T @ m[use], rcond=1e-12, hermitian=True)
        x = inverse @ (m[use].T @ q[use])
        off = np.where(known, q - m @ x, 0.0)
        left = float(np.abs(off[use]).sum()) / (float(np.abs(q[use]).sum()) or 1.0)
        if worst is not None or left <= NOTHING_LEFT or len(channels) == 1:
            return x, np.sqrt(np.maximum(np.diag(inverse), 0)), left
        worst = int(np.argmax((off**2).sum(tuple(range(off.ndim - 1)))))


def _median(values: np.ndarray, weights: np.ndarray) -> float:
    order = np.argsort(values)
    return float(values[order][min(np.searchsorted(np.cumsum(weights[order]), weights.sum() / 2), len(order) - 1)])


def _causes(
    piece: Piece, target: np.ndarray, halves: Sequence[_Half], half: _Half, k: int, dz: np.ndarray, usable: np.ndarray, trust: np.ndarray
) -> Iterator[Hypothesis]:
    """Return the bias, and the weights, that would change a half's z of unit k by dz, which is known as well as trust says."""
    at, step, kept = piece.at, piece.at.step, piece.kept
    sure = trust[usable]
    size = float((sure * np.abs(dz[usable])).sum())
    if not size:
        return
    bias, of_bias = step.bias, half.part.bias
    constant = _median(dz[usable], sure)
    left = float((sure * np.abs(dz[usable] - constant)).sum())
    if bias is not None and isinstance(of_bias, Clamp) and of_bias != NOTHING and left <= ROUGHLY * size:
        old = float(bias[k])
        value = _unchanged(float(layers.changed_bias(step, of_bias)[k]) + constant, of_bias, abs(constant))
        if value is not None:
            beyond = _beyond([half.part.bias for half in halves])
            yield _bias(k, _polished(piece, target, value, old, partial(_with_bias, k=k)), beyond)
    weight = at.matrix
    assert weight is not None
    found = []
    for term, there in zip(half.part.terms, half.there, strict=True):
        assert isinstance(term.weight, Clamp)
        for index, values in _inputs(at.a * there, step, weight):
            v = values[usable]
            norm = float((v * v * sure**2).sum())
            if norm:
                delta = float((v * dz[usable] * sure**2).sum()) / norm
                left = float((sure * np.abs(dz[usable] - delta * v)).sum())
                if left <= ROUGHLY * size:
                    found.append((left, (*index, k), delta, term.weight))
    beyond = _beyond([term.weight for each in halves for term in each.part.terms])
    for _, index, delta, change in sorted(found)[:WEIGHTS]:
        old = float(weight[index])
        value = _unchanged(float(layers.change_weight(np.array([old]), change)[0]) + delta, change, abs(delta))
        if value is None:
            continue
        if kept is None:
            yield _weight(index, _polished(piece, target, value, old, partial(_with_weight, index=index)), old, beyond)
        elif index[0] < len(kept):
            yield dataclasses.replace(_weight((int(kept[index[0]]), k), value, old, beyond), whole=True)


def _unchanged(value: float, change: Clamp, by: float) -> float | None:
    """Return what a clamp makes a value of; None where it makes that of nothing. What differs `by` so much and is nearly 0 is 0."""
    if abs(value) <= 1e-3 * by:
        return 0.0
    factor = change.positive if value >= 0 else change.negative
    return value / factor if factor else None


def _beyond(changes: Sequence[Change]) -> str:
    """Return what a number that is 0 under some changes of weights may also be: they cut off one sign, and nothing tells how much of it."""
    clamps = [each for each in changes if isinstance(each, Clamp) and each != NOTHING]
    if not any(each.negative for each in clamps):
        return " or less"
    return "" if any(each.positive for each in clamps) else " or more"


def _polished(piece: Piece, target: np.ndarray, value: float, old: float, changed_to: Callable[..., np.ndarray]) -> float:
    """Return the number near a value that was solved for with which a piece comes nearest to the target; the value itself if none does."""

    def run(theta: np.ndarray) -> np.ndarray:
        return changed_to(piece.at, value=float(theta[0]))[piece.within]

    if not value:
        return value
    with np.errstate(all="ignore"):
        before, after = (float(np.abs(run(np.array([each])) - target).sum()) for each in (old, value))
    if not after < CLOSER * before:
        return value
    theta = fit(run, target, [[value], [old]])
    return value if theta is None or not abs(theta[0] - value) <= 0.1 * abs(value) else float(theta[0])


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


def _bias(k: int, value: float, beyond: str) -> Hypothesis:
    value = _short(value)
    value = 0.0 if abs(value) < 1e-6 else value
    return Hypothesis(f"bias[{k}] is {plain(value)}{'' if value else beyond}", partial(_with_bias, k=k, value=value), {"value": value})


def _weight(index: tuple[int, ...], value: float, old: float, beyond: str) -> Hypothesis:
    value = 0.0 if abs(value) <= 1e-4 * abs(old) else _short(value)
    name = f"weight[{', '.join(map(str, index))}] is {plain(value)}{'' if value else beyond} for {plain(old)}"
    return Hypothesis(name, partial(_with_weight, index=index, value=value), {"value": value})


def _with_bias(p: Place, k: int, value: float) -> np.ndarray:
    return lines(p, bias=lambda b: changed(b, (k,), value))


def _with_weight(p: Place, index: tuple[int, ...], value: float) -> np.ndarray:
    return lines(p, weight=lambda w: changed(w, index, value))


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
    if step.weight is None or step.weight.ndim not in (2, 4) or step.weight.shape[-2] != step.input_shape[-1]:
        return
    weight, bias = layers.wide(step), step.bias
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
