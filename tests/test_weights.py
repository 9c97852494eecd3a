"""Every layout that Keras writes gives the same model, mapped from the file and not read."""

import json
import mmap
import pickle
import sys
import zipfile
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

import nplrp.model
from nplrp.errors import WeightsError
from nplrp.files.weights import imagenet_classes, load
from nplrp.model import Preprocessing, chain
from nplrp.outputs import forward
from tests.keras_files import FILES, LAYOUTS, sequential, vgg, write_by_name

VGG16 = [f"block{b}_{part}" for b, n in enumerate((2, 2, 3, 3, 3), 1) for part in (*(f"conv{i}" for i in range(1, n + 1)), "pool")]
HEAD = ["flatten", "fc1", "fc2", "predictions"]


@pytest.fixture(autouse=True)
def _own_cache(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def is_mapped(array):
    while isinstance(array, np.ndarray):
        array = array.base
    return isinstance(array, memoryview) and isinstance(array.obj, mmap.mmap)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_layers(name):
    model = load(FILES / name)
    assert [layer.name for layer in model] == VGG16 + HEAD
    assert (model.input_shape, model.output_shape, model["block5_pool"].output_shape) == ((32, 32, 3), (10,), (1, 1, 64))
    assert [layer.activation for layer in model if layer.kind == "dense"] == ["relu", "relu", "softmax"]
    assert {layer.activation for layer in model if layer.kind == "conv"} == {"relu"}
    assert model.preprocessing == Preprocessing("caffe", "nearest")
    assert model.classes is None
    with h5py.File(FILES / "small32_official_names.h5") as file:
        for layer in model:
            for key, letter in (("kernel", "W"), ("bias", "b")):
                if layer.arrays:
                    np.testing.assert_array_equal(layer.arrays[key], file[f"{layer.name}/{layer.name}_{letter}_1:0"])


def test_seven_layouts_have_one_content_hash():
    assert len(LAYOUTS) == 7
    assert len({load(FILES / name).content_hash for name in LAYOUTS}) == 1


@pytest.mark.parametrize("name", [*LAYOUTS, "keras3_tiny.weights.json"])
def test_arrays_are_mapped_float32_and_read_only(name):
    arrays = [array for layer in load(FILES / name) for array in layer.arrays.values()]
    assert len(arrays) == 32
    assert all(is_mapped(array) and array.dtype == np.float32 and not array.flags.writeable for array in arrays)
    assert h5py.h5f.get_obj_count(h5py.h5f.OBJ_ALL, h5py.h5f.OBJ_FILE | h5py.h5f.OBJ_GROUP | h5py.h5f.OBJ_DATASET) == 0


@pytest.mark.parametrize(("blocks", "name"), [((2, 2, 3, 3, 3), "vgg16"), ((2, 2, 4, 4, 4), "vgg19")])
def test_official_size_loads_without_reading(tmp_path, blocks, name):
    """The full-size official files, as sparse files of zeros: 553 and 575 MB."""
    before, layers = 3, []
    for block, (depth, width) in enumerate(zip(blocks, (64, 128, 256, 512, 512), strict=True), 1):
        for i in range(1, depth + 1):
            layers.append((f"block{block}_conv{i}", (3, 3, before, width)))
            before = width
    layers += [("fc1", (25088, 4096)), ("fc2", (4096, 4096)), ("predictions", (4096, 1000))]
    path = tmp_path / "full.h5"
    early = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    early.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    early.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = [layer for layer, _ in layers]
        for layer, shape in layers:
            group = file.create_group(layer)
            group.attrs["weight_names"] = [f"{layer}_W_1:0", f"{layer}_b_1:0"]
            for letter, size in (("W", shape), ("b", shape[-1:])):
                h5py.h5d.create(group.id, f"{layer}_{letter}_1:0".encode(), h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(size), early)
    assert path.stat().st_size > 550e6
    before_load = resident()
    model = load(path)
    assert resident() - before_load < 20e6
    assert (model.name, model.input_shape, model.output_shape) == (name, (224, 224, 3), (1000,))
    assert sum(layer.parameters for layer in model) == {"vgg16": 138_357_544, "vgg19": 143_667_240}[name]
    assert model.classes[0] == ("n01440764", "tench")


def resident():
    """Bytes of this process that are in memory, 0 where the system doesn't tell."""
    if not sys.platform.startswith("linux"):
        return 0
    return int(Path("/proc/self/statm").read_text().split()[1]) * mmap.PAGESIZE


@pytest.mark.parametrize("kind", ["compiled", "nested"])
@pytest.mark.parametrize("file", ["keras2_{}.h5", "keras2_{}.keras", "keras3_{}.h5", "keras3_{}.keras"])
def test_real_keras_files_compute_what_keras_computed(file, kind):
    expected = np.load(FILES / f"keras2_{kind}.npz")
    model = load(FILES / file.format(kind))
    output = forward(model, expected["x"], dtype="float64")[model.layers[-1].name]
    np.testing.assert_allclose(output, expected["y"], rtol=0, atol=1e-6)


def test_keras_2_and_3_agree_on_the_hash():
    for kind in ("compiled", "nested"):
        files = (f"keras{version}_{kind}.{ending}" for version in (2, 3) for ending in ("h5", "keras"))
        assert len({load(FILES / file).content_hash for file in files}) == 1


def test_optimizer_slots_are_passed_over():
    with h5py.File(FILES / "keras2_compiled.h5") as file:
        assert "optimizer_weights" in file
    assert [layer.name for layer in load(FILES / "keras2_compiled.h5") if layer.arrays] == ["c1", "batch_normalization", "dense"]


def test_models_inside_models_are_one_chain_and_twins_keep_apart():
    model = load(FILES / "keras3_nested.h5")
    assert [layer.name for layer in model] == ["inner/c1", "bn", "c2", "global_max_pooling2d", "flatten_1", "c1"]
    assert model["global_max_pooling2d"].output_shape == (1, 1, 4)
    assert sorted(model["bn"].arrays) == ["gamma", "mean", "variance"]


def test_twins_two_models_deep_keep_apart(tmp_path):
    """Variables of all layers lie in the outermost model's group, told apart by their paths alone."""
    dense = {"class_name": "Dense", "config": {"name": "d", "units": 3, "activation": "linear", "use_bias": False}}
    inner = [{"class_name": "Sequential", "config": {"name": name, "layers": [dense]}} for name in ("a", "b")]
    config = sequential(shape=(3,))
    config["config"]["layers"].append({"class_name": "Sequential", "config": {"name": "middle", "layers": inner}})
    kernels = [np.full((3, 3), value, "f4") for value in (1, 2)]
    path = write_by_name(tmp_path / "w.h5", [("middle", kernels)], ("a/d/kernel:0", "b/d/kernel:0"), "model_weights", config)
    assert [(layer.name, layer.arrays["kernel"][0, 0]) for layer in load(path)] == [("a/d", 1), ("b/d", 2)]


def test_names_with_slashes_in_a_model_inside(tmp_path):
    """Keras 2's DenseNet has layers called conv1/conv; here one called conv beside."""
    names = ("conv", "conv1/conv", "2/conv1/conv")
    layers = [{"class_name": "Dense", "config": {"name": name, "units": 3, "activation": "linear", "use_bias": False}} for name in names]
    config = sequential(shape=(3,))
    config["config"]["layers"].append({"class_name": "Sequential", "config": {"name": "inner", "layers": layers}})
    kernels = [np.full((3, 3), value, "f4") for value in range(3)]
    path = write_by_name(tmp_path / "w.h5", [("inner", kernels)], [f"{name}/kernel:0" for name in names], "model_weights", config)
    with h5py.File(path, "r+") as file:  # no name of the model before those of its layers
        group = file["model_weights/inner"]
        for name in ("conv", "conv1", "2"):
            group.move(f"inner/{name}", name)
        group.attrs["weight_names"] = [f"{name}/kernel:0" for name in names]
    assert [(layer.name, layer.arrays["kernel"][0, 0]) for layer in load(path)] == list(zip(names, range(3), strict=True))


def test_shards_are_one_model():
    assert load(FILES / "keras3_tiny.weights.json").content_hash == load(FILES / "keras3_tiny.keras").content_hash


def test_weights_without_configuration_tell_size_and_width(tmp_path):
    model = load(write_by_name(tmp_path / "w.h5", vgg(widths=(3, 1, 4, 2, 5), side=3, channels=1, classes=7)))
    assert (model.name, model.input_shape, model.output_shape) == ("vgg16", (96, 96, 1), (7,))
    assert [layer.output_shape[-1] for layer in model if layer.kind == "maxpool"] == [3, 1, 4, 2, 5]


def test_vgg19_and_the_notebooks_own_name(tmp_path):
    model = load(write_by_name(tmp_path / "w.h5", vgg((2, 2, 4, 4, 4), head=("fc1", "fc2", "fc_out"))))
    assert (model.name, len(model.layers), model.layers[-1].name, model.layers[-1].activation) == ("vgg19", 25, "fc_out", "softmax")


def test_without_the_head_the_model_ends_at_the_last_pool(tmp_path):
    model = load(write_by_name(tmp_path / "notop.h5", vgg(head=())))
    assert (model.layers[-1].name, model.input_shape, model.output_shape) == ("block5_pool", (224, 224, 3), (7, 7, 4))


def test_layers_of_other_names_are_known_by_order(tmp_path):
    """In the file's order; its names stay."""
    layers = [(f"conv2d_{i + 40}" if arrays[0].ndim == 4 else f"dense_{i}", arrays) for i, (_, arrays) in enumerate(vgg())]
    model = load(write_by_name(tmp_path / "w.h5", [("input_1", []), *layers]), head="flatten")
    assert [layer.name for layer in model if layer.arrays] == [name for name, _ in layers]
    assert model.content_hash == load(write_by_name(tmp_path / "v.h5", vgg())).content_hash


@pytest.mark.parametrize(
    "text",
    [
        lambda names: [name.encode() for name in names],
        lambda names: np.array([name.encode() for name in names]),
        lambda names: np.array(names, dtype=h5py.string_dtype("ascii")),
    ],
)
def test_attributes_may_be_bytes_fixed_or_variable(tmp_path, text):
    assert (
        load(write_by_name(tmp_path / "w.h5", vgg(), text=text)).content_hash == load(write_by_name(tmp_path / "v.h5", vgg())).content_hash
    )


def test_split_attributes_are_joined(tmp_path):
    path = write_by_name(tmp_path / "w.h5", vgg())
    expected = load(path).content_hash
    with h5py.File(path, "a") as file:
        names = file.attrs["layer_names"]
        del file.attrs["layer_names"]
        for i in range(3):
            file.attrs[f"layer_names{i}"] = names[6 * i : 6 * i + 6]
    assert load(path).content_hash == expected


@pytest.mark.parametrize(
    "options",
    [{"dtype": ">f4"}, {"dtype": "<f8"}, {"dtype": ">f8"}, {"chunks": True}, {"compression": "gzip", "shuffle": True}],
    ids=["big-endian", "double", "big-endian double", "chunked", "gzip"],
)
def test_other_storage_is_read_and_converted(tmp_path, options):
    path = write_by_name(tmp_path / "w.h5", vgg(), **options)
    assert load(path).content_hash == load(write_by_name(tmp_path / "v.h5", vgg())).content_hash
    kernel = load(path)["fc1"].arrays["kernel"]
    assert not is_mapped(kernel)
    assert not kernel.flags.writeable


def test_half_precision_is_widened(tmp_path):
    model = load(write_by_name(tmp_path / "w.h5", vgg(), dtype="f2"))
    kernel = dict(vgg())["fc1"][0]
    np.testing.assert_array_equal(model["fc1"].arrays["kernel"], kernel.astype("f2").astype("f4"))


def test_bfloat16_is_widened(tmp_path):
    """HDF5 has no name for it: h5py writes two plain bytes, the upper half of a float32."""
    layers = vgg()
    halves = [(name, [(array.view("u4") >> 16).astype("u2").view("V2") for array in arrays]) for name, arrays in layers]
    kernel = load(write_by_name(tmp_path / "w.h5", halves))["fc1"].arrays["kernel"]
    np.testing.assert_array_equal(kernel, (dict(layers)["fc1"][0].view("u4") & 0xFFFF0000).view("f4"))
    assert not kernel.flags.writeable


def test_a_class_of_ones_own_is_named(tmp_path):
    """Its arrays lie where its code has laid them; the archive's configuration tells whose they are."""
    with zipfile.ZipFile(tmp_path / "m.keras", "w") as archive:
        archive.writestr("config.json", json.dumps({"class_name": "Mine", "config": {}}))
        with h5py.File(tmp_path / "w.h5", "w") as file:
            file["conv/vars/0"] = np.ones(3, "f4")
        archive.write(tmp_path / "w.h5", "model.weights.h5")
    with pytest.raises(WeightsError, match="the model is of class Mine, expected one of Sequential, Functional, Model"):
        load(tmp_path / "m.keras")


def test_newer_file_format_and_user_block(tmp_path):
    with (
        h5py.File(FILES / "small32_k2_model_save.h5") as old,
        h5py.File(tmp_path / "w.h5", "w", libver="latest", userblock_size=1024) as new,
    ):
        new.attrs.update(old.attrs)
        old.copy("model_weights", new)
    model = load(tmp_path / "w.h5")
    assert model.content_hash == load(FILES / "small32_k2_model_save.h5").content_hash
    assert is_mapped(model["fc1"].arrays["kernel"])


@pytest.mark.parametrize("shift", range(4))
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_archives_stored_at_any_offset_or_compressed(tmp_path, method, shift):
    path = tmp_path / "m.keras"
    with zipfile.ZipFile(FILES / "keras3_nested.keras") as old, zipfile.ZipFile(path, "w", method) as new:
        new.writestr("pad", b"x" * shift)
        for name in old.namelist():
            new.writestr(name, old.read(name))
    model = load(path)
    assert model.content_hash == load(FILES / "keras3_nested.keras").content_hash
    assert is_mapped(model["c1"].arrays["kernel"]) == (method == zipfile.ZIP_STORED)


def dense_file(path, attributes=None, units=3):
    config = sequential(("Dense", {"units": units, "activation": "softmax", "use_bias": True}), shape=(4,))
    arrays = [np.ones((4, units), "f4"), np.zeros(units, "f4")]
    return write_by_name(path, [("layer0", arrays)], within="model_weights", config=config, attributes=attributes)


def test_preprocessing_and_classes_come_with_the_file(tmp_path):
    attributes = {
        "nplrp_preprocessing": json.dumps({"mode": "torch", "resample": "bilinear", "crop": True, "resize_to": 256}),
        "nplrp_classes": json.dumps([["a", "Ant"], ["b", "Bee"], ["c", "Cat"]]),
    }
    model = load(dense_file(tmp_path / "w.h5", attributes))
    assert model.preprocessing == Preprocessing("torch", "bilinear", True, 256)
    assert model.classes == (("a", "Ant"), ("b", "Bee"), ("c", "Cat"))
    assert load(dense_file(tmp_path / "v.h5", units=1000)).classes == imagenet_classes()


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("nplrp_preprocessing", '["caffe"]'),
        ("nplrp_preprocessing", '{"mode": 3}'),
        ("nplrp_preprocessing", '{"mood": "caffe"}'),
        ("nplrp_preprocessing", "{"),
        ("nplrp_classes", '[["a", "Ant"]]'),
        ("nplrp_classes", '["a", "b", "c"]'),
        ("nplrp_classes", '[["a", 1], ["b", 2], ["c", 3]]'),
        ("nplrp_classes", '{"0": ["a", "Ant"]}'),
    ],
)
def test_wrong_preprocessing_or_classes_are_refused(tmp_path, attribute, value):
    with pytest.raises(WeightsError, match=attribute):
        load(dense_file(tmp_path / "w.h5", {attribute: value}))


def test_content_hash_sees_every_weight_and_option(tmp_path):
    layers = vgg()
    first = load(write_by_name(tmp_path / "w.h5", layers))
    layers[-1][1][1][2] += 1
    assert load(write_by_name(tmp_path / "v.h5", layers)).content_hash != first.content_hash
    head = replace(first.layers[-1], activation="linear")
    assert chain(first.input_shape, [*first.layers[:-1], head]).content_hash != first.content_hash


def test_content_hash_is_kept_by_path_size_and_time(tmp_path, monkeypatch):
    path = write_by_name(tmp_path / "w.h5", vgg())
    first = load(path).content_hash
    computed = []
    original = nplrp.model.content_hash
    monkeypatch.setattr(nplrp.model, "content_hash", lambda model: computed.append(1) or original(model))
    assert load(path).content_hash == first
    assert not computed
    layers = vgg()
    layers[0][1][0][...] = 0.5
    assert load(write_by_name(path, layers)).content_hash != first
    assert computed


def test_a_changed_model_does_not_inherit_the_hash(tmp_path):
    model = load(write_by_name(tmp_path / "w.h5", vgg()))
    head = replace(model.layers[-1], activation="linear")
    assert model.content_hash != replace(model, layers=(*model.layers[:-1], head)).content_hash


@pytest.mark.parametrize("damage", [b"\xff damaged", b"abc", b"z" * 64, b""])
def test_a_hash_cache_that_fails_is_passed_over(tmp_path, monkeypatch, damage):
    path = write_by_name(tmp_path / "w.h5", vgg())
    expected = load(path).content_hash
    for entry in (tmp_path / "cache/nplrp/hashes").iterdir():
        entry.write_bytes(damage)
    assert load(path).content_hash == expected
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "file"))
    assert load(path).content_hash == expected


def test_models_pickle():
    model = load(FILES / "keras3_nested.keras")
    again = pickle.loads(pickle.dumps(model))
    assert (str(again), again.content_hash, again.input_shape) == (str(model), model.content_hash, model.input_shape)


@pytest.mark.parametrize("layout", ["h5", "weights.h5"])
def test_a_layer_in_a_spectral_norm(tmp_path, layout):
    """What the norm divided by is in the kernel that is stored; its own vector, and its copy of the kernel, are for training."""
    kernel, bias, vector = (np.random.default_rng(1).normal(size=shape).astype("f4") for shape in ((3, 2), (2,), (1, 2)))
    dense = {"class_name": "Dense", "config": {"name": "dense", "units": 2, "activation": "linear", "use_bias": True}}
    config = sequential(("SpectralNormalization", {"name": "norm", "power_iterations": 1, "layer": dense}), shape=(3,))
    path = tmp_path / f"net.{layout}"
    with h5py.File(path, "w") as file:
        if layout == "h5":
            file.attrs["model_config"] = json.dumps(config)
            file["model_weights/norm/norm/dense/kernel"], file["model_weights/norm/norm/dense/bias"] = kernel, bias
            file["model_weights/norm/norm/vector_u"] = vector
            file["model_weights"].attrs["layer_names"] = [b"norm"]
            file["model_weights/norm"].attrs["weight_names"] = [b"norm/dense/kernel", b"norm/dense/bias", b"norm/vector_u"]
        else:
            within = file.create_group("layers/spectral_normalization")
            within["layer/vars/0"], within["layer/vars/1"], within["vars/0"], within["vars/1"] = kernel, bias, kernel, vector
    (tmp_path / "net.json").write_text(json.dumps(config))
    x = np.random.default_rng(2).normal(size=(4, 3))
    model = load(path) if layout == "h5" else load(path, config=tmp_path / "net.json")
    np.testing.assert_allclose(list(forward(model, x, "float64").values())[-1], x @ kernel.astype("f8") + bias, rtol=1e-12)
