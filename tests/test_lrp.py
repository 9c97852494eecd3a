"""The page and the pass: the notebook's own numbers, the laws of LRP, and fractions worked by hand."""

import pickle
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from fractions import Fraction
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

import nplrp
from nplrp import fused, lrp, outputs
from nplrp.errors import ModelError, NumericsError, RuleError, WeightsError
from nplrp.kernels.conv import Packed
from nplrp.model import Window, chain
from nplrp.rules import RULES, Rule
from nplrp.rules.composites import COMPOSITES, LINEAR, POOL, STARTS, Composite
from nplrp.rules.dialects import DIALECTS
from nplrp.span import Span
from nplrp.workspace import Hold, Workspace
from tests import laws, naive
from tests.bits import NETWORKS, boxed, pictures
from tests.laws import assert_balanced
from tests.networks import conv, dense, images, plain, pool, random_kernel, small_resnet, small_vgg, with_weights_in

DATA = Path(__file__).parent / "data"
ORACLE_NAMES = {"input_1": "input", "fc_out": "predictions"}


def oracle(name):
    return np.load(DATA / "oracle" / f"{name}.npz")


@pytest.fixture(scope="module")
def notebook_model():
    return nplrp.load(DATA / "keras_files" / "small32_k2_save_weights.h5")


def worst(found, expected):
    """Largest error in units of the expected array's largest value."""
    assert found.shape == expected.shape
    scale = np.abs(expected).max()
    return np.abs(found - expected).max() / (scale or 1.0)


# --- the notebook's numbers -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 5e-6)])
def test_every_layer_of_the_notebook(notebook_model, dtype, tolerance):
    expected = oracle(f"notebook_small32_{dtype}")
    explanation = nplrp.explain(notebook_model, expected["x"], "notebook", dtype=dtype)
    assert explanation.relevance.dtype == dtype
    compared = 0
    for key in expected.files:
        kind, _, layer = key.partition("/")
        if kind in ("act", "rel"):
            found = (explanation.activations if kind == "act" else explanation.relevances)[ORACLE_NAMES.get(layer, layer)]
            assert worst(found, expected[key]) < tolerance, key
            compared += 1
    assert compared == 23 + 22
    assert worst(explanation.relevance, expected["lrp"]) < tolerance
    assert worst(explanation.output, expected["preds"]) < tolerance


def test_special_images_of_the_notebook(notebook_model):
    quirks = oracle("notebook_quirks")
    exact = nplrp.explain(notebook_model, quirks["special_x"], dtype="float64").relevance
    single = nplrp.explain(notebook_model, quirks["special_x"], dtype="float32").relevance
    for i, name in enumerate(["zero", "white", "half white"]):
        assert worst(exact[i], quirks["special_lrp_np64"][i]) < 1e-13, name
        assert worst(single[i], quirks["special_lrp"][i]) < 5e-6, name
    assert np.abs(quirks["special_lrp"][1:]).max() > 0.01  # the comparison is of something


@pytest.mark.parametrize("case", ["tie", "tie2"])
def test_max_pool_ties_of_the_notebook(case):
    quirks = oracle("notebook_quirks")
    a, R = quirks[f"{case}_a"], quirks[f"{case}_r"]
    model = chain(a.shape[1:], [pool("pool")])
    plan = nplrp.make_plan(model, "notebook")
    trace = lrp.run_forward(plan.steps, a)
    assert worst(lrp.run_backward(plan, trace, R), quirks[f"{case}_R"]) < 1e-6


# --- laws -------------------------------------------------------------------------------------------------------------


def numeric_gradient(model, x, start, h=1e-6):
    """d (logit of the target) / dx by central differences, float64."""
    gradient = np.zeros_like(x)
    for i in np.ndindex(x.shape[1:]):
        up, down = x.copy(), x.copy()
        up[(0, *i)] += h
        down[(0, *i)] -= h
        logits = [nplrp.explain(model, v, dtype="float64").logits[0, start] for v in (up, down)]
        gradient[(0, *i)] = (logits[0] - logits[1]) / (2 * h)
    return gradient


def test_lrp0_without_bias_is_gradient_times_input():
    model = small_vgg(biases=0, size=4)
    x = images(1, 1, (4, 4, 3))
    rules = Composite("lrp0", ((LINEAR, Rule("epsilon", epsilon=0.0)), (POOL, Rule("winner"))), "logit", "test")
    explanation = nplrp.explain(model, x, rules, target=2, dtype="float64")
    expected = x * numeric_gradient(model, x, 2)
    assert worst(explanation.relevance, expected) < 1e-7
    assert explanation.relevance.sum() == pytest.approx(explanation.logits[0, 2], rel=1e-12)


@pytest.mark.parametrize("composite", ["notebook", "zplus"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batches_are_singles_bit_for_bit(composite, dtype):
    model, x = small_vgg(), images(2, 2 * outputs.CHUNK + 3, (8, 8, 3))  # two chunks of one size
    batch = nplrp.explain(model, x, composite, dtype=dtype)
    for i in range(len(x)):
        single = nplrp.explain(model, x[i : i + 1], composite, dtype=dtype)
        assert np.array_equal(single.relevance[0], batch.relevance[i])
        assert np.array_equal(single.output[0], batch.output[i])
        assert np.array_equal(single.logits[0], batch.logits[i])


@pytest.mark.parametrize("composite", ["notebook", "zplus"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_layers_on_first_access_have_the_same_bits(composite, dtype):
    explanation = nplrp.explain(small_vgg(), images(3, 3, (8, 8, 3)), composite, dtype=dtype)
    assert np.array_equal(explanation.relevances["input"], explanation.relevance)
    assert np.array_equal(explanation.activations["predictions"], explanation.output)
    assert list(explanation.relevances) == list(explanation.activations)


@pytest.mark.parametrize(
    ("composite", "fused_steps"),
    [("notebook", 5), ("zplus", 5), ("epsilon", 5), ("alpha_beta", 5), ("gamma", 4), ("wsquare", 0), ("epsilon_plus", 5)],
)
def test_how_many_steps_are_fused(composite, fused_steps):
    plan = nplrp.make_plan(small_vgg(), composite)
    assert sum(bool(fusion.parts) for fusion in fused.fusions(plan)) == fused_steps


@pytest.fixture(scope="module")
def chains():
    """Models, and three images of each, with flat areas whose places tie."""
    made = {name: make() for name, make in NETWORKS.items()} | {"small": small_vgg()}
    x = {name: pictures() if name == "wide" else images(14, 3, model.input_shape) for name, model in made.items()}
    for each in x.values():
        if each.ndim == 4:
            each[0, 2:6, 1:7] = 0.5
    return {name: (model, x[name]) for name, model in made.items()}


def done_early(plan):
    """The steps whose output the fused pass has after a ReLU that is a layer of its own above them."""
    found = set()
    for i, (step, fusion) in enumerate(zip(plan.steps, fused.fusions(plan), strict=True)):
        if step.activation == "relu" and fusion.step.activation == "linear":
            below = step.inputs[0]
            while fused.fusions(plan)[below].step.activation == "linear":
                found.add(below)
                (below,) = plan.steps[below].inputs
            found.add(below)
            assert plan.steps[below].activation == "linear" and below < i
    return found


def hold_fused_to_the_page(plan, x):
    """Every layer by both, from the same relevance; the fused pass alone, with every layer kept, and image by image."""
    page, fast = lrp.run_forward(plan.steps, x), fused.run_forward(plan, x)
    assert len(fast.activations) == len(plan.steps) + 1
    early = done_early(plan)
    for i, (found, expected) in enumerate(zip(fast.activations, page.activations, strict=True), -1):
        assert found.tobytes() == (np.maximum(expected, 0) if i in early else expected).tobytes()
    assert fast.logits.tobytes() == page.logits.tobytes()
    assert set(fast.held) == set(page.held) == {i for i, step in enumerate(plan.steps) if step.kind == "maxpool"}
    for i, winner in page.held.items():
        assert np.array_equal(fast.held[i], winner)
    R = np.random.default_rng(15).normal(size=fast.logits.shape).astype(x.dtype)
    kept = {}
    found = fused.run_backward(plan, fast, R, partial(lrp.step_back, plan, fast), Workspace())
    again = fused.run_backward(plan, fast, R, partial(lrp.step_back, plan, fast), keep=kept.__setitem__)
    assert found.tobytes() == again.tobytes() == kept[-1].tobytes()
    assert set(kept) == set(range(-1, len(plan.steps)))
    for i in range(len(plan.steps)):
        expected = lrp.step_back(plan, page, i, kept[i])
        parts = fused.fusions(plan)[i].parts
        if plan.steps[i].kind == "conv" and [len(part.terms) for part in parts] == [1, 1]:  # a * (c + d) for a * c + a * d
            assert worst(kept[i - 1].reshape(expected.shape), expected) < (1e-6 if x.dtype == np.float32 else 1e-15), plan.steps[i].name
        else:
            assert np.array_equal(kept[i - 1].reshape(expected.shape), expected), plan.steps[i].name  # a zero may have a sign
    for i in (len(plan.steps) - 2, len(plan.steps) // 2, 0):
        span = Span(len(plan.steps) - 1, i, {})
        upper = fused.run_backward(plan, fast, R, partial(lrp.step_back, plan, fast), Workspace(), span=span)
        assert upper.tobytes() == kept[i].tobytes()
    for n in range(len(x)):
        alone = fused.run_forward(plan, x[n : n + 1])
        single = fused.run_backward(plan, alone, R[n : n + 1], partial(lrp.step_back, plan, alone), Workspace())
        assert (alone.logits.tobytes(), single.tobytes()) == (fast.logits[n].tobytes(), found[n].tobytes())


def algorithms(plan):
    """How the convolutions ran."""
    return {each.algorithm for step in plan.steps for each in step.prepared.values() if isinstance(each, Packed)}


@pytest.mark.parametrize("composite", [name for name, each in COMPOSITES.items() if not each.gradient])
@pytest.mark.parametrize(
    ("network", "dtype", "ways"),
    [
        ("wide", "float32", {"direct", "winograd"}),
        ("wide", "float64", {"direct"}),
        ("global max", "float32", {"direct", "winograd"}),
        ("every kind", "float32", {"direct"}),
        ("every kind", "float64", {"direct"}),
        ("vectors", "float32", set()),
        ("small", "float32", {"direct"}),
    ],
)
def test_the_fused_pass_is_the_page(composite, network, dtype, ways, chains):
    model, x = chains[network]
    plan = nplrp.make_plan(model, boxed(composite, x), dtype)
    hold_fused_to_the_page(plan, x.astype(dtype))
    assert algorithms(plan) == ways


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize(
    "composite", ["notebook", "zero", "epsilon", "gamma", "zplus", "alpha_beta", "alpha1_beta0", "wsquare", "flat", "zbox"]
)
def test_the_fused_pass_is_the_page_in_every_dialect(composite, dialect, chains):
    model, x = chains["wide"]
    plan = nplrp.make_plan(model, composite, dialect=dialect)
    hold_fused_to_the_page(plan, x.astype(np.float32))
    assert algorithms(plan) == {"direct", "winograd"}


MIXED = {
    "flat above": ((("conv",), Rule("epsilon")), (("dense",), Rule("flat"))),
    "a box above": ((("conv",), Rule("zplus")), (("dense",), Rule("zbox", low=-1, high=1))),
    "squares above": ((("conv",), Rule("gamma")), (("dense",), Rule("wsquare"))),
    "no epsilon": ((("conv", "dense"), Rule("epsilon", epsilon=0)),),
    "another stabiliser": ((("conv",), Rule("zplus", epsilon=0.1, stabiliser="clip")), (("dense",), Rule("epsilon"))),
    "by weights": ((("conv", "dense"), Rule("alpha_beta", split=False, bias="none")),),
    "raw bias": ((("conv", "dense"), Rule("alpha_beta", bias="raw", epsilon=0.1)),),
    "no bias": ((("conv", "dense"), Rule("epsilon", bias="none", epsilon=0.1)),),
}
POOLS_OF_MIXED = {"winner": Rule("winner"), "epsilon": Rule("winner_epsilon", epsilon=0.1, stabiliser="zero"), "average": Rule("average")}


@pytest.mark.parametrize("pools", POOLS_OF_MIXED)
@pytest.mark.parametrize("name", MIXED)
def test_the_fused_pass_is_the_page_for_rules_that_stand_beside_each_other(name, pools, chains):
    model, x = chains["wide"]
    composite = Composite(f"{name}, {pools}", (*MIXED[name], (POOL, POOLS_OF_MIXED[pools])), "logit")
    plan = nplrp.make_plan(model, composite)
    hold_fused_to_the_page(plan, x.astype(np.float32))
    assert algorithms(plan) == {"direct", "winograd"}
    assert np.isfinite(nplrp.explain(model, x, composite).relevance).all()


def test_a_layer_may_say_to_compute_directly(chains):
    model, x = chains["wide"]
    for algorithm in ("auto", "direct", "auto"):  # of one model
        plan = nplrp.explain(model, x, "zplus", algorithm=algorithm).plan
        assert algorithms(plan) == ({"direct", "winograd"} if algorithm == "auto" else {"direct"})


def test_places_tie_through_padding_and_average_pools():
    """By Winograd tiles winners are those of direct convolutions, whatever lies between the picture and the pool."""
    rng = np.random.default_rng(28)
    layers = [
        plain("pad", "pad", pads=(2, 3, 1, 2)),
        conv("conv1", random_kernel(rng, 3, 3, 3, 64), rng.normal(size=64)),
        pool("average", "avgpool", Window((2, 2), (1, 1))),
        conv("conv2", random_kernel(rng, 3, 3, 64, 64), rng.normal(size=64)),
        pool("pool", window=Window((2, 2), (2, 2))),
    ]
    model, x = chain((17, 18, 3), layers), np.full((1, 17, 18, 3), 0.3)
    x[0, 4:9, 4:9] = rng.normal(size=3)
    winners = {}
    for algorithm in ("auto", "direct"):
        plan = nplrp.make_plan(model, "zplus", algorithm=algorithm)
        trace = fused.run_forward(plan, x.astype(np.float32))
        winners[algorithm] = trace.held[4]
        assert algorithms(plan) == ({"direct", "winograd"} if algorithm == "auto" else {"direct"})
    assert np.array_equal(winners["auto"], winners["direct"])
    assert np.mean(winners["auto"] == 0) > 0.5  # the first of equal places


@pytest.mark.parametrize("composite", [*COMPOSITES, "wsquare", "gamma"])
def test_float64_reads_float32_weights_where_they_are(composite, chains):
    """Dense weights aren't copied for a float64 plan; every number has the bits that a copy gives."""
    model, x = (with_weights_in(chains["wide"][0], np.float32), chains["wide"][1])
    both, own = (model, with_weights_in(model, np.float64)), boxed(composite, x)
    e, expected = (nplrp.explain(each, x, own, dtype="float64") for each in both)
    dense = [step for step in e.plan.steps if step.kind == "dense"]
    assert len(dense) == 2
    assert all(np.shares_memory(step.weight, model[step.name].arrays["kernel"]) for step in dense)
    assert e.relevance.tobytes() == expected.relevance.tobytes()
    assert [R.tobytes() for R in e.relevances.values()] == [R.tobytes() for R in expected.relevances.values()]


@pytest.mark.parametrize("composite", ["notebook", "epsilon_plus"])
def test_two_passes_are_one_where_places_tie(composite, chains):
    """The page, which a pass that begins below the top runs by, goes by the decisions that the forward pass made."""
    model, x = chains["wide"]
    whole = nplrp.explain(model, x, composite)
    assert algorithms(whole.plan) == {"direct", "winograd"}
    for layer in ("fc1", "block2_pool", "block1_pool"):
        upper = nplrp.explain(model, x, composite, until=layer)
        assert np.array_equal(nplrp.explain(model, x, composite, start=upper.relevance, at=layer).relevance, whole.relevance)


def test_ties_are_shared_among_all_places_that_see_the_same(chains):
    """Winograd rounds equal places differently; a flat picture's maxima are shared as by direct convolutions."""
    model, x = chains["wide"]
    x = x[2:].astype(np.float32)
    assert len(np.unique(x)) == 1
    carried = {}
    for algorithm in ("auto", "direct"):
        plan = nplrp.make_plan(model, "zplus", algorithm=algorithm, dialect="lrp_toolbox")
        trace = fused.run_forward(plan, x)
        for i, step in enumerate(plan.steps):
            if step.kind == "maxpool":
                assert plan.rules[i].name == "winner_ties"
                R = np.random.default_rng(i).normal(size=(1, *step.output_shape)).astype(np.float32)
                carried[algorithm, step.name] = lrp.step_back(plan, trace, i, R)
                assert np.count_nonzero(carried[algorithm, step.name]) > 2 * R.size
    assert len(carried) == 4
    for name in ("block1_pool", "block2_pool"):
        assert np.array_equal(carried["auto", name], carried["direct", name])


OWN = ("notebook", "zero", "epsilon", "gamma", "zplus", "alpha_beta", "wsquare", "flat", "zbox")


@pytest.mark.parametrize("composite", OWN)
@pytest.mark.parametrize("layer", ["fc1", "block2_pool", "block2_conv1", "block1_conv1"])
def test_a_pass_that_begins_inside_is_that_of_the_network_below(composite, layer):
    """Relevance is given to dead units as well."""
    model, x = small_vgg(), images(23, 2, (8, 8, 3))
    place = [each.name for each in model].index(layer)
    below = chain(model.input_shape, model.layers[: place + 1], preprocessing=model.preprocessing)
    R = np.random.default_rng(24).normal(size=(2, *below.output_shape))
    inside = nplrp.explain(model, x, composite, dtype="float64", at=layer, start=R)
    alone = nplrp.explain(below, x, composite, dtype="float64", start=R)
    assert worst(inside.relevance, alone.relevance) < 1e-13
    assert_balanced(inside)
    for entry in alone.ledger.entries:
        for term in ("relevance_in", "relevance_out", "bias", "epsilon", "dropped", "created"):
            assert np.abs(getattr(inside.ledger[entry.layer], term) - getattr(entry, term)).max() <= 1e-12 * entry.magnitude.max(), term


def test_a_softmax_of_its_own_is_no_layer_to_begin_above():
    rng = np.random.default_rng(25)
    model = chain(
        (4,), [dense("logits", random_kernel(rng, 4, 3), rng.normal(size=3), "linear"), plain("softmax", "activation", "softmax")]
    )
    x = rng.normal(size=(2, 4))
    whole = nplrp.explain(model, x, "zplus")
    assert np.array_equal(whole.relevances["logits"].sum(axis=1), whole.logits.max(axis=1))
    assert np.array_equal(nplrp.explain(model, x, "zplus", at="logits").relevance, whole.relevance)
    assert np.array_equal(nplrp.explain(model, x, "zplus", at="softmax").relevance, whole.relevance)


def test_explain_is_linear_in_the_start():
    model, x = small_vgg(), images(4, 1, (8, 8, 3))
    plan = nplrp.make_plan(model, "zplus", "float64")
    trace = lrp.run_forward(plan.steps, x)
    rng = np.random.default_rng(5)
    first, second = rng.normal(size=(2, 1, 5))
    parts = 2 * lrp.run_backward(plan, trace, first) - 3 * lrp.run_backward(plan, trace, second)
    assert worst(lrp.run_backward(plan, trace, 2 * first - 3 * second), parts) < 1e-13


@settings(max_examples=25, deadline=None)
@given(st.data())
def test_one_conv_layer_is_the_formula_in_loops(data):
    """R = a * convT(R / (conv(a, w) + b + eps), w), written with naive loops."""
    draw = data.draw
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    kernel, stride, dilation = (tuple(draw(st.integers(1, 3)) for _ in range(2)) for _ in range(3))
    padding = "same" if draw(st.booleans()) or min(height, width) < 6 else "valid"
    window = Window(kernel, stride, dilation, padding)
    rng = np.random.default_rng(draw(st.integers(0, 999)))
    w, b = rng.normal(size=(*kernel, 2, 3)).astype(np.float32), rng.normal(size=3).astype(np.float32)
    assume(min(window.output_size(height, width)) >= 1)
    a = rng.uniform(0.1, 1, size=(2, height, width, 2))
    model = chain((height, width, 2), [conv("conv", w, b, "linear", window)])
    plan = nplrp.make_plan(model, "notebook", "float64")
    trace = lrp.run_forward(plan.steps, a)
    pads = window.pads(height, width)
    z = naive.conv_forward(a, w.astype(float), b.astype(float), stride, dilation, pads)
    assert worst(trace.output, z) < 1e-12
    R = rng.normal(size=z.shape)
    s = R / (z + 1e-7)
    expected = a * naive.conv_transpose(s, w.astype(float), height, width, stride, dilation, pads)
    assert worst(lrp.run_backward(plan, trace, R), expected) < 1e-9


# --- worked by hand ---------------------------------------------------------------------------------------------------


def one_dense(weights, bias, rule, a, R):
    """Relevance of the inputs of one dense unit, as Python fractions would have it."""
    model = chain((len(weights),), [dense("out", np.array(weights)[:, None], [bias], "linear")])
    composite = Composite("one", ((LINEAR, rule),), "logit", "test")
    plan = nplrp.make_plan(model, composite, "float64")
    trace = lrp.run_forward(plan.steps, np.array([a], float))
    return lrp.run_backward(plan, trace, np.array([[R]], float))[0].tolist()


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        # W = (2, -1), b = 1/2, a = (1, 1): z = 3/2, z+ = 5/2
        (Rule("epsilon", epsilon=0.0), (Fraction(2), Fraction(-1))),
        (Rule("epsilon", epsilon=0.5), (Fraction(2) * Fraction(3, 4), Fraction(-1) * Fraction(3, 4))),
        (Rule("epsilon", epsilon=0.5, bias=False), (Fraction(2), Fraction(-1))),
        (Rule("zplus", epsilon=0.0), (Fraction(6, 5), Fraction(0))),
        (Rule("zplus", epsilon=0.5), (Fraction(1), Fraction(0))),
        (Rule("zplus", epsilon=0.0, bias=False), (Fraction(3, 2), Fraction(0))),
    ],
)
def test_two_weights_by_hand(rule, expected):
    assert one_dense((2, -1), 0.5, rule, (1, 1), 1.5) == pytest.approx([float(v) for v in expected], rel=1e-15)


def test_epsilon_takes_the_sign_of_z_or_not():
    # W = (1, -3), b = 0, a = (1, 1): z = -2, R = -2
    signed = one_dense((1, -3), 0, Rule("epsilon", epsilon=0.5), (1, 1), -2)
    unsigned = one_dense((1, -3), 0, Rule("epsilon", epsilon=0.5, stabiliser="plus"), (1, 1), -2)
    assert signed == pytest.approx([4 / 5, -12 / 5], rel=1e-15)
    assert unsigned == pytest.approx([4 / 3, -12 / 3], rel=1e-15)


def test_zplus_splits_inputs_by_sign():
    # W = (1, -2), b = 1/2, a = (-1, 2): a+ w+ + a- w- = 0; the unit has no positive contribution, so nothing passes
    assert one_dense((1, -2), 0.5, Rule("zplus", epsilon=0.0), (-1, 2), -4.5) == [0, 0]
    # a = (-1, -2): a- w- = 4, b+ = 1/2 -> R2 = 4 / 4.5 * R
    assert one_dense((1, -2), 0.5, Rule("zplus", epsilon=0.0), (-1, -2), 9) == pytest.approx([0, 8], rel=1e-15)


# --- start and target -------------------------------------------------------------------------------------------------


def test_starts():
    model, x = small_vgg(), images(6, 2, (8, 8, 3))
    everything = nplrp.explain(model, x, "notebook", dtype="float64")
    assert everything.targets is None
    assert np.allclose(everything.relevances["predictions"], everything.output, rtol=0, atol=0)
    assert everything.relevances["predictions"].sum(axis=1) == pytest.approx([1, 1], rel=1e-14)
    top = nplrp.explain(model, x, "zplus", dtype="float64")
    assert top.targets.tolist() == top.logits.argmax(axis=1).tolist()
    assert top.ledger.start == pytest.approx(top.logits.max(axis=1), rel=1e-15)
    parts = [nplrp.explain(model, x, "notebook", target=k, dtype="float64").relevance for k in range(5)]
    assert worst(sum(parts), everything.relevance) < 1e-13


@pytest.mark.parametrize("start", STARTS)
def test_a_start_overwrites_no_output(start):
    """Also where a layer below is as large as the logits, and finds their memory free."""
    rng = np.random.default_rng(29)
    layers = [dense(name, random_kernel(rng, 5, 5), rng.normal(size=5), "relu") for name in ("a", "b")]
    model = chain((5,), [*layers, dense("out", random_kernel(rng, 5, 5), rng.normal(size=5), "linear")])
    x = rng.normal(size=(3, 5))
    for _ in range(2):
        e = nplrp.explain(model, x, "zplus", dtype="float64", start=start)
        assert np.array_equal(e.logits, nplrp.forward(model, x, "float64")["out"])
        assert np.array_equal(e.output, e.logits)


def test_a_target_for_each_image():
    model, x = small_vgg(), images(7, 3, (8, 8, 3))
    several = nplrp.explain(model, x, "zplus", target=[4, 0, 2])
    for i, target in enumerate([4, 0, 2]):
        assert np.array_equal(several.relevance[i], nplrp.explain(model, x[i : i + 1], "zplus", target=target).relevance[0])


def test_of_equal_logits_the_first_is_explained():
    rng = np.random.default_rng(26)
    kernel = random_kernel(rng, 4, 5)
    kernel[:, 3] = kernel[:, 1] = np.abs(kernel).max()
    model, x = chain((4,), [dense("logits", kernel, None, "linear")]), np.ones((2, 4))
    assert nplrp.explain(model, x, "zplus").targets.tolist() == [1, 1]
    assert nplrp.explain(model, x, "zplus", target="top-2").targets.tolist() == [1, 3, 1, 3]
    assert [label.unit for label in outputs.top_labels(model, x, 2)[1]] == [1, 3]


def test_predictions_are_an_explanations_labels():
    model, x = small_vgg(), images(27, outputs.CHUNK + 2, (8, 8, 3))
    assert outputs.top_labels(model, x, 3) == nplrp.explain(model, x).labels(3)
    assert outputs.top_labels(model, x, 5, "float64") == nplrp.explain(model, x, dtype="float64").labels()


def test_labels():
    explanation = nplrp.explain(small_vgg(), images(8, 2, (8, 8, 3)))
    labels = explanation.labels(top=3)
    assert [len(each) for each in labels] == [3, 3]
    assert [label.score for label in labels[0]] == sorted(explanation.output[0], reverse=True)[:3]
    assert labels[0][0].unit == explanation.output[0].argmax()


def test_memory_is_used_again_and_results_are_not_overwritten():
    model, x = small_vgg(), images(16, 3, (8, 8, 3))
    first = nplrp.explain(model, x, "alpha_beta")
    kept = [array.copy() for array in (first.relevance, first.output, first.logits)]
    for composite in ("notebook", "gamma", "alpha_beta"):
        nplrp.explain(model, -x, composite)
    for array, copy in zip((first.relevance, first.output, first.logits), kept, strict=True):
        assert np.array_equal(array, copy)
    assert np.array_equal(nplrp.explain(model, x, "alpha_beta").relevance, first.relevance)
    assert len(model.kept.workspaces) == 1


def two_convs():
    """A network whose convolutions run by Winograd tiles and make their weights on the fly."""
    rng = np.random.default_rng(18)
    layers = [conv(f"conv{i}", random_kernel(rng, 3, 3, 64, 64)) for i in range(2)]
    return chain((12, 12, 64), [*layers, plain("mean", "global_avgpool"), dense("logits", random_kernel(rng, 64, 3), activation="linear")])


@pytest.mark.parametrize("composite", ["epsilon", "zplus", "alpha_beta"])
@pytest.mark.parametrize("sets", [0, 1, 3, 99])
def test_weights_kept_from_the_second_call_on_change_no_bit(composite, sets):
    model, x = two_convs(), images(19, 3, (12, 12, 64))
    size = 4 * 36 * (64 * 64 + 4 * 16)  # of one convolution's transformed weights, gaps between the matrices included
    room = model.kept.room
    room.size = sets * size
    first = nplrp.explain(model, x, composite).relevance
    steps = nplrp.make_plan(model, composite).steps

    def held():
        return sum(each.size for step in steps for each in step.prepared.values() if isinstance(each, Hold))

    assert held() == 0 or composite == "alpha_beta"  # whose parts share weights within one pass
    for _ in range(3):
        assert np.array_equal(nplrp.explain(model, x, composite).relevance, first)
    kept = [each.weights.blocks.nbytes for step in steps for each in step.prepared.values() if hasattr(each, "weights")]
    assert held() == sum(kept) <= room.size
    assert (held() > 0) == (sets > 0)
    for step in steps:
        step.prepared.clear()
    assert room.take(room.size)  # all of it is free again
    assert np.array_equal(nplrp.explain(model, x, composite).relevance, first)


def test_a_models_room_is_given_and_handed_on():
    """With room for one of the sets of a model's weights, that many are kept; copies have it too, and kept ones of their own."""
    x, size = images(19, 1, (12, 12, 64)), 4 * 36 * (64 * 64 + 4 * 16)

    def held(model):
        for _ in range(3):
            nplrp.explain(model, x, "epsilon")
        return sum(
            each.size for step in nplrp.make_plan(model, "epsilon").steps for each in step.prepared.values() if isinstance(each, Hold)
        )

    one = replace(two_convs(), room=size)
    assert [held(each) for each in (one, replace(one), pickle.loads(pickle.dumps(one)))] == 3 * [size]
    assert [held(replace(one, room=n)) for n in (0, size - 1, 2 * size, 10**12)] == [0, 0, 2 * size, 4 * size]
    assert nplrp.load("demo", room=5).kept.room.size == 5
    for wrong in (-1, 1.5, None, True, "1 GB"):
        with pytest.raises(ModelError, match=r"room is .*, expected a number of bytes, 0 or more"):
            replace(one, room=wrong)
        with pytest.raises(WeightsError, match=r"room is .*, expected a number of bytes, 0 or more"):
            nplrp.load("demo", room=wrong)


def test_threads_share_a_model_that_begins_to_keep_weights():
    model, x = two_convs(), images(20, 4, (12, 12, 64))
    alone = [nplrp.explain(two_convs(), x[i : i + 1], "zplus").relevance for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: nplrp.explain(model, x[i % 4 : i % 4 + 1], "zplus").relevance, range(16)))
    for i, found in enumerate(together):
        assert np.array_equal(found, alone[i % 4])


def test_a_pass_that_fails_leaves_weights_that_are_right(monkeypatch):
    """Kernels wait until a pass is noted down; weights that others may use by then don't."""
    model, x = two_convs(), images(21, 1, (12, 12, 64))
    right = nplrp.explain(two_convs(), x, "epsilon").relevance

    def no_memory(*arguments):
        raise MemoryError

    with monkeypatch.context() as patch:
        patch.setattr(fused.layers, "activate", no_memory)
        patch.setattr(fused, "_division", no_memory)
        for _ in range(2):
            with pytest.raises(MemoryError):
                nplrp.explain(model, x, "epsilon")
    for _ in range(3):
        assert np.array_equal(nplrp.explain(model, x, "epsilon").relevance, right)


def test_models_and_explanations_go_to_other_processes():
    model, x = two_convs(), images(22, 2, (12, 12, 64))
    for _ in range(3):
        explanation = nplrp.explain(model, x, "epsilon")
    twice = pickle.loads(pickle.dumps((explanation, model)))
    assert len(pickle.dumps(model)) < 2 * sum(a.nbytes for layer in model for a in layer.arrays.values())  # without prepared weights
    assert np.array_equal(twice[0].relevances["conv0"], explanation.relevances["conv0"])
    for again in (twice[1], twice[0].model):
        assert again.content_hash == model.content_hash
        assert np.array_equal(nplrp.explain(again, x, "epsilon").relevance, explanation.relevance)


def test_threads_share_a_model():
    model, x = small_vgg(), images(17, 4, (8, 8, 3))
    alone = [nplrp.explain(model, x[i : i + 1], "zplus").relevance for i in range(4)]
    with ThreadPoolExecutor(4) as pool:
        together = list(pool.map(lambda i: nplrp.explain(model, x[i % 4 : i % 4 + 1], "zplus").relevance, range(32)))
    for i, found in enumerate(together):
        assert np.array_equal(found, alone[i % 4])


def test_no_images_give_empty_results():
    explanation = nplrp.explain(small_vgg(), np.zeros((0, 8, 8, 3)))
    assert explanation.relevance.shape == (0, 8, 8, 3)
    assert explanation.output.shape == (0, 5)
    assert explanation.relevances["fc1"].shape == (0, 7)
    assert nplrp.forward(small_vgg(), np.zeros((0, 8, 8, 3)))["block2_pool"].shape == (0, 2, 2, 6)


def test_a_network_of_every_kind_of_layer():
    """All kinds run in one chain, and LRP-0 without bias conserves the logit through them."""
    rng = np.random.default_rng(9)
    layers = [
        plain("input_1", "input"),
        plain("zero_padding", "pad", pads=(1, 0, 2, 1)),
        conv("conv1", random_kernel(rng, 3, 2, 3, 6), None, "linear", Window((3, 2), (2, 1), (1, 2), "valid")),
        plain("relu1", "activation", "relu"),
        plain("dropout", "identity"),
        pool("average", "avgpool", Window((3, 2), (2, 2), padding="same")),
        conv("conv2", random_kernel(rng, 1, 1, 6, 8)),
        pool("pool", "maxpool", Window((3, 3), (1, 1), padding="same")),
        pool("global_average", "global_avgpool"),
        dense("fc", random_kernel(rng, 8, 5)),
        dense("logits", random_kernel(rng, 5, 4), None, "linear"),
        plain("softmax", "activation", "softmax"),
    ]
    model = chain((9, 10, 3), layers)
    x = images(10, 2, (9, 10, 3))
    rules = Composite("lrp0", ((LINEAR, Rule("epsilon", epsilon=0.0)), (POOL, Rule("winner"))), "logit", "test")
    explanation = nplrp.explain(model, x, rules, dtype="float64")
    assert explanation.output.sum(axis=1) == pytest.approx([1, 1], rel=1e-14)
    assert explanation.relevance.sum(axis=(1, 2, 3)) == pytest.approx(explanation.logits.max(axis=1), rel=1e-12)
    assert set(explanation.relevances) == {"input", *(layer.name for layer in layers)}


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((8, 8, 3)), r"shape \(8, 8, 3\).*add the batch axis with x\[None\]"),
        (np.zeros((1, 9, 8, 3)), r"\(1, 9, 8, 3\).*takes \(n, 8, 8, 3\)"),
        (np.zeros((1, 8, 8, 3), complex), "dtype complex128, expected float32 or float64"),
        (np.array(["dog.jpg"]), "nplrp.preprocess"),
    ],
)
def test_inputs_that_do_not_fit(x, message):
    with pytest.raises(ModelError, match=message):
        nplrp.explain(small_vgg(), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_a_bad_number_in_the_input_is_named(bad):
    x = images(11, 2, (8, 8, 3))
    x[1, 2, 3, 0] = bad
    with pytest.raises(NumericsError, match=r"the input: (nan|-?inf) at image 1, unit \(2, 3, 0\)"):
        nplrp.explain(small_vgg(), x)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_bad_weight_is_named(bad):
    model = small_vgg()
    model["fc1"].arrays["kernel"][3, 2] = bad
    with pytest.raises(NumericsError, match=r"layer 'fc1': kernel\[3, 2\] is (nan|inf)"):
        nplrp.explain(model, images(12, 1, (8, 8, 3)))


@pytest.mark.parametrize("sign", [1, -1])
def test_an_overflow_stops_with_the_layer_and_unit(sign):
    model = chain((2,), [dense("first", [[1e30], [0]], None), dense("second", [[sign * 1e30, 0]], None), dense("out", [[1], [1]], None)])
    with pytest.raises(NumericsError, match=r"layer 'second': -?inf at image 0, unit 0"):
        nplrp.explain(model, np.array([[1.0, 1.0]]))
    assert np.isfinite(nplrp.explain(model, np.array([[1.0, 1.0]]), dtype="float64").output).all()


@pytest.mark.parametrize(
    "ask",
    [
        lambda model, x: nplrp.explain(model, x, "zplus"),
        lambda model, x: list(nplrp.explain_each(model, x, ["epsilon", "zplus"])),
        lambda model, x: nplrp.explain(model, x, "epsilon", target="top-1"),
        nplrp.logits,
        nplrp.predict,
        nplrp.forward,
    ],
)
def test_an_image_is_named_by_its_number_among_all(ask):
    model = chain((2,), [dense("first", [[1e30], [0]], None), dense("second", [[1e30, 0]], None), dense("out", [[1], [1]], None)])
    x = np.zeros((20, 2))
    x[13] = 1
    with pytest.raises(NumericsError, match=r"layer 'second': -?inf at image 13, unit 0") as caught:
        ask(model, x)
    assert str(pickle.loads(pickle.dumps(caught.value))) == str(caught.value)


def test_an_image_is_named_by_its_number_whichever_class_it_is_of():
    """Each class of a sigmoid unit has its own side of the network, on which its images run."""
    model = chain((2,), [dense("dead", [[1, 1], [1, -1]], [0, -1.0], "linear"), dense("out", [[1], [1]], None, "sigmoid")])
    rules = Composite("unsigned", ((LINEAR, Rule("epsilon", epsilon=1.0, stabiliser="plus")),), "logit", "test")
    x = np.tile([3.0, 0.5], (12, 1))
    x[10] = 1
    with pytest.raises(NumericsError, match=r"s = R / z is -?inf at image 10, unit 0 .*denominator 0"):
        nplrp.explain(model, x, rules, target=[i % 2 for i in range(12)])


def test_nothing_divided_by_nothing_is_named():
    """A dead unit with z = -eps under the unsigned epsilon: 0/0 in the document, an error that names it here."""
    model = chain((2,), [dense("dead", [[1, 1], [1, -1]], [0, -1.0], "linear"), dense("out", [[1], [1]], None, "linear")])
    rules = Composite("unsigned", ((LINEAR, Rule("epsilon", epsilon=1.0, stabiliser="plus")),), "logit", "test")
    with pytest.raises(NumericsError, match=r"layer 'dead', rule epsilon.*: s = R / z is -?inf at image 0, unit 1 .*denominator 0"):
        nplrp.explain(model, np.array([[1.0, 1.0]]), rules)


def test_unknown_names():
    model, x = small_vgg(), images(13, 1, (8, 8, 3))
    with pytest.raises(RuleError, match=r"no composite 'lrp'; did you mean 'lrp\.z'"):
        nplrp.explain(model, x, "lrp")
    with pytest.raises(RuleError, match="no dtype 'float16' to compute in; expected float32 or float64"):
        nplrp.explain(model, x, dtype="float16")
    with pytest.raises(RuleError, match="no dtype 'number'"):
        nplrp.explain(model, x, dtype="number")
    with pytest.raises(RuleError, match="no algorithm 'fast'"):
        nplrp.explain(model, x, algorithm="fast")
    with pytest.raises(RuleError, match=r"rule epsilon.*doesn't fit layer 'block1_pool' of kind 'maxpool'"):
        nplrp.explain(model, x, Composite("bad", ((("conv", "dense", "maxpool"), Rule("epsilon")),), "logit", "test"))
    with pytest.raises(RuleError, match="no rule for layer 'block1_pool' of kind 'maxpool'"):
        nplrp.explain(model, x, Composite("short", ((("conv", "dense"), Rule("epsilon")),), "logit", "test"))


def everywhere(rule):
    """Return the composite that has a rule wherever it fits: also where joins read numbers of both signs."""
    return Composite(
        "everywhere", ((tuple(rule.fits), rule), (("conv", "dense", "scale", "avgpool"), Rule("epsilon")), (("maxpool",), None))
    )


def joins_of_both_signs():
    """[n, 6, 6, 3] -> [n, 4]: two convolutions without activation, and every join of theirs."""
    rng = np.random.default_rng(5)
    window = Window((3, 3), padding="same")
    layers = [
        replace(conv("left", random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4), "linear", window), inputs=("input",)),
        replace(conv("right", random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4), "linear", window), inputs=("input",)),
        *(plain(kind, kind, inputs=("left", "right")) for kind in ("add", "average", "subtract", "maximum", "multiply")),
        plain("concat", "concatenate", inputs=("add", "average", "subtract", "maximum", "multiply"), options={"axis": 2}),
        pool("pool", "avgpool"),
        plain("flatten", "flatten"),
        dense("predictions", random_kernel(rng, 3 * 3 * 20, 4), rng.normal(size=4), "linear"),
    ]
    return chain((6, 6, 3), layers, "joins")


RULES_EVERYWHERE = (
    *(Rule(name) for name in RULES if name != "zbox"),
    *(Rule("alpha_beta", alpha=alpha) for alpha in (0, 0.5, 1, 3)),
    *(Rule(name, bias=bias) for name in ("zplus", "alpha_beta", "epsilon") for bias in ("raw", "none")),
    *(Rule(name, split=False) for name in ("zplus", "alpha_beta", "gamma")),
    *(Rule("zplus", stabiliser=stabiliser) for stabiliser in ("sign", "clip", "rms")),
)


@pytest.mark.parametrize("make", [small_resnet, joins_of_both_signs])
@pytest.mark.parametrize("rule", RULES_EVERYWHERE, ids=str)
def test_every_rule_wherever_it_fits_is_the_page(rule, make):
    """Rules of two terms were run as if they had one where a join reads numbers of both signs."""
    model = make()
    x = images(1, 2, model.input_shape)
    plan = nplrp.make_plan(model, everywhere(rule), "float64")
    if not np.abs(lrp.run_backward(plan, lrp.run_forward(plan.steps, x), np.ones((2, model.output_shape[0])))).any():
        pytest.skip("no relevance arrives")
    laws.fused_is_the_page(model, x, everywhere(rule), tolerance=1e-11)
    laws.batch_is_singles(model, x, everywhere(rule))
