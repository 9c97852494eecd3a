"""Bad graphs end in one line, soon: of `build`'s layers, of Keras's configurations, and of inputs; and configurations damaged at random."""

import copy
import json
import math
import random
import time
from dataclasses import replace

import numpy as np
import pytest

import nplrp
from nplrp.cli import main
from nplrp.errors import ModelError, NplrpError, WeightsError
from nplrp.files.keras_config import parse
from nplrp.fused import by_page
from nplrp.layers.joins import multiply
from nplrp.model import Layer, Window, build
from nplrp.plan import make_plan
from tests import zoo
from tests.keras_files import functional
from tests.networks import dense, images, plain, random_kernel

RELU = {"max_value": None, "negative_slope": 0.0, "threshold": 0.0}


def layer(name, kind, *inputs, **more):
    """A layer without arrays that reads others."""
    return Layer(name, kind, inputs=inputs, **more)


def head(channels=3):
    """A global pool and two units."""
    return [plain("pool", "global_avgpool"), dense("out", random_kernel(np.random.default_rng(0), channels, 2), np.zeros(2), "linear")]


def refused(make, *words, kind=ModelError):
    """See that it is refused in one line that says all of it."""
    with pytest.raises(kind) as caught:
        make()
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 1000
    for word in words:
        assert word in message, message


@pytest.mark.parametrize(
    ("layers", "words"),
    [
        ([layer("a", "identity", "b"), layer("b", "identity", "a")], ["'a' reads layer 'b'", "reads it in turn"]),
        ([layer("a", "add", "input", "a")], ["'a' reads layer 'a'"]),
        ([layer("a", "identity", "gone")], ["'gone', which isn't there"]),
        ([layer("a", "identity"), layer("b", "identity", "input")], ["'a' lies beside the way", "leave it out"]),
        ([layer("a", "add", "input")], ["'a' (add) has 1 input, expected 2 or more"]),
        ([layer("a", "subtract", *["input"] * 3)], ["has 3 inputs, expected 2"]),
        ([layer("a", "maximum", *["input"] * 65537)], ["has 65537 inputs, expected at most 65536"]),
        (
            [layer("p", "maxpool", window=Window((2, 2), (2, 2))), layer("a", "add", "input", "p")],
            ["'input' (8, 8, 3), 'p' (4, 4, 3)", "equal"],
        ),
        ([layer("a", "concatenate", "input", "input", options={"axis": 3})], ["axis 3", "expected 0 to 2"]),
        ([layer("a", "concatenate", "input", "input", options={"axis": "x"})], ["axis 'x'", "expected 0 to 2"]),
        ([layer("a", "reshape", options={"shape": "xy"})], ["'a' (reshape)", "its window, options or arrays"]),
        ([layer("a", "conv", window=Window((3, 3)))], ["'a' (conv)", "kernel"]),
        ([Layer(None, "identity")], ["no layer with a name"]),
        ([], ["no layers"]),
        ([layer(str(i), "identity") for i in range(20_001)], ["20001 layers", "at most 20000"]),
    ],
)
def test_layers_that_make_no_graph(layers, words):
    refused(lambda: build((8, 8, 3), layers), *words)


@pytest.mark.parametrize("shape", [(), 8, (8.5, 8, 3), ("8", 8, 3), (8, 8, 0), (1 << 20, 1 << 20, 3)])
def test_a_models_input_has_whole_sides(shape):
    refused(lambda: build(shape, head()), "the model's input has shape", "expected (H, W, C)")


def test_a_join_of_more_numbers_than_fit_is_refused():
    refused(lambda: build((1000, 1000, 3), [layer("a", "add", *["input"] * 1000)]), "'a' (add) joins 1000 inputs of shape (1000, 1000, 3)")


@pytest.mark.parametrize("dialect", [2, 3])
@pytest.mark.parametrize(
    ("config", "words"),
    [
        (
            lambda d: functional({"a": ("Add", {}, [["x"] * 70_000])}, ["a"], dialect=d),
            ["'a' (add) has 70000 inputs, expected at most 65536"],
        ),
        (
            lambda d: functional({f"r{i}": ("ReLU", RELU, [f"r{i - 1}" if i else "x"]) for i in range(20_001)}, ["r9"], dialect=d),
            ["20002 layers"],
        ),
        (
            lambda d: functional({f"r{i}": ("ReLU", RELU, [f"r{(i - 1) % 999}"]) for i in range(999)}, ["r0"], dialect=d),
            ["in a circle", "..."],
        ),
        (
            lambda d: functional({"a": ("Conv2D", {"filters": [[1] * 999] * 99}, ["x"])}, ["a"], dialect=d),
            ["'a' (class Conv2D)", "damaged"],
        ),
    ],
)
def test_configurations_that_are_too_much(dialect, config, words):
    given, start = config(dialect), time.perf_counter()
    refused(lambda: parse(given), *words, kind=WeightsError)
    assert time.perf_counter() - start < 60


def test_an_input_that_is_listed_twice():
    config = functional({"a": ("ReLU", RELU, ["x"])}, ["a"], inputs=("x",))
    config["config"]["input_layers"] *= 2
    refused(lambda: parse(config), "lists its input 'x' twice", kind=WeightsError)


def test_long_graphs_and_wide_joins_are_explained():
    rng = np.random.default_rng(1)
    long = build((4, 4, 3), [*(plain(f"r{i}", "activation", "relu") for i in range(1500)), *head()])
    assert nplrp.explain(long, np.abs(images(1, 1, (4, 4, 3))), "epsilon").relevance.any()
    wide = build((4, 4, 3), [layer("join", "maximum", *["input"] * 3000), *head()])
    e = nplrp.explain(wide, rng.normal(size=(1, 4, 4, 3)), "epsilon")
    assert np.isfinite(e.relevance).all()


def test_a_product_of_many_holds_what_the_others_give():
    a = np.random.default_rng(2).normal(size=(2, 5, 3))
    z, others = multiply(None, a)
    np.testing.assert_allclose(z, a.prod(axis=1), rtol=1e-14)
    for k in range(5):
        np.testing.assert_allclose(others[:, k], np.delete(a, k, axis=1).prod(axis=1), rtol=1e-14)
    z, others = multiply(None, np.array([[[0.0], [3.0], [2.0]]]))  # nothing is divided by
    assert (z.tolist(), others.tolist()) == ([[0.0]], [[[6.0], [0.0], [0.0]]])


def test_what_overflows_is_named_without_a_warning():
    model = build((2, 2, 3), [layer("join", "multiply", *["input"] * 200), *head()])
    refused(lambda: nplrp.explain(model, np.full((1, 2, 2, 3), 10.0)), "'join'", "inf", kind=NplrpError)


@pytest.mark.parametrize(
    ("x", "words"),
    [
        (np.zeros((8, 6, 3)), ["shape (8, 6, 3)", "x[None]"]),
        (np.zeros((2, 3, 8, 6)), ["shape (2, 3, 8, 6)", "np.moveaxis(x, 1, -1)"]),
        (np.zeros((2, 6, 8, 3)), ["shape (2, 6, 8, 3)", "takes (n, 8, 6, 3)"]),
        (np.zeros((2, 8, 6, 3), bool), ["dtype bool"]),
        ([[1], [1, 2]], ["different lengths"]),
        (np.full((1, 8, 6, 3), 1e300), ["inf at image 0"]),
    ],
)
def test_inputs_that_do_not_fit(x, words):
    refused(lambda: nplrp.explain(build((8, 6, 3), head()), x), *words, kind=NplrpError)


def test_an_output_that_is_an_image_has_no_class():
    model, x = build((4, 4, 3), [plain("relu", "activation", "relu")]), images(3, 1, (4, 4, 3))
    refused(lambda: nplrp.explain(model, x, "epsilon", start="one"), "(4, 4, 3)", "start='all'")
    refused(lambda: nplrp.explain(model, x, "epsilon", 1, start="all"), "(4, 4, 3)", "position (row, column, channel)")
    e = nplrp.explain(model, x, "epsilon", start="all")
    assert e.relevance.shape == x.shape
    refused(e.labels, "(4, 4, 3)", "no classes")


def test_no_images_have_an_empty_ledger():
    assert len(nplrp.explain(build((4, 4, 3), head()), np.zeros((0, 4, 4, 3)), "epsilon").ledger.end) == 0


def test_a_printed_plan_tells_inputs_and_what_is_left_to_the_page():
    plan = make_plan(
        build((4, 4, 3), [layer("norm", "layernorm", options={"axes": [2]}), layer("sum", "add", "input", "norm"), *head()]), "epsilon"
    )
    rows = str(plan).splitlines()[2:]
    assert any(by_page(plan))
    for row, step, page in zip(rows, plan.steps, by_page(plan), strict=False):
        assert row.startswith(step.name)
        assert row.endswith("(page)") == page
    assert "input, norm" in rows[1]
    assert rows[-1].startswith("(page): ")


def test_the_command_line_chooses_an_output(tmp_path, capsys):
    path = str(zoo.write(zoo.network("keras3/outputs_two"), tmp_path, "keras"))
    assert main(["info", path]) == 2
    assert "--output-layer kind" in capsys.readouterr().err
    assert main(["info", path, "--output-layer", "size", "--json"]) == 0
    layers = json.loads(capsys.readouterr().out)["layers"]
    assert layers[-1]["name"] == "size"
    assert layers[0]["inputs"] == ["input"]
    assert main(["info", path, "--output-layer", "sise"]) == 2
    assert "did you mean 'size'?" in capsys.readouterr().err
    assert main(["plan", path, "--architecture", "resnet50", "--config", "x.json"]) == 2
    assert "exclude each other" in capsys.readouterr().err


@pytest.mark.parametrize("suffix", [".h5", ".npz"])
def test_layers_with_slashes_in_their_names_are_saved(tmp_path, suffix):
    from nplrp.files.save import save

    model = build((4, 4, 3), [plain("a", "activation", "relu"), plain("a/b", "identity"), *head()])
    save(nplrp.explain(model, images(1, 1, (4, 4, 3)), "epsilon"), tmp_path / f"e{suffix}", layers=True)
    if suffix == ".npz":
        assert np.load(tmp_path / "e.npz")["relevances/a/b"].shape == (1, 4, 4, 3)
    else:
        import h5py

        with h5py.File(tmp_path / "e.h5") as file:
            assert set(file["relevances"]) == {"input", "a", "a%2Fb", "pool", "out"}


# Damage at random


JUNK = (None, True, 0, -1, 3, 10**30, 1e308, math.nan, math.inf, "", "x", "same", [], {}, [None], [2, 2], [[[[1]]]], ["x", 0, 0],
        {"class_name": "__tuple__", "items": [1, 2]}, {"class_name": "__keras_tensor__"})  # fmt: skip


def places(tree):
    """Yield (container, key) of everything in nested lists and dicts."""
    waiting = [tree]
    while waiting:
        each = waiting.pop()
        for key, value in list(each.items() if isinstance(each, dict) else enumerate(each)):
            yield each, key
            if isinstance(value, dict | list):
                waiting.append(value)


def damage(config, rng):
    """Do one thing to a configuration: drop, replace, exchange, repeat or wrap a value, or change a number."""
    found = list(places(config))
    (one, i), (other, j) = rng.choice(found), rng.choice(found)
    strings = [(each, key) for each, key in found if isinstance(each[key], str)]
    numbers = [(each, key) for each, key in found if type(each[key]) in (int, float)]
    how = rng.randrange(6)
    if how == 0:
        del one[i]
    elif how == 1:
        one[i] = copy.deepcopy(rng.choice(JUNK))
    elif how == 2:
        (one, i), (other, j) = rng.choice(strings), rng.choice(strings)
        one[i], other[j] = other[j], one[i]
    elif how == 3:
        one[i] = copy.deepcopy(other[j])
    elif how == 4:
        one[i] = [one[i]]
    else:
        one, i = rng.choice(numbers)
        one[i] = rng.choice((one[i] + 1, one[i] - 1, -one[i], one[i] * 1000))


def test_damaged_configurations_are_read_or_refused():
    """What is read is a model that can be built; everything else is a line, and nothing takes long."""
    rng, names, seen = random.Random(11), zoo.names(group="everyday"), {"built": 0, "refused": 0}
    for number in range(400):
        network = zoo.network(rng.choice(names))
        config = copy.deepcopy(network.config(rng.choice(sorted(network.record["configs"]))))
        damage(config, rng)
        start = time.perf_counter()
        try:
            found = parse(config, None, rng.choice((None, network.record["version"])))
            if sum(math.prod(shape) for each in found.layers for shape in each.variables.values()) < 1e6:
                zeros = [(each, {key: np.zeros(shape, "f") for key, shape in each.variables.items()}) for each in found.layers]
                build(found.input_shape, [replace(each.layer, arrays=each.arrays(z)) if z else each.layer for each, z in zeros])
                seen["built"] += 1
        except NplrpError as error:
            seen["refused"] += 1
            assert "\n" not in str(error), (number, network.name)
            assert len(str(error)) < 1500, (number, network.name)
        assert time.perf_counter() - start < 30, (number, network.name)
    assert min(seen.values()) > 50, seen
