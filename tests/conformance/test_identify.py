"""Which dialect: right on every dialect's own answers, on those of real libraries, and on mixtures; none if none is near."""

from pathlib import Path

import numpy as np
import pytest

from nplrp import golden
from nplrp.cli import main
from nplrp.conformance import answers_of, identified, identified_run, load, read_answers
from nplrp.golden.candidate import Candidate
from nplrp.golden.file import write
from nplrp.golden.isolated import isolated_run
from nplrp.rules.dialects import DIALECTS
from tests.networks import images, small_vgg

DATA = Path(__file__).parents[1] / "data" / "peers"
ANSWERS = {path.stem.removeprefix("conformance_"): path for path in sorted(DATA.glob("conformance_*.npz"))}
NAMES = {"zennit": "zennit-0.5", "captum": "captum-0.9", "innvestigate": "innvestigate-2.1", "lxt": "lxt-2.1"}


@pytest.fixture(scope="module")
def part():
    return load().only(["*.dense.*", "*.conv-same-stride2.z-zero", "own.*", "norm.*"])


def spoken(suite, dialect, precision="float32"):
    """What a perfect backend of a dialect would say, with rounding of its own."""
    dtype = np.dtype(precision)
    cases = suite.only((), dialect)
    return {case.name: tuple(t.values.astype(dtype) for t in case.answer(dialect).tensors) for case in cases}


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("precision", ["float32", "float64"])
def test_every_dialect_knows_itself(part, dialect, precision):
    identity = identified(part, spoken(part, dialect, precision), precision)
    assert dialect in identity.equals and identity.nearest in identity.equals and identity.exit_code == 0
    assert all(dialect in finding.dialects for finding in identity.findings)
    if precision == "float64" and dialect != "notebook":
        assert identity.equals == (dialect,), str(identity)


def test_the_right_answers_are_there_for_every_library():
    assert set(ANSWERS) == set(NAMES)


@pytest.mark.parametrize("library", ANSWERS)
def test_libraries_are_known_by_their_answers(library):
    """What Zennit, Captum, iNNvestigate and LXT said (tests/peers/run_conformance.py)."""
    suite = load()
    identity = identified(suite, read_answers(ANSWERS[library], suite), "float32", NAMES[library])
    assert identity.nearest == NAMES[library] and identity.equals == (NAMES[library],)
    assert identity.shares[NAMES[library]] > 0.97, str(identity)


def test_mixtures_are_told_rule_by_rule(part):
    said = spoken(part, "zennit-0.5")
    other, pools = spoken(part, "captum-0.9"), spoken(part, "lrp_toolbox-1.3")
    said |= {name: each for name, each in other.items() if name.startswith("gamma.")}
    said |= {name: each for name, each in pools.items() if name.startswith("own.maxpool")}
    identity = identified(part, said)
    found = {finding.rule: finding for finding in identity.findings}
    assert identity.nearest == "zennit-0.5"
    assert found["gamma"].dialects == ("captum-0.9",)
    assert "zennit-0.5" in found["zplus"].dialects and "zennit-0.5" not in found["own"].dialects
    text = str(identity)
    assert "captum-0.9  <- differs" in text and "maxpool" in text.partition("own ")[2].splitlines()[0]


def test_other_constants_are_no_other_dialect(part):
    """A backend of Captum's formulas that was given nplrp's epsilons."""
    asked = part.only(["epsilon.dense.*", "gamma_plain.dense.*", "zplus.dense.*"])
    from nplrp.conformance.computing import Bench
    from nplrp.conformance.suite import rule_in

    said = {}
    for case in asked:
        own, other = case.answer("captum-0.9"), case.answer("nplrp")
        rule = rule_in(own)
        bench = Bench(case.layer, case.inputs, case.R, case.exact)
        from dataclasses import replace

        said[case.name] = bench.run(bench.place(replace(rule, epsilon=other.rule["epsilon"]), "captum-0.9", "float32"))
    identity = identified(asked, said, "float32", "nplrp")
    assert "captum-0.9" in identity.equals, str(identity)


def test_none_is_near(part):
    rng = np.random.default_rng(0)
    said = {name: tuple(each * rng.uniform(0.5, 2) for each in arrays) for name, arrays in spoken(part, "zennit-0.5").items()}
    identity = identified(part, said)
    assert identity.nearest is None and identity.exit_code == 1 and "none of the known dialects" in str(identity)
    assert identified(part, {}).exit_code == 4


def test_a_switch_that_no_dialect_has_is_named(part):
    """gamma without the bias at all, everywhere."""
    said = {}
    for case in part.only(["gamma.dense.*"]):
        no_bias = part[case.name.replace("gamma.", "gamma_no_bias.")]
        from nplrp.conformance.computing import Bench
        from nplrp.conformance.suite import rule_in

        bench = Bench(case.layer, case.inputs, case.R, case.exact)
        said[case.name] = bench.run(bench.place(rule_in(no_bias.answer("zennit-0.5")), "zennit-0.5", "float32"))
    (finding,) = identified(part, said).findings
    assert not finding.dialects and "bias=none in the denominators" in finding.otherwise


@pytest.fixture(scope="module")
def recorded():
    model = small_vgg()
    return model, golden.record(model, images(1, 1, (8, 8, 3)).astype("f4"), "epsilon_plus", target=2)


def test_a_golden_run(recorded):
    """A backend of another dialect, known by one run; its layers are computed again from its own numbers."""
    from nplrp.explanation import explain

    model, run = recorded
    for dialect in ("zennit-0.5", "innvestigate-2.1"):
        e = explain(model, run.input, "epsilon_plus", 2, dialect=dialect, dtype="float64", algorithm="direct")
        candidate = Candidate({name: e.relevances[name] for name in run.names if name in e.relevances}, source="me")
        identity = identified_run(run, model, candidate)
        assert identity.nearest == dialect or dialect in identity.equals, str(identity)
    identity = identified_run(run, model, isolated_run(run, model), "isolated")
    assert "zennit-0.5" in identity.equals


def test_command_line(recorded, tmp_path, capsys, part):
    for name, arrays in spoken(part.only(["gamma.*"]), "captum-0.9").items():
        np.concatenate([each.ravel() for each in arrays]).tofile(tmp_path / f"{name}.bin")
    assert main(["golden", "identify", str(tmp_path), "--json", str(tmp_path / "i.json")]) == 0
    assert f"{tmp_path}: captum-0.9" in capsys.readouterr().out and (tmp_path / "i.json").exists()
    assert main(["golden", "identify", "--backend", "nplrp", "-d", "rp.jl", "-k", "gamma.dense.*"]) == 0
    assert "rp.jl-3" in capsys.readouterr().out
    _, run = recorded
    write(run, tmp_path / "g.lrpgold.h5")
    for words, what in (
        ([], "nothing to identify"),
        ([str(tmp_path), "--golden", str(tmp_path / "g.lrpgold.h5")], "--weights"),
        ([str(tmp_path), "--weights", "w.h5"], "--weights is for --golden"),
    ):
        assert main(["golden", "identify", *words]) == 2
        assert what in capsys.readouterr().err


def test_own_answers_through_a_backend(part):
    few = part.only(["alpha2_beta1.dense.*", "zplus.dense.*"])
    identity = identified(few, answers_of("nplrp", few, "innvestigate-2.1"), asked="innvestigate-2.1")
    assert identity.nearest == "innvestigate-2.1"


def test_a_golden_run_on_the_command_line(tmp_path, capsys):
    """A VGG16 from a file; the candidate is iNNvestigate's dialect from end to end, in .npz."""
    import nplrp
    from tests.keras_files import vgg, write_by_name

    weights = write_by_name(tmp_path / "w.h5", vgg(side=1))
    model = nplrp.load(weights)
    run = golden.record(model, images(3, 1, model.input_shape).astype("f4"), "epsilon_plus", target=1)
    golden.write(run, tmp_path / "g.lrpgold.h5")
    e = nplrp.explain(model, run.input, "epsilon_plus", 1, dialect="innvestigate", dtype="float64", algorithm="direct")
    np.savez(tmp_path / "c.npz", **{f"relevances/{name}": R for name, R in e.relevances.items()})
    words = ["golden", "identify", str(tmp_path / "c.npz"), "--golden", str(tmp_path / "g.lrpgold.h5"), "-w", str(weights)]
    assert main(words) == 0
    assert ": innvestigate-2.1 (" in capsys.readouterr().out
    assert main([*words, "--mode", "chained"]) == 2
    assert "there is no mode 'chained'" in capsys.readouterr().err
