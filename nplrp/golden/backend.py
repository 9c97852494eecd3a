"""Run another implementation in a process of its own: it gets exchange files, and leaves its arrays."""

from __future__ import annotations

import dataclasses
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nplrp.golden.candidate import Candidate, read_candidate
from nplrp.golden.errors import GoldenError
from nplrp.golden.exporting import export
from nplrp.golden.values import Golden
from nplrp.model import Model


def run_backend(golden: Golden, model: Model, command: Sequence[str], names: Mapping[str, str] | None = None) -> Candidate:
    """Export golden values, run a command on them, and read what it wrote.

    A process of its own, since a library linked with -ffast-math can make all of a process flush subnormal numbers to zero.

    Parameters
    ----------
    golden : Golden
    model : Model
    command : sequence of str
        Program and arguments; it is given two more: the folder to read (docs/golden.md), and the .npz file to write.
    names : mapping of str to str, or None
        As for `read_candidate`.

    Raises
    ------
    GoldenError
        If the command can't be run, fails, or writes nothing that can be read.
    """
    what = " ".join(command)
    with tempfile.TemporaryDirectory(prefix="nplrp-") as folder:
        source, target = Path(folder) / "in", Path(folder) / "out.npz"
        export(golden, source, model, "raw", "float32")
        try:
            done = subprocess.run([*command, str(source), str(target)], capture_output=True, text=True, errors="replace", check=False)
        except OSError as error:
            raise GoldenError(f"{what}: can't be run: {error.strerror or error}; give a program and its arguments") from None
        if done.returncode or not target.is_file():
            last = "; ".join((done.stderr.strip() or done.stdout.strip()).splitlines()[-3:])
            raise GoldenError(f"{what}: ended with exit code {done.returncode} and {'an' if target.is_file() else 'no'} output: {last}")
        return dataclasses.replace(read_candidate(target, names), source=what)
