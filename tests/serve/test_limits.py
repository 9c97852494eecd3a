"""Every limit and every answer that isn't 200, each met on purpose."""

import asyncio
import base64
import dataclasses
import io
import json
import re
import struct
import threading
import time
import zlib
from contextlib import ExitStack, contextmanager
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nplrp import containers
from nplrp.serve import answers, bodies
from nplrp.serve.app import Pieces
from nplrp.serve.problems import CODES, Problem, ServeError, problem_of
from nplrp.serve.settings import Settings, flag_name
from tests.serve.servers import Local, local, picture

PATH = "/v1/models/m:explain"


def refused(answer, code):
    """Check an error's status, body and headers."""
    assert answer.status_code == CODES[code][0], answer.text
    body = answer.json()
    assert set(body) == {"error", "code", "request_id"}
    assert body["code"] == code
    assert body["request_id"] == answer.headers["x-request-id"]
    assert "Traceback" not in body["error"] and 10 < len(body["error"]) < 2000
    assert ("retry-after" in answer.headers) == (answer.status_code == 429 or code in ("not_ready", "draining", "too_many_connections"))
    return body["error"]


def b64(content):
    return {"b64": base64.b64encode(content).decode()}


@contextmanager
def held(server):
    """Hold up the lane until the block ends; yields an event that says that it is busy."""
    compute, busy, go = server.service.engine.compute, threading.Event(), threading.Event()

    def wait(jobs):
        busy.set()
        assert go.wait(60)
        return compute(jobs)

    server.service.engine.compute = wait
    try:
        yield busy
    finally:
        go.set()
        server.service.engine.compute = compute


def later(server, content=None):
    """Begin a request, and return its future."""
    headers = {"content-type": "image/png"}
    return asyncio.run_coroutine_threadsafe(server.http.post(PATH, content=content or picture(), headers=headers), server.loop)


def until(condition):
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("body", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"\xff\xfe{}", "bad_json"),
        (b"[]", "bad_json"),
        (b'{"instances": [NaN]}', "bad_json"),
        (b'{"instances": [-Infinity]}', "bad_json"),
        (b'{"instances": [' + b"9" * 5000 + b"]}", "bad_json"),
        (b'{"instances": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "bad_json"),
        (b'{"a":' * 100_000 + b"1" + b"}" * 100_000, "bad_json"),
        (b'{"instances": [1], "more": 1}', "bad_json"),
        (b"{}", "bad_instances"),
        (b'{"instances": {}}', "bad_instances"),
        (b'{"instances": []}', "bad_instances"),
        (b'{"instances": [1]}', "bad_instances"),
        (b'{"instances": [null]}', "bad_instances"),
        (b'{"instances": ["text"]}', "bad_instances"),
        (b'{"instances": [[[[true]]]]}', "bad_instances"),
        (b'{"instances": [[[1, 2], [3]]]}', "bad_instances"),
        (b'{"instances": [[[[1' + b"0" * 400 + b"]]]]}", "bad_instances"),
        (b'{"instances": [' + b"[" * 60 + b"1" + b"]" * 60 + b"]}", "bad_instances"),
        (b'{"instances": [' + b"[" * 90 + b"1" + b"]" * 90 + b"]}", "bad_instances"),
        (b'{"instances": [{"b64": 1}]}', "bad_instances"),
        (b'{"instances": [{"b64": "!"}]}', "bad_instances"),
        (b'{"instances": [{"b64": "AAAA", "url": "http://example.com/x.png"}]}', "bad_instances"),
        (b'{"instances": [{"url": "file:///etc/passwd"}]}', "bad_instances"),
        (b'{"instances": [{"b64": "AAAA"}]}', "bad_image"),
        (b'{"instances": [{"b64": "AAAA"}], "parameters": []}', "bad_parameter"),
    ],
)
def test_bodies_that_are_no_requests(server, body, code):
    refused(server.request("POST", PATH, content=body, headers={"content-type": "application/json"}), code)


def test_wrong_shapes_and_numbers_beyond_float32(server):
    refused(server.explain([np.zeros((16, 16, 1)).tolist()]), "bad_instances")
    refused(server.explain([np.zeros((15, 16, 3)).tolist()]), "bad_instances")
    tensor = np.zeros((16, 16, 3))
    tensor[3, 4, 1] = 1e300
    assert "[3, 4, 1]" in refused(server.explain([tensor.tolist()]), "not_finite")
    text = json.dumps({"instances": [np.zeros((16, 16, 3)).tolist()]}).replace("0.0", "1e999", 1)
    refused(server.request("POST", PATH, content=text, headers={"content-type": "application/json"}), "not_finite")
    mixed = tensor.tolist()
    mixed[0][0][0] = True
    refused(server.explain([mixed]), "bad_instances")
    tensor[:] = 3e38  # finite, but what is computed from it isn't
    refused(server.explain([tensor.tolist()]), "not_finite")


@pytest.mark.parametrize(
    ("parameters", "code"),
    [
        ({"nonsense": 1}, "bad_parameter"),
        ({"composite": 1}, "bad_parameter"),
        ({"composite": ""}, "bad_parameter"),
        ({"composite": "x" * 10_000}, "bad_parameter"),
        ({"composite": None}, "bad_parameter"),
        ({"composite": "nonsense"}, "bad_rule"),
        ({"composite": "/etc/passwd.toml"}, "bad_rule"),
        ({"composite": "zplus.toml"}, "bad_rule"),
        ({"composite": "zplus(x).toml"}, "bad_rule"),
        ({"composite": {"base": "/etc/passwd.toml"}}, "bad_parameter"),
        ({"composite": "gamma(gamma=-1)"}, "bad_rule"),
        ({"composite": "gamma(gamma=" + "(" * 250 + ")"}, "bad_rule"),
        ({"composite": "gamma(gamma=" + "-" * 250 + "1)"}, "bad_rule"),
        ({"composite": "gamma(gamma=9**9**9)"}, "bad_rule"),
        ({"composite": "gamma(gamma=__import__('os'))"}, "bad_rule"),
        ({"composite": "gamma(nonsense=1)"}, "bad_rule"),
        ({"composite": "zbox(low=(1,2), high=(3,4))"}, "bad_rule"),
        ({"dialect": "nonsense"}, "bad_rule"),
        ({"target": 5}, "bad_target"),
        ({"target": -1}, "bad_target"),
        ({"target": "wolf"}, "bad_target"),
        ({"target": "top-0"}, "bad_target"),
        ({"target": "top-6"}, "bad_target"),
        ({"target": "top-²"}, "bad_target"),
        ({"target": 10**400}, "bad_target"),  # Python writes and reads 400 digits
        ({"target": 1.5}, "bad_parameter"),
        ({"target": True}, "bad_parameter"),
        ({"target": []}, "bad_parameter"),
        ({"target": [[1]]}, "bad_parameter"),
        ({"target": [1, 2]}, "bad_target"),
        ({"start": "nonsense"}, "bad_parameter"),
        ({"start": [1.0]}, "bad_parameter"),
        ({"layers": []}, "bad_parameter"),
        ({"layers": "input"}, "bad_parameter"),
        ({"layers": ["../input"]}, "bad_parameter"),
        ({"encoding": "xml"}, "bad_parameter"),
        ({"encoding": "png", "layers": ["fc1"]}, "bad_parameter"),
        ({"ledger": 1}, "bad_parameter"),
        ({"top": -1}, "bad_parameter"),
        ({"top": 1.0}, "bad_parameter"),
        ({"dtype": "float16"}, "bad_parameter"),
        ({"dtype": "float64"}, "bad_parameter"),
        ({"algorithm": "fast"}, "bad_parameter"),
        ({"picture": "gif"}, "bad_parameter"),
        ({"cmap": "nonsense"}, "bad_parameter"),
        ({"cmap": 3}, "bad_parameter"),
        ({"cmap": {}}, "bad_parameter"),
        ({"resample": "nonsense"}, "bad_parameter"),
        ({"crop": "true"}, "bad_parameter"),
    ],
)
def test_parameters_that_nothing_has(server, parameters, code):
    refused(server.explain([b64(picture())], parameters), code)


def test_parameters_that_are_given_twice_or_elsewhere(server):
    answer = server.request("POST", PATH + "?top=1", json={"instances": [b64(picture())], "parameters": {"top": 2}})
    assert len(answer.json()["predictions"][0]["labels"]) == 2  # the body's
    refused(server.explain(picture(), [("top", "1"), ("top", "2")]), "bad_parameter")
    refused(server.predict([b64(picture())], {"composite": "zplus"}), "bad_parameter")
    refused(server.explain(picture(), {"top": "many"}), "bad_parameter")
    refused(server.explain(picture(), {"top": "9" * 5000}), "bad_parameter")
    refused(server.explain(picture(), {"target": "9" * 5000}), "bad_target")
    refused(server.explain(picture(), {"ledger": "perhaps"}), "bad_parameter")
    assert server.request("POST", PATH + "?top=1", json={"instances": [b64(picture())]}).status_code == 200


def test_pictures_of_several_maps_or_layers_are_refused(server):
    png = {"accept": "image/png"}
    refused(server.explain([b64(picture())] * 2, headers=png), "bad_parameter")
    refused(server.explain(picture(), {"target": "top-2", "composite": "zplus"}, headers=png), "bad_parameter")
    refused(server.explain(picture(), {"layers": "input,block1_pool"}, headers=png), "bad_parameter")
    refused(server.explain(picture(), {"layers": "fc1"}, headers=png), "bad_parameter")
    refused(server.explain(picture(), {"layers": "input,fc1"}, headers={"accept": "application/x-npy"}), "bad_parameter")


def chunk(kind, data):
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png_of_size(width, height, data=b""):
    """A PNG whose header promises so many pixels."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", data or zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def other(form, **options):
    file = io.BytesIO()
    Image.new("RGB", (8, 8)).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"", id="empty"),
        pytest.param(b"\x89PNG\r\n\x1a\n", id="signature"),
        pytest.param(picture()[:-300], id="truncated PNG"),
        pytest.param(picture(form="JPEG")[:300], id="truncated JPEG"),
        pytest.param(picture()[:100] + b"\0" * 100 + picture()[200:], id="damaged"),
        pytest.param(png_of_size(5001, 5000), id="over the limit of pixels"),
        pytest.param(png_of_size(2**31 - 1, 2**31 - 1), id="bomb by header"),
        pytest.param(png_of_size(4000, 4000), id="promises more than it has"),
        pytest.param(png_of_size(0, 10), id="no pixels"),
        pytest.param(other("GIF"), id="GIF"),
        pytest.param(other("TIFF"), id="TIFF"),
        pytest.param(other("BMP"), id="BMP"),
        pytest.param(other("PNG", save_all=True, append_images=[Image.new("RGB", (8, 8), 1)]), id="animation"),
        pytest.param(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", id="EPS"),
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="SVG"),
    ],
)
def test_images_that_are_none(server, content):
    refused(server.explain([b64(content)]), "bad_image")


def test_a_bomb_in_a_text_chunk(server):
    bomb = chunk(b"zTXt", b"k\0\0" + zlib.compress(b"a" * 200_000_000))
    content = picture()
    refused(server.explain([b64(content[:33] + bomb + content[33:])]), "bad_image")


def test_pixels_are_counted_by_the_header_before_anything_is_decoded(server):
    begun = time.monotonic()
    assert "megapixels" in refused(server.explain([b64(png_of_size(8000, 8000))]), "bad_image")
    assert time.monotonic() - begun < 5


def test_the_limit_of_pixels_can_be_set(model):
    with local(model, max_pixels=2000) as server:
        assert server.explain(picture(height=40, width=50)).status_code == 200
        assert "megapixels" in refused(server.explain(picture(height=41, width=50)), "bad_image")


def jpeg(**options):
    """A JPEG of 48 x 64 pixels."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (48, 64, 3), np.uint8)).save(file, "JPEG", **options)
    return file.getvalue()


def with_scans(content, n, between=b""):
    """Repeat a JPEG's last scan without its numbers: ten bytes are a pass over the whole image."""
    start = content.rindex(b"\xff\xda")
    return content[:-2] + between + content[start : start + 2 + content[start + 3]] * n + b"\xff\xd9"


def segment(marker, data):
    return b"\xff" + marker + struct.pack(">H", len(data) + 2) + data


def exif_with_a_thumbnail(thumbnail):
    """The APP1 that cameras write: its second directory has the offset and the length of a JPEG."""
    tiff = b"MM\0*" + struct.pack(">IHI", 8, 0, 14)
    entries = struct.pack(">HHHIIHHIII", 2, 0x201, 4, 1, 44, 0x202, 4, 1, len(thumbnail), 0)
    return segment(b"\xe1", b"Exif\0\0" + tiff + entries + thumbnail)


def test_scans_of_a_jpeg(model):
    progressive = jpeg(progressive=True)
    assert progressive.count(b"\xff\xda") == 10
    with local(model, max_scans=12) as server:
        for content in (jpeg(), progressive, with_scans(progressive, 2)):
            assert server.explain(content).status_code == 200
        for content in (with_scans(progressive, 3), with_scans(jpeg(), 12), with_scans(progressive, 500_000)):
            begun = time.monotonic()
            assert "--max-scans" in refused(server.explain([b64(content)]), "bad_image")
            assert time.monotonic() - begun < 5


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(jpeg(progressive=True), id="progressive"),
        pytest.param(jpeg(progressive=True, restart_marker_blocks=1), id="restart markers"),
        pytest.param(jpeg().replace(b"\xff\xda", b"\xff\xff\xff\xda"), id="fill bytes"),
        pytest.param(jpeg(progressive=True, icc_profile=b"\xff\xda\0\2" * 40_000), id="a profile"),
        pytest.param(jpeg(comment=b"\xff\xda" * 300), id="a comment"),
        pytest.param(jpeg()[:2] + exif_with_a_thumbnail(with_scans(jpeg(progressive=True), 30)) + jpeg()[2:], id="a thumbnail"),
        pytest.param(jpeg() + jpeg(progressive=True) * 30, id="previews behind its end"),
    ],
)
def test_scans_that_are_none_of_the_images(content):
    """What looks like scans, but isn't the image's own, is no reason to refuse it; Pillow agrees that it is a good image."""
    assert np.asarray(Image.open(io.BytesIO(content))).shape == (48, 64, 3)
    assert not containers.has_many_scans(content, 10)
    count = 0
    while containers.has_many_scans(content, count):
        count += 1
    assert count == (10 if Image.open(io.BytesIO(content)).info.get("progressive") else 1)


@pytest.mark.parametrize(
    "between",
    [
        pytest.param(b"\xff" * 20, id="fill bytes"),
        pytest.param(b"\xff\x02\xff\xff", id="a reserved marker"),
        pytest.param(b"\xff\x01\xff\xff", id="a marker without a length"),
        pytest.param(b"\xff\xd0\xff\xff", id="a restart marker"),
        pytest.param(b"\xff\0\xff\xff", id="numbers"),
        pytest.param(segment(b"\xfe", b""), id="an empty comment"),
        pytest.param(b"\xff\xfe\0\0", id="a comment of an impossible length"),
        pytest.param(segment(b"\xfe", b"x") * 6000, id="thousands of segments"),
    ],
)
def test_scans_cant_be_hidden(between):
    assert containers.has_many_scans(with_scans(jpeg(), 200, between), 100)


def test_unknown_paths_models_and_methods(server):
    for path in ("/nope", "/v1/models/", "/v1", "/v2/models/m/infer", "/../etc/passwd", "/page/../settings.py"):
        refused(server.get(path), "not_found")
    refused(server.request("POST", "/nope"), "not_found")
    for name in ("x", "M", "m%00", "m m", "...", "m.h5", "m:explain"):
        answer = server.request("POST", f"/v1/models/{name}:explain", content=picture(), headers={"content-type": "image/png"})
        assert answer.status_code == 404
        assert server.get(f"/v1/models/{name}").status_code == (405 if name == "m:explain" else 404)
        assert server.get(f"/v2/models/{name}").status_code == 404
    refused(server.request("POST", "/v1/models/x:explain", content=b""), "no_model")
    refused(server.get("/v2/models/x/ready"), "no_model")
    for name in ("../m", "..%2fm", "%2fetc%2fpasswd", "a/b"):
        refused(server.request("POST", f"/v1/models/{name}:explain", content=b""), "not_found")
    for method, path, allowed in (
        ("GET", PATH, "POST"),
        ("PUT", PATH, "POST"),
        ("POST", "/v1/models", "GET, HEAD"),
        ("DELETE", "/", "GET, HEAD"),
    ):
        answer = server.request(method, path)
        refused(answer, "method_not_allowed")
        assert set(answer.headers["allow"].split(", ")) == set(allowed.split(", "))


@pytest.mark.parametrize(
    "headers",
    [
        {"content-type": "text/plain"},
        {"content-type": ""},
        {"content-type": "application/jsonx"},
        {"content-type": "image/gif"},
        {"content-type": "application/json", "content-encoding": "gzip"},
        [("content-type", "application/json"), ("content-encoding", "identity"), ("content-encoding", "gzip")],
        [("content-type", "application/json"), ("content-type", "image/png")],
    ],
)
def test_types_that_arent_understood(server, headers):
    refused(server.request("POST", PATH, content=b"{}", headers=headers), "unsupported_type")


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "multipart/form-data"),
        (b"", "multipart/form-data; boundary=" + "x" * 300),
        (b"nonsense", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\nhalf', "multipart/form-data; boundary=x"),
        (b"--x\r\nContent-Disposition: form-data\r\n\r\n1\r\n--x--\r\n", "multipart/form-data; boundary=x"),
        (b'--x\r\nContent-Disposition: form-data; name="top"\r\n\r\n1\r\n' * 2 + b"--x--\r\n", "multipart/form-data; boundary=x"),
        (
            b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\n1\r\n' * 30 + b"--x--\r\n",
            "multipart/form-data; boundary=x",
        ),
    ],
)
def test_forms_that_are_none(server, content, kind):
    refused(server.request("POST", PATH, content=content, headers={"content-type": kind}), "bad_form")


def test_forms_without_files_or_with_too_many(server):
    kind = {"content-type": "multipart/form-data; boundary=x"}
    refused(server.request("POST", PATH, content=b"--x--\r\n", headers=kind), "bad_instances")
    refused(server.request("POST", PATH, files=[("image", ("x", b"1", "image/png"))] * 17), "bad_instances")


def test_bodies_too_long(model):
    with local(model, max_body=10_000) as server:
        assert server.explain(picture()).status_code == 200
        refused(server.explain(picture(height=100, width=100)), "body_too_large")

        async def endless():
            yield b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\n'
            while True:
                yield b"a" * 4096

        headers = {"content-type": "application/json", "transfer-encoding": "chunked"}
        refused(server.request("POST", PATH, content=endless(), headers=headers), "body_too_large")
        form = {"content-type": "multipart/form-data; boundary=x"}
        refused(server.request("POST", PATH, content=endless(), headers=form), "body_too_large")
        assert server.service._buffered == 0


def test_too_many_bodies_at_once(model):
    with local(model, max_buffered=20_000) as server:
        with held(server) as busy:
            first = [later(server) for _ in range(2)]
            until(busy.is_set)
            until(lambda: server.service._buffered > 12_000)
            assert "--max-buffered" in refused(server.explain(picture(height=60, width=60)), "queue_full")
        for each in first:
            assert each.result(60).status_code == 200
        assert server.service._buffered == 0
        assert server.explain(picture()).status_code == 200


def test_too_many_instances_maps_and_bytes(model):
    with local(model, max_instances=3, max_maps=4, max_response=40_000) as server:
        assert server.explain([b64(picture())] * 3).status_code == 200
        refused(server.explain([b64(picture())] * 4), "bad_instances")
        files = [("image", ("x", picture(), "image/png"))] * 4
        refused(server.request("POST", PATH, files=files), "bad_instances")
        assert "6 maps" in refused(server.explain([b64(picture())] * 3, {"target": "top-2"}), "too_large")
        assert "MB" in refused(
            server.explain([b64(picture())], {"encoding": "list", "layers": ["input", "block1_conv1", "block1_conv2"]}), "too_large"
        )
        assert server.explain([b64(picture())], {"encoding": "list"}).status_code == 200


SIZE = 16 * 16 * 3 * 6  # an answer's bytes by the estimate: one map, base64


def test_too_many_answers_at_once(model):
    with local(model, max_answers=2 * SIZE, batch=1) as server:
        with held(server) as busy:
            futures = [later(server)]
            until(busy.is_set)
            futures += [later(server)]
            until(lambda: server.service._held == 2 * SIZE)
            answer = server.explain(picture())
            assert "--max-answers" in refused(answer, "queue_full")
            assert int(answer.headers["retry-after"]) >= 1
            prediction = asyncio.run_coroutine_threadsafe(
                server.http.post("/v1/models/m:predict", content=picture(), headers={"content-type": "image/png"}), server.loop
            )
            until(lambda: server.service.lane.depth == 2)
        assert [each.result(60).status_code for each in [*futures, prediction]] == [200, 200, 200]
        assert server.service._held == 0
        assert server.explain([b64(picture())] * 3).status_code == 200  # one is let through, however large
        assert server.service._held == 0


def test_answers_that_are_never_sent_are_let_go(model):
    with local(model, batch=1, deadline=1.0) as server, held(server) as busy:
        first, second = later(server), None
        until(busy.is_set)
        second = later(server)
        until(lambda: server.service._held == 2 * SIZE)
        second.cancel()  # its client has gone
        until(lambda: server.service._held == SIZE)
        refused(first.result(60), "deadline")
        assert server.service._held == 0
    with local(model) as server:
        engine = server.service.engine
        refused(server.explain([np.full((16, 16, 3), 3e38).tolist()]), "not_finite")
        compute, engine.compute = engine.compute, lambda jobs: 1 / 0
        refused(server.explain(picture()), "internal")
        engine.compute = compute
        inner, answers.as_json = answers.as_json, lambda *_: 1 / 0
        try:
            refused(server.explain(picture()), "internal")
        finally:
            answers.as_json = inner
        refused(server.explain(picture(), {"layers": "input,fc1"}, headers={"accept": "application/x-npy"}), "bad_parameter")
        assert server.explain(picture()).status_code == 200
        assert server.service._held == server.service._buffered == 0


@pytest.mark.parametrize("error", [OSError, asyncio.CancelledError])
def test_an_answer_that_breaks_off_is_let_go(error):
    pieces, let_go = [], ExitStack()

    async def send(message):
        pieces.append(message)
        if len(pieces) == 3:
            raise error

    let_go.callback(pieces.append, "let go")
    with pytest.raises(error):
        asyncio.run(Pieces(bytes(10**6), answers.JSON, let_go)({}, None, send))
    assert len(pieces) == 4 and pieces[-1] == "let go"


def test_a_full_queue(model):
    with local(model, queue=2, batch=1) as server:
        with held(server) as busy:
            futures = [later(server)]
            until(busy.is_set)
            futures += [later(server) for _ in range(2)]
            until(lambda: server.service.lane.depth == 2)
            answer = server.explain(picture())
            refused(answer, "queue_full")
            assert 1 <= int(answer.headers["retry-after"]) <= 60
            assert server.get("/v2/health/ready").status_code == 200
        assert [each.result(60).status_code for each in futures] == [200, 200, 200]


def test_who_would_wait_beyond_the_deadline_is_told_so_before_anything_is_read(model):
    with local(model, deadline=1000, batch=1) as server:
        server.service.lane._mean = 300.0
        with held(server) as busy:
            futures = [later(server)]
            until(busy.is_set)
            futures += [later(server) for _ in range(2)]
            until(lambda: server.service.lane.depth == 2)
            answer = server.explain(b"no image at all")
            assert "--deadline" in refused(answer, "queue_full")
            assert answer.headers["retry-after"] == "900"
        assert [each.result(60).status_code for each in futures] == [200, 200, 200]
        until(lambda: server.service.lane.estimate() == 0)


def test_a_request_past_its_deadline_is_answered_and_never_computed(model):
    with local(model, deadline=0.5, batch=1) as server:
        computed = []
        inner = server.service.engine.compute
        server.service.engine.compute = lambda jobs: (computed.extend(jobs), inner(jobs))[1]
        with held(server) as busy:
            first, second = later(server), None
            until(busy.is_set)
            second = later(server)
            for each in (first, second):
                refused(each.result(60), "deadline")
            assert server.service.lane.depth == 0  # its place is free at once
        until(lambda: server.service.lane._running == 0)
        assert len(computed) == 1
        assert not computed[0].wanted()  # so that it stopped before its first image
        assert server.explain(picture()).status_code == 200


def test_a_deadline_ends_a_request_between_two_images(model):
    with local(model, batch=1) as server:
        seen = []
        inner = server.service.engine._explain
        server.service.engine._explain = lambda inputs, places: (seen.append(places), server.futures[0].cancel(), inner(inputs, places))[2]
        body = {"instances": [b64(picture())] * 5}
        server.futures = [asyncio.run_coroutine_threadsafe(server.http.post(PATH, json=body), server.loop)]
        until(lambda: seen and server.service.lane._running == 0)
        assert len(seen) < 5


def test_nothing_is_decoded_past_its_deadline(model, monkeypatch):
    """Nor does what waits for the decoders, so that the next request finds them free."""
    decoded, inner = [], bodies._decoded

    def slow(data, *rest):
        decoded.append(data)
        time.sleep(0.3)
        return inner(data, *rest)

    monkeypatch.setattr(bodies, "_decoded", slow)
    with local(model, decoders=1, deadline=0.5) as server:
        body = {"instances": [b64(picture())] * 16}
        first = asyncio.run_coroutine_threadsafe(server.http.post(PATH, json=body), server.loop)
        until(lambda: decoded)
        assert len(server.service.at_work) == 1
        second = later(server, picture(1))
        for each in (first, second):
            refused(each.result(60), "deadline")
        until(lambda: not server.service.at_work)
        assert len(decoded) <= 3 and picture(1) not in decoded
        monkeypatch.setattr(bodies, "_decoded", inner)
        assert server.explain(picture()).status_code == 200
        assert server.service._buffered == 0


def test_no_answer_is_written_past_its_deadline(model):
    with local(model) as server:
        kept, inner = [], answers.as_json
        answers.as_json = lambda *given: (kept.append(given), inner(*given))[1]
        try:
            assert server.explain(picture(), {"encoding": "list"}).status_code == 200
        finally:
            answers.as_json = inner
        *given, deadline = kept[0]
        assert deadline > time.monotonic()
        with pytest.raises(Problem) as caught:
            inner(*given, time.monotonic())
        assert caught.value.code == "deadline"


@pytest.mark.parametrize("decoders", [1, 3])
def test_the_rest_answers_while_all_decoders_are_at_work(model, monkeypatch, decoders):
    go, inner = threading.Event(), bodies._decoded
    monkeypatch.setattr(bodies, "_decoded", lambda *given: (go.wait(60), inner(*given))[1])
    with local(model, decoders=decoders) as server:
        futures = [later(server) for _ in range(decoders + 1)]
        until(lambda: server.service._buffered == len(futures) * len(picture()))
        until(lambda: len(server.service.at_work) == decoders)
        for path in ("/", "/style.css", "/metrics", "/v1/info", "/v2/health/ready"):
            assert server.get(path).status_code == 200
        assert len(server.service.at_work) == decoders
        go.set()
        assert all(each.result(60).status_code == 200 for each in futures)


def test_a_client_that_has_gone_leaves_the_queue(model):
    with local(model, batch=1) as server:
        with held(server) as busy:
            first = later(server)
            until(busy.is_set)
            second = later(server)
            until(lambda: server.service.lane.depth == 1)
            second.cancel()
            until(lambda: server.service.lane.depth == 0)
        assert first.result(60).status_code == 200


def test_slow_bodies(model):
    with local(model, body_timeout=0.2) as server:

        async def slow():
            yield b'--x\r\nContent-Disposition: form-data; name="a"; filename="f"\r\n\r\n'
            while True:
                yield b"a"
                await asyncio.sleep(0.05)

        for kind in ("image/png", "multipart/form-data; boundary=x"):
            refused(server.request("POST", PATH, content=slow(), headers={"content-type": kind}), "slow_request")
        assert server.service._buffered == 0


def test_before_and_after_it_is_ready(model):
    server = Local(model)
    try:
        server.wait()
        for state, code in (("starting", "not_ready"), ("draining", "draining")):
            server.service.state = state
            refused(server.get("/v2/health/ready"), code)
            refused(server.get("/v2/models/m/ready"), code)
            refused(server.explain(picture()), code)
            assert server.get("/v2/health/live").status_code == 200
            assert server.get("/v1/models/m").json()["ready"] is False
    finally:
        server.close()


def test_a_defect_is_a_500_without_a_traceback(model, caplog):
    with local(model) as server:
        inner = server.service.engine.compute

        def broken(jobs):
            raise ZeroDivisionError("secret")

        server.service.engine.compute = broken
        with caplog.at_level("ERROR", "nplrp.serve"):
            message = refused(server.explain(picture()), "internal")
        assert "secret" not in message
        assert any("secret" in str(record.exc_info) for record in caplog.records)
        server.service.engine.compute = inner
        assert server.explain(picture()).status_code == 200


def test_memory_that_runs_out_is_one_requests_problem(model):
    with local(model) as server:
        inner = server.service.engine._explain

        def greedy(inputs, places):
            raise MemoryError

        server.service.engine._explain = greedy
        refused(server.explain(picture()), "internal")
        server.service.engine._explain = inner
        assert server.explain(picture()).status_code == 200


def test_prepared_weights_dont_grow_without_bound(model):
    with local(model, max_prepared=50_000) as server:
        for i in range(30):
            assert server.explain(picture(), {"composite": f"gamma(gamma={i})", "ledger": "false"}).status_code == 200
            assert server.service.engine.prepared_bytes() <= 50_000
        plans = list(server.service.model.kept.plans)
        assert len(plans) <= 201


def test_float64_where_it_is_served(model):
    import nplrp
    from nplrp.serve.answers import digest

    with local(model, dtypes=("float32", "float64")) as server:
        found = server.explain(picture(), {"composite": "zplus", "dtype": "float64"}).json()["explanations"][0]
        x = nplrp.preprocess(io.BytesIO(picture()), model)
        assert found["sha256"] == digest(nplrp.explain(model, x, "zplus", dtype="float64").relevance[0])
        assert found["relevance"]["input"]["dtype"] == "float64"


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"queue": 0}, "--queue 0: out of range"),
        ({"max_pixels": 10**9}, "--max-pixels"),
        ({"port": 70_000}, "--port"),
        ({"deadline": 0.0}, "--deadline"),
        ({"name": "../m"}, "--name"),
        ({"name": "a b"}, "--name"),
        ({"sha256": "abc"}, "--sha256"),
        ({"dtypes": ("float16",)}, "--dtypes"),
    ],
)
def test_settings_out_of_range(settings, message):
    with pytest.raises(ServeError, match=message):
        Settings(**settings)


def test_every_setting_is_tried_somewhere():
    """Somewhere in these tests, another value than the default is given to each."""
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("*.py"))
    names = [field.name for field in dataclasses.fields(Settings)]
    assert not [name for name in names if not re.search(rf'\b{name}=|"{flag_name(name)}"', tests)]


def test_every_code_is_met_somewhere():
    tests = "".join(path.read_text() for path in Path(__file__).parent.glob("test_*.py"))
    assert not [code for code in CODES if f'"{code}"' not in tests]


def test_errors_that_no_client_can_cause_are_internal():
    from nplrp.errors import OutputError

    problem = problem_of(OutputError("/secret/path: disk full"))
    assert isinstance(problem, Problem) and problem.status == 500 and "secret" not in problem.message
