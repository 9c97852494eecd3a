"""The example port in C: compiled with warnings as errors, checked against golden values, and caught with a bug."""

import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from nplrp import golden
from nplrp.golden.candidate import read_candidate
from nplrp.model import chain
from tests.networks import conv, dense, images, plain, pool, random_kernel

SOURCE = Path(__file__).parents[2] / "examples" / "c" / "lrp.c"
needs_gcc = pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")


@pytest.fixture(scope="module")
def model():
    rng = np.random.default_rng(4)
    layers = [
        conv("conv1", random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4) * 0.2),
        pool("pool1"),
        conv("conv2", random_kernel(rng, 3, 3, 4, 6), rng.normal(size=6) * 0.2),
        pool("pool2"),
        plain("flatten", "flatten"),
        dense("fc1", random_kernel(rng, 54, 8), rng.normal(size=8) * 0.2),
        dense("predictions", random_kernel(rng, 8, 5), rng.normal(size=5) * 0.2, "softmax"),
    ]
    return chain((12, 12, 3), layers, "a small net")


@pytest.fixture(scope="module")
def recorded(model):
    x = images(3, 2, (12, 12, 3)).astype("f4")
    return golden.record(model, x, "epsilon(epsilon=0.01)", target=2)


def run(recorded, model, folder, edit=lambda text: text):
    folder.mkdir(exist_ok=True)
    (folder / "lrp.c").write_text(edit(SOURCE.read_text()))
    flags = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-Wno-format-truncation"]
    subprocess.run(["gcc", *flags, "-o", folder / "lrp", folder / "lrp.c", "-lm"], check=True)
    golden.export(recorded, folder / "in", model, to="raw", dtype="float32")
    (folder / "out").mkdir()
    subprocess.run([folder / "lrp", folder / "in", folder / "out", "0.01", "2"], check=True)
    return read_candidate(folder / "out")


@needs_gcc
def test_port_in_c_is_within(recorded, model, tmp_path):
    candidate = run(recorded, model, tmp_path / "c")
    for mode, rows in (("local", 15), ("chained", 15)):
        report = golden.check(recorded, candidate, mode=mode, model=model)
        assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"} and len(report.rows) == rows, str(report)


@needs_gcc
def test_bug_in_c_is_found_and_named(recorded, model, tmp_path):
    candidate = run(recorded, model, tmp_path / "c", lambda text: text.replace("? -epsilon : epsilon", "? epsilon : epsilon"))
    report = golden.check(recorded, candidate, mode="local", model=model)
    assert not report.passed and "sign of epsilon at z < 0" in report.diagnosis[-1], str(report)
