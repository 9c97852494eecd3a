"""The same input gives the same bits: from run to run, on any number of threads and threading layer, anywhere in a batch, with a cold and a
warm kernel cache, and on CPUs with other vectors. By hash over whole explanations, each run in a process of its own.
"""

import json
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp.kernels.conv import Geometry, algorithm
from nplrp.kernels.simd import VECTOR_BITS
from nplrp.rules.composites import COMPOSITES
from tests import laws
from tests.bits import GRAPHS as NETWORKS_OF_PEERS
from tests.bits import NETWORKS, STORED, boxed, network, pictures, stored_hashes
from tests.engine_graph import model_of
from tests.networks import images
from tests.peers.graph_file import read

ROOT = Path(__file__).parent.parent
#: A CPU with narrower vectors than this one (the same trick as in tests/kernels/test_same_bits.py).
NARROWER = {512: "haswell", 256: "x86-64-v2"}
#: Of the peers' networks (`tests.peers.graph_networks`).
GRAPHS = ("b_projection", "c_inception", "d_densenet", "e_mobilenet", "l_activations", "n_layernorm")
networks = cache(lambda: read(NETWORKS_OF_PEERS))
SOME = ("notebook", "zplus", "alpha_beta", "gamma", "epsilon_plus_flat")


@cache
def hashes(*names, **settings):
    """Return {(composite, dtype): hash} as `tests.bits` prints them under environment variables."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bits", *names], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return {tuple(line.split()[:2]): line.split()[2] for line in done.stdout.splitlines()}


def numpy_features():
    """Return the CPU features that NumPy has chosen code for, as it wants them to be turned off."""
    from numpy._core._multiarray_umath import __cpu_dispatch__, __cpu_features__

    return " ".join(name for name in __cpu_dispatch__ if __cpu_features__.get(name))


def test_the_network_runs_winograd():
    assert algorithm(Geometry(16, 16, 64, 64, pads=(1, 1, 1, 1)), np.float32) == "winograd"


def test_runs_and_numbers_of_threads():
    two = hashes()
    assert len(two) == 2 * len(COMPOSITES)
    assert len(set(two.values())) > len(COMPOSITES)  # the hashes tell explanations apart
    assert hashes(NUMBA_NUM_THREADS="1") == two
    assert hashes(NUMBA_NUM_THREADS="3") == two


@pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
def test_bits_of_chains_are_those_that_are_stored():
    """No rebuilding of the house may change a bit: hashes taken before it, of every composite in both precisions.

    Some were wrong and were taken anew (CHANGELOG): Deep Taylor where an average pool lies above a ReLU that is a layer of its own; in
    Zennit's and iNNvestigate's dialects a batch norm that can't be merged, which has the peer's own rule now; zB behind a pad, whose zeros
    are no pixels.
    """
    stored, found = json.loads(STORED.read_text()), stored_hashes()
    assert {name: set(table) for name, table in stored.items()} == {name: set(table) for name, table in found.items()}
    different = [
        f"{name}: {composite}, {dtype}"
        for name, table in found.items()
        for composite, hashes_ in table.items()
        for dtype, each in hashes_.items()
        if each != stored[name][composite][dtype]
    ]
    assert not different


def test_threading_layers():
    assert hashes(*SOME, NUMBA_THREADING_LAYER="workqueue") == hashes(*SOME)


def test_cold_and_warm_cache(tmp_path):
    cold = hashes(*SOME, NUMBA_CACHE_DIR=str(tmp_path))
    assert list(tmp_path.rglob("*.bin"))
    assert cold == hashes(*SOME)


def test_without_numpys_own_dispatch():
    assert hashes(*SOME, NPY_DISABLE_CPU_FEATURES=numpy_features()) == hashes(*SOME)


@pytest.mark.skipif(VECTOR_BITS not in NARROWER, reason="no narrower vectors than this CPU's")
def test_on_a_cpu_with_narrower_vectors():
    settings = {"NUMBA_CPU_NAME": NARROWER[VECTOR_BITS], "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": numpy_features()}
    names = ("notebook", "alpha_beta", *(f"{graph}/epsilon_plus" for graph in GRAPHS))
    assert hashes(*names, **settings) == hashes(*names)


def test_graphs_on_numbers_of_threads():
    names = tuple(f"{graph}/{composite}" for graph in GRAPHS for composite in ("epsilon_plus", "lrp.alpha_2_beta_1", "notebook"))
    assert hashes(*names, NUMBA_NUM_THREADS="1") == hashes(*names, NUMBA_NUM_THREADS="3")


@pytest.mark.parametrize("composite", SOME)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_anywhere_in_a_batch(composite, dtype):
    model, x = network(), pictures()
    batch = np.concatenate([x, x[::-1], x, x])
    whole = nplrp.explain(model, batch, composite, dtype=dtype).relevance
    for i, image in enumerate(batch):
        assert whole[i].tobytes() == nplrp.explain(model, image[None], composite, dtype=dtype).relevance[0].tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", ["every kind", "global max", "thresholds", "vectors"])
def test_targets_together_are_targets_alone(name, dtype):
    """Of chains, by every composite in one of the networks at least: of one image more targets than go together, of several fewer."""
    model = NETWORKS[name]()
    x = images(6, 3, model.input_shape)
    for k, composite in enumerate(sorted(COMPOSITES)):
        if name in ("global max", "thresholds") and composite not in SOME:
            continue
        n = (1, 2, 3)[k % 3]
        targets = [0, 2, 1] if n > 1 else ([0, 2, 1] * 4)[: 7 + k % 4]
        laws.targets_are_singles(model, x[:n], boxed(composite, x), targets, dtype)


@pytest.mark.parametrize("name", sorted(networks()))
def test_targets_of_graphs_together_are_targets_alone(name):
    model, x = model_of(networks()[name]), networks()[name].x
    targets = list(range(min(5, model.output_shape[0])))
    for composite, dtype in (("epsilon_plus", "float32"), ("lrp.alpha_2_beta_1", "float32"), ("notebook", "float64")):
        laws.targets_are_singles(model, x[:1], composite, targets, dtype)


@pytest.mark.parametrize("ends", [{"until": "pool1"}, {"masks": {"conv2": [0, 3], "predictions": [0.5, 1, 0, 2, 1.0]}}])
@pytest.mark.parametrize("composite", ["epsilon_plus", "alpha_beta", "guided_backprop"])
def test_targets_of_part_of_a_network_together_are_targets_alone(composite, ends):
    model = NETWORKS["every kind"]()
    laws.targets_are_singles(model, images(6, 2, model.input_shape), composite, [1, 0, 3, 4, 2], "float32", **ends)


@pytest.mark.parametrize("composite", ["notebook", "zplus"])
def test_ties_are_those_of_the_direct_order(composite):
    """Winners of max-pools on flat images: Winograd's are the first ones, as direct convolution's are."""
    from nplrp import fused

    model, x = network(), pictures().astype(np.float32)
    traces = {each: fused.run_forward(nplrp.make_plan(model, composite, algorithm=each), x) for each in ("auto", "direct")}
    for i, winner in traces["direct"].held.items():
        assert np.array_equal(traces["auto"].held[i][1:], winner[1:])  # the flat ones, everywhere
        close = np.mean(traces["auto"].held[i][0] == winner[0])
        assert close > 0.999
    assert not np.array_equal(traces["auto"].activations[2], traces["direct"].activations[2])  # the algorithms do differ
