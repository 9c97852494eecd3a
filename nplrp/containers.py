"""What picture files hold beside their pixels, counted before anything reads it.

Decoders parse every profile, text and directory of a file one by one; a few megabytes of them take minutes. Here only lengths are read.
"""

from __future__ import annotations

import io
import re
import struct
from collections.abc import Iterator
from contextlib import suppress
from typing import IO

#: PNG chunks beside those of pixels; those of them that have to be inflated, a millisecond or more each; and those of pixels.
CHUNKS, COMPRESSED, PIXEL_CHUNKS = 1000, 64, 1 << 16
#: Segments of a JPEG before its pixels, and bytes between them that belong to none.
SEGMENTS, JUNK = 1000, 1 << 16
#: Scans of a progressive JPEG, as libjpeg-turbo's own fuzzers have it; a second or two for the largest pictures.
SCANS = 500
#: Strips and tiles of a TIFF: Pillow makes a list of them in Python.
TILES = 1 << 18
#: Entries of a TIFF or EXIF directory, directories that a picture refers to, and bytes of EXIF.
ENTRIES, DIRECTORIES, EXIF = 1000, 50, 1 << 20
#: Boxes of a JPEG 2000 and chunks of a WebP.
BOXES = 1000
#: Blocks of a GIF before its picture, and pieces of these.
BLOCKS, PIECES = 1000, 1 << 16
#: Bytes of a PPM's header, and its comments; bytes of one that is written in digits, and of a BMP in runs: Pillow reads these in Python.
HEADER, COMMENTS, DIGITS, RUNS = 1 << 16, 1000, 16 << 20, 8 << 20

#: The next marker of a JPEG that begins a segment with a length, or ends the image; none occurs within compressed numbers. Reserved ones
#: aren't among them: libjpeg passes over those within numbers, so that a length behind one could hide what follows.
_MARKER = re.compile(rb"\xff([\xc0-\xcf\xd8-\xfe])")
_END, _SCAN = b"\xd9", b"\xda"
#: Segments of a suspicious JPEG that are looked at; files have some dozens.
_LOOKED_AT = 5000
#: Bytes of one value of each TIFF type.
_SIZES = {1: 1, 2: 1, 3: 2, 4: 4, 5: 8, 6: 1, 7: 1, 8: 2, 9: 4, 10: 8, 11: 4, 12: 8, 13: 4, 16: 8, 17: 8, 18: 8}
#: Tags whose values are places of further directories: EXIF, GPS, interoperability, and those inside a page.
_INSIDE = (0x8769, 0x8825, 0xA005)
#: Tags with the places of strips and of tiles.
_OFFSETS = (273, 324)


class Excess(ValueError):
    """A file has more of something than any good picture; the message says what, how many are allowed, and what to do."""


def check(file: IO[bytes]) -> None:
    """Look through a picture file by the lengths that it states, and go back to its start; of other files, and damaged ones, say nothing.

    Parameters
    ----------
    file : binary file
        Seekable.

    Raises
    ------
    Excess
    """
    head = file.read(12)
    size = file.seek(0, io.SEEK_END)
    try:
        if head.startswith(b"\x89PNG\r\n\x1a\n"):
            _check_png(file, size)
        elif head.startswith(b"\xff\xd8"):
            _check_jpeg(file)
        elif head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"):
            _check_directories(file, size)
        elif head[:4] == b"RIFF" and head[8:] == b"WEBP":
            _check_webp(file, size)
        elif head[4:8] == b"jP  ":
            _check_boxes(file, 0, size)
        elif head[:4] == b"GIF8":
            _check_gif(file, size)
        elif head[:1] == b"P" and head[1:2] in b"123456fFy" and head[1:2]:
            _check_ppm(file, size)
        elif head[:2] == b"BM":
            _check_bmp(file, size)
    except (struct.error, IndexError):  # cut off: the decoder will say so
        pass
    finally:
        file.seek(0)


def _most(count: int, limit: int, what: str, instead: str = "save it again without metadata") -> None:
    if count > limit:
        raise Excess(f"has more than {limit} {what}: {instead}")


def _check_png(file: IO[bytes], size: int) -> None:
    place, others, compressed, pixels = 8, 0, 0, 0
    while place < size:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        if kind in (b"IDAT", b"fdAT", b"fcTL"):
            pixels += 1
        else:
            others += 1
            compressed += kind in (b"iCCP", b"zTXt", b"iTXt")
        if others > CHUNKS or compressed > COMPRESSED or pixels > PIXEL_CHUNKS:
            _most(pixels, PIXEL_CHUNKS, "PNG chunks of pixels")
            _most(compressed, COMPRESSED, "compressed PNG chunks beside its pixels")
            _most(others, CHUNKS, "PNG chunks beside its pixels")
        if kind == b"eXIf":
            _check_exif(file, length)
        if kind == b"IEND":
            return
        place += 12 + length


def _check_jpeg(file: IO[bytes]) -> None:
    """Count the segments up to the pixels as Pillow finds them, byte by byte where they don't follow each other."""
    file.seek(2)
    segments, junk, exif = 0, 0, b""
    while byte := file.read(1):
        if byte != b"\xff":
            junk += 1
        else:
            while (marker := file.read(1)) == b"\xff" and junk <= JUNK:
                junk += 1
            if marker == b"\xda":
                break
            junk += 2 * (marker < b"\xc0")
            segments += marker >= b"\xc0"
            if marker >= b"\xc0" and not b"\xd0" <= marker <= b"\xd9":  # those have no length
                (length,) = struct.unpack(">H", file.read(2))
                after = file.tell() + max(length - 2, 0)
                if marker == b"\xe1" and file.read(6) == b"Exif\0\0":
                    exif += file.read(max(length - 8, 0))  # Pillow joins what several have
                    _check_length(len(exif))
                file.seek(after)
        _most(segments, SEGMENTS, "JPEG segments before its pixels")
        _most(junk, JUNK, "bytes between its JPEG segments")
    _check_directories(io.BytesIO(exif), len(exif))


def check_scans(file: IO[bytes]) -> None:
    """Count the passes over a JPEG's pixels, before they are decoded, and go back to where the file is.

    Raises
    ------
    Excess
    """
    place = file.tell()
    file.seek(0)
    if has_many_scans(file.read(), SCANS):
        raise Excess(f"has more than {SCANS} scans, each a pass over the whole picture: save it as a baseline JPEG")
    file.seek(place)


def has_many_scans(data: bytes, most: int) -> bool:
    """Tell whether a JPEG has more than `most` scans, or thousands of segments among which they may be.

    Each scan is a pass over the whole image, and ten bytes are enough for one.
    """
    if data.count(b"\xff" + _SCAN) <= most:  # also those in previews and profiles
        return False
    count, place = 0, 2
    for _ in range(_LOOKED_AT):
        found = _MARKER.search(data, place)
        if found is None or found[1] == _END:
            return False
        count += found[1] == _SCAN
        if count > most:
            return True
        place = found.end() + int.from_bytes(data[found.end() : found.end() + 2], "big")
    return True


def _check_webp(file: IO[bytes], size: int) -> None:
    place, count = 12, 0
    while place < size:
        file.seek(place)
        kind, length = struct.unpack("<4sI", file.read(8))
        count += kind != b"ANMF"
        _most(count, BOXES, "WebP chunks")
        if kind == b"EXIF":
            _check_exif(file, length)
        place += 8 + length + length % 2


def _check_boxes(file: IO[bytes], place: int, end: int) -> None:
    """Count a JPEG 2000's boxes, also those of its header."""
    count = 0
    while place < end:
        file.seek(place)
        length, kind = struct.unpack(">I4s", file.read(8))
        start = place + 8
        if length == 1:
            (length,) = struct.unpack(">Q", file.read(8))
            start += 8
        count += 1
        _most(count, BOXES, "JPEG 2000 boxes")
        if kind == b"jp2c" or length == 0:
            return
        if kind in (b"jp2h", b"res "):
            _check_boxes(file, start, min(place + length, end))
        place += max(length, 8)


def _check_gif(file: IO[bytes], size: int) -> None:
    """Count what stands before the first picture, as Pillow finds it, byte by byte where it is nothing known."""
    file.seek(10)
    flags = file.read(3)[0]
    file.seek(13 + (3 << (flags & 7) + 1 if flags & 0x80 else 0))
    blocks, pieces, junk = 0, 0, 0
    while file.tell() < size:
        kind = file.read(1)
        if kind in (b",", b";"):
            return
        if kind != b"!":
            junk += 1
        else:
            blocks += 1
            file.seek(1, io.SEEK_CUR)
            while length := file.read(1)[0]:
                pieces += 1
                file.seek(length, io.SEEK_CUR)
                _most(pieces, PIECES, "pieces of GIF blocks before its picture")
        _most(blocks, BLOCKS, "GIF blocks before its picture")
        _most(junk, JUNK, "bytes between its GIF blocks")


def _check_ppm(file: IO[bytes], size: int) -> None:
    """Look for the numbers of the header among spaces and comments, and for comments among digits."""
    file.seek(0)
    kind = file.read(2)
    digits = kind in (b"P1", b"P2", b"P3")
    if digits and size > DIGITS:
        raise Excess(f"has more than {DIGITS} bytes of digits: save it as PNG")
    head = re.sub(rb"#[^\r\n]*[\r\n]", b" ", file.read(HEADER))
    if size > HEADER and len(head.split(None, 3)) < (3 if kind in (b"P1", b"P4") else 4):
        raise Excess(f"has more than {HEADER} bytes of PPM header: save it again without comments")
    if digits:
        file.seek(0)
        _most(file.read().count(b"#"), COMMENTS, "comments")


def _check_bmp(file: IO[bytes], size: int) -> None:
    file.seek(14)
    header, compression = struct.unpack("<I12xI", file.read(20))
    if header >= 40 and compression in (1, 2) and size > RUNS:
        raise Excess(f"has more than {RUNS} bytes of runs: save it as PNG")


def _check_exif(file: IO[bytes], length: int) -> None:
    """Look through the EXIF that begins where the file is."""
    _check_length(length)
    content = file.read(length).removeprefix(b"Exif\0\0")
    with suppress(struct.error):  # cut off; the picture may be good
        _check_directories(io.BytesIO(content), len(content))


def _check_length(exif: int) -> None:
    if exif > EXIF:
        raise Excess(f"has more than {EXIF} bytes of EXIF: save it again without metadata")


def _check_directories(file: IO[bytes], size: int) -> None:
    """Look through the first directory of a TIFF, and those that it refers to; further pages are never read."""
    file.seek(0)
    order = "<" if file.read(2) == b"II" else ">"
    big = struct.unpack(order + "H", file.read(2))[0] == 43
    if big:
        file.seek(8)
    (first,) = struct.unpack(order + ("Q" if big else "I"), file.read(8 if big else 4))
    waiting, seen = [first], set[int]()
    while waiting:
        place = waiting.pop()
        if place in seen or place >= size:
            continue
        seen.add(place)
        _most(len(seen), DIRECTORIES, "directories of tags")
        total = 0
        for tag, number, bytes_, value in _entries(file, place, order, big):
            total += bytes_
            if total > size:
                raise Excess("has tags that are longer than the file altogether: save it again without metadata")
            if tag in _INSIDE:
                waiting.append(value)
            if tag in _OFFSETS:
                _most(number, TILES, "strips or tiles", "save it as PNG, or in larger ones")


def _entries(file: IO[bytes], place: int, order: str, big: bool) -> Iterator[tuple[int, int, int, int]]:
    """Yield a directory's entries: (tag, number of values, bytes that lie elsewhere in the file, value or place)."""
    count_form, form = (order + "Q", order + "HHQQ") if big else (order + "H", order + "HHII")
    file.seek(place)
    (count,) = struct.unpack(count_form, file.read(struct.calcsize(count_form)))
    _most(count, ENTRIES, "tags in a directory")
    content = file.read(count * struct.calcsize(form))
    whole = len(content) // struct.calcsize(form) * struct.calcsize(form)
    for tag, kind, number, value in struct.iter_unpack(form, content[:whole]):
        length = number * _SIZES.get(kind, 0)
        yield tag, number, length if length > (8 if big else 4) else 0, value
