"""Scores are the model's own: what each last activation means for labels, starts and targets, worked out from logits."""

import json

import numpy as np
import pytest

import nplrp
from nplrp.cli import main
from nplrp.errors import ModelError
from nplrp.model import Preprocessing, Window, chain
from nplrp.scores import scoring_of
from tests.networks import conv, dense, images, plain, random_kernel

KINDS = {
    "softmax": ("probability", 5),
    "log_softmax": ("log-probability", 5),
    "sigmoid": ("score", 5),
    "linear": ("logit", 5),
    "tanh": ("value", 5),
    "softplus": ("value", 5),
}


def net(activation, units, own=False, classes=None):
    """A dense network whose last activation is an attribute, or a layer of its own, with a dropout behind it."""
    rng = np.random.default_rng(3)
    last = dense("last", random_kernel(rng, 6, units), rng.normal(size=units), "linear" if own else activation)
    more = [plain("function", "activation", activation), plain("dropout", "identity")] if own else []
    return chain((7,), [dense("first", random_kernel(rng, 7, 6), rng.normal(size=6)), last, *more], "net", classes=classes)


def functions(z):
    """What NumPy makes of logits."""
    shifted = z - z.max(axis=-1, keepdims=True)
    soft = np.exp(shifted) / np.exp(shifted).sum(axis=-1, keepdims=True)
    return {
        "softmax": soft,
        "log_softmax": np.log(soft),
        "sigmoid": 1 / (1 + np.exp(-z)),
        "linear": z,
        "tanh": np.tanh(z),
        "softplus": np.log1p(np.exp(z)),
    }


def x_of(model, n=4):
    return images(5, n, model.input_shape)


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("activation", KINDS)
def test_scores_are_what_the_model_gives(activation, own):
    what, units = KINDS[activation]
    model = net(activation, units, own)
    e = nplrp.explain(model, x_of(model), "epsilon", dtype="float64")
    expected = functions(e.logits)[activation]
    np.testing.assert_allclose(e.output, expected, rtol=1e-12, atol=1e-15)
    assert np.array_equal(e.output, list(nplrp.forward(model, e.x, "float64").values())[-1])
    for row, labels in zip(e.output, e.labels(9), strict=True):
        assert [label.score for label in labels] == sorted(row.tolist(), reverse=True)
        assert [row[label.unit] for label in labels] == [label.score for label in labels]
        assert {label.what for label in labels} == {what}
    assert nplrp.outputs.top_labels(model, e.x, 9, "float64") == e.labels(9)
    assert e.relevance.shape == e.x.shape and np.array_equal(e.targets, np.argmax(e.logits, axis=1))


@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "sigmoid", "linear", "tanh", "softplus"])
def test_relevance_begins_before_the_last_activation(activation, own):
    """Whatever the score function, a pass of one logit is that of the network without it."""
    model, bare = net(activation, 5, own), net("linear", 5)
    for start in ("one", "logit", "relu_logit", "all", "contrastive"):
        target = None if start == "all" else 2
        found = nplrp.explain(model, x_of(model), "epsilon", target, "float64", start=start).relevance
        assert np.array_equal(found, nplrp.explain(bare, x_of(model), "epsilon", target, "float64", start=start).relevance)


@pytest.mark.parametrize(
    ("activation", "begins", "told"),
    [
        ("softmax", "softmax", ""),
        ("log_softmax", "softmax", "the softmax of the model's logits, as it gives log-probabilities"),
        ("linear", "softmax", "the softmax of the model's logits, as it gives logits"),
        ("sigmoid", "sigmoid", "the model's own output (sigmoid), as it has no softmax"),
        ("tanh", "tanh", "the model's own output (tanh), as it has no softmax"),
    ],
)
def test_the_notebook_says_what_it_begins_with(activation, begins, told):
    model = net(activation, 5)
    e = nplrp.explain(model, x_of(model), "notebook", dtype="float64")
    assert e.begins_with == told
    np.testing.assert_allclose(e.relevances["last"], functions(e.logits)[begins], rtol=1e-12)
    one = nplrp.explain(model, x_of(model), "notebook", 3, "float64")
    np.testing.assert_allclose(one.relevances["last"][:, 3], functions(e.logits)[begins][:, 3], rtol=1e-12)
    assert np.count_nonzero(one.relevances["last"]) == len(e.x)


@pytest.mark.parametrize("own", [False, True])
def test_one_sigmoid_unit_is_two_classes(own):
    model = net("sigmoid", 1, own)
    x = x_of(model, 20)
    e = nplrp.explain(model, x, "epsilon", dtype="float64", start="logit")
    z, p = e.logits[:, 0], e.output[:, 0]
    assert (z > 0).any() and (z < 0).any()
    assert np.array_equal(e.targets, (z > 0).astype(int))  # what it decides
    for labels, score in zip(e.labels(), p, strict=True):
        assert {label.unit: label.score for label in labels} == {1: score, 0: 1 - score}
        assert labels[0].score >= 0.5 and {label.what for label in labels} == {"probability"}
    yes, no = (nplrp.explain(model, x, "epsilon", target, "float64", start="logit") for target in (1, 0))
    assert np.array_equal(yes.relevances["last"][:, 0], z) and np.array_equal(no.relevances["last"][:, 0], -z)
    np.testing.assert_allclose(no.relevance, -yes.relevance, rtol=1e-12)
    for start, first, second in (
        ("one", 1, 1),
        ("relu_logit", np.maximum(z, 0), np.maximum(-z, 0)),
        ("softmax", p, 1 - p),
        ("contrastive", z, -z),
    ):
        for target, expected in ((1, first), (0, second)):
            found = nplrp.explain(model, x, "epsilon", target, "float64", start=start).relevances["last"][:, 0]
            np.testing.assert_allclose(found, np.broadcast_to(expected, z.shape), rtol=1e-12)
    assert np.array_equal(nplrp.explain(model, x, "notebook", dtype="float64").relevances["last"][:, 0], p)
    assert np.array_equal(nplrp.explain(model, x, "epsilon", dtype="float64", start="all").relevances["last"][:, 0], z)
    both = nplrp.explain(model, x, "epsilon", "top-2", "float64", start="logit")
    assert np.array_equal(both.targets.reshape(20, 2)[:, 0], (z > 0).astype(int)) and len(both.relevance) == 40
    with pytest.raises(ModelError, match="there is no class 2: the model's one sigmoid unit tells class 1 from class 0"):
        nplrp.explain(model, x, "epsilon", 2)


SIGNED = ("zplus", "alpha_beta", "gamma", "epsilon", "wsquare", "notebook", "lrp.alpha_2_beta_1", "epsilon_plus")


@pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("composite", SIGNED)
def test_each_class_of_one_unit_is_a_unit_of_two(composite, own):
    """The network with units -z and z gives every map, under rules that tell signs apart as well."""
    model = net("sigmoid", 1, own)
    layers = list(model.layers)
    at = next(i for i, layer in enumerate(layers) if layer.name == "last")
    two = {key: np.concatenate([-array, array], axis=-1) for key, array in layers[at].arrays.items()}
    layers[at] = dense("last", two["kernel"], two["bias"], "linear")
    pair, x = chain((7,), layers[: at + 1], "pair"), x_of(model, 12)
    for start in ("one", "logit"):
        mixed = nplrp.explain(model, x, composite, dtype="float64", start=start)
        assert set(mixed.targets) == {0, 1}
        both = [(nplrp.explain(model, x, composite, t, "float64", start=start), t) for t in (0, 1)]
        for e, target in ((mixed, mixed.targets.tolist()), *both):
            expected = nplrp.explain(pair, x, composite, target, "float64", start=start)
            np.testing.assert_allclose(e.relevance, expected.relevance, rtol=1e-12, atol=1e-15)
            for name in ("input", "first"):
                np.testing.assert_allclose(e.relevances[name], expected.relevances[name], rtol=1e-12, atol=1e-15)
            assert np.array_equal(e.relevances["input"], e.relevance)
            np.testing.assert_allclose(e.ledger.end, expected.ledger.end, rtol=1e-12, atol=1e-15)
        alone = [nplrp.explain(model, each[None], composite, dtype="float64", start=start).relevance[0] for each in x]
        assert np.array_equal(mixed.relevance, alone)


def test_the_gradient_of_the_other_class_is_negated():
    model = net("sigmoid", 1)
    yes, no = (nplrp.explain(model, x_of(model), "gradient", target, "float64", start="one").relevance for target in (1, 0))
    assert np.array_equal(no, -yes) and np.abs(yes).max() > 0


def test_names_of_two_classes():
    for classes in (((("n0", "cat"), ("n1", "dog"))), ((("n1", "dog"),))):
        model = net("sigmoid", 1, classes=classes)
        names = {label.unit: label.name for label in nplrp.explain(model, x_of(model, 1), "epsilon").labels()[0]}
        assert names == {1: "dog", 0: "cat" if len(classes) == 2 else "not dog"}
        assert nplrp.explain(model, x_of(model, 1), "epsilon", "dog").targets.tolist() == [1]
        assert nplrp.explain(model, x_of(model, 1), "epsilon", names[0]).targets.tolist() == [0]


def test_one_value_is_itself():
    model = net("linear", 1)
    e = nplrp.explain(model, x_of(model), "notebook", dtype="float64")
    assert e.labels()[0] == [(0, "0", "output 0", e.output[0, 0], "value")]
    assert np.array_equal(e.relevances["last"], e.output) and e.begins_with == "the model's own output (linear), as it has no softmax"


def test_positions_of_an_image():
    rng = np.random.default_rng(8)
    layers = [conv("one", random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4)), conv("two", random_kernel(rng, 3, 3, 4, 2), None, "linear")]
    model = chain((6, 5, 3), layers, "image", preprocessing=Preprocessing("caffe"))
    x = images(9, 2, model.input_shape)
    e = nplrp.explain(model, x, "epsilon", (4, 2, 1), "float64", start="logit")
    start = np.zeros_like(e.logits)
    start[:, 4, 2, 1] = e.logits[:, 4, 2, 1]
    assert np.array_equal(e.relevances["two"], start)
    assert np.array_equal(e.relevance, nplrp.explain(model, x, "epsilon", dtype="float64", start=start).relevance)
    assert [label[:3] for label in e.target_labels()] == [(4 * 10 + 2 * 2 + 1, "4,2,1", "output (4, 2, 1)")] * 2
    assert [label.score for label in e.target_labels()] == e.output[:, 4, 2, 1].tolist()
    each = nplrp.explain(model, x, "epsilon", [(4, 2, 1), "0,0,0"], "float64", start="one")
    assert np.argwhere(each.relevances["two"]).tolist() == [[0, 4, 2, 1], [1, 0, 0, 0]]
    for target, message in (
        ((6, 0, 0), r"no position \(6, 0, 0\) in the model's output, whose shape is \(6, 5, 2\)"),
        (3, r"a target is a position \(row, column, channel\), not 3"),
        ("dog", "not 'dog'"),
    ):
        with pytest.raises(ModelError, match=message):
            nplrp.explain(model, x, "epsilon", target)
    with pytest.raises(ModelError, match="there is no class to choose"):
        nplrp.explain(model, x, "epsilon")
    with pytest.raises(ModelError, match="it has no classes to name"):
        e.labels()


@pytest.mark.parametrize("activation", KINDS)
def test_the_scoring_of_a_model(activation):
    scoring = scoring_of(net(activation, 4, own=True))
    assert (scoring.name, scoring.what, scoring.classes, scoring.binary) == (activation, KINDS[activation][0], 4, False)


def test_command_line(tmp_path, capsys):
    from PIL import Image

    from weights_tools.write_hdf5 import write

    rng = np.random.default_rng(2)
    Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(tmp_path / "x.png")
    for activation, units, said in (
        ("sigmoid", 1, "the probability of class 1"),
        ("linear", 3, "logits"),
        ("sigmoid", 3, "for each label"),
    ):
        layers = [plain("flatten", "flatten"), dense("last", random_kernel(rng, 192, units), None, activation)]
        model, weights = chain((8, 8, 3), layers, "net", preprocessing=Preprocessing("tf")), tmp_path / f"{activation}{units}.h5"
        write(model, weights, tmp_path / "x.png", "tests")
        model = nplrp.load(weights)
        e = nplrp.explain(model, nplrp.preprocess(str(tmp_path / "x.png"), model), "epsilon")
        assert main(["info", str(weights)]) == 0
        assert said in capsys.readouterr().out
        assert main(["predict", str(tmp_path / "x.png"), "-w", str(weights), "--json"]) == 0
        (row,) = json.loads(capsys.readouterr().out)["images"]
        assert row["labels"] == [label._asdict() for label in e.labels()[0]]
        png = str(tmp_path / "o.png")
        assert main(["explain", str(tmp_path / "x.png"), "-w", str(weights), "-c", "notebook", "-o", png]) == 0
        assert "begins with" in capsys.readouterr().out


def test_a_logit_behind_a_relu_has_no_opposite_network():
    """The unit's logit is no sum with weights: class 0 begins with -z, and its map is the share of what the unit got."""
    layers = [dense("last", np.ones((7, 1)), np.zeros(1), "relu"), plain("function", "activation", "sigmoid")]
    model, x = chain((7,), layers), np.abs(x_of(net("sigmoid", 1)))
    yes, no = (nplrp.explain(model, x, "zplus", target, "float64", start="logit").relevance for target in (1, 0))
    assert np.abs(yes).min() > 0
    np.testing.assert_allclose(no, -yes, rtol=1e-12)


def pixels(activation, own, *behind):
    """A network that scores every pixel; `behind` says how its scores are reshaped."""
    rng = np.random.default_rng(8)
    last = conv("last", random_kernel(rng, 3, 3, 4, 3), rng.normal(size=3), "linear" if own else activation)
    more = [plain("function", "activation", activation)] if own else []
    layers = [conv("first", random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4)), last, *more, *behind]
    return chain((6, 5, 3), layers, "pixels", preprocessing=Preprocessing("caffe"))


def reshaped(*shape):
    return plain("shape", "reshape", options={"shape": shape})


@pytest.mark.parametrize("behind", [(), (reshaped(30, 3), plain("dropout", "identity")), (reshaped(5, 6, 3),)])
@pytest.mark.parametrize("own", [False, True])
@pytest.mark.parametrize("activation", ["softmax", "log_softmax", "sigmoid"])
def test_scores_at_every_pixel(activation, own, behind):
    """As of segmentation: scores over the channels of each pixel, in whatever shape; relevance begins at the logits."""
    model, bare = pixels(activation, own, *behind), pixels("linear", own)
    x = images(9, 2, model.input_shape)
    e = nplrp.explain(model, x, "epsilon", dtype="float64", start="all")
    z = nplrp.predict(bare, x, "float64")
    assert e.logits.shape == e.output.shape == (2, *model.output_shape)
    assert np.array_equal(e.logits, z.reshape(e.logits.shape)) and np.array_equal(nplrp.logits(model, x, "float64"), e.logits)
    np.testing.assert_allclose(e.output, functions(z)[activation].reshape(e.output.shape), rtol=1e-12)
    assert np.array_equal(e.relevance, nplrp.explain(bare, x, "epsilon", dtype="float64", start="all").relevance)
    place = np.unravel_index(4 * 15 + 2 * 3 + 1, model.output_shape)
    at = tuple(int(i) for i in place)
    for start in ("one", "logit", "contrastive"):
        found = nplrp.explain(model, x, "epsilon", at, "float64", start=start)
        assert np.array_equal(found.relevance, nplrp.explain(bare, x, "epsilon", (4, 2, 1), "float64", start=start).relevance)
        assert [label.score for label in found.target_labels()] == e.output[(slice(None), *at)].tolist()
    whole = nplrp.explain(model, x, "notebook", dtype="float64")
    begins = functions(z)["sigmoid" if activation == "sigmoid" else "softmax"]
    np.testing.assert_allclose(whole.relevances[model.layers[-1].name].ravel(), begins.ravel(), rtol=1e-12)
    both = nplrp.explain_each(model, x, ["notebook", "epsilon"], at, "float64")
    assert np.array_equal(both[1].relevance, nplrp.explain(model, x, "epsilon", at, "float64").relevance)


@pytest.mark.parametrize(("activation", "units"), [("sigmoid", 1), ("softmax", 4), ("tanh", 4)])
def test_flattened_scores_are_scores(activation, units):
    """A convolution as large as the picture, and a flatten behind it, are a dense layer: the same classes, starts and maps."""
    rng = np.random.default_rng(3)
    kernel, bias = random_kernel(rng, 6, 5, 3, units), rng.normal(size=units)
    flat = plain("flatten", "flatten")
    model = chain((6, 5, 3), [conv("last", kernel, bias, activation, Window((6, 5))), flat], "net")
    twin = chain((6, 5, 3), [flat, dense("last", kernel.reshape(90, units), bias, activation)], "net")
    assert scoring_of(model) == scoring_of(twin)
    x = images(9, 6, model.input_shape)
    for composite in ("epsilon", "zplus", "notebook"):
        e, expected = (nplrp.explain(each, x, composite, dtype="float64") for each in (model, twin))
        assert np.array_equal(e.targets, expected.targets) if e.targets is not None else expected.targets is None
        np.testing.assert_allclose(e.relevance, expected.relevance, rtol=1e-9, atol=1e-12)
        assert [label[:3] for label in e.target_labels()] == [label[:3] for label in expected.target_labels()]
        np.testing.assert_allclose(e.output, expected.output, rtol=1e-12)
