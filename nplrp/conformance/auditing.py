"""How much the suite itself could let through, or turn away: what tolerances hide, which faults are caught, which right code isn't."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.conformance.computing import Bench
from nplrp.conformance.running import ratio_to
from nplrp.conformance.suite import Case, Suite, rule_in
from nplrp.golden.auditing import RIGHT, VACUOUS
from nplrp.golden.faults import FAULTS, Place
from nplrp.golden.judging import REACH
from nplrp.golden.values import Tensor


@dataclass(frozen=True)
class CaseAudit:
    """What one case could hide.

    Attributes
    ----------
    case : str
    vacuity : float
        sum min(|R|, tolerance) / sum |R| for float32; it counts what hangs on undecided signs.
    zeros : float
        The share of the answer that is exactly 0.
    caught, missed, unchanged : tuple of int
        Numbers of the seeded faults that it catches and doesn't; and those that change no bit of the answer.
    rejected : tuple of str
        Right code in float32 that fails it.
    """

    case: str
    vacuity: float
    zeros: float
    caught: tuple[int, ...]
    missed: tuple[int, ...]
    unchanged: tuple[int, ...]
    rejected: tuple[str, ...]

    @property
    def rule(self) -> str:
        """The first part of the case's name."""
        return self.case.rsplit(".", 2)[0]


@dataclass(frozen=True)
class SuiteAudit:
    """What the suite could hide in one dialect; prints itself."""

    dialect: str
    cases: tuple[CaseAudit, ...]

    @property
    def kill_rate(self) -> float:
        """The share of seeded faults that are caught in at least one case of a rule, among those that change a bit there."""
        caught = {(c.rule, number) for c in self.cases for number in c.caught}
        telling = caught | {(c.rule, number) for c in self.cases for number in c.missed}
        return len(caught) / len(telling) if telling else 1.0

    @property
    def passed(self) -> bool:
        """Whether no right code fails. A fault that no case of a rule catches may lie below rounding: ten times an epsilon of 1e-7, say."""
        return not any(c.rejected for c in self.cases)

    def as_json(self) -> dict[str, Any]:
        """Return everything as JSON values."""
        rows = [dataclasses.asdict(each) for each in self.cases]
        return {"dialect": self.dialect, "passed": self.passed, "kill_rate": self.kill_rate, "cases": rows}

    def __str__(self) -> str:
        groups: dict[str, list[CaseAudit]] = {}
        for each in self.cases:
            groups.setdefault(each.rule, []).append(each)
        width = max(len("rule"), *map(len, groups))
        lines = [
            f"what the suite's tolerances could hide and catch in dialect {self.dialect}, float32",
            f"{'rule':<{width}}  cases  zeros  vacuity: median  worst  vacuous  faults caught  in no case",
        ]
        for rule, cases in groups.items():
            vacuities = [each.vacuity for each in cases]
            caught, missed = Counter(n for each in cases for n in each.caught), Counter(n for each in cases for n in each.missed)
            never = sorted(set(missed) - set(caught))
            zeros, vacuous = np.median([each.zeros for each in cases]), sum(each > VACUOUS for each in vacuities)
            share = f"{sum(caught.values())} of {sum(caught.values()) + sum(missed.values())}"
            lines.append(
                f"{rule:<{width}}  {len(cases):>5}  {zeros:>5.0%}  {np.median(vacuities):>15.1e}  {max(vacuities):>5.0e}  {vacuous:>7}  "
                f"{share:>13}  {', '.join(map(str, never))}".rstrip()
            )
        count = sum(len(each.caught) for each in self.cases)
        telling = count + sum(len(each.missed) for each in self.cases)
        lines.append(f"caught {count} of {telling} faults that change a bit of a case; {self.kill_rate:.1%} in at least one of their rule")
        worst = sorted((each for each in self.cases if each.vacuity > VACUOUS), key=lambda each: -each.vacuity)
        if worst:
            names = ", ".join(f"{each.case} ({each.vacuity:.1%})" for each in worst[:8])
            lines.append(
                f"{len(worst)} of {len(self.cases)} cases could hide more than {VACUOUS:.0%}: {names}{' ...' if len(worst) > 8 else ''}"
            )
        for each in self.cases:
            lines += [f"right code fails {each.case}: {', '.join(each.rejected)}"] if each.rejected else []
        return "\n".join(lines)


def audit_suite(suite: Suite, dialect: str, progress: Callable[[str], None] = lambda what: None) -> SuiteAudit:
    """Measure what every case's tolerance hides, and seed the faults of docs/golden.md into it.

    Parameters
    ----------
    suite : Suite
    dialect : str
        Cases that it has no answer to are left out.
    progress : callable
        Told what is being done.
    """
    return SuiteAudit(dialect, tuple(_audits(suite, dialect, progress)))


def _audits(suite: Suite, dialect: str, progress: Callable[[str], None]) -> Iterator[CaseAudit]:
    for case in suite.only((), dialect):
        answer = case.answer(dialect)
        assert answer is not None
        progress(case.name)
        bench = Bench(case.layer, case.inputs, case.R, case.exact)
        asked = None if bench.asks_for_own(case.rule_name) else rule_in(answer)
        yield _audit(case, answer.tensors, bench.place(asked, dialect, "float32"))


def _audit(case: Case, tensors: tuple[Tensor, ...], at: Place) -> CaseAudit:
    sizes = [np.abs(tensor.values) for tensor in tensors]
    hidden = [np.minimum(a, t.certified + REACH * t.undecided).sum() for a, t in zip(sizes, tensors, strict=True)]
    whole = float(sum(a.sum() for a in sizes))
    found: dict[str, list[int]] = {"caught": [], "missed": [], "unchanged": []}
    with np.errstate(all="ignore"):  # a fault may make a denominator vanish
        right = {name: run(at) for name, run in RIGHT.items()}
        usual = next(iter(right.values()))
        for fault in FAULTS if at.plan.parts[at.i] else ():
            got = fault.run(at)
            if got is not None:
                what = "unchanged" if np.array_equal(got, usual) else "caught" if _fails(at, got, tensors) else "missed"
                found[what].append(fault.number)
        rejected = tuple(name for name, R in right.items() if _fails(at, R, tensors))
    return CaseAudit(
        case.name,
        float(sum(hidden)) / whole if whole else 0.0,
        float(np.mean(np.concatenate([a.reshape(-1) == 0 for a in sizes]))),
        tuple(found["caught"]),
        tuple(found["missed"]),
        tuple(found["unchanged"]),
        rejected,
    )


def _fails(at: Place, R: np.ndarray, tensors: tuple[Tensor, ...]) -> bool:
    ratio, _ = ratio_to(tensors, layers.scatter(at.step, R), "float32")
    return not ratio <= 1
