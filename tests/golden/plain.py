"""A plain NumPy backend in several orders of summation: what other people's code does.

Its convolution is written from the definition (windows times kernel), apart from nplrp's kernels.
"""

import dataclasses

import numpy as np

from nplrp import layers
from nplrp.golden.faults import Place
from nplrp.lrp import run_step
from nplrp.lrp import step_back as page

#: One after the other, in the opposite order, pairwise: slow, term by term. By BLAS: the whole window at once, or one place of it after the
#: other, from the first or from the last. "uneven": by BLAS, every other pixel in the opposite order, so equal pixels don't tie (whether
#: a matrix product keeps ties depends on BLAS, CPU and threads).
ORDERS = ("forward", "backward", "pairwise", "matmul", "places", "places backward", "uneven")
FAST = ORDERS[3:]


def add_up(terms, order):
    """Sum float32 terms over the last axis: one after the other, in the opposite order, or pairwise."""
    if order == "pairwise":
        return terms.sum(axis=-1, dtype=terms.dtype)
    terms = terms if order == "forward" else terms[..., ::-1]
    return np.cumsum(terms, axis=-1, dtype=terms.dtype)[..., -1]


def product(a, w, order, places=1):
    """[..., n] x [n, m] -> [..., m] in a's dtype; n is places of a window times channels"""
    if order == "matmul":
        return a @ w
    if order == "uneven":
        z, back = a @ w, np.ascontiguousarray(a[..., ::-1]) @ np.ascontiguousarray(w[::-1])
        z[..., ::2, :] = back[..., ::2, :]
        return z
    if order.startswith("places"):
        parts = [(np.ascontiguousarray(x), y) for x, y in zip(np.split(a, places, axis=-1), np.split(w, places), strict=True)]
        total = np.zeros((*a.shape[:-1], w.shape[1]), a.dtype)
        for x, y in parts if order == "places" else parts[::-1]:
            total += x @ y
        return total
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
    return product(windows(x, step), w.reshape(-1, w.shape[-1]), order, w.shape[0] * w.shape[1])


def conv_back(s, w, step, order):
    """The transpose of a convolution with stride 1 and 'same' padding: with the flipped kernel."""
    kh, kw = w.shape[:2]
    s = np.pad(s, ((0, 0), ((kh - 1) // 2, kh // 2), ((kw - 1) // 2, kw // 2), (0, 0)))
    rows, columns = step.input_shape[:2]
    taps = np.concatenate([s[:, i : i + rows, j : j + columns] for i in range(kh) for j in range(kw)], axis=-1)
    flipped = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))
    return product(taps, flipped.reshape(-1, w.shape[2]), order, kh * kw)


def linear(a, w, step, order):
    return product(a, w, order) if step.kind == "dense" else conv(a, w, step, order)


def step_back(at, order):
    """Relevance of a conv or dense step's input, all in at.R's dtype; None for what sums nothing."""
    step, rule = at.step, at.rule
    if step.kind not in ("conv", "dense"):
        return None
    total = np.zeros_like(at.a)
    for part in at.plan.parts[at.i]:
        inputs = layers.changed_inputs(at.a, rule, part)
        weights = [layers.change_weight(step.weight, term.weight) for term in part.terms]
        back = (lambda s, w: product(s, w.T, order)) if step.kind == "dense" else (lambda s, w: conv_back(s, w, step, order))
        z = sum(linear(a, w, step, order) for a, w in zip(inputs, weights, strict=True)) + layers.changed_bias(step, part.bias)
        R = layers.relevance_of_units(at.R, step, at.a, part.units, at.trace.activations[at.i + 1])
        s = layers.divide(R, np.ascontiguousarray(z), rule, part.weight)
        total += sum(a * back(s, w) for a, w in zip(inputs, weights, strict=True))
    return total


def end_to_end(plan, trace, R, order):
    """Activations and relevances of all of a network, by the places of its steps: the input (or the output's relevance) first."""
    activations, held = [trace.activations[0]], {}
    for i, step in enumerate(plan.steps):
        a = activations[-1]
        if step.kind in ("conv", "dense"):
            z = np.ascontiguousarray(linear(a, layers.wide(step), step, order) + step.bias)
            activations.append(layers.activate(step, z, in_place=True))
        else:
            if step.kind == "maxpool":
                held[i] = layers.choose(step, a)[1]
            activations.append(run_step(step, a))
    own = dataclasses.replace(trace, activations=tuple(activations), held=held)
    relevances = [R]
    for i in range(len(plan.steps) - 1, -1, -1):
        found = step_back(Place(plan, own, i, relevances[-1].reshape(-1, *plan.steps[i].output_shape)), order)
        relevances.append(page(plan, own, i, relevances[-1]) if found is None else found)
    return activations, relevances
