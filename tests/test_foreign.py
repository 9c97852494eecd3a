"""Files of other tools: each is named for what it is, in one line with the way out."""

import io
import json
import pickle
import tarfile
import zipfile

import h5py
import numpy as np
import pytest

from nplrp.errors import WeightsError
from nplrp.files.weights import load
from tests import torch_files
from tests.test_cli import run


def refused(path, *words):
    with pytest.raises(WeightsError) as caught:
        load(path)
    message = str(caught.value)
    assert message.startswith(f"{path}: ") and message.isprintable()
    for word in words:
        assert word in message
    return message


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("net.pth", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03.", ["PyTorch checkpoint", "nplrp import /"]),
        ("net.safetensors", (16).to_bytes(8, "little") + b'{"a":{"dtype":1}}', ["safetensors", "nplrp import /"]),
        ("renamed.h5", (16).to_bytes(8, "little") + b'{"a":{"dtype":1}}' + bytes(9), ["safetensors", "nplrp import /"]),
        ("net.onnx", b"\x08\x08\x12\x07pytorch", ["ONNX", "nplrp import /"]),
        ("renamed.h5", b"\x08\x08\x12\x07pytorch", ["ONNX"]),
        ("net.tflite", b"\x1c\x00\x00\x00TFL3", ["TensorFlow Lite", "tf2onnx"]),
        ("net.caffemodel", b"\x0a\x05VGG16", ["Caffe", "ONNX"]),
        ("net.prototxt", b'name: "VGG16"', ["Caffe"]),
        ("vgg.mat", b"MATLAB 5.0 MAT-file, Platform", ["MATLAB", "exportONNXNetwork"]),
        ("model.pkl", b"\x80\x04\x95\x00\x00\x00\x00\x00\x00\x00\x00\x8c\x1ajoblib.numpy_pickle", ["joblib", "Keras model"]),
        ("model.pkl", pickle.dumps({"a": 1}), ["pickle"]),
        ("w.npy", b"\x93NUMPY\x01\x00", ["NumPy array (.npy)"]),
        ("cp.ckpt.data-00000-of-00001", b"\x00" * 40, ["part of a TensorFlow checkpoint", "load_weights"]),
        ("cp.ckpt.index", b"\x00" * 40 + b"\x57\xfb\x80\x8b\x24\x75\x47\xdb", ["TensorFlow checkpoint"]),
        ("checkpoint", b'model_checkpoint_path: "cp.ckpt"', ["TensorFlow checkpoints"]),
        ("saved_model.pb", b"\x08\x01\x12\x80", ["graph of a SavedModel", "tf2onnx"]),
        ("yolo.weights", b"\x00\x00\x00\x00\x02\x00", ["Darknet"]),
        ("w.h5.gz", b"\x1f\x8b\x08", ["gzip", "unpack"]),
        ("llm.gguf", b"GGUF\x03", ["GGUF"]),
    ],
)
def test_files_are_named_for_what_they_are(tmp_path, name, content, words):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, "found ", *words)


def test_archives(tmp_path):
    torch_files.save(tmp_path / "net.pth", {"w": np.ones(3, "f4")})
    refused(tmp_path / "net.pth", "a PyTorch checkpoint", "nplrp import /")
    np.savez(tmp_path / "w.npz", a=np.ones(3))
    refused(tmp_path / "w.npz", "NumPy archive (.npz)", "set its arrays")
    with zipfile.ZipFile(tmp_path / "script.pt", "w") as archive:
        archive.writestr("net/data.pkl", "")
        archive.writestr("net/constants.pkl", "")
    refused(tmp_path / "script.pt", "TorchScript", "ONNX")
    with tarfile.open(tmp_path / "w.tar", "w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    refused(tmp_path / "w.tar", "a tar archive", "unpack")


def test_folders(tmp_path):
    for name, files, words in (
        ("saved", ["saved_model.pb"], ["SavedModel", "tf2onnx", "--saved-model /"]),
        ("training", ["cp.index", "cp.data-00000-of-00001"], ["folder of TensorFlow checkpoints", "load_weights"]),
        ("several", ["a.h5", "notes.txt"], ["a directory", "perhaps a.h5"]),
    ):
        (tmp_path / name).mkdir()
        for file in files:
            (tmp_path / name / file).write_bytes(b"")
        refused(tmp_path / name, *words)


def test_json(tmp_path):
    (tmp_path / "model.json").write_text(json.dumps({"class_name": "Sequential", "config": []}))
    refused(tmp_path / "model.json", "a model's configuration without weights", "--config")
    (tmp_path / "tfjs.json").write_text(json.dumps({"modelTopology": {}, "weightsManifest": []}))
    refused(tmp_path / "tfjs.json", "TensorFlow.js", "tensorflowjs_converter")


def test_hdf5_of_matlab_and_of_plain_arrays(tmp_path):
    with h5py.File(tmp_path / "net.mat", "w", userblock_size=512) as file:
        file["weights"] = np.ones(3)
    with (tmp_path / "net.mat").open("r+b") as raw:
        raw.write(b"MATLAB 7.3 MAT-file, Platform: GLNXA64")
    refused(tmp_path / "net.mat", "MATLAB 7.3", "exportONNXNetwork")
    with h5py.File(tmp_path / "arrays.h5", "w") as file:
        file["w1"] = np.ones(3)
    refused(tmp_path / "arrays.h5", "found 'w1'", "arrays alone don't tell a network")


@pytest.mark.parametrize("command", ["info", "plan"])
def test_commands_point_to_import(tmp_path, capsys, command):
    torch_files.save(tmp_path / "net.pth", {"w": np.ones(3, "f4")})
    code, out, err = run(capsys, command, tmp_path / "net.pth")
    assert (code, out) == (2, "") and err.count("\n") == 1 and f"nplrp import {tmp_path / 'net.pth'}" in err
