"""Which activation a few arithmetic nodes are together: ``x * sigmoid(x)`` is SiLU, ``0.5 x (1 + erf(x / sqrt 2))`` is GELU.

Exporters write activations that ONNX had no operator for in many forms and orders. Their function is computed at some points and held
against the activations that there are: whatever the form, equal numbers are the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

Function = Callable[[np.ndarray], np.ndarray]

#: Functions reach back over at most so many tensors.
DEPTH = 16
#: Where functions are compared; 0 is left out, where some of them are no numbers.
POINTS = np.concatenate([np.linspace(-11.0, 11.0, 90), np.linspace(-0.7, 0.7, 12)])
#: Constants in graphs are float32, and some are rounded to a few digits.
TOLERANCE = 2e-5

_erf = np.vectorize(math.erf, otypes=[float])


def _sigmoid(x: np.ndarray) -> np.ndarray:
    return 1 / (1 + np.exp(-x))


def _softplus(x: np.ndarray) -> np.ndarray:
    return np.logaddexp(0.0, x)


def _relu6(x: np.ndarray) -> np.ndarray:
    return np.clip(x, 0.0, 6.0)


#: Our names of activations -> their functions.
ACTIVATIONS: Mapping[str, Function] = MappingProxyType(
    {
        "relu": lambda x: np.maximum(x, 0),
        "relu(max_value=6.0)": _relu6,
        "sigmoid": _sigmoid,
        "silu": lambda x: x * _sigmoid(x),
        "hard_sigmoid": lambda x: _relu6(x + 3) / 6,
        "hard_silu": lambda x: x * _relu6(x + 3) / 6,
        "tanh": np.tanh,
        "softplus": _softplus,
        "softsign": lambda x: x / (1 + np.abs(x)),
        "mish": lambda x: x * np.tanh(_softplus(x)),
        "gelu": lambda x: 0.5 * x * (1 + _erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "log_sigmoid": lambda x: -_softplus(-x),
    }
)

#: Operators that work number by number -> (inputs, attributes) -> output.
OPERATORS: Mapping[str, Callable[[Sequence[Any], Mapping[str, Any]], Any]] = MappingProxyType(
    {
        "Abs": lambda x, _: np.abs(x[0]),
        "Add": lambda x, _: x[0] + x[1],
        "Clip": lambda x, o: np.clip(x[0], *_ends(x, o)),
        "Div": lambda x, _: x[0] / x[1],
        "Erf": lambda x, _: _erf(x[0]),
        "Exp": lambda x, _: np.exp(x[0]),
        "HardSigmoid": lambda x, o: np.clip(o.get("alpha", 0.2) * x[0] + o.get("beta", 0.5), 0, 1),
        "Log": lambda x, _: np.log(x[0]),
        "Max": lambda x, _: np.maximum(x[0], x[1]) if len(x) == 2 else x[0],
        "Min": lambda x, _: np.minimum(x[0], x[1]) if len(x) == 2 else x[0],
        "Mul": lambda x, _: x[0] * x[1],
        "Neg": lambda x, _: -x[0],
        "Pow": lambda x, _: x[0] ** x[1],
        "Reciprocal": lambda x, _: 1 / x[0],
        "Relu": lambda x, _: np.maximum(x[0], 0),
        "Sigmoid": lambda x, _: _sigmoid(x[0]),
        "Softplus": lambda x, _: _softplus(x[0]),
        "Sqrt": lambda x, _: np.sqrt(x[0]),
        "Sub": lambda x, _: x[0] - x[1],
        "Tanh": lambda x, _: np.tanh(x[0]),
    }
)


def _ends(x: Sequence[Any], options: Mapping[str, Any]) -> tuple[Any, Any]:
    """Return a Clip's ends, inputs since version 11, attributes before."""
    given = [*x[1:], None, None]
    low, high = options.get("min", given[0]), options.get("max", given[1])
    return (-np.inf if low is None else low), (np.inf if high is None else high)


class Functions:
    """What every tensor is as a function of tensors before it, number by number: its values at `POINTS`."""

    def __init__(self) -> None:
        self._values: dict[str, dict[str, np.ndarray]] = {}

    def _known(self, name: str) -> Mapping[str, np.ndarray]:
        return self._values.get(name, {}) | {name: POINTS}

    def follow(self, operator: str, inputs: Sequence[str | float | None], options: Mapping[str, Any], output: str) -> bool:
        """Note down what a node computes from tensors (by name) and single numbers; return whether it is such a function."""
        names = list(dict.fromkeys(each for each in inputs if isinstance(each, str)))
        if operator not in OPERATORS or not names:
            return False
        roots = [root for root in self._known(names[0]) if all(root in self._known(name) for name in names)]
        found: dict[str, np.ndarray] = {}
        with np.errstate(all="ignore"):
            for root in roots[-DEPTH:]:
                found[root] = OPERATORS[operator]([self._known(each)[root] if isinstance(each, str) else each for each in inputs], options)
        self._values[output] = found
        return bool(found)

    def activation(self, output: str, direct: Sequence[str | float | None]) -> tuple[str, str] | None:
        """Return (the tensor, the activation) that a tensor is more than one node behind; None if there is none.

        Parameters
        ----------
        output : str
        direct : sequence
            The inputs of the node that gave it. One node alone on its only input needs no recognition.
        """
        single = {each for each in direct if isinstance(each, str)}
        for root, values in reversed(self._values.get(output, {}).items()):
            if single == {root} and sum(each == root for each in direct) == 1:
                continue
            for name, function in ACTIVATIONS.items():
                with np.errstate(all="ignore"):
                    wanted = function(POINTS)
                if np.allclose(values, wanted, rtol=TOLERANCE, atol=TOLERANCE):
                    return root, name
        return None
