"""Reports written beside finished results."""

import os
from collections.abc import Sequence
from pathlib import Path

from wsiseg.errors import RunError, unwritable
from wsiseg.exchange.finished_scan import FinishedScan, is_scan_result
from wsiseg.view.report.finished import RECORD, FinishedSlide
from wsiseg.view.report.run import FAILURES, run_page
from wsiseg.view.report.slide import slide_page
from wsiseg.volume.report import REPORT_FILES

__all__ = ["PAGE", "write_reports"]

PAGE = "report.html"


def write_reports(out: Path | str) -> list[Path]:
    """Write `report.html` for a slide, a scan or a run, from what `wsiseg segment` left.

    Scans get `report.txt`, `.json` and `.csv`, too; they are on no page of the run yet.

    Parameters
    ----------
    out
        The folder of one slide, or the output folder of a run: then each slide and the run itself
        get one. Every page holds what it shows, so it can be sent and printed as it is.

    Returns
    -------
    list of Path
        What was written, the run's page last.

    Raises
    ------
    RunError
        If there is no result, or a file of one cannot be read.
    DiskFullError
        If there is no room left.
    """
    out = Path(out)
    if not out.is_dir():
        raise RunError(f"{out}: no such folder; name the --out of a run, or a slide's folder in it")
    if is_scan_result(out):
        return _scan_files(out)
    if (out / RECORD).exists():
        return [_put(out / PAGE, slide_page(FinishedSlide(out)))]
    folders = _folders(out)
    scans = [folder for folder in folders if is_scan_result(folder)]
    told = [path for folder in scans for path in _scan_files(folder)]
    slides = [FinishedSlide(folder) for folder in folders if folder not in scans]
    if told and not slides:
        return told
    if not slides and not (out / FAILURES).exists():
        raise RunError(f"{out}: no result in it: needed run.json, as `wsiseg segment` writes it")
    written = [_put(slide.folder / PAGE, slide_page(slide)) for slide in slides]
    pages = {page.parent: page.relative_to(out).as_posix() for page in written}
    written.append(_put(out / PAGE, run_page(out, slides, pages=pages)))
    return [*told, *written]


def _scan_files(folder: Path) -> list[Path]:
    """Write the report of a scan: a page, text and tables."""
    return FinishedScan(folder).report().write(folder, REPORT_FILES)


def _folders(out: Path) -> Sequence[Path]:
    """Return the result folders below, also those of `--nested`, by name; none within another."""
    found = []
    for place, folders, files in os.walk(out):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        if RECORD in files:
            found.append(Path(place))
            folders.clear()
    return found


def _put(path: Path, page: str) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(error, path) from error
    return path
