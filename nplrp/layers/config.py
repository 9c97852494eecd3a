"""From Keras's configuration of a layer to layers of ours: what a reader is given, and what it leaves behind.

A reader belongs to a kind (`Kind.keras`). It is a function of a `Call`, one use of a layer of Keras's: it asks for options and inputs, puts
layers down, mostly one, and returns the `Tensor` that the use gives; of several tensors those that are read, by their number. Nothing is
computed, and no weights are read.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import ModelError, brief
from nplrp.layers.base import INPUT, Kind, Layer, Shape, Window, output_shape

#: Sides, channels and windows above this are taken for damage.
MAX_SIZE = 1 << 20
#: The most layers; more is taken for damage.
MAX_LAYERS = 20_000
#: Activations along an axis; all others take every number by itself.
ALONG_AN_AXIS = ("softmax", "log_softmax", "sparsemax")

Options = Mapping[str, Any]
Arrays = Mapping[str, np.ndarray]
Reader = Callable[["Call"], "Tensor | Mapping[int, Tensor]"]
#: A layer's name until all are there: Keras's names from the outermost model down, and what we add.
Named = tuple[tuple[str, ...], str]

#: What an option is in files that were written before Keras had it. All others are always written: one that is missing was damaged.
_DEFAULTS: Options = MappingProxyType(
    {
        "align_corners": False,
        "antialias": False,
        "crop_to_aspect_ratio": False,
        "data_format": "channels_last",
        "dilation_rate": 1,
        "groups": 1,
        "interpolation": "nearest",
        "invert": False,
        "keepdims": False,
        "mean": None,
        "negative_slope": 0,
        "output_padding": None,
        "pad_to_aspect_ratio": False,
        "renorm": False,
        "rms_scaling": False,
        "threshold": 0,
        "variance": None,
    }
)


@dataclass(frozen=True)
class ConfigLayer:
    """A layer as its configuration describes it, and where its arrays are.

    Attributes
    ----------
    layer : Layer
        Its arrays are those that the configuration itself holds, as constants; its shapes aren't known yet.
    variables : mapping of str to shape
        All arrays of Keras's layer, by our names, in Keras's order; empty if the layer takes none of them.
    make : callable or None
        The layer's arrays from those; None: they are the same.
    path : tuple of str
        Keras's names from the outermost model's layer down to this one.
    store : str
        The layer's group in Keras 3's layout by class and number, like ``layers/conv2d_1``.
    place : int
        Of the outermost model's layer among those that its configuration lists.
    """

    layer: Layer
    variables: Mapping[str, Shape] = field(default_factory=dict)
    make: Callable[[Arrays], Arrays] | None = None
    path: tuple[str, ...] = ()
    store: str = ""
    place: int = 0

    def arrays(self, found: Arrays) -> Arrays:
        """Return the layer's arrays, given those of Keras's layer."""
        return found if self.make is None else self.make(found)


@dataclass(frozen=True)
class Tensor:
    """What a layer gives, and how the axes that Keras sees lie in it.

    Attributes
    ----------
    place : int
        The layer's among those put down; -1 is the model's input.
    shape : tuple of int
        As we have it, without the batch axis.
    axes : tuple of int
        Where in `shape` each of Keras's axes is. Sequences may be images of height 1: they have a first axis that Keras doesn't see.
    """

    place: int
    shape: Shape
    axes: tuple[int, ...]

    @property
    def keras_shape(self) -> Shape:
        """Shape as Keras has it, without the batch axis."""
        return tuple(self.shape[axis] for axis in self.axes)


def plain(place: int, shape: Shape) -> Tensor:
    """Return a tensor that lies as Keras has it."""
    return Tensor(place, shape, tuple(range(len(shape))))


@dataclass(frozen=True)
class Source:
    """Where a use of a layer comes from: its names from the outermost model down, its group by class and number, its place at the top."""

    path: tuple[str, ...]
    store: str
    place: int


class Sketch:
    """The layers put down so far, in forward order.

    Parameters
    ----------
    kinds : mapping of str to Kind
    input_shape : tuple of int
        Of the model's input, without the batch axis.
    """

    def __init__(self, kinds: Mapping[str, Kind], input_shape: Shape) -> None:
        self._kinds = kinds
        self._layers: list[ConfigLayer] = []
        self._inputs: list[tuple[int, ...]] = []
        self._names: list[Named] = []
        self._taken: set[Named] = set()
        self._uses: Counter[tuple[str, ...]] = Counter()
        self._arranged: dict[Any, Tensor] = {}
        self._models = 0
        self.input = plain(-1, input_shape)

    def add(self, item: ConfigLayer, inputs: Sequence[Tensor], named: Named) -> Tensor:
        """Put a layer down behind its inputs; return what it gives, lying as the first input does if it has as many axes.

        Parameters
        ----------
        item : ConfigLayer
            Its layer's name and inputs are set when all are there (`finish`).
        inputs : sequence of Tensor
        named : Named

        Raises
        ------
        ModelError
            If the inputs don't fit it.
        """
        if len(self._layers) >= MAX_LAYERS:
            raise ModelError(f"the model has more than {MAX_LAYERS} layers, with those of models inside counted at every use")
        layer, shapes = item.layer, tuple(tensor.shape for tensor in inputs)
        kind = self._kinds[layer.kind]
        zeros = {name: np.broadcast_to(np.float32(0), shape) for name, shape in item.variables.items()}
        arrays = {**layer.arrays, **(item.arrays(zeros) if zeros else {})}
        read = tuple(self._label(tensor) for tensor in inputs)
        known = replace(layer, arrays=arrays, inputs=read, input_shape=shapes[0] if shapes else (), input_shapes=shapes)
        shape = output_shape(kind, known, shapes)
        self._layers.append(item)
        self._inputs.append(tuple(tensor.place for tensor in inputs))
        self._names.append(named)
        self._taken.add(named)
        place, first = len(self._layers) - 1, inputs[0]
        return Tensor(place, shape, first.axes) if len(shape) == len(first.shape) else plain(place, shape)

    def _label(self, tensor: Tensor) -> str:
        """Return what messages call the layer that gives a tensor, as long as not all names are known."""
        path, added = self._names[tensor.place] if tensor.place >= 0 else ((INPUT,), "")
        return path[-1] + added

    def enter(self) -> None:
        """Count a use of a model inside, which may be empty: uses of uses grow without end.

        Raises
        ------
        ModelError
        """
        self._models += 1
        if self._models > MAX_LAYERS:
            raise ModelError(f"models inside the model are used more than {MAX_LAYERS} times")

    def use(self, path: tuple[str, ...]) -> str:
        """Count a use of a layer; return what tells it from the first one."""
        self._uses[path] += 1
        return "" if self._uses[path] == 1 else f"#{self._uses[path]}"

    def arrange(self, tensor: Tensor, axes: tuple[int, ...], rank: int) -> Tensor:
        """Return a tensor's numbers with Keras's axes at other places of an array with `rank` axes; put down at most once."""
        if (tensor.axes, len(tensor.shape)) == (axes, rank):
            return tensor
        key = (tensor.place, axes, rank)
        if key not in self._arranged:
            self._arranged[key] = self._arrange(tensor, axes, rank)
        return self._arranged[key]

    def _arrange(self, tensor: Tensor, axes: tuple[int, ...], rank: int) -> Tensor:
        surplus = len(tensor.shape) - len(tensor.axes)
        if surplus == rank - len(axes):
            dims = [*range(surplus), *(0 for _ in axes)]
            for here, there in zip(tensor.axes, axes, strict=True):
                dims[there] = here
            what = "channels_last" if dims[-1] == surplus else "channels_first" if dims[surplus] == rank - 1 else "turned"
            found = self._behind(tensor, "permute", what, {"dims": [here + 1 for here in dims]})
            return replace(found, axes=axes)
        if surplus:  # an image of height 1 becomes a sequence, which is then turned
            found = self._behind(tensor, "reshape", "as_sequence", {"shape": list(tensor.shape[1:])})
            return self.arrange(replace(found, axes=tuple(axis - 1 for axis in tensor.axes)), axes, rank)
        found = self.arrange(tensor, tuple(axis - 1 for axis in axes), rank - 1)
        return replace(self._behind(found, "reshape", "as_image", {"shape": [1, *found.shape]}), axes=axes)

    def plain(self, tensor: Tensor) -> Tensor:
        """Return a tensor's numbers as Keras has them."""
        rank = len(tensor.axes)
        return self.arrange(tensor, tuple(range(rank)), rank)

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Return a tensor's numbers, in the order in which they lie, in another shape."""
        return tensor if tensor.shape == shape else self._behind(tensor, "reshape", "reshaped", {"shape": list(shape)})

    def _behind(self, tensor: Tensor, kind: str, what: str, options: Options) -> Tensor:
        """Put a layer behind a tensor that is named for it."""
        path, added = self._names[tensor.place] if tensor.place >= 0 else ((INPUT,), "")
        named = path, f"{added}/{what}"
        while named in self._taken:
            named = path, named[1] + "'"
        return self.add(ConfigLayer(Layer(path[-1], kind, options=options), path=path), [tensor], named)

    def finish(self, output: Tensor) -> list[ConfigLayer]:
        """Return all layers, named, the last of them giving `output` as Keras has it."""
        self.plain(output)
        names = _short_names([path for path, _ in self._names])
        full = [*(names[path] + added for path, added in self._names), INPUT]
        return [
            replace(item, layer=replace(item.layer, name=name, inputs=tuple(full[place] for place in inputs)))
            for item, inputs, name in zip(self._layers, self._inputs, full, strict=False)
        ]


def _short_names(paths: Sequence[tuple[str, ...]]) -> dict[tuple[str, ...], str]:
    """Return a layer's bare name, and before it as many names of the models around it as tell it from others, from the inside out."""
    names = {path: path[-1] for path in paths}
    for depth in range(max(map(len, names), default=1) - 2, -1, -1):
        uses = Counter((path[:depth], name) for path, name in names.items() if len(path) > depth)
        for path, name in names.items():
            if len(path) > depth + 1 and uses[path[:depth], name] > 1:
                names[path] = f"{path[depth]}/{name}"
    return names


def with_last(axes: tuple[int, ...], axis: int, rank: int) -> tuple[int, ...]:
    """Return where axes lie once one of them is the last of `rank`, and the others keep their order."""
    others = sorted(place for i, place in enumerate(axes) if i != axis)
    first = rank - len(axes)
    return tuple(rank - 1 if i == axis else first + others.index(place) for i, place in enumerate(axes))


class Call:
    """One use of a layer of Keras's: its options, what it is given, and where its layers are put.

    Attributes
    ----------
    name, class_name : str
    options : mapping
        The layer's configuration.
    arguments : list
        What it is called with: tensors, and plain JSON values, also in lists.
    keywords : mapping
        The same, by name.
    dialect : int
        2 or 3: whose configuration it is.
    needed : collection of int
        Which of several tensors that it gives are read.
    """

    def __init__(
        self,
        sketch: Sketch,
        source: Source,
        class_name: str,
        options: Options,
        arguments: Sequence[Any] = (),
        keywords: Options = MappingProxyType({}),
        dialect: int = 3,
        needed: Collection[int] = (0,),
    ) -> None:
        self.name, self.class_name, self.options = source.path[-1], class_name, options
        self.arguments, self.keywords, self.dialect, self.needed = list(arguments), keywords, dialect, needed
        self._sketch, self._source = sketch, source
        self._use = sketch.use(source.path)

    # Options

    def get(self, key: str) -> Any:
        """Return an option, as written in the configuration or in the call.

        Raises
        ------
        ValueError
            If it isn't there, though Keras always writes it.
        """
        for place in (self.options, self.keywords):
            if key in place:
                return place[key]
        if key not in _DEFAULTS:
            raise ValueError(f"its configuration has no {key!r}; it is damaged: save the model again")
        return _DEFAULTS[key]

    def given(self, *keys: str, default: Any = None) -> Any:
        """Return an option by the first of its names that is there; functions aren't saved with what they are called without."""
        return next((place[key] for key in keys for place in (self.options, self.keywords) if key in place), default)

    def only(self, key: str, *allowed: Any) -> Any:
        """Return an option that must have one of the values `allowed`."""
        value = self.get(key)
        if not any(value == one and isinstance(value, bool) == isinstance(one, bool) for one in allowed):
            raise ValueError(f"{key}={brief(value)} isn't supported, only {' or '.join(map(repr, allowed))}")
        return value

    def size(self, key: str) -> int:
        """Return an option that is a positive whole number."""
        return size(self.get(key), key)

    def sizes(self, key: str, count: int) -> tuple[int, ...]:
        """Return an option that is one positive whole number for each of `count` axes, or one for all."""
        value = self.get(key)
        found = [value] * count if isinstance(value, int) else items(value)
        if len(found) != count or not all(is_size(each, 1) for each in found):
            raise ValueError(f"{key} is {brief(value)}, expected {_COUNTS[count]} from 1 to {MAX_SIZE}")
        return tuple(found)

    def number(self, key: str, least: float = -math.inf) -> float:
        """Return an option that is a finite number."""
        value = self.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value < math.inf:
            raise ValueError(f"{key} is {brief(value)}, expected a number" + (f" >= {least:g}" if least > -math.inf else ""))
        return float(value)

    def epsilon(self) -> float:
        """Return what a normalisation adds to the variance."""
        value = self.number("epsilon", 0)
        if value >= 1e6:
            raise ValueError(f"epsilon is {brief(value)}, expected a small number")
        return value

    def window(self, key: str, dims: int, stride: int | None = 1) -> Window:
        """Read a window over `dims` axes; `stride` is the default, None for the window's own size."""
        shape = self.sizes(key, dims)
        given = self.get("strides")
        strides = ((stride,) * dims if stride else shape) if given is None else self.sizes("strides", dims)
        dilation = self.sizes("dilation_rate", dims)
        padding = self.get("padding")
        padding = padding.lower() if isinstance(padding, str) else padding
        if padding == "causal" and dims == 1 and "conv" in self.class_name.lower():
            padding = (0, 0, dilation[0] * (shape[0] - 1), 0)
        elif len(items(padding)) == 4 and all(is_size(side, 0) for side in items(padding)):
            padding = tuple(items(padding))  # our own word, see docs/weights-format.md
        elif padding not in ("valid", "same"):
            raise ValueError(f"padding={padding!r} isn't supported, only 'valid' or 'same'")
        return Window(_two(shape), _two(strides), _two(dilation), padding)

    @property
    def channels_first(self) -> bool:
        """Whether its images have their channels before rows and columns."""
        return self.only("data_format", "channels_last", "channels_first", "NHWC", "NCHW", None) in ("channels_first", "NCHW")

    # Inputs

    @property
    def tensors(self) -> list[Tensor]:
        """All tensors that it is given, but for masks."""
        given = [*self.arguments, *(value for key, value in self.keywords.items() if key != "mask")]
        return [each for each in leaves(given) if isinstance(each, Tensor)]

    @property
    def tensor(self) -> Tensor:
        """The only tensor that it is given."""
        found = self.tensors
        if len(found) != 1:
            raise ValueError(f"it has {len(found)} inputs, expected 1")
        return found[0]

    def operands(self, *names: str) -> list[Any]:
        """Return what it is called with, in order: tensors, and constants as arrays; lists of tensors are taken apart."""
        found: list[Any] = []
        for value in [*self.arguments, *(self.keywords[name] for name in names if self.keywords.get(name) is not None)]:
            each = items(value)
            found += each if any(isinstance(one, Tensor) for one in each) else [value]
        return [one if isinstance(one, Tensor) else constant(one) for one in found]

    def axis(self, value: Any, rank: int) -> int:
        """Return an axis, counted with the batch axis or from behind, as one of `rank` axes without it."""
        if isinstance(value, bool) or not isinstance(value, int) or not (1 <= value <= rank or -rank <= value <= -1):
            found = f"axis is {brief(value)}, expected one of its input's, -1 or 1 to {rank}"
            raise ValueError(found + ("; 0 is the batch's" if value == 0 and not isinstance(value, bool) else ""))
        return value - 1 if value > 0 else value + rank

    def axes(self, value: Any, rank: int) -> tuple[int, ...]:
        """Return several axes, each once."""
        found = tuple(self.axis(one, rank) for one in (items(value) if isinstance(value, list | dict) else [value]))
        if not found or len(set(found)) < len(found):
            raise ValueError(f"axis is {brief(value)}, expected an axis or a list of different ones")
        return found

    def image(self, dims: int, tensor: Tensor | None = None) -> Tensor:
        """Return its input as an image, rows x columns x channels; with `dims` 1 a sequence as one of height 1."""
        tensor = self.tensor if tensor is None else tensor
        if len(tensor.axes) != dims + 1:
            wanted = "an image (height, width, channels)" if dims == 2 else "a sequence (steps, channels)"
            raise ValueError(f"its input has shape {tensor.keras_shape}, expected {wanted}")
        first, last = ((2, 0, 1), (0, 1, 2)) if dims == 2 else ((2, 1), (1, 2))
        return self._sketch.arrange(tensor, first if self.channels_first else last, 3)

    def plain(self, tensor: Tensor | None = None) -> Tensor:
        """Return its input as Keras has it."""
        return self._sketch.plain(self.tensor if tensor is None else tensor)

    def arrange(self, tensor: Tensor, axes: tuple[int, ...], rank: int) -> Tensor:
        """Return a tensor with Keras's axes at other places (see `Sketch.arrange`)."""
        return self._sketch.arrange(tensor, axes, rank)

    def last(self, tensor: Tensor, axis: int) -> Tensor:
        """Return a tensor with one of Keras's axes, counted without the batch axis, as its last."""
        rank = len(tensor.shape)
        if tensor.axes[axis] == rank - 1:
            return tensor
        return self._sketch.arrange(tensor, with_last(tensor.axes, axis, rank), rank)

    def alike(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Return tensors that lie alike; those of fewer axes get axes of size 1 in front, as Keras's merging layers do it."""
        model = max(tensors, key=lambda tensor: len(tensor.axes))  # the first of them
        found = []
        for tensor in tensors:
            missing = len(model.axes) - len(tensor.axes)
            if not missing:
                found.append(self._sketch.arrange(tensor, model.axes, len(model.shape)))
                continue
            shape = (1,) * missing + tensor.keras_shape
            if sum(side > 1 for side in shape) <= 1:
                turned = [1] * len(model.shape)
                for side, place in zip(shape, model.axes, strict=True):
                    turned[place] = side
                found.append(replace(self._sketch.reshape(self._sketch.plain(tensor), tuple(turned)), axes=model.axes))
            else:
                wide = self._sketch.reshape(self._sketch.plain(tensor), shape)
                found.append(self._sketch.arrange(wide, model.axes, len(model.shape)))
        return found

    # Layers

    def add(
        self,
        kind: str,
        *inputs: Tensor,
        part: str = "",
        variables: Mapping[str, Shape] = MappingProxyType({}),
        make: Callable[[Arrays], Arrays] | None = None,
        **fields: Any,
    ) -> Tensor:
        """Put a layer down and return what it gives.

        Parameters
        ----------
        kind : str
        *inputs : Tensor
        part : str
            What tells it from others where one of Keras's layers becomes several; the last one has Keras's name.
        variables, make
            As of `ConfigLayer`.
        **fields
            Of `Layer`.
        """
        along = fields.get("activation", "linear")
        bends = bool(inputs) and along.split("(")[0] in ALONG_AN_AXIS and inputs[0].axes[-1:] != (len(inputs[0].shape) - 1,)
        if bends:
            fields["activation"] = "linear"
        layer = Layer(self.name, kind, **fields)
        source = self._source
        item = ConfigLayer(layer, variables, make, source.path, source.store, source.place)
        found = self._sketch.add(item, inputs, (source.path, self._use + (f"/{part}" if part else "")))
        return self.activate(found, along, -1, along) if bends else found

    def activate(self, tensor: Tensor, activation: str, axis: Any = -1, part: str = "") -> Tensor:
        """Put an activation down that acts along one of Keras's axes, or several, counted with the batch axis."""
        axes = self.axes(axis, len(tensor.axes))
        if len(axes) == 1:
            return self.add("activation", self.last(tensor, axes[0]), activation=activation, part=part)
        others = [i for i in range(len(tensor.axes)) if i not in axes]
        order = [*others, *axes]
        turned = self._sketch.arrange(tensor, tuple(order.index(i) for i in range(len(order))), len(order))
        flat = self._sketch.reshape(turned, (*turned.shape[: len(others)], math.prod(turned.shape[len(others) :])))
        found = self.add("activation", flat, activation=activation, part=part)
        return replace(self._sketch.reshape(found, turned.shape), axes=turned.axes)

    def reshape(self, tensor: Tensor, shape: Shape) -> Tensor:
        """Return a tensor's numbers, in the order in which they lie, in another shape."""
        return self._sketch.reshape(tensor, shape)


# Values of a configuration


_COUNTS = {1: "a whole number", 2: "one or two whole numbers", 3: "one or three whole numbers"}


def is_size(value: Any, least: int) -> bool:
    """Tell whether a JSON value is a whole number of a believable size."""
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= MAX_SIZE


def size(value: Any, key: str) -> int:
    """Return a positive whole number.

    Raises
    ------
    ValueError
        If it is none; `key` says what it should be.
    """
    if not is_size(value, 1):
        raise ValueError(f"{key} is {brief(value)}, expected a whole number from 1 to {MAX_SIZE}")
    return int(value)


def items(value: Any) -> list[Any]:
    """Return a JSON list, also where it is marked as a tuple."""
    if isinstance(value, dict) and value.get("class_name") in ("__tuple__", "TensorShape"):
        value = value.get("items")
    return list(value) if isinstance(value, list | tuple) else []


def leaves(value: Any) -> Iterator[Any]:
    """Walk nested lists and mappings; yield what they hold, in order."""
    waiting = [value]
    while waiting:
        each = waiting.pop()
        if isinstance(each, list | tuple):
            waiting += reversed(each)
        elif isinstance(each, Mapping):
            waiting += reversed(list(each.values()))
        else:
            yield each


def constant(value: Any) -> np.ndarray:
    """Return a constant of a configuration: a number, a list of numbers, or an array as Keras writes it.

    Raises
    ------
    ValueError
        If it is something else.
    """
    if isinstance(value, dict) and value.get("class_name") in ("__tensor__", "__numpy__") and isinstance(value.get("config"), dict):
        value = value["config"].get("value")
    try:
        found = np.asarray(value, dtype=np.float64) if isinstance(value, int | float | list) else None
    except (ValueError, TypeError):
        found = None
    if found is None or not found.size or not np.isfinite(found).all():
        raise ValueError(f"it is called with {brief(value)}, expected a number, a list of numbers, or what a layer gives")
    return found


def _two(sizes: tuple[int, ...]) -> tuple[int, int]:
    """Return sizes over rows and columns; a sequence is an image of height 1."""
    return (sizes[0], sizes[1]) if len(sizes) == 2 else (1, sizes[0])
