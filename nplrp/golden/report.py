"""What `check` found, as text, as JSON values, and as data for a picture."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nplrp.files.atomic import atomic, check_place
from nplrp.golden.decisions import Decisions
from nplrp.golden.errors import DIVERGED as FAILED
from nplrp.golden.errors import NOTHING, PASSED
from nplrp.golden.judging import DIVERGED, EXACT, INHERITED, SUSPECT, WITHIN, Judgement
from nplrp.schema import versioned

#: Of the report's columns of numbers.
WIDTHS = (8, 8, 8, 7, 9, 8)
#: Ways to check, and what each is for.
MODES = {
    "chained": "it ran from end to end",
    "isolated": "each layer got golden inputs",
    "local": "each layer is computed again from the candidate's own numbers",
}


@dataclass(frozen=True)
class Row:
    """One comparison.

    Attributes
    ----------
    layer : str
        The layer whose computation is judged: for relevance the one whose rule made it, ``"start"`` at the top; all of them, where
        several layers read an output and its relevance is a sum.
    array : str
        The layer whose activation or relevance was compared.
    what : "relevance" or "activation"
    rule : str
        Of the layer.
    judgement : Judgement
    made_by : tuple of str
        Of relevance: the layers whose rules made it.
    """

    layer: str
    array: str
    what: str
    rule: str
    judgement: Judgement
    made_by: tuple[str, ...] = ()

    @property
    def verdict(self) -> str:
        """The judgement's verdict."""
        return self.judgement.verdict


@dataclass(frozen=True)
class Report:
    """The result of a check; prints itself.

    Attributes
    ----------
    rows : tuple of Row
        Relevance from the output down to the input, then activations from the input up.
    mode, precision, source, golden : str
    missing : tuple of str
        Golden arrays that nothing was compared with: names of layers for relevance, ``"activation of NAME"``.
    unknown : tuple of str
        Names in the candidate that mean nothing to the golden file.
    diagnosis : tuple of str
        Sentences about the first diverging layer.
    ambiguous : int
        Decisions of the golden run that lie inside the error bound.
    decisions : tuple of Decisions
        What the candidate decided otherwise, by layer; where it gave activations.
    maps : mapping of str to (golden, candidate)
        Images of relevance by layer, for the picture.
    lookalikes : tuple of str
        Those of the unknown names whose arrays are as large as golden ones that nothing was compared with.
    local : Report or None
        The local check that followed one from end to end, and counts as well.
    require_all : bool
        Nothing passes that isn't complete.
    fail_on : str
        ``"diverged"``, or ``"suspect"``: then nothing passes that is suspect.
    """

    rows: tuple[Row, ...]
    mode: str
    precision: str
    source: str
    golden: str
    missing: tuple[str, ...]
    unknown: tuple[str, ...] = ()
    diagnosis: tuple[str, ...] = ()
    ambiguous: int = 0
    decisions: tuple[Decisions, ...] = ()
    maps: Mapping[str, tuple[np.ndarray, np.ndarray]] = field(default_factory=dict, repr=False, compare=False)
    lookalikes: tuple[str, ...] = ()
    local: Report | None = None
    require_all: bool = False
    fail_on: str = "diverged"

    @property
    def first(self) -> Row | None:
        """The first diverging activation, since relevance follows from it; else the first diverging relevance, as relevance runs."""
        rows = [row for row in self.rows if row.verdict == DIVERGED]
        return next((row for row in rows if row.what == "activation"), rows[0] if rows else None)

    @property
    def passed(self) -> bool:
        """Whether nothing diverged, here or in the local check that followed, and what was asked for is complete."""
        return self.exit_code == PASSED

    @property
    def exit_code(self) -> int:
        """The command line's: 0 pass, 1 diverged, 4 too little was compared."""
        checks = [self] if self.local is None else [self, self.local]
        told = {row.verdict for each in checks for row in each.rows}
        if DIVERGED in told or (self.fail_on == "suspect" and SUSPECT in told):
            return FAILED
        return NOTHING if self.misnamed or (self.require_all and self.missing) else PASSED

    @property
    def misnamed(self) -> bool:
        """Whether no more relevances were compared than there are arrays as large under names that mean nothing."""
        return len(self.lookalikes) > 0 and len(self.lookalikes) >= sum(row.what == "relevance" for row in self.rows)

    def row(self, layer: str, what: str = "relevance") -> Row:
        """Return the row that judges a layer."""
        return next(row for row in self.rows if row.layer == layer and row.what == what)

    def as_json(self) -> dict[str, Any]:
        """Return the report as plain values."""
        rows = [{"layer": r.layer, "array": r.array, "what": r.what, "rule": r.rule, **dataclasses.asdict(r.judgement)} for r in self.rows]
        first = self.first
        return {
            "golden": self.golden,
            "candidate": self.source,
            "mode": self.mode,
            "precision": self.precision,
            "passed": self.passed,
            "first_diverging": None if first is None else {"layer": first.layer, "what": first.what},
            "rows": rows,
            "diagnosis": list(self.diagnosis),
            "not_compared": list(self.missing),
            "unknown": list(self.unknown),
            "ambiguous_decisions": self.ambiguous,
            "decided_otherwise": [dataclasses.asdict(each) for each in self.decisions],
            "local": None if self.local is None else self.local.as_json(),
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON; ``"-"`` is standard output."""
        write_json(versioned("golden.check", self.as_json()), path)

    def __str__(self) -> str:
        lines = [f"{self.source} against {self.golden}: {self.mode} ({MODES[self.mode]}), {self.precision}"]
        lines += [*self._tables(), self._summary()]
        if self.local is not None:
            lines += self._of_local(self.local)
        lines += [f"diagnosis: {each}" for each in self.diagnosis]
        if self.ambiguous:
            lines.append(f"ambiguous decisions in the golden run (signs before a ReLU, winners): {self.ambiguous}")
        lines += self._decisions()
        if self.missing:
            lines.append(f"{'not passed, since these were not compared' if self.require_all else 'not compared'}: {_listed(self.missing)}")
        if self.misnamed:
            compared = sum(row.what == "relevance" for row in self.rows)
            lines.append(
                f"not passed: {compared} relevances have names that are known, {len(self.lookalikes)} of the unknown ones are as large as "
                "layers that nothing was compared with; give --map, or names=, a table of names"
            )
        if self.unknown:
            lines.append(f"unknown names in the candidate: {', '.join(self.unknown)}")
        return "\n".join(lines)

    def _tables(self) -> list[str]:
        lines = []
        for what in ("relevance", "activation"):
            rows = [row for row in self.rows if row.what == what]
            if rows:
                lines += [*([""] if what == "activation" else []), *_table(rows, what, self.first)]
        return lines

    def _of_local(self, local: Report) -> list[str]:
        """Say what the local check found that followed."""
        bad = [row for row in local.rows if row.verdict not in (EXACT, WITHIN)]
        if not bad:
            return [f"each layer alone, computed again from the candidate's own numbers: {len(local.rows)} arrays within their bounds"]
        told = Report(tuple(bad), "local", local.precision, local.source, local.golden, ())
        return [
            "each layer alone, computed again from the candidate's own numbers; outside of their bounds:",
            *told._tables(),
            local._summary(),
        ]

    def _decisions(self) -> list[str]:
        """Say which decisions the candidate took otherwise than the golden run, and whether rounding explains them."""
        if not self.decisions:
            return []
        if not any(each.other for each in self.decisions):
            return ["decided otherwise than in the golden run: nothing"]
        counts = [f"{sum(each.other for each in self.decisions if each.what == what)} {what}s" for what in ("sign", "winner")]
        sure = [f"{each.unexplained} {each.what}s at {each.layer}" for each in self.decisions if each.unexplained]
        why = f"more than rounding explains: {', '.join(sure)}" if sure else "all of them ambiguous, so rounding explains them"
        return [f"decided otherwise than in the golden run: {' and '.join(counts)}; {why}"]

    def _summary(self) -> str:
        first = self.first
        if first is None:
            suspects = [
                f"{row.layer}{f' ({row.judgement.note})' if row.judgement.note else ''}" for row in self.rows if row.verdict == SUSPECT
            ]
            more = f"; larger than expected, but not beyond rounding: {', '.join(suspects)}" if suspects else ""
            return f"{'passed' if self.passed else 'nothing diverged'}: {len(self.rows)} arrays{more}"
        j, what = first.judgement, f" (rule {first.rule})" if first.rule and first.what == "relevance" else ""
        where = f"{first.what} of {first.array}" if first.array != first.layer else first.what
        return (
            f"first diverging layer: {first.layer}{what}, {where}: {j.over} of {j.elements} elements over bound"
            f"{f' ({j.note})' if j.note else ''}; worst at {j.worst}: got {j.got:.9g} expected {j.expected:.9g} tol {j.tolerance:.3g}"
        )


def check_outputs(*paths: str | os.PathLike[str] | None) -> None:
    """See that reports can be written there before anything is computed; None and ``"-"`` always can.

    Raises
    ------
    OutputError
    """
    for path in paths:
        if path and str(path) != "-":
            check_place(path)


def write_json(values: Mapping[str, Any], path: str | os.PathLike[str]) -> None:
    """Write JSON values to a file, whole or not at all; ``"-"`` is standard output."""
    text = json.dumps(_finite(values), indent=1) + "\n"
    if str(path) == "-":
        sys.stdout.write(text)
        return
    with atomic(path) as temporary:
        temporary.write_text(text, "utf-8")


def _finite(value: Any) -> Any:
    """Return JSON values with infinite numbers as texts."""
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _listed(missing: tuple[str, ...]) -> str:
    """Return names, those of activations together."""
    prefix = "activation of "
    relevances = [name for name in missing if not name.startswith(prefix)]
    activations = [name.removeprefix(prefix) for name in missing if name.startswith(prefix)]
    parts = [*relevances, *([f"activations of {', '.join(activations)}"] if activations else [])]
    return ", ".join(parts)


def _table(rows: list[Row], what: str, first: Row | None) -> list[str]:
    width = max(len("layer"), *(len(row.layer) for row in rows))
    heads = [f"{head:>{wide}}" for head, wide in zip(("err/tol", "min.tol", "sum|d|", "sums", "cosine", "ulp"), WIDTHS, strict=True)]
    lines = [f"{'layer':<{width}}  {'  '.join(heads)}  verdict    {what} of"]
    for row in rows:
        j = row.judgement
        texts = (f"{j.ratio:.2g}", f"{j.minimum_rtol:.1e}", f"{j.relative_sum:.1e}", f"{j.sums:.2g}", f"{j.cosine:.6f}", f"{j.ulp:.2g}")
        numbers = "  ".join(f"{text:>{wide}}" for text, wide in zip(texts, WIDTHS, strict=True))
        undecided = f"  {j.undecided} undecided" if j.undecided else ""
        mark = "  <- first" if row is first else ""
        lines.append(f"{row.layer:<{width}}  {numbers}  {row.verdict:<9}  {row.array}{undecided}{mark}")
    return lines


def with_inherited(rows: list[Row], hangs_on: Callable[[str], Set[str]], diverged: Set[str] = frozenset()) -> list[Row]:
    """Mark rows whose numbers were made of those of a diverging row as inherited.

    `hangs_on`: array -> all that it was made of; `diverged`: arrays that are known to have diverged, beside those of the rows.
    """
    seen, done = set(diverged), []
    for row in rows:
        inherits = row.verdict in (SUSPECT, DIVERGED) and not seen.isdisjoint(hangs_on(row.array))
        if row.verdict == DIVERGED:
            seen.add(row.array)
        done.append(dataclasses.replace(row, judgement=dataclasses.replace(row.judgement, verdict=INHERITED)) if inherits else row)
    return done
