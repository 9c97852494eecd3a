"""Write weight files in Keras's layouts, right or wrong, for the tests."""

import json
from pathlib import Path

import h5py
import numpy as np

FILES = Path(__file__).parent / "data" / "keras_files"
LAYOUTS = sorted(path.name for path in FILES.glob("small32_*"))


def vgg(blocks=(2, 2, 3, 3, 3), widths=(2, 2, 4, 4, 4), side=1, head=("fc1", "fc2", "predictions"), hidden=6, classes=3, channels=3):
    """A small VGG's layers, [(name, [kernel, bias])], with seeded values."""
    rng = np.random.default_rng(3)
    shapes, before = [], channels
    for block, (depth, width) in enumerate(zip(blocks, widths, strict=True), 1):
        for i in range(1, depth + 1):
            shapes.append((f"block{block}_conv{i}", (3, 3, before, width)))
            before = width
    before *= side * side
    for name, width in zip(head, (hidden, hidden, classes), strict=False):
        shapes.append((name, (before, width)))
        before = width
    return [(name, [rng.random(shape, "f"), rng.random(shape[-1], "f")]) for name, shape in shapes]


def write_by_name(path, layers, variables=("kernel:0", "bias:0"), within="/", config=None, text=list, attributes=None, **options):
    """Keras 2's layout; `text` makes a list of names into an attribute's value, `options` go to `create_dataset`."""
    with h5py.File(path, "w") as file:
        group = file.require_group(within)
        group.attrs["layer_names"] = text([name for name, _ in layers])
        for name, arrays in layers:
            paths = [f"{name}/{variable}" for variable in variables[: len(arrays)]]
            group.require_group(name).attrs["weight_names"] = text(paths) if paths else np.zeros(0)
            for place, array in zip(paths, arrays, strict=True):
                group[name].create_dataset(place, data=array, **options)
        if config is not None:
            file.attrs["model_config"] = json.dumps(config)
        for key, value in (attributes or {}).items():
            file.attrs[key] = value
    return path


def sequential(*layers, shape=(8, 8, 3), name="model"):
    """A Keras 2 configuration: layers are (class, options)."""
    entries = [{"class_name": "InputLayer", "config": {"batch_input_shape": [None, *shape], "name": "input_1"}}]
    entries += [{"class_name": kind, "config": {"name": f"layer{i}", **options}} for i, (kind, options) in enumerate(layers)]
    return {"class_name": "Sequential", "config": {"name": name, "layers": entries}}


class T:
    """A tensor in `functional`: an output of a use of a layer."""

    def __init__(self, name, node=0, output=0):
        self.history = [name, node, output]


def functional(layers, outputs, dialect=3, inputs=("x",), shape=(8, 8, 3), name="graph"):
    """A Functional configuration.

    `layers` maps a name to (class, options, uses...); a use is what the layer is called with: a list of positional operands, each a `T`, a
    name for `T(name)`, a list of such or a constant, and behind it perhaps a dict of keywords. Inputs have the given shape.
    """

    def tensor(value):
        return value if isinstance(value, T) else T(value)

    def keras3(value):
        if isinstance(value, list):
            return [keras3(each) for each in value]
        if not isinstance(value, T | str):
            return value
        return {
            "class_name": "__keras_tensor__",
            "config": {"shape": [None, 1], "dtype": "float32", "keras_history": tensor(value).history},
        }

    def node(use):
        operands, keywords = use if isinstance(use, tuple) else (use, {})
        if dialect == 3:
            return {"args": keras3(operands), "kwargs": {key: keras3(each) for key, each in keywords.items()}}
        first, *others = operands
        names = dict(zip(("y",), others, strict=False)) | keywords
        more = {key: tensor(each).history if isinstance(each, T | str) else each for key, each in names.items()}
        if isinstance(first, list):
            return [[*tensor(each).history, more] for each in first]
        if not isinstance(first, T | str):
            return ["_CONSTANT_VALUE", -1, first, more]
        return [*tensor(first).history, more] if others or keywords else [[*tensor(first).history, more]]

    key = "batch_shape" if dialect == 3 else "batch_input_shape"
    entries = [
        {"class_name": "InputLayer", "config": {"name": each, key: [None, *shape]}, "name": each, "inbound_nodes": []} for each in inputs
    ]
    for each, (kind, options, *uses) in layers.items():
        config = {**options, "name": each}
        entries.append({"class_name": kind, "config": config, "name": each, "inbound_nodes": [node(use) for use in uses]})
    ends = {"input_layers": [[each, 0, 0] for each in inputs], "output_layers": [tensor(each).history for each in outputs]}
    return {"class_name": "Functional", "config": {"name": name, "layers": entries, **ends}}
