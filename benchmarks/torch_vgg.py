"""The same network as a PyTorch module, from the same arrays. Runs in the peers' interpreter."""

import numpy as np
import torch
from torch import nn


class Chain(nn.Module):
    """Convolutions, ReLUs and pools; flatten; dense layers; no softmax.

    The flattening is a function call in `forward`: Captum has no rule for `nn.Flatten`.

    Parameters
    ----------
    layers : list of dict
        From `protocol.read_network`.
    """

    def __init__(self, layers):
        super().__init__()
        at = next(i for i, layer in enumerate(layers) if layer["kind"] == "flatten")
        self.features = nn.Sequential(*(module for layer in layers[:at] for module in _modules(layer)))
        first = layers[at + 1] | {"kernel": _channels_first(layers[at + 1]["kernel"], layers[at]["input_shape"])}
        self.classifier = nn.Sequential(*(module for layer in (first, *layers[at + 2 :]) for module in _modules(layer)))

    def forward(self, x):
        """Return the logits: [n, c, h, w] -> [n, units]."""
        return self.classifier(torch.flatten(self.features(x), 1))


def build(layers):
    """Return the module, whose parameters need no gradients, in evaluation mode."""
    return Chain(layers).eval().requires_grad_(False)


def tensor(x, channels_last=False, dtype=torch.float32):
    """Return an array [n, h, w, c] as a tensor [n, c, h, w]."""
    nchw = torch.from_numpy(x).permute(0, 3, 1, 2).to(dtype)
    return nchw.contiguous(memory_format=torch.channels_last if channels_last else torch.contiguous_format)


def array(x):
    """Return a tensor [n, c, h, w] as an array [n, h, w, c]."""
    return np.ascontiguousarray(x.detach().permute(0, 2, 3, 1).numpy())


def _modules(layer):
    if layer["kind"] == "maxpool":
        return [nn.MaxPool2d(2)]
    kernel, bias = layer["kernel"], torch.from_numpy(np.array(layer["bias"]))
    if layer["kind"] == "conv":
        module = nn.utils.skip_init(nn.Conv2d, kernel.shape[2], kernel.shape[3], kernel.shape[0], padding=kernel.shape[0] // 2)
        weight = np.ascontiguousarray(kernel.transpose(3, 2, 0, 1))
    elif layer["kind"] == "dense":
        module = nn.utils.skip_init(nn.Linear, *kernel.shape)
        weight = np.ascontiguousarray(kernel.T)
    else:
        raise ValueError(f"layer {layer['name']}: no module for kind {layer['kind']}")
    module.weight, module.bias = nn.Parameter(torch.from_numpy(weight)), nn.Parameter(bias)
    return [module, nn.ReLU()] if layer["activation"] == "relu" else [module]


def _channels_first(kernel, shape):
    """Reorder the rows of the first dense kernel from (h, w, c) to (c, h, w)."""
    height, width, channels = shape
    return kernel.reshape(height, width, channels, -1).transpose(2, 0, 1, 3).reshape(kernel.shape)
