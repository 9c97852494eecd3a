"""What an explanation shows of itself: pictures and maps, labels, and where the relevance went.

Works for what has just been computed and for what was saved: both have inputs, maps, labels, and say how they were made.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import numpy as np

from nplrp.errors import ImageError, NplrpError
from nplrp.heatmaps import CLIP, Picture, encode_png, panels, sheet
from nplrp.images import denormalize, display
from nplrp.span import INPUT
from nplrp.tables import Markup, bar, escaped, part, picture, table

if TYPE_CHECKING:
    from nplrp.drawing import Drawing
    from nplrp.explanation import Explanation
    from nplrp.files.saved import SavedExplanation
    from nplrp.ledger import Ledger
    from nplrp.targets import Label

    Shown: TypeAlias = Explanation | SavedExplanation

#: Images that Jupyter shows of a batch, that one figure holds, and features of a vector that a table holds.
FIRST, MOST, FEATURES = 4, 16, 12


class Facts(NamedTuple):
    """How an explanation was made.

    Attributes
    ----------
    composite, dialect, model, dtype, mode : str
        `mode` is that of the preprocessing.
    """

    composite: str
    dialect: str
    model: str
    dtype: str
    mode: str


def said(e: Shown) -> str:
    """Return in a line what was explained, by what."""
    facts, count, maps = e.facts, len(e.x), len(e.relevance)
    images = f"{count} image{'s' if count != 1 else ''}" + (f", {maps} maps" if maps != count else "")
    where = "" if e.layer == INPUT else f", relevance of {e.layer}"
    return f"{facts.composite} of {facts.model!r}, {images}{where}, {facts.dtype}, dialect {facts.dialect}"


def of_image(e: Shown, i: int) -> np.ndarray | None:
    """Return the picture [H, W, 3] of bytes that one image's input was made of, or None where inputs are no pictures."""
    x = _upright(e.x[i])
    if x.ndim != 3 or x.shape[-1] not in (1, 3):
        return None
    try:
        return display(denormalize(x[np.newaxis], e.facts.mode))[0]
    except ImageError:  # nobody knows how it was made
        low, high = float(x.min()), float(x.max())
        return display((x[np.newaxis] - low) / ((high - low) or 1.0) * 255)[0]


def _upright(x: np.ndarray) -> np.ndarray:
    """Return an input's numbers with channels last; a network of Keras 2 or 3 with channels first takes them as (C, H, W)."""
    first = x.ndim == 3 and x.shape[0] in (1, 3) and x.shape[2] not in (1, 3)
    return np.ascontiguousarray(np.moveaxis(x, 0, 2)) if first else x


def drawable(e: Shown) -> bool:
    """Tell whether maps have rows and columns."""
    return e.relevance.ndim == 4 and e.relevance.size > 0


def maps_of(e: Shown, i: int) -> dict[str, np.ndarray]:
    """Return one image's maps by what is written above them."""
    rows, labels = np.flatnonzero(e.images == i), e.target_labels()
    maps = [_upright(e.relevance[row]) if e.layer == INPUT else e.relevance[row] for row in rows]
    if len(rows) == 1:
        return {e.facts.composite: maps[0]}
    names = [labels[row].plain for row in rows]
    told = [name if names.count(name) == 1 else f"{name} ({labels[row].unit})" for name, row in zip(names, rows, strict=True)]
    return {f"{e.facts.composite}: {name}": each for name, each in zip(told, maps, strict=True)}


def title_of(e: Shown, i: int) -> str:
    """Return what stands above one image: its largest output, or what was explained if there are no classes."""
    largest = _labels(e, i, 1)
    if largest:
        return largest[0].heading
    rows = np.flatnonzero(e.images == i)
    return e.target_labels()[rows[0]].heading if len(rows) else ""


def sheet_of(e: Shown, i: int) -> Picture:
    """Return one image's picture beside its maps."""
    return sheet(of_image(e, i), maps_of(e, i), title_of(e, i))


def plot(
    e: Shown,
    image: np.ndarray | None = None,
    title: str | None = None,
    cmap: str | None = None,
    clip: float = CLIP,
    overlay: bool = False,
) -> Drawing:
    """Draw an explanation; see `Explanation.plot`."""
    count = len(e.x)
    if not e.relevance.size:
        raise ImageError("the explanation holds no image, so there is nothing to draw")
    if not drawable(e):
        return _bars(e, title)
    if count > MOST:
        raise ImageError(f"a figure holds {MOST} images, the explanation {count}; choose some: explanation[:{MOST}].plot()")
    given = None if image is None else np.asarray(image)
    if given is not None and given.ndim == 4:
        if len(given) != count:
            raise ImageError(f"there are {len(given)} pictures for {count} images; give one for each")
        pictures: list[np.ndarray | None] = list(given)
    elif given is not None and count != 1:
        raise ImageError(f"there is one picture for {count} images; give one for each, (N, H, W, 3)")
    else:
        pictures = [of_image(e, i) for i in range(count)] if given is None else [given]
    rows = [(pictures[i], maps_of(e, i), title_of(e, i) if title is None else title) for i in range(count)]
    return panels(rows, cmap, clip, overlay)


def png(e: Shown) -> bytes | None:
    """Return the first images' pictures and maps as one PNG; None where there is nothing to draw."""
    if not drawable(e):
        return None
    sheets = [sheet_of(e, i) for i in range(min(len(e.x), FIRST))]
    width = max(each.shape[1] for each in sheets)
    padded = [np.pad(each, ((0, 0), (0, width - each.shape[1]), (0, 0)), constant_values=255) for each in sheets]
    return encode_png(np.concatenate(padded))


def html(e: Shown, ledger: Ledger | None, note: str = "") -> str:
    """Return what Jupyter shows.

    Parameters
    ----------
    e : Explanation or SavedExplanation
    ledger : Ledger or None
        Of all its maps.
    note : str
        What is said where there is none.
    """
    blocks = [Markup(f"<div><b>{escaped(said(e))}</b></div>")]
    for i in range(min(len(e.x), FIRST)):
        if drawable(e):
            blocks.append(picture(encode_png(sheet_of(e, i)), f"{title_of(e, i)}: maps by {e.facts.composite}"))
        else:
            blocks.append(_features(e, i))
        labels = _labels(e, i, 5)
        if labels:
            parts = {label.what for label in labels} == {"probability"}
            names = [label.unit if label.id in (label.name, str(label.unit)) else label.id for label in labels]
            bars = [part(label.score) if parts else "" for label in labels]
            rows = [(label.plain, name, label.said, long) for label, name, long in zip(labels, names, bars, strict=True)]
            blocks.append(table(("largest outputs", "class", labels[0].what, ""), rows, numbers="llrl"))
    if len(e.x) > FIRST:
        how = ": e[i] shows one, e[i:j].plot() some" if hasattr(e, "__getitem__") else ""
        blocks.append(Markup(f"<div>and {len(e.x) - FIRST} more images{how}</div>"))
    if ledger is not None and len(ledger):
        blocks.append(Markup(ledger._repr_html_()))
    elif note:
        blocks.append(Markup(f"<div><small>{escaped(note)}</small></div>"))
    return "".join(blocks)


def _labels(e: Shown, i: int, top: int) -> list[Label]:
    """Return one image's largest outputs; none of an output that is no vector."""
    try:
        return e.one_labels(i, top)
    except NplrpError:
        return []


def _strongest(relevance: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Return one map's relevance as a row of numbers, and what each is called."""
    if relevance.ndim == 1:
        return relevance.astype(np.float64), [f"feature {j}" for j in range(len(relevance))]
    steps = relevance.sum(axis=-1, dtype=np.float64).reshape(-1)
    return steps, [f"step {j}" for j in range(len(steps))]


def _features(e: Shown, i: int) -> Markup:
    """Return the largest numbers of a map that is no picture, for each of an image's maps."""
    blocks = []
    for row in np.flatnonzero(e.images == i):
        values, names = _strongest(e.relevance[row])
        order = np.argsort(-np.abs(values), kind="stable")[:FEATURES]
        largest = float(np.abs(values).max(initial=0.0))
        rows = [(names[j], f"{values[j]:.4g}", bar(float(values[j]), largest)) for j in order]
        blocks.append(table(("strongest", "relevance", ""), rows, e.target_labels()[row].heading, numbers="lrl"))
    return Markup("".join(blocks))


def _bars(e: Shown, title: str | None) -> Drawing:
    """Draw maps that are no pictures as bars, one chart for each map."""
    from nplrp.drawing import Drawing

    maps, labels = len(e.relevance), e.target_labels()
    if maps > MOST:
        raise ImageError(f"a figure holds {MOST} maps, the explanation {maps}; choose some: explanation[i].plot()")
    fig = Drawing(figsize=(8, 2.4 * maps), dpi=100, facecolor="white", layout="constrained")
    for row in range(maps):
        values, names = _strongest(e.relevance[row])
        axes = fig.add_subplot(maps, 1, row + 1)
        axes.bar(np.arange(len(values)), values, width=0.9, color=np.where(values >= 0, "#d62728", "#1f4fd8"))
        axes.axhline(0, color="0.5", linewidth=0.8)
        axes.set_title(f"{e.facts.composite}: {labels[row].heading}" if title is None else title, fontsize=11, parse_math=False)
        axes.set(xlabel=names[0].partition(" ")[0] if names else "", ylabel="relevance")
    return fig
