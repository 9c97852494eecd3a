"""First use, from a shell to a written picture: nplrp with warm and cold caches, and a script that does the same with Zennit."""

import shutil
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from coordinator import HERE, compare, environment
from PIL import Image
from report import print_table

ROUNDS = 7
COLUMNS = {"": "name", "median s": "median_s", "least s": "least_s", "times ours": "ratio", "by round": "ratio_by_round"}
IMPORTS = {
    "python": "pass",
    "import numpy": "import numpy",
    "import nplrp": "import nplrp",
    "import nplrp and all it does first": "import nplrp; [getattr(nplrp, name) for name in nplrp.__all__]",
}


def run(setup):
    """Run the commands in turns, then nplrp's with an empty cache once or twice."""
    threads = max(setup.threads)
    picture = setup.folder / "picture.png"
    noise = np.random.default_rng(0).uniform(0, 255, (28, 28, 3)).astype(np.uint8)
    Image.fromarray(noise).resize((300, 260), Image.Resampling.BICUBIC).save(picture)
    commands = {}
    for composite in ("epsilon", "notebook", "zplus", "alpha_beta"):
        out = setup.folder / f"{composite}.png"
        commands[f"nplrp explain, {composite}"] = [
            *(sys.executable, "-m", "nplrp.cli", "explain", picture, "-w", setup.weights, "-c", composite, "-o", out)
        ]
    if setup.peers:
        state = setup.folder / "state.pt"
        script = [setup.peers, HERE / "zennit_script.py", setup.network]
        try:
            _seconds([*script, "save", state], threads)
            commands["Zennit script, as one writes it"] = [*script, "usual", state, picture, setup.folder / "usual.png"]
            commands["Zennit script, weights mapped"] = [*script, "mapped", state, picture, setup.folder / "mapped.png"]
        except (subprocess.CalledProcessError, OSError) as error:
            print(f"without the Zennit script: {error}", flush=True)
    else:
        print("without the Zennit script: no interpreter given (PEERS)", flush=True)
    rounds = 1 if setup.quick else ROUNDS
    bytecode = {"PYTHONPYCACHEPREFIX": str(setup.folder / "bytecode")}
    race = _race(commands, threads, rounds, **bytecode)
    found = {"threads": threads, "warm": _in_seconds(compare(race, next(iter(commands))))}
    print_table(f"from a shell to a PNG, caches warm, {threads} threads", COLUMNS, found["warm"])

    cold = []
    for _ in range(1 if setup.quick else 2):
        for name in list(commands)[: 1 if setup.quick else 4]:
            cache = setup.folder / "cold"
            shutil.rmtree(cache, ignore_errors=True)
            cold.append({"name": name, "seconds": _seconds(commands[name], threads, NUMBA_CACHE_DIR=str(cache), **bytecode)})
            cold[-1]["compiled_files"] = sum(1 for path in cache.rglob("*") if path.is_file())
            cold[-1]["megabytes"] = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file()) / 1e6
    found["cold"] = cold
    columns = {"": "name", "s": "seconds", "files compiled": "compiled_files", "MB": "megabytes"}
    print_table(f"the same with an empty cache of compiled kernels, {threads} threads", columns, cold)

    imports = _race({name: [sys.executable, "-c", code] for name, code in IMPORTS.items()}, threads, 3 if setup.quick else 15, **bytecode)
    bare = statistics.median(imports["python"])
    rows = [{"name": n, "median_ms": 1e3 * statistics.median(t), "beyond": 1e3 * (statistics.median(t) - bare)} for n, t in imports.items()]
    found["imports"] = rows
    print_table("imports", {"": "name", "median ms": "median_ms", "beyond Python's start": "beyond"}, rows)
    return found


def _race(commands, threads, rounds, **settings):
    """Run commands in turns; the first round fills caches and doesn't count."""
    seconds = {name: [] for name in commands}
    for number in range(rounds + 1):
        for name in list(commands) if number % 2 else list(commands)[::-1]:
            taken = _seconds(commands[name], threads, **settings)
            if number:
                seconds[name].append(taken)
    return seconds


def _seconds(command, threads, **more):
    start = time.perf_counter()
    settings = environment(threads, **more)
    settings.pop("PYTHONDONTWRITEBYTECODE", None)  # an installation has its bytecode
    done = subprocess.run([str(part) for part in command], env=settings, capture_output=True, text=True, check=False)
    taken = time.perf_counter() - start
    if done.returncode:
        print(done.stderr[-2000:], file=sys.stderr)
        raise subprocess.CalledProcessError(done.returncode, Path(str(command[0])).name)
    return taken


def _in_seconds(rows):
    for row in rows:
        row["median_s"], row["least_s"] = row.pop("median_ms") / 1e3, row.pop("least_ms") / 1e3
    return rows
