"""Read HDF5 that may be damaged or hostile: text attributes, groups, and datasets as arrays mapped from the file.

libhdf5 trusts a file more than one should: flipped bytes can make it crash, loop or allocate without end. What it is
asked here is limited to what Keras writes, and is checked before it is asked. Errors carry no path; `nplrp.weights` adds it.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import h5py
import numpy as np

from nplrp.errors import WeightsError

#: Limits far above anything that Keras writes.
MAX_MEMBERS = 100_000
MAX_ATTRIBUTE = 1 << 20
#: Deflate packs at most 1032 : 1; a dataset that declares more than this is damaged or a trap.
MAX_COMPRESSION = 1100

_FLOATS = tuple(
    h5py.h5t.py_create(np.dtype(code)) for code in ("<f4", "<f2", "<f8", ">f2", ">f4", ">f8")
)  # the first can be mapped as it is
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError, OverflowError, SystemError)


@contextmanager
def open_hdf5(data: memoryview) -> Iterator[h5py.File]:
    """Open the HDF5 file that lies in `data`, and turn everything that libhdf5 complains of into `WeightsError`.

    Parameters
    ----------
    data : memoryview of bytes
        The whole file, usually memory-mapped; arrays made by `array` keep it alive after closing.

    Raises
    ------
    WeightsError
        If the file, or anything asked of it inside the `with` block, is damaged.
    """
    try:
        with h5py.File(Source(data), "r") as file:
            yield file
    except WeightsError:
        raise
    except _DAMAGE as error:
        raise WeightsError(f"the HDF5 structure is damaged ({error}); copy or download the file again") from error


def members(group: h5py.Group) -> list[str]:
    """Return the names in a group, in h5py's order."""
    names = list(itertools.islice(group, MAX_MEMBERS + 1))
    if len(names) > MAX_MEMBERS:
        raise WeightsError(f"group {group.name!r} has more than {MAX_MEMBERS} members: not a weight file")
    return names


def child(group: h5py.Group, path: str) -> h5py.Group | h5py.Dataset | None:
    """Return what a relative path leads to, or None; only hard links are followed.

    Raises
    ------
    WeightsError
        If a soft or external link lies on the way: it could lead in circles or to any file of the machine.
    """
    found: h5py.Group | h5py.Dataset = group
    for part in filter(None, path.split("/")):
        if not isinstance(found, h5py.Group) or part == "." or part not in found:
            return None
        if not isinstance(found.get(part, getlink=True), h5py.HardLink):
            raise WeightsError(
                f"{_join(found, part)!r} is a soft or external link, which isn't followed; save the weights into one plain file"
            )
        found = found[part]
    return found


def text(holder: h5py.Group, name: str) -> list[str] | None:
    """Return a text attribute as a list of strings (one for a scalar), or None if there is none.

    Bytes and str, fixed and variable length are alike. Keras splits what is longer than HDF5's 64 KB into ``name0``, ``name1``, ...
    An empty attribute may have any type: for a layer without weights Keras writes an empty float64 array.

    Raises
    ------
    WeightsError
        If it isn't UTF-8 text.
    """
    whole = _text(holder, name)
    if whole is not None:
        return whole
    parts = list(itertools.takewhile(lambda part: part is not None, (_text(holder, f"{name}{i}") for i in range(MAX_MEMBERS))))
    return [item for part in parts for item in part or ()] if parts else None


def _text(holder: h5py.Group, name: str) -> list[str] | None:
    if not h5py.h5a.exists(holder.id, name.encode()):
        return None
    where = f"attribute {name!r} of {holder.name!r}"
    attribute = h5py.h5a.open(holder.id, name.encode())
    if math.prod(attribute.shape) == 0:
        return []
    # Read nothing but strings: libhdf5 2.0 crashes on a variable-length type with a flipped bit.
    if not isinstance(attribute.get_type(), h5py.h5t.TypeStringID):
        raise WeightsError(f"{where} has type {attribute.dtype}, expected text; save the model again")
    if attribute.get_storage_size() > MAX_ATTRIBUTE:
        raise WeightsError(
            f"{where} claims {attribute.get_storage_size()} bytes, at most {MAX_ATTRIBUTE} are expected; the file is damaged"
        )
    value = holder.attrs[name]
    items = [value] if isinstance(value, str | bytes) else np.asarray(value).ravel().tolist()
    try:
        # h5py hides bytes that aren't UTF-8 in lone surrogates; encoding brings them back.
        return [(item.encode("utf-8", "surrogateescape") if isinstance(item, str) else item).decode("utf-8") for item in items]
    except UnicodeDecodeError as error:
        raise WeightsError(f"{where} isn't UTF-8 text ({error}); the file is damaged") from error


def array(data: memoryview, dataset: h5py.Dataset) -> np.ndarray:
    """Return a dataset as float32: mapped from `data` where it lies there as such, otherwise read and converted.

    A mapped array is read-only, takes no memory until it is used, and may be unaligned (in a zip).

    Raises
    ------
    WeightsError
        If it holds no floats, lies outside the file, or declares more than the file can hold.
    """
    where, shape, kind = f"dataset {dataset.name!r}", dataset.shape, dataset.id.get_type()
    if not any(kind.equal(known) for known in _FLOATS):
        raise WeightsError(f"{where} has type {_type_name(dataset)}, expected float32; save the model in float32")
    if not shape or not math.prod(shape):
        raise WeightsError(f"{where} is empty (shape {shape}); save the model again")
    size = math.prod(shape) * kind.get_size()
    creation = dataset.id.get_create_plist()
    layout = creation.get_layout()
    if creation.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise WeightsError(f"{where} keeps its data in another file, which isn't followed; save the weights into one plain file")
    if layout == h5py.h5d.CONTIGUOUS:
        offset = dataset.id.get_offset()
        if offset is None or offset < 0 or offset + size > len(data):
            raise WeightsError(
                f"{where} should take {size} bytes (shape {shape}) at offset {offset}, but the file has {len(data)}: it was cut off "
                "or damaged; copy or download it again"
            )
        if kind.equal(_FLOATS[0]):
            return np.frombuffer(data, "<f4", math.prod(shape), offset).reshape(shape)
    elif size > MAX_COMPRESSION * dataset.id.get_storage_size() or (
        layout == h5py.h5d.CHUNKED and math.prod(creation.get_chunk()) * kind.get_size() > max(size, MAX_ATTRIBUTE)
    ):
        raise WeightsError(
            f"{where} declares {size} bytes (shape {shape}), more than is stored for it; the file is damaged: copy or download it again"
        )
    result = np.empty(shape, np.float32)
    dataset.read_direct(result)
    result.flags.writeable = False
    return result


def _type_name(dataset: h5py.Dataset) -> str:
    try:
        return str(dataset.dtype)
    except _DAMAGE:
        return "unknown"


def _join(group: h5py.Group, name: str) -> str:
    return f"{str(group.name).rstrip('/')}/{name}"


class Source(io.RawIOBase):
    """A file object over `data`; libhdf5 reads zeros behind its end, as its own drivers give it."""

    def __init__(self, data: memoryview) -> None:
        self._data, self._position = data, 0

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self._data)}[whence]
        return self._position

    def tell(self) -> int:  # noqa: D102
        return self._position

    def readinto(self, target: Any) -> int:  # noqa: D102
        block = self._data[self._position : self._position + len(target)]
        target[: len(block)] = block
        target[len(block) :] = bytes(len(target) - len(block))
        self._position += len(block)
        return len(block)
