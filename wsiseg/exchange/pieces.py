"""Polygons without holes, for formats that know no holes: cut apart, their area the same."""

import math
from collections.abc import Iterator

import numpy as np
import shapely
from numpy.typing import NDArray

__all__ = ["without_holes"]


def without_holes(geometry: shapely.Geometry, *, at_edges: bool = False) -> list[shapely.Polygon]:
    """Return polygons without holes that cover exactly what a polygon or multipolygon covers.

    A polygon with holes is halved across its longer side, through the middle of the hole nearest to
    its own middle, until none is left; the cuts add vertices on its borders alone.

    With `at_edges`, for polygons whose coordinates are whole numbers, cuts run along whole numbers,
    too: between pixels, so that no centre of a pixel lies on a border.
    """
    parts = shapely.get_parts(geometry)
    return [piece for part in parts for piece in _pieces(part, at_edges=at_edges)]


def _pieces(polygon: shapely.Polygon, *, at_edges: bool) -> Iterator[shapely.Polygon]:
    waiting = [polygon]
    while waiting:
        current = waiting.pop()
        if not len(current.interiors):
            yield current
            continue
        for half in _halves(current, at_edges=at_edges):
            found = shapely.intersection(current, half)
            waiting += [part for part in shapely.get_parts(found) if part.geom_type == "Polygon"]


def _halves(polygon: shapely.Polygon, *, at_edges: bool) -> NDArray[np.object_]:
    x0, y0, x1, y1 = polygon.bounds
    holes = shapely.bounds(shapely.get_rings(polygon)[1:])
    if x1 - x0 >= y1 - y0:
        x = _nearest((x0 + x1) / 2, holes[:, [0, 2]])
        x = math.floor(x) if at_edges else x  # at least the side of the hole, which opens it
        halves = shapely.box([x0, x], [y0, y0], [x, x1], [y1, y1])
    else:
        y = _nearest((y0 + y1) / 2, holes[:, [1, 3]])
        y = math.floor(y) if at_edges else y
        halves = shapely.box([x0, x0], [y0, y], [x1, x1], [y, y1])
    return np.asarray(halves, dtype=object)


def _nearest(middle: float, spans: NDArray[np.float64]) -> float:
    """Return the middle, to 0.01, of the span (low, high) nearest to a place."""
    middles = np.round(spans.mean(axis=1), 2)
    inside = (middles > spans[:, 0]) & (middles < spans[:, 1])
    middles = np.where(inside, middles, spans.mean(axis=1))
    return float(middles[np.argmin(np.abs(middles - middle))])
