"""Runs over many images: the same bits in one go, in parts and after any interruption; what is bad ends nothing and is told."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp.batch import job as job_module
from nplrp.batch.job import check_folder, job_facts, open_job, read_job
from nplrp.batch.merging import verify
from nplrp.batch.results import Results
from nplrp.batch.shard import Row, open_shard, shard_path, write_shard
from nplrp.cli import main
from nplrp.errors import OutputError
from nplrp.files.locks import claimed
from nplrp.stream import Wanted
from tests import zoo

WEIGHTS = Path(__file__).parent.parent / "data" / "keras_files" / "small32_k3.keras"


@pytest.fixture
def pictures(tmp_path, monkeypatch):
    """A working directory with 21 pictures in two folders, called ``photos``."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    for i in range(21):
        folder = Path("photos") / f"class{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        size = rng.integers(20, 60, 2)
        Image.fromarray(rng.integers(0, 256, (*size, 3), dtype=np.uint8)).save(folder / f"p{i:02}.png")
    return Path("photos")


def batch(*arguments):
    return main(["batch", *map(str, arguments), "-w", str(WEIGHTS)])


def hashes(folder):
    """Return the content hash of every shard."""
    found = {}
    for path in sorted((Path(folder) / "shards").iterdir()):
        with h5py.File(path) as file:
            found[path.name] = file.attrs["sha256"]
    return found


def names(folder):
    """Return the images of all shards, in order."""
    found = []
    for path in sorted((Path(folder) / "shards").iterdir()):
        with h5py.File(path) as file:
            found += file["images"].asstr()[...].tolist()
    return found


def rows_of(folder):
    """Return what the first shard was written of, but for the maps' relevance."""
    with open_shard(Path(folder), read_job(Path(folder)), 0) as shard:
        found = []
        for i, image in enumerate(shard["images"]):
            maps = {name: shard[f"maps/0/{name}"][i : i + 1] for name in ("target", "begun", "arrived", "sha256", "relevance")}
            arrays = {name: shard[name][i] for name in ("output", "logits")}
            found.append(Row(int(shard["index"][i]), str(image), shard["file_sha256"].astype(str)[i], arrays, [maps], ""))
        return found


@pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
def test_results_are_those_of_explain(pictures, capsys):
    assert batch(pictures, "--out", "run", "-c", "notebook,zplus", "--shard-size", 8, "--ledger", "--pictures", "-t", "top-2") == 0
    assert capsys.readouterr().out.startswith("21 images explained in ")
    model, results = nplrp.load(WEIGHTS), Results.open("run")
    images = sorted(str(path) for path in pictures.rglob("*.png"))
    assert names("run") == images
    maps = list(results.maps())
    assert len(maps) == 2 * 2 * 21
    for i, image in enumerate(images):
        x = nplrp.preprocess(image, model)
        for k, composite in enumerate(["notebook", "zplus"]):
            e = nplrp.explain(model, x, composite, "top-2")
            mine = [each for each in maps if each.index == i and each.composite == k]
            assert [each.image for each in mine] == [image] * 2
            assert np.array_equal(np.stack([each.relevance for each in mine]), e.relevance)
            assert [each.target for each in mine] == e.targets.tolist()
            assert np.array_equal(mine[0].output, e.output[0])
            assert [each.begun for each in mine] == pytest.approx(e.ledger.start, rel=1e-12)
            assert [each.arrived for each in mine] == pytest.approx(e.ledger.end, rel=1e-6, abs=1e-9)
            assert np.array_equal(mine[1].ledger["bias"], [entry.bias[1] for entry in e.ledger.entries])
            assert results.label(mine[0]) == e.target_labels()[0]
            assert results.predicted(mine[1]) == e.labels(1)[0][0]
    drawn = sorted(Path("run/pictures").iterdir())
    assert [path.name for path in drawn] == [f"{i:06}-{Path(image).stem}.png" for i, image in enumerate(images)]
    with Image.open(drawn[0]) as picture:
        assert picture.size == (32 + 4 * 36, 32)


@pytest.mark.parametrize(("keep", "error"), [("float16", 2e-3), ("reduced", 1e-6)])
def test_less_is_kept(pictures, keep, error):
    assert batch(pictures, "--out", "whole", "-c", "epsilon", "-q") == 0
    assert batch(pictures, "--out", "less", "-c", "epsilon", "--keep", keep, "-q") == 0
    for whole, less in zip(Results.open("whole").maps(), Results.open("less").maps(), strict=True):
        R = whole.relevance if keep == "float16" else whole.relevance.sum(axis=-1, dtype=float)
        assert less.relevance.dtype == np.float32
        assert np.abs(less.relevance - R).max() <= error * np.abs(whole.relevance).max()
    assert sum(path.stat().st_size for path in Path("less/shards").iterdir()) < 0.6 * shard_path(Path("whole"), 0).stat().st_size
    with h5py.File(shard_path(Path("whole"), 0)) as one, h5py.File(shard_path(Path("less"), 0)) as other:
        assert np.array_equal(one["maps/0/sha256"], other["maps/0/sha256"])  # the bits as they were computed


def test_parts_make_the_whole(pictures):
    assert batch(pictures, "--out", "one", "--shard-size", 4, "-q") == 0
    for i in (3, 1, 2):
        assert batch(pictures, "--out", "parts", "--shard-size", 4, "--shard", f"{i}/3", "-q") == 0
        assert len(list(Path("parts/shards").iterdir())) == {3: 2, 1: 4, 2: 6}[i]
    assert hashes("parts") == hashes("one")
    assert batch(pictures, "--out", "parts", "--shard-size", 4, "-q") == 0  # nothing left to do


def test_images_that_come_later_are_added(pictures):
    later = Path("later")
    shutil.move(pictures / "class1", later)
    assert batch(pictures, "--out", "run", "--shard-size", 4, "-q") == 0
    before = hashes("run")
    shutil.move(later, pictures / "class1")
    assert batch(pictures, "--out", "run", "--shard-size", 4, "-q") == 0
    assert before.items() <= hashes("run").items()
    assert sorted(names("run")) == sorted(str(path) for path in pictures.rglob("*.png"))
    assert read_job(Path("run")).ends == (4, 8, 11, 15, 19, 21)


def start(*arguments):
    command = [sys.executable, "-m", "nplrp.cli", "batch", *map(str, arguments), "-w", str(WEIGHTS)]
    environment = {**os.environ, "PYTHONPATH": str(Path(nplrp.__file__).parent.parent)}
    return subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, env=environment)


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_killed_at_random_points_and_gone_on(pictures, how):
    """However often it is killed, in the end there is what one run makes: nothing twice, nothing lost, the same bits."""
    many = Path("many")
    many.mkdir()
    for i, path in enumerate(sorted(pictures.rglob("*.png")) * 24):  # more than six runs do before they are killed
        shutil.copy(path, many / f"{i:03}.png")
    command = (many, "--shard-size", 4, "--pictures", "-q", "-c", "zplus")
    assert batch(*command, "--out", "one") == 0
    rng, told = random.Random(7), ""
    for kill in range(7):
        process = start(*command, "--out", "killed")
        least = 0 if how == signal.SIGKILL else 1  # an interrupt while Python itself starts is Python's
        until, patience = len(list(Path("killed/shards").glob("0*"))) + rng.randint(least, 8), time.monotonic() + 120
        while kill < 6 and process.poll() is None and time.monotonic() < patience:
            if len(list(Path("killed/shards").glob("0*"))) >= until:
                time.sleep(rng.uniform(0, 0.05))
                process.send_signal(how)
                break
            time.sleep(0.002)
        _, told = process.communicate(timeout=120)
        assert "Traceback" not in told
        assert process.returncode == ({signal.SIGKILL: -9, signal.SIGINT: 130}[how] if kill < 6 else 0), told
    assert [path for path in Path("killed").rglob(".*") if path.suffix != ".lock"] == []
    assert hashes("killed") == hashes("one")
    assert names("killed") == sorted(str(path) for path in many.iterdir())
    drawn = [{path.name: path.read_bytes() for path in Path(run, "pictures").glob("0*.png")} for run in ("one", "killed")]
    assert drawn[0] == drawn[1]
    assert len(drawn[0]) == 504


def test_bad_images_end_nothing(pictures, capsys):
    (pictures / "class0" / "broken.png").write_bytes((pictures / "class0" / "p00.png").read_bytes()[:200])
    (pictures / "class1" / "text.jpg").write_text("no picture")
    assert batch(pictures, "gone.png", "--out", "run", "--shard-size", 8, "-c", "zplus", "-q") == 1
    shown = capsys.readouterr()
    assert shown.out.startswith("21 images explained")
    assert "3 images couldn't be explained" in shown.err
    for text in ("broken.png: truncated or damaged", "text.jpg: not a picture", "gone.png: can't be opened"):
        assert shown.err.count(text) == 1
    assert "Traceback" not in shown.err
    again = batch(pictures, "gone.png", "--out", "run", "--shard-size", 8, "-c", "zplus", "-q")
    assert again == 1
    assert "3 images couldn't be explained" in capsys.readouterr().err
    shutil.copy(pictures / "class0" / "p02.png", pictures / "class0" / "broken.png")  # mended: its shard alone is computed again
    before = {path: path.stat().st_mtime_ns for path in Path("run/shards").iterdir()}
    assert batch(pictures, "gone.png", "--out", "run", "--shard-size", 8, "-c", "zplus", "-q") == 1
    changed = [path.name for path, time_ns in before.items() if path.stat().st_mtime_ns != time_ns]
    assert len(changed) == 1
    assert "2 images couldn't be explained" in capsys.readouterr().err
    assert len(names("run")) == 22


def test_a_run_of_nothing_that_is_a_picture_is_not_begun(pictures, capsys):
    Path("bad.png").write_text("x")
    for names, told in ((["bad.png"], "nplrp: bad.png: not a picture"), (["bad.png", "gone.png"], "none of the 2 images can be read")):
        assert batch(*names, "--out", "run") == 2
        assert told in capsys.readouterr().err
    assert not Path("run").exists()


def test_all_images_are_bad(pictures, capsys):
    Path("bad.png").write_bytes(next(pictures.rglob("*.png")).read_bytes()[:60])  # its header is whole
    assert batch("bad.png", "--out", "run") == 1
    assert "1 images couldn't be explained" in capsys.readouterr().err
    assert list(Results.open("run").maps()) == []
    assert main(["merge", "run", "-q"]) == 0


@pytest.mark.parametrize(
    ("other", "message"),
    [
        (("-c", "zplus"), "composite 1.name: 'notebook' there, 'zplus' asked for"),
        (("-t", "1"), "target: None there, '1' asked for"),
        (("--dtype", "float64"), "dtype: 'float32' there, 'float64' asked for"),
        (("-c", "notebook,zplus"), "composites: notebook there, notebook, zplus asked for"),
        (("--preprocessing", "torch"), "preprocessing.mode: 'caffe' there, 'torch' asked for"),
        (("--keep", "reduced"), "kept: 'float32' there, 'reduced' asked for"),
    ],
)
def test_another_run_is_refused_with_the_difference(pictures, capsys, other, message):
    assert batch(pictures, "--out", "run", "-q") == 0
    before = hashes("run")
    capsys.readouterr()
    assert batch(pictures, "--out", "run", "-q", *other) == 2
    shown = capsys.readouterr().err
    assert message in shown
    assert shown.count("\n") == 1
    assert hashes("run") == before


def test_saying_what_was_assumed_is_no_difference(pictures):
    assert batch(pictures, "--out", "run", "-q") == 0
    assert batch(pictures, "--out", "run", "-q", "--preprocessing", "caffe") == 0


def test_another_version_is_refused(pictures, capsys):
    assert batch(pictures, "--out", "run", "-q") == 0
    job = Path("run/job.json")
    job.write_text(job.read_text().replace(f"nplrp {nplrp.__version__}", "nplrp 0.0.9"))
    assert batch(pictures, "--out", "run", "-q") == 2
    assert "generator: 'nplrp 0.0.9' there" in capsys.readouterr().err


def test_folders_that_are_no_run(pictures, capsys):
    def refused(*arguments):
        code, shown = batch(*arguments), capsys.readouterr().err
        assert code == 2
        assert shown.count("\n") == 1
        return shown

    Path("empty").mkdir()
    assert "there are no pictures in this folder" in refused("empty", "--out", "run")
    assert not Path("run").exists()
    Path("other").mkdir()
    Path("other/notes.txt").write_text("mine")
    assert "holds other files, and no run" in refused(pictures, "--out", "other")
    assert "is a file" in refused(pictures, "--out", "other/notes.txt")
    assert [path.name for path in Path("other").iterdir() if not path.name.endswith(".lock")] == ["notes.txt"]
    Path("run").mkdir()
    Path("run/job.json").write_text("{")
    assert "job.json: is damaged" in refused(pictures, "--out", "run")
    for arguments, message in [
        (("--keep", "float8"), "--keep float8: did you mean"),
        (("--shard-size", "0"), "--shard-size 0: expected"),
        (("--shard", "0/4"), "--shard 0/4: expected i/N"),
        (("--shard", "5/4"), "--shard 5/4: expected i/N"),
        (("-c", "zpluss"), "did you mean 'zplus'"),
        (("-t", "zebra crossing"), "target 'zebra crossing'"),
        (("--resample", "cubic"), "unknown resample filter"),
        (("--shard", "1/2", "--scheduler", "local"), "exclude each other"),
    ]:
        assert message in refused(pictures, "--out", "new", *arguments)
        assert not Path("new").exists()


def test_two_runs_in_one_folder(pictures, capsys):
    assert batch(pictures, "--out", "run", "--shard", "1/2", "--shard-size", 8, "-q") == 0
    with claimed(Path("run/.run.lock"), "held by the test"):
        assert batch(pictures, "--out", "run", "--shard-size", 8, "-q") == 2
        assert "another process is at work in this folder" in capsys.readouterr().err
        assert batch(pictures, "--out", "run", "--shard", "1/2", "--shard-size", 8, "-q") == 2
    assert "another process is at work in this folder" in capsys.readouterr().err
    with claimed(Path("run/.run.lock"), "a part", shared=True):
        assert batch(pictures, "--out", "run", "--shard-size", 8, "-q") == 2
        assert batch(pictures, "--out", "run", "--shard", "1/2", "--shard-size", 8, "-q") == 0
    with claimed(Path("run/.run-2-of-2.lock"), "held by the test"):
        assert batch(pictures, "--out", "run", "--shard", "2/2", "--shard-size", 8, "-q") == 2
    assert batch(pictures, "--out", "run", "--shard-size", 8, "-q") == 0


def test_damaged_shards(pictures, capsys):
    assert batch(pictures, "--out", "run", "--shard-size", 8, "-q") == 0
    right, path = hashes("run"), shard_path(Path("run"), 1)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    assert main(["merge", "run", "-q"]) == 2
    assert "000001.h5: is truncated or was changed" in capsys.readouterr().err
    assert not Path("run/merged.h5").exists()
    assert batch(pictures, "--out", "run", "--shard-size", 8) == 0
    assert "000001.h5: is truncated or was changed" in capsys.readouterr().err
    assert hashes("run") == right
    with h5py.File(path, "r+") as file:
        file["maps/0/relevance"][2, 5, 5, 1] += 1
    assert main(["merge", "run", "-q"]) == 2
    shown = capsys.readouterr().err
    assert "000001.h5: is truncated or was changed: its bytes don't have the SHA-256 that it states" in shown
    assert shown.count("\n") == 1
    path.unlink()
    assert main(["merge", "run", "-q"]) == 2
    assert "1 of 3 shards aren't there yet (8 images, the first is number 1)" in capsys.readouterr().err
    shutil.copy(shard_path(Path("run"), 0), path)
    assert main(["merge", "run", "-q"]) == 2
    assert "belongs to another run or another place" in capsys.readouterr().err


def test_merged_results(pictures, capsys):
    (pictures / "class0" / "broken.png").write_text("")
    batch(pictures, "--out", "run", "--shard-size", 8, "-c", "notebook,zplus", "-t", "top-2", "-q")
    assert main(["merge", "run", "-o", "all.h5", "--verify", "20%", "--seed", "1", "-w", str(WEIGHTS), "-q"]) == 0
    assert "computed 5 images again: 5 have the same bits, 0 don't" in capsys.readouterr().out
    with h5py.File("all.h5") as file:
        assert file["images"].asstr()[...].tolist() == names("run")
        assert file["failed"].asstr()[...].tolist() == [str(pictures / "class0" / "broken.png")]
        assert np.array_equal(file["maps/1/image"], np.repeat(np.arange(21), 2))
        merged = file["maps/1/relevance"][...]
    expected = [each.relevance for each in Results.open("run").maps() if each.composite == 1]
    assert np.array_equal(merged, np.stack(expected))


def test_verify_prepares_pictures_as_the_run_did(pictures, capsys):
    assert batch(pictures, "--out", "run", "-q", "--preprocessing", "tf") == 0
    assert main(["merge", "run", "--verify", "100%", "-w", str(WEIGHTS), "-q"]) == 0
    assert "21 have the same bits, 0 don't" in capsys.readouterr().out
    other = Path(__file__).parent.parent / "data" / "keras_files" / "keras3_tiny.keras"
    assert main(["merge", "run", "--verify", "1%", "-w", str(other), "-q", "--preprocessing", "tf"]) == 2
    assert "was computed with other weights" in capsys.readouterr().err


def test_verify_tells_what_has_changed(pictures, capsys):
    assert batch(pictures, "--out", "run", "-q") == 0
    shutil.copy(pictures / "class0" / "p00.png", pictures / "class1" / "p01.png")
    (pictures / "class1" / "p03.png").unlink()
    job, (first, *rest) = read_job(Path("run")), rows_of("run")
    maps = [{**first.maps[0], "sha256": np.array([b"0" * 64])}]
    write_shard(Path("run"), job, 0, [replace(first, maps=maps), *rest])

    count, other = verify(Results.open("run"), nplrp.load(WEIGHTS), 1.0)
    assert count == 21
    assert sorted(line.partition(": ")[2].partition(":")[0] for line in other) == [
        "can't be read any more",
        "computed again, its relevance has other bits",
        "the picture has changed since",
    ]
    for share in ("0", "101%", "x", "nan"):
        assert main(["merge", "run", "--verify", share, "-q"]) == 2
        assert "expected a share of the images" in capsys.readouterr().err


@pytest.mark.skipif(sys.platform != "linux", reason="limits file sizes")
def test_a_full_disk(pictures):
    """Everything that was written stays; the error is one line; with room again the run goes on."""
    code = f"""
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (150_000, 150_000))
from nplrp.cli import main
sys.exit(main(["batch", "photos", "--out", "run", "--shard-size", "16", "-q", "--preprocessing", "caffe", "-w", {str(WEIGHTS)!r}]))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(nplrp.__file__).parent.parent)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2, done.stderr
    assert "can't be written" in done.stderr
    assert done.stderr.count("\n") == 1
    assert [path.name for path in Path("run/shards").iterdir() if path.name.startswith(".")] == []
    assert batch(pictures, "--out", "run", "--shard-size", 16, "-q", "--preprocessing", "caffe") == 0
    assert len(names("run")) == 21


def test_hidden_files_and_results_are_no_images(pictures):
    (pictures / ".hidden.png").write_text("")
    assert batch(pictures, "--out", pictures / "run", "--pictures", "-q") == 0
    assert batch(pictures, "--out", pictures / "run", "--pictures", "-q") == 0  # its own pictures aren't explained
    assert len(names(pictures / "run")) == 21


def test_a_folder_in_which_another_job_of_an_array_begins_meanwhile(pictures, monkeypatch):
    """Its job.json may come between two looks at the folder."""
    facts, others = job_facts(nplrp.load(WEIGHTS), Wanted(("zplus",))), job_module._others

    def begun_meanwhile(out):
        open_job(out, facts, ["a"], 2)
        return others(out)

    Path("run").mkdir()
    with monkeypatch.context() as patch:
        patch.setattr(job_module, "_others", lambda out: False if (out / "job.json.lock").exists() else begun_meanwhile(out))
        assert check_folder(Path("run"))
    Path("other").mkdir()
    Path("other/notes.txt").touch()
    with pytest.raises(OutputError, match="holds other files, and no run"):
        check_folder(Path("other"))


def test_job_is_written_once(pictures):
    facts = job_facts(nplrp.load(WEIGHTS), Wanted(("zplus",)))
    open_job(Path("job"), facts, ["a", "b", "c"], 2)
    before = Path("job/job.json").stat().st_mtime_ns
    time.sleep(0.01)
    assert open_job(Path("job"), facts, ["a", "b"], 2).images == ("a", "b", "c")
    assert Path("job/job.json").stat().st_mtime_ns == before


def test_memory_does_not_grow_with_the_number_of_images(pictures, monkeypatch):
    """However slowly shards are written: no more images are read than are explained, read ahead, or wait in three shards."""
    from nplrp import stream
    from nplrp.batch import running

    reads, written, most = [], [], 0
    read, write = stream.read, running.write_shard

    def slow_write(out, job, shard, rows):
        time.sleep(0.02)
        written.extend(rows)
        write(out, job, shard, rows)

    def counted(*arguments):
        nonlocal most
        reads.append(1)
        most = max(most, len(reads) - len(written))
        return read(*arguments)

    monkeypatch.setattr(stream, "read", counted)
    monkeypatch.setattr(running, "write_shard", slow_write)
    Path("list").write_text("\n".join(sorted(str(path) for path in pictures.rglob("*.png")) * 12))
    for i, name in enumerate(Path("list").read_text().splitlines()):
        shutil.copy(name, f"{i:03}.png")
    assert batch("*.png", "--out", "run", "--shard-size", 4, "-q") == 0
    assert len(written) == 252
    assert most <= 2 * stream.CHUNK + stream._AHEAD + (running._WRITING + 2) * 4


@pytest.mark.parametrize(
    ("key", "values"),
    [
        *((key, (None, 7, "x", [], [7], {"a": 1}, True)) for key in ("composites", "input_shape", "preprocessing", "scoring")),
        ("classes", (7, [7], [["a"]], {"a": 1})),
        ("composites", ([{}], [{"name": 7, "dialect": "d", "start": "one", "gradient": False, "rules": {}}])),
        ("input_shape", ([10**7, 3, 3], [32.0, 32, 3], [32, 32], [True, 32, 3])),
        ("kept", (None, [], "float64")),
        ("ledger", (None, "yes")),
        ("target", ({}, 1.5)),
    ],
)
def test_facts_that_are_none_are_told_by_every_command(pictures, capsys, key, values):
    """What a run's file holds may have been changed; no command relies on it before it has been looked at."""
    assert batch(pictures / "class0", "--out", "run", "-q") == 0
    path = Path("run") / "job.json"
    good = json.loads(path.read_text("utf-8"))
    commands = (["merge", "run"], ["summary", "run"], ["export", "run", "--to", "virelay", "--out", "v"])
    for value in (*values, "left out"):
        facts = dict(good["job"])
        facts[key] = value
        if value == "left out":
            del facts[key]
        path.write_text(json.dumps(good | {"job": facts}), "utf-8")
        capsys.readouterr()
        for line in (*commands, ["batch", str(pictures), "--out", "run", "-w", str(WEIGHTS)]):
            assert main([*line, "-q"]) == 2, (line, value)
            assert f"{path}: is damaged" in capsys.readouterr().err, (line, value)


@pytest.mark.parametrize("changed", [{"ends": [True, 11]}, {"ends": [1.0, 11]}, {"ends": [-1, 11]}, {"images": ["\ud800"] * 11}])
def test_lists_of_a_run_that_are_none(pictures, capsys, changed):
    assert batch(pictures / "class0", "--out", "run", "-q") == 0
    path = Path("run") / "job.json"
    path.write_text(json.dumps(json.loads(path.read_text("utf-8")) | changed), "utf-8")
    capsys.readouterr()
    assert main(["merge", "run", "-q"]) == 2
    assert "is damaged" in capsys.readouterr().err


@pytest.mark.parametrize("kept", ["float32", "float16", "reduced"])
@pytest.mark.parametrize("title", ["conv1d", "add_vectors"])
def test_a_run_of_arrays(tmp_path, capsys, title, kept):
    """Of signals and of vectors: a folder without pictures means its arrays; everything that reads a run knows them."""
    network = zoo.network(f"keras3/{title}")
    weights, out = str(zoo.write(network, tmp_path, "keras")), str(tmp_path / "run")
    (tmp_path / "data").mkdir()
    x = network.inputs()
    for i, each in enumerate(x):
        np.save(tmp_path / "data" / f"x{i}.npy", each)
    asked = ["batch", str(tmp_path / "data"), "-w", weights, "-c", "epsilon,zplus", "--out", out, "--keep", kept, "-q"]
    assert main(asked) == 0 and main(asked) == 0
    model = nplrp.load(weights)
    e = nplrp.explain(model, x, "epsilon")
    if kept == "float32":
        found = [each for each in Results.open(Path(out)).maps() if each.composite == 0]
        assert np.array_equal(np.stack([each.relevance for each in found]), e.relevance)
    assert main(["merge", out, "--verify", "100%", "-w", weights]) == 0
    assert "2 have the same bits, 0 don't" in capsys.readouterr().out
    assert main(["summary", out, "--png", str(tmp_path / "sheet.png"), "-q"]) == 0
    with Image.open(tmp_path / "sheet.png") as sheet:
        assert sheet.width > 100
    assert main(["export", out, "--to", "virelay", "-o", str(tmp_path / "project")]) == 2
    assert "ViRelAy shows pictures" in capsys.readouterr().err
    assert main([*asked[:6], "--out", str(tmp_path / "other"), "--pictures"]) == 2
    assert "--pictures draws pictures" in capsys.readouterr().err and not (tmp_path / "other").exists()


def test_arrays_are_explained_and_drawn(tmp_path, capsys):
    network = zoo.network("keras3/conv1d")
    weights, one = str(zoo.write(network, tmp_path, "keras")), str(tmp_path / "x.npy")
    np.save(one, network.inputs()[0])
    assert main(["explain", one, "-w", weights, "-o", str(tmp_path / "map.png")]) == 0
    with Image.open(tmp_path / "map.png") as drawn:
        assert drawn.width > 300
    assert "notebook: relevance of all outputs" in capsys.readouterr().out
    assert main(["predict", one, "-w", weights]) == 0
    assert main(["explain", one, "-w", weights, "-c", "epsilon,zplus", "-o", str(tmp_path / "two.png")]) == 2
    assert "one composite at a time" in capsys.readouterr().err and not (tmp_path / "two.png").exists()
    assert main(["explain", one, "-w", str(WEIGHTS)]) == 2
    assert "an array isn't a picture" in capsys.readouterr().err
