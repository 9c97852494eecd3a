"""Attributes as libhdf5 writes them in every version of its format, found in the bytes by ourselves; h5py is the twin."""

import struct

import h5py
import numpy as np
import pytest

from nplrp.errors import WeightsError
from nplrp.files import hdf5
from nplrp.files.hdf5_format import Content
from nplrp.files.plain import map_plain

TEXT = h5py.string_dtype()


def read(path, place="/"):
    with hdf5.open_hdf5(map_plain(path)[0]) as (file, source):
        return hdf5.attributes(source, file[place])


def by_h5py(path, place="/"):
    with h5py.File(path) as file:
        return {name: value if isinstance(value, str) else list(value) for name, value in file[place].attrs.items()}


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
@pytest.mark.parametrize("ordered", [False, True], ids=["by name", "in order"])
@pytest.mark.parametrize("user_block", [0, 1024])
# From nine on the newer formats keep attributes in a heap: one block, many, blocks under blocks; of more than 256 texts outside of it.
@pytest.mark.parametrize(("count", "length"), [(3, 3), (9, 3), (12, 257), (120, 300), (1500, 2)])
def test_every_place_of_an_attribute(tmp_path, libver, ordered, user_block, count, length):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver=libver, userblock_size=user_block, track_order=ordered) as file:
        holder = file.create_group("a/\u00e4", track_order=ordered)
        try:
            for i in range(count):
                name = f"name{i}" if i % 7 else f"\u00fcn\u00ef{i}" * (1 + i % 40)
                value = [f"text {i * j} \u00e9" for j in range(length)] if i % 5 == 0 else "x" * (i % 3 * i)
                holder.attrs.create(name, value, dtype=TEXT)
        except OSError:
            assert libver == "earliest"  # all must fit into 64 KB
            assert count * length > 1000
    found = read(path, "a/\u00e4")
    assert found == by_h5py(path, "a/\u00e4")
    assert len(found) >= min(count, 12)


def test_attributes_after_deleting_others(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for i in range(400):
            file.attrs.create(f"name{i}", f"text {i}", dtype=TEXT)
        for i in range(0, 400, 3):
            del file.attrs[f"name{i}"]
        for i in range(0, 400, 6):
            file.attrs.create(f"name{i}", f"new {i}" * 9, dtype=TEXT)
    found = read(path)
    assert found == by_h5py(path)
    assert found["name6"].startswith("new 6new")
    assert "name3" not in found


def test_a_claim_of_gigabytes_among_many_attributes(tmp_path):
    """libhdf5 would allocate 4 GB and clear it, where its checksum is right."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for i in range(20):
            file.attrs.create(f"name{i}", "x" * (1000 + i), dtype=TEXT)
        root = hdf5.address(file["/"])
    raw = path.read_bytes()
    place = raw.index(struct.pack("<IQ", 1007, raw.index(b"GCOL")))
    content = Content(memoryview(raw[:place] + b"\xff\xff\xff\xf0" + raw[place + 4 :]))
    with pytest.raises(WeightsError, match="claims 4043309055 characters"):
        content.texts(content.attribute(root, "name7")[:16])
    assert content.texts(content.attribute(root, "name8")[:16]) == [b"x" * 1008]


def test_many_texts_at_one_place(tmp_path):
    """4,000 of 60 kB, kept once, would be 240 MB."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.attrs.create("long", ["y" * 60_000] + [""] * 3999, dtype=TEXT)
    raw = bytearray(path.read_bytes())
    place = raw.index((60_000).to_bytes(4, "little"))
    for i in range(1, 4000):
        raw[place + 16 * i : place + 16 * i + 16] = raw[place : place + 16]
    path.write_bytes(raw)
    with pytest.raises(WeightsError, match="claims 240000000 characters"):
        read(path)


def test_a_text_read_again_and_again(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.attrs.create("long", "y" * 60_000, dtype=TEXT)
    with hdf5.open_hdf5(map_plain(path)[0]) as (file, source):
        assert [len(hdf5.text(source, file, "long")[0]) for _ in range(40)] == [60_000] * 40


def test_attributes_that_are_empty(tmp_path):
    path = tmp_path / "file.h5"
    with h5py.File(path, "w") as file:
        file.attrs["nothing"] = h5py.Empty("f4")
        file.attrs["no text"] = h5py.Empty(TEXT)
        file.attrs["no numbers"] = np.zeros((0, 3), "f4")
    found = read(path)
    assert (found["nothing"].shape, found["no text"], found["no numbers"].shape) == ((0,), [], (0, 3))


def test_a_heap_that_holds_itself(tmp_path):
    """Blocks under blocks without end: each way through them is taken once."""
    path = tmp_path / "file.h5"
    with h5py.File(path, "w", libver="latest") as file:
        for i in range(1500):
            file.attrs.create(f"name{i}", f"text {i}", dtype=TEXT)
        root = hdf5.address(file["/"])
    raw = bytearray(path.read_bytes())
    header, block = raw.index(b"FRHP"), raw.index(b"FHIB")
    expected = Content(memoryview(bytes(raw))).attribute(root, "name7")
    raw[header + 140 : header + 142] = struct.pack("<H", 60)  # rows
    end = block + 13 + 5 + 8 * 4 * 9  # of nine rows of four, blocks of what may lie in one piece
    raw[end : end + 8 * 4 * 51] = struct.pack("<Q", block) * (4 * 51)
    content = Content(memoryview(raw))
    assert expected is not None
    assert content.attribute(root, "name7")[:16] == expected[:16]


def test_texts_of_a_dataset(tmp_path):
    path = tmp_path / "file.h5"
    words = np.array([["a", "", "\u00e9\u4e2d"], ["bb" * 5000, "c", "d"]], object)
    with h5py.File(path, "w") as file:
        file.create_dataset("words", data=words, dtype=TEXT)
        file.create_dataset("none", data=np.empty(0, object), dtype=TEXT)
        file.create_dataset("wrong", data=[b"\xff\xfe"], dtype=h5py.string_dtype("ascii"))
    with hdf5.open_hdf5(map_plain(path)[0]) as (file, source):
        np.testing.assert_array_equal(hdf5.texts(source, file["words"]), words)
        for _ in range(40):  # as who takes one row after another of it
            np.testing.assert_array_equal(hdf5.texts(source, file["words"]), words)
        assert hdf5.texts(source, file["none"]).shape == (0,)
        with pytest.raises(WeightsError, match="'/wrong' isn't UTF-8"):
            hdf5.texts(source, file["wrong"])
