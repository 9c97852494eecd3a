"""Which images are meant: files, folders, patterns, lists and standard input."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import IO

from nplrp.errors import ImageError, brief
from nplrp.files.arrays import NPY
from nplrp.files.plain import read_text

#: How names of pictures end, in any case.
SUFFIXES = (
    *(".bmp", ".gif", ".jfif", ".jp2", ".j2k", ".jpe", ".jpeg", ".jpg", ".pbm"),
    *(".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
)


def find_images(given: Sequence[str], stdin: IO[str] | None = None, besides: Path | None = None) -> list[str]:
    """Return the names of all images that are meant, each once, in an order that depends on the names alone.

    Parameters
    ----------
    given : sequence of str
        A file; a folder, which means all pictures below it, by their names, or if there are none all arrays (``.npy``); a pattern such as
        ``"photos/**/*.jpg"``; ``"@LIST"``, a text file with one of these on each line; or ``"-"``, the same from standard input.
    stdin : file or None
    besides : path or None
        A folder whose pictures aren't meant: where results are written.

    Raises
    ------
    ImageError
        If a folder or a pattern has no pictures, or a list can't be read. A file that isn't there is no error yet.
    """
    found: dict[str, None] = {}
    for each in given:
        found |= dict.fromkeys(_listed(each, stdin, besides) if each == "-" or each.startswith("@") else _pictures(each, besides))
    if not found:
        raise ImageError("there are no images: give files, folders, patterns, @LIST or -")
    return list(found)


def _listed(name: str, stdin: IO[str] | None, besides: Path | None) -> Iterable[str]:
    if name == "@":
        raise ImageError("@: the list has no name; give @LIST, such as @photos.txt")
    try:
        # By line feeds alone, as lines from standard input are: a name may hold what else Unicode has for the end of a line.
        lines = (stdin or []) if name == "-" else read_text(name[1:], 1 << 30).split("\n")
        lines = [line.rstrip("\r\n") for line in lines]
        lines = lines[0].split("\r") if len(lines) == 1 else lines  # as old editors end lines
        lines[:1] = [line.removeprefix("\ufeff") for line in lines[:1]]  # a file's mark, where a shell hands it on
    except OSError as error:
        raise ImageError(f"{name[1:]}: the list can't be read: {error.strerror or error}") from None
    except ValueError:
        raise ImageError(f"{'standard input' if name == '-' else name[1:]}: is no list in UTF-8; write one name on each line") from None
    meant = [line for line in lines if line.strip()]
    if not meant:
        raise ImageError(f"{'standard input' if name == '-' else name[1:]}: the list is empty; write one name on each line")
    return [picture for line in meant for picture in _pictures(line, besides)]


def _pictures(name: str, besides: Path | None) -> list[str]:
    if not name:
        raise ImageError("an image's name is empty; give files, folders, patterns, @LIST or -")
    if "\0" in name:
        raise ImageError(f"{name!r}: no file can have such a name")
    try:
        is_folder, is_there = Path(name).is_dir(), Path(name).exists()
    except OSError as error:  # a name that is too long
        raise ImageError(f"{brief(name)}: {error.strerror}; give files, folders, patterns, @LIST or -") from None
    if is_folder:
        found = sorted(_below(name, besides, SUFFIXES)) or sorted(_below(name, besides, (NPY,)))
        if not found:
            raise ImageError(f"{name}: there are no pictures in this folder; they are known by their names: {', '.join(SUFFIXES)}")
        return found
    if glob.has_magic(name) and not is_there:
        found = glob.glob(name, recursive=True)  # noqa: PTH207 - Path.glob takes no absolute patterns
        matches = sorted(each for each in found if not Path(each).is_dir() and not _is_below(each, besides))
        if not matches:
            raise ImageError(f"{name}: no file fits this pattern")
        return matches
    return [name]


def _below(folder: str, besides: Path | None, suffixes: Sequence[str]) -> Iterable[str]:
    """Yield the files of some names below a folder; hidden ones are left out, and folders that links lead to aren't entered."""
    for root, folders, files in os.walk(folder):
        folders[:] = [each for each in folders if not each.startswith(".") and not _is_below(str(Path(root) / each), besides)]
        for name in files:
            if Path(name).suffix.lower() in suffixes and not name.startswith("."):
                yield str(Path(root) / name)


def _is_below(name: str, folder: Path | None) -> bool:
    return folder is not None and Path(name).resolve().is_relative_to(folder.resolve())
