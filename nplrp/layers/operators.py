"""Readers of what joins tensors, and of arithmetic with constants: ``h + conv(h)``, ``x / 127.5 - 1``, as layers or functions."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.layers.activation_names import clipped
from nplrp.layers.config import Call, Reader, Tensor, items
from nplrp.layers.scale import scaled

#: What the second operand is called where it isn't given by place.
_NAMES = ("x", "x1", "inputs", "y", "x2", "bias", "value")


def _operands(call: Call) -> list[Any]:
    """Return tensors and constants in order; at least two.

    Raises
    ------
    ValueError
        If there are fewer, or an operation would have to bring tensors of different ranks together, which TensorFlow does another way.
    """
    found = call.operands(*_NAMES)
    if len(found) < 2:
        raise ValueError(f"it has {len(found)} input, expected 2 or more; leave the layer out and save the model again")
    tensors = [each for each in found if isinstance(each, Tensor)]
    merges = len(call.arguments) == 1 and bool(items(call.arguments[0]))
    if not tensors or (len({len(each.axes) for each in tensors}) > 1 and not merges):
        shapes = ", ".join(str(each.keras_shape) for each in tensors)
        raise ValueError(f"its inputs have shapes {shapes}, expected as many axes in each; give them axes of size 1 by a Reshape")
    return found


def _joined(call: Call, kind: str, tensors: Sequence[Tensor]) -> Tensor:
    return call.add(kind, *call.alike(tensors))


def _split(found: Sequence[Any]) -> tuple[list[Tensor], list[np.ndarray]]:
    """Part tensors and constants."""
    return [each for each in found if isinstance(each, Tensor)], [each for each in found if not isinstance(each, Tensor)]


def add(call: Call) -> Tensor:
    """Read a sum."""
    tensors, constants = _split(_operands(call))
    if not constants:
        return _joined(call, "add", tensors)
    x = tensors[0] if len(tensors) == 1 else call.add("add", *call.alike(tensors), part="add")
    return scaled(call, x, None, _folded(constants, np.add))


def multiply(call: Call) -> Tensor:
    """Read a product."""
    tensors, constants = _split(_operands(call))
    if not constants:
        return _joined(call, "multiply", tensors)
    x = tensors[0] if len(tensors) == 1 else call.add("multiply", *call.alike(tensors), part="multiply")
    return scaled(call, x, _folded(constants, np.multiply))


def _folded(constants: Sequence[np.ndarray], function: Callable[..., Any]) -> np.ndarray:
    found = constants[0]
    for each in constants[1:]:
        found = np.asarray(function(found, each))
    return found


def subtract(call: Call) -> Tensor:
    """Read a difference."""
    first, second = _two(call)
    if isinstance(first, Tensor) and isinstance(second, Tensor):
        return _joined(call, "subtract", [first, second])
    if isinstance(first, Tensor):
        return scaled(call, first, None, -second)
    return scaled(call, second, np.float64(-1.0) * np.ones(()), first)


def divide(call: Call) -> Tensor:
    """Read a quotient by a constant."""
    first, second = _two(call)
    if not isinstance(first, Tensor) or isinstance(second, Tensor):
        raise ValueError("it divides by what a layer gives, which isn't supported, only by constants")
    if not np.all(second):
        raise ValueError("it divides by 0")
    return scaled(call, first, 1 / second)


def _two(call: Call) -> tuple[Any, Any]:
    found = _operands(call)
    if len(found) != 2:
        raise ValueError(f"it has {len(found)} inputs, expected 2")
    return found[0], found[1]


def negative(call: Call) -> Tensor:
    """Read -x."""
    return scaled(call, call.tensor, np.float64(-1.0) * np.ones(()))


def _bound(kind: str, end: str) -> Reader:
    """Return the reader of the larger or smaller of several tensors, or of one and a number."""

    def read(call: Call) -> Tensor:
        tensors, constants = _split(_operands(call))
        if not constants:
            return _joined(call, kind, tensors)
        if len(tensors) > 1 or any(each.size != 1 for each in constants):
            raise ValueError("only several tensors, or one tensor and a number, are supported")
        ends = {"low": -np.inf, "high": np.inf, end: float(_folded(constants, getattr(np, kind)).reshape(-1)[0])}
        return call.add("activation", tensors[0], activation=clipped(**ends))

    return read


def average(call: Call) -> Tensor:
    """Read the mean of several tensors."""
    if "axis" in call.options:
        raise ValueError("the operation keras.ops.average isn't supported; use keras.ops.mean, or the layer Average")
    tensors, constants = _split(_operands(call))
    if constants:
        raise ValueError("its inputs must all be what layers give")
    return _joined(call, "average", tensors)


def scaled_sum(call: Call) -> Tensor:
    """Read InceptionResNetV2's x[0] + scale x[1]."""
    first, second = _two(call)
    if not isinstance(first, Tensor) or not isinstance(second, Tensor):
        raise ValueError("its inputs must both be what layers give")
    small = scaled(call, second, np.asarray(call.number("scale")), part="scale")
    return _joined(call, "add", [first, small])


_maximum, _minimum = _bound("maximum", "low"), _bound("minimum", "high")

ADD: Mapping[str, Reader] = MappingProxyType(
    {
        **dict.fromkeys(
            ("Add", "tf.__operators__.add", "tf.math.add", "tf.math.add_n", "tf.nn.bias_add", "op.AddV2", "op.Add", "op.BiasAdd"), add
        ),
        "CustomScaleLayer": scaled_sum,
    }
)
SUBTRACT: Mapping[str, Reader] = MappingProxyType(dict.fromkeys(("Subtract", "tf.math.subtract", "op.Sub"), subtract))
MULTIPLY: Mapping[str, Reader] = MappingProxyType(
    {
        **dict.fromkeys(("Multiply", "tf.math.multiply", "op.Mul"), multiply),
        **dict.fromkeys(("Divide", "TrueDivide", "tf.math.divide", "tf.math.divide_no_nan", "tf.math.truediv", "op.RealDiv"), divide),
        **dict.fromkeys(("Negative", "tf.math.negative", "op.Neg"), negative),
    }
)
MAXIMUM: Mapping[str, Reader] = MappingProxyType(dict.fromkeys(("Maximum", "tf.math.maximum", "op.Maximum"), _maximum))
MINIMUM: Mapping[str, Reader] = MappingProxyType(dict.fromkeys(("Minimum", "tf.math.minimum", "op.Minimum"), _minimum))
AVERAGE: Mapping[str, Reader] = MappingProxyType({"Average": average})
