"""Networks that aren't chains, beside VGG16: the forward pass and epsilon-plus against PyTorch and Zennit, and the memory of each."""

from coordinator import Entry, compare, difference, race
from networks import describe_graph, write_graph
from report import print_table

NETWORKS = ("vgg16", "resnet50", "densenet121", "inceptionv3", "mobilenetv2")
COLUMNS = {"": "name", "median ms": "median_ms", "least ms": "least_ms", "times ours": "ratio", "by round": "ratio_by_round"}
COLUMNS |= {"range": "ratio_range", "differs by": "difference", "peak MB": "peak_mb"}
ROUNDS = 5


def sections(graph):
    """Return (title, entries) for each table; the first entry is what the others are compared with.

    PyTorch runs the network as it is, and with its batch norms merged; Zennit merges them itself.
    """

    def torch(what, kind):
        rows = [("default", False, False), ("channels_last", True, False)] + [("channels_last, merged", True, True)] * graph
        return [Entry(f"torch {what}, {name}", "torch", kind, {"batch": 1, "channels_last": last, "merge": m}) for name, last, m in rows]

    ours = Entry("nplrp epsilon_plus", "nplrp", "explain", {"composite": "epsilon_plus", "batch": 1, "start": "logit"})  # as Zennit's
    zennit = [
        Entry(f"zennit EpsilonPlus, {name}", "zennit", "epsilon_plus", {"batch": 1, "channels_last": last})
        for name, last in (("default", False), ("channels_last", True))
    ]
    return [
        ("forward", [Entry("nplrp", "nplrp", "forward", {"batch": 1}), *torch("forward", "forward")]),
        ("epsilon_plus, forward and backward", [ours, *zennit, *torch("forward + gradient", "gradient")]),
    ]


def run(setup):
    """Measure every network at every number of threads, and once the memory of each contestant in a process of its own."""
    tables = []
    for name in NETWORKS:
        table, graph = setup.network, name != "vgg16"
        if graph:
            weights, table = setup.folder / f"{name}.h5", setup.folder / f"{name}.json"
            write_graph(name, weights)
            describe_graph(weights, table, name)
        for threads in setup.threads:
            workers = setup.start(("nplrp", "torch", "zennit"), threads, table)
            for title, entries in sections(graph):
                results = {}
                seconds = race(workers, entries, threads, 1 if setup.quick else ROUNDS, results=results)
                rows = compare(seconds, entries[0].name)
                for row, entry in ((row, next(e for e in entries if e.name == row["name"])) for row in rows):
                    if entry is not entries[0] and entry.kind != "gradient" and entries[0].name in results:
                        row["difference"] = difference(results[entry.name], results[entries[0].name])
                    if threads == max(setup.threads):
                        row["peak_mb"] = _peak(setup, entry, threads, table)
                tables.append({"network": name, "title": title, "threads": threads, "batch": 1, "rows": rows})
                print_table(f"{name}: {title}, {threads} thread{'s' * (threads > 1)}", COLUMNS, rows)
            for worker in workers.values():
                worker.close()
    return tables


def _peak(setup, entry, threads, table):
    """Return the most resident memory of a process that does this three times, in MB (10^6 bytes)."""
    (worker,) = setup.start([entry.worker], threads, table).values()
    worker.ask("prepare", job=entry.name, kind=entry.kind, threads=threads, **entry.parameters)
    worker.ask("time", job=entry.name, threads=threads, warm=1, runs=1)
    found = worker.ask("peak") / 1e6
    worker.close()
    return found
