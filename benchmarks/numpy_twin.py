"""VGG-like networks and LRP in plain NumPy: im2col and a matrix product, slow and obvious.

Layers are dicts, as `protocol.read_network` gives them. [n, h, w, c] images, [kh, kw, cin, cout] kernels; every convolution is "same" with
stride 1, every pool 2 x 2.
"""

import numpy as np

EPS = 1e-6
#: Rule -> parts (weight of the part, changes); a change is (part of the input, part of the weights); the bias takes the part's last sign.
RULES = {
    "epsilon": ((1, (("all", "all"),)),),
    "zplus": ((1, (("+", "+"), ("-", "-"))),),
    "alpha_beta": ((2, (("+", "+"), ("-", "-"))), (-1, (("+", "-"), ("-", "+")))),
}
_BIAS = {"epsilon": ("all",), "zplus": ("+",), "alpha_beta": ("+", "-")}


def im2col(x, kh, kw):
    """Return the windows of every pixel as rows: [n, h, w, c] -> [n * h * w, kh * kw * c]."""
    n, h, w, c = x.shape
    padded = np.pad(x, ((0, 0), (kh // 2, kh // 2), (kw // 2, kw // 2), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, (kh, kw), (1, 2))
    return windows.transpose(0, 1, 2, 4, 5, 3).reshape(n * h * w, kh * kw * c)


def linear(layer, x, w):
    """Apply a layer's weights w without bias."""
    if layer["kind"] == "dense":
        return x @ w
    return (im2col(x, *w.shape[:2]) @ w.reshape(-1, w.shape[3])).reshape(*x.shape[:3], w.shape[3])


def transpose(layer, s, w):
    """Carry s back along w: the transpose of `linear`."""
    if layer["kind"] == "dense":
        return s @ w.T
    turned = np.ascontiguousarray(w[::-1, ::-1].swapaxes(2, 3))
    return linear(layer, s, turned)


def pool(x):
    """Return each window's maximum and the place of the first one: [n, h, w, c] -> [n, h / 2, w / 2, c] each."""
    n, h, w, c = x.shape
    windows = x[:, : h // 2 * 2, : w // 2 * 2].reshape(n, h // 2, 2, w // 2, 2, c)
    windows = windows.transpose(0, 1, 3, 5, 2, 4).reshape(n, h // 2, w // 2, c, 4)
    return windows.max(-1), windows.argmax(-1)


def unpool(R, winner, shape):
    """Give each window's relevance to its winner."""
    n, h, w, c = R.shape
    windows = np.zeros((n, h, w, c, 4), R.dtype)
    np.put_along_axis(windows, winner[..., None], R[..., None], -1)
    out = np.zeros(shape, R.dtype)
    out[:, : 2 * h, : 2 * w] = windows.reshape(n, h, w, c, 2, 2).transpose(0, 1, 4, 2, 5, 3).reshape(n, 2 * h, 2 * w, c)
    return out


def forward(layers, x):
    """Return every layer's input and, last, the logits; and each pool's winners by layer."""
    inputs, winners = [x], {}
    for i, layer in enumerate(layers):
        x = inputs[-1]
        if layer["kind"] == "maxpool":
            x, winners[i] = pool(x)
        elif layer["kind"] == "flatten":
            x = x.reshape(len(x), -1)
        else:
            x = linear(layer, x, layer["kernel"]) + layer["bias"]
            x = np.maximum(x, 0) if layer["activation"] == "relu" else x
        inputs.append(x)
    return inputs, winners


def explain(layers, x, rule):
    """Return the relevance of the input, starting with the largest logit."""
    inputs, winners = forward(layers, x)
    logits = inputs[-1]
    R = np.where(logits == logits.max(-1, keepdims=True), logits, 0)
    for i in range(len(layers) - 1, -1, -1):
        layer, a = layers[i], inputs[i]
        if layer["kind"] == "maxpool":
            R = unpool(R, winners[i], a.shape)
        elif layer["kind"] == "flatten":
            R = R.reshape(a.shape)
        else:
            parts = zip(RULES[rule], _BIAS[rule], strict=True)
            R = sum(weight * _redistribute(layer, a, R, changes, bias) for (weight, changes), bias in parts)
    return R


def _redistribute(layer, a, R, changes, bias):
    """Do one part of a rule: the four steps."""
    terms = [(_part(a, of_a), _part(layer["kernel"], of_w)) for of_a, of_w in changes]
    z = sum(linear(layer, each, w) for each, w in terms) + _part(layer["bias"], bias)
    s = R / (z + np.where(z < 0, np.float32(-EPS), np.float32(EPS)))
    return sum(each * transpose(layer, s, w) for each, w in terms)


def _part(x, sign):
    return x if sign == "all" else np.maximum(x, 0) if sign == "+" else np.minimum(x, 0)
