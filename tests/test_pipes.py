"""``nplrp ... | head -1``: a reader that has gone changes neither the files that a command writes nor its exit code."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nplrp
from nplrp import golden
from nplrp.rules.composites import COMPOSITES

DATA = Path(__file__).parent / "data"
WEIGHTS = DATA / "keras_files" / "small32_k3.keras"
ROOT = Path(__file__).parents[1]


#: `nplrp fetch` with a server of its own in place of the official one, and bytes that show whether the whole of them came.
FETCH = """
import dataclasses, functools, hashlib, http.server, os, sys, threading
from nplrp import cli
from nplrp.files import fetch

content = bytes(3_000_000)
here = functools.partial(http.server.SimpleHTTPRequestHandler, directory="served")
here.func.log_message = lambda *_: None
os.makedirs("served", exist_ok=True)
open("served/fetched.h5", "wb").write(content)
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), here)
threading.Thread(target=server.serve_forever, daemon=True).start()
source = dataclasses.replace(
    fetch.official("vgg16"),
    url=f"http://127.0.0.1:{server.server_port}/fetched.h5", md5=hashlib.md5(content).hexdigest(), size=len(content),
)
fetch.official = lambda _: source
os.environ["NPLRP_CACHE"] = "."
sys.exit(cli.main(["fetch"]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A picture, weights, golden values and a candidate."""
    path = tmp_path_factory.mktemp("pipes")
    rgb = np.random.default_rng(0).integers(0, 256, (32, 32, 3)).astype(np.uint8)
    Image.fromarray(rgb).save(path / "dog.png")
    shutil.copy(WEIGHTS, path / "m.keras")
    model = nplrp.load(path / "m.keras")
    recorded = golden.record(model, nplrp.preprocess(path / "dog.png", model), "epsilon_plus")
    golden.write(recorded, path / "g.lrpgold.h5")
    e = nplrp.explain(model, nplrp.preprocess(path / "dog.png", model), "notebook")
    np.savez(path / "other.npz", **{f"relevance/{name}": R for name, R in e.relevances.items()})
    (path / "fetch_here.py").write_text(FETCH)
    return path


def closed_early(folder, *command, also_errors=False):
    """Run a command whose standard output nobody reads; return its exit code and what it says on standard error."""
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *map(str, command)],
            stdout=writing,
            stderr=writing if also_errors else subprocess.PIPE,
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            text=True,
            check=False,
        )
    finally:
        os.close(writing)
    lines = (done.stderr or "").splitlines()
    return done.returncode, [line for line in lines if not line.startswith("nplrp: compiling kernels")]


COMMANDS = {
    "explain": (("nplrp.cli", "explain", "dog.png", "-w", "m.keras", "-o", "out.png"), 0, ["out.png"]),
    "explain, every layer": (
        ("nplrp.cli", "explain", "dog.png", "-w", "m.keras", "--layers", "-o", "o.png", "--save", "o.npz"),
        0,
        ["o.png", "o.npz"],
    ),
    "explain --json": (("nplrp.cli", "explain", "dog.png", "-w", "m.keras", "--json", "-o", "j.png"), 0, ["j.png"]),
    "predict": (("nplrp.cli", "predict", "dog.png", "-w", "m.keras"), 0, []),
    "info": (("nplrp.cli", "info", "m.keras", "--json"), 0, []),
    "plan": (("nplrp.cli", "plan", "m.keras", "-c", ",".join(list(COMPOSITES)[:12])), 0, []),
    "composites": (("nplrp.cli", "composites"), 0, []),
    "dialects": (("nplrp.cli", "dialects", "--diff", "zennit", "captum"), 0, []),
    "help": (("nplrp.cli", "--help"), 0, []),
    "golden record": (("nplrp.cli", "golden", "record", "-w", "m.keras", "-i", "dog.png", "-o", "r.lrpgold.h5"), 0, ["r.lrpgold.h5"]),
    "golden show": (("nplrp.cli", "golden", "show", "g.lrpgold.h5", "--json"), 0, []),
    "golden verify": (("nplrp.cli", "golden", "verify", "g.lrpgold.h5", "--recompute", "-w", "m.keras", "-i", "dog.png"), 0, []),
    "golden export": (("nplrp.cli", "golden", "export", "g.lrpgold.h5", "-o", "x.npz"), 0, ["x.npz"]),
    "golden check": (
        ("nplrp.cli", "golden", "check", "g.lrpgold.h5", "other.npz", "--png", "c.png", "--json", "c.json"),
        1,
        ["c.png", "c.json"],
    ),
    "golden audit": (("nplrp.cli", "golden", "audit", "g.lrpgold.h5", "--json", "a.json"), 0, ["a.json"]),
    "fetch": (("fetch_here",), 0, ["fetched.h5"]),
    "from-keras": (("weights_tools", "from-keras", "m.keras", "w.h5"), 0, ["w.h5"]),
}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_reader_that_has_gone_changes_nothing(folder, name):
    command, expected, files = COMMANDS[name]
    code, said = closed_early(folder, *command)
    assert code == expected, said
    told = ("wrote", "nplrp: ", "weights_tools: nothing in the file tells", "fetched.h5 ")
    assert not [line for line in said if not line.startswith(told)]
    for file in files:
        assert (folder / file).stat().st_size > 100


def test_both_streams_may_be_gone(folder):
    command = ("nplrp.cli", "explain", "dog.png", "-w", "m.keras", "-o", "both.png", "--json")
    assert closed_early(folder, *command, also_errors=True)[0] == 0
    assert (folder / "both.png").is_file()
    assert closed_early(folder, "nplrp.cli", "info", "none.h5", also_errors=True)[0] == 2


def test_errors_are_still_errors(folder):
    code, said = closed_early(folder, "nplrp.cli", "explain", "none.png", "-w", "m.keras")
    assert code == 2
    assert len(said) == 1


@pytest.mark.parametrize("what", ["exec >&-", "exec >/dev/full"])
def test_no_output_at_all(folder, what):
    """Closed from the start: as before. A full disk: one line, and the files are there."""
    command = f"{what}; exec {sys.executable} -m nplrp.cli explain dog.png -w m.keras -o {'full' if 'full' in what else 'none'}.png"
    done = subprocess.run(
        ["sh", "-c", command], cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, stderr=subprocess.PIPE, text=True, check=False
    )
    said = [line for line in done.stderr.splitlines() if "compiling" not in line and "assuming" not in line]
    if "full" in what:
        assert done.returncode == 2
        assert said == ["nplrp: standard output can't be written: No space left on device; what was printed is lost, files are whole"]
        assert (folder / "full.png").is_file()
    else:
        assert (done.returncode, said) == (0, [])
        assert (folder / "none.png").is_file()
