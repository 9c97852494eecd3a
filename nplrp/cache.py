"""What nplrp keeps between runs, in the user's cache directory. Losing it costs time, nothing else.

Compiled kernels are among it, and whoever can write them runs code as this user. So nothing is read that anybody but this user and root
could have written, and nothing through a link (docs/security.md).
"""

from __future__ import annotations

import errno
import hashlib
import logging
import os
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple, NoReturn

#: Folders that were said not to be used.
_told: set[Path] = set()
# Links aren't followed, and a pipe or a device that nobody writes to isn't waited for; Windows knows neither.
_PLAINLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class ForeignError(OSError):
    """A folder or file that somebody else could have written."""


def directory() -> Path:
    """Return the cache directory: ``$NPLRP_CACHE``, else ``$XDG_CACHE_HOME/nplrp``, by default ``~/.cache/nplrp``. It may not exist."""
    given = os.environ.get("NPLRP_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "nplrp"


def make(folder: Path, mode: int = 0o700) -> None:
    """Make a folder to keep files in, unless it is there.

    Raises
    ------
    ForeignError
        If it is there, and somebody else could have written in it; that is logged once.
    OSError
        If it can't be made.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileExistsError):
        folder.mkdir(mode)
    with _opened(folder):
        pass


def read(folder: Path, name: str) -> bytes:
    """Return what is kept in a folder under a name.

    Raises
    ------
    ForeignError
        If somebody else could have written it; that is logged once for each folder.
    OSError
        If there is nothing, or nothing that can be read.
    """
    with _opened(folder) as place:
        try:
            descriptor = os.open(folder / name if place is None else name, os.O_RDONLY | _PLAINLY, dir_fd=place)
        except OSError as error:
            if error.errno == errno.ELOOP:
                _refuse(folder, folder / name, "is a link")
            raise
        with open(descriptor, "rb") as file:  # noqa: PTH123 - it is open
            _check(os.fstat(descriptor), folder, folder / name)
            return file.read()


def write(folder: Path, name: str, content: bytes, mode: int = 0o600) -> None:
    """Keep a file in a folder that there is, whole or not at all.

    Raises
    ------
    ForeignError
        As `read`.
    OSError
        If it can't be written.
    """
    temporary = f"{name}.{os.urandom(8).hex()}.tmp"
    with _opened(folder) as place:
        start, target = (folder / temporary, folder / name) if place is None else (Path(temporary), Path(name))
        descriptor = os.open(start, os.O_WRONLY | os.O_CREAT | os.O_EXCL | _PLAINLY, mode, dir_fd=place)
        try:
            with open(descriptor, "wb") as file:  # noqa: PTH123 - it is open
                file.write(content)
            os.replace(start, target, src_dir_fd=place, dst_dir_fd=place)
        except BaseException:
            with suppress(OSError):
                os.unlink(start, dir_fd=place)
            raise


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    """Give a folder's descriptor, so that it stays the one that was looked at; None where there are no such things."""
    if os.open not in os.supports_dir_fd:
        yield None
        return
    if folder.is_symlink():
        _refuse(folder, folder, "is a link")
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | _PLAINLY)
    try:
        _check(os.fstat(descriptor), folder, folder)
        yield descriptor
    finally:
        os.close(descriptor)


def _check(status: os.stat_result, folder: Path, path: Path) -> None:
    """Raise `ForeignError` if a file, or a folder, could have been written by somebody else."""
    if path != folder and not stat.S_ISREG(status.st_mode):
        _refuse(folder, path, "is no plain file")
    if os.name != "posix":
        return
    if status.st_uid not in (os.geteuid(), 0):
        _refuse(folder, path, f"belongs to user {status.st_uid}")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        _refuse(folder, path, f"can be written by others (mode {stat.S_IMODE(status.st_mode):o})")


def _refuse(folder: Path, path: Path, why: str) -> NoReturn:
    message = f"{path}: {why}, so it isn't used; remove it, or set NPLRP_CACHE to a folder of your own"
    if folder not in _told:
        _told.add(folder)
        logging.getLogger(__name__).warning("%s", message)
    raise ForeignError(message)


class Stamp(NamedTuple):
    """By what it is seen that a file has changed; whoever writes to one can set `modified` back, but not `changed`."""

    path: str
    size: int
    modified: int
    changed: int
    inode: int
    device: int


def stamp(path: Path, status: os.stat_result | None = None) -> Stamp | None:
    """Return a file's stamp, of its status if that is known; None if there is no such file."""
    try:
        status = status or path.stat()
    except OSError:
        return None
    return Stamp(str(path.absolute()), status.st_size, status.st_mtime_ns, status.st_ctime_ns, status.st_ino, status.st_dev)


def remembered_hash(key: str, compute: Callable[[], str]) -> str:
    """Return the SHA-256 kept under `key`, or compute and keep it; a cache that can't be read or written is passed over.

    Parameters
    ----------
    key : str
        Everything that the hash depends on.
    compute : callable
        Returns 64 hexadecimal digits.
    """
    folder, name = None, hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
    with suppress(OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: no home directory
        folder = directory() / "hashes"
        kept = read(folder, name).decode("ascii").strip()
        if len(kept) == 64 and set(kept) <= set("0123456789abcdef"):
            return kept
    value = compute()
    if folder is not None:
        with suppress(OSError):
            make(folder)
            write(folder, name, value.encode("ascii"))
    return value
