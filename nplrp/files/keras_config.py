"""Keras's `model_config` JSON -> layers in forward order, in the dialects of Keras 2 and Keras 3. This file knows models, not layers.

Sequential, Functional and models inside models are one graph: who reads whom, how often, in which order. What a layer is, says the reader
of its class (`nplrp.layers.table.READERS`).
"""

from __future__ import annotations

import difflib
import heapq
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from nplrp.errors import ModelError, WeightsError, brief
from nplrp.files.keras_functions import CALLS, put_together
from nplrp.layers.base import Shape
from nplrp.layers.config import MAX_LAYERS, Call, ConfigLayer, Options, Sketch, Source, Tensor, is_size, items, leaves
from nplrp.layers.table import KINDS, READERS

MAX_DEPTH = 16
#: What a layer may be called with: a constant as large as a picture.
MAX_VALUES = 500_000
#: What a side that the model leaves open (`None`) becomes: ImageNet's.
OPEN_SIDE = 224

MODELS = ("Sequential", "Functional", "Model")
INPUT_LAYER = "InputLayer"
#: Keras's classes that are supported.
SUPPORTED = (INPUT_LAYER, *sorted(name for name in READERS if "." not in name), *MODELS)

__all__ = ["MAX_DEPTH", "OPEN_SIDE", "SUPPORTED", "ConfigLayer", "Network", "parse", "store_names"]


@dataclass(frozen=True)
class Network:
    """What a configuration describes.

    Attributes
    ----------
    name : str
    input_shape : tuple of int
        Without the batch axis.
    layers : tuple of ConfigLayer
        In forward order; the last one gives the output.
    whole : bool
        Whether all layers of the configuration are among them: nothing lay beside the way to the output.
    assumed_size : bool
        Whether the configuration leaves sides of the input open, and nobody said what they are.
    """

    name: str
    input_shape: Shape
    layers: tuple[ConfigLayer, ...]
    whole: bool = True
    assumed_size: bool = False


def parse(
    config: Any,
    output: str | None = None,
    version: str | None = None,
    input_size: tuple[int, int] | None = None,
    turn_input: bool = False,
) -> Network:
    """Read a whole model's configuration.

    Parameters
    ----------
    config : dict
        The parsed JSON of `model_config` (HDF5), `config.json` (``.keras``) or `to_json()`.
    output : str or None
        Which of several outputs: the name of its layer, or the model's name for it.
    version : str or None
        Of the Keras that wrote it; None: the configuration tells.
    input_size : (height, width) or None
        Of an input whose sides are open; None: `OPEN_SIDE` for images.
    turn_input : bool
        Whether its images have channels first, and are to be given with channels last.

    Raises
    ------
    WeightsError
        If a layer or one of its options isn't supported, or the graph is damaged; names the layer, its class, and what to do.
    """
    entry = check_class(config)
    graph = _graph(entry, 0)
    number = _output(graph, output)
    order = _order(graph, {number})
    feeds = [graph.inputs[item.entry] for item in order if item.entry in graph.inputs]
    if len(feeds) != 1:
        names = _listed([graph.entries[item.entry].name for item in order if item.entry in graph.inputs])
        raise WeightsError(
            f"model {graph.name!r} has {len(feeds)} inputs ({names}), expected 1: build a model in which all others are constants, or that "
            "begins behind where they are joined, and save that"
            if feeds
            else f"model {graph.name!r}: its output doesn't depend on its input; the configuration is damaged"
        )
    declared = _input_shape(graph)
    if declared is None:
        raise WeightsError(f"model {graph.name!r}: its configuration has no input shape; call the model once on data and save it again")
    shape = sized(declared, input_size, graph.name)
    dialect = _dialect(config, version)
    turn_input = turn_input and len(shape) == 3
    sketch = Sketch(KINDS, (*shape[1:], shape[0]) if turn_input else shape)
    if turn_input:
        sketch.input = Tensor(-1, (*shape[1:], shape[0]), (2, 0, 1))
        shape = sketch.input.shape
    try:
        given: list[Tensor | None] = [sketch.input] * len(graph.inputs)
        found = _walk(graph, given, {number}, sketch, _Place(dialect, (), "", None))[number]
        layers = sketch.finish(found)
    except ModelError as error:
        raise WeightsError(str(error)) from error
    if not layers:
        raise WeightsError(f"model {graph.name!r} has no layers but its input, expected some; save the whole model")
    used = {item.entry for item in order}
    whole = all(number in used or each.class_name in CALLS for number, each in enumerate(graph.entries))
    return Network(graph.name, shape, tuple(layers), whole, None in declared and input_size is None)


def check_class(config: Any) -> Entry:
    """Return a whole model's entry.

    Raises
    ------
    WeightsError
        If its class isn't one that lists its layers.
    """
    entry = _entry(config, 0, "")
    if entry.class_name not in MODELS:
        raise WeightsError(
            f"the model is of class {entry.class_name}, expected one of {', '.join(MODELS)}: other classes keep no list of their layers; "
            "rebuild it as Sequential or Functional and save that"
        )
    return entry


# From JSON to entries and nodes


@dataclass(frozen=True)
class Ref:
    """An output of a use of a layer: the layer's name, which of its uses, which of the use's outputs."""

    name: str
    node: int
    output: int


@dataclass(frozen=True)
class Node:
    """A use of a layer: what it is called with, `Ref` in place of tensors."""

    arguments: list[Any]
    keywords: Mapping[str, Any] = field(default_factory=dict)

    @property
    def refs(self) -> list[Ref]:
        """What it reads, in order."""
        return [each for each in leaves([self.arguments, self.keywords]) if isinstance(each, Ref)]


@dataclass
class Entry:
    """A layer in a model's list.

    Attributes
    ----------
    name, class_name : str
    options : object
        Its `config`.
    raw : dict
        The whole entry.
    nodes : list of Node
    first : int
        What its first node is called in references: 1 where Keras counts a model's own making as 0.
    store : str
        Its name by class and number.
    graph : Graph or None
        Of a model, once it was looked at.
    """

    name: str
    class_name: str
    options: Any
    raw: Mapping[str, Any]
    nodes: list[Node] = field(default_factory=list)
    first: int = 0
    store: str = ""
    graph: Graph | None = None


@dataclass(frozen=True)
class Item:
    """A use of a layer: the layer's place in its model's list, and the use's number."""

    entry: int
    node: int


@dataclass
class Graph:
    """A model: its layers, which of them are inputs (place in the list -> number), its outputs by name."""

    name: str
    entries: list[Entry]
    inputs: dict[int, int]
    outputs: dict[str, Ref]
    numbers: dict[str, int]
    shape: Any = None
    depth: int = 0

    def find(self, ref: Ref, reader: str) -> Item:
        """Return the use that a reference means.

        Raises
        ------
        WeightsError
            If there is none.
        """
        number = self.numbers.get(ref.name)
        if number is None:
            near = difflib.get_close_matches(ref.name, self.numbers, 1)
            raise WeightsError(
                f"model {self.name!r}: {reader} reads layer {ref.name!r}, which isn't in the configuration"
                + (f" (there is {near[0]!r})" if near else "")
                + "; it is damaged: save the model again"
            )
        entry = self.entries[number]
        node = ref.node - entry.first
        if not 0 <= node < max(len(entry.nodes), number in self.inputs):
            raise WeightsError(
                f"model {self.name!r}: {reader} reads use {ref.node} of layer {ref.name!r}, which has {len(entry.nodes)} "
                f"(from {entry.first} on); the configuration is damaged: save the model again"
            )
        return Item(number, node)


def _entry(raw: Any, number: int, model: str) -> Entry:
    if not isinstance(raw, dict) or not isinstance(raw.get("class_name"), str) or not isinstance(raw.get("config"), dict | list):
        raise WeightsError(
            f"entry {number} of the configuration{f' of model {model!r}' if model else ''} is no layer (no class_name or config); the "
            "configuration is damaged"
        )
    options, class_name = raw["config"], raw["class_name"]
    name = options.get("name", raw.get("name")) if isinstance(options, dict) else raw.get("name")
    name = f"{class_name.lower()}_{number}" if name is None else name
    if not isinstance(name, str) or not name:
        raise WeightsError(
            f"entry {number} of the model's configuration ({class_name}) has {brief(name)} for a name; the configuration is damaged"
        )
    return Entry(name, class_name, options, raw)


def _graph(entry: Entry, depth: int) -> Graph:
    """Read a model's list of layers, not yet those of models inside."""
    name, options = entry.name, entry.options
    if depth > MAX_DEPTH:
        raise WeightsError(f"model {name!r}: more than {MAX_DEPTH} models lie inside each other; the configuration is damaged")
    options = {"layers": options} if isinstance(options, list) else options  # Keras before 2.2.3
    listed = items(options.get("layers"))
    if not listed:
        raise WeightsError(f"model {name!r} ({entry.class_name}) lists no layers in its configuration; save the whole model again")
    if len(listed) > MAX_LAYERS:
        raise WeightsError(f"model {name!r} lists {len(listed)} layers; at most {MAX_LAYERS} are supported")
    entries = [_entry(raw, number, name) for number, raw in enumerate(listed)]
    for each, store in zip(entries, store_names([each.class_name for each in entries]), strict=True):
        each.store = store
    if entry.class_name == "Sequential":
        return _sequential(name, options, entries, depth)
    numbers = {each.name: number for number, each in enumerate(entries)}
    if len(numbers) < len(entries):
        raise WeightsError(f"model {name!r} has two layers of one name in its configuration; rename one and save it again")
    for each in entries:
        each.nodes = [_node(each, raw) for raw in items(each.raw.get("inbound_nodes"))]
    sources, ends = (_ends(options.get(key), key, name) for key in ("input_layers", "output_layers"))
    unknown = [ref.name for ref in sources.values() if ref.name not in numbers]
    if unknown:
        raise WeightsError(f"model {name!r}: its input {unknown[0]!r} isn't among its layers; the configuration is damaged")
    twice = [each for each, count in Counter(ref.name for ref in sources.values()).items() if count > 1]
    if twice:
        raise WeightsError(f"model {name!r} lists its input {twice[0]!r} twice; the configuration is damaged: save the model again")
    _count_from(entries, [ref for each in entries for node in each.nodes for ref in node.refs] + list(ends.values()))
    inputs = {numbers[ref.name]: i for i, ref in enumerate(sources.values())}
    # What a model takes as its input may be any layer: what that one reads isn't part of the model.
    for number in inputs:
        entries[number].nodes = [Node([])]
    put_together(entries)
    return Graph(name, entries, inputs, ends, numbers, depth=depth)


def _sequential(name: str, options: Options, entries: list[Entry], depth: int) -> Graph:
    """Make a graph of a list."""
    shape = options.get("build_input_shape")
    if entries[0].class_name != INPUT_LAYER:
        entries = [Entry("", INPUT_LAYER, _declared(entries[0].options), {}), *entries]
    for number, each in enumerate(entries):
        if number and each.class_name == INPUT_LAYER:
            raise WeightsError(
                f"layer {each.name!r} ({INPUT_LAYER}) stands behind other layers of model {name!r}, which is Sequential; leave it out"
            )
        each.nodes = [Node([Ref(str(number - 1), 0, 0)] if number else [])]
    numbers = {str(number): number for number in range(len(entries))}
    last = len(entries) - 1
    return Graph(name, entries, {0: 0}, {entries[last].name: Ref(str(last), 0, 0)}, numbers, shape, depth)


def _declared(options: Any) -> Options:
    """Return the input's shape as the first layer of a Sequential model may have it."""
    keys = ("batch_shape", "batch_input_shape")
    return {key: options[key] for key in keys if key in options} if isinstance(options, dict) else {}


def _count_from(entries: list[Entry], refs: list[Ref]) -> None:
    """See how uses of models inside are counted: Keras 2 and some of Keras 3 count a model's own making as use 0."""
    most: dict[str, int] = {}
    for ref in refs:
        most[ref.name] = max(most.get(ref.name, 0), ref.node)
    for each in entries:
        each.first = int(each.class_name in MODELS and most.get(each.name, 0) == len(each.nodes) > 0)


def _ends(value: Any, key: str, model: str) -> dict[str, Ref]:
    """Return a model's inputs or outputs by name; of several with one name the second gets "_1" behind it, as Keras does."""
    if isinstance(value, dict) and "class_name" not in value:
        pairs = [(str(name), each) for name, each in value.items()]
    else:
        listed = items(value)
        listed = [listed] if listed and isinstance(listed[0], str) else listed
        pairs = [("", each) for each in listed]
    found: dict[str, Ref] = {}
    taken: Counter[str] = Counter()  # how often a name was looked for: counting from 1 each time takes the square of their number
    for given, each in pairs:
        ref = _ref(items(each))
        if ref is None:
            raise WeightsError(f"model {model!r}: {key} has {brief(each)}, expected [name, use, output]; the configuration is damaged")
        base = given or ref.name
        name = f"{base}_{taken[base]}" if taken[base] else base
        while name in found:
            taken[base] += 1
            name = f"{base}_{taken[base]}"
        taken[base] += 1
        found[name] = ref
    if not found:
        raise WeightsError(
            f"model {model!r} has no {key.replace('_', ' ')}, expected one; the configuration is damaged: save the model again"
        )
    return found


def store_names(classes: Sequence[str]) -> list[str]:
    """Return layers' names by class and number, as Keras 3's weight files have them: conv2d, conv2d_1, dense, ..."""
    seen: Counter[str] = Counter()
    names = []
    for class_name in classes:
        bare = re.sub(r"\W+", "", class_name.rpartition(">")[2])
        snake = re.sub(r"([a-z])([A-Z])", r"\1_\2", re.sub(r"(.)([A-Z][a-z]+)", r"\1_\2", bare)).lower()
        names.append(f"{snake}_{seen[snake]}" if seen[snake] else snake)
        seen[snake] += 1
    return names


# Nodes: what a layer is called with


def _node(entry: Entry, raw: Any) -> Node:
    """Read a use of a layer, in either dialect."""
    if isinstance(raw, dict) and "args" in raw:  # Keras 3
        tree, keywords = _with_refs(raw["args"], _keras3_ref), _with_refs(raw.get("kwargs") or {}, _keras3_ref)
        if not isinstance(tree, list) or not isinstance(keywords, dict):
            raise _bad_call(entry, raw)
        return Node(tree, keywords)
    more: dict[str, Any] = {}

    def first_argument(value: Any) -> Any:
        """Read [name, use, output, keywords] or ["_CONSTANT_VALUE", -1, value, keywords]."""
        if not isinstance(value, list) or len(value) < 3 or not isinstance(value[0], str):
            return None
        if len(value) > 3 and isinstance(value[3], dict):
            more.update(value[3])
        return _Constant(value[2]) if value[0] == "_CONSTANT_VALUE" else _ref(value)

    tree = _with_refs(raw, first_argument)
    keywords = _with_refs(more, _keras2_ref)
    if not isinstance(keywords, dict):  # one marked as a tuple
        raise _bad_call(entry, raw)
    if isinstance(tree, list):
        tree = [each.value if isinstance(each, _Constant) else each for each in tree]
        tree = tree[0] if len(tree) == 1 else tree
    found = Node([tree.value if isinstance(tree, _Constant) else tree], keywords)
    if not found.refs:
        raise WeightsError(f"layer {entry.name!r} reads {brief(raw)}, expected [name, use, output]; the configuration is damaged")
    return found


def _bad_call(entry: Entry, raw: Any) -> WeightsError:
    return WeightsError(f"layer {entry.name!r} is called with {brief(raw)}; the configuration is damaged: save the model again")


@dataclass(frozen=True)
class _Constant:
    value: Any


def _keras3_ref(value: Any) -> Ref | None:
    if not isinstance(value, dict) or value.get("class_name") != "__keras_tensor__":
        return None
    found = _ref(items((value.get("config") or {}).get("keras_history") if isinstance(value.get("config"), dict) else None))
    if found is None:
        raise WeightsError(f"the configuration's graph has {brief(value)} for a tensor; it is damaged: save the model again")
    return found


def _keras2_ref(value: Any) -> Ref | None:
    """Read a tensor among keywords: [name, use, output]."""
    is_ref = isinstance(value, list) and len(value) == 3 and isinstance(value[0], str) and value[0] != "_CONSTANT_VALUE"
    return _ref(value) if is_ref else None


def _ref(value: Sequence[Any]) -> Ref | None:
    """Read [name, use, output, ...]; old files leave out what is 0."""
    if not value or not isinstance(value[0], str):
        return None
    numbers = [*value[1:3], 0, 0][:2]
    return Ref(value[0], *numbers) if all(type(each) is int and each >= 0 for each in numbers) else None


def _with_refs(tree: Any, read: Any) -> Any:
    """Return a nest of lists and dicts with all that `read` knows replaced; without recursion, for a file may nest deeply."""
    done: list[Any] = []
    waiting: list[tuple[Any, Any, Any]] = [(tree, done, None)]  # what it is, where it goes, by which key
    while waiting:
        if len(waiting) > MAX_VALUES:
            raise WeightsError(f"the configuration calls a layer with more than {MAX_VALUES} values; it is damaged: save the model again")
        value, target, key = waiting.pop()
        found = read(value)
        if found is None:
            inner = items(value) if isinstance(value, list | dict) else None
            if isinstance(value, dict) and not inner and value.get("class_name") != "__tuple__":
                found = {}
                waiting += [(each, found, name) for name, each in reversed(value.items())]
                found.update(dict.fromkeys(value))  # so that the order of keys is kept
            elif inner is not None:
                found = [None] * len(inner)
                waiting += [(each, found, i) for i, each in enumerate(inner)]
            else:
                found = value
        if target is done:
            done.append(found)
        else:
            target[key] = found
    return done[0]


# Order and outputs


def _output(graph: Graph, wanted: str | None) -> int:
    """Return the number of the output that is asked for."""
    names = list(graph.outputs)
    if wanted is None:
        if len(names) > 1:
            raise WeightsError(
                f"model {graph.name!r} has {len(names)} outputs ({_listed(names)}); choose one by name: load(path, output={names[0]!r}), "
                f"on the command line --output-layer {names[0]}"
            )
        return 0
    if wanted not in names:
        near = difflib.get_close_matches(wanted, names, 1)
        raise WeightsError(
            f"model {graph.name!r} has no output {wanted!r}; it has {_listed(names)}" + (f": did you mean {near[0]!r}?" if near else "")
        )
    return names.index(wanted)


def _order(graph: Graph, wanted: set[int]) -> list[Item]:
    """Return the uses on the way to some outputs: each behind those it reads, otherwise in the order in which Keras lists the layers."""
    reads: dict[Item, list[Item]] = {}
    refs = list(graph.outputs.values())
    waiting = [graph.find(refs[number], "its output") for number in sorted(wanted)]
    while waiting:
        item = waiting.pop()
        if item in reads:
            continue
        entry = graph.entries[item.entry]
        reader = f"layer {entry.name!r} ({entry.class_name})"
        found = [] if item.entry in graph.inputs else list(dict.fromkeys(graph.find(ref, reader) for ref in entry.nodes[item.node].refs))
        if not found and item.entry not in graph.inputs:
            what = "is an input that the model doesn't list" if entry.class_name == INPUT_LAYER else "reads nothing"
            raise WeightsError(f"model {graph.name!r}: {reader} {what}; the configuration is damaged: save the model again")
        reads[item] = found
        waiting += found
    missing = {item: len(found) for item, found in reads.items()}
    readers: dict[Item, list[Item]] = {item: [] for item in reads}
    for item, found in reads.items():
        for each in found:
            readers[each].append(item)
    ready = [(item.entry, item.node) for item, count in missing.items() if not count]
    heapq.heapify(ready)
    order = []
    while ready:
        item = Item(*heapq.heappop(ready))
        order.append(item)
        for each in readers[item]:
            missing[each] -= 1
            if not missing[each]:
                heapq.heappush(ready, (each.entry, each.node))
    if len(order) < len(reads):
        names = _circle(graph, reads, set(reads) - set(order))
        raise WeightsError(f"model {graph.name!r}: its layers read each other in a circle ({names}); the configuration is damaged")
    return order


def _circle(graph: Graph, reads: Mapping[Item, list[Item]], left: set[Item]) -> str:
    """Return the names along a circle among what is left."""
    at, seen = min(left, key=lambda item: (item.entry, item.node)), list[Item]()
    places: dict[Item, int] = {}
    while at not in places:
        places[at] = len(seen)
        seen.append(at)
        at = next(each for each in reads[at] if each in left)
    names = [graph.entries[item.entry].name for item in [*seen[places[at] :], at]]
    return " <- ".join(map(repr, names if len(names) < 8 else [*names[:6], "...", names[-1]]))


def _listed(names: Sequence[str]) -> str:
    return ", ".join(map(repr, names[:8])) + (", ..." if len(names) > 8 else "")


# The input


def sized(declared: Sequence[int | None], input_size: tuple[int, int] | None, name: str) -> Shape:
    """Return the shape of an input whose open sides are None: as given, else `OPEN_SIDE` for images.

    Raises
    ------
    WeightsError
        If another size is given than the model has, or none for an input that is no image.
    """
    places = {3: (1, 2) if tuple(declared[1:]) == (None, None) and declared[0] is not None else (0, 1), 2: (0,)}.get(len(declared), ())
    shown = " x ".join("open" if side is None else str(side) for side in declared)
    if input_size is None:
        if None in declared and len(declared) < 3:
            raise WeightsError(f"model {name!r}: its input is {shown}; say how many steps it has (input_size=N, --input-size N)")
        return tuple(OPEN_SIDE if side is None else side for side in declared)
    given = dict(zip(places, input_size, strict=False))
    found = tuple(given.get(i, 0) if side is None else side for i, side in enumerate(declared))
    if not places or any(found[i] != side for i, side in given.items()) or len(set(input_size)) > len(places):
        raise WeightsError(
            f"model {name!r}: its input is {shown}, so it can't be {' x '.join(map(str, input_size))}; leave the input size out"
            + (", or give one that fits the sides that it has" if None in declared else "")
        )
    return found


def _input_shape(graph: Graph) -> tuple[int | None, ...] | None:
    """Return the shape that a model declares for its input, open sides as None; None if it declares none."""
    if graph.shape is not None:
        return _shape(graph.shape, graph.name)
    for number in graph.inputs:
        entry = graph.entries[number]
        declared = _declared(entry.options)
        if declared:
            return _shape(next(iter(declared.values())), entry.name or graph.entries[1].name)
    second = graph.entries[1] if graph.entries[0].name == "" and len(graph.entries) > 1 else None
    return _input_shape(_inner(second, graph.depth)) if second is not None and second.class_name in MODELS else None


def _inner(entry: Entry, depth: int) -> Graph:
    """Return a model inside, read once."""
    if entry.graph is None:
        entry.graph = _graph(entry, depth + 1)
    return entry.graph


def _shape(value: Any, name: str) -> tuple[int | None, ...] | None:
    """Return [batch, H, W, C], [batch, steps, C] or [batch, C] without the batch axis; open sides of images, and open steps, stay None."""
    sizes = items(value)[1:]
    if value is None:
        return None
    open_sides = [i for i, side in enumerate(sizes) if side is None]
    if len(sizes) == 4:
        raise WeightsError(f"layer {name!r}: its input shape is {brief(value)}: {_REASONS['3-D']}")
    may_be_open = open_sides in {3: ([0], [1], [0, 1], [1, 2]), 2: ([0],)}.get(len(sizes), ())
    known = [size for size in sizes if size is not None] if may_be_open else sizes
    if len(sizes) not in (1, 2, 3) or not all(is_size(size, 1) for size in known):
        raise WeightsError(
            f"layer {name!r}: its input shape is {brief(value)}, expected [None, height, width, channels], [None, steps, channels] or "
            "[None, units]" + ("; give its axes their sizes and save the model again" if open_sides else "")
        )
    return tuple(sizes)


def _dialect(config: Any, version: str | None) -> int:
    """Return 2 or 3: whose configuration it is; where the same words mean two things, it decides."""
    version = version or (config.get("keras_version") if isinstance(config, dict) else None)
    if isinstance(version, str) and version[:1].isdigit():
        return 2 if version[0] in "12" else 3
    for key in _keys(config):
        if key in ("batch_input_shape", "batch_shape"):
            return 2 if key == "batch_input_shape" else 3
    return 3


def _keys(value: Any) -> Iterator[str]:
    """Walk nested lists and dicts; yield the dicts' keys, outer ones first."""
    waiting = [value]
    while waiting:
        found: list[Any] = []
        for each in waiting:
            if isinstance(each, dict):
                yield from each
                found += each.values()
            elif isinstance(each, list):
                found += each
        waiting = found


# From uses to layers


@dataclass(frozen=True)
class _Place:
    """Where a walk is: names of the models around it, its group by class and number, the outermost model's layer it is in."""

    dialect: int
    path: tuple[str, ...]
    store: str
    top: int | None


def _walk(graph: Graph, given: Sequence[Tensor | None], wanted: set[int], sketch: Sketch, place: _Place) -> dict[int, Tensor]:
    """Put a model's layers down, as far as they lead to the outputs that are wanted; return these."""
    order = _order(graph, wanted)
    needed: dict[Item, set[int]] = {}
    for item in order:
        if item.entry not in graph.inputs:
            for ref in graph.entries[item.entry].nodes[item.node].refs:
                needed.setdefault(graph.find(ref, ""), set()).add(ref.output)
    refs = list(graph.outputs.values())
    for number in wanted:
        needed.setdefault(graph.find(refs[number], ""), set()).add(refs[number].output)
    values: dict[Item, Mapping[int, Tensor]] = {}

    def tensor(ref: Ref, reader: str) -> Tensor:
        found = values[graph.find(ref, reader)]
        if ref.output not in found:
            raise WeightsError(
                f"model {graph.name!r}: {reader} reads output {ref.output} of layer {ref.name!r}, which it hasn't; it is damaged"
            )
        return found[ref.output]

    for item in order:
        entry = graph.entries[item.entry]
        if item.entry in graph.inputs:
            value = given[graph.inputs[item.entry]]
            assert value is not None
            values[item] = {0: value}
            continue
        reader = f"layer {entry.name!r} ({entry.class_name})"
        node = entry.nodes[item.node]
        arguments, keywords = (
            _with_refs(tree, lambda each, reader=reader: _lookup(each, tensor, reader)) for tree in (node.arguments, dict(node.keywords))
        )
        below = _Place(
            place.dialect,
            (*place.path, entry.name),
            f"{place.store}/layers/{entry.store}".lstrip("/"),
            item.entry if place.top is None else place.top,
        )
        if entry.class_name in MODELS:
            values[item] = _use_model(entry, graph, arguments, keywords, needed[item], sketch, below)
        else:
            values[item] = _use_layer(entry, arguments, keywords, needed[item], sketch, below)
    return {number: tensor(refs[number], "its output") for number in wanted}


def _lookup(value: Any, tensor: Any, reader: str) -> Any:
    return tensor(value, reader) if isinstance(value, Ref) else None


def _use_model(
    entry: Entry, graph: Graph, arguments: list[Any], keywords: Mapping[str, Any], needed: set[int], sketch: Sketch, place: _Place
) -> dict[int, Tensor]:
    """Put the layers of a model inside down."""
    inner = _inner(entry, graph.depth)
    call = [
        each for each in leaves([arguments, {key: value for key, value in keywords.items() if key != "mask"}]) if isinstance(each, Tensor)
    ]
    by_name = arguments[0] if arguments and isinstance(arguments[0], dict) else {}
    names = [inner.entries[number].name for number in inner.inputs]
    if set(by_name) == set(names):
        call = [by_name[name] for name in names]
    if len(call) != len(inner.inputs):
        raise WeightsError(
            f"model {entry.name!r} has {len(inner.inputs)} inputs, but is called with {len(call)}; the configuration is damaged"
        )
    if max(needed) >= len(inner.outputs):
        raise WeightsError(f"model {entry.name!r} has {len(inner.outputs)} outputs, but output {max(needed)} is read; it is damaged")
    sketch.enter()
    return _walk(inner, call, needed, sketch, place)


def _use_layer(
    entry: Entry, arguments: list[Any], keywords: Mapping[str, Any], needed: set[int], sketch: Sketch, place: _Place
) -> Mapping[int, Tensor]:
    """Put a layer down, by the reader of its class; return what is read of what it gives."""
    name, options, class_name = entry.name, entry.options, entry.class_name
    try:
        if not isinstance(options, dict):
            raise ValueError("its config is no JSON object")
        class_name, options, inside = _unwrapped(class_name, options)
        policy = options.get("dtype")
        if isinstance(policy, dict) and "Quantized" in str(policy.get("class_name")):
            config = policy.get("config")
            mode = config.get("mode") if isinstance(config, dict) else None
            raise ValueError(f"it is quantised ({brief(mode)}), and what it computes isn't linear in its input; save the model before that")
        key, options, arguments = _operation(class_name, options, arguments)
        read = READERS.get(key) if not _is_own(entry.raw) else None
        if read is None:
            what = "calls" if key.startswith("tf.") else "is of class"
            raise WeightsError(f"layer {name!r} {what} {key}, which isn't supported: {_reason(key, entry.raw)}")
        source = Source(place.path, place.store + inside, place.top or 0)
        found = read(Call(sketch, source, key, options, arguments, keywords, place.dialect, needed))
        return {0: found} if isinstance(found, Tensor) else found
    except ValueError as error:
        raise WeightsError(f"layer {name!r} (class {class_name}): {error}") from error


#: What does the same to every step whether it is told of steps or not: it works on the last axis, or on each number.
_STEP_BY_STEP = ("Activation", "Dense", "Dropout", "ELU", "LeakyReLU", "ReLU")


def _unwrapped(class_name: str, options: Options) -> tuple[str, Options, str]:
    """Return class and options of the layer that one only wraps, and where its weights are in the wrapper's group.

    A spectral norm acts in training alone: what it divided by is in the kernel that is stored.
    """
    inner = options.get("layer")
    if class_name not in ("SpectralNormalization", "TimeDistributed") or not isinstance(inner, dict):
        return class_name, options, ""
    inside, inner_options = inner.get("class_name"), inner.get("config")
    if not isinstance(inside, str) or not isinstance(inner_options, dict):
        return class_name, options, ""
    if class_name == "TimeDistributed" and inside not in _STEP_BY_STEP:
        raise ValueError(f"it applies {brief(inside)} to every step, only {', '.join(_STEP_BY_STEP)} are supported: {_REASONS['3-D']}")
    return inside, inner_options, "/layer"


def _operation(class_name: str, options: Options, arguments: list[Any]) -> tuple[str, Options, list[Any]]:
    """Return the name of what reads a layer, also where its class says only that it is a function of TensorFlow."""
    if class_name in ("TFOpLambda", "SlicingOpLambda"):
        return f"tf.{options.get('function')}", {}, arguments
    if class_name == "TensorFlowOpLayer":  # TensorFlow 2.0 to 2.3
        definition, constants = options.get("node_def"), options.get("constants")
        definition = _parsed(definition) if isinstance(definition, str) else definition
        operation = definition.get("op") if isinstance(definition, dict) else None
        tensors = [each for each in leaves(arguments) if isinstance(each, Tensor)]
        fixed = {int(place): value for place, value in constants.items()} if isinstance(constants, dict) else {}
        waiting = iter(tensors)
        return f"op.{operation}", {}, [fixed[i] if i in fixed else next(waiting, None) for i in range(len(tensors) + len(fixed))]
    package, _, bare = class_name.rpartition(">")
    if bare in _APPLICATIONS:
        return (bare if _APPLICATIONS[bare] in options else f"own>{bare}"), options, arguments
    return (bare if package.partition(".")[0] in ("", "keras", "tf_keras") else class_name), options, arguments


def _is_own(raw: Mapping[str, Any]) -> bool:
    """Whether an entry's class is none of Keras's, whatever its name: those have no registered name, or a module of Keras's."""
    module = raw.get("module")
    keras = isinstance(module, str) and module.partition(".")[0] in ("keras", "tf_keras", "tensorflow")
    return raw.get("registered_name") is not None and not keras


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


#: Layers that keras.applications registers under packages of its own, and an option that tells them from others of that name.
_APPLICATIONS = MappingProxyType({"CustomScaleLayer": "scale", "LayerScale": "projection_dim", "StochasticDepth": "drop_path_rate"})

_REASONS = MappingProxyType(
    {
        "recurrent": "recurrence isn't explained; build a model of the layers before or behind it, and save that",
        "attention": "attention isn't explained yet; build a model of the layers before or behind it, and save that",
        "3-D": "only images (H, W, C), sequences (steps, C) and vectors are supported; 3-D isn't: explain slices by a model of 2-D layers",
        "Lambda": "it is Python code, which isn't run; replace it by layers that say what they do (Rescaling, Normalization, Add, "
        "Multiply, Activation, Reshape, ...) or by arithmetic (x / 127.5 - 1), and save the model again",
        "integers": "it works on text or whole numbers; explain the model behind it, from the first floats on",
        "choice": "it compares numbers; that is read only where it makes an activation with the calls behind it: use the layer (ReLU, "
        "LeakyReLU, ELU, ...), and save the model again",
        "curve": "it is a function of each number that isn't an activation of Keras, nor part of one here; use an activation in its place "
        "(docs/layers.md lists them), or explain the model before or behind it, and save that",
        "wrapper": "it wraps another layer; use that layer itself, and save the model again",
        "own": "it isn't one of Keras's, and its Python code isn't in the file; build it from Keras's layers, and save the model again",
    }
)
_PATTERNS = (
    (r"Lambda$", "Lambda"),
    (r"RNN|LSTM|GRU|Bidirectional", "recurrent"),
    (r"Attention|^Dot$|Einsum|Matmul|Transformer", "attention"),
    (r"3D", "3-D"),
    (r"Embedding|Lookup|Vectorization|Hash|CategoryEncoding|Discretization|Masking|IntegerLookup|MelSpectrogram|STFT", "integers"),
    (r"SpectralNormalization|TimeDistributed|Wrapper$", "wrapper"),
    (r"(?i)^(tf\.)?(math\.|compat\.v1\.)*(greater|less|where|cond|select)", "choice"),
    (r"(?i)^(tf\.|op\.)?(math\.)?(abs|absolute|square|pow|power|sqrt|rsqrt|log|log1p|expm1|sign|sin|cos|reciprocal|round|floor)$", "curve"),
)


def _reason(class_name: str, raw: Mapping[str, Any]) -> str:
    """Return why a class isn't supported, and what to do about it."""
    own = _is_own(raw)
    for pattern, reason in _PATTERNS:
        if re.search(pattern, class_name) and not own:
            return _REASONS[reason]
    near = difflib.get_close_matches(class_name, READERS, 3)
    package = str(raw.get("registered_name") or class_name).rpartition(">")[0]
    hint = f"; names that look like it: {', '.join(near)}" if near else ""
    if package or own:
        return _REASONS["own"] + ("" if own else hint)
    return "put layers of Keras in its place that are (docs/layers.md lists them), and save the model again" + hint
