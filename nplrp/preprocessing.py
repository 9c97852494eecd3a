"""How the values of a picture become a model's input: the arithmetic of each mode, and what is known of a model's own.

What isn't known isn't guessed: a file tells it, or the caller, or the official weights of an architecture; else the mode is "unknown".
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import NamedTuple

import numpy as np

from nplrp.errors import ImageError

#: The mode where nothing tells how pictures were prepared.
UNKNOWN = "unknown"


class Arithmetic(NamedTuple):
    """What is done to values from 0 to 255, in this order, as Keras does.

    Attributes
    ----------
    bgr : bool
        Channels are turned from RGB to BGR.
    divisor : float or None
    mean, deviation : tuple of float, or None
        Subtracted, then divided by; one number, or one a channel in the tensor's order.
    """

    bgr: bool = False
    divisor: float | None = None
    mean: tuple[float, ...] | None = None
    deviation: tuple[float, ...] | None = None


MODES: MappingProxyType[str, Arithmetic] = MappingProxyType(
    {
        "caffe": Arithmetic(bgr=True, mean=(103.939, 116.779, 123.68)),
        "tf": Arithmetic(divisor=127.5, mean=(1.0,)),
        "torch": Arithmetic(divisor=255.0, mean=(0.485, 0.456, 0.406), deviation=(0.229, 0.224, 0.225)),
        "unit": Arithmetic(divisor=255.0),
        "none": Arithmetic(),
    }
)
#: What may be asked for, as messages put it.
CHOICES = f"{'|'.join(MODES)}|MEAN,STD"
#: What to do where nothing tells.
WAY_OUT = f"say how it was trained: --preprocessing {CHOICES}, nplrp.load(..., preprocessing=...)"


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the tensor that a model was trained on.

    Attributes
    ----------
    mode : str
        ``"caffe"`` (RGB -> BGR, minus the ImageNet mean), ``"tf"`` (x / 127.5 - 1), ``"torch"`` (x / 255, then per-channel
        mean and deviation), ``"unit"`` (x / 255), ``"none"`` (0 to 255 as it is), or numbers ``"MEAN,STD"``: (x - MEAN) / STD, two
        for all channels, or all means and then all deviations. ``"unknown"``: nothing tells, and pictures aren't taken.
    resample : str
        Pillow's filter for the resize: ``"nearest"`` (Keras's default), ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"box"``,
        ``"hamming"``.
    crop : bool
        Resize the shorter side and cut out the centre, instead of squeezing the picture to the input's shape.
    resize_to : int or None
        With `crop`: the length of the shorter side before the cut, in pixels; None is the input's own.
    source : str
        Who says so; empty: the caller. No part of a comparison.
    """

    mode: str = UNKNOWN
    resample: str = "nearest"
    crop: bool = False
    resize_to: int | None = None
    source: str = field(default="", compare=False)

    @property
    def assumed(self) -> bool:
        """Whether nothing but the look of the network tells."""
        return self.source.startswith("assumed")


def arithmetic(mode: str, channels: int) -> Arithmetic:
    """Return the arithmetic of a mode, for a number of channels.

    Raises
    ------
    ImageError
        If there is no such mode, nothing is known, or it is for other channels.
    """
    if mode == UNKNOWN:
        raise ImageError(f"nothing tells how this model's pictures were prepared; {WAY_OUT}")
    found = MODES.get(mode) or _numbers(mode)
    if found is None:
        raise ImageError(f"unknown preprocessing mode {mode!r}; there are {', '.join(MODES)}, or numbers MEAN,STD such as 127.5,127.5")
    takes = 3 if found.bgr else max(len(found.mean or ()), len(found.deviation or ()))
    if takes not in (0, 1, channels):
        raise ImageError(
            f"preprocessing mode {mode!r} is for {takes} channels, the model's input has {channels}; give unit, tf, none or MEAN,STD, as "
            "it was trained (--preprocessing, nplrp.load(..., preprocessing=...))"
        )
    return found


def check_mode(mode: str) -> str:
    """Return a mode that is asked for.

    Raises
    ------
    ImageError
        If there is none of that name.
    """
    if not isinstance(mode, str) or (mode not in MODES and _numbers(mode) is None):
        raise ImageError(f"unknown preprocessing {mode!r}; expected {', '.join(MODES)}, or numbers MEAN,STD such as 127.5,127.5")
    return mode


def pixel_bounds(mode: str, channels: int = 3) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return the least and the largest value that a pixel has after preprocessing, channel by channel in the tensor's order.

    Raises
    ------
    ImageError
        As `arithmetic`.

    Examples
    --------
    >>> pixel_bounds("caffe")
    ((-103.939, -116.779, -123.68), (151.061, 138.221, 131.32))
    """
    how = arithmetic(mode, channels)
    means, deviations = ((each * channels if len(each) == 1 else each) for each in (how.mean or (0.0,), how.deviation or (1.0,)))
    ends = [[(end / (how.divisor or 1.0) - m) / d for m, d in zip(means, deviations, strict=True)] for end in (0.0, 255.0)]
    low, high = zip(*(sorted(pair) for pair in zip(*ends, strict=True)), strict=True)
    return low, high


def suspicion(x: np.ndarray, mode: str) -> str:
    """Return what makes an input doubtful, with what to do; an empty text if nothing does.

    Parameters
    ----------
    x : ndarray [n, *input_shape]
        As the caller gave it; what has not the shape of pictures isn't doubted.
    mode : str
        How the model's pictures were prepared.
    """
    call = "make it with nplrp.preprocess(images, model)"
    if x.ndim != 4 or x.shape[3] not in (1, 3) or not x.size or x.dtype.kind not in "fiu":
        return ""
    channels = [x[..., c] for c in range(x.shape[3])]  # many times as fast as a reduction over the other axes
    low, high = (np.array([float(end(each)) for each in channels]) for end in (np.min, np.max))
    if mode == UNKNOWN:
        if x.dtype == np.uint8:
            return (
                f"the input holds pixels as they are, {low.min():g} to {high.max():g}; if it was trained on others, {WAY_OUT}, and {call}"
            )
        return ""
    least, most = map(np.array, pixel_bounds(mode, x.shape[-1]))
    lie = f"the input's values lie from {low.min():g} to {high.max():g}"
    said = f"{lie}, those of pictures prepared as {mode!r} from {least.min():g} to {most.max():g}"
    wide = most - least
    raw = mode != "none" and low.min() >= 0 and (x.dtype == np.uint8 or (least.max() < 0 and np.any(high > most + 0.1 * wide)))
    below = mode == "none" and low.min() < -1e-3  # pixels as they are can't be negative
    if raw or below or np.any(low < least - wide) or np.any(high > most + wide):
        return f"{said}; {call}, or say how it was prepared (preprocessing=..., --preprocessing)"
    if mode == "none" and 0 < high.max() <= 1 and low.min() >= 0:
        return f"{said}, as they are; multiply it by 255, or {call}"
    if wide.min() > 50 and -1 <= low.min() < high.max() <= 1:
        return f"{said}: they are those of another mode; {call}, or say how it was prepared (preprocessing=..., --preprocessing)"
    near = 1e-3 * wide

    def fits(low: np.ndarray, high: np.ndarray) -> bool:
        return bool(np.all(low >= least - near) and np.all(high <= most + near))

    if not fits(low, high) and fits(low[::-1], high[::-1]):
        return f"the input's channels fit what {mode!r} gives only in the opposite order (RGB for BGR); {call}, or give x[..., ::-1]"
    return ""


def _numbers(mode: str) -> Arithmetic | None:
    """Read MEAN,STD: an even count of finite numbers, none of the deviations 0."""
    if not re.fullmatch(r"[-+.0-9eE]+(,[-+.0-9eE]+)+", mode.replace(" ", "")):
        return None
    try:
        values = [float(each) for each in mode.split(",")]
    except ValueError:
        return None
    half = len(values) // 2
    means, deviations = tuple(values[:half]), tuple(values[half:])
    kept = [float(np.float32(each)) if abs(each) < 1e38 else math.inf for each in values]
    if len(values) % 2 or not all(map(math.isfinite, kept)) or not all(kept[half:]):
        return None
    return Arithmetic(mean=means, deviation=deviations)
