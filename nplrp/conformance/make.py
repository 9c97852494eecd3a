"""Make the suite of the package: python -m nplrp.conformance.make [FILE]. The same numbers come out on every machine."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from nplrp.conformance.cases import Asked, all_cases
from nplrp.conformance.computing import Bench, resolved
from nplrp.conformance.suite import PATH, VERSION, Answer, Case, Suite, write
from nplrp.golden.recording import tensor_of
from nplrp.golden.values import Tensor
from nplrp.layers import KINDS
from nplrp.rules import Rule
from nplrp.rules.dialects import DIALECTS
from nplrp.rules.recorded import rule_facts


def make(asked: Iterable[Asked] | None = None) -> Suite:
    """Compute the answers to all cases, or to some of them.

    Parameters
    ----------
    asked : iterable of Asked or None
    """
    return Suite(tuple(case for case in map(answered, asked or all_cases()) if case.answers))


def answered(asked: Asked) -> Case:
    """Compute the answers to one case in every dialect that has its rule."""
    setting = asked.setting
    bench = Bench(setting.made, setting.inputs, setting.R, setting.exact)
    found: dict[tuple[Rule, bool], list[str]] = {}
    for name, dialect in DIALECTS.items():
        if asked.dialects is not None and name not in asked.dialects:
            continue
        rule = resolved(asked.rule, dialect, bench.family)
        if rule is not None:
            stands_in = dialect.stand_ins and KINDS[setting.made.kind].stand_in is not None and not rule.undivided
            found.setdefault((rule, stands_in), []).append(name)
    answers = []
    for (rule, stands_in), names in found.items():
        at = bench.place(asked.rule, names[0])
        assert at.rule == rule, (asked.name, at.rule, rule)
        tensors = tuple(_short(tensor_of(share.values, share.bounds)) for share in bench.bounds(at))
        answers.append(Answer(tuple(names), rule_facts(rule), stands_in, tensors))
    return Case(asked.name, setting.made, setting.inputs, setting.R, setting.exact, tuple(answers))


def _short(tensor: Tensor) -> Tensor:
    """Round the bounds up to 8 bits, so that they pack well."""

    def short(bound: np.ndarray) -> np.ndarray:
        bits = np.ascontiguousarray(bound, np.float32).view(np.uint32)
        return ((bits + np.uint32(0xFFFF)) & np.uint32(0xFFFF0000)).view(np.float32)

    expected, certified, undecided = map(short, (tensor.expected, tensor.certified, tensor.undecided))
    return dataclasses.replace(tensor, expected=expected, certified=certified, undecided=undecided)


def main() -> None:
    """Write the file, and say what it holds."""
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else PATH
    suite = make()
    write(suite, path)
    answers = sum(len(case.answers) for case in suite)
    facts = {"version": VERSION, "cases": len(suite), "answers": answers, "content_sha256": suite.content_sha256}
    path.with_suffix(".json").write_text(json.dumps(facts, indent=1, sort_keys=True) + "\n", "utf-8")
    print(f"wrote {path}: {len(suite)} cases, {answers} answers, {path.stat().st_size} bytes, content SHA-256 {suite.content_sha256}")


if __name__ == "__main__":
    main()
