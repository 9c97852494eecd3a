"""Golden values in memory."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.errors import nearest
from nplrp.files.hdf5 import path_name
from nplrp.golden.errors import GoldenError

#: Version 1 held chains, 2 graphs; 3 holds both, with what sums over errors may come to, and activations and relevances of one pass.
FORMAT, VERSIONS = "nplrp-golden", (1, 2, 3)
PROFILES = ("digest", "full")

#: Unit roundoff that the stored error bounds are for: float32's.
UNIT = 2.0**-24


@dataclass(frozen=True, eq=False)
class Scales:
    """How large sums over an array's rounding errors are, for u = 2^-24 (`nplrp.golden.scales`).

    Attributes
    ----------
    layer : ndarray [6]
        Of the sum of the errors: standard deviation, and what may be systematic; the same of the sum of errors times values; mean of the
        sum of squared errors; number of errors that are independent of each other, at least.
    channels : ndarray [channels, 2]
        Of the sum of errors times values, by channel; [0, 2] where that is no more than single numbers.
    """

    layer: np.ndarray = field(repr=False)
    channels: np.ndarray = field(repr=False)


@dataclass(frozen=True, eq=False)
class Tensor:
    """An array of a golden run with the tolerance that was derived for it, whole or as samples.

    Attributes
    ----------
    shape : tuple of int
        Of the whole array, with the batch axis.
    values : ndarray, float64
        [*shape], or the samples' values [samples].
    expected, certified : ndarray like values, float32
        Error bounds for a float32 backend that is given golden inputs: what rounding is expected to do at most, and what it can do.
    undecided : ndarray like values, float32
        Relevance that hangs on decisions which lie inside the error bound: near-tied winners, denominators without a sure sign.
    spread : ndarray [runs, 2], float64
        Of float32 runs from end to end in different orders of summation: sum |d| / sum |v| and max |d| / max |v|.
    sha256 : str
        Of the whole array as little-endian float64.
    sums : (float, float, float)
        Sum, sum of absolute values, largest absolute value of the whole array.
    scales : Scales or None
        How large sums over its errors are; None where they aren't bounded, and in files before version 3.
    shifts : ndarray [runs, 2], float64
        Of the float32 runs: sum d / sum |v|, and sum d v / sum v^2; [0, 2] in files before version 3.
    """

    shape: tuple[int, ...]
    values: np.ndarray = field(repr=False)
    expected: np.ndarray = field(repr=False)
    certified: np.ndarray = field(repr=False)
    undecided: np.ndarray = field(repr=False)
    spread: np.ndarray = field(repr=False)
    sha256: str
    sums: tuple[float, float, float]
    scales: Scales | None = None
    shifts: np.ndarray = field(default_factory=lambda: np.zeros((0, 2)), repr=False)


@dataclass(frozen=True, eq=False)
class GoldenLayer:
    """One layer's golden values; the model's input is the layer ``"input"``.

    Attributes
    ----------
    name, kind, rule : str
        The rule is the layer's own; it makes the relevance of the layer below.
    activation, relevance : Tensor or None
        Of the layer's output, after its activation; a layer above the pass has no relevance.
    indices : ndarray [samples] of int, or None
        Which elements of the flattened arrays were sampled (profile ``"digest"``).
    ambiguous : ndarray [n, *output_shape] of bool, or None
        Decisions inside the error bound: units whose sign before the ReLU, windows whose winner float32 may decide otherwise.
    ambiguous_count : int
    edges : mapping of str to Tensor
        By input, in the order of their names in the file: the relevance that the layer's rule gives to it, where other layers read it too.
        The input's relevance is the sum of what its readers give to it.
    """

    name: str
    kind: str
    rule: str
    activation: Tensor
    relevance: Tensor | None
    indices: np.ndarray | None = field(repr=False)
    ambiguous: np.ndarray | None = field(repr=False)
    ambiguous_count: int
    edges: Mapping[str, Tensor] = field(default_factory=lambda: MappingProxyType({}), repr=False)


@dataclass(frozen=True, eq=False)
class Golden:
    """A recorded run: its provenance and its layers.

    Attributes
    ----------
    facts : mapping
        JSON values: model, composite, every rule of every layer with every constant, hashes, preprocessing, numerics.
    layers : tuple of GoldenLayer
        In forward order, ``"input"`` first.
    input : ndarray or None
        [n, *input_shape]; None if a digest left it out for its size.
    output, logits : ndarray [n, units]
    """

    facts: Mapping[str, Any]
    layers: tuple[GoldenLayer, ...]
    input: np.ndarray | None = field(repr=False)
    output: np.ndarray = field(repr=False)
    logits: np.ndarray = field(repr=False)

    @property
    def profile(self) -> str:
        """``"full"`` or ``"digest"``."""
        return str(self.facts["profile"])

    @property
    def names(self) -> list[str]:
        """Names of the layers in forward order."""
        return [layer.name for layer in self.layers]

    def __getitem__(self, name: str) -> GoldenLayer:
        for layer in self.layers:
            if layer.name == name:
                return layer
        raise GoldenError(f"the golden values have no layer {name!r}; {nearest(name, self.names, 'nplrp golden show lists them')}")

    @cached_property
    def inputs(self) -> Mapping[str, tuple[str, ...]]:
        """For each layer the names of those that it reads, in order."""
        rows = self.facts["layers"]
        given = [row.get("inputs") or ([before["name"]] if before else []) for before, row in zip([None, *rows], rows, strict=False)]
        return {row["name"]: tuple(each) for row, each in zip(rows, given, strict=True)}

    @cached_property
    def readers(self) -> Mapping[str, tuple[str, ...]]:
        """For each layer the names of those that read it: their rules made its relevance."""
        found: dict[str, list[str]] = {name: [] for name in self.inputs}
        for name, inputs in self.inputs.items():
            for each in dict.fromkeys(inputs):
                found[each].append(name)
        return {name: tuple(each) for name, each in found.items()}

    def above(self, name: str) -> set[str]:
        """Return the layers that hang on a layer, whose relevance is what its own is made of."""
        found, waiting = set[str](), [name]
        while waiting:
            new = [reader for reader in self.readers[waiting.pop()] if reader not in found]
            found.update(new)
            waiting += new
        return found

    def below(self, name: str) -> set[str]:
        """Return the layers that a layer hangs on, of whose activations its own is made."""
        found, waiting = set[str](), [name]
        while waiting:
            new = [each for each in dict.fromkeys(self.inputs[waiting.pop()]) if each not in found]
            found.update(new)
            waiting += new
        return found

    def owners(self, name: str) -> tuple[GoldenLayer, ...]:
        """Return the layers whose rules made the relevance of `name`: those that read it; none for the layer where the pass began."""
        return tuple(self[reader] for reader in self.readers[name] if self[reader].relevance is not None)

    def arrays(self) -> Iterator[tuple[str, np.ndarray]]:
        """Return every array with its path in the file."""
        yield "output", self.output
        yield "logits", self.logits
        if self.input is not None:
            yield "input", self.input
        for layer in self.layers:
            at = f"layers/{path_name(layer.name)}"
            if layer.indices is not None:
                yield f"{at}/indices", layer.indices
            if layer.ambiguous is not None:
                yield f"{at}/ambiguous", np.packbits(layer.ambiguous.reshape(-1))
            for tensor, prefix, name in ((layer.activation, "activation_", "activation"), (layer.relevance, "", "relevance")):
                if tensor is None:
                    continue
                yield f"{at}/{name}", tensor.values
                yield f"{at}/{prefix}error_expected", tensor.expected
                yield f"{at}/{prefix}error_certified", tensor.certified
                if not prefix:  # in activations nothing is undecided
                    yield f"{at}/undecided", tensor.undecided
                yield f"{at}/{prefix}spread", tensor.spread
                if len(tensor.shifts):
                    yield f"{at}/{prefix}shifts", tensor.shifts
                yield from _scales(f"{at}/{prefix}", tensor)
            for name, edge in layer.edges.items():
                path = f"{at}/edges/{path_name(name)}"
                yield f"{path}/relevance", edge.values
                yield f"{path}/error_expected", edge.expected
                yield f"{path}/error_certified", edge.certified
                yield f"{path}/undecided", edge.undecided
                yield from _scales(f"{path}/", edge)

    @property
    def content_sha256(self) -> str:
        """SHA-256 over provenance and arrays: the same however the file is laid out, and wherever it was computed."""
        digest = hashlib.sha256()
        digest.update(json.dumps(self._hashed_facts(), sort_keys=True).encode())
        for path, array in sorted(self.arrays(), key=lambda item: item[0]):
            digest.update(f"{path} {array.dtype.newbyteorder('<').str} {array.shape}".encode())
            digest.update(little_endian(array))
        for layer in self.layers:
            digest.update(json.dumps(_summary(layer), sort_keys=True).encode())
        return digest.hexdigest()

    def _hashed_facts(self) -> dict[str, Any]:
        return {key: value for key, value in self.facts.items() if key not in ("env", "content_sha256")}

    def __str__(self) -> str:
        facts, width = self.facts, max(len("layer"), *(len(layer.name) for layer in self.layers))
        lines = [
            f"{facts['composite']} of {facts['model_name']}, {facts['images']} image(s), start {facts['start']}",
            f"profile {self.profile}, dialect {facts['dialect']}, {facts['numerics']}, nplrp {facts['generator_version']}",
            f"weights  {facts['weights_sha256']}",
            f"input    {facts['input_sha256']}",
            f"content  {facts['content_sha256']}",
            f"{'layer':<{width}} {'sum R':>14} {'sum |R|':>14} {'max |R|':>14} {'ambiguous':>9}  rule",
        ]
        for layer in reversed(self.layers):
            cells = [f"{v:>14.8g}" for v in layer.relevance.sums] if layer.relevance else [f"{'':>14}"] * 3
            lines.append(f"{layer.name:<{width}} {' '.join(cells)} {layer.ambiguous_count:>9}  {layer.rule}".rstrip())
        return "\n".join(lines)


def _scales(prefix: str, tensor: Tensor) -> Iterator[tuple[str, np.ndarray]]:
    """Return what is stored of an array's scales, with its path."""
    if tensor.scales is not None:
        yield f"{prefix}scales", tensor.scales.layer
        if len(tensor.scales.channels):
            yield f"{prefix}channel_scales", tensor.scales.channels


def _summary(layer: GoldenLayer) -> dict[str, Any]:
    """Return what is known of a layer beside its arrays; in a digest it vouches for what wasn't sampled."""
    found: dict[str, Any] = {key: getattr(layer, key) for key in ("name", "kind", "rule", "ambiguous_count")}
    for what in ("activation", "relevance"):
        tensor = getattr(layer, what)
        found[what] = tensor and [list(tensor.shape), tensor.sha256, list(tensor.sums)]
    if layer.edges:
        found["edges"] = {name: [list(edge.shape), edge.sha256, list(edge.sums)] for name, edge in layer.edges.items()}
    return found


def little_endian(array: np.ndarray) -> bytes:
    """Return an array's bytes in C order, little-endian."""
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<")).tobytes()


def sha256(array: np.ndarray) -> str:
    """Return the SHA-256 of an array as little-endian float64 in C order."""
    return hashlib.sha256(little_endian(np.asarray(array, np.float64))).hexdigest()
