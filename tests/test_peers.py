"""nplrp against Zennit, Captum and iNNvestigate, rule by rule and preset by preset, in float64 to 1e-9 of a map's maximum.

By default the peers' stored outputs are compared (tests/data/peers; provenance in tests/data/README.md). Live:

    NPLRP_TORCH_PYTHON=/path/to/python NPLRP_INNVESTIGATE_PYTHON=/path/to/python pytest -m peers tests/test_peers.py

With NPLRP_STORE_PEERS=1 the stored outputs are written anew. Both interpreters need no nplrp;
the first needs torch, zennit 0.5.1 and captum 0.9.0, the second innvestigate 2.1.2.
"""

import os
import subprocess
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp.model import Preprocessing, chain
from tests.networks import conv, dense, plain, pool, random_kernel

HERE = Path(__file__).parent
STORED = HERE / "data" / "peers"
PEERS = {  # script, dialect, variable with its interpreter
    "zennit": ("run_zennit.py", "zennit-0.5", "NPLRP_TORCH_PYTHON"),
    "captum": ("run_captum.py", "captum-0.9", "NPLRP_TORCH_PYTHON"),
    "innvestigate": ("run_innvestigate.py", "innvestigate-2.1", "NPLRP_INNVESTIGATE_PYTHON"),
}
TARGETS = [3, 0]
STEP = 3  #: every third row and column is stored
#: Cases of each peer, on each network.
COUNTS = {"zennit": 25, "captum": 7, "innvestigate": 25}


def vgg16_small(pools="max"):
    """VGG16 with few channels for 32 x 32 images, biases as large as the activations' spread demands: trained-like, non-zero."""
    rng = np.random.default_rng(20261122)
    layers, cin = [], 3
    for block, (width, depth) in enumerate([(4, 2), (6, 2), (8, 3), (8, 3), (8, 3)], 1):
        for i in range(1, depth + 1):
            layers.append(conv(f"block{block}_conv{i}", random_kernel(rng, 3, 3, cin, width), rng.normal(0.05, 0.15, width)))
            cin = width
        layers.append(pool(f"block{block}_pool", f"{pools}pool"))
    layers.append(plain("flatten", "flatten"))
    for name, width, activation in (("fc1", 12, "relu"), ("fc2", 12, "relu"), ("predictions", 10, "linear")):
        layers.append(dense(name, random_kernel(rng, cin, width), rng.normal(0.05, 0.15, width), activation))
        cin = width
    return chain((32, 32, 3), layers, f"small VGG16 ({pools})", preprocessing=Preprocessing("caffe"))


NETWORKS = {pools: vgg16_small(pools) for pools in ("max", "avg")}


def pictures():
    """Two smooth pictures with positive and negative pixels, as after a subtraction of the mean: [2, 32, 32, 3]."""
    rng = np.random.default_rng(7)
    y, x = np.mgrid[:32, :32] / 32
    waves = [np.sin(2 * np.pi * (f * x + g * y) + p) for f, g, p in rng.uniform(-3, 3, size=(6, 3))]
    return np.stack(waves, axis=-1).reshape(32, 32, 2, 3).transpose(2, 0, 1, 3) + rng.normal(0, 0.3, size=(2, 32, 32, 3))


def write_networks(path):
    """Write weights and images for the peers' scripts."""
    arrays = {"x": pictures(), "targets": np.array(TARGETS), "networks": np.array(list(NETWORKS))}
    for name, model in NETWORKS.items():
        kinds = []
        for layer in model:
            kind = {"maxpool": "max", "avgpool": "avg"}.get(layer.kind, layer.kind)
            if kind == "flatten":
                continue
            if layer.arrays:
                for key in ("kernel", "bias"):
                    arrays[f"{name}/{key}{len(kinds)}"] = layer.arrays[key].astype(np.float64)
            kinds += [kind, "relu"] if layer.activation == "relu" else [kind]
        arrays[f"{name}/kinds"] = np.array(kinds)
    np.savez(path, **arrays)


def compare(peer, expected, step=1):
    """Compare every case with what nplrp computes in the peer's dialect; return the worst error over all cases."""
    dialect = PEERS[peer][1]
    cases = {name: sorted(key.partition("/")[2] for key in expected.files if key.startswith(f"{name}/")) for name in NETWORKS}
    assert {name: len(each) for name, each in cases.items()} == dict.fromkeys(NETWORKS, COUNTS[peer])
    assert sum(map(len, cases.values())) == len(expected.files)
    assert cases["max"] == cases["avg"]
    errors = {}
    for key in expected.files:
        network, case = key.split("/", 1)
        found = nplrp.explain(NETWORKS[network], pictures(), case, TARGETS, "float64", dialect=dialect, **start_of(peer, case)).relevance
        found = found[:, ::step, ::step]
        side = len(range(0, 32, step))
        assert found.shape == expected[key].shape == (len(TARGETS), side, side, 3), key
        scale = np.abs(expected[key]).max()
        assert scale > 0, key
        errors[key] = np.abs(found - expected[key]).max() / scale
    wrong = {key: f"{error:.1e}" for key, error in errors.items() if not error <= 1e-9}
    assert not wrong, wrong
    return max(errors.values())


def start_of(peer, case):
    """Return the start of the analyzers that don't begin as their system's rules do."""
    if peer != "innvestigate":
        return {}
    if case.startswith("deep_taylor"):
        return {"start": "relu_logit"}
    return {"start": "one"} if case in ("gradient", "input_t_gradient") else {}


@pytest.mark.parametrize("peer", PEERS)
def test_stored(peer):
    compare(peer, np.load(STORED / f"{peer}.npz"), STEP)


@pytest.mark.parametrize("left_out", [1, None])
def test_a_file_without_all_cases_is_no_comparison(left_out, tmp_path):
    stored = np.load(STORED / "captum.npz")
    np.savez(tmp_path / "some.npz", **{key: stored[key] for key in stored.files[left_out or len(stored.files) :]})
    with pytest.raises(AssertionError):
        compare("captum", np.load(tmp_path / "some.npz"), STEP)


@pytest.mark.peers
@pytest.mark.parametrize("peer", PEERS)
def test_live(peer, tmp_path):
    script, _, variable = PEERS[peer]
    if variable not in os.environ:
        pytest.skip(f"{variable} names no interpreter")
    write_networks(tmp_path / "networks.npz")
    run = [os.environ[variable], str(HERE / "peers" / script), str(tmp_path / "networks.npz"), str(tmp_path / "out.npz")]
    subprocess.run(run, check=True, cwd=HERE / "peers")
    out = np.load(tmp_path / "out.npz")
    if "NPLRP_STORE_PEERS" in os.environ:
        np.savez_compressed(STORED / f"{peer}.npz", **{key: out[key][:, ::STEP, ::STEP] for key in out.files})
    worst = compare(peer, out)
    print(f"{peer}: worst error {worst:.1e} of the map's maximum")
