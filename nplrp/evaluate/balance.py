"""Does what went in come out? The engine's own books (`nplrp.ledger`), not a guess from the map."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nplrp.ledger import TERMS

if TYPE_CHECKING:
    from nplrp.explanation import Explanation


def completeness(explanation: Explanation) -> dict[str, np.ndarray]:
    """Tell which share of the relevance that a pass began with arrived at its end, and where the rest went.

    Bach et al. 2015, equation 2: sum_i R_i = f(x), which rules with biases or stabilisers only approximate.

    Parameters
    ----------
    explanation : Explanation

    Returns
    -------
    dict of str to ndarray [maps], float64
        ``gap``: |in - out| / |in|, NaN where nothing went in; ``relevance_in``, ``relevance_out``; and, in the same unit, what ``bias``,
        ``epsilon``, units without a denominator (``dropped``) took and what was ``created``, summed over the layers; NaN for gradients,
        which keep no books: what goes in is then the logit.
    """
    maps = len(explanation.relevance)
    out = explanation.relevance.reshape(maps, -1).sum(axis=1, dtype=np.float64)
    terms = {key: np.full(maps, np.nan) for key in TERMS if key not in ("relevance_in", "relevance_out")}
    if explanation.plan.composite.gradient:
        from nplrp.scores import scoring_of

        logits = scoring_of(explanation.model).logits(explanation.logits)[explanation.images].astype(np.float64)
        into = logits.sum(axis=1) if explanation.targets is None else logits[np.arange(maps), explanation.targets]
    else:
        ledger = explanation.books
        into = ledger.start
        out = ledger.end
        terms = {key: np.sum([getattr(entry, key) for entry in ledger.entries], axis=0) for key in terms}
    with np.errstate(invalid="ignore", divide="ignore"):
        gap = np.where(into == 0, np.nan, np.abs(into - out) / np.abs(into))
    return {"gap": gap, "relevance_in": into, "relevance_out": out, **terms}
