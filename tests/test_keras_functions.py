"""What Keras and TensorFlow have as functions rather than layers: gates, flips, quotients, curves, written as configurations by hand."""

import json
import lzma
import math
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp import layers
from nplrp.errors import NplrpError
from nplrp.layers.activations import sparsemax
from nplrp.plan import make_steps
from tests.keras_files import functional, write_by_name

#: What Keras 2 saves of functions that it was called with, and what they give (tests/peers/keras2_functions.py).
KERAS2 = json.loads(lzma.decompress((Path(__file__).parent / "data" / "peers" / "keras2_functions.json.xz").read_bytes()))
SHAPE = (4, 5, 6)
X = np.random.default_rng(0).normal(0, 2, (2, *SHAPE))


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def erf(x):
    return np.vectorize(math.erf)(x)


def padded(x, sides, mode):
    return np.pad(x, ((0, 0), *sides), mode)


def mirrored(x):
    """Worked by hand: rows 2, 1 before the first, and the last but one and two behind the last; column 1 before the first."""
    return x[:, [2, 1, 0, 1, 2, 3, 2, 1]][:, :, [1, 0, 1, 2, 3, 4]]


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
        ("Sum", {"axis": [1, 2], "keepdims": False}, lambda x: x.sum((1, 2))),
        ("Sum", {"axis": 1, "keepdims": True}, lambda x: x.sum(1, keepdims=True)),
        ("Sum", {"axis": -1, "keepdims": False}, lambda x: x.sum(-1)),
        (
            "Pad",
            {"pad_width": [[0, 0], [3, 1], [0, 2], [1, 0]], "mode": "reflect"},
            lambda x: padded(x, ((3, 1), (0, 2), (1, 0)), "reflect"),
        ),
        ("Pad", {"pad_width": [[0, 0], [2, 2], [1, 0], [0, 0]], "mode": "reflect", "constant_values": None}, mirrored),
        (
            "Pad",
            {"pad_width": [[0, 0], [4, 1], [0, 0], [0, 0]], "mode": "symmetric"},
            lambda x: padded(x, ((4, 1), (0, 0), (0, 0)), "symmetric"),
        ),
        ("Pad", {"pad_width": [[0, 0], [0, 0], [9, 0], [0, 0]], "mode": "edge"}, lambda x: padded(x, ((0, 0), (9, 0), (0, 0)), "edge")),
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
        ("math.reduce_sum", {"axis": [1, 2], "keepdims": False}, lambda x: x.sum((1, 2))),
    ],
)
def test_functions_of_tensorflow(tmp_path, function, keywords, expected):
    found = run(loaded(tmp_path, "TFOpLambda", {"function": function}, keywords, 2))
    np.testing.assert_allclose(found, expected(X), rtol=1e-12, atol=1e-15)


#: Calls -> the layers that they are: the activation, or the kind where there is none.
READ = {
    "relu": "relu",
    "relu max_value=6": "relu(max_value=6.0)",
    "relu max_value=3": "relu(max_value=3.0)",
    "relu alpha": "leaky_relu(negative_slope=0.1)",
    "relu alpha max_value": "relu(max_value=2.0, negative_slope=0.1)",
    "relu alpha threshold": "relu(negative_slope=0.1, threshold=0.5)",
    "relu threshold": "relu(threshold=1.0)",
    "relu threshold max_value": "relu(max_value=3.0, threshold=1.0)",
    "relu all": "relu(max_value=2.0, negative_slope=0.1, threshold=0.5)",
    "tf relu": "relu",
    "tf relu6": "relu(max_value=6.0)",
    "tf leaky_relu": "leaky_relu",
    "tf leaky_relu alpha": "leaky_relu(negative_slope=0.3)",
    "backend relu": "leaky_relu",
    "elu": "elu",
    "elu alpha": "elu(alpha=0.5)",
    "selu": "selu",
    "gelu": "gelu",
    "gelu approximate": "gelu_tanh",
    "swish": "silu",
    "tf silu": "silu",
    "swish by hand": "silu",
    "sigmoid": "sigmoid",
    "tanh": "tanh",
    "hard_sigmoid": "hard_sigmoid_2",
    "softplus": "softplus",
    "softsign": "softsign",
    "exponential": "exponential",
    "mish": "mish",
    "clip_by_value": "relu(max_value=6.0)",
    "backend clip": "hard_tanh(high=2.0)",
    "maximum": "relu",
    "maximum turned": "relu",
    "minimum": "hard_tanh(low=-inf)",
    "maximum leaky": "leaky_relu(negative_slope=0.1)",
    "where leaky": "leaky_relu(negative_slope=0.1)",
    "gate of zeros and ones": "relu",
    "hard swish": "hard_silu",
    "hard swish, other order": "hard_silu",
    "hard sigmoid of 6": "hard_sigmoid",
    "gate of something else": "affine sigmoid multiply",
    "reversed": "affine",
    "softmax": "softmax",
    "tf softmax axis": "softmax",
    "log_softmax": "log_softmax",
}
REFUSED = {
    "tf silu beta": r"tf\.nn\.silu is called with beta=1\.5, which isn't supported; leave it out, or say the same by other functions",
    "abs": r"calls tf\.math\.abs, which isn't supported: it is a function of each number that isn't an activation",
    "square": r"calls tf\.math\.square, which .* use an activation in its place",
    "power": r"calls tf\.math\.pow, which .* use an activation in its place",
    "square root": r"calls tf\.math\.sqrt, which .* use an activation in its place",
    "step": r"calls tf\.math\.greater, which .*: it compares numbers; .* use the layer \(ReLU",
    "dead zone": r"calls tf\.math\.abs",
    "concatenated relu": r"calls tf\.compat\.v1\.nn\.crelu",
    "dropout": r"calls tf\.nn\.dropout",
}


def called_in_keras2(tmp_path, name):
    return nplrp.load(write_by_name(tmp_path / "m.h5", {}, config=KERAS2["calls"][name]["config"]))


def test_every_stored_call_is_held():
    assert set(READ) | set(REFUSED) == set(KERAS2["calls"])


@pytest.mark.parametrize("name", READ)
def test_calls_of_functions_in_keras_2(tmp_path, name):
    """However many layers Keras 2 saved a call as, it is one activation, and the numbers are Keras's."""
    model = called_in_keras2(tmp_path, name)
    assert " ".join(layer.kind if layer.activation == "linear" else layer.activation for layer in model) == READ[name]
    x, y = np.array([KERAS2["x"]]), np.array([KERAS2["calls"][name]["y"]])
    np.testing.assert_allclose(run(model, x), y, rtol=2e-6, atol=5e-7)


@pytest.mark.parametrize("name", REFUSED)
def test_calls_that_have_no_meaning_here(tmp_path, name):
    with pytest.raises(NplrpError, match=REFUSED[name]) as refused:
        called_in_keras2(tmp_path, name)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 480


def test_calls_between_stay_for_others(tmp_path):
    """The sigmoid of x * sigmoid(x) is read elsewhere too: both are there, and the gate is an activation of x."""
    calls = {
        "s": ("TFOpLambda", {"function": "math.sigmoid"}, ["x"]),
        "m": ("TFOpLambda", {"function": "math.multiply"}, ["x", "s"]),
        "y": ("TFOpLambda", {"function": "__operators__.add"}, ["m", "s"]),
    }
    model = nplrp.load(write_by_name(tmp_path / "m.h5", {}, config=functional(calls, ["y"], 2, shape=SHAPE)))
    reads = [(layer.activation, model.reads[layer.name]) for layer in model]
    assert reads == [("sigmoid", ["input"]), ("silu", ["input"]), ("linear", ["m", "s"])]
    np.testing.assert_allclose(run(model), X * sigmoid(X) + sigmoid(X), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("count", [3, 60])
def test_thresholds_are_told_from_what_is_near_them(tmp_path, count):
    """Near constants aren't taken for each other; in a graph of very many nothing is looked for among them."""
    calls = {}
    for i in range(count):
        before, top = f"y{i - 1}" if i else "x", 100 - i
        calls[f"r{i}"] = ("TFOpLambda", {"function": "nn.relu"}, [before])
        calls[f"y{i}"] = ("TFOpLambda", {"function": "clip_by_value"}, ([f"r{i}"], {"clip_value_min": 0.0, "clip_value_max": top + 0.5}))
    model = nplrp.load(write_by_name(tmp_path / "m.h5", {}, config=functional(calls, [f"y{count - 1}"], 2, shape=(3,))))
    found = run(model, np.array([[-1.0, 7.0, 1e4]]))
    np.testing.assert_array_equal(found, [[0, 7, 100.5 - (count - 1)]])


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
