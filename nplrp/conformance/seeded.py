"""Numbers for cases: seeded, made of integers alone, so that they are the same on every machine, and short in binary.

Sums of products of `grid` numbers are exact in float32, in any order: so z is 0 where it is meant to be, and only divisions and the way
back round.
"""

from __future__ import annotations

import hashlib

import numpy as np

#: Steps of the grids: of a layer's inputs, its weights and biases, relevance.
INPUTS, WEIGHTS, RELEVANCE = 2.0**-3, 2.0**-4, 2.0**-5
#: Steps in which sums of changed inputs times changed weights are counted; and how many of them float32 counts exactly.
SUMS, COUNTED = 2.0**-12, 2.0**24


def integers(name: str, count: int) -> np.ndarray:
    """Return `count` uint64 that depend on a name alone (SplitMix64, begun with the name's SHA-256)."""
    seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "little")
    h = np.uint64(seed) + np.arange(1, count + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    for shift, factor in ((30, 0xBF58476D1CE4E5B9), (27, 0x94D049BB133111EB)):
        h = (h ^ (h >> np.uint64(shift))) * np.uint64(factor)
    return np.asarray(h ^ (h >> np.uint64(31)))


def grid(name: str, shape: tuple[int, ...], step: float, most: int = 16) -> np.ndarray:
    """Return step times whole numbers from -most to most without 0, float64 [*shape]."""
    found = integers(name, int(np.prod(shape)))
    size = (found >> np.uint64(8)) % np.uint64(most) + np.uint64(1)
    sign = np.where(found & np.uint64(1), 1.0, -1.0)
    return np.asarray((sign * size.astype(np.float64) * step).reshape(shape))


def dense(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Return numbers with 24 bits between 2^-4 and 1 in size and either sign, float64 [*shape]."""
    found = integers(name, int(np.prod(shape)))
    size = ((found >> np.uint64(16)) % np.uint64(15 << 20)).astype(np.float64) * 2.0**-24 + 2.0**-4
    return np.asarray((np.where(found & np.uint64(1), 1.0, -1.0) * size).reshape(shape))
