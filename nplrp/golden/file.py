"""Read and write `.lrpgold.h5` files (docs/golden.md describes them).

They are sealed (`nplrp.files.sealed`).
"""

from __future__ import annotations

import json
import math
import os
import re
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nplrp.errors import OutputError, WeightsError, brief
from nplrp.files import hdf5
from nplrp.files.hdf5 import path_name
from nplrp.files.packing import write_packed
from nplrp.files.plain import read_plain
from nplrp.files.sealed import SealError, digest_of, opened_sealed, sealed_hdf5
from nplrp.golden.errors import GoldenError
from nplrp.golden.values import FORMAT, PROFILES, VERSIONS, Golden, GoldenLayer, Scales, Tensor

SUFFIX = ".lrpgold.h5"
_KIND = "nplrp-golden"
#: Attributes that are JSON texts; the others are text or numbers.
_JSON = ("preprocessing", "targets", "layers", "runs", "env")
#: Attributes that there have to be, and their types.
_FACTS: dict[str, Any] = {
    **dict.fromkeys(("content_sha256", "weights_sha256", "input_sha256", "profile", "composite", "dialect", "start"), str),
    **{"format_version": int, "layers": list, "runs": list, "targets": list | None, "env": dict, "preprocessing": dict},
}


def write(golden: Golden, path: str | os.PathLike[str]) -> None:
    """Write golden values: the whole file or nothing.

    Raises
    ------
    OutputError
        If the name doesn't end in ``.lrpgold.h5`` or the file can't be written.
    """
    path = Path(path)
    if not path.name.endswith(SUFFIX):
        raise OutputError(f"{path}: golden files are called NAME{SUFFIX}; give a name that ends so")
    with sealed_hdf5(path, _KIND, golden.facts["format_version"], libver=("v110", "v110")) as file:
        _fill(file, golden)


def read(path: str | os.PathLike[str]) -> Golden:
    """Read golden values and check every byte of them, and that they are what the file states.

    Raises
    ------
    GoldenError
        If the file is missing, no golden file, of another version, truncated or changed; the message says which.
    """
    golden = read_sealed(path)
    check_content(golden, path)
    return golden


def read_sealed(path: str | os.PathLike[str]) -> Golden:
    """Read golden values and check every byte of them; `check_content` is left to the caller, who may do it meanwhile.

    Raises
    ------
    GoldenError
        If the file is missing, no golden file, of another version, truncated or changed; the message says which.
    """
    path = Path(path)
    try:
        with opened_sealed(path, _KIND, VERSIONS) as (file, source):
            return _Reader(source, file).golden()
    except OSError as error:
        raise GoldenError(f"{path}: can't be read: {error.strerror or error}; record it with: nplrp golden record") from None
    except SealError as error:
        raise GoldenError(f"{path}: {error}; copy it again, or record it with: nplrp golden record") from None
    except WeightsError as error:
        raise GoldenError(f"{path}: isn't laid out as golden values are ({error}); record it again") from None


def check_content(golden: Golden, path: str | os.PathLike[str]) -> None:
    """Refuse golden values whose hash isn't the one that they state.

    Raises
    ------
    GoldenError
    """
    found, stated = golden.content_sha256, golden.facts["content_sha256"]
    if found != stated:
        raise GoldenError(f"{path}: its content has SHA-256 {found}, but it states {stated}; it was changed: record it again")


def digest(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a golden file as it is, to be kept elsewhere: whoever changes the file can seal it anew.

    Raises
    ------
    GoldenError
        If it can't be read.
    """
    try:
        return digest_of(path)
    except OSError as error:
        raise GoldenError(f"{path}: can't be read: {error.strerror or error}") from None


def check_digest(path: str | os.PathLike[str], expected: str) -> None:
    """Refuse a golden file that isn't the one a digest was taken of.

    Parameters
    ----------
    path : path
    expected : str
        64 hexadecimal digits, or a file that begins with them, as ``golden show --digest`` prints them.

    Raises
    ------
    GoldenError
    """
    wanted = expected.strip().lower()
    if re.fullmatch(r"[0-9a-f]{64}", wanted) is None:
        try:
            wanted = read_plain(expected, 1 << 20).decode("utf-8").partition(" ")[0].strip().lower()
        except (OSError, ValueError) as error:
            raise GoldenError(f"--digest {expected}: expected 64 hexadecimal digits or a file of them ({error})") from None
        if re.fullmatch(r"[0-9a-f]{64}", wanted) is None:
            raise GoldenError(f"--digest {expected}: the file doesn't begin with 64 hexadecimal digits; make it with golden show --digest")
    found = digest(path)
    if found != wanted:
        raise GoldenError(f"{path}: has SHA-256 {found}, expected {wanted}; it isn't the file that the digest was taken of")


def _fill(file: h5py.File, golden: Golden) -> None:
    for key, value in golden.facts.items():
        file.attrs[key] = json.dumps(value, sort_keys=True) if key in _JSON else value
    write_packed(file, golden.arrays())
    relevances = file.create_group("layerwise_relevances")
    for layer in golden.layers:
        group = file["layers"][path_name(layer.name)]
        facts = {"name": layer.name, "kind": layer.kind, "rule": layer.rule, "ambiguous_count": layer.ambiguous_count}
        for tensor, name in ((layer.activation, "activation"), (layer.relevance, "relevance")):
            if tensor is not None:
                facts |= {f"{name}_sha256": tensor.sha256, f"{name}_sums": tensor.sums, f"{name}_shape": tensor.shape}
        for key, value in facts.items():
            group.attrs[key] = value
        for name, edge in layer.edges.items():
            of_edge = group["edges"][path_name(name)]
            told = {"name": name, "relevance_sha256": edge.sha256, "relevance_sums": edge.sums, "relevance_shape": edge.shape}
            for key, value in told.items():
                of_edge.attrs[key] = value
        if layer.relevance is not None:
            relevances[path_name(layer.name)] = group["relevance"]
    if "input" in golden.names and golden["input"].relevance is not None:
        file["attribution"] = file["layers/input/relevance"]


class _Reader:
    """Reads golden values; what isn't there, or is of another type or shape, is a WeightsError."""

    def __init__(self, source: hdf5.Source, file: hdf5.Group) -> None:
        self._source, self._file = source, file

    def golden(self) -> Golden:
        facts = {key: self._fact(key, value) for key, value in hdf5.attributes(self._source, self._file).items()}
        if facts.get("format") != FORMAT:
            raise WeightsError(f"format is {brief(facts.get('format'))}")
        for key, kind in _FACTS.items():
            if not isinstance(facts.get(key), kind):
                raise WeightsError(f"attribute {key!r} is {brief(facts.get(key))}")
        if facts["profile"] not in PROFILES:
            raise WeightsError(f"its profile is {brief(facts['profile'])}")
        rows = facts["layers"]
        if not all(isinstance(row, dict) and isinstance(row.get("name"), str) for row in rows):
            raise WeightsError("attribute 'layers' holds entries without a name")
        layers = tuple(self._layer(self._group(self._file, f"layers/{path_name(row['name'])}")) for row in rows)
        return Golden(
            facts, layers, self._array(self._file, "input", False), self._array(self._file, "output"), self._array(self._file, "logits")
        )

    def _fact(self, key: str, value: Any) -> Any:
        if key not in _JSON:
            return value
        if not isinstance(value, str):
            raise WeightsError(f"attribute {key!r} is no text")
        return json.loads(value)

    def _group(self, group: hdf5.Group, path: str) -> hdf5.Group:
        found = hdf5.child(self._source, group, path)
        if not isinstance(found, hdf5.Group):
            raise WeightsError(f"{group.name}/{path} is missing")
        return found

    def _array(self, group: hdf5.Group, name: str, needed: bool = True) -> Any:
        """Return an array of numbers; None if it isn't there and needn't be."""
        found = hdf5.child(self._source, group, name)
        if found is None and not needed:
            return None
        if not isinstance(found, hdf5.Dataset):
            raise WeightsError(f"{group.name}/{name} is missing")
        return hdf5.numbers(self._source, found)

    def _attribute(self, group: hdf5.Group, name: str, kind: type) -> Any:
        value = hdf5.attribute(self._source, group, name)
        if value is None:
            raise WeightsError(f"{group.name}/{name} is missing")
        if not isinstance(value, kind):
            raise WeightsError(f"attribute {name!r} of {group.name!r} is {brief(value)}")
        return value

    def _layer(self, group: hdf5.Group) -> GoldenLayer:
        activation = self._tensor(group, "activation", "activation_")
        relevance = self._tensor(group, "relevance", "") if hdf5.child(self._source, group, "relevance") is not None else None
        ambiguous = self._array(group, "ambiguous", needed=False)
        if ambiguous is not None:
            count = math.prod(activation.shape)
            if ambiguous.dtype != np.uint8 or ambiguous.shape != (-(-count // 8),):
                raise WeightsError(f"{group.name}/ambiguous doesn't have a bit for each of {count} units")
            ambiguous = np.unpackbits(ambiguous, count=count).astype(bool).reshape(activation.shape)
        name, kind, rule = (self._attribute(group, each, str) for each in ("name", "kind", "rule"))
        count = self._attribute(group, "ambiguous_count", int)
        edges: dict[str, Tensor] = {}
        if hdf5.child(self._source, group, "edges") is not None:
            above = self._group(group, "edges")
            for path in hdf5.members(self._source, above):
                edge = self._group(above, path)
                edges[self._attribute(edge, "name", str)] = self._tensor(edge, "relevance", "")
        indices = self._array(group, "indices", needed=False)
        return GoldenLayer(name, kind, rule, activation, relevance, indices, ambiguous, count, edges)

    def _tensor(self, group: hdf5.Group, name: str, prefix: str) -> Tensor:
        values, expected, certified = (self._array(group, path) for path in (name, f"{prefix}error_expected", f"{prefix}error_certified"))
        spread = self._array(group, f"{prefix}spread", needed=False)
        undecided = np.zeros_like(expected) if prefix else self._array(group, "undecided")
        shape = tuple(map(int, self._attribute(group, f"{name}_shape", np.ndarray)))
        sums = [float(v) for v in self._attribute(group, f"{name}_sums", np.ndarray)]
        if min(shape, default=1) < 0 or len(sums) != 3 or not expected.shape == certified.shape == undecided.shape == values.shape:
            raise WeightsError(f"{group.name}/{name} and its bounds have shapes that don't fit together")
        sha256 = self._attribute(group, f"{name}_sha256", str)
        shifts = self._array(group, f"{prefix}shifts", needed=False)
        return Tensor(
            shape,
            values,
            expected,
            certified,
            undecided,
            np.zeros((0, 2)) if spread is None else spread,
            sha256,
            (sums[0], sums[1], sums[2]),
            self._scales(group, prefix, shape),
            np.zeros((0, 2)) if shifts is None else shifts,
        )

    def _scales(self, group: hdf5.Group, prefix: str, shape: tuple[int, ...]) -> Scales | None:
        layer, channels = (self._array(group, f"{prefix}{name}", needed=False) for name in ("scales", "channel_scales"))
        if layer is None:
            return None
        channels = np.zeros((0, 2)) if channels is None else channels
        if layer.shape != (6,) or channels.shape not in ((0, 2), (*shape[-1:], 2)):
            raise WeightsError(f"{group.name}/{prefix}scales has a shape that doesn't fit")
        return Scales(layer, channels)
