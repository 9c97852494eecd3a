"""What requests hold, and that it is given back: also by those that are refused, fail, come too late or are left."""

import asyncio
import gc
import json
import re
import struct
import threading
import time
import weakref
import zlib
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import httpx
import numpy as np
import pytest

from nplrp.errors import NumericsError
from nplrp.serve import bodies
from nplrp.serve.budget import Budget
from nplrp.serve.problems import Problem
from tests.serve.servers import PATIENCE, local, picture, remote
from tests.serve.test_limits import PATH, b64, later, refused, until

linux = pytest.mark.skipif(not Path("/proc/self/status").is_file(), reason="needs Linux's /proc")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def black(width, height, cut=0):
    """A black PNG, perhaps without its last bytes: 1 to 1000 of what it is decoded to."""
    compress = zlib.compressobj(9)
    rows = max((1 << 20) // (1 + 3 * width), 1)
    row, pixels = bytes(1 + 3 * width), []
    for begin in range(0, height, rows):
        pixels.append(compress.compress(row * min(rows, height - begin)))
    data = b"".join([*pixels, compress.flush()])
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    content = b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data) + chunk(b"IEND", b"")
    return content[: len(content) - cut]


def memory(pid):
    """Return a process's own memory, and the most it has had altogether, in MB."""
    status = Path(f"/proc/{pid}/status").read_text()
    return [int(re.search(rf"{key}:\s+(\d+)", status)[1]) / 1024 for key in ("RssAnon", "VmHWM")]


@contextmanager
def watched(server):
    """Ask for its health all the time, and yield the seconds that each answer took."""
    stop, took = threading.Event(), []

    def ask():
        with httpx.Client(timeout=PATIENCE) as client:
            while not stop.wait(0.02):
                begun = time.monotonic()
                assert client.get(f"{server.url}/v2/health/live").status_code == 200
                took.append(time.monotonic() - begun)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(ask)
        try:
            yield took
        finally:
            stop.set()
            asking.result()


def post(server, content, kind="image/png", query="ledger=false"):
    headers = {"content-type": kind}
    return httpx.post(f"{server.url}/v1/models/m:explain?{query}", content=content, headers=headers, timeout=PATIENCE)


@linux
@pytest.mark.parametrize(
    ("content", "query"),
    [
        pytest.param(black(1, 25_000_000), "resample=lanczos", id="one long side"),
        pytest.param(black(25_000_000, 1), "resample=lanczos", id="the other one"),
        pytest.param(black(1, 25_000_000, cut=50), "", id="one long side, cut off"),
        pytest.param(black(5000, 5000, cut=50), "", id="large, cut off"),
        pytest.param(black(763, 32_768, cut=50), "resample=lanczos", id="as long as it may be, cut off"),
    ],
)
def test_64_bad_pictures_leave_nothing_and_hold_nobody_up(content, query, tmp_path):
    """Eight of them kept 600 MB to 3 GB for good, and one kept health waiting for 5 s."""
    with remote(tmp_path) as server:
        assert post(server, picture()).status_code == 200
        before, _ = memory(server.process.pid)
        with watched(server) as took, ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: post(server, content, query=query), range(64)))
        assert {answer.status_code for answer in answers} <= {400, 429} and answers[-1].status_code == 400
        after, peak = memory(server.process.pid)
        assert after < before + 30
        assert peak < 800
        assert sorted(took)[-2] < 0.5  # one may fall into a pause of the machine's
        assert post(server, picture()).status_code == 200


@linux
def test_memory_of_late_and_left_requests_is_given_back(tmp_path):
    content = black(5000, 4900)
    with remote(tmp_path, "--deadline", "1") as server:
        before, _ = memory(server.process.pid)
        with ThreadPoolExecutor(16) as pool:
            answers = list(pool.map(lambda _: post(server, content), range(16)))
        assert 504 in {answer.status_code for answer in answers}
        head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\nContent-Type: image/png\r\nContent-Length: {len(content)}\r\n\r\n".encode()
        for _ in range(16):
            with server.connect() as connection:
                connection.sendall(head + content)
        until(lambda: server.metric("nplrp_in_flight") == 1)
        until(lambda: memory(server.process.pid)[0] < before + 30)


JSON = "application/json"


@linux
@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b'{"instances":[' + b"1," * 4_900_000 + b"1]}", id="numbers"),
        pytest.param(b'{"instances":[' + b"[[[[]]]]," * 1_100_000 + b"[]]}", id="lists"),
        pytest.param(b'{"instances":[[[[' + b"[]," * 3_200_000 + b"[]]]]]}", id="lists in a pixel"),
        pytest.param(b'{"instances":[[[' + b"1," * 4_900_000 + b"1]]]}", id="numbers in a row"),
        pytest.param(b'{"instances":[[[[' + b"1," * 4_900_000 + b"1]]]]}", id="numbers in a pixel"),
        pytest.param(b'{"instances":[' + b'{"a":1},' * 1_200_000 + b"1]}", id="objects"),
        pytest.param(b'{"instances":[{"b64":"' + b"\\u0041" * 1_700_000 + b'"}]}', id="escapes"),
        pytest.param(b'{"instances":[{"b64":"' + b"A" * 10_000_000 + b'"}]}', id="a text"),
        pytest.param(b'{"instances":[1],"parameters":{"layers":[' + b'"a",' * 2_000_000 + b'"a"]}}', id="parameters"),
        pytest.param(b'{"instances":[1],"parameters":' + b'{"a":' * 1_500_000 + b"1}", id="nested parameters"),
        pytest.param(b"[" * 10_000_000, id="brackets"),
        pytest.param(b'{"instances":[' + b" " * 10_000_000 + b"1]}", id="spaces"),
        pytest.param(b'{"' + b"\\n" * 4_900_000 + b'":1}', id="a key"),
    ],
)
def test_10_mb_of_json_hold_nobody_up(json_server, content):
    """Python's reader kept all threads waiting, up to 11 s for two such bodies."""
    server = json_server
    before, _ = memory(server.process.pid)
    with watched(server) as took, ThreadPoolExecutor(2) as pool:
        answers = list(pool.map(lambda _: post(server, content, JSON), range(4)))
    assert {answer.status_code for answer in answers} == {400}
    assert sorted(took)[-2] < 0.5
    assert memory(server.process.pid)[0] < before + 40


@pytest.fixture(scope="module")
def json_server(tmp_path_factory):
    with remote(tmp_path_factory.mktemp("server")) as running:
        yield running


def test_tensors_of_any_form_are_read(server, model):
    x = np.random.default_rng(0).uniform(-100, 100, (2, *model.input_shape))
    expected = server.predict(x.tolist()).json()["predictions"]
    for indent, separators in ((None, (",", ":")), (4, None), (60, None), (None, ("," + " " * 200, ":"))):
        text = json.dumps({"parameters": {}, "instances": x.tolist()}, indent=indent, separators=separators)
        answer = server.request("POST", "/v1/models/m:predict", content=text, headers={"content-type": JSON})
        assert answer.json()["predictions"] == expected
    for tensor in (np.zeros((16, 16, 4)), np.zeros((16, 17, 3)), np.zeros((17, 16, 3)), np.zeros((16, 16, 3, 1))):
        refused(server.explain([tensor.tolist()]), "bad_instances")


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b'{"instances": [], "instances": []}', "bad_json"),
        (b'{"instances": [1]} 1', "bad_json"),
        (b'{"instances": [1],}', "bad_json"),
        (b'{"instances": [1 2]}', "bad_json"),
        (b'{"instances" [1]}', "bad_json"),
        (b"{instances: [1]}", "bad_json"),
        (b'{"instances": [{"b64": "AAAA", "b64": "AAAA"}]}', "bad_instances"),
        (b'{"instances": [{}]}', "bad_instances"),
        (b'{"instances": ["' + b"a" * 100_000 + b'"]}', "bad_json"),
        (b'{"instances": [1], "parameters": {"a": "' + b"a" * 300_000 + b'"}}', "bad_parameter"),
        (b'{"instances": [{"b64": "\xc3\xa4"}]}', "bad_instances"),
        (b'{"instances": [{"b64": "AA', "bad_json"),
        (b'{"instances": [[[[1, 2', "bad_json"),
    ],
)
def test_json_that_is_nearly_a_request(server, body, code):
    refused(server.request("POST", PATH, content=body, headers={"content-type": JSON}), code)


# Exceptions


class Held:
    """What a frame may hold."""


@pytest.mark.parametrize("error", [Problem("bad_image", "it is bad, and no good"), ZeroDivisionError("secret"), MemoryError(), KeyError(1)])
def test_a_failed_decoders_locals_are_gone_with_its_answer(model, monkeypatch, error):
    """Without the cyclic collector: an exception that a frame keeps keeps the frame, and its arrays."""
    alive = []

    def fails(*_):
        image = Held()
        alive.append(weakref.ref(image))
        try:
            raise LookupError
        except LookupError:
            raise error  # noqa: B904

    monkeypatch.setattr(bodies, "_decoded", fails)
    _fails(model, alive, lambda server: server.explain(picture()).status_code in (400, 500))


@pytest.mark.parametrize("error", [NumericsError("it is infinite"), ZeroDivisionError("secret"), MemoryError()])
@pytest.mark.parametrize("inside", [True, False])
def test_a_failed_computations_locals_are_gone_with_its_answer(model, error, inside):
    alive = []

    def fails(*_):
        array = Held()
        alive.append(weakref.ref(array))
        raise error

    def ask(server):
        setattr(server.service.engine, "_explain" if inside else "compute", fails)
        return server.explain(picture()).status_code in (400, 500)

    _fails(model, alive, ask)


def test_bodies_that_are_refused_are_gone_with_the_answer(model, monkeypatch):
    alive, inner = [], bodies.Body.__init__

    def kept(body, *given, **options):
        alive.append(weakref.ref(body))
        inner(body, *given, **options)

    monkeypatch.setattr(bodies.Body, "__init__", kept)
    _fails(model, alive, lambda server: server.explain(b"\x89PNG nothing").status_code == 400)
    _fails(model, alive, lambda server: server.explain(picture(), {"target": "wolf"}).status_code == 400)
    _fails(model, alive, lambda server: server.explain([b64(picture())] * 17).status_code == 400)


def _fails(model, alive, ask):
    with local(model) as server:
        gc.collect()
        gc.disable()
        try:
            assert ask(server)
            until(lambda: server.service.lane._running == 0)
            assert alive and not [ref for ref in alive if ref() is not None]
            assert server.service.budget.held == 0
        finally:
            gc.enable()


# The budget


def test_a_budget_is_shared():
    budget = Budget(100)
    one, two = budget.share(), budget.share()
    one.take(60)
    two.take(40)
    for each in (one, two):
        with pytest.raises(Problem, match="--max-memory"):
            each.take(1)
    one.give(10)
    two.take(10)
    one.close()
    two.take(1000)  # alone
    with pytest.raises(Problem, match="--max-memory"):
        one.take(1)
    two.close()
    assert budget.held == one.held == two.held == 0


def test_a_closed_share_takes_nothing_more():
    """A decoder goes on after the deadline's answer, and ends by itself."""
    budget = Budget(100)
    share = budget.share()
    share.take(10)
    with share.room(50, time.monotonic() + 60):
        share.close()
        assert budget.held == 50
        for again in (lambda: share.take(1), lambda: share.room(1, time.monotonic() + 60).__enter__()):
            with pytest.raises(Problem) as caught:
                again()
            assert caught.value.code == "deadline"
    assert budget.held == share.held == budget.decoding == 0


def test_late_requests_give_their_memory_back_once(model, monkeypatch):
    inner = bodies.load_pixels

    def slow(*given, room, **options):
        with room(1000):
            time.sleep(0.3)
        return inner(*given, room=room, **options)

    monkeypatch.setattr(bodies, "load_pixels", slow)
    with local(model, deadline=0.2, decoders=2) as server:
        futures = [later(server) for _ in range(6)]
        assert {each.result(60).status_code for each in futures} == {504}
        until(lambda: not server.service.at_work)
        assert server.service.budget.held == server.service.budget.decoding == 0


def test_decoders_wait_for_each_other_and_not_for_others():
    budget = Budget(100)
    one, two, other = (budget.share() for _ in range(3))
    begun, go = threading.Event(), threading.Event()

    def decode():
        with one.room(80, time.monotonic() + 60):
            begun.set()
            go.wait(60)

    def wait():
        with two.room(80, time.monotonic() + 60):
            return budget.held

    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(decode)
        begun.wait(60)
        with pytest.raises(Problem) as caught, two.room(80, time.monotonic() + 0.05):
            pass
        assert caught.value.code == "deadline"
        second = pool.submit(wait)
        go.set()
        assert first.result() is None and second.result() == 80
    other.take(50)
    with pytest.raises(Problem) as caught, two.room(80, time.monotonic() + 60):
        pass
    assert caught.value.code == "queue_full" and budget.held == 50


def test_too_much_memory_is_refused_and_one_is_let_through(model, monkeypatch):
    body = {"instances": [b64(picture())]}
    with local(model, max_memory=5000, decoders=2) as server:
        assert server.explain(picture()).status_code == 200  # alone, whatever it takes
        go, inner, at_work = threading.Event(), bodies._decoded, threading.Event()
        monkeypatch.setattr(bodies, "_decoded", lambda *given: (at_work.set(), go.wait(60), inner(*given))[2])
        first = later(server)
        until(at_work.is_set)
        answer = server.request("POST", PATH, json=body)
        assert "--max-memory" in refused(answer, "queue_full")
        go.set()
        assert first.result(60).status_code == 200
        until(lambda: server.service.budget.held == 0)
        assert server.request("POST", PATH, json=body).status_code == 200
        assert server.service.budget.held == 0


@linux
def test_max_memory_holds_whatever_arrives(tmp_path):
    """Good pictures too: each of the 16 decoders would take 190 MB."""
    content = black(5000, 5000)
    with remote(tmp_path, "--decoders", "16", "--max-memory", "300M", "--deadline", "1000") as server:
        _, before = memory(server.process.pid)
        with watched(server) as took, ThreadPoolExecutor(32) as pool:
            answers = list(pool.map(lambda _: post(server, content), range(64)))
        _, peak = memory(server.process.pid)
    assert {answer.status_code for answer in answers} <= {200, 429} and answers[-1].status_code == 200
    assert peak < before + 300
    assert sorted(took)[-2] < 0.5


def test_an_answers_memory_is_counted_before_it_is_computed(model):
    """And given back when it is sent."""
    with local(model, max_memory=200_000, max_answers=1 << 30) as server:
        seen, inner = [], server.service.engine.compute
        server.service.engine.compute = lambda jobs: (seen.append(server.service.budget.held), inner(jobs))[1]
        assert server.explain(picture(), {"layers": "input,block1_conv1", "ledger": "false"}).status_code == 200
        assert seen[0] > 2 * 6 * 16 * 16 * 3
        assert server.service.budget.held == 0


def test_a_client_that_leaves_gives_its_memory_back(model):
    with local(model) as server:
        task = asyncio.run_coroutine_threadsafe(server.http.post(PATH, json={"instances": [b64(picture())] * 16}), server.loop)
        until(lambda: server.service.budget.held)
        task.cancel()
        until(lambda: not server.service.budget.held)


def test_a_side_too_long(model):
    with local(model, max_side=50) as server:
        assert server.explain(picture(height=40, width=50)).status_code == 200
        assert "longest side may be 50" in refused(server.explain(picture(height=40, width=51)), "bad_image")
        assert "longest side may be 50" in refused(server.explain(picture(height=51, width=40)), "bad_image")


def test_pieces_beside_the_pixels_are_counted(server):
    content = picture()
    profile = chunk(b"iCCP", b"k\0\0" + zlib.compress(bytes(1_000_000)))
    begun = time.monotonic()
    assert "compressed PNG chunks" in refused(server.explain([b64(content[:33] + profile * 1000 + content[33:])]), "bad_image")
    jpeg = picture(form="JPEG")
    assert "JPEG segments" in refused(server.explain([b64(jpeg[:2] + b"\xff\xfe\0\2" * 100_000 + jpeg[2:])]), "bad_image")
    assert time.monotonic() - begun < 3
