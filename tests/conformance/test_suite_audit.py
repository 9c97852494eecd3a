"""The suite audited: what its own tolerances could hide."""

import json

import numpy as np
import pytest

from nplrp.cli import main
from nplrp.conformance.auditing import audit_suite
from nplrp.conformance.suite import load
from nplrp.golden.judging import REACH


@pytest.fixture(scope="module")
def found():
    return audit_suite(load().only(["epsilon_0.1.dense*", "alpha2_beta1.conv-same.mixed", "own.maxpool-2x2.*"]), "nplrp")


def test_right_code_passes_and_faults_are_caught(found):
    assert found.passed and len(found.cases) > 20
    by_name = {each.case: each for each in found.cases}
    assert {1, 2, 3, 4} <= set(by_name["epsilon_0.1.dense.mixed"].caught)
    assert {5, 8, 9} <= set(by_name["alpha2_beta1.conv-same.mixed"].caught)
    assert 10 in by_name["own.maxpool-2x2.ties"].caught and 10 in by_name["own.maxpool-2x2.mixed"].unchanged
    assert all(not set(each.caught) & {*each.missed, *each.unchanged} for each in found.cases)
    assert found.kill_rate > 0.8  # ten times an epsilon of 1e-7 is below rounding


def test_vacuity_is_what_it_says(found):
    (tensor,) = load()["epsilon_0.1.dense.mixed"].answer("nplrp").tensors
    size, bound = np.abs(tensor.values), tensor.certified + REACH * tensor.undecided
    mine = next(each for each in found.cases if each.case == "epsilon_0.1.dense.mixed")
    assert mine.vacuity == pytest.approx(np.minimum(size, bound).sum() / size.sum()) and mine.vacuity < 1e-4
    hard = next(each for each in found.cases if each.case == "epsilon_0.1.dense-4.cancelling")
    assert hard.vacuity > mine.vacuity  # a millionth is left of its sums


def test_command(capsys, tmp_path):
    assert main(["conformance", "--audit", "-k", "epsilon.dense.*", "--json", str(tmp_path / "a.json")]) == 0
    assert "faults that change a bit" in capsys.readouterr().out
    assert json.loads((tmp_path / "a.json").read_text())["schema"] == "nplrp.conformance.audit/1"
    assert main(["conformance", "--audit", "--backend", "nplrp"]) == 2
    assert "leave out" in capsys.readouterr().err
