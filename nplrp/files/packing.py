"""Datasets packed by several threads: shuffle, gzip and fletcher32, which libhdf5 does chunk after chunk on one."""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import h5py
import numpy as np

from nplrp.jit.team import cores

#: Bytes of a chunk, about: much smaller ones cost a call each, much larger ones more memory.
CHUNK = 1 << 18
#: Chunks that wait for being written, for each thread.
_AHEAD = 4


def write_packed(file: h5py.File, arrays: Iterable[tuple[str, np.ndarray]], level: int) -> None:
    """Create datasets of numbers with shuffle, gzip and fletcher32; every HDF5 reader reads them.

    Parameters
    ----------
    file : h5py.File
    arrays : iterable of (path, ndarray)
        Not empty, of at least one axis.
    level : int
        Of gzip, 0 to 9.

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
            values = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
            shape = chunk_of(values)
            dataset = file.create_dataset(
                path, values.shape, values.dtype, chunks=shape, compression="gzip", compression_opts=level, shuffle=True, fletcher32=True
            )
            for block in dataset.iter_chunks():
                waiting.append((dataset, tuple(each.start for each in block), pool.submit(packed_chunk, values[block], shape, level)))
                if len(waiting) > _AHEAD * threads:
                    write_first()
        while waiting:
            write_first()


def chunk_of(array: np.ndarray) -> tuple[int, ...]:
    """Return the shape of chunks that are one run of a C-contiguous array's memory, of about `CHUNK` bytes."""
    room, shape = max(CHUNK // array.itemsize, 1), list[int]()
    for length in reversed(array.shape):
        shape.insert(0, min(length, max(room, 1)))
        room //= length
    return tuple(shape)


def packed_chunk(values: np.ndarray, shape: tuple[int, ...], level: int) -> bytes:
    """Return a chunk's bytes as they stand in the file; at an array's end it is filled up with zeros."""
    if values.shape != shape:
        whole = np.zeros(shape, values.dtype)
        whole[tuple(map(slice, values.shape))] = values
        values = whole
    shuffled = np.ascontiguousarray(values).reshape(-1).view(np.uint8).reshape(-1, values.itemsize).T
    packed = zlib.compress(np.ascontiguousarray(shuffled), level)
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
