"""A run over slides: one bad slide never ends the batch, and none is lost or done twice.

Any number of processes may run on one output folder: they share the slides by lease.
"""

import logging
import math
import os
import tempfile
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from wsiseg.engine import Listener, ignore, lay_out, require_layers
from wsiseg.engine.working import sweep
from wsiseg.errors import UsageError, WsisegError, unwritable
from wsiseg.model import Model, card_of, load_for_run, require_task, suits_gpu
from wsiseg.options import FolderOptions, RunOptions, SegmentOptions, TissueOptions
from wsiseg.pipeline import segment
from wsiseg.run.devices import devices_to_use, each_on_a_device, on_first_device, share_of
from wsiseg.run.inputs import SlideJob, as_jobs, require_any
from wsiseg.run.leases import Leases, key_of
from wsiseg.run.limits import bear_the_blame, bound_memory, raise_open_files, require_room
from wsiseg.run.parts import adopt_parts, drop_parts
from wsiseg.run.records import run_settings, settings_of
from wsiseg.run.reports import FolderReport, SlideReport, failure_text
from wsiseg.run.tables import SUMMARY, Tables
from wsiseg.run.tissue import write_tissue
from wsiseg.run.turns import (
    AGAIN,
    Ground,
    Row,
    Task,
    Turn,
    Work,
    clear_dead,
    failed_elsewhere,
    lost,
    open_scans,
    standing,
    take_turn,
)
from wsiseg.scans import segment_scan
from wsiseg.source import Pyramid, Volume

if TYPE_CHECKING:
    from wsiseg.run.cluster_worker import ModelWork

__all__ = [
    "FolderReport",
    "SlideReport",
    "SlideWork",
    "failure_text",
    "run_folder",
    "segment_folder",
    "segment_slide",
    "tissue_folder",
]

log = logging.getLogger(__name__)

SOON_S, SELDOM_S = 0.05, 5.0
"""Between two looks at slides that others have, at first and later."""

SAY_S = 2.0
"""After which people are told whom the run waits for."""

Slides = Sequence[str | Path | SlideJob] | str | Path
"""Slides to work on: from `list_slides`, or what it takes."""


class SlideWork(Protocol):
    """What a run does with each slide; can be pickled, for other processes to do it."""

    @property
    def command(self) -> str:
        """The command; results of another one are not replaced."""
        ...

    def settings(self) -> dict[str, Any]:
        """Return what results are made from, see `records.settings_of`."""
        ...

    def load(self, device: str = "", processes: int = 1) -> Work:
        """Return what does one slide after the other, in this process or one of several."""
        ...


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
        hands = _hands(work, ground, leases, devices, scheduler, listen)
        run = _Run(jobs, ground, work, leases, hands, listen)
        try:
            with closing(run.reports()) as reports:
                return _collected(reports, tables, out, slide_done)
        finally:
            _clear(jobs, ground, leases)


class _Run:
    """The slides of a run, each done here, found done, or seen to be done by others."""

    def __init__(
        self,
        jobs: Sequence[SlideJob],
        ground: Ground,
        work: SlideWork,
        leases: Leases,
        hands: "Hands | None",
        listen: Listener,
    ) -> None:
        self._jobs = {str(ground.out / job.output): job for job in jobs}
        self._ground = ground
        self._work = work
        self._leases = leases
        self._hands = hands
        self._listen = listen
        self._loaded: Work | None = None
        self._told: set[tuple[str, ...]] = set()

    def reports(self) -> Generator[SlideReport, None, None]:
        """Yield a report of each slide."""
        todo = [Task(job) for job in self._jobs.values()]
        held: dict[str, SlideReport] = {}
        pause, since, told = SOON_S, time.monotonic(), False
        while todo or held:
            for report in self._round(todo):
                if report.held_by is None:
                    yield report
                else:
                    held[report.folder] = report
            if held and not self._ground.options.wait:
                yield from held.values()
                return
            todo = []
            for folder in list(held):
                found = self._look_at(self._jobs[folder])
                if found is None:
                    continue
                del held[folder]
                if isinstance(found, Task):
                    todo.append(found)
                else:
                    yield found
                pause, since = SOON_S, time.monotonic()
            if held and not todo:
                if not told and time.monotonic() - since > SAY_S:
                    told = True
                    _say_whom_we_wait_for(list(held.values()))
                time.sleep(pause)
                pause = min(2 * pause, SELDOM_S, self._leases.expiry_s / 4)

    def _round(self, tasks: Sequence[Task]) -> Iterator[SlideReport]:
        """Yield the reports of slides, done in this process or by others."""
        if self._hands is not None:
            yield from self._round_elsewhere(tasks, self._hands)
            return
        for task in tasks:
            report = self._known(task)
            if report is None:
                self._loaded = self._loaded or self._work.load()
                report = take_turn(task, self._ground, self._loaded, self._leases, self._listen)
            yield report

    def _round_elsewhere(self, tasks: Sequence[Task], hands: "Hands") -> Iterator[SlideReport]:
        todo = []
        for task in tasks:
            report = self._known(task)
            if report is None:
                todo.append(task)
            else:
                yield report
        if todo:
            yield from hands(todo)

    def _known(self, task: Task) -> SlideReport | None:
        """Return the report of a slide that is done or under way; `None`: it is to be tried."""
        try:
            return self._looked_up(task)
        except (OSError, WsisegError):  # trying will tell
            return None

    def _looked_up(self, task: Task) -> SlideReport | None:
        job = task.job
        holder = self._leases.holder(job.output)
        if holder is not None and holder.name != task.displacing and not holder.is_dead():
            row = {"slide": Path(job.path).name}
            return SlideReport(
                job.path, str(self._ground.out / job.output), row, held_by=str(holder)
            )
        found = standing(job, self._ground)
        if isinstance(found, SlideReport):
            return found
        if found and found != AGAIN and found not in self._told:
            self._told.add(found)
            log.warning(
                "%s: is done again, as changed since its result was made: %s%s",
                job.path,
                "; ".join(found),
                "" if len(self._jobs) == 1 else " (said once for all slides of which it is true)",
            )
        return None

    def _look_at(self, job: SlideJob) -> SlideReport | Task | None:
        """Return what has become of a slide that somebody else had; `None`: they still have it."""
        try:
            if self._leases.holder(job.output) is not None:
                abandoned = self._leases.abandoned(job.output)
                return Task(job, abandoned.name) if abandoned is not None else None
        except OSError:  # to be seen to when it is tried
            return Task(job)
        found = standing(job, self._ground)
        if isinstance(found, SlideReport):
            return found
        return failed_elsewhere(job, self._ground) or Task(job)


Hands = Callable[[Sequence[Task]], Iterator[SlideReport]]
"""What does slides in other processes, and reports each."""


def _hands(
    work: SlideWork,
    ground: Ground,
    leases: Leases,
    devices: Sequence[str],
    scheduler: str | None,
    listen: Listener,
) -> Hands | None:
    """Return who does the slides; `None`: this process."""
    if scheduler is not None:
        from wsiseg.run.cluster import each_on_a_worker

        return partial(
            each_on_a_worker,
            scheduler=scheduler,
            work=cast("ModelWork", work),
            ground=ground,
            leases=leases,
            listen=listen,
        )

    def one_each(tasks: Sequence[Task]) -> Iterator[SlideReport]:
        used, options = devices[: len(tasks)], ground.options
        yield from each_on_a_device(
            tasks,
            used,
            partial(_worker, work=work, ground=ground, processes=len(used)),
            lambda task, what: lost(task.job, ground, what, leases),
            listen=listen,
            limit_s=None if options.timeout_s is None else options.timeout_s + options.grace_s,
        )

    return one_each if devices else None


def _say_whom_we_wait_for(held: Sequence[SlideReport]) -> None:
    others = f" and {len(held) - 1} more" if len(held) > 1 else ""
    log.warning(
        "waiting for other processes: %s has %s%s; stop this one if they can be left to them",
        held[0].held_by,
        held[0].path,
        others,
    )


def _worker(
    device: str, *, work: SlideWork, ground: Ground, processes: int
) -> Callable[[Task, Listener], SlideReport]:
    """Return what does one slide after the other in a process of its own."""
    raise_open_files()
    if ground.options.isolate:
        bear_the_blame()
    leases = Leases(ground.out, expiry_s=ground.options.expiry_s)
    loaded = work.load(device, processes)
    if ground.options.isolate and device == "cpu":
        bound_memory()

    def turn(task: Task, listen: Listener) -> SlideReport:
        return take_turn(task, ground, loaded, leases, listen)

    return turn


@contextmanager
def _run_into(
    out: Path, jobs: Sequence[SlideJob], options: FolderOptions
) -> Iterator[tuple[Leases, Tables]]:
    """Yield leases and tables of a folder that can be written; leave nothing of dead processes."""
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


def segment_folder(
    jobs: Slides,
    model: Model | str | Path,
    out: str | Path,
    *,
    options: SegmentOptions | None = None,
    folder: FolderOptions | None = None,
    scheduler: str | None = None,
    listen: Listener = ignore,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Segment each slide into `out/<slide>/` and write `out/summary.csv`.

    Slides that have a finished result of the same slide, model, options and code are left as they
    are. Several processes, on several machines, too, may do this at once with the same folder: they
    share the slides.

    Parameters
    ----------
    jobs
        Files, folders, globs, URLs and tables, as on the command line, or what `list_slides` made
        of them.
    model
        Loaded once per device; a model that cannot be used is an error before the first slide. By
        name or folder, and with several GPUs in `options.run.device`, each GPU has a process of its
        own, which takes slide after slide.
    folder
        How the run goes: doing slides again, time limits, other processes.
    scheduler
        Address or scheduler file of a Dask cluster whose workers do the slides; they see slides and
        `out` by the same paths.
    slide_done
        Called with the report of each slide.

    Raises
    ------
    ModelError
        If the model cannot be used.
    RunError
        If the output folder cannot be written, or holds a foreign `summary.csv`. What is wrong with
        a slide is in the report.
    UsageError
        If `jobs` names no slide, or only slides that are not there, or what is asked for cannot go
        to a cluster.
    """
    options, folder = options or SegmentOptions(), folder or FolderOptions()
    work = SegmentWork(model, options)
    out, jobs = Path(out), as_jobs(jobs, volumes=work.volumes, channels=work.channels)
    require_task(model, "semantic")
    require_layers(model, options.uncertainty)
    require_any(jobs)
    devices: tuple[str, ...] = ()
    if scheduler is not None:
        from wsiseg.run.cluster import require_cluster

        require_cluster(scheduler, model, options.run.device)
    elif not isinstance(model, Model):
        devices = _devices(model, options.run)[: len(jobs)]
        if len(devices) == 1 and not folder.apart:
            devices = ()
    elif folder.isolate:
        raise UsageError(
            "isolate needs the model's name or folder, since other processes load it; found a "
            "loaded model"
        )
    return run_folder(
        jobs,
        out,
        work,
        options=folder,
        devices=devices,
        scheduler=scheduler,
        listen=listen,
        slide_done=slide_done,
    )


def segment_slide(
    job: SlideJob,
    model: str | Path,
    out: str | Path,
    options: SegmentOptions | None = None,
    *,
    folder: FolderOptions | None = None,
    since_ns: int = 0,
    listen: Listener = ignore,
) -> SlideReport:
    """Segment one slide of many, as `segment_folder` does: the unit of work of a cluster.

    All but `listen` are plain values that can be pickled, and so is the report. The model stays
    loaded for the next slide. The tables are left to whoever collects the reports.

    Parameters
    ----------
    since_ns
        When the run began, by the clock of the file system (`Leases.arrive`): with `folder.again`,
        results that are older are made anew; failures since then are not tried again.

    Raises
    ------
    ModelError
        If the model cannot be used. What is wrong with the slide is in the report.
    """
    out, folder = Path(out), folder or FolderOptions()
    out.mkdir(parents=True, exist_ok=True)
    segmenting = SegmentWork(model, options or SegmentOptions())
    settings, work = _prepared(segmenting)
    ground = Ground(out, segmenting.command, settings, folder, since_ns, segmenting.volumes)
    with Leases(out, expiry_s=folder.expiry_s) as leases:
        return take_turn(Task(job), ground, work, leases, listen)


def _devices(model: str | Path, options: RunOptions) -> tuple[str, ...]:
    """Return the devices to use: `auto` as the model can."""
    on_cpu = options.device == "auto" and not suits_gpu(model, options)
    return devices_to_use("cpu" if on_cpu else options.device)


@dataclass(frozen=True)
class SegmentWork:
    """Segmenting slides with one model."""

    model: Model | str | Path
    options: SegmentOptions
    command = "segment"

    @property
    def volumes(self) -> bool:
        """Whether the model is one for scans."""
        return card_of(self.model).axes == "zyx"

    @property
    def channels(self) -> int:
        """Files of a scan."""
        return max(1, len(card_of(self.model).scan_channels))

    def settings(self) -> dict[str, Any]:
        """Return what results are made from."""
        layers = self.options.uncertainty
        chosen = {
            "tissue": asdict(self.options.tissue),
            "export": asdict(self.options.export),
            "run": run_settings(self.options.run),
            "uncertainty": asdict(layers) if layers.layers else {},
            "damage": asdict(self.options.damage),
        }
        return settings_of(self.command, chosen, self.model)

    def load(self, device: str = "", processes: int = 1) -> Work:
        """Load the model."""
        run = on_first_device(self.options.run)
        if device:
            run = share_of(self.options.run, device, processes)
        options = replace(self.options, run=run) if device else self.options
        one = _segment_scan if self.volumes else _segment_slide
        return partial(one, model=load_for_run(self.model, run), options=options)


@lru_cache(maxsize=1)
def _prepared(work: SegmentWork) -> tuple[Mapping[str, Any], Work]:
    return work.settings(), work.load()


def _segment_slide(slide: Pyramid, turn: Turn, *, model: Model, options: SegmentOptions) -> Row:
    require_room_for(slide, model, turn.ground.out)
    with turn.journal() as journal:
        adopt_parts(journal, turn.job, turn.ground)
        result = segment(slide, model, options=options, journal=journal, listen=turn.listen)
        row = result.summary()
        result.write(turn.ground.out, name=turn.job.output, publishing=turn.publishing(row))
        drop_parts(turn.job, turn.ground)
        return row


def _segment_scan(scan: Volume, turn: Turn, *, model: Model, options: SegmentOptions) -> Row:
    require_room(turn.ground.out, math.prod(scan.shape))
    with turn.journal() as journal, open_scans(turn.job, scan) as scans:
        result = segment_scan(
            scans,
            model,
            priors=dict(turn.job.priors),
            options=options.run,
            journal=journal,
            listen=turn.listen,
        )
        row = result.summary()
        result.write(turn.ground.out, name=turn.job.output, publishing=turn.publishing(row))
        return row


def require_room_for(slide: Pyramid, model: Model, out: Path) -> None:
    """Raise `DiskFullError` where heatmaps and mask of a slide surely do not fit."""
    setups = lay_out(model.card, slide)
    require_room(out, sum(math.prod(s.placement.shape) * (len(s.channels) + 1) for s in setups))


def tissue_folder(
    jobs: Slides,
    out: str | Path,
    *,
    options: TissueOptions | None = None,
    folder: FolderOptions | None = None,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Write `tissue.geojson` and `overview.png` of each slide into `out/<slide>/`.

    Results of `segment`, which have both, are refused and stay as they are.
    """
    work = TissueWork(options or TissueOptions())
    return run_folder(
        jobs, Path(out), work, options=folder, devices=on_cpu(folder), slide_done=slide_done
    )


def on_cpu(folder: FolderOptions | None) -> tuple[str, ...]:
    """Return the devices of work without networks: this process, or one that can be ended."""
    return ("cpu",) if folder is not None and folder.apart else ()


@dataclass(frozen=True)
class TissueWork:
    """Finding the tissue of slides."""

    options: TissueOptions
    command = "tissue"

    def settings(self) -> dict[str, Any]:
        """Return what results are made from."""
        return settings_of(self.command, {"tissue": asdict(self.options)})

    def load(self, device: str = "", processes: int = 1) -> Work:
        """Return what finds the tissue of one slide."""
        return partial(write_tissue, options=self.options)
