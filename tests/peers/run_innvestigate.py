"""Write the relevances that iNNvestigate computes: python run_innvestigate.py network.npz out.npz.

Needs innvestigate 2.1 with tensorflow < 2.15 and numpy < 2, not nplrp.
"""

import os
import sys

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import numpy as np
import tensorflow as tf

tf.compat.v1.disable_eager_execution()
import innvestigate  # noqa: E402
import tensorflow.keras as keras  # noqa: E402

keras.backend.set_floatx("float64")

PLAIN = [
    *(f"lrp.{rule}" for rule in ("z", "epsilon", "w_square", "flat", "z_plus", "z_plus_fast")),
    *(f"lrp.alpha_{share}" for share in ("2_beta_1", "2_beta_1_IB", "1_beta_0", "1_beta_0_IB")),
    *(f"lrp.sequential_preset_{which}" for which in ("a", "b", "a_flat", "b_flat")),
    *("deep_taylor", "gradient", "input_t_gradient", "guided_backprop", "deconvnet"),
]

CASES = {name: (name, {}) for name in PLAIN}
CASES |= {
    "lrp.epsilon(epsilon=0.25)": ("lrp.epsilon", {"epsilon": 0.25}),
    "lrp.epsilon(bias=none)": ("lrp.epsilon", {"bias": False}),
    "lrp.alpha_beta(alpha=3.0)": ("lrp.alpha_beta", {"alpha": 3, "beta": 2}),
    "lrp.sequential_preset_b_flat_until_idx(until_idx=4)": ("lrp.sequential_preset_b_flat_until_idx", {"until_layer_idx": 4}),
    "deep_taylor.bounded(low=-3.0, high=3.0)": ("deep_taylor.bounded", {"low": -3.0, "high": 3.0}),
    "zbox": ("lrp", {"rule": "Bounded"}),
}


def build(kinds, arrays, shape):
    """Build the chain in Keras; a ReLU belongs to the layer before it, as in Keras's VGG16."""
    x = inputs = keras.layers.Input(shape)
    weights = []
    for i, kind in enumerate(kinds):
        activation = "relu" if kinds[i + 1 : i + 2] == ["relu"] else None
        if kind == "conv":
            kernel = arrays[f"kernel{i}"]
            x = keras.layers.Conv2D(kernel.shape[3], kernel.shape[:2], padding="same", activation=activation)(x)
        elif kind == "dense":
            x = keras.layers.Flatten()(x) if len(x.shape) > 2 else x
            x = keras.layers.Dense(arrays[f"kernel{i}"].shape[1], activation=activation)(x)
        elif kind in ("max", "avg"):
            x = (keras.layers.MaxPooling2D if kind == "max" else keras.layers.AveragePooling2D)(2)(x)
        if kind in ("conv", "dense"):
            weights += [arrays[f"kernel{i}"], arrays[f"bias{i}"]]
    model = keras.models.Model(inputs, x)
    model.set_weights(weights)
    return model


def main(source, target):
    """Run every case on every network."""
    file, found = np.load(source), {}
    for network in map(str, file["networks"]):
        kinds = [str(kind) for kind in file[f"{network}/kinds"]]
        arrays = {key[len(network) + 1 :]: file[key] for key in file.files if key.startswith(f"{network}/")}
        for case, (name, settings) in CASES.items():
            keras.backend.clear_session()  # the graph grows with every analyzer, and with it the time that each takes
            model = build(kinds, arrays, file["x"].shape[1:])
            analyzer = innvestigate.create_analyzer(name, model, neuron_selection_mode="index", **settings)
            found[f"{network}/{case}"] = analyzer.analyze(file["x"], file["targets"])
            print(network, case, flush=True)
    np.savez_compressed(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
