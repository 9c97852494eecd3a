"""Look at a run: one page that needs nothing beside itself, and one sheet of thumbnails.

The shards are read once, map by map. In memory are, besides one map: two numbers of every map, one mean map at the size of a thumbnail of
every class (50 KB), the thumbnails that are shown (about 50 KB an image), and what the page says of images, up to `ROWS`.
"""

from __future__ import annotations

import base64
import hashlib
import html
import itertools
import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from nplrp import __version__
from nplrp.batch.pictures import picture_of
from nplrp.batch.results import Map, Results
from nplrp.batch.shard import shard_path
from nplrp.batch.thumbnails import Cell, contact_sheet, map_png, picture_jpeg, small_map, small_picture, steps_of
from nplrp.errors import OutputError
from nplrp.files.atomic import atomic
from nplrp.heatmaps import save_png

#: Thumbnails unless told otherwise, images that the page lists, outliers of a kind, and failures and mean maps that it shows.
THUMBNAILS, ROWS, OUTLIERS, FAILURES, MEANS = 400, 20_000, 8, 1000, 60
#: Terms of a layer's balance that the page tells.
_TERMS = ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created")
_BINS = 40
#: The page's scripts: those that the server's page has too, and its own.
_SCRIPTS = ("serve/page/dom.js", "serve/page/numbers.js", "serve/page/ledger.js", "batch/page/summary.js")
_STYLES = ("serve/page/style.css", "batch/page/summary.css")

#: Called with (images done, images in all).
Told = Callable[[int, int], None]


@dataclass(eq=False)
class _Composite:
    """What is gathered of a composite's maps."""

    place: list[int] = field(default_factory=list)  # the image's place in the run, of every map
    target: list[int] = field(default_factory=list)
    begun: list[float] = field(default_factory=list)
    arrived: list[float] = field(default_factory=list)
    worst: list[tuple[float, int]] = field(default_factory=list)  # the largest bias of a layer, and the layer
    means: dict[int, tuple[np.ndarray, int]] = field(default_factory=dict)  # of every class: sum of its small maps, and how many
    layers: dict[str, np.ndarray] = field(default_factory=dict)  # of every term: its sums, from the output down


@dataclass(eq=False)
class _Image:
    """What is gathered of an image."""

    place: int
    name: str
    file_sha256: str
    predicted: int | None
    score: float | None
    maps: list[list[int]]  # for each composite, its maps' places in the composite's lists
    thumbnails: dict[tuple[int, int], np.ndarray] = field(default_factory=dict)  # by composite and map
    picture: np.ndarray | None = None
    missing: str = ""


@dataclass(frozen=True, eq=False)
class Summary:
    """What a run comes to.

    Attributes
    ----------
    results : Results
    content : mapping
        What the page shows, as JSON values.
    cells : sequence of Cell
        What the sheet shows.
    """

    results: Results
    content: Mapping[str, Any]
    cells: Sequence[Cell]

    @property
    def heading(self) -> str:
        """One line about the run."""
        about = self.content["about"]
        composites = ", ".join(each["name"] for each in self.content["composites"])
        return f"{about['model']}, {composites}: {self.content['done']} images"


def summarise(results: Results, thumbnails: int = THUMBNAILS, told: Told | None = None) -> Summary:
    """Read a run, finished or not.

    Parameters
    ----------
    results : Results
    thumbnails : int
        How many images are shown with pictures, spread evenly over the run; outliers come on top. All numbers are of all images.
    told : callable or None

    Raises
    ------
    OutputError
        If no shard can be read.
    """
    job = results.job
    gathered = _Gathered(results, thumbnails)
    damaged: list[str] = []
    readable = 0
    for number in job.shards:
        if shard_path(results.folder, number).exists():
            try:
                gathered.take(number)
                readable += 1
            except OutputError as error:
                damaged.append(str(error))
        if told:
            told(job.ends[number], len(job.images))
    if not readable:
        reason = damaged[0] if damaged else f"{results.folder}: no shard is there yet; run nplrp batch again to go on"
        raise OutputError(reason)
    return gathered.summary(damaged)


class _Gathered:
    """Gathers what is told of a run."""

    def __init__(self, results: Results, thumbnails: int) -> None:
        self.results = results
        count = len(results.job.images)
        self.shown = set(np.linspace(0, count - 1, min(thumbnails, count)).round().astype(int).tolist())
        self.composites = [_Composite() for _ in results.job.composites]
        self.images: dict[int, _Image] = {}
        self.failed: list[tuple[str, str]] = []

    def take(self, number: int) -> None:
        """Take a shard."""
        with self.results.shard(number) as shard:
            self.failed += shard.failed
            for found in self.results.maps_in(shard):
                self._take(found)

    def _take(self, found: Map) -> None:
        if found.index not in self.images:
            self.images[found.index] = self._image(found)
        image, gathered = self.images[found.index], self.composites[found.composite]
        steps = len(self.results.job.facts["input_shape"]) == 2  # of a sequence from left to right
        small = small_map(found.relevance.T if steps else found.relevance)
        unit = found.target if found.target >= 0 or image.predicted is None else image.predicted
        total, count = gathered.means.get(unit, (np.zeros_like(small), 0))
        total += small
        gathered.means[unit] = (total, count + 1)
        if image.place in self.shown:
            image.thumbnails[found.composite, len(image.maps[found.composite])] = steps_of(small)
        image.maps[found.composite].append(len(gathered.place))
        gathered.place.append(found.index)
        gathered.target.append(unit)
        gathered.begun.append(found.begun)
        gathered.arrived.append(found.arrived)
        if found.ledger:
            for term in _TERMS:
                values = np.asarray(found.ledger[term], np.float64)
                gathered.layers[term] = gathered.layers.get(term, 0) + values
            bias = found.ledger["bias"]
            layer = int(np.argmax(np.abs(bias))) if len(bias) else 0
            gathered.worst.append((float(bias[layer]) if len(bias) else 0.0, layer))

    def _image(self, found: Map) -> _Image:
        label = self.results.predicted(found)
        maps: list[list[int]] = [[] for _ in self.composites]
        unit, score = (None, None) if label is None else (label.unit, label.score)
        return _Image(found.index, found.image, found.file_sha256, unit, score, maps)

    def summary(self, damaged: Sequence[str]) -> Summary:
        """Return what was gathered, with the pictures of what is shown."""
        results, job = self.results, self.results.job
        order = sorted(self.images)
        outliers = self._outliers()
        listed = {place for each in outliers for place in each["places"]}
        self._draw_outliers(listed - self.shown)
        shown = [self.images[place] for place in order if place in self.shown | listed]
        with ThreadPoolExecutor(2, "nplrp-pictures") as pool:
            for image, picture in zip(shown, pool.map(lambda each: picture_of(results, each.place, each.file_sha256), shown), strict=True):
                image.picture = None if picture.pixels is None else small_picture(picture.pixels)
                image.missing = picture.missing
        kept = order if len(order) <= ROWS else sorted({*order[: ROWS - len(listed)], *listed})
        row_of = {place: row for row, place in enumerate(kept)}
        for each in outliers:
            each["rows"] = [row_of[place] for place in each.pop("places")]
        units = {unit for gathered in self.composites for unit in gathered.means}
        units |= {image.predicted for image in self.images.values() if image.predicted is not None}
        content = {
            "about": _about(results),
            "done": len(order),
            "images": len(job.images),
            "kept": len(kept),
            "shards": {"missing": len(results.missing), "of": len(job.ends), "damaged": list(damaged)},
            "what": results.naming.scoring.what,
            "classes": {str(unit): self._class(unit) for unit in sorted(units)},
            "composites": [self._composite(k) for k in range(len(self.composites))],
            "rows": [self._row(self.images[place]) for place in kept],
            "means": self._means(),
            "outliers": outliers,
            "failed": {"count": len(self.failed), "listed": [list(each) for each in self.failed[:FAILURES]]},
            "folders": _folders(self.images[place].name for place in kept),
        }
        return Summary(results, content, [self._cell(image) for image in shown])

    def _class(self, unit: int) -> list[str]:
        if unit < 0:
            return ["all", "all outputs"]
        label = self.results.naming.label(unit, 0.0)
        return [label.id, label.name]

    def _row(self, image: _Image) -> dict[str, Any]:
        """Return what the page has of an image; keys are short, there may be many."""
        maps = []
        for k, places in enumerate(image.maps):
            gathered = self.composites[k]
            rows = []
            for i, m in enumerate(places):
                thumbnail = image.thumbnails.get((k, i))
                row: list[Any] = [gathered.target[m], gathered.begun[m], gathered.arrived[m]]
                row.append("" if thumbnail is None else _base64(map_png(thumbnail)))
                rows.append(row + list(gathered.worst[m] if gathered.worst else ()))
            maps.append(rows)
        found: dict[str, Any] = {"i": image.place, "n": image.name, "c": image.predicted, "s": image.score, "m": maps}
        if image.picture is not None:
            found["p"] = _base64(picture_jpeg(image.picture))
        if image.missing:
            found["w"] = image.missing
        return found

    def _cell(self, image: _Image) -> Cell:
        if image.predicted is None or image.score is None:
            below = ""
        else:
            label = self.results.naming.label(image.predicted, image.score)
            below = f"{label.name.replace('_', ' ')}, {label.said}"
        return Cell(image.name, below, image.picture, [image.thumbnails[key] for key in sorted(image.thumbnails)])

    def _composite(self, k: int) -> dict[str, Any]:
        gathered, facts = self.composites[k], self.results.job.facts["composites"][k]
        found = {name: facts[name] for name in ("name", "dialect", "start", "gradient")}
        found |= {"maps": len(gathered.place), "shares": None, "layers": None}
        if facts["gradient"]:
            return found
        begun, arrived = np.array(gathered.begun), np.array(gathered.arrived)
        found["shares"] = _distribution(arrived[begun != 0] / begun[begun != 0]) | {"nothing": int(np.count_nonzero(begun == 0))}
        if gathered.layers:
            found["layers"] = _layers(gathered, facts["rules"])
        return found

    def _means(self) -> list[dict[str, Any]]:
        """Return the mean maps of the classes with most of them."""
        counts: dict[int, int] = {}
        for gathered in self.composites:
            for unit, (_, count) in gathered.means.items():
                counts[unit] = max(counts.get(unit, 0), count)
        order = sorted(counts, key=lambda unit: (-counts[unit], unit))[:MEANS]
        found = []
        for unit in order:
            each = [gathered.means.get(unit) for gathered in self.composites]
            maps = ["" if mean is None else _base64(map_png(steps_of(mean[0] / mean[1]))) for mean in each]
            found.append({"c": unit, "n": counts[unit], "m": maps})
        return found

    def _outliers(self) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = []
        for k, (gathered, facts) in enumerate(zip(self.composites, self.results.job.facts["composites"], strict=True)):
            if facts["gradient"]:
                continue
            begun, arrived = np.array(gathered.begun), np.array(gathered.arrived)
            unit = np.abs(np.where(begun, begun, np.nan))
            found.append(_largest("loss", k, gathered.place, (begun - arrived) / unit))
            if gathered.worst:
                bias, layer = (np.array(each) for each in zip(*gathered.worst, strict=True))
                layers = _layer_names(facts["rules"], len(gathered.layers["bias"]))
                most = _largest("bias", k, gathered.place, bias / unit)
                most["layers"] = [layers[layer[m]] for m in most["maps"]]
                found.append(most)
        for each in found:
            places, maps = each["places"], each.pop("maps")
            each["nth"] = [self.images[place].maps[each["composite"]].index(m) for place, m in zip(places, maps, strict=True)]
        scores = {place: image.score for place, image in self.images.items() if image.score is not None}
        if scores:
            order = sorted(scores, key=lambda place: (scores[place], place))[:OUTLIERS]
            found.append({"what": "confidence", "composite": None, "places": order, "values": [scores[place] for place in order]})
        return found

    def _draw_outliers(self, places: set[int]) -> None:
        """Read the maps of images that weren't to be shown again."""
        job = self.results.job
        for number in job.shards:
            wanted = places.intersection(job.places(number))
            if not wanted or not shard_path(self.results.folder, number).exists():
                continue
            with suppress(OutputError), self.results.shard(number) as shard:  # a damaged one has been told of
                for k in range(len(self.composites)):
                    rows = shard["index"][shard[f"maps/{k}/image"]]
                    counts = dict.fromkeys(wanted, 0)
                    for m in np.flatnonzero(np.isin(rows, list(wanted))):
                        place = int(rows[m])
                        small = small_map(shard.relevance(k, slice(int(m), int(m) + 1))[0])
                        self.images[place].thumbnails[k, counts[place]] = steps_of(small)
                        counts[place] += 1


def _largest(what: str, composite: int, places: Sequence[int], values: np.ndarray) -> dict[str, Any]:
    """Return the images with the largest magnitudes, each once."""
    seen: dict[int, int] = {}
    for m in np.argsort(-np.abs(np.nan_to_num(values)), kind="stable"):
        if np.isfinite(values[m]) and values[m] != 0:
            seen.setdefault(places[m], int(m))
        if len(seen) == OUTLIERS:
            break
    maps = list(seen.values())
    return {"what": what, "composite": composite, "places": list(seen), "values": [float(values[m]) for m in maps], "maps": maps}


def _distribution(shares: np.ndarray) -> dict[str, Any]:
    """Return quantiles and a histogram; of many numbers it leaves out half a percent at either end, which are counted."""
    if not len(shares):
        return {"quantiles": None}
    low, high = np.quantile(shares, [0.005, 0.995]) if len(shares) > 200 else (shares.min(), shares.max())
    if high - low < 1e-6 * max(abs(low), abs(high), 1e-300):
        low, high = low - 0.005 * abs(low), high + 0.005 * abs(high)
    if low == high:
        low, high = low - 0.5, high + 0.5
    counts, _ = np.histogram(shares, _BINS, (low, high))
    return {
        "quantiles": np.quantile(shares, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1]).tolist(),
        "mean": float(shares.mean()),
        "from": float(low),
        "to": float(high),
        "counts": counts.tolist(),
        "outside": [int(np.count_nonzero(shares < low)), int(np.count_nonzero(shares > high))],
    }


def _layers(gathered: _Composite, rules: Mapping[str, str]) -> list[dict[str, Any]]:
    """Return the mean balance of every layer over all maps, from the output down."""
    maps = len(gathered.worst)
    mean = {term: gathered.layers[term] / maps for term in _TERMS}
    names = _layer_names(rules, len(mean["bias"]))
    rows: list[dict[str, Any]] = []
    for i, name in enumerate(names):
        row = {term: float(mean[term][i]) for term in _TERMS}
        known = row["relevance_out"] + row["bias"] + row["epsilon"] + row["dropped"] - row["created"]
        rows.append({"layer": name, "rule": rules.get(name, ""), **row, "residual": row["relevance_in"] - known, "edges": {}})
    if rows:
        rows[-1]["edges"] = {"": float(np.mean(gathered.arrived))}
    return rows


def _layer_names(rules: Mapping[str, str], layers: int) -> list[str]:
    """Return the names of a ledger's layers, from the output down."""
    names = list(rules)[::-1]
    return names if len(names) == layers else [f"layer {i + 1} from the output" for i in range(layers)]


def _about(results: Results) -> dict[str, Any]:
    """Return where the numbers come from."""
    facts = results.job.facts
    how = facts["preprocessing"] | {name: facts[name] for name in ("resample", "crop") if facts[name] is not None}
    told = ", ".join(f"{name.replace('_', ' ')} {value}" for name, value in how.items() if value is not None and name != "source")
    names = ("model", "weights_sha256", "input_shape", "dtype", "algorithm", "target", "dialect", "start", "kept", "generator")
    return {
        **{name: facts[name] for name in names},
        "folder": _text(str(results.folder.resolve())),
        "job": results.job.sha256,
        "preprocessing": told,
        "source": how.get("source"),
        "scores": results.naming.scoring.said,
        "function": facts["scoring"]["function"],
        "ledger": facts["ledger"],
        "composites": [{name: each[name] for name in ("name", "dialect", "start", "rules")} for each in facts["composites"]],
        "version": __version__,
    }


def _folders(names: Iterable[str]) -> str:
    """Return the folder that all images share, which the page leaves out of their names."""
    parts: list[str] | None = None
    for name in names:
        folder = name.split("/")[:-1]
        same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(folder if parts is None else parts, folder, strict=False))
        parts = [each for each, _ in same]
        if not parts:
            return ""
    return "/".join(parts or ()) + "/" if parts else ""


def _finite(value: Any) -> Any:
    """Return JSON values with null for what isn't finite, such as the logarithm of a probability of 0."""
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    if isinstance(value, list):
        return [_finite(each) for each in value]
    return None if isinstance(value, float) and not np.isfinite(value) else value


def _base64(content: bytes) -> str:
    return base64.b64encode(content).decode()


def _text(name: str) -> str:
    return name.encode("utf-8", "backslashreplace").decode()


def page(summary: Summary) -> str:
    """Return the page: HTML with everything inside, and a policy that lets nothing else in.

    Parameters
    ----------
    summary : Summary
    """
    package = files("nplrp")
    script = "\n".join(_as_part(package.joinpath(name).read_text("utf-8")) for name in _SCRIPTS)
    style = "\n".join(package.joinpath(name).read_text("utf-8") for name in _STYLES)
    sources = f"img-src data:; script-src '{_integrity(script)}'; style-src '{_integrity(style)}'"
    policy = f"default-src 'none'; {sources}; base-uri 'none'; form-action 'none'"
    data = json.dumps(_finite(summary.content), ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    parts = {
        "policy": policy,
        "title": html.escape(_text(summary.heading)),
        "style": style,
        "script": script,
        "data": data.replace("<", "\\u003c"),
    }
    template = package.joinpath("batch/page/summary.html").read_text("utf-8")
    return re.sub(r"\{\{(\w+)\}\}", lambda found: parts[found[1]], template)


def _as_part(module: str) -> str:
    """Return a module's text as part of one that holds all of them."""
    return re.sub(r"^export (?=const|function)", "", re.sub(r"^import .*;\n", "", module, flags=re.MULTILINE), flags=re.MULTILINE)


def _integrity(text: str) -> str:
    return f"sha256-{_base64(hashlib.sha256(text.encode()).digest())}"


def write_page(summary: Summary, path: Path) -> int:
    """Write the page and return its size in bytes; what stood there before stays if anything goes wrong.

    Raises
    ------
    OutputError
    """
    content = page(summary).encode()
    with atomic(path) as temporary:
        temporary.write_bytes(content)
    return len(content)


def write_sheet(summary: Summary, path: Path) -> int:
    """Write the sheet as PNG and return how many images are on it.

    Raises
    ------
    OutputError
    """
    sheet, shown = contact_sheet(summary.cells, summary.heading)
    save_png(sheet, path)
    return shown
