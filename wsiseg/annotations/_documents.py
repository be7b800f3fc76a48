"""Files as QuPath opens them: by their name, unpacked, and one JSON text each."""

import gzip
import json
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO, Literal, cast

import numpy as np
import orjson

from wsiseg.errors import AnnotationError

__all__ = ["Document", "JsonWalk", "open_documents"]

STEP = 1 << 20
LONGEST_LINE = 1 << 16
"""Characters of a line that is tried as one value."""

ZEROS = bytes.maketrans(b"123456789", b"000000000")
LONG_INTEGER = b"0" * 19
"""Python keeps integers that orjson makes floating-point numbers of."""

BLANK = re.compile(r"[ \t\r\n]*")
BROKEN = (OSError, EOFError, zlib.error, zipfile.BadZipFile, RuntimeError, NotImplementedError)
"""What gzip and zipfile raise on damaged, encrypted or unknown packing."""

POLYGON = b'{"type":"Polygon","coordinates":[[['
"""Cannot stand inside a string: its quotes would end it."""

CUT_OUT = b'"coordinates, read on their own"'
IN_NUMBERS = b"0123456789+-.eE"

Trouble = Literal["extension", "packing", "too-large", "ignored-entry"]
ElementKind = Literal["feature", "item"]


@dataclass(frozen=True, slots=True)
class Document:
    """One JSON file, alone or in a ZIP file."""

    entry: str | None
    """Name inside a ZIP file."""

    content: bytes = b""
    trouble: Trouble | None = None
    """Why there is no content."""

    detail: str = ""


def open_documents(path: Path, *, max_bytes: int) -> Iterator[Document]:
    """Yield the JSON texts QuPath would read from a file, and what it could not.

    Parameters
    ----------
    path
        The ending decides: `.json`, `.geojson`, each also `.gz`, and `.zip`.
    max_bytes
        Bytes unpacked at most, all entries of a ZIP file together.

    Raises
    ------
    AnnotationError
        If the file cannot be opened at all.
    """
    try:
        with path.open("rb") as stream:
            if path.name.lower().endswith(".zip"):
                yield from _zip_entries(stream, max_bytes)
            else:
                yield _unpack(stream, path.name, None, max_bytes)
    except FileNotFoundError as error:
        raise AnnotationError(f"{path}: no such file; check the path") from error
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror or error}") from error


def _zip_entries(stream: BinaryIO, max_bytes: int) -> Iterator[Document]:
    try:
        archive = zipfile.ZipFile(stream)
    except BROKEN as error:
        yield Document(None, trouble="packing", detail=f"not a ZIP file ({error})")
        return
    left = max_bytes
    with archive:
        for info in archive.infolist():
            if info.is_dir():
                continue
            name = PurePosixPath(info.filename).name
            if not _is_json(name):
                yield Document(info.filename, trouble="ignored-entry", detail=info.filename)
                continue
            try:
                with archive.open(info) as entry:
                    document = _unpack(cast("BinaryIO", entry), name, info.filename, left)
            except BROKEN as error:
                document = Document(info.filename, trouble="packing", detail=str(error))
            left -= len(document.content)
            yield document


def _is_json(name: str) -> bool:
    return name.lower().removesuffix(".gz").endswith((".json", ".geojson"))


def _unpack(stream: BinaryIO, name: str, entry: str | None, max_bytes: int) -> Document:
    if not _is_json(name):
        return Document(entry, trouble="extension", detail=name)
    packed = name.lower().endswith(".gz")
    source = cast("BinaryIO", gzip.GzipFile(fileobj=stream)) if packed else stream
    chunks, size = [], 0
    try:
        while chunk := source.read(STEP):
            chunks.append(chunk)
            size += len(chunk)
            if size > max_bytes:
                return Document(entry, trouble="too-large", detail=f"more than {max_bytes} bytes")
    except BROKEN as error:
        return Document(entry, trouble="packing", detail=str(error))
    return Document(entry, b"".join(chunks))


class JsonWalk:
    """A JSON text taken apart one feature at a time, so that its tree is never in memory whole.

    Parameters
    ----------
    text
        One JSON value. As in QuPath's lenient parser NaN and Infinity are numbers, and strings may
        hold line breaks.
    """

    def __init__(self, text: str) -> None:
        self._text = text
        self._at = 0
        self._decode = json.JSONDecoder(strict=False).raw_decode
        self.members: dict[str, Any] | None = None
        """Members of a top-level object but `features`; complete after the walk."""

    def __iter__(self) -> Iterator[tuple[ElementKind, Any]]:
        """Yield the entries of a top-level `features` or array, or another top-level value.

        Raises
        ------
        ValueError
            If the text is not exactly one JSON value.
        RecursionError
            If it is nested too deeply.
        """
        first = self._peek()
        if first == "{":
            yield from self._object()
        elif first == "[":
            for item in self._array():
                yield "item", item
        elif first:
            yield "item", self._value()
        if self._peek():
            raise ValueError(f"text goes on after its end, at character {self._at}")

    def _object(self) -> Iterator[tuple[ElementKind, Any]]:
        self.members = {}
        self._take("{")
        if self._peek() == "}":
            self._take("}")
            return
        while True:
            if self._peek() != '"':
                raise ValueError(f"needed a key at character {self._at}")
            key = self._value()
            self._take(":")
            if key == "features" and self._peek() == "[":
                for feature in self._array():
                    yield "feature", feature
            else:
                self.members[key] = self._value()
            if self._take(",}") == "}":
                return

    def _array(self) -> Iterator[Any]:
        self._take("[")
        if self._peek() == "]":
            self._take("]")
            return
        while True:
            yield self._value()
            if self._take(",]") == "]":
                return

    def _value(self) -> Any:  # noqa: ANN401
        self._peek()
        value, self._at = self._line() or self._decode(self._text, self._at)
        return value

    def _line(self) -> tuple[Any, int] | None:
        """Return the value that fills the rest of the line, a comma aside, and its end.

        Most writers give each feature a line, and orjson is several times as fast. What it refuses
        or would read in another way is left to the lenient parser.
        """
        stop = self._text.find("\n", self._at, self._at + LONGEST_LINE)
        if stop <= self._at:
            return None
        stop -= self._text[stop - 1] == ","
        line = self._text[self._at : stop].encode()
        if LONG_INTEGER in line.translate(ZEROS):
            return None
        try:
            return _with_polygon(line) or orjson.loads(line), stop
        except orjson.JSONDecodeError:
            return None

    def _peek(self) -> str:
        """Go on to the next character that is not blank and return it."""
        character = self._text[self._at : self._at + 1]
        if character not in " \t\r\n":
            return character
        self._at = cast("re.Match[str]", BLANK.match(self._text, self._at)).end()
        return self._text[self._at : self._at + 1]

    def _take(self, choices: str) -> str:
        character = self._peek()
        if not character or character not in choices:
            raise ValueError(f"needed one of {choices!r} at character {self._at}")
        self._at += 1
        return character


def _with_polygon(line: bytes) -> Any:  # noqa: ANN401
    """Return the value of a line, its first polygon as arrays (n, 2); `None` where that fails.

    Vertex by vertex its lists would take most of the time.
    """
    head, key, rest = line.partition(POLYGON)
    coordinates, end, tail = rest.partition(b"]]]")
    if not key or not end:
        return None
    rings = []
    for ring in coordinates.split(b"]],[["):
        if ring.translate(None, IN_NUMBERS).replace(b",],[", b"") != b",":
            return None  # something else than pairs of numbers
        rings.append(orjson.loads(b"[%b]" % ring.replace(b"],[", b",")))
    feature = orjson.loads(b"%b%b%b%b" % (head, key[:-3], CUT_OUT, tail))
    geometry = feature.get("geometry") if isinstance(feature, dict) else None
    if not isinstance(geometry, dict) or geometry.get("coordinates") != CUT_OUT[1:-1].decode():
        return None
    geometry["coordinates"] = [np.array(ring, np.float64).reshape(-1, 2) for ring in rings]
    return feature
