"""Networks of keras.applications by name, for weight files that carry no configuration.

They are configurations, made by tests/peers/make_architectures.py. VGG16 and VGG19 of any width and with any head: `nplrp.files.vgg`.
"""

from __future__ import annotations

import difflib
import json
import lzma
import re
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any

from nplrp.errors import WeightsError
from nplrp.files import vgg
from nplrp.files.keras_config import store_names
from nplrp.model import Layer


def has_layers_of(name: str, layers: Sequence[Layer]) -> bool:
    """Whether a network has the layers of one of keras.applications, by their names; a VGG's also with their widths."""
    if name in vgg.BLOCKS:
        widths = [64, 128, 256, 512, 512]
        wanted = {f"block{b}_conv{i}": widths[b - 1] for b, count in enumerate(vgg.BLOCKS[name], 1) for i in range(1, count + 1)}
        return {layer.name: layer.output_shape[-1] for layer in layers if layer.name in wanted} == wanted
    mine, lines = {layer.name for layer in layers}, _lines()
    for known, line in zip(json.loads(lines[0]), lines[1:], strict=False):
        if not (name.startswith(known) or known.startswith(name)):
            continue
        config = json.loads(line)["config"]
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
