"""The coordinator's side: workers in interpreters of their own, and races in which they take turns."""

import contextlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

HERE = Path(__file__).parent
#: Where the packages of each worker are: the interpreter that runs the coordinator, or that of the peers.
SCRIPTS = {"nplrp": "worker_nplrp.py", "numpy": "worker_numpy.py", "torch": "worker_torch.py", "zennit": "worker_zennit.py"}
SCRIPTS |= {"captum": "worker_captum.py", "evaluate": "worker_evaluate.py", "quantus": "worker_quantus.py"}
OURS = ("nplrp", "numpy", "evaluate")
#: Seconds before each turn, in which the threads of the one before stop spinning.
PAUSE = 0.1


class WorkerError(Exception):
    """A worker said that something went wrong, or died."""


class Worker:
    """A process that runs jobs on command.

    Parameters
    ----------
    kind : str
        A key of `SCRIPTS`.
    python : path
    threads : int
        The most threads that it may use.
    network : path
        Table of the network, by `networks.describe`.
    """

    def __init__(self, kind, python, threads, network):
        self.kind = kind
        command = [str(python), str(HERE / SCRIPTS[kind]), str(network)]
        self._process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(threads), cwd=HERE
        )

    def ask(self, do, **parameters):
        """Send a command and return its answer."""
        try:
            print(json.dumps({"do": do, **parameters}), file=self._process.stdin, flush=True)
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.kind}: the worker died with exit code {self._process.wait()}")
        answer = json.loads(line)
        if "error" in answer:
            raise WorkerError(f"{self.kind}: {answer['error']}")
        return answer["ok"]

    def close(self):
        """End the process."""
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait()


def environment(threads, **more):
    """Return an environment in which libraries use `threads` threads."""
    counts = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NUMBA_NUM_THREADS"), str(threads))
    here = [str(HERE.parent), *filter(None, [os.environ.get("PYTHONPATH")])]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(here), **counts, **more}


@dataclass(frozen=True)
class Entry:
    """One contestant: its name in the table, the worker that runs it, and its job."""

    name: str
    worker: str
    kind: str
    parameters: dict = field(default_factory=dict)
    threads: int | None = None


@dataclass
class Setup:
    """What a run measures with.

    Attributes
    ----------
    folder : Path
        For temporary files.
    weights, network : Path
        VGG16's file, and its table.
    peers : str or None
        The peers' interpreter.
    quick : bool
    threads, batches : tuple of int
    missing : dict of str to str
        Workers that can't be had, and why.
    """

    folder: Path
    weights: Path
    network: Path
    peers: str | None
    quick: bool
    threads: tuple[int, ...]
    batches: tuple[int, ...]
    missing: dict[str, str] = field(default_factory=dict)

    def start(self, kinds, threads, network=None):
        """Start workers, and return those that can be had by kind; say once what is missing."""
        found = {}
        for kind in kinds:
            python = sys.executable if kind in OURS else self.peers
            if kind in self.missing:
                continue
            try:
                if python is None:
                    raise WorkerError("no interpreter given: make bench PEERS=/path/to/python (see benchmarks/README.md)")
                worker = Worker(kind, python, threads, network or self.network)
                worker.ask("facts")
                found[kind] = worker
            except (WorkerError, OSError) as error:
                self.missing[kind] = str(error)
                print(f"without {kind}: {error}", flush=True)
        return found


def race(workers, entries, threads, rounds, warm=1, runs=1, results=None):
    """Let contestants take turns, so that noise hits all alike.

    Parameters
    ----------
    workers : dict of str to Worker
    entries : sequence of Entry
        Those whose worker is missing, or who can't do the job, are left out with a message.
    threads : int
        Unless the entry says otherwise.
    rounds : int
        In every other round they run in reverse.
    warm, runs : int
        Runs in each turn that don't count, and that do.
    results : dict, optional
        Filled with what each contestant computed, an array by name.

    Returns
    -------
    dict of str to list of float
        Seconds per round (the median of the turn's runs), by name.
    """
    ready = []
    for entry in entries:
        if entry.worker not in workers:
            continue
        try:
            workers[entry.worker].ask("prepare", job=entry.name, kind=entry.kind, threads=entry.threads or threads, **entry.parameters)
            ready.append(entry)
        except WorkerError as error:
            print(f"without {entry.name}: {error}", flush=True)
    if results is not None:
        with tempfile.TemporaryDirectory() as folder:
            for entry in ready:
                path = Path(folder) / "result.npy"
                workers[entry.worker].ask("save", job=entry.name, path=str(path))
                results[entry.name] = np.load(path)
    seconds = {entry.name: [] for entry in ready}
    for number in range(rounds):
        for entry in ready if number % 2 == 0 else ready[::-1]:
            time.sleep(PAUSE)
            times = workers[entry.worker].ask("time", job=entry.name, threads=entry.threads or threads, warm=warm, runs=runs)
            seconds[entry.name].append(statistics.median(times))
    for entry in ready:
        workers[entry.worker].ask("drop", job=entry.name)
    return seconds


def compare(seconds, base):
    """Return rows of a race: milliseconds (median, least), and how many times as long as `base` (of medians, and by round).

    Parameters
    ----------
    seconds : dict of str to list of float
        From `race`.
    base : str
        The contestant that the others are compared with.
    """
    rows = []
    for name, times in seconds.items():
        row = {"name": name, "median_ms": 1e3 * statistics.median(times), "least_ms": 1e3 * min(times), "rounds": len(times)}
        if base in seconds:
            ratios = sorted(t / b for t, b in zip(times, seconds[base], strict=True))
            row["ratio"] = statistics.median(times) / statistics.median(seconds[base])
            row["ratio_by_round"] = statistics.median(ratios)
            row["ratio_range"] = [ratios[0], ratios[-1]]
        rows.append(row)
    return rows


def difference(x, reference):
    """Return the root mean square of x - reference over that of the reference."""
    x, reference = x.astype(np.float64), reference.astype(np.float64)
    return float(np.sqrt(np.mean((x - reference) ** 2)) / max(np.sqrt(np.mean(reference**2)), 1e-300))
