"""Good and hostile requests, interrupts and killed workers, for minutes or hours: nothing grows, and nothing is lost.

    python benchmarks/soak.py                     # five minutes
    python benchmarks/soak.py --minutes 60

Two workers of `nplrp serve` answer clients that ask for explanations and check every answer's SHA-256, others that send what is
damaged, too long, slow, or never ends, while workers are killed; a process beside them explains and is interrupted at random moments.
Memory, open files, threads and latency are noted every second. Linux. It ends with exit code 1 if a good request went without its right
answer, if something was answered that shouldn't have been, or if memory, files or threads of a process grew.
"""

import argparse
import base64
import http.client
import io
import json
import os
import random
import re
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time
import zlib
from collections import Counter, defaultdict
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image

matplotlib.use("Agg")
from matplotlib import pyplot as plt

import nplrp
from nplrp.model import Layer, Window, chain
from nplrp.preprocessing import Preprocessing
from weights_tools.write_hdf5 import write

RESULTS = Path(__file__).parent / "results"
SIDE = 64
COMPOSITES = ("notebook", "zplus", "epsilon_plus", "epsilon_gamma_box", "alpha_beta")
#: Seconds that a good request may be repeated for: a killed worker takes so long to be replaced at most.
PATIENCE = 60.0
#: What a process may have more of in the last quarter than in the second, beyond noise: MB, open files, threads.
LIMITS = {"private": 40.0, "files": 6, "threads": 2}
#: Explains, is interrupted at random moments, and explains again: the same bits each time. Prints the count each second.
INTERRUPTED = """
import random, signal, sys, time
import numpy as np
import nplrp
model = nplrp.load(sys.argv[1], preprocessing="tf")
x = np.random.default_rng(0).uniform(-1, 1, (2, *model.input_shape)).astype("f4")
expected = {c: nplrp.explain(model, x, c).relevance.tobytes() for c in ("epsilon_plus", "alpha_beta")}
begun = time.perf_counter(); nplrp.explain(model, x, "epsilon_plus"); taken = time.perf_counter() - begun
signal.signal(signal.SIGALRM, signal.default_int_handler)
chance, count, told = random.Random(0), 0, time.monotonic()
while True:
    composite = chance.choice(list(expected))
    try:
        signal.setitimer(signal.ITIMER_REAL, 1e-5 + chance.random() * taken)
        nplrp.explain(model, x, composite)
        signal.setitimer(signal.ITIMER_REAL, 0)
    except KeyboardInterrupt:
        count += 1
    if nplrp.explain(model, x, composite).relevance.tobytes() != expected[composite]:
        sys.exit("other bits after an interrupt")
    if time.monotonic() - told > 1:
        told = time.monotonic()
        print(count, flush=True)
"""


def network(path):
    """Write a VGG of three blocks for small pictures."""
    rng, layers, cin = np.random.default_rng(1), [], 3
    for block, cout in enumerate((16, 32, 64), 1):
        kernel = rng.normal(scale=(2 / (9 * cin)) ** 0.5, size=(3, 3, cin, cout)).astype("f4")
        arrays = {"kernel": kernel, "bias": rng.normal(scale=0.1, size=cout).astype("f4")}
        layers.append(Layer(f"block{block}_conv", "conv", (), (), window=Window((3, 3), padding="same"), activation="relu", arrays=arrays))
        layers.append(Layer(f"block{block}_pool", "maxpool", (), (), window=Window((2, 2), (2, 2))))
        cin = cout
    layers.append(Layer("flatten", "flatten", (), ()))
    kernel = rng.normal(scale=0.02, size=((SIDE // 8) ** 2 * cin, 10)).astype("f4")
    layers.append(Layer("predictions", "dense", (), (), activation="softmax", arrays={"kernel": kernel, "bias": np.zeros(10, "f4")}))
    write(chain((SIDE, SIDE, 3), layers, "soak", preprocessing=Preprocessing("tf")), path, Path(__file__), "benchmarks", force=True)


def picture(seed, form="PNG", side=200):
    """Return an image file."""
    file = io.BytesIO()
    pixels = np.random.default_rng(seed).integers(0, 256, (side // 8, side // 8, 3), np.uint8)
    Image.fromarray(pixels).resize((side, side)).save(file, form)
    return file.getvalue()


def long_png(height):
    """Return a PNG of one pixel's width."""

    def chunk(kind, content):
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 1, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(4 * height))) + chunk(b"IEND", b"")


class Soak:
    """What is under way, and what was noted.

    Parameters
    ----------
    folder : Path
    minutes : float
    """

    def __init__(self, folder, minutes):
        self.folder, self.seconds = folder, 60 * minutes
        self.weights = folder / "soak.h5"
        network(self.weights)
        self.lock, self.stop = threading.Lock(), threading.Event()
        self.good, self.hostile, self.lost, self.wrong = Counter(), Counter(), [], []
        self.latencies, self.samples, self.events = [], [], []
        self.rude = self._rude()
        self.expected = {}

    def run(self):
        """Run for the time given and return what was found."""
        server = self._serve()
        beside = subprocess.Popen([sys.executable, "-c", INTERRUPTED, str(self.weights)], stdout=subprocess.PIPE, text=True)
        interrupts = []
        reading = threading.Thread(target=lambda: [interrupts.append(int(line)) for line in beside.stdout])
        reading.start()
        try:
            self._learn()
            self.begun = time.monotonic()
            work = [(self._ask_well, 3), (self._ask_badly, 2), (self._kill, 1), (self._sample, 1)]
            threads = [threading.Thread(target=what, args=(i,)) for what, count in work for i in range(count)]
            self.watched = {"server": server.pid, "interrupted": beside.pid}
            for thread in threads:
                thread.start()
            while time.monotonic() - self.begun < self.seconds and server.poll() is None and beside.poll() is None:
                time.sleep(0.2)
            self.stop.set()
            for thread in threads:
                thread.join()
            if beside.poll() is not None:
                self.wrong.append(f"the interrupted process ended with {beside.returncode}")
            if server.poll() is not None:
                self.wrong.append(f"the server ended with {server.returncode}")
            server.send_signal(signal.SIGTERM)
            code = server.wait(60)
            if code:
                self.wrong.append(f"the server stopped with {code}")
        finally:
            self.stop.set()
            for process in (server, beside):
                process.kill()
                process.wait()
            reading.join()
        return self._found(interrupts[-1] if interrupts else 0)

    def _serve(self):
        command = [sys.executable, "-m", "nplrp.cli", "serve", "-w", str(self.weights), "--port", "0", "--name", "m", "--workers", "2"]
        command += ["--threads", "1", "--body-timeout", "3", "--head-timeout", "3", "--keep-alive", "2"]
        self.log = (self.folder / "log").open("w+")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=self.log)
        until = time.monotonic() + 600  # kernels may have to be compiled
        while time.monotonic() < until:
            found = re.search(r"http://127\.0\.0\.1:(\d+)", (self.folder / "log").read_text())
            if found:
                self.port = int(found[1])
                if self._status("GET", "/v2/health/ready") == 200:
                    return process
            time.sleep(0.2)
        process.kill()
        sys.exit(f"the server doesn't get ready:\n{(self.folder / 'log').read_text()}")

    def _status(self, method, path, body=None, headers=()):
        try:
            return self._answer(method, path, body, headers)[0]
        except (OSError, http.client.HTTPException):
            return 0

    def _answer(self, method, path, body=None, headers=()):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=PATIENCE)
        try:
            connection.request(method, path, body, dict(headers))
            answer = connection.getresponse()
            return answer.status, answer.read()
        finally:
            connection.close()

    def _explain(self, seed, composite):
        form = "JPEG" if seed % 2 else "PNG"
        path = f"/v1/models/m:explain?composite={composite}&ledger={'true' if seed % 3 else 'false'}"
        return self._answer("POST", path, picture(seed, form), {"Content-Type": f"image/{form.lower()}"})

    def _learn(self):
        """Note down the right answers, the library's own."""
        model = nplrp.load(self.weights)
        for seed in range(6):
            x = nplrp.preprocess(io.BytesIO(picture(seed, "JPEG" if seed % 2 else "PNG")), model)
            for composite in COMPOSITES:
                self.expected[seed, composite] = digest(nplrp.explain(model, x, composite).relevance[0])

    def _ask_well(self, number):
        chance = random.Random(number)
        while not self.stop.is_set():
            seed, composite = chance.choice(list(self.expected))
            begun, answered, how = time.monotonic(), False, "at once"
            while not answered and time.monotonic() - begun < PATIENCE:
                try:
                    status, body = self._explain(seed, composite)
                except (OSError, http.client.HTTPException):
                    status, body = 0, b""
                if status in (0, 429, 503):  # its worker was killed, or others came first: as a client does
                    how = "again"
                    time.sleep(0.2)
                    continue
                answered = True
                if status != 200 or json.loads(body)["explanations"][0]["sha256"] != self.expected[seed, composite]:
                    self.wrong.append(f"{status} for {composite}: {body[:100]!r}")
            with self.lock:
                self.good[how if answered else "never"] += 1
                self.latencies.append((begun - self.begun, time.monotonic() - begun))
            if not answered:
                self.lost.append(f"{composite} after {begun - self.begun:.0f} s")

    def _rude(self):
        """Return what hostile clients do, by name: a request and the statuses that are right, or a function."""
        image, explain = {"Content-Type": "image/png"}, "/v1/models/m:explain"
        good = picture(0)
        as_json = {"Content-Type": "application/json"}
        text = b"\x89PNG\r\n\x1a\n" + b"\0\0\0\x05zTXta\0\0x" + bytes(4)
        return {
            "cut picture": ("POST", explain, good[: len(good) // 2], image, (400,)),
            "damaged picture": ("POST", explain, good[:200] + bytes(100) + good[300:], image, (400, 200)),
            "long picture": ("POST", explain, long_png(5_000_000), image, (400,)),
            "compressed texts": ("POST", explain, text * 5000, image, (400,)),
            "no picture": ("POST", explain, os.urandom(50_000), image, (400,)),
            "nested JSON": ("POST", explain, b"[" * 100_000, as_json, (400,)),
            "long JSON": ("POST", explain, b'{"instances": [' + b"1.5," * 400_000 + b"1]}", as_json, (400,)),
            "no rule": ("POST", f"{explain}?composite=epsilon(epsilon=nan)", good, image, (400,)),
            "large epsilon": ("POST", f"{explain}?composite=epsilon(epsilon=1e30)", good, image, (200,)),
            "too large": ("POST", explain, bytes(11 << 20), image, (413, 0)),
            "many instances": ("POST", explain, b'{"instances": [' + b", ".join([b'{"b64": ""}'] * 1000) + b"]}", as_json, (400,)),
            "foreign host": ("GET", "/v2", None, {"Host": "evil.example"}, (421,)),
            "foreign origin": ("POST", explain, good, image | {"Origin": "https://evil.example"}, (403,)),
            "one row": ("POST", explain, b'{"instances": [[[1]]]}', as_json, (400,)),
            "JSON picture": ("POST", explain, b'{"instances": [{"b64": "' + base64.b64encode(good) + b'"}]}', as_json, (200,)),
            "nothing": lambda: self._raw(b""),
            "no HTTP": lambda: self._raw(os.urandom(1000)),
            "goes away": lambda: self._raw(self._head(1000) + b"x" * 100),
            "goes away after all": lambda: self._raw(self._head(len(good)) + good),
            "slow": lambda: self._raw(self._head(1000) + b"x", wait=4),
            "two lengths": lambda: self._raw(self._head(10)[:-2] + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n"),
        }

    @staticmethod
    def _head(length):
        return (
            f"POST /v1/models/m:explain HTTP/1.1\r\nHost: localhost\r\nContent-Type: image/png\r\nContent-Length: {length}\r\n\r\n".encode()
        )

    def _raw(self, content, wait=0.0):
        with socket.create_connection(("127.0.0.1", self.port), timeout=10) as connection:
            connection.sendall(content)
            time.sleep(wait)

    def _ask_badly(self, number):
        chance = random.Random(100 + number)
        while not self.stop.is_set():
            name = chance.choice(list(self.rude))
            what = self.rude[name]
            try:
                if callable(what):
                    what()
                else:
                    *request, right = what
                    status = self._status(*request)
                    if status not in (*right, 0, 429, 503):
                        self.wrong.append(f"{status} for {name}")
            except OSError:
                pass  # a worker was killed
            with self.lock:
                self.hostile[name] += 1
            self.stop.wait(0.1)

    def _kill(self, _):
        """Kill a worker from time to time: never within a minute of the start, so that growth can be seen."""
        pause = max(self.seconds / 5, 20)
        chance = random.Random(7)
        while not self.stop.wait(pause):
            workers = children(self.watched["server"])
            if len(workers) == 2:
                pid = chance.choice(workers)
                os.kill(pid, signal.SIGKILL)
                self.events.append(time.monotonic() - self.begun)

    def _sample(self, _):
        while not self.stop.wait(1):
            moment = time.monotonic() - self.begun
            server = self.watched["server"]
            names = {server: "parent", self.watched["interrupted"]: "interrupted"} | dict.fromkeys(children(server), "worker")
            for pid, name in names.items():
                found = measured(pid)
                if found:
                    self.samples.append({"second": moment, "process": name, "pid": pid, **found})

    def _found(self, interrupts):
        """Return what was noted, and what of it is wrong, as JSON values; processes are numbered in the order they came."""
        series = defaultdict(list)
        for sample in self.samples:
            series[sample["process"], sample["pid"]].append(sample)
        processes, grown = [], []
        for (name, _), rows in series.items():
            label = f"{name} {1 + sum(each['process'].split()[0] == name for each in processes)}" if name == "worker" else name
            processes.append(
                {"process": label, "second": [round(row["second"], 1) for row in rows]}
                | {key: [row[key] for row in rows] for key in LIMITS}
            )
            quarter = len(rows) // 4
            if rows[-1]["second"] - rows[0]["second"] < 60 or not quarter:
                continue  # it didn't live long enough to tell
            for key, limit in LIMITS.items():
                early, late = (float(np.median([row[key] for row in part])) for part in (rows[quarter : 2 * quarter], rows[-quarter:]))
                if late - early > limit:
                    grown.append(f"{label}: {key} from {early:g} to {late:g}")
        latencies = sorted(self.latencies)
        seconds = np.array([taken for _, taken in latencies])
        return {
            "seconds": round(self.seconds),
            "good requests": dict(self.good),
            "hostile requests": dict(sorted(self.hostile.items())),
            "interrupts": interrupts,
            "killed workers at second": [round(moment, 1) for moment in self.events],
            "latency": {f"p{q}": float(np.percentile(seconds, q)) for q in (50, 95, 99, 100)},
            "lost": self.lost,
            "wrong": self.wrong[:100],
            "grown": grown,
            "processes": processes,
            "latencies": [[round(at, 1), round(taken, 3)] for at, taken in latencies],
        }


def digest(relevance):
    """Return the SHA-256 that answers carry."""
    from nplrp.serve.answers import digest

    return digest(relevance)


def children(pid):
    """Return the ids of the server's workers."""
    try:
        found = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        return [int(child) for child in found if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()]
    except OSError:
        return []


def measured(pid):
    """Return a process's private memory in MB, its open files, and its threads."""
    try:
        status = Path(f"/proc/{pid}/status").read_text("ascii")
        anonymous, threads = (int(re.search(rf"{key}:\s+(\d+)", status)[1]) for key in ("RssAnon", "Threads"))
        return {"private": round(anonymous / 1024, 1), "files": len(list(Path(f"/proc/{pid}/fd").iterdir())), "threads": threads}
    except (OSError, TypeError):
        return None


def draw(found, path):
    """Draw memory, open files, threads and latency over time."""
    figure, axes = plt.subplots(4, 1, figsize=(9, 9), sharex=True, layout="constrained")
    colours = {"parent": "#888888", "interrupted": "#d95f02", "worker": "#1b6ca8"}
    for row, (key, label) in zip(axes, (("private", "private memory, MB"), ("files", "open files"), ("threads", "threads")), strict=False):
        seen = set()
        for each in found["processes"]:
            name = each["process"].split()[0]
            shown = {"worker": "workers", "interrupted": "interrupted at random", "parent": "the server's parent"}[name]
            row.plot(each["second"], each[key], color=colours[name], lw=1.2, label=None if name in seen else shown)
            seen.add(name)
        row.set_ylabel(label)
        row.set_ylim(bottom=0)
    moments, seconds = zip(*found["latencies"], strict=True)
    axes[3].semilogy(moments, seconds, ".", ms=2, color="#1b6ca8", alpha=0.5)
    axes[3].set_ylabel("answer after, s")
    axes[3].set_xlabel("seconds")
    for row in axes:
        for i, moment in enumerate(found["killed workers at second"]):
            row.axvline(moment, color="#c00000", lw=0.8, ls="--", label="a worker is killed" if i == 0 else None)
        row.grid(alpha=0.25)
    axes[0].legend(loc="upper left", bbox_to_anchor=(0, 1.28), ncols=4, fontsize=9, frameon=False)
    good, hostile = sum(found["good requests"].values()), sum(found["hostile requests"].values())
    title = (
        f"{good} good requests, {hostile} hostile ones, {found['interrupts']} interrupts, {len(found['killed workers at second'])} kills"
    )
    figure.suptitle(f"{title}: {len(found['lost'])} lost, {len(found['wrong'])} wrong", fontsize=11)
    figure.savefig(path, dpi=100)


def main():
    """Run it."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--minutes", type=float, default=5.0, help="how long (default 5)")
    parser.add_argument("--out", type=Path, default=RESULTS, help="folder for soak.json and soak.png (default benchmarks/results)")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)  # before the hour, not after it
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), arguments.minutes)
        found = soak.run()
        log = (Path(folder) / "log").read_text("utf-8", "replace")
    for line in log.splitlines():
        if "Traceback" in line or "Error" in line:
            found["wrong"].append(line[:200])
    summary = {key: value for key, value in found.items() if key not in ("processes", "latencies")}
    print(json.dumps(summary, indent=1))
    draw(found, arguments.out / "soak.png")
    thinned = [{key: value[::5] if isinstance(value, list) else value for key, value in each.items()} for each in found["processes"]]
    stored = summary | {"processes": thinned}
    (arguments.out / "soak.json").write_text(json.dumps(stored, indent=1) + "\n", "utf-8")
    return int(bool(found["lost"] or found["wrong"] or found["grown"]))


if __name__ == "__main__":
    sys.exit(main())
