"""State dicts of torchvision's networks: found by their names, computed as torch computes them, refused in one line if they aren't."""

import dataclasses
import fractions
import json
import pathlib
import zipfile

import numpy as np
import pytest

import nplrp
from nplrp.errors import WeightsError
from nplrp.model import Preprocessing
from tests import torch_files
from weights_tools.__main__ import main
from weights_tools.from_pytorch import from_pytorch, model_of
from weights_tools.safetensors_file import read_safetensors
from weights_tools.torchvision import ROWS, Told

#: One or two of each family; the others differ in numbers of blocks.
COMPUTED = (
    *("resnet18", "resnet50", "resnext50_32x4d", "densenet121", "squeezenet1_0", "squeezenet1_1", "mobilenet_v2"),
    *("mobilenet_v3_small", "mobilenet_v3_large", "googlenet", "inception_v3", "alexnet", "efficientnet_b0", "efficientnet_b5"),
)
#: Of an eighth of the width they look like another one.
LOOKS_LIKE = {"resnext50_32x4d": "resnet50", "wide_resnet50_2": "resnet50", "efficientnet_b2": "efficientnet_b1"}


def logits(model, x):
    """What a model gives before its softmax, in float64."""
    last = dataclasses.replace(model.layers[-1], activation="linear")
    bare = dataclasses.replace(model, layers=(*model.layers[:-1], last))
    return list(nplrp.forward(bare, x, "float64").values())[-1][0]


@pytest.mark.parametrize("name", COMPUTED)
def test_networks_compute_what_torch_computes(name, tmp_path):
    record = torch_files.recorded()[name]
    x = torch_files.image(record["side"], name)
    path = torch_files.save(tmp_path / "net.pth", torch_files.state_dict(name))
    model = from_pytorch(path, name, x.shape[1:3])
    assert model.name == name and model.layers[-1].activation == "softmax"
    assert model.preprocessing.mode == "torch" and model.preprocessing.crop
    found = logits(model, x)
    np.testing.assert_allclose(found, record["logits"], rtol=0, atol=1e-11 * np.abs(record["logits"]).max())


def test_written_network_is_read_back_with_its_padded_pools(tmp_path, capsys):
    path = torch_files.save(tmp_path / "net.pth", torch_files.state_dict("resnet18"))
    arguments = ["from-pytorch", str(path), str(tmp_path / "out.h5"), "--input-size", "64", "72"]
    assert main(arguments) == 0
    said = [
        "resnet18: input 64 x 72 (another: --input-size)",
        "resnet18: softmax assumed behind its 5 outputs (another: --last-activation NAME)",
    ]
    assert capsys.readouterr().err.splitlines() == [f"weights_tools: {line}" for line in said]
    made, found = from_pytorch(path, input_size=(64, 72)), nplrp.load(tmp_path / "out.h5")
    assert [layer.describe() for layer in found] == [layer.describe() for layer in made]
    assert found.content_hash == made.content_hash
    assert found["maxpool"].window.padding == (1, 1, 1, 1)
    assert found.preprocessing == Preprocessing("torch", "bilinear", True, 64 * 256 // 224)
    x = torch_files.image(64, "resnet18")
    explanation = nplrp.explain(found, x, "epsilon_plus")
    assert np.isfinite(explanation.relevance).all() and explanation.relevance.any()


@pytest.mark.parametrize("name", list(torch_files.recorded()))
def test_networks_are_found_by_their_names(name):
    model = model_of(torch_files.state_dict(name))
    assert model.name == LOOKS_LIKE.get(name, name)
    row = ROWS[model.name]
    assert model.input_shape == (row.side, row.side, 3) and model.output_shape == (5,)
    assert model.preprocessing == Preprocessing("torch", row.resample, True, row.resize_to)


def test_widths_tell_networks_of_the_same_names_apart():
    for name, mark in (("resnext50_32x4d", (128, 4, 3, 3)), ("wide_resnet50_2", (128, 128, 3, 3)), ("resnet50", (64, 64, 3, 3))):
        rows = [row.name for row in ROWS.values() if row.marks == {"layer1.0.conv2.weight": mark} and "101" not in row.name]
        assert rows == [name]
    # groups come from the shapes: 128 / 8 channels in 32 / 8 groups
    model = model_of(torch_files.state_dict("resnext50_32x4d"))
    assert model["layer1.0.conv2"].options == {"groups": 4}


# Wrappers


def small():
    return torch_files.state_dict("squeezenet1_1")


@pytest.mark.parametrize(
    "wrap",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3, "best": 0.5},
        lambda tensors: {"model": tensors, "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]}},
        lambda tensors: {"net": {"state_dict": tensors}},
        lambda tensors: {"ema": tensors, "epoch": 3},
        lambda tensors: {
            "state_dict": tensors,
            "hyper_parameters": pathlib.PurePosixPath("data"),
            "callbacks": {"a": fractions.Fraction(1, 2)},
        },
        lambda tensors: {f"encoder.net.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {f"module.{name}": tensor for name, tensor in tensors.items()},
        lambda tensors: {"model_state_dict": {f"module._orig_mod.net.{name}": tensor for name, tensor in tensors.items()}},
        lambda tensors: dict(reversed(tensors.items())),
    ],
)
def test_wrappers_are_taken_off(tmp_path, wrap):
    plain, wrapped = torch_files.save(tmp_path / "a.pth", small()), torch_files.save(tmp_path / "b.pth", small(), wrap)
    assert from_pytorch(wrapped).content_hash == from_pytorch(plain).content_hash


def test_precisions_and_old_names(tmp_path, caplog):
    halves = {name: array.astype("f2") for name, array in small().items()}
    widened = {name: array.astype("f4") for name, array in halves.items()}
    double = {name: array.astype("f8") for name, array in widened.items()}
    model = model_of(widened)
    assert from_pytorch(torch_files.save(tmp_path / "h.pth", halves)).content_hash == model.content_hash
    assert "rounded" not in caplog.text
    with caplog.at_level("INFO"):
        assert from_pytorch(torch_files.save(tmp_path / "d.pth", double)).content_hash == model.content_hash
    assert "weights are float64 (features.0.weight), and are rounded to float32" in caplog.text
    dense = torch_files.state_dict("densenet121")
    old = {name.replace("norm1.", "norm.1.").replace("conv2.", "conv.2."): array for name, array in dense.items()}
    assert model_of(old).content_hash == model_of(dense).content_hash


def test_transform_input_and_auxiliary_heads_are_said(caplog):
    tensors = torch_files.state_dict("googlenet")
    with caplog.at_level("INFO"):
        model = model_of(tensors)
    assert "transform_input is on, as with torchvision's own weights (the other: --no-transform-input)" in caplog.text
    assert "auxiliary heads (aux1., aux2.) are for training only, and are left out" in caplog.text
    without = model_of({name: array for name, array in tensors.items() if not name.startswith("aux")}, transform_input=False)
    assert [layer.name for layer in model][1:] == [layer.name for layer in without] and model.layers[0].kind == "affine"
    x = np.random.default_rng(0).normal(size=(1, 224, 224, 3))
    changed = x * [0.229 / 0.5, 0.224 / 0.5, 0.225 / 0.5] + [(0.485 - 0.5) / 0.5, (0.456 - 0.5) / 0.5, (0.406 - 0.5) / 0.5]
    np.testing.assert_allclose(logits(model, x), logits(without, changed), rtol=1e-12)


# Other heads


def vgg_tensors(head):
    """A VGG11 for images of 64 x 64, its last image 2 x 2 x 6, with a head of [(name, outputs, inputs)]."""
    shapes, before = {}, 3
    for place, width in zip((0, 3, 6, 8, 11, 13, 16, 18), (2, 3, 4, 4, 5, 5, 6, 6), strict=True):
        shapes |= {f"features.{place}.weight": (width, before, 3, 3), f"features.{place}.bias": (width,)}
        before = width
    for name, outputs, inputs in head:
        shapes |= {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}
    return {name: torch_files.values(name, shape) for name, shape in shapes.items()}


def by_hand(model, tensors, head, x, behind):
    """What a head gives, from the model's last image on; `behind` holds what is done to each layer's output."""
    image = nplrp.forward(model, x, "float64")["block5_pool"][0]
    a = image.transpose(2, 0, 1).reshape(-1) if tensors[f"{head[0][0]}.weight"].shape[1] > 6 else image.mean((0, 1))
    for (name, _, _), change in zip(head, behind, strict=True):
        a = change(tensors[f"{name}.weight"].astype(float) @ a + tensors[f"{name}.bias"])
    return a


def relu(z):
    return np.maximum(z, 0)


@pytest.mark.parametrize(
    ("head", "behind", "said"),
    [
        ([("classifier", 5, 24)], [np.array], {}),
        (
            [("classifier.0", 8, 24), ("classifier.3", 7, 8), ("classifier.6.0", 6, 7), ("classifier.6.3", 5, 6)],
            [relu] * 3 + [np.array],
            {},
        ),
        ([("classifier.2", 8, 24), ("classifier.3", 5, 8)], [np.array] * 2, {}),
        ([("classifier.fc1", 8, 24), ("classifier.fc2", 5, 8)], [relu, np.array], {}),
        ([("classifier.0", 8, 24), ("classifier.2", 5, 8)], [np.tanh, np.array], {"head_activation": "tanh"}),
        ([("head.0", 8, 24), ("head.2", 5, 8)], [np.array, np.array], {"head_activation": "linear"}),
        ([("classifier.0", 8, 6), ("classifier.9", 4, 8), ("classifier.10", 3, 4)], [relu, np.array, np.array], {"head": "avg"}),
    ],
)
def test_heads_of_any_dense_layers(caplog, head, behind, said):
    tensors = vgg_tensors(head)
    with caplog.at_level("INFO"):
        model = model_of(tensors, input_size=(64, 64), told=Told(**said))
    x = torch_files.image(64, "alexnet")
    np.testing.assert_allclose(logits(model, x), by_hand(model, tensors, head, x, behind), rtol=1e-10)
    assert f"its head is made of {', '.join(repr(name) for name, _, _ in head)}" in caplog.text
    assert ("relu assumed between them (another: --head-activation NAME)" in caplog.text) == (relu in behind)


def test_a_head_beside_a_prefixed_network_and_a_single_output(caplog):
    tensors = {f"backbone.{name}": array for name, array in torch_files.state_dict("resnet18").items() if not name.startswith("fc.")}
    width = torch_files.state_dict("resnet18")["fc.weight"].shape[1]
    tensors |= {"head.1.weight": torch_files.values("w", (4, width)), "head.1.bias": np.ones(4, "f4")}
    tensors |= {
        f"head.2.{name}": array
        for name, array in zip(("weight", "bias", "running_mean", "running_var"), np.ones((4, 4), "f4"), strict=True)
    }
    tensors |= {
        "head.2.num_batches_tracked": np.array(3),
        "head.4.weight": torch_files.values("v", (1, 4)),
        "head.4.bias": np.ones(1, "f4"),
    }
    with caplog.at_level("INFO"):
        model = model_of(tensors)
    assert [(layer.name, layer.kind) for layer in model][-5:] == [
        ("head.1", "dense"),
        ("head.2", "batchnorm"),
        ("head.2.activation", "activation"),
        ("head.4", "dense"),
        ("sigmoid", "activation"),
    ]
    assert "sigmoid assumed behind its 1 outputs" in caplog.text
    assert model_of(tensors, told=Told(last_activation="linear")).layers[-1].name == "head.4"


def test_a_head_that_reads_one_number_for_each_channel_is_said(caplog):
    tensors = vgg_tensors([("classifier.0", 8, 6), ("classifier.3", 8, 8), ("classifier.6", 5, 8)])
    with caplog.at_level("INFO"):
        assert model_of(tensors).input_shape == (32, 32, 3)
    assert "if it stands behind a mean over the pixels of larger images: --head avg" in caplog.text
    assert model_of(tensors, told=Told("max")).input_shape == (224, 224, 3)
    with pytest.raises(WeightsError, match="--head avg is for VGGs"):
        model_of(torch_files.state_dict("resnet18"), "resnet18", told=Told("avg"))


def test_safetensors_of_every_precision(tmp_path):
    tensors = vgg_tensors([("classifier", 5, 24)])
    halves = {name: (array.view("<u4") >> 16).astype("<u2") for name, array in tensors.items()}
    exact = {name: (array.astype("<u4") << 16).view("<f4") for name, array in halves.items()}
    for kind, stored in (("BF16", halves), ("F32", exact), ("F64", {name: array.astype("f8") for name, array in exact.items()})):
        header, data = {"__metadata__": {"format": "pt"}}, b""
        for name, array in stored.items():
            header[name] = {"dtype": kind, "shape": array.shape, "data_offsets": [len(data), len(data) + array.nbytes]}
            data += array.tobytes()
        text = json.dumps(header).encode()
        path = tmp_path / f"{kind}.safetensors"
        path.write_bytes(len(text).to_bytes(8, "little") + text + data)
        found = read_safetensors(path)
        assert list(found) == list(tensors)
        assert all((found[name] == exact[name]).all() for name in exact)
    assert from_pytorch(tmp_path / "BF16.safetensors").output_shape == (5,)
    path.write_bytes(path.read_bytes().replace(b"F64", b"F8_", 1))
    with pytest.raises(WeightsError, match="has type F8_, known are F16"):
        read_safetensors(path)


def test_whole_models_are_named(tmp_path):
    for wrap in (lambda tensors: fractions.Fraction(1, 2), lambda tensors: {"model": fractions.Fraction(1, 2), "epoch": 1}):
        path = torch_files.save(tmp_path / "whole.pth", small(), wrap)
        with pytest.raises(
            WeightsError, match=r"it holds a whole fractions\.Fraction instead of weights, which isn't read: it may run code"
        ):
            from_pytorch(path)


# Refused


@pytest.mark.parametrize(
    ("change", "arguments", "message"),
    [
        ({}, {"architecture": "resnet-19"}, "no architecture 'resnet-19': did you mean resnet1"),
        ({}, {"architecture": "resnet34"}, "read as torchvision's resnet34, but the state dict has no 'layer1.2.conv1.weight'"),
        ({}, {"transform_input": True}, "that has no transform_input, which is GoogLeNet's"),
        (
            {"fc.weight": None, "head.fc.weight": np.ones((5, 64), "f4")},
            {},
            r"no 'fc.weight' \(there is 'head.fc.weight', of shape \(5, 64\)",
        ),
        ({"fc.extra": np.ones(3, "f4")}, {}, "looks like torchvision's resnet18, but that has no fc.extra"),
        ({"layer1.0.conv1.weight": np.ones((8, 9, 3, 3), "f4")}, {}, r"layer1.0.conv1.weight has shape \(8, 9, 3, 3\)"),
        ({"layer2.1.bn2.bias": np.ones(7, "f4")}, {}, r"layer 'layer2.1.bn2': its beta has shape \(7,\), expected \(16,\)"),
        (
            {"conv1.weight": np.ones((8, 147), "f4")},
            {},
            r"looks like torchvision's resnet18, but 'conv1.weight' has shape \(8, 147\), expected 4 axes",
        ),
        ({"conv1.weight": np.ones((8, 3, 7, 7), "i4")}, {}, "type int32, expected floats"),
        ({"layer1.1.conv1.weight": None}, {"input_size": (20, 20)}, "no 'layer1.1.conv1.weight'"),
    ],
)
def test_other_state_dicts_are_refused_in_one_line(change, arguments, message):
    tensors = {**torch_files.state_dict("resnet18"), **change}
    with pytest.raises(WeightsError, match=message) as caught:
        model_of({name: array for name, array in tensors.items() if array is not None}, **arguments)
    assert "\n" not in str(caught.value)


def test_unknown_networks_and_checkpoints_name_the_way_out(tmp_path):
    with pytest.raises(WeightsError, match=r"aren't those of torchvision's vgg11, .*; export other networks to ONNX and use from-onnx"):
        model_of({"blocks.0.attn.qkv.weight": np.ones((3, 3), "f4")})
    path = torch_files.save(tmp_path / "net.pth", small(), lambda tensors: {"epoch": 3, "parts": [tensors]})
    with pytest.raises(WeightsError, match="expected a state dict, names with tensors, found a dict of 'epoch', 'parts'"):
        from_pytorch(path)
    path = torch_files.save(tmp_path / "net.pth", small(), lambda tensors: {"student": tensors, "teacher": tensors})
    with pytest.raises(WeightsError, match="it holds 2 state dicts, under 'student', 'teacher'; save the one that is meant"):
        from_pytorch(path)


def test_truncated_and_incomplete_archives_are_refused(tmp_path):
    path = torch_files.save(tmp_path / "net.pth", small())
    whole = path.read_bytes()
    for size in (10, len(whole) // 2, len(whole) - 30):
        path.write_bytes(whole[:size])
        with pytest.raises(WeightsError, match="can't be read as a PyTorch checkpoint") as caught:
            from_pytorch(path)
        assert "\n" not in str(caught.value)
    path.write_bytes(whole)
    with zipfile.ZipFile(path) as source, zipfile.ZipFile(tmp_path / "less.pth", "w") as target:
        for entry in source.namelist()[:-2]:
            target.writestr(entry, source.read(entry))
    with pytest.raises(WeightsError, match="no item named"):
        from_pytorch(tmp_path / "less.pth")
