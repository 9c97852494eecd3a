"""Everything that can be set about a server: each field is a flag of `nplrp serve`, each limit is one of them."""

from __future__ import annotations

import argparse
import dataclasses
import math
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nplrp.containers import SCANS
from nplrp.serve.problems import ServeError

_SUFFIXES = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}


def parse_size(text: str) -> int:
    """Read a number of bytes, perhaps with K, M or G (1024, ...).

    Raises
    ------
    argparse.ArgumentTypeError

    Examples
    --------
    >>> parse_size("10M")
    10485760
    """
    found = re.fullmatch(r"(\d{1,18})([KMG]?)", text.strip().upper())
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of bytes; expected such as 500000, 512K, 10M or 1G")
    return int(found[1]) * _SUFFIXES[found[2]]


def _seconds(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return value


def _list(text: str) -> tuple[str, ...]:
    return tuple(each.strip() for each in text.split(","))


def _flag(default: Any, kind: Callable[[str], Any], help: str, low: float | None = None, high: float | None = None) -> Any:
    return dataclasses.field(default=default, metadata={"kind": kind, "help": help, "low": low, "high": high})


#: Pillow warns above this many pixels, so that whatever it warns of is refused.
_PILLOW = 89_000_000


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes
    ----------
    See the fields' help texts, which are those of `nplrp serve --help`.
    """

    host: str = _flag("127.0.0.1", str, "address to bind to")
    port: int = _flag(8080, int, "port to bind to; 0 takes a free one", 0, 65535)
    allowed_hosts: tuple[str, ...] = _flag(
        (), _list, "names in requests' Host beside localhost, loopback addresses and --host, by comma; * allows any"
    )
    cors: tuple[str, ...] = _flag((), _list, "origins whose pages may ask too, such as https://example.org, by comma")
    name: str = _flag("", str, "the model's name in URLs; default: its own")
    sha256: str = _flag("", str, "content hash that the weights must have (as nplrp info prints it)")
    workers: int = _flag(1, int, "processes", 1, 256)
    threads: int = _flag(0, int, "Numba threads of each process; default: cores / workers", 0, 1024)
    queue: int = _flag(64, int, "requests of one process that may wait to be computed; more get 429", 1)
    batch: int = _flag(4, int, "images that are computed together, also of several requests with equal parameters", 1, 8)
    decoders: int = _flag(2, int, "threads of each process that decode images and write answers", 1, 64)
    deadline: float = _flag(60.0, _seconds, "seconds from a request's arrival to its answer; later is 504", 0.01)
    drain: float = _flag(30.0, _seconds, "seconds after SIGTERM that accepted requests may take", 0.0)
    max_body: int = _flag(10 << 20, parse_size, "bytes of a request's body; more is 413", 1)
    max_buffered: int = _flag(256 << 20, parse_size, "bytes of all bodies that one process holds at once; more is 429", 1)
    max_pixels: int = _flag(25_000_000, int, "pixels of an image, by its header", 1, _PILLOW)
    max_side: int = _flag(32_768, int, "pixels of an image's width, and of its height", 1)
    max_scans: int = _flag(100, int, "passes over the image in a progressive JPEG, usually 10; even an empty one takes time", 1, SCANS)
    max_instances: int = _flag(16, int, "images of one request", 1)
    max_maps: int = _flag(32, int, "relevance maps of one request: images times targets", 1)
    max_response: int = _flag(256 << 20, parse_size, "bytes of a response, estimated before anything is computed", 1)
    max_answers: int = _flag(
        512 << 20, parse_size, "bytes of answers, by the same estimate, that one process computes or sends at once; more get 429", 1
    )
    max_memory: int = _flag(
        1 << 30,
        parse_size,
        "bytes that one process holds for requests: bodies, images in decoders, the queue, answers; more get 429",
        1,
    )
    max_prepared: int = _flag(1 << 30, parse_size, "bytes of weights prepared for rules that one process keeps", 0)
    max_connections: int = _flag(256, int, "connections of one process; more get 503", 1)
    max_head: int = _flag(16 << 10, parse_size, "bytes of a request's line and headers", 256)
    head_timeout: float = _flag(10.0, _seconds, "seconds for a request's line and headers", 0.01)
    body_timeout: float = _flag(30.0, _seconds, "seconds for a request's body; later is 408", 0.01)
    send_timeout: float = _flag(30.0, _seconds, "seconds in which a client must take the next 64 KiB of an answer", 0.01)
    keep_alive: float = _flag(5.0, _seconds, "seconds that an idle connection stays open", 0.0)
    dtypes: tuple[str, ...] = _flag(("float32",), _list, "dtypes that clients may ask for: float32, float64 or both, by comma")

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, low, high = getattr(self, field.name), field.metadata["low"], field.metadata["high"]
            if (low is not None and value < low) or (high is not None and value > high):
                expected = f"at least {low:g}" if high is None else f"{low:g} to {high:g}"
                raise ServeError(f"{flag_name(field.name)} {value:g}: out of range, expected {expected}")
        if self.name and re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}", self.name) is None:
            raise ServeError(f"--name {self.name!r}: expected letters, digits, '.', '_' and '-', at most 100, the first a letter or digit")
        if self.sha256 and re.fullmatch(r"[0-9a-f]{64}", self.sha256) is None:
            raise ServeError(f"--sha256 {self.sha256!r}: expected 64 hexadecimal digits; nplrp info prints a model's")
        for host in self.allowed_hosts:
            if re.fullmatch(r"\*|\[?[0-9A-Za-z._:-]{1,253}\]?", host) is None or re.fullmatch(r"[^:\[\]]+:.*", host):
                raise ServeError(f"--allowed-hosts {host!r}: expected a host's name or address, without scheme and port, or *")
        for origin in self.cors:
            if re.fullmatch(r"https?://(\[[0-9a-f:.]+\]|[0-9a-z._-]+)(:[0-9]{1,5})?", origin) is None:
                raise ServeError(f"--cors {origin!r}: expected an origin as browsers write it, such as https://example.org")
        unknown = [each for each in self.dtypes if each not in ("float32", "float64")]
        if unknown or not self.dtypes:
            raise ServeError(f"--dtypes {','.join(self.dtypes)}: expected float32, float64 or both, by comma")

    def numba_threads(self) -> int:
        """Return the Numba threads of each process."""
        return self.threads or max(cores() // self.workers, 1)


def flag_name(field: str) -> str:
    """Return the flag of a field: ``--max-body`` of ``max_body``."""
    return f"--{field.replace('_', '-')}"


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every field of `Settings`; where none is given the namespace has None, so that variables and a file are asked."""
    for field in dataclasses.fields(Settings):
        default = ",".join(field.default) if isinstance(field.default, tuple) else field.default
        shown = f" (default {default:g})" if isinstance(default, float) else f" (default {default})" if default else ""
        kind = field.metadata["kind"]
        parser.add_argument(
            flag_name(field.name),
            type=kind,
            metavar={str: "TEXT", int: "N", parse_size: "BYTES", _seconds: "SECONDS"}.get(kind, "LIST"),
            help=field.metadata["help"] + shown,
        )


def settings_of(arguments: argparse.Namespace) -> Settings:
    """Return what the flags say.

    Raises
    ------
    ServeError
        If a value is out of range; the message names where it was set.
    """
    given = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)}
    try:
        return Settings(**{name: value for name, value in given.items() if value is not None})
    except ServeError as error:
        flag = re.match(r"--([a-z0-9-]+)", str(error))
        where = getattr(arguments, "origins", {}).get(flag[1].replace("-", "_") if flag else "")
        raise ServeError(f"{error} (set by {where})") if where else error from None


def cores() -> int:
    """Return how many CPUs this process may use: its affinity, and a container's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text("ascii").split()
        return max(min(count, math.ceil(int(quota) / int(period))), 1)
    except (OSError, ValueError):  # no such file, or "max"
        return count
