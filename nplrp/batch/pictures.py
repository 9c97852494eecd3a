"""The pictures of a run, as its model saw them: read again, and checked to be those that were explained."""

from __future__ import annotations

import hashlib
import io
from dataclasses import dataclass, replace

import numpy as np

from nplrp.batch.results import Results
from nplrp.batch.running import picture_path
from nplrp.errors import ImageError
from nplrp.images import display, open_image, read_picture, sized_pixels, takes_pictures
from nplrp.preprocessing import Preprocessing


@dataclass(frozen=True, eq=False)
class Picture:
    """A picture at the model's size.

    Attributes
    ----------
    pixels : ndarray [h, w, 3] of uint8, or None
    missing : str
        Why the file itself isn't shown: ``"gone"``, ``"changed"`` since it was explained, or empty.
    """

    pixels: np.ndarray | None
    missing: str


def picture_of(results: Results, index: int, file_sha256: str) -> Picture:
    """Read the picture of an image; where it isn't what was explained, that of ``--pictures`` if the run has them.

    Parameters
    ----------
    results : Results
    index : int
        The image's place in the run.
    file_sha256 : str
        What its bytes were.
    """
    facts = results.job.facts
    if not takes_pictures(facts["input_shape"]):
        return Picture(None, "")
    try:
        content = read_picture(results.job.images[index], results.job.images[index])
        if hashlib.sha256(content).hexdigest() == file_sha256:
            how = Preprocessing(**facts["preprocessing"])
            own = {name: facts[name] for name in ("resample", "crop") if facts[name] is not None}
            return Picture(display(sized_pixels([io.BytesIO(content)], tuple(facts["input_shape"]), replace(how, **own)))[0], "")
        missing = "changed"
    except ImageError:
        missing = "gone"
    return Picture(_drawn(results, index), missing)


def _drawn(results: Results, index: int) -> np.ndarray | None:
    """Return the picture that stands at the left of what ``--pictures`` drew."""
    height, width, _ = results.job.facts["input_shape"]
    if not results.job.facts["pictures"]:
        return None
    try:
        strip = np.asarray(open_image(picture_path(results.folder, index, results.job.images[index]), max_pixels=2**31, max_side=2**31))
    except ImageError:
        return None
    fits = strip.ndim == 3 and len(strip) == height and strip.shape[1] > width and (strip.shape[1] - width) % (width + 4) == 0
    return np.ascontiguousarray(strip[:, :width, :3]) if fits else None
