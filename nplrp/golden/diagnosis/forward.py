"""The search behind one array of activations: what was computed from a layer's input, or from another one."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.golden.diagnosis import single
from nplrp.golden.diagnosis.backward import Matches
from nplrp.golden.diagnosis.matching import Finding, Hypothesis, Target, finding, nice, plain
from nplrp.golden.diagnosis.reported import relations
from nplrp.golden.forward_faults import flattens, forward_deviations, normalised
from nplrp.layers import Layer, Step, operation
from nplrp.lrp import run_step
from nplrp.rules import AS_IS, NOTHING

__all__ = ["flattens", "of_input", "search"]

#: Activations that ports take for one another.
CURVES = ("relu", "leaky_relu", "elu", "gelu", "gelu_tanh", "silu", "softplus", "tanh", "sigmoid", "hard_silu", "selu", "linear")
#: Means that pictures have taken from them, by channel: Keras's in BGR and RGB, and PyTorch's.
MEANS = {
    "Keras's BGR means": (103.939, 116.779, 123.68),
    "Keras's means in RGB order": (123.68, 116.779, 103.939),
    "PyTorch's means": (0.485, 0.456, 0.406),
}


def search(
    layer: str,
    target: Target,
    step: Step,
    of: Layer,
    inputs: Sequence[np.ndarray],
    reads: Sequence[str],
    image: tuple[int, ...] | None,
    others: Mapping[str, np.ndarray],
) -> Finding:
    """Look for what makes a candidate's activation.

    Parameters
    ----------
    layer : str
    target : Target
    step : Step
        With float64 weights, its batch norm not merged.
    of : Layer
    inputs : sequence of ndarray
        What the step reads.
    reads : sequence of str
        Names of those.
    image : tuple of int, or None
        Shape that a flatten below has made the step's input from.
    others : mapping of str to ndarray
        Other activations of a right run.
    """
    if target.apart <= 1:
        return Finding(layer, (), 0, target.apart)
    op = operation(step)
    a = np.ascontiguousarray(op.gather(step, list(inputs)))
    found = Matches(target)

    def consider(tries: Iterator[Any]) -> None:
        """Judge (name, numbers), or (name, numbers, what was fitted)."""
        for name, values, *fitted in tries:
            if np.isfinite(values).all() and values.size == target.candidate.size:
                found.judge(Hypothesis(name, fitted=dict(*fitted)), values.reshape(target.candidate.shape))

    with np.errstate(all="ignore"):
        consider(forward_deviations(step, of, a, image))
        consider(_of_inputs(step, inputs, reads))
        consider(_moved_inputs(step, a))
        consider(_curves(step, a, target))
        for hypothesis, values in relations(target, others):
            found.judge(hypothesis, values)
        consider(_norms(of, a, target))
        consider(_mixed(step, a, target))
        consider(_single(step, a, target))
    return finding(layer, target, found.matches, found.tried, found.nearest)


def of_input(layer: str, target: Target) -> Finding:
    """Look for how a picture was prepared otherwise."""
    found = Matches(target)
    right, candidate = target.reference, target.candidate
    if right.ndim == 4 and np.shape(right)[-1] == 3:
        found.judge(Hypothesis("channels RGB for BGR"), right[..., ::-1])
    for hypothesis, values in relations(target, {}):
        found.judge(hypothesis, values)
    if right.ndim == 4:
        channels = int(np.shape(right)[-1])
        flat, theirs = right.reshape(-1, channels), candidate.reshape(-1, channels)
        lines = [
            np.polyfit(x, y, 1) if np.ptp(x) else np.array([1.0, float(np.mean(y - x))]) for x, y in zip(flat.T, theirs.T, strict=True)
        ]
        k, m = (np.array(each) for each in zip(*lines, strict=True))
        values = right * k + m
        found.judge(Hypothesis(_prepared(k, m), fitted={"scale": float(k[0])} | {f"offset {c}": float(v) for c, v in enumerate(m)}), values)
    return finding(layer, target, found.matches, found.tried, found.nearest)


def _prepared(k: np.ndarray, m: np.ndarray) -> str:
    """Say what scaling an input by k and adding m, by channel, is."""
    small = np.abs(m) < 1e-4 * np.abs(m).max(initial=1e-3) + 1e-6
    one = np.allclose(k, 1, rtol=1e-4)
    for name, means in MEANS.items():
        if one and len(m) == 3 and np.allclose(m, means, rtol=1e-3):
            return f"mean not subtracted from the input ({name})"
        if one and len(m) == 3 and np.allclose(m, np.negative(means), rtol=1e-3):
            return f"mean subtracted from the input twice ({name})"
    scale = plain(float(k[0]), 5) if np.allclose(k, k[0], rtol=1e-3) else f"({', '.join(plain(float(v), 5) for v in k)})"
    if np.allclose(k, 1 / 255, rtol=1e-3):
        scale = "1/255"
    if np.allclose(k, 255, rtol=1e-3):
        scale = "255"
    offset = ", ".join(plain(float(v), 5) for v in m)
    if small.all():
        return f"input of another scale: times {scale}"
    return (
        f"a mean not subtracted from the input: ({offset}) is added" if one else f"input of another scale: times {scale}, plus ({offset})"
    )


def _of_inputs(step: Step, inputs: Sequence[np.ndarray], reads: Sequence[str]) -> Iterator[tuple[str, np.ndarray]]:
    """Return what comes out if inputs of a join are left out, exchanged, or joined otherwise."""
    op = operation(step)
    if len(inputs) < 2:
        return
    for k, name in enumerate(reads):
        others = [np.zeros_like(each) if j == k else each for j, each in enumerate(inputs)]
        yield f"input {name} left out", run_step(step, np.ascontiguousarray(op.gather(step, others)))
    shapes = {each.shape for each in inputs}
    if len(shapes) == 1:
        swapped = run_step(step, np.ascontiguousarray(op.gather(step, list(inputs)[::-1])))
        yield "inputs exchanged", swapped
        for name, values in (
            ("sum of the inputs", np.sum(inputs, axis=0)),
            ("mean of the inputs", np.mean(inputs, axis=0)),
            ("product of the inputs", np.prod(inputs, axis=0)),
            ("largest of the inputs", np.max(inputs, axis=0)),
            ("first input less the others", inputs[0] - np.sum(inputs[1:], axis=0)),
        ):
            if values.shape[1:] == step.output_shape:
                yield name, values
    if layers.only_moves(step) and len({each.ndim for each in inputs}) == 1:
        for axis in range(1, inputs[0].ndim):
            if len({each.shape[:axis] + each.shape[axis + 1 :] for each in inputs}) == 1:
                yield "inputs in the other order: exchanged", np.concatenate(list(inputs)[::-1], axis)


def _moved_inputs(step: Step, a: np.ndarray) -> Iterator[tuple[str, np.ndarray]]:
    """Return what comes out if an image is turned, mirrored or shifted first, or its window lies otherwise."""
    if len(step.input_shapes) > 1 or a.ndim != 4 or layers.only_moves(step):
        return
    moved = {
        "columns of the input reversed: mirrored, left for right": a[:, :, ::-1],
        "rows of the input reversed": a[:, ::-1],
        "rows and columns of the input reversed": a[:, ::-1, ::-1],
        "channels of the input reversed": a[..., ::-1],
    }
    if a.shape[1] == a.shape[2]:
        moved["rows and columns of the input exchanged"] = a.swapaxes(1, 2)
    moved["channels first: CHW numbers of the input read as HWC"] = a.transpose(0, 3, 1, 2).reshape(a.shape)
    for axis, what in ((1, "rows"), (2, "columns")):
        for by in (1, -1):
            moved[f"{what} of the input shifted by {by}, round the edge"] = np.roll(a, by, axis)
    for name, x in moved.items():
        yield name, run_step(step, np.ascontiguousarray(x))
    window = step.window
    if window is not None:
        top, bottom, left, right = window.pads(*step.input_shape[:2])
        rows, columns = (k // 2 * d for k, d in zip(window.size, window.dilation, strict=True))
        for name, pads in (
            ("padding at the other side: the odd row and column first", (bottom, top, right, left)),
            ("padding alike on both sides, as PyTorch has it", (rows, rows, columns, columns)),
        ):
            other = dataclasses.replace(window, padding=pads)
            if pads != (top, bottom, left, right) and other.output_size(*step.input_shape[:2]) == step.output_shape[:2]:
                yield name, run_step(dataclasses.replace(step, window=other, prepared={}), a)
        if top == bottom == left == right and top and layers.is_linear(step):
            for name, mode in (("edges repeated", "edge"), ("mirrored at the edges", "reflect"), ("continued round the edge", "wrap")):
                x = np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)), mode=mode)  # type: ignore[call-overload]
                valid = dataclasses.replace(window, padding="valid")
                shape = (x.shape[1], x.shape[2], x.shape[3])
                yield (
                    f"padding: {name} instead of zeros",
                    run_step(dataclasses.replace(step, window=valid, input_shape=shape, prepared={}), np.ascontiguousarray(x)),
                )


def _curves(step: Step, a: np.ndarray, target: Target) -> Iterator[tuple[str, np.ndarray] | tuple[str, np.ndarray, dict[str, float]]]:
    """Return what other activations give, with a slope below 0 or a ceiling that is fitted."""
    if step.score or (layers.only_moves(step) and step.activation == "linear"):
        return
    op = operation(step)
    if op.function and op.function(step):
        bare, own = a, op.function(step)
    else:
        bare, own = run_step(dataclasses.replace(step, activation="linear"), a), step.activation
    candidate = target.candidate.reshape(bare.shape)
    for name in CURVES:
        if own not in (name, "linear"):
            yield f"{name} for {own}", layers.bend(name, bare) if name != "linear" else bare
    if own == "linear":
        return
    below = bare < 0
    if below.any() and candidate[below].any():
        k = float(np.median(candidate[below] / bare[below]))
        slope = lambda k: np.where(below, k * bare, bare)  # noqa: E731
        best = slope(k)
        k = nice(k, lambda short: target.as_good(slope(short), best))
        yield f"a slope of {plain(k)} below 0 (leaky ReLU)", slope(k), {"slope": k}
    top = float(candidate.max())
    if (bare > top).any() and (candidate >= top * (1 - 1e-6)).sum() > 1:
        yield f"a ceiling: clipped at {plain(top)} (as in ReLU6)", np.clip(bare, 0, top), {"ceiling": top}


def _norms(of: Layer, a: np.ndarray, target: Target) -> Iterator[tuple[str, np.ndarray] | tuple[str, np.ndarray, dict[str, float]]]:
    """Return what a batch norm gives with another epsilon, with statistics of this batch, or with one of its arrays left out."""
    if "variance" not in of.arrays or a.shape[-1] != of.arrays["variance"].size:
        return
    arrays = {key: np.asarray(array, np.float64) for key, array in of.arrays.items()}
    axes = tuple(range(a.ndim - 1))
    candidate = target.candidate.reshape(a.shape)

    def norm(mean: np.ndarray, variance: np.ndarray, epsilon: float, gamma: object, beta: object) -> np.ndarray:
        return np.asarray((a - mean) * (gamma / np.sqrt(variance + epsilon)) + beta)

    gamma, beta, mean, variance = arrays.get("gamma", 1.0), arrays.get("beta", 0.0), arrays["mean"], arrays["variance"]
    yield "statistics of this batch (training mode)", norm(a.mean(axes), a.var(axes), of.epsilon, gamma, beta)
    each = tuple(range(1, a.ndim - 1))
    if each:
        own = a.mean(each, keepdims=True), a.var(each, keepdims=True)
        yield "statistics of each image (instance norm)", norm(*own, of.epsilon, gamma, beta)
    yield "gamma of the batch norm left out", norm(mean, variance, of.epsilon, 1.0, beta)
    yield "beta of the batch norm left out", norm(mean, variance, of.epsilon, gamma, 0.0)
    yield "mean of the batch norm left out", norm(0 * mean, variance, of.epsilon, gamma, beta)
    yield "variance of the batch norm taken for its deviation", (a - mean) * (gamma / (variance + of.epsilon)) + beta
    yield "epsilon of the batch norm outside the root", (a - mean) * (gamma / (np.sqrt(variance) + of.epsilon)) + beta
    x = a - mean
    with np.errstate(all="ignore"):
        slope = (x * (candidate - beta)).sum(axes) / (x * x).sum(axes)
        epsilon = float(np.median((gamma / slope) ** 2 - variance))
    if np.isfinite(epsilon) and (variance + epsilon > 0).all():
        best = normalised(of, a, epsilon)
        epsilon = nice(epsilon, lambda short: target.as_good(normalised(of, a, short), best))
        yield f"epsilon {epsilon:.6g} in the batch norm", normalised(of, a, epsilon), {"epsilon": epsilon}


def _mixed(step: Step, a: np.ndarray, target: Target) -> Iterator[tuple[str, np.ndarray] | tuple[str, np.ndarray, dict[str, float]]]:
    """Return what comes out if products and bias are scaled, or the input is scaled and shifted: fitted where it isn't clamped."""
    weight, bias = step.weight, step.bias
    if (
        weight is None
        or bias is None
        or not layers.is_linear(step)
        or weight.ndim not in (2, 4)
        or step.activation not in ("linear", "relu")
    ):
        return
    product = layers.forward(step, [a], [AS_IS], NOTHING)
    candidate = target.candidate.reshape(product.shape)
    told = candidate > 0 if step.activation == "relu" else np.ones(candidate.shape, bool)
    if told.sum() < 4:
        return
    biases = np.broadcast_to(bias, product.shape)
    bare = dataclasses.replace(step, activation="linear")

    def bent(z: np.ndarray) -> np.ndarray:
        return layers.activate(dataclasses.replace(bare, activation=step.activation), np.ascontiguousarray(z), in_place=False)

    def solve(columns: Sequence[np.ndarray]) -> np.ndarray:
        m = np.stack([column[told] for column in columns], 1)
        return np.linalg.lstsq(m, candidate[told], rcond=None)[0]

    if bias.any():
        k, b = (float(v) for v in solve([product, biases]))
        mix = lambda k, b: bent(k * product + b * biases)  # noqa: E731
        best = mix(k, b)
        k = nice(k, lambda short: target.as_good(mix(short, b), best))
        b = nice(b, lambda short: target.as_good(mix(k, short), best))
        if abs(b) < 1e-4:
            b = 0.0
        if abs(k - 1) < 1e-6:
            yield f"bias x {plain(b)}", bent(product + b * biases), {"bias": b}
        elif abs(k - b) > 1e-6 * abs(k):
            name = f"input or weights times {plain(k)}" + ("" if abs(b - 1) < 1e-6 else f", bias times {plain(b)}")
            yield name, bent(k * product + b * biases), {"scale": k, "bias": b}
    channels = a.shape[-1]
    if weight.ndim == 4 and channels <= 4 and not step.options.get("groups"):
        ones = []
        for c in range(channels):
            only = np.zeros_like(a)
            only[..., c] = 1
            ones.append(layers.forward(step, [only], [AS_IS], NOTHING))
        scaled = [layers.forward(step, [a * (np.arange(channels) == c)], [AS_IS], NOTHING) for c in range(channels)]
        solved = solve([*scaled, *ones, biases])
        scales, offsets = solved[:channels], solved[channels:-1]
        if abs(float(solved[-1]) - 1) < 1e-3 or not bias.any():
            z = np.asarray(sum(scales[c] * scaled[c] + offsets[c] * ones[c] for c in range(channels)) + biases)
            yield _prepared(scales, offsets), bent(z), {f"channel {c}": float(scales[c]) for c in range(channels)}
    per = []
    for c in range(product.shape[-1]):
        use = told[..., c]
        z = (product + biases)[..., c][use]
        per.append(np.polyfit(z, candidate[..., c][use], 1) if use.sum() > 3 and np.ptp(z) else np.array([1.0, 0.0]))
    slopes, shifts = (np.array(each) for each in zip(*per, strict=True))
    if product[..., 0].size > 8:
        numbers = {f"channel {c}": float(v) for c, v in enumerate(slopes)}
        yield "each channel scaled and shifted by its own numbers, as by a batch norm", bent((product + biases) * slopes + shifts), numbers


def _single(step: Step, a: np.ndarray, target: Target) -> Iterator[tuple[str, np.ndarray]]:
    """Return what comes out with a single weight or bias changed, or an input channel or a unit lost."""
    if step.weight is None or not layers.is_linear(step) or step.activation not in ("linear", "relu", "softmax"):
        return
    z = layers.forward(step, [a], [AS_IS], AS_IS)
    candidate = target.candidate.reshape(z.shape)
    if step.activation == "softmax":
        with np.errstate(all="ignore"):
            logs = np.log(candidate) - np.log(target.reference.reshape(z.shape))
        candidate = z + logs - np.median(logs, axis=-1, keepdims=True)
    told = candidate > 0 if step.activation == "relu" else np.isfinite(candidate)
    for name, other in single.forward(step, a, z, candidate, told):
        yield name, run_step(other, a)
    weight = step.weight
    if weight.ndim in (2, 4) and weight.shape[-2] == step.input_shape[-1] and weight.shape[-2] <= 512:
        d = np.where(told, candidate - z, 0.0)
        best = []
        for c in range(weight.shape[-2]):
            x = np.zeros_like(a)
            x[..., c] = a[..., c]
            gone = layers.forward(step, [x], [AS_IS], NOTHING)
            best.append((float(np.abs(np.where(told, d + gone, 0.0)).sum()), c))
        c = min(best)[1]
        x = a.copy()
        x[..., c] = 0
        yield f"input channel {c} left out", run_step(step, x)
