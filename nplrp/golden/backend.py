"""Run another implementation in a process of its own: it gets exchange files, and leaves its arrays."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nplrp.golden.candidate import Candidate, read_candidate
from nplrp.golden.errors import GoldenError
from nplrp.golden.exporting import export
from nplrp.golden.recording import check_recorded
from nplrp.golden.values import Golden
from nplrp.model import Model
from nplrp.rules.dialects import dialect_named
from nplrp.rules.recorded import bare, rule_of

#: Backends whose adapters come with the package: scripts for an interpreter that has the library, and needn't have nplrp.
BACKENDS = ("zennit", "captum", "innvestigate")
ADAPTERS = Path(__file__).parent / "backends"


def adapter(backend: str, mode: str = "chained", python: str | None = None) -> list[str]:
    """Return the command that runs one of `BACKENDS`.

    Parameters
    ----------
    backend : str
    mode : str
        ``"isolated"``: each layer gets golden inputs; else the network runs from end to end.
    python : str or None
        The interpreter that has the library; None is this one.
    """
    script = ADAPTERS / f"{backend}_backend.py"
    return [python or sys.executable, str(script), "isolated" if mode == "isolated" else "chained"]


#: Switches that adapters hand on as they were recorded, by backend: which values, for which rules; None for all. Numbers that composites
#: set (gamma, alpha, beta, a box) always are; everything else is as the library has it.
_HANDED_ON: Mapping[str, Mapping[str, tuple[tuple[Any, ...] | None, tuple[str, ...] | None]]] = {
    "zennit": {"epsilon": (None, None), "bias": (("none",), None)},
    "captum": {
        "epsilon": (None, ("epsilon", "zero", "norm", "winner_epsilon")),
        "bias": (("none",), ("gamma", "zplus", "alpha_beta")),
    },
    "innvestigate": {
        "epsilon": (None, ("epsilon",)),
        "bias": (("none",), ("zero", "epsilon", "alpha_beta", "alpha_beta_x")),
        "split": (None, ("zplus",)),
    },
}


def computed_otherwise(golden: Golden, backend: str, mode: str = "chained") -> list[str]:
    """Say what one of `BACKENDS` can't compute as it was recorded, since its library has another dialect; each in one line.

    Parameters
    ----------
    golden : Golden
    backend : str
    mode : str
        As for `adapter`: from end to end the library may begin with another start, too.
    """
    dialect, found = dialect_named(backend), dict[tuple[str, str], list[str]]()
    for row in golden.facts["layers"]:
        if row["rule"] is None or row.get("merged"):
            continue
        recorded = rule_of(row["rule"])
        theirs = dialect.resolve(bare(recorded), row["kind"])
        for switch, (values, rules) in _HANDED_ON[backend].items():
            value = getattr(recorded, switch)
            if switch in recorded.row.parameters and (values is None or value in values) and (rules is None or recorded.name in rules):
                theirs = dataclasses.replace(theirs, **{switch: value})
        if dialect.knows(recorded) and theirs != recorded:
            found.setdefault((str(recorded), str(theirs)), []).append(row["name"])
    lines = [
        f"{dialect.name} computes {theirs} where {recorded} was recorded: {', '.join(names[:3])}{' ...' if len(names) > 3 else ''} "
        f"({len(names)} of {len(golden.facts['layers'])} layers) will diverge"
        for (recorded, theirs), names in found.items()
    ]
    if mode != "isolated" and backend != "zennit" and golden.facts["start"] != dialect.start:
        lines.append(f"{dialect.name} begins with start {dialect.start} where {golden.facts['start']} was recorded: all will diverge")
    return lines


def run_backend(
    golden: Golden,
    model: Model,
    command: Sequence[str],
    names: Mapping[str, str] | None = None,
    *,
    dtype: str = "float32",
    x: np.ndarray | None = None,
) -> Candidate:
    """Export golden values, run a command on them, and read what it wrote.

    A process of its own, since a library linked with -ffast-math can make all of a process flush subnormal numbers to zero.

    Parameters
    ----------
    golden : Golden
    model : Model
    command : sequence of str
        Program and arguments (`adapter` returns those of `BACKENDS`); it is given two more: the folder to read (docs/golden.md), and the
        .npz file to write.
    names : mapping of str to str, or None
        As for `read_candidate`.
    dtype : "float32" or "float64"
        Of the numbers that it is given.
    x : ndarray [n, *input_shape] or None
        The input, for a digest that doesn't hold it.

    Raises
    ------
    ProvenanceError
        If the model's weights or the input are others than the recorded ones.
    GoldenError
        If the command can't be run, fails, or writes nothing that can be read.
    """
    x = golden.input if x is None else np.asarray(x, np.float64)
    if x is None:
        raise GoldenError("this digest doesn't hold its input, which is large; give the image or tensor that was recorded")
    check_recorded(golden, model, x)
    what = " ".join(command)
    with tempfile.TemporaryDirectory(prefix="nplrp-") as folder:
        source, target = Path(folder) / "in", Path(folder) / "out.npz"
        export(dataclasses.replace(golden, input=x), source, model, "raw", dtype)
        try:
            done = subprocess.run([*command, str(source), str(target)], capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise GoldenError(f"{what}: can't be run: {error.strerror or error}; give a program and its arguments") from None
        if done.returncode and ADAPTERS in (Path(part).parent for part in command):  # it says in one line what it can't do
            python, script, *_ = command
            *_, said = done.stderr.strip().splitlines() or [f"ended with exit code {done.returncode}"]
            raise GoldenError(f"{Path(script).stem.removesuffix('_backend')} in {python}: {said}")
        if done.returncode or not target.is_file():
            last = "; ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
            raise GoldenError(f"{what}: ended with exit code {done.returncode} and {'an' if target.is_file() else 'no'} output: {last}")
        return dataclasses.replace(read_candidate(target, names), source=what)
