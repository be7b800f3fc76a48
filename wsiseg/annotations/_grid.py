"""QuPath's 0.01 px grid: what rounding to it does to polygons."""

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.errors import GEOSException

from wsiseg.annotations._ragged import Points, Ragged, both, either

__all__ = ["GRID", "count_parts", "is_kept_by_rounding", "reduce_to_grid", "round_points"]

GRID = 0.01
"""Pixels; QuPath from 0.6 rounds outlines to it when it loads them."""

DECIMALS = 2

REACH = 0.0072
"""Pixels: a little more than half a grid cell's diagonal, within which a vertex moves an edge."""

LONGEST_EDGE = 100.0
"""Pixels: 1 / 100 is more than `REACH`."""

MANY_VERTICES = 100
"""Rings of more are not compared vertex by vertex: the work grows with the square."""

PAIRS = 1 << 18
"""Pairs of edge and vertex compared at once; bounds the memory, and stays in the cache."""


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


def is_kept_by_rounding(ragged: Ragged) -> NDArray[np.bool_]:
    """Return (n,), true for objects that `reduce_to_grid` surely keeps if they are valid.

    Notes
    -----
    Of an outline on the grid, a vertex moves an edge only within `REACH`. On the grid it is at
    least 0.01 px away from an edge along an axis; on whole pixels at least 1 / l from an edge of
    length l. Other outlines are kept if no vertex is that near to an edge, which is looked at for
    single rings.
    """
    points, edges = ragged.points, ragged.edges()
    slanted = both(np.abs(edges) > 0)  # NaN is not
    long = slanted & (np.hypot(*edges.T) > LONGEST_EDGE)
    off_grid = either(round_points(points) != points)
    fractional = either(np.round(points) != points)
    any_of = ragged.any_of_objects
    kept = ~any_of(off_grid | long) & ~(any_of(fractional) & any_of(slanted))
    sizes = np.diff(ragged.spans)
    single = np.diff(ragged.parts[ragged.objects]) == 1
    looked_at = ~kept & ~any_of(off_grid) & single & (sizes > 3) & (sizes <= MANY_VERTICES)
    for size in np.unique(sizes[looked_at]):
        rows = np.flatnonzero(looked_at & (sizes == size))
        for some in np.array_split(rows, len(rows) * size * size // PAIRS + 1):
            places = ragged.spans[some][:, np.newaxis] + np.arange(size)
            kept[some] = _are_clear(points[places])
    return kept


def _are_clear(rings: Points) -> NDArray[np.bool_]:
    """Return (n,), true for closed rings (n, vertex, 2) whose vertices are far from other edges."""
    tail, head = rings[:, :-1], rings[:, 1:]
    low, high = np.minimum(tail, head) - REACH, np.maximum(tail, head) + REACH
    near = np.ones((len(rings), tail.shape[1], tail.shape[1]), np.bool_)  # edge, vertex
    for axis in (0, 1):
        values = tail[..., axis].copy()[:, np.newaxis, :]
        near &= values >= low[:, :, np.newaxis, axis]
        near &= values <= high[:, :, np.newaxis, axis]
    edge = np.arange(tail.shape[1])
    near[:, edge, edge] = False
    near[:, edge, (edge + 1) % len(edge)] = False
    ring, edge, vertex = np.unravel_index(np.flatnonzero(near), near.shape)
    start, way = tail[ring, edge], head[ring, edge] - tail[ring, edge]
    offset = tail[ring, vertex] - start
    square = np.maximum((way * way).sum(axis=1), np.finfo(np.float64).tiny)
    along = ((offset * way).sum(axis=1) / square).clip(0, 1)
    close = np.hypot(*(offset - along[:, np.newaxis] * way).T) <= REACH
    clear = np.ones(len(rings), np.bool_)
    clear[ring[close]] = False
    return clear


def count_parts(
    geometries: NDArray[np.object_],
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (n,) parts and (n,) holes of polygonal geometries; 0 for what is empty or `None`."""
    several, owner = shapely.get_parts(geometries, return_index=True)
    parts = np.bincount(owner[~shapely.is_empty(several)], minlength=len(geometries))
    rings = np.repeat(owner, shapely.get_num_interior_rings(several))
    return parts, np.bincount(rings, minlength=len(geometries))
