"""iNNvestigate's relevance of every layer, by its rules layer by layer, with its own start: the target's logit.

python innvestigate_backend.py isolated|chained IN OUT.npz
Needs innvestigate 2.1 with tensorflow < 2.15 and numpy < 2; IN is what `nplrp golden export --to raw -w W` writes.
"""

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import math
import warnings

import numpy as np
import tensorflow as tf
from exchange import JOINS, MOVES, WEIGHTED, Job, command, parsed

warnings.simplefilter("ignore")
tf.compat.v1.disable_eager_execution()
tf.get_logger().setLevel("ERROR")
import innvestigate  # noqa: E402
import innvestigate.analyzer.relevance_based.relevance_rule as rr  # noqa: E402
from keras.src.engine import base_layer_utils  # noqa: E402
from tensorflow import keras  # noqa: E402

base_layer_utils._UNSAFE_GRAPH_OP_LAYER_CREATION = True  # else Keras evaluates every constant of a layer norm, and can't

kl = keras.layers

#: Of functions whose names differ, or that have parameters.
ACTIVATIONS = {
    "relu": lambda x, max_value=math.inf, negative_slope=0.0, threshold=0.0: keras.activations.relu(
        x, negative_slope, None if max_value == math.inf else max_value, threshold
    ),
    "leaky_relu": lambda x, negative_slope=0.2: tf.nn.leaky_relu(x, negative_slope),
    "elu": lambda x, alpha=1.0: keras.activations.elu(x, alpha),
    "silu": lambda x: x * tf.sigmoid(x),
    "gelu": lambda x: x * (1 + tf.math.erf(x / tf.constant(math.sqrt(2), x.dtype))) / 2,  # TensorFlow's divides by a float32
    "gelu_tanh": lambda x: keras.activations.gelu(x, approximate=True),
    "hard_sigmoid_2": keras.activations.hard_sigmoid,
    "hard_sigmoid": lambda x: tf.clip_by_value(x / 6 + 0.5, 0, 1),
    "hard_silu": lambda x: x * tf.clip_by_value(x / 6 + 0.5, 0, 1),
    "hard_tanh": lambda x, low=-1.0, high=1.0: tf.clip_by_value(x, low, high),
    "log_softmax": tf.nn.log_softmax,
    "log_sigmoid": tf.math.log_sigmoid,
    "erf": tf.math.erf,
    **{
        name: getattr(keras.activations, name)
        for name in ("linear", "softmax", "softplus", "softsign", "tanh", "sigmoid", "selu", "exponential", "mish")
    },
}
#: Rules that iNNvestigate has for kinds without weights; all else goes by its gradient.
OWN = {
    "add": ("norm", "epsilon", "zero"),
    "avgpool": ("norm", "epsilon", "zero"),
    "maxpool": ("winner",),
    **dict.fromkeys(("average", "subtract", "multiply"), ("gradient",)),
    **dict.fromkeys(("maximum", "minimum"), ("winner", "winner_ties")),
    **dict.fromkeys(("layernorm", "groupnorm", "prelu"), ("slope",)),
    "activation": ("pass", "slope"),
}


def rule(layer):
    """Return iNNvestigate's rule for a layer with weights or a batch norm, as a class that knows its constants; None for all others.

    A layer that it has no such rule for stops the backend.
    """
    r, name = layer.rule, layer.rule["name"]
    if layer.kind in MOVES or name in OWN.get(layer.kind, ()):
        return None
    bias = {"bias": r.get("bias") != "none"}
    if name == "zbox" and "box" in r:
        raise SystemExit(f"{layer.name}: its box isn't the same all over a channel; record with low and high given")
    if name == "zbox":
        ends = [set(np.ravel(r[end]).tolist()) for end in ("low", "high")]
        if any(len(end) > 1 for end in ends):
            layer.refuse("iNNvestigate's box has the same ends in all channels")
        return _with(rr.BoundedRule, low=ends[0].pop(), high=ends[1].pop())
    makers = {
        "zero": lambda: _with(rr.ZRule, **bias),
        "epsilon": lambda: _with(rr.EpsilonRule, epsilon=r["epsilon"], **bias),
        "zplus": lambda: rr.ZPlusRule if r.get("split", True) else rr.ZPlusFastRule,
        "alpha_beta": lambda: _with(rr.AlphaBetaRule, alpha=r["alpha"], beta=r["beta"], **bias),
        "alpha_beta_x": lambda: _with(rr.AlphaBetaXRule, alpha=(r["alpha"], 0), beta=(r["beta"], 0), **bias),
        "wsquare": lambda: rr.WSquareRule,
        "flat": lambda: rr.FlatRule,
    }
    if layer.kind not in (*WEIGHTED, "batchnorm") or name not in makers:
        layer.no_rule("iNNvestigate")
    return makers[name]()


def _with(base, **constants):
    class Known(base):
        def __init__(self, layer, state, **more):
            super().__init__(layer, state, **constants, **more)

    return Known


def bend(layer, text):
    """Return an activation as a function."""
    name, given = parsed(text)
    if name not in ACTIVATIONS:
        layer.refuse(f"the activation {text!r} isn't supported in Keras 2")
    return lambda x: ACTIVATIONS[name](x, **given)


def made(layer, name):
    """Return what to do before a layer, the layer in Keras, and its weights."""
    kind, before, (top, bottom, left, right) = layer.kind, [], layer.pads
    inside = None if layer.activation == "linear" else bend(layer, layer.activation)
    sloped = layer.slope or layer.rule["name"] == "slope"
    if layer.slope and kind in WEIGHTED:
        layer.refuse("iNNvestigate passes activations that are part of a layer")
    if inside and kind not in (*WEIGHTED, "identity", "activation"):
        layer.refuse(f"in Keras layers of kind {kind!r} have no activation")
    weights = [] if layer.kernel is None else [layer.kernel, np.zeros(biases(layer)) if layer.bias is None else layer.bias]
    if kind in ("conv", "depthwise", *POOLED):
        padding, before = padded(layer)
        window = {"strides": layer.stride, "padding": padding, "name": name}
    if kind in ("conv", "depthwise"):
        window |= {"dilation_rate": layer.dilation, "activation": inside}
        if kind == "conv":
            return before, kl.Conv2D(layer.kernel.shape[3], layer.size, groups=layer.groups, **window), weights
        return before, kl.DepthwiseConv2D(layer.size, depth_multiplier=layer.kernel.shape[3], **window), weights
    if kind == "conv_transpose":
        if not isinstance(layer.padding, str) or max(layer.dilation) > 1:
            layer.refuse("Keras 2 has no transposed convolution with such a padding or dilation on a CPU")
        window = {"strides": layer.stride, "padding": layer.padding, "output_padding": layer.options.get("output_padding")}
        return [], kl.Conv2DTranspose(layer.kernel.shape[2], layer.size, activation=inside, name=name, **window), weights
    if kind == "dense":
        return [], kl.Dense(layer.kernel.shape[1], activation=inside, name=name), weights
    if kind in POOLED:
        if layer.whole:
            return [], POOLED[kind][1](keepdims=len(layer.output_shape) == 3, name=name), []
        return before, POOLED[kind][0](layer.size, **window), []
    if kind == "batchnorm":
        return [], kl.BatchNormalization(epsilon=layer.epsilon, name=name), statistics(layer)
    if kind in ("layernorm", "groupnorm"):
        return [], *norm(layer, name)
    if kind == "prelu":
        alpha = layer.arrays["alpha"]
        return [], kl.PReLU(name=name), [np.broadcast_to(alpha, layer.shape)]
    simple = {
        "flatten": kl.Flatten,
        "reshape": lambda name: kl.Reshape(layer.output_shape, name=name),
        "permute": lambda name: kl.Permute(layer.options["dims"], name=name),
        "pad": lambda name: kl.ZeroPadding2D(((top, bottom), (left, right)), name=name),
        "crop": lambda name: kl.Cropping2D(((top, bottom), (left, right)), name=name),
        "upsample": lambda name: kl.UpSampling2D(layer.options["size"], name=name),
        "concatenate": lambda name: kl.Concatenate(layer.options["axis"] + 1, name=name),
        **{kind: getattr(kl, kind.capitalize()) for kind in JOINS},
        # a layer of the class Activation passes, all others go by their gradient
        "identity": lambda name: kl.Activation(inside or "linear", name=name),
        "activation": lambda name: (kl.Lambda if sloped else kl.Activation)(bend(layer, layer.activation), name=name),
    }
    return [], simple[kind](name=name), []


POOLED = {
    "maxpool": (kl.MaxPooling2D, kl.GlobalMaxPooling2D),
    "avgpool": (kl.AveragePooling2D, kl.GlobalAveragePooling2D),
}


def biases(layer):
    """Return the number of a layer's biases."""
    shape = layer.kernel.shape
    return {"depthwise": shape[2] * shape[-1], "conv_transpose": shape[2] if len(shape) == 4 else 0}.get(layer.kind, shape[-1])


def padded(layer):
    """Return Keras's padding of a window layer, and layers that pad before it where Keras has no such padding."""
    top, bottom, left, right = layer.pads
    if not any(layer.pads):
        return "valid", []
    if layer.pads == layer.same:
        return "same", []
    if layer.kind == "maxpool":
        sides, least = [[0, 0], [top, bottom], [left, right], [0, 0]], np.finfo(keras.backend.floatx()).min
        return "valid", [kl.Lambda(lambda x: tf.pad(x, sides, constant_values=tf.constant(least, x.dtype)))]
    if layer.kind == "avgpool" or layer.rule["name"] in ("flat", "wsquare", "zbox"):  # these would see the zeros
        layer.refuse(f"Keras has no padding of {list(layer.pads)}, and with zeros around its input the layer's rule is another")
    return "valid", [kl.ZeroPadding2D(((top, bottom), (left, right)))]


def statistics(layer):
    """Return a batch norm's weights in Keras's order: its own, or with another one merged into it those that leave g x + h as it is."""
    ones, zeros = np.ones(layer.shape[-1]), np.zeros(layer.shape[-1])
    if layer.kernel is None:
        usual = {"gamma": ones, "beta": zeros, "mean": zeros, "variance": ones}
        return [layer.arrays.get(key, array) for key, array in usual.items()]
    return [layer.kernel * np.sqrt(1 + layer.epsilon), layer.bias, zeros, ones]


def norm(layer, name):
    """Return a layer norm or group norm, and its weights."""
    gamma, beta = (layer.arrays.get(key) for key in ("gamma", "beta"))
    if layer.kernel is not None:  # with a batch norm merged into it
        gamma, beta = layer.kernel, layer.bias
    if layer.options.get("rms_scaling"):
        layer.refuse("Keras 2 has no such layer norm")
    common = {"epsilon": layer.epsilon, "scale": gamma is not None, "center": beta is not None, "name": name}
    if layer.kind == "groupnorm":
        made = kl.GroupNormalization(layer.options.get("groups", 1), **common)
    else:
        made = kl.LayerNormalization([axis + 1 for axis in layer.options.get("axes", [len(layer.shape) - 1])], **common)
    return made, [array for array in (gamma, beta) if array is not None]


class Graph:
    """Layers as a Keras model, and iNNvestigate's analyzer for it; whatever none of them gives is an input, in the order of `reads`.

    An output with several readers is given to each through an Activation that does nothing, so that each of these edges has a tensor.
    """

    def __init__(self, layers, readers):
        names = [layer.name for layer in layers]
        shapes = {name: shape for layer in layers for name, shape in zip(layer.inputs, layer.shapes) if name not in names}
        self.reads, self.values, self.edges, weights = list(shapes), {name: kl.Input(shape) for name, shape in shapes.items()}, {}, []
        rules, of_norms, norm_rule = [], None, None
        inputs = list(self.values.values())
        for i, layer in enumerate(layers):
            xs = {}
            for name in layer.inputs:
                if name not in xs:
                    several = len(readers.get(name, ())) > 1
                    self.edges[layer.name, name] = xs[name] = kl.Activation("linear")(self.values[name]) if several else self.values[name]
            before, step, own = made(layer, f"layer{i}")
            y = [xs[name] for name in layer.inputs]
            y = y[0] if len(y) == 1 else y
            for each in before:
                y = each(y)
            self.values[layer.name] = step(y)
            weights.append((step, own))
            found = rule(layer)
            if layer.kind == "batchnorm":
                if of_norms not in (None, layer.rule):
                    layer.refuse("iNNvestigate has one rule for all batch norms")
                of_norms, norm_rule = layer.rule, found
            elif found is not None:
                rules.append((lambda each, name=step.name: each.name == name, found))
        self.model = keras.models.Model(inputs, self.values[layers[-1].name])
        for step, own in weights:
            if own:
                step.set_weights(own)
        self.analyzer = innvestigate.create_analyzer(
            "lrp",
            self.model,
            rule=rules or "Z",
            bn_layer_rule=norm_rule,
            neuron_selection_mode="index",
            reverse_keep_tensors=True,
            disable_model_checks=True,
        )


def isolated(job):
    """Return what each layer gives to its inputs, by (layer, input), from golden inputs."""
    edges = {}
    for layer in job.layers:
        fresh()
        graph, above = Graph([layer], {}), kl.Input(layer.output_shape)
        graph.analyzer._head_mapping = lambda y, R=above: tf.identity(R)
        found = graph.analyzer._create_analysis(graph.model)[0]
        given = [*job.inputs(layer).values(), job.relevance(layer)]
        arrays = keras.backend.function([*graph.model.inputs, above], found)(given)
        edges |= {(layer.name, name): R for name, R in zip(graph.reads, arrays)}
    return {}, {}, edges


def chained(job):
    """Return relevances, activations and what each layer gives to its inputs, from end to end."""
    targets = job.about["targets"]
    if targets is None:
        raise SystemExit("record with a target: all outputs at once aren't asked of iNNvestigate here")
    fresh()
    graph = Graph(job.layers, job.readers)
    reverse, activations, kept_of, kept = graph.analyzer._reverse_model, [layer.name for layer in job.layers], [], []

    def kept_too(*args, **more):
        """Keep activations beside relevances: in another run they are rounded otherwise, as TensorFlow may fuse other operations."""
        analysis, found = reverse(*args, **more)
        for name in activations:
            found[name] = {"nid": (-1, 0), "final_tensor": kl.Activation("linear")(graph.values[name])}
        kept_of.extend(found)  # ids of tensors whose relevance it is, and names of activations, in the order in which they are kept
        return analysis, found

    graph.analyzer._reverse_model, graph.analyzer._handle_debug_output = kept_too, kept.extend
    graph.analyzer.analyze(job.input, np.array(targets))
    found = dict(zip(kept_of, kept))
    relevances, edges = ({name: found[id(x)] for name, x in group.items() if id(x) in found} for group in (graph.values, graph.edges))
    score = bend(job.layers[-1], job.score)
    scores = {name: keras.backend.eval(score(tf.constant(found[name]))) for name in job.scored}
    return relevances, {name: scores.get(name, found[name]) for name in activations}, edges


def fresh():
    """Forget all graphs; the phase is that of inference, as batch norms need it."""
    keras.backend.clear_session()
    keras.backend.set_learning_phase(0)


def main(mode, source, target):
    """Run every layer on golden inputs, or the network from end to end."""
    job = Job(source)
    keras.backend.set_floatx(job.dtype.name)
    job.write(target, *(isolated if mode == "isolated" else chained)(job))


if __name__ == "__main__":
    command(main)
