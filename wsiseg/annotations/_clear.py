"""Outlines whose edges all keep clear of one another: valid, and still so once QuPath rounds them.

In whole steps of the 0.01 px grid, so that each comparison is exact. Most outlines of cells and
pieces of tissue are clear, which needs no geometry library to see; about the others it is asked.
"""

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.polygons import Flags, Points, Polygons, both

__all__ = ["are_clear"]

STEPS = 100
"""Grid steps per pixel."""

REACH = 0.72
"""Grid steps: a little more than half a cell's diagonal, within which a vertex moves an edge when
outlines are snapped to the grid (Hobby 1999, doi:10.1016/S0925-7721(99)00021-8)."""

EDGES = np.array([8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256])
"""Rings are compared together once filled up to one of these numbers of edges. Those of more are
not: the work grows with the square."""

LARGEST_EXTENT = 1 << 25
"""Grid steps; products of two such lengths are exact in float64."""

EDGES_AT_ONCE = 1 << 14
"""Edges compared in one go, so that they stay in the cache."""


def are_clear(polygons: Polygons) -> Flags:
    """Return (n,), true for polygons on the grid that are surely valid and kept by rounding.

    Notes
    -----
    Looked at are single rings. None of their edges crosses another one, and no vertex is within
    `REACH` of an edge that it does not end: so they are simple, hence valid, and have an area.
    """
    steps = np.rint(polygons.points * STEPS)
    sizes = np.diff(polygons.spans)
    clear: Flags = np.diff(polygons.parts[polygons.objects]) == 1
    clear &= (sizes > 3) & (sizes <= EDGES[-1] + 1)
    if not clear.any():
        return clear
    low, high = polygons.bounds(steps)
    with np.errstate(invalid="ignore"):  # infinite ones
        clear &= both(high - low < LARGEST_EXTENT)
    clear &= ~polygons.any_of_objects(_folds_back(polygons, steps))
    group = np.searchsorted(EDGES, sizes - 1)
    for k in np.unique(group[clear]).tolist():
        rows, edges = np.flatnonzero(clear & (group == k)), int(EDGES[k])
        for some in np.array_split(rows, len(rows) * edges // EDGES_AT_ONCE + 1):
            first, count = polygons.spans[some], sizes[some] - 1
            places = first + np.minimum(np.arange(edges + 1)[:, np.newaxis], count)
            xy = np.stack([steps[places, axis] - low[some, axis] for axis in (0, 1)])
            clear[some] = _are_apart(xy, count)
    return clear


def _folds_back(polygons: Polygons, steps: Points) -> Flags:
    """Return (vertex,), true where an edge comes within reach of the one before it.

    Only a sharp turn can bring two edges that share a vertex together away from it.
    """
    leaving = np.empty_like(steps)
    leaving[:-1] = steps[1:] - steps[:-1]
    last = polygons.rings[1:] - 1
    leaving[last] = leaving[polygons.rings[:-1]]  # its first and last vertex are one
    coming = np.empty_like(steps)
    coming[1:] = leaving[:-1]
    coming[polygons.rings[:-1]] = leaving[last - 1]
    with np.errstate(invalid="ignore", over="ignore"):
        dot = coming[:, 0] * leaving[:, 0] + coming[:, 1] * leaving[:, 1]
        near: Flags = both(leaving == 0) | ~np.isfinite(dot)
        sharp = np.flatnonzero(dot < 0)
        to, back = leaving[sharp], -coming[sharp]
        near[sharp] |= _is_within_reach(to, back) | _is_within_reach(back, to)
    return near


def _are_apart(xy: Points, count: NDArray[np.int64]) -> Flags:
    """Return (n,), true for rings of which no two edges without a common vertex come near.

    Parameters
    ----------
    xy
        (2, edge + 1, n) grid steps from 0; after its last vertex each ring's first is repeated.
    count
        (n,) edges of each ring.
    """
    edge, step, ring = _near_pairs(xy, count)
    others = (edge > 0) | (step < count[ring] - 1)  # the first and the last edge share a vertex
    edge, step, ring = edge[others], step[others], ring[others]
    a, b = xy[:, edge, ring].T, xy[:, edge + 1, ring].T
    c, d = xy[:, edge + step, ring].T, xy[:, edge + step + 1, ring].T
    apart = np.ones(len(count), np.bool_)
    apart[ring[_come_near(a, b, c, d)]] = False
    return apart


def _near_pairs(
    xy: Points, count: NDArray[np.int64]
) -> tuple[NDArray[np.intp], NDArray[np.intp], NDArray[np.intp]]:
    """Return the pairs of edges, not next to each other, whose bounding boxes meet.

    Each pair as its first edge, how many edges further on the second one is, and their ring. Boxes
    that do not meet are a grid step apart, which is more than `REACH`.
    """
    dtype = np.int16 if xy.max() <= np.iinfo(np.int16).max else np.int32
    vertices: NDArray[np.int16 | np.int32] = xy.astype(dtype)
    low = np.minimum(vertices[:, :-1], vertices[:, 1:])
    high = np.maximum(vertices[:, :-1], vertices[:, 1:])
    edges = low.shape[1]
    filling = np.arange(edges)[:, np.newaxis] >= count
    low[0][filling], high[0][filling] = np.iinfo(dtype).max, np.iinfo(dtype).min  # near nothing
    found = []
    for step in range(2, edges):
        near = low[0, :-step] <= high[0, step:]
        near &= high[0, :-step] >= low[0, step:]
        near &= low[1, :-step] <= high[1, step:]
        near &= high[1, :-step] >= low[1, step:]
        found.append(near.ravel().nonzero()[0])
    edge, ring = np.divmod(np.concatenate(found), len(count))
    return edge, np.repeat(np.arange(2, edges), [len(some) for some in found]), ring


def _come_near(a: Points, b: Points, c: Points, d: Points) -> Flags:
    """Return (n,), true where the edges a-b and c-d cross, or an end is within reach of the other.

    Edges that meet without crossing meet at an end.
    """
    ab, cd = b - a, d - c
    crossing = _are_on_both_sides(ab, c - a, d - a) & _are_on_both_sides(cd, a - c, b - c)
    near: Flags = crossing | _is_within_reach(c - a, ab) | _is_within_reach(d - a, ab)
    near |= _is_within_reach(a - c, cd) | _is_within_reach(b - c, cd)
    return near


def _are_on_both_sides(way: Points, one: Points, other: Points) -> Flags:
    sides = [way[:, 0] * point[:, 1] - way[:, 1] * point[:, 0] for point in (one, other)]
    different: Flags = np.sign(sides[0]) * np.sign(sides[1]) < 0
    return different


def _is_within_reach(point: Points, way: Points) -> Flags:
    """Return (n,), true where a point is within reach of the edge from 0, 0 along `way`."""
    (x, y), (along_x, along_y) = point.T, way.T
    square = np.maximum(along_x * along_x + along_y * along_y, 1)
    share = ((x * along_x + y * along_y) / square).clip(0, 1)
    off_x, off_y = x - share * along_x, y - share * along_y
    near: Flags = off_x * off_x + off_y * off_y <= REACH * REACH
    return near
