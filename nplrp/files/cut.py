"""Files that are cut while they are mapped: this process says so when the system ends it, if it is one of our own."""

from __future__ import annotations

import mmap
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from nplrp.files import plain
from nplrp.pipes import readable


@contextmanager
def telling(program: str, code: int = 2) -> Iterator[None]:
    """Of files that are mapped within, say on stderr what became of one that was cut when that ends the process (SIGBUS); exit with a code.

    This is for processes of our own: others may have a handler of theirs.
    """

    def watch(content: mmap.mmap, path: str | os.PathLike[str]) -> None:
        import numpy as np

        from nplrp.jit import bus

        clear = "\r\x1b[K" if sys.stderr is not None and sys.stderr.isatty() else ""  # a progress bar
        text = f"{program}: {path}: the file was cut, or its disk failed, while it was mapped (SIGBUS); start again"
        text = f"{text}, and write a new file instead of changing one in use (--no-mmap reads weights into memory)"
        bus.watch(content, np.frombuffer(content, np.uint8).ctypes.data, len(content), f"{clear}{readable(text)}\n", code)

    plain.mapped.append(watch)
    try:
        yield
    finally:
        plain.mapped.remove(watch)
