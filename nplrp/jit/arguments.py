"""How compiled kernels get their arguments: one after the other in a block of memory, in slots of eight bytes.

A number takes a slot; an array takes one for its address and one each for its lengths and strides; a tuple takes what its items do.
Before them are slots for what comes back, and for what a team of threads needs.
"""

import ctypes
import functools
import struct

import numpy as np

# Slots.
STATUS, RESULT, TEAM_THREADS, TEAM_NUMBER, TEAM_SIZE, ARGUMENTS = range(6)
# What STATUS says: nothing came back, a number is in RESULT, or there was no memory.
NOTHING, WHOLE, FLOAT, FAILED = range(4)

_LAYOUT = 0x503  # C- or Fortran-contiguous, aligned, writeable
_NUMBERS = {int: "q", np.int64: "q", bool: "?", np.bool_: "?", float: "d", np.float64: "d", np.float32: "f"}
_FORMATS = {"q": "q", "?": "q", "d": "d", "f": "f4x"}


#: Where an array's C struct, which is NumPy's binary interface, has the address of its numbers: behind what every object begins with.
_DATA = object.__basicsize__


def _address(array):
    """Return `array.ctypes.data`, five times as fast: a small network's explanation asks for thousands."""
    return ctypes.c_size_t.from_address(id(array) + _DATA).value


def describe(arguments):
    """Return the types of arguments, as a tuple to look them up by, and the numbers for their slots."""
    kinds, numbers = [], []
    _read(arguments, kinds, numbers, {})
    return tuple(kinds), numbers


def _read(values, kinds, numbers, known):
    """Append the types and numbers of values; `known` remembers those of arrays and tuples, many of which come several times."""
    for value in values:
        kind = type(value)
        if kind in _NUMBERS:
            kinds.append(_NUMBERS[kind])
            numbers.append(value)
            continue
        found = known.get(id(value))
        if found is None:
            if kind is np.ndarray:
                found = [_array_kind(value.dtype, value.ndim, value.flags.num & _LAYOUT)], [_address(value), *value.shape, *value.strides]
            elif isinstance(value, tuple):
                items = _number_kinds(kind, tuple(map(type, value)))
                found = (items, value) if items else ([kind], [])
                if not items:
                    _read(value, *found, known)
                    found[0].append(None)
            else:
                raise TypeError(f"kernels don't take a {kind.__name__}")
            known[id(value)] = found
        kinds += found[0]
        numbers += found[1]


@functools.cache
def _array_kind(dtype, ndim, flags):
    return dtype.str, ndim, flags & ~2 if flags & 1 else flags


@functools.cache
def _number_kinds(kind, items):
    """Return the types of a tuple that holds numbers of these types and nothing else; None if it holds more."""
    return (kind, *map(_NUMBERS.get, items), None) if _NUMBERS.keys() >= set(items) else None


def layout(kinds):
    """Return the `struct.Struct` of a block with arguments of these types."""
    slots = ["q"] * ARGUMENTS
    for kind in kinds:
        if isinstance(kind, str):
            slots.append(_FORMATS[kind])
        elif isinstance(kind, tuple):
            slots.append("q" * (1 + 2 * kind[1]))
    return struct.Struct("=" + "".join(slots))


def address_slots(kinds):
    """Return the slots of a block that hold the addresses of arrays."""
    slots, found = ARGUMENTS, []
    for kind in kinds:
        if isinstance(kind, tuple):
            found.append(slots)
        slots += 1 if isinstance(kind, str) else 1 + 2 * kind[1] if isinstance(kind, tuple) else 0
    return found


def name(kinds):
    """Return types as text that is the same in every process."""
    return repr([f"{kind.__name__}{getattr(kind, '_fields', '')}" if isinstance(kind, type) else kind for kind in kinds])
