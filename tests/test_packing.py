"""Packed datasets, against those that libhdf5 packs."""

import zlib

import h5py
import numpy as np
import pytest

from nplrp.files import packing

SHAPES = [(1,), (7,), (3, 5), (1, 9, 9, 4), (2, 70, 50, 33), (40000, 3), (2, 100003), (1, 1, 1, 200000)]
KINDS = ["<f8", "<f4", ">f8", "u1", "<u8", "?"]


def numbers(shape, kind):
    made = np.random.default_rng(len(shape)).normal(size=shape) * 100
    made[..., ::3] = 0
    return np.abs(made).astype(kind)


@pytest.mark.parametrize("kind", KINDS)
def test_libhdf5_reads_what_was_packed(kind, tmp_path):
    arrays = {f"a/{i}": numbers(shape, kind) for i, shape in enumerate(SHAPES)}
    arrays["slices"] = numbers((9, 40, 30), kind)[::2, :, ::3]
    with h5py.File(tmp_path / "a.h5", "w") as file:
        packing.write_packed(file, arrays.items())
    with h5py.File(tmp_path / "a.h5") as file:
        for path, array in arrays.items():
            found = file[path]
            if array.nbytes < 1024:
                assert found.chunks is None
                np.testing.assert_array_equal(found[...], array)
                continue
            assert (found.compression, found.compression_opts, found.shuffle, found.fletcher32) == ("gzip", 1, True, True)
            np.testing.assert_array_equal(found[...], array)  # checks the sums of all chunks
            assert found.dtype == np.dtype(kind).newbyteorder("<")


@pytest.mark.parametrize("filters", [{}, {"shuffle": True}, {"fletcher32": True}, {"shuffle": True, "fletcher32": True}])
@pytest.mark.parametrize("kind", ["<f8", "<f4", "u1", "<i2"])
def test_what_libhdf5_packed_is_read(kind, filters, tmp_path):
    """Chunks that don't become smaller it leaves unpacked."""
    chunks = {(99000,): (45000,), (300, 150): (170, 137), (1, 90, 90, 40): (1, 37, 90, 17), (3, 70, 50, 33): (2, 70, 50, 7)}
    arrays = {f"a/{i}": numbers(shape, kind) for i, shape in enumerate(chunks)}
    arrays["random"] = np.frombuffer(np.random.default_rng(0).bytes(80_000), kind)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        for path, array in arrays.items():
            shape = chunks.get(array.shape, (array.size // 2,))
            file.create_dataset(path, data=array, chunks=shape, compression="gzip", **filters)
    with h5py.File(tmp_path / "a.h5") as file:
        for path, array in arrays.items():
            found = np.full(array.shape, 77, array.dtype)
            assert packing.read_packed(file[path], found)
            np.testing.assert_array_equal(found, array)


def test_what_is_packed_otherwise_is_left_to_libhdf5(tmp_path):
    array = numbers((150, 140), "<f8")
    with h5py.File(tmp_path / "a.h5", "w") as file:
        packed = {"chunks": (70, 90), "compression": "gzip"}
        made = [
            file.create_dataset("plain", data=array),
            file.create_dataset("lzf", data=array, chunks=(70, 90), compression="lzf"),
            file.create_dataset("big-endian", data=array.astype(">f8"), **packed),
            file.create_dataset("single", data=array.astype("f4"), **packed),
            file.create_dataset("one chunk", data=array, chunks=array.shape, compression="gzip"),
            file.create_dataset("small chunks", data=array, chunks=(7, 9), compression="gzip"),
            file.create_dataset("a part of it", shape=array.shape, dtype="f8", **packed),
        ]
        made[-1][:70, :90] = 1
        for dataset in made:  # of another type, without some of its chunks, or of so small ones that libhdf5 is faster
            assert not packing.read_packed(dataset, np.empty(array.shape))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda raw: raw[:50] + bytes([raw[50] ^ 1]) + raw[51:], "doesn't have the checksum"),
        (lambda raw: raw[:-1], "doesn't have the checksum"),
        (lambda raw: b"x", "can't be unpacked|another length|checksum"),
        (lambda raw: packing.packed_chunk(np.zeros(1999), (1999,)), "has another length than its 262144 bytes"),
        (lambda raw: packing.packed_chunk(np.zeros(9_000_000), (9_000_000,)), "has another length than its 262144 bytes"),
        (lambda raw: b"no zlib" + packing.fletcher32(b"no zlib").to_bytes(4, "little"), "can't be unpacked"),
    ],
)
def test_damaged_chunks_are_refused(change, message, tmp_path):
    with h5py.File(tmp_path / "a.h5", "w") as file:
        packing.write_packed(file, [("a", numbers((40000,), "<f8"))])
        raw = file["a"].id.read_direct_chunk((0,))[1]
        file["a"].id.write_direct_chunk((0,), change(raw))
    with h5py.File(tmp_path / "a.h5") as file, pytest.raises(OSError, match=message):
        packing.read_packed(file["a"], np.empty(40000))


def test_a_wrong_byte_is_seen_by_libhdf5(tmp_path):
    array, name = numbers((50, 40), "<f8"), tmp_path / "a.h5"
    with h5py.File(name, "w") as file:
        packing.write_packed(file, [("a", array)])
        place = file["a"].id.get_chunk_info(0).byte_offset
    content = bytearray(name.read_bytes())
    content[place + 100] ^= 1
    name.write_bytes(content)
    with h5py.File(name) as file, pytest.raises(OSError, match=r"fletcher32|filter returned failure"):
        file["a"][...]


@pytest.mark.parametrize("count", [1, 2, 3, 100, 361, 5001])
@pytest.mark.parametrize("kind", ["u1", "<f8"])
def test_chunks_are_those_of_libhdf5(count, kind, tmp_path):
    array = numbers((count,), kind)
    with h5py.File(tmp_path / "a.h5", "w") as file:
        made = file.create_dataset("a", data=array, chunks=(count,), compression="gzip", shuffle=True, fletcher32=True)
        mask, theirs = made.id.read_direct_chunk((0,))
    ours = packing.packed_chunk(array, (count,))
    if not mask:  # else libhdf5 left it as it was, since packing made it no smaller
        assert zlib.decompress(ours) == zlib.decompress(theirs)
    assert packing.fletcher32(theirs[:-4]) == int.from_bytes(theirs[-4:], "little")


@pytest.mark.parametrize(
    "data, expected",
    [
        (b"", 0),
        (b"\0\0\0\0", 0),
        (b"\0\1", 1 << 16 | 1),
        (b"\0\1\0\2", (2 * 1 + 2) << 16 | 3),
        (b"\1", 256 << 16 | 256),
        (b"\xff\xff", 65535 << 16 | 65535),
        (b"\xff\xff" * 2, 65535 << 16 | 65535),
        (b"\xff\xff\0\1", 1 << 16 | 1),
    ],
)
def test_the_sum_by_hand(data, expected):
    assert packing.fletcher32(data) == expected


def test_sums_of_long_data_go_by_blocks():
    words = np.random.default_rng(0).integers(0, 65536, (1 << 20) + 12345)
    total = int(words.sum()), sum(int(w) * (len(words) - i) for i, w in enumerate(words.tolist()))
    assert packing.fletcher32(words.astype(">u2").tobytes()) == (total[1] % 65535) << 16 | total[0] % 65535


@pytest.mark.parametrize("shape", SHAPES)
def test_chunks_are_runs_of_memory(shape):
    array = np.arange(np.prod(shape), dtype=np.float64).reshape(shape)
    chunk = packing.chunk_of(array)
    first = array[tuple(map(slice, chunk))]
    assert first.nbytes <= packing.CHUNK and first.flags.c_contiguous
