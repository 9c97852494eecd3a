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
    tolerance : float
        0, or how far Keras's float64 outputs may be from exact ones where it computes in less.
    """

    build: Callable[[Any, Any], Any]
    shape: tuple[int, ...]
    features: tuple[str, ...]
    dialects: tuple[str, ...] = ()
    pixels: tuple[float, float] = (-1.0, 1.0)
    layers: str = "keras3"
    tolerance: float = 0.0


BUILDERS: dict[str, Builder] = {}
IMAGE = (12, 12, 3)


def everyday(*features: str, shape: tuple[int, ...] = IMAGE, **options: Any):
    def add(function):
        title = function.__name__
        if title in BUILDERS:
            raise ValueError(title)
        if options.get("dialects"):
            options.setdefault("layers", options["dialects"][0])
        BUILDERS[title] = Builder(function, shape, features, **options)
        return function

    return add


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
