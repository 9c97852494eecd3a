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


def trees(path, libver):
    """Write a file whose trees have several levels; return its bytes."""
    with h5py.File(path, "w", libver=libver) as file:
        links, holder = (file.create_group(name, track_order=libver == "latest") for name in ("links", "holder"))
        for i in range(20_000 if libver == "latest" else 400):
            links[f"n{i}"] = h5py.SoftLink("/nowhere")
        file.create_dataset("chunks", data=np.arange(160_000.0).reshape(400, 400), chunks=(4, 4), maxshape=(None, None))
        for i in range(20_000 if libver == "latest" else 10):
            holder.attrs[f"a{i}"] = i
    return bytearray(path.read_bytes())


def everything(path):
    with hdf5.open_hdf5(map_plain(path)[0]) as (file, source):
        links, holder = (hdf5.child(source, file, name) for name in ("links", "holder"))
        chunks = hdf5.numbers(source, hdf5.child(source, file, "chunks"))
        return len(hdf5.members(source, links)), len(hdf5.attributes(source, holder)), chunks.sum()


def old_tree(raw, kind):
    """Return where the highest node of a version 1 tree is, and where its pointers are: 0 for members, 1 for chunks."""
    found = [at for at in range(len(raw)) if raw[at : at + 4] == b"TREE" and raw[at + 4] == kind and raw[at + 5]]
    key, (count,) = (8, 32)[kind], struct.unpack_from("<H", raw, found[0] + 6)
    return found[0], [found[0] + 24 + key + i * (key + 8) for i in range(count)]


@pytest.mark.parametrize("libver", ["earliest", "v108", "v110", "latest"])
def test_trees_of_many_levels_are_read(libver, tmp_path):
    trees(tmp_path / "file.h5", libver)
    many = libver == "latest"
    assert everything(tmp_path / "file.h5") == (20_000 if many else 400, 20_000 if many else 10, np.arange(160_000.0).sum())


@pytest.mark.parametrize("level", [1, 200])
@pytest.mark.parametrize("kind", [0, 1], ids=["members", "chunks"])
def test_an_old_tree_that_leads_back(kind, level, tmp_path):
    """libhdf5 goes down it until its stack ends."""
    raw = trees(tmp_path / "file.h5", "earliest")
    at, pointers = old_tree(raw, kind)
    raw[at + 5] = level
    for place in pointers:
        raw[place : place + 8] = struct.pack("<Q", at)
    (tmp_path / "file.h5").write_bytes(raw)
    with pytest.raises(WeightsError, match=f"has a node of level {level} where one of level {level - 1} belongs"):
        everything(tmp_path / "file.h5")


@pytest.mark.parametrize("kind", [0, 1], ids=["members", "chunks"])
def test_an_old_tree_with_several_ways(kind, tmp_path):
    """Sixty levels with two ways from each to the next: libhdf5 would go them all."""
    raw = trees(tmp_path / "file.h5", "earliest")
    at, pointers = old_tree(raw, kind)
    node = bytes(raw[at : pointers[-1] + 40])
    leaf = raw.index(b"TREE" + bytes([kind, 0]))
    places = [at, *(len(raw) + i * len(node) for i in range(60))]
    for i, place in enumerate(places):
        if i:
            raw += node
        raw[place + 5] = 61 - i
        for pointer in pointers:
            raw[place + pointer - at : place + pointer - at + 8] = struct.pack("<Q", places[i + 1] if i < 60 else leaf)
    (tmp_path / "file.h5").write_bytes(raw)
    with pytest.raises(WeightsError, match=f"leads to its node at {places[-1]} twice"):
        everything(tmp_path / "file.h5")


@pytest.mark.parametrize("depth", [None, 60_000], ids=["as it was", "deep"])
@pytest.mark.parametrize("kind", [5, 6, 8, 9, 10], ids=["members", "members in order", "attributes", "attributes in order", "chunks"])
def test_a_newer_tree_that_leads_back(kind, depth, tmp_path):
    raw = trees(tmp_path / "file.h5", "latest")
    header = next(at for at in range(len(raw)) if raw[at : at + 4] == b"BTHD" and raw[at + 5] == kind)
    record, levels, root, count = struct.unpack_from("<HH2xQH", raw, header + 10)
    assert levels > 1
    place = root + 6 + count * record  # of the pointer to the first node below
    raw[place : place + 8] = struct.pack("<Q", root)
    struct.pack_into("<H", raw, header + 12, depth or levels)
    (tmp_path / "file.h5").write_bytes(raw)
    with pytest.raises(WeightsError, match="claims 60000 levels" if depth else "twice"):
        everything(tmp_path / "file.h5")


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
