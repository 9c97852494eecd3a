"""The state of a walk through an ONNX graph: which tensors are known, how they lie, and what has been put down for them."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from nplrp.errors import WeightsError
from nplrp.layers.config import with_last
from nplrp.model import Shape
from weights_tools.graph import Graph

#: What a layer is called whose node has no name of its own: Keras's defaults.
NAMES: Mapping[str, str] = {
    "conv": "conv2d",
    "depthwise": "depthwise_conv2d",
    "conv_transpose": "conv2d_transpose",
    "maxpool": "max_pooling2d",
    "avgpool": "average_pooling2d",
    "global_maxpool": "global_max_pooling2d",
    "global_avgpool": "global_average_pooling2d",
    "affine": "batch_normalization",
    "batchnorm": "batch_normalization",
    "pad": "zero_padding2d",
    "crop": "cropping2d",
    "upsample": "up_sampling2d",
    "resize": "resizing",
    "layernorm": "layer_normalization",
    "groupnorm": "group_normalization",
    "prelu": "p_re_lu",
}
#: Operators that need their image's rows and columns, in the graph's order (N, C, H, W).
IMAGE_OPERATORS = (
    "Conv",
    "ConvTranspose",
    "MaxPool",
    "AveragePool",
    "GlobalAveragePool",
    "GlobalMaxPool",
    "BatchNormalization",
    "InstanceNormalization",
    "GroupNormalization",
)
#: Where (C, H, W), and (C, L), lie in an image of ours; a sequence is one of height 1.
CHANNELS_FIRST = {3: (2, 0, 1), 2: (2, 1)}
#: How tensors may lie whose numbers needn't be moved, by their number of axes: the first that fits.
_LAYOUTS = {2: ((0, 1), (1, 0)), 3: ((2, 0, 1), (0, 1, 2)), 4: ((0, 1, 2, 3),)}


@dataclass(frozen=True)
class Value:
    """A tensor of the graph.

    Attributes
    ----------
    place : int
        The draft that gives it; -1 is the model's input.
    shape : tuple of int
        As we have it, without the batch axis.
    axes : tuple of int
        Where in `shape` each of the graph's axes is, without the batch axis. Sequences may be images of height 1: they have a first axis
        that the graph doesn't see.
    flat : (tuple of int, tuple of int) or None
        Of a vector whose numbers stand in another order than the graph's: what it was before it was flattened, sizes in the graph's order
        and `axes`.
    """

    place: int
    shape: Shape
    axes: tuple[int, ...]
    flat: tuple[Shape, tuple[int, ...]] | None = None

    @property
    def sizes(self) -> Shape:
        """Shape in the graph, without the batch axis."""
        return tuple(self.shape[axis] for axis in self.axes)

    @property
    def order(self) -> np.ndarray | None:
        """Of a vector: ours[k] is the graph's [order[k]]; None if the same."""
        if self.flat is None:
            return None
        sizes, axes = self.flat
        return np.arange(math.prod(sizes)).reshape(sizes).transpose(np.argsort(axes)).ravel()


class Walk:
    """What is known so far.

    Parameters
    ----------
    constants : dict of str to ndarray
        By the graph's names; more come as nodes are evaluated.
    opset : int
    given : ValueInfoProto
        The graph's input.
    nodes : sequence of NodeProto
        All that will be visited.
    input_size : (H, W) or None

    Attributes
    ----------
    values : dict of str to Value
    pending : dict of str to WeightsError
        Tensors that nothing could be put down for, and why; an activation may yet come of them.
    """

    def __init__(
        self, constants: dict[str, np.ndarray], opset: int, given: Any, nodes: Sequence[Any], input_size: tuple[int, int] | None
    ) -> None:
        self.constants, self.opset = constants, opset
        sizes = [int(side.dim_value) for side in given.type.tensor_type.shape.dim]  # 0 where open
        axes = _input_axes(nodes, given.name) if len(sizes) == 4 else ("NLC" if len(sizes) == 3 else "NC")
        if len(sizes) == 3 and any(node.op_type in IMAGE_OPERATORS for node in nodes):
            axes = "NCL"
        own = _input_sizes(axes, sizes, input_size)
        shape = tuple(own[axis] for axis in ("HWC" if len(axes) == 4 else "LC" if len(axes) == 3 else "C"))
        self.batch = max(sizes[0], 1)
        self.graph = Graph(shape)
        lies = "HWC" if len(axes) == 4 else "LC" if len(axes) == 3 else "C"
        self.values = {given.name: Value(-1, shape, tuple(lies.index(axis) for axis in axes[1:]))}
        self.pending: dict[str, WeightsError] = {}
        self._aliases: dict[str, str] = {}
        self._arranged: dict[Any, Value] = {}

    # Tensors

    def value(self, node: Any, place: int) -> Value:
        """Return the tensor at an input of a node.

        Raises
        ------
        WeightsError
            If it is a constant.
        """
        name = node.input[place] if place < len(node.input) else ""
        if name not in self.values:
            raise unsupported(node, f"its input {place} ({name!r}) is a constant, expected what the model computes")
        return self.values[name]

    def tensors(self, node: Any) -> list[Value]:
        """Return all of a node's inputs, which must be what the model computes."""
        return [self.value(node, place) for place in range(len(node.input))]

    def give(self, node: Any, value: Value) -> None:
        """Say what a node's output is."""
        self.values[node.output[0]] = value

    def same(self, node: Any, value: Value) -> None:
        """Say that a node's output is its input."""
        self.give(node, value)
        self._aliases[node.output[0]] = self.alias(node.input[0])

    def alias(self, name: str) -> str:
        """Return what a tensor was called first."""
        return self._aliases.get(name, name)

    def finish(self, name: str) -> int:
        """Return the draft that gives the output."""
        if name in self.pending:
            raise self.pending[name]
        if name not in self.values:
            raise WeightsError(f"the graph's output {name!r} is a constant")
        value = self.unflattened(self.values[name], name)
        return value.place

    # Constants

    def constant(self, node: Any, place: int) -> np.ndarray | None:
        """Return the constant at an input of a node; None if it isn't given.

        Raises
        ------
        WeightsError
            If it isn't constant.
        """
        if place >= len(node.input) or not node.input[place]:
            return None
        if node.input[place] not in self.constants:
            raise unsupported(node, f"its input {place} must be constant")
        return self.constants[node.input[place]]

    def whole(self, node: Any, place: int, options: Mapping[str, Any], key: str) -> list[int] | None:
        """Return whole numbers that are an input in newer versions of an operator, an attribute in older ones."""
        given = self.constant(node, place)
        found = options.get(key) if given is None else given.reshape(-1)
        return None if found is None else [int(each) for each in (found if np.ndim(found) else [found])]

    def weights(self, node: Any, place: int) -> np.ndarray | None:
        """Return a constant as float32; half precision is widened, which loses nothing."""
        array = self.constant(node, place)
        if array is not None and array.dtype not in (np.float32, np.float16):
            raise unsupported(
                node,
                f"its weights {node.input[place]!r} have type {array.dtype}, expected float32 or float16: export the model in float32",
                False,
            )
        return None if array is None else np.ascontiguousarray(array, np.float32)

    def kernel(self, node: Any, place: int, dims: int) -> np.ndarray:
        """Return the weights of a convolution or a dense layer."""
        array = self.weights(node, place)
        if array is None or array.ndim != dims:
            raise unsupported(node, f"its weights must have {dims} axes, found {0 if array is None else array.ndim}", False)
        return array

    def evaluate(self, node: Any) -> None:
        """Compute a node from constants, with the reference implementation that ONNX itself has."""
        from onnx import ValueInfoProto, helper
        from onnx.reference import ReferenceEvaluator

        inputs = {name: self.constants[name] for name in node.input if name}
        try:
            types = [helper.make_tensor_value_info(n, helper.np_dtype_to_tensor_dtype(a.dtype), a.shape) for n, a in inputs.items()]
            graph = helper.make_graph([node], "constant", types, [ValueInfoProto(name=name) for name in node.output if name])
            model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)])
            results = ReferenceEvaluator(model).run(None, inputs)
        except Exception as error:  # the evaluator raises what it likes
            raise unsupported(node, f"it can't be evaluated from its constants ({error})", False) from error
        for name, value in zip((name for name in node.output if name), results, strict=True):
            self.constants[name] = np.asarray(value)

    def measure(self, node: Any, options: Mapping[str, Any]) -> None:
        """Compute a tensor's shape, or size."""
        sizes = np.array([self.batch, *self.values[node.input[0]].sizes])
        chosen = sizes[options.get("start", 0) : options.get("end")] if node.op_type == "Shape" else np.prod(sizes)
        self.constants[node.output[0]] = np.asarray(chosen, np.int64)

    # Layers

    def add(
        self, node: Any, kind: str, *inputs: Value, suffix: str = "", axes: tuple[int, ...] | None = None, keep: bool = False, **fields: Any
    ) -> Value:
        """Put a layer down; what it gives lies as its first input does, if it has as many axes.

        Parameters
        ----------
        node : NodeProto
        kind : str
        *inputs : Value
        suffix : str
            Of its name.
        axes : tuple of int or None
            Where the graph's axes lie in the output, if otherwise.
        keep : bool
            It takes every number by itself: a vector's numbers keep their order.
        **fields
            Of `Layer`.
        """
        place = self.graph.add(kind, self._name(node, kind) + suffix, *(each.place for each in inputs), **fields)
        shape, first = self.graph.shape(place), inputs[0]
        if axes is None:
            axes = first.axes if len(shape) == len(first.shape) else tuple(range(len(shape)))
        return Value(place, shape, axes, first.flat if keep else None)

    def activate(self, node: Any, activation: str, value: Value) -> None:
        """Put an activation down that takes every number by itself."""
        self.give(node, self.add(node, "activation", value, keep=True, activation=activation))

    def _name(self, node: Any, kind: str) -> str:
        """Make a layer's name from its node's scopes, without what the operation inside is called."""
        scopes = _module(node)
        if scopes:
            return scopes
        name = re.sub(r"[^\w./-]", "_", node.name)
        parts = [part for part in name.split("/") if part]
        if len(parts) > 1:
            parts.pop()
        if len(parts) > 1 and parts[-1] == "batchnorm":
            parts.pop()
        if name.startswith("/"):  # PyTorch's: a scope names the one around it once more, if that is a list
            path: list[str] = []
            for part in parts:
                if path and part.startswith(path[-1] + "."):
                    path.pop()
                path.append(part)
            parts = [".".join(path)]
        return parts[-1] if parts and parts[-1] else NAMES.get(kind, kind)

    # How tensors lie

    def arrange(self, node: Any, value: Value, axes: tuple[int, ...], rank: int) -> Value:
        """Return a tensor's numbers with the graph's axes at other places of an array with `rank` axes; put down at most once."""
        if (value.axes, len(value.shape)) == (axes, rank):
            return value
        key = (value.place, value.axes, axes, rank)
        if key not in self._arranged:
            self._arranged[key] = self._arrange(node, value, axes, rank)
        return self._arranged[key]

    def _arrange(self, node: Any, value: Value, axes: tuple[int, ...], rank: int) -> Value:
        surplus = len(value.shape) - len(value.axes)
        if surplus == rank - len(axes):
            dims = [*range(surplus), *(0 for _ in axes)]
            for here, there in zip(value.axes, axes, strict=True):
                dims[there] = here
            return self.add(node, "permute", value, suffix="_permute", axes=axes, options={"dims": [here + 1 for here in dims]})
        if surplus:  # an image of height 1 becomes a sequence, which is then turned
            found = self.reshape(node, value, value.shape[1:], tuple(axis - 1 for axis in value.axes))
            return self.arrange(node, found, axes, rank)
        found = self.arrange(node, value, tuple(axis - 1 for axis in axes), rank - 1)
        return self.reshape(node, found, (1, *found.shape), axes)

    def reshape(self, node: Any, value: Value, shape: Shape, axes: tuple[int, ...]) -> Value:
        """Return a tensor's numbers, in the order in which they lie, in another shape."""
        if shape == value.shape:
            return replace(value, axes=axes)
        return self.add(node, "reshape", value, suffix="_reshape", axes=axes, options={"shape": list(shape)})

    def image(self, node: Any, value: Value) -> Value:
        """Return a tensor (C, H, W) or (C, L) as an image of ours.

        Raises
        ------
        WeightsError
            If it is neither.
        """
        rank = len(value.axes)
        if rank not in CHANNELS_FIRST:
            raise unsupported(node, f"it reads (N, C, H, W) or (N, C, L), but the tensor there is {self._shown(value)}", False)
        return self.arrange(node, value, CHANNELS_FIRST[rank], 3)

    def _shown(self, value: Value) -> str:
        return f"({', '.join(['N', *map(str, value.sizes)])})"

    def plain(self, node: Any, value: Value) -> Value:
        """Return a tensor's numbers as the graph has them."""
        value = self.unflattened(value, self._name(node, "reshape"))
        rank = len(value.axes)
        return self.arrange(node, value, tuple(range(rank)), rank)

    def last(self, node: Any, value: Value, axis: int) -> Value:
        """Return a tensor with one of the graph's axes, counted without the batch axis, as our last."""
        rank = len(value.shape)
        if value.axes[axis] == rank - 1:
            return value
        return self.arrange(node, value, with_last(value.axes, axis, rank), rank)

    def alike(self, node: Any, values: Sequence[Value]) -> list[Value]:
        """Return tensors of as many axes that lie alike.

        Raises
        ------
        WeightsError
            If they have not as many axes.
        """
        if len({len(value.axes) for value in values}) > 1:
            listed = ", ".join(self._shown(value) for value in values)
            raise unsupported(node, f"it joins {listed}, expected as many axes in each: give them axes of size 1 (Unsqueeze)", False)
        if len({value.flat for value in values}) > 1:
            values = [self.unflattened(value, self._name(node, "reshape")) for value in values]
        model = max(values, key=lambda value: math.prod(value.shape))
        return [self.arrange(node, value, model.axes, len(model.shape)) for value in values]

    def unflattened(self, value: Value, name: str) -> Value:
        """Return a vector with its numbers in the graph's order."""
        if value.flat is None:
            return value
        sizes, axes = value.flat
        shape = tuple(sizes[axes.index(place)] for place in range(len(axes)))
        draft = self.graph.drafts[value.place]
        whole = draft.inputs[0] if draft.kind == "flatten" and self.graph.shape(draft.inputs[0]) == shape else None
        if whole is None:
            whole = self.graph.add("reshape", f"{name}_reshape", value.place, options={"shape": list(shape)})
        turned = self.graph.add("permute", f"{name}_permute", whole, options={"dims": [axis + 1 for axis in axes]})
        flat = self.graph.add("flatten", draft.name if draft.kind == "flatten" else f"{name}_flatten", turned)
        return Value(flat, value.shape, value.axes)

    def flatten(self, node: Any, value: Value) -> Value:
        """Return a tensor as a vector, its numbers in whatever order they lie."""
        if len(value.shape) == 1:
            return value
        kept = [place for place in value.axes if value.shape[place] > 1]
        flat = None if kept == sorted(kept) else (value.sizes, value.axes)
        return replace(self.add(node, "flatten", value), flat=flat)

    def view(self, node: Any, value: Value, sizes: Shape) -> Value:
        """Return a tensor's numbers, in the graph's order, in another shape (without the batch axis)."""
        if sizes == value.sizes:
            return value
        if len(sizes) == 1:
            return self.flatten(node, value)
        value = self.unflattened(value, self._name(node, "reshape"))
        if [side for side in sizes if side > 1] == [side for side in value.sizes if side > 1]:  # axes of 1 come or go
            for axes in _LAYOUTS.get(len(sizes), ()):
                if _lying(sizes, axes) == _lying(value.sizes, value.axes):
                    return self.reshape(node, value, tuple(sizes[axes.index(place)] for place in range(len(axes))), axes)
        return self.reshape(node, self.plain(node, value), sizes, tuple(range(len(sizes))))

    def cut(self, node: Any, value: Value, axis: int, start: int, end: int, suffix: str = "") -> Value:
        """Return a piece of a tensor along one of the graph's axes."""
        value = self.unflattened(value, self._name(node, "reshape"))
        at = value.axes[axis]
        n = value.shape[at]
        if (start, end) == (0, n):
            return value
        if len(value.shape) == 3 and at < 2:
            pads = [0, 0, 0, 0]
            pads[2 * at : 2 * at + 2] = start, n - end
            return self.add(node, "crop", value, suffix=suffix, pads=tuple(pads))
        wide = (math.prod(value.shape[:at]), n, math.prod(value.shape[at + 1 :]))
        box = self.reshape(node, value, wide, (0, 1, 2))
        piece = self.add(node, "crop", box, suffix=suffix, pads=(0, 0, start, n - end))
        return self.reshape(node, piece, (*value.shape[:at], end - start, *value.shape[at + 1 :]), value.axes)


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def unsupported(node: Any, why: str, way_out: bool = True) -> WeightsError:
    """Say which node can't be converted, why, and unless `why` tells, what to do."""
    name = node.name or (node.output[0] if node.output else "?")
    hint = "; rebuild the model without it, or cut the graph there (onnx.utils.extract_model)" if way_out else ""
    return WeightsError(f"node {name!r} ({node.op_type}): {why}{hint}")


def _lying(sizes: Shape, axes: tuple[int, ...]) -> list[int]:
    """Return the axes longer than 1, counted among such, in the order in which they lie."""
    long = [place for place, side in zip(axes, sizes, strict=True) if side > 1]
    return sorted(range(len(long)), key=long.__getitem__)


def _module(node: Any) -> str:
    """Return the path of the module that PyTorch's newer exporter notes down beside a node; "" if there is none."""
    for entry in node.metadata_props:
        if entry.key == "pkg.torch.onnx.name_scopes":
            scopes = re.findall(r"'([^']*)'", entry.value)[:-1]
            return re.sub(r"[^\w.-]", "_", scopes[-1]) if scopes else ""
    return ""


def _input_axes(nodes: Sequence[Any], tensor: str) -> str:
    """Find out what the input's axes mean: the first operator that cares reads NCHW, behind the transposes before it."""
    permutation = [0, 1, 2, 3]
    behind = {tensor}
    for node in nodes:
        if node.op_type == "Transpose" and node.input[0] in behind:
            order = attributes(node).get("perm", [3, 2, 1, 0])
            if len(order) != len(permutation):  # behind a reshape: these aren't the input's axes
                return "NCHW"
            permutation = [permutation[i] for i in order]
        if node.op_type in IMAGE_OPERATORS:
            break
        if behind & set(node.input):
            behind.update(node.output)
    else:
        permutation = [0, 1, 2, 3]
    return "".join(axis for _, axis in sorted(zip(permutation, "NCHW", strict=True)))


def _input_sizes(axes: str, sizes: list[int], input_size: tuple[int, int] | None) -> dict[str, int]:
    """Return the size of every axis."""
    if len(sizes) not in (2, 3, 4):
        raise WeightsError(
            f"the graph's input has {len(sizes)} axes, expected 4 (a batch of images), 3 (of sequences) or 2 (of vectors); 3-D and more "
            "aren't supported: explain slices"
        )
    own = dict(zip(axes, sizes, strict=True))
    if input_size and len(sizes) == 4:
        for axis, size in zip("HW", input_size, strict=True):
            if own[axis] not in (0, size):
                raise WeightsError(f"the graph fixes its input's sides to {own['H']} x {own['W']}; leave --input-size away")
            own[axis] = size
    if min(own[axis] for axis in axes[1:]) < 1:
        hint = "give --input-size HEIGHT WIDTH" if len(sizes) == 4 else "export it with fixed sizes"
        raise WeightsError(f"the graph leaves its input open ({axes} = {[n or '?' for n in sizes]}); {hint}")
    return own
