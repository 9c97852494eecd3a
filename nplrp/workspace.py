"""Memory that one pass after another uses again, and how much of it may be held for speed alone.

Fresh memory costs the operating system's zeroing and mapping of pages, up to a fifth of the time of an explanation. A pass therefore
takes its large arrays from a workspace and gives them back; the next pass through the same network finds them there.
"""

from __future__ import annotations

import math
import os
import threading
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nplrp.model import Model


class Workspace:
    """Arrays to use again; for one pass at a time.

    Parameters
    ----------
    reuse : bool
        False: never use an array again, because somebody keeps what the pass computes.

    Attributes
    ----------
    scratch : object or None
        What the convolution kernels keep between calls.
    """

    def __init__(self, reuse: bool = True) -> None:
        self.reuse = reuse
        self.scratch: Any = None
        self._free: dict[int, list[np.ndarray]] = {}
        self._taken: dict[int, np.ndarray] = {}
        self._out = self._most = self._held = 0  # bytes that are out, that were at most, and of all blocks

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised array, as `numpy.empty`."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not (self.reuse and size):
            return np.empty(shape, dtype)
        block = self._block(size)
        array = block[:size].view(dtype).reshape(shape)
        self._taken[array.ctypes.data] = block
        self._out += block.size
        self._most = max(self._most, self._out)
        return array

    def _block(self, size: int) -> np.ndarray:
        """Return a free block, of this size or little larger, so that batches of all sizes share memory; else a new one."""
        fits = [each for each, blocks in self._free.items() if blocks and size <= each <= _WASTE * size]
        if not fits:
            self._held += size
            return np.empty(size, np.uint8)
        return self._free[min(fits)].pop()

    def give(self, *arrays: np.ndarray) -> None:
        """Take arrays back that nobody reads any more; arrays from elsewhere are left alone."""
        for array in arrays:
            block = self._taken.pop(array.ctypes.data, None) if array.size else None
            if block is not None:
                self._put(block)

    def give_all(self) -> None:
        """Take back whatever is out, and let go of blocks beyond what a pass has ever needed at once, the smallest first.

        Ctrl-C may come between any two steps: a block may get lost then, but none may be put back twice, for two arrays to share.
        """
        while self._taken:
            self._put(self._taken.popitem()[1])
        self._out, self._held = 0, sum(size * len(blocks) for size, blocks in self._free.items())
        for size in sorted(self._free):
            while self._held - size >= self._most and self._free[size]:
                self._free[size].pop()
                self._held -= size

    def _put(self, block: np.ndarray) -> None:
        self._out -= block.size
        if block.size:
            self._free.setdefault(block.size, []).append(block)


#: How many times as large a block may be as what is put into it: passes of one image use what passes of eight have left.
_WASTE = 16


#: Held for a moment while a room is looked at: one for all rooms, so that a process that is forked off can make it new.
_room_lock = threading.Lock()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_room_lock._at_fork_reinit)  # type: ignore[attr-defined]

#: Bytes that a model may hold for speed alone: with them an explanation of VGG16 stays below 650 MB (900 MB with alpha-beta).
ROOM = 300_000_000


class Room:
    """How many bytes may be held for speed alone, by everything that shares this object.

    Parameters
    ----------
    size : int
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._holds: weakref.WeakSet[Hold] = weakref.WeakSet()

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickle an empty room of the same size."""
        return Room, (self.size,)

    def take(self, size: int) -> Hold | None:
        """Return a hold on `size` bytes, which lasts as long as the object does; None if there is no room."""
        with _room_lock:
            if sum(hold.size for hold in self._holds) + size > self.size:
                return None
            hold = Hold(size)
            self._holds.add(hold)
            return hold


@dataclass(frozen=True, eq=False)
class Hold:
    """Bytes that are held in a `Room`."""

    size: int


@contextmanager
def workspace_of(model: Model) -> Iterator[Workspace]:
    """Lend a model's workspace, or a new one while another thread has it; it stays with the model afterwards."""
    kept = model.kept.workspaces
    try:
        workspace = kept.pop()
    except IndexError:
        workspace = Workspace()
    try:
        yield workspace
    finally:
        workspace.give_all()
        if not kept:
            kept.append(workspace)
