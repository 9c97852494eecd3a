"""Memory of explanations, each measured in a fresh process: private bytes (mapped weights apart), growth with the batch and with calls."""

import json
import subprocess
import sys

from coordinator import HERE, environment
from report import print_table

COLUMNS = {"": "what", "batch": "batch", "peak private": "peak_private", "peak anonymous": "peak_anonymous", "private after": "private"}
COLUMNS |= {"mapped weights resident": "weights"}


def run(setup):
    """Run `memory_probe.py` for each rule, for batches, and for many calls of a small model."""
    threads = max(setup.threads)
    runs = [("load", 0)] + [(name, 1) for name in ("epsilon", "notebook", "zplus", "alpha_beta")]
    runs += [("epsilon", n) for n in ((2,) if setup.quick else (2, 4, 8, 16))]
    runs += [] if setup.quick else [("zplus", 8), ("alpha_beta", 8)]
    rows = []
    for composite, batch in runs:
        answer = probe(threads, "explain", setup.weights, composite, batch)
        rows.append({"what": composite, "batch": batch, **{key: value / 1e6 for key, value in answer.items()}})
    print_table(f"memory in MB (10^6 bytes), {threads} threads", COLUMNS, rows)
    epsilon = {row["batch"]: row["peak_private"] for row in rows if row["what"] == "epsilon"}
    last = max(batch for batch in epsilon if batch <= 8)
    each = (epsilon[last] - epsilon[1]) / (last - 1)
    print(f"each further image of an epsilon batch: {each:.0f} MB", flush=True)
    calls = probe(threads, "calls", 60 if setup.quick else 500)
    print(f"{calls['calls']} calls of a small model: {calls['growth']} bytes of growth after the first 50", flush=True)
    return {"threads": threads, "rows": rows, "epsilon_mb_per_image": each, "calls": calls}


def probe(threads, *arguments):
    """Run `memory_probe.py` and return what it says; a dict among the arguments becomes JSON."""
    arguments = [json.dumps(each) if isinstance(each, dict) else str(each) for each in arguments]
    command = [sys.executable, str(HERE / "memory_probe.py"), *arguments]
    done = subprocess.run(command, env=environment(threads), stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)
