"""VGG16 and VGG19 with any head, told by the arrays of a file that has no configuration: which readings fit, and what selects one.

The convolutions are a table, of any width (Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition,
2014, table 1, columns D and E). What arrays don't tell: what stands between the last pool and the dense layers, the size of the images, and
the last activation. Names of layers may tell; if nothing does, a head has to be chosen; a size or an activation that is assumed is logged.
"""

from __future__ import annotations

import logging
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from types import MappingProxyType

from nplrp.errors import ModelError, WeightsError, nearest
from nplrp.files.keras_config import OPEN_SIDE, ConfigLayer, Network
from nplrp.layers.activation_names import ALIASES, PARAMETERS
from nplrp.layers.activations import activation
from nplrp.model import Layer, Shape, Window

_logger = logging.getLogger(__name__)

#: Convolutions in each block; after each block the sides are halved.
BLOCKS = MappingProxyType({"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)})
HIDDEN = ("fc1", "fc2")
#: What the last layer may be called; the notebook's own name is fc_out.
OUTPUTS = ("predictions", "fc_out")
#: The dense layers of keras.applications and of the notebook, by name.
HEADS = tuple((*HIDDEN, last) for last in OUTPUTS)


@dataclass(frozen=True)
class Head:
    """What may stand between the last pool and the dense layers.

    Attributes
    ----------
    kind, layer : str
        Of our layer, and its name.
    names : str
        A pattern of what Keras calls such a layer.
    what : str
    """

    kind: str
    layer: str
    names: str
    what: str


_NUMBER = r"(_\d+)?"
FLATTEN = Head("flatten", "flatten", "flatten", "all pixels")
POOLS = MappingProxyType(
    {
        "avg": Head(
            "global_avgpool", "global_average_pooling2d", "global_?average_?pooling_?2d|global_?avg_?pool2?d?|avg_pool", "their mean"
        ),
        "max": Head("global_maxpool", "global_max_pooling2d", "global_?max_?pooling_?2d|global_?max_?pool2?d?|max_pool", "their maximum"),
    }
)
#: The option `head` -> what it selects.
CHOICES = MappingProxyType({"flatten": FLATTEN, **POOLS})

_CONV = Window((3, 3), padding="same")
_POOL = Window((2, 2), (2, 2))


@dataclass(frozen=True)
class Told:
    """What the caller says about weights that have no configuration; None where nothing is said.

    Attributes
    ----------
    head : str or None
        One of `CHOICES`.
    input_size : (height, width) or None
    last_activation : str or None
        One of ours, like ``"sigmoid"``.
    """

    head: str | None = None
    input_size: tuple[int, int] | None = None
    last_activation: str | None = None


@dataclass(frozen=True)
class Stored:
    """A layer with weights as far as a reading needs it.

    Attributes
    ----------
    name : str
    shape : tuple of int
        Of its kernel: [3, 3, cin, cout] or (in, out).
    """

    name: str
    shape: Shape


@dataclass(frozen=True)
class Reading:
    """One way to read a head: which, and for which images; sizes from `size` up to `most` fit alike."""

    head: str
    size: tuple[int, int] | None
    most: tuple[int, int] | None = None

    def describe(self) -> str:
        """Return it as a choice that is offered, with the options that select it."""
        option, what = f"--head {self.head}", f"{CHOICES[self.head].kind} ({CHOICES[self.head].what})"
        if self.size is None:
            return f"{option}: {what} of images of any size, {OPEN_SIDE} x {OPEN_SIDE} if no --input-size is given"
        if self.size[0] != self.size[1]:
            option += f" --input-size {_by(self.size, 'x')}"
        most = f" to {_by(self.most)}" if self.most and self.most != self.size else ""
        return f"{option}: {what} of {_by(self.size)}{most} images"


def conv_names(name: str) -> tuple[str, ...]:
    """Return Keras's names of the convolutions of ``"vgg16"`` or ``"vgg19"``, in forward order."""
    return tuple(f"block{b}_conv{i}" for b, count in enumerate(BLOCKS[name], 1) for i in range(1, count + 1))


def is_official(names: Sequence[str | None]) -> bool:
    """Tell whether layers have the names that keras.applications gives those of VGG16 or VGG19, in any order."""
    return any(set(names) == {*conv_names(name), *head} for name in BLOCKS for head in ((), *HEADS))


def fitting(shapes: Sequence[Shape], wanted: str | None = None) -> str | None:
    """Return which VGG kernels in forward order are: convolutions of one width in each block, then dense layers; None if none."""
    convs = [shape for shape in shapes if len(shape) == 4]
    for name, blocks in BLOCKS.items():
        if wanted in (None, name) and len(convs) == sum(blocks) and list(shapes[: len(convs)]) == convs:
            rest, starts = shapes[len(convs) :], [sum(blocks[:i]) for i in range(len(blocks))]
            even = all(len({convs[start + i][3] for i in range(count)}) == 1 for start, count in zip(starts, blocks, strict=True))
            if even and all(len(shape) == 2 for shape in rest):
                return name
    return None


def vgg_of(layers: Sequence[Layer]) -> str | None:
    """Return which VGG a network begins with: blocks of 3 x 3 convolutions, each with a max-pool behind it; None if with none."""
    seen = [layer for layer in layers if layer.parameters or layer.window]
    for name, blocks in BLOCKS.items():
        pattern = [kind for depth in blocks for kind in (*["conv"] * depth, "maxpool")]
        found = seen[: len(pattern)]
        convs = [layer.window.size for layer in found if layer.kind == "conv" and layer.window]
        if [layer.kind for layer in found] == pattern and set(convs) == {_CONV.size} and not any(layer.inputs for layer in found):
            return name
    return None


def network(
    name: str, layers: Sequence[Stored], official: bool, others: Sequence[str], told: Told, channels_first: bool = False
) -> Network:
    """Lay out VGG16 or VGG19 over given kernels.

    Parameters
    ----------
    name : str
        ``"vgg16"`` or ``"vgg19"``.
    layers : sequence of Stored
        The convolutions in forward order, then the dense layers, any number of them.
    official : bool
        Whether the file itself gives them the names of keras.applications, whose heads are known.
    others : sequence of str
        Names of the file's layers without weights.
    told : Told
    channels_first : bool
        Whether rows of the first dense kernel behind a flatten are in the order (C, H, W).

    Raises
    ------
    WeightsError
        If the kernels can't be those of this network, or several readings fit; these are listed with the options that select them.
    """
    count = sum(BLOCKS[name])
    convs, dense = layers[:count], layers[count:]
    for layer in convs:
        if len(layer.shape) != 4 or layer.shape[:2] != _CONV.size:
            raise WeightsError(f"layer {layer.name!r}: its kernel has shape {layer.shape}, expected (3, 3, in, out) as in {name}")
    for layer in dense:
        if len(layer.shape) != 2:
            raise WeightsError(f"layer {layer.name!r}: its kernel has shape {layer.shape}, expected (in, out) as in {name}")
    notes: list[str] = []
    reading = _reading(name, convs, dense, others, told, official, notes)
    last = _last_activation(dense, told, official, notes)
    found: list[ConfigLayer] = []
    waiting = iter(convs)
    for block, depth in enumerate(BLOCKS[name], 1):
        found += [_with_weights(layer, "conv", "relu", _CONV) for layer in (next(waiting) for _ in range(depth))]
        found.append(ConfigLayer(Layer(f"block{block}_pool", "maxpool", (), (), window=_POOL)))
    if reading.head == "flatten" and channels_first:
        found.append(ConfigLayer(Layer("channels_first", "permute", (), (), options={"dims": [3, 1, 2]})))
    if reading.head:
        found.append(ConfigLayer(Layer(CHOICES[reading.head].layer, CHOICES[reading.head].kind, (), ())))
    found += [_with_weights(layer, "dense", last if layer is dense[-1] else "relu") for layer in dense]
    if notes:
        head = f"{CHOICES[reading.head].kind} and {len(dense)} dense layer{'s' * (len(dense) != 1)}" if reading.head else "no head"
        _logger.warning("the file has no configuration, and is read as %s with %s; assumed are %s", name, head, "; ".join(notes))
    assert reading.size is not None
    return Network(name, (*reading.size, convs[0].shape[2]), tuple(found))


def _reading(
    name: str, convs: Sequence[Stored], dense: Sequence[Stored], others: Sequence[str], told: Told, official: bool, notes: list[str]
) -> Reading:
    """Choose how the head is read, note what was assumed, and see that nothing else fits."""
    if told.head is not None and told.head not in CHOICES:
        raise WeightsError(f"there is no head {told.head!r}, expected one of {', '.join(CHOICES)} (--head)")
    size = told.input_size
    if size is not None and min(size) < 1 << len(BLOCKS[name]):
        raise WeightsError(f"an input of {_by(size)} is too small for {name}, expected at least 32 x 32: its five pools halve it")
    if not dense:
        if size is None:
            notes.append(f"images of {OPEN_SIDE} x {OPEN_SIDE} (another size: --input-size HxW)")
        return Reading(told.head or "", size or (OPEN_SIDE, OPEN_SIDE))
    if told.head is None and official:
        told = Told("flatten", size)  # keras.applications has no other layers of these names
    fits = _all_readings(name, convs[-1].shape[3], dense[0], size)
    seen = {head for head, each in CHOICES.items() if any(re.fullmatch(f"({each.names}){_NUMBER}", _bare(other)) for other in others)}
    wanted = {told.head} if told.head else seen if len(seen) == 1 else set(CHOICES)
    chosen = [each for each in fits if each.head in wanted]
    if len(chosen) == 1 and size is not None:
        return Reading(chosen[0].head, size)
    if len(chosen) == 1:
        (only,) = chosen
        if only.size is None:
            notes.append(f"images of {OPEN_SIDE} x {OPEN_SIDE} (another size: --input-size HxW)")
            return Reading(only.head, (OPEN_SIDE, OPEN_SIDE))
        if not official or only.size != (OPEN_SIDE, OPEN_SIDE):
            assert only.most is not None
            notes.append(f"images of {_by(only.size)} (sizes up to {_by(only.most)} fit as well: --input-size HxW)")
        return only
    rows = f"layer {dense[0].name!r} has {dense[0].shape[0]} rows behind {convs[-1].shape[3]} channels"
    if not chosen:
        said = [f"--head {told.head}"] if told.head else [f"its layer {CHOICES[min(seen)].layer!r}"] if len(seen) == 1 else []
        said += [f"--input-size {_by(size, 'x')}"] if size else []
        others_fit = "; ".join(each.describe() for each in _all_readings(name, convs[-1].shape[3], dense[0], None))
        raise WeightsError(f"{rows}, which doesn't fit {' and '.join(said)}; what fits is {others_fit}")
    raise WeightsError(
        f"the file has no configuration, and several readings fit: {rows}; choose one: {'; '.join(each.describe() for each in chosen)} "
        "(in Python load(path, head=..., input_size=...)), or give the configuration (--config model.json)"
    )


def _all_readings(name: str, width: int, first: Stored, size: tuple[int, int] | None) -> list[Reading]:
    """Return every way in which the first dense layer fits the last convolution, for images of one size if that is given."""
    rows, blocks = first.shape[0], len(BLOCKS[name])
    pixels, left = divmod(rows, width)
    if left or not pixels:
        raise WeightsError(
            f"layer {first.name!r}: its kernel has {rows} rows, expected side x side x {width} (a square image behind {name}'s five "
            f"poolings) or {width} (behind a global pool); for other heads give the configuration (--config model.json) or save the whole "
            "model, which carries it"
        )
    side = math.isqrt(pixels)
    sides = [(side, side)] if side * side == pixels else [(h, pixels // h) for h in range(1, pixels + 1) if pixels % h == 0]
    flat = [Reading("flatten", (h << blocks, w << blocks), ((h + 1 << blocks) - 1, (w + 1 << blocks) - 1)) for h, w in sides]
    if size is not None:
        flat = [Reading("flatten", size, size)] if (size[0] >> blocks) * (size[1] >> blocks) == pixels else []
    return [*flat, *(Reading(head, None) for head in POOLS if pixels == 1)]


def _last_activation(dense: Sequence[Stored], told: Told, official: bool, notes: list[str]) -> str:
    """Return the activation of the last dense layer, and note it if it was assumed."""
    if told.last_activation is not None:
        if not dense:
            raise WeightsError(f"--last-activation {told.last_activation}: the file has no dense layer that it could be the activation of")
        return checked_activation(told.last_activation)
    assumed = "sigmoid" if dense and dense[-1].shape[1] == 1 else "softmax"
    if dense and not (official and assumed == "softmax"):
        hidden = "ReLU between dense layers, " if len(dense) > 1 else ""
        notes.append(f"{hidden}{assumed} at the end (another: --last-activation NAME)")
    return assumed


def checked_activation(name: str, option: str = "last_activation") -> str:
    """Return our name of an activation that an option gives.

    Raises
    ------
    WeightsError
        If there is none of that name.
    """
    name = ALIASES.get(name, name)
    try:
        activation(name)
    except ModelError as error:
        known = name.partition("(")[0] in PARAMETERS  # then a parameter is wrong
        hint = str(error) if known else f"there is no activation {name!r}; {nearest(name, PARAMETERS)}"
        raise WeightsError(f"--{option.replace('_', '-')}: {hint}") from None
    return name


def _bare(name: str) -> str:
    return name.rpartition("/")[2].lower()


def _by(size: tuple[int, int], sign: str = " x ") -> str:
    return sign.join(map(str, size))


def _with_weights(layer: Stored, kind: str, function: str, window: Window | None = None) -> ConfigLayer:
    variables = {"kernel": layer.shape, "bias": layer.shape[-1:]}
    return ConfigLayer(Layer(layer.name, kind, activation=function, window=window), variables, path=(layer.name,))
