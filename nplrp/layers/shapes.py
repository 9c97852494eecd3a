"""Readers of what Keras does to shapes: pads, crops, slices, new axes, resizing. All of it becomes moves of `nplrp.layers.moves`."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import brief
from nplrp.layers.config import MAX_SIZE, Call, Reader, Tensor, is_size, items

#: What a tensor may be padded with, but for zeros, by NumPy's names: copies of its own places.
COPIES = ("reflect", "symmetric", "edge", "wrap")
#: The most pieces that a slice is put together from.
MAX_PIECES = 64


def identity(call: Call) -> Tensor:
    """Read what does nothing outside of training."""
    return call.add("identity", call.tensor)


def flatten(call: Call) -> Tensor:
    """Read a flatten; of images with their channels first it flattens rows, columns, channels if it says so."""
    x = call.tensor
    first = call.channels_first and len(x.axes) in (2, 3)
    return call.add("flatten", call.image(len(x.axes) - 1) if first else call.plain(x))


def reshape(call: Call) -> Tensor:
    """Read a reshape, as layer, operation or function; the batch axis stays."""
    x = call.plain()
    if "target_shape" in call.options:
        shape = items(call.get("target_shape"))
    else:
        given = next((call.get(key) for key in ("newshape", "shape") if key in call.options or key in call.keywords), None)
        shape = items(given)
        if not shape:
            raise ValueError(f"its new shape is {brief(given)}, expected a list of whole numbers")
        size = math.prod(x.shape)
        whole = all(is_size(side, 1) for side in shape[1:]) and math.prod(shape[1:]) == size
        if shape[0] not in (-1, None) or not (whole or shape[0] is None):
            raise ValueError(
                f"its new shape is {brief(shape)}, which doesn't keep the batch axis of its input {x.shape}; use the layer Reshape"
            )
        shape = shape[1:]
    if not shape or not all(is_size(side, 1) or (type(side) is int and side == -1) for side in shape):
        raise ValueError(f"its target shape is {brief(shape)}, expected whole numbers, one of which may be -1")
    return call.add("reshape", x, options={"shape": shape})


def permute(call: Call) -> Tensor:
    """Read the order of axes, as layer (counted from 1) or as operation (with the batch axis)."""
    x = call.plain()
    if "dims" in call.options:
        dims = items(call.get("dims"))
    else:
        first, *dims = items(next((call.get(key) for key in ("axes", "perm") if key in call.options or key in call.keywords), None)) or [
            None
        ]
        if first != 0:
            raise ValueError(f"it moves the batch axis: {[first, *dims]}")
    if not all(type(axis) is int for axis in dims) or sorted(dims) != list(range(1, len(x.shape) + 1)):
        raise ValueError(f"it orders axes {dims}, but its input has shape {x.shape}: expected each of 1 to {len(x.shape)} once")
    return call.add("permute", x, options={"dims": dims})


def swap_axes(call: Call) -> Tensor:
    """Read two axes that change places."""
    x = call.plain()
    one, other = (call.axis(call.get(key), len(x.shape)) + 1 for key in ("axis1", "axis2"))
    turned = {one: other, other: one}
    return call.add("permute", x, options={"dims": [turned.get(axis, axis) for axis in range(1, len(x.shape) + 1)]})


def move_axes(call: Call) -> Tensor:
    """Read axes that are brought to other places, the others keeping their order."""
    x = call.plain()
    here, there = (call.axes(call.get(key), len(x.shape)) for key in ("source", "destination"))
    if len(here) != len(there):
        raise ValueError(f"it moves axes {here} to {there}")
    dims = [axis for axis in range(len(x.shape)) if axis not in here]
    for place, axis in sorted(zip(there, here, strict=True)):
        dims.insert(place, axis)
    return call.add("permute", x, options={"dims": [axis + 1 for axis in dims]})


def repeat_vector(call: Call) -> Tensor:
    """Read a vector that is repeated: a sequence."""
    x, count = call.plain(), call.size("n")
    if len(x.shape) != 1:
        raise ValueError(f"its input has shape {x.shape}, expected a vector")
    image = call.reshape(x, (1, 1, *x.shape))
    found = call.add("upsample", image, options={"size": [1, count], "interpolation": "nearest"})
    return replace(found, axes=(1, 2))


def new_axis(call: Call) -> Tensor:
    """Read an axis of size 1 that is put in, or taken out."""
    x, axis = call.plain(), call.get("axis")
    rank = len(x.shape)
    if call.class_name in ("ExpandDims", "tf.expand_dims"):
        at = call.axis(axis, rank + 1)
        shape = (*x.shape[:at], 1, *x.shape[at:])
    else:
        out = call.axes(axis, rank) if axis not in (None, []) else ()
        if not out or any(x.shape[each] != 1 for each in out):
            raise ValueError(f"axis={brief(axis)}: its input has shape {x.shape}, expected axes of size 1")
        shape = tuple(side for i, side in enumerate(x.shape) if i not in out)
    return call.add("reshape", x, options={"shape": list(shape)})


def stack(call: Call) -> Tensor:
    """Read tensors that are put beside each other along a new axis."""
    tensors = [call.plain(each) for each in call.tensors]
    if len({each.shape for each in tensors}) != 1:
        raise ValueError(f"its inputs have shapes {', '.join(str(each.shape) for each in tensors)}, expected equal ones")
    at = call.axis(call.get("axis"), len(tensors[0].shape) + 1)
    wide = [call.reshape(each, (*each.shape[:at], 1, *each.shape[at:])) for each in tensors]
    return call.add("concatenate", *wide, options={"axis": at}) if len(wide) > 1 else call.add("identity", wide[0])


def concatenate(call: Call) -> Tensor:
    """Read tensors that are put behind each other along an axis."""
    given = call.tensors
    if len(given) < 2:
        raise ValueError(f"it has {len(given)} input, expected 2 or more; leave the layer out and save the model again")
    if len({len(each.axes) for each in given}) > 1:
        raise ValueError(f"its inputs have shapes {', '.join(str(each.keras_shape) for each in given)}, expected as many axes in each")
    tensors = call.alike(given)
    axis = call.axis(call.get("axis"), len(tensors[0].axes))
    return call.add("concatenate", *tensors, options={"axis": tensors[0].axes[axis]})


# Pads and crops


def _sides(value: Any, dims: int, key: str) -> tuple[int, int, int, int]:
    """Return (top, bottom, left, right) of a number, one for each axis, or one for each side."""
    sides = [value] * dims if isinstance(value, int) else items(value)
    if dims == 1 and len(sides) == 2 and all(isinstance(side, int) for side in sides):
        sides = [sides]
    pairs = [[side, side] if isinstance(side, int) else items(side) for side in sides]
    if [len(pair) for pair in pairs] != [2] * dims or not all(is_size(each, 0) for pair in pairs for each in pair):
        wanted = "a number, [rows, columns] or [[top, bottom], [left, right]]" if dims == 2 else "a number or [before, behind]"
        raise ValueError(f"{key} is {brief(value)}, expected {wanted}")
    (top, bottom), (left, right) = [[0, 0]] * (2 - dims) + pairs
    return top, bottom, left, right


def zero_padding(dims: int) -> Reader:
    """Return the reader of zeros around images or sequences."""
    return lambda call: call.add("pad", call.image(dims), pads=_sides(call.get("padding"), dims, "padding"))


def cropping(dims: int) -> Reader:
    """Return the reader of crops."""
    return lambda call: call.add("crop", call.image(dims), pads=_sides(call.get("cropping"), dims, "cropping"))


def pad(call: Call) -> Tensor:
    """Read zeros around a tensor, or copies of what it holds, as operation or function."""
    mode = str({"mode": "constant", **call.keywords, **call.options}["mode"]).lower()
    value = {"constant_values": 0, **call.keywords, **call.options}["constant_values"]
    if mode not in ("constant", *COPIES) or value not in (0, None):
        raise ValueError(
            f"mode={brief(mode)} with constant_values={brief(value)} isn't supported, only zeros and copies ({', '.join(COPIES)})"
        )
    given = next((call.get(key) for key in ("pad_width", "paddings") if key in call.options or key in call.keywords), None)
    sides, rank = [items(side) for side in items(given)], len(call.tensor.axes)
    if [len(side) for side in sides] != [2] * (rank + 1) or not all(is_size(each, 0) for side in sides for each in side):
        raise ValueError(f"it pads by {brief(given)}, expected two whole numbers for each axis of {call.tensor.keras_shape} and the batch")
    x, wanted = call.tensor, {i: (*side,) for i, side in enumerate(sides[1:]) if any(side)}
    if mode != "constant" and not any(sides[0]):
        for number, (i, side) in enumerate(wanted.items(), 1):
            x = cut(call, x, i, copies(x.keras_shape[i], side, mode), "" if number == len(wanted) else f"axis_{i + 1}")
        return x if wanted else call.add("identity", x)
    if any(sides[0]) or len(wanted) > 2 or rank not in (2, 3):
        raise ValueError(f"it pads by {brief(given)}; only two axes of images, or those of sequences, can be padded")
    image, pads = _two_axes(call, x, wanted)
    return call.add("pad", image, pads=pads)


def copies(size: int, sides: tuple[int, int], mode: str) -> list[int]:
    """Return which places stand along an axis that is padded by copies: mirrored, the edge repeated, or from the other end.

    Raises
    ------
    ValueError
        If there aren't as many places to copy.
    """
    most = {"reflect": size - 1, "edge": MAX_SIZE}.get(mode, size)
    if max(sides) > most:
        raise ValueError(f"mode={mode!r} pads {size} places by {sides[0]} and {sides[1]}, at most {most} can be copied")
    how: Any = mode  # one of several words, to NumPy's types
    return [int(place) for place in np.pad(np.arange(size), sides, how)]


def _two_axes(call: Call, x: Tensor, wanted: Mapping[int, tuple[int, int]]) -> tuple[Tensor, tuple[int, int, int, int]]:
    """Return a tensor with Keras's axes that are to be padded or cropped as rows and columns, and the sides' sizes."""
    rank = len(x.axes)
    first = 3 - rank
    order = [i for i in range(rank) if i in wanted]
    order += [i for i in range(rank) if i not in wanted]
    if set(wanted) <= {i for i, place in enumerate(x.axes) if place < 2} and len(x.shape) == 3:
        image = x
    else:
        image = call.arrange(x, tuple(order.index(i) + first for i in range(rank)), 3)
    pads = [0, 0, 0, 0]
    for i, sides in wanted.items():
        place = image.axes[i]
        pads[2 * place : 2 * place + 2] = sides
    return image, (pads[0], pads[1], pads[2], pads[3])


# Sizes


def upsampling(dims: int) -> Reader:
    """Return the reader of images or sequences whose pixels are repeated."""

    def read(call: Call) -> Tensor:
        size = [*(1 for _ in range(2 - dims)), *call.sizes("size", dims)]
        how = call.only("interpolation", "nearest", "bilinear") if dims == 2 else "nearest"
        return call.add("upsample", call.image(dims), options={"size": size, "interpolation": how})

    return read


def resizing(call: Call) -> Tensor:
    """Read an image that is brought to a size, perhaps cut to its proportions first."""
    size = call.size("height"), call.size("width")
    call.only("pad_to_aspect_ratio", False)
    call.only("antialias", False)
    image = call.image(2)
    if call.only("crop_to_aspect_ratio", False, True):
        image = _cut_to_proportions(call, image, size)
    how = call.only("interpolation", "nearest", "bilinear")
    corners = call.only("align_corners", False, True)  # our own word, see docs/weights-format.md
    if corners and how != "bilinear":
        raise ValueError(f"align_corners=True with interpolation={how!r} isn't supported, only with 'bilinear'")
    return _resized(call, image, size, how, corners)


def resize(call: Call) -> Tensor:
    """Read an image that a function brings to a size."""
    size = items(call.given("size"))
    if len(size) != 2 or not all(is_size(each, 1) for each in size):
        raise ValueError(f"size is {brief(call.given('size'))}, expected [height, width]")
    refused = ("antialias", "crop_to_aspect_ratio", "pad_to_aspect_ratio", "preserve_aspect_ratio")
    for key in refused:
        if call.given(key, default=False):
            raise ValueError(f"{key}={brief(call.given(key))} isn't supported, only False")
    how = call.given("interpolation", "method", default="bilinear")
    if how not in ("nearest", "bilinear"):
        raise ValueError(f"interpolation={brief(how)} isn't supported, only 'nearest' or 'bilinear'")
    return _resized(call, call.image(2), (size[0], size[1]), how)


def random_crop(call: Call) -> Tensor:
    """Read what a random crop does outside of training: cut to its proportions, and resize."""
    size, image = (call.size("height"), call.size("width")), call.image(2)
    return _resized(call, _cut_to_proportions(call, image, size), size, "bilinear")


def center_crop(call: Call) -> Tensor:
    """Read a cut out of the middle; a smaller image is resized."""
    size, image = (call.size("height"), call.size("width")), call.image(2)
    if size[0] > image.shape[0] or size[1] > image.shape[1]:
        return _resized(call, _cut_to_proportions(call, image, size), size, "bilinear")
    top, left = (image.shape[0] - size[0]) // 2, (image.shape[1] - size[1]) // 2
    return call.add("crop", image, pads=(top, image.shape[0] - size[0] - top, left, image.shape[1] - size[1] - left))


def _cut_to_proportions(call: Call, image: Tensor, size: tuple[int, int]) -> Tensor:
    """Cut the longer side, so that height : width is as in `size`; Keras computes in float and cuts towards 0."""
    height, width = image.shape[:2]
    rows = max(min(height, int(float(width * size[0]) / size[1])), 1)
    columns = max(min(width, int(float(height * size[1]) / size[0])), 1)
    if (rows, columns) == (height, width):
        return image
    top, left = int(float(height - rows) / 2), int(float(width - columns) / 2)
    return call.add("crop", image, part="crop", pads=(top, height - rows - top, left, width - columns - left))


def _resized(call: Call, image: Tensor, size: tuple[int, int], interpolation: str, corners: bool = False) -> Tensor:
    if size == image.shape[:2]:
        return call.add("identity", image)
    more = {"align_corners": True} if corners else {}
    return call.add("resize", image, options={"size": list(size), "interpolation": interpolation, **more})


# Slices


def get_item(call: Call) -> Tensor:
    """Read ``x[...]`` with slices, whole numbers, an ellipsis and new axes."""
    x = call.tensors[0] if call.tensors else call.tensor
    given = call.keywords.get("slice_spec", call.arguments[1] if len(call.arguments) > 1 else None)
    keys = items(given) if isinstance(given, list) or items(given) else [given]
    rank = len(x.axes)
    dots = [i for i, key in enumerate(keys) if _is_dots(key)]
    if len(dots) > 1 or sum(key is not None for key in keys) - len(dots) > rank + 1:
        raise ValueError(f"x[{brief(keys)}] doesn't fit its input {x.keras_shape}")
    missing = rank + 1 - (sum(key is not None for key in keys) - len(dots))
    at = dots[0] if dots else len(keys)
    everything = {"start": None, "stop": None, "step": None}
    keys = [*keys[:at], *[everything] * missing, *keys[at + 1 :]]
    if keys[0] is None or _places(keys[0], 1 << 30) != range(1 << 30):
        raise ValueError("it cuts the batch axis, expected ':' there")
    new = [i for i, key in enumerate(keys[1:]) if key is None]  # places among the axes of the result, before whole numbers take theirs away
    found, gone, cuts = x, [], {}
    for i, key in enumerate(key for key in keys[1:] if key is not None):
        places = _places(key, x.keras_shape[i])
        if isinstance(key, int):
            gone.append(i)
        if places != range(x.keras_shape[i]):
            cuts[i] = places
    if not cuts:
        found = call.add("identity", x, part="whole") if gone or new else call.add("identity", x)
    for number, (i, places) in enumerate(cuts.items(), 1):
        last = number == len(cuts) and not gone and not new
        found = cut(call, found, i, places, "" if last else f"axis_{i + 1}")
    if gone or new:
        shape = [side for i, side in enumerate(found.keras_shape) if i not in gone]
        if new and gone:
            raise ValueError("it takes axes away and puts others in; do one after the other")
        for i in new:
            shape.insert(i, 1)
        found = call.add("reshape", call.plain(found), options={"shape": shape}) if shape else found
        if not shape:
            raise ValueError("it leaves a single number for each image, expected a vector at least")
    return found


def _is_dots(key: Any) -> bool:
    return isinstance(key, dict) and key.get("class_name") == "__ellipsis__"


def _places(key: Any, size: int) -> range:
    """Return the places along an axis that a slice or a whole number takes."""
    if isinstance(key, int) and not isinstance(key, bool):
        if not -size <= key < size:
            raise ValueError(f"it takes place {key} of {size}")
        return range(key % size, key % size + 1)
    ends = key.get("config", key) if isinstance(key, dict) else None
    if not isinstance(ends, dict) or not {"start", "stop", "step"} <= set(ends):
        raise ValueError(f"x[{brief(key)}] isn't supported, only slices, whole numbers and '...'")
    numbers = [ends[name] for name in ("start", "stop", "step")]
    if not all(number is None or (isinstance(number, int) and not isinstance(number, bool)) for number in numbers) or numbers[2] == 0:
        raise ValueError(f"x[{brief(key)}] isn't supported, only slices of whole numbers")
    found = range(*slice(*numbers).indices(size))
    if not found:
        raise ValueError(f"x[{brief(key)}] takes nothing of {size} places")
    return found


def flip(call: Call) -> Tensor:
    """Read places in the opposite order, along one axis or several: channels from RGB to BGR."""
    x, given = call.tensor, {"axis": call.arguments[1] if len(call.arguments) > 1 else None, **call.keywords, **call.options}["axis"]
    if given is None:
        raise ValueError("it turns the batch around; give it the axis of the channels")
    axes = call.axes(given, len(x.axes))
    for number, axis in enumerate(axes, 1):
        size = x.keras_shape[axis]
        x = cut(call, x, axis, range(size - 1, -1, -1), "" if number == len(axes) else f"axis_{axis + 1}")
    return x


def neighbours(places: Sequence[int]) -> list[tuple[int, int]]:
    """Return places as runs of neighbours, each from its first to behind its last."""
    runs: list[tuple[int, int]] = []
    for place in places:
        if runs and runs[-1][1] == place:
            runs[-1] = runs[-1][0], place + 1
        else:
            runs.append((place, place + 1))
    return runs


def cut(call: Call, x: Tensor, axis: int, places: Sequence[int], part: str) -> Tensor:
    """Take some places along one of Keras's axes: one crop for each run of neighbours, put behind each other."""
    runs = neighbours(places)
    if len(runs) > MAX_PIECES:
        raise ValueError(f"it takes {len(runs)} places in an order of their own, at most {MAX_PIECES} are supported")
    size, single = x.keras_shape[axis], len(x.axes) == 1
    if single:  # a vector becomes a row of pixels
        x = replace(call.reshape(call.plain(x), (1, size, 1)), axes=(1,))
    elif len(x.axes) > 3:
        raise ValueError(f"its input has shape {x.keras_shape}; only images, sequences and vectors can be cut")
    pieces = []
    for number, (start, stop) in enumerate(runs):
        image, pads = (x, (0, 0, start, size - stop)) if single else _two_axes(call, x, {axis: (start, size - stop)})
        pieces.append(call.add("crop", image, pads=pads, part=part if len(runs) == 1 and not single else _joined(part, f"piece_{number}")))
    if len(pieces) == 1 and not single:
        return pieces[0]
    place = 1 if single else pieces[0].axes[axis]
    joined = (
        call.add("concatenate", *pieces, options={"axis": place}, part=_joined(part, "row") if single else part)
        if len(pieces) > 1
        else pieces[0]
    )
    if not single:
        return joined
    return call.add("reshape", replace(joined, axes=(0, 1, 2)), options={"shape": [len(places)]}, part=part)


def without(call: Call, x: Tensor, axis: int, part: str = "") -> Tensor:
    """Take away one of Keras's axes, which has one place."""
    shape = [side for i, side in enumerate(x.keras_shape) if i != axis]
    if not shape:
        raise ValueError("it leaves a single number for each image, expected a vector at least")
    return call.add("reshape", call.plain(x), options={"shape": shape}, part=part)


def split(call: Call) -> Mapping[int, Tensor]:
    """Read a tensor that is cut into pieces along an axis, into equal ones, at places, or by their sizes."""
    x = call.tensor
    axis = call.axis(call.given("axis", default=0), len(x.axes))
    size, how = x.keras_shape[axis], call.given("indices_or_sections", "num_or_size_splits")
    sizes = items(how)
    if is_size(how, 1):
        most = -(-size // how)
        uneven = size % how if call.class_name == "ArraySplit" else 0
        if size % how and not uneven:
            raise ValueError(f"it makes {how} equal pieces of {size} places")
        sizes = [most if not uneven or i < uneven else most - 1 for i in range(how)]
    elif call.class_name.startswith("tf.") and sizes.count(-1) == 1 and all(is_size(each, -1) for each in sizes):
        sizes = [size - sum(sizes) - 1 if each == -1 else each for each in sizes]
    elif not call.class_name.startswith("tf.") and sizes and all(is_size(each, 0) for each in sizes):
        sizes = [end - start for start, end in zip([0, *sizes], [*sizes, size], strict=True)]
    if not sizes or not all(is_size(each, 0) for each in sizes) or sum(sizes) != size:
        raise ValueError(f"it cuts {size} places by {brief(how)}, which doesn't fit")
    begins = [sum(sizes[:i]) for i in range(len(sizes))]
    found = {}
    for number in sorted(call.needed):
        if number >= len(sizes) or not sizes[number]:
            raise ValueError(f"piece {number} is read, but it makes {len([each for each in sizes if each])}")
        places = range(begins[number], begins[number] + sizes[number])
        part = f"piece_{number}"
        found[number] = cut(call, x, axis, places, part) if len(places) < size else call.add("identity", x, part=part)
    return found


def unstack(call: Call) -> Mapping[int, Tensor]:
    """Read a tensor that is taken apart along an axis."""
    x = call.tensor
    axis = call.axis(call.given("axis", default=0), len(x.axes))
    if max(call.needed) >= x.keras_shape[axis]:
        raise ValueError(f"piece {max(call.needed)} is read of {x.keras_shape[axis]}")
    pieces = {number: cut(call, x, axis, range(number, number + 1), f"piece_{number}/cut") for number in sorted(call.needed)}
    return {number: without(call, piece, axis, f"piece_{number}") for number, piece in pieces.items()}


def take(call: Call) -> Tensor:
    """Read places along an axis that are taken by their numbers, which are constants."""
    x, wanted = call.tensor, call.arguments[1] if len(call.arguments) > 1 else call.given("indices")
    axis = call.axis(call.given("axis", default=0), len(x.axes))
    size, numbers = x.keras_shape[axis], [wanted] if isinstance(wanted, int) else items(wanted)
    if not numbers or not all(type(each) is int and -size <= each < size for each in numbers):
        raise ValueError(f"it takes places {brief(wanted)} of {size}, expected whole numbers that are constants")
    places = [each % size for each in numbers]
    if not isinstance(wanted, int):
        return cut(call, x, axis, places, "")
    return without(call, cut(call, x, axis, places, "place"), axis)


def slice_of(call: Call) -> Tensor:
    """Read a piece of a tensor that is given by where it begins and its sizes, along every axis."""
    x, begin, sizes = call.tensor, items(call.given("begin")), items(call.given("size"))
    rank = len(x.axes)
    if len(begin) != rank + 1 or len(sizes) != rank + 1 or not all(is_size(each, 0) for each in begin) or begin[0] or sizes[0] != -1:
        raise ValueError(f"it cuts from {brief(begin)} on {brief(sizes)} places, expected constants, and all of the batch axis (0, -1)")
    cuts = {}
    for i, (first, count, size) in enumerate(zip(begin[1:], sizes[1:], x.keras_shape, strict=True)):
        behind = size if count == -1 else first + count if is_size(count, 1) else 0
        if not first < behind <= size:
            raise ValueError(f"it cuts {brief(count)} places from {first} on, of {size}")
        if behind - first < size:
            cuts[i] = range(first, behind)
    for number, (i, places) in enumerate(cuts.items(), 1):
        x = cut(call, x, i, places, "" if number == len(cuts) else f"axis_{i + 1}")
    return x if cuts else call.add("identity", x)


def roll(call: Call) -> Tensor:
    """Read places that are moved along axes, those that fall off put in again at the other end."""
    x, shifts, along = call.tensor, call.given("shift"), call.given("axis")
    if along is None:
        raise ValueError("it rolls all axes as one; give it an axis")
    axes = call.axes(along, len(x.axes))
    steps = [shifts] * len(axes) if isinstance(shifts, int) else items(shifts)
    if len(steps) != len(axes) or not all(type(step) is int for step in steps):
        raise ValueError(f"shift is {brief(shifts)}, expected a whole number for each axis of {brief(along)}")
    for number, (axis, step) in enumerate(zip(axes, steps, strict=True), 1):
        size = x.keras_shape[axis]
        x = cut(call, x, axis, [(place - step) % size for place in range(size)], "" if number == len(axes) else f"axis_{axis + 1}")
    return x


# Blocks and copies


def depth_to_space(call: Call) -> Tensor:
    """Read channels that become blocks of pixels: sub-pixel convolutions."""
    x, block = call.image(2), call.size("block_size")
    height, width, channels = x.shape
    if channels % block**2:
        raise ValueError(f"it makes blocks of {block} x {block} pixels of {channels} channels")
    x = call.add("reshape", x, options={"shape": [height, width, block, block, channels // block**2]}, part="blocks")
    x = call.add("permute", x, options={"dims": [1, 3, 2, 4, 5]}, part="rows")
    return replace(call.add("reshape", x, options={"shape": [height * block, width * block, channels // block**2]}), axes=_axes(call))


def space_to_depth(call: Call) -> Tensor:
    """Read blocks of pixels that become channels."""
    x, block = call.image(2), call.size("block_size")
    height, width, channels = x.shape
    if height % block or width % block:
        raise ValueError(f"it cuts {height} x {width} pixels into blocks of {block} x {block}")
    x = call.add("reshape", x, options={"shape": [height // block, block, width // block, block, channels]}, part="blocks")
    x = call.add("permute", x, options={"dims": [1, 3, 2, 4, 5]}, part="rows")
    return replace(call.add("reshape", x, options={"shape": [height // block, width // block, channels * block**2]}), axes=_axes(call))


def _axes(call: Call) -> tuple[int, int, int]:
    """Return where Keras's axes of an image are in ours."""
    return (2, 0, 1) if call.channels_first else (0, 1, 2)


def repeat(call: Call) -> Tensor:
    """Read places along an axis that are each repeated."""
    x, count = call.tensor, call.size("repeats")
    axis = call.axis(call.given("axis", default=0), len(x.axes))
    if len(x.axes) == 1:  # a vector becomes a row of pixels
        row = replace(call.reshape(call.plain(x), (1, x.keras_shape[0], 1)), axes=(1,))
        row = call.add("upsample", row, options={"size": [1, count], "interpolation": "nearest"}, part="row")
        return call.add("reshape", replace(row, axes=(0, 1, 2)), options={"shape": [x.keras_shape[0] * count]})
    if len(x.axes) > 3:
        raise ValueError(f"its input has shape {x.keras_shape}; only images, sequences and vectors can be repeated")
    image, _ = _two_axes(call, x, {axis: (0, 0)})
    size = [count if place == image.axes[axis] else 1 for place in (0, 1)]
    return call.add("upsample", image, options={"size": size, "interpolation": "nearest"})


def tile(call: Call) -> Tensor:
    """Read a tensor that is put beside itself along axes."""
    x, given = call.tensor, call.given("repeats", "multiples")
    counts = items(given)
    if len(counts) != len(x.axes) + 1 or not all(is_size(each, 1) for each in counts) or counts[0] != 1:
        raise ValueError(f"it repeats {brief(given)} times, expected a whole number for each axis, 1 for the batch")
    along = [i for i, count in enumerate(counts[1:]) if count > 1]
    for number, i in enumerate(along, 1):
        part = "" if number == len(along) else f"axis_{i + 1}"
        x = call.add("concatenate", *[x] * counts[i + 1], options={"axis": x.axes[i]}, part=part)
    return x if along else call.add("identity", x)


def _joined(*parts: str) -> str:
    return "/".join(filter(None, parts))


def cast(call: Call) -> Tensor:
    """Read a change of type among floats: nothing, as everything is computed in one."""
    value = {"dtype": "float32", **call.keywords, **call.options}["dtype"]
    if not str(value).startswith(("float", "bfloat", "tf.float")) and value not in (1, 2, 14, 19):
        raise ValueError(f"dtype={brief(value)}: whole numbers aren't supported, only floats")
    return identity(call)


#: Layers that act in training alone, or that pass on what they get.
TRAINING_ONLY = (
    *("ActivityRegularization", "AlphaDropout", "Dropout", "GaussianDropout", "GaussianNoise", "StochasticDepth"),
    *(f"SpatialDropout{dims}D" for dims in (1, 2)),
    *(
        f"Random{what}"
        for what in [
            "Brightness",
            "ColorDegeneration",
            "ColorJitter",
            "Contrast",
            "ElasticTransform",
            "Erasing",
            "Flip",
            "GaussianBlur",
            "Grayscale",
            "Height",
            "Hue",
            "Invert",
            "Perspective",
            "Posterization",
            "Rotation",
            "Saturation",
            "Sharpness",
            "Shear",
            "Translation",
            "Width",
            "Zoom",
        ]
    ),
    *("AugMix", "CutMix", "MixUp", "RandAugment"),
)

IDENTITY: Mapping[str, Reader] = MappingProxyType(
    {
        **dict.fromkeys(TRAINING_ONLY, identity),
        **dict.fromkeys(("Identity", "StopGradient", "tf.identity", "tf.stop_gradient", "op.Identity"), identity),
        **dict.fromkeys(("Cast", "tf.cast", "op.Cast"), cast),
    }
)
FLATTEN: Mapping[str, Reader] = MappingProxyType({"Flatten": flatten})
RESHAPE: Mapping[str, Reader] = MappingProxyType(
    {
        **dict.fromkeys(("Reshape", "tf.reshape"), reshape),
        **dict.fromkeys(("DepthToSpace", "tf.nn.depth_to_space", "tf.compat.v1.depth_to_space"), depth_to_space),
        **dict.fromkeys(("SpaceToDepth", "tf.nn.space_to_depth", "tf.compat.v1.space_to_depth"), space_to_depth),
        **dict.fromkeys(("ExpandDims", "Squeeze", "tf.expand_dims", "tf.squeeze", "tf.compat.v1.squeeze"), new_axis),
    }
)
PERMUTE: Mapping[str, Reader] = MappingProxyType(
    {
        **dict.fromkeys(("Permute", "Transpose", "tf.transpose", "tf.compat.v1.transpose"), permute),
        "Moveaxis": move_axes,
        "Swapaxes": swap_axes,
    }
)
PAD: Mapping[str, Reader] = MappingProxyType(
    {"ZeroPadding1D": zero_padding(1), "ZeroPadding2D": zero_padding(2), **dict.fromkeys(("Pad", "tf.pad", "tf.compat.v1.pad"), pad)}
)
CROP: Mapping[str, Reader] = MappingProxyType(
    {
        "CenterCrop": center_crop,
        "Cropping1D": cropping(1),
        "Cropping2D": cropping(2),
        **dict.fromkeys(("GetItem", "tf.__operators__.getitem"), get_item),
        **dict.fromkeys(("Flip", "tf.reverse"), flip),
        **dict.fromkeys(("ArraySplit", "Split", "tf.split"), split),
        **dict.fromkeys(("Roll", "tf.roll"), roll),
        "tf.slice": slice_of,
        **dict.fromkeys(("Take", "tf.gather", "tf.compat.v1.gather"), take),
        **dict.fromkeys(("Unstack", "tf.unstack"), unstack),
    }
)
UPSAMPLE: Mapping[str, Reader] = MappingProxyType(
    {
        "UpSampling1D": upsampling(1),
        "UpSampling2D": upsampling(2),
        "RepeatVector": repeat_vector,
        **dict.fromkeys(("Repeat", "tf.repeat"), repeat),
    }
)
RESIZE: Mapping[str, Reader] = MappingProxyType(
    {"Resizing": resizing, "RandomCrop": random_crop, **dict.fromkeys(("Resize", "tf.image.resize"), resize)}
)
CONCATENATE: Mapping[str, Reader] = MappingProxyType(
    {
        **dict.fromkeys(("Concatenate", "tf.concat"), concatenate),
        **dict.fromkeys(("Stack", "tf.stack"), stack),
        **dict.fromkeys(("Tile", "tf.tile"), tile),
    }
)
