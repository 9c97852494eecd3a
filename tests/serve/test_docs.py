"""The operations page and the container recipe name flags, metrics and routes that exist."""

import argparse
import re

from nplrp import cli
from nplrp.serve.metrics import Metrics
from nplrp.serve.settings import Settings
from tests.serve.servers import ROOT

PAGE = (ROOT / "docs" / "serving.md").read_text()
RECIPE = (ROOT / "Dockerfile").read_text()


def test_flags_and_their_defaults():
    commands = next(action for action in cli.make_parser()._actions if isinstance(action, argparse._SubParsersAction))
    parser = commands.choices["serve"]
    flags = {flag for action in parser._actions for flag in action.option_strings}
    named = set(re.findall(r"`(--[a-z-]+)", PAGE))
    assert named <= flags
    assert len(named) >= 16
    limits = PAGE[PAGE.index("## Limits") : PAGE.index("## Safety")]
    units = {"MiB": 1 << 20, "million": 10**6}
    stated = re.findall(r"`--([a-z-]+)` (\d+)(?: (MiB|million))?", limits)
    assert len(stated) >= 8
    for name, number, unit in stated:
        assert getattr(Settings(), name.replace("-", "_")) == int(number) * units.get(unit, 1), name


def test_metrics():
    text = Metrics().text().decode()
    exported = set(re.findall(r"^# TYPE (\w+)", text, re.MULTILINE))
    names = set(re.findall(r"nplrp_[a-z_]+", PAGE))
    assert len(names) >= 9
    for name in names:
        assert name in exported or re.sub(r"_(bucket|total)$", "", name) in exported or f"{name}_total" in exported, name


def test_links_lead_somewhere():
    targets = re.findall(r"\]\(([^)#]+)\)", PAGE)
    assert targets
    for target in targets:
        assert (ROOT / "docs" / target).exists(), target


def test_the_recipe_runs_commands_that_exist():
    parser = cli.make_parser()
    serve = re.search(r"ENTRYPOINT \[(.+)\]", RECIPE).group(1) + ", " + re.search(r"^CMD \[(.+)\]", RECIPE, re.MULTILINE).group(1)
    words = re.findall(r'"([^"]+)"', serve)
    assert words[0] == "nplrp"
    assert parser.parse_args(words[1:]).host == "0.0.0.0"
    assert parser.parse_args(re.search(r"^RUN nplrp (.+)$", RECIPE, re.MULTILINE).group(1).split())
    assert "/v2/health/ready" in RECIPE and "USER nplrp" in RECIPE
    kept = (ROOT / ".dockerignore").read_text().split()
    for needed in ("nplrp", "weights_tools", "pyproject.toml", "README.md", "LICENSE"):
        assert f"!{needed}" in kept and (ROOT / needed).exists()
