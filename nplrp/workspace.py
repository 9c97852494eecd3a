"""Memory that one pass after another uses again, and how much of it may be held for speed alone.

Fresh memory costs the operating system's zeroing and mapping of pages, up to a fifth of the time of an explanation. A pass therefore
takes its large arrays from a workspace and gives them back; the next pass through the same network finds them there.
"""

from __future__ import annotations

import bisect
import math
import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from nplrp.model import Model


@dataclass(frozen=True)
class State:
    """What a workspace's memory is like.

    Attributes
    ----------
    slabs : tuple of (int, int)
        Address and size of each.
    gaps : dict of int to tuple of (int, int)
        By slab: (begin, end) of what is free, in order.
    taken : dict of int to (int, int, int)
        By address: slab, begin, end of what is out.
    out, most : int
        Bytes that are out, and that were at most.
    """

    slabs: tuple[tuple[int, int], ...]
    gaps: dict[int, tuple[tuple[int, int], ...]]
    taken: dict[int, tuple[int, int, int]]
    out: int
    most: int

    def fits(self, other: State) -> bool:
        """Tell whether the same is free and out."""
        return (self.slabs, self.gaps, self.taken) == (other.slabs, other.gaps, other.taken)


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
    replays : dict of Plan to dict
        Passes that run again in the same places of its memory (`nplrp.replay`), as long as their plans live.
    """

    def __init__(self, reuse: bool = True) -> None:
        self.reuse = reuse
        self.scratch: Any = None
        self.replays: weakref.WeakKeyDictionary[Any, dict[tuple[Any, ...], Any]] = weakref.WeakKeyDictionary()
        self._slabs: list[np.ndarray] = []
        self._gaps: dict[int, list[tuple[int, int]]] = {}  # by slab: (begin, end) of what is free, in order
        self._taken: dict[int, tuple[int, int, int]] = {}  # by address: slab, begin, end
        self._out = self._most = self._merged = 0  # bytes that are out, that were at most, and at the last merging

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return sum(map(len, self._slabs))

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an uninitialised array, as `numpy.empty`."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if not (self.reuse and size):
            return np.empty(shape, dtype)
        slab, begin, end = self._take(-(-size // _LINE) * _LINE)
        array = self._slabs[slab][begin : begin + size].view(dtype).reshape(shape)
        self._taken[array.ctypes.data] = slab, begin, end
        self._out += end - begin
        self._most = max(self._most, self._out)
        return array

    def state(self) -> State:
        """Return which of its memory is free and which is out."""
        slabs = tuple((each.ctypes.data, len(each)) for each in self._slabs)
        return State(slabs, {slab: tuple(gaps) for slab, gaps in self._gaps.items()}, dict(self._taken), self._out, self._most)

    def restore(self, state: State) -> None:
        """Take and give what leads to a state, of the same slabs."""
        self._gaps, self._taken, self._out = {slab: list(gaps) for slab, gaps in state.gaps.items()}, dict(state.taken), state.out
        self._most = max(self._most, state.most)

    def holds(self, arrays: Iterable[np.ndarray]) -> list[bool]:
        """Tell for each array whether it lies in its memory."""
        slabs = sorted((each.ctypes.data, len(each)) for each in self._slabs)
        starts, found = [start for start, _ in slabs], []
        for array in arrays:
            address = array.ctypes.data
            k = bisect.bisect(starts, address) - 1
            found.append(k >= 0 and address < sum(slabs[k]))
        return found

    def _take(self, size: int) -> tuple[int, int, int]:
        """Take the front of the smallest gap that is large enough, else of a new slab."""
        fits = [(end - begin, slab, k) for slab, gaps in self._gaps.items() for k, (begin, end) in enumerate(gaps) if end - begin >= size]
        if not fits:
            self.replays.clear()
            self._slabs.append(np.empty(size, np.uint8))
            self._gaps[len(self._slabs) - 1] = []
            return len(self._slabs) - 1, 0, size
        _, slab, k = min(fits)
        begin, end = self._gaps[slab][k]
        self._gaps[slab][k : k + 1] = [(begin + size, end)] if end - begin > size else []
        return slab, begin, begin + size

    def give(self, *arrays: np.ndarray) -> None:
        """Take arrays back that nobody reads any more; arrays from elsewhere are left alone."""
        for array in arrays:
            place = self._taken.pop(array.ctypes.data, None) if array.size else None
            if place is not None:
                slab, begin, end = place
                self._out -= end - begin
                gaps = self._gaps[slab]
                k = bisect.bisect(gaps, (begin, end))
                if k < len(gaps) and gaps[k][0] == end:
                    end = gaps.pop(k)[1]
                if k > 0 and gaps[k - 1][1] == begin:
                    k -= 1
                    begin = gaps.pop(k)[0]
                gaps.insert(k, (begin, end))

    def give_all(self) -> None:
        """Take back whatever is out. Where slabs hold much more than was ever out at once, one takes their place.

        Ctrl-C may come between any two steps: what is free is found anew, so that no two arrays share memory.
        """
        self._taken.clear()
        self._out = 0
        if self.size > _SPARE * self._most and self._most > self._merged:
            self._merged = self._most
            self.replays.clear()
            self._slabs[:] = [np.empty(int(_SPARE * self._most) // _LINE * _LINE, np.uint8)]
        self._gaps = {slab: [(0, len(each))] for slab, each in enumerate(self._slabs)}


#: Arrays begin so many bytes apart, or multiples.
_LINE = 64
#: How many times what was out at once slabs may hold: arrays of different sizes leave gaps between them.
_SPARE = 1.25


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
