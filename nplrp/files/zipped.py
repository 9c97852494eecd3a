"""Entries of zip archives (``.keras``, ``.pth``), which may claim to be anything: read only as far as the archive's own size allows."""

from __future__ import annotations

import zipfile

from nplrp.errors import WeightsError, brief

#: Bytes of one byte of the archive, and bytes that any entries may take. Weights hardly get smaller; those of which most are 0 do.
RATIO, SMALL = 100, 64 << 20


def unpacked(archive: zipfile.ZipFile, info: zipfile.ZipInfo, size: int, limit: int | None = None) -> bytes:
    """Return an entry's bytes.

    Parameters
    ----------
    archive : ZipFile
    info : ZipInfo
        Of the entry.
    size : int
        The archive's bytes.
    limit : int or None
        The most that is expected of it; None: as much as such an archive may hold.

    Raises
    ------
    WeightsError
        If it claims more, or more than the archive has.
    zipfile.BadZipFile, zlib.error, OSError, RuntimeError, ...
        If it is damaged.
    """
    most = SMALL + RATIO * size if limit is None else limit
    if info.file_size > most:
        raise WeightsError(
            f"{brief(info.filename)} in the archive claims {info.file_size} bytes, at most {most} are expected; the file is damaged"
        )
    stored = info.file_size if info.compress_type == zipfile.ZIP_STORED else 0
    if max(info.compress_size, stored) > size:
        raise WeightsError(
            f"{brief(info.filename)} in the archive claims {max(info.compress_size, stored)} bytes of its {size}; the file is damaged"
        )
    return archive.read(info)
