"""QuPath's 0.01 px grid: what rounding to it does to polygons."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.errors import GEOSException

from wsiseg.annotations._clear import are_clear
from wsiseg.annotations.polygons import Points, Polygons, both, either

__all__ = ["GRID", "count_parts", "is_kept_by_rounding", "reduce_to_grid", "round_points"]

GRID = 0.01
"""Pixels; QuPath from 0.6 rounds outlines to it when it loads them."""

DECIMALS = 2

LONGEST_EDGE = 100.0
"""Pixels: 1 / 100 is more than half the diagonal of a grid cell."""


def round_points(points: Points) -> Points:
    """Return coordinates rounded to the grid, without -0.0."""
    rounded: Points = np.round(points, DECIMALS) + 0.0
    return rounded


@np.errstate(all="ignore")  # denormal coordinates
def reduce_to_grid(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return geometries as QuPath from 0.6 reduces them, `None` where it raises.

    Notes
    -----
    QuPath reduces with JTS's snap rounding (Hobby 1999, doi:10.1016/S0925-7721(99)00021-8). GEOS is
    the same code in C++, and raises, repairs and empties the same outlines.
    """
    try:
        return np.asarray(shapely.set_precision(geometries, GRID), dtype=object)
    except GEOSException:
        if len(geometries) == 1:
            return np.array([None], dtype=object)
    half = len(geometries) // 2  # a few bad ones among many: found by halving
    return np.concatenate([reduce_to_grid(geometries[:half]), reduce_to_grid(geometries[half:])])


def is_kept_by_rounding(polygons: Polygons) -> NDArray[np.bool_]:
    """Return (n,), true for objects that `reduce_to_grid` surely keeps if they are valid.

    Notes
    -----
    Of an outline on the grid, a vertex moves an edge only within half the diagonal of a cell. On
    the grid it is at least 0.01 px away from an edge along an axis; on whole pixels at least 1 / l
    from an edge of length l. Of the others those are kept whose edges are clear of one another.
    """
    points, edges = polygons.points, polygons.edges()
    slanted = both(np.abs(edges) > 0)  # NaN is not
    long = slanted & (np.hypot(*edges.T) > LONGEST_EDGE)
    any_of = polygons.any_of_objects
    off_grid = any_of(either(round_points(points) != points))
    fractional = any_of(either(np.round(points) != points))
    kept: NDArray[np.bool_] = ~(off_grid | any_of(long) | (fractional & any_of(slanted)))
    asked = np.flatnonzero(~kept & ~off_grid)
    kept[asked] = are_clear(polygons.take(asked))
    return kept


def count_parts(
    geometries: NDArray[np.object_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (n,) parts and (n,) holes of polygonal geometries; 0 for what is empty or `None`."""
    several, owner = shapely.get_parts(geometries, return_index=True)
    parts = np.bincount(owner[~shapely.is_empty(several)], minlength=len(geometries))
    rings = np.repeat(owner, shapely.get_num_interior_rings(several))
    return parts, np.bincount(rings, minlength=len(geometries))
