"""A network as data: layers with names, shapes, plain arrays, and what each of them reads.

Nothing here computes. `nplrp.files.weights` makes a `Model` from a file, `nplrp.explanation` explains with it.
Shapes are (H, W, C) for images and (C,) for vectors, without the batch axis; kernels are Keras's own:
HWIO for convolutions, (in, out) for dense layers. Layers are in an order in which each stands behind those that it reads.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from nplrp.cache import Stamp, remembered_hash, stamp
from nplrp.errors import LayerError, ModelError, WeightsError, brief, nearest
from nplrp.layers.activations import activation
from nplrp.layers.base import INPUT, MAX_VALUES, Layer, Shape, Window, output_shape
from nplrp.layers.table import KINDS
from nplrp.preprocessing import Preprocessing
from nplrp.workspace import ROOM, Room, Workspace

if TYPE_CHECKING:
    from nplrp.layers.base import Step
    from nplrp.plan import Plan

__all__ = ["INPUT", "Layer", "Model", "Preprocessing", "Shape", "Window", "build", "chain", "content_hash", "size_of"]

#: The most layers of a model; more is taken for damage.
MAX_LAYERS = 20_000


def size_of(shape: Shape) -> int:
    """Return the number of units of a shape."""
    return math.prod(shape)


def build(input_shape: Shape, layers: Sequence[Layer], name: str = "model", **attributes: Any) -> Model:
    """Derive every layer's shapes from the model's input and return the model.

    Parameters
    ----------
    input_shape : (H, W, C) or (C,)
    layers : sequence of Layer
        In forward order, the last one giving the model's output; their shapes are ignored and derived here. A layer that names no inputs
        reads the one before it.
    name, **attributes
        Further fields of `Model`.

    Raises
    ------
    ModelError
        If a layer reads what isn't there or doesn't fit it, or nobody reads a layer; the message names the layer and the shapes.
    """
    sides = input_shape if isinstance(input_shape, tuple | list) else ()
    if not sides or not all(isinstance(side, int | np.integer) and side > 0 for side in sides) or math.prod(sides) > MAX_VALUES:
        raise ModelError(
            f"the model's input has shape {brief(input_shape)}, expected (H, W, C), (steps, C) or (C,) with 1 to {MAX_VALUES} numbers"
        )
    if not layers:
        raise ModelError("the model has no layers, expected one at least")
    if len(layers) > MAX_LAYERS:
        raise ModelError(f"the model has {len(layers)} layers; at most {MAX_LAYERS} are supported")
    odd = next((layer for layer in layers if not isinstance(layer, Layer) or not isinstance(layer.name, str)), None)
    if odd is not None:
        raise ModelError(f"{brief(odd)} is no layer with a name; expected nplrp.Layer(name, kind, ...)")
    shapes, done, before = {INPUT: tuple(map(int, input_shape))}, list[Layer](), INPUT
    waiting: set[str] = set()  # layers that nobody has read yet
    names = {layer.name for layer in layers}
    for layer in layers:
        if layer.name in shapes:
            raise ModelError(
                f"two layers are called {layer.name!r} (the model's input is called 'input'); relevances are kept by name, so rename one"
            )
        kind = KINDS.get(layer.kind)
        if kind is None:
            raise ModelError(f"layer {layer.name!r} is of kind {layer.kind!r}, which there isn't; {nearest(layer.kind, KINDS)}")
        activation(layer.activation)
        inputs = tuple(layer.inputs) or (before,)
        for source in inputs:
            if source not in shapes:
                what = "stands behind it or reads it in turn" if source in names else "isn't there"
                raise ModelError(f"layer {layer.name!r} reads layer {source!r}, which {what}; a layer may read only those before it")
        read = tuple(shapes[source] for source in inputs)
        shown = replace(layer, inputs=() if inputs == (before,) else inputs, input_shape=read[0], input_shapes=read)
        out = output_shape(kind, shown, read)
        done.append(replace(shown, output_shape=out))
        shapes[layer.name], before = out, layer.name
        waiting.difference_update(inputs)
        waiting.add(layer.name)
    idle = sorted(waiting - {before})
    if idle:
        raise ModelError(f"layer {idle[0]!r} lies beside the way from the model's input to its output: nobody reads it; leave it out")
    return Model(name=name, input_shape=shapes[INPUT], layers=tuple(done), **attributes)


chain = build


def sources(layers: Sequence[Layer]) -> list[tuple[int, ...]]:
    """Return the places of the layers that each layer reads; -1 is the model's input."""
    place = {INPUT: -1} | {layer.name: i for i, layer in enumerate(layers)}
    return [tuple(place[name] for name in layer.inputs) if layer.inputs else (i - 1,) for i, layer in enumerate(layers)]


@dataclass
class Kept:
    """What a model keeps between calls for speed: everything can be made again.

    Attributes
    ----------
    steps, plans : dict
        By what they were made of (`nplrp.plan`).
    weights_checked : bool
        Whether NaN and infinity were looked for.
    content_hash : str or None
    stamps : sequence of Stamp, or None
        The files that the model was read from.
    reading : str
        How they were read, if there is more than one way.
    mapped : bool
        Whether the arrays lie in them still.
    room : Room
        What may be held for speed alone, by all steps together.
    workspaces : list of Workspace
        Lent to one pass at a time.
    """

    steps: dict[tuple[Any, ...], tuple[Step, ...]] = field(default_factory=dict)
    plans: dict[tuple[Any, ...], Plan] = field(default_factory=dict)
    weights_checked: bool = False
    content_hash: str | None = None
    stamps: Sequence[Stamp] | None = None
    reading: str = ""
    mapped: bool = True
    room: Room = field(default_factory=lambda: Room(ROOM))
    workspaces: list[Workspace] = field(default_factory=list)


@dataclass(frozen=True, eq=False)
class Model:
    """Layers, how the input is made from an image, and what the outputs are called.

    Attributes
    ----------
    name : str
    input_shape : (H, W, C) or (C,)
    layers : tuple of Layer
        In forward order.
    preprocessing : Preprocessing
    classes : tuple of (str, str) or None
        (class id, description) of every output unit.
    source : str or None
        Where the weights came from; not part of the content.
    room : int
        Bytes that it may hold for speed alone: weights of convolutions as transforms take them, from the second call on. Another model of
        the same layers with more of it is ``dataclasses.replace(model, room=600_000_000)``.
    """

    name: str
    input_shape: Shape
    layers: tuple[Layer, ...]
    preprocessing: Preprocessing = Preprocessing()  # noqa: RUF009 - frozen
    classes: tuple[tuple[str, str], ...] | None = None
    source: str | None = None
    room: int = ROOM
    kept: Kept = field(default_factory=Kept, init=False, repr=False)  # not handed on by `replace`

    def __post_init__(self) -> None:
        if isinstance(self.room, bool) or not isinstance(self.room, int) or self.room < 0:
            raise ModelError(f"the model's room is {brief(self.room)}, expected a number of bytes, 0 or more")
        self.kept.room.size = self.room

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what can be made again: steps, plans, memory."""
        kept = self.kept
        left = Kept(content_hash=kept.content_hash, stamps=kept.stamps, reading=kept.reading, mapped=False, room=kept.room)
        return {**self.__dict__, "kept": left}

    def __iter__(self) -> Iterator[Layer]:
        return iter(self.layers)

    def __getitem__(self, name: str) -> Layer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        hint = nearest(name, (layer.name for layer in self.layers), "nplrp info lists them")
        raise LayerError(f"the model has no layer {name!r}; {hint}")

    @property
    def output_shape(self) -> Shape:
        """Shape of the last layer's output, without the batch axis."""
        return self.layers[-1].output_shape if self.layers else self.input_shape

    @property
    def content_hash(self) -> str:
        """SHA-256 over the layers and their arrays: the same however the file was laid out. Read once, then kept."""
        if self.kept.content_hash is None:
            stamps = self.kept.stamps
            fresh = bool(stamps) and all(stamp(Path(each.path)) == each for each in stamps or ())
            key = f"content hash 2 {[tuple(each) for each in stamps or ()]} {self.kept.reading}"
            self.kept.content_hash = remembered_hash(key, lambda: content_hash(self)) if fresh else content_hash(self)
        return self.kept.content_hash

    def fresh_hash(self) -> str:
        """Return the content hash of the arrays as they are, whatever is remembered: for provenance."""
        self.kept.content_hash = content_hash(self)
        return self.kept.content_hash

    def remember_hash(self, stamps: Sequence[Stamp], reading: str = "", mapped: bool = True) -> None:
        """Keep the content hash between runs.

        Parameters
        ----------
        stamps : sequence of Stamp
            Every file that the model was read from.
        reading : str
            How, if there is more than one way to read them.
        mapped : bool
            Whether the arrays lie in them still.
        """
        self.kept.stamps, self.kept.reading, self.kept.mapped = stamps, reading, mapped

    def check_files(self) -> None:
        """Raise if a file that the arrays lie in was changed in place since it was read; another one under its name does no harm.

        Raises
        ------
        WeightsError
            Before the system ends the process because what it reads was cut off.
        """
        for known in (self.kept.stamps or ()) if self.kept.mapped else ():
            now = stamp(Path(known.path))
            if now and (now.inode, now.device) == known[-2:] and (now.size, now.modified) != (known.size, known.modified):
                raise WeightsError(f"{known.path}: the file was changed while the model is in use; load the model again")

    @property
    def reads(self) -> dict[str, list[str]]:
        """Names of what each layer reads, by layer, in forward order."""
        names = [*(layer.name for layer in self.layers), INPUT]
        return {layer.name: [names[j] for j in places] for layer, places in zip(self.layers, sources(self.layers), strict=True)}

    @property
    def is_chain(self) -> bool:
        """Whether every layer reads the one before it."""
        return not any(layer.inputs for layer in self.layers)

    @property
    def _head(self) -> str:
        return f"{len(self.layers)} layers, {sum(layer.parameters for layer in self.layers):,} parameters"

    def _rows(self) -> list[tuple[str, ...]]:
        """Return the table that it prints; a chain needs no column of inputs."""
        graph = not self.is_chain
        rows = [("layer", "kind", "output shape", "parameters", *(["inputs"] if graph else []))]
        rows += [(INPUT, "input", str(self.input_shape), "0", *([""] if graph else []))]
        for layer, reads in zip(self.layers, self.reads.values(), strict=True):
            kind = layer.kind if layer.activation == "linear" else f"{layer.kind} + {layer.activation}"
            inputs = [", ".join(reads)] if graph else []
            rows.append((layer.name, kind, str(layer.output_shape), f"{layer.parameters:,}", *inputs))
        return rows

    def __str__(self) -> str:
        rows = self._rows()
        widths = [max(len(row[i]) for row in rows) for i in range(4)]
        lines = [
            "  ".join(
                [f"{row[0]:<{widths[0]}}", f"{row[1]:<{widths[1]}}", f"{row[2]:<{widths[2]}}", f"{row[3]:>{widths[3]}}", *row[4:]]
            ).rstrip()
            for row in rows
        ]
        return "\n".join([f"{self.name}: {self._head}", *lines])

    def __repr__(self) -> str:
        return f"Model({self.name!r}, input {self.input_shape}, output {self.output_shape}, {self._head})"

    def _repr_html_(self) -> str:
        from nplrp.tables import table

        head, *rows = self._rows()
        how = f"input prepared by {self.preprocessing.mode}, {self.preprocessing.resample} resize"
        return table(head, rows, f"{self.name}: {self._head}", [how], "lllrl"[: len(head)])


#: Kinds that compute nothing; how a file writes them down doesn't change what a model is.
_SILENT = ("input", "identity")


def content_hash(model: Model) -> str:
    """Hash what the model computes: kinds, windows, shapes, who reads whom, and arrays, in forward order, not names of files or layers."""
    digest, place = hashlib.sha256(), {-1: -1}  # a layer's place among those that are hashed
    count = -1
    for i, (layer, reads) in enumerate(zip(model.layers, sources(model.layers), strict=True)):
        if layer.kind in _SILENT:
            place[i] = place[reads[0]]
            continue
        facts = {key: value for key, value in layer.describe().items() if key not in ("name", "inputs")}
        inputs = [place[j] for j in reads]
        if inputs != [count]:
            facts["inputs"] = inputs
        count += 1
        place[i] = count
        digest.update(json.dumps(facts, sort_keys=True).encode())
        for _, array in sorted(layer.arrays.items()):
            digest.update(np.ascontiguousarray(array, dtype="<f8" if array.dtype == np.float64 else "<f4").data)
    return digest.hexdigest()
