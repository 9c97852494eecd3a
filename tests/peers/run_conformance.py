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
        draw(PAGE.with_suffix(".png"), table)
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


def draw(path, table):
    """Draw which share of a rule's answers passes, for each library in each dialect: blue all, red none, grey no answer."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    peers = sorted(table["peers"])
    shown = [dialect for dialect in DIALECTS if any(f"{dialect} float32" in cells for cells in table["peers"].values())]
    rules = list(dict.fromkeys(rule for cells in table["peers"].values() for cell in cells.values() for rule in cell["rules"]))
    rules = [rule for rule in rules if not rule.startswith("epsilon_") or rule in ("epsilon_0.1", "epsilon_no_bias")]
    size = (2 + 1.7 * len(shown), 0.24 * len(rules) + 1.6)
    figure, ((*axes,),) = pyplot.subplots(1, len(shown), figsize=size, sharey=True, layout="constrained", squeeze=False)
    colours = matplotlib.colormaps["RdYlBu"].copy()
    colours.set_bad("0.88")
    for ax, dialect in zip(axes, shown, strict=True):
        share = np.full((len(rules), len(peers)), np.nan)
        for j, peer in enumerate(peers):
            cell = table["peers"][peer].get(f"{dialect} float32", {"rules": {}})["rules"]
            for i, rule in enumerate(rules):
                passed, failed = (cell.get(rule, {}).get(each, 0) for each in ("pass", "FAIL"))
                if passed + failed:
                    share[i, j] = passed / (passed + failed)
        ax.imshow(np.ma.masked_invalid(share), cmap=colours, vmin=0, vmax=1, aspect="auto")
        ax.set_title(f"in {dialect}", fontsize=8)
        ax.set_xticks(range(len(peers)), peers, rotation=60, ha="right", fontsize=7)
        ax.set_yticks(range(len(rules)), rules, fontsize=7)
        ax.tick_params(length=0)
        for edge in ax.spines.values():
            edge.set_visible(False)
    figure.suptitle("share of answers that pass (blue: all, red: none, grey: no answer)", fontsize=9)
    figure.savefig(path, dpi=110, metadata={"Software": None})


BEGIN, END = "<!-- table: tests/peers/run_conformance.py -->", "<!-- end of table -->"


if __name__ == "__main__":
    main(*sys.argv[1:])
