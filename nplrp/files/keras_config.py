"""Keras's `model_config` JSON -> the layers of a chain, in the dialects of Keras 2 and Keras 3.

Nothing is built here: a `ConfigLayer` says what a layer is and where a weight file keeps its arrays.
Sequential, Functional and models inside models are understood as long as every layer has one input and one consumer.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

from nplrp.errors import WeightsError
from nplrp.model import Layer, Shape, Window

#: Sides, channels and windows above this are taken for damage.
MAX_SIZE = 1 << 20
MAX_DEPTH = 16
#: What a side that the model leaves open (`None`) becomes: ImageNet's.
OPEN_SIDE = 224

MODELS = ("Sequential", "Functional", "Model")
INPUT = "InputLayer"
Options = Mapping[str, Any]


@dataclass(frozen=True)
class ConfigLayer:
    """A layer as its configuration describes it, and where its arrays are.

    Attributes
    ----------
    layer : Layer
        Without arrays; its shapes aren't known yet.
    variables : tuple of str
        The arrays it has, by our names, in Keras's order.
    units : int or None
        Filters of a convolution or units of a dense layer.
    path : tuple of str
        Keras's names from the outermost model's layer down to this one.
    store : str
        The layer's group in Keras 3's layout by class and number, like ``layers/conv2d_1``.
    axis : int
        Of a batch normalisation, counted with the batch axis; must be the last.
    """

    layer: Layer
    variables: tuple[str, ...] = ()
    units: int | None = None
    path: tuple[str, ...] = ()
    store: str = ""
    axis: int = -1


@dataclass(frozen=True)
class Network:
    """A chain read from a configuration: its name, its input's shape without the batch axis, its layers in forward order."""

    name: str
    input_shape: Shape
    layers: tuple[ConfigLayer, ...]


def parse(config: Any) -> Network:
    """Read a whole model's configuration.

    Parameters
    ----------
    config : dict
        The parsed JSON of `model_config` (HDF5) or `config.json` (``.keras``).

    Raises
    ------
    WeightsError
        If the model isn't a chain, or a layer or one of its options isn't supported; names the layer, its class, and what is supported.
    """
    name, class_name, options = _entry(config, 0)
    if class_name not in MODELS:
        raise WeightsError(
            f"the model is of class {class_name}, expected one of {', '.join(MODELS)}: other classes keep no list of their layers; "
            "rebuild it as Sequential or Functional and save that"
        )
    shape, layers = _model(name, class_name, options, 0)
    if shape is None:
        raise WeightsError(f"model {name!r}: its configuration has no input shape; call the model once on data and save it again")
    if not layers:
        raise WeightsError(f"model {name!r} has no layers but its input, expected a chain of layers; save the whole model")
    _check_ranks(layers, len(shape))
    return Network(name, shape, tuple(layers))


# Models: from a graph to a list


def _model(name: str, class_name: str, options: Any, depth: int) -> tuple[Shape | None, list[ConfigLayer]]:
    """Return a model's input shape, None if unknown, and its layers in forward order."""
    if depth > MAX_DEPTH:
        raise WeightsError(f"model {name!r}: more than {MAX_DEPTH} models lie inside each other; the configuration is damaged")
    options = {"layers": options} if isinstance(options, list) else options  # Keras before 2.2.3
    entries = _list(options.get("layers"))
    if not entries:
        raise WeightsError(f"model {name!r} ({class_name}) lists no layers in its configuration; save the whole model again")
    named = [(*_entry(entry, number), entry) for number, entry in enumerate(entries)]
    stores = _store_names([kind for _, kind, _, _ in named])
    order = list(range(len(named))) if class_name == "Sequential" else _follow(name, options, [(n, entry) for n, _, _, entry in named])
    shape = _shape(options.get("build_input_shape"), name) if class_name == "Sequential" else None
    layers: list[ConfigLayer] = []
    nested: list[bool] = []
    for place, number in enumerate(order):
        layer_name, kind, inner, _ = named[number]
        declared = inner.get("batch_shape", inner.get("batch_input_shape")) if isinstance(inner, dict) else None
        if kind == INPUT and place:
            raise WeightsError(
                f"layer {layer_name!r} ({kind}) stands behind other layers of model {name!r}; only chains with one input are supported"
            )
        if kind in MODELS:
            inner_shape, found = _model(layer_name, kind, inner, depth + 1)
        else:
            inner_shape = _shape(declared, layer_name) if place == 0 else None
            found = [] if kind == INPUT else [_layer(layer_name, kind, inner)]
        shape = inner_shape if place == 0 and inner_shape else shape
        store = f"layers/{stores[number]}"
        layers += [
            replace(item, path=(layer_name, *item.path), store=f"{store}/{item.store}" if item.store else store)
            if kind in MODELS
            else replace(item, path=(layer_name,), store=store)
            for item in found
        ]
        nested += [kind in MODELS] * len(found)
    return shape, _rename_twins(layers, nested)


def _rename_twins(layers: list[ConfigLayer], nested: list[bool]) -> list[ConfigLayer]:
    """Prefix a nested layer's name with its model's where the bare name is used twice."""
    uses = Counter(item.layer.name for item in layers)
    return [
        replace(item, layer=replace(item.layer, name=f"{item.path[0]}/{item.layer.name}")) if inner and uses[item.layer.name] > 1 else item
        for item, inner in zip(layers, nested, strict=True)
    ]


def _store_names(classes: list[str]) -> list[str]:
    """Return layers' names by class and number, as Keras 3's weight files have them: conv2d, conv2d_1, dense, ..."""
    seen: Counter[str] = Counter()
    names = []
    for class_name in classes:
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", re.sub(r"\W+", "", class_name))).lower()
        names.append(f"{snake}_{seen[snake]}" if seen[snake] else snake)
        seen[snake] += 1
    return names


def _follow(model: str, options: Options, named: list[tuple[str, Any]]) -> list[int]:
    """Walk a Functional model's graph from its output to its input; return the layers' numbers in forward order."""
    numbers = {name: number for number, (name, _) in enumerate(named)}
    if len(numbers) < len(named):
        raise WeightsError(f"model {model!r} has two layers of one name in its configuration; rename one and save it again")
    sources = {name: _sources(name, entry) for name, entry in named}
    ends = {key: _references(options.get(key)) for key in ("input_layers", "output_layers")}
    for key, found in ends.items():
        if len(found) != 1:
            raise WeightsError(
                f"model {model!r} has {len(found)} {key.replace('_', ' ')} ({_names(found)}), expected 1; only chains are supported"
            )
    order: list[int] = []
    at = ends["output_layers"][0]
    while True:
        if at not in numbers or numbers[at] in order:
            raise WeightsError(
                f"model {model!r}: its graph leads to layer {at!r}, which is missing or comes twice; the configuration is damaged"
            )
        order.append(numbers[at])
        if not sources[at]:
            break
        if len(sources[at]) != 1:
            class_name = named[numbers[at]][1].get("class_name")
            raise WeightsError(
                f"layer {at!r} (class {class_name}) has {len(sources[at])} inputs ({_names(sources[at])}), expected 1; only "
                f"chains are supported, of {', '.join(SUPPORTED)}"
            )
        at = sources[at][0]
    aside = [name for name in numbers if numbers[name] not in order]
    if aside or at != ends["input_layers"][0]:
        raise WeightsError(
            f"model {model!r} isn't a chain: {_names(aside or [at])} lies beside the way from its input to its output; only chains are "
            "supported"
        )
    return order[::-1]


def _names(names: list[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")


def _sources(name: str, entry: Any) -> list[str]:
    """Return the names of the layers that a layer takes its inputs from, in either dialect."""
    nodes = _list(entry.get("inbound_nodes"))
    if len(nodes) > 1:
        raise WeightsError(
            f"layer {name!r} (class {entry.get('class_name')}) is used {len(nodes)} times, expected once; only chains are supported"
        )
    if not nodes:
        return []
    node = nodes[0]
    if isinstance(node, dict) and "args" in node:  # Keras 3
        found: list[str] = []
        waiting = [node["args"], node.get("kwargs")]
        while waiting:
            value = waiting.pop(0)
            if isinstance(value, dict) and value.get("class_name") == "__keras_tensor__":
                found += _references([(value.get("config") or {}).get("keras_history")])
            elif isinstance(value, dict):
                waiting += value.values()
            elif isinstance(value, list):
                waiting += value
        return found
    return _references(node)


def _references(value: Any) -> list[str]:
    """Return the layer names in ["name", node, tensor, ...] or in a list of such."""
    items = _list(value)
    if items and isinstance(items[0], str):
        items = [items]
    names = [item[0] for item in map(_list, items) if item]
    if not all(isinstance(name, str) for name in names):
        raise WeightsError("the configuration's graph names a layer by something other than text; it is damaged")
    return names


def _entry(entry: Any, number: int) -> tuple[str, str, Any]:
    """Return a layer's name, class and options."""
    if not isinstance(entry, dict) or not isinstance(entry.get("class_name"), str) or not isinstance(entry.get("config"), dict | list):
        raise WeightsError(
            f"entry {number} of the model's configuration is no layer (no class_name or config); the configuration is damaged"
        )
    options = entry["config"]
    name = options.get("name", entry.get("name")) if isinstance(options, dict) else entry.get("name")
    name = f"{entry['class_name'].lower()}_{number}" if name is None else name
    if not isinstance(name, str) or not name:
        raise WeightsError(
            f"entry {number} of the model's configuration ({entry['class_name']}) has {name!r} for a name; the configuration is damaged"
        )
    return name, entry["class_name"], options


def _list(value: Any) -> list[Any]:
    """Return a JSON list, also where it is marked as a tuple."""
    if isinstance(value, dict) and value.get("class_name") in ("__tuple__", "TensorShape"):
        value = value.get("items")
    return value if isinstance(value, list) else []


def _shape(value: Any, name: str) -> Shape | None:
    """Return [batch, H, W, C] or [batch, C] without the batch axis; an open side becomes `OPEN_SIDE`."""
    sizes = _list(value)[1:]
    if value is None:
        return None
    sides = [OPEN_SIDE if side is None else side for side in sizes[:-1]]
    if len(sizes) not in (1, 3) or not all(_is_size(size, 1) for size in (*sides, sizes[-1])):
        raise WeightsError(f"layer {name!r}: its input shape is {value!r}, expected [None, height, width, channels] or [None, units]")
    return (*sides, sizes[-1])


def _check_ranks(layers: list[ConfigLayer], rank: int) -> None:
    """See that batch normalisation is over the last axis, and dense layers over vectors: both depend on the layers before."""
    for item in layers:
        layer = item.layer
        if item.axis not in (-1, rank):
            raise WeightsError(
                f"layer {layer.name!r} (class BatchNormalization): axis={item.axis} isn't supported, only the last, -1 or {rank}"
            )
        if layer.kind == "dense" and rank != 1:
            raise WeightsError(
                f"layer {layer.name!r} (class Dense) is applied to an image, which isn't supported, only to vectors (behind Flatten or "
                f"a global pooling); supported layers are {', '.join(SUPPORTED)}"
            )
        if layer.kind == "flatten" or (layer.kind in ("global_maxpool", "global_avgpool") and not layer.keepdims):
            rank = 1


# Layers: from options to kind


def _layer(name: str, class_name: str, options: Any) -> ConfigLayer:
    if class_name not in _READERS:
        raise WeightsError(f"layer {name!r} is of class {class_name}, which isn't supported; supported are {', '.join(SUPPORTED)}")
    try:
        if not isinstance(options, dict):
            raise ValueError("its config is no JSON object")
        _only(options, "data_format", "channels_last", None)
        return _READERS[class_name](name, options)
    except ValueError as error:
        raise WeightsError(f"layer {name!r} (class {class_name}): {error}; supported layers are {', '.join(SUPPORTED)}") from error


def _conv(name: str, options: Options) -> ConfigLayer:
    _only(options, "groups", 1)
    window = _window(options, "kernel_size", (1, 1))
    return ConfigLayer(
        Layer(name, "conv", (), (), _activation(options), window), _with_bias(options), _size(_given(options, "filters"), "filters")
    )


def _dense(name: str, options: Options) -> ConfigLayer:
    return ConfigLayer(Layer(name, "dense", (), (), _activation(options)), _with_bias(options), _size(_given(options, "units"), "units"))


def _batchnorm(name: str, options: Options) -> ConfigLayer:
    _only(options, "renorm", False)
    epsilon = _given(options, "epsilon")
    if isinstance(epsilon, bool) or not isinstance(epsilon, int | float) or not 0 <= epsilon < 1e6:
        raise ValueError(f"epsilon is {epsilon!r}, expected a number >= 0")
    axis = _given(options, "axis")
    axis = axis[0] if isinstance(axis, list) and len(axis) == 1 else axis
    if isinstance(axis, bool) or not isinstance(axis, int):
        raise ValueError(f"axis is {axis!r}, expected the last one, -1")
    given = [key for key, option in (("gamma", "scale"), ("beta", "center")) if _only(options, option, True, False)]
    return ConfigLayer(Layer(name, "batchnorm", (), (), epsilon=float(epsilon)), (*given, "mean", "variance"), axis=axis)


def _pool(kind: str) -> Callable[[str, Options], ConfigLayer]:
    def read(name: str, options: Options) -> ConfigLayer:
        return ConfigLayer(Layer(name, kind, (), (), window=_window(options, "pool_size", None)))

    return read


def _global_pool(kind: str) -> Callable[[str, Options], ConfigLayer]:
    def read(name: str, options: Options) -> ConfigLayer:
        return ConfigLayer(Layer(name, kind, (), (), keepdims=bool(_only(options, "keepdims", False, True))))

    return read


def _plain(kind: str) -> Callable[[str, Options], ConfigLayer]:
    return lambda name, _: ConfigLayer(Layer(name, kind, (), ()))


def _zero_padding(name: str, options: Options) -> ConfigLayer:
    value = _given(options, "padding")
    sides = [value, value] if isinstance(value, int) else _list(value)
    pairs = [[side, side] if isinstance(side, int) else _list(side) for side in sides]
    if [len(pair) for pair in pairs] != [2, 2] or not all(_is_size(size, 0) for pair in pairs for size in pair):
        raise ValueError(f"padding is {value!r}, expected a number, [rows, columns] or [[top, bottom], [left, right]]")
    (top, bottom), (left, right) = pairs
    return ConfigLayer(Layer(name, "pad", (), (), pads=(top, bottom, left, right)))


def _activation_layer(name: str, options: Options) -> ConfigLayer:
    return ConfigLayer(Layer(name, "activation", (), (), _activation(options)))


def _relu(name: str, options: Options) -> ConfigLayer:
    _only(options, "max_value", None)
    _only(options, "negative_slope", 0, None)
    _only(options, "threshold", 0, None)
    return ConfigLayer(Layer(name, "activation", (), (), "relu"))


def _softmax(name: str, options: Options) -> ConfigLayer:
    axis = _given(options, "axis")
    _only({"axis": axis[0] if isinstance(axis, list) and len(axis) == 1 else axis}, "axis", -1)
    return ConfigLayer(Layer(name, "activation", (), (), "softmax"))


_READERS: Mapping[str, Callable[[str, Options], ConfigLayer]] = MappingProxyType(
    {
        "Conv2D": _conv,
        "Dense": _dense,
        "BatchNormalization": _batchnorm,
        "MaxPooling2D": _pool("maxpool"),
        "AveragePooling2D": _pool("avgpool"),
        "GlobalMaxPooling2D": _global_pool("global_maxpool"),
        "GlobalAveragePooling2D": _global_pool("global_avgpool"),
        "Flatten": _plain("flatten"),
        "ZeroPadding2D": _zero_padding,
        "Activation": _activation_layer,
        "ReLU": _relu,
        "Softmax": _softmax,
        "Dropout": _plain("identity"),
        "SpatialDropout2D": _plain("identity"),
        "GaussianNoise": _plain("identity"),
        "GaussianDropout": _plain("identity"),
        "AlphaDropout": _plain("identity"),
        "ActivityRegularization": _plain("identity"),
    }
)
SUPPORTED = (INPUT, *_READERS, *MODELS)


#: What an option is in files that were written before Keras had it. All others are always written: one that is missing was damaged.
_DEFAULTS: Options = MappingProxyType({"data_format": "channels_last", "dilation_rate": 1, "groups": 1, "keepdims": False, "renorm": False})


def _given(options: Options, key: str) -> Any:
    if key not in options and key not in _DEFAULTS:
        raise ValueError(f"its configuration has no {key!r}; it is damaged: save the model again")
    return options.get(key, _DEFAULTS.get(key))


def _with_bias(options: Options) -> tuple[str, ...]:
    return ("kernel", "bias") if _only(options, "use_bias", True, False) else ("kernel",)


def _activation(options: Options) -> str:
    """Return the activation's name, also where it is written as a serialised function or layer."""
    value = _given(options, "activation")
    if isinstance(value, dict):
        inner = value.get("config")
        if value.get("class_name") in ("ReLU", "Softmax") and isinstance(inner, dict):
            return _READERS[value["class_name"]]("", inner).layer.activation
        value = inner if isinstance(inner, str) else value.get("class_name")
    value = "linear" if value is None else value
    if value not in ("linear", "relu", "softmax"):
        raise ValueError(f"activation {value!r} isn't supported, only linear, relu, softmax")
    return str(value)


def _window(options: Options, key: str, stride: tuple[int, int] | None) -> Window:
    """Read a window; `stride` is the default, None for the window's own size."""
    size = _pair(_given(options, key), key)
    strides = _given(options, "strides")
    return Window(
        size,
        (stride or size) if strides is None else _pair(strides, "strides"),
        _pair(_given(options, "dilation_rate"), "dilation_rate"),
        str(_only(options, "padding", "valid", "same")),
    )


def _pair(value: Any, key: str) -> tuple[int, int]:
    pair = [value, value] if isinstance(value, int) else _list(value)
    if len(pair) != 2 or not all(_is_size(size, 1) for size in pair):
        raise ValueError(f"{key} is {value!r}, expected one or two whole numbers from 1 to {MAX_SIZE}")
    return pair[0], pair[1]


def _size(value: Any, key: str) -> int:
    if not _is_size(value, 1):
        raise ValueError(f"{key} is {value!r}, expected a whole number from 1 to {MAX_SIZE}")
    return int(value)


def _is_size(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_SIZE


def _only(options: Options, key: str, *allowed: Any) -> Any:
    """Return an option that must have one of the values `allowed`."""
    value = _given(options, key)
    if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
        raise ValueError(f"{key}={value!r} isn't supported, only {' or '.join(map(repr, allowed))}")
    return value
