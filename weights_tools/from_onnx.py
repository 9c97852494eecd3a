"""An ONNX graph that is a chain -> Model: kernels to HWIO, dense rows to the order of a flattened (H, W, C) image.

The walk keeps one tensor, the chain's, and knows which axis of it means what (``NCHW``, ``NHWC``, ``NC``), so transposes cost
nothing. Whatever depends on constants and shapes alone is evaluated on the way. Batch norms that an exporter folded to multiply and
add stay where they are in the chain, as BatchNormalization layers.
"""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.errors import ModelError, WeightsError
from nplrp.layers import KINDS
from nplrp.model import Layer, Model, Shape, Window, chain

#: A batch norm that only multiplies and adds: variance + epsilon is 1 in every precision, and epsilon is large enough for
#: TensorFlow's fused kernel, which raises it to 1.001e-5 at least.
UNIT_EPSILON = 2.0**-10

#: What a layer is called whose node has no name of its own: Keras's defaults.
NAMES = {
    "conv": "conv2d",
    "dense": "dense",
    "maxpool": "max_pooling2d",
    "avgpool": "average_pooling2d",
    "global_maxpool": "global_max_pooling2d",
    "global_avgpool": "global_average_pooling2d",
    "flatten": "flatten",
    "batchnorm": "batch_normalization",
    "pad": "zero_padding2d",
    "activation": "activation",
}


def from_onnx(path: str | os.PathLike[str], input_size: tuple[int, int] | None = None) -> Model:
    """Read an ONNX file whose graph is a chain of the operators in `SUPPORTED`.

    Parameters
    ----------
    path : path
    input_size : (H, W) or None
        Where the graph leaves the sides of its input open.

    Raises
    ------
    WeightsError
        If it isn't ONNX, or no such chain; names the node, its operator, and what is supported.
    """
    try:
        import onnx
        from google.protobuf.message import DecodeError
    except ImportError:
        raise WeightsError("reading ONNX needs the package onnx: pip install 'nplrp[tools]'") from None
    if not Path(path).is_file():
        raise WeightsError(f"{path}: there is no such file, expected an ONNX model")
    try:
        proto = onnx.load(os.fspath(path))
        walk = _Walk(proto, input_size, Path(path).parent)
        for node in proto.graph.node:
            walk.visit(node)
        return walk.finish(Path(path).stem)
    except DecodeError as error:
        raise WeightsError(f"{path}: isn't an ONNX file ({error})") from None
    except (WeightsError, ModelError) as error:
        raise WeightsError(f"{path}: {error}") from None
    except (OSError, onnx.checker.ValidationError) as error:
        raise WeightsError(f"{path}: can't be read: {error}") from None
    except (LookupError, ValueError, TypeError, AttributeError) as error:
        raise WeightsError(f"{path}: the graph breaks ONNX's own rules ({error!r}); export it again") from error


class _Walk:
    """The chain as far as it has been followed.

    Attributes
    ----------
    tensor : str
        Name of the chain's tensor.
    axes : str
        What its axes mean in the graph: a permutation of ``NHWC``, or ``NC``.
    shape : (H, W, C) or (C,)
        Its shape in our order, without the batch axis.
    order : ndarray of int, or None
        Of a flattened image: ours[k] is the graph's [order[k]]; None if the same.
    layers : list of Layer
    may_add : str
        What a constant that is added next would be: the last layer's ``"bias"`` or ``"beta"``; else ``""``.
    """

    def __init__(self, proto: Any, input_size: tuple[int, int] | None, folder: Path) -> None:
        from onnx import numpy_helper

        graph = proto.graph
        self.opset = next((entry.version for entry in proto.opset_import if entry.domain in ("", "ai.onnx")), 1)
        self.producer: str = proto.producer_name
        self.constants: dict[str, np.ndarray] = {t.name: numpy_helper.to_array(t, str(folder)) for t in graph.initializer}
        inputs = [value for value in graph.input if value.name not in self.constants]
        if len(inputs) != 1 or len(graph.output) != 1:
            raise WeightsError(
                f"the graph has {len(inputs)} inputs ({', '.join(v.name for v in inputs)}) and {len(graph.output)} outputs, "
                "expected one of each: a chain"
            )
        self.tensor: str = inputs[0].name
        self.output: str = graph.output[0].name
        sizes = [int(d.dim_value) for d in inputs[0].type.tensor_type.shape.dim]  # 0 where open
        self.axes = _input_axes(graph, self.tensor, self.constants) if len(sizes) == 4 else "NC"
        self.batch = max(sizes[0], 1) if sizes else 1
        self.shape: Shape = _input_shape(self.axes, sizes, input_size)
        self.input_shape = self.shape
        self.order: np.ndarray | None = None
        self.layers: list[Layer] = []
        self.may_add = ""
        self.passed = {self.tensor: self.sizes}

    @property
    def sizes(self) -> list[int]:
        """Shape of the chain's tensor in the graph, with the batch axis."""
        own = dict(zip("HWC" if len(self.shape) == 3 else "C", self.shape, strict=True))
        return [self.batch if axis == "N" else own[axis] for axis in self.axes]

    def visit(self, node: Any) -> None:
        """Follow the chain through one node, or evaluate it if it only has constants."""
        names = [name for name in node.input if name]
        if all(name in self.constants for name in names):
            self._evaluate(node)
        elif node.op_type == "Shape" and node.input[0] in self.passed:
            options = attributes(node)
            self.constants[node.output[0]] = np.array(self.passed[node.input[0]])[options.get("start", 0) : options.get("end")]
        elif self.tensor not in names or sum(name not in self.constants for name in names) > 1:
            other = next((name for name in names if name != self.tensor and name not in self.constants), names[0])
            raise unsupported(node, f"it takes {other!r}, not only the chain's last tensor: the graph branches")
        elif node.op_type not in _HANDLERS or node.domain not in ("", "ai.onnx"):
            raise unsupported(node, "this operator isn't supported")
        else:
            may_add, self.may_add = self.may_add, ""
            _HANDLERS[node.op_type](self, node, attributes(node), may_add)
            self.tensor = node.output[0]
            self.passed[self.tensor] = self.sizes

    def finish(self, name: str) -> Model:
        """Return the model."""
        if self.tensor != self.output:
            raise WeightsError(f"the chain ends at {self.tensor!r}, but the graph's output is {self.output!r}")
        if self.order is not None:
            raise WeightsError("the output is an image flattened in the order (C, H, W), expected a dense layer behind it")
        if not self.layers:
            raise WeightsError("the graph has no layers")
        return chain(self.input_shape, _without_call_numbers(self.layers, self.producer), re.sub(r"\W", "_", name))

    def add(self, node: Any, kind: str, suffix: str = "", **fields: Any) -> None:
        """Append a layer."""
        layer = Layer(self._free_name(node, kind, suffix), kind, (), (), **fields)
        self.shape = KINDS[layer.kind].shape(layer, (self.shape,))
        self.layers.append(layer)

    def replace_last(self, **fields: Any) -> None:
        """Change the last layer."""
        self.layers[-1] = dataclasses.replace(self.layers[-1], **fields)

    def last_takes_activation(self) -> bool:
        """Say whether an activation can be made part of the last layer."""
        return bool(self.layers) and self.layers[-1].kind in ("conv", "dense") and self.layers[-1].activation == "linear"

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

    def weights(self, node: Any, place: int) -> np.ndarray | None:
        """Return a constant as float32; half precision is widened, which loses nothing."""
        array = self.constant(node, place)
        if array is not None and array.dtype not in (np.float32, np.float16):
            raise unsupported(node, f"its weights {node.input[place]!r} have type {array.dtype}, expected float32 or float16")
        return None if array is None else np.ascontiguousarray(array, np.float32)

    def kernel(self, node: Any, place: int, dims: int) -> np.ndarray:
        """Return the weights of a convolution or a dense layer."""
        array = self.weights(node, place)
        if array is None or array.ndim != dims:
            raise unsupported(node, f"its weights must have {dims} axes")
        return array

    def per_channel(self, node: Any, place: int) -> np.ndarray | None:
        """Return a constant that is one number per channel of the chain's tensor, in our order; None if it isn't given."""
        array = self.weights(node, place)
        if array is None:
            return None
        channels, at = self.shape[-1], self.axes.index("C")
        sizes = [1] * (len(self.axes) - array.ndim) + list(array.shape)
        if len(sizes) != len(self.axes) or any(n != 1 for i, n in enumerate(sizes) if i != at) or sizes[at] not in (1, channels):
            raise unsupported(node, f"its constant has shape {array.shape}, expected one number for each of the {channels} channels")
        full = np.broadcast_to(array.reshape(-1), (channels,)).copy()
        return full if self.order is None else full[self.order]

    def need(self, node: Any, axes: str) -> None:
        """See that the chain's tensor lies as an operator expects it."""
        if self.axes != axes:
            raise unsupported(node, f"it reads its input as {axes}, but the tensor there is {self.axes} {self.sizes}")

    def flatten(self, node: Any) -> None:
        """Make the chain's tensor (N, C)."""
        if len(self.shape) == 1:
            return
        places = [self.axes[1:].index(axis) for axis in "HWC"]
        sizes = self.sizes[1:]
        order = np.arange(math.prod(sizes)).reshape(sizes).transpose(places).ravel()
        last = self.layers[-1] if self.layers else None
        if last and last.keepdims and self.shape[:2] == (1, 1):
            self.replace_last(keepdims=False)
            self.shape = self.shape[2:]
        else:
            self.add(node, "flatten")
        self.axes, self.order = "NC", None if np.array_equal(order, np.arange(order.size)) else order

    def _evaluate(self, node: Any) -> None:
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
            raise unsupported(node, f"it can't be evaluated from its constants ({error})") from error
        for name, value in zip((name for name in node.output if name), results, strict=True):
            self.constants[name] = np.asarray(value)

    def _free_name(self, node: Any, kind: str, suffix: str) -> str:
        """Make a layer's name from its node's: the innermost scope, without what TensorFlow calls the operation inside."""
        scopes = [part for part in re.sub(r"[^\w./-]", "_", node.name).split("/") if part]
        if len(scopes) > 1:
            scopes.pop()
        if len(scopes) > 1 and scopes[-1] == "batchnorm":
            scopes.pop()
        base = (scopes[-1] if scopes else NAMES[kind]) + suffix
        taken = {layer.name for layer in self.layers}
        name, number = base, 1
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        return name


def attributes(node: Any) -> dict[str, Any]:
    """Return a node's attributes as Python values."""
    from onnx import helper

    return {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}


def unsupported(node: Any, why: str) -> WeightsError:
    """Say which node can't be converted, and why."""
    name = node.name or (node.output[0] if node.output else "?")
    return WeightsError(f"node {name!r} ({node.op_type}): {why}; supported is a chain of {', '.join(SUPPORTED)}")


def _input_axes(graph: Any, tensor: str, constants: dict[str, np.ndarray]) -> str:
    """Find out what the input's axes mean: the first operator that cares reads NCHW, behind the transposes before it."""
    permutation = [0, 1, 2, 3]
    for node in graph.node:
        if node.op_type == "Transpose" and node.input[0] not in constants:
            permutation = [permutation[i] for i in attributes(node).get("perm", [3, 2, 1, 0])]
        if node.op_type in ("Conv", "MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool", "BatchNormalization"):
            break
    else:
        permutation = [0, 1, 2, 3]
    return "".join(axis for _, axis in sorted(zip(permutation, "NCHW", strict=True)))


def _input_shape(axes: str, sizes: list[int], input_size: tuple[int, int] | None) -> Shape:
    """Return (H, W, C) or (C,)."""
    if len(sizes) not in (2, 4):
        raise WeightsError(f"the graph's input has {len(sizes)} axes, expected 4 (a batch of images) or 2 (a batch of vectors)")
    own = dict(zip(axes, sizes, strict=True))
    if input_size and len(sizes) == 4:
        for axis, size in zip("HW", input_size, strict=True):
            if own[axis] not in (0, size):
                raise WeightsError(f"the graph fixes its input's sides to {own['H']} x {own['W']}; leave --input-size away")
            own[axis] = size
    shape = tuple(own[axis] for axis in ("HWC" if len(sizes) == 4 else "C"))
    if min(shape) < 1:
        raise WeightsError(f"the graph leaves its input open ({axes} = {[n or '?' for n in sizes]}); give --input-size HEIGHT WIDTH")
    return shape


def _without_call_numbers(layers: list[Layer], producer: str) -> list[Layer]:
    """Take away the number that Keras 3 appends to every layer's name when it is traced for export (block1_conv1_1)."""
    short = [re.sub(r"_\d+$", "", layer.name) for layer in layers]
    all_numbered = all(name != layer.name for name, layer in zip(short, layers, strict=True))
    if producer != "tf2onnx" or not all_numbered or len(set(short)) < len(short):
        return layers
    return [dataclasses.replace(layer, name=name) for name, layer in zip(short, layers, strict=True)]


# Operators: each takes (walk, node, its attributes, what an added constant would be)


def _conv(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    walk.need(node, "NCHW")
    kernel, bias = walk.kernel(node, 1, 4), walk.weights(node, 2)
    if options.get("group", 1) != 1:
        raise unsupported(node, f"group={options['group']} isn't supported, only 1")
    window = _window(walk, node, options, (kernel.shape[2], kernel.shape[3]), zeros_count=True)
    arrays = {"kernel": np.ascontiguousarray(kernel.transpose(2, 3, 1, 0))}  # OIHW -> HWIO
    walk.add(node, "conv", window=window, arrays=arrays if bias is None else {**arrays, "bias": bias})
    walk.may_add = "bias" if bias is None else ""


def _pool(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    walk.need(node, "NCHW")
    kind = "maxpool" if node.op_type == "MaxPool" else "avgpool"
    window = _window(walk, node, options, tuple(options["kernel_shape"]), zeros_count=bool(options.get("count_include_pad", 0)))
    if window.dilation != (1, 1):
        raise unsupported(node, f"dilations={list(window.dilation)} aren't supported for pooling")
    if window.size != (1, 1) or window.stride != (1, 1):  # an adaptive pool at the size that it adapts to
        walk.add(node, kind, window=window)


def _window(walk: _Walk, node: Any, options: dict[str, Any], size: tuple[int, ...], zeros_count: bool) -> Window:
    """Return how a window moves; padding that is neither 'same' nor 'valid' becomes a layer of its own, where zeros count as values."""
    if len(size) != 2:
        raise unsupported(node, f"its window has {len(size)} axes, expected 2")
    stride, dilation = tuple(options.get("strides", (1, 1))), tuple(options.get("dilations", (1, 1)))
    valid = Window((size[0], size[1]), stride, dilation, "valid")
    same = dataclasses.replace(valid, padding="same")
    height, width = walk.shape[:2]
    as_same = same.pads(height, width)
    auto = options.get("auto_pad", b"NOTSET").decode()
    if auto == "NOTSET":
        top, left, bottom, right = options.get("pads", (0, 0, 0, 0))
        pads = (top, bottom, left, right)
    else:
        flipped = (as_same[1], as_same[0], as_same[3], as_same[2])
        pads = {"SAME_UPPER": as_same, "SAME_LOWER": flipped, "VALID": (0, 0, 0, 0)}[auto]
    padded = (height + pads[0] + pads[1], width + pads[2] + pads[3])
    rest = [(n - (k - 1) * d - 1) % s for n, k, s, d in zip(padded, size, stride, dilation, strict=True)]
    if options.get("ceil_mode", 0) and any(rest):
        raise unsupported(node, f"ceil_mode=1 makes windows that reach over the edge of {padded[0]} x {padded[1]}")
    if not any(pads):
        return valid
    counts_differ = node.op_type == "AveragePool" and zeros_count
    if pads == as_same and same.output_size(height, width) == valid.output_size(*padded) and not counts_differ:
        return same
    if not zeros_count:
        raise unsupported(node, f"padding {pads} (top, bottom, left, right) is neither 'same' nor none")
    walk.add(node, "pad", suffix="_pad", pads=pads)
    return valid


def _pad(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    given = walk.constant(node, 1) if len(node.input) > 1 else np.array(options.get("pads", options.get("paddings", [])))
    value = walk.constant(node, 2) if len(node.input) > 1 else np.array(options.get("value", 0.0))
    value = np.zeros(()) if value is None else value
    some = walk.constant(node, 3)
    axes = list(range(len(walk.axes))) if some is None else [int(i) % len(walk.axes) for i in some]
    if given is None or len(given) != 2 * len(axes) or options.get("mode", b"constant") != b"constant" or np.any(value):
        raise unsupported(node, "only constant padding with zeros is supported")
    before = {walk.axes[axis]: (int(given[i]), int(given[i + len(axes)])) for i, axis in enumerate(axes)}
    pads = (*before.pop("H", (0, 0)), *before.pop("W", (0, 0)))
    if any(any(pair) for pair in before.values()) or min(pads) < 0 or len(walk.shape) != 3:
        raise unsupported(node, "only height and width may be padded, and not by less than nothing")
    if any(pads):
        walk.add(node, "pad", pads=pads)


def _global_pool(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    kind = "global_maxpool" if "Max" in node.op_type else "global_avgpool"
    keep = True
    if node.op_type.startswith("Reduce"):
        given = walk.constant(node, 1) if len(node.input) > 1 else options.get("axes")
        axes = [] if given is None else [int(axis) % len(walk.axes) for axis in given]
        keep = bool(options.get("keepdims", 1))
        if sorted(walk.axes[axis] for axis in axes) != ["H", "W"]:
            raise unsupported(node, "only the reduction over height and width is supported")
    else:
        walk.need(node, "NCHW")
    walk.add(node, kind, keepdims=keep)
    walk.axes = walk.axes if keep else "NC"


def _flatten(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    if options.get("axis", 1) % len(walk.axes) != 1:
        raise unsupported(node, f"axis={options['axis']} isn't supported, only 1")
    walk.flatten(node)


def _reshape(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    given = walk.constant(node, 1)
    target = [int(n) for n in given] if given is not None else list(options.get("shape", []))
    total = math.prod(walk.shape)
    whole = [walk.batch, *walk.sizes[1:]]
    resolved = [whole[i] if n == 0 and i < len(whole) and not options.get("allowzero", 0) else n for i, n in enumerate(target)]
    if len(resolved) == 2 and resolved in ([walk.batch, total], [-1, total], [walk.batch, -1], [1, total]):
        walk.flatten(node)
    elif len(resolved) != len(whole) or any(n not in (m, -1) for n, m in zip(resolved, whole, strict=True)):
        raise unsupported(node, f"it reshapes {whole} to {target}; only flattening is supported")


def _squeeze(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    given = walk.constant(node, 1) if len(node.input) > 1 else options.get("axes")
    axes = [] if given is None else [int(axis) % len(walk.axes) for axis in given]
    if sorted(walk.axes[axis] for axis in axes) != ["H", "W"] or walk.shape[:2] != (1, 1):
        raise unsupported(node, f"only height and width of 1 may be taken away from {walk.axes} {walk.sizes}")
    walk.flatten(node)


def _transpose(walk: _Walk, node: Any, options: dict[str, Any], may_add: str) -> None:
    permutation = options.get("perm", range(len(walk.axes))[::-1])
    axes = "".join(walk.axes[i] for i in permutation)
    if axes[0] != "N":
        raise unsupported(node, f"it moves the batch axis ({walk.axes} -> {axes})")
    walk.axes, walk.may_add = axes, may_add


def _dense(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    walk.need(node, "NC")
    kernel, bias = walk.kernel(node, 1, 2), None
    if node.input[0] != walk.tensor:
        raise unsupported(node, "the weights must be its second input")
    if node.op_type == "Gemm":
        if options.get("alpha", 1.0) != 1 or options.get("beta", 1.0) != 1 or options.get("transA", 0):
            raise unsupported(node, "only alpha=1, beta=1, transA=0 are supported")
        kernel = kernel.T if options.get("transB", 0) else kernel
        given = walk.weights(node, 2)
        bias = None if given is None else np.broadcast_to(given.reshape(-1), (kernel.shape[1],)).copy()
    kernel = kernel if walk.order is None else kernel[walk.order]
    walk.order = None
    arrays = {"kernel": np.ascontiguousarray(kernel)}
    walk.add(node, "dense", arrays=arrays if bias is None else {**arrays, "bias": bias})
    walk.may_add = "bias" if bias is None else ""


def _batchnorm(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    if options.get("training_mode", 0) or walk.axes[1] != "C":
        raise unsupported(node, f"only inference over the channels is supported; the tensor is {walk.axes}")
    keys = ("gamma", "beta", "mean", "variance")
    arrays = {key: walk.weights(node, place) for place, key in enumerate(keys, 1)}
    if any(array is None or array.shape != walk.shape[-1:] for array in arrays.values()):
        raise unsupported(node, f"scale, bias, mean and variance must have {walk.shape[-1]} numbers each")
    ordered = {key: array if walk.order is None else array[walk.order] for key, array in arrays.items() if array is not None}
    walk.add(node, "batchnorm", epsilon=float(options.get("epsilon", 1e-5)), arrays=ordered)


def _multiply(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    factor = walk.per_channel(node, 1 if node.input[0] == walk.tensor else 0)
    if factor is not None:
        walk.add(node, "batchnorm", epsilon=UNIT_EPSILON, arrays={"gamma": factor, **_unit_moments(factor.size)})
        walk.may_add = "beta"


def _add(walk: _Walk, node: Any, options: dict[str, Any], may_add: str) -> None:
    if node.op_type == "Sub" and node.input[0] != walk.tensor:
        raise unsupported(node, "it subtracts the tensor from a constant")
    summand = walk.per_channel(node, 1 if node.input[0] == walk.tensor else 0)
    if summand is None:
        return
    summand = -summand if node.op_type == "Sub" else summand
    if may_add:
        walk.replace_last(arrays={**walk.layers[-1].arrays, may_add: summand})
    else:
        walk.add(node, "batchnorm", epsilon=UNIT_EPSILON, arrays={"beta": summand, **_unit_moments(summand.size)})


def _unit_moments(channels: int) -> dict[str, np.ndarray]:
    return {"mean": np.zeros(channels, np.float32), "variance": np.full(channels, 1 - UNIT_EPSILON, np.float32)}


def _relu(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    if walk.last_takes_activation():
        walk.replace_last(activation="relu")
    else:
        walk.add(node, "activation", activation="relu")


def _softmax(walk: _Walk, node: Any, options: dict[str, Any], _: str) -> None:
    axis = options.get("axis", -1 if walk.opset >= 13 else 1) % len(walk.axes)
    if walk.axes[axis] != "C" or len(walk.shape) != 1:
        raise unsupported(node, f"only the softmax over (N, C) is supported; the tensor is {walk.axes}, axis {axis}")
    if walk.last_takes_activation():
        walk.replace_last(activation="softmax")
    else:
        walk.add(node, "activation", activation="softmax")


def _nothing(walk: _Walk, node: Any, options: dict[str, Any], may_add: str) -> None:
    training = walk.constant(node, 2) if node.op_type == "Dropout" else None
    if (training is not None and bool(training)) or options.get("to", 1) not in (1, 10):
        raise unsupported(node, "only inference in floating point is supported")
    walk.may_add = may_add


_HANDLERS: dict[str, Callable[[_Walk, Any, dict[str, Any], str], None]] = {
    "Conv": _conv,
    "Relu": _relu,
    "MaxPool": _pool,
    "AveragePool": _pool,
    "GlobalAveragePool": _global_pool,
    "GlobalMaxPool": _global_pool,
    "ReduceMean": _global_pool,
    "ReduceMax": _global_pool,
    "Flatten": _flatten,
    "Reshape": _reshape,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Gemm": _dense,
    "MatMul": _dense,
    "Add": _add,
    "Sub": _add,
    "Mul": _multiply,
    "BatchNormalization": _batchnorm,
    "Softmax": _softmax,
    "Pad": _pad,
    "Dropout": _nothing,
    "Identity": _nothing,
    "Cast": _nothing,
}
SUPPORTED = tuple(_HANDLERS)
