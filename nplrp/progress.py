"""How far long work is: a bar with rate and time left on a terminal, plain lines now and then elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import IO

from nplrp.pipes import draw, readable

#: Seconds between two drawings of a bar, and between two plain lines.
_REDRAW, _LINES = 0.1, 20.0
_WIDTH = 24


class Progress:
    """Tells how many of `total` things are done.

    Parameters
    ----------
    total : int or None
        None where nobody knows.
    label : str
        Written before it.
    unit : str
        What the things are called.
    stream : file or None
        None: stderr. Without one (as under pythonw), or if `quiet`, nothing is written.
    quiet : bool
    clock : callable
        Seconds, ever growing.
    """

    def __init__(
        self,
        total: int | None,
        label: str = "explaining",
        unit: str = "images",
        stream: IO[str] | None = None,
        quiet: bool = False,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.total, self.label, self.unit = total, label, unit
        self._stream, self._clock = None if quiet else stream or sys.stderr, clock
        self._terminal = self._stream is not None and self._stream.isatty()
        self._begun = self._shown = clock()
        self._done, self._width = 0, 0

    def update(self, done: int) -> None:
        """Say that so many are done."""
        now, self._done = self._clock(), done
        if self._stream is None or now - self._shown < (_REDRAW if self._terminal else _LINES):
            return
        self._shown = now
        self._write(self._text(now))

    def told(self, done: int, total: int) -> None:
        """Say that so many of so many are done."""
        self.total = total
        self.update(done)

    @property
    def seconds(self) -> float:
        """Seconds since the beginning."""
        return self._clock() - self._begun

    def note(self, line: str) -> None:
        """Write a line of its own above the bar."""
        if self._stream is None:
            return
        self._clear()
        self._stream.write(f"{line}\n")
        self._stream.flush()

    def close(self) -> None:
        """Take the bar away."""
        if self._stream is not None:
            self._clear()
            self._stream.flush()

    def _text(self, now: float) -> str:
        seconds, total = now - self._begun, self.total
        rate = self._done / seconds if seconds > 0 else 0.0
        text = f"{self.label}: {self._done}" + ("" if total is None else f" of {total}") + f" {self.unit}"
        if total and self._terminal:
            bar = "#" * (self._done * _WIDTH // total)
            text += f" [{bar:<{_WIDTH}}]"
        if self._done and rate > 0:
            text += f", {rate:.3g} {self.unit}/s"
            if total is not None and self._done < total:
                text += f", {duration((total - self._done) / rate)} left"
        return text

    def _write(self, text: str) -> None:
        assert self._stream is not None
        if self._terminal:
            draw(self._stream, f"\r{readable(text):<{self._width}}")
            self._width = len(text)
        else:
            self._stream.write(f"{text}\n")
        self._stream.flush()

    def _clear(self) -> None:
        if self._terminal and self._width:
            assert self._stream is not None
            draw(self._stream, "\r" + " " * self._width + "\r")
            self._width = 0


def duration(seconds: float) -> str:
    """Return a span of time as people say it.

    Examples
    --------
    >>> duration(3), duration(75), duration(3 * 3600 + 60), duration(200_000)
    ('3 s', '1:15 min', '3:01 h', '2.3 days')
    """
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60}:{whole % 60:02} min"
    if whole < 48 * 3600:
        return f"{whole // 3600}:{whole % 3600 // 60:02} h"
    return f"{seconds / 86400:.1f} days"
