"""Adapters of Zennit, Captum and iNNvestigate on graphs: what they read from exchange folders, and live (see tests/test_peers.py)."""

import importlib.util
import json
import os
import re
import subprocess
import warnings
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from nplrp import golden
from nplrp.golden import backend as backends
from nplrp.golden.candidate import read_candidate
from nplrp.golden.diagnosis import plan_of, trace_of
from nplrp.golden.isolated import isolated_run
from nplrp.ledger import LedgerWarning
from nplrp.model import chain
from tests import networks
from tests.engine_graph import model_of
from tests.networks import images, small_resnet
from tests.test_graph_twin import NETWORKS

SCRIPTS = Path(backends.__file__).parent / "backends"
HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def exchange():
    spec = importlib.util.spec_from_file_location("exchange", SCRIPTS / "exchange.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def network(name):
    """Return a model, its inputs and targets."""
    if name == "small_resnet":
        return small_resnet(5), images(1, 2, (16, 16, 3)), [1, 2]
    return model_of(NETWORKS[name]), NETWORKS[name].x, [int(target) for target in NETWORKS[name].targets]


ALL = (*NETWORKS, "small_resnet")


def hidden(recorded):
    """Return how many outputs merged batch norms hide: one for each, where nothing lies between it and its neighbour."""
    return sum(row.get("merged", False) for row in recorded.facts["layers"])


# --- exchange.Job, without any framework -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_adapters_see_the_graph_that_lrp_sees(exchange, name, tmp_path):
    model, x, targets = network(name)
    recorded = golden.record(model, x, "epsilon_plus", targets)
    golden.export(recorded, tmp_path / "in", model, "raw", "float64")
    job, plan = exchange.Job(tmp_path / "in"), plan_of(recorded, model)
    trace = trace_of(recorded, plan, {layer.name: layer.activation.values for layer in recorded.layers})
    names = ["input", *(step.name for step in plan.steps)]
    assert job.readers == {below: [step.name for step in plan.steps if below in (names[j + 1] for j in step.inputs)] for below in names}
    for layer, step in zip(job.layers, plan.steps, strict=True):
        assert layer.name == step.name and layer.inputs == [names[j + 1] for j in step.inputs]
        assert (layer.kind == "identity") >= step.merged and tuple(layer.output_shape) == step.output_shape
        if step.weight is not None and layer.kind in exchange.WEIGHTED:
            np.testing.assert_array_equal(layer.kernel.reshape(step.weight.shape), step.weight)
            assert np.array_equal(0 * step.bias if layer.bias is None else layer.bias, step.bias)
        if layer.kind == "batchnorm":
            np.testing.assert_allclose(layer.gain, (step.weight, step.bias), rtol=1e-14)
        if step.window is not None and layer.kind != "conv_transpose":
            assert layer.pads == step.window.pads(*layer.shape[:2]) and tuple(layer.size) == tuple(step.window.size)
        if layer.kind in (*exchange.WEIGHTED, *exchange.JOINS):  # what others get is moved only
            for below, a in job.inputs(layer).items():
                np.testing.assert_array_equal(a, trace.activations[names.index(below)])
        np.testing.assert_array_equal(job.relevance(layer), recorded[layer.name].relevance.values)
    everything = {name: np.zeros(1) for name in recorded.names}
    job.write(tmp_path / "o.npz", {}, everything, {})
    assert len(recorded.names) - len(read_candidate(tmp_path / "o.npz").activations) == hidden(recorded)


@pytest.mark.parametrize("graph", [False, True])
def test_a_norm_is_merged_through_what_only_moves(exchange, graph, tmp_path):
    """Above: the dense layer reads what the norm did, flattened. Below: a layer that does nothing lies between. Chains don't say where."""
    rng = np.random.default_rng(3)
    layers = [
        networks.pool("pool"),
        networks.batch_norm("norm1", rng, 3),
        networks.plain("flatten", "flatten"),
        networks.dense("fc1", networks.random_kernel(rng, 48, 6), rng.normal(size=6), "linear"),
        networks.plain("nothing", "identity"),
        networks.batch_norm("norm2", rng, 6),
        networks.plain("relu", "activation", "relu"),
        *([networks.plain("add", "add", inputs=("relu", "norm2"))] if graph else []),
        networks.dense("fc2", networks.random_kernel(rng, 6, 4), rng.normal(size=4), "linear"),
        networks.plain("scores", "activation", "softmax"),
    ]
    model = chain((8, 8, 3), layers, "moved")
    recorded = golden.record(model, images(1, 2, (8, 8, 3)), "epsilon", target=[0, 1])
    assert recorded.facts["format_version"] == 3
    golden.export(recorded, tmp_path / "in", model, "raw", "float64")
    job = exchange.Job(tmp_path / "in")
    by_name = {layer.name: layer for layer in job.layers}
    (a,) = job.inputs(by_name["fc1"]).values()
    np.testing.assert_array_equal(a, recorded["pool"].activation.values.reshape(2, 48))
    z = np.maximum(a @ by_name["fc1"].kernel + by_name["fc1"].bias, 0)
    np.testing.assert_allclose(z, recorded["relu"].activation.values, rtol=1e-12, atol=1e-14)
    assert job.score == "softmax" and job.scored == ["scores"] and by_name["scores"].activation == "linear"
    everything = {name: np.zeros(1) for name in recorded.names}
    job.write(tmp_path / "o.npz", {}, everything, {})
    seen = read_candidate(tmp_path / "o.npz").activations
    assert set(recorded.names) - set(seen) == {"norm1", "flatten", "fc1", "nothing"}


def test_edges_are_summed_the_last_reader_first(exchange, tmp_path):
    model = chain(
        (4,),
        [
            networks.dense("a/1", np.eye(4), np.zeros(4), "linear"),
            networks.dense("b%", np.eye(4), np.zeros(4), "linear"),
            networks.plain("sum", "add", inputs=("a/1", "b%")),
        ],
        "slashes",
    )
    recorded = golden.record(model, np.ones((1, 4)), "epsilon", target=[0])
    golden.export(recorded, tmp_path / "in", model, "raw", "float32")
    job = exchange.Job(tmp_path / "in")
    tiny = np.float32([2.0**-24])
    edges = {("a/1", "input"): tiny, ("b%", "a/1"): np.float32([1]), ("sum", "a/1"): tiny, ("sum", "b%"): tiny}
    job.write(tmp_path / "o.npz", {"sum": tiny}, {}, edges)
    found = read_candidate(tmp_path / "o.npz")
    assert set(found.edges) == {("b%", "a/1"), ("sum", "a/1")} and set(found.relevances) == {"input", "a/1", "b%", "sum"}
    assert found.relevances["a/1"].item() == tiny.item() + np.float32(1)


def test_activations_are_read_with_their_parameters(exchange):
    assert exchange.parsed("relu") == ("relu", {})
    assert exchange.parsed("hard_tanh(low=-inf, high=1e-07)") == ("hard_tanh", {"low": -np.inf, "high": 1e-7})


# --- live -------------------------------------------------------------------------------------------------------------

LIVE = {
    "zennit": (
        "NPLRP_TORCH_PYTHON",
        ("epsilon_plus", "epsilon_gamma_box(low=-3.0, high=3.0)", "epsilon_alpha2_beta1_flat", "excitation_backprop", "gamma"),
    ),
    "captum": ("NPLRP_TORCH_PYTHON", ("epsilon", "gamma", "alpha1_beta0")),
    "innvestigate": ("NPLRP_INNVESTIGATE_PYTHON", ("lrp.z", "lrp.alpha_2_beta_1", "lrp.sequential_preset_a_flat")),
}
MODES, DTYPES = ("isolated", "local", "chained"), ("float32", "float64")
END_TO_END = MODES[1:]
#: (backend, network): where a library computes otherwise (modes, dtypes, composites; empty means all), and why.
OTHERWISE = {
    ("innvestigate", "d_densenet"): (("local",), ("float32",), (), "Keras rounds g and h of a batch norm, which bounds take as given"),
    ("innvestigate", "p_twice"): (MODES, DTYPES, (), "an output that a layer reads twice gets its relevance twice"),
    ("innvestigate", "q_dead"): (MODES, DTYPES, (), "equal maxima of a global max-pool share"),
    ("innvestigate", "l_activations"): (("local",), DTYPES, (), "TensorFlow's elu is exp(z) - 1, which loses digits at small z"),
    ("captum", "g_add3"): (MODES, ("float64",), (), "three are added pair by pair, each with an epsilon"),
    **{
        ("captum", name): (END_TO_END, DTYPES, (), "a bare operator beside a layer with a rule: its share is multiplied once more")
        for name in ("d_densenet", "g_maximum", "m_unet", "small_resnet")
    },
}
#: What a backend refuses, and what it says.
REFUSED = {
    ("captum", "e_mobilenet"): r"no rule for the activation 'relu\(max_value=6.0\)'",
    ("captum", "h_squeeze"): "no rule for the activation 'sigmoid'",
    ("captum", "l_activations"): "no rule for the activation 'leaky_relu",
    ("captum", "n_layernorm"): "no rule 'slope' with these constants for layers of kind 'layernorm'",
}


@cache
def recorded_with(name, composite, dialect):
    model, x, targets = network(name)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LedgerWarning)
        return golden.record(model, x, composite, targets, dialect=dialect), model


def run_all(backend, asked, folder):
    """Run an adapter, in one process, on {key: (recorded, model, dtype)}; return {(key, mode): candidate, or what it refuses}."""
    variable = LIVE[backend][0]
    if variable not in os.environ:
        pytest.skip(f"{variable} names no interpreter")
    jobs = {}
    for i, (key, (recorded, model, dtype)) in enumerate(asked.items()):
        golden.export(recorded, folder / f"{i}", model, "raw", dtype)
        jobs |= {(key, mode): [mode, str(folder / f"{i}"), str(folder / f"{i}{mode}.npz")] for mode in ("isolated", "chained")}
    (folder / "jobs.json").write_text(json.dumps(list(jobs.values())))
    script = HERE.parent / "peers" / "run_adapters.py"
    command = [os.environ[variable], str(script), str(SCRIPTS), backend, str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    found = {}
    for job, (_, _, target) in jobs.items():
        said = Path(f"{target}.txt")
        found[job] = said.read_text() if said.exists() else read_candidate(target)
    return found


@pytest.mark.peers
@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize("backend", LIVE)
def test_live_graphs(backend, name, tmp_path):
    composites = LIVE[backend][1]
    asked = {(composite, dtype): (*recorded_with(name, composite, backend), dtype) for composite in composites for dtype in DTYPES}
    found, judged = run_all(backend, asked, tmp_path), 0
    modes, dtypes, which, _ = OTHERWISE.get((backend, name), ((), (), (), ""))
    for (composite, dtype), (recorded, model, _) in asked.items():
        for mode in MODES:
            candidate = found[(composite, dtype), "isolated" if mode == "isolated" else "chained"]
            if (backend, name) in REFUSED:
                assert isinstance(candidate, str) and re.search(REFUSED[backend, name], candidate), candidate
                continue
            assert not isinstance(candidate, str), candidate
            report = golden.check(recorded, candidate, mode=mode, model=model)
            diverged = {(row.layer, row.array) for row in report.rows if row.verdict not in ("EXACT", "WITHIN")}
            layers, edges = len(recorded.layers), sum(len(layer.edges) for layer in recorded.layers)
            expected = {
                "isolated": layers - 1 + edges,
                "local": layers,  # at least: next to what a merged norm hides nothing can be judged
                "chained": 2 * layers - 1 - hidden(recorded),
            }
            assert len(report.rows) == expected[mode] or (mode == "local" and len(report.rows) >= layers), str(report)
            where = f"{backend}, {name}, {composite}, {dtype}, {mode}: {report}"
            otherwise = mode in modes and dtype in dtypes and (not which or composite in which)
            if otherwise:
                assert diverged, f"computed as recorded after all: {where}"
                if (backend, name) == ("captum", "m_unet"):
                    assert "concatenate7 gives times the activation once more" in report.diagnosis[-1], where
            elif mode == "isolated" and dtype == "float64":  # golden inputs are those beside merged norms, but for their last bits
                own = golden.check(recorded, isolated_run(recorded, model, dtype), mode=mode)
                assert diverged <= {(row.layer, row.array) for row in own.rows if row.verdict not in ("EXACT", "WITHIN")}, where
            else:
                assert not diverged, where
            if dtype == "float64" and not otherwise:
                for layer, R in candidate.relevances.items():
                    wanted = recorded[layer].relevance.values
                    size = np.abs(wanted).max()  # a flat layer below a layer norm's gradient gets nothing but rounding
                    assert size < 1e-12 or np.abs(R - wanted).max() <= 1e-9 * size, f"{layer}: {where}"
            judged += len(report.rows)
    assert judged > 0 or (backend, name) in REFUSED
