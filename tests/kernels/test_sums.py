"""Sums against math.fsum and exact fractions: to the last bit, for any number of threads and any batch."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nplrp.kernels import sums

DTYPES = (np.float32, np.float64)


def awkward(n, dtype, seed=0):
    """Numbers of very different sizes, half of which cancel."""
    rng = np.random.default_rng(seed)
    x = (rng.standard_normal(n) * np.exp(6 * rng.standard_normal(n))).astype(dtype)
    x[: n // 2] -= x[n - n // 2 :]
    x[n // 2 :] += x[: n - n // 2][::-1]
    return x


def exactly(terms):
    return float(sum(terms, Fraction(0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("n", [0, 1, 31, 32, 33, 16384, 16385, 100_001])
def test_to_the_last_bit(n, dtype):
    x, y = awkward(n, dtype), awkward(n, dtype, 1)
    x.flags.writeable = False
    for nt in (1, 2):
        assert sums.sum_of(x, nt) == math.fsum(x.tolist())
        assert sums.sum_abs(x, nt) == math.fsum(np.abs(x).tolist())
    if n <= 40_000:
        pairs = [(Fraction(a), Fraction(b)) for a, b in zip(x.tolist(), y.tolist(), strict=True)]
        for nt in (1, 2):
            assert sums.sum_of_product(x, y, nt) == pytest.approx(exactly(a * b for a, b in pairs), rel=2e-16, abs=0)
            assert sums.sum_abs_product(x, y, nt) == pytest.approx(exactly(abs(a * b) for a, b in pairs), rel=2e-16, abs=0)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e100, 1e100), max_size=80))
def test_any_numbers(values):
    x = np.array(values)
    # one unit in the last place: what is below the pair's 106 bits can decide a tie in rounding it
    assert sums.sum_of(x) == pytest.approx(math.fsum(values), rel=2.0**-52, abs=1e-25 * float(np.abs(x).sum()))


@pytest.mark.parametrize("dtype", DTYPES)
def test_images_are_summed_as_if_alone(dtype):
    x, y = awkward(5 * 30_000, dtype).reshape(5, 100, 100, 3), awkward(5 * 30_000, dtype, 1).reshape(5, 100, 100, 3)
    for nt in (1, 2):
        totals = sums.image_sums(x, nt), sums.image_sums_abs(x, nt), sums.image_sums_of_product(x, y, nt)
        for n in range(5):
            assert totals[0][n] == sums.sum_of(x[n])
            assert totals[1][n] == sums.sum_abs(x[n])
            assert totals[2][n] == sums.sum_of_product(x[n], y[n])
    assert sums.image_sums(np.empty((0, 4), dtype)).shape == (0,)
    assert sums.image_sums(np.empty((3, 0), dtype)).tolist() == [0, 0, 0]


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity(dtype):
    x = np.ones(50_000, dtype)
    x[40_000] = np.inf
    assert sums.sum_of(x, 2) == np.inf
    x[100] = -np.inf
    assert np.isnan(sums.sum_of(x, 2))
    x[:] = 1
    x[3] = np.nan
    assert np.isnan(sums.sum_of(x))
    assert np.isnan(sums.image_sums(x.reshape(2, -1))).tolist() == [True, False]
