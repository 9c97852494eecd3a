"""Write nplrp/data/architectures.json.xz: what keras.applications builds, as configurations, for weight files that carry none.

Needs tensorflow, keras 3 and tf_keras, which the project doesn't; run by hand, from the root, when Keras has new networks:
`python tests/peers/make_architectures.py`. What doesn't say what is computed is left out: initialisers, regularisers, types, shapes.
"""

import inspect
import json
import lzma
import os
import sys
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import keras
import tf_keras

TARGET = Path(__file__).parents[2] / "nplrp" / "data" / "architectures.json.xz"
NEEDLESS = (
    *(
        "module",
        "registered_name",
        "build_config",
        "compile_config",
        "build_input_shape",
        "trainable",
        "dtype",
        "shape",
        "sparse",
        "ragged",
    ),
    *("optional", "seed", "noise_shape", "momentum", "synchronized", "quantization_config", "shared_object_id"),
    *("renorm_clipping", "renorm_momentum", "kwargs", "rate", "lora_rank", "lora_alpha"),
)


def main() -> None:
    lines = {}
    for library in (tf_keras, keras):  # the newer one's, where both have it
        for name, make in inspect.getmembers(library.applications, inspect.isfunction):
            library.backend.clear_session()
            lines[name.lower()] = json.dumps(needed(json.loads(make(weights=None).to_json())), separators=(",", ":"))
            print(f"{library.__name__} {name}: {len(lines[name.lower()])} characters", flush=True)
    text = "\n".join([json.dumps(sorted(lines)), *(lines[name] for name in sorted(lines))])
    TARGET.write_bytes(lzma.compress(text.encode(), preset=9 | lzma.PRESET_EXTREME))
    print(f"{len(lines)} networks, {len(text)} characters, {TARGET.stat().st_size} bytes packed")


def needed(value):
    """Leave out what doesn't say what is computed."""
    if isinstance(value, dict):
        return {key: needed(item) for key, item in value.items() if not drop(key)}
    return [needed(item) for item in value] if isinstance(value, list) else value


def drop(key: str) -> bool:
    return key in NEEDLESS or key.endswith(("_initializer", "_regularizer", "_constraint"))


if __name__ == "__main__":
    sys.exit(main())
