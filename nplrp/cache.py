"""What nplrp keeps between runs: small text entries in the user's cache directory. Losing them costs time, nothing else."""

from __future__ import annotations

import hashlib
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path


def directory() -> Path:
    """Return the cache directory: ``$NPLRP_CACHE``, else ``$XDG_CACHE_HOME/nplrp``, by default ``~/.cache/nplrp``. It may not exist."""
    given = os.environ.get("NPLRP_CACHE")
    if given:
        return Path(given).expanduser()
    base = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "nplrp"


def remembered_hash(key: str, compute: Callable[[], str]) -> str:
    """Return the SHA-256 kept under `key`, or compute and keep it; a cache that can't be read or written is passed over.

    Parameters
    ----------
    key : str
        Everything that the hash depends on.
    compute : callable
        Returns 64 hexadecimal digits.
    """
    entry = None
    with suppress(OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: no home directory
        entry = directory() / "hashes" / hashlib.sha256(key.encode("utf-8", "surrogateescape")).hexdigest()
        kept = entry.read_text("ascii").strip()
        if len(kept) == 64 and set(kept) <= set("0123456789abcdef"):
            return kept
    value = compute()
    if entry is not None:
        with suppress(OSError):
            entry.parent.mkdir(parents=True, exist_ok=True)
            with tempfile.NamedTemporaryFile("w", dir=entry.parent, delete=False) as file:
                file.write(value)
            Path(file.name).replace(entry)
    return value
