"""Backends that `check --backend` runs, each in a process of its own; Zennit, Captum and iNNvestigate live (see tests/test_peers.py)."""

import dataclasses
import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from nplrp import golden
from nplrp.cli import main
from nplrp.golden import backend as backends
from nplrp.golden.backend import BACKENDS, adapter, computed_otherwise, run_backend
from nplrp.golden.diagnosis import plan_of
from nplrp.golden.errors import GoldenError, ProvenanceError
from nplrp.golden.recording import digest_of
from nplrp.model import chain
from tests import networks
from tests.networks import images, small_vgg
from weights_tools.write_hdf5 import write

SCRIPTS = Path(backends.__file__).parent / "backends"
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


def test_a_digest_is_given_its_input(recorded, model, backend):
    small = dataclasses.replace(digest_of(recorded), input=None)
    with pytest.raises(GoldenError, match="doesn't hold its input"):
        run_backend(small, model, [*backend, "1"])
    found = run_backend(small, model, [*backend, "1"], x=recorded.input)
    assert set(found.relevances) == set(recorded.names)
    with pytest.raises(ProvenanceError, match="another input"):
        run_backend(small, model, [*backend, "1"], x=recorded.input + 1)


def test_other_weights_are_not_exported(recorded, backend):
    with pytest.raises(ProvenanceError, match="other weights"):
        run_backend(recorded, small_vgg(3), [*backend, "1"])


def test_python_names_the_interpreter_of_a_known_backend(recorded, model, tmp_path, capsys):
    path, weights = tmp_path / "g.lrpgold.h5", tmp_path / "m.h5"
    golden.write(recorded, path)
    write(model, weights, path, "tests")
    check = ["golden", "check", str(path), "-w", str(weights)]
    for name in BACKENDS:
        python = tmp_path / name  # says how it was called, and fails as an interpreter without the library does
        python.write_text('#!/bin/sh\necho "$(basename $1) $2: No module named torch" >&2\nexit 1\n')
        python.chmod(0o755)
        for mode, said in (("isolated", "isolated"), ("chained", "chained"), ("local", "chained")):
            assert main([*check, "--backend", name, "--python", str(python), "--mode", mode]) == 2
            assert f"{name}_backend.py {said}: No module named torch" in capsys.readouterr().err
    assert main([*check, "--backend", "zennit", "--python", "/no/such/python"]) == 2
    assert "can't be run" in capsys.readouterr().err
    assert main([*check, "--backend", "python x.py", "--python", sys.executable]) == 2
    assert "--python is for zennit, captum, innvestigate" in capsys.readouterr().err
    golden.write(digest_of(recorded), path)
    assert main([*check, "--backend", "zennit", "--mode", "isolated"]) == 2
    assert "record a full file" in capsys.readouterr().err


@pytest.fixture(scope="module")
def exchange():
    spec = importlib.util.spec_from_file_location("exchange", SCRIPTS / "exchange.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def normed():
    """Batch norms that are merged into the layer before them, and into the one behind; windows of all kinds."""
    rng = np.random.default_rng(3)
    layers = [
        networks.conv("conv1", networks.random_kernel(rng, 3, 3, 3, 5), rng.normal(size=5), "linear"),
        networks.batch_norm("norm1", rng, 5),
        networks.plain("relu1", "activation", "relu"),
        networks.pool("pool1"),
        networks.plain("flatten", "flatten"),
        networks.dense("fc1", networks.random_kernel(rng, 80, 6), rng.normal(size=6)),
        networks.batch_norm("norm2", rng, 6),
        networks.dense("predictions", networks.random_kernel(rng, 6, 4), rng.normal(size=4), "softmax"),
    ]
    return chain((8, 8, 3), layers, "with batch norms")


def test_adapters_see_the_layers_that_lrp_sees(exchange, normed, tmp_path):
    recorded = golden.record(normed, images(1, 2, (8, 8, 3)), "epsilon_plus", target=[0, 1])
    golden.export(recorded, tmp_path / "in", normed, "raw", "float64")
    job = exchange.Job(tmp_path / "in")
    plan = plan_of(recorded, normed)
    for layer, step in zip(job.layers, plan.steps, strict=True):
        assert (layer.name, layer.kind == "identity") == (step.name, step.merged)
        if step.weight is not None:
            np.testing.assert_array_equal(layer.kernel, step.weight)
            np.testing.assert_array_equal(layer.bias, step.bias)
            assert layer.pads == ((1, 1, 1, 1) if layer.kind == "conv" else (0, 0, 0, 0))
    (a,) = job.inputs(job.layers[-1]).values()  # the norm below is in these weights already, so it isn't in their input
    logits = a @ job.layers[-1].kernel + job.layers[-1].bias
    np.testing.assert_allclose(logits, recorded.logits, rtol=1e-12)
    np.testing.assert_array_equal(a, recorded["fc1"].activation.values)
    np.testing.assert_array_equal(job.relevance(job.layers[-1]), recorded["predictions"].relevance.values)
    assert job.start(recorded.logits)[1].tolist() == [0, 1, 0, 0]
    everything = {name: np.zeros(1) for name in recorded.names}
    job.write(tmp_path / "o.npz", {}, everything, {})
    assert set(recorded.names) - {name.split("/")[1] for name in np.load(tmp_path / "o.npz")} == {"conv1", "norm2"}


def test_what_adapters_can_not_do_they_say(exchange, tmp_path):
    rng = np.random.default_rng(0)
    bilinear = networks.plain("up", "upsample", options={"size": [2, 2], "interpolation": "bilinear"})
    end = [networks.plain("flatten", "flatten"), networks.dense("fc", networks.random_kernel(rng, 192, 3), np.zeros(3), "softmax")]
    model = chain((4, 4, 3), [bilinear, *end], "bilinear")
    golden.export(golden.record(model, images(1, 1, (4, 4, 3)), "epsilon"), tmp_path / "in", model, "raw")
    with pytest.raises(SystemExit, match="up: upsampling other than to the nearest pixel isn't supported"):
        exchange.Job(tmp_path / "in")


def test_what_a_library_computes_otherwise_is_said_before_it_runs(recorded, model, tmp_path, capsys):
    x = images(1, 1, (8, 8, 3))
    assert computed_otherwise(recorded, "zennit") == []  # epsilon_plus is Zennit's own
    (line, *_), *more = [computed_otherwise(golden.record(model, x, "zplus", profile="digest"), name) for name in ("captum", "zennit")]
    assert (
        line.startswith("captum-0.9 computes zplus(epsilon=1e-09, stabiliser=sign, bias=raw, split=False) where zplus(")
        and "block1_conv1, block1_conv2, block2_conv1 ... (5 of 9 layers)" in line
    )
    assert "zennit-0.5 computes zplus" in more[0][0] and "stabiliser=sign" in more[0][0]
    softmax = golden.record(model, x, "epsilon", dialect="captum", start="softmax", profile="digest")
    assert (
        computed_otherwise(softmax, "captum") == ["captum-0.9 begins with start logit where softmax was recorded: all will diverge"]
        and computed_otherwise(softmax, "captum", "isolated") == []
    )
    for name, composites in (
        ("zennit", ("epsilon_gamma_box", "epsilon_alpha2_beta1_flat")),
        ("captum", ("epsilon", "gamma", "alpha1_beta0")),
    ):
        for composite in composites:
            own = golden.record(model, x, composite, dialect=name, start="logit", profile="digest")
            assert computed_otherwise(own, name) == [], composite
    for composite in ("lrp.z", "lrp.alpha_2_beta_1_IB", "lrp.z_plus_fast", "lrp.sequential_preset_a_flat"):
        assert computed_otherwise(golden.record(model, x, composite, profile="digest"), "innvestigate") == [], composite
    path, weights = tmp_path / "g.lrpgold.h5", tmp_path / "m.h5"
    golden.write(golden.record(model, x, "zplus"), path)
    write(model, weights, path, "tests")
    assert main(["golden", "check", str(path), "-w", str(weights), "--backend", "captum", "--python", "/no/such/python"]) == 2
    said = capsys.readouterr().err.splitlines()
    assert said[0].startswith("nplrp: captum-0.9 computes zplus(") and "--dialect captum" in said[0] and "can't be run" in said[-1]


LIVE = {
    "zennit": ("NPLRP_TORCH_PYTHON", ("epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1_flat", "excitation_backprop", "zplus")),
    "captum": ("NPLRP_TORCH_PYTHON", ("epsilon", "gamma", "alpha1_beta0")),
    "innvestigate": ("NPLRP_INNVESTIGATE_PYTHON", ("lrp.z", "lrp.alpha_2_beta_1", "lrp.sequential_preset_a_flat")),
}


@pytest.mark.peers
@pytest.mark.parametrize(("name", "composite"), [(name, each) for name, (_, composites) in LIVE.items() for each in composites])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_live_backends_stay_within(name, composite, dtype, normed):
    variable = LIVE[name][0]
    if variable not in os.environ:
        pytest.skip(f"{variable} names no interpreter")
    dialect = {"zennit": "zennit", "captum": "captum", "innvestigate": "innvestigate"}[name]
    for model, x in ((small_vgg(8, size=16), images(8, 2, (16, 16, 3))), (normed, images(8, 2, (8, 8, 3)))):
        recorded = golden.record(model, x, composite, target=[1, 2], dialect=dialect)
        for mode in ("isolated", "local", "chained"):
            candidate = run_backend(recorded, model, adapter(name, mode, os.environ[variable]), dtype=dtype)
            report = golden.check(recorded, candidate, mode=mode, model=model)
            assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"} and len(report.rows) >= 8, str(report)
            assert np.abs(candidate.relevances["input"]).max() > 0


@pytest.mark.peers
def test_another_dialect_is_named(normed):
    if "NPLRP_TORCH_PYTHON" not in os.environ:
        pytest.skip("NPLRP_TORCH_PYTHON names no interpreter")
    recorded = golden.record(normed, images(8, 2, (8, 8, 3)), "zplus", target=[1, 2])
    candidate = run_backend(recorded, normed, adapter("captum", "isolated", os.environ["NPLRP_TORCH_PYTHON"]))
    report = golden.check(recorded, candidate, mode="isolated", model=normed)
    assert report.first.layer == "predictions" and "captum-0.9" in report.diagnosis[-1], str(report)
