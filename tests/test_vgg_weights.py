"""Weights of VGG16 and VGG19 without a configuration: every reading that fits, what selects one, and what is said of an assumption."""

import h5py
import numpy as np
import pytest

import nplrp
from nplrp.errors import WeightsError
from nplrp.files.weights import load
from tests.keras_files import vgg, write_by_name
from tests.test_cli import run


def own(side=1, dense=(6, 3), weightless=(), **more):
    """A VGG16 whose dense layers have names of their own, and perhaps layers without weights that say how they are reached."""
    layers = vgg(side=side, head=(), **more)
    rng, before = np.random.default_rng(4), layers[-1][1][0].shape[3] * side * side
    for i, width in enumerate(dense):
        layers.append((f"dense_{i}", [rng.random((before, width), "f"), rng.random(width, "f")]))
        before = width
    return [*layers[:13], *((name, []) for name in weightless), *layers[13:]]


def by_number(path, layers, inside=""):
    """Keras 3's layout: groups by class and number, without names; convolutions perhaps in a model inside."""
    with h5py.File(path, "w") as file:
        counts = {"conv2d": 0, "dense": 0}
        for name, arrays in layers:
            kind = ("conv2d" if arrays[0].ndim == 4 else "dense") if arrays else name
            number = counts.get(kind, 0)
            counts[kind] = number + 1
            place = f"layers/{inside if kind == 'conv2d' else ''}{kind}{f'_{number}' if number else ''}/vars"
            group = file.require_group(place)
            for i, array in enumerate(arrays):
                group[str(i)] = array
    return path


@pytest.mark.parametrize("write", [write_by_name, by_number])
def test_several_readings_are_listed_with_the_options_that_select_them(tmp_path, write):
    path = write(tmp_path / "w.h5", own())
    with pytest.raises(WeightsError) as caught:
        load(path)
    message = str(caught.value)
    for part in (
        "4 rows behind 4 channels",
        "--head flatten: flatten (all pixels) of 32 x 32 to 63 x 63 images",
        "--head avg",
        "--head max",
    ):
        assert part in message
    assert "\n" not in message and "load(path, head=..., input_size=...)" in message
    kinds = {head: load(path, head=head).layers[18].kind for head in ("flatten", "avg", "max")}
    assert kinds == {"flatten": "flatten", "avg": "global_avgpool", "max": "global_maxpool"}
    assert load(path, head="avg").input_shape == (224, 224, 3)
    assert load(path, head="avg", input_size=(40, 50)).input_shape == (40, 50, 3)
    assert load(path, architecture="VGG-16", head="flatten").input_shape == (32, 32, 3)


@pytest.mark.parametrize("write", [write_by_name, by_number])
@pytest.mark.parametrize(
    ("name", "kind", "size"),
    [("flatten", "flatten", 32), ("global_average_pooling2d", "global_avgpool", 224), ("global_max_pooling2d", "global_maxpool", 224)],
)
def test_layers_without_weights_tell_the_head(tmp_path, caplog, write, name, kind, size):
    with caplog.at_level("INFO"):
        model = load(write(tmp_path / "w.h5", own(weightless=("dropout", name if write is by_number else f"{name}_7"))))
    assert (model.layers[18].kind, model.input_shape) == (kind, (size, size, 3))
    assert f"images of {size} x {size}" in caplog.text and "--input-size HxW" in caplog.text
    assert "softmax at the end (another: --last-activation NAME)" in caplog.text


@pytest.mark.parametrize("dense", [(3,), (5, 1), (9, 8, 7, 6)])
def test_any_number_of_dense_layers(tmp_path, caplog, dense):
    path = write_by_name(tmp_path / "w.h5", own(3, dense))
    with caplog.at_level("INFO"):
        model = load(path)
    assert model.input_shape == (96, 96, 3) and "sizes up to 127 x 127 fit as well" in caplog.text
    activations = [layer.activation for layer in model if layer.kind == "dense"]
    assert activations == ["relu"] * (len(dense) - 1) + ["sigmoid" if dense[-1] == 1 else "softmax"]
    assert load(path, last_activation="linear", input_size=(100, 127)).layers[-1].activation == "linear"
    caplog.clear()
    assert load(path, last_activation="tanh", input_size=(100, 127)).input_shape == (100, 127, 3)
    assert "assumed" not in caplog.text


def test_oblong_images_are_chosen_from_what_fits(tmp_path):
    layers = own(1)
    layers[13] = ("dense_0", [np.ones((4 * 6, 6), "f"), np.ones(6, "f")])
    path = write_by_name(tmp_path / "w.h5", layers)
    with pytest.raises(WeightsError, match=r"--head flatten --input-size 64x96: flatten \(all pixels\) of 64 x 96 to 95 x 127 images"):
        load(path)
    assert load(path, input_size=(64, 100)).input_shape == (64, 100, 3)
    with pytest.raises(WeightsError, match="doesn't fit --input-size 64x64; what fits is --head flatten --input-size 32x192"):
        load(path, input_size=(64, 64))


def test_a_model_inside_is_unpacked(tmp_path):
    """Sequential([VGG16(include_top=False), Flatten(), Dense(...), ...]), by name and by number."""
    layers = own(2)
    path = tmp_path / "n.h5"
    with h5py.File(path, "w") as file:
        file.attrs["layer_names"] = ["vgg16", "flatten", "dense_0", "dense_1"]
        inner = file.create_group("vgg16")
        inner.attrs["weight_names"] = [f"{name}/{part}:0" for name, _ in layers[:13] for part in ("kernel", "bias")]
        file.create_group("flatten").attrs["weight_names"] = np.zeros(0)
        for name, arrays in layers[13:]:
            file.create_group(name).attrs["weight_names"] = [f"{name}/kernel:0", f"{name}/bias:0"]
            for part, array in zip(("kernel", "bias"), arrays, strict=True):
                file[name][f"{name}/{part}:0"] = array
        for name, arrays in layers[:13]:
            for part, array in zip(("kernel", "bias"), arrays, strict=True):
                inner[f"{name}/{part}:0"] = array
    flat = load(write_by_name(tmp_path / "w.h5", layers))
    assert load(path).content_hash == flat.content_hash
    assert load(by_number(tmp_path / "i.h5", layers, "functional/layers/")).content_hash == flat.content_hash


def test_official_names_with_a_head_of_224_are_read_silently(tmp_path, caplog):
    with caplog.at_level("INFO"):
        assert load(write_by_name(tmp_path / "w.h5", vgg(side=7)), preprocessing="caffe").input_shape == (224, 224, 3)
    assert not caplog.records
    with caplog.at_level("INFO"):
        load(write_by_name(tmp_path / "v.h5", vgg(side=4)))
    assert "images of 128 x 128 (sizes up to 159 x 159 fit as well" in caplog.text and "last" not in caplog.text


def test_without_dense_layers_the_head_may_be_a_pool(tmp_path, caplog):
    path = write_by_name(tmp_path / "w.h5", vgg(head=()))
    with caplog.at_level("INFO"):
        assert load(path).layers[-1].name == "block5_pool"
    assert "no head; assumed are images of 224 x 224" in caplog.text
    assert load(path, head="avg", input_size=(64, 64)).output_shape == (4,)


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"head": "gap"}, "there is no head 'gap', expected one of flatten, avg, max"),
        ({"head": "flatten", "last_activation": "sofmax"}, "--last-activation: there is no activation 'sofmax'; did you mean 'softmax'"),
        ({"head": "flatten", "input_size": (31, 64)}, "31 x 64 is too small for vgg16, expected at least 32 x 32"),
        ({"head": "flatten", "input_size": (64, 64)}, "doesn't fit --head flatten and --input-size 64x64"),
        ({"architecture": "vgg19"}, "aren't those of VGG19"),
        ({"architecture": "resnet50", "head": "avg"}, "--head is for VGG16 and VGG19 only"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, said, words):
    with pytest.raises(WeightsError) as caught:
        load(write_by_name(tmp_path / "w.h5", own()), **said)
    assert words in str(caught.value) and "\n" not in str(caught.value)


def test_a_layer_that_contradicts_is_named(tmp_path):
    with pytest.raises(WeightsError, match="doesn't fit its layer 'global_average_pooling2d'; what fits is --head flatten"):
        load(write_by_name(tmp_path / "w.h5", own(2, weightless=("global_average_pooling2d",))))


def test_options_are_refused_where_a_configuration_says_it(tmp_path):
    from tests.keras_files import FILES

    with pytest.raises(WeightsError, match="--head and --last-activation can't be given: the file's own configuration says"):
        load(FILES / "keras2_nested.h5", head="avg", last_activation="softmax")
    with pytest.raises(WeightsError, match="so it can't be 99 x 99; leave the input size out"):
        load(FILES / "keras2_nested.h5", input_size=(99, 99))


def test_the_command_line_has_the_options(tmp_path, capsys):
    path = write_by_name(tmp_path / "w.h5", own())
    code, out, err = run(
        capsys, "info", path, "--head", "avg", "--input-size", "64x96", "--last-activation", "sigmoid", "--preprocessing", "tf"
    )
    assert (code, err) == (0, "") and "(64, 96, 3)" in out and "dense + sigmoid" in out
    code, out, err = run(capsys, "info", path)
    assert (code, out) == (2, "") and err.count("\n") == 1 and "--head avg" in err


def test_a_typo_in_a_layers_name_suggests_the_nearest(tmp_path):
    model = nplrp.load(write_by_name(tmp_path / "w.h5", vgg(side=7)))
    with pytest.raises(nplrp.NplrpError, match=r"no layer 'block5_cnv3'; did you mean 'block5_conv"):
        model["block5_cnv3"]
    with pytest.raises(nplrp.NplrpError, match="no layer '9'; there are 22, such as block1_conv1"):
        model["9"]
