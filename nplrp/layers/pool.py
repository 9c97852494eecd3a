"""Pools: a maximum, linear once it is known which place of each window won; and a mean."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from nplrp.errors import ModelError, brief
from nplrp.layers.base import (
    DECIDES,
    LINEAR,
    Carried,
    Choice,
    Division,
    Fused,
    Kind,
    Layer,
    Operation,
    Routes,
    Shape,
    Step,
    Window,
    fits,
    image_shape,
    window_of,
)
from nplrp.layers.config import Call, Reader, Tensor, items
from nplrp.layers.lines import clamps, divide_parts, runs, scale_of_ones, stabilisers, threads
from nplrp.layers.scale import scaled
from nplrp.layers.ties import window_row
from nplrp.rules.rule import AS_IS, Change, Part
from nplrp.workspace import Workspace


def shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, c] -> [ho, wo, c]; every window holds at least one pixel."""
    image, window = image_shape(layer, shapes), window_of(layer)
    if window.dilation != (1, 1):
        raise ModelError(f"layer {layer.name!r} ({layer.kind}) has dilation {window.dilation}, which isn't supported for pools")
    pads, sizes = window.pads(*image[:2]), window.output_size(*image[:2])
    after = fits(layer, image, (*sizes, image[2]))
    for n, k, s, first, count in zip(image, window.size, window.stride, pads[::2], sizes, strict=False):
        if min(pads) < 0 or first >= k or (count - 1) * s - first >= n:
            raise ModelError(
                f"layer {layer.name!r} ({layer.kind}): with padding {pads} some windows of {window.size} lie outside the image {image}"
            )
    return after


def global_shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, c] -> [c], or [1, 1, c] where the axes are kept."""
    image = image_shape(layer, shapes)
    return fits(layer, image, (1, 1, image[2]) if layer.keepdims else (image[2],))


def _step(kind: str, whole: bool) -> Any:
    def fields(layer: Layer) -> dict[str, Any]:
        size = layer.input_shape[0], layer.input_shape[1]
        window = Window(size=size, stride=size) if whole else layer.window
        return {"kind": kind, "window": window} | ({"bias": np.zeros(layer.input_shape[-1])} if kind == "avgpool" else {})

    return fields


# Maxima


def choose(
    step: Step, a: np.ndarray, labels: np.ndarray | None = None, workspace: Workspace | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Run a max-pool: the maxima and where they were, the first one in row-major order if several are equal.

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
    labels : ndarray or None
        Structural ties, from `nplrp.layers.ties`.
    workspace : Workspace or None

    Returns
    -------
    (ndarray [n, *output_shape], ndarray of int [n, ho, wo, c])
        The winner's place in its window is row * width + column.
    """
    from nplrp.kernels import pool

    empty = workspace.empty if workspace else np.empty
    z = empty((len(a), *step.output_shape), a.dtype)
    image = _image(z, step)
    height, width = _window(step)[:2]
    winner = empty(image.shape, np.dtype(pool.winner_dtype(height, width)))
    ties = pool.no_labels(height, width) if labels is None else labels
    pool.max_forward(a, *_window(step), image, winner, ties, labels is not None, threads())
    return z, winner


def max_forward(step: Step, inputs: Sequence[np.ndarray], changes: Any, b: Any, relu: bool, held: Any = None) -> np.ndarray:
    """Return what one term, which has neither weights nor bias, has where the winners are; without them, its own maxima."""
    if held is None or held.dtype.kind == "f":
        return choose(step, inputs[0])[0]
    winner = held.reshape(len(held), *step.output_shape, 1).astype(np.intp)
    return np.take_along_axis(places(step, inputs[0]), winner, axis=-1)[..., 0]


def places(step: Step, a: np.ndarray) -> np.ndarray:
    """Return what each window holds, row by row: [n, *output_shape, height * width], -inf outside of the image."""
    taps = np.stack([tap for _, _, tap in window_taps(step, a)], axis=-1)
    return taps.reshape(len(a), *step.output_shape, taps.shape[-1])


def _held_shares(step: Step, shares: np.ndarray) -> np.ndarray:
    height, width = window_of(step).output_size(*step.input_shape[:2])
    return shares.reshape(len(shares), height, width, step.input_shape[2], -1)


def max_transpose(step: Step, s: np.ndarray, change: Change, held: np.ndarray, c: np.ndarray) -> None:
    """Write to c the sum of what each place has won.

    `held` is the winner of each window, [n, ho, wo, c] of int (see `choose`), or each place's share, [n, ho, wo, c, height * width] of
    float (see `share_ties`).
    """
    from nplrp.kernels import pool

    if held.dtype.kind == "f":
        _transpose_shares(step, _image(s, step), held, c)
    else:
        pool.max_transpose(_image(s, step), held, *_window(step), c, threads())


def share_ties(step: Step, a: np.ndarray, labels: np.ndarray | None = None, decision: str = "shared") -> np.ndarray:
    """Return each place's share of every window's maximum: 1 / n at each of its n places, [n, ho, wo, c, height * width].

    Parameters
    ----------
    step : Step
    a : ndarray [n, *input_shape]
    labels : ndarray or None
        Structural ties: such places count as equal.
    decision : str
        The only one that there is.
    """
    taps = np.stack([tap for _, _, tap in window_taps(step, a)], axis=-1)
    if labels is not None:
        taps = np.take_along_axis(taps, np.broadcast_to(labels[:, :, :, None, :], taps.shape).astype(np.intp), axis=-1)
    won: np.ndarray = (taps == taps.max(axis=-1, keepdims=True)).astype(a.dtype)
    won /= won.sum(axis=-1, keepdims=True)
    return won


def _transpose_shares(step: Step, s: np.ndarray, shares: np.ndarray, c: np.ndarray) -> None:
    """Write to c the sum over windows of s times each place's share."""
    c[...] = 0
    places = np.arange(c[..., 0].size).reshape(c.shape[:-1])
    for p, (rows, columns, _) in enumerate(window_taps(step, c)):
        inside = (rows >= 0)[:, None] & (columns >= 0)[None, :]
        at = places[:, np.maximum(rows, 0)[:, None], np.maximum(columns, 0)[None, :]][:, inside]
        c.reshape(-1, c.shape[-1])[at.reshape(-1)] += (s * shares[..., p])[:, inside].reshape(-1, c.shape[-1])


def window_taps(step: Step, a: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Return for each place of a pool's window its row and column in the image, by window (-1 outside), and a there (-inf outside)."""
    height, width, down, right, top, left = _window(step)
    rows, columns = window_of(step).output_size(*step.input_shape[:2])
    found = []
    for i in range(height):
        for j in range(width):
            y, x = np.arange(rows) * down + i - top, np.arange(columns) * right + j - left
            y[(y >= a.shape[1])], x[(x >= a.shape[2])] = -1, -1
            tap = a[:, np.maximum(y, 0)[:, None], np.maximum(x, 0)[None, :]]
            outside = (y < 0)[:, None] | (x < 0)[None, :]
            tap[:, outside] = -np.inf
            found.append((np.maximum(y, -1), np.maximum(x, -1), tap))
    return found


def as_average(step: Step) -> Step:
    """Return a max-pool as an average pool, which rules make of it that don't ask who won."""
    if "average" not in step.prepared:
        zeros = np.zeros(step.input_shape[-1])
        step.prepared["average"] = dataclasses.replace(step, kind="avgpool", bias=zeros, prepared={})
    average: Step = step.prepared["average"]
    return average


def route(step: Step, R: np.ndarray, winner: np.ndarray, division: Division | None, workspace: Workspace) -> Carried:
    """Give a max-pool's relevance to its winners, and do line 2 of the step below."""
    from nplrp.kernels import pool

    c = workspace.empty((len(R), *step.input_shape), R.dtype)
    image, window = _image(R, step), _window(step)
    if division is not None and division.weights == (1.0,):
        ((_, kind, epsilon),) = stabilisers(division.z[0], division.rule)
        for maps in runs(R, winner):
            pool.max_transpose_divide(image[maps], winner, *window, division.z[0], kind, epsilon, c[maps], threads())
        workspace.give(R)
        return Carried([c], True)
    for maps in runs(R, winner):
        pool.max_transpose(image[maps], winner, *window, c[maps], threads())
    workspace.give(R)
    return Carried([c], False) if division is None else Carried(divide_parts(c, division, workspace), True)


def route_times(step: Step, s: np.ndarray, winner: np.ndarray, a: np.ndarray, division: Division | None, workspace: Workspace) -> Carried:
    """Do lines 3 and 4 of a max-pool in one pass, and line 2 of the step below."""
    from nplrp.kernels import pool

    out, image, window = workspace.empty((len(s), *a.shape[1:]), a.dtype), _image(s, step), _window(step)
    if division is not None and division.weights == (1.0,):
        ((_, kind, epsilon),) = stabilisers(division.z[0], division.rule)
        for maps in runs(s, winner):
            pool.max_transpose_ratio(image[maps], winner, *window, a, division.z[0], kind, epsilon, out[maps], threads())
        return Carried([out], True)
    for maps in runs(s, winner):
        pool.max_transpose_times(image[maps], winner, *window, a, out[maps], threads())
    return Carried([out], False) if division is None else Carried(divide_parts(out, division, workspace), True)


# Means


def avg_forward(
    step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: np.ndarray, relu: bool, held: Any = None
) -> np.ndarray:
    """Return the means, term after term, the bias last."""
    from nplrp.kernels import elementwise, pool

    nt, z = threads(), np.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype)
    for t, (a, change) in enumerate(zip(inputs, changes, strict=True)):
        term = z if t == 0 else np.empty_like(z)
        pool.avg_forward(a, *_window(step), _image(term, step), nt)
        if scale_of_ones(change) != 1:
            elementwise.affine(term, np.full_like(b, scale_of_ones(change)), np.zeros_like(b), term, nt)
        if t > 0:
            z += term
    elementwise.add_bias(z, b, relu, nt)
    return z


def avg_transpose(step: Step, s: np.ndarray, change: Change, held: Any, c: np.ndarray) -> None:
    """Write to c the sum of s / count over the windows that hold each place."""
    from nplrp.kernels import pool

    pool.avg_transpose(_image(s, step), *_window(step), c, threads())
    if scale_of_ones(change) != 1:
        c *= c.dtype.type(scale_of_ones(change))


def avg_fused(
    step: Step, inputs: Sequence[np.ndarray], relu: bool | float, parts: Sequence[Part], workspace: Workspace
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Return the means, and beside them those of parts, whose weights are another multiple of them."""
    from nplrp.kernels import elementwise, pool

    (a,), nt = inputs, threads()
    z, *besides = (workspace.empty((len(a), *step.output_shape), a.dtype) for _ in (None, *parts))
    pool.avg_forward(a, *_window(step), _image(z, step), nt)
    for out, change in zip(besides, clamps(parts), strict=True):
        elementwise.add_scaled(z, scale_of_ones(change), out, False, nt)
    if relu:
        elementwise.relu(z, z, nt)
    return z, besides


def avg_carry(step: Step, s: Sequence[np.ndarray], parts: Sequence[Part], inputs: Sequence[np.ndarray], workspace: Workspace) -> Carried:
    """Do lines 3 and 4."""
    from nplrp.kernels import elementwise, pool

    (a,), nt = inputs, threads()
    R, c = (workspace.empty((len(s[0]), *a.shape[1:]), a.dtype) for _ in range(2))
    for p, (each, change) in enumerate(zip(s, clamps(parts), strict=True)):
        pool.avg_transpose(_image(each, step), *_window(step), c, nt)
        for maps in runs(c, a):
            elementwise.multiply_scaled(a, c[maps], scale_of_ones(change), R[maps], p > 0, nt)
    workspace.give(c)
    return Carried([R], False)


def max_ends(step: Step, a: np.ndarray) -> np.ndarray:
    """Return the maxima of both ends."""
    return choose(step, a)[0]


def avg_ends(step: Step, a: np.ndarray) -> np.ndarray:
    """Return the means of both ends."""
    return avg_forward(step, [a], [AS_IS], np.zeros(step.input_shape[-1]), False)


def _image(x: np.ndarray, step: Step) -> np.ndarray:
    """View a pool's output with height and width, which a global pool may have dropped."""
    height, width = window_of(step).output_size(*step.input_shape[:2])
    return x.reshape(len(x), height, width, step.input_shape[2])


def _window(step: Step) -> tuple[int, int, int, int, int, int]:
    """Return a pool's (height, width, vertical stride, horizontal stride, rows of padding above, columns to the left)."""
    window = window_of(step)
    top, _, left, _ = window.pads(*step.input_shape[:2])
    return (*window.size, *window.stride, top, left)


def _terms(step: Step) -> tuple[int, int]:
    """Return the number of terms in a sum over inputs, and over outputs."""
    window = window_of(step)
    forward = int(np.prod(window.size)) if step.kind == AVERAGE.name else 2
    return forward, int(np.prod([-(-size // stride) for size, stride in zip(window.size, window.stride, strict=True)]))


# From Keras


def _reader(kind: str, dims: int) -> Reader:
    return lambda call: call.add(kind, call.image(dims), window=call.window("pool_size", dims, None))


def _function(kind: str) -> Reader:
    """Return the reader of a pool that is a function: of images or sequences, whose window may have an entry for batch and channels."""

    def read(call: Call) -> Tensor:
        dims = len(call.tensor.axes) - 1
        size, strides = (_between(call.given(*keys), dims) for keys in (("pool_size", "ksize"), ("strides",)))
        call.options = {**call.options, "pool_size": size, "strides": strides, "padding": call.given("padding", default="valid")}
        return call.add(kind, call.image(dims), window=call.window("pool_size", dims, None))

    return read


def _between(value: Any, dims: int) -> Any:
    """Return sizes along an image's axes, of sizes along those, the batch and the channels too."""
    sizes = items(value)
    if len(sizes) != dims + 2:
        return sizes[0] if len(sizes) == 1 else value
    middle = sizes[1:-1] if sizes[0] == sizes[-1] == 1 else sizes[2:]
    if sizes not in ([1, *middle, 1], [1, 1, *middle]):
        raise ValueError(f"its window is {brief(value)}, expected 1 for batch and channels")
    return middle


def _global_reader(kind: str, dims: int) -> Reader:
    return lambda call: call.add(kind, call.image(dims), keepdims=call.only("keepdims", False, True))


#: The most windows of their own size along an axis.
MAX_WINDOWS = 64


def _adaptive_reader(kind: str, dims: int) -> Reader:
    """Return the reader of a pool by the size of its output: place i sees floor(i n / outputs) to ceil((i + 1) n / outputs), rows first."""

    def read(call: Call) -> Tensor:
        x, wanted = call.image(dims), (1, *call.sizes("output_size", dims))[-2:]
        size = x.shape[0] // wanted[0], x.shape[1] // wanted[1]
        if (size[0] * wanted[0], size[1] * wanted[1]) == x.shape[:2]:
            return call.add(kind, x, window=Window(size, size))
        if max(wanted) > MAX_WINDOWS or not all(size):
            raise ValueError(
                f"it makes {wanted[0]} x {wanted[1]} places of {x.shape[0]} x {x.shape[1]}; at most {MAX_WINDOWS} and no more than "
                "there are can be made: put a pool of a fixed size in its place"
            )
        for axis, name in ((0, "row"), (1, "column")):
            n, outputs, pieces = x.shape[axis], wanted[axis], []
            for i in range(outputs):
                first, end = i * n // outputs, -(-(i + 1) * n // outputs)
                pads, window = [0, 0, 0, 0], [1, 1]
                pads[2 * axis : 2 * axis + 2], window[axis] = (first, n - end), end - first
                piece = call.add("crop", x, part=f"{name}_{i}/crop", pads=tuple(pads))
                pieces.append(call.add(kind, piece, part=f"{name}_{i}", window=Window((window[0], window[1]), (window[0], window[1]))))
            part = "" if axis else "rows"
            x = (
                call.add("concatenate", *pieces, part=part, options={"axis": axis})
                if outputs > 1
                else call.add("identity", pieces[0], part=part)
            )
        return x

    return read


def _reduction(kind: str) -> Reader:
    """Return the reader of a mean or maximum over some axes."""
    return lambda call: _reduced(call, kind)


def _sum(call: Call) -> Tensor:
    """Read a sum over some axes: as many times the mean as there are places."""
    mean = _reduced(call, "avgpool", "mean")
    count = math.prod(call.tensor.shape) // math.prod(mean.shape)
    return scaled(call, mean, np.full(1, float(count)))


def _reduced(call: Call, kind: str, part: str = "") -> Tensor:
    x, axes, keeps = call.tensor, call.get("axis"), bool(call.get("keepdims"))
    rank = len(x.axes)
    over = sorted(call.axes(axes, rank)) if axes is not None else list(range(rank))
    kept = [i for i in range(rank) if i not in over]
    if rank not in (2, 3) or not kept:
        raise ValueError(f"over axis={axes!r} of {x.keras_shape} isn't supported, only over rows, columns or channels, and not over all")
    order = [*over, *kept]
    image = call.arrange(x, tuple(order.index(i) + 3 - rank for i in range(rank)), 3)
    if len(kept) == 1:
        return call.add(f"global_{kind}", image, part=part, keepdims=keeps)
    window = (image.shape[0], 1)
    found = call.add(kind, image, part=part, window=Window(window, window))
    return found if keeps else dataclasses.replace(found, axes=tuple(found.axes[i] for i in kept))


def _readers(kind: str, name: str, whole: bool) -> dict[str, Reader]:
    """Return the readers of one- and two-dimensional pools."""
    read = _global_reader if whole else _reader
    readers = {}
    for dims in (1, 2):
        readers[f"{'Global' if whole else ''}{name}Pooling{dims}D"] = read(kind, dims)
        readers[f"{'Global' if whole else ''}{name[:3]}Pool{dims}D"] = read(kind, dims)
        if not whole:
            readers[f"Adaptive{name}Pooling{dims}D"] = _adaptive_reader(kind, dims)
    return readers


MAXIMUM = Operation(
    "maxpool",
    DECIDES,
    "maxpool",
    max_forward,
    max_transpose,
    decide=choose,
    terms=_terms,
    routes=Routes(route, route_times),
    redecide=share_ties,
    average=as_average,
    choice=Choice(places, _held_shares),
    queueable=True,
    tie=window_row,
    windowed=True,
    keeps_sign=True,
    keeps_zero=True,
    ends=max_ends,
)
AVERAGE = Operation(
    "avgpool",
    LINEAR,
    "avgpool",
    avg_forward,
    avg_transpose,
    terms=_terms,
    fused=Fused(avg_fused, avg_carry),
    queueable=True,
    tie=window_row,
    keeps_sign=True,
    ends=avg_ends,
)

_MAX_OVER: dict[str, Reader] = {
    **dict.fromkeys(("Amax", "Max", "tf.math.reduce_max"), _reduction("maxpool")),
    **dict.fromkeys(("MaxPool", *(f"tf.nn.max_pool{dims}" for dims in ("", "1d", "2d"))), _function("maxpool")),
}
_MEAN_OVER: dict[str, Reader] = {
    **dict.fromkeys(("Mean", "tf.math.reduce_mean"), _reduction("avgpool")),
    **dict.fromkeys(("Sum", "tf.math.reduce_sum"), _sum),
    **dict.fromkeys(("AveragePool", *(f"tf.nn.avg_pool{dims}" for dims in ("", "1d", "2d"))), _function("avgpool")),
}

KINDS = (
    Kind("maxpool", shape, _step("maxpool", False), keras=_readers("maxpool", "Max", False) | _MAX_OVER, chooses=True),
    Kind("avgpool", shape, _step("avgpool", False), keras=_readers("avgpool", "Average", False) | _MEAN_OVER),
    Kind("global_maxpool", global_shape, _step("maxpool", True), keras=_readers("global_maxpool", "Max", True), chooses=True),
    Kind("global_avgpool", global_shape, _step("avgpool", True), keras=_readers("global_avgpool", "Average", True)),
)
OPERATIONS = (MAXIMUM, AVERAGE)
