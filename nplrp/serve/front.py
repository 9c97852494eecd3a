"""What every request passes first and every answer last: request id, errors as JSON, access log, metrics."""

from __future__ import annotations

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
from nplrp.serve.problems import CODES, Problem

access = logging.getLogger("nplrp.serve.access")
log = logging.getLogger("nplrp.serve")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._:-]{1,128}")
#: What the log and metrics call a request whose client has gone before the answer (nginx's number).
CLIENT_GONE = 499
#: On every answer; pages may load nothing from elsewhere and be shown in nobody's frame.
_HEADERS = (
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

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self._app, self._metrics = app, metrics

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
                extra = [*_HEADERS, (b"x-request-id", record.request_id.encode())]
                message = {**message, "headers": [*message.get("headers", ()), *extra]}
            else:
                sent += len(message.get("body", b""))
                whole = not message.get("more_body", False)
            await send(message)

        self._metrics.in_flight.inc()
        try:
            await self._app(scope, receive, out)
        except ClientDisconnect:
            status = status or CLIENT_GONE
        except Exception as error:
            problem = as_problem(error)
            if problem.status == 500:
                log.error("request %s failed", record.request_id, exc_info=error)
            if status:  # too late to say anything: the connection is closed
                raise
            record.facts["code"] = problem.code
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
