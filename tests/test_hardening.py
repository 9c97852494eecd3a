"""What is given stays what it was, or it is said: inputs, files in use, parameters, hashes, and what a terminal is sent."""

import io
import os

import numpy as np
import pytest

import nplrp
from nplrp import cli
from nplrp.errors import RuleError, WeightsError
from nplrp.files.plain import open_plain, read_plain
from nplrp.pipes import heedless, readable
from tests.keras_files import FILES
from tests.networks import images, small_vgg

WEIGHTS = FILES / "small32_k2_model_save.h5"


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "w.h5"
    path.write_bytes(WEIGHTS.read_bytes())
    return path


@pytest.mark.parametrize(
    ("composite", "what"),
    [
        ("epsilon(epsilon=1e39)", "epsilon is 1e+39"),
        ("epsilon(epsilon=1e-60)", "epsilon is 1e-60"),
        ("gamma(gamma=1e40)", "gamma is 1e+40"),
    ],
)
def test_parameters_that_the_dtype_cannot_hold_are_refused_with_the_plan(composite, what):
    model = small_vgg()
    with pytest.raises(RuleError, match="which float32 can't hold") as caught:
        nplrp.make_plan(model, composite)
    assert what in str(caught.value)
    nplrp.make_plan(model, composite, dtype="float64")


def test_maps_that_are_zero_everywhere_are_told(caplog):
    model, x = small_vgg(), images(0, 1, (8, 8, 3))
    assert not nplrp.explain(model, x, "epsilon(epsilon=1e37)").relevance.any()
    assert any("1 of 1 maps are 0 everywhere" in record.getMessage() for record in caplog.records)
    caplog.clear()
    nplrp.explain(model, x, "epsilon")
    assert not caplog.records


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_an_explanation_does_not_change_with_what_it_was_given(dtype):
    model, x = small_vgg(), images(0, 1, (8, 8, 3)).astype(dtype)
    start, mask = np.ones((1, 7), dtype), np.ones(7, dtype)
    e = nplrp.explain(model, x, "zplus", dtype=dtype, at="fc1", start=start, masks={"fc1": mask})
    expected = nplrp.explain(model, x.copy(), "zplus", dtype=dtype, at="fc1", start=start.copy(), masks={"fc1": mask.copy()}).ledger
    x[:], start[:], mask[:] = 9, 9, 0
    assert e.x.max() < 9
    assert (e.start == 1).all()
    assert str(e.ledger) == str(expected)


def test_a_file_that_is_cut_while_it_is_mapped_is_an_error(file):
    model = nplrp.load(file)
    x = images(0, 1, model.input_shape)
    nplrp.predict(model, x)
    size = file.stat().st_size
    os.truncate(file, size // 2)
    for ask in (nplrp.predict, nplrp.explain, nplrp.logits):
        with pytest.raises(WeightsError, match="was changed while the model is in use"):
            ask(model, x)


def test_another_file_under_the_same_name_does_no_harm(file, tmp_path):
    model = nplrp.load(file)
    x = images(0, 1, model.input_shape)
    expected = nplrp.predict(model, x)
    (tmp_path / "new").write_bytes(b"something else")
    (tmp_path / "new").replace(file)
    assert np.array_equal(nplrp.predict(model, x), expected)
    file.unlink()
    assert np.array_equal(nplrp.predict(model, x), expected)


def test_a_changed_number_changes_the_hash_also_with_the_old_time(file, tmp_path, monkeypatch):
    monkeypatch.setenv("NPLRP_CACHE", str(tmp_path / "cache"))
    before, status = nplrp.load(file).content_hash, file.stat()
    bias = nplrp.load(file).layers[0].arrays["kernel"].tobytes()
    content = bytearray(file.read_bytes())
    content[content.index(bias)] ^= 1
    with file.open("r+b") as opened:
        opened.write(content)
    os.utime(file, ns=(status.st_atime_ns, status.st_mtime_ns))
    assert file.stat().st_mtime_ns == status.st_mtime_ns
    assert nplrp.load(file).content_hash != before
    monkeypatch.setattr("nplrp.model.remembered_hash", lambda key, compute: before)
    assert nplrp.load(file).content_hash == before
    assert nplrp.load(file).fresh_hash() != before


@pytest.mark.parametrize("text", ["\x1b[2J", "a\rb", "\x07", "\x9b31m", "\u202eevil", "\u2028", "\ud800", "\x7f"])
def test_what_a_terminal_would_obey_is_shown(text):
    shown = readable(f"{text}\n\tfine")
    assert all(char in "\n\t" or char.isprintable() for char in shown)
    assert shown.endswith("\n\tfine")


def test_no_stream_of_a_command_sends_control_characters_or_fails_on_a_character(monkeypatch):
    raw = io.BytesIO()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(raw, "ascii", errors="strict", write_through=True))
    with heedless():
        print("a\x1b[31m caf\u00e9 \ud800")
    assert raw.getvalue() == b"a\\x1b[31m caf\\xe9 \\ud800\n"


def test_an_error_that_nobody_expected_is_one_line_and_2(monkeypatch, capsys):
    monkeypatch.setattr(cli, "run_composites", lambda _: 1 / 0)
    assert cli.main(["composites"]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "unexpected ZeroDivisionError" in err
    monkeypatch.setenv("NPLRP_DEBUG", "1")
    assert cli.main(["composites"]) == 2
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no pipes with names")
def test_pipes_and_devices_are_refused(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", "/dev/zero"):
        with pytest.raises(OSError, match="no plain file"):
            open_plain(path)
    (tmp_path / "large").write_bytes(bytes(100))
    with pytest.raises(OSError, match="more than 99 bytes"):
        read_plain(tmp_path / "large", 99)
