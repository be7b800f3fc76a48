"""Starting workers: on this machine, one per GPU, or as SLURM jobs by dask-jobqueue."""

import importlib
import logging
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.errors import RunError, UsageError
from wsiseg.machine import machine_memory, usable_cores
from wsiseg.model.gpus import count_gpus
from wsiseg.run.cluster import import_distributed

__all__ = [
    "Listening",
    "Share",
    "SlurmJob",
    "local_cluster",
    "share_machine",
    "slurm_cluster",
    "slurm_script",
]

CORES_OF_A_WORKER = 4
"""Of a CPU worker, where nobody says: slides done at once need memory each."""

SCHEDULER = "tcp://<scheduler>"
"""Stands in a job's script for an address that is not known yet."""

VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Share:
    """What one worker has of a machine."""

    threads: int
    """Cores."""

    memory_bytes: int
    gpu: str | None = None
    """What CUDA calls its GPU; `None`: it has none."""


@dataclass(frozen=True, slots=True)
class Listening:
    """Where a scheduler is to be found."""

    file: Path
    """Written when it listens."""

    host: str | None = None
    port: int = 0
    """0: any that is free."""

    dashboard: str | None = None
    interface: str | None = None
    """Network interface; `None`: what Dask finds."""

    def options(self) -> dict[str, Any]:
        """Return the options of Dask's scheduler."""
        return {
            "port": self.port,
            "dashboard": self.dashboard is not None,
            "dashboard_address": self.dashboard or ":0",  # it listens for HTTP all the same
            "scheduler_file": str(self.file.absolute()),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class SlurmJob:
    """A job of one worker."""

    cores: int
    memory_bytes: int
    gpus: int = 0
    queue: str | None = None
    account: str | None = None
    walltime: str = "24:00:00"
    directives: tuple[str, ...] = ()
    """More for `#SBATCH`."""

    prologue: tuple[str, ...] = ()
    """Lines of the script before the worker starts."""


def share_machine(
    workers: int | None, threads: int | None, memory_bytes: int | None
) -> tuple[Share, ...]:
    """Return what each worker gets of this machine: a GPU of its own, cores and memory.

    Parameters
    ----------
    workers
        `None`: one per GPU; without GPUs, one per four cores.
    threads, memory_bytes
        Of each worker; `None`: its share.

    Raises
    ------
    UsageError
        If there are GPUs, but fewer than workers.
    """
    gpus, cores = _gpus(), usable_cores()
    count = workers or len(gpus) or max(1, cores // CORES_OF_A_WORKER)
    if gpus and count > len(gpus):
        raise UsageError(
            f"--workers {count}: needed at most one per GPU, found {len(gpus)} GPUs; for the CPU "
            f"hide them: {VISIBLE}= wsiseg cluster local ..."
        )
    threads = threads or max(1, cores // count)
    memory = memory_bytes or machine_memory() // count
    return tuple(Share(threads, memory, gpus[i] if gpus else None) for i in range(count))


@contextmanager
def local_cluster(shares: Sequence[Share], listening: Listening) -> Iterator[str]:
    """Start a scheduler and a worker per share on this machine; yields the address.

    A worker that dies is started again by its nanny.

    Raises
    ------
    RunError
        If they cannot be started, as where the port is taken.
    """
    distributed = import_distributed()
    workers = {
        i: {
            "cls": distributed.Nanny,
            "options": {
                "nthreads": share.threads,
                "memory_limit": share.memory_bytes,
                "env": {} if share.gpu is None else {VISIBLE: share.gpu},
                "dashboard": False,
                "silence_logs": logging.WARNING,
            },
        }
        for i, share in enumerate(shares)
    }
    options = listening.options() | {"host": listening.host}
    scheduler = {"cls": distributed.Scheduler, "options": options}
    with _closing(
        lambda: distributed.SpecCluster(
            workers, scheduler, name="wsiseg", silence_logs=logging.WARNING
        ),
        listening,
    ) as cluster:
        yield str(cluster.scheduler_address)


@contextmanager
def slurm_cluster(job: SlurmJob, workers: int, listening: Listening) -> Iterator[str]:
    """Start a scheduler here, and submit a job per worker; yields the address.

    Raises
    ------
    RunError
        If the scheduler cannot be started, or SLURM does not take the jobs.
    """
    with _closing(lambda: _slurm(job, listening), listening) as cluster:
        try:
            cluster.scale(jobs=workers)
            cluster.sync(cluster._correct_state)  # what `sbatch` says is heard here, or nowhere
        except (OSError, RuntimeError) as error:
            raise RunError(f"SLURM did not take the jobs: {error}; try --dry-run") from error
        yield str(cluster.scheduler_address)


def slurm_script(job: SlurmJob) -> str:
    """Return the script of a job; the scheduler, which is not started for it, has no address."""
    return str(_jobqueue().slurm.SLURMJob(SCHEDULER, "wsiseg", **_settings(job)).job_script())


def _slurm(job: SlurmJob, listening: Listening) -> Any:  # noqa: ANN401 - Dask has no types
    return _jobqueue().SLURMCluster(
        n_workers=0,
        interface=listening.interface,
        scheduler_options=listening.options(),
        **_settings(job),
    )


def _settings(job: SlurmJob) -> dict[str, Any]:
    """Return what dask-jobqueue wants to know of a job."""
    gpu = (f"--gres=gpu:{job.gpus}",) if job.gpus else ()
    return {
        "cores": job.cores,
        "processes": 1,  # a worker per job, with all its cores: it does one slide at a time
        "memory": f"{job.memory_bytes}B",
        "queue": job.queue,
        "account": job.account,
        "walltime": job.walltime,
        "job_extra_directives": [*gpu, *job.directives],
        "job_script_prologue": list(job.prologue),
        "job_name": "wsiseg",
    }


def _jobqueue() -> Any:  # noqa: ANN401 - a module
    import_distributed()
    try:
        return importlib.import_module("dask_jobqueue")
    except ImportError as error:
        raise UsageError(
            f"SLURM needs dask-jobqueue, which cannot be imported ({error}); install it with: "
            'pip install "wsiseg[cluster]"'
        ) from error


@contextmanager
def _closing(make: Any, listening: Listening) -> Iterator[Any]:  # noqa: ANN401
    """Start a cluster and end it; the file that tells of it goes with it."""
    import_distributed()
    try:
        cluster = make()
    except (OSError, RuntimeError) as error:
        where = f"{listening.host or 'this machine'}, port {listening.port or 'any'}"
        raise RunError(
            f"the cluster could not be started on {where}: {error}; choose another --port or --host"
        ) from error
    try:
        with cluster:
            yield cluster
    finally:
        listening.file.unlink(missing_ok=True)


def _gpus() -> tuple[str, ...]:
    """Return what CUDA calls the GPUs that this process may use."""
    count = count_gpus()
    named = [name for name in os.environ.get(VISIBLE, "").split(",") if name.strip()]
    return tuple(named[:count]) if named else tuple(map(str, range(count)))
