"""An ONNX graph -> Model: kernels to HWIO, dense rows to the order of a flattened (H, W, C) image.

The walk knows of every tensor how the graph's axes lie in ours, so transposes cost nothing; numbers are moved only where an operator
needs them in another order. Whatever depends on constants and shapes alone is evaluated on the way. The operators are in
`weights_tools.onnx_operators`.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from nplrp.errors import ModelError, WeightsError
from nplrp.files.arithmetic import Functions
from nplrp.model import Model
from weights_tools.onnx_functions import OPERATORS
from weights_tools.onnx_norms import with_norms
from weights_tools.onnx_operators import HANDLERS, NORMAL_DOMAINS, REASONS, SUPPORTED
from weights_tools.onnx_walk import Walk, attributes, unsupported

__all__ = ["SUPPORTED", "from_onnx"]


def from_onnx(path: str | os.PathLike[str], input_size: tuple[int, int] | None = None, output: str | None = None) -> Model:
    """Read an ONNX file whose graph is made of the operators in `SUPPORTED`, with one input.

    Parameters
    ----------
    path : path
    input_size : (H, W) or None
        Where the graph leaves the sides of its input open.
    output : str or None
        Which of several outputs; what doesn't lead to it is left out.

    Raises
    ------
    WeightsError
        If it isn't ONNX, or no such graph; names the node, its operator, and what is supported.
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
        if proto.functions:
            from onnx import inliner

            proto = inliner.inline_local_functions(proto)
        return _follow(proto, input_size, output, Path(path))
    except DecodeError as error:
        raise WeightsError(f"{path}: isn't an ONNX file ({error})") from None
    except (WeightsError, ModelError) as error:
        raise WeightsError(f"{path}: {error}") from None
    except (OSError, onnx.checker.ValidationError) as error:
        raise WeightsError(f"{path}: can't be read: {error}") from None
    except (LookupError, ValueError, TypeError, AttributeError, ArithmeticError, MemoryError, RuntimeError) as error:
        raise WeightsError(f"{path}: the graph breaks ONNX's own rules ({error!r}); export it again") from error


def _follow(proto: Any, input_size: tuple[int, int] | None, output: str | None, path: Path) -> Model:
    from onnx import numpy_helper

    graph = proto.graph
    constants = {tensor.name: numpy_helper.to_array(tensor, str(path.parent)) for tensor in graph.initializer}
    wanted = _output([value.name for value in graph.output], output)
    nodes = _order(with_norms(graph.node, constants), wanted, {value.name for value in graph.input} | set(constants))
    read = {name for node in nodes for name in node.input} | {wanted}
    inputs = [value for value in graph.input if value.name not in constants and value.name in read]
    if len(inputs) != 1:
        listed = ", ".join(value.name for value in inputs) or "none that leads to its output"
        raise WeightsError(
            f"the graph has {len(inputs)} inputs ({listed}), expected one: export a model in which all others are constants, or cut "
            "it behind where they are joined (onnx.utils.extract_model)"
        )
    opset = next((entry.version for entry in proto.opset_import if entry.domain in NORMAL_DOMAINS), 1)
    walk = Walk(constants, opset, inputs[0], nodes, input_size)
    functions = Functions()
    for node in nodes:
        _visit(walk, node, functions)
    rename = _without_call_numbers if proto.producer_name == "tf2onnx" else list
    return walk.graph.model(walk.finish(wanted), re.sub(r"\W", "_", path.stem), rename)


def _output(names: Sequence[str], wanted: str | None) -> str:
    """Return the output that is asked for."""
    listed = ", ".join(names)
    if wanted is None:
        if len(names) != 1:
            raise WeightsError(f"the graph has {len(names)} outputs ({listed}), expected one: choose it by --output-name NAME")
        return names[0]
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, 1)
        raise WeightsError(
            f"the graph has no output {wanted!r}; it has {listed}" + (f": did you mean {near[0]!r}?" if near else "; give one of them")
        )
    return wanted


def _order(nodes: Sequence[Any], wanted: str, given: set[str]) -> list[Any]:
    """Return the nodes that lead to a tensor, each behind those that it reads.

    Raises
    ------
    WeightsError
        If a node reads what no node gives, or they read each other in a circle.
    """
    makers: dict[str, int] = {name: i for i, node in enumerate(nodes) for name in node.output if name}
    if wanted not in makers and wanted not in given:
        raise WeightsError(f"no node gives the graph's output {wanted!r}; the file is damaged: export it again")
    done: set[int] = set()
    order: list[Any] = []
    path: dict[int, None] = {}  # nodes whose inputs are being looked for, from the output up
    waiting = [makers[wanted]] if wanted in makers else []
    while waiting:
        at = waiting[-1]
        if at in done:
            waiting.pop()
            continue
        names = [name for name in nodes[at].input if name and name not in given]
        lost = [name for name in names if name not in makers]
        if lost:
            raise unsupported(nodes[at], f"it reads {lost[0]!r}, which no node gives; the file is damaged: export it again", False)
        ahead = [makers[name] for name in names if makers[name] not in done]
        if not ahead:
            done.add(at)
            path.pop(at, None)
            order.append(at)
            waiting.pop()
            continue
        path[at] = None
        circle = next((i for i in ahead if i in path), None)
        if circle is not None:
            ring = [*path][[*path].index(circle) :]
            named = " <- ".join(repr(nodes[i].name or nodes[i].output[0]) for i in [*ring[:6], circle])
            raise WeightsError(f"the graph's nodes read each other in a circle ({named}); the file is damaged: export it again")
        waiting += ahead
    return [nodes[i] for i in sorted(order)] if _sorted(nodes, order, given) else [nodes[i] for i in order]


def _sorted(nodes: Sequence[Any], chosen: Sequence[int], given: set[str]) -> bool:
    """Tell whether nodes stand behind those that they read in the file's own order, as ONNX asks for."""
    seen = set(given)
    for i in sorted(chosen):
        if any(name and name not in seen for name in nodes[i].input):
            return False
        seen.update(nodes[i].output)
    return True


def _visit(walk: Walk, node: Any, functions: Functions) -> None:
    """Follow the graph through one node, or evaluate it if it has constants only."""
    names = [name for name in node.input if name]
    options = attributes(node)
    if node.domain not in NORMAL_DOMAINS:
        raise unsupported(node, f"operators of {node.domain} aren't supported")
    if all(name in walk.constants for name in names):
        walk.evaluate(node)
        return
    if node.op_type in ("Shape", "Size") and node.input[0] in walk.values:
        walk.measure(node, options)
        return
    output = node.output[0]
    direct = _operands(walk, node)
    compute = OPERATORS.get(node.op_type)
    if direct is not None and compute is not None and functions.follow(lambda *inputs: compute(inputs, options), direct, output):
        found = functions.activation(output, direct)
        if found and found[0] in walk.values:
            walk.activate(node, found[1], walk.values[found[0]])
            return
    pending = next((walk.pending[name] for name in names if name in walk.pending), None)
    handler = HANDLERS.get(node.op_type)
    if pending is None and handler is not None:
        handler(walk, node, options)
        return
    error = pending or unsupported(node, REASONS.get(node.op_type, "this operator isn't supported"))
    if direct is None:
        raise error
    walk.pending[output] = error  # unless what follows makes an activation of it


def _operands(walk: Walk, node: Any) -> list[str | float | None] | None:
    """Return a node's inputs: tensors by name, single numbers as such; None if there are other constants."""
    found: list[str | float | None] = []
    for name in node.input:
        if name in walk.constants:
            array = walk.constants[name]
            if array.size != 1 or array.dtype.kind not in "fiu":
                return None
            found.append(float(array.reshape(-1)[0]))
        else:
            found.append(walk.alias(name) if name else None)
    return found


def _without_call_numbers(names: list[str]) -> list[str]:
    """Take away the number that Keras 3 appends to every layer's name when it is traced for export (block1_conv1_1)."""
    short = [re.sub(r"_\d+$", "", name) for name in names]
    return short if all(name != other for name, other in zip(short, names, strict=True)) else names
