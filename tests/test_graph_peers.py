"""The engine against Zennit, iNNvestigate and Captum on networks that aren't chains, in float64 to 1e-9 of a map's maximum.

Where a peer computes something else than its dialect here, the case is listed with the reason (docs/graphs-peers.md); all others are equal.
"""

import json
import warnings
from functools import cache

import numpy as np
import pytest

import nplrp
from nplrp.errors import RuleError
from nplrp.ledger import LedgerWarning
from tests.engine_graph import model_of
from tests.test_graph_twin import NETWORKS, maps_of, stored

DIALECTS = {"zennit": "zennit-0.5", "innvestigate": "innvestigate-2.1", "captum": "captum-0.9"}
#: (peer, network, beginning of variant/case) that differ, and why.
OTHERWISE = {
    ("innvestigate", "", "dedicated"): "a rule for batch norms that no analyzer has by name, with an epsilon beside another product",
    ("innvestigate", "p_twice", ""): "an output that a layer reads twice gets its relevance twice",
    ("innvestigate", "q_dead", ""): "relevance that nobody's input gave goes another way at equal maxima",
    ("captum", "g_", ""): "three are added pair by pair; equal maxima share",
    ("captum", "d_densenet", ""): "what a Concatenate hands down is multiplied by the activation once more",
}
#: Equal maps of each peer, counted so that a file that lacks some fails.
EQUAL = {"zennit": 405, "innvestigate": 513, "captum": 46}


def reason(peer, network, case):
    """Return the row of `OTHERWISE` that tells why a map differs, if there is one."""
    return next((row for row in OTHERWISE if peer == row[0] and network.startswith(row[1]) and case.startswith(row[2])), None)


@cache
def model(name, folded=False):
    return model_of(NETWORKS[name].folded() if folded else NETWORKS[name])


def cases(peer):
    """Every stored map of networks as they are or with folded batch norms: [(network, variant, case, map)]."""
    found = []
    for name in NETWORKS:
        for (variant, case), expected in maps_of(stored(peer), name).items():
            if "merged" not in variant and "plus" not in variant:
                found.append((name, variant, case, expected))
    return found


def explained(peer, name, variant, case, **more):
    start = {"start": "relu_logit"} if case.startswith("deep_taylor") else {}
    if peer == "innvestigate" and case in ("gradient", "input_t_gradient"):
        start = {"start": "one"}
    network, composite, merge = NETWORKS[name], case, "folded" in variant
    if (peer, case) == ("zennit", "zplus"):  # no preset there: z+ in layers with weights, the rest as in presets
        composite = {
            "rows": [
                {"kind": ["conv", "dense"], "rule": "zplus"},
                {"kind": "scale", "rule": "epsilon"},
                {"kind": ["avgpool", "maxpool"], "rule": "dialect"},
            ]
        }
    if "until_idx" in case:  # places are those in Keras's list of layers
        below = json.loads(str(stored(peer)["order"]))[name][:5]
        rows = [{"kind": ["conv", "dense"], "name": below, "rule": "flat"}]
        composite = {"name": case, "base": "lrp.sequential_preset_b_flat", "rows": rows}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LedgerWarning)
        return nplrp.explain(
            model(name, merge),
            network.x,
            composite,
            list(network.targets),
            "float64",
            dialect=DIALECTS[peer],
            **{"merge": False, **start, **more},
        )


def error(found, expected):
    from tests.peers.graph_file import thinned

    return np.abs(thinned(found) - expected).max() / np.abs(expected).max()


@pytest.mark.parametrize("peer", DIALECTS)
def test_maps_are_the_peers(peer):
    wrong, equal, told = {}, 0, set()
    for name, variant, case, expected in cases(peer):
        row = reason(peer, name, f"{variant}/{case}")
        try:
            off = error(explained(peer, name, variant, case).relevance, expected)
        except RuleError:
            off = np.inf
        equal += off <= 1e-9
        if not off <= 1e-9:
            told.add(row)
            if row is None:
                wrong[f"{name}[{variant}]/{case}"] = f"{off:.1e}"
    assert not wrong
    assert told == {row for row in OTHERWISE if row[0] == peer}, "a reason that no map needs"
    assert equal == EQUAL[peer]


@pytest.mark.parametrize(("peer", "count"), [("zennit", 64), ("innvestigate", 63)])
def test_batch_norms_that_can_not_be_merged_have_the_peers_rule(peer, count):
    """What the engine merges is what folding by hand does; a batch norm that stays has the peer's own rule."""
    equal, stayed = 0, 0
    for name, variant, case, expected in cases(peer):
        if variant == "folded" and case not in ("gradient", "input_t_gradient") and "until_idx" not in case:
            found = explained(peer, name, "", case, merge=True)
            assert error(found.relevance, expected) <= 1e-9, (name, case)
            equal += 1
            stayed += any(step.kind == "scale" and not step.merged for step in found.plan.steps)
    assert equal == count and stayed >= 8


def test_a_bare_plus_doubles_as_in_zennit():
    """The join's rule is a row: with "gradient" each input gets all of R, as Zennit has it without its module Sum."""
    file, count = stored("zennit"), 0
    for name in NETWORKS:
        for (variant, case), expected in maps_of(file, name).items():
            if variant != "plus" or case != "epsilon_plus" or name == "n_layernorm":
                continue
            composite = {"name": "bare", "base": case, "rows": [{"kind": "add", "rule": "gradient"}]}
            network = NETWORKS[name]
            found = nplrp.explain(
                model(name), network.x, composite, list(network.targets), "float64", dialect="zennit-0.5", merge=False
            ).relevance
            assert error(found, expected) <= 1e-9, name
            count += 1
    assert count >= 5


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    "composite", ["epsilon", "zplus", "epsilon_plus", "alpha_beta", "gamma", "lrp.sequential_preset_a_flat", "deep_taylor"]
)
def test_ledgers_balance(name, composite):
    network = NETWORKS[name]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", LedgerWarning)
        ledger = nplrp.explain(model(name), network.x, composite, list(network.targets), "float64").ledger
    assert len(ledger) == len(model(name).layers)
    arrived = {}
    for entry in ledger.entries:
        assert np.all(np.abs(entry.residual) <= 1e-12 * entry.magnitude), entry.layer
        if entry.edges:
            assert np.allclose(sum(entry.edges.values()), entry.relevance_out, rtol=1e-12, atol=1e-12 * entry.magnitude.max())
        arrived[entry.layer] = entry.relevance_in
    assert len(arrived) == len(model(name).layers)
