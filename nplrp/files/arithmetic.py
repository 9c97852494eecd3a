"""Which activation a few arithmetic steps are together: ``x * sigmoid(x)`` is SiLU, ``0.5 x (1 + erf(x / sqrt 2))`` is GELU.

Files hold activations in pieces, in many forms and orders: exporters wrote those so that ONNX had no operator for, Keras 2 those that were
called as functions. Their function is computed at some points and held against the activations that there are: whatever the form, equal
numbers are the same function.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.layers.activation_names import written

Function = Callable[[np.ndarray], np.ndarray]

#: Functions reach back over at most so many tensors.
DEPTH = 16
#: Where functions are compared; 0 is left out, where some of them are no numbers.
POINTS = (*np.linspace(-11.0, 11.0, 90), *np.geomspace(1e-4, 0.7, 12), *-np.geomspace(1e-4, 0.7, 12))
#: Constants in graphs are float32, and some are rounded to a few digits.
TOLERANCE = 2e-5
#: Parameters of functions are looked for among so many constants of theirs, in graphs with so many.
MOST_CONSTANTS, MOST_IN_GRAPH = 6, 32


def sigmoid(x: np.ndarray) -> np.ndarray:
    """Return 1 / (1 + exp(-x))."""
    return 1 / (1 + np.exp(-x))


def softplus(x: np.ndarray) -> np.ndarray:
    """Return log(1 + exp(x))."""
    return np.logaddexp(0.0, x)


def erf(x: np.ndarray) -> np.ndarray:
    """Return the error function."""
    found: np.ndarray = np.vectorize(math.erf, otypes=[float])(x)
    return found


def relu6(x: np.ndarray) -> np.ndarray:
    """Return x between 0 and 6."""
    return np.clip(x, 0.0, 6.0)


#: Our names of activations -> their functions.
ACTIVATIONS: Mapping[str, Function] = MappingProxyType(
    {
        "relu": lambda x: np.maximum(x, 0),
        "relu(max_value=6.0)": relu6,
        "sigmoid": sigmoid,
        "silu": lambda x: x * sigmoid(x),
        "hard_sigmoid": lambda x: relu6(x + 3) / 6,
        "hard_sigmoid_2": lambda x: np.clip(0.2 * x + 0.5, 0.0, 1.0),
        "hard_silu": lambda x: x * relu6(x + 3) / 6,
        "tanh": np.tanh,
        "softplus": softplus,
        "softsign": lambda x: x / (1 + np.abs(x)),
        "mish": lambda x: x * np.tanh(softplus(x)),
        "gelu": lambda x: 0.5 * x * (1 + erf(x / math.sqrt(2))),
        "gelu_tanh": lambda x: 0.5 * x * (1 + np.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x**3))),
        "log_sigmoid": lambda x: -softplus(-x),
    }
)


class Functions:
    """What every tensor is as a function of tensors before it, number by number: its values at some points.

    Parameters
    ----------
    constants : sequence of float
        Those of the graph, that functions are also compared beside: a ReLU's threshold or top may be any of them.
    """

    def __init__(self, constants: Sequence[float] = ()) -> None:
        self._beside = frozenset(constants if len(constants) <= MOST_IN_GRAPH else ())
        ends = np.array(sorted({abs(each) for each in self._beside} - {0.0}))
        beside = np.concatenate([ends * 0.999, ends * 1.001])
        far = 10 * np.max(ends, initial=11.0) * np.array([1.0, 2.0])
        self._points = np.concatenate([POINTS, beside, -beside, far, -far])
        self._values: dict[Hashable, dict[Hashable, np.ndarray]] = {}
        self._constants: dict[Hashable, set[float]] = {}
        with np.errstate(all="ignore"):
            self._activations = {name: function(self._points) for name, function in ACTIVATIONS.items()}

    def _known(self, name: Hashable) -> Mapping[Hashable, np.ndarray]:
        return self._values.get(name, {}) | {name: self._points}

    def follow(self, compute: Callable[..., Any], inputs: Sequence[Hashable | float | None], output: Hashable) -> bool:
        """Note down what a step computes from tensors (by name) and single numbers; return whether it is such a function."""
        names = [each for each in dict.fromkeys(inputs) if _is_name(each)]
        if not names:
            return False
        roots = [root for root in self._known(names[0]) if all(root in self._known(name) for name in names)]
        found: dict[Hashable, np.ndarray] = {}
        with np.errstate(all="ignore"):
            for root in roots[-DEPTH:]:
                found[root] = np.asarray(compute(*(self._known(each)[root] if _is_name(each) else each for each in inputs)), float)
        self._values[output] = found
        self._constants[output] = {each for each in inputs if isinstance(each, float)}.union(
            *(self._constants.get(name, ()) for name in names)
        )
        return bool(found)

    def activation(self, output: Hashable, direct: Sequence[Hashable | float | None]) -> tuple[Any, str] | None:
        """Return (the tensor, the activation) that a tensor is more than one step behind; None if there is none.

        Parameters
        ----------
        output : hashable
        direct : sequence
            The inputs of the step that gave it. One step alone on its only input needs no recognition.
        """
        single = {each for each in direct if _is_name(each)}
        with np.errstate(all="ignore"):
            for root, values in reversed(self._values.get(output, {}).items()):
                if single == {root} and sum(each == root for each in direct) == 1:
                    continue
                for name, wanted in (*self._activations.items(), *self._with_parameters(values, self._constants[output])):
                    if _same(values, wanted):
                        return root, name
        return None

    def _with_parameters(self, values: np.ndarray, constants: set[float]) -> Iterator[tuple[str, np.ndarray]]:
        """Yield activations whose parameters are among the constants that a function is made of."""
        if not 0 < len(constants) <= MOST_CONSTANTS or not constants <= self._beside:
            return
        x = self._points
        far_right, far_left = values[-4:-2], values[-2:]
        slope = _nearest(float(np.diff(far_left)[0] / np.diff(x[-2:])[0]), (0.0, *constants))
        top = _nearest(float(far_right[0]), constants) if far_right[0] == far_right[1] else math.inf
        for threshold in (0.0, *constants):
            line = np.where(x > threshold, x, slope * (x - threshold))
            yield _rectifier(slope, threshold, top), np.where(x > threshold, np.minimum(line, top), line)
        for alpha in constants:
            yield written("elu", alpha=alpha), np.where(x > 0, x, alpha * np.expm1(x))


def _rectifier(slope: float, threshold: float, top: float) -> str:
    if (threshold, top) == (0.0, math.inf):
        return written("leaky_relu", negative_slope=slope)
    return written("relu", max_value=top, negative_slope=slope, threshold=threshold)


def _nearest(value: float, values: Iterable[float]) -> float:
    return min(values, key=lambda each: abs(each - value))


def _is_name(value: Any) -> bool:
    return value is not None and not isinstance(value, float)


def _same(values: np.ndarray, wanted: np.ndarray) -> bool:
    """Tell whether two functions are the same, but for where one of them overflows far out."""
    if not abs(values[0] - wanted[0]) <= 0.1:  # soon, for most
        return False
    seen, near = np.isfinite(values) & np.isfinite(wanted), len(POINTS)
    return bool(seen[:near].all() and np.allclose(values[seen], wanted[seen], rtol=TOLERANCE, atol=TOLERANCE))
