"""ONNX's operators: each takes (walk, node, its attributes), puts layers down and says what its output is."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers.activation_names import PARAMETERS, clipped, written
from nplrp.layers.shapes import COPIES, MAX_PIECES, copies, neighbours
from nplrp.model import Window
from weights_tools.onnx_walk import Value, Walk, unsupported

NORMAL_DOMAINS = ("", "ai.onnx")

Options = Mapping[str, Any]
Handler = Callable[[Walk, Any, Options], None]

# Convolutions


def _conv(walk: Walk, node: Any, options: Options) -> None:
    x = walk.image(node, walk.value(node, 0))
    kernel, bias, dims = _kernel(walk, node, x), walk.weights(node, 2), len(x.axes) - 1
    groups, (filters, inner, *size) = options.get("group", 1), kernel.shape
    if inner * groups != x.shape[2] or filters % groups:
        raise unsupported(
            node,
            f"its weights have shape {kernel.shape} with group={groups}, but its input has {x.shape[2]} channels; export it again",
            False,
        )
    x, window = _window(walk, node, options, x, (size[0], size[1]), dims, zeros=True)
    more: dict[str, Any] = {}
    if groups > 1 and inner == 1:
        kind, kernel = "depthwise", kernel.reshape(groups, filters // groups, *size).transpose(2, 3, 0, 1)
    else:
        kind, kernel = "conv", kernel.transpose(2, 3, 1, 0)  # OIHW -> HWIO
        more = {"options": {"groups": groups}} if groups > 1 else {}
    walk.give(node, walk.add(node, kind, x, window=window, arrays=_weights(kernel, bias), **more))


def _conv_transpose(walk: Walk, node: Any, options: Options) -> None:
    x = walk.image(node, walk.value(node, 0))
    kernel, bias, dims = _kernel(walk, node, x), walk.weights(node, 2), len(x.axes) - 1
    groups, channels = options.get("group", 1), x.shape[2]
    if not 1 <= groups <= MAX_PIECES or channels % groups or len(kernel) != channels:
        raise unsupported(node, f"group={groups} of {channels} channels isn't supported, at most {MAX_PIECES} that they fall into")
    size, stride, dilation = kernel.shape[2:], _two(options.get("strides", (1,) * dims), 1), _two(options.get("dilations", (1,) * dims), 1)
    more, wanted = _two(options.get("output_padding", (0,) * dims), 0), options.get("output_shape")
    spans = [(k - 1) * d + 1 for k, d in zip(size, dilation, strict=True)]
    full = [(n - 1) * s + span + extra for n, s, span, extra in zip(x.shape, stride, spans, more, strict=False)]
    auto = options.get("auto_pad", b"NOTSET").decode()
    if wanted is not None or auto in ("SAME_UPPER", "SAME_LOWER"):
        sides = _two(wanted, 1) if wanted is not None else tuple(n * s for n, s in zip(x.shape, stride, strict=False))
        cuts = [n - side for n, side in zip(full, sides, strict=True)]
        halves = [(cut // 2, cut - cut // 2) if auto == "SAME_UPPER" or wanted is None else (cut - cut // 2, cut // 2) for cut in cuts]
        pads = (*halves[0], *halves[1])
    else:
        pads = _pads_of(options, dims) if auto == "NOTSET" else (0, 0, 0, 0)
    if min(pads) < 0:
        raise unsupported(node, f"its output is larger than its weights reach: padding {pads} (top, bottom, left, right)")
    window = Window((size[0], size[1]), stride, dilation, pads)
    pieces = []
    for i in range(groups):
        mine, first = channels // groups, i * (channels // groups)
        piece = walk.cut(node, x, x.axes.index(2), first, first + mine, f"_{i}") if groups > 1 else x
        weights = kernel[first : first + mine].transpose(2, 3, 1, 0)  # IOHW -> HWOI
        own = bias if bias is None else np.split(bias, groups)[i]
        suffix = f"_group_{i}" if groups > 1 else ""
        extra = {"output_padding": list(more)}
        piece = walk.add(node, "conv_transpose", piece, suffix=suffix, window=window, arrays=_weights(weights, own), options=extra)
        pieces.append(piece)
    walk.give(node, pieces[0] if groups == 1 else walk.add(node, "concatenate", *pieces, options={"axis": 2}))


def _kernel(walk: Walk, node: Any, x: Value) -> np.ndarray:
    """Return a convolution's weights, of a sequence with a height of 1."""
    kernel = walk.kernel(node, 1, len(x.axes) + 1)
    return kernel if kernel.ndim == 4 else kernel[:, :, None]


def _weights(kernel: np.ndarray, bias: np.ndarray | None) -> dict[str, np.ndarray]:
    kernel = np.ascontiguousarray(kernel)
    return {"kernel": kernel} if bias is None else {"kernel": kernel, "bias": bias}


def _two(given: Sequence[int], default: int) -> tuple[int, int]:
    """Return a number for rows and one for columns; a sequence has columns only."""
    found = (default,) * (2 - len(given)) + tuple(int(each) for each in given)
    return found[0], found[1]


def _pads_of(options: Options, dims: int) -> tuple[int, int, int, int]:
    given = [int(each) for each in options.get("pads", (0,) * (2 * dims))]
    (top, left), (bottom, right) = _two(given[:dims], 0), _two(given[dims:], 0)
    return top, bottom, left, right


# Pools


def _pool(walk: Walk, node: Any, options: Options) -> None:
    if len(node.output) > 1 and node.output[1]:
        raise unsupported(node, "its second output, where the maxima were, isn't supported")
    x = walk.image(node, walk.value(node, 0))
    kind, dims = ("maxpool" if node.op_type == "MaxPool" else "avgpool"), len(x.axes) - 1
    zeros = kind == "avgpool" and bool(options.get("count_include_pad", 0))
    x, window = _window(walk, node, options, x, _two(options["kernel_shape"], 1), dims, zeros)
    if window.dilation != (1, 1):
        raise unsupported(node, f"dilations={list(window.dilation)} aren't supported for pooling")
    if window.size != (1, 1) or window.stride != (1, 1):  # an adaptive pool at the size that it adapts to
        x = walk.add(node, kind, x, window=window)
    walk.give(node, x)


def _window(walk: Walk, node: Any, options: Options, x: Value, size: tuple[int, int], dims: int, zeros: bool) -> tuple[Value, Window]:
    """Return how a window moves over an image, and the image.

    Padding that is neither TensorFlow's 'same' nor 'valid' becomes a layer of its own where zeros count as values (`zeros`), and is the
    window's own where nothing is there.
    """
    stride, dilation = _two(options.get("strides", (1,) * dims), 1), _two(options.get("dilations", (1,) * dims), 1)
    valid = Window(size, stride, dilation, "valid")
    same = replace(valid, padding="same")
    height, width = x.shape[:2]
    as_same = same.pads(height, width)
    auto = options.get("auto_pad", b"NOTSET").decode()
    flipped = (as_same[1], as_same[0], as_same[3], as_same[2])
    pads = {"NOTSET": _pads_of(options, dims), "SAME_UPPER": as_same, "SAME_LOWER": flipped, "VALID": (0, 0, 0, 0)}[auto]
    if min(pads) < 0:
        raise unsupported(node, f"it pads by less than nothing: {pads} (top, bottom, left, right)")
    over = _overhang((height, width), pads, valid) if options.get("ceil_mode", 0) else (0, 0)
    padded = (height + pads[0] + pads[1], width + pads[2] + pads[3])
    counts_differ = node.op_type == "AveragePool" and zeros
    if (
        pads == as_same
        and any(pads)
        and same.output_size(height, width) == valid.output_size(*padded)
        and not counts_differ
        and not any(over)
    ):
        return x, same
    if zeros and any(pads):
        x = walk.add(node, "pad", x, suffix="_pad", pads=pads)
        pads = (0, 0, 0, 0)
    whole = (pads[0], pads[1] + over[0], pads[2], pads[3] + over[1])
    return x, replace(valid, padding=whole) if any(whole) else valid


def _overhang(image: tuple[int, int], pads: tuple[int, int, int, int], window: Window) -> tuple[int, int]:
    """Return by how many rows and columns the last windows reach over the padding, with ceil_mode: none may begin behind the image."""
    over = []
    for n, before, after, k, s, d in zip(image, pads[::2], pads[1::2], window.size, window.stride, window.dilation, strict=True):
        span = (k - 1) * d + 1
        count = -(-(n + before + after - span) // s) + 1
        count -= (count - 1) * s >= n + before
        over.append(max((count - 1) * s + span - (n + before + after), 0))
    return over[0], over[1]


def _global_pool(walk: Walk, node: Any, options: Options) -> None:
    x = walk.image(node, walk.value(node, 0))
    walk.give(node, walk.add(node, "global_maxpool" if "Max" in node.op_type else "global_avgpool", x, keepdims=True))


def _reduce(walk: Walk, node: Any, options: Options) -> None:
    """Read a mean, maximum or sum over rows and columns, or over some of the axes; a sum is as many times the mean as there are places."""
    x, kind = walk.value(node, 0), "maxpool" if "Max" in node.op_type else "avgpool"
    given, keep, rank = walk.whole(node, 1, options, "axes"), bool(options.get("keepdims", 1)), len(x.axes)
    if not given and options.get("noop_with_empty_axes", 0):
        walk.same(node, x)
        return
    over = sorted({axis % (rank + 1) - 1 for axis in given or range(rank + 1)})
    kept = [axis for axis in range(rank) if axis not in over]
    if over == [-1] * bool(over) or -1 in over or not kept or rank not in (2, 3):
        raise unsupported(node, f"over axes {given} of {walk.batch, *x.sizes} isn't supported, only over rows, columns or channels")
    x = walk.unflattened(x, node.name)
    if rank == 3 and len(kept) == 1:  # however rows and columns lie
        x = walk.last(node, x, kept[0])
    else:
        order = [*over, *kept]
        x = walk.arrange(node, x, tuple(order.index(axis) + 3 - rank for axis in range(rank)), 3)
    if len(kept) == 1:
        found = walk.add(node, f"global_{kind}", x, keepdims=keep)
        found = found if keep else replace(found, axes=(0,))
    else:
        window = (x.shape[0], 1)
        found = walk.add(node, kind, x, window=Window(window, window))
        found = found if keep else walk.reshape(node, found, found.shape[1:], tuple(found.axes[axis] - 1 for axis in kept))
    count = math.prod(x.shape) // math.prod(found.shape)
    walk.give(node, _scaled(walk, node, found, np.full(1, count, np.float32), None) if node.op_type == "ReduceSum" else found)


# Shapes


def _pad(walk: Walk, node: Any, options: Options) -> None:
    x = walk.value(node, 0)
    rank = len(x.axes)
    given = walk.whole(node, 1, options, "pads") or walk.whole(node, 4, options, "paddings")
    value = walk.constant(node, 2) if len(node.input) > 1 else np.array(options.get("value", 0.0))
    some = walk.constant(node, 3)
    axes = list(range(rank + 1)) if some is None else [int(axis) % (rank + 1) for axis in some.reshape(-1)]
    zeros = value is None or not np.any(value)
    mode = options.get("mode", b"constant").decode()
    if given is None or len(given) != 2 * len(axes) or mode not in ("constant", *COPIES) or (mode == "constant" and not zeros):
        raise unsupported(node, "only padding with zeros, or with copies (reflect, edge, wrap), is supported")
    wanted = {axis - 1: (given[i], given[i + len(axes)]) for i, axis in enumerate(axes) if given[i] or given[i + len(axes)]}
    if not wanted:
        walk.same(node, x)
        return
    if -1 in wanted or min(min(pair) for pair in wanted.values()) < 0:
        raise unsupported(node, f"only height, width and channels may be padded, and not by less than nothing: {given}")
    x = walk.unflattened(x, node.name)
    if mode != "constant":
        for axis, pair in wanted.items():
            try:
                x = _taken(walk, node, x, axis, copies(x.sizes[axis], pair, mode))
            except ValueError as error:
                raise unsupported(node, str(error)) from error
        walk.give(node, x)
        return
    if rank == 2:
        x = walk.image(node, x)
    places = {x.axes[axis]: pair for axis, pair in wanted.items()}
    if len(x.shape) != 3 or (2 in places and len(places) > 1):
        raise unsupported(node, f"it pads {walk.batch, *x.sizes} by {given}; only height and width, or channels alone, may be padded")
    if 2 in places:
        height, width, channels = x.shape
        first, after = places[2]
        box = walk.add(node, "pad", walk.reshape(node, x, (height * width, channels, 1), (0, 1, 2)), pads=(0, 0, first, after))
        walk.give(node, walk.reshape(node, box, (height, width, channels + first + after), x.axes))
        return
    walk.give(node, walk.add(node, "pad", x, pads=(*places.get(0, (0, 0)), *places.get(1, (0, 0)))))


def _flatten(walk: Walk, node: Any, options: Options) -> None:
    x = walk.value(node, 0)
    if options.get("axis", 1) % (len(x.axes) + 1) != 1:
        raise unsupported(node, f"axis={options['axis']} isn't supported, only 1")
    walk.give(node, walk.flatten(node, x))


def _reshape(walk: Walk, node: Any, options: Options) -> None:
    x = walk.value(node, 0)
    given = walk.whole(node, 1, options, "shape")
    target = [] if given is None else given
    whole, total = [walk.batch, *x.sizes], math.prod(x.shape)
    found = [whole[i] if n == 0 and i < len(whole) and not options.get("allowzero", 0) else n for i, n in enumerate(target)]
    batch, sides = (found[0], found[1:]) if found else (0, [])
    known = math.prod(side for side in sides if side != -1)
    if batch in (walk.batch, 1) and sides.count(-1) == 1 and known > 0:
        sides = [total // known if side == -1 else side for side in sides]
    if batch not in (walk.batch, 1, -1) or not sides or math.prod(sides) != total or min(sides) < 1:
        raise unsupported(node, f"it reshapes {whole} to {target}, which doesn't keep the batch axis; only the axes behind it may change")
    walk.give(node, walk.view(node, x, tuple(sides)))


def _squeeze(walk: Walk, node: Any, options: Options) -> None:
    x = walk.value(node, 0)
    given = walk.whole(node, 1, options, "axes")
    axes = [axis % (len(x.axes) + 1) - 1 for axis in given] if given else [i for i, side in enumerate(x.sizes) if side == 1]
    if -1 in axes or any(x.sizes[axis] != 1 for axis in axes) or len(axes) == len(x.sizes):
        raise unsupported(node, f"it takes axes {given} away from {walk.batch, *x.sizes}, expected axes of size 1, and not the batch")
    walk.give(node, walk.view(node, x, tuple(side for i, side in enumerate(x.sizes) if i not in axes)))


def _unsqueeze(walk: Walk, node: Any, options: Options) -> None:
    x, sizes = walk.value(node, 0), None
    given = walk.whole(node, 1, options, "axes") or []
    rank = len(x.axes) + 1 + len(given)
    axes = {axis % rank for axis in given}
    if 0 in axes or len(axes) < len(given):
        raise unsupported(node, f"it puts axes {given} into {walk.batch, *x.sizes}, expected different ones behind the batch's")
    sides = iter(x.sizes)
    sizes = tuple(1 if axis in axes else next(sides) for axis in range(1, rank))
    walk.give(node, walk.view(node, x, sizes))


def _transpose(walk: Walk, node: Any, options: Options) -> None:
    x = walk.value(node, 0)
    order = list(options.get("perm", range(len(x.axes) + 1)[::-1]))
    if order[:1] != [0] or sorted(order) != list(range(len(x.axes) + 1)):
        raise unsupported(node, f"it moves the batch axis, or has not as many axes as its input: {order} of {walk.batch, *x.sizes}")
    walk.give(node, replace(x, axes=tuple(x.axes[axis - 1] for axis in order[1:])))


def _concat(walk: Walk, node: Any, options: Options) -> None:
    values = walk.tensors(node)
    axis = options["axis"] % (len(values[0].axes) + 1)
    if axis == 0:
        raise unsupported(node, "it joins along the batch axis")
    if len(values) == 1:
        walk.same(node, values[0])
        return
    if len(values[0].axes) == 1:  # pieces of a vector: each in the graph's own order
        values = [walk.unflattened(value, node.name) for value in values]
    lying = walk.alike(node, values)
    found = walk.add(node, "concatenate", *lying, options={"axis": lying[0].axes[axis - 1]})
    walk.give(node, found)


def _slice(walk: Walk, node: Any, options: Options) -> None:
    x = walk.value(node, 0)
    starts, ends = walk.whole(node, 1, options, "starts"), walk.whole(node, 2, options, "ends")
    if starts is None or ends is None:
        raise unsupported(node, "it has no starts or ends; export it again", False)
    axes = walk.whole(node, 3, options, "axes") or list(range(len(starts)))
    steps = walk.whole(node, 4, options, "steps") or [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        at = axis % (len(x.axes) + 1) - 1
        n = walk.batch if at < 0 else x.sizes[at]
        places = range(n)[slice(start, end, step)] if step else range(0)
        if not places or (at < 0 and places != range(n)):
            raise unsupported(node, f"it takes {start}:{end}:{step} of axis {axis}, expected some of its places, and the whole batch")
        if at >= 0:
            x = _taken(walk, node, x, at, places)
    walk.give(node, x)


def _taken(walk: Walk, node: Any, x: Value, at: int, places: Sequence[int]) -> Value:
    """Return places along an axis, in their order, each run of neighbours as one piece."""
    runs = neighbours(places)
    if not 1 <= len(runs) <= MAX_PIECES:
        raise unsupported(
            node, f"it takes {len(places)} places in {len(runs)} pieces of {walk.batch, *x.sizes}; at most {MAX_PIECES} are supported"
        )
    pieces = [walk.cut(node, x, at, first, behind, f"_{i}" if len(runs) > 1 else "") for i, (first, behind) in enumerate(runs)]
    return pieces[0] if len(pieces) == 1 else walk.add(node, "concatenate", *pieces, options={"axis": pieces[0].axes[at]})


def _split(walk: Walk, node: Any, options: Options) -> None:
    x = walk.value(node, 0)
    at = options.get("axis", 0) % (len(x.axes) + 1) - 1
    if at < 0 or len(node.output) > MAX_PIECES:
        raise unsupported(node, f"it cuts the batch axis, or into more than {MAX_PIECES} pieces")
    n, count = x.sizes[at], len(node.output)
    each = -(-n // count)
    sizes = walk.whole(node, 1, options, "split") or [min(each, n - i * each) for i in range(count)]
    if sum(sizes) != n or min(sizes) < 1 or len(sizes) != count:
        raise unsupported(node, f"it cuts an axis of {n} into {sizes}; export it again", False)
    start = 0
    for i, (name, size) in enumerate(zip(node.output, sizes, strict=True)):
        walk.values[name] = walk.cut(node, x, at, start, start + size, f"_{i}")
        start += size


def _gather(walk: Walk, node: Any, options: Options) -> None:
    """Read places along an axis: one, which takes the axis away, or several, in runs."""
    x, given = walk.value(node, 0), walk.constant(node, 1)
    at = options.get("axis", 0) % (len(x.axes) + 1) - 1
    if given is None or at < 0 or given.ndim > 1:
        raise unsupported(node, "only constant places along one axis, not the batch's, are supported")
    if given.ndim == 0 and len(x.axes) == 1:
        raise unsupported(node, "it leaves a single number for each image, expected a vector at least")
    found = _taken(walk, node, x, at, [int(place) % x.sizes[at] for place in given.reshape(-1)])
    if given.ndim == 0:
        found = walk.view(node, found, tuple(side for i, side in enumerate(found.sizes) if i != at))
    walk.give(node, found)


def _resize(walk: Walk, node: Any, options: Options) -> None:
    x = walk.image(node, walk.value(node, 0))
    rank = len(x.axes) + 1
    scales, sizes = _scales(walk, node, options, rank)
    before = [walk.batch, *x.sizes]
    after = [math.floor(n * scale) for n, scale in zip(before, scales, strict=True)] if sizes is None else sizes
    if sizes is not None:
        scales = [out / n for n, out in zip(before, after, strict=True)]
    if after[:2] != before[:2] or options.get("keep_aspect_ratio_policy", b"stretch") != b"stretch" or options.get("antialias", 0):
        raise unsupported(node, "it resizes the batch or the channels, or with antialias or a kept aspect ratio, which isn't supported")
    mode = options.get("mode", b"nearest").decode()
    usual = "asymmetric" if node.op_type == "Upsample" or walk.opset < 11 else "half_pixel"
    centres = options.get("coordinate_transformation_mode", usual.encode()).decode()
    rounding = options.get("nearest_mode", b"floor" if usual == "asymmetric" else b"round_prefer_floor").decode()
    out = _two(after[2:], 1)
    pairs = list(zip(x.shape[:2], out, strict=True))
    at = [_positions(node, n, o, scale, centres) for (n, o), scale in zip(pairs, _two_floats(scales[2:]), strict=True)]
    if out == x.shape[:2]:
        walk.same(node, x)
        return
    corners = False
    usual_at = [(np.arange(o) + 0.5) * n / o - 0.5 for n, o in pairs]
    if mode == "nearest":
        chosen = [np.clip(_rounded(each, rounding), 0, n - 1) for each, (n, _) in zip(at, pairs, strict=True)]
        if all(o % n == 0 and np.array_equal(each, np.arange(o) // (o // n)) for each, (n, o) in zip(chosen, pairs, strict=True)):
            factors = [o // n for n, o in pairs]
            walk.give(node, walk.add(node, "upsample", x, options={"size": factors, "interpolation": "nearest"}))
            return
        wanted = [np.clip(np.floor(each + 0.5), 0, n - 1) for each, (n, _) in zip(usual_at, pairs, strict=True)]
        fits = all(np.array_equal(each, other) for each, other in zip(chosen, wanted, strict=True))
    elif mode == "linear" and centres == "align_corners":
        fits = corners = True
    else:
        clipped = [[np.clip(each, 0, n - 1) for each, (n, _) in zip(places, pairs, strict=True)] for places in (at, usual_at)]
        fits = mode == "linear" and all(np.allclose(each, other, atol=1e-4) for each, other in zip(*clipped, strict=True))
    if not fits:
        raise unsupported(
            node,
            f"mode={mode!r} with coordinate_transformation_mode={centres!r} from {list(x.shape[:2])} to {list(out)} isn't supported, only "
            "copies of pixels, nearest with half_pixel, and linear with half_pixel or align_corners",
        )
    how = {"interpolation": "nearest" if mode == "nearest" else "bilinear"} | ({"align_corners": True} if corners else {})
    walk.give(node, walk.add(node, "resize", x, options={"size": list(out), **how}))


def _scales(walk: Walk, node: Any, options: Options, rank: int) -> tuple[list[float], list[int] | None]:
    """Return a Resize's scales, or its sizes."""
    places = (1,) if node.op_type == "Upsample" or walk.opset < 11 else (2, 3)
    given = [walk.constant(node, place) for place in places]
    scales = given[0].reshape(-1).tolist() if given[0] is not None and given[0].size else list(options.get("scales", []))
    sizes = [int(side) for side in given[1].reshape(-1)] if len(given) > 1 and given[1] is not None and given[1].size else None
    axes = [axis % rank for axis in options.get("axes", range(rank))]
    found = sizes if sizes is not None else scales
    if len(found) != len(axes):
        raise unsupported(node, f"it has {len(found)} scales or sizes for {len(axes)} axes; export it again", False)
    if len(axes) < rank:
        raise unsupported(node, "it resizes some axes only (the attribute axes), which isn't supported")
    return [float(scale) for scale in scales], sizes


def _two_floats(given: Sequence[float]) -> tuple[float, float]:
    found = (1.0,) * (2 - len(given)) + tuple(given)
    return found[0], found[1]


def _positions(node: Any, n: int, out: int, scale: float, centres: str) -> np.ndarray:
    """Return where each output pixel lies among n, counted from the first one's centre."""
    i = np.arange(out, dtype=np.float64)
    if centres == "half_pixel" or (centres == "pytorch_half_pixel" and out > 1):
        return (i + 0.5) / scale - 0.5
    if centres == "pytorch_half_pixel":
        return np.zeros(out)
    if centres == "asymmetric":
        return i / scale
    if centres == "align_corners":
        return i * (n - 1) / max(out - 1, 1)
    if centres == "tf_half_pixel_for_nn":
        return (i + 0.5) / scale
    raise unsupported(node, f"coordinate_transformation_mode={centres!r} isn't supported")


def _rounded(at: np.ndarray, mode: str) -> np.ndarray:
    shift, function = {
        "round_prefer_floor": (-0.5, np.ceil),
        "round_prefer_ceil": (0.5, np.floor),
        "floor": (0.0, np.floor),
        "ceil": (0.0, np.ceil),
    }[mode]
    found: np.ndarray = function(np.round(at + shift, 9))
    return found


# Dense layers and norms


def _dense(walk: Walk, node: Any, options: Options) -> None:
    if node.input[1] not in walk.constants:
        raise unsupported(node, "it multiplies two tensors that the model computes, as attention does, which isn't explained yet")
    x, kernel, bias = walk.value(node, 0), walk.kernel(node, 1, 2), None
    if node.op_type == "Gemm":
        if options.get("transA", 0) or len(x.axes) != 1:
            raise unsupported(node, f"only transA=0 on vectors is supported; its input is {walk.batch, *x.sizes}")
        kernel = kernel.T if options.get("transB", 0) else kernel
        given = walk.weights(node, 2)
        bias = None if given is None else np.broadcast_to(given.reshape(-1), (kernel.shape[1],)) * np.float32(options.get("beta", 1.0))
        kernel = kernel * np.float32(options.get("alpha", 1.0))
    if x.order is not None and kernel.shape[0] == x.shape[0]:
        kernel = kernel[x.order]
    x = walk.last(node, x, len(x.axes) - 1)
    walk.give(node, walk.add(node, "dense", x, arrays=_weights(kernel, bias)))


def _batchnorm(walk: Walk, node: Any, options: Options) -> None:
    if options.get("training_mode", 0):
        raise unsupported(node, "it is in training mode: export the model in evaluation mode", False)
    x = walk.last(node, walk.value(node, 0), 0)
    keys = ("gamma", "beta", "mean", "variance")
    arrays = {key: walk.weights(node, place) for place, key in enumerate(keys, 1)}
    if any(array is None or array.shape != x.shape[-1:] for array in arrays.values()):
        raise unsupported(node, f"scale, bias, mean and variance must have {x.shape[-1]} numbers each; export it again", False)
    order = x.order
    ordered = {key: array if order is None else array[order] for key, array in arrays.items() if array is not None}
    walk.give(node, walk.add(node, "batchnorm", x, keep=True, epsilon=float(options.get("epsilon", 1e-5)), arrays=ordered))


def _layernorm(walk: Walk, node: Any, options: Options) -> None:
    x = walk.unflattened(walk.value(node, 0), node.name)
    rank = len(x.axes)
    first = options.get("axis", -1) % (rank + 1) - 1
    over = sorted(axis % (rank + 1) - 1 for axis in options["axes"]) if "axes" in options else list(range(first, rank))  # `axes` is ours
    if not over or min(over) < 0 or any(node.output[1:]):
        raise unsupported(node, "it normalises over the batch, or gives its statistics, which isn't supported")
    given = {key: walk.weights(node, place) for key, place in (("gamma", 1), ("beta", 2))}
    sizes = tuple(x.sizes[axis] for axis in over)
    for value in (x, walk.plain(node, x)):
        places = [value.axes[axis] for axis in over]
        arrays = {
            key: np.ascontiguousarray(_along_axes(node, array, over, rank, sizes).transpose(np.argsort(places)))
            for key, array in given.items()
            if array is not None
        }
        try:
            epsilon, axes = float(options.get("epsilon", 1e-5)), {"axes": sorted(places)}
            walk.give(node, walk.add(node, "layernorm", value, epsilon=epsilon, arrays=arrays, options=axes))
            return
        except ModelError:
            if value.axes == tuple(range(rank)):
                raise


def _along_axes(node: Any, array: np.ndarray, over: Sequence[int], rank: int, sizes: tuple[int, ...]) -> np.ndarray:
    """Return a factor or summand with one number for each place along the axes `over`."""
    whole = array.reshape((1,) * (rank + 1 - array.ndim) + array.shape)  # with the batch axis
    if whole.ndim != rank + 1 or any(side != 1 for axis, side in enumerate(whole.shape, -1) if axis not in over):
        raise unsupported(node, f"its factors or summands of shape {array.shape} lie along other axes than those that it normalises")
    return np.broadcast_to(whole.reshape([whole.shape[axis + 1] for axis in over]), sizes)


def _instancenorm(walk: Walk, node: Any, options: Options) -> None:
    """Read a normalisation of each channel by itself: groups of one; of rows (N, groups, numbers), as PyTorch writes group norms."""
    x = walk.value(node, 0)
    scale, shift, epsilon = walk.weights(node, 1), walk.weights(node, 2), float(options.get("epsilon", 1e-5))
    if scale is None or shift is None or scale.shape != x.sizes[:1] or shift.shape != x.sizes[:1]:
        raise unsupported(
            node, f"scale and B must have one number for each of the channels of {walk.batch, *x.sizes}; export it again", False
        )
    if len(x.axes) == 2:
        x = walk.add(node, "layernorm", walk.plain(node, x), epsilon=epsilon, options={"axes": [1]})
        walk.give(node, _scaled(walk, node, x, scale[:, None], shift[:, None]))
        return
    image = walk.image(node, x)
    walk.give(
        node,
        walk.add(node, "groupnorm", image, epsilon=epsilon, arrays={"gamma": scale, "beta": shift}, options={"groups": image.shape[2]}),
    )


def _groupnorm(walk: Walk, node: Any, options: Options) -> None:
    x, groups = walk.image(node, walk.value(node, 0)), int(options["num_groups"])
    channels, arrays = x.shape[2], {}
    for key, place in (("gamma", 1), ("beta", 2)):
        given = walk.weights(node, place)
        if given is None or given.ndim != 1 or channels % max(given.size, 1):
            raise unsupported(node, f"its {key} doesn't fit {channels} channels; export it again", False)
        arrays[key] = np.repeat(given, channels // given.size)
    epsilon = float(options.get("epsilon", 1e-5))
    walk.give(node, walk.add(node, "groupnorm", x, epsilon=epsilon, arrays=arrays, options={"groups": groups}))


# Arithmetic


def _arithmetic(walk: Walk, node: Any, options: Options) -> None:
    """Read a sum, difference, product or quotient of tensors, or of one and a constant."""
    kind = {"Add": "add", "Sum": "add", "Sub": "subtract", "Mul": "multiply", "Div": "divide", "Mean": "average"}[node.op_type]
    given = [name in walk.constants for name in node.input]
    if not any(given):
        values = walk.tensors(node)
        if kind == "divide":
            raise unsupported(node, "it divides by what the model computes, only constants are supported")
        if len(values) == 1:
            walk.same(node, values[0])
        else:
            walk.give(node, walk.add(node, kind, *walk.alike(node, values), keep=True))
        return
    if len(node.input) != 2:
        raise unsupported(node, "it has constants among more than two inputs, which isn't supported")
    first = given[1]  # whether the tensor comes first
    x, each = walk.value(node, 0 if first else 1), walk.weights(node, 1 if first else 0)
    assert each is not None
    if kind == "divide" and (not first or not np.all(each)):
        raise unsupported(node, "it divides a constant by what the model computes, or by 0")
    if kind == "average":
        raise unsupported(node, "it has a constant among its inputs, which isn't supported")
    one = np.float32(1)
    turned = None if first else np.full(1, -one)
    scale = one / each if kind == "divide" else {"multiply": each, "subtract": turned}.get(kind)
    shift = {"add": each, "subtract": -each if first else each}.get(kind)
    walk.give(node, _scaled(walk, node, x, scale, shift))


def _scaled(walk: Walk, node: Any, x: Value, scale: np.ndarray | None, shift: np.ndarray | None) -> Value:
    """Put down y = scale x + shift, whose constants have one number for each place along one of the graph's axes."""
    rank, along = len(x.axes), set[int]()
    for each in (scale, shift):
        if each is not None:
            sizes = (1,) * (rank + 1 - each.ndim) + each.shape
            whole = (walk.batch, *x.sizes)
            if len(sizes) > rank + 1 or sizes[0] != 1 or any(side not in (1, n) for side, n in zip(sizes[1:], whole[1:], strict=True)):
                channels = x.sizes[0] if rank > 1 else x.sizes[-1]
                raise unsupported(
                    node, f"its constant has shape {each.shape} beside {whole}, expected one number for each of the {channels} channels"
                )
            along |= {axis for axis, side in enumerate(sizes[1:]) if side > 1}
    if len(along) > 1:
        raise unsupported(node, "its constant differs along several axes, expected one number for each channel")
    x = walk.last(node, x, *(along or {x.axes.index(len(x.shape) - 1)}))
    channels, order, arrays = x.shape[-1], x.order, {}
    for key, each in (("scale", scale), ("offset", shift)):
        if each is not None:
            full = np.broadcast_to(np.asarray(each, np.float32).reshape(-1), (channels,))
            arrays[key] = np.array(full if order is None else full[order])
    return walk.add(node, "affine", x, keep=True, arrays=arrays)


def _negative(walk: Walk, node: Any, options: Options) -> None:
    walk.give(node, _scaled(walk, node, walk.value(node, 0), np.full(1, -1, np.float32), None))


def _bound(walk: Walk, node: Any, options: Options) -> None:
    """Read a maximum or minimum of tensors, or of one and a number."""
    kind = "maximum" if node.op_type == "Max" else "minimum"
    given = [walk.constants[name] for name in node.input if name in walk.constants]
    values = [walk.value(node, place) for place, name in enumerate(node.input) if name not in walk.constants]
    if not given and len(values) > 1:
        walk.give(node, walk.add(node, kind, *walk.alike(node, values), keep=True))
    elif not given:
        walk.same(node, values[0])
    elif len(values) > 1 or any(each.size != 1 for each in given):
        raise unsupported(node, "only several tensors, or one tensor and a number, are supported")
    else:
        numbers = [float(each.reshape(-1)[0]) for each in given]
        _clipped(walk, node, values[0], *((max(numbers), math.inf) if kind == "maximum" else (-math.inf, min(numbers))))


def _clip(walk: Walk, node: Any, options: Options) -> None:
    ends = []
    for place, key, none in ((1, "min", -math.inf), (2, "max", math.inf)):
        given = walk.constant(node, place)
        ends.append(float(options.get(key, none) if given is None else given.reshape(-1)[0]))
    _clipped(walk, node, walk.value(node, 0), ends[0], ends[1])


def _clipped(walk: Walk, node: Any, x: Value, low: float, high: float) -> None:
    if low > high:
        raise unsupported(node, f"it clips to between {low:g} and {high:g}; export it again", False)
    if low <= np.finfo(np.float32).min and high >= np.finfo(np.float32).max:
        walk.same(node, x)
        return
    high = math.inf if high >= np.finfo(np.float32).max else high
    low = -math.inf if low <= np.finfo(np.float32).min else low
    walk.activate(node, clipped(low, high), x)


# Activations


def _activation(name: str, **parameters: tuple[str, float]) -> Handler:
    """Return the handler of an activation; `parameters` are ours -> (ONNX's, its default)."""

    def handle(walk: Walk, node: Any, options: Options) -> None:
        given = {ours: _short(options.get(theirs, default)) for ours, (theirs, default) in parameters.items()}
        walk.activate(node, written(name, **given) if given else name, walk.value(node, 0))

    return handle


def _short(number: float) -> float:
    """Return the shortest decimal that is the same float32: attributes are float32, and 0.1 is meant by 0.10000000149."""
    return float(str(np.float32(number)))


def _hard_sigmoid(walk: Walk, node: Any, options: Options) -> None:
    alpha, beta = options.get("alpha", 0.2), options.get("beta", 0.5)
    name = next((name for name, slope in (("hard_sigmoid", 1 / 6), ("hard_sigmoid_2", 0.2)) if abs(alpha - slope) < 1e-5), None)
    if name is None or beta != 0.5:
        name = written("clipped_line", slope=_short(alpha), offset=_short(beta))
    walk.activate(node, name, walk.value(node, 0))


def _selu(walk: Walk, node: Any, options: Options) -> None:
    given = {"alpha": options.get("alpha", 1.6732632), "scale": options.get("gamma", 1.0507010)}
    others = {key: _short(value) for key, value in given.items() if abs(value - PARAMETERS["selu"][key]) > 1e-6}
    walk.activate(node, written("selu", **others), walk.value(node, 0))


def _gelu(walk: Walk, node: Any, options: Options) -> None:
    walk.activate(node, "gelu_tanh" if options.get("approximate", b"none") == b"tanh" else "gelu", walk.value(node, 0))


def _swish(walk: Walk, node: Any, options: Options) -> None:
    if options.get("alpha", 1.0) != 1:
        raise unsupported(node, f"alpha={options['alpha']:g} isn't supported, only 1")
    walk.activate(node, "silu", walk.value(node, 0))


def _shrink(walk: Walk, node: Any, options: Options) -> None:
    threshold, bias = _short(options.get("lambd", 0.5)), _short(options.get("bias", 0.0))
    if bias not in (0, threshold):
        raise unsupported(node, f"bias={bias:g} isn't supported, only 0 and lambd")
    name = written("soft_shrink" if bias else "hard_shrink", threshold=threshold)
    walk.activate(node, name, walk.value(node, 0))


def _prelu(walk: Walk, node: Any, options: Options) -> None:
    x, slope = walk.value(node, 0), walk.weights(node, 1)
    assert slope is not None
    sizes = (1,) * (len(x.axes) + 1 - slope.ndim) + slope.shape
    if len(sizes) > len(x.axes) + 1 or sizes[0] != 1 or any(side not in (1, n) for side, n in zip(sizes[1:], x.sizes, strict=True)):
        raise unsupported(node, f"its slope has shape {slope.shape}, which doesn't broadcast against {walk.batch, *x.sizes}")
    alpha = slope.reshape(sizes[1:]).transpose(np.argsort(x.axes))
    alpha = alpha.reshape((1,) * (len(x.shape) - len(x.axes)) + alpha.shape)
    if x.order is not None and alpha.shape == x.shape:
        alpha = alpha[x.order]
    walk.give(node, walk.add(node, "prelu", x, keep=True, arrays={"alpha": np.ascontiguousarray(alpha)}))


def _along(name: str) -> Handler:
    """Return the handler of an activation over an axis."""

    def handle(walk: Walk, node: Any, options: Options) -> None:
        x = walk.unflattened(walk.value(node, 0), node.name)
        axis = options.get("axis", -1 if walk.opset >= 13 else 1) % (len(x.axes) + 1) - 1
        if axis < 0 or (walk.opset < 13 and math.prod(x.sizes[axis + 1 :]) > 1):  # which was over all axes from that one on
            raise unsupported(node, f"only the one over one axis that isn't the batch's is supported; the tensor is {walk.batch, *x.sizes}")
        walk.give(node, walk.add(node, "activation", walk.last(node, x, axis), activation=name))

    return handle


def _nothing(walk: Walk, node: Any, options: Options) -> None:
    training = walk.constant(node, 2) if node.op_type == "Dropout" else None
    if (training is not None and bool(training)) or options.get("to", 1) not in (1, 10, 11, 16):
        raise unsupported(node, "only inference in floating point is supported")
    walk.same(node, walk.value(node, 0))


def _expand(walk: Walk, node: Any, options: Options) -> None:
    x, shape = walk.value(node, 0), walk.whole(node, 1, options, "shape") or []
    sizes = [walk.batch, *x.sizes]
    wanted = [1] * (len(sizes) - len(shape)) + shape
    fits = len(wanted) == len(sizes) and all(side in (1, n) or n == 1 for side, n in zip(wanted, sizes, strict=True))
    if not fits or wanted[0] not in (1, walk.batch):
        raise unsupported(node, f"it repeats {sizes} to {wanted}, which isn't supported")
    _tiled(walk, node, x, [side if n == 1 else 1 for side, n in zip(wanted[1:], sizes[1:], strict=True)])


def _tile(walk: Walk, node: Any, options: Options) -> None:
    x, counts = walk.value(node, 0), walk.whole(node, 1, options, "repeats") or []
    if len(counts) != len(x.axes) + 1 or counts[0] != 1 or min(counts) < 1:
        raise unsupported(node, f"it repeats {walk.batch, *x.sizes} {counts} times, expected constants, and 1 for the batch")
    _tiled(walk, node, x, counts[1:])


def _tiled(walk: Walk, node: Any, x: Value, counts: Sequence[int]) -> None:
    """Give a tensor that is put beside itself along axes."""
    if not any(count > 1 for count in counts):
        walk.same(node, x)
        return
    x = walk.unflattened(x, node.name)
    for axis, count in enumerate(counts):
        at, shape = x.axes[axis], x.shape
        if count > 1 and shape[at] > 1:
            if count > MAX_PIECES:
                raise unsupported(node, f"it repeats an axis {count} times; at most {MAX_PIECES} are supported")
            x = walk.add(node, "concatenate", *[x] * count, options={"axis": at})
        elif count > 1:
            wide = walk.reshape(node, x, (math.prod(shape[:at]), 1, math.prod(shape[at + 1 :])), (0, 1, 2))
            wide = walk.add(node, "upsample", wide, options={"size": [1, count], "interpolation": "nearest"})
            x = walk.reshape(node, wide, (*shape[:at], count, *shape[at + 1 :]), x.axes)
    walk.give(node, x)


def _depth_to_space(walk: Walk, node: Any, options: Options) -> None:
    """Read channels that become blocks of pixels: block row, block column, channel, or the channel first (CRD, PyTorch's PixelShuffle)."""
    x, block, first = walk.image(node, walk.value(node, 0)), int(options["blocksize"]), options.get("mode", b"DCR") == b"CRD"
    height, width, channels = x.shape
    if len(x.axes) != 3 or channels % block**2:
        raise unsupported(node, f"it makes blocks of {block} x {block} pixels of {walk.batch, *x.sizes}", False)
    inner = channels // block**2
    shape, dims = ((inner, block, block), [1, 4, 2, 5, 3]) if first else ((block, block, inner), [1, 3, 2, 4, 5])
    found = walk.reshape(node, x, (height, width, *shape), (0, 1, 2, 3, 4))
    found = walk.add(node, "permute", found, suffix="_permute", options={"dims": dims})
    walk.give(node, walk.reshape(node, found, (height * block, width * block, inner), x.axes))


def _space_to_depth(walk: Walk, node: Any, options: Options) -> None:
    """Read blocks of pixels that become channels: block row, block column, channel."""
    x, block = walk.image(node, walk.value(node, 0)), int(options["blocksize"])
    height, width, channels = x.shape
    if len(x.axes) != 3 or height % block or width % block:
        raise unsupported(node, f"it cuts {walk.batch, *x.sizes} into blocks of {block} x {block}", False)
    found = walk.reshape(node, x, (height // block, block, width // block, block, channels), (0, 1, 2, 3, 4))
    found = walk.add(node, "permute", found, suffix="_permute", options={"dims": [1, 3, 2, 4, 5]})
    walk.give(node, walk.reshape(node, found, (height // block, width // block, channels * block**2), x.axes))


HANDLERS: Mapping[str, Handler] = MappingProxyType(
    {
        "Add": _arithmetic,
        "AveragePool": _pool,
        "BatchNormalization": _batchnorm,
        "Cast": _nothing,
        "Celu": _activation("celu", alpha=("alpha", 1.0)),
        "Clip": _clip,
        "Concat": _concat,
        "Conv": _conv,
        "ConvTranspose": _conv_transpose,
        "DepthToSpace": _depth_to_space,
        "Div": _arithmetic,
        "Dropout": _nothing,
        "Elu": _activation("elu", alpha=("alpha", 1.0)),
        "Erf": _activation("erf"),
        "Exp": _activation("exponential"),
        "Expand": _expand,
        "Flatten": _flatten,
        "Gather": _gather,
        "Gelu": _gelu,
        "Gemm": _dense,
        "GlobalAveragePool": _global_pool,
        "GlobalMaxPool": _global_pool,
        "GroupNormalization": _groupnorm,
        "HardSigmoid": _hard_sigmoid,
        "HardSwish": _activation("hard_silu"),
        "Identity": _nothing,
        "InstanceNormalization": _instancenorm,
        "LayerNormalization": _layernorm,
        "LeakyRelu": _activation("leaky_relu", negative_slope=("alpha", 0.01)),
        "LogSoftmax": _along("log_softmax"),
        "MatMul": _dense,
        "Max": _bound,
        "MaxPool": _pool,
        "Mean": _arithmetic,
        "Min": _bound,
        "Mish": _activation("mish"),
        "Mul": _arithmetic,
        "Neg": _negative,
        "PRelu": _prelu,
        "Pad": _pad,
        "ReduceMax": _reduce,
        "ReduceMean": _reduce,
        "ReduceSum": _reduce,
        "Relu": _activation("relu"),
        "Reshape": _reshape,
        "Resize": _resize,
        "Selu": _selu,
        "Shrink": _shrink,
        "Sigmoid": _activation("sigmoid"),
        "Slice": _slice,
        "Softmax": _along("softmax"),
        "Softplus": _activation("softplus"),
        "Softsign": _activation("softsign"),
        "SpaceToDepth": _space_to_depth,
        "Split": _split,
        "Squeeze": _squeeze,
        "Sub": _arithmetic,
        "Sum": _arithmetic,
        "Swish": _swish,
        "Tanh": _activation("tanh"),
        "Tile": _tile,
        "ThresholdedRelu": _activation("relu", threshold=("alpha", 1.0)),
        "Transpose": _transpose,
        "Unsqueeze": _unsqueeze,
        "Upsample": _resize,
    }
)
SUPPORTED = tuple(HANDLERS)

_RECURRENT = "recurrence isn't explained; export the layers before or behind it"
_ATTENTION = "attention isn't explained yet; export the layers before or behind it"
_FLOW = "control flow isn't followed; export the model traced on one input, where it is unrolled"
#: Why operators aren't supported, where there is more to say.
REASONS: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("LSTM", "GRU", "RNN"), _RECURRENT),
        **dict.fromkeys(("Attention", "MultiHeadAttention", "Einsum", "RotaryEmbedding"), _ATTENTION),
        **dict.fromkeys(("If", "Loop", "Scan"), _FLOW),
        "ArgMax": "it gives whole numbers: a class, not a score; export the model without it",
        "LRN": "local response normalisation isn't supported",
        "TopK": "it gives a choice, not scores; export the model without it",
    }
)
