"""Every rule once more, as matrix algebra on the layer's Jacobian: a few lines each, straight from the literature.

`W` [out, in] is the Jacobian of a linear layer, `b` [out] its bias, `a` [in] its input, `R` [out] the relevance of its output. `e` and `s`
are the epsilon and the name of the stabiliser.
"""

import numpy as np

from tests import naive


def jacobian(step, ones=False):
    """[out, in], column by column from loops; with `ones`, of the layer with all weights 1"""
    size = int(np.prod(step.input_shape))
    units = np.eye(size).reshape(size, *step.input_shape)
    weight = None if step.weight is None else (np.ones_like(step.weight) if ones else step.weight).astype(float)
    if step.kind == "dense":
        return weight.T
    if step.kind == "scale":
        return np.diag(np.resize(weight, size))
    window = step.window
    pads = window.pads(*step.input_shape[:2])
    if step.kind == "avgpool":
        columns = naive.avg_forward(units, window.size, window.stride, pads)
    else:
        columns = naive.conv_forward(units, weight, np.zeros(weight.shape[-1]), window.stride, window.dilation, pads)
    return columns.reshape(size, -1).T


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


def gamma(W, b, a, R, s, e, bias, gamma, split):
    Z = W * a
    if not split:
        Wg = W + gamma * np.maximum(W, 0)
        b = {"changed": b + gamma * np.maximum(b, 0), "raw": b, "none": 0 * b}[bias]
        return share(Wg * a, Wg @ a + b, R, s, e)
    total = 0
    for favoured, units in ((np.maximum, W @ a + b > 0), (np.minimum, W @ a + b < 0)):
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


def zplus(W, b, a, R, s, e, bias, split):
    return alpha_beta(W, b, a, R, s, e, bias, 1, 0, split)


def wsquare(W, b, a, R, s, e, bias):
    return share(W**2, (W**2).sum(axis=1) + (b**2 if bias == "changed" else 0), R, s, e)


def flat(ones, R, s, e):
    return share(ones, ones.sum(axis=1), R, s, e)


def zbox(W, a, R, s, e, low, high):
    Z = W * a - np.maximum(W, 0) * low - np.minimum(W, 0) * high
    return share(Z, Z.sum(axis=1), R, s, e)
