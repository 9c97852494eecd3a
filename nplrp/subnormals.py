"""Whether this process keeps numbers below the normal ones.

A library that was linked with -ffast-math sets FTZ and DAZ (on ARM: FZ) in the thread that loads it, and those that this starts later have
them, too: such numbers are 0 then, and results have other bits than anywhere else.
"""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np

from nplrp.errors import NumericsError, NumericsWarning

_SMALL: dict[str, tuple[Any, Any]] = {
    np.dtype(kind).name: (np.array([np.finfo(kind).tiny, np.finfo(kind).smallest_subnormal], kind), np.array([0.5, 1.0], kind))
    for kind in (np.float64, np.float32)
}


def flushed_subnormals() -> list[str]:
    """Return the dtypes whose subnormal numbers this process flushes to zero: names."""
    with np.errstate(under="ignore"):
        return [name for name, (small, factors) in _SMALL.items() if not (small * factors).all()]


def warn_if_flushed(depth: int) -> None:
    """Warn, `depth` calls up, if this process flushes subnormal numbers to zero."""
    flushed = flushed_subnormals()
    if flushed:
        warnings.warn(f"{_told(flushed)}; results may have other bits than elsewhere: {_ADVICE}", NumericsWarning, stacklevel=depth + 1)


def refuse_flushed() -> None:
    """Stop if this process flushes subnormal numbers to zero.

    Raises
    ------
    NumericsError
    """
    flushed = flushed_subnormals()
    if flushed:
        raise NumericsError(f"{_told(flushed)}; golden values would be wrong: {_ADVICE}")


_ADVICE = "run nplrp in a process of its own"


def _told(flushed: list[str]) -> str:
    return (
        f"this process flushes subnormal {' and '.join(flushed)} numbers to zero: a library was loaded that sets FTZ or DAZ "
        "(linked with -ffast-math)"
    )
