"""The bytes that one process holds for requests: bodies, pictures while they are decoded, what waits to be computed, answers."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

from nplrp.serve.problems import Problem, try_again


class Budget:
    """A number of bytes that requests share.

    Parameters
    ----------
    limit : int
    """

    def __init__(self, limit: int) -> None:
        self.limit, self.held = limit, 0
        self.decoding = 0
        self.changed = threading.Condition()

    def share(self) -> Share:
        """Return an empty share."""
        return Share(self)


class Share:
    """What one request holds of a budget, until it is closed; for the event loop and the threads that work for it.

    A thread may go on for a while after its request was answered: it takes nothing more then.
    """

    def __init__(self, budget: Budget) -> None:
        self._budget, self._closed = budget, False
        self.held = self._rooms = 0

    def take(self, size: int) -> None:
        """Count bytes; a request that is alone is always let through.

        Raises
        ------
        Problem
            queue_full; deadline, if it is closed.
        """
        with self._budget.changed:
            self._check_open()
            if not self._fits(size):
                raise self._full()
            self.held += size
            self._budget.held += size

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._budget.changed:
            self.held -= size
            self._budget.held -= size
            self._budget.changed.notify_all()

    def close(self) -> None:
        """Give everything back, but for what a decoder still works in."""
        self._closed = True
        self.give(self.held)

    @contextmanager
    def room(self, size: int, deadline: float) -> Iterator[None]:
        """Hold bytes while a picture is decoded; wait for other pictures until then.

        Raises
        ------
        Problem
            queue_full, or deadline.
        """
        budget = self._budget
        with budget.changed:
            self._check_open()
            while not self._fits(size):
                if not budget.decoding:  # what is held won't be given back soon
                    raise self._full()
                if not budget.changed.wait(min(deadline - time.monotonic(), threading.TIMEOUT_MAX)):
                    raise _late()
                self._check_open()
            self._enter(size, 1)
        try:
            yield
        finally:
            with budget.changed:
                self._enter(-size, -1)
                budget.changed.notify_all()

    def _enter(self, size: int, decoders: int) -> None:
        self._rooms += size
        self._budget.held += size
        self._budget.decoding += decoders

    def _check_open(self) -> None:
        if self._closed:
            raise _late()

    def _fits(self, size: int) -> bool:
        alone = self._budget.held == self.held + self._rooms
        return alone or self._budget.held + size <= self._budget.limit

    def _full(self) -> Problem:
        return try_again("queue_full", "other requests take all the memory there is for them (--max-memory)", 1)


def _late() -> Problem:
    return Problem("deadline", "there was no memory for the image in time (--max-memory)")
