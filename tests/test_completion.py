"""Shells complete nplrp's command lines."""

import shutil
import subprocess

import pytest

from nplrp import cli

#: What bash runs when somebody presses Tab.
PRESS = """
source "$1"; shift
COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1)); COMPREPLY=()
_shtab_nplrp nplrp "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
printf '%s\\n' "${COMPREPLY[@]}"
"""


@pytest.fixture(scope="module")
def script(tmp_path_factory):
    shtab = pytest.importorskip("shtab", reason="needs the extra completion")
    if not shutil.which("bash"):
        pytest.skip("needs bash")
    from nplrp.completion import script

    path = tmp_path_factory.mktemp("completion") / "nplrp"
    for shell in ("zsh", "tcsh"):
        assert "explain" in script(cli.make_parser(), shell)
    assert shtab
    path.write_text(script(cli.make_parser(), "bash"))
    return path


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("nplrp ex", {"explain", "export"}),
        ("nplrp golden ch", {"check"}),
        ("nplrp explain --comp", {"--composite"}),
        ("nplrp explain -c lrp.sequential_preset_a", {"lrp.sequential_preset_a", "lrp.sequential_preset_a_flat"}),
        ("nplrp explain -d zen", {"zennit-0.5"}),
        ("nplrp plan -w pyproject.t", {"pyproject.toml"}),
        ("nplrp completion z", {"zsh"}),
        ("nplrp serve --max-b", {"--max-body", "--max-buffered"}),
    ],
)
def test_tab(script, line, expected):
    done = subprocess.run(["bash", "-c", PRESS, "bash", str(script), *line.split()], capture_output=True, text=True, check=True)
    assert set(done.stdout.split()) == expected


def test_without_shtab(monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.main(["completion", "bash"]) == 2
    assert "pip install 'nplrp[completion]'" in capsys.readouterr().err
