"""Errors about names that there aren't: they suggest the nearest ones, in one line, and don't list everything."""

import re
from pathlib import Path

import numpy as np
import pytest

import nplrp
from nplrp.cli import main
from nplrp.errors import LayerError, NplrpError
from nplrp.model import Layer, build
from nplrp.rules.composites import COMPOSITES, Select, composite_named
from nplrp.rules.dialects import dialect_named
from nplrp.targets import find_target
from tests.networks import images, small_vgg


def explained():
    return nplrp.explain(small_vgg(), images(1, 1, (8, 8, 3)), "zplus", target=0)


def with_classes():
    model = small_vgg()
    object.__setattr__(model, "classes", tuple((f"n{i}", name) for i, name in enumerate(("tabby", "tiger_cat", "husky", "beagle", "mug"))))
    return model


#: What is asked for -> what the message names.
TYPOS = {
    "composite": (lambda: composite_named("epsilon_plsu"), "'epsilon_plus'"),
    "composite, letters": (lambda: composite_named("Epsilon_Gamma_Box"), "'epsilon_gamma_box'"),
    "composite, part of a name": (lambda: composite_named("montavon"), "'montavon_vgg16'"),
    "composite with a parameter": (lambda: composite_named("gamma(gama=0.5)"), "'gamma'"),
    "dialect": (lambda: dialect_named("investigate"), "'innvestigate-2.1'"),
    "rule": (lambda: nplrp.Rule("epsilom"), "'epsilon'"),
    "rule in a table": (lambda: composite_named({"rows": [{"kind": "conv", "rule": "zpluss"}]}), "'zplus'"),
    "parameter of a rule": (lambda: nplrp.Rule.parse("gamma(gama=1)"), "'gamma'"),
    "kind of layer": (lambda: Select(("convv",)), "'conv'"),
    "start": (lambda: nplrp.explain(small_vgg(), images(1, 1, (8, 8, 3)), start="sofmax"), "'softmax'"),
    "model[...]": (lambda: small_vgg()["block1_con1"], "'block1_conv1'"),
    "model[...], part of a name": (lambda: small_vgg()["conv2"], "'block1_conv2'"),
    "at": (lambda: nplrp.explain(small_vgg(), images(1, 1, (8, 8, 3)), at="fc11"), "'fc1'"),
    "until": (lambda: nplrp.explain(small_vgg(), images(1, 1, (8, 8, 3)), until="blok1_pool"), "'block1_pool'"),
    "masks": (lambda: nplrp.explain(small_vgg(), images(1, 1, (8, 8, 3)), masks={"block1-conv2": [0]}), "'block1_conv2'"),
    "relevances": (lambda: explained().relevances["fc_1"], "'fc1'"),
    "activations": (lambda: explained().activations["inputs"], "'input'"),
    "ledger": (lambda: explained().ledger["predictons"], "'predictions'"),
    "class": (lambda: find_target(with_classes(), "tiger cats"), "tiger_cat"),
    "kind": (lambda: build((2,), [Layer("a", "dens")]), "'dense'"),
    "activation": (lambda: build((2,), [Layer("a", "activation", activation="leaky_rellu")]), "'leaky_relu'"),
}


@pytest.mark.filterwarnings("ignore::nplrp.ledger.LedgerWarning")
@pytest.mark.parametrize("what", TYPOS)
def test_the_nearest_names_are_suggested(what):
    call, named = TYPOS[what]
    with pytest.raises(NplrpError) as refused:
        call()
    message = str(refused.value)
    assert "did you mean" in message
    assert named in message
    assert "\n" not in message
    assert message.count(",") < 6, "it lists them all"


def test_what_looks_like_nothing_says_where_names_are_listed():
    with pytest.raises(NplrpError, match=rf"there are {len(COMPOSITES)}, such as notebook, zplus, zero \(nplrp composites lists them\)"):
        composite_named("???")
    with pytest.raises(NplrpError, match=r"no layer 7 here; there are 9, such as input, block1_conv1"):
        explained().relevances[7]


def test_relevances_are_mappings_whose_errors_are_key_errors():
    e = explained()
    with pytest.raises(KeyError) as refused:
        e.relevances["fc9"]
    assert isinstance(refused.value, LayerError)
    assert str(refused.value).startswith("there is no layer 'fc9' here; did you mean 'fc1'")
    assert e.relevances.get("fc9") is None
    assert "fc9" not in e.activations
    with pytest.raises(KeyError):
        small_vgg()["fc9"]


@pytest.mark.parametrize("given", [("zplus", "epsilon"), ["zplus"], None, 7, np.zeros(2), {"zplus"}])
def test_what_is_no_composite_says_what_one_is(given):
    with pytest.raises(
        NplrpError, match=r"a composite is a name such as 'epsilon_plus', .* a Composite, a table or a TOML file; found a "
    ) as refused:
        nplrp.explain(small_vgg(), images(1, 1, (8, 8, 3)), given)
    several = isinstance(given, tuple | list)
    assert ("of several composites explain each by itself" in str(refused.value)) == several


def test_a_path_is_a_toml_file(tmp_path):
    path = Path(tmp_path) / "mine.toml"
    path.write_text("rows = [{kind = ['conv', 'dense'], rule = 'zplus'}, {kind = 'maxpool', rule = 'winner'}]")
    assert composite_named(path).name == "mine"


def test_composites_are_listed_with_a_line_each(capsys):
    assert main(["composites"]) == 0
    lines = capsys.readouterr().out.splitlines()
    rows = {line.split()[0]: line for line in lines if line.startswith("  ")}
    assert set(rows) == set(COMPOSITES)
    assert re.search(r"zbox in the first layer; gamma in conv; epsilon in dense$", rows["epsilon_gamma_box"])
    assert len({len(re.match(r"  \S+ +", line)[0]) for line in rows.values()}) == 1, "one column"
    assert main(["composites", "epsilon_gamma_box(gamma=0.5)", "notebook"]) == 0
    text = capsys.readouterr().out
    assert "gamma(gamma=0.5) in conv" in text
    assert "Zennit 0.5.1" in text
