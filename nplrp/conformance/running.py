"""Answers judged: which cases pass, fail, were refused; expected failures; the report as text, JSON and JUnit XML."""

from __future__ import annotations

import dataclasses
import math
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from typing import Any
from xml.etree import ElementTree

import numpy as np

from nplrp import __version__
from nplrp.conformance.exporting import Crashed, Refused, Said
from nplrp.conformance.suite import VERSION, Case, Suite
from nplrp.files.atomic import atomic
from nplrp.files.plain import read_plain
from nplrp.golden.errors import DIVERGED, NOTHING, PASSED, GoldenError
from nplrp.golden.judging import judge
from nplrp.golden.report import write_json
from nplrp.golden.values import Tensor
from nplrp.schema import versioned

#: What may be said of a case. An expected failure that passes is told, and is no failure.
PASS, FAIL, XFAIL, XPASS, REFUSED, MISSING = "pass", "FAIL", "xfail", "XPASS", "refused", "missing"


@dataclass(frozen=True)
class Result:
    """How one case went.

    Attributes
    ----------
    case : str
    outcome : str
        pass, FAIL, xfail (it failed, as expected), XPASS (it passed, and wasn't expected to), refused, missing.
    ratio : float
        Largest error in units of its tolerance, NaN where there is no answer.
    text : str
        The worst number, or why there is none.
    """

    case: str
    outcome: str
    ratio: float = math.nan
    text: str = ""


@dataclass(frozen=True, eq=False)
class Outcome:
    """A backend's answers to the suite, judged.

    Attributes
    ----------
    backend, dialect, precision : str
    results : tuple of Result
        In the suite's order.
    unused : tuple of str
        Expected failures that fit no case.
    all_required : bool
        A case without an answer is a failure.
    """

    backend: str
    dialect: str
    precision: str
    results: tuple[Result, ...] = field(repr=False)
    unused: tuple[str, ...] = ()
    all_required: bool = False

    @property
    def counts(self) -> dict[str, int]:
        """How many cases have each outcome."""
        found = Counter(result.outcome for result in self.results)
        return {each: found[each] for each in (PASS, FAIL, XFAIL, XPASS, REFUSED, MISSING) if found[each]}

    @property
    def exit_code(self) -> int:
        """0 if all answers pass or were expected to fail, 1 if one fails, 4 if there is none."""
        if not any(result.outcome in (PASS, FAIL, XFAIL, XPASS) for result in self.results):
            return NOTHING
        bad = (FAIL, REFUSED, MISSING) if self.all_required else (FAIL,)
        return DIVERGED if any(result.outcome in bad for result in self.results) else PASSED

    def table(self) -> list[tuple[str, dict[str, int]]]:
        """Return for each rule how many of its cases have each outcome."""
        found: dict[str, Counter[str]] = {}
        for result in self.results:
            found.setdefault(result.case.rsplit(".", 2)[0], Counter())[result.outcome] += 1
        return [(rule, dict(counts)) for rule, counts in found.items()]

    def __str__(self) -> str:
        columns = [each for each in (PASS, FAIL, XFAIL, XPASS, REFUSED, MISSING) if each in self.counts]
        width = max((len(rule) for rule, _ in self.table()), default=4)
        lines = [f"{self.backend} in dialect {self.dialect}, {self.precision}, suite {VERSION}", ""]
        lines.append(f"{'rule':<{width}} " + " ".join(f"{each:>8}" for each in columns))
        for rule, counts in [*self.table(), ("all", self.counts)]:
            lines.append(f"{rule:<{width}} " + " ".join(f"{counts.get(each) or '.':>8}" for each in columns))
        told = [(FAIL, "failed"), (XPASS, "passed, though expected to fail: take them out of the list")]
        for outcome, what in told:
            found = [result for result in self.results if result.outcome == outcome]
            lines += ["", f"{what}:"] if found else []
            lines += [f"  {result.case}: {result.text}" if result.text else f"  {result.case}" for result in found[:20]]
            lines += [f"  ... and {len(found) - 20} more (--json has all of them)"] if len(found) > 20 else []
        reasons = Counter(result.text for result in self.results if result.outcome == REFUSED)
        lines += ["", "refused:"] if reasons else []
        lines += [f"  {count} x {reason}" for reason, count in reasons.most_common(8)]
        lines += ["", f"expected to fail, but called like no case: {', '.join(self.unused)}"] if self.unused else []
        return "\n".join(lines)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        rows = [{**dataclasses.asdict(each), "ratio": each.ratio if math.isfinite(each.ratio) else None} for each in self.results]
        facts = {"backend": self.backend, "dialect": self.dialect, "precision": self.precision, "suite": VERSION, "nplrp": __version__}
        return {**facts, "exit_code": self.exit_code, "counts": self.counts, "unused": list(self.unused), "results": rows}

    def write_json(self, path: str) -> None:
        """Write it as JSON; ``-`` is standard output."""
        write_json(versioned("conformance", self.as_json()), path)

    def write_junit(self, path: str | os.PathLike[str]) -> None:
        """Write it as JUnit XML, as CI systems read it."""
        counts = self.counts
        skipped = sum(counts.get(each, 0) for each in (XFAIL, REFUSED, MISSING) if not (self.all_required and each != XFAIL))
        failures = sum(counts.get(each, 0) for each in ((FAIL, REFUSED, MISSING) if self.all_required else (FAIL,)))
        numbers = {"tests": str(len(self.results)), "failures": str(failures), "errors": "0", "skipped": str(skipped)}
        name = f"nplrp conformance: {self.backend} in dialect {self.dialect}, {self.precision}"
        root = ElementTree.Element("testsuites", {"name": "nplrp conformance", **numbers})
        suite = ElementTree.SubElement(root, "testsuite", {"name": _plain(name), **numbers, "time": "0"})
        for result in self.results:
            rule, layer, kind = result.case.rsplit(".", 2)
            one = ElementTree.SubElement(suite, "testcase", {"classname": f"{rule}.{layer}", "name": kind, "time": "0"})
            required = self.all_required and result.outcome in (REFUSED, MISSING)
            if result.outcome == FAIL or required:
                said = _plain(result.text or result.outcome)
                ElementTree.SubElement(one, "failure", {"message": said, "type": result.outcome}).text = said
            elif result.outcome in (XFAIL, REFUSED, MISSING):
                ElementTree.SubElement(one, "skipped", {"message": _plain(f"{result.outcome}: {result.text}".rstrip(": "))})
            elif result.outcome == XPASS:
                ElementTree.SubElement(one, "system-out").text = "XPASS: passed, though expected to fail"
        ElementTree.indent(root)
        with atomic(path) as temporary:
            temporary.write_bytes(ElementTree.tostring(root, "utf-8", xml_declaration=True) + b"\n")


def judged(
    suite: Suite,
    said: Mapping[str, Said],
    dialect: str,
    precision: str = "float32",
    *,
    backend: str = "",
    xfails: Sequence[str] = (),
    all_required: bool = False,
) -> Outcome:
    """Judge a backend's answers by what is right in a dialect.

    Parameters
    ----------
    suite : Suite
    said : mapping of str to Said
        By case.
    dialect : str
    precision : "float32" or "float64"
        What the backend computes in.
    backend : str
        What to call it.
    xfails : sequence of str
        Names or patterns of cases that are expected to fail.
    all_required : bool
        Cases without an answer fail.
    """
    results, used = [], set[str]()
    for case in suite.only((), dialect):
        fitting = [pattern for pattern in xfails if fnmatchcase(case.name, pattern)]
        used.update(fitting)
        answer = said.get(case.name)
        if isinstance(answer, Crashed):
            results.append(Result(case.name, XFAIL if fitting else FAIL, text=answer))
            continue
        if answer is None or isinstance(answer, Refused):
            results.append(Result(case.name, MISSING if answer is None else REFUSED, text=answer or ""))
            continue
        ratio, text = ratio_of(case, answer, dialect, precision)
        wrong = not ratio <= 1
        outcome = (XFAIL if wrong else XPASS) if fitting else (FAIL if wrong else PASS)
        results.append(Result(case.name, outcome, ratio, text if wrong else ""))
    unused = tuple(pattern for pattern in xfails if pattern not in used)
    return Outcome(backend, dialect, precision, tuple(results), unused, all_required)


def ratio_of(case: Case, said: Sequence[np.ndarray], dialect: str, precision: str) -> tuple[float, str]:
    """Return the largest error of an answer in units of its tolerance, and the worst number in words."""
    answer = case.answer(dialect)
    assert answer is not None
    return ratio_to(answer.tensors, said, precision)


def ratio_to(tensors: Sequence[Tensor], said: Sequence[np.ndarray], precision: str) -> tuple[float, str]:
    """Return the largest error in units of its tolerance, 0 where only undecided signs explain it; and the worst number in words."""
    worst, text = 0.0, ""
    for k, (got, tensor) in enumerate(zip(said, tensors, strict=True)):
        undecided = np.zeros(tensor.shape) if precision == "float64" else tensor.undecided  # as `tolerances` has it
        judgement = judge(got, dataclasses.replace(tensor, undecided=undecided), precision=precision)
        ratio = judgement.ratio if math.isfinite(judgement.ratio) else math.inf
        if ratio > worst:
            of_input = f" of input {k}" if len(said) > 1 else ""
            worst = ratio
            text = judgement.note or (
                f"{ratio:.3g} times the tolerance at {judgement.worst}{of_input}: got {judgement.got:.9g}, expected "
                f"{judgement.expected:.9g} +- {judgement.tolerance:.2g}"
            )
    return worst, text


def read_xfails(path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Read names or patterns of cases, one a line; what follows a # is a comment.

    Raises
    ------
    GoldenError
        If it can't be read.
    """
    try:
        lines = read_plain(path).decode("utf-8").splitlines()
    except (OSError, ValueError) as error:
        raise GoldenError(f"{path}: expected failures can't be read: {getattr(error, 'strerror', None) or error}") from None
    return tuple(dict.fromkeys(name for line in lines if (name := line.partition("#")[0].strip())))


def _plain(text: str) -> str:
    """Drop what XML can't hold."""
    return "".join(c for c in text if c in "\t\n" or (" " <= c <= "\ud7ff") or "\ue000" <= c <= "\ufffd" or c >= "\U00010000")
