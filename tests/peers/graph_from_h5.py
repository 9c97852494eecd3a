"""Read a Keras 2 file into a `graph_file.Network`, with h5py and NumPy alone: an independent way to what nplrp's own reader finds."""

import json

import h5py
import numpy as np

from tests.peers.graph_file import Network

ARRAYS = {"kernel:0": "kernel", "depthwise_kernel:0": "kernel", "bias:0": "bias", "gamma:0": "gamma", "beta:0": "beta"}
ARRAYS |= {"moving_mean:0": "mean", "moving_variance:0": "variance"}
KINDS = {
    "Conv2D": "conv",
    "DepthwiseConv2D": "depthwise",
    "Dense": "dense",
    "BatchNormalization": "batchnorm",
    "MaxPooling2D": "maxpool",
    "AveragePooling2D": "avgpool",
    "GlobalAveragePooling2D": "global_avgpool",
    "Add": "add",
    "Concatenate": "concatenate",
    "Flatten": "flatten",
    "Activation": "activation",
    "ReLU": "activation",
    "InputLayer": "input",
}


def load(path, x, targets):
    """Return the network in a file; its softmax is left off."""
    layers = []
    with h5py.File(path) as file:
        config = json.loads(file.attrs["model_config"])["config"]
        for one in config["layers"]:
            settings, name = one["config"], "x" if one["class_name"] == "InputLayer" else one["config"]["name"]
            nodes = one["inbound_nodes"]
            inputs = [each[0] for each in nodes[0]] if nodes else []
            inputs = ["x" if each == config["input_layers"][0][0] else each for each in inputs]
            layer = {"name": name, "kind": KINDS[one["class_name"]], "inputs": inputs, "arrays": {}}
            layer |= {"padding": settings.get("padding"), "stride": settings.get("strides"), "epsilon": settings.get("epsilon")}
            layer |= {"size": settings.get("kernel_size", settings.get("pool_size")), "groups": settings.get("groups", 1)}
            activation = settings.get("activation", "linear")
            if layer["kind"] == "activation":
                layer["function"] = activation if one["class_name"] == "Activation" else {6.0: "relu6", None: "relu"}[settings["max_value"]]
            layer["activation"] = "linear" if activation == "softmax" else activation
            if name in file["model_weights"]:
                weights = file["model_weights"][name]
                for raw in weights.attrs["weight_names"]:
                    key = raw.decode() if isinstance(raw, bytes) else raw
                    layer["arrays"][ARRAYS[key.rpartition("/")[2]]] = np.asarray(weights[key], np.float64)
            layers.append(layer)
    return Network(path.stem, sorted_by_inputs(layers), x, targets)


def sorted_by_inputs(layers):
    """Return the layers so that each stands behind those that it reads."""
    done, waiting = [], list(layers)
    while waiting:
        names = {layer["name"] for layer in done}
        ready = next(layer for layer in waiting if names.issuperset(layer["inputs"]))
        done.append(ready)
        waiting.remove(ready)
    return done
