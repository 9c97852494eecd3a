"""NumPy on large arrays, block by block."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

#: Numbers of a block: all that is made of them on the way stays in the processor's cache.
BLOCK = 1 << 14


def in_blocks(work: Callable[..., np.ndarray], *arrays: np.ndarray) -> np.ndarray:
    """Return work(*arrays), of their shape, with the same bits in a fraction of the time: temporary arrays are short and used again.

    Parameters
    ----------
    work : callable
        Takes arrays [rows, last axis] and makes of their numbers one by one as many others; it may depend on the place in the last axis.
    *arrays : ndarray
        All of one shape.
    """
    shape = arrays[0].shape
    if arrays[0].size <= BLOCK:
        width = shape[-1] if shape else 1
        return np.asarray(work(*(each.reshape(-1, width) for each in arrays))).reshape(shape)
    rows = [each.reshape(-1, shape[-1]) for each in arrays]
    step, made = max(BLOCK // shape[-1], 1), None
    for begin in range(0, len(rows[0]), step):
        part = slice(begin, begin + step)
        found = work(*(each[part] for each in rows))
        if made is None:
            made = np.empty(rows[0].shape, found.dtype)
        made[part] = found
    assert made is not None
    return made.reshape(shape)
