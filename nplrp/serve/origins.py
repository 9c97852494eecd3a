"""Whose pages may ask: names that the server goes by, and origins other than its own.

A page from elsewhere can make its reader's browser send anything to 127.0.0.1, and read the answers once its own name leads there (DNS
rebinding): then the name is in `Host`. Where a request comes from stands in `Origin` and `Sec-Fetch-Site`, which pages can't set.
"""

from __future__ import annotations

import ipaddress
import re

from starlette.types import Scope

from nplrp.serve.problems import Problem
from nplrp.serve.settings import Settings

Headers = list[tuple[bytes, bytes]]

_HOST = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:@/]+)(?::[0-9]*)?")
_SAFE = ("GET", "HEAD", "OPTIONS")
_EVERYWHERE = ("0.0.0.0", "::")


class Origins:
    """What the settings allow.

    Parameters
    ----------
    settings : Settings
    """

    def __init__(self, settings: Settings) -> None:
        self._cors = settings.cors
        self._any = "*" in settings.allowed_hosts
        self._names = {"localhost", *(each.lower() for each in (*settings.allowed_hosts, settings.host))}
        # Who is asked by number wasn't looked up, so that no name can have been led here.
        self._numbers = settings.host in _EVERYWHERE

    def check(self, scope: Scope) -> None:
        """Refuse another name, and what another origin's page sends.

        Raises
        ------
        Problem
            wrong_host or foreign_origin.
        """
        host = _header(scope, b"host")
        if host is not None and not self._is_ours(host):
            raise Problem("wrong_host", f"the request is for the host {host[:100]!a}, which isn't this server's (--allowed-hosts)")
        origin, site = _header(scope, b"origin"), _header(scope, b"sec-fetch-site")
        if scope["method"] in _SAFE or (origin is not None and origin in self._cors):
            return
        own = (None, f"http://{host}", f"https://{host}")
        if site not in ("same-origin", "none") if site is not None else origin not in own:
            said = f"origin {origin[:100]!a}" if origin else "another site"
            raise Problem("foreign_origin", f"the request comes from a page of {said}, which may not ask (--cors)")

    def _is_ours(self, host: str) -> bool:
        found = _HOST.fullmatch(host.lower())
        name = found[1].strip("[]").removesuffix(".") if found else ""
        if name in self._names or self._any:
            return True
        try:
            return ipaddress.ip_address(name).is_loopback or self._numbers
        except ValueError:
            return False

    def headers(self, scope: Scope) -> Headers:
        """Return what an answer says to browsers about other origins."""
        origin = _header(scope, b"origin")
        vary: Headers = [(b"vary", b"Origin")] if self._cors else []
        if origin is None or origin not in self._cors:
            return [*vary, (b"cross-origin-resource-policy", b"same-origin")]
        return [
            *vary,
            (b"cross-origin-resource-policy", b"cross-origin"),
            (b"access-control-allow-origin", origin.encode("latin-1")),
            (b"access-control-expose-headers", b"X-Request-ID, Retry-After"),
        ]

    def preflight(self, scope: Scope) -> Headers | None:
        """Return what to answer when a browser asks whether another origin may ask; None if this is no such question, or it may not."""
        asks = _header(scope, b"access-control-request-method") is not None
        if scope["method"] != "OPTIONS" or not asks or _header(scope, b"origin") not in self._cors:
            return None
        return [
            (b"access-control-allow-methods", b"GET, POST"),
            (b"access-control-allow-headers", b"Content-Type, X-Request-ID"),
            (b"access-control-max-age", b"600"),
        ]


def _header(scope: Scope, name: bytes) -> str | None:
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), None)
