"""What the presets are called, do, and belong to, as a client's menu shows them."""

from __future__ import annotations

from typing import Any

from nplrp.rules import Rule
from nplrp.rules.composites import COMPOSITES, FIRST, Composite, Select

_OWNERS = {"zennit-0.5": "Zennit", "innvestigate-2.1": "iNNvestigate", "montavon": "Montavon"}
_NAMES = {"maxpool": "max-pools", "avgpool": "average pools"}
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
        return f"{composite.gradient.replace('_', ' ')}, for cross-checks"
    return "; ".join(_row(select, rule) for select, rule in composite.rows if rule is not None)


def _row(select: Select | tuple[str, ...], rule: Rule) -> str:
    chosen = select if isinstance(select, Select) else Select(select)
    kinds = [kind for kind in chosen.kinds if kind != "scale"]  # batch norms go with the dense layers
    where = "every layer" if {"conv", "dense"} <= set(kinds) else " and ".join(_NAMES.get(kind, kind) for kind in kinds)
    start, stop = chosen.range
    if chosen.range == FIRST:
        where = "the first layer"
    elif not start and stop is not None:
        where = f"the first {stop} {where}"
    return f"{rule} in {where}"
