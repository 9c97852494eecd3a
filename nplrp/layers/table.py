"""All kinds of layers, and all operations that they are computed by: one entry each, from the file of its family."""

from __future__ import annotations

from types import MappingProxyType

from nplrp.layers import activations, conv, dense, joins, moves, norms, pool, resize, scale, slopes
from nplrp.layers.base import Kind, Operation, Step
from nplrp.layers.config import Reader

_FAMILIES = (moves, activations, conv, dense, pool, scale, joins, norms, resize, slopes)

KINDS: MappingProxyType[str, Kind] = MappingProxyType({kind.name: kind for family in _FAMILIES for kind in family.KINDS})
#: Keras's classes of layers and operations, TensorFlow's functions (``tf.``) and nodes (``op.``) -> what reads a use of one.
READERS: MappingProxyType[str, Reader] = MappingProxyType({name: read for kind in KINDS.values() for name, read in kind.keras.items()})
OPERATIONS: MappingProxyType[str, Operation] = MappingProxyType({each.name: each for family in _FAMILIES for each in family.OPERATIONS})


def operation(step: Step) -> Operation:
    """Return how a step is computed."""
    return OPERATIONS[step.kind]
