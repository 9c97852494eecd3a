"""What was reported: a simple function of the right array, or another array altogether."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from nplrp.golden.diagnosis.matching import Hypothesis, Target, nice, plain
from nplrp.golden.forward_faults import coarse

Moved = Callable[[np.ndarray], np.ndarray]

#: What a layer's relevance may be in images' batches: no more differing elements than this are told one by one.
SINGLE = 3
#: A region that is lost is no larger a share of an array.
MOST = 0.9


def relations(target: Target, others: Mapping[str, np.ndarray], above: float | None = None) -> Iterator[tuple[Hypothesis, np.ndarray]]:
    """Return what simple functions of the right array give, and other arrays.

    Parameters
    ----------
    target : Target
        [n, ...]
    others : mapping of str to ndarray
        Other arrays of the right run, by what they are called.
    above : float or None
        Sum of the relevance that came from above.
    """
    right, candidate = target.reference, target.candidate
    for name, moved in _moves(right):
        yield Hypothesis(name), moved
    for name, other in others.items():
        if other.size == right.size:
            yield Hypothesis(name), other.reshape(right.shape)
    yield from _lost(target)
    yield from _multiples(target, above)
    yield from _stored(target)
    pairs = [(name, moved) for name, moved in _moves(right) if name != "negated"] + [
        (n, o.reshape(right.shape)) for n, o in others.items() if o.size == right.size
    ]
    for name, other in pairs:
        k = _factor(candidate, other)
        if k is not None and abs(k - 1) > 1e-3:
            yield Hypothesis(f"{name}, times {plain(k)}", fitted={"times": k}), k * other


def _moves(right: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Return an array moved, mirrored, cut off by sign, and so on."""
    named = {1: ("units",), 3: ("rows", "columns", "channels")}
    axes = named.get(right.ndim - 1, tuple(f"axis {k}" for k in range(1, right.ndim)))
    yield "negated", -right
    if (right < 0).any():
        yield "absolute values", np.abs(right)
        yield "rectified: negative relevance cut", np.maximum(right, 0)
    if (right > 0).any():
        yield "positive relevance cut", np.minimum(right, 0)
    if right.ndim == 4:
        if right.shape[1] == right.shape[2]:
            yield "rows and columns exchanged", right.swapaxes(1, 2)
        if right.shape[1] == right.shape[2]:
            yield "turned by 90 degrees", np.rot90(right, 1, (1, 2))
            yield "turned by -90 degrees", np.rot90(right, -1, (1, 2))
        yield "channels first: CHW numbers read as HWC", right.transpose(0, 3, 1, 2).reshape(right.shape)
        n, h, w, c = np.shape(right)
        yield "channels last: HWC numbers read as CHW", right.reshape(n, c, h, w).transpose(0, 2, 3, 1)
        yield "rows and columns reversed", right[:, ::-1, ::-1]
    for k, axis in enumerate(axes, 1):
        if right.shape[k] > 1:
            yield f"{axis} reversed" + (", left for right" if axis == "columns" else ""), np.flip(right, k)
            for by in (1, -1):
                yield f"{axis} shifted by {by}, round the edge", np.roll(right, by, k)
                yield f"{axis} shifted by {by}", _shifted(right, by, k)
    if right.ndim == 4:
        for down in (1, -1):
            for across in (1, -1):
                yield f"shifted by {down} row and {across} column", _shifted(_shifted(right, down, 1), across, 2)
    if len(right) > 1:
        yield "images of the batch in the opposite order", right[::-1]
        for by in range(1, len(right)):
            yield f"another image's: images shifted by {by}", np.roll(right, by, 0)
        yield "the first image's for all", np.broadcast_to(right[:1], right.shape)
        yield "the mean over the batch for all", np.broadcast_to(right.mean(0, keepdims=True), right.shape)
    if right.ndim == 4 and right.shape[3] > 1:
        yield "the mean over channels in each", np.broadcast_to(right.mean(-1, keepdims=True), right.shape)
        yield "the sum over channels in each", np.broadcast_to(right.sum(-1, keepdims=True), right.shape)
        yield "the largest of the channels in each", np.broadcast_to(right.max(-1, keepdims=True), right.shape)


def _shifted(values: np.ndarray, by: int, axis: int) -> np.ndarray:
    moved = np.zeros_like(values)
    to, source = [slice(None)] * values.ndim, [slice(None)] * values.ndim
    to[axis], source[axis] = (slice(1, None), slice(None, -1)) if by > 0 else (slice(None, -1), slice(1, None))
    moved[tuple(to)] = values[tuple(source)]
    return moved


def _factor(candidate: np.ndarray, right: np.ndarray) -> float | None:
    """Return the number that right is to be multiplied with, by the elements that are large in both."""
    size = float(np.vdot(right, right))
    if not size:
        return None
    return float(np.vdot(candidate, right)) / size


def _multiples(target: Target, above: float | None) -> Iterator[tuple[Hypothesis, np.ndarray]]:
    """Return multiples of the right array: one number for all images, or one for each."""
    right, candidate, n = target.reference, target.candidate, len(target.reference)
    k = _factor(candidate, right)
    if k is None or not np.isfinite(k) or k == 0:
        return
    best = k * right
    k = nice(k, lambda short: target.as_good(short * right, best))
    total, elements = float(right.sum()), right[0].size
    why = [
        f"1/{m:d}, {what}" for m, what in ((n, "a mean over the batch"), (elements, "a mean over all elements")) if abs(k * m - 1) < 1e-4
    ]
    if right.ndim == 4:
        pixels, channels = math.prod(np.shape(right)[1:-1]), int(np.shape(right)[-1])
        why += [
            f"1/{m:d}, a mean over {what}" for m, what in ((pixels, "pixels"), (channels, "channels")) if m > 1 and abs(k * m - 1) < 1e-4
        ]
    text = f"times {plain(k, 8)}" + (f" ({why[0]})" if why else "")
    free = True  # or the number follows from a norm
    cancelled = (
        float(np.abs(right).sum()) / abs(total) if total else np.inf
    )  # rounding moves a sum by so many times what it moves its terms
    for name, value in (("the sum is what came from above", total / above if above else 0.0), ("the sum is 1", total)):
        if value and abs(k * value - 1) < 1e-6 * cancelled:
            text, free = f"scaled so that {name} (times {plain(k, 8)})", name != "the sum is 1"
    largest = float(np.abs(right).max(initial=0.0))
    if abs(k * largest - 1) < 1e-5:
        text, free = f"scaled so that the largest is 1 (times {plain(k, 8)})", False
    yield Hypothesis(text, fitted={"times": k} if free else {}), k * right
    if n > 1:
        axes = tuple(range(1, right.ndim))
        sums, sizes, tops = right.sum(axes), np.abs(right).sum(axes), np.abs(right).max(axes)
        each = np.array([_factor(c, r) or 0.0 for c, r in zip(candidate, right, strict=True)])
        name, numbers = f"each image times its own number ({', '.join(map(plain, each[:4]))})", dict(enumerate(map(float, each)))
        if (np.abs(each * sums - 1) * np.abs(sums) <= 1e-6 * sizes).all():
            name, numbers = "scaled so that each image's sum is 1", {}
        elif (np.abs(each * tops - 1) <= 1e-5).all():
            name, numbers = "scaled so that each image's largest is 1", {}
        values = right * each.reshape(-1, *[1] * (right.ndim - 1))
        yield Hypothesis(name, fitted={f"image {i}": factor for i, factor in numbers.items()}), values


def _stored(target: Target) -> Iterator[tuple[Hypothesis, np.ndarray]]:
    """Return the candidate itself where it is the right array in fewer digits: what a format holds, and within half a unit of it."""
    right, candidate = target.reference, target.candidate
    if np.unique(candidate).size < 8:
        return
    for name, bits, held in (
        ("float16", 10, lambda v: v.astype(np.float16).astype(float)),
        ("bfloat16", 7, lambda v: coarse(v, 7)),
        ("TF32", 10, lambda v: coarse(v, 10)),
    ):
        with np.errstate(over="ignore"):
            same = np.array_equal(held(candidate), candidate)
        least = 2.0**-24 if name == "float16" else 0.0  # below its smallest normal number float16 has fewer digits
        if same and (np.abs(candidate - right) <= np.abs(right) * 2.0 ** -(bits + 1) + least / 2 + target.tolerance(right)).all():
            yield Hypothesis(f"rounded to {name}: right, but stored with fewer digits"), candidate


def _lost(target: Target) -> Iterator[tuple[Hypothesis, np.ndarray]]:
    """Return the right array with a region lost that the candidate hasn't, or with single elements changed."""
    right, candidate, out = target.reference, target.candidate, target.out
    places = np.argwhere(out)
    if not len(places):
        return
    if len(places) <= SINGLE and out.size > 16 * SINGLE:
        values = np.where(out, candidate, right)
        each = [f"{tuple(map(int, at))} is {candidate[tuple(at)]:.6g} for {right[tuple(at)]:.6g}" for at in places]
        what = "1 element" if len(places) == 1 else f"{len(places)} elements"
        yield Hypothesis(f"{what} alone: {'; '.join(each)}", fitted={f"element {k}": 0 for k in range(len(places))}), values
    if (candidate[out] != 0).any() or not (candidate[~out] != 0).any():
        return
    lost = (candidate == 0) & (right != 0)
    region = _region(lost & (out | (np.abs(right) > target.tolerance(right))), right)
    if region is not None:
        name, mask = region
        values = np.where(mask, 0.0, right)
        yield Hypothesis(f"lost (0 there): {name}"), values


def _region(lost: np.ndarray, right: np.ndarray) -> tuple[str, np.ndarray] | None:
    """Return a box, or a frame, of an image's rows, columns and channels that holds all that is lost and nothing else."""
    alive = right != 0
    names = ("image", "row", "column", "channel") if right.ndim == 4 else ("image", *(["unit"] if right.ndim == 2 else []))
    if len(names) != right.ndim:
        return None
    if right.ndim == 4:
        for width in (1, 2, 3):
            if min(right.shape[1:3]) > 2 * width + 1:
                frame = np.ones(right.shape, bool)
                frame[:, width:-width, width:-width] = False
                if np.array_equal(lost & alive, frame & alive):
                    return f"a border of {width} pixel{'s' if width > 1 else ''}", frame
    ends = []
    for axis in range(right.ndim):
        found = np.flatnonzero(lost.any(tuple(k for k in range(right.ndim) if k != axis)))
        ends.append((int(found[0]), int(found[-1]) + 1))
    box = np.zeros(right.shape, bool)
    box[tuple(slice(*end) for end in ends)] = True
    inside = int((box & alive).sum())
    if not inside or int((lost & alive).sum()) < 0.98 * inside or inside > MOST * alive.sum():
        return None
    text = []
    for found_ends, size, name in zip(ends, right.shape, names, strict=True):
        first, last = found_ends
        covered = alive.any(tuple(k for k in range(right.ndim) if names[k] != name))
        if not covered[:first].any() and not covered[last:].any() and last - first < size and name in ("row", "column"):
            first, last = 0, size  # beyond it there is nothing to lose
        if (first, last) != (0, size):
            text.append(f"{name} {first}" if last - first == 1 else f"{name}s {first} to {last - 1}")
    return (", ".join(text) or "all of it"), box
