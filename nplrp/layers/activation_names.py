"""Keras's activations by every name that they go by, and their parameters -> ours, written as calls: ``relu(max_value=6.0)``.

A parameter that has its usual value isn't written, so that equal functions have equal names.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from types import MappingProxyType
from typing import Any

from nplrp.errors import RuleError, brief, nearest
from nplrp.layers.config import Call, Options, Reader, Tensor, constant
from nplrp.layers.shapes import cut
from nplrp.rules.rule import parse_call

#: Our names -> their parameters' usual values.
PARAMETERS: Mapping[str, Mapping[str, float]] = MappingProxyType(
    {
        **{
            name: {}
            for name in (
                "linear",
                "softmax",
                "log_softmax",
                "sparsemax",
                "softplus",
                "softsign",
                "tanh",
                "sigmoid",
                "hard_sigmoid",
                "hard_sigmoid_2",
                "sparse_sigmoid",
                "tanh_shrink",
                "sparse_plus",
                "silu",
                "hard_silu",
                "gelu",
                "gelu_tanh",
                "mish",
                "exponential",
                "log_sigmoid",
                "erf",
            )
        },
        "relu": {"max_value": math.inf, "negative_slope": 0.0, "threshold": 0.0},
        "leaky_relu": {"negative_slope": 0.2},
        "elu": {"alpha": 1.0},
        "selu": {"alpha": 1.6732632423543772, "scale": 1.0507009873554805},
        "clipped_line": {"slope": 0.2, "offset": 0.5},
        "celu": {"alpha": 1.0},
        "hard_tanh": {"low": -1.0, "high": 1.0},
        "hard_shrink": {"threshold": 0.5},
        "soft_shrink": {"threshold": 0.5},
        "threshold": {"threshold": 1.0, "value": 0.0},
        "squareplus": {"b": 4.0},
    }
)
#: Keras's and TensorFlow's other names.
ALIASES: Mapping[str, str] = MappingProxyType(
    {
        "exp": "exponential",
        "hard_swish": "hard_silu",
        "log_softmax_v2": "log_softmax",
        "relu6": "relu(max_value=6.0)",
        "softmax_v2": "softmax",
        "swish": "silu",
        "swish_v2": "silu",
    }
)
#: Names that Keras doesn't have.
_OURS = ("hard_sigmoid_2", "clipped_line", "erf")
#: In front of names that Keras has registered itself.
_PACKAGES = ("keras", "keras.activations", "keras.src.activations", "tf_keras", "builtins")


def written(name: str, **parameters: float) -> str:
    """Return one of our names with the parameters that aren't the usual ones."""
    usual = PARAMETERS[name]
    given = ", ".join(f"{key}={parameters[key]!r}" for key in usual if key in parameters and parameters[key] != usual[key])
    return f"{name}({given})" if given else name


def clipped(low: float, high: float) -> str:
    """Return the activation that clips; from 0 on it is a ReLU, with a top."""
    return written("relu", max_value=high) if low == 0 and high > 0 else written("hard_tanh", low=low, high=high)


def read_activation(call: Call) -> str:
    """Return the activation of a layer that has one as an option."""
    return named(call.get("activation"), call.dialect)


def named(value: Any, dialect: int) -> str:
    """Return our name of an activation that is written as a name, a serialised function or a layer; None is linear.

    Raises
    ------
    ValueError
        If there is no such activation.
    """
    given = value
    if isinstance(value, dict):
        inner, class_name = value.get("config"), value.get("class_name")
        if isinstance(class_name, str) and class_name in _OF_LAYERS and isinstance(inner, dict):
            found, axis = _OF_LAYERS[class_name](inner, dialect)
            if axis not in (-1, [-1]):
                raise ValueError(
                    f"activation {class_name} with axis={brief(axis)} isn't supported as an option; make it a layer of its own"
                )
            return found
        package = str(value.get("registered_name") or "").rpartition(">")[0]
        value = inner if isinstance(inner, str) and package in ("", *_PACKAGES) else package or class_name
        if value in (None, "__lambda__"):  # the bytes of a lambda: whatever it computes, it isn't nothing
            raise ValueError(
                "its activation is a lambda, Python code that isn't run; use one of Keras's own, or put layers or arithmetic in its place"
            )
    value = "linear" if value is None else value
    if not isinstance(value, str):
        raise ValueError(f"activation {brief(given)} isn't supported; expected the name of one of Keras's own")
    if value.endswith(")"):
        return _called(value)
    package, _, name = value.rpartition(">")
    name = ALIASES.get(name, name)
    if name == "hard_sigmoid" and dialect == 2:  # Keras 3 has another one: max(min(x / 6 + 0.5, 1), 0)
        return "hard_sigmoid_2"
    if package in ("", *_PACKAGES) and (name in PARAMETERS or name in ALIASES.values()):
        return name
    what = brief(given)
    if "PReLU" in what:
        hint = "make it a PReLU layer behind this one"
    elif value == "glu":
        hint = "it halves the channels; use keras.ops.glu behind the layer"
    else:
        hint = f"replace it by one of Keras's own: {nearest(value, {*PARAMETERS, *ALIASES} - set(_OURS), 'docs/layers.md lists them')}"
    raise ValueError(f"activation {brief(value)} isn't supported; {hint}")


def _called(text: str) -> str:
    """Return an activation that is written in our own words, with its parameters."""
    try:
        name, given = parse_call(text, "an activation")
        if not all(isinstance(value, int | float) for value in given.values()) or not set(given) <= set(PARAMETERS[name]):
            raise ValueError
    except (RuleError, KeyError, ValueError):
        raise ValueError(f"activation {text!r} isn't one of ours with its parameters, as in 'relu(max_value=6.0)'") from None
    return written(name, **given)


def _number(options: Options, *keys: str, none: float = math.nan) -> float:
    key = next((key for key in keys if key in options), None)
    if key is None:
        raise ValueError(f"its configuration has no {keys[0]!r}; it is damaged: save the model again")
    found = none if options[key] is None else constant(options[key])
    if not isinstance(found, float) and found.size != 1:
        raise ValueError(f"{key} is {brief(options[key])}, expected a number")
    number = found if isinstance(found, float) else float(found.reshape(-1)[0])
    if math.isnan(number):
        raise ValueError(f"{key} is {brief(options[key])}, expected a number")
    return number


def _relu(options: Options, dialect: int) -> tuple[str, Any]:
    parameters = {
        "max_value": _number(options, "max_value", none=math.inf),
        "negative_slope": _number(options, "negative_slope", none=0.0),
        "threshold": _number(options, "threshold", none=0.0),
    }
    return written("relu", **parameters), -1


def _softmax(options: Options, dialect: int) -> tuple[str, Any]:
    if "axis" not in options:
        raise ValueError("its configuration has no 'axis'; it is damaged: save the model again")
    return "softmax", options["axis"]


#: Layers that are activations -> (their options, the dialect) -> (our name, the axis).
_OF_LAYERS: Mapping[str, Any] = MappingProxyType(
    {
        "ELU": lambda options, _: (written("elu", alpha=_number(options, "alpha")), -1),
        "LeakyReLU": lambda options, _: (written("leaky_relu", negative_slope=_number(options, "negative_slope", "alpha")), -1),
        "ReLU": _relu,
        "Softmax": _softmax,
        "ThresholdedReLU": lambda options, _: (written("relu", threshold=_number(options, "theta")), -1),
    }
)


def _layer(call: Call) -> Tensor:
    found, axis = _OF_LAYERS[call.class_name](call.options, call.dialect)
    return call.activate(call.tensor, found, axis) if found == "softmax" else call.add("activation", call.tensor, activation=found)


def _activation(call: Call) -> Tensor:
    return call.add("activation", call.tensor, activation=read_activation(call))


def _operation(name: str, **keys: str) -> Reader:
    """Read an operation; `keys` are our parameters' names -> theirs, where they may be given."""

    def read(call: Call) -> Tensor:
        given = {**call.keywords, **call.options}
        if call.class_name.startswith("tf."):
            _check_known(call, keys.values())
        parameters = {ours: _number(given, theirs) for ours, theirs in keys.items() if given.get(theirs) is not None}
        found = ALIASES.get(name, name)
        return call.add("activation", call.tensor, activation=written(found, **parameters) if parameters else found)

    return read


def _check_known(call: Call, names: Collection[str]) -> None:
    """See that a function of TensorFlow isn't called with more than is read, as `silu` may be with a beta."""
    usual = {"name": None, "beta": 1.0}
    for key, value in call.keywords.items():
        if key not in names and value is not None and not isinstance(value, Tensor) and value != usual.get(key):
            what = f"{call.class_name} is called with {key}={brief(value)}"
            raise ValueError(f"{what}, which isn't supported; leave it out, or say the same by other functions")


def _along(name: str) -> Reader:
    def read(call: Call) -> Tensor:
        axis = {**call.keywords, **call.options}.get("axis")
        return call.activate(call.tensor, name, -1 if axis is None else axis)

    return read


def _gelu(usual: bool) -> Reader:
    def read(call: Call) -> Tensor:
        approximate = {"approximate": usual, **call.keywords, **call.options}["approximate"]
        if not isinstance(approximate, bool):
            raise ValueError(f"approximate is {approximate!r}, expected true or false")
        return call.add("activation", call.tensor, activation="gelu_tanh" if approximate else "gelu")

    return read


def _glu(call: Call) -> Tensor:
    """Read a gate of its own: the first half of the channels times the sigmoid of the second."""
    x, axis = call.tensor, {"axis": -1, **call.keywords, **call.options}["axis"]
    (along,) = call.axes(-1 if axis is None else axis, len(x.axes))
    size = x.keras_shape[along]
    if size % 2:
        raise ValueError(f"it halves {size} places along axis={brief(axis)}, expected an even number")
    signal = cut(call, x, along, range(size // 2), "signal")
    gate = call.add("activation", cut(call, x, along, range(size // 2, size), "gate"), activation="sigmoid", part="open")
    return call.add("multiply", signal, gate, options={"signal": 0})


def _clip(low: str, high: str) -> Reader:
    def read(call: Call) -> Tensor:
        given = {**call.keywords, **call.options}
        ends = {low: None, high: None} | dict(zip((low, high), call.arguments[1:], strict=False)) | given
        lowest, highest = _number(ends, low, none=-math.inf), _number(ends, high, none=math.inf)
        if lowest > highest:
            raise ValueError(f"it clips to between {lowest:g} and {highest:g}")
        return call.add("activation", call.tensor, activation=clipped(lowest, highest))

    return read


#: Keras's classes of layers and operations, and TensorFlow's functions, that are activations.
READERS: Mapping[str, Reader] = MappingProxyType(
    {
        "Activation": _activation,
        **dict.fromkeys(_OF_LAYERS, _layer),
        # operations of Keras 3
        "Celu": _operation("celu", alpha="alpha"),
        "Clip": _clip("x_min", "x_max"),
        "Elu": _operation("elu", alpha="alpha"),
        "Erf": _operation("erf"),
        "Exp": _operation("exponential"),
        "Gelu": _gelu(True),
        "Glu": _glu,
        "HardShrink": _operation("hard_shrink", threshold="threshold"),
        "HardSigmoid": _operation("hard_sigmoid"),
        "HardSilu": _operation("hard_silu"),
        "HardTanh": _operation("hard_tanh"),
        "LeakyRelu": _operation("leaky_relu", negative_slope="negative_slope"),
        "LogSigmoid": _operation("log_sigmoid"),
        "LogSoftmax": _along("log_softmax"),
        "Mish": _operation("mish"),
        "Relu": _operation("relu"),
        "Relu6": _operation("relu6"),
        "Selu": _operation("selu"),
        "Sigmoid": _operation("sigmoid"),
        "Silu": _operation("silu"),
        "SoftShrink": _operation("soft_shrink", threshold="threshold"),
        "Softplus": _operation("softplus"),
        "Softsign": _operation("softsign"),
        "SparsePlus": _operation("sparse_plus"),
        "SparseSigmoid": _operation("sparse_sigmoid"),
        "Sparsemax": _along("sparsemax"),
        "Squareplus": _operation("squareplus", b="b"),
        "Tanh": _operation("tanh"),
        "TanhShrink": _operation("tanh_shrink"),
        "Threshold": _operation("threshold", threshold="threshold", value="default_value"),
        # functions of TensorFlow
        "tf.clip_by_value": _clip("clip_value_min", "clip_value_max"),
        "tf.math.erf": _operation("erf"),
        "tf.math.exp": _operation("exponential"),
        "tf.math.log_sigmoid": _operation("log_sigmoid"),
        "tf.math.sigmoid": _operation("sigmoid"),
        "tf.math.softplus": _operation("softplus"),
        "tf.math.tanh": _operation("tanh"),
        "tf.nn.elu": _operation("elu"),
        "tf.nn.gelu": _gelu(False),
        "tf.nn.leaky_relu": _operation("leaky_relu", negative_slope="alpha"),
        "tf.nn.log_softmax": _along("log_softmax"),
        "tf.nn.relu": _operation("relu"),
        "tf.nn.relu6": _operation("relu6"),
        "tf.nn.selu": _operation("selu"),
        "tf.nn.sigmoid": _operation("sigmoid"),
        "tf.nn.silu": _operation("silu"),
        "tf.nn.softmax": _along("softmax"),
        "tf.nn.softplus": _operation("softplus"),
        "tf.nn.softsign": _operation("softsign"),
        "tf.nn.swish": _operation("silu"),
        "tf.nn.tanh": _operation("tanh"),
        # nodes of TensorFlow's graphs, as TensorFlow 2.0 to 2.3 wrote them
        "op.Elu": _operation("elu"),
        "op.Exp": _operation("exponential"),
        "op.Relu": _operation("relu"),
        "op.Relu6": _operation("relu6"),
        "op.Selu": _operation("selu"),
        "op.Sigmoid": _operation("sigmoid"),
        "op.Softmax": _along("softmax"),
        "op.Softplus": _operation("softplus"),
        "op.Softsign": _operation("softsign"),
        "op.Tanh": _operation("tanh"),
    }
)
