"""Softmax against extended precision and against exact fractions."""

import math
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nplrp.kernels.softmax import exp_of_difference, softmax

DTYPES = (np.float32, np.float64)


def run(z):
    out = np.empty_like(z)
    z.flags.writeable = False
    softmax(z, out)
    return out


ONE = 2**1400  # fixed point: exp(-700) keeps 380 bits


def exact_softmax(row):
    """exp by its Taylor series in whole numbers, far beyond any rounding."""

    def exp(x):  # x <= 0 is a fraction; halved until small, then squared back
        halvings = max(0, math.ceil(math.log2(-float(x))) + 3) if x else 0
        r = x.numerator * ONE // (x.denominator << halvings)
        total = term = ONE
        for n in range(1, 250):
            term = term * r // (ONE * n)
            total += term
        for _ in range(halvings):
            total = total * total // ONE
        return total

    row = [Fraction(float(v)) for v in row]
    terms = [exp(v - max(row)) for v in row]
    return [Fraction(t, sum(terms)) for t in terms]


def ulps(got, wanted):
    return [
        abs(Fraction(float(g)) - w) / Fraction(float(np.spacing(max(abs(g), np.finfo(got.dtype).tiny))))
        for g, w in zip(got, wanted, strict=True)
    ]


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-300, 300, width=32), min_size=1, max_size=6), st.sampled_from(DTYPES))
def test_within_two_ulps_of_exact(row, dtype):
    z = np.array([row], dtype)
    got = run(z)[0]
    assert max(ulps(got, exact_softmax(z[0]))) <= (0.51 if dtype == np.float32 else 2)


@pytest.mark.parametrize("dtype", DTYPES)
def test_thousand_classes(dtype):
    z = (np.random.default_rng(0).standard_normal((3, 1000)) * 12).astype(dtype)
    p = run(z)
    assert max(ulps(p[0][:20], exact_softmax(z[0])[:20])) <= 2
    for row in p:
        assert abs(math.fsum(row.tolist()) - 1) <= 2 * np.finfo(dtype).eps
    for n in range(3):
        assert run(z[n : n + 1].copy()).tobytes() == p[n].tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
def test_large_small_and_special(dtype):
    limit = np.finfo(dtype).max
    assert run(np.array([[limit, -limit, limit]], dtype)).tolist() == [[0.5, 0, 0.5]]
    assert run(np.array([[-1e4, -1e4]], dtype)).tolist() == [[0.5, 0.5]]
    assert run(np.array([[0, -np.inf]], dtype)).tolist() == [[1, 0]]
    assert run(np.array([[3]], dtype)).tolist() == [[1]]
    rows = run(np.array([[1, np.nan, 2], [1, 2, np.inf], [1, 1, 1]], dtype))
    assert np.isnan(rows[0]).all()
    assert np.isnan(rows[1]).any()
    assert np.isfinite(rows[2]).all()
    assert run(np.empty((0, 5), dtype)).shape == (0, 5)
    assert run(np.empty((2, 0), dtype)).shape == (2, 0)


def test_exponential_is_monotone_and_exact_at_its_ends():
    x = np.sort(np.concatenate([-np.linspace(0, 750, 4001), -np.logspace(-17, 0, 200), -np.log(2) * (np.arange(40) + 0.5)]))
    around = np.sort(np.concatenate([x, np.nextafter(x, -np.inf), np.nextafter(x, 0)]))
    values = [exp_of_difference(float(v), 0.0) for v in around]
    assert all(a <= b for a, b in pairwise(values))
    assert exp_of_difference(0.0, 0.0) == 1
    assert exp_of_difference(-745.0, 0.0) == 5e-324
    assert exp_of_difference(-746.5, 0.0) == 0
    assert exp_of_difference(1.0, 2.0) == math.exp(-1)
