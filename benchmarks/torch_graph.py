"""Networks that aren't chains as PyTorch modules, from the same arrays. Runs in the peers' interpreter."""

import numpy as np
import torch
from torch import nn
from torch.nn import functional

#: Axes of Keras's kernels in PyTorch's order.
ORDER = {"conv": (3, 2, 0, 1), "depthwise": (2, 3, 0, 1), "dense": (1, 0)}
POOLS = {"maxpool": nn.MaxPool2d, "avgpool": nn.AvgPool2d}


class Graph(nn.Module):
    """Runs layers in their order; a module for each that has one, called as the layer.

    Parameters
    ----------
    layers : list of dict
        From `protocol.read_network`.
    add : callable or None
        Makes the module of a sum, which is called with a list; None for bare `+`.
    """

    def __init__(self, layers, add=None):
        super().__init__()
        self.layers, self.padding = layers, {}
        for layer in layers:
            module = add() if layer["kind"] == "add" and add else _module(layer)
            if module is not None:
                self.add_module(layer["name"], module)
            if layer["window"] and not _even(layer):
                top, bottom, left, right = layer["window"]["pads"]
                self.padding[layer["name"]] = left, right, top, bottom

    def forward(self, x):
        """Return the logits: [n, c, h, w] -> [n, units]."""
        values = {"input": x}
        for layer in self.layers:
            values[layer["name"]] = self.run(layer, [values[name] for name in layer["inputs"]])
        return values[self.layers[-1]["name"]]

    def run(self, layer, xs):
        """Run one layer."""
        name, kind = layer["name"], layer["kind"]
        if kind == "add":
            return getattr(self, name)(xs) if hasattr(self, name) else sum(xs[1:], xs[0])
        if kind == "concatenate":
            return torch.cat(xs, dim=1)
        (x,) = xs
        if kind == "pad":
            top, bottom, left, right = layer["pads"]
            return functional.pad(x, (left, right, top, bottom))
        if name in self.padding:
            x = functional.pad(x, self.padding[name])
        x = getattr(self, name)(x)
        return torch.flatten(x, 1) if kind == "global_avgpool" else x


def _even(layer):
    top, bottom, left, right = layer["window"]["pads"]
    return top == bottom and left == right


def _module(layer):
    """Return a layer's module, or None for a function call.

    Raises
    ------
    ValueError
        If there is none for its kind.
    """
    kind, name, arrays, window = layer["kind"], layer["name"], layer["arrays"], layer["window"]
    if kind in ("add", "concatenate", "pad"):
        return None
    if kind == "activation":
        return {"relu": nn.ReLU, "relu(max_value=6.0)": nn.ReLU6}[layer["activation"]]()
    if kind == "batchnorm":
        module = nn.BatchNorm2d(layer["input_shape"][-1], eps=layer["epsilon"])
        for key, array in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance")):
            if array in arrays:
                getattr(module, key).data = torch.from_numpy(np.array(arrays[array]))
        return module
    if kind == "global_avgpool":
        return nn.AdaptiveAvgPool2d(1)
    if kind in POOLS:
        padding = (window["pads"][0], window["pads"][2]) if _even(layer) else 0
        more = {"count_include_pad": False} if kind == "avgpool" else {}
        return POOLS[kind](window["size"], window["stride"], padding, **more)
    if kind not in ORDER:
        raise ValueError(f"layer {name}: no module for kind {kind}")
    weight = np.ascontiguousarray(arrays["kernel"].transpose(ORDER[kind]))
    if kind == "dense":
        module = nn.utils.skip_init(nn.Linear, weight.shape[1], weight.shape[0], bias="bias" in arrays)
    else:
        padding = (window["pads"][0], window["pads"][2]) if _even(layer) else 0
        shape, groups = layer["input_shape"], layer["input_shape"][-1] if kind == "depthwise" else 1
        module = nn.utils.skip_init(
            nn.Conv2d, shape[-1], len(weight), weight.shape[2:], window["stride"], padding, groups=groups, bias="bias" in arrays
        )
    module.weight = nn.Parameter(torch.from_numpy(weight))
    if "bias" in arrays:
        module.bias = nn.Parameter(torch.from_numpy(np.array(arrays["bias"])))
    return module


def merges(layers):
    """Return [([linear layer], batch norm)] for each batch norm that alone reads a layer with a kernel."""
    by_name = {layer["name"]: layer for layer in layers}
    read = [name for layer in layers for name in layer["inputs"]]
    pairs = [(layer["inputs"][0], layer["name"]) for layer in layers if layer["kind"] == "batchnorm"]
    return [([below], norm) for below, norm in pairs if by_name.get(below, {}).get("kind") in ORDER and read.count(below) == 1]


def build(layers, add=None, merge=False):
    """Return the module, whose parameters need no gradients, in evaluation mode; with batch norms merged and left out if `merge`."""
    model = Graph(layers, add).eval().requires_grad_(False)
    for (linear,), norm in merges(layers) if merge else ():
        merged = nn.utils.fuse_conv_bn_eval(getattr(model, linear), getattr(model, norm))
        setattr(model, linear, merged.requires_grad_(False))
        setattr(model, norm, nn.Identity())
    return model
