"""A network while it is put together: layers put down one behind the other, then tidied, named and built.

What an exporter has taken apart is put together again: a bias that is added behind a convolution, a batch norm that was folded to a
product and a sum, a ReLU behind the layer that it belongs to. Only where nobody else reads what is between them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from nplrp.errors import ModelError
from nplrp.layers import INPUT, KINDS
from nplrp.model import Layer, Model, Shape, build

#: A batch norm that only multiplies and adds: variance + epsilon is 1 in every precision, and epsilon is large enough for
#: TensorFlow's fused kernel, which raises it to 1.001e-5 at least.
UNIT_EPSILON = 2.0**-10
#: Layers that Keras gives a bias and an activation of their own.
WEIGHTED = ("conv", "depthwise", "conv_transpose", "dense")
#: Layers that look at the same numbers in another way.
VIEWS = ("reshape", "flatten")
#: Activations that become part of such a layer; all others stay layers of their own.
PART_OF_LAYER = ("relu", "softmax", "log_softmax")


@dataclass(frozen=True)
class Draft:
    """A layer that has no final name yet.

    Attributes
    ----------
    kind : str
    name : str
        What it is called if nobody else is.
    inputs : tuple of int
        Places of the drafts that it reads; -1 is the model's input.
    shape : tuple of int
        Of its output, without the batch axis.
    fields : mapping
        Further ones of `Layer`.
    """

    kind: str
    name: str
    inputs: tuple[int, ...]
    shape: Shape
    fields: Mapping[str, Any] = field(default_factory=dict)

    @property
    def arrays(self) -> Mapping[str, np.ndarray]:
        """Its arrays by name."""
        found: Mapping[str, np.ndarray] = self.fields.get("arrays", {})
        return found

    def given(self, **fields: Any) -> Draft:
        """Return it with some fields changed."""
        return replace(self, fields={**self.fields, **fields})


class Graph:
    """Drafts in forward order.

    Parameters
    ----------
    input_shape : (H, W, C), (steps, C) or (C,)
    """

    def __init__(self, input_shape: Shape) -> None:
        self.input_shape = tuple(input_shape)
        self.drafts: list[Draft] = []

    def shape(self, place: int) -> Shape:
        """Return the shape of what a draft gives, or of the model's input (-1)."""
        return self.input_shape if place < 0 else self.drafts[place].shape

    def add(self, kind: str, name: str, *inputs: int, **fields: Any) -> int:
        """Put a layer down and return its place.

        Raises
        ------
        ModelError
            If it doesn't fit what it reads.
        """
        shapes = tuple(self.shape(place) for place in inputs)
        layer = Layer(name, kind, input_shape=shapes[0], input_shapes=shapes, **fields)
        self.drafts.append(Draft(kind, name, inputs, KINDS[kind].shape(layer, shapes), fields))
        return len(self.drafts) - 1

    def model(self, output: int, name: str, rename: Callable[[list[str]], list[str]] = list, **attributes: Any) -> Model:
        """Leave out what doesn't lead to an output, tidy up, give names, and build the model.

        Parameters
        ----------
        output : int
            A draft's place.
        name : str
        rename : callable
            What becomes of all layers' names, if none is taken twice by it.
        **attributes
            Further fields of `Model`.

        Raises
        ------
        ModelError
            If there are no layers.
        """
        drafts = _tidied(_needed(self.drafts, output), self.input_shape)
        if not drafts:
            raise ModelError("the graph has no layers")
        names = _free_names([draft.name for draft in drafts])
        short = rename(names)
        names = short if len(set(short)) == len(short) and INPUT not in short else names
        layers = [
            Layer(own, draft.kind, inputs=tuple(names[i] if i >= 0 else INPUT for i in draft.inputs), **draft.fields)
            for own, draft in zip(names, _as_batch_norms(drafts), strict=True)
        ]
        return build(self.input_shape, layers, name, **attributes)


def _needed(drafts: Sequence[Draft], output: int) -> list[Draft]:
    """Return the drafts that lead to an output, which is the last of them."""
    needed = {output} - {-1}
    for place in range(output, -1, -1):
        if place in needed:
            needed.update(i for i in drafts[place].inputs if i >= 0)
    moved = {old: new for new, old in enumerate(sorted(needed))} | {-1: -1}
    return [replace(drafts[old], inputs=tuple(moved[i] for i in drafts[old].inputs)) for old in sorted(needed)]


def _tidied(drafts: Sequence[Draft], input_shape: Shape) -> list[Draft]:
    """Put together what belongs together, and leave out what changes nothing."""
    readers = Counter(i for draft in drafts for i in draft.inputs)
    found: list[Draft] = []
    place = {-1: -1}
    for old, draft in enumerate(drafts):
        before = found[place[draft.inputs[0]]] if draft.inputs and draft.inputs[0] >= 0 else None
        one = _merged(before, draft) if before is not None and len(draft.inputs) == 1 and readers[draft.inputs[0]] == 1 else None
        if one is not None:
            place[old] = place[draft.inputs[0]]
            found[place[old]] = one
        else:
            place[old] = len(found)
            found.append(replace(draft, inputs=tuple(place[i] for i in draft.inputs)))
        last = found[-1]
        source = last.inputs[0]
        if place[old] == len(found) - 1 and last.kind in VIEWS and last.shape == (found[source].shape if source >= 0 else input_shape):
            place[old] = source
            found.pop()
    return found


def _merged(before: Draft, draft: Draft) -> Draft | None:
    """Return one draft for two, if they are one layer."""
    weighted = before.kind in WEIGHTED and before.fields.get("activation", "linear") == "linear"
    if draft.kind == "affine" and set(draft.arrays) == {"offset"}:
        if weighted and "bias" not in before.arrays:
            return before.given(arrays={**before.arrays, "bias": draft.arrays["offset"]})
        if before.kind == "affine" and set(before.arrays) == {"scale"}:
            return before.given(arrays={**before.arrays, **draft.arrays})
    if draft.kind == "activation" and weighted and draft.fields["activation"] in PART_OF_LAYER:
        return before.given(activation=draft.fields["activation"])
    if draft.kind in VIEWS and before.kind in VIEWS:
        return replace(draft, inputs=before.inputs)
    if draft.kind in VIEWS and before.fields.get("keepdims") and before.shape[-1:] == draft.shape:
        return replace(before.given(keepdims=False), shape=draft.shape)
    return None


def _as_batch_norms(drafts: Sequence[Draft]) -> list[Draft]:
    """Return drafts with factors and summands as batch norms, but for those on the input itself, which prepare the picture."""
    before = {-1}
    for i, draft in enumerate(drafts):
        if before.issuperset(draft.inputs) and draft.kind in ("affine", "permute", "pad", "crop", "concatenate", "resize", *VIEWS):
            before.add(i)
    return [_as_constants(draft) if i in before else _as_batch_norm(draft) for i, draft in enumerate(drafts)]


def _as_constants(draft: Draft) -> Draft:
    """Return factors and summands as a Rescaling holds them, in float64."""
    if draft.kind != "affine":
        return draft
    return draft.given(arrays={name: array.astype(np.float64) for name, array in draft.arrays.items()})


def _as_batch_norm(draft: Draft) -> Draft:
    """Return factors and summands for each channel as a batch norm, which every reader knows; in float64 they stay what they are."""
    if draft.kind != "affine" or any(array.dtype != np.float32 for array in draft.arrays.values()):
        return draft
    arrays = {new: draft.arrays[old] for old, new in (("scale", "gamma"), ("offset", "beta")) if old in draft.arrays}
    channels = draft.shape[-1]
    moments = {"mean": np.zeros(channels, np.float32), "variance": np.full(channels, 1 - UNIT_EPSILON, np.float32)}
    return replace(draft.given(epsilon=UNIT_EPSILON, arrays={**arrays, **moments}), kind="batchnorm")


def _free_names(wanted: Sequence[str]) -> list[str]:
    """Give every layer a name of its own."""
    taken, names = {INPUT}, []
    for base in wanted:
        name, number = base, 1
        while name in taken:
            name, number = f"{base}_{number}", number + 1
        taken.add(name)
        names.append(name)
    return names
