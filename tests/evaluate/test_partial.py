"""A patch is replaced, and only what it changes is computed: the same scores as whole passes give, and fewer operations."""

import numpy as np
import pytest

from nplrp.errors import NumericsError
from nplrp.evaluate import partial, pixel_flipping, scores_of
from nplrp.evaluate.partial import Walk
from nplrp.evaluate.perturbing import boxes_in_order, ranks_in_order, regions
from nplrp.model import Window, chain
from tests.networks import batch_norm, conv, dense, plain, pool, random_kernel, small_resnet, small_vgg


def mixed():
    """Strides, dilation, odd padding, batch norms, average pools, layers of activations: [n, 23, 18, 2] -> [n, 3]."""
    rng = np.random.default_rng(0)
    layers = [
        conv("a", random_kernel(rng, 5, 3, 2, 4), rng.normal(size=4), "linear", Window((5, 3), (2, 1), padding="same")),
        batch_norm("norm", rng, 4),
        plain("relu", "activation", "relu"),
        conv("b", random_kernel(rng, 3, 3, 4, 4), None, "elu", Window((3, 3), (1, 1), (2, 2), padding=(2, 1, 0, 3))),
        pool("mean", "avgpool", Window((2, 2), (1, 2))),
        conv("c", random_kernel(rng, 3, 3, 4, 5), rng.normal(size=5), "tanh", Window((3, 3))),
        pool("max"),
        plain("flatten", "flatten"),
    ]
    probe = chain((23, 18, 2), layers)
    size = probe.output_shape[0]
    return chain((23, 18, 2), [*layers, dense("out", random_kernel(rng, size, 3), None, "softmax")], "mixed")


def wide():
    """Convolutions wide enough for Winograd's tiles: [n, 48, 44, 3] -> [n, 4]."""
    rng = np.random.default_rng(1)
    layers = [conv("a", random_kernel(rng, 3, 3, 3, 64), 0.1 * rng.normal(size=64))]
    layers += [conv(name, random_kernel(rng, 3, 3, 64, 64), 0.1 * rng.normal(size=64)) for name in ("b", "c")]
    layers += [pool("pool"), conv("d", random_kernel(rng, 3, 3, 64, 64)), pool("all", "global_avgpool")]
    return chain((48, 44, 3), [*layers, dense("out", random_kernel(rng, 64, 4), None, "linear")], "wide")


MODELS = {"mixed": mixed(), "small": small_vgg(size=16), "wide": wide()}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("name", "patch"), [("mixed", 2), ("mixed", 3), ("small", 2), ("small", 4), ("wide", 4), ("wide", 7)])
@pytest.mark.parametrize("insert", [False, True])
def test_scores_are_those_of_whole_passes(name, patch, dtype, insert, monkeypatch):
    monkeypatch.setattr(partial, "PAYS", 1.0)
    model = MODELS[name]
    n = 3 if name == "wide" else 5  # more than are walked at once
    x = np.random.default_rng(2).normal(size=(n, *model.input_shape)).astype(dtype)
    walks = []

    def walker(patch):
        walks.append(Walk(model, (patch, patch), "logit", dtype))
        return walks[0]

    def predict(x):
        return scores_of(model, x, "logit", dtype)

    how = {"patch": patch, "step": 1, "most": 8 if name == "wide" else 30, "insert": insert, "baseline": "mean"}
    targets = np.array([0, 1, 2, 1, 0])[:n]
    whole = pixel_flipping(predict, x, x.sum(-1), targets, **how)
    walked = pixel_flipping(predict, x, x.sum(-1), targets, **how, walker=walker)
    assert walks[0].pays(1)
    assert walks[0].cost < 0.7
    tolerance = 1e-5 if dtype == "float32" else 1e-13
    assert np.allclose(walked.scores, whole.scores, rtol=0, atol=tolerance * np.abs(whole.scores).max())
    assert np.array_equal(walked.shares, whole.shares)


def test_what_is_computed_is_a_part():
    walk = Walk(MODELS["wide"], (4, 4))
    assert walk.cost < 0.3
    assert not walk.pays(10)


def test_where_nothing_is_saved_the_network_runs_as_always():
    assert Walk(small_resnet(), (2, 2)).cost == 1  # joins
    assert not Walk(small_vgg(size=8), (8, 8)).pays(1)  # all of it
    assert not Walk(chain((6,), [dense("a", np.ones((6, 2)))]), (1, 1)).pays(1)


@pytest.mark.parametrize(("shape", "patch"), [((6, 6, 1), 2), ((7, 9, 3), 4), ((5, 3, 1), 5)])
def test_boxes_are_the_regions(shape, patch):
    relevance = np.random.default_rng(0).normal(size=(2, *shape))
    turns, count = ranks_in_order(relevance, patch)
    boxes = boxes_in_order(turns, patch, count)
    assert boxes.shape == (2, count, 2, 2)
    for i in range(2):
        for turn, ((top, bottom), (left, right)) in enumerate(boxes[i]):
            inside = np.zeros(shape, bool)
            inside[top:bottom, left:right] = True
            assert np.array_equal(turns[i] == turn, inside)
    assert regions(shape, patch).max() + 1 == count


def test_a_nan_on_the_way_is_told():
    model = MODELS["small"]
    x = np.zeros((1, 16, 16, 3), np.float32)
    huge = np.full_like(x, 3e38)
    with pytest.raises(NumericsError, match="block1_conv1"):
        Walk(model, (4, 4))(x, huge, np.array([[[[0, 4], [0, 4]]]]), [0, 1])
