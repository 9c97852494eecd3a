"""Kernels that one team runs one after the other: each sees all that the ones before have written, on any number of threads."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from nplrp.jit import DISABLED, Queue, kernel, shared_kernel, team

ROOT = Path(__file__).parents[2]


@shared_kernel
def _reverse_and_add(t, nt, x, y, k):
    """Write x, turned round, plus k to y: every thread reads what others have written."""
    for i in range(x.size * t // nt, x.size * (t + 1) // nt):
        y[i] = x[x.size - 1 - i] + k


@shared_kernel
def _greedy(t, nt, size, x):
    buffer = np.empty(size, np.float64)
    x[t] = buffer.size


@shared_kernel
def _greedy_by(t, nt, size, x):
    buffer = np.empty(size[0], np.float64)
    x[t] = buffer.size


@kernel
def _first(x):
    return x[0]


def noted(queue, nt, rounds, size=1000):
    """Note down `rounds` dependent kernels, some of them in one part; return where the result will be, and the result."""
    x, y = np.arange(size), np.empty(size, np.int64)
    expected = x.copy()
    with queue:
        for k in range(rounds):
            _reverse_and_add(1 if k % 5 == 0 else nt, x, y, k)
            x, y, expected = y, x, expected[::-1] + k
    return x, expected


@pytest.mark.parametrize("openmp", [True, False])
@pytest.mark.parametrize("nt", [1, 2, 3, 7])
def test_each_kernel_sees_what_those_before_wrote(nt, openmp, monkeypatch):
    if not openmp:
        monkeypatch.setattr(team, "openmp", lambda: None)
    queue = Queue()
    for _ in range(20):
        result, expected = noted(queue, nt, 60)
        queue.run()
        assert np.array_equal(result, expected)
    queue.run()  # nothing waits


@pytest.mark.skipif(DISABLED, reason="plain Python runs at once")
def test_nothing_runs_before_its_time():
    queue, x, y = Queue(), np.zeros(10, np.int64), np.zeros(10, np.int64)
    with queue:
        _reverse_and_add(2, x, y, 1)
    assert not y.any()
    _reverse_and_add(2, x, x.copy(), 1)  # outside of the block: at once
    assert not y.any()
    queue.run()
    assert (y == 1).all()


@pytest.mark.skipif(DISABLED, reason="plain Python runs at once")
@pytest.mark.parametrize("nt", [1, 3])
def test_a_program_runs_again_on_other_inputs(nt):
    queue, x, y = Queue(), np.arange(10), np.zeros(10, np.int64)
    with queue:
        _reverse_and_add(nt, x[2:8], y[:6], 1)
        _reverse_and_add(nt, y, x, 0)
    program = queue.run(keep=[x])
    first = y.copy()
    assert first.tolist() == [8, 7, 6, 5, 4, 3, 0, 0, 0, 0]
    assert x.tolist() == first[::-1].tolist()
    other = 10 * np.arange(10)
    program.run([other])
    assert y.tolist() == [71, 61, 51, 41, 31, 21, 0, 0, 0, 0]
    assert other.tolist() == y[::-1].tolist()
    assert x.tolist() == first[::-1].tolist()
    with queue:
        _reverse_and_add(nt, x, y, 1)
    assert queue.run(keep=[x]) is None  # a part of what the queue has run


@pytest.mark.skipif(DISABLED, reason="plain Python runs at once")
def test_a_program_tells_each_time_that_memory_lacks():
    queue, x, small = Queue(), np.zeros(4, np.int64), np.full(1, 3)
    with queue:
        _greedy_by(2, small, x)
    program = queue.run(keep=[small])
    for size, fails in ((1 << 50, True), (3, False), (1 << 50, True)):
        x[:] = 0
        if fails:
            with pytest.raises(MemoryError, match="buffers"):
                program.run([np.full(1, size)])
        else:
            program.run([np.full(1, size)])
            assert list(x[:2]) == [3, 3]


def test_arguments_live_until_they_are_used():
    queue, y = Queue(), np.zeros(1 << 20, np.int64)
    with queue:
        _reverse_and_add(2, np.full(1 << 20, 7), y, 1)
    others = [np.full(1 << 20, 9) for _ in range(4)]
    queue.run()
    assert (y == 8).all()
    assert len(others) == 4


def test_who_asks_for_a_number_gets_it_after_what_is_noted_down():
    queue, x, y = Queue(), np.zeros(4, np.int64), np.zeros(4, np.int64)
    with queue:
        _reverse_and_add(2, x, y, 5)
        assert _first(y) == 5
        _reverse_and_add(2, y, x, 5)
    queue.run()
    assert x[0] == 10


@pytest.mark.skipif(DISABLED, reason="plain Python runs at once")
def test_a_failure_leaves_the_queue_empty():
    queue, x = Queue(), np.zeros(4, np.int64)
    with queue:
        _greedy(2, 1 << 50, x)
    with pytest.raises(MemoryError, match="buffers"):
        queue.run()
    with queue:
        _greedy(2, 3, x)
    queue.run()
    assert list(x[:2]) == [3, 3]


def test_several_threads_have_a_queue_each():
    results = []

    def work():
        queue = Queue()
        for _ in range(10):
            results.append(noted(queue, 2, 30))
            queue.run()

    workers = [threading.Thread(target=work) for _ in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    assert len(results) == 40
    assert all(np.array_equal(result, expected) for result, expected in results)


@pytest.mark.parametrize("settings", [{}, {"OMP_THREAD_LIMIT": "1"}, {"OMP_THREAD_LIMIT": "2"}, {"NUMBA_THREADING_LAYER": "workqueue"}])
def test_a_team_may_be_smaller_than_asked_for(settings):
    """A thread that waited for one that OpenMP doesn't give would wait for ever."""
    code = """
from nplrp.jit import Queue
from tests.jit.test_queue import noted
import numpy as np
queue = Queue()
result, expected = noted(queue, 5, 40)
queue.run()
assert np.array_equal(result, expected)
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, env={**os.environ, **settings}, timeout=120)
