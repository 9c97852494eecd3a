"""Build `graph_file`'s networks in PyTorch, for Zennit and Captum. Needs torch, not nplrp."""

import numpy as np
import torch
from graph_forward import pads
from torch import nn

ACTIVATIONS = {
    "relu": nn.ReLU,
    "relu6": nn.ReLU6,
    "leaky_relu": nn.LeakyReLU,
    "elu": nn.ELU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}
JOINS = {
    "subtract": lambda xs: xs[0] - xs[1],
    "average": lambda xs: sum(xs) / len(xs),
    "maximum": lambda xs: torch.maximum(*xs),
    "minimum": lambda xs: torch.minimum(*xs),
    "multiply": lambda xs: xs[0] * xs[1],
    "concatenate": lambda xs: torch.cat(xs, dim=1),
}
#: Axes of Keras's kernels in PyTorch's order.
ORDER = {"conv": (3, 2, 0, 1), "depthwise": (2, 3, 0, 1), "conv_transpose": (3, 2, 0, 1), "dense": (1, 0)}


class ChannelsLast(nn.Module):
    """A layer norm over the channels of [n, c, h, w]; of vectors as it is."""

    def __init__(self, norm):
        super().__init__()
        self.norm = norm

    def forward(self, x):
        """Normalise over the channels."""
        return self.norm(x.movedim(1, -1)).movedim(-1, 1)


class Graph(nn.Module):
    """Runs the layers in their order; a module for each layer that has one, called as the layer.

    `add` makes the module of an Add of that many inputs and calls it with a list, or is None for a bare `+`.
    """

    def __init__(self, network, add=None):
        super().__init__()
        self.layers, self.sizes = network.layers, {}
        with torch.no_grad():
            values = {"x": to_nchw(network.x)}
            for layer in self.layers[1:]:
                xs = [values[name] for name in layer["inputs"]]
                for name, module in modules(layer, xs, add).items():
                    self.add_module(name, module)
                values[layer["name"]] = self.run(layer, xs)
        self.double().eval()

    def run(self, layer, xs):
        """Run one layer."""
        name, kind = layer["name"], layer["kind"]
        if kind == "add":
            return getattr(self, name)(xs) if hasattr(self, name) else sum(xs[1:], xs[0])
        if kind in JOINS:
            return JOINS[kind](xs)
        (x,) = xs
        if kind == "flatten":
            return x.permute(0, 2, 3, 1).flatten(1) if x.ndim == 4 else x
        if kind == "reshape":
            h, w, c = layer["shape"]
            return x.reshape(-1, h, w, c).permute(0, 3, 1, 2)
        x = getattr(self, name)(x)
        if kind in ("global_maxpool", "global_avgpool"):
            x = x.flatten(1)
        function = f"{name}_activation"
        return getattr(self, function)(x) if hasattr(self, function) else x

    def forward(self, x):
        """[n, c, h, w] or [n, c] -> logits"""
        values = {"x": x}
        for layer in self.layers[1:]:
            values[layer["name"]] = self.run(layer, [values[name] for name in layer["inputs"]])
        return values[self.layers[-1]["name"]]


def modules(layer, xs, add):
    """Return {name: module} for a layer, given its inputs."""
    kind, name, arrays = layer["kind"], layer["name"], layer["arrays"]
    if kind == "add":
        return {name: add(len(xs))} if add else {}
    if "kernel" in arrays:
        found = {name: weighted(layer, xs[0])}
        if layer["activation"] != "linear":
            found[f"{name}_activation"] = ACTIVATIONS[layer["activation"]]()
        return found
    if kind == "activation":
        return {name: ACTIVATIONS[layer["function"]](*([layer["slope"]] if "slope" in layer else []))}
    if kind == "batchnorm":
        norm = (nn.BatchNorm2d if xs[0].ndim == 4 else nn.BatchNorm1d)(xs[0].shape[1], eps=layer["epsilon"])
        for key, array in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "mean"), ("running_var", "variance")):
            getattr(norm, key).data = torch.tensor(arrays[array])
        return {name: norm.double().eval()}
    if kind == "layernorm":
        norm = nn.LayerNorm(xs[0].shape[1], eps=layer["epsilon"])
        norm.weight.data, norm.bias.data = torch.tensor(arrays["gamma"]), torch.tensor(arrays["beta"])
        return {name: ChannelsLast(norm)}
    if kind in ("maxpool", "avgpool"):
        padding = symmetric(layer, xs[0])
        more = {} if kind == "maxpool" else {"count_include_pad": False}
        return {name: {"maxpool": nn.MaxPool2d, "avgpool": nn.AvgPool2d}[kind](layer["size"], layer["stride"], padding, **more)}
    if kind in ("global_maxpool", "global_avgpool"):
        return {name: (nn.AdaptiveMaxPool2d if kind == "global_maxpool" else nn.AdaptiveAvgPool2d)(1)}
    if kind == "upsample":
        return {name: nn.Upsample(scale_factor=layer["factor"])}
    return {}


def symmetric(layer, x, shape=None):
    """Return the padding of a window that pads alike before and after, as PyTorch's layers do."""
    sides = [pads(n, k, s, layer["padding"]) for n, k, s in zip(shape or x.shape[2:], layer["size"], layer["stride"], strict=True)]
    if any(before != after for before, after in sides):
        raise NotImplementedError(f"{layer['name']} pads {sides}: PyTorch pads alike on both sides")
    return tuple(before for before, _ in sides)


def weighted(layer, x):
    """Return the module of a layer with a kernel."""
    kind, arrays = layer["kind"], layer["arrays"]
    kernel = torch.tensor(arrays["kernel"].transpose(ORDER[kind]).copy())
    c, bias = x.shape[1], "bias" in arrays
    if kind == "dense":
        module = nn.Linear(*arrays["kernel"].shape, bias=bias)
    elif kind == "conv_transpose":
        wide = [n * s for n, s in zip(x.shape[2:], layer["stride"], strict=True)]
        module = nn.ConvTranspose2d(c, kernel.shape[1], layer["size"], layer["stride"], symmetric(layer, x, wide), bias=bias)
    else:
        groups = c if kind == "depthwise" else layer["groups"]
        module = nn.Conv2d(c, len(kernel), layer["size"], layer["stride"], symmetric(layer, x), groups=groups, bias=bias)
    assert module.weight.shape == kernel.shape, layer["name"]
    module.weight.data = kernel
    if bias:
        module.bias.data = torch.tensor(arrays["bias"])
    return module.double()


def to_nchw(x):
    """[n, h, w, c] array -> [n, c, h, w] tensor; vectors as they are"""
    return torch.tensor(np.moveaxis(x, -1, 1).copy())


def to_nhwc(x):
    """[n, c, h, w] tensor -> [n, h, w, c] array; vectors as they are"""
    return np.ascontiguousarray(np.moveaxis(x.detach().numpy(), 1, -1))
