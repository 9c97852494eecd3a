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
    width = shape[-1] if shape else 1
    rows, step = [each.reshape(-1, width) for each in arrays], max(BLOCK // width, 1)
    made = work(*(each[:step] for each in rows))
    if len(rows[0]) > step:
        first, made = made, np.empty(rows[0].shape, made.dtype)
        made[:step] = first
    for begin in range(step, len(rows[0]), step):
        part = slice(begin, begin + step)
        made[part] = work(*(each[part] for each in rows))
    return made.reshape(shape)
