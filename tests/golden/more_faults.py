"""Faults beyond the 14 seeded ones, to see how small a bug may be and still be found; each from a `Place` to relevance, or None."""

import dataclasses

import numpy as np

from nplrp import layers


def with_rule(**changes):
    """The rule with other constants, where it has those at all."""

    def run(at):
        if any(getattr(at.rule, key) is None or getattr(at.rule, key) == value for key, value in changes.items()):
            return None
        return at.run(rule=dataclasses.replace(at.rule, **changes))

    return run


def more_gamma(at):
    return at.run(rule=dataclasses.replace(at.rule, gamma=1.04 * at.rule.gamma)) if at.rule.gamma else None


def with_weights(at):
    return at.step.kind in ("conv", "dense")


def changed(at, **arrays):
    return at.run(step=dataclasses.replace(at.step, **arrays, prepared={}))


def largest_weight(at):
    if not with_weights(at):
        return None
    weight = layers.wide(at.step).copy()
    weight[np.unravel_index(np.argmax(np.abs(weight)), weight.shape)] = 0
    return changed(at, weight=weight)


def input_channel(at):
    if not with_weights(at):
        return None
    weight = layers.wide(at.step).copy()
    weight[..., weight.shape[-2] // 2, :] = 0
    return changed(at, weight=weight)


def bias_of_one_unit(at):
    if not with_weights(at) or at.rule.bias in (None, "none"):
        return None
    bias = at.step.bias.copy()
    bias[np.argmax(np.abs(bias))] = 0
    return changed(at, bias=bias)


def row_shifted(at):
    if at.step.kind != "conv":
        return None
    R = at.run().copy()
    middle = R.shape[1] // 2
    R[:, middle] = np.roll(R[:, middle], 1, axis=1)
    return R


def edges_repeated(at):
    """Denominators from an image that is continued over its edges, not by zeros."""
    if at.step.kind != "conv" or at.step.window.padding != "same":
        return None
    height, width, channels = at.step.input_shape
    window = dataclasses.replace(at.step.window, padding="valid")
    step = dataclasses.replace(at.step, window=window, input_shape=(height + 2, width + 2, channels), prepared={})
    total = np.zeros_like(at.a)
    for part in at.plan.parts[at.i]:
        inputs, changes = layers.changed_inputs(at.a, at.rule, part), [term.weight for term in part.terms]
        z = layers.forward(step, [np.pad(a, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="edge") for a in inputs], changes, part.bias)
        R = layers.relevance_of_units(at.R, at.step, at.a, part.units, at.trace.activations[at.i + 1])
        total += layers.multiply(inputs, layers.transpose(at.step, layers.divide(R, z, at.rule, part.weight), changes))
    return total


def not_times_input(at):
    if not with_weights(at):
        return None
    R = at.run()
    return np.divide(R, at.a, out=np.zeros_like(R), where=at.a != 0)


def scaled(factor):
    return lambda at: at.run() * np.float32(factor) if with_weights(at) else None


def one_element(at):
    R = at.run().copy()
    R[np.unravel_index(np.argmax(np.abs(R)), R.shape)] *= np.float32(1.001)
    return R


MORE = {
    "not multiplied by the input": not_times_input,
    "one row of the image shifted": row_shifted,
    "edges repeated instead of zeros": edges_repeated,
    "one input channel dropped": input_channel,
    "largest weight dropped": largest_weight,
    "bias of one unit left out": bias_of_one_unit,
    "bias as it is in the denominators (gamma's not raised, z+'s not cut)": with_rule(bias="raw"),
    "gamma x 1.04": more_gamma,
    "epsilon added without the sign of z": with_rule(stabiliser="plus"),
    "epsilon 1e-2": with_rule(epsilon=1e-2),
    "epsilon 1e-4": with_rule(epsilon=1e-4),
    "all relevance x 1.001": scaled(1.001),
    "all relevance x 1.0001": scaled(1.0001),
    "all relevance x 1.00001": scaled(1.00001),
    "largest element x 1.001": one_element,
}
