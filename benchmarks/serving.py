"""The HTTP server under load, on loopback: throughput and latency, the share of the library's own speed, memory, lost requests."""

import hashlib
import http.client
import json
import re
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from coordinator import HERE, WorkerError, environment
from networks import conv_stack
from PIL import Image
from report import print_table

CLIENTS = (1, 4, 16, 64)
#: Seconds in which clients ask, by their number; the last answers come later.
SECONDS = {1: 10, 4: 12, 16: 15, 64: 20}
ROUNDS = 2
#: What is asked for: the server's default preset, the answer's numbers as JSON.
QUERY = "composite=notebook&ledger=false"
#: Images that the server computes at once (the default of --batch).
BATCH = 4
#: Side of the pictures of the small network, that many requests are sent to.
SIDE = 64
LOAD = {"clients": "clients", "requests": "requests", "1/s": "rate", "p50 s": "p50", "p95 s": "p95", "p99 s": "p99", "queue": "queue"}
LOAD |= {"bare loop, 1/s": "single", "share": "share", f"in batches of {BATCH}, 1/s": "batches", "share of that": "share_of_batches"}
MEMORY = {"": "what", "PSS": "pss", "RSS": "rss", "private": "private", "weights resident": "weights", "of it private": "weights_private"}


def run(setup):
    """Run the load, the many requests, the overload and two workers, each with servers of their own."""
    threads = max(setup.threads)
    pictures = _pictures(setup.folder, 2 if setup.quick else 8)
    found = {"threads": threads, "query": QUERY, "pictures": "JPEG and PNG, 640 x 480"}
    with serving(setup.weights, threads) as server:
        found["ready_seconds"] = server.ready_seconds
        print(f"ready after {server.ready_seconds:.1f} s", flush=True)
        bodies = _with_digests(pictures, setup.weights, setup.folder, threads)
        found["load"] = _load(setup, server, bodies, threads)
        found["answers"] = _kinds(setup, server, bodies)
    found["many"] = _many(setup, pictures, threads)
    found["overload"] = _overload(setup, pictures, threads, found["many"]["rate"])
    if threads > 1:
        found["workers"] = _workers(setup, bodies)
    return found


class Serving:
    """A running server.

    Parameters
    ----------
    process : Popen
    weights : Path
    """

    def __init__(self, process, weights):
        self.process, self.weights = process, weights
        line = process.stderr.readline()
        found = re.search(r"http://127\.0\.0\.1:(\d+)", line)
        if not found:
            raise WorkerError(f"the server said {line!r}")
        self.port = int(found[1])
        self._reading = threading.Thread(target=lambda: [None for _ in process.stderr])
        self._reading.start()

    def get(self, path):
        """Return (status, text)."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()

    def metric(self, name):
        """Return a metric's sum over its labels."""
        return sum(float(value) for value in re.findall(rf"^{name}(?:{{.*}})? (\S+)$", self.get("/metrics")[1], re.MULTILINE))

    def counted(self):
        """Return how many `:explain` requests the server has answered, by status."""
        lines = re.findall(r"^nplrp_requests_total{(.*)} (\S+)$", self.get("/metrics")[1], re.MULTILINE)
        return Counter({re.search(r'status="(\w+)"', labels)[1]: int(float(n)) for labels, n in lines if ":explain" in labels})

    def processes(self):
        """Return the ids of the processes that compute."""
        pid = self.process.pid
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text("ascii").split()
        return [child for child in children if b"spawn_main" in Path(f"/proc/{child}/cmdline").read_bytes()] or [str(pid)]

    def memory(self):
        """Return memory in MB, summed over processes (Linux: smaps_rollup)."""
        total = Counter()
        for pid in self.processes():
            text = Path(f"/proc/{pid}/smaps_rollup").read_text("ascii")
            total.update({key: int(kilobytes) for key, kilobytes in re.findall(r"^(\w+): +(\d+) kB", text, re.MULTILINE)})
        return {"rss": total["Rss"] * 1.024e-3, "pss": total["Pss"] * 1.024e-3, "private": _private(total) * 1.024e-3}

    def ask(self, bodies, clients, query=QUERY, **options):
        """Send requests from a process of its own; return its answers and the share of one CPU that it took."""
        name = json.loads(self.get("/v1/models")[1])["models"][0]
        order = {"port": self.port, "path": f"/v1/models/{name}:explain?{query}", "clients": clients, "bodies": bodies, **options}
        command = [sys.executable, str(HERE / "load_client.py")]
        done = subprocess.run(command, input=json.dumps(order), stdout=subprocess.PIPE, text=True, check=True)
        return json.loads(done.stdout)


@contextmanager
def serving(weights, threads, *flags):
    """Run a server of a weight file until the block ends."""
    command = [sys.executable, "-m", "nplrp.cli", "serve", "--weights", str(weights), "--port", "0", "--threads", str(threads), *flags]
    begun = time.perf_counter()
    process = subprocess.Popen(command, env=environment(threads), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    try:
        server = Serving(process, weights)
        workers = int(flags[flags.index("--workers") + 1]) if "--workers" in flags else 1
        while server.metric("nplrp_ready") < workers:
            if process.poll() is not None or time.perf_counter() - begun > 300:
                raise WorkerError(f"the server isn't ready (exit code {process.poll()})")
            time.sleep(0.05)
        server.ready_seconds = time.perf_counter() - begun
        yield server
        process.terminate()
        if process.wait(60):
            raise WorkerError(f"the server ended with exit code {process.returncode}")
    finally:
        process.kill()
        process.wait()


@contextmanager
def watched(server, series, seconds, begun, clients):
    """Note memory and the queue every so many seconds while the block runs."""
    done = threading.Event()

    def watch():
        while not done.wait(seconds):
            row = {"seconds": time.perf_counter() - begun, "clients": clients, "queue": server.metric("nplrp_queue_depth")}
            series.append(row | server.memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield
    finally:
        done.set()
        watcher.join()


def _load(setup, server, bodies, threads):
    """Let the bare loop and each number of clients take turns; return rows, what was seen over time, and what was lost."""
    (worker,) = setup.start(["nplrp"], threads).values()
    for batch in (1, BATCH):
        worker.ask("prepare", job=f"{batch}", kind="explain", threads=threads, composite="notebook", batch=batch)
    server.ask(bodies, 4, requests=2 * len(bodies))
    before, series, begun = server.counted(), [], time.perf_counter()
    turns, answers, cpu = [], {n: [] for n in CLIENTS}, []
    bare = _bare(setup, worker, threads)
    for _ in range(1 if setup.quick else ROUNDS):
        for clients in CLIENTS:
            with watched(server, series, 2.0, begun, clients):
                came = server.ask(bodies, clients, seconds=3 if setup.quick else SECONDS[clients])
            last, bare = bare, _bare(setup, worker, threads)
            loops = {key: (last[key] + bare[key]) / 2 for key in bare}  # before and after
            rate = _rate(came["answers"])
            shares = {"share": rate / loops["single"], "share_of_batches": rate / loops["batches"]}
            turns.append({"clients": clients, "rate": rate, **loops, **shares})
            answers[clients] += came["answers"]
            cpu.append(came["cpu"])
    worker.close()
    rows = []
    for clients in CLIENTS:
        own = [turn for turn in turns if turn["clients"] == clients]
        row = {"clients": clients, **_summary(answers[clients])}
        row["queue"] = max((each["queue"] for each in series if each["clients"] == clients), default=0)
        rows.append(row | {key: statistics.mean(turn[key] for turn in own) for key in own[0] if key != "clients"})
    print_table(f"POST :explain?{QUERY}, {threads} threads", LOAD, rows)
    lost = _lost([each for n in CLIENTS for each in answers[n]], server.counted() - before)
    print(f"answers by status: {lost}; the clients took {100 * max(cpu):.0f} % of a CPU at most", flush=True)
    by_column = {key: [each[key] for each in series] for key in (series[0] if series else ())}
    return {"rows": rows, "turns": turns, "over_time": by_column, **lost, "clients_cpu": max(cpu)}


def _bare(setup, worker, threads):
    """Return explanations a second of the library in a loop: of one image each, and of batches."""
    found = {}
    for name, batch in (("single", 1), ("batches", BATCH)):
        times = worker.ask("time", job=f"{batch}", threads=threads, warm=1, runs=1 if setup.quick else max(6 // batch, 2))
        found[name] = batch / statistics.median(times)
    return found


def _kinds(setup, server, bodies):
    """Compare what can be asked for, at 4 clients: other encodings, a ledger, a prediction."""
    rows = []
    plain = [[path, kind, None] for path, kind, _ in bodies]
    for what, query, accept in (
        ("JSON, numbers in base64", QUERY, "application/json"),
        (".npy", QUERY, "application/x-npy"),
        ("PNG", QUERY, "image/png"),
        ("JSON, numbers as lists", f"{QUERY}&encoding=list", "application/json"),
        ("JSON with the ledger (the default)", QUERY.replace("ledger=false", "ledger=true"), "application/json"),
    ):
        came = server.ask(plain, 4, query, accept=accept, requests=4 if setup.quick else 8 if "ledger=true" in query else 16)
        rows.append({"what": what, **_summary(came["answers"]), "rate": _rate(came["answers"]), "bytes": came["answers"][-1][3]})
    print_table("what is asked for, 4 clients", {"": "what", "1/s": "rate", "p50 s": "p50", "p95 s": "p95", "bytes": "bytes"}, rows)
    return rows


def _many(setup, pictures, threads):
    """Send 1,000 requests to a small network, and see what memory they leave behind."""
    import nplrp
    from weights_tools.write_hdf5 import write

    weights, count = setup.folder / "stack.h5", 100 if setup.quick else 1000
    write(conv_stack(nplrp.load(setup.weights), SIDE), weights, setup.weights, "benchmarks", force=True)
    bodies = _with_digests(pictures, weights, setup.folder, threads)
    with serving(weights, threads) as server:
        found = {"network": f"VGG16's convolutions on {SIDE} x {SIDE} x 3, global average, 10 outputs", "clients": 4}
        server.ask(bodies, 4, requests=count // 4)
        memory, counted, answers = [server.memory()], server.counted(), []
        for _ in range(4):
            answers += server.ask(bodies, 4, requests=count // 4)["answers"]
            memory.append(server.memory())
        found |= {**_summary(answers), "rate": _rate(answers), "memory_each_quarter": memory}
        found["growth_mb"] = memory[-1]["private"] - memory[0]["private"]
        found["lost"] = _lost(answers, server.counted() - counted)
    print(
        f"\n{count} requests to {found['network']}: {found['rate']:.1f} a second, {found['growth_mb']:+.1f} MB of private memory",
        flush=True,
    )
    return found


def _overload(setup, pictures, threads, rate):
    """Send more than can be computed by a short deadline: every request is answered, and the server's work isn't in vain."""
    weights = setup.folder / "stack.h5"
    bodies = _with_digests(pictures, weights, setup.folder, threads)
    found = {"clients": 64, "possible_rate": rate}
    for queue, share in ((64, 0.5), (16, 1.0)):
        flags = ("--queue", f"{queue}", "--deadline", f"{share * 64 / rate:.2f}")
        with serving(weights, threads, *flags) as server:
            server.ask(bodies, 4, requests=20)
            before = server.counted()
            came = server.ask(bodies, 64, seconds=3 if setup.quick else 10)
            row = {"flags": " ".join(flags), **_summary(came["answers"]), "rate": _rate(came["answers"])}
            found[f"queue {queue}"] = row | _lost(came["answers"], server.counted() - before)
        print(f"64 clients, {row['flags']}: {row['rate']:.1f} good ones a second of {rate:.1f}; {found[f'queue {queue}']}", flush=True)
    return found


def _workers(setup, bodies):
    """Compare one process of two threads with two of one, whose weights are one copy."""
    rows, loads = [], []
    for flags in (("--workers", "1"), ("--workers", "2")):
        workers = int(flags[1])
        with serving(setup.weights, 2 // workers, *flags) as server:
            server.ask(bodies, 4, requests=4 if setup.quick else 12)
            for clients in (1, 4, 16):
                came = server.ask(bodies, clients, seconds=3 if setup.quick else 8)
                loads.append({"workers": workers, "clients": clients, **_summary(came["answers"]), "rate": _rate(came["answers"])})
            rows += [
                {"what": f"{workers} x {2 // workers} threads, process {i + 1}", **_mapped(pid, setup.weights)}
                for i, pid in enumerate(server.processes())
            ]
            rows.append({"what": f"{workers} x {2 // workers} threads, together", **server.memory()})
    print_table("processes x threads", {"processes": "workers", "clients": "clients", "1/s": "rate", "p50 s": "p50", "p95 s": "p95"}, loads)
    print_table("memory in MB (10^6 bytes)", MEMORY, rows)
    return {"load": loads, "memory": rows}


def _mapped(pid, weights):
    """Return one process's memory in MB, and how much of the weights' file it maps and has to itself."""
    totals, inside, apart = Counter(), Counter(), False
    for line in Path(f"/proc/{pid}/smaps").read_text("utf-8", "surrogateescape").splitlines():
        key, *rest = line.split()
        if not key.endswith(":"):
            apart = line.endswith(str(Path(weights).resolve()))
        elif rest[-1] == "kB":
            totals[key[:-1]] += int(rest[0])
            if apart:
                inside[key[:-1]] += int(rest[0])
    megabytes = {"pss": totals["Pss"], "rss": totals["Rss"], "private": _private(totals)}
    megabytes |= {"weights": inside["Rss"], "weights_private": _private(inside)}
    return {key: 1.024e-3 * kilobytes for key, kilobytes in megabytes.items()}


def _private(sizes):
    return sizes["Private_Clean"] + sizes["Private_Dirty"]


def _pictures(folder, count):
    """Write pictures as JPEG and PNG in turn; return [(path, type), ...]."""
    rng, made = np.random.default_rng(0), []
    for i in range(count):
        noise = Image.fromarray(rng.uniform(0, 255, (30, 40, 3)).astype(np.uint8))
        path = folder / (f"{i}.png" if i % 2 else f"{i}.jpeg")
        noise.resize((640, 480), Image.Resampling.BICUBIC).save(path)
        made.append((str(path), f"image/{path.suffix[1:]}"))
    return made


def _with_digests(pictures, weights, folder, threads):
    """Return [(path, type, SHA-256 of what the command line computes), ...]."""
    saved = folder / "expected.npz"
    command = [sys.executable, "-m", "nplrp.cli", "explain", *(path for path, _ in pictures), "-w", weights, "--save", saved, "--json"]
    subprocess.run([str(part) for part in command], env=environment(threads), stdout=subprocess.DEVNULL, check=True)
    with np.load(saved) as file:
        relevance = file["relevance"]
    return [(*picture, hashlib.sha256(each.tobytes()).hexdigest()) for picture, each in zip(pictures, relevance, strict=True)]


def _summary(answers):
    """Return the number of requests and percentiles of the good ones' seconds."""
    good = [end - begun for begun, end, status, _ in answers if status == 200]
    if not good:
        return {"requests": len(answers)}
    return {"requests": len(answers)} | {f"p{q}": float(np.percentile(good, q)) for q in (50, 95, 99)}


def _rate(answers):
    """Return good answers a second, from the first question to the last answer."""
    good = [each for each in answers if each[2] == 200]
    return len(good) / (max(each[1] for each in answers) - min(each[0] for each in answers))


def _lost(answers, counted):
    """Count answers by status as the clients saw them, those that are none, and compare with what the server counted."""
    seen = Counter(str(status) for _, _, status, _ in answers)
    bad = {status: n for status, n in seen.items() if status not in ("200", "429", "503", "504")}
    return {"clients_count": dict(seen), "server_count": dict(counted), "lost": sum(bad.values()), "same_counts": seen == counted}
