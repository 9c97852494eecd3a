"""Plans: merged batch norms compute the same as unmerged ones, wherever they stand; rules are found; weights are checked once."""

import dataclasses

import numpy as np
import pytest

import nplrp
from nplrp.errors import ModelError, NumericsError, RuleError
from nplrp.lrp import run_backward, run_forward
from nplrp.model import Layer, Preprocessing, Window, chain
from nplrp.plan import make_plan, make_steps
from nplrp.rules import Rule
from nplrp.rules.composites import POOL, Composite
from tests.laws import assert_balanced
from tests.networks import SAME3, batch_norm, conv, dense, images, plain, pool, random_kernel, small_vgg

VALID3 = Window((3, 3))


def network(name):
    """A chain with batch norms in one particular place, and the kinds that its batch norms should become."""
    rng = np.random.default_rng(3)
    k = lambda *shape: random_kernel(rng, *shape)  # noqa: E731
    bias = lambda n: rng.normal(size=n)  # noqa: E731
    end = [plain("flatten", "flatten"), dense("out", k(6 * 6 * 4, 3), bias(3), "softmax")]
    if name == "conv, bn, relu":
        return [
            conv("c", k(3, 3, 2, 4), bias(4), "linear"),
            batch_norm("bn", rng, 4),
            plain("relu", "activation", "relu"),
            *end,
        ], "identity"
    if name == "conv without bias, dropout, bn":
        return [conv("c", k(3, 3, 2, 4), None, "linear"), plain("drop", "identity"), batch_norm("bn", rng, 4), *end], "identity"
    if name == "dense, bn, dense":
        return [
            plain("flatten", "flatten"),
            dense("d1", k(72, 5), bias(5)),
            batch_norm("bn", rng, 5),
            dense("out", k(5, 3), bias(3), "softmax"),
        ], "identity"
    if name == "relu, bn, flatten, dense":
        return [conv("c", k(3, 3, 2, 4), bias(4)), batch_norm("bn", rng, 4), *end], "identity"
    if name == "relu, bn, valid conv":
        return [
            conv("c", k(3, 3, 2, 3), bias(3)),
            batch_norm("bn", rng, 3),
            conv("c2", k(1, 1, 3, 4), bias(4), "relu", Window((1, 1))),
            *end,
        ], "identity"
    if name == "relu, bn, padded conv":
        return [
            conv("c", k(3, 3, 2, 3), bias(3)),
            batch_norm("bn", rng, 3),
            conv("c2", k(3, 3, 3, 4), bias(4), "relu", SAME3),
            *end,
        ], "scale"
    if name == "relu, bn, pool":
        same = Window((2, 2), (1, 1), padding="same")
        return [conv("c", k(3, 3, 2, 4), bias(4)), batch_norm("bn", rng, 4), pool("p", window=same), *end], "scale"
    if name == "input, bn, padded conv":
        return [batch_norm("bn", rng, 2), conv("c", k(3, 3, 2, 4), bias(4)), *end], "scale"
    raise KeyError(name)


PLACES = [
    "conv, bn, relu",
    "conv without bias, dropout, bn",
    "dense, bn, dense",
    "relu, bn, flatten, dense",
    "relu, bn, valid conv",
    "relu, bn, padded conv",
    "relu, bn, pool",
    "input, bn, padded conv",
]


@pytest.mark.parametrize("place", PLACES)
def test_a_batch_norm_is_merged_exactly_or_not_at_all(place):
    layers, kind = network(place)
    model = chain((6, 6, 2), layers)
    x = images(1, 3, (6, 6, 2))
    plan = make_plan(model, "notebook", "float64")
    assert {step.name: step.kind for step in plan.steps}["bn"] == kind
    explanation = nplrp.explain(model, x, "notebook", dtype="float64")
    apart = nplrp.forward(model, x, dtype="float64")
    assert np.abs(explanation.output - apart["out"]).max() < 1e-13
    # activations are those of the network as it was written, also at and before the batch norm
    assert np.array_equal(explanation.activations["bn"], apart["bn"])
    before = layers[[layer.name for layer in layers].index("bn") - 1].name if layers[0].name != "bn" else "input"
    arrays = model["bn"].arrays
    gamma, beta, mean, variance = (arrays[key].astype(float) for key in ("gamma", "beta", "mean", "variance"))
    expected = gamma * (apart[before] - mean) / np.sqrt(variance + 1e-3) + beta
    assert np.abs(apart["bn"] - expected).max() < 1e-12


@pytest.mark.parametrize("place", PLACES)
def test_the_ledger_balances_through_batch_norms(place):
    layers, _ = network(place)
    assert_balanced(nplrp.explain(chain((6, 6, 2), layers), images(2, 2, (6, 6, 2)), "zplus", dtype="float64"))


def test_a_merged_batch_norm_before_a_dense_layer_is_worked_by_hand():
    # a = (2, 1), g = gamma / sqrt(var + eps) = (2, 1/2), h = beta - mean g = (1, -1); w = (1, 4), b = 3
    arrays = {"gamma": [4, 1], "beta": [3, 0], "mean": [1, 2], "variance": [3, 3]}
    bn = Layer("bn", "batchnorm", (), (), epsilon=1.0, arrays={key: np.array(v, np.float32) for key, v in arrays.items()})
    model = chain((2,), [bn, dense("out", [[1], [4]], [3], "linear")])
    explanation = nplrp.explain(model, np.array([[2.0, 1.0]]), "notebook", target=0, dtype="float64")
    # z = 2*(2*2+1) ... merged: w' = (2, 2), b' = 3 + 1*1 - 1*4 = 0 -> z = 2*2 + 1*2 = 6; start = the one unit's value, 6
    assert explanation.output.tolist() == [[6.0]]
    assert explanation.relevance[0] == pytest.approx([4, 2], rel=1e-6)


def test_variance_that_cannot_be_divided_by():
    rng = np.random.default_rng(0)
    bn = batch_norm("bn", rng, 2)
    bn.arrays["variance"][1] = -1
    with pytest.raises(NumericsError, match=r"layer 'bn': variance \+ epsilon is -0.999 at channel 1"):
        nplrp.explain(chain((2,), [bn]), np.ones((1, 2)))


def test_plans_and_prepared_weights_are_shared():
    model = small_vgg()
    assert make_plan(model, "zplus") is make_plan(model, "zplus")
    assert make_plan(model, "zplus").steps is make_plan(model, "notebook").steps
    assert make_plan(model, "zplus", "float64").steps is not make_plan(model, "zplus").steps


def test_terms_that_vanish_below_a_relu_are_dropped_without_changing_a_bit():
    model, x = small_vgg(), images(5, 2, (8, 8, 3)).astype(np.float32)
    plan = make_plan(model, "zplus")
    terms = {step.name: len(parts[0].terms) for step, parts in zip(plan.steps, plan.parts, strict=True) if step.kind in ("conv", "dense")}
    assert terms == {"block1_conv1": 2, "block1_conv2": 1, "block2_conv1": 1, "fc1": 1, "predictions": 1}
    whole = dataclasses.replace(plan, parts=tuple(rule.parts for rule in plan.rules))
    trace = run_forward(plan.steps, x)
    R = np.random.default_rng(6).normal(size=(2, 5)).astype(np.float32)
    assert np.array_equal(run_backward(plan, trace, R), run_backward(whole, trace, R))


def test_a_plan_prints_the_rule_of_every_layer():
    text = str(make_plan(small_vgg(), "notebook"))
    assert "notebook on small VGG, float32, start softmax" in text
    for layer in small_vgg():
        assert layer.name in text
    assert "epsilon(epsilon=1e-07, stabiliser=plus)" in text


def test_softmax_in_the_middle_is_refused():
    model = chain((2,), [dense("a", np.eye(2), None, "softmax"), dense("b", np.eye(2))])
    with pytest.raises(ModelError, match=r"layer 'a' has a softmax .* inside the network"):
        make_plan(model)


def test_softmax_that_is_taken_apart_is_refused():
    model = chain((2, 2, 1), [conv("c", np.ones((1, 1, 1, 3)), None, "softmax"), plain("f", "flatten")])
    with pytest.raises(ModelError, match=r"layer 'c' has a softmax of shape \(2, 2, 3\)"):
        make_plan(model)


def test_only_the_input_has_a_box_for_each_channel():
    rng = np.random.default_rng(8)
    model = chain(
        (4, 4, 3),
        [conv("first", random_kernel(rng, 2, 2, 3, 3), window=Window((2, 2))), conv("second", random_kernel(rng, 3, 3, 3, 3))],
        preprocessing=Preprocessing("caffe"),
    )
    first, second = make_plan(model, "zbox").rules
    assert (first.low, first.high) == ((-103.939, -116.779, -123.68), (151.061, 138.221, 131.32))
    assert (second.low, second.high) == (-123.68, 151.061)


def test_terms_stay_where_inputs_may_be_negative_again():
    """Behind a layer without a ReLU, and behind a batch norm that stands alone."""
    rng = np.random.default_rng(9)
    same = Window((2, 2), (1, 1), padding="same")
    layers = [
        conv("relu", random_kernel(rng, 3, 3, 2, 3)),
        pool("average", "avgpool", same),
        conv("linear", random_kernel(rng, 3, 3, 3, 3), None, "linear"),
        conv("behind", random_kernel(rng, 3, 3, 3, 4)),
        batch_norm("bn", rng, 4),
        pool("pool", window=same),
        conv("last", random_kernel(rng, 3, 3, 4, 4)),
    ]
    model, x, R = chain((6, 6, 2), layers), images(10, 2, (6, 6, 2)), rng.normal(size=(2, 6, 6, 4))
    for rule, expected in (
        ("zplus", {"relu": [2], "linear": [1], "behind": [2], "bn": [1], "last": [2]}),
        ("gamma", {"relu": [2], "linear": [1, 1], "behind": [2], "bn": [1, 1], "last": [2, 2]}),  # halves for z < 0 as well
    ):
        rows = (("avgpool",), Rule("norm")), (("conv", "scale"), Rule(rule)), (POOL, Rule("winner"))
        plan = make_plan(model, Composite(rule, rows), "float64")
        terms = {step.name: [len(part.terms) for part in parts] for step, parts in zip(plan.steps, plan.parts, strict=True)}
        assert terms == expected | {"average": [1], "pool": [1]}
        whole = dataclasses.replace(plan, parts=tuple(rule.parts for rule in plan.rules))
        trace = run_forward(plan.steps, x)
        assert np.array_equal(run_backward(plan, trace, R), run_backward(whole, trace, R))


def test_weights_are_converted_not_changed():
    model = small_vgg()
    before = {layer.name: {key: a.copy() for key, a in layer.arrays.items()} for layer in model}
    nplrp.explain(model, images(4, 1, (8, 8, 3)), "zplus")
    for layer in model:
        for key, array in layer.arrays.items():
            assert np.array_equal(array, before[layer.name][key])
    steps = make_steps(model, np.dtype("float32"), "auto", merge=True)
    shared = [np.shares_memory(step.weight, model[step.name].arrays["kernel"]) for step in steps if step.weight is not None]
    assert shared == [True] * 5


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "epsilom"}, "no rule 'epsilom'; did you mean 'epsilon'"),
        ({"name": "epsilon", "epsilon": -1}, "epsilon must be a finite number >= 0, not -1"),
        ({"name": "epsilon", "epsilon": float("nan")}, "epsilon must be a finite number"),
        ({"name": "epsilon", "stabiliser": "none"}, "no stabiliser 'none'"),
        ({"name": "winner", "epsilon": 1e-3}, "takes no epsilon"),
    ],
)
def test_wrong_rules_fail_at_construction(arguments, message):
    with pytest.raises(RuleError, match=message):
        nplrp.Rule(**arguments)
