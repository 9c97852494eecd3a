"""Several serving processes on one port: started, watched, started again, and stopped together.

The parent binds the port and computes nothing. Each worker is a fresh process (spawn) that maps the weights from the same file, so that
the page cache holds one copy for all. A worker that dies is replaced. Where others serve already, a worker accepts connections only once
it is ready.
"""

from __future__ import annotations

import logging
import multiprocessing
import multiprocessing.connection
import os
import shutil
import signal
import socket
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from nplrp.files.cut import telling
from nplrp.pipes import heedless
from nplrp.serve.settings import Settings
from nplrp.serve.source import Source

#: Exit code of a worker that can't be started, whatever is tried.
FAILED = 3
#: A worker that dies within so many seconds is replaced after a pause, which doubles up to the longest.
_EARLY, _LONGEST_PAUSE = 30.0, 30.0
#: Seconds beyond --drain before a worker is killed.
_GRACE = 10.0
#: How folders of metrics are called, and seconds in which a new one may not have its lock yet.
_PREFIX, _SETTLED = "nplrp-metrics-", 10.0

log = logging.getLogger("nplrp.serve")


def supervise(source: Source, settings: Settings, sock: socket.socket) -> int:
    """Run --workers processes until a signal says stop, and return the exit code.

    Parameters
    ----------
    source : Source
        Which model each worker loads for itself.
    settings : Settings
    sock : socket
        Listening.
    """
    sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as folder, _locked(Path(folder)):
        os.environ["PROMETHEUS_MULTIPROC_DIR"] = folder  # read by each worker when it first imports prometheus_client
        return _Supervisor(source, settings, sock).run()


@contextmanager
def _locked(folder: Path) -> Iterator[bool]:
    """Hold a folder's lock, which the system takes back however this process ends; yield whether nobody else has it."""
    try:
        import fcntl
    except ImportError:  # no lock, so that nobody's folder is free
        yield False
        return
    descriptor = os.open(folder, os.O_RDONLY | os.O_NOFOLLOW | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(descriptor)


def sweep() -> None:
    """Remove the folders of metrics that parents have left which were killed."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError):  # somebody else's, or gone
            found = folder.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _SETTLED:
                continue
            with _locked(folder) as free:
                if free:
                    shutil.rmtree(folder)


class _Supervisor:
    def __init__(self, source: Source, settings: Settings, sock: socket.socket) -> None:
        self._source, self._settings, self._sock = source, settings, sock
        self._context: Any = multiprocessing.get_context("spawn")
        self._workers: dict[BaseProcess, float] = {}  # and when each was started
        self._pause, self._start_at = 0.5, 0.0
        self._asked = 0  # signals to stop

    def run(self) -> int:
        for each in (signal.SIGTERM, signal.SIGINT):
            signal.signal(each, self._on_signal)
        failed = self._replace_dead()
        while not self._asked and not failed:
            multiprocessing.connection.wait([worker.sentinel for worker in self._workers], timeout=0.2)
            failed = self._replace_dead()
        self._stop()
        return FAILED if failed else 0

    def _on_signal(self, *_: Any) -> None:
        self._asked += 1

    def _start(self, patient: bool) -> None:
        # Daemonic processes are killed, not drained, when the parent ends; ours watch the parent instead.
        worker = self._context.Process(target=_work, args=(self._source, self._settings, self._sock, patient), name="nplrp-worker")
        worker.start()
        self._workers[worker] = time.monotonic()

    def _replace_dead(self) -> bool:
        """Bury workers that have died, and start others when it is time; tell whether one has failed for good."""
        for worker, started in list(self._workers.items()):
            if worker.is_alive():
                continue
            del self._workers[worker]
            worker.join()
            if worker.exitcode == FAILED:
                log.error("worker %s can't be started; stopping", worker.pid)
                return True
            early = time.monotonic() - started < _EARLY
            self._pause = min(self._pause * 2, _LONGEST_PAUSE) if early else 0.5
            self._start_at = time.monotonic() + (self._pause if early else 0.0)
            log.warning("worker %s died (exit code %s); starting another", worker.pid, worker.exitcode)
            _mark_dead(worker.pid)
        if time.monotonic() >= self._start_at:
            for _ in range(self._settings.workers - len(self._workers)):
                self._start(patient=bool(self._workers))
        return False

    def _stop(self) -> None:
        """Let all workers drain; kill those that don't end, or all when asked again."""
        asked, stop_by = self._asked, time.monotonic() + self._settings.drain + _GRACE
        for worker in self._workers:
            worker.terminate()
        while any(worker.is_alive() for worker in self._workers) and time.monotonic() < stop_by and self._asked <= max(asked, 1):
            multiprocessing.connection.wait([worker.sentinel for worker in self._workers if worker.is_alive()], timeout=0.2)
        for worker in self._workers:
            if worker.is_alive():
                log.warning("worker %s doesn't stop; killing it", worker.pid)
                worker.kill()
            worker.join()


def _mark_dead(pid: int | None) -> None:
    """Take a dead worker's gauges out of the metrics; its counters stay."""
    from prometheus_client import multiprocess

    multiprocess.mark_process_dead(pid)


def _work(source: Source, settings: Settings, sock: socket.socket, patient: bool) -> None:
    """Serve, in a process of its own."""
    import sys

    from nplrp.errors import NplrpError
    from nplrp.serve.server import serve, set_up_logs

    with heedless(), telling("nplrp"):  # whether or not somebody reads the log
        set_up_logs()
        parent = multiprocessing.parent_process()
        assert parent is not None
        try:
            code = serve(source.load(), settings, source.sample, sock, patient, parent.sentinel)
        except NplrpError as error:
            log.error("can't serve: %s", error)
            code = FAILED
    sys.exit(code)
