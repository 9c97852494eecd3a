"""Read HDF5 that may be damaged or hostile: attributes, groups, and datasets as arrays, mapped from the file where they can be.

Whatever nplrp reads of HDF5 is read here: weights, golden values, candidates, saved explanations, shards. libhdf5 trusts a file more than
one should: flipped bytes can make it crash, loop or allocate without end, and links, external storage and virtual datasets lead to other
files. What it is asked here is limited to what Keras and we write, and checked before. Errors carry no path; who asks adds it.
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
from h5py import Dataset, Group

from nplrp.errors import WeightsError
from nplrp.files.hdf5_format import MAX_TEXT, REFERENCE_SIZE, Content
from nplrp.files.packing import read_packed

__all__ = [
    "MAX_TEXT",
    "Dataset",
    "Group",
    "Source",
    "array",
    "attribute",
    "attributes",
    "child",
    "datasets",
    "has_attribute",
    "is_numbers",
    "members",
    "numbers",
    "open_hdf5",
    "other_type",
    "path_name",
    "text",
    "texts",
]

#: Limits far above anything that Keras writes.
MAX_MEMBERS = 100_000
MAX_ATTRIBUTE = 1 << 20
#: Deflate packs at most 1032 : 1; a dataset that declares more than this is damaged or a trap.
MAX_COMPRESSION = 1100

#: The first can be mapped as it is. The last, two plain bytes, is what h5py makes of bfloat16, a float32's upper half.
_FLOATS = tuple(h5py.h5t.py_create(np.dtype(code)) for code in ("<f4", "<f2", "<f8", ">f2", ">f4", ">f8", "V2"))
#: Types of plain numbers; libhdf5 2.0 crashes on others with a flipped bit.
_NUMBERS = (h5py.h5t.TypeIntegerID, h5py.h5t.TypeFloatID)
_DAMAGE = (OSError, RuntimeError, LookupError, ValueError, TypeError, AttributeError, MemoryError, OverflowError, SystemError)


def path_name(layer: str) -> str:
    """Return a layer's name as it stands in paths of HDF5 files."""
    return layer.replace("%", "%25").replace("/", "%2F")


def layer_name(path: str) -> str:
    """Return the layer's name that `path_name` has written."""
    return path.replace("%2F", "/").replace("%25", "%")


@contextmanager
def open_hdf5(data: memoryview) -> Iterator[tuple[h5py.File, Source]]:
    """Open the HDF5 file that lies in `data`, and turn everything that libhdf5 complains of into `WeightsError`.

    Yields the file, and what everything here asks for beside it.

    Parameters
    ----------
    data : memoryview of bytes
        The whole file, usually memory-mapped; arrays made by `array` keep it alive after closing.

    Raises
    ------
    WeightsError
        If the file, or anything asked of it inside the `with` block, is damaged.
    """
    source = Source(data)
    try:
        with h5py.File(source, "r") as file:
            if file.id.get_create_plist().get_sizes() != (8, 8):
                raise WeightsError("the HDF5 file's addresses and lengths don't have 8 bytes; it is damaged: copy or download it again")
            yield file, source
    except WeightsError:
        raise
    except _DAMAGE as error:
        raise WeightsError(f"the HDF5 structure is damaged ({source.damage or error}); copy or download the file again") from error


def members(source: Source, group: Group) -> list[str]:
    """Return the names in a group, in h5py's order."""
    source.check(group)
    names = list(itertools.islice(group, MAX_MEMBERS + 1))
    if len(names) > MAX_MEMBERS:
        raise WeightsError(f"group {group.name!r} has more than {MAX_MEMBERS} members: not a weight file")
    return names


def child(source: Source, group: Group, path: str) -> Group | Dataset | None:
    """Return what a relative path leads to, or None; only hard links are followed.

    Raises
    ------
    WeightsError
        If a soft or external link lies on the way: it could lead in circles or to any file of the machine.
    """
    found: Group | Dataset = group
    for part in filter(None, path.split("/")):
        if not isinstance(found, Group) or part == ".":
            return None
        source.check(found)
        if not found.id.links.exists(part.encode()):
            return None
        if found.id.links.get_info(part.encode()).type != h5py.h5l.TYPE_HARD:
            raise WeightsError(
                f"{_join(found, part)!r} is a soft or external link, which isn't followed; save the weights into one plain file"
            )
        found = found[part]
    return found


def has_attribute(source: Source, holder: Group | Dataset, name: str) -> bool:
    """Tell whether there is an attribute, of whatever type."""
    source.check(holder)
    return bool(h5py.h5a.exists(holder.id, name.encode()))


def text(source: Source, holder: Group, name: str) -> list[str] | None:
    """Return a text attribute as a list of strings (one for a scalar), or None if there is none.

    Bytes and str, fixed and variable length are alike. Keras splits what is longer than HDF5's 64 KB into ``name0``, ``name1``, ...
    An empty attribute may have any type: for a layer without weights Keras writes an empty float64 array.

    Raises
    ------
    WeightsError
        If it isn't UTF-8 text.
    """
    whole = _text(source, holder, name)
    if whole is not None:
        return whole
    parts = list(itertools.takewhile(lambda part: part is not None, (_text(source, holder, f"{name}{i}") for i in range(MAX_MEMBERS))))
    return [item for part in parts for item in part or ()] if parts else None


def _text(source: Source, holder: Group, name: str) -> list[str] | None:
    if not has_attribute(source, holder, name):
        return None
    where = f"attribute {name!r} of {holder.name!r}"
    attribute = h5py.h5a.open(holder.id, name.encode())
    if _is_empty(attribute):
        return []
    # Read nothing but strings: libhdf5 2.0 crashes on a variable-length type with a flipped bit.
    if not isinstance(attribute.get_type(), h5py.h5t.TypeStringID):
        raise WeightsError(f"{where} has type {attribute.dtype}, expected text; save the model again")
    if attribute.get_storage_size() > MAX_ATTRIBUTE:
        raise WeightsError(
            f"{where} claims {attribute.get_storage_size()} bytes, at most {MAX_ATTRIBUTE} are expected; the file is damaged"
        )
    count = math.prod(attribute.shape)
    if attribute.get_type().is_variable_str():
        raw = source.content.attribute(address(holder), name)
        if raw is None or len(raw) < REFERENCE_SIZE * count:
            raise WeightsError(f"{where} isn't where the file should have it; it is damaged or was rewritten: save the model again")
        return _texts(source, raw[: REFERENCE_SIZE * count], where)
    value = np.empty(attribute.shape, attribute.dtype)
    attribute.read(value)
    return _utf8(value.ravel().tolist(), where)


def _is_empty(attribute: h5py.h5a.AttrID) -> bool:
    return attribute.shape is None or math.prod(attribute.shape) == 0


def _texts(source: Source, references: bytes | memoryview, where: str) -> list[str]:
    key = bytes(references)
    if key not in source.texts:
        try:
            found = source.content.texts(key)
        except WeightsError as error:
            raise WeightsError(f"{where} {error}") from error
        source.texts[key] = _utf8(found, where)
    return list(source.texts[key])


def _utf8(texts: list[bytes], where: str) -> list[str]:
    try:
        return [text.decode("utf-8") for text in texts]
    except UnicodeDecodeError as error:
        raise WeightsError(f"{where} isn't UTF-8 text ({error}); the file is damaged") from error


def attribute(source: Source, holder: Group | Dataset, name: str) -> Any:
    """Return an attribute: a text or number, or an array of numbers; None if there is none.

    Raises
    ------
    WeightsError
        If it holds anything else.
    """
    if not has_attribute(source, holder, name):
        return None
    found = h5py.h5a.open(holder.id, name.encode())
    if isinstance(found.get_type(), h5py.h5t.TypeStringID):
        items = _text(source, holder, name) or []
        return items[0] if found.shape == () and items else items
    where = f"attribute {name!r} of {holder.name!r}"
    if _is_empty(found):
        return np.empty(found.shape or 0, found.dtype if isinstance(found.get_type(), _NUMBERS) else np.float64)
    if not isinstance(found.get_type(), _NUMBERS) or found.get_storage_size() > MAX_ATTRIBUTE:
        raise WeightsError(f"{where} holds neither text nor numbers, or more than {MAX_ATTRIBUTE} bytes; write the file again")
    value = np.empty(found.shape, found.dtype)
    found.read(value)
    return value if found.shape else value.item()


def attributes(source: Source, holder: Group | Dataset) -> dict[str, Any]:
    """Return all attributes by name, as `attribute` does."""
    source.check(holder)
    count = h5py.h5a.get_num_attrs(holder.id)
    if count > MAX_MEMBERS:
        raise WeightsError(f"{holder.name!r} has {count} attributes, at most {MAX_MEMBERS} are expected; the file is damaged")
    return {name: attribute(source, holder, name) for name in list(holder.attrs)}


def datasets(source: Source, group: Group) -> dict[str, Dataset]:
    """Return all datasets below a group by their paths, in the order of names; one that has several paths stands under the first.

    Raises
    ------
    WeightsError
        As `child`; also if there are too many.
    """
    found: dict[str, Dataset] = {}
    seen, todo = {address(group)}, [("", group, iter(sorted(members(source, group))))]
    while todo:
        path, holder, names = todo[-1]
        name = next(names, None)
        if name is None:
            todo.pop()
            continue
        item = child(source, holder, name)
        if not isinstance(item, Group | Dataset) or address(item) in seen:
            continue
        seen.add(address(item))
        if len(seen) > MAX_MEMBERS:
            raise WeightsError(f"the file has more than {MAX_MEMBERS} groups and datasets; it is damaged")
        if isinstance(item, Dataset):
            found[f"{path}{name}"] = item
        else:
            todo.append((f"{path}{name}/", item, iter(sorted(members(source, item)))))
    return found


def address(item: Group | Dataset) -> int:
    """Return where an object lies in its file: the same by whichever path it was reached."""
    # H5Oget_info would walk all that belongs to it, for sizes that nobody asks for: a heap inside itself without end.
    low, high = h5py.h5g.get_objinfo(item.id).objno
    return int(low) | int(high) << 32


def array(source: Source, dataset: Dataset) -> np.ndarray:
    """Return a dataset of floats as float32: mapped from the file where it lies there as such, otherwise read and converted.

    Two plain bytes are a bfloat16: Keras writes nothing else so.

    A mapped array is read-only, takes no memory until it is used, and may be unaligned (in a zip).

    Raises
    ------
    WeightsError
        If it holds no floats, lies outside the file, or declares more than the file can hold.
    """
    where, shape, kind = f"dataset {dataset.name!r}", dataset.shape, dataset.id.get_type()
    if not any(kind.equal(known) for known in _FLOATS):
        raise WeightsError(f"{where} has type {_type_name(dataset)}, expected float32; save the model in float32")
    if shape is None or not math.prod(shape):
        raise WeightsError(f"{where} is empty (shape {shape}); save the model again")
    offset = _place(source, dataset, math.prod(shape) * kind.get_size())
    if offset is not None and kind.equal(_FLOATS[0]):
        return np.frombuffer(source.data, "<f4", math.prod(shape), offset).reshape(shape)
    if kind.equal(_FLOATS[-1]):
        widened = (source.once(dataset, np.dtype("V2")).view("<u2").astype(np.uint32) << np.uint32(16)).view(np.float32)
        widened.flags.writeable = False
        return widened
    return source.once(dataset, np.dtype(np.float32))


def is_numbers(dataset: Dataset) -> bool:
    """Tell whether a dataset holds integers, floats or booleans."""
    kind = dataset.id.get_type()
    return isinstance(kind, _NUMBERS) or (
        isinstance(kind, h5py.h5t.TypeEnumID) and kind.get_size() == 1 and kind.get_nmembers() == 2 and dataset.dtype == np.bool_
    )


def numbers(source: Source, dataset: Dataset, rows: slice | None = None) -> np.ndarray:
    """Return a dataset of integers, floats or booleans in its own type, or some of its rows.

    Raises
    ------
    WeightsError
        As `array`.
    """
    where, shape, kind = f"dataset {dataset.name!r}", dataset.shape, dataset.id.get_type()
    if not is_numbers(dataset):
        raise WeightsError(f"{where} has type {_type_name(dataset)}, expected numbers; write the file again")
    if shape is None:
        raise WeightsError(f"{where} is empty; write the file again")
    _place(source, dataset, math.prod(shape) * kind.get_size())
    if rows is not None:
        with source.reading_numbers():
            part: np.ndarray = dataset[rows]
        return part
    return source.once(dataset, dataset.dtype)


def texts(source: Source, dataset: Dataset) -> np.ndarray:
    """Return a dataset of texts: of fixed length as bytes, others as objects.

    Raises
    ------
    WeightsError
        As `array`, and if they claim to be longer than the file.
    """
    where, shape, kind = f"dataset {dataset.name!r}", dataset.shape, dataset.id.get_type()
    if shape is None or not isinstance(kind, h5py.h5t.TypeStringID):
        raise WeightsError(f"{where} has type {_type_name(dataset)}, expected texts; write the file again")
    offset = _place(source, dataset, math.prod(shape) * kind.get_size())
    if not kind.is_variable_str():
        return source.once(dataset, dataset.dtype)
    result = np.empty(math.prod(shape), object)
    if result.size:
        if offset is None:
            raise WeightsError(f"{where} is stored in pieces, expected in one; write the file again")
        result[:] = _texts(source, source.data[offset : offset + REFERENCE_SIZE * result.size], where)
    return result.reshape(shape)


def _place(source: Source, dataset: Dataset, size: int) -> int | None:
    """Return where a dataset's `size` bytes lie in one piece, None if they don't.

    Raises
    ------
    WeightsError
        If they lie in another file, outside of this one, or are more than is stored.
    """
    source.check(dataset)
    where, shape, creation = f"dataset {dataset.name!r}", dataset.shape, dataset.id.get_create_plist()
    layout = creation.get_layout()
    if creation.get_external_count() or layout == h5py.h5d.VIRTUAL:
        raise WeightsError(f"{where} keeps its data in another file, which isn't followed; save it into one plain file")
    if layout == h5py.h5d.CONTIGUOUS and size:
        offset = dataset.id.get_offset()
        if offset is None or offset < 0 or offset + size > len(source.data):
            raise WeightsError(
                f"{where} should take {size} bytes (shape {shape}) at offset {offset}, but the file has {len(source.data)}: it was cut off "
                "or damaged; copy or download it again"
            )
        return int(offset)
    if layout != h5py.h5d.CONTIGUOUS and (
        size > MAX_COMPRESSION * dataset.id.get_storage_size()
        or (layout == h5py.h5d.CHUNKED and math.prod(creation.get_chunk()) * dataset.id.get_type().get_size() > max(size, MAX_ATTRIBUTE))
    ):
        raise WeightsError(
            f"{where} declares {size} bytes (shape {shape}), more than is stored for it; the file is damaged: copy or download it again"
        )
    return None


def other_type(dataset: Dataset) -> str | None:
    """Return the name of a dataset's type if it holds no floats: the counters and seeds that Keras keeps beside weights."""
    kind = dataset.id.get_type()
    return None if any(kind.equal(known) for known in _FLOATS) else _type_name(dataset)


def _type_name(dataset: Dataset) -> str:
    try:
        return str(dataset.dtype)
    except _DAMAGE:
        return "unknown"


def _join(group: Group, name: str) -> str:
    return f"{str(group.name).rstrip('/')}/{name}"


class Source(io.RawIOBase):
    """A file object over `data`; libhdf5 reads zeros behind its end, as its own drivers give it.

    Attributes
    ----------
    data : memoryview of bytes
    content : Content
        The same, where texts are found.
    texts : dict of bytes to list of str
        Texts that were read, by the references to them.
    damage : str
        What libhdf5 couldn't read.
    """

    def __init__(self, data: memoryview) -> None:
        self.data, self.content, self.damage = data, Content(data), ""
        self.texts: dict[bytes, list[str]] = {}
        self._position, self._raw = 0, False
        self._read: dict[tuple[int, str], np.ndarray] = {}
        self._entered, self._checked = set[int](), set[int]()
        self._stored = 0

    @contextmanager
    def reading_numbers(self) -> Iterator[None]:
        """Let everything pass in the block: numbers may look like a damaged heap."""
        self._raw = True
        try:
            yield
        finally:
            self._raw = False

    def enter(self, group: Group) -> None:
        """Note down that a group is read.

        Raises
        ------
        WeightsError
            If it has been before, by another name: what is written once can't be made to be read a thousand times.
        """
        place = address(group)
        if place in self._entered:
            raise WeightsError(
                f"group {group.name!r} stands in the file under several names; it is damaged, or was made to be: save it again"
            )
        self._entered.add(place)

    def check(self, item: Group | Dataset) -> None:
        """Refuse an object whose trees don't end, before libhdf5 walks them.

        Raises
        ------
        WeightsError
        """
        place = address(item)
        if place not in self._checked:
            self.content.check_trees(place)
            self._checked.add(place)

    def once(self, dataset: Dataset, dtype: np.dtype) -> np.ndarray:
        """Read a dataset, or return what was read of it before; the array is read-only.

        Raises
        ------
        WeightsError
            If several claim the same bytes of the file: together they would take any amount of memory.
        """
        key = address(dataset), dtype.str
        if key not in self._read:
            self._stored += dataset.id.get_storage_size()
            if self._stored > len(self.data):
                raise WeightsError(
                    f"dataset {dataset.name!r} and those before claim {self._stored} bytes of a file of {len(self.data)}; it is damaged"
                )
            result = np.empty(dataset.shape, dtype)
            with self.reading_numbers():
                if result.size and not read_packed(dataset, result):
                    dataset.read_direct(result)
            result.flags.writeable = False
            self._read[key] = result
        return self._read[key]

    def readable(self) -> bool:  # noqa: D102
        return True

    def seekable(self) -> bool:  # noqa: D102
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:  # noqa: D102
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: len(self.data)}[whence]
        return self._position

    def tell(self) -> int:  # noqa: D102
        return self._position

    def readinto(self, target: Any) -> int:  # noqa: D102
        target = memoryview(target).cast("B")  # before h5py 3.13 it is an array of Cython's, which takes no bytes
        block = self.data[self._position : self._position + len(target)]
        if block[:4] == b"HEAP" and not self._raw and not self.content.free_list_ends(self._position):
            self.damage = f"bad local heap at {self._position}"
            raise OSError(self.damage)
        target[: len(block)] = block
        target[len(block) :] = bytes(len(target) - len(block))
        self._position += len(block)
        return len(block)
