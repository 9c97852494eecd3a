"""The search behind one array of relevance: what was reported, then rules, then single places; cheapest first."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from nplrp.golden import edges
from nplrp.golden.diagnosis import rules, single
from nplrp.golden.diagnosis.cutting import Piece, cut_out
from nplrp.golden.diagnosis.matching import VERIFIED, Finding, Hypothesis, Match, Target, finding
from nplrp.golden.diagnosis.reported import relations
from nplrp.golden.faults import Place
from nplrp.golden.judging import REACH

#: On a piece a hypothesis may leave so many times what it may on all of a layer: the tolerance is the same, the piece is where it is worst.
GENEROUS = 4.0
#: Sides of the pieces in which a single weight is looked for: all places of a unit that have relevance are unknown there.
TINY = (14, 7)


def search(
    layer: str,
    target: Target,
    places: Sequence[Place],
    shares: Sequence[np.ndarray],
    j: int,
    others: Mapping[str, np.ndarray],
    beside: Mapping[int, Target],
) -> Finding:
    """Look for what makes a candidate's relevance of one output.

    Parameters
    ----------
    layer : str
        What to call it.
    target : Target
        The candidate's array, and what the right rules give from what the candidate has around it.
    places : sequence of Place
        The steps whose rules give to it.
    shares : sequence of ndarray
        What each gives.
    j : int
        The step whose output it is, -1 for the input.
    others : mapping of str to ndarray
        Other arrays of a right run, by what they are called.
    beside : mapping of int to Target
        What one step that joins several inputs gives to the others, where the candidate told.

    Returns
    -------
    Finding
    """
    if target.apart <= 1:
        return Finding(layer, (), 0, target.apart)
    above = float(places[0].R.sum()) if len(places) == 1 and len(places[0].step.inputs) == 1 else None
    found = Matches(target, beside)
    for hypothesis, values in itertools.chain(_readers(places, shares, j), relations(target, others, above)):
        found.judge(hypothesis, values)
    for k, at in enumerate(places):
        rest = [share for other, share in enumerate(shares) if other != k]
        where = f" in {at.step.name}" if rest else ""
        _of_place(found, at, j, rest, where)
    return finding(layer, target, found.matches, found.tried, found.nearest)


class Matches:
    """Hypotheses that fit a target, as they come."""

    def __init__(self, target: Target, beside: Mapping[int, Target] | None = None) -> None:
        self.target, self.beside = target, beside or {}
        self.matches: list[Match] = []
        self.tried = 0
        self.nearest = ("", float("inf"), 0.0)

    def judge(
        self, hypothesis: Hypothesis, values: np.ndarray | None, where: str = "", given: Mapping[int, np.ndarray] | None = None
    ) -> bool:
        """Keep a hypothesis if its numbers fit; `given` is what it gives to all inputs of a join, the right numbers if it doesn't say."""
        if values is None:
            return False
        self.tried += 1
        fit, residual, size = self.target.fits(values, hypothesis.rounds)
        name = f"{hypothesis.name}{where}"
        if fit:
            beside = all(other.agrees(other.reference if given is None else given[j]) for j, other in self.beside.items())
            self.matches.append(Match(name, hypothesis.fitted, residual, size, self.target.share(values), beside))
        elif size < self.nearest[1]:
            self.nearest = (name, size, residual)
        return fit


def _readers(places: Sequence[Place], shares: Sequence[np.ndarray], j: int) -> Iterator[tuple[Hypothesis, np.ndarray]]:
    """Return what relevance would be if that of a reader were left out, counted twice, or multiplied once more."""
    for k, at in enumerate(places):
        rest = [share for other, share in enumerate(shares) if other != k]
        if rest:
            more = shares[k] * at.trace.activations[j + 1]  # Captum, of what reads beside a layer with a rule
            for name, values in (
                (f"what {at.step.name} gives left out", edges.total(rest)),
                (f"what {at.step.name} gives counted twice", edges.total([shares[k], *shares])),
                (f"what {at.step.name} gives times the activation once more", edges.total([more, *rest])),
            ):
                yield Hypothesis(name), values
    if len(places) > 1:
        mean = edges.total(shares) / len(shares)
        yield Hypothesis("the mean of what the readers give, not the sum"), mean


def _of_place(found: Matches, at: Place, j: int, rest: Sequence[np.ndarray], where: str) -> None:
    """Try what may be wrong in one step: on a piece of it first, and what fits there on all of it."""
    target = found.target
    joined = len(at.step.inputs) > 1

    def view(R: np.ndarray) -> np.ndarray:
        """Return what is compared of the relevance of what the step works on."""
        own = edges.cut(at.step, R)[j] if joined else R
        return np.asarray(edges.total([own, *rest]) if rest else own).reshape(target.candidate.shape)

    difference, dense = np.abs(target.candidate - target.reference), at.matrix is not None and at.matrix.ndim == 2
    shape = (len(at.a), *at.step.input_shape)
    piece = cut_out(at, difference.reshape(shape)) if not joined else Piece(at, (slice(None),), (slice(None),), True)
    if piece.exact:
        own, reference, small = target.candidate, target.reference, target

        def as_good(values: np.ndarray, than: np.ndarray) -> bool:
            return target.as_good(view(values), view(than))

    else:
        others = [share.reshape(shape)[piece.inside] for share in rest]
        own, reference, bound, slack = (
            each.reshape(shape)[piece.inside] for each in (target.candidate, target.reference, target.bound, target.slack)
        )
        if others:
            own, reference = own - edges.total(others), reference - edges.total(others)
        small = Target(own, reference, bound / target.scale, slack / REACH, target.scale, target.loose)

        def as_good(values: np.ndarray, than: np.ndarray) -> bool:
            return small.as_good(values[piece.within], than[piece.within])

    def judge(hypothesis: Hypothesis, values: np.ndarray) -> bool:
        """Judge what a hypothesis gives to all that the step works on."""
        given = edges.cut(at.step, values.reshape(shape)) if found.beside else None
        return found.judge(hypothesis, view(values), where, given)

    promising: list[tuple[float, int, Hypothesis]] = []

    def consider(hypotheses: Iterator[Hypothesis]) -> bool:
        """Try hypotheses on the piece; tell whether one fits."""
        hit = False
        for hypothesis in hypotheses:
            if not piece.exact and (hypothesis.whole or (hypothesis.each and dense)):
                promising.append((2.0, len(promising), hypothesis))
                continue
            values = _finite(piece, hypothesis)
            if values is None:
                continue
            if piece.exact:
                hit = judge(hypothesis, values) or hit
                continue
            found.tried += 1
            fit, residual, size = small.fits(values[piece.within], hypothesis.rounds)
            if fit or residual <= GENEROUS:
                promising.append((0.0 if fit else 1.0, len(promising), hypothesis))
                hit = hit or fit
            elif size < found.nearest[1]:
                found.nearest = (f"{hypothesis.name}{where}", size, residual)
        return hit

    listed = consider(rules.variants(at))
    if not joined and (piece.exact or not listed):  # fits cost seconds where layers are large
        minus = own - edges.total(rest).reshape(own.shape) if rest and piece.exact else own
        before = reference - edges.total(rest).reshape(own.shape) if rest and piece.exact else reference
        consider(rules.fitted(piece.at, minus, piece.within, as_good))
        consider(single.lost(piece, minus, before))
        around = edges.total(rest) if rest else np.zeros(target.candidate.shape)
        for side in TINY:
            tiny = cut_out(at, difference.reshape(shape), 0.0, side)
            there = [(each - around).reshape(shape)[tiny.inside] for each in (target.candidate, target.reference)]
            if consider(single.backward(tiny, *there)):
                break
        if at.matrix is not None and not rest and piece.exact:
            for hypothesis in rules.scaled_epsilons(at, target.candidate, target.as_good):
                found.judge(hypothesis, hypothesis.run(at), where)
        elif at.matrix is not None and at.parts:
            epsilon = next((each[2].fitted["epsilon"] for each in promising if "epsilon" in each[2].fitted), None)
            promising += [(0.0, len(promising), hypothesis) for hypothesis in (rules.likely_scales(at, epsilon) if epsilon else ())]
    promising.sort(key=lambda each: each[:2])
    fitting = [each for each in promising if each[0] == 0.0]
    for _, _, hypothesis in (fitting or promising)[:VERIFIED]:
        values = hypothesis.run(at)
        if values is not None:
            judge(hypothesis, values)


def _finite(piece: Piece, hypothesis: Hypothesis) -> np.ndarray | None:
    """Return what a hypothesis gives on a piece; None where it can't show, or gives what isn't a number."""
    with np.errstate(all="ignore"):
        values = hypothesis.run(piece.at)
    return values if values is not None and np.isfinite(values[piece.within]).all() else None
