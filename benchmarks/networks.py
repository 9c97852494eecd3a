"""The networks that are measured, as Keras weight files, and tables that tell other interpreters where their arrays lie."""

import json
from pathlib import Path

import h5py
import numpy as np
from protocol import SEED

BLOCKS = ((2, 64), (2, 128), (3, 256), (3, 512), (3, 512))
DENSE = (("fc1", 4096), ("fc2", 4096), ("predictions", 1000))


def write_vgg16(path):
    """Write VGG16 with seeded He-scaled weights and small biases, in the layout of Keras's official file (553 MB)."""
    rng = np.random.default_rng(SEED)
    shapes, before = [], 3
    for block, (depth, width) in enumerate(BLOCKS, 1):
        for i in range(1, depth + 1):
            shapes.append((f"block{block}_conv{i}", (3, 3, before, width)))
            before = width
    before *= 7 * 7
    for name, width in DENSE:
        shapes.append((name, (before, width)))
        before = width
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name, _ in shapes]
        for name, shape in shapes:
            group = file.create_group(name)
            names = [f"{name}_W_1:0", f"{name}_b_1:0"]
            group.attrs["weight_names"] = [each.encode() for each in names]
            kernel = rng.standard_normal(shape, np.float32)
            kernel *= np.float32(np.sqrt(2 / np.prod(shape[:-1])))
            group.create_dataset(names[0], data=kernel)
            group.create_dataset(names[1], data=rng.standard_normal(shape[-1], np.float32) * np.float32(0.1))


def write_merged(model, path):
    """Write a model without its batch norms: merged into their neighbours, as nplrp computes them.

    Raises
    ------
    ValueError
        If one can't be merged.
    """
    from nplrp.model import Layer, chain
    from nplrp.plan import make_plan
    from weights_tools.write_hdf5 import write

    layers = []
    for layer, step in zip(model, make_plan(model).steps, strict=True):
        if step.kind == "scale":
            raise ValueError(f"layer {layer.name!r} can't be merged")
        if layer.kind in ("input", "batchnorm", "identity"):
            continue
        arrays = {} if step.weight is None else {"kernel": step.weight, "bias": step.bias}
        layers.append(Layer(layer.name, layer.kind, (), (), layer.activation, layer.window, arrays=arrays))
    merged = chain(model.input_shape, layers, "merged", preprocessing=model.preprocessing)
    write(merged, path, model.source, "benchmarks", force=True)


def describe(weights, table):
    """Write a JSON table of a weight file's layers and the places of their arrays, for `protocol.read_network`.

    Raises
    ------
    ValueError
        If an array isn't stored in one piece, as float32.
    """
    import nplrp

    found = {}
    with h5py.File(weights, "r") as file:
        file.visititems(lambda _, item: found.setdefault(_owner(item), []).append(_place(item)) if isinstance(item, h5py.Dataset) else None)
    rows = []
    for layer in nplrp.load(weights):
        if layer.kind in ("input", "identity") and layer.activation == "linear":
            continue
        places = {("kernel" if len(shape) > 1 else "bias"): (offset, shape) for offset, shape in found.get(layer.name, [])}
        for key, array in layer.arrays.items():
            if list(array.shape) != places[key][1]:
                raise ValueError(f"{weights}: {layer.name}: {key} has shape {array.shape}, the file says {places[key][1]}")
        row = {"name": layer.name, "kind": layer.kind, "activation": layer.activation, "input_shape": layer.input_shape, "arrays": places}
        rows.append(row)
    Path(table).write_text(json.dumps({"file": str(weights), "layers": rows}), "utf-8")


def _owner(dataset):
    return Path(dataset.name).parent.name


def _place(dataset):
    offset = dataset.id.get_offset()
    if offset is None or dataset.dtype != np.dtype("<f4"):
        raise ValueError(f"{dataset.name}: not contiguous float32")
    return offset, list(dataset.shape)


def conv_stack(model, side):
    """Return VGG16's convolutions and pools for images of another side, then a global average and 10 outputs, as a `nplrp.Model`."""
    from nplrp.model import Layer, chain

    layers = []
    for layer in model:
        if layer.kind == "flatten":
            break
        layers.append(layer)
    kernel = np.random.default_rng(SEED).standard_normal((512, 10), np.float32)
    layers += [Layer("mean", "global_avgpool", (), ()), Layer("logits", "dense", (), (), arrays={"kernel": kernel})]
    return chain((side, side, 3), layers, f"stack{side}")
