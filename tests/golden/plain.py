"""A plain NumPy backend for the backward step of one layer, in several orders of summation: what other people's code does.

Its convolution is written from the definition (windows times kernel), apart from nplrp's kernels.
"""

import numpy as np

from nplrp import layers

ORDERS = ("forward", "backward", "pairwise", "matmul")


def add_up(terms, order):
    """Sum float32 terms over the last axis: one after the other, in the opposite order, or pairwise."""
    if order == "pairwise":
        return terms.sum(axis=-1, dtype=terms.dtype)
    terms = terms if order == "forward" else terms[..., ::-1]
    return np.cumsum(terms, axis=-1, dtype=terms.dtype)[..., -1]


def product(a, w, order):
    """[..., n] x [n, m] -> [..., m] in a's dtype"""
    if order == "matmul":
        return a @ w
    return np.stack([add_up(a * w[:, k], order) for k in range(w.shape[1])], axis=-1)


def windows(x, step):
    """[n, h, w, c] -> [n, ho, wo, kh * kw * c]"""
    window, (height, width) = step.window, step.input_shape[:2]
    top, bottom, left, right = window.pads(height, width)
    x = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)))
    (kh, kw), (down, across), (rows, columns) = window.size, window.stride, step.output_shape[:2]
    taps = [x[:, i : i + (rows - 1) * down + 1 : down, j : j + (columns - 1) * across + 1 : across] for i in range(kh) for j in range(kw)]
    return np.concatenate(taps, axis=-1)


def conv(x, w, step, order):
    return product(windows(x, step), w.reshape(-1, w.shape[-1]), order)


def conv_back(s, w, step, order):
    """The transpose of a convolution with stride 1 and 'same' padding: with the flipped kernel."""
    kh, kw = w.shape[:2]
    s = np.pad(s, ((0, 0), ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2), (0, 0)))
    rows, columns = step.input_shape[:2]
    taps = np.concatenate([s[:, i : i + rows, j : j + columns] for i in range(kh) for j in range(kw)], axis=-1)
    flipped = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))
    return product(taps, flipped.reshape(-1, w.shape[2]), order)


def step_back(at, order):
    """Relevance of a conv or dense step's input, all in at.R's dtype; None for what sums nothing."""
    step, rule = at.step, at.rule
    if step.kind not in ("conv", "dense"):
        return None
    total = np.zeros_like(at.a)
    for part in at.plan.parts[at.i]:
        inputs = layers.changed_inputs(at.a, rule, part)
        weights = [layers.change_weight(step.weight, term.weight) for term in part.terms]
        forward = (lambda a, w: product(a, w, order)) if step.kind == "dense" else (lambda a, w: conv(a, w, step, order))
        back = (lambda s, w: product(s, w.T, order)) if step.kind == "dense" else (lambda s, w: conv_back(s, w, step, order))
        z = sum(forward(a, w) for a, w in zip(inputs, weights, strict=True)) + layers.changed_bias(step, part.bias)
        R = layers.relevance_of_units(at.R, step, at.a, part.units, at.trace.activations[at.i + 1])
        s = layers.divide(R, np.ascontiguousarray(z), rule, part.weight)
        total += sum(a * back(s, w) for a, w in zip(inputs, weights, strict=True))
    return total
