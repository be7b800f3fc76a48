"""GeoJSON that every QuPath from 0.5 opens in the right place.

Each object is a Feature with a stable UUID, `objectType`, a class with its colour and a map of
finite measurements. The polygons are rounded to 0.01 px and valid, in the pixels of the image
QuPath shows. A colon in a class name makes a derived class in QuPath (`Tumor: Positive`).
"""

import glob
import gzip
import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO, cast

from wsiseg.annotations._features import FeatureChunk, Features
from wsiseg.annotations._files import staging_folder, writing, writing_whole
from wsiseg.annotations._header import clean_class_name, describe_image, dumps
from wsiseg.annotations._nesting import Item, nested
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.errors import AnnotationError

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
    annotations: Annotations | Iterable[Annotations],
    path: Path | str,
    *,
    frame: Frame = "qupath",
    extra: Mapping[str, Any] | None = None,
) -> WriteReport:
    """Write all objects into one GeoJSON file, chunk by chunk.

    Parameters
    ----------
    annotations
        Objects in either frame; they are moved into `frame`. Several, of one image, are written one
        after the other, so that only one of them need be in memory.
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
    features = _AllFeatures(annotations, frame)
    header = features.header() | dict(extra or {})
    with writing_whole(path) as stream, _collection(stream, path, header) as collection:
        for chunk in features:
            for text in chunk.texts:
                collection.add(Item(text))
    with writing(path):
        size = path.stat().st_size
    return features.report((path,), size)


def write_annotations(
    folder: Path | str,
    annotations: Annotations | Iterable[Annotations],
    *,
    name: str = "annotations",
    frame: Frame = "qupath",
    compress: bool = False,
    extra: Mapping[str, Any] | None = None,
    limits: tuple[int, int] = (MAX_OBJECTS, MAX_BYTES),
    parents: Annotations | None = None,
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
    parents
        Areas that do not overlap, such as pieces of tissue: they are written, too, and the objects
        in them become their children. What does not fit into one file beside its parent comes
        without; QuPath's `resolveHierarchy()` nests it.

    Raises
    ------
    LabelError, AnnotationError, DiskFullError
        As for `write_geojson`; then the files of an earlier call are still there.
    """
    folder = Path(folder)
    suffix = ".geojson.gz" if compress else ".geojson"
    features = _AllFeatures(annotations, frame)
    pattern = f"{name}-{{:04d}}{suffix}"
    with staging_folder(folder, name) as staging:
        items: Iterator[Item] = (Item(text) for chunk in features for text in chunk.texts)
        header = features.header(parents) | dict(extra or {})
        if parents is not None:
            above = features.also(parents)
            items = nested(above, features, staging, limits)
        shards = _write_shards(items, header, staging, pattern, limits)
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


class _AllFeatures:
    """The Features of one or several `Annotations` of an image."""

    def __init__(self, annotations: Annotations | Iterable[Annotations], frame: Frame) -> None:
        several = iter([annotations] if isinstance(annotations, Annotations) else annotations)
        try:
            self._first = next(several)
        except StopIteration:
            raise AnnotationError("nothing to write: needed at least one Annotations") from None
        while not len(self._first):  # the first with objects tells whether there are any
            following = next(several, None)
            if following is None:
                break
            self._first = following
        self._several = chain([self._first], several)
        self._frame = frame
        # What is in memory as a whole has ids that differ as a whole; else those of each part do.
        self._seen: set[int] | None = set() if isinstance(annotations, Sequence) else None
        self._done: list[Features] = []

    def header(self, parents: Annotations | None = None) -> dict[str, Any]:
        """Return the collection's own members."""
        header = describe_image(self._first, self._frame)
        if parents is not None and len(parents):
            header.pop("empty", None)
            known = {item["name"] for item in header["classes"]}
            more = describe_image(parents, self._frame)["classes"]
            header["classes"] += [item for item in more if item["name"] not in known]
        return header

    def __iter__(self) -> Iterator[FeatureChunk]:
        for annotations in self._several:
            yield from self.also(annotations)

    def also(self, annotations: Annotations) -> Iterator[FeatureChunk]:
        """Yield the Features of other objects, which then count, too."""
        features = Features(annotations, self._frame, self._seen)
        self._done.append(features)
        yield from features

    def report(self, files: tuple[Path, ...], size: int) -> WriteReport:
        """Return what was written so far."""
        dropped: Counter[str] = sum((done.dropped for done in self._done), Counter())
        return WriteReport(
            sum(done.written for done in self._done),
            files,
            size,
            sum(done.repaired for done in self._done),
            sum(done.clipped for done in self._done),
            dict(sorted(dropped.items())),
        )


class _Collection:
    """A FeatureCollection being written."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self.objects = 0
        self.bytes = 0

    def add(self, item: Item) -> None:
        """Write one more Feature."""
        text = (b",\n" if self.objects else b"\n") + item.text
        self._stream.write(text)
        self.objects += item.objects
        self.bytes += len(text)

    def has_room_for(self, item: Item, limits: tuple[int, int]) -> bool:
        """Return whether a Feature fits; into an empty file any does."""
        return self.objects == 0 or (
            self.objects + item.objects <= limits[0] and self.bytes + len(item.text) <= limits[1]
        )


@contextmanager
def _collection(stream: BinaryIO, path: Path, header: Mapping[str, Any]) -> Iterator[_Collection]:
    """Write head and tail of a FeatureCollection, compressed where the name says so."""
    with ExitStack() as stack:
        if path.name.lower().endswith(".gz"):  # no name, no time: the same bytes every time
            packed = gzip.GzipFile("", "wb", compresslevel=6, fileobj=stream, mtime=0)
            stream = cast("BinaryIO", stack.enter_context(packed))
        stream.write(b'{"type":"FeatureCollection","wsiseg":%b,"features":[' % dumps(header))
        yield _Collection(stream)
        stream.write(b"\n]}\n")


def _write_shards(
    items: Iterator[Item],
    header: Mapping[str, Any],
    folder: Path,
    pattern: str,
    limits: tuple[int, int],
) -> list[tuple[Path, int]]:
    """Write the files into `folder`; return each with its objects."""
    item = next(items, None)
    shards: list[tuple[Path, int]] = []
    while item is not None or not shards:
        path = folder / pattern.format(len(shards) + 1)
        with path.open("wb") as stream, _collection(stream, path, header) as collection:
            while item is not None and collection.has_room_for(item, limits):
                collection.add(item)
                item = next(items, None)
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
    return dumps({"index_version": 1, "objects": total, "files": files, "wsiseg": header})


def _earlier_files(folder: Path, name: str) -> set[Path]:
    """Return the files `write_annotations` may have left there before, in whichever shape."""
    single = (folder / f"{name}{ending}" for ending in (".geojson", ".geojson.gz", ".index.json"))
    shards = folder.glob(f"{glob.escape(name)}-[0-9][0-9][0-9][0-9].geojson*")
    return {path for path in single if path.exists()} | set(shards)
