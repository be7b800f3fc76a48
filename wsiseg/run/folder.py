"""A run over slides: one bad slide never ends the batch, and none is lost or done twice.

Any number of processes may run on one output folder: they share the slides by lease.
"""

import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from wsiseg.engine import Listener, ignore
from wsiseg.engine.working import sweep
from wsiseg.errors import RunError, unwritable
from wsiseg.options import FolderOptions
from wsiseg.run.hands import SlideWork, hands_for
from wsiseg.run.inputs import SlideJob, as_jobs, require_any
from wsiseg.run.leases import Leases, key_of
from wsiseg.run.limits import raise_open_files
from wsiseg.run.reports import FolderReport, SlideReport
from wsiseg.run.rounds import Rounds
from wsiseg.run.tables import SUMMARY, Tables
from wsiseg.run.turns import Ground, clear_dead

__all__ = ["FolderReport", "Slides", "run_folder"]

Slides = Sequence[str | Path | SlideJob] | str | Path
"""Slides to work on: from `list_slides`, or what it takes."""


def run_folder(
    jobs: Slides,
    out: Path,
    work: SlideWork,
    *,
    options: FolderOptions | None = None,
    devices: Sequence[str] = (),
    scheduler: str | None = None,
    listen: Listener = ignore,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Do `work` on each slide that has no finished result; whatever goes wrong is recorded.

    Parameters
    ----------
    jobs
        The slides.
    out
        A folder each goes in there.
    options
        How the run goes.
    devices
        A process each does the work; none: this process does.
    scheduler
        Given, the workers of this cluster do it; see `cluster`.
    slide_done
        Called with the report of each slide.

    Raises
    ------
    RunError
        If the output folder cannot be written, or holds a foreign `summary.csv`.
    UsageError
        If `jobs` names no slide, or only slides that are not there.
    """
    volumes = getattr(work, "volumes", False)  # work on scans says so
    channels = getattr(work, "channels", 1)
    jobs = as_jobs(jobs, volumes=volumes, channels=channels)
    options = options or FolderOptions()
    require_any(jobs)
    settings = work.settings()
    raise_open_files()
    with _run_into(out, jobs, options) as (leases, tables):
        since_ns = leases.arrive()
        ground = Ground(out, work.command, settings, options, since_ns, volumes)
        hands = hands_for(work, ground, leases, devices, scheduler, listen)
        run = Rounds(jobs, ground, work, leases, hands, listen)
        try:
            with closing(run.reports()) as reports:
                return _collected(reports, tables, out, slide_done)
        finally:
            _clear(jobs, ground, leases)


@contextmanager
def _run_into(
    out: Path, jobs: Sequence[SlideJob], options: FolderOptions
) -> Iterator[tuple[Leases, Tables]]:
    """Yield leases and tables of a folder that can be written; leave nothing of dead processes."""
    if out.is_file():
        raise RunError(f"{out}: is a file: needed a folder for the results; choose another --out")
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise unwritable(error, out) from error
    parents = {out, *map(out.joinpath, {os.path.dirname(job.output) for job in jobs})}  # noqa: PTH120
    sweep(parents)
    with Leases(out, expiry_s=options.expiry_s) as leases:
        try:
            yield leases, Tables(out, leases)
        finally:
            sweep(parents)  # processes of this run may have been ended by force


def _clear(jobs: Sequence[SlideJob], ground: Ground, leases: Leases) -> None:
    """Remove leases that dead processes have on the slides of a run, which is over."""
    try:
        there = set(os.listdir(leases.root))  # noqa: PTH208 - names are what is wanted
    except OSError:
        return
    if any(not name.startswith(".") for name in there):
        for job in jobs:
            if key_of(job.output) in there:
                clear_dead(job, ground, leases)


def _collected(
    reports: Iterator[SlideReport],
    tables: Tables,
    out: Path,
    slide_done: Callable[[object], None],
) -> FolderReport:
    """Write the tables after each slide, and return all reports."""
    found: dict[str, list[SlideReport]] = {"done": [], "there": [], "failed": [], "held": []}
    done: list[SlideReport] = []
    try:
        for report in reports:
            found[report.state].append(report)
            if report.state in ("done", "there"):
                done.append(report)
            tables.add(report)
            slide_done(report)
    except BaseException:
        tables.finish(patient=False)
        raise
    problem = tables.finish()
    return FolderReport(
        tuple(done), tuple(found["failed"]), out / SUMMARY, tuple(found["held"]), problem
    )
