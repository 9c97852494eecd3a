"""From results to bytes: JSON, PNG and .npy. Runs beside the event loop, never on it."""

from __future__ import annotations

import base64
import functools
import hashlib
import importlib.metadata
import io
import json
import math
import platform
import time
from collections.abc import Iterator, Mapping
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp import __version__
from nplrp.heatmaps import encode_png, figure, heatmap, panel
from nplrp.images import display
from nplrp.ledger import total
from nplrp.model import Model
from nplrp.serve.bodies import Inputs
from nplrp.serve.engine import Map, Result
from nplrp.serve.problems import Problem
from nplrp.serve.wanted import Wanted
from nplrp.span import INPUT

JSON, PNG, NPY = "application/json", "image/png", "application/x-npy"
#: Packages whose versions an answer names.
PACKAGES = ("numpy", "numba", "pillow")


def choose_type(accept: str) -> str:
    """Return what an Accept header asks for: JSON unless it prefers PNG or .npy.

    Examples
    --------
    >>> choose_type("image/png;q=0.5, application/x-npy")
    'application/x-npy'
    >>> choose_type("text/html, */*")
    'application/json'
    """
    best, chosen = 0.0, JSON
    for part in accept.split(",")[:50]:
        name, *parameters = (each.strip().lower() for each in part.split(";"))
        weight = next((each[2:] for each in parameters if each.startswith("q=")), "1")
        try:
            value = float(weight)
        except ValueError:
            value = 0.0
        if name in (JSON, PNG, NPY) and value > best:
            best, chosen = value, name
    return chosen


@functools.cache  # reading packages' metadata takes milliseconds
def versions() -> Mapping[str, str]:
    """Return the versions that numbers may depend on."""
    found = {
        "nplrp": __version__,
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in PACKAGES},
    }
    return MappingProxyType(found)


def digest(array: np.ndarray) -> str:
    """Return the SHA-256 of an array's numbers, little-endian, in C order."""
    return hashlib.sha256(_bytes(array)).hexdigest()


def as_json(model: Model, name: str, result: Result, inputs: Inputs, verb: str, deadline: float = math.inf) -> bytes:
    """Return the whole answer as JSON, as long as `time.monotonic` isn't past the deadline.

    Raises
    ------
    Problem
        deadline.
    """
    content: dict[str, Any] = {
        "model_name": name,
        "model_version": model.content_hash[:12],
        "predictions": [
            {"labels": [each._asdict() for each in instance.labels]}
            | ({"warnings": instance.doubts} if instance.doubts else {})
            | ({"seen": _seen(inputs.pixels[i])} if inputs.wanted.seen else {})
            for i, instance in enumerate(result)
        ],
    }
    if verb == "explain":
        content["explanations"] = [_explanation(each, i, inputs) for i, instance in enumerate(result) for each in instance.maps]
    content["provenance"] = _provenance(model, result, inputs.wanted)
    written = []
    for chunk in _chunks(content):
        if time.monotonic() > deadline:
            raise Problem("deadline", "there was no time left to write the answer")
        written.append(chunk)
    return b"".join(written)


def as_npy(result: Result, inputs: Inputs) -> bytes:
    """Return all maps of the one layer (see `check_picture`) as .npy, [maps, *shape]."""
    name = inputs.wanted.layers[0]
    file = io.BytesIO()
    np.save(file, np.stack([_little(each.relevance[name]) for instance in result for each in instance.maps]), allow_pickle=False)
    return file.getvalue()


def as_png(result: Result, inputs: Inputs) -> bytes:
    """Return the picture of the one map (see `check_picture`)."""
    return draw(result[0].maps[0], inputs.wanted.layers[0], 0, inputs)


def check_picture(wanted: Wanted, maps: int, model: Model, kind: str) -> None:
    """Refuse what has no picture or no single array, before it is computed.

    Raises
    ------
    Problem
        bad_parameter.
    """
    for what, count in (("layers", len(wanted.layers)), ("maps", maps)):
        if count != 1 and (kind == PNG or (kind == NPY and what == "layers")):
            raise Problem("bad_parameter", f"{kind} holds one of the {what}, the request is for {count}: ask for JSON, or for one")
    shapes = {layer.name: layer.output_shape for layer in model} | {INPUT: model.input_shape}
    for name in wanted.layers:
        if (kind == PNG or (kind == JSON and wanted.encoding == "png")) and len(shapes[name]) != 3:
            raise Problem("bad_parameter", f"layer {name!r} is a vector and has no picture; ask for encoding b64, or Accept: {NPY}")


def draw(each: Map, name: str, i: int, inputs: Inputs) -> bytes:
    """Return one map's picture as PNG."""
    wanted, R = inputs.wanted, each.relevance[name]
    pixels = inputs.pixels[i]
    if wanted.picture == "heatmap" or pixels is None:
        return encode_png(heatmap(R[None], wanted.cmap)[0])
    shown = display(pixels[None])[0]
    label = each.target
    if wanted.picture == "panel":
        title = f"{label.name} ({label.id}), {label.said}" if label else "all outputs"
        return encode_png(panel(shown, {wanted.composite: R}, title, wanted.cmap))
    return encode_png(figure(shown, heatmap(R[None], wanted.cmap)[0], *(label[1:] if label else ("all", "all outputs", 1.0))))


def _explanation(each: Map, i: int, inputs: Inputs) -> dict[str, Any]:
    return {
        "instance": i,
        "target": None if each.target is None else each.target._asdict(),
        "relevance": {name: _array(each, name, i, inputs) for name in inputs.wanted.layers},
        "sum": total(each.relevance[INPUT]),
        "sha256": digest(each.relevance[INPUT]),
        "ledger": each.ledger,
        "warnings": each.alarms,
    }


def _seen(pixels: np.ndarray | None) -> bytes | None:
    """Return an image at the model's size as PNG in base64; None for a tensor, which nobody can show."""
    return None if pixels is None else base64.b64encode(encode_png(display(pixels[None])[0]))


def _array(each: Map, name: str, i: int, inputs: Inputs) -> dict[str, Any]:
    R, encoding = each.relevance[name], inputs.wanted.encoding
    about: dict[str, Any] = {"dtype": R.dtype.name, "shape": list(R.shape)}
    if encoding == "b64":
        return about | {"b64": base64.b64encode(_bytes(R))}
    if encoding == "png":
        return about | {"png": base64.b64encode(draw(each, name, i, inputs))}
    return about | {"list": R}  # written row by row


def _provenance(model: Model, result: Result, wanted: Wanted) -> dict[str, Any]:
    how = model.preprocessing
    return {
        "versions": dict(versions()),
        "model": model.name,
        "weights_sha256": model.content_hash,
        "dtype": wanted.dtype,
        "algorithm": wanted.algorithm,
        **result[0].about,
        "preprocessing": {
            "mode": how.mode,
            "resample": wanted.resample or how.resample,
            "crop": how.crop if wanted.crop is None else wanted.crop,
            "source": how.source or "the model",
        },
    }


def _chunks(content: Any) -> Iterator[bytes]:
    """Write JSON, arrays row by row: Python's encoder keeps all other threads waiting until it returns. Bytes are base64: text as it is."""
    if isinstance(content, dict):
        for i, (key, value) in enumerate(content.items()):
            yield (", " if i else "{").encode() + json.dumps(key).encode() + b": "
            yield from _chunks(value)
        yield b"}" if content else b"{}"
    elif isinstance(content, list) and content and isinstance(content[0], dict):
        for i, value in enumerate(content):
            yield b", " if i else b"["
            yield from _chunks(value)
        yield b"]"
    elif isinstance(content, np.ndarray) and content.ndim > 1:
        for i, row in enumerate(content):
            yield b", " if i else b"["
            yield from _chunks(row)
        yield b"]"
    elif isinstance(content, bytes):
        yield from (b'"', content, b'"')
    else:
        yield json.dumps(content.tolist() if isinstance(content, np.ndarray) else content, allow_nan=False).encode()


def _little(array: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))


def _bytes(array: np.ndarray) -> bytes:
    return _little(array).tobytes()
