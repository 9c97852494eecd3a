"""VGG16 and VGG19 as tables, for weight files that carry no configuration: any width, any input size.

Simonyan and Zisserman, Very Deep Convolutional Networks for Large-Scale Image Recognition (2014), table 1, columns D and E.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from types import MappingProxyType

import numpy as np

from nplrp.errors import WeightsError
from nplrp.files.keras_config import OPEN_SIDE, ConfigLayer, Network
from nplrp.model import Layer, Shape, Window

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


def network(name: str, names: Sequence[str], kernels: Sequence[np.ndarray]) -> Network:
    """Lay out VGG16 or VGG19 over given kernels.

    Parameters
    ----------
    name : str
        ``"vgg16"`` or ``"vgg19"``.
    names : sequence of str
        What the layers with weights are called: the convolutions, then the three dense layers or none.
    kernels : sequence of ndarray
        Theirs, in the same order: [3, 3, cin, cout], (in, out). Widths come from the convolutions, the input's side from the rows of
        the first dense kernel; without dense layers the model ends at ``block5_pool`` and the side is 224.

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
    return Network(name, _input_shape(name, convs, head), tuple(layers))


def _with_weights(name: str, kind: str, activation: str, kernel: np.ndarray, window: Window | None = None) -> ConfigLayer:
    return ConfigLayer(Layer(name, kind, (), (), activation, window), ("kernel", "bias"), kernel.shape[-1], (name,))


def _input_shape(name: str, convs: Sequence[tuple[str, np.ndarray]], head: Sequence[tuple[str, np.ndarray]]) -> Shape:
    channels, width = convs[0][1].shape[2], convs[-1][1].shape[3]
    if not head:
        return (OPEN_SIDE, OPEN_SIDE, channels)
    rows = head[0][1].shape[0]
    side = math.isqrt(rows // width)
    if side < 1 or side * side * width != rows:
        raise WeightsError(
            f"layer {head[0][0]!r}: its kernel has {rows} rows, expected side x side x {width} (a square image behind {name}'s five "
            "poolings); for other inputs save the whole model, which carries its configuration"
        )
    return (side << len(BLOCKS[name]), side << len(BLOCKS[name]), channels)
