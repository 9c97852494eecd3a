"""Rules: values that print, parse, hash and pickle; each equal to its twin in matrix algebra; the two-weight cases in fractions."""

import dataclasses
import pickle
import re
from fractions import Fraction as F

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import nplrp
from nplrp import layers, lrp
from nplrp.errors import RuleError
from nplrp.model import Preprocessing, Window, chain
from nplrp.plan import make_plan, parts_below, without_vanishing_terms
from nplrp.rules import AS_IS, NEGATIVE, NOTHING, POSITIVE, RULES, STABILISERS, Clamp, Part, Rule, Term
from nplrp.rules.composites import JOINS, LINEAR, POOL, Composite
from tests import naive, twins
from tests.networks import batch_norm, conv, dense, images, plain, pool, random_kernel, small_vgg

WEIGHTED = ("epsilon", "gamma", "zplus", "alpha_beta", "wsquare", "flat", "zbox", "zero")


# --- values -----------------------------------------------------------------------------------------------------------


def rules():
    """Rules with any of their parameters set."""
    numbers = st.floats(0, 5, allow_nan=False)
    parameters = {
        "epsilon": numbers,
        "gamma": numbers,
        "alpha": st.floats(1, 5),
        "stabiliser": st.sampled_from(list(STABILISERS)),
        "bias": st.sampled_from(["changed", "none"]),
        "split": st.booleans(),
        "branch": st.sampled_from("zy"),
    }

    def build(name):
        takes = {key: parameters[key] for key in RULES[name].parameters if key in parameters}
        return st.fixed_dictionaries({}, optional=takes).map(lambda given: Rule(name, **given))

    return st.sampled_from(list(RULES)).flatmap(build)


@settings(max_examples=100, deadline=None)
@given(rules())
def test_rules_print_parse_hash_and_pickle(rule):
    assert Rule.parse(str(rule)).resolved() == rule.resolved()
    assert Rule.parse(str(rule.resolved())).resolved() == rule.resolved()
    assert pickle.loads(pickle.dumps(rule)) == rule
    assert hash(dataclasses.replace(rule)) == hash(rule)
    assert eval(repr(rule)) == rule
    assert rule.resolved().resolved() == rule.resolved()


def test_printed_rules():
    assert str(Rule("gamma").resolved()) == "gamma(gamma=0.25, epsilon=1e-07, stabiliser=sign)"
    assert str(Rule("alpha_beta", alpha=1, bias="raw")) == "alpha_beta(alpha=1, beta=0, bias=raw)"
    assert str(Rule("zbox", low=(-1, -2), high=(1, 2))) == "zbox(low=(-1.0, -2.0), high=(1.0, 2.0))"
    assert str(Rule("winner")) == "winner"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "gamma", "gamma": -0.1}, "gamma must be a finite number >= 0, not -0.1"),
        ({"name": "gamma", "gamma": True}, "gamma must be a finite number"),
        ({"name": "epsilon", "gamma": 0.1}, "takes no gamma; it takes epsilon, stabiliser, bias"),
        ({"name": "pass", "epsilon": 1.0}, "takes no epsilon; it has no parameters"),
        ({"name": "alpha_beta", "alpha": 2, "beta": 2}, "alpha = 2, beta = 2 conserve nothing"),
        ({"name": "alpha_beta", "alpha": -1}, "alpha = -1"),
        ({"name": "alpha_beta", "alpha": float("inf")}, "alpha must be a finite number"),
        ({"name": "zplus", "bias": "half"}, "no bias 'half'; there are changed, raw, none"),
        ({"name": "zplus", "split": "yes"}, "no split 'yes'"),
        ({"name": "gamma", "branch": "x"}, "no branch 'x'"),
        ({"name": "wsquare", "bias": "raw"}, "raw bias can't stand beside squared weights"),
        ({"name": "zbox", "low": 1, "high": 0}, "low = 1.0 must lie below high = 0.0"),
        ({"name": "zbox", "low": (0, 0), "high": (1, 1, 1)}, "must lie below"),
        ({"name": "zbox", "low": 0}, "high must be a number or one for each channel"),
        ({"name": "zbox", "low": float("nan"), "high": 1}, "low must be a number"),
    ],
)
def test_wrong_parameters_fail_at_construction(arguments, message):
    with pytest.raises(RuleError, match=message):
        Rule(**arguments)


@pytest.mark.parametrize("text", ["gamma(0.5)", "gamma(gamma=", "gamma(gamma=__import__('os'))", "", "a b", "gamma(**{})", "gamma(g=1)"])
def test_texts_that_are_no_rules(text):
    with pytest.raises(RuleError):
        Rule.parse(text)


def test_how_many_parts_and_terms_a_rule_has():
    found = {name: [len(part.terms) for part in Rule(name).parts] for name in RULES}
    split = {"zplus": [2], "gamma": [2, 2], "alpha_beta": [2, 2], "alpha_beta_x": [1, 1], "zbox": [3], "pass": []}
    assert found == {name: split.get(name, [1]) for name in RULES}
    assert [len(part.terms) for part in Rule("alpha_beta", alpha=1).parts] == [2]  # nothing has a weight of 0
    assert [part.weight for part in Rule("alpha_beta", alpha=0).parts] == [1]
    assert [len(part.terms) for part in Rule("gamma", split=False).parts] == [1]


def test_defaults():
    assert [str(Rule(name).resolved()) for name in RULES] == [
        "zero(epsilon=0.0, stabiliser=drop)",
        "epsilon(epsilon=1e-07, stabiliser=sign)",
        "gamma(gamma=0.25, epsilon=1e-07, stabiliser=sign)",
        "zplus(epsilon=1e-07, stabiliser=plus)",
        "alpha_beta(alpha=2.0, beta=1.0, epsilon=1e-07, stabiliser=sign)",
        "alpha_beta_x(alpha=2.0, beta=1.0, epsilon=1e-07, stabiliser=sign)",
        "wsquare(epsilon=1e-07, stabiliser=sign)",
        "flat(epsilon=1e-07, stabiliser=sign)",
        "zbox(epsilon=1e-07, stabiliser=sign)",
        "norm(epsilon=1e-07, stabiliser=sign)",
        "winner",
        "winner_ties",
        "winner_epsilon(epsilon=1e-07, stabiliser=sign)",
        "average(epsilon=1e-07, stabiliser=sign)",
        "signal",
        "half",
        "gradient",
        "slope",
        "pass",
    ]


def test_both_conventions_of_beta():
    assert Rule("alpha_beta", alpha=2, beta=-1) == Rule("alpha_beta", alpha=2, beta=1) == Rule("alpha_beta", beta=1)
    assert Rule("alpha_beta", alpha=0.5, beta=0.5) == Rule("alpha_beta", alpha=0.5)  # innsight's default: R = (R+ + R-) / 2
    assert [part.weight for part in Rule("alpha_beta", alpha=0.5).parts] == [0.5, 0.5]


# --- twins ------------------------------------------------------------------------------------------------------------


def one_step(layer, shape, rule):
    """A plan of one layer and a rule, float64."""
    composite = Composite("one", ((LINEAR, rule), (POOL, rule if "maxpool" in rule.fits else None)), "logit")
    return make_plan(chain(shape, [layer], preprocessing=Preprocessing("127.5,127.5")), composite, "float64")


def carry(plan, a, R):
    """Relevance of the inputs of a plan of one layer, by the page."""
    trace = lrp.run_forward(plan.steps, a[None])
    return lrp.run_backward(plan, trace, R.reshape(1, *plan.steps[0].output_shape))[0]


def turned(layer):
    """The batch norm with every other channel's sign turned."""
    gamma = layer.arrays["gamma"] * np.resize([1, -1], layer.arrays["gamma"].shape).astype(np.float32)
    return dataclasses.replace(layer, arrays={**layer.arrays, "gamma": gamma})


OVERLAPPING = Window((3, 2), (2, 1), padding="same")
LAYERS = {  # (kind of step, layer, shape of its input)
    "conv": lambda rng: ("conv", conv("l", random_kernel(rng, 3, 2, 3, 4), rng.normal(size=4), "relu"), (5, 4, 3)),
    "strided": lambda rng: (
        "conv",
        conv("l", random_kernel(rng, 3, 3, 2, 3), rng.normal(size=3), "linear", Window((3, 3), (2, 1), (1, 2), "same")),
        (6, 7, 2),
    ),
    "dense": lambda rng: ("dense", dense("l", random_kernel(rng, 7, 5), rng.normal(size=5), "linear"), (7,)),
    "scale": lambda rng: ("scale", turned(batch_norm("l", rng, 4)), (3, 2, 4)),
    "avgpool": lambda rng: ("avgpool", pool("l", "avgpool", Window((3, 2), (2, 2), padding="same")), (5, 4, 3)),
    "global_avgpool": lambda rng: ("avgpool", pool("l", "global_avgpool"), (4, 3, 2)),
    "maxpool": lambda rng: ("maxpool", pool("l", window=OVERLAPPING), (5, 6, 2)),
    "global_maxpool": lambda rng: ("maxpool", pool("l", "global_maxpool"), (4, 3, 2)),
    "pad": lambda rng: ("pad", plain("l", "pad", pads=(1, 0, 2, 3)), (3, 4, 2)),
    "flatten": lambda rng: ("reshape", plain("l", "flatten"), (3, 4, 2)),
    "activation": lambda rng: ("identity", plain("l", "activation", "relu"), (3, 4, 2)),
}
SETTINGS = (
    {},
    {"epsilon": 0.3, "gamma": 0.7, "alpha": 3, "low": -2, "high": 4.5, "bias": "none"},
    {"epsilon": 0.1, "gamma": 2, "alpha": 1, "low": -3, "high": 3, "split": False, "bias": "changed", "stabiliser": "plus"},
    {"epsilon": 0.2, "alpha": 0.5, "split": True, "branch": "y", "bias": "raw", "stabiliser": "clip"},
    {"epsilon": 0.4, "alpha": 0, "split": True, "bias": "changed", "stabiliser": "zero"},
)


def variants(name):
    """A rule with every setting that it takes."""
    for setting in SETTINGS:
        taken = {key: value for key, value in setting.items() if key in RULES[name].parameters}
        if name == "wsquare" and taken.get("bias") == "raw":
            taken["bias"] = "changed"
        yield Rule(name, **taken)


KINDS = {layer: make(np.random.default_rng(0))[0] for layer, make in LAYERS.items()}
CASES_OF_TWINS = [
    (layer, rule) for layer, kind in KINDS.items() for name in RULES if kind in RULES[name].fits for rule in dict.fromkeys(variants(name))
]


def test_every_rule_has_a_twin_on_every_kind_of_layer_that_it_fits():
    assert {(KINDS[layer], rule.name) for layer, rule in CASES_OF_TWINS} == {
        (kind, name)
        for name, row in RULES.items()
        for kind in row.fits
        if kind not in JOINS  # those are in test_graphs.py
    }
    assert len(CASES_OF_TWINS) == len(set(CASES_OF_TWINS)) == 304


def twin(rule, step, a, R):
    """Call the rule's twin."""
    rule = rule.resolved()
    a, R = a.reshape(-1), R.reshape(-1)
    W, s, e = twins.jacobian(step), rule.stabiliser, rule.epsilon
    b = np.zeros(len(W)) if step.bias is None else twins.biases(step)
    pools = step.kind in ("avgpool", "maxpool")
    if rule.name == "pass":
        return R if step.kind == "scale" else W.T @ R
    if rule.name in ("winner", "winner_ties"):
        return twins.winners(step, a, rule.name == "winner_ties").T @ R
    if rule.name == "winner_epsilon":
        return twins.epsilon(twins.winners(step, a, False), b, a, R, s, e, "none")
    if rule.name in ("norm", "average"):
        return twins.epsilon(W, b, a, R, s, e, "none")
    if rule.name in ("epsilon", "zero"):
        return twins.epsilon(W, b, a, R, s, e, rule.bias)
    if rule.name == "gamma":
        relu = rule.branch == "y" and step.activation == "relu"
        return twins.gamma(W, b, a, R, s, e, rule.bias, rule.gamma, rule.split, (lambda z: np.maximum(z, 0)) if relu else (lambda z: z))
    if rule.name == "alpha_beta":
        return twins.alpha_beta(W, b, a, R, s, e, rule.bias, rule.alpha, rule.beta, rule.split)
    if rule.name == "alpha_beta_x":
        return twins.alpha_beta_x(W, b, a, R, s, e, rule.bias, rule.alpha, rule.beta)
    if rule.name == "zplus":
        return twins.zplus(W, b, a, R, s, e, rule.bias, rule.split)
    if rule.name == "flat" or (rule.name == "wsquare" and pools):  # a pool's weights are all alike
        return twins.flat(twins.jacobian(step, ones=True), R, s, e)
    if rule.name == "wsquare":
        return twins.wsquare(W, b, a, R, s, e, rule.bias)
    if rule.name == "gradient":
        return W.T @ R
    assert rule.name == "zbox"
    low, high = (np.resize(v, a.size) for v in (rule.low, rule.high))
    return twins.zbox(W, a, R, s, e, low, high)


@pytest.mark.parametrize(("layer", "rule"), CASES_OF_TWINS, ids=str)
def test_twins(layer, rule):
    rng = np.random.default_rng(len(layer))
    kind, made, shape = LAYERS[layer](rng)
    plan = one_step(made, shape, rule)
    (step,) = plan.steps
    assert (step.kind, plan.rules[0].name) == (kind, rule.name)
    a = rng.choice([-1.67, -0.41, 0.89, 2.23], size=shape) if kind == "maxpool" else rng.normal(size=shape)  # maxima that tie
    R = rng.normal(size=step.output_shape)
    expected = twin(plan.rules[0], step, a, R).reshape(shape)
    assert np.abs(expected).max() > 0
    assert np.abs(carry(plan, a, R) - expected).max() <= 1e-11 * np.abs(expected).max()


def changed(step, change):
    """A step with its weights changed."""
    if step.weight is None:
        return step
    w = layers.wide(step)
    if isinstance(change, Clamp):
        w = change.positive * np.maximum(w, 0) + change.negative * np.minimum(w, 0)
    else:
        w = {"square": w**2, "ones": np.ones_like(w)}[change]
    return dataclasses.replace(step, weight=w)


@pytest.mark.parametrize("relu", [False, True])
@pytest.mark.parametrize("bias", [AS_IS, NOTHING, Clamp(1.5, -0.5)])
@pytest.mark.parametrize("changes", [(AS_IS,), (Clamp(2, 1), Clamp(-1, 3)), (AS_IS, Clamp(-1, 0), Clamp(0, -1)), ("square",), ("ones",)])
@pytest.mark.parametrize("layer", ["conv", "strided", "dense", "scale", "avgpool"])
def test_a_layer_is_the_sum_of_its_terms_and_its_transpose_is_their_adjoint(layer, changes, bias, relu):
    rng = np.random.default_rng(len(layer))
    _, made, shape = LAYERS[layer](rng)
    (step,) = one_step(made, shape, Rule("epsilon")).steps
    inputs, s = [rng.normal(size=(2, *shape)) for _ in changes], rng.normal(size=(2, *step.output_shape))
    found = layers.forward(step, inputs, changes, bias, relu)
    carried = layers.transpose(step, s, changes)
    b = bias.positive * np.maximum(twins.biases(step), 0) + bias.negative * np.minimum(twins.biases(step), 0)
    z = np.tile(b, (2, 1))
    for a, c, change in zip(inputs, carried, changes, strict=True):
        J = twins.jacobian(changed(step, change))
        if step.weight is None and isinstance(change, Clamp):
            J = J * change.positive  # a pool's weights are positive and all alike
        z += a.reshape(2, -1) @ J.T
        assert np.abs(c.reshape(2, -1) - s.reshape(2, -1) @ J).max() < 1e-12
    assert np.abs(found.reshape(2, -1) - (np.maximum(z, 0) if relu else z)).max() < 1e-12


@pytest.mark.parametrize("stabiliser", STABILISERS)
@pytest.mark.parametrize("name", ["epsilon", "zplus", "wsquare"])
def test_stabilisers(stabiliser, name):
    rng = np.random.default_rng(4)
    kernel, bias = random_kernel(rng, 7, 6), rng.normal(size=6)
    kernel[:, 2], bias[2] = 0, 0  # a unit with z = 0
    rule = Rule(name, epsilon=0.5, stabiliser=stabiliser, bias="changed")
    plan = one_step(dense("l", kernel, bias, "linear"), (7,), rule)
    a, R = rng.normal(size=7), rng.normal(size=6)
    expected = twin(rule, plan.steps[0], a, R)
    assert np.abs(carry(plan, a, R) - expected).max() <= 1e-12 * np.abs(expected).max()


def test_a_stabiliser_relative_to_z_looks_at_one_image_at_a_time():
    rng = np.random.default_rng(5)
    plan = one_step(
        dense("l", random_kernel(rng, 7, 6), rng.normal(size=6), "linear"), (7,), Rule("epsilon", epsilon=0.3, stabiliser="rms")
    )
    a, R = rng.normal(size=(3, 7)) * [[1], [100], [0.01]], rng.normal(size=(3, 6))
    together = lrp.run_backward(plan, lrp.run_forward(plan.steps, a), R)
    assert np.array_equal(together, np.stack([carry(plan, a[i], R[i]) for i in range(3)]))


def test_box_of_each_channel():
    rng = np.random.default_rng(6)
    rule = Rule("zbox", low=(-1, -2, -3), high=(3, 2, 1))
    plan = one_step(conv("l", random_kernel(rng, 3, 3, 3, 2), rng.normal(size=2)), (4, 4, 3), rule)
    a, R = rng.normal(size=(4, 4, 3)), rng.normal(size=(4, 4, 2))
    expected = twin(rule, plan.steps[0], a, R).reshape(a.shape)
    assert np.abs(carry(plan, a, R) - expected).max() <= 1e-12 * np.abs(expected).max()
    with pytest.raises(RuleError, match=r"doesn't fit layer 'l': low has 2 numbers, expected one for each of its 3 input channels"):
        one_step(conv("l", random_kernel(rng, 3, 3, 3, 2)), (4, 4, 3), Rule("zbox", low=(-1, -1), high=(1, 1)))


# --- pools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("window", [Window((2, 2), (2, 2)), Window((3, 3), (2, 1), padding="same")])
def test_pools(window):
    rng = np.random.default_rng(8)
    a = rng.integers(0, 3, size=(5, 6, 2)).astype(float)  # many ties
    pads, size, stride = window.pads(5, 6), window.size, window.stride
    z, winner = naive.max_winners(a[None], size, stride, pads)
    R = rng.normal(size=z.shape[1:])
    found = {name: carry(one_step(pool("l", window=window), a.shape, Rule(name)), a, R) for name in ("winner", "winner_ties", "average")}
    found["flat"] = carry(one_step(pool("l", window=window), a.shape, Rule("flat", epsilon=0)), a, R)
    found["winner_epsilon"] = carry(one_step(pool("l", window=window), a.shape, Rule("winner_epsilon", epsilon=0.5)), a, R)

    def back(s):
        return naive.max_transpose(s, winner, 5, 6, size, stride, pads)[0]

    assert np.allclose(found["winner"], back(R[None]), rtol=0, atol=1e-15)
    assert np.allclose(found["winner_epsilon"], a * back(R / (z + 0.5)), rtol=0, atol=1e-14)
    mean = naive.avg_forward(a[None], size, stride, pads)
    assert np.allclose(found["average"], a * naive.avg_transpose(R / (mean + 1e-7), 5, 6, size, stride, pads)[0], rtol=0, atol=1e-13)
    assert np.allclose(found["flat"], naive.avg_transpose(R[None], 5, 6, size, stride, pads)[0], rtol=0, atol=1e-14)
    shared = np.zeros_like(a)
    for r, c, k in np.ndindex(R.shape):
        places = [(r * stride[0] + i - pads[0], c * stride[1] + j - pads[2]) for i in range(size[0]) for j in range(size[1])]
        tied = [p for p in places if 0 <= p[0] < 5 and 0 <= p[1] < 6 and a[(*p, k)] == z[0, r, c, k]]
        for p in tied:
            shared[(*p, k)] += R[r, c, k] / len(tied)
    assert np.allclose(found["winner_ties"], shared, rtol=0, atol=1e-14)
    assert not np.allclose(found["winner_ties"], found["winner"])


def test_a_pool_of_zeros_as_each_dialect_has_it():
    a, R = np.zeros((2, 2, 1)), np.ones((1, 1, 1))
    model = chain(a.shape, [pool("l")])

    def found(dialect):
        plan = make_plan(model, Composite("p", ((POOL, None),)), "float64", dialect=dialect)
        return carry(plan, a, R).reshape(-1).tolist()

    assert found("zennit") == found("innvestigate") == [1, 0, 0, 0]
    assert found("captum") == found("notebook") == found("rp.jl") == found("montavon") == [0, 0, 0, 0]
    assert found("lrp_toolbox") == [0.25] * 4


# --- section 3 in fractions -------------------------------------------------------------------------------------------

A, B, C, D = ((1, -1), -1, (1, 1), -1), ((1, -2), 0.5, (-1, 2), -4.5), ((2, -1), 0.5, (1, 1), 1.5), ((1, -3), 0, (1, 1), -2)
Z, T, I = F(1, 10**6), F(1, 10**9), F(1, 10**7)  # epsilon of Zennit, Captum (and RelevancePropagation.jl), iNNvestigate
CASES = [
    (A, "epsilon", "zennit", (1 / (1 + Z), -1 / (1 + Z))),
    (A, "epsilon", "captum", (1 / (1 + T), -1 / (1 + T))),
    (A, "epsilon(bias=none)", "zennit", (-1 / Z, 1 / Z)),
    (A, "zplus", "zennit", (-1 / (1 + Z), 0)),
    (A, "zplus", "captum", (-1 / T, 0)),
    (A, "alpha_beta(alpha=1)", "zennit", (-1 / (1 + Z), 0)),
    (A, "alpha_beta(alpha=1)", "innvestigate", (-1 / I, 0)),
    (A, "alpha_beta(alpha=1)", "captum", (-1 / T, 0)),
    (A, "zplus", "innvestigate", (-1, 0)),
    (A, "zplus(bias=none)", "captum", (-1 / (1 + T), 0)),
    (A, "alpha_beta", "zennit", (-2 / (1 + Z), 1 / (2 + Z))),
    (A, "gamma", "zennit", (1 / (F(3, 2) + Z), F(-5, 4) / (F(3, 2) + Z))),
    (A, "gamma", "captum", (F(5, 4) / (F(3, 4) + T), -1 / (F(3, 4) + T))),
    (A, "gamma", "rp.jl", (F(5, 4) / (F(3, 4) + T), -1 / (F(3, 4) + T))),
    (A, "wsquare", "zennit", (-1 / (3 + Z), -1 / (3 + Z))),
    (A, "wsquare", "innvestigate", (F(-1, 2), F(-1, 2))),
    (A, "flat", "zennit", (-1 / (2 + Z), -1 / (2 + Z))),
    (A, "zbox(low=-3, high=3)", "zennit", (-4 / (6 + Z), -2 / (6 + Z))),
    (B, "zplus", "zennit", (0, 0)),
    (B, "zplus", "captum", (F(-9, 2) / (F(1, 2) + T), 0)),
    (B, "gamma", "zennit", (F(-45, 8) / (F(23, 4) + Z), F(-45, 2) / (F(23, 4) + Z))),
    (B, "gamma", "captum", (F(-45, 8) / (F(19, 4) + T), F(-18) / (F(19, 4) + T))),
    (C, "zplus", "zennit", (3 / (F(5, 2) + Z), 0)),
    (C, "zplus", "captum", (3 / (F(5, 2) + T), 0)),
    (C, "zplus(bias=none)", "captum", (3 / (2 + T), 0)),
    (C, "gamma", "zennit", (F(15, 4) / (F(17, 8) + Z), F(-3, 2) / (F(17, 8) + Z))),
    (C, "gamma", "captum", (F(15, 4) / (2 + T), F(-3, 2) / (2 + T))),
    (D, "gamma", "zennit", (2 / (F(11, 4) + Z), F(-15, 2) / (F(11, 4) + Z))),
    (D, "gamma", "captum", (F(5, 2) / (F(7, 4) + T), -6 / (F(7, 4) + T))),
]


@pytest.mark.parametrize(("case", "rule", "dialect", "expected"), CASES, ids=lambda v: v if isinstance(v, str) else None)
def test_two_weights_in_fractions(case, rule, dialect, expected):
    weights, bias, a, y = case
    model = chain((2,), [dense("out", np.array(weights)[:, None], [bias], "linear")])
    composite = Composite("one", ((LINEAR, Rule.parse(rule)),))
    found = nplrp.explain(model, np.array([a], float), composite, dtype="float64", dialect=dialect, start=np.array([[y]]))
    assert found.relevance[0].tolist() == pytest.approx([float(v) for v in expected], rel=1e-14)


# --- what is dropped changes nothing ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["gamma", "zplus", "alpha_beta", "zbox"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_dropped_terms_and_parts_change_no_bit(name, dtype):
    model, x = small_vgg(), images(5, 2, (8, 8, 3))
    plan = make_plan(model, name, dtype)
    whole = dataclasses.replace(plan, parts=tuple(rule.parts for rule in plan.rules))
    trace = lrp.run_forward(plan.steps, x.astype(dtype))
    R = np.random.default_rng(6).normal(size=(2, 5)).astype(dtype)
    assert np.array_equal(lrp.run_backward(plan, trace, R), lrp.run_backward(whole, trace, R))
    if name == "gamma":  # the halves for z < 0 are gone below the last layer
        assert [len(parts) for parts in plan.parts if parts] == [1, 1, 1, 1, 1, 1, 2]
        assert [len(parts) for parts in whole.parts if parts] == [2, 2, 1, 2, 1, 2, 2]


def test_halves_stay_where_relevance_is_given_or_units_without_activation_may_have_some():
    model = small_vgg()
    plan = make_plan(model, "gamma", "float64")
    at = [step.name for step in plan.steps].index("block2_conv1")
    assert len(parts_below(plan.steps, plan.rules, at + 1)[at]) == 2
    assert len(parts_below(plan.steps, plan.rules, len(plan.steps))[at]) == 1
    mixed = Composite("m", ((("conv",), Rule("gamma")), (("dense",), Rule("flat")), (POOL, None)))
    assert len(make_plan(model, mixed, "float64").parts[at]) == 2
    assert without_vanishing_terms(Rule("zbox", low=-1, high=1).parts) == Rule("zbox", low=-1, high=1).parts


def test_rules_fit_some_layers_only():
    model = small_vgg()
    with pytest.raises(RuleError, match=r"rule winner doesn't fit layer 'block1_conv1' of kind 'conv'; it fits maxpool"):
        make_plan(model, Composite("c", ((LINEAR, Rule("winner")), (POOL, None))))
    with pytest.raises(RuleError, match=r"rule gamma doesn't fit layer 'pool' of kind 'avgpool'"):
        make_plan(chain((4, 4, 1), [pool("pool", "avgpool")]), Composite("c", ((LINEAR, Rule("gamma")),)))


def test_flat_counts_inside_the_image_only():
    plan = one_step(conv("l", np.ones((3, 3, 1, 1)), None, "linear"), (3, 3, 1), Rule("flat", epsilon=0))
    R = np.zeros((3, 3, 1))
    R[0, 0] = 1
    assert carry(plan, np.ones((3, 3, 1)), R)[..., 0].tolist() == [[0.25, 0.25, 0], [0.25, 0.25, 0], [0, 0, 0]]


def test_relevance_of_units_without_what_follows_is_the_same():
    rng = np.random.default_rng(11)
    plan = one_step(dense("l", random_kernel(rng, 4, 6), rng.normal(size=6), "relu"), (4,), Rule("gamma"))
    a, R = rng.normal(size=(2, 4)), rng.normal(size=(2, 6))
    y = lrp.run_forward(plan.steps, a).output
    for units in ("z>0", "z<0", "y>0", "y<0"):
        given, computed = (layers.relevance_of_units(R, plan.steps[0], a, units, v) for v in (y, None))
        assert np.array_equal(given, computed)
    positive, negative = (layers.relevance_of_units(R, plan.steps[0], a, units) for units in ("z>0", "z<0"))
    assert np.array_equal(positive + negative, R)
    assert not layers.relevance_of_units(R, plan.steps[0], a, "y<0").any()


def test_pass_leaves_a_scale_alone():
    rng = np.random.default_rng(12)
    layers_ = [plain("relu", "activation", "relu"), batch_norm("bn", rng, 3), plain("relu2", "activation", "relu")]
    plan = make_plan(chain((2, 2, 3), layers_), Composite("p", ((("scale",), Rule("pass")),)), "float64")
    assert [step.kind for step in plan.steps] == ["identity", "scale", "identity"]
    a, R = rng.normal(size=(1, 2, 2, 3)), rng.normal(size=(1, 2, 2, 3))
    assert np.array_equal(lrp.run_backward(plan, lrp.run_forward(plan.steps, a), R), R)


# --- rules of one's own -----------------------------------------------------------------------------------------------


def own_zplus():
    return Rule.from_parts("mine", [Part((Term("a+", POSITIVE), Term("a-", NEGATIVE)), POSITIVE)], ("conv", "dense"), 1e-6, "sign")


def test_a_rule_of_ones_own_is_a_value():
    rule = own_zplus()
    assert pickle.loads(pickle.dumps(rule)) == rule == own_zplus()
    assert hash(rule) == hash(own_zplus())
    assert str(rule) == "mine(epsilon=1e-06, stabiliser=sign)"
    assert (rule.fits, len(rule.parts), rule.has_factor, rule.transparent) == (("conv", "dense"), 1, True, False)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_parts_of_a_rule_are_the_rule(dtype):
    model, x = small_vgg(), images(3, 2, (8, 8, 3))
    found = [
        nplrp.explain(model, x, Composite("c", ((("conv", "dense"), rule), (POOL, None))), dtype=dtype)
        for rule in (own_zplus(), Rule("zplus", epsilon=1e-6, stabiliser="sign"))
    ]
    assert np.array_equal(found[0].relevance, found[1].relevance)
    assert found[0].ledger.as_rows()[0]["bias"] == found[1].ledger.as_rows()[0]["bias"]


def test_a_rule_of_ones_own_by_hand():
    # w = (2, -1), a = (3, 4): halves of each contribution, w' = w / 2 -> z = 1, R = (3, -2) for R = 1
    rule = Rule.from_parts("halved", [Part((Term("a", Clamp(0.5, 0.5)),), NOTHING)], ("dense",), 0.0, "sign")
    model = chain((2,), [dense("d", [[2.0], [-1.0]], [7.0], "linear")])
    e = nplrp.explain(model, np.array([[3.0, 4.0]]), Composite("c", ((("dense",), rule),)), dtype="float64", start=np.ones((1, 1)))
    assert e.relevance.tolist() == [[3.0, -2.0]]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("zplus", [Part((Term("a"),), NOTHING)]), "there is a rule 'zplus' already"),
        (("a b", [Part((Term("a"),), NOTHING)]), "a rule's name is a word"),
        (("mine", []), "has no parts"),
        (("mine", [Part((Term("a"),), NOTHING)], ()), "has no families"),
        (("mine", [Part((), NOTHING)]), "a part is a Part of at least one Term"),
        (("mine", [Part((Term("b"),), NOTHING)]), "a term's input is one of a, a+, a-, 1, not 'b'"),
        (("mine", [Part((Term("a", "cube"),), NOTHING)]), "not 'cube'"),
        (("mine", [Part((Term("a", Clamp(1.0, float("nan"))),), NOTHING)]), "a Clamp of two numbers"),
        (("mine", [Part((Term("a"),), NOTHING, units="z=0")]), "units"),
    ],
)
def test_parts_that_are_no_rule(arguments, message):
    with pytest.raises(RuleError, match=re.escape(message)):
        Rule.from_parts(*arguments)


def test_a_rule_of_ones_own_fits_what_it_says():
    with pytest.raises(RuleError, match="doesn't fit layer 'block1_pool'"):
        nplrp.make_plan(small_vgg(), Composite("c", (((), own_zplus()), (POOL, own_zplus()))))
