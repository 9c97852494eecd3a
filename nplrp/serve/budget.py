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
    """What one request holds of a budget, until it is closed; for the event loop and the threads that work for it."""

    def __init__(self, budget: Budget) -> None:
        self._budget, self.held = budget, 0

    def take(self, size: int) -> None:
        """Count bytes; a request that is alone is always let through.

        Raises
        ------
        Problem
            queue_full.
        """
        with self._budget.changed:
            if not self._fits(size):
                raise self._full()
            self._add(size)

    def give(self, size: int) -> None:
        """Give bytes back."""
        with self._budget.changed:
            self._add(-size)
            self._budget.changed.notify_all()

    def close(self) -> None:
        """Give everything back."""
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
            while not self._fits(size):
                if not budget.decoding:  # what is held won't be given back soon
                    raise self._full()
                if not budget.changed.wait(min(deadline - time.monotonic(), threading.TIMEOUT_MAX)):
                    raise Problem("deadline", "there was no memory in time to decode the image (--max-memory)")
            self._add(size)
            budget.decoding += 1
        try:
            yield
        finally:
            with budget.changed:
                budget.decoding -= 1
                self._add(-size)
                budget.changed.notify_all()

    def _fits(self, size: int) -> bool:
        return self._budget.held + size <= self._budget.limit or self._budget.held == self.held

    def _add(self, size: int) -> None:
        self.held += size
        self._budget.held += size

    def _full(self) -> Problem:
        return try_again("queue_full", "other requests take all the memory there is for them (--max-memory)", 1)
