"""What is known of how a model's pictures were prepared: by its file, the caller, or the official weights of its architecture."""

from __future__ import annotations

import logging
import re
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import WeightsError
from nplrp.files import architectures
from nplrp.files import vgg as vggs
from nplrp.layers import KINDS, OPERATIONS
from nplrp.layers.base import MOVES
from nplrp.layers.resize import RESIZE
from nplrp.layers.scale import AFFINE
from nplrp.model import Model, sources
from nplrp.preprocessing import CHOICES, UNKNOWN, Preprocessing

_logger = logging.getLogger(__name__)

#: What the modules of keras.applications do to pictures of their official weights: names, canonical -> mode. Networks that aren't here
#: have it as layers.
OFFICIAL = MappingProxyType(
    {
        r"vgg(16|19)|resnet(50|101|152)": "caffe",
        r"resnet(50|101|152)v2|inceptionv3|inceptionresnetv2|xception|mobilenet(v2)?(\d{3,})?|nasnet(mobile|large)?": "tf",
        r"densenet(121|169|201|264)": "torch",
    }
)


def prepared(model: Model, stated: Any, given: str | None, architecture: str | None) -> Preprocessing:
    """Return how a model's pictures are prepared, and log what had to be assumed.

    Parameters
    ----------
    model : Model
        Just read.
    stated : object
        What the file's own attribute says; None where it has none.
    given : str or None
        The mode that the caller asks for.
    architecture : str or None
        The network that the caller says the weights are of.

    Raises
    ------
    WeightsError
        If the attribute can't be read.
    """
    said = _stated(stated)
    found = said if said.mode != UNKNOWN else of_layers(model)
    if given is not None:
        if found is not None and found.mode != given:
            _logger.warning("pictures are prepared as %s, as was asked for; by %s it would be %s", given, found.source, found.mode)
        return replace(said, mode=given, source="given")
    found = found or _official(model, architecture)
    return said if found is None else replace(said, mode=found.mode, source=found.source)


def _stated(value: Any) -> Preprocessing:
    """Return what a file says in words."""
    if value is None:
        return Preprocessing(source="nothing tells")
    types: dict[str, tuple[type, ...]] = {"mode": (str,), "resample": (str,), "crop": (bool,), "resize_to": (int, type(None))}
    if not isinstance(value, dict) or not all(type(item) in types.get(key, ()) for key, item in value.items()):
        raise WeightsError(f"attribute 'nplrp_preprocessing' is {value!r}, expected a JSON object with {', '.join(types)}; write it again")
    found = Preprocessing(**value, source="the file")
    return replace(found, source="nothing tells") if found.mode == UNKNOWN else found


def of_layers(model: Model) -> Preprocessing | None:
    """Return what the arithmetic that a model begins with tells: whether it takes values up to 255, or up to 1.

    It brings pixels x to (x - m) / s. Trained networks work on numbers of a few units around 0, so that pixels up to 255 have an s of
    tens or an m in their middle, pixels up to 1 an m in theirs and an s of half of it at most; else nothing is told.
    """
    one, none = np.ones(1), np.zeros(1)
    known, found, told = [(one, none)], (one, none), ""  # of the input and every layer: gain and shift, of each channel or of all
    for layer, reads in zip(model.layers, sources(model.layers), strict=True):
        facts, given = KINDS[layer.kind].step(layer), [known[j + 1] for j in reads]
        gain, shift = found = given[0]
        if layer.activation != "linear":
            break
        if KINDS[layer.kind] is AFFINE:
            g, h = (np.asarray(facts[key], np.float64) for key in ("weight", "bias"))
            known.append((gain * g, shift * g + h))
            told = told or layer.name
            continue
        op = OPERATIONS[facts["kind"]]  # a resize leaves values between the same ends
        apart = len(reads) > 1 or layer.output_shape[-1:] != layer.input_shape[-1:]
        alike = not apart or all(np.ptp(np.concatenate([each[k] for each in given])) == 0 for k in (0, 1))
        if not (op.role == MOVES or op is RESIZE) or not alike:
            break
        known.append((gain[:1], shift[:1]) if apart else found)
    else:
        found = known[-1]
    gain, shift = found
    if not told or not np.all(gain):
        return None
    deviation, mean = 1 / np.abs(gain), -shift / gain
    if np.all((mean >= -10) & (mean <= 265) & (deviation <= 300) & ((deviation >= 12) | (mean >= 10))):
        return Preprocessing("none", source=f"its layer {told}")
    plain = np.all((mean == 0) & (deviation <= 1 / 50))  # makes 0 to 255 of 0 to 1
    if plain or np.all((mean > 0.05) & (mean <= 1) & (deviation <= 0.55)):
        return Preprocessing("unit", source=f"its layer {told}")
    return None


def _official(model: Model, architecture: str | None) -> Preprocessing | None:
    """Return what the official weights of a model's architecture take, if it is known which that is; log it unless these are they."""
    vgg = vggs.vgg_of(model.layers)
    name = vgg or architectures.canonical(architecture or model.name)
    mode = next((mode for names, mode in OFFICIAL.items() if re.fullmatch(names, name)), None)
    if mode is None or len(model.input_shape) != 3 or model.input_shape[2] != 3:
        return None
    if vgg is None and (name in vggs.BLOCKS or not (architecture or architectures.has_layers_of(name, model.layers))):
        return None
    if model.output_shape == (1000,) and (vgg is None or architectures.has_layers_of(name, model.layers)):
        return Preprocessing(mode, source=f"official weights of {name}")
    _logger.warning(
        "nothing in the file tells how pictures were prepared: assuming %s, as for the official weights of %s (another: --preprocessing "
        "%s, load(..., preprocessing=...))",
        mode,
        name,
        CHOICES,
    )
    return Preprocessing(mode, source=f"assumed, as for the official weights of {name}")
