"""Before the first request: settings, the extra, the golden case, the kernels; and the lane by itself."""

import argparse
import os
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from nplrp import cli
from nplrp.serve import selfcheck
from nplrp.serve.lane import Full, Lane, Overdue
from nplrp.serve.problems import ServeError
from nplrp.serve.settings import Settings, add_flags, cores, parse_size, settings_of
from tests.serve.servers import ROOT, Local

# Settings


def test_every_setting_is_a_flag():
    parser = argparse.ArgumentParser()
    add_flags(parser)
    assert settings_of(parser.parse_args([])) == Settings()
    given = settings_of(parser.parse_args(["--max-body", "2M", "--queue", "3", "--deadline", "1.5", "--dtypes", "float32,float64"]))
    assert (given.max_body, given.queue, given.deadline, given.dtypes) == (2 << 20, 3, 1.5, ("float32", "float64"))
    assert "default 10485760" in " ".join(parser.format_help().split())  # lines break where the terminal ends


def test_sizes():
    assert [parse_size(text) for text in ("7", "2k", "10M", "1G")] == [7, 2048, 10 << 20, 1 << 30]
    for bad in ("", "x", "-1", "1T", "1.5M", "9" * 30):
        with pytest.raises(argparse.ArgumentTypeError):
            parse_size(bad)


def test_threads_are_the_cores_of_each_worker():
    assert Settings(workers=cores()).numba_threads() == 1
    assert Settings().numba_threads() == cores() >= 1
    assert Settings(workers=10_000 if cores() > 10_000 else 256).numba_threads() >= 1
    assert Settings(threads=3).numba_threads() == 3


def test_a_containers_quota_counts(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)), raising=False)
    for text, expected in (("150000 100000\n", 2), ("max 100000\n", 8), ("10000 100000\n", 1), ("nonsense", 8)):
        monkeypatch.setattr(Path, "read_text", lambda *_, text=text: text)
        assert cores() == expected


def test_loopback_is_the_default():
    assert Settings().host == "127.0.0.1"


def test_without_the_extra_serve_says_so_in_one_line(monkeypatch, capsys):
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "uvicorn" else real(name, *rest))
    assert cli.main(["serve"]) == 2
    message = capsys.readouterr().err
    assert "pip install 'nplrp[serve]'" in message and "uvicorn" in message and len(message.splitlines()) == 1


def test_the_command_line_is_light():
    code = "import sys, nplrp.cli; nplrp.cli.make_parser(); print(sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=ROOT)
    for heavy in ("starlette", "uvicorn", "numpy", "prometheus_client", "multiprocessing"):
        assert f"'{heavy}'" not in done.stdout


# The golden case


def test_the_golden_case_is_reproduced():
    selfcheck.check(("float32", "float64"))


@pytest.mark.parametrize("name", ["conv1", "conv2", "dense", "image", "dense_bias"])
def test_one_other_number_is_noticed(monkeypatch, name):
    arrays, expected = selfcheck.read()
    arrays[name].flat[arrays[name].size // 2] += 1
    monkeypatch.setattr(selfcheck, "read", lambda: (arrays, expected))
    with pytest.raises(ServeError, match="computes other numbers"):
        selfcheck.check()


def test_a_server_whose_kernels_are_wrong_never_gets_ready(model, monkeypatch, caplog):
    arrays, expected = selfcheck.read()
    arrays["image"][0, 0, 0] += 1
    monkeypatch.setattr(selfcheck, "read", lambda: (arrays, expected))
    server = Local(model)
    try:
        with pytest.raises(AssertionError, match="computes other numbers"):
            server.wait()
        assert server.get("/v2/health/ready").status_code == 503
        assert server.service.state == "failed"
    finally:
        server.close()


# Kernels


def test_after_warmup_nothing_is_compiled(tmp_path):
    """Not on a network of other sizes, not with any preset; also where nothing can be written."""
    env = os.environ | {"NUMBA_CACHE_DIR": str(tmp_path)}
    warm = subprocess.run([sys.executable, "-m", "nplrp.cli", "warmup"], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert warm.returncode == 0, warm.stderr
    assert str(tmp_path) in warm.stdout.splitlines()[-1]
    code = """
import logging, warnings
import numpy as np
from nplrp.jit import cache
cache._writable = lambda directory: False
import nplrp
from nplrp.rules.composites import COMPOSITES
from tests.bits import network, pictures
def fail(): raise AssertionError("compiles")
cache.announce = fail
warnings.simplefilter("ignore")
for composite in COMPOSITES:
    e = nplrp.explain(network(), pictures(), composite)
    COMPOSITES[composite].gradient or e.ledger
print("fine")
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


def test_warmup_says_what_is_wrong(monkeypatch, capsys, tmp_path):
    from nplrp.jit import cache

    assert cli.main(["warmup", "--dtype", "float16"]) == 2
    assert "float16" in capsys.readouterr().err
    monkeypatch.setattr(cache, "cache_directory", lambda: None)
    assert cli.main(["warmup"]) == 2
    assert "NPLRP_CACHE" in capsys.readouterr().err


# The lane


def lane_of(compute, **options):
    return Lane(compute, **{"capacity": 10, **options})


def test_jobs_of_one_kind_are_computed_together_in_order():
    go, seen = threading.Event(), []

    def compute(jobs):
        go.wait(30)
        seen.append([job.payload for job in jobs])
        return [job.payload * 10 for job in jobs]

    lane = lane_of(compute, batch=3)
    jobs = [lane.submit(i, kind, time.monotonic() + 60) for i, kind in enumerate("xaabaabaa")]
    go.set()
    assert [job.future.result(30) for job in jobs] == [i * 10 for i in range(9)]
    assert seen == [[0], [1, 2, 4], [3, 6], [5, 7, 8]]
    assert lane.stop(30)


def test_the_lane_refuses_forgets_and_survives():
    busy, go = threading.Event(), threading.Event()
    depths = []

    def compute(jobs):
        busy.set()
        go.wait(30)
        if jobs[0].payload == "bad":
            raise KeyError("x")
        if jobs[0].payload == "exit":
            raise SystemExit
        return [None] * len(jobs)

    lane = lane_of(compute, capacity=4, on_change=lambda *numbers: depths.append(numbers))
    later = time.monotonic() + 60
    first = lane.submit("first", 1, later)
    assert busy.wait(30)
    overdue = lane.submit("late", 2, time.monotonic() - 1)
    dropped = lane.submit("dropped", 3, later)
    bad, last = lane.submit("bad", 4, later), lane.submit("exit", 5, later)
    assert lane.full
    with pytest.raises(Full):
        lane.submit("more", 6, later)
    dropped.abandon()
    assert not lane.full and lane.depth == 3
    go.set()
    assert first.future.result(30) is None
    with pytest.raises(Overdue):
        overdue.future.result(30)
    with pytest.raises(KeyError):
        bad.future.result(30)
    with pytest.raises(SystemExit):
        last.future.result(30)
    assert lane.alive
    assert lane.submit("fine", 7, later).future.result(30) is None
    assert lane.stop(30) and not lane.alive
    assert depths[0] == (1, 0) and depths[-1] == (0, 0) and max(depths)[0] == 4
    with pytest.raises(Full):
        lane.submit("after", 8, later)


def test_what_cant_be_done_in_time_isnt_begun():
    """Under overload the first in the queue are those with the least time left."""
    go, seen = threading.Event(), []

    def compute(jobs):
        go.wait(30)
        seen.append([job.payload for job in jobs])
        return [None] * len(jobs)

    lane = lane_of(compute, batch=2)
    lane._learn("slow", 1, 100.0)
    now = time.monotonic()
    blocker = lane.submit("first", "x", float("inf"))
    jobs = {i: lane.submit(i, kind, now + 50) for i, kind in enumerate(["slow", "slow", "slow", "fast", "slow"])}
    for i in (0, 2, 3):
        jobs[i]._entered = now - 60
    go.set()
    for i in (0, 2):
        with pytest.raises(Overdue):
            jobs[i].future.result(30)
    for job in (blocker, jobs[1], jobs[3], jobs[4]):
        assert job.future.result(30) is None
    assert seen == [["first"], [1, 4], [3]]  # with half of its time left a job is begun, whatever is expected
    assert lane.stop(30)


def test_the_lane_learns_how_long_kinds_take():
    lane = lane_of(lambda jobs: [None] * len(jobs), batch=4)
    assert lane.estimate() == 0
    for _ in range(50):
        lane._learn("slow", 4, 8.0)
    assert lane._mean == pytest.approx(2.0) and lane._expected["slow"] == pytest.approx(8.0)
    for i in range(10_000):
        lane._learn(i, 1, 1.0)
    assert len(lane._expected) <= 100
    assert lane.submit(None, None, float("inf")).future.result(30) is None
    assert lane._mean == pytest.approx(1.0)  # the start's own work doesn't count
    assert lane.stop(30)


def test_the_lane_keeps_no_result():
    import gc
    import weakref

    lane = lane_of(lambda jobs: [np.zeros(10) for _ in jobs])
    job = lane.submit(np.zeros(10), None, float("inf"))
    kept = [weakref.ref(job.payload), weakref.ref(job.future.result(30))]
    del job
    until = time.monotonic() + 30
    while any(each() is not None for each in kept):
        gc.collect()
        assert time.monotonic() < until
    assert lane.stop(30)
