"""What float64 and `algorithm="direct"` cost, against float32 as it runs by default."""

from coordinator import Entry, compare, race
from report import print_table

ROUNDS = 5
COLUMNS = {"": "name", "median ms": "median_ms", "least ms": "least_ms", "times float32": "ratio", "by round": "ratio_by_round"}
KINDS = {"float32": {}, "float32, direct": {"algorithm": "direct"}, "float64": {"dtype": "float64"}}


def run(setup):
    """Measure epsilon, z+ and alpha2-beta1 at batch 1."""
    threads, tables = max(setup.threads), []
    for composite in ("epsilon",) if setup.quick else ("epsilon", "zplus", "alpha_beta"):
        workers = setup.start(["nplrp"], threads)
        entries = [Entry(name, "nplrp", "explain", {"composite": composite, "batch": 1, **more}) for name, more in KINDS.items()]
        rows = compare(race(workers, entries, threads, 1 if setup.quick else ROUNDS), "float32")
        tables.append({"composite": composite, "threads": threads, "rows": rows})
        print_table(f"{composite}, batch 1, {threads} threads", COLUMNS, rows)
        for worker in workers.values():
            worker.close()
    return tables
