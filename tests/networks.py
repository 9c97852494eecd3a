"""Small networks for tests: seeded random weights with non-zero biases, built without any file."""

from dataclasses import replace

import numpy as np

from nplrp.model import Layer, Preprocessing, Window, chain

SAME3 = Window((3, 3), padding="same")
POOL2 = Window((2, 2), (2, 2))


def conv(name, kernel, bias=None, activation="relu", window=None):
    """A convolution layer; shapes are derived by `chain`."""
    arrays = {"kernel": np.asarray(kernel, np.float32)} | ({} if bias is None else {"bias": np.asarray(bias, np.float32)})
    return Layer(name, "conv", (), (), activation, window or Window(arrays["kernel"].shape[:2], padding="same"), arrays=arrays)


def dense(name, kernel, bias=None, activation="relu"):
    """A dense layer."""
    arrays = {"kernel": np.asarray(kernel, np.float32)} | ({} if bias is None else {"bias": np.asarray(bias, np.float32)})
    return Layer(name, "dense", (), (), activation, arrays=arrays)


def pool(name, kind="maxpool", window=POOL2):
    """A pooling layer."""
    return Layer(name, kind, (), (), window=None if kind.startswith("global") else window)


def plain(name, kind, activation="linear", **more):
    """A layer without arrays."""
    return Layer(name, kind, (), (), activation, **more)


def batch_norm(name, rng, channels, epsilon=1e-3):
    """A batch norm with all four arrays away from their defaults."""
    arrays = {
        "gamma": rng.uniform(0.5, 1.5, channels),
        "beta": rng.normal(size=channels),
        "mean": rng.normal(size=channels),
        "variance": rng.uniform(0.3, 2.0, channels),
    }
    return Layer(name, "batchnorm", (), (), epsilon=epsilon, arrays={k: v.astype(np.float32) for k, v in arrays.items()})


def random_kernel(rng, *shape):
    """He-scaled weights."""
    return rng.normal(size=shape) * np.sqrt(2 / np.prod(shape[:-1]))


def small_vgg(seed=0, size=8, classes=5, biases=0.2):
    """Two conv blocks and two dense layers: [n, size, size, 3] -> [n, classes]."""
    rng = np.random.default_rng(seed)
    flat = (size // 4) ** 2 * 6
    layers = [
        conv("block1_conv1", random_kernel(rng, 3, 3, 3, 4), biases * rng.normal(size=4)),
        conv("block1_conv2", random_kernel(rng, 3, 3, 4, 5), biases * rng.normal(size=5)),
        pool("block1_pool"),
        conv("block2_conv1", random_kernel(rng, 3, 3, 5, 6), biases * rng.normal(size=6)),
        pool("block2_pool"),
        plain("flatten", "flatten"),
        dense("fc1", random_kernel(rng, flat, 7), biases * rng.normal(size=7)),
        dense("predictions", random_kernel(rng, 7, classes), biases * rng.normal(size=classes), "softmax"),
    ]
    return chain((size, size, 3), layers, "small VGG", preprocessing=Preprocessing("caffe"))


def images(seed, n, shape):
    """Seeded inputs of both signs: [n, *shape] float64."""
    return np.random.default_rng(seed).normal(size=(n, *shape)) * 2


def small_resnet(seed=0, size=16, classes=5, padding=(1, 1, 1, 1)):
    """A stem with a padded max-pool, a block with a projection shortcut, a concatenation, a pool and a dense layer, with batch norms.

    [n, size, size, 3] -> [n, classes]
    """
    rng = np.random.default_rng(seed)

    def block(name, reads, cin, cout, size=3, stride=1, relu=True):
        window = Window((size, size), (stride, stride), padding="same")
        made = [conv(f"{name}_conv", random_kernel(rng, size, size, cin, cout), 0.2 * rng.normal(size=cout), "linear", window)]
        made[0] = replace(made[0], inputs=(reads,))
        made.append(batch_norm(f"{name}_bn", rng, cout))
        return [*made, plain(f"{name}_relu", "activation", "relu")] if relu else made

    layers = [
        *block("stem", "input", 3, 4),
        pool("stem_pool", window=Window((3, 3), (2, 2), padding=padding)),
        *block("body1", "stem_pool", 4, 5, stride=2),
        *block("body2", "body1_relu", 5, 6, relu=False),
        *block("shortcut", "stem_pool", 4, 6, size=1, stride=2, relu=False),
        plain("add", "add", inputs=("shortcut_bn", "body2_bn")),
        plain("add_relu", "activation", "relu"),
        *block("side", "add_relu", 6, 3),
        plain("concat", "concatenate", inputs=("add_relu", "side_relu"), options={"axis": 2}),
        pool("top_pool"),
        plain("flatten", "flatten"),
        dense("predictions", random_kernel(rng, (size // 8) ** 2 * 9, classes), 0.2 * rng.normal(size=classes), "softmax"),
    ]
    return chain((size, size, 3), layers, "small ResNet", preprocessing=Preprocessing("caffe"))


def with_weights_in(model, dtype):
    """The same network with arrays of a dtype, as files have them in float32."""
    return replace(model, layers=tuple(replace(layer, arrays={k: v.astype(dtype) for k, v in layer.arrays.items()}) for layer in model))
