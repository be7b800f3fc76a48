"""Fewer vertices, fewer polygons, round coordinates, and still valid polygons without overlaps.

All functions take an object array (n,) of shapely `Polygon` and return new ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.errors import AnnotationError

__all__ = ["Geometries", "Rounded", "drop_small", "round_valid", "simplify"]

Geometries = NDArray[np.object_]


@dataclass(frozen=True, slots=True)
class Rounded:
    """Polygons with rounded coordinates."""

    geometries: Geometries
    """Valid polygons with an area (m,); one that rounding cut in two comes as two."""

    index: NDArray[np.int64]
    """The input polygon each comes from (m,), ascending."""

    repaired: int
    """Input polygons that simple rounding would have made invalid."""

    dropped: int
    """Input polygons of which rounding leaves nothing."""


def simplify(
    geometries: Geometries, tolerance: float, *, pixel: Sequence[float] = (1.0, 1.0)
) -> Geometries:
    """Return polygons with fewer vertices; neighbours keep sharing their borders exactly.

    Parameters
    ----------
    geometries
        Polygons (n,) in pixels that do not overlap, of all classes together: one mask's outlines.
    tolerance
        In the unit of `pixel`, by custom µm. A corner is left out if it cuts off a triangle of
        less than `tolerance` squared, smallest first. To smooth the steps of pixels it must be
        more than 0.71 of a pixel's side. 0 returns the polygons as they are.
    pixel
        Sides of a pixel along (y, x).

    Returns
    -------
    geometries
        Valid polygons (n,), none of them empty, whose vertices are a subset of the input's. Each
        vertex left out changes the area by less than `tolerance` squared. Points where borders
        part stay. A polygon that would collapse or become invalid keeps its exact outline, and so
        do those that touch it, directly or through others.

    Raises
    ------
    AnnotationError
        If `tolerance` or `pixel` is not usable, or something is not a polygon.

    References
    ----------
    Visvalingam and Whyatt (1993), Line generalisation by repeated elimination of points,
    doi:10.1179/000870493786962263, applied to the borders of a polygonal coverage by GEOS.
    """
    if not (np.isfinite(tolerance) and tolerance >= 0 and min(pixel) > 0):
        raise AnnotationError(
            f"simplifying needs a tolerance >= 0 and pixel sizes > 0, found {tolerance}, {pixel}"
        )
    if tolerance == 0 or not len(geometries):
        return geometries
    _check_polygons(geometries)
    aspect = pixel[0] / pixel[1]  # square pixels are not scaled at all, so stay exact
    exact = _insert_junctions(_scale_y(geometries, aspect))
    simple: Geometries = shapely.coverage_simplify(exact, tolerance / pixel[1])
    failed = ~_usable(simple)
    if failed.any():
        failed = _with_touching(exact, failed)
    return np.where(failed, geometries, _scale_y(simple, 1 / aspect))


def drop_small(
    geometries: Geometries,
    *,
    min_area: float = 0.0,
    min_hole: float = 0.0,
    pixel_area: float = 1.0,
) -> tuple[Geometries, NDArray[np.int64]]:
    """Leave out small polygons and fill small holes.

    Parameters
    ----------
    geometries
        Polygons (n,) that do not overlap.
    min_area
        Polygons with a smaller area (holes not counted) are dropped.
    min_hole
        Holes with a smaller area are filled, unless a polygon that is kept lies inside: classes
        never come to overlap.
    pixel_area
        Area of a pixel in the unit of the two limits.

    Returns
    -------
    geometries, index
        What is left (m,), and the input polygon each comes from (m,), ascending.
    """
    _check_polygons(geometries)
    index = np.flatnonzero(shapely.area(geometries) * pixel_area >= min_area)
    kept = geometries[index]
    if min_hole <= 0:
        return kept, index
    rings, owner = shapely.get_rings(kept, return_index=True)
    outlines = shapely.polygons(rings)
    is_hole = np.diff(owner, prepend=-1) == 0
    small = np.flatnonzero(is_hole & (shapely.area(outlines) * pixel_area < min_hole))
    if not len(small):
        return kept, index
    inside = shapely.STRtree(shapely.point_on_surface(kept))
    occupied = inside.query(outlines[small], predicate="contains")[0]
    filled = np.delete(small, occupied)
    rings, owner = np.delete(rings, filled), np.delete(owner, filled)
    return shapely.polygons(rings, indices=owner), index


def round_valid(geometries: Geometries, *, decimals: int = 2) -> Rounded:
    """Round coordinates so that the polygons are valid afterwards, not only before.

    Where rounding alone would make a polygon touch or cross itself, its edges are snapped to the
    rounded grid (snap rounding, Hobby 1999, doi:10.1016/S0925-7721(99)00021-8), which may cut it
    at a neck narrower than the grid.

    Parameters
    ----------
    geometries
        Polygons (n,).
    decimals
        Decimal places that are kept.
    """
    _check_polygons(geometries)
    rounded = _round(geometries, decimals)
    failed = np.flatnonzero(~_usable(rounded))
    snapped = shapely.set_precision(geometries[failed], 10.0**-decimals)
    parts, source = shapely.get_parts(snapped, return_index=True)
    parts = _round(parts, decimals)
    good = _usable(parts) & (shapely.get_type_id(parts) == shapely.GeometryType.POLYGON)
    parts, source = parts[good], failed[source[good]]

    index = np.concatenate([np.delete(np.arange(len(geometries)), failed), source])
    order = np.argsort(index, kind="stable")
    survivors = len(np.unique(source))
    return Rounded(
        np.concatenate([np.delete(rounded, failed), parts])[order],
        index[order],
        repaired=survivors,
        dropped=len(failed) - survivors,
    )


def _check_polygons(geometries: Geometries) -> None:
    wrong = np.flatnonzero(shapely.get_type_id(geometries) != shapely.GeometryType.POLYGON)
    if len(wrong):
        raise AnnotationError(
            f"polygons are needed, found {geometries[wrong[0]]!r:.60} at index {wrong[0]}; take "
            "multi-part geometries apart with shapely.get_parts"
        )


def _usable(geometries: Geometries) -> NDArray[np.bool_]:
    usable: NDArray[np.bool_] = shapely.is_valid(geometries) & (shapely.area(geometries) > 0)
    return usable


def _scale_y(geometries: Geometries, factor: float) -> Geometries:
    if factor == 1:
        return geometries
    scaled: Geometries = shapely.transform(geometries, lambda xy: xy * (1.0, factor))
    return scaled


def _round(geometries: Geometries, decimals: int) -> Geometries:
    rounded: Geometries = shapely.transform(geometries, lambda xy: np.round(xy, decimals))
    return rounded


def _insert_junctions(geometries: Geometries) -> Geometries:
    """Return polygons that have a vertex wherever a vertex of another lies on their edges.

    A traced outline runs straight past the point where two other polygons meet, and simplified
    borders stay shared only if all three have that point. Looked for on edges along x or y, which
    are all edges of traced polygons: sorted along the edge, its points are neighbours.
    """
    _, xy, (ring_starts, polygon_starts) = shapely.to_ragged_array(geometries, include_z=False)
    follows = np.arange(len(xy)) + 1
    follows[ring_starts[1:] - 1] -= 1  # the last vertex of a ring repeats the first: no edge
    column_rank, by_column = _ranked_points(xy, 0)
    row_rank, by_row = _ranked_points(xy, 1)
    vertical = xy[:, 0] == xy[follows, 0]
    horizontal = xy[:, 1] == xy[follows, 1]
    steps = [column_rank[follows] - column_rank, row_rank[follows] - row_rank]
    step = np.select([vertical, horizontal], steps, 1)
    place = np.where(horizontal, len(by_column) + row_rank, column_rank)

    vertices = np.maximum(np.abs(step), 1)
    starts = np.concatenate([[0], np.cumsum(vertices)])
    source = np.repeat(np.arange(len(xy)), vertices)
    along = (np.arange(starts[-1]) - starts[source]) * np.sign(step)[source]
    dense = np.concatenate([by_column, by_row])[place[source] + along]
    offsets = (starts[ring_starts], polygon_starts)
    polygons: Geometries = shapely.from_ragged_array(shapely.GeometryType.POLYGON, dense, offsets)
    return polygons


def _ranked_points(
    xy: NDArray[np.float64], axis: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Return the distinct points sorted by `axis` first, and the place of each point in them."""
    order = np.lexsort((xy[:, 1 - axis], xy[:, axis]))
    sorted_xy = xy[order]
    new = np.ones(len(xy), bool)
    new[1:] = (sorted_xy[1:] != sorted_xy[:-1]).any(axis=1)
    rank = np.empty(len(xy), np.int64)
    rank[order] = np.cumsum(new) - 1
    return rank, sorted_xy[new]


def _with_touching(exact: Geometries, failed: NDArray[np.bool_]) -> NDArray[np.bool_]:
    """Return which polygons are joined to a failed one by shared vertices, through any number."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    xy, polygon = shapely.get_coordinates(exact, return_index=True)
    rank, points = _ranked_points(xy, 0)
    n = len(exact) + len(points)
    links = coo_array((np.ones(len(xy)), (polygon, len(exact) + rank)), shape=(n, n))
    cluster = connected_components(links, directed=False)[1][: len(exact)]
    return np.isin(cluster, cluster[failed])
