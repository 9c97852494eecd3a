"""A zoo of small networks as Keras 2 and Keras 3 describe them, with real Keras's outputs: files of every layout, made without Keras.

`names()` lists the networks, `network(name)` reads one, `write(network, directory, layout)` makes a file that Keras itself would load.
Weights and inputs follow from a rule (`values`), so the data hold configurations, layouts and expected outputs only (data/zoo/README.md).
"""

from __future__ import annotations

import io
import json
import lzma
import math
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np

DATA = Path(__file__).parent / "data" / "zoo"
LAYOUTS = ("h5", "weights.h5", "keras")
#: How far float64 outputs may be from the recorded ones, relative to their maximum.
TOLERANCE = 1e-11
#: The inputs' place among the seeds of a network.
INPUTS = 1_000_000


@dataclass(frozen=True)
class Network:
    """One network of the zoo.

    Attributes
    ----------
    name : str
        "keras3/residual_add": the dialect, a slash, the network.
    record : dict
        Everything the data say about it; the properties below are its readable form.
    """

    name: str
    record: Mapping[str, Any]

    @property
    def dialect(self) -> str:
        return self.name.split("/")[0]

    @property
    def title(self) -> str:
        return self.name.split("/")[1]

    @property
    def features(self) -> list[str]:
        return self.record["features"]

    @property
    def classes(self) -> list[str]:
        """The classes of its layers, sorted."""
        return self.record["classes"]

    @property
    def chain(self) -> bool:
        """Whether every layer has one input and one reader, is used once, and there is one output."""
        return self.record["chain"]

    @property
    def layouts(self) -> tuple[str, ...]:
        """Layouts that `write` can make: without "h5" where Keras 3 fails to write it (two variables of one path, RandomBrightness)."""
        return LAYOUTS if "by_name" in self.record else LAYOUTS[1:]

    @property
    def refused(self) -> list[str]:
        """Layouts that Keras writes but doesn't load itself: Keras 3's .h5 of a model with operators names no module of `Add`."""
        return self.record["refused"]

    def config(self, layout: str = "h5") -> dict[str, Any]:
        """Return the configuration as a layout has it: "h5" (`model_config`), "keras" (`config.json`) or "json" (`to_json()`)."""
        found = self.record["configs"][layout]
        return self.config(found) if isinstance(found, str) else found

    def weights(self) -> list[np.ndarray]:
        """Return all variables, in the order of the record."""
        return [values(self.title, number, shape, dtype, *rule) for number, (_, shape, dtype, *rule) in enumerate(self.record["variables"])]

    def inputs(self) -> np.ndarray:
        """Return the two inputs, float32 [2, ...]."""
        shape, low, high = self.record["inputs"]
        return values(self.title, INPUTS, shape, "float32", "uniform", (low + high) / 2, (high - low) / 2)

    def outputs(self) -> dict[str, np.ndarray]:
        """Return what Keras computed in float64, by output layer, in the order of the outputs."""
        return {name: np.array(value) for name, value in self.record["outputs"]}

    def logits(self) -> dict[str, np.ndarray]:
        """Return the outputs as they were before a softmax or sigmoid, a layer's own or an Activation or Softmax layer at the end."""
        return {name: np.array(value) for name, value in self.record["logits"]}

    def layers(self) -> dict[str, Observed]:
        """Return what is known of every layer's output for the first input; empty for networks recorded without.

        Keys are layer names, "outer/inner" in a model inside; a layer's second use has "#1" behind its name.
        """
        return {name: Observed(*rest) for name, *rest in self.record.get("layers", [])}


@dataclass(frozen=True)
class Observed:
    """A layer's output for the first input, without the batch axis: all of it if small, else its sums and a few places."""

    shape: list[int]
    total: float
    total_abs: float
    samples: list[float]

    def places(self) -> np.ndarray:
        """Return where in the flattened output the samples were taken."""
        return places(math.prod(self.shape))


#: Outputs up to this size are recorded whole.
SMALL = 12


def places(size: int) -> np.ndarray:
    """Return which elements of a flattened array are recorded: all of a small one, else eight, spread."""
    return np.arange(size) if size <= SMALL else (np.arange(8) * (size - 1)) // 7


def record_layer(name: str, value: np.ndarray) -> list[Any]:
    """Return what is recorded of a layer's output [n, ...]: see `Observed`."""
    first = np.asarray(value, np.float64)[0]
    flat = first.ravel()
    return [name, list(first.shape), float(flat.sum()), float(np.abs(flat).sum()), flat[places(flat.size)].tolist()]


def values(title: str, number: int, shape: list[int], dtype: str, rule: str, centre: float = 0.0, spread: float = 0.0) -> np.ndarray:
    """Return the values of a network's variable.

    u is uniform on [-1, 1) in steps of 2**-23, from the bit generator PCG64 (NumPy keeps its stream) seeded with the CRC-32 of the
    network's name and the variable's number. Rules: "uniform": centre + spread u; "both signs": the same, every second one on
    average negated; "whole": whole numbers below 2**24; "constant": centre. Computed in float64, then rounded to `dtype`.
    """
    bits = np.random.PCG64(np.random.SeedSequence([zlib.crc32(title.encode()), number])).random_raw(math.prod(shape)).reshape(shape)
    if rule == "whole":
        return (bits >> np.uint64(40)).astype(dtype)
    if rule == "constant":
        return np.full(shape, centre, dtype)
    u = (bits >> np.uint64(40)).astype(np.float64) / 2.0**23 - 1
    result = centre + spread * u
    if rule == "both signs":
        result = np.where(bits & np.uint64(1), -result, result)
    elif rule != "uniform":
        raise ValueError(rule)
    return np.asarray(result, dtype)


# Reading the data: one line of JSON a network, the first line an index


def names(dialect: str = "", group: str = "", chain: bool | None = None, without: tuple[str, ...] = (), feature: str = "") -> list[str]:
    """Return the names of networks, of one dialect ("keras2", "keras3"), group ("everyday", "applications") or feature if wanted.

    `chain` picks chains or graphs, `without` leaves out networks with a layer of one of these classes.
    """
    return [
        entry["name"]
        for path in sorted(DATA.glob("*.xz"))
        for entry in _index(path)
        if entry["name"].startswith(dialect)
        and entry["group"].startswith(group)
        and chain in (None, entry["chain"])
        and not set(without) & set(entry["classes"])
        and (not feature or feature in entry["features"])
    ]


def network(name: str) -> Network:
    """Return a network by its name, like "keras3/residual_add"."""
    for path in sorted(DATA.glob("*.xz")):
        for number, entry in enumerate(_index(path), 1):
            if entry["name"] == name:
                return Network(name, json.loads(_lines(path)[number]))
    raise KeyError(f"no network {name!r} in the zoo")


def networks(**wanted: Any) -> Iterator[Network]:
    """Yield the networks that `names` lists."""
    for name in names(**wanted):
        yield network(name)


@lru_cache(maxsize=8)
def _lines(path: Path) -> list[bytes]:
    return lzma.decompress(path.read_bytes()).split(b"\n")


@lru_cache(maxsize=8)
def _index(path: Path) -> list[dict[str, Any]]:
    return json.loads(_lines(path)[0])


# Writing files


def write(network: Network, directory: str | Path, layout: str = "h5", weights: list[np.ndarray] | None = None) -> Path:
    """Write a network's file, as Keras would; return its path.

    Parameters
    ----------
    network : Network
    directory : str or path-like
        Where the file goes: ``<title>.<layout>``; beside a ``.weights.h5`` goes the configuration, ``<title>.json``.
    layout : "h5", "weights.h5" or "keras"
    weights : list of ndarray, optional
        Other values than the zoo's, in its order.
    """
    path = Path(directory) / f"{network.title}.{layout}"
    weights = network.weights() if weights is None else weights
    if layout == "h5":
        _write_by_name(path, network, weights)
    elif layout == "weights.h5":
        path.write_bytes(_by_number(network, weights))
        path.with_name(f"{network.title}.json").write_text(json.dumps(network.config("json")), encoding="utf-8")
    elif layout == "keras":
        with zipfile.ZipFile(path, "w") as archive:
            texts = {"metadata.json": {"keras_version": network.record["version"]}, "config.json": network.config("keras")}
            for entry, text in texts.items():
                archive.writestr(zipfile.ZipInfo(entry), json.dumps(text))
            archive.writestr(zipfile.ZipInfo("model.weights.h5"), _by_number(network, weights))
    else:
        raise ValueError(f"layout {layout!r}, expected one of {LAYOUTS}")
    return path


def _write_by_name(path: Path, network: Network, weights: list[np.ndarray]) -> None:
    """Write the layout of ``.h5`` files: groups by the layers' names, variables' paths in attributes."""
    with h5py.File(path, "w") as file:
        group = file.create_group("model_weights")
        version = network.record["version"]
        file.attrs.update({"backend": "tensorflow", "keras_version": version})  # Keras has text here and bytes below
        group.attrs.update({"backend": b"tensorflow", "keras_version": version.encode()})
        file.attrs["model_config"] = json.dumps(network.config("h5")).encode()
        group.attrs["layer_names"] = [name.encode() for name, _ in network.record["by_name"] if name != "top_level_model_weights"]
        for name, variables in network.record["by_name"]:
            layer = group.require_group(name)  # made already where a name has slashes
            layer.attrs["weight_names"] = [place.encode() for place, _ in variables]
            for place, number in variables:
                layer.create_dataset(place, data=weights[number])


def _by_number(network: Network, weights: list[np.ndarray]) -> bytes:
    """Return the layout of ``.weights.h5`` files: groups by the layers' classes and numbers, variables by number."""
    memory = io.BytesIO()
    with h5py.File(memory, "w") as file:
        for place, name, variables in network.record["by_number"]:
            group = file.require_group(f"{place}/vars" if place else "vars")
            if name is not None:
                group.attrs["name"] = name
            for key, number in enumerate(variables):
                group.create_dataset(str(key), data=weights[number])
    return memory.getvalue()
