"""Write keras1_*.h5 with Keras 1.2.2 itself, on TensorFlow 2, and keras1_*.npz with an input and what it computes.

`python make_keras1_files.py FOLDER th|tf`, with FOLDER the unpacked source of Keras 1.2.2 and a Python that has TensorFlow 2.
The arrays of images in the npz have channels last whatever the order.
"""

import collections
import collections.abc
import inspect
import sys
import types

import numpy as np
import tensorflow.compat.v1 as tf
import tensorflow.python.training.moving_averages  # noqa: F401 - while TensorFlow is still found under its own name

tf.disable_v2_behavior()
collections.Iterable = collections.abc.Iterable
inspect.getargspec = lambda function: inspect.getfullargspec(function)[:4]
np.bool, np.int, np.float, np.object = bool, int, float, object
for name in [name for name in sys.modules if name.partition(".")[0] == "keras"]:
    del sys.modules[name]
sys.modules |= {"tensorflow": tf, "yaml": types.ModuleType("yaml")}
sys.path.insert(0, sys.argv[1])

from keras import backend as K  # noqa: E402
from keras.layers import (  # noqa: E402
    Activation,
    AtrousConvolution2D,
    AveragePooling2D,
    BatchNormalization,
    Convolution1D,
    Convolution2D,
    Dense,
    Dropout,
    Flatten,
    GlobalAveragePooling2D,
    Input,
    MaxPooling1D,
    MaxPooling2D,
    UpSampling1D,
    UpSampling2D,
    ZeroPadding1D,
    ZeroPadding2D,
    merge,
)
from keras.models import Model, Sequential  # noqa: E402

ORDER = sys.argv[2]
K.set_image_dim_ordering(ORDER)
AXIS = 1 if ORDER == "th" else 3


def image(height, width, channels):
    return (channels, height, width) if ORDER == "th" else (height, width, channels)


def write(name, model, shape):
    rng = np.random.RandomState(len(name))

    def values(shape):
        spread = np.sqrt(max(1, np.prod(sorted(shape)[:-1])))
        return (rng.normal(0, 1, shape) / spread if len(shape) > 1 else rng.rand(*shape) + 0.5).astype("f")

    model.set_weights([values(array.shape) for array in model.get_weights()])
    x = np.random.RandomState(1).normal(size=(1, *shape)).astype("f")
    y = model.predict(x)
    model.save(f"keras1_{name}_{ORDER}.h5")
    np.savez(f"keras1_{name}_{ORDER}.npz", x=x.transpose(0, 2, 3, 1) if ORDER == "th" and x.ndim == 4 else x, y=y)


seq = [
    ZeroPadding2D((1, 2), input_shape=image(9, 8, 2)),
    Convolution2D(4, 3, 2, activation="relu", subsample=(2, 1)),
    MaxPooling2D((2, 2)),
    Dropout(0.5),
    Convolution2D(3, 2, 2, border_mode="same"),
    BatchNormalization(axis=1 if ORDER == "th" else -1),
    Activation("tanh"),
    UpSampling2D((2, 1)),
    Flatten(),
    Dense(5, activation="relu"),
    Dense(3, activation="softmax"),
]
write("seq", Sequential(seq), image(9, 8, 2))

start = Input(image(8, 8, 3))
a = Convolution2D(4, 3, 3, border_mode="same", activation="relu")(start)
b = AtrousConvolution2D(4, 3, 3, atrous_rate=(2, 2), border_mode="same")(start)
c = merge([a, b], mode="sum")
d = merge([c, a], mode="concat", concat_axis=AXIS)
pooled = GlobalAveragePooling2D()(merge([d, d], mode="mul"))
write("fun", Model(start, Dense(2, activation="softmax", bias=False)(pooled)), image(8, 8, 3))

inner = Sequential([Convolution2D(3, 3, 3, input_shape=image(6, 6, 2), activation="relu"), AveragePooling2D((2, 2))])
write("nest", Sequential([inner, Flatten(), Dense(2, activation="softmax")]), image(6, 6, 2))

one = [Convolution1D(4, 3, input_shape=(10, 2), activation="relu"), MaxPooling1D(2), ZeroPadding1D(1), UpSampling1D(2), Flatten()]
write("one", Sequential([*one, Dense(3, activation="softmax")]), (10, 2))
