"""The networks that are measured, as Keras weight files, and tables that tell other interpreters where their arrays lie."""

import json
from pathlib import Path

import h5py
import numpy as np
from protocol import SEED, images

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


def write_graph(name, path):
    """Write a network of keras.applications with seeded He-scaled weights, in the layout of Keras's official files.

    Batch norms have the statistics that their inputs have for a seeded image, so that activations are as those of a trained network are.
    """
    import nplrp
    from nplrp import layers
    from nplrp.files import architectures, keras_config
    from nplrp.plan import make_plan

    rng = np.random.default_rng(SEED)
    network = keras_config.parse(architectures.configurations(name, lambda *_: None)[0])
    arrays = {
        item.layer.name: {key: _variable(rng, key, shape) for key, shape in item.variables.items()}
        for item in sorted(network.layers, key=lambda item: item.place)
        if item.variables
    }
    _write_keras(arrays, path)
    model = nplrp.load(path, architecture=name)
    values, plan = [images(1, model.input_shape[0])], make_plan(model, "epsilon", merge=False)
    for layer, step in zip(model, plan.steps, strict=True):
        a = layers.gather(step, values)
        if layer.kind == "batchnorm":
            norm = arrays[layer.name]
            norm["mean"], norm["variance"] = (f(a, axis=(0, 1, 2), dtype=np.float64).astype(np.float32) for f in (np.mean, np.var))
            g = norm.get("gamma", 1.0) / np.sqrt(norm["variance"] + layer.epsilon)
            z = (a * g + (norm["beta"] - norm["mean"] * g)).astype(np.float32)
        else:
            z, _ = layers.apply(step, a)
        values.append(layers.activate(step, z, in_place=False))
    _write_keras(arrays, path)


def _variable(rng, key, shape):
    """Return a layer's seeded array: kernels He-scaled, factors about 1, biases small."""
    values = rng.standard_normal(shape, np.float32)
    if key == "kernel":
        taken = np.prod(shape[:-1]) if shape[-1] > 1 else np.prod(shape[:2])  # a depthwise one sees one channel
        return values * np.float32(np.sqrt(2 / taken))
    return 1 + np.float32(0.1) * values if key in ("gamma", "variance") else np.float32(0.1) * values


def _write_keras(arrays, path):
    variables = {"mean": "moving_mean", "variance": "moving_variance"}
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [name.encode() for name in arrays]
        for name, found in arrays.items():
            group = file.create_group(name)
            names = {key: f"{name}/{variables.get(key, key)}:0" for key in found}
            group.attrs["weight_names"] = [each.encode() for each in names.values()]
            for key, array in found.items():
                group.create_dataset(names[key], data=array)


def describe_graph(weights, table, architecture):
    """Write a JSON table of a network of keras.applications and the places of its arrays, for `protocol.read_network`."""
    import nplrp

    places = {}
    with h5py.File(weights, "r") as file:
        file.visititems(
            lambda _, item: places.setdefault(_owner(item), []).append(_place(item)) if isinstance(item, h5py.Dataset) else None
        )
        order = {name: list(group[name]) for name, group in file.items()}
    ours = {"moving_mean:0": "mean", "moving_variance:0": "variance"}
    model, rows, before = nplrp.load(weights, architecture=architecture), [], "input"
    for layer in model:
        window = layer.window
        row = {key: getattr(layer, key) for key in ("name", "kind", "activation", "input_shape", "pads", "epsilon")}
        row["inputs"] = layer.inputs or (before,)
        row["window"] = window and {"size": window.size, "stride": window.stride, "pads": window.pads(*layer.input_shape[:2])}
        names = [ours.get(key, key.removesuffix(":0")) for key in order.get(layer.name, ())]
        row["arrays"] = dict(zip(names, places.get(layer.name, ()), strict=True))
        rows.append(row)
        before = layer.name
    Path(table).write_text(json.dumps({"file": str(weights), "architecture": architecture, "layers": rows}), "utf-8")


def _owner(dataset):
    return Path(dataset.name).parent.name


def _place(dataset):
    offset = dataset.id.get_offset()
    if offset is None or dataset.dtype != np.dtype("<f4"):
        raise ValueError(f"{dataset.name}: not contiguous float32")
    return offset, list(dataset.shape)


def random_stack(side, blocks):
    """Return blocks of (convolutions, channels), each with a max-pool behind it, then a global average and 10 outputs, seeded."""
    from nplrp.model import Layer, Window, chain

    rng, layers, before = np.random.default_rng(SEED), [], 3
    for block, (depth, width) in enumerate(blocks, 1):
        for i in range(1, depth + 1):
            kernel = rng.standard_normal((3, 3, before, width), np.float32) * np.float32(np.sqrt(2 / (9 * before)))
            layers.append(
                Layer(f"block{block}_conv{i}", "conv", window=Window((3, 3), padding="same"), activation="relu", arrays={"kernel": kernel})
            )
            before = width
        layers.append(Layer(f"block{block}_pool", "maxpool", window=Window((2, 2), (2, 2))))
    layers += [Layer("mean", "global_avgpool"), Layer("logits", "dense", arrays={"kernel": rng.standard_normal((before, 10), np.float32)})]
    return chain((side, side, 3), layers, f"stack{side}")


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
