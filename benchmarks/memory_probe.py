"""Measure one process's memory and print it as JSON, in bytes (Linux).

usage: memory_probe.py explain WEIGHTS COMPOSITE|load BATCH [MORE] | calls COUNT

MORE is JSON: {"side": 448, "stack": true} for a network of other sides, {"blocks": [[2, 64]]} for one of its own, {"target": "top-5"}.
"""

import json
import re
import sys
import threading
import time
from pathlib import Path

import numpy as np
from networks import conv_stack, random_stack
from protocol import SEED, images

import nplrp

#: Seconds between two looks at the anonymous memory.
INTERVAL = 0.002


def anonymous():
    """Return resident anonymous memory: a quick look."""
    return 1024 * int(re.search(r"RssAnon:\s+(\d+) kB", Path("/proc/self/status").read_text())[1])


def private(without):
    """Return (private resident bytes of all mappings but those of file `without`, resident bytes of that file's mappings)."""
    total = apart = 0
    skip = False
    with Path("/proc/self/smaps").open(encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            key, *rest = line.split(None, 1)
            if not key.endswith(":"):
                skip = line.rstrip("\n").endswith(str(without))
            elif key == "Rss:" and skip:
                apart += 1024 * int(rest[0].split()[0])
            elif key in ("Private_Clean:", "Private_Dirty:") and not skip:
                total += 1024 * int(rest[0].split()[0])
    return total, apart


def explain(weights, composite, batch, more="{}"):
    """Load and explain three times, by when all weights are kept that are going to be, and report peaks and what stays."""
    more = json.loads(more)
    peak, done = [anonymous()], threading.Event()

    def watch():
        while not done.is_set():
            peak[0] = max(peak[0], anonymous())
            time.sleep(INTERVAL)

    watcher = threading.Thread(target=watch)
    watcher.start()
    model, side = nplrp.load(weights, preprocessing="caffe"), more.get("side", 224)
    if more.get("blocks"):
        model = random_stack(side, more["blocks"])
    elif more.get("stack"):
        model = conv_stack(model, side)
    if composite != "load":
        x = images(int(batch), side)
        for _ in range(3):
            assert np.isfinite(nplrp.explain(model, x, composite, more.get("target")).relevance).all()
    done.set()
    watcher.join()
    end = anonymous()
    total, apart = private(Path(weights).resolve())
    return {"peak_anonymous": peak[0], "anonymous": end, "private": total, "peak_private": total + peak[0] - end, "weights": apart}


def calls(count):
    """Explain with a small model many times over, and report what was added after the first 50 calls."""
    from nplrp.model import Layer, Window, chain

    rng = np.random.default_rng(SEED)
    window, size = Window((3, 3), padding="same"), 32
    layers, before = [], 3
    for i, width in enumerate((16, 64, 64)):
        kernel = (rng.standard_normal((3, 3, before, width)) / np.sqrt(9 * before)).astype(np.float32)
        layers.append(Layer(f"conv{i}", "conv", (), (), "relu", window, arrays={"kernel": kernel, "bias": np.zeros(width, np.float32)}))
        before = width
    layers += [Layer("pool", "maxpool", (), (), window=Window((2, 2), (2, 2))), Layer("mean", "global_avgpool", (), ())]
    layers.append(Layer("logits", "dense", (), (), arrays={"kernel": rng.standard_normal((before, 10)).astype(np.float32)}))
    model = chain((size, size, 3), layers, "small")
    x = rng.standard_normal((2, size, size, 3)).astype(np.float32)
    base = 0
    for i in range(int(count)):
        for composite in ("epsilon", "zplus", "alpha_beta"):
            nplrp.explain(model, x, composite)
        if i == 49:
            base = anonymous()
    return {"calls": int(count), "growth": anonymous() - base}


if __name__ == "__main__":
    print(json.dumps({"explain": explain, "calls": calls}[sys.argv[1]](*sys.argv[2:])))
