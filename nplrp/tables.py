"""Tables for Jupyter: what models, plans, ledgers and explanations show of themselves as HTML.

Names come from anybody's files: whatever is put into a cell is escaped.
"""

from __future__ import annotations

import base64
import html
import math
from collections.abc import Sequence

from nplrp.pipes import readable

#: Rows that a table shows; more are counted.
MOST = 300
_CELL = "padding:1px 8px;text-align:{};font-variant-numeric:tabular-nums;white-space:nowrap"
#: For a decision, against it, and neither: those of the maps.
_FOR, _AGAINST = "#d62728", "#1f4fd8"


class Markup(str):
    """Text that is HTML already; everything else is escaped."""

    __slots__ = ()


def escaped(value: object) -> Markup:
    """Return what is shown of a value, in one line."""
    return value if isinstance(value, Markup) else Markup(html.escape(readable(" ".join(str(value).split()))))


def table(head: Sequence[str], rows: Sequence[Sequence[object]], caption: str = "", notes: Sequence[str] = (), numbers: str = "") -> Markup:
    """Return a table.

    Parameters
    ----------
    head : sequence of str
        A name for each column.
    rows : sequence of sequences
        Cells: text, or `Markup`.
    caption : str
        Above it.
    notes : sequence of str
        Lines below it.
    numbers : str
        A letter for each column: "r" for those that are aligned to the right.
    """
    sides = ["right" if letter == "r" else "left" for letter in numbers.ljust(len(head))]
    lines = [f"<caption style='text-align:left;caption-side:top'><b>{escaped(caption)}</b></caption>"] if caption else []
    cells = "".join(f"<th style='{_CELL.format(side)}'>{escaped(name)}</th>" for name, side in zip(head, sides, strict=True))
    lines.append(f"<thead><tr>{cells}</tr></thead><tbody>")
    for row in rows[:MOST]:
        cells = "".join(f"<td style='{_CELL.format(side)}'>{escaped(cell)}</td>" for cell, side in zip(row, sides, strict=True))
        lines.append(f"<tr>{cells}</tr>")
    lines.append("</tbody>")
    below = [*notes, *([f"{len(rows) - MOST} more rows; print() shows all"] if len(rows) > MOST else [])]
    return Markup(f"<table>{''.join(lines)}</table>" + "".join(f"<div><small>{escaped(note)}</small></div>" for note in below))


def bar(value: float, largest: float, width: int = 120) -> Markup:
    """Return a bar from a line in the middle: to the right for positive values, to the left for negative ones.

    Parameters
    ----------
    value : float
    largest : float
        Magnitude at the ends.
    width : int
        In pixels, of both sides together.
    """
    share = min(abs(value) / largest, 1.0) if largest > 0 and math.isfinite(value) else 0.0
    long = round(share * width / 2)
    left, colour = (width // 2, _FOR) if value >= 0 else (width // 2 - long, _AGAINST)
    line = f"<div style='position:absolute;left:{width // 2}px;width:1px;height:12px;background:#888'></div>"
    body = f"<div style='position:absolute;left:{left}px;width:{long}px;height:12px;background:{colour}'></div>"
    return Markup(f"<div style='position:relative;width:{width}px;height:12px'>{body}{line}</div>")


def part(value: float, width: int = 120) -> Markup:
    """Return a bar for a part of 1."""
    long = round(min(max(value, 0.0), 1.0) * width) if math.isfinite(value) else 0
    return Markup(
        f"<div style='width:{width}px;height:12px;background:#eee'><div style='width:{long}px;height:12px;background:#666'></div></div>"
    )


def picture(png: bytes, said: str) -> Markup:
    """Return a picture, with what is said to those who can't see it."""
    content = base64.b64encode(png).decode("ascii")
    return Markup(f"<img src='data:image/png;base64,{content}' alt='{escaped(said)}' style='max-width:100%'>")
