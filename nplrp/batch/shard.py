"""Results of some images as one HDF5 file, written whole or not at all.

/                       attributes: job (its SHA-256), shard, sha256 (of everything below)
/images     [n]         names; /index [n] their places in the run; /file_sha256 [n] of the pictures' bytes
/output, /logits [n, classes]     of models whose output is a vector
/failed     [f]         names of images that couldn't be explained; /failed_index [f], /failed_because [f]
/maps/0, 1, ...         one for each composite, m maps, those of one image next to each other:
    image   [m]         the image's row; target [m] the explained output, or -1 for all of it
    relevance           [m, *input_shape] float32 or float64; or float16 times scale [m]; or "reduced": its sum over channels, [m, h, w]
    begun, arrived [m]  sums of the relevance that the pass began with and that arrived at the input
    sha256  [m]         of the relevance as it was computed, whatever is kept of it
    ledger/bias, ...    [m, layers] if asked for, from the output down
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from nplrp.batch.job import Job
from nplrp.errors import OutputError, WeightsError
from nplrp.explanation import Explanation
from nplrp.files import hdf5
from nplrp.files.sealed import SealError, opened_sealed, sealed_hdf5
from nplrp.layers import sums
from nplrp.ledger import SUMS
from nplrp.stream import Explained

#: What a file begins with (`nplrp.files.sealed`).
KIND, VERSION = "nplrp-shard", 1


@dataclass(frozen=True, eq=False)
class Row:
    """What is kept of one image: arrays by their names in the file, without the axis of images, or why there is nothing."""

    index: int
    image: str
    file_sha256: str
    arrays: Mapping[str, np.ndarray]
    maps: Sequence[Mapping[str, np.ndarray]]
    failed: str


def row_of(explained: Explained, job: Job) -> Row:
    """Return what a job keeps of one image."""
    image = str(explained.image)
    if explained.error is not None or explained.read is None:
        return Row(explained.index, image, "", {}, (), explained.reason)
    first = explained.explanations[0]
    vector = len(first.model.output_shape) == 1
    arrays = {"output": first.output[0].copy(), "logits": first.logits[0].copy()} if vector else {}
    maps = [_map_arrays(e, job) for e in explained.explanations]
    return Row(explained.index, image, explained.read.sha256, arrays, maps, "")


def _map_arrays(e: Explanation, job: Job) -> dict[str, np.ndarray]:
    R, count = e.relevance, len(e.relevance)
    arrays = {
        "target": np.full(count, -1, np.int64) if e.targets is None else np.asarray(e.targets, np.int64),
        "begun": e.begun,
        "arrived": sums(R),
        "sha256": np.array(map_hashes(R), "S64"),
    }
    arrays |= _kept(R, job.kept)
    if job.facts["ledger"] and not e.plan.composite.gradient:
        arrays |= {f"ledger/{term}": np.stack([getattr(entry, term) for entry in e.books.entries], axis=1) for term in SUMS}
    return arrays


def map_hashes(R: np.ndarray) -> list[str]:
    """Return the SHA-256 of every map's bits."""
    return [hashlib.sha256(np.ascontiguousarray(each).data).hexdigest() for each in R]


def _kept(R: np.ndarray, kept: str) -> dict[str, np.ndarray]:
    if kept == "reduced":
        return {"relevance": R.sum(axis=-1, dtype=np.float64).astype(np.float32) if R.ndim == 4 else R.astype(np.float32)}
    if kept == "float16":
        scale = np.abs(R).reshape(len(R), -1).max(axis=1).astype(np.float64)
        shape = (-1, *[1] * (R.ndim - 1))
        return {"relevance": (R / np.where(scale, scale, 1).reshape(shape)).astype(np.float16), "scale": scale}
    return {"relevance": R.copy()}


def shard_path(out: Path, shard: int) -> Path:
    """Return where a shard is written."""
    return out / "shards" / f"{shard:06}.h5"


def write_shard(out: Path, job: Job, shard: int, rows: Sequence[Row]) -> None:
    """Write a shard whole.

    Raises
    ------
    OutputError
        If it can't be written; nothing is left then.
    """
    arrays = _arrays(job, rows)
    try:
        shard_path(out, shard).parent.mkdir(exist_ok=True)
    except OSError as error:
        raise OutputError(f"{out}: can't be written: {error.strerror or error}") from error
    with sealed_hdf5(shard_path(out, shard), KIND, VERSION, track_order=True) as file:
        for name, array in arrays.items():
            file.create_dataset(name, data=array, dtype=h5py.string_dtype("utf-8") if array.dtype == object else None)
        file.attrs.update({"job": job.sha256, "shard": shard, "sha256": content_hash(arrays)})


def _arrays(job: Job, rows: Sequence[Row]) -> dict[str, np.ndarray]:
    rows = sorted(rows, key=lambda row: row.index)
    done, failed = [row for row in rows if not row.failed], [row for row in rows if row.failed]
    arrays: dict[str, np.ndarray] = {
        "images": _texts([row.image for row in done]),
        "index": np.array([row.index for row in done], np.int64),
        "file_sha256": np.array([row.file_sha256 for row in done], "S64"),
        "failed": _texts([row.image for row in failed]),
        "failed_index": np.array([row.index for row in failed], np.int64),
        "failed_because": _texts([row.failed for row in failed]),
    }
    for name in done[0].arrays if done else ():
        arrays[name] = np.stack([row.arrays[name] for row in done])
    for k in range(len(job.facts["composites"])) if done else ():
        counts = [len(row.maps[k]["target"]) for row in done]
        arrays[f"maps/{k}/image"] = np.repeat(np.arange(len(done)), counts)
        arrays |= {f"maps/{k}/{name}": np.concatenate([row.maps[k][name] for row in done]) for name in done[0].maps[k]}
    return arrays


def _texts(texts: Sequence[str]) -> np.ndarray:
    """Return texts as HDF5 takes them; what isn't UTF-8 in a file's name stands there as it is told by Python."""
    found = np.empty(len(texts), object)
    found[:] = [text.encode("utf-8", "backslashreplace").decode() for text in texts]
    return found


def content_hash(arrays: Mapping[str, np.ndarray]) -> str:
    """Hash names, types, shapes and numbers."""
    digest = hashlib.sha256()
    for name in sorted(arrays):
        array = arrays[name]
        content = "\0".join(array).encode() if array.dtype == object else np.ascontiguousarray(array).data.cast("B") if array.size else b""
        digest.update(f"{name} {'text' if array.dtype == object else array.dtype.str} {array.shape}\n".encode())
        digest.update(content)
    return digest.hexdigest()


class Shard:
    """A shard that is read; see the module for its arrays.

    Parameters
    ----------
    file : h5py.File
    source : hdf5.Source
    """

    def __init__(self, file: hdf5.Group, source: hdf5.Source) -> None:
        self._file, self._source = file, source

    def __getitem__(self, name: str) -> np.ndarray:
        dataset = self._dataset(name)
        return hdf5.numbers(self._source, dataset) if hdf5.is_numbers(dataset) else hdf5.texts(self._source, dataset)

    def _dataset(self, name: str) -> hdf5.Dataset:
        found = hdf5.child(self._source, self._file, name)
        if not isinstance(found, hdf5.Dataset):
            raise KeyError(f"there is no {name}")
        return found

    def names(self) -> list[str]:
        """Return the names of all arrays."""
        return list(hdf5.datasets(self._source, self._file))

    @property
    def failed(self) -> list[tuple[str, str]]:
        """Images that couldn't be explained, and why."""
        return list(zip(self["failed"], self["failed_because"], strict=True))

    def relevance(self, composite: int, maps: slice = slice(None)) -> np.ndarray:
        """Return a composite's maps [m, *shape] as they are kept, in float32 or float64."""
        R = hdf5.numbers(self._source, self._dataset(f"maps/{composite}/relevance"), maps)
        if R.dtype != np.float16:
            return R
        scale = self[f"maps/{composite}/scale"][maps]
        return R.astype(np.float32) * scale.reshape(-1, *[1] * (R.ndim - 1)).astype(np.float32)


@contextmanager
def open_shard(out: Path, job: Job, shard: int) -> Iterator[Shard]:
    """Open a shard to read it.

    Raises
    ------
    OutputError
        If it isn't there, is cut short or damaged, or belongs to another job.
    """
    path = shard_path(out, shard)
    if not path.exists():
        raise OutputError(f"{path}: isn't there yet; run nplrp batch again to go on")
    again = "remove it and run nplrp batch again"
    try:
        with opened_sealed(path, KIND, (VERSION,)) as (file, source):
            read = Shard(file, source)
            attributes = hdf5.attributes(source, file)
            if attributes.get("job") != job.sha256 or attributes.get("shard") != shard:
                raise OutputError(f"{path}: belongs to another run or another place; {again}")
            places = sorted([*read["index"].tolist(), *read["failed_index"].tolist()])
            if places != list(job.places(shard)):
                raise OutputError(f"{path}: holds other images than job.json says; {again}")
            yield read
    except (OSError, LookupError, ValueError, TypeError, RuntimeError, WeightsError) as error:
        reason = str(error) if isinstance(error, SealError) else f"can't be read: {' '.join(str(error).split())[:100]}"
        raise OutputError(f"{path}: {reason}; {again}") from None
