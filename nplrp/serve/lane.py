"""The one thread that computes, behind a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any


class Full(Exception):
    """The queue has no place left."""


class Overdue(Exception):
    """The job's deadline has passed, or nobody waits for it any more."""


#: Computes jobs of one kind together: their payloads and their `wanted` -> one result or exception for each.
Compute = Callable[[Sequence["Job"]], Sequence[Any]]


class Job:
    """One request's work.

    Attributes
    ----------
    payload : object
        What `compute` is given.
    kind : hashable
        Jobs of one kind may be computed together.
    deadline : float
        By `time.monotonic`; a job that isn't begun by then never is.
    future : concurrent.futures.Future
    waited, took : float
        Seconds in the queue and in the computation, once it is done.
    """

    def __init__(self, payload: Any, kind: Hashable, deadline: float) -> None:
        self.payload, self.kind, self.deadline = payload, kind, deadline
        self.future: Future[Any] = Future()
        self.waited = self.took = 0.0
        self._entered = time.monotonic()
        self._abandoned = False

    def abandon(self) -> None:
        """Say that nobody waits for the result: it leaves the queue, or stops at the next image."""
        self._abandoned = True
        self.future.cancel()

    def wanted(self) -> bool:
        """Tell whether somebody still waits for the result."""
        return not self._abandoned and time.monotonic() < self.deadline

    def begin(self) -> bool:
        """Tell whether to compute the job, which from now on can't be cancelled."""
        self.waited = time.monotonic() - self._entered
        if not self.future.set_running_or_notify_cancel():
            return False
        if not self.wanted():
            self.future.set_exception(Overdue())
            return False
        return True


class Lane:
    """A thread that computes jobs in the order of their arrival, those of one kind together.

    Parameters
    ----------
    compute : callable
    capacity : int
        Jobs that may wait.
    batch : int
        Jobs that may be computed together.
    on_change : callable
        Called with (waiting, being computed) whenever that changes.
    """

    def __init__(self, compute: Compute, capacity: int, batch: int = 1, on_change: Callable[[int, int], None] = lambda *_: None) -> None:
        self._compute, self._capacity, self._batch, self._on_change = compute, capacity, batch, on_change
        self._waiting: deque[Job] = deque()
        self._running = 0
        self._mean = 0.5  # seconds for a job, of the last ones
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="nplrp-lane", daemon=True)
        self._thread.start()

    def submit(self, payload: Any, kind: Hashable, deadline: float) -> Job:
        """Put a job into the queue.

        Raises
        ------
        Full
        """
        job = Job(payload, kind, deadline)
        with self._changed:
            if self._stopped or len(self._waiting) >= self._capacity:
                raise Full
            self._waiting.append(job)
            self._changed.notify()
            self._report()
        job.future.add_done_callback(lambda _: self._forget(job))
        return job

    @property
    def full(self) -> bool:
        """Whether a job would be refused now."""
        return len(self._waiting) >= self._capacity

    @property
    def depth(self) -> int:
        """How many jobs wait."""
        return len(self._waiting)

    @property
    def alive(self) -> bool:
        """Whether the thread is there."""
        return self._thread.is_alive()

    def estimate(self) -> float:
        """Return about how many seconds a new job would wait."""
        return (len(self._waiting) + self._running) * self._mean

    def stop(self, timeout: float) -> bool:
        """Refuse new jobs, cancel those that wait, and tell whether the thread has ended within `timeout` seconds."""
        with self._changed:
            self._stopped = True
            waiting = list(self._waiting)
            self._changed.notify()
        for job in waiting:
            job.future.cancel()
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _forget(self, job: Job) -> None:
        """Free the place of a job that was cancelled while it waited."""
        with self._changed:
            if job in self._waiting:
                self._waiting.remove(job)
                self._report()

    def _report(self) -> None:
        self._on_change(len(self._waiting), self._running)

    def _next(self) -> list[Job]:
        """Wait for jobs and take the first, and others of its kind; none: stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if not self._waiting:
                return []
            first = self._waiting[0]
            taken = [job for job in self._waiting if job.kind == first.kind][: self._batch]
            for job in taken:
                self._waiting.remove(job)
            self._running = len(taken)
            self._report()
            return taken

    def _run(self) -> None:
        while taken := self._next():
            # In a function of its own, so that no local of this loop holds on to the last request's arrays.
            self._do([job for job in taken if job.begin()])
            del taken
            with self._changed:
                self._running = 0
                self._report()

    def _do(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        begun = time.monotonic()
        try:
            results: Sequence[Any] = self._compute(jobs)
        except BaseException as error:  # the thread must not end
            results = [error] * len(jobs)
        took = time.monotonic() - begun
        self._mean += 0.2 * (took / len(jobs) - self._mean)
        for job, result in zip(jobs, results, strict=True):
            job.took = took
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
