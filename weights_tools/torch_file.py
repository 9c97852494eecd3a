"""Read the tensors of a PyTorch checkpoint without PyTorch, and without running what a pickle may tell to run.

Both formats of `torch.save` are read: the zip archive (PyTorch 1.6 on) and the older stream of pickles, in which torchvision's VGGs are
still distributed. The unpickler knows tensors, storages and ordered dictionaries. For everything else that a pickle names it puts a
stand-in that does nothing: a training script may keep what it likes beside the weights.
"""

from __future__ import annotations

import io
import logging
import math
import os
import pickle
import pickletools
import struct
import zipfile
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from nplrp.errors import WeightsError, brief, brief_reason
from nplrp.files.plain import open_plain
from nplrp.files.zipped import RATIO, SMALL, unpacked

_logger = logging.getLogger(__name__)

#: First number of the older format.
MAGIC = 0x1950A86A20F9469CFC6C
DTYPES = {
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "DoubleStorage": "<f8",
    "BFloat16Storage": "<u2",  # the upper half of a float32
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "|b1",
}
#: Steps of one pickle (a network has some ten thousand), and numbers of more than 64 bits in it.
_STEPS, _LARGE = 5_000_000, 1000
#: Where training scripts keep the state dict, from the outside in.
KEYS = ("state_dict", "model_state_dict", "model_state", "model", "net", "network", "weights")


@dataclass(frozen=True)
class _Type:
    """A type of storage."""

    dtype: np.dtype
    bfloat16: bool


@dataclass(frozen=True)
class _Storage:
    """A flat array in the file; in the older format its bytes come behind the pickles."""

    key: str
    dtype: np.dtype
    bfloat16: bool = False

    def values(self, data: bytes) -> np.ndarray:
        """Return the numbers that bytes are."""
        found = np.frombuffer(data, self.dtype)
        return (found.astype("<u4") << 16).view("<f4") if self.bfloat16 else found


@dataclass(frozen=True)
class _Tensor:
    """A window on a storage, in elements."""

    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    stride: tuple[int, ...]

    def array(self, values: np.ndarray, name: str) -> np.ndarray:
        last = self.offset + sum((n - 1) * step for n, step in zip(self.shape, self.stride, strict=True))
        fits = len(self.shape) == len(self.stride) and min((self.offset, *self.shape, *self.stride), default=0) >= 0
        if not fits or (0 not in self.shape and last >= values.size):
            raise WeightsError(
                f"tensor {brief(name)} (shape {brief(self.shape)}, stride {brief(self.stride)}) lies "
                f"outside its storage of {values.size}: the file is damaged"
            )
        if math.prod(self.shape) > values.size:
            raise WeightsError(
                f"tensor {brief(name)} (shape {brief(self.shape)}, stride {brief(self.stride)}) has more numbers "
                f"than the {values.size} stored for it; save it with .contiguous()"
            )
        steps = [step * values.itemsize for step in self.stride]
        return np.lib.stride_tricks.as_strided(values[self.offset :], self.shape, steps, writeable=False)


def read_tensors(path: str | os.PathLike[str]) -> Mapping[str, np.ndarray]:
    """Read a checkpoint that is a state dict, alone or inside others under one of `KEYS`.

    Raises
    ------
    WeightsError
        If the file is missing, damaged, holds anything but tensors and plain values, or no state dict.
    """
    path = Path(path)
    try:
        with open_plain(path) as file:
            start = file.read(4)
            file.seek(0)
            if start[:2] == b"PK":
                return _read_zip(file)
            if start[:1] == b"\x80":
                return _read_stream(file)
    except FileNotFoundError:
        raise WeightsError(f"{path}: there is no such file, expected a PyTorch checkpoint") from None
    except WeightsError as error:
        raise WeightsError(f"{path}: {error}") from None
    # A damaged pickle can fail in as many ways as there are Python errors; it can't do more than fail.
    except Exception as error:
        reason = brief_reason(error)
        raise WeightsError(f"{path}: can't be read as a PyTorch checkpoint: {reason}; save the state dict again with torch.save") from error
    raise WeightsError(f"{path}: starts with {start!r}, which is no PyTorch checkpoint; expected what torch.save or safetensors writes")


def _read_zip(file: IO[bytes]) -> dict[str, np.ndarray]:
    size = file.seek(0, io.SEEK_END)
    with zipfile.ZipFile(file) as archive:
        names = archive.namelist()
        pickled = [name for name in names if name.endswith("/data.pkl")]
        if len(pickled) != 1:
            raise WeightsError("the zip archive holds no data.pkl, so torch.save didn't write it; expected a state dict")
        folder = pickled[0].removesuffix("data.pkl")
        order = unpacked(archive, archive.getinfo(f"{folder}byteorder"), size, 100) if f"{folder}byteorder" in names else b"little"
        if order.strip() != b"little":
            raise WeightsError("it was saved on a big-endian machine; save it again on a little-endian one")
        tensors = _state_dict(_Unpickler(io.BytesIO(unpacked(archive, archive.getinfo(pickled[0]), size, SMALL))).load_checked())
        kept, total = dict[str, np.ndarray](), 0
        for tensor in tensors.values():
            storage = tensor.storage
            if storage.key not in kept:
                kept[storage.key] = storage.values(unpacked(archive, archive.getinfo(f"{folder}data/{storage.key}"), size))
                total += kept[storage.key].nbytes
                if total > SMALL + RATIO * size:
                    raise WeightsError(f"its tensors take {total} bytes and more, the archive has {size}: it is damaged; download it again")
    return {name: tensor.array(kept[tensor.storage.key], name) for name, tensor in tensors.items()}


def _read_stream(file: IO[bytes]) -> dict[str, np.ndarray]:
    if _Unpickler(file).load_checked() != MAGIC:
        raise WeightsError("it is a pickle, but not one of torch.save's; expected a state dict")
    _Unpickler(file).load_checked()  # protocol version
    system = _Unpickler(file).load_checked()
    if not isinstance(system, dict):
        raise WeightsError("it is a pickle, but not one of torch.save's; expected a state dict")
    if not system.get("little_endian", True):
        raise WeightsError("it was saved on a big-endian machine; save it again on a little-endian one")
    unpickler = _Unpickler(file)
    tensors = _state_dict(unpickler.load_checked())
    kept: dict[str, np.ndarray] = {}
    keys = _Unpickler(file).load_checked()
    place = file.tell()
    left = file.seek(0, io.SEEK_END) - place
    file.seek(place)
    for key in keys:
        (count,) = struct.unpack("<q", file.read(8))
        if key not in unpickler.storages:
            raise WeightsError("it holds tensors that nothing refers to; it is damaged: save model.state_dict() again")
        storage = unpickler.storages[key]
        if not 0 <= count * storage.dtype.itemsize <= left:
            raise WeightsError("it ends in the middle of a tensor: the file was cut off; copy or download it again")
        data = file.read(count * storage.dtype.itemsize)
        if len(data) < count * storage.dtype.itemsize:
            raise WeightsError("it ends in the middle of a tensor: the file was cut off; copy or download it again")
        kept[key] = storage.values(data)
    return {name: tensor.array(kept[tensor.storage.key], name) for name, tensor in tensors.items()}


def _state_dict(value: Any) -> dict[str, _Tensor]:
    """Find the state dict in what was unpickled: what else a training script keeps beside it is passed over."""
    for _ in KEYS:
        inner = next((value[key] for key in KEYS if isinstance(value.get(key), dict)), None) if isinstance(value, dict) else None
        if inner is None and isinstance(value, dict):
            inner = _only_one(value)
        if inner is None:
            break
        value = inner
    tensors = {name: item for name, item in value.items() if isinstance(item, _Tensor)} if isinstance(value, dict) else {}
    odd = [name for name, item in value.items() if isinstance(item, dict | list | tuple)] if tensors else []
    strange, whole = _strange(value)
    if whole:
        what = "a TorchScript program" if strange.startswith("__torch__.") else f"a whole {strange}"
        raise WeightsError(
            f"it holds {what} instead of weights, which isn't read: it may run code; save only the weights: torch.save(model.state_dict(), "
            "path), or export the model to ONNX and use from-onnx"
        )
    if strange:
        raise WeightsError(
            f"it holds a {strange}, which isn't read: it may run code, or its values have an unknown type (known are "
            f"{', '.join(sorted(DTYPES))}); save only the weights: torch.save(model.float().state_dict(), path)"
        )
    if not tensors or odd or not all(isinstance(name, str) for name in tensors):
        found = "a tensor" if isinstance(value, _Tensor) else f"a {type(value).__name__}"
        found += f" of {', '.join(map(repr, list(value)[:6]))}" if isinstance(value, dict) and value else ""
        raise WeightsError(f"expected a state dict, names with tensors, found {found}; save it with torch.save(model.state_dict(), path)")
    return tensors


def _only_one(value: Mapping[Any, Any]) -> dict[Any, Any] | None:
    """Return the only state dict under any key, which is logged; None if there is none."""
    if any(isinstance(item, _Tensor) for item in value.values()):
        return None
    dicts = {key: item for key, item in value.items() if isinstance(item, dict)}
    found = {key: item for key, item in dicts.items() if any(isinstance(each, _Tensor) for each in item.values())}
    if len(found) > 1:
        names = ", ".join(map(repr, list(found)[:6]))
        raise WeightsError(
            f"it holds {len(found)} state dicts, under {names}; save the one that is meant: torch.save(checkpoint[key], path)"
        )
    for key, item in found.items():
        _logger.info("the state dict is the one under %r", key)
        return item
    return None


def _strange(value: Any) -> tuple[str, bool]:
    """Return the name of what isn't read and stands where weights should be, "" if nothing does; and whether it stands for all of them."""
    if isinstance(value, _StandIn):
        return value.origin, True
    items = value if isinstance(value, dict) else {}
    models = [items[key].origin for key in KEYS if isinstance(items.get(key), _StandIn)]
    if models:
        return models[0], True
    found = [item.origin for item in items.values() if isinstance(item, _StandIn)]
    tensors = any(isinstance(item, _Tensor) for item in items.values())
    return found[0] if found and (tensors or len(found) == len(items)) else "", False


class _StandIn:
    """Takes whatever a pickle does with an object that isn't read."""

    origin = ""

    def __new__(cls, *_: Any, **__: Any) -> _StandIn:
        return object.__new__(cls)

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __call__(self, *_: Any, **__: Any) -> _StandIn:
        return self

    def __setstate__(self, _: Any) -> None:
        pass

    def __setitem__(self, *_: Any) -> None:
        pass

    def append(self, _: Any) -> None:
        """Take an item."""

    def extend(self, _: Any) -> None:
        """Take items."""


def _rebuild_tensor(storage: Any, offset: int, shape: tuple[int, ...], stride: tuple[int, ...], *_: Any) -> Any:
    if isinstance(storage, _StandIn):  # of a type that isn't read
        return storage
    return _Tensor(storage, offset, tuple(shape), tuple(stride))


def _rebuild_parameter(tensor: Any, *_: Any) -> Any:
    return tensor


class _Bounded:
    """A file of which no more is asked for than there is: Python would get the memory first."""

    def __init__(self, file: IO[bytes]) -> None:
        place = file.tell()
        self._file, self._size, self.readline, self.tell = file, file.seek(0, io.SEEK_END), file.readline, file.tell
        file.seek(place)

    def read(self, count: int) -> bytes:
        return self._file.read(min(count, self._size - self._file.tell()))


class _Unpickler(pickle.Unpickler):
    """Knows what a state dict is made of; every other name becomes a stand-in, and nothing of it is imported.

    Attributes
    ----------
    storages : dict of str to _Storage
        All that were met.
    """

    def __init__(self, file: IO[bytes]) -> None:
        super().__init__(file)
        self._file = file
        self.storages: dict[str, _Storage] = {}

    def load_checked(self) -> Any:
        """Look through the next pickle without making anything of it, then load it.

        Raises
        ------
        WeightsError
            If it would take memory or time for nothing: CPython's unpickler makes a list as long as the largest number that anything is
            remembered under, and numbers chosen for it make a dictionary as slow as a list.
        """
        place, large = self._file.tell(), 0
        steps: Any = pickletools.genops(_Bounded(self._file))  # type: ignore[arg-type]
        for count, (opcode, value, _) in enumerate(steps):
            large += isinstance(value, int) and abs(value) >> 64 > 0
            puts = opcode.name in ("PUT", "BINPUT", "LONG_BINPUT")
            if count > _STEPS:
                raise WeightsError(
                    f"its pickle has more than {_STEPS} steps, as of millions of numbers beside the weights, or is damaged: save "
                    "model.state_dict() alone"
                )
            if large > _LARGE or (puts and not 0 <= value <= max(count, 255)):
                raise WeightsError("its pickle is none that torch.save writes, or is damaged: save model.state_dict() again")
        self._file.seek(place)
        return self.load()

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) == ("collections", "OrderedDict"):
            return OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return _rebuild_tensor
        if (module, name) == ("torch._utils", "_rebuild_parameter"):
            return _rebuild_parameter
        if module == "torch" and name in DTYPES:
            return _Type(np.dtype(DTYPES[name]), name == "BFloat16Storage")
        if module == "torch" and name == "Size":
            return tuple
        return type("_StandIn", (_StandIn,), {"origin": f"{module}.{name}"})

    def persistent_load(self, pid: Any) -> Any:
        kind, dtype, key, *rest = pid
        if kind == "storage" and isinstance(dtype, type) and issubclass(dtype, _StandIn):
            return dtype()
        if kind != "storage" or not isinstance(dtype, _Type) or (len(rest) == 3 and rest[2] is not None):
            raise WeightsError("it refers to something other than plain storages; save it with torch.save(model.state_dict(), path)")
        return self.storages.setdefault(str(key), _Storage(str(key), dtype.dtype, dtype.bfloat16))
