"""Backends that `check --backend` runs, each in a process of its own; Zennit among them, live (see tests/test_peers.py)."""

import os
import sys
from pathlib import Path

import numpy as np
import pytest

from nplrp import golden
from nplrp.cli import main
from nplrp.golden.backend import run_backend
from nplrp.golden.errors import GoldenError
from tests.networks import images, small_vgg
from weights_tools.write_hdf5 import write

EXAMPLES = Path(__file__).parents[2] / "examples"
#: Reads exchange files as docs/golden.md describes them, and gives back what is asked for times a factor.
BACKEND = """
import sys, numpy as np
from pathlib import Path
*_, factor, source, target = sys.argv
rows = [line.split(" ") for line in (Path(source) / "contents.txt").read_text().splitlines()]
arrays = {row[-1]: np.fromfile(Path(source) / row[0], "<" + row[1]).reshape([int(n) for n in row[3:-1]]) for row in rows}
assert any(name.startswith("weights/fc1/kernel") for name in arrays)
if factor == "0":
    sys.exit("no such rule")
np.savez(target, **{name: a * np.float32(factor) for name, a in arrays.items() if name.endswith("/relevance")})
"""


@pytest.fixture(scope="module")
def model():
    return small_vgg(2)


@pytest.fixture(scope="module")
def recorded(model):
    return golden.record(model, images(1, 1, (8, 8, 3)), "epsilon_plus")


@pytest.fixture
def backend(tmp_path):
    (tmp_path / "backend.py").write_text(BACKEND)
    return [sys.executable, str(tmp_path / "backend.py")]


def test_a_backend_is_run_on_exchange_files(recorded, model, backend):
    report = golden.check(recorded, run_backend(recorded, model, [*backend, "1"]))
    assert {row.verdict for row in report.rows} == {"EXACT"} and len(report.rows) == 9
    assert not golden.check(recorded, run_backend(recorded, model, [*backend, "1.01"])).passed
    with pytest.raises(GoldenError, match="exit code 1 and no output: no such rule"):
        run_backend(recorded, model, [*backend, "0"])
    with pytest.raises(GoldenError, match="can't be run"):
        run_backend(recorded, model, ["/no/such/python"])


def test_command(recorded, model, backend, tmp_path, capsys):
    path, weights = tmp_path / "g.lrpgold.h5", tmp_path / "m.h5"
    golden.write(recorded, path)
    write(model, weights, path, "tests")
    check = ["golden", "check", str(path)]
    assert main([*check, "-w", str(weights), "--backend", " ".join([*backend, "1"])]) == 0
    assert "passed: 9 arrays" in capsys.readouterr().out
    assert main([*check, "-w", str(weights), "--backend", " ".join([*backend, "2"])]) == 1
    assert main([*check, "--backend", "x"]) == 2
    assert main(check) == 2 and main([*check, "c.npz", "--backend", "x", "-w", str(weights)]) == 2
    assert "give either a candidate or --backend" in capsys.readouterr().err


@pytest.mark.peers
@pytest.mark.parametrize(
    "composite", ["epsilon_plus", "epsilon_plus_flat", "epsilon_gamma_box", "epsilon_alpha2_beta1", "excitation_backprop"]
)
def test_zennit_stays_within(composite):
    python = os.environ["NPLRP_TORCH_PYTHON"]
    model = small_vgg(8, size=16)
    recorded = golden.record(model, images(8, 2, (16, 16, 3)), composite)
    candidate = run_backend(recorded, model, [python, str(EXAMPLES / "zennit_backend.py")])
    for mode in ("local", "chained"):
        report = golden.check(recorded, candidate, mode=mode, model=model)
        assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"} and len(report.rows) >= 15, str(report)
    assert np.abs(candidate.relevances["input"]).max() > 0
