"""Helpers around real Keras 2 and 3: networks in float64, weights scaled in one pass, every layer's output, channels first on a CPU."""

import importlib
import json
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from tests import zoo

MODELS = ("Functional", "Sequential", "Model")


def customs(k, names: list[str]) -> dict:
    """Return those classes of keras.applications' own, of those named, that Keras may not find when it loads a file."""
    places = {"LayerScale": "convnext", "StochasticDepth": "convnext", "CustomScaleLayer": "inception_resnet_v2"}
    modules = {name: importlib.import_module(f"{k.__name__}.src.applications.{place}") for name, place in places.items() if name in names}
    return {name: getattr(module, name) for name, module in modules.items() if hasattr(module, name)}


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


# Exactness: where TensorFlow rounds constants to float32 in float64 networks


def exact(model, single=None) -> None:
    """Let a float64 model compute all it does in float64, with the constants that its configuration says.

    In float64 Keras still rounds to float32: the constants of Rescaling, of a given Normalization (Keras 3), of LeakyReLU, ReLU and
    GELU (1e-9 to 5e-8 of the result), and all of a bilinear resize (1e-7). Keras 2 rounds slopes before it writes them: they are
    taken from `single`, the same model in float32.
    """
    twins = [layer for _, layer in leaves(single)] if single is not None else []
    for (_, layer), twin in zip(leaves(model), twins or [None] * len(leaves(model)), strict=True):
        activation = getattr(layer, "activation", None)
        if callable(activation) and not hasattr(layer, "function"):
            name = getattr(activation, "__name__", "")
            if name in ACTIVATIONS:
                layer.activation = ACTIVATIONS[name]
            elif hasattr(activation, "get_config"):
                _exact_layer(activation, getattr(twin, "activation", None))
        _exact_layer(layer, twin)


def _exact_layer(layer, twin) -> None:
    import tensorflow as tf

    def number(*names):
        found = [getattr(twin or layer, name) for name in names if getattr(twin or layer, name, None) is not None]
        return tf.constant(float(found[0]), tf.float64) if found else None

    name = type(layer).__name__
    if name in ("LeakyReLU", "ReLU"):
        slope, threshold, top = number("negative_slope", "alpha"), number("threshold"), number("max_value")
        threshold = tf.constant(0.0, tf.float64) if threshold is None else threshold

        def rectified(original, x, **_):
            above = x if top is None else tf.minimum(x, top)
            return tf.where(x < threshold, slope * (x - threshold), above)

        patch(layer, rectified)
    elif name in ("ELU", "ThresholdedReLU"):
        for key in {"alpha", "theta"} & set(vars(layer)):
            setattr(layer, key, float(getattr(twin or layer, key)))
    elif name == "Rescaling":
        scale, offset = (tf.constant(np.array(value, np.float64)) for value in (layer.scale, layer.offset))
        patch(layer, lambda original, x, **_: x * scale + offset)
    elif name == "Normalization" and getattr(layer, "input_mean", None) is not None:
        for key in ("mean", "variance"):
            given = np.array(getattr(layer, f"input_{key}"), np.float64)
            setattr(layer, key, tf.constant(np.broadcast_to(given, np.shape(getattr(layer, key)))))
    elif name == "Conv2D" and layer.groups > 1 and layer.data_format == "channels_last":
        patch(layer, lambda original, x, **_: _grouped(layer, x))  # Keras's own takes minutes a layer
    elif name in ("UpSampling2D", "Resizing") and layer.interpolation == "bilinear":
        patch(layer, lambda original, x, **_: bilinear(x, *original(x).shape[1:3]))


def _grouped(layer, x):
    """Compute a grouped convolution: a depthwise one if every group has one channel, else group by group."""
    import tensorflow as tf

    kernel, padding = tf.convert_to_tensor(layer.kernel), layer.padding.upper()
    if kernel.shape[2] == 1:
        kernel = tf.reshape(kernel, [*kernel.shape[:2], layer.groups, -1])
        y = tf.nn.depthwise_conv2d(x, kernel, [1, *layer.strides, 1], padding, dilations=layer.dilation_rate)
    else:
        pairs = zip(tf.split(x, layer.groups, -1), tf.split(kernel, layer.groups, -1), strict=True)
        y = tf.concat([tf.nn.conv2d(a, w, layer.strides, padding, dilations=layer.dilation_rate) for a, w in pairs], -1)
    y = y + tf.convert_to_tensor(layer.bias) if layer.use_bias else y
    return y if layer.activation is None else layer.activation(y)


def bilinear(x, *sides: int):
    """Resize images [n, h, w, c] with half-pixel centres."""
    for axis, side in enumerate(sides, 1):
        size = x.shape[axis]
        at = np.clip((np.arange(side) + 0.5) * size / side - 0.5, 0, size - 1)
        below = np.minimum(at.astype(int), size - 1)
        weights = np.zeros((side, size))
        np.add.at(weights, (np.arange(side), below), 1 - (at - below))
        np.add.at(weights, (np.arange(side), np.minimum(below + 1, size - 1)), at - below)
        x = np.moveaxis(np.tensordot(weights, np.asarray(x, np.float64), (1, axis)), 0, axis)
    import tensorflow as tf

    return tf.constant(x)


def _gelu(x):
    import tensorflow as tf

    return 0.5 * x * (1 + tf.math.erf(x / tf.constant(2.0, x.dtype) ** 0.5))


def _leaky_relu(x):
    import tensorflow as tf

    return tf.where(x < 0, tf.constant(0.2, x.dtype) * x, x)


#: Activations whose constants TensorFlow rounds.
ACTIVATIONS = {"gelu": _gelu, "leaky_relu": _leaky_relu}


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
    """Return a model's outputs, those before a softmax or sigmoid at the end, and every layer's output in the order of computation.

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
            kind = type(layer).__name__
            if path in ends and kind in ("Activation", "Softmax"):
                observed.logits.append((path, np.asarray(args[0])))
            elif path in ends and getattr(activation, "__name__", "") in ("softmax", "sigmoid"):
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
