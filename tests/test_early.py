"""What can be refused before weights are read is, in one line: pictures, places to write to, words that mean nothing with any model."""

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nplrp import cli
from nplrp.errors import ImageError, OutputError
from nplrp.files.atomic import check_new_folder, check_place
from nplrp.images import read_picture
from nplrp.stream import unreadable
from tests.keras_files import FILES

WEIGHTS = str(FILES / "small32_k3.keras")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a picture, a text of that kind, and a file where a folder should be."""
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save("i.png")
    Path("bad.png").write_text("no picture")
    Path("file").write_text("")
    return tmp_path


def unread(*_, **__):
    raise AssertionError("the weights were read")


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("explain gone.png", "gone.png: can't be opened: No such file"),
        ("explain bad.png", "bad.png: not a picture"),
        ("explain i.png -o no/x.png", "no/x.png: there is no folder no"),
        ("explain i.png -o file/x.png", "there is no folder file"),
        ("explain i.png -o no/such/", "there is no folder no"),
        ("explain i.png -o i.png/", "i.png"),
        ("explain i.png -o /proc/x.png", "/proc/x.png: can't be written"),
        ("explain i.png --save no/x.npz", "no/x.npz: there is no folder no"),
        ("explain i.png -c zplsu", "did you mean 'zplus'"),
        ("explain i.png -d zenit", "there is no dialect 'zenit'"),
        ("explain i.png -t top-0", "target 'top-0'"),
        ("explain i.png --start som", "there is no start 'som'"),
        ("explain i.png --dtype float16", "there is no dtype 'float16'"),
        ("explain i.png --algorithm fft", "there is no algorithm 'fft'"),
        ("explain i.png --resample cubic", "unknown resample filter 'cubic'"),
        ("predict gone.png", "gone.png: can't be opened"),
        ("predict i.png --top 0", "the number of labels is 0"),
        ("predict i.png --dtype x", "there is no dtype 'x'"),
        ("batch gone.png -o run", "gone.png: can't be opened"),
        ("batch i.png -o file", "file: is a file"),
        ("batch i.png -o file/run", "file is a file"),
        ("batch i.png -o .", "holds other files, and no run"),
        ("batch i.png -o run -t top-0", "target 'top-0'"),
        ("batch i.png -o run --start som", "there is no start 'som'"),
        ("plan -c zplsu", "did you mean 'zplus'"),
        ("plan -d zenit", "there is no dialect 'zenit'"),
        ("evaluate gone.png", "gone.png: can't be opened"),
        ("evaluate i.png --start som", "there is no start 'som'"),
        ("evaluate i.png --features f", "there are no features 'f'"),
        ("evaluate i.png --plot no/x.png", "there is no folder no"),
        ("evaluate --input gone.npy", "gone.npy: can't be read"),
        ("golden record -i gone.png -o g.lrpgold.h5", "gone.png: can't be opened"),
        ("golden record -i i.png -o no/g.lrpgold.h5", "there is no folder no"),
        ("golden record -i i.png -o g.lrpgold.h5 --profile p", "there is no profile 'p'"),
        ("golden record -i i.png -o g.lrpgold.h5 -c zplsu", "did you mean 'zplus'"),
        ("golden record -o g.lrpgold.h5", "there is nothing to explain"),
        ("golden record -i i.png -x x.npy -o g.lrpgold.h5", "exclude each other"),
    ],
)
def test_before_weights_are_read(folder, line, told, capsys, monkeypatch):
    monkeypatch.setattr("nplrp.files.weights.load", unread)
    before = sorted(folder.iterdir())
    assert cli.main([*line.split(), "-w", WEIGHTS]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1 and told in err, err
    assert sorted(folder.iterdir()) == before


def test_several_of_which_none_is_a_picture(folder, capsys, monkeypatch):
    monkeypatch.setattr("nplrp.files.weights.load", unread)
    for command in ("explain", "predict"):
        assert cli.main([command, "gone.png", "bad.png", "-w", WEIGHTS, "--json"]) == 1
        out, err = capsys.readouterr()
        assert err.splitlines()[0] == "nplrp: 2 of 2 images couldn't be done:"
        assert "gone.png: can't be opened" in out
    assert unreadable(["gone.png", "i.png", unread]) == []  # no further than the first that is one


def test_an_empty_name(folder, capsys):
    for command in ("explain", "predict", "batch"):
        assert cli.main([command, "", "-w", WEIGHTS, *(["-o", "run"] if command == "batch" else [])]) == 2
        assert "an image's name is empty" in capsys.readouterr().err


def test_a_missing_picture_costs_no_weights(folder):
    """Not what the weights take: 0.6 s and 670 MB of VGG16's."""
    code = "import sys; from nplrp import cli; print(cli.main(sys.argv[1:]), 'h5py' in sys.modules or 'numba' in sys.modules)"
    line = ["explain", "gone.png", "-w", WEIGHTS]
    done = subprocess.run([sys.executable, "-c", code, *line], capture_output=True, text=True, timeout=120, check=True)
    assert done.stdout.split() == ["2", "False"]


def test_places_to_write_to(folder):
    check_place("new.png")
    check_place(folder / "i.png")
    check_new_folder("a/b/c")
    check_new_folder(".")
    Path("dangling").symlink_to("gone/x")
    for place in ("no/x", ".", "dangling", "/dev/null"):
        with pytest.raises(OutputError):
            check_place(place)
    for place in ("file", "file/x", "dangling", "/proc/x"):
        with pytest.raises(OutputError):
            check_new_folder(place)
    assert {path.name for path in folder.iterdir()} == {"i.png", "bad.png", "file", "dangling"}


def test_names_of_many_pictures_take_no_square_of_their_number(folder):
    names, begin = [f"{i}.png" for i in range(30_000)], time.perf_counter()
    assert len(cli._picture_paths(names, None, "zplus")) == len(names)
    assert time.perf_counter() - begin < 10
    with pytest.raises(OutputError, match=r"two images would be written to 7-zplus\.png"):
        cli._picture_paths([*names, "a/7.png"], None, "zplus")


def test_a_file_has_no_more_bytes_than_its_pixels_take(folder):
    """A gigabyte behind a picture, or of nothing, is refused by what is at its start."""
    for name, told in (("i.png", "too many for 40 x 40 pixels"), ("bad.png", "not a picture")):
        with Path(name).open("r+b") as file:
            file.truncate(1 << 30)
        begin = time.perf_counter()
        with pytest.raises(ImageError, match=told):
            read_picture(name, name)
        assert time.perf_counter() - begin < 5
