"""What ONNX's operators compute that work number by number; `nplrp.files.arithmetic` finds the activations that they make together."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.files.arithmetic import erf, sigmoid, softplus

#: Operators that work number by number -> (inputs, attributes) -> output.
OPERATORS: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = MappingProxyType(
    {
        "Abs": lambda x, _: np.abs(x[0]),
        "Add": lambda x, _: x[0] + x[1],
        "Clip": lambda x, o: np.clip(x[0], *_ends(x, o)),
        "Div": lambda x, _: x[0] / x[1],
        "Erf": lambda x, _: erf(x[0]),
        "Exp": lambda x, _: np.exp(x[0]),
        "Greater": lambda x, _: x[0] > x[1],
        "GreaterOrEqual": lambda x, _: x[0] >= x[1],
        "HardSigmoid": lambda x, o: np.clip(o.get("alpha", 0.2) * x[0] + o.get("beta", 0.5), 0, 1),
        "Less": lambda x, _: x[0] < x[1],
        "LessOrEqual": lambda x, _: x[0] <= x[1],
        "Log": lambda x, _: np.log(x[0]),
        "Max": lambda x, _: np.maximum(x[0], x[1]) if len(x) == 2 else x[0],
        "Min": lambda x, _: np.minimum(x[0], x[1]) if len(x) == 2 else x[0],
        "Mul": lambda x, _: x[0] * x[1],
        "Neg": lambda x, _: -x[0],
        "Pow": lambda x, _: x[0] ** x[1],
        "Reciprocal": lambda x, _: 1 / x[0],
        "Relu": lambda x, _: np.maximum(x[0], 0),
        "Sigmoid": lambda x, _: sigmoid(x[0]),
        "Softplus": lambda x, _: softplus(x[0]),
        "Sqrt": lambda x, _: np.sqrt(x[0]),
        "Sub": lambda x, _: x[0] - x[1],
        "Tanh": lambda x, _: np.tanh(x[0]),
        "Where": lambda x, _: np.where(x[0], x[1], x[2]),
    }
)


def _ends(x: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a Clip's ends, inputs since version 11, attributes before."""
    given = [*x[1:], None, None]
    low, high = options.get("min", given[0]), options.get("max", given[1])
    return (-np.inf if low is None else low), (np.inf if high is None else high)
