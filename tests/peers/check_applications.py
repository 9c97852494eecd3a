"""Compare all networks of keras.applications, at full size, with real Keras: forward, float32's error, one explanation.

Run from the root, in the engine's environment, with the Python of one that has keras 3, tensorflow and tf_keras:

    python tests/peers/check_applications.py --keras PYTHON --folder FOLDER [--dialect keras3] [NAME ...]

Two halves hand over by files: that Python builds a network with random weights (see `keras_pass.calibrate`: deviations of about one,
batch-norm statistics around the activations' own), runs it in float64 and float32 and saves .h5, .keras and .weights.h5; the engine
loads these and compares. A network's files (up to 5 GB) are deleted before the next is built. A line a network is printed and kept
in FOLDER/results.jsonl; networks that passed there aren't done again, so a run that was stopped goes on. `--half build` leaves the files,
`--half check` takes them as they are. Ends with 1 if a network failed.
"""

import argparse
import gc
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parents[2]

#: Sides of the inputs that the networks were made for; 224 where none is given.
SIDES = {
    "InceptionV3": 299,
    "InceptionResNetV2": 299,
    "Xception": 299,
    "NASNetLarge": 331,
    **{f"EfficientNetB{i}": side for i, side in enumerate((224, 240, 260, 300, 380, 456, 528, 600))},
    **{f"EfficientNetV2B{i}": side for i, side in enumerate((224, 240, 260, 300))},
    "EfficientNetV2S": 384,
    "EfficientNetV2M": 480,
    "EfficientNetV2L": 480,
}
NAMES = [
    *("VGG16", "VGG19", "MobileNet", "MobileNetV2", "MobileNetV3Small", "MobileNetV3Large"),
    *("ResNet50", "ResNet101", "ResNet152", "ResNet50V2", "ResNet101V2", "ResNet152V2"),
    *("DenseNet121", "DenseNet169", "DenseNet201", "InceptionV3", "InceptionResNetV2", "Xception", "NASNetMobile", "NASNetLarge"),
    *(f"EfficientNetB{i}" for i in range(8)),
    *(f"EfficientNetV2{i}" for i in ("B0", "B1", "B2", "B3", "S", "M", "L")),
    *(f"ConvNeXt{size}" for size in ("Tiny", "Small", "Base", "Large", "XLarge")),
]
#: Networks that only Keras 2 has.
OLD = [
    *(
        f"RegNet{kind}{size}"
        for kind in "XY"
        for size in ("002", "004", "006", "008", "016", "032", "040", "064", "080", "120", "160", "320")
    ),
    *(f"ResNetRS{depth}" for depth in (50, 101, 152, 200, 270, 350, 420)),
]
#: What networks are compared on, and calibrated with; the first one is explained.
IMAGES = 4
SUBTRACTED = ("VGG16", "VGG19", "ResNet50", "ResNet101", "ResNet152")
OWN_PREPROCESSING = ("MobileNetV3", "EfficientNet", "ConvNeXt", "RegNet", "ResNetRS")
LAYOUTS = ("h5", "keras", "weights.h5")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="all networks if none is named")
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("--keras", default=sys.executable, help="Python that has Keras")
    parser.add_argument("--dialect", choices=("keras3", "keras2"), default="keras3")
    parser.add_argument("--half", choices=("both", "build", "check"), default="both")
    parser.add_argument("--side", type=int, help="another input size than the network's own")
    parser.add_argument("--threads", type=int, default=1, help="for Keras")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)  # this process is the one that has Keras
    options = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    options.folder.mkdir(parents=True, exist_ok=True)
    names = options.names or [*NAMES, *(OLD if options.dialect == "keras2" else [])]
    unknown = set(names) - {*NAMES, *OLD}
    if unknown:
        parser.error(f"no such networks: {', '.join(sorted(unknown))}")
    if options.inside:
        for name in names:
            build(name, options.dialect, options.folder / name, options.side or SIDES.get(name, 224), options.threads)
        return 0
    results = options.folder / "results.jsonl"
    done = {}
    if results.exists():
        done = {(line["name"], line["dialect"]): line for line in map(json.loads, results.read_text().splitlines())}
    print(HEAD, flush=True)
    failed = 0
    for name in names:
        line = done.get((name, options.dialect))
        if line is None or line["failed"] or options.half != "both":
            line = one(name, options)
            if line is not None and options.half != "build":
                with results.open("a") as file:
                    file.write(json.dumps(line) + "\n")
        if line is not None:
            print(row(line), flush=True)
            failed += bool(line["failed"])
    print(f"{len(names) - failed} passed, {failed} failed")
    return int(failed > 0)


def one(name: str, options: argparse.Namespace) -> dict | None:
    folder = options.folder / name
    line = {"name": name, "dialect": options.dialect, "failed": []}
    if options.half != "check":
        shutil.rmtree(folder, ignore_errors=True)
        command = [options.keras, __file__, name, "--inside", "--folder", options.folder, "--dialect", options.dialect]
        command += ["--threads", options.threads, *(["--side", options.side] if options.side else [])]
        started = time.perf_counter()
        run = subprocess.run([str(part) for part in command], cwd=ROOT, capture_output=True, text=True, check=False)
        line["build_seconds"] = time.perf_counter() - started
        if run.returncode:
            shutil.rmtree(folder, ignore_errors=True)
            return {**line, "failed": ["build"], "error": run.stderr.strip().splitlines()[-1:]}
    facts = json.loads((folder / "facts.json").read_text())
    line |= {key: facts[key] for key in ("side", "layers", "parameters", "keras_float32", "logits_std")}
    if options.half == "build":
        return line
    try:
        check(name, folder, line)
    except Exception as error:
        line["failed"].append("check")
        line["error"] = [f"{type(error).__name__}: {' '.join(str(error).split())[:500]}"]
    if options.half == "both":
        shutil.rmtree(folder, ignore_errors=True)
    return line


# The half that has Keras


def build(name: str, dialect: str, folder: Path, side: int, threads: int) -> None:
    """Build, run and save one network."""
    for key, value in (("TF_CPP_MIN_LOG_LEVEL", "3"), ("TF_ENABLE_ONEDNN_OPTS", "0"), ("CUDA_VISIBLE_DEVICES", "-1")):
        os.environ.setdefault(key, value)
    import importlib

    import tensorflow as tf

    from tests import zoo
    from tests.peers import keras_pass

    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(1)
    k = importlib.import_module({"keras3": "keras", "keras2": "tf_keras"}[dialect])
    folder.mkdir(parents=True)
    low, high = (0, 255) if name.startswith(OWN_PREPROCESSING) else (-120, 130) if name in SUBTRACTED else (-1, 1)
    # A photograph is smooth: coarse noise, and a little of fine.
    grid = -(-side // 16)
    u = zoo.values(name, zoo.INPUTS, [IMAGES, grid, grid, 3], "float32", "uniform", 0, 1).repeat(16, 1).repeat(16, 2)[:, :side, :side]
    u = 0.8 * u + 0.2 * zoo.values(name, zoo.INPUTS + 1, [IMAGES, side, side, 3], "float32", "uniform", 0, 1)
    x = ((low + high) / 2 + (high - low) / 2 * u).astype(np.float32)

    def make():
        k.backend.clear_session()
        return getattr(k.applications, name)(weights=None, input_shape=(side, side, 3))

    k.backend.set_floatx("float64")
    twin = make()
    keras_pass.exact(twin)
    rules = keras_pass.calibrate(twin, name, x, 1.0)
    arrays = {"x": x}
    observed = keras_pass.observe(twin, x, keep=zoo.record_layer)
    arrays["y64"], arrays["logits64"] = observed.outputs[0][1], (observed.logits or observed.outputs)[0][1]
    weights = [value.astype(np.float32) if value.dtype == np.float64 else value for value in keras_pass.values(twin)]
    layers = observed.layers
    del twin, observed
    gc.collect()
    k.backend.set_floatx("float32")
    model = make()
    keras_pass.fill(model, weights)
    del weights
    arrays["y32"] = np.asarray(model(x, training=False))
    model.save(folder / "model.h5")
    model.save(folder / "model.keras")
    model.save_weights(folder / "model.weights.h5")
    (folder / "model.json").write_text(model.to_json())
    observed = keras_pass.observe(model, x, "float32", keep=lambda name, value: None)
    arrays["logits32"] = (observed.logits or observed.outputs)[0][1]
    np.savez(folder / "expected.npz", **arrays)
    facts = {
        "side": side,
        "layers": len(model.layers),
        "parameters": int(model.count_params()),
        "keras_float32": apart(arrays["logits32"], arrays["logits64"]),
        "logits_std": float(arrays["logits64"].std()),
        "variables": len(rules),
        "observed": layers,
    }
    (folder / "facts.json").write_text(json.dumps(facts))


# The half that has the engine


def check(name: str, folder: Path, line: dict) -> None:
    """Compare the engine with Keras; write what was found into `line`, and what failed into its list."""
    import nplrp

    expected = np.load(folder / "expected.npz")
    x = expected["x"]
    first = None
    for layout in LAYOUTS:
        path = folder / f"model.{layout}"
        started = time.perf_counter()
        try:
            model = nplrp.load(path)
        except nplrp.NplrpError as error:
            line["failed"].append(f"load {layout}")
            line.setdefault("error", []).append(" ".join(str(error).replace(str(folder), "").split())[:300])
            continue
        line[f"load_seconds_{layout}"] = time.perf_counter() - started
        y = last(nplrp.forward(model, x, dtype="float64"))
        if first is not None:
            line["failed"] += [] if np.array_equal(y, first) else [f"{layout} gives other numbers"]
            continue
        first = y
        line["forward64"] = off(y, expected["y64"])
        line["failed"] += [] if line["forward64"] <= 1e-9 else ["float64"]
        y32 = last(nplrp.forward(model, x, dtype="float32"))
        line["softmax32"], line["keras_softmax32"] = off(y32, expected["y64"]), off(expected["y32"], expected["y64"])
        line["logits32"] = apart(nplrp.logits(model, x), expected["logits64"])
        line["failed"] += [] if line["logits32"] <= 2 * line["keras_float32"] else ["float32"]
        explanation = nplrp.explain(model, x[:1], "epsilon_plus", dtype="float64")
        line["logits64"] = off(explanation.logits, expected["logits64"][:1])
        line["failed"] += [] if line["logits64"] <= 1e-9 else ["float64 logits"]
        line["balance"] = max(float(np.max(np.abs(e.residual) / np.maximum(e.magnitude, 1e-300))) for e in explanation.ledger.entries)
        line["failed"] += [] if line["balance"] <= 1e-12 else ["ledger"]
        started = time.perf_counter()
        explanation = nplrp.explain(model, x[:1], "epsilon_plus")
        line["explain_seconds"] = time.perf_counter() - started
        line["failed"] += [] if np.isfinite(explanation.relevance).all() and explanation.relevance.any() else ["relevance"]


def last(activations: dict) -> np.ndarray:
    return list(activations.values())[-1]


def off(got: np.ndarray, expected: np.ndarray) -> float:
    if got.shape != expected.shape:
        raise ValueError(f"shape {got.shape}, expected {expected.shape}")
    return float(np.abs(got.astype(np.float64) - expected).max() / np.abs(expected).max())


def apart(got: np.ndarray, expected: np.ndarray) -> float:
    """Return the root mean square of what float32 errs by, over that of the numbers: one image's largest error is a draw."""
    return float(np.sqrt(np.square(got.astype(np.float64) - expected).mean() / np.square(expected).mean()))


COLUMNS = (
    ("name", 18, "s"),
    ("side", 4, "d"),
    ("layers", 6, "d"),
    ("parameters", 10, "d"),
    ("logits_std", 10, ".2f"),
    ("keras_float32", 13, ".1e"),
    ("logits32", 8, ".1e"),
    ("logits64", 8, ".1e"),
    ("forward64", 9, ".1e"),
    ("balance", 8, ".1e"),
    ("build_seconds", 13, ".0f"),
    ("explain_seconds", 15, ".2f"),
)
HEAD = " ".join(f"{name:>{width}}" for name, width, _ in COLUMNS) + "  result"


def row(line: dict) -> str:
    cells = [f"{line[name]:>{width}{kind}}" if name in line else " " * (width - 1) + "-" for name, width, kind in COLUMNS]
    verdict = "; ".join([", ".join(line["failed"]) or "ok", *line.get("error", [])[:1]])
    return f"{' '.join(cells)}  {verdict}"


if __name__ == "__main__":
    sys.exit(main())
