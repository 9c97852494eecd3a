"""The cache of compiled kernels never fails a run or serves what is out of date; parallel kernels may be called from many threads."""

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

from nplrp.jit import cache, exclusive, in_threads, shared_kernel
from nplrp.kernels import elementwise

ROOT = Path(__file__).parents[2]
RUN = """
import sys
import numpy as np
{before}
from nplrp.jit import cache
from nplrp.kernels import elementwise
x = np.arange(-20000, 20000, dtype=np.float32)
out = np.empty_like(x)
elementwise.relu(x, out, 2)
assert (out == np.maximum(x, 0)).all()
from nplrp.kernels.softmax import softmax
softmax(x[None], out[None])
print(cache.cache_directory(), int("numba" not in sys.modules))
"""


def run(directory, before="", said="", **settings):
    """Run two kernels in a new process; return its cache directory and whether it did without Numba, which compiles what isn't kept.

    `said` has to be in the one line on stderr.
    """
    env = {**os.environ, "NUMBA_CACHE_DIR": str(directory), **settings}
    done = subprocess.run([sys.executable, "-c", RUN.format(before=before)], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert said in done.stderr and done.stderr.count("\n") == bool(said)
    place, hits = done.stdout.split()
    return place, int(hits)


def test_second_process_finds_the_kernels(tmp_path):
    place, hits = run(tmp_path)
    assert hits == 0
    assert Path(place).parent == tmp_path
    assert not list(Path(place).glob("*.tmp"))
    assert run(tmp_path) == (place, 1)


def test_damaged_entries_are_compiled_again(tmp_path):
    place, _ = run(tmp_path)
    entries = sorted(Path(place).glob("*.bin"))
    assert len(entries) == 2
    (imports,) = Path(place).glob("imports-*.json")
    whole = [path.read_bytes() for path in entries]
    flipped = bytearray(whole[0])
    flipped[len(flipped) // 2] ^= 1
    code = b"something else " * 2000
    foreign = hashlib.sha256(code).digest() + code
    for first, second in ((b"", whole[1][:500]), (flipped, foreign)):
        for path, content in zip(entries, (first, second), strict=True):
            path.write_bytes(content)
        imports.write_bytes(first)
        assert run(tmp_path) == (place, 0)
        assert run(tmp_path) == (place, 1)


def test_without_any_place_kernels_still_run(tmp_path):
    nowhere = "from nplrp.jit import cache; cache._writable = lambda directory: False"
    assert run(tmp_path, nowhere) == ("None", 0)
    assert not list(tmp_path.iterdir())


def test_kernels_are_found_where_nothing_can_be_written_any_more(tmp_path):
    run(tmp_path)
    nowhere = "from nplrp.jit import cache; cache._writable = lambda directory: False"
    assert run(tmp_path, nowhere) == ("None", 1)


def test_nplrps_own_cache_directory_comes_before_the_installation(tmp_path):
    place, _ = run("", NPLRP_CACHE=str(tmp_path))
    assert Path(place).parent == tmp_path
    place, _ = run("", NPLRP_CACHE="")
    assert Path(place).parent == ROOT / "nplrp" / "jit" / "__pycache__"


def test_a_directory_that_vanishes_or_refuses_is_no_error(tmp_path):
    vanish = "from nplrp.jit import cache; import shutil; shutil.rmtree(cache.cache_directory())"
    assert run(tmp_path, vanish)[1] == 0
    in_the_way = tmp_path / "file"
    in_the_way.write_text("")
    place, _ = run(in_the_way)
    assert Path(place).is_dir(), "the next place is taken"


def test_a_folder_that_others_can_write_is_not_used(tmp_path):
    place, _ = run(tmp_path)
    assert Path(place).stat().st_mode & 0o777 == 0o700
    Path(place).chmod(0o777)
    elsewhere, _ = run(tmp_path, said="can be written by others (mode 777)")
    assert not elsewhere.startswith(str(tmp_path))
    Path(place).rename(tmp_path / "theirs")
    (tmp_path / "theirs").chmod(0o700)
    Path(place).symlink_to(tmp_path / "theirs")
    elsewhere, _ = run(tmp_path, said="is a link")
    assert not elsewhere.startswith(str(tmp_path))


def test_entries_that_somebody_else_could_have_written_are_compiled_again(tmp_path):
    place, _ = run(tmp_path)
    first, second = sorted(Path(place).glob("*.bin"))
    first.chmod(0o666)
    assert run(tmp_path, said="can be written by others (mode 666)") == (place, 0)
    assert run(tmp_path) == (place, 1), "it was replaced by our own"
    assert first.stat().st_mode & 0o777 == 0o600
    second.unlink()
    os.mkfifo(second)
    assert run(tmp_path, said="is no plain file") == (place, 0)
    assert run(tmp_path) == (place, 1)


def test_another_cpu_has_its_own_entries(tmp_path):
    place, _ = run(tmp_path)
    before = set(Path(place).iterdir())
    assert run(tmp_path, NUMBA_CPU_NAME="x86-64-v2", NUMBA_CPU_FEATURES="") == (place, 0)
    assert before < set(Path(place).iterdir())
    assert run(tmp_path) == (place, 1)


def test_two_cold_processes_at_once(tmp_path):
    with ThreadPoolExecutor(2) as pool:
        for place, _ in pool.map(run, [tmp_path] * 2):
            assert run(place.removesuffix("/nplrp-kernels"))[1] == 1


def test_old_versions_are_removed(tmp_path, monkeypatch):
    monkeypatch.setattr(cache, "cache_directory", lambda: tmp_path)
    for i in range(cache.KEPT + 3):
        path = tmp_path / f"nplrp.kernels.elementwise-denominator-{i:02}.bin"
        path.touch()
        os.utime(path, (i, i))
    (tmp_path / "nplrp.kernels.elementwise-other-00.bin").touch()
    cache.forget(elementwise.denominator, keep=cache.KEPT)
    assert sorted(p.name for p in tmp_path.iterdir())[0] == "nplrp.kernels.elementwise-denominator-03.bin"
    assert len(list(tmp_path.iterdir())) == cache.KEPT + 1
    cache.forget(elementwise.denominator)
    assert [p.name for p in tmp_path.iterdir()] == ["nplrp.kernels.elementwise-other-00.bin"]


def test_concurrent_calls_from_many_threads():
    x = np.random.default_rng(0).standard_normal((8, 60_000)).astype(np.float32)

    def work(i):
        out = np.empty_like(x[i])
        for _ in range(40):
            elementwise.relu(x[i], out, 2)
        return out

    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(work, range(8)))
    assert np.array_equal(results, np.maximum(x, 0))


def test_the_lock_may_be_taken_twice_by_one_thread():
    x = np.ones(50_000, np.float32)
    with exclusive(), exclusive():
        elementwise.relu(x, x, 2)


def test_in_threads_runs_every_part_and_reports_errors():
    seen = []
    in_threads(lambda *args: seen.append(args), 3, "x")
    assert sorted(seen) == [("x", 0, 3), ("x", 1, 3), ("x", 2, 3)]

    def fail(t, nt):
        if t == 1:
            raise ValueError(t)

    with pytest.raises(ValueError, match="1"):
        in_threads(fail, 2)


@shared_kernel
def _greedy(t, nt, out):
    buffer = np.empty(2**50 + t, np.float64)
    out[t] = buffer[0]


def test_a_part_that_runs_out_of_memory_is_an_error():
    for nt in (1, 2):
        with pytest.raises(MemoryError):
            _greedy(nt, np.zeros(2))
