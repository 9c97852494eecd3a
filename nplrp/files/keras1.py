"""Files of Keras 1 and of Theano: configurations in today's words, and kernels as TensorFlow has them.

Keras 1 had other names for the same layers and options, and with Theano's order of axes ("th") it kept kernels as [out, in, rows, columns].
Whatever the order, Theano turned kernels round before it laid them over the image, so a kernel that was trained with it is flipped. Files
say which order it was, but not before Keras 2 which backend.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import WeightsError, brief
from nplrp.files.keras_config import MAX_DEPTH, MODELS, ConfigLayer
from nplrp.layers.config import is_size, items

Change = Callable[[dict[str, Any], tuple[str, ...]], dict[str, Any]]

#: Keras 1's options -> ours, where the value stays.
OPTIONS = MappingProxyType(
    {
        "atrous_rate": "dilation_rate",
        "bias": "use_bias",
        "border_mode": "padding",
        "filter_length": "kernel_size",
        "length": "size",
        "nb_filter": "filters",
        "output_dim": "units",
        "p": "rate",
        "pool_length": "pool_size",
        "sigma": "stddev",
        "stride": "strides",
        "subsample": "strides",
        "subsample_length": "strides",
    }
)
CLASSES = MappingProxyType(
    {
        "AtrousConvolution1D": "Conv1D",
        "AtrousConvolution2D": "Conv2D",
        "Convolution1D": "Conv1D",
        "Convolution2D": "Conv2D",
        "SeparableConvolution2D": "SeparableConv2D",
    }
)
#: Modes of Keras 1's Merge -> layers of today.
MERGES = MappingProxyType({"ave": "Average", "concat": "Concatenate", "max": "Maximum", "mul": "Multiply", "sum": "Add"})
ORDERS = MappingProxyType({"th": "channels_first", "tf": "channels_last"})
#: Classes of images whose order of axes Keras 1 didn't write down: it was the same for all layers, as keras.json said.
UNSAID = ("Cropping2D", "UpSampling2D", "ZeroPadding2D")
#: Options that only Keras 1 wrote.
MARKS = ("W_regularizer", "border_mode", "dim_ordering", "nb_filter", "concat_axis", "b_constraint")
GIVEN_UP = ("Highway", "MaxoutDense", "ParametricSoftplus", "SReLU", "LRN2D", "TimeDistributedDense", "Deconvolution2D", "AtrousConv3D")

#: Axes of Keras 1's kernels that become rows, columns, in, out (out, in if transposed): channels last, channels first.
_KERNELS = MappingProxyType({"conv": ((0, 1, 2, 3), (2, 3, 1, 0)), "conv_transpose": ((0, 1, 3, 2), (2, 3, 0, 1))})
#: Whose kernels a file may have: what the option `kernels` takes.
BACKENDS = ("theano", "tensorflow")


@dataclass(frozen=True)
class Kernels:
    """How the kernels in a file are brought to Keras 2's order: [rows, columns, in, out], correlated with the image.

    Attributes
    ----------
    old : bool
        Whether Keras 1 wrote them.
    first : collection of tuple of str
        Paths of the layers whose kernels have channels first; None: all.
    flipped : bool
        Whether they were made for Theano, which turns them round.
    """

    old: bool = False
    first: frozenset[tuple[str, ...]] | None = frozenset()
    flipped: bool = False

    def ours(self, item: ConfigLayer, found: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        """Return a layer's arrays in Keras 2's order."""
        kind, first = item.layer.kind, self.first is None or item.path in self.first
        if not (self.old or self.flipped) or "kernel" not in found:
            return found
        if "pointwise" in found:  # Theano's depthwise convolutions correlate
            turned = {key: found[key].transpose(2, 3, 1, 0) for key in ("kernel", "pointwise") if first and found[key].ndim == 4}
            return {**found, **turned}
        if kind not in _KERNELS:
            return found
        kernel, wanted = found["kernel"], item.variables["kernel"]
        if self.old and kernel.ndim == 4:
            axes = _KERNELS[kind][first]
            if len(wanted) == 3:  # a sequence's: (length, 1, in, out), or before Keras 1.2 (out, in, length, 1)
                axes = _KERNELS[kind][kernel.shape[1] != 1 or kernel.shape[0] != wanted[0]]
            kernel = kernel.transpose(axes)
            kernel = kernel[:, 0] if len(wanted) == 3 and kernel.shape[1] == 1 else kernel
        if self.flipped:
            kernel = kernel[tuple(slice(None, None, -1 if i < kernel.ndim - 2 else 1) for i in range(kernel.ndim))]
        return {**found, "kernel": kernel}


def is_old(config: Any) -> bool:
    """Tell whether a configuration is Keras 1's."""
    return any(True for mark in MARKS for _ in _values(config, mark))


@dataclass
class Modern:
    """A configuration in today's words.

    Attributes
    ----------
    config : object
    first : set of tuple of str
        Paths of the layers with Theano's order of axes.
    order : str or None
        The data format of all layers that say theirs; None if none does.
    """

    config: Any
    first: set[tuple[str, ...]] = field(default_factory=set)
    order: str | None = None


def modern(config: Any) -> Modern:
    """Return a configuration of Keras 1 in the words of Keras 2.

    Raises
    ------
    WeightsError
        If a layer was given up with Keras 2, or the order of a layer's axes can't be told.
    """
    said = {value for value in _values(config, "dim_ordering") if isinstance(value, str)}
    found = Modern(None, order=ORDERS.get(said.pop(), "") if len(said) == 1 else "" if said else None)
    found.config = _each_layer(config, lambda raw, path: _layer(raw, path, found))
    return found


def _values(tree: Any, key: str) -> Iterator[Any]:
    """Walk nested lists and dicts; yield all that stands under a key."""
    waiting = [tree]
    while waiting:
        each = waiting.pop()
        if isinstance(each, dict):
            if key in each:
                yield each[key]
            waiting += each.values()
        elif isinstance(each, list):
            waiting += each


def _each_layer(raw: Any, change: Change, path: tuple[str, ...] = (), depth: int = 0) -> Any:
    """Return a model with all its layers changed; what isn't of the expected form stays as it is, for the reader to complain of."""
    if depth > MAX_DEPTH or not isinstance(raw, dict) or not isinstance(raw.get("config"), dict | list):
        return raw
    inner = raw["config"]
    layers = inner if isinstance(inner, list) else inner.get("layers")
    if raw.get("class_name") in MODELS and isinstance(layers, list):
        below = (*path, _name(raw)) if depth else ()
        named = [_with_name(each, number) for number, each in enumerate(layers)]
        done = [_each_layer(each, change, below, depth + 1) for each in named]
        return {**raw, "config": done if isinstance(inner, list) else {**inner, "layers": done}}
    return change(raw, path) if isinstance(inner, dict) else raw


def _with_name(raw: Any, number: int) -> Any:
    """Return a Sequential model inside another, which Keras 1 wrote without its name, with the one that the reader gives it."""
    unnamed = isinstance(raw, dict) and isinstance(raw.get("config"), list) and "name" not in raw
    return {**raw, "name": f"{str(raw.get('class_name')).lower()}_{number}"} if unnamed else raw


def _name(raw: Mapping[str, Any]) -> str:
    options = raw["config"]
    return str(options.get("name", raw.get("name")) if isinstance(options, dict) else raw.get("name"))


def _layer(raw: dict[str, Any], path: tuple[str, ...], found: Modern) -> dict[str, Any]:
    old, name, class_name = raw["config"], _name(raw), str(raw.get("class_name"))
    if class_name in GIVEN_UP:
        raise WeightsError(
            f"layer {name!r} is of Keras 1's class {class_name}, which isn't read; build it from Keras 2's layers, and save the model again"
        )
    options = {OPTIONS.get(key, key): value for key, value in old.items()}
    if "nb_row" in old and "nb_col" in old:
        options["kernel_size"] = [options.pop("nb_row"), options.pop("nb_col")]
    if "dim_ordering" in old:
        order = options.pop("dim_ordering")
        if not isinstance(order, str) or order not in ORDERS:
            raise WeightsError(f"layer {name!r}: dim_ordering is {brief(order)}, expected 'th' or 'tf'; the file is damaged")
        options["data_format"] = ORDERS[order]
        if order == "th":
            found.first.add((*path, name))
    elif class_name in UNSAID and found.order is not None:
        if not found.order:
            raise WeightsError(
                f"layer {name!r} ({class_name}): Keras 1 doesn't say its dim_ordering, and other layers have both; rebuild it"
            )
        options["data_format"] = found.order
    now = CLASSES.get(class_name, class_name)
    change = _SPECIAL.get(now)
    return {**raw, "class_name": (change(name, options) if change else None) or now, "config": options}


def on_theano(config: Any) -> Any:
    """Return a configuration with the padding that Theano gave to convolutions with ``"same"``: half of the window, at every stride.

    Raises
    ------
    WeightsError
        If a pool or a transposed convolution pads so: Theano's depended on the image.
    """
    return _each_layer(config, _theanos_padding)


def _theanos_padding(raw: dict[str, Any], path: tuple[str, ...]) -> dict[str, Any]:
    options, class_name = raw["config"], str(raw.get("class_name"))
    if options.get("padding") != "same":
        return raw
    if "Pool" in class_name or "Transpose" in class_name or "Deconv" in class_name:
        raise WeightsError(
            f"layer {_name(raw)!r} ({class_name}): with Theano padding='same' meant something else than with TensorFlow, and isn't read: "
            "if the model was made with TensorFlow: --kernels tensorflow"
        )
    sizes, rates = (items(options.get(key)) or [options.get(key, 1)] for key in ("kernel_size", "dilation_rate"))
    rates = rates * len(sizes) if len(rates) == 1 else rates
    if not all(is_size(each, 1) for each in [*sizes, *rates]) or len(sizes) != len(rates) or len(sizes) > 2:
        return raw
    whole = [(size - 1) * rate + 1 for size, rate in zip(sizes, rates, strict=True)]
    sides = [side for size in whole for side in (size // 2, size - 1 - size // 2)]
    return {**raw, "config": {**options, "padding": [0] * (4 - len(sides)) + sides}}


def _batch_norm(name: str, options: dict[str, Any]) -> None:
    """Keras 1's was over a batch's statistics of each example in mode 1; in the others it always had gamma and beta."""
    if options.pop("mode", 0) == 1:
        raise WeightsError(f"layer {name!r}: BatchNormalization with mode=1 normalises each image by itself, which Keras gave up; not read")
    options.update(center=True, scale=True)


def _merge(name: str, options: dict[str, Any]) -> str:
    mode = str(options.get("mode"))
    if mode not in MERGES or options.get("layers"):
        what = "of models inside a Sequential one" if options.get("layers") else f"with mode={brief(mode)}"
        raise WeightsError(
            f"layer {name!r}: a Merge {what} isn't read, only {', '.join(MERGES)} of a graph's layers; rebuild it in Keras 2"
        )
    if mode == "concat":
        options["axis"] = options.get("concat_axis", -1)
    return MERGES[mode]


def _padding(name: str, options: dict[str, Any]) -> None:
    """Bring four sides, also of a dict, to [[top, bottom], [left, right]]; those of sequences to [before, behind]."""
    given = options.get("padding")
    if isinstance(given, dict):
        given = [given[key] for key in ("top_pad", "bottom_pad", "left_pad", "right_pad") if key in given]
    sides = items(given)
    options["padding"] = [sides[:2], sides[2:]] if len(sides) == 4 else given


def _prelu(name: str, options: dict[str, Any]) -> None:
    options.setdefault("shared_axes", None)


_SPECIAL: Mapping[str, Callable[[str, dict[str, Any]], str | None]] = MappingProxyType(
    {"BatchNormalization": _batch_norm, "Merge": _merge, "PReLU": _prelu, "ZeroPadding1D": _padding, "ZeroPadding2D": _padding}
)
