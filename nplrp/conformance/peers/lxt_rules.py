"""LXT's explicit rules on one layer: its epsilon rule, its functions for sums, products and layer norms."""

import functools

import numpy as np
import torch
from lxt.explicit import functional, rules
from torch_graph import Graph, computed, nchw, nhwc

#: What its layer norms divide with.
LAYER_NORM = 1e-6
RULED = ("conv", "depthwise", "conv_transpose", "dense", "batchnorm", "avgpool")


def isolated(job):
    """Return what a layer gives to its inputs, by (layer, input)."""
    (layer,) = job.layers
    graph, kind, rule = Graph(job.layers, job.dtype), layer.kind, layer.rule["name"]
    xs = {name: nchw(a).requires_grad_() for name, a in job.inputs(layer).items()}
    given, epsilon = [xs[name] for name in layer.inputs], layer.rule.get("epsilon", 1e-8)
    divides = ("epsilon", "zero", "norm")
    if kind in RULED and rule in divides and layer.rule.get("bias") != "none":
        y = rules.epsilon_lrp(lambda x: computed(layer, x, graph.operations[layer.name]), epsilon, given[0])
        if layer.activation != "linear":
            y = rules.identity(graph.bends[layer.name], y)
    elif kind == "add" and rule in divides:
        y = functools.reduce(lambda a, b: functional.add2(a, b, epsilon=epsilon), given)
    elif kind == "multiply" and rule == "half":
        y = functional.mul2(*given)
    elif kind == "layernorm" and rule == "epsilon" and epsilon == LAYER_NORM:
        norm = graph.operations[layer.name]
        y = functional.layer_norm(given[0].movedim(1, -1), norm.weight, norm.bias, norm.eps).movedim(-1, 1)
    elif kind == "activation" and rule == "pass":
        y = rules.identity(graph.bends[layer.name], given[0])
    elif kind in ("flatten", "reshape", "permute", "pad", "crop", "upsample", "concatenate") or (kind, rule) == ("maxpool", "winner"):
        y = graph.run(layer, given)
    else:
        layer.no_rule("LXT")
    R = torch.autograd.grad(y, list(xs.values()), nchw(job.relevance(layer)).to(y.dtype).reshape(y.shape))
    return {(layer.name, name): np.asarray(nhwc(each)) for name, each in zip(xs, R)}
