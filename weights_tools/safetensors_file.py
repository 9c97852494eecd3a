"""Read a safetensors file: a length, a JSON header that says where each tensor lies, then the tensors themselves."""

from __future__ import annotations

import itertools
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import WeightsError, brief, brief_reason
from nplrp.files.plain import map_plain, open_plain

#: Their types -> ours; bfloat16 is the upper half of a float32.
DTYPES = MappingProxyType(
    {"F16": "<f2", "F32": "<f4", "F64": "<f8", "BF16": "<u2", "I8": "i1", "I16": "<i2", "I32": "<i4", "I64": "<i8", "U8": "u1", "BOOL": "?"}
)
MAX_HEADER = 100 << 20


def is_safetensors(path: Path) -> bool:
    """Tell whether a file is one, by its name or by how it begins."""
    try:
        with open_plain(path) as file:
            return path.suffix == ".safetensors" or file.read(10)[8:] == b'{"'
    except OSError:
        return path.suffix == ".safetensors"


def read_safetensors(path: str | os.PathLike[str]) -> Mapping[str, np.ndarray]:
    """Read all tensors, in the order in which they lie in the file.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or a tensor is of a type that NumPy doesn't have.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path}: there is no such file, expected safetensors")
    try:
        data = map_plain(path)[0]
        size = int.from_bytes(data[:8], "little")
        if not 2 <= size <= min(MAX_HEADER, len(data) - 8):
            raise ValueError(f"its header should have {size} bytes, the file has {len(data)}")
        header = json.loads(bytes(data[8 : 8 + size]), object_pairs_hook=_once)
        if not isinstance(header, dict):
            raise ValueError(f"its header is a {type(header).__name__}, expected names with tensors")
        header.pop("__metadata__", None)
        rows = sorted(((name, *_row(name, row, len(data) - 8 - size)) for name, row in header.items()), key=lambda row: row[3:])
        for (one, _, _, _, end), (other, _, _, start, stop) in itertools.pairwise(rows):
            if start < end and start < stop:
                raise ValueError(f"tensors {brief(one)} and {brief(other)} lie on each other")
        return {row[0]: _tensor(*row, data[8 + size :]) for row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors: {brief_reason(error)}; save it again, in float32") from error


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("its header has a name twice")
    return found


def _row(name: str, row: Any, size: int) -> tuple[str, list[int], int, int]:
    """Return a tensor's type, shape, and where it lies in the data of so many bytes."""
    if not isinstance(row, dict) or not {"dtype", "shape", "data_offsets"} <= row.keys():
        raise ValueError(f"tensor {brief(name)} has no dtype, shape and data_offsets")
    kind, shape, place = row["dtype"], row["shape"], row["data_offsets"]
    if not isinstance(kind, str) or kind not in DTYPES:
        raise ValueError(f"tensor {brief(name)} has type {str(kind)[:40]}, known are {', '.join(DTYPES)}")
    lists = isinstance(shape, list) and isinstance(place, list) and len(place) == 2
    if not lists or not all(type(each) is int and each >= 0 for each in (*shape, *place)):
        raise ValueError(f"tensor {brief(name)} has shape {brief(shape)} at {brief(place)}, expected whole numbers")
    if place[1] > size:
        raise ValueError(f"tensor {brief(name)} lies at {place[0]} to {brief(place[1])} of {size} bytes; the file was cut off")
    if math.prod(shape) * np.dtype(DTYPES[kind]).itemsize != place[1] - place[0]:
        raise ValueError(f"tensor {brief(name)} of shape {brief(shape)} and type {kind} has {place[1] - place[0]} bytes")
    return kind, shape, place[0], place[1]


def _tensor(_: str, kind: str, shape: list[int], start: int, end: int, data: memoryview) -> np.ndarray:
    values = np.frombuffer(data[start:end], DTYPES[kind])
    return ((values.astype("<u4") << 16).view("<f4") if kind == "BF16" else values).reshape(shape)
