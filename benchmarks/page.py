"""Make a page of the results: `python benchmarks/page.py [FOLDER]` reads FOLDER/*.json and writes FOLDER/index.html, pictures inside.

Of the committed results it also draws docs/growth.png. `run.py` calls it when it is done. It says what the JSON files say and nothing else:
the processor's name, no times of day.
"""

import html
import io
import json
import math
import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

HERE = Path(__file__).parent
RESULTS = HERE / "results"
#: SVG without dates, with the same names in every run, and letters as letters.
matplotlib.rcParams |= {"svg.hashsalt": "nplrp", "svg.fonttype": "none", "font.family": ["DejaVu Sans", "sans-serif"], "font.size": 9}
_COLOURS = ("#1b5e8c", "#c25b12")

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1c; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.2rem; margin-top: 2.2rem; border-top: 1px solid #ddd; padding-top: 1rem }
.machine { color: #555; font-size: .85rem } svg { max-width: 100%; height: auto }
table { border-collapse: collapse; font-size: .85rem; margin: .6rem 0 } caption { text-align: left; font-weight: 600; padding: .3rem 0 }
td, th { padding: .15rem .7rem .15rem 0; text-align: right; font-variant-numeric: tabular-nums; border-bottom: 1px solid #eee }
td:first-child, th:first-child { text-align: left } summary { cursor: pointer; color: #1b5e8c }
"""


def main(folder=RESULTS):
    """Write the page of a folder of results, and of the committed ones the picture in the documentation."""
    folder = Path(folder)
    found = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(folder.glob("*.json"))}
    parts = [section for make in SECTIONS for section in make(found)]
    text = (
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>nplrp, measured</title><style>{STYLE}</style><h1>nplrp, measured</h1>"
        "<p>Dots are medians of ratios within rounds, in which all take turns; lines run from the least to the largest of these ratios. "
        f"How it is measured, and what was tried: benchmarks/README.md.</p>{''.join(parts)}</html>\n"
    )
    (folder / "index.html").write_text(text, "utf-8")
    if folder.resolve() == RESULTS.resolve() and _has_growth(found):
        growth_figure(found["growth"]["results"]).savefig(HERE.parent / "docs" / "growth.png", dpi=110, metadata={"Software": None})


def _head(title, about, facts):
    """Return a section's heading, what it is about, and on which machine it was measured."""
    versions = ", ".join(f"{name} {version}" for name, version in (facts["versions"] | facts.get("peers", {})).items())
    machine = f"{facts['cpu']}, {facts['cores']} cores, Python {facts['python']}, {versions}"
    return f'<h2>{title}</h2><p>{about}</p><p class="machine">{html.escape(machine)}</p>'


# Figures


def races_figure(races, columns):
    """Draw how many times as long as nplrp the others take: a row for each of them, a panel for each setting.

    Parameters
    ----------
    races : list of dict
        Each with "title", "rows" and the keys of `columns`.
    columns : sequence of str
        Keys whose values make the panels.
    """
    settings = list(dict.fromkeys(tuple(race[key] for key in columns) for race in races))
    settings.sort(key=lambda each: [str(value) for value in each])
    names = dict.fromkeys((race["title"], row["name"]) for race in races for row in race["rows"] if row["ratio_range"] != [1.0, 1.0])
    places, height, marks = {}, 0.0, []
    for title in dict.fromkeys(title for title, _ in names):
        marks.append((height, title))
        for own, name in names:
            if own == title:
                height += 1
                places[title, name] = height
        height += 1.6
    largest = max(row["ratio_range"][1] for race in races for row in race["rows"])
    figure, axes = plt.subplots(
        1, len(settings), figsize=(2.6 + 2.1 * len(settings), 0.7 + 0.2 * height), sharey=True, squeeze=False, layout="constrained"
    )
    for ax, setting in zip(axes[0], settings, strict=True):
        for race in races:
            if tuple(race[key] for key in columns) != setting:
                continue
            for row in race["rows"]:
                y = places.get((race["title"], row["name"]))
                if y is not None:
                    ax.plot(row["ratio_range"], [y, y], color=_COLOURS[0], linewidth=2, alpha=0.45, solid_capstyle="butt")
                    ax.plot(row["ratio_by_round"], y, "o", color=_COLOURS[0], markersize=4)
                    ax.annotate(f"{row['ratio_by_round']:.2g}", (row["ratio_range"][1], y), (4, -3), textcoords="offset points", fontsize=7)
        ax.axvline(1, color="#888", linewidth=0.8)
        ax.set_xscale("log")
        ax.set_xlim(0.4, 2.2 * largest)
        ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.set_title(", ".join(_said(key, value) for key, value in zip(columns, setting, strict=True)), fontsize=9)
        ax.grid(axis="x", color="#eee")
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    ax = axes[0, 0]
    ax.set_ylim(height - 0.6, -0.8)
    labels = [(y, name) for (_, name), y in places.items()] + marks
    ax.set_yticks([y for y, _ in labels], [label for _, label in labels])
    for tick, (_, label) in zip(ax.get_yticklabels(), labels, strict=True):
        if (_, label) in marks:
            tick.set_fontweight("bold")
    figure.supxlabel("times as long as nplrp", fontsize=9)
    return figure


def _said(key, value):
    return {"threads": f"{value} thread{'s' * (value != 1)}", "batch": f"batch {value}"}.get(key, str(value))


def growth_figure(results):
    """Draw time, above, and memory, below, against each axis, with what linear growth from the point of comparison would be."""
    axes_of = results["axes"]
    figure, panels = plt.subplots(2, len(axes_of), figsize=(2.6 * len(axes_of), 5.2), layout="constrained", squeeze=False)
    for (name, axis), (time, memory) in zip(axes_of.items(), panels.T, strict=True):
        rows = axis["rows"]
        n, base = [row["n"] for row in rows], next(row for row in rows if row["n"] == axis["base"])
        linear = [(row["n"] / axis["base"]) ** axis["power"] for row in rows]
        spread = [
            [base["ms"] * (row["ratio"] - row["range"][0]) for row in rows],
            [base["ms"] * (row["range"][1] - row["ratio"]) for row in rows],
        ]
        time.plot(n, [base["ms"] * each for each in linear], "--", color="#888", linewidth=1, label="linear")
        time.errorbar(n, [base["ms"] * row["ratio"] for row in rows], spread, fmt="o-", color=_COLOURS[0], markersize=4, label="measured")
        memory.plot(n, [row["mb"] for row in rows], "o-", color=_COLOURS[1], markersize=4)
        memory.set_ylim(0, 1.1 * max(row["mb"] for row in rows))
        for ax, log in ((time, "log"), (memory, "linear")):
            ax.set_xscale("log", base=2)
            ax.set_yscale(log)
            ax.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            ax.set_xticks([here for here, above in zip(n, [*n[1:], math.inf], strict=True) if above / here > 1.5], minor=False)
            ax.tick_params(axis="x", labelsize=7)
            ax.xaxis.set_minor_formatter(NullFormatter())
            ax.grid(color="#eee")
            ax.spines[["top", "right"]].set_visible(False)
        time.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        time.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        time.yaxis.set_minor_formatter(NullFormatter())
        time.set_title({"side": "pixels a side", "width": "width (channels)", "depth": "depth (convolutions)"}.get(name, name))
    panels[0, 0].set_ylabel("ms")
    panels[1, 0].set_ylabel("private memory, MB")
    panels[0, 0].legend(frameon=False, fontsize=8)
    return figure


def _svg(figure, about):
    """Return a figure as SVG for a page, with a text for who can't see it."""
    out = io.StringIO()
    figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    plt.close(figure)
    text = out.getvalue()
    return text[text.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{html.escape(about)}" ', 1)


# Tables


def _number(value):
    if isinstance(value, list):
        return f"{_number(value[0])} to {_number(value[1])}"
    if isinstance(value, float):
        return f"{value:.0f}" if abs(value) >= 100 else f"{value:.3g}"
    return "" if value is None else str(value)


def _table(caption, columns, rows):
    head = "".join(f"<th>{html.escape(each)}</th>" for each in columns)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(_number(row.get(key)))}</td>" for key in columns.values()) + "</tr>" for row in rows)
    return f"<table><caption>{html.escape(caption)}</caption><tr>{head}</tr>{body}</table>"


def _details(tables):
    return f"<details><summary>All numbers</summary>{''.join(tables)}</details>"


def _race_tables(races, columns):
    unit = {"": "name", "median, ms": "median_ms", "times ours, by round": "ratio_by_round", "range": "ratio_range", "rounds": "rounds"}
    return [_table(", ".join([race["title"], *(_said(key, race[key]) for key in columns)]), unit, race["rows"]) for race in races]


# Sections: each yields its HTML if its results are there


def _of_races(name, title, about, columns, called):
    def make(found):
        if name not in found:
            return
        races = [{**race, "title": called(race)} for race in found[name]["results"]]
        shown = [race for race in races if any(row["ratio_range"] != [1.0, 1.0] for row in race["rows"])]
        figure = _svg(races_figure(shown, columns), f"{title}: the numbers are in the tables below") if shown else ""
        yield f"{_head(title, about, found[name]['machine'])}{figure}{_details(_race_tables(races, columns))}"

    return make


def _has_growth(found):
    """Tell whether there are results of growth along axes; older ones had the batch and pixels alone, and no memory."""
    return "axes" in found.get("growth", {}).get("results", {})


def _growth(found):
    if not _has_growth(found):
        return
    results = found["growth"]["results"]
    columns = {
        "n": "n",
        "median, ms": "ms",
        "times the base": "ratio",
        "range": "range",
        "of linear growth": "relative",
        "private MB": "mb",
    }
    tables = [_table(f"{name}: {axis['about']}; base {axis['base']}", columns, axis["rows"]) for name, axis in results["axes"].items()]
    unit = {"": "what", "1 thread, ms": "one", "more, ms": "many", "times as fast, by round": "by_round", "range": "range"}
    tables.append(_table(f"{results['threads']} threads", unit, results["speedup"]))
    about = (
        "Time (logarithmic) and memory of an explanation by epsilon; dashed: linear growth from the point that others are compared with. "
    )
    head = _head("Growth", f"{about}Why it isn't linear: docs/growth.md.", found["growth"]["machine"])
    yield f"{head}{_svg(growth_figure(results), 'Growth: the numbers are in the tables below')}{_details(tables)}"


def _memory(found):
    if "memory" not in found:
        return
    results = found["memory"]["results"]
    columns = {"": "what", "images": "batch", "peak, private MB": "peak_private", "afterwards": "private", "mapped weights": "weights"}
    about = (
        f"A further image of a batch of up to 8 takes {results['epsilon_mb_per_image']:.0f} MB; {results['calls']['calls']} calls of a "
        f"small model leave {results['calls']['growth'] / 1e6:.1f} MB more. The weights are mapped from their file, which processes share."
    )
    tables = [_table("in a process of its own", columns, results["rows"])]
    yield f"{_head('Memory', about, found['memory']['machine'])}{_details(tables)}"


def _first_use(found):
    if "first_use" not in found:
        return
    results = found["first_use"]["results"]
    columns = {"": "name", "median, s": "median_s", "times ours, by round": "ratio_by_round", "range": "ratio_range", "rounds": "rounds"}
    cold = {"": "name", "s": "seconds", "files compiled": "compiled_files", "MB": "megabytes"}
    races = [{"title": "from a shell to a PNG", "caches": "caches warm", "rows": results["warm"]}]
    tables = [_table("caches warm", columns, results["warm"]), _table("an empty cache of kernels", cold, results["cold"])]
    about = f"From a shell to a PNG: {results['warm'][0]['median_s']:.2f} s with VGG16 and epsilon, starting Python included."
    yield f"{_head('First use', about, found['first_use']['machine'])}{_svg(races_figure(races, ('caches',)), about)}{_details(tables)}"


def _roofline(found):
    if "roofline" not in found:
        return
    columns = {"threads": "threads", "batch": "batch", "GFLOP/s a core": "peak_gflops", "GB/s": "peak_gbs", "whole, ms": "whole_ms"}
    columns |= {"at the peaks, ms": "least_ms", "share": "share"}
    best = found["roofline"]["results"][0]
    about = f"The machine's measured peaks would need {best['least_ms']:.0f} ms where an explanation takes {best['whole_ms']:.0f}."
    head = _head("The machine's limit", about, found["roofline"]["machine"])
    yield f"{head}{_details([_table('epsilon', columns, found['roofline']['results'])])}"


def _in_short(found):
    """Yield the few lines that most people want."""
    if "speed" not in found:
        return
    rows = []
    for race in found["speed"]["results"]:
        own, *others = race["rows"]
        if (race["batch"], race["threads"]) != (1, max(each["threads"] for each in found["speed"]["results"])):
            continue
        row = {"what": race["title"], "nplrp": own["median_ms"]}
        for peer in ("torch", "zennit", "captum"):
            theirs = [each for each in others if each["name"].startswith(peer)]
            whole = [each for each in theirs if "gradient" in each["name"]] or theirs  # a forward pass alone explains nothing
            fastest = min(whole, key=lambda each: each["ratio_by_round"], default=None)
            low, high = fastest["ratio_range"] if fastest else (None, None)
            row[peer] = f"{fastest['ratio_by_round']:.2g} ({low:.2g} to {high:.2g})" if fastest else None
        rows.append(row)
    columns = {"": "what", "nplrp, ms": "nplrp", "PyTorch (epsilon: with gradient)": "torch", "Zennit": "zennit", "Captum": "captum"}
    threads = max(race["threads"] for race in found["speed"]["results"])
    caption = f"One image, VGG16, {threads} threads: nplrp's time, and how many times as long the fastest way of others takes (range)"
    yield _table(caption, columns, rows)


SECTIONS = (
    _in_short,
    _of_races(
        "speed",
        "VGG16 beside its peers",
        "How many times as long as nplrp they take; right of 1 nplrp is faster.",
        ("batch", "threads"),
        lambda race: race["title"],
    ),
    _of_races(
        "graphs",
        "Other networks",
        "The forward pass, and epsilon-plus forward and back.",
        ("threads",),
        lambda race: f"{race['network']}: {race['title']}",
    ),
    _growth,
    _memory,
    _first_use,
    _of_races(
        "batch",
        "A folder of images",
        "From JPEGs to results on disk, beside the engine alone on prepared images.",
        ("threads",),
        lambda race: f"{race['network']}, {race['composite']}",
    ),
    _of_races("evaluate", "Evaluating explanations", "The same metrics as Quantus computes.", ("threads",), lambda race: race["job"]),
    _of_races(
        "precision", "Precision", "What float64 and convolutions by their definition cost.", ("threads",), lambda race: race["composite"]
    ),
    _roofline,
)

if __name__ == "__main__":
    main(*sys.argv[1:])
