"""Files that one process at a time may have: a lock ends with the process that holds it, however that ends."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from nplrp.errors import OutputError


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Let one process at a time make `path`; the others wait. The empty ``<path>.lock`` stays: removing it would let two in."""
    with path.with_name(f"{path.name}.lock").open("ab") as file:
        if not _take(file):
            print(f"nplrp: waiting for another process that is making {path.name}", file=sys.stderr)
            _wait(file)
        yield  # closing unlocks, and so does the end of the process


@contextmanager
def claimed(path: Path, what: str, shared: bool = False) -> Iterator[None]:
    """Hold `path`, an empty file, alone; or together with others who share it, but with nobody who wants it alone.

    Raises
    ------
    OutputError
        If another process holds it; `what` says what that one is doing.
    """
    with path.open("ab") as file:
        if not _take(file, shared):
            raise OutputError(f"{path.parent}: {what}; wait until it is done, or give another folder")
        yield


def _take(file: IO[bytes], shared: bool = False) -> bool:
    """Lock a file if nobody else has. Where a file system knows no locks, there are none."""
    if sys.platform == "win32":
        if shared:
            return True
        import msvcrt

        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True
    import fcntl

    try:
        fcntl.flock(file, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # an old NFS
        return True
    return True


def _wait(file: IO[bytes]) -> None:
    if sys.platform == "win32":
        import msvcrt

        while True:
            with suppress(OSError):  # gives up after ten seconds
                msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                return
    import fcntl

    fcntl.flock(file, fcntl.LOCK_EX)
