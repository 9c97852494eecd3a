"""Time the convolutions of ResNet50 and others, each layer forward and back, beside PyTorch's and the machine's peak.

python benchmarks/convolutions.py --peers /path/to/python --networks resnet50,mobilenet_v2

All layers of a network run one after the other, as in an explanation, so weights come from memory. The contestants take turns.
"""

import argparse
import json
import subprocess
import time
from pathlib import Path

import numba
import numpy as np
from conv_layers import NETWORKS
from coordinator import HERE, PAUSE, environment
from machine_peaks import fma_peak
from protocol import SEED
from report import machine, print_table, write_results

from nplrp.jit import Queue
from nplrp.kernels import conv


class Ours:
    """A network's layers with packed weights.

    Parameters
    ----------
    network : str
    batch, threads : int
    fused : bool
        Transposes end in R / stab(z), as between two layers of one rule.
    """

    def __init__(self, network, batch, threads, fused):
        rng, self.work, self.threads, self.workspace = np.random.default_rng(SEED), [], threads, conv.Workspace()
        for layer in NETWORKS[network]():
            g = conv.Geometry(
                layer.side, layer.side, layer.cin, layer.cout, layer.kernel, (layer.stride,) * 2, (1, 1), layer.pads, layer.groups
            )
            w = rng.standard_normal((*layer.kernel, layer.cin // layer.groups, layer.cout), np.float32)
            x = rng.standard_normal((batch, g.height, g.width, g.cin), np.float32)
            s = rng.standard_normal((batch, g.out_height, g.out_width, g.cout), np.float32)
            both = [conv.pack(w, g, transposed) for transposed in (False, True)]
            operands = {"a": x, "z": x, "eps": 100.0} if fused else {}
            self.work.append((*both, np.zeros(g.cout, np.float32), x, s, np.empty_like(s), np.empty_like(x), operands))

    def forward(self, i):
        """Run layer i."""
        packed, _, b, x, _, out, _, _ = self.work[i]
        conv.conv_forward(x, packed, b, True, out, threads=self.threads, workspace=self.workspace)

    def back(self, i):
        """Run the transpose of layer i."""
        _, packed, _, _, s, _, out, operands = self.work[i]
        conv.conv_transpose(s, packed, out, **operands, threads=self.threads, workspace=self.workspace)

    def turn(self):
        """Run every layer once each way: seconds of [forward], [transpose]."""
        layers = range(len(self.work))
        return [[_seconds(self.forward, i) for i in layers], [_seconds(self.back, i) for i in reversed(layers)][::-1]]

    def whole(self, counts):
        """Run all layers, as often as they come, with one team of threads: seconds forward and back."""
        found = []
        for run in (self.forward, self.back):
            start = time.perf_counter()
            queue = Queue()
            with queue:
                for i, count in enumerate(counts):
                    for _ in range(count):
                        run(i)
            queue.run()
            found.append(time.perf_counter() - start)
        return found


def _seconds(run, *args):
    start = time.perf_counter()
    run(*args)
    return time.perf_counter() - start


class Theirs:
    """The same in a process with PyTorch."""

    def __init__(self, python, network, batch, threads):
        command = [python, str(HERE / "worker_torch_layers.py")]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=HERE
        )
        self._ask("prepare", network=network, batch=batch, threads=threads)

    def _ask(self, do, **parameters):
        print(json.dumps({"do": do, **parameters}), file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())["ok"]

    def turn(self):
        """Run every layer once each way: seconds of [forward], [transpose]."""
        return self._ask("turn")

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def measure(network, batch, threads, rounds, peers, fused):
    """Return rows for the table and the sums of a network."""
    layers = NETWORKS[network]()
    ours, theirs = Ours(network, batch, threads, fused), Theirs(peers, network, batch, threads) if peers else None
    counts = [layer.count for layer in layers]
    for _ in range(2):
        ours.turn()
        ours.whole(counts)
        if theirs:
            theirs.turn()
    mine, others, wholes, peaks = [], [], [], []
    for _ in range(rounds):
        time.sleep(PAUSE)
        peaks.append(fma_peak(threads, 4000))
        mine.append(ours.turn())
        wholes.append(ours.whole(counts))
        time.sleep(PAUSE)
        others.append(theirs.turn() if theirs else [[np.nan] * len(layers)] * 2)
    if theirs:
        theirs.close()
    peak = max(peaks)
    mine, others = np.min(mine, axis=0), np.min(others, axis=0)  # others may use the machine: they only add
    rows = []
    for i, layer in enumerate(layers):
        row = {"layer": layer.name, "count": layer.count}
        for d, name in enumerate(("forward", "back")):
            row |= {f"{name}_ms": 1e3 * float(mine[d, i]), f"{name}_torch": float(others[d, i] / mine[d, i])}
            row[f"{name}_of_peak"] = 2 * batch * layer.multiplications / float(mine[d, i]) / peak
        rows.append(row)
    totals = {"network": network, "batch": batch, "threads": threads, "peak_gflops": peak / 1e9}
    for d, name in enumerate(("forward", "back")):
        totals[f"{name}_ms"] = 1e3 * float(mine[d] @ counts)
        totals[f"{name}_torch_ms"] = 1e3 * float(others[d] @ counts)
        totals[f"{name}_together_ms"] = 1e3 * float(np.min(wholes, axis=0)[d])
    return rows, totals


COLUMNS = {"layer": "layer", "times": "count", "forward ms": "forward_ms", "of peak": "forward_of_peak", "torch": "forward_torch"}
COLUMNS |= {"back ms": "back_ms", "of peak ": "back_of_peak", "torch ": "back_torch"}
TOTALS = {"network": "network", "forward ms": "forward_ms", "as one": "forward_together_ms", "torch": "forward_torch_ms"}
TOTALS |= {"back ms": "back_ms", "as one ": "back_together_ms", "torch ": "back_torch_ms", "peak": "peak_gflops"}


def main():
    """Parse the command line, measure, print tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peers", help="Python with torch")
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--fused", action="store_true", help="transposes end in a * c / stab(z)")
    parser.add_argument("--output", type=Path, help="folder for convolutions.json; default: none is written")
    options = parser.parse_args()
    numba.set_num_threads(options.threads)
    found = []
    for network in options.networks.split(","):
        rows, totals = measure(network, options.batch, options.threads, options.rounds, options.peers, options.fused)
        print_table(f"{network}, batch {options.batch}, {options.threads} threads; torch: times ours", COLUMNS, rows)
        found.append(totals | {"layers": rows})
    print_table("all convolutions, as often as they come", TOTALS, found)
    if options.output:
        write_results(options.output, "convolutions", {"machine": machine(), "networks": found})


if __name__ == "__main__":
    main()
