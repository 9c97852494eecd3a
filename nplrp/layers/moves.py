"""What only moves numbers: reshaping, permuting, padding, cropping, copying, joining along an axis. Relevance moves back the same way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers import shapes as readers
from nplrp.layers.base import (
    CHANNEL_BY_CHANNEL,
    MADE,
    MOVES,
    SEVERAL,
    Kind,
    Layer,
    Operation,
    Renumbering,
    Shape,
    Step,
    fits,
    image_shape,
    listed,
)
from nplrp.layers.lines import threads
from nplrp.layers.ties import crop_row, pad_row, point_row
from nplrp.workspace import Workspace


def _same(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    return shapes[0]


def _flat(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    return (math.prod(shapes[0]),)


def _view(step: Step, a: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    return a.reshape(len(a), *step.output_shape)


def _view_back(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    return R.reshape(len(R), *step.input_shape)


def _empty(shape: Sequence[int], like: np.ndarray, workspace: Workspace | None) -> np.ndarray:
    return workspace.empty(tuple(shape), like.dtype) if workspace else np.empty(shape, like.dtype)


def option(layer: Layer, key: str) -> Any:
    """Return what a layer has to know.

    Raises
    ------
    ModelError
        If it doesn't.
    """
    if key not in layer.options:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has no {key}")
    return layer.options[key]


def reshaped(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Return the option `shape`; one of its numbers may be -1, for whatever is left."""
    before, wanted = shapes[0], tuple(option(layer, "shape"))
    size, known = math.prod(before), math.prod(n for n in wanted if n != -1)
    found = tuple(size // max(known, 1) if n == -1 else n for n in wanted)
    if wanted.count(-1) > 1 or min(found, default=1) < 1 or math.prod(found) != size:
        raise ModelError(f"layer {layer.name!r} can't reshape {before}, which has {size} numbers, to {wanted}")
    return found


# Axes


def permuted(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Return the axes in the order of the option `dims`, counted from 1."""
    before, dims = shapes[0], option(layer, "dims")
    if sorted(dims) != list(range(1, len(before) + 1)):
        raise ModelError(f"layer {layer.name!r} permutes axes {tuple(dims)}, but gets {before}: expected each of 1 to {len(before)} once")
    return tuple(before[axis - 1] for axis in dims)


def permute(step: Step, a: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Put the axes into another order."""
    return np.ascontiguousarray(a.transpose(0, *step.options["dims"]))


def permute_back(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Put the axes back."""
    return np.ascontiguousarray(R.transpose(np.argsort((0, *step.options["dims"]))))


# Pads and crops


def padded(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, c] -> [top + h + bottom, left + w + right, c]."""
    image = image_shape(layer, shapes)
    top, bottom, left, right = layer.pads or (0, 0, 0, 0)
    return fits(layer, image, (image[0] + top + bottom, image[1] + left + right, image[2]))


def cropped(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[top + h + bottom, left + w + right, c] -> [h, w, c]."""
    image = image_shape(layer, shapes)
    top, bottom, left, right = layer.pads or (0, 0, 0, 0)
    return fits(layer, image, (image[0] - top - bottom, image[1] - left - right, image[2]))


def grow(step: Step, a: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Put zeros around an image: forward for a pad, back for a crop."""
    return _shifted(step, a, 1, workspace)


def shrink(step: Step, a: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Take what is around an image away: forward for a crop, back for a pad."""
    return _shifted(step, a, -1, workspace)


def _shifted(step: Step, a: np.ndarray, sign: int, workspace: Workspace | None) -> np.ndarray:
    from nplrp.kernels import moves

    n, height, width, channels = a.shape
    top, bottom, left, right = (sign * amount for amount in step.pads or (0, 0, 0, 0))
    out = _empty((n, height + top + bottom, width + left + right, channels), a, workspace)
    moves.copy_box(a.reshape(n, height, -1), out.reshape(n, out.shape[1], -1), top, left * channels, True, threads())
    return out


# Copies


def repeat(step: Step, a: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Copy every pixel to a block of pixels."""
    from nplrp.kernels import moves

    out = _empty((len(a), *step.output_shape), a, workspace)
    rows, columns = step.options["size"]
    moves.repeat(a, rows, columns, out, threads())
    return out


def repeat_back(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> np.ndarray:
    """Add up what every copy gets."""
    from nplrp.kernels import moves

    out = _empty((len(R), *step.input_shape), R, workspace)
    rows, columns = step.options["size"]
    moves.repeat_transpose(R, rows, columns, out, threads())
    return out


# Joins


def joined(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """Return the shape of the inputs one after the other along the option `axis`, which doesn't count the batch."""
    axis, first = option(layer, "axis"), shapes[0]
    if axis not in range(len(first)):
        raise ModelError(
            f"layer {layer.name!r} joins along axis {axis!r} (without the batch), expected 0 to {len(first) - 1}: its inputs are "
            f"{listed(layer, shapes)}"
        )
    others = {(len(shape), *shape[:axis], *shape[axis + 1 :]) for shape in shapes}
    if len(others) > 1:
        raise ModelError(
            f"layer {layer.name!r} joins along axis {axis} (without the batch), but gets {listed(layer, shapes)}, which differ "
            "elsewhere too"
        )
    return fits(layer, first, (*first[:axis], sum(shape[axis] for shape in shapes), *first[axis + 1 :]))


def join(step: Step, inputs: Sequence[np.ndarray], workspace: Workspace | None = None) -> np.ndarray:
    """Put the inputs one after the other."""
    from nplrp.kernels import moves

    out = _empty((len(inputs[0]), *step.output_shape), inputs[0], workspace)
    whole, right = _lines(step, out), 0
    for a in inputs:
        part = _lines(step, a)
        moves.copy_box(part, whole, 0, right, False, threads())
        right += part.shape[-1]
    return out


def cut(step: Step, R: np.ndarray, workspace: Workspace | None = None) -> list[np.ndarray]:
    """Give every input its piece."""
    from nplrp.kernels import moves

    whole, right, pieces = _lines(step, R), 0, []
    for shape in step.input_shapes or (step.input_shape,):
        piece = _empty((len(R), *shape), R, workspace)
        part = _lines(step, piece)
        moves.copy_box(whole, part, 0, -right, False, threads())
        right += part.shape[-1]
        pieces.append(piece)
    return pieces


def _lines(step: Step, x: np.ndarray) -> np.ndarray:
    """View an array as lines of what lies one after the other, [lines, 1, numbers]."""
    axis = step.options["axis"] + 1
    return x.reshape(math.prod(x.shape[:axis]), 1, math.prod(x.shape[axis:]))


def _join_row(step: Step) -> tuple[int, ...] | None:
    return point_row(step) if step.options["axis"] == len(step.output_shape) - 1 else None


def _flattened(layer: Layer, orders: Sequence[np.ndarray], after: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return {}, np.arange(math.prod(layer.input_shape)).reshape(layer.input_shape)[..., orders[0]].reshape(-1)


def _joined(layer: Layer, orders: Sequence[np.ndarray], after: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    begins = np.cumsum([0, *(len(order) for order in orders[:-1])])
    return {}, np.concatenate([order + begin for order, begin in zip(orders, begins, strict=True)])


def _along_axis(layer: Layer) -> Renumbering:
    return Renumbering(MADE, _joined) if layer.options["axis"] == len(layer.output_shape) - 1 else CHANNEL_BY_CHANNEL


def _pads(kind: str) -> Any:
    return lambda layer: {"kind": kind, "pads": layer.pads}


def _repeats(step: Step) -> tuple[int, int]:
    return 2, math.prod(step.options["size"])


def mover(name: str, family: str, forward: Any, back: Any, **more: Any) -> Operation:
    """Return an operation that moves numbers; it is queued unless `more` says otherwise."""
    facts = {"queueable": True, "keeps_sign": True, "keeps_zero": True, "ends": forward} | more
    return Operation(name, MOVES, family, forward, back, **facts)


IDENTITY = mover("identity", "identity", _view, _view_back, view=True, tie=point_row)
RESHAPE = mover("reshape", "reshape", _view, _view_back, view=True)
PERMUTE = mover("permute", "reshape", permute, permute_back, queueable=False)
PAD = mover("pad", "pad", grow, shrink, tie=pad_row)
CROP = mover("crop", "reshape", shrink, grow, tie=crop_row)
UPSAMPLE = mover("upsample", "reshape", repeat, repeat_back, terms=_repeats)
CONCATENATE = mover("concatenate", "reshape", _view, _view_back, gather=join, scatter=cut, tie=_join_row)

KINDS = (
    Kind("input", _same, lambda layer: {"kind": "identity"}),
    Kind("identity", _same, lambda layer: {"kind": "identity"}, keras=readers.IDENTITY),
    Kind(
        "flatten",
        _flat,
        lambda layer: {"kind": "reshape"},
        keras=readers.FLATTEN,
        renumbering=lambda layer: Renumbering(MADE, _flattened),
    ),
    Kind("reshape", reshaped, lambda layer: {"kind": "reshape"}, keras=readers.RESHAPE, renumbering=lambda layer: None),
    Kind("permute", permuted, lambda layer: {"kind": "permute"}, keras=readers.PERMUTE, renumbering=lambda layer: None),
    Kind("pad", padded, _pads("pad"), keras=readers.PAD),
    Kind("crop", cropped, _pads("crop"), keras=readers.CROP),
    Kind(
        "concatenate",
        joined,
        lambda layer: {"kind": "concatenate", "input_shape": layer.output_shape},
        arity=SEVERAL,
        keras=readers.CONCATENATE,
        renumbering=_along_axis,
    ),
)
OPERATIONS = (IDENTITY, RESHAPE, PERMUTE, PAD, CROP, UPSAMPLE, CONCATENATE)
