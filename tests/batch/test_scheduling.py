"""Shards on the workers of dask: a worker that dies loses nothing, and the bits are those of the plain loop.

dask runs in a process of its own: its threads and warnings are none of this one's.
"""

import subprocess
import sys
from pathlib import Path

import pytest

from nplrp.cli import main
from tests.batch.test_runs import WEIGHTS, batch, hashes, pictures  # noqa: F401

pytest.importorskip("distributed")

KILLS = f"""
import os, signal, sys
from distributed import Client, LocalCluster
from nplrp.batch.job import job_facts, open_job
from nplrp.batch.images import find_images
from nplrp.batch.scheduling import run_scheduled
from nplrp.files.given import Given
from nplrp.stream import Wanted
from pathlib import Path

if __name__ == "__main__":
    given, wanted, out, killed = Given({str(WEIGHTS)!r}), Wanted(("zplus",)), Path("dask"), []
    model = given.load()
    job = open_job(out, job_facts(model, wanted), find_images(["photos"]), 1)
    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None, silence_logs=50) as cluster:
        with Client(cluster) as client:
            pids = list(client.run(os.getpid).values())

        def told(done, total):
            if done >= 4 and not killed:
                os.kill(pids[0], signal.SIGKILL)
                killed.append(pids[0])
                (out / "shards" / ".shard.h5.0123").write_text("what a worker leaves that is killed while it writes")

        report = run_scheduled(job, out, given, model, wanted, cluster.scheduler_address, told)
    print(len(killed), report.done, len(report.failed))
"""


def test_a_worker_is_killed_in_the_middle(pictures, tmp_path):  # noqa: F811
    (pictures / "bad.png").write_text("")
    assert batch(pictures, "--out", "plain", "-c", "zplus", "--shard-size", 1, "-q") == 1
    script = tmp_path / "kills.py"
    script.write_text(KILLS)
    done = subprocess.run([sys.executable, str(script)], capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1", "21", "1"]
    assert hashes("dask") == hashes("plain")


def test_from_the_command_line(pictures, capsys):  # noqa: F811
    command = [sys.executable, "-m", "nplrp.cli", "batch", "photos", "--out", "dask", "-c", "zplus", "--shard-size", "4", "-q"]
    done = subprocess.run(
        [*command, "--scheduler", "local:2", "-w", str(WEIGHTS)], capture_output=True, text=True, check=False, timeout=300
    )
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout.startswith("21 images explained")
    assert batch(pictures, "--out", "plain", "-c", "zplus", "--shard-size", 4, "-q") == 0
    assert hashes("dask") == hashes("plain")
    assert main(["merge", "dask", "--verify", "0.2", "-w", str(WEIGHTS), "-q"]) == 0


@pytest.mark.parametrize("address", ["tcp://127.0.0.1:1", "nonsense", "local:0", "local:x"])
def test_no_such_scheduler(pictures, address):  # noqa: F811
    command = [sys.executable, "-m", "nplrp.cli", "batch", "photos", "--out", "dask", "-q", "--preprocessing", "caffe"]
    done = subprocess.run([*command, "--scheduler", address, "-w", str(WEIGHTS)], capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 2, done.stderr
    assert done.stderr.startswith(f"nplrp: --scheduler {address}: ")
    assert done.stderr.count("\n") == 1
    assert not Path("dask/shards").exists()
