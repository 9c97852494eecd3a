"""Activations that Keras 2 saved as several calls of TensorFlow: ``activations.relu(x, alpha=0.1, max_value=2)`` is six of them."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.files.arithmetic import Functions, erf, relu6, sigmoid, softplus

if TYPE_CHECKING:
    from nplrp.files.keras_config import Entry, Node

#: Layers that are calls of TensorFlow; none has weights.
CALLS = ("TFOpLambda", "SlicingOpLambda", "TensorFlowOpLayer")

#: Functions of TensorFlow -> (their arguments behind the first, with what those are that may be left out; what they compute).
_ONE: Mapping[str, float | None] = MappingProxyType({})
_TWO: Mapping[str, float | None] = MappingProxyType({"y": None})
FUNCTIONS: Mapping[str, tuple[Mapping[str, float | None], Callable[..., Any]]] = MappingProxyType(
    {
        "__operators__.add": (_TWO, np.add),
        "cast": (_ONE, np.positive),
        "clip_by_value": ({"clip_value_min": None, "clip_value_max": None}, np.clip),
        "math.abs": (_ONE, np.abs),
        "math.add": (_TWO, np.add),
        "math.divide": (_TWO, np.divide),
        "math.erf": (_ONE, erf),
        "math.exp": (_ONE, np.exp),
        "math.greater": (_TWO, np.greater),
        "math.greater_equal": (_TWO, np.greater_equal),
        "math.less": (_TWO, np.less),
        "math.less_equal": (_TWO, np.less_equal),
        "math.log": (_ONE, np.log),
        "math.maximum": (_TWO, np.maximum),
        "math.minimum": (_TWO, np.minimum),
        "math.multiply": (_TWO, np.multiply),
        "math.negative": (_ONE, np.negative),
        "math.pow": (_TWO, np.power),
        "math.sigmoid": (_ONE, sigmoid),
        "math.softplus": (_ONE, softplus),
        "math.sqrt": (_ONE, np.sqrt),
        "math.square": (_ONE, np.square),
        "math.subtract": (_TWO, np.subtract),
        "math.tanh": (_ONE, np.tanh),
        "math.truediv": (_TWO, np.divide),
        "nn.elu": (_ONE, lambda x: np.where(x > 0, x, np.expm1(x))),
        "nn.leaky_relu": ({"alpha": 0.2}, lambda x, alpha: np.where(x > 0, x, alpha * x)),
        "nn.relu": (_ONE, lambda x: np.maximum(x, 0)),
        "nn.relu6": (_ONE, relu6),
        "nn.silu": ({"beta": 1.0}, lambda x, beta: x * sigmoid(beta * x)),
        "where": ({"x": None, "y": None}, np.where),
    }
)


def put_together(entries: Sequence[Entry]) -> None:
    """Let calls that are, with those before them, an activation of some tensor read that tensor, as a layer that is this activation.

    The calls between them stay, for whoever else reads them.
    """
    calls = {entry.name: call for entry in entries if (call := _call(entry)) is not None}
    functions = Functions(sorted({each for _, operands in calls.values() for each in operands if isinstance(each, float)}))
    for entry in entries:
        if entry.name not in calls:
            continue
        (node,), (function, operands) = entry.nodes, calls[entry.name]
        output = dataclasses.replace(node.refs[0], name=entry.name, node=0, output=0)
        found = functions.activation(output, operands) if functions.follow(function, operands, output) else None
        if found is not None:
            root, activation = found
            entry.class_name = "Activation"
            entry.options = {"activation": activation if activation.endswith(")") else f"{activation}()"}  # our word, not Keras 2's
            entry.nodes = [dataclasses.replace(node, arguments=[root], keywords={})]


def _call(entry: Entry) -> tuple[Callable[..., Any], list[Any]] | None:
    """Return what a layer computes number by number, and from which tensors and numbers; None if it is something else."""
    options = entry.options
    row = FUNCTIONS.get(str(options.get("function"))) if entry.class_name in CALLS and isinstance(options, dict) else None
    if row is None or len(entry.nodes) != 1 or len(entry.nodes[0].arguments) != 1:
        return None
    (node,), (more, function) = entry.nodes, row
    given = {key: value for key, value in node.keywords.items() if key != "name" and value is not None}
    whole_numbers = not str(given.pop("dtype", "float32")).startswith("float")
    if whole_numbers or not given.keys() <= more.keys():
        return None
    operands = [_operand(value, node) for value in (node.arguments[0], *({**more, **given}[key] for key in more))]
    return None if None in operands else (function, operands)


def _operand(value: Any, node: Node) -> Any:
    """Return a tensor's reference, or a number as float; None if it is neither."""
    if value in node.refs:
        return value
    known = isinstance(value, int | float) and not isinstance(value, bool) and abs(value) < 1e30 and math.isfinite(value)
    return float(str(np.float32(value))) if known else None  # 0.1 is meant by 0.10000000149, a float32
