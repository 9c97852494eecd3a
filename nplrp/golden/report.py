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

from nplrp.files.atomic import atomic
from nplrp.golden.decisions import Decisions
from nplrp.golden.judging import DIVERGED, INHERITED, SUSPECT, Judgement
from nplrp.schema import versioned


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
        Golden arrays that the candidate doesn't have.
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

    @property
    def first(self) -> Row | None:
        """The first diverging row in the direction of relevance; else the first diverging activation."""
        return next((row for row in self.rows if row.verdict == DIVERGED), None)

    @property
    def passed(self) -> bool:
        """Whether nothing diverged."""
        return self.first is None

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
        }

    def write_json(self, path: str | os.PathLike[str]) -> None:
        """Write the report as JSON; ``"-"`` is standard output."""
        write_json(versioned("golden.check", self.as_json()), path)

    def __str__(self) -> str:
        lines = [f"{self.source} against {self.golden}: {self.mode}, {self.precision}"]
        for what in ("relevance", "activation"):
            rows = [row for row in self.rows if row.what == what]
            if rows:
                lines += [*([""] if what == "activation" else []), *_table(rows, what, self.first)]
        lines += [self._summary(), *(f"diagnosis: {each}" for each in self.diagnosis)]
        if self.ambiguous:
            lines.append(f"ambiguous decisions in the golden run (signs before a ReLU, winners): {self.ambiguous}")
        lines += self._decisions()
        if self.missing:
            lines.append(f"not compared: {', '.join(self.missing)}")
        if self.unknown:
            lines.append(f"unknown names in the candidate: {', '.join(self.unknown)}")
        return "\n".join(lines)

    def _decisions(self) -> list[str]:
        """Say which decisions the candidate took otherwise than the golden run, and whether rounding explains them."""
        if not self.decisions:
            return []
        counts = [f"{sum(each.other for each in self.decisions if each.what == what)} {what}s" for what in ("sign", "winner")]
        sure = [f"{each.unexplained} {each.what}s at {each.layer}" for each in self.decisions if each.unexplained]
        why = f"beyond the error of one layer: {', '.join(sure)}" if sure else "all of them ambiguous, so rounding explains them"
        return [f"decided otherwise than in the golden run: {' and '.join(counts)}; {why}"]

    def _summary(self) -> str:
        first = self.first
        if first is None:
            suspects = [row.layer for row in self.rows if row.verdict == SUSPECT]
            more = f"; larger than expected, but not beyond rounding: {', '.join(suspects)}" if suspects else ""
            return f"passed: {len(self.rows)} arrays{more}"
        j, what = first.judgement, f" (rule {first.rule})" if first.rule and first.what == "relevance" else ""
        where = f"{first.what} of {first.array}" if first.array != first.layer else first.what
        return (
            f"first diverging layer: {first.layer}{what}, {where}: {j.over} of {j.elements} elements over bound"
            f"{f' ({j.note})' if j.note else ''}; worst at {j.worst}: got {j.got:.9g} expected {j.expected:.9g} tol {j.tolerance:.3g}"
        )


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


def _table(rows: list[Row], what: str, first: Row | None) -> list[str]:
    width = max(len("layer"), *(len(row.layer) for row in rows))
    lines = [f"{'layer':<{width}}  {'err/tol':>8}  {'min.tol':>8}  {'sum|d|':>8}  {'cosine':>9}  {'ulp':>8}  verdict    {what} of"]
    for row in rows:
        j = row.judgement
        numbers = "  ".join(
            [f"{j.ratio:>8.2g}", f"{j.minimum_rtol:>8.1e}", f"{j.relative_sum:>8.1e}", f"{j.cosine:>9.6f}", f"{j.ulp:>8.2g}"]
        )
        undecided = f"  {j.undecided} undecided" if j.undecided else ""
        mark = "  <- first" if row is first else ""
        lines.append(f"{row.layer:<{width}}  {numbers}  {row.verdict:<9}  {row.array}{undecided}{mark}")
    return lines


def with_inherited(rows: list[Row], hangs_on: Callable[[str], Set[str]]) -> list[Row]:
    """Mark rows whose numbers were made of those of a diverging row as inherited; `hangs_on`: array -> all that it was made of."""
    seen, done = set[str](), []
    for row in rows:
        inherits = row.verdict in (SUSPECT, DIVERGED) and not seen.isdisjoint(hangs_on(row.array))
        if row.verdict == DIVERGED:
            seen.add(row.array)
        done.append(dataclasses.replace(row, judgement=dataclasses.replace(row.judgement, verdict=INHERITED)) if inherits else row)
    return done
