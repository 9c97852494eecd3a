"""Record the zoo's data with real Keras: `python tests/peers/make_zoo.py [--only TITLE ...] [--check] [group/dialect ...]`.

Needs tensorflow, keras 3 and tf_keras, which the project doesn't; run by hand, from the root, when networks are added. Per network:
build it, scale its weights in one pass so that no layer's output vanishes or explodes, compute outputs in float64, save it in every
layout, record the layouts; then have `tests.zoo` write the same files anew and see that they equal Keras's own to the last
attribute, and that Keras loads them and computes the recorded outputs.
"""

import argparse
import json
import lzma
import os
import sys
import tempfile
import time
import zipfile
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("TF_ENABLE_ONEDNN_OPTS", "0")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import h5py
import keras
import numpy as np
import tensorflow as tf
import tf_keras

from tests import zoo
from tests.peers import keras_pass, zoo_applications, zoo_everyday, zoo_layers
from tests.peers.zoo_everyday import Builder

KERAS = {"keras2": tf_keras, "keras3": keras}
GROUPS = {"everyday": {**zoo_everyday.BUILDERS, **zoo_layers.BUILDERS}, "applications": zoo_applications.BUILDERS}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("files", nargs="*", default=[f"{group}/{dialect}" for group in GROUPS for dialect in KERAS])
    parser.add_argument("--only", nargs="*", help="record these networks and those that are missing, keep the others as they are")
    parser.add_argument("--check", action="store_true", help="write nothing, see that the recorded networks are what Keras gives")
    options = parser.parse_args()
    tf.config.threading.set_intra_op_parallelism_threads(1)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    for file in options.files:
        record_group(*file.split("/"), options.only, options.check)


def record_group(group: str, dialect: str, only: list[str] | None, check: bool) -> None:
    path = zoo.DATA / f"{group}_{dialect}.json.xz"
    records = {}
    if path.exists():
        records = {entry["name"]: json.loads(line) for entry, line in zip(zoo._index(path), zoo._lines(path)[1:], strict=True)}
    failed = []
    for title, builder in GROUPS[group].items():
        name = f"{dialect}/{title}"
        if builder.dialects and dialect not in builder.dialects:
            continue
        if only is not None and title not in only and name in records:
            continue
        started = time.perf_counter()
        try:
            record = check_one(zoo.Network(name, records[name])) if check else make_one(title, dialect, builder)
        except Exception as error:
            failed.append(name)
            print(f"{name}: FAILED: {type(error).__name__}: {' '.join(str(error).split())[:600]}", flush=True)
            continue
        print(f"{name}: {time.perf_counter() - started:.1f} s; {describe(record)}", flush=True)
        records[name] = record
        if not check:
            write(path, group, dialect, records, 1)  # after each: a run that is stopped loses nothing
    if not check:
        write(path, group, dialect, records, 9 | lzma.PRESET_EXTREME)
    print(f"{path.name}: {len(records)} networks, {path.stat().st_size} bytes, failed: {failed}", flush=True)


def write(path: Path, group: str, dialect: str, records: dict[str, dict], preset: int) -> None:
    order = [name for name in (f"{dialect}/{title}" for title in GROUPS[group]) if name in records]
    keys = ("chain", "features", "classes")
    index = [{"name": name, "group": group, **{key: records[name][key] for key in keys}} for name in order]
    text = b"\n".join(json.dumps(item, separators=(",", ":")).encode() for item in [index, *(records[name] for name in order)])
    path.write_bytes(lzma.compress(text, preset=preset))


def describe(record: dict) -> str:
    sizes = [int(np.prod(shape)) for _, shape, *_ in record["variables"]]
    spread = ", ".join(f"{name} {np.std(value):.2g}" for name, value in record["outputs"])
    checked = " ".join([record["checked"], *(f"refused: {layout}" for layout in record["refused"])])
    return f"{len(sizes)} variables of {sum(sizes)} numbers, {'chain' if record['chain'] else 'graph'}; std {spread}; {checked}"


# One network


def make_one(title: str, dialect: str, builder: Builder) -> dict:
    k = KERAS[dialect]
    k.backend.clear_session()
    k.backend.set_floatx("float32")
    model = builder.build(k, k.layers)
    text = model.to_json()
    k.backend.clear_session()
    k.backend.set_floatx("float64")
    with keras_pass.still(k):
        twin = builder.build(k, k.layers)
    keras_pass.exact(twin, model)
    k.backend.set_floatx("float32")
    low, high = builder.pixels
    shape = [2, *builder.shape]
    sample = zoo.values(title, zoo.INPUTS, [8, *builder.shape], "float32", "uniform", (low + high) / 2, (high - low) / 2)
    rules = keras_pass.calibrate(twin, title, sample, builder.gain)
    record = {
        "features": list(builder.features),
        "classes": sorted(keras_pass.classes(json.loads(text))),
        "chain": keras_pass.is_chain(json.loads(text)),
        "version": k.__version__,
        "inputs": [shape, low, high],
        "variables": rules,
        "configs": {},
        "by_name": [],
        "by_number": [],
    }
    network = zoo.Network(f"{dialect}/{title}", record)
    keras_pass.fill(twin, network.weights())
    observed = keras_pass.observe(twin, network.inputs(), keep=zoo.record_layer)
    record["outputs"] = [[name, value.tolist()] for name, value in observed.outputs]
    record["logits"] = [[name, value.tolist()] for name, value in observed.logits]
    if builder.layers == "always" or (builder.layers and dialect == builder.layers):
        record["layers"] = observed.layers
    keras_pass.fill(model, network.weights())
    with tempfile.TemporaryDirectory() as folder:
        record_files(k, model, network, Path(folder))
        record["checked"] = check_files(k, network, Path(folder))
    return record


def record_files(k, model, network: zoo.Network, folder: Path) -> None:
    """Save the model in every layout and record configurations and layouts; see that the zoo writes the same files."""
    record = network.record
    weights = network.weights()
    known = {}
    for number, value in enumerate(weights):
        known.setdefault((value.dtype.str, value.shape, value.tobytes()), number)

    def which(dataset: h5py.Dataset) -> int:
        value = np.asarray(dataset[()])
        return known[value.dtype.str, value.shape, value.tobytes()]

    real = {layout: folder / f"real.{layout}" for layout in zoo.LAYOUTS}
    model.save(real["keras"])
    model.save_weights(real["weights.h5"])
    try:
        model.save(real["h5"])
    except (ValueError, TypeError) as error:  # Keras 3: two variables of one path; RandomBrightness
        if not any(text in str(error) for text in ("name already exists", "cannot pickle 'module' object")):
            raise
        del record["by_name"]
        real.pop("h5").unlink()
    else:
        with h5py.File(real["h5"]) as file:
            place_config(record, "h5", json.loads(file.attrs["model_config"]))
            group = file["model_weights"]
            for name in [*group.attrs["layer_names"], "top_level_model_weights"]:
                record["by_name"].append([name, [[place, which(group[name][place])] for place in group[name].attrs["weight_names"]]])
    with zipfile.ZipFile(real["keras"]) as archive:
        place_config(record, "keras", json.loads(archive.read("config.json")))
        archive.extract("model.weights.h5", folder)
    place_config(record, "json", json.loads(model.to_json()))
    if tree(folder / "model.weights.h5") != tree(real["weights.h5"]):
        raise AssertionError("the archive's weights are laid out in another way than the weights file")
    with h5py.File(real["weights.h5"]) as file:

        def visit(place: str, item: h5py.HLObject) -> None:
            if isinstance(item, h5py.Group) and place.rsplit("/", 1)[-1] == "vars":
                numbers = [which(item[key]) for key in sorted(item, key=int)]
                record["by_number"].append([place[:-5], item.attrs.get("name"), numbers])

        file.visititems(visit)
    for layout in network.layouts[:-1]:
        ours, theirs = tree(zoo.write(network, folder, layout)), tree(real[layout])
        for place in sorted({*ours, *theirs}):
            if ours.get(place) != theirs.get(place):
                raise AssertionError(f"{layout}, {place}: the zoo has {str(ours.get(place))[:400]}, Keras {str(theirs.get(place))[:400]}")
    zoo.write(network, folder, "keras")


def place_config(record: dict, layout: str, config: dict) -> None:
    """Put a configuration into the record; one that is there already is named instead."""
    seen: dict[int, int] = {}

    def plain(value):
        """Number shared objects in order: Keras writes their addresses in memory."""
        if isinstance(value, dict):
            return {key: seen.setdefault(item, len(seen) + 1) if key == "shared_object_id" else plain(item) for key, item in value.items()}
        return [plain(item) for item in value] if isinstance(value, list) else value

    config = plain(config)
    same = [name for name, other in record["configs"].items() if other == config]
    record["configs"][layout] = same[0] if same else config


def tree(path: Path) -> dict:
    """Return everything in an HDF5 file: groups, attributes with their types, datasets; ids of shared objects left out."""
    found = {}

    def visit(place: str, item: h5py.HLObject) -> None:
        attributes = {}
        for key in item.attrs:
            kind, value = item.attrs.get_id(key), item.attrs[key]
            value = plain(json.loads(value)) if key == "model_config" else np.asarray(value).tolist()
            attributes[key] = (str(kind.dtype), kind.shape, str(h5py.check_string_dtype(kind.dtype)), value)
        data = (item.dtype.str, item.shape, item[()].tobytes()) if isinstance(item, h5py.Dataset) else None
        found[place] = (attributes, data)

    def plain(value):
        if isinstance(value, dict):
            return {key: plain(item) for key, item in value.items() if key != "shared_object_id"}
        return [plain(item) for item in value] if isinstance(value, list) else value

    with h5py.File(path) as file:
        visit("/", file)
        file.visititems(visit)
    return found


def check_one(network: zoo.Network) -> dict:
    with tempfile.TemporaryDirectory() as folder:
        for layout in network.layouts:
            zoo.write(network, folder, layout)
        refused = network.record["refused"]
        network.record["checked"] = check_files(KERAS[network.dialect], network, Path(folder))
        if network.record["refused"] != refused:
            raise AssertionError(f"Keras refuses {network.record['refused']}, recorded is {refused}")
    return network.record


def loaded(k, network: zoo.Network, path: Path, classes: dict) -> float:
    """Have Keras load a file, given classes that it doesn't find by itself; return how far its outputs are from the recorded ones."""
    if path.name.endswith(".weights.h5"):
        model = k.models.model_from_json(path.with_name(f"{network.title}.json").read_text(), custom_objects=classes)
        model.load_weights(path)
    else:
        model = k.models.load_model(path, compile=False, custom_objects=classes)
    for (name, *_), value, wanted in zip(network.record["variables"], keras_pass.values(model), network.weights(), strict=True):
        if not np.array_equal(value, wanted):
            raise AssertionError(f"{path.name}: variable {name} isn't what was written")
    off = far(k, model, network)
    if not off < CLOSE:
        raise ValueError(f"outputs are off by {off:.1e}")
    return off


#: What float32 may change in outputs, relative to their maximum.
CLOSE = 2e-4


def far(k, model, network: zoo.Network) -> float:
    """Return how far a float32 model's outputs are from the recorded ones."""
    if keras_pass.first_channels(model):
        keras_pass.turn_channels(model)
    outputs = keras_pass.listed(model(network.inputs(), training=False))
    pairs = zip(outputs, network.outputs().values(), strict=True)
    return max(float(np.abs(np.asarray(value, np.float64) - wanted).max() / np.abs(wanted).max()) for value, wanted in pairs)


def check_files(k, network: zoo.Network, folder: Path) -> str:
    """See that Keras loads what the zoo wrote, finds every variable where it belongs, and computes the recorded outputs.

    What it can't load although it wrote the same is noted: Keras 3 takes the operation `h + y` in its .h5 files for a layer, and
    doesn't find several axes there.
    """
    k.backend.set_floatx("float32")
    worst = 0.0
    network.record["refused"] = []
    for layout in network.layouts:
        path = folder / f"{network.title}.{layout}"
        for classes in ({}, keras_pass.customs(k, network.classes)):
            k.backend.clear_session()
            try:
                worst = max(worst, loaded(k, network, path, classes))
                break
            except (TypeError, ValueError) as error:
                if layout not in network.record["refused"]:
                    network.record["refused"].append(layout)
                    print(
                        f"  Keras doesn't load its own .{layout}: {type(error).__name__}: {' '.join(str(error).split())[:200]}", flush=True
                    )
        else:
            if layout == "weights.h5":
                raise AssertionError("Keras loads no layout")
    return f"float32 off by {worst:.0e}"


if __name__ == "__main__":
    main()
