"""What the pages say of the suite is so."""

import json
import re
from pathlib import Path

import pytest

from nplrp.conformance import answers_of, judged, load
from nplrp.rules.dialects import DIALECTS
from tests.peers import run_conformance

ROOT = Path(__file__).parents[2]
PAGE, STRANGER = (ROOT / "docs" / name for name in ("conformance.md", "verify-your-own-backend.md"))


@pytest.fixture(scope="module")
def table():
    return json.loads((ROOT / "tests" / "data" / "peers" / "conformance.json").read_text("utf-8"))


def test_the_published_table_is_that_of_this_suite(table):
    assert table["suite"] == load().content_sha256, "cases have changed: run tests/peers/run_conformance.py again"
    assert run_conformance.page(table) in PAGE.read_text("utf-8")


def test_what_the_page_says_of_own_dialects(table):
    failed = {
        (name, key.split()[1]): cell["failed"] for name, cells in table["peers"].items() for key, cell in cells.items() if "failed" in cell
    }
    for precision in ("float32", "float64"):
        assert failed["Zennit 0.5.1", precision] == failed["Zennit 1.0.0", precision] == []
    for name in ("Captum 0.9.0", "LXT 2.1"):
        assert failed[name, "float32"] == []
        assert {case.split(".")[1] for case in failed[name, "float64"]} == {"add-3"}
    assert {case.rsplit(".", 1)[0] for case in failed["iNNvestigate 2.1.2", "float32"]} == {"own.maxpool-global"}


def test_numbers_of_the_page():
    text, suite = PAGE.read_text("utf-8"), load()
    assert (
        text.startswith("# The conformance suite\n\n" + str(len(suite)) + " small cases")
        and len(DIALECTS) == 9
        and "in nine dialects" in text
    )
    for case in suite:
        names = {case.layer_name, case.layer_name.rsplit("-", 1)[0], f"-{case.layer_name.rsplit('-', 1)[-1]}"}
        moved = case.layer.kind in ("activation", "maxpool", "avgpool", "global_maxpool", "global_avgpool")
        assert moved or any(f"`{name}`" in text for name in names), case.layer_name
        assert f"`{case.input_name}`" in text, case.input_name
    assert f"a folder for each of {len(suite.only((), 'nplrp'))} cases" in STRANGER.read_text("utf-8")


def test_the_strangers_backend_in_python(tmp_path, monkeypatch):
    (code,) = re.findall(r"```python\n(def answer.*?)```", STRANGER.read_text("utf-8"), re.DOTALL)
    (tmp_path / "my_port_of_the_page.py").write_text(code)
    monkeypatch.chdir(tmp_path)
    suite = load().only(["*.dense*.*"])
    for dialect in ("nplrp", "zennit-0.5", "captum-0.9"):
        outcome = judged(suite, answers_of("my_port_of_the_page:answer", suite, dialect), dialect)
        assert set(outcome.counts) == {"pass", "refused"} and outcome.counts["pass"] >= 26, str(outcome)


def test_links_lead_somewhere():
    for page in (PAGE, STRANGER, ROOT / "examples" / "conformance" / "README.md"):
        for target in re.findall(r"\]\(([^)#]+)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), (page.name, target)
