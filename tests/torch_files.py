"""State dicts of torchvision's networks, an eighth as wide, and what torch computes with them: files made without torch.

Names and shapes are recorded (data/torch_files/torchvision.json.xz, by tests/peers/record_torchvision.py); weights and the image follow
from a rule, so the data hold no weights.
"""

import io
import json
import lzma
import math
import pickle
import zipfile
import zlib
from collections import OrderedDict
from functools import lru_cache
from pathlib import Path

import numpy as np

DATA = Path(__file__).parent / "data" / "torch_files"
NAMES = {"<f4": "FloatStorage", "<f2": "HalfStorage", "<f8": "DoubleStorage", "<i8": "LongStorage"}


def values(name, shape):
    """Return a tensor of a network: weights that keep the size of activations, statistics of batch norms that aren't 0 and 1."""
    rng = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode())))
    kind = name.rpartition(".")[2]
    if kind == "num_batches_tracked":
        return np.array(7)
    if kind in ("running_var", "weight") and len(shape) == 1:
        return (0.6 + 0.8 * rng.random(shape)).astype("f4")
    spread = math.sqrt(6 / math.prod(shape[1:])) if len(shape) > 1 else 0.3
    return (spread * (2 * rng.random(shape) - 1)).astype("f4")


def image(side, name):
    """Return what a network is computed on, [1, H, W, 3]; AlexNet's dense layers want a square."""
    return values("image", (1, side, side + 8 * (name != "alexnet"), 3)) / np.float32(0.15)


@lru_cache(1)
def recorded():
    """Return by architecture: the side of its image, names and shapes of its tensors in order, and the logits."""
    return json.loads(lzma.decompress((DATA / "torchvision.json.xz").read_bytes()))


def state_dict(name):
    """Return a network's tensors."""
    return {key: values(key, tuple(shape)) for key, shape in recorded()[name]["tensors"]}


class _Name:
    """A class or function that a pickle names, but that isn't here."""

    def __init__(self, module, name):
        self.text = f"c{module}\n{name}\n".encode()

    def __call__(self):  # what a pickle calls must be callable
        raise NotImplementedError


class _Tensor:
    """A tensor, pickled as torch does it."""

    def __init__(self, array):
        self.array = array


class _Pickler(pickle._Pickler):
    """Writes tensors as calls, and their storages as references to the archive's other files."""

    def __init__(self, file):
        super().__init__(file, 2)
        self.arrays = []

    def save(self, value, save_persistent_id=True):
        if isinstance(value, _Name):
            self.write(value.text)
        elif isinstance(value, _Tensor):
            strides = tuple(step // value.array.itemsize for step in value.array.strides)
            arguments = (value.array, 0, value.array.shape, strides, False, OrderedDict())
            self.save_reduce(_Name("torch._utils", "_rebuild_tensor_v2"), arguments)
        elif isinstance(value, np.ndarray):
            self.save(("storage", _Name("torch", NAMES[value.dtype.str]), str(len(self.arrays)), "cpu", value.size))
            self.write(pickle.BINPERSID)
            self.arrays.append(value)
        else:
            super().save(value, save_persistent_id)


def save(path, tensors, wrap=lambda tensors: tensors):
    """Write what torch.save writes; `wrap` puts the state dict into something."""
    file = io.BytesIO()
    pickler = _Pickler(file)
    pickler.dump(wrap({name: _Tensor(np.ascontiguousarray(array)) for name, array in tensors.items()}))
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", file.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, array in enumerate(pickler.arrays):
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return path
