"""Files of other tools: each named for what it is, with the way from it to something that is read here.

A file is known by its first bytes, an archive by its entries, a folder by what lies in it; only where these say nothing, by its name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from pathlib import Path

_IMPORT = "convert it with 'nplrp import {name}', then load what that writes"
_EXPORT = "export the model to ONNX, and convert that with 'nplrp import model.onnx'"
_TF2ONNX = "convert it with tf2onnx (python -m tf2onnx.convert"
_THEN = "{name} --output model.onnx), and that with 'nplrp import model.onnx'"
_CHECKPOINT = "build the model in Keras, call model.load_weights(), and save it with model.save('model.h5')"
_UNPACK = "unpack it, and load what is in it"
_DOWNLOAD = "download or copy the file itself"
_OTHER = "give the file of weights"

#: (first bytes, where they stand, what it is, the way out); the first that fits.
_STARTS: tuple[tuple[bytes, int, str, str], ...] = (
    (b"\x89PNG", 0, "a PNG image", _OTHER),
    (b"\xff\xd8\xff", 0, "a JPEG image", _OTHER),
    (b"GIF8", 0, "a GIF image", _OTHER),
    (b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.", 0, "a PyTorch checkpoint of the old format", _IMPORT),
    (b"\x93NUMPY", 0, "a NumPy array (.npy)", "set it as weights of a model in Keras, and save that with model.save('model.h5')"),
    (b"MATLAB 5.0 MAT-file", 0, "a MATLAB file (.mat)", "export the network in MATLAB with exportONNXNetwork, and use 'nplrp import'"),
    (
        b"TFL3",
        4,
        "a TensorFlow Lite model",
        f"use the Keras model that it was made from, or {_TF2ONNX} --tflite {_THEN}",
    ),
    (b"GGUF", 0, "a GGUF file of a language model", "only image networks are explained"),
    (b"\x1f\x8b", 0, "a gzip file", _UNPACK),
    (b"BZh", 0, "a bzip2 file", _UNPACK),
    (b"\xfd7zXZ", 0, "an xz file", _UNPACK),
    (b"\x28\xb5\x2f\xfd", 0, "a zstd file", _UNPACK),
    (b"7z\xbc\xaf", 0, "a 7-Zip archive", _UNPACK),
    (b"Rar!", 0, "a RAR archive", _UNPACK),
    (b"ustar", 257, "a tar archive", _UNPACK),
    (b"model_checkpoint_path:", 0, "the index of TensorFlow checkpoints", _CHECKPOINT),
    (b"<", 0, "a web page, perhaps a failed download", _DOWNLOAD),
    (b"version https://git-lfs", 0, "a Git LFS pointer, not the file itself", "fetch it with git lfs pull"),
)
#: (pattern of the name, what it is, the way out): files whose bytes say little.
_NAMES: tuple[tuple[str, str, str], ...] = (
    (r"\.onnx$", "an ONNX model", _IMPORT),
    (r"\.safetensors$", "a safetensors file", _IMPORT),
    (
        r"\.(data-\d{5}-of-\d{5}|index|meta)$",
        "a part of a TensorFlow checkpoint",
        _CHECKPOINT,
    ),
    (r"\.ckpt$", "a checkpoint of TensorFlow or PyTorch", "load it where it was made, and save it with Keras, or export it to ONNX"),
    (r"\.caffemodel$", "a Caffe model", _EXPORT),
    (r"\.prototxt$", "Caffe's description of a network", _EXPORT),
    (
        r"^saved_model\.pb$",
        "the graph of a SavedModel of TensorFlow",
        f"{_TF2ONNX} --saved-model FOLDER --output model.onnx), then 'nplrp import'",
    ),
    (r"\.pb$", "a graph of TensorFlow", f"{_TF2ONNX} --graphdef {_THEN}"),
    (r"\.(weights|cfg)$", "a Darknet file", _EXPORT),
    (r"\.mlmodel$", "a Core ML model", f"use the model that it was made from: {_EXPORT}"),
    (r"\.(params|pdparams|pdmodel)$", "weights of MXNet or PaddlePaddle", _EXPORT),
    (r"\.py$", "a Python program", "run it, and save its model with model.save('model.h5')"),
)


def name_of(path: Path, data: memoryview) -> tuple[str, str] | None:
    """Return what a file is that Keras hasn't written, and what to do; None if nothing is known of it."""
    start = bytes(data[:600])
    found = next(((what, way) for magic, at, what, way in _STARTS if start[at : at + len(magic)] == magic), None)
    if found is None and start[:1] == b"\x80":
        found = _pickle(start)
    if found is None and start[8:10] == b'{"' and 2 <= int.from_bytes(start[:8], "little") <= len(data):
        found = "a safetensors file", _IMPORT
    if found is None and bytes(data[-8:]) == b"\x57\xfb\x80\x8b\x24\x75\x47\xdb":
        found = "the index of a TensorFlow checkpoint", _CHECKPOINT
    if found is None:
        found = next(((what, way) for pattern, what, way in _NAMES if re.search(pattern, path.name.lower())), None)
    if found is None and start[:1] == b"\x08" and start[1:2] < b"\x20" and start[2:3] in (b"\x12", b"\x1a", b"\x22", b"\x3a", b"\x42"):
        found = "an ONNX model", _IMPORT
    return None if found is None else (found[0], found[1].format(name=shlex.quote(str(path))))


def _pickle(start: bytes) -> tuple[str, str]:
    if b"joblib" in start or b"sklearn" in start:
        return "a pickle of joblib or scikit-learn", "only networks are explained: save the Keras model in it with model.save('model.h5')"
    if b"torch" in start:
        return "a Python pickle or PyTorch file", "save model.state_dict() with torch.save, and convert that with 'nplrp import'"
    return (
        "a Python pickle or PyTorch file",
        "load it where it was made, and save the model in it with model.save('model.h5') or torch.save",
    )


def archive_of(path: Path, names: Sequence[str]) -> tuple[str, str] | None:
    """Return what a zip archive is that isn't Keras's, and what to do; None if nothing is known of it."""
    ends = {name.rpartition("/")[2] for name in names}
    if "data.pkl" in ends and "constants.pkl" in ends:
        found = "a TorchScript program", "save the model's state_dict() with torch.save, or " + _EXPORT
    elif "data.pkl" in ends:
        found = "a PyTorch checkpoint", _IMPORT
    elif names and all(name.endswith(".npy") for name in names):
        found = "a NumPy archive (.npz)", "set its arrays as weights of a model in Keras, and save that with model.save('model.h5')"
    elif "saved_model.pb" in ends:
        found = "a packed SavedModel of TensorFlow", "unpack it; " + _folder_way("it")
    else:
        return None
    return found[0], found[1].format(name=shlex.quote(str(path)))


def folder_of(path: Path) -> tuple[str, str]:
    """Return what a folder is, and what to do."""
    names = {each.name for each in path.iterdir()} if path.is_dir() else set()
    if "saved_model.pb" in names:
        return "a SavedModel of TensorFlow", _folder_way(shlex.quote(str(path)))
    if any(re.search(r"\.index$", name) for name in names):
        return (
            "a folder of TensorFlow checkpoints",
            _CHECKPOINT,
        )
    if "Manifest.json" in names:
        return "a Core ML package", f"use the model that it was made from: {_EXPORT}"
    files = sorted(name for name in names if name.endswith((".h5", ".keras", ".weights.json", ".pth", ".pt", ".onnx", ".safetensors")))
    hint = f": perhaps {', '.join(files[:3])}" if files else ""
    return "a directory", f"give a file{hint}; of a SavedModel, export it with model.save('model.h5')"


def _folder_way(name: str) -> str:
    then = _THEN.format(name=name)
    return f"load it in Keras 2 (tf_keras.models.load_model), and save it with model.save('model.h5'), or {_TF2ONNX} --saved-model {then}"


def json_of(value: object) -> tuple[str, str] | None:
    """Return what JSON is that is no index of shards, and what to do; None if nothing is known of it."""
    if not isinstance(value, dict):
        return None
    if "modelTopology" in value:
        return "a model of TensorFlow.js", "convert it with tensorflowjs_converter --input_format=tfjs_layers_model --output_format=keras"
    if "class_name" in value and "config" in value:
        return "a model's configuration without weights", "give the file of weights, and this one with --config (config=...)"
    return None
