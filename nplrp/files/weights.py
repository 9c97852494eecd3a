"""Weight files as Keras has written them, of every vintage -> a `Model` whose arrays are mapped from the file, or read.

Layouts: by name (the official files, Keras 1 and 2, and Keras 3's legacy HDF5: root or ``model_weights``, attributes
``layer_names`` and ``weight_names``) and by class and number (Keras 2.13 on and Keras 3: ``layers/conv2d_1/vars/0``), the latter also
in ``.keras`` archives and in shards; and by number alone, before Keras 1 (``nb_layers``, ``layer_0/param_0``). The network is told by the
file's own configuration, by one beside it, by the name of an architecture, or, if it is VGG16 or VGG19, by the arrays.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import struct
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib import resources
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

from nplrp.cache import Stamp, stamp
from nplrp.errors import ImageError, ModelError, WeightsError, brief
from nplrp.files import architectures, foreign, hdf5, keras1, keras_config, vgg
from nplrp.files.fetch import DEMO, demo_weights
from nplrp.files.keras1 import Kernels
from nplrp.files.keras_config import ConfigLayer, Network
from nplrp.files.plain import copy_plain, map_plain
from nplrp.files.preparing import prepared
from nplrp.files.vgg import Told
from nplrp.files.zipped import unpacked
from nplrp.layers.config import is_size
from nplrp.model import Layer, Model, build
from nplrp.preprocessing import check_mode
from nplrp.scores import scoring_of
from nplrp.workspace import ROOM

#: Keras's names of variables -> ours, where they differ.
VARIABLES = MappingProxyType(
    {"depthwise_kernel": "kernel", "pointwise_kernel": "pointwise", "moving_mean": "mean", "moving_variance": "variance"}
)
#: What a spectral norm keeps for training.
TRAINING_ONLY = ("vector_u", "sn_u")
#: Groups that hold a model's layers by class and number; the second name was Keras 2.12's.
CONTAINERS = ("layers", "_layer_checkpoint_dependencies")

_logger = logging.getLogger(__name__)


@dataclass
class _Stored:
    """A layer's arrays in the file, by the names the file has for them, in its order; and the types of what isn't floats."""

    name: str | None
    arrays: dict[str, np.ndarray] = field(default_factory=dict)
    others: dict[str, str] = field(default_factory=dict)

    def describe(self) -> str:
        return f"{self.name or '?'} {' '.join(str(a.shape).replace(' ', '') for a in self.arrays.values())}".rstrip()


@dataclass
class _Contents:
    """What a file holds: layers by group, and the texts beside them."""

    by_name: bool
    stored: dict[str, _Stored]
    config: Any = None
    version: str | None = None
    backend: str | None = None
    old: bool = False  # before Keras 1: no names, Theano's order of axes
    preprocessing: Any = None
    classes: Any = None


def load(
    path: str | os.PathLike[str],
    *,
    output: str | None = None,
    config: str | os.PathLike[str] | None = None,
    architecture: str | None = None,
    preprocessing: str | None = None,
    input_size: int | tuple[int, int] | None = None,
    head: str | None = None,
    last_activation: str | None = None,
    kernels: str | None = None,
    mmap: bool = True,
    room: int = ROOM,
) -> Model:
    """Load a model from a weight file that Keras wrote: ``.h5``, ``.weights.h5``, ``.keras`` or ``.weights.json``.

    Nothing is read but the structure: the arrays stay in the file until they are used, so the file must not be changed
    in place while the model is in use, unless `mmap` is False. They are read-only.

    Parameters
    ----------
    path : str or path-like
        ``"demo"``: the demonstration's model, unless there is a file of that name.
    output : str or None
        Of a model with several outputs, which: the name of its layer. What doesn't lead to it is left out.
    config : str, path-like or None
        A file of the model's configuration, as `to_json()` writes it, for weights that carry none. Not needed where it lies beside them
        as ``model.json``, ``config.json`` or under the weights' own name.
    architecture : str or None
        For weights that carry no configuration: a network of keras.applications, like ``"resnet50"``.
    preprocessing : str or None
        How pictures were prepared, as `Preprocessing.mode` has it. None: what the file tells, in words or by the arithmetic that the model
        begins with; then what the official weights of its architecture take; for a VGG with other weights this is assumed, and logged.
        Else it stays unknown, and pictures aren't taken.
    input_size : int, (height, width) or None
        Of an input whose sides the file leaves open, one number for both; None is 224, and logged.
    head : str or None
        What stands before the dense layers of a VGG's weights that carry no configuration: ``"flatten"``, ``"avg"`` or ``"max"``, a mean or
        maximum over all pixels. Asked for where the file doesn't tell.
    last_activation : str or None
        Of weights that carry no configuration, like ``"sigmoid"``; None: softmax, sigmoid for a single output.
    kernels : str or None
        ``"theano"`` or ``"tensorflow"``: with which backend a model of Keras 1 was trained. None: the file tells, or its order of axes.
    mmap : bool
        False reads the whole file into memory of this process, for files that others may change or cut, or on a disk that may go away: the
        system ends a process (SIGBUS) that reads what is no longer there of a file that it has mapped.
    room : int
        Bytes that the model may hold for speed alone (`Model.room`). VGG16's deep convolutions have a use for 420 MB with epsilon, which
        then takes 3 % less time than with the 300 MB of the default, and for 630 MB with epsilon-plus.

    Returns
    -------
    Model

    Raises
    ------
    WeightsError
        If the file is missing, damaged, of no known layout, or describes what isn't supported. One line.
    """
    for what, value in (("path", path), ("output", output), ("config", config), ("architecture", architecture)):
        if not isinstance(value, (str, os.PathLike) if what in ("path", "config") else str) and (value is not None or what == "path"):
            raise WeightsError(f"{what} is {brief(value)}, expected {'a path' if what in ('path', 'config') else 'a name'}")
    path, assumed = Path(path), False
    if str(path) == DEMO and not path.exists():
        path = demo_weights()
    try:
        if config is not None and architecture is not None:
            raise WeightsError("config and architecture exclude each other: both say what network the weights are for; give one")
        if kernels not in (None, *keras1.BACKENDS):
            raise WeightsError(f"kernels is {kernels!r}, expected one of {', '.join(keras1.BACKENDS)} (--kernels)")
        mode, size = None if preprocessing is None else check_mode(preprocessing), _size(input_size)
        contents, stamps = _read(path, mmap)
        told = Told(head, size, last_activation)
        found = _understand(path, contents, output, None if config is None else Path(config), architecture, told, kernels)
        network = found.network
        assumed = network.assumed_size
        layers = [_layer(item, found) for item in network.layers]
        model = build(network.input_shape, layers, network.name)
        assumed = False
        if network.assumed_size:
            first = len(model.input_shape) > 2 and model.input_shape[-1] == keras_config.OPEN_SIDE  # channels first
            height_width = model.input_shape[1:] if first else model.input_shape[:2]
            _logger.warning(
                "the sides of the model's input are open: assuming %d x %d (another: --input-size HxW, load(..., input_size=))",
                *height_width,
            )
        how = prepared(model, contents.preprocessing, mode, architecture)
        model = replace(model, preprocessing=how, classes=_classes(contents, model), source=str(path), room=room)
        said = (output, architecture, size, head, last_activation, kernels)
        model.remember_hash([*stamps, *found.stamps], " ".join(str(each) for each in said if each is not None), mmap)
        return model
    except (WeightsError, ModelError, ImageError) as error:
        sides = (
            "; the sides of its input are open and were taken as 224 x 224: give them (input_size=, --input-size HxW)" if assumed else ""
        )
        raise WeightsError(_one_line(f"{path}: {error}{sides}")) from error


def _one_line(message: str) -> str:
    line = " ".join(message.split()).encode("utf-8", "backslashreplace").decode()
    return "".join(char if char.isprintable() else "?" for char in line)[:2000]


# From the file to its contents


def _read(path: Path, mmap: bool) -> tuple[_Contents, list[Stamp]]:
    """Return a file's contents, and the stamps of every file they lie in."""
    data, stamped = _open(path, mmap)
    start = bytes(data[:64])
    if _is_hdf5(data):
        shard = re.fullmatch(r"(.+)_\d{5}\.weights\.h5", path.name)
        if shard and (index := path.with_name(f"{shard[1]}.weights.json")).is_file():
            raise WeightsError(f"this is one shard of a model; load {index.name} beside it")
        return _read_hdf5(data), [stamped]
    if start.startswith(b"PK\x03\x04"):
        return _read_keras(path, data), [stamped]
    if start.lstrip()[:1] == b"{":
        contents, stamps = _read_shards(path, data, mmap)
        return contents, [stamped, *stamps]
    looks, way = foreign.name_of(path, data) or (
        f"a file that starts with {start[:8]!r}",
        "export them from Keras with model.save('model.h5')",
    )
    raise WeightsError(f"expected Keras weights (HDF5, a .keras archive or a .weights.json index), found {looks}; {way}")


def _open(path: Path, mmap: bool, expected: str = "Keras weights (.h5, .keras or .weights.json)") -> tuple[memoryview, Stamp]:
    """Map a whole file read-only, or read it; the file is closed again, the mapping lives as long as an array uses it."""
    try:
        data, status = map_plain(path) if mmap else copy_plain(path)
    except FileNotFoundError:
        raise WeightsError(f"there is no such file, expected {expected}; check the path") from None
    except IsADirectoryError:
        what, way = foreign.folder_of(path)
        raise WeightsError(f"this is {what}, expected {expected}; {way}") from None
    except OSError as error:
        if error.errno == errno.EINVAL:
            raise WeightsError(f"{error.strerror}; expected {expected}") from None
        raise WeightsError(f"the file can't be read ({error}); check its permissions and that it is a plain file") from error
    if not data:
        raise WeightsError(f"the file is empty, expected {expected}; copy or download it again")
    found = stamp(path, status)
    assert found is not None
    return data, found


def _is_hdf5(data: memoryview) -> bool:
    """Look for HDF5's signature where it may stand: at 0 or behind a user block of 512 bytes times a power of two."""
    places = [0, *(512 << i for i in range(32))]
    return any(data[place : place + 8] == b"\x89HDF\r\n\x1a\n" for place in places if place < len(data))


def _read_hdf5(data: memoryview) -> _Contents:
    with hdf5.open_hdf5(data) as (file, source):
        within = hdf5.child(source, file, "model_weights")
        within = within if isinstance(within, hdf5.Group) else file
        names = hdf5.text(source, within, "layer_names")
        if names is not None:
            contents = _Contents(True, _read_by_name(source, within, names))
        elif hdf5.has_attribute(source, within, "nb_layers"):
            contents = _Contents(True, _read_old(source, within), old=True)
        elif any(isinstance(hdf5.child(source, file, container), hdf5.Group) for container in CONTAINERS):
            contents = _Contents(False, {})
            _read_by_number(source, file, "", contents.stored, 0)
        else:
            raise _no_weights(data, hdf5.members(source, file))
        contents.config = _json_attribute(source, file, "model_config")
        contents.version = _word(source, file, "keras_version") or _word(source, within, "keras_version")
        contents.backend = _word(source, file, "backend") or _word(source, within, "backend")
        contents.preprocessing = _json_attribute(source, file, "nplrp_preprocessing")
        contents.classes = _json_attribute(source, file, "nplrp_classes")
    return contents


def _no_weights(data: memoryview, found: list[str]) -> WeightsError:
    if bytes(data[:10]) == b"MATLAB 7.3":
        return WeightsError("this is a MATLAB 7.3 file; export the network in MATLAB with exportONNXNetwork, and use 'nplrp import'")
    return WeightsError(
        "the HDF5 file holds no Keras weights: expected the attribute 'layer_names' or a group 'layers', found "
        f"{', '.join(map(repr, found[:8])) or 'nothing'}; arrays alone don't tell a network: export it with model.save('model.h5')"
    )


def _word(source: hdf5.Source, group: hdf5.Group, name: str) -> str | None:
    """Return which Keras, or which backend, wrote a file, as far as it says so readably."""
    try:
        return next(iter(hdf5.text(source, group, name) or []), None)
    except WeightsError:
        return None


def _read_by_name(source: hdf5.Source, within: hdf5.Group, names: list[str]) -> dict[str, _Stored]:
    found = {}
    for name in dict.fromkeys(names):
        group = hdf5.child(source, within, name)
        if not isinstance(group, hdf5.Group):
            raise WeightsError(
                f"layer {name!r} is listed, but its group is missing from the file; it is damaged: copy or download it again"
            )
        source.enter(group)
        found[name] = _Stored(name)
        for variable in hdf5.text(source, group, "weight_names") or []:
            dataset = hdf5.child(source, group, variable)
            if not isinstance(dataset, hdf5.Dataset):
                raise WeightsError(
                    f"layer {name!r}: dataset {variable!r} is listed, but missing from the file; it is damaged: copy or download it again"
                )
            _keep(source, found[name], variable, dataset)
    return found


def _read_old(source: hdf5.Source, within: hdf5.Group) -> dict[str, _Stored]:
    """Read what was written before Keras 1: ``layer_0/param_0``, ... in forward order, of layers without names."""
    found = {}
    for name in sorted(hdf5.members(source, within), key=_natural):
        group = hdf5.child(source, within, name)
        if isinstance(group, hdf5.Group) and re.fullmatch(r"layer_\d{1,6}", name):
            source.enter(group)
            found[name] = _Stored(None)
            for key in sorted(hdf5.members(source, group), key=_natural):
                dataset = hdf5.child(source, group, key)
                if isinstance(dataset, hdf5.Dataset):
                    _keep(source, found[name], key, dataset)
    return found


def _read_by_number(source: hdf5.Source, group: hdf5.Group, prefix: str, found: dict[str, _Stored], depth: int) -> None:
    """Collect ``layers/<class>_<n>/vars/<i>`` under the path in the file, also of models inside models."""
    if depth > keras_config.MAX_DEPTH:
        raise WeightsError(f"more than {keras_config.MAX_DEPTH} models lie inside each other in the file; it is damaged")
    for container in CONTAINERS:
        layers = hdf5.child(source, group, container)
        for name in hdf5.members(source, layers) if isinstance(layers, hdf5.Group) else []:
            layer = hdf5.child(source, layers, name)
            if not isinstance(layer, hdf5.Group):
                continue
            source.enter(layer)
            path, wrapped = f"{prefix}layers/{name}", hdf5.child(source, layer, "layer")
            if isinstance(wrapped, hdf5.Group):  # a wrapper's own variables are for training
                layer, path = wrapped, f"{path}/layer"
                source.enter(layer)
            variables = hdf5.child(source, layer, "vars")
            if isinstance(variables, hdf5.Group):
                stored = found[path] = _Stored(next(iter(hdf5.text(source, variables, "name") or []), None))
                for key in sorted(hdf5.members(source, variables), key=_natural):
                    dataset = hdf5.child(source, variables, key)
                    if isinstance(dataset, hdf5.Dataset):
                        _keep(source, stored, key, dataset)
            _read_by_number(source, layer, f"{path}/", found, depth + 1)


def _keep(source: hdf5.Source, stored: _Stored, name: str, dataset: hdf5.Dataset) -> None:
    """Note an array down, or only its type if it holds no floats: Keras's counters and seeds aren't needed."""
    kind = hdf5.other_type(dataset)
    if kind is None:
        stored.arrays[name] = hdf5.array(source, dataset)
    else:
        stored.others[name] = kind


def _natural(name: str) -> tuple[tuple[str, int], ...]:
    """Return a key that sorts conv2d_10 behind conv2d_9."""
    return tuple((word, int(digits or -1)) for word, digits in re.findall(r"(\D*)(\d{0,9})", name))


def _json_attribute(source: hdf5.Source, file: hdf5.Group, name: str) -> Any:
    value = hdf5.text(source, file, name)
    return None if value is None else _json("".join(value), f"attribute {name!r}")


def _json(value: str | bytes, what: str) -> Any:
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise WeightsError(f"{what} isn't valid JSON ({error}); the file is damaged: save or download it again") from error


def _read_keras(path: Path, data: memoryview) -> _Contents:
    """Read a ``.keras`` archive: ``config.json`` and ``model.weights.h5``, which is mapped where it is stored uncompressed."""
    try:
        with zipfile.ZipFile(hdf5.Source(data)) as archive:
            entries = {info.filename: info for info in archive.infolist()}
            missing = [name for name in ("config.json", "model.weights.h5") if name not in entries]
            other = foreign.archive_of(path, list(entries)) if missing else None
            if other:
                raise WeightsError(
                    f"expected Keras weights (HDF5, a .keras archive or a .weights.json index), found {other[0]}; {other[1]}"
                )
            if missing:
                found = ", ".join(map(repr, list(entries)[:8])) or "nothing"
                raise WeightsError(
                    f"the zip archive is no Keras model: expected config.json and model.weights.h5, found {found}; "
                    "save it with model.save('model.keras') or model.save('model.h5')"
                )
            config = unpacked(archive, entries["config.json"], len(data), hdf5.MAX_TEXT)
            weights = _stored_entry(data, entries["model.weights.h5"])
            if weights is None:
                weights = memoryview(unpacked(archive, entries["model.weights.h5"], len(data)))
    except (
        zipfile.BadZipFile,
        zlib.error,
        struct.error,
        OSError,
        EOFError,
        ValueError,
        RuntimeError,
        LookupError,
        OverflowError,
        MemoryError,
    ) as error:
        raise WeightsError(f"the .keras archive is damaged ({error}); copy or download it again") from error
    if not _is_hdf5(weights):
        raise WeightsError("model.weights.h5 in the archive is no HDF5 file; it is damaged: copy or download it again")
    described = _json(config, "config.json in the archive")
    try:
        contents = _read_hdf5(weights)
    except WeightsError:
        keras_config.check_class(described)  # a class of one's own lays its arrays down as it likes
        raise
    contents.config = described
    return contents


def _stored_entry(data: memoryview, info: zipfile.ZipInfo) -> memoryview | None:
    """Return where an archive's entry lies in `data`, None if it is compressed."""
    if info.compress_type != zipfile.ZIP_STORED or info.flag_bits & 1:
        return None
    header = bytes(data[info.header_offset : info.header_offset + 30])
    if len(header) < 30 or not header.startswith(b"PK\x03\x04"):
        raise zipfile.BadZipFile(f"no entry at {info.header_offset}")
    start = info.header_offset + 30 + sum(struct.unpack("<HH", header[26:30]))
    return data[start : start + info.file_size]


def _read_shards(path: Path, data: memoryview, mmap: bool) -> tuple[_Contents, list[Stamp]]:
    """Read Keras 3's shards: an index that says which files beside it hold which variables."""
    if len(data) > hdf5.MAX_TEXT:
        raise WeightsError(
            f"the file starts like JSON but has {len(data)} bytes, expected a .weights.json index of at most {hdf5.MAX_TEXT}"
        )
    index = _json(bytes(data), "the index of shards")
    places = index.get("weight_map")
    if not isinstance(places, dict) or not places:
        other = foreign.json_of(index)
        if other:
            raise WeightsError(f"expected Keras weights, found {other[0]}; {other[1]}")
        raise WeightsError(
            "expected an index of Keras 3 shards with a 'weight_map', found other JSON; give the file of weights (.h5 or .keras)"
        )
    names = sorted({name for value in places.values() for name in (value if isinstance(value, list) else [value]) if isinstance(name, str)})
    merged, stamps = _Contents(False, {}), []
    for name in names:
        if Path(name).name != name:
            raise WeightsError(f"the index names the shard {name!r}, expected a file beside it; the index is damaged")
        try:
            shard, stamped = _open(path.with_name(name), mmap)
            found = _read_hdf5(shard).stored
        except WeightsError as error:
            raise WeightsError(f"shard {name!r}: {error}") from error
        stamps.append(stamped)
        for place, stored in found.items():
            known = merged.stored.setdefault(place, stored)
            known.name = known.name or stored.name
            known.arrays |= stored.arrays
            known.others |= stored.others
    for stored in merged.stored.values():
        stored.arrays = dict(sorted(stored.arrays.items(), key=lambda item: _natural(item[0])))
    return merged, stamps


# From the contents to the network


def _size(given: Any) -> tuple[int, int] | None:
    """Return (height, width) of what the caller gives: these, or one number for both."""
    sides = [given, given] if isinstance(given, (int, np.integer)) else given
    if given is None:
        return None
    if not isinstance(sides, (list, tuple)) or len(sides) != 2 or not all(is_size(side, 1) for side in sides):
        raise WeightsError(f"the input size is {given!r}, expected one whole number from 1 on, or (height, width)")
    return int(sides[0]), int(sides[1])


Stamps = list[Stamp]


@dataclass(frozen=True)
class _Understood:
    """A file that was understood.

    Attributes
    ----------
    network : Network
    lookup : callable
        A layer -> its arrays among those stored.
    kernels : Kernels
        How they lie there.
    stamps : list of Stamp
        What other files were read.
    """

    network: Network
    lookup: Callable[[ConfigLayer], _Stored]
    kernels: Kernels = field(default_factory=Kernels)
    stamps: Stamps = field(default_factory=list)


def _understand(
    path: Path,
    contents: _Contents,
    output: str | None,
    config: Path | None,
    architecture: str | None,
    told: Told,
    kernels: str | None,
) -> _Understood:
    """Find out which network the weights are of: who says so first is believed."""
    own = contents.config is not None
    needless = [f"--{name.replace('_', '-')}" for name in ("head", "last_activation") if getattr(told, name) is not None]
    needless += ["--architecture"] if own and architecture is not None else []
    if needless and (own or config is not None):
        whose = "the file's own configuration" if own else f"the configuration {config}"
        raise WeightsError(f"{' and '.join(needless)} can't be given: {whose} says what the network is; leave it out")
    if kernels is not None and architecture is not None and architectures.canonical(architecture) not in vgg.BLOCKS:
        raise WeightsError("--kernels is for files of Keras 1, which has no configurations of keras.applications but VGG16's and VGG19's")
    if architecture is not None:
        name = architectures.canonical(architecture)
        if name in vgg.BLOCKS and output is None:
            return _recognise(path, contents, told, kernels, name)
        if told.head is not None:
            raise WeightsError(f"--head is for VGG16 and VGG19 only; give the model's configuration for a {architecture} with another head")
        return _named(contents, architecture, output, told)
    if config is not None:
        given, stamped = _read_config(config)
        return _configured(path, contents, given, output, config, kernels, told.input_size, [stamped])
    if own:
        return _parsed(path, contents, contents.config, output, kernels, told.input_size, True, [])
    named = path.with_name(re.sub(r"(\.weights)?\.[^.]*$", "", path.name) + ".json")
    for beside in (named, path.with_name("model.json"), path.with_name("config.json")):
        if beside.is_file() and beside != path:
            if beside != named and vgg.is_official([stored.name for stored in contents.stored.values() if stored.arrays]):
                break
            try:
                given, stamped = _read_config(beside)
            except WeightsError:
                continue  # it may be anything
            if isinstance(given, dict) and "class_name" in given and "config" in given:
                _logger.info("%s has no configuration of its own; using %s beside it (another: --config FILE)", path.name, beside.name)
                if needless:
                    raise WeightsError(
                        f"{' and '.join(needless)} can't be given: the configuration {beside.name} beside it says what it is"
                    )
                return _configured(path, contents, given, output, beside, kernels, told.input_size, [stamped])
    found = _recognise(path, contents, told, kernels)
    if output is not None and output != found.network.layers[-1].layer.name:
        raise WeightsError(f"the weights are those of {found.network.name}, which has one output, {found.network.layers[-1].layer.name!r}")
    return found


def _parsed(
    path: Path,
    contents: _Contents,
    config: Any,
    output: str | None,
    kernels: str | None,
    size: tuple[int, int] | None,
    own: bool,
    stamps: Stamps,
) -> _Understood:
    """Read a configuration, and how the kernels lie that it is of."""
    version = contents.version if own else None
    if isinstance(config, dict) and "class_name" not in config and config.get("name") in ("Sequential", "Graph"):
        raise WeightsError("it is a configuration of Keras 0.x; load the model in Keras 1, and save it again, or rebuild it in Keras 2")
    old = keras1.is_old(config)
    modern = keras1.modern(config) if old else keras1.Modern(config)
    first: frozenset[tuple[str, ...]] | None = frozenset(modern.first)
    if contents.old and not old and "channels_first" in json.dumps(config):
        first = None
    flipped = _flipped(path, contents, kernels, old or contents.old, bool(modern.first) or contents.old)
    turned = modern.order == "channels_first"  # pictures are given as H, W, C all the same
    network = keras_config.parse(keras1.on_theano(modern.config) if flipped else modern.config, output, version, size, turned)
    return _Understood(network, _finder(contents, network, own and not old), Kernels(old or first is None, first, flipped), stamps)


def _flipped(path: Path, contents: _Contents, kernels: str | None, old: bool, first: bool) -> bool:
    """Return whether kernels are Theano's: as said, as the file or its name says, or as its order of axes suggests, which is logged."""
    named = re.search(r"(th|tf)_kernels", path.name)
    if kernels is not None and (contents.backend or kernels) != kernels:
        raise WeightsError(f"--kernels {kernels} can't be given: the file says that it was written with {contents.backend}; leave it out")
    said = kernels or contents.backend or (named and {"th": "theano", "tf": "tensorflow"}[named[1]])
    if said or not old:
        return said == "theano"
    assumed = keras1.BACKENDS[0 if first else 1]
    _logger.warning(
        "the file is of Keras 1 or older, which doesn't say its backend; kernels are taken as %s's, whose order of axes it has (the other: "
        "--kernels %s)",
        assumed.replace("tensorflow", "TensorFlow").replace("theano", "Theano"),
        keras1.BACKENDS[1 if first else 0],
    )
    return first


def _named(contents: _Contents, architecture: str, output: str | None, told: Told) -> _Understood:
    """Read weights as those of a network by name, with its head or without, whichever has as many layers with weights as the file."""
    weighted = {place: stored for place, stored in contents.stored.items() if stored.arrays}
    last = next(reversed(weighted.values()), None) if contents.by_name else None

    def outputs(name: str, store: str) -> int | None:
        stored = weighted.get(name if contents.by_name else store, last)
        return _first(stored).shape[-1] if stored else None

    for given in architectures.configurations(architecture, outputs):
        network = keras_config.parse(given, output, None, told.input_size)
        top = {item.path[0] if contents.by_name else item.store for item in network.layers if item.variables}
        if top == set(weighted) or (contents.by_name and len(top) == len(weighted)):
            if told.last_activation is not None:
                end = network.layers[-1]
                if end.layer.activation != "softmax":
                    raise WeightsError(f"--last-activation can't be given: {architecture} without its head has none")
                end = replace(end, layer=replace(end.layer, activation=vgg.checked_activation(told.last_activation)))
                network = replace(network, layers=(*network.layers[:-1], end))
            return _Understood(network, _finder(contents, network, False))
    raise WeightsError(
        f"the file's layers aren't those of {architecture}, with its head or without (of {len(top)} layers with weights "
        f"{len(top & set(weighted))} are there); {_found(contents)}; give the model's configuration "
        "(config='model.json', --config model.json)"
    )


def _configured(
    path: Path,
    contents: _Contents,
    given: Any,
    output: str | None,
    config: Path,
    kernels: str | None,
    size: tuple[int, int] | None,
    stamps: Stamps,
) -> _Understood:
    """Read a configuration that lies in a file of its own."""
    try:
        return _parsed(path, contents, given, output, kernels, size, False, stamps)
    except WeightsError as error:
        raise WeightsError(f"with the configuration {config.name}: {error}") from error


def _read_config(path: Path) -> tuple[Any, Stamp]:
    try:
        data, stamped = _open(path, True, "a configuration (JSON)")
    except WeightsError as error:
        raise WeightsError(f"configuration {path}: {error}") from error
    if len(data) > hdf5.MAX_TEXT:
        raise WeightsError(f"configuration {path.name} has {len(data)} bytes, at most {hdf5.MAX_TEXT} are expected; give another file")
    value = _json(bytes(data), f"configuration {path.name}")
    return (_json(value, f"configuration {path.name}") if isinstance(value, str) else value), stamped  # to_json() dumped once more


def _finder(contents: _Contents, network: Network, own: bool) -> Callable[[ConfigLayer], _Stored]:
    """Return what finds a layer's arrays: under the place that the configuration tells.

    A file of weights alone may be of a model whose layers have other names; Keras then gives the arrays to the layers in order.
    """
    weighted = [stored for stored in contents.stored.values() if stored.arrays]
    in_order: dict[str, _Stored] = {}
    if contents.by_name and not own and network.whole:
        names = list({item.path[0]: item for item in sorted(network.layers, key=lambda item: item.place) if item.variables})
        if not set(names) <= {stored.name for stored in weighted} and len(names) == len(weighted):
            in_order = dict(zip(names, weighted, strict=True))
            _logger.info(
                "layers are called otherwise in the file than in the configuration; arrays are given to them in order, as Keras does"
            )

    def lookup(item: ConfigLayer) -> _Stored:
        place = item.path[0] if contents.by_name else item.store
        if place in in_order:
            return in_order[place]
        if place not in contents.stored and contents.by_name and item.path[-1] in contents.stored:
            place = item.path[-1]  # Keras 1 lists the layers of a Sequential model inside another as the outer one's
        if place not in contents.stored:
            raise WeightsError(
                f"layer {item.layer.name!r} is in the configuration, but the file has no weights at {place!r}; {_found(contents)}"
            )
        return contents.stored[place]

    return lookup


def _found(contents: _Contents) -> str:
    weighted = [
        stored.describe() if stored.name else f"{place}{stored.describe()[1:]}"
        for place, stored in contents.stored.items()
        if stored.arrays
    ]
    return f"found {len(weighted)} layers with weights: {', '.join(weighted[:6])}{', ...' if len(weighted) > 6 else ''}"


def _recognise(path: Path, contents: _Contents, told: Told, kernels: str | None, wanted: str | None = None) -> _Understood:
    """Understand weights without configuration as VGG16 or VGG19: by layer names, else by order and shapes."""
    layers = _single_layers(contents)
    weighted = [stored for stored in layers if stored.arrays]
    others = [str(stored.name) for stored in layers if not stored.arrays and not stored.others and stored.name]
    named = {stored.name: stored for stored in weighted if stored.name}
    first = _channels_first([_first(stored).shape for stored in weighted])
    shapes = [_in_our_order(_first(stored).shape, first) for stored in weighted]
    name = names = None
    for possible in [wanted] if wanted else list(vgg.BLOCKS):
        for head in ((), *vgg.HEADS):
            listed = [*vgg.conv_names(possible), *head]
            if set(named) == set(listed) and len(weighted) == len(named):
                name, names, weighted = possible, listed, [named[layer] for layer in listed]
    if name is None or names is None:
        name = vgg.fitting(shapes, wanted)
        if name is None:
            raise _unknown(contents, wanted)
        dense = len(shapes) - sum(vgg.BLOCKS[name])
        official = (*vgg.HIDDEN, vgg.OUTPUTS[0]) if dense == 3 else tuple(f"dense_{i}" for i in range(1, dense + 1))
        own = [str(stored.name) for stored in weighted]
        names = own if all(stored.name for stored in weighted) and len(named) == len(weighted) else [*vgg.conv_names(name), *official]
    for layer, one in zip(names, weighted, strict=True):
        for variable, kind in one.others.items():
            raise WeightsError(f"layer {layer!r}: dataset {variable!r} has type {kind}, expected float32; save the model in float32")
    stored = [vgg.Stored(layer, _in_our_order(_first(one).shape, first)) for layer, one in zip(names, weighted, strict=True)]
    network = vgg.network(name, stored, vgg.is_official([each.name for each in weighted]), others, told, first)
    found = dict(zip(names, weighted, strict=True))
    old = first or contents.old or (contents.version or "").startswith("1.")
    flipped = _flipped(path, contents, kernels, old, first)
    return _Understood(network, lambda item: found[item.layer.name], Kernels(first, None if first else frozenset(), flipped))


def _unknown(contents: _Contents, wanted: str | None) -> WeightsError:
    others = {f"{place}/{name}": kind for place, stored in contents.stored.items() for name, kind in stored.others.items()}
    odd = "".join(f"; {name!r} has type {kind}, expected float32" for name, kind in list(others.items())[:1])
    expected = f"aren't those of {wanted.upper()}" if wanted else "aren't those of VGG16 or VGG19"
    return WeightsError(
        f"the file has no model configuration, and its layers {expected}; {_found(contents)}{odd}; give its configuration "
        "(load(path, config='model.json'), --config model.json) or the name of its network (architecture='resnet50', --architecture "
        "resnet50), or save the whole model with model.save('model.h5')"
    )


def _single_layers(contents: _Contents) -> list[_Stored]:
    """Return the stored layers in forward order, also those of a model inside: by number, which tells no order, convolutions come first."""
    if not contents.by_name:
        places = sorted(contents.stored, key=_natural)
        found = [contents.stored[place] for place in places]
        found = [
            stored if stored.name or stored.arrays else replace(stored, name=place) for place, stored in zip(places, found, strict=True)
        ]
        return sorted(found, key=lambda stored: -_first(stored).ndim if stored.arrays else 0)
    found = []
    for stored in contents.stored.values():
        owners: dict[str, _Stored] = {}
        for variable, array in stored.arrays.items():
            parts = variable.split("/")
            owner = parts[-2] if len(parts) > 1 else ""
            owners.setdefault(owner, _Stored(owner or stored.name)).arrays[variable] = array
        found += list(owners.values()) if len(owners) > 1 and "" not in owners else [stored]
    return found


def _channels_first(shapes: list[tuple[int, ...]]) -> bool:
    """Tell whether kernels are [out, in, 3, 3], as with Theano, instead of [3, 3, in, out]."""
    kernels = [shape for shape in shapes if len(shape) == 4]
    return all(shape[2:] == (3, 3) for shape in kernels) and any(shape[:2] != (3, 3) for shape in kernels)


def _in_our_order(shape: tuple[int, ...], first: bool) -> tuple[int, ...]:
    return (shape[2], shape[3], shape[1], shape[0]) if first and len(shape) == 4 else shape


def _first(stored: _Stored) -> np.ndarray:
    return next(iter(stored.arrays.values()))


# From the network to the model


def _layer(item: ConfigLayer, understood: _Understood) -> Layer:
    """Give a layer its arrays."""
    if not item.variables:
        return item.layer
    found = understood.kernels.ours(item, _pick(item, understood.lookup(item)))
    for name, shape in item.variables.items():
        if found[name].shape != shape:
            raise WeightsError(
                f"layer {item.layer.name!r}: its {name} has shape {found[name].shape}, expected {shape} by its configuration; "
                "the weights belong to another model or are damaged"
            )
    return replace(item.layer, arrays=item.arrays(found))


def _pick(item: ConfigLayer, stored: _Stored) -> Mapping[str, np.ndarray]:
    """Choose the arrays of a layer of Keras's from its group: by the variables' names, or by their order where the names say nothing."""
    paths = {variable: variable.split(":")[0].split("/") for variable in stored.arrays}
    paths = {variable: parts for variable, parts in paths.items() if parts[-1] not in TRAINING_ONLY}
    mine = list(paths)
    nested = len(item.path) > 1 and any(len(parts) > 1 for parts in paths.values())
    if nested:  # the group of a model inside holds the variables of all its layers, as [model/]layer/variable
        mine, depth = _below(paths, mine, item.path[-1:]), 2
        while len(mine) > len(item.variables) and depth <= len(item.path):
            mine, depth = _below(paths, mine, item.path[-depth:]) or mine, depth + 1
        if len(mine) > len(item.variables):  # conv, beside a layer that is called conv1/conv
            mine = [variable for variable in mine if paths[variable][:-1] == item.path[-1].split("/")] or mine
    by_name = {_our_name(paths[variable][-1], item.variables): stored.arrays[variable] for variable in mine}
    if set(by_name) == set(item.variables) and len(mine) == len(by_name):
        return by_name
    if not set(by_name) & set(item.variables) and not nested and len(mine) == len(item.variables):
        return dict(zip(item.variables, (stored.arrays[variable] for variable in mine), strict=True))
    odd = "".join(f", and {name!r} of type {kind}, expected float32" for name, kind in stored.others.items())
    raise WeightsError(
        f"layer {item.layer.name!r}: expected its {', '.join(item.variables)}, found {_names(stored)}{odd}; "
        "the weights belong to another model or are damaged"
    )


def _below(paths: Mapping[str, list[str]], variables: list[str], names: Sequence[str]) -> list[str]:
    """Return those variables whose place ends in these names of models and a layer, which may have slashes of their own."""
    parts = "/".join(names).split("/")
    return [variable for variable in variables if paths[variable][:-1][-len(parts) :] == parts]


def _our_name(name: str, variables: Mapping[str, Any]) -> str:
    ours = VARIABLES.get(name, name)
    return ours if ours in variables else name


def _names(stored: _Stored) -> str:
    return ", ".join(map(repr, stored.arrays)) or "no weights"


def _classes(contents: _Contents, model: Model) -> tuple[tuple[str, str], ...] | None:
    """Return the file's classes; ImageNet's for a model of 1000 outputs that names none; else None."""
    value, outputs = contents.classes, model.output_shape[-1]
    if scoring_of(model).binary and isinstance(value, list) and len(value) == 2:
        outputs = 2
    if value is None:
        return imagenet_classes() if model.output_shape == (1000,) else None
    pairs = [tuple(pair) for pair in value if isinstance(pair, list)] if isinstance(value, list) else []
    if (
        len(pairs) != outputs
        or len(value) != outputs
        or not all(len(pair) == 2 and all(isinstance(text, str) for text in pair) for pair in pairs)
    ):
        found = f"{len(value)} entries" if isinstance(value, list) else repr(value)[:80]
        raise WeightsError(
            f"attribute 'nplrp_classes' should be a JSON list of {outputs} pairs [id, name], one for each output; found {found}"
        )
    return tuple((pair[0], pair[1]) for pair in pairs)


def imagenet_classes() -> tuple[tuple[str, str], ...]:
    """Return ImageNet's 1000 classes as (WordNet id, name), in Keras's order."""
    table = json.loads(resources.files("nplrp").joinpath("data/imagenet_classes.json").read_text("utf-8"))
    return tuple((table[str(i)][0], table[str(i)][1]) for i in range(1000))
