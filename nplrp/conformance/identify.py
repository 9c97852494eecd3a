"""Which dialect a backend speaks, rule by rule: from its answers to the suite, or from one run that was checked against a golden file."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from nplrp import layers
from nplrp.conformance.computing import Bench
from nplrp.conformance.exporting import Said
from nplrp.conformance.running import ratio_to
from nplrp.conformance.suite import Answer, Case, Suite, rule_in
from nplrp.errors import RuleError
from nplrp.golden.bounds import relevance_bounds
from nplrp.golden.candidate import Candidate
from nplrp.golden.diagnosis import plan_of, trace_of
from nplrp.golden.edges import needs_cutting, readers
from nplrp.golden.errors import DIVERGED, NOTHING, PASSED, GoldenError
from nplrp.golden.faults import Place, dialect_switches
from nplrp.golden.recording import tensor_of
from nplrp.golden.values import Golden, Tensor
from nplrp.model import Model
from nplrp.rules import Rule
from nplrp.rules.dialects import DIALECTS, OWN
from nplrp.rules.recorded import bare, rule_of

#: The nearest dialect is named if it explains at least this share of what was answered.
NEAR = 0.5
#: Where no dialect explains a rule, so many of its cases are tried under other switches.
TRIED = 4


@dataclass(frozen=True)
class Finding:
    """What is known of one rule.

    Attributes
    ----------
    rule : str
        As the suite calls it, or of a golden file's layers.
    cases : int
        Answers that were looked at.
    fits : mapping of str to int
        For each dialect that has the rule: how many of them it explains.
    failing : mapping of str to tuple of str
        For each dialect the cases that it doesn't explain.
    otherwise : tuple of str
        Switches that explain what no dialect does.
    """

    rule: str
    cases: int
    fits: Mapping[str, int]
    failing: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    otherwise: tuple[str, ...] = ()

    @property
    def dialects(self) -> tuple[str, ...]:
        """Those that explain every answer."""
        return tuple(name for name, count in self.fits.items() if count == self.cases)


@dataclass(frozen=True)
class Identity:
    """The nearest dialect, and what differs from it; prints itself."""

    source: str
    findings: tuple[Finding, ...]

    @property
    def shares(self) -> dict[str, float]:
        """For each dialect the share of answers that it explains, the nearest first."""
        found = dict.fromkeys(DIALECTS, 0)
        for finding in self.findings:
            for name, count in finding.fits.items():
                found[name] += count
        total = sum(finding.cases for finding in self.findings)
        return {name: count / total for name, count in sorted(found.items(), key=lambda item: -item[1])} if total else {}

    @property
    def nearest(self) -> str | None:
        """The dialect that explains most, None if none is near."""
        name, share = next(iter(self.shares.items()), (None, 0.0))
        return name if share >= NEAR else None

    @property
    def equals(self) -> tuple[str, ...]:
        """All dialects that explain as much as the nearest: these answers don't tell them apart."""
        nearest = self.nearest
        return tuple(name for name, share in self.shares.items() if nearest is not None and share == self.shares[nearest])

    @property
    def exit_code(self) -> int:
        """0 if a dialect is near, 1 if none is, 4 if there was nothing to go by."""
        return NOTHING if not self.findings else DIVERGED if self.nearest is None else PASSED

    def __str__(self) -> str:
        if not self.findings:
            return f"{self.source}: nothing to go by"
        nearest, shares = self.nearest, self.shares
        total = sum(finding.cases for finding in self.findings)
        if nearest is None:
            lines = [
                f"{self.source}: none of the known dialects is near (the nearest explains {max(shares.values()):.0%} of {total} answers)"
            ]
        else:
            also = [name for name in self.equals if name != nearest]
            told = f"; not to be told apart by these: {', '.join(also)}" if also else ""
            lines = [f"{self.source}: {nearest} ({shares[nearest]:.0%} of {total} answers{told})"]
        width = max(len(finding.rule) for finding in self.findings)
        for finding in self.findings:
            lines.append(f"  {finding.rule:<{width}}  {finding.cases:>4}  {self._told(finding, nearest)}")
        return "\n".join(lines)

    def _told(self, finding: Finding, nearest: str | None) -> str:
        if nearest in finding.dialects:
            return str(nearest)
        if finding.dialects:
            missing = nearest is not None and nearest not in finding.fits
            return ", ".join(finding.dialects) + (f" ({nearest} has no such rule)" if missing else "  <- differs")
        best = max(finding.fits, key=lambda name: (finding.fits[name], name == nearest), default=None)
        if best is None:
            return "no dialect has this rule"
        parts = [name.split(".") for name in finding.failing.get(best, ())]
        where = min(({part[-2] for part in parts if len(part) > 1}, {part[-1] for part in parts}), key=len) or {part[-1] for part in parts}
        text = f"none  <- nearest {best}, {finding.fits[best]} of {finding.cases}, but not {', '.join(sorted(where)[:6])}"
        return text + (f"; explained by: {' or '.join(finding.otherwise)}" if finding.otherwise else "")

    def as_json(self) -> dict[str, Any]:
        """Return it as JSON values."""
        rows = [
            {
                "rule": each.rule,
                "answers": each.cases,
                "fits": dict(each.fits),
                "dialects": list(each.dialects),
                "otherwise": list(each.otherwise),
            }
            for each in self.findings
        ]
        return {"source": self.source, "nearest": self.nearest, "equals": list(self.equals), "shares": self.shares, "rules": rows}


def identified(suite: Suite, said: Mapping[str, Said], precision: str = "float32", asked: str | None = None, source: str = "") -> Identity:
    """Name the dialect that answers were computed in.

    Parameters
    ----------
    suite : Suite
    said : mapping of str to Said
        By case.
    precision : "float32" or "float64"
        What they were computed in.
    asked : str or None
        The dialect whose constants the backend was given: dialects are also tried with these constants in place of their own.
    source : str
        What to call the answers.
    """
    groups: dict[str, list[Case]] = {}
    for case in suite:
        if isinstance(said.get(case.name), tuple):
            groups.setdefault(case.rule_name, []).append(case)
    return Identity(source, tuple(_finding(name, cases, said, precision, asked) for name, cases in groups.items()))


def _finding(name: str, cases: Sequence[Case], said: Mapping[str, Any], precision: str, asked: str | None) -> Finding:
    failing: dict[str, list[Case]] = {}
    for dialect in DIALECTS:
        known = [(case, case.answer(dialect)) for case in cases]
        if any(answer is not None for _, answer in known):
            failing[dialect] = [
                case for case, answer in known if answer is None or ratio_to(answer.tensors, said[case.name], precision)[0] > 1
            ]
    if asked is not None and all(failing.values()):
        for dialect, missed in failing.items():
            failing[dialect] = [case for case in missed if not _with_constants(case, dialect, asked, said[case.name], precision)]
    fits = {dialect: len(cases) - len(missed) for dialect, missed in failing.items()}
    otherwise: tuple[str, ...] = ()
    if fits and max(fits.values()) < len(cases):
        best = max(fits, key=lambda each: fits[each])
        otherwise = _switches(failing[best], best, said, precision)
    names = {dialect: tuple(case.name for case in missed) for dialect, missed in failing.items()}
    return Finding(name, len(cases), fits, names, otherwise)


def _with_constants(case: Case, dialect: str, asked: str, said: Sequence[np.ndarray], precision: str) -> bool:
    """Tell whether a dialect explains an answer with another one's epsilon."""
    own, other = case.answer(dialect), case.answer(asked)
    if own is None or other is None:
        return False
    epsilon = other.rule.get("epsilon")
    if epsilon is None or own.rule.get("epsilon") in (None, epsilon):
        return False
    bench = Bench(case.layer, case.inputs, case.R, case.exact)
    changed = dataclasses.replace(rule_in(own), epsilon=epsilon)
    try:
        shares = bench.bounds(bench.place(changed, dialect))
    except RuleError:
        return False
    return ratio_to([tensor_of(share.values, share.bounds) for share in shares], said, precision)[0] <= 1


def _switches(cases: Sequence[Case], dialect: str, said: Mapping[str, Any], precision: str) -> tuple[str, ...]:
    """Return switches that explain the cases which a dialect doesn't."""
    found: set[str] | None = None
    for case in cases[:TRIED]:
        answer = case.answer(dialect)
        if answer is None:
            continue
        bench = Bench(case.layer, case.inputs, case.R, case.exact)
        at = bench.place(rule_in(answer), dialect)
        with np.errstate(all="ignore"):  # a switch may make a denominator vanish
            tried = {name: at.run(rule=rule) for name, rule in dialect_switches(at) if not name.startswith("as ")}
        names = {name for name, R in tried.items() if _explains(at, R, answer, said[case.name], precision)}
        found = names if found is None else found & names
    return tuple(sorted(found or ()))[:3]


def _explains(at: Place, R: np.ndarray, answer: Answer, said: Sequence[np.ndarray], precision: str) -> bool:
    if not np.isfinite(R).all():
        return False
    shares = layers.scatter(at.step, R)
    tensors = [dataclasses.replace(tensor, values=share) for tensor, share in zip(answer.tensors, shares, strict=True)]
    return ratio_to(tensors, said, precision)[0] <= 1


def identified_run(golden: Golden, model: Model, candidate: Candidate, mode: str = "local", precision: str | None = None) -> Identity:
    """Name the dialect of a run that was recorded in golden values: each layer is computed again in every dialect.

    Parameters
    ----------
    golden : Golden
        Of profile ``"full"``.
    model : Model
    candidate : Candidate
        Relevance of neighbouring layers at least; with ``"local"`` activations too, if its own should count.
    mode : "local" or "isolated"
        The candidate ran end to end, or each layer was given golden inputs.
    precision : "float32", "float64" or None
        None goes by the arrays' dtype.

    Raises
    ------
    GoldenError
        If no two neighbouring layers have relevance.
    """
    plan = plan_of(golden, model)
    trace = trace_of(golden, plan, candidate.activations if mode == "local" else None)
    above, names = readers(plan.steps), golden.names
    groups: dict[str, dict[str, dict[str, bool]]] = {}
    for i, step in enumerate(plan.steps):
        if not plan.parts[i] or needs_cutting(plan.steps, i, above):
            continue
        below, own = names[step.inputs[0] + 1], golden[step.name].relevance
        given = candidate.relevances.get(step.name) if mode == "local" else None if own is None else own.values
        got = candidate.relevances.get(below)
        if given is None or got is None:
            continue
        R = np.ascontiguousarray(given, np.float64)
        used = precision or ("float64" if np.asarray(got).dtype == np.float64 else "float32")
        rule = rule_of(next(row for row in golden.facts["layers"] if row["name"] == step.name)["rule"])
        label = f"{rule.name} ({layers.operation(step).family})"
        for dialect, (tensor,) in _in_dialects(Place(plan, trace, i, R), rule):
            ratio, _ = ratio_to([tensor], [np.asarray(got).reshape(tensor.shape)], used)
            groups.setdefault(label, {}).setdefault(dialect, {})[step.name] = ratio <= 1
    if not groups:
        raise GoldenError(f"{candidate.source}: no two neighbouring layers have relevance, so no rule can be looked at")
    findings = []
    for label, by_dialect in groups.items():
        seen = {name for fitting in by_dialect.values() for name in fitting}
        fits = {dialect: sum(fitting.values()) for dialect, fitting in by_dialect.items()}
        failing = {dialect: tuple(name for name, fit in fitting.items() if not fit) for dialect, fitting in by_dialect.items()}
        findings.append(Finding(label, len(seen), fits, failing))
    return Identity(candidate.source, tuple(findings))


def _in_dialects(at: Place, rule: Rule) -> Iterator[tuple[str, tuple[Tensor]]]:
    """Yield a layer's relevance under a rule in every dialect that has it, with its bounds."""
    family = layers.operation(at.step).family
    done: dict[Rule, tuple[Tensor]] = {}
    for name, dialect in DIALECTS.items():
        asked = None if family in OWN else bare(rule)
        if asked is not None and not dialect.knows(asked) and name != "nplrp":
            continue
        found = dialect.resolve(asked, family)
        if found not in done:
            try:
                done[found] = (_tensor(at, found),)
            except RuleError:
                continue
        yield name, done[found]


def _tensor(at: Place, rule: Rule) -> Tensor:
    rules, parts = list(at.plan.rules), list(at.plan.parts)
    if rule != at.rule:
        rules[at.i], parts[at.i] = rule, rule.parts
    plan = dataclasses.replace(at.plan, rules=tuple(rules), parts=tuple(parts))
    changed = dataclasses.replace(at, plan=plan)
    return tensor_of(changed.run(), relevance_bounds(plan, at.i, at.trace, at.R))
