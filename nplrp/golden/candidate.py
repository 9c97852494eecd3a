"""Read what another implementation computed: .npz, .h5, .safetensors, or a folder of raw arrays.

Arrays are known by their names (docs/golden.md): ``relevances/<layer>``, ``relevance/<layer>``, ``layers/<layer>/relevance``,
``layerwise_relevances/<layer>`` or the layer's name alone; ``activations/<layer>``, ``activation/<layer>`` or
``layers/<layer>/activation``; ``edges/<layer>/<input>`` or ``layers/<layer>/edges/<input>/relevance`` for what a layer gives to one of its
inputs that others read too; ``relevance`` or ``attribution`` for the input's relevance; ``x`` or ``input`` for the input itself (but
where all names are layers' names alone, ``input`` is the relevance of that layer).
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np

from nplrp.errors import WeightsError, brief
from nplrp.files.arrays import read_npz
from nplrp.files.plain import map_plain, read_plain
from nplrp.golden.errors import GoldenError

_ROLES = (
    (r"(?:relevances?|layerwise_relevances)/(.+)", "relevance"),
    (r"layers/(.+)/relevance", "relevance"),
    (r"activations?/(.+)", "activation"),
    (r"layers/(.+)/activation", "activation"),
)
_EDGE = r"(?:edges/([^/]+)/([^/]+)|layers/([^/]+)/edges/([^/]+)/relevance)"
#: What golden files and their exports hold beside these.
_BESIDE = r"layers/.+/(?!activation$|relevance$)[^/]+|layers/[^/]+/edges/.+"
_INPUT, _ATTRIBUTION = ("x", "input"), ("relevance", "attribution")
_Key = TypeVar("_Key")
#: What files that aren't what they seem make their readers raise.
_DAMAGE = (OSError, ValueError, LookupError, TypeError, AttributeError, RuntimeError, EOFError, MemoryError, OverflowError)
_DAMAGE += (zipfile.BadZipFile, zlib.error)  # type: ignore[assignment]
#: safetensors' names of the numbers that NumPy has.
_SAFE = {"F64": "<f8", "F32": "<f4", "F16": "<f2", "I64": "<i8", "I32": "<i4"}


@dataclass(frozen=True, eq=False)
class Candidate:
    """Arrays to compare with golden ones.

    Attributes
    ----------
    relevances, activations : mapping of str to ndarray
        By layer.
    x : ndarray or None
        The input that they were computed from, if it is given.
    about : mapping
        What the file says of its provenance: ``weights_sha256``, ``input_sha256``.
    ignored : tuple of str
        Names of arrays that are none of these.
    source : str
    edges : mapping of (str, str) to ndarray
        By layer and input: relevance that the layer gives to it.
    """

    relevances: Mapping[str, np.ndarray] = field(repr=False)
    activations: Mapping[str, np.ndarray] = field(default_factory=dict, repr=False)
    x: np.ndarray | None = field(default=None, repr=False)
    about: Mapping[str, Any] = field(default_factory=dict)
    ignored: tuple[str, ...] = ()
    source: str = "the candidate"
    edges: Mapping[tuple[str, str], np.ndarray] = field(default_factory=dict, repr=False)


def read_candidate(path: str | os.PathLike[str], names: Mapping[str, str] | None = None) -> Candidate:
    """Read a candidate's arrays.

    Parameters
    ----------
    path : path
        A .npz, .h5, .hdf5 or .safetensors file, or a folder with ``contents.txt``.
    names : mapping of str to str, or None
        Their names of layers (or of whole arrays) to ours.

    Raises
    ------
    GoldenError
        If it can't be read.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], tuple[dict[str, np.ndarray], dict[str, Any]]]] = {
        ".npz": _read_npz,
        ".h5": _read_hdf5,
        ".hdf5": _read_hdf5,
        ".safetensors": _read_safetensors,
    }
    reader = _read_raw if path.is_dir() else readers.get(path.suffix.lower())
    if reader is None:
        raise GoldenError(f"{path}: candidates are {', '.join(readers)} files or folders of raw arrays; save the arrays as one of these")
    try:
        arrays, about = reader(path)
    except (*_DAMAGE, WeightsError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GoldenError(f"{path}: can't be read as {path.suffix or 'a folder of raw arrays'}: {reason}; write it again") from None
    own = {name: array for name, array in arrays.items() if re.fullmatch(_EDGE, name) or not re.fullmatch(_BESIDE, name)}
    return sorted_out(own, about, names or {}, str(path))


def sorted_out(arrays: Mapping[str, np.ndarray], about: Mapping[str, Any], names: Mapping[str, str], source: str) -> Candidate:
    """Tell arrays apart by their names.

    Raises
    ------
    GoldenError
        If two are of the same layer: nobody knows which is meant.
    """
    found: dict[str, dict[str, np.ndarray]] = {"relevance": {}, "activation": {}}
    edges: dict[tuple[str, str], np.ndarray] = {}

    def ours(layer: str) -> str:
        return names.get(layer, layer).replace("%2F", "/").replace("%25", "%")

    taken = dict[str, str]()

    def take(into: dict[_Key, np.ndarray], place: _Key, array: np.ndarray, key: str, what: str) -> None:
        if place in into and taken[what] not in _ATTRIBUTION:
            raise GoldenError(f"{source}: {taken[what]!r} and {key!r} are both {what}; give one of them, or other names in the table")
        into[place], taken[what] = array, key

    x, ignored = None, []
    bare = not any("/" in key for key in arrays) and not any(key in _ATTRIBUTION for key in arrays)  # layers' names alone
    for key, array in arrays.items():
        if array.dtype.kind not in "fiu":
            ignored.append(key)
            continue
        name = names.get(key, key)
        edge = re.fullmatch(_EDGE, name)
        if edge:
            above, below = (ours(each) for each in edge.groups() if each is not None)
            take(edges, (above, below), array, key, f"the relevance of {below!r} along its edge to {above!r}")
            continue
        role, layer = "relevance", name
        for pattern, kind in _ROLES:
            match = re.fullmatch(pattern, name)
            if match:
                role, layer = kind, match[1]
                break
        else:
            if name in _INPUT and key == name and not (bare and name == "input"):
                x = array
                continue
            if name in _ATTRIBUTION:
                layer = "input"
        layer = ours(layer)
        if layer in found[role] and name in _ATTRIBUTION:
            continue
        take(found[role], layer, array, key, f"the {role} of {layer!r}")
    return Candidate(found["relevance"], found["activation"], x, about, tuple(ignored), source, edges)


def read_map(path: str | os.PathLike[str]) -> dict[str, str]:
    """Read a table of names: a JSON object {theirs: ours}, or a line ``theirs ours`` for each.

    Raises
    ------
    GoldenError
        If it can't be read.
    """
    try:
        text = read_plain(path).decode("utf-8")
        if text.lstrip().startswith("{"):
            table = json.loads(text, object_pairs_hook=_once_each)
            if not all(isinstance(value, str) for value in table.values()):
                raise ValueError("values must be names")
            return dict(table)
        rows = [line.split() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
        if any(len(row) != 2 for row in rows):
            raise ValueError("expected two names on each line")
        return _once_each(rows)
    except (OSError, ValueError, RecursionError) as error:
        reason = getattr(error, "strerror", None) or error
        raise GoldenError(
            f"{path}: can't be read as a table of names: {reason}; write JSON {{theirs: ours}}, or lines 'theirs ours'"
        ) from None


def _once_each(pairs: Iterable[Sequence[Any]]) -> dict[str, Any]:
    """Return a table of pairs whose names come once."""
    table: dict[str, Any] = {}
    for name, value in pairs:
        if name in table:
            raise ValueError(f"{brief(name)} stands in it twice")
        table[name] = value
    return table


def _read_npz(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays = read_npz(path)
    about = arrays.pop("about", None)
    return arrays, _about(str(about)) if about is not None else {}


def _read_hdf5(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    from nplrp.files import hdf5

    with hdf5.open_hdf5(map_plain(path)[0]) as (file, source):
        found = hdf5.datasets(source, file)
        arrays = {name: hdf5.numbers(source, dataset) for name, dataset in found.items() if hdf5.is_numbers(dataset)}
        about = hdf5.attributes(source, file)
    return arrays, _about(about["about"]) if isinstance(about.get("about"), str) else about


def _read_safetensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """Read 8 bytes with the length of a JSON table, the table, then the numbers."""
    data = map_plain(path)[0]
    size = int.from_bytes(data[:8], "little")
    if len(data) < 8 or size > len(data) - 8:
        raise ValueError("it is truncated")
    table, body = json.loads(bytes(data[8 : 8 + size]), object_pairs_hook=_once_each), data[8 + size :]
    about = table.pop("__metadata__", {})
    arrays, total = {}, 0
    for name, row in table.items():
        begin, end = row["data_offsets"]
        if not 0 <= begin <= end <= len(body):
            raise ValueError(f"it is truncated inside {name!r}")
        total += end - begin
        if total > len(body):
            raise ValueError("its tensors lie on each other")
        if row["dtype"] == "BF16":
            values = (np.frombuffer(body[begin:end], "<u2").astype(np.uint32) << 16).view(np.float32)
        elif row["dtype"] in _SAFE:
            values = np.frombuffer(body[begin:end], _SAFE[row["dtype"]])
        else:
            raise ValueError(f"{name!r} has dtype {row['dtype']}")
        arrays[name] = values.reshape(row["shape"])
    return arrays, about


def _read_raw(path: Path) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    arrays = {}
    for line in read_plain(path / "contents.txt").decode("utf-8").splitlines():
        file, dtype, axes, *rest = line.split(" ")
        shape, name = [int(n) for n in rest[: int(axes)]], " ".join(rest[int(axes) :])
        if "/" in file or file.startswith("."):
            raise ValueError(f"{file!r} is outside of the folder")
        arrays[name] = np.frombuffer(map_plain(path / file)[0], "<" + dtype).reshape(shape)
    about = path / "about.json"
    return arrays, _about(read_plain(about).decode("utf-8")) if about.exists() else {}


def _about(text: str) -> dict[str, Any]:
    found = json.loads(text)
    return found if isinstance(found, dict) else {}
