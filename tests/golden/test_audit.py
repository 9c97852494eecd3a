"""Audits: what tolerances hide, and which faults are caught."""

import json

import numpy as np
import pytest

from nplrp import golden
from nplrp.cli import main
from nplrp.golden.errors import ProvenanceError
from nplrp.golden.faults import FAULTS
from nplrp.golden.recording import digest_of
from tests.networks import images, small_vgg
from weights_tools.write_hdf5 import write


@pytest.fixture(scope="module")
def model():
    return small_vgg(5, size=16)


@pytest.fixture(scope="module")
def recorded(model):
    x = images(1, 2, (16, 16, 3))
    x[1, 4:9, 4:9] = 3.0
    return golden.record(model, x, "epsilon_gamma_box", start="logit")


def test_derived_tolerances_hide_little_and_catch_the_faults(recorded, model):
    found = golden.audit(recorded, model)
    assert found.passed and max(v.certified for v in found.vacuities) < 1e-3
    caught = {m.number for m in found.mutants if m.caught}
    assert caught == {2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14}, str(found)
    assert {m.number for m in found.mutants} == {fault.number for fault in FAULTS} | {11}
    for m in found.mutants:  # a fault that isn't caught says why; one that changes nothing isn't caught
        assert m.caught == (m.reason == "") and not (m.same and m.caught)
    assert {m.reason for m in found.mutants if m.number == 1} == {"changes nothing here"}
    text = str(found)
    assert "3 bias left out of z: caught in 4 of 4 layers" in text and "VACUOUS" not in text


def test_a_digest_is_audited_by_its_samples(recorded, model):
    small = digest_of(recorded)
    full, part = golden.audit(recorded, model), golden.audit(small, model)
    assert {(m.number, m.layer) for m in part.mutants} == {(m.number, m.layer) for m in full.mutants}
    missed = {(m.number, m.layer) for m in full.mutants if m.caught} - {(m.number, m.layer) for m in part.mutants if m.caught}
    assert {number for number, _ in missed} <= {2, 10}  # small ones, which sums over all of a layer show
    with pytest.raises(ProvenanceError, match="other weights"):
        golden.audit(small, small_vgg(6, size=16))


def test_guessed_tolerances_are_vacuous(recorded):
    found = golden.audit(recorded, rtol=1e-2, atol=1e-5)
    assert not found.passed and all(v.vacuous for v in found.vacuities) and not found.mutants
    layer = recorded["flatten"].relevance.values
    hidden = np.minimum(np.abs(layer), 1e-5 + 1e-2 * np.abs(layer)).sum() / np.abs(layer).sum()
    assert next(v for v in found.vacuities if v.layer == "flatten").certified == pytest.approx(hidden)


def test_command(recorded, model, tmp_path, capsys):
    path, weights = tmp_path / "g.lrpgold.h5", tmp_path / "m.h5"
    golden.write(recorded, path)
    assert main(["golden", "audit", str(path)]) == 0
    assert "give the model" in capsys.readouterr().out
    assert main(["golden", "audit", str(path), "--rtol", "0.1", "--json", "-"]) == 1
    assert json.loads(capsys.readouterr().out)["vacuities"][0]["vacuous"] is True
    write(model, weights, path, "tests")
    assert main(["golden", "audit", str(path), "-w", str(weights), "--json", str(tmp_path / "a.json")]) == 0
    assert "caught in" in capsys.readouterr().out
    assert any(m["caught"] for m in json.loads((tmp_path / "a.json").read_text())["mutants"])
