"""A chain of layers as PyTorch modules: NCHW, OIHW."""

import numpy as np
import torch


def modules(job):
    """Return a module for each layer; softmax is left to `softmaxed`, flattening is done in Keras's order by `entered`."""
    return torch.nn.ModuleList(_module(layer, job.dtype) for layer in job.layers)


def _module(layer, dtype):
    top, _, left, _ = layer.pads
    if layer.kind == "conv":
        out = torch.nn.Conv2d(*layer.kernel.shape[2:], layer.size, layer.stride, (top, left), layer.dilation, dtype=_torch(dtype))
        out.weight.data = torch.tensor(layer.kernel.transpose(3, 2, 0, 1).astype(dtype))
    elif layer.kind == "dense":
        out = torch.nn.Linear(*layer.kernel.shape, dtype=_torch(dtype))
        out.weight.data = torch.tensor(layer.kernel.T.astype(dtype))
    elif layer.kind == "maxpool":
        out = torch.nn.MaxPool2d(layer.size, layer.stride, (top, left), layer.dilation)
    elif layer.kind == "avgpool":
        out = torch.nn.AvgPool2d(layer.size, layer.stride, (top, left), count_include_pad=False)
    elif layer.kind == "activation" and layer.activation == "relu":
        return torch.nn.ReLU()
    else:
        out = torch.nn.Identity()
    if layer.kernel is not None:
        bias = np.zeros(layer.kernel.shape[-1]) if layer.bias is None else layer.bias
        out.bias.data = torch.tensor(bias.astype(dtype))
    return torch.nn.Sequential(out, torch.nn.ReLU()) if layer.activation == "relu" else out


def _torch(dtype):
    return {"float32": torch.float32, "float64": torch.float64}[dtype.name]


def entered(layer, a):
    """Return a layer's input as its module takes it: flattened row by row, channels last."""
    return (a.permute(0, 2, 3, 1) if a.ndim == 4 else a).flatten(1) if layer.kind == "flatten" else a


def left(layer, R):
    """Return the relevance of a flatten's output [n, units] as that of its input."""
    if layer.kind != "flatten":
        return R
    R = R.reshape(len(R), *layer.shape)
    return R.permute(0, 3, 1, 2) if R.ndim == 4 else R


def softmaxed(layer, a):
    """Return a layer's activation, given its module's output."""
    return a.softmax(-1) if layer.activation == "softmax" else a


def nchw(array):
    """[n, h, w, c] array -> [n, c, h, w] tensor; vectors stay."""
    return torch.tensor(np.ascontiguousarray(array.transpose(0, 3, 1, 2) if array.ndim == 4 else array))


def nhwc(x):
    """[n, c, h, w] tensor -> [n, h, w, c] array; vectors stay."""
    return np.ascontiguousarray((x.permute(0, 2, 3, 1) if x.ndim == 4 else x).detach().numpy())
