"""Checking candidates: verdicts, faults, diagnosis, every kind of file, every kind of wrong file."""

import dataclasses
import json

import numpy as np
import pytest
from safetensors.numpy import save_file

from nplrp import explain, golden, save_png
from nplrp.cli import main
from nplrp.files.save import save
from nplrp.golden.candidate import Candidate, read_candidate, read_map, sorted_out
from nplrp.golden.errors import GoldenError, NothingComparedError, ProvenanceError
from nplrp.golden.faults import FAULTS
from nplrp.golden.isolated import isolated_run, places_of
from nplrp.images import normalize
from nplrp.model import chain
from nplrp.testing import assert_lrp_close
from tests import networks
from tests.golden import plain
from tests.networks import images, small_vgg

COMPOSITES = ("notebook", "epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1")
#: Faults that can't be told apart at some layers of the network below: the largest change that they make is within rounding.
FAINT = {1: "epsilon lies below the rounding of z, and z < 0 is rare below a ReLU", 2: "10 epsilon lies below the rounding of z"}


@pytest.fixture(scope="module")
def model():
    return small_vgg(5, size=16)


@pytest.fixture(scope="module")
def x():
    x = images(1, 2, (16, 16, 3))
    x[1, 4:9, 4:9] = 3.0  # a flat region: structural ties
    return x


@pytest.fixture(scope="module")
def goldens(model, x):
    return {name: golden.record(model, x, name) for name in COMPOSITES}


@pytest.fixture(scope="module")
def isolated(goldens, model):
    return {name: isolated_run(recorded, model) for name, recorded in goldens.items()}


@pytest.mark.parametrize("name", COMPOSITES)
def test_float32_stays_within(name, goldens, isolated, model, x):
    recorded = goldens[name]
    report = golden.check(recorded, isolated[name], mode="isolated")
    assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"}, str(report)
    assert len(report.rows) == 8 and report.passed
    e = explain(model, x, name, dtype="float32", algorithm="direct")
    candidate = Candidate(e.relevances, e.activations)
    for mode, rows in (("chained", 18), ("local", 18)):
        report = golden.check(recorded, candidate, mode=mode, model=model)
        assert {row.verdict for row in report.rows} <= {"EXACT", "WITHIN"} and len(report.rows) == rows, str(report)


@pytest.mark.parametrize("order", plain.ORDERS)
def test_plain_numpy_in_any_order_stays_within(order, goldens, model):
    for recorded in goldens.values():
        found = {recorded.inputs[name][0]: plain.step_back(at, order) for name, at in places_of(recorded, model, "float32").items()}
        report = golden.check(recorded, Candidate({k: v for k, v in found.items() if v is not None}), mode="isolated")
        assert len(report.rows) == 5 and max(row.judgement.ratio for row in report.rows) < 0.7, str(report)


def test_plain_numpy_is_the_same_rule(goldens, model):
    recorded = goldens["epsilon_gamma_box"]
    found = {recorded.inputs[name][0]: plain.step_back(at, "matmul") for name, at in places_of(recorded, model, "float64").items()}
    assert {name for name, R in found.items() if R is not None} == {"fc1", "flatten", "block1_pool", "block1_conv1", "input"}
    for name, R in found.items():
        if R is not None:
            np.testing.assert_allclose(R, recorded[name].relevance.values, rtol=1e-9, atol=1e-13)


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_seeded_fault_diverges_at_its_own_layer_and_is_named(fault, goldens, isolated, model):
    caught, shown = 0, 0
    for name, recorded in goldens.items():
        for layer, at in places_of(recorded, model, "float32").items():
            got, (below,) = fault.run(at), recorded.inputs[layer]
            if got is None:
                continue
            shown += 1
            candidate = Candidate({**isolated[name].relevances, below: got})
            report = golden.check(recorded, candidate, mode="isolated", model=None if caught else model)
            diverged = [row.layer for row in report.rows if row.verdict == "DIVERGED"]
            same = np.array_equal(got, isolated[name].relevances[below])
            if same or (fault.number in FAINT and not diverged):
                assert not diverged
                continue
            assert diverged == [at.step.name], f"{name}: {report}"
            caught += 1
            if caught == 1:
                assert fault.name in report.diagnosis[-1] and "none of" not in report.diagnosis[-1], str(report)
    assert shown and caught


def test_softmax_start_diverges_at_the_start(model, x):
    recorded = golden.record(model, x, "epsilon_alpha2_beta1", start="logit")
    wrong = recorded.output.astype("f4") * (recorded["predictions"].relevance.values != 0)
    report = golden.check(recorded, Candidate({"predictions": wrong}), mode="isolated", model=model)
    assert report.first.layer == "start" and "start softmax" in report.diagnosis[0]
    right = recorded["predictions"].relevance.values.astype("f4")
    assert golden.check(recorded, Candidate({"predictions": right}), mode="isolated").passed


def test_chained_fault_is_named_and_inherited_below(goldens, model, x):
    recorded = goldens["epsilon_plus"]
    e = explain(model, x, "epsilon_plus(epsilon=0.1)", dtype="float32")
    report = golden.check(recorded, Candidate(e.relevances, e.activations), model=model)
    assert report.first.layer == "predictions" and "epsilon=0.1" in report.diagnosis[0]
    verdicts = [row.verdict for row in report.rows if row.what == "relevance"]
    assert verdicts[1] == "DIVERGED" and set(verdicts[2:]) <= {"inherited", "WITHIN"}
    local = golden.check(recorded, Candidate(e.relevances, e.activations), mode="local", model=model)
    assert [row.layer for row in local.rows if row.verdict == "DIVERGED"] == ["predictions", "fc1"]
    assert "first diverging layer: predictions (rule epsilon" in str(report) and "<- first" in str(report)


def test_bounds_scale_with_precision(goldens, isolated, model):
    recorded = goldens["epsilon_plus"]
    double = isolated_run(recorded, model, "float64")
    assert golden.check(recorded, double, mode="isolated").passed
    assert not golden.check(recorded, isolated["epsilon_plus"], mode="isolated", precision="float64").passed
    half = Candidate({name: R.astype("f2") for name, R in isolated["epsilon_plus"].relevances.items() if np.abs(R).max() > 1e-3})
    assert golden.check(recorded, half, mode="isolated").passed
    assert not golden.check(recorded, half, mode="isolated", precision="float32").passed


def test_rtol_and_atol_are_numpys(goldens):
    recorded = goldens["epsilon_plus"]
    R = recorded["fc1"].relevance.values
    off = Candidate({"fc1": R + 1e-3 + 0.01 * np.abs(R)})
    assert golden.check(recorded, off, rtol=0.0101, atol=1.01e-3).passed
    assert not golden.check(recorded, off, rtol=0.01, atol=0.9e-3).passed


def test_near_tied_winners_are_undecided_and_exact_ties_are_not(model):
    x = images(2, 1, (16, 16, 3))
    recorded = golden.record(model, x, "epsilon_plus")
    layer = recorded["block1_conv2"]
    a, R = layer.activation.values.copy(), layer.relevance
    from nplrp.golden.bounds import near_ties
    from nplrp.golden.diagnosis import plan_of

    step = plan_of(recorded, model).steps[2]
    window = a[0, :2, :2, 0]
    window[...] = [[1.0, 1.0 + 1e-9], [0.5, 1.0]]
    assert near_ties(step, a)[0, 0, 0, 0].tolist() == [True, False, False, True]
    window[...] = [[1.0, 1.0], [0.5, 1.0]]
    assert not near_ties(step, a)[0, 0, 0, 0].any()
    undecided = dataclasses.replace(R, undecided=R.undecided.copy())
    undecided.undecided[0, :2, :2, 0] = 1.0
    got = R.values.copy()
    got[0, 0, 0, 0] += 0.5
    from nplrp.golden.judging import judge

    assert judge(got, R, precision="float32").verdict == "DIVERGED"
    found = judge(got, undecided, precision="float32")
    assert found.verdict == "WITHIN" and found.undecided == 1


def test_between_expected_and_certified_is_suspect_and_passes(goldens):
    recorded = goldens["epsilon_plus"]
    R = recorded["flatten"].relevance
    halfway, at = (R.expected.astype(float) + R.certified) / 2, np.argmax(R.certified / np.maximum(R.expected, 1e-30))
    assert (R.certified > 1.1 * R.expected).any() and not R.undecided.any()
    got = R.values.copy()
    got.flat[at] += halfway.flat[at]
    report = golden.check(recorded, Candidate({"flatten": got}), mode="isolated", precision="float32")
    row = report.row("fc1")
    assert row.verdict == "SUSPECT" and report.passed and row.judgement.undecided == 0 and row.judgement.over > 0
    assert "larger than expected, but not beyond rounding: fc1" in str(report)


@pytest.mark.parametrize("where", ["before", "after"])
def test_merged_batch_norms_are_given_golden_inputs(where):
    rng = np.random.default_rng(0)
    ends = [networks.plain("flatten", "flatten")]
    if where == "after":
        first = [networks.conv("c1", networks.random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4)), networks.pool("p1"), *ends]
        first += [networks.dense("d1", networks.random_kernel(rng, 64, 6), rng.normal(size=6)), networks.batch_norm("bn", rng, 6)]
        units = 6
    else:
        first = [networks.conv("c1", networks.random_kernel(rng, 3, 3, 3, 4), rng.normal(size=4), "linear")]
        first += [networks.batch_norm("bn", rng, 4), networks.plain("r", "activation", "relu"), *ends]
        units = 256
    last = networks.dense("d2", networks.random_kernel(rng, units, 3), rng.normal(size=3))
    model = chain((8, 8, 3), [*first, last], "with a batch norm")
    recorded = golden.record(model, images(1, 1, (8, 8, 3)), "epsilon_plus")
    report = golden.check(recorded, isolated_run(recorded, model), mode="isolated")
    assert report.passed and max(row.judgement.ratio for row in report.rows) < 0.7, str(report)


def nchw(array):
    return np.ascontiguousarray(array.transpose(0, 3, 1, 2)) if array.ndim == 4 else array


@pytest.mark.parametrize("suffix", [".npz", ".h5", ".safetensors"])
def test_any_file_in_any_layout(suffix, goldens, isolated, tmp_path):
    recorded, single = goldens["epsilon_plus"], isolated["epsilon_plus"].relevances
    flat = single["flatten"].reshape(2, 4, 4, 6).transpose(0, 3, 1, 2).reshape(2, -1)
    arrays = {f"relevances/{name}": nchw(R) for name, R in single.items()} | {"relevances/flatten": flat}
    path = tmp_path / f"c{suffix}"
    if suffix == ".npz":
        np.savez(path, **arrays)
    elif suffix == ".safetensors":
        save_file({name: np.ascontiguousarray(R) for name, R in arrays.items()}, path)
    else:
        import h5py

        with h5py.File(path, "w") as file:
            for name, R in arrays.items():
                file[name] = R
    report = golden.check(recorded, read_candidate(path), mode="isolated", layout="NCHW")
    assert report.passed and len(report.rows) == 8, str(report)
    with pytest.raises(GoldenError, match="looks like NCHW"):
        golden.check(recorded, read_candidate(path), mode="isolated")


def test_digest_checks_samples(model, x, isolated):
    recorded = golden.record(model, x, "epsilon_plus", profile="digest")
    report = golden.check(recorded, isolated["epsilon_plus"], mode="isolated")
    assert report.passed and len(report.rows) == 8
    wrong = Candidate({"input": isolated["epsilon_plus"].relevances["input"] * np.float32(1.001)})
    assert not golden.check(recorded, wrong, mode="isolated").passed


def test_names_batches_and_partial_sets(goldens, isolated):
    recorded, single = goldens["epsilon_plus"], isolated["epsilon_plus"].relevances
    batch = np.concatenate([np.zeros((3, *single["fc1"].shape[1:]), "f4"), single["fc1"]])
    mapped = sorted_out({"features.9": batch}, {}, {"features.9": "fc1"}, "theirs")
    report = golden.check(recorded, mapped, mode="isolated", first=3)
    assert report.passed and len(report.rows) == 1 and "flatten" in report.missing
    with pytest.raises(GoldenError, match="--first"):
        golden.check(recorded, mapped, mode="isolated")


@pytest.mark.parametrize(
    ("names", "table"),
    [
        (("relevances/a", "layerwise_relevances/a"), {}),
        (("relevances/a", "relevances/b"), {"b": "a"}),
        (("activations/a", "layers/a/activation"), {}),
        (("edges/a/b", "layers/a/edges/b/relevance"), {}),
        (("a", "c"), {"c": "a"}),
    ],
)
def test_two_arrays_of_one_layer_are_refused(names, table):
    """Which of them is meant, nobody knows; the last one counted."""
    with pytest.raises(golden.GoldenError, match=f"'{names[0]}' and '{names[1]}' are both the"):
        sorted_out({name: np.ones(3) for name in names}, {}, table, "theirs")


def test_the_input_s_relevance_may_have_two_names():
    both = {"attribution": np.ones(3), "relevances/input": np.full(3, 2.0)}
    for arrays in (both, dict(reversed(both.items()))):
        assert sorted_out(arrays, {}, {}, "theirs").relevances["input"][0] == 2


@pytest.mark.parametrize("text", ['{"a": "b", "a": "c"}', "a b\na c\n"])
def test_a_table_that_names_a_layer_twice_is_refused(text, tmp_path):
    (tmp_path / "names").write_text(text)
    with pytest.raises(golden.GoldenError, match="'a' stands in it twice"):
        read_map(tmp_path / "names")


def test_command_line_and_exit_codes(goldens, isolated, model, x, tmp_path, capsys):
    recorded, single = goldens["epsilon_plus"], isolated["epsilon_plus"].relevances
    path = tmp_path / "g.lrpgold.h5"
    golden.write(recorded, path)

    def run(arrays, *options, name="c.npz"):
        np.savez(tmp_path / name, **arrays)
        code = main(["golden", "check", str(path), str(tmp_path / name), *options])
        return code, "".join(capsys.readouterr())

    R = dict(single)
    assert run(R, "--mode", "isolated")[0] == 0
    code, text = run(
        {**R, "fc1": R["fc1"] * 1.01}, "--mode", "isolated", "--json", str(tmp_path / "r.json"), "--png", str(tmp_path / "r.png")
    )
    assert code == 1 and "first diverging layer: predictions" in text
    assert json.loads((tmp_path / "r.json").read_text())["first_diverging"] == {"layer": "predictions", "what": "relevance"}
    assert (tmp_path / "r.png").read_bytes()[:4] == b"\x89PNG"
    broken = R["fc1"].copy()
    broken[0, 1] = np.nan
    code, text = run({**R, "fc1": broken}, "--mode", "isolated")
    assert code == 1 and "1 of 14 elements are NaN or infinite" in text and "(0, 1)" in text
    for arrays, code, message in (
        ({"nothing": R["fc1"]}, 4, "nothing was compared"),
        ({"fc1": R["fc1"][:, :3]}, 2, "is it the same model?"),
        ({"x": x[..., ::-1], "fc1": R["fc1"]}, 3, "RGB for BGR"),
        ({"x": x + 1, "fc1": R["fc1"]}, 3, "not the one that was recorded"),
        ({"about": np.array(json.dumps({"weights_sha256": "0" * 64})), "fc1": R["fc1"]}, 3, "weights"),
    ):
        found, text = run(arrays)
        assert found == code and message in text
    (tmp_path / "t.npz").write_bytes((tmp_path / "c.npz").read_bytes()[:60])
    assert main(["golden", "check", str(path), str(tmp_path / "t.npz")]) == 2
    assert main(["golden", "check", str(path), str(tmp_path / "t.txt")]) == 2
    (tmp_path / "map.txt").write_text("theirs fc1\n")
    assert run({"theirs": R["fc1"]}, "--map", str(tmp_path / "map.txt"), "--mode", "isolated")[0] == 0


def test_nplrps_own_files_are_candidates(goldens, model, x, tmp_path):
    e = explain(model, x, "epsilon_plus", dtype="float32")
    save(e, tmp_path / "e.npz", layers=True)
    report = golden.check(goldens["epsilon_plus"], read_candidate(tmp_path / "e.npz"))
    assert report.passed and len(report.rows) == 18
    other = small_vgg(6, size=16)
    save(explain(other, x, "epsilon_plus", dtype="float32"), tmp_path / "o.npz")
    with pytest.raises(ProvenanceError, match="weights"):
        golden.check(goldens["epsilon_plus"], read_candidate(tmp_path / "o.npz"))


def test_assert_lrp_close(goldens, isolated):
    recorded, single = goldens["epsilon_plus"], isolated["epsilon_plus"].relevances
    assert assert_lrp_close(single, recorded).passed
    assert_lrp_close(single["fc1"], recorded["fc1"])
    with pytest.raises(AssertionError, match="first diverging layer: predictions"):
        assert_lrp_close({**single, "fc1": single["fc1"] * 1.01}, recorded)
    with pytest.raises(AssertionError, match="relevance of 'fc1' diverges"):
        assert_lrp_close(single["fc1"] * 1.01, recorded["fc1"])
    with pytest.raises(NothingComparedError):
        assert_lrp_close({"elsewhere": single["fc1"]}, recorded)


def test_picture_shows_a_digest_without_maps_too(model, x, isolated, tmp_path):
    recorded = golden.record(model, x, "epsilon_plus", profile="digest")
    figure = golden.report_figure(golden.check(recorded, isolated["epsilon_plus"], mode="isolated"))
    save_png(figure, tmp_path / "p.png")
    assert len(figure.axes) == 1


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"x": "tf"}, "its pictures were prepared as 'tf', recorded was 'caffe': prepare them alike"),
        ({"x": "torch"}, "its pictures were prepared as 'torch'"),
        ({"about": {"preprocessing": "unit"}}, "says that its pictures were prepared as 'unit', recorded was 'caffe'"),
        ({"about": {"preprocessing": {"mode": "tf", "resample": "nearest"}}}, "prepared as 'tf', recorded was 'caffe'"),
        ({"about": {"input_shape": [9, 8, 3]}}, r"its input has shape \[9, 8, 3\], recorded was \[8, 8, 3\]; use the same size"),
    ],
)
def test_a_candidate_that_was_fed_otherwise_is_told_so(given, message):
    pixels = np.random.default_rng(1).integers(0, 256, (1, 8, 8, 3), dtype=np.uint8)
    recorded = golden.record(small_vgg(2), normalize(pixels, "caffe"), "epsilon")
    x = normalize(pixels, given["x"]) if "x" in given else None
    candidate = Candidate({"input": recorded["input"].relevance.values}, x=x, about=given.get("about", {}))
    with pytest.raises(ProvenanceError, match=message):
        golden.check(recorded, candidate)
    alike = Candidate(candidate.relevances, x=recorded.input, about={"preprocessing": "caffe", "input_shape": (8, 8, 3)})
    assert golden.check(recorded, alike).passed
