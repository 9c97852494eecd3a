"""The one thread that computes, behind a bounded queue."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from typing import Any

from nplrp.serve.problems import let_go

#: Kinds of jobs whose time is remembered, and how many times as long a job must have left to be begun.
_KINDS, _MARGIN = 100, 1.3


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

    def begin(self, expected: float = 0.0) -> bool:
        """Tell whether to compute the job, which takes about `expected` seconds; from now on it can't be cancelled.

        One that would end after its deadline isn't begun: under overload the lane would compute nothing but what comes too late. Half of a
        job's time is always enough, because the expectation may be wrong.
        """
        now = time.monotonic()
        self.waited = now - self._entered
        if not self.future.set_running_or_notify_cancel():
            return False
        if not self.wanted() or self.deadline - now < min(expected, (self.deadline - self._entered) / 2):
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
        self._mean = 0.0  # seconds for a job, of the last ones
        self._expected: dict[Hashable, float] = {}  # seconds from begin to end, of the last jobs of a kind
        self._stopped = False
        self._changed = threading.Condition()
        self._thread = threading.Thread(target=self._run, name="nplrp-lane", daemon=True)
        self._thread.start()

    def submit(self, payload: Any, kind: Hashable, deadline: float) -> Job:
        """Put a job into the queue; the time of one of kind None says nothing about others.

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

    def _next(self) -> list[Job] | None:
        """Wait for jobs and begin the first, and others of its kind, as far as they can be done in time; None: stop."""
        with self._changed:
            self._changed.wait_for(lambda: self._waiting or self._stopped)
            if not self._waiting:
                return None
            kind, taken = self._waiting[0].kind, []
            for job in [job for job in self._waiting if job.kind == kind]:
                self._waiting.remove(job)
                if job.begin(_MARGIN * self._expected.get(kind, 0.0)):
                    taken.append(job)
                if len(taken) == self._batch:
                    break
            self._running = len(taken)
            self._report()
            return taken

    def _run(self) -> None:
        while (taken := self._next()) is not None:
            self._do(taken)
            del taken  # so that no local of this loop holds on to the last request's arrays
            with self._changed:
                self._running = 0
                self._report()

    def _learn(self, kind: Hashable, count: int, took: float) -> None:
        """Remember how long jobs take, also by kind; clients may make any number of kinds."""
        self._mean += 0.2 * (took / count - self._mean) if self._mean else took / count
        if kind not in self._expected and len(self._expected) >= _KINDS:
            self._expected.clear()
        before = self._expected.get(kind, took)
        self._expected[kind] = before + 0.5 * (took - before)

    def _do(self, jobs: list[Job]) -> None:
        if not jobs:
            return
        begun = time.monotonic()
        results = self._results(jobs)
        took = time.monotonic() - begun
        if jobs[0].kind is not None:
            self._learn(jobs[0].kind, len(jobs), took)
        for result in results:  # before a future has it, and its coroutine raises it
            if isinstance(result, BaseException):
                let_go(result)
        for job, result in zip(jobs, results, strict=True):
            job.took = took
            if isinstance(result, BaseException):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)

    def _results(self, jobs: list[Job]) -> Sequence[Any]:
        try:
            return self._compute(jobs)
        except BaseException as error:  # the thread must not end
            # Without this frame, which is at work and can't be emptied.
            return [error.with_traceback(error.__traceback__ and error.__traceback__.tb_next)] * len(jobs)
