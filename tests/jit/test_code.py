"""Compiled kernels get what they are called with, give back what they return, and share work among any threads."""

import math
import os
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest

from nplrp.jit import arguments, kernel, shared_kernel, target, team

ROOT = Path(__file__).parents[2]


class Pair(NamedTuple):
    """Two arrays and a number."""

    x: np.ndarray
    y: np.ndarray
    factor: float


@kernel
def _mixed(pair, flags, whole, single, plane):
    total = 0.0
    for i in range(plane.shape[0]):
        for j in range(plane.shape[1]):
            total += plane[i, j] * (pair.x[i] if flags[0] else pair.y[j])
    return total * pair.factor + whole + single + flags[1][0]


@kernel
def _whole(x):
    return x.size


@kernel
def _odd(n):
    return n % 2 == 1


@kernel
def _scaled(x, k):
    buffer = np.zeros(3)
    buffer[1] = x
    return math.ldexp(buffer[1], k)


@shared_kernel
def _mark(t, nt, parts, sizes):
    parts[t] += 1
    sizes[t] = nt


@pytest.mark.parametrize("transposed", [False, True])
def test_every_kind_of_argument(transposed):
    plane = np.arange(6.0).reshape(3, 2).T if transposed else np.arange(6.0).reshape(2, 3)
    pair = Pair(np.array([1.0, 2.0], np.float32), np.array([3, 4, 5], np.int32), 0.5)
    got = _mixed(pair, (True, (7,)), np.int64(11), np.float32(0.25), plane)
    assert got == float((plane * pair.x[:, None]).sum() * 0.5 + 11 + 0.25 + 7)
    pair.y.flags.writeable = False
    got = _mixed(pair, (False, (-7,)), -(2**40), np.float32(0.25), plane[::1])
    assert got == float((plane * pair.y).sum() * 0.5 - 2**40 + 0.25 - 7)


def test_what_comes_back():
    assert _whole(np.zeros(5)) == 5
    assert _odd(3) == 1
    assert _odd(-4) == 0
    for k in (-1080, -1040, -1, 0, 1023):
        assert _scaled(1.7, k) == math.ldexp(1.7, k)


def test_what_no_kernel_takes():
    for value in (None, "text", [1], np.uint8(1), 1j):
        with pytest.raises(TypeError, match="kernels don't take a"):
            _whole(value)


def test_types_have_the_same_name_in_every_process():
    kinds, numbers = arguments.describe((Pair(np.zeros(2), np.zeros((1, 2)), 1.0), (1, True)))
    assert "0x" not in arguments.name(kinds)
    assert "Pair('x', 'y', 'factor')" in arguments.name(kinds)
    assert arguments.layout(kinds).size == 8 * (arguments.ARGUMENTS + len(numbers))
    several = np.zeros((1, 2)), np.zeros((2, 1)), np.zeros((2, 2)), np.zeros((2, 2), order="F"), np.zeros((4, 4))[::2, ::2]
    assert len({arguments.describe((x,))[0] for x in several}) == 3  # C, Fortran, neither


@pytest.mark.parametrize("nt", [1, 2, 3, 7])
@pytest.mark.parametrize("openmp", [True, False])
def test_every_part_is_done_once(nt, openmp, monkeypatch):
    if not openmp:
        monkeypatch.setattr(team, "openmp", lambda: None)
    parts, sizes = np.zeros(nt, np.int64), np.zeros(nt, np.int64)
    for _ in range(3):
        _mark(nt, parts, sizes)
    assert parts.tolist() == [3] * nt
    assert sizes.tolist() == [nt] * nt


def test_a_forked_process_may_use_kernels():
    code = """
import os, numpy as np
from nplrp.kernels import elementwise
x = np.full(50_000, -1, np.float32)
elementwise.relu(x, x, 2)
child = os.fork()
if not child:
    x[:] = -1
    elementwise.relu(x, x, 2)
    os._exit(int(x.any()))
assert os.waitpid(child, 0)[1] == 0
elementwise.relu(x, x, 2)
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], cwd=ROOT, check=True, timeout=300)


@pytest.mark.parametrize(
    ("given", "told", "expected"),
    [("3", "", 3), ("", "", team.cores()), ("many", "", team.cores()), ("5", "import numba; numba.set_num_threads(2)", 2)],
)
def test_number_of_threads(given, told, expected):
    code = f"{told}\nfrom nplrp.jit import threads; print(threads())"
    environment = os.environ | {"NUMBA_NUM_THREADS": given}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert int(done.stdout) == expected


def test_what_is_no_code_is_an_error():
    with pytest.raises(RuntimeError):
        target.link(b"no object code" * 100, ["part"])
    with pytest.raises(RuntimeError):
        target.link(b"", ["part"])
