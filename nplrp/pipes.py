"""Standard output and standard error: nobody may be reading any more, as in ``nplrp explain ... | head -1``, or a terminal that obeys.

What a command computes and writes to files doesn't depend on who reads what it says, and neither does its exit code. Names may come from
anybody's files: control characters in them are shown, not sent.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import IO, Any, TextIO

from nplrp.errors import OutputError


def readable(text: str) -> str:
    r"""Return text with what isn't to be seen written as Python writes it, but for ends of lines and tabs.

    Examples
    --------
    >>> print(readable("cafe" + chr(27) + "[2J"))
    cafe\x1b[2J
    """
    if text.isprintable():
        return text
    return "".join(char if char in "\n\t" or char.isprintable() else char.encode("unicode_escape").decode() for char in text)


def draw(stream: IO[str], text: str) -> None:
    """Write text of our own that moves a terminal's cursor."""
    getattr(stream, "draw", stream.write)(text)


class Heedless:
    """A stream that drops what is written to it once its reader has gone; errors are told if it has a name to tell them by."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        self.draw(readable(text))
        return len(text)

    def draw(self, text: str) -> None:
        """Write text as it is; what the stream's encoding doesn't have is spelled out."""
        encoding = getattr(self._stream, "encoding", None) or "utf-8"
        self._safely(self._stream.write, text.encode(encoding, "backslashreplace").decode(encoding))

    def writelines(self, lines: Iterable[str]) -> None:
        """Write lines, or drop them."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Hand on what is held back."""
        self._safely(self._stream.flush)

    def _safely(self, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except BrokenPipeError:
            self._drop()
        except OSError as error:  # a full disk
            self._drop()
            if self._name:
                raise OutputError(f"{self._name} can't be written: {error.strerror}; what was printed is lost, files are whole") from None

    def _drop(self) -> None:
        """Let all that is held back, and all that comes, go nowhere: Python flushes once more when it ends."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self._stream.fileno())
        os.close(nowhere)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


@contextlib.contextmanager
def heedless() -> Iterator[None]:
    """Print to whoever still reads, for the time of a command; flush at its end."""
    with contextlib.ExitStack() as stack:
        for stream, name, redirect in (
            (sys.stdout, "standard output", contextlib.redirect_stdout),
            (sys.stderr, "", contextlib.redirect_stderr),
        ):
            if stream is not None:  # there is none if it was closed from the start
                own = Heedless(stream, name)
                stack.enter_context(redirect(own))
                stack.callback(own.flush)
        yield
