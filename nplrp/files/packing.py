"""Datasets packed and unpacked by several threads: shuffle, gzip and fletcher32, which libhdf5 does chunk after chunk on one."""

from __future__ import annotations

import math
import zlib
from collections import deque
from collections.abc import Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import h5py
import numpy as np

from nplrp.jit.team import cores

#: Bytes of a chunk, about: much smaller ones cost a call each, much larger ones more memory.
CHUNK = 1 << 18
#: Chunks that wait for being packed or unpacked, for each thread.
_AHEAD = 4
#: Bytes of an array below which a chunk's index would be larger than what packing saves.
_SMALL = 1024
#: Of gzip; with `Z_RLE` others change little.
_LEVEL = 1
#: Bytes of a chunk below which libhdf5 is faster.
_SMALLEST = 1 << 13
#: The filters that are undone here, in the order in which they were applied.
_FILTERS = [
    [*shuffle, h5py.h5z.FILTER_DEFLATE, *checksum]
    for shuffle in ((), (h5py.h5z.FILTER_SHUFFLE,))
    for checksum in ((), (h5py.h5z.FILTER_FLETCHER32,))
]


def write_packed(file: h5py.File, arrays: Iterable[tuple[str, np.ndarray]]) -> None:
    """Create datasets of numbers with shuffle, gzip and fletcher32; every HDF5 reader reads them.

    Parameters
    ----------
    file : h5py.File
    arrays : iterable of (path, ndarray)
        Small ones are written as they are.

    Raises
    ------
    OSError, RuntimeError
        If the file can't be written, as h5py says it.
    """
    threads, waiting = cores(), deque[tuple[h5py.Dataset, tuple[int, ...], Future[bytes]]]()

    def write_first() -> None:
        dataset, place, packed = waiting.popleft()
        dataset.id.write_direct_chunk(place, packed.result())

    with ThreadPoolExecutor(threads, "nplrp-packing") as pool:
        for path, array in arrays:
            if array.nbytes < _SMALL:
                file.create_dataset(path, data=array)
                continue
            values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            shape = chunk_of(values)
            dataset = file.create_dataset(
                path, values.shape, values.dtype, chunks=shape, compression="gzip", compression_opts=_LEVEL, shuffle=True, fletcher32=True
            )
            for block in dataset.iter_chunks():
                waiting.append((dataset, tuple(each.start for each in block), pool.submit(packed_chunk, values[block], shape)))
                if len(waiting) > _AHEAD * threads:
                    write_first()
        while waiting:
            write_first()


def read_packed(dataset: h5py.Dataset, out: np.ndarray) -> bool:
    """Read a dataset of numbers whose chunks are packed.

    Parameters
    ----------
    dataset : h5py.Dataset
        That declares no more than it may.
    out : ndarray
        C-contiguous, of its shape.

    Returns
    -------
    bool
        Whether it was read; what is packed otherwise, in one piece or in small ones, or has another type than `out`, is left to libhdf5.

    Raises
    ------
    OSError
        If a chunk is damaged.
    """
    creation, dtype, shape = dataset.id.get_create_plist(), dataset.dtype, dataset.chunks
    filters = [creation.get_filter(i)[0] for i in range(creation.get_nfilters())]
    if shape is None or filters not in _FILTERS or dtype != out.dtype or not dtype.isnative or dtype.kind not in "fiu":
        return False
    if math.prod(shape) * dtype.itemsize < _SMALLEST:
        return False
    count = math.prod(-(-side // length) for side, length in zip(dataset.shape, shape, strict=True))
    if count < 2 or dataset.id.get_num_chunks() < count:
        return False  # there is nothing to share, or what isn't there has a value for all
    threads, waiting = cores(), deque[Future[None]]()
    with ThreadPoolExecutor(threads, "nplrp-packing") as pool:
        for block in dataset.iter_chunks():
            mask, packed = dataset.id.read_direct_chunk(tuple(each.start for each in block))
            done = [kind for i, kind in enumerate(filters) if not mask >> i & 1]
            waiting.append(pool.submit(_unpack, packed, done, shape, out[block]))
            if len(waiting) > _AHEAD * threads:
                waiting.popleft().result()
        while waiting:
            waiting.popleft().result()
    return True


def _unpack(packed: bytes, filters: Sequence[int], shape: tuple[int, ...], out: np.ndarray) -> None:
    """Unpack a chunk of this shape into what of it lies inside of the array."""
    size = math.prod(shape) * out.itemsize
    if h5py.h5z.FILTER_FLETCHER32 in filters:
        packed, stated = packed[:-4], int.from_bytes(packed[-4:], "little")
        if fletcher32(packed) != stated:
            raise OSError("a chunk of data doesn't have the checksum that it states")
    if h5py.h5z.FILTER_DEFLATE in filters:
        try:
            packed = zlib.decompressobj().decompress(packed, size + 1)
        except zlib.error as error:
            raise OSError(f"a chunk of data can't be unpacked ({error})") from None
    if len(packed) != size:
        raise OSError(f"a chunk of data has another length than its {size} bytes")
    if h5py.h5z.FILTER_SHUFFLE in filters:
        values = np.ascontiguousarray(np.frombuffer(packed, np.uint8).reshape(out.itemsize, -1).T).view(out.dtype)
    else:
        values = np.frombuffer(packed, out.dtype)
    out[...] = values.reshape(shape)[tuple(map(slice, out.shape))]


def chunk_of(array: np.ndarray) -> tuple[int, ...]:
    """Return the shape of chunks that are one run of a C-contiguous array's memory, of about `CHUNK` bytes."""
    room, shape = max(CHUNK // array.itemsize, 1), list[int]()
    for length in reversed(array.shape):
        shape.insert(0, min(length, max(room, 1)))
        room //= length
    return tuple(shape)


def packed_chunk(values: np.ndarray, shape: tuple[int, ...]) -> bytes:
    """Return a chunk's bytes as they stand in the file; at an array's end it is filled up with zeros."""
    if values.shape != shape:
        whole = np.zeros(shape, values.dtype)
        whole[tuple(map(slice, values.shape))] = values
        values = whole
    shuffled = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T
    packer = zlib.compressobj(_LEVEL, strategy=zlib.Z_RLE)  # of shuffled numbers runs and frequencies are all there is to save
    packed = packer.compress(shuffled.tobytes()) + packer.flush()
    return packed + fletcher32(packed).to_bytes(4, "little")


def fletcher32(data: bytes) -> int:
    """Return HDF5's checksum: two sums over words of 16 bits, first byte high, modulo 65535, which stands for 0 unless all words are 0."""
    words = np.frombuffer(data + bytes(len(data) % 2), ">u2").astype(np.int64)
    ordinary, weighted = int(words.sum()), 0
    for first in range(0, len(words), 1 << 20):  # so that no sum leaves 64 bits
        block = words[first : first + (1 << 20)]
        behind = len(words) - first - len(block)
        weighted += int(block @ np.arange(len(block), 0, -1)) + behind * int(block.sum())
    return _folded(weighted) << 16 | _folded(ordinary)


def _folded(total: int) -> int:
    return (total - 1) % 65535 + 1 if total else 0
