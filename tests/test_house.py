"""Rules of the house that no linter knows."""

import importlib
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def test_readme_shows_the_page():
    page = (ROOT / "nplrp" / "lrp.py").read_text()
    readme = (ROOT / "README.md").read_text()
    block = readme.split("## The four lines")[1].split("```python\n")[1].split("```")[0]
    lines = block.splitlines()
    assert [line.split("#")[1].split()[0] for line in lines] == ["1", "2", "3", "4"]
    assert block in page


def loaded_modules(code):
    script = f"import sys, json\n{code}\nprint(json.dumps(sorted(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT)
    return set(json.loads(done.stdout))


def test_import_is_light():
    modules = loaded_modules("import nplrp; nplrp.__version__")
    assert not modules & {"numpy", "numba", "h5py", "PIL", "matplotlib"}


@pytest.mark.parametrize(
    ("code", "needless"),
    [
        ("import nplrp.cli; nplrp.cli.make_parser()", {"numpy", "numba", "h5py", "PIL", "matplotlib"}),
        ("import nplrp; nplrp.load", {"numba", "PIL", "matplotlib"}),
        ("import nplrp; nplrp.preprocess", {"numba", "h5py", "matplotlib"}),
        ("import nplrp; nplrp.explain", {"numba", "h5py", "PIL", "matplotlib"}),
    ],
)
def test_commands_import_what_they_need(code, needless):
    assert not loaded_modules(code) & needless


@pytest.mark.parametrize("package", ["nplrp", "nplrp.golden"])
def test_every_public_name_exists(package):
    package = importlib.import_module(package)
    for name in package.__all__:
        assert getattr(package, name) is not None
    modules = {path.stem for path in Path(package.__file__).parent.iterdir()}
    assert not modules & set(package.__all__), "a module of the same name would hide the public one once it is imported"
    with pytest.raises(AttributeError, match="no attribute 'explane'"):
        package.explane  # noqa: B018


def test_no_module_level_mutable_state_in_the_engine():
    """Module-level dicts and lists are tables: nothing writes to them after import."""
    import ast

    for path in (ROOT / "nplrp").rglob("*.py"):
        tree = ast.parse(path.read_text())
        tables = {
            target.id
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.value, (ast.Dict, ast.List, ast.Set))
            for target in node.targets
            if isinstance(target, ast.Name)
        }
        for node in ast.walk(tree):
            assert not isinstance(node, ast.Global), f"{path}: global statement"
            if isinstance(node, (ast.Assign, ast.AugAssign, ast.Delete)):
                targets = node.targets if not isinstance(node, ast.AugAssign) else [node.target]
                for target in targets:
                    if isinstance(target, ast.Subscript) and isinstance(target.value, ast.Name):
                        assert target.value.id not in tables, f"{path}: writes to the table {target.value.id}"
