"""Golden files and candidates that lead elsewhere, or aren't what they seem: one line, exit code 2, and nothing of another file."""

import hashlib
import os
import shutil

import h5py
import numpy as np
import pytest

from nplrp import cli
from nplrp.golden.errors import GoldenError
from nplrp.golden.file import check_digest, digest, read, write
from nplrp.golden.recording import record
from tests.networks import images, small_vgg


@pytest.fixture(scope="module")
def good(tmp_path_factory):
    model = small_vgg()
    path = tmp_path_factory.mktemp("golden") / "g.lrpgold.h5"
    write(record(model, images(0, 1, model.input_shape)), path)
    return path


NAME = "relevances/input"


def virtual(file, good):
    layout = h5py.VirtualLayout((1, 8, 8, 3), "f8")
    layout[...] = h5py.VirtualSource(str(good), "layers/input/relevance", (1, 8, 8, 3))
    file.create_virtual_dataset(NAME, layout)


CANDIDATES = {
    "external link": (lambda file, good: file.__setitem__(NAME, h5py.ExternalLink(str(good), "/layers/input/relevance")), "isn't followed"),
    "soft link": (lambda file, good: file.__setitem__(NAME, h5py.SoftLink("/")), "isn't followed"),
    "external data": (lambda file, good: file.create_dataset(NAME, (1, 8, 8, 3), "f4", external=[(str(good), 0, 768)]), "in another file"),
    "virtual": (virtual, "in another file"),
    "too large": (lambda file, good: file.create_dataset(NAME, (1 << 40,), "f4", chunks=(1 << 20,), compression="gzip"), "than is stored"),
}


@pytest.mark.parametrize("what", CANDIDATES)
def test_candidates_do_not_lead_elsewhere(what, good, tmp_path, capsys):
    spoil, message = CANDIDATES[what]
    with h5py.File(tmp_path / "c.h5", "w") as file:
        spoil(file, good)
    assert cli.main(["golden", "check", str(good), str(tmp_path / "c.h5")]) == 2
    err = capsys.readouterr().err
    assert message in err
    assert err.count("\n") == 1


def test_many_names_of_one_array_are_read_once(good, tmp_path, capsys):
    with h5py.File(tmp_path / "c.h5", "w") as file:
        first = file.create_dataset("relevances/input", data=np.zeros((1, 8, 8, 3)), compression="gzip")
        for i in range(24):
            file[f"relevances/again{i}"] = first
        file["relevances/loop"] = file["/"]
    assert cli.main(["golden", "check", str(good), str(tmp_path / "c.h5")]) in (1, 4)


GOLDEN = {
    "external link": lambda file: (file.__delitem__("logits"), file.__setitem__("logits", h5py.ExternalLink("x.h5", "/x"))),
    "no layers": lambda file: file.attrs.__setitem__("layers", "[1, 2]"),
    "deep JSON": lambda file: file.attrs.__setitem__("layers", "[" * 100_000),
    "empty layer": lambda file: (file.__delitem__("layers/input"), file.create_group("layers/input")),
    "negative shape": lambda file: file["layers/input"].attrs.__setitem__("activation_shape", np.array([-1, 3])),
    "sums of text": lambda file: file["layers/input"].attrs.__setitem__("relevance_sums", "x"),
    "runs are a number": lambda file: file.attrs.__setitem__("runs", "5"),
    "env is a list": lambda file: file.attrs.__setitem__("env", "[]"),
    "texts for numbers": lambda file: (file.__delitem__("output"), file.create_dataset("output", data=np.array([b"abc"]))),
    "no profile": lambda file: file.attrs.__delitem__("profile"),
}


@pytest.mark.parametrize("what", GOLDEN)
def test_golden_files_that_were_sealed_anew(what, good, tmp_path, capsys):
    path = tmp_path / "bad.lrpgold.h5"
    shutil.copy(good, path)
    with h5py.File(path, "r+") as file:
        GOLDEN[what](file)
    content = path.read_bytes()
    words = content[:512].split(b"\n")[0].split()
    head = b" ".join([*words[:3], hashlib.sha256(content[512:]).hexdigest().encode()]) + b"\n"
    path.write_bytes(head.ljust(512, b"\0") + content[512:])
    assert cli.main(["golden", "show", str(path)]) == 2
    err = capsys.readouterr().err
    assert "isn't laid out as golden values are" in err
    assert err.count("\n") == 1


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
@pytest.mark.parametrize("suffix", [".h5", ".npz", ".safetensors"])
def test_pipes_are_not_waited_for(suffix, good, tmp_path, capsys):
    os.mkfifo(tmp_path / f"c{suffix}")
    os.mkfifo(tmp_path / "g.lrpgold.h5")
    assert cli.main(["golden", "check", str(good), str(tmp_path / f"c{suffix}")]) == 2
    assert cli.main(["golden", "show", str(tmp_path / "g.lrpgold.h5")]) == 2
    assert cli.main(["golden", "check", str(good), "c.npz", "--map", str(tmp_path / "g.lrpgold.h5")]) == 2
    assert capsys.readouterr().err.count("no plain file") == 3


def test_a_digest_that_is_kept_elsewhere(good, tmp_path, capsys):
    assert cli.main(["golden", "show", "--digest", str(good)]) == 0
    line = capsys.readouterr().out
    assert line == f"{hashlib.sha256(good.read_bytes()).hexdigest()}  g.lrpgold.h5\n"
    (tmp_path / "g.sha256").write_text(line)
    check_digest(good, digest(good))
    check_digest(good, str(tmp_path / "g.sha256"))
    other = tmp_path / "other.lrpgold.h5"
    write(record(small_vgg(1), images(0, 1, (8, 8, 3))), other)
    read(other)  # whole, but another
    assert cli.main(["golden", "check", str(other), "c.npz", "--digest", str(tmp_path / "g.sha256")]) == 2
    assert "it isn't the file that the digest was taken of" in capsys.readouterr().err
    for bad in ("", "0" * 63, str(good)):
        with pytest.raises(GoldenError, match="--digest"):
            check_digest(good, bad)
