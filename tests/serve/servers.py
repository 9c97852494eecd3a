"""Servers to test: one in this process without sockets, and real ones in processes of their own."""

import asyncio
import io
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx
import numpy as np
from PIL import Image

from nplrp.serve.app import Service, make_app
from nplrp.serve.settings import Settings

ROOT = Path(__file__).parents[2]
WEIGHTS = ROOT / "tests" / "data" / "keras_files" / "small32_k2_model_save.h5"
#: Tests wait for so long, because others use the machine too.
PATIENCE = 120


def picture(seed=0, height=40, width=50, form="PNG"):
    """An image file."""
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)).save(file, form)
    return file.getvalue()


def sample():
    """A sample picture that needs no file."""
    return np.zeros((8, 8, 3), np.uint8)


class Local:
    """A service in this process, its event loop in a thread: `request` as httpx has it.

    Parameters
    ----------
    model : Model
    **settings
        Fields of `Settings`.
    """

    def __init__(self, model, **settings):
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.service = Service(model, Settings(**{"name": "m", **settings}), sample)
        self.running = self.service.running(None)
        self.do(self.running.__aenter__())
        transport = httpx.ASGITransport(make_app(self.service))
        self.http = httpx.AsyncClient(transport=transport, base_url="http://localhost", timeout=PATIENCE)

    def do(self, coroutine):
        """Run a coroutine in the loop."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(PATIENCE)

    def wait(self):
        """Wait until it is ready."""
        until = time.monotonic() + PATIENCE
        while self.service.state == "starting":
            assert time.monotonic() < until
            time.sleep(0.01)
        assert self.service.state == "ready", self.service.failure
        return self

    def request(self, method, path, **options):
        """Send a request."""
        return self.do(self.http.request(method, path, **options))

    def get(self, path, **options):
        """Send a GET."""
        return self.request("GET", path, **options)

    def explain(self, content=None, parameters=None, **options):
        """Explain instances, or an image file with parameters in the query."""
        return self._post("explain", content, parameters, options)

    def predict(self, content=None, parameters=None, **options):
        """Predict likewise."""
        return self._post("predict", content, parameters, options)

    def _post(self, verb, content, parameters, options):
        path = f"/v1/models/m:{verb}"
        if isinstance(content, bytes):
            kind = "image/png" if content.startswith(b"\x89PNG") else "image/jpeg"
            headers = {"content-type": kind, **options.pop("headers", {})}
            return self.request("POST", path, content=content, params=parameters, headers=headers, **options)
        body = {"instances": content} | ({} if parameters is None else {"parameters": parameters})
        return self.request("POST", path, json=body, **options)

    def close(self):
        """Stop everything."""
        self.do(self.http.aclose())
        self.do(self.running.__aexit__(None, None, None))
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@contextmanager
def local(model, **settings):
    """A ready `Local`."""
    server = Local(model, **settings)
    try:
        yield server.wait()
    finally:
        server.close()


class Remote:
    """`nplrp serve` in a process of its own, on a free port.

    Parameters
    ----------
    folder : path
        For its logs.
    *flags : str
    env : dict
        Further environment variables.
    """

    def __init__(self, folder, *flags, weights=WEIGHTS, before=None, **env):
        self.log, self.errors = folder / "access.log", folder / "errors.log"
        command = [
            sys.executable,
            "-m",
            "nplrp.cli",
            "serve",
            "--weights",
            str(weights),
            "--port",
            "0",
            "--name",
            "m",
            "--allowed-hosts",
            "x",
        ]
        command += flags
        with self.log.open("w") as out, self.errors.open("w") as err:
            self.process = subprocess.Popen(command, cwd=ROOT, env=os.environ | env, stdout=out, stderr=err, preexec_fn=before)  # noqa: PLW1509
        self._http = None

    def address(self):
        """Return (host, port), once it listens."""
        until = time.monotonic() + PATIENCE
        while not (found := re.search(r"http://([\d.]+):(\d+)", self.errors.read_text())):
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until
            time.sleep(0.02)
        return found[1], int(found[2])

    @property
    def url(self):
        """Return its URL."""
        return "http://{}:{}".format(*self.address())

    def wait(self):
        """Wait until it is ready."""
        until = time.monotonic() + PATIENCE
        while not self.ready():
            assert self.process.poll() is None, self.errors.read_text()
            assert time.monotonic() < until
            time.sleep(0.05)
        return self

    def ready(self):
        """Tell whether it is."""
        try:
            return httpx.get(f"{self.url}/v2/health/ready", timeout=PATIENCE).status_code == 200
        except httpx.TransportError:
            return False

    def explain(self, image, **query):
        """Explain an image file."""
        return httpx.post(
            f"{self.url}/v1/models/m:explain", content=image, headers={"content-type": "image/png"}, params=query, timeout=PATIENCE
        )

    def connect(self):
        """Return a bare connection."""
        return socket.create_connection(self.address(), timeout=PATIENCE)

    def metric(self, name):
        """Return the sum of a metric over its labels."""
        text = httpx.get(f"{self.url}/metrics", timeout=PATIENCE).text
        return sum(float(line.rsplit(" ", 1)[1]) for line in text.splitlines() if re.match(rf"{re.escape(name)}[ {{}}]", line))

    def children(self):
        """Return the ids of its workers."""
        found, workers = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split(), []
        for pid in found:
            with suppress(OSError):  # it has just ended
                if b"spawn_main" in Path(f"/proc/{pid}/cmdline").read_bytes():
                    workers.append(int(pid))
        return workers

    def lines(self):
        """Return the access log."""
        return [json.loads(line) for line in self.log.read_text().splitlines()]

    def stop(self, how=signal.SIGTERM):
        """Stop it and return its exit code."""
        if self.process.poll() is None:
            self.process.send_signal(how)
        return self.process.wait(PATIENCE)


@contextmanager
def remote(folder, *flags, **options):
    """A ready `Remote`."""
    server = Remote(folder, *flags, **options)
    try:
        yield server.wait()
    finally:
        if server.process.poll() is None:
            server.process.kill()
            server.process.wait()
