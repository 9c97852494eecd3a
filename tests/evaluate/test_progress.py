"""How far a command is: a line that changes on a terminal, lines elsewhere."""

import io

import pytest

from nplrp.evaluate import commands


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_on_a_terminal(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    shown = commands.Progress()
    for i in range(4):
        shown(i, 4, f"image {i}")
    shown(4, 4, "")
    shown.end()
    text = stream.getvalue()
    assert text.startswith("\r0/4: image 0\r1/4, ")
    assert "left: image 3" in text
    assert text.endswith("\r")
    assert "\n" not in text


@pytest.mark.parametrize(("pause", "lines"), [(0.0, 4), (1e9, 0)])
def test_elsewhere(monkeypatch, pause, lines):
    stream = io.StringIO()
    monkeypatch.setattr("sys.stderr", stream)
    monkeypatch.setattr(commands, "PAUSE", pause)
    shown = commands.Progress()
    for i in range(5):
        shown(i, 4, f"image {i}")
    shown.end()
    assert len(stream.getvalue().splitlines()) == lines
    assert "\r" not in stream.getvalue()


def test_quiet(monkeypatch):
    stream = Terminal()
    monkeypatch.setattr("sys.stderr", stream)
    shown = commands.Progress(quiet=True)
    shown(0, 2, "a")
    shown.end()
    assert stream.getvalue() == ""


def test_durations():
    assert [commands._duration(s) for s in (5, 65, 3725)] == ["5 s", "1 min 5 s", "1 h 2 min"]
