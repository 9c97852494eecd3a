"""The port that is served on."""

from __future__ import annotations

import socket

from nplrp.serve.problems import ServeError
from nplrp.serve.settings import Settings


def bound(settings: Settings) -> socket.socket:
    """Bind the port, and let nobody in yet.

    Raises
    ------
    ServeError
        If that isn't possible.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    sock = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)  # asyncio sets TCP_NODELAY only if it is told the protocol
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((settings.host, settings.port))
        sock.setblocking(False)
    except (OSError, ValueError, TypeError) as error:  # a name that can't be one, too long, or with a NUL
        sock.close()
        reason = getattr(error, "strerror", None) or error
        raise ServeError(f"{settings.host[:100]}:{settings.port}: can't listen there: {reason}; choose another --host or --port") from None
    return sock


def listen(sock: socket.socket, settings: Settings) -> None:
    """Let clients in.

    Raises
    ------
    ServeError
        If another process has begun to listen there.
    """
    where = address(sock)
    try:
        sock.listen(min(settings.max_connections, 2048))
    except OSError as error:
        sock.close()
        raise ServeError(f"{where}: can't listen there: {error.strerror}; choose another --host or --port") from None


def address(sock: socket.socket) -> str:
    """Return a listening socket's URL."""
    host, port = sock.getsockname()[:2]
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"
