"""Many polygons as a few arrays."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

__all__ = ["Flags", "Points", "Ragged", "both", "either"]

Points = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Ragged:
    """Polygons and multipolygons as one coordinate array and nested offsets."""

    points: Points
    """(vertex, 2) as (x, y)."""

    rings: NDArray[np.int64]
    """(ring + 1,) offsets into `points`."""

    parts: NDArray[np.int64]
    """(polygon + 1,) offsets into `rings`."""

    objects: NDArray[np.int64]
    """(object + 1,) offsets into `parts`."""

    @classmethod
    def of(cls, geometries: NDArray[np.object_]) -> "Ragged":
        """Return the arrays of an object array (n,) of `Polygon` and `MultiPolygon`."""
        if len(geometries) == 0:
            none = np.zeros(1, dtype=np.int64)
            return cls(np.empty((0, 2)), none, none, none)
        kind, points, offsets = shapely.to_ragged_array(geometries, include_z=False)
        levels = [np.asarray(level, dtype=np.int64) for level in offsets]
        if kind is shapely.GeometryType.POLYGON:
            levels.append(np.arange(len(geometries) + 1, dtype=np.int64))
        return cls(points, *levels)

    @classmethod
    def of_rings(cls, objects: Sequence[Sequence[Sequence[Points]]]) -> "Ragged":
        """Return the arrays of objects, each a list of parts, each a list of closed rings."""
        parts = [part for several in objects for part in several]
        rings = [ring for part in parts for ring in part]
        points = np.concatenate([np.empty((0, 2)), *rings])
        return cls(points, *(_offsets(map(len, level)) for level in (rings, parts, objects)))

    def to_shapely(self) -> NDArray[np.object_]:
        """Return an object array (n,) of `MultiPolygon`."""
        result: NDArray[np.object_] = shapely.from_ragged_array(
            shapely.GeometryType.MULTIPOLYGON, self.points, (self.rings, self.parts, self.objects)
        )
        return result

    @property
    def spans(self) -> NDArray[np.int64]:
        """(object + 1,) offsets of each object into `points`."""
        return self.rings[self.parts[self.objects]]

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


def either(flags: Flags) -> Flags:
    """Return (n,) from (n, 2), true where x or y is; much faster than `any(axis=1)`."""
    return flags[:, 0] | flags[:, 1]


def both(flags: Flags) -> Flags:
    """Return (n,) from (n, 2), true where x and y are; much faster than `all(axis=1)`."""
    return flags[:, 0] & flags[:, 1]


def _offsets(sizes: Iterable[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(list(sizes), dtype=np.int64)]).astype(np.int64)
