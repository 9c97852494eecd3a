"""Small pictures of pictures and maps: as bytes for a page, and together on a sheet."""

from __future__ import annotations

import functools
import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw

from nplrp.heatmaps import typeface

#: Longest side of a thumbnail, in pixels, and colours on either side of 0.
SIDE, _LEVELS = 112, 31
#: Lightness, chroma and hue (degrees) of OKLab at -1, -1/2, 0, 1/2 and 1: the first colour map of the server's page (colours.js).
_STOPS = ((0.36, 0.13, 258.0), (0.66, 0.115, 248.0), (0.97, 0.004, 90.0), (0.66, 0.14, 42.0), (0.36, 0.12, 28.0))


def small_map(relevance: np.ndarray, side: int = SIDE) -> np.ndarray:
    """Sum relevance over its channels and average it over areas, so that no side is longer than `side`.

    Parameters
    ----------
    relevance : ndarray [h, w, c] or [h, w]; [n], which becomes a row
    side : int
        In pixels.

    Returns
    -------
    ndarray [<= side, <= side], float32
    """
    summed = np.asarray(relevance, np.float64).sum(axis=-1) if relevance.ndim == 3 else np.atleast_2d(relevance)
    summed = np.nan_to_num(np.asarray(summed, np.float32), posinf=0.0, neginf=0.0)
    size = _small(summed.shape, side)
    if size == summed.shape:
        return summed
    return np.asarray(Image.fromarray(summed).resize(size[::-1], Image.Resampling.BOX))


def small_picture(pixels: np.ndarray) -> np.ndarray:
    """Return a picture [h, w, 3] of bytes so that no side is longer than `SIDE`."""
    size = _small(pixels.shape[:2])
    return pixels if size == pixels.shape[:2] else np.asarray(Image.fromarray(pixels).resize(size[::-1], Image.Resampling.BOX))


def _small(shape: Sequence[int], side: int = SIDE) -> tuple[int, int]:
    """Return height and width as they are made; small pictures stay."""
    scale = min(side / max(shape), 1.0)
    return max(round(shape[0] * scale), 1), max(round(shape[1] * scale), 1)


def steps_of(values: np.ndarray) -> np.ndarray:
    """Return a map's colours as places in the palette [h, w], uint8; the scale is centred at 0 and ends at the largest magnitude."""
    end = float(np.abs(values).max(initial=0.0))
    return (np.rint(values / end * _LEVELS) + _LEVELS).astype(np.uint8) if end > 0 else np.full(values.shape, _LEVELS, np.uint8)


def map_png(steps: np.ndarray) -> bytes:
    """Return a map, from `steps_of`, as a PNG with a palette."""
    image = Image.fromarray(steps)
    image.putpalette(palette().tobytes())
    return _saved(image, format="PNG", optimize=True, bits=6)


def picture_jpeg(pixels: np.ndarray) -> bytes:
    """Return a picture [h, w, 3] of bytes as a JPEG."""
    return _saved(Image.fromarray(pixels), format="JPEG", quality=82)


def _saved(image: Image.Image, **how: object) -> bytes:
    file = io.BytesIO()
    image.save(file, **how)  # type: ignore[arg-type]
    return file.getvalue()


@functools.cache
def palette() -> np.ndarray:
    """Return the colours [2 levels + 1, 3], uint8, of a map's values from the largest against a class to the largest for it."""
    lightness, chroma, hue = np.array(_STOPS).T
    angle = np.radians(hue)
    stops = np.stack([lightness, chroma * np.cos(angle), chroma * np.sin(angle)])
    at = np.linspace(0, len(_STOPS) - 1, 2 * _LEVELS + 1)
    light, a, b = (np.interp(at, np.arange(len(_STOPS)), each) for each in stops)
    long = (light + 0.3963377774 * a + 0.2158037573 * b) ** 3
    middle = (light - 0.1055613458 * a - 0.0638541728 * b) ** 3
    short = (light - 0.0894841775 * a - 1.291485548 * b) ** 3
    linear = np.stack(
        [
            4.0767416621 * long - 3.3077115913 * middle + 0.2309699292 * short,
            -1.2684380046 * long + 2.6097574011 * middle - 0.3413193965 * short,
            -0.0041960863 * long - 0.7034186147 * middle + 1.707614701 * short,
        ],
        axis=-1,
    ).clip(0, 1)
    found = np.floor(255 * np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055) + 0.5).astype(np.uint8)
    found.flags.writeable = False
    return found


@dataclass(frozen=True, eq=False)
class Cell:
    """What a sheet shows of an image.

    Attributes
    ----------
    name, below : str
        The lines under it.
    picture : ndarray [h, w, 3] or None
    maps : sequence of ndarray [h, w]
        From `steps_of`.
    """

    name: str
    below: str
    picture: np.ndarray | None
    maps: Sequence[np.ndarray]


#: Of a sheet, in pixels: its margin, the gap between pictures, the size of letters, and the longest side.
_MARGIN, _GAP, _LETTERS, _LONGEST = 16, 4, 11, 16_000


def contact_sheet(cells: Sequence[Cell], heading: str, width: int = 1800) -> tuple[np.ndarray, int]:
    """Put thumbnails on one sheet, with names and classes.

    Parameters
    ----------
    cells : sequence of Cell
    heading : str
        The line at the top.
    width : int
        About how wide it may be.

    Returns
    -------
    (ndarray [h, w, 3] of uint8, int)
        The sheet, and how many cells are on it: a sheet is no longer than 16,000 pixels.
    """
    several = max((len(cell.maps) for cell in cells), default=1) + 1
    tile = several * SIDE + (several - 1) * _GAP
    columns = max(min((width - _MARGIN) // (tile + _MARGIN), len(cells)), 1)
    row, top = SIDE + 2 * (_LETTERS + 3) + _MARGIN, 2 * _MARGIN + 18
    rows = min(math.ceil(len(cells) / columns), (_LONGEST - top) // row)
    shown = cells[: rows * columns]
    sheet = Image.new("RGB", (max(columns * (tile + _MARGIN) + _MARGIN, 480), top + max(rows, 1) * row), "white")
    draw, letters = ImageDraw.Draw(sheet), typeface(_LETTERS)
    if len(shown) < len(cells):
        heading += f"; {len(shown)} of {len(cells)} thumbnails"
    draw.text((_MARGIN, _MARGIN), _cut(heading, typeface(15), sheet.width - 2 * _MARGIN), fill="black", font=typeface(15))
    if not shown:
        draw.text((_MARGIN, top), "No image of this run has been explained.", fill="#59616a", font=typeface(13))
    colours = palette()
    for i, cell in enumerate(shown):
        x, y = _MARGIN + (i % columns) * (tile + _MARGIN), top + (i // columns) * row
        for j, picture in enumerate([cell.picture, *(colours[each] for each in cell.maps)]):
            left = x + j * (SIDE + _GAP)
            if picture is None:
                draw.rectangle((left, y, left + SIDE - 1, y + SIDE - 1), fill="#f0f0ec")
                draw.text((left + SIDE / 2, y + SIDE / 2), "no picture", fill="#59616a", font=letters, anchor="mm")
                continue
            scale = SIDE / max(picture.shape[:2])
            size = (max(round(picture.shape[1] * scale), 1), max(round(picture.shape[0] * scale), 1))
            image = Image.fromarray(np.ascontiguousarray(picture)).resize(size, Image.Resampling.NEAREST)
            sheet.paste(image, (left + (SIDE - size[0]) // 2, y + (SIDE - size[1]) // 2))
        draw.text((x, y + SIDE + 3), _cut(cell.name, letters, tile, end=True), fill="black", font=letters)
        draw.text((x, y + SIDE + 6 + _LETTERS), _cut(cell.below, letters, tile), fill="#59616a", font=letters)
    return np.asarray(sheet), len(shown)


def _cut(text: str, letters: object, room: float, end: bool = False) -> str:
    """Return a line that fits; of names the end says more."""
    text = "".join(each if each.isprintable() else "\ufffd" for each in text)[-400 if end else 0 :][:400]
    if letters.getlength(text) <= room:  # type: ignore[attr-defined]
        return text
    while text and letters.getlength(f"…{text}") > room:  # type: ignore[attr-defined]
        text = text[1:] if end else text[:-1]
    return f"…{text}" if end else f"{text}…"
