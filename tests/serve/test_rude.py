"""Clients and surroundings that are within the protocol's letter, and beyond what most servers are tried with."""

import json
import os
import resource
import socket
import struct
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from tests.serve.servers import PATIENCE, ROOT, picture, remote
from tests.serve.test_processes import received, until

pytestmark = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")

GET = b"GET /v2 HTTP/1.1\r\nHost: x\r\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with remote(tmp_path_factory.mktemp("server"), "--max-head", "4K", "--keep-alive", "30") as running:
        yield running


def post(content, extra=b"", verb=b"predict"):
    head = b"POST /v1/models/m:%s HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n%sContent-Length: %d\r\n\r\n"
    return head % (verb, extra, len(content)) + content


def code(answer):
    return json.loads(answer.split(b"\r\n\r\n", 1)[1])["code"]


# Framing


@pytest.mark.parametrize("order", [1, -1])
def test_two_lengths_of_a_body_close_the_connection(server, order):
    """What follows would be one request for us and another one for a proxy that goes by the other length."""
    lengths = [b"Content-Length: 5\r\n", b"Transfer-Encoding: chunked\r\n"][::order]
    smuggled = b"0\r\n\r\n" + GET + b"\r\n"
    with server.connect() as connection:
        connection.sendall(
            b"POST /v1/models/m:explain HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\n" + b"".join(lengths) + b"\r\n" + smuggled
        )
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 400 ") and code(answer) == "bad_request"
    assert answer.count(b"HTTP/1.1") == 1 and b"connection: close" in answer.lower()


def pad(head, size):
    """Make a head so many bytes long."""
    return head + b"A: " + b"x" * (size - len(head) - 7) + b"\r\n\r\n"


@pytest.mark.parametrize("pieces", [1, 2, 50])
@pytest.mark.parametrize("behind", [b"", GET + b"\r\n"])
def test_max_head_means_what_it_says(server, pieces, behind):
    """However it comes: a head that came at once was let through, whatever its length."""
    for size, status in ((4096, b"200"), (4097, b"400"), (60_000, b"400"), (250_000, b"400")):
        content = pad(GET, size) + behind
        with server.connect() as connection:
            step = -(-len(content) // pieces)
            try:
                for begin in range(0, len(content), step):
                    connection.sendall(content[begin : begin + step])
            except OSError:
                assert status == b"400"
            connection.settimeout(PATIENCE)
            assert connection.recv(12) == b"HTTP/1.1 " + status, size


def test_max_head_of_a_request_behind_another(server):
    with server.connect() as connection:
        connection.sendall(GET + b"\r\n" + pad(GET, 5000))
        answer = received(connection)
    assert answer.startswith(b"HTTP/1.1 200 ") and b"HTTP/1.1 400 " in answer and b"--max-head" in answer


def test_a_long_body_isnt_a_head(server):
    with server.connect() as connection:
        connection.sendall(post(picture(height=200, width=200)) + post(picture(height=200, width=200), b"Connection: close\r\n"))
        assert received(connection).count(b"HTTP/1.1 200 ") == 2


# Half-closed connections


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
def test_half_closed_clients_get_their_answer(server, version):
    with server.connect() as connection:
        connection.sendall(post(picture(), verb=b"explain").replace(b"HTTP/1.1", b"HTTP/" + version))
        connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
    interim = b"HTTP/1.1 100 Continue\r\n\r\n"
    assert (interim in answer) <= (version == b"1.1")
    assert answer.removeprefix(interim).startswith(b"HTTP/1.1 200 ") and b'"explanations"' in answer


def test_half_closed_clients_get_all_their_answers(server):
    with server.connect() as connection:
        connection.sendall(post(picture()) * 3 + GET + b"\r\n")
        connection.shutdown(socket.SHUT_WR)
        answer = received(connection)
    assert answer.count(b"HTTP/1.1 200 ") == 4 and b'"name":"nplrp"' in answer


@pytest.mark.parametrize("sent", [b"", b"GET /v2 HT", GET, post(picture())[:-100], GET + b"\r\n"])
def test_half_closed_clients_that_ask_nothing_are_let_go(server, sent):
    with server.connect() as connection:
        connection.sendall(sent)
        connection.shutdown(socket.SHUT_WR)
        begun = time.monotonic()
        received(connection)
        assert time.monotonic() - begun < 10  # not --keep-alive
    until(lambda: server.metric("nplrp_connections") <= 1)


@pytest.mark.parametrize("how", ["with FIN", "with RST"])
def test_clients_that_have_gone_leave_the_queue(tmp_path, how):
    """Who closes says at first no more than who half-closes; nothing goes on being computed for them."""
    with remote(tmp_path, "--batch", "1", "--queue", "200") as server:
        for _ in range(60):
            with server.connect() as connection:
                if how == "with RST":
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                connection.sendall(post(picture(height=300, width=300), verb=b"explain"))
        until(lambda: server.metric("nplrp_in_flight") == 1)
        assert server.stop() == 0
        statuses = [line["status"] for line in server.lines() if line["method"] == "POST"]
        assert statuses.count(499) > 20


# Descriptors


def few(soft, hard):
    return lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_no_descriptor_left_is_a_line_or_two(tmp_path):
    """asyncio would log every attempt to accept with its traceback, some hundred a second."""
    with remote(tmp_path, before=few(64, 64)) as server, ExitStack() as stack:
        with httpx.Client(base_url=server.url, timeout=PATIENCE) as client:
            assert client.get("/v2").status_code == 200
            for _ in range(150):
                stack.enter_context(server.connect())
            end = time.monotonic() + 3
            while time.monotonic() < end:
                for path in ("/v2", "/", "/v1/info", "/metrics"):
                    assert client.get(path).status_code == 200, path
                assert client.post("/v1/models/m:predict", content=picture(), headers={"content-type": "image/png"}).status_code == 200
        stack.close()
        until(server.ready)
        errors = server.errors.read_text()
        assert errors.count("no connection can be accepted") == 1 and "too few for --max-connections" in errors
        assert "Traceback" not in errors and len(errors) < 3000


def test_the_limit_of_descriptors_is_raised(tmp_path):
    with remote(tmp_path, "--max-connections", "300", before=few(100, 4096)) as server:
        limits = Path(f"/proc/{server.process.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
        assert line.split()[3:5] == ["556", "4096"]
        assert "too few" not in server.errors.read_text()


# What a killed parent leaves


def test_a_killed_parents_metrics_are_swept_at_the_next_start(tmp_path):
    folder, elsewhere = tmp_path / "tmp", tmp_path / "elsewhere"
    folder.mkdir()
    elsewhere.mkdir()
    (elsewhere / "kept").touch()
    (folder / "nplrp-metrics-link").symlink_to(elsewhere)
    (folder / "nplrp-metrics-file").touch()
    flags = ("--workers", "2", "--threads", "1")

    def left():
        return {path.name for path in folder.glob("nplrp-metrics-*") if path.is_dir() and not path.is_symlink()}

    def age():
        for path in folder.iterdir():
            os.utime(path, (1, 1), follow_symlinks=False)

    killed, running = tmp_path / "killed", tmp_path / "running"
    for each in (killed, running):
        each.mkdir()
    with remote(killed, *flags, TMPDIR=str(folder)) as server:
        old = left()
        workers = server.children()
        server.process.kill()
        server.process.wait()
        until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert len(old) == 1 and left() == old
    age()
    with remote(running, *flags, TMPDIR=str(folder)) as server:
        (mine,) = left() - old
        assert not old & left()
        age()
        sweeping = "from nplrp.serve.workers import sweep; sweep()"
        subprocess.run([sys.executable, "-c", sweeping], cwd=ROOT, env=os.environ | {"TMPDIR": str(folder)}, check=True)
        assert left() == {mine}, "it is in use"
        assert server.metric("nplrp_ready") >= 1
        assert server.stop() == 0
    assert not left()
    assert (elsewhere / "kept").exists() and (folder / "nplrp-metrics-file").exists()


def test_a_folder_of_a_parent_that_has_just_begun_stays(tmp_path, monkeypatch):
    from nplrp.serve import workers

    monkeypatch.setattr(workers.tempfile, "gettempdir", lambda: str(tmp_path))
    (tmp_path / "nplrp-metrics-new").mkdir()
    workers.sweep()
    assert (tmp_path / "nplrp-metrics-new").exists()
    os.utime(tmp_path / "nplrp-metrics-new", (1, 1))
    workers.sweep()
    assert not (tmp_path / "nplrp-metrics-new").exists()
