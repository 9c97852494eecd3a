"""Read a run: shard by shard, so that memory doesn't grow with it."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.batch.job import Job, read_job
from nplrp.batch.shard import Shard, open_shard, shard_path
from nplrp.errors import ModelError, OutputError
from nplrp.model import Model, Preprocessing
from nplrp.scores import Scoring
from nplrp.stream import Wanted
from nplrp.targets import Label, Naming


@dataclass(frozen=True, eq=False)
class Map:
    """One map of a run.

    Attributes
    ----------
    index : int
        The image's place in the run.
    image : str
    composite : int
        The composite's place among those of the job.
    target : int
        The explained output; -1: all of it.
    relevance : ndarray
        As it is kept: [*input_shape], or [h, w] if reduced.
    begun, arrived : float
        Sums of the relevance that the pass began with and that arrived.
    output : ndarray [classes] or None
    ledger : mapping of str to ndarray [layers]
        Empty unless asked for.
    file_sha256 : str
        Of the picture's bytes when it was explained.
    """

    index: int
    image: str
    composite: int
    target: int
    relevance: np.ndarray
    begun: float
    arrived: float
    output: np.ndarray | None
    ledger: Mapping[str, np.ndarray]
    file_sha256: str


@dataclass(frozen=True, eq=False)
class Results:
    """A run's folder.

    Attributes
    ----------
    folder : Path
    job : Job
    """

    folder: Path
    job: Job

    @classmethod
    def open(cls, folder: str | Path) -> Results:
        """Open a run's folder.

        Raises
        ------
        OutputError
            If it holds no run.
        """
        return cls(Path(folder), read_job(Path(folder)))

    @property
    def missing(self) -> list[int]:
        """Numbers of the shards that aren't there."""
        return [shard for shard in self.job.shards if not shard_path(self.folder, shard).exists()]

    def check_complete(self) -> None:
        """Raise if shards are missing.

        Raises
        ------
        OutputError
        """
        missing = self.missing
        if missing:
            images = sum(len(self.job.places(shard)) for shard in missing)
            raise OutputError(
                f"{self.folder}: {len(missing)} of {len(self.job.ends)} shards aren't there yet ({images} images, the first is number "
                f"{missing[0]}); run nplrp batch again to go on"
            )

    @contextmanager
    def shard(self, number: int) -> Iterator[Shard]:
        """Open a shard."""
        with open_shard(self.folder, self.job, number) as found:
            yield found

    def maps(self) -> Iterator[Map]:
        """Yield all maps of the shards that are there, shard by shard."""
        for number in self.job.shards:
            if shard_path(self.folder, number).exists():
                with self.shard(number) as shard:
                    yield from self.maps_in(shard)

    def maps_in(self, shard: Shard) -> Iterator[Map]:
        """Yield all maps of an open shard, composite by composite."""
        names, images, index = shard.names(), shard["images"], shard["index"]
        hashes = shard["file_sha256"].astype(str)
        output = shard["output"] if "output" in names else None
        for k in range(len(self.job.composites)) if len(images) else ():
            plain = {name: shard[f"maps/{k}/{name}"] for name in ("image", "target", "begun", "arrived")}
            prefix = f"maps/{k}/ledger/"
            ledger = {name.removeprefix(prefix): shard[name] for name in names if name.startswith(prefix)}
            for m, row in enumerate(plain["image"]):
                yield Map(
                    int(index[row]),
                    str(images[row]),
                    k,
                    int(plain["target"][m]),
                    shard.relevance(k, slice(m, m + 1))[0],
                    float(plain["begun"][m]),
                    float(plain["arrived"][m]),
                    None if output is None else output[row],
                    {name: values[m] for name, values in ledger.items()},
                    str(hashes[row]),
                )

    def failed(self) -> list[tuple[str, str]]:
        """Return the images that couldn't be explained, and why."""
        found: list[tuple[str, str]] = []
        for number in self.job.shards:
            if shard_path(self.folder, number).exists():
                with self.shard(number) as shard:
                    found += shard.failed
        return found

    @property
    def naming(self) -> Naming:
        """What the outputs are called."""
        facts, classes = self.job.facts["scoring"], self.job.facts["classes"]
        own = None if classes is None else tuple((id_, name) for id_, name in classes)
        return Naming(Scoring(facts["function"], tuple(facts["shape"])), own)

    def label(self, found: Map) -> Label | None:
        """Return the label of what a map explains: its target, else the largest output; None of outputs that are no vector."""
        if found.output is None:
            return None
        targets = None if found.target < 0 else np.array([found.target])
        return self.naming.chosen(self.naming.scoring.scores(found.output[None]), targets)[0]

    def predicted(self, found: Map) -> Label | None:
        """Return the label of the largest output of a map's image."""
        return None if found.output is None else self.naming.chosen(self.naming.scoring.scores(found.output[None]), None)[0]

    def wanted(self, composites: Any = None) -> Wanted:
        """Return what the run asks of every image; `composites` are those that names can't tell, such as files of one's own."""
        facts = self.job.facts
        names = tuple(each["name"] for each in facts["composites"]) if composites is None else composites
        return Wanted(names, **{name: facts[name] for name in ("target", "dtype", "algorithm", "dialect", "start", "resample", "crop")})

    def model_of_run(self, model: Model) -> Model:
        """Return a model with its pictures prepared as in the run, whatever is said or assumed today.

        Raises
        ------
        ModelError
            If it isn't the model of the run.
        """
        if model.content_hash != self.job.facts["weights_sha256"]:
            raise ModelError(
                f"{self.folder}: was computed with other weights than those of {model.name} "
                f"(SHA-256 {self.job.facts['weights_sha256'][:12]}...); give the model of the run"
            )
        shape = tuple(self.job.facts["input_shape"])
        if model.input_shape != shape:
            size = "x".join(map(str, shape[:-1] or shape))
            raise ModelError(
                f"{self.folder}: its images have shape {shape}, those of {model.name} {model.input_shape}; give --input-size {size}"
            )
        prepared = Preprocessing(**self.job.facts["preprocessing"])
        return model if prepared == model.preprocessing else dataclasses.replace(model, preprocessing=prepared)
