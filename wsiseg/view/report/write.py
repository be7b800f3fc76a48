"""Reports written beside finished results."""

import csv
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsiseg.errors import RunError, unwritable
from wsiseg.exchange.finished_scan import FinishedScan, is_scan_result
from wsiseg.view.report.finished import RECORD, FinishedSlide
from wsiseg.view.report.run import run_page
from wsiseg.view.report.slide import slide_page
from wsiseg.volume.report import REPORT_FILES

__all__ = ["PAGE", "write_reports"]

PAGE = "report.html"
SUMMARY, FAILURES = "summary.csv", "failures.csv"


def write_reports(out: Path | str) -> list[Path]:
    """Write `report.html` for a slide, a scan or a run, from what `wsiseg segment` left.

    Scans get `report.txt`, `.json` and `.csv`, too.

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
        return _slide_file(out)
    folders, failures = _folders(out), _table(out / FAILURES)
    if not folders and not failures:
        raise RunError(f"{out}: no result in it: needed run.json, as `wsiseg segment` writes it")
    known = {row.get("folder"): row for row in _table(out / SUMMARY)}  # with warnings
    written, rows, pages = [], [], {}
    for folder in folders:
        name = folder.relative_to(out).as_posix()
        files = _scan_files(folder) if is_scan_result(folder) else _slide_file(folder)
        own = {"slide": name, **FinishedSlide(folder).summary, "folder": name}
        rows.append(known.get(name, {}) | own)
        pages[name] = f"{name}/{PAGE}"
        written += files
    return [*written, _put(out / PAGE, run_page(out, rows, failures, pages=pages))]


def _slide_file(folder: Path) -> list[Path]:
    return [_put(folder / PAGE, slide_page(FinishedSlide(folder)))]


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


def _table(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            return list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise RunError(f"{path}: cannot be read: {error}; run the slides again") from error


def _put(path: Path, page: str) -> Path:
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        partial.write_text(page, encoding="utf-8")
        partial.replace(path)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise unwritable(error, path) from error
    return path
