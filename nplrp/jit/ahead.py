"""A worker process that compiles beside this one, so that the first explanation from the shell waits half as long: the cache joins them."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from nplrp.jit import cache, team

if TYPE_CHECKING:
    import subprocess


@contextmanager
def compiling_ahead(module: str, *arguments: str) -> Iterator[None]:
    """Start a worker process if something has to be compiled inside the `with` block; it ends with the block, if not before.

    Parameters
    ----------
    module : str
        What the worker runs as a program.
    *arguments : str
    """
    workers: list[subprocess.Popen[bytes]] = []

    def start() -> None:
        import subprocess

        if cache.cache_directory() is not None and team.cores() > 1 and sys.executable:
            command, nowhere = [sys.executable, "-m", module, *arguments], subprocess.DEVNULL
            with suppress(OSError):  # without it everything works as well
                workers.append(subprocess.Popen(command, stdin=nowhere, stdout=nowhere, stderr=nowhere))

    with cache.on_first_compile(start):
        try:
            yield
        finally:
            for worker in workers:
                worker.terminate()
                worker.wait()
