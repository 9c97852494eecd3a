"""Prometheus metrics of one process, or of all workers together."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest

#: Where workers put their numbers for each other; prometheus_client reads it when it is first imported.
SHARED = "PROMETHEUS_MULTIPROC_DIR"
CONTENT_TYPE = CONTENT_TYPE_LATEST

_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0)


class Metrics:
    """What the server counts.

    Attributes
    ----------
    requests : Counter(route, status)
    rejected : Counter(reason)
        Refused requests, by the `code` of the answer.
    latency : Histogram(route)
    waiting, compute : Histogram
        Seconds in the queue; seconds of each computation, by verb.
    depth, in_flight, connections, resident, ready : Gauge
    """

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self.requests = self._counter("nplrp_requests", "Requests, by route and status", "route", "status")
        self.rejected = self._counter("nplrp_rejected", "Requests that were refused, by the code of the answer", "reason")
        self.latency = self._histogram("nplrp_request_seconds", "Seconds from a request's arrival to the end of its answer", "route")
        self.waiting = self._histogram("nplrp_queue_seconds", "Seconds that a request waited to be computed")
        self.compute = self._histogram("nplrp_compute_seconds", "Seconds that a request was computed", "verb")
        self.depth = self._gauge("nplrp_queue_depth", "Requests that wait to be computed")
        self.in_flight = self._gauge("nplrp_in_flight", "Requests that have arrived and aren't answered")
        self.connections = self._gauge("nplrp_connections", "Open connections")
        self.resident = self._gauge("nplrp_resident_bytes", "Resident memory, shared pages counted for each process")
        self.ready = self._gauge("nplrp_ready", "Processes that are ready")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, *labels: str) -> Histogram:
        return Histogram(name, text, labels, registry=self._registry, buckets=_SECONDS)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self._registry, multiprocess_mode="livesum")

    def measure_memory(self) -> None:
        """Read this process's resident memory."""
        size = resident()
        if size is not None:
            self.resident.set(size)

    def text(self) -> bytes:
        """Return all metrics in Prometheus's text format, of all workers if there are several."""
        self.measure_memory()
        if SHARED in os.environ:
            from prometheus_client import multiprocess

            registry: Any = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)
            return generate_latest(registry)
        return generate_latest(self._registry)


def resident() -> int | None:
    """Return this process's resident memory in bytes, or None where the system doesn't say."""
    try:
        return int(Path("/proc/self/statm").read_text("ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError):
        return None
