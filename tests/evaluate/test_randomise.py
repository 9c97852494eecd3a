"""Random weights, and maps that forget what was learned."""

import numpy as np
import pytest

import nplrp
from nplrp.errors import LayerError
from nplrp.evaluate import EvaluationError, evaluate, mprt, randomise
from nplrp.evaluate.randomising import layers_with_weights, randomised
from tests.networks import images, small_resnet, small_vgg

VGG, RESNET = small_vgg(), small_resnet()


def arrays(model):
    return {f"{layer.name}/{key}": array for layer in model for key, array in layer.arrays.items()}


def same(a, b):
    return {key for key, array in arrays(a).items() if np.array_equal(array, arrays(b)[key])}


@pytest.mark.parametrize("how", ["initial", "shuffle"])
def test_the_same_seed_gives_the_same_weights_in_any_company(how):
    whole = randomise(RESNET, 3, how=how)
    assert len(same(whole, randomise(RESNET, 3, how=how))) == len(arrays(RESNET))
    for name in layers_with_weights(RESNET):
        alone = randomise(RESNET, 3, name, "independent", how)
        for key, array in alone[name].arrays.items():
            assert np.array_equal(array, whole[name].arrays[key])
    other = randomise(RESNET, 4, how=how)
    assert not {key for key in same(whole, other) if key.endswith("kernel")}


def test_orders():
    top = layers_with_weights(VGG)
    assert top == ("predictions", "fc1", "block2_conv1", "block1_conv2", "block1_conv1")
    down = randomise(VGG, 0, "fc1")
    assert {key.split("/")[0] for key in set(arrays(VGG)) - same(VGG, down)} == {"predictions", "fc1"}
    alone = randomise(VGG, 0, ["fc1", "block1_conv1"], "independent")
    assert {key.split("/")[0] for key in set(arrays(VGG)) - same(VGG, alone)} == {"block1_conv1", "fc1"}
    last = dict(randomised(VGG, 0))["block1_conv1"]
    assert len(same(last, randomise(VGG, 0))) == len(arrays(VGG))


def test_statistics_are_kept_and_the_rest_begins_anew():
    made = randomise(RESNET, 0)
    assert {key for key in same(RESNET, made) if key.endswith(("mean", "variance"))} == {
        key for key in arrays(RESNET) if key.endswith(("mean", "variance"))
    }
    for key, array in arrays(made).items():
        if key.endswith(("bias", "beta")):
            assert not array.any()
        if key.endswith("gamma"):
            assert (array == 1).all()
        if key.endswith("kernel"):
            limit = np.sqrt(6 / (np.prod(array.shape[:-2]) * sum(array.shape[-2:])))
            assert np.abs(array).max() <= limit * (1 + 1e-6)
            assert array.std() == pytest.approx(limit / np.sqrt(3), rel=0.35)


def test_a_shuffle_keeps_every_number():
    made = randomise(VGG, 0, how="shuffle")
    for key, array in arrays(VGG).items():
        assert np.array_equal(np.sort(array, axis=None), np.sort(arrays(made)[key], axis=None))


def test_the_model_is_left_alone_and_its_hash_changes():
    before = VGG.content_hash
    assert randomise(VGG, 0, "fc1").content_hash != before == VGG.content_hash
    assert randomise(VGG, 0, []).content_hash == before


def test_correlations_depend_on_seed_and_image_alone():
    x = images(0, 3, VGG.input_shape)

    def explain(some):
        return lambda model: nplrp.explain(model, some, "epsilon_plus", 1).relevance

    maps = explain(x)(VGG)
    whole = mprt(explain(x), VGG, maps, seed=5)
    assert whole.correlations.shape == (3, 5)
    assert np.array_equal(whole.correlations, mprt(explain(x), VGG, maps, seed=5).correlations)
    assert not np.array_equal(whole.correlations, mprt(explain(x), VGG, maps, seed=6).correlations)
    for i in range(3):
        alone = mprt(explain(x[i : i + 1]), VGG, maps[i : i + 1], seed=5)
        assert np.array_equal(alone.correlations[0], whole.correlations[i])


def test_an_explanation_that_ignores_the_model_does_not_decay():
    x = images(0, 2, VGG.input_shape)
    decay = mprt(lambda model: x, VGG, x, order="independent")
    assert np.allclose(decay.correlations, 1)
    assert np.allclose(decay.mean, 1)


def test_by_evaluate():
    x = images(1, 2, RESNET.input_shape)
    one = evaluate(RESNET, x, "epsilon", ["mprt(order=independent)"])["epsilon", "mprt(order=independent)"]
    assert one.axis == layers_with_weights(RESNET)
    assert one.curve.shape == (2, len(one.axis))


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: randomise(VGG, 0, "fc7"), LayerError, "isn't in the model, so it can't be randomised; did you mean 'fc1'"),
        (lambda: randomise(VGG, 0, "flatten"), LayerError, "has no weights"),
        (lambda: randomise(VGG, 0, order="down"), EvaluationError, "there is no order 'down'"),
        (lambda: randomise(VGG, 0, how="zero"), EvaluationError, "there is no way 'zero'"),
        (lambda: randomise(VGG, -1), EvaluationError, "seed is -1"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()


def test_composites_share_randomised_models():
    x = images(2, 9, VGG.input_shape)
    names = ["epsilon", "notebook", "gradient", "epsilon_plus"]
    whole = evaluate(VGG, x, names, "mprt", seed=1)
    for name in names:
        assert np.array_equal(evaluate(VGG, x, name, "mprt", seed=1)[name, "mprt"].curve, whole[name, "mprt"].curve, equal_nan=True)
