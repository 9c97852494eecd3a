"""Elementwise kernels against one line of NumPy each, stabilisers against their definitions one number at a time."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nplrp.kernels import elementwise as ew
from tests.kernels.guard import guarded, same_bits, untouched

DTYPES = (np.float32, np.float64)
SHAPES = ((0,), (1,), (7,), (3, 5), (2, 3, 4, 33), (1, 40, 30, 20))  # the last is worth a second thread


def numbers(shape, dtype, seed=0):
    """Normal numbers with zeros of both signs among them."""
    rng = np.random.default_rng(seed)
    x = rng.standard_normal(shape).astype(dtype)
    x[rng.random(shape) < 0.1] = 0
    x[rng.random(shape) < 0.1] = -0.0
    return x


def run(kernel, inputs, shape, dtype):
    """Run kernel(out, nt) with 1 and 2 threads; check canaries and that both give the same bits."""
    results = []
    for nt in (1, 2):
        out = guarded(shape, dtype)
        with untouched([out], inputs):
            kernel(out, nt)
        results.append(out.copy())
    assert same_bits(*results)
    return results[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_relu_parts_and_products(shape, dtype):
    x, y = numbers(shape, dtype), numbers(shape, dtype, 1)
    assert np.array_equal(run(lambda out, nt: ew.relu(x, out, nt), [x], shape, dtype), np.maximum(x, 0))
    assert np.array_equal(run(lambda out, nt: ew.positive_part(x, out, nt), [x], shape, dtype), np.maximum(x, 0))
    assert np.array_equal(run(lambda out, nt: ew.negative_part(x, out, nt), [x], shape, dtype), np.minimum(x, 0))
    assert same_bits(run(lambda out, nt: ew.multiply(x, y, out, nt), [x, y], shape, dtype), x * y)

    def add_product(out, nt):
        out[...] = 1.5
        ew.multiply_add(x, y, out, nt)

    assert same_bits(run(add_product, [x, y], shape, dtype), dtype(1.5) + x * y)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
def test_a_copy_has_the_same_bits(shape, dtype):
    x = numbers(shape, dtype)
    x.reshape(-1)[2::7] = np.frombuffer(b"\xa5\xa5\xa5\xff" * 2, dtype)[0]  # a NaN of its own
    x.reshape(-1)[3::7], x.reshape(-1)[4::7] = np.inf, -np.inf
    assert same_bits(run(lambda out, nt: ew.copy(x, out, nt), [x], shape, dtype), x)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1])
def test_affine_and_bias_over_the_last_axis(shape, dtype):
    x, g, h = numbers(shape, dtype), numbers(shape[-1], dtype, 1), numbers(shape[-1], dtype, 2)
    assert same_bits(run(lambda out, nt: ew.affine(x, g, h, out, nt), [x, g, h], shape, dtype), x * g + h)
    clamped = run(lambda out, nt: ew.affine(x, g, h, out, nt, relu=True), [x, g, h], shape, dtype)
    assert np.array_equal(clamped, np.maximum(x * g + h, 0))
    for clamp in (False, True):

        def add_bias(out, nt, clamp=clamp):
            out[...] = x
            ew.add_bias(out, h, clamp, nt)

        assert np.array_equal(run(add_bias, [h], shape, dtype), np.maximum(x + h, 0) if clamp else x + h)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [s for s in SHAPES if len(s) > 1])
def test_rows_times_factors_of_the_last_axis(shape, dtype):
    a, s, g = numbers(shape, dtype), numbers(shape, dtype, 1), numbers(shape[-1], dtype, 2)
    a[0], s.reshape(-1)[:2] = a[0] + 1, (np.nan, np.inf)
    with np.errstate(invalid="ignore"):
        expected = a * (g * s)

    def write(out, nt):
        out[...] = 7
        ew.multiply_rows(a, s, g, out, False, nt)

    def add(out, nt):
        out[...] = 1.5
        ew.multiply_rows(a, s, g, out, True, nt)

    found = run(write, [a, s, g], shape, dtype)
    assert np.isnan(found.reshape(-1)[0]) and np.array_equal(found, expected, equal_nan=True)
    assert np.array_equal(run(add, [a, s, g], shape, dtype), dtype(1.5) + expected, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
def test_nan_and_infinity_are_never_lost(dtype):
    x = np.array([np.nan, np.inf, -np.inf, 1, -1], dtype)
    out = np.empty_like(x)
    ew.relu(x, out)
    np.testing.assert_array_equal(out, np.array([np.nan, np.inf, np.nan, 1, 0]))
    ew.negative_part(x, out)
    np.testing.assert_array_equal(out, np.array([np.nan, np.nan, -np.inf, 0, -1]))
    z = x.copy()
    ew.add_bias(z, np.zeros(5, dtype), True)
    np.testing.assert_array_equal(z, np.array([np.nan, np.inf, np.nan, 1, 0]))
    for kind in range(9):
        ew.stabilise_divide(np.ones_like(x), x, kind, 0.1, 1, out)
        assert np.isnan(out[0]), kind


DEFINITIONS = {
    ew.PLUS: lambda z, e: z + e,
    ew.SIGN: lambda z, e: z + e * (1 if z >= 0 else -1),
    ew.ZERO_REPLACE: lambda z, e: z if z != 0 else e,
    ew.SIGN_ZERO_SKIP: lambda z, e: z + e * math.copysign(1, z) if z != 0 else 1,
    ew.SIGN_ZERO_DROP: lambda z, e: z + e * math.copysign(1, z) if z != 0 else 0,
    ew.GUARD: lambda z, e: z if z > 0 else 0,
    ew.NONE_DROP: lambda z, e: z,
    ew.SPLIT: lambda z, e: z + e * math.copysign(1, z) if z != 0 else None,
    ew.CLIP: lambda z, e: max(abs(z), e) * (1 if z >= 0 else -1),
}
DROPS = (ew.SIGN_ZERO_DROP, ew.GUARD, ew.NONE_DROP)


@settings(deadline=None, max_examples=80)
@given(
    st.lists(st.floats(-4, 4, width=32) | st.sampled_from((0.0, -0.0, 0.25, -0.25)), min_size=1, max_size=40),
    st.sampled_from(sorted(DEFINITIONS)),
    st.sampled_from((0.25, 1e-9, 1.0)),
    st.sampled_from((1.0, 2.0, -0.5)),
    st.sampled_from(DTYPES),
)
def test_stabilisers_do_what_their_names_say(zs, kind, eps, weight, dtype):
    z, R = np.array(zs, dtype), np.linspace(-3, 5, len(zs)).astype(dtype)
    tiny = 1e-6 if dtype == np.float32 else 1e-15
    wanted = np.array([tiny if (d := DEFINITIONS[kind](v, dtype(eps))) is None else d for v in z], dtype)
    d = run(lambda out, nt: ew.stabilise(z, kind, eps, out, nt), [z], z.shape, dtype)
    assert np.array_equal(d, wanted)
    s = run(lambda out, nt: ew.stabilise_divide(R, z, kind, eps, weight, out, nt), [R, z], z.shape, dtype)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        quotient = dtype(weight) * R / wanted
    np.testing.assert_array_equal(s, np.where(wanted == 0, 0, quotient) if kind in DROPS else quotient)


def test_a_denominator_of_zero_is_not_hidden():
    """LRP-0 at z = 0 has no answer; only the stabilisers that say so drop the unit."""
    out = np.empty(2, np.float32)
    ew.stabilise_divide(np.array([1, 0], np.float32), np.zeros(2, np.float32), ew.SIGN, 0.0, 1, out)
    assert np.isinf(out[0])
    assert np.isnan(out[1])


@pytest.mark.parametrize("dtype", DTYPES)
def test_first_nonfinite_finds_the_first(dtype):
    x = numbers((2, 50, 41, 7), dtype)
    limits = np.finfo(dtype)
    x.flat[:4] = limits.max, limits.min, limits.tiny, limits.smallest_subnormal
    for nt in (1, 2):
        assert ew.first_nonfinite(x, nt) == -1
    rng = np.random.default_rng(0)
    for bad in (np.nan, np.inf, -np.inf):
        for first in (0, 1, 4095, 4096, 14349, 14350, x.size - 1, *rng.integers(0, x.size, 5)):
            y = x.copy()
            y.flat[[first, *rng.integers(first, x.size, 2)]] = bad
            y.flags.writeable = False
            assert ew.first_nonfinite(y, 1) == ew.first_nonfinite(y, 2) == first
    assert ew.first_nonfinite(np.empty((0, 3), dtype)) == -1


def test_works_in_place():
    x = numbers((1, 40, 30, 20), np.float32)
    y = x.copy()
    ew.relu(y, y, 2)
    assert np.array_equal(y, np.maximum(x, 0))
    ew.multiply(x, y, y, 2)
    assert np.array_equal(y, x * np.maximum(x, 0))
