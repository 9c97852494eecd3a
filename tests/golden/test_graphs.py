"""Golden values of networks that aren't chains: files, bounds, faults, diagnosis; a plain float32 backend without nplrp is never blamed."""

import dataclasses
import json
import tempfile

import numpy as np
import pytest

from nplrp import explain, golden
from nplrp.cli import main
from nplrp.files.weights import load
from nplrp.golden.candidate import Candidate, read_candidate
from nplrp.golden.diagnosis import plan_of
from nplrp.golden.faults import FAULTS
from nplrp.golden.isolated import candidate_of, fault_named, isolated_run, places_of
from nplrp.golden.orders import renumbered
from nplrp.golden.recording import digest_of
from nplrp.layers import OPERATIONS
from nplrp.lrp import run_forward, run_step
from nplrp.plan import make_steps
from tests import graph_twin, zoo
from tests.engine_graph import model_of
from tests.golden.plain_graph import Single
from tests.networks import images, small_resnet
from tests.test_graph_twin import NETWORKS

COMPOSITES = ("epsilon_plus", "epsilon_gamma_box", "epsilon_alpha2_beta1", "notebook")


@pytest.fixture(scope="module")
def model():
    return small_resnet(5)


@pytest.fixture(scope="module")
def x():
    x = images(1, 2, (16, 16, 3))
    x[1, 4:9, 4:9] = 3.0  # a flat region: structural ties
    return x


@pytest.fixture(scope="module")
def goldens(model, x):
    return {name: golden.record(model, x, name) for name in COMPOSITES}


def verdicts(report):
    return {row.verdict for row in report.rows}


# --- files ------------------------------------------------------------------------------------------------------------


def test_what_is_recorded_is_what_explain_gives(goldens, model, x):
    recorded = goldens["epsilon_plus"]
    e = explain(model, x, "epsilon_plus", recorded.facts["targets"], "float64", "direct")
    for name, R in e.relevances.items():
        # relevance goes by the activations that are stored, in which batch norms aren't merged
        np.testing.assert_allclose(recorded[name].relevance.values, R, rtol=1e-11, atol=1e-14 * np.abs(R).max())
        np.testing.assert_array_equal(recorded[name].activation.values, e.activations[name])
    assert (recorded["add"].activation.values < 0).any()  # not what the ReLU behind it makes of it
    assert recorded.inputs["add"] == ("shortcut_bn", "body2_bn") and recorded.readers["stem_pool"] == ("body1_conv", "shortcut_conv")
    assert [each.name for each in recorded.owners("add_relu")] == ["side_conv", "concat"] and recorded.owners("predictions") == ()


def test_edges_add_up_to_relevance(goldens):
    for recorded in goldens.values():
        edges = {(layer.name, name): edge for layer in recorded.layers for name, edge in layer.edges.items()}
        several = {name: readers for name, readers in recorded.readers.items() if len(readers) > 1}
        assert set(several) == {"stem_pool", "add_relu"} and set(edges) == {(a, b) for b, above in several.items() for a in above}
        for name, above in several.items():
            R, parts = recorded[name].relevance, [edges[reader, name] for reader in above]
            total, size = parts[1].values + parts[0].values, np.abs(parts[1].values) + np.abs(parts[0].values)
            assert (np.abs(R.values - total) <= 1e-12 * size.max()).all()  # to the bit where the fused pass does one part at a time
            assert (R.expected >= (parts[0].expected + parts[1].expected.astype(float)) * (1 - 1e-6) - 1e-40).all()


@pytest.mark.parametrize("profile", ["full", "digest"])
def test_round_trip_keeps_every_bit(profile, goldens, model, tmp_path):
    made = goldens["epsilon_gamma_box"] if profile == "full" else digest_of(goldens["epsilon_gamma_box"])
    path = tmp_path / "b.lrpgold.h5"
    golden.write(made, path)
    assert path.read_bytes().startswith(b"nplrp-golden 3 sha256 ") and made.facts["format_version"] == 3
    again = golden.read(path)
    assert dict(again.facts) == dict(made.facts) and again.content_sha256 == made.content_sha256
    for (one, a), (two, b) in zip(made.arrays(), again.arrays(), strict=True):
        assert one == two and a.dtype == b.dtype and a.tobytes() == b.tobytes()
    assert golden.recompute(again, model) == []
    edge = made["concat"].edges["add_relu"]
    other = dataclasses.replace(made["concat"], edges={"add_relu": dataclasses.replace(edge, sha256="0" * 64)})
    spoilt = dataclasses.replace(made, layers=tuple(other if layer.name == "concat" else layer for layer in made.layers))
    assert golden.recompute(spoilt, model) == ["layers/concat/edges/add_relu/relevance"]
    assert spoilt.content_sha256 != made.content_sha256


def test_a_renumbered_graph_computes_the_same(model, x):
    for net, inputs in (
        (model, x),
        *((model_of(NETWORKS[name]), NETWORKS[name].x) for name in ("e_mobilenet", "b_projection", "d_densenet")),
    ):
        other, orders = renumbered(net, 1)
        moved = [name for name, order in orders.items() if not np.array_equal(order, np.arange(len(order)))]
        a, b = explain(net, inputs, "epsilon_plus", 1, "float64"), explain(other, inputs, "epsilon_plus", 1, "float64")
        for name, R in b.relevances.items():
            back = R[..., np.argsort(orders[name])] if name in orders else R
            np.testing.assert_allclose(back, a.relevances[name], rtol=1e-9, atol=1e-12 * np.abs(a.relevances[name]).max())
        assert len(moved) >= 3, moved
        if net is model:
            assert "add" in moved and np.array_equal(orders["shortcut_conv"], orders["body2_conv"])


@pytest.mark.parametrize("mode", ["chained", "local"])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_saved_explanation_whose_pass_merged_batch_norms_is_right(model, x, tmp_path, dtype, mode):
    """Its activations are those of the model as it is, its relevance was computed from a merged pass's: no layer fits both to the bit."""
    recorded = golden.record(model, x, "epsilon")
    e = explain(model, x, "epsilon", recorded.facts["targets"], dtype)
    assert any(step.merged for step in e.plan.steps)
    e.save(tmp_path / "e.npz", layers=True)
    saved = read_candidate(tmp_path / "e.npz")
    assert not golden.check(recorded, Candidate(saved.relevances, saved.activations), mode="local", model=model).passed
    assert golden.check(recorded, saved, mode=mode, model=model).passed
    wrong = dataclasses.replace(saved, relevances={**saved.relevances, "stem_bn": saved.relevances["stem_bn"] * 1.001})
    assert not golden.check(recorded, wrong, mode=mode, model=model).passed


def test_command_line(tmp_path, capsys):
    network = zoo.network("keras2/residual_projection")
    weights, path, x = zoo.write(network, tmp_path), tmp_path / "g.lrpgold.h5", network.inputs()[:1]
    np.save(tmp_path / "x.npy", x)
    record = ["golden", "record", "-w", str(weights), "-x", str(tmp_path / "x.npy"), "-c", "epsilon_plus", "-o", str(path)]
    assert main(record) == 0
    assert main(["golden", "verify", str(path), "--recompute", "-w", str(weights)]) == 0
    assert "the same bits" in capsys.readouterr().out
    recorded = golden.read(path)
    branched, above = next((name, readers) for name, readers in recorded.readers.items() if len(readers) > 1)
    e = explain(load(weights), x, "epsilon_plus", recorded.facts["targets"], "float32")
    np.savez(tmp_path / "c.npz", **{f"relevances/{name}": R for name, R in e.relevances.items()})
    assert main(["golden", "check", str(path), str(tmp_path / "c.npz"), "-w", str(weights), "--png", str(tmp_path / "p.png")]) == 0
    assert ", ".join(above) in capsys.readouterr().out
    assert main(["golden", "export", str(path), "--to", "raw", "-w", str(weights), "-o", str(tmp_path / "raw")]) == 0
    capsys.readouterr()
    again = read_candidate(tmp_path / "raw")
    assert {edge for edge in again.edges if edge[1] == branched} == {(reader, branched) for reader in above}
    assert set(again.relevances) >= set(recorded.names)
    assert main(["golden", "check", str(path), str(tmp_path / "raw"), "--mode", "isolated", "--json", str(tmp_path / "r.json")]) == 0
    rows = json.loads((tmp_path / "r.json").read_text())["rows"]
    named = [row["layer"] for row in rows if row["array"] == branched and row["what"] == "relevance"]
    assert sorted(named) == sorted([*above, ", ".join(above)])


# --- no false alarm ---------------------------------------------------------------------------------------------------


def test_float32_stays_within(goldens, model):
    for recorded in goldens.values():
        report = golden.check(recorded, isolated_run(recorded, model), mode="isolated")
        assert verdicts(report) <= {"EXACT", "WITHIN"} and report.passed, str(report)
        assert len(report.rows) == 20 + 4 and max(row.judgement.ratio for row in report.rows) < 0.7


@pytest.mark.parametrize("case", ["epsilon_plus", "epsilon_alpha2_beta1_flat", "gamma", "epsilon_gamma_box(low=-3.0, high=3.0)"])
@pytest.mark.parametrize("name", ["b_projection", "c_inception", "e_mobilenet", "l_activations"])
def test_a_plain_backend_is_never_blamed(name, case):
    """BLAS's sums, NumPy's exp: what others' code would compute, from golden inputs and from end to end."""
    network = NETWORKS[name].folded()
    model, plan = model_of(network), graph_twin.plan("zennit", case)
    recorded = golden.record(model, network.x, case, [int(target) for target in network.targets], dialect="zennit")
    backend = Single(network, plan)
    activations, relevances = (
        {layer.name: getattr(layer, what).values for layer in recorded.layers} for what in ("activation", "relevance")
    )
    R, edges = backend.isolated(activations, relevances)
    report = golden.check(recorded, Candidate(R, edges=edges), mode="isolated")
    assert verdicts(report) <= {"EXACT", "WITHIN"}, str(report)
    assert len(report.rows) == len(recorded.layers) - 1 + sum(len(layer.edges) for layer in recorded.layers)
    activations, R, edges = backend.chained(relevances[recorded.names[-1]])
    for mode in ("chained", "local"):
        report = golden.check(recorded, Candidate(R, activations, edges=edges), mode=mode, model=model)
        assert verdicts(report) <= {"EXACT", "WITHIN"}, str(report)
        assert len(report.rows) >= 2 * len(recorded.layers) - 2


@pytest.mark.parametrize("dialect", ["captum", "innvestigate", "zennit"])
def test_every_operation_has_bounds_that_float32_keeps(dialect):
    seen = set()
    for name in ("g_maximum", "h_squeeze", "l_activations", "m_unet", "n_layernorm", "p_twice", "d_densenet"):
        network = NETWORKS[name]
        model = model_of(network)
        recorded = golden.record(model, network.x, "epsilon", dialect=dialect)
        report = golden.check(recorded, isolated_run(recorded, model), mode="isolated")
        assert verdicts(report) <= {"EXACT", "WITHIN"}, str(report)
        steps = make_steps(model, np.dtype("float32"), "direct", merge=False)
        given = [np.float32(layer.activation.values) for layer in recorded.layers]
        forward = {step.name: run_step(step, OPERATIONS[step.kind].gather(step, [given[j + 1] for j in step.inputs])) for step in steps}
        report = golden.check(recorded, Candidate({}, forward), mode="isolated")
        assert verdicts(report) <= {"EXACT", "WITHIN"} and len(report.rows) == len(steps), str(report)
        seen |= {step.kind for step in steps}
    assert {
        "sum",
        "maximum",
        "minimum",
        "product",
        "curve",
        "rectifier",
        "norm",
        "scale",
        "conv_transpose",
        "upsample",
        "concatenate",
    } <= seen


# --- faults and diagnosis ---------------------------------------------------------------------------------------------


def with_fault(recorded, single, at, got):
    """Return what a right backend gives, but for one layer; and the names of arrays and edges that this changes."""
    wrong = candidate_of(at, got)
    relevances, edges = {**single.relevances, **wrong.relevances}, {**single.edges, **wrong.edges}
    for _, name in wrong.edges:
        first, *others = [edges[reader, name] for reader in recorded.readers[name][::-1]]
        relevances[name] = sum(others, first)
    return Candidate(relevances, edges=edges)


def test_the_14_faults_diverge_at_their_own_layer(goldens, model):
    """Of 13 faults in layers (the other one is the start); where one isn't caught, it lies below rounding or changes nothing."""
    caught, missed = {}, set()
    for name, recorded in goldens.items():
        single = isolated_run(recorded, model)
        for at in places_of(recorded, model, "float32").values():
            right = {**candidate_of(at, at.run()).relevances, **candidate_of(at, at.run()).edges}
            for fault in FAULTS:
                got = fault.run(at)
                if got is None:
                    continue
                report = golden.check(recorded, with_fault(recorded, single, at, got), mode="isolated")
                diverged = [row for row in report.rows if row.verdict == "DIVERGED"]
                changed = candidate_of(at, got)
                same = all(np.array_equal(R, right[key]) for key, R in (*changed.relevances.items(), *changed.edges.items()))
                if not diverged:
                    missed.add((fault.number, same))
                    continue
                assert not same and diverged[0].layer == at.step.name, f"{name}, {fault.name} in {at.step.name}: {report}"
                assert all(at.step.name in row.made_by for row in diverged)
                caught.setdefault(fault.number, set()).add(at.step.name)
    assert set(caught) == {fault.number for fault in FAULTS}
    assert {number for number, same in missed if not same} <= {1, 2, 10}
    convolutions = {"stem_conv", "body1_conv", "body2_conv", "shortcut_conv", "side_conv"}
    assert caught[3] == caught[4] == caught[14] == {*convolutions, "predictions"} and caught[8] == convolutions - {"shortcut_conv"}
    assert caught[12] == {"stem_pool", "top_pool"} and caught[7] == {"flatten"} and caught[6] == {"stem_conv"}


def test_audits_cover_every_layer_of_a_graph(goldens, model):
    full, digest = golden.audit(goldens["epsilon_plus"], model), golden.audit(digest_of(goldens["epsilon_plus"]), model)
    assert full.passed and {m.layer for m in full.mutants} >= {"add", "shortcut_conv", "side_conv", "stem_pool"}
    assert {(m.number, m.layer) for m in full.mutants} == {(m.number, m.layer) for m in digest.mutants}
    assert {m.number for m in digest.mutants if m.caught} == {m.number for m in full.mutants if m.caught}


def test_a_fault_behind_a_branch_is_named_with_its_layer(goldens, model):
    recorded = goldens["epsilon_plus"]
    single, at = isolated_run(recorded, model), places_of(recorded, model, "float32")["side_conv"]
    wrong = with_fault(recorded, single, at, fault_named(8).run(at))
    report = golden.check(recorded, wrong, mode="isolated", model=model)
    assert report.first.layer == "side_conv" and "kernel not flipped" in report.diagnosis[-1], str(report)
    report = golden.check(recorded, Candidate(wrong.relevances), mode="isolated", model=model)  # sums alone don't tell whose it is
    assert report.first.layer == "side_conv, concat" and "convolution in side_conv" in report.diagnosis[-1], str(report)
    lost = {**single.relevances, "add_relu": single.edges["side_conv", "add_relu"]}
    report = golden.check(recorded, Candidate(lost), mode="isolated", model=model)
    assert 'matches "what concat gives left out"' in report.diagnosis[-1], str(report)


def test_a_plain_plus_is_named(goldens, model):
    """Without a module for the sum, PyTorch's tools hand all of R to both branches."""
    recorded = goldens["epsilon_plus"]
    single, R = isolated_run(recorded, model), np.float32(recorded["add"].relevance.values)
    report = golden.check(recorded, Candidate({**single.relevances, "shortcut_bn": R, "body2_bn": R}), mode="isolated", model=model)
    assert {row.array for row in report.rows if row.verdict == "DIVERGED"} == {"shortcut_bn", "body2_bn"}
    assert report.first.layer == "add" and "gradient" in report.diagnosis[-1], str(report)


def test_a_skip_connection_left_out_is_named(goldens, model, x):
    recorded = goldens["epsilon_plus"]
    steps = make_steps(model, np.dtype("float32"), "direct", merge=False)
    own = dict(zip(recorded.names, run_forward(steps, np.float32(x)).activations, strict=True))
    own["add"] = own["body2_bn"]
    report = golden.check(recorded, Candidate({}, own), mode="local", model=model)
    assert report.first.layer == "add" and '"input shortcut_bn left out"' in report.diagnosis[1], str(report)


def test_only_what_hangs_on_a_divergence_is_inherited(goldens, model, x):
    recorded = goldens["epsilon_plus"]
    e = explain(model, x, "epsilon_plus", recorded.facts["targets"], "float32", "direct")
    R = {**e.relevances, "body2_conv": e.relevances["body2_conv"] * np.float32(1.1), "shortcut_conv": e.relevances["shortcut_conv"] * 2}
    R["body1_relu"] = R["body1_relu"] * np.float32(1.1)
    found = {row.array: row.verdict for row in golden.check(recorded, Candidate(R), mode="chained").rows}
    assert (found["body2_conv"], found["shortcut_conv"], found["body1_relu"]) == ("DIVERGED", "DIVERGED", "inherited"), found


def test_merged_norms_across_branches_are_given_what_the_plan_has(goldens, model):
    plan = plan_of(goldens["epsilon_plus"], model, "float64")
    at = places_of(goldens["epsilon_plus"], model, "float64")["add"]
    for step, a in zip(plan.steps, at.trace.activations[1:], strict=True):
        if step.merged:
            np.testing.assert_array_equal(a, at.trace.activations[step.options["into"] + 1])


def test_an_epsilon_whose_sign_rounding_turns_is_no_fault():
    """The mean of x - mean(x): z is nothing but rounding, and with an epsilon of its sign a backend may have -R for R."""
    network = zoo.network("keras2/operations_tf")
    with tempfile.TemporaryDirectory() as folder:
        model = load(zoo.write(network, folder))
    recorded = golden.record(model, network.inputs()[:1], "epsilon_plus")
    report = golden.check(recorded, isolated_run(recorded, model), mode="isolated")
    assert report.passed and sum(row.judgement.undecided for row in report.rows) > 100, str(report)
