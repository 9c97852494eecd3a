"""evaluate, what it finds, and the command, on models of many kinds."""

import json
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp.cli import main
from nplrp.errors import NplrpError
from nplrp.evaluate import METRICS, EvaluationError, evaluate, metric_named, pixel_flipping, plot, scores_of, sparseness
from nplrp.evaluate.predicting import Once
from nplrp.evaluate.table import listing
from nplrp.model import Preprocessing, chain
from tests.networks import conv, dense, images, plain, pool, random_kernel, small_resnet, small_vgg
from weights_tools.write_hdf5 import write

FAST = ["deletion", "insertion", "region_perturbation(order=lerf)", "sparseness", "complexity", "completeness"]


def grey(last="softmax", units=3):
    rng = np.random.default_rng(0)
    layers = [
        conv("conv", random_kernel(rng, 3, 3, 1, 3), rng.normal(size=3)),
        pool("pool"),
        plain("flatten", "flatten"),
        dense("out", random_kernel(rng, 48, units), rng.normal(size=units), last),
    ]
    return chain((8, 8, 1), layers, "grey", preprocessing=Preprocessing("unit"))


def vectors():
    rng = np.random.default_rng(1)
    layers = [dense("fc", random_kernel(rng, 6, 5), rng.normal(size=5)), dense("out", random_kernel(rng, 5, 3), None, "linear")]
    return chain((6,), layers, "vectors")


def pictures_out():
    rng = np.random.default_rng(2)
    layers = [conv("one", random_kernel(rng, 3, 3, 3, 4)), conv("two", random_kernel(rng, 3, 3, 4, 2), activation="linear")]
    return chain((4, 4, 3), layers, "pictures", preprocessing=Preprocessing("tf"))


def odd_channels():
    rng = np.random.default_rng(3)
    layers = [
        conv("one", random_kernel(rng, 3, 3, 5, 4)),
        pool("gap", "global_avgpool"),
        dense("out", random_kernel(rng, 4, 2), None, "softmax"),
    ]
    return chain((6, 4, 5), layers, "five channels")


def inputs(model, n=3, seed=0):
    """Return inputs in the range that the model's preprocessing gives."""
    low, high = {"unit": (0, 1), "tf": (-1, 1)}.get(model.preprocessing.mode, (-3, 3))
    return np.random.default_rng(seed).uniform(low, high, (n, *model.input_shape))


MODELS = {
    "colour": small_vgg(),
    "graph": small_resnet(),
    "grey": grey(),
    "one sigmoid unit": grey("sigmoid", 1),
    "several sigmoids": grey("sigmoid", 3),
    "logits": grey("linear", 3),
    "a value": grey("linear", 1),
    "vectors": vectors(),
    "pictures": pictures_out(),
    "five channels": odd_channels(),
}


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("evaluate")
    write(small_vgg(size=16), folder / "w.h5", __file__, "tests", force=True)
    rng = np.random.default_rng(0)
    for i, shape in enumerate([(16, 16, 3), (30, 20, 3), (9, 40)]):
        Image.fromarray(rng.integers(0, 255, shape, np.uint8)).save(folder / f"{i}.png")
    np.save(folder / "x.npy", images(0, 2, (16, 16, 3)))
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_any_model(name):
    model = MODELS[name]
    x = inputs(model)
    start = {"start": "all"} if name == "pictures" else {}
    metrics = [
        each.replace("baseline=auto", "") if len(model.input_shape) > 1 else each for each in (*FAST, "mprt", "max_sensitivity(samples=2)")
    ]
    found = evaluate(model, x, ["epsilon", "gradient"], metrics, **start)
    data = json.loads(json.dumps(found.as_json(), allow_nan=False))
    assert [row["image"] for row in data["images"]] == ["image 0", "image 1", "image 2"]
    for composite in found.composites:
        for metric in found.metrics:
            outcome = found[composite, metric.name]
            assert outcome.values.shape == (3,)
            if metric.row.steps and metric.name != "mprt":
                assert np.isfinite(outcome.curve).all()
    lines = str(found).splitlines()
    assert len(lines) >= len(metrics) + 2
    assert "± " in lines[1]


@pytest.mark.parametrize("features", ["pixels", "values"])
def test_numbers_are_those_of_the_functions(features):
    model, x = MODELS["colour"], images(3, 2, (8, 8, 3))
    found = evaluate(model, x, "zplus", "pixel_flipping(order=lerf,baseline=mean,step=7),sparseness", features=features, score="logit")
    e = nplrp.explain(model, x, "zplus")
    maps = e.relevance.sum(axis=-1) if features == "pixels" else e.relevance
    curves = pixel_flipping(lambda x: scores_of(model, x, "logit"), e.x, maps, e.targets, order="lerf", baseline="mean", step=7)
    outcome = found["zplus", "pixel_flipping(order=lerf,baseline=mean,step=7)"]
    assert np.array_equal(outcome.curve, curves.scores)
    assert np.array_equal(outcome.values, curves.auc)
    assert np.array_equal(found["zplus", "sparseness"].values, sparseness(maps))
    assert np.array_equal(found.targets, e.targets)


def test_no_number_depends_on_company():
    model, x = MODELS["colour"], images(4, 10, (8, 8, 3))
    metrics = [*FAST, "faithfulness_correlation(runs=5)", "local_lipschitz(samples=2)", "mprt", "pixel_flipping(order=random)"]
    whole = evaluate(model, x, ["zplus", "epsilon"], metrics, seed=2)
    for i in (0, 9):
        alone = evaluate(model, x[i : i + 1], "epsilon", metrics, seed=2)
        for metric in metrics:
            assert np.array_equal(alone["epsilon", metric].values[0], whole["epsilon", metric].values[i], equal_nan=True), metric


def test_equal_inputs_are_computed_once():
    model, x = MODELS["colour"], images(5, 2, (8, 8, 3))
    one = evaluate(model, x, "zplus", "faithfulness_correlation(runs=20)").about["inputs_computed"]
    three = evaluate(model, x, "zplus,epsilon,gamma", "faithfulness_correlation(runs=20)").about
    assert one == three["inputs_computed"] == 2 * 21
    assert three["inputs_asked"] == 2 + 3 * 2 * 21
    both = evaluate(model, x, "zplus", ["deletion(step=1)", "pixel_flipping(step=1)"]).about
    assert both["inputs_computed"] == 2 * 65 - 1  # the black picture at their ends is one


def test_once_forgets_the_oldest():
    once = Once(lambda x: x * 2.0, size=3 * 8)
    assert once(np.arange(4.0)[:, None]).ravel().tolist() == [0, 2, 4, 6]
    once(np.array([[3.0], [0.0], [0.0]]))
    assert (once.asked, once.computed) == (7, 5)  # 1, 2 and 3 are known, 0 has gone


def test_equal_inputs_at_other_places_are_not_equal():
    seen = []

    def function(x, places):
        seen.append(places.tolist())
        return x * 10 + places[:, None]

    once = Once(function, cycle=2)
    assert once(np.array([[5.0], [5.0], [5.0], [6.0]])).ravel().tolist() == [50, 51, 50, 61]
    assert once(np.array([[7.0], [5.0]])).ravel().tolist() == [70, 51]
    assert seen == [[0, 1, 1], [0]]


def test_composites_share_forward_passes_of_changed_images():
    model, x = MODELS["colour"], images(8, 3, (8, 8, 3))
    x[2] = x[0]  # equal images with targets of their own
    metrics = ["max_sensitivity(samples=3)", "local_lipschitz(samples=3)"]
    whole = evaluate(model, x, ["zplus", "notebook", "epsilon", "gradient"], metrics, target=[0, 1, 2])
    for name in whole.composites:
        for i in range(3):
            alone = evaluate(model, x[i : i + 1], name, metrics, target=i)
            for metric in metrics:
                assert np.array_equal(alone[name, metric].values[0], whole[name, metric].values[i], equal_nan=True), (name, i, metric)


def test_targets():
    model, x = MODELS["colour"], images(6, 2, (8, 8, 3))
    found = evaluate(model, x, "epsilon", "deletion", target=[3, 1])
    assert found.targets.tolist() == [3, 1]
    assert np.allclose(found["epsilon", "deletion"].curve[:, 0], scores_of(model, x)[[0, 1], [3, 1]])
    binary = evaluate(
        MODELS["one sigmoid unit"], inputs(MODELS["one sigmoid unit"], 1), "epsilon", "deletion,max_sensitivity(samples=2)", target=0
    )
    assert binary.targets.tolist() == [0]
    position = evaluate(
        MODELS["pictures"], inputs(MODELS["pictures"], 1), "epsilon", "deletion,max_sensitivity(samples=2)", target=(1, 2, 0)
    )
    assert position.targets.tolist() == [(1 * 4 + 2) * 2]


def test_completeness_is_the_ledgers():
    model, x = MODELS["colour"], images(7, 2, (8, 8, 3))
    outcome = evaluate(model, x, "epsilon(epsilon=0.5)", "completeness", dtype="float64")["epsilon(epsilon=0.5)", "completeness"]
    e = nplrp.explain(model, x, "epsilon(epsilon=0.5)", dtype="float64")
    assert np.allclose(outcome.parts["relevance_in"], e.ledger.start)
    assert np.allclose(outcome.parts["relevance_out"], e.relevance.sum(axis=(1, 2, 3)))
    lost = sum(outcome.parts[key] for key in ("bias", "epsilon", "dropped")) - outcome.parts["created"]
    assert np.allclose(outcome.parts["relevance_in"] - outcome.parts["relevance_out"], lost, atol=1e-10)


def test_a_map_of_zeros_has_no_numbers_and_says_so():
    rng = np.random.default_rng(0)
    model = chain((4, 4, 1), [plain("flatten", "flatten"), dense("out", np.zeros((16, 2)), rng.normal(size=2), "softmax")], "nothing")
    found = evaluate(model, rng.normal(size=(2, 4, 4, 1)), "epsilon", ["sparseness", "deletion(baseline=mean)"])
    assert "not defined" in str(found)
    assert "sparseness: not defined for 2 of 2 images by epsilon" in found.notes
    assert json.dumps(found.as_json(), allow_nan=False)
    assert plot(found)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metrics": "deletoin"}, "there is no metric 'deletoin'; did you mean 'deletion'"),
        ({"metrics": "deletion(stop=2)"}, "metric 'deletion' has no parameter 'stop'; .*step"),
        ({"metrics": "deletion(step=2"}, "is not a metric"),
        ({"metrics": "sparseness(a=1)"}, "it has none"),
        ({"metrics": []}, "no metric is given"),
        ({"metrics": [3]}, "a metric is a name"),
        ({"composites": "zpluss"}, "did you mean 'zplus'"),
        ({"composites": []}, "no composite is given"),
        ({"score": "loss"}, "there is no score 'loss'"),
        ({"features": "blobs"}, "there are no features 'blobs'"),
        ({"seed": -1}, "seed is -1"),
        ({"x": np.zeros((0, 8, 8, 3))}, "there are no images"),
        ({"x": np.zeros((1, 9, 8, 3))}, "the input has shape"),
        ({"x": np.full((1, 8, 8, 3), np.nan)}, "NaN|nan"),
        ({"names": ["a"]}, "1 names for 2 images"),
        ({"target": 9}, "there is no output 9"),
        ({"metrics": "faithfulness_correlation(subset=1000)"}, "subset is 1000, but a map has 64 features"),
        ({"metrics": "max_sensitivity(radius=0)"}, "radius is 0"),
        ({"metrics": "local_lipschitz(scale=huge)"}, "there is no scale 'huge'"),
        ({"metrics": "region_perturbation(patch=50)"}, "no patches of 50 pixels"),
    ],
)
def test_bad_arguments_are_told_in_a_line(arguments, message):
    call = {"model": MODELS["colour"], "x": images(0, 2, (8, 8, 3)), "composites": "epsilon", "metrics": "sparseness"} | arguments
    with pytest.raises(NplrpError, match=message) as caught:
        evaluate(**call)
    assert "\n" not in str(caught.value)


def test_an_unknown_preparation_has_no_black():
    model = chain((8, 8, 1), list(grey().layers), "unknown")
    with pytest.raises(EvaluationError, match="what a black and a white pixel are"):
        evaluate(model, images(0, 1, (8, 8, 1)), "epsilon", "deletion")
    assert evaluate(model, images(0, 1, (8, 8, 1)), "epsilon", "deletion(baseline=mean),sparseness")


def test_what_was_not_measured():
    found = evaluate(MODELS["colour"], images(0, 1, (8, 8, 3)), "epsilon", "sparseness")
    with pytest.raises(EvaluationError, match="did you mean 'sparseness'"):
        found["epsilon", "sparsenes"]


def test_black_is_a_prepared_black_picture():
    model = MODELS["colour"]  # caffe: 0 minus the mean
    seen = evaluate(model, images(0, 1, (8, 8, 3)), "epsilon", "deletion")["epsilon", "deletion"].curve[0, -1]
    black = nplrp.preprocess(np.zeros((8, 8, 3), np.uint8), model)
    scores = scores_of(model, black)
    target = evaluate(model, images(0, 1, (8, 8, 3)), "epsilon", "sparseness").targets[0]
    assert seen == pytest.approx(scores[0, target], rel=1e-6)


def test_every_row_is_whole():
    for name, row in METRICS.items():
        assert row.name == name
        assert row.source
        assert row.says
        assert metric_named(name).parameters == tuple(row.parameters.items())
        assert row.name in listing()


# --- the command --------------------------------------------------------------------------------------------------------


def test_command(files, capsys):
    pictures = [str(files / f"{i}.png") for i in range(3)]
    argv = ["evaluate", *pictures, "-w", str(files / "w.h5"), "-c", "zplus,epsilon", "-m", "deletion,sparseness,mprt"]
    assert main([*argv, "--plot", str(files / "out.png")]) == 0
    out, err = capsys.readouterr()
    assert re.search(r"^deletion +↓ +0\.\d{4} ± ", out, re.MULTILINE)
    assert "3 images of" in out
    assert f"wrote {files / 'out.png'}" in out
    assert "Traceback" not in err
    with Image.open(files / "out.png") as picture:
        assert picture.size[0] > 600
    assert main([*argv, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert [row["image"] for row in data["images"]] == pictures
    assert set(data["images"][0]["scores"]["zplus"]) == {"deletion", "sparseness", "mprt"}
    assert data["images"][0]["scores"]["zplus"]["mprt"]["at"][0] == "predictions"


def test_a_folder_is_the_pictures_in_it(files, tmp_path, capsys):
    for i in range(2):
        (tmp_path / f"{i}.png").write_bytes((files / f"{i}.png").read_bytes())
    assert main(["evaluate", str(tmp_path), "-w", str(files / "w.h5"), "-m", "sparseness", "--json"]) == 0
    assert [row["image"] for row in json.loads(capsys.readouterr().out)["images"]] == [str(tmp_path / f"{i}.png") for i in range(2)]


def test_equal_runs_give_equal_pictures(files, capsys):
    argv = ["evaluate", "--input", str(files / "x.npy"), "-w", str(files / "w.h5"), "-c", "zplus", "-m", "deletion,mprt"]
    for name in ("a.png", "b.png"):
        assert main([*argv, "--plot", str(files / name)]) == 0
    assert (files / "a.png").read_bytes() == (files / "b.png").read_bytes()
    capsys.readouterr()


def test_list(capsys):
    assert main(["evaluate", "--list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in (*METRICS, "order=top_down"))


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "there is nothing to evaluate on"),
        (["missing.png"], "missing.png"),
        (["0.png", "--input", "x.npy"], "and not both"),
        (["0.png", "-m", "nothing"], "there is no metric 'nothing'"),
        (["0.png", "-c", "nothing"], "there is no composite 'nothing'"),
        (["0.png", "--plot", "no/such/folder.png"], "there is no folder no/such"),
        (["0.png", "--plot", "a.jpg"], "expected a name that ends in .png"),
        (["--input", "0.png"], "can't be read as a NumPy array"),
        (["--input", "missing.npy"], "can't be read"),
    ],
)
def test_bad_commands_are_told_in_a_line(files, argv, message, capsys, monkeypatch):
    monkeypatch.chdir(files)
    assert main(["evaluate", *argv, "-w", "w.h5"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


def test_an_interrupt_is_a_line(files):
    script = "import sys, nplrp.evaluate.evaluating as e\ndef stop(*a, **k): raise KeyboardInterrupt\ne.scores_of = stop\n"
    script += "from nplrp.cli import main\nsys.exit(main(sys.argv[1:]))"
    argv = ["evaluate", "--input", str(files / "x.npy"), "-w", str(files / "w.h5"), "-m", "deletion"]
    done = subprocess.run(
        [sys.executable, "-c", script, *argv], capture_output=True, text=True, check=False, cwd=Path(__file__).parent.parent.parent
    )
    assert done.returncode == 130
    assert done.stderr.splitlines()[-1] == "nplrp: interrupted"
