"""Store what Keras computes for single layers in float64, with seeded weights and inputs: `python keras_layers.py OUT.npz`.

For each case the file has `<case>/config` (the class and its arguments, JSON), `<case>/x`, `<case>/y` and `<case>/w0`, `w1`, ... in the
order of `layer.weights`. TensorFlow has no dilated transposed convolutions on a CPU: with KERAS_BACKEND=jax and JAX_ENABLE_X64=1
`python keras_layers.py OUT.npz dilated` stores these. Bilinear resizing runs in float32 inside TensorFlow, whatever the dtype.
"""

import itertools
import json
import sys
import warnings

import keras
import numpy as np

IMAGE = (4, 5, 3)


def conv_transpose():
    for k, s, padding in itertools.product([[1, 1], [2, 2], [3, 3], [4, 3], [5, 2]], [[1, 1], [2, 2], [3, 2]], ["same", "valid"]):
        yield "Conv2DTranspose", IMAGE, {"filters": 2, "kernel_size": k, "strides": s, "padding": padding}
    for k, s, padding, extra in [
        ([3, 3], [2, 2], "same", [1, 1]),
        ([3, 3], [2, 2], "same", [0, 1]),
        ([4, 3], [3, 2], "same", [1, 0]),
        ([3, 3], [2, 2], "valid", [1, 0]),
        ([2, 4], [3, 3], "valid", [0, 2]),
    ]:
        yield "Conv2DTranspose", IMAGE, {"filters": 2, "kernel_size": k, "strides": s, "padding": padding, "output_padding": extra}


def dilated():
    for k, d, padding in itertools.product([[3, 3], [2, 3]], [[2, 2], [3, 1]], ["same", "valid"]):
        yield "Conv2DTranspose", IMAGE, {"filters": 2, "kernel_size": k, "dilation_rate": d, "padding": padding}


def convolutions():
    for m, k, s, padding in itertools.product([1, 2], [[3, 3], [2, 5]], [[1, 1], [2, 2]], ["same", "valid"]):
        yield "DepthwiseConv2D", (7, 8, 3), {"kernel_size": k, "strides": s, "padding": padding, "depth_multiplier": m}
    yield "DepthwiseConv2D", (7, 8, 3), {"kernel_size": [3, 2], "dilation_rate": [2, 2], "padding": "same", "use_bias": False}
    yield "DepthwiseConv2D", (7, 8, 1), {"kernel_size": [3, 3], "depth_multiplier": 4}
    for groups, filters, s in [(2, 4, [1, 1]), (3, 6, [2, 1]), (6, 6, [1, 1]), (6, 12, [2, 2])]:
        yield "Conv2D", (7, 6, 6), {"filters": filters, "kernel_size": [3, 3], "groups": groups, "strides": s, "padding": "same"}
    for k, s, d, padding in [(3, 1, 1, "same"), (4, 2, 1, "valid"), (3, 1, 2, "same"), (2, 3, 1, "same")]:
        yield "Conv1D", (9, 3), {"filters": 4, "kernel_size": k, "strides": s, "dilation_rate": d, "padding": padding}
    yield "DepthwiseConv1D", (9, 3), {"kernel_size": 3, "depth_multiplier": 2, "padding": "same"}
    yield "Conv1DTranspose", (5, 3), {"filters": 2, "kernel_size": 3, "strides": 2, "padding": "same"}


def pools():
    for name in ("MaxPooling2D", "AveragePooling2D"):
        for size, s, padding in [([2, 2], [2, 2], "valid"), ([3, 2], [2, 1], "same"), ([3, 3], [3, 3], "same")]:
            yield name, (7, 6, 2), {"pool_size": size, "strides": s, "padding": padding}
    for name in ("MaxPooling1D", "AveragePooling1D"):
        yield name, (9, 2), {"pool_size": 3, "strides": 2, "padding": "same"}
    for name in ("GlobalMaxPooling1D", "GlobalAveragePooling1D"):
        yield name, (9, 2), {}
    for name, keep in itertools.product(("GlobalMaxPooling2D", "GlobalAveragePooling2D"), (False, True)):
        yield name, (3, 4, 2), {"keepdims": keep}


def norms():
    for axis, shape in [
        (-1, (4, 5, 6)),
        (-1, (7,)),
        ([1, 2, 3], (4, 5, 6)),
        ([1], (4, 5, 6)),
        ([1, 2], (4, 5, 6)),
        ([1, 3], (4, 5, 6)),
        (-1, (8, 6)),
    ]:
        yield "LayerNormalization", shape, {"axis": axis}
        yield "UnitNormalization", shape, {"axis": axis}
    for axis in (-1, [2, 3], [1, 2, 3]):
        yield "RMSNormalization", (4, 5, 6), {"axis": axis}
    yield "LayerNormalization", (4, 5, 6), {"axis": [2, 3], "epsilon": 0.25, "center": False}
    yield "LayerNormalization", (4, 5, 6), {"scale": False}
    yield "LayerNormalization", (4, 5, 6), {"rms_scaling": True}
    for groups in (1, 2, 3, 6):
        yield "GroupNormalization", (4, 5, 6), {"groups": groups}
    yield "GroupNormalization", (7, 12), {"groups": 4, "epsilon": 0.25, "center": False}
    yield "GroupNormalization", (4, 5, 6), {"groups": -1, "scale": False}


def others():
    for size in ([2, 2], [3, 1], [1, 4]):
        for interpolation in ("nearest", "bilinear"):
            yield "UpSampling2D", IMAGE, {"size": size, "interpolation": interpolation}
    for (h, w), interpolation in itertools.product([(8, 10), (2, 3), (4, 5), (7, 2), (1, 1), (13, 17), (3, 11)], ("nearest", "bilinear")):
        yield "Resizing", IMAGE, {"height": h, "width": w, "interpolation": interpolation}
    for shared, shape in [(None, IMAGE), ([1, 2], IMAGE), ([1], IMAGE), (None, (6,))]:
        yield "PReLU", shape, {"shared_axes": shared}
    yield "Cropping2D", (6, 7, 2), {"cropping": [[1, 2], [0, 3]]}
    yield "ZeroPadding2D", IMAGE, {"padding": [[1, 2], [0, 3]]}
    yield "Permute", IMAGE, {"dims": [3, 1, 2]}
    yield "Reshape", IMAGE, {"target_shape": [6, -1]}
    yield "Dense", IMAGE, {"units": 2}
    yield "Dense", (5, 3), {"units": 4}


def main(path, dilated_alone=False):
    keras.backend.set_floatx("float64")
    stored = {}
    cases = dilated() if dilated_alone else itertools.chain(conv_transpose(), convolutions(), pools(), norms(), others())
    for i, (name, shape, options) in enumerate(cases):
        rng = np.random.default_rng(i)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            layer = getattr(keras.layers, name)(**options)
            x = rng.normal(size=(2, *shape)).astype(np.float32).astype(np.float64)
            layer(x)
            weights = [rng.normal(size=w.shape).astype(np.float32) for w in layer.weights]
            layer.set_weights(weights)
            y = keras.ops.convert_to_numpy(layer(x))
        case = f"{i:03} {'dilated ' * bool(dilated_alone)}{name}"
        stored[f"{case}/config"] = np.array(json.dumps([name, options]))
        stored[f"{case}/x"], stored[f"{case}/y"] = x.astype(np.float32), y
        stored |= {f"{case}/w{k}": w for k, w in enumerate(weights)}
    np.savez_compressed(path, **stored)


if __name__ == "__main__":
    main(*sys.argv[1:])
