"""Networks of tests/peers/graph_file.py as models of the engine."""

import numpy as np

from nplrp.model import INPUT, Layer, Preprocessing, Window, build

#: Kinds whose names are the engine's too, without any attribute.
SAME = ("global_maxpool", "global_avgpool", "flatten", "add", "subtract", "average", "maximum", "minimum", "multiply")


def model_of(network):
    """Return the engine's model of a network; the last layer gives the logits."""
    names, shape = {network.layers[0]["name"]: INPUT}, tuple(network.layers[0]["shape"])
    layers, ranks = [], {INPUT: len(shape)}
    for described in network.layers[1:]:
        inputs = tuple(names.get(name, name) for name in described["inputs"])
        layers.append(_layer(described, inputs, ranks[inputs[0]]))
        flat = described["kind"] in ("flatten", "global_maxpool", "global_avgpool")
        ranks[described["name"]] = 1 if flat else len(described["shape"]) if described["kind"] == "reshape" else ranks[inputs[0]]
    return build(shape, layers, network.name, preprocessing=Preprocessing("caffe"))


def _layer(described, inputs, rank):
    """Return one layer; `rank` is that of its first input."""
    kind, name = described["kind"], described["name"]
    arrays = {key: np.asarray(array) for key, array in described["arrays"].items()}
    common = {"inputs": inputs, "arrays": arrays, "activation": described.get("activation", "linear")}
    if kind in ("conv", "depthwise", "conv_transpose", "maxpool", "avgpool"):
        window = Window(tuple(described["size"]), tuple(described["stride"]), padding=described["padding"])
        groups = described.get("groups", 1)
        return Layer(name, kind, window=window, options={"groups": groups} if groups > 1 else {}, **common)
    if kind in ("batchnorm", "layernorm"):
        return Layer(name, kind, epsilon=described["epsilon"], options={} if kind == "batchnorm" else {"axes": [rank - 1]}, **common)
    if kind == "activation":
        function = described["function"]
        text = f"leaky_relu(negative_slope={described['slope']})" if function == "leaky_relu" else function
        text = {"relu6": "relu(max_value=6.0)"}.get(text, text)
        return Layer(name, kind, **{**common, "activation": text})
    options = {
        "reshape": lambda: {"shape": described["shape"]},
        "upsample": lambda: {"size": [described["factor"]] * 2, "interpolation": "nearest"},
        "concatenate": lambda: {"axis": rank - 1},
    }
    if kind in options:
        return Layer(name, kind, options=options[kind](), **common)
    assert kind in ("dense", *SAME), kind
    return Layer(name, kind, **common)
