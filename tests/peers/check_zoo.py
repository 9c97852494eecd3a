"""Compute the zoo's Keras 3 networks once more, in float64 by Keras on JAX: other kernels, which know channels first by themselves.

    python tests/peers/check_zoo.py [NAME ...]

in an environment with keras 3 and jax, from the root. Prints how far JAX is from the recorded outputs, relative to their maximum;
ends with 1 if that is more than 1e-5, for JAX's Keras rounds means and constants to float32 in places.
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

#: Keras on JAX rounds epsilons, slopes and means to float32 even in float64.
CLOSE = 1e-5


def main(names: list[str]) -> int:
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
        good = off <= CLOSE and all(np.asarray(y).dtype == np.float64 for y in outputs)
        failed += [] if good else [name]
        print(f"{name}: {off:.1e}{'' if good else '  FAILED'}", flush=True)
    print(f"failed: {failed}")
    return int(bool(failed))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
