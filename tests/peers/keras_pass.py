"""Helpers around real Keras 2 and 3: networks in float64, weights scaled in one pass, every layer's output, channels first on a CPU."""

import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests import zoo

MODELS = ("Functional", "Sequential", "Model")


def _same(x):
    return x


def listed(value: Any) -> list:
    if isinstance(value, dict):
        return list(value.values())
    return list(value) if isinstance(value, list | tuple) else [value]


# Configurations


def doubled(text: str) -> str:
    """Return a model's configuration with float64 in place of float32."""

    def turn(value):
        if isinstance(value, dict):
            if value.get("class_name") == "DTypePolicy":
                return {**value, "config": {"name": "float64"}}
            return {key: "float64" if key == "dtype" and item == "float32" else turn(item) for key, item in value.items()}
        return [turn(item) for item in value] if isinstance(value, list) else value

    return json.dumps(turn(json.loads(text)))


def entries(config: dict):
    """Yield the layers of a model's configuration, with those of models inside."""
    for entry in config["config"]["layers"]:
        yield entry
        if entry["class_name"] in MODELS:
            yield from entries(entry)


def classes(config: dict) -> set[str]:
    """Return the classes of layers in a configuration, models inside included, the input layers left out."""
    return {entry["class_name"] for entry in entries(config)} - {"InputLayer"}


def is_chain(config: dict) -> bool:
    """Whether a model is a chain: one input, one output, every layer with one input tensor and one reader, used once."""
    options = config["config"]
    layers = options["layers"]
    if not all(is_chain(entry) for entry in layers if entry["class_name"] in MODELS):
        return False
    if config["class_name"] == "Sequential":
        return True
    reads: list[str] = []
    for entry in layers:
        nodes = entry["inbound_nodes"]
        here = [name for node in nodes for name in references(node)]
        if len(nodes) > 1 or len(here) > 1:
            return False
        reads += here
    ends = references(options["output_layers"])
    return len(ends) == 1 and len(references(options["input_layers"])) == 1 and len(set(reads)) == len(reads) and ends[0] not in reads


def references(value: Any) -> list[str]:
    """Return the layers that a node, or a list of a model's ends, names."""
    if isinstance(value, dict):
        if "keras_history" in value:
            return [value["keras_history"][0]]
        return [name for item in value.values() for name in references(item)]
    if isinstance(value, list):
        if len(value) >= 3 and isinstance(value[0], str) and isinstance(value[1], int) and isinstance(value[2], int):
            return [value[0], *references(value[3:])]
        return [name for item in value for name in references(item)]
    return []


@contextmanager
def still(k):
    """Let Keras 2's layers that rotate and zoom do nothing, as outside training: in float64 they fail."""
    kinds = [getattr(k.layers, name) for name in ("RandomRotation", "RandomZoom", "RandomTranslation")] if k.__name__ == "tf_keras" else []
    calls = [kind.call for kind in kinds]
    for kind in kinds:
        kind.call = lambda self, inputs, training=True: inputs
    try:
        yield
    finally:
        for kind, call in zip(kinds, calls, strict=True):
            kind.call = call


# Layers and variables


def variables(model) -> list:
    """Return a model's or a layer's variables in a fixed order, each once."""
    once = {id(variable): variable for variable in getattr(model, "variables", [])}
    return [variable for variable in once.values() if "seed_generator" not in name_of(variable)]  # Keras keeps those in no file


def name_of(variable) -> str:
    return getattr(variable, "path", variable.name)


def values(model) -> list[np.ndarray]:
    return [np.asarray(variable) for variable in variables(model)]


def fill(model, weights: list[np.ndarray]) -> None:
    for variable, value in zip(variables(model), weights, strict=True):
        variable.assign(value.astype(np.asarray(variable).dtype))
    for _, layer in leaves(model):
        finish(layer)


def finish(layer) -> None:
    """Let a Normalization compute with the statistics it has now."""
    if type(layer).__name__ == "Normalization" and layer.variables:
        layer.finalize_state()


def leaves(model, prefix: str = "") -> list[tuple[str, Any]]:
    """Return the layers and operations of a model that aren't models, with their paths."""
    found = []
    for layer in getattr(model, "_operations", None) or model.layers:
        if type(layer).__name__ in MODELS:
            found += leaves(layer, f"{prefix}{layer.name}/")
        elif type(layer).__name__ != "InputLayer":
            found.append((f"{prefix}{layer.name}", layer))
    return found


def patch(layer, call) -> None:
    """Put `call(original, *args, **kwargs)` in place of a layer's own call."""
    original = layer.call
    object.__setattr__(layer, "call", lambda *args, **kwargs: call(original, *args, **kwargs))


# Channels first: TensorFlow's CPU kernels know channels last only


def first_channels(model) -> bool:
    return any(getattr(layer, "data_format", None) == "channels_first" for _, layer in leaves(model))


def turn_channels(model) -> None:
    """Let every layer of channels first compute with channels last between two transpositions."""
    for _, layer in leaves(model):
        name = type(layer).__name__
        if getattr(layer, "data_format", None) != "channels_first" or name == "Flatten":
            continue
        layer.data_format = "channels_last"
        if name.startswith(("Conv2D", "Depthwise", "Separable")) and hasattr(layer, "_tf_data_format"):
            layer._tf_data_format = "NHWC"
        patch(layer, _turned)


def _turned(original, x, *args, **kwargs):
    import tensorflow as tf

    y = original(tf.transpose(x, [0, *range(2, x.ndim), 1]), *args, **kwargs)
    return tf.transpose(y, [0, y.ndim - 1, *range(1, y.ndim - 1)]) if y.ndim > 2 else y


# Weights


def calibrate(model, title: str, x: np.ndarray, gain: float) -> list[list]:
    """Choose rules for all variables, [[path, shape, dtype, rule, ...], ...], so that outputs keep a deviation of about `gain`.

    One pass through the float64 model: at a layer's first use its kernels are scaled by what they give, its statistics set
    around those of what it gets.
    """
    mine, own = variables(model), variables
    numbers = {id(variable): i for i, variable in enumerate(mine)}
    rules: dict[int, list] = {}

    def number(variable) -> int:
        return numbers[id(variable)]

    def put(variable, *rule) -> None:
        i = number(variable)
        rule = [rule[0], *(float(f"{value:.3g}") for value in rule[1:])]
        dtype = np.asarray(variable).dtype
        dtype = "float32" if dtype == np.float64 else dtype.name
        rules[i] = [name_of(variable), list(variable.shape), dtype, *rule]
        variable.assign(zoo.values(title, i, list(variable.shape), dtype, *rule).astype(np.asarray(variable).dtype))

    def call(layer):
        def run(original, *args, **kwargs):
            if any(number(variable) not in rules for variable in own(layer)):
                settle(layer, original, args, kwargs)
            return original(*args, **kwargs)

        return run

    def settle(layer, original, args, kwargs) -> None:
        x = np.asarray(args[0]) if args else None
        kernels = []
        for variable in own(layer):
            kind = name_of(variable).split("/")[-1].split(":")[0]
            size = np.asarray(variable).shape
            if "kernel" in kind or kind in ("embeddings",):
                fan = max(1, int(np.prod(size[:-1])))
                put(variable, "uniform", 0, np.sqrt(3 / fan))
                kernels.append(variable)
            elif kind == "bias":
                put(variable, "uniform", 0.05, 0.3)
            elif kind in ("gamma", "scale") or kind.startswith("variable"):
                put(variable, "both signs", 1, 0.5)
            elif kind == "beta":
                put(variable, "uniform", 0, 0.3)
            elif kind in ("moving_mean", "mean"):
                put(variable, "uniform", x.mean(), 0.5 * x.std())
            elif kind in ("moving_variance", "variance"):
                put(variable, "uniform", x.var(), 0.5 * x.var())
            elif kind.startswith("renorm") or kind == "moving_stddev":
                put(variable, "uniform", 1, 0.5)  # of use in training only
            elif kind == "alpha":
                put(variable, "both signs", 0.3, 0.2)
            elif kind == "count":
                put(variable, "constant", 1)
            elif np.asarray(variable).dtype.kind in "iu":
                put(variable, "whole")
            else:
                raise AssertionError(f"no rule for {name_of(variable)} of a {type(layer).__name__}")
        finish(layer)
        if not kernels:
            return
        activation = getattr(layer, "activation", None)
        if activation is not None:
            layer.activation = _same
        bare = np.asarray(original(*args, **kwargs))
        if activation is not None:
            layer.activation = activation
        last = kernels[-1]
        _, _, _, rule, centre, spread = rules[number(last)]
        put(last, rule, centre, spread * gain / max(bare.std(), 1e-6))

    for _, layer in leaves(model):
        if own(layer):
            patch(layer, call(layer))
    if first_channels(model):
        turn_channels(model)
    model(x.astype(np.float64), training=False)
    return [rules[i] for i in range(len(mine))]


# A pass


@dataclass
class Observed:
    outputs: list = field(default_factory=list)
    logits: list = field(default_factory=list)
    layers: list = field(default_factory=list)


def observe(model, x: np.ndarray, dtype: str = "float64", keep=lambda name, value: (name, value)) -> Observed:
    """Return a model's outputs, those before a layer's own softmax or sigmoid, and every layer's output in the order of computation.

    `keep(name, value)` says what to keep of a layer's output. The model's calls stay patched: it is good for nothing else afterwards.
    """
    observed = Observed()
    uses: dict[str, int] = {}
    ends = dict.fromkeys(_output_names(model))

    def call(path, layer):
        def run(original, *args, **kwargs):
            y = original(*args, **kwargs)
            use = uses[path] = uses.get(path, -1) + 1
            if len(listed(y)) == 1:
                observed.layers.append(keep(f"{path}#{use}" if use else path, np.asarray(y)))
            activation = getattr(layer, "activation", None)
            its_own = path in ends and type(layer).__name__ != "Activation"
            if its_own and getattr(activation, "__name__", "") in ("softmax", "sigmoid"):
                layer.activation = _same
                observed.logits.append((path, np.asarray(original(*args, **kwargs))))
                layer.activation = activation
            return y

        return run

    for path, layer in leaves(model):
        patch(layer, call(path, layer))
    result = model(x.astype(dtype), training=False)
    names = _output_names(model)
    observed.outputs = [(name, np.asarray(value)) for name, value in zip(names, listed(result), strict=True)]
    for name, value in [*observed.outputs, *observed.logits]:
        if not np.isfinite(value).all() or value.dtype != dtype:
            raise AssertionError(f"output {name}: {value.dtype}, finite: {np.isfinite(value).all()}")
    return observed


def _output_names(model) -> list[str]:
    if type(model).__name__ == "Sequential":
        return [model.layers[-1].name]
    return references(model.get_config()["output_layers"])
