"""Readers of what Keras does to shapes: pads, crops, slices, new axes, resizing. All of it becomes moves of `nplrp.layers.moves`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any

from nplrp.errors import brief
from nplrp.layers.config import Call, Reader, Tensor, is_size, items

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
    """Read zeros around a tensor, as operation or function."""
    mode = str({"mode": "constant", **call.keywords, **call.options}["mode"]).lower()
    value = {"constant_values": 0, **call.keywords, **call.options}["constant_values"]
    if mode != "constant" or value not in (0, None):
        raise ValueError(f"mode={brief(mode)} with constant_values={brief(value)} isn't supported, only zeros")
    given = next((call.get(key) for key in ("pad_width", "paddings") if key in call.options or key in call.keywords), None)
    sides, rank = [items(side) for side in items(given)], len(call.tensor.axes)
    if [len(side) for side in sides] != [2] * (rank + 1) or not all(is_size(each, 0) for side in sides for each in side):
        raise ValueError(f"it pads by {brief(given)}, expected two whole numbers for each axis of {call.tensor.keras_shape} and the batch")
    x, wanted = call.tensor, {i: (*side,) for i, side in enumerate(sides[1:]) if any(side)}
    if any(sides[0]) or len(wanted) > 2 or rank not in (2, 3):
        raise ValueError(f"it pads by {brief(given)}; only two axes of images, or those of sequences, can be padded")
    image, pads = _two_axes(call, x, wanted)
    return call.add("pad", image, pads=pads)


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
    return _resized(call, image, size, call.only("interpolation", "nearest", "bilinear"))


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


def _resized(call: Call, image: Tensor, size: tuple[int, int], interpolation: str) -> Tensor:
    if size == image.shape[:2]:
        return call.add("identity", image)
    return call.add("resize", image, options={"size": list(size), "interpolation": interpolation})


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


def cut(call: Call, x: Tensor, axis: int, places: range, part: str) -> Tensor:
    """Take some places along one of Keras's axes: one crop for each run of neighbours, put behind each other."""
    runs = [(places[0], places[-1] + 1)] if places.step == 1 or len(places) == 1 else [(place, place + 1) for place in places]
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
        **dict.fromkeys(("ExpandDims", "Squeeze", "tf.expand_dims", "tf.squeeze", "tf.compat.v1.squeeze"), new_axis),
    }
)
PERMUTE: Mapping[str, Reader] = MappingProxyType(dict.fromkeys(("Permute", "Transpose", "tf.transpose", "tf.compat.v1.transpose"), permute))
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
    }
)
UPSAMPLE: Mapping[str, Reader] = MappingProxyType(
    {"UpSampling1D": upsampling(1), "UpSampling2D": upsampling(2), "RepeatVector": repeat_vector}
)
RESIZE: Mapping[str, Reader] = MappingProxyType({"Resizing": resizing, "RandomCrop": random_crop})
CONCATENATE: Mapping[str, Reader] = MappingProxyType(
    {**dict.fromkeys(("Concatenate", "tf.concat"), concatenate), **dict.fromkeys(("Stack", "tf.stack"), stack)}
)
