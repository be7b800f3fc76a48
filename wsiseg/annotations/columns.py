"""Objects of any kind collected one by one, and given back as `Annotations` in columns."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._gson import as_uuid, strip
from wsiseg.annotations.base import (
    UNCLASSIFIED,
    AnnotationClass,
    Annotations,
    Frame,
    ImageRef,
    ObjectType,
)
from wsiseg.annotations.polygons import Points, Polygons
from wsiseg.draw.palette import QUPATH_COLORS, class_color

__all__ = ["Columns", "Found", "FoundObjects", "Rgb", "clean_name", "usual_color"]

Part = Sequence[Points]
"""A polygon: its closed rings, shell first."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Found:
    """What one object is, its outline aside."""

    class_name: str | None = None
    """`None`: it has no class."""

    color: Rgb | None = None
    """Of its class; the first one found counts."""

    object_type: ObjectType = "annotation"
    id: str | None = None
    """Kept if it is a UUID that no other object has."""

    name: str | None = None
    is_locked: bool = False
    measurements: Mapping[str, float] = field(default_factory=dict)
    """What is not finite is left out."""

    nucleus: Sequence[Part] | None = None


@dataclass(frozen=True, slots=True)
class FoundObjects:
    """The objects of a file."""

    groups: tuple[Annotations, ...]
    """One per object type, for areas and points, and for locked ones; all with the same classes."""

    left_out: Mapping[str, int] = field(default_factory=dict)
    """What else there is -> how often."""

    says_empty: bool = False
    """The file states that nothing was found."""

    def __len__(self) -> int:
        return sum(len(group) for group in self.groups)


class _Group:
    """Columns of one group."""

    def __init__(self) -> None:
        self.outlines: list[Sequence[Part]] = []
        self.points: list[Points] = []
        self.class_index: list[int] = []
        self.ids: list[bytes] = []
        self.names: list[str | None] = []
        self.nuclei: list[Sequence[Part] | None] = []
        self.rows: dict[str, list[int]] = {}
        self.values: dict[str, list[float]] = {}


class Columns:
    """Collects objects.

    Parameters
    ----------
    classes
        Name -> colour of classes known beforehand; they come first.
    """

    def __init__(self, classes: Mapping[str, Rgb] | None = None) -> None:
        self.left_out: Counter[str] = Counter()
        self.says_empty = False
        self._colors: dict[str, Rgb | None] = dict(classes or {})
        self._index = {name: i for i, name in enumerate(self._colors)}
        self._groups: dict[tuple[ObjectType, str, bool], _Group] = {}
        self._ids: set[str] = set()

    def __len__(self) -> int:
        return sum(len(group.class_index) for group in self._groups.values())

    def add_area(self, found: Found, parts: Sequence[Part]) -> None:
        """Add polygons that are one object; without any it counts as left out."""
        parts = [part for part in parts if len(part)]
        if not parts:
            self.left_out["outlines without area"] += 1
            return
        self._add(found, "area").outlines.append(parts)

    def add_points(self, found: Found, xy: Points) -> None:
        """Add points (n, 2), x and y, that are one object."""
        if not len(xy):
            self.left_out["points without place"] += 1
            return
        self._add(found, "point").points.append(xy)

    def finish(self, image: ImageRef, frame: Frame) -> FoundObjects:
        """Return all objects."""
        classes = tuple(
            AnnotationClass(name, color or usual_color(name, i))
            for i, (name, color) in enumerate(self._colors.items())
        )
        groups = (
            _annotations(group, kind, locked, classes, image, frame)
            for (kind, _, locked), group in self._groups.items()
        )
        return FoundObjects(tuple(groups), dict(self.left_out), self.says_empty)

    def _add(self, found: Found, shape: str) -> _Group:
        key = (found.object_type, shape, found.is_locked)
        group = self._groups.get(key)
        if group is None:
            group = self._groups[key] = _Group()
        row = len(group.class_index)
        group.class_index.append(self._class(found))
        group.ids.append(self._id(found.id))
        group.names.append(found.name)
        group.nuclei.append(found.nucleus)
        for name, value in found.measurements.items():
            if math.isfinite(value):
                group.rows.setdefault(name, []).append(row)
                group.values.setdefault(name, []).append(value)
        return group

    def _class(self, found: Found) -> int:
        if found.class_name is None:
            return UNCLASSIFIED
        index = self._index.get(found.class_name)
        if index is None:
            index = self._index[found.class_name] = len(self._index)
        if self._colors.get(found.class_name) is None:
            self._colors[found.class_name] = found.color
        return index

    def _id(self, text: str | None) -> bytes:
        known = None if text is None else as_uuid(text)
        if known is None or known in self._ids:
            return b""
        self._ids.add(known)
        return known.encode()


def usual_color(name: str, index: int) -> Rgb:
    """Return the colour of a class that none was given: QuPath's own, or one of a palette."""
    return QUPATH_COLORS.get(name) or class_color(index)


def clean_name(name: str) -> str | None:
    """Return a class name that QuPath takes: one line, without outer spaces; `None` if empty."""
    parts = (strip(" ".join(part.split())) for part in name.split(":"))
    return ": ".join(part for part in parts if part) or None


def _annotations(
    group: _Group,
    kind: ObjectType,
    locked: bool,
    classes: tuple[AnnotationClass, ...],
    image: ImageRef,
    frame: Frame,
) -> Annotations:
    count = len(group.class_index)
    measurements = {}
    for name, rows in group.rows.items():
        measurements[name] = np.full(count, np.nan)
        measurements[name][rows] = group.values[name]
    geometries: Any = (
        _multipoints(group.points) if group.points else Polygons.of_rings(group.outlines)
    )
    return Annotations(
        geometries,
        np.array(group.class_index, np.int64),
        classes,
        image,
        measurements,
        frame,
        kind,
        np.array(group.ids, "S36") if any(group.ids) else None,
        _objects(group.names) if any(name is not None for name in group.names) else None,
        _nuclei(group.nuclei),
        locked,
    )


def _objects(values: Iterable[object]) -> NDArray[np.object_]:
    listed = list(values)
    column = np.empty(len(listed), object)
    column[:] = listed
    return column


def _multipoints(points: Sequence[Points]) -> NDArray[np.object_]:
    shapes = (shapely.Point(xy[0]) if len(xy) == 1 else shapely.MultiPoint(xy) for xy in points)
    return _objects(shapes)


def _nuclei(nuclei: Sequence[Sequence[Part] | None]) -> NDArray[np.object_] | None:
    rows = [row for row, nucleus in enumerate(nuclei) if nucleus]
    if not rows:
        return None
    column = np.empty(len(nuclei), object)
    outlines = [cast("Sequence[Part]", nuclei[row]) for row in rows]
    column[rows] = Polygons.of_rings(outlines).to_shapely()
    return column
