"""Layer norms that exporters have taken apart: before opset 17 ONNX has no operator for them, and PyTorch writes seven."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np


def with_norms(nodes: Sequence[Any], constants: Mapping[str, np.ndarray]) -> list[Any]:
    """Return a graph's nodes with one LayerNormalization where (x - mean) / sqrt(variance + epsilon) ends, perhaps times gamma plus beta.

    It has an attribute of ours, `axes`, since people normalise the channels of images too. Whatever else reads what lies between still
    finds it.

    Parameters
    ----------
    nodes : sequence of NodeProto
    constants : mapping of str to ndarray
        The graph's initializers.
    """
    from onnx import helper

    found = _Finder(nodes, constants)
    done: dict[str, tuple[str, tuple[int, ...], float, list[str]]] = {}  # a norm's output -> its input, axes, epsilon, gamma and beta
    result = []
    for node in nodes:
        norm = found.norm(node) if node.op_type == "Div" else None
        if norm is not None:
            done[node.output[0]] = (*norm, [])
        for name, other in (tuple(node.input), tuple(node.input)[::-1]) if node.op_type in ("Mul", "Add") and len(node.input) == 2 else ():
            wanted = 0 if node.op_type == "Mul" else 1
            if name in done and other in found.constants and len(done[name][3]) in {0, wanted}:
                x, axes, epsilon, arrays = done[name]
                if sum(side > 1 for side in found.constants[other].shape) > len(axes):
                    continue  # of every place, such as an embedding of positions
                done[node.output[0]] = x, axes, epsilon, [*(arrays or [""] * wanted), other]
        if node.output and node.output[0] in done:
            x, axes, epsilon, arrays = done[node.output[0]]
            made = [x, *(arrays or [""])], [node.output[0]], node.name
            result.append(helper.make_node("LayerNormalization", *made, axes=axes, epsilon=epsilon))
        else:
            result.append(node)
    return result


class _Finder:
    """What stands where in a graph."""

    def __init__(self, nodes: Sequence[Any], constants: Mapping[str, np.ndarray]) -> None:
        from onnx import numpy_helper

        self.constants = dict(constants)
        for node in nodes:
            value = next((each.t for each in node.attribute if each.name == "value"), None) if node.op_type == "Constant" else None
            if value is not None and not value.data_location:
                self.constants[node.output[0]] = numpy_helper.to_array(value)
        self._makers = {name: node for node in nodes for name in node.output if name}

    def norm(self, node: Any) -> tuple[str, tuple[int, ...], float] | None:
        """Return the input, axes and epsilon of a norm that a division ends, or None if it ends none."""
        root = self._made(node.input[1], "Sqrt")
        sum_ = self._made(root.input[0], "Add") if root is not None else None
        if sum_ is None:
            return None
        epsilon = next((self._number(name) for name in sum_.input if name in self.constants), None)
        variance = next((name for name in sum_.input if name not in self.constants), "")
        mean_of_squares = self._made(variance, "ReduceMean")
        squares = None if mean_of_squares is None else self._made(mean_of_squares.input[0], "Pow", "Mul")
        if epsilon is None or mean_of_squares is None or squares is None:
            return None
        same = squares.input[0] == squares.input[1] if squares.op_type == "Mul" else self._number(squares.input[1]) == 2
        left, right = self._centred(node.input[0]), self._centred(squares.input[0])
        axes = self._axes(mean_of_squares)
        if not same or left is None or left != right or axes is None or left[1] != axes:
            return None
        return left[0], axes, epsilon

    def _made(self, name: str, *kinds: str) -> Any:
        """Return the node that gives a tensor, seen through changes among floats, if it is of some kind."""
        node = self._makers.get(name)
        while node is not None and node.op_type in ("Cast", "Identity"):
            node = self._makers.get(node.input[0])
        return node if node is not None and node.op_type in kinds else None

    def _centred(self, name: str) -> tuple[str, tuple[int, ...]] | None:
        """Return x and the axes of a tensor that is x - mean(x)."""
        node = self._made(name, "Sub")
        mean = None if node is None else self._made(node.input[1], "ReduceMean")
        axes = None if mean is None else self._axes(mean)
        return (str(node.input[0]), axes) if mean is not None and axes is not None and mean.input[0] == node.input[0] else None

    def _axes(self, node: Any) -> tuple[int, ...] | None:
        """Return the axes of a mean that keeps them."""
        attributes = {each.name: each for each in node.attribute}
        if "keepdims" in attributes and not attributes["keepdims"].i:
            return None
        given = attributes["axes"].ints if "axes" in attributes else self.constants.get(node.input[1]) if len(node.input) > 1 else None
        return None if given is None else tuple(int(axis) for axis in given)

    def _number(self, name: str) -> float | None:
        array = self.constants.get(name)
        return float(array.item()) if array is not None and array.size == 1 else None
