"""The suite itself: what is in the package is what its command makes, and what the papers say."""

import json
import platform
import subprocess
import sys
import zlib

import numpy as np
import pytest

from nplrp.conformance import load, seeded
from nplrp.conformance.cases import all_cases
from nplrp.conformance.computing import Bench
from nplrp.conformance.make import answered
from nplrp.conformance.suite import PATH, Suite, packed, rule_in, tolerances, write
from nplrp.golden.faults import FAULTS
from nplrp.rules import RULES
from nplrp.rules.dialects import DIALECTS
from tests.conformance import paper

#: Where a layer's rule leaves inputs without relevance: windows with gaps, winners, what is cut off, what has the input as a factor.
SPARE = ("conv-stride3", "maxpool", "maximum", "minimum", "crop", "signal", "multiply", "relu")


#: What has inputs or units without contributions on purpose.
BARE = ("dead", "one-sided", "zeros", "z-zero", "cancelling")


@pytest.fixture(scope="module")
def suite():
    return load()


def test_what_it_holds(suite):
    names = [case.name for case in suite]
    assert len(names) == len(set(names)) > 1000
    assert PATH.stat().st_size < 2_000_000
    rules = {answer.rule["name"] for case in suite for answer in case.answers}
    assert rules == set(RULES), "a rule of the engine without a case"
    assert {dialect for case in suite for answer in case.answers for dialect in answer.dialects} == set(DIALECTS)
    kinds = {case.layer.kind for case in suite}
    wanted = {"conv", "depthwise", "conv_transpose", "dense", "maxpool", "avgpool", "global_maxpool", "global_avgpool", "flatten"}
    assert wanted | {"add", "concatenate", "batchnorm", "activation", "multiply", "layernorm"} <= kinds
    for rule in ("zero", "epsilon", "gamma", "zplus", "alpha2_beta1", "wsquare", "flat", "zbox"):
        inputs = {case.input_name for case in suite if case.rule_name == rule}
        assert {"z-zero", "one-sided", "dead", "constant", "large", "cancelling", "bias-negative", "batch"} <= inputs, rule


def test_numbers_are_those_of_float32(suite):
    for case in suite:
        for array in (*case.inputs, case.R, *case.layer.arrays.values()):
            assert np.array_equal(array, array.astype(np.float32))
        for answer in case.answers:
            for tensor in answer.tensors:
                assert all(np.isfinite(each).all() for each in (tensor.values, tensor.expected, tensor.certified, tensor.undecided))


def test_relevance_is_dense(suite):
    """Where the rule and the layer leave no input out, at least 99 % of the answers aren't 0; and nowhere is the top sparse."""
    nonzero = total = 0
    for case in suite:
        assert np.count_nonzero(case.R) == case.R.size
        answer = case.answer("nplrp")
        if answer is None or case.input_name in BARE or any(each in case.name for each in SPARE):
            continue
        if answer.rule["name"] in ("zplus", "alpha_beta", "alpha_beta_x", "slope") or answer.rule.get("stabiliser") == "guard":
            continue  # of contributions of one sign, or of units of one sign
        given = np.concatenate([a.ravel() for a in case.inputs]) != 0
        values = np.concatenate([tensor.values.ravel() for tensor in answer.tensors])[given]
        assert np.count_nonzero(values) >= 0.6 * values.size, case.name  # some sums of grid numbers are 0
        nonzero, total = nonzero + np.count_nonzero(values), total + values.size
    assert nonzero >= 0.99 * total > 15_000, nonzero / total


def test_the_file_is_what_the_command_makes(suite):
    """A part of the cases, made anew: the same numbers, bit for bit, and in a table that packs the same."""
    asked = list(all_cases())[::23]
    made = Suite(tuple(case for case in map(answered, asked) if case.answers))
    stored = Suite(tuple(suite[case.name] for case in made))
    assert len(made) > 50
    (table, pools), (wanted, stored_pools) = packed(made), packed(stored)
    assert json.dumps(table, sort_keys=True) == json.dumps(wanted, sort_keys=True)
    for name in pools:
        assert np.array_equal(pools[name], stored_pools[name]), name
    assert made.content_sha256 == stored.content_sha256


@pytest.mark.slow
def test_all_of_the_file_is_what_the_command_makes(suite, tmp_path):
    subprocess.run([sys.executable, "-m", "nplrp.conformance.make", str(tmp_path / "again.h5")], check=True)
    assert load(tmp_path / "again.h5").content_sha256 == suite.content_sha256


def test_it_is_written_and_read_the_same(suite, tmp_path):
    few = Suite(suite.cases[::100])
    write(few, tmp_path / "few.h5")
    assert load(tmp_path / "few.h5").content_sha256 == few.content_sha256


def test_seeded_numbers_are_known():
    """By hand, from the definition of SplitMix64 and of SHA-256: they depend on no library's generator."""
    found = seeded.integers("a", 2)
    mask, h, numbers = 2**64 - 1, int.from_bytes(bytes.fromhex("ca978112ca1bbdca"), "little"), []
    for _ in range(2):
        h = (h + 0x9E3779B97F4A7C15) & mask
        z = ((h ^ (h >> 30)) * 0xBF58476D1CE4E5B9) & mask
        z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & mask
        numbers.append(z ^ (z >> 31))
    assert found.tolist() == numbers


def check_by_paper(cases):
    """Compare every answer with loops in fractions, or in 50 digits, within float64's bound."""
    worst, count = 0.0, 0
    for case in cases:
        for answer in case.answers:
            exact = paper.relevance(case, answer)
            for tensor, found in zip(answer.tensors, exact, strict=True):
                bound = tensor.expected.astype(float) * 2.0**-29
                for at, value in found.items():
                    error = abs(float(value - type(value)(float(tensor.values[at])))) if value else abs(float(tensor.values[at]))
                    assert error <= bound[at], (case.name, answer.rule, at, float(value), tensor.values[at], bound[at])
                    worst, count = max(worst, error / max(bound[at], 1e-300)), count + 1
    return worst, count


def test_answers_are_those_of_the_papers(suite):
    """A quarter of the cases: all rules, all layers."""
    seen, cases = set(), []
    for case in suite:
        new = {case.rule_name, case.layer_name} - seen
        if new or zlib.crc32(case.name.encode()) % 4 == 0:
            cases.append(case)
        seen |= new
    assert {case.rule_name for case in cases} == {case.rule_name for case in suite}
    assert {case.layer_name for case in cases} == {case.layer_name for case in suite}
    worst, count = check_by_paper(cases)
    assert worst < 1 and count > 20_000


@pytest.mark.slow
def test_all_answers_are_those_of_the_papers(suite):
    check_by_paper(suite.cases)


def test_the_papers_loops_can_tell(suite):
    """A sign, a bias, a winner or a stabiliser that is wrong in an answer is seen."""
    for name, dialect, other in (
        ("gamma.conv-valid.mixed", "zennit-0.5", "captum-0.9"),
        ("zplus.dense.bias-negative", "zennit-0.5", "innvestigate-2.1"),
        ("own.maxpool-2x2.ties", "zennit-0.5", "lrp_toolbox-1.3"),
        ("epsilon.dense.z-zero", "zennit-0.5", "montavon"),
    ):
        case = suite[name]
        right, wrong = case.answer(dialect), case.answer(other)
        found = paper.relevance(case, wrong)[0]
        tensor = right.tensors[0]
        assert any(abs(float(found[at]) - tensor.values[at]) > tensor.certified[at] for at in found), name


def test_exact_sums_are_exact(suite):
    """What makes the tolerances tight: in float32, in any order, z is the number that float64 has."""
    rng = np.random.default_rng(0)
    for name in (
        "epsilon.dense.z-zero",
        "gamma.dense.large",
        "zplus.conv-same-stride2.small",
        "wsquare.dense.mixed",
        "zbox.dense.constant",
    ):
        case = suite[name]
        assert case.exact
        numbers = paper.Numbers(case, case.answer("nplrp"), float)
        for _, bias, entries in list(paper.rows(numbers)):
            terms = np.array([numbers.inputs[i][at] * w for (i, at), w in entries] + [bias])
            exact = paper.Fraction(0) + sum(paper.Fraction(float(term)) for term in terms)
            for _ in range(3):
                total = np.float32(0)
                for term in rng.permutation(terms.astype(np.float32)):
                    total = np.float32(total + term)
                assert paper.Fraction(float(total)) == exact


def test_float32_tolerances_are_a_few_roundings(suite):
    """Where sums are exact, no tolerance is more than some hundred ulps of what is added up."""
    for case in suite:
        answer = case.answer("nplrp")
        if not case.exact or answer is None or answer.rule["name"] != "epsilon":
            continue
        for tensor in answer.tensors:
            expected, certified, undecided = tolerances(tensor, "float32")
            assert not undecided.any() and np.array_equal(expected, certified)
            assert expected.max() <= 1e-4 * max(np.abs(tensor.values).max(), np.abs(case.R).max()), case.name


@pytest.mark.parametrize("fault", [f for f in FAULTS if f.number not in (1, 2)], ids=lambda f: f.name)
def test_seeded_faults_are_caught(suite, fault):
    """In most cases where they change a bit; the epsilons of 1e-7 that float32 can't see are left out."""
    from nplrp import layers
    from nplrp.conformance.running import ratio_to

    shown = caught = 0
    chosen = {6: "*.conv-1x1.*", 7: "own.flatten.*", 10: "*max*ties", 12: "own.maxpool*", 13: "zbox.*"}.get(fault.number)
    for case in suite.only([chosen]) if chosen else suite.cases[::24]:
        answer = case.answer("nplrp")
        if answer is None:
            continue
        bench = Bench(case.layer, case.inputs, case.R, case.exact)
        at = bench.place(None if bench.asks_for_own(case.rule_name) else rule_in(answer), "nplrp")
        with np.errstate(all="ignore"):
            R = fault.run(at)
        if R is None or np.array_equal(R, at.run()):
            continue
        shown += 1
        caught += ratio_to(answer.tensors, [each.astype(np.float32) for each in layers.scatter(at.step, R)], "float32")[0] > 1
    assert shown and caught >= 0.85 * shown, (shown, caught)


def test_it_is_the_same_file_whatever_the_machine(suite):
    """What CI on another machine compares: the hash that x86-64 made."""
    assert platform.machine()
    assert json.loads((PATH.parent / "suite.json").read_text("utf-8")) == {
        "answers": sum(len(case.answers) for case in suite),
        "cases": len(suite),
        "content_sha256": suite.content_sha256,
        "version": 1,
    }
