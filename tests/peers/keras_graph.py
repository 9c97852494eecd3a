"""Build `graph_file`'s networks in Keras 2.14, for iNNvestigate. Needs TensorFlow, not nplrp."""

import tensorflow.keras.layers as kl
from tensorflow.keras.models import Model

JOINS = {
    "add": kl.Add,
    "subtract": kl.Subtract,
    "average": kl.Average,
    "maximum": kl.Maximum,
    "minimum": kl.Minimum,
    "multiply": kl.Multiply,
    "concatenate": kl.Concatenate,
}
#: Keras's names where they differ; activations that are layers of their own in networks that people have.
FUNCTIONS = {"silu": "swish"}
OWN_LAYERS = {"relu6": lambda: kl.ReLU(6.0), "leaky_relu": kl.LeakyReLU, "elu": kl.ELU}


def make(layer):
    """Return (the Keras layer, the names of its arrays in Keras's order)."""
    kind, name = layer["kind"], layer["name"]
    if kind in JOINS:
        return JOINS[kind](name=name), ()
    if "kernel" in layer["arrays"]:
        bias = "bias" in layer["arrays"]
        function = FUNCTIONS.get(layer["activation"], layer["activation"])
        common = {"activation": function, "use_bias": bias, "name": name}
        kernel, names = layer["arrays"]["kernel"], ("kernel", "bias") if bias else ("kernel",)
        if kind == "dense":
            return kl.Dense(kernel.shape[1], **common), names
        common |= {"strides": layer["stride"], "padding": layer["padding"]}
        if kind == "conv":
            return kl.Conv2D(kernel.shape[3], layer["size"], groups=layer["groups"], **common), names
        if kind == "depthwise":
            return kl.DepthwiseConv2D(layer["size"], **common), names
        return kl.Conv2DTranspose(kernel.shape[2], layer["size"], **common), names
    if kind == "activation":
        function = layer["function"]
        if function in OWN_LAYERS:
            return OWN_LAYERS[function](*([layer["slope"]] if "slope" in layer else [])), ()
        return kl.Activation(FUNCTIONS.get(function, function), name=name), ()
    if kind == "batchnorm":
        return kl.BatchNormalization(epsilon=layer["epsilon"], name=name), ("gamma", "beta", "mean", "variance")
    if kind == "layernorm":
        return kl.LayerNormalization(epsilon=layer["epsilon"], name=name), ("gamma", "beta")
    if kind in ("maxpool", "avgpool"):
        pool = {"maxpool": kl.MaxPooling2D, "avgpool": kl.AveragePooling2D}[kind]
        return pool(layer["size"], layer["stride"], layer["padding"], name=name), ()
    return {
        "global_maxpool": kl.GlobalMaxPooling2D,
        "global_avgpool": kl.GlobalAveragePooling2D,
        "flatten": kl.Flatten,
        "reshape": lambda name: kl.Reshape(layer["shape"], name=name),
        "upsample": lambda name: kl.UpSampling2D(layer["factor"], name=name),
    }[kind](name=name), ()


def build(network):
    """Return the network as a Keras model."""
    tensors = {"x": kl.Input(network.layers[0]["shape"], name="x")}
    for layer in network.layers[1:]:
        made, arrays = make(layer)
        xs = [tensors[name] for name in layer["inputs"]]
        tensors[layer["name"]] = made(xs if len(xs) > 1 else xs[0])
        if arrays:
            made.set_weights([layer["arrays"][key] for key in arrays])
    return Model(tensors["x"], tensors[network.layers[-1]["name"]])
