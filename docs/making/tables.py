"""Tables of the site that are made from nplrp's own: presets, dialects, commands. `TABLES` holds them by the name that a page asks for."""

import argparse
import html
import os
import re
from collections.abc import Callable, Iterable, Mapping

from nplrp.rules import RULES
from nplrp.rules.composites import COMPOSITES, Composite
from nplrp.rules.dialects import DIALECTS
from nplrp.rules.presets import chosen_rules, group, summary

#: Rules that share a page of docs/rules; every other one has its own.
SHARED = {
    "alpha_beta_x": "alpha_beta",
    **dict.fromkeys(("winner", "winner_ties", "winner_epsilon", "average"), "pools"),
    **dict.fromkeys(("gradient", "signal", "half", "slope"), "joins"),
}


def rule_page(rule: str) -> str:
    """Return the name of the page in docs/rules that a rule stands on."""
    return SHARED.get(rule, rule)


def presets_html(link: Callable[[str], str]) -> str:
    """Return every preset in tables, one for each owner.

    Parameters
    ----------
    link : function
        Rule's name -> address of its page.
    """
    groups: dict[str, list[Composite]] = {}
    for composite in COMPOSITES.values():
        groups.setdefault(group(composite), []).append(composite)
    lines = []
    for heading, members in groups.items():
        name = html.escape(heading)
        lines += [f"<h3>{name}</h3>", f'<div class="scroll" tabindex="0" role="region" aria-label="{name}">', "<table>"]
        head = "".join(f'<th scope="col">{each}</th>' for each in ("preset", "rules", "start", "dialect", "source"))
        lines += [
            f"<thead><tr>{head}</tr></thead>",
            "<tbody>",
            *(_preset_row(each, link) for each in members),
            "</tbody>",
            "</table>",
            "</div>",
            "",
        ]
    return "\n".join(lines)


def _preset_row(composite: Composite, link: Callable[[str], str]) -> str:
    rules = [f'<a href="{link(rule.name)}">{html.escape(str(rule))}</a> {html.escape(where)}' for rule, where in chosen_rules(composite)]
    cells = ["; ".join(rules) or html.escape(summary(composite)), composite.start or DIALECTS[composite.dialect].start, composite.dialect]
    cells.append(html.escape(composite.source))
    name = html.escape(composite.name)
    return f'<tr><th scope="row" id="{name}"><code>{name}</code></th>' + "".join(f"<td>{cell}</td>" for cell in cells) + "</tr>"


def _presets() -> str:
    return presets_html(lambda rule: f"rules/{rule_page(rule)}.html")


def _rules() -> str:
    """Return a table of all rules: where they fit, their switches, their page."""
    rows = []
    for name, row in RULES.items():
        switches = ", ".join(f"`{key}={value}`" for key, value in row.parameters.items() if value is not None)
        rows.append((f"[`{name}`]({rule_page(name)}.md)", ", ".join(row.fits), switches))
    return _table(("rule", "families of layers", "switches and their defaults"), rows)


def _dialects() -> str:
    parts = []
    for dialect in DIALECTS.values():
        parts += [f"## `{dialect.name}`", "", _escaped(dialect.system), ""]
        parts += [
            _table(
                ("", ""),
                [
                    ("start", f"`{dialect.start}`"),
                    ("rules", ", ".join(f"`{rule}`" for rule in dialect.rules)),
                    ("max-pools, average pools", f"`{dialect.maxpool}`, `{dialect.avgpool}`"),
                    ("Add", f"`{dialect.add}`"),
                    ("batch norms that stay", f"`{dialect.batch_norm}`" if dialect.batch_norm else "the composite's"),
                ],
            ),
            "",
            *(f"- {_escaped(note)}" for note in dialect.notes),
            "",
        ]
    return "\n".join(parts)


def _commands() -> str:
    """Return every command with its options, as `--help` prints them."""
    os.environ["COLUMNS"] = "100"
    from nplrp.cli import make_parser

    parts: list[str] = []
    for name, parser in _parsers(make_parser()):
        if not parser.add_help:  # `import` hands over to weights_tools
            continue
        parts += [f"### `nplrp {name}`", "", "```text", parser.format_help().strip(), "```", ""]
    return "\n".join(parts)


def _parsers(parser: argparse.ArgumentParser, prefix: str = "") -> Iterable[tuple[str, argparse.ArgumentParser]]:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, below in action.choices.items():
                yield f"{prefix}{name}", below
                yield from _parsers(below, f"{prefix}{name} ")


def _table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    head = list(head)
    lines = [head, ["---"] * len(head), *(list(row) for row in rows)]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _escaped(text: str) -> str:
    return re.sub(r"([_*<])", r"\\\1", text)


#: What stands in a page as `<!-- table: NAME -->`.
TABLES: Mapping[str, Callable[[], str]] = {"presets": _presets, "rules": _rules, "dialects": _dialects, "commands": _commands}
