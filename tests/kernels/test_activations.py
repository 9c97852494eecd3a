"""Activation functions: against their definitions in decimal numbers, against Keras and ONNX Runtime, and their laws.

@@TABLE@@
"""

import itertools
import json
import os
import subprocess
import sys
from decimal import Decimal, localcontext
from pathlib import Path

import numpy as np
import pytest

from nplrp.jit import Queue
from nplrp.kernels import activations as act
from nplrp.kernels import elementwise
from nplrp.kernels.activations import ACTIVATIONS, activate, derivative
from tests.kernels.activation_twins import TWINS, exact, in_ulps
from tests.kernels.guard import guarded, same_bits, untouched

ROOT = Path(__file__).parents[2]
DTYPES = (np.float32, np.float64)
#: Parameters that are tried beside the defaults.
OTHERS = {
    "relu": (
        {"max_value": 6},
        {"threshold": 1},
        {"threshold": -1},
        {"max_value": 3, "negative_slope": 0.5, "threshold": 1},
        {"max_value": 2, "threshold": -1},
        {"negative_slope": 0.1, "max_value": 6},
    ),
    "leaky_relu": ({"negative_slope": 0.3}, {"negative_slope": -0.5}),
    "elu": ({"alpha": 0.3}, {"alpha": -2}),
    "selu": ({"alpha": 0.7, "scale": 2.2},),
    "celu": ({"alpha": 0.3}, {"alpha": 7.1}),
    "clipped_line": ({"slope": 1 / 6}, {"slope": -0.3, "offset": 0.1}),
    "hard_tanh": ({"low": 0, "high": 6}, {"low": -0.3, "high": 12}),
    "hard_shrink": ({"threshold": 1.3},),
    "soft_shrink": ({"threshold": 1.3},),
    "threshold": ({"threshold": -0.7, "value": -20}, {"threshold": 0.5, "value": 2}),
    "squareplus": ({"b": 0}, {"b": 0.3}, {"b": 1e4}),
}
CASES = [(name, given) for name in ACTIVATIONS for given in ({}, *OTHERS.get(name, ()))]
EVERY_CASE = pytest.mark.parametrize(
    ("name", "given"), CASES, ids=lambda v: v if isinstance(v, str) else ",".join(map(str, v.values())) or "-"
)
EVERY_TYPE = pytest.mark.parametrize("dtype", DTYPES)
#: The zeros of derivatives: near them an error of some roundings of what cancels is many of the result's ulp.
ZEROS = {"silu": -1.278464542761074, "gelu": -0.751791524693564457, "gelu_tanh": -0.7524614220710162, "mish": -1.192431}
ULPS, ULPS_OF_DERIVATIVES = 4, 8


def run(function, name, given, x, nt=1, **options):
    row, out = ACTIVATIONS[name], guarded(x.shape, x.dtype)
    with untouched([out], [x]):
        function(row.number, row.with_defaults(**given), x, out, nt, **options)
    return out.copy()


def numbers(dtype, count, seed=0):
    """Return numbers of all sizes, most of them where functions bend, and what is special."""
    rng, limits = np.random.default_rng(seed), np.finfo(dtype)
    far = 130 if dtype == np.float32 else 800
    sizes = np.concatenate(
        [
            2.0 ** rng.uniform(limits.minexp - limits.nmant, limits.maxexp, count // 4),
            10.0 ** rng.uniform(-6, 1, count // 4),
            rng.uniform(0, 7, count // 4),
            rng.uniform(0, far, count // 4),
            [limits.max, limits.tiny, limits.smallest_subnormal, 1, 2, 2.5, 3, 6, 0.5, 0],
        ]
    )
    x = np.minimum(np.concatenate([sizes, -sizes]), float(limits.max)).astype(dtype)
    edges = np.array([-3, -2.5, -1, -0.5, 0.5, 1, 3, 6], dtype)
    return np.concatenate([x, np.nextafter(edges, dtype(np.inf)), np.nextafter(edges, dtype(-np.inf))])


def units(x):
    """Return the unit in the last place of each number."""
    limit = np.nextafter(np.finfo(x.dtype).max, x.dtype.type(0))
    return np.spacing(np.minimum(np.abs(x), limit))


def rounded(name, given, dtype):
    """Return the parameters as the kernels take them; selu takes a product of its two, rounded once."""
    parameters = ACTIVATIONS[name].with_defaults(**given)
    return parameters if name == "selu" else tuple(float(dtype(p)) for p in parameters)


@EVERY_TYPE
@EVERY_CASE
def test_within_4_ulp_of_exact(name, given, dtype):
    x, parameters = numbers(dtype, 60), rounded(name, given, dtype)
    y, slopes = run(activate, name, given, x), run(derivative, name, given, x)
    for v, got, slope in zip(x, y, slopes, strict=True):
        assert in_ulps(got, exact(name, v, parameters)) <= ULPS, v
        if name == "squareplus" and given.get("b") == 0 and v == 0:
            continue  # a kink at which Keras has NaN
        if name == "clipped_line" and min(abs(parameters[0] * v + parameters[1] - end) for end in (0, 1)) < 4 * np.finfo(dtype).eps:
            continue  # on which side of the kink it is may change with a rounding
        wanted = exact(name, v, parameters, slope=True)
        if name in ZEROS and abs(v - ZEROS[name]) < 0.5:
            assert abs(Decimal(float(slope)) - wanted) <= ULPS_OF_DERIVATIVES * Decimal(float(np.finfo(dtype).eps)) / 4, v
        else:
            assert in_ulps(slope, wanted) <= ULPS_OF_DERIVATIVES, v


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_float32_is_near_float64(name):
    """Which the test before holds to the exact value, at fewer numbers."""
    bits = np.arange(0, np.float32(np.inf).view(np.uint32), 4099, dtype=np.uint32).view(np.float32)
    some = np.random.default_rng(1).uniform(0, 110, 200_000).astype(np.float32)
    x = np.concatenate([bits, -bits, some, -some, some / 16, -some / 16])
    parameters = {p: float(np.float32(v)) for p, v in ACTIVATIONS[name].parameters.items()} if name != "selu" else {}
    for function, most in ((activate, ULPS), (derivative, ULPS_OF_DERIVATIVES)):
        got, wanted = run(function, name, parameters, x), run(function, name, parameters, x.astype(np.float64))
        with np.errstate(over="ignore"):
            nearest = wanted.astype(np.float32)
        unit = units(nearest).astype(np.float64)
        if function is derivative and name in ZEROS:
            unit[np.abs(x - ZEROS[name]) < 0.5] = np.finfo(np.float32).eps / 4
        with np.errstate(invalid="ignore"):
            error = np.where(got == nearest, 0, np.abs(got - wanted) / unit)
        assert error.max() <= most, x[error.argmax()]


@EVERY_CASE
def test_definition_and_derivative_agree(name, given):
    """The twins themselves: by a difference quotient in decimal numbers, away from kinks."""
    parameters, step = [Decimal(p) for p in ACTIVATIONS[name].with_defaults(**given)], Decimal(10) ** -30
    value, slope = TWINS[name]
    with localcontext(prec=120):
        for v in ("-7.3", "-2.2", "-1.1", "-0.83", "-0.21", "0.13", "0.91", "1.7", "2.3", "4.4", "7.9"):
            x = Decimal(v)
            quotient = (value(x + step, *parameters) - value(x - step, *parameters)) / (2 * step)
            assert abs(quotient - slope(x, *parameters)) < Decimal(10) ** -25, v


@EVERY_TYPE
def test_relu_is_the_older_one(dtype):
    x = numbers(dtype, 4000)
    out = np.empty_like(x)
    elementwise.relu(x, out)
    assert same_bits(run(activate, "relu", {}, x), out)
    assert same_bits(run(activate, "hard_tanh", {"low": 0, "high": np.inf}, x), out)


def at_kinks(name):
    """Return numbers, given parameters and derivatives there."""
    return {
        "relu": [({}, {0: 0}), ({"max_value": 6}, {0: 0, 6: 0}), ({"negative_slope": 0.5, "threshold": 1}, {1: 0})],
        "leaky_relu": [({}, {0: 0.2})],
        "elu": [({}, {0: 1}), ({"alpha": 0.5}, {0: 0.5})],
        "selu": [({}, {0: 1.0507009873554805})],
        "celu": [({}, {0: 1})],
        "hard_sigmoid": [({}, {-3: 0, 3: 0})],
        "hard_sigmoid_2": [({}, {-2.5: 0.2, 2.5: 0.2})],
        "clipped_line": [({"slope": 0.25}, {-2: 0.25, 2: 0.25})],
        "sparse_sigmoid": [({}, {-1: 0, 1: 0})],
        "hard_tanh": [({}, {-1: 1, 1: 1})],
        "hard_shrink": [({}, {-0.5: 0, 0.5: 0})],
        "soft_shrink": [({}, {-0.5: 0, 0.5: 0})],
        "threshold": [({}, {1: 0})],
        "hard_silu": [({}, {-3: 0, 3: 1})],
    }[name]


@EVERY_TYPE
@pytest.mark.parametrize(
    "name",
    [
        *("relu", "leaky_relu", "elu", "selu", "celu", "hard_sigmoid", "hard_sigmoid_2", "clipped_line", "sparse_sigmoid", "hard_tanh"),
        *("hard_shrink", "soft_shrink", "threshold", "hard_silu"),
    ],
)
def test_derivatives_at_kinks(name, dtype):
    for given, wanted in at_kinks(name):
        assert same_bits(run(derivative, name, given, np.array([*wanted], dtype)), np.array([*wanted.values()], dtype))


@EVERY_TYPE
@EVERY_CASE
def test_same_bits_alone_and_in_any_place(name, given, dtype):
    x = np.random.default_rng(2).permutation(np.resize(numbers(dtype, 2000), 20_011))
    for function in (activate, derivative):
        y = run(function, name, given, x)
        assert same_bits(run(function, name, given, x, nt=2), y)
        assert same_bits(run(function, name, given, x, nt=3), y)
        assert same_bits(run(function, name, given, x[7:-4].copy()), y[7:-4])
        for i in range(0, x.size, 997):
            assert same_bits(run(function, name, given, x[i : i + 1]), y[i : i + 1])
        there = x.copy()
        row = ACTIVATIONS[name]
        function(row.number, row.with_defaults(**given), there, there, 2)
        assert same_bits(there, y)
        assert same_bits(run(function, name, given, x, mark=True), y)
        assert same_bits(run(function, name, given, x[:60].reshape(3, 4, 5)), y[:60].reshape(3, 4, 5))
        assert run(function, name, given, x[:0]).size == 0


@EVERY_TYPE
@EVERY_CASE
def test_nan_stays_and_infinities_give_limits(name, given, dtype):
    limits = np.finfo(dtype)
    nan = np.array([np.nan, -np.nan], dtype)
    nan.view(f"i{nan.itemsize}")[0] |= 5  # with something in it
    ends = np.array([-limits.max, limits.max], dtype)
    x = np.concatenate([nan, np.array([-np.inf, np.inf], dtype), np.ones(40, dtype)])
    for function in (activate, derivative):
        y, last = run(function, name, given, x), run(function, name, given, ends)
        assert same_bits(y[:2], nan)
        last = np.where(np.abs(last) > limits.max / 100, np.copysign(np.inf, last), last)
        wanted = np.where(np.abs(last) < 1e-30, 0, last)  # 1 / max isn't quite 0
        np.testing.assert_array_equal(y[2:4], wanted)
        marked = run(function, name, given, x, mark=True)
        assert np.isnan(marked[:4]).all()
        assert same_bits(marked[:2], nan)
        assert same_bits(marked[4:], y[4:])
        assert not np.isnan(y[4:]).any()


@EVERY_TYPE
@EVERY_CASE
def test_bounds_and_monotony(name, given, dtype):
    row, x = ACTIVATIONS[name], np.sort(numbers(dtype, 40_000, 3))
    parameters, y = row.with_defaults(**given), run(activate, name, given, x)
    low, high = row.bounds(parameters, dtype)
    assert low <= y.min()
    assert y.max() <= high
    limit = float(np.finfo(dtype).max)
    assert y.min() <= max(low + 3e-7, -limit / 100), "the bound isn't tight"
    assert y.max() >= min(high - 3e-7, limit / 100), "the bound isn't tight"
    y = y[np.abs(y) < limit / 4]
    falls = np.maximum.accumulate(y) - y
    assert (falls <= 4 * units(y)).all() == row.monotone(parameters)


def test_table():
    names = [row.name for row in ACTIVATIONS.values()]
    assert names == list(ACTIVATIONS)
    assert [row.number for row in ACTIVATIONS.values()] == list(range(len(names)))
    assert set(names) == set(TWINS)
    assert {name for name, given in CASES if given} == {name for name, row in ACTIVATIONS.items() if row.parameters}
    kernels = [kernel.__wrapped__.__qualname__ for row in ACTIVATIONS.values() for kernel in (row.value, row.slope)]
    functions = {f for row in ACTIVATIONS.values() for f in (row.value, row.slope)}
    assert len(set(kernels)) == len(functions), "kernels of one name would find each other's code in the cache"
    assert ACTIVATIONS["relu"].with_defaults(max_value=6) == (6, 0, 0)
    with pytest.raises(TypeError, match="relu takes max_value, negative_slope, threshold; found alpha"):
        ACTIVATIONS["relu"].with_defaults(alpha=1)
    with pytest.raises(TypeError, match="tanh takes no parameters"):
        ACTIVATIONS["tanh"].with_defaults(alpha=1)


# What others compute.


def stored():
    with np.load(ROOT / "tests" / "data" / "peers" / "keras_activations.npz") as file:
        return {name: file[name] for name in file}


KERAS = stored()
FUNCTIONS = [name for name in KERAS if name.startswith("keras")]
#: Where our derivative isn't Keras's, and why, see `nplrp.kernels.activations`: {number: (ours, Keras's)}.
ODD = {
    "keras3 celu": {0: (1, 2)},
    "keras3 celu alpha=0.75": {0: (1, 2)},
    "keras3 relu max_value=5.5": {5.5: (0, 1)},
    "keras3 relu negative_slope=0.5 threshold=1 max_value=3": {3: (0, 1)},
    "keras2 relu negative_slope=0.5 threshold=1 max_value=3": {3: (0, 1)},
    "keras3 relu threshold=-1 max_value=2": {0: (0, 1), 2: (0, 1)},
}


@pytest.mark.parametrize("key", FUNCTIONS)
def test_as_keras(key):
    _, name, *given = key.split()
    given = ACTIVATIONS[name].parameters | {p: float(v) for p, v in (pair.split("=") for pair in given)}
    if name == "leaky_relu":
        given = {p: float(np.float32(v)) for p, v in given.items()}  # as TensorFlow rounds it, whatever x is
    about = 3e-9 if name == "gelu" else 5e-10 if name == "gelu_tanh" else 0  # so TensorFlow rounds their constants
    x, (y, slopes) = KERAS["x"], KERAS[key]
    close = (4e-15 + 2 * about) * (np.maximum(np.abs(x), 1) + np.abs(y))  # Keras's formulas cancel where ours don't
    assert (np.abs(run(activate, name, given, x) - y) <= close).all()
    got = run(derivative, name, given, x)
    for at, (ours, theirs) in ODD.get(key, {}).items():
        here = x == at
        assert here.any()
        assert (got[here] == ours).all()
        assert (slopes[here] == theirs).all()
        got[here] = theirs
    np.testing.assert_allclose(got, slopes, rtol=2e-14, atol=2e-15 + 3 * about)


def test_every_function_is_compared_with_keras():
    assert {key.split()[1] for key in FUNCTIONS} == set(ACTIVATIONS) - {"clipped_line"}
    assert len(FUNCTIONS) == 60


@pytest.mark.parametrize("case", ["all", "channels", "columns", "pixels"])
def test_prelu_as_keras(case):
    x, alpha, y, slope = (KERAS[f"prelu/{case}/{part}"] for part in ("x", "alpha", "y", "slope"))
    out = np.empty_like(x)
    act.prelu(x, alpha, out)
    np.testing.assert_array_equal(out, y)
    act.prelu_derivative(x, alpha, out)
    np.testing.assert_array_equal(out, slope)


def test_log_softmax_as_keras():
    z, g, y, back = (KERAS[f"log_softmax/{part}"] for part in ("z", "g", "y", "back"))
    out = np.empty_like(z)
    act.log_softmax(z, out)
    np.testing.assert_allclose(out, y, rtol=1e-14, atol=1e-14)
    act.log_softmax_back(y, g, out)
    np.testing.assert_allclose(out, back, rtol=1e-14, atol=1e-14)


#: ONNX operators: their attributes, our row, its parameters.
ONNX = [
    ("Relu", {}, "relu", {}),
    ("LeakyRelu", {}, "leaky_relu", {"negative_slope": 0.01}),
    ("LeakyRelu", {"alpha": 0.3}, "leaky_relu", {"negative_slope": 0.3}),
    ("Sigmoid", {}, "sigmoid", {}),
    ("HardSigmoid", {}, "clipped_line", {}),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, "clipped_line", {"slope": 1 / 6, "offset": 0.5}),
    ("HardSigmoid", {"alpha": 1 / 6, "beta": 0.5}, "hard_sigmoid", {}),
    ("HardSwish", {}, "hard_silu", {}),
    ("Elu", {}, "elu", {}),
    ("Elu", {"alpha": 1.5}, "elu", {"alpha": 1.5}),
    ("Selu", {}, "selu", {}),
    ("Selu", {"alpha": 1.5, "gamma": 2.0}, "selu", {"alpha": 1.5, "scale": 2}),
    ("Celu", {"alpha": 1.5}, "celu", {"alpha": 1.5}),
    ("Softplus", {}, "softplus", {}),
    ("Softsign", {}, "softsign", {}),
    ("Tanh", {}, "tanh", {}),
    ("Erf", {}, "erf", {}),
    ("Exp", {}, "exponential", {}),
    ("Gelu", {}, "gelu", {}),
    ("Gelu", {"approximate": "tanh"}, "gelu_tanh", {}),
    ("Mish", {}, "mish", {}),
    ("ThresholdedRelu", {}, "relu", {"threshold": 1}),
    ("ThresholdedRelu", {"alpha": 0.4}, "relu", {"threshold": 0.4}),
    ("Shrink", {"lambd": 0.7}, "hard_shrink", {"threshold": 0.7}),
    ("Shrink", {"lambd": 0.7, "bias": 0.7}, "soft_shrink", {"threshold": 0.7}),
]


@pytest.mark.parametrize(("operator", "attributes", "name", "given"), ONNX)
def test_as_onnx_runtime(operator, attributes, name, given):
    onnxruntime = pytest.importorskip("onnxruntime")
    from onnx import TensorProto, helper

    x = np.linspace(-8, 8, 333, dtype=np.float32)
    one, two = (helper.make_tensor_value_info(n, TensorProto.FLOAT, x.shape) for n in "xy")
    graph = helper.make_graph([helper.make_node(operator, ["x"], ["y"], **attributes)], "one", [one], [two])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=9)
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    np.testing.assert_allclose(run(activate, name, given, x), session.run(None, {"x": x})[0], rtol=2e-6, atol=1e-6)


# PReLU, and functions of rows.


@EVERY_TYPE
@pytest.mark.parametrize("shape", [(7,), (5, 7), (1, 7), (5, 1), (1, 1), (3, 5, 7), (3, 1, 7), (3, 5, 1), ()])
def test_prelu(shape, dtype):
    rng = np.random.default_rng(0)
    x, alpha = rng.standard_normal((80, 3, 5, 7)).astype(dtype), rng.standard_normal(shape).astype(dtype)
    x[x < -1.5] = 0
    x[-1, -1, -1, -2:] = np.inf, np.nan
    with np.errstate(invalid="ignore"):
        value = np.where(x > 0, x, alpha * x)
    slope = np.where(x > 0, 1, np.where(x < 0, alpha, np.where(x == 0, 0, x)))
    for function, wanted in ((act.prelu, value), (act.prelu_derivative, slope)):
        for nt in (1, 2, 3):
            out = guarded(x.shape, dtype)
            with untouched([out], [x, alpha]):
                function(x, alpha, out, nt)
            np.testing.assert_array_equal(out, wanted)
        for n in range(3):
            single = np.empty_like(x[n : n + 1])
            function(x[n : n + 1], alpha, single)
            assert same_bits(single, out[n : n + 1])
        there = x.copy()
        function(there, alpha, there, 2)
        assert same_bits(there, out)
        function(x, alpha, there, mark=True)
        assert np.isnan(there[-1, -1, -1, -2:]).all()
        assert same_bits(there.reshape(-1)[:-2], out.reshape(-1)[:-2])
    empty = x[:0].copy()
    act.prelu(empty, alpha, empty)


def rows(dtype):
    rng = np.random.default_rng(4)
    z = (rng.standard_normal((9, 23)) * np.array([0.01, 0.1, 1, 3, 10, 40, 300, 1e4, 1e-3])[:, None]).astype(dtype)
    z[1, 3:9] = z[1].max()  # ties at the top
    z[2, 5] = z[2].max() + 40
    return z


def exact_log_softmax(row):
    with localcontext(prec=400):
        row = [Decimal(float(v)) for v in row]
        log = sum((v - max(row)).exp() for v in row).ln()
        return [v - max(row) - log for v in row]


@EVERY_TYPE
def test_log_softmax(dtype):
    z = rows(dtype)
    out = guarded(z.shape, dtype)
    with untouched([out], [z]):
        act.log_softmax(z, out)
    for row, got in zip(z, out, strict=True):
        assert max(map(in_ulps, got, exact_log_softmax(row))) <= (0.51 if dtype == np.float32 else 3)
    many = np.resize(z, (90, 10, 23))
    for nt in (1, 2):
        there = many.copy()
        act.log_softmax(there, there, nt)
        assert same_bits(there.reshape(-1, 23), np.resize(out, (900, 23)))
    one = np.array([[3]], dtype)
    act.log_softmax(one, one)
    assert same_bits(one, np.zeros((1, 1), dtype))
    bad = np.array([[1, np.nan, 2], [1, 2, 3], [np.inf, 1, 2]], dtype)
    act.log_softmax(bad, bad)
    assert np.isnan(bad[0]).all()
    assert np.isfinite(bad[1]).all()
    assert np.isnan(bad[2]).any()
    for shape in ((0, 5), (2, 0)):
        act.log_softmax(np.empty(shape, dtype), np.empty(shape, dtype))


@EVERY_TYPE
def test_log_softmax_back(dtype):
    """The transposed Jacobian is I - p 1^T."""
    z, g = rows(dtype), np.random.default_rng(5).standard_normal((9, 23)).astype(dtype)
    y, out = np.empty_like(z), np.empty_like(z)
    act.log_softmax(z, y)
    act.log_softmax_back(y, g, out, 2)
    np.testing.assert_allclose(
        out, g - np.exp(y.astype(float)) * g.sum(1, keepdims=True, dtype=float), rtol=0, atol=4 * np.finfo(dtype).eps
    )
    there = g.copy()
    act.log_softmax_back(y, there, there)
    assert same_bits(there, out)


# How they are called.


def test_in_a_queue():
    x = np.random.default_rng(6).standard_normal(30_000).astype(np.float32)
    first, second, queue = np.empty_like(x), np.empty_like(x), Queue()
    with queue:
        activate(ACTIVATIONS["gelu"].number, (), x, first, 2)
        act.prelu(first, np.full(1, 0.5, np.float32), first, 2)
        derivative(ACTIVATIONS["silu"].number, (), first, second, 2)
        act.log_softmax(second.reshape(300, 100), second.reshape(300, 100), 2)
        queue.run()
    wanted = run(activate, "gelu", {}, x)
    act.prelu(wanted, np.full(1, 0.5, np.float32), wanted)
    assert same_bits(first, wanted)
    wanted = run(derivative, "silu", {}, wanted)
    act.log_softmax(wanted.reshape(300, 100), wanted.reshape(300, 100))
    assert same_bits(second, wanted)


def test_with_the_jit_off():
    """What takes a few numbers here, with NaN and infinities; other CPUs and threads: tests/kernels/test_same_bits.py."""
    code = "import json; from tests.kernels.test_activations import some_bits; print(json.dumps(some_bits()))"
    environment = os.environ | {"NUMBA_DISABLE_JIT": "1", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run([sys.executable, "-c", code], env=environment, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == some_bits()


def some_bits():
    found = {}
    for dtype in DTYPES:
        x = np.array([-np.inf, -90, -20, -3.3, -2.6, -1, -0.7, -1e-4, -0.0, 0, 1e-9, 0.6, 1, 2.7, 7, 95, np.inf, np.nan], dtype)
        for (name, row), function in itertools.product(ACTIVATIONS.items(), (activate, derivative)):
            out = np.empty_like(x)
            function(row.number, row.with_defaults(), x, out)
            found[f"{name} {function.__name__} {out.dtype}"] = out.tobytes().hex()
        z, out = x[1:13].reshape(3, 4), np.empty((3, 4), dtype)
        act.prelu(z, x[10:14], out)
        found[f"prelu {out.dtype}"] = out.tobytes().hex()
        act.log_softmax(z, out)
        found[f"log_softmax {out.dtype}"] = out.tobytes().hex()
    return found
