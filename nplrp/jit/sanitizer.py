"""A debug mode of queues, for tests: it finds who uses arrays while kernels that use them wait.

When a call is noted down, the arrays that its kernel may write are saved and poisoned: with signalling NaNs, and the largest numbers of
integer types. They get their numbers back right before the queue is run. So whoever reads them too early gets a NaN, or NumPy's warning of
an invalid value; and whoever writes to them overwrites the poison. Of arrays that the kernel only reads a digest is taken, which shows if
somebody writes to these. What it can't notice is an operation in place that leaves NaNs as they are, such as a maximum: compare results
with those of calls that don't wait.

It also refuses calls of functions that aren't declared as `nplrp.jit.queue.queueable`.
"""

import ctypes
import hashlib
import sys

import numpy as np

from nplrp.jit.queue import DataRaceError, is_queueable

#: Signalling NaNs: arithmetic makes quiet ones of them, so that an operation in place shows too.
_POISON = {np.dtype(np.float32): np.uint32(0x7FA5A5A5), np.dtype(np.float64): np.uint64(0x7FF4A5A5A5A5A5A5)}


class Sanitizer:
    """Checks the calls of one queue, from the first that waits to the next run."""

    def __init__(self):
        self._block = None
        self._writes, self._reads = [], []

    def enter(self, frame):
        """Begin or, with None, end a block of calls in a function's frame."""
        self._block = frame

    def check_caller(self, function):
        """Refuse a kernel if the function that its package was entered by isn't declared as queueable; a call without one is fine.

        Raises
        ------
        DataRaceError
        """
        package, frame, outermost = function.__module__.rpartition(".")[0], sys._getframe(1), None
        while frame is not None and frame is not self._block:
            if frame.f_globals.get("__name__", "").rpartition(".")[0] == package:
                outermost = frame
            frame = frame.f_back
        if outermost is not None:
            name = outermost.f_code.co_name
            caller = outermost.f_globals.get(name)
            if getattr(caller, "__code__", None) is not outermost.f_code or not is_queueable(caller):
                raise DataRaceError(f"{outermost.f_globals['__name__']}.{name} is called in a queue, and not declared as queueable")

    def note(self, function, arguments):
        """Poison what a kernel writes, and take digests of what it reads.

        Raises
        ------
        DataRaceError
            As `check_caller`.
        """
        self.check_caller(function)
        arrays = list(_arrays(arguments))
        for array in arrays:
            for start, end in self._not_poisoned(array):
                self._reads.append((function, array, start, end, _digest(start, end)))
        for array in arrays:
            if array.flags.writeable:
                for start, end in self._not_poisoned(array):
                    memory = _memory(start, end)
                    poison = np.resize(_poison(array.dtype), end - start)
                    self._writes.append((function, array, start, end, memory.copy(), poison))
                    memory[:] = poison

    def release(self):
        """Give the arrays their numbers back.

        Raises
        ------
        DataRaceError
            If somebody has written to an array of a kernel that waits.
        """
        writes, self._writes = self._writes, []
        reads, self._reads = self._reads, []
        written = [each for each in writes if not np.array_equal(_memory(*each[2:4]), each[5])]
        for _, _, start, end, saved, _ in writes:
            _memory(start, end)[:] = saved
        for function, array, *_ in written:
            raise DataRaceError(f"an array {_describe(array)} that {_name(function)} writes was written while the call waited")
        for function, array, start, end, digest in reads:
            if _digest(start, end) != digest:
                raise DataRaceError(f"an array {_describe(array)} that {_name(function)} reads was written while the call waited")

    def _not_poisoned(self, array):
        """Yield the parts of an array's memory, as addresses (start, end), that no kernel that waits writes."""
        start = array.ctypes.data
        end = start + array.nbytes
        for _, _, first, last, *_ in sorted(self._writes, key=lambda write: write[2]):
            if first < end and start < last:
                if start < first:
                    yield start, first
                start = last
        if start < end:
            yield start, end


def _arrays(values):
    """Yield the arrays among arguments, also those in tuples.

    Raises
    ------
    ValueError
        If one has gaps, which may belong to others.
    """
    for value in values:
        if isinstance(value, tuple):
            yield from _arrays(value)
        elif isinstance(value, np.ndarray) and value.size:
            if not value.flags.forc:
                raise ValueError("kernels that wait take arrays without gaps")
            yield value


def _poison(dtype):
    """Return the bytes of one number."""
    if dtype.kind in "iu":
        return np.array([np.iinfo(dtype).max], dtype).view(np.uint8)
    return _POISON.get(dtype, np.ones(1, dtype)).reshape(1).view(np.uint8)


def _memory(start, end):
    return np.ctypeslib.as_array((ctypes.c_uint8 * (end - start)).from_address(start))


def _digest(start, end):
    return hashlib.sha256(_memory(start, end)).digest()


def _describe(array):
    return f"[{', '.join(map(str, array.shape))}] of {array.dtype}"


def _name(function):
    return f"{function.__module__}.{function.__qualname__}"
