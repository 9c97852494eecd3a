"""Write a file, or a folder of files, whole or not at all.

Two places do without, for reasons of their own: the cache (`nplrp.cache.write`) writes by an open folder's descriptor, so that nobody
can put another folder or a link in its place; and a download (`nplrp.files.fetch`) keeps what has come, to go on from there.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nplrp.errors import OutputError


@contextmanager
def atomic(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a temporary file beside `path` to write to, and rename it to `path` if all went well.

    Raises
    ------
    OutputError
        If the file can't be written; the temporary one is removed and what was at `path` before is untouched.
    """
    given = Path(path)
    with _told(given):
        target = _target(given)
        temporary = _beside(target)
        # Made with the permissions of any new file (mkstemp's are private), and never over an existing one.
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        try:
            yield temporary
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


@contextmanager
def atomic_folder(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Give a new folder beside `path` to fill, and rename it to `path` if all went well.

    Raises
    ------
    OutputError
        If `path` holds files or is one, or the folder can't be written; then it is removed with all that is in it.
    """
    target = Path(path)
    with _told(target):
        if target.exists() and not (target.is_dir() and not any(target.iterdir())):
            raise OutputError(f"{target}: {'holds other files' if target.is_dir() else 'is a file'}; give a new or an empty folder")
        temporary = _beside(target)
        temporary.mkdir(parents=True)
        try:
            yield temporary
            temporary.replace(target)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


def check_place(path: str | os.PathLike[str]) -> None:
    """See that a file can be written there, before anything is read or computed.

    Raises
    ------
    OutputError
        As `atomic`, and if there is no such folder.
    """
    given = Path(path)
    with _told(given):
        target = _target(given)
        if not target.parent.is_dir():
            raise OutputError(f"{given}: there is no folder {given.parent}; make it first")
        _check_writable(target.parent)


def check_new_folder(path: str | os.PathLike[str]) -> None:
    """See that a folder is there or can be made, with those above it, and written to, before anything is read or computed.

    Raises
    ------
    OutputError
    """
    given = Path(path)
    with _told(given):
        whole = given.absolute()
        there = next(each for each in (whole, *whole.parents) if os.path.lexists(each))
        if not there.is_dir():
            raise OutputError(f"{given}: {'' if there == whole else f'{there} '}is a file; results are written into a folder")
        _check_writable(there)


def _check_writable(folder: Path) -> None:
    """Make a file there, and remove it: rights alone don't tell of systems' own folders, of networks' and of what is mounted read-only."""
    temporary = _beside(folder / "nplrp")
    os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    temporary.unlink()


def _target(given: Path) -> Path:
    """Return where a file is meant to be: a link stays a link."""
    target = Path(os.path.realpath(given))
    if target.is_dir():
        raise OutputError(f"{given}: is a folder; give the name of a file")
    if target.exists() and not target.is_file():  # renaming over /dev/null would take it from the whole system
        raise OutputError(f"{given}: is a device, pipe or socket, which a file would take the place of; give the name of a file")
    return target


def _beside(target: Path) -> Path:
    return target.parent / f".{target.name[:80]}.{os.urandom(8).hex()}"  # "/" has no name


@contextmanager
def _told(path: Path) -> Iterator[None]:
    """Tell the system's errors in one line."""
    try:
        yield
    except OSError as error:
        raise OutputError(f"{path}: can't be written: {error.strerror or error}; free some space or choose another place") from error
