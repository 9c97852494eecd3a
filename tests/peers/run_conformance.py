"""Ask every library the conformance suite, in its own dialect and in the others': the table of docs/conformance.md.

python tests/peers/run_conformance.py FOLDER NAME=LIBRARY:PYTHON ...
    such as "Zennit 0.5.1=zennit:/path/to/python" "Captum 0.9.0=captum:/path/to/python"

Needs nplrp; each PYTHON needs its library alone. Writes FOLDER/conformance.json, for each library, dialect and precision how many cases of
each rule passed, failed and were refused, with the names of those that failed in the library's own dialect; and
FOLDER/conformance_LIBRARY.npz, its answers in its own dialect and float32. What is there already isn't asked again.
The page's table is written, too.
"""

import json
import sys
from pathlib import Path

import numpy as np

from nplrp.conformance import Refused, answers_of, judged, load
from nplrp.conformance.backends import LIBRARIES

PAGE = Path(__file__).parents[2] / "docs" / "conformance.md"
DIALECTS = (*LIBRARIES.values(), "nplrp")


def main(folder, *peers):
    """Ask what isn't known yet."""
    folder = Path(folder)
    path, suite = folder / "conformance.json", load()
    table = json.loads(path.read_text("utf-8")) if path.exists() else {}
    if table.get("suite") != suite.content_sha256:
        table = {"suite": suite.content_sha256, "peers": {}}
    asked = [peer.partition("=")[::2] for peer in peers]
    jobs = [(name, how, LIBRARIES[how.partition(":")[0]], precision) for name, how in asked for precision in ("float32", "float64")]
    jobs += [(name, how, dialect, "float32") for dialect in DIALECTS for name, how in asked if dialect != LIBRARIES[how.partition(":")[0]]]
    for name, how, dialect, precision in jobs:
        library, _, python = how.partition(":")
        cells = table["peers"].setdefault(name, {})
        if f"{dialect} {precision}" in cells:
            continue
        said = answers_of(library, suite, dialect, precision, python)
        outcome, own = judged(suite, said, dialect, precision, backend=name), dialect == LIBRARIES[library]
        cells[f"{dialect} {precision}"] = {"rules": dict(outcome.table())}
        if own:
            cells[f"{dialect} {precision}"]["failed"] = [each.case for each in outcome.results if each.outcome == "FAIL"]
            refused = sorted({str(each) for each in said.values() if isinstance(each, Refused)})
            cells[f"{dialect} {precision}"]["refused"] = refused
        if own and precision == "float32":
            flat = {case: np.concatenate([a.ravel() for a in each]) for case, each in said.items() if isinstance(each, tuple)}
            np.savez_compressed(folder / f"conformance_{library}.npz", **flat)
        path.write_text(json.dumps(table, indent=1, sort_keys=True) + "\n", "utf-8")
        rewrite(PAGE, table)
        print(name, dialect, precision, outcome.counts, flush=True)


def page(table):
    """Return the table of docs/conformance.md: passed, failed and refused cases of each library in each dialect."""
    columns = [("own", "float32"), ("own", "float64"), *((dialect, "float32") for dialect in DIALECTS)]
    lines = ["| | own dialect | own, float64 | " + " | ".join(DIALECTS) + " |", "|---|" + "---|" * len(columns)]
    for name, cells in sorted(table["peers"].items()):
        own = next(key.split()[0] for key, cell in cells.items() if "failed" in cell)
        row = []
        for dialect, precision in columns:
            cell = cells.get(f"{own if dialect == 'own' else dialect} {precision}")
            if dialect == own:
                row.append("(own)")
            elif cell is None:
                row.append("-")
            else:
                counts = [sum(rule.get(each, 0) for rule in cell["rules"].values()) for each in ("pass", "FAIL", "refused")]
                row.append(" / ".join(map(str, counts)))
        lines.append(f"| {name} | " + " | ".join(row) + " |")
    return "\n".join(lines)


def rewrite(path, table):
    """Put the table into the page, between its marks."""
    text = Path(path).read_text("utf-8")
    begin, end = text.index(BEGIN) + len(BEGIN), text.index(END)
    Path(path).write_text(f"{text[:begin]}\n{page(table)}\n{text[end:]}", "utf-8")


BEGIN, END = "<!-- table: tests/peers/run_conformance.py -->", "<!-- end of table -->"


if __name__ == "__main__":
    main(*sys.argv[1:])
