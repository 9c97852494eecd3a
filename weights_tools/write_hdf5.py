"""Write a model in the layout of docs/weights-format.md: Keras 2's full-model HDF5 with attributes of our own.

The same model gives the same bytes: no time stamps, no paths, a fixed order.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path

import h5py
import numpy as np

from nplrp import __version__
from nplrp.errors import OutputError, WeightsError
from nplrp.files.plain import open_plain
from nplrp.files.sealed import written_hdf5
from nplrp.model import INPUT, Layer, Model, Preprocessing, sources
from nplrp.preprocessing import UNKNOWN
from weights_tools.keras2_config import model_config, stored_arrays

#: Keras 2's own limit for one attribute, below HDF5's 64 KB for an object's header.
MAX_ATTRIBUTE = 64512
#: The last Keras 2; its readers look at the major version only.
KERAS_VERSION = "2.15.0"
#: Every array starts at a multiple of this many bytes, so that it can be used mapped from the file.
ALIGNMENT = 64


def write(model: Model, path: str | os.PathLike[str], source: str | os.PathLike[str], command: str, force: bool = False) -> None:
    """Write a model to an HDF5 file that `nplrp.load` and Keras read.

    Parameters
    ----------
    model : Model
    path : path
        Written beside itself first, then renamed.
    source : path
        The file that the model came from; its SHA-256 is recorded.
    command : str
        What made the model from it; recorded.
    force : bool
        Replace a file that is there.

    Raises
    ------
    OutputError
        If the file is there already, or can't be written.
    WeightsError
        If an array holds a NaN or an infinity.
    """
    path = Path(path)
    check_output(path, force)
    model = _keras_names(model)
    for layer in model.layers:
        _check_finite(layer)
    config = model_config(model)
    about = {
        "backend": "tensorflow",
        "keras_version": KERAS_VERSION,
        "model_config": json.dumps(config),
        "nplrp_preprocessing": json.dumps(_prepared(model.preprocessing)),
        "nplrp_source_sha256": file_sha256(source),
        "nplrp_tool": f"weights_tools {__version__} {command}",
    }
    if model.classes is not None:
        about["nplrp_classes"] = json.dumps([list(pair) for pair in model.classes], ensure_ascii=False)
    with written_hdf5(path, alignment_threshold=1, alignment_interval=ALIGNMENT) as file:
        for name, value in about.items():
            file.attrs[name] = value
        group = file.create_group("model_weights")
        group.attrs["backend"], group.attrs["keras_version"] = about["backend"], about["keras_version"]
        input_name, *names = [entry["name"] for entry in config["config"]["layers"]]
        write_names(group, "layer_names", [input_name, *names])
        group.create_group(input_name).attrs["weight_names"] = np.zeros(0)  # as Keras: an empty float64 array
        for layer in model.layers:
            _write_layer(group.create_group(layer.name), layer)


def check_output(path: Path, force: bool) -> None:
    """Refuse to write before anything is computed.

    Raises
    ------
    OutputError
    """
    if path.is_dir() or not path.parent.is_dir():
        raise OutputError(
            f"{path}: {'is a folder' if path.is_dir() else f'there is no folder {path.parent}'}; give a file name ending in .h5"
        )
    if path.exists() and not force:
        raise OutputError(f"{path} exists already; give another name, or --force to replace it")


def write_names(group: h5py.Group, attribute: str, names: list[str]) -> None:
    """Write a list of names as Keras 2 does: fixed-length bytes, split into ``name0``, ``name1``, ... if too long for one attribute.

    Raises
    ------
    OutputError
        If a single name is too long.
    """
    data = np.array([name.encode() for name in names])
    if data.itemsize > MAX_ATTRIBUTE:
        raise OutputError(
            f"{group.name}: a name of {data.itemsize} bytes is longer than the {MAX_ATTRIBUTE} that HDF5 holds; rename the layer"
        )
    if data.nbytes <= MAX_ATTRIBUTE:
        group.attrs[attribute] = data
        return
    each = MAX_ATTRIBUTE // data.itemsize
    for number, start in enumerate(range(0, len(data), each)):
        group.attrs[f"{attribute}{number}"] = data[start : start + each]


def file_sha256(path: str | os.PathLike[str]) -> str:
    """Return the SHA-256 of a file's bytes, in hexadecimal.

    Raises
    ------
    WeightsError
        If it can't be read.
    """
    try:
        with open_plain(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise WeightsError(f"{path}: can't be read: {error.strerror or error}") from None


def _write_layer(group: h5py.Group, layer: Layer) -> None:
    arrays = stored_arrays(layer)
    if not arrays:
        group.attrs["weight_names"] = np.zeros(0)
        return
    write_names(group, "weight_names", [f"{layer.name}/{key}:0" for key in arrays])
    inner = group.create_group(layer.name)
    for key, array in arrays.items():
        inner.create_dataset(f"{key}:0", data=array, dtype="<f4")


def _keras_names(model: Model) -> Model:
    """Replace the slash in the names of nested layers: Keras and HDF5 read it as a path. Layers that are the model's input are left out."""
    layers: list[Layer] = []
    taken = {layer.name for layer in model.layers}
    names = {-1: INPUT}  # what every layer is called, by its place
    for i, (layer, reads) in enumerate(zip(model.layers, sources(model.layers), strict=True)):
        name = layer.name.replace("/", "_")
        while name != layer.name and name in taken:
            name += "_"
        taken.add(name)
        names[i] = name if layer.kind != "input" else names[reads[0]]
        if layer.kind != "input":
            layers.append(dataclasses.replace(layer, name=name, inputs=tuple(names[j] for j in reads)))
    return dataclasses.replace(model, layers=tuple(layers))


def _check_finite(layer: Layer) -> None:
    for key, array in layer.arrays.items():
        finite = np.isfinite(array)
        if not finite.all():
            where = tuple(int(i) for i in np.argwhere(~finite)[0])
            raise WeightsError(
                f"layer {layer.name!r}: its {key} holds {array[where]} at {where}; the weights are damaged, nothing was written"
            )


def _prepared(how: Preprocessing) -> dict[str, object]:
    """Return what a file says of how pictures were prepared; what was only assumed stays unknown."""
    return {"mode": UNKNOWN if how.assumed else how.mode, "resample": how.resample, "crop": how.crop, "resize_to": how.resize_to}
