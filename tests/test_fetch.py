"""Weights are found in the promised order, and a download is whole and checked or leaves nothing under its name.

Every download here comes from a server on 127.0.0.1 that does one thing wrong.
"""

import hashlib
import http.server
import io
import multiprocessing
import re
import threading
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np
import pytest

from nplrp.errors import WeightsError
from nplrp.files import fetch
from nplrp.files.fetch import Download, download, find_weights

CONTENT = np.random.default_rng(0).integers(0, 256, 3_000_000, np.uint8).tobytes()
MD5 = hashlib.md5(CONTENT).hexdigest()


@dataclass
class Behaviour:
    content: bytes = CONTENT
    status: int | None = None  # answer with nothing but this
    cut_after: list[int] = field(default_factory=list)  # bytes after which each answer in turn breaks off
    ranges: bool = True
    etag: str | None = '"one"'
    length: bool = True
    requests: list[dict] = field(default_factory=list)


@contextmanager
def server(behaviour):
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            asked = {key: self.headers[key] for key in ("Range", "If-Range") if key in self.headers}
            behaviour.requests.append(asked)
            content, size = behaviour.content, len(behaviour.content)
            start = 0
            if "Range" in asked and behaviour.ranges and asked.get("If-Range", behaviour.etag) == behaviour.etag:
                start = int(re.fullmatch(r"bytes=(\d+)-", asked["Range"])[1])
            if behaviour.status:
                self.send_error(behaviour.status)
                return
            if start >= size:
                self.send_response(416)
                self.send_header("Content-Range", f"bytes */{size}")
                self.end_headers()
                return
            self.send_response(206 if start else 200)
            if start:
                self.send_header("Content-Range", f"bytes {start}-{size - 1}/{size}")
            if behaviour.length:
                self.send_header("Content-Length", str(size - start))
            if behaviour.etag:
                self.send_header("ETag", behaviour.etag)
            self.end_headers()
            end = start + behaviour.cut_after.pop(0) if behaviour.cut_after else size
            self.wfile.write(content[start:end])

        def log_message(self, *_):
            pass

    httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{httpd.server_port}/weights.h5"
    finally:
        httpd.shutdown()
        thread.join()
        httpd.server_close()


def get(behaviour, target, progress=lambda done, total: None, **options):
    with server(behaviour) as url:
        download(Download(url, MD5, len(CONTENT)), target, progress, pause=0, timeout=5, **options)


@pytest.fixture
def target(tmp_path):
    return tmp_path / "cache" / "weights.h5"


def leftovers(target):
    return sorted(path.name for path in target.parent.iterdir() if path.suffix != ".lock")


def test_whole_file_arrives_under_its_name_and_is_not_fetched_twice(target):
    behaviour, seen = Behaviour(), []
    get(behaviour, target, progress=lambda done, total: seen.append((done, total)))
    assert target.read_bytes() == CONTENT
    assert leftovers(target) == ["weights.h5"]
    assert seen[0] == (0, len(CONTENT)) and seen[-1] == (len(CONTENT), len(CONTENT)) and seen == sorted(seen)
    get(behaviour, target)
    assert len(behaviour.requests) == 1


def test_partial_file_is_gone_on_with(target):
    target.parent.mkdir()
    (target.parent / "weights.h5.part").write_bytes(CONTENT[:1000])
    (target.parent / "weights.h5.part.etag").write_text('"one"')
    behaviour = Behaviour()
    get(behaviour, target)
    assert behaviour.requests == [{"Range": "bytes=1000-", "If-Range": '"one"'}]
    assert target.read_bytes() == CONTENT and leftovers(target) == ["weights.h5"]


def test_cut_connections_are_taken_up_where_they_broke(target):
    behaviour = Behaviour(cut_after=[700_000, 800_000])
    get(behaviour, target)
    assert [asked.get("Range") for asked in behaviour.requests] == [None, "bytes=700000-", "bytes=1500000-"]
    assert target.read_bytes() == CONTENT


def test_server_without_ranges_sends_all_again(target):
    behaviour = Behaviour(cut_after=[700_000], ranges=False)
    get(behaviour, target)
    assert len(behaviour.requests) == 2 and target.read_bytes() == CONTENT


def test_partial_file_of_an_older_version_is_dropped(target):
    target.parent.mkdir()
    (target.parent / "weights.h5.part").write_bytes(b"old" * 1000)
    (target.parent / "weights.h5.part.etag").write_text('"older"')
    get(Behaviour(), target)
    assert target.read_bytes() == CONTENT


@pytest.mark.parametrize("old", [b"old" * 1000, b"o" * len(CONTENT), b"o" * (len(CONTENT) + 5)], ids=["shorter", "as long", "longer"])
def test_older_version_shows_by_its_md5_where_the_server_sends_no_etag(target, old):
    target.parent.mkdir()
    (target.parent / "weights.h5.part").write_bytes(old)
    get(Behaviour(etag=None), target)
    assert target.read_bytes() == CONTENT and leftovers(target) == ["weights.h5"]


def test_complete_partial_file_needs_no_more_bytes(target):
    target.parent.mkdir()
    (target.parent / "weights.h5.part").write_bytes(CONTENT)
    behaviour = Behaviour()
    get(behaviour, target)
    assert len(behaviour.requests) == 1 and target.read_bytes() == CONTENT


def test_length_unknown(target):
    behaviour = Behaviour(length=False, cut_after=[10_000])
    get(behaviour, target)
    assert len(behaviour.requests) == 2 and target.read_bytes() == CONTENT


def test_wrong_md5_leaves_nothing(target):
    with pytest.raises(WeightsError, match=f"MD5 {hashlib.md5(CONTENT[::-1]).hexdigest()}, expected {MD5}; it was deleted"):
        get(Behaviour(content=CONTENT[::-1]), target)
    assert leftovers(target) == []


def test_older_file_under_the_final_name_stays_until_the_new_one_is_whole(target):
    target.parent.mkdir()
    target.write_bytes(b"old")
    with pytest.raises(WeightsError, match="500"):
        get(Behaviour(status=500), target)
    assert target.read_bytes() == b"old"
    get(Behaviour(), target)
    assert target.read_bytes() == CONTENT


def test_not_found_is_not_tried_again(target):
    behaviour = Behaviour(status=404)
    with pytest.raises(WeightsError, match=r"weights.h5: the server answers 404 .*; check the address"):
        get(behaviour, target)
    assert len(behaviour.requests) == 1 and leftovers(target) == []


def test_busy_server_is_tried_a_few_times(target):
    behaviour = Behaviour(status=503)
    with pytest.raises(WeightsError, match=r"503 .*, 4 times in a row; 0 bytes are kept"):
        get(behaviour, target, attempts=4)
    assert len(behaviour.requests) == 4


def test_gives_up_on_a_line_that_always_breaks_but_keeps_what_came(target):
    behaviour = Behaviour(cut_after=[10] * 100)
    with pytest.raises(WeightsError, match="the connection was cut, 3 times in a row; 30 bytes are kept"):
        get(behaviour, target, attempts=3)
    assert leftovers(target) == ["weights.h5.part", "weights.h5.part.etag"]
    get(Behaviour(), target)
    assert target.read_bytes() == CONTENT


def test_progress_of_a_megabyte_counts_as_a_fresh_start(target):
    behaviour = Behaviour(cut_after=[1_100_000, 10, 1_100_000, 10])
    get(behaviour, target, attempts=3)
    assert len(behaviour.requests) == 5 and target.read_bytes() == CONTENT


def test_no_server(target):
    with server(Behaviour()) as url:
        pass
    with pytest.raises(WeightsError, match="Connection refused, 2 times"):
        download(Download(url, MD5, 1), target, lambda done, total: None, attempts=2, pause=0)


def test_disk_too_small(target, monkeypatch):
    monkeypatch.setattr(fetch.shutil, "disk_usage", lambda _: type("Usage", (), {"free": 2_000_000}))
    with pytest.raises(WeightsError, match="3 MB are needed, 2 MB are free"):
        get(Behaviour(), target)
    assert not target.exists()


@pytest.mark.parametrize("url", ["file:///etc/passwd", "ftp://127.0.0.1/x", "weights.h5"])
def test_only_http(target, url):
    with pytest.raises(WeightsError, match="http or https"):
        download(Download(url, MD5, 1), target, lambda done, total: None)


def test_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(WeightsError, match="NPLRP_CACHE"):
        get(Behaviour(), tmp_path / "file" / "weights.h5")


def _download_in_process(url, target):
    download(Download(url, MD5, len(CONTENT)), target, lambda done, total: None, pause=0)


def test_two_processes_fetch_once(target):
    behaviour = Behaviour()
    context = multiprocessing.get_context("spawn")
    with server(behaviour) as url:
        processes = [context.Process(target=_download_in_process, args=(url, target)) for _ in range(2)]
        for process in processes:
            process.start()
        for process in processes:
            process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert len(behaviour.requests) == 1 and target.read_bytes() == CONTENT


def test_fetch_takes_name_mirror_and_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(fetch, "OFFICIAL", {"vgg16": Download("http://127.0.0.1:1/path/vgg16_official.h5", MD5, len(CONTENT))})
    monkeypatch.setenv("NPLRP_CACHE", str(tmp_path / "ours"))
    with server(Behaviour()) as url:
        assert fetch.fetch("vgg16", url=url) == tmp_path / "ours" / "vgg16_official.h5"
        assert fetch.fetch("vgg16", url=url, directory=tmp_path) == tmp_path / "vgg16_official.h5"
    with pytest.raises(WeightsError, match="vgg17"):
        fetch.fetch("vgg17")


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere():
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for stream, count in ((io.StringIO(), 11), (Terminal(), 1001)):
        show = fetch.show_progress("w.h5", stream)
        for done in range(0, 2_000_001, 1000):
            show(done, 2_000_000)
        text = stream.getvalue()
        assert text.count("w.h5") == count and text.endswith("\n") and "2 of 2 MB" in text
    assert "[###############               ]  50%" in text


@pytest.fixture
def places(tmp_path, monkeypatch):
    """Folders of the two caches, empty; no variables set."""
    for variable in ("NPLRP_WEIGHTS", "NPLRP_CACHE"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("KERAS_HOME", str(tmp_path / "keras"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    folders = tmp_path / "keras" / "models", tmp_path / "xdg" / "nplrp"
    for folder in folders:
        folder.mkdir(parents=True)
    return folders


def test_weights_are_found_in_order(places, tmp_path, monkeypatch):
    name = "vgg19_weights_tf_dim_ordering_tf_kernels.h5"
    keras, ours = (folder / name for folder in places)
    with pytest.raises(WeightsError, match=r"no vgg19 weights.*nplrp fetch vgg19.*575 MB.*nplrp import"):
        find_weights(name="vgg19")
    ours.touch()
    assert find_weights(name="vgg19") == ours
    keras.touch()
    assert find_weights(name="vgg19") == keras
    variable, explicit = tmp_path / "variable.h5", tmp_path / "explicit.h5"
    variable.touch()
    monkeypatch.setenv("NPLRP_WEIGHTS", str(variable))
    assert find_weights(name="vgg19") == variable
    explicit.touch()
    assert find_weights(explicit, "vgg19") == explicit
    assert find_weights(str(explicit)) == explicit


def test_named_file_that_is_missing_is_not_replaced_by_another(places, monkeypatch):
    (places[0] / "vgg16_weights_tf_dim_ordering_tf_kernels.h5").touch()
    with pytest.raises(WeightsError, match=r"^missing\.h5: there is no such file"):
        find_weights("missing.h5")
    monkeypatch.setenv("NPLRP_WEIGHTS", "gone.h5")
    with pytest.raises(WeightsError, match=r"^\$NPLRP_WEIGHTS: gone\.h5: there is no such file"):
        find_weights()


def test_our_cache_can_be_moved(places, tmp_path, monkeypatch):
    monkeypatch.setenv("NPLRP_CACHE", str(tmp_path / "elsewhere"))
    assert fetch.cache_directory() == tmp_path / "elsewhere"
    monkeypatch.delenv("NPLRP_CACHE")
    assert fetch.cache_directory() == places[1]


def test_a_server_that_never_stops_is_stopped_at_the_stated_size(target):
    seen = []
    with pytest.raises(WeightsError, match="sends more than the 3000000 bytes"):
        get(Behaviour(content=CONTENT * 20, length=False), target, progress=lambda done, total: seen.append(done))
    assert max(seen) <= len(CONTENT)
    assert leftovers(target) == []
