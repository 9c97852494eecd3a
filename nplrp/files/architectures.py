"""Networks by name, for weight files that carry no configuration.

VGG16 and VGG19 are tables, of any width and for any input size (Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale
Image Recognition, 2014, table 1, columns D and E). All of keras.applications are configurations, made by tests/peers/make_architectures.py.
"""

from __future__ import annotations

import difflib
import json
import lzma
import math
import re
from collections.abc import Callable, Sequence
from importlib import resources
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import WeightsError
from nplrp.files.keras_config import ConfigLayer, Network, sized, store_names
from nplrp.model import Layer, Window

#: Convolutions in each block; after each block the sides are halved.
BLOCKS = MappingProxyType({"vgg16": (2, 2, 3, 3, 3), "vgg19": (2, 2, 4, 4, 4)})
HIDDEN = ("fc1", "fc2")
#: What the last layer may be called; the notebook's own name is fc_out.
OUTPUTS = ("predictions", "fc_out")

_CONV = Window((3, 3), padding="same")
_POOL = Window((2, 2), (2, 2))


def conv_names(name: str) -> tuple[str, ...]:
    """Return Keras's names of the convolutions of ``"vgg16"`` or ``"vgg19"``, in forward order."""
    return tuple(f"block{b}_conv{i}" for b, count in enumerate(BLOCKS[name], 1) for i in range(1, count + 1))


def network(name: str, names: Sequence[str], kernels: Sequence[np.ndarray], input_size: tuple[int, int] | None = None) -> Network:
    """Lay out VGG16 or VGG19 over given kernels.

    Parameters
    ----------
    name : str
        ``"vgg16"`` or ``"vgg19"``.
    names : sequence of str
        What the layers with weights are called: the convolutions, then the three dense layers or none.
    kernels : sequence of ndarray
        Theirs, in the same order: [3, 3, cin, cout], (in, out). Widths come from the convolutions, the input's side from the rows of
        the first dense kernel; without dense layers the model ends at ``block5_pool``, and its sides are open.
    input_size : (height, width) or None
        Of open sides; None: 224.

    Raises
    ------
    WeightsError
        If the kernels can't be those of this network.
    """
    count = sum(BLOCKS[name])
    convs, head = list(zip(names, kernels, strict=True))[:count], list(zip(names, kernels, strict=True))[count:]
    for layer, kernel in convs:
        if kernel.ndim != 4 or kernel.shape[:2] != _CONV.size:
            raise WeightsError(f"layer {layer!r}: its kernel has shape {kernel.shape}, expected (3, 3, in, out) as in {name}")
    for layer, kernel in head:
        if kernel.ndim != 2:
            raise WeightsError(f"layer {layer!r}: its kernel has shape {kernel.shape}, expected (in, out) as in {name}")
    layers: list[ConfigLayer] = []
    waiting = iter(convs)
    for block, depth in enumerate(BLOCKS[name], 1):
        layers += [_with_weights(layer, "conv", "relu", kernel, _CONV) for layer, kernel in (next(waiting) for _ in range(depth))]
        layers.append(ConfigLayer(Layer(f"block{block}_pool", "maxpool", (), (), window=_POOL)))
    if head:
        layers.append(ConfigLayer(Layer("flatten", "flatten", (), ())))
        last = len(head) - 1
        layers += [_with_weights(layer, "dense", "softmax" if i == last else "relu", kernel) for i, (layer, kernel) in enumerate(head)]
    declared = _input_shape(name, convs, head)
    return Network(name, sized(declared, input_size, name), tuple(layers), assumed_size=None in declared and input_size is None)


def _with_weights(name: str, kind: str, activation: str, kernel: np.ndarray, window: Window | None = None) -> ConfigLayer:
    variables = {"kernel": kernel.shape, "bias": kernel.shape[-1:]}
    return ConfigLayer(Layer(name, kind, activation=activation, window=window), variables, path=(name,))


def _input_shape(name: str, convs: Sequence[tuple[str, np.ndarray]], head: Sequence[tuple[str, np.ndarray]]) -> tuple[int | None, ...]:
    channels, width = convs[0][1].shape[2], convs[-1][1].shape[3]
    if not head:
        return (None, None, channels)
    rows = head[0][1].shape[0]
    side = math.isqrt(rows // width)
    if side < 1 or side * side * width != rows:
        raise WeightsError(
            f"layer {head[0][0]!r}: its kernel has {rows} rows, expected side x side x {width} (a square image behind {name}'s five "
            "poolings); for other inputs save the whole model, which carries its configuration"
        )
    return (side << len(BLOCKS[name]), side << len(BLOCKS[name]), channels)


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


def has_layers_of(name: str, layers: Sequence[Layer]) -> bool:
    """Whether a network has the layers of one of keras.applications, by their names; a VGG's also with their widths."""
    if name in BLOCKS:
        widths = [64, 128, 256, 512, 512]
        wanted = {f"block{b}_conv{i}": widths[b - 1] for b, count in enumerate(BLOCKS[name], 1) for i in range(1, count + 1)}
        return {layer.name: layer.output_shape[-1] for layer in layers if layer.name in wanted} == wanted
    mine = {layer.name for layer in layers}
    for known in names():
        if not (name.startswith(known) or known.startswith(name)):
            continue
        config = json.loads(_lines()[1 + names().index(known)])["config"]
        own = {layer["name"] for layer in config["layers"] if layer["class_name"] in ("Conv2D", "BatchNormalization", "Concatenate")}
        own = {each for each in own if not re.fullmatch(r"(conv2d|batch_normalization|concatenate)(_\d+)?", each)}  # numbered by Keras
        if own and own <= mine:
            return True
    return False


# All of keras.applications


def names() -> list[str]:
    """Return the names of all networks that there are configurations of."""
    found: list[str] = json.loads(_lines()[0])
    return found


def canonical(name: str) -> str:
    """Return a network's name in small letters and figures, as `names` has it."""
    return re.sub(r"[^a-z0-9]", "", name.lower())


def configurations(name: str, outputs: Callable[[str, str], int | None]) -> list[dict[str, Any]]:
    """Return the configurations that weights of a network may be for: with its head, then without.

    Parameters
    ----------
    name : str
        Like ``"resnet50"`` or ``"EfficientNetV2-S"``.
    outputs : callable
        (a layer's name, its name by class and number) -> how many outputs the file has weights for, None if it has none. The head's last
        layer gets as many.

    Raises
    ------
    WeightsError
        If there is no such network.
    """
    wanted, known = canonical(name), names()
    if wanted not in known:
        near = difflib.get_close_matches(wanted, known, 3)
        hint = f"; did you mean {' or '.join(near)}?" if near else f"; there are {', '.join(known[:6])}, ... (all of keras.applications)"
        raise WeightsError(f"there is no network {name!r}{hint}")
    text = _lines()[1 + known.index(wanted)]
    config: dict[str, Any] = json.loads(text)
    _give_outputs(config["config"]["layers"], outputs)
    bare = json.loads(text)
    end = _before_the_head(bare["config"])
    bare["config"]["output_layers"] = [[end, 0, 0]]
    return [config, bare]


def _lines() -> list[str]:
    """Return a list of names as JSON, then a configuration a line."""
    data = resources.files("nplrp").joinpath("data/architectures.json.xz").read_bytes()
    return lzma.decompress(data).decode().split("\n")


def _give_outputs(layers: Sequence[dict[str, Any]], outputs: Callable[[str, str], int | None]) -> None:
    """Give the head as many outputs as the file has weights for."""
    stores = store_names([layer["class_name"] for layer in layers])
    for layer, store in reversed(list(zip(layers, stores, strict=True))):
        options = layer["config"]
        key = "units" if "units" in options else "filters"
        if key in options:
            count = outputs(layer["name"], f"layers/{store}") or options[key]
            for other in layers:
                if other["config"].get("target_shape") == [options[key]]:
                    other["config"]["target_shape"] = [count]
            options[key] = count
            return


def _before_the_head(config: dict[str, Any]) -> str:
    """Return the layer that the head reads: what is before the first of the last pools and flattens."""
    layers = {layer["name"]: layer for layer in config["layers"]}
    at, found = _reads(config["output_layers"])[0], ""
    while True:
        layer = layers[at]
        options, before = layer["config"], _reads(layer["inbound_nodes"])
        wide = layer["class_name"] in ("BatchNormalization", "DepthwiseConv2D") or options.get("kernel_size", [1, 1]) != [1, 1]
        if len(before) != 1 or wide or "layers" in options:
            return found
        at = before[0]
        if layer["class_name"] in ("Flatten", "GlobalAveragePooling2D"):
            found = at


def _reads(nodes: Any) -> list[str]:
    """Return the names in a nest of [name, use, output]."""
    if isinstance(nodes, list) and nodes and isinstance(nodes[0], str):
        return [nodes[0]]
    inner = nodes.values() if isinstance(nodes, dict) else nodes if isinstance(nodes, list) else ()
    return [name for each in inner for name in _reads(each)]
