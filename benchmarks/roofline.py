"""Every layer's time beside the least that arithmetic and memory allow on this machine.

The least time is the larger of FLOPs / peak rate and bytes / peak bandwidth. FLOPs are those of the algorithm that runs (the 36 matrix
products of Winograd tiles, without the transforms), bytes are each input, output and weight once. Activations that are still in the cache
beat the memory's bandwidth, so a share can exceed 1.
"""

import math
import statistics

from report import print_table

ROUNDS = 15
COLUMNS = {"layer": "step", "": "direction", "ms": "ms", "GFLOP": "gflop", "MB": "megabytes", "GFLOP/s": "rate", "of peak": "of_peak"}
COLUMNS |= {"GB/s": "bandwidth", "of peak ": "of_bandwidth", "bound by": "bound", "share of the roof": "share"}


def run(setup):
    """Profile an epsilon explanation at every number of threads and batch."""
    import nplrp

    model = nplrp.load(setup.weights)
    found = []
    for threads in setup.threads:
        workers = setup.start(["nplrp"], threads)
        for batch in setup.batches:
            rounds = 2 if setup.quick else ROUNDS
            profile = workers["nplrp"].ask("profile", threads=threads, rounds=rounds, batch=batch, composite="epsilon")
            peaks = {key: statistics.median(values) for key, values in profile["peaks"].items()}
            costs = {layer.name: layer_costs(layer, batch) for layer in model}
            rows = [_row(entry, costs, peaks) for entry in profile["steps"]]
            rows.sort(key=lambda row: (row["direction"] != "forward", row["step"].startswith("("), _order(profile["names"], row)))
            whole = 1e3 * statistics.median(profile["whole"])
            total = sum(row["ms"] for row in rows)
            least = sum(row["least_ms"] for row in rows)
            head = {"threads": threads, "batch": batch, "peak_gflops": peaks["fma"] / 1e9, "peak_gbs": peaks["memory"] / 1e9}
            head |= {"whole_ms": whole, "layers_ms": total, "least_ms": least, "share": least / whole}
            found.append(head | {"rows": rows})
            roof = f"peak {head['peak_gflops']:.0f} GFLOP/s, {head['peak_gbs']:.1f} GB/s"
            title = f"roofline of epsilon, batch {batch}, {threads} threads: {roof}"
            print_table(title, COLUMNS, rows)
            print(f"whole {whole:.1f} ms, in layers {total:.1f} ms, least {least:.1f} ms: {least / whole:.2f} of the roof", flush=True)
        for worker in workers.values():
            worker.close()
    return found


def _order(names, row):
    at = names.index(row["step"]) if row["step"] in names else len(names)
    return at if row["direction"] == "forward" else -at


def _row(entry, costs, peaks):
    seconds = statistics.median(entry["seconds"])
    flops, size = costs.get(entry["step"], {}).get(entry["direction"], (0, 0))
    least = max(flops / peaks["fma"], size / peaks["memory"])
    row = {"step": entry["step"], "direction": entry["direction"], "ms": 1e3 * seconds, "least_ms": 1e3 * least}
    if least:
        row |= {"gflop": flops / 1e9, "megabytes": size / 1e6, "rate": flops / seconds / 1e9, "of_peak": flops / seconds / peaks["fma"]}
        row |= {"bandwidth": size / seconds / 1e9, "of_bandwidth": size / seconds / peaks["memory"], "share": least / seconds}
        row["bound"] = "arithmetic" if flops / peaks["fma"] > size / peaks["memory"] else "memory"
    return row


def layer_costs(layer, batch):
    """Return {"forward": (FLOPs, bytes), "backward": ...} of a float32 layer, epsilon rule."""
    into, out = (4 * batch * math.prod(shape) for shape in (layer.input_shape, layer.output_shape))
    weights = 4 * layer.parameters
    if layer.kind == "conv":
        flops = batch * _conv_flops(layer)
    elif layer.kind == "dense":
        flops = 2 * batch * math.prod(layer.arrays["kernel"].shape)
    elif layer.kind in ("maxpool", "avgpool"):
        flops, weights = 0, out // 4  # a byte for each winner
    else:
        return {}
    z = 0 if layer.kind == "maxpool" else into  # the denominator of the layer below
    return {"forward": (flops, into + out + weights), "backward": (flops, out + 2 * into + z + weights)}


def _conv_flops(layer):
    import numpy as np

    from nplrp.kernels import conv
    from nplrp.kernels.winograd import OUT, POSITIONS

    height, width, cout = layer.output_shape
    cin = layer.input_shape[2]
    geometry = conv.Geometry(*layer.input_shape, cout, layer.window.size, pads=layer.window.pads(*layer.input_shape[:2]))
    if conv.algorithm(geometry, np.float32) == "winograd":
        return 2 * POSITIONS * -(-height // OUT) * -(-width // OUT) * cin * cout
    return 2 * math.prod(layer.window.size) * height * width * cin * cout
