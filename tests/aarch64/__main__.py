"""Run the engine on aarch64 and compare its bits with those of x86-64: `python -m tests.aarch64 [--short | --prepare] [--folder DIR]`.

Short: two composites in both dtypes. Else all stored hashes, also with code for a CPU that has SVE; kernels against their twins; the
notebook's oracle; and a golden file that this machine records and the other recomputes.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.aarch64.machine import ROOT, prepared

SHORT = ("wide/epsilon", "wide/epsilon_plus")
TESTS = ("tests/kernels", "tests/test_lrp.py", "tests/test_same_bits.py::test_runs_and_numbers_of_threads")
#: Code with scalable vectors, which QEMU's default CPU has.
SVE = {"NUMBA_CPU_NAME": "neoverse-v1", "NUMBA_CPU_FEATURES": "+sve"}
GOLDEN = """
import sys
from nplrp import golden
from tests.networks import images, small_vgg
model = small_vgg(2)
if sys.argv[1] == "record":
    golden.write(golden.record(model, images(1, 1, (8, 8, 3)), "epsilon_plus"), sys.argv[2])
else:
    other = golden.recompute(golden.read(sys.argv[2]), model)
    sys.exit(f"other bits: {other}" if other else 0)
"""


def main():
    """Run the steps, each with its time; exit with 1 if one failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.aarch64", description=__doc__)
    some = parser.add_mutually_exclusive_group()
    some.add_argument("--short", action="store_true", help="two composites alone")
    some.add_argument("--prepare", action="store_true", help="fetch and unpack what is needed, and run nothing")
    parser.add_argument("--folder", default=ROOT / ".aarch64", type=Path, help="where the emulated machine is kept (default: .aarch64)")
    arguments = parser.parse_args()
    python, failed = [str(prepared(arguments.folder))], []
    if arguments.prepare:
        return 0
    if arguments.short:
        failed += step("two composites", [*python, "-m", "tests.bits", "--compare", *SHORT])
    else:
        failed += step("all hashes", [*python, "-m", "tests.bits", "--compare"])
        failed += step("two composites, SVE", [*python, "-m", "tests.bits", "--compare", *SHORT], SVE)
        with tempfile.TemporaryDirectory() as folder:
            path = str(Path(folder) / "g.lrpgold.h5")
            failed += step("record here", [sys.executable, "-c", GOLDEN, "record", path])
            failed += step("recompute there", [*python, "-c", GOLDEN, "recompute", path])
        failed += step("tests", [*python, "-m", "pytest", "-q", "-p", "no:cacheprovider", *TESTS])
    return 1 if failed else 0


def step(name, command, settings=None):
    """Run a step; return its name if it failed."""
    begin = time.perf_counter()
    print(f"+ aarch64: {name}", flush=True)
    done = subprocess.run(command, cwd=ROOT, env={**os.environ, **(settings or {})}, check=False)
    print(f"  {'passed' if done.returncode == 0 else 'FAILED'} in {time.perf_counter() - begin:.0f} s", flush=True)
    return [name] if done.returncode else []


if __name__ == "__main__":
    sys.exit(main())
