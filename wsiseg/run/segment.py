"""Segmenting many slides or scans with one model."""

import math
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

from wsiseg.engine import Listener, ignore, lay_out, require_layers
from wsiseg.errors import UsageError
from wsiseg.model import Model, card_of, load_for_run, require_task, suits_gpu
from wsiseg.options import FolderOptions, RunOptions, SegmentOptions
from wsiseg.pipeline import segment
from wsiseg.run.devices import devices_to_use, on_first_device, share_of
from wsiseg.run.folder import Slides, run_folder
from wsiseg.run.inputs import SlideJob, as_jobs, require_any
from wsiseg.run.leases import Leases
from wsiseg.run.limits import require_room
from wsiseg.run.parts import adopt_parts, drop_parts
from wsiseg.run.records import run_settings, settings_of
from wsiseg.run.reports import FolderReport, SlideReport
from wsiseg.run.turns import Ground, Row, Task, Turn, Work, open_scans, take_turn
from wsiseg.scans import kept_classes, segment_scan
from wsiseg.source import Pyramid, Volume

__all__ = ["SegmentWork", "segment_folder", "segment_slide"]


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
    kept_classes(card_of(model), options.export.probabilities)
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
            probabilities=options.export.probabilities,
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
