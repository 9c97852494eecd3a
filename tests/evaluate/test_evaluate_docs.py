"""The numbers in docs/evaluate.md are computed, its links lead somewhere, and it tells of every metric and baseline."""

import doctest
import importlib
import re
from pathlib import Path

import pytest

from nplrp.evaluate import BASELINES, METRICS

PAGE = Path(__file__).parent.parent.parent / "docs" / "evaluate.md"


def test_worked_examples():
    found = doctest.testfile(str(PAGE), module_relative=False)
    assert found.attempted >= 5
    assert found.failed == 0


@pytest.mark.parametrize("module", ["perturbing", "randomising"])
def test_doctests(module):
    module = importlib.import_module(f"nplrp.evaluate.{module}")
    found = doctest.testmod(module)
    assert found.attempted >= 1
    assert found.failed == 0


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", PAGE.read_text())
    assert targets
    for target in targets:
        assert target.startswith("http") or (PAGE.parent / target).exists(), target


def test_everything_is_told():
    text = PAGE.read_text()
    assert sorted(name for name in (*METRICS, *BASELINES) if f"`{name}`" not in text) == []
