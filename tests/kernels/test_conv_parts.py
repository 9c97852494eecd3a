"""The parts of the convolution kernels: Winograd's matrices, the microkernel, and the same bits on CPUs of every vector width."""

import hashlib
import os
import platform
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from numba import njit

from nplrp.kernels.conv import Geometry, conv_forward, conv_transpose, pack
from nplrp.kernels.microkernel import (
    ADDED,
    BLOCK,
    CONTINUED,
    MAX_ROWS,
    NEW,
    PANEL_32,
    PANEL_64,
    SLAB,
    make_microkernel,
    multiply,
    multiply_loops,
)
from nplrp.kernels.simd import VECTOR_BITS
from nplrp.kernels.winograd import matrices, transpose_square


def test_winograd_matrices_compute_a_correlation():
    at, g, bt = matrices()
    for i in range(6):
        for j in range(3):
            d, w = np.eye(6)[i], np.eye(3)[j]  # bilinear: unit vectors say it all
            expected = [sum(d[n + k] * w[k] for k in range(3)) for n in range(4)]
            np.testing.assert_allclose(at @ ((g @ w) * (bt @ d)), expected, rtol=0, atol=1e-14)


def packed_operands(rows, blocks, depth, columns, dtype, seed=0):
    r = np.random.default_rng(seed)
    panel = PANEL_32 if dtype is np.float32 else PANEL_64
    a = r.standard_normal(blocks * rows * BLOCK).astype(dtype)
    b = r.standard_normal((blocks * depth, SLAB)).astype(dtype)
    panels = np.ascontiguousarray(b.reshape(len(b), SLAB // panel, panel).transpose(1, 0, 2)).ravel()
    return a, np.arange(blocks) * rows * BLOCK, b, panels, len(b) * panel


@pytest.mark.parametrize("columns", [SLAB, 4])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", range(2, 2 * MAX_ROWS + 2, 2))
def test_multiply_is_its_loops(rows, dtype, columns):
    a, offsets, b, panels, step = packed_operands(rows, 3, 12, SLAB, dtype)
    c = np.full(rows * SLAB + 1, 7.0, dtype)
    multiply(rows, columns, a, 0, 64, offsets, 0, 3, 12, panels, 0, 1 << 20, step, c, 0, NEW)
    expected = multiply_loops(a.astype(float), offsets, 12, b.astype(float), rows, columns)
    terms = multiply_loops(abs(a.astype(float)), offsets, 12, abs(b.astype(float)), rows, columns)
    n = 3 * 12  # roundings in a chain, by at most half a unit each of what it has summed so far; float64's twin rounds too
    assert (abs(c[:-1].reshape(rows, SLAB)[:, :columns] - expected) <= n * np.finfo(dtype).eps * terms).all()
    assert c[-1] == 7


def test_later_blocks_are_added_as_a_chain_of_their_own():
    a, offsets, _, panels, step = packed_operands(6, 4, 16, SLAB, np.float32)
    first, second, both = np.empty((3, 6 * SLAB), np.float32)
    multiply(6, SLAB, a, 0, 0, offsets, 0, 1, 16, panels, 0, 0, step, first, 0, NEW)
    multiply(6, SLAB, a, 0, 0, offsets[1:].copy(), 0, 3, 16, panels, 16 * PANEL_32, 0, step, second, 0, NEW)
    multiply(6, SLAB, a, 0, 0, offsets, 0, 1, 16, panels, 0, 0, step, both, 0, NEW)
    multiply(6, SLAB, a, 0, 0, offsets, 1, 4, 16, panels, 16 * PANEL_32, 0, step, both, 0, ADDED)
    assert both.tobytes() == (first + second).tobytes()


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("rows", [2, 6, 2 * MAX_ROWS])
def test_a_chain_that_is_continued_has_the_bits_of_one_go(rows, dtype):
    a, offsets, _, panels, step = packed_operands(rows, 4, 16, SLAB, dtype)
    panel = PANEL_32 if dtype is np.float32 else PANEL_64
    whole, parts = np.full((2, rows * SLAB), 7, dtype)
    multiply(rows, SLAB, a, 0, 0, offsets, 0, 4, 16, panels, 0, 0, step, whole, 0, NEW)
    for first, last, into in ((0, 1, NEW), (1, 3, CONTINUED), (3, 4, CONTINUED)):
        multiply(rows, SLAB, a, 0, 0, offsets, first, last, 16, panels, first * 16 * panel, 0, step, parts, 0, into)
    assert parts.tobytes() == whole.tobytes()


_scalar = make_microkernel(2, vectors=PANEL_32, lanes=1)


@njit
def _multiply_scalar(a, offsets, depth, b, c):
    _scalar(a, 0, 0, offsets, 0, len(offsets), depth, b, 0, 0, c, 0, NEW)


def test_the_scalar_twin_has_the_same_bits():
    a, offsets, _, panels, step = packed_operands(2, 3, 16, SLAB, np.float32)
    vector, scalar = np.zeros(2 * SLAB, np.float32), np.zeros(2 * SLAB, np.float32)
    multiply(2, PANEL_32, a, 0, 0, offsets, 0, 3, 16, panels, 0, 0, step, vector, 0, NEW)
    _multiply_scalar(a, offsets, 16, panels, scalar)
    assert vector.any()
    assert vector.tobytes() == scalar.tobytes()


@njit
def _transpose(x, y):
    transpose_square(x, 3, 10, y, 1, 9)


def test_transpose_square():
    x, y = np.arange(100, dtype=np.float32), np.full(90, -1, np.float32)
    _transpose(x, y)
    expected = np.full(90, -1, np.float32)
    for i in range(8):
        for j in range(8):
            expected[1 + 9 * j + i] = x[3 + 10 * i + j]
    np.testing.assert_array_equal(y, expected)


def digest():
    """Hash the results of layers that take every way through the kernels."""
    result = hashlib.sha256()
    r = np.random.default_rng(0)
    for g, name in (
        (Geometry(9, 11, 5, 37, stride=(2, 1)), None),
        (Geometry(13, 10, 20, 36, pads=(1, 1, 1, 1)), "direct"),
        (Geometry(13, 10, 20, 36, pads=(1, 1, 1, 1)), "winograd"),
        (Geometry(40, 40, 32, 64, pads=(1, 1, 1, 1)), "winograd"),
        (Geometry(31, 75, 3, 20, (7, 7), (2, 2), pads=(3, 3, 3, 3)), None),
        (Geometry(13, 9, 70, 50, (1, 1)), None),
        (Geometry(14, 15, 24, 36, (3, 3), (2, 2), pads=(1, 1, 1, 1), groups=4), None),
        *((Geometry(14, 15, 24, 24, (3, 3), pads=(1, 1, 1, 1), groups=groups), None) for groups in (24, 6, 3)),
    ):
        w, x = (r.standard_normal(n).astype(np.float32) for n in ((*g.kernel, g.cin // g.groups, g.cout), (2, g.height, g.width, g.cin)))
        out, back = np.empty((2, g.out_height, g.out_width, g.cout), np.float32), np.empty_like(x)
        conv_forward(x, pack(w, g, algorithm=name), np.ones(g.cout, np.float32), True, out)
        conv_transpose(out, pack(w, g, True, algorithm=name), back, a=x, z=abs(x), eps=0.1)
        result.update(out.tobytes() + back.tobytes())
    return result.hexdigest()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="the other targets are x86")
def test_vector_width_does_not_change_bits():
    narrower = {512: ("haswell", "+avx,+avx2,+fma", 256), 256: ("x86-64", "+sse2", 128), 128: ("x86-64", "+sse2", 128)}
    name, features, bits = narrower[VECTOR_BITS]
    code = "from tests.kernels import test_conv_parts as t; print(t.VECTOR_BITS, t.digest())"
    environment = os.environ | {"NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}
    root = Path(__file__).parents[2]
    run = subprocess.run([sys.executable, "-c", code], env=environment, cwd=root, capture_output=True, text=True, check=True)
    assert run.stdout.split() == [str(bits), digest()]
