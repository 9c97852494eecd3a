"""The golden file: round trips, hashes, damage, recomputing, exports, the command line."""

import dataclasses
import json
import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest

from nplrp import explain, golden
from nplrp.cli import main
from nplrp.errors import NplrpError, OutputError
from nplrp.files.sealed import BLOCK
from nplrp.files.weights import load
from nplrp.golden.errors import GoldenError, ProvenanceError
from nplrp.golden.orders import renumbered
from nplrp.golden.recording import SAMPLES
from nplrp.golden.values import sha256
from tests.keras_files import FILES
from tests.networks import images, small_vgg

ROOT = Path(__file__).parents[2]
WEIGHTS = str(FILES / "small32_k2_model_save.h5")


@pytest.fixture(scope="module")
def model():
    return small_vgg(3)


@pytest.fixture(scope="module")
def recorded(model):
    return golden.record(model, images(1, 2, (8, 8, 3)), "epsilon_plus", target=[0, 3])


@pytest.fixture
def path(recorded, tmp_path):
    found = tmp_path / "a.lrpgold.h5"
    golden.write(recorded, found)
    return found


def test_what_is_recorded_is_what_explain_gives(recorded, model):
    e = explain(model, images(1, 2, (8, 8, 3)), "epsilon_plus", [0, 3], "float64", "direct")
    for name, R in e.relevances.items():
        np.testing.assert_array_equal(recorded[name].relevance.values, R)
        np.testing.assert_array_equal(recorded[name].activation.values, e.activations[name])
    assert recorded.facts["targets"] == [0, 3] and recorded.facts["weights_sha256"] == model.content_hash
    rules = {row["name"]: row["rule"] for row in recorded.facts["layers"]}
    assert rules["fc1"] == {"name": "epsilon", "epsilon": 1e-6, "stabiliser": "sign", "bias": "changed"}
    assert [owner.name for owner in recorded.owners("flatten")] == ["fc1"] and recorded.owners("predictions") == ()


@pytest.mark.parametrize("profile", ["full", "digest"])
def test_round_trip_keeps_every_bit(profile, model, tmp_path):
    made = golden.record(model, images(1, 2, (8, 8, 3)), "epsilon_gamma_box", profile=profile)
    golden.write(made, tmp_path / "b.lrpgold.h5")
    again = golden.read(tmp_path / "b.lrpgold.h5")
    assert dict(again.facts) == dict(made.facts) and again.content_sha256 == made.content_sha256
    for (one, a), (two, b) in zip(made.arrays(), again.arrays(), strict=True):
        assert one == two and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert golden.recompute(again, model) == []


def test_files_of_equal_runs_are_equal(recorded, path, tmp_path):
    golden.write(recorded, tmp_path / "c.lrpgold.h5")
    assert path.read_bytes() == (tmp_path / "c.lrpgold.h5").read_bytes()


def test_any_hdf5_reader_finds_innvestigates_names(path, recorded):
    with h5py.File(path) as file:
        assert file.attrs["format"] == "nplrp-golden"
        np.testing.assert_array_equal(file["attribution"][()], recorded["input"].relevance.values)
        np.testing.assert_array_equal(file["layerwise_relevances/fc1"][()], recorded["fc1"].relevance.values)
        assert file["layers/fc1/error_expected"].dtype == np.float32
        assert file["layers/input/relevance"].compression == "gzip" and file["layers/input/relevance"].fletcher32


def test_every_changed_byte_is_found(path):
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    for place in [*range(BLOCK + 1), len(whole) - 1, *rng.integers(0, len(whole), 60)]:
        changed = bytearray(whole)
        changed[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(changed)
        with pytest.raises(GoldenError):
            golden.read(path)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda data: data[:-1], "truncated or was changed"),
        (lambda data: data[: BLOCK + 100], "truncated or was changed"),
        (lambda data: data + b"\0", "truncated or was changed"),
        (lambda data: b"", "is empty"),
        (lambda data: data[:100], "is no golden file"),
        (lambda data: data[BLOCK:], "is no golden file"),
        (lambda data: data.replace(b"nplrp-golden 3 ", b"nplrp-golden 7 ", 1), "format version 7"),
    ],
)
def test_bad_files_say_what_is_wrong(path, spoil, message, capsys):
    path.write_bytes(spoil(path.read_bytes()))
    assert main(["golden", "verify", str(path)]) == 2
    assert message in capsys.readouterr().err


def test_content_changed_with_other_software_is_found(path):
    import hashlib

    with h5py.File(path, "r+") as file:
        file["layers/fc1/relevance"][0, 0] += 1e-9
    data = path.read_bytes()
    head = f"nplrp-golden 1 sha256 {hashlib.sha256(data[BLOCK:]).hexdigest()}\n".encode()
    path.write_bytes(head.ljust(BLOCK, b"\0") + data[BLOCK:])
    with pytest.raises(GoldenError, match="it was changed"):
        golden.read(path)


def test_changed_attributes_of_layers_are_found(model, tmp_path):
    import hashlib

    path = tmp_path / "d.lrpgold.h5"
    made = golden.record(model, images(1, 2, (8, 8, 3)), "epsilon_plus", profile="digest")
    for key, value in (("relevance_sums", [0.0, 0.0, 9.0]), ("relevance_sha256", "0" * 64), ("ambiguous_count", 7), ("rule", "zplus")):
        golden.write(made, path)
        with h5py.File(path, "r+") as file:
            file["layers/fc1"].attrs[key] = value
        data = path.read_bytes()
        head = f"nplrp-golden 1 sha256 {hashlib.sha256(data[BLOCK:]).hexdigest()}\n".encode()
        path.write_bytes(head.ljust(BLOCK, b"\0") + data[BLOCK:])
        with pytest.raises(GoldenError, match="it was changed"):
            golden.read(path)


def test_recomputing_a_digest_sees_what_was_not_sampled(model):
    made = golden.record(model, images(1, 2, (8, 8, 3)), "epsilon_plus", profile="digest")
    other = tuple(
        dataclasses.replace(layer, relevance=dataclasses.replace(layer.relevance, sha256="0" * 64)) if layer.name == "fc1" else layer
        for layer in made.layers
    )
    assert golden.recompute(dataclasses.replace(made, layers=other), model) == ["layers/fc1/relevance"]


def test_recompute_refuses_other_weights_and_input_and_finds_other_bits(recorded, model):
    with pytest.raises(ProvenanceError, match="other weights"):
        golden.recompute(recorded, small_vgg(4))
    with pytest.raises(ProvenanceError, match="another input"):
        golden.recompute(recorded, model, images(2, 2, (8, 8, 3)))
    recorded_fc1 = recorded["fc1"].relevance.values
    kept = recorded_fc1[0, 0]
    recorded_fc1[0, 0] = np.nextafter(kept, 9)
    assert golden.recompute(recorded, model) == ["layers/fc1/relevance"]
    recorded_fc1[0, 0] = kept


def test_writing_is_atomic(recorded, path, monkeypatch):
    before = path.read_bytes()
    monkeypatch.setattr("nplrp.golden.file._fill", lambda file, golden: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(OutputError, match="No space left"):
        golden.write(recorded, path)
    assert path.read_bytes() == before and len(list(path.parent.iterdir())) == 1
    with pytest.raises(OutputError, match=r"NAME\.lrpgold\.h5"):
        golden.write(recorded, path.with_name("x.h5"))


def test_digest_of_a_large_network_fits_in_git(tmp_path):
    model = small_vgg(0, size=40)
    made = golden.record(model, images(1, 2, (40, 40, 3)), "epsilon_plus", profile="digest")
    golden.write(made, tmp_path / "d.lrpgold.h5")
    assert (tmp_path / "d.lrpgold.h5").stat().st_size < 270_000  # VGG16 has 23 layers, this has 9
    layer = made["block1_conv1"]
    whole = explain(model, images(1, 2, (40, 40, 3)), "epsilon_plus", dtype="float64", algorithm="direct").relevances["block1_conv1"]
    np.testing.assert_array_equal(layer.relevance.values, whole.reshape(-1)[layer.indices])
    assert len(layer.indices) <= SAMPLES and layer.relevance.sha256 == sha256(whole)
    assert made.input is None
    with pytest.raises(GoldenError, match="doesn't hold its input"):
        golden.recompute(made, model)


def test_renumbered_model_computes_the_same(model):
    x = images(5, 1, (8, 8, 3))
    other, orders = renumbered(model, 1)
    a, b = explain(model, x, "epsilon_plus", 1, "float64"), explain(other, x, "epsilon_plus", 1, "float64")
    assert any(not np.array_equal(order, np.arange(len(order))) for order in orders.values())
    for name, R in b.relevances.items():
        back = R[..., np.argsort(orders[name])] if name in orders else R
        np.testing.assert_allclose(back, a.relevances[name], rtol=1e-9, atol=1e-12)


def test_unknown_profile_and_gradients_are_refused(model):
    with pytest.raises(GoldenError, match="digest or full"):
        golden.record(model, images(1, 1, (8, 8, 3)), profile="all")
    with pytest.raises(NplrpError, match="is a gradient"):
        golden.record(model, images(1, 1, (8, 8, 3)), "gradient")


FLUSH = r"""
#include <xmmintrin.h>
void flush(void) { _mm_setcsr(_mm_getcsr() | 0x8040); }
"""


@pytest.mark.skipif(not shutil.which("gcc"), reason="needs gcc")
def test_flushed_subnormals_are_refused(tmp_path):
    (tmp_path / "flush.c").write_text(FLUSH)
    done = subprocess.run(["gcc", "-shared", "-fPIC", "-o", tmp_path / "flush.so", tmp_path / "flush.c"], check=False)
    if done.returncode:
        pytest.skip("gcc can't compile for SSE here")
    flush = f"import ctypes; ctypes.CDLL({str(tmp_path / 'flush.so')!r}).flush()\n"

    def told(code):
        return subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=False).stderr

    assert "golden values would be wrong" in told(flush + "from nplrp.subnormals import refuse_flushed as r; r()")
    passes = "import nplrp\nfrom tests.networks import images, small_vgg\nnplrp.explain(small_vgg(), images(0, 1, (8, 8, 3)), 'epsilon')"
    (line, *_) = told(flush + passes).splitlines()
    assert line.startswith("<string>:4: NumericsWarning: this process flushes subnormal float64 and float32 numbers to zero")
    assert told(passes) == ""


@pytest.fixture(scope="module")
def on_disk(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cli")
    model = load(WEIGHTS)
    np.save(folder / "x.npy", images(0, 1, model.input_shape))
    out = folder / "k.lrpgold.h5"
    assert main(["golden", "record", "-w", WEIGHTS, "-x", str(folder / "x.npy"), "-c", "epsilon_plus", "-o", str(out)]) == 0
    return folder, out


def test_command_line(on_disk, capsys, tmp_path):
    folder, out = on_disk
    capsys.readouterr()
    assert main(["golden", "show", str(out)]) == 0
    assert "epsilon_plus" in capsys.readouterr().out
    assert main(["golden", "show", str(out), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["input_name"] == "x.npy"
    assert main(["golden", "verify", str(out), "--recompute", "-w", WEIGHTS]) == 0
    assert "the same bits" in capsys.readouterr().out
    assert main(["golden", "verify", str(out), "--recompute", "-w", str(FILES / "small32_official_names.h5")]) == 0  # the same weights
    capsys.readouterr()
    assert main(["golden", "verify", str(out), "--recompute", "-w", str(FILES / "keras2_compiled.h5")]) == 3
    assert "other weights" in capsys.readouterr().err
    assert main(["golden", "record", "-w", WEIGHTS, "-o", str(folder / "n.lrpgold.h5")]) == 2
    assert "--image or --input" in capsys.readouterr().err
    assert main(["golden", "export", str(out), "-w", WEIGHTS, "-o", str(tmp_path / "e.npz")]) == 0
    made = golden.read(out)
    with np.load(tmp_path / "e.npz") as data:
        np.testing.assert_array_equal(data["layers/input/relevance"], made["input"].relevance.values)
        assert json.loads(str(data["about"]))["content_sha256"] == made.facts["content_sha256"]
        assert any(name.startswith("weights/") for name in data)


def test_raw_export_is_plain_numbers(on_disk, tmp_path, capsys):
    _, out = on_disk
    assert main(["golden", "export", str(out), "--to", "raw", "--dtype", "float32", "-o", str(tmp_path / "raw")]) == 0
    made = golden.read(out)
    rows = [line.split(" ") for line in (tmp_path / "raw" / "contents.txt").read_text().splitlines()]
    row = next(row for row in rows if row[-1] == "layers/input/relevance")
    values = np.fromfile(tmp_path / "raw" / row[0], "<" + row[1]).reshape([int(n) for n in row[3 : 3 + int(row[2])]])
    np.testing.assert_array_equal(values, made["input"].relevance.values.astype("f4"))
    assert main(["golden", "export", str(out), "--to", "raw", "-o", str(tmp_path / "raw")]) == 2
    assert "isn't empty" in capsys.readouterr().err


def test_module_is_found_by_name():
    assert set(golden.__all__) <= set(dir(golden))
    with pytest.raises(AttributeError, match="no attribute"):
        golden.records  # noqa: B018
