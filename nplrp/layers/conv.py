"""Convolutions: ordinary, grouped, depthwise and transposed, all by `nplrp.kernels.conv`, which chooses the algorithm.

A depthwise convolution is one with as many groups as channels. A transposed convolution is the transpose of the convolution that its own
output would go through (`geometry`), so its forward pass runs the kernels of line 3 and the other way round.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers.activation_names import read_activation
from nplrp.layers.base import (
    FREE,
    LINEAR,
    MADE,
    Carried,
    Division,
    Fused,
    Kind,
    Layer,
    Operation,
    Renumbering,
    Shape,
    Step,
    Weights,
    Window,
    check_vector,
    fits,
    float64,
    image_shape,
    scaled_outputs,
    window_of,
)
from nplrp.layers.config import Arrays, Call, Reader, Tensor, is_size, items
from nplrp.layers.lines import change_weight, changed_bias, clamps, divide_parts, runs, signed_parts, threads
from nplrp.layers.ties import window_row
from nplrp.rules.rule import AS_IS, Change, Clamp, Part
from nplrp.workspace import Workspace

if TYPE_CHECKING:
    from nplrp.kernels.conv import Geometry, Packed


def shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, cin], kernel [kh, kw, cin / groups, cout] -> [ho, wo, cout]."""
    image, kernel, window, groups = image_shape(layer, shapes), layer.arrays["kernel"], window_of(layer), layer.options.get("groups", 1)
    if groups < 1 or image[2] % groups:
        raise ModelError(f"layer {layer.name!r}: the {image[2]} channels that the layer before it gives don't fall into {groups} groups")
    _check_kernel(layer, image, (image[2] // groups, "filters"))
    if kernel.shape[3] % groups:
        raise ModelError(f"layer {layer.name!r}: its {kernel.shape[3]} filters don't fall into {groups} groups")
    check_vector(layer, "bias", kernel.shape[3])
    return fits(layer, image, (*window.output_size(*image[:2]), kernel.shape[3]))


def depthwise_shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, c], kernel [kh, kw, c, m] -> [ho, wo, c m]; output channel c m + j is the j-th of input channel c."""
    image, kernel = image_shape(layer, shapes), layer.arrays["kernel"]
    _check_kernel(layer, image, (image[2], "multiplier"))
    filters = image[2] * kernel.shape[3]
    check_vector(layer, "bias", filters)
    return fits(layer, image, (*window_of(layer).output_size(*image[:2]), filters))


def transposed_shape(layer: Layer, shapes: tuple[Shape, ...]) -> Shape:
    """[h, w, cin], kernel [kh, kw, cout, cin] -> [ho, wo, cout], as large as Keras has it; the option `output_padding` adds to it.

    With 'same' padding ho = h stride, or (h - 1) stride + (size % 2) + output_padding; with 'valid' (h - 1) stride + size + output_padding,
    which is by default what makes it h stride if that is more. With rows and columns of padding these are taken off at the borders.
    """
    image, kernel, window = image_shape(layer, shapes), layer.arrays["kernel"], window_of(layer)
    _check_kernel(layer, image, ("filters", image[2]))
    check_vector(layer, "bias", kernel.shape[2])
    extra = layer.options.get("output_padding") or (None, None)
    pads = window.padding if not isinstance(window.padding, str) else (0, 0, 0, 0)
    sides = []
    for n, k, s, d, more, cut in zip(image, window.size, window.stride, window.dilation, extra, (pads[:2], pads[2:]), strict=False):
        size = (k - 1) * d + 1
        if window.padding == "same":
            sides.append(n * s if more is None else (n - 1) * s + size % 2 + more)
        else:
            least = max(s - size, 0) if window.padding == "valid" else 0
            sides.append((n - 1) * s + size + (least if more is None else more) - sum(cut))
    out = fits(layer, image, (sides[0], sides[1], kernel.shape[2]))
    if window.output_size(*sides) != image[:2]:
        added = "" if extra == (None, None) else f"an output padding of {tuple(extra)} and "
        raise ModelError(f"layer {layer.name!r} ({layer.kind}): {added}a padding of {window.padding} don't fit a stride of {window.stride}")
    return out


def _check_kernel(layer: Layer, image: Shape, channels: tuple[int | str, int | str]) -> None:
    """See that a kernel has the window's size and these channels; texts stand for any number."""
    kernel, size = layer.arrays["kernel"], window_of(layer).size
    wanted = (*size, *channels)
    if kernel.ndim != 4 or any(isinstance(want, int) and have != want for have, want in zip(kernel.shape, wanted, strict=True)):
        expected = ", ".join(map(str, wanted))
        raise ModelError(
            f"layer {layer.name!r}: its kernel has shape {kernel.shape}, expected ({expected}): the layer before it gives {image}"
        )


def weights_of(layer: Layer) -> dict[str, Any]:
    """Return a layer's kernel as a step's weight, and its bias, zeros if it has none."""
    weight = layer.arrays["kernel"]
    bias = layer.arrays.get("bias")
    return {"weight": weight, "bias": np.zeros(layer.output_shape[-1]) if bias is None else bias}


def _depthwise(layer: Layer) -> dict[str, Any]:
    """Return a depthwise convolution as one with as many groups as channels."""
    kh, kw, channels, multiplier = layer.arrays["kernel"].shape
    fields = weights_of(layer)
    weight = fields["weight"].reshape(kh, kw, 1, channels * multiplier)
    return {"kind": "conv", **fields, "weight": weight, "options": {"groups": channels}}


def _transposed(layer: Layer) -> dict[str, Any]:
    return {"kind": "conv_transpose", **weights_of(layer), "options": {"turned": True}}


def _renumber(layer: Layer, orders: Sequence[np.ndarray], after: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return _renumbered(layer, _rearranged(layer.arrays["kernel"], orders[0], after), after)


def _rearranged(kernel: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Return kernel[..., rows, :][..., columns], block by block: all at once leaves the cache for each number of a large matrix."""
    taps = kernel.reshape(-1, *kernel.shape[-2:])
    made = np.empty((len(taps), len(rows), len(columns)), kernel.dtype)
    for tap, out in zip(taps, made, strict=True):
        for first in range(0, len(rows), 256):
            block = slice(first, first + 256)
            np.take(tap[rows[block]], columns, axis=-1, out=out[block], mode="clip")
    return made.reshape(*kernel.shape[:-2], len(rows), len(columns))


def _renumber_transposed(layer: Layer, orders: Sequence[np.ndarray], after: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return _renumbered(layer, _rearranged(layer.arrays["kernel"], after, orders[0]), after)


def _renumber_depthwise(layer: Layer, orders: Sequence[np.ndarray], after: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    order, kernel = orders[0], layer.arrays["kernel"]
    multiplier = kernel.shape[3]
    after = (order[:, None] * multiplier + np.arange(multiplier)).reshape(-1)
    return _renumbered(layer, np.ascontiguousarray(kernel[:, :, order]), after)


def _renumbered(layer: Layer, kernel: np.ndarray, after: np.ndarray) -> tuple[dict[str, np.ndarray], np.ndarray]:
    return {"kernel": kernel} | {key: array[after] for key, array in layer.arrays.items() if key == "bias"}, after


#: Of layers whose kernel ends in input and output channels.
OWN_CHANNELS = Renumbering(FREE, _renumber)


def forward(step: Step, inputs: Sequence[np.ndarray], changes: Sequence[Change], b: np.ndarray, relu: bool, held: Any = None) -> np.ndarray:
    """Convolve: the first two terms in one pass, further ones added to it."""
    from nplrp.kernels import conv, elementwise

    nt, z = threads(), np.empty((len(inputs[0]), *step.output_shape), inputs[0].dtype)
    second = inputs[1] if len(inputs) > 1 else None
    packed = packed_weights(step, tuple(changes[:2]), False)
    conv.conv_forward(inputs[0], packed, b, relu and len(inputs) < 3, z, x2=second, threads=nt)
    for a, change in zip(inputs[2:], changes[2:], strict=True):
        term = np.empty_like(z)
        conv.conv_forward(a, packed_weights(step, (change,), False), np.zeros_like(b), False, term, threads=nt)
        z += term
    if relu and len(inputs) > 2:
        elementwise.relu(z, z, nt)
    return z


def transpose(step: Step, s: np.ndarray, change: Change, held: Any, c: np.ndarray) -> None:
    """Write the transposed convolution of s to c."""
    from nplrp.kernels import conv

    conv.conv_transpose(s, packed_weights(step, (change,), True), c, threads=threads())


def fused_forward(
    step: Step, inputs: Sequence[np.ndarray], relu: bool | float, parts: Sequence[Part], workspace: Workspace
) -> tuple[np.ndarray, list[np.ndarray]]:
    """Convolve, and with the first part's weights in the same pass over the input, if these are all that it changes."""
    own = (packed_weights(step, (AS_IS,), False), step.bias, relu)
    z, *besides = _convolved(step, inputs, [own], parts, workspace)
    return z, besides


def fused_beside(step: Step, inputs: Sequence[np.ndarray], parts: Sequence[Part], workspace: Workspace) -> list[np.ndarray]:
    """Convolve with the weights of parts alone."""
    return _convolved(step, inputs, [], parts, workspace)


def _convolved(
    step: Step, inputs: Sequence[np.ndarray], own: list[tuple[Any, ...]], parts: Sequence[Part], workspace: Workspace
) -> list[np.ndarray]:
    """Convolve with the step's own (packed weights, bias, relu), if any, then with those of parts; two that read the input in one go."""
    from nplrp.kernels import conv

    (a,) = inputs
    nt, scratch, changed = threads(), scratch_of(workspace), signed_parts(a, parts, workspace)
    found = [workspace.empty((len(a), *step.output_shape), a.dtype) for _ in (*own, *parts)]
    products = [((a,), *each) for each in own]
    for part in parts:
        read = tuple(changed[term.input] for term in part.terms)
        products.append((read, packed_weights(step, _weights(part), False), changed_bias(step, part.bias), False))
    waiting = list(zip(products, found, strict=True))
    if len(waiting) > 1 and (own or _unchanged(parts[0])) and _unchanged(parts[1 - len(own)]):
        (_, packed, bias, relu), out = waiting.pop(0)
        (_, packed2, bias2, _), out2 = waiting.pop(0)
        conv.conv_forward(a, packed, bias, relu, out, packed2=packed2, bias2=bias2, out2=out2, threads=nt, workspace=scratch)
    for (read, packed, bias, relu), out in waiting:
        x, *more = read
        conv.conv_forward(x, packed, bias, relu, out, x2=more[0] if more else None, threads=nt, workspace=scratch)
    workspace.give(*(array for name, array in changed.items() if name != "a"))
    return found


def _weights(part: Part) -> tuple[Change, ...]:
    return tuple(term.weight for term in part.terms)


def _unchanged(part: Part) -> bool:
    return [term.input for term in part.terms] == ["a"]


def carry(
    step: Step,
    s: Sequence[np.ndarray],
    parts: Sequence[Part],
    inputs: Sequence[np.ndarray],
    workspace: Workspace,
    division: Division | None,
) -> Carried:
    """Do lines 3 and 4 as the last thing that the kernel does with a number, and line 2 of the step below."""
    from nplrp.kernels import conv

    (a,) = inputs
    if not all(map(_unchanged, parts)):
        R = _carry_terms(step, s, parts, a, workspace)
        return Carried([R], False)
    outs = [workspace.empty((len(s[0]), *a.shape[1:]), a.dtype) for _ in (division.z if division else (a,))]
    second = {"s2": s[1]} if len(s) > 1 else {}
    packed, nt, scratch = packed_weights(step, tuple(clamps(parts)), True), threads(), scratch_of(workspace)
    if division is None or (len(outs) == 1 and division.weights != (1.0,)):
        conv.conv_transpose(s[0], packed, outs[0], **second, a=a, threads=nt, workspace=scratch)
        return Carried(outs, False) if division is None else Carried(divide_parts(outs[0], division, workspace), True)
    rule = division.rule
    two = {"out2": outs[1], "z2": division.z[1], "weights": division.weights} if len(outs) > 1 else {}
    signed = rule.stabiliser == "sign"
    conv.conv_transpose(
        s[0], packed, outs[0], **second, a=a, z=division.z[0], eps=rule.epsilon, signed=signed, **two, threads=nt, workspace=scratch
    )
    return Carried(outs, True)


def _carry_terms(step: Step, s: Sequence[np.ndarray], parts: Sequence[Part], a: np.ndarray, workspace: Workspace) -> np.ndarray:
    """Do lines 3 and 4 term by term, and add up."""
    from nplrp.kernels import conv, elementwise

    nt, scratch, changed = threads(), scratch_of(workspace), signed_parts(a, parts, workspace)
    shape = len(s[0]), *a.shape[1:]
    total, c = (workspace.empty(shape, a.dtype) for _ in range(2))
    share = total
    for k, (each, part) in enumerate(zip(s, parts, strict=True)):
        if k == 1:
            share = workspace.empty(shape, a.dtype)
        packed = [packed_weights(step, (term.weight,), True) for term in part.terms]
        for t, term in enumerate(part.terms):
            x = changed[term.input]
            if t == 0:
                also = (packed[1], c) if len(packed) > 1 else None
                conv.conv_transpose(each, packed[0], share, a=x, threads=nt, workspace=scratch, also=also)
            else:
                if t > 1:
                    conv.conv_transpose(each, packed[t], c, threads=nt, workspace=scratch)
                for maps in runs(c, x):
                    elementwise.multiply_add(x, c[maps], share[maps], nt)
        if k > 0:
            elementwise.add(total, share, total, nt)
    workspace.give(c, *([share] if share is not total else []), *(array for name, array in changed.items() if name != "a"))
    return total


def geometry(step: Step) -> Geometry:
    """Return a convolution's shape as the kernels have it; of a transposed one that of the convolution that it is the transpose of."""
    from nplrp.kernels import conv

    image, out = (step.output_shape, step.input_shape) if _turned(step) else (step.input_shape, step.output_shape)
    height, width, cin = image
    window = window_of(step)
    pads = window.pads(height, width)
    return conv.Geometry(height, width, cin, out[2], window.size, window.stride, window.dilation, pads, _groups(step))


def _turned(step: Step) -> bool:
    return bool(step.options.get("turned", False))


def _groups(step: Step) -> int:
    return int(step.options.get("groups", 1))


def algorithm(step: Step, dtype: np.dtype) -> str:
    """Return which algorithm a convolution runs with: a fixed function of its shape and dtype, or the direct one if asked for."""
    from nplrp.kernels import conv

    return "direct" if step.algorithm == "direct" else conv.algorithm(geometry(step), dtype)


def packed_weights(step: Step, changes: tuple[Change, ...], transposed: bool) -> Packed:
    """Return a convolution's weights as the kernels want them, prepared once for each change.

    From the second use on transformed weights are kept that the first has made on the fly, while there is room: who explains one image
    shouldn't wait for memory.
    """
    from nplrp.kernels import conv

    key = (transposed, changes)
    again, held = ("again", key), ("held", key)
    if key not in step.prepared:
        step.prepared[key] = _pack(step, changes, transposed, None)
        step.prepared[again] = True
    elif step.prepared.pop(again, False):  # so that one of several threads does it
        size = conv.unstored(step.prepared[key])
        hold = step.room.take(size) if size and step.room else None
        if hold:
            step.prepared[held] = hold
            step.prepared[key] = _pack(step, changes, transposed, True)
    packed: Packed = step.prepared[key]
    return packed


def _pack(step: Step, changes: tuple[Change, ...], transposed: bool, stored: bool | None) -> Packed:
    from nplrp import jit
    from nplrp.kernels import conv

    assert step.weight is not None
    factors = [change if isinstance(change, Clamp) else AS_IS for change in changes]
    weight = step.weight if all(isinstance(change, Clamp) for change in changes) else change_weight(step.weight, changes[0])
    chosen = algorithm(step, step.weight.dtype)
    with jit.at_once():  # other threads may use it right away, and it stays if this pass fails
        return conv.pack(weight, geometry(step), transposed != _turned(step), factors, algorithm=chosen, threads=threads(), stored=stored)


def scratch_of(workspace: Workspace) -> Any:
    """Return what the convolution kernels keep between calls."""
    from nplrp.kernels import conv

    workspace.scratch = workspace.scratch or conv.Workspace(grown=workspace.replays.clear)
    return workspace.scratch


def terms(step: Step) -> tuple[int, int]:
    """Return the number of terms in a sum over inputs, and over outputs."""
    window, groups = window_of(step), _groups(step)
    taps = math.prod(window.size)
    if _turned(step):  # strides leave taps out
        met = math.prod(-(-size // stride) for size, stride in zip(window.size, window.stride, strict=True))
        return met * step.input_shape[2] + 1, taps * step.output_shape[2]
    return taps * step.input_shape[2] // groups + 1, taps * step.output_shape[2] // groups


def scaled_inputs(step: Step, g: np.ndarray, h: np.ndarray) -> Weights | None:
    """Return weight and bias of a convolution preceded by y = g x + h; where it pads with zeros, these would be h instead."""
    if g.size != step.input_shape[2] or (np.any(h) and any(window_of(step).pads(*step.input_shape[:2]))):
        return None
    w, b = float64(step)
    groups, filters = _groups(step), w.shape[3]
    g, h = (v.reshape(groups, -1).T.repeat(filters // groups, axis=1) for v in (g, h))  # [cin / groups, cout]
    return w * g, b + np.einsum("ijkl,kl->l", w, h)


def transposed_scaled_outputs(step: Step, g: np.ndarray, h: np.ndarray) -> Weights:
    """Return weight and bias of a transposed convolution followed by y = g x + h."""
    w, b = float64(step)
    return w * g[:, None], b * g + h


def transposed_scaled_inputs(step: Step, g: np.ndarray, h: np.ndarray) -> Weights | None:
    """Return weight and bias of a transposed convolution preceded by y = g x; what h would give isn't the same everywhere."""
    if g.size != step.input_shape[2] or np.any(h):
        return None
    w, b = float64(step)
    return w * g, b


def _transposed_row(step: Step) -> tuple[int, ...] | None:
    """Describe a transposed convolution as a window over its input: the same one turned round; behind strides ties can't be told."""
    window = window_of(step)
    if window.stride != (1, 1):
        return None
    before = [(k - 1) * d - p for k, d, p in zip(window.size, window.dilation, window.pads(*step.output_shape[:2])[::2], strict=True)]
    sizes = zip(step.output_shape, step.input_shape, window.size, window.dilation, before, strict=False)
    after = [out - n + (k - 1) * d - first for out, n, k, d, first in sizes]
    return (*window.size, 1, 1, *window.dilation, before[0], after[0], before[1], after[1])


# From Keras


def _variables(call: Call, kernel: Shape, outputs: int) -> dict[str, Shape]:
    return {"kernel": kernel, "bias": (outputs,)} if call.only("use_bias", True, False) else {"kernel": kernel}


def _as_image(arrays: Arrays) -> Arrays:
    """Give the kernel of a sequence a height of 1."""
    return {**arrays, "kernel": arrays["kernel"][None]}


def _reader(dims: int) -> Reader:
    def read(call: Call) -> Tensor:
        image, window = call.image(dims), call.window("kernel_size", dims)
        filters, groups, cin = call.size("filters"), call.size("groups"), image.shape[2]
        if cin % groups or filters % groups:
            raise ValueError(f"groups={groups} doesn't divide {cin} channels and {filters} filters")
        return call.add(
            "conv",
            image,
            variables=_variables(call, (*window.size[2 - dims :], cin // groups, filters), filters),
            make=_as_image if dims == 1 else None,
            window=window,
            activation=read_activation(call),
            options={"groups": groups} if groups > 1 else {},
        )

    return read


def _depthwise_reader(dims: int) -> Reader:
    def read(call: Call) -> Tensor:
        image, window, multiplier = call.image(dims), call.window("kernel_size", dims), call.size("depth_multiplier")
        cin = image.shape[2]
        return call.add(
            "depthwise",
            image,
            variables=_variables(call, (*window.size[2 - dims :], cin, multiplier), cin * multiplier),
            make=_as_image if dims == 1 else None,
            window=window,
            activation=read_activation(call),
        )

    return read


def _separable_reader(dims: int) -> Reader:
    """Return the reader of a depthwise convolution without bias and a 1x1 convolution behind it."""

    def read(call: Call) -> Tensor:
        image, window, multiplier = call.image(dims), call.window("kernel_size", dims), call.size("depth_multiplier")
        cin, filters = image.shape[2], call.size("filters")
        variables = _variables(call, (*window.size[2 - dims :], cin, multiplier), filters)
        variables = {"kernel": variables.pop("kernel"), "pointwise": ((1,) * dims + (cin * multiplier, filters)), **variables}
        height = (slice(None),) if dims == 2 else (None,)

        def depthwise(arrays: Arrays) -> Arrays:
            return {"kernel": arrays["kernel"][height]}

        def pointwise(arrays: Arrays) -> Arrays:
            return {"kernel": arrays["pointwise"][height]} | {key: arrays[key] for key in ("bias",) if key in arrays}

        each = call.add("depthwise", image, part="depthwise", variables=variables, make=depthwise, window=window)
        return call.add("conv", each, variables=variables, make=pointwise, window=Window((1, 1)), activation=read_activation(call))

    return read


def _transposed_reader(dims: int) -> Reader:
    def read(call: Call) -> Tensor:
        image, window, filters = call.image(dims), call.window("kernel_size", dims), call.size("filters")
        more, options = call.get("output_padding"), {}
        if more is not None:
            sides = [more] * dims if isinstance(more, int) else items(more)
            if len(sides) != dims or not all(is_size(side, 0) for side in sides):
                raise ValueError(f"output_padding is {more!r}, expected whole numbers >= 0")
            options = {"output_padding": [0] * (2 - dims) + sides}
        return call.add(
            "conv_transpose",
            image,
            variables=_variables(call, (*window.size[2 - dims :], filters, image.shape[2]), filters),
            make=_as_image if dims == 1 else None,
            window=window,
            activation=read_activation(call),
            options=options,
        )

    return read


_CONV: Mapping[str, Reader] = {
    "Conv1D": _reader(1),
    "Conv2D": _reader(2),
    "Convolution1D": _reader(1),
    "Convolution2D": _reader(2),
    "SeparableConv1D": _separable_reader(1),
    "SeparableConv2D": _separable_reader(2),
    "SeparableConvolution1D": _separable_reader(1),
    "SeparableConvolution2D": _separable_reader(2),
}

_DEPTHWISE: Mapping[str, Reader] = {"DepthwiseConv1D": _depthwise_reader(1), "DepthwiseConv2D": _depthwise_reader(2)}
_TRANSPOSED: Mapping[str, Reader] = {
    "Conv1DTranspose": _transposed_reader(1),
    "Conv2DTranspose": _transposed_reader(2),
    "Convolution2DTranspose": _transposed_reader(2),
    "Deconvolution2D": _transposed_reader(2),
}

CONV = Operation(
    "conv",
    LINEAR,
    "conv",
    forward,
    transpose,
    terms=terms,
    fused=Fused(fused_forward, carry, fused_beside, terms=2, tops=True, divides=True),
    queueable=True,
    tie=window_row,
    scale_outputs=scaled_outputs,
    scale_inputs=scaled_inputs,
    rounds=lambda step, dtype: algorithm(step, dtype) != "direct",
    tiled=lambda step: _groups(step) == 1 and window_of(step).stride == window_of(step).dilation == (1, 1),
)

TRANSPOSED = replace(
    CONV,
    name="conv_transpose",
    tie=_transposed_row,
    scale_outputs=transposed_scaled_outputs,
    scale_inputs=transposed_scaled_inputs,
    tiled=lambda step: False,
)

KINDS = (
    Kind(
        "conv",
        shape,
        lambda layer: {"kind": "conv", **weights_of(layer)},
        keras=_CONV,
        renumbering=lambda layer: OWN_CHANNELS if layer.options.get("groups", 1) == 1 else None,
    ),
    Kind("depthwise", depthwise_shape, _depthwise, keras=_DEPTHWISE, renumbering=lambda layer: Renumbering(MADE, _renumber_depthwise)),
    Kind(
        "conv_transpose",
        transposed_shape,
        _transposed,
        keras=_TRANSPOSED,
        renumbering=lambda layer: Renumbering(FREE, _renumber_transposed),
    ),
)
OPERATIONS = (CONV, TRANSPOSED)
