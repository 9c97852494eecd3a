"""Write what Keras's activation functions give: python run_keras_activations.py out.npz. Needs keras, tf_keras and TensorFlow, not nplrp.

A key `keras3 relu max_value=6` has the float64 values and derivatives [2, n] of the function that `nplrp.kernels.activations` calls relu,
with that parameter, at the numbers `x`; keys with a slash are for functions of arrays.
"""

import os
import sys

import numpy as np

os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"

import keras
import tensorflow as tf
import tf_keras
from keras import activations as three
from tf_keras import activations as two

keras.config.set_floatx("float64")
tf_keras.backend.set_floatx("float64")


FUNCTIONS = {
    "keras3 linear": three.linear,
    "keras3 relu": three.relu,
    "keras3 relu max_value=6": three.relu6,
    "keras3 relu max_value=5.5": keras.layers.ReLU(max_value=5.5),
    "keras3 relu threshold=1": keras.layers.ReLU(threshold=1.0),
    "keras3 relu negative_slope=0.5 threshold=1 max_value=3": keras.layers.ReLU(negative_slope=0.5, threshold=1.0, max_value=3.0),
    "keras3 relu negative_slope=0.25 max_value=6": keras.layers.ReLU(negative_slope=0.25, max_value=6.0),
    "keras3 relu negative_slope=0.25 threshold=2": keras.layers.ReLU(negative_slope=0.25, threshold=2.0),
    "keras3 relu threshold=-1": lambda x: three.relu(x, threshold=-1.0),
    "keras3 relu threshold=-1 max_value=2": lambda x: three.relu(x, threshold=-1.0, max_value=2.0),
    "keras3 leaky_relu": three.leaky_relu,
    "keras3 leaky_relu negative_slope=0.3": keras.layers.LeakyReLU(),
    "keras3 elu": three.elu,
    "keras3 elu alpha=1.5": keras.layers.ELU(alpha=1.5),
    "keras3 selu": three.selu,
    "keras3 celu": three.celu,
    "keras3 celu alpha=0.75": lambda x: three.celu(x, alpha=0.75),
    "keras3 softplus": three.softplus,
    "keras3 softsign": three.softsign,
    "keras3 tanh": three.tanh,
    "keras3 sigmoid": three.sigmoid,
    "keras3 hard_sigmoid": three.hard_sigmoid,
    "keras3 sparse_sigmoid": three.sparse_sigmoid,
    "keras3 hard_tanh": three.hard_tanh,
    "keras3 hard_shrink": three.hard_shrink,
    "keras3 hard_shrink threshold=1": lambda x: three.hard_shrink(x, threshold=1.0),
    "keras3 soft_shrink": three.soft_shrink,
    "keras3 soft_shrink threshold=1": lambda x: three.soft_shrink(x, threshold=1.0),
    "keras3 tanh_shrink": three.tanh_shrink,
    "keras3 threshold threshold=0.5 value=-2": lambda x: three.threshold(x, 0.5, tf.constant(-2.0, tf.float64)),
    "keras3 squareplus": three.squareplus,
    "keras3 squareplus b=1.5": lambda x: three.squareplus(x, b=1.5),
    "keras3 sparse_plus": three.sparse_plus,
    "keras3 silu": three.silu,
    "keras3 hard_silu": three.hard_silu,
    "keras3 gelu": three.gelu,
    "keras3 gelu_tanh": lambda x: three.gelu(x, approximate=True),
    "keras3 mish": three.mish,
    "keras3 exponential": three.exponential,
    "keras3 log_sigmoid": three.log_sigmoid,
    "keras3 erf": keras.ops.erf,
    "keras2 linear": two.linear,
    "keras2 relu": two.relu,
    "keras2 relu max_value=6": tf_keras.layers.ReLU(max_value=6.0),
    "keras2 relu negative_slope=0.5 threshold=1 max_value=3": tf_keras.layers.ReLU(3.0, 0.5, 1.0),
    "keras2 relu threshold=1": tf_keras.layers.ThresholdedReLU(),
    "keras2 leaky_relu negative_slope=0.3": tf_keras.layers.LeakyReLU(),
    "keras2 elu": two.elu,
    "keras2 elu alpha=1.5": tf_keras.layers.ELU(alpha=1.5),
    "keras2 selu": two.selu,
    "keras2 softplus": two.softplus,
    "keras2 softsign": two.softsign,
    "keras2 tanh": two.tanh,
    "keras2 sigmoid": two.sigmoid,
    "keras2 hard_sigmoid_2": two.hard_sigmoid,
    "keras2 silu": two.swish,
    "keras2 gelu": two.gelu,
    "keras2 gelu_tanh": lambda x: two.gelu(x, approximate=True),
    "keras2 mish": two.mish,
    "keras2 exponential": two.exponential,
}
ALPHAS = {"prelu/all": None, "prelu/channels": [1, 2], "prelu/columns": [1, 3], "prelu/pixels": [3]}


def numbers(rng):
    """Return kinks, where something happens, and numbers of many sizes."""
    kinks = [0, 0.5, 1, 2, 2.5, 3, 5.5, 6]
    grid = np.linspace(0.25, 13.75, 19)
    far = [1e-12, 1e-4, 0.03, 20, 31, 45, 90, 700]
    return np.array([s * v for v in (*kinks, *grid, *far, *rng.exponential(1.5, 12)) for s in (1.0, -1.0)])


def with_gradient(function, x, g=None):
    """Return function(x) and its derivative, or the gradient of its input for one g of its output."""
    x = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = function(x)
    return y.numpy(), tape.gradient(y, x, None if g is None else tf.constant(g)).numpy()


def main(out):
    rng = np.random.default_rng(0)
    x = numbers(rng)
    found = {"x": x} | {name: np.stack(with_gradient(function, x)) for name, function in FUNCTIONS.items()}
    images = rng.normal(size=(2, 3, 4, 5))
    images[0, 0, 0] = 0
    for name, shared in ALPHAS.items():
        layer = keras.layers.PReLU(alpha_initializer=keras.initializers.RandomNormal(seed=1), shared_axes=shared)
        y, slope = with_gradient(layer, images)
        found |= {name + part: array for part, array in (("/x", images), ("/alpha", layer.alpha.numpy()), ("/y", y), ("/slope", slope))}
    z, g = rng.normal(size=(6, 7)) * np.array([[0.1], [1], [1], [3], [10], [100]]), rng.normal(size=(6, 7))
    y, back = with_gradient(three.log_softmax, z, g)
    found |= {f"log_softmax/{part}": array for part, array in (("z", z), ("g", g), ("y", y), ("back", back))}
    np.savez_compressed(out, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
