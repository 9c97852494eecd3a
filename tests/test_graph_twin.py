"""The slow twin for graphs against what Zennit, iNNvestigate, Captum and LXT computed: 1e-10 of a map's maximum, every stored map."""

import json
from functools import cache
from pathlib import Path

import numpy as np
import pytest

from tests import graph_twin
from tests.peers.graph_file import read, thinned
from tests.peers.graph_forward import forward
from tests.peers.graph_from_h5 import load

STORED = Path(__file__).parent / "data" / "peers"
NETWORKS = read(STORED / "graphs_networks.npz")
PEERS = ("zennit", "innvestigate", "captum", "lxt")
ORACLE = tuple(path.stem for path in sorted((STORED / "graphs_oracle").glob("*.h5")))


@cache
def stored(peer):
    """Return {key: array} of a peer's file."""
    with np.load(STORED / f"graphs_{peer}.npz") as file:
        return {key: file[key] for key in file.files}


def compare(peer, network, maps, below=()):
    """Compare the maps of one network with the twin's; return how many there were."""
    networks, errors = {}, {}
    for (variant, case), expected in maps.items():
        which = next((one for one in ("folded", "merged") if one in variant), "")
        if which not in networks:
            made = network.variant(which)
            networks[which] = made, graph_twin.matrices(made)
        found = graph_twin.explain(networks[which][0], graph_twin.plan(peer, case, variant, below), networks[which][1])
        errors[f"{variant}/{case}"] = np.abs(thinned(found) - expected).max() / np.abs(expected).max()
    wrong = {key: f"{error:.1e}" for key, error in errors.items() if not error <= 1e-10}
    assert not wrong, wrong
    return len(errors)


def maps_of(file, name):
    """Return {(variant, case): map} of one network."""
    found = {}
    for key, array in file.items():
        head, _, case = key.partition("/")
        network, _, variant = head.partition("[")
        if network == name and case != "logits":
            found[variant.rstrip("]"), case] = array
    return found


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("peer", PEERS)
def test_twin_is_the_peer(peer, name):
    file = stored(peer)
    maps = maps_of(file, name)
    if not maps:
        assert any(key.startswith(name) for key in json.loads(str(file["failed"]))), "neither maps nor messages are stored"
        return
    below = json.loads(str(file["order"]))[name][:5] if peer == "innvestigate" else ()
    compare(peer, NETWORKS[name], maps, below)


@pytest.mark.parametrize("name", NETWORKS)
def test_forward_passes_agree(name):
    network = NETWORKS[name]
    found = forward(network)[network.layers[-1]["name"]]
    for peer in ("zennit", "innvestigate"):
        if f"{name}/logits" in stored(peer):
            np.testing.assert_allclose(found, stored(peer)[f"{name}/logits"], rtol=1e-13, atol=1e-14)
    folded = network.folded()
    np.testing.assert_allclose(forward(folded)[folded.layers[-1]["name"]], found, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("name", ORACLE)
@pytest.mark.parametrize("peer", ["zennit", "innvestigate"])
def test_twin_is_the_peer_on_keras_files(peer, name):
    """Maps that somebody else made, from Keras's own files."""
    file = stored("oracle")
    network = load(STORED / "graphs_oracle" / f"{name}.h5", file[f"{name}/x"], file[f"{name}/target"])
    np.testing.assert_allclose(forward(network)[network.layers[-1]["name"]], file[f"{name}/logits"], rtol=1e-12, atol=1e-13)
    maps = maps_of({key.removeprefix(f"{peer}/"): array for key, array in file.items() if key.startswith(f"{peer}/")}, name)
    assert compare(peer, network, maps) >= 6


@pytest.mark.parametrize(
    ("kind", "plan", "xs", "expected"),
    [
        ("add", {"join": ("zero", 1e-7)}, (3.0, -1.0), (3 / 2, -1 / 2)),
        ("add", {"join": ("zero", 1e-7)}, (1.0, -1.0), (1e7, -1e7)),
        ("add", {"join": ("sign", 0.5)}, (3.0, -1.0), (6 / 5, -2 / 5)),
        ("add", {"join": ("sign", 0.5)}, (1.0, -3.0), (-2 / 5, 6 / 5)),
        ("add", {"join": ("sign", 0.5)}, (1.0, -1.0), (2, -2)),
        ("add", {"join": ("plus", 0.5)}, (1.0, -3.0), (-2 / 3, 2)),
        ("add", {"join": ("sign", 1.0)}, (1.0, 2.0, 3.0), (1 / 7, 2 / 7, 3 / 7)),
        ("add", {"join": ("sign", 1.0), "pairs": True}, (1.0, 2.0, 3.0), (3 / 28, 6 / 28, 3 / 7)),
        ("add", {"join": "gradient"}, (3.0, -1.0), (1, 1)),
        ("subtract", {}, (3.0, -1.0), (1, -1)),
        ("average", {}, (3.0, -1.0), (1 / 2, 1 / 2)),
        ("maximum", {}, (3.0, -1.0), (1, 0)),
        ("minimum", {}, (3.0, -1.0), (0, 1)),
        ("maximum", {}, (2.0, 2.0), (1, 0)),
        ("maximum", {"ties": "half"}, (2.0, 2.0), (1 / 2, 1 / 2)),
        ("multiply", {}, (3.0, -1.0), (-1, 3)),
        ("multiply", {"gate": "signal"}, (3.0, -1.0), (1, 0)),
        ("multiply", {"gate": "half"}, (3.0, -1.0), (1 / 2, 1 / 2)),
    ],
)
def test_joins_by_hand(kind, plan, xs, expected):
    layer = {"kind": kind}
    found = graph_twin.join(graph_twin.Plan(**plan), layer, [np.full((1, 1, 1), x) for x in xs], np.ones((1, 1, 1)))
    np.testing.assert_allclose([one.item() for one in found], expected, rtol=1e-14)


def test_a_gate_for_many_units_collects_what_each_gives_it():
    x, gate, R = np.arange(1.0, 9).reshape(2, 2, 2), np.array([[[0.5, 0.25]]]), np.ones((2, 2, 2))
    for how, expected in (("gradient", x.sum(axis=(0, 1))), ("half", [2, 2]), ("signal", [0, 0])):
        found = graph_twin.join(graph_twin.Plan(gate=how), {"kind": "multiply"}, [x, gate], R)[1]
        np.testing.assert_array_equal(found[0, 0], expected)
