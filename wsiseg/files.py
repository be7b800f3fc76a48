"""Files that are whole under their name, or not there."""

import csv
import errno
import io
import math
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import Any

from wsiseg.errors import unwritable

__all__ = ["csv_table", "make_durable", "make_durable_name", "require_file", "write_whole"]

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What spreadsheets take for the beginning of a formula."""

AT_ONCE = 16
"""Files written out at once: the disk then has one order of work instead of many (60 files: 22 ms
instead of 114)."""


def make_durable(path: Path) -> None:
    """Return when a file, or all in a folder, is on the disk: before it gets its final name.

    Otherwise a power cut could leave empty files under names that promise whole ones.

    Raises
    ------
    OSError
        If the disk cannot keep it.
    """
    if os.name != "posix":  # where folders cannot be opened, and files only for writing
        return
    inner = [path, *path.rglob("*")] if path.is_dir() else [path]
    with ThreadPoolExecutor(AT_ONCE) as pool:
        list(pool.map(_write_out, (one for one in inner if not one.is_symlink())))


def make_durable_name(path: Path) -> None:
    """Return when a file or folder has its new name on the disk, too."""
    if os.name == "posix":
        with suppress(OSError):  # some file systems know no such thing
            _write_out(path.parent)


def _write_out(path: Path) -> None:
    file = os.open(path, os.O_RDONLY)
    try:
        os.fsync(file)
    finally:
        os.close(file)


def require_file(path: Path) -> None:
    """Refuse a pipe or a device, such as a link in a package leads to: reading may never end.

    Raises
    ------
    OSError
        If something else than a file is there.
    """
    if path.exists() and not path.is_file():
        raise OSError(errno.EINVAL, "needed a file, found a folder, a pipe or a device")


def write_whole(path: Path, content: bytes) -> None:
    """Write a file that appears under its name when it is complete.

    Raises
    ------
    DiskFullError
        If there is no room left.
    RunError
        If the file cannot be written.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        part.write_bytes(content)
        part.replace(path)
    except OSError as error:
        raise unwritable(error, path) from error
    finally:
        with suppress(OSError):  # the first error is the one to tell
            part.unlink(missing_ok=True)


def csv_table(rows: Sequence[Mapping[str, Any]]) -> bytes:
    """Return rows as CSV; columns in the order in which they appear first, NaN as nothing."""
    text = io.StringIO(newline="")
    columns = dict.fromkeys(name for row in rows for name in row)
    writer = csv.DictWriter(text, list(columns), restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows({name: _cell(value) for name, value in row.items()} for row in rows)
    return text.getvalue().encode()


def _cell(value: object) -> object:
    """Return what stands in a table: nothing for NaN, and text that is never run as a formula."""
    if isinstance(value, float):
        return "" if math.isnan(value) else f"{value:.6g}"
    if isinstance(value, str) and value.startswith(FORMULA):
        return f"'{value}"
    return value
