"""Write a run as ViRelAy reads it: the pictures, for each composite its maps, an analysis of them and a project, and the classes' names.

What ViRelAy 0.6 and CoRelAy 1.0 read was found out by running them. A row of every file is one map, so that an image that is explained
for three classes makes three rows. An analysis is a principal component analysis of the small maps, and k-means on it: what ViRelAy needs
to show anything, computed at once; CoRelAy's own analyses run on the same files.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from nplrp.batch.pictures import picture_of
from nplrp.batch.results import Map, Results
from nplrp.batch.shard import shard_path
from nplrp.batch.thumbnails import small_map
from nplrp.errors import OutputError
from nplrp.files.atomic import atomic_folder
from nplrp.images import takes_pictures

#: Longest side of the maps that are analysed, components that are kept, and numbers of clusters.
SIDE, COMPONENTS, CLUSTERS = 32, 8, (2, 4, 6, 8, 10)
#: Most maps whose numbers are written: beyond that ViRelAy, which reads them one by one, takes seconds for what it shows, and where there
#: are none it counts the rows, which is the same.
NUMBERED = 5000
#: Fewest maps of a class that are analysed on their own; all of them together are, in any case.
FEWEST = 3
_RESTARTS, _ROUNDS = 4, 100


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes
    ----------
    folder : Path
    projects : tuple of Path
        The files that ViRelAy opens.
    images, maps : int
        Of one composite.
    blank : int
        Rows whose picture is gone or has changed, which are grey.
    labelled : bool
        Whether the images' folders gave their true classes; else the dataset's labels are the predicted ones.
    """

    folder: Path
    projects: tuple[Path, ...]
    images: int
    maps: int
    blank: int
    labelled: bool


@dataclass(eq=False)
class _Rows:
    """What the rows of a composite's files are, beside maps."""

    places: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)
    small: list[np.ndarray] = field(default_factory=list)


def export(results: Results, out: Path, told: Callable[[int, int], None] | None = None) -> Exported:
    """Write a run, finished or not, as one project of ViRelAy for each composite.

    In memory is one map at a time, and 4 KB of every map for its analysis.

    Parameters
    ----------
    results : Results
    out : path
        A folder that is new or empty; it is there whole, or not at all.
    told : callable or None
        Called with (images done, images in all).

    Raises
    ------
    OutputError
        If there is nothing to write, or the folder can't be written.
    """
    job = results.job
    if not takes_pictures(job.facts["input_shape"]):
        raise OutputError(f"{results.folder}: is of arrays of shape {tuple(job.facts['input_shape'])}; ViRelAy shows pictures")
    there = [number for number in job.shards if shard_path(results.folder, number).exists()]
    if not there:
        raise OutputError(f"{results.folder}: no shard is there yet; run nplrp batch again to go on")
    with atomic_folder(out) as temporary:
        true = _true_classes(results)
        stems = _stems(job.composites)
        rows = [_Rows() for _ in stems]
        blank = 0
        with ExitStack() as stack:
            dataset = stack.enter_context(h5py.File(temporary / "dataset.h5", "w"))
            files = [stack.enter_context(h5py.File(temporary / f"{stem}.attribution.h5", "w")) for stem in stems]
            for number in there:
                with results.shard(number) as shard:
                    for found in results.maps_in(shard):
                        if found.composite == 0:
                            blank += _add_picture(results, dataset, found, true)
                        _add_map(results, files[found.composite], rows[found.composite], found)
                if told:
                    told(job.ends[number], len(job.images))
            if not rows[0].places:
                raise OutputError(f"{results.folder}: no image of this run could be explained; there is nothing to export")
            if len(rows[0].places) <= NUMBERED:
                for file, each in zip(files, rows, strict=True):
                    file["index"] = np.arange(len(each.places), dtype=np.uint32)
            if any(each.places != rows[0].places for each in rows):
                raise OutputError(f"{results.folder}: its composites have different numbers of maps; export runs of one composite")
            dataset.attrs["about"] = json.dumps(job.facts, sort_keys=True)
        labels = _label_map(results, rows)
        content = json.dumps(labels, indent=1, ensure_ascii=False).encode("utf-8", "backslashreplace")
        (temporary / "label-map.json").write_bytes(content)
        for stem, each, composite in zip(stems, rows, job.facts["composites"], strict=True):
            _write_analysis(temporary / f"{stem}.analysis.h5", each, {label["index"]: label["word_net_id"] for label in labels})
            each.small.clear()
            (temporary / f"{stem}.yaml").write_text(_project(results, stem, composite["name"]), "utf-8")
    projects = tuple(out / f"{stem}.yaml" for stem in stems)
    return Exported(out, projects, len(set(rows[0].places)), len(rows[0].places), blank, true is not None)


def _append(file: h5py.File, name: str, value: Any, kind: Any) -> None:
    """Put a row at the end of a dataset; large ones are read row by row."""
    array = np.asarray(value)
    if name not in file:
        chunk = (1 if array.size > 64 else 1024, *array.shape)
        file.create_dataset(name, shape=(0, *array.shape), maxshape=(None, *array.shape), dtype=kind, chunks=chunk)
    dataset = file[name]
    dataset.resize(len(dataset) + 1, axis=0)
    dataset[-1] = value


def _add_picture(results: Results, file: h5py.File, found: Map, true: Mapping[str, int] | None) -> bool:
    """Add a row to the dataset, and tell whether its picture is missing."""
    pixels = picture_of(results, found.index, found.file_sha256).pixels
    height, width, _ = results.job.facts["input_shape"]
    picture = np.full((height, width, 3), 128, np.uint8) if pixels is None else pixels
    label = _label(results, found, found.output) if true is None else true[_folder_name(results, found.index)]
    _append(file, "data", np.moveaxis(picture, -1, 0), np.uint8)
    _append(file, "label", label, np.uint32)
    _append(file, "name", found.image, h5py.string_dtype("utf-8"))
    return pixels is None


def _add_map(results: Results, file: h5py.File, rows: _Rows, found: Map) -> None:
    """Add a row to a composite's attributions."""
    scoring = results.naming.scoring
    prediction = np.array([found.begun]) if found.output is None else scoring.scores(found.output[None])[0]
    label = found.target if found.target >= 0 else _label(results, found, found.output)
    _append(file, "attribution", _three_channels(found.relevance), np.float32)
    _append(file, "prediction", prediction, np.float32)
    _append(file, "label", label, np.uint32)
    rows.places.append(found.index)
    rows.labels.append(label)
    rows.small.append(small_map(found.relevance, SIDE))


def _three_channels(relevance: np.ndarray) -> np.ndarray:
    """Return a map [3, h, w]; ViRelAy draws none of one channel, so that stands in the first, and the sums are the same."""
    channels = relevance[..., None] if relevance.ndim == 2 else relevance
    found = np.zeros((3, *channels.shape[:2]), np.float32)
    found[: channels.shape[2]] = np.moveaxis(channels, -1, 0)
    return found


def _label(results: Results, found: Map, output: np.ndarray | None) -> int:
    """Return the predicted class; of outputs that are no vector, which have none, the number after all of theirs."""
    scoring = results.naming.scoring
    return scoring.classes if output is None else int(np.argmax(scoring.scores(output[None])[0]))


def _folder_name(results: Results, index: int) -> str:
    return Path(results.job.images[index]).parent.name


def _true_classes(results: Results) -> dict[str, int] | None:
    """Return the classes by the names of the images' folders, if all of them are called as classes are, by id or by name."""
    if len(results.naming.scoring.shape) != 1:
        return None
    known: dict[str, int] = {}
    for unit, (id_, name) in enumerate(results.naming.classes):
        known.setdefault(id_, unit)
        known.setdefault(name, unit)
    folders = {_folder_name(results, index) for index in range(len(results.job.images))}
    return {folder: known[folder] for folder in folders} if folders <= known.keys() else None


def _label_map(results: Results, rows: Sequence[_Rows]) -> list[dict[str, Any]]:
    """Return what ViRelAy calls the classes; of outputs that are no vector those that occur."""
    naming = results.naming
    whole = naming.scoring.classes
    if len(naming.scoring.shape) == 1:
        classes = [(unit, id_, name) for unit, (id_, name) in enumerate(naming.classes)]
    else:
        used = sorted({label for each in rows for label in each.labels} | {whole})
        classes = [(unit, *(("all", "all outputs") if unit == whole else naming.label(unit, 0.0)[1:3])) for unit in used]
    ids = [id_ for _, id_, _ in classes]
    # An analysis is a group of HDF5 that is called like its class.
    fit = len(set(ids)) == len(ids) and all(id_ and "/" not in id_ and "\0" not in id_ and id_ not in (".", "..", _ALL) for id_ in ids)
    return [{"index": unit, "word_net_id": id_ if fit else f"{unit:08}", "name": name.replace("_", " ")} for unit, id_, name in classes]


#: What the analysis of all maps together is called.
_ALL = "all-maps"


def _write_analysis(path: Path, rows: _Rows, ids: Mapping[int, str]) -> None:
    labels = np.array(rows.labels)
    groups = {_ALL: np.arange(len(labels))}
    for label in np.unique(labels):
        places = np.flatnonzero(labels == label)
        if FEWEST <= len(places) < len(labels):
            groups[ids[int(label)]] = places
    maps = np.stack([each.ravel() for each in rows.small])
    sizes = np.abs(maps).sum(axis=1, keepdims=True)
    maps /= np.where(sizes > 0, sizes, 1)
    with h5py.File(path, "w") as file:
        for name, places in groups.items():
            embedding, variances = components(maps[places], COMPONENTS)
            group = file.create_group(name)
            group["index"] = places.astype(np.uint32)
            group["embedding/pca"] = embedding.astype(np.float32)
            # ViRelAy draws the last of them first.
            group["embedding/pca"].attrs["eigenvalue"] = variances[::-1].astype(np.float32)
            for k in CLUSTERS:
                cluster = group.create_dataset(f"cluster/kmeans-{k:02}", data=clusters(embedding, k).astype(np.uint32))
                cluster.attrs.update({"embedding": "pca", "k": k, "index": np.arange(embedding.shape[1], dtype=np.uint32)})


def components(x: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return principal components.

    Parameters
    ----------
    x : ndarray [n, d]
    count : int

    Returns
    -------
    (ndarray [n, count], ndarray [count])
        The rows' coordinates and the variances along them, largest first; 0 where there are no more. Signs are such that the largest
        magnitude of each is positive.
    """
    centred = x.astype(np.float64) - x.mean(axis=0, dtype=np.float64)
    if len(x) <= x.shape[1]:
        values, left = np.linalg.eigh(centred @ centred.T)
        found = left * np.sqrt(values.clip(0))
    else:
        values, axes = np.linalg.eigh(centred.T @ centred)
        found = centred @ axes
    found, values = found[:, ::-1][:, :count], values[::-1][:count].clip(0) / len(x)
    largest = found[np.abs(found).argmax(axis=0), np.arange(found.shape[1])]
    missing = count - found.shape[1]
    return np.pad(found * np.where(largest < 0, -1, 1), ((0, 0), (0, missing))), np.pad(values, (0, missing))


def clusters(x: np.ndarray, k: int) -> np.ndarray:
    """Return the cluster of every row by k-means, the largest cluster first; the same rows give the same clusters.

    Lloyd's algorithm from centres spread as k-means++ does (Arthur and Vassilvitskii 2007), the best of four.

    Parameters
    ----------
    x : ndarray [n, d]
    k : int
        There are fewer if there are fewer rows that differ.
    """
    rng = np.random.default_rng(0)
    best, least = np.zeros(len(x), np.int64), math.inf
    for _ in range(_RESTARTS):
        centres = _spread(x, k, rng)
        label = np.full(len(x), -1)
        for _ in range(_ROUNDS):
            distance = ((x**2).sum(axis=1)[:, None] - 2 * x @ centres.T + (centres**2).sum(axis=1)).clip(0)
            found = distance.argmin(axis=1)
            if (found == label).all():
                break
            label = found
            counts = np.bincount(label, minlength=len(centres))
            sums = np.stack([np.bincount(label, each, len(centres)) for each in x.T], axis=1)
            centres = np.where(counts[:, None] > 0, sums / np.maximum(counts, 1)[:, None], centres)
        total = float(((x - centres[label]) ** 2).sum())
        if total < least:
            best, least = label, total
    order = np.argsort(-np.bincount(best, minlength=k), kind="stable")
    return np.argsort(order)[best]


def _spread(x: np.ndarray, k: int, rng: np.random.Generator) -> np.ndarray:
    """Return up to k rows, each chosen with a chance that grows with its squared distance to those before."""
    chosen = [x[rng.integers(len(x))]]
    distance = ((x - chosen[0]) ** 2).sum(axis=1)
    while len(chosen) < k and distance.sum() > 0:
        chosen.append(x[rng.choice(len(x), p=distance / distance.sum())])
        distance = np.minimum(distance, ((x - chosen[-1]) ** 2).sum(axis=1))
    return np.stack(chosen)


def _project(results: Results, stem: str, composite: str) -> str:
    """Return a project file."""
    facts = results.job.facts
    height, width, _ = facts["input_shape"]
    run = results.folder.resolve().name
    name = f"{facts['model']}, {composite} ({run})"  # ViRelAy takes projects of one name for one project
    strategy = "predicted_label" if facts["target"] is None else f"target {facts['target']}"
    lines = [
        "project:",
        f"  name: {_yaml(name)}",
        f"  model: {_yaml(facts['model'])}",
        "  label_map: label-map.json",
        "  dataset:",
        f"    name: {_yaml(run)}",
        "    type: hdf5",
        "    path: dataset.h5",
        f"    input_width: {width}",
        f"    input_height: {height}",
        "    down_sampling_method: none",
        "    up_sampling_method: none",
        "  attributions:",
        f"    attribution_method: {_yaml(composite)}",
        f"    attribution_strategy: {_yaml(strategy)}",
        "    sources:",
        f"      - {_yaml(stem + '.attribution.h5')}",
        "  analyses:",
        "    - analysis_method: pca",
        "      sources:",
        f"        - {_yaml(stem + '.analysis.h5')}",
    ]
    return "\n".join(lines) + "\n"


def _yaml(text: str) -> str:
    """Return a text between double quotes, in ASCII."""
    return '"' + "".join(each if " " <= each <= "~" and each not in '"\\' else f"\\U{ord(each):08x}" for each in _plain(text)) + '"'


def _plain(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _stems(names: Sequence[str]) -> list[str]:
    """Return what composites' files are called, each another name."""
    found: list[str] = []
    for name in names:
        stem = "".join(each if each.isascii() and (each.isalnum() or each in "-_.") else "_" for each in name)[:80].lstrip(".")
        stem = stem or "composite"
        found.append(stem if stem not in found else f"{stem}-{len(found) + 1}")
    return found
