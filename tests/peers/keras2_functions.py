"""Write what Keras 2 makes of functions called on its tensors: python keras2_functions.py ../data/peers/keras2_functions.json.xz.

Needs tf_keras and TensorFlow, not nplrp. Of each call: the model's configuration as `to_json` writes it, and its float32 outputs at `x`.
"""

import json
import lzma
import os
import sys

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import tensorflow as tf
import tf_keras as keras

A, K = keras.activations, keras.backend
CALLS = {
    "relu": A.relu,
    "relu max_value=6": lambda x: A.relu(x, max_value=6),
    "relu max_value=3": lambda x: A.relu(x, max_value=3.0),
    "relu alpha": lambda x: A.relu(x, alpha=0.1),
    "relu alpha max_value": lambda x: A.relu(x, alpha=0.1, max_value=2.0),
    "relu alpha threshold": lambda x: A.relu(x, alpha=0.1, threshold=0.5),
    "relu threshold": lambda x: A.relu(x, threshold=1.0),
    "relu threshold max_value": lambda x: A.relu(x, threshold=1.0, max_value=3.0),
    "relu all": lambda x: A.relu(x, alpha=0.1, threshold=0.5, max_value=2.0),
    "tf relu": tf.nn.relu,
    "tf relu6": tf.nn.relu6,
    "tf leaky_relu": tf.nn.leaky_relu,
    "tf leaky_relu alpha": lambda x: tf.nn.leaky_relu(x, 0.3),
    "backend relu": lambda x: K.relu(x, alpha=0.2),
    "elu": A.elu,
    "elu alpha": lambda x: A.elu(x, alpha=0.5),
    "selu": A.selu,
    "gelu": A.gelu,
    "gelu approximate": lambda x: A.gelu(x, approximate=True),
    "swish": A.swish,
    "tf silu": tf.nn.silu,
    "tf silu beta": lambda x: tf.nn.silu(x, 1.5),
    "swish by hand": lambda x: x * tf.sigmoid(x),
    "sigmoid": A.sigmoid,
    "tanh": A.tanh,
    "hard_sigmoid": A.hard_sigmoid,
    "softplus": A.softplus,
    "softsign": A.softsign,
    "exponential": A.exponential,
    "mish": A.mish,
    "clip_by_value": lambda x: tf.clip_by_value(x, 0.0, 6.0),
    "backend clip": lambda x: K.clip(x, -1, 2),
    "maximum": lambda x: tf.maximum(x, 0.0),
    "maximum turned": lambda x: tf.maximum(0.0, x),
    "minimum": lambda x: tf.minimum(x, 1.0),
    "maximum leaky": lambda x: tf.maximum(x, 0.1 * x),
    "where leaky": lambda x: tf.where(x > 0, x, 0.1 * x),
    "gate of zeros and ones": lambda x: x * tf.cast(x > 0, tf.float32),
    "hard swish": lambda x: x * tf.nn.relu6(x + 3) / 6,
    "hard swish, other order": lambda x: x * (tf.nn.relu6(x + 3.0) * (1.0 / 6.0)),
    "hard sigmoid of 6": lambda x: tf.nn.relu6(x + 3.0) / 6.0,
    "gate of something else": lambda x: x * tf.sigmoid(1.5 * x),
    "reversed": lambda x: 1.0 - x,
    "softmax": A.softmax,
    "tf softmax axis": lambda x: tf.nn.softmax(x, axis=-1),
    "log_softmax": tf.nn.log_softmax,
    "abs": tf.abs,
    "square": tf.square,
    "power": lambda x: x**2,
    "square root": lambda x: tf.sqrt(tf.nn.relu(x)),
    "step": lambda x: tf.cast(x > 0.5, tf.float32),
    "dead zone": lambda x: x * tf.cast(tf.abs(x) > 0.5, tf.float32),
    "concatenated relu": tf.nn.crelu,
    "dropout": lambda x: tf.nn.dropout(x, 0.5),
}


def main(path: str) -> None:
    """Call each function on the input of a model of its own."""
    x = np.concatenate([np.linspace(-9, 9, 37), [-0.05, 0.05, 0.45, 0.55, 0.95, 1.05, 2.95, 3.05]]).astype(np.float32)[None]
    calls = {}
    for name, function in CALLS.items():
        inputs = keras.Input(x.shape[1:], name="x")
        model = keras.Model(inputs, function(inputs), name="m")
        config = json.loads(model.to_json())
        calls[name] = {"config": config, "y": [float(f"{each:.9g}") for each in model(x).numpy().ravel()]}
    data = {"x": x.ravel().tolist(), "calls": calls}
    with lzma.open(path, "wt", encoding="utf-8", preset=9) as file:
        json.dump(data, file, separators=(",", ":"))


if __name__ == "__main__":
    main(sys.argv[1])
