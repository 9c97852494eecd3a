"""Real processes: signals, killed workers, slow and rude clients, full disks, threading layers; and that nothing is left behind."""

import base64
import functools
import http.client
import io
import itertools
import json
import os
import platform
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image

import nplrp
from nplrp.serve.answers import digest
from tests.serve.servers import PATIENCE, ROOT, WEIGHTS, Remote, picture, remote

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")

COMPOSITES = ("notebook", "zplus", "epsilon_plus", "alpha_beta")


@pytest.fixture(scope="module")
def small():
    return nplrp.load(WEIGHTS)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    flags = (
        "--head-timeout",
        "1",
        "--body-timeout",
        "1",
        "--send-timeout",
        "1",
        "--keep-alive",
        "1",
        "--max-connections",
        "20",
        "--max-head",
        "4K",
    )
    with remote(tmp_path_factory.mktemp("server"), *flags) as running:
        yield running


@functools.cache
def expected(small, seed, composite):
    return digest(nplrp.explain(small, nplrp.preprocess(io.BytesIO(picture(seed)), small), composite).relevance[0])


def until(condition, patience=PATIENCE):
    end = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


def received(connection):
    """Read until the server closes."""
    content = b""
    while True:
        try:
            piece = connection.recv(65536)
        except ConnectionResetError:
            return content
        if not piece:
            return content
        content += piece


def resources(pid):
    """Return a process's threads, open files, and anonymous memory in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    numbers = {line.split(":")[0]: line.split()[1] for line in status.splitlines() if " kB" in line or "Threads" in line}
    return int(numbers["Threads"]), len(list(Path(f"/proc/{pid}/fd").iterdir())), int(numbers["RssAnon"]) / 1024


# Bits


@pytest.mark.parametrize("layer", ["omp", "workqueue", "tbb"])
def test_same_bits_for_16_clients_on_every_threading_layer(small, tmp_path, layer):
    """Concurrent callers would abort the process under Numba's workqueue if kernels weren't guarded."""
    cases = list(zip(range(16), itertools.cycle(COMPOSITES), strict=False))
    flags = ("--threads", "2", "--deadline", "1000")  # kernels may have to be compiled for the layer
    with remote(tmp_path, *flags, NUMBA_THREADING_LAYER=layer) as server, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda case: server.explain(picture(case[0]), composite=case[1], ledger="false"), cases))
        assert server.stop() == 0
    for answer, (seed, composite) in zip(answers, cases, strict=True):
        assert answer.status_code == 200, answer.text
        assert answer.json()["explanations"][0]["sha256"] == expected(small, seed, composite)


def test_concurrent_callers_of_the_library_under_workqueue():
    """What the lock in the kernels' driver is for: without a lane in front of it, too."""
    code = """
import numpy as np, nplrp
from concurrent.futures import ThreadPoolExecutor
from tests.networks import small_vgg, images
model = small_vgg(size=32)
x = images(0, 8, model.input_shape)
whole = nplrp.explain(model, x, "zplus").relevance
def one(i):
    return all(nplrp.explain(model, x[i:i+1], "zplus").relevance[0].tobytes() == whole[i].tobytes() for _ in range(5))
with ThreadPoolExecutor(8) as pool:
    assert all(pool.map(one, range(8)))
print("fine")
"""
    env = os.environ | {"NUMBA_THREADING_LAYER": "workqueue", "NUMBA_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.stdout == "fine\n", done.stderr


# Clients


def test_one_byte_a_second(server):
    with server.connect() as head, server.connect() as silent, server.connect() as body:
        head.sendall(b"GET /v2 HT")
        body.sendall(b"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n")
        begun = time.monotonic()
        stop = threading.Event()

        def drip():
            while not stop.wait(0.2):
                for connection in (head, body):
                    try:
                        connection.sendall(b"x")
                    except OSError:
                        return

        dripping = threading.Thread(target=drip)
        dripping.start()
        try:
            answers = [received(each) for each in (head, silent, body)]
        finally:
            stop.set()
        dripping.join()
        assert time.monotonic() - begun < PATIENCE / 4
        for answer in answers:
            assert answer.startswith(b"HTTP/1.1 408 "), answer
            assert json.loads(answer.split(b"\r\n\r\n", 1)[1])["code"] == "slow_request"
    assert server.explain(picture()).status_code == 200


def test_what_isnt_http(server):
    for nonsense in (b"\x16\x03\x01\x02\x00\x01\x00\r\n\r\n", b"GET / HTTP/x\r\n\r\n", b"GET / HTTP/1.1\r\nA: " + b"x" * 20_000):
        with server.connect() as connection:
            connection.sendall(nonsense)
            answer = received(connection)
            assert answer.startswith(b"HTTP/1.1 400 "), answer
            body = json.loads(answer.split(b"\r\n\r\n", 1)[1])
            assert body["code"] == "bad_request"
    for path in (b"/../../etc/passwd", b"/%2e%2e/%2e%2e/etc/passwd", b"/v1/models/../../etc/passwd:explain", b"//etc/passwd", b"/\x7f"):
        with server.connect() as connection:
            connection.sendall(b"GET " + path + b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert received(connection)[9:12] in (b"404", b"400")


def test_too_many_connections(server):
    time.sleep(1.5)  # idle ones of other tests are closed
    connections = [server.connect() for _ in range(30)]
    refused = [received(each) for each in connections[20:]]
    for each in connections:
        each.close()
    assert any(
        answer.startswith(b"HTTP/1.1 503 ") and b'"too_many_connections"' in answer and b"retry-after: 1" in answer for answer in refused
    )
    until(server.ready)


@contextmanager
def deaf_client(server, buffer=4096):
    """A client that asks for more than fits into the sockets' buffers, and reads nothing."""
    with server.connect() as connection:
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, buffer)
        instances = [{"b64": base64.b64encode(picture()).decode()}] * 16
        parameters = {"layers": ["block1_conv1", "block1_conv2"], "encoding": "list", "ledger": False, "target": "top-2"}
        body = json.dumps({"instances": instances, "parameters": parameters}).encode()
        start = f"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
        connection.sendall(start.encode() + body)
        yield connection


def test_an_answer_counts_until_its_client_has_taken_it_or_gone(tmp_path):
    with remote(tmp_path, "--max-answers", "30K", "--send-timeout", "3") as server:  # one map is 18 KB
        for leave in ("at once", "when it is cut off"):
            with deaf_client(server) as deaf:
                until(lambda: server.explain(picture(), ledger="false").status_code == 429)
                answer = server.explain(picture(), ledger="false")
                assert answer.json()["code"] == "queue_full" and "--max-answers" in answer.json()["error"]
                if leave == "at once":
                    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    deaf.close()
                until(lambda: server.explain(picture(), ledger="false").status_code == 200)
        assert server.metric('nplrp_rejected_total{reason="slow_reader"') == 1


def test_clients_that_disconnect_dont_read_or_send_too_much(server):
    content = picture()
    head = f"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n".encode()
    for part in (head[:20], head, head + content[:100], head + content):
        for _ in range(5):
            with server.connect() as connection:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")  # close with a reset
                connection.sendall(part)
    cut_off = False
    for _ in range(6):  # a busy server may still hold the connections above, and refuse this one
        with suppress(OSError, AssertionError), deaf_client(server):
            until(lambda: server.metric('nplrp_rejected_total{reason="slow_reader"') >= 1, PATIENCE / 6)
            cut_off = True
        if cut_off:
            break
    assert cut_off
    with server.connect() as endless:  # is answered before it has sent everything, and cut off if it goes on
        endless.sendall(b"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 99999999999\r\n\r\n")
        assert endless.recv(65536).startswith(b"HTTP/1.1 413 ")
        with pytest.raises(OSError):
            while True:
                endless.sendall(b"x" * 1000)
                time.sleep(0.02)
    assert server.explain(content).status_code == 200


def test_a_connection_outlives_a_request_that_was_answered_before_its_body_came(server):
    """The rest of the body is read and dropped; then the next request has all its time, and silence ends the connection."""
    early = b"POST /v1/models/none:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 300000\r\n\r\n"
    with server.connect() as connection:
        for _ in range(2):
            connection.sendall(early)
            assert _one_answer(connection) == 404
            connection.sendall(bytes(300_000))
            time.sleep(0.7)
            connection.sendall(b"GET /v2 HTTP/1.1\r\n")
            time.sleep(0.6)  # now more than --keep-alive after the answer
            connection.sendall(b"Host: x\r\n\r\n")
            assert _one_answer(connection) == 200
        connection.sendall(early)
        assert _one_answer(connection) == 404
        connection.sendall(bytes(300_000))
        begun = time.monotonic()
        assert received(connection) == b""
        assert time.monotonic() - begun < PATIENCE / 4


def _one_answer(connection):
    answer = http.client.HTTPResponse(connection)
    answer.begin()
    answer.read()
    return answer.status


def _post(client, content, kind="image/png"):
    return client.post("/v1/models/m:explain?ledger=false", content=content, headers={"content-type": kind})


def test_nothing_is_left_behind(server):
    """Threads, files and memory after hundreds of requests that went well, were refused, or broke off."""
    content, jpeg = picture(), picture(form="JPEG")
    truncated = picture()[:-200]
    head = f"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n".encode()

    def round_of_requests(n):
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            for i in range(n):
                post = functools.partial(_post, client)
                assert post(content).status_code == 200
                assert post(jpeg, "image/jpeg").status_code == 200
                assert post(truncated).status_code == 400
                assert post(b"[" * 10_000, "application/json").status_code == 400
                assert client.get("/nope").status_code == 404
                if i % 5 == 0:
                    with server.connect() as connection:
                        connection.sendall(head + content[: 10 * i])

    round_of_requests(60)
    time.sleep(1.5)
    before = resources(server.process.pid)
    round_of_requests(60)
    time.sleep(1.5)
    after = resources(server.process.pid)
    assert after[0] <= before[0]
    assert after[1] <= before[1] + 1
    assert after[2] < before[2] + 8
    assert server.metric("nplrp_queue_depth") == 0
    assert server.metric("nplrp_in_flight") == 1
    assert "Traceback" not in server.errors.read_text()


# Signals


def test_sigterm_lets_work_finish(small, tmp_path):
    with remote(tmp_path, "--batch", "1") as server, ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(server.explain, picture(i), composite="zplus", ledger="false") for i in range(8)]
        until(lambda: server.metric("nplrp_in_flight") > 4 or all(each.done() for each in futures))
        server.process.send_signal(signal.SIGTERM)
        statuses = [each.result() for each in futures]
        assert server.stop() == 0
    done = [answer for answer in statuses if answer.status_code == 200]
    assert done
    for i, answer in enumerate(statuses):
        if answer.status_code == 200:
            assert answer.json()["explanations"][0]["sha256"] == expected(small, i, "zplus")
        else:
            assert answer.status_code == 503 and answer.json()["code"] == "draining"
    assert "Traceback" not in server.errors.read_text()


def test_sigterm_makes_it_unready_while_it_drains_and_ends_by_the_time(tmp_path):
    """A body that doesn't come in keeps it draining."""
    with remote(tmp_path, "--drain", "2", "--body-timeout", "100") as server:
        with server.connect() as slow, httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            slow.sendall(b"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n")
            until(lambda: server.metric("nplrp_in_flight") == 2)
            server.process.send_signal(signal.SIGTERM)
            until(lambda: client.get("/v2/health/ready").status_code == 503)
            assert client.get("/v2/health/live").status_code == 200
            assert (
                client.post("/v1/models/m:explain", content=picture(), headers={"content-type": "image/png"}).json()["code"] == "draining"
            )
            answer = received(slow)
            assert answer.startswith(b"HTTP/1.1 503 ") and b'"draining"' in answer
        assert server.process.wait(PATIENCE) == 0


def test_an_answer_that_is_being_sent_is_sent_whole(tmp_path):
    with remote(tmp_path) as server, deaf_client(server, 300_000) as slow:
        answer = http.client.HTTPResponse(slow)
        answer.begin()
        server.process.send_signal(signal.SIGTERM)
        time.sleep(4)  # longer than uvicorn would wait by itself
        assert server.process.poll() is None
        json.loads(answer.read())
        slow.close()
        assert server.process.wait(PATIENCE) == 0
        assert "Traceback" not in server.errors.read_text()


def test_two_signals_stop_it_at_once(tmp_path):
    with remote(tmp_path, "--drain", "1000", "--body-timeout", "1000") as server, server.connect() as slow:
        slow.sendall(b"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: 1000\r\n\r\n")
        until(lambda: server.metric("nplrp_in_flight") == 2)
        server.process.send_signal(signal.SIGINT)
        time.sleep(0.5)
        assert server.process.poll() is None
        assert server.stop(signal.SIGINT) == 0


def test_it_stops_while_an_image_is_decoded(tmp_path):
    """The decoder's thread can't be interrupted, and isn't waited for."""
    file = io.BytesIO()
    Image.new("RGB", (5000, 4990)).save(file, "JPEG", progressive=True)
    begun = time.monotonic()
    Image.open(file).load()
    alone = time.monotonic() - begun
    count = max(int(30 / alone), 1)
    with remote(tmp_path, "--max-instances", f"{count}", "--drain", "0.2", "--max-body", "1G") as server:
        files = [("image", ("x.jpeg", file.getvalue(), "image/jpeg"))] * count
        with ThreadPoolExecutor(1) as pool:
            asking = pool.submit(httpx.post, f"{server.url}/v1/models/m:predict", files=files, timeout=PATIENCE)
            until(lambda: server.metric("nplrp_in_flight") == 2)
            time.sleep(1)  # now they are decoded
            begun = time.monotonic()
            assert server.stop() == 0
            assert time.monotonic() - begun < count * alone / 3
            assert asking.result().json()["code"] == "draining"
        assert "Traceback" not in server.errors.read_text()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="about glibc's malloc")
def test_large_blocks_go_back_to_the_system():
    """Also where something that stays was allocated above them."""
    code = """
import numpy as np
from pathlib import Path
from nplrp.serve.server import _return_memory
def anonymous():
    return int(next(line for line in Path("/proc/self/status").read_text().splitlines() if "RssAnon" in line).split()[1]) / 1024
if RETURN: _return_memory()
np.ones(25 << 20, np.uint8)  # freed at once, after which glibc keeps blocks of this size
before, stay = anonymous(), []
for _ in range(5):
    block = np.ones(20 << 20, np.uint8)
    stay.append(bytes(100_000))
    del block
    block = np.ones(24 << 20, np.uint8)
    stay.append(bytes(100_000))
    del block
print(anonymous() - before)
"""
    grown = {}
    for switch in (False, True):
        done = subprocess.run([sys.executable, "-c", f"RETURN = {switch}{code}"], cwd=ROOT, capture_output=True, text=True, check=True)
        grown[switch] = float(done.stdout)
    assert grown[True] < 4
    assert grown[False] > 15, "glibc has changed, and there is no need for this any more"


def test_workers_are_replaced_and_stop_together(small, tmp_path):
    with remote(tmp_path, "--workers", "2", "--threads", "1") as server:
        until(lambda: server.metric("nplrp_ready") == 2)
        first = server.children()
        assert len(first) == 2
        stop = threading.Event()

        def ready(server):
            try:
                return server.metric("nplrp_ready")
            except httpx.TransportError:  # it was with the worker that was killed
                return 0

        def ask():
            seen = []
            while not stop.is_set():
                try:
                    answer = server.explain(picture(0), composite="zplus", ledger="false")
                    seen.append(answer.json()["explanations"][0]["sha256"] if answer.status_code == 200 else answer.status_code)
                except httpx.TransportError:
                    seen.append("broken")  # it was with the worker that was killed
            return seen

        with ThreadPoolExecutor(3) as pool:
            asking = [pool.submit(ask) for _ in range(3)]
            try:
                time.sleep(0.5)
                os.kill(first[0], signal.SIGKILL)
                until(lambda: len(server.children()) == 2 and first[0] not in server.children())
                until(lambda: ready(server) == 2)
            finally:
                stop.set()  # else nobody would see what failed
            seen = [each for future in asking for each in future.result()]
        assert set(seen) <= {expected(small, 0, "zplus"), "broken"}
        assert seen.count("broken") <= 3
        workers = server.children()
        assert server.stop() == 0
        assert not any(Path(f"/proc/{pid}").exists() for pid in workers)
        assert "Traceback" not in server.errors.read_text()


def test_workers_end_when_their_parent_is_killed(tmp_path):
    with remote(tmp_path, "--workers", "2", "--threads", "1") as server:
        workers = server.children()
        assert workers
        server.stop(signal.SIGKILL)
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))


def test_workers_share_one_copy_of_the_weights(tmp_path):
    """Weights are mapped from the file: a worker's own memory doesn't hold them."""
    from tests.keras_files import vgg, write_by_name

    layers = vgg(widths=(2, 2, 4, 4, 4), side=32, hidden=3000, classes=2000)  # 61 MB
    write_by_name(tmp_path / "big.h5", layers)
    with remote(tmp_path, "--workers", "2", "--threads", "1", weights=tmp_path / "big.h5") as server:
        until(lambda: server.metric("nplrp_ready") == 2)
        size = (tmp_path / "big.h5").stat().st_size / 1024
        for pid in server.children():
            maps = Path(f"/proc/{pid}/smaps").read_text()
            (block,) = [each for each in maps.split("VmFlags") if "big.h5" in each]
            numbers = {line.split(":")[0]: int(line.split()[1]) for line in block.splitlines() if line.endswith(" kB")}
            assert numbers["Rss"] > 0.9 * size  # all of it has been read,
            assert numbers["Private_Clean"] + numbers["Private_Dirty"] < 0.1 * size  # and none of it is its own
            assert numbers["Pss"] < 0.6 * size


# Starting


def test_it_listens_where_it_is_told_and_nowhere_else(tmp_path):
    with remote(tmp_path, "--host", "127.0.0.2") as server:
        host, port = server.address()
        assert host == "127.0.0.2" and server.explain(picture()).status_code == 200
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port), timeout=PATIENCE)


def test_wrong_weights_are_refused(tmp_path):
    server = Remote(tmp_path, "--sha256", "0" * 64)
    assert server.process.wait(PATIENCE) == 3
    assert "--sha256" in server.errors.read_text() and "Traceback" not in server.errors.read_text()


def test_workers_that_cant_start_end_the_server(tmp_path):
    server = Remote(tmp_path, "--sha256", "0" * 64, "--workers", "2", "--threads", "1")
    assert server.process.wait(PATIENCE) == 3


@pytest.fixture
def cut(tmp_path):
    """Weights that are cut, once there is a file ``cut`` beside them, when they have just been found to be as they were."""
    weights = tmp_path / "w.h5"
    weights.write_bytes(WEIGHTS.read_bytes())
    (tmp_path / "sitecustomize.py").write_text(
        "import os, nplrp.model as m\n"
        "check = m.Model.check_files\n"
        "def cut(model):\n"
        "    check(model)\n"
        f"    os.path.exists({str(tmp_path / 'cut')!r}) and model.source and os.truncate(model.source, 0)\n"
        "m.Model.check_files = cut\n"
    )
    return weights


@pytest.mark.parametrize("workers", [1, 2])
def test_weights_that_are_cut_during_a_pass_end_the_server_with_a_line(cut, workers):
    flags, path = ("--workers", str(workers), "--drain", "1"), f"{cut.parent}{os.pathsep}{ROOT}"
    with remote(cut.parent, *flags, weights=cut, PYTHONPATH=path) as server:
        until(lambda: server.metric("nplrp_ready") == workers)  # one that still warms up would cut them, and the other answer 503
        (cut.parent / "cut").touch()
        with pytest.raises(httpx.TransportError):
            server.explain(picture())
        assert server.process.wait(PATIENCE) == (2 if workers == 1 else 3)
    errors = server.errors.read_text()
    assert f"nplrp: {cut}: the file was cut, or its disk failed, while it was mapped (SIGBUS)" in errors
    assert workers == 1 or "the file is empty, expected Keras weights" in errors


@pytest.mark.parametrize("mapped", [True, False])
def test_weights_that_were_cut_between_two_passes(tmp_path, small, mapped):
    weights = tmp_path / "w.h5"
    weights.write_bytes(WEIGHTS.read_bytes())
    with remote(tmp_path, *([] if mapped else ["--no-mmap"]), weights=weights) as server:
        os.truncate(weights, 0)
        answer = server.explain(picture(), composite="zplus")
        if mapped:
            assert (answer.status_code, answer.json()["code"]) == (503, "not_ready")
            assert server.process.wait(PATIENCE) == 3
            assert "the file was changed while the model is in use" in server.errors.read_text()
        else:
            assert answer.json()["explanations"][0]["sha256"] == expected(small, 0, "zplus")


def test_missing_weights_and_taken_ports_are_one_line(server, tmp_path):
    for flags, message in (
        (["--weights", str(tmp_path / "none.h5")], "no such file"),
        (["--weights", str(WEIGHTS), "--port", str(server.address()[1])], "can't listen"),
        (["--weights", str(WEIGHTS), "--queue", "0"], "--queue 0"),
    ):
        command = [sys.executable, "-m", "nplrp.cli", "serve", *flags]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE, check=False)
        assert done.returncode == 2
        assert message in done.stderr and len(done.stderr.splitlines()) == 1


def nobody_reads():
    """Let standard output be a pipe whose reader has gone."""
    reading, writing = os.pipe()
    os.close(reading)
    os.dup2(writing, 1)
    os.close(writing)


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_log_that_nobody_reads_changes_nothing(tmp_path, workers):
    with remote(tmp_path, "--workers", workers, before=nobody_reads) as server:
        assert [httpx.get(f"{server.url}/v2/health/ready", timeout=PATIENCE).status_code for _ in range(4)] == [200] * 4
        assert server.stop() == 0
    assert all(line.startswith("nplrp: ") for line in server.errors.read_text().splitlines())


def test_a_full_disk_is_no_reason_to_fail(small, tmp_path):
    """No file may grow beyond 4 KB: neither the cache of kernels nor that of hashes can be written."""
    cache = tmp_path / "cache"

    def full():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))

    with remote(tmp_path, before=full, NPLRP_CACHE=str(cache), XDG_CACHE_HOME=str(tmp_path / "other")) as server:
        answer = server.explain(picture(), composite="zplus", ledger="false")
        assert answer.json()["explanations"][0]["sha256"] == expected(small, 0, "zplus")
        big = httpx.post(
            f"{server.url}/v1/models/m:predict", files={"image": ("x.png", picture(height=800, width=800), "image/png")}, timeout=PATIENCE
        )
        assert big.status_code == 200  # uploads aren't spooled to a file
        assert server.stop() == 0
