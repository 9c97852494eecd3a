"""Audits: what tolerances hide, and which faults are caught."""

import json

import h5py
import numpy as np
import pytest

from nplrp import golden
from nplrp.cli import main
from nplrp.golden.errors import ProvenanceError
from nplrp.golden.faults import FAULTS
from nplrp.golden.recording import digest_of
from nplrp.golden.references import audit_references
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
    assert len(missed) <= 3  # sums over whole arrays find what samples don't
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


def test_tight_tolerances_reject_right_code_and_its_faults_are_no_catch(recorded, model):
    found = golden.audit(recorded, model, rtol=1e-9)
    rejected = {each.layer for each in found.rejections}
    assert not found.passed and {"fc1", "block2_conv1", "predictions"} <= rejected
    assert any(each.code == "a float32 run from end to end" for each in found.rejections)
    assert all(each.ratio > 1 for each in found.rejections)
    isolated = {each.layer for each in found.rejections if each.code.startswith("nplrp")}
    beside = [m for m in found.mutants if m.layer in isolated]
    assert len(isolated) >= 5 and len(beside) > 20
    assert not any(m.caught for m in beside)
    assert {m.reason for m in beside} <= {"changes nothing here", "diverges, as right code does here"}
    assert "right code is rejected" in str(found) and found.as_json()["rejections"]
    fair = golden.audit(recorded, model)
    assert not fair.rejections and fair.kill_rate == sum(m.caught for m in fair.mutants) / sum(not m.same for m in fair.mutants)


def test_of_right_runs_from_end_to_end_the_file_knows_enough(recorded):
    found = golden.audit(recorded, rtol=0, atol=1e-30)
    assert {each.layer for each in found.rejections} >= {"fc1", "input"} and not found.passed
    tensor = recorded["input"].relevance
    row = next(each for each in found.rejections if each.layer == "input")
    assert row.ratio == pytest.approx(tensor.spread[:, 1].max() * tensor.sums[2] / 1e-30)
    assert not golden.audit(recorded, rtol=0, atol=float(tensor.sums[2]) * 1e-2).rejections


def reference(path, bias=0.0, wrong=1.0):
    """A file as iNNvestigate keeps them, of one convolution and one pool, made by the loops below."""
    rng = np.random.default_rng(5)
    x, kernel, b = rng.normal(size=(2, 10, 10, 3)), rng.normal(size=(3, 3, 3, 5)), np.full(5, bias)
    with h5py.File(path, "w") as file:
        file.attrs["analyzer_name"] = "LRPEpsilon"
        file["input"] = x
        y, R, P = np.zeros((2, 8, 8, 5)), np.zeros_like(x), np.zeros_like(x)
        for n, i, j in np.ndindex(2, 8, 8):
            y[n, i, j] = np.einsum("ijc,ijck->k", x[n, i : i + 3, j : j + 3], kernel) + b
        for n in range(2):
            i, j, k = np.unravel_index(y[n].argmax(), y[n].shape)  # the largest output alone is explained
            z = y[n, i, j, k]
            R[n, i : i + 3, j : j + 3] = x[n, i : i + 3, j : j + 3] * kernel[..., k] * z / (z + 1e-7 * np.sign(z))
            P[n].flat[x[n].argmax()] = x[n].max()
        for name, weights, a in (("Conv2D", (kernel, b), R * wrong), ("MaxPooling2D", (), P)):
            group = file.create_group(name)
            group.attrs["layer_name"] = name
            group["attribution"] = a.astype(np.float32)
            for k, w in enumerate(group.create_group("weights") and weights):
                group[f"weights/{k}"] = w.astype(np.float32)
    return path


def test_references_of_innvestigate(tmp_path, capsys):
    found = audit_references(reference(tmp_path / "r.hdf5"))
    conv, pool = found.rows
    assert conv.layer == "Conv2D" and conv.difference < 3e-7 and pool.difference < 1e-7
    assert conv.zeros == pytest.approx(1 - 54 / 600, abs=1e-9) and pool.zeros == 1 - 2 / 600
    assert conv.vacuity == pytest.approx(1e-2, rel=1e-2) and not found.passed  # rtol alone hides a hundredth
    assert not {3, 4} & {*conv.caught, *conv.missed, *conv.unchanged} and "all biases are 0" in str(found)
    assert {8, 9} <= set(conv.caught) and 14 in conv.missed
    biased = audit_references(reference(tmp_path / "b.hdf5", bias=0.5))
    assert {3, 4} <= set(biased.rows[0].caught) and biased.rows[0].bias == 0.5
    assert audit_references(reference(tmp_path / "t.hdf5"), rtol=1e-4, atol=1e-7).passed
    assert not audit_references(reference(tmp_path / "w.hdf5", wrong=1.001), rtol=1e-4, atol=1e-7).rows[0].right
    assert main(["golden", "audit", str(tmp_path / "r.hdf5"), "--json", str(tmp_path / "a.json")]) == 1
    assert "Conv2D" in capsys.readouterr().out and json.loads((tmp_path / "a.json").read_text())["rows"][0]["zeros"] > 0.9


@pytest.mark.parametrize("fault", ["analyzer", "no input", "weights", "shape", "attribution", "text", "missing"])
def test_bad_references_are_one_line(tmp_path, fault, capsys):
    path = reference(tmp_path / "r.hdf5")
    with h5py.File(path, "a") as file:
        if fault == "analyzer":
            file.attrs["analyzer_name"] = "Gradient"
        elif fault == "no input":
            del file["input"]
        elif fault == "weights":
            del file["Conv2D/weights/1"]
        elif fault == "shape":
            del file["Conv2D/weights/0"]
            file["Conv2D/weights/0"] = np.zeros((3, 3, 3), np.float32)
        elif fault == "attribution":
            del file["Conv2D/attribution"]
            file["Conv2D/attribution"] = np.zeros((2, 9, 9, 3), np.float32)
    if fault == "text":
        path.write_text("no HDF5")
    elif fault == "missing":
        path.unlink()
    assert main(["golden", "audit", str(path)]) == 2
    told = capsys.readouterr().err
    assert told.count("\n") == 1 and "Traceback" not in told and (fault == "analyzer" or str(path) in told), told
