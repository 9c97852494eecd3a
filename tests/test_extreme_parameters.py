"""Every rule with each of its parameters at the ends of what numbers can be, in the library, on the command line and in the server.

It is refused when the plan is made, in one line; or the map is finite and not zero everywhere; or it is said what is wrong with it.
"""

import itertools
import json
import logging
import math
import warnings

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp import Rule, cli
from nplrp.errors import NumericsError, RuleError
from nplrp.rules import RULES, Part, Term
from nplrp.rules.composites import COMPOSITES, Composite
from nplrp.rules.rule import AS_IS, Clamp
from tests.keras_files import FILES
from tests.networks import images, small_resnet, small_vgg

VALUES = (0, -0.0, -1, 1, 1e-45, 1e-39, 1e-30, 1e30, 1e38, 3.4e38, 1e39, 1e300, 1.7e308, math.nan, math.inf, -math.inf, 10**400)
FEW = (0, -1, 1e-45, 1e-39, 1e38, 1e39, 1.7e308, math.nan, math.inf, 10**400)
OTHERS = (True, "x", [], (1e38, 1e38, 1e38), (), b"1", 1j, np.float32(1))
DTYPES = ("float32", "float64")
NUMBERS = {name: [p for p in row.parameters if p in ("epsilon", "gamma", "alpha", "beta", "low", "high")] for name, row in RULES.items()}


def everywhere(rule):
    """Return the composite that has a rule wherever it fits, and others elsewhere."""
    return Composite("extreme", ((tuple(rule.fits), rule), (("conv", "dense", "scale", "avgpool"), Rule("epsilon")), (("maxpool",), None)))


@pytest.fixture(scope="module")
def model():
    return small_resnet(size=8)


def judge(model, make, dtype, caplog):
    """Return how it ended, in a word; fail if nobody is told that a map is none."""
    caplog.clear()
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # NumPy's own say nothing to whoever gets them
        try:
            composite = make()
            nplrp.make_plan(model, composite, dtype)
        except RuleError as error:
            assert "\n" not in str(error)
            assert len(str(error)) < 1000
            return "refused"
        try:
            e = nplrp.explain(model, images(0, 1, model.input_shape), composite, dtype=dtype)
        except NumericsError as error:
            assert "\n" not in str(error)
            return "said"
        assert np.isfinite(e.relevance).all()
        told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
        assert e.relevance.any() or any("0 everywhere" in each for each in told)
        book = e.books
        assert str(book)
        assert all("\n" not in each for each in book.alarms())
        return "fine" if e.relevance.any() else "said"


SETS = [pytest.param(FEW, id="few"), pytest.param((*VALUES, *OTHERS), id="all", marks=pytest.mark.slow)]


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", [name for name, numbers in NUMBERS.items() if numbers])
def test_every_rule(model, name, dtype, values, caplog):
    ends = {}
    for parameter, value in itertools.product(NUMBERS[name], values):
        given = {parameter: value}
        if parameter == "low":
            given["high"] = 1e3 if not isinstance(value, tuple) else (2e38,) * 3
        if parameter == "high":
            given["low"] = -1e3
        ends[parameter, str(value)] = judge(model, lambda given=given: everywhere(Rule(name, **given)), dtype, caplog)
    assert "refused" in ends.values()
    for parameter in NUMBERS[name]:
        for value in ("nan", "inf", "-inf", str(10**400), "1j", "x"):
            assert ends.get((parameter, value), "refused") == "refused", (parameter, value)
    if dtype == "float32":
        for parameter in NUMBERS[name]:
            for value in ("1e+39", "1e+300", "1.7e+308"):
                assert ends.get((parameter, value), "refused") == "refused", (parameter, value)
    assert "fine" in ends.values()


@pytest.mark.parametrize("values", SETS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("what", ["weight", "positive", "negative", "bias", "epsilon", "both terms"])
def test_rules_of_ones_own(model, what, dtype, values, caplog):
    def rule(value):
        clamp = Clamp(value if what == "positive" else 1.0, value if what == "negative" else 1.0)
        bias = Clamp(value, value) if what == "bias" else AS_IS
        terms = (Term("a+", Clamp(value, 1.0)), Term("a-", Clamp(1.0, value))) if what == "both terms" else (Term("a", clamp),)
        parts = [Part((Term("a"),), AS_IS, 0.5), Part(terms, bias, value if what == "weight" else 1.0)]
        return Rule.from_parts("own", parts, epsilon=value if what == "epsilon" else None)

    ends = {str(value): judge(model, lambda value=value: everywhere(rule(value)), dtype, caplog) for value in values}
    for value in ("nan", "inf", str(10**400), "x"):
        assert ends.get(value, "refused") == "refused"
    assert (ends["1e+39"] == "refused") == (dtype == "float32")
    assert ends.get("1", "fine") == "fine"


def test_what_is_wrong_with_a_part_is_said(model):
    rule = Rule.from_parts("own", [Part((Term("a"),), AS_IS), Part((Term("a", Clamp(1e39, 1.0)),), AS_IS)])
    with pytest.raises(RuleError, match=r"a Clamp of its part 1, \(1e\+39, 1\.0\), is .*, which float32 can't hold"):
        nplrp.make_plan(model, everywhere(rule))
    with pytest.raises(RuleError, match=r"the weight of its part 0 is 1e\+39, which float32 can't hold"):
        nplrp.make_plan(model, everywhere(Rule.from_parts("own", [Part((Term("a"),), AS_IS, 1e39)])))
    nplrp.make_plan(model, everywhere(rule), "float64")


#: As they are written on a command line, or in a request.
TEXTS = ("0", "-1", "1e-45", "1e-39", "1e30", "1e38", "1e39", "1e308", "nan", "inf", "-inf", "1" + "0" * 400, "x", "true", "(1,2,3)", "")
CASES = [
    (composite, parameter, text)
    for composite, parameters in {
        "epsilon": ["epsilon"],
        "gamma": ["gamma", "epsilon"],
        "alpha_beta": ["alpha", "beta"],
        "zplus": ["epsilon"],
        "wsquare": ["epsilon"],
        "flat": ["epsilon"],
        "zbox": ["low", "high"],
        "montavon_vgg16": ["epsilon", "gamma"],
    }.items()
    for parameter in parameters
    for text in TEXTS
]


def written(composite, parameter, text):
    """Return a composite with a parameter as text."""
    other = {"low": ", high=1000", "high": ", low=-1000"}.get(parameter, "")
    return f"{composite}({parameter}={text}{other})"


def test_every_composite_of_these_is_there():
    assert {composite for composite, _, _ in CASES} <= set(COMPOSITES)


@pytest.mark.parametrize("dtype", DTYPES)
def test_on_the_command_line(tmp_path, capsys, monkeypatch, dtype):
    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save("i.png")
    model = nplrp.load(FILES / "small32_k3.keras")
    monkeypatch.setattr("nplrp.files.given.Given.load", lambda _: model)
    ends = set()
    for case in CASES:
        code = cli.main(["explain", "i.png", "-w", "w", "-c", written(*case), "--dtype", dtype, "--json", "--ledger"])
        out, err = capsys.readouterr()
        if code:
            assert code == 2
            assert err.startswith("nplrp: ") and err.count("\n") == 1 and "unexpected" not in err, (case, err)
            assert not out
        else:
            found = json.loads(out)["results"][0]["images"][0]["relevance"]
            assert all(math.isfinite(value) for value in found.values())
            assert found["min"] < found["max"] or "0 everywhere" in err
        ends.add(code)
    assert ends == {0, 2}


def test_in_the_server():
    pytest.importorskip("starlette")
    from tests.serve.servers import local

    model = small_vgg(size=8)
    x = images(0, 1, model.input_shape).tolist()
    ends = set()
    with local(model, dtypes=DTYPES) as server:
        for dtype, case in itertools.product(DTYPES, CASES):
            answer = server.explain(x, {"composite": written(*case), "dtype": dtype, "encoding": "list"})
            assert answer.status_code in (200, 400), (case, answer.text)
            if answer.status_code == 400:
                assert answer.json()["code"] in ("bad_rule", "not_finite", "bad_parameter"), (case, answer.text)
                assert "\n" not in answer.json()["error"]
            else:
                (found,) = answer.json()["explanations"]
                R = np.asarray(found["relevance"]["input"]["list"])
                assert np.isfinite(R).all()
                assert R.any() or any("0 everywhere" in each for each in found["warnings"]), case
                overflows = any(value is None for row in found["ledger"] for value in row.values())
                assert not overflows or found["warnings"]
            ends.add(answer.status_code)
    assert ends == {200, 400}
