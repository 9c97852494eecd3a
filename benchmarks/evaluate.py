"""`nplrp.evaluate` against Quantus with PyTorch on VGG16: the same maps, settings and draws, in turns.

Needs quantus in the peers' interpreter.
"""

import numpy as np
from coordinator import Entry, compare, race
from evaluating import BATCH, BATCHES, JOBS
from report import print_table

ROUNDS = 2
COLUMNS = {"": "name", "median ms": "median_ms", "least ms": "least_ms", "times nplrp": "ratio", "by round": "ratio_by_round"}


def run(setup):
    """Measure every job, and by how much the numbers differ."""
    threads, tables = max(setup.threads), []
    for job in JOBS:
        batch = 1 if setup.quick else BATCHES.get(job, BATCH)
        workers, results = setup.start(["evaluate", "quantus"], threads), {}
        rounds = 1 if setup.quick or job == "randomisation" else ROUNDS
        entries = [
            Entry(name, kind, "evaluate", {"what": job, "batch": batch}) for name, kind in (("nplrp", "evaluate"), ("quantus", "quantus"))
        ]
        rows = compare(race(workers, entries, threads, rounds, warm=0, results=results), "nplrp")
        table = {"job": job, "batch": batch, "threads": threads, "settings": JOBS[job], "rows": rows}
        if len(results) == 2 and job != "randomisation":  # each draws weights of its own
            ours, theirs = (np.asarray(results[name], float) for name in ("nplrp", "quantus"))
            table["largest_difference"] = float(np.abs(ours - theirs).max() / np.abs(theirs).max())
        if "quantus" in workers:
            table["versions"] = workers["quantus"].ask("facts")
        tables.append(table)
        title = f"{job}, {batch} images, {threads} threads"
        print_table(title, COLUMNS, rows)
        print(f"largest difference {table.get('largest_difference', float('nan')):.1e} of the largest number", flush=True)
        for worker in workers.values():
            worker.close()
    return tables
