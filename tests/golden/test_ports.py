"""Ports by others (`tests.golden.port`): right ones pass in every precision and mode, wrong ones don't."""

import dataclasses

import numpy as np
import pytest

import nplrp
from nplrp import golden
from nplrp.cli import main
from nplrp.golden.candidate import Candidate, sorted_out
from nplrp.golden.errors import ProvenanceError
from nplrp.golden.judging import judge
from nplrp.testing import assert_lrp_close
from tests import keras_files, networks
from tests.golden import mistaken_port
from tests.golden.port import port_of
from tests.keras_files import write_by_name
from tests.networks import images, small_resnet, small_vgg

COMPOSITES = {"vgg": ("epsilon_gamma_box", "notebook"), "norms": ("epsilon_plus",), "graph": ("epsilon_alpha2_beta1",)}
ORDERS = ("shuffled", "uneven")


def vgg_with_norms(seed=0, size=16):
    """Convolutions that batch norms are merged into; small, so that a test is quick."""
    rng = np.random.default_rng(seed)

    def block(name, cin, cout):
        made = [networks.conv(f"{name}_conv", networks.random_kernel(rng, 3, 3, cin, cout), 0.2 * rng.normal(size=cout), "linear")]
        return [*made, networks.batch_norm(f"{name}_bn", rng, cout), networks.plain(f"{name}_relu", "activation", "relu")]

    flat = (size // 4) ** 2 * 8
    layers = [*block("b1", 3, 6), *block("b2", 6, 6), networks.pool("p1"), *block("b3", 6, 8), networks.pool("p2")]
    layers += [networks.plain("flatten", "flatten"), networks.dense("d1", networks.random_kernel(rng, flat, 10), 0.2 * rng.normal(size=10))]
    layers.append(networks.dense("predictions", networks.random_kernel(rng, 10, 5), 0.2 * rng.normal(size=5), "softmax"))
    return networks.chain((size, size, 3), layers, "VGG with norms", preprocessing=networks.Preprocessing("caffe"))


NETWORKS = {"vgg": lambda: small_vgg(0, size=16), "norms": vgg_with_norms, "graph": lambda: small_resnet(0)}


@pytest.fixture(scope="module")
def recorded():
    """By network and composite: model, input, golden values."""
    made = {}

    def find(name, composite="epsilon_plus"):
        if (name, composite) not in made:
            model, x = NETWORKS[name](), images(0, 2, (16, 16, 3))
            x[1, 3:11, 4:12] = 3.0  # flat areas, whose places tie
            x[0, :4] = 0.5
            made[name, composite] = model, x, golden.record(model, x, composite)
        return made[name, composite]

    return find


def runs_of(port, x, values):
    """Return what a port gives from end to end, and layer by layer on golden numbers."""
    activations, relevances, edges = port.end_to_end(x)
    alone = port.by_layer({e.name: e.activation.values for e in values.layers}, {e.name: e.relevance.values for e in values.layers})
    return Candidate(relevances, activations, edges=edges), Candidate(alone[0], edges=alone[1])


def diverged(report):
    return [(row.what, row.array) for row in report.rows if row.verdict == "DIVERGED"]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("network", NETWORKS)
def test_right_ports_pass_in_every_mode(network, dtype, recorded):
    for composite in COMPOSITES[network]:
        model, x, values = recorded(network, composite)
        for order in ORDERS:
            whole, alone = runs_of(port_of(values, model, dtype, order), x, values)
            chained, local = golden.check(values, whole, model=model), golden.check(values, whole, mode="local", model=model)
            isolated = golden.check(values, alone, mode="isolated")
            for report in (chained, local, isolated):
                assert report.passed and not report.missing and "diverg" not in str(report), f"{composite}, {order}: {report}"
            assert max(row.judgement.ratio for report in (local, isolated) for row in report.rows) < 0.7
            assert max(row.judgement.sums for report in (local, isolated) for row in report.rows) < 0.7


@pytest.mark.parametrize("network", NETWORKS)
def test_right_ports_without_activations_pass(network, recorded):
    model, x, values = recorded(network)
    for dtype in ("float32", "float64"):
        whole, _ = runs_of(port_of(values, model, dtype, "uneven"), x, values)
        silent = Candidate(whole.relevances, edges=whole.edges)
        for report in (golden.check(values, silent, model=model), golden.check(values, silent, mode="local", model=model)):
            assert report.passed and not diverged(report), str(report)
            assert "activation of predictions" in report.missing


def test_a_batch_norm_may_subtract_its_mean_first():
    """(x - mean) g + beta adds up larger numbers than g x + h does where beta is nearly mean g."""
    model, made = vgg_with_norms(), []
    for layer in model.layers:
        if "variance" in layer.arrays:
            g = layer.arrays["gamma"] / np.sqrt(layer.arrays["variance"] + np.float32(layer.epsilon))
            mean = layer.arrays["mean"] + np.float32(40)
            made.append(dataclasses.replace(layer, arrays={**layer.arrays, "mean": mean, "beta": mean * g}))
        else:
            made.append(layer)
    model, x = dataclasses.replace(model, layers=tuple(made)), images(0, 2, (16, 16, 3))
    values = golden.record(model, x, "epsilon_plus", start="logit")
    own = mistaken_port.Port(model, values.facts)
    activations = own.forward(x)
    report = golden.check(values, Candidate(own.backward(), activations), mode="local", model=model)
    assert not [row for row in report.rows if row.what == "activation" and row.verdict == "DIVERGED"], str(report)
    wrong = mistaken_port.Port(model, values.facts, ("b2_bn", "norm's epsilon", 1.5 * model.layers[4].epsilon + 1e-4))
    activations = wrong.forward(x)
    report = golden.check(values, Candidate(wrong.backward(), activations), mode="local", model=model)
    assert ("activation", "b2_bn") in diverged(report), str(report)


def test_a_flipped_tie_is_never_diverged_in_float64_and_explained_by_every_layer_alone(recorded):
    model, x, values = recorded("vgg")
    whole, _ = runs_of(port_of(values, model, "float64", "uneven"), x, values)
    report = golden.check(values, whole)
    assert sum(each.other for each in report.decisions) and not any(each.unexplained for each in report.decisions)
    assert report.passed and {row.verdict for row in report.rows} == {"WITHIN", "EXACT", "SUSPECT"}
    followed = golden.check(values, whole, model=model)
    assert followed.passed and {row.verdict for row in followed.local.rows} <= {"WITHIN", "EXACT"}
    assert "each layer alone, computed again from the candidate's own numbers" in str(followed)
    assert not golden.check(values, whole, fail_on="suspect").passed


def test_a_flip_hides_no_fault_where_the_model_is_known(recorded):
    model, x, values = recorded("vgg")
    whole, _ = runs_of(port_of(values, model, "float64", "uneven"), x, values)
    relevances = dict(whole.relevances)
    below = ("block1_conv2", "block1_conv1", "input")
    relevances |= {name: relevances[name] * (1 + 1e-9) for name in below}
    report = golden.check(values, Candidate(relevances, whole.activations), model=model)
    assert not report.passed and diverged(report.local) == [("relevance", "block1_conv2")]
    assert "first diverging layer: block1_pool" in str(report)


def test_activations_and_relevances_are_of_one_pass(recorded):
    """Where batch norms are merged, up to version 2 relevance was of a merged pass, activations weren't."""
    model, x, values = recorded("norms")
    for step in ("p1", "b1_relu"):
        R, a = values[step].relevance.values, values[step].activation.values
        assert np.array_equal(R != 0, (a != 0) & (R != 0))
    _, alone = runs_of(port_of(values, model, "float64", "plain"), x, values)
    assert max(row.judgement.ratio for row in golden.check(values, alone, mode="isolated").rows) < 0.2


def test_tolerances_of_tiny_numbers_dont_underflow():
    from nplrp.golden.bounds import Bounds
    from nplrp.golden.recording import tensor_of

    v = np.full((1, 50), 1e-37)
    tensor = tensor_of(v, Bounds(1e-7 * v, 1e-6 * v, np.zeros(v.shape)))
    assert judge(v * (1 + 1e-16 * (np.arange(50) % 2)), tensor, precision="float64").verdict in ("WITHIN", "EXACT")
    assert judge(v * (1 + 4e-15), tensor, precision="float64").verdict == "DIVERGED"


@pytest.mark.parametrize("mode", ["local", "chained"])
@pytest.mark.parametrize("fault", ["class", "start"])
def test_the_start_is_judged(fault, mode, recorded):
    model, x, values = recorded("vgg")
    port = port_of(values, model, "float32")
    if fault == "start":
        port.facts = {**port.facts, "start": "logit"}
    else:
        port.facts = {**port.facts, "targets": [(t + 1) % 5 for t in values.facts["targets"]]}
    whole, _ = runs_of(port, x, values)
    report = golden.check(values, whole, mode=mode, model=model)
    assert not report.passed and report.first.layer == "start"
    if mode == "local":  # the layers below are right, given that
        assert diverged(report) == [("relevance", "predictions")]


@pytest.mark.parametrize("composite", ["notebook", "epsilon"])
def test_a_start_that_is_a_rounded_number_is_judged_by_the_candidates_own(composite, recorded):
    model, x, values = recorded("vgg", composite)
    for dtype in ("float32", "float64"):
        whole, _ = runs_of(port_of(values, model, dtype), x, values)
        assert golden.check(values, whole, mode="local", model=model).row("start").verdict in ("WITHIN", "EXACT")
        off = {**whole.relevances, "predictions": whole.relevances["predictions"] * whole.relevances["predictions"].dtype.type(1.0001)}
        assert golden.check(values, Candidate(off, whole.activations), mode="local", model=model).first.layer == "start"


def test_a_wrong_epsilon_of_a_merged_batch_norm_is_found_by_the_next_activation(recorded):
    model, x, values = recorded("norms")
    port = port_of(values, model, "float32")
    rows = [{**row, "epsilon": 1e-5} if row["name"] == "b2_bn" else row for row in values.facts["layers"]]
    wrong = type(port)({**values.facts, "layers": rows}, {layer.name: layer.arrays for layer in model.layers}, "float32")
    whole, _ = runs_of(wrong, x, values)
    assert "b2_conv" not in whole.activations
    local = golden.check(values, whole, mode="local", model=model)
    assert ("activation", "b2_bn") in diverged(local) and local.first.array == "b2_bn"
    assert golden.check(values, whole, model=model).first.array == golden.check(values, whole).first.array == "b2_bn"


@pytest.mark.parametrize("known", [False, True])
def test_a_forward_fault_is_reported_where_it_is(known, recorded):
    model, x, values = recorded("vgg")
    port = port_of(values, model, "float32")
    whole, _ = runs_of(port, np.ascontiguousarray(x[..., ::-1]), values)
    activations = {name: each for name, each in whole.activations.items() if name != "input"}
    for mode in ("chained", "local") if known else ("chained",):
        report = golden.check(values, Candidate(whole.relevances, activations), mode=mode, model=model if known else None)
        assert not report.passed and (report.first.array, report.first.what) == ("block1_conv1", "activation"), str(report)
        if mode == "chained":
            assert {row.verdict for row in report.rows if row.what == "relevance"} <= {"inherited", "EXACT", "WITHIN"}


def test_what_was_given_is_compared_and_what_wasnt_is_listed(recorded):
    model, x, values = recorded("vgg")
    whole, _ = runs_of(port_of(values, model, "float32"), x, values)
    some = {name: whole.relevances[name] for name in ("flatten", "block1_conv1")}
    report = golden.check(values, Candidate(some, {"fc1": whole.activations["fc1"]}), mode="local", model=model)
    assert {(row.what, row.array) for row in report.rows} == {
        ("relevance", "flatten"),
        ("relevance", "block1_conv1"),
        ("activation", "fc1"),
    }
    assert "from end to end, since relevance of fc1 wasn't given" in report.row("fc1").judgement.note
    assert {"predictions", "input", "activation of block1_conv1"} <= set(report.missing) and report.passed
    wrong = {**some, "flatten": some["flatten"] * np.float32(1.001)}
    assert not golden.check(values, Candidate(wrong), mode="local", model=model).passed
    activations = {"fc1": whole.activations["fc1"] * np.float32(1.001)}
    assert golden.check(values, Candidate(some, activations), mode="local", model=model).first.array == "fc1"
    for require_all in (False, True):
        report = golden.check(values, Candidate(some), require_all=require_all)
        assert report.passed != require_all and report.exit_code == 4 * require_all
    assert "not passed, since these were not compared: " in str(report)
    assert golden.check(values, whole, require_all=True).passed


def test_names_that_mean_nothing_are_no_pass(recorded):
    model, x, values = recorded("vgg")
    whole, _ = runs_of(port_of(values, model, "float32"), x, values)
    arrays = {f"relevances/{name if name == 'fc1' else f'features.{i}'}": R for i, (name, R) in enumerate(whole.relevances.items())}
    report = golden.check(values, sorted_out(arrays, {}, {}, "theirs"))
    assert not report.passed and report.exit_code == 4 and "give --map" in str(report)
    beside = sorted_out(
        {**{f"relevances/{name}": R for name, R in whole.relevances.items()}, "relevances/loss": np.ones(3)}, {}, {}, "theirs"
    )
    assert golden.check(values, beside).passed


def test_the_command_line_takes_the_candidate_behind_options_and_other_weights_end_with_3(tmp_path, capsys):
    rng = np.random.default_rng(2)
    layers = keras_files.vgg()
    paths = [str(tmp_path / name) for name in ("g.lrpgold.h5", "w.h5", "c.npz", "other.h5")]
    write_by_name(paths[1], layers)
    write_by_name(paths[3], [(name, [2 * array for array in arrays]) for name, arrays in layers])
    model = nplrp.load(paths[1])
    values = golden.record(model, rng.uniform(-100, 100, (1, *model.input_shape)), "epsilon_plus")
    golden.write(values, paths[0])
    np.savez(paths[2], **{f"relevances/{layer.name}": layer.relevance.values.astype("f4") for layer in values.layers})
    assert main(["golden", "check", paths[0], "-w", paths[1], paths[2]]) == 0
    assert main(["golden", "check", paths[0], "-w", paths[3], paths[2]]) == 3
    assert "other weights" in capsys.readouterr().err
    assert main(["golden", "check", paths[0], paths[2], "--require-all"]) == 4
    with pytest.raises(SystemExit, match="2"):
        main(["golden", "check", paths[0], "-w", paths[1], paths[2], "more"])
    with pytest.raises(ProvenanceError, match="other weights"):
        golden.check(values, Candidate({"input": values["input"].relevance.values}), model=nplrp.load(paths[3]))


def test_the_default_mode_is_one_and_is_told(recorded):
    _, x, values = recorded("vgg")
    whole, alone = runs_of(port_of(values, recorded("vgg")[0], "float32"), x, values)
    assert golden.check(values, whole).mode == assert_lrp_close(whole, values).mode == "chained"
    assert "chained (it ran from end to end)" in str(golden.check(values, whole))
    assert "isolated (each layer got golden inputs)" in str(golden.check(values, alone, mode="isolated"))
