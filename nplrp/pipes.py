"""Standard output and standard error that nobody may be reading any more: ``nplrp explain ... | head -1``.

What a command computes and writes to files doesn't depend on who reads what it says, and neither does its exit code.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TextIO

from nplrp.errors import OutputError


class Heedless:
    """A stream that drops what is written to it once its reader has gone; errors are told if it has a name to tell them by."""

    def __init__(self, stream: TextIO, name: str = "") -> None:
        self._stream, self._name = stream, name

    def write(self, text: str) -> int:
        """Write text, or drop it."""
        self._safely(self._stream.write, text)
        return len(text)

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
