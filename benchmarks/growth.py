"""How time and memory grow: with images, pixels, width, depth, targets, and (the other way) with threads. nplrp against itself."""

import statistics

import numpy as np
from coordinator import Entry, race
from memory import probe
from networks import BLOCKS
from report import print_table

ROUNDS = 5
_SIDE, _WIDE = 56, 64  # of the networks of any depth


def axes(quick):
    """Return for each axis its points, the one that others are compared with, the power of linear growth, and a point's job."""

    def some(*points):
        return points[:2] if quick else points

    def width(n):
        return {"batch": 1, "blocks": [[depth, channels * n // 64] for depth, channels in BLOCKS]}

    def depth(n):
        return {"batch": 1, "blocks": [[n, _WIDE]], "side": _SIDE}

    return {
        "images": (some(1, 2, 4, 8, 16, 32, 64), 1, 1, lambda n: {"batch": n}),
        "side": (some(64, 128, 224, 448, 768, 1024), 64 if quick else 224, 2, lambda n: {"batch": 1, "side": n, "stack": True}),
        "width": (some(16, 32, 64, 128), 16 if quick else 64, 2, width),
        "depth": (some(1, 2, 4, 8, 16, 32), 1 if quick else 8, 1, depth),
        "targets": (some(1, 2, 5, 10, 20), 1, 1, lambda n: {"batch": 1, "target": f"top-{n}"}),
    }


#: What a point of an axis is.
ABOUT = {
    "images": "VGG16, images in one call",
    "side": "VGG16's convolutions and a global average, one image of n x n pixels",
    "width": "the same layers, 224 x 224, with n channels in the first block and as many times more or fewer in all others",
    "depth": f"n convolutions of {_WIDE} channels, one image of {_SIDE} x {_SIDE} pixels",
    "targets": "VGG16, the n likeliest classes of one image",
}


def run(setup):
    """Measure each axis in one race, and every point's memory in a process of its own."""
    threads, rounds = max(setup.threads), 1 if setup.quick else ROUNDS
    workers, found = setup.start(["nplrp"], threads), {"threads": threads, "composite": "epsilon", "axes": {}}
    for name, (points, base, power, job) in axes(setup.quick).items():
        entries = [Entry(str(n), "nplrp", "explain", {"composite": "epsilon", **job(n)}) for n in points]
        rows = _grow(race(workers, entries, threads, rounds), base, power)
        for row in rows:
            more = dict(job(row["n"]))
            row["mb"] = probe(threads, "explain", setup.weights, "epsilon", more.pop("batch"), more)["peak_private"] / 1e6
            if name == "side":
                row["padding"] = tile_padding(row["n"])
        found["axes"][name] = {"about": ABOUT[name], "base": base, "power": power, "rows": rows}
        columns = {name: "n", "median ms": "ms", f"of {base}": "ratio", "range": "range", "of linear": "relative", "peak private MB": "mb"}
        print_table(f"epsilon, {threads} threads: {ABOUT[name]}", columns, rows)
    found["speedup"] = _speedup(workers, threads, rounds) if threads > 1 else []
    for worker in workers.values():
        worker.close()
    return found


def _speedup(workers, threads, rounds):
    """Return how many times as fast as one thread several are."""
    found = []
    jobs = [("13 convolutions", "convs", {}, n) for n in (1, 8)] + [("epsilon", "explain", {"composite": "epsilon"}, 8)]
    jobs += [(name, "explain", {"composite": name}, 1) for name in ("epsilon", "zplus", "alpha_beta")]
    for name, kind, more, batch in jobs:
        entries = [Entry(f"{n}", "nplrp", kind, {"batch": batch, **more}, threads=n) for n in (1, threads)]
        seconds = race(workers, entries, threads, rounds)
        if len(seconds) == 2:
            one, many = (statistics.median(times) for times in seconds.values())
            ratios = sorted(a / b for a, b in zip(*seconds.values(), strict=True))
            row = {"what": f"{name}, batch {batch}", "one": 1e3 * one, "many": 1e3 * many, "speedup": one / many}
            found.append(row | {"by_round": statistics.median(ratios), "range": [ratios[0], ratios[-1]]})
    columns = {"": "what", "1 thread ms": "one", f"{threads} threads ms": "many", "times faster": "speedup", "by round": "by_round"}
    print_table("threads", columns | {"range": "range"}, found)
    return found


def _grow(seconds, base, power):
    """Return rows: milliseconds, how many times as long as at `base` (by round, with its range), and that over linear growth."""
    rows = []
    for name, times in seconds.items():
        n, ratios = int(name), sorted(a / b for a, b in zip(times, seconds[str(base)], strict=True))
        ratio = statistics.median(ratios)
        row = {"n": n, "ms": 1e3 * statistics.median(times), "ratio": ratio, "range": [ratios[0], ratios[-1]]}
        rows.append(row | {"relative": ratio / (n / base) ** power})
    return rows


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
