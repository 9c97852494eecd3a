"""What a model gives without an explanation, layer by layer or not, and explanations that share a forward pass."""

import copy
import pickle

import numpy as np
import pytest

import nplrp
from nplrp import fused, outputs
from nplrp.errors import LayerError, ModelError, RuleError
from nplrp.model import chain
from nplrp.rules.composites import COMPOSITES
from tests.bits import NETWORKS
from tests.networks import conv, dense, images, plain, pool, random_kernel, small_resnet, small_vgg


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", NETWORKS)
def test_outputs_are_those_of_an_explanation(name, dtype):
    model = NETWORKS[name]()
    x = images(3, outputs.CHUNK + 1, model.input_shape)
    composite = "notebook" if len(model.output_shape) == 1 else "epsilon"
    e = nplrp.explain(model, x, composite, dtype=dtype, start="all")
    assert np.array_equal(nplrp.predict(model, x, dtype), e.output)
    assert np.array_equal(nplrp.logits(model, x, dtype), e.logits)
    assert np.array_equal(nplrp.predict(model, x[2:3], dtype), e.output[2:3])
    assert np.array_equal(
        nplrp.forward(model, x, dtype, layers=model.layers[-1].name)[model.layers[-1].name], e.activations[model.layers[-1].name]
    )


def test_no_layer_is_kept():
    """Of 30 layers of 64 kB no more than the input, the output and one more of a step are in memory at once."""
    rng = np.random.default_rng(0)
    layers = [conv(f"conv{i}", random_kernel(rng, 3, 3, 16, 16)) for i in range(30)]
    model = chain((32, 32, 16), [*layers, pool("mean", "global_avgpool"), dense("logits", random_kernel(rng, 16, 5))])
    nplrp.logits(model, images(0, 1, (32, 32, 16)))
    (workspace,) = model.kept.workspaces
    assert 0 < workspace.size < 4 * 32 * 32 * 16 * 4


def test_views_outlive_what_they_look_at():
    """Flatten is a view; what it shows isn't given away while a later layer still reads it."""
    rng = np.random.default_rng(1)
    layers = [
        conv("a", random_kernel(rng, 3, 3, 3, 4)),
        plain("flat", "flatten"),
        plain("again", "identity"),
        dense("b", random_kernel(rng, 256, 256)),
        dense("c", random_kernel(rng, 256, 256)),
        dense("d", random_kernel(rng, 256, 3), activation="linear"),
    ]
    model, x = chain((8, 8, 3), layers), images(2, 3, (8, 8, 3))
    for _ in range(3):
        assert np.array_equal(nplrp.logits(model, x), nplrp.forward(model, x)["d"])


def test_layers_that_are_asked_for():
    model, x = small_resnet(), images(4, outputs.CHUNK + 2, (16, 16, 3))
    everything = nplrp.forward(model, x)
    names = [name for i, name in enumerate(everything) if i % 3 == 0]
    some = nplrp.forward(model, x, layers=reversed(names))
    assert list(some) == names
    for name in names:
        assert np.array_equal(some[name], everything[name])
    with pytest.raises(LayerError, match="no layer 'fc9'"):
        nplrp.forward(model, x, layers=["input", "fc9"])
    assert nplrp.forward(model, x, layers=[]) == {}


# --- several composites --------------------------------------------------------------------------------------------------

SETS = [["notebook", "zplus", "epsilon"], ["zplus", "notebook"], list(COMPOSITES), ["gamma", "guided_backprop", "epsilon_plus", "zplus"]]


@pytest.mark.parametrize("composites", SETS, ids=lambda names: f"{names[0]} and {len(names) - 1} more")
@pytest.mark.parametrize("name", NETWORKS)
def test_composites_share_the_forward_pass_bit_for_bit(name, composites):
    model = NETWORKS[name]()
    x, fit = images(5, 2, model.input_shape), []
    start = None if len(model.output_shape) == 1 else "all"
    for composite in composites:
        try:
            nplrp.make_plan(model, composite)
        except RuleError:
            continue  # a box needs a picture
        fit.append(composite)
    each = nplrp.explain_each(model, x, fit, start=start)
    for composite, e in zip(fit, each, strict=True):
        alone = nplrp.explain(model, x, composite, start=start)
        assert e.plan is alone.plan
        for what in ("relevance", "output", "logits"):
            assert np.array_equal(getattr(e, what), getattr(alone, what)), (composite, what)


def test_the_second_composite_computes_no_layer_again(monkeypatch):
    model, x, calls = small_vgg(), images(6, 3, (8, 8, 3)), []
    compute = fused._forward
    monkeypatch.setattr(fused, "_forward", lambda fusion, *rest: calls.append(fusion.step.name) or compute(fusion, *rest))
    nplrp.explain_each(model, x, ["zplus", "alpha_beta", "epsilon"])
    assert len(calls) == 5  # layers with weights


def test_no_composite():
    with pytest.raises(RuleError, match="no composite"):
        nplrp.explain_each(small_vgg(), images(6, 1, (8, 8, 3)), [])


def test_progress_is_told_chunk_by_chunk():
    seen = []
    nplrp.explain(small_vgg(), images(6, 2 * outputs.CHUNK + 1, (8, 8, 3)), progress=lambda *done: seen.append(done))
    n = 2 * outputs.CHUNK + 1
    assert seen == [(outputs.CHUNK, n), (2 * outputs.CHUNK, n), (n, n)]


# --- explanations that travel ------------------------------------------------------------------------------------------


def test_copies_at_any_time():
    model, x = small_vgg(), images(7, 2, (8, 8, 3))
    e = nplrp.explain(model, x, "zplus", target="top-2")
    for asked in (lambda: None, lambda: e.relevances, lambda: e.ledger, lambda: e.activations):
        asked()
        for other in (pickle.loads(pickle.dumps(e)), copy.deepcopy(e), copy.copy(e)):
            assert np.array_equal(other.relevance, e.relevance)
            assert np.array_equal(other.relevances["fc1"], e.relevances["fc1"])
            assert other.target_labels() == e.target_labels()
            assert str(other.ledger) == str(e.ledger)
            assert str(other.plan) == str(e.plan)
    with pytest.raises(TypeError):
        e.relevances["fc1"] = 0
    with pytest.raises(LayerError, match="did you mean 'fc1'"):
        e.relevances["fc2"]


def test_the_ledger_of_a_batch_runs_image_by_image(monkeypatch):
    model, x, seen = small_vgg(), images(8, outputs.CHUNK + 1, (8, 8, 3)), []
    e = nplrp.explain(model, x, "epsilon", target=[0, 1] * 4 + [2])
    run = fused.run_forward
    monkeypatch.setattr(fused, "run_forward", lambda plan, x, *rest: seen.append(len(x)) or run(plan, x, *rest))
    ledger = e.ledger
    assert seen == [1] * len(x)
    for i in range(len(x)):
        alone = nplrp.explain(model, x[i : i + 1], "epsilon", target=int(e.targets[i])).ledger
        assert alone.as_rows() == ledger.image(i).as_rows()


def test_input_of_another_shape():
    with pytest.raises(ModelError, match=r"takes \(n, 8, 8, 3\)"):
        nplrp.logits(small_vgg(), np.zeros((1, 8, 8, 1)))
