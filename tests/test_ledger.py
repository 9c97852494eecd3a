"""The ledger: every term from its own sum, balanced to rounding, and right where it can be worked by hand."""

import warnings
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

import nplrp
from nplrp.errors import NumericsError
from nplrp.ledger import Entry, Ledger, LedgerWarning
from nplrp.model import build, chain
from nplrp.rules import Rule
from nplrp.rules.composites import LINEAR, POOL, Composite
from tests.laws import assert_balanced
from tests.networks import conv, dense, images, plain, random_kernel, small_vgg


@pytest.mark.parametrize("composite", ["notebook", "zplus"])
def test_balance(composite):
    x = images(1, 3, (8, 8, 3))
    assert_balanced(nplrp.explain(small_vgg(), x, composite, dtype="float64"))
    assert_balanced(nplrp.explain(small_vgg(), x, composite, dtype="float32"), 1e-6)


def test_layers_hand_over_what_they_get():
    ledger = nplrp.explain(small_vgg(), images(2, 2, (8, 8, 3)), "notebook", dtype="float64").ledger
    assert len(ledger) == 8
    for above, below in pairwise(ledger.entries):
        assert np.array_equal(above.relevance_out, below.relevance_in)
    assert ledger.start == pytest.approx([1, 1], rel=1e-14)
    absorbed = sum(e.bias + e.epsilon + e.dropped for e in ledger.entries)
    assert ledger.start == pytest.approx(ledger.end + absorbed, rel=1e-11)


def one_layer(weights, bias, rule, a):
    model = chain((len(weights),), [dense("out", np.array(weights, float)[:, None], [bias], "linear")])
    composite = Composite("one", ((LINEAR, rule),), "logit", "test")
    return nplrp.explain(model, np.array([a], float), composite, target=0, dtype="float64").ledger["out"]


def test_terms_by_hand():
    # W = (2, -1), b = 1/2, a = (1, 1): z = 3/2 = R, eps = 1/2: s = 3/4 -> out 3/4, bias 3/8, eps 3/8
    entry = one_layer((2, -1), 0.5, Rule("epsilon", epsilon=0.5), (1, 1))
    found = [float(getattr(entry, t)[0]) for t in ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "residual")]
    assert found == pytest.approx([1.5, 0.75, 0.375, 0.375, 0, 0], abs=1e-15)
    assert (entry.size_in, entry.magnitude) == (1.5, 1.5 + (1.5 + 0.75) + 0.375 + 0.375)  # what arrives and leaves, bias, eps
    # z+: z = 2 + 1/2, eps = 1/2, s = 1/2 -> out 1, bias 1/4, eps 1/4
    entry = one_layer((2, -1), 0.5, Rule("zplus", epsilon=0.5), (1, 1))
    found = [float(getattr(entry, t)[0]) for t in ("relevance_in", "relevance_out", "bias", "epsilon", "dropped")]
    assert found == pytest.approx([1.5, 1.0, 0.25, 0.25, 0], abs=1e-15)


@pytest.mark.parametrize(
    "rule",
    [
        Rule("zplus", epsilon=1e-7),
        Rule("zplus", epsilon=0.0, stabiliser="sign"),
        Rule("zplus", epsilon=0.5, stabiliser="sign_drop"),
        Rule("zplus", epsilon=0.5, stabiliser="drop"),
        Rule("zplus", epsilon=0.5, stabiliser="zero"),
    ],
    ids=str,
)
def test_units_that_divide_nothing_are_dropped_not_epsilon(rule):
    # W = (-1, -1), b = -2, a = (1, 2): z+ is 0, so the unit's relevance -5 goes nowhere
    entry = one_layer((-1, -1), -2, rule, (1, 2))
    assert (entry.relevance_in, entry.relevance_out, entry.bias, entry.epsilon, entry.created) == (-5, 0, 0, 0, 0)
    assert entry.dropped == pytest.approx(-5, rel=1e-15)


def test_what_divides_by_nothing_has_no_ledger():
    with pytest.raises(NumericsError, match=r"layer 'out', rule zplus.*: s = R / z is -inf at image 0, unit 0 .*denominator 0"):
        one_layer((-1, -1), -2, Rule("zplus", epsilon=0.0), (1, 2))


def test_relevance_on_padding_is_dropped():
    model = chain(
        (2, 2, 1), [plain("pad", "pad", pads=(1, 0, 0, 1)), plain("flatten", "flatten"), dense("out", np.ones((9, 1)), [9.0], "linear")]
    )
    plan = nplrp.make_plan(model, "notebook", "float64")
    from nplrp.ledger import account
    from nplrp.lrp import run_forward

    R = np.arange(9, dtype=float).reshape(1, 3, 3, 1)
    inside = R[:, 1:, :2]
    entry = account(plan, run_forward(plan.steps, np.ones((1, 2, 2, 1))), 0, R, [inside])
    assert entry.dropped == R.sum() - inside.sum()
    assert entry.residual == 0


def test_images_join_and_part():
    x = images(3, 11, (8, 8, 3))
    whole = nplrp.explain(small_vgg(), x, "zplus", dtype="float64").ledger
    assert whole["fc1"].bias.shape == (11,)
    alone = nplrp.explain(small_vgg(), x[9:10], "zplus", dtype="float64").ledger
    assert np.array_equal(whole.image(9)["block1_conv2"].epsilon, alone["block1_conv2"].epsilon)
    assert "sums over 11 images" in str(whole)
    assert "sums over" not in str(alone)
    with pytest.raises(KeyError, match="no layer 'fc9'; did you mean 'fc1'"):
        whole["fc9"]


def test_it_prints_a_line_for_each_layer_and_a_total():
    text = str(nplrp.explain(small_vgg(), images(4, 1, (8, 8, 3)), "notebook").ledger)
    lines = text.splitlines()
    assert lines[0].split() == ["layer", "relevance", "in", "out", "bias", "epsilon", "dropped", "created", "residual", "rule"]
    assert [line.split()[0] for line in lines[1:]] == [layer.name for layer in reversed(small_vgg().layers)] + ["total"]


def entry(layer, size_in=1.0, reads="input", **terms):
    """A ledger's line for two images of which the first has nothing."""
    names = ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created", "magnitude")
    sums = {name: np.array([0.0, terms.get(name, 0.0)]) for name in names}
    return Entry(layer, "a rule", **sums, size_in=np.full(2, size_in), edges={reads: sums["relevance_out"]})


def test_what_is_printed_are_the_sums():
    terms = {"relevance_in": 100, "relevance_out": 60, "bias": 20, "epsilon": 7, "dropped": 11, "created": 3}
    ledger = Ledger((entry("top", reads="bottom", **terms), entry("bottom", **terms | {"relevance_in": 60, "relevance_out": -500})))
    residuals = {"top": 100 - 60 - 20 - 7 - 11 + 3, "bottom": 60 + 500 - 20 - 7 - 11 + 3}
    assert ledger.as_rows() == [
        {"layer": "top", "rule": "a rule", **terms, "residual": residuals["top"], "edges": {"bottom": 60}},
        {"layer": "bottom", "rule": "a rule", **terms, "relevance_in": 60, "relevance_out": -500, "residual": residuals["bottom"]}
        | {"edges": {"input": -500}},
    ]
    _, top, bottom, total, note = (line.split() for line in str(ledger).splitlines())
    assert top == ["top", "100", "60", "20", "7", "11", "3", str(residuals["top"]), "a", "rule"]
    assert bottom == ["bottom", "60", "-500", "20", "7", "11", "3", str(residuals["bottom"]), "a", "rule"]
    assert total == ["total", "100", "-500", "40", "14", "22", "6", str(sum(residuals.values()))]
    assert " ".join(note) == "sums over 2 images"
    assert (ledger.start.tolist(), ledger.end.tolist()) == ([0, 100], [0, -500])


@pytest.mark.parametrize(
    ("terms", "said"),
    [
        ({"bias": -1.5}, "loses 1.5 at image 1, more than the 1 that the pass began with (bias -1.5, stabiliser 0, zero denominators 0)"),
        ({"epsilon": 1.5}, "loses 1.5 at image 1, more than the 1 that the pass began with (bias 0, stabiliser 1.5, zero denominators 0)"),
        ({"dropped": 1.5}, "loses 1.5 at image 1, more than the 1 that the pass began with (bias 0, stabiliser 0, zero denominators 1.5)"),
        ({"bias": 1, "epsilon": 0.5, "dropped": 0.5}, "loses 2 at image 1"),
        ({"created": -1.5}, "creates 1.5 at image 1, more than the 1 that the pass began with"),
        ({"bias": 2, "epsilon": -1.5}, ""),
        ({"bias": 1, "created": 1}, ""),
        ({"relevance_in": 9, "relevance_out": 9}, ""),
    ],
)
def test_alarms(terms, said):
    """A layer in the middle, which itself gets much more than the pass began with."""
    ledger = Ledger((entry("top"), entry("middle", 100.0, **terms), entry("bottom", 100.0)))
    alarms = ledger.alarms()
    assert [said in alarm and alarm.startswith("layer 'middle', rule a rule: ") for alarm in alarms] == [True] * bool(said)


def test_a_ledger_of_images_of_different_size_whose_denominators_are_relative():
    rules = Composite("rms", ((LINEAR, Rule("epsilon", epsilon=0.25, stabiliser="rms")), (POOL, Rule("winner"))), "logit", "test")
    x = images(6, 3, (8, 8, 3)) * np.array([1, 30, 0.01])[:, None, None, None]
    assert_balanced(nplrp.explain(small_vgg(), x, rules, dtype="float64"))


def test_bias_that_takes_part_absorbs_and_one_that_does_not_absorbs_nothing():
    def ledger(bias):
        rules = Composite("b", ((LINEAR, Rule("epsilon", bias=bias)), (POOL, Rule("winner"))), "logit", "test")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", LedgerWarning)
            return nplrp.explain(small_vgg(), images(5, 1, (8, 8, 3)), rules, dtype="float64").ledger

    without, taking_part = ledger(False), ledger(True)
    assert [bool(np.any(e.bias)) for e in without.entries] == [False] * 8
    assert [e.layer for e in taking_part.entries if np.any(e.bias)] == [
        "predictions",
        "fc1",
        "block2_conv1",
        "block1_conv2",
        "block1_conv1",
    ]


def test_conv_bias_is_summed_over_all_pixels():
    # 1x1 conv, w = 1, b = 1, a = (1, 3): z = (2, 4), R = (2, 4) -> s = 1 each; bias absorbs 2, out = 4
    model = chain((1, 2, 1), [conv("c", np.ones((1, 1, 1, 1)), [1.0], "linear")])
    composite = Composite("lrp0", ((LINEAR, Rule("epsilon", epsilon=0.0)),), "logit", "test")
    plan = nplrp.make_plan(model, composite, "float64")
    from nplrp.ledger import account
    from nplrp.lrp import run_forward

    a = np.array([1.0, 3.0]).reshape(1, 1, 2, 1)
    entry = account(plan, run_forward(plan.steps, a), 0, np.array([2.0, 4.0]).reshape(1, 1, 2, 1), [a])
    assert (entry.bias, entry.relevance_out, entry.residual) == (2, 4, 0)


def forked():
    """The input goes to a convolution and past it to a sum, whose output goes to two dense layers that are added up."""
    rng = np.random.default_rng(5)
    return build(
        (4, 4, 3),
        [
            conv("conv", random_kernel(rng, 3, 3, 3, 3), rng.normal(size=3)),
            plain("sum", "add", inputs=("input", "conv")),
            plain("flatten", "flatten"),
            dense("one", random_kernel(rng, 48, 4), rng.normal(size=4), "linear"),
            replace(dense("two", random_kernel(rng, 48, 4), rng.normal(size=4), "linear"), inputs=("flatten",)),
            plain("out", "add", inputs=("one", "two")),
        ],
    )


def test_the_end_is_what_all_that_read_the_input_gave_it():
    e = nplrp.explain(forked(), images(6, 2, (4, 4, 3)), "epsilon(epsilon=0.1)", dtype="float64")
    ledger = e.ledger
    assert ledger.end == pytest.approx(e.relevance.sum((1, 2, 3)), rel=1e-12)
    assert (ledger.end != ledger["sum"].edges["input"]).all()
    assert (ledger.end != ledger["conv"].relevance_out).all()
    absorbed = sum(entry.bias + entry.epsilon + entry.dropped for entry in ledger.entries)
    assert ledger.start == pytest.approx(ledger.end + absorbed, rel=1e-11)


def test_edges_are_printed_where_there_are_several():
    ledger = nplrp.explain(forked(), images(6, 1, (4, 4, 3)), "epsilon", dtype="float64").ledger
    lines = [line.split() for line in str(ledger).splitlines() if line.startswith("  to ")]
    assert [line[1] for line in lines] == ["one", "two", "input", "conv"]
    rows = {row["layer"]: row["edges"] for row in ledger.as_rows()}
    assert rows["conv"] == {"input": ledger["conv"].relevance_out[0]}
    assert sum(rows["sum"].values()) == pytest.approx(ledger["sum"].relevance_out[0], rel=1e-12)
    for line in lines:
        assert float(line[2]) == pytest.approx((rows["out"] | rows["sum"])[line[1]], rel=1e-5)
