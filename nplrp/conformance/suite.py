"""The suite in memory, and as the one file of the package: `suite.h5`."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.errors import nearest
from nplrp.files.sealed import SealError, opened_sealed, sealed_hdf5
from nplrp.golden.errors import GoldenError
from nplrp.golden.judging import UNITS
from nplrp.golden.values import UNIT, Tensor
from nplrp.layers import Layer
from nplrp.rules import Rule
from nplrp.rules.recorded import rule_of

#: Of what the cases are; answers to one version can't be judged by another.
VERSION = 1
FORMAT = "nplrp-conformance"
PATH = Path(__file__).parent / "suite.h5"
_STORAGE: dict[str, Any] = {"compression": "gzip", "compression_opts": 9, "shuffle": True, "fletcher32": True, "track_times": False}
_POOLS = {"numbers": np.float32, "values": np.float64, "expected": np.float32, "certified": np.float32, "undecided": np.float32}


@dataclass(frozen=True, eq=False)
class Answer:
    """What is right: relevance of each input under one resolved rule.

    Attributes
    ----------
    dialects : tuple of str
        Those that resolve the case's rule so.
    rule : mapping
        Its name and every constant, as JSON values.
    stand_in : bool
        A batch norm's rule runs on the function that iNNvestigate puts in its place.
    tensors : tuple of Tensor
        One for each input, [n, *input_shape], with the error bounds for float32.
    """

    dialects: tuple[str, ...]
    rule: Mapping[str, Any]
    stand_in: bool
    tensors: tuple[Tensor, ...] = field(repr=False)


@dataclass(frozen=True, eq=False)
class Case:
    """One question: a layer with its numbers, relevance of its output, and a rule's name.

    Attributes
    ----------
    name : str
        ``rule.layer.input``.
    layer : Layer
        With its arrays; it is called "layer" and reads "a", or "a0", "a1" and so on.
    inputs : tuple of ndarray [n, *input_shape], float64
        Float32 holds them, the weights and R exactly.
    R : ndarray [n, *output_shape], float64
    exact : bool
        All sums in denominators are exact in float32, in any order.
    answers : tuple of Answer
    """

    name: str
    layer: Layer
    inputs: tuple[np.ndarray, ...] = field(repr=False)
    R: np.ndarray = field(repr=False)
    exact: bool
    answers: tuple[Answer, ...] = field(repr=False)

    @property
    def rule_name(self) -> str:
        """The first part of its name."""
        return self.name.rsplit(".", 2)[0]

    @property
    def layer_name(self) -> str:
        """The second part of its name."""
        return self.name.rsplit(".", 2)[1]

    @property
    def input_name(self) -> str:
        """The last part of its name."""
        return self.name.rsplit(".", 2)[2]

    @property
    def shapes(self) -> tuple[tuple[int, ...], ...]:
        """Shapes of the inputs' relevances, with the batch axis."""
        return tuple(a.shape for a in self.inputs)

    def answer(self, dialect: str) -> Answer | None:
        """Return what is right in a dialect, None if that system has no such rule."""
        return next((each for each in self.answers if dialect in each.dialects), None)


@dataclass(frozen=True, eq=False)
class Suite:
    """All cases, by name."""

    cases: tuple[Case, ...]

    def __iter__(self) -> Iterator[Case]:
        return iter(self.cases)

    def __len__(self) -> int:
        return len(self.cases)

    def __getitem__(self, name: str) -> Case:
        for case in self.cases:
            if case.name == name:
                return case
        names = [case.name for case in self.cases]
        raise GoldenError(f"the suite has no case {name!r}; {nearest(name, names, 'nplrp conformance --list lists them')}")

    def only(self, patterns: Sequence[str], dialect: str | None = None) -> Suite:
        """Return the cases whose names fit a pattern (``"gamma*.conv-*.z-zero"``), and that a dialect has an answer to.

        Raises
        ------
        GoldenError
            If a pattern fits no case.
        """
        for pattern in patterns:
            if not any(fnmatchcase(case.name, pattern) for case in self.cases):
                raise GoldenError(f"no case is called {pattern!r}; nplrp conformance --list lists them")
        kept = (case for case in self.cases if not patterns or any(fnmatchcase(case.name, pattern) for pattern in patterns))
        return Suite(tuple(case for case in kept if dialect is None or case.answer(dialect) is not None))

    @functools.cached_property
    def content_sha256(self) -> str:
        """SHA-256 of every number and name: the same however the file is laid out, and wherever it was made."""
        table, pools = packed(self.cases)
        digest = hashlib.sha256(json.dumps(table, sort_keys=True).encode())
        for name in _POOLS:
            digest.update(np.ascontiguousarray(pools[name], pools[name].dtype.newbyteorder("<")).tobytes())
        return digest.hexdigest()


def tolerances(tensor: Tensor, precision: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the expected and the certified error bound of a backend that computes in `precision`, and what is undecided, float64.

    The golden numbers' own error, float64's, is part of it. Denominators whose sign float32 can't tell are certain in float64: these cases
    have none that is less than 2^-29 of what was added up, but 0.
    """
    scale = (UNITS[precision] + (UNITS["float64"] if precision == "float64" else 0.0)) / UNIT
    undecided = np.zeros(tensor.shape) if precision == "float64" else np.asarray(tensor.undecided, np.float64)
    return tensor.expected * scale, tensor.certified * scale, undecided


def packed(cases: Iterable[Case]) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the suite as a table of plain values that says where in five rows of numbers each array is."""
    rows: dict[str, list[np.ndarray]] = {name: [] for name in _POOLS}
    ends = dict.fromkeys(_POOLS, 0)

    def put(pool: str, array: np.ndarray) -> int:
        begin = ends[pool]
        rows[pool].append(np.asarray(array, _POOLS[pool]).reshape(-1))
        ends[pool] += array.size
        return begin

    table = []
    for case in cases:
        entry: dict[str, Any] = {"name": case.name, "layer": case.layer.describe(), "exact": case.exact}
        entry["inputs"] = [[put("numbers", a), list(a.shape)] for a in case.inputs]
        entry["R"] = [put("numbers", case.R), list(case.R.shape)]
        entry["arrays"] = {key: [put("numbers", a), list(a.shape)] for key, a in sorted(case.layer.arrays.items())}
        entry["answers"] = []
        for answer in case.answers:
            begins = []
            for tensor in answer.tensors:
                begins.append(put("values", tensor.values))
                for pool in ("expected", "certified", "undecided"):
                    put(pool, getattr(tensor, pool))
            facts = {"dialects": list(answer.dialects), "rule": dict(answer.rule), "stand_in": answer.stand_in, "at": begins}
            entry["answers"].append(facts)
        table.append(entry)
    pools = {name: np.concatenate([*each, np.zeros(0, _POOLS[name])]) for name, each in rows.items()}
    return {"version": VERSION, "cases": table}, pools


def write(suite: Suite, path: Path) -> None:
    """Write a suite: the whole file or nothing."""
    table, pools = packed(suite.cases)
    text = np.frombuffer(json.dumps(table, sort_keys=True, separators=(",", ":")).encode(), np.uint8)
    with sealed_hdf5(path, FORMAT, VERSION, libver=("v110", "v110")) as file:
        file.attrs["format"], file.attrs["version"], file.attrs["content_sha256"] = FORMAT, VERSION, suite.content_sha256
        for name, array in {"table": text, **pools}.items():
            file.create_dataset(name, data=array, **_STORAGE)


@functools.cache
def load(path: Path = PATH) -> Suite:
    """Read the suite of the package, or another one.

    Raises
    ------
    GoldenError
        If it is missing, or not as it was made.
    """
    from nplrp.files import hdf5

    try:
        with opened_sealed(path, FORMAT, (VERSION,)) as (file, source):
            found = {name: hdf5.numbers(source, each) for name, each in hdf5.datasets(source, file).items()}
    except (OSError, SealError) as error:
        raise GoldenError(
            f"{path}: the suite can't be read: {error}; install nplrp again, or make it: python -m nplrp.conformance.make"
        ) from None
    table = json.loads(found["table"].tobytes())
    return Suite(tuple(_case(entry, found) for entry in table["cases"]))


def _case(entry: Mapping[str, Any], pools: Mapping[str, np.ndarray]) -> Case:
    def taken(pool: str, begin: int, shape: Sequence[int]) -> np.ndarray:
        return pools[pool][begin : begin + int(np.prod(shape))].reshape(shape)

    arrays = {key: taken("numbers", *place) for key, place in entry["arrays"].items()}
    layer = Layer.described(entry["layer"])
    layer = Layer(**{**{name: getattr(layer, name) for name in layer.__dataclass_fields__}, "arrays": arrays})
    inputs = tuple(taken("numbers", *place).astype(np.float64) for place in entry["inputs"])
    R = taken("numbers", *entry["R"]).astype(np.float64)
    answers = []
    for each in entry["answers"]:
        tensors = []
        for a, begin in zip(inputs, each["at"], strict=True):
            values, expected, certified, undecided = (taken(pool, begin, a.shape) for pool in list(_POOLS)[1:])
            sums = (float(values.sum()), float(np.abs(values).sum()), float(np.abs(values).max(initial=0.0)))
            tensors.append(Tensor(a.shape, values, expected, certified, undecided, np.zeros((0, 2)), "", sums))
        answers.append(Answer(tuple(each["dialects"]), each["rule"], each["stand_in"], tuple(tensors)))
    return Case(entry["name"], layer, inputs, R, entry["exact"], tuple(answers))


def rule_in(answer: Answer) -> Rule:
    """Return an answer's rule."""
    return rule_of(answer.rule)
