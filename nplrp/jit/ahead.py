"""A worker process that compiles beside this one, so that the first explanation from the shell waits half as long: the cache joins them."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

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
    helper, logger = _Helper([sys.executable, "-m", module, *arguments]), logging.getLogger("nplrp")
    logger.addHandler(helper)
    try:
        yield
    finally:
        logger.removeHandler(helper)
        helper.close()


class _Helper(logging.Handler):
    def __init__(self, command: list[str]) -> None:
        super().__init__()
        self._command = command
        self._process: subprocess.Popen[bytes] | None = None

    def emit(self, record: logging.LogRecord) -> None:  # the cache says once that kernels are being compiled
        from nplrp.jit import cache, team

        if record.name != cache.__name__ or cache.cache_directory() is None or team.cores() < 2 or not sys.executable:
            return
        import subprocess

        nowhere = subprocess.DEVNULL
        try:
            self._process = subprocess.Popen(self._command, stdin=nowhere, stdout=nowhere, stderr=nowhere)
        except OSError:  # alone it works as well
            return

    def close(self) -> None:
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
        super().close()
