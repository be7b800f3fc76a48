"""GeoJSON that every QuPath from 0.5 opens in the right place.

Each object is a Feature with a stable UUID, `objectType`, a class with its colour and a map of
finite measurements. The polygons are rounded to 0.01 px and valid, in the pixels of the image
QuPath shows. A colon in a class name makes a derived class in QuPath (`Tumor: Positive`).
"""

import glob
import gzip
import hashlib
import importlib.metadata
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import orjson
from numpy.typing import NDArray

from wsiseg.annotations._coordinates import coordinates
from wsiseg.annotations._files import staging_folder, writing, writing_whole
from wsiseg.annotations._prepare import Preparation
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.frames import frame_size, qupath_frame
from wsiseg.errors import AnnotationError, LabelError

__all__ = [
    "WriteReport",
    "clean_class_name",
    "describe_image",
    "write_annotations",
    "write_geojson",
]

MAX_OBJECTS = 100_000
"""Objects per file: QuPath reads that many in about 10 s."""

MAX_BYTES = 75_000_000
"""Uncompressed bytes per file: QuPath needs 15 to 20 times as much memory to read it."""

FEATURE = (
    b'{"type":"Feature","id":"%b","geometry":{"type":"%b","coordinates":%b},"properties":%b%b}}'
)
"""To be filled with id, type, coordinates, first properties and measurements."""

LARGEST = float(np.finfo(np.float32).max)
"""QuPath keeps measurements as float32; anything larger would become infinite."""


@dataclass(frozen=True, slots=True)
class WriteReport:
    """What was written, and what could not be written as it was."""

    objects: int
    files: tuple[Path, ...]
    """The GeoJSON files, and last the index where there is more than one."""

    bytes: int
    """Bytes of all these files."""

    repaired: int = 0
    """Objects whose outline was invalid, or became so by rounding to 0.01 px."""

    clipped: int = 0
    """Objects cut at the edge of the image."""

    dropped: Mapping[str, int] = field(default_factory=dict)
    """Reason -> objects left out."""


def write_geojson(
    annotations: Annotations,
    path: Path | str,
    *,
    frame: Frame = "qupath",
    extra: Mapping[str, Any] | None = None,
) -> WriteReport:
    """Write all objects into one GeoJSON file, chunk by chunk.

    Parameters
    ----------
    annotations
        Polygons in either frame; they are moved into `frame`.
    path
        Ends in `.geojson`, `.json`, `.geojson.gz` or `.json.gz`. Two writes give the same bytes.
    frame
        `qupath`: pixels of the image QuPath shows. `level0`: pixels of the whole level-0 image.
    extra
        Further members of the collection's `wsiseg` member, for instance the model's name.

    Raises
    ------
    LabelError
        If QuPath would refuse a class name or a colour.
    AnnotationError
        If the ending is one that QuPath does not read, or the file cannot be written.
    DiskFullError
        If no room is left; nothing stays behind.
    """
    path = Path(path)
    if not path.name.lower().endswith((".geojson", ".json", ".geojson.gz", ".json.gz")):
        raise AnnotationError(
            f"{path}: needed an ending that QuPath reads; use .geojson or .geojson.gz"
        )
    features = _Features(annotations, frame)
    header = describe_image(annotations, frame) | dict(extra or {})
    with writing_whole(path) as stream, _collection(stream, path, header) as collection:
        for feature in features:
            collection.add(feature)
    with writing(path):
        size = path.stat().st_size
    return features.report((path,), size)


def write_annotations(
    folder: Path | str,
    annotations: Annotations,
    *,
    name: str = "annotations",
    frame: Frame = "qupath",
    compress: bool = False,
    extra: Mapping[str, Any] | None = None,
    limits: tuple[int, int] = (MAX_OBJECTS, MAX_BYTES),
) -> WriteReport:
    """Write `name.geojson`, or several files and an index where one would be too large.

    Parameters
    ----------
    folder
        Made if absent. Files of an earlier call with the same name are replaced.
    annotations, frame, extra
        As for `write_geojson`.
    name
        Stem of the files. Several files are `name-0001.geojson ...` with `name.index.json`, which
        lists them with their objects, bytes and SHA-256.
    compress
        Write `.geojson.gz`.
    limits
        (objects, uncompressed bytes) of one file.

    Raises
    ------
    LabelError, AnnotationError, DiskFullError
        As for `write_geojson`; then the files of an earlier call are still there.
    """
    folder = Path(folder)
    suffix = ".geojson.gz" if compress else ".geojson"
    features = _Features(annotations, frame)
    header = describe_image(annotations, frame) | dict(extra or {})
    with staging_folder(folder, name) as staging:
        shards = _write_shards(features, header, staging, f"{name}-{{:04d}}{suffix}", limits)
        if len(shards) == 1:
            single = shards[0][0].rename(staging / f"{name}{suffix}")
            files = [single]
        else:
            index = staging / f"{name}.index.json"
            index.write_bytes(_index(shards, header))
            files = [*(shard for shard, _ in shards), index]
        size = sum(file.stat().st_size for file in files)
        final = tuple(file.replace(folder / file.name) for file in files)
        for stale in _earlier_files(folder, name) - set(final):
            stale.unlink()
    return features.report(final, size)


def clean_class_name(name: str) -> str:
    """Return the name as QuPath will show it, without outer spaces.

    Raises
    ------
    LabelError
        If QuPath would refuse it: nothing in it, or in a part between colons, or a line break.
    """
    parts = [part.strip() for part in name.split(":")]
    if not all(parts):
        raise LabelError(
            f"class name {name!r} has an empty part; QuPath refuses it, rename the class"
        )
    if any(len(part.splitlines()) > 1 for part in parts) or not _is_unicode(name):
        raise LabelError(
            f"class name {name!r} needs to be one line of text; QuPath refuses it, rename the class"
        )
    return ": ".join(parts)


class _Features:
    """The Features of an `Annotations` as JSON, one by one."""

    def __init__(self, annotations: Annotations, frame: Frame) -> None:
        self._annotations = annotations
        classes = [orjson.dumps(c) for c in _classes(annotations)]
        kind = orjson.dumps(annotations.object_type)
        self._properties = [b'{"objectType":%b,"classification":%b' % (kind, c) for c in classes]
        for column in annotations.measurements:
            if not _is_unicode(column):
                raise AnnotationError(f"measurement name {column!r} is not text; rename it")
        self._preparation = Preparation(annotations, frame)
        self._written = 0

    def __iter__(self) -> Iterator[bytes]:
        for prepared in self._preparation:
            several = np.diff(prepared.outlines.objects) > 1
            columns = zip(
                prepared.ids.tolist(),
                np.where(several, b"MultiPolygon", b"Polygon").tolist(),
                coordinates(prepared.outlines),
                [self._properties[i] for i in self._annotations.class_index[prepared.rows]],
                self._measurements(prepared.rows),
                strict=True,
            )
            for column in columns:
                self._written += 1
                yield FEATURE % column

    def _measurements(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the member with the finite measurements of each object, as far as it has any."""
        columns = self._annotations.measurements
        if not columns or not len(rows):
            return [b""] * len(rows)
        names = [orjson.dumps(name) for name in columns]
        values = [np.asarray(column, np.float64)[rows] for column in columns.values()]
        known = [np.abs(column) <= LARGEST for column in values]  # NaN is not
        texts = [_numbers(column) for column in values]
        every = b',"measurements":{%b}' % b",".join(
            b"%b:%%b" % name.replace(b"%", b"%%") for name in names
        )
        members = [every % row for row in zip(*texts, strict=True)]
        for i in np.flatnonzero(~np.logical_and.reduce(known)).tolist():
            left = [b"%b:%b" % (names[k], texts[k][i]) for k in range(len(names)) if known[k][i]]
            members[i] = b',"measurements":{%b}' % b",".join(left) if left else b""
        return members

    def report(self, files: tuple[Path, ...], size: int) -> WriteReport:
        """Return what was written so far."""
        done = self._preparation
        return WriteReport(
            self._written,
            files,
            size,
            done.repaired,
            done.clipped,
            dict(sorted(done.dropped.items())),
        )


def _numbers(column: NDArray[np.float64]) -> list[bytes]:
    """Return numbers as JSON."""
    return orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")


class _Collection:
    """A FeatureCollection being written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.objects = 0
        self.bytes = 0

    def add(self, feature: bytes) -> None:
        """Write one more Feature."""
        text = (b",\n" if self.objects else b"\n") + feature
        self._stream.write(text)
        self.objects += 1
        self.bytes += len(text)


@contextmanager
def _collection(stream: BinaryIO, path: Path, header: Mapping[str, Any]) -> Iterator[_Collection]:
    """Write head and tail of a FeatureCollection, compressed where the name says so."""
    with ExitStack() as stack:
        if path.name.lower().endswith(".gz"):  # no name, no time: the same bytes every time
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0)
            stream = cast("BinaryIO", stack.enter_context(packed))
        stream.write(b'{"type":"FeatureCollection","wsiseg":%b,"features":[' % _dumps(header))
        yield _Collection(stream)
        stream.write(b"\n]}\n")


def _write_shards(
    features: _Features,
    header: Mapping[str, Any],
    folder: Path,
    pattern: str,
    limits: tuple[int, int],
) -> list[tuple[Path, int]]:
    """Write the files into `folder`; return each with its objects."""
    waiting = iter(features)
    feature = next(waiting, None)
    shards: list[tuple[Path, int]] = []
    while feature is not None or not shards:
        path = folder / pattern.format(len(shards) + 1)
        with path.open("wb") as stream, _collection(stream, path, header) as collection:
            while feature is not None and (
                collection.objects == 0
                or (collection.objects < limits[0] and collection.bytes + len(feature) <= limits[1])
            ):
                collection.add(feature)
                feature = next(waiting, None)
        shards.append((path, collection.objects))
    return shards


def _index(shards: list[tuple[Path, int]], header: Mapping[str, Any]) -> bytes:
    files = []
    for path, objects in shards:
        with path.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
        files.append(
            {"file": path.name, "objects": objects, "bytes": path.stat().st_size, "sha256": digest}
        )
    total = sum(objects for _, objects in shards)
    return _dumps({"index_version": 1, "objects": total, "files": files, "wsiseg": header})


def _earlier_files(folder: Path, name: str) -> set[Path]:
    """Return the files `write_annotations` may have left there before, in whichever shape."""
    single = (folder / f"{name}{ending}" for ending in (".geojson", ".geojson.gz", ".index.json"))
    shards = folder.glob(f"{glob.escape(name)}-[0-9][0-9][0-9][0-9].geojson*")
    return {path for path in single if path.exists()} | set(shards)


def describe_image(annotations: Annotations, frame: Frame) -> dict[str, Any]:
    """Return which image the coordinates belong to, and in which frame; fit for JSON."""
    image, shown = annotations.image, qupath_frame(annotations.image)
    width, height = frame_size(image, frame)
    header: dict[str, Any] = {
        "version": _version(),
        "image": image.name,
        "image_width": width,
        "image_height": height,
        "frame": frame,
        "offset": list(shown.offset) if frame == "qupath" else [0, 0],
        "bounds_applied": shown.bounds_applied and frame == "qupath",
        "level0_width": image.shape[1],
        "level0_height": image.shape[0],
        "mpp": list(reversed(image.spacing.um)),
        "vendor": image.vendor,
        "classes": _classes(annotations),
    }
    if not len(annotations):
        header["empty"] = True  # nothing was found: no objects is what is meant
    if image.bounds is not None:
        header["bounds"] = [*reversed(image.bounds.start), *reversed(image.bounds.shape)]
    if shown.note is not None:
        header["note"] = shown.note
    return header


def _classes(annotations: Annotations) -> list[dict[str, Any]]:
    """Return the classes as QuPath takes them."""
    cleaned: list[dict[str, Any]] = []
    for item in annotations.classes:
        name, color = clean_class_name(item.name), [int(value) for value in item.color]
        if len(color) != 3 or not all(0 <= value <= 255 for value in color):
            raise LabelError(f"class {name!r}: color needs three integers 0-255, got {item.color}")
        cleaned.append({"name": name, "color": color})
    names = [item["name"] for item in cleaned]
    if len(set(names)) != len(names):
        raise LabelError(f"class names need to differ without outer spaces, got {names}")
    index = np.asarray(annotations.class_index)
    if len(index) and (index.min() < 0 or index.max() >= len(names)):
        raise LabelError(
            f"class_index needs 0 to {len(names) - 1}, got {index.min()} to {index.max()}"
        )
    return cleaned


def _dumps(value: Mapping[str, Any]) -> bytes:
    try:
        return orjson.dumps(value, option=orjson.OPT_SERIALIZE_NUMPY)
    except TypeError as error:
        raise AnnotationError(f"the collection's members cannot be JSON: {error}") from error


def _version() -> str:
    try:
        return importlib.metadata.version("wsiseg")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def _is_unicode(text: str) -> bool:
    """Tell whether the text can be UTF-8, which half a surrogate pair cannot."""
    return not any("\ud800" <= character <= "\udfff" for character in text)
