"""One array against its golden values: how far off it is, in units of its tolerance, element by element and in sums.

Numbers are read once, block by block, so that all that is made of a block stays in the processor's cache.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from nplrp.golden.scales import LIMIT
from nplrp.golden.values import UNIT, Tensor

#: Verdicts from best to worst; `INHERITED` is a divergence that an earlier layer explains.
EXACT, WITHIN, SUSPECT, DIVERGED, INHERITED = "EXACT", "WITHIN", "SUSPECT", "DIVERGED", "inherited"

#: Unit roundoffs.
UNITS = {"bfloat16": 2.0**-8, "float16": 2.0**-11, "float32": UNIT, "float64": 2.0**-53}
#: Smallest positive numbers.
SMALLEST = {"bfloat16": 2.0**-133, "float16": 2.0**-24, "float32": 2.0**-149, "float64": 2.0**-1074}
#: An element whose error exceeds its bound is undecided if this many times what hangs on unsure decisions would explain it.
REACH = 64.0
#: End to end: this many times the spread of the float32 runs is expected, and this many times more can't be told from a bug any more. The
#: second factor is for runs that decided as the golden one did: a ReLU or winner that falls otherwise isn't a little more of the same.
CHAINED, CHAINED_SUSPECT = 4.0, 16.0
#: And this many times what is expected of float32 runs, whatever the precision, where rounding explains decisions that fell otherwise.
EXCUSED = 4.0
#: End to end no smaller deviation is judged than this many unit roundoffs.
FLOOR = 32.0


#: A sum over errors is larger than it may be beyond this many times its limit, and suspect from the limit on.
SURE = 2.0
#: Precisions whose errors are small enough to be added up as if they were linear.
LINEAR = ("float32", "float64")
#: Numbers that are looked at at a time.
BLOCK = 1 << 15


@dataclass(frozen=True)
class Judgement:
    """How an array compares.

    Attributes
    ----------
    verdict : str
    ratio : float
        Largest error in units of its tolerance, over the elements that are decided.
    minimum_rtol : float
        max |d| / max |golden|: the relative tolerance that this array would need.
    relative_sum : float
        sum |d| / sum |golden|.
    cosine, ulp : float
        Of the angle between both; the largest distance in units in the last place of float32 (never judged on).
    elements, over, undecided : int
        Compared; beyond the expected bound and decided; beyond it and undecided.
    worst : tuple of int
        Index of the element with the largest ratio.
    got, expected, tolerance : float
        There.
    note : str
    sums : float
        The largest of the sums over errors, in units of what independent roundings may add up to; 0 where none is bounded.
    slope : float
        sum d v / sum v^2: by which factor, less 1, the array is off as a whole.
    """

    verdict: str
    ratio: float
    minimum_rtol: float
    relative_sum: float
    cosine: float
    ulp: float
    elements: int
    over: int
    undecided: int
    worst: tuple[int, ...]
    got: float
    expected: float
    tolerance: float
    note: str = ""
    sums: float = 0.0
    slope: float = 0.0


def judge(
    got: np.ndarray,
    tensor: Tensor,
    *,
    precision: str,
    mode: str = "isolated",
    indices: np.ndarray | None = None,
    tolerances: tuple[float, float] | None = None,
    runs: Sequence[int] | None = None,
    smooth: Sequence[int] | None = None,
    excused: float | None = None,
    whole: np.ndarray | None = None,
) -> Judgement:
    """Judge an array of the tensor's shape, or of the shape of its samples.

    Parameters
    ----------
    got : ndarray like tensor.values
    tensor : Tensor
    precision : str
        What it was computed in, a key of `UNITS`.
    mode : "isolated" or "chained"
        By the derived bounds, or by the spread of reordered runs.
    indices : ndarray or None
        Where the samples are.
    tolerances : (rtol, atol) or None
        Judge by these instead.
    runs, smooth : sequence of int, or None
        Rows of the spread that count for this candidate, and those of them that decided as the golden run did (see
        `nplrp.golden.decisions.comparable_runs`); None for all.
    excused : float or None
        End to end: the candidate decided otherwise above, or may have, which rounding explains, and moved so much relevance by that; such
        an array isn't DIVERGED before it differs by more than that and the float32 runs do. None: nothing was decided otherwise.
    whole : ndarray or None
        All of the array that `got` are samples of, for its sum.
    """
    if not np.isfinite(got).all():
        return _not_finite(got, tensor, indices)
    derived = tolerances is None and mode != "chained"
    seen = _look(got, tensor, precision, derived, tolerances)
    at = seen.flat if derived or tolerances is not None else seen.farthest
    shape = tensor.values.shape if indices is None else tensor.shape
    worst = tuple(int(k) for k in np.unravel_index(at if indices is None else int(indices[at]), shape)) if got.size else ()
    there, wanted = (float(each.reshape(-1)[at]) if got.size else 0.0 for each in (got, tensor.values))
    largest = max(tensor.sums[2], seen.largest)
    relative_sum, minimum_rtol = _quotient(seen.sum_d, seen.sum_v), _quotient(seen.max_d, largest)
    slope, sums, note = _quotient(seen.dv, seen.vv) if seen.dv else 0.0, 0.0, ""
    if tolerances is not None or derived:
        ratio, over, tolerance = seen.ratio, seen.over, seen.tolerance
        verdict = WITHIN if ratio <= 1 else DIVERGED if seen.beyond else SUSPECT
        if derived and precision in LINEAR and tensor.scales is not None:
            sums, note = _sums_by_derivation(seen, tensor, precision, None if indices is None else whole)
    else:
        note, scale = "empirical", _scale(precision)
        rows = tensor.spread if runs is None else tensor.spread[list(runs)]
        steady = rows if smooth is None else tensor.spread[list(smooth)]
        unscaled = np.maximum(rows.max(axis=0, initial=0.0) * CHAINED, FLOOR * UNIT)
        spread = unscaled * scale
        limit = np.maximum(spread, CHAINED_SUSPECT * np.maximum(steady.max(axis=0, initial=0.0) * CHAINED, FLOOR * UNIT) * scale)
        if excused is not None:
            limit = np.maximum(limit, EXCUSED * unscaled) + excused * np.array([_quotient(1.0, seen.sum_v), _quotient(1.0, largest)])
        ratio = float(max(relative_sum / spread[0], minimum_rtol / spread[1]))
        verdict = WITHIN if ratio <= 1 else SUSPECT if relative_sum <= limit[0] and minimum_rtol <= limit[1] else DIVERGED
        over, tolerance = int((np.abs(got - tensor.values) > spread[1] * largest).sum()) if ratio > 1 else 0, float(spread[1] * largest)
        if len(tensor.shifts) and precision in LINEAR and indices is None:
            shifts = np.abs(tensor.shifts if runs is None else tensor.shifts[list(runs)]).max(axis=0, initial=0.0)
            allowed = np.maximum(CHAINED * shifts, FLOOR * UNIT) * scale
            sums = float(max(_quotient(abs(seen.d), seen.sum_v) / allowed[0], abs(slope) / allowed[1]))
            note += f"; off as a whole by the factor {1 + slope:.9g}" if sums > 1 else ""
            if verdict == WITHIN and sums > 1 and excused is None:  # no more than suspect: eight runs don't tell what a sum may come to
                verdict = SUSPECT
    if derived and sums > 1:
        verdict = DIVERGED if sums > SURE or verdict == DIVERGED else SUSPECT
    if seen.exact:
        verdict = EXACT
    return Judgement(
        verdict,
        ratio,
        minimum_rtol,
        relative_sum,
        seen.cosine,
        seen.ulp,
        got.size,
        over,
        seen.undecided,
        worst,
        there,
        wanted,
        tolerance,
        note,
        sums,
        slope,
    )


@dataclass
class _Seen:
    """What was summed up over an array: d are errors, v golden values, g the candidate's."""

    sum_d: float = 0.0
    sum_v: float = 0.0
    max_d: float = 0.0
    largest: float = 0.0
    gg: float = 0.0
    vv: float = 0.0
    gv: float = 0.0
    dv: float = 0.0
    d: float = 0.0
    dd: float = 0.0
    ulp: float = 0.0
    ratio: float = 0.0
    tolerance: float = 0.0
    flat: int = 0
    farthest: int = 0
    over: int = 0
    undecided: int = 0
    beyond: bool = False
    exact: bool = False
    channels: np.ndarray = dataclasses.field(default_factory=lambda: np.zeros(0))

    @property
    def cosine(self) -> float:
        """Of the angle between candidate and golden values."""
        lengths = self.gg**0.5 * self.vv**0.5
        return self.gv / lengths if lengths else float(not self.sum_v and not self.sum_d)


def _look(got: np.ndarray, tensor: Tensor, precision: str, derived: bool, tolerances: tuple[float, float] | None) -> _Seen:
    """Read an array once, block by block."""
    by_channel = derived and tensor.scales is not None and len(tensor.scales.channels) > 0 and precision in LINEAR
    width = got.shape[-1] if by_channel else 1
    step = max(BLOCK // width, 1) * width
    seen, scale, smallest = _Seen(exact=got.dtype.kind == "f", channels=np.zeros(width)), _scale(precision), SMALLEST[precision] * 4
    flat_got, flat = np.ascontiguousarray(got).reshape(-1), [each.reshape(-1) for each in (tensor.values, tensor.expected)]
    certain, unsure = tensor.certified.reshape(-1), np.asarray(tensor.undecided).reshape(-1)
    for begin in range(0, got.size, step):
        part = slice(begin, begin + step)
        mine, v = flat_got[part], flat[0][part]
        g = mine.astype(np.float64)
        error, size = g - v, np.abs(v)
        d = np.abs(error)
        seen.exact = seen.exact and np.array_equal(v.astype(mine.dtype), mine)
        seen.sum_d += float(d.sum())
        seen.sum_v += float(size.sum())
        at = int(d.argmax())
        if d[at] > seen.max_d:
            seen.max_d, seen.farthest = float(d[at]), begin + at
        seen.largest = max(seen.largest, float(size.max()))
        seen.gg += _inner(g, g)
        seen.vv += _inner(v, v)
        seen.gv += _inner(g, v)
        seen.ulp = max(seen.ulp, _ulps(d, size))
        if derived:
            bound = flat[1][part].astype(np.float64)
            bound *= scale
            bound += smallest
            outside = d > bound
            if outside.any():
                hangs = unsure[part].astype(np.float64) * REACH
                undecided = outside & (d <= bound + hangs)
                outside &= ~undecided
                seen.undecided += int(undecided.sum())
                seen.over += int(outside.sum())
                seen.beyond |= bool((outside & (d > certain[part] * np.float64(scale) + smallest + hangs)).any())
                d = np.where(undecided, 0.0, d)
            open_ = unsure[part] > 0
            if open_.any():
                error = np.where(open_, 0.0, error)
        elif tolerances is not None:
            bound = tolerances[1] + tolerances[0] * size
            outside = d > bound
            seen.over += int(outside.sum())
            seen.beyond |= bool(outside.any())
        seen.d += float(error.sum())
        seen.dd += _inner(error, error)
        product = error * v
        seen.dv += float(product.sum())
        if by_channel:
            seen.channels += product.reshape(-1, width).sum(axis=0)
        if derived or tolerances is not None:
            quotients = np.divide(d, bound, out=np.where(d > 0, np.inf, 0.0), where=bound > 0)
            at = int(quotients.argmax())
            if quotients[at] > seen.ratio or not begin:
                seen.ratio, seen.flat, seen.tolerance = float(quotients[at]), begin + at, float(bound[at])
    return seen


def _sums_by_derivation(seen: _Seen, tensor: Tensor, precision: str, whole: np.ndarray | None) -> tuple[float, str]:
    """Return the largest sum over errors, in units of what roundings add up to, and what it says."""
    assert tensor.scales is not None
    scale, layer, channels = _scale(precision), tensor.scales.layer, tensor.scales.channels
    least = SMALLEST[precision] * 4 * max(tensor.values.size, 1)
    limits = [LIMIT * layer[k] + layer[k + 1] for k in (0, 2)]
    if tensor.values.shape != tensor.shape:  # samples: what is known of the rest is its sum
        if whole is None:
            return 0.0, ""
        total = abs(float(np.sum(whole, dtype=np.float64)) - tensor.sums[0])
        found = {"its sum is off": _excess(total, limits[0] * scale + least)}
    else:
        noise = layer[4] ** 0.5 * (1 + LIMIT / layer[5] ** 0.5)
        found = {
            "its sum is off": _excess(abs(seen.d), limits[0] * scale + least),
            f"it is off as a whole by the factor {1 + _quotient(seen.dv, seen.vv):.9g}": _excess(
                abs(seen.dv), limits[1] * scale + least * seen.largest
            ),
            "all errors together are too large": _excess(seen.dd**0.5, noise * scale + least),
        }
        if len(channels):
            allowed = (LIMIT * channels[:, 0] + channels[:, 1]) * scale + least * seen.largest
            each = np.divide(np.abs(seen.channels), allowed, out=np.zeros_like(allowed), where=allowed > 0)
            found[f"channel {int(each.argmax())} is off as a whole"] = float(each.max(initial=0.0))
    what = max(found, key=lambda key: found[key])
    return float(found[what]), what if found[what] > 1 else ""


def _inner(a: np.ndarray, b: np.ndarray) -> float:
    """Return sum a b, without BLAS, whose threads would wait for each other at every block."""
    return float(np.einsum("i,i->", a, b))


def _excess(value: float, limit: float) -> float:
    return value / limit if limit else (0.0 if value == 0 else float("inf"))


def _not_finite(got: np.ndarray, tensor: Tensor, indices: np.ndarray | None) -> Judgement:
    finite = np.isfinite(got).reshape(-1)
    flat, bad, infinite = int(np.argmin(finite)), int((~finite).sum()), float("inf")
    shape = tensor.values.shape if indices is None else tensor.shape
    place = tuple(int(k) for k in np.unravel_index(flat if indices is None else int(indices[flat]), shape))
    numbers = float(got.reshape(-1)[flat]), float(tensor.values.reshape(-1)[flat]), 0.0
    note = f"{bad} of {got.size} elements are NaN or infinite"
    return Judgement(DIVERGED, infinite, infinite, infinite, 0.0, infinite, got.size, bad, 0, place, *numbers, note)


def _scale(precision: str) -> float:
    """Return what bounds for float32 are to be multiplied by; golden values have float64's own errors."""
    return (UNITS[precision] + (UNITS["float64"] if precision == "float64" else 0.0)) / UNIT


def _quotient(a: float, b: float) -> float:
    return a / b if b else (0.0 if a == 0 else float("inf"))


def _ulps(d: np.ndarray, size: np.ndarray) -> float:
    """Return the largest of some distances in float32's units in the last place of numbers of that size."""
    with np.errstate(over="ignore", under="ignore"):
        single = np.maximum(size, float(np.finfo(np.float32).tiny)).astype(np.float32)
        unit = (single.view(np.uint32) & np.uint32(0x7F800000)).view(np.float32)  # its power of two, 2^23 units in the last place
        return float(np.max(d / unit, initial=0.0)) * 2.0**23
