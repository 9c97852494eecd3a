"""Compute what a run lacks: reading, computing, drawing and writing overlap, and memory is bounded.

In memory are at most: the images that are being explained and those read ahead (`nplrp.stream`), the rows of one shard that fills and of
`_WRITING` that are being written.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from nplrp.batch.job import Job
from nplrp.batch.shard import Row, open_shard, row_of, shard_path, write_shard
from nplrp.errors import ImageError, NplrpError, OutputError
from nplrp.files.locks import claimed
from nplrp.model import Model
from nplrp.stream import Explained, Wanted, read, stream

#: Shards that wait to be written, and threads that draw.
_WRITING, _DRAWING = 2, 2


@dataclass(frozen=True)
class Part:
    """Which shards one of several processes computes: the `number`-th of `of`, from 1."""

    number: int = 1
    of: int = 1

    def shards(self, job: Job) -> list[int]:
        """Return the numbers of its shards."""
        return [shard for shard in job.shards if shard % self.of == self.number - 1]


@dataclass
class Report:
    """What a run has done.

    Attributes
    ----------
    before : int
        Images whose results were there.
    done : int
        Images that were explained.
    failed : list of (str, str)
        Images that couldn't be, of all shards of the part, and why.
    """

    before: int = 0
    done: int = 0
    failed: list[tuple[str, str]] = field(default_factory=list)


def run(
    job: Job,
    out: Path,
    model: Model,
    wanted: Wanted,
    part: Part | None = None,
    told: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Report:
    """Compute the shards that aren't there yet.

    Parameters
    ----------
    job : Job
        From `open_job`.
    out : path
        Its folder.
    model, wanted
        What the job was made of.
    part : Part or None
        None: all shards.
    told : callable or None
        Called with (images done, images in all) of this call.
    note : callable or None
        Called with a line about what is found, such as a shard that is damaged.

    Raises
    ------
    OutputError
        If another process computes the same part, or something can't be written. What is done stays.
    """
    part = part or Part()
    with held(out, part):
        report = Report()
        missing = missing_shards(job, out, model, wanted, part.shards(job), report, note)
        total, done = sum(len(job.places(shard)) for shard in missing), 0
        with _Writer(job, out) as writer:
            for each in explained(job, missing, model, wanted):
                writer.take(each)
                done += 1
                if each.error is None:
                    report.done += 1
                else:
                    report.failed.append((str(each.image), each.reason))
                if told:
                    told(done, total)
    return report


@contextmanager
def held(out: Path, part: Part) -> Iterator[None]:
    """Keep other processes from computing the same shards: of a whole run all, of a part those of the part."""
    whole, at_work = out / ".run.lock", "another process is at work in this folder"
    try:
        if part.of == 1:
            with claimed(whole, at_work):
                _sweep(out)
                yield
                _sweep(out)  # a scheduler's worker may have been killed while it wrote
        else:
            own = out / f".run-{part.number}-of-{part.of}.lock"
            with claimed(whole, at_work, shared=True), claimed(own, f"another process computes part {part.number}/{part.of}"):
                yield
    except OSError as error:
        raise OutputError(f"{out}: can't be written: {error.strerror or error}; choose another folder") from error


def _sweep(out: Path) -> None:
    """Remove what killed processes have left half-written; nobody else is at work here."""
    for folder in ("shards", "pictures"):
        for path in (out / folder).glob(".*"):
            path.unlink(missing_ok=True)


def explained(job: Job, shards: Sequence[int], model: Model, wanted: Wanted, root: Path | None = None) -> Iterator[Explained]:
    """Explain the images of some shards; `index` is the place in the run, `root` as for `stream`."""
    places = [place for shard in shards for place in job.places(shard)]
    for each in stream([job.images[place] for place in places], model, wanted, root):
        yield replace(each, index=places[each.index])


def compute_shard(job: Job, out: Path, shard: int, model: Model, wanted: Wanted, root: Path) -> list[tuple[str, str]]:
    """Compute one shard, for a scheduler, and return which images failed, and why; names of images count from `root`."""
    with _Writer(job, out) as writer:
        found = []
        for each in explained(job, [shard], model, wanted, root):
            writer.take(each)
            if each.error is not None:
                found.append((str(each.image), each.reason))
    return found


def missing_shards(
    job: Job, out: Path, model: Model, wanted: Wanted, shards: Sequence[int], report: Report, note: Callable[[str], None] | None
) -> list[int]:
    """Return the shards to compute: those that aren't there or are damaged, or had an image that couldn't be read and can be now.

    What is there is told in `report`.
    """
    found = []
    for shard in shards:
        if not shard_path(out, shard).exists():
            found.append(shard)
            continue
        try:
            with open_shard(out, job, shard) as there:
                failed, count = there.failed, len(there["images"])
        except OutputError as error:
            if note:
                note(f"{error}: computed again")
            found.append(shard)
            continue
        if any(_can_be_read(image, model, wanted) for image, _ in failed):
            found.append(shard)
            continue
        report.before += count
        report.failed += failed
    return found


def _can_be_read(image: str, model: Model, wanted: Wanted) -> bool:
    try:
        read(image, model, wanted)
    except ImageError:
        return False
    return True


class _Writer:
    """Gathers rows into shards, draws and writes in threads of its own, and raises in the caller's thread what went wrong there."""

    def __init__(self, job: Job, out: Path) -> None:
        self._job, self._out = job, out
        self._shard_of = {place: shard for shard in job.shards for place in job.places(shard)}
        self._rows: list[Row] = []
        self._drawn: list[Future[None]] = []
        self._written: list[Future[None]] = []
        self._pictures = bool(job.facts["pictures"])
        self._drawing = ThreadPoolExecutor(_DRAWING, "nplrp-drawing")
        self._writing = ThreadPoolExecutor(1, "nplrp-writing")
        self._stopped = threading.Event()
        if self._pictures:
            try:
                (out / "pictures").mkdir(exist_ok=True)
            except OSError as error:
                raise OutputError(f"{out}: can't be written: {error.strerror or error}; choose another folder") from error

    def __enter__(self) -> _Writer:
        return self

    def take(self, each: Explained) -> None:
        """Take an image's explanations."""
        row = row_of(each, self._job)
        self._rows.append(row)
        if self._pictures and each.read is not None and each.explanations:
            maps = [e.relevance for e in each.explanations]
            self._drawn.append(self._drawing.submit(self._draw, picture_path(self._out, row.index, row.image), each.read.pixels, maps))
        shard = self._shard_of[row.index]
        if len(self._rows) == len(self._job.places(shard)):
            self._written.append(self._writing.submit(self._write, shard, self._rows, self._drawn))
            self._rows, self._drawn = [], []
            while len(self._written) > _WRITING:
                self._written.pop(0).result()
        elif self._written and self._written[0].done():
            self._written.pop(0).result()

    def _draw(self, path: Path, pixels: np.ndarray, maps: Sequence[np.ndarray]) -> None:
        from nplrp.heatmaps import save_png, strip
        from nplrp.images import display

        if not self._stopped.is_set():
            save_png(strip(display(pixels[None])[0], np.concatenate(maps)), path)

    def _write(self, shard: int, rows: Sequence[Row], drawn: Sequence[Future[None]]) -> None:
        for each in drawn:
            each.result()  # a shard vouches for its pictures
        if not self._stopped.is_set():
            write_shard(self._out, self._job, shard, rows)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self._stopped.set()
        try:
            for future in self._written:
                if kind is None:
                    future.result()
        finally:
            self._stopped.set()
            self._drawing.shutdown(cancel_futures=kind is not None)
            self._writing.shutdown(cancel_futures=kind is not None)


def picture_path(out: Path, index: int, image: str) -> Path:
    """Return where an image's picture is written."""
    stem = "".join(letter if letter.isalnum() or letter in "-_." else "_" for letter in Path(image).stem)[:80]
    return out / "pictures" / f"{index:06}-{stem}.png"


def parts_wanted(text: str) -> Part:
    """Read ``i/N``.

    Raises
    ------
    NplrpError
    """
    number, slash, of = text.partition("/")
    if slash and all(re.fullmatch(r"[0-9]{1,9}", each.strip()) for each in (number, of)) and 1 <= int(number) <= int(of):
        return Part(int(number), int(of))
    raise NplrpError(f"--shard {text}: expected i/N, the i-th of N parts, from 1, such as 3/16 (SLURM: --array=1-16)")
