"""`nplrp doctor`: what one pastes into a bug report, and whether this installation computes the right bits."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp import cli, doctor
from nplrp.schema import VERSIONS
from nplrp.serve import selfcheck

PARTS = ["nplrp", "python", "packages", "cpu", "threads", "cache", "weights", "environment", "subnormals", "golden", "problems"]


def test_all_is_well(capsys):
    assert cli.main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert list(found) == ["schema", *PARTS] and found["schema"] == "nplrp.doctor/1"
    assert found["problems"] == []
    assert found["packages"]["numpy"] == np.__version__ and found["nplrp"]["version"] == nplrp.__version__
    assert found["golden"]["recomputed"].startswith("6 of 6 cases bit for bit")
    assert found["threads"]["team"] >= 1 and found["cpu"]["vectors"].endswith(" bits")
    assert cli.main(["doctor"]) == 0
    text = capsys.readouterr().out
    assert text.endswith("No problem was found.\n") and all(part in text for part in PARTS[:-1])


def test_a_wrong_bit_is_found(monkeypatch, capsys):
    right = selfcheck.read()

    def wrong():
        arrays, expected = right
        return {**arrays, "image": arrays["image"] + np.eye(*arrays["image"].shape[:2])[..., None]}, expected

    monkeypatch.setattr(selfcheck, "read", wrong)
    assert cli.main(["doctor"]) == 1
    out = capsys.readouterr().out
    assert "recomputed 0 of 6 cases" in out
    assert out.count("PROBLEM") == 6 and "golden: notebook in float32: SHA-256 " in out


def test_a_part_that_fails_stops_no_other(monkeypatch):
    monkeypatch.setattr(doctor, "_cpu", lambda: 1 / 0)
    found = doctor.examine()
    assert found["cpu"] == {} and found["problems"] == ["cpu: ZeroDivisionError: division by zero"]
    assert found["golden"]["recomputed"].startswith("6 of 6")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"NPLRP_WEIGHTS": "absent.h5"}, "weights: $NPLRP_WEIGHTS names absent.h5, which isn't there"),
        ({"NUMBA_NUM_THREADS": "64"}, "threads: 64 threads share"),
    ],
)
def test_settings_that_are_wrong(setting, said):
    code = "from nplrp import cli; raise SystemExit(cli.main(['doctor']))"
    done = subprocess.run([sys.executable, "-c", code], env={**os.environ, **setting}, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert f"PROBLEM      {said}" in done.stdout
    assert next(iter(setting)) in done.stdout


def test_no_name_of_a_user(monkeypatch):
    monkeypatch.setenv("NPLRP_TEST", str(Path.home() / "secret"))
    if len(str(Path.home())) > 1:
        assert doctor.examine()["environment"]["NPLRP_TEST"] == str(Path("~") / "secret")


def test_every_command_that_prints_json_has_a_schema():
    found = set()

    def walk(parser, path=()):
        for action in parser._actions:
            if isinstance(action, argparse._SubParsersAction):
                for name, below in action.choices.items():
                    walk(below, (*path, name))
            elif action.dest == "json":
                found.add(".".join(path))

    walk(cli.make_parser())
    assert found | {"golden.references"} == set(VERSIONS)


def test_every_schema_is_documented():
    page = (Path(__file__).parent.parent / "docs" / "command-line.md").read_text("utf-8")
    for kind, version in VERSIONS.items():
        assert f"`nplrp.{kind}/{version}`" in page
