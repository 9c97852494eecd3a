"""How large sums over an array's rounding errors are: what finds an error that is too small to be seen in any single element.

Elementary roundings are taken to be independent of each other, with mean 0 (Higham and Mary 2019): then a sum T = sum_j w_j e_j over the
errors e_j of an array has a standard deviation that grows as the root of the number of roundings, while a systematic error grows as their
number. Two kinds of roundings make the relevance R_j = a_j sum_k w_jk s_k wrong:

    in z_k         s_k is off by the relative error rho_k, in all j alike: T has the share G_k s_k rho_k, with G_k = sum_j w_j a_j w_jk,
                   which is another forward pass
    in the sum     over k, for each j apart: T has the share w_j a_j times the error of that sum

A chain of n terms in any order that isn't chosen to hurt errs by u sqrt(A^2 + z^2 n / 9) in the root mean square (`chain_noise` in
`nplrp.golden.bounds`; here products' own roundings are in A). Places that see equal pixels err equally; they are found by their bits, and
added up before they are squared. What is the same all over (a changed weight's own rounding) and what is no longer linear in rho comes on
top as `systematic`. No sum is taken to exceed `LIMIT` standard deviations.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from nplrp.golden.blocks import in_blocks
from nplrp.golden.values import UNIT, Scales

#: Standard deviations that a sum of independent roundings never exceeds: one in 5e8 does by chance.
LIMIT = 6.0
#: Unit roundoffs by which all numbers may be off together.
COMMON = 2.0
#: Sums over fewer numbers of a channel than this tell no more than the numbers themselves.
FEW = 16
#: Boxes that equal numbers are gathered in, for each channel or in all: different ones that meet there make a bound wider, never narrower.
BOXES = 1 << 20
#: Of these multiples of 2^-64, the upper bits are a hash.
_GOLDEN = 0x9E3779B97F4A7C15


class Roundings(NamedTuple):
    """What an array's errors are made of; errors in units, not in unit roundoffs.

    Attributes
    ----------
    shared : (sum, slope) of ndarray
        By unit of the output: what its relative error adds to T, for w_j = 1 and for w_j = the value.
    key : ndarray
        Numbers that are equal where the units' errors are.
    own : ndarray
        Root mean square of the error that each element has for itself.
    whole : ndarray
        Root mean square of all of each element's error.
    reach : int
        How many elements of one channel an output's error reaches.
    systematic : (float, float)
        Largest T of errors that are alike everywhere, for both w.
    """

    shared: tuple[np.ndarray, np.ndarray]
    key: np.ndarray
    own: np.ndarray
    whole: np.ndarray
    reach: int
    systematic: tuple[float, float]


def scales_of(values: np.ndarray, made: Roundings) -> Scales:
    """Return how large sums over an array's errors are.

    Parameters
    ----------
    values : ndarray [n, ..., channels]
    made : Roundings
    """
    found = []
    units, of_units, of_values = 0.0, boxes_of(made.key), boxes_of(values)
    for number, (shared, weight) in enumerate(zip(made.shared, (np.ones(()), np.abs(values)), strict=True)):
        together = gathered(shared, of_units) ** 2
        variance = float(together.sum() + (gathered(weight * made.own, of_values) ** 2).sum())
        found.append((variance**0.5, made.systematic[number]))
        if not number:
            units = float(together.sum() ** 2 / np.square(together).sum()) if together.any() else float(np.count_nonzero(values))
    noise = float(np.square(made.whole).sum())
    layer = np.array([*found[0], *found[1], noise, max(units, 1.0)])
    return Scales(layer, _by_channel(values, made))


def _by_channel(values: np.ndarray, made: Roundings) -> np.ndarray:
    """Return [channels, 2]: standard deviation and systematic part of sum e_j v_j over each channel; nothing where that tells no more."""
    channels = values.shape[-1] if values.ndim else 1
    if values.ndim < 2 or values.size // channels < FEW:
        return np.zeros((0, 2))
    size = np.abs(values)
    together = gathered(size * made.whole, boxes_of(values, channels))
    deviation = np.sqrt(made.reach * np.square(together).sum(axis=0))
    return np.stack([deviation, COMMON * UNIT * np.square(size).reshape(-1, channels).sum(axis=0)], axis=-1)


class Boxes(NamedTuple):
    """Which box each number is gathered in, how many boxes there are for each channel, and how many channels."""

    places: np.ndarray
    number: int
    channels: int


def boxes_of(key: np.ndarray, channels: int = 1) -> Boxes:
    """Return boxes that numbers with equal keys share, apart for each channel of the last axis."""
    boxes = max(BOXES // channels, 1 << 8)
    bits = boxes.bit_length() - 1
    mixed = np.ascontiguousarray(key, np.float64).reshape(-1).view(np.uint64) * np.uint64(_GOLDEN)
    mixed >>= np.uint64(64 - bits)
    places = mixed.view(np.int64)
    if channels > 1:
        places *= channels
        places.reshape(-1, channels)[...] += np.arange(channels)
    return Boxes(places, 1 << bits, channels)


def gathered(numbers: np.ndarray, boxes: Boxes) -> np.ndarray:
    """Add up the numbers in each box: [boxes, channels]."""
    return np.bincount(boxes.places, numbers.reshape(-1), boxes.number * boxes.channels).reshape(-1, boxes.channels)


def chain_deviation(terms: float, magnitude: np.ndarray, value: np.ndarray) -> np.ndarray:
    """Return the root mean square of the error of a sum of so many terms with that sum of absolute values."""
    return in_blocks(lambda A, z: UNIT * np.sqrt(np.square(A) + (terms / 9) * np.square(z)), magnitude, value)
