"""Which images are meant."""

import io
from pathlib import Path

import pytest

from nplrp.batch.images import find_images
from nplrp.errors import ImageError


@pytest.fixture
def tree(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.PNG", "b/10.jpg", "b/notes.txt", "b/.h.png", "b/.git/x.png", "a/1.jpeg", "a/deep/er/0.webp", "odd[1].png"):
        path = Path(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    return tmp_path


def test_folders_patterns_lists(tree):
    below = ["a/1.jpeg", "a/deep/er/0.webp", "b/10.jpg", "b/2.PNG"]
    assert find_images(["a", "b"]) == below
    assert find_images(["b", "a", "b/2.PNG", "b"]) == [*below[2:], *below[:2]]
    assert find_images(["b/*.*"]) == ["b/10.jpg", "b/2.PNG", "b/notes.txt"]  # what a pattern names is meant
    assert find_images(["**/*.jp*g"]) == ["a/1.jpeg", "b/10.jpg"]
    assert find_images(["odd[1].png"]) == ["odd[1].png"]  # a file of this name goes before a pattern
    Path("list").write_text("a/1.jpeg\r\n\n b.png \nb\n@x\n")
    assert find_images(["@list"]) == ["a/1.jpeg", " b.png ", "b/10.jpg", "b/2.PNG", "@x"]
    assert find_images(["-"], io.StringIO("a/1.jpeg\nnone.png\n")) == ["a/1.jpeg", "none.png"]
    assert find_images(["."], besides=Path("b")) == ["a/1.jpeg", "a/deep/er/0.webp", "odd[1].png"]


def test_lists_as_other_systems_write_them(tree):
    for text in ("\ufeffa/1.jpeg\nb.png", "\ufeffa/1.jpeg\r\nb.png\r\n", "\ufeffa/1.jpeg\rb.png\r"):
        Path("list").write_bytes(text.encode())
        assert find_images(["@list"]) == ["a/1.jpeg", "b.png"]
        assert find_images(["-"], io.StringIO(text, newline="")) == ["a/1.jpeg", "b.png"]


def test_links_are_not_followed_in_circles(tree):
    Path("a/up").symlink_to("..")
    assert find_images(["a"]) == ["a/1.jpeg", "a/deep/er/0.webp"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["b/.git"], None),
        (["*.tif"], r"\*.tif: no file fits"),
        (["@none"], "none: the list can't be read"),
        (["@empty"], "empty: the list is empty"),
        (["@binary"], "binary: is no list in UTF-8"),
        (["-"], "standard input: the list is empty"),
        (["void"], "void: there are no pictures in this folder"),
        (["a\0b"], "no file can have such a name"),
        ([], "there are no images"),
    ],
)
def test_nothing_found(tree, given, message):
    Path("empty").write_text("\n \n")
    Path("binary").write_bytes(b"\xff\xfe\0")
    Path("void").mkdir()
    if message is None:
        assert find_images(given) == ["b/.git/x.png"]
        return
    with pytest.raises(ImageError, match=message):
        find_images(given, io.StringIO(""))
