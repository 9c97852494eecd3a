"""Before the first request: settings, the extra, the golden case, the kernels; and the lane by itself."""

import argparse
import os
import shutil
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from nplrp import cli
from nplrp.serve import selfcheck
from nplrp.serve.configuration import complete
from nplrp.serve.lane import Full, Lane, Overdue
from nplrp.serve.ports import bound, listen
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


def configured(flags=(), environment=(), file=None, tmp_path=None):
    """Return the settings, and the whole namespace, of a command line, variables and a file."""
    arguments = cli.make_parser().parse_args(["serve", *flags])
    environment = {f"NPLRP_SERVE_{name}": value for name, value in dict(environment).items()} | {"PATH": "/bin"}
    if file is not None:
        path = tmp_path / "serve.toml"
        path.write_text(file)
        environment["NPLRP_SERVE_SETTINGS"] = str(path)
    complete(arguments, environment)
    return settings_of(arguments), arguments


def test_flags_count_for_more_than_variables_and_these_for_more_than_the_file(tmp_path):
    file = (
        'port = 1\nqueue = 1\nbatch = 1\nmax-body = "2M"\ndtypes = ["float32", "float64"]\nweights = "file.h5"\ninput-size = [150, 200]\n'
    )
    settings, arguments = configured(["--port", "3"], {"PORT": "2", "QUEUE": "2", "KERNELS": "theano"}, file, tmp_path)
    assert (settings.port, settings.queue, settings.batch) == (3, 2, 1)
    assert (settings.max_body, settings.dtypes, settings.decoders) == (2 << 20, ("float32", "float64"), 2)
    assert (arguments.weights, arguments.input_size, arguments.kernels) == ("file.h5", (150, 200), "theano")
    assert arguments.origins["queue"] == "$NPLRP_SERVE_QUEUE" and arguments.origins["batch"].endswith("serve.toml: batch")
    assert configured()[0] == Settings()
    assert [configured(environment={"MMAP": text})[1].mmap for text in ("false", "1", "no")] == [False, True, False]
    assert not configured(["--no-mmap"], {"MMAP": "true"})[1].mmap and not configured(file="mmap = false", tmp_path=tmp_path)[1].mmap
    assert configured(["--demo"], file=file, tmp_path=tmp_path)[1].weights is None, "the demonstration's model was asked for"


def test_a_field_of_every_kind_from_every_place(tmp_path):
    """Whatever can be a flag can be a variable and a key, and means the same."""
    for name, text in {
        "host": "::1",
        "port": "0",
        "deadline": "2.5",
        "max_body": "3K",
        "cors": "https://a.example,https://b.example",
    }.items():
        flag, key = f"--{name.replace('_', '-')}", name.replace("_", "-")
        by_flag = configured([flag, text])[0]
        assert by_flag != Settings()
        assert configured(environment={name.upper(): text})[0] == by_flag
        assert configured(file=f'{key} = "{text}"', tmp_path=tmp_path)[0] == by_flag
        assert configured(file=f'{name} = "{text}"', tmp_path=tmp_path)[0] == by_flag


def test_what_is_shown_is_read_again(tmp_path, capsys):
    flags = ["-w", "a\u00e9 b.h5", "--cors", "https://a.example", "--max-body", "3K", "--deadline", "0.5", "--input-size", "10x20"]
    assert cli.main(["serve", *flags, "--show-settings"]) == 0
    text = capsys.readouterr().out
    assert text.count("# the command line") == 5 and "port = 8080  # the default" in text
    settings, arguments = configured(file=text, tmp_path=tmp_path)
    assert settings == configured(flags)[0]
    assert (arguments.weights, arguments.input_size) == ("a\u00e9 b.h5", (10, 20))


@pytest.mark.parametrize(
    ("environment", "file", "said"),
    [
        ({"PORT": "x"}, None, "$NPLRP_SERVE_PORT: expected a whole number, found 'x'"),
        ({"PORT": "70000"}, None, "--port 70000: out of range, expected 0 to 65535 (set by $NPLRP_SERVE_PORT)"),
        ({"PROT": "1"}, None, "$NPLRP_SERVE_PROT: there is no such option of nplrp serve; did you mean '--port'"),
        ({"DEADLINE": "soon"}, None, "$NPLRP_SERVE_DEADLINE: expected a number, found 'soon'"),
        ({"DEADLINE": "nan"}, None, "$NPLRP_SERVE_DEADLINE: 'nan' is no number of seconds"),
        ({"HEAD": "x"}, None, "$NPLRP_SERVE_HEAD: there is no 'x'; there are flatten, avg, max"),
        ({}, "port = true", "serve.toml: port: expected a text, a number or a list of them, found True"),
        ({}, "port = 80.5", "serve.toml: port: expected a whole number, found '80.5'"),
        ({}, "max_bdy = 1", "serve.toml: max_bdy: there is no such option of nplrp serve; did you mean '--max-body'"),
        ({}, "[limits]\nqueue = 1", "serve.toml: limits: there is no such option"),
        ({}, "[queue]\nlong = 1", "serve.toml: queue: expected a text, a number or a list of them, found {'long': 1}"),
        ({"MMAP": "perhaps"}, None, "$NPLRP_SERVE_MMAP: expected true or false, found 'perhaps'"),
        ({}, "mmap = [1]", "serve.toml: mmap: expected true or false, found [1]"),
        ({}, "queue = 0", "--queue 0: out of range, expected at least 1 (set by"),
        ({}, 'name = "a\\u0007"', "serve.toml: name: 'a\\x07' has control characters"),
        ({}, "queue = ", "serve.toml: can't be read as TOML"),
        ({}, "queue = 1\nqueue = 2", "serve.toml: can't be read as TOML"),
    ],
)
def test_a_setting_that_is_wrong_is_one_line(environment, file, said, tmp_path):
    with pytest.raises(ServeError) as error:
        configured((), environment, file, tmp_path)
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_file_that_is_not_there(capsys, tmp_path):
    for path in (tmp_path / "absent.toml", tmp_path, Path("/dev/zero")):
        assert cli.main(["serve", "--settings", str(path)]) == 2
        message = capsys.readouterr().err
        assert message.startswith(f"nplrp: {path}: ") and message.count("\n") == 1


def test_the_unit_of_systemd(tmp_path):
    """It calls what there is, and systemd accepts it."""
    text = (ROOT / "nplrp.service").read_text()
    command = next(line for line in text.splitlines() if line.startswith("ExecStart=")).partition(" ")[2]
    assert cli.make_parser().parse_args(command.split()).settings == "/etc/nplrp/serve.toml"
    stop = int(next(line for line in text.splitlines() if line.startswith("TimeoutStopSec=")).partition("=")[2])
    assert stop > Settings().drain
    if shutil.which("systemd-analyze"):
        unit = tmp_path / "nplrp.service"
        unit.write_text(text.replace("/opt/nplrp/bin/nplrp", "/bin/true"))
        done = subprocess.run(["systemd-analyze", "verify", str(unit)], capture_output=True, text=True, check=False)
        assert done.returncode == 0 and "nplrp.service" not in done.stderr, done.stderr


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


def test_two_on_one_port():
    """Both may bind it; the second one to let clients in is told."""
    with closing(bound(Settings(port=0))) as one:
        settings = Settings(port=one.getsockname()[1])
        two = bound(settings)
        listen(one, settings)
        with pytest.raises(ServeError, match=rf"http://127\.0\.0\.1:{settings.port}: can't listen there: Address already in use"):
            listen(two, settings)
        with pytest.raises(ServeError, match="can't listen there: Address already in use"):
            bound(settings)


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
