"""Draw an evaluation: a panel for each metric, a colour for each composite; curves where there are some, else means."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.evaluate.errors import EvaluationError
from nplrp.evaluate.evaluating import Evaluation
from nplrp.evaluate.table import ARROWS, Metric

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: Colours that most people can tell apart (Okabe and Ito 2008), and lines that differ without colour.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#F0E442")
DASHES = ("-", "--", "-.", ":")
#: The most panels and composites of one picture.
MOST = 30
_INK, _FAINT = "0.15", "0.88"


def check_drawn(metrics: Sequence[Metric]) -> None:
    """Raise an EvaluationError if there are more metrics than a picture has room for."""
    if len(metrics) > MOST:
        raise EvaluationError(f"{len(metrics)} metrics don't fit into one picture; draw at most {MOST}")


def plot(evaluation: Evaluation) -> Figure:
    """Draw an evaluation.

    Parameters
    ----------
    evaluation : Evaluation

    Returns
    -------
    matplotlib.figure.Figure
        For `nplrp.save_png`. Curves are means over the images, shades their standard error; dots are images, bars their means.

    Raises
    ------
    EvaluationError
        If there are more metrics or composites than a picture has room for.
    """
    from matplotlib.figure import Figure

    check_drawn(evaluation.metrics)
    if len(evaluation.composites) > MOST:
        raise EvaluationError(f"{len(evaluation.composites)} composites don't fit into one picture; draw at most {MOST}")
    metrics = sorted(evaluation.metrics, key=lambda metric: not metric.row.steps)  # curves first
    columns = min(len(metrics), 3)
    rows = -(-len(metrics) // columns)
    legend_rows = -(-len(evaluation.composites) // max(columns * 2, 2))
    wide, tall, above, below = 4.4, 3.1, 0.5, 0.25 + 0.25 * legend_rows
    width, height = max(wide * columns, 6.0), tall * rows + above + below
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    n = len(evaluation.images)
    title = f"{evaluation.about['model']}, {n} image{'s' if n != 1 else ''}"
    figure.text(0.5, 1 - 0.12 / height, _short(title, int(width * 7)), fontsize=14, ha="center", va="top", color=_INK, parse_math=False)
    lines: list[Any] = []
    for i, metric in enumerate(metrics):
        row, column = divmod(i, columns)
        left = (column * wide + 0.75) / width if columns > 1 else 0.75 / width
        across = ((wide if columns > 1 else width) - 1.0) / width
        axes = figure.add_axes((left, (below + tall * (rows - 1 - row) + 0.75) / height, across, (tall - 1.2) / height))
        _style(axes)
        axes.set_title(_short(f"{metric.name} {ARROWS[metric.better]}", 46), fontsize=10.5, color=_INK, loc="left", parse_math=False)
        found = _curves(axes, evaluation, metric) if metric.row.steps else _dots(axes, evaluation, metric)
        lines = found if len(found) > len(lines) else lines
    names = [_short(name, 40) for name in evaluation.composites]
    if len(lines) == len(names):
        legend = figure.legend(
            lines, names, loc="lower center", ncols=max(columns * 2, 2), frameon=False, fontsize=9, bbox_to_anchor=(0.5, 0.04 / height)
        )
        for text in legend.get_texts():
            text.set_parse_math(False)
    return figure


def _curves(axes: Axes, evaluation: Evaluation, metric: Metric) -> list[Any]:
    lines = []
    for i, composite in enumerate(evaluation.composites):
        outcome = evaluation[composite, metric.name]
        assert outcome.curve is not None
        layers = bool(outcome.axis) and isinstance(outcome.axis[0], str)
        x = np.arange(1, len(outcome.axis) + 1) if layers else np.asarray(outcome.axis, float)
        curve = outcome.curve
        if layers:  # with the trained network a map is equal to itself
            x, curve = np.r_[0, x], np.concatenate([np.ones((len(curve), 1)), curve], axis=1)
        mean, error = _mean(curve)
        line = axes.plot(x, mean, _dash(i), color=_colour(i), linewidth=1.6, marker="o" if layers else "", markersize=3.5)[0]
        axes.fill_between(x, mean - error, mean + error, color=_colour(i), alpha=0.13, linewidth=0)
        lines.append(line)
    if layers:
        names = ("trained", *map(str, outcome.axis))
        every = max(-(-len(names) // 18), 1)
        shown = range(0, len(names), every)
        axes.set_xticks(
            list(shown), labels=[_short(names[k], 16) for k in shown], rotation=60, ha="right", fontsize=6.5, rotation_mode="anchor"
        )
        for text in axes.get_xticklabels():
            text.set_parse_math(False)
        axes.set_ylabel("rank correlation", fontsize=9, color=_INK)
        axes.axhline(0, color="0.6", linewidth=0.8)
        top, bottom = max(axes.get_ylim()[1], 1.02), min(axes.get_ylim()[0], -0.1)
        axes.set_ylim(bottom, top)
    else:
        axes.set_xlim(0, float(x[-1]) or 1)
        axes.set_xlabel(metric.row.steps, fontsize=9, color=_INK)
        axes.set_ylabel(str(evaluation.about["score"]), fontsize=9, color=_INK)
        if any(word in str(evaluation.about["score"]) for word in ("probability of",)) and "log-" not in str(evaluation.about["score"]):
            axes.set_ylim(-0.02, 1.02)
    return lines


def _dots(axes: Axes, evaluation: Evaluation, metric: Metric) -> list[Any]:
    found = []
    rng = np.random.default_rng(0)  # dots beside each other
    for i, composite in enumerate(evaluation.composites):
        values = evaluation[composite, metric.name].values
        known = values[np.isfinite(values)]
        bar = axes.bar([i], [known.mean() if len(known) else 0.0], width=0.62, color=_colour(i), alpha=0.35, edgecolor=_colour(i))
        if not len(known):
            axes.text(i, 0, "not defined", fontsize=8, ha="center", va="bottom", color=_INK)
        axes.plot(i + rng.uniform(-0.18, 0.18, len(known)), known, ".", color=_colour(i), markersize=5, alpha=0.8)
        found.append(bar)
    axes.set_xticks([])
    axes.set_xlim(-0.6, len(evaluation.composites) - 0.4)
    axes.axhline(0, color="0.6", linewidth=0.8)
    axes.set_xlabel("composites; a dot is an image", fontsize=9, color=_INK)
    return [bar.patches[0] for bar in found]


def _mean(curve: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return mean and standard error of curves [n, k] over those that are defined."""
    known = np.isfinite(curve)
    count = np.maximum(known.sum(axis=0), 1)
    mean = np.where(known.any(axis=0), np.where(known, curve, 0).sum(axis=0) / count, np.nan)
    spread = np.where(known, (curve - mean) ** 2, 0).sum(axis=0) / np.maximum(count - 1, 1)
    return mean, np.sqrt(spread / count)


def _style(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color("0.6")
    axes.tick_params(colors=_INK, labelsize=8.5, length=3, color="0.6")
    axes.grid(axis="y", color=_FAINT, linewidth=0.8)
    axes.set_axisbelow(True)


def _colour(i: int) -> str:
    return COLOURS[i % len(COLOURS)]


def _dash(i: int) -> str:
    return DASHES[i // len(COLOURS) % len(DASHES)]


def _short(text: str, width: int) -> str:
    return (
        textwrap.shorten(text, width, placeholder="…") if " " in text.strip() else text if len(text) <= width else text[: width - 1] + "…"
    )
