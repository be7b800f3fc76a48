"""Text headers of NRRD and MetaImage: lines of `key: value`, then voxels or the name of a file."""

import re
from pathlib import Path
from typing import BinaryIO

from wsiseg.errors import DamagedFileError, SourceError, UnsupportedFormatError
from wsiseg.source._bytes import ByteReader, OffsetBytes, open_bytes

__all__ = [
    "MAX_HEADER_BYTES",
    "beside",
    "floats",
    "offset",
    "plain",
    "read_lines",
    "text_bytes",
    "whole_numbers",
]

MAX_HEADER_BYTES = 1 << 20
"""A longer header would be a mistake or an attack."""

MAX_TEXT_BYTES = 64 << 20
"""Of voxels written as text; they are read whole."""


def read_lines(file: BinaryIO, name: str, last: str) -> list[str]:
    """Return the lines of a header up to one that begins with `last`, which is the last returned.

    Afterwards the file stands behind it. An empty `last` means an empty line, or the end.

    Raises
    ------
    DamagedFileError
        If the header does not end, or is no text.
    """
    lines: list[str] = []
    left = MAX_HEADER_BYTES
    while left > 0:
        raw = file.readline(left)
        left -= len(raw)
        if not raw and last:
            break
        try:
            line = raw.decode("utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            raise DamagedFileError(f"{name}: the header is no text; copy the file anew") from error
        lines.append(line)
        if (last and line.startswith(last)) or not (last or line):
            return lines
    raise DamagedFileError(f"{name}: the header does not end; copy the file anew")


def floats(text: str, count: int, what: str, name: str) -> tuple[float, ...]:
    """Return so many numbers of a header field.

    Raises
    ------
    DamagedFileError
        If there are others.
    """
    try:
        found = tuple(float(part) for part in text.replace(",", " ").split())
    except ValueError:
        found = ()
    if len(found) != count:
        raise DamagedFileError(
            f"{name}: {what} needs {count} numbers, found {text[:60]!r}; correct the header"
        )
    return found


def whole_numbers(text: str, what: str, name: str) -> tuple[int, ...]:
    """Return the whole numbers above 0 of a header field.

    Raises
    ------
    DamagedFileError
        If there are others.
    """
    parts = text.split()
    if not parts or not all(re.fullmatch(r"0*[1-9][0-9]{0,11}", part) for part in parts):
        raise DamagedFileError(
            f"{name}: {what} needs whole numbers above 0, found {text[:60]!r}; correct the header"
        )
    return tuple(int(part) for part in parts)


def offset(text: str, what: str, name: str) -> int:
    """Return the whole number of a header field, -1 or more.

    Raises
    ------
    DamagedFileError
        If it is none.
    """
    if not re.fullmatch(r"-1|[0-9]{1,15}", text):
        raise DamagedFileError(
            f"{name}: {what} needs a whole number, found {text[:60]!r}; correct the header"
        )
    return int(text)


def beside(path: Path, other: str) -> Path:
    """Return the file of the voxels that a header names, in the header's folder or below.

    Raises
    ------
    UnsupportedFormatError
        If it lies elsewhere: a header must not make other files readable.
    SourceError
        If it is not there.
    """
    found = path.parent / other
    try:
        inside = found.resolve().is_relative_to(path.parent.resolve())
    except (OSError, ValueError):  # a circle of links; a null character
        inside = False
    if Path(other).is_absolute() or not inside:
        raise UnsupportedFormatError(
            f"{path.name}: needed the voxels in a file beside the header, found {other!r}; put it "
            "there, and its name into the header"
        )
    if not found.is_file():
        raise SourceError(
            f"{path.name}: the header names the file {other!r} for its voxels, which is not "
            "there; put it beside the header",
            path=path,
        )
    return found


def plain(path: Path, start: int, nbytes: int) -> ByteReader:
    """Return bytes of a file that are not packed.

    Raises
    ------
    DamagedFileError
        If the file is too short.
    """
    size = path.stat().st_size
    if size < start + nbytes:
        raise DamagedFileError(
            f"{path.name}: the file ends early: needed {start + nbytes} bytes, found {size}; copy "
            "it anew",
            path=path,
        )
    return OffsetBytes(open_bytes(path), start)


def text_bytes(path: Path, start: int) -> bytes:
    """Return the text in which voxels are written.

    Raises
    ------
    UnsupportedFormatError
        If it is too long to be read whole.
    """
    if path.stat().st_size - start > MAX_TEXT_BYTES:
        raise UnsupportedFormatError(
            f"{path.name}: needed at most {MAX_TEXT_BYTES >> 20} MiB of voxels as text, found "
            "more; write the file with raw or gzip encoding"
        )
    with path.open("rb") as file:
        file.seek(start)
        return file.read(MAX_TEXT_BYTES)
