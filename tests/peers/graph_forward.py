"""The forward pass of `graph_file`'s networks in plain NumPy, layer by layer: slow and obvious. NHWC; an array per layer."""

import math

import numpy as np


def pads(n, size, stride, padding):
    """Return the zeros before and after an axis of n, as TensorFlow pads."""
    total = max((-(-n // stride) - 1) * stride + size - n, 0) if padding == "same" else 0
    return total // 2, total - total // 2


def windows(x, size, stride, padding, fill=0.0):
    """Yield for every place in the window ((i, j), what of x [n, h, w, c] lies there [n, rows, columns, c])."""
    sides = [pads(n, k, s, padding) for n, k, s in zip(x.shape[1:3], size, stride, strict=True)]
    rows, columns = ((n + sum(p) - k) // s + 1 for n, p, k, s in zip(x.shape[1:3], sides, size, stride, strict=True))
    x = np.pad(x, [(0, 0), *sides, (0, 0)], constant_values=fill)
    for i in range(size[0]):
        for j in range(size[1]):
            yield (i, j), x[:, i : i + (rows - 1) * stride[0] + 1 : stride[0], j : j + (columns - 1) * stride[1] + 1 : stride[1]]


def conv(x, kernel, stride, padding, groups=1):
    """[n, h, w, c], [kh, kw, c / groups, out] -> [n, rows, columns, out]"""
    total = 0
    for (i, j), part in windows(x, kernel.shape[:2], stride, padding):
        pieces = zip(np.split(part, groups, axis=-1), np.split(kernel[i, j], groups, axis=-1), strict=True)
        total = total + np.concatenate([a @ w for a, w in pieces], axis=-1)
    return total


def depthwise(x, kernel, stride, padding):
    """[n, h, w, c], [kh, kw, c, 1] -> [n, rows, columns, c]"""
    return sum(part * kernel[i, j, :, 0] for (i, j), part in windows(x, kernel.shape[:2], stride, padding))


def conv_transpose(x, kernel, stride, padding):
    """[n, h, w, c], [kh, kw, out, c] -> [n, h * stride, w * stride, out]: what a convolution of that window would carry back"""
    (h, w), (kh, kw) = x.shape[1:3], kernel.shape[:2]
    rows, columns = (h * stride[0], w * stride[1]) if padding == "same" else ((h - 1) * stride[0] + kh, (w - 1) * stride[1] + kw)
    full = np.zeros((len(x), (h - 1) * stride[0] + kh, (w - 1) * stride[1] + kw, kernel.shape[2]))
    for i in range(kh):
        for j in range(kw):
            full[:, i : i + (h - 1) * stride[0] + 1 : stride[0], j : j + (w - 1) * stride[1] + 1 : stride[1]] += x @ kernel[i, j].T
    top, left = (pads(n, k, s, padding)[0] for n, k, s in zip((rows, columns), (kh, kw), stride, strict=True))
    return full[:, top : top + rows, left : left + columns]


def avgpool(x, size, stride, padding):
    """Means over windows; padding isn't counted."""
    total = sum(part for _, part in windows(x, size, stride, padding))
    return total / sum(part for _, part in windows(np.ones_like(x), size, stride, padding))


def maxpool(x, size, stride, padding):
    """Maxima over windows."""
    return np.max([part for _, part in windows(x, size, stride, padding, -np.inf)], axis=0)


def upsample(x, factor):
    """Nearest neighbours."""
    return x.repeat(factor, axis=1).repeat(factor, axis=2)


def sigmoid(x):
    """1 / (1 + e^-x)"""
    return 1 / (1 + np.exp(-x))


FUNCTIONS = {
    "linear": lambda x: x,
    "relu": lambda x: np.maximum(x, 0),
    "relu6": lambda x: np.clip(x, 0, 6),
    "leaky_relu": lambda x, slope: np.where(x > 0, x, slope * x),
    "elu": lambda x: np.where(x > 0, x, np.expm1(np.minimum(x, 0))),
    "sigmoid": sigmoid,
    "tanh": np.tanh,
    "silu": lambda x: x * sigmoid(x),
    "gelu": lambda x: x * (1 + np.vectorize(math.erf)(x / math.sqrt(2))) / 2,
}


def activate(layer, z):
    """Apply the function of an activation layer, or of a layer with one."""
    function = layer.get("function", layer.get("activation", "linear"))
    return FUNCTIONS[function](z, *([layer["slope"]] if "slope" in layer else []))


def linear(layer, x, kernel):
    """Apply a layer with a kernel, without its bias and activation."""
    kind = layer["kind"]
    if kind == "dense":
        return x @ kernel
    if kind == "conv":
        return conv(x, kernel, layer["stride"], layer["padding"], layer["groups"])
    return {"depthwise": depthwise, "conv_transpose": conv_transpose}[kind](x, kernel, layer["stride"], layer["padding"])


JOINS = {
    "add": sum,
    "subtract": lambda xs: xs[0] - xs[1],
    "average": lambda xs: sum(xs) / len(xs),
    "maximum": lambda xs: np.maximum(*xs),
    "minimum": lambda xs: np.minimum(*xs),
    "multiply": lambda xs: xs[0] * xs[1],
    "concatenate": lambda xs: np.concatenate(xs, axis=-1),
}


def apply(layer, xs):
    """Apply one layer to the outputs [n, ...] of the layers that it reads; return (z, the output): z is before the activation."""
    kind, arrays = layer["kind"], layer["arrays"]
    if kind in JOINS:
        z = JOINS[kind](xs)
        return z, z
    (x,) = xs
    axes = tuple(range(1, x.ndim - 1))
    if "kernel" in arrays:
        z = linear(layer, x, arrays["kernel"]) + arrays.get("bias", 0)
        return z, activate(layer, z)
    if kind == "activation":
        z = activate(layer, x)
    elif kind == "batchnorm":
        z = (x - arrays["mean"]) / np.sqrt(arrays["variance"] + layer["epsilon"]) * arrays["gamma"] + arrays["beta"]
    elif kind == "layernorm":
        deviation = np.sqrt(x.var(axis=-1, keepdims=True) + layer["epsilon"])
        z = (x - x.mean(axis=-1, keepdims=True)) / deviation * arrays["gamma"] + arrays["beta"]
    elif kind in ("avgpool", "maxpool"):
        z = {"avgpool": avgpool, "maxpool": maxpool}[kind](x, layer["size"], layer["stride"], layer["padding"])
    elif kind in ("global_avgpool", "global_maxpool"):
        z = x.mean(axis=axes) if kind == "global_avgpool" else x.max(axis=axes)
    elif kind == "upsample":
        z = upsample(x, layer["factor"])
    else:
        z = x.reshape(len(x), *layer.get("shape", (-1,)))  # reshape, flatten
    return z, z


def forward(network, x=None):
    """Return {layer: its output} for the network's inputs or for others."""
    values = {network.layers[0]["name"]: network.x if x is None else x}
    for layer in network.layers[1:]:
        values[layer["name"]] = apply(layer, [values[name] for name in layer["inputs"]])[1]
    return values
