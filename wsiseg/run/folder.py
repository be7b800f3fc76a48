"""A run over slides: one bad slide never ends the batch."""

import csv
import io
import logging
import re
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.engine import Listener, as_run_error, ignore
from wsiseg.errors import UsageError, WsisegError, WsisegWarning
from wsiseg.model import Model, load_model
from wsiseg.options import SegmentOptions, TissueOptions
from wsiseg.pipeline import plan, segment
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
        Loaded once; a model that cannot be used is an error before the first slide.
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
    loaded = (
        model
        if isinstance(model, Model)
        else load_model(model, backend=options.run.backend, device=options.run.device)
    )

    def work(slide: Pyramid, job: SlideJob) -> dict[str, Any]:
        with _work_dir(out) as folder:
            result = segment(slide, loaded, options=options, work_dir=folder, listen=listen)
            result.write(out, name=job.output)
            return result.summary()

    return run_each(jobs, out, work, slide_done=slide_done)


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
    loaded = load_model(model, backend=options.run.backend, device=options.run.device)
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
    try:
        out.mkdir(parents=True, exist_ok=True)
        tempfile.TemporaryFile(dir=out).close()
    except OSError as error:
        raise as_run_error(error, out) from error
    done: list[SlideReport] = []
    failures: list[SlideReport] = []
    paths = {job.path for job in jobs}
    earlier = {name: _earlier_rows(out / name, paths) for name in (SUMMARY, FAILURES)}
    for job in jobs:
        report = _run_one(job, out, work)
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
