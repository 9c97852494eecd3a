"""Numbers fitted to a candidate's: a coarse look at a grid, then Gauss and Newton's steps."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np

#: Steps of a fit, and how little it must leave of what its start left.
STEPS, ENOUGH = 12, 0.05


def fit(run: Callable[[np.ndarray], np.ndarray | None], target: np.ndarray, starts: Sequence[Sequence[float]]) -> np.ndarray | None:
    """Return the numbers with which `run` comes nearest to a target; None if no start leads near it.

    Parameters
    ----------
    run : callable
        From numbers to an array like the target, smooth in them.
    target : ndarray
    starts : sequence of sequences of float
    """
    least = 1e-2 * float(np.abs(target).mean()) + 1e-300

    def weight(values: np.ndarray) -> np.ndarray:
        """Return weights under which an error counts by its share, and 1 at most: a denominator that nearly vanishes tells little."""
        return np.asarray(1 / (np.abs(target) + np.abs(values) + least))

    def off(theta: np.ndarray) -> tuple[float, np.ndarray | None]:
        with np.errstate(all="ignore"):
            values = run(theta)
        if values is None or not np.isfinite(values).all():
            return np.inf, None
        return float(np.abs((values - target) * weight(values)).sum()), values

    found = []
    for start in starts:
        theta = np.array(start, float)
        found.append((*off(theta), theta))
    found.sort(key=lambda each: each[0])
    if not found or not np.isfinite(found[0][0]):
        return None
    begun = max((each[0] for each in found if np.isfinite(each[0])), default=np.inf)
    for begin in found[:2]:
        error, values, theta = begin
        for _ in range(STEPS):
            assert values is not None
            if error <= 1e-7 * target.size * 1e-2:
                break
            columns = []
            for k in range(len(theta)):
                h = np.zeros(len(theta))
                h[k] = 1e-4 * max(abs(theta[k]), 1e-6)
                beyond = off(theta + h)[1]
                columns.append(np.zeros_like(target) if beyond is None else (beyond - values) / h[k])
            by = weight(values)
            r = (target - values) * by
            m = np.stack([(column * by).reshape(-1) for column in columns], 1)
            step, *_ = np.linalg.lstsq(m, r.reshape(-1), rcond=None)
            if not np.isfinite(step).all():
                break
            for shrink in (1.0, 0.5, 0.1):
                moved = theta + shrink * step
                better, there = off(moved)
                if better < error:
                    break
            else:
                break
            small = np.abs(moved - theta).max() <= 1e-9 * np.abs(moved).max()
            theta, error, values = moved, better, there
            if small:
                break
        if error <= ENOUGH * begun:
            return theta
    return None
