"""Read a safetensors file: a length, a JSON header that says where each tensor lies, then the tensors themselves."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import WeightsError
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
        header = json.loads(bytes(data[8 : 8 + size]))
        header.pop("__metadata__", None)
        rows = sorted(header.items(), key=lambda row: row[1]["data_offsets"])
        return {name: _tensor(name, row, data[8 + size :]) for name, row in rows}
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise WeightsError(f"{path}: can't be read as safetensors: {error}; save it again, in float32") from error


def _tensor(name: str, row: Mapping[str, Any], data: memoryview) -> np.ndarray:
    kind, shape, (start, end) = row["dtype"], row["shape"], row["data_offsets"]
    if kind not in DTYPES:
        raise ValueError(f"tensor {name!r} has type {kind}, known are {', '.join(DTYPES)}")
    dtype = np.dtype(DTYPES[kind])
    if not all(type(side) is int and side >= 0 for side in [*shape, start, end]) or end > len(data):
        raise ValueError(f"tensor {name!r} lies at {start} to {end} of {len(data)} bytes; the file was cut off")
    if math.prod(shape) * dtype.itemsize != end - start:
        raise ValueError(f"tensor {name!r} of shape {shape} and type {kind} has {end - start} bytes")
    values = np.frombuffer(data[start:end], dtype)
    return ((values.astype("<u4") << 16).view("<f4") if kind == "BF16" else values).reshape(shape)
