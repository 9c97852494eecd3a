"""zB's box belongs to the picture: whatever lies before the layer carries its ends, and padding is no pixel."""

from dataclasses import replace

import numpy as np
import pytest

import nplrp
from nplrp import golden
from nplrp.errors import RuleError
from nplrp.images import normalize
from nplrp.lrp import run_forward
from nplrp.model import Preprocessing, Window, build
from nplrp.plan import make_plan
from nplrp.preprocessing import pixel_bounds
from tests.laws import fused_is_the_page
from tests.networks import batch_norm, conv, dense, plain, random_kernel

RNG = np.random.default_rng(0)
KERNEL, HEAD = random_kernel(RNG, 3, 3, 3, 4), random_kernel(RNG, 4, 2)
VALID, SAME = Window((3, 3)), Window((3, 3), padding="same")
BOXED = ("epsilon_gamma_box", "montavon_vgg16", "zbox")


def network(*before, window=SAME, mode="caffe", kernel=KERNEL, shape=(8, 8, 3), activation="relu"):
    """Layers, then a convolution, a global pool and a dense layer."""
    layers = [*before, conv("c", kernel, np.full(kernel.shape[-1], 0.1), activation, window), plain("g", "global_avgpool")]
    return build(shape, [*layers, dense("d", HEAD, None, "linear")], preprocessing=Preprocessing(mode))


def affine(name, scale, offset, **more):
    return plain(name, "affine", arrays={"scale": np.asarray(scale, float), "offset": np.asarray(offset, float)}, **more)


def pictures(mode, n=3, shape=(8, 8, 3)):
    """Random pixels, a black and a white picture."""
    pixels = np.random.default_rng(1).integers(0, 256, (n, *shape)).astype(np.uint8)
    pixels[-2], pixels[-1] = 0, 255
    return normalize(pixels, mode).astype(np.float64)


def box_of(model, composite="epsilon_gamma_box", layer="c", **options):
    plan = make_plan(model, composite, "float64", **options)
    return plan.rules[[step.name for step in plan.steps].index(layer)]


@pytest.mark.parametrize("composite", BOXED)
@pytest.mark.parametrize("mode", ["caffe", "torch", "tf", "unit", "none"])
def test_a_pad_in_front_is_the_padding_of_the_convolution(composite, mode):
    padded, same = network(plain("p", "pad", pads=(1, 1, 1, 1)), window=VALID, mode=mode), network(mode=mode)
    if composite != "zbox":
        assert str(box_of(padded, composite)) == str(box_of(same, composite))
    maps = [nplrp.explain(model, pictures(mode), composite, target=1, dtype="float64").relevance for model in (padded, same)]
    np.testing.assert_allclose(*maps, rtol=1e-10, atol=1e-12 * np.abs(maps[1]).max())


def test_a_box_at_a_border_is_fused_as_the_page_has_it():
    for dtype in ("float32", "float64"):
        model = network(plain("p", "pad", pads=(2, 1, 0, 3)), window=VALID)
        fused_is_the_page(model, pictures("caffe").astype(dtype), "epsilon_gamma_box", dtype)


RESCALINGS = {
    "a scale": [affine("r", [1 / 127.5] * 3, [-1, -1, -1])],
    "a negative scale": [affine("r", [-1 / 255, 1 / 128, 2], [1, 0, -3])],
    "two scales": [affine("r", [1 / 255] * 3, [0] * 3), affine("s", [-2, 4, 3], [0.5, -1, 2])],
    "a norm": [replace(batch_norm("n", np.random.default_rng(2), 3), epsilon=1e-3)],
    "a pad, then a scale": [plain("p", "pad", pads=(1, 0, 2, 1)), affine("r", [0.1, -0.2, 0.3], [1, 2, 3])],
    "a crop": [plain("p", "crop", pads=(1, 1, 0, 2)), affine("r", [0.1, -0.2, 0.3], [1, 2, 3])],
    "other channels first": [
        plain("t", "permute", options={"dims": [3, 1, 2]}),
        *(plain(f"cut{i}", "crop", pads=(i, 2 - i, 0, 0), inputs=("t",)) for i in range(3)),
        plain("j", "concatenate", inputs=("cut2", "cut0", "cut1"), options={"axis": 0}),
        plain("u", "permute", options={"dims": [2, 3, 1]}),
    ],
    "a mean pool": [plain("p", "avgpool", window=Window((2, 2), (2, 2)))],
    "a max-pool": [plain("p", "maxpool", window=Window((3, 3), (2, 2), padding="same"))],
    "a resize": [plain("p", "resize", options={"size": [5, 11], "interpolation": "bilinear"})],
    "copies": [plain("p", "upsample", options={"size": [2, 1], "interpolation": "nearest"})],
    "a clip": [affine("r", [1 / 100] * 3, [0] * 3), plain("a", "activation", "hard_tanh(low=-1.0, high=1.25)")],
    "a leaky relu": [plain("a", "activation", "leaky_relu(negative_slope=0.1)")],
    "a sigmoid on a scale": [affine("r", [0.01, -0.02, 0.03], [0, 0, 0], activation="sigmoid")],
    "slopes": [plain("a", "prelu", arrays={"alpha": np.array([0.5, -0.25, 1.0])})],
}


@pytest.mark.parametrize("name", RESCALINGS)
def test_pixels_lie_in_the_box_and_reach_its_ends(name):
    """What the layer reads of black, white and random pictures: inside, and at both ends somewhere."""
    model = network(*RESCALINGS[name])
    plan = make_plan(model, "epsilon_gamma_box", "float64")
    place = [step.name for step in plan.steps].index("c")
    a = run_forward(plan.steps, pictures("caffe", 40)).activations[plan.steps[place].inputs[0] + 1]
    rule = plan.rules[place]
    low, high = (np.broadcast_to(getattr(rule.box or rule, end), a.shape[1:]) for end in ("low", "high"))
    slack = 1e-5 * np.ptp(a)  # caffe's pixels are float32
    assert (a >= low - slack).all()
    assert (a <= high + slack).all()
    reached = np.minimum(a.min(axis=0) - low, high - a.max(axis=0)) <= slack
    assert reached.all(), "the box is wider than the pictures"
    free = low < high - slack
    for end, of in (("low", low), ("high", high)):
        named = np.broadcast_to(getattr(rule, end), a.shape[-1:])
        assert np.abs(np.where(free, of - named, 0)).max() <= slack


def both_ways(composite, window, before=(), merge=True):
    """Return maps of pixels / 127.5 - 1 as a model's first layer, and given to a model without it; and the first model's plan."""
    inside = network(affine("r", [1 / 127.5] * 3, [-1] * 3), *before, mode="none", window=window)
    outside, x = network(*before, mode="tf", window=window), pictures("none")
    x[0, :, :, 0] = 127.5 + 1e-9 * np.arange(64).reshape(8, 8)  # where the layer gives next to nothing
    found = [
        nplrp.explain(model, at, composite, target=0, dtype="float64", merge=merge) for model, at in ((inside, x), (outside, x / 127.5 - 1))
    ]
    return [e.relevance for e in found], found[0].plan


@pytest.mark.parametrize("merge", [True, False])
def test_a_rescaling_inside_changes_no_map(merge):
    """Pixels / 127.5 - 1 before the model, or as its first layer: the same box, and the same relevance, whether norms are merged or not."""
    maps, plan = both_ways("epsilon_gamma_box", VALID, merge=merge)
    rule = plan.rules[1]
    np.testing.assert_allclose((rule.low, rule.high), [[0] * 3, [255] * 3] if merge else [[-1] * 3, [1] * 3], rtol=1e-12)
    np.testing.assert_allclose(*maps, rtol=1e-6, atol=1e-8 * np.abs(maps[1]).max())


@pytest.mark.parametrize(
    "composite", ["epsilon_gamma_box", "epsilon_plus_flat", "lrp.w_square", "lrp.flat", "lrp.sequential_preset_a_flat"]
)
@pytest.mark.parametrize("before", [[], [plain("p", "pad", pads=(1, 1, 1, 1))]], ids=["same", "a pad"])
def test_a_rescaling_that_cant_be_merged_passes_what_has_no_bound(composite, before):
    """Its relevance isn't in proportion to what it gives, so that no rule may divide by that: it is preparation, and passes."""
    maps, plan = both_ways(composite, VALID if before else SAME, before)
    assert plan.rules[0].name == "pass" and not plan.steps[0].merged
    np.testing.assert_allclose(*maps, rtol=1e-9, atol=1e-12 * np.abs(maps[1]).max())


def test_a_rescaling_below_rules_that_multiply_is_as_if_merged():
    """R = a c of the layer above, and x g / a of it below, are x g c: what the merged layer gives to the pixel."""
    inside = network(affine("r", [1 / 127.5] * 3, [-1] * 3), mode="none", window=VALID)
    maps = [nplrp.explain(inside, pictures("none"), "zero", target=0, dtype="float64", merge=merge) for merge in (True, False)]
    assert [rule.name for rule in maps[1].plan.rules[:2]] == ["zero", "zero"]
    np.testing.assert_allclose(*(e.relevance for e in maps), rtol=1e-9, atol=1e-12)


def test_first_layers_are_found_behind_what_prepares_the_picture():
    """The flat rule is the first real layer's; a batch norm is such a layer, whose rule is its own."""
    _, plan = both_ways("lrp.sequential_preset_a_flat", SAME)
    assert [rule.name for rule in plan.rules[:2]] == ["pass", "flat"]
    norm = make_plan(
        network(batch_norm("n", np.random.default_rng(2), 3)), {"rows": [{"rule": "flat", "reads_input": True}], "base": "epsilon"}
    )
    assert [rule.name for rule in norm.rules[:2]] == ["flat", "epsilon"]


def test_a_box_of_numbers_in_a_vector_is_each_pixels_own():
    flat = [plain("f", "flatten"), dense("h", random_kernel(RNG, 192, 4)), dense("d", HEAD, None, "linear")]
    model = build((8, 8, 3), flat, preprocessing=Preprocessing("caffe"))
    rule = box_of(model, "deep_taylor.bounded", "h", dialect="nplrp")
    assert (rule.low, rule.high) == (-123.68, 151.061)  # too many to name: the widest pair
    low, high = pixel_bounds("caffe")
    assert np.array_equal(rule.box.low.reshape(8, 8, 3), np.broadcast_to(low, (8, 8, 3)))
    assert np.array_equal(rule.box.high.reshape(8, 8, 3), np.broadcast_to(high, (8, 8, 3)))


REFUSED = {
    "a convolution": ([conv("first", random_kernel(RNG, 1, 1, 3, 3))], "first"),
    "a curve that falls": ([plain("first", "activation", "silu")], "first"),
    "a norm by its own deviation": ([plain("first", "layernorm", options={"axes": [2]}, epsilon=1e-3)], "first"),
    "a product": ([plain("first", "multiply", inputs=("input", "input"))], "first"),
    "pixels as channels": ([plain("first", "reshape", options={"shape": [8, 12, 2]})], "mixes pixels or channels"),
    "means with padding": ([plain("p", "pad", pads=(1, 1, 1, 1)), plain("a", "avgpool", window=Window((2, 2), (2, 2)))], "mixes pixels"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_behind_what_mixes_channels_the_box_has_to_be_given(name):
    before, named = REFUSED[name]
    kernel = random_kernel(RNG, 3, 3, 2, 4) if "pixels" in name else KERNEL
    model = network(*before, kernel=kernel)
    rules = {"name": "mine", "rows": [{"name": "c", "rule": "zbox"}, {"kind": ["conv", "dense", "avgpool"], "rule": "epsilon"}]}
    with pytest.raises(RuleError, match=rf"layer 'c': .*{named}.*give low and high.*zbox\(low=-1, high=1\)") as refused:
        make_plan(model, rules)
    assert "\n" not in str(refused.value)
    rules["rows"][0]["rule"] = "zbox(low=-3, high=3)"
    assert box_of(model, rules).box is None


def test_pixels_whose_range_is_not_known_have_no_box():
    with pytest.raises(RuleError, match=r"unknown preprocessing mode 'mine'; .*; or give low and high"):
        make_plan(network(mode="mine"), "epsilon_gamma_box")
    assert box_of(network(mode="mine"), "epsilon_gamma_box(low=-1, high=1)").low == -1


def test_ends_that_are_given_hold_for_padding_too():
    """As in Zennit and iNNvestigate."""
    model = network(plain("p", "pad", pads=(1, 1, 1, 1)), window=VALID)
    rule = box_of(model, "epsilon_gamma_box(low=-200, high=200)")
    assert (rule.low, rule.high, rule.box) == (-200, 200, None)


def test_golden_values_know_the_border(tmp_path):
    model = network(plain("p", "pad", pads=(1, 1, 1, 1)), window=VALID)
    recorded = golden.record(model, pictures("caffe", 2), "epsilon_gamma_box", 1)
    path = tmp_path / "g.lrpgold.h5"
    golden.write(recorded, path)
    assert golden.recompute(golden.read(path), model, pictures("caffe", 2)) == []
