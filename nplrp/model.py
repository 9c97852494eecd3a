"""A network as data: a chain of layers with names, shapes and plain arrays.

Nothing here computes. `nplrp.files.weights` makes a `Model` from a file, `nplrp.lrp` explains with it.
Shapes are (H, W, C) for images and (C,) for vectors, without the batch axis; kernels are Keras's own:
HWIO for convolutions, (in, out) for dense layers.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.cache import remembered_hash
from nplrp.errors import ModelError

Shape = tuple[int, ...]

#: What a layer may do. Keras's classes map onto these in `nplrp.files.keras_config`.
KINDS = (
    "input",
    "conv",
    "dense",
    "maxpool",
    "avgpool",
    "global_maxpool",
    "global_avgpool",
    "flatten",
    "batchnorm",
    "pad",
    "activation",
    "identity",
)
ACTIVATIONS = ("linear", "relu", "softmax")
#: The most numbers that one layer may give for one image, 8 GB in float32; more is taken for a mistake.
MAX_VALUES = 1 << 31


@dataclass(frozen=True)
class Window:
    """How a convolution or a pooling window moves over an image.

    Attributes
    ----------
    size : (int, int)
        Height and width of the window, before dilation.
    stride, dilation : (int, int)
    padding : str
        ``"same"`` or ``"valid"``, as TensorFlow defines them.
    """

    size: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: str = "valid"

    def pads(self, height: int, width: int) -> tuple[int, int, int, int]:
        """Return the rows and columns of zeros around an image: top, bottom, left, right.

        TensorFlow's 'same': out = ceil(in / stride), the odd row or column goes to the bottom or right.
        """
        sides = []
        for n, k, s, d in zip((height, width), self.size, self.stride, self.dilation, strict=True):
            total = max((-(-n // s) - 1) * s + (k - 1) * d + 1 - n, 0) if self.padding == "same" else 0
            sides += [total // 2, total - total // 2]
        return sides[0], sides[1], sides[2], sides[3]

    def output_size(self, height: int, width: int) -> tuple[int, int]:
        """Return height and width of the output; zero or less when the window doesn't fit."""
        top, bottom, left, right = self.pads(height, width)
        rows, columns = (
            (n - (k - 1) * d - 1) // s + 1
            for n, k, s, d in zip((height + top + bottom, width + left + right), self.size, self.stride, self.dilation, strict=True)
        )
        return rows, columns


@dataclass(frozen=True)
class Preprocessing:
    """How an image becomes the tensor that a model was trained on.

    Attributes
    ----------
    mode : str
        ``"caffe"`` (RGB -> BGR, minus the ImageNet mean), ``"tf"`` (x / 127.5 - 1), ``"torch"`` (x / 255, then per-channel
        mean and deviation), ``"unit"`` (x / 255) or ``"none"`` (0 to 255 as it is).
    resample : str
        Pillow's filter for the resize: ``"nearest"`` (Keras's default), ``"bilinear"``, ``"bicubic"``, ``"lanczos"``, ``"box"``,
        ``"hamming"``.
    crop : bool
        Resize the shorter side and cut out the centre, instead of squeezing the picture to the input's shape.
    resize_to : int or None
        With `crop`: the length of the shorter side before the cut, in pixels; None is the input's own.
    """

    mode: str = "caffe"
    resample: str = "nearest"
    crop: bool = False
    resize_to: int | None = None


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of the chain: what it is called, what it does, and its arrays.

    Attributes
    ----------
    name : str
        Keras's name.
    kind : str
        One of `KINDS`.
    input_shape, output_shape : tuple of int
        Without the batch axis.
    activation : str
        Applied after the layer's own operation: ``"linear"``, ``"relu"`` or ``"softmax"``.
    window : Window or None
        Of ``conv``, ``maxpool`` and ``avgpool``.
    pads : (int, int, int, int) or None
        Of ``pad``: rows and columns of zeros at top, bottom, left, right.
    keepdims : bool
        Of the global poolings: the output keeps its axes, (1, 1, C).
    epsilon : float
        Of ``batchnorm``: added to the variance.
    arrays : mapping of str to ndarray, float32
        ``kernel`` and ``bias`` (which may be absent); for ``batchnorm`` ``gamma`` and ``beta`` (which may be absent), ``mean``,
        ``variance``.
    """

    name: str
    kind: str
    input_shape: Shape
    output_shape: Shape
    activation: str = "linear"
    window: Window | None = None
    pads: tuple[int, int, int, int] | None = None
    keepdims: bool = False
    epsilon: float = 0.0
    arrays: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "arrays", MappingProxyType(dict(self.arrays)))

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle the arrays as a plain dict: a read-only view of one can't be pickled."""
        return Layer, tuple(dict(self.arrays) if one.name == "arrays" else getattr(self, one.name) for one in fields(self))

    @property
    def parameters(self) -> int:
        """Number of weights."""
        return sum(a.size for a in self.arrays.values())

    def describe(self) -> dict[str, Any]:
        """Return everything but the arrays' contents as plain JSON values."""
        window = self.window
        return {
            "name": self.name,
            "kind": self.kind,
            "input_shape": list(self.input_shape),
            "output_shape": list(self.output_shape),
            "activation": self.activation,
            "window": window and [list(window.size), list(window.stride), list(window.dilation), window.padding],
            "pads": self.pads and list(self.pads),
            "keepdims": self.keepdims,
            "epsilon": self.epsilon,
            "arrays": {key: list(a.shape) for key, a in sorted(self.arrays.items())},
        }


def size_of(shape: Shape) -> int:
    """Return the number of units of a shape."""
    return math.prod(shape)


def chain(input_shape: Shape, layers: list[Layer], name: str = "model", **attributes: Any) -> Model:
    """Derive every layer's shapes from the model's input and return the model.

    Parameters
    ----------
    input_shape : (H, W, C) or (C,)
    layers : list of Layer
        In forward order; their ``input_shape`` and ``output_shape`` are ignored and derived here.
    name, **attributes
        Further fields of `Model`.

    Raises
    ------
    ModelError
        If a layer doesn't fit the output of the one before it; the message names the layer and both shapes.
    """
    if math.prod(input_shape) > MAX_VALUES or min(input_shape, default=0) < 1:
        raise ModelError(f"the model's input has shape {tuple(input_shape)}, expected (H, W, C) or (C,) with 1 to {MAX_VALUES} numbers")
    shape, done = tuple(input_shape), []
    seen = {"input"}
    for layer in layers:
        if layer.name in seen:
            raise ModelError(
                f"two layers are called {layer.name!r} (the model's input is called 'input'); relevances are kept by name, so rename one"
            )
        seen.add(layer.name)
        out = output_shape(layer, shape)
        done.append(replace(layer, input_shape=shape, output_shape=out))
        shape = out
    return Model(name=name, input_shape=tuple(input_shape), layers=tuple(done), **attributes)


def output_shape(layer: Layer, shape: Shape) -> Shape:
    """Derive a layer's output shape from its input shape, checking that its arrays fit.

    Raises
    ------
    ModelError
        If they don't.
    """
    spatial = layer.kind in ("conv", "maxpool", "avgpool", "global_maxpool", "global_avgpool", "pad")
    if spatial and len(shape) != 3:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) needs an image (H, W, C), but gets {shape} from the layer before it")
    if layer.kind == "conv":
        kernel, window = layer.arrays["kernel"], _window(layer)
        if kernel.ndim != 4 or kernel.shape[:2] != window.size or kernel.shape[2] != shape[2]:
            raise ModelError(
                f"layer {layer.name!r}: its kernel has shape {kernel.shape}, expected ({window.size[0]}, {window.size[1]}, "
                f"{shape[2]}, filters): the layer before it gives {shape}"
            )
        _check_vector(layer, "bias", kernel.shape[3])
        return _fits(layer, shape, (*window.output_size(*shape[:2]), kernel.shape[3]))
    if layer.kind in ("maxpool", "avgpool"):
        return _fits(layer, shape, (*_window(layer).output_size(*shape[:2]), shape[2]))
    if layer.kind in ("global_maxpool", "global_avgpool"):
        return _fits(layer, shape, (1, 1, shape[2]) if layer.keepdims else (shape[2],))
    if layer.kind == "pad":
        top, bottom, left, right = layer.pads or (0, 0, 0, 0)
        return _fits(layer, shape, (shape[0] + top + bottom, shape[1] + left + right, shape[2]))
    if layer.kind == "flatten":
        return (math.prod(shape),)
    if layer.kind == "dense":
        kernel = layer.arrays["kernel"]
        if len(shape) != 1 or kernel.ndim != 2 or kernel.shape[0] != shape[0]:
            raise ModelError(
                f"layer {layer.name!r}: its kernel has shape {kernel.shape}, expected ({math.prod(shape)}, units): the layer before it "
                f"gives {shape}"
            )
        _check_vector(layer, "bias", kernel.shape[1])
        return _fits(layer, shape, (kernel.shape[1],))
    if layer.kind == "batchnorm":
        for key in ("gamma", "beta", "mean", "variance"):
            _check_vector(layer, key, shape[-1])
    return shape


def _window(layer: Layer) -> Window:
    if layer.window is None:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has no window")
    return layer.window


def _check_vector(layer: Layer, key: str, length: int) -> None:
    array = layer.arrays.get(key)
    if array is not None and array.shape != (length,):
        raise ModelError(f"layer {layer.name!r}: its {key} has shape {array.shape}, expected ({length},)")


def _fits(layer: Layer, before: Shape, after: Shape) -> Shape:
    if math.prod(after) > MAX_VALUES:
        raise ModelError(
            f"layer {layer.name!r} ({layer.kind}): its output would have shape {after}; at most {MAX_VALUES} numbers are supported"
        )
    if min(after) < 1 or min(before) < 1:
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) doesn't fit: its input has shape {before}, its output would have {after}")
    return after


@dataclass(frozen=True, eq=False)
class Model:
    """A chain of layers, how its input is made from an image, and what its outputs are called.

    Attributes
    ----------
    name : str
    input_shape : (H, W, C) or (C,)
    layers : tuple of Layer
        In forward order.
    preprocessing : Preprocessing
    classes : tuple of (str, str) or None
        (class id, description) of every output unit.
    source : str or None
        Where the weights came from; not part of the content.
    """

    name: str
    input_shape: Shape
    layers: tuple[Layer, ...]
    preprocessing: Preprocessing = Preprocessing()
    classes: tuple[tuple[str, str], ...] | None = None
    source: str | None = None
    _cache: dict[Any, Any] = field(default_factory=dict, init=False, repr=False)  # not handed on by `replace`

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be made again: steps, plans, memory."""
        kept = {key: self._cache[key] for key in ("content_hash", "stamps") if key in self._cache}
        return {**self.__dict__, "_cache": kept}

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise ModelError(f"the model has no layer {name!r}; its layers are {', '.join(layer.name for layer in self.layers)}")

    @property
    def output_shape(self) -> Shape:
        """Shape of the last layer's output, without the batch axis."""
        return self.layers[-1].output_shape if self.layers else self.input_shape

    @property
    def content_hash(self) -> str:
        """SHA-256 over the layers and their arrays: the same however the file was laid out. Read once, then kept."""
        if "content_hash" not in self._cache:
            stamps = self._cache.get("stamps")
            fresh = stamps and all(_stamp(path) == (size, modified) for path, size, modified in stamps)
            self._cache["content_hash"] = (
                remembered_hash(f"content hash 1 {stamps}", lambda: content_hash(self)) if fresh else content_hash(self)
            )
        return str(self._cache["content_hash"])

    def remember_hash(self, stamps: Sequence[tuple[str, int, int]]) -> None:
        """Keep the content hash between runs, under (path, size, modification time in ns) of every file that the arrays are mapped from."""
        self._cache["stamps"] = stamps

    def __str__(self) -> str:
        rows = [("layer", "kind", "output shape", "parameters")]
        rows += [("input", "input", str(self.input_shape), "0")]
        for layer in self.layers:
            kind = layer.kind if layer.activation == "linear" else f"{layer.kind} + {layer.activation}"
            rows.append((layer.name, kind, str(layer.output_shape), f"{layer.parameters:,}"))
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [f"{a:<{widths[0]}}  {b:<{widths[1]}}  {c:<{widths[2]}}  {d:>{widths[3]}}" for a, b, c, d in rows]
        total = sum(layer.parameters for layer in self.layers)
        return "\n".join([f"{self.name}: {len(self.layers)} layers, {total:,} parameters", *lines])


def _stamp(path: str) -> tuple[int, int] | None:
    try:
        status = Path(path).stat()
    except OSError:
        return None
    return status.st_size, status.st_mtime_ns


def content_hash(model: Model) -> str:
    """Hash what the model computes: kinds, windows, shapes and arrays, in forward order, not names of files, groups or layers."""
    digest = hashlib.sha256()
    for layer in model.layers:
        if layer.kind in ("input", "identity"):
            continue
        facts = {key: value for key, value in layer.describe().items() if key != "name"}
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for _, array in sorted(layer.arrays.items()):
            digest.update(np.ascontiguousarray(array, dtype="<f4").data)
    return digest.hexdigest()
