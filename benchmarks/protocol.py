"""The workers' side: commands come in on stdin, one JSON object a line, answers go out on stdout likewise.

Imported by workers in several interpreters: needs NumPy and nothing else. A worker that waits for a command sleeps.
"""

import json
import os
import sys
import time
import traceback
from pathlib import Path

import numpy as np

#: Seed of weights and inputs.
SEED = 0


class Jobs:
    """What a worker has been asked to prepare, ready to be run and timed.

    Parameters
    ----------
    makers : mapping of str to callable
        Kind of job -> maker(**parameters), which returns a function without arguments that does the work once.
    set_threads : callable
        Takes the number of threads to compute with.
    """

    def __init__(self, makers, set_threads):
        self.makers, self.set_threads = makers, set_threads
        self.functions, self.results = {}, {}

    def prepare(self, job, kind, threads, **parameters):
        """Make a job and run it once: packing, compiling and first touches aren't timed."""
        self.set_threads(threads)
        self.functions[job] = self.makers[kind](**parameters)
        self.results[job] = self.functions[job]()

    def time(self, job, threads, warm, runs):
        """Return the seconds of each of `runs` runs, after `warm` that don't count."""
        self.set_threads(threads)
        function, seconds = self.functions[job], []
        for i in range(warm + runs):
            start = time.perf_counter()
            result = function()
            if i >= warm:
                seconds.append(time.perf_counter() - start)
            del result
        return seconds

    def save(self, job, path):
        """Write the result of the first run, an array, to `path` as .npy."""
        np.save(path, self.results[job])

    def drop(self, job):
        """Forget a job."""
        del self.functions[job], self.results[job]

    def commands(self):
        """Return what `serve` needs."""
        return {"prepare": self.prepare, "time": self.time, "save": self.save, "drop": self.drop, "peak": peak}


def serve(commands):
    """Answer commands until stdin ends; whatever else prints to stdout goes to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    for line in sys.stdin:
        request = json.loads(line)
        try:
            answer = {"ok": commands[request.pop("do")](**request)}
        except Exception as error:
            traceback.print_exc(limit=-3)
            answer = {"error": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), file=answers, flush=True)


def read_network(path):
    """Return the layers of a network table (`networks.describe`), their arrays mapped from the weight file.

    Returns
    -------
    list of dict
        ``name``, ``kind``, ``activation``, ``input_shape``, and ``kernel`` and ``bias`` where there are any. Of a network that isn't a
        chain everything that `networks.describe_graph` writes down, with ``arrays`` by name.
    """
    table = json.loads(Path(path).read_text("utf-8"))
    layers = []
    for row in table["layers"]:
        arrays = {key: np.memmap(table["file"], "<f4", "r", offset, tuple(shape)) for key, (offset, shape) in row["arrays"].items()}
        layers.append(row | (arrays if "inputs" not in row else {"arrays": arrays}))
    return layers


def is_graph(layers):
    """Tell whether a network's layers say what they read."""
    return "inputs" in layers[0]


def peak():
    """Return the most resident memory that this process has had, in bytes (Linux)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


def images(n, side=224):
    """Return n seeded images [n, side, side, 3] float32, in the range of caffe-style preprocessing."""
    return np.random.default_rng(SEED + 1).uniform(-120, 135, (n, side, side, 3)).astype(np.float32)
