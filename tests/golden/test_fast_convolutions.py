"""Bounds of convolutions that aren't plain sums: against loops, and against Winograd and Fourier convolutions in float32."""

import dataclasses

import numpy as np
import pytest

from nplrp import explain, golden
from nplrp.golden import fast_convolutions as fast
from nplrp.golden.candidate import Candidate
from nplrp.golden.errors import GoldenError
from nplrp.golden.faults import redistributed
from nplrp.golden.isolated import fault_named, isolated_run, places_of
from nplrp.golden.recording import digest_of
from nplrp.model import chain
from tests.networks import conv, dense, plain, pool, random_kernel


def winograd(a, w, pads, points):
    """|A^T| [(|G| |g| |G^T|) * (|B^T| |d| |B|)] |A|, tile by tile."""
    at, g, bt = (np.abs(matrix) for matrix in fast.matrices(points))
    top, bottom, left, right = pads
    a = np.pad(a, ((0, 0), (top, bottom + 4), (left, right + 4), (0, 0)))
    rows, columns = a.shape[1] - 6, a.shape[2] - 6
    found = np.zeros((len(a), rows + 4, columns + 4, w.shape[3]))
    kernels = np.einsum("pi,qj,ijck->pqck", g, g, w)
    for i in range(0, rows, 4):
        for j in range(0, columns, 4):
            d = np.einsum("pi,qj,nijc->npqc", bt, bt, a[:, i : i + 6, j : j + 6])
            found[:, i : i + 4, j : j + 4] = np.einsum("ip,jq,npqk->nijk", at, at, np.einsum("npqc,pqck->npqk", d, kernels))
    return found[:, :rows, :columns]


@pytest.mark.parametrize("pads", [(1, 1, 1, 1), (0, 0, 0, 0), (2, 2, 2, 2)])
def test_magnitudes_are_those_of_the_tiles(pads):
    rng = np.random.default_rng(0)
    a, w = rng.uniform(size=(2, 9, 11, 3)), rng.uniform(size=(3, 3, 3, 5))
    expected = np.maximum(*(winograd(a, w, pads, points) for points in fast.POINTS))
    np.testing.assert_allclose(fast.magnitudes(a, w, pads, "winograd"), expected, rtol=1e-12)


@pytest.mark.parametrize("points", fast.POINTS)
def test_the_matrices_convolve(points):
    at, g, bt = fast.matrices(points)
    rng = np.random.default_rng(1)
    d, k = rng.normal(size=(6, 6)), rng.normal(size=(3, 3))
    expected = [[np.sum(d[i : i + 3, j : j + 3] * k) for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(at @ ((g @ k @ g.T) * (bt @ d @ bt.T)) @ at.T, expected, rtol=1e-12, atol=1e-12)


@pytest.fixture(scope="module")
def model():
    """Wide enough for nplrp's own Winograd kernels."""
    rng = np.random.default_rng(0)
    layers = [
        conv("conv1", random_kernel(rng, 3, 3, 3, 64), rng.normal(size=64) * 0.2),
        conv("conv2", random_kernel(rng, 3, 3, 64, 64), rng.normal(size=64) * 0.2),
        pool("pool1"),
        conv("conv3", random_kernel(rng, 3, 3, 64, 96), rng.normal(size=96) * 0.2),
        pool("pool2"),
        plain("flatten", "flatten"),
        dense("predictions", random_kernel(rng, 3 * 3 * 96, 5), rng.normal(size=5) * 0.2, "softmax"),
    ]
    return chain((14, 14, 3), layers, "wide")


@pytest.fixture(scope="module")
def x():
    """An image that is flat but for a corner, so that tiles hold sums of very different sizes and places tie."""
    image = np.zeros((1, 14, 14, 3))
    image[0, 9:, 9:] = np.random.default_rng(2).normal(size=(5, 5, 3)) * 50
    return image


@pytest.fixture(scope="module")
def recorded(model, x):
    return golden.record(model, x, "epsilon_plus")


def test_winograd_stays_within_its_own_bounds(recorded, model, x):
    single, direct = (isolated_run(recorded, model, algorithm=each) for each in ("auto", "direct"))
    different = {name for name, R in single.relevances.items() if not np.array_equal(R, direct.relevances[name])}
    assert different == {"pool1", "conv1"}  # below the convolutions that run by Winograd tiles
    report = golden.check(recorded, single, mode="isolated", model=model, convolutions="winograd")
    assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"} and len(report.rows) == 7, str(report)
    e = explain(model, x, "epsilon_plus", dtype="float32")
    whole = Candidate(e.relevances, e.activations)
    report = golden.check(recorded, whole, mode="local", model=model, convolutions="winograd")
    assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"}, str(report)
    assert len(report.rows) == 16
    assert golden.check(recorded, whole).passed


@pytest.mark.parametrize("convolutions", ["winograd", "fft"])
def test_bounds_are_wider_than_those_of_sums_but_catch_what_is_wrong(recorded, model, convolutions):
    direct = isolated_run(recorded, model)
    options = {"mode": "isolated", "model": model, "convolutions": convolutions}
    narrow, wide = golden.check(recorded, direct, mode="isolated"), golden.check(recorded, direct, **options)
    for a, b in zip(narrow.rows, wide.rows, strict=True):
        assert b.judgement.ratio <= a.judgement.ratio
    assert wide.row("conv3").judgement.ratio < 0.2 * narrow.row("conv3").judgement.ratio
    caught = []
    for number in (5, 9):
        for layer, at in places_of(recorded, model, "float32").items():
            got, (below,) = fault_named(number).run(at), recorded.inputs[layer]
            if got is not None and np.abs(recorded[below].relevance.values).max() > 0:
                report = golden.check(recorded, Candidate({below: got}), **options)
                assert report.first.layer == at.step.name, f"{number} in {at.step.name}"
                caught.append((number, at.step.name))
    assert sorted(caught) == [(number, f"conv{i}") for number in (5, 9) for i in (1, 2, 3)]


def fourier(a, w, pads):
    """A convolution by Fourier transforms in float32: [n, h, w, cin], HWIO."""
    top, bottom, left, right = pads
    size = (a.shape[1] + top + bottom, a.shape[2] + left + right)
    padded = np.pad(a, ((0, 0), (top, bottom), (left, right), (0, 0)))
    spectrum = np.conj(np.fft.rfft2(w, size, axes=(0, 1)))
    product = np.einsum("nijc,ijck->nijk", np.fft.rfft2(padded, axes=(1, 2)), spectrum)
    found = np.fft.irfft2(product, size, axes=(1, 2))
    assert found.dtype == np.float32
    return found[:, : size[0] - w.shape[0] + 1, : size[1] - w.shape[1] + 1]


def test_fourier_convolutions_stay_within_their_own_bounds(recorded, model):
    at = places_of(recorded, model, "float32")["conv3"]
    w = np.maximum(at.step.weight, 0)
    flipped = np.ascontiguousarray(w[::-1, ::-1].transpose(0, 1, 3, 2))
    pads = at.step.window.pads(*at.step.input_shape[:2])
    z = fourier(at.a, w, pads) + np.maximum(at.step.bias, 0)
    s = at.R / (z + np.float32(at.rule.epsilon))
    got = (at.a * fourier(s, flipped, pads)).astype("f4")
    right = redistributed(at, lambda s, changes: [fourier(s, flipped, pads)])
    assert np.abs(got - right).max() <= 1e-4 * np.abs(right).max()
    report = golden.check(recorded, Candidate({"pool1": got}), mode="isolated", model=model, convolutions="fft")
    assert report.rows[0].verdict == "WITHIN" and report.rows[0].judgement.ratio > 0
    assert golden.check(recorded, Candidate({"pool1": got * np.float32(1.1)}), mode="isolated", model=model, convolutions="fft").first


def test_a_winograd_backend_that_is_judged_as_sums_is_told_so(recorded, model):
    at = places_of(recorded, model, "float32")["conv3"]
    a = np.zeros_like(at.a)
    a[:, ::2] = 1.0
    layer = recorded["pool1"]
    got = layer.relevance.values + 2.0 * layer.relevance.certified * (layer.relevance.values != 0)
    report = golden.check(recorded, Candidate({"pool1": got}), mode="isolated", model=model, precision="float32")
    assert report.first.layer == "conv3" and "--convolutions winograd" in report.diagnosis[-1], str(report)


def test_the_model_and_whole_values_are_needed(recorded, model):
    single = Candidate({"pool1": recorded["pool1"].relevance.values.astype("f4")})
    with pytest.raises(GoldenError, match="give the model"):
        golden.check(recorded, single, mode="isolated", convolutions="winograd")
    with pytest.raises(GoldenError, match="record a full file"):
        golden.check(digest_of(recorded), single, mode="isolated", convolutions="winograd", model=model)
    with pytest.raises(GoldenError, match="direct, winograd, fft"):
        golden.check(recorded, single, convolutions="strassen")
    strided = dataclasses.replace(places_of(recorded, model, "float64")["conv3"].step, kind="dense")
    assert not fast.is_fast(strided, "winograd")
