"""Presets, your own composites, starts, several targets, any layer to any layer, and what the ledger says of each."""

import pickle
import warnings

import numpy as np
import pytest

import nplrp
from nplrp import fused, outputs
from nplrp.errors import ModelError, NumericsError, RuleError
from nplrp.ledger import LedgerWarning
from nplrp.plan import make_plan
from nplrp.preprocessing import pixel_bounds
from nplrp.rules import Rule
from nplrp.rules.composites import COMPOSITES, GRADIENTS, LINEAR, POOL, POOLS, STARTS, Composite, Select, composite_named
from nplrp.rules.dialects import DIALECTS
from tests.laws import assert_balanced
from tests.networks import conv, dense, images, plain, pool, small_vgg
from tests.test_peers import NETWORKS, pictures

RULES_OF_LRP = [name for name in COMPOSITES if name not in GRADIENTS]


def rules_of(composite, model=None, dialect=None):
    """Rule of every layer that has one, as text."""
    plan = make_plan(model or NETWORKS["max"], composite, dialect=dialect)
    return {step.name: str(rule) for step, rule in zip(plan.steps, plan.rules, strict=True) if rule.parts}


# --- presets ----------------------------------------------------------------------------------------------------------


def test_every_preset_of_the_issue_is_there():
    zennit = ("gamma_box", "plus", "plus_flat", "alpha2_beta1", "alpha2_beta1_flat")
    presets = ("a", "b", "a_flat", "b_flat", "b_flat_until_idx")
    rules = ("z", "epsilon", "w_square", "flat", "alpha_beta", "alpha_2_beta_1", "alpha_2_beta_1_IB", "alpha_1_beta_0", "alpha_1_beta_0_IB")
    own = ("zero", "epsilon", "gamma", "zplus", "alpha_beta", "alpha1_beta0", "wsquare", "flat", "zbox")
    for name in (
        *(f"epsilon_{name}" for name in zennit),
        *(f"lrp.sequential_preset_{name}" for name in presets),
        *(f"lrp.{name}" for name in (*rules, "z_plus", "z_plus_fast")),
        *(*own, *GRADIENTS, "notebook", "montavon_vgg16", "deep_taylor", "deep_taylor.bounded", "excitation_backprop"),
    ):
        assert name in COMPOSITES


def test_zennits_box_preset():
    rules = rules_of("epsilon_gamma_box")
    assert rules["block1_conv1"] == (
        "zbox(low=(-103.939, -116.779, -123.68), high=(151.061, 138.221, 131.32), epsilon=1e-06, stabiliser=sign)"
    )
    assert rules["block1_conv2"] == rules["block5_conv3"] == "gamma(gamma=0.25, epsilon=1e-06, stabiliser=sign)"
    assert rules["fc1"] == rules["predictions"] == "epsilon(epsilon=1e-06, stabiliser=sign)"
    assert rules["block1_pool"] == "winner"
    changed = rules_of("epsilon_gamma_box(gamma=0.5, epsilon=0.01, low=-1, high=1)")
    assert changed["block1_conv1"] == "zbox(low=-1.0, high=1.0, epsilon=1e-06, stabiliser=sign)"
    assert changed["block1_conv2"] == "gamma(gamma=0.5, epsilon=1e-06, stabiliser=sign)"
    assert changed["fc1"] == "epsilon(epsilon=0.01, stabiliser=sign)"


def test_innvestigates_presets():
    rules = rules_of("lrp.sequential_preset_a_flat")
    assert rules["block1_conv1"] == "flat(epsilon=1e-07, stabiliser=zero)"
    assert rules["block1_conv2"] == "alpha_beta(alpha=1.0, beta=0.0, epsilon=1e-07, stabiliser=zero, bias=raw)"
    assert rules["fc2"] == "epsilon(epsilon=0.1, stabiliser=sign)"
    until = rules_of("lrp.sequential_preset_b_flat_until_idx(until_idx=4)")  # input 0, conv 1, conv 2, pool 3, conv 4
    assert [name for name, rule in until.items() if rule.startswith("flat")] == ["block1_conv1", "block1_conv2", "block2_conv1"]
    assert until["block1_pool"] == "winner"
    with_input = nplrp.model.chain((32, 32, 3), [plain("input_1", "input"), *NETWORKS["max"].layers])
    assert rules_of("lrp.sequential_preset_b_flat_until_idx(until_idx=4)", with_input) == until


def test_montavons_recipe():
    rules = rules_of("montavon_vgg16")
    assert rules["block1_conv1"].startswith("zbox(low=(-103.939")
    assert rules["block1_conv2"] == rules["block3_conv3"] == "gamma(gamma=0.25, epsilon=1e-09, stabiliser=plus, split=False)"
    assert rules["block4_conv1"] == rules["block5_conv3"] == "epsilon(epsilon=0.25, stabiliser=rms)"
    assert rules["fc1"] == "epsilon(epsilon=1e-09, stabiliser=plus)"
    assert rules["block3_pool"] == "average(epsilon=1e-09, stabiliser=plus)"
    assert rules["block4_pool"] == "average(epsilon=0.25, stabiliser=rms)"


def test_what_presets_start_with():
    starts = {name: make_plan(NETWORKS["max"], name).start for name in COMPOSITES}
    lrp = {name for name in COMPOSITES if name.startswith("lrp.")}
    assert {name for name, start in starts.items() if start == "softmax"} == {"notebook"}
    assert {name for name, start in starts.items() if start == "relu_logit"} == {"deep_taylor", "deep_taylor.bounded"}
    zennits = {name for name, each in COMPOSITES.items() if each.dialect == "zennit-0.5"}
    assert {name for name, start in starts.items() if start == "one"} == zennits | {"input_t_gradient"}
    assert len(lrp) == 16
    assert {starts[name] for name in (*lrp, *RULES_OF_NPLRP, "montavon_vgg16")} == {"logit"}
    assert make_plan(NETWORKS["max"], "deep_taylor", dialect="zennit").start == "one"  # a dialect that is asked for brings its own


def test_presets_run_in_their_owners_dialects():
    zennit = {name for name in COMPOSITES if name.startswith("epsilon_")} | {"excitation_backprop", *GRADIENTS} - {"input_t_gradient"}
    innvestigate = {name for name in COMPOSITES if name.startswith(("lrp.", "deep_taylor"))} | {"input_t_gradient"}
    owners = {"zennit-0.5": zennit, "innvestigate-2.1": innvestigate, "montavon": {"montavon_vgg16"}, "notebook": {"notebook"}}
    own = {"zero", "epsilon", "gamma", "zplus", "alpha_beta", "alpha1_beta0", "wsquare", "flat", "zbox"}
    owners["nplrp"] = own
    assert [len(owners[dialect]) for dialect in sorted(owners)] == [19, 1, 1, 9, 9]
    assert {name: composite.dialect for name, composite in COMPOSITES.items()} == {
        name: dialect for dialect, names in owners.items() for name in names
    }


def test_alpha_and_beta_follow_each_other():
    for settings, rule in (("alpha=3", "alpha=3, beta=2"), ("beta=0.5", "alpha=1.5, beta=0.5"), ("alpha=2, beta=-1", "alpha=2, beta=1")):
        assert rules_of(f"epsilon_alpha2_beta1({settings})")["block1_conv1"].startswith(f"alpha_beta({rule}, ")


RULES_OF_NPLRP = [name for name, each in COMPOSITES.items() if each.dialect == "nplrp"]


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf", "unit", "none"])
def test_pixels_lie_in_their_box(mode):
    from nplrp.images import normalize

    low, high = pixel_bounds(mode)
    corners = normalize(np.array([[[[0, 0, 0], [255, 255, 255]]]], np.uint8), mode).reshape(2, 3)
    assert np.allclose(corners.min(axis=0), low, atol=1e-5)
    assert np.allclose(corners.max(axis=0), high, atol=1e-5)


@pytest.mark.parametrize("name", COMPOSITES)
def test_presets_explain_print_and_pickle(name):
    composite = COMPOSITES[name]
    assert composite_named(name) is composite
    assert pickle.loads(pickle.dumps(composite)) == composite
    assert hash(composite) == hash(pickle.loads(pickle.dumps(composite)))
    explanation = nplrp.explain(small_vgg(), images(1, 1, (8, 8, 3)), name, target=1)
    assert np.isfinite(explanation.relevance).all()
    assert explanation.relevance.any()
    assert composite.dialect in DIALECTS
    assert f"dialect {composite.dialect}" in str(explanation.plan)


# --- your own ---------------------------------------------------------------------------------------------------------


def test_a_composite_from_a_toml_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(
        """
start = "one"
dialect = "zennit-0.5"
rows = [
    {rule = "flat", kind = "conv", first = true},
    {rule = "gamma(gamma=0.5)", name = "block[12]_*", kind = "conv"},
    {rule = "zplus", kind = "conv", range = [-2, -1]},
    {rule = "epsilon(epsilon=0.25)", kind = ["conv", "dense"]},
    {rule = "average", name = "block5_pool"},
    {rule = "dialect"},
]
"""
    )
    rules = rules_of(str(path))
    assert rules["block1_conv1"].startswith("flat")
    assert rules["block2_conv2"] == "gamma(gamma=0.5, epsilon=1e-06, stabiliser=sign)"
    assert rules["block5_conv2"].startswith("zplus")
    assert rules["block5_conv3"] == rules["fc1"] == "epsilon(epsilon=0.25, stabiliser=sign)"
    assert rules["block5_pool"].startswith("average")
    assert rules["block4_pool"] == "winner"
    plan = make_plan(NETWORKS["max"], str(path))
    assert (plan.composite.name, plan.start) == ("mine", "one")


def test_a_composite_from_a_dict_on_a_base():
    assert make_plan(NETWORKS["max"], {"base": "deep_taylor", "rows": []}).start == "relu_logit"  # the base's
    assert make_plan(NETWORKS["max"], {"base": "deep_taylor", "start": "one"}).start == "one"
    rules = rules_of({"base": "epsilon_plus", "rows": [{"rule": "wsquare", "last": True, "kind": "dense"}]})
    assert rules["predictions"] == "wsquare(epsilon=1e-06, stabiliser=sign, bias=changed)"
    assert rules["fc2"] == "epsilon(epsilon=1e-06, stabiliser=sign)"
    assert rules["block1_conv1"].startswith("zplus")


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"rows": [{"kind": "conv"}]}, "row 1: expected a table with a rule"),
        ({"rows": [{"rule": "zplus"}, {"rule": "zplusplus"}]}, "row 2: there is no rule 'zplusplus'"),
        ({"rows": [{"rule": "zplus", "kind": "convolution"}]}, "row 1: there is no kind of layer 'convolution'"),
        ({"rows": [{"rule": "zplus", "first": True, "last": True}]}, "first and last exclude each other"),
        ({"rows": [{"rule": "zplus", "range": [1]}]}, "a range of layers is a pair"),
        ({"rows": [{"rule": "zplus", "range": 3}]}, r"range is \[start, stop\], not 3"),
        ({"rows": [{"rule": "zplus", "layer": "x"}]}, "a row has no 'layer'; there are first, kind, last, name, range, reads_input, rule"),
        ({"rules": []}, "a composite has no 'rules'"),
        ({}, "a composite needs rows"),
        ({"start": "none", "rows": [{"rule": "zplus"}]}, "there is no start 'none'"),
        ({"base": "lrp", "rows": []}, "there is no composite 'lrp'"),
    ],
)
def test_wrong_tables(table, message):
    with pytest.raises(RuleError, match=message):
        composite_named(table)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("epsilon_plus(gamma=1)", "no rule that takes 'gamma'; its rules are epsilon, zplus"),
        ("epsilon_plus(color=1)", "has no parameter 'color'"),
        ("gamma(gamma=-1)", "gamma must be a finite number >= 0"),
        ("gamma(1)", "is not a composite"),
        ("lrp.sequential_preset_b_flat_until_idx(until_idx=0)", "expected a whole number >= 1, not 0"),
        ("nowhere.toml", "can't be read as TOML"),
    ],
)
def test_wrong_names(name, message):
    with pytest.raises(RuleError, match=message):
        composite_named(name)


def test_rows_choose_layers():
    layers = [("a", "conv"), ("p", "maxpool"), ("b", "conv"), ("f", "reshape"), ("c", "dense")]
    assert Select(("conv",)).choose(layers) == {0, 2}
    assert Select(names=("[ab]",)).choose(layers) == {0, 2}
    assert Select(("conv", "dense"), range=(-1, None)).choose(layers) == {4}
    assert Select(range=(1, 3)).choose(layers) == {1, 2}
    with pytest.raises(RuleError, match="the dialect's rule doesn't fit layer 'a' of kind 'conv'"):
        Composite("c", ((LINEAR, None),)).choose(layers)


# --- starts and targets -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("start", STARTS)
def test_starts(start):
    model, x = small_vgg(), images(6, 2, (8, 8, 3))
    e = nplrp.explain(model, x, "epsilon_plus", dtype="float64", start=start)
    R, logits, best = e.relevances["predictions"], e.logits, e.logits.argmax(axis=1)
    chosen = logits[[0, 1], best]
    whole = {"softmax": e.output, "all": logits}
    if start in whole:
        assert e.targets is None
        assert np.array_equal(R, whole[start])
    else:
        value = {"one": [1, 1], "logit": chosen, "relu_logit": np.maximum(chosen, 0), "contrastive": chosen}[start]
        assert R[[0, 1], best].tolist() == pytest.approx(list(value), rel=1e-15)
        assert e.targets.tolist() == best.tolist()
        others = R.sum(axis=1) - R[[0, 1], best]
        assert others == pytest.approx(-chosen if start == "contrastive" else [0, 0], rel=1e-14)
        rest = np.array([np.delete(each, k) for each, k in zip(R, best, strict=True)])
        assert np.array_equal(rest, np.repeat(rest[:, :1], 4, axis=1))  # spread evenly over the others
    negative = int(logits[0].argmin())
    assert logits[0, negative] < 0
    floor = nplrp.explain(model, x[:1], "epsilon_plus", target=negative, dtype="float64", start="relu_logit")
    assert not floor.relevance.any()


def test_given_relevance_is_what_a_start_gives():
    model, x = small_vgg(), images(7, outputs.CHUNK + 3, (8, 8, 3))
    whole = nplrp.explain(model, x, "epsilon_plus", dtype="float64", start="all")
    given = nplrp.explain(model, x, "epsilon_plus", dtype="float64", start=whole.logits)
    assert np.array_equal(given.relevance, whole.relevance)
    assert given.targets is None


def test_several_targets_share_an_image():
    model, x = small_vgg(), images(8, outputs.CHUNK + 2, (8, 8, 3))
    several = nplrp.explain(model, x, "gamma", target="top-3", dtype="float64")
    order = np.argsort(-several.logits, axis=1)[:, :3]
    assert several.targets.tolist() == order.reshape(-1).tolist()
    assert several.images.tolist() == np.repeat(np.arange(len(x)), 3).tolist()
    assert several.relevance.shape == (3 * len(x), 8, 8, 3)
    for row in (0, 4, 3 * len(x) - 1):
        i, target = several.images[row], several.targets[row]
        alone = nplrp.explain(model, x[i : i + 1], "gamma", target=int(target), dtype="float64")
        assert np.array_equal(several.relevance[row], alone.relevance[0])
        assert np.array_equal(several.relevances["fc1"][row], alone.relevances["fc1"][0])
        assert np.array_equal(several.ledger["fc1"].bias[row], alone.ledger["fc1"].bias[0])
        assert several.target_labels()[row] == alone.target_labels()[0]
    listed = nplrp.explain(model, x[:2], "gamma", target=[[0, 1], [4, 2]], dtype="float64")
    assert listed.targets.tolist() == [0, 1, 4, 2]


@pytest.mark.parametrize(
    ("target", "message"),
    [("top-9", "target 'top-9': the model has 5 outputs"), ([[0], [1, 2]], r"lists of \[1, 2\] targets for 2 images"), ([[0]], r"\[1\]")],
)
def test_wrong_targets(target, message):
    with pytest.raises(ModelError, match=message):
        nplrp.explain(small_vgg(), images(9, 2, (8, 8, 3)), "gamma", target=target)


def test_several_targets_run_one_forward_pass(monkeypatch):
    count, run = [], fused.run_forward
    monkeypatch.setattr(fused, "run_forward", lambda plan, x, *rest: count.append(len(x)) or run(plan, x, *rest))
    nplrp.explain(small_vgg(), images(8, 2, (8, 8, 3)), "gamma", target="top-4")
    assert count == [2]


# --- any layer to any layer -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "composite", ["epsilon_gamma_box", "notebook", "lrp.sequential_preset_b_flat", "guided_backprop", "montavon_vgg16"]
)
@pytest.mark.parametrize("layer", ["fc1", "flatten", "block2_pool", "block1_conv2"])
def test_two_passes_are_one(composite, layer):
    model, x = small_vgg(), images(10, 2, (8, 8, 3))
    whole = nplrp.explain(model, x, composite, dtype="float64")
    upper = nplrp.explain(model, x, composite, dtype="float64", until=layer)
    assert upper.layer == layer
    assert np.array_equal(upper.relevance, whole.relevances[layer])
    assert list(upper.relevances) == [layer, *list(whole.relevances)[list(whole.relevances).index(layer) + 1 :]]
    lower = nplrp.explain(model, x, composite, dtype="float64", start=upper.relevance, at=layer)
    assert np.array_equal(lower.relevance, whole.relevance)
    if composite not in GRADIENTS:
        assert len(lower.ledger) + len(upper.ledger) == len(whole.ledger)


def test_a_pass_may_end_where_it_begins():
    model, x = small_vgg(), images(10, 2, (8, 8, 3))
    R = np.random.default_rng(1).normal(size=(2, 7))
    e = nplrp.explain(model, x, "zplus", dtype="float64", at="fc1", until="fc1", start=R)
    assert np.array_equal(e.relevance, R)
    assert e.layer == "fc1"


@pytest.mark.parametrize("suffix", [".npz", ".h5"])
def test_a_pass_is_saved_and_resumed(tmp_path, suffix):
    from nplrp import resume
    from nplrp.files.save import save

    model, x = small_vgg(), images(11, 2, (8, 8, 3))
    whole = nplrp.explain(model, x, "epsilon_gamma_box", target=[[0, 3], [1, 2]], dtype="float64", dialect="captum")
    half = nplrp.explain(model, x, "epsilon_gamma_box", target=[[0, 3], [1, 2]], dtype="float64", dialect="captum", until="fc1")
    save(half, tmp_path / f"half{suffix}")
    further = resume(tmp_path / f"half{suffix}", model, until="block1_pool")
    assert further.layer == "block1_pool"
    save(further, tmp_path / f"further{suffix}")
    done = resume(tmp_path / f"further{suffix}", model)
    assert np.array_equal(done.relevance, whole.relevance)
    assert done.plan.dialect.name == "captum-0.9"
    with pytest.raises(ModelError, match="was computed with other weights"):
        resume(tmp_path / f"half{suffix}", small_vgg(seed=1))
    with pytest.raises(ModelError, match="already at the model's input"):
        save(done, tmp_path / f"done{suffix}")
        resume(tmp_path / f"done{suffix}", model)
    own = Composite("own", ((LINEAR, Rule("epsilon")), (POOL, Rule("winner"))), "logit")
    save(nplrp.explain(model, x, own, until="fc1"), tmp_path / f"own{suffix}")
    again = resume(tmp_path / f"own{suffix}", model)
    assert np.array_equal(again.relevance, nplrp.explain(model, x, own).relevance)
    assert np.array_equal(resume(tmp_path / f"own{suffix}", model, own).relevance, again.relevance)


def test_masks_part_the_relevance():
    model, x = small_vgg(), images(12, 2, (8, 8, 3))
    whole = nplrp.explain(model, x, "epsilon_plus", dtype="float64")
    parts = [nplrp.explain(model, x, "epsilon_plus", dtype="float64", masks={"block1_conv2": [k]}) for k in range(5)]
    total = sum(part.relevance for part in parts)
    assert np.abs(total - whole.relevance).max() < 1e-13 * np.abs(whole.relevance).max()
    assert parts[0].relevances["block1_conv2"][..., 1:].any() == False  # noqa: E712
    weights = np.random.default_rng(0).uniform(size=(4, 4, 1))
    for masks in ({"block1_pool": weights}, {"fc1": np.ones(7, bool), "input": np.zeros(3)}):
        e = nplrp.explain(model, x, "epsilon_plus", dtype="float64", masks=masks)
        assert_balanced(e)
        if "input" in masks:
            assert not e.relevance.any()
        else:
            assert np.array_equal(e.relevances["block1_pool"], whole.relevances["block1_pool"] * weights)
            assert e.ledger["block1_pool"].relevance_in == pytest.approx(whole.ledger["block1_pool"].relevance_in, rel=1e-12)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"until": "fc9"}, "no layer 'fc9'; did you mean 'fc1'"),
        ({"at": "fc1", "until": "predictions", "start": np.zeros((1, 7))}, "but layer 'predictions' lies above it"),
        ({"masks": {"fc1": [7]}}, "they run from 0 to 6"),
        ({"masks": {"fc1": [-1]}}, "they run from 0 to 6"),
        ({"masks": {"fc1": np.ones(6)}}, r"has shape \(6,\)"),
        ({"masks": {"fc1": "all"}}, "expected a list of channels"),
        ({"masks": {"block1_pool": [0]}, "until": "fc1"}, "the pass runs from 'predictions' to 'fc1' only"),
        ({"start": np.zeros((1, 4))}, r"has shape \(1, 4\).*takes numbers of shape \(1, 5\)"),
        ({"start": np.zeros((1, 5)), "target": 1}, "there is no target to choose"),
    ],
)
def test_spans_and_starts_that_do_not_fit(settings, message):
    with pytest.raises(ModelError, match=message):
        nplrp.explain(small_vgg(), images(13, 1, (8, 8, 3)), "zplus", **settings)


def test_starts_that_do_not_exist():
    model, x = small_vgg(), images(13, 1, (8, 8, 3))
    with pytest.raises(RuleError, match="there is no start 'max', and it is no array of relevance; did you mean 'softmax'"):
        nplrp.explain(model, x, "zplus", start="max")
    with pytest.raises(RuleError, match="begins at layer 'fc1' needs relevance"):
        nplrp.explain(model, x, "zplus", at="fc1")
    with pytest.raises(NumericsError, match="the relevance to start with: nan at image 0, unit 2"):
        nplrp.explain(model, x, "zplus", start=np.array([[0, 0, np.nan, 0, 0]]))


# --- ledger -----------------------------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
@pytest.mark.parametrize("name", RULES_OF_LRP)
def test_every_preset_balances(name):
    assert_balanced(nplrp.explain(NETWORKS["max"], pictures()[:1], name, 3, "float64"))


@pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_rule_balances_in_every_dialect(dialect):
    for name in ("zero", "epsilon", "gamma", "zplus", "alpha_beta", "alpha1_beta0", "wsquare", "flat", "zbox"):
        assert_balanced(nplrp.explain(small_vgg(), images(3, 2, (8, 8, 3)), name, [3, 0], "float64", dialect=dialect))


def one_layer(weights, bias, rule, a, R):
    model = nplrp.model.chain((len(weights),), [dense("out", np.array(weights, float)[:, None], [bias], "linear")])
    composite = Composite("one", ((LINEAR, rule),))
    return nplrp.explain(model, np.array([a], float), composite, dtype="float64", start=np.array([[R]], float))


def test_beta_creates_at_units_without_negative_contributions():
    # W = (2, 1), b = 1, a = (1, 1), R = 8: the positive half hands on 2 R over z = 4, the negative half has nothing to take away
    e = one_layer((2, 1), 1, Rule("alpha_beta", epsilon=0), (1, 1), 8)
    assert e.relevance.tolist() == [[8, 4]]
    entry = e.ledger["out"]
    terms = [float(getattr(entry, term)[0]) for term in ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created")]
    assert terms == [8, 12, 4, 0, 0, 8]
    assert entry.residual == 0
    # with a negative contribution nothing is created: W = (2, -1), b = 0: alpha 2 R to the first, -R to the second
    entry = one_layer((2, -1), 0, Rule("alpha_beta", epsilon=0), (1, 1), 8).ledger["out"]
    assert (entry.relevance_out, entry.created) == (8, 0)


def test_gamma_drops_units_with_z_0():
    e = one_layer((1, -1), 0, Rule("gamma", epsilon=0), (1, 1), 3)
    assert not e.relevance.any()
    assert e.ledger["out"].dropped == 3


def test_reading_a_ledger_warns_of_a_layer_that_makes_relevance():
    # case A under iNNvestigate's alpha1-beta0: the bias makes the denominator vanish
    e = nplrp.explain(
        nplrp.model.chain((2,), [dense("out", [[1], [-1]], [-1.0], "linear")]),
        np.ones((1, 2)),
        "lrp.alpha_1_beta_0",
        dtype="float64",
        start=np.array([[-1.0]]),
    )
    assert e.relevance[0, 0] == pytest.approx(-1e7, rel=1e-12)
    with pytest.warns(LedgerWarning, match=r"layer 'out', rule alpha_beta.*loses 1e\+07 at image 0, more than the 1 that the pass"):
        ledger = e.ledger
    assert ledger["out"].bias == pytest.approx(1e7, rel=1e-6)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(one_layer((2, -1), 0.5, Rule("zplus"), (1, 1), 1.5).ledger) == 1
    assert "creates 2" in one_layer((1, 1), 0, Rule("alpha_beta", alpha=3, epsilon=0), (1, 1), 1).books.alarms()[0]


def test_a_network_of_every_kind_of_layer_in_every_rule():
    """Rules run on pads, strides, global pools and separate activations, and balance."""
    rng = np.random.default_rng(9)
    layers = [
        plain("input_1", "input"),
        plain("zero_padding", "pad", pads=(1, 0, 2, 1)),
        conv("conv1", rng.normal(size=(3, 2, 3, 6)), rng.normal(size=6), "linear", nplrp.model.Window((3, 2), (2, 1), (1, 2), "valid")),
        plain("relu1", "activation", "relu"),
        pool("average", "avgpool", nplrp.model.Window((3, 2), (2, 2), padding="same")),
        conv("conv2", rng.normal(size=(1, 1, 6, 8)), rng.normal(size=8)),
        pool("pool", "maxpool", nplrp.model.Window((3, 3), (1, 1), padding="same")),
        pool("global_average", "global_avgpool"),
        dense("logits", rng.normal(size=(8, 4)), rng.normal(size=4), "softmax"),
    ]
    model = nplrp.model.chain((9, 10, 3), layers, preprocessing=nplrp.Preprocessing("caffe"))
    x = images(10, 2, (9, 10, 3))
    for name in ("gamma", "alpha_beta", "wsquare", "flat", "zbox"):
        for dialect in ("zennit", "lrp_toolbox", "montavon"):
            e = nplrp.explain(model, x, Composite("c", COMPOSITES[name].rows, "logit"), dtype="float64", dialect=dialect)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", LedgerWarning)
                assert_balanced(e)


def test_pools_of_a_composite():
    composite = Composite("c", ((LINEAR, Rule("zplus")), (POOLS, Rule("average"))))
    assert rules_of(composite)["block1_pool"] == "average(epsilon=1e-07, stabiliser=sign)"
