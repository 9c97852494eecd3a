"""What the presets are called, do, and belong to, as menus and `nplrp composites` show them."""

from __future__ import annotations

from typing import Any

from nplrp.rules import Rule
from nplrp.rules.composites import COMPOSITES, FIRST, Composite, Select
from nplrp.rules.dialects import dialect_named

_OWNERS = {"zennit-0.5": "Zennit", "innvestigate-2.1": "iNNvestigate", "montavon": "Montavon"}
_NAMES = {
    "maxpool": "max-pools",
    "avgpool": "average pools",
    "add": "Add",
    "activation": "activation layers",
    "rectifier": "bent rectifiers",
}
_GRADIENTS = {
    "gradient": "no LRP: the gradient of the class's output with respect to the pixels",
    "input_t_gradient": "no LRP: the gradient times the input; in a network of ReLUs LRP-0, begun at the logit",
    "guided_backprop": "no LRP: the gradient, but what is negative on the way down is cut at every ReLU, besides what the ReLU cuts",
    "deconvnet": "no LRP: the gradient, but every ReLU cuts what is negative on the way down, and nothing else",
}
_BASIC = ("notebook", "zplus")


def presets() -> list[dict[str, Any]]:
    """Return every preset as JSON values: name, summary, group, source, dialect, and whether it has a ledger."""
    return [
        {
            "name": composite.name,
            "summary": summary(composite),
            "group": group(composite),
            "source": composite.source,
            "dialect": composite.dialect,
            "ledger": not composite.gradient,
        }
        for composite in COMPOSITES.values()
    ]


def listing() -> str:
    """Return all presets, one line each, under their owners' headings."""
    width, lines = max(map(len, COMPOSITES)), list[str]()
    groups: dict[str, list[Composite]] = {}
    for composite in COMPOSITES.values():
        groups.setdefault(group(composite), []).append(composite)
    for heading, members in groups.items():
        lines += [heading, *(f"  {each.name:<{width}}  {summary(each)}" for each in members), ""]
    return "\n".join([*lines, "nplrp composites NAME prints one in full, with its source."])


def described(composite: Composite) -> str:
    """Return a preset in full: source, start, dialect, and its rows.

    Examples
    --------
    >>> print(described(COMPOSITES["epsilon_plus"]))
    epsilon_plus
      source   Zennit 0.5.1, composites.py
      dialect  zennit-0.5
      start    one
      rules    zplus in conv
               epsilon in dense
               the dialect's in max-pools and average pools
    """
    rows = [_row(select, rule) for select, rule in composite.rows] or [summary(composite)]
    start = composite.start or dialect_named(composite.dialect).start
    facts = [("source", composite.source), ("dialect", composite.dialect), ("start", start), ("rules", rows[0])]
    return "\n".join([composite.name, *(f"  {key:<7}  {value}" for key, value in facts), *(f"{'':<11}{row}" for row in rows[1:])])


def group(composite: Composite) -> str:
    """Return the heading that a preset belongs under."""
    if composite.gradient:
        return "Gradients (no LRP)"
    if composite.name in _BASIC:
        return "nplrp"
    return _OWNERS.get(composite.dialect, "One rule everywhere")


def summary(composite: Composite) -> str:
    """Return in one line which rules run where; the first that fits a layer holds.

    Examples
    --------
    >>> summary(COMPOSITES["epsilon_gamma_box"])
    'zbox in the first layer; gamma in conv; epsilon in dense'
    """
    if composite.gradient:
        return _GRADIENTS[composite.gradient]
    return "; ".join(f"{rule} {where}" for rule, where in chosen_rules(composite))


def chosen_rules(composite: Composite) -> list[tuple[Rule, str]]:
    """Return the rules that a composite chooses itself, each with where it runs: ``"in conv"``.

    Examples
    --------
    >>> [(rule.name, where) for rule, where in chosen_rules(COMPOSITES["epsilon_plus"])]
    [('zplus', 'in conv'), ('epsilon', 'in dense')]
    """
    return [(rule, f"in {_where(select)}") for select, rule in composite.rows if rule is not None]


def _row(select: Select | tuple[str, ...], rule: Rule | None) -> str:
    what = "the dialect's" if rule is None else str(rule)
    return f"{what} in {_where(select)}"


def _where(select: Select | tuple[str, ...]) -> str:
    chosen = select if isinstance(select, Select) else Select(select)
    kinds = [kind for kind in chosen.kinds if kind != "scale"]  # batch norms go with the dense layers
    where = "every layer" if {"conv", "dense"} <= set(kinds) else " and ".join(_NAMES.get(kind, kind) for kind in kinds)
    start, stop = chosen.range
    if chosen.reads_input:
        where = "layers that read the input"
    elif chosen.range == FIRST:
        where = "the first layer"
    elif not start and stop is not None:
        where = f"the first {stop} {where}"
    return where
