"""iNNvestigate's relevance of every layer, by its rules layer by layer, with its own start: the target's logit.

python innvestigate_backend.py isolated|chained IN OUT.npz
Needs innvestigate 2.1 with tensorflow < 2.15 and numpy < 2; IN is what `nplrp golden export --to raw -w W` writes.
"""

import os
import sys

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import tensorflow as tf
from exchange import Job

tf.compat.v1.disable_eager_execution()
import innvestigate  # noqa: E402
import innvestigate.analyzer.relevance_based.relevance_analyzer as ra  # noqa: E402
import innvestigate.analyzer.relevance_based.relevance_rule as rr  # noqa: E402
from tensorflow import keras  # noqa: E402

KERNELS = ("conv", "dense")


def rule(layer):
    """Return iNNvestigate's rule for a layer with weights, as a class that knows its constants."""
    r, name = layer.rule, layer.rule["name"]
    bias = {"bias": r.get("bias") != "none"}
    if name == "zbox" and "box" in r:
        raise SystemExit(f"{layer.name}: its box isn't the same all over a channel; record with low and high given")
    if name == "zbox":
        ends = [set(np.ravel(r[end]).tolist()) for end in ("low", "high")]
        if any(len(end) > 1 for end in ends):
            raise SystemExit(f"{layer.name}: iNNvestigate's box has the same ends in all channels")
        return _with(rr.BoundedRule, low=ends[0].pop(), high=ends[1].pop())
    makers = {
        "zero": lambda: _with(rr.ZRule, **bias),
        "epsilon": lambda: _with(rr.EpsilonRule, epsilon=r["epsilon"], **bias),
        "zplus": lambda: rr.ZPlusRule,
        "alpha_beta": lambda: _with(rr.AlphaBetaRule, alpha=r["alpha"], beta=r["beta"], **bias),
        "wsquare": lambda: rr.WSquareRule,
        "flat": lambda: rr.FlatRule,
    }
    if name not in makers:
        raise SystemExit(f"{layer.name}: iNNvestigate has no rule {name!r}")
    return makers[name]()


def _with(base, **constants):
    class Known(base):
        def __init__(self, layer, state, **more):
            super().__init__(layer, state, **constants, **more)

    return Known


def made(layer):
    """Return a layer in Keras, and its weights; softmax is left out."""
    activation = "relu" if layer.activation == "relu" else None
    padding = "same" if any(layer.pads) else "valid"
    window = (tuple(layer.size), tuple(layer.stride), padding)
    if layer.kind == "conv":
        made = keras.layers.Conv2D(
            layer.kernel.shape[3], *window, dilation_rate=tuple(layer.dilation), activation=activation, name=layer.name
        )
    elif layer.kind == "dense":
        made = keras.layers.Dense(layer.kernel.shape[1], activation=activation, name=layer.name)
    elif layer.kind in ("maxpool", "avgpool"):
        made = (keras.layers.MaxPooling2D if layer.kind == "maxpool" else keras.layers.AveragePooling2D)(*window, name=layer.name)
    elif layer.kind == "flatten":
        made = keras.layers.Flatten(name=layer.name)
    else:
        made = keras.layers.Activation(activation or "linear", name=layer.name)
    if layer.kernel is None:
        return made, []
    return made, [layer.kernel, np.zeros(layer.kernel.shape[-1]) if layer.bias is None else layer.bias]


def isolated(job, layer):
    """Return the relevance of a layer's input, from golden inputs."""
    keras.backend.clear_session()
    a, R = job.activation(layer), job.relevance(layer)
    step, weights = made(layer)
    x, above = (keras.layers.Input(array.shape[1:]) for array in (a, R))
    y = step(x)
    step.set_weights(weights)
    if layer.kind in KERNELS:
        found = rule(layer)(step, {}).apply([x], [y], [above], {})
    elif layer.kind == "avgpool":
        found = ra.AveragePoolingReverseLayer(step, {}).apply([x], [y], [above], {})
    elif layer.kind in ("activation", "identity", "dropout"):
        return R
    else:
        found = tf.gradients(y, x, above)
    return keras.backend.function([x, above], found)([a, R])[0]


def chained(job):
    """Return relevances and activations from end to end."""
    targets = job.about["targets"]
    if targets is None:
        raise SystemExit("record with a target: all outputs at once aren't asked of iNNvestigate here")
    x = y = keras.layers.Input(job.layers[0].shape)
    outputs, weights, rules = [], [], []
    for layer in job.layers:
        step, own = made(layer)
        y = step(y)
        outputs.append(keras.layers.Softmax()(y) if layer.activation == "softmax" else y)
        weights += own
        rules += [(lambda each, name=layer.name: each.name == name, rule(layer))] if layer.kind in KERNELS else []
    model = keras.models.Model(x, y)
    model.set_weights(weights)
    seen = keras.backend.function([x], outputs)([job.input])
    analyzer = innvestigate.create_analyzer("lrp", model, rule=rules, neuron_selection_mode="index", reverse_keep_tensors=True)
    kept = []
    analyzer._handle_debug_output = kept.extend  # its own sorts arrays by size where two nodes have the same number
    analyzer.analyze(job.input, np.array(targets))
    names = [*(layer.name for layer in reversed(job.layers)), job.layers[0].below]
    return dict(zip(names, kept[1:])), {layer.name: a for layer, a in zip(job.layers, seen)}


def main(mode, source, target):
    """Run every layer on golden inputs, or the network from end to end."""
    job = Job(source)
    keras.backend.set_floatx(job.dtype.name)
    if mode == "isolated":
        job.write(target, {layer.below: isolated(job, layer) for layer in job.layers}, {})
    else:
        job.write(target, *chained(job))


if __name__ == "__main__":
    main(*sys.argv[1:])
