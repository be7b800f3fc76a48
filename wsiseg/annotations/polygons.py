"""Many polygons as a few arrays: half the memory of shapely objects, and quick to go through."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import AnnotationError

__all__ = [
    "Flags",
    "Offsets",
    "Points",
    "Polygons",
    "Shapes",
    "are_single_rings",
    "both",
    "either",
    "offsets_of",
    "spread",
]

Points = NDArray[np.float64]
Flags = NDArray[np.bool_]
Offsets = NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class Polygons:
    """Polygons and multipolygons as one coordinate array and nested offsets."""

    points: Points
    """(vertex, 2) as (x, y); the last vertex of each ring repeats its first."""

    rings: Offsets
    """(ring + 1,) offsets into `points`."""

    parts: Offsets
    """(polygon + 1,) offsets into `rings`; the first ring of a polygon is its shell."""

    objects: Offsets
    """(object + 1,) offsets into `parts`."""

    @classmethod
    def of(cls, geometries: NDArray[np.object_]) -> "Polygons":
        """Return the arrays of an object array (n,) of `Polygon` and `MultiPolygon`."""
        if are_single_rings(geometries).all():
            return cls.of_outlines(
                shapely.get_coordinates(geometries),
                offsets_of(shapely.get_num_coordinates(geometries)),
            )
        kind, points, offsets = shapely.to_ragged_array(geometries, include_z=False)
        levels = [np.asarray(level, dtype=np.int64) for level in offsets]
        if kind is shapely.GeometryType.POLYGON:
            levels.append(np.arange(len(geometries) + 1, dtype=np.int64))
        return cls(points, *levels)

    @classmethod
    def of_outlines(cls, points: Points, rings: Offsets) -> "Polygons":
        """Return polygons without holes from their vertices and the offsets (n + 1,) into them."""
        each = np.arange(len(rings), dtype=np.int64)
        return cls(points, rings, each, each)

    @classmethod
    def of_rings(cls, objects: Sequence[Sequence[Sequence[Points]]]) -> "Polygons":
        """Return the arrays of objects, each a list of parts, each a list of closed rings."""
        parts = [part for several in objects for part in several]
        rings = [ring for part in parts for ring in part]
        points = np.concatenate([np.empty((0, 2)), *rings])
        return cls(points, *(offsets_of(map(len, level)) for level in (rings, parts, objects)))

    @classmethod
    def concatenate(cls, several: Sequence["Polygons"]) -> "Polygons":
        """Return the polygons of all, one after the other."""
        sizes = (
            np.concatenate([np.diff(getattr(one, name)) for one in several])
            for name in ("rings", "parts", "objects")
        )
        return cls(np.concatenate([one.points for one in several]), *map(offsets_of, sizes))

    def __len__(self) -> int:
        return len(self.objects) - 1

    def __getitem__(self, rows: slice) -> "Polygons":
        """Return some consecutive polygons, their vertices shared with these."""
        start, stop, _ = rows.indices(len(self))
        objects = self.objects[start : stop + 1]
        parts = self.parts[objects[0] : objects[-1] + 1]
        rings = self.rings[parts[0] : parts[-1] + 1]
        points = self.points[rings[0] : rings[-1]]
        return Polygons(points, rings - rings[0], parts - parts[0], objects - objects[0])

    def take(self, rows: NDArray[np.int64]) -> "Polygons":
        """Return the polygons of some rows (m,)."""
        of_parts, objects = spread(self.objects, rows)
        of_rings, parts = spread(self.parts, of_parts)
        of_points, rings = spread(self.rings, of_rings)
        return Polygons(self.points[of_points], rings, parts, objects)

    def with_points(self, points: Points) -> "Polygons":
        """Return the same polygons with other vertices (vertex, 2)."""
        return replace(self, points=points)

    def check(self) -> None:
        """Look whether the arrays fit together.

        Raises
        ------
        AnnotationError
            If offsets do not ascend from 0 to the end, or a ring is open or too short.
        """
        columns = (self.rings, self.parts, self.objects)
        ends = (len(self.points), len(self.rings) - 1, len(self.parts) - 1)
        for offsets, end, least in zip(columns, ends, (4, 1, 1), strict=True):
            if offsets[0] != 0 or offsets[-1] != end or (np.diff(offsets) < least).any():
                raise AnnotationError(
                    f"polygons need offsets from 0 to {end} in steps of at least {least}, found "
                    f"{offsets[0]} to {offsets[-1]} in steps of {np.diff(offsets).min(initial=end)}"
                )
        first, last = self.points[self.rings[:-1]], self.points[self.rings[1:] - 1]
        is_open = either((first != last) & ~np.isnan(first))
        if is_open.any():
            raise AnnotationError(
                f"polygons need closed rings: ring {np.argmax(is_open)} does not end where it "
                "starts; repeat its first vertex"
            )

    def to_shapely(self) -> NDArray[np.object_]:
        """Return an object array (n,) of `Polygon`, of `MultiPolygon` for several parts."""
        polygons: NDArray[np.object_] = shapely.from_ragged_array(
            shapely.GeometryType.POLYGON, self.points, (self.rings, self.parts)
        )
        if len(self) == len(polygons):
            return polygons
        result = polygons[self.objects[:-1]]
        sizes = np.diff(self.objects)
        several = np.flatnonzero(sizes > 1)
        index = np.repeat(np.arange(len(several)), sizes[several])
        result[several] = shapely.multipolygons(
            polygons[np.repeat(sizes > 1, sizes)], indices=index
        )
        return result

    def to_multipolygons(self) -> NDArray[np.object_]:
        """Return an object array (n,) of `MultiPolygon`, also for one part and for none."""
        result: NDArray[np.object_] = shapely.from_ragged_array(
            shapely.GeometryType.MULTIPOLYGON, self.points, (self.rings, self.parts, self.objects)
        )
        return result

    @property
    def spans(self) -> Offsets:
        """(object + 1,) offsets of each object into `points`."""
        return self.rings[self.parts[self.objects]]

    def bounds(self, points: Points | None = None) -> tuple[Points, Points]:
        """Return the lowest and highest x, y (n, 2) of polygons that have vertices."""
        points = self.points if points is None else points
        starts = self.spans[:-1]
        if not len(starts):
            return np.empty((0, 2)), np.empty((0, 2))
        low = np.stack([np.minimum.reduceat(points[:, axis], starts) for axis in (0, 1)], axis=1)
        high = np.stack([np.maximum.reduceat(points[:, axis], starts) for axis in (0, 1)], axis=1)
        return low, high

    def any_of_objects(self, flags: Flags) -> Flags:
        """Return (n,), true for objects with a true flag among those of their vertices."""
        before = np.concatenate([[0], np.cumsum(flags)])
        found: Flags = before[self.spans[1:]] > before[self.spans[:-1]]
        return found

    def edges(self) -> Points:
        """Return (vertex, 2): the way from each vertex to the next one; NaN from a ring's last."""
        ways = np.full_like(self.points, np.nan)
        ways[:-1] = self.points[1:] - self.points[:-1]
        ways[self.rings[1:] - 1] = np.nan
        return ways

    def without_repeats(self) -> "Polygons":
        """Return the polygons without vertices that are where the one before is."""
        repeated = np.zeros(len(self.points), np.bool_)
        repeated[1:] = both(self.points[1:] == self.points[:-1])
        repeated[self.rings[:-1]] = False
        if not repeated.any():
            return self
        before = np.concatenate([[0], np.cumsum(repeated)])
        return replace(self, points=self.points[~repeated], rings=self.rings - before[self.rings])


Shapes = NDArray[np.object_] | Polygons
"""Polygons (n,) as shapely objects or in columns."""


def either(flags: Flags) -> Flags:
    """Return (n,) from (n, 2), true where x or y is; much faster than `any(axis=1)`."""
    return flags[:, 0] | flags[:, 1]


def both(flags: Flags) -> Flags:
    """Return (n,) from (n, 2), true where x and y are; much faster than `all(axis=1)`."""
    return flags[:, 0] & flags[:, 1]


def are_single_rings(geometries: NDArray[np.object_]) -> Flags:
    """Return (n,), true for `Polygon` with vertices and without holes."""
    single: Flags = shapely.get_type_id(geometries) == shapely.GeometryType.POLYGON
    single &= shapely.get_num_interior_rings(geometries) == 0
    single &= ~shapely.is_empty(geometries)
    return single


def offsets_of(sizes: Iterable[int] | NDArray[np.integer]) -> Offsets:
    """Return the offsets (n + 1,) of things of some sizes that lie one after the other."""
    if not isinstance(sizes, np.ndarray):
        sizes = np.fromiter(sizes, np.int64)
    offsets = np.zeros(len(sizes) + 1, np.int64)
    np.cumsum(sizes, out=offsets[1:])
    return offsets


def spread(offsets: Offsets, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], Offsets]:
    """Return what the rows hold one level down (k,), and its offsets (m + 1,)."""
    starts = offsets[rows]
    new = offsets_of(offsets[rows + 1] - starts)
    index = np.arange(new[-1]) + np.repeat(starts - new[:-1], np.diff(new))
    return index, new
