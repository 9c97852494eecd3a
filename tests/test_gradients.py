"""The gradient family: against differences, and against definitions in loops over layers."""

import dataclasses

import numpy as np
import pytest

import nplrp
from nplrp.errors import RuleError
from nplrp.model import Preprocessing, chain
from nplrp.rules.composites import GRADIENTS
from tests import twins
from tests.networks import conv, dense, images, plain, pool, random_kernel, small_vgg


def test_gradient_is_the_derivative():
    model, x = small_vgg(size=4), images(1, 1, (4, 4, 3))
    found = nplrp.explain(model, x, "gradient", target=2, dtype="float64").relevance
    numeric, h = np.zeros_like(x), 1e-6
    for i in np.ndindex(x.shape):
        up, down = x.copy(), x.copy()
        up[i] += h
        down[i] -= h
        logits = [nplrp.explain(model, v, "gradient", target=2, dtype="float64", until="predictions").logits[0, 2] for v in (up, down)]
        numeric[i] = (logits[0] - logits[1]) / (2 * h)
    assert np.abs(found - numeric).max() < 1e-7 * np.abs(numeric).max()
    times = nplrp.explain(model, x, "input_t_gradient", target=2, dtype="float64").relevance
    assert np.array_equal(times, x * found)


def test_input_times_gradient_is_lrp_0_without_biases():
    model, x = small_vgg(biases=0), images(2, 3, (8, 8, 3))
    lrp0 = nplrp.explain(model, x, "zero", dtype="float64", start="logit").relevance
    gradient = nplrp.explain(model, x, "input_t_gradient", dtype="float64", start="one").relevance
    assert np.abs(gradient - lrp0).max() < 1e-12 * np.abs(lrp0).max()


@pytest.mark.parametrize("layer", ["input", "block1_conv2", "block2_pool", "fc1"])
def test_input_times_gradient_at_any_layer(layer):
    model, x = small_vgg(), images(5, 2, (8, 8, 3))
    gradient, times = (nplrp.explain(model, x, name, 1, "float64", until=layer) for name in ("gradient", "input_t_gradient"))
    a = x if layer == "input" else gradient.activations[layer]
    assert gradient.relevance.any()
    assert np.array_equal(times.relevance, gradient.relevance * a)


@pytest.mark.parametrize("composite", [*GRADIENTS, "notebook", "gamma", "zplus", "alpha_beta", "flat", "epsilon_gamma_box"])
def test_a_relu_of_its_own_is_the_layers_before_it(composite):
    rng = np.random.default_rng(6)
    layers = [
        conv("conv1", random_kernel(rng, 3, 3, 3, 5), rng.normal(size=5)),
        conv("conv2", random_kernel(rng, 3, 3, 5, 5), rng.normal(size=5)),
        pool("pool"),
        plain("flatten", "flatten"),
        dense("fc1", random_kernel(rng, 80, 6), rng.normal(size=6)),
        dense("out", random_kernel(rng, 6, 4), rng.normal(size=4), "linear"),
    ]
    apart = []
    for layer in layers:
        apart.append(dataclasses.replace(layer, activation="linear"))
        if layer.activation == "relu":
            apart.append(plain(f"{layer.name}_relu", "activation", "relu"))
    x, start = rng.normal(size=(2, 8, 8, 3)), rng.normal(size=(2, 4))
    one, other = (
        nplrp.explain(chain((8, 8, 3), each, preprocessing=Preprocessing("caffe")), x, composite, dtype="float64", start=start)
        for each in (layers, apart)
    )
    assert one.relevance.any()
    assert np.abs(one.relevance - other.relevance).max() <= 1e-13 * np.abs(one.relevance).max()


@pytest.mark.parametrize("method", GRADIENTS)
def test_definitions(method):
    rng = np.random.default_rng(3)
    W = [rng.normal(size=shape) for shape in ((4, 6), (6, 5), (5, 3))]
    b = [rng.normal(size=w.shape[1]) for w in W]
    names = ("a", "b", "c")
    layers = [dense(n, w, v, "relu" if n != "c" else "linear") for n, w, v in zip(names, W, b, strict=True)]
    W, b = [[v.astype(np.float32).astype(float) for v in each] for each in (W, b)]
    model = nplrp.model.chain((4,), layers)
    x, start = rng.normal(size=(1, 4)), rng.normal(size=(1, 3))
    first = x @ W[0] + b[0]
    second = np.maximum(first, 0) @ W[1] + b[1]
    g = start @ W[2].T
    for z, w in ((second, W[1]), (first, W[0])):
        g = {"guided_backprop": np.maximum(g, 0) * (z > 0), "deconvnet": np.maximum(g, 0)}.get(method, g * (z > 0)) @ w.T
    g = g * x if method == "input_t_gradient" else g
    found = nplrp.explain(model, x, method, dtype="float64", start=start)
    assert np.allclose(found.relevance, g, rtol=1e-13, atol=1e-15)
    with pytest.raises(RuleError, match=f"'{method}' is a gradient: it conserves nothing, so it has no ledger"):
        found.ledger  # noqa: B018
    assert set(found.relevances) == {"input", *names}
    assert method in str(found.plan)


def test_jacobians_of_layers_make_the_gradient():
    model, x = small_vgg(), images(4, 1, (8, 8, 3))
    e = nplrp.explain(model, x, "gradient", target=0, dtype="float64")
    R = e.relevances["block1_conv2"].reshape(-1) * (e.activations["block1_conv2"].reshape(-1) > 0)
    expected = twins.jacobian(e.plan.steps[1]).T @ R
    assert np.allclose(e.relevances["block1_conv1"].reshape(-1), expected, rtol=1e-12, atol=1e-15)
