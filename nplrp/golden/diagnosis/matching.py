"""What a hypothesis is, how near it comes to a candidate's numbers, and which ones are named."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nplrp.golden.judging import REACH
from nplrp.golden.values import UNIT

Run = Callable[[Any], "np.ndarray | None"]

#: How many hypotheses are named, and how many of them are run on whole layers.
NAMED, VERIFIED = 4, 24
#: A hypothesis fits if it leaves at most one tolerance, and at most this share of what the right rule leaves.
LEFT = 0.1
#: Two hypotheses that leave errors of sizes within this factor, or below so many unit roundoffs, aren't told apart.
ALIKE, FLOOR = 2.0, 4.0
#: What is left of the difference where everything is rounded coarsely, and a last bit more or less in between turns some roundings.
ROUNDED = 0.1
#: Differences that are looked at first.
LOOKED_AT = 4096
#: A shorter number may leave so many times what the fitted one leaves.
SHORTER = 1.3
#: What was left in the mean may be so many unit roundoffs of the values where their tolerance doesn't hold, at so small a share of them.
ROUNDING, FEW = 64.0, 0.005
#: Or it may leave these shares of each difference, at the median and at nine tenths of the elements.
MEDIAN, MOST = 1e-4, 0.01
#: Then a few denominators that nearly vanish may make a difference of this share of the sum.
VANISHING = 1e-3
#: Hypotheses are compared by this share of the elements, without the few where a denominator that nearly vanishes makes rounding large.
USUAL = 0.95
#: A fitted number that needs so many digits more than another one isn't told beside it.
MORE_DIGITS = 2


@dataclass(frozen=True, eq=False)
class Hypothesis:
    """Something that may be wrong.

    Attributes
    ----------
    name : str
        As a report tells it, with the numbers that were fitted.
    run : callable
        From a place to the numbers that it would give; None if it can't show there. Not asked of what comes with its numbers.
    fitted : mapping of str to number
        Numbers that were fitted to the candidate.
    whole : bool
        It needs the whole layer.
    each : bool
        It needs each input of a dense layer, which a piece of one hasn't.
    rounds : bool
        It rounds to a coarse format, which no other code does the same way at every number: to leave `ROUNDED` of the difference is enough.
    """

    name: str
    run: Run = field(default=lambda _: None, repr=False)
    fitted: dict[str, Any] = field(default_factory=dict)
    whole: bool = False
    each: bool = False
    rounds: bool = False


@dataclass(frozen=True)
class Match:
    """A hypothesis that gives the candidate's numbers.

    Attributes
    ----------
    name : str
    fitted : mapping of str to number
    residual : float
        The largest difference that it leaves, in tolerances.
    size : float
        sum |d| / sum |v|, over the elements that the right rule doesn't explain.
    share : float
        What it leaves of the difference from the right rule's numbers.
    beside : bool
        It fits what else the candidate has of the step, too: the relevance of a join's other inputs.
    """

    name: str
    fitted: dict[str, Any]
    residual: float
    size: float
    share: float = 0.0
    beside: bool = True


@dataclass(frozen=True)
class Finding:
    """What a search has found out about one array; prints itself as a sentence.

    Attributes
    ----------
    layer : str
    matches : tuple of Match
        Those that fit and can't be told apart, the one that is named first; empty if nothing fits.
    tried : int
    apart : float
        How far the right rule's numbers, given the candidate's own inputs, are from the candidate's, in tolerances.
    closest : str
        What came nearest, of nothing that fits.
    """

    layer: str
    matches: tuple[Match, ...]
    tried: int
    apart: float
    closest: str = ""

    @property
    def name(self) -> str:
        """What is named, "" for nothing."""
        return self.matches[0].name if self.matches else ""

    def __str__(self) -> str:
        if self.matches:
            alike = ", ".join(match.name for match in self.matches[1:NAMED])
            more = f" (not to be told apart here: {alike})" if alike else ""
            near = (
                f"to {self.matches[0].residual:.2g} tol"
                if self.matches[0].residual <= 1
                else f"but for {self.matches[0].share:.1g} of the difference"
            )
            return f'{self.layer} matches "{self.name}" {near}{more}'
        if self.apart <= 1:
            return f"{self.layer} is right, given what the candidate has around it: what differs was handed to it"
        return f"{self.layer} matches none of {self.tried} known deviations{self.closest}"


class Target:
    """A candidate's array, and how far others are from it.

    Parameters
    ----------
    candidate, reference : ndarray
        What the right rule gives, of the same shape.
    expected, undecided : ndarray or None
        Error bound in units of float32's roundoff, and what hangs on undecided choices; None where there are none, as in a digest.
    scale : float
        The candidate's unit roundoff in units of float32's.
    loose : bool
        The candidate's inputs aren't known to the last bit, so a few elements may have been decided otherwise.
    """

    def __init__(
        self,
        candidate: np.ndarray,
        reference: np.ndarray,
        expected: np.ndarray | None,
        undecided: np.ndarray | None,
        scale: float,
        loose: bool,
    ) -> None:
        self.candidate, self.reference = candidate, reference.reshape(candidate.shape)
        self.scale, self.loose = scale, loose
        known = expected is not None and expected.shape == candidate.shape
        self.bound = np.asarray(expected, np.float64) * scale if known else np.zeros(candidate.shape)
        self.slack = np.asarray(undecided, np.float64) * REACH if known and undecided is not None else np.zeros(candidate.shape)
        self.known = known
        alive = (self.reference != 0) & (self.bound > 0)
        self.typical = float(np.median(self.bound[alive] / np.abs(self.reference[alive]))) if alive.any() else 0.0
        self.out = self._beyond(self.reference)
        self.apart, self.apart_size = self.distance(self.reference)
        some = np.flatnonzero(self.out)
        some = some[:: max(1, len(some) // LOOKED_AT)][:LOOKED_AT]
        self.looked = np.unravel_index(some, candidate.shape)
        self.before = np.abs(candidate - self.reference)[self.looked]

    def tolerance(self, values: np.ndarray) -> np.ndarray:
        """Return how far the candidate may be from values; where these are larger than the right ones, so is what rounding does to them."""
        least = np.finfo(np.float32).smallest_subnormal * 4 if self.scale >= 2.0**-20 else np.finfo(np.float64).tiny
        larger = self.typical * np.maximum(np.abs(values) - np.abs(self.reference), 0.0)
        return np.asarray(self.bound + larger + np.abs(values) * (32 * UNIT * self.scale) + least)

    def _beyond(self, values: np.ndarray) -> np.ndarray:
        d = np.abs(self.candidate - values)
        return np.asarray(d > self.tolerance(values) + self.slack)

    def distance(self, values: np.ndarray) -> tuple[float, float]:
        """Return the largest difference in tolerances, over what is decided; and sum |d| / sum |v|."""
        values = values.reshape(self.candidate.shape)
        if not np.isfinite(values).all():
            return float("inf"), float("inf")
        d, tolerance = np.abs(self.candidate - values), self.tolerance(values)
        ratios = np.where(d <= tolerance + self.slack, np.minimum(d / tolerance, 1.0), d / tolerance)
        size = float(d.sum()) / (float(np.abs(values).sum()) or 1.0)
        worst = float(ratios.max(initial=0.0))
        if not self.known or self.loose:
            return min(worst, size / (ROUNDING * UNIT * self.scale)), size
        return worst, size

    def fits(self, values: np.ndarray, rounds: bool = False) -> tuple[bool, float, float]:
        """Tell whether values are the candidate's; with the largest difference in tolerances, and what is left where the right ones differ.

        With `rounds` as of `Hypothesis`. The last is sum |d| / sum |v| over the elements that the right rule doesn't explain.
        """
        values = values.reshape(self.candidate.shape)
        if len(self.before) == LOOKED_AT and not rounds:  # most hypotheses about large arrays are far off at first sight
            seen = values[self.looked]
            after = np.abs(self.candidate[self.looked] - seen)
            if not np.median(after) <= 0.2 * np.median(self.before):
                return False, float("inf"), float(after.sum()) / (float(np.abs(seen).sum()) or 1.0)
        worst, size = self.distance(values)
        if not np.isfinite(worst):
            return False, worst, size
        before, after = np.abs(self.candidate - self.reference)[self.out], np.abs(self.candidate - values)[self.out]
        usual = after <= np.quantile(after, USUAL, method="higher") if after.size else np.ones(0, bool)
        left = float(after[usual].sum()) / (float(np.abs(values[self.out][usual]).sum()) or 1.0)
        explained = float(after.sum()) <= LEFT * float(before.sum())
        if worst <= 1 and worst <= LEFT * self.apart and explained:
            return True, worst, left
        if rounds and size <= ROUNDED * self.apart_size and after.sum() <= ROUNDED * before.sum():
            return True, worst, left
        if size > LEFT**2 * self.apart_size:
            return False, worst, left
        rounding = ROUNDING * UNIT * self.scale
        beyond = int(self._beyond(values).sum())  # elements where the bound, which is the right rule's, doesn't hold for this one
        close = (size <= rounding and beyond <= FEW * self.out.sum()) or (size <= VANISHING and self._explains(before, after))
        return close, min(size / rounding, worst) if close else worst, left

    def share(self, values: np.ndarray) -> float:
        """Return what values leave of the difference from the right ones."""
        before = float(np.abs(self.candidate - self.reference).sum())
        return float(np.abs(self.candidate - values.reshape(self.candidate.shape)).sum()) / (before or 1.0)

    def agrees(self, values: np.ndarray) -> bool:
        """Tell whether values are the candidate's, which may be the right ones."""
        return self.distance(values)[0] <= 1 or (self.apart > 1 and self.fits(values)[0])

    def as_good(self, values: np.ndarray, than: np.ndarray) -> bool:
        """Tell whether values, with a number that is shorter, leave no more than others do, or no more than rounding."""
        fit, _, left = self.fits(values)
        return fit and left <= SHORTER * self.fits(than)[2] + FLOOR * UNIT * self.scale

    def _explains(self, before: np.ndarray, after: np.ndarray) -> bool:
        """Tell whether next to nothing is left of the difference wherever there is one, if more than the right rule's bound."""
        if not before.size:
            return False
        half, most = np.quantile(after / before, [0.5, 0.9])
        return bool(half <= MEDIAN and most <= MOST)


def finding(layer: str, target: Target, matches: Sequence[Match], tried: int, nearest: tuple[str, float, float]) -> Finding:
    """Return the finding that matches, in order of preference, make."""
    closest = ""
    if not matches:
        if nearest[0] and nearest[1] < 0.5 * target.apart_size and nearest[2] > 1:
            left = nearest[1] / (target.apart_size or 1.0)
            closest = f"; the closest, {nearest[0]!r}, leaves {left:.2g} of the difference"
        return Finding(layer, (), tried, target.apart, closest)
    matches = [match for match in matches if match.beside] or matches
    told = int(target.out.sum())  # as many fitted numbers as there are differences explain nothing
    least = min((match.size for match in matches if len(match.fitted) < told), default=min(match.size for match in matches))
    floor = FLOOR * UNIT * target.scale
    alike = [match for match in matches if match.size <= ALIKE * least + floor]
    alike.sort(key=_complexity)
    seen, several = set[str](), list[Match]()
    simplest = max(_complexity(alike[0]), (1, 1))
    for match in alike:
        far = match.fitted and _complexity(match) > (simplest[0], simplest[1] + MORE_DIGITS) and len(match.fitted) <= simplest[0]
        if match.name not in seen and not far:
            seen.add(match.name)
            several.append(match)
    return Finding(layer, tuple(several), tried, target.apart)


def _complexity(match: Match) -> tuple[int, int]:
    """Return how many numbers were fitted, and how many digits the longest of them has: who writes 0.1 mean |z| doesn't write 0.51655."""
    digits = [min(map(_digits, (value, value - 1) if key == "times" else (value,))) for key, value in match.fitted.items()]
    return len(digits), max(digits, default=0)


def _digits(value: float) -> int:
    return len(f"{abs(value):.9g}".partition("e")[0].replace(".", "").strip("0"))


def plain(value: float, digits: int = 6) -> str:
    """Write a number that was fitted."""
    return f"{value:.{digits}g}"


def nice(value: float, works: Callable[[float], bool]) -> float:
    """Return the shortest number near a fitted one that works as well; 0 if that does."""
    if abs(value) < 1e-3 and works(0.0):
        return 0.0
    for digits in range(1, 7):
        short = float(f"{value:.{digits - 1}e}")
        if abs(short - value) <= 2e-3 * abs(value) and works(short):
            return short
    return value
