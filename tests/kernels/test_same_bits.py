"""The same bits on every CPU, threading layer and number of threads, and with the JIT off: by hash, each in a process of its own."""

import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from nplrp.kernels.simd import VECTOR_BITS

ROOT = Path(__file__).parents[2]

# Numba adds the host's features to the CPU of that name, unless told not to: without the second setting AVX-512 stays on.
NARROWER = {
    512: {"NUMBA_CPU_NAME": "haswell", "NUMBA_CPU_FEATURES": ""},
    256: {"NUMBA_CPU_NAME": "x86-64-v2", "NUMBA_CPU_FEATURES": ""},  # SSE4.2, multiply-adds fused in software
}


@cache
def hashes(*arguments, **settings):
    """Return the lines that tests/kernels/hashes.py prints under environment variables."""
    command = [sys.executable, "-m", "tests.kernels.hashes", *arguments]
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **settings}, capture_output=True, text=True, check=False, timeout=600)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


@pytest.mark.skipif(VECTOR_BITS not in NARROWER, reason="no narrower vectors than this CPU's")
def test_on_a_cpu_with_narrower_vectors():
    here = hashes("--float32")
    assert len(here) > 60
    assert hashes("--float32", **NARROWER[VECTOR_BITS]) == here


@pytest.mark.parametrize("setting", [("NUMBA_THREADING_LAYER", "workqueue"), ("NUMBA_NUM_THREADS", "1")])
def test_on_other_threads(setting):
    assert hashes(**dict([setting])) == hashes()


def test_with_the_jit_off():
    plain = hashes("--plain")
    assert len(plain) > 40
    assert hashes("--plain", NUMBA_DISABLE_JIT="1") == plain
