"""Read and write `.lrpgold.h5` files (docs/golden.md describes them).

They are sealed (`nplrp.files.sealed`).
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nplrp.errors import OutputError
from nplrp.files.hdf5 import path_name
from nplrp.files.sealed import SealError, check_seal, sealed_hdf5
from nplrp.golden.errors import GoldenError
from nplrp.golden.values import FORMAT, VERSIONS, Golden, GoldenLayer, Tensor

SUFFIX = ".lrpgold.h5"
SMALL = 1024
_KIND = "nplrp-golden"
#: Attributes that are JSON texts; the others are text or numbers.
_JSON = ("preprocessing", "targets", "layers", "runs", "env")
_STORAGE: dict[str, Any] = {"compression": "gzip", "shuffle": True, "fletcher32": True}
#: Of gzip: a full VGG16 takes a third of the time with level 1, and 4 % more space.
_LEVELS = {"full": 1, "digest": 9}


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
    """Read golden values and check every byte of them.

    Raises
    ------
    GoldenError
        If the file is missing, no golden file, of another version, truncated or changed; the message says which.
    """
    path = Path(path)
    try:
        check_seal(path, _KIND, VERSIONS)
        with h5py.File(path, "r") as file:
            golden = _load(file)
    except OSError as error:
        raise GoldenError(f"{path}: can't be read: {error.strerror or error}; record it with: nplrp golden record") from None
    except SealError as error:
        raise GoldenError(f"{path}: {error}; copy it again, or record it with: nplrp golden record") from None
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        raise GoldenError(f"{path}: isn't laid out as golden values are ({error}); record it again") from None
    found, stated = golden.content_sha256, golden.facts["content_sha256"]
    if found != stated:
        raise GoldenError(f"{path}: its content has SHA-256 {found}, but it states {stated}; it was changed: record it again")
    return golden


def _fill(file: h5py.File, golden: Golden) -> None:
    for key, value in golden.facts.items():
        file.attrs[key] = json.dumps(value, sort_keys=True) if key in _JSON else value
    for path, array in golden.arrays():
        plain = array.nbytes < SMALL  # a chunk's index would be larger than what packing saves
        file.create_dataset(path, data=array, **({} if plain else {**_STORAGE, "compression_opts": _LEVELS[golden.profile]}))
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


def _load(file: h5py.File) -> Golden:
    facts = {key: _fact(key, value) for key, value in file.attrs.items()}
    if facts.get("format") != FORMAT:
        raise ValueError(f"format is {facts.get('format')!r}")
    layers = tuple(_layer(file["layers"][path_name(row["name"])], facts) for row in facts["layers"])
    whole = file["input"][()] if "input" in file else None
    return Golden(facts, layers, whole, file["output"][()], file["logits"][()])


def _fact(key: str, value: Any) -> Any:
    if key in _JSON:
        return json.loads(value)
    return value.item() if isinstance(value, np.generic) else value


def _layer(group: h5py.Group, facts: dict[str, Any]) -> GoldenLayer:
    indices = group["indices"][()] if "indices" in group else None
    activation = _tensor(group, "activation", "activation_")
    relevance = _tensor(group, "relevance", "") if "relevance" in group else None
    ambiguous = None
    if "ambiguous" in group:
        ambiguous = np.unpackbits(group["ambiguous"][()], count=int(np.prod(activation.shape))).astype(bool).reshape(activation.shape)
    attributes = group.attrs
    count, texts = int(attributes["ambiguous_count"]), (attributes["name"], attributes["kind"], attributes["rule"])
    edges = {edge.attrs["name"]: _tensor(edge, "relevance", "") for edge in group["edges"].values()} if "edges" in group else {}
    return GoldenLayer(*texts, activation, relevance, indices, ambiguous, count, edges)


def _tensor(group: h5py.Group, name: str, prefix: str) -> Tensor:
    values, expected, certified = (group[path][()] for path in (name, f"{prefix}error_expected", f"{prefix}error_certified"))
    spread = group[f"{prefix}spread"][()] if f"{prefix}spread" in group else np.zeros((0, 2))
    undecided = np.zeros_like(expected) if prefix else group["undecided"][()]
    shape, sums = tuple(map(int, group.attrs[f"{name}_shape"])), [float(v) for v in group.attrs[f"{name}_sums"]]
    return Tensor(shape, values, expected, certified, undecided, spread, group.attrs[f"{name}_sha256"], (sums[0], sums[1], sums[2]))
