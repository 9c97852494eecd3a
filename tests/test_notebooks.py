"""The notebooks of the documentation run, and give what is stored in them."""

import os
from pathlib import Path

import pytest

from nplrp import demo
from tests.test_demo import needs_package

nbformat = pytest.importorskip("nbformat", reason="needs the extra dev")
nbclient = pytest.importorskip("nbclient", reason="needs the extra dev")

FOLDER = Path(__file__).parent.parent / "docs" / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
#: What isn't to be found in what is committed.
FOREIGN = ("/home/", "/tmp/", "/root/", "site-packages", "Traceback")


def said(notebook):
    """Return what every cell printed and gave as text, and of what kinds its outputs are."""
    found = []
    for cell in notebook.cells:
        for output in cell.get("outputs", []):
            kinds = set(output.get("data", {})) - {"image/png"}  # taken out where there is HTML
            found.append((output.output_type, output.get("text", output.get("data", {}).get("text/plain")), sorted(kinds)))
    return found


def test_there_are_three():
    assert [path.stem for path in NOTEBOOKS] == ["1-first-explanation", "2-which-rule-and-why", "3-verify-your-own-backend"]


@needs_package
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_notebook_gives_what_is_stored(path, tmp_path, monkeypatch):
    demo.demo_weights()  # not while a cell waits
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(FOLDER.parent.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("JUPYTER_PLATFORM_DIRS", "1")
    stored = nbformat.read(path, as_version=4)
    fresh = nbformat.from_dict(stored)
    for cell in fresh.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    expected = said(stored)
    nbclient.NotebookClient(fresh, timeout=300, kernel_name="python3", resources={"metadata": {"path": str(tmp_path)}}).execute()
    assert said(fresh) == expected
    assert any("image/png" in str(cell) for cell in stored.cells) == (path.stem[0] != "3")


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_tells_nothing_of_the_machine_that_ran_it(path):
    text = path.read_text("utf-8")
    assert not [word for word in FOREIGN if word in text]
    assert "iopub" not in text  # times
    stored = nbformat.read(path, as_version=4)
    assert all(cell.outputs or not cell.source.rstrip()[-1:].isalpha() for cell in stored.cells if cell.cell_type == "code")
    assert not any(output.get("name") == "stderr" for cell in stored.cells for output in cell.get("outputs", []))
