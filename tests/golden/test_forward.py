"""The forward pass: deviations named, decisions counted, number formats."""

import dataclasses
import json

import numpy as np
import pytest

from nplrp import explain, golden, layers
from nplrp.golden.candidate import Candidate, read_candidate
from nplrp.golden.decisions import keeps_ties
from nplrp.golden.forward_faults import coarse, forward_deviations
from nplrp.golden.isolated import places_of
from nplrp.lrp import run_forward, run_step
from nplrp.model import chain
from nplrp.plan import make_steps
from tests import networks
from tests.golden import plain
from tests.networks import images, random_kernel, small_vgg


@pytest.fixture(scope="module")
def model():
    """Every kind of layer that something can be wrong with; a dense layer as wide as its input."""
    rng = np.random.default_rng(3)
    layers = [
        networks.conv("conv1", random_kernel(rng, 3, 3, 3, 6), rng.normal(size=6)),
        networks.pool("pool1"),
        networks.conv("conv2", random_kernel(rng, 3, 3, 6, 4), rng.normal(size=4), "linear"),
        networks.batch_norm("norm", rng, 4),
        networks.plain("relu", "activation", "relu"),
        networks.plain("flatten", "flatten"),
        networks.dense("fc1", random_kernel(rng, 64, 12), rng.normal(size=12)),
        networks.dense("fc2", random_kernel(rng, 12, 12), rng.normal(size=12)),
        networks.dense("predictions", random_kernel(rng, 12, 5), rng.normal(size=5), "softmax"),
    ]
    return chain((8, 8, 3), layers, "all kinds")


@pytest.fixture(scope="module")
def x():
    return images(4, 1, (8, 8, 3))


@pytest.fixture(scope="module")
def recorded(model, x):
    return golden.record(model, x, "epsilon_plus")


def faulty_runs(model, x):
    """Yield (layer, deviation, activations): right up to a layer, wrong there, and right again from what came of it."""
    steps, exact = (make_steps(model, np.dtype(dtype), "direct", merge=False) for dtype in ("float32", "float64"))
    names = ["input", *(step.name for step in steps)]
    right = run_forward(steps, x.astype("f4")).activations
    for i, layer in enumerate(model.layers):
        flattened = model.layers[i - 1].input_shape if i and model.layers[i - 1].kind == "flatten" else None
        for name, wrong in forward_deviations(exact[i], layer, np.asarray(right[i], np.float64), flattened):
            own = [*right[: i + 1], wrong.astype("f4")]
            for step in steps[i + 1 :]:
                own.append(run_step(step, own[-1]))
            yield layer.name, name, dict(zip(names, own, strict=True))


def test_every_forward_deviation_is_found_in_its_layer_and_named(recorded, model, x):
    seen, missed = set(), []
    for layer, name, activations in faulty_runs(model, x):
        for mode in ("local", "chained"):
            report = golden.check(recorded, Candidate({}, activations), mode=mode, model=model)
            first = report.first
            if first is None:  # a ReLU that cuts nothing off, say
                missed.append((layer, name))
                continue
            assert (first.layer, first.what) == (layer, "activation"), f"{name} in {layer}: {report}"
            assert report.diagnosis[0].startswith("the forward pass diverges")
            assert name in report.diagnosis[1] and " matches " in report.diagnosis[1], str(report)
            seen.add(name)
    assert len(seen) >= 15, seen
    right = Candidate(
        {},
        dict(zip(recorded.names, run_forward(make_steps(model, np.dtype("f4"), "direct", False), x.astype("f4")).activations, strict=True)),
    )
    assert golden.check(recorded, right, mode="local", model=model).passed
    for layer, name in missed:
        what = recorded[layer].activation.values
        assert "ReLU" in name or "relu" in name or not what.any(), (layer, name)


def test_relevance_that_follows_from_a_wrong_forward_pass_is_said_to(recorded, model, x):
    broken = dataclasses.replace(model, layers=tuple(without_bias(layer) if layer.name == "conv2" else layer for layer in model.layers))
    e = explain(broken, x, "epsilon_plus", recorded.facts["targets"])
    report = golden.check(recorded, Candidate(e.relevances, e.activations), model=model)
    assert "look there first" in report.diagnosis[0] and 'conv2 matches "bias left out"' in report.diagnosis[1], str(report)


def without_bias(layer):
    return dataclasses.replace(layer, arrays={"kernel": layer.arrays["kernel"]})


def test_isolated_activations_are_judged_and_named_too(recorded, model):
    step = make_steps(model, np.dtype("f8"), "direct", False)[0]
    wrong = run_step(dataclasses.replace(step, bias=np.zeros(6), prepared={}), recorded.input).astype("f4")
    report = golden.check(recorded, Candidate({}, {"conv1": wrong}), mode="isolated", model=model)
    assert report.first.layer == "conv1" and "bias left out" in report.diagnosis[1]


@pytest.mark.parametrize("bits", [7, 10])
def test_tensor_cores_rounding_is_named(recorded, model, bits):
    at = places_of(recorded, model, "float64")["fc1"]
    w, a = coarse(layers.wide(at.step), bits), coarse(at.a, bits)
    z = a @ w + at.step.bias
    s = coarse(at.R / (z + np.where(z < 0, -1, 1) * at.rule.epsilon), bits)
    got = (at.a * (s @ w.T)).astype("f4")
    report = golden.check(recorded, Candidate({"flatten": got}), mode="isolated", model=model)
    name = {7: "bfloat16", 10: "TF32"}[bits]
    assert report.first.layer == "fc1" and f'matches "inputs and weights rounded to {name}' in report.diagnosis[-1], str(report)


def test_coarse_is_the_formats_rounding():
    rng = np.random.default_rng(0)
    values = rng.normal(size=1000).astype("f4")
    bits = values.view("u4").astype("u8")
    bits += 0x7FFF + ((bits >> 16) & 1)
    np.testing.assert_array_equal(coarse(values.astype(float), 7), ((bits >> 16) << 16).astype("u4").view("f4"))
    np.testing.assert_array_equal(coarse(values.astype(float), 10).astype("f2"), values.astype("f2"))


# --- decisions --------------------------------------------------------------------------------------------------------


def deep(seed=0, size=64):
    """VGG16's thirteen convolutions, a quarter as wide, with a small head."""
    rng, layers, before = np.random.default_rng(seed), [], 3
    for block, (depth, width) in enumerate(((2, 16), (2, 32), (3, 64), (3, 128), (3, 128)), 1):
        for i in range(1, depth + 1):
            layers.append(networks.conv(f"block{block}_conv{i}", random_kernel(rng, 3, 3, before, width), rng.normal(size=width) * 0.1))
            before = width
        layers.append(networks.pool(f"block{block}_pool"))
    layers += [networks.plain("flatten", "flatten")]
    flat = before * (size // 32) ** 2
    layers += [networks.dense("predictions", random_kernel(rng, flat, 10), rng.normal(size=10) * 0.1, "softmax")]
    return chain((size, size, 3), layers, f"deep, seed {seed}")


@pytest.fixture(scope="module")
def flat_image():
    """A picture with a flat half, as scans on black have: its places tie exactly, with relevance on them."""
    x = np.random.default_rng(5).uniform(0, 255, (1, 64, 64, 3)) - 110
    x[:, :, 30:] = -110
    return x


@pytest.fixture(scope="module")
def flat_recorded(flat_image):
    return golden.record(deep(), flat_image, "epsilon_plus")


@pytest.mark.parametrize("order", plain.FAST)
def test_backends_that_break_ties_aren_t_blamed(order, flat_recorded):
    """Who doesn't sum all places alike gets noise for winners of the flat half, and relevance moves by percents."""
    at = next(iter(places_of(flat_recorded, deep(), "float32").values()))
    top = flat_recorded.layers[-1].relevance.values.astype("f4")
    activations, relevances = plain.end_to_end(at.plan, at.trace, top, order)
    candidate = Candidate(
        dict(zip(flat_recorded.names[::-1], relevances, strict=True)), dict(zip(flat_recorded.names, activations, strict=True))
    )
    report = golden.check(flat_recorded, candidate)
    assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"} and len(report.rows) == 2 * len(flat_recorded.names), str(report)
    assert sum(each.unexplained for each in report.decisions) == 0
    if order == "uneven":
        assert sum(each.other for each in report.decisions) > 100 and not keeps_ties(flat_recorded, candidate.activations)
        assert max(row.judgement.minimum_rtol for row in report.rows) > 0.01
        assert "all of them ambiguous" in str(report)
    local = golden.check(flat_recorded, candidate, mode="local", model=deep())
    assert {row.verdict for row in local.rows} <= {"EXACT", "WITHIN"} and len(local.rows) == 2 * len(flat_recorded.names), str(local)


def test_who_keeps_ties_is_held_to_it(flat_recorded, flat_image):
    e = explain(deep(), flat_image, "epsilon_plus", flat_recorded.facts["targets"], "float32", "direct")
    assert keeps_ties(flat_recorded, e.activations)
    report = golden.check(flat_recorded, Candidate(e.relevances, e.activations))
    assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"} and len(report.rows) == 2 * len(flat_recorded.names), str(report)
    at = places_of(flat_recorded, deep(), "float32")["block1_pool"]
    from nplrp.golden.isolated import fault_named

    wrong = {**e.relevances, "block1_conv2": fault_named(10).run(at)}
    assert not golden.check(flat_recorded, Candidate(wrong, e.activations)).passed
    assert golden.check(flat_recorded, Candidate(wrong)).passed  # without activations nobody knows whether its ties lasted


def test_a_run_that_opens_another_relu_excuses_only_who_does_so_too():
    """One unit of a dense layer moves relevance by percents; convolutions above it don't know of it, nor does who decides as golden."""
    model, x = small_vgg(5, size=16), images(1, 1, (16, 16, 3))
    recorded = golden.record(model, x, "epsilon_plus")
    other, unit = 4, int(np.argmax(recorded["fc1"].activation.values > 0))

    def spread(layer):
        rows = np.full((8, 2), 1e-6)
        rows[other] = 0.02 if recorded.names.index(layer.name) < recorded.names.index("fc1") else 1e-6
        return rows

    layers = []
    for layer in recorded.layers:
        ambiguous = layer.ambiguous.copy()
        ambiguous[0, unit] |= layer.name == "fc1"
        relevance = dataclasses.replace(layer.relevance, spread=spread(layer))
        layers.append(dataclasses.replace(layer, relevance=relevance, ambiguous=ambiguous))
    runs = [{**run, "signs": {"fc1": 1} if i == other else {}} for i, run in enumerate(recorded.facts["runs"])]
    recorded = dataclasses.replace(recorded, layers=tuple(layers), facts={**recorded.facts, "runs": runs})
    activations = {layer.name: layer.activation.values.astype("f4") for layer in recorded.layers}
    relevances = {layer.name: layer.relevance.values.astype("f4") for layer in recorded.layers}
    relevances["block1_pool"] = relevances["block1_pool"] * np.float32(1.01)
    report = golden.check(recorded, Candidate(relevances, activations))
    assert report.first.array == "block1_pool", str(report)
    flipped = activations["fc1"].copy()
    flipped[0, unit] = 0
    report = golden.check(recorded, Candidate(relevances, {**activations, "fc1": flipped}))
    assert report.row("block2_conv1").verdict == "WITHIN", str(report)
    elsewhere = activations["block1_conv1"].copy()
    elsewhere[elsewhere > 0] = np.where(np.arange((elsewhere > 0).sum()) == 0, 0, elsewhere[elsewhere > 0])
    report = golden.check(recorded, Candidate(relevances, {**activations, "block1_conv1": elsewhere}))
    assert report.row("block2_conv1").verdict == "inherited", str(report)
    assert golden.check(recorded, Candidate(relevances)).passed  # without activations nobody knows what it decided


def test_a_wrong_decision_is_not_called_ambiguous(flat_recorded, flat_image):
    e = explain(deep(), flat_image, "epsilon_plus", flat_recorded.facts["targets"], "float32", "direct")
    wrong = dict(e.activations)
    wrong["block1_conv2"] = np.where(wrong["block1_conv2"] > 20, 0, wrong["block1_conv2"])
    report = golden.check(flat_recorded, Candidate({}, wrong))
    signs = next(each for each in report.decisions if each.layer == "block1_conv2")
    assert signs.what == "sign" and signs.unexplained == signs.other > 0
    assert "more than rounding explains" in str(report)
    assert json.loads(json.dumps(report.as_json()))["decided_otherwise"]


# --- formats ----------------------------------------------------------------------------------------------------------


def as_bfloat16(values):
    return (np.asarray(coarse(np.asarray(values, float), 7), "<f4").view("<u4") >> 16).astype("<u2")


def write_bfloat16(path, arrays):
    """A safetensors file by hand: 8 bytes of length, a JSON table, the numbers."""
    table, body = {}, b""
    for name, array in arrays.items():
        data = as_bfloat16(array).tobytes()
        table[name] = {"dtype": "BF16", "shape": list(array.shape), "data_offsets": [len(body), len(body) + len(data)]}
        body += data
    head = json.dumps(table).encode()
    path.write_bytes(len(head).to_bytes(8, "little") + head + body)


def test_bfloat16_is_read_and_judged_as_such(tmp_path):
    model, x = small_vgg(5, size=16), images(1, 1, (16, 16, 3))
    recorded = golden.record(model, x, "epsilon_plus")
    R = {name: recorded[name].relevance.values for name in ("fc1", "flatten", "block2_conv1")}
    write_bfloat16(tmp_path / "b.safetensors", R)
    candidate = read_candidate(tmp_path / "b.safetensors")
    np.testing.assert_array_equal(candidate.relevances["fc1"], coarse(R["fc1"], 7))
    report = golden.check(recorded, candidate, mode="isolated")
    assert report.passed and report.precision == "bfloat16", str(report)
    assert not golden.check(recorded, candidate, mode="isolated", precision="float32").passed
    upcast = Candidate({name: coarse(each, 7).astype("f4") for name, each in R.items()})  # NumPy has no bfloat16
    assert golden.check(recorded, upcast, mode="isolated").precision == "bfloat16"
    start = Candidate({"predictions": recorded["predictions"].relevance.values.astype("f4")})
    assert golden.check(recorded, start, mode="isolated").precision == "float32"
