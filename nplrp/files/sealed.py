"""HDF5 files that are known to be whole before libhdf5 looks at a byte of them, which trusts a file more than one should.

The first 512 bytes are HDF5's user block: a line of text with the kind of file, its version, and the SHA-256 of everything behind it.
Any HDF5 reader can open them.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import h5py

from nplrp.files.atomic import atomic
from nplrp.files.hdf5 import Source, open_hdf5
from nplrp.files.plain import map_plain, open_plain

BLOCK = 512


class SealError(ValueError):
    """Why a file isn't a whole one of its kind."""


@contextmanager
def written_hdf5(path: str | os.PathLike[str], **settings: Any) -> Iterator[h5py.File]:
    """Give an HDF5 file to write, which stands at `path` once it is whole.

    Raises
    ------
    OutputError
        If it can't be written; what was at `path` before is untouched.
    """
    with atomic(path) as temporary:
        yield from _filled(temporary, settings)


@contextmanager
def sealed_hdf5(path: str | os.PathLike[str], kind: str, version: int | str, **settings: Any) -> Iterator[h5py.File]:
    """Give an HDF5 file to write, which is sealed and stands at `path` once it is whole.

    Parameters
    ----------
    path : path
    kind : str
        A word that the file begins with, such as ``nplrp-golden``.
    version : int or str
        Of its format.
    **settings
        Of `h5py.File`.

    Raises
    ------
    OutputError
        If it can't be written; what was at `path` before is untouched.
    """
    with atomic(path) as temporary:
        yield from _filled(temporary, {"userblock_size": BLOCK, **settings})
        with temporary.open("r+b") as raw:
            raw.seek(BLOCK)
            digest = hashlib.file_digest(raw, "sha256").hexdigest()
            raw.seek(0)
            raw.write(_block(kind, version, digest))


def _filled(temporary: Path, settings: dict[str, Any]) -> Iterator[h5py.File]:
    """Yield a new HDF5 file; what libhdf5 says of a full disk, when writing or when closing, is the system's error again."""
    try:
        with h5py.File(temporary, "w", **settings) as file:
            yield file
    except (OSError, RuntimeError) as error:
        number = re.search(r"errno = (\d+)", str(error))
        if number is None:
            raise
        raise OSError(int(number[1]), os.strerror(int(number[1]))) from error


@contextmanager
def opened_sealed(path: str | os.PathLike[str], kind: str, versions: tuple[int | str, ...]) -> Iterator[tuple[h5py.File, Source]]:
    """Open a file that is whole and of a kind, as `nplrp.files.hdf5.open_hdf5` does.

    Raises
    ------
    SealError
        Saying what it is instead.
    WeightsError
        If what is in it, sealed or not, can't be read as HDF5.
    OSError
        If it can't be read.
    """
    data, _ = map_plain(path)
    _check(data, kind, versions)
    with open_hdf5(data) as opened:
        yield opened


def digest_of(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a whole plain file, read afresh.

    Raises
    ------
    OSError
        If it can't be read.
    """
    with open_plain(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _check(data: memoryview, kind: str, versions: tuple[int | str, ...]) -> None:
    head = bytes(data[:BLOCK])
    words = head.split(b"\n")[0].split()
    if len(head) < BLOCK or len(words) != 4 or words[0] != kind.encode():
        raise SealError("is empty" if not head else f"is no {kind.removeprefix('nplrp-')} file as nplrp writes it, or is cut short")
    version = words[1].decode("ascii", "replace")
    if version not in map(str, versions):
        raise SealError(f"has format version {version}, this nplrp reads {' and '.join(map(str, versions))}")
    if head != _block(kind, version, hashlib.sha256(data[BLOCK:]).hexdigest()):
        raise SealError("is truncated or was changed: its bytes don't have the SHA-256 that it states")


def _block(kind: str, version: int | str, digest: str) -> bytes:
    """Return the user block."""
    return f"{kind} {version} sha256 {digest}\n".encode().ljust(BLOCK, b"\0")
