"""From relevance to colours, figures and PNG files, without a display and without pyplot's global state.

`project` brings relevance to [0, 1], `heatmap` colours it; `figure` draws one heatmap beside its picture as the document does,
`panel` several composites side by side on zero-centred scales; `save_png` writes either, whole or not at all.
Importing and drawing with matplotlib takes longer than an explanation, so what one explanation needs is done without.
"""

from __future__ import annotations

import functools
import importlib.util
import io
import os
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from nplrp.errors import ImageError, NumericsError, OutputError
from nplrp.files.atomic import atomic

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NORMALIZE = ("image", "notebook")
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


@functools.cache
def _colours(cmap: str) -> np.ndarray:
    """Return a colour map's colours, (n, 3)."""
    if cmap == "rainbow":  # matplotlib's formula
        x = np.linspace(0, 1, 256)
        return np.stack([np.abs(2 * x - 0.5), np.sin(x * np.pi), np.cos(x * np.pi / 2)], axis=-1).clip(0, 1)
    import matplotlib

    if cmap not in matplotlib.colormaps:
        raise ImageError(
            f"unknown colour map {cmap!r}; matplotlib has rainbow, seismic, bwr, viridis and others: matplotlib.colormaps lists them"
        )
    colours = matplotlib.colormaps[cmap]
    return np.asarray(colours(np.arange(colours.N)), dtype=np.float64)[:, :3]


def figure(image: np.ndarray, heatmap: np.ndarray, name: str, description: str, score: float, what: str = "probability") -> np.ndarray:
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
    ndarray (600, 1200, 3), uint8

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
    return np.asarray(canvas)


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


def panel(image: np.ndarray, relevances: Mapping[str, np.ndarray], title: str = "", cmap: str = "seismic") -> Figure:
    """Draw a picture and several relevance maps in one row, each on its own zero-centred scale with a colour bar.

    Parameters
    ----------
    image : ndarray (H, W, 3)
        uint8, or floating in [0, 1].
    relevances : mapping of str to ndarray (H, W, C) or (1, H, W, C)
        What is written above each map, usually the composite's name, and its relevance; summed over the channels.
    title : str
        Above the row; long lines are wrapped.
    cmap : str
        A diverging colour map of matplotlib's.

    Returns
    -------
    matplotlib.figure.Figure
        The colour bars end at the largest magnitude of each map, in the relevance's own unit (that of the start, a score or a logit).

    Raises
    ------
    NumericsError, ImageError
        As in `heatmap`.
    """
    import matplotlib

    if cmap not in matplotlib.colormaps:
        raise ImageError(f"unknown colour map {cmap!r}; diverging ones of matplotlib are seismic, bwr, RdBu_r and coolwarm")
    if not relevances:
        raise ImageError("no relevance maps: give panel at least one, {name: relevance}")
    shown = _picture(image)
    names = [_wrapped(name, width=30) for name in relevances]
    columns = len(names) + 1
    title = _wrapped(title, width=26 * columns)
    side, gap, bar_below = 3.0, 0.3, 0.6  # inches
    tall = side * min(max(shown.shape[0] / shown.shape[1], 0.3), 2.0)
    headings = 0.1 + 0.25 * (1 + max(name.count("\n") for name in names))
    titles = 0.3 * (title.count("\n") + 1) if title else 0.0
    width = gap + (side + gap) * columns
    height = bar_below + tall + headings + titles + 0.1
    fig = _canvas(width, height)
    fig.text(0.5, 1 - 0.12 / height, title, fontsize=15, ha="center", va="top", color="black", parse_math=False)

    def cell(column: int, bottom: float, tall: float) -> Axes:
        return fig.add_axes(((gap + (side + gap) * column) / width, bottom / height, side / width, tall / height))

    axes = cell(0, bar_below, tall)
    axes.axis("off")
    axes.imshow(shown, interpolation="auto", origin="upper")
    for column, (name, relevance) in enumerate(zip(names, relevances.values(), strict=True), start=1):
        array = np.asarray(relevance)
        reduced = _checked(array if array.ndim == 4 else array[np.newaxis])[:1].sum(axis=-1, dtype=np.float64)[0]
        _check_finite(reduced[np.newaxis], "the relevance summed over its channels")
        absmax = float(np.abs(reduced).max())
        axes = cell(column, bar_below, tall)
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.7")
        axes.set_title(name, fontsize=12, color="black", parse_math=False)
        mesh = axes.imshow(reduced / (absmax or 1.0), cmap=cmap, vmin=-1.0, vmax=1.0, interpolation="nearest", origin="upper")
        bar = fig.colorbar(mesh, cax=cell(column, 0.38, 0.12), orientation="horizontal")
        bar.set_ticks([-1.0, 0.0, 1.0], labels=[f"{-absmax:.2g}", "0", f"{absmax:.2g}"] if absmax else ["", "0 everywhere", ""])
        # Inward, or the ends of neighbouring bars run into each other.
        for text, side_of_bar in zip(bar.ax.get_xticklabels(), ("left", "center", "right"), strict=True):
            text.set(fontsize=9, color="black", horizontalalignment=side_of_bar)
    return fig


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
        pixels = _bytes(_picture(picture))
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


def _canvas(width: float, height: float) -> Figure:
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height), dpi=100, facecolor="white")


def _wrapped(text: str, width: int) -> str:
    """Break long lines; short ones stay as they are, blanks included."""
    lines = [line if len(line) <= width else textwrap.fill(line, width, max_lines=3, placeholder=" …") for line in text.split("\n")]
    return "\n".join(lines)


def _picture(array: np.ndarray) -> np.ndarray:
    """Return an array that is a picture (H, W, 3), uint8 or floating in [0, 1]."""
    array = np.asarray(array)
    expected = "expected a picture (H, W, 3), uint8 or floating in [0, 1]"
    if array.ndim != 3 or array.shape[2] != 3 or array.size == 0:
        hint = ": give one of the batch, array[0]" if array.ndim == 4 else ""
        raise ImageError(f"found an array of shape {array.shape}, {expected}{hint}")
    if array.dtype == np.uint8:
        return array
    if not np.issubdtype(array.dtype, np.floating):
        raise ImageError(f"found an array of dtype {array.dtype}, {expected}: convert it with .astype(np.uint8)")
    if not (array.min() >= 0 and array.max() <= 1):  # also false for NaN
        raise ImageError(f"found values from {array.min():g} to {array.max():g}, {expected}")
    return array


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
