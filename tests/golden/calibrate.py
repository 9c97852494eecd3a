"""Write docs/golden-calibration.md: what float32 runs and the seeded faults get on the demonstration's trained VGG16.

python -m tests.golden.calibrate docs/golden-calibration.md     (minutes; needs the extra demo)
"""

import dataclasses
import sys
import tempfile
import time
from pathlib import Path

import nplrp
from nplrp import demo, golden
from nplrp.golden.candidate import Candidate
from nplrp.golden.faults import FAULTS
from nplrp.golden.isolated import isolated_run, places_of
from nplrp.golden.recording import digest_of
from tests.golden import plain

#: Multiply-adds above which the slow NumPy twins skip a layer.
SLOW = 5e7
COMPOSITES = ("epsilon_plus",)


def work(step):
    """Number of multiply-adds of a step with weights."""
    return 0 if step.weight is None else step.weight.size * (step.output_shape[0] * step.output_shape[1] if step.kind == "conv" else 1)


def counts(report):
    verdicts = [row.verdict for row in report.rows]
    found = ", ".join(f"{verdicts.count(v)} {v}" for v in dict.fromkeys(verdicts))
    return f"{found}; largest err/tol {max(row.judgement.ratio for row in report.rows):.2g}"


def line(*cells):
    print("|", " | ".join(str(cell) for cell in cells), "|", file=OUT, flush=True)


def calibrate(model, x, name):
    began = time.perf_counter()
    recorded = golden.record(model, x, name)
    print(f"{name}: recorded in {time.perf_counter() - began:.0f} s", file=sys.stderr, flush=True)
    print(f"\n### `{name}`: float32 runs without a fault\n", file=OUT)
    line("run", "compared", "verdicts")
    line("---", "---", "---")
    single = isolated_run(recorded, model)
    line("nplrp, direct", "isolated", counts(golden.check(recorded, single, mode="isolated")))
    fast = isolated_run(recorded, model, algorithm="auto")
    line("nplrp, Winograd", "isolated", counts(golden.check(recorded, fast, mode="isolated", convolutions="winograd")))
    line("nplrp, Winograd, judged as direct", "isolated", counts(golden.check(recorded, fast, mode="isolated")))
    places = places_of(recorded, model, "float32")
    for order in plain.ORDERS:
        R = {n: plain.step_back(at, order) for n, at in places.items() if order == "matmul" or work(at.step) < SLOW}
        report = golden.check(recorded, Candidate({n: each for n, each in R.items() if each is not None}), mode="isolated")
        line(f"plain NumPy, {order}", f"isolated, {len(report.rows)} layers", counts(report))
    for algorithm in ("direct", "auto"):
        e = nplrp.explain(model, x, name, None if recorded.facts["targets"] is None else recorded.facts["targets"], "float32", algorithm)
        candidate = Candidate(e.relevances, e.activations)
        line(f"nplrp, {algorithm}", "chained", counts(golden.check(recorded, candidate)))
        line(f"nplrp, {algorithm}", "local", counts(golden.check(recorded, candidate, mode="local", model=model)))
    print(f"\n### `{name}`: seeded faults, each in one layer at a time\n", file=OUT)
    line("fault", "DIVERGED at its own layer", "not told apart there (err/tol)")
    line("---", "---", "---")
    for fault in FAULTS:
        caught, missed = [], []
        for below, at in places.items():
            if fault.number == 14 and work(at.step) > SLOW:
                continue
            got = fault.run(at)
            if got is None:
                continue
            report = golden.check(recorded, Candidate({below: got}), mode="isolated")
            row = report.row(at.step.name)
            (caught if row.verdict == "DIVERGED" else missed).append(f"{at.step.name} ({row.judgement.ratio:.1g})")
        shown = f"{len(caught)} of {len(caught) + len(missed)}" if caught or missed else "can't show: no layer has what it changes"
        line(f"{fault.number} {fault.name}", shown, ", ".join(missed) or "none")
    top = recorded["predictions" if "predictions" in recorded.names else recorded.names[-1]]
    softmax = dataclasses.replace(single, relevances={top.name: recorded.output.reshape(top.relevance.shape).astype("f4")})
    line("11 softmax start for logit", golden.check(recorded, softmax, mode="isolated").rows[0].verdict, "")
    with tempfile.TemporaryDirectory() as folder:
        for profile in ("full", "digest"):
            path = Path(folder) / f"{profile}.lrpgold.h5"
            golden.write(recorded if profile == "full" else digest_of(recorded), path)
            print(f"`{profile}` file: {path.stat().st_size / 1e6:.2f} MB.  ", file=OUT, flush=True)
    print(file=OUT)


def main(path):
    global OUT  # noqa: PLW0603
    OUT = Path(path).open("w", encoding="utf-8")  # noqa: SIM115
    print(
        "# Calibration of golden checks\n\nWritten by `python -m tests.golden.calibrate`: the demonstration's VGG16 and MRI slice.\n",
        file=OUT,
    )
    model = demo.demo_model()
    x = nplrp.preprocess(demo.demo_image(), model)
    for name in COMPOSITES:
        calibrate(model, x, name)
    OUT.close()


if __name__ == "__main__":
    main(sys.argv[1])
