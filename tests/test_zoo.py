"""The zoo: its rule by hand, its files in every layout; and the engine on all its networks: right numbers or a refusal."""

import json
import zipfile

import h5py
import numpy as np
import pytest

import nplrp
from tests import laws, zoo

GROUPS = [(group, dialect) for group in ("everyday", "applications") for dialect in ("keras2", "keras3")]
#: How many networks of a group the engine loads, at least. It only grows.
LOADED = {("everyday", "keras2"): 145, ("everyday", "keras3"): 161, ("applications", "keras2"): 19, ("applications", "keras3"): 16}


def test_the_rule_by_hand():
    # The first raw word of PCG64 seeded with (crc32("residual_add"), 0), as NumPy has documented the stream of its bit generators.
    word = int(np.random.PCG64(np.random.SeedSequence([0x9B374865, 0])).random_raw())
    assert word == 15713728962473013768
    network = zoo.network("keras3/residual_add")
    _, _, _, rule, centre, spread = network.record["variables"][0]
    assert (rule, centre) == ("uniform", 0)
    assert network.weights()[0].ravel()[0] == np.float32(spread * ((word >> 40) / 2**23 - 1))


def test_rules():
    both = zoo.values("a", 1, [1000], "float32", "both signs", 1.0, 0.5)
    assert 0.5 <= np.abs(both).min() < 0.51 and 1.49 < np.abs(both).max() <= 1.5
    assert 400 < (both < 0).sum() < 600
    assert zoo.values("a", 1, [], "int64", "constant", 3.0) == 3
    whole = zoo.values("a", 1, [4], "uint32", "whole")
    assert whole.dtype == np.uint32 and len(set(whole.tolist())) == 4
    with pytest.raises(ValueError, match="normal"):
        zoo.values("a", 1, [4], "float32", "normal")


def test_there_are_networks_of_every_group():
    for group, dialect in GROUPS:
        assert len(zoo.names(dialect, group)) >= (16 if group == "applications" else 140)
    assert len(set(zoo.names())) == len(zoo.names())
    assert "keras2/residual_add" in zoo.names(chain=False, without=("Multiply",), feature="Add")


@pytest.mark.parametrize(("group", "dialect"), GROUPS)
def test_files_hold_every_variable(group, dialect, tmp_path):
    for network in zoo.networks(dialect=dialect, group=group):
        weights = network.weights()
        for array in weights:
            assert np.isfinite(array).all()
        if "h5" in network.layouts:
            with h5py.File(zoo.write(network, tmp_path, "h5", weights)) as file:
                assert json.loads(file.attrs["model_config"]) == network.config("h5")
                layers = file["model_weights"]
                found = [layers[name][place][()] for name in layers.attrs["layer_names"] for place in layers[name].attrs["weight_names"]]
            assert held(found, weights), network.name
        path = zoo.write(network, tmp_path, "weights.h5", weights)
        assert json.loads(path.with_name(f"{network.title}.json").read_text()) == network.config("json")
        assert held(datasets(path), weights), network.name
        with zipfile.ZipFile(zoo.write(network, tmp_path, "keras", weights)) as archive:
            assert json.loads(archive.read("config.json")) == network.config("keras")
            assert archive.read("model.weights.h5")[:8] == b"\x89HDF\r\n\x1a\n"


def datasets(path):
    found = []
    with h5py.File(path) as file:
        file.visititems(lambda _, item: found.append(item[()]) if isinstance(item, h5py.Dataset) else None)
    return found


def held(found, weights):
    """Whether two lists of arrays hold the same, in whatever order; shared layers may be there twice."""
    return {array.tobytes() for array in found} == {array.tobytes() for array in weights}


@pytest.mark.parametrize(("group", "dialect"), GROUPS)
def test_the_engine_is_right_or_refuses(group, dialect, tmp_path):
    loaded = 0
    for network in zoo.networks(dialect=dialect, group=group):
        for layout in {"h5", "keras"} & set(network.layouts):
            path = zoo.write(network, tmp_path, layout)
            try:
                model = nplrp.load(path)
                y = nplrp.forward(model, network.inputs(), dtype="float64")
            except nplrp.NplrpError as error:
                assert "\n" not in str(error)
                continue
            loaded += layout == "keras"
            (expected,) = network.outputs().values()
            got = list(y.values())[-1]
            assert got.shape == expected.shape, network.name
            assert np.abs(got - expected).max() <= 1e-9 * np.abs(expected).max(), (network.name, layout)
    assert loaded >= LOADED[group, dialect]


#: Every kind of join, of gate and of branch, and what is queued around them.
BRANCHED = (
    *(
        "residual_projection",
        "residual_preactivation",
        "add_broadcast",
        "maximum_join",
        "subtract_join",
        "concatenate_pools",
        "gate_spatial",
    ),
    *("inverted_residual", "inception_residual", "convnext_block", "shuffle", "unet", "pyramid", "shared_conv", "operations"),
    *("pieces", "places", "blocks", "softmax_reshaped", "sigmoid_flattened"),
)


@pytest.mark.parametrize("name", [*(f"keras3/{name}" for name in BRANCHED), "keras2/operations_tf"])
def test_the_fused_pass_is_the_page_and_has_the_same_bits_anywhere(name, tmp_path):
    network = zoo.network(name)
    model, x = nplrp.load(zoo.write(network, tmp_path)), np.concatenate([network.inputs()[:1], 0.7 * network.inputs()[:1]])
    start = "all" if len(model.output_shape) != 1 else "logit"
    for composite in ("epsilon_plus", "gamma"):
        laws.any_threads(model, x.astype(np.float32), composite, start=start)
        laws.batch_is_singles(model, x.astype(np.float32), composite, start=start)
        laws.fused_is_the_page(model, x, composite)
