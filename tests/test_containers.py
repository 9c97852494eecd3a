"""Profiles, texts, directories and boxes by the thousand: counted before a decoder works through them."""

import io
import os
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nplrp import cli, containers
from nplrp.errors import ImageError
from nplrp.images import MAX_SIDE, preprocess
from tests.networks import small_vgg

WEIGHTS = Path(__file__).parent / "data" / "keras_files" / "small32_k2_model_save.h5"
MODEL = small_vgg(size=16)


def encoded(form, **options):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), np.uint8)).save(file, form, **options)
    return file.getvalue()


def chunk(kind, data=b""):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(*chunks, behind=()):
    content = encoded("PNG")
    return content[:33] + b"".join(chunks) + content[33:-12] + b"".join(behind) + content[-12:]


def segment(marker, data=b""):
    return b"\xff" + marker + struct.pack(">H", len(data) + 2) + data


def jpeg(*between):
    content = encoded("JPEG")
    return content[:2] + b"".join(between) + content[2:]


def directory(entries, value=0, count=1, big=False, tag=None):
    """A TIFF of one directory, whose tags all have so many numbers at the same place."""
    head, form = (
        (b"II+\0" + struct.pack("<HHQQ", 8, 0, 16, entries), "<HHQQ") if big else (b"II*\0" + struct.pack("<IH", 8, entries), "<HHII")
    )
    return head + b"".join(struct.pack(form, tag or 300 + i, 4, count, value) for i in range(entries)) + bytes(8)


def exif_segments(content):
    return [segment(b"\xe1", b"Exif\0\0" + content[i : i + 60_000]) for i in range(0, len(content), 60_000)]


def pages(n):
    """A TIFF of many pages, all with the same pixels."""
    content = bytearray(encoded("TIFF"))
    (first,) = struct.unpack("<I", content[4:8])
    (count,) = struct.unpack("<H", content[first : first + 2])
    page = bytes(content[first : first + 2 + 12 * count])
    content[first + len(page) : first + len(page) + 4] = struct.pack("<I", len(content))
    for i in range(n):
        content += page + struct.pack("<I", len(content) + len(page) + 4 if i < n - 1 else 0)
    return bytes(content)


def boxes(n):
    content = encoded("JPEG2000")
    return content[:12] + struct.pack(">I4s", 8, b"free") * n + content[12:]


def webp(n, exif=b""):
    content = encoded("WEBP") + struct.pack("<4sI", b"ABCD", 0) * n + (struct.pack("<4sI", b"EXIF", len(exif)) + exif if exif else b"")
    return content[:4] + struct.pack("<I", len(content) - 8) + content[8:]


#: EXIF whose directory is in another segment than its start.
AFAR = b"II*\0" + struct.pack("<I", 70_000) + bytes(69_992) + directory(2000)[8:]
ICC = zlib.compress(bytes(1_000_000))


def gif(before):
    """Two by two pixels, and what stands before them."""
    return b"GIF89a\2\0\2\0\x80\0\0" + bytes(6) + before + b",\0\0\0\0\2\0\2\0\0\2\2\x84\x51\0;"


def runs(content):
    """A BMP of two by two pixels in runs (RLE8)."""
    start = 14 + 40 + 1024
    header = struct.pack("<IiiHHIIiiII", 40, 2, 2, 1, 8, 1, len(content), 0, 0, 256, 0)
    return b"BM" + struct.pack("<IHHI", start + len(content), 0, 0, start) + header + bytes(1024) + content


GIFS = (
    ("comments", b"!\xfe\x01c\0" * 2_000_000, "1000 GIF blocks"),
    ("empty blocks", b"!\xfe\0" * 3_000_000, "1000 GIF blocks"),
    ("pieces", b"!\xfe" + b"\x01c" * 5_000_000 + b"\0", "pieces of GIF blocks"),
    ("junk", b"x" * 10_000_000, "between its GIF blocks"),
)
PPMS = (
    ("PPM with a long comment", b"P6\n#" + b"x" * 10_000_000 + b"\n2 2\n255\n" + bytes(12), "bytes of PPM header"),
    ("PPM with comments", b"P6\n" + b"#\n" * 5_000_000 + b"2 2\n255\n" + bytes(12), "bytes of PPM header"),
    ("PPM with spaces", b"P5\n2 2" + b" " * 10_000_000 + b"255\n" + bytes(12), "bytes of PPM header"),
    ("PBM with spaces", b"P4\n2" + b" " * 10_000_000 + b"2\n" + bytes(12), "bytes of PPM header"),
    ("PPM of digits and comments", b"P3\n10 10\n255\n" + b"#\n" * 5_000_000 + b"1 " * 300, "1000 comments"),
    ("PPM of digits", b"P3\n3000 3000\n255\n" + b"1 " * 9_000_000, "bytes of digits"),
)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        pytest.param(png(*[chunk(b"iCCP", b"k\0\0" + ICC)] * 9487), "64 compressed PNG chunks", id="PNG profiles"),
        pytest.param(png(*[chunk(b"zTXt", b"k\0\0" + ICC)] * 65), "64 compressed PNG chunks", id="PNG texts"),
        pytest.param(png(*[chunk(b"tEXt", b"k\0v")] * 600_000), "1000 PNG chunks", id="PNG plain texts"),
        pytest.param(png(behind=[chunk(b"abCd")] * 1001), "1000 PNG chunks", id="PNG chunks behind the pixels"),
        pytest.param(png(behind=[chunk(b"IDAT")] * 800_000), "65536 PNG chunks of pixels", id="PNG pixels in nothings"),
        pytest.param(png(chunk(b"eXIf", directory(1001))), "1000 tags", id="PNG EXIF"),
        pytest.param(png(chunk(b"eXIf", bytes(2 << 20))), "bytes of EXIF", id="PNG long EXIF"),
        pytest.param(jpeg(segment(b"\xfe") * 2_500_000), "1000 JPEG segments", id="JPEG comments"),
        pytest.param(jpeg(b"\xff\xd0" * 5_000_000), "1000 JPEG segments", id="JPEG restart markers"),
        pytest.param(jpeg(b"\xff" * 10_000_000), "65536 bytes between", id="JPEG fill bytes"),
        pytest.param(jpeg(segment(b"\xfe") + bytes(100_000)), "65536 bytes between", id="JPEG bytes of no segment"),
        pytest.param(jpeg(b"\xff\0" * 100_000), "65536 bytes between", id="JPEG escapes"),
        pytest.param(jpeg(*exif_segments(directory(65_000, 8, 10_000))), "1000 tags", id="JPEG EXIF of several segments"),
        pytest.param(jpeg(*exif_segments(AFAR)), "1000 tags", id="later"),
        pytest.param(jpeg(*exif_segments(bytes(2 << 20))), "bytes of EXIF", id="JPEG long EXIF"),
        pytest.param(jpeg(*exif_segments(directory(900, 8, 50))), "longer than the file", id="JPEG EXIF read again and again"),
        pytest.param(directory(60_000, 8, 1000), "1000 tags", id="TIFF tags"),
        pytest.param(directory(1001, 8, 1, big=True), "1000 tags", id="big TIFF tags"),
        pytest.param(directory(900, 8, 2000), "longer than the file", id="TIFF tags read again and again"),
        pytest.param(pages(100_000), "several frames", id="TIFF pages"),
        pytest.param(boxes(1_000_000), "1000 JPEG 2000 boxes", id="JPEG 2000 boxes"),
        pytest.param(webp(2000), "1000 WebP chunks", id="WebP chunks"),
        pytest.param(webp(0, directory(1001)), "1000 tags", id="WebP EXIF"),
        *(pytest.param(gif(before), what, id=f"GIF {name}") for name, before, what in GIFS),
        *(pytest.param(content, what, id=name) for name, content, what in PPMS),
        pytest.param(runs(b"\0\0" * 5_000_000), "bytes of runs", id="BMP runs"),
    ],
)
@pytest.mark.parametrize("exif", [False, True])
def test_thousands_of_pieces_are_refused_at_once(content, message, exif, tmp_path):
    path = tmp_path / "picture.bin"
    path.write_bytes(content)
    for source in (path, io.BytesIO(content)):
        begun = time.monotonic()
        with pytest.raises(ImageError, match=message) as caught:
            preprocess(source, MODEL, exif=exif)
        assert time.monotonic() - begun < 2  # minutes before, for some
        assert "\n" not in str(caught.value)


def test_directories_that_lead_to_each_other_end():
    loop = directory(1, 8, 1, tag=0x8769)
    containers.check(io.BytesIO(loop))
    inside = b"".join(struct.pack("<HHII", 0x8769, 4, 1, 10_000 + 6 * i) for i in range(100))
    many = b"II*\0" + struct.pack("<IH", 8, 100) + inside + bytes(4)
    with pytest.raises(containers.Excess, match="50 directories"):
        containers.check(io.BytesIO(many.ljust(10_000, b"\0") + bytes(600)))


@pytest.mark.parametrize("exif", [False, True])
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(gif(b"!\xfe" + (b"\xff" + b"c" * 255) * 4000 + b"\0"), id="GIF with a long comment"),
        pytest.param(gif(b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0!\xf9\x04\0\0\0\0\0"), id="GIF with blocks"),
        pytest.param(b"P6 # a\n#" + b"b" * 60_000 + b"\n2 2\n255\n" + b"#" * 12, id="PPM with comments"),
        pytest.param(b"P3\n2 2 255\n# a\n" + b"7 " * 12, id="PPM of digits"),
        pytest.param(b"P1\n2 2\n1 0 0 1", id="PBM of digits"),
        pytest.param(b"P4 8 1\n\x55", id="PBM"),
        pytest.param(runs(b"\x02\1\0\0\x02\2\0\1"), id="BMP with runs"),
        *(pytest.param(encoded(form), id=form) for form in ("PNG", "JPEG", "TIFF", "WEBP", "GIF", "BMP", "JPEG2000", "PPM")),
        pytest.param(png(*[chunk(b"tEXt", b"k\0v")] * 900, chunk(b"iCCP", b"k\0\0" + ICC)), id="PNG texts"),
        pytest.param(png(chunk(b"eXIf", directory(50, 8, 2))), id="PNG EXIF"),
        pytest.param(
            jpeg(*[segment(b"\xe2", b"ICC_PROFILE\0" + bytes([i + 1, 200]) + bytes(60_000)) for i in range(200)]), id="JPEG profile"
        ),
        pytest.param(jpeg(*exif_segments(directory(50, 8, 10) + bytes(60_000))), id="JPEG EXIF"),
        pytest.param(encoded("JPEG", progressive=True), id="progressive"),
        pytest.param(encoded("TIFF", compression="tiff_lzw"), id="TIFF compressed"),
        pytest.param(encoded("TIFF", big_tiff=True), id="big TIFF"),
    ],
)
def test_good_pictures_are_read(content, exif):
    assert preprocess(io.BytesIO(content), MODEL, exif=exif).shape == (1, 16, 16, 3)


def test_a_pipe_is_read(tmp_path):
    reading, writing = os.pipe()
    os.write(writing, encoded("PNG"))
    os.close(writing)
    with os.fdopen(reading, "rb") as file:
        assert preprocess(file, MODEL).tobytes() == preprocess(io.BytesIO(encoded("PNG")), MODEL).tobytes()


def test_exif_that_is_cut_off_matters_only_where_it_is_wanted():
    assert preprocess(io.BytesIO(png(chunk(b"eXIf", b"II*\0\0\0"))), MODEL).shape == (1, 16, 16, 3)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "TIFF", "WEBP", "JPEG2000", "GIF", "BMP", "PPM"])
def test_wherever_a_file_is_cut_the_check_says_nothing_else(form):
    content = encoded(form)
    for end in range(0, len(content), 7):
        file = io.BytesIO(content[:end])
        containers.check(file)
        assert file.tell() == 0


def long_png(width, height):
    """A black picture of one long side."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes((1 + 3 * width) * height))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND")


@pytest.mark.parametrize("size", [(1, MAX_SIDE + 1), (MAX_SIDE + 1, 1), (1, 20_000_000), (20_000_000, 1)])
@pytest.mark.parametrize("resample", ["lanczos", "nearest"])
def test_one_long_side(size, resample):
    """Its table of weights alone would take 48 bytes for each of its rows."""
    content = long_png(*size)
    begun = time.monotonic()
    with pytest.raises(ImageError, match="longest side may be 65535"):
        preprocess(io.BytesIO(content), MODEL, resample=resample)
    assert time.monotonic() - begun < 1


def test_what_a_resize_makes_on_its_way_is_limited():
    content = long_png(2, 20_000)
    assert preprocess(io.BytesIO(content), MODEL, max_pixels=16 * 20_000, resample="bicubic").shape == (1, 16, 16, 3)
    with pytest.raises(ImageError, match=r"0[.]3 megapixels on the way"):
        preprocess(io.BytesIO(content), MODEL, max_pixels=16 * 20_000 - 1, resample="bicubic")


def test_the_command_line_has_the_limits(tmp_path, capsys):
    """One line, where a MemoryError came out."""
    for name, content in (("long", long_png(1, 20_000_000)), ("pieces", png(*[chunk(b"iCCP", b"k\0\0" + ICC)] * 65))):
        path = tmp_path / f"{name}.png"
        path.write_bytes(content)
        assert cli.main(["predict", str(path), "--weights", str(WEIGHTS), "--resample", "lanczos"]) == 2
        message = capsys.readouterr().err
        assert len(message.splitlines()) == 1 and str(path) in message and "Traceback" not in message


def test_memory_that_is_not_there_is_one_line(monkeypatch):
    def greedy(*_, **__):
        raise MemoryError

    monkeypatch.setattr(Image.Image, "resize", greedy)
    with pytest.raises(ImageError, match=r"^image 0: takes more memory than there is: make it smaller first$"):
        preprocess(io.BytesIO(encoded("PNG")), MODEL)


def test_room_is_asked_for_before_a_picture_is_decoded(monkeypatch):
    from contextlib import contextmanager

    from nplrp.images import load_pixels

    said = []

    @contextmanager
    def room(size):
        said.append(size)
        yield
        said.append("done")

    load_pixels([io.BytesIO(encoded("PNG"))] * 2, MODEL, room=room)
    assert said == [10 * 600 + 4 * (16 * 20 + 16 * 16), "done"] * 2


def with_scans(n):
    """A progressive JPEG whose last scan is there so many times more, without its numbers."""
    content = encoded("JPEG", progressive=True)
    start = content.rindex(b"\xff\xda")
    return content[:-2] + content[start : start + 2 + content[start + 3]] * n + b"\xff\xd9"


def test_scans_of_a_jpeg_are_counted_before_they_are_decoded():
    """3,000 of them in 400 kB are 18 s at 62 megapixels."""
    assert preprocess(io.BytesIO(with_scans(100)), MODEL).shape == (1, 16, 16, 3)
    for content in (with_scans(600), Image.open(io.BytesIO(with_scans(600)))):
        with pytest.raises(ImageError, match="more than 500 scans, each a pass over the whole picture"):
            preprocess(content if isinstance(content, Image.Image) else io.BytesIO(content), MODEL)


@pytest.mark.parametrize("tag", [273, 324])
def test_strips_and_tiles_of_a_tiff(tag):
    """Pillow keeps each of them as a Python object."""
    content = directory(1, value=8, count=300_000, tag=tag) + bytes(1_300_000)
    with pytest.raises(ImageError, match="more than 262144 strips or tiles"):
        preprocess(io.BytesIO(content), MODEL)


def test_a_damaged_tiff_is_one_line_though_libtiff_has_its_own(tmp_path, capfd):
    """libtiff prints on the process's stderr, and Pillow logs, what is raised anyway."""
    damaged = bytearray(encoded("TIFF", compression="tiff_lzw"))
    damaged[8:200] = b"\xff" * 192
    many = bytearray(encoded("TIFF"))
    (first,) = struct.unpack("<I", many[4:8])
    place = many.index(struct.pack("<HH", 277, 3), first)
    many[place + 8 : place + 10] = b"\xff\xff"
    for name, content in (("lzw", damaged), ("samples", many)):
        path = tmp_path / f"{name}.tif"
        path.write_bytes(content)
        assert cli.main(["predict", str(path), "--weights", str(WEIGHTS)]) == 2
        out, err = capfd.readouterr()
        assert err.count("\n") == 1 and err.startswith("nplrp: ") and not out
