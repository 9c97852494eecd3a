"""The numbers in the documentation are computed, and its links lead somewhere."""

import doctest
import re
import shlex
from pathlib import Path

import pytest

from nplrp.cli import main
from nplrp.layers.activation_names import ALIASES, PARAMETERS
from nplrp.layers.table import READERS
from nplrp.rules import RULES

DOCS = Path(__file__).parent.parent / "docs"
PAGES = sorted(page for page in (DOCS / "rules").glob("*.md") if page.stem != "index")
HOW_TO = [DOCS / "own-rule.md", DOCS / "own-composite.md"]


@pytest.mark.parametrize("page", [*PAGES, *HOW_TO], ids=lambda page: page.stem)
def test_worked_examples(page):
    found = doctest.testfile(str(page), module_relative=False)
    assert found.attempted >= 1
    assert found.failed == 0


@pytest.mark.parametrize("module", ["rules.dialects", "rules.presets", "errors", "preprocessing", "usage", "worked"])
def test_doctests_of_modules(module):
    found = doctest.testmod(__import__(f"nplrp.{module}", fromlist=[module]))
    assert found.attempted >= 1
    assert found.failed == 0


def test_every_rule_has_a_page():
    pages = {page.stem for page in PAGES} | {
        "winner",
        "winner_ties",
        "winner_epsilon",
        "average",
        "gradient",
        "signal",
        "half",
        "slope",
        "alpha_beta_x",
    }
    assert set(RULES) <= pages
    for page in PAGES:
        text = page.read_text()
        assert "**When.**" in text
        assert "**Switches.**" in text or page.stem == "pass"
        # The server's page shows what stands before the worked examples.
        assert text.index("**When.**") < max(text.find("**Switches.**"), 0) < text.index("```python") or page.stem == "pass"


def test_what_is_read_is_listed():
    """Every class and function of Keras that has a reader, and every activation, stands in the page of layers."""
    text = (DOCS / "layers.md").read_text("utf-8")
    wanted = {name.removeprefix("op.") for name in (*READERS, *PARAMETERS, *ALIASES)}
    assert sorted(name for name in wanted if f"`{name}`" not in text) == []


def test_links_lead_somewhere():
    for page in (*PAGES, DOCS / "why-do-my-heatmaps-differ.md"):
        targets = re.findall(r"\]\(([^)#]+)\)", page.read_text())
        assert targets or page in PAGES, page.name
        for target in targets:
            assert target.startswith("http") or (page.parent / target).exists(), (page.name, target)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_a_rule_shows_its_cases(page, capsys):
    """The page says how many cases of the conformance suite are about it, and how to list them."""
    found = re.search(
        r"\*\*Cases\.\*\* (\d+) in the \[conformance suite\]\(\.\./conformance\.md\):\s`nplrp (conformance --list .*)`", page.read_text()
    )
    assert found, page.name
    assert main(shlex.split(found[2])) == 0
    assert len(capsys.readouterr().out.split()) == int(found[1])
