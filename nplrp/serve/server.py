"""One serving process: uvicorn around a service, with our signals, logs and connections."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import errno
import logging
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType
from typing import Any, TextIO

import numpy as np
import uvicorn

from nplrp.model import Model
from nplrp.serve.app import Service, make_app
from nplrp.serve.protocol import Limits, protocol_class
from nplrp.serve.settings import Settings

#: Exit codes: stopped in order; the start failed for good.
OK, FAILED = 0, 3
#: Of glibc's malloc.h.
_M_MMAP_THRESHOLD = -3
#: Descriptors beside those of connections, and seconds between two lines that say that none is left.
_SPARE, _AGAIN = 256, 60.0

log = logging.getLogger("nplrp.serve")


def serve(
    model: Model,
    settings: Settings,
    sample: Callable[[], np.ndarray],
    sock: socket.socket,
    patient: bool = False,
    parent: int | None = None,
) -> int:
    """Serve until a signal says stop, and return the exit code.

    Parameters
    ----------
    model, settings, sample
        As for `nplrp.serve.app.Service`.
    sock : socket
        Listening.
    patient : bool
        Accept connections only once it is ready, because others serve meanwhile.
    parent : int or None
        A file descriptor that becomes readable when the parent process has died.
    """
    set_up_logs()
    _return_memory()
    _allow_descriptors(settings.max_connections)
    service = Service(model, settings, sample)
    config = uvicorn.Config(
        make_app(service),
        http=protocol_class(Limits(settings, service.metrics)),
        loop="asyncio",
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        proxy_headers=False,
        server_header=False,
        timeout_keep_alive=settings.keep_alive,  # type: ignore[arg-type]
        timeout_graceful_shutdown=2,
        h11_max_incomplete_event_size=settings.max_head,
    )
    server = _Server(config, service, patient, parent)
    server.run([sock])
    logging.shutdown()
    if service.failure is not None:
        return FAILED
    if service.lane.alive or service.at_work:  # a thread works on what nobody waits for: Python would wait for it, or crash
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(OK)
    return OK


def _return_memory() -> None:
    """Have glibc give blocks of 4 MiB and more back when they are freed; by and by it would come to keep those of up to 32 MiB."""
    with contextlib.suppress(OSError, AttributeError, TypeError):
        ctypes.CDLL(None).mallopt(_M_MMAP_THRESHOLD, 4 << 20)


def _allow_descriptors(connections: int) -> None:
    """Raise this process's limit of open files to what its connections may need, as far as it may."""
    with contextlib.suppress(ImportError, OSError, ValueError):
        import resource

        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = connections + _SPARE
        if soft == resource.RLIM_INFINITY or soft >= wanted:
            return
        allowed = wanted if hard == resource.RLIM_INFINITY else min(wanted, hard)
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
        if allowed < wanted:
            log.warning("at most %d files may be open (ulimit -n), too few for --max-connections %d", allowed, connections)


def set_up_logs() -> None:
    """Send the access log to stdout as it is, everything else to stderr."""
    _send("nplrp.serve.access", sys.stdout, "%(message)s", logging.INFO)
    _send("nplrp", sys.stderr, "nplrp: %(message)s", logging.INFO)
    _send("uvicorn", sys.stderr, "uvicorn: %(message)s", logging.WARNING)


def _send(name: str, stream: TextIO, form: str, level: int) -> None:
    handler = logging.StreamHandler(stream)
    handler.setFormatter(logging.Formatter(form))
    logger = logging.getLogger(name)
    logger.handlers[:] = [handler]
    logger.propagate = False
    logger.setLevel(level)


class _Server(uvicorn.Server):
    """uvicorn's server, that drains before it stops and exits with 0."""

    def __init__(self, config: uvicorn.Config, service: Service, patient: bool, parent: int | None) -> None:
        super().__init__(config)
        self._service, self._patient, self._parent = service, patient, parent
        self._stop_by = 0.0
        self._said = -_AGAIN  # when a line last told that no descriptor is left

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Handle SIGTERM and SIGINT; unlike uvicorn, don't raise them again afterwards."""
        signals = (signal.SIGINT, signal.SIGTERM)
        before = {each: signal.signal(each, self.handle_exit) for each in signals}
        try:
            yield
        finally:
            for each, handler in before.items():
                signal.signal(each, handler)

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; the second time, stop at once."""
        if self._stop_by:
            self._stop_by = time.monotonic()
            return
        self._stop_by = time.monotonic() + self._service.settings.drain
        self._service.drain()

    async def startup(self, sockets: Sequence[socket.socket] | None = None) -> None:
        """Begin to accept connections, a patient server once it is ready."""
        asyncio.get_running_loop().set_exception_handler(self._on_trouble)
        if self._parent is not None:
            asyncio.get_running_loop().add_reader(self._parent, self._orphaned)
        if self._patient:
            await self.lifespan.startup()
            while self._service.state == "starting" and not self._stop_by:
                await asyncio.sleep(0.05)
            self.lifespan.startup = _nothing
        await super().startup(list(sockets or ()))

    async def on_tick(self, counter: int) -> bool:
        """Stop when the work is done, or its time is over."""
        service = self._service
        if service.state == "failed":
            self.should_exit = True
        if self._stop_by and (not service.busy or time.monotonic() > self._stop_by):
            if service.busy:
                late, drain = len(service.accepted), service.settings.drain
                log.warning("%d requests weren't computed, or answers weren't taken, within --drain %g seconds", late, drain)
                service.stop_waiting()
            self.should_exit = True
        return await super().on_tick(counter)

    def _on_trouble(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """Say once a minute that no connection can be accepted: asyncio would say so a hundred times a second, each with a traceback."""
        error = context.get("exception")
        if not isinstance(error, OSError) or error.errno not in (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM):
            loop.default_exception_handler(context)
        elif time.monotonic() - self._said >= _AGAIN:
            self._said = time.monotonic()
            log.error("no connection can be accepted (%s): clients wait; lower --max-connections or raise ulimit -n", error.strerror)

    def _orphaned(self) -> None:
        asyncio.get_running_loop().remove_reader(self._parent)  # type: ignore[arg-type]
        self.handle_exit(signal.SIGTERM, None)


async def _nothing() -> None:
    pass
