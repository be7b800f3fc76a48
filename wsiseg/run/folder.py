"""A run over slides: one bad slide never ends the batch."""

import csv
import io
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from wsiseg.engine import Listener, as_run_error, ignore
from wsiseg.errors import UsageError, WsisegError, WsisegWarning
from wsiseg.model import Model, load_for_run
from wsiseg.options import RunOptions, SegmentOptions, TissueOptions
from wsiseg.pipeline import plan, segment
from wsiseg.run.devices import devices_to_use, each_on_a_device, share_of
from wsiseg.run.inputs import SlideJob
from wsiseg.run.tissue import write_tissue
from wsiseg.source import Pyramid
from wsiseg.source import open as open_slide

__all__ = [
    "FolderReport",
    "SlideReport",
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

SUMMARY = "summary.csv"
FAILURES = "failures.csv"

Work = Callable[[Pyramid, SlideJob], dict[str, Any]]
"""What is done with one slide; returns its row of `summary.csv`."""


@dataclass(frozen=True, slots=True)
class SlideReport:
    """What became of one slide."""

    path: str
    folder: str
    """Where its files are, or would have been."""

    summary: dict[str, Any]
    warnings: tuple[str, ...] = ()
    error: str | None = None
    error_class: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON lines."""
        state = {"error": self.error, "error_class": self.error_class} if self.error else {}
        return {
            "path": self.path,
            "folder": self.folder,
            **self.summary,
            "warnings": list(self.warnings),
            **state,
        }


@dataclass(frozen=True, slots=True)
class FolderReport:
    """What became of a run."""

    done: tuple[SlideReport, ...]
    failures: tuple[SlideReport, ...]
    summary: Path
    """`summary.csv`; `failures.csv` stands beside it where there are failures."""


def segment_folder(
    jobs: Sequence[SlideJob],
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
        From `list_slides`.
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
        If the output folder cannot be written. What is wrong with a slide is in the report.
    """
    options = options or SegmentOptions()
    out = Path(out)
    _require_writable(out)
    reports = _segmented(jobs, model, out, options, listen)
    return _collected(reports, jobs, out, slide_done)


def _segmented(
    jobs: Sequence[SlideJob],
    model: Model | str | Path,
    out: Path,
    options: SegmentOptions,
    listen: Listener,
) -> Iterator[SlideReport]:
    """Yield the report of each slide, from this process or from one per GPU."""
    if isinstance(model, Model):
        yield from (_segment_one(job, listen, model, out, options) for job in jobs)
        return
    devices = _devices(options.run)[: max(1, len(jobs))]
    if len(devices) == 1:
        loaded = load_for_run(model, options.run)
        yield from (_segment_one(job, listen, loaded, out, options) for job in jobs)
        return
    make_work = partial(_segmenter, model=model, out=out, options=options, processes=len(devices))
    yield from each_on_a_device(jobs, devices, make_work, partial(_lost, out), listen=listen)


def _devices(options: RunOptions) -> tuple[str, ...]:
    """Return the devices to use; `auto` is no GPU where something else that was asked has none."""
    for_cpu = options.precision == "int8" or options.backend == "openvino"
    return devices_to_use("cpu" if options.device == "auto" and for_cpu else options.device)


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
        with _work_dir(out) as folder:
            result = segment(slide, model, options=options, work_dir=folder, listen=listen)
            result.write(out, name=job.output)
            return result.summary()

    return _run_one(job, out, work)


def _lost(out: Path, job: SlideJob, what: str) -> SlideReport:
    """Report a slide whose process died."""
    name = Path(job.path).name
    return SlideReport(
        job.path, str(out / job.output), {"slide": name}, (), f"{job.path}: {what}", "RunError"
    )


def tissue_folder(
    jobs: Sequence[SlideJob],
    out: str | Path,
    *,
    options: TissueOptions | None = None,
) -> FolderReport:
    """Write `tissue.geojson` and `overview.png` of each slide into `out/<slide>/`."""
    chosen = options or TissueOptions()
    out = Path(out)
    return run_each(jobs, out, lambda slide, job: write_tissue(slide, out, job.output, chosen))


def plan_folder(
    jobs: Sequence[SlideJob], model: str | Path, *, options: SegmentOptions
) -> Iterator[dict[str, Any]]:
    """Yield the plan of each slide as plain values; with `error` where there is none."""
    loaded = load_for_run(model, options.run)
    for job in jobs:
        try:
            with open_slide(job.path, mpp=job.mpp, reader=job.reader) as slide:
                yield plan(slide, loaded, options=options).to_dict()
        except WsisegError as error:
            yield {"slide": job.path, "error": str(error)}


def run_each(
    jobs: Sequence[SlideJob],
    out: Path,
    work: Work,
    *,
    slide_done: Callable[[object], None] = ignore,
) -> FolderReport:
    """Do `work` on each slide; whatever goes wrong with one is recorded and the next begun."""
    _require_writable(out)
    reports = (_run_one(job, out, work) for job in jobs)
    return _collected(reports, jobs, out, slide_done)


def _require_writable(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise as_run_error(error, out) from error


def _collected(
    reports: Iterable[SlideReport],
    jobs: Sequence[SlideJob],
    out: Path,
    slide_done: Callable[[object], None],
) -> FolderReport:
    """Write the tables after each slide, and return all reports."""
    done: list[SlideReport] = []
    failures: list[SlideReport] = []
    paths = {job.path for job in jobs}
    earlier = {name: _earlier_rows(out / name, paths) for name in (SUMMARY, FAILURES)}
    for report in reports:
        (failures if report.error else done).append(report)
        _write_tables(out, done, failures, earlier)
        slide_done(report)
    return FolderReport(tuple(done), tuple(failures), out / SUMMARY)


def _run_one(job: SlideJob, out: Path, work: Work) -> SlideReport:
    folder = str(out / job.output)
    summary: dict[str, Any] = {"slide": Path(job.path).name}
    problem: Exception | None = None
    started = time.perf_counter()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always", WsisegWarning)
        try:
            with open_slide(job.path, mpp=job.mpp, reader=job.reader) as slide:
                _warn_of_override(slide)
                summary = work(slide, job)
        except Exception as error:  # the one broad boundary: no slide may end the batch
            log.debug("%s failed", job.path, exc_info=True)
            summary["seconds"] = round(time.perf_counter() - started, 2)
            problem = error
    heard = tuple(str(w.message) for w in caught if issubclass(w.category, WsisegWarning))
    for message in heard:
        log.warning("%s", message)
    if problem is None:
        return SlideReport(job.path, folder, summary, heard)
    kind = type(problem).__name__
    return SlideReport(job.path, folder, summary, heard, _message(problem, job), kind)


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


def _message(error: Exception, job: SlideJob) -> str:
    text = " ".join(str(error).split())
    if isinstance(error, WsisegError):
        return text if Path(job.path).name in text else f"{job.path}: {text}"
    return f"{job.path}: {type(error).__name__}: {text}; run with --debug and report it"


def _earlier_rows(path: Path, without: set[str]) -> list[dict[str, Any]]:
    """Return the rows of a table of an earlier run into the same folder, for other slides."""
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8") as file:
        return [row for row in csv.DictReader(file) if row.get("path") not in without]


def _write_tables(
    out: Path,
    done: list[SlideReport],
    failures: list[SlideReport],
    earlier: dict[str, list[dict[str, Any]]],
) -> None:
    """Write both tables anew after each slide, so that they are never behind."""
    rows = [
        {**r.summary, "folder": r.folder, "path": r.path, "warnings": "; ".join(r.warnings)}
        for r in done
    ]
    _write_csv(out / SUMMARY, [*earlier[SUMMARY], *rows], first=("slide", "model"))
    lost = [{"path": r.path, "error_class": r.error_class, "error": r.error} for r in failures]
    if lost or earlier[FAILURES]:
        first = ("path", "error_class", "error")
        _write_csv(out / FAILURES, [*earlier[FAILURES], *lost], first=first)
    else:
        (out / FAILURES).unlink(missing_ok=True)


def _write_csv(path: Path, rows: list[dict[str, Any]], *, first: tuple[str, ...]) -> None:
    columns = list(dict.fromkeys([*first, *(key for row in rows for key in row)]))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="")
    writer.writeheader()
    writer.writerows(rows)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        raise as_run_error(error, path) from error


class _work_dir(tempfile.TemporaryDirectory[str]):  # noqa: N801 - used like a function
    """A hidden folder in the output folder, on the same file system, gone afterwards."""

    def __init__(self, out: Path) -> None:
        super().__init__(prefix=".wsiseg-", dir=out)

    def __enter__(self) -> Path:  # type: ignore[override]
        return Path(super().__enter__())


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
