"""Speed side by side: the 13 convolutions, the forward pass, and each rule, against the peers that have it."""

from coordinator import Entry, compare, difference, race
from report import print_table

WORKERS = ("nplrp", "torch", "zennit", "captum", "numpy")
COLUMNS = {"": "name", "median ms": "median_ms", "least ms": "least_ms", "times ours": "ratio", "by round": "ratio_by_round"}
COLUMNS |= {"range": "ratio_range", "differs by": "difference"}
#: Rounds by batch; quick runs do one.
ROUNDS = {1: 9, 8: 4}
#: The NumPy twin takes seconds for one image, and isn't asked for more.
NUMPY_BATCH = 1


def sections(batch):
    """Return (title, entries) for each table; the first entry is what the others are compared with."""
    formats = (("default", False), ("channels_last", True))

    def torch(what, kind):
        return [Entry(f"torch {what}, {name}", "torch", kind, {"batch": batch, "channels_last": flag}) for name, flag in formats]

    def ours(name, **parameters):
        return Entry(f"nplrp {name}", "nplrp", "explain", {"composite": name, "batch": batch, **parameters})

    def peer(worker, rule):
        return Entry(f"{worker} {rule}", worker, "explain", {"rule": rule, "batch": batch})

    def both(kind):
        return Entry("nplrp", "nplrp", kind, {"batch": batch}), Entry("numpy im2col", "numpy", kind, {"batch": batch})

    rows = [
        ("13 convolutions, forward", [*both("convs"), *torch("convs", "convs")]),
        (
            "VGG16 forward",
            [*both("forward"), *torch("forward", "forward"), Entry("nplrp predict()", "nplrp", "predict", {"batch": batch})],
        ),
        (
            "epsilon, forward and backward",
            [
                *(ours("epsilon"), ours("notebook"), peer("zennit", "epsilon"), peer("captum", "epsilon"), peer("numpy", "epsilon")),
                *(*torch("forward + gradient", "gradient"), *torch("forward", "forward")),
            ],
        ),
        ("z+, forward and backward", [ours("zplus"), peer("zennit", "zplus"), peer("captum", "zplus"), peer("numpy", "zplus")]),
        ("alpha2-beta1, forward and backward", [ours("alpha_beta"), peer("zennit", "alpha_beta"), peer("numpy", "alpha_beta")]),
    ]
    return [(title, [e for e in entries if e.worker != "numpy" or batch <= NUMPY_BATCH]) for title, entries in rows]


def run(setup):
    """Measure every section at every number of threads and batch."""
    tables = []
    for threads in setup.threads:
        workers = setup.start(WORKERS, threads)
        for batch in setup.batches:
            rounds = 1 if setup.quick else ROUNDS.get(batch, 3)
            for title, entries in sections(batch):
                results = {} if batch == 1 else None
                seconds = race(workers, entries, threads, rounds, results=results)
                base = entries[0].name
                rows = compare(seconds, base)
                for row in rows:
                    if results and base in results and _comparable(row["name"], results, base):
                        row["difference"] = difference(results[row["name"]], results[base])
                tables.append({"title": title, "threads": threads, "batch": batch, "rows": rows})
                print_table(f"{title}, batch {batch}, {threads} thread{'s' * (threads > 1)}", COLUMNS, rows)
        for worker in workers.values():
            worker.close()
    return tables


def _comparable(name, results, base):
    return name != base and "notebook" not in name and "gradient" not in name and results[name].shape == results[base].shape
