"""Diagnosis: pieces give what whole layers give, fits find what was put in, a stranger's mistakes get their names, and noise gets none."""

import dataclasses
import itertools

import numpy as np
import pytest

from nplrp import golden
from nplrp.golden.candidate import Candidate
from nplrp.golden.diagnosis import Finding, rules, single
from nplrp.golden.diagnosis.cutting import cut_out
from nplrp.golden.diagnosis.fitting import fit
from nplrp.golden.diagnosis.matching import Target, nice
from nplrp.golden.diagnosis.reported import relations
from nplrp.golden.isolated import candidate_of, isolated_run, places_of
from tests import networks
from tests.golden import strangers


@pytest.fixture(scope="module")
def model():
    return strangers.square_vgg()


@pytest.fixture(scope="module")
def goldens(model):
    x = strangers.pictures(model.input_shape)
    return {name: golden.record(model, x, name, start="logit") for name in ("epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1")}


# --- pieces


@pytest.mark.parametrize("name", ["epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1"])
def test_a_piece_gives_the_numbers_of_the_whole(name, goldens, model):
    rng = np.random.default_rng(0)
    for at in places_of(goldens[name], model, "float64").values():
        whole = at.run()
        for _ in range(3):
            weight = np.zeros(at.a.shape)
            weight[tuple(rng.integers(0, n) for n in weight.shape)] = 1
            piece = cut_out(at, weight, 0.0, 6)
            found = piece.at.run()[piece.within]
            np.testing.assert_allclose(found, whole[piece.inside], rtol=1e-10, atol=1e-14 * np.abs(whole).max())
            assert piece.exact or piece.at.a.size < at.a.size


@pytest.mark.parametrize(
    ("stride", "padding", "size"), [((2, 2), "same", (3, 3)), ((2, 1), "valid", (5, 3)), ((1, 1), (0, 2, 1, 0), (3, 2))]
)
def test_pieces_of_convolutions_with_strides_and_odd_paddings(stride, padding, size):
    rng = np.random.default_rng(1)
    window = networks.Window(size, stride, padding=padding)
    kernel = networks.random_kernel(rng, *size, 3, 4)
    layers = [networks.conv("c", kernel, 0.3 * rng.normal(size=4), window=window), networks.plain("f", "flatten")]
    height = networks.chain((23, 19, 3), layers).output_shape[0]
    model = networks.chain((23, 19, 3), [*layers, networks.dense("d", networks.random_kernel(rng, height, 3), np.ones(3), "softmax")])
    recorded = golden.record(model, networks.images(3, 2, (23, 19, 3)), "epsilon_plus", start="logit")
    at = places_of(recorded, model, "float64")["c"]
    for y, x in ((0, 0), (22, 18), (11, 9), (0, 18)):
        weight = np.zeros(at.a.shape)
        weight[1, y, x] = 1
        piece = cut_out(at, weight, 0.0, 5)
        np.testing.assert_allclose(piece.at.run()[piece.within], at.run()[piece.inside], rtol=1e-9, atol=1e-15)


def test_a_piece_of_a_large_matrix_keeps_the_sums():
    rng = np.random.default_rng(2)
    layers = [networks.dense("fc", networks.random_kernel(rng, 3000, 8), rng.normal(size=8)), networks.dense("p", rng.normal(size=(8, 4)))]
    model = networks.chain((3000,), [layers[0], dataclasses.replace(layers[1], activation="softmax")])
    recorded = golden.record(model, rng.normal(size=(2, 3000)), "epsilon_alpha2_beta1", start="logit")
    at = places_of(recorded, model, "float64")["fc"]
    piece = cut_out(at, np.abs(at.run()), 0.0)
    assert not piece.exact and piece.at.a.shape[1] < 400
    for change in ({}, {"bias": lambda b: 2 * b}, {"times": np.square}):
        found, whole = rules.lines(piece.at, **change), rules.lines(at, **change)
        np.testing.assert_allclose(found[piece.within], whole[piece.inside], rtol=1e-9, atol=1e-12)


# --- fits


def test_fit_finds_what_was_put_in():
    rng = np.random.default_rng(3)
    x = rng.uniform(0.5, 2, size=50)
    theta = fit(lambda t: x / (x + t[0]), x / (x + 0.037), [[1e-6], [1.0]])
    assert abs(theta[0] - 0.037) < 1e-9
    theta = fit(lambda t: t[0] * x ** t[1], 3 * x**1.5, [[1.0, 1.0]])
    np.testing.assert_allclose(theta, [3, 1.5], rtol=1e-8)
    assert fit(lambda t: x + t[0], rng.normal(size=50) * 100, [[0.0]]) is None


def test_nice_numbers_are_the_shortest_that_work():
    assert nice(0.0370001, lambda v: abs(v - 0.037) < 1e-6) == 0.037
    assert nice(0.2499, lambda v: abs(v - 0.2499) < 1e-5) == 0.2499
    assert nice(1e-9, lambda v: True) == 0


def test_one_weight_of_two_by_hand():
    """z = 2 a1 - a2 with a = (1, 1): z = 1, R = (2, -1). With w1 = 3, z = 2 and R = (3/2, -1/2)."""
    layers = [networks.dense("d", [[2.0, 0.5], [-1.0, 0.5]], [0.0, 0.0], "linear")]
    model = networks.chain((2,), layers)
    recorded = golden.record(model, np.array([[1.0, 1.0]]), "epsilon(epsilon=0)", 0, start="one")
    at = places_of(recorded, model, "float64")["d"]
    np.testing.assert_allclose(at.run(), [[2, -1]])
    wrong = rules.lines(at, weight=lambda w: single.changed(w, (0, 0), 3.0))
    np.testing.assert_allclose(wrong, [[1.5, -0.5]])


def test_float32_weights_give_the_golden_values_and_the_names_of_float64_ones():
    """Dense weights stay in float32 (`layers.wide`): nothing that golden values are made of, or diagnosis, may be computed in it."""
    narrow = networks.with_weights_in(strangers.square_vgg(), np.float32)
    wide, x = networks.with_weights_in(narrow, np.float64), strangers.pictures(narrow.input_shape)
    mistakes = (
        {"weight": lambda w: w * (1 + 0.3 * (w > 0))},
        {"weight": lambda w: single.changed(w, (3, 2), 0.7)},
        {"bias": lambda b: 2 * b},
    )
    for name in ("wsquare", "gamma(gamma=0.3)"):
        told = []
        recorded = [golden.record(each, x, name, start="logit") for each in (narrow, wide)]
        for (path, one), (other_path, other) in zip(recorded[0].arrays(), recorded[1].arrays(), strict=True):
            assert path == other_path and one.tobytes() == other.tobytes(), path
        for model, each in zip((narrow, wide), recorded, strict=True):
            dense = [at for at in places_of(each, model, "float64").values() if at.step.kind == "dense"]
            assert {at.step.weight.dtype.itemsize for at in dense} == {4 if model is narrow else 8}
            for at, mistake in itertools.product(dense, mistakes):
                report = golden.check(each, candidate_of(at, rules.lines(at, **mistake)), mode="isolated", model=model)
                told.append(str(report))
        half = len(told) // 2
        assert told[:half] == told[half:]
        assert sum("matches" in each for each in told) >= len(told) // 2


# --- what is named


SOME = (
    "epsilon 0.037|epsilon subtracted|epsilon of deviations|absolute denominator|bias -1.0|bias shared|bias of one unit|no bias below|"
    "gamma 0.3125|alpha and beta|box|absolute weights|not times a|sums to 1|rows and columns|half None|last row|a border|one weight|"
    "a filter|padding off|TF32|ties all|by activation|forward weight|forward bias|leaky|mean kept|other class|start softmax"
)


@pytest.mark.parametrize("what", ["smallest", "overwritten"])
def test_windows_of_nine_places_over_four_channels(what):
    """There are as many places as the window has, not as many as there are channels."""
    model = strangers.NETWORKS["residual"]()
    recorded = golden.record(model, strangers.pictures(model.input_shape), "epsilon_plus", start="logit")
    wrong = strangers.run(model, recorded, ("stem_pool", what, None))
    report = golden.check(recorded, wrong, mode="local", model=model)
    words = {"smallest": "the smallest of a window", "overwritten": "overwritten"}[what]
    assert f'stem_pool matches "{words}' in report.diagnosis[0]


@pytest.mark.parametrize("name", [pytest.param("epsilon_plus", marks=pytest.mark.slow), "epsilon_gamma_box", "epsilon_alpha2_beta1"])
def test_a_strangers_mistakes_get_their_names(name, goldens, model):
    """A sample; docs/golden-diagnosis.md has all."""
    import re

    recorded, seen = goldens[name], 0
    right = strangers.run(model, recorded)
    for mode in ("local", "chained"):
        assert golden.check(recorded, right, mode=mode, model=model).passed
    only = {"epsilon_plus": "", "epsilon_gamma_box": "gamma|box|of one", "epsilon_alpha2_beta1": "alpha|below|of one|one weight"}[name]
    for mistake, words, _, wrong in strangers.cases("chain", model, recorded):
        told = f"{mistake[1]} {mistake[2]}"
        if not re.search(SOME, told) or not re.search(only, told) or strangers.same(wrong, right):
            continue
        report = golden.check(recorded, wrong, mode="local", model=model)
        if report.passed:
            report = golden.check(recorded, wrong, mode="chained", model=model)
        caught, placed, _, among, other, _ = strangers.judge(report, mistake, words, False)
        assert caught and placed and among and not other, f"{mistake}: {report.diagnosis}"
        seen += 1
    assert seen >= {"epsilon_plus": 30, "epsilon_gamma_box": 8, "epsilon_alpha2_beta1": 12}[name]


@pytest.fixture(scope="module")
def residual():
    model = strangers.NETWORKS["residual"]()
    return model, golden.record(model, strangers.pictures(model.input_shape), "epsilon_plus", start="logit")


@pytest.mark.parametrize(
    ("mistake", "name"),
    [
        (("add", "all to the first", None), "all of R to the first input alone"),
        (("add", "all to both", None), "all of R to every input"),
        (("add", "half to each", None), "half of R to each input, evenly"),
        (("add", "branches exchanged", None), "inputs exchanged: each gets another's share"),
        (("body1_conv", "norm's epsilon", 1e-5), "epsilon 1e-05 in the batch norm in body1_conv"),
        (("body1_conv", "norm's epsilon", 0.02), "epsilon 0.02 in the batch norm in body1_conv"),
        (("body1_conv", "norm not merged", None), "batch norm not merged: the layer's own weights and bias in body1_conv"),
    ],
)
def test_joins_and_merged_norms(mistake, name, residual):
    """What one input of a join is given may have many reasons: the other inputs' relevance tells which."""
    model, recorded = residual
    report = golden.check(recorded, strangers.run(model, recorded, mistake), mode="local", model=model)
    assert f'matches "{name}"' in report.diagnosis[0], str(report)


def test_what_a_clamp_cuts_off_is_told_as_open(goldens, model):
    """Under z+ a negative weight or bias is as good as 0: which it is, nothing tells."""
    recorded = goldens["epsilon_plus"]
    for mistake, name in (
        (("block2_conv1", "bias of one unit", ((0,), -0.45)), "bias[0] is 0 or less"),
        (("block2_conv1", "one weight", ((2, 1, 3, 0), -0.7)), "weight[2, 1, 3, 0] is 0 or less"),
    ):
        wrong = strangers.run(model, recorded, mistake)
        if not strangers.same(wrong, strangers.run(model, recorded)):
            assert f'matches "{name}' in golden.check(recorded, wrong, mode="local", model=model).diagnosis[0]


def test_a_join_of_which_one_input_was_told(residual):
    """Then what can't be told apart is named together, and nothing is left out for it."""
    model, recorded = residual
    wrong = strangers.run(model, recorded, ("add", "all to the first", None))
    first = recorded.inputs["add"][0]
    wrong = Candidate(
        {name: R for name, R in wrong.relevances.items() if name not in recorded.inputs["add"] or name == first}, wrong.activations
    )
    told = golden.check(recorded, wrong, mode="local", model=model).diagnosis[0]
    assert "all of R to every input" in told and "all of R to the first input alone" in told


def test_a_clip_that_nothing_is_beneath_is_not_called_another_rule(residual):
    model, _ = residual
    recorded = golden.record(model, strangers.pictures(model.input_shape), "epsilon(epsilon=0.25)", start="logit")
    wrong = strangers.run(model, recorded, ("predictions", "epsilon clips", 0.3))
    told = golden.check(recorded, wrong, mode="local", model=model).diagnosis[0]
    assert 'matches "divided by z, with no epsilon to be seen' in told and "a clip that no unit is beneath (at 5.09 or less)" in told, told


def test_noise_has_no_name(goldens, model):
    rng = np.random.default_rng(5)
    recorded = goldens["epsilon_plus"]
    single_run = isolated_run(recorded, model)
    for below, how in (("block1_pool", 1e-2), ("fc1", 1e-3), ("block1_conv1", 0.5)):
        R = single_run.relevances[below]
        wrong = Candidate({**single_run.relevances, below: (R * (1 + how * rng.normal(size=R.shape))).astype("f4")})
        report = golden.check(recorded, wrong, mode="isolated", model=model)
        assert "matches none of" in report.diagnosis[-1] and "tol away" not in report.diagnosis[-1], str(report)


def test_what_a_fault_of_the_forward_pass_does_to_relevance_is_not_blamed_on_a_rule(goldens, model):
    recorded = goldens["epsilon_plus"]
    wrong = strangers.run(model, recorded, ("block2_conv2", "forward without bias", None))
    report = golden.check(recorded, wrong, mode="chained", model=model)
    assert 'block2_conv2 matches "bias left out"' in report.diagnosis[1], str(report)
    assert len(report.diagnosis) == 2, str(report)
    assert "is right, given what the candidate has around it" in str(Finding("fc1", (), 0, 0.5))


def test_relations_are_told_with_their_numbers():
    rng = np.random.default_rng(6)
    right = rng.normal(size=(2, 6, 6, 3))

    def names(candidate, others=()):
        target = Target(candidate, right, np.full(right.shape, 1e-6), None, 1.0, False)
        return [h.name for h, values in relations(target, dict(others)) if target.fits(values)[0]]

    assert names(0.37 * right)[0] == "times 0.37"
    assert names(right / 36)[0] == "times 0.027777778 (1/36, a mean over pixels)"
    assert names(np.flip(right, 3))[0] == "channels reversed"
    assert names(right.swapaxes(1, 2)) == ["rows and columns exchanged"]
    assert names(right[::-1])[0] == "images of the batch in the opposite order"
    lost = right.copy()
    lost[:, 2:4, 1:3] = 0
    assert names(lost) == ["lost (0 there): rows 2 to 3, columns 1 to 2"]
    lost = right.copy()
    lost[..., 1] = 0
    assert names(lost) == ["lost (0 there): channel 1"]
    other = rng.normal(size=right.shape)
    assert names(other, {"the relevance of another layer: x": other}) == ["the relevance of another layer: x"]
    one = right.copy()
    one[1, 2, 3, 0] = 7
    assert names(one) == [f"1 element alone: (1, 2, 3, 0) is 7 for {right[1, 2, 3, 0]:.6g}"]
