"""What only moves numbers: reshaping, padding, cropping, joining along an axis. Relevance moves back the same way."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from nplrp.layers import activation_names, shapes
from nplrp.layers.base import MOVES, Kind, Layer, Operation, Shape, Step, fits, image_shape
from nplrp.layers.ties import pad_row, point_row


def _same(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    return shapes[0]


def _flat(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    return (math.prod(shapes[0]),)


def _view(step: Step, a: np.ndarray) -> np.ndarray:
    return a.reshape(len(a), *step.output_shape)


def _view_back(step: Step, R: np.ndarray) -> np.ndarray:
    return R.reshape(len(R), *step.input_shape)


def _padded(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    image = image_shape(layer, shapes)
    top, bottom, left, right = layer.pads or (0, 0, 0, 0)
    return fits(layer, image, (image[0] + top + bottom, image[1] + left + right, image[2]))


def pad(step: Step, a: np.ndarray) -> np.ndarray:
    """Put zeros around an image."""
    top, bottom, left, right = step.pads or (0, 0, 0, 0)
    return np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))


def _unpad(step: Step, R: np.ndarray) -> np.ndarray:
    top, _, left, _ = step.pads or (0, 0, 0, 0)
    height, width = step.input_shape[:2]
    return np.ascontiguousarray(R[:, top : top + height, left : left + width])


def _pads(kind: str) -> Any:
    return lambda layer: {"kind": kind, "pads": layer.pads}


IDENTITY = Operation("identity", MOVES, "identity", _view, _view_back, queueable=True, view=True, tie=point_row, keeps_sign=True)
RESHAPE = Operation("reshape", MOVES, "reshape", _view, _view_back, queueable=True, view=True, keeps_sign=True)
PAD = Operation("pad", MOVES, "pad", pad, _unpad, tie=pad_row, keeps_sign=True)

KINDS = (
    Kind("input", _same, lambda layer: {"kind": "identity"}),
    Kind("identity", _same, lambda layer: {"kind": "identity"}, keras=shapes.IDENTITY),
    Kind("activation", _same, lambda layer: {"kind": "identity"}, keras=activation_names.READERS),
    Kind("flatten", _flat, lambda layer: {"kind": "reshape"}, keras=shapes.FLATTEN),
    Kind("pad", _padded, _pads("pad"), keras=shapes.PAD),
)
OPERATIONS = (IDENTITY, RESHAPE, PAD)
