"""A graph of layers as PyTorch modules: OIHW; tensors have their channels at axis 1, whatever else they have."""

import functools

import numpy as np
import torch
from exchange import NORMS, POOLS, SCALES, WEIGHTED, parsed
from torch.nn import functional

JOINS = {
    "add": lambda xs: functools.reduce(torch.add, xs),
    "average": lambda xs: functools.reduce(torch.add, xs) / len(xs),
    "subtract": lambda xs: xs[0] - xs[1],
    "maximum": lambda xs: functools.reduce(torch.maximum, xs),
    "minimum": lambda xs: functools.reduce(torch.minimum, xs),
    "multiply": lambda xs: functools.reduce(torch.mul, xs),
}
#: PyTorch's modules, given an activation's parameters.
ACTIVATIONS = {
    "leaky_relu": lambda negative_slope=0.2: torch.nn.LeakyReLU(negative_slope),
    "elu": lambda alpha=1.0: torch.nn.ELU(alpha),
    "selu": torch.nn.SELU,
    "celu": lambda alpha=1.0: torch.nn.CELU(alpha),
    "sigmoid": torch.nn.Sigmoid,
    "log_sigmoid": torch.nn.LogSigmoid,
    "tanh": torch.nn.Tanh,
    "tanh_shrink": torch.nn.Tanhshrink,
    "silu": torch.nn.SiLU,
    "gelu": torch.nn.GELU,
    "gelu_tanh": lambda: torch.nn.GELU("tanh"),
    "mish": torch.nn.Mish,
    "softplus": lambda: torch.nn.Softplus(threshold=40),  # above its own 20 it gives z, which float64 tells from softplus
    "softsign": torch.nn.Softsign,
    "hard_sigmoid": torch.nn.Hardsigmoid,
    "hard_silu": torch.nn.Hardswish,
    "hard_tanh": lambda low=-1.0, high=1.0: torch.nn.Hardtanh(low, high),
    "hard_shrink": lambda threshold=0.5: torch.nn.Hardshrink(threshold),
    "soft_shrink": lambda threshold=0.5: torch.nn.Softshrink(threshold),
    "threshold": lambda threshold=1.0, value=0.0: torch.nn.Threshold(threshold, value),
    "softmax": lambda: torch.nn.Softmax(-1),
    "log_softmax": lambda: torch.nn.LogSoftmax(-1),
}
#: Axes of kernels in PyTorch's order; of a depthwise one behind [kh, kw, 1, channels].
ORDER = {"conv": (3, 2, 0, 1), "depthwise": (3, 2, 0, 1), "conv_transpose": (3, 2, 0, 1), "dense": (1, 0)}


class Graph(torch.nn.Module):
    """Layers that read each other; whatever none of them gives is an input, in the order of `reads`.

    Parameters
    ----------
    layers : list of Layer
    dtype : numpy.dtype
    join : callable
        From a join to the library's module for it, which takes a list, or None for the operator alone.
    """

    def __init__(self, layers, dtype, join=lambda layer: None):
        super().__init__()
        self.layers, names = layers, [layer.name for layer in layers]
        self.reads = list(dict.fromkeys(name for layer in layers for name in layer.inputs if name not in names))
        self.operations, self.bends = {}, {}
        for i, layer in enumerate(layers):
            made = join(layer) or operation(layer, dtype), activation(layer, layer.activation)
            self.operations[layer.name], self.bends[layer.name] = made
            for kind, module in zip(("operation", "activation"), made):
                if module is not None:
                    self.add_module(f"{kind}{i}", module)
        self.eval()

    def forward(self, *inputs):
        """Return the last output."""
        values = dict(zip(self.reads, inputs))
        for layer in self.layers:
            values[layer.name] = self.run(layer, [values[name] for name in layer.inputs])
        return values[self.layers[-1].name]

    def run(self, layer, xs):
        """Run one layer."""
        done, bent = self.operations[layer.name], self.bends[layer.name]
        x = joined(layer, xs, done) if len(xs) > 1 else computed(layer, xs[0], done)
        return x if bent is None else bent(x)


def joined(layer, xs, module):
    """Return what a layer makes of several inputs."""
    if layer.kind == "concatenate":
        axis = layer.options["axis"]
        return torch.cat(xs, 1 if axis == len(layer.output_shape) - 1 else axis + 2)
    return (module or JOINS[layer.kind])(xs)


def computed(layer, x, module):
    """Return what a layer makes of its one input."""
    kind, n, (top, bottom, left, right) = layer.kind, len(x), layer.pads
    if kind == "pad":
        return functional.pad(x, (left, right, top, bottom))
    if kind == "crop":
        return x[:, :, top : x.shape[2] - bottom, left : x.shape[3] - right]
    if kind == "upsample":
        rows, columns = layer.options["size"]
        return x.repeat_interleave(rows, 2).repeat_interleave(columns, 3)
    if kind in ("flatten", "reshape"):  # row by row, as Keras has it
        return channels_first(channels_last(x).reshape(n, *layer.output_shape))
    if kind == "permute":
        return channels_first(channels_last(x).permute(0, *layer.options["dims"]))
    if kind in ("dense", "layernorm", "rmsnorm"):  # over the last axis, or the last ones
        return channels_first(module(channels_last(x)))
    if kind == "conv_transpose":
        return module(x)[:, :, : layer.output_shape[0], : layer.output_shape[1]]
    y = x if module is None else module(x)
    return y.flatten(1) if layer.whole and len(layer.output_shape) == 1 else y


def operation(layer, dtype):
    """Return the module of a layer, without its activation; None if it has none."""
    if layer.kind in WEIGHTED:
        made = _weighted(layer)
    elif layer.kind in POOLS:
        made = _pool(layer)
    elif layer.kind in SCALES:
        made = _scale(layer)
    elif layer.kind in NORMS:
        made = _norm(layer)
    elif layer.kind == "prelu":
        made = _prelu(layer)
    else:
        return None
    return made.to({"float32": torch.float32, "float64": torch.float64}[dtype.name])


def _weighted(layer):
    top, bottom, left, right = layer.pads
    kernel, (kh, kw) = layer.kernel, layer.size
    if layer.kind == "dense":
        made = torch.nn.Linear(*kernel.shape, dtype=torch.float64)
    elif layer.kind == "conv_transpose":
        full = [(n - 1) * s + (k - 1) * d + 1 for n, s, k, d in zip(layer.shape, layer.stride, layer.size, layer.dilation)]
        extra = [max(out - n + 2 * p, 0) for out, n, p in zip(layer.output_shape, full, (top, left))]
        made = torch.nn.ConvTranspose2d(
            kernel.shape[3], kernel.shape[2], (kh, kw), layer.stride, (top, left), extra, dilation=layer.dilation, dtype=torch.float64
        )
    else:
        if layer.kind == "depthwise":
            kernel = kernel.reshape(kh, kw, 1, -1)
        groups = layer.shape[-1] // kernel.shape[2]
        kernel, mask = _even(layer, kernel)
        sizes = (
            layer.shape[-1],
            kernel.shape[3],
            kernel.shape[:2],
            layer.stride,
            (max(top, bottom), max(left, right)),
            layer.dilation,
            groups,
        )
        made = torch.nn.Conv2d(*sizes, dtype=torch.float64) if mask is None else MaskedConv2d(mask, *sizes, dtype=torch.float64)
    made.weight.data = _float64(kernel.transpose(ORDER[layer.kind]))
    made.bias.data = _float64(np.zeros(len(made.bias)) if layer.bias is None else layer.bias)
    return made


class MaskedConv2d(torch.nn.Conv2d):
    """A convolution some of whose weights are 0 and stay so, whatever a rule makes of them.

    Parameters
    ----------
    mask : ndarray [kh, kw] of 0 and 1
    """

    def __init__(self, mask, *sizes, **more):
        super().__init__(*sizes, **more)
        self.register_buffer("mask", _float64(mask))

    def forward(self, x):
        """Convolve."""
        return self._conv_forward(x, self.weight * self.mask, self.bias)


def _even(layer, kernel):
    """Return a kernel for padding that is the same on both sides, and which of its rows and columns count; None where it is so anyway.

    Where padding differs from side to side (as 'same' has it before a stride), the kernel gets rows of zeros on the side with less of it.
    """
    widths = []
    for less, more, dilation in zip(layer.pads[::2], layer.pads[1::2], layer.dilation):
        if (more - less) % dilation:
            layer.refuse(f"padding by {less} and {more} isn't supported with a dilation of {dilation}")
        widths.append((max(more - less, 0) // dilation, max(less - more, 0) // dilation))
    if not any(map(any, widths)):
        return kernel, None
    return np.pad(kernel, (*widths, (0, 0), (0, 0))), np.pad(np.ones(kernel.shape[:2]), widths)


def _pool(layer):
    top, _, left, _ = layer.pads
    sides = list(zip(layer.shape, layer.size, layer.stride, (top, left), layer.output_shape if not layer.whole else (1, 1)))
    down = all((n + 2 * p - k) // s + 1 == out for n, k, s, p, out in sides)
    up = all(-(-(n + 2 * p - k) // s) + 1 == out for n, k, s, p, out in sides)  # the last windows reach over the edge
    if not (down or up) or any(2 * p > k for _, k, _, p, _ in sides):
        layer.refuse(f"PyTorch has no pool with a padding of {list(layer.pads)} and a window of {layer.size}")
    if layer.kind == "maxpool":
        return torch.nn.MaxPool2d(layer.size, layer.stride, (top, left), ceil_mode=not down)
    return torch.nn.AvgPool2d(layer.size, layer.stride, (top, left), ceil_mode=not down, count_include_pad=False)


def _scale(layer):
    """Return a batch norm that is g x + h, with statistics that change nothing: so rules change g and h, as LRP sees them."""
    kind = torch.nn.BatchNorm2d if len(layer.shape) == 3 else torch.nn.BatchNorm1d
    made = kind(layer.shape[-1], eps=0.0, dtype=torch.float64)
    made.weight.data, made.bias.data = map(_float64, layer.gain)
    return made


def _norm(layer):
    axes, gamma, beta = layer.options.get("axes"), *(layer.arrays.get(key) for key in ("gamma", "beta"))
    if layer.kernel is not None:  # with a batch norm merged into it
        gamma, beta = layer.kernel, layer.bias
    if layer.kind == "groupnorm":
        groups = layer.options.get("groups", 1)
        channels = layer.shape[-1]
        made = torch.nn.GroupNorm(channels if groups == -1 else groups, channels, layer.epsilon, dtype=torch.float64)
    else:
        axes = sorted(axes or [len(layer.shape) - 1])
        sizes = [layer.shape[axis] for axis in axes]
        if axes != list(range(axes[0], len(layer.shape))) or layer.kind == "unitnorm" or layer.options.get("rms_scaling"):
            layer.refuse(f"PyTorch has no module for such a {layer.kind}")
        made = (torch.nn.LayerNorm if layer.kind == "layernorm" else torch.nn.RMSNorm)(sizes, layer.epsilon, dtype=torch.float64)
        gamma = layer.arrays.get("scale", gamma)
    for name, array in (("weight", gamma), ("bias", beta)):
        if array is not None:
            getattr(made, name).data = _float64(array)
    return made


def _prelu(layer):
    alpha = layer.arrays["alpha"].reshape(-1)
    if alpha.size not in (1, layer.shape[-1]) or layer.arrays["alpha"].shape[-1:] != alpha.shape:
        layer.refuse("PyTorch's PReLU has one slope, or one for each channel")
    made = torch.nn.PReLU(len(alpha), dtype=torch.float64)
    made.weight.data = _float64(alpha)
    return made


def activation(layer, text):
    """Return the module of an activation; None if it does nothing."""
    name, given = parsed(text)
    if name == "linear":
        return None
    if name == "relu":
        top, slope, start = (given.get(key, usual) for key, usual in (("max_value", np.inf), ("negative_slope", 0), ("threshold", 0)))
        if top == np.inf and 0 in (slope, start):
            return torch.nn.Threshold(start, 0) if start else torch.nn.LeakyReLU(slope) if slope else torch.nn.ReLU()
        if slope == start == 0:
            return torch.nn.ReLU6() if top == 6 else torch.nn.Hardtanh(0, top)
    if name not in ACTIVATIONS:
        layer.refuse(f"PyTorch has no module for the activation {text!r}")
    return ACTIVATIONS[name](**given)


def reported(job, values):
    """Return activations as golden values have them, NHWC arrays by name: scores where the last layers make scores of the logits."""
    score = activation(job.layers[-1], job.score)
    return {name: nhwc(score(x) if name in job.scored else x) for name, x in values.items()}


def channels_first(x):
    """[n, ..., c] -> [n, c, ...]; vectors stay the tensor that they are, as Captum's hooks are per tensor."""
    return x if x.ndim == 2 else x.movedim(-1, 1)


def channels_last(x):
    """[n, c, ...] -> [n, ..., c]."""
    return x if x.ndim == 2 else x.movedim(1, -1)


def nchw(array):
    """[n, ..., c] array -> [n, c, ...] tensor."""
    return torch.tensor(np.ascontiguousarray(np.moveaxis(array, -1, 1)))


def nhwc(x):
    """[n, c, ...] tensor -> [n, ..., c] array."""
    return np.ascontiguousarray(channels_last(x).detach().numpy())


def _float64(array):
    return torch.tensor(np.asarray(array, np.float64))
