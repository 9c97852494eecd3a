"""nplrp.evaluate.as_quantus against Quantus 0.6.0: on the same maps with the same seeds the same numbers, to 1e-6.

By default Quantus's stored numbers are compared (tests/data/quantus.json; provenance in tests/data/README.md). Live:

    NPLRP_QUANTUS_PYTHON=/path/to/python pytest -m peers tests/evaluate/test_quantus.py

With NPLRP_STORE_PEERS=1 the stored numbers are written anew. The interpreter needs torch, quantus 0.6.0 and what nplrp needs.
"""

import json
import os
import subprocess
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp.evaluate import as_quantus, scores_of
from tests.evaluate.cases import CASES, COMPOSITE, inputs, model

ROOT = Path(__file__).parent.parent.parent
STORED = ROOT / "tests" / "data" / "quantus.json"
VARIABLE = "NPLRP_QUANTUS_PYTHON"


@cache
def given():
    return model(), *inputs()


def predict(softmax):
    return lambda x: scores_of(given()[0], x, "probability" if softmax else "logit", "float64")


def explain(x):
    targets = np.resize(given()[2], len(x))
    return nplrp.explain(given()[0], x, COMPOSITE, list(targets), "float64").relevance


def explain_with(network):
    _, x, targets, _ = given()
    return nplrp.explain(network, x, COMPOSITE, list(targets), "float64").relevance


def ours(name):
    """Return what Quantus gives for a case, by our functions of the same parameters."""
    metric, _, options, call, seed = CASES[name]
    _, x, targets, relevance = given()
    first = predict(call.get("softmax", True)), x, relevance, targets
    if metric == "PixelFlipping":
        curves = as_quantus.pixel_flipping(*first, **{k: v for k, v in options.items() if k != "return_auc_per_sample"}, seed=seed)
        return np.trapezoid(curves, axis=1) if "return_auc_per_sample" in options else curves
    if metric == "RegionPerturbation":
        return as_quantus.region_perturbation(*first, **options, seed=seed)
    if metric == "FaithfulnessCorrelation":
        options = {key: value for key, value in options.items() if key != "return_aggregate"}
        return as_quantus.faithfulness_correlation(*first, **options, seed=seed)
    if metric == "Sufficiency":
        return as_quantus.sufficiency(relevance, first[0](x).argmax(axis=1), **options)
    if metric == "LocalLipschitzEstimate":
        return as_quantus.local_lipschitz_estimate(explain, x, relevance, **options, seed=seed)
    if metric == "MaxSensitivity":
        return as_quantus.max_sensitivity(explain, x, relevance, **options, seed=seed)
    if metric == "MPRT":
        decay = as_quantus.mprt(explain_with, given()[0], relevance, **options)
        return {"original": np.ones(len(x)), **dict(zip(decay.layers, decay.correlations.T, strict=True))}
    return {"Sparseness": as_quantus.sparseness, "Complexity": as_quantus.complexity}[metric](relevance)


def compare(found):
    """Compare every case; return the largest difference."""
    assert set(found) == set(CASES)
    differences = {}
    for name, expected in found.items():
        mine, theirs = ours(name), expected
        if isinstance(expected, dict):
            assert set(mine) == set(expected), name
            mine, theirs = ([each[key] for key in sorted(expected)] for each in (mine, expected))
        mine, theirs = np.asarray(mine), np.asarray(theirs)
        assert mine.shape == theirs.shape, name
        assert np.isfinite(theirs).all(), name
        differences[name] = float(np.abs(mine - theirs).max())
    wrong = {name: f"{each:.1e}" for name, each in differences.items() if not each <= 1e-6}
    assert not wrong, wrong
    return max(differences.values())


def test_stored():
    stored = json.loads(STORED.read_text())
    assert stored["quantus"] == "0.6.0"
    compare(stored["found"])


@pytest.mark.peers
def test_live(tmp_path):
    if VARIABLE not in os.environ:
        pytest.skip(f"{VARIABLE} names no interpreter")
    _, x, targets, relevance = given()
    np.savez(tmp_path / "in.npz", x=x, targets=targets, relevance=relevance)
    run = [os.environ[VARIABLE], str(ROOT / "tests" / "peers" / "run_quantus.py"), str(tmp_path / "in.npz"), str(tmp_path / "out.json")]
    subprocess.run(run, check=True, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)})
    out = json.loads((tmp_path / "out.json").read_text())
    if "NPLRP_STORE_PEERS" in os.environ:
        STORED.write_text(json.dumps(out) + "\n")
    print(f"quantus {out['quantus']}: largest difference {compare(out['found']):.1e}")
