"""Compute the zoo's Keras 3 networks once more, in float64 by Keras on JAX: other kernels, which know channels first by themselves.

    python tests/peers/check_zoo.py [NAME ...]

in an environment with keras 3 and jax, from the root. Prints how far JAX is from the recorded outputs, relative to their maximum;
ends with 1 if that is more than the record's tolerance.
"""

import os
import sys
import tempfile
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")
os.environ.setdefault("JAX_ENABLE_X64", "1")
sys.path.insert(0, str(Path(__file__).parents[2]))

import keras
import numpy as np

from tests import zoo
from tests.peers import keras_pass


def exact() -> None:
    """Let Keras's means and variances stay in float64: on JAX it computes them in float32."""
    import jax.numpy
    from keras.src.backend.jax import numpy as ops

    ops.mean = lambda x, axis=None, keepdims=False: jax.numpy.mean(x, axis=axis, keepdims=keepdims)
    ops.var = lambda x, axis=None, keepdims=False: jax.numpy.var(x, axis=axis, keepdims=keepdims)


def main(names: list[str]) -> int:
    exact()
    failed = []
    for name in names or zoo.names(dialect="keras3"):
        network = zoo.network(name)
        keras.backend.clear_session()
        with tempfile.TemporaryDirectory() as folder:
            path = zoo.write(network, folder, "weights.h5")
            text = keras_pass.doubled(path.with_name(f"{network.title}.json").read_text())
            text = text.replace('"synchronized": true', '"synchronized": false')  # which only TensorFlow knows
            keras.backend.set_floatx("float64")
            model = keras.models.model_from_json(text)
            model.load_weights(path)
        outputs = keras_pass.listed(model(network.inputs().astype(np.float64), training=False))
        wanted = list(network.outputs().values())
        off = max(float(np.abs(np.asarray(y) - z).max() / np.abs(z).max()) for y, z in zip(outputs, wanted, strict=True))
        good = off <= network.tolerance and all(np.asarray(y).dtype == np.float64 for y in outputs)
        failed += [] if good else [name]
        print(f"{name}: {off:.1e}{'' if good else '  FAILED'}", flush=True)
    print(f"failed: {failed}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
