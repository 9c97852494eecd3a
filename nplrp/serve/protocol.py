"""HTTP connections with limits: on their number, and on the time that a client takes to say something and to listen."""

from __future__ import annotations

import asyncio
import functools
import json
import re
import socket
import uuid
from dataclasses import dataclass
from typing import Any

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

from nplrp.serve.front import HEADERS
from nplrp.serve.metrics import Metrics
from nplrp.serve.problems import Problem, try_again
from nplrp.serve.settings import Settings

#: The empty line that ends a head.
_HEAD_END = re.compile(rb"\n\r?\n")
#: Seconds between two looks whether a client that has sent everything is still there; the first comes soon.
_SOON, _LOOK = 0.1, 1.0


@dataclass(frozen=True, eq=False)
class Limits:
    """What a protocol is told beside uvicorn's own configuration."""

    settings: Settings
    metrics: Metrics


def protocol_class(limits: Limits) -> type[asyncio.Protocol]:
    """Return uvicorn's protocol with limits; uvicorn takes a class, so they are bound to it here."""

    class Limited(LimitedProtocol):
        pass

    Limited.limits = limits
    return Limited


class _Connection(h11.Connection):
    """h11's connection, which by itself limits only a head that hasn't come whole."""

    def __init__(self, most: int) -> None:
        super().__init__(h11.SERVER, most)
        self._most = most

    def next_event(self) -> Any:
        """Refuse a head that is too long, however it came."""
        if self.their_state is h11.IDLE:
            waiting, _ = self.trailing_data
            if len(waiting) > self._most and _HEAD_END.search(waiting, 0, self._most) is None:
                raise h11.RemoteProtocolError("the head is too long", error_status_hint=431)
        return super().next_event()


class LimitedProtocol(H11Protocol):
    """uvicorn's protocol, which by itself waits for ever for headers, bodies and readers."""

    limits: Limits

    def __init__(self, *given: Any, **options: Any) -> None:
        super().__init__(*given, **options)
        self.conn = _Connection(self.limits.settings.max_head)
        self._half_closed = False

    def connection_made(self, transport: Any) -> None:
        """Refuse a connection too many; start the clock for the first request."""
        super().connection_made(transport)
        self._clocks: dict[str, asyncio.TimerHandle] = {}
        settings, count = self.limits.settings, len(self.connections)
        self.limits.metrics.connections.set(count)
        if count > settings.max_connections:
            problem = try_again("too_many_connections", f"there are {settings.max_connections} connections (--max-connections)", 1)
            self._answer(problem)
            return
        self._start_clock("head", settings.head_timeout, self._slow_head)

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop all clocks."""
        for clock in self._clocks.values():
            clock.cancel()
        self._clocks.clear()
        super().connection_lost(exc)
        self._unset_keepalive_if_required()
        self.limits.metrics.connections.set(len(self.connections))

    def data_received(self, data: bytes) -> None:
        """Run the clock while a request's head is incomplete."""
        if self.transport.is_closing():
            return
        self._stop_clock("idle")
        if self.conn.their_state is h11.IDLE and "head" not in self._clocks:
            self._start_clock("head", self.limits.settings.head_timeout, self._slow_head)
        super().data_received(data)
        if self.conn.their_state is not h11.IDLE:
            self._stop_clock("head")
        if "rest" in self._clocks and self.conn.their_state is not h11.SEND_BODY:
            self._stop_clock("rest")
            if self.conn.their_state is h11.IDLE:  # uvicorn has forgotten that nothing is under way
                self._start_clock("idle", self.timeout_keep_alive, self.timeout_keep_alive_handler)

    def on_response_complete(self) -> None:
        """Give a client whose request was answered early some seconds to see that, instead of reading its body for ever."""
        answered = self.cycle
        super().on_response_complete()
        if self._half_closed and self.cycle is answered:  # no further request was waiting
            self.transport.close()
        elif self.conn.their_state is h11.SEND_BODY:
            self._start_clock("rest", self.limits.settings.keep_alive, functools.partial(self._slow_rest, self.cycle))
        else:
            self._stop_clock("rest")

    def eof_received(self) -> bool:  # type: ignore[override]
        """Keep the connection of a client that has sent a whole request, and nothing more, until it has its answer."""
        whole = self.conn.their_state not in (h11.IDLE, h11.SEND_BODY)
        if self.cycle is None or self.cycle.response_complete or not whole:
            return False
        self._half_closed = True
        # A client that has gone says the same, but its system refuses what is sent to it: any answer but the last one does, if the client
        # knows of such. Then the socket has an error.
        if not self.cycle.response_started and self.conn.their_http_version != b"1.0":
            self.transport.write(self.conn.send(h11.InformationalResponse(status_code=100, headers=[], reason="Continue")))
        self._start_clock("gone", _SOON, self._look)
        return True

    def _look(self) -> None:
        """End the connection of a client that has gone."""
        if self.transport.get_extra_info("socket").getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
            self.transport.abort()
        else:
            self._start_clock("gone", _LOOK, self._look)

    def pause_writing(self) -> None:
        """Start the clock for a client that doesn't read."""
        super().pause_writing()
        self._start_clock("send", self.limits.settings.send_timeout, self._slow_reader)

    def resume_writing(self) -> None:
        """Stop it."""
        super().resume_writing()
        self._stop_clock("send")

    def send_400_response(self, msg: str) -> None:
        """Answer as JSON what isn't HTTP."""
        self._answer(Problem("bad_request", f"{msg.rstrip('.')}; its head may take {self.limits.settings.max_head} bytes (--max-head)"))

    def _slow_head(self) -> None:
        if not self.transport.is_closing():
            self._answer(Problem("slow_request", f"no request within {self.limits.settings.head_timeout:g} seconds (--head-timeout)"))

    def _slow_rest(self, cycle: Any) -> None:
        if self.cycle is cycle:  # no other request has begun in the meantime
            self.transport.abort()

    def _slow_reader(self) -> None:
        self.limits.metrics.rejected.labels("slow_reader").inc()
        self.transport.abort()

    def _answer(self, problem: Problem) -> None:
        """Write an answer by hand, and close: there is no request that h11 could answer."""
        request_id = uuid.uuid4().hex
        body = json.dumps(problem.body(request_id)).encode()
        lines = [
            f"HTTP/1.1 {problem.status} {_PHRASES.get(problem.status, 'Error')}",
            "content-type: application/json",
            f"content-length: {len(body)}",
            f"x-request-id: {request_id}",
            *(f"{key.decode()}: {value.decode()}" for key, value in HEADERS),
            "connection: close",
            *(f"{key.lower()}: {value}" for key, value in problem.headers.items()),
        ]
        self.limits.metrics.rejected.labels(problem.code).inc()
        self.transport.write("\r\n".join([*lines, "", ""]).encode() + body)
        self.transport.close()

    def _start_clock(self, name: str, seconds: float, action: Any) -> None:
        self._stop_clock(name)
        self._clocks[name] = self.loop.call_later(seconds, action)

    def _stop_clock(self, name: str) -> None:
        clock = self._clocks.pop(name, None)
        if clock is not None:
            clock.cancel()


_PHRASES = {400: "Bad Request", 408: "Request Timeout", 503: "Service Unavailable"}
