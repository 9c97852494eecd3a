"""What every request passes first and every answer last: request id, hosts and origins, errors as JSON, access log, metrics."""

from __future__ import annotations

import errno
import json
import logging
import re
import time
import uuid
from typing import Any

from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from nplrp.serve.metrics import Metrics
from nplrp.serve.origins import Origins
from nplrp.serve.problems import CODES, Problem, drop_traceback

access = logging.getLogger("nplrp.serve.access")
log = logging.getLogger("nplrp.serve")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
#: What the log and metrics call a request whose client has gone before the answer (nginx's number).
CLIENT_GONE = 499
#: On every answer: no cache keeps it; pages may load nothing from elsewhere and be shown in nobody's frame.
HEADERS = (
    (b"cache-control", b"no-store"),
    (b"cross-origin-opener-policy", b"same-origin"),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; img-src 'self' data: blob:; object-src 'none'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
)


class Record:
    """What is known of a request, for its log line; handlers add to it.

    Attributes
    ----------
    request_id : str
    arrived : float
        By `time.monotonic`.
    facts : dict
        What the log line says besides: the code, instances, seconds in the queue, ...
    """

    def __init__(self, request_id: str) -> None:
        self.request_id = request_id
        self.arrived = time.monotonic()
        self.facts: dict[str, Any] = {}


class Front:
    """An ASGI application around another one."""

    def __init__(self, app: ASGIApp, metrics: Metrics, origins: Origins) -> None:
        self._app, self._metrics, self._origins = app, metrics, origins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = Record(_request_id(scope))
        scope["record"] = record
        scope["app"] = self  # Starlette's router then raises for 404 and 405 instead of answering
        status, sent, whole = 0, 0, False

        async def out(message: Message) -> None:
            nonlocal status, sent, whole
            if message["type"] == "http.response.start":
                status = message["status"]
                extra = [*HEADERS, *self._origins.headers(scope), (b"x-request-id", record.request_id.encode())]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            else:
                sent += len(message.get("body", b""))
                whole = not message.get("more_body", False)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            self._origins.check(scope)
            _check_length(scope)
            preflight = self._origins.preflight(scope)
            if preflight is None:
                await self._app(scope, receive, out)
            else:
                await out({"type": "http.response.start", "status": 204, "headers": preflight})
                await out({"type": "http.response.body"})
        except ClientDisconnect:
            status = status or CLIENT_GONE
        except Exception as error:
            problem = as_problem(error)
            if problem.status == 500:
                _log(error, record.request_id)
            if status:  # too late to say anything: the connection is closed
                raise
            record.facts["code"] = problem.code
            drop_traceback(error)  # which holds this frame, and that holds the problem
            await answer_problem(problem, record.request_id, out)
        finally:
            self._metrics.in_flight.dec()
            self._finish(scope, record, status if whole or status == CLIENT_GONE else CLIENT_GONE, sent)

    def _finish(self, scope: Scope, record: Record, status: int, sent: int) -> None:
        took = time.monotonic() - record.arrived
        route = scope.get("route_name", "other")
        self._metrics.requests.labels(route, status).inc()
        self._metrics.latency.labels(route).observe(took)
        if "code" in record.facts:
            self._metrics.rejected.labels(record.facts["code"]).inc()
        line = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "request_id": record.request_id,
            "client": (scope.get("client") or ("",))[0],
            "method": scope["method"][:20],
            "path": scope["path"][:200],
            "status": status,
            "bytes": sent,
            "ms": round(took * 1000, 1),
            **record.facts,
        }
        access.info("%s", json.dumps(line))


def _check_length(scope: Scope) -> None:
    """Refuse a body of two lengths, of which a proxy in front may have taken the other one."""
    names = {key for key, _ in scope["headers"]}
    if {b"content-length", b"transfer-encoding"} <= names:
        raise Problem("bad_request", "the request has both Content-Length and Transfer-Encoding; send one", {"Connection": "close"})


def _log(error: Exception, request_id: str) -> None:
    """Log a defect with its traceback; that no descriptor is left, which every request would meet, in one line."""
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        log.error("request %s failed: %s", request_id, error.strerror)
    else:
        log.error("request %s failed", request_id, exc_info=error)


def as_problem(error: Exception) -> Problem:
    """Return the problem for whatever a handler raised."""
    if isinstance(error, Problem):
        return error
    if isinstance(error, HTTPException):
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "bad_request")
        return Problem(code, CODES[code][1], dict(error.headers or {}))
    return Problem("internal", "the server has a defect; its log has this request's id")


async def answer_problem(problem: Problem, request_id: str, send: Send) -> None:
    """Send a problem as JSON."""
    body = json.dumps(problem.body(request_id)).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += [(key.lower().encode(), value.encode()) for key, value in problem.headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


def _request_id(scope: Scope) -> str:
    """Return the client's X-Request-ID if it is a short plain word, else a new one."""
    for key, value in scope["headers"]:
        if key == b"x-request-id" and _REQUEST_ID.fullmatch(value):
            return str(value.decode())
    return uuid.uuid4().hex
