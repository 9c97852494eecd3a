"""All presets on the demonstration's image, as one picture: the same decision in forty languages."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.demo import demo_image, demo_model
from nplrp.rules.composites import COMPOSITES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 7


def gallery(output: str | os.PathLike[str], dtype: Any = "float32", algorithm: str = "auto") -> dict[str, np.ndarray]:
    """Explain the demonstration's image with every preset, in each preset's own dialect, and write one picture.

    Parameters
    ----------
    output : path
        PNG to write.
    dtype, algorithm
        As for `nplrp.explain`.

    Returns
    -------
    dict of str to ndarray [H, W]
        By preset: relevance of the pixels, summed over channels.

    Raises
    ------
    WeightsError
        If the extra isn't installed, or the model can't be converted.
    """
    from nplrp.explanation import explain
    from nplrp.heatmaps import save_png
    from nplrp.images import load_pixels, normalize

    model = demo_model()
    pixels = load_pixels(demo_image(), model)
    x = normalize(pixels, model.preprocessing.mode)
    maps = {}
    for name in COMPOSITES:
        explanation = explain(model, x, name, dtype=dtype, algorithm=algorithm)
        maps[name] = explanation.relevance[0].sum(axis=-1, dtype=np.float64)
    save_png(draw(pixels[0], maps), output)
    return maps


def draw(picture: np.ndarray, maps: Mapping[str, np.ndarray]) -> Figure:
    """Draw a picture and maps in a grid, each map on its own scale around 0, with its preset's name and dialect above it.

    Parameters
    ----------
    picture : ndarray [H, W, 3] of uint8
    maps : mapping of str to ndarray [H, W]

    Returns
    -------
    matplotlib.figure.Figure
    """
    from matplotlib.figure import Figure

    from nplrp.heatmaps import CLIP, scale_of, tinted

    cells = len(maps) + 1
    rows = -(-cells // COLUMNS)
    side, heading, gap = 1.9, 0.42, 0.1  # inches
    width, height = COLUMNS * (side + gap) + gap, rows * (side + heading) + 0.55
    figure = Figure(figsize=(width, height), dpi=100, facecolor="white")
    for i, name in enumerate(["", *maps]):
        row, column = divmod(i, COLUMNS)
        left, bottom = gap + column * (side + gap), height - (row + 1) * (side + heading)
        axes = figure.add_axes((left / width, bottom / height, side / width, side / height))
        axes.set(xticks=[], yticks=[])
        axes.spines[:].set_color("0.7")
        if not name:
            axes.imshow(picture, origin="upper")
            axes.set_title("the image", fontsize=8, pad=3)
            continue
        axes.imshow(tinted(maps[name], scale_of(maps[name], clip=CLIP)), interpolation="nearest", origin="upper")
        dialect = COMPOSITES[name].dialect if name in COMPOSITES else ""
        title = name if len(name) <= 27 else name.replace("sequential_", "sequential_\n", 1)
        axes.set_title(f"{title}\n{dialect}" if "\n" not in title else title, fontsize=8, pad=3, parse_math=False)
    note = (
        f"Red speaks for the decision, blue against it. Each map on its own scale around 0, up to percentile {CLIP} of |R|.\n"
        "Yellow and green: a map of one sign with hardly any contrast around 0, from its own low end to its high end."
    )
    figure.text(0.5, 0.25 / height, note, fontsize=9, ha="center", va="center")
    return figure
