"""Who is asked: nplrp itself, a library in an interpreter of its own, a function of a module, a program."""

from __future__ import annotations

import importlib
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.conformance.computing import Bench
from nplrp.conformance.exporting import DTYPES, Crashed, Refused, Said, export, read_answers
from nplrp.conformance.suite import Case, Suite, rule_in
from nplrp.errors import NplrpError, brief
from nplrp.golden.errors import GoldenError
from nplrp.progress import Progress
from nplrp.rules.dialects import DIALECTS, dialect_named

#: Libraries -> the dialect that is their own.
LIBRARIES: Mapping[str, str] = {"zennit": "zennit-0.5", "captum": "captum-0.9", "innvestigate": "innvestigate-2.1", "lxt": "lxt-2.1"}
OWN = "nplrp"
_PEERS = Path(__file__).parent / "peers" / "ask.py"


@dataclass(frozen=True, eq=False)
class Question:
    """What a function of a module is given for a case.

    Attributes
    ----------
    name : str
    rule : mapping
        The rule's name, and every constant.
    layer : mapping
        Kind, window, activation, options and so on, as JSON values (docs/golden.md).
    arrays : mapping of str to ndarray
        The layer's: ``kernel`` (HWIO, or (in, out)), ``bias``, or what its kind has.
    inputs : tuple of ndarray [n, *input_shape]
    R : ndarray [n, *output_shape]
        Relevance of the layer's output.
    """

    name: str
    rule: Mapping[str, Any]
    layer: Mapping[str, Any]
    arrays: Mapping[str, np.ndarray] = field(repr=False)
    inputs: tuple[np.ndarray, ...] = field(repr=False)
    R: np.ndarray = field(repr=False)


def answers_of(backend: str, suite: Suite, dialect: str, precision: str = "float32", python: str | None = None) -> dict[str, Said]:
    """Ask a backend every case in a dialect.

    Parameters
    ----------
    backend : str
        ``"nplrp"``; one of `LIBRARIES`; ``"module:object"``, a function from a `Question` to an array for each input, which raises
        NotImplementedError where it has no answer; or ``"exec:COMMAND"``, which is run as COMMAND IN OUT, two folders.
    suite : Suite
    dialect : str
        Whose constants it is given.
    precision : "float32" or "float64"
    python : str or None
        The interpreter that has the library.

    Raises
    ------
    GoldenError
        If there is no such backend, or it can't be run.
    """
    suite = suite.only((), dialect)
    if python is not None and backend not in LIBRARIES:
        raise GoldenError(f"--python is for {', '.join(LIBRARIES)}; a command begins with its own interpreter")
    if backend == OWN:
        return dict(_own(suite, dialect, precision))
    if backend in LIBRARIES:
        return _by_command([python or sys.executable, str(_PEERS), backend], backend, suite, dialect, precision)
    kind, separator, rest = backend.partition(":")
    if kind == "exec" and rest:
        try:
            words = shlex.split(rest)
        except ValueError as error:
            raise GoldenError(f"--backend {backend}: can't be read as a command: {error}") from None
        return _by_command(words, backend, suite, dialect, precision)
    if separator and kind and rest:
        return dict(_by_function(_object(kind, rest), suite, dialect, precision))
    raise GoldenError(f"there is no backend {brief(backend)}; give nplrp, {', '.join(LIBRARIES)}, module:object or exec:COMMAND")


def dialect_of(backend: str, given: str | None) -> str:
    """Return the full name of the dialect to ask in: the given one, or a library's own, or nplrp's.

    Raises
    ------
    RuleError
        If there is no such dialect.
    """
    name = given or LIBRARIES.get(backend, OWN)
    return dialect_named(name if given or name in DIALECTS else OWN).name


def _own(suite: Suite, dialect: str, precision: str) -> Iterator[tuple[str, Said]]:
    for case in suite:
        answer = case.answer(dialect)
        assert answer is not None
        bench = Bench(case.layer, case.inputs, case.R, case.exact)
        asked = None if bench.asks_for_own(case.rule_name) else rule_in(answer)
        yield case.name, bench.run(bench.place(asked, dialect, precision, "auto"))


def _by_function(answer: Callable[[Question], Any], suite: Suite, dialect: str, precision: str) -> Iterator[tuple[str, Said]]:
    dtype = DTYPES[precision].newbyteorder("=")
    for case in suite:
        right = case.answer(dialect)
        assert right is not None
        arrays = {key: array.astype(dtype) for key, array in case.layer.arrays.items()}
        inputs = tuple(a.astype(dtype) for a in case.inputs)
        question = Question(case.name, right.rule, case.layer.describe(), arrays, inputs, case.R.astype(dtype))
        try:
            yield case.name, _fitted(case, answer(question))
        except NotImplementedError as error:
            yield case.name, Refused(str(error).strip().partition("\n")[0] or "NotImplementedError")
        except Exception as error:  # a case that it fails on is a case that it fails
            if isinstance(error, GoldenError):
                raise
            yield case.name, Crashed(f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")


def _fitted(case: Case, said: Any) -> tuple[np.ndarray, ...]:
    """Return what a function gave, an array for each input."""
    several = said if isinstance(said, tuple | list) else (said,)
    found = tuple(np.asarray(each) for each in several)
    if tuple(each.shape for each in found) != case.shapes:
        raise GoldenError(f"{case.name}: the backend's answer has shapes {[each.shape for each in found]}, expected {list(case.shapes)}")
    return found


def _object(module: str, path: str) -> Callable[[Question], Any]:
    with _here():
        try:
            found: Any = importlib.import_module(module)
            for name in path.split("."):
                found = getattr(found, name)
        except (ImportError, AttributeError, ValueError) as error:
            raise GoldenError(f"--backend {module}:{path}: {error}; give a module that can be imported from here, and a function") from None
    if not callable(found):
        raise GoldenError(f"--backend {module}:{path}: is {brief(found)}; expected a function")
    return found


@contextmanager
def _here() -> Iterator[None]:
    """Let modules be found in the current folder, as `python -m` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _by_command(command: Sequence[str], what: str, suite: Suite, dialect: str, precision: str) -> dict[str, Said]:
    """Run a command on the exported suite in a process of its own."""
    with tempfile.TemporaryDirectory(prefix="nplrp-") as folder:
        source, target = Path(folder) / "in", Path(folder) / "out"
        export(suite, source, dialect, precision)
        target.mkdir()
        code, said = _watched([*command, str(source), str(target)], target, len(suite))
        if code:
            last = "; ".join(said.splitlines()[-3:])
            raise GoldenError(f"{what}: ended with exit code {code}: {last or 'it said nothing'}")
        try:
            return read_answers(target, suite)
        except NplrpError as error:
            raise GoldenError(f"{what}: {error}") from None


def _watched(command: Sequence[str], target: Path, cases: int) -> tuple[int, str]:
    """Run a command that writes a file for each case; return its exit code, and what it said on stderr, or else on stdout.

    Raises
    ------
    GoldenError
        If it can't be run.
    """
    progress = Progress(cases, label="asking", unit="cases")
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err)
        except OSError as error:
            raise GoldenError(f"{command[0]}: can't be run: {error.strerror or error}; give a program and its arguments") from None
        try:
            while process.poll() is None:
                with suppress(subprocess.TimeoutExpired):
                    process.wait(0.2)
                progress.update(sum(1 for _ in target.iterdir()))
        finally:
            process.kill()  # if it still runs, somebody has pressed Ctrl-C
            process.wait()
            progress.close()
        texts = []
        for file in (err, out):
            file.seek(0)
            texts.append(file.read().decode("utf-8", "replace").strip())
        return process.returncode, texts[0] or texts[1]
