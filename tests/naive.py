"""Slow, obvious twins of everything fast: plain loops over plain arrays, one line per definition.

NHWC images, HWIO kernels. `pads` is (top, bottom, left, right). Everything is computed in the dtype of the input,
or in float64 when the caller passes float64 arrays.
"""

import numpy as np


def conv_forward(x, w, b, stride=(1, 1), dilation=(1, 1), pads=(0, 0, 0, 0), groups=1):
    """[n, h, w, cin], [kh, kw, cin / groups, cout] -> [n, ho, wo, cout]"""
    if groups > 1:
        parts = zip(np.split(x, groups, axis=3), np.split(w, groups, axis=3), np.split(b, groups), strict=True)
        return np.concatenate([conv_forward(*part, stride, dilation, pads) for part in parts], axis=3)
    kh, kw, _, cout = w.shape
    xp = np.pad(x, ((0, 0), pads[:2], pads[2:], (0, 0)))
    ho = (xp.shape[1] - (kh - 1) * dilation[0] - 1) // stride[0] + 1
    wo = (xp.shape[2] - (kw - 1) * dilation[1] - 1) // stride[1] + 1
    z = np.zeros((x.shape[0], ho, wo, cout), x.dtype)
    for r in range(ho):
        for c in range(wo):
            for i in range(kh):
                for j in range(kw):
                    z[:, r, c] += xp[:, r * stride[0] + i * dilation[0], c * stride[1] + j * dilation[1]] @ w[i, j]
    return z + b


def conv_transpose(s, w, height, width, stride=(1, 1), dilation=(1, 1), pads=(0, 0, 0, 0), groups=1):
    """[n, ho, wo, cout], [kh, kw, cin / groups, cout] -> [n, height, width, cin]: the transpose of `conv_forward` without bias"""
    if groups > 1:
        parts = zip(np.split(s, groups, axis=3), np.split(w, groups, axis=3), strict=True)
        return np.concatenate([conv_transpose(*part, height, width, stride, dilation, pads) for part in parts], axis=3)
    kh, kw, cin, _ = w.shape
    c = np.zeros((s.shape[0], height + pads[0] + pads[1], width + pads[2] + pads[3], cin), s.dtype)
    for r in range(s.shape[1]):
        for q in range(s.shape[2]):
            for i in range(kh):
                for j in range(kw):
                    c[:, r * stride[0] + i * dilation[0], q * stride[1] + j * dilation[1]] += s[:, r, q] @ w[i, j].T
    return c[:, pads[0] : pads[0] + height, pads[2] : pads[2] + width]


def depthwise_forward(x, w, b, stride=(1, 1), dilation=(1, 1), pads=(0, 0, 0, 0)):
    """[n, h, w, c], [kh, kw, c, m] -> [n, ho, wo, c * m]: each channel by itself, output c * m + j"""
    kh, kw, c, m = w.shape
    return conv_forward(x, w.reshape(kh, kw, 1, c * m), b, stride, dilation, pads, c)


def depthwise_transpose(s, w, height, width, stride=(1, 1), dilation=(1, 1), pads=(0, 0, 0, 0)):
    """[n, ho, wo, c * m], [kh, kw, c, m] -> [n, height, width, c]"""
    kh, kw, c, m = w.shape
    return conv_transpose(s, w.reshape(kh, kw, 1, c * m), height, width, stride, dilation, pads, c)


def gate_transpose(s, x):
    """[n, ..., c] -> [n, c]: the sum of s x over the pixels, for a gate that multiplies the channels of x"""
    out = np.zeros((len(x), x.shape[-1]), x.dtype)
    for place in np.ndindex(x.shape[1:-1]):
        out += s[:, *place] * x[:, *place]
    return out


def max_winners(a, size, stride, pads=(0, 0, 0, 0)):
    """[n, h, w, c] -> (max, winner), both [n, ho, wo, c]; winner = i * kw + j of the first maximum in row-major order

    Padding never wins (it counts as -inf); a NaN in a window wins.
    """
    kh, kw = size
    ap = np.pad(a, ((0, 0), pads[:2], pads[2:], (0, 0)), constant_values=-np.inf)
    ho, wo = (ap.shape[1] - kh) // stride[0] + 1, (ap.shape[2] - kw) // stride[1] + 1
    z = np.full((a.shape[0], ho, wo, a.shape[3]), -np.inf, a.dtype)
    winner = np.zeros(z.shape, np.uint8)
    for r in range(ho):
        for c in range(wo):
            first = True
            for i in range(kh):
                for j in range(kw):
                    y, x = r * stride[0] + i - pads[0], c * stride[1] + j - pads[2]
                    if not (0 <= y < a.shape[1] and 0 <= x < a.shape[2]):
                        continue
                    v = a[:, y, x]
                    better = np.ones(v.shape, bool) if first else (v > z[:, r, c]) | (np.isnan(v) & ~np.isnan(z[:, r, c]))
                    z[:, r, c] = np.where(better, v, z[:, r, c])
                    winner[:, r, c] = np.where(better, i * kw + j, winner[:, r, c])
                    first = False
    return z, winner


def max_transpose(s, winner, height, width, size, stride, pads=(0, 0, 0, 0)):
    """[n, ho, wo, c] -> [n, height, width, c]: every s to its winner; overlapping windows add up"""
    out = np.zeros((s.shape[0], height, width, s.shape[3]), s.dtype)
    for n, r, c, k in np.ndindex(s.shape):
        i, j = divmod(int(winner[n, r, c, k]), size[1])
        out[n, r * stride[0] + i - pads[0], c * stride[1] + j - pads[2], k] += s[n, r, c, k]
    return out


def avg_forward(a, size, stride, pads=(0, 0, 0, 0)):
    """[n, h, w, c] -> [n, ho, wo, c]: the mean over the part of the window that lies inside the image"""
    total, count = _window_sums(a, size, stride, pads)
    return total / count


def avg_transpose(s, height, width, size, stride, pads=(0, 0, 0, 0)):
    """[n, ho, wo, c] -> [n, height, width, c]: the transpose of `avg_forward`"""
    _, count = _window_sums(np.zeros((1, height, width, 1)), size, stride, pads)
    out = np.zeros((s.shape[0], height, width, s.shape[3]), s.dtype)
    for r in range(s.shape[1]):
        for c in range(s.shape[2]):
            for i in range(size[0]):
                for j in range(size[1]):
                    y, x = r * stride[0] + i - pads[0], c * stride[1] + j - pads[2]
                    if 0 <= y < height and 0 <= x < width:
                        out[:, y, x] += s[:, r, c] / count[0, r, c, 0]
    return out


def _window_sums(a, size, stride, pads):
    kh, kw = size
    ho = (a.shape[1] + pads[0] + pads[1] - kh) // stride[0] + 1
    wo = (a.shape[2] + pads[2] + pads[3] - kw) // stride[1] + 1
    total, count = np.zeros((a.shape[0], ho, wo, a.shape[3]), a.dtype), np.zeros((1, ho, wo, 1))
    for r in range(ho):
        for c in range(wo):
            for i in range(kh):
                for j in range(kw):
                    y, x = r * stride[0] + i - pads[0], c * stride[1] + j - pads[2]
                    if 0 <= y < a.shape[1] and 0 <= x < a.shape[2]:
                        total[:, r, c] += a[:, y, x]
                        count[0, r, c, 0] += 1
    return total, count
