"""Networks that aren't chains, as plain data in one .npz: read and written with NumPy alone, in every interpreter.

For every network NAME the file has

    NAME/layers   JSON: a list of layers in topological order, each {"name", "kind", "inputs": [names], attributes}
    NAME/LAYER/ARRAY   float32 arrays; kernels in Keras's order
    NAME/x, NAME/targets   two inputs [2, h, w, c] or [2, c] in float64, and a class for each

| kind | attributes | arrays |
|---|---|---|
| input | shape | |
| conv | size, stride, padding, groups, activation | kernel [h, w, c / groups, out], bias |
| depthwise | size, stride, padding, activation | kernel [h, w, c, multiplier], bias |
| conv_transpose | size, stride, padding, activation | kernel [h, w, out, c], bias |
| dense | activation | kernel [c, out], bias |
| batchnorm, layernorm | epsilon | gamma, beta, mean and variance (batchnorm), all [c] |
| maxpool, avgpool | size, stride, padding | |
| global_maxpool, global_avgpool, flatten | | |
| reshape | shape | |
| upsample | factor (nearest) | |
| activation | function; slope of leaky_relu | |
| add, subtract, average, maximum, minimum, multiply, concatenate (last axis) | | |

`padding` is TensorFlow's "same" or "valid"; a bias may be absent. "multiply" may have a second input [1, 1, c] that is broadcast.
The last layer gives the logits.
"""

import json

import numpy as np

WEIGHTED = ("conv", "depthwise", "conv_transpose", "dense")


class Network:
    """One network: `layers` (dicts, with their "arrays" in float64), `x`, `targets`."""

    def __init__(self, name, layers, x, targets):
        self.name, self.layers, self.x, self.targets = name, layers, x, targets

    def __getitem__(self, name):
        return next(layer for layer in self.layers if layer["name"] == name)

    def readers(self, name):
        """Return the layers that read a layer's output."""
        return [layer for layer in self.layers if name in layer["inputs"]]

    def folded(self):
        """Return the network with every batch norm that alone reads a linear convolution or dense layer folded into it in float64."""
        layers, gone = [], {}
        foldable = {norm["name"] for norm, _ in self.pairs()}
        for described in self.layers:
            layer = {**described, "inputs": [gone.get(name, name) for name in described["inputs"]]}
            if layer["name"] in foldable:
                linear = next(one for one in layers if one["name"] == layer["inputs"][0])  # a copy of the described one
                linear["arrays"] = fold(linear, layer)
                gone[layer["name"]] = linear["name"]
            else:
                layers.append(layer)
        return Network(self.name, layers, self.x, self.targets)

    def merged(self):
        """Return the network as Zennit merges it: folded, but norms of mean 0 and variance 1 stay and divide by sqrt(1 + epsilon)."""
        folded, norms = self.folded(), {norm["name"] for norm, _ in self.pairs()}
        layers = []
        for layer in self.layers:
            if layer["name"] in norms:
                ones = np.ones_like(layer["arrays"]["gamma"])
                arrays = {"gamma": ones, "beta": 0 * ones, "mean": 0 * ones, "variance": ones}
            else:
                arrays = folded[layer["name"]]["arrays"]
            layers.append({**layer, "arrays": arrays})
        return Network(self.name, layers, self.x, self.targets)

    def variant(self, name):
        """Return the network of a variant that a peer's file names: folded, merged, or the network itself."""
        return self.folded() if "folded" in name else self.merged() if "merged" in name else self

    def pairs(self):
        """Return (batch norm, the layer that it can be folded into) for every batch norm that can."""
        found = []
        for norm in self.layers:
            if norm["kind"] == "batchnorm":
                linear = self[norm["inputs"][0]]
                if linear["kind"] in WEIGHTED and linear["activation"] == "linear" and len(self.readers(linear["name"])) == 1:
                    found.append((norm, linear))
        return found


def fold(linear, norm):
    """Return kernel and bias of a linear layer that a batch norm follows."""
    arrays = norm["arrays"]
    scale = arrays["gamma"] / np.sqrt(arrays["variance"] + norm["epsilon"])
    kernel, bias = linear["arrays"]["kernel"], linear["arrays"].get("bias", np.zeros_like(scale))
    axis = {"conv_transpose": (None, None, slice(None), None), "depthwise": (None, None, slice(None), None)}.get(linear["kind"], ...)
    return {"kernel": kernel * scale[axis], "bias": (bias - arrays["mean"]) * scale + arrays["beta"]}


def write(path, networks):
    """Write networks to an .npz."""
    file = {}
    for network in networks:
        plain = [{key: value for key, value in layer.items() if key != "arrays"} for layer in network.layers]
        file[f"{network.name}/layers"] = np.array(json.dumps(plain))
        file[f"{network.name}/x"], file[f"{network.name}/targets"] = network.x, network.targets
        for layer in network.layers:
            for key, array in layer.get("arrays", {}).items():
                file[f"{network.name}/{layer['name']}/{key}"] = array.astype(np.float32)
    np.savez_compressed(path, **file)


def read(path):
    """Return {name: Network}, arrays in float64."""
    networks = {}
    with np.load(path) as file:
        for key in file.files:
            name, _, rest = key.partition("/")
            if rest != "layers":
                continue
            layers = json.loads(str(file[key]))
            for layer in layers:
                prefix = f"{name}/{layer['name']}/"
                layer["arrays"] = {one.removeprefix(prefix): file[one].astype(np.float64) for one in file.files if one.startswith(prefix)}
            networks[name] = Network(name, layers, file[f"{name}/x"], file[f"{name}/targets"])
    return networks


def kept(n):
    """Return the rows or columns of a map that are stored: every other one, and the last."""
    return sorted({*range(0, n, 2), n - 1})


def thinned(maps):
    """Return the pixels of [n, h, w, c] maps that are stored; vectors as they are."""
    return maps[:, kept(maps.shape[1])][:, :, kept(maps.shape[2])] if maps.ndim == 4 else maps


def stored(maps):
    """Return maps as they are stored: thinned, and rounded to 37 bits (7e-12), so that they compress."""
    mantissa, exponent = np.frexp(thinned(maps))
    return np.ldexp(np.round(np.ldexp(mantissa, 37)), exponent - 37)
