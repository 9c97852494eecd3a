"""The exporters: what is written computes what the source computes, byte for byte the same each time, or nothing is written."""

import dataclasses
import hashlib
import json
import pickle
import sys
import time
import zipfile
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, assume, example, given, settings
from hypothesis import strategies as st

import nplrp
from nplrp import cli
from nplrp.errors import NplrpError, OutputError, WeightsError
from nplrp.layers import KINDS
from nplrp.model import Layer, Preprocessing, Window, chain
from tests import torch_files, zoo
from tests.networks import batch_norm, conv, dense, plain, pool, random_kernel
from weights_tools.__main__ import main, read_classes
from weights_tools.from_pytorch import from_pytorch
from weights_tools.from_pytorch import model_of as vgg
from weights_tools.torch_file import read_tensors
from weights_tools.write_hdf5 import write

onnx_files = pytest.importorskip("tests.onnx_files", reason="needs the extras tools and test")
from onnx import TensorProto, numpy_helper  # noqa: E402

from tests.onnx_files import agrees, graph_file, node, numbers, output  # noqa: E402
from weights_tools.from_onnx import from_onnx  # noqa: E402

DATA = Path(__file__).parent / "data"
TORCH = DATA / "torch_files"


def every_kind():
    """A model with a layer of every kind, and every option that a file must keep."""
    rng = np.random.default_rng(2)
    layers = [
        plain("pad", "pad", pads=(1, 2, 0, 3)),
        conv("conv", random_kernel(rng, 3, 3, 3, 5), rng.normal(size=5), window=Window((3, 3), (2, 1), padding="same")),
        batch_norm("norm", rng, 5),
        plain("relu", "activation", "relu"),
        conv("dilated", random_kernel(rng, 3, 2, 5, 6), None, "linear", Window((3, 2), (1, 1), (2, 2))),
        Layer("bare", "batchnorm", (), (), epsilon=0.1, arrays={"mean": np.ones(6, "f4"), "variance": np.full(6, 2, "f4")}),
        pool("max", window=Window((2, 2), (2, 2), padding="same")),
        pool("average", "avgpool", Window((2, 2), (1, 1), padding="same")),
        plain("drop", "identity"),
        plain("global", "global_maxpool", keepdims=True),
        plain("flatten", "flatten"),
        dense("out", random_kernel(rng, 6, 4), rng.normal(size=4), "softmax"),
    ]
    return chain(
        (17, 18, 3), layers, "every", preprocessing=Preprocessing("tf", "box", True, 40), classes=tuple((f"n{i}", "é") for i in range(4))
    )


@pytest.fixture
def source(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(b"weights")
    return path


# The file


def test_written_model_is_read_back_whole(tmp_path, source):
    model, path = every_kind(), tmp_path / "out.h5"
    write(model, path, source, "test")
    found = nplrp.load(path)
    assert [layer.describe() for layer in found] == [layer.describe() for layer in model]
    assert found.content_hash == model.content_hash
    assert (found.name, found.input_shape) == (model.name, model.input_shape)
    assert (found.preprocessing, found.classes) == (model.preprocessing, model.classes)


def test_graphs_of_every_kind_are_read_back_whole(tmp_path, source):
    """Networks of the zoo are taken until every kind of layer was there."""
    left = set(KINDS) - {"input"}
    for name in zoo.names(dialect="keras3", group="everyday"):
        network = zoo.network(name)
        odd = name.endswith("renorm") or network.refused or "h5" not in network.layouts or len(network.record["outputs"]) > 1
        if odd or not left:
            continue
        (tmp_path / network.title).mkdir()
        model = nplrp.load(zoo.write(network, tmp_path / network.title))
        if not left & {layer.kind for layer in model}:
            continue
        left -= {layer.kind for layer in model}
        write(model, tmp_path / "out.h5", source, "test", force=True)
        found = nplrp.load(tmp_path / "out.h5")
        assert found.content_hash == model.content_hash, name
        assert [layer.kind for layer in found] == [layer.kind for layer in model], name
    assert not left


@pytest.mark.parametrize(
    "activation",
    ["hard_sigmoid", "hard_sigmoid_2", "relu(max_value=6.0)", "relu(threshold=0.5)", "silu", "leaky_relu(negative_slope=0.3)", "elu"],
)
@pytest.mark.parametrize("part", [False, True])
def test_activations_are_read_back_as_they_were(tmp_path, source, activation, part):
    """As a layer of their own, and as part of one; Keras 2's hard sigmoid is another one than PyTorch's."""
    layers = [dense("d", np.eye(3), None, activation if part else "linear"), plain("a", "activation", "relu" if part else activation)]
    write(chain((3,), layers), tmp_path / "out.h5", source, "test")
    found = nplrp.load(tmp_path / "out.h5")
    assert [layer.activation for layer in found] == [layer.activation for layer in layers]


@pytest.mark.parametrize("text", ["relu(max=6)", "relu(max_value=x)", "nothing(a=1)", "relu(max_value=6.0", "relu)"])
def test_damaged_words_of_our_own_are_refused(tmp_path, source, text):
    write(chain((3,), [plain("a", "activation", "sigmoid")]), tmp_path / "out.h5", source, "test")
    with h5py.File(tmp_path / "out.h5", "r+") as file:
        file.attrs["model_config"] = file.attrs["model_config"].replace('"sigmoid"', json.dumps(text))
    with pytest.raises(WeightsError, match=r"layer 'a'.*activation"):
        nplrp.load(tmp_path / "out.h5")


def test_layout_is_the_documented_one(tmp_path, source):
    write(every_kind(), tmp_path / "out.h5", source, "from-test")
    with h5py.File(tmp_path / "out.h5") as file:
        assert sorted(file.attrs) == [
            "backend",
            "keras_version",
            "model_config",
            "nplrp_classes",
            "nplrp_preprocessing",
            "nplrp_source_sha256",
            "nplrp_tool",
        ]
        assert json.loads(file.attrs["nplrp_preprocessing"]) == {"mode": "tf", "resample": "box", "crop": True, "resize_to": 40}
        assert json.loads(file.attrs["nplrp_classes"])[0] == ["n0", "é"]
        assert file.attrs["nplrp_source_sha256"] == hashlib.sha256(b"weights").hexdigest()
        assert file.attrs["nplrp_tool"] == f"weights_tools {nplrp.__version__} from-test"
        group = file["model_weights"]
        assert list(group.attrs["layer_names"][:3]) == [b"input_1", b"pad", b"conv"]
        assert list(group["norm"].attrs["weight_names"]) == [
            b"norm/gamma:0",
            b"norm/beta:0",
            b"norm/moving_mean:0",
            b"norm/moving_variance:0",
        ]
        assert group["pad"].attrs["weight_names"].shape == (0,)
        arrays = [value for layer in group.values() for value in layer.get(layer.name.split("/")[-1], {}).values()]
        assert len(arrays) == 11
        for array in arrays:
            assert array.dtype == "<f4" and array.chunks is None and array.compression is None
            assert array.id.get_offset() % 64 == 0


def test_same_model_gives_same_bytes(tmp_path, source):
    write(every_kind(), tmp_path / "a.h5", source, "test")
    time.sleep(1.1)  # HDF5's time stamps count seconds
    write(every_kind(), tmp_path / "b.h5", source, "test")
    assert (tmp_path / "a.h5").read_bytes() == (tmp_path / "b.h5").read_bytes()


def test_long_lists_of_names_are_split(tmp_path, source):
    layers = [dense(f"{i:03}{'x' * 250}", np.eye(2), None, "linear") for i in range(300)]
    write(chain((2,), layers), tmp_path / "out.h5", source, "test")
    with h5py.File(tmp_path / "out.h5") as file:
        names = [name for name in file["model_weights"].attrs if name.startswith("layer_names")]
        assert names == ["layer_names0", "layer_names1"]
    assert [layer.name for layer in nplrp.load(tmp_path / "out.h5")] == [layer.name for layer in layers]


def test_slashes_in_names_become_underscores_that_clash_with_nothing(tmp_path, source):
    layers = [dense(name, np.eye(2) * i, None, "linear") for i, name in enumerate(("a_b", "a/b", "input_1"), 1)]
    write(chain((2,), layers), tmp_path / "out.h5", source, "test")
    model = nplrp.load(tmp_path / "out.h5")
    assert [(layer.name, layer.arrays["kernel"][0, 0]) for layer in model] == [("a_b", 1), ("a_b_", 2), ("input_1", 3)]


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_nonfinite_weights_are_not_written(tmp_path, source, bad):
    kernel = np.ones((2, 2), "f4")
    kernel[1, 0] = bad
    with pytest.raises(WeightsError, match=rf"layer 'd': its kernel holds {bad} at \(1, 0\)"):
        write(chain((2,), [dense("d", kernel)]), tmp_path / "out.h5", source, "test")
    assert not (tmp_path / "out.h5").exists()


def test_output_is_not_replaced_unasked(tmp_path, source):
    path = tmp_path / "out.h5"
    path.write_bytes(b"precious")
    with pytest.raises(OutputError, match="exists already"):
        write(every_kind(), path, source, "test")
    assert path.read_bytes() == b"precious"
    write(every_kind(), path, source, "test", force=True)
    assert nplrp.load(path).name == "every"
    for wrong in (tmp_path, tmp_path / "none" / "out.h5"):
        with pytest.raises(OutputError, match="folder"):
            write(every_kind(), wrong, source, "test")


# The command line


def run(capsys, *arguments):
    code = main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


@pytest.mark.parametrize("name", ["keras2_nested.h5", "keras3_compiled.keras", "keras3_tiny.weights.json"])
def test_from_keras_keeps_what_the_model_computes(tmp_path, capsys, name):
    code, out, err = run(capsys, "from-keras", DATA / "keras_files" / name, tmp_path / "out.h5")
    assert code == 0 and "layers, input" in out
    assert all("assum" in line or "pictures were prepared" in line for line in err.splitlines())
    before, after = nplrp.load(DATA / "keras_files" / name), nplrp.load(tmp_path / "out.h5")
    assert before.content_hash == after.content_hash and before.classes == after.classes


def test_what_is_said_about_pictures_and_classes_is_recorded(tmp_path, capsys):
    classes = tmp_path / "classes.json"
    model = nplrp.load(DATA / "keras_files" / "keras3_tiny.keras")
    classes.write_text(json.dumps([f"class {i}" for i in range(model.output_shape[0])]))
    said = ["--preprocessing", "torch", "--resample", "bicubic", "--crop", "--resize-to", "9", "--classes", classes]
    code, _, err = run(capsys, "from-keras", DATA / "keras_files" / "keras3_tiny.keras", tmp_path / "out.h5", *said)
    assert (code, err) == (0, "")
    found = nplrp.load(tmp_path / "out.h5")
    assert found.preprocessing == Preprocessing("torch", "bicubic", True, 9)
    assert found.classes[1] == ("class 1", "class 1")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["from-keras", "missing.h5", "out.h5"], "missing.h5: there is no such file"),
        (["from-onnx", "missing.onnx", "out.h5", "--preprocessing", "unit"], "missing.onnx: there is no such file"),
        (["from-keras", "text", "out.h5", "--preprocessing", "cafe"], "unknown preprocessing 'cafe'; expected caffe, tf, torch"),
        (["from-pytorch", "missing.pth", "out.h5"], "missing.pth: there is no such file"),
        (["from-pytorch", "missing.safetensors", "out.h5"], "missing.safetensors: there is no such file"),
        (["from-pytorch", "text", "out.h5"], "starts with b'text', which is no PyTorch checkpoint"),
        (["from-keras", "text", "out.h5"], "text: expected Keras weights"),
        (["from-onnx", "text", "out.h5", "--preprocessing", "unit"], "text: isn't an ONNX file"),
        (["from-keras", "text", "text"], "text exists already"),
        (["from-pytorch", "vgg.pth", "out.h5", "--classes", "text"], "text: can't be read as JSON"),
        (["from-pytorch", "vgg.pth", "out.h5", "--resize-to", "0"], "--resize-to 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("text, not weights")
    Path("vgg.pth").write_bytes((TORCH / "vgg11_small_legacy.pth").read_bytes())
    code, out, err = run(capsys, *arguments)
    *notes, last = err.splitlines()
    assert (code, out) == (2, "") and message in last and all("assumed" in note for note in notes)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["text", "vgg.pth"]


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (
            "from-kears a b",
            "weights_tools: COMMAND: there is no 'from-kears'; did you mean 'from-keras'? see python -m weights_tools --help",
        ),
        ("from-keras a", "weights_tools: the following arguments are required: OUT.h5; see python -m weights_tools from-keras --help"),
        ("from-onnx a b --outputname c", "weights_tools: there is no option '--outputname'; did you mean '--output-name'? see "),
    ],
)
def test_usage_errors_are_one_line(capsys, arguments, line):
    with pytest.raises(SystemExit) as stop:
        main(arguments.split())
    _, err = capsys.readouterr()
    assert stop.value.code == 2 and err.startswith(line) and err.count("\n") == 1


@pytest.mark.parametrize(
    "entries",
    [[["a", "A"], ["b", "B"]], {"0": ["a", "A"], "1": ["b", "B"]}],
)
def test_classes_with_ids(tmp_path, entries):
    (tmp_path / "c.json").write_text(json.dumps(entries))
    assert read_classes(tmp_path / "c.json", 2) == (("a", "A"), ("b", "B"))


@pytest.mark.parametrize("entries", [["a", "b"], {"0": "a", "1": "b"}, {"b": 1, "a": 0}])
def test_classes_without_ids(tmp_path, entries):
    (tmp_path / "c.json").write_text(json.dumps(entries))
    assert read_classes(tmp_path / "c.json", 2) == (("a", "a"), ("b", "b"))


@pytest.mark.parametrize("entries", [["a"], ["a", 2], {"0": "a", "2": "b"}, {"a": 0, "b": 2}, 3, [["a"], ["b"]], {"a": 0, "b": 0}])
def test_wrong_classes(tmp_path, entries):
    (tmp_path / "c.json").write_text(json.dumps(entries))
    with pytest.raises(WeightsError, match="expected names for outputs 0 to 1"):
        read_classes(tmp_path / "c.json", 2)


# One front door


def test_import_finds_out_what_a_file_is(tmp_path, capsys, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert cli.main(["import", str(TORCH / "vgg11_bn_small.pth"), "--last-activation", "linear"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "vgg11_bn_small.h5: vgg11_bn, 33 layers, input 64 x 64 x 3\n" and captured.err == ""
    assert run(capsys, "from-pytorch", TORCH / "vgg11_bn_small.pth", "other.h5", "--last-activation", "linear")[0] == 0
    assert Path("other.h5").read_bytes() == Path("vgg11_bn_small.h5").read_bytes()
    Path("renamed").write_bytes((TORCH / "vgg11_bn_small.pth").read_bytes())
    for name in ("renamed", TORCH / "vgg11_small_legacy.pth"):
        assert run(capsys, "import", name, "again.h5", "--force")[0] == 0
    assert run(capsys, "import", DATA / "keras_files" / "keras2_nested.h5", "keras.h5")[0] == 0
    assert nplrp.load("keras.h5").content_hash == nplrp.load(DATA / "keras_files" / "keras2_nested.h5").content_hash


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["missing.pth"], "missing.pth: there is no such file"),
        (["missing"], "missing: there is no such file"),
        (["text"], "text: expected Keras weights"),
        (["net.onnx"], "net.onnx: "),
        ([str(DATA / "keras_files" / "keras2_nested.h5")], "needs no import: nplrp reads it as it is"),
        (
            [str(TORCH / "vgg11_bn_small.pth"), "--output-name", "y"],
            "--output-name is for an ONNX file, and this is a PyTorch or safetensors",
        ),
        (
            [str(TORCH / "vgg11_bn_small.pth"), "--head-activation", "relo"],
            "--head-activation: there is no activation 'relo'; did you mean 'relu'",
        ),
        ([str(TORCH / "vgg11_bn_small.pth"), "text"], "text exists already"),
    ],
)
def test_import_refuses_in_one_line(tmp_path, capsys, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    Path("text").write_text("text, not weights")
    Path("net.onnx").write_bytes(b"\x08\x08\x12\x07pytorch")
    code, captured = cli.main(["import", *arguments]), capsys.readouterr()
    assert (code, captured.out) == (2, "") and captured.err.count("\n") == 1
    assert captured.err.startswith("nplrp: ") and message in captured.err


def test_import_without_the_exporters_says_how_to_install_them(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "weights_tools.__main__", None)
    monkeypatch.setitem(sys.modules, "weights_tools", None)
    assert cli.main(["import", "net.pth"]) == 2
    assert "pip install --force-reinstall 'nplrp[tools]'" in capsys.readouterr().err


def test_sizes_may_be_written_in_two_ways(tmp_path, capsys):
    path = torch_files.save(tmp_path / "net.pth", torch_files.state_dict("squeezenet1_1"))
    for size in (["64", "96"], ["64x96"]):
        assert run(capsys, "from-pytorch", path, tmp_path / "out.h5", "--force", "--input-size", *size)[0] == 0
        assert nplrp.load(tmp_path / "out.h5").input_shape == (64, 96, 3)


# PyTorch


def torch_input():
    """What the stored outputs were computed from."""
    return np.random.default_rng(5).random((2, 64, 64, 3)).astype("f4")


@pytest.mark.parametrize(("name", "key"), [("vgg11_bn_small.pth", "bn"), ("vgg11_small_legacy.pth", "plain")])
def test_from_pytorch_computes_what_torch_computed(tmp_path, capsys, name, key):
    code, _, err = run(capsys, "from-pytorch", TORCH / name, tmp_path / "out.h5")
    assert (code, err.count("\n")) == (0, 1) and "softmax assumed behind its 5 outputs (another: --last-activation NAME)" in err
    model = nplrp.load(tmp_path / "out.h5")
    with np.load(TORCH / "expected.npz") as expected:
        np.testing.assert_allclose(output(model, torch_input()), expected[key], rtol=1e-5)
    assert model.preprocessing == Preprocessing("torch", "bilinear", True, 73)
    names = [layer.name for layer in model if layer.arrays]
    assert names[0] == "block1_conv1" and names[-3:] == ["fc1", "fc2", "predictions"]


def test_safetensors_give_the_same_model_as_torch_save(tmp_path):
    save_file = pytest.importorskip("safetensors.numpy").save_file
    tensors = {f"module.{name}": np.ascontiguousarray(array) for name, array in read_tensors(TORCH / "vgg11_bn_small.pth").items()}
    save_file(tensors, tmp_path / "vgg.safetensors")
    assert from_pytorch(tmp_path / "vgg.safetensors").content_hash == from_pytorch(TORCH / "vgg11_bn_small.pth").content_hash
    (tmp_path / "cut.safetensors").write_bytes((tmp_path / "vgg.safetensors").read_bytes()[:-100])
    with pytest.raises(WeightsError, match="can't be read as safetensors"):
        from_pytorch(tmp_path / "cut.safetensors")


@pytest.mark.parametrize(("name", "blocks"), [("vgg13", (2, 2, 2, 2, 2)), ("vgg16", (2, 2, 3, 3, 3)), ("vgg19", (2, 2, 4, 4, 4))])
def test_deeper_vggs_and_imagenet(name, blocks):
    rng = np.random.default_rng(0)
    tensors, place = {}, 0
    for count in blocks:
        for _ in range(count):
            tensors |= {f"features.{place}.weight": rng.random((3, 3, 3, 3), "f"), f"features.{place}.bias": rng.random(3, "f")}
            place += 2
        place += 1
    for key, (n, m) in {"0": (4, 3 * 49), "3": (4, 4), "6": (1000, 4)}.items():
        tensors |= {f"classifier.{key}.weight": rng.random((n, m), "f"), f"classifier.{key}.bias": rng.random(n, "f")}
    model = vgg(tensors)
    assert model.name == name and model.input_shape == (224, 224, 3)
    assert model.preprocessing == Preprocessing("torch", "bilinear", True, 256)
    assert model.classes[0] == ("n01440764", "tench")
    # fc1: Keras's row h, w, c is torch's column c, h, w
    np.testing.assert_array_equal(
        model["fc1"].arrays["kernel"].reshape(7, 7, 3, 4)[2, 5, 1], tensors["classifier.0.weight"][:, 1 * 49 + 2 * 7 + 5]
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"features.0.weight": None}, "aren't those of torchvision's"),
        ({"classifier.6.bias": None}, "has no 'classifier.6.bias'"),
        ({"extra.weight": np.ones(3, "f4")}, "no extra.weight"),
        ({"classifier.3.weight": np.ones((8, 10), "i4")}, "type int32"),
        ({"classifier.3.weight": np.ones((8, 9), "f4")}, "fc2"),
        ({"classifier.0.weight": np.ones((10, 18), "f4")}, r"has 18 columns, but the layer before it gives \(1, 1, 6\)"),
    ],
)
def test_other_state_dicts_are_refused(change, message):
    tensors = {**read_tensors(TORCH / "vgg11_small_legacy.pth"), **change}
    with pytest.raises(NplrpError, match=message):
        vgg({name: array for name, array in tensors.items() if array is not None})


class Evil:
    """Pickles to a call that writes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_a_pickle_cannot_run_anything(tmp_path, zipped):
    pickled = pickle.dumps({"features.0.weight": Evil(tmp_path / "touched")})
    path = tmp_path / "evil.pth"
    if zipped:
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("evil/data.pkl", pickled)
    else:
        path.write_bytes(pickled)
    with pytest.raises(WeightsError, match=r"pathlib.*isn't read: it may run code" if zipped else "not one of torch.save's"):
        from_pytorch(path)
    assert not (tmp_path / "touched").exists()


def test_half_precision_is_widened(tmp_path):
    tensors = {name: array.astype("f2") for name, array in read_tensors(TORCH / "vgg11_small_legacy.pth").items()}
    kernel = vgg(tensors)["block1_conv1"].arrays["kernel"]
    assert kernel.dtype == np.float32
    np.testing.assert_array_equal(kernel, tensors["features.0.weight"].transpose(2, 3, 1, 0).astype("f4"))


FUZZ = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
PATCHES = st.lists(st.tuples(st.integers(0, 1 << 20), st.binary(min_size=1, max_size=4)), min_size=1, max_size=5)


def patched(data, patches, cut):
    damaged = bytearray(data)
    for place, block in patches:
        at = place % len(data)
        damaged[at : at + len(block)] = block
    return bytes(damaged[: len(data) - cut % len(data)])


@FUZZ
@given(PATCHES, st.sampled_from([0, 0, 1, 1000, 20000]), st.sampled_from(["vgg11_bn_small.pth", "vgg11_small_legacy.pth"]))
def test_damaged_checkpoints_are_refused_or_read(tmp_path, patches, cut, name):
    path = tmp_path / "damaged.pth"
    path.write_bytes(patched((TORCH / name).read_bytes(), patches, cut))
    try:
        model = from_pytorch(path)
    except NplrpError as error:
        assert str(path) in str(error)
    else:
        assert model.name.startswith("vgg11")


# ONNX


def moments(channels, prefix=""):
    rng = np.random.default_rng(7)
    return {
        f"{prefix}g": numbers(channels, seed=1),
        f"{prefix}h": numbers(channels, seed=2),
        f"{prefix}m": numbers(channels, seed=3),
        f"{prefix}v": rng.uniform(0.5, 2, channels).astype("f4"),
    }


def test_chain_as_pytorch_exports_it(tmp_path):
    nodes = [
        node("Conv", "x w1 b1", "a", "/features/features.0/Conv", pads=[1, 1, 1, 1], kernel_shape=[3, 3]),
        node("Relu", "a", "b", "/features/features.1/Relu"),
        node("MaxPool", "b", "c", "/features/features.2/MaxPool", kernel_shape=[2, 2], strides=[2, 2]),
        node("Conv", "c w2", "d", "/features/features.3/Conv", pads=[1, 2, 1, 2], strides=[2, 1]),
        node("BatchNormalization", "d g h m v", "e", "/features/features.4/BatchNormalization", epsilon=1e-3),
        node("Relu", "e", "f", "/features/features.5/Relu"),
        node("AveragePool", "f", "f1", "/avgpool/AveragePool", kernel_shape=[1, 1]),
        node("Flatten", "f1", "g1", "/Flatten"),
        node("Dropout", "g1", "g2", "/classifier/classifier.0/Dropout"),
        node("Gemm", "g2 w3 b3", "h1", "/classifier/classifier.1/Gemm", transB=1),
        node("Softmax", "h1", "y", "/Softmax", axis=-1),
    ]
    constants = {"w1": numbers(4, 3, 3, 3), "b1": numbers(4), "w2": numbers(5, 4, 3, 3), **moments(5)}
    constants |= {"w3": numbers(6, 5 * 3 * 7) / 9, "b3": numbers(6)}
    path = graph_file(tmp_path / "net.onnx", nodes, constants, ["n", 3, 12, 11])
    model = agrees(path, numbers(2, 3, 12, 11))
    assert [(layer.name, layer.kind, layer.activation) for layer in model] == [
        ("features.0", "conv", "relu"),
        ("features.2", "maxpool", "linear"),
        ("features.3_pad", "pad", "linear"),
        ("features.3", "conv", "linear"),
        ("features.4", "batchnorm", "linear"),
        ("features.5", "activation", "relu"),
        ("Flatten", "flatten", "linear"),
        ("classifier.1", "dense", "softmax"),
    ]
    assert model.name == "net" and model["features.4"].epsilon == pytest.approx(1e-3)


def test_chain_as_tf2onnx_exports_it(tmp_path):
    """Transposes around the convolutions, batch norms folded to multiply and add, a reshape whose target is computed."""
    nodes = [
        node("Transpose", "x", "x1", "functional_1/conv_1/BiasAdd__6", perm=[0, 3, 1, 2]),
        node("Conv", "x1 w1 b1", "a", "functional_1/conv_1/BiasAdd", auto_pad="SAME_UPPER"),
        node("Relu", "a", "b", "functional_1/conv_1/Relu"),
        node("MaxPool", "b", "c", "functional_1/pool_1/MaxPool2d", kernel_shape=[2, 2], strides=[2, 2]),
        node("Transpose", "c", "d", "Transpose__90", perm=[0, 2, 3, 1]),
        node("Shape", "c", "s", "Shape__94"),
        node("Gather", "s order", "s1", "Gather__97"),
        node("Cast", "s1", "s2", "Cast__1", to=6),
        node("Slice", "s2 zero one zero", "s3", "functional_1/flatten_1/strided_slice"),
        node("Concat", "s3 minus", "s4", "functional_1/flatten_1/concat", axis=0),
        node("Cast", "s4", "s5", "Cast__2", to=7),
        node("Reshape", "d s5", "e", "functional_1/flatten_1/Reshape"),
        node("MatMul", "e w2", "f", "functional_1/dense_1/MatMul"),
        node("Add", "f b2", "g", "functional_1/dense_1/BiasAdd"),
        node("Relu", "g", "h", "functional_1/dense_1/Relu"),
        node("Mul", "h scale", "i", "functional_1/batch_normalization_1/batchnorm/mul_1"),
        node("Sub", "i shift", "j", "functional_1/batch_normalization_1/batchnorm/sub_1"),
        node("MatMul", "j w3", "k", "functional_1/dense_1_2/MatMul"),
        node("Softmax", "k", "y", "functional_1/dense_1_2/Softmax"),
    ]
    constants = {"w1": numbers(4, 3, 3, 3), "b1": numbers(4), "w2": numbers(4 * 9, 5) / 6, "b2": numbers(5)}
    constants |= {"scale": numbers(5, seed=4), "shift": numbers(5, seed=5), "w3": numbers(5, 3)}
    constants |= {
        "order": np.array([0, 2, 3, 1]),
        "zero": np.array([0], np.int32),
        "one": np.array([1], np.int32),
        "minus": np.array([-1], np.int32),
    }
    path = graph_file(tmp_path / "net.onnx", nodes, constants, ["n", 6, 7, 3], producer="tf2onnx", opset=13)
    model = agrees(path, numbers(2, 6, 7, 3), channels_last=True)
    assert model.input_shape == (6, 7, 3)
    assert [layer.name for layer in model] == ["conv", "pool", "flatten", "dense", "batch_normalization", "dense_1"]
    norm = model["batch_normalization"]
    np.testing.assert_array_equal(norm.arrays["gamma"], constants["scale"])
    np.testing.assert_array_equal(norm.arrays["beta"], -constants["shift"])
    assert np.all(norm.arrays["variance"] + np.float32(norm.epsilon) == 1) and not norm.arrays["mean"].any()
    assert np.all(norm.arrays["variance"].astype("f8") + norm.epsilon == 1)
    np.testing.assert_array_equal(model["flatten"].output_shape, (36,))


@pytest.mark.parametrize("last", ["Flatten", "Squeeze", "Reshape"])
@pytest.mark.parametrize("kind", ["GlobalAveragePool", "GlobalMaxPool", "ReduceMean", "ReduceMax"])
def test_global_pools(tmp_path, kind, last):
    reduction = {"axes": [2, 3], "keepdims": 1} if kind.startswith("Reduce") else {}
    nodes = [node("Conv", "x w b", "a"), node(kind, "a", "b1", **reduction)]
    nodes += [node(last, "b1" + {"Flatten": "", "Squeeze": " axes", "Reshape": " target"}[last], "c"), node("Gemm", "c k", "y")]
    constants = {"w": numbers(4, 2, 3, 3), "b": numbers(4), "k": numbers(4, 3), "axes": np.array([2, 3]), "target": np.array([0, -1])}
    model = agrees(graph_file(tmp_path / "net.onnx", nodes, constants, [1, 2, 6, 5]), numbers(1, 2, 6, 5))
    assert [layer.kind for layer in model] == ["conv", "global_maxpool" if "Max" in kind else "global_avgpool", "dense"]


def test_reduction_without_the_axes_it_takes_away(tmp_path):
    nodes = [node("Transpose", "x", "a", perm=[0, 3, 1, 2]), node("Conv", "a w", "b"), node("Transpose", "b", "c", perm=[0, 2, 3, 1])]
    nodes += [node("ReduceMean", "c", "d", axes=[1, 2], keepdims=0), node("MatMul", "d k", "y")]
    path = graph_file(tmp_path / "net.onnx", nodes, {"w": numbers(4, 2, 3, 3), "k": numbers(4, 3)}, [1, 6, 5, 2])
    model = agrees(path, numbers(1, 6, 5, 2), channels_last=True)
    assert [layer.name for layer in model] == ["conv2d", "global_average_pooling2d", "dense"]


@pytest.mark.parametrize("kind", ["mul and add", "batch norm", "add twice"])
@pytest.mark.parametrize("place", ["image", "flat"])
def test_scales_before_and_behind_a_flatten_in_channel_order(tmp_path, kind, place):
    """Behind a (C, H, W) flatten every constant is permuted like the dense layer's rows."""
    size = 4 if place == "image" else 4 * 2 * 3
    shape = (1, size, 1, 1) if place == "image" else (size,)
    scale = {
        "mul and add": [node("Mul", "g t0", "t1"), node("Add", "t1 h", "t2")],
        "batch norm": [node("BatchNormalization", "t0 g1 h1 m v", "t2")],
        "add twice": [node("Sub", "t0 g", "t1"), node("Add", "h t1", "t2")],
    }[kind]
    start, end = ("t0", "f0") if place == "image" else ("f0", "f1")
    rename = {"t0": start, "t2": end}
    for one in scale:
        for names in (one.input, one.output):
            for i, name in enumerate(names):
                names[i] = rename.get(name, name)
    flatten = [node("Flatten", "t0", "f0")] if place == "flat" else [node("Flatten", "f0", "f1")]
    nodes = [
        node("Conv", "x w", "z"),
        node("Relu", "z", "t0"),
        *(flatten + scale if place == "flat" else scale + flatten),
        node("Gemm", "f1 k", "y"),
    ]
    values = moments(size)
    constants = {"w": numbers(4, 2, 3, 3), "k": numbers(24, 3), "g1": values["g"], "h1": values["h"], "m": values["m"], "v": values["v"]}
    constants |= {"g": values["g"].reshape(shape), "h": values["h"].reshape(shape)}
    path = graph_file(tmp_path / "net.onnx", nodes, constants, [2, 2, 4, 5])
    model = agrees(path, numbers(2, 2, 4, 5))
    assert sum(layer.kind == "batchnorm" for layer in model) == (2 if kind == "add twice" else 1)


def test_padding_nodes_and_average_pools_that_count_zeros(tmp_path):
    nodes = [
        node("Pad", "x pads", "a"),
        node("Conv", "a w", "b"),
        node("AveragePool", "b", "c", kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1),
        node("AveragePool", "c", "d", kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[1, 1]),
        node("Identity", "d", "y"),
    ]
    constants = {"pads": np.array([0, 0, 1, 2, 0, 0, 0, 3]), "w": numbers(4, 2, 3, 3)}
    model = agrees(graph_file(tmp_path / "net.onnx", nodes, constants, [1, 2, 6, 5]), numbers(1, 2, 6, 5))
    assert [layer.kind for layer in model] == ["pad", "conv", "pad", "avgpool", "avgpool"]
    assert [layer.window.padding for layer in model if layer.kind == "avgpool"] == ["valid", "same"]


def test_weights_in_constant_nodes_and_half_precision(tmp_path):
    kernel = numbers(3, 4).astype("f2")
    nodes = [
        node("Constant", "", "k16", value=numpy_helper.from_array(kernel)),
        node("Cast", "k16", "k32", to=TensorProto.FLOAT),
        node("Transpose", "k32", "k", perm=[1, 0]),
        node("MatMul", "x k", "y"),
    ]
    model = agrees(graph_file(tmp_path / "net.onnx", nodes, {}, [None, 4]), numbers(5, 4))
    np.testing.assert_array_equal(model["dense"].arrays["kernel"], kernel.T.astype("f4"))


def test_open_sides_are_asked_for(tmp_path):
    path = graph_file(tmp_path / "net.onnx", [node("Conv", "x w")], {"w": numbers(4, 2, 3, 3)}, ["n", 2, "h", "w"])
    with pytest.raises(WeightsError, match="--input-size HEIGHT WIDTH"):
        from_onnx(path)
    assert agrees(path, numbers(1, 2, 6, 5), input_size=(6, 5)).output_shape == (4, 3, 4)
    fixed = graph_file(tmp_path / "fixed.onnx", [node("Conv", "x w")], {"w": numbers(4, 2, 3, 3)}, ["n", 2, 6, 5])
    with pytest.raises(WeightsError, match="fixes its input's sides to 6 x 5"):
        from_onnx(fixed, (7, 5))


SIDE = st.integers(1, 3)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    size=st.tuples(st.integers(3, 9), st.integers(3, 9)),
    kernel=st.tuples(SIDE, SIDE),
    stride=st.tuples(SIDE, SIDE),
    dilation=st.tuples(st.integers(1, 2), st.integers(1, 2)),
    pads=st.one_of(st.sampled_from(["SAME_UPPER", "SAME_LOWER", "VALID"]), st.lists(st.integers(0, 2), min_size=4, max_size=4)),
)
@example(size=(6, 6), kernel=(3, 3), stride=(2, 2), dilation=(1, 1), pads=[0, 0, 1, 1])
@example(size=(6, 6), kernel=(3, 3), stride=(2, 2), dilation=(1, 1), pads=[1, 1, 0, 0])
def test_convolutions_of_any_geometry(tmp_path, size, kernel, stride, dilation, pads):
    assume(isinstance(pads, str) or all(n + pads[i] + pads[i + 2] > (kernel[i] - 1) * dilation[i] for i, n in enumerate(size)))
    assume(pads != "VALID" or all(n > (kernel[i] - 1) * dilation[i] for i, n in enumerate(size)))
    assume(pads not in ("SAME_UPPER", "SAME_LOWER") or dilation == (1, 1))  # onnxruntime refuses it
    padding = {"auto_pad": pads} if isinstance(pads, str) else {"pads": pads}
    options = {"kernel_shape": kernel, "strides": stride, "dilations": dilation, **padding}
    path = graph_file(tmp_path / "net.onnx", [node("Conv", "x w", **options)], {"w": numbers(2, 2, *kernel)}, [1, 2, *size])
    agrees(path, numbers(1, 2, *size))


CONV = {"w": numbers(4, 2, 3, 3), "k": numbers(64, 3), "one": numbers(1), "four": numbers(4)}


@pytest.mark.parametrize(
    ("nodes", "message"),
    [
        ([node("LRN", "x", name="s", size=3)], r"node 's' \(LRN\): local response normalisation isn't supported; rebuild the model"),
        ([node("Det", "x", name="s")], r"node 's' \(Det\): this operator isn't supported; rebuild the model without it, or cut the graph"),
        ([node("Conv", "x x")], r"its input 1 must be constant"),
        ([node("Conv", "x w", group=2)], "weights have shape .* with group=2, but its input has 2 channels"),
        ([node("Conv", "x double")], "type float64, expected float32"),
        ([node("MaxPool", "x", "y i", kernel_shape=[2, 2])], "second output, where the maxima were"),
        ([node("MaxPool", "x", kernel_shape=[2, 2], pads=[2, 2, 0, 0])], "some windows of .* lie outside the image"),
        ([node("MaxPool", "x", kernel_shape=[2, 2], dilations=[2, 2])], "dilations"),
        ([node("Conv", "x w", "a"), node("Softmax", "a", axis=0)], "only the one over one axis that isn't the batch's"),
        ([node("Conv", "x w", "a"), node("Flatten", "a", axis=2)], "axis=2"),
        ([node("Conv", "x w", "a"), node("MatMul", "a k")], r"its kernel has shape \(64, 3\), expected \(4, units\)"),
        ([node("Conv", "x w", "a"), node("MatMul", "a a")], "as attention does, which isn't explained yet"),
        ([node("Conv", "x w", "a"), node("Mul", "a five")], "one number for each of the 4 channels"),
        ([node("Conv", "x w", "a"), node("Mul", "a map")], "its constant differs along several axes"),
        ([node("Conv", "x w", "a"), node("Div", "one a")], "divides a constant by what the model computes"),
        ([node("Conv", "x w", "a"), node("Transpose", "a", perm=[1, 0, 2, 3])], "moves the batch axis"),
        ([node("Conv", "x w", "a"), node("Transpose", "a", "b", perm=[0, 2, 3, 1]), node("Conv", "b w")], "its input has 4 channels"),
        ([node("Conv", "x w", "a"), node("Reshape", "a target")], "which doesn't keep the batch axis"),
        ([node("Pad", "x pads one", "a"), node("Conv", "a w")], "only padding with zeros, or with copies"),
        ([node("Pad", "x batchpads", "a"), node("Conv", "a w")], "only height, width and channels may be padded"),
        ([node("Conv", "x w", "a")], "no node gives the graph's output 'y'"),
        ([node("Identity", "x")], "no layers"),
        ([node("Conv", "x w", "a"), node("Flatten", "a", "b"), node("Gemm", "b k", transA=1)], "only transA=0"),
        ([node("Conv", "x missing")], "it reads 'missing', which no node gives"),
        ([node("Conv", "x w", domain="com.microsoft")], "operators of com.microsoft aren't supported"),
        (
            [node("Add", "x b", "a", "n1"), node("Relu", "a", "b", "n2"), node("Conv", "b w")],
            "read each other in a circle .'n.' <- 'n.' <- 'n.'",
        ),
        ([node("Erf", "x", "a"), node("Sqrt", "a", "b", "root"), node("Conv", "b w")], r"node 'root' \(Sqrt\): this operator isn't"),
        ([node("Sqrt", "x", name="root")], r"node 'root' \(Sqrt\): this operator isn't supported"),
        ([node("LSTM", "x w w", name="memory")], r"node 'memory' \(LSTM\): recurrence isn't explained"),
        ([node("Slice", "x zero one zero")], r"it takes 0:0:1 of axis 0, expected some of its places"),
        ([node("Slice", "x zero two three zero")], r"it takes 0:2:0 of axis 3"),
        ([node("Resize", "x - scales", mode="cubic")], "mode='cubic'"),
        ([node("Resize", "x - down", mode="nearest", coordinate_transformation_mode="align_corners")], "align_corners"),
        ([node("Concat", "x four4", axis=1)], "its input 1 .'four4'. is a constant"),
        ([node("Conv", "x w", "a"), node("Flatten", "a", "b"), node("Add", "a b")], "expected as many axes in each"),
        ([node("MaxPool", "x")], "breaks ONNX's own rules"),
    ],
)
def test_anything_else_is_refused_by_name(tmp_path, nodes, message):
    constants = {**CONV, "double": numbers(4, 2, 3, 3).astype("f8"), "four4": numbers(4, 1, 1)}
    constants |= {"five": numbers(5, 1, 1), "map": numbers(4, 4, 4), "zero": np.array([0]), "two": np.array([2]), "three": np.array([3])}
    constants |= {"scales": np.array([1, 1, 2, 2], "f4"), "down": np.array([1, 1, 2.5, 1.5], "f4"), "batchpads": np.array([1, 0, 0, 0] * 2)}
    constants |= {"target": np.array([2, 8, 4]), "pads": np.array([0, 0, 1, 1] * 2), "chpads": np.array([0, 1, 0, 0] * 2)}
    path = graph_file(tmp_path / "net.onnx", nodes, constants, [1, 2, 6, 6])
    with pytest.raises(NplrpError, match=message) as caught:
        from_onnx(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_several_inputs_are_refused_and_outputs_chosen(tmp_path):
    nodes = [node("Conv", "x w", "a"), node("Relu", "a")]
    both = graph_file(tmp_path / "net.onnx", nodes, CONV, [1, 2, 6, 6], outputs=("y", "a"))
    with pytest.raises(WeightsError, match=r"the graph has 2 outputs \(y, a\), expected one: choose it by --output-name NAME"):
        from_onnx(both)
    with pytest.raises(WeightsError, match="the graph has no output 'yy'; it has y, a: did you mean 'y'"):
        from_onnx(both, output="yy")
    assert [from_onnx(both, output=name).layers[-1].activation for name in "ya"] == ["relu", "linear"]
    more = graph_file(tmp_path / "more.onnx", nodes, CONV, [1, 2, 6, 6], extra_inputs=("z",))
    assert len(from_onnx(more).layers) == 1  # nobody reads it
    joined = graph_file(tmp_path / "two.onnx", [*nodes[:1], node("Add", "a z")], CONV, [1, 2, 6, 6], extra_inputs=("z",))
    with pytest.raises(WeightsError, match=r"the graph has 2 inputs \(x, z\), expected one: export a model in which"):
        from_onnx(joined)


@FUZZ
@given(PATCHES, st.sampled_from([0, 0, 0, 1, 100]))
def test_damaged_graphs_are_refused_or_read(tmp_path, patches, cut):
    nodes = [
        node("Conv", "x w", "a", "c", pads=[1, 1, 1, 1]),
        node("Relu", "a", "b"),
        node("Shape", "b", "s"),
        node("Gather", "s zero", "n"),
    ]
    nodes += [node("Concat", "n minus", "t", axis=0), node("Reshape", "b t", "d"), node("Gemm", "d k")]
    constants = {"w": numbers(1, 1, 3, 3), "k": numbers(9, 2), "zero": np.array([0]), "minus": np.array([-1])}
    path = graph_file(tmp_path / "net.onnx", nodes, constants, [1, 1, 3, 3])
    path.write_bytes(patched(path.read_bytes(), patches, cut))
    try:
        from_onnx(path)
    except NplrpError as error:
        assert str(path) in str(error)


def test_layer_with_an_activation_that_keras_has_no_place_for(tmp_path, source):
    model = every_kind()
    layers = [dataclasses.replace(layer, activation="relu") if layer.kind == "batchnorm" else layer for layer in model.layers]
    with pytest.raises(NplrpError, match=r"layer 'norm' \(batchnorm\) applies 'relu' itself"):
        write(dataclasses.replace(model, layers=tuple(layers)), tmp_path / "out.h5", source, "test")
    assert not (tmp_path / "out.h5").exists()
