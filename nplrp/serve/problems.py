"""What can go wrong with a request, as status codes, and the server's own errors."""

from __future__ import annotations

import math
import traceback
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from nplrp.errors import ImageError, ModelError, NplrpError, NumericsError, RuleError


class ServeError(NplrpError):
    """A server that can't be started: a flag, a missing package, a port, or weights that don't pass their checks."""


#: code -> (status, what it means); all that a client can meet, and what /openapi.json documents.
CODES: dict[str, tuple[int, str]] = {
    "bad_request": (400, "the HTTP request can't be understood"),
    "bad_json": (400, "the body is no JSON, nested too deep, or holds NaN or Infinity"),
    "bad_form": (400, "the multipart body is damaged or has unknown parts"),
    "bad_instances": (400, "instances are missing, too many, of the wrong shape, or no numbers"),
    "bad_image": (400, "an image is damaged, no JPEG or PNG, or has too many pixels, scans or pieces"),
    "bad_parameter": (400, "a parameter is unknown or has a value that it can't have"),
    "bad_rule": (400, "a composite, dialect or rule is unknown, or doesn't fit the model"),
    "bad_target": (400, "the model has no such output or input"),
    "not_finite": (400, "the input holds a NaN or an infinity, or the rule makes one"),
    "too_large": (400, "the answer would be too large: ask for fewer layers, images or targets"),
    "foreign_origin": (403, "the request comes from another origin's page, which --cors doesn't allow"),
    "not_found": (404, "there is no such path"),
    "no_model": (404, "there is no model of that name"),
    "method_not_allowed": (405, "the path has other methods, which Allow lists"),
    "slow_request": (408, "the request didn't arrive in time"),
    "body_too_large": (413, "the body is longer than the limit"),
    "unsupported_type": (415, "Content-Type or Content-Encoding is none that is understood"),
    "wrong_host": (421, "Host is no name of this server's: --allowed-hosts"),
    "queue_full": (
        429,
        "too many requests are waiting, or too many bytes held; try again after Retry-After seconds",
    ),
    "not_ready": (503, "the server is starting: weights are checked, kernels compiled"),
    "draining": (503, "the server is stopping"),
    "too_many_connections": (503, "too many connections are open"),
    "deadline": (504, "the request wasn't computed in time"),
    "internal": (500, "a defect of the server; its log has the request id"),
}


@dataclass
class Problem(Exception):
    """An answer that isn't 200.

    Attributes
    ----------
    code : str
        A key of `CODES`.
    message : str
        What, where, expected, found, what to do.
    headers : mapping
    """

    code: str
    message: str
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def status(self) -> int:
        """The HTTP status."""
        return CODES[self.code][0]

    def body(self, request_id: str) -> dict[str, str]:
        """Return the answer's body: KServe's `error`, and ours."""
        return {"error": self.message, "code": self.code, "request_id": request_id}


def try_again(code: str, message: str, seconds: float) -> Problem:
    """Return a problem that goes away by itself, with ``Retry-After``."""
    return Problem(code, message, {"Retry-After": str(max(math.ceil(seconds), 1))})


_OF_LIBRARY = ((ImageError, "bad_image"), (ModelError, "bad_target"), (RuleError, "bad_rule"), (NumericsError, "not_finite"))


def problem_of(error: NplrpError) -> Problem:
    """Return the problem for one of the library's errors; one that the client can't have caused is internal."""
    for kind, code in _OF_LIBRARY:
        if isinstance(error, kind):
            return Problem(code, " ".join(str(error).split()))
    return Problem("internal", "the server has a defect; its log says more")


def chain(error: BaseException) -> Iterator[BaseException]:
    """Yield an exception, and those that it was raised from or because of."""
    waiting: list[BaseException | None] = [error]
    seen: set[int] = set()
    while waiting:
        each = waiting.pop()
        if each is not None and id(each) not in seen:
            seen.add(id(each))
            yield each
            waiting += [each.__cause__, each.__context__]


def let_go(error: BaseException) -> None:
    """Empty the frames that an exception holds, so that their images and arrays don't live until the cyclic collector comes.

    Where it was raised is kept for the log. Only in the thread that it was raised in: frames of coroutines may be at work elsewhere.
    """
    for each in chain(error):
        traceback.clear_frames(each.__traceback__)


def drop_traceback(error: BaseException) -> None:
    """Let an exception that was answered and logged hold nothing; its own frame may hold it."""
    for each in chain(error):
        each.__traceback__ = None
