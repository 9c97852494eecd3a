"""The plugin, in a pytest of its own; and the project's own end-to-end test, which uses it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from nplrp import explain, golden
from tests.networks import images, small_vgg

ROOT = Path(__file__).parents[2]
GOLDENS = Path(__file__).parents[1] / "data" / "goldens"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_end_to_end_against_the_committed_digest(lrp_check, request, dtype, monkeypatch):
    if not request.config.getoption("--lrp-goldens"):
        monkeypatch.setattr(request.config.option, "lrp_goldens", str(GOLDENS))
    model, x = small_vgg(7, size=16), images(7, 1, (16, 16, 3))
    e = explain(model, x, "epsilon_gamma_box", dtype=dtype, algorithm="direct")
    arrays = {f"relevances/{k}": v for k, v in e.relevances.items()} | {f"activations/{k}": v for k, v in e.activations.items()}
    report = lrp_check(
        "small-vgg",
        arrays,
        mode="chained",
        regenerate=lambda: golden.record(model, x, "epsilon_gamma_box", profile="digest", input_name="images(7)"),
    )
    assert len(report.rows) == 18


def test_committed_digest_has_the_bits_of_today():
    recorded = golden.read(GOLDENS / "small-vgg.lrpgold.h5")
    assert golden.recompute(recorded, small_vgg(7, size=16)) == []


TEST = """
import numpy as np
from nplrp import explain, golden
from tests.networks import images, small_vgg

def again():
    return golden.record(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus", profile="digest")

def test_right(lrp_check):
    e = explain(small_vgg(2), images(1, 1, (8, 8, 3)), "epsilon_plus")
    lrp_check("tiny", dict(e.relevances), mode="chained", regenerate=again)

def test_wrong(lrp_check, lrp_golden):
    R = lrp_golden("tiny")["fc1"].relevance.values
    lrp_check("tiny", {"fc1": R * 1.01}, regenerate=again)

def test_missing(lrp_golden):
    lrp_golden("absent")
"""


def run_pytest(folder, *options):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(folder), *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=folder, env={**os.environ, "PYTHONPATH": str(ROOT)})
    return done.returncode, done.stdout + done.stderr


def test_plugin(tmp_path):
    (tmp_path / "test_theirs.py").write_text(TEST)
    (tmp_path / "goldens").mkdir()
    model, x = small_vgg(2), images(1, 1, (8, 8, 3))
    path = tmp_path / "goldens" / "tiny.lrpgold.h5"
    golden.write(golden.record(model, x, "epsilon_plus", profile="digest"), path)
    before = path.read_bytes()
    code, text = run_pytest(tmp_path)
    assert code == 1 and "1 passed" in text and "2 failed" in text, text
    assert "first diverging layer: predictions" in text and "there is no golden file" in text
    code, text = run_pytest(tmp_path, "--lrp-regen", "-k", "right")
    assert code == 1 and "the same bits as before" in text and path.read_bytes() == before
    assert (tmp_path / "goldens" / "tiny.new.lrpgold.h5").is_file()
    golden.write(golden.record(model, x, "epsilon_alpha2_beta1", profile="digest"), path)
    code, text = run_pytest(tmp_path, "--lrp-regen", "-k", "right")
    assert code == 1 and "arrays differ" in text
    code, text = run_pytest(tmp_path, "--lrp-goldens", str(tmp_path), "-k", "right")
    assert code == 1 and "there is no golden file" in text
