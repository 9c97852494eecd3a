"""Metrics of any maps: laws, and numbers worked by hand."""

from fractions import Fraction

import numpy as np
import pytest

from nplrp.evaluate import (
    BASELINES,
    EvaluationError,
    baseline_values,
    complexity,
    faithfulness_correlation,
    local_lipschitz,
    max_sensitivity,
    pixel_flipping,
    sparseness,
    spearman,
    sufficiency,
)
from nplrp.evaluate.perturbing import ranks_in_order, regions
from nplrp.evaluate.randomising import average_ranks

WEIGHTS = np.array([3.0, -1.0, 2.0, 0.0])
X = np.array([[1.0, 2.0, 1.0, 4.0], [2.0, 1.0, 1.0, 1.0]])
TARGETS = np.array([1, 1])


def linear(x):
    """Two classes: 0, and w.x."""
    return np.stack([np.zeros(len(x)), x @ WEIGHTS], axis=1)


def test_flipping_a_linear_model_by_hand():
    """x = (1, 2, 1, 4), w = (3, -1, 2, 0): R = (3, -2, 2, 0); most relevant first are removed 0, 2, 3, 1: 3, 0, -2, -2, 0."""
    curves = pixel_flipping(linear, X[:1], X[:1] * WEIGHTS, TARGETS[:1], baseline=0.0)
    assert curves.scores.tolist() == [[3, 0, -2, -2, 0]]
    assert curves.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert curves.auc[0] == Fraction(1, 4) * (Fraction(3, 2) + 0 - 2 - 2 + 0)
    assert curves.aopc[0] == pytest.approx(float(Fraction(0 + 3 + 5 + 5 + 3, 5)), rel=1e-15)
    least = pixel_flipping(linear, X[:1], X[:1] * WEIGHTS, TARGETS[:1], baseline=0.0, order="lerf")
    assert least.scores.tolist() == [[3, 5, 5, 3, 0]]


def test_insertion_brings_back_what_deletion_takes():
    curves = pixel_flipping(linear, X[:1], X[:1] * WEIGHTS, TARGETS[:1], baseline=0.0, insert=True)
    assert curves.scores.tolist() == [[0, 3, 5, 5, 3]]


@pytest.mark.parametrize("order", ["morf", "lerf", "random"])
@pytest.mark.parametrize("insert", [False, True])
def test_a_constant_model_has_a_constant_curve(order, insert):
    curves = pixel_flipping(lambda x: np.full((len(x), 2), 0.25), X, X, TARGETS, order=order, insert=insert, baseline="mean")
    assert (curves.scores == 0.25).all()
    assert np.allclose(curves.auc, 0.25, rtol=1e-15)
    assert (curves.aopc == 0).all()


@pytest.mark.parametrize("step", [1, 2, 3, 4, 9])
def test_curves_end_with_everything_replaced(step):
    curves = pixel_flipping(linear, X, X, TARGETS, step=step, baseline=0.0)
    assert curves.shares[-1] == 1
    assert (curves.scores[:, -1] == 0).all()
    assert (curves.scores[:, 0] == X @ WEIGHTS).all()


def test_no_number_depends_on_the_neighbours():
    x = np.random.default_rng(0).normal(size=(5, 6, 6, 2))
    maps, targets = x.sum(-1), np.array([0, 1, 0, 1, 1])

    def predict(x):
        return np.stack([np.tanh(x).sum(axis=(1, 2, 3)), (x**2).mean(axis=(1, 2, 3))], axis=1)

    for order in ("morf", "random"):
        whole = pixel_flipping(predict, x, maps, targets, order=order, baseline="uniform", patch=2, step=2).scores
        for i in range(5):
            alone = pixel_flipping(
                predict, x[i : i + 1], maps[i : i + 1], targets[i : i + 1], order=order, baseline="uniform", patch=2, step=2
            )
            assert (alone.scores[0] == whole[i]).all()
    whole = faithfulness_correlation(predict, x, maps, targets, runs=7)
    for i in range(5):
        assert faithfulness_correlation(predict, x[i : i + 1], maps[i : i + 1], targets[i : i + 1], runs=7)[0] == whole[i]


def test_pixels_are_replaced_with_all_their_channels_and_values_alone():
    x = np.arange(1.0, 13.0).reshape(1, 2, 2, 3)
    seen = []

    def predict(x):
        seen.append(x.copy())
        return np.zeros((len(x), 1))

    pixel_flipping(predict, x, x.sum(-1), np.array([0]), baseline=0.0, step=1, most=1)
    assert seen[0][1].tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [0, 0, 0]]]
    seen.clear()
    pixel_flipping(predict, x, x, np.array([0]), baseline=0.0, step=1, most=1)
    assert seen[0][1].tolist() == [[[1, 2, 3], [4, 5, 6]], [[7, 8, 9], [10, 11, 0]]]


def test_regions():
    assert regions((5, 4, 1), 2)[..., 0].tolist() == [[0, 0, 1, 1], [0, 0, 1, 1], [2, 2, 3, 3], [2, 2, 3, 3], [4, 4, 5, 5]]
    assert regions((4, 5, 3), 4)[..., 2].tolist() == [[0, 0, 0, 1, 1]] * 4  # three columns are missing: one on the left
    assert regions((3,), 1).tolist() == [0, 1, 2]
    turns, count = ranks_in_order(np.array([[[[1.0], [1.0], [5.0]]]]), 2)
    assert count == 2
    assert turns[0, ..., 0].tolist() == [[1, 1, 0]]
    with pytest.raises(EvaluationError, match="no patches of 2"):
        regions((7,), 2)


def test_faithfulness_of_gradient_times_input_is_1_for_a_linear_model():
    found = faithfulness_correlation(linear, X, X * WEIGHTS, TARGETS, baseline=0.0, subset=2, runs=20)
    assert np.allclose(found, 1, atol=1e-12)
    assert np.allclose(faithfulness_correlation(linear, X, -X * WEIGHTS, TARGETS, baseline=0.0, subset=2, runs=20), -1, atol=1e-12)


def test_faithfulness_correlation_by_hand():
    """Sets {0}, {1}, {2} of x = (1, 2, 1, 4): relevance 1, 1, 4; lost 3, -2, 2: r = 3 / (sqrt(6) sqrt(14))."""
    found = faithfulness_correlation(
        linear, X[:1], np.array([[1.0, 1.0, 4.0, 9.0]]), TARGETS[:1], baseline=0.0, subsets=np.array([[0], [1], [2]])
    )
    assert found[0] == pytest.approx(3 / np.sqrt(6 * 14), rel=1e-14)
    assert np.isnan(faithfulness_correlation(linear, X[:1], np.ones((1, 4)), TARGETS[:1], baseline=0.0, subset=2, runs=5)).all()


def test_gini():
    assert sparseness(np.full((1, 3, 3), -2.0))[0] == 0
    for n in (2, 5, 100):
        one = np.zeros((1, n))
        one[0, n // 2] = -3
        assert sparseness(one)[0] == pytest.approx((n - 1) / n, rel=1e-14)
        assert complexity(one)[0] == 0
    assert sparseness(np.array([[1.0, -2.0, 3.0]]))[0] == pytest.approx(float(Fraction(2, 9)), rel=1e-15)  # (-2 + 0 + 6) / (3 * 6)
    assert complexity(np.ones((1, 7)))[0] == pytest.approx(np.log(7), rel=1e-14)
    assert np.isnan([sparseness(np.zeros((1, 4)))[0], complexity(np.zeros((1, 4)))[0]]).all()
    scaled = np.random.default_rng(0).normal(size=(3, 8))
    assert np.allclose(sparseness(scaled), sparseness(1e-9 * scaled), rtol=1e-12)  # of no unit


def test_sufficiency_by_hand():
    """Maps 0, 1, 2, 10 on a line: two are near if their distance is at most 6/10 of 10; classes a, a, b, b."""
    maps, classes = np.array([[0.0], [1.0], [2.0], [10.0]]), np.array([0, 0, 1, 1])
    assert np.array_equal(sufficiency(maps, classes), [1 / 2, 1 / 2, 0, np.nan], equal_nan=True)
    constant = np.concatenate([maps, np.ones((4, 1))], axis=1)
    assert np.array_equal(sufficiency(constant, classes), sufficiency(maps, classes), equal_nan=True)
    assert np.isnan(sufficiency(maps[:1], classes[:1])).all()


def test_a_linear_map_has_its_factor_as_lipschitz_constant():
    x = np.random.default_rng(1).normal(size=(3, 4, 4, 1))

    def explain(x):
        return 5 * x

    assert np.allclose(local_lipschitz(explain, x, explain(x), scale="none"), 5, rtol=1e-12)
    assert (local_lipschitz(np.ones_like, x, np.ones_like(x)) == 0).all()
    noise = np.zeros((2, 1, 4, 4, 1))
    noise[1] = 0.5
    found = max_sensitivity(explain, x, explain(x), noise=noise)
    assert np.allclose(found, 0.5 * 4 / np.sqrt((x**2).sum(axis=(1, 2, 3))), rtol=1e-12)
    assert np.isnan(max_sensitivity(lambda x: 0 * x, x, 0 * x)).all()


def test_ranks():
    assert average_ranks(np.array([[2.0, 1.0, 2.0, 5.0]])).tolist() == [[2.5, 1, 2.5, 4]]
    a = np.random.default_rng(0).normal(size=(2, 9))
    assert np.allclose(spearman(a, np.exp(a)), 1)
    assert np.allclose(spearman(a, -a), -1)
    assert np.isnan(spearman(a, np.ones_like(a))).all()
    assert spearman(np.array([[1.0, 2.0, 3.0]]), np.array([[1.0, 3.0, 2.0]]))[0] == pytest.approx(1 / 2)


@pytest.mark.parametrize("name", BASELINES)
def test_baselines_broadcast_and_depend_on_their_own_input_alone(name):
    x = np.random.default_rng(0).normal(size=(3, 8, 6, 3)).astype(np.float32)
    bounds = np.array([-1.0, -2.0, -3.0]), np.array([1.0, 1.0, 1.0])
    values = np.broadcast_to(baseline_values(name, x, bounds), x.shape)
    assert values.dtype == x.dtype
    for i in range(3):
        assert (np.broadcast_to(baseline_values(name, x[i : i + 1], bounds), (1, 8, 6, 3))[0] == values[i]).all()


def test_baselines_by_hand():
    x = np.array([[[[1.0], [3.0]], [[5.0], [7.0]]]])
    black, white = np.array([-1.0]), np.array([1.0])
    assert baseline_values("black", x, (black, white)).tolist() == [-1]
    assert baseline_values("mean", x).ravel().tolist() == [4]
    assert baseline_values("minimum", x).ravel().tolist() == [1]
    assert baseline_values("zero", x).tolist() == [0]
    noise = baseline_values("uniform", x, (black, white))
    assert noise.shape == (1, 2, 2, 1)
    assert -1 <= noise.min() < noise.max() <= 1
    assert np.allclose(baseline_values("blur", np.ones((1, 9, 9, 2))), 1)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"order": "mrof"}, "there is no order 'mrof'; did you mean 'morf'"),
        ({"baseline": "blakc"}, "there is no baseline 'blakc'; did you mean 'black'"),
        ({"baseline": "blur"}, "nothing to blur in a vector"),
        ({"baseline": np.nan}, "holds a NaN"),
        ({"baseline": np.zeros(3)}, "doesn't broadcast"),
        ({"step": 0}, "step is 0; expected a whole number >= 1"),
        ({"step": 1.5}, "step is 1.5"),
        ({"most": True}, "most is True"),
        ({"patch": 2}, "no patches"),
        ({"relevance": np.full((2, 4), np.nan)}, "holds a NaN"),
        ({"relevance": np.zeros((2, 3))}, r"shape \(2, 3\)"),
        ({"targets": np.array([1])}, "targets have shape"),
        ({"targets": np.array([1, 2])}, "there is a target 2, but predict gives 2 classes"),
        ({"predict": lambda x: np.zeros(len(x))}, "predict gave shape"),
    ],
)
def test_what_does_not_fit_is_told_in_a_line(change, message):
    arguments = {"predict": linear, "x": X, "relevance": X, "targets": TARGETS} | change
    with pytest.raises(EvaluationError, match=message):
        pixel_flipping(**arguments)
