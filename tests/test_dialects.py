"""Dialects: tables that resolve, print and differ as documented."""

import pickle
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp.cli import main
from nplrp.errors import RuleError
from nplrp.plan import make_plan
from nplrp.rules import RULES, Rule
from nplrp.rules.composites import COMPOSITES, LINEAR, POOLS, Composite
from nplrp.rules.dialects import DIALECTS, dialect_named, differences, formula
from tests.networks import dense, images, small_vgg


def test_the_dialects_of_the_issue_are_there():
    for name in ("zennit-0.5", "innvestigate-2.1", "captum-0.9", "lrp_toolbox-1.3", "rp.jl-3", "montavon", "notebook"):
        assert dialect_named(name) is dialect_named(name.rpartition("-")[0] or name) is DIALECTS[name]
    with pytest.raises(RuleError, match=r"no dialect 'zenit'; did you mean 'zennit-0\.5'"):
        dialect_named("zenit")


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
def test_every_rule_resolves_completely(dialect):
    for name, row in RULES.items():
        rule = dialect.resolve(Rule(name), row.fits[0])
        assert rule == rule.resolved()
        assert dialect.resolve(rule, row.fits[0]) == rule  # what is set stays set
        assert formula(rule)
    assert pickle.loads(pickle.dumps(dialect)) == dialect
    assert dialect.name in str(dialect)
    assert f"start {dialect.start}" in str(dialect)


#: What the sources of each system say: its max-pools, its average pools, and the rules that it has.
SOURCES = {
    "notebook": ("winner_epsilon(1e-07, plus)", "epsilon(1e-07, plus)", "epsilon(1e-07, plus)", "zplus(1e-07, plus)"),
    "zennit-0.5": (
        *("winner", "norm(1e-06, sign)", "epsilon(1e-06, sign)", "gamma(gamma=0.25, 1e-06, sign)", "zplus(1e-06, sign)"),
        *("alpha_beta(alpha=2.0, beta=1.0, 1e-06, sign)", "wsquare(1e-06, sign, bias=changed)", "flat(1e-06, sign)", "zbox(1e-06, sign)"),
    ),
    "innvestigate-2.1": (
        *("winner", "norm(1e-07, zero)", "zero(1e-07, zero)", "epsilon(1e-07, sign)", "zplus(1e-07, zero, bias=none)"),
        *(
            "alpha_beta(alpha=2.0, beta=1.0, 1e-07, zero, bias=raw)",
            "alpha_beta_x(alpha=2.0, beta=1.0, 1e-07, zero)",
            "wsquare(1e-07, zero)",
            "flat(1e-07, zero)",
        ),
        "zbox(low=-1.0, high=1.0, 1e-07, zero)",
    ),
    "captum-0.9": (
        *("winner_epsilon(1e-09, sign)", "epsilon(1e-09, sign)", "epsilon(1e-09, sign)"),
        *("gamma(gamma=0.25, 1e-09, sign, bias=raw, split=False)", "zplus(1e-09, sign, bias=raw, split=False)"),
        "alpha_beta(alpha=1.0, beta=0.0, 1e-09, sign, bias=raw, split=False)",
    ),
    "lrp_toolbox-1.3": (
        *("winner_ties", "norm(1e-12, sign)", "zero(1e-16, sign)", "epsilon(1e-16, sign)"),
        *("alpha_beta(alpha=2.0, beta=1.0, 1e-16, sign)", "wsquare(1e-16, sign)", "flat(1e-16, sign)"),
    ),
    "rp.jl-3": (
        *("winner_epsilon(1e-09, sign)", "epsilon(1e-09, sign)", "zero(1e-09, sign)", "epsilon(1e-06, sign)"),
        *("gamma(gamma=0.25, 1e-09, sign, split=False, branch=y)", "zplus(1e-09, sign)", "alpha_beta(alpha=2.0, beta=1.0, 1e-09, sign)"),
        *("wsquare(1e-09, sign)", "flat(1e-09, sign)", "zbox(1e-09, sign)"),
    ),
    "montavon": (
        *("average(1e-09, plus)", "average(1e-09, plus)", "epsilon(1e-09, plus)", "gamma(gamma=0.25, 1e-09, plus, split=False)"),
        "zbox(1e-09, plus)",
    ),
    "lxt-2.1": ("winner", "epsilon(1e-08, plus)", "epsilon(1e-08, plus)"),
}
STARTS_OF = {"notebook": "softmax", "zennit-0.5": "one", "rp.jl-3": "one"}


@pytest.mark.parametrize("dialect", DIALECTS.values(), ids=list(DIALECTS))
def test_dialects_are_what_the_sources_say(dialect):
    def text(rule, kind):
        return str(dialect.resolve(rule, kind)).replace("epsilon=", "").replace("stabiliser=", "")

    assert dialect.start == STARTS_OF.get(dialect.name, "logit")
    if dialect.name != "nplrp":
        pools = (text(None, "maxpool"), text(None, "avgpool"))
        assert (*pools, *(text(Rule(rule.name), "conv") for rule in dialect.rules)) == SOURCES[dialect.name]
    if "zero" not in {rule.name for rule in dialect.rules}:
        assert text(Rule("zero"), "conv") == "zero(0.0, drop)"  # a system without LRP-0 gives it no epsilon


def test_what_a_rule_says_itself_stays():
    rule = Rule("gamma", gamma=0.5, bias="none")
    assert str(dialect_named("captum").resolve(rule, "conv")) == "gamma(gamma=0.5, epsilon=1e-09, stabiliser=sign, bias=none, split=False)"
    assert str(dialect_named("zennit").resolve(rule, "conv")) == "gamma(gamma=0.5, epsilon=1e-06, stabiliser=sign, bias=none)"
    assert dialect_named("innvestigate").resolve(Rule("alpha_beta", alpha=1), "conv").beta == 0


def test_a_dialect_brings_pools_and_start():
    model, x = small_vgg(), images(1, 1, (8, 8, 3))
    plan = make_plan(model, "notebook", dialect="zennit")
    assert plan.start == "one"
    rules = {step.name: str(rule) for step, rule in zip(plan.steps, plan.rules, strict=True)}
    assert rules["fc1"] == "epsilon(epsilon=1e-06, stabiliser=sign)"
    assert rules["block1_pool"] == "winner"
    assert nplrp.explain(model, x, "notebook", dialect="zennit").relevances["predictions"].sum() == 1
    assert nplrp.explain(model, x, "notebook", dialect="zennit", start="logit").targets is not None
    assert make_plan(model, "notebook").start == "softmax"


def test_rules_that_a_system_lacks_are_told():
    composite = Composite("c", ((LINEAR, Rule("flat")), (POOLS, None)))
    assert "(as in nplrp: captum-0.9 has none)" in str(make_plan(small_vgg(), composite, dialect="captum"))
    assert "as in nplrp" not in str(make_plan(small_vgg(), composite, dialect="zennit"))


def test_differences():
    text = differences("zennit", "captum")
    lines = text.splitlines()
    assert lines[:3] == ["start", "  zennit-0.5: one", "  captum-0.9: logit"]
    gamma = text[text.index("\ngamma\n") : text.index("\nzplus\n")]
    assert "captum-0.9: gamma(gamma=0.25, epsilon=1e-09, stabiliser=sign, bias=raw, split=False)" in gamma
    assert "z = sum_j (a (w + 0.25 w+)) + b\n" in gamma
    assert "z2 = sum_j (a+ (w + 0.25 w-) + a- (w + 0.25 w+)) + (b + 0.25 b-)" in gamma
    assert differences("zennit", "zennit") == "zennit-0.5 and zennit-0.5 set every switch alike"


@pytest.mark.parametrize(
    ("rule", "lines"),
    [
        (Rule("alpha_beta"), ["R_j = sum_k [2 (a+ w+ + a- w-)/s(z1) - (a+ w- + a- w+)/s(z2)] R_k", "z1 = sum_j (a+ w+ + a- w-) + b+"]),
        (Rule("alpha_beta", bias="raw", split=False, alpha=1), ["R_j = sum_k (a w+)/s(z) R_k", "z = sum_j (a w+) + b"]),
        (Rule("wsquare", bias="changed"), ["R_j = sum_k (w^2)/s(z) R_k", "z = sum_j (w^2) + b^2"]),
        (Rule("zbox"), ["R_j = sum_k (a w - low w+ - high w-)/s(z) R_k", "z = sum_j (a w - low w+ - high w-)"]),
        (Rule("flat"), ["R_j = sum_k (1)/s(z) R_k", "z = sum_j (1)"]),
        (Rule("winner"), ["R_j = R_k at the first maximum of each window"]),
        (Rule("winner_ties"), ["R_j = R_k / n at each of the n maxima of each window"]),
        (Rule("pass"), ["R_j = R_k"]),
    ],
    ids=str,
)
def test_formulas(rule, lines):
    assert formula(rule)[: len(lines)] == lines


def test_dialects_move_numbers_where_the_page_says():
    """Of the presets on a ReLU network: what the sources make different is different, and what isn't is the same."""
    model, x = small_vgg(), images(2, 2, (8, 8, 3))

    def found(name, dialect):
        e = nplrp.explain(model, x, Composite(name, COMPOSITES[name].rows), [0, 1], "float64", dialect=dialect, start="logit")
        return e.relevance / e.logits[[0, 1], [0, 1]][:, None, None, None]

    def distance(name, one, two):
        first, second = found(name, one), found(name, two)
        return np.abs(first - second).max() / np.abs(first).max()

    assert distance("wsquare", "zennit", "innvestigate") > 1e-2
    assert distance("wsquare", "rp.jl", "captum") < 1e-4
    assert distance("alpha_beta", "zennit", "innvestigate") > 1e-2
    assert distance("gamma", "zennit", "captum") > 1e-2
    assert distance("flat", "zennit", "innvestigate") < 1e-5


WEIGHTS = str(Path(__file__).parent / "data" / "keras_files" / "small32_k2_save_weights.h5")


def test_command_line(capsys):
    assert main(["dialects"]) == 0
    assert "captum-0.9        Captum 0.9.0" in capsys.readouterr().out
    assert main(["dialects", "--diff", "zennit", "captum"]) == 0
    assert capsys.readouterr().out.rstrip() == differences("zennit", "captum")
    assert main(["dialects", "montavon", "zennit"]) == 0
    assert "max-pools average" in capsys.readouterr().out
    assert main(["plan", WEIGHTS, "-c", "epsilon_gamma_box(gamma=0.5, low=-1, high=1),zplus", "-d", "captum"]) == 0
    out = capsys.readouterr().out
    assert "gamma(gamma=0.5, epsilon=1e-09, stabiliser=sign, bias=raw, split=False)" in out
    assert "zplus(epsilon=1e-09, stabiliser=sign, bias=raw, split=False)" in out
    assert main(["plan", WEIGHTS, "-d", "zenit"]) == 2
    assert "there is no dialect 'zenit'" in capsys.readouterr().err


def test_command_line_explains_in_a_dialect_with_several_maps(capsys, tmp_path):
    import json

    from PIL import Image

    picture = tmp_path / "picture.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)).save(picture)
    arguments = ["explain", str(picture), "-w", WEIGHTS, "-c", "epsilon_plus", "-d", "zennit", "-t", "top-2"]
    assert main([*arguments, "--start", "logit", "--json"]) == 0
    (result,) = json.loads(capsys.readouterr().out)["results"]
    assert result["about"]["dialect"] == "zennit-0.5"
    assert result["about"]["start"] == "logit"
    first, second = result["images"]
    assert [first["target"]["unit"], second["target"]["unit"]] == [label["unit"] for label in first["labels"][:2]]
    assert first["relevance"] != second["relevance"]
    assert main([*arguments, "-o", str(tmp_path / "maps.png")]) == 0
    assert capsys.readouterr().out.count("relevance of") == 2
    assert (tmp_path / "maps.png").stat().st_size > 10000


def test_the_command_line_hands_a_ledgers_warning_on(capsys):
    from nplrp.cli import _ledger

    model = nplrp.model.chain((2,), [dense("out", [[1], [-1]], [-1.0], "linear")])
    e = nplrp.explain(model, np.ones((1, 2)), "lrp.alpha_1_beta_0", dtype="float64")
    assert len(_ledger(e)) == 1
    assert capsys.readouterr().err.startswith("nplrp: warning: layer 'out', rule alpha_beta")


def test_the_gallery_has_a_cell_for_every_map():
    from nplrp.gallery import COLUMNS, draw

    maps = {name: np.full((8, 8), float(i)) for i, name in enumerate(COMPOSITES)}
    figure = draw(np.zeros((8, 8, 3), np.uint8), maps)
    assert len(figure.axes) == len(COMPOSITES) + 1
    boxes = [axes.get_position() for axes in figure.axes]
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])
    assert min(box.y0 for box in boxes) > 0.02
    assert len({round(box.x0, 6) for box in boxes}) == COLUMNS
