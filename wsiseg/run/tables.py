"""The tables of an output folder: `summary.csv` of what stands there, and `failures.csv`.

Several processes may write them: each reads what is there, enters its own rows and puts the table
in its place while it holds a lease, so that none loses a row of another. Where a row is lost all
the same, as to a full disk, it is entered again when a later run finds the slide finished.
"""

import csv
import io
import logging
import os
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from wsiseg.engine.marker import is_result
from wsiseg.errors import LeaseError, RunError, WsisegError, unwritable
from wsiseg.run.leases import Leases
from wsiseg.run.reports import SlideReport
from wsiseg.view.report.run import MOST_EMBEDDED, run_page

__all__ = ["FAILURES", "PAGE", "SUMMARY", "SlideReport", "Tables"]

log = logging.getLogger(__name__)

SUMMARY = "summary.csv"
FAILURES = "failures.csv"
PAGE = "report.html"

FIRST = {SUMMARY: ("slide", "model"), FAILURES: ("path", "error_class", "message", "remedy")}
"""The columns each table begins with."""

ALWAYS = {SUMMARY: ("folder", "path", "warnings"), FAILURES: ("folder", "older_result")}
"""Further columns that are there even without a row."""

FOUND = ("corrupt_blocks", "corrupt_share", "degraded_mm2", "nodata_mm2")
"""What is known of a slide that failed since too much of it is damaged."""

LEASE = "tables"
WAIT_S, LAST_WAIT_S = 5.0, 30.0
"""How long to wait for another process that writes: now and then; and, beside the time that a lease
takes to expire, at the end."""

SHARE = 0.05
"""Of the time, that writing tables may take: with very many rows, some wait for each other."""

PAGE_S = 30.0
"""Between two times that the page is written."""

Row = dict[str, Any]
Stamp = tuple[int, int, int] | None


class Tables:
    """Both tables, written anew after each slide, so that they are hardly ever behind.

    A result has one row, told by its folder, for as long as it stands: also when a later run on its
    slide fails. The tables name folders as seen from `out`, which may be moved.

    Parameters
    ----------
    out
        The output folder. Tables of earlier runs are continued.
    leases
        Those of this process in that folder.

    Raises
    ------
    RunError
        If there is a file of such a name that wsiseg did not write.
    """

    def __init__(self, out: Path, leases: Leases) -> None:
        self._out = out
        self._root = out.resolve()
        self._leases = leases
        self._pending: list[SlideReport] = []
        self._stamps: dict[str, Stamp] = {SUMMARY: None, FAILURES: None}
        self._next_write = self._next_page = 0.0
        self._page_is_old = self._warned = False
        self._summary: dict[str, Row] = {}
        self._failures: dict[str, Row] = {}
        self._read()

    def add(self, report: SlideReport) -> None:
        """Enter what became of a slide; what cannot be written now is kept for the next time."""
        if report.refused or report.held_by is not None or self._knows(report):
            return
        self._pending.append(report)
        if time.monotonic() >= self._next_write:
            self._try(WAIT_S, last=False)

    def finish(self, *, patient: bool = True) -> str | None:
        """Write what is left, and the page; return why that failed, or `None`.

        Parameters
        ----------
        patient
            Wait, if need be, until another process that died while it wrote is known to be dead.
        """
        wait_s = LAST_WAIT_S + self._leases.expiry_s if patient else WAIT_S
        return self._try(wait_s, last=True)

    def _try(self, wait_s: float, *, last: bool) -> str | None:
        page_due = last and (self._page_is_old or not (self._out / PAGE).exists())
        if not self._pending and not page_due:
            return None
        try:
            self._write(wait_s, last=last)
        except (WsisegError, OSError) as error:
            is_ours = isinstance(error, WsisegError)
            told = error if is_ours else unwritable(error, self._out / SUMMARY)  # type: ignore[arg-type]
            if isinstance(error, LeaseError) and not last:
                return None  # another process is at it
            if not self._warned:
                log.warning("%s", told)
                self._warned = True
            return str(told)
        return None

    def _write(self, wait_s: float, *, last: bool) -> None:
        started = time.monotonic()
        with self._leases.hold(LEASE, wait_s=wait_s) as lease:
            held = time.monotonic()
            self._read()
            changed = [self._enter(report) for report in self._pending]
            if any(changed):
                self._put(lease.folder, SUMMARY, list(self._summary.values()))
                self._put(lease.folder, FAILURES, list(self._failures.values()))
            self._pending.clear()
            self._page_is_old |= any(changed)
            if last or (started > self._next_page and self._page_is_old):
                self._put_page(lease.folder, last=last)
                self._next_page = time.monotonic() + PAGE_S
                self._page_is_old = False
        self._next_write = time.monotonic() + (time.monotonic() - held) / SHARE

    def _knows(self, report: SlideReport) -> bool:
        """Return whether a result that was there before has its row already."""
        if not report.reused:
            return False
        name = self._name(report.folder)
        return name in self._summary and name not in self._failures

    def _enter(self, report: SlideReport) -> bool:
        """Enter what became of a slide; return whether that changes anything."""
        name = self._name(report.folder)
        failed_before = self._failures.pop(name, None) or self._failures.pop(report.path, None)
        if report.error is not None:
            stands = is_result(self._out / name)
            if not stands:
                self._summary.pop(name, None)
            self._failures[name] = {
                "path": report.path,
                "error_class": report.error_class,
                "error": report.error,
                **{key: report.summary[key] for key in FOUND if key in report.summary},
                "message": report.message,
                "remedy": report.remedy,
                **{key: report.summary[key] for key in FOUND if key in report.summary},
                "folder": name,
                "older_result": "still there" if stands else "",
            }
            return True
        if report.reused and name in self._summary:
            return failed_before is not None
        self._summary.pop(name, None)
        self._summary[name] = {
            **report.summary,
            "folder": name,
            "path": report.path,
            "warnings": "; ".join(report.warnings),
        }
        return True

    def _read(self) -> None:
        """Read what is there, unless it is what this process wrote last."""
        for table in (SUMMARY, FAILURES):
            rows, stamp = _read(self._out / table, self._stamps[table])
            if rows is None:
                continue
            self._stamps[table] = stamp
            known: dict[str, Row] = {}
            for row in rows:
                folder = row.get("folder")
                name = self._known_name(folder) if folder else row["path"]
                known[name] = row | ({"folder": name} if folder else {})
            if table == SUMMARY:
                self._summary = known
            else:
                self._failures = known

    def _known_name(self, folder: str) -> str:
        """Return the name of a folder in a table, which mostly stands there as it should."""
        parts = folder.split("/")
        if Path(folder).is_absolute() or parts[0] == self._root.name or ".." in parts:
            return self._name(folder)
        return folder

    def _name(self, folder: str) -> str:
        """Return the name of a slide's folder below `out`, however it is spelled."""
        path = Path(folder)
        if "\0" in folder:  # no system takes it, and nothing can be there
            return folder
        if not path.is_absolute() and (self._out / path).exists():
            path = self._out / path
        path = path.resolve()
        return (
            path.relative_to(self._root).as_posix() if path.is_relative_to(self._root) else folder
        )

    def _put(self, workspace: Path, table: str, rows: Sequence[Row]) -> None:
        """Put a table in its place, out of a folder that is gone if the lease is lost."""
        path = self._out / table
        if not rows and table == FAILURES:
            path.unlink(missing_ok=True)
            self._stamps[table] = None
            return
        _place(workspace, path, _csv_text(table, rows))
        with path.open("rb") as file:
            self._stamps[table] = _stamp(file.fileno())

    def _put_page(self, workspace: Path, *, last: bool) -> None:
        if self._summary or self._failures:
            rows = list(self._summary.values()), list(self._failures.values())
            text = run_page(self._out, *rows, embed=last and len(rows[0]) <= MOST_EMBEDDED)
            _place(workspace, self._out / PAGE, text)


def _read(path: Path, known: Stamp) -> tuple[list[Row] | None, Stamp]:
    """Return the rows of a table and its stamp; `None` for the rows if that is the stamp known.

    The file is opened for that, since a client of NFS then asks the server what it is like now.

    Raises
    ------
    RunError
        If it is not such a table: it is neither adopted nor overwritten.
    """
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            stamp = _stamp(file.fileno())
            if stamp == known:
                return None, stamp
            header, *lines = csv.reader(file, strict=True)
    except FileNotFoundError:
        return [], None
    except OSError as error:
        raise RunError(
            f"{path}: cannot be read: {error.strerror or error}; choose another --out"
        ) from error
    except (ValueError, csv.Error) as error:  # no text, no line, or no CSV
        raise _foreign(path) from error
    first = FIRST[path.name]
    if tuple(header[: len(first)]) != first or "path" not in header:
        raise _foreign(path)
    if any(len(line) != len(header) for line in lines):
        raise _foreign(path)
    return [dict(zip(header, line, strict=True)) for line in lines], stamp


def _stamp(descriptor: int) -> Stamp:
    told = os.fstat(descriptor)
    return told.st_ino, told.st_mtime_ns, told.st_size


def _foreign(path: Path) -> RunError:
    return RunError(
        f"{path}: is there and is not a table as wsiseg writes it; move it away, or choose another "
        "--out"
    )


def _csv_text(table: str, rows: Sequence[Row]) -> str:
    columns = dict.fromkeys([*FIRST[table], *(key for row in rows for key in row), *ALWAYS[table]])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def _place(workspace: Path, path: Path, text: str) -> None:
    partial = workspace / path.name
    try:
        partial.write_text(text, encoding="utf-8", errors="backslashreplace", newline="")
        partial.replace(path)
    except OSError as error:
        raise unwritable(error, path) from error
