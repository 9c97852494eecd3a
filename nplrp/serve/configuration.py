"""Options of `nplrp serve` from elsewhere than its command line, which counts for more: variables, and below them a file.

Every option has a variable (``--max-body``: ``NPLRP_SERVE_MAX_BODY``), and its name as a key of the TOML file (``max-body``).
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from typing import Any

from nplrp.errors import brief, brief_reason, nearest
from nplrp.files.given import Given
from nplrp.files.given import add_flags as add_model_flags
from nplrp.files.plain import read_text
from nplrp.serve.problems import ServeError
from nplrp.serve.settings import Settings, add_flags, flag_name
from nplrp.usage import Parser

PREFIX = "NPLRP_SERVE_"
#: Names the file, if --settings doesn't.
FILE = f"{PREFIX}SETTINGS"
_YES_OR_NO = {"true": True, "1": True, "yes": True, "false": False, "0": False, "no": False}
#: Bytes of a file of settings: a line is some dozens.
_MOST = 1 << 20


def complete(arguments: argparse.Namespace, environment: Mapping[str, str]) -> None:
    """Fill in what the command line doesn't give.

    Parameters
    ----------
    arguments : Namespace
        Of `nplrp serve`. Options that it doesn't give are set from variables, else from the file; ``origins`` tells where each was set.
    environment : mapping of str to str

    Raises
    ------
    ServeError
        If a variable or a key names no option, or has no value that the option may have; the message says where.
    """
    options = _options()
    origins = {name: "the command line" for name, option in options.items() if getattr(arguments, name) != option.default}
    path = arguments.settings or environment.get(FILE)
    if arguments.demo:  # the command line's model counts, and all that is said about another's
        options = {name: option for name, option in options.items() if name not in _MODEL}
    for name, where, value in (*_variables(environment), *(_keys(path) if path else ())):
        if name not in _options():
            known = nearest(flag_name(name), map(flag_name, _options()), "nplrp serve --help lists them")
            raise ServeError(f"{where}: there is no such option of nplrp serve; {known}")
        read = _read(_options()[name], value, where)  # also what doesn't count has to be right
        if name in options and name not in origins:
            setattr(arguments, name, read)
            origins[name] = where
    arguments.origins = origins


def shown(arguments: argparse.Namespace, settings: Settings) -> str:
    """Return all options as a file that `complete` reads, each with where it was set."""
    lines = []
    for name in _options():
        value = getattr(settings, name) if hasattr(settings, name) else getattr(arguments, name)
        if value is None:
            continue
        where = arguments.origins.get(name, "the default")
        lines.append(f"{flag_name(name)[2:]} = {json.dumps(list(value) if isinstance(value, tuple) else value)}  # {where}")
    return "\n".join(lines)


_MODEL = tuple("output_layer" if field.name == "output" else field.name for field in dataclasses.fields(Given))


def _options() -> dict[str, argparse.Action]:
    """Return every option that can be set, by its name in a namespace."""
    parser = Parser(add_help=False)
    parser.add_argument("--weights")
    add_model_flags(parser)
    add_flags(parser)
    return {action.dest: action for action in parser._actions}


def _variables(environment: Mapping[str, str]) -> Iterator[tuple[str, str, Any]]:
    """Yield (option, where it is set, value)."""
    for name, value in sorted(environment.items()):
        if name.startswith(PREFIX) and name != FILE:
            yield name.removeprefix(PREFIX).lower(), f"${name}", value


def _keys(path: str) -> Iterator[tuple[str, str, Any]]:
    try:
        table = tomllib.loads(read_text(path, _MOST))
    except OSError as error:
        raise ServeError(f"{path}: can't be read: {error.strerror or error}; --settings and ${FILE} name a file of settings") from None
    except (ValueError, RecursionError) as error:
        raise ServeError(f"{path}: can't be read as TOML: {brief_reason(error)}") from None
    for key, value in table.items():
        yield key.replace("-", "_"), f"{path}: {brief(key)[1:-1]}", value


def _read(option: argparse.Action, value: Any, where: str) -> Any:
    """Return a value as the option has it, from a text or from what TOML makes of it."""
    if option.nargs == 0:  # such as --no-mmap
        read: Any = value if isinstance(value, bool) else _YES_OR_NO.get(str(value).lower())
        if read is None:
            raise ServeError(f"{where}: expected true or false, found {brief(value)}")
        return read
    if isinstance(value, list) and all(isinstance(each, (str, int)) and not isinstance(each, bool) for each in value):
        if not value:
            return ()
        value = ",".join(map(str, value))
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise ServeError(f"{where}: expected a text, a number or a list of them, found {brief(value)}")
    text = str(value)
    kind = Parser(add_help=False)._registry_get("type", option.type, option.type) or str
    try:
        read = kind(text)
    except (argparse.ArgumentTypeError, ValueError) as error:
        reason = str(error) if isinstance(error, argparse.ArgumentTypeError) else f"expected a number, found {brief(text)}"
        raise ServeError(f"{where}: {' '.join(reason.split())}") from None
    if option.choices is not None and read not in option.choices:
        raise ServeError(f"{where}: there is no {brief(text)}; {nearest(text, option.choices)}")
    if isinstance(read, str) and re.search(r"[\0-\x1f]", read):
        raise ServeError(f"{where}: {brief(read)} has control characters")
    return read
