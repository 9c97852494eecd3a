"""Files that are really cut while they are mapped: the process ends with a line; those that were read into memory don't care."""

import os
import platform
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp.errors import WeightsError
from nplrp.files.plain import copy_plain
from tests.keras_files import FILES
from tests.networks import images

ROOT = Path(__file__).parents[1]
WEIGHTS = FILES / "small32_k2_model_save.h5"
#: Runs a command line whose file of weights is cut when it has just been found to be as it was.
CUT = """
import os, sys
from nplrp import cli
from nplrp.model import Model
check = Model.check_files
def cut(model):
    check(model)
    os.truncate(model.source, 0)
Model.check_files = cut
sys.exit(cli.main(sys.argv[1:]))
"""
tells = pytest.mark.skipif(
    platform.system() not in ("Linux", "Darwin") or platform.machine() not in ("x86_64", "aarch64", "arm64"), reason="no handler for this"
)


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "w\x1b.h5"
    path.write_bytes(WEIGHTS.read_bytes())
    Image.fromarray(np.full((32, 32, 3), 90, np.uint8)).save(tmp_path / "i.png")
    return path


def run(script, *argv, **env):
    return subprocess.run(
        [sys.executable, "-c", script, *map(str, argv)],
        cwd=ROOT,
        env=os.environ | env,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


@tells
@pytest.mark.parametrize("layer", ["omp", "workqueue"])
@pytest.mark.parametrize("command", ["predict", "explain"])
def test_a_command_whose_weights_are_cut_during_a_pass_says_so(file, command, layer):
    out = ["-o", file.parent / "o.png"] if command == "explain" else []
    done = run(CUT, command, file.parent / "i.png", "-w", file, "--preprocessing", "tf", *out, NUMBA_THREADING_LAYER=layer)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 2, done.stderr
    assert last.startswith(f"nplrp: {file.parent}/w\\x1b.h5: the file was cut, or its disk failed, while it was mapped")
    assert "--no-mmap" in last
    assert done.stderr.count("SIGBUS") == 1
    assert sorted(each.name for each in file.parent.iterdir()) == ["i.png", file.name]


def test_with_no_mmap_nothing_is_noticed(file):
    done = run(CUT, "predict", file.parent / "i.png", "-w", file, "--preprocessing", "tf", "--no-mmap")
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("output") == 5


def test_weights_that_are_read_have_the_same_bits_and_outlive_their_file(file):
    mapped, read = nplrp.load(file), nplrp.load(file, mmap=False)
    x = images(0, 1, mapped.input_shape)
    expected = nplrp.explain(mapped, x, "epsilon_plus").relevance.tobytes()
    assert read.content_hash == mapped.content_hash
    os.truncate(file, 0)
    assert nplrp.explain(read, x, "epsilon_plus").relevance.tobytes() == expected
    with pytest.raises(WeightsError, match="was changed while the model is in use"):
        nplrp.explain(mapped, x)
    with pytest.raises(ValueError, match="read-only"):
        read.layers[0].arrays["kernel"][:] = 0


@pytest.mark.parametrize("name", [each.name for each in sorted(FILES.iterdir()) if each.name.startswith("small32_k") and each.is_file()])
def test_every_kind_of_file_can_be_read_instead(name):
    try:
        mapped = nplrp.load(FILES / name)
    except WeightsError as error:
        with pytest.raises(WeightsError) as caught:
            nplrp.load(FILES / name, mmap=False)
        assert str(caught.value) == str(error)
    else:
        assert nplrp.load(FILES / name, mmap=False).content_hash == mapped.content_hash


def test_a_file_that_changes_while_it_is_read_is_refused(file, monkeypatch):
    stat = os.fstat

    def shorter(descriptor, calls=[]):  # noqa: B006 - counts
        calls.append(1)
        if len(calls) == 3:  # opened, begun, done
            os.truncate(file, 100)
        return stat(descriptor)

    monkeypatch.setattr("os.fstat", shorter)
    with pytest.raises(OSError, match="changed while it was read"):
        copy_plain(file)


@tells
def test_several_threads_speak_once_and_another_sigbus_is_somebody_elses(tmp_path):
    script = """
import ctypes, mmap, os, signal, sys, threading
from nplrp.files.cut import telling
from nplrp.files.plain import map_plain
paths = [f"{sys.argv[1]}/{i}" for i in range(3)]
for path in paths:
    open(path, "wb").write(bytes(1 << 20))
with telling("test", 7):
    for _ in range(3):  # those that are gone serve for others
        first, second = (map_plain(path)[0] for path in paths[:2])
third = map_plain(paths[2])[0]  # told of by nobody
for path in paths:
    os.truncate(path, 0)
if sys.argv[2] == "kill":
    os.kill(os.getpid(), signal.SIGBUS)
if sys.argv[2] == "third":
    bytes(third)
class Long(threading.Thread):
    def run(self):
        ctypes.CDLL(None).memcmp(ctypes.c_void_p(address), ctypes.c_void_p(address), ctypes.c_size_t(1 << 20))
import numpy as np
address = np.frombuffer(second, np.uint8).ctypes.data
for thread in [Long() for _ in range(8)]:
    thread.start()
"""
    (done, killed, other) = (run(script, tmp_path, how) for how in ("threads", "kill", "third"))
    assert (done.returncode, done.stderr.count("\n")) == (7, 1)
    assert done.stderr.startswith(f"test: {tmp_path}/1: the file was cut")
    assert killed.returncode == other.returncode == -signal.SIGBUS  # as if there were no handler
    assert killed.stderr == other.stderr == ""


def test_maps_come_and_go_in_threads(tmp_path):
    from nplrp.files.cut import telling
    from nplrp.files.plain import map_plain
    from nplrp.jit import bus

    path = tmp_path / "f"
    path.write_bytes(bytes(10))

    def many():
        for _ in range(200):
            map_plain(path)

    before = len(bus._known)  # what other tests of this process had mapped at once
    with telling("test"):
        threads = [threading.Thread(target=many) for _ in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(bus._known) - before < 20
    assert not any(node[0][bus._END] for node in bus._free)
