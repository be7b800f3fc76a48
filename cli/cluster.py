"""`wsiseg cluster`: starts workers for `wsiseg segment --scheduler`, here or through SLURM."""

import shlex
import signal
import threading
from pathlib import Path
from typing import Annotated

import typer

from .console import say

__all__ = ["app"]

Option = typer.Option
SchedulerFile = Annotated[
    Path, Option("--scheduler-file", help="Written; `--scheduler` takes it, and so do workers.")
]
Host = Annotated[str | None, Option(help="Address the scheduler listens on.")]
Port = Annotated[int, Option(min=0, max=65535, help="Of the scheduler; 0: any that is free.")]
Dashboard = Annotated[
    str | None, Option("--dashboard", help="Address of Dask's dashboard, such as :8787.")
]

app = typer.Typer(no_args_is_help=True, help="Start workers for `wsiseg segment --scheduler`.")


@app.command()
def local(
    workers: Annotated[
        int | None, Option(min=1, help="Default: one per GPU; without GPUs, one per 4 cores.")
    ] = None,
    threads: Annotated[
        int | None, Option(min=1, help="Cores of each worker; default: its share.")
    ] = None,
    memory: Annotated[
        str | None, Option(help="Of each worker, for example 16GB; default: its share.")
    ] = None,
    host: Host = "127.0.0.1",
    port: Port = 8786,
    dashboard: Dashboard = None,
    scheduler_file: SchedulerFile = Path("scheduler.json"),
) -> None:
    """Start a scheduler and workers on this machine, a worker per GPU, until Ctrl-C."""
    from wsiseg.run import parse_bytes
    from wsiseg.run.cluster_start import Listening, local_cluster, share_machine

    spec = share_machine(workers, threads, parse_bytes(memory) if memory else None)
    listening = Listening(scheduler_file, host, port, dashboard)
    with local_cluster(spec, listening) as address:
        devices = "GPU" if spec[0].gpu is not None else "CPU"
        count = f"{len(spec)} worker{'s' * (len(spec) > 1)}"
        say(
            f"{count} on {devices}, {spec[0].threads} cores and {spec[0].memory_bytes / 1e9:.1f} GB"
        )
        _serve(address, scheduler_file)


@app.command()
def slurm(
    workers: Annotated[int, Option(min=1, help="Jobs, each of one worker.")] = 1,
    cores: Annotated[int, Option(min=1, help="Of each worker.")] = 8,
    memory: Annotated[str, Option(help="Of each worker.")] = "32GB",
    gpus: Annotated[
        int, Option("--gpus-per-worker", min=0, max=1, help="A worker uses one GPU, or none.")
    ] = 0,
    queue: Annotated[str | None, Option(help="Partition.")] = None,
    account: Annotated[str | None, Option(help="Account that is charged.")] = None,
    walltime: Annotated[str, Option(help="Of each job, HH:MM:SS.")] = "24:00:00",
    directive: Annotated[
        list[str] | None, Option(help="More for #SBATCH, such as '--constraint=a100'; repeatable.")
    ] = None,
    prologue: Annotated[
        list[str] | None,
        Option(help="Shell line before the worker: 'module load ...'; repeatable."),
    ] = None,
    interface: Annotated[str | None, Option(help="Network between machines, such as ib0.")] = None,
    port: Port = 0,
    dashboard: Dashboard = None,
    scheduler_file: SchedulerFile = Path("scheduler.json"),
    dry_run: Annotated[
        bool, Option("--dry-run", help="Print the job script, and submit nothing.")
    ] = False,
) -> None:
    """Start a scheduler here and workers as SLURM jobs, until Ctrl-C."""
    from wsiseg.run import parse_bytes
    from wsiseg.run.cluster_start import Listening, SlurmJob, slurm_cluster, slurm_script

    job = SlurmJob(
        cores=cores,
        memory_bytes=parse_bytes(memory),
        gpus=gpus,
        queue=queue,
        account=account,
        walltime=walltime,
        directives=tuple(directive or ()),
        prologue=tuple(prologue or ()),
    )
    listening = Listening(scheduler_file, None, port, dashboard, interface)
    if dry_run:
        typer.echo(slurm_script(job))
        return
    with slurm_cluster(job, workers, listening) as address:
        say(f"{workers} job{'s' * (workers > 1)} submitted; `squeue --me` shows them")
        _serve(address, scheduler_file)


def _serve(address: str, scheduler_file: Path) -> None:
    """Print where the scheduler is, and wait to be stopped."""
    where = shlex.quote(str(scheduler_file.absolute()))
    typer.echo(f"scheduler: {address}")
    typer.echo(f"wsiseg segment SLIDES --scheduler {address} --out OUT")
    typer.echo(f"wsiseg segment SLIDES --scheduler {where} --out OUT")
    say("Ctrl-C ends it")
    try:
        while not threading.Event().wait(3600):
            pass
    except KeyboardInterrupt:
        signal.signal(signal.SIGINT, signal.SIG_IGN)  # a second one must not end the cleaning up
        say("ending workers and scheduler")
