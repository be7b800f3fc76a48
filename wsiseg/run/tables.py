"""The tables of an output folder: `summary.csv` of what stands there, and `failures.csv`."""

import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsiseg.engine.marker import is_result
from wsiseg.errors import RunError, unwritable

__all__ = ["FAILURES", "SUMMARY", "SlideReport", "Tables"]

SUMMARY = "summary.csv"
FAILURES = "failures.csv"

FIRST = {SUMMARY: ("slide", "model"), FAILURES: ("path", "error_class", "error")}
"""The columns each table begins with."""

ALWAYS = {SUMMARY: ("folder", "path", "warnings"), FAILURES: ("folder", "older_result")}
"""Further columns that are there even without a row."""

FOUND = ("corrupt_blocks", "corrupt_share", "degraded_mm2", "nodata_mm2")
"""What is known of a slide that failed since too much of it is damaged."""

Row = dict[str, Any]


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
    refused: bool = False
    """Not begun: its folder holds the result of a command that this one must not replace."""

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


class Tables:
    """Both tables, written anew after each slide, so that they are never behind.

    A result has one row, told by its folder, for as long as it stands: also when a later run on its
    slide fails. The tables name folders as seen from `out`, which may be moved.

    Parameters
    ----------
    out
        The output folder. Tables of earlier runs are continued.

    Raises
    ------
    RunError
        If there is a file of such a name that wsiseg did not write.
    """

    def __init__(self, out: Path) -> None:
        self._out = out
        self._summary = self._by_folder(_read(out / SUMMARY))
        self._failures = self._by_folder(_read(out / FAILURES))

    def add(self, report: SlideReport) -> None:
        """Enter what became of a slide.

        Raises
        ------
        RunError
            If a table cannot be written.
        """
        if report.refused:
            return
        name = self._name(report.folder)
        self._failures.pop(name, None)
        self._failures.pop(report.path, None)
        if report.error is None:
            self._summary.pop(name, None)
            self._summary[name] = {
                **report.summary,
                "folder": name,
                "path": report.path,
                "warnings": "; ".join(report.warnings),
            }
        else:
            stands = is_result(self._out / name)
            if not stands:
                self._summary.pop(name, None)
            self._failures[name] = {
                "path": report.path,
                "error_class": report.error_class,
                "error": report.error,
                **{key: report.summary[key] for key in FOUND if key in report.summary},
                "folder": name,
                "older_result": "still there" if stands else "",
            }
        self._write()

    def _by_folder(self, rows: list[Row]) -> dict[str, Row]:
        """Return rows by their folder's name; by the slide's path where a row names none."""
        known: dict[str, Row] = {}
        for row in rows:
            folder = row.get("folder")
            name = self._name(folder) if folder else row["path"]
            known[name] = row | ({"folder": name} if folder else {})
        return known

    def _name(self, folder: str) -> str:
        """Return the name of a slide's folder below `out`, however it is spelled."""
        path = Path(folder)
        if "\0" in folder:  # no system takes it, and nothing can be there
            return folder
        if not path.is_absolute() and (self._out / path).exists():
            path = self._out / path
        root, path = self._out.resolve(), path.resolve()
        return path.relative_to(root).as_posix() if path.is_relative_to(root) else folder

    def _write(self) -> None:
        _write_csv(self._out / SUMMARY, list(self._summary.values()))
        if self._failures:
            _write_csv(self._out / FAILURES, list(self._failures.values()))
        else:
            (self._out / FAILURES).unlink(missing_ok=True)


def _read(path: Path) -> list[Row]:
    """Return the rows of a table of an earlier run.

    Raises
    ------
    RunError
        If it is not such a table: it is neither adopted nor overwritten.
    """
    if not path.exists():
        return []
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            header, *lines = csv.reader(file, strict=True)
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
    return [dict(zip(header, line, strict=True)) for line in lines]


def _foreign(path: Path) -> RunError:
    return RunError(
        f"{path}: is there and is not a table as wsiseg writes it; move it away, or choose another "
        "--out"
    )


def _write_csv(path: Path, rows: Sequence[Row]) -> None:
    first, always = FIRST[path.name], ALWAYS[path.name]
    columns = dict.fromkeys([*first, *(key for row in rows for key in row), *always])
    text = io.StringIO()
    writer = csv.DictWriter(text, list(columns), restval="")
    writer.writeheader()
    writer.writerows(rows)
    partial = path.with_name(f".{path.name}.partial")
    try:
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")
        partial.replace(path)
    except OSError as error:
        raise unwritable(error, path) from error
