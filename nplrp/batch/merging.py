"""Put the shards of a run together into one file, having checked every one; compute some again to see that the bits are the same."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np

from nplrp.batch.results import Results
from nplrp.batch.shard import map_hashes
from nplrp.errors import ImageError, NplrpError
from nplrp.files.sealed import written_hdf5
from nplrp.model import Model
from nplrp.stream import Wanted, stream

#: Called with (done, in all).
Told = Callable[[int, int], None]


def merge(results: Results, path: Path, told: Told | None = None) -> list[tuple[str, str]]:
    """Write all results of a run to one HDF5 file, in the order of its images, and return what failed.

    The file has the arrays of a shard (`nplrp.batch.shard`) over all images, ``maps/<k>/image`` counting these; ``about`` is the job.

    Parameters
    ----------
    results : Results
    path : path
        What stood there before stays if anything goes wrong.
    told : callable or None

    Raises
    ------
    OutputError
        If a shard is missing, or its arrays aren't those that were written.
    """
    results.check_complete()
    job = results.job
    with written_hdf5(path, track_order=True) as file:
        file.attrs.update({"format": "nplrp merged 1", "about": json.dumps(job.facts, sort_keys=True)})
        images = 0
        for number in job.shards:
            with results.shard(number) as shard:
                count = len(shard["images"])
                for name in shard.names():
                    array = shard[name]
                    _append(file, name, array + images if name.startswith("maps/") and name.endswith("/image") else array)
                images += count
            if told:
                told(number + 1, len(job.ends))
    return results.failed()


def _append(file: h5py.File, name: str, array: np.ndarray) -> None:
    """Put an array at the end of a dataset that grows."""
    if name not in file:
        text = array.dtype == object
        chunk = (max(1, min(len(array), 2**20 // max(math.prod(array.shape[1:]) * array.dtype.itemsize, 1))), *array.shape[1:])
        kind = h5py.string_dtype("utf-8") if text else array.dtype
        file.create_dataset(name, shape=(0, *array.shape[1:]), maxshape=(None, *array.shape[1:]), dtype=kind, chunks=chunk)
    dataset = file[name]
    dataset.resize(len(dataset) + len(array), axis=0)
    if len(array):
        dataset[-len(array) :] = array


def verify(
    results: Results, model: Model, share: float, seed: int | None = None, wanted: Wanted | None = None, told: Told | None = None
) -> tuple[int, list[str]]:
    """Compute a random share of the images again and compare the bits of every map.

    Parameters
    ----------
    results : Results
    model : Model
        That of the run.
    share : float
        Of the images, 0 to 1; one image at least.
    seed : int or None
        None: other images each time.
    wanted : Wanted or None
        None: as the job says.
    told : callable or None

    Returns
    -------
    (int, list of str)
        How many images were computed again, and a line for each that isn't as it was.

    Raises
    ------
    ModelError
        If the model is another one.
    """
    model = results.model_of_run(model)
    known: dict[int, tuple[str, str, list[str]]] = {}
    for number in results.job.shards:
        with results.shard(number) as shard:
            rows, hashes, images = shard["index"].tolist(), shard["file_sha256"].astype(str), shard["images"]
            maps: list[list[str]] = [[] for _ in rows]
            for k in range(len(results.job.composites)) if rows else ():
                for row, sha256 in zip(shard[f"maps/{k}/image"], shard[f"maps/{k}/sha256"].astype(str), strict=True):
                    maps[row].append(str(sha256))
            known |= {index: (str(images[i]), str(hashes[i]), maps[i]) for i, index in enumerate(rows)}
    if not known:
        return 0, []
    count = min(max(math.ceil(share * len(known)), 1), len(known))
    chosen = sorted(np.random.default_rng(seed).choice(sorted(known), count, replace=False).tolist())
    pictures, other = [results.job.images[index] for index in chosen], []
    for done, each in enumerate(stream(pictures, model, wanted or results.wanted()), 1):
        name, file_sha256, maps_there = known[chosen[each.index]]
        if each.read is not None and each.read.sha256 != file_sha256:
            other.append(f"{name}: the picture has changed since")
        elif each.error is not None:
            changed = "can't be read any more" if isinstance(each.error, ImageError) else "can't be explained any more"
            other.append(f"{name}: {changed}: {each.reason}")
        elif [sha256 for e in each.explanations for sha256 in map_hashes(e.relevance)] != maps_there:
            other.append(f"{name}: computed again, its relevance has other bits")
        if told:
            told(done, count)
    return count, other


def share_of(text: str) -> float:
    """Read a share of the images such as ``1%`` or ``0.01``.

    Raises
    ------
    NplrpError
    """
    percent = text.strip().endswith("%")
    try:
        value = float(text.strip().removesuffix("%")) / (100 if percent else 1)
    except ValueError:
        value = math.nan
    if not 0 < value <= 1:
        raise NplrpError(f"--verify {text}: expected a share of the images such as 1% or 0.01")
    return value
