"""The same shards on the workers of dask.distributed: whoever computes one, it has the same bits, so a worker that dies costs time alone.

Every worker reads the images and the weights itself, and writes its shards into the run's folder: a cluster needs a file system that all
of its machines see under the same names. The weights are memory-mapped, so that the workers of a machine share one copy. A worker should
run one task at a time (``dask worker --nthreads 1``) and be told how many cores it has by NUMBA_NUM_THREADS; `local` does both.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nplrp.batch.job import Job
from nplrp.batch.running import Part, Report, compute_shard, held, missing_shards
from nplrp.errors import NplrpError, OutputError
from nplrp.files.cut import telling
from nplrp.files.given import Given
from nplrp.jit.team import cores
from nplrp.model import Model
from nplrp.stream import Wanted

if TYPE_CHECKING:
    from distributed import Client

#: How often a shard is given to another worker after one has died with it.
_RETRIES = 3
#: Seconds to wait for a scheduler to answer.
_PATIENCE = 15


def run_scheduled(
    job: Job,
    out: Path,
    given: Given,
    model: Model,
    wanted: Wanted,
    scheduler: str,
    told: Callable[[int, int], None] | None = None,
    note: Callable[[str], None] | None = None,
) -> Report:
    """Compute the shards of a run that aren't there yet on a scheduler's workers; parameters as of `nplrp.batch.running.run`.

    Parameters
    ----------
    given : Given
        How the workers load the model.
    scheduler : str
        ``"local"``: as many processes as pay on this machine; ``"local:N"``: N of them; else the address of a scheduler.

    Raises
    ------
    OutputError
        If the scheduler can't be reached, or a worker can't read or write what it should.
    """
    weights, config = (None if path is None else str(Path(path).resolve()) for path in (given.weights or model.source, given.config))
    given = dataclasses.replace(given, weights=weights, config=config)
    with held(out, Part()), _client(scheduler) as client:
        from distributed import as_completed

        report = Report()
        missing = missing_shards(job, out, model, wanted, list(job.shards), report, note)
        total, done, root = sum(len(job.places(shard)) for shard in missing), 0, Path.cwd()
        shared = client.scatter((job, out.resolve(), given, wanted, root), broadcast=True, hash=False) if missing else None
        futures = {client.submit(_compute, shared, shard, pure=False, retries=_RETRIES): shard for shard in missing}
        try:
            for future in as_completed(list(futures)):
                failed, count = _result(future), len(job.places(futures[future]))
                report.failed += failed
                report.done += count - len(failed)
                done += count
                future.release()
                if told:
                    told(done, total)
        finally:
            client.cancel(list(futures))
    return report


def _result(future: Any) -> list[tuple[str, str]]:
    from distributed.scheduler import KilledWorker

    try:
        return list(future.result())
    except NplrpError:
        raise
    except KilledWorker as error:
        raise OutputError(f"a shard has brought down {_RETRIES + 1} workers: {error}; do they have memory enough?") from None
    except OSError as error:
        raise OutputError(f"a worker failed: {error}; can it see the images, the weights and the output folder?") from None


def _compute(shared: tuple[Job, Path, Given, Wanted, Path], shard: int) -> list[tuple[str, str]]:
    """Compute one shard on a worker and return which images failed, and why."""
    job, out, given, wanted, root = shared
    return compute_shard(job, out, shard, _model(given, job), wanted, root)


def _model(given: Given, job: Job) -> Model:
    """Return this worker's model, loaded for its first shard."""
    from distributed import get_worker

    worker = get_worker()
    models: dict[Given, Model] = worker.__dict__.setdefault("nplrp_models", {})  # goes with the worker
    if given not in models:
        with telling("nplrp worker"):
            models[given] = given.load()
    if models[given].content_hash != job.facts["weights_sha256"]:
        raise OutputError(f"a worker has other weights in {given.weights}; copy the file again")
    return models[given]


@contextmanager
def _client(scheduler: str) -> Iterator[Client]:
    """Connect to a scheduler, or start one with its workers."""
    try:
        from distributed import Client, LocalCluster
    except ModuleNotFoundError:
        raise OutputError("--scheduler needs dask, which isn't installed: pip install 'nplrp[dask]'") from None
    local, _, count = scheduler.partition(":")
    if local == "local" and (not count or count.isdigit()):
        workers = int(count or max(cores() // 2, 1))
        if not 1 <= workers <= 1024:
            raise OutputError(f"--scheduler {scheduler}: expected local:N with 1 to 1024 workers")
        threads = str(max(cores() // workers, 1))
        environment = dict.fromkeys(("NUMBA_NUM_THREADS", "OMP_NUM_THREADS"), threads)
        # The address of the dashboard is left out: it would be open to everybody on this machine.
        with (
            LocalCluster(
                n_workers=workers, threads_per_worker=1, processes=True, dashboard_address=None, env=environment, silence_logs=50
            ) as cluster,
            Client(cluster) as client,
        ):
            yield client
        return
    try:
        client = Client(scheduler, timeout=_PATIENCE)
    except (OSError, ValueError, TypeError) as error:
        reason = " ".join(str(error).split())[:150]
        expected = "expected local, local:N or an address such as tcp://host:8786"
        raise OutputError(f"--scheduler {scheduler}: can't be reached: {reason}; {expected}") from None
    with client:
        yield client
