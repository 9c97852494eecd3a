"""Check, with a Python whose nplrp is installed, that a program which uses it is understood by mypy: right lines pass, wrong ones don't.

    python check_types.py PYTHON [CHECKER...]

CHECKER is what is run, by default mypy of the Python that runs this; "PYTHON" in it stands for the one given.
"""

import re
import subprocess
import sys
import tempfile
from pathlib import Path

#: A user's program; "# wrong" marks the lines that a checker has to find fault with.
PROGRAM = """
import nplrp
from nplrp import Explanation, Ledger, Model

model: Model = nplrp.load("demo")
x = nplrp.preprocess(nplrp.demo_image(), model)
e: Explanation = nplrp.explain(model, x, "epsilon_plus", target="notumor", dtype="float64")
ledger: Ledger = e.ledger
first: Explanation = e[0]
count: int = len(e)
names: list[str] = [label.name for labels in e.labels() for label in labels]
total: float = float(e.relevance.sum())
e.plot(overlay=True).save("a.png")
nplrp.panel(x[0], {"zplus": e.relevance}).savefig("a.pdf")
nplrp.save_png(nplrp.heatmap(e.relevance)[0], "b.png")
assert isinstance(nplrp.__version__, str)
nplrp.explian(model, x)  # wrong
nplrp.load(5)  # wrong
e.legder  # wrong
nplrp.explain(model, x, targett=3)  # wrong
number: int = e.labels()  # wrong
"""
#: Of mypy and of pyright: the line and the word error.
_ERROR = re.compile(r"program\.py:(\d+):(?:\d+)?:? ?-? ?error")


def main(python: str, *checker: str) -> int:
    """Return 0 if just the lines marked wrong are found fault with."""
    command = [part.replace("PYTHON", python) for part in checker] or [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--python-executable",
        python,
    ]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "program.py").write_text(PROGRAM, "utf-8")
        done = subprocess.run([*command, "program.py"], cwd=folder, capture_output=True, text=True, check=False)
    found = {int(line) for line in _ERROR.findall(done.stdout)}
    wrong = {i for i, line in enumerate(PROGRAM.splitlines(), 1) if line.endswith("# wrong")}
    if found == wrong:
        print(f"types: {len(wrong)} wrong lines of a user's program found, and no right one")
        return 0
    print(done.stdout + done.stderr, f"expected errors in lines {sorted(wrong)}, found {sorted(found)}", sep="\n", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
