"""Write this folder's small files with real Keras: `python make_small_files.py 2` (Keras 2.15) or `3` (Keras 3.15), here.

Needs TensorFlow, which the project doesn't; run once by hand. Weights are seeded, so both versions write the same numbers.
"""

import sys

import numpy as np

version = sys.argv[1]
if version == "2":
    from tensorflow import keras
else:
    import keras

L = keras.layers
rng = np.random.default_rng(7)


def fill(model):
    model.set_weights(
        [(rng.random(w.shape) * 0.6 - 0.2 if w.ndim > 1 else rng.random(w.shape) + 0.1).astype("f") for w in model.get_weights()]
    )


def save(model, name):
    for ending in ("h5", "keras"):
        model.save(f"keras{version}_{name}.{ending}")
    if version == "2":
        x = rng.random((2, *model.input_shape[1:]), dtype="f")
        np.savez(f"keras2_{name}.npz", x=x, y=model.predict(x, verbose=0))


start, shape = ([], {"input_shape": (8, 8, 3)}) if version == "2" else ([keras.Input((8, 8, 3))], {})
compiled = keras.Sequential(
    [
        *start,
        L.ZeroPadding2D(((1, 0), (2, 1)), **shape),
        L.Conv2D(4, 3, strides=2, name="c1"),
        L.BatchNormalization(),
        L.ReLU(),
        L.AveragePooling2D(2),
        L.Dropout(0.2),
        L.Flatten(),
        L.Dense(5),
        L.Softmax(),
    ],
    name="compiled",
)
compiled.compile("adam", "mse")
compiled.fit(np.zeros((4, 8, 8, 3)), np.zeros((4, 5)), verbose=0)  # so that the optimizer has slots
fill(compiled)
save(compiled, "compiled")

inner = keras.Sequential(
    [
        *start,
        L.Conv2D(4, 3, name="c1", activation="relu", **shape),
        L.BatchNormalization(name="bn", center=False),
        L.Conv2D(4, 3, name="c2", use_bias=False, dilation_rate=2),
    ],
    name="inner",
)
x = keras.Input((8, 8, 3))
y = L.Flatten()(L.GlobalMaxPooling2D(keepdims=True)(inner(x)))
nested = keras.Model(x, L.Dense(5, name="c1", activation="softmax")(y), name="outer")
inner.trainable = False
fill(nested)
save(nested, "nested")

if version == "3":
    x = y = keras.Input((32, 32, 3), name="input_1")
    for block, (depth, width) in enumerate(zip((2, 2, 3, 3, 3), (2, 2, 4, 4, 4), strict=True), 1):
        for i in range(1, depth + 1):
            y = L.Conv2D(width, 3, padding="same", activation="relu", name=f"block{block}_conv{i}")(y)
        y = L.MaxPooling2D(2, 2, name=f"block{block}_pool")(y)
    y = L.Dense(6, activation="relu", name="fc1")(L.Flatten(name="flatten")(y))
    y = L.Dense(3, activation="softmax", name="predictions")(L.Dense(6, activation="relu", name="fc2")(y))
    tiny = keras.Model(x, y, name="tiny")
    fill(tiny)
    tiny.save("keras3_tiny.keras")
    tiny.save_weights("keras3_tiny.weights.json", max_shard_size=1500 / 1024**3)
