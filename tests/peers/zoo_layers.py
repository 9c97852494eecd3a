"""Networks of the zoo that are there for one kind of layer, one activation or one option; built as those in `zoo_everyday`."""

from functools import partial

from tests.peers.zoo_everyday import IMAGE, Builder, adder, head, start

BUILDERS: dict[str, Builder] = {}
everyday = adder(BUILDERS)
KERAS2, KERAS3 = ("keras2",), ("keras3",)


# Convolutions


@everyday("Conv2D", "dilation", "padding same")
def conv_dilated(k, L):
    x, h = start(k, L)
    h = L.Conv2D(4, 3, dilation_rate=2, padding="same", activation="relu")(h)
    h = L.Conv2D(4, (3, 2), dilation_rate=(3, 1), padding="same", activation="relu")(h)
    return k.Model(x, head(L, h))


@everyday("Conv2D", "strides", "padding same", shape=(13, 10, 3))
def conv_strided(k, L):
    x = k.Input((13, 10, 3))
    h = L.Conv2D(4, 3, strides=2, padding="same", activation="relu")(x)
    h = L.Conv2D(6, (4, 2), strides=(2, 1), padding="same", activation="relu")(h)
    h = L.Conv2D(6, 1, strides=2, use_bias=False)(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("DepthwiseConv2D", "strides", "dilation")
def depthwise_options(k, L):
    x = k.Input(IMAGE)
    h = L.DepthwiseConv2D((3, 2), strides=2, padding="valid", depth_multiplier=2, activation="relu")(x)
    h = L.DepthwiseConv2D(3, dilation_rate=(2, 1), padding="same", activation="relu", use_bias=False)(h)
    return k.Model(x, head(L, h))


@everyday("Conv2DTranspose", shape=(6, 6, 3))
def transpose_conv(k, L):
    x = k.Input((6, 6, 3))
    h = L.Conv2DTranspose(4, 3, strides=2, padding="same", activation="relu")(x)
    h = L.Conv2DTranspose(3, 3, padding="valid", activation="relu")(h)
    h = L.Conv2DTranspose(3, (2, 4), strides=(1, 2), padding="valid", use_bias=False)(h)
    return k.Model(x, head(L, L.ReLU()(h)))


@everyday("Conv2DTranspose", "strides above the kernel's size", "output_padding", shape=(5, 4, 3))
def transpose_conv_odd(k, L):
    x = k.Input((5, 4, 3))
    h = L.Conv2DTranspose(4, 2, strides=3, padding="same", activation="relu")(x)
    h = L.Conv2DTranspose(3, 3, strides=2, padding="same", output_padding=1, activation="relu")(h)
    h = L.Conv2DTranspose(3, 3, strides=2, padding="valid", output_padding=(1, 0), activation="relu")(h)
    return k.Model(x, head(L, h))


@everyday("Conv1D", "MaxPooling1D", "rank 2", shape=(30, 4))
def conv1d(k, L):
    x = k.Input((30, 4))
    h = L.MaxPooling1D(2)(L.Conv1D(6, 5, activation="relu")(x))
    h = L.BatchNormalization()(L.Conv1D(8, 3, padding="same", activation="relu")(h))
    return k.Model(x, L.Dense(5, activation="softmax")(L.GlobalAveragePooling1D()(h)))


@everyday("Conv1D", "rank 2", "Flatten", "Sequential", shape=(24, 2))
def conv1d_flatten(k, L):
    return k.Sequential(
        [
            k.Input((24, 2)),
            L.ZeroPadding1D((1, 2)),
            L.Conv1D(4, 4, strides=2, activation="relu"),
            L.SpatialDropout1D(0.1),
            L.AveragePooling1D(3, strides=2, padding="same"),
            L.Cropping1D((1, 0)),
            L.UpSampling1D(2),
            L.Flatten(),
            L.Dense(3, activation="softmax"),
        ]
    )


@everyday("Conv1D", "rank 2", "causal", "residual", "dilation", shape=(20, 3))
def conv1d_causal(k, L):
    x = k.Input((20, 3))
    h = L.Conv1D(6, 1)(x)
    for rate in (1, 2, 4):
        h = L.Add()([h, L.Conv1D(6, 3, padding="causal", dilation_rate=rate, activation="relu")(h)])
    return k.Model(x, L.Dense(5, activation="softmax")(L.GlobalMaxPooling1D()(h)))


@everyday("SeparableConv1D", "DepthwiseConv1D", "Conv1DTranspose", "rank 2", shape=(20, 3))
def conv1d_kinds(k, L):
    x = k.Input((20, 3))
    h = L.SeparableConv1D(6, 3, padding="same", activation="relu")(x)
    h = L.DepthwiseConv1D(3, strides=2, depth_multiplier=2, activation="relu")(h)
    h = L.Conv1DTranspose(4, 3, strides=2, padding="same", activation="relu")(h)
    h = L.Conv1D(4, 3, groups=2, activation="relu")(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.GlobalAveragePooling1D()(h)))


# Pools, sizes, shapes


@everyday("AveragePooling2D", "padding same", "strides", shape=(13, 11, 3))
def pools_average_same(k, L):
    x = k.Input((13, 11, 3))
    h = L.AveragePooling2D(3, strides=2, padding="same")(L.Conv2D(4, 3, padding="same", activation="relu")(x))
    h = L.AveragePooling2D((2, 3), strides=(1, 2), padding="same")(h)
    h = L.AveragePooling2D(2)(L.Conv2D(5, 1, activation="relu")(h))
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("MaxPooling2D", "padding same", "strides", shape=(13, 11, 3))
def pools_max_same(k, L):
    x = k.Input((13, 11, 3))
    h = L.MaxPooling2D(3, strides=2, padding="same")(L.Conv2D(4, 3, padding="same")(x))
    h = L.MaxPooling2D((2, 3), strides=(1, 2), padding="same")(h)
    h = L.MaxPooling2D(2)(L.Conv2D(5, 1)(h))
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("global pools", "keepdims", "Flatten")
def pools_keepdims(k, L):
    x, h = start(k, L)
    a = L.Conv2D(4, 1, activation="relu")(L.GlobalAveragePooling2D(keepdims=True)(h))
    h = L.Concatenate()([a, L.GlobalMaxPooling2D(keepdims=True)(h)])
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("AdaptiveAveragePooling2D", "AdaptiveMaxPooling2D", dialects=KERAS3)
def pools_adaptive(k, L):
    x, h = start(k, L)
    h = L.Conv2D(4, 3, activation="relu")(h)
    h = L.Concatenate()([L.AdaptiveAveragePooling2D((4, 3))(h), L.AdaptiveMaxPooling2D((4, 3))(h)])
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("UpSampling2D", "nearest", shape=(6, 6, 3))
def upsampling(k, L):
    x = k.Input((6, 6, 3))
    h = L.UpSampling2D((2, 3))(L.Conv2D(4, 3, activation="relu")(x))
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(h)))


@everyday("UpSampling2D", "bilinear", shape=(6, 6, 3))
def upsampling_bilinear(k, L):
    x = k.Input((6, 6, 3))
    h = L.UpSampling2D(2, interpolation="bilinear")(L.Conv2D(4, 3, activation="relu")(x))
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(h)))


@everyday("Cropping2D", "ZeroPadding2D")
def crops_and_pads(k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(4, 3, activation="relu")(L.Cropping2D(1)(x))
    h = L.ZeroPadding2D((2, 1))(L.Cropping2D(((1, 0), (0, 2)))(h))
    h = L.Conv2D(4, 3, activation="relu")(L.ZeroPadding2D(((0, 1), (2, 0)))(h))
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(L.Cropping2D((1, 2))(h))))


@everyday("Reshape", "from a vector", shape=(48,))
def reshape_image(k, L):
    x = k.Input((48,))
    h = L.Conv2D(4, 3, padding="same", activation="relu")(L.Reshape((4, 4, 3))(x))
    h = L.Reshape((-1,))(h)
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("Reshape", "unknown side", "dense on sequences", shape=(8, 8, 3))
def reshape_patches(k, L):
    x = k.Input((8, 8, 3))
    h = L.Reshape((-1, 6))(L.Conv2D(6, 4, strides=4, activation="relu")(x))
    h = L.LayerNormalization()(L.Dense(8, activation="gelu")(h))
    h = L.Add()([h, L.Permute((2, 1))(L.Dense(4)(L.Permute((2, 1))(h)))])
    return k.Model(x, L.Dense(5, activation="softmax")(L.GlobalAveragePooling1D()(h)))


@everyday("Permute", shape=(10, 8, 3))
def permute(k, L):
    x = k.Input((10, 8, 3))
    h = L.Conv2D(4, (3, 1), activation="relu")(L.Permute((2, 1, 3))(x))
    h = L.Permute((3, 1, 2))(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


@everyday("Resizing", "bilinear", shape=(10, 14, 3), pixels=(0.0, 255.0))
def resizing(k, L):
    x = k.Input((10, 14, 3))
    h = L.Rescaling(1 / 255.0)(L.Resizing(12, 12)(x))
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(h)))


@everyday("Resizing", "nearest", shape=(10, 14, 3))
def resizing_nearest(k, L):
    x = k.Input((10, 14, 3))
    h = L.Resizing(15, 9, interpolation="nearest")(x)
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(h)))


@everyday("Identity", "linear")
def identity(k, L):
    x, h = start(k, L)
    h = L.Activation("linear")(L.Identity()(h))
    h = L.Add()([h, L.Identity()(h)])
    return k.Model(x, head(L, h))


# Norms


@everyday("BatchNormalization", "no scale", "no center")
def batchnorm_variants(k, L):
    x = k.Input(IMAGE)
    h = L.ReLU()(L.BatchNormalization(scale=False)(L.Conv2D(4, 3)(x)))
    h = L.ReLU()(L.BatchNormalization(center=False)(L.Conv2D(4, 3)(h)))
    h = L.ReLU()(L.BatchNormalization(center=False, scale=False, epsilon=0.01)(L.Conv2D(4, 3)(h)))
    return k.Model(x, head(L, h))


@everyday("BatchNormalization", "on the input", "behind the activation", "on vectors")
def batchnorm_places(k, L):
    x = k.Input(IMAGE)
    h = L.BatchNormalization()(x)
    h = L.BatchNormalization()(L.MaxPooling2D()(L.Conv2D(4, 3, activation="relu")(h)))
    h = L.BatchNormalization()(L.Dense(6, activation="relu")(L.Flatten()(h)))
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("BatchNormalization", "over another axis")
def batchnorm_axis(k, L):
    x = k.Input(IMAGE)
    h = L.ReLU()(L.BatchNormalization(axis=1)(L.Conv2D(4, 3)(x)))
    h = L.ReLU()(L.BatchNormalization(axis=2)(L.Conv2D(4, 3)(h)))
    return k.Model(x, head(L, h))


@everyday("BatchNormalization", "synchronized")
def batchnorm_synchronized(k, L):
    x = k.Input(IMAGE)
    h = L.ReLU()(L.BatchNormalization(synchronized=True)(L.Conv2D(4, 3)(x)))
    return k.Model(x, head(L, h))


@everyday("BatchNormalization", "renorm", dialects=KERAS3)
def batchnorm_renorm(k, L):
    x = k.Input(IMAGE)
    h = L.ReLU()(L.BatchNormalization(renorm=True)(L.Conv2D(4, 3)(x)))
    return k.Model(x, head(L, h))


@everyday("LayerNormalization")
def layernorm(k, L):
    x, h = start(k, L)
    h = L.LayerNormalization()(h)
    h = L.LayerNormalization(scale=False, epsilon=0.01)(L.Conv2D(6, 3, activation="relu")(h))
    h = L.LayerNormalization(center=False)(L.Conv2D(6, 3, activation="relu")(h))
    return k.Model(x, head(L, h))


@everyday("LayerNormalization", "several axes")
def layernorm_axes(k, L):
    x, h = start(k, L)
    h = L.LayerNormalization(axis=[1, 2, 3])(h)
    h = L.LayerNormalization(axis=1)(L.Conv2D(6, 3, activation="relu")(h))
    return k.Model(x, head(L, h))


@everyday("GroupNormalization")
def groupnorm(k, L):
    x, h = start(k, L)
    h = L.ReLU()(L.GroupNormalization(3)(h))
    h = L.ReLU()(L.GroupNormalization(1)(L.Conv2D(6, 3)(h)))
    h = L.ReLU()(L.GroupNormalization(-1, center=False)(L.Conv2D(6, 3)(h)))
    return k.Model(x, head(L, h))


@everyday("UnitNormalization")
def unitnorm(k, L):
    x, h = start(k, L)
    h = L.Conv2D(6, 3, activation="relu")(L.UnitNormalization()(h))
    h = L.UnitNormalization()(L.Dense(4)(L.Flatten()(h)))
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("RMSNormalization", dialects=KERAS3)
def rmsnorm(k, L):
    x, h = start(k, L)
    h = L.Conv2D(6, 3, activation="relu")(L.RMSNormalization()(h))
    return k.Model(x, head(L, h))


@everyday("Normalization", "adapted", pixels=(0.0, 255.0))
def normalization(k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(4, 3, activation="relu")(L.Normalization()(x))
    return k.Model(x, head(L, h))


@everyday("Normalization", "given", pixels=(0.0, 1.0))
def normalization_given(k, L):
    x = k.Input(IMAGE)
    h = L.Normalization(mean=[0.485, 0.456, 0.406], variance=[0.229**2, 0.224**2, 0.225**2])(x)
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(h)))


@everyday("Normalization", "adapted", "invert", "on vectors", shape=(10,))
def normalization_vectors(k, L):
    x = k.Input((10,))
    h = L.Dense(6, activation="relu")(L.Normalization(axis=-1)(x))
    return k.Model(x, L.Normalization(axis=None, mean=3.0, variance=4.0, invert=True)(L.Dense(1)(h)))


@everyday("Rescaling", "several offsets", pixels=(0.0, 255.0))
def rescaling(k, L):
    x = k.Input(IMAGE)
    h = L.Rescaling(scale=[1 / 58.4, 1 / 57.1, 1 / 57.4], offset=[-2.1, -2.0, -1.8])(x)
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(h)))


# Layers that only act in training


@everyday("dropout", "noise")
def dropouts(k, L):
    x, h = start(k, L)
    h = L.Conv2D(4, 3, activation="relu")(L.GaussianNoise(0.1)(L.SpatialDropout2D(0.2)(h)))
    h = L.Dropout(0.3)(L.GaussianDropout(0.2)(L.GlobalAveragePooling2D()(h)))
    h = L.ActivityRegularization(l2=0.01)(L.AlphaDropout(0.1)(L.Dense(6, activation="selu")(h)))
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("augmentation", "Sequential", pixels=(0.0, 255.0))
def augmentation(k, L):
    return k.Sequential(
        [
            k.Input(IMAGE),
            L.RandomFlip("horizontal_and_vertical"),
            L.RandomRotation(0.1),
            L.RandomZoom(0.1),
            L.RandomTranslation(0.1, 0.1),
            L.RandomContrast(0.2),
            L.RandomBrightness(0.2),
            L.Rescaling(1 / 255),
            L.Conv2D(4, 3, activation="relu"),
            L.GlobalAveragePooling2D(),
            L.Dense(5, activation="softmax"),
        ]
    )


@everyday("augmentation", "CenterCrop")
def center_crop(k, L):
    x = k.Input(IMAGE)
    return k.Model(x, head(L, L.Conv2D(4, 3, activation="relu")(L.CenterCrop(8, 9)(x))))


# Tops


@everyday("sigmoid unit")
def sigmoid_unit(k, L):
    x, h = start(k, L)
    return k.Model(x, head(L, h, 1, "sigmoid"))


@everyday("sigmoid", "multi-label")
def multilabel(k, L):
    x, h = start(k, L)
    return k.Model(x, head(L, h, 5, "sigmoid"))


@everyday("linear top")
def linear_top(k, L):
    x, h = start(k, L)
    return k.Model(x, head(L, h, 5, None))


@everyday("separate softmax")
def softmax_layer(k, L):
    x, h = start(k, L)
    return k.Model(x, L.Softmax(name="probabilities")(head(L, h, 5, None)))


@everyday("separate softmax", "Activation")
def softmax_activation(k, L):
    x, h = start(k, L)
    return k.Model(x, L.Activation("softmax")(head(L, h, 5, None)))


@everyday("softmax unit", "softmax of two")
def softmax_two(k, L):
    x, h = start(k, L)
    return k.Model(x, head(L, h, 2, "softmax"))


@everyday("softmax", "image out", "segmentation")
def softmax_pixels(k, L):
    x, h = start(k, L)
    return k.Model(x, L.Conv2D(3, 1, activation="softmax")(L.MaxPooling2D(3)(h)))


@everyday("softmax", "inside", "axis")
def softmax_inside(k, L):
    x, h = start(k, L)
    a = L.Softmax(axis=[1, 2])(L.Conv2D(1, 1)(h))
    h = L.Multiply()([h, a])
    return k.Model(x, head(L, L.Conv2D(6, 1, activation="softmax")(h)))


@everyday("dense on images")
def dense_on_images(k, L):
    x = k.Input(IMAGE)
    h = L.MaxPooling2D()(L.Dense(6, activation="relu")(x))
    h = L.Dense(4, activation="relu", use_bias=False)(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


# Channels first


@everyday("channels_first", "Flatten", "Sequential", shape=(3, 12, 10))
def first_flatten(k, L):
    first = {"data_format": "channels_first"}
    return k.Sequential(
        [
            k.Input((3, 12, 10)),
            L.Conv2D(4, 3, activation="relu", **first),
            L.MaxPooling2D(2, **first),
            L.ZeroPadding2D(((1, 0), (0, 2)), **first),
            L.Conv2D(6, 3, padding="same", activation="relu", **first),
            L.Flatten(**first),
            L.Dense(5, activation="softmax"),
        ]
    )


@everyday("channels_first", "residual", "batch norm", "Concatenate", "axis 1", shape=(3, 12, 10))
def first_residual(k, L):
    first = {"data_format": "channels_first"}
    x = k.Input((3, 12, 10))
    h = L.ReLU()(L.BatchNormalization(axis=1)(L.Conv2D(4, 3, strides=2, padding="same", **first)(x)))
    h = L.Add()([h, L.Conv2D(4, 3, padding="same", **first)(h)])
    h = L.Concatenate(axis=1)([h, L.AveragePooling2D(3, strides=1, padding="same", **first)(h)])
    h = L.DepthwiseConv2D(3, **first)(h)
    return k.Model(x, L.Dense(5, activation="softmax")(L.GlobalAveragePooling2D(**first)(h)))


@everyday("channels_first", "plain Flatten", "PReLU", shape=(3, 8, 7))
def first_plain_flatten(k, L):
    first = {"data_format": "channels_first"}
    x = k.Input((3, 8, 7))
    h = L.PReLU(shared_axes=[2, 3])(L.Conv2D(4, 3, **first)(x))
    h = L.Cropping2D(1, **first)(L.UpSampling2D(2, **first)(h))
    return k.Model(x, L.Dense(5, activation="softmax")(L.Flatten()(h)))


# Operations that are no layers


@everyday("operation", "relu", "concatenate", dialects=KERAS3)
def operations(k, L):
    ops = k.ops
    x, h = start(k, L)
    a, b = ops.relu(L.Conv2D(4, 3, padding="same")(h)), ops.sigmoid(L.Conv2D(4, 1)(h))
    h = ops.concatenate([a, b], axis=-1)
    h = ops.maximum(h, 0.1) - ops.mean(h, axis=[1, 2], keepdims=True)
    return k.Model(x, head(L, h))


@everyday("operation", "relu", "concatenate", dialects=KERAS2)
def operations_tf(k, L):
    import tensorflow as tf

    x, h = start(k, L)
    a, b = tf.nn.relu(L.Conv2D(4, 3, padding="same")(h)), tf.sigmoid(L.Conv2D(4, 1)(h))
    h = tf.concat([a, b], axis=-1)
    h = h - tf.reduce_mean(h, axis=[1, 2], keepdims=True)
    return k.Model(x, head(L, h))


@everyday("operation", "flip", "glu", "erf", dialects=KERAS3)
def gates(k, L):
    ops = k.ops
    x = k.Input(IMAGE)
    h = ops.glu(L.Conv2D(8, 3)(ops.flip(x, axis=-1)), axis=-1)
    h = ops.erf(ops.glu(L.Conv2D(4, 3)(h), axis=1))
    return k.Model(x, head(L, h))


@everyday("operation", "flip", "erf", dialects=KERAS2)
def flips_tf(k, L):
    import tensorflow as tf

    x = k.Input(IMAGE)
    h = tf.math.divide_no_nan(tf.reverse(x, axis=[-1]), 4.0)
    return k.Model(x, head(L, tf.math.erf(L.Conv2D(4, 3)(h))))


@everyday("sparsemax", "on top", dialects=KERAS3)
def sparsemax_top(k, L):
    x, h = start(k, L)
    return k.Model(x, head(L, h, 5, "sparsemax"))


@everyday("operation", "slices")
def slices(k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(6, 3, activation="relu")(x[:, 1:-1, 2:])
    return k.Model(x, head(L, L.Concatenate()([h[:, :, :, :2], h[:, :, :, 3:]])))


@everyday("operation", "split", "unstack", "take", dialects=KERAS3, layers="")
def pieces(k, L):
    ops = k.ops
    x, h = start(k, L, width=9)
    a, b = ops.split(h, 2, axis=1)
    c = ops.split(h, [2, 5], axis=-1)[2]
    d = ops.array_split(h, 4, axis=3)
    e = ops.unstack(h, axis=2)[1]
    f = ops.take(h, -1, axis=1)
    g = ops.take(h, [7, 2, 3, 2], axis=-1)
    vectors = [L.GlobalAveragePooling2D()(each) for each in (ops.maximum(a, b), c, d[0], d[3], g)]
    sequences = [L.GlobalMaxPooling1D()(each) for each in (e, f)]
    h = L.Concatenate()([*vectors, *sequences])
    return k.Model(x, L.Dense(5, activation="softmax")(L.Concatenate()(ops.split(h, [3, 20], axis=-1)[::2])))


@everyday("operation", "split", "unstack", "gather", "slice", dialects=KERAS2, layers="")
def pieces_tf(k, L):
    import tensorflow as tf

    x, h = start(k, L, width=9)
    a, b = tf.split(h, 2, axis=1)
    c = tf.split(h, [2, -1, 4], axis=-1)[1]
    e = tf.unstack(h, axis=2)[1]
    f = tf.gather(h, 5, axis=1)
    g = tf.gather(h, [7, 2, 3, 2], axis=-1)
    d = tf.slice(h, [0, 1, 0, 2], [-1, 5, -1, 3])
    vectors = [L.GlobalAveragePooling2D()(each) for each in (tf.maximum(a, b), c, d, g)]
    sequences = [L.GlobalMaxPooling1D()(each) for each in (e, f)]
    h = L.Concatenate()([*vectors, *sequences])
    return k.Model(x, L.Dense(5, activation="softmax")(tf.linalg.l2_normalize(h, axis=-1)))


@everyday("operation", "roll", "repeat", "tile", "swapaxes", "moveaxis", dialects=KERAS3, layers="", shape=(8, 6, 3))
def places(k, L):
    ops = k.ops
    x, h = start(k, L, (8, 6, 3))
    h = L.Conv2D(4, 3, activation="relu")(ops.roll(h, (1, -2), axis=(1, 3)))
    h = L.Conv2D(4, 3, activation="relu")(ops.repeat(ops.tile(h, [1, 1, 2, 2]), 2, axis=1))
    h = L.Conv2D(4, 2, activation="relu")(ops.repeat(ops.swapaxes(h, 1, -1), 2, axis=-1))
    h = L.Dense(6, activation="relu")(ops.moveaxis(ops.moveaxis(h, 3, 1), [1, 3], [2, 1]))
    return k.Model(x, L.Dense(5, activation="softmax")(ops.repeat(L.Flatten()(h), 2, axis=1)))


@everyday("operation", "roll", "repeat", "tile", "add_n", dialects=KERAS2, layers="", shape=(8, 6, 3))
def places_tf(k, L):
    import tensorflow as tf

    x, h = start(k, L, (8, 6, 3))
    h = L.Conv2D(4, 3, activation="relu")(tf.roll(h, 1, axis=2))
    h = L.Conv2D(4, 3, activation="relu")(tf.repeat(tf.tile(h, [1, 1, 2, 2]), 2, axis=1))
    return k.Model(x, head(L, tf.add_n([h, L.Conv2D(4, 1)(h), h])))


@everyday("operation", "depth to space", "channel shuffle", dialects=KERAS3, layers="", shape=(8, 6, 3))
def blocks(k, L):
    ops = k.ops
    x = k.Input((8, 6, 3))
    h = L.Conv2D(6, 3, padding="same", activation="relu")(ops.space_to_depth(x, 2))
    return k.Model(x, ops.depth_to_space(L.Conv2D(18, 3, padding="same")(h), 3))


@everyday("operation", "depth to space", "channel shuffle", dialects=KERAS2, layers="", shape=(8, 6, 3))
def blocks_tf(k, L):
    import tensorflow as tf

    x = k.Input((8, 6, 3))
    h = L.Conv2D(6, 3, padding="same", activation="relu")(tf.nn.space_to_depth(x, 2))
    return k.Model(x, tf.nn.depth_to_space(L.Conv2D(18, 3, padding="same")(h), 3))


@everyday("operation", "pools", "resize", dialects=KERAS3, layers="")
def pools_as_functions(k, L):
    ops = k.ops
    x, h = start(k, L)
    h = ops.average_pool(ops.max_pool(h, 3, strides=2, padding="same"), (2, 3), strides=1, padding="same")
    h = ops.image.resize(h, (9, 5), interpolation="nearest")
    s = ops.squeeze(ops.max_pool(h, (3, 1))[:, :, :1], axis=2)
    h = L.Concatenate()([ops.amax(h, axis=(1, 2)), L.Flatten()(ops.average_pool(s, 2, strides=1))])
    return k.Model(x, L.Dense(5, activation="softmax")(h))


@everyday("operation", "pools", "resize", dialects=KERAS2, layers="")
def pools_as_functions_tf(k, L):
    import tensorflow as tf

    x, h = start(k, L)
    h = tf.nn.avg_pool2d(tf.nn.max_pool2d(h, 3, 2, "SAME"), [1, 2, 3, 1], [1, 1, 1, 1], "VALID")
    h = tf.image.resize(h, (9, 5), method="nearest")
    s = tf.nn.max_pool1d(h[:, 2], 3, 2, "SAME")
    return k.Model(x, L.Dense(5, activation="softmax")(L.Concatenate()([L.Flatten()(tf.nn.max_pool(h, 2, 2, "VALID")), L.Flatten()(s)])))


# Layers around layers


@everyday("TimeDistributed", "dense on sequences", shape=(9, 4))
def time_distributed(k, L):
    x = k.Input((9, 4))
    h = L.TimeDistributed(L.Dense(6, activation="relu"))(x)
    h = L.TimeDistributed(L.Activation("tanh"))(L.TimeDistributed(L.Dense(5, use_bias=False))(L.TimeDistributed(L.Dropout(0.3))(h)))
    return k.Model(x, L.TimeDistributed(L.Dense(3, activation="softmax"))(h))


@everyday("EinsumDense", dialects=KERAS3, shape=(9, 4))
def einsum_dense(k, L):
    x = k.Input((9, 4))
    h = L.EinsumDense("...x,xy->...y", output_shape=(5,), bias_axes="y", activation="relu")(x)
    h = L.EinsumDense("abc,cd->abd", output_shape=(9, 4), activation="gelu")(h)
    return k.Model(x, L.EinsumDense("ab,bc->ac", output_shape=3, bias_axes="c")(L.Flatten()(h)))


# Scores of maps


@everyday("softmax", "image out", "segmentation", "Reshape")
def softmax_reshaped(k, L):
    x, h = start(k, L)
    return k.Model(x, L.Dropout(0.1)(L.Reshape((36, 3))(L.Conv2D(3, 2, strides=2, activation="softmax")(h))))


@everyday("sigmoid unit", "Flatten", "Sequential")
def sigmoid_flattened(k, L):
    return k.Sequential([k.Input(IMAGE), L.Conv2D(4, 3, activation="relu"), L.Conv2D(1, 10, activation="sigmoid"), L.Flatten()])


# Activations


def _activation(name, k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(6, 3, activation=name)(x)
    h = L.Activation(name)(L.Conv2D(6, 3)(L.MaxPooling2D()(h)))
    h = L.Dense(6, activation=name)(L.GlobalAveragePooling2D()(h))
    return k.Model(x, L.Dense(5)(h))


_BOTH = "elu exponential gelu hard_sigmoid linear mish relu selu sigmoid softmax softplus softsign swish tanh"
_THREE = (
    "celu hard_shrink hard_silu hard_tanh leaky_relu log_sigmoid log_softmax relu6 silu soft_shrink sparse_plus sparse_sigmoid "
    "sparsemax squareplus tanh_shrink"
)
for _name in [*_BOTH.split(), *_THREE.split()]:
    # A threshold at 0 of 1 e.g. needs values on both sides of it: larger ones than elsewhere.
    BUILDERS[f"activation_{_name}"] = Builder(
        partial(_activation, _name), IMAGE, ("activation", _name), () if _name in _BOTH.split() else KERAS3, gain=2.0
    )


def _layer(make, k, L):
    x = k.Input(IMAGE)
    h = make(L)(L.Conv2D(6, 3)(x))
    h = make(L)(L.Conv2D(6, 3, use_bias=False)(h))
    h = make(L)(L.Dense(8)(L.GlobalAveragePooling2D()(h)))
    return k.Model(x, L.Dense(5, activation="softmax")(h))


def _attribute(make, k, L):
    x = k.Input(IMAGE)
    h = L.Conv2D(6, 3, activation=make(L))(x)
    h = L.DepthwiseConv2D(3, activation=make(L))(h)
    h = L.Dense(8, activation=make(L))(L.GlobalAveragePooling2D()(h))
    return k.Model(x, L.Dense(5, activation="softmax")(h))


def _slope(L, value):
    """Keras 3 calls a leaky ReLU's slope another name than Keras 2."""
    return L.LeakyReLU(negative_slope=value) if "keras.src" in L.LeakyReLU.__module__.replace("tf_keras", "") else L.LeakyReLU(alpha=value)


_LAYERS = {
    "elu": lambda L: L.ELU(alpha=0.7),
    "leaky_relu": lambda L: L.LeakyReLU(),
    "leaky_relu_slope": lambda L: _slope(L, 0.1),
    "prelu": lambda L: L.PReLU(),
    "relu6": lambda L: L.ReLU(6.0),
    "relu_slope": lambda L: L.ReLU(negative_slope=0.25),
    "relu_all": lambda L: L.ReLU(max_value=3.0, negative_slope=0.1, threshold=0.5),
    "softmax": lambda L: L.Softmax(),
}
for _name, _make in _LAYERS.items():
    BUILDERS[f"layer_{_name}"] = Builder(partial(_layer, _make), IMAGE, ("activation layer", _name), gain=4.0)
    if _name != "prelu":
        BUILDERS[f"attribute_{_name}"] = Builder(partial(_attribute, _make), IMAGE, ("activation layer as attribute", _name), gain=4.0)


@everyday("activation layer", "thresholded_relu", dialects=KERAS2, gain=2.0)
def layer_thresholded_relu(k, L):
    return _layer(lambda L: L.ThresholdedReLU(theta=0.8), k, L)


@everyday("activation layer", "PReLU", "shared_axes", gain=2.0)
def layer_prelu_shared(k, L):
    x = k.Input(IMAGE)
    h = L.PReLU(shared_axes=[1, 2])(L.Conv2D(6, 3)(x))
    h = L.PReLU(shared_axes=[1])(L.Conv2D(6, 3, use_bias=False)(h))
    return k.Model(x, head(L, h))
