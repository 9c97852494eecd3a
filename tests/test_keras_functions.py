"""What Keras and TensorFlow have as functions rather than layers: gates, flips, quotients, curves, written as configurations by hand."""

import math

import numpy as np
import pytest

import nplrp
from nplrp import layers
from nplrp.errors import NplrpError
from nplrp.layers.activations import sparsemax
from nplrp.plan import make_steps
from tests.keras_files import functional, write_by_name

SHAPE = (4, 5, 6)
X = np.random.default_rng(0).normal(0, 2, (2, *SHAPE))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def erf(x):
    return np.vectorize(math.erf)(x)


def loaded(tmp_path, kind, options, keywords=None, dialect=3, shape=SHAPE):
    """Write a model of one layer, used once, and load it."""
    use = (["x"], keywords or {})
    return nplrp.load(write_by_name(tmp_path / "m.h5", {}, config=functional({"f": (kind, options, use)}, ["f"], dialect, shape=shape)))


def run(model, x=X):
    return nplrp.forward(model, x, "float64")[model.layers[-1].name]


def halves(x, axis):
    a, b = np.split(x, 2, axis)
    return a * sigmoid(b)


@pytest.mark.parametrize(
    ("kind", "options", "expected"),
    [
        ("Glu", {"axis": -1}, lambda x: halves(x, -1)),
        ("Glu", {"axis": 1}, lambda x: halves(x, 1)),
        ("Flip", {"axis": -1}, lambda x: x[..., ::-1]),
        ("Flip", {"axis": [1, 2]}, lambda x: x[:, ::-1, ::-1]),
        ("Flip", {"axis": 3}, lambda x: x[..., ::-1]),
        ("Erf", {}, erf),
    ],
)
def test_operations_of_keras_3(tmp_path, kind, options, expected):
    np.testing.assert_allclose(run(loaded(tmp_path, kind, options)), expected(X), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize(
    ("function", "keywords", "expected"),
    [
        ("reverse", {"axis": [-1]}, lambda x: x[..., ::-1]),
        ("math.divide_no_nan", {"y": 4.0}, lambda x: x / 4),
        ("math.erf", {}, erf),
    ],
)
def test_functions_of_tensorflow(tmp_path, function, keywords, expected):
    found = run(loaded(tmp_path, "TFOpLambda", {"function": function}, keywords, 2))
    np.testing.assert_allclose(found, expected(X), rtol=1e-12, atol=1e-15)


def test_flips_belong_to_the_picture(tmp_path):
    """RGB to BGR by any of its names: zB's box goes with the channels."""
    model = loaded(tmp_path, "Flip", {"axis": -1}, shape=(8, 8, 3))
    ends = np.stack([np.broadcast_to(each, (8, 8, 3)) for each in ((1.0, 2, 3), (4.0, 5, 6))])
    found = {0: np.ascontiguousarray(ends)}
    for i, step in enumerate(make_steps(model, np.dtype("float64"), "auto", True)):
        found[i + 1] = layers.ends(step, layers.gather(step, found))
    assert np.array_equal(found[max(found)], ends[..., ::-1])


def test_sparsemax_is_what_keras_gives():
    """tau is (sum of the prefix sums of the k largest numbers - 1) / k; for k = 1 that is the paper's. Real Keras: tests/data/zoo."""
    for dtype in (np.float32, np.float64):
        found = sparsemax(np.array([[5, 1, 0], [0.5, 0.25, -3], [0, 0, 0]], dtype))
        assert found.dtype == dtype
        # k = 2: 0.5 > 0.25 > -3, prefix sums 0.5 and 0.75, tau = (1.25 - 1) / 2; k = 3: tau = -1 / 3
        np.testing.assert_allclose(found, [[1, 0, 0], [0.375, 0.125, 0], [1 / 3] * 3], rtol=1e-7)
    rng = np.random.default_rng(1)
    rows = rng.normal(0, 2, (50, 7))
    assert np.array_equal(sparsemax(rows), np.concatenate([sparsemax(row[None]) for row in rows]))


def test_sparsemax_is_a_score(tmp_path):
    x = X.reshape(2, -1)[:, :7]
    assert np.array_equal(run(loaded(tmp_path, "Activation", {"activation": "sparsemax"}, shape=(7,)), x), sparsemax(x))


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("Activation", {"activation": "glu"}, r"'glu' isn't supported; it halves the channels; use keras\.ops\.glu"),
        ("Activation", {"activation": "rellu"}, r"replace it by one of Keras's own: did you mean 'relu"),
        ("Glu", {"axis": 2}, "halves 5 places along axis=2, expected an even number"),
        ("Flip", {"axis": None}, "give it the axis of the channels"),
        ("TFOpLambda", {"function": "math.greater"}, r"it compares numbers; .* use the layer \(ReLU"),
        ("Lambda", {"function": {"class_name": "__lambda__"}}, "Python code, which isn't run; replace it by layers"),
    ],
)
def test_refusals_name_the_way_out(tmp_path, kind, options, message):
    with pytest.raises(NplrpError, match=message) as refused:
        loaded(tmp_path, kind, options, dialect=2 if kind == "TFOpLambda" else 3)
    assert "\n" not in str(refused.value)
    assert len(str(refused.value)) < 480
