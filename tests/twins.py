"""Every rule once more, as matrix algebra on the layer's Jacobian: a few lines each, straight from the literature.

`W` [out, in] is the Jacobian of a linear layer, `b` [out] its bias, `a` [in] its input, `R` [out] the relevance of its output. `e` and `s`
are the epsilon and the name of the stabiliser.
"""

import numpy as np

from tests import naive


def jacobian(step, ones=False):
    """[out, in], column by column from loops; with `ones`, of the layer with all weights 1; a max-pool's is that of the mean"""
    size = int(np.prod(step.input_shape))
    units = np.eye(size).reshape(size, *step.input_shape)
    weight = None if step.weight is None else (np.ones_like(step.weight) if ones else step.weight).astype(float)
    if step.kind == "dense":
        return np.kron(np.eye(size // len(weight)), weight.T)
    if step.kind == "scale":
        return np.diag(np.resize(weight, size))
    if step.kind == "pad":
        top, bottom, left, right = step.pads
        return np.pad(units, ((0, 0), (top, bottom), (left, right), (0, 0))).reshape(size, -1).T
    if step.kind in ("reshape", "identity"):
        return np.eye(size)
    if step.kind == "resize":
        corners = step.options.get("align_corners", False)
        sides = [bilinear(n, out, corners) for n, out in zip(step.input_shape[:2], step.output_shape[:2], strict=True)]
        W = np.kron(np.kron(*sides), np.eye(step.input_shape[2]))
        return (W != 0).astype(float) if ones else W
    window = step.window
    if step.kind == "conv_transpose":
        sides = step.output_shape[:2]
        columns = naive.conv_transpose(units, weight, *sides, window.stride, window.dilation, window.pads(*sides))
        return columns.reshape(size, -1).T
    pads = window.pads(*step.input_shape[:2])
    if step.kind in ("avgpool", "maxpool"):
        columns = naive.avg_forward(units, window.size, window.stride, pads)
    else:
        groups = step.input_shape[2] // weight.shape[2]
        columns = naive.conv_forward(units, weight, np.zeros(weight.shape[-1]), window.stride, window.dilation, pads, groups)
    return columns.reshape(size, -1).T


def bilinear(size, out, corners=False):
    """[out, size]: hats of width 1 about the centres of the pixels, the image's border going on as it is"""
    at = np.clip((np.arange(out) + 0.5) * size / out - 0.5, 0, size - 1)
    at = np.linspace(0, size - 1, out) if corners else at
    return np.maximum(0, 1 - np.abs(at[:, None] - np.arange(size)))


def normalising(shape, axes, gamma, deviation, centred=True):
    """[out, in] of gamma (x - mean) / deviation, means over axes, gamma and deviation broadcasting against `shape`"""
    units = np.eye(int(np.prod(shape))).reshape(-1, *shape)
    mean = units.mean(axis=tuple(axis + 1 for axis in axes), keepdims=True) if centred else 0
    return (gamma * (units - mean) / deviation).reshape(len(units), -1).T


def winners(step, a, shared):
    """[out, in] of a max-pool: 1 at the first of each window's maxima, or 1 / n at each of its n"""
    a, window = a.reshape(step.input_shape), step.window
    height, width, channels = a.shape
    top, _, left, _ = window.pads(height, width)
    rows, columns = window.output_size(height, width)
    W = np.zeros((rows, columns, channels, height, width, channels))
    for r, c, k in np.ndindex(rows, columns, channels):
        y, x = r * window.stride[0] - top, c * window.stride[1] - left
        places = [(y + i, x + j) for i in range(window.size[0]) for j in range(window.size[1])]
        places = [(i, j) for i, j in places if 0 <= i < height and 0 <= j < width]
        best = [place for place in places if a[(*place, k)] == max(a[(*each, k)] for each in places)]
        for i, j in best if shared else best[:1]:
            W[r, c, k, i, j, k] = 1 / len(best) if shared else 1
    return W.reshape(rows * columns * channels, -1)


def biases(step):
    """[out]: the bias of every output unit"""
    return np.resize(np.asarray(step.bias, float), int(np.prod(step.output_shape)))


def stabilise(z, s, e):
    """The denominators, nan where the unit is dropped"""
    sign = np.where(z < 0, -1.0, 1.0)
    rms = np.sqrt(np.mean(z**2))
    return {
        "plus": z + e,
        "sign": z + e * sign,
        "zero": np.where(z == 0, e, z),
        "sign_skip": np.where(z == 0, 1, z + e * sign),
        "sign_drop": np.where(z == 0, np.nan, z + e * sign),
        "guard": np.where(z > 0, z, np.nan),
        "drop": np.where(z == 0, np.nan, z),
        "split": np.where(z == 0, 1e-15, z + e * sign),
        "clip": sign * np.maximum(np.abs(z), e),
        "rms": z + 1e-9 + e * rms,
        "rms_sign": z + e * rms * sign,
        "rms_clip": sign * np.maximum(np.abs(z), e * rms),
    }[s]


def share(Z, z, R, s, e):
    """[in]: sum over outputs of Z_kj / stabilised z_k times R_k, where Z [out, in] are contributions"""
    ratio = R / stabilise(z, s, e)
    return Z.T @ np.where(np.isnan(ratio), 0, ratio)


def epsilon(W, b, a, R, s, e, bias):
    b = {"changed": b, "raw": b, "none": 0 * b}[bias]
    return share(W * a, W @ a + b, R, s, e)


def gamma(W, b, a, R, s, e, bias, gamma, split, activation=lambda z: z):
    """The halves are told by the sign of what follows the `activation`."""
    Z, y = W * a, activation(W @ a + b)
    if not split:
        Wg = W + gamma * np.maximum(W, 0)
        b = {"changed": b + gamma * np.maximum(b, 0), "raw": b, "none": 0 * b}[bias]
        return share(Wg * a, Wg @ a + b, R, s, e)
    total = 0
    for favoured, units in ((np.maximum, y > 0), (np.minimum, y < 0)):
        Zg = Z + gamma * favoured(Z, 0)
        bg = {"changed": b + gamma * favoured(b, 0), "raw": b, "none": 0 * b}[bias]
        total = total + share(Zg, Zg.sum(axis=1) + bg, R * units, s, e)
    return total


def alpha_beta(W, b, a, R, s, e, bias, alpha, beta, split):
    total = 0
    for factor, part in ((alpha, np.maximum), (-beta, np.minimum)):
        if factor:
            Z = part(W * a, 0) if split else part(W, 0) * a
            bp = {"changed": part(b, 0), "raw": b, "none": 0 * b}[bias]
            total = total + factor * share(Z, Z.sum(axis=1) + bp, R, s, e)
    return total


def alpha_beta_x(W, b, a, R, s, e, bias, alpha, beta):
    """Positive inputs alone, with positive weights and with negative ones."""
    total, x = 0, np.maximum(a, 0)
    for factor, part in ((alpha, np.maximum), (-beta, np.minimum)):
        if factor:
            Z = part(W, 0) * x
            bp = {"changed": part(b, 0), "raw": b, "none": 0 * b}[bias]
            total = total + factor * share(Z, Z.sum(axis=1) + bp, R, s, e)
    return total


def zplus(W, b, a, R, s, e, bias, split):
    return alpha_beta(W, b, a, R, s, e, bias, 1, 0, split)


def wsquare(W, b, a, R, s, e, bias):
    return share(W**2, (W**2).sum(axis=1) + (b**2 if bias == "changed" else 0), R, s, e)


def flat(ones, R, s, e):
    """A pool's share of the mean is what a flat layer's is of the sum."""
    return share(ones, ones.sum(axis=1), R, s, e)


def zbox(W, a, R, s, e, low, high):
    Z = W * a - np.maximum(W, 0) * low - np.minimum(W, 0) * high
    return share(Z, Z.sum(axis=1), R, s, e)
