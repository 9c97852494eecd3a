"""The suite in one dialect as files for any language, and answers read back (docs/verify-your-own-backend.md has the format)."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.conformance.cases import input_names
from nplrp.conformance.suite import FORMAT, VERSION, Answer, Case, Suite, tolerances
from nplrp.files.arrays import read_npz
from nplrp.files.atomic import atomic_folder
from nplrp.files.plain import read_plain
from nplrp.golden.errors import GoldenError
from nplrp.golden.judging import REACH, SMALLEST
from nplrp.layers.base import window_of

TO = ("raw", "npz")
DTYPES: dict[str, np.dtype[Any]] = {"float32": np.dtype("<f4"), "float64": np.dtype("<f8")}
#: Longest file of an answer that is read: the largest case has some hundred numbers.
_MOST = 1 << 24


class Refused(str):
    """Why a backend has no answer to a case, in one line."""

    __slots__ = ()


class Crashed(Refused):
    """What a backend failed with, in one line: the case fails."""

    __slots__ = ()


#: What a backend says to a case: an array for each input, or why it has none; None: nothing.
Said = tuple[np.ndarray, ...] | Refused | None


def export(suite: Suite, folder: str | os.PathLike[str], dialect: str, precision: str = "float32", to: str = "raw") -> int:
    """Write each case that a dialect has an answer to, and return how many.

    Parameters
    ----------
    suite : Suite
    folder : path
        A new or empty one; it is there once it is whole.
    dialect : str
        Whose constants and answers.
    precision : "float32" or "float64"
        Of the numbers, which are the same in both, and of the tolerances.
    to : "raw" or "npz"
        A folder for each case, with raw numbers and texts; or a file for each.

    Raises
    ------
    GoldenError
        If there is no such format or precision.
    OutputError
        If the folder can't be written.
    """
    if to not in TO or precision not in DTYPES:
        raise GoldenError(f"there is no export to {to!r} in {precision!r}; expected {' or '.join(TO)}, and {' or '.join(DTYPES)}")
    names = []
    with atomic_folder(folder) as made:
        for case in suite.only((), dialect):
            answer = case.answer(dialect)
            assert answer is not None
            arrays, about = dict(_arrays(case, answer, precision)), _about(case, answer, dialect, precision)
            if to == "npz":
                with (made / f"{case.name}.npz").open("xb") as file:
                    np.savez(file, about=np.array(json.dumps(about)), **{name: array for name, (_, array) in arrays.items()})  # type: ignore[arg-type]
            else:
                _write_raw(made / case.name, arrays, about, case, answer)
            names.append(case.name)
        (made / "cases.txt").write_text("".join(f"{name}\n" for name in names), "utf-8")
    return len(names)


def _write_raw(folder: Path, arrays: Mapping[str, tuple[str, np.ndarray]], about: Mapping[str, Any], case: Case, answer: Answer) -> None:
    folder.mkdir()
    lines = []
    for file, (name, array) in arrays.items():
        (folder / f"{file}.bin").write_bytes(array.tobytes())
        shape = " ".join(map(str, array.shape))
        lines.append(f"{file}.bin {array.dtype.str[1:]} {array.ndim} {shape} {name}\n")
    first, shape = next(iter(arrays)), " ".join(map(str, case.inputs[0].shape))
    lines.append(f"{first}.bin {arrays[first][1].dtype.str[1:]} {case.inputs[0].ndim} {shape} input\n")
    (folder / "contents.txt").write_text("".join(lines), "utf-8")
    (folder / "case.txt").write_text("".join(f"{key} {value}\n" for key, value in _lines(case, answer)), "utf-8")
    (folder / "about.json").write_text(json.dumps(about, indent=1, sort_keys=True) + "\n", "utf-8")


def _arrays(case: Case, answer: Answer, precision: str) -> Iterator[tuple[str, tuple[str, np.ndarray]]]:
    """Yield (file, (name in exchange folders, array))."""
    dtype = DTYPES[precision]
    for name, a in zip(input_names(len(case.inputs)), case.inputs, strict=True):
        yield name, (f"layers/{name}/activation", a.astype(dtype))
    for key, array in sorted(case.layer.arrays.items()):
        yield key, (f"weights/layer/{key}", array.astype(dtype))
    yield "R", ("layers/layer/relevance", case.R.astype(dtype))
    expected = np.concatenate([tensor.values.reshape(-1) for tensor in answer.tensors])
    yield "expected", ("expected", expected.astype("<f8"))
    yield "tolerance", ("tolerance", tolerance(answer, precision).astype("<f8"))


def tolerance(answer: Answer, precision: str) -> np.ndarray:
    """Return how far each number may be off: the certified bound, and what hangs on undecided signs; all inputs one behind the other."""
    found = []
    for tensor in answer.tensors:
        _, certified, undecided = tolerances(tensor, precision)
        found.append((certified + REACH * undecided + 4 * SMALLEST[precision]).reshape(-1))
    return np.concatenate(found)


def _about(case: Case, answer: Answer, dialect: str, precision: str) -> dict[str, Any]:
    """Return what a case is as JSON values; `layers` is the table of an exchange folder (docs/golden.md)."""
    names = input_names(len(case.inputs))
    rows = [
        {"name": name, "kind": "input", "rule": {"name": "pass"}, "output_shape": list(a.shape[1:]), "activation": "linear"}
        | {"window": None, "epsilon": 0.0, "pads": None}
        for name, a in zip(names, case.inputs, strict=True)
    ]
    layer = {**case.layer.describe(), "inputs": list(names), "rule": dict(answer.rule), "merged": False}
    facts: dict[str, Any] = {"format": FORMAT, "version": VERSION, "case": case.name, "dialect": dialect, "precision": precision}
    facts |= {"rule": dict(answer.rule), "exact_sums": case.exact, "layers": [*rows, layer]}
    facts |= {"targets": None, "start": "one", "composite": "conformance", "stand_ins": answer.stand_in}
    return facts


def _lines(case: Case, answer: Answer) -> Iterator[tuple[str, str]]:
    """Yield the same as keys and words, for languages without a reader of JSON."""
    layer = case.layer
    yield "case", case.name
    for key, value in answer.rule.items():
        if value is not None:
            text = " ".join(map(repr, value)) if isinstance(value, list) else str(int(value)) if isinstance(value, bool) else str(value)
            yield ("rule" if key == "name" else key), text
    yield "kind", layer.kind
    yield "activation", layer.activation
    if layer.window is not None:
        window = window_of(layer)
        image = layer.output_shape if layer.kind == "conv_transpose" else layer.input_shape
        for key, pair in (("size", window.size), ("stride", window.stride), ("dilation", window.dilation)):
            yield key, " ".join(map(str, pair))
        yield "pads", " ".join(map(str, window.pads(*image[:2])))
    if layer.pads is not None:
        yield "pads", " ".join(map(str, layer.pads))
    if layer.epsilon:
        yield "layer_epsilon", repr(layer.epsilon)
    for key, value in sorted(layer.options.items()):
        yield key, " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
    for name, a in zip(input_names(len(case.inputs)), case.inputs, strict=True):
        yield name, " ".join(map(str, a.shape))
    yield "output", " ".join(map(str, case.R.shape))


def read_answers(path: str | os.PathLike[str], suite: Suite) -> dict[str, Said]:
    """Read what a backend answered.

    Parameters
    ----------
    path : path
        A folder with ``CASE.bin`` for each case, float32 or float64 as its size says, the inputs' relevances one behind the other, and
        perhaps ``CASE.txt`` with the reason where there is none. Or an .npz file of arrays that are called after the cases.
    suite : Suite

    Raises
    ------
    GoldenError
        If it can't be read, or an answer has another size.
    """
    path = Path(path)
    try:
        if path.is_dir():
            return dict(_of_folder(path, suite))
        if path.suffix == ".npz":
            data = read_npz(path, {case.name for case in suite})
            return {case.name: _split(case, data[case.name], path) for case in suite if case.name in data}
    except (OSError, ValueError) as error:
        raise GoldenError(f"{path}: answers can't be read: {getattr(error, 'strerror', None) or error}; write them again") from None
    raise GoldenError(f"{path}: isn't there, or is neither a folder of answers nor an .npz file; see docs/verify-your-own-backend.md")


def _of_folder(folder: Path, suite: Suite) -> Iterator[tuple[str, Said]]:
    present = {each.name for each in folder.iterdir()}
    for case in suite:
        if f"{case.name}.bin" in present:
            path = folder / f"{case.name}.bin"
            data, count = read_plain(path, _MOST), sum(a.size for a in case.inputs)
            if len(data) not in (4 * count, 8 * count):
                raise GoldenError(
                    f"{path}: has {len(data)} bytes, expected {4 * count} (float32) or {8 * count} (float64): {count} numbers, "
                    f"the relevance of {' and '.join(map(str, case.shapes))}"
                )
            yield case.name, _split(case, np.frombuffer(data, "<f4" if len(data) == 4 * count else "<f8"), path)
        elif f"{case.name}.txt" in present:
            said = read_plain(folder / f"{case.name}.txt", _MOST).decode("utf-8", "replace").strip().splitlines()
            yield case.name, Refused(said[0] if said else "no answer")


def _split(case: Case, numbers: np.ndarray, path: Path) -> tuple[np.ndarray, ...]:
    """Cut the numbers of all inputs into arrays."""
    sizes = [a.size for a in case.inputs]
    if numbers.size != sum(sizes) or numbers.dtype.kind not in "fiu":
        raise GoldenError(f"{path}: {case.name} has {numbers.size} numbers of type {numbers.dtype}, expected {sum(sizes)}: {case.shapes}")
    flat = numbers.reshape(-1)
    flat = flat if flat.dtype.kind == "f" else flat.astype(np.float64)
    cut = np.split(flat, np.cumsum(sizes)[:-1])
    return tuple(each.reshape(shape) for each, shape in zip(cut, case.shapes, strict=True))
