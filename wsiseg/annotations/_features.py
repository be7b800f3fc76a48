"""The objects of an `Annotations` as Features, chunk by chunk."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import orjson
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._coordinates import coordinates
from wsiseg.annotations._header import cleaned_classes, is_unicode
from wsiseg.annotations._nuclei import nucleus_members
from wsiseg.annotations._points import PointPreparation
from wsiseg.annotations._prepare import Preparation
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.polygons import Polygons
from wsiseg.errors import AnnotationError

__all__ = ["FeatureChunk", "Features"]

FEATURE = (
    b'{"type":"Feature","id":"%b","geometry":{"type":"%b","coordinates":%b}%b,"properties":%b%b%b}}'
)
"""To be filled with id, type, coordinates, nucleus, first properties, name and measurements."""

LARGEST = float(np.finfo(np.float32).max)
"""QuPath keeps measurements as float32; anything larger would become infinite."""


@dataclass(frozen=True, slots=True)
class FeatureChunk:
    """Some Features."""

    texts: Sequence[bytes]
    """(n,) one line of JSON each."""

    outlines: Polygons | NDArray[np.object_]
    """(n,) their outlines."""

    def anchors(self) -> NDArray[np.object_]:
        """Return a point (n,) of each object."""
        held = self.outlines
        shapes = held.to_shapely() if isinstance(held, Polygons) else held
        points: NDArray[np.object_] = shapely.point_on_surface(shapes)
        return points


class Features:
    """The Features of an `Annotations`.

    Parameters
    ----------
    annotations
        Polygons or points in either frame.
    frame
        The frame of the result.
    """

    def __init__(
        self, annotations: Annotations, frame: Frame, seen: set[int] | None = None
    ) -> None:
        self._annotations = annotations
        self._properties = _first_properties(annotations)
        for column in annotations.measurements:
            if not is_unicode(column):
                raise AnnotationError(f"measurement name {column!r} is not text; rename it")
        kind = PointPreparation if annotations.are_points else Preparation
        self._preparation = kind(annotations, frame, seen)
        self._frame = frame
        self.written = 0

    def __iter__(self) -> Iterator[FeatureChunk]:
        given = self._annotations
        for prepared in self._preparation:
            rows, outlines = prepared.rows, prepared.outlines
            if isinstance(outlines, Polygons):
                several = np.diff(outlines.objects) > 1
                kinds = np.where(several, b"MultiPolygon", b"Polygon").tolist()
                places = coordinates(outlines)
            else:
                kinds, places = _of_points(outlines)
            columns = zip(
                prepared.ids.tolist(),
                kinds,
                places,
                nucleus_members(given, rows, self._frame),
                [self._properties[i] for i in given.class_index[rows]],
                self._names(rows),
                self._measurements(rows),
                strict=True,
            )
            texts = [FEATURE % column for column in columns]
            self.written += len(texts)
            yield FeatureChunk(texts, outlines)

    @property
    def repaired(self) -> int:
        """Objects that had to be repaired so far."""
        return self._preparation.repaired

    @property
    def clipped(self) -> int:
        """Objects cut at the edge of the image so far."""
        return self._preparation.clipped

    @property
    def dropped(self) -> Counter[str]:
        """Reason -> objects left out so far."""
        return self._preparation.dropped

    def _names(self, rows: NDArray[np.int64]) -> list[bytes]:
        """Return the member with the name of each object that has one."""
        names = self._annotations.names
        if names is None:
            return [b""] * len(rows)
        return [b"" if name is None else b',"name":%b' % _text(name) for name in names[rows]]

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


def _first_properties(annotations: Annotations) -> list[bytes]:
    """Return the first properties of the objects of each class; last, of those without class."""
    kind = orjson.dumps(annotations.object_type)
    classes = [b',"classification":%b' % orjson.dumps(c) for c in cleaned_classes(annotations)]
    locked = b',"isLocked":true' if annotations.is_locked else b""
    # UNCLASSIFIED is -1, so the last one.
    return [b'{"objectType":%b%b%b' % (kind, c, locked) for c in (*classes, b"")]


def _of_points(outlines: NDArray[np.object_]) -> tuple[list[bytes], list[bytes]]:
    """Return type and coordinates of points."""
    kinds, places = [], []
    for outline in outlines:
        xy = [[_shortest(v) for v in vertex] for vertex in shapely.get_coordinates(outline)]
        kinds.append(b"MultiPoint" if len(xy) > 1 else b"Point")
        places.append(orjson.dumps(xy if len(xy) > 1 else xy[0]))
    return kinds, places


def _shortest(value: float) -> float | int:
    return int(value) if value == int(value) else float(value)


def _text(name: object) -> bytes:
    if not isinstance(name, str) or not is_unicode(name):
        raise AnnotationError(f"the name of an object needs to be text, found {name!r}; rename it")
    return orjson.dumps(name)


def _numbers(column: NDArray[np.float64]) -> list[bytes]:
    """Return numbers as JSON."""
    return orjson.dumps(column, option=orjson.OPT_SERIALIZE_NUMPY)[1:-1].split(b",")
