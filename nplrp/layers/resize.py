"""Resizing of images as Keras and TensorFlow do it: pixels are squares, whose centres lie at halves.

Bilinear: linear, with positive weights that add up to 1. To the nearest pixel: numbers move, or are copied.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers import shapes as readers
from nplrp.layers.base import LINEAR, Kind, Layer, Operation, Shape, Step, fits, image_shape
from nplrp.layers.lines import threads
from nplrp.layers.moves import mover, option
from nplrp.rules.rule import AS_IS, Change, Clamp
from nplrp.workspace import Workspace

INTERPOLATIONS = ("nearest", "bilinear")
#: What Keras's Resizing can do besides.
_REFUSED = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio")

Taps = list[list[tuple[int, float]]]


def upsampled(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, c] -> [h rows, w columns, c], by the option `size`."""
    image, (rows, columns) = image_shape(layer, shapes), option(layer, "size")
    _interpolation(layer)
    return fits(layer, image, (image[0] * rows, image[1] * columns, image[2]))


def resized(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, c] -> [*size, c]."""
    image, (height, width) = image_shape(layer, shapes), option(layer, "size")
    _interpolation(layer)
    for key in _REFUSED:
        if layer.options.get(key):
            raise ModelError(f"layer {layer.name!r} ({layer.kind}) with {key} isn't supported; resize without, or before the model")
    return fits(layer, image, (height, width, image[2]))


def _interpolation(layer: Layer) -> str:
    name = str(layer.options.get("interpolation", "nearest" if layer.kind == "upsample" else "bilinear"))
    if name not in INTERPOLATIONS:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has interpolation {name!r}; supported are {', '.join(INTERPOLATIONS)}")
    if layer.options.get("align_corners") and (name != "bilinear" or layer.kind == "upsample"):
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) with align_corners isn't supported for {name}; only a bilinear resize is")
    return name


def _step(nearest: str) -> Any:
    def fields(layer: Layer) -> dict[str, Any]:
        if _interpolation(layer) == "nearest":
            return {"kind": nearest}
        corners = {"align_corners": True} if layer.options.get("align_corners") else {}
        return {"kind": "resize", "bias": np.zeros(layer.output_shape[-1]), "options": corners}

    return fields


def _bilinear(size: int, out: int, corners: bool = False) -> Taps:
    """Return for each output the one or two places that it lies between, with their weights.

    The centres of squares that fill the same length; with `corners` the first and last centres lie on each other, as in PyTorch's
    ``align_corners=True`` (a single output lies on the first).
    """
    found = []
    for i in range(out):
        whole, rest = divmod(i * (size - 1), max(out - 1, 1))  # in whole numbers, so that what lies on a place is that place
        at = whole + rest / max(out - 1, 1) if corners else (i + 0.5) * size / out - 0.5
        low = math.floor(at)
        places = {min(max(low, 0), size - 1): 1.0 - (at - low)}
        high = min(max(low + 1, 0), size - 1)
        places[high] = places.get(high, 0.0) + (at - low)
        found.append([(place, weight) for place, weight in sorted(places.items()) if weight])
    return found


def _nearest(size: int, out: int) -> Taps:
    """Return for each output the one place that it lies in, by TensorFlow's float32."""
    scale = np.float32(size) / np.float32(out)
    return [[(min(int((np.float32(i) + np.float32(0.5)) * scale), size - 1), 1.0)] for i in range(out)]


def _transposed(taps: Taps, size: int) -> Taps:
    found: Taps = [[] for _ in range(size)]
    for i, each in enumerate(taps):
        for place, weight in each:
            found[place].append((i, weight))
    return found


def _taps(step: Step, size: int, out: int) -> Taps:
    """Return what each output along an axis is made of."""
    return _bilinear(size, out, bool(step.options.get("align_corners"))) if step.kind == "resize" else _nearest(size, out)


def _changed(taps: Taps, change: Change) -> Taps:
    """Return the weights of one side after a change: w, w^2 or 1."""
    if isinstance(change, Clamp):
        return taps
    return [[(place, weight * weight if change == "square" else 1.0) for place, weight in each] for each in taps]


def _tables(step: Step, change: Change, back: bool, dtype: np.dtype) -> list[Any]:
    """Return the kernel's tables of rows and columns, made once for each change; positive weights take a factor as a whole."""
    from nplrp.kernels import resize

    key = (change, back, dtype)
    if key not in step.prepared:
        sides = []
        factor = change.positive if isinstance(change, Clamp) else 1.0
        for size, out in zip(step.input_shape[:2], step.output_shape[:2], strict=True):
            taps = _changed(_taps(step, size, out), change)
            taps = [[(place, factor * weight) for place, weight in each] for each in taps]
            sides.append(resize.table(_transposed(taps, size) if back else taps, dtype))
            factor = 1.0
        step.prepared[key] = sides
    tables: list[Any] = step.prepared[key]
    return tables


def _summed(step: Step, x: np.ndarray, change: Change, back: bool, out: np.ndarray) -> np.ndarray:
    from nplrp.kernels import resize

    rows, columns = _tables(step, change, back, x.dtype)
    resize.separable(x, rows, columns, out, threads())
    return out


def forward(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: np.ndarray, relu: bool, held: Any = None) -> np.ndarray:
    """Resize: term after term, the bias last."""
    from nplrp.kernels import elementwise

    z = np.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype)
    for t, (a, change) in enumerate(zip(inputs, changes, strict=True)):
        term = _summed(step, a, change, False, z if t == 0 else np.empty_like(z))
        if t > 0:
            z += term
    elementwise.add_bias(z, b, relu, threads())
    return z


def transpose(step: Step, s: np.ndarray, change: Change, held: Any, c: np.ndarray) -> None:
    """Write to c the weighted sums over the outputs that see each pixel."""
    _summed(step, s, change, True, c)


def move(step: Step, a: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Take the nearest pixels."""
    shape = (len(a), *step.output_shape)
    return _summed(step, a, AS_IS, False, workspace.empty(shape, a.dtype) if workspace else np.empty(shape, a.dtype))


def move_back(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Add up what the copies of each pixel get; 0 for one that has none."""
    shape = (len(R), *step.input_shape)
    return _summed(step, R, AS_IS, True, workspace.empty(shape, R.dtype) if workspace else np.empty(shape, R.dtype))


def terms(step: Step) -> tuple[int, int]:
    """Return the number of terms in a sum over inputs, and over outputs."""
    sides = zip(step.input_shape[:2], step.output_shape[:2], strict=True)
    most = [max(map(len, _transposed(_taps(step, size, out), size))) for size, out in sides]
    return 5, math.prod(most)


def ends(step: Step, a: np.ndarray) -> np.ndarray:
    """Resize both ends: no weight is negative."""
    return forward(step, [a], [AS_IS], np.zeros(step.input_shape[-1]), False)


RESIZE = Operation("resize", LINEAR, "avgpool", forward, transpose, terms=terms, keeps_sign=True, ends=ends)
NEAREST = mover("nearest", "reshape", move, move_back, terms=terms)

KINDS = (
    Kind("upsample", upsampled, _step("upsample"), keras=readers.UPSAMPLE),
    Kind("resize", resized, _step("nearest"), keras=readers.RESIZE),
)
OPERATIONS = (RESIZE, NEAREST)
