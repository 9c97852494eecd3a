"""From relevance to colours, figures and PNG files, without a display and without pyplot's global state.

`project` brings relevance to [0, 1], `heatmap` colours it; `figure` draws one heatmap beside its picture as the document does,
`sheet` and `panel` several composites side by side on scales with bars; `save_png` writes any of them, whole or not at all.
Importing and drawing with matplotlib takes longer than an explanation (0.7 s against 0.15 s), so what the command line and Jupyter show is
drawn without: `sheet` draws what `panel` draws, of which one gets bytes and the other a matplotlib figure to go on with.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nplrp.errors import ImageError, NumericsError, OutputError, brief
from nplrp.files.atomic import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from nplrp.drawing import Drawing

#: Where the scale of what is looked at ends, as a percentile of |R|: a few pixels at an edge don't hide the rest. 100 is the largest.
CLIP = 99.5
#: Colours of a scale around 0, and of one that has no 0 on it.
DIVERGING, SEQUENTIAL = "seismic", "viridis"
#: A map has no contrast around 0 if it has one sign, and its median is more than this part of nearly its largest (percentile `CLIP`).
_EVEN = 1 / 3
NORMALIZE = ("image", "notebook")
#: Floating values that are all below this, and not all 0, aren't meant as a picture: a heatmap reaches an end of its colours.
_DARK = 0.1
_COLOUR_IT = "relevance becomes a picture by nplrp.heatmap(relevance)[i], or explanation.plot()"
#: Of `figure`, in pixels: width and height, left and right edges of the two pictures, their lower edge, and the size of the letters.
_SIZE, _COLUMNS, _BOTTOM, _LETTERS = (1200, 600), ((150, 573), (657, 1080)), 534, 21


def project(
    relevance: np.ndarray,
    normalize: str = "image",
    output_range: tuple[float, float] = (0.0, 1.0),
    absmax: float | np.ndarray | None = None,
    input_is_positive_only: bool = False,
) -> np.ndarray:
    """Sum relevance over the channels, divide by its largest magnitude, and map [-1, 1] to `output_range`.

    Parameters
    ----------
    relevance : ndarray (N, H, W, C)
    normalize : str
        ``"image"``: one largest magnitude per image; a map of zeros stays in the middle of the range. ``"notebook"``: the document's
        `project_image`, which divides column j by row j's largest magnitude, in the relevance's own dtype.
    output_range : (float, float)
        What the two ends are mapped to.
    absmax : float or ndarray (N,), optional
        Take this as largest magnitude instead; what lies beyond is clipped. One number for all puts images on one scale.
    input_is_positive_only : bool
        Map [0, 1] instead of [-1, 1]; negative relevance is clipped to 0.

    Returns
    -------
    ndarray (N, H, W), float64

    Raises
    ------
    NumericsError
        If the relevance holds a NaN or an infinity.
    ImageError
        If a shape or an option doesn't fit; with ``"notebook"``, where the document's code fails: fewer or more rows that
        aren't all zero than columns.
    """
    if normalize not in NORMALIZE:
        raise ImageError(f"unknown normalize {normalize!r}; there are {', '.join(NORMALIZE)}")
    relevance = _checked(relevance)
    reduced = relevance.sum(axis=-1, dtype=relevance.dtype if normalize == "notebook" else np.float64)
    _check_finite(reduced, "the relevance summed over its channels")
    if absmax is not None:
        scaled = _divide(reduced, _absmax_of_user(absmax, len(reduced)))
    elif normalize == "notebook":
        scaled = np.stack([_divide_as_notebook(image, index) for index, image in enumerate(reduced)])
    else:
        scaled = _divide(reduced, np.abs(reduced).max(axis=(1, 2)))
    if not input_is_positive_only:
        scaled = (scaled + 1) / 2
    low, high = output_range
    return (low + scaled.clip(0, 1) * (high - low)).astype(np.float64)


def heatmap(
    relevance: np.ndarray,
    cmap: str = "rainbow",
    normalize: str = "image",
    output_range: tuple[float, float] = (0.0, 1.0),
    absmax: float | np.ndarray | None = None,
    input_is_positive_only: bool = False,
) -> np.ndarray:
    """Colour relevance.

    Parameters
    ----------
    relevance : ndarray (N, H, W, C)
    cmap : str
        One of matplotlib's colour maps.
    normalize, output_range, absmax, input_is_positive_only
        As in `project`; the colour map takes 0 to 1 and shows what lies beyond as its ends.

    Returns
    -------
    ndarray (N, H, W, 3), float64 in [0, 1]

    Raises
    ------
    NumericsError, ImageError
        As in `project`; ImageError if the colour map is unknown.
    """
    table = _colours(cmap)
    projected = project(relevance, normalize, output_range, absmax, input_is_positive_only)
    return table[(projected * len(table)).astype(np.int64).clip(0, len(table) - 1)]


def pixels_of(relevance: np.ndarray) -> np.ndarray:
    """Sum one map's relevance over its channels.

    Parameters
    ----------
    relevance : ndarray (H, W, C) or (1, H, W, C)

    Returns
    -------
    ndarray (H, W), float64

    Raises
    ------
    NumericsError, ImageError
        As in `project`.
    """
    array = np.asarray(relevance)
    reduced = _checked(array if array.ndim == 4 else array[np.newaxis])[:1].sum(axis=-1, dtype=np.float64)
    _check_finite(reduced, "the relevance summed over its channels")
    return np.asarray(reduced[0])


@dataclass(frozen=True)
class Scale:
    """What the colours of a map stand for.

    Attributes
    ----------
    low, high : float
        Relevance at the ends; both 0 for a map of zeros.
    cmap : str
        One of matplotlib's.
    cut : bool
        Some pixels lie beyond the ends, and have their colours.
    """

    low: float
    high: float
    cmap: str
    cut: bool

    @property
    def centred(self) -> bool:
        """Whether 0 is in the middle."""
        return self.low == -self.high

    @property
    def said(self) -> tuple[str, str, str]:
        """What is written at the low end, in the middle and at the high end of its bar."""
        if self.low == self.high == 0:
            return "", "0 everywhere", ""
        less, more = ("\u2264 ", "\u2265 ") if self.cut else ("", "")
        ends = (self.low, self.high)
        low, high = next(
            (pair for pair in ([f"{end:.{n}g}" for end in ends] for n in range(2, 8)) if pair[0] != pair[1]), [f"{end:.8g}" for end in ends]
        )
        return f"{less}{low}", "0" if self.centred else "", f"{more}{high}"

    def at(self, pixels: np.ndarray) -> np.ndarray:
        """Return where relevance [H, W] lies on it, from -1 to 1; 0 for a map of zeros."""
        span = self.high - self.low
        return ((2 * (pixels - self.low) - span) / span).clip(-1, 1) if span > 0 else np.zeros(pixels.shape)


def scale_of(pixels: np.ndarray, cmap: str | None = None, clip: float = 100.0) -> Scale:
    """Choose the scale of a map: around 0, up to a percentile of its magnitude.

    A map of one sign with hardly any contrast on such a scale, as flat and w^2 give, is shown from its own low to its own high end in
    colours that nobody takes for a scale around 0; a colour map that is asked for is around 0 all the same.

    Parameters
    ----------
    pixels : ndarray [H, W]
    cmap : str or None
        One of matplotlib's; None chooses `DIVERGING` or `SEQUENTIAL`.
    clip : float
        Percentile of |R| at the end, above 0 and up to 100.

    Raises
    ------
    ImageError
        If the colour map is unknown or `clip` no percentile.
    """
    if not isinstance(clip, (int, float, np.integer, np.floating)) or isinstance(clip, bool) or not 0 < clip <= 100:
        raise ImageError(f"clip is {brief(clip)}, expected a percentile of |R|: more than 0 and up to 100, which cuts nothing off")
    if cmap is not None:
        _colours(cmap)
    size = np.abs(pixels)
    middle, most = np.percentile(size, [50, CLIP])
    if cmap is None and (pixels.min() >= 0 or pixels.max() <= 0) and middle > _EVEN * most:
        ends = np.percentile(pixels, [100 - clip, clip]) if clip > 50 else (pixels.min(), pixels.max())
        if ends[0] < ends[1]:
            return Scale(float(ends[0]), float(ends[1]), SEQUENTIAL, clip < 100)
    largest = float(size.max())
    end = float(np.percentile(size, clip)) or largest
    return Scale(-end, end, cmap or DIVERGING, end < largest)


def tinted(pixels: np.ndarray, scale: Scale, behind: np.ndarray | None = None) -> np.ndarray:
    """Colour a map on a scale, by itself or over its picture in grey.

    Parameters
    ----------
    pixels : ndarray [H, W]
        Relevance.
    scale : Scale
    behind : ndarray [h, w, 3] or None
        uint8, or floating in [0, 1]; where relevance is near 0 it can be seen.

    Returns
    -------
    ndarray (H, W, 3), float64 in [0, 1]
    """
    table, at = _colours(scale.cmap), scale.at(pixels)
    coloured = table[((at + 1) / 2 * len(table)).astype(np.int64).clip(0, len(table) - 1)]
    if behind is None:
        return coloured
    grey = Image.fromarray(_bytes(_picture(behind))).convert("L")
    if grey.size != pixels.shape[::-1]:
        grey = grey.resize(pixels.shape[::-1], Image.Resampling.BILINEAR)
    under = np.repeat(0.25 + 0.75 * np.asarray(grey)[..., np.newaxis] / 255, 3, axis=-1)  # black would swallow dark blue
    cover = np.sqrt(np.abs(at))[..., np.newaxis] if scale.centred else 0.6
    return np.asarray((1 - cover) * under + cover * coloured)


@functools.cache
def _colours(cmap: str) -> np.ndarray:
    """Return a colour map's colours, (n, 3)."""
    if cmap == "rainbow":  # matplotlib's formula
        x = np.linspace(0, 1, 256)
        return np.stack([np.abs(2 * x - 0.5), np.sin(x * np.pi), np.cos(x * np.pi / 2)], axis=-1).clip(0, 1)
    if cmap == DIVERGING:  # and its five colours, in equal steps
        stops, x = (
            np.array([(0.0, 0.0, 0.3), (0.0, 0.0, 1.0), (1.0, 1.0, 1.0), (1.0, 0.0, 0.0), (0.5, 0.0, 0.0)]),
            255 * np.linspace(0, 1, 256),
        )
        after = np.searchsorted(63.75 * np.arange(5), x).clip(1, 4)
        return ((x - 63.75 * (after - 1)) / 63.75)[:, np.newaxis] * (stops[after] - stops[after - 1]) + stops[after - 1]
    import matplotlib

    if cmap not in matplotlib.colormaps:
        raise ImageError(
            f"unknown colour map {cmap!r}; matplotlib has rainbow, seismic, bwr, viridis and others: matplotlib.colormaps lists them"
        )
    colours = matplotlib.colormaps[cmap]
    return np.asarray(colours(np.arange(colours.N)), dtype=np.float64)[:, :3]


def figure(image: np.ndarray, heatmap: np.ndarray, name: str, description: str, score: float, what: str = "probability") -> Picture:
    """Draw a picture and its heatmap side by side under the class's name, description and score, as the document does.

    Parameters
    ----------
    image : ndarray (H, W, 3)
        uint8, or floating in [0, 1]; `nplrp.images.display` makes it.
    heatmap : ndarray (H, W, 3)
        One of `heatmap`'s.
    name, description : str
        The class's id and what it is called; long ones are wrapped.
    score : float
        Written with four decimals.
    what : str
        What it is (`nplrp.targets.Label`): a probability is called "Score", as in the document.

    Returns
    -------
    Picture (600, 1200, 3), uint8

    Raises
    ------
    ImageError
        If one of the arrays is no picture.
    """
    called = "Score" if what == "probability" else what.capitalize()
    title = _wrapped(f"Class name: {name} \n Class description: {description} \n {called}: {score:.4f}", width=100)
    lines = title.split("\n")[:12]
    canvas = Image.new("RGB", _SIZE, "white")
    draw, room = ImageDraw.Draw(canvas), _SIZE[0] - 40
    sizes = (typeface(size) for size in range(_LETTERS, 8, -1))
    font = next((font for font in sizes if all(font.getlength(line) <= room for line in lines)), typeface(8))
    for i, line in enumerate(lines):
        draw.text((_SIZE[0] / 2, 10 + 25 * i), line, fill="black", font=font, anchor="ma")
    # The document's upper edge lets tall pictures and a fourth line run into each other.
    top = 30 + 25 * len(lines)
    for (left, right), array, smooth in zip(_COLUMNS, (image, heatmap), (False, True), strict=True):
        _paste(canvas, Image.fromarray(_bytes(_picture(array))), (left, top, right, _BOTTOM), smooth)
    return np.asarray(canvas).view(Picture)


def _paste(canvas: Image.Image, picture: Image.Image, box: tuple[int, int, int, int], smooth: bool) -> None:
    """Draw a picture as large as fits into the middle of a box; much enlarged, its pixels can be seen unless it is to be smooth."""
    left, top, right, bottom = box
    scale = min((right - left) / picture.width, (bottom - top) / picture.height)
    width, height = max(round(picture.width * scale), 1), max(round(picture.height * scale), 1)
    method = Image.Resampling.BILINEAR if smooth else Image.Resampling.NEAREST if scale >= 3 else Image.Resampling.HAMMING
    canvas.paste(picture.resize((width, height), method), ((left + right - width) // 2, (top + bottom - height) // 2))


@functools.cache
def typeface(size: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return matplotlib's font, or Pillow's own if it isn't where it should be."""
    found = importlib.util.find_spec("matplotlib")  # doesn't import it
    folder = Path(found.origin).parent if found and found.origin else Path()
    try:
        return ImageFont.truetype(folder / "mpl-data" / "fonts" / "ttf" / "DejaVuSans.ttf", size, layout_engine=ImageFont.Layout.BASIC)
    except OSError:
        return ImageFont.load_default(size)


#: Of `sheet`, in pixels: the side of a picture, gaps, room for a line above and for the bar below, and the sizes of letters.
_SIDE, _GAP, _LINE, _BELOW, _TITLE, _NAME, _TICK = 300, 30, 25, 60, 20, 16, 13


def sheet(
    image: np.ndarray | None,
    relevances: Mapping[str, np.ndarray],
    title: str = "",
    cmap: str | None = None,
    clip: float = CLIP,
    overlay: bool = False,
) -> Picture:
    """Draw what `panel` draws, without matplotlib: a picture and relevance maps in one row, each on its own scale with a colour bar.

    Parameters
    ----------
    image, relevances, title, cmap, clip, overlay
        As of `panel`; without an image the maps alone.

    Returns
    -------
    Picture (height, width, 3), uint8

    Raises
    ------
    NumericsError, ImageError
        As in `heatmap`.
    """
    shown, maps = _row(image, relevances, cmap, clip, overlay)
    columns = len(maps) + (shown is not None)
    first = maps[0].coloured if shown is None else shown
    tall = round(_SIDE * _ratio(first))
    width = max(_GAP + (_SIDE + _GAP) * columns, 2 * _SIDE)
    heading = _wrapped(title, width // 12).split("\n") if title else []
    names = [_wrapped(each.name, 30).split("\n") for each in maps]
    top = 10 + 28 * len(heading)
    below = top + 10 + _LINE * max(map(len, names))
    canvas = Image.new("RGB", (width, below + tall + _BELOW), "white")
    draw = ImageDraw.Draw(canvas)
    for i, line in enumerate(heading):
        draw.text((width / 2, 10 + 28 * i), line, fill="black", font=_fitting(line, _TITLE, width - 20), anchor="ma")
    left = (width - columns * (_SIDE + _GAP) + _GAP) // 2
    if shown is not None:
        _paste(canvas, Image.fromarray(_bytes(shown)), (left, below, left + _SIDE, below + tall), False)
        left += _SIDE + _GAP
    for each, lines in zip(maps, names, strict=True):
        middle, bottom = left + _SIDE / 2, below + tall
        for i, line in enumerate(lines):
            y = below - 5 - _LINE * (len(lines) - 1 - i)
            draw.text((middle, y), line, fill="black", font=_fitting(line, _NAME, _SIDE + _GAP - 8), anchor="md")
        _paste(canvas, Image.fromarray(_bytes(each.coloured)), (left, below, left + _SIDE, bottom), False)
        draw.rectangle((left - 1, below - 1, left + _SIDE, bottom), outline="#b3b3b3")
        bar = _colours(each.scale.cmap)[np.arange(_SIDE) * 256 // _SIDE * len(_colours(each.scale.cmap)) // 256]
        canvas.paste(Image.fromarray(np.repeat(_bytes(bar)[np.newaxis], 12, axis=0)), (left, bottom + 10))
        draw.rectangle((left - 1, bottom + 9, left + _SIDE, bottom + 22), outline="black")
        for text, x, anchor in zip(each.scale.said, (left, middle, left + _SIDE), ("la", "ma", "ra"), strict=True):
            draw.text((x, bottom + 29), text, fill="black", font=typeface(_TICK), anchor=anchor)
            if text:
                draw.line((x, bottom + 22, x, bottom + 26), fill="black")
        left += _SIDE + _GAP
    return np.asarray(canvas).view(Picture)


class _Map(NamedTuple):
    """One map of a row: its name, its relevance [H, W], its scale, and its colours (H, W, 3)."""

    name: str
    pixels: np.ndarray
    scale: Scale
    coloured: np.ndarray


def _row(
    image: np.ndarray | None, relevances: Mapping[str, np.ndarray], cmap: str | None, clip: float, overlay: bool
) -> tuple[np.ndarray | None, list[_Map]]:
    """Return what a row shows: a picture, and maps in their colours."""
    if not relevances:
        raise ImageError("no relevance maps: give at least one, {name: relevance}")
    if overlay and image is None:
        raise ImageError("there is no picture to lay a map over; give image, or leave out overlay")
    shown = None if image is None else _picture(image)
    maps = []
    for name, relevance in relevances.items():
        pixels = pixels_of(relevance)
        scale = scale_of(pixels, cmap, clip)
        maps.append(_Map(name, pixels, scale, tinted(pixels, scale, shown if overlay else None)))
    return shown, maps


def _ratio(picture: np.ndarray) -> float:
    """Return height by width, within what a row can show."""
    return min(max(picture.shape[0] / picture.shape[1], 0.3), 2.0)


def _fitting(line: str, size: int, room: float) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return the font in which a line fits, or the smallest."""
    fonts = (typeface(each) for each in range(size, 6, -1))
    return next((font for font in fonts if font.getlength(line) <= room), typeface(6))


def panel(
    image: np.ndarray | None,
    relevances: Mapping[str, np.ndarray],
    title: str = "",
    cmap: str | None = None,
    clip: float = 100.0,
    overlay: bool = False,
) -> Drawing:
    """Draw a picture and several relevance maps in one row, each on its own zero-centred scale with a colour bar.

    Parameters
    ----------
    image : ndarray (H, W, 3) or None
        uint8, or floating in [0, 1]; None draws the maps alone.
    relevances : mapping of str to ndarray (H, W, C) or (1, H, W, C)
        What is written above each map, usually the composite's name, and its relevance; summed over the channels.
    title : str
        Above the row; long lines are wrapped.
    cmap : str or None
        A colour map of matplotlib's, diverging by choice; None is seismic, or viridis for a map without contrast around 0 (`scale_of`).
    clip : float
        Percentile of |R| where a scale ends; 100 is the largest magnitude.
    overlay : bool
        Draw the maps over the picture in grey.

    Returns
    -------
    Drawing
        A `matplotlib.figure.Figure` that Jupyter shows and that has ``save(path)``. The colour bars end at what they say, in the
        relevance's own unit (that of the start, a score or a logit).

    Raises
    ------
    NumericsError, ImageError
        As in `heatmap`.
    """
    return panels([(image, relevances, title)], cmap, clip, overlay)


def panels(
    rows: Sequence[tuple[np.ndarray | None, Mapping[str, np.ndarray], str]],
    cmap: str | None = None,
    clip: float = 100.0,
    overlay: bool = False,
) -> Drawing:
    """Draw several rows as `panel` does, below each other.

    Parameters
    ----------
    rows : sequence of (image, relevances, title)
        As of `panel`.
    cmap, clip, overlay
        As of `panel`.

    Returns
    -------
    Drawing

    Raises
    ------
    NumericsError, ImageError
        As in `heatmap`.
    """
    from nplrp.drawing import Drawing

    drawn = [_row(image, relevances, cmap, clip, overlay) for image, relevances, _ in rows]
    columns = max((len(maps) + (shown is not None) for shown, maps in drawn), default=1)
    side, gap, bar_below = 3.0, 0.3, 0.6  # inches
    width = max(gap + (side + gap) * columns, 2 * side)
    names = [[_wrapped(each.name, width=30) for each in maps] for _, maps in drawn]
    titles = [_wrapped(title, width=round(7.5 * width)) for _, _, title in rows]
    tall = [side * _ratio(maps[0].coloured if shown is None else shown) for shown, maps in drawn]
    headings = [0.1 + 0.25 * (1 + max(name.count("\n") for name in each)) for each in names]
    spaces = [0.3 * (title.count("\n") + 1) if title else 0.0 for title in titles]
    heights = [bar_below + tall[i] + headings[i] + spaces[i] + 0.1 for i in range(len(rows))]
    height = sum(heights)
    fig = Drawing(figsize=(width, height), dpi=100, facecolor="white")

    def cell(column: int, bottom: float, tall: float) -> Axes:
        return fig.add_axes(((gap + (side + gap) * column) / width, bottom / height, side / width, tall / height))

    for i, (shown, maps) in enumerate(drawn):
        top, floor = height - sum(heights[:i]), height - sum(heights[: i + 1])
        fig.text(0.5, (top - 0.12) / height, titles[i], fontsize=15, ha="center", va="top", color="black", parse_math=False)
        if shown is not None:
            axes = cell(0, floor + bar_below, tall[i])
            axes.axis("off")
            axes.imshow(shown, interpolation="antialiased", origin="upper")  # since 3.10 also called "auto"
        for column, (name, each) in enumerate(zip(names[i], maps, strict=True), start=shown is not None):
            axes, scale = cell(column, floor + bar_below, tall[i]), each.scale
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_color("0.7")
            axes.set_title(name, fontsize=12, color="black", parse_math=False)
            mesh = axes.imshow(scale.at(each.pixels), cmap=scale.cmap, vmin=-1.0, vmax=1.0, interpolation="nearest", origin="upper")
            if overlay:
                axes.imshow(each.coloured, interpolation="nearest", origin="upper")
            bar = fig.colorbar(mesh, cax=cell(column, floor + 0.38, 0.12), orientation="horizontal")
            bar.set_ticks([-1.0, 0.0, 1.0], labels=list(scale.said))
            # Inward, or the ends of neighbouring bars run into each other.
            for text, side_of_bar in zip(bar.ax.get_xticklabels(), ("left", "center", "right"), strict=True):
                text.set(fontsize=9, color="black", horizontalalignment=side_of_bar)
    return fig


class Picture(np.ndarray):
    """A picture (H, W, 3), uint8: an array that Jupyter shows and that saves itself."""

    def _repr_png_(self) -> bytes | None:
        """Return what Jupyter shows; None where the array is no picture any more, but a part of it or a result."""
        return encode_png(self) if self.ndim == 3 and self.shape[2] == 3 and self.size and self.dtype == np.uint8 else None

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as PNG; see `save_png`."""
        save_png(self, path)


def strip(image: np.ndarray, relevance: np.ndarray, cmap: str = "seismic") -> np.ndarray:
    """Put a picture and relevance maps side by side at their own size, without a word: what is quick to draw by the thousand.

    Parameters
    ----------
    image : ndarray (H, W, 3)
        uint8, or floating in [0, 1].
    relevance : ndarray (N, H, W, C)
        Each map on its own zero-centred scale.
    cmap : str

    Returns
    -------
    ndarray (H, W + N (W + 4), 3), uint8

    Raises
    ------
    NumericsError, ImageError
        As in `heatmap`.
    """
    first = _bytes(_picture(image))
    gap = np.full((first.shape[0], 4, 3), 255, np.uint8)
    return np.concatenate([first, *(each for heat in heatmap(relevance, cmap) for each in (gap, _bytes(heat)))], axis=1)


def save_png(picture: Figure | np.ndarray, path: str | os.PathLike[str]) -> None:
    """Write a figure or an array as PNG; whatever happens, the file is the old one or the whole new one.

    Parameters
    ----------
    picture : matplotlib.figure.Figure or ndarray (H, W, 3)
        As for `encode_png`.
    path : path
        Ends in ``.png``.

    Raises
    ------
    ImageError
        If the array is no picture.
    OutputError
        If the path has another suffix, or the file can't be written.
    """
    path = Path(path)
    if path.suffix.lower() != ".png":
        raise OutputError(f"{path}: pictures are written as PNG only: give a name that ends in .png")
    content = encode_png(picture)
    with atomic(path) as temporary:
        temporary.write_bytes(content)


def encode_png(picture: Figure | np.ndarray) -> bytes:
    """Return a figure or an array as the content of a PNG file.

    Equal pictures give equal bytes: nothing but pixels is written, no date and no versions.

    Parameters
    ----------
    picture : matplotlib.figure.Figure or ndarray (H, W, 3)
        Arrays are uint8, or floating in [0, 1].

    Raises
    ------
    ImageError
        If the array is no picture.
    """
    if isinstance(picture, np.ndarray):
        pixels = _bytes(_no_relevance(_picture(picture)))
    else:
        from matplotlib.backends.backend_agg import FigureCanvasAgg

        before = picture.canvas
        try:
            canvas = FigureCanvasAgg(picture)
            canvas.draw()
            pixels = np.asarray(canvas.buffer_rgba())[..., :3]
        finally:
            picture.set_canvas(before)
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(
        file, format="PNG", compress_level=3
    )  # twice as fast as the default, and a tenth larger
    return file.getvalue()


def _wrapped(text: str, width: int) -> str:
    """Break long lines; short ones stay as they are, blanks included."""
    lines = [line if len(line) <= width else textwrap.fill(line, width, max_lines=3, placeholder=" …") for line in text.split("\n")]
    return "\n".join(lines)


def _picture(array: np.ndarray) -> np.ndarray:
    """Return an array that is a picture (H, W, 3), uint8 or floating in [0, 1]."""
    array = np.asarray(array)
    expected = "expected a picture (H, W, 3), uint8 or floating in [0, 1]"
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        hint = f": give one of the batch, array[0]; {_COLOUR_IT}" if array.ndim == 4 else ""
        raise ImageError(f"found an array of shape {array.shape}, {expected}{hint}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"found an array of dtype {array.dtype}, {expected}: convert it with .astype(np.uint8)")
    if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
        raise ImageError(f"found values from {array.min():g} to {array.max():g}, {expected}; {_COLOUR_IT}")
    return array


def _no_relevance(picture: np.ndarray) -> np.ndarray:
    """Return a picture that isn't as good as black throughout, as relevance is that happens to lie in [0, 1].

    Raises
    ------
    ImageError
    """
    if picture.dtype != np.uint8 and 0 < picture.max() < _DARK:
        raise ImageError(
            f"found a picture as good as black: its largest value is {picture.max():.2g}, where 1 is white; {_COLOUR_IT}; a picture as "
            "dark as that, give it as bytes, np.rint(255 * picture).astype(np.uint8)"
        )
    return picture


def _bytes(pixels: np.ndarray) -> np.ndarray:
    return pixels if pixels.dtype == np.uint8 else np.rint(pixels * 255).astype(np.uint8)


def _checked(relevance: np.ndarray) -> np.ndarray:
    """Return relevance that is (N, H, W, C), floating and finite."""
    relevance = np.asarray(relevance)
    if relevance.ndim != 4 or relevance.size == 0:
        hint = "; add the batch axis with relevance[np.newaxis]" if relevance.ndim == 3 else ""
        raise ImageError(f"relevance has shape {relevance.shape}, expected (N, H, W, C) and none of them 0{hint}")
    if relevance.dtype not in (np.float32, np.float64):
        raise ImageError(f"relevance has dtype {relevance.dtype}, expected float32 or float64")
    _check_finite(relevance, "relevance")
    return relevance


def _check_finite(array: np.ndarray, what: str) -> None:
    finite = np.isfinite(array)
    if not finite.all():
        image, row, column = np.argwhere(~finite)[0][:3]
        raise NumericsError(
            f"{what} holds {np.count_nonzero(~finite)} values that are NaN or infinite, the first in image {image} at row {row}, "
            f"column {column}: the weights or the rule's parameters make it so; nothing is drawn"
        )


def _absmax_of_user(absmax: float | np.ndarray, images: int) -> np.ndarray:
    values = np.asarray(absmax, dtype=np.float64)
    if values.shape not in ((), (images,)) or not (np.isfinite(values) & (values > 0)).all():
        raise ImageError(f"absmax is {absmax!r}, expected one positive number, or one for each of the {images} images")
    return np.broadcast_to(values, (images,))


def _divide(reduced: np.ndarray, absmax: np.ndarray) -> np.ndarray:
    """Divide each image (N, H, W) by its number in absmax (N,); an image of zeros stays one."""
    return reduced / np.where(absmax > 0, absmax, 1)[:, np.newaxis, np.newaxis]


def _divide_as_notebook(image: np.ndarray, index: int) -> np.ndarray:
    """Divide column j of one image (H, W) by row j's largest magnitude, as the document's `project_image` does.

    Its maxima are taken over axis 1 of a map without a batch axis, and the division broadcasts them along the wrong one.
    """
    rows = np.abs(image).max(axis=1)
    used = rows != 0
    if np.count_nonzero(used) not in (0, 1, image.shape[1]):
        raise ImageError(
            f"normalize='notebook' fails for image {index}: {np.count_nonzero(used)} of its {len(rows)} rows aren't all zero, it has "
            f"{image.shape[1]} columns, and the document's code divides columns by rows' maxima: use normalize='image'"
        )
    done = image.copy()
    if used.any():
        done[used] /= rows[used]
    return done
