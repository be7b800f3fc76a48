"""What runs over slides would take, before any is begun."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

from wsiseg.engine import Listener, require_layers
from wsiseg.errors import WsisegError
from wsiseg.model import Model, card_of, load_for_run, require_task
from wsiseg.options import FolderOptions, SegmentOptions
from wsiseg.pipeline import plan
from wsiseg.run.devices import each_on_a_device, on_first_device
from wsiseg.run.folder import Slides
from wsiseg.run.inputs import SlideJob, as_jobs, require_any
from wsiseg.run.limits import bear_the_blame
from wsiseg.run.reports import failure_text
from wsiseg.run.turns import open_scans
from wsiseg.scans import kept_classes, plan_of_scan
from wsiseg.source import open as open_slide
from wsiseg.source import open_volume

__all__ = ["plan_folder"]

Row = dict[str, Any]


def plan_folder(
    jobs: Slides,
    model: str | Path,
    *,
    options: SegmentOptions,
    folder: FolderOptions | None = None,
) -> Iterator[Row]:
    """Yield the plan of each slide as plain values; with `error` where there is none.

    Parameters
    ----------
    folder
        Of it `isolate` and `timeout_s` count.
    """
    folder = folder or FolderOptions()
    card = card_of(model)
    jobs = as_jobs(jobs, volumes=card.axes == "zyx", channels=max(1, len(card.scan_channels)))
    require_any(jobs)
    require_task(model, "semantic")
    require_layers(model, options.uncertainty)
    kept_classes(card_of(model), options.export.probabilities)
    if folder.apart:
        work = partial(_worker, model=model, options=options)
        yield from each_on_a_device(jobs, ("cpu",), work, _lost, limit_s=folder.timeout_s)
        return
    loaded = load_for_run(model, on_first_device(options.run))
    for job in jobs:
        yield _planned(job, loaded, options)


def _worker(
    device: str, *, model: str | Path, options: SegmentOptions
) -> Callable[[SlideJob, Listener], Row]:
    bear_the_blame()
    loaded = load_for_run(model, on_first_device(options.run))
    return lambda job, _: _planned(job, loaded, options)


def _lost(job: SlideJob, what: str) -> Row:
    return _row(job) | {"error": f"{job.path}: {what}"}


def _row(job: SlideJob) -> Row:
    return {"slide": Path(job.path).name, "path": job.path, "output": job.output}


def _planned(job: SlideJob, model: Model, options: SegmentOptions) -> Row:
    try:
        if model.card.axes == "zyx":
            with (
                open_volume(job.path, reader=job.reader, **asdict(job.choice)) as scan,
                open_scans(job, scan) as scans,
            ):
                planned = plan_of_scan(
                    scans,
                    model,
                    priors=dict(job.priors),
                    options=options.run,
                    probabilities=options.export.probabilities,
                )
                return _row(job) | planned.to_dict()
        with open_slide(job.path, mpp=job.mpp, reader=job.reader) as slide:
            return _row(job) | plan(slide, model, options=options).to_dict()
    except WsisegError as error:
        return _row(job) | {"error": failure_text(error, job.path)}
