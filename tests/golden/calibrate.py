"""Measure how golden checks fare: float32 runs that are right, and seeded faults, on trained and on random networks.

python -m tests.golden.calibrate measure RESULTS.json --model demo --composites epsilon_plus [--torch PYTHON] [--faults] [--winograd]
python -m tests.golden.calibrate write docs/golden-calibration.md RESULTS.json ...

Models: demo (the demonstration's trained VGG16, needs the extra), vgg16 (full size, 224 x 224, seeded random weights), narrow-0 and so on
(the same layers, an eighth as wide, 64 x 64; any seed). Minutes for each composite of a full-size network. PYTHON has PyTorch.
"""

import argparse
import json
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np

import nplrp
from nplrp import golden, layers
from nplrp.golden.again import derived_again
from nplrp.golden.candidate import Candidate, read_candidate
from nplrp.golden.diagnosis import plan_of
from nplrp.golden.faults import FAULTS, SOFTMAX_START
from nplrp.golden.isolated import isolated_run, places_of
from nplrp.golden.judging import judge
from nplrp.golden.recording import digest_of
from nplrp.golden.whole_run import whole_run
from nplrp.model import chain
from nplrp.rules import Clamp
from tests import networks
from tests.golden import plain
from tests.golden.more_faults import MORE

#: Multiply-adds above which term-by-term NumPy skips a layer.
SLOW = 5e7
#: Inputs times channels above which the float16 fault, which sums term by term too, skips a layer.
HALF, SLOW_HALF = 14, 1e8
MARK = "<!-- measured -->"


def vgg(seed, size, width, hidden, classes):
    """VGG16 with seeded He-scaled weights and biases, its blocks `width` channels wide at first."""
    rng, layers, before = np.random.default_rng(seed), [], 3
    for block, (depth, times) in enumerate(((2, 1), (2, 2), (3, 4), (3, 8), (3, 8)), 1):
        for i in range(1, depth + 1):
            kernel = rng.standard_normal((3, 3, before, width * times), np.float32) * np.float32(np.sqrt(2 / (9 * before)))
            layers.append(networks.conv(f"block{block}_conv{i}", kernel, rng.normal(size=width * times) * 0.1))
            before = width * times
        layers.append(networks.pool(f"block{block}_pool"))
    layers.append(networks.plain("flatten", "flatten"))
    before *= (size // 32) ** 2
    for name, units, activation in (("fc1", hidden, "relu"), ("fc2", hidden, "relu"), ("predictions", classes, "softmax")):
        kernel = rng.standard_normal((before, units), np.float32) * np.float32(np.sqrt(2 / before))
        layers.append(networks.dense(name, kernel, rng.normal(size=units) * 0.1, activation))
        before = units
    model = chain((size, size, 3), layers, f"VGG16 with random weights, seed {seed}, {size} x {size}, {width} channels at first")
    return model, rng.uniform(0, 255, (1, size, size, 3)) - 110


def network(name):
    """Return a model and an input by name."""
    if name == "demo":
        from nplrp import demo

        model = demo.demo_model()
        return model, nplrp.preprocess(demo.demo_image(), model)
    if name == "vgg16":
        return vgg(0, 224, 64, 4096, 1000)
    model, x = vgg(int(name.removeprefix("narrow-")), 64, 8, 128, 10)
    x[:, 12:44, 20:52] = 30.0  # a flat area, so that places of pools tie
    return model, x


def work(step):
    """Number of multiply-adds of a step with weights."""
    return 0 if step.weight is None else step.weight.size * (step.output_shape[0] * step.output_shape[1] if step.kind == "conv" else 1)


def row_of(report, run, compared):
    """Sum a report up."""
    verdicts = [row.verdict for row in report.rows]
    return {
        "run": run,
        "compared": compared,
        "verdicts": {v: verdicts.count(v) for v in dict.fromkeys(verdicts)},
        "ratio": max(row.judgement.ratio for row in report.rows),
        "undecided": sum(row.judgement.undecided for row in report.rows),
        "outside": [f"{row.what} of {row.array}" for row in report.rows if row.verdict not in ("EXACT", "WITHIN")],
        "worst": max((row.judgement.minimum_rtol for row in report.rows if row.what == "relevance"), default=0.0),
        "other": sum(each.other for each in report.decisions),
        "unexplained": sum(each.unexplained for each in report.decisions),
    }


def right_runs(model, x, recorded, torch, winograd):
    """Yield a row for every float32 run without a fault."""
    for algorithm in ("direct", "auto"):
        name = {"direct": "nplrp, direct", "auto": "nplrp, Winograd"}[algorithm]
        single = isolated_run(recorded, model, algorithm=algorithm)
        yield row_of(golden.check(recorded, single, mode="isolated"), name, "isolated")
        plan = plan_of(recorded, model, "float32", algorithm)
        e = whole_run(plan, np.asarray(x, "f4"), recorded.facts["start"], recorded.facts["targets"])
        whole = Candidate(e.relevances, seen(plan, recorded.names, e.trace.activations))
        yield row_of(golden.check(recorded, whole), name, "chained")
        if algorithm == "direct" or not winograd:
            yield row_of(golden.check(recorded, whole, mode="local", model=model), name, "local")
        if algorithm == "auto" and winograd:
            options = {"model": model, "convolutions": "winograd"}
            yield row_of(golden.check(recorded, single, mode="isolated", **options), name, "isolated, judged as Winograd")
            yield row_of(golden.check(recorded, whole, mode="local", **options), name, "local, judged as Winograd")
    places = places_of(recorded, model, "float32")
    at = next(iter(places.values()))
    for order in plain.ORDERS:
        quick = {n: each for n, each in places.items() if order in plain.FAST or work(each.step) < SLOW}
        R = {recorded.inputs[n][0]: plain.step_back(each, order) for n, each in quick.items()}
        report = golden.check(recorded, Candidate({n: each for n, each in R.items() if each is not None}), mode="isolated")
        yield row_of(report, f"plain NumPy, {order}", f"isolated, {len(report.rows)} layers")
        if order in plain.FAST:
            top = recorded.layers[-1].relevance.values.astype("f4")
            activations, relevances = plain.end_to_end(at.plan, at.trace, top, order)
            shown = seen(at.plan, recorded.names, activations)
            whole = Candidate(dict(zip(recorded.names[::-1], relevances, strict=True)), shown)
            yield row_of(golden.check(recorded, whole), f"plain NumPy, {order}", "chained")
    if torch:
        for mode in ("isolated", "chained"):
            whole = torch_run(torch, at, recorded, mode)
            yield row_of(golden.check(recorded, whole, mode=mode), "PyTorch", mode)
        yield row_of(golden.check(recorded, whole, mode="local", model=model), "PyTorch", "local")


def hidden(plan):
    """Layers whose activations a plan with merged batch norms doesn't have: the norm's own, or the one that it is merged into."""
    found = set()
    for i, step in enumerate(plan.steps):
        if step.merged:
            found.add(plan.steps[min(i, step.options["into"])].name)
    return found


def seen(plan, names, activations):
    """Activations by name, without hidden ones."""
    return {name: a for name, a in zip(names, activations, strict=True) if name not in hidden(plan)}


def torch_run(python, at, recorded, mode):
    """Run the backend in PyTorch on what a plan holds."""
    plan = at.plan
    rows, arrays = [], {"x": recorded.input.astype("f4"), "start": recorded.layers[-1].relevance.values.astype("f4")}
    for i, (step, rule, parts) in enumerate(zip(plan.steps, plan.rules, plan.parts, strict=True)):
        window = step.window
        row = {"kind": step.kind, "activation": step.activation, "input_shape": step.input_shape}
        row |= {"size": window.size, "stride": window.stride, "pads": window.pads(*step.input_shape[:2])} if window else {}
        row |= {"rule": rule.name, **{key: getattr(rule, key) for key in ("epsilon", "stabiliser", "low", "high")}}
        row["parts"] = [
            {
                "terms": [(t.input, list(t.weight) if isinstance(t.weight, Clamp) else t.weight) for t in part.terms],
                "bias": list(part.bias) if isinstance(part.bias, Clamp) else part.bias,
                "units": part.units,
                "weight": part.weight,
            }
            for part in parts
        ]
        rows.append(row)
        arrays |= {
            f"{i}/{key}": array
            for key, array in (("weight", None if step.weight is None else layers.wide(step)), ("bias", step.bias))
            if array is not None
        }
    for layer, a in zip(recorded.layers, at.trace.activations, strict=True):
        arrays[f"relevances/{layer.name}"] = layer.relevance.values.astype("f4")
        arrays[f"activations/{layer.name}"] = a.reshape(layer.activation.shape)
    skipped = [f"activations/{name}" for name in hidden(plan)]
    with tempfile.TemporaryDirectory() as folder:
        job, out = Path(folder) / "job.npz", Path(folder) / "out.npz"
        np.savez(job, job=json.dumps({"steps": rows, "names": recorded.names, "hidden": skipped}), **arrays)
        subprocess.run([python, Path(__file__).with_name("torch_backend.py"), job, out, mode], check=True)
        return read_candidate(out)


def seeded_faults(model, recorded, winograd):
    """Yield a row for every fault in every layer: err/tol there, by the full file and by the digest."""
    digest, single = digest_of(recorded), isolated_run(recorded, model).relevances
    wide = derived_again(recorded, single, {}, {}, model, "isolated", "winograd") if winograd else {}
    for layer, at in places_of(recorded, model, "float32").items():
        (below,) = recorded.inputs[layer]
        for fault in FAULTS:
            got = fault.run(at) if fault.number != HALF or at.a.size * at.step.output_shape[-1] < SLOW_HALF else None
            if got is None:
                continue
            row = {"fault": f"{fault.number} {fault.name}", "layer": at.step.name}
            found = {
                name: golden.check(file, Candidate({below: got}), mode="isolated").row(at.step.name).judgement
                for name, file in (("full", recorded), ("digest", digest))
            }
            if winograd:
                found["winograd"] = judge(got, wide["relevance", below], precision="float32")
            row |= {name: (j.verdict, j.ratio) for name, j in found.items()}
            row["undecided"] = max(j.undecided for j in found.values())
            row["same"] = bool(np.array_equal(got, single[below]))
            yield row
    top = recorded.layers[-1]
    softmax = recorded.output.reshape(top.relevance.shape).astype("f4") * (top.relevance.values != 0)
    row = {"fault": f"{SOFTMAX_START} softmax start for logit", "layer": "start"}
    for name, file in (("full", recorded), ("digest", digest)):
        judgement = golden.check(file, Candidate({top.name: softmax}), mode="isolated").rows[0].judgement
        row[name] = (judgement.verdict, judgement.ratio)
    yield row


def more_faults(model, recorded):
    """Yield a row for every further fault: in how many layers it is found, and its err/tol where it isn't."""
    places, single = places_of(recorded, model, "float32"), isolated_run(recorded, model).relevances
    for name, fault in MORE.items():
        row = {"fault": name, "layers": 0, "same": 0, "verdicts": [], "ratios": []}
        for layer, at in places.items():
            got, (below,) = fault(at), recorded.inputs[layer]
            if got is None:
                continue
            row["layers"] += 1
            if np.array_equal(got, single[below]):
                row["same"] += 1
                continue
            judgement = golden.check(recorded, Candidate({below: got}), mode="isolated").rows[0].judgement
            row["verdicts"].append(judgement.verdict)
            row["ratios"] += [judgement.ratio] if judgement.verdict != "DIVERGED" else []
        if row["layers"]:
            yield row


def sizes(recorded, profiles):
    with tempfile.TemporaryDirectory() as folder:
        found = {}
        for profile in profiles:
            path = Path(folder) / f"{profile}.lrpgold.h5"
            golden.write(recorded if profile == "full" else digest_of(recorded), path)
            found[profile] = path.stat().st_size / 1e6
    return found


def measure(options):
    path = Path(options.results)
    results = json.loads(path.read_text()) if path.exists() else []
    model, x = network(options.model)
    for name in options.composites.split(","):
        began = time.perf_counter()
        recorded = golden.record(model, x, name, start="logit" if options.faults and name != "notebook" else None)
        entry = {"model": options.model, "composite": name, "seconds": time.perf_counter() - began, "runs": [], "faults": []}
        entry |= {"elements": sum(np.prod(layer.activation.shape) for layer in recorded.layers).item()}
        entry["ambiguous"] = sum(layer.ambiguous_count for layer in recorded.layers)
        for row in right_runs(model, x, recorded, options.torch, options.winograd):
            entry["runs"].append(row)
            print(name, row["run"], row["compared"], row["verdicts"], f"{row['ratio']:.2g}", row["outside"][:4], flush=True)
        entry["sizes"] = sizes(recorded, ("full", "digest") if options.faults else ("digest",))
        if options.faults:
            for row in seeded_faults(model, recorded, options.winograd):
                entry["faults"].append(row)
                print(name, row, flush=True)
            entry["more"] = list(more_faults(model, recorded))
        results = [each for each in results if (each["model"], each["composite"]) != (options.model, name)] + [entry]
        path.write_text(json.dumps(results, indent=1) + "\n")


def line(*cells):
    return "| " + " | ".join(str(cell) for cell in cells) + " |"


def tables(results):
    """Yield the measured part of the page."""
    yield "## Float32 runs without a fault\n"
    yield line(
        "network", "rules", "runs", "arrays compared", "EXACT or WITHIN", "SUSPECT", "DIVERGED", "largest err/tol", "undecided elements"
    )
    yield line(*["---"] * 9)
    outside = []
    for entry in results:
        for mode in ("isolated", "isolated, judged as Winograd", "local", "local, judged as Winograd", "chained"):
            rows = [
                row
                for row in entry["runs"]
                if row["compared"].split(", ")[: 1 + (", j" in mode)] == mode.split(", ")[: 1 + (", j" in mode)]
            ]
            rows = [row for row in rows if ("judged" in row["compared"]) == ("judged" in mode)]
            if rows:
                verdicts = [sum(row["verdicts"].get(v, 0) for row in rows) for v in ("EXACT", "WITHIN", "SUSPECT", "DIVERGED", "inherited")]
                ratio, undecided = max(row["ratio"] for row in rows), sum(row["undecided"] for row in rows)
                good = verdicts[0] + verdicts[1]
                bad = verdicts[3] + verdicts[4]
                where = f"{entry['model']} | {entry['composite']}"
                yield line(where, f"{len(rows)} {mode}", sum(verdicts), good, verdicts[2], bad, f"{ratio:.2g}", undecided)
            outside += [
                f"{entry['model']}, {entry['composite']}: {r['run']}, {r['compared']}: {', '.join(r['outside'])}"
                for r in rows
                if r["outside"]
            ]
    yield ""
    yield from (f"- outside: {each}" for each in outside)
    yield "\n## Decisions that fall otherwise from end to end\n"
    yield line(
        "network",
        "rules",
        "run",
        "ReLUs and winners decided otherwise",
        "of them not ambiguous",
        "largest difference, of the layer's maximum",
    )
    yield line(*["---"] * 6)
    for entry in results:
        for row in entry["runs"]:
            if row["compared"] == "chained" and not entry["model"].startswith("narrow"):
                yield line(entry["model"], entry["composite"], row["run"], row["other"], row["unexplained"], f"{row['worst']:.1e}")
    for entry in results:
        if entry["faults"]:
            yield from fault_table(entry)
    more = [entry for entry in results if entry.get("more")]
    if more:
        yield "\n## Further faults\n"
        yield "Layers where a fault is DIVERGED, of those where it changes a bit; in brackets SUSPECT, and err/tol of the rest.\n"
        yield line("fault", *(f"`{entry['composite']}` of {entry['model']}" for entry in more))
        yield line("---", *["---"] * len(more))
        for name in MORE:
            yield line(name, *(further(next((row for row in entry["more"] if row["fault"] == name), None)) for entry in more))
    yield "\n## Cost\n"
    yield line("network", "rules", "elements", "ambiguous decisions", "recorded in", "full file", "digest")
    yield line(*["---"] * 7)
    for entry in results:
        size = [f"{entry['sizes'][each]:.2f} MB" if each in entry["sizes"] else "" for each in ("full", "digest")]
        yield line(entry["model"], entry["composite"], entry["elements"], entry["ambiguous"], f"{entry['seconds']:.0f} s", *size)


def fault_table(entry):
    """Yield a table of layers and faults."""
    rows = entry["faults"]
    numbers = sorted({int(row["fault"].split()[0]) for row in rows})
    yield f"\n## Seeded faults: `{entry['composite']}` of {entry['model']}, each in one layer at a time\n"
    yield "Full file: D is DIVERGED, S SUSPECT, = changes no bit; a number is err/tol of what isn't told apart, u: undecided.\n"
    yield line("layer", *numbers)
    yield line("---", *["---"] * len(numbers))
    for layer in dict.fromkeys(row["layer"] for row in rows):
        found = {int(row["fault"].split()[0]): row for row in rows if row["layer"] == layer}
        yield line(layer, *(cell(found[number], "full") if number in found else "" for number in numbers))
    yield ""
    for kind, what in (("digest", "by the digest's samples"), ("winograd", "by the bounds of Winograd convolutions")):
        known = [row for row in rows if kind in row]
        if known:
            lost = [
                f"{row['fault'].split()[0]} in {row['layer']}"
                for row in known
                if row["full"][0] == "DIVERGED" and row[kind][0] != "DIVERGED"
            ]
            caught = sum(row[kind][0] == "DIVERGED" for row in known)
            yield f"- {what}: {caught} of {len(known)} are DIVERGED; lost: {', '.join(lost) or 'none'}"


def further(row):
    if row is None:
        return ""
    caught, suspect, rest = (row["verdicts"].count(v) for v in ("DIVERGED", "SUSPECT", "WITHIN"))
    below = sorted(ratio for ratio in row["ratios"] if ratio <= 1)
    missed = [f"{suspect} S"] if suspect else []
    if below:
        missed.append(f"{rest}: {below[0]:.1g} to {below[-1]:.1g}")
    return f"{caught} of {row['layers'] - row['same']}" + (f" ({', '.join(missed)})" if missed else "")


def cell(row, kind):
    if row[kind][0] in ("DIVERGED", "SUSPECT"):
        return row[kind][0][0]
    return "=" if row.get("same") else f"{row[kind][1]:.1g}" + (" u" if row.get("undecided") else "")


def write(options):
    """Replace what a page has behind the mark by the tables of some results."""
    results = [entry for path in options.results for entry in json.loads(Path(path).read_text())]
    page = Path(options.page)
    head = page.read_text("utf-8").split(MARK)[0]
    page.write_text(f"{head}{MARK}\n\n" + "\n".join(tables(results)) + "\n", "utf-8")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    actions = parser.add_subparsers(required=True)
    command = actions.add_parser("measure")
    command.add_argument("results")
    command.add_argument("--model", required=True)
    command.add_argument("--composites", required=True)
    command.add_argument("--torch", metavar="PYTHON")
    command.add_argument("--faults", action="store_true")
    command.add_argument("--winograd", action="store_true")
    command.set_defaults(run=measure)
    command = actions.add_parser("write")
    command.add_argument("page")
    command.add_argument("results", nargs="+")
    command.set_defaults(run=write)
    options = parser.parse_args()
    options.run(options)


if __name__ == "__main__":
    main()
