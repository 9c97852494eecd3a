"""Files that are opened to be read: plain ones only, since a pipe or a device may never end, and never answer."""

from __future__ import annotations

import errno
import mmap
import os
import stat
from collections.abc import Callable
from io import BufferedReader
from pathlib import Path

#: Who is told of every file that is mapped, the innermost last (`nplrp.files.cut`).
mapped: list[Callable[[mmap.mmap, str | os.PathLike[str]], None]] = []


def open_plain(path: str | os.PathLike[str]) -> BufferedReader:
    """Open a plain file.

    Raises
    ------
    OSError
        If it can't be opened, or is something else.
    """
    path = Path(path)
    if path.is_dir():  # Windows has another error for it
        raise IsADirectoryError(errno.EISDIR, "it is a folder", str(path))
    try:
        descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except ValueError as error:  # a NUL in the name
        raise OSError(errno.EINVAL, f"its name can't be one ({error})", str(path)) from None
    file = open(descriptor, "rb")  # noqa: PTH123, SIM115 - it is open, and whoever asked closes it
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no plain file; copy it into one", str(path))
    return file


def read_plain(path: str | os.PathLike[str], most: int = 64 << 20) -> bytes:
    """Return a plain file's bytes.

    Raises
    ------
    OSError
        As `open_plain`, and if there are more than `most`.
    """
    with open_plain(path) as file:
        content = file.read(most + 1)
    if len(content) > most:
        raise OSError(errno.EFBIG, f"it has more than {most} bytes", str(path))
    return content


def read_text(path: str | os.PathLike[str], most: int = 64 << 20) -> str:
    """Return a plain file's text: UTF-8, with a byte order mark or without.

    Raises
    ------
    OSError
        As `read_plain`.
    UnicodeDecodeError
    """
    return read_plain(path, most).decode("utf-8-sig")


def map_plain(path: str | os.PathLike[str]) -> tuple[memoryview, os.stat_result]:
    """Map a plain file read-only, and return its status too; the mapping lives as long as an array uses it.

    Raises
    ------
    OSError
        As `open_plain`.
    """
    with open_plain(path) as file:
        status = os.fstat(file.fileno())
        if not status.st_size:
            return memoryview(b""), status
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    for told in mapped[-1:]:
        told(content, path)
    return memoryview(content), status


def copy_plain(path: str | os.PathLike[str]) -> tuple[memoryview, os.stat_result]:
    """Read a plain file into memory of its own, and return its status too: as `map_plain`, but whatever becomes of the file.

    Raises
    ------
    OSError
        As `open_plain`, and if it is changed meanwhile.
    """
    with open_plain(path) as file:
        status = os.fstat(file.fileno())
        if not status.st_size:
            return memoryview(b""), status
        content = memoryview(mmap.mmap(-1, status.st_size))  # begins a page, as a mapped file does
        done = file.readinto(content)
        now = os.fstat(file.fileno())
    if (done, now.st_size, now.st_mtime_ns) != (status.st_size, status.st_size, status.st_mtime_ns):
        raise OSError(errno.EIO, "it was changed while it was read; read it again", str(path))
    return content.toreadonly(), status
