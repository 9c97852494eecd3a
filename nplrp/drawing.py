"""A matplotlib figure that Jupyter shows and that saves itself; apart from `nplrp.heatmaps`, as matplotlib is imported with it."""

from __future__ import annotations

import os

from matplotlib.figure import Figure

from nplrp.heatmaps import encode_png, save_png


class Drawing(Figure):
    """What `nplrp.panel` and `Explanation.plot` return: no part of pyplot, so that nothing has to be closed or is shown twice."""

    def _repr_png_(self) -> bytes:
        """Return what Jupyter shows, with or without ``%matplotlib inline``."""
        return encode_png(self)

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write it as PNG, whole or not at all (`nplrp.save_png`); `savefig` writes PDF, SVG and others."""
        save_png(self, path)
