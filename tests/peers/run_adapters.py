"""Run an adapter of nplrp/golden/backends many times in one process: python run_adapters.py FOLDER NAME JOBS.json.

Importing a framework takes longer than most jobs. JOBS is a list of [mode, IN, OUT.npz]; where an adapter refuses, what it says is written
to OUT.npz.txt. Needs the adapter's library, not nplrp.
"""

import importlib
import json
import sys
from pathlib import Path


def main(folder, name, jobs):
    """Run every job."""
    sys.path.insert(0, folder)
    run = importlib.import_module(f"{name}_backend").main
    for mode, source, target in json.loads(Path(jobs).read_text()):
        try:
            run(mode, source, target)
        except (Exception, SystemExit) as refusal:
            Path(f"{target}.txt").write_text(f"{type(refusal).__name__}: {refusal}")


if __name__ == "__main__":
    main(*sys.argv[1:])
