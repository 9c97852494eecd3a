"""All kinds of layers, and all operations that they are computed by: one entry each, from the file of its family."""

from __future__ import annotations

from types import MappingProxyType

from nplrp.layers import activations, conv, dense, joins, moves, norms, pool, resize, scale, slopes
from nplrp.layers.base import Kind, Operation, Step

_FAMILIES = (moves, activations, conv, dense, pool, scale, joins, norms, resize, slopes)

KINDS: MappingProxyType[str, Kind] = MappingProxyType({kind.name: kind for family in _FAMILIES for kind in family.KINDS})
OPERATIONS: MappingProxyType[str, Operation] = MappingProxyType({each.name: each for family in _FAMILIES for each in family.OPERATIONS})


def operation(step: Step) -> Operation:
    """Return how a step is computed."""
    return OPERATIONS[step.kind]
