"""A queue of kernels, run one after the other by one team of threads.

Between two kernels that are called one by one, the team goes to sleep and Python, whose data the kernels have driven out of the caches,
takes its time: with 80 kernels a tenth of an explanation. Kernels that don't wait for Python are noted down instead, and run by one team of
OpenMP's, in which every thread waits for the others after each kernel. Without OpenMP they are run one by one.
"""

import ctypes
import threading
from contextlib import contextmanager

import numpy as np

from nplrp.jit import team

_current = threading.local()


def current():
    """Return the queue that this thread's calls of shared kernels are noted down in, or None."""
    return getattr(_current, "queue", None)


class Queue:
    """Kernels that wait to be run.

    Inside `with queue:` calls of shared kernels are noted down; `run` runs them. Until then nobody may look at what they write, nor write
    what they read, but by further such calls.
    """

    def __init__(self):
        self._calls = []

    def __enter__(self):
        _current.queue = self
        return self

    def __exit__(self, *exception):
        _current.queue = None

    def add(self, nt, code, numbers, arguments):
        """Note down a call in `nt` parts; `arguments` are kept until it is done."""
        self._calls.append((nt, code, numbers, arguments))

    def run(self):
        """Run what waits.

        Raises
        ------
        MemoryError
            If a kernel got no memory for its buffers.
        """
        if not self._calls:
            return
        threads, openmp = max(nt for nt, *_ in self._calls), team.openmp()
        try:
            if threads > 1 and openmp is None:  # Python's threads may begin late, or never: they don't wait for each other inside kernels
                for nt, code, numbers, _ in self._calls:
                    code.share(numbers, nt)
            else:
                self._run_in_team(threads, *(openmp[1:] if threads > 1 else (0, 0)))  # alone there is no team to ask
        finally:
            self._calls = []

    def _run_in_team(self, threads, number, size):
        from nplrp.jit.barrier import run_all, yield_address

        blocks = [code.block(numbers) for _, code, numbers, _ in self._calls]
        calls = [(code.part_address, ctypes.addressof(block), nt) for (nt, code, *_), block in zip(self._calls, blocks, strict=True)]
        with at_once():
            run_all(threads, np.array(calls, np.int64).reshape(-1), np.zeros(1, np.int64), number, size, yield_address())
        for (_, code, *_), block in zip(self._calls, blocks, strict=True):
            code.result(block)


@contextmanager
def at_once():
    """Run the block's calls of shared kernels at once, also where calls are being noted down."""
    outer, _current.queue = current(), None
    try:
        yield
    finally:
        _current.queue = outer
