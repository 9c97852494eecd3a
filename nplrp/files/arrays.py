"""Arrays as NumPy writes them (``.npy``, ``.npz``), from files that may be damaged or claim what isn't so; nothing in them is unpickled."""

from __future__ import annotations

import io
import os
import zipfile
from collections import Counter
from collections.abc import Container, Iterator
from contextlib import contextmanager

import numpy as np

from nplrp.errors import brief, brief_reason
from nplrp.files.plain import open_plain
from nplrp.files.zipped import RATIO

#: Bytes that arrays may take however small their file is: a backend's relevance may be 0 everywhere, and packs well.
ARRAYS = 1 << 30
#: How names of single arrays end.
NPY = ".npy"


def read_npy(path: str | os.PathLike[str]) -> np.ndarray:
    """Return the array of a ``.npy`` file.

    Raises
    ------
    OSError
        If it can't be opened.
    ValueError
        If it is anything else, or damaged; the message is the reason, in few words.
    """
    with open_plain(path) as file, _damage():
        if file.read(2) == b"PK":
            raise ValueError("it holds several arrays, expected one")
        file.seek(0)
        return np.asarray(np.lib.format.read_array(file, allow_pickle=False))


def parse_npy(content: bytes) -> np.ndarray:
    """Return the array that a ``.npy`` file's bytes hold.

    Raises
    ------
    ValueError
        As `read_npy`.
    """
    with _damage():
        return np.asarray(np.lib.format.read_array(io.BytesIO(content), allow_pickle=False))


def read_npz(path: str | os.PathLike[str], wanted: Container[str] | None = None) -> dict[str, np.ndarray]:
    """Return the arrays of an ``.npz`` file by their names; given names alone if there are any.

    Raises
    ------
    OSError, ValueError
        As `read_npy`.
    """
    with open_plain(path) as file, _damage():
        size = file.seek(0, io.SEEK_END)
        file.seek(0)
        if not zipfile.is_zipfile(file):
            raise ValueError("it is no zip archive of arrays; write it with numpy.savez")
        found: dict[str, np.ndarray] = {}
        with zipfile.ZipFile(file) as archive:
            total = sum(info.file_size for info in archive.infolist())
            twice = [name for name, count in Counter(archive.namelist()).items() if count > 1]
            if twice:
                raise ValueError(f"it has the array {brief(twice[0].removesuffix('.npy'))} twice")
            if total > ARRAYS + RATIO * size:
                raise ValueError(f"its arrays claim {total} bytes, the file has {size}; write it with numpy.savez, uncompressed")
            for info in archive.infolist():
                name = info.filename.removesuffix(".npy")
                if name == info.filename:
                    raise ValueError(f"{brief(name)} in it is no array; write it with numpy.savez")
                if wanted is None or name in wanted:
                    with archive.open(info) as entry:
                        found[name] = np.asarray(np.lib.format.read_array(entry, allow_pickle=False))
        return found


@contextmanager
def _damage() -> Iterator[None]:
    """Turn what NumPy's parser of headers and the archive's reader raise, which may be anything, into a ValueError."""
    try:
        yield
    except Exception as error:
        raise ValueError(brief_reason(error)) from None
