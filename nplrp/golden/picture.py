"""The report as a picture: golden, candidate and difference for some layers, and err/tol over all of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from nplrp.golden.judging import DIVERGED, EXACT, INHERITED, SUSPECT, WITHIN
from nplrp.golden.report import Report

if TYPE_CHECKING:
    from matplotlib.figure import Figure

#: Layers whose maps are drawn, at most.
SHOWN = 4
_COLOURS = {EXACT: "#1b7837", WITHIN: "#5aae61", SUSPECT: "#e08214", DIVERGED: "#b2182b", INHERITED: "#8c8c8c"}
_LOWEST, _HIGHEST = 1e-3, 1e6


def report_figure(report: Report) -> Figure:
    """Draw a report.

    Left: err/tol of every layer's relevance, from the output (top) to the input (bottom), the tolerance as a line. Right: relevance of
    the first image, summed over channels: golden, candidate, difference, each difference with its own scale.

    Parameters
    ----------
    report : Report

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    rows = [row for row in report.rows if row.what == "relevance"] or list(report.rows)
    shown = _chosen(report)
    height = max(3.0, 0.36 * len(rows) + 1.5, 2.5 * len(shown) + 0.8)
    figure = Figure(figsize=(6.6 + (7.2 if shown else 0), height), dpi=100, facecolor="white", layout="constrained")
    grid = figure.add_gridspec(max(len(shown), 1), 4 if shown else 1, width_ratios=[2.5, 1, 1, 1] if shown else [1])
    axes = figure.add_subplot(grid[:, 0])
    ratios = np.clip([row.judgement.ratio for row in rows], _LOWEST, _HIGHEST)
    places = np.arange(len(rows))
    axes.barh(places, np.log10(ratios / _LOWEST), left=np.log10(_LOWEST), color=[_COLOURS[row.verdict] for row in rows])
    axes.axvline(0.0, color="black", linewidth=1)
    axes.set_yticks(places, labels=[row.layer for row in rows], fontsize=9, parse_math=False)
    axes.invert_yaxis()
    ticks = np.arange(np.log10(_LOWEST), np.log10(_HIGHEST) + 1)
    labels = [f"1e{int(t):+d}" if t else "1" for t in ticks]
    axes.set_xticks(ticks, labels=["≤" + labels[0], *labels[1:-1], "≥" + labels[-1]], fontsize=8)
    axes.set_xlabel("error / tolerance")
    for place, row, ratio in zip(places.tolist(), rows, ratios.tolist(), strict=True):
        inside = ratio > 1e4
        axes.text(
            np.log10(ratio) + (-0.1 if inside else 0.1),
            place,
            row.verdict + ("  ← first" if row is report.first else ""),
            va="center",
            ha="right" if inside else "left",
            fontsize=8,
            color="white" if inside else "black",
        )
    axes.set_title(f"{report.golden}\n{report.mode}, {report.precision}", fontsize=10, parse_math=False)
    for number, name in enumerate(shown):
        golden, candidate = report.maps[name]
        difference = candidate - golden
        largest = float(np.max(np.abs(golden), initial=0.0))
        scales = (largest, largest, float(np.max(np.abs(difference), initial=0.0)))
        for column, (values, scale, title) in enumerate(
            zip((golden, candidate, difference), scales, ("golden", "candidate", "difference"), strict=True)
        ):
            cell = figure.add_subplot(grid[number, column + 1])
            cell.imshow(values, cmap="seismic", vmin=-(scale or 1), vmax=scale or 1, interpolation="nearest")
            cell.set_xticks([])
            cell.set_yticks([])
            cell.set_title(f"{title}, ±{scale:.2g}" + (f"\nrelevance of {name}" if column == 0 else "\n"), fontsize=9, parse_math=False)
    return figure


def _chosen(report: Report) -> list[str]:
    """Return the layers to draw: the one that diverges first, its neighbours, and the input."""
    names = [row.array for row in report.rows if row.what == "relevance" and row.array in report.maps]
    if not names:
        return []
    first = report.first
    begin = names.index(first.array) if first is not None and first.array in names else 0
    chosen = [*names[max(begin - 1, 0) : begin + SHOWN - 2], names[-1]]
    return list(dict.fromkeys(chosen))[:SHOWN]
