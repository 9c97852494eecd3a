"""Command lines that can't be read: one line on stderr that says what is wrong with them, and exit code 2."""

from __future__ import annotations

import argparse
import logging
import math
import os
import re
import sys
import time
import traceback
from collections.abc import Sequence
from typing import Any, NoReturn

from nplrp.errors import NplrpError, brief, nearest

#: What argparse takes for a value although it begins with a dash.
_NEGATIVE = re.compile(r"-\d+|-\d*\.\d+")


def _whole(text: str) -> int:
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a whole number, found {brief(text)}") from None


def _number(text: str) -> float:
    try:
        value = float(text)
        if math.isfinite(value):
            return value
        raise ValueError
    except ValueError:
        raise argparse.ArgumentTypeError(f"expected a finite number, found {brief(text)}") from None


class Parser(argparse.ArgumentParser):
    """A parser of a command line; those of its commands are of its kind.

    Examples
    --------
    >>> parser = Parser(prog="nplrp explain")
    >>> _ = parser.add_argument("--weights")
    >>> parser.parse_args(["--wights", "vgg16.h5"])
    Traceback (most recent call last):
    SystemExit: 2
    """

    #: Optional positional arguments that may also stand behind options; argparse looks for them in one place only.
    apart: tuple[str, ...] = ()

    def __init__(self, *arguments: Any, **keywords: Any) -> None:
        super().__init__(*arguments, **keywords)
        self.register("type", int, _whole)
        self.register("type", float, _number)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse a command line of which nothing may be left: the command is known here, the outermost parser doesn't know it."""
        if args is not None:
            self._check_options(args)
        namespace, left = super().parse_known_args(args, namespace)
        for name in self.apart:
            if left and not left[0].startswith("-") and getattr(namespace, name, None) is None:
                setattr(namespace, name, left.pop(0))
        if left:
            places = [action.metavar or action.dest for action in self._get_positional_actions()]
            self.error(f"expected {f'{_listed(places)} in one place' if places else 'options only'}, found also {_listed(left)}")
        return namespace, left

    def _check_options(self, args: Sequence[str]) -> None:
        """Refuse an option that there isn't before what is missing because of it."""
        known = self._option_string_actions
        inner = any(isinstance(action, argparse._SubParsersAction) for action in self._actions)
        for word in args:
            name = word.partition("=")[0]
            if word == "--" or (inner and not word.startswith("-")):  # what follows isn't for this parser
                return
            if word[:1] != "-" or word == "-" or " " in word or _NEGATIVE.fullmatch(word):
                continue
            if name in known or any(each.startswith(name) for each in known) or (word[1] != "-" and word[:2] in known):
                continue
            if word[1].isdigit():
                self.error(f"{brief(word)} reads as an option; a value that begins with a dash is written OPTION={brief(word)[1:-1]}")
            self.error(f"there is no option {brief(name)}; {nearest(name, (each for each in known if each.startswith('--')))}")

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"there is no {brief(value)}; {nearest(value, action.choices)}")

    def error(self, message: str) -> NoReturn:
        """Print what is wrong, and where help is."""
        line = " ".join(message.removeprefix("argument ").split())
        name = self.prog.removeprefix("python -m ").partition(" ")[0]
        self.exit(2, f"{name}: {line}{'' if line.endswith('?') else ';'} see {self.prog} --help\n")


def failed(program: str, error: Exception, traced: bool = False) -> int:
    """Print an error as one line, also one that nobody expected, and return the exit code; `traced` or NPLRP_DEBUG=1 show its place."""
    if traced or os.environ.get("NPLRP_DEBUG", "0") not in ("", "0"):
        traceback.print_exception(error)
    message = " ".join(str(error).split())
    if isinstance(error, OSError) and error.strerror:  # a name that is too long, a disk that is full
        message = f"{brief(error.filename)}: {error.strerror}" if error.filename is not None else error.strerror
    elif isinstance(error, ValueError) and message == "embedded null byte":
        message = "a file's name holds a NUL, which none can have; give another name"
    elif not isinstance(error, NplrpError):
        what = f"{type(error).__name__}: {message}" if message else type(error).__name__
        message = f"unexpected {what[:1000]}; NPLRP_DEBUG=1 shows where, and please report it"
    print(f"{program}: {message}", file=sys.stderr)
    return int(getattr(error, "exit_code", 2))


class Spoken(logging.Handler):
    """Prints what is logged as lines on stderr; what was assumed waits for results, since an error is alone.

    Parameters
    ----------
    program : str
        What lines begin with.
    held : int
        Levels from this one on wait.
    timed : bool
        Whether lines say how many seconds after the handler was made they come.
    """

    def __init__(self, program: str, held: int = logging.WARNING, timed: bool = False) -> None:
        super().__init__()
        self._program, self._from, self._held = program, held, list[str]()
        self._begun = time.perf_counter() if timed else None

    def emit(self, record: logging.LogRecord) -> None:
        """Print a record's message, or hold it."""
        after = "" if self._begun is None else f" {time.perf_counter() - self._begun:.2f} s:"
        line = f"{self._program}:{after} {record.getMessage()}"
        if record.levelno >= self._from:
            self._held.append(line)
        else:
            print(line, file=sys.stderr)

    def let_go(self) -> None:
        """Print what was held."""
        for line in dict.fromkeys(self._held):
            print(line, file=sys.stderr)
        self._held.clear()


def _listed(words: Sequence[Any]) -> str:
    return ", ".join(map(str, words))
