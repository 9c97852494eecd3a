"""Kinds of layers beyond those of a VGG: laws, twins in matrix algebra, fractions, networks in which the fused pass is the page."""

import dataclasses
from fractions import Fraction as F

import numpy as np
import pytest

import nplrp
from nplrp import layers, lrp
from nplrp.errors import ModelError
from nplrp.layers import Layer, Window, operation
from nplrp.ledger import account
from nplrp.model import Preprocessing, build
from nplrp.plan import make_plan
from nplrp.rules import AS_IS, NEGATIVE, NOTHING, RULES, Rule
from nplrp.rules.composites import Composite
from tests import laws, twins
from tests.networks import batch_norm, conv, dense, images, plain, pool, random_kernel
from tests.test_rules import carry, changed, twin, variants


def kernel(rng, *shape):
    return random_kernel(rng, *shape).astype(np.float32)


def layer(kind, rng, window=None, bias=0, shape=None, activation="linear", **options):
    """A layer with a kernel [*shape] and a bias of some length."""
    arrays = {"kernel": kernel(rng, *shape)} | ({"bias": rng.normal(size=bias).astype(np.float32)} if bias else {})
    return Layer("l", kind, activation=activation, window=window, arrays=arrays, options=options)


SAME = Window((3, 2), padding="same")
LINEAR = {  # (family, layer, shape of its input)
    "groups": lambda rng: ("conv", layer("conv", rng, SAME, 6, (3, 2, 2, 6), groups=2), (4, 3, 4)),
    "strided groups": lambda rng: ("conv", layer("conv", rng, Window((2, 3), (2, 1)), 6, (2, 3, 3, 6), groups=2), (4, 5, 6)),
    "depthwise": lambda rng: ("conv", layer("depthwise", rng, SAME, 3, (3, 2, 3, 1)), (4, 3, 3)),
    "depthwise, twice": lambda rng: ("conv", layer("depthwise", rng, Window((2, 2), (2, 1), (1, 2)), 6, (2, 2, 3, 2), "relu"), (4, 5, 3)),
    "depthwise of one": lambda rng: ("conv", layer("depthwise", rng, SAME, 2, (3, 2, 1, 2)), (4, 3, 1)),
    "1D": lambda rng: ("conv", layer("conv", rng, Window((1, 3), (1, 2), (1, 1), "same"), 4, (1, 3, 2, 4)), (1, 7, 2)),
    "dense on images": lambda rng: ("dense", layer("dense", rng, None, 4, (3, 4)), (2, 3, 3)),
    "transposed": lambda rng: ("conv", layer("conv_transpose", rng, Window((3, 2), (2, 2), padding="same"), 2, (3, 2, 2, 3)), (3, 2, 3)),
    "transposed, valid": lambda rng: ("conv", layer("conv_transpose", rng, Window((2, 3), (1, 3)), 2, (2, 3, 2, 3)), (3, 2, 3)),
    "transposed, dilated": lambda rng: (
        "conv",
        layer("conv_transpose", rng, Window((3, 2), (1, 1), (2, 1), "same"), 0, (3, 2, 2, 3)),
        (4, 3, 3),
    ),
    "transposed, padded": lambda rng: (
        "conv",
        layer("conv_transpose", rng, Window((3, 3), (2, 2), padding=(1, 1, 1, 1)), 2, (3, 3, 2, 3), output_padding=[1, 0]),
        (3, 2, 3),
    ),
    "bilinear": lambda rng: ("avgpool", plain("l", "resize", options={"size": [5, 2]}), (3, 4, 2)),
    "bilinear, corner on corner": lambda rng: ("avgpool", plain("l", "resize", options={"size": [5, 2], "align_corners": True}), (3, 4, 2)),
    "bilinear upsampling": lambda rng: (
        "avgpool",
        plain("l", "upsample", options={"size": [2, 3], "interpolation": "bilinear"}),
        (2, 3, 2),
    ),
    "padded averages": lambda rng: ("avgpool", pool("l", "avgpool", Window((3, 2), (2, 2), padding=(0, 1, 1, 0))), (4, 3, 2)),
    "global average of a sequence": lambda rng: ("avgpool", pool("l", "global_avgpool"), (1, 6, 2)),
}


EPSILON = Rule("epsilon")


def plan_of(one, shape, family, rule, dtype="float64"):
    """A plan of one layer and a rule."""
    model = build(shape, [one], preprocessing=Preprocessing("127.5,127.5"))
    return make_plan(model, Composite("one", (((family,), rule),), "logit"), dtype)


def made(name, rule=EPSILON):
    family, one, shape = LINEAR[name](np.random.default_rng(len(name)))
    return plan_of(one, shape, family, rule)


TWINS = [
    (name, rule)
    for name in LINEAR
    for rule_name, row in RULES.items()
    if LINEAR[name](np.random.default_rng(0))[0] in row.fits
    for rule in dict.fromkeys(variants(rule_name))
]


@pytest.mark.parametrize(("name", "rule"), TWINS, ids=str)
def test_every_rule_that_fits_is_its_twin(name, rule):
    rng = np.random.default_rng(7)
    plan = made(name, rule)
    (step,) = plan.steps
    a, R = rng.normal(size=step.input_shape), rng.normal(size=step.output_shape)
    W = twins.jacobian(step)
    if rule.name == "wsquare" and step.kind == "resize":  # its weights aren't all alike, as a pool's are
        full = rule.resolved()
        expected = twins.wsquare(W, np.zeros(len(W)), a.reshape(-1), R.reshape(-1), full.stabiliser, full.epsilon, "none")
    else:
        expected = twin(plan.rules[0], step, a, R)
    assert np.abs(expected).max() > 0
    assert np.abs(carry(plan, a, R).reshape(-1) - expected).max() <= 1e-11 * np.abs(expected).max()


def test_how_many_twins_there_are():
    rules = {family: sum(len(set(variants(name))) for name, row in RULES.items() if family in row.fits) for family in ("conv", "avgpool")}
    assert len(TWINS) == 11 * rules["conv"] + 5 * rules["avgpool"]
    assert rules["conv"] >= 30 and rules["avgpool"] >= 20


@pytest.mark.parametrize("change", laws.CHANGES, ids=str)
@pytest.mark.parametrize("name", LINEAR)
def test_transposes_are_adjoints_for_every_change_of_weights(name, change):
    (step,) = made(name).steps
    nothing = step.weight is None and change == NEGATIVE
    z = laws.adjoint(step, change, nothing=nothing)
    J = twins.jacobian(changed(step, change))
    if step.weight is None:
        if not isinstance(change, str):
            J = J * change.positive
        elif step.kind == "resize":
            J = J**2 if change == "square" else twins.jacobian(step, ones=True)
    a = np.random.default_rng(0).normal(size=(2, *step.input_shape))
    assert np.abs(z.reshape(2, -1) - a.reshape(2, -1) @ J.T).max() <= 1e-12 * np.abs(z).max()
    family, one, shape = LINEAR[name](np.random.default_rng(len(name)))
    (single,) = plan_of(one, shape, family, EPSILON, "float32").steps
    laws.adjoint(single, change, tolerance=1e-6, nothing=nothing)


@pytest.mark.parametrize("name", LINEAR)
def test_several_terms_and_a_bias(name):
    (step,) = made(name).steps
    rng = np.random.default_rng(3)
    inputs = [rng.normal(size=(2, *step.input_shape)) for _ in range(3)]
    W, b = twins.jacobian(step), twins.biases(step)
    z = sum(a.reshape(2, -1) for a in inputs) @ W.T + b
    for relu in (False, True):
        found = layers.forward(step, inputs, [AS_IS] * 3, AS_IS, relu).reshape(2, -1)
        assert np.abs(found - (np.maximum(z, 0) if relu else z)).max() < 1e-12


# --- batch norms that merge -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["groups", "depthwise, twice", "depthwise of one", "transposed", "transposed, dilated"])
@pytest.mark.parametrize("side", ["outputs", "inputs"])
def test_scales_are_merged_on_the_right_axis(name, side):
    rng = np.random.default_rng(11)
    (step,) = made(name).steps
    channels = step.output_shape[-1] if side == "outputs" else step.input_shape[-1]
    g, h = rng.uniform(0.5, 2, channels), rng.normal(size=channels) if side == "outputs" else np.zeros(channels)
    op = operation(step)
    weight, bias = (op.scale_outputs if side == "outputs" else op.scale_inputs)(step, g, h)
    merged = dataclasses.replace(step, weight=weight, bias=bias, prepared={})
    a = rng.normal(size=(2, *step.input_shape))
    found = layers.forward(merged, [a], [AS_IS], AS_IS)
    expected = layers.forward(step, [a if side == "outputs" else a * g], [AS_IS], AS_IS)
    assert np.abs(found - (expected * g + h if side == "outputs" else expected)).max() < 1e-12


def test_an_offset_before_a_grouped_convolution_is_merged_where_nothing_is_padded():
    rng = np.random.default_rng(12)
    (step,) = made("strided groups").steps
    g, h = rng.uniform(0.5, 2, 6), rng.normal(size=6)
    weight, bias = operation(step).scale_inputs(step, g, h)
    merged = dataclasses.replace(step, weight=weight, bias=bias, prepared={})
    a = rng.normal(size=(2, *step.input_shape))
    expected = layers.forward(step, [a * g + h], [AS_IS], AS_IS)
    assert np.abs(layers.forward(merged, [a], [AS_IS], AS_IS) - expected).max() < 1e-12
    assert operation(step).scale_inputs(made("groups").steps[0], np.ones(4), np.ones(4)) is None
    for name in ("transposed", "transposed, valid"):
        (other,) = made(name).steps
        assert operation(other).scale_inputs(other, np.ones(3), np.ones(3)) is None


def test_a_reshape_that_parts_pixels_keeps_a_scale_from_being_merged():
    rng = np.random.default_rng(13)
    for shape, merged in (([8, 12], True), ([12, 8], False), ([16, 6], True), ([32, 3], False)):
        fold = plain("fold", "reshape", options={"shape": shape})
        top = dense("out", kernel(rng, shape[-1], 2), None, "linear")
        model = build((4, 4, 6), [plain("relu", "activation", "relu"), batch_norm("bn", rng, 6), fold, top])
        plan, x = make_plan(model, "epsilon", "float64"), images(1, 1, (4, 4, 6))
        assert plan.steps[1].merged is merged
        plainly = layers.forward(laws.steps_of(model)[3], [nplrp.forward(model, x, dtype="float64")["fold"]], [AS_IS], AS_IS)
        assert np.abs(lrp.run_forward(plan.steps, x).output - plainly).max() < 1e-12


# --- norms ------------------------------------------------------------------------------------------------------------


def norm(kind, rng, shape, centre=True, scale=True, epsilon=0.1, **options):
    """A norm with arrays as large as its axes."""
    sides = [shape[axis] for axis in sorted(options.get("axes", [len(shape) - 1]))]
    arrays = {key: rng.normal(size=sides).astype(np.float32) for key, flag in (("gamma", scale), ("beta", centre)) if flag}
    return Layer("l", kind, epsilon=epsilon, arrays=arrays, options=options)


IMAGE = (3, 2, 4)
NORMS = {
    "layer": (norm("layernorm", np.random.default_rng(1), IMAGE), IMAGE),
    "layer, vectors": (norm("layernorm", np.random.default_rng(2), (7,)), (7,)),
    "layer, all axes": (norm("layernorm", np.random.default_rng(3), IMAGE, axes=[0, 1, 2]), IMAGE),
    "layer, rows": (norm("layernorm", np.random.default_rng(4), IMAGE, axes=[0]), IMAGE),
    "layer, columns": (norm("layernorm", np.random.default_rng(5), IMAGE, axes=[1], scale=False), IMAGE),
    "layer, apart": (norm("layernorm", np.random.default_rng(6), IMAGE, axes=[0, 2], centre=False), IMAGE),
    "layer, variance alone": (norm("layernorm", np.random.default_rng(7), IMAGE, centre=False, rms_scaling=True), IMAGE),
    "root": (norm("rmsnorm", np.random.default_rng(8), IMAGE, centre=False), IMAGE),
    "unit": (norm("unitnorm", np.random.default_rng(9), IMAGE, False, False, axes=[0, 1]), IMAGE),
    "groups": (norm("groupnorm", np.random.default_rng(10), IMAGE, groups=2), IMAGE),
    "one group": (norm("groupnorm", np.random.default_rng(11), IMAGE, groups=1, centre=False), IMAGE),
    "a group each": (norm("groupnorm", np.random.default_rng(12), IMAGE, scale=False, groups=-1), IMAGE),
}


def matrix_of_norm(one, shape, x):
    """(W, b) of a norm at x, from its definition."""
    groups = one.options.get("groups")
    if groups:
        groups = shape[-1] if groups == -1 else groups
        split = (*shape[:-1], groups, shape[-1] // groups)
        axes = [*range(len(shape) - 1), len(shape)]
        spread = {key: array.reshape(groups, -1).astype(float) for key, array in one.arrays.items()}
    else:
        split, axes = shape, sorted(one.options.get("axes", [len(shape) - 1]))
        sides = [n if axis in axes else 1 for axis, n in enumerate(shape)]
        spread = {key: array.reshape(sides).astype(float) for key, array in one.arrays.items()}
    v = x.reshape(split)
    mean = v.mean(axis=tuple(axes), keepdims=True)
    square = (v**2).mean(axis=tuple(axes), keepdims=True)
    n = np.prod([split[axis] for axis in axes])
    deviation = {
        "rmsnorm": np.sqrt(square + one.epsilon),
        "unitnorm": np.maximum(np.sqrt(n * square), 1e-12),
    }.get(one.kind, np.sqrt(((v - mean) ** 2).mean(axis=tuple(axes), keepdims=True) + one.epsilon))
    centred = one.kind in ("layernorm", "groupnorm") and not one.options.get("rms_scaling")
    W = twins.normalising(split, axes, spread.get("gamma", 1.0), deviation, centred)
    return W, np.broadcast_to(spread.get("beta", 0.0), split).reshape(-1)


@pytest.mark.parametrize("name", NORMS)
def test_norms_are_their_matrices_at_the_deviations_that_they_decide(name):
    one, shape = NORMS[name]
    (step,) = plan_of(one, shape, "norm", Rule("epsilon")).steps
    x = images(2, 3, shape) + 1
    z, held = operation(step).decide(step, x)
    for i in range(3):
        W, b = matrix_of_norm(one, shape, x[i])
        assert np.abs(z[i].reshape(-1) - (W @ x[i].reshape(-1) + b)).max() < 1e-13
        (again,) = plan_of(one, shape, "norm", Rule("epsilon")).steps
        other = images(4, 1, shape)
        held_alone = operation(again).decide(again, x[i : i + 1])[1]
        forward = layers.forward(step, [other], [AS_IS], AS_IS, held=held_alone)
        assert np.abs(forward.reshape(-1) - (W @ other.reshape(-1) + b)).max() < 1e-12
        (back,) = layers.transpose(step, other, [AS_IS], held_alone)
        assert np.abs(back.reshape(-1) - W.T @ other.reshape(-1)).max() < 1e-12
    laws.adjoint(step, AS_IS, held=held, n=3)


@pytest.mark.parametrize(
    "rule", [rule for name, row in RULES.items() if "norm" in row.fits for rule in dict.fromkeys(variants(name))], ids=str
)
@pytest.mark.parametrize("name", NORMS)
def test_rules_on_norms(name, rule):
    one, shape = NORMS[name]
    plan = plan_of(one, shape, "norm", rule)
    rng = np.random.default_rng(5)
    a, R = rng.normal(size=shape) + 0.5, rng.normal(size=shape)
    W, b = matrix_of_norm(one, shape, a)
    full = plan.rules[0].resolved()
    flat = a.reshape(-1), R.reshape(-1)
    if rule.name == "pass":
        expected = R.reshape(-1)
    elif rule.name == "gradient":
        expected = W.T @ R.reshape(-1)
    elif rule.name == "slope":  # central differences of the matrix that depends on the point
        expected = derivative(lambda x: matrix_of_norm(one, shape, x.reshape(shape))[0] @ x, flat[0]).T @ flat[1]
    else:
        assert rule.name in ("epsilon", "zero", "norm")
        bias = "none" if rule.name == "norm" else full.bias
        expected = twins.epsilon(W, b, *flat, full.stabiliser, full.epsilon, bias)
    assert np.abs(expected).max() > 0
    error = 1e-7 if rule.name == "slope" else 1e-10
    assert np.abs(carry(plan, a, R).reshape(-1) - expected).max() <= error * np.abs(expected).max()


def derivative(function, x, step=1e-5):
    """[out, in] of a function at x, by central differences"""
    units = step * np.eye(x.size)
    return np.stack([(function(x + unit) - function(x - unit)) / (2 * step) for unit in units], axis=1)


def test_a_layer_norm_in_fractions():
    """x = (1, 3, 8): mean 4, variance 26 / 3; epsilon 1 / 3 makes the deviation 3. gamma = (1, 2, -1), beta = 1 / 2, R = z, no epsilon."""
    one = Layer("l", "layernorm", epsilon=1 / 3, arrays={"gamma": np.float32([1, 2, -1]), "beta": np.float32([0.5] * 3)})
    x, gamma = [1, 3, 8], [1, 2, -1]
    plan = plan_of(one, (3,), "norm", Rule("epsilon", epsilon=0.0))
    z = [F(g) * (v - 4) / 3 + F(1, 2) for v, g in zip(x, gamma, strict=True)]
    assert z == [F(-1, 2), F(-1, 6), F(-5, 6)]
    W = [[F(g) * ((k == j) - F(1, 3)) / 3 for j in range(3)] for k, g in enumerate(gamma)]
    expected = [v * sum(W[k][j] for k in range(3)) for j, v in enumerate(x)]  # s = R / z = 1
    assert expected == [F(1, 9), F(4, 3), F(-40, 9)]
    a = np.array(x, float)
    assert lrp.run_forward(plan.steps, a[None]).output[0] == pytest.approx([float(v) for v in z], rel=1e-6)  # 1 / 3 in float32
    assert carry(plan, a, np.array([float(v) for v in z])) == pytest.approx([float(v) for v in expected], rel=1e-6)


def of_ones(kind, shape, stride=(1, 1), bias=0, **options):
    arrays = {"kernel": np.ones(shape)} | ({"bias": np.ones(bias)} if bias else {})
    return Layer("l", kind, window=Window(shape[:2], stride), arrays=arrays, options=options)


@pytest.mark.parametrize(
    ("one", "message"),
    [
        (Layer("l", "layernorm", options={"axes": [3]}), r"has axes \(3,\) \(without the batch\), but gets \(3, 2, 4\)"),
        (Layer("l", "layernorm", options={"axes": [1, 1]}), "has axes"),
        (Layer("l", "layernorm", options={"axes": []}), "has axes"),
        (Layer("l", "layernorm", arrays={"gamma": np.ones(3)}), r"its gamma has shape \(3,\), expected \(4,\), the sizes of axes \(2,\)"),
        (Layer("l", "groupnorm", options={"groups": 3}), r"the channels of \(3, 2, 4\) don't fall into 3 groups"),
        (Layer("l", "groupnorm", options={"groups": 0}), "don't fall into 0 groups"),
        (Layer("l", "groupnorm", arrays={"beta": np.ones((1, 4))}), r"its beta has shape \(1, 4\), expected \(4,\)"),
        (Layer("l", "prelu", arrays={"alpha": np.ones((2, 1, 1))}), r"its alpha has shape \(2, 1, 1\), which doesn't broadcast"),
        (Layer("l", "prelu", arrays={"alpha": np.ones((1, 1, 1, 1))}), "doesn't broadcast against"),
        (Layer("l", "resize", options={"size": [2, 2], "interpolation": "bicubic"}), "interpolation 'bicubic'; supported are nearest, bil"),
        (Layer("l", "resize", options={"size": [2, 2], "crop_to_aspect_ratio": True}), "with crop_to_aspect_ratio isn't supported"),
        (Layer("l", "resize", options={"size": [2, 2], "align_corners": True, "interpolation": "nearest"}), "only a bilinear resize is"),
        (Layer("l", "upsample", options={"size": [2, 2], "align_corners": True, "interpolation": "bilinear"}), "only a bilinear resize is"),
        (Layer("l", "resize", options={"size": [2, 0]}), "doesn't fit"),
        (Layer("l", "resize"), "has no size"),
        (Layer("l", "upsample", options={"size": [2, 2], "interpolation": "area"}), "interpolation 'area'"),
        (Layer("l", "maxpool", window=Window((2, 2), (2, 2), (2, 1))), r"has dilation \(2, 1\), which isn't supported for pools"),
        (Layer("l", "maxpool", window=Window((2, 2), (2, 2), padding=(2, 0, 0, 0))), r"some windows of \(2, 2\) lie outside the image"),
        (Layer("l", "avgpool", window=Window((2, 2), (2, 2), padding=(0, 0, 0, 2))), r"with padding \(0, 0, 0, 2\) some windows"),
        (of_ones("conv", (1, 1, 2, 3), groups=3), "4 channels .* 3 groups"),
        (of_ones("conv", (1, 1, 2, 3), groups=2), "its 3 filters .* 2 groups"),
        (of_ones("conv", (1, 1, 4, 2), groups=2), r"expected \(1, 1, 2, filters\)"),
        (of_ones("depthwise", (1, 1, 2, 2)), r"expected \(1, 1, 4, multiplier\)"),
        (of_ones("depthwise", (1, 1, 4, 2), bias=4), r"its bias has shape \(4,\), expected \(8,\)"),
        (of_ones("conv_transpose", (1, 1, 4, 2)), r"expected \(1, 1, filters, 4\)"),
        (
            of_ones("conv_transpose", (3, 3, 1, 4), (2, 2), output_padding=[2, 0]),
            r"an output padding of \(2, 0\) and a padding of valid don't fit a stride of \(2, 2\)",
        ),
    ],
)
def test_what_does_not_fit(one, message):
    with pytest.raises(ModelError, match=message):
        build(IMAGE, [one])


def test_axes_that_do_not_lie_side_by_side_are_refused():
    one = Layer("l", "layernorm", options={"axes": [0, 2]})
    with pytest.raises(ModelError, match=r"normalising \(2, 2, 2, 2\) over axes \(0, 2\) isn't supported"):
        build((16,), [plain("fold", "reshape", options={"shape": [2, 2, 2, 2]}), one])


@pytest.mark.parametrize("scale", [1e-200, 1e-30, 1e150])
def test_lengths_of_very_small_and_large_numbers(scale):
    one, shape = NORMS["unit"]
    (step,) = plan_of(one, shape, "norm", Rule("epsilon")).steps
    z, held = operation(step).decide(step, images(1, 1, shape) * scale)
    if scale < 1e-100:
        assert np.all(held == 1e12) and np.abs(z).max() < 1e-100
    else:
        assert np.abs(np.sum(z**2, axis=(1, 2)) - 1).max() < (1e-14 if scale > 1 else np.inf)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 1e200])
def test_a_norm_loses_no_number_that_is_not_finite(bad):
    for one, shape in NORMS.values():
        x = np.ones((1, *shape))
        x[(0, *[0] * len(shape))] = bad
        (step,) = plan_of(one, shape, "norm", Rule("epsilon")).steps
        assert not np.isfinite(operation(step).decide(step, x)[0]).all()


# --- PReLU ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("alpha", [(4,), (1, 1, 4), (3, 2, 4), (3, 1, 1), (1,), (1, 1, 1)])
def test_prelu_is_a_slope_for_each_number(alpha):
    rng = np.random.default_rng(6)
    one = Layer("l", "prelu", arrays={"alpha": rng.normal(size=alpha).astype(np.float32)})
    x = images(7, 2, IMAGE)
    x[0, 0, 0] = 0
    slope = np.where(x >= 0, 1, one.arrays["alpha"].astype(float))
    R = rng.normal(size=x.shape)
    for rule, expected in (
        (Rule("pass"), R),
        (Rule("slope"), R * slope),
        (Rule("norm", epsilon=0.5), x * slope * R / twins.stabilise(x * slope, "sign", 0.5)),
    ):
        plan = plan_of(one, IMAGE, "rectifier", rule)
        trace = lrp.run_forward(plan.steps, x)
        assert np.array_equal(trace.output, x * slope)
        assert np.abs(lrp.run_backward(plan, trace, R) - expected).max() < 1e-14
        laws.adjoint(plan.steps[0], AS_IS, held=trace.held[0])
    both = [rng.normal(size=x.shape) for _ in range(3)]
    found = layers.forward(plan.steps[0], both, [AS_IS] * 3, NOTHING, True, trace.held[0])
    assert np.abs(found - np.maximum(sum(both) * slope, 0)).max() < 1e-14


def test_prelu_keeps_nan():
    plan = plan_of(Layer("l", "prelu", arrays={"alpha": np.zeros(4, np.float32)}), IMAGE, "rectifier", Rule("pass"))
    for bad in (np.nan, -np.inf):
        z, _ = operation(plan.steps[0]).decide(plan.steps[0], np.full((1, *IMAGE), bad))
        assert np.isnan(z).all()


# --- pools ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("padding", [(1, 1, 1, 1), (0, 1, 0, 1), (1, 0, 2, 1), (0, 2, 1, 0)])
def test_padded_places_never_win_and_are_not_counted(padding):
    """All inputs are negative, so that a zero of the padding would win; ceil mode pads at the bottom and right alone."""
    rng = np.random.default_rng(8)
    x = -1 - rng.uniform(size=(2, 5, 6, 3))
    window = Window((3, 3), (2, 2), padding=padding)
    top, bottom, left, right = padding
    filled = np.pad(x, ((0, 0), (top, bottom), (left, right), (0, 0)), constant_values=np.nan)
    rows, columns = window.output_size(5, 6)
    for kind, of in (("maxpool", np.nanmax), ("avgpool", np.nanmean)):
        found = nplrp.forward(build((5, 6, 3), [pool("l", kind, window)]), x, dtype="float64")["l"]
        for r in range(rows):
            for c in range(columns):
                expected = of(filled[:, 2 * r : 2 * r + 3, 2 * c : 2 * c + 3], axis=(1, 2))
                assert np.abs(found[:, r, c] - expected).max() < 1e-15


@pytest.mark.parametrize("rule", ["winner", "winner_ties", "winner_epsilon", "average", "flat"])
def test_rules_on_padded_max_pools(rule):
    rng = np.random.default_rng(9)
    one, shape = pool("l", "maxpool", Window((3, 2), (2, 2), padding=(1, 0, 0, 1))), (5, 5, 2)
    plan = plan_of(one, shape, "maxpool", Rule(rule))
    a = rng.choice([-1.67, -0.41, 0.89], size=shape)
    R = rng.normal(size=plan.steps[0].output_shape)
    expected = twin(plan.rules[0], plan.steps[0], a, R).reshape(shape)
    assert np.abs(carry(plan, a, R) - expected).max() <= 1e-11 * np.abs(expected).max()


# --- in networks ------------------------------------------------------------------------------------------------------


def named(one, name, *inputs, activation=None):
    return dataclasses.replace(one, name=name, inputs=inputs, activation=activation or one.activation)


def convolutions():
    """[n, 9, 10, 3] -> [n, 4]: MobileNet's and ResNeXt's convolutions, batch norms that merge, a decoder, padded pools."""
    rng = np.random.default_rng(21)
    one = Window((1, 1))
    return build(
        (9, 10, 3),
        [
            conv("stem", kernel(rng, 3, 3, 3, 8), rng.normal(size=8), "relu"),
            named(layer("depthwise", rng, Window((3, 3), padding="same"), 0, (3, 3, 8, 1)), "depth"),
            batch_norm("depth_bn", rng, 8),
            plain("depth_relu", "activation", "relu"),
            named(layer("conv", rng, one, 12, (1, 1, 8, 12)), "point", activation="relu"),
            pool("pool", "maxpool", Window((3, 3), (2, 2), padding=(1, 1, 1, 0))),
            named(layer("conv", rng, Window((3, 3), padding="same"), 12, (3, 3, 4, 12), groups=3), "grouped", activation="relu"),
            named(layer("depthwise", rng, Window((2, 2), (2, 2)), 24, (2, 2, 12, 2)), "doubled", activation="relu"),
            named(layer("conv_transpose", rng, Window((3, 3), (2, 2), padding="same"), 0, (3, 3, 10, 24)), "up"),
            batch_norm("up_bn", rng, 10),
            plain("up_relu", "activation", "relu"),
            named(layer("conv_transpose", rng, Window((3, 3), padding="same"), 6, (3, 3, 6, 10)), "wide", activation="relu"),
            pool("means", "avgpool", Window((3, 3), (2, 2), padding=(0, 1, 0, 1))),
            plain("flat", "flatten"),
            dense("top", kernel(rng, 24, 4), rng.normal(size=4), "linear"),
        ],
        "convolutions",
    )


def norms():
    """[n, 6, 5, 4] -> [n, 3]: a norm of each kind, PReLU, both resizings, a dense layer on images."""
    rng = np.random.default_rng(22)
    shape = (6, 5, 8)
    return build(
        (6, 5, 4),
        [
            conv("stem", kernel(rng, 3, 3, 4, 8), rng.normal(size=8), "linear"),
            named(norm("layernorm", rng, shape), "layer"),
            Layer("slopes", "prelu", arrays={"alpha": rng.uniform(0.1, 0.4, (1, 1, 8)).astype(np.float32)}),
            dense("mix", kernel(rng, 8, 8), rng.normal(size=8), "relu"),
            named(norm("groupnorm", rng, shape, groups=2), "group", activation="relu"),
            plain("larger", "resize", options={"size": [9, 7]}),
            conv("middle", kernel(rng, 3, 3, 8, 6), rng.normal(size=6)),
            named(norm("rmsnorm", rng, (9, 7, 6), centre=False), "root"),
            plain("twice", "upsample", options={"size": [1, 2], "interpolation": "bilinear"}),
            named(norm("layernorm", rng, (9, 14, 6), axes=[0, 1, 2]), "all"),
            plain("nearest", "resize", options={"size": [4, 6], "interpolation": "nearest"}),
            conv("last", kernel(rng, 3, 3, 6, 5), rng.normal(size=5), "relu"),
            pool("means", "global_avgpool"),
            named(norm("unitnorm", rng, (5,), False, False), "unit"),
            dense("top", kernel(rng, 5, 3), rng.normal(size=3), "linear"),
        ],
        "norms",
    )


def sequences():
    """[n, 16, 3] -> [n, 4]: convolutions and pools of sequences, as images of height 1."""
    rng = np.random.default_rng(23)
    return build(
        (16, 3),
        [
            plain("as_image", "reshape", options={"shape": [1, 16, 3]}),
            conv("first", kernel(rng, 1, 3, 3, 8), rng.normal(size=8), "relu", Window((1, 3), padding="same")),
            pool("pool", "maxpool", Window((1, 2), (1, 2))),
            named(layer("depthwise", rng, Window((1, 3)), 8, (1, 3, 8, 1)), "depth", activation="relu"),
            pool("means", "avgpool", Window((1, 2), (1, 2), padding="same")),
            pool("top_pool", "global_maxpool"),
            dense("top", kernel(rng, 8, 4), rng.normal(size=4), "linear"),
        ],
        "sequences",
    )


NETWORKS = {"convolutions": convolutions, "norms": norms, "sequences": sequences}


@pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
@pytest.mark.parametrize("composite", ["notebook", "epsilon", "epsilon_plus", "alpha_beta", "gamma", "wsquare"])
@pytest.mark.parametrize("network", NETWORKS)
def test_laws_in_networks(network, composite):
    model = NETWORKS[network]()
    x = images(24, 3, model.input_shape)
    loose = {"alpha_beta": 1e-12}.get(composite)  # a * (c + d) for a * c + a * d
    laws.fused_is_the_page(model, x, composite, "float64", loose)
    laws.batch_is_singles(model, x, composite)
    laws.ledger_balances(model, x, composite)
    laws.keeps_the_rule_of_queues(model, x, composite)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", NETWORKS)
def test_any_number_of_threads(network, dtype):
    model = NETWORKS[network]()
    laws.any_threads(model, images(25, 2, model.input_shape), "epsilon_plus", dtype)


def test_large_images_are_shared_by_threads():
    """Above the size at which a kernel takes a second thread."""
    rng = np.random.default_rng(26)
    model = build(
        (40, 40, 24),
        [
            named(norm("groupnorm", rng, (40, 40, 24), groups=4), "group"),
            named(norm("layernorm", rng, (40, 40, 24)), "layer"),
            Layer("slopes", "prelu", arrays={"alpha": rng.uniform(0, 1, (40, 40, 24)).astype(np.float32)}),
            plain("larger", "resize", options={"size": [50, 45]}),
            named(layer("conv_transpose", rng, Window((3, 3), (2, 2), padding="same"), 8, (3, 3, 8, 24)), "up"),
            plain("crop", "crop", pads=(10, 20, 30, 4)),
            pool("means", "global_avgpool"),
        ],
    )
    laws.any_threads(model, images(27, 1, model.input_shape), "epsilon")


def test_what_is_fused_and_queued():
    for network, expected in (
        ("convolutions", {"conv", "conv_transpose", "maxpool", "avgpool", "dense", "identity", "reshape"}),
        ("norms", {"conv", "avgpool", "dense", "norm", "prelu", "nearest"}),
    ):
        fusions = nplrp.fused.fusions(make_plan(NETWORKS[network](), "epsilon"))
        assert {fusion.step.kind for fusion in fusions if fusion.queued} == expected
    fusions = nplrp.fused.fusions(make_plan(convolutions(), "epsilon"))
    assert {fusion.step.name for fusion in fusions if fusion.parts} == {
        "stem",
        "depth",
        "point",
        "grouped",
        "doubled",
        "means",
        "up",
        "wide",
        "top",
    }
    assert [fusion.step.name for fusion in fusions if fusion.step.merged] == ["depth_bn", "up_bn"]


def test_content_hash_and_description_tell_options_apart():
    rng = np.random.default_rng(0)
    models = [build(IMAGE, [dataclasses.replace(one, name="l")]) for one, shape in NORMS.values() if shape == IMAGE]
    for kind, options in (
        ("resize", {"size": [2, 2]}),
        ("resize", {"size": [2, 2], "interpolation": "nearest"}),
        ("upsample", {"size": [2, 2], "interpolation": "bilinear"}),
        ("upsample", {"size": [2, 2]}),
    ):
        models.append(build(IMAGE, [plain("l", kind, options=options)]))
    same = kernel(rng, 2, 2, 4, 4)
    for kind in ("conv", "conv_transpose", "depthwise"):
        models.append(build(IMAGE, [Layer("l", kind, window=Window((2, 2), padding="same"), arrays={"kernel": same})]))
    assert len({model.content_hash for model in models}) == len(models)
    described = models[4]["l"].describe()
    assert described["options"] == {"axes": [0, 2]} and described["epsilon"] == 0.1
    for model in models:
        plan = make_plan(model, "epsilon")
        assert model["l"].kind in str(model) and plan.steps[0].kind in str(plan)


# --- structural ties --------------------------------------------------------------------------------------------------


def told(model, x):
    """The max-pools whose structural ties are found, where every sum rounds."""
    steps = make_plan(model, "epsilon").steps
    return [steps[i].name for i in layers.tie_labels(steps, x.astype(np.float32))]


def wide(rng, name, *inputs):
    arrays = {"kernel": kernel(rng, 3, 3, 64, 64), "bias": rng.normal(size=64).astype(np.float32)}
    return Layer(name, "conv", window=Window((3, 3), padding="same"), activation="relu", arrays=arrays, inputs=inputs)


@pytest.mark.parametrize(
    ("one", "is_told"),
    [
        (norm("layernorm", np.random.default_rng(0), (14, 14, 64)), True),
        (norm("groupnorm", np.random.default_rng(0), (14, 14, 64), groups=4), True),
        (norm("layernorm", np.random.default_rng(0), (14, 14, 64), axes=[0, 1, 2]), False),
        (norm("unitnorm", np.random.default_rng(0), (14, 14, 64), False, False, axes=[0, 1]), True),
        (norm("unitnorm", np.random.default_rng(0), (14, 14, 64), False, False, axes=[0]), False),
        (Layer("l", "prelu", arrays={"alpha": np.full((1, 1, 64), 0.1, np.float32)}), True),
        (Layer("l", "prelu", arrays={"alpha": np.full((14, 1, 1), 0.1, np.float32)}), False),
        (layer("depthwise", np.random.default_rng(0), SAME, 0, (3, 2, 64, 1)), True),
        (layer("conv_transpose", np.random.default_rng(0), Window((3, 3), padding="same"), 0, (3, 3, 64, 64)), True),
        (layer("conv_transpose", np.random.default_rng(0), Window((2, 4), dilation=(3, 1)), 0, (2, 4, 64, 64)), True),
        (layer("conv_transpose", np.random.default_rng(0), Window((3, 3), (2, 2)), 0, (3, 3, 64, 64)), False),
        (plain("l", "resize", options={"size": [20, 20]}), False),
        (plain("l", "upsample", options={"size": [2, 2]}), False),
        (plain("l", "crop", pads=(1, 2, 0, 3)), True),
        (plain("l", "concatenate", options={"axis": 0}, inputs=("wide", "wide")), False),
        (plain("l", "concatenate", options={"axis": 2}, inputs=("wide", "wide")), True),
        (plain("l", "add", inputs=("wide", "wide")), True),
    ],
    ids=lambda v: f"{v.kind} {dict(v.options)}" if isinstance(v, Layer) else "told" if v else "not told",
)
def test_behind_which_layers_ties_are_told(one, is_told):
    """A flat image: where ties are told, winners are those of the direct order, whatever Winograd's sums round to."""
    rng = np.random.default_rng(31)
    one, padded = dataclasses.replace(one, inputs=one.inputs or ("wide",)), Window((3, 3), (2, 2), padding=(1, 0, 1, 1))
    model = build((14, 14, 64), [wide(rng, "wide", "input"), one, pool("pool", "maxpool", padded), pool("top", "global_avgpool")])
    x = np.full((1, 14, 14, 64), 0.5, np.float32)
    assert told(model, x) == ["pool"] * is_told
    if is_told:
        plans = {name: make_plan(model, "epsilon", algorithm=name) for name in ("auto", "direct")}
        traces = {name: lrp.run_forward(plan.steps, x) for name, plan in plans.items()}
        assert not np.array_equal(traces["auto"].activations[1], traces["direct"].activations[1])  # the algorithms do differ
        assert np.array_equal(traces["auto"].held[2], traces["direct"].held[2])


@pytest.mark.parametrize("order", ["channels first", "flat"])
def test_ties_are_told_in_images_that_are_only_made_at_the_beginning(order):
    x = np.full((1, 14, 14, 64), 0.25, np.float32)
    begin, given = {
        "channels first": ([plain("input_1", "input"), plain("last", "permute", options={"dims": [2, 3, 1]})], x.transpose(0, 3, 1, 2)),
        "flat": ([plain("fold", "reshape", options={"shape": [14, 14, 64]})], x.reshape(1, -1)),
    }[order]
    rest = [wide(np.random.default_rng(32), "wide"), pool("pool"), pool("top", "global_avgpool")]
    model = build(given.shape[1:], [*begin, *rest])
    assert told(model, np.ascontiguousarray(given)) == ["pool"]


def test_the_ledger_of_each_kind_by_itself():
    """in + created = out + bias + epsilon + dropped to rounding, at one layer with given relevance."""
    rng = np.random.default_rng(33)
    cases = [(one, shape, "norm") for one, shape in NORMS.values()]
    cases += [(one, shape, family) for family, one, shape in (make(np.random.default_rng(1)) for make in LINEAR.values())]
    for one, shape, family in cases:
        plan = plan_of(one, shape, family, Rule("epsilon", epsilon=0.2))
        a = rng.normal(size=(2, *shape))
        trace = lrp.run_forward(plan.steps, a)
        R = rng.normal(size=trace.output.shape)
        entry = account(plan, trace, 0, R, [lrp.step_back(plan, trace, 0, R)])
        assert np.all(np.abs(entry.residual) <= 1e-12 * entry.magnitude)
        assert np.abs(entry.epsilon).min() > 0
        assert np.abs(entry.bias).max() > 0 or not np.any(plan.steps[0].bias)
