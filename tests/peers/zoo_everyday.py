"""Small networks as people write them, for the zoo; each is built by Keras 2 (`tf_keras`) and by Keras 3 from one function.

A builder gets the Keras module and its layers. Names of layers are Keras's own unless the network is about them.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Builder:
    """How a network is made and what is to be recorded of it.

    Attributes
    ----------
    build : callable
        (keras, keras.layers) -> model.
    shape : tuple of int
        Of an input, without the batch axis.
    features : tuple of str
        What the network is there for.
    dialects : tuple of str
        "keras2", "keras3"; empty for both.
    pixels : tuple of float
        Between which values inputs lie.
    layers : str
        The dialect in which every layer's output is recorded, "always", or "".
    gain : float
        The deviation that the weights give to convolutions and dense layers, before their activations.
    """

    build: Callable[[Any, Any], Any]
    shape: tuple[int, ...]
    features: tuple[str, ...]
    dialects: tuple[str, ...] = ()
    pixels: tuple[float, float] = (-1.0, 1.0)
    layers: str = "keras3"
    gain: float = 1.0


IMAGE = (12, 12, 3)


def adder(builders: dict[str, Builder]):
    """Return the decorator that puts a function into a table of builders, under the function's name."""

    def everyday(*features: str, shape: tuple[int, ...] = IMAGE, **options: Any):
        def add(function):
            title = function.__name__
            if title in builders:
                raise ValueError(title)
            if options.get("dialects"):
                options.setdefault("layers", options["dialects"][0])
            builders[title] = Builder(function, shape, features, **options)
            return function

        return add

    return everyday


BUILDERS: dict[str, Builder] = {}
everyday = adder(BUILDERS)


def head(L, h, classes=5, activation="softmax"):
    return L.Dense(classes, activation=activation)(L.GlobalAveragePooling2D()(h))


def start(k, L, shape=IMAGE, width=6):
    """An input and a convolution on it."""
    x = k.Input(shape)
    return x, L.Conv2D(width, 3, padding="same", activation="relu")(x)


# Joins


@everyday("residual", "Add")
def residual_add(k, L):
    x, h = start(k, L)
    y = L.Conv2D(6, 3, padding="same")(h)
    h = L.Activation("relu")(L.Add()([h, y]))
    return k.Model(x, head(L, h))


@everyday("residual", "operator")
def residual_operator(k, L):
    x, h = start(k, L)
    h = h + L.Conv2D(6, 3, padding="same", activation="relu")(h)
    h = L.Conv2D(6, 3, padding="same", activation="relu")(h) + h
    return k.Model(x, head(L, h))


@everyday("residual", "Add", "function")
def residual_function(k, L):
    x, h = start(k, L)
    h = L.add([L.Conv2D(6, 1)(h), h])
    h = L.concatenate([h, L.Conv2D(3, 1)(h)])
    return k.Model(x, head(L, h))


@everyday("residual", "Add", "projection", "batch norm", shape=(16, 16, 3))
def residual_projection(k, L):
    x = k.Input((16, 16, 3))
    h = L.Conv2D(4, 3, padding="same", use_bias=False)(x)
    h = L.ReLU()(L.BatchNormalization()(h))
    for width in (8, 12):
        y = L.Conv2D(width, 3, strides=2, padding="same", use_bias=False)(h)
        y = L.ReLU()(L.BatchNormalization()(y))
        y = L.BatchNormalization()(L.Conv2D(width, 3, padding="same", use_bias=False)(y))
        short = L.BatchNormalization()(L.Conv2D(width, 1, strides=2, use_bias=False)(h))
        h = L.ReLU()(L.Add()([y, short]))
    return k.Model(x, head(L, h))


@everyday("residual", "Add", "batch norm", "pre-activation")
def residual_preactivation(k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(6, 3, padding="same")(x)
    for _ in range(2):
        y = L.Conv2D(6, 3, padding="same", use_bias=False)(L.Activation("relu")(L.BatchNormalization()(h)))
        y = L.Conv2D(6, 3, padding="same")(L.Activation("relu")(L.BatchNormalization()(y)))
        h = L.Add()([h, y])
    h = L.Activation("relu")(L.BatchNormalization()(h))
    return k.Model(x, head(L, h))


@everyday("residual", "Add", "three inputs")
def add_three(k, L):
    x, h = start(k, L)
    h = L.Add()([L.Conv2D(4, 1)(h), L.Conv2D(4, 3, padding="same")(h), L.AveragePooling2D(3, 1, "same")(L.Conv2D(4, 1)(h))])
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("Add", "dense", shape=(10,))
def add_vectors(k, L):
    x = k.Input((10,))
    h = L.Dense(8, activation="relu")(x)
    h = L.Add()([h, L.Dense(8, activation="relu")(h)])
    h = L.Add()([L.Dense(8)(x), h])
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("Add", "broadcast")
def add_broadcast(k, L):
    x, h = start(k, L)
    g = L.Dense(6)(L.GlobalAveragePooling2D(keepdims=True)(h))
    h = L.Add()([h, g])
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("Concatenate", "inception")
def concatenate_channels(k, L):
    x, h = start(k, L)
    a = L.Conv2D(3, 1, activation="relu")(h)
    b = L.Conv2D(4, 3, padding="same", activation="relu")(L.Conv2D(2, 1, activation="relu")(h))
    c = L.Conv2D(2, 5, padding="same", activation="relu")(h)
    d = L.Conv2D(3, 1, activation="relu")(L.MaxPooling2D(3, 1, "same")(h))
    h = L.Concatenate()([a, b, c, d])
    h = L.MaxPooling2D()(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("Concatenate", "axis 1")
def concatenate_rows(k, L):
    x, h = start(k, L)
    h = L.Concatenate(axis=1)([h, L.Conv2D(6, (3, 1), activation="relu")(h)])
    h = L.Conv2D(4, 3, activation="relu")(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("Concatenate", "axis 2")
def concatenate_columns(k, L):
    x, h = start(k, L)
    h = L.Concatenate(axis=2)([L.Conv2D(6, (1, 3), activation="relu")(h), h])
    h = L.Conv2D(4, 3, activation="relu")(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("Concatenate", "vectors", "two pools")
def concatenate_pools(k, L):
    x, h = start(k, L)
    h = L.Concatenate(axis=1)([L.GlobalAveragePooling2D()(h), L.GlobalMaxPooling2D()(h)])
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("Concatenate", "dense block", "batch norm")
def dense_block(k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(4, 3, padding="same", use_bias=False)(x)
    for _ in range(3):
        y = L.Conv2D(6, 1, use_bias=False)(L.Activation("relu")(L.BatchNormalization(epsilon=1.001e-5)(h)))
        y = L.Conv2D(3, 3, padding="same", use_bias=False)(L.Activation("relu")(L.BatchNormalization(epsilon=1.001e-5)(y)))
        h = L.Concatenate()([h, y])
    h = L.Activation("relu")(L.BatchNormalization()(h))
    h = L.AveragePooling2D(2, strides=2)(L.Conv2D(6, 1, use_bias=False)(h))
    return k.Model(x, head(L, h))


@everyday("Concatenate", "the input again")
def concatenate_input(k, L):
    x, h = start(k, L)
    h = L.Conv2D(4, 3, padding="same", activation="relu")(L.Concatenate()([x, h]))
    return k.Model(x, head(L, h))


@everyday("Average")
def average_join(k, L):
    x, h = start(k, L)
    h = L.Average()([h, L.Conv2D(6, 3, padding="same")(h), L.Conv2D(6, 1)(h)])
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("Maximum")
def maximum_join(k, L):
    x, h = start(k, L)
    h = L.Maximum()([h, L.Conv2D(6, 3, padding="same")(h), L.Conv2D(6, 1)(h)])
    return k.Model(x, head(L, h))


@everyday("Minimum")
def minimum_join(k, L):
    x, h = start(k, L)
    h = L.Minimum()([L.Conv2D(6, 3, padding="same")(h), L.Conv2D(6, 1)(h)])
    return k.Model(x, head(L, h))


@everyday("Multiply")
def multiply_join(k, L):
    x, h = start(k, L)
    h = L.Multiply()([L.Conv2D(6, 3, padding="same")(h), L.Conv2D(6, 1, activation="sigmoid")(h)])
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("Subtract")
def subtract_join(k, L):
    x, h = start(k, L)
    h = L.Subtract()([L.Conv2D(6, 3, padding="same")(h), h])
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("operator", "arithmetic")
def operators(k, L):
    x, h = start(k, L)
    a, b = L.Conv2D(6, 3, padding="same")(h), L.Conv2D(6, 1, activation="sigmoid")(h)
    h = L.ReLU()((h - a) * b)
    return k.Model(x, head(L, h))


@everyday("operator", "arithmetic", "constants", pixels=(0.0, 255.0))
def operators_constants(k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(6, 3, activation="relu")(x / 127.5 - 1.0)
    h = L.Conv2D(6, 3, activation="relu")(0.5 * h + 0.1)
    return k.Model(x, head(L, 1.0 - h))


# Gates


@everyday("gate", "Multiply", "squeeze and excitation", "Reshape", "broadcast")
def gate_reshape(k, L):
    x, h = start(k, L, width=8)
    g = L.Reshape((1, 1, 8))(L.GlobalAveragePooling2D()(h))
    g = L.Dense(8, activation="sigmoid")(L.Dense(2, activation="relu")(g))
    return k.Model(x, head(L, L.Multiply()([h, g])))


@everyday("gate", "Multiply", "squeeze and excitation", "keepdims", "broadcast")
def gate_keepdims(k, L):
    x, h = start(k, L, width=8)
    g = L.GlobalAveragePooling2D(keepdims=True)(h)
    g = L.Conv2D(8, 1, activation="hard_sigmoid")(L.Conv2D(2, 1, activation="relu")(g))
    return k.Model(x, head(L, L.multiply([h, g])))


@everyday("gate", "residual", "spatial", "broadcast")
def gate_spatial(k, L):
    x, h = start(k, L, width=8)
    h = L.Add()([h, L.Multiply()([L.Conv2D(1, 3, padding="same", activation="sigmoid")(h), h])])
    return k.Model(x, head(L, h))


# Convolutions


@everyday("DepthwiseConv2D")
def depthwise(k, L):
    x, h = start(k, L)
    h = L.DepthwiseConv2D(3, padding="same", activation="relu")(h)
    h = L.DepthwiseConv2D(3, strides=2, padding="same", use_bias=False)(h)
    h = L.Conv2D(8, 1, activation="relu")(L.ReLU(6.0)(L.BatchNormalization()(h)))
    return k.Model(x, head(L, h))


@everyday("DepthwiseConv2D", "depth_multiplier")
def depthwise_multiplier(k, L):
    x = k.Input(IMAGE)
    h = L.DepthwiseConv2D(3, depth_multiplier=3, activation="relu")(x)
    h = L.DepthwiseConv2D((5, 3), depth_multiplier=2, padding="same", dilation_rate=2)(h)
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("SeparableConv2D")
def separable(k, L):
    x = k.Input(IMAGE)
    h = L.SeparableConv2D(8, 3, activation="relu")(x)
    h = L.BatchNormalization()(L.SeparableConv2D(8, 3, padding="same", use_bias=False)(h))
    h = L.MaxPooling2D(3, 2, "same")(L.Activation("relu")(h))
    return k.Model(x, head(L, h))


@everyday("SeparableConv2D", "depth_multiplier", "strides")
def separable_multiplier(k, L):
    x = k.Input(IMAGE)
    h = L.SeparableConv2D(6, 3, strides=2, depth_multiplier=2, padding="same", activation="relu")(x)
    h = L.SeparableConv2D(6, 3, dilation_rate=2, depth_multiplier=3, padding="same", activation="relu")(h)
    return k.Model(x, head(L, h))


@everyday("Conv2D", "groups")
def conv_groups(k, L):
    x, h = start(k, L, width=8)
    h = L.Conv2D(8, 3, groups=4, padding="same", activation="relu")(h)
    h = L.Conv2D(16, 3, groups=8, strides=2, use_bias=False)(h)
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("residual", "Add", "DepthwiseConv2D", "ReLU6", "batch norm", "inverted residual", shape=(16, 16, 3))
def inverted_residual(k, L):
    x = k.Input((16, 16, 3))
    h = L.ZeroPadding2D(((0, 1), (0, 1)))(x)
    h = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(4, 3, strides=2, use_bias=False)(h)))
    y = L.ReLU(6.0)(L.BatchNormalization(momentum=0.999)(L.Conv2D(12, 1, use_bias=False)(h)))
    y = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(y)))
    y = L.BatchNormalization()(L.Conv2D(4, 1, use_bias=False)(y))
    h = L.Add()([h, y])
    return k.Model(x, head(L, L.Conv2D(8, 1, activation="relu")(h)))


# Networks as they are in tutorials and papers, narrow


@everyday("Sequential", "tutorial", shape=(28, 28))
def mnist_dense(k, L):
    return k.Sequential([k.Input((28, 28)), L.Flatten(), L.Dense(16, activation="relu"), L.Dropout(0.2), L.Dense(10, activation="softmax")])


@everyday("Sequential", "tutorial", shape=(28, 28))
def mnist_reshape(k, L):
    return k.Sequential(
        [
            k.Input((28, 28)),
            L.Reshape((28, 28, 1)),
            L.Conv2D(4, 3, activation="relu"),
            L.MaxPooling2D(2),
            L.Conv2D(6, 3, activation="relu"),
            L.MaxPooling2D(2),
            L.Flatten(),
            L.Dropout(0.5),
            L.Dense(10, activation="softmax"),
        ]
    )


@everyday("Sequential", "tutorial", shape=(32, 32, 3), pixels=(0.0, 1.0))
def cifar(k, L):
    return k.Sequential(
        [
            k.Input((32, 32, 3)),
            L.Conv2D(4, (3, 3), activation="relu"),
            L.MaxPooling2D((2, 2)),
            L.Conv2D(8, (3, 3), activation="relu"),
            L.MaxPooling2D((2, 2)),
            L.Conv2D(8, (3, 3), activation="relu"),
            L.Flatten(),
            L.Dense(12, activation="relu"),
            L.Dense(10),
        ]
    )


@everyday("Sequential", "tanh", "AveragePooling2D", shape=(32, 32, 1))
def lenet(k, L):
    return k.Sequential(
        [
            k.Input((32, 32, 1)),
            L.Conv2D(6, 5, activation="tanh"),
            L.AveragePooling2D(2),
            L.Activation("tanh"),
            L.Conv2D(8, 5, activation="tanh"),
            L.AveragePooling2D(2),
            L.Activation("sigmoid"),
            L.Conv2D(12, 5, activation="tanh"),
            L.Flatten(),
            L.Dense(10, activation="tanh"),
            L.Dense(10, activation="softmax"),
        ]
    )


@everyday("Sequential", "overlapping pools", "groups", shape=(35, 35, 3))
def alexnet(k, L):
    return k.Sequential(
        [
            k.Input((35, 35, 3)),
            L.Conv2D(6, 11, strides=4, activation="relu", padding="same"),
            L.MaxPooling2D(3, 2),
            L.Conv2D(8, 5, padding="same", groups=2, activation="relu"),
            L.MaxPooling2D(3, 2, padding="same"),
            L.Conv2D(8, 3, padding="same", activation="relu"),
            L.Flatten(),
            L.Dense(10, activation="relu"),
            L.Dropout(0.5),
            L.Dense(5, activation="softmax"),
        ]
    )


@everyday("Sequential", "all convolutions", "separate softmax")
def all_convolutions(k, L):
    return k.Sequential(
        [
            k.Input(IMAGE),
            L.Dropout(0.2),
            L.Conv2D(6, 3, padding="same"),
            L.Activation("relu"),
            L.Conv2D(6, 3, strides=2, padding="same"),
            L.Activation("relu"),
            L.Conv2D(5, 1),
            L.GlobalAveragePooling2D(),
            L.Activation("softmax"),
        ]
    )


@everyday("Concatenate", "fire", shape=(24, 24, 3))
def squeezenet(k, L):
    x = k.Input((24, 24, 3))
    h = L.MaxPooling2D(3, 2)(L.Conv2D(6, 3, strides=2, activation="relu")(x))
    for width in (2, 3):
        s = L.Conv2D(width, 1, activation="relu")(h)
        h = L.concatenate([L.Conv2D(4, 1, activation="relu")(s), L.Conv2D(4, 3, padding="same", activation="relu")(s)])
    h = L.Conv2D(5, 1, activation="relu")(L.Dropout(0.5)(h))
    return k.Model(x, L.Softmax()(L.GlobalAveragePooling2D()(h)))


@everyday("residual", "Add", "bottleneck", "batch norm", "ZeroPadding2D", shape=(32, 32, 3))
def bottleneck(k, L):
    x = k.Input((32, 32, 3))
    h = L.Conv2D(8, 7, strides=2, name="conv1_conv")(L.ZeroPadding2D(((3, 3), (3, 3)), name="conv1_pad")(x))
    h = L.Activation("relu", name="conv1_relu")(L.BatchNormalization(axis=3, epsilon=1.001e-5, name="conv1_bn")(h))
    h = L.MaxPooling2D(3, strides=2, name="pool1_pool")(L.ZeroPadding2D(((1, 1), (1, 1)), name="pool1_pad")(h))
    for block, (width, stride, short) in enumerate([(2, 1, True), (2, 1, False), (4, 2, True)]):
        y = h
        if short:
            h = L.BatchNormalization(axis=3, epsilon=1.001e-5)(L.Conv2D(4 * width, 1, strides=stride, name=f"short{block}")(h))
        y = L.Conv2D(width, 1, strides=stride)(y)
        y = L.Activation("relu")(L.BatchNormalization(axis=3, epsilon=1.001e-5)(y))
        y = L.Activation("relu")(L.BatchNormalization(axis=3, epsilon=1.001e-5)(L.Conv2D(width, 3, padding="SAME")(y)))
        y = L.BatchNormalization(axis=3, epsilon=1.001e-5)(L.Conv2D(4 * width, 1)(y))
        h = L.Activation("relu", name=f"out{block}")(L.Add()([h, y]))
    h = L.GlobalAveragePooling2D(name="avg_pool")(h)
    return k.Model(x, L.Dense(5, activation="softmax", name="predictions")(h), name="resnet")


@everyday("residual", "Add", "groups", "batch norm")
def resnext(k, L):
    x, h = start(k, L, width=8)
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(h)))
    y = L.ReLU()(L.BatchNormalization()(L.Conv2D(8, 3, padding="same", groups=4, use_bias=False)(y)))
    y = L.BatchNormalization()(L.Conv2D(8, 1, use_bias=False)(y))
    return k.Model(x, head(L, L.ReLU()(L.add([y, h]))))


@everyday("residual", "Add", "SeparableConv2D", "Rescaling", "tutorial", shape=(32, 32, 3), pixels=(0.0, 255.0))
def xception_from_scratch(k, L):
    x = k.Input((32, 32, 3))
    h = L.Rescaling(1.0 / 255)(x)
    h = L.Activation("relu")(L.BatchNormalization()(L.Conv2D(6, 3, strides=2, padding="same")(h)))
    previous = h
    for size in (6, 8):
        h = L.BatchNormalization()(L.SeparableConv2D(size, 3, padding="same")(L.Activation("relu")(h)))
        h = L.BatchNormalization()(L.SeparableConv2D(size, 3, padding="same")(L.Activation("relu")(h)))
        h = L.MaxPooling2D(3, strides=2, padding="same")(h)
        h = L.add([h, L.Conv2D(size, 1, strides=2, padding="same")(previous)])
        previous = h
    h = L.Activation("relu")(L.BatchNormalization()(L.SeparableConv2D(10, 3, padding="same")(h)))
    h = L.Dropout(0.25)(L.GlobalAveragePooling2D()(h))
    return k.Model(x, L.Dense(1, activation=None)(h))


@everyday("residual", "operator", "constants", "Concatenate")
def inception_residual(k, L):
    x, h = start(k, L)
    y = L.Concatenate()([L.Conv2D(2, 1, activation="relu")(h), L.Conv2D(3, 3, padding="same", activation="relu")(h)])
    h = L.Activation("relu")(h + 0.17 * L.Conv2D(6, 1)(y))
    return k.Model(x, head(L, h))


@everyday("residual", "Add", "squeeze and excitation", "Multiply", "batch norm", "swish")
def mbconv(k, L):
    x = k.Input(IMAGE)
    h = L.Activation("swish")(L.BatchNormalization()(L.Conv2D(4, 3, strides=2, padding="same", use_bias=False)(x)))
    y = L.Activation("swish")(L.BatchNormalization()(L.Conv2D(12, 1, padding="same", use_bias=False)(h)))
    y = L.Activation("swish")(L.BatchNormalization()(L.DepthwiseConv2D(5, padding="same", use_bias=False)(y)))
    s = L.Reshape((1, 1, 12))(L.GlobalAveragePooling2D()(y))
    s = L.Conv2D(12, 1, activation="sigmoid")(L.Conv2D(2, 1, activation="swish")(s))
    y = L.multiply([y, s])
    y = L.BatchNormalization()(L.Conv2D(4, 1, use_bias=False)(y))
    y = L.Dropout(0.1, noise_shape=(None, 1, 1, 1))(y)
    return k.Model(x, head(L, L.add([y, h])))


@everyday("residual", "LayerNormalization", "gelu", "dense on images", "DepthwiseConv2D", shape=(16, 16, 3))
def convnext_block(k, L):
    x = k.Input((16, 16, 3))
    h = L.LayerNormalization(epsilon=1e-6)(L.Conv2D(8, 4, strides=4)(x))
    y = L.LayerNormalization(epsilon=1e-6)(L.DepthwiseConv2D(7, padding="same")(h))
    y = L.Dense(8)(L.Activation("gelu")(L.Dense(32)(y)))
    h = L.Add()([h, y])
    return k.Model(x, L.Dense(5)(L.LayerNormalization(epsilon=1e-6)(L.GlobalAveragePooling2D()(h))))


@everyday("channel shuffle", "Reshape", "Permute", "groups")
def shuffle(k, L):
    x, h = start(k, L, width=8)
    y = L.Conv2D(8, 1, groups=2)(h)
    y = L.Reshape((12, 12, 8))(L.Permute((1, 2, 4, 3))(L.Reshape((12, 12, 2, 4))(y)))
    y = L.DepthwiseConv2D(3, padding="same")(L.ReLU()(y))
    return k.Model(x, head(L, L.ReLU()(L.Add()([h, L.Conv2D(8, 1, groups=2)(y)]))))


@everyday("Concatenate", "UpSampling2D", "image out", "unet", shape=(16, 16, 3))
def unet(k, L):
    x = k.Input((16, 16, 3))
    a = L.Conv2D(4, 3, padding="same", activation="relu")(x)
    b = L.Conv2D(6, 3, padding="same", activation="relu")(L.MaxPooling2D()(a))
    c = L.Conv2D(8, 3, padding="same", activation="relu")(L.MaxPooling2D()(b))
    h = L.Concatenate()([L.UpSampling2D()(c), b])
    h = L.Conv2D(6, 3, padding="same", activation="relu")(h)
    h = L.Concatenate()([L.Conv2DTranspose(4, 2, strides=2, padding="same")(h), a])
    h = L.Conv2D(4, 3, padding="same", activation="relu")(h)
    return k.Model(x, head(L, L.Conv2D(2, 1, activation="sigmoid")(h)))


@everyday("Conv2DTranspose", "image out", "autoencoder", shape=(8, 8, 1))
def autoencoder(k, L):
    x = k.Input((8, 8, 1))
    h = L.MaxPooling2D(2, padding="same")(L.Conv2D(4, 3, activation="relu", padding="same")(x))
    h = L.Conv2DTranspose(4, 3, strides=2, activation="relu", padding="same")(h)
    return k.Model(x, L.Conv2D(1, 3, activation="sigmoid", padding="same")(h))


@everyday("operator", "highway", "gate", shape=(10,))
def highway(k, L):
    x = k.Input((10,))
    h = L.Dense(8, activation="relu")(x)
    t = L.Dense(8, activation="sigmoid")(h)
    h = t * L.Dense(8, activation="relu")(h) + (1.0 - t) * h
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("Concatenate", "pyramid of pools", "UpSampling2D", shape=(12, 12, 3))
def pyramid(k, L):
    x, h = start(k, L)
    levels = [L.UpSampling2D(size)(L.Conv2D(2, 1, activation="relu")(L.AveragePooling2D(size)(h))) for size in (2, 3, 6)]
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(L.Concatenate(axis=-1)([h, *levels]))))


@everyday("Concatenate", "dilation", "atrous")
def atrous(k, L):
    x, h = start(k, L)
    levels = [L.Conv2D(3, 3, dilation_rate=rate, padding="same", activation="relu")(h) for rate in (1, 2, 3)]
    return k.Model(x, head(L, L.Concatenate()(levels)))


# Shared layers, several outputs


@everyday("shared", "used twice")
def shared_conv(k, L):
    x, h = start(k, L)
    conv = L.Conv2D(6, 3, padding="same", activation="relu")
    return k.Model(x, head(L, conv(conv(h))))


@everyday("shared", "used twice", "batch norm", "Concatenate", "Cropping2D", "siamese")
def shared_halves(k, L):
    x = k.Input(IMAGE)
    conv, norm = L.Conv2D(6, 3, activation="relu"), L.BatchNormalization()
    left, right = (norm(conv(L.Cropping2D(((0, 0), sides))(x))) for sides in ((0, 6), (6, 0)))
    h = L.Concatenate()([L.Subtract()([left, right]), L.Multiply()([left, right])])
    return k.Model(x, head(L, h, classes=1, activation="sigmoid"))


@everyday("shared", "used three times", "nested")
def shared_model(k, L):
    x, h = start(k, L)
    inner = k.Sequential([k.Input((12, 12, 6)), L.Conv2D(6, 3, padding="same", activation="relu"), L.BatchNormalization()], name="step")
    h = L.Add()([h, inner(h)])
    h = L.Add()([h, inner(inner(h))])
    return k.Model(x, head(L, h))


@everyday("shared", "activation layer used twice", "max-pool used twice", shape=(16, 16, 3))
def shared_plain(k, L):
    x = k.Input((16, 16, 3))
    relu, pool = L.ReLU(), L.MaxPooling2D()
    h = pool(relu(L.Conv2D(4, 3, padding="same")(x)))
    h = pool(relu(L.Conv2D(6, 3, padding="same")(h)))
    return k.Model(x, head(L, h))


@everyday("several outputs")
def outputs_two(k, L):
    x, h = start(k, L)
    g = L.GlobalAveragePooling2D()(h)
    kind = L.Dense(5, activation="softmax", name="kind")(g)
    size = L.Dense(1, name="size")(L.Dense(4, activation="relu")(g))
    return k.Model(x, [kind, size])


@everyday("several outputs", "an inner layer is an output", "auxiliary head")
def outputs_inner(k, L):
    x, h = start(k, L)
    aux = L.Dense(5, activation="softmax", name="aux")(L.Flatten()(L.AveragePooling2D(4)(h)))
    h = L.Conv2D(8, 3, activation="relu", name="features")(h)
    return k.Model(x, [head(L, h), h, aux])


# Models in models


@everyday("nested", "Sequential in Functional")
def nested_sequential(k, L):
    x = k.Input(IMAGE)
    inner = k.Sequential([k.Input(IMAGE), L.Conv2D(4, 3, activation="relu"), L.BatchNormalization(), L.MaxPooling2D()], name="body")
    return k.Model(x, head(L, inner(x)))


@everyday("nested", "Sequential in Sequential", "Functional in Sequential")
def nested_in_sequential(k, L):
    body = k.Sequential([k.Input(IMAGE), L.Conv2D(4, 3, activation="relu"), L.Conv2D(6, 3, activation="relu")])
    x = k.Input((8, 8, 6))
    block = k.Model(x, L.Add()([x, L.Conv2D(6, 3, padding="same", activation="relu")(x)]))
    return k.Sequential([k.Input(IMAGE), body, block, L.GlobalMaxPooling2D(), L.Dense(5, activation="softmax")])


@everyday("nested", "twice nested", "residual", "same names inside")
def nested_twice(k, L):
    def block(width, shape, name):
        x = k.Input(shape, name=f"{name}_in")
        y = L.Conv2D(width, 3, padding="same", name="conv")(x)
        y = L.ReLU(name="relu")(L.BatchNormalization(name="bn")(y))
        return k.Model(x, L.Add(name="add")([y, L.Conv2D(width, 1, name="short")(x)]), name=name)

    x = k.Input(IMAGE, name="middle_in")
    h = block(4, IMAGE, "block_a")(x)
    h = block(6, (12, 12, 4), "block_b")(L.Conv2D(4, 1, name="conv")(h))
    middle = k.Model(x, h, name="middle")
    x = k.Input(IMAGE, name="in")
    h = L.Conv2D(5, 3, name="conv")(middle(x))
    return k.Model(x, L.Dense(5, activation="softmax", name="out")(L.GlobalAveragePooling2D(name="pool")(h)), name="outer")


@everyday("nested", "transfer learning", "augmentation", "frozen", "constants", shape=(24, 24, 3), pixels=(0.0, 255.0))
def transfer(k, L):
    x = k.Input((24, 24, 3))
    h = L.Conv2D(4, 3, strides=2, padding="same", use_bias=False, name="Conv1")(x)
    h = L.ReLU(6.0)(L.BatchNormalization(name="bn_Conv1")(h))
    y = L.ReLU(6.0)(L.BatchNormalization()(L.DepthwiseConv2D(3, padding="same", use_bias=False)(h)))
    h = L.Add()([h, L.BatchNormalization()(L.Conv2D(4, 1, use_bias=False)(y))])
    h = L.ReLU(6.0)(L.BatchNormalization()(L.Conv2D(10, 1, use_bias=False)(h)))
    backbone = k.Model(x, h, name="backbone")
    backbone.trainable = False
    augment = k.Sequential([L.RandomFlip("horizontal"), L.RandomRotation(0.2)], name="augment")
    x = k.Input((24, 24, 3))
    h = augment(x)
    h = h / 127.5 - 1.0
    h = backbone(h, training=False)
    h = L.Dropout(0.2)(L.GlobalAveragePooling2D()(h))
    return k.Model(x, L.Dense(1)(h))


@everyday("nested", "transfer learning", "Sequential", "frozen", "Rescaling", shape=(24, 24, 3), pixels=(0.0, 255.0))
def transfer_sequential(k, L):
    x = k.Input((24, 24, 3))
    h = L.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    h = L.Concatenate()([h, L.BatchNormalization()(L.Conv2D(4, 3, padding="same", activation="relu")(h))])
    backbone = k.Model(x, h, name="backbone")
    backbone.trainable = False
    return k.Sequential(
        [
            k.Input((24, 24, 3)),
            L.Rescaling(1 / 127.5, offset=-1),
            backbone,
            L.GlobalAveragePooling2D(),
            L.Dense(8, activation="relu"),
            L.Dropout(0.5),
            L.Dense(5, activation="softmax"),
        ]
    )


@everyday("nested", "branches of models", "Concatenate")
def nested_branches(k, L):
    x, h = start(k, L)
    branches = [
        k.Sequential([k.Input((12, 12, 6)), L.Conv2D(3, size, padding="same"), L.ReLU()], name=f"branch{size}") for size in (1, 3, 5)
    ]
    return k.Model(x, head(L, L.Concatenate()([branch(h) for branch in branches])))


@everyday("nested", "head reads an inner layer", "surgery")
def cut_open(k, L):
    x, h = start(k, L)
    inner = L.Conv2D(5, 3, activation="relu", name="last_conv")(h)
    whole = k.Model(x, L.Dense(7, activation="softmax")(L.Flatten()(inner)))
    return k.Model(whole.inputs, head(L, whole.get_layer("last_conv").output))
