"""How time grows: with the batch, with pixels, and (the other way) with threads. Only nplrp runs here, against itself."""

import statistics

import numpy as np
from coordinator import Entry, race
from networks import BLOCKS
from report import print_table

BATCHES = (1, 2, 4, 8)
SIDES = (112, 224, 336, 448)
ROUNDS = 9


def run(setup):
    """Measure batches, sides and threads, each in one race."""
    threads = max(setup.threads)
    workers = setup.start(["nplrp"], threads)
    rounds = 1 if setup.quick else ROUNDS
    sides = SIDES[:2] if setup.quick else SIDES
    found = {"threads": threads}

    entries = [Entry(str(n), "nplrp", "explain", {"composite": "epsilon", "batch": n}) for n in BATCHES]
    found["batch"] = _grow(race(workers, entries, threads, rounds), 1)
    columns = {"images": "n", "median ms": "ms", "ms an image / that of 1": "relative"}
    print_table(f"epsilon, {threads} threads", columns, found["batch"])

    jobs = {"13 convolutions, forward": ("convs", {})}
    jobs["epsilon, convolutions and global average"] = ("explain", {"composite": "epsilon", "stack": True})
    for title, (kind, more) in jobs.items():
        entries = [Entry(str(side), "nplrp", kind, {"batch": 1, "side": side, **more}) for side in sides]
        rows = _grow(race(workers, entries, threads, rounds), 224, power=2)
        for row in rows:
            row["padding"] = tile_padding(row["n"])
        found[title] = rows
        columns = {"side": "n", "median ms": "ms", "ms a pixel / that of 224": "relative", "share of tiles that is padding": "padding"}
        print_table(f"{title}, batch 1, {threads} threads", columns, rows)

    if threads > 1:
        found["speedup"] = []
        jobs = [("13 convolutions", "convs", {}, n) for n in (1, 8)] + [("epsilon", "explain", {"composite": "epsilon"}, 8)]
        jobs += [(name, "explain", {"composite": name}, 1) for name in ("epsilon", "zplus", "alpha_beta")]
        for name, kind, more, batch in jobs:
            entries = [Entry(f"{n}", "nplrp", kind, {"batch": batch, **more}, threads=n) for n in (1, threads)]
            seconds = race(workers, entries, threads, rounds)
            if len(seconds) == 2:
                one, many = (statistics.median(times) for times in seconds.values())
                by_round = statistics.median(a / b for a, b in zip(*seconds.values(), strict=True))
                row = {"what": f"{name}, batch {batch}", "one": 1e3 * one, "many": 1e3 * many, "speedup": one / many, "by_round": by_round}
                found["speedup"].append(row)
        columns = {"": "what", "1 thread ms": "one", f"{threads} threads ms": "many", "times faster": "speedup", "by round": "by_round"}
        print_table("threads", columns, found["speedup"])
    for worker in workers.values():
        worker.close()
    return found


def _grow(seconds, at, power=1):
    """Return rows with the time per image (or pixel) relative to that at `at`."""
    medians = {int(n): statistics.median(times) for n, times in seconds.items()}
    unit = medians[at] / at**power if at in medians else None
    return [{"n": n, "ms": 1e3 * t, "relative": t / n**power / unit if unit else None} for n, t in medians.items()]


def tile_padding(side):
    """Return the share of the products in Winograd layers that is spent on tiles' parts outside the image."""
    from nplrp.kernels import conv
    from nplrp.kernels.winograd import OUT

    useful = done = 0
    before = 3
    for depth, width in BLOCKS:
        for _ in range(depth):
            if conv.algorithm(conv.Geometry(side, side, before, width, pads=(1, 1, 1, 1)), np.float32) == "winograd":
                useful += side * side * before * width
                done += (-(-side // OUT) * OUT) ** 2 * before * width
            before = width
        side //= 2
    return 1 - useful / done
