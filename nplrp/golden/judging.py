"""One array against its golden values: how far off it is, in units of its tolerance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

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
#: End to end no smaller deviation is judged than this many unit roundoffs.
FLOOR = 32.0


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
    """
    stored, exact = got.dtype, tensor.values
    got = np.asarray(got, np.float64)
    index = np.unravel_index
    shape = exact.shape if indices is None else tensor.shape

    def place(flat: int) -> tuple[int, ...]:
        at = flat if indices is None else int(indices[flat])
        return tuple(int(k) for k in index(at, shape))

    finite = np.isfinite(got)
    if not finite.all():
        flat = int(np.argmin(finite.reshape(-1)))
        bad = int((~finite).sum())
        value = float(got.reshape(-1)[flat])
        note = f"{bad} of {got.size} elements are NaN or infinite"
        infinite = float("inf")
        return Judgement(
            DIVERGED,
            infinite,
            infinite,
            infinite,
            0.0,
            infinite,
            got.size,
            bad,
            0,
            place(flat),
            value,
            float(exact.reshape(-1)[flat]),
            0.0,
            note,
        )
    d, size = np.abs(got - exact), np.abs(exact)
    scale = (UNITS[precision] + (UNITS["float64"] if precision == "float64" else 0.0)) / UNIT
    smallest = SMALLEST[precision] * 4
    undecided = np.zeros(d.shape, bool)
    if tolerances is not None:
        rtol, atol = tolerances
        bound = certified = atol + rtol * size
    elif mode == "chained":
        bound = certified = np.zeros_like(d)
    else:
        bound, certified = tensor.expected * scale + smallest, tensor.certified * scale + smallest
        slack = REACH * np.asarray(tensor.undecided, np.float64)
        undecided, certified = (d > bound) & (d <= bound + slack), certified + slack
    sums = (float(d.sum()), float(size.sum()), float(d.max(initial=0.0)), max(tensor.sums[2], float(size.max(initial=0.0))))
    relative_sum, minimum_rtol = _quotient(sums[0], sums[1]), _quotient(sums[2], sums[3])
    if tolerances is None and mode == "chained":
        rows = tensor.spread if runs is None else tensor.spread[list(runs)]
        steady = rows if smooth is None else tensor.spread[list(smooth)]
        spread = np.maximum(rows.max(axis=0, initial=0.0) * CHAINED, FLOOR * UNIT) * scale
        limit = np.maximum(spread, CHAINED_SUSPECT * np.maximum(steady.max(axis=0, initial=0.0) * CHAINED, FLOOR * UNIT) * scale)
        ratio = float(max(relative_sum / spread[0], minimum_rtol / spread[1]))
        verdict = WITHIN if ratio <= 1 else SUSPECT if relative_sum <= limit[0] and minimum_rtol <= limit[1] else DIVERGED
        flat, over, tolerance = int(np.argmax(d)) if d.size else 0, int((d > spread[1] * sums[3]).sum()), float(spread[1] * sums[3])
        note = "empirical"
    else:
        quotients = np.divide(d, bound, out=np.where(d > 0, np.inf, 0.0), where=bound > 0)
        quotients[undecided] = 0.0
        flat = int(np.argmax(quotients)) if d.size else 0
        ratio = float(quotients.reshape(-1)[flat]) if d.size else 0.0
        beyond = (d > certified) & ~undecided
        note = ""
        over = int(((d > bound) & ~undecided).sum())
        verdict = WITHIN if ratio <= 1 else DIVERGED if beyond.any() else SUSPECT
        tolerance = float(bound.reshape(-1)[flat]) if d.size else 0.0
    if stored.kind == "f" and np.array_equal(got, exact.astype(stored).astype(np.float64)):
        verdict = EXACT
    there, wanted = (float(each.reshape(-1)[flat]) if d.size else 0.0 for each in (got, exact))
    return Judgement(
        verdict,
        ratio,
        minimum_rtol,
        relative_sum,
        _cosine(got, exact),
        _ulps(got, exact),
        d.size,
        over,
        int(undecided.sum()),
        place(flat) if d.size else (),
        there,
        wanted,
        tolerance,
        note,
    )


def _quotient(a: float, b: float) -> float:
    return a / b if b else (0.0 if a == 0 else float("inf"))


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    lengths = float(np.linalg.norm(a) * np.linalg.norm(b))
    return float(np.vdot(a, b)) / lengths if lengths else float(not a.any() and not b.any())


def _ulps(a: np.ndarray, b: np.ndarray) -> float:
    """Return the largest distance in float32's units in the last place of b."""
    with np.errstate(over="ignore", under="ignore"):
        unit = np.spacing(np.maximum(np.abs(b), float(np.finfo(np.float32).tiny)).astype(np.float32)).astype(np.float64)
    return float(np.max(np.abs(a - b) / unit, initial=0.0))
