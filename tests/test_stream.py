"""Explanations of many images from Python: order, bounded memory, bad images, progress."""

import hashlib
import io
import itertools
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp import stream
from nplrp.errors import ImageError, ModelError, NumericsError, RuleError
from nplrp.model import chain
from nplrp.outputs import CHUNK
from nplrp.progress import Progress
from tests.networks import dense, plain, random_kernel, small_vgg


def pictures(n, seed=0):
    return list(np.random.default_rng(seed).integers(0, 256, (n, 9, 11, 3), dtype=np.uint8))


def test_explanations_in_order_with_the_bits_of_explain():
    model, images = small_vgg(), pictures(2 * CHUNK + 3)
    found = list(nplrp.explain_many(images, model, "zplus", "top-2"))
    for image, e in zip(images, found, strict=True):
        alone = nplrp.explain(model, nplrp.preprocess(image, model), "zplus", "top-2")
        for what in ("x", "relevance", "targets", "output", "logits", "images"):
            assert np.array_equal(getattr(e, what), getattr(alone, what))
        assert e.target_labels() == alone.target_labels()
        assert np.array_equal(e.relevances["fc1"], alone.relevances["fc1"])


def test_no_more_images_are_read_than_are_needed():
    """However many there are: those that are explained and those read ahead."""
    read = []
    endless = (read.append(image) or image for image in itertools.cycle(pictures(3)))
    explanations = nplrp.explain_many(endless, small_vgg(), "epsilon")
    for taken in range(1, 6 * CHUNK):
        next(explanations)
        assert len(read) - taken <= CHUNK + stream._AHEAD
    explanations.close()
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("nplrp-reader")]


def test_bad_images(tmp_path):
    model, images = small_vgg(), pictures(12)
    (tmp_path / "bad.png").write_text("no picture")
    images[3], images[10] = str(tmp_path / "bad.png"), tmp_path / "none.png"
    explanations, count = nplrp.explain_many(images, model, "zplus"), 0
    with pytest.raises(ImageError, match=r"bad\.png: not a picture"):
        for _ in explanations:
            count += 1
    assert count == 3
    skipped = []
    found = list(nplrp.explain_many(images, model, "zplus", skip=lambda image, error: skipped.append((image, str(error)))))
    assert len(found) == 10
    assert [image for image, _ in skipped] == [images[3], images[10]]
    assert np.array_equal(found[3].x, nplrp.preprocess(images[4], model))


def test_an_image_that_overflows_spoils_no_other(monkeypatch):
    model, images = small_vgg(), pictures(CHUNK)
    compute = stream.explain_each

    def explain_each(model, x, *rest, **options):
        if (x == nplrp.preprocess(images[2], model)).all(axis=(1, 2, 3)).any():
            raise NumericsError("the logits: inf")
        return compute(model, x, *rest, **options)

    monkeypatch.setattr(stream, "explain_each", explain_each)
    errors = []
    found = list(nplrp.explain_many(images, model, "zplus", skip=lambda image, error: errors.append(error)))
    assert (len(found), len(errors)) == (CHUNK - 1, 1)
    assert np.array_equal(found[2].x, nplrp.preprocess(images[3], model))


def test_what_every_image_would_raise_is_raised_at_once():
    model = small_vgg()
    for settings, error in [
        ({"composite": "zpluss"}, RuleError),
        ({"target": 7}, ModelError),
        ({"resample": "cubic"}, ImageError),
        ({"dtype": "float16"}, RuleError),
        ({"start": "begin"}, RuleError),
    ]:
        with pytest.raises(error):
            nplrp.explain_many(iter(()), model, **settings)
    assert list(nplrp.explain_many([], model)) == []


def test_files_and_open_files(tmp_path):
    model = small_vgg()
    path, content = tmp_path / "a.png", io.BytesIO()
    Image.fromarray(pictures(1)[0]).save(path)
    Image.fromarray(pictures(1)[0]).save(content, "PNG")
    found = list(nplrp.explain_many([path, str(path), io.BytesIO(content.getvalue()), Image.open(path)], model))
    assert all(np.array_equal(each.relevance, found[0].relevance) for each in found)


def test_progress(capsys):
    seen = []
    list(nplrp.explain_many(pictures(3), small_vgg(), progress=lambda *done: seen.append(done)))
    assert seen == [(1, 3), (2, 3), (3, 3)]
    list(nplrp.explain_many(iter(pictures(2)), small_vgg(), progress=lambda *done: seen.append(done)))
    assert seen[3:] == [(1, None), (2, None)]
    list(nplrp.explain_many(pictures(2), small_vgg(), progress=True))
    assert capsys.readouterr().out == ""


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_bar_on_a_terminal_and_lines_elsewhere():
    clock = iter(range(1000))
    terminal, file = Terminal(), io.StringIO()
    bar = Progress(20, stream=terminal, clock=lambda: next(clock))
    for done in (5, 10):
        bar.update(done)
    bar.note("a line")
    bar.update(20)
    bar.close()
    shown = terminal.getvalue()
    assert "explaining: 5 of 20 images [######                  ], 5 images/s, 3 s left" in shown
    assert "\r" + " " * 10 in shown  # wiped before the line
    assert shown.index("a line\n") > shown.index("10 of 20")
    assert shown.endswith("\r")
    times = iter((0, 1, 25, 26, 60))
    lines = Progress(None, stream=file, clock=lambda: next(times))
    for done in (1, 50, 60, 90):
        lines.update(done)
    lines.close()
    assert file.getvalue() == "explaining: 50 images, 2 images/s\nexplaining: 90 images, 1.5 images/s\n"
    quiet = io.StringIO()
    silent = Progress(3, stream=quiet, quiet=True)
    silent.update(3)
    silent.note("x")
    silent.close()
    assert quiet.getvalue() == ""


def signals():
    """A network of sequences, [12, 2] -> 3 classes."""
    rng = np.random.default_rng(4)
    return chain((12, 2), [plain("flat", "flatten"), dense("out", random_kernel(rng, 24, 3), rng.normal(size=3), "softmax")], "signals")


def test_arrays_for_a_network_that_takes_no_pictures(tmp_path):
    """As numpy.save writes them, or as they are; what isn't one is told by its name, and ends nothing."""
    model, x = signals(), np.random.default_rng(5).normal(size=(3, 12, 2)).astype(np.float32)
    np.save(tmp_path / "one.npy", x[0])
    np.save(tmp_path / "two.npy", x[1:2])
    np.save(tmp_path / "shape.npy", x[0, :5])
    np.save(tmp_path / "nan.npy", np.full((12, 2), np.nan))
    np.save(tmp_path / "pickled.npy", np.array([{}], dtype=object))
    np.save(tmp_path / "complex.npy", x[0].astype(complex))
    (tmp_path / "cut.npy").write_bytes((tmp_path / "one.npy").read_bytes()[:-7])
    (tmp_path / "text.npy").write_text("no array")
    names = ["one", "shape", "nan", "pickled", "complex", "cut", "text", "missing", "two"]
    errors = []
    given = [*(str(tmp_path / f"{name}.npy") for name in names), x[2], np.zeros((3, 3, 3), np.uint8)]
    found = list(nplrp.explain_many(given, model, "epsilon", skip=lambda image, error: errors.append((image, error))))
    assert np.array_equal(np.concatenate([e.x for e in found]), x)
    assert np.array_equal(np.concatenate([e.relevance for e in found]), nplrp.explain(model, x, "epsilon").relevance)
    assert [str(image) for image, _ in errors] == [*given[1:8], str(given[-1])]
    done = {Path(str(each.image)).stem: each for each in stream.stream(given[:-2], model, stream.Wanted(("epsilon",)))}
    assert done["one"].read.sha256 == hashlib.sha256((tmp_path / "one.npy").read_bytes()).hexdigest()
    for name, words in {
        "shape": "shape (5, 2), type float32; model 'signals' takes numbers of shape (12, 2)",
        "nan": "nan at image 0",
        "pickled": "can't be read as an array",
        "complex": "type complex128",
        "cut": "can't be read as an array",
        "text": "isn't an array that numpy.save wrote",
        "missing": "can't be opened",
    }.items():
        assert words in done[name].reason and f"{name}.npy" in done[name].reason
    with pytest.raises(ImageError, match=r"one.npy: an array isn't a picture: hand it to nplrp.explain"):
        next(nplrp.explain_many([tmp_path / "one.npy"], small_vgg(1, 16)))
