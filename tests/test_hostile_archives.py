"""Archives, pickles and safetensors that claim more than they hold: refused by their own size, before anything is made of them."""

import json
import pickle
import struct
import zipfile

import numpy as np
import pytest

import nplrp
from nplrp.errors import WeightsError
from tests.keras_files import FILES
from tests.torch_files import save, state_dict
from weights_tools import torch_file
from weights_tools.safetensors_file import read_safetensors
from weights_tools.torch_file import MAGIC, read_tensors

KERAS = FILES / "small32_k3.keras"


def archive(path, entries, compression=zipfile.ZIP_STORED):
    with zipfile.ZipFile(path, "w", compression) as file:
        for name, content in entries.items():
            file.writestr(name, content)
    return path


def entries(path):
    with zipfile.ZipFile(path) as file:
        return {name: file.read(name) for name in file.namelist()}


def refused(read, path, *words):
    with pytest.raises(WeightsError) as caught:
        read(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable() and len(message) < 700
    assert not message.count(": ;") and all(word in message for word in words), message


@pytest.mark.parametrize("compression", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_keras_archive_may_be_packed(tmp_path, compression):
    path = archive(tmp_path / "w.keras", entries(KERAS), compression)
    assert nplrp.load(path).content_hash == nplrp.load(KERAS).content_hash


def test_weights_that_would_unpack_to_a_gigabyte(tmp_path):
    inside = entries(KERAS) | {"model.weights.h5": bytes(1 << 28)}
    refused(nplrp.load, archive(tmp_path / "w.keras", inside, zipfile.ZIP_DEFLATED), "claims 268435456 bytes, at most")


def test_entries_that_claim_more_than_the_archive_has(tmp_path):
    content = bytearray(archive(tmp_path / "w.keras", entries(KERAS), zipfile.ZIP_DEFLATED).read_bytes())
    place = content.index(b"PK\1\2", content.index(b"PK\1\2") + 1)  # of config.json
    content[place + 20 : place + 24] = struct.pack("<I", 0xFFFFFFF0)
    (tmp_path / "w.keras").write_bytes(content)
    refused(nplrp.load, tmp_path / "w.keras", "claims 4294967280 bytes of its")


def in_a_checkpoint(path, pickled):
    return archive(path, {"archive/data.pkl": pickled, "archive/data/0": bytes(4)})


COLLIDING = b"\x80\x02}(" + b"".join(pickle.dumps(k * (2**61 - 1), 2)[2:-1] + b"N" for k in range(9, 3000)) + b"u."


@pytest.mark.parametrize(
    ("pickled", "words"),
    [
        (b"\x80\x02Nr\xff\xff\xff\x3f.", ["none that torch.save writes"]),  # remembered under 2^30: 16 GB
        (b"\x80\x02Np99999999\n.", ["none that torch.save writes"]),
        (COLLIDING, ["none that torch.save writes"]),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"abc.", ["expected 1099511627776 bytes"]),
        (b"\x80\x05\x96" + struct.pack("<Q", 1 << 33) + b"abc.", ["expected 8589934592 bytes"]),
        (b"\x80\x02N", ["can't be read as a PyTorch checkpoint"]),
        (b"\x80\x02)" + b"2\x86" * 60 + b".", ["found a tuple"]),  # each pair holds the one before twice
    ],
)
def test_pickles_that_take_memory_or_time_for_nothing(tmp_path, pickled, words):
    refused(read_tensors, in_a_checkpoint(tmp_path / "w.pth", pickled), *words)
    legacy = pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    (tmp_path / "w.pt").write_bytes(legacy + pickled)
    refused(read_tensors, tmp_path / "w.pt", *words)


def test_large_numbers_and_many_names_of_a_training_script_do_no_harm(tmp_path):
    tensors = state_dict("squeezenet1_1")
    save(tmp_path / "w.pth", tensors)
    inside = entries(tmp_path / "w.pth")
    (name,) = (each for each in inside if each.endswith("data.pkl"))
    beside = b"X\x01\x00\x00\x00u" + pickle.dumps([2**100, 3**70], 2)[2:-1]
    inside[name] = b"\x80\x02}(" + beside + b"X\x05\x00\x00\x00model" + inside[name][2:-1] + b"u."
    found = read_tensors(archive(tmp_path / "v.pth", inside))
    assert all(np.array_equal(found[key], value) for key, value in tensors.items())


@pytest.mark.parametrize(
    ("name", "content"),
    [("data.pkl", b"\x80\x02" + b"N0" * (40 << 20) + b"N."), ("byteorder", b" " * (1 << 28)), ("data/0", bytes(1 << 29))],
)
def test_checkpoints_that_would_unpack_to_much(tmp_path, name, content):
    save(tmp_path / "w.pth", state_dict("squeezenet1_1"))
    inside = entries(tmp_path / "w.pth")
    (folder,) = (each.removesuffix("data.pkl") for each in inside if each.endswith("data.pkl"))
    refused(read_tensors, archive(tmp_path / "v.pth", inside | {folder + name: content}, zipfile.ZIP_DEFLATED), "in the archive claims")


def test_an_older_checkpoint_that_claims_more_numbers_than_there_are(tmp_path):
    tensor = (
        b"ctorch._utils\n_rebuild_tensor_v2\n((X\7\0\0\0storagectorch\nFloatStorage\nX\1\0\0\x000X\3\0\0\0cpuK\1tQK\0K\1\x85K\1\x85\x89NtR"
    )
    head = pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    head += b"\x80\x02}X\1\0\0\0a" + tensor + b"s." + pickle.dumps(["0"], 2)
    path = tmp_path / "w.pt"
    path.write_bytes(head + struct.pack("<qf", 1, 0.5))
    assert read_tensors(path)["a"].tolist() == [0.5]
    for count in (-1, 2, 1 << 32, 1 << 62):
        path.write_bytes(head + struct.pack("<qf", count, 0.5))
        refused(read_tensors, path, "ends in the middle of a tensor")
    path.write_bytes(pickle.dumps(MAGIC, 2) + pickle.dumps(1001, 2) + pickle.dumps([1], 2))
    refused(read_tensors, path, "not one of torch.save's")


def safetensors(path, header, data=bytes(8)):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)
    return path


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}
ROW = json.dumps(ONE).encode()


@pytest.mark.parametrize(
    ("header", "words"),
    [
        ({"a": ONE, "b": ONE}, ["'a' and 'b' lie on each other"]),
        ({"a": ONE, "b": ONE | {"dtype": "BF16", "data_offsets": [3, 5]}}, ["'a' and 'b' lie on each other"]),
        (b'{"a":%s,"a":%s}' % (ROW, ROW), ["a name twice"]),
        (b"[]", ["its header is a list"]),
        ({"a": "x"}, ["'a' has no dtype"]),
        ({"a": ONE | {"dtype": ["F32"]}}, ["has type ['F32']"]),
        ({"a": ONE | {"shape": [10**4000]}}, ["'a' of shape"]),
        ({"a": ONE | {"shape": [True], "data_offsets": [False, 4]}}, ["expected whole numbers"]),
        ({"a": ONE | {"data_offsets": [0, 4, 4]}}, ["expected whole numbers"]),
        ({"a": ONE | {"data_offsets": [8, 12]}}, ["the file was cut off"]),
    ],
)
def test_safetensors_that_are_none(tmp_path, header, words):
    refused(read_safetensors, safetensors(tmp_path / "w.safetensors", header), *words)


def test_tensors_of_nothing_and_holes_between_tensors_are_read(tmp_path):
    nothing = ONE | {"shape": [0, 3], "data_offsets": [4, 4]}
    header = {"a": ONE | {"data_offsets": [4, 8]}, "b": nothing}
    found = read_safetensors(safetensors(tmp_path / "w.safetensors", header, struct.pack("<2f", 1, 2)))
    assert found["a"].tolist() == [2]
    assert found["b"].shape == (0, 3)


def test_many_tensors_of_no_network(tmp_path, capsys):
    from weights_tools.__main__ import main

    header = {f"a{i}": ONE | {"data_offsets": [4 * i, 4 * i + 4]} for i in range(20_000)}
    path = safetensors(tmp_path / "w.safetensors", header, bytes(80_000))
    assert main(["from-pytorch", str(path), str(tmp_path / "o.h5")]) == 2
    assert "has 20000 tensors" in capsys.readouterr().err


def test_a_checkpoint_with_more_numbers_beside_the_weights_than_are_read(tmp_path, monkeypatch):
    path = tmp_path / "w.pth"
    save(path, {"a": np.ones(3, np.float32)}, lambda tensors: {"losses": [float(i) for i in range(500)], "state_dict": tensors})
    assert read_tensors(path)["a"].tolist() == [1, 1, 1]
    monkeypatch.setattr(torch_file, "_STEPS", 400)
    refused(read_tensors, path, "more than 400 steps", "millions of numbers beside the weights", "save model.state_dict() alone")
