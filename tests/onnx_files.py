"""ONNX files made node by node, and onnxruntime to hold what is read from them against."""

import numpy as np
import onnx
import onnxruntime as runtime
from onnx import TensorProto, helper, numpy_helper

import nplrp
from weights_tools.from_onnx import from_onnx


def output(model, x):
    return list(nplrp.forward(model, x, "float64").values())[-1]


def graph_file(path, nodes, constants, sizes, outputs=("y",), opset=17, producer="", extra_inputs=()):
    """Write an ONNX model whose input is ``x``."""
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    inputs = [helper.make_tensor_value_info("x", TensorProto.FLOAT, sizes)]
    inputs += [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in extra_inputs]
    results = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
    graph = helper.make_graph(nodes, "graph", inputs, results, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], producer_name=producer, ir_version=8)
    onnx.save(model, path)
    return path


def node(kind, inputs, outputs="y", name="", **options):
    """Make a node; a dash is an input that isn't given."""
    return helper.make_node(kind, ["" if each == "-" else each for each in inputs.split()], outputs.split(), name=name, **options)


def by_runtime(path, x):
    quiet = runtime.SessionOptions()
    quiet.log_severity_level, quiet.intra_op_num_threads = 3, 1
    return runtime.InferenceSession(path, quiet, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]


def agrees(path, x, rtol=2e-5, channels_last=False, **options):
    """Hold the converted model's output to onnxruntime's; x is given as the graph takes it."""
    expected = by_runtime(path, x)
    model = from_onnx(path, **options)
    found = output(model, x if x.ndim == 2 or channels_last else x.transpose(0, 2, 3, 1))
    if expected.ndim == 4 and not channels_last:
        expected = expected.transpose(0, 2, 3, 1)
    np.testing.assert_allclose(found, expected.reshape(found.shape), rtol=rtol, atol=rtol * np.abs(expected).max())
    return model


def numbers(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("f4")
