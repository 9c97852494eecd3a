"""What a run computes of which images: `job.json`."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nplrp import __version__
from nplrp.errors import ImageError, OutputError, brief
from nplrp.files.atomic import atomic, check_new_folder
from nplrp.files.locks import locked
from nplrp.files.plain import read_plain
from nplrp.images import RESAMPLE
from nplrp.layers.config import is_size
from nplrp.model import Model
from nplrp.plan import DTYPES, make_plan
from nplrp.preprocessing import Preprocessing
from nplrp.scores import scoring_of
from nplrp.stream import Wanted

FORMAT = "nplrp batch 1"
#: What is kept of a map: all of it in float32, rounded to float16 of its largest magnitude, or its sum over the channels.
KEPT = ("float32", "float16", "reduced")
#: Images in a shard: what a run that is killed loses at most.
SHARD = 32
_FILE = "job.json"


@dataclass(frozen=True)
class Job:
    """What a run computes.

    Attributes
    ----------
    facts : mapping
        Everything that results depend on, as JSON values.
    images : tuple of str
        Names, as they were given.
    ends : tuple of int
        Where each shard ends among the images: those that are found later make shards of their own.
    """

    facts: Mapping[str, Any]
    images: tuple[str, ...]
    ends: tuple[int, ...]

    @property
    def sha256(self) -> str:
        """Hash of what results depend on, but for the images."""
        return hashlib.sha256(json.dumps(self.facts, sort_keys=True).encode()).hexdigest()

    def places(self, shard: int) -> range:
        """Return the places of a shard's images."""
        return range(self.ends[shard - 1] if shard else 0, self.ends[shard])

    @property
    def shards(self) -> range:
        """Numbers of the shards."""
        return range(len(self.ends))

    @property
    def kept(self) -> str:
        """One of `KEPT`."""
        return str(self.facts["kept"])

    @property
    def composites(self) -> list[str]:
        """Names of the composites."""
        return [each["name"] for each in self.facts["composites"]]


def job_facts(model: Model, wanted: Wanted, kept: str = "float32", ledger: bool = False, pictures: bool = False) -> dict[str, Any]:
    """Return what results depend on, as JSON values: the model's content, its preprocessing, every layer's rule, numerics, what is kept."""
    plans = [make_plan(model, composite, wanted.dtype, wanted.algorithm, wanted.dialect) for composite in wanted.composites]
    scoring = scoring_of(model)
    return {
        "format": FORMAT,
        "generator": f"nplrp {__version__}",
        "model": model.name,
        "weights_sha256": model.content_hash,
        "input_shape": list(model.input_shape),
        "preprocessing": vars(model.preprocessing),
        "resample": wanted.resample,
        "crop": wanted.crop,
        "scoring": {"function": scoring.function, "shape": list(scoring.shape)},
        "classes": None if model.classes is None else [list(each) for each in model.classes],
        "composites": [
            {
                "name": plan.composite.name,
                "dialect": plan.dialect.name,
                "start": wanted.start or plan.start,
                "gradient": bool(plan.composite.gradient),
                "rules": {step.name: str(rule) for step, rule in zip(plan.steps, plan.rules, strict=True)},
            }
            for plan in plans
        ],
        "dialect": wanted.dialect,
        "start": wanted.start,
        "target": wanted.target,
        "dtype": plans[0].dtype.name,
        "algorithm": wanted.algorithm,
        "kept": kept,
        "ledger": ledger,
        "pictures": pictures,
    }


def check_folder(out: Path) -> bool:
    """See that a run can be begun in a folder, or gone on with, before anything is computed; return whether it is a new one.

    Raises
    ------
    OutputError
        As `open_job`, whatever the run.
    """
    check_new_folder(out)
    known = (out / _FILE).exists()
    if known:
        read_job(out)
    elif out.is_dir() and _others(out) and not (out / _FILE).exists():  # which another job of an array may have begun meanwhile
        raise OutputError(f"{out}: holds other files, and no run; give a new or an empty folder")
    return not known


def _others(out: Path) -> bool:
    return any(not each.name.startswith(".") and each.name != f"{_FILE}.lock" for each in out.iterdir())


def open_job(out: Path, facts: Mapping[str, Any], images: Sequence[str], size: int = SHARD) -> Job:
    """Begin a run in a folder, or go on with the one that is there; images that are new are added at its end.

    Raises
    ------
    OutputError
        If the folder holds another run, or something else.
    """
    try:
        out.mkdir(parents=True, exist_ok=True)
        with locked(out / _FILE):
            known = read_job(out) if (out / _FILE).exists() else None
            if known is None and _others(out):
                raise OutputError(f"{out}: holds other files, and no run; give a new or an empty folder")
            if known is not None:
                _compare(out, known.facts, facts)
            job = _extended(known or Job(facts, (), ()), images, size)
            if known is None or job.images != known.images:
                content = {"job": job.facts, "images": job.images, "ends": job.ends}
                with atomic(out / _FILE) as temporary:
                    temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", "utf-8", "surrogateescape")
    except FileExistsError:
        raise OutputError(f"{out}: is a file; results are written into a folder") from None
    except OSError as error:
        raise OutputError(f"{out}: can't be written: {error.strerror or error}; choose another folder") from error
    return job


def read_job(out: Path) -> Job:
    """Return the run that a folder holds.

    Raises
    ------
    OutputError
        If there is none, or its `job.json` is damaged.
    """
    path = out / _FILE
    try:
        content = json.loads(read_plain(path, 1 << 30).decode("utf-8", "surrogateescape"))
        job = Job(content["job"], tuple(content["images"]), tuple(content["ends"]))
        "".join(job.images).encode("utf-8", "surrogateescape")  # as it will be written
        whole = (
            _is_whole(job.facts)
            and (job.ends[-1:] == (len(job.images),))
            and all(isinstance(each, str) for each in job.images)
            and all(type(each) is int and each > 0 for each in job.ends)
        )
        if whole and sorted(set(job.ends)) == list(job.ends):
            return job
    except FileNotFoundError:
        raise OutputError(f"{out}: holds no run: there is no {_FILE}; nplrp batch makes one") from None
    except OSError as error:
        raise OutputError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, LookupError, TypeError, RecursionError):
        pass
    raise OutputError(f"{path}: is damaged, or of another version; begin again in a new folder")


def _is_whole(facts: Any) -> bool:
    """Tell whether a run's facts are what `job_facts` makes, so that whoever reads them needn't look."""

    def shape(value: Any) -> bool:
        return isinstance(value, list) and len(value) > 0 and all(is_size(each, 1) for each in value)

    def text(value: Any) -> bool:
        return isinstance(value, str)

    def perhaps_text(value: Any) -> bool:
        return value is None or text(value)

    def yes_or_no(value: Any) -> bool:
        return isinstance(value, bool)

    def prepared(value: Any) -> bool:
        try:
            return isinstance(value, dict) and Preprocessing(**value).resample in RESAMPLE
        except (TypeError, ImageError):
            return False

    def scoring(value: Any) -> bool:
        return isinstance(value, dict) and text(value["function"]) and shape(value["shape"])

    def classes(value: Any) -> bool:
        return value is None or all(isinstance(pair, list) and len(pair) == 2 and all(map(text, pair)) for pair in value)

    def composites(value: Any) -> bool:
        fields = {"name": text, "dialect": text, "start": text, "gradient": yes_or_no, "rules": lambda rules: isinstance(rules, dict)}
        return (
            isinstance(value, list)
            and len(value) > 0
            and all(isinstance(each, dict) and all(check(each[key]) for key, check in fields.items()) for each in value)
            and all(text(rule) for each in value for rule in each["rules"].values())
        )

    checks: dict[str, Callable[[Any], bool]] = {
        "format": lambda value: value == FORMAT and not isinstance(value, bool),
        "generator": text,
        "model": text,
        "weights_sha256": text,
        "input_shape": shape,
        "preprocessing": prepared,
        "resample": lambda value: value is None or value in RESAMPLE,
        "crop": lambda value: value is None or yes_or_no(value),
        "scoring": scoring,
        "classes": classes,
        "composites": composites,
        "dialect": perhaps_text,
        "start": perhaps_text,
        "target": lambda value: value is None or isinstance(value, str | int | list),
        "dtype": lambda value: value in DTYPES,
        "algorithm": text,
        "kept": lambda value: value in KEPT,
        "ledger": yes_or_no,
        "pictures": yes_or_no,
    }
    return isinstance(facts, dict) and all(check(facts[key]) for key, check in checks.items())


def _extended(job: Job, images: Sequence[str], size: int) -> Job:
    known = set(job.images)
    new = [image for image in images if image not in known]
    first = len(job.images)
    ends = [*range(first + size, first + len(new), size), *([first + len(new)] if new else [])]
    return Job(job.facts, (*job.images, *new), (*job.ends, *ends))


def _compare(out: Path, known: Mapping[str, Any], asked: Mapping[str, Any]) -> None:
    plain = json.loads(json.dumps(asked))
    if {"preprocessing"} <= known.keys() & plain.keys():  # who says how pictures were prepared changes no result
        known, plain = ({**each, "preprocessing": {**each["preprocessing"], "source": ""}} for each in (known, plain))
    other = [f"{where}: {there} there, {here} asked for" for where, there, here in _differences("", known, plain)]
    if other:
        more = f" (and {len(other) - 3} more)" if len(other) > 3 else ""
        raise OutputError(f"{out}: holds another run: {'; '.join(other[:3])}{more}; give a new folder, or ask for the same")


def _differences(where: str, there: Any, here: Any) -> list[tuple[str, str, str]]:
    """Return what differs, as (where, there, here), in few words."""
    if there == here:
        return []
    if isinstance(there, dict) and isinstance(here, dict):
        keys = [*there, *(key for key in here if key not in there)]
        return [each for key in keys for each in _differences(f"{where}.{key}" if where else str(key), there.get(key), here.get(key))]
    if isinstance(there, list) and isinstance(here, list) and len(there) == len(here) and where == "composites":
        return [each for i, pair in enumerate(zip(there, here, strict=True)) for each in _differences(f"composite {i + 1}", *pair)]
    return [(where, _short(there), _short(here))]


def _short(value: Any) -> str:
    with suppress(TypeError, KeyError):
        if isinstance(value, list) and value and "name" in value[0]:
            return ", ".join(each["name"] for each in value)
    return brief(value, 40)
