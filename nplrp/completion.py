"""Scripts by which shells complete nplrp's command lines, made from its parsers by shtab."""

from __future__ import annotations

import argparse
import importlib.util

from nplrp.errors import NplrpError
from nplrp.rules.composites import COMPOSITES
from nplrp.rules.dialects import DIALECTS

#: What is completed by names, by the option's destination.
_NAMES = {"composite": tuple(COMPOSITES), "dialect": tuple(DIALECTS), "dtype": ("float32", "float64"), "algorithm": ("auto", "direct")}
#: By files and folders, by what the option's value is called in help texts.
_FILES = ("FILE", "IMAGE", "IMAGES", "W", "X.npy", "G", "CANDIDATE", "PATH", "FILE.json", "FILE.toml", "G.lrpgold.h5", "INPUT")
_FOLDERS = ("DIR", "RUN", "FOLDER")


def script(parser: argparse.ArgumentParser, shell: str) -> str:
    """Return a completion script.

    Parameters
    ----------
    parser : ArgumentParser
        Of all commands; how its options are completed is noted in it.
    shell : "bash", "zsh" or "tcsh"

    Raises
    ------
    NplrpError
        If shtab isn't installed.
    """
    if importlib.util.find_spec("shtab") is None:
        raise NplrpError("completion scripts are made by shtab, which isn't installed: pip install 'nplrp[completion]'")
    import shtab

    _note(parser, shtab.FILE, shtab.DIRECTORY)
    return str(shtab.complete(parser, shell))


def _note(parser: argparse.ArgumentParser, files: object, folders: object) -> None:
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for below in dict.fromkeys(action.choices.values()):
                _note(below, files, folders)
            continue
        called = str(action.metavar or "")
        if action.choices is None and action.dest in _NAMES:
            action.choices = _NAMES[action.dest]
        elif called in _FILES or called.startswith("OUT."):
            action.complete = files  # type: ignore[attr-defined]
        elif called in _FOLDERS:
            action.complete = folders  # type: ignore[attr-defined]
