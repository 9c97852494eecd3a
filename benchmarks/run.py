"""Measure nplrp beside its peers, print tables, write JSON: `make bench`, `make bench PEERS=/path/to/python`, `make bench QUICK=1`."""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import accuracy
import batch
import evaluate
import first_use
import graphs
import growth
import memory
import page
import precision
import roofline
import serving
import speed
from coordinator import HERE, Setup, WorkerError
from networks import describe, write_vgg16
from report import machine, write_results

CASES = {"speed": speed, "growth": growth, "roofline": roofline, "precision": precision, "first_use": first_use, "memory": memory}
CASES |= {"accuracy": accuracy, "serving": serving, "graphs": graphs, "batch": batch, "evaluate": evaluate}


def main():
    """Parse the command line, make the network, run the cases, and return the exit code or what failed."""
    parser = argparse.ArgumentParser(description="Measure nplrp beside its peers.")
    parser.add_argument("--peers", default=os.environ.get("PEERS") or None, help="Python with torch, zennit and captum; default: $PEERS")
    parser.add_argument("--cases", default=",".join(CASES), help=f"which of {', '.join(CASES)}; default: all")
    parser.add_argument("--quick", action="store_true", help="one round of everything: does it run?")
    parser.add_argument("--threads", help="numbers of threads; default: 1 and 2, as far as there are cores")
    parser.add_argument("--batches", help="batches; default: 1,8")
    parser.add_argument("--keep", type=Path, help="folder for the network's file, which is made there once and not deleted")
    parser.add_argument("--output", type=Path, help="folder for JSON; default: benchmarks/results, with --quick out/bench")
    options = parser.parse_args()
    cases = options.cases.split(",")
    unknown = [name for name in cases if name not in CASES]
    if unknown:
        parser.error(f"there is no case {unknown[0]!r}; there are {', '.join(CASES)}")
    facts = machine()
    batches = _numbers(options.batches or ("1" if options.quick else "1,8"))
    threads = tuple(n for n in ((2,) if options.quick else (1, 2)) if n <= facts["cores"]) or (1,)
    threads = _numbers(options.threads) if options.threads else threads
    output = options.output or (HERE.parent / "out" / "bench" if options.quick else HERE / "results")
    folder = Path(tempfile.mkdtemp(prefix="nplrp-bench-"))
    try:
        weights = (options.keep or folder) / "vgg16.h5"
        if not weights.is_file():
            print("writing VGG16 with seeded random weights (553 MB)", flush=True)
            weights.parent.mkdir(parents=True, exist_ok=True)
            write_vgg16(weights)
        network = folder / "network.json"
        describe(weights, network)
        peers = shutil.which(options.peers) if options.peers else None
        if options.peers and not peers:
            print(f"without peers: {options.peers} isn't a program", flush=True)
        setup = Setup(folder, weights, network, peers, options.quick, threads, batches)
        facts["peers"], failed = _peers(setup), []
        for name in cases:
            print(f"\n## {name}", flush=True)
            try:
                results = CASES[name].run(setup)
            except (WorkerError, subprocess.CalledProcessError) as error:
                print(f"{name} failed: {error}", file=sys.stderr, flush=True)
                failed.append(name)
                continue
            write_results(output, name, {"machine": facts, "results": results})
        page.main(output)
        print(f"\na page of it: {output / 'index.html'}", flush=True)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return f"failed: {', '.join(failed)}" if failed else 0


def _peers(setup):
    """Return the peers' versions."""
    workers = setup.start(["torch", "zennit", "captum"], 1)
    versions = {}
    for worker in workers.values():
        versions |= worker.ask("facts")
        worker.close()
    return versions


def _numbers(text):
    return tuple(int(part) for part in text.split(","))


if __name__ == "__main__":
    sys.exit(main())
