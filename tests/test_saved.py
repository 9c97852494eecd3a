"""Explanations that were saved and are read back: with their bits, without their model and with it."""

import contextlib
import json

import h5py
import numpy as np
import pytest

import nplrp
from nplrp.errors import LayerError, ModelError, NplrpError, OutputError, RuleError
from nplrp.files.saved import SavedExplanation
from nplrp.model import Model
from nplrp.rules import AS_IS, Part, Rule, Term
from nplrp.rules.composites import LINEAR, POOL, Composite
from tests.bits import NETWORKS, digest
from tests.networks import conv, images, plain, small_resnet, small_vgg

pytestmark = pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
OWN = Composite("own", ((LINEAR, Rule("gamma", gamma=0.3)), (POOL, Rule("winner"))), "logit")
WAYS = {
    "a preset": {"composite": "notebook"},
    "parameters": {"composite": "gamma(gamma=0.5)", "target": 2, "dtype": "float64"},
    "a dialect": {"composite": "epsilon_gamma_box", "dialect": "captum", "algorithm": "direct"},
    "stand-ins": {"composite": "lrp.sequential_preset_b_flat"},
    "several targets": {"composite": "zplus", "target": [[0, 3], [1, 2]]},
    "composite of one's own": {"composite": OWN},
    "a table": {"composite": {"rows": [{"rule": "epsilon(epsilon=0.25)"}, {"kind": ["maxpool", "avgpool"], "rule": "dialect"}]}},
    "until a layer, masked": {"composite": "epsilon_plus", "until": "block1_pool", "masks": {"fc1": [0, 1, 4], "block2_pool": [2]}},
    "relevance given": {"composite": "zplus", "at": "fc1", "start": np.arange(14.0).reshape(2, 7)},
    "a gradient": {"composite": "guided_backprop", "target": "top-2"},
    "unmerged": {"composite": "epsilon", "merge": False},
}


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
@pytest.mark.parametrize("way", WAYS)
def test_round_trip(tmp_path, way, suffix):
    model, x, path = small_vgg(), images(1, 2, (8, 8, 3)), tmp_path / f"e{suffix}"
    e = nplrp.explain(model, x, **WAYS[way])
    gradient = bool(e.plan.composite.gradient)
    e.save(path, layers=True, ledger=not gradient)
    alone, whole = nplrp.load_explanation(path), nplrp.load_explanation(path, model)
    for other in (alone, whole):
        for what in ("x", "relevance", "output", "logits", "images", "targets", "start"):
            assert np.array_equal(getattr(other, what), getattr(e, what)), what
        assert other.labels() == e.labels()
        assert other.target_labels() == e.target_labels()
        assert (other.layer, other.begins_with) == (e.layer, e.begins_with)
        for mine, theirs in ((other.activations, e.activations), (other.relevances, e.relevances)):
            assert list(mine) == list(theirs)
            assert all(np.array_equal(mine[name], theirs[name]) for name in theirs)
        if not gradient:
            assert str(other.ledger) == str(e.ledger)
            assert other.ledger.as_rows() == e.ledger.as_rows()
    assert whole.plan.composite.name == e.plan.composite.name
    assert [str(rule) for rule in whole.plan.rules] == [str(rule) for rule in e.plan.rules]
    assert whole.plan.dialect.name == e.plan.dialect.name


@pytest.mark.parametrize("way", WAYS)
def test_what_was_not_saved_is_computed_with_the_same_bits(tmp_path, way):
    model, x = small_vgg(), images(2, 2, (8, 8, 3))
    e = nplrp.explain(model, x, **WAYS[way])
    e.save(tmp_path / "e.h5")
    again = nplrp.load_explanation(tmp_path / "e.h5", model)
    assert digest(again) == digest(e)
    if not e.plan.composite.gradient:
        assert again.ledger.as_rows() == e.ledger.as_rows()
    saved = nplrp.load_explanation(tmp_path / "e.h5")
    assert not saved.relevances
    with pytest.raises(LayerError, match="no layer 'fc1' here"):
        saved.relevances["fc1"]
    with pytest.raises(OutputError, match="holds no ledger; save it with ledger=True"):
        saved.ledger  # noqa: B018


@pytest.mark.parametrize("name", NETWORKS)
def test_round_trip_of_networks(tmp_path, name):
    model = NETWORKS[name]()
    e = nplrp.explain(model, images(3, 1, model.input_shape), "epsilon")
    e.save(tmp_path / "e.npz", layers=True, ledger=True)
    other = nplrp.load_explanation(tmp_path / "e.npz", model)
    assert digest(other) == digest(e)
    assert str(other.ledger) == str(e.ledger)


def test_names_with_slashes_and_percent_signs(tmp_path):
    rng = np.random.default_rng(0)
    layers = [conv("a/b", rng.normal(size=(3, 3, 3, 2))), conv("c%2Fd", rng.normal(size=(3, 3, 2, 2))), plain("e%25", "global_avgpool")]
    model = nplrp.model.build((6, 6, 3), layers)
    e = nplrp.explain(model, images(4, 1, (6, 6, 3)), "epsilon", masks={"a/b": [1]})
    e.save(tmp_path / "e.h5", layers=True)
    assert list(nplrp.load_explanation(tmp_path / "e.h5").relevances) == list(e.relevances)
    assert digest(nplrp.load_explanation(tmp_path / "e.h5", model)) == digest(e)


def test_a_preset_that_has_changed_since(tmp_path, monkeypatch):
    from nplrp.rules import composites

    model, x = small_vgg(), images(5, 1, (8, 8, 3))
    e = nplrp.explain(model, x, "gamma")
    e.save(tmp_path / "e.npz")
    monkeypatch.setitem(composites.COMPOSITES, "gamma", OWN)
    assert digest(nplrp.load_explanation(tmp_path / "e.npz", model)) == digest(e)


def test_parts_of_ones_own_are_asked_for(tmp_path):
    mine = Rule.from_parts("mine", [Part((Term(),), AS_IS)], epsilon=0.1)
    composite = Composite("own", ((LINEAR, mine), (POOL, Rule("winner"))), "logit")
    e = nplrp.explain(small_vgg(), images(6, 1, (8, 8, 3)), composite)
    e.save(tmp_path / "e.h5")
    with pytest.raises(RuleError, match="its composite 'own' is no preset; give the composite itself"):
        nplrp.load_explanation(tmp_path / "e.h5", small_vgg())
    again = nplrp.load_explanation(tmp_path / "e.h5").with_model(small_vgg(), composite)
    assert digest(again) == digest(e)


def test_other_weights(tmp_path):
    nplrp.explain(small_vgg(), images(6, 1, (8, 8, 3)), "zplus").save(tmp_path / "e.h5")
    with pytest.raises(ModelError, match="was computed with other weights"):
        nplrp.load_explanation(tmp_path / "e.h5", small_vgg(seed=1))
    with pytest.raises(ModelError, match="already at the model's input; there is nothing to carry on"):
        nplrp.resume(tmp_path / "e.h5", small_vgg())


def test_graphs(tmp_path):
    model = small_resnet()
    e = nplrp.explain(model, images(7, 2, (16, 16, 3)), "epsilon_plus")
    e.save(tmp_path / "e.h5", layers=True, ledger=True)
    other = nplrp.load_explanation(tmp_path / "e.h5", model)
    assert digest(other) == digest(e)
    assert str(other.ledger) == str(e.ledger)


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_damage_is_one_error(tmp_path, suffix):
    e = nplrp.explain(small_vgg(), images(8, 1, (8, 8, 3)), "zplus")
    e.save(tmp_path / f"e{suffix}", ledger=True)
    whole, path = (tmp_path / f"e{suffix}").read_bytes(), tmp_path / f"bad{suffix}"
    rng = np.random.default_rng(9)
    cut = [whole[:n] for n in (0, 1, 10, *rng.integers(10, len(whole) - 1, 12))]
    for content in [*cut, b"text", b"PK\x03\x04" + bytes(100)]:
        path.write_bytes(content)
        with pytest.raises(OutputError, match="is not an explanation that nplrp saved"):
            nplrp.load_explanation(path)
    for _ in range(40):  # a byte turned over is an error or goes unseen; nothing else is raised
        damaged = bytearray(whole)
        for place in rng.integers(0, len(whole), 8):
            damaged[place] ^= 1 << rng.integers(8)
        path.write_bytes(damaged)
        with contextlib.suppress(NplrpError):
            nplrp.load_explanation(path)
    with pytest.raises(OutputError, match="there is no such file"):
        nplrp.load_explanation(tmp_path / f"none{suffix}")
    with pytest.raises(OutputError, match=r"saved as .npz or .h5"):
        nplrp.load_explanation(tmp_path / "e.txt")
    if suffix == ".h5":
        with h5py.File(path, "w") as file:
            file.attrs["about"] = json.dumps({"start": "logit"})
    else:
        np.savez(path, about=np.array("[]"))
    with pytest.raises(OutputError, match="is not an explanation"):
        nplrp.load_explanation(path)


def test_saved_explanations_know_no_model(tmp_path):
    e = nplrp.explain(small_vgg(), images(8, 1, (8, 8, 3)), "zplus")
    e.save(tmp_path / "e.npz")
    saved = nplrp.load_explanation(tmp_path / "e.npz")
    assert isinstance(saved, SavedExplanation)
    assert not any(isinstance(value, Model) for value in vars(saved).values())
    with pytest.raises(RuleError, match="no ledger"):
        nplrp.explain(small_vgg(), images(8, 1, (8, 8, 3)), "gradient").save(tmp_path / "g.npz", ledger=True)
    assert not (tmp_path / "g.npz").exists()
