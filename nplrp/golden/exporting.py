"""Golden values as files that need neither HDF5 nor Python: .npz, or a folder of raw arrays with a table of contents."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from nplrp.errors import OutputError
from nplrp.files.atomic import atomic
from nplrp.golden.diagnosis import plan_of
from nplrp.golden.errors import GoldenError
from nplrp.golden.recording import check_weights
from nplrp.golden.values import Golden, path_name
from nplrp.model import Model
from nplrp.plan import make_steps

FORMATS = ("npz", "raw")


def export(golden: Golden, path: str | os.PathLike[str], model: Model | None = None, to: str = "npz", dtype: str = "float64") -> None:
    """Write a golden run's arrays for another language.

    Parameters
    ----------
    golden : Golden
    path : path
        ``"npz"``: a file; ``"raw"``: a new or empty folder.
    model : Model or None
        Also write its weights, as ``weights/<layer>/kernel`` and ``bias``; and where a batch norm is merged into a layer, that layer's as
        LRP sees them, as ``merged/<layer>/kernel`` and ``bias``.
    to : "npz" or "raw"
    dtype : "float64" or "float32"
        Of activations and relevances; error bounds are always float32.

    Raises
    ------
    ProvenanceError
        If the model has other weights than the recorded ones.
    GoldenError
        If there is no such format or dtype.
    OutputError
        If it can't be written.
    """
    if to not in FORMATS or dtype not in ("float64", "float32"):
        raise GoldenError(f"there is no export to {to!r} in {dtype!r}; expected {' or '.join(FORMATS)}, and float64 or float32")
    if model is not None:
        check_weights(golden, model)
    arrays = dict(_arrays(golden, model, np.dtype(dtype)))
    (write_npz if to == "npz" else write_raw)(arrays, Path(path), golden)


def write_npz(arrays: dict[str, np.ndarray], path: Path, golden: Golden) -> None:
    """Write arrays by name, and the provenance as JSON under ``about``."""
    with atomic(path) as temporary, temporary.open("wb") as file:
        np.savez(file, about=np.array(json.dumps(dict(golden.facts), sort_keys=True)), **arrays)  # type: ignore[arg-type]


def write_raw(arrays: dict[str, np.ndarray], folder: Path, golden: Golden) -> None:
    """Write each array as little-endian numbers in C order, ``contents.txt`` with a line for each, and the provenance as JSON.

    A line of ``contents.txt``: file name, dtype (f4, f8, u4 ...), number of axes, lengths of the axes, name of the array; by blanks.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise OutputError(f"{folder}: the folder isn't empty; give a new one")
        lines = []
        for number, (name, array) in enumerate(arrays.items()):
            file = f"{number:04d}.bin"
            little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            (folder / file).write_bytes(little.tobytes())
            lines.append(" ".join([file, little.dtype.str[1:], str(little.ndim), *map(str, little.shape), name]))
        (folder / "about.json").write_text(json.dumps(dict(golden.facts), sort_keys=True, indent=1) + "\n", "utf-8")
        (folder / "contents.txt").write_text("\n".join(lines) + "\n", "utf-8")  # last: it vouches for the rest
    except OSError as error:
        raise OutputError(f"{folder}: can't be written: {error.strerror or error}; choose another place") from error


def _arrays(golden: Golden, model: Model | None, dtype: np.dtype) -> Iterator[tuple[str, np.ndarray]]:
    for name, array in golden.arrays():
        yield name, array.astype(dtype) if array.dtype == np.float64 and not name.endswith("spread") else array
    for layer in model or ():
        for key, array in layer.arrays.items():
            yield f"weights/{path_name(layer.name)}/{key}", np.asarray(array)
    if model is not None and any(row.get("merged") for row in golden.facts["layers"]):
        steps, own = plan_of(golden, model).steps, make_steps(model, np.dtype("float64"), "direct", merge=False)
        for step, unmerged in zip(steps, own, strict=True):
            if step.weight is None or step.bias is None or unmerged.weight is None or unmerged.bias is None:
                continue
            same = np.array_equal(step.weight, unmerged.weight) and np.array_equal(step.bias, unmerged.bias)
            if not same:
                kernel = model[step.name].arrays.get("kernel", step.weight)
                yield f"merged/{path_name(step.name)}/kernel", step.weight.reshape(kernel.shape).astype(dtype)
                yield f"merged/{path_name(step.name)}/bias", step.bias.astype(dtype)
