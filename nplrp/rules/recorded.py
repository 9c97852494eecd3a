"""Rules as they stand in files: by name with every constant, so that presets may change without changing old files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from nplrp.errors import RuleError
from nplrp.rules import SWITCHES, Rule
from nplrp.rules.composites import Composite, Select


def rule_facts(rule: Rule) -> dict[str, Any]:
    """Return a rule with every constant, as JSON values.

    Raises
    ------
    RuleError
        If it is made of somebody's own parts.
    """
    if rule.made is not None:
        raise RuleError(f"files know rules by name; {rule.name!r} is made of parts of your own, which they can't hold")
    values = {key: getattr(rule, key) for key in SWITCHES if key in rule.row.parameters}
    if rule.box is not None:
        values["box"] = "by pixel"
    return {"name": rule.name, **{key: list(value) if isinstance(value, tuple) else value for key, value in values.items()}}


def rule_of(facts: Mapping[str, Any]) -> Rule:
    """Return the rule that `rule_facts` describes."""
    derived = ("low", "high", "box") if "box" in facts else ()  # from the picture again, as it differs by pixel
    given: dict[str, Any] = {key: value for key, value in facts.items() if value is not None and key not in ("name", *derived)}
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in given.items()}
    return Rule(facts["name"], **given)


def bare(rule: Rule) -> Rule:
    """Return a rule with its switches left to the dialect; what a composite sets stays."""
    kept = {key: getattr(rule, key) for key in ("gamma", "alpha", "beta", "low", "high", "box") if getattr(rule, key) is not None}
    return Rule(rule.name, **kept)


def composite_of(name: str, rules: Iterable[tuple[str, Mapping[str, Any] | None]], start: str | None, slopes: str = "") -> Composite:
    """Return the composite that runs these rules, given as (layer, facts or None where there is none)."""
    rows = tuple((Select(names=(_literal(layer),)), rule_of(facts)) for layer, facts in rules if facts)
    return Composite(name, rows, start, slopes=slopes)


def _literal(name: str) -> str:
    """Return a pattern that a name alone matches."""
    return "".join(f"[{c}]" if c in "*?[" else c for c in name)
