"""A run over slides: one bad slide never ends the batch."""

import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wsiseg.engine import Listener, fingerprint, ignore, require_layers
from wsiseg.engine.output import check_name, may_replace, refuse_foreign
from wsiseg.engine.working import slide_journal, sweep
from wsiseg.errors import TooDamagedError, UsageError, WsisegError, WsisegWarning, unwritable
from wsiseg.model import Model, load_for_run, require_task, suits_gpu
from wsiseg.options import RunOptions, SegmentOptions, TissueOptions
from wsiseg.pipeline import plan, segment
from wsiseg.run.devices import devices_to_use, each_on_a_device, on_first_device, share_of
from wsiseg.run.inputs import SlideJob, as_jobs
from wsiseg.run.tables import SUMMARY, SlideReport, Tables
from wsiseg.run.tissue import write_tissue
from wsiseg.source import Pyramid
from wsiseg.source import open as open_slide

__all__ = [
    "FolderReport",
    "SlideReport",
    "failure_text",
    "parse_bytes",
    "plan_folder",
    "run_each",
    "segment_folder",
    "tissue_folder",
]

log = logging.getLogger(__name__)

POWERS = "kmgt"
SAME_SPACING = 0.02
"""Pixel sizes this close (relative) say the same."""

Work = Callable[[Pyramid, SlideJob], dict[str, Any]]
"""What is done with one slide; returns its row of `summary.csv`."""

Slides = Sequence[str | Path | SlideJob] | str | Path
"""Slides to work on: from `list_slides`, or what it takes."""


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What became of a run."""

    done: tuple[SlideReport, ...]
    failures: tuple[SlideReport, ...]
    summary: Path
    """`summary.csv`; `failures.csv` stands beside it where there are failures."""


def segment_folder(
    jobs: Slides,
    model: Model | str | Path,
    out: str | Path,
    *,
    options: SegmentOptions | None = None,
    listen: Listener = ignore,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Segment each slide into `out/<slide>/` and write `out/summary.csv`.

    Parameters
    ----------
    jobs
        Files, folders, globs, URLs and tables, as on the command line, or what `list_slides` made
        of them.
    model
        Loaded once per device; a model that cannot be used is an error before the first slide. By
        name or folder, and with several GPUs in `options.run.device`, each GPU has a process of its
        own, which takes slide after slide.
    slide_done
        Called after each slide.

    Raises
    ------
    ModelError
        If the model cannot be used.
    RunError
        If the output folder cannot be written, or holds a foreign `summary.csv`. What is wrong with
        a slide is in the report.
    UsageError
        If `jobs` names no slide.
    """
    options = options or SegmentOptions()
    out, jobs = Path(out), as_jobs(jobs)
    require_task(model, "semantic")
    require_layers(model, options.uncertainty)
    with _run_into(out, jobs) as tables:
        reports = _segmented(jobs, model, out, options, listen)
        return _collected(reports, tables, out, slide_done)


def _segmented(
    jobs: Sequence[SlideJob],
    model: Model | str | Path,
    out: Path,
    options: SegmentOptions,
    listen: Listener,
) -> Iterator[SlideReport]:
    """Yield the report of each slide, from this process or from one per GPU."""
    devices = _devices(model, options.run)[: len(jobs)]
    if isinstance(model, Model) or len(devices) == 1:
        loaded = load_for_run(model, on_first_device(options.run))
        yield from (_segment_one(job, listen, loaded, out, options) for job in jobs)
        return
    make_work = partial(_segmenter, model=model, out=out, options=options, processes=len(devices))
    yield from each_on_a_device(jobs, devices, make_work, partial(_lost, out), listen=listen)


def _devices(model: Model | str | Path, options: RunOptions) -> tuple[str, ...]:
    """Return the devices to use: a loaded model's own, `auto` as the model can."""
    if isinstance(model, Model):
        return (model.device,)
    on_cpu = options.device == "auto" and not suits_gpu(model, options)
    return devices_to_use("cpu" if on_cpu else options.device)


def _segmenter(
    device: str, *, model: str | Path, out: Path, options: SegmentOptions, processes: int
) -> Callable[[SlideJob, Listener], SlideReport]:
    """Return what segments one slide after the other in a process of its own."""
    options = replace(options, run=share_of(options.run, device, processes))
    loaded = load_for_run(model, options.run)
    return partial(_segment_one, model=loaded, out=out, options=options)


def _segment_one(
    job: SlideJob, listen: Listener, model: Model, out: Path, options: SegmentOptions
) -> SlideReport:
    def work(slide: Pyramid, job: SlideJob) -> dict[str, Any]:
        with slide_journal(out, job.output, "segment") as journal:
            result = segment(slide, model, options=options, journal=journal, listen=listen)
            result.write(out, name=job.output)
            return result.summary()

    return _run_one(job, out, work, kind="segment")


def _lost(out: Path, job: SlideJob, what: str) -> SlideReport:
    """Report a slide whose process died."""
    name = Path(job.path).name
    return SlideReport(
        job.path, str(out / job.output), {"slide": name}, (), f"{job.path}: {what}", "RunError"
    )


def tissue_folder(
    jobs: Slides,
    out: str | Path,
    *,
    options: TissueOptions | None = None,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Write `tissue.geojson` and `overview.png` of each slide into `out/<slide>/`.

    Results of `segment`, which have both, are refused and stay as they are.
    """
    chosen = options or TissueOptions()
    out = Path(out)

    def work(slide: Pyramid, job: SlideJob) -> dict[str, Any]:
        return write_tissue(slide, out, job.output, chosen)

    return run_each(jobs, out, work, kind="tissue", slide_done=slide_done)


def plan_folder(
    jobs: Slides, model: str | Path, *, options: SegmentOptions
) -> Iterator[dict[str, Any]]:
    """Yield the plan of each slide as plain values; with `error` where there is none."""
    require_task(model, "semantic")
    require_layers(model, options.uncertainty)
    loaded = load_for_run(model, on_first_device(options.run))
    for job in as_jobs(jobs):
        row: dict[str, Any] = {
            "slide": Path(job.path).name,
            "path": job.path,
            "output": job.output,
        }
        try:
            with open_slide(job.path, mpp=job.mpp, reader=job.reader) as slide:
                yield row | plan(slide, loaded, options=options).to_dict()
        except WsisegError as error:
            yield row | {"error": failure_text(error, job.path)}


def run_each(
    jobs: Slides,
    out: Path,
    work: Work,
    *,
    kind: str | None = None,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Do `work` on each slide; whatever goes wrong with one is recorded and the next begun.

    Parameters
    ----------
    kind
        The command. A slide whose folder holds another one's result is then refused before it is
        opened.
    """
    jobs = as_jobs(jobs)
    with _run_into(out, jobs) as tables:
        reports = (_run_one(job, out, work, kind=kind) for job in jobs)
        return _collected(reports, tables, out, slide_done)


@contextmanager
def _run_into(out: Path, jobs: Sequence[SlideJob]) -> Iterator[Tables]:
    """Yield the tables of a folder that can be written; leave nothing there of dead processes."""
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise unwritable(error, out) from error
    parents = {out, *((out / job.output).parent for job in jobs)}
    sweep(parents)
    try:
        yield Tables(out)
    finally:
        sweep(parents)  # processes of this run may have been ended by force


def _collected(
    reports: Iterable[SlideReport],
    tables: Tables,
    out: Path,
    slide_done: Callable[[object], None],
) -> FolderReport:
    """Write the tables after each slide, and return all reports."""
    done: list[SlideReport] = []
    failures: list[SlideReport] = []
    for report in reports:
        (failures if report.error else done).append(report)
        tables.add(report)
        slide_done(report)
    return FolderReport(tuple(done), tuple(failures), out / SUMMARY)


def _run_one(job: SlideJob, out: Path, work: Work, *, kind: str | None) -> SlideReport:
    folder = out / job.output
    summary: dict[str, Any] = {"slide": Path(job.path).name}
    refused = kind is not None and not may_replace(folder, kind)
    problem: Exception | None = None
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WsisegWarning)
        try:
            check_name(job.output)
            if kind is not None and refused:
                refuse_foreign(folder, kind)
            with open_slide(job.path, mpp=job.mpp, reader=job.reader) as slide:
                if kind is not None:  # now rather than when all is done
                    refuse_foreign(folder, kind, fingerprint(job.path))
                _warn_of_override(slide)
                summary = work(slide, job)
        except Exception as error:  # the one broad boundary: no slide may end the batch
            log.debug("%s failed", job.path, exc_info=True)
            if isinstance(error, TooDamagedError):
                summary |= error.found
            summary["seconds"] = round(time.perf_counter() - started, 2)
            problem = error
    heard = tuple(str(w.message) for w in caught if issubclass(w.category, WsisegWarning))
    for message in heard:
        log.warning("%s", message)
    if problem is None:
        return SlideReport(job.path, str(folder), summary, heard)
    text, name = failure_text(problem, job.path), type(problem).__name__
    return SlideReport(job.path, str(folder), summary, heard, text, name, refused=refused)


def _warn_of_override(slide: Pyramid) -> None:
    """Say so where a pixel size given by hand replaces another one in the file."""
    own = slide.source.metadata.spacing
    if own is None or own == slide.spacing:
        return
    if any(abs(ratio - 1) > SAME_SPACING for ratio in slide.spacing.ratio_to(own)):
        used, found = (" x ".join(f"{um:.4g}" for um in s.um[::-1]) for s in (slide.spacing, own))
        warnings.warn(
            f"{slide.name}: taken as {used} µm per pixel, as told; the file says {found}",
            WsisegWarning,
            stacklevel=2,
        )


def failure_text(error: Exception, path: str) -> str:
    """Return in one line what went wrong with the slide at `path`, which it names."""
    text = " ".join(str(error).split())
    if isinstance(error, WsisegError):
        return text if Path(path).name in text else f"{path}: {text}"
    return f"{path}: {type(error).__name__}: {text}; run `wsiseg --debug ...` and report it"


def parse_bytes(text: str) -> int:
    """Return the bytes meant by `4GB`, `500 MB` or `1e9`.

    Raises
    ------
    UsageError
        If it is not a size.
    """
    number, prefix, binary = r"([0-9]+\.?[0-9]*(?:e[0-9]+)?)", r"([kmgt]?)", r"(i?)"
    match = re.fullmatch(rf"\s*{number}\s*{prefix}{binary}b?\s*", text.lower())
    if match is None:
        raise UsageError(f"memory {text!r}: needed a size such as 4GB or 500MB")
    size = int(float(match[1]) * (1024 if match[3] else 1000) ** (POWERS.find(match[2] or "?") + 1))
    if size <= 0:
        raise UsageError(f"memory {text!r}: needed more than nothing, such as 4GB")
    return size
