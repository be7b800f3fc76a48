"""Objects as QuPath can take them: rounded, valid, inside the image, with an id that stays.

QuPath from 0.6 rounds to 0.01 px and refuses a whole file for one invalid polygon. So each polygon
is rounded first and checked afterwards; what is invalid is repaired, or dropped and counted.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.errors import GEOSException

from wsiseg.annotations._clear import are_clear
from wsiseg.annotations._grid import (
    GRID,
    count_parts,
    is_kept_by_rounding,
    reduce_to_grid,
    round_points,
)
from wsiseg.annotations._ids import Namer, chosen_ids
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.chunks import chunks
from wsiseg.annotations.frames import frame_size, moved, offset_to
from wsiseg.annotations.polygons import Polygons, Shapes, are_single_rings, both, either

__all__ = ["Preparation", "Prepared", "is_cut_by_rounding", "repaired"]

ROUNDS = 10
"""Roundings tried until an outline stays as it is; two are rare."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Some objects of an `Annotations`, ready to be written."""

    rows: NDArray[np.int64]
    """(n,) their rows in the `Annotations`."""

    outlines: Polygons
    """(n,) valid, rounded to 0.01 px."""

    ids: NDArray[np.bytes_]
    """(n,) UUIDs."""


@dataclass
class Preparation:
    """Goes through an `Annotations` chunk by chunk and counts what it had to change.

    Parameters
    ----------
    annotations
        Polygons in either frame.
    frame
        The frame of the result.
    seen
        See `Namer`.
    """

    annotations: Annotations
    frame: Frame
    seen: set[int] | None = None
    repaired: int = 0
    clipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Prepared]:
        outlines = self.annotations.outlines
        offset = offset_to(self.annotations, self.frame)
        namer = Namer(self.annotations, self.frame, self.seen)
        for chunk in chunks(outlines):
            rows, cleaned = self._clean(moved(outlines[chunk], offset))
            rows, cleaned = self._clip(rows, cleaned)
            rows += chunk.start
            yield Prepared(rows, cleaned, chosen_ids(self.annotations, rows, cleaned, namer))

    def _clip(
        self, rows: NDArray[np.int64], outlines: Polygons
    ) -> tuple[NDArray[np.int64], Polygons]:
        """Return what lies inside the image of some clean outlines, and the rows it belongs to."""
        low, high = outlines.bounds()
        size = frame_size(self.annotations.image, self.frame)
        overhangs = either(low < 0) | either(high > size)
        if not overhangs.any():
            return rows, outlines
        inside, outside = np.flatnonzero(~overhangs), np.flatnonzero(overhangs)
        cut = shapely.intersection(outlines.take(outside).to_shapely(), shapely.box(0, 0, *size))
        for i in np.flatnonzero(~np.isin(shapely.get_type_id(cut), (3, 6))):
            cut[i] = _polygons_of(cut[i])  # an outline that touches the edge leaves lines, too
        left, clipped = self._clean(cut, reason="outside the image")
        self.clipped += len(left)
        return _in_order(
            np.concatenate([rows[inside], rows[outside[left]]]), [outlines.take(inside), clipped]
        )

    def _clean(
        self, outlines: Shapes, reason: str = "smaller than 0.01 px"
    ) -> tuple[NDArray[np.int64], Polygons]:
        """Return rounded, valid polygons, and the rows they come from: some have to be dropped.

        Most are seen to be valid in their columns. Only the others become shapely objects.
        """
        easy, rounded = _easy(outlines)
        if len(easy) == len(outlines):
            return easy, rounded
        difficult = np.delete(np.arange(len(outlines)), easy)
        if isinstance(outlines, Polygons):
            geometries = self._clean_geometries(outlines.take(difficult).to_shapely(), reason)
        else:
            geometries = self._clean_geometries(outlines[difficult], reason)
        kept = ~shapely.is_missing(geometries)
        return _in_order(
            np.concatenate([easy, difficult[kept]]), [rounded, Polygons.of(geometries[kept])]
        )

    @np.errstate(all="ignore")  # NaN and denormal coordinates
    def _clean_geometries(
        self, geometries: NDArray[np.object_], reason: str
    ) -> NDArray[np.object_]:
        """Return rounded, valid polygons, `None` for those that had to be dropped."""
        result = geometries.copy()
        polygonal = np.isin(shapely.get_type_id(result), (3, 6))
        finite = np.isfinite(shapely.bounds(result)).all(axis=1) & _all_finite(result)
        empty = shapely.is_empty(result)
        self._drop(result, ~polygonal, "not a polygon")
        self._drop(result, polygonal & ~empty & ~finite, "coordinates not finite")
        usable = polygonal & finite
        result[usable] = _rounded(result[usable])
        invalid = usable & ~(shapely.is_valid(result) & (shapely.area(result) > 0))
        valid = usable & ~invalid
        result[valid] = _without_repeats(result[valid])
        invalid[valid] = is_cut_by_rounding(result[valid])
        for row in np.flatnonzero(invalid):
            result[row] = repaired(geometries[row])
        self.repaired += int(np.count_nonzero(invalid & ~shapely.is_empty(result)))
        self._drop(result, polygonal & shapely.is_empty(result), reason)
        return _simplest(result)

    def _drop(self, result: NDArray[np.object_], which: NDArray[np.bool_], reason: str) -> None:
        result[which] = None
        if which.any():
            self.dropped[reason] += int(np.count_nonzero(which))


@np.errstate(all="ignore")  # NaN and coordinates that overflow
def _easy(outlines: Shapes) -> tuple[NDArray[np.int64], Polygons]:
    """Return the rows of outlines that only need rounding, and these outlines rounded."""
    rows: NDArray[np.int64] = np.arange(len(outlines))
    if not isinstance(outlines, Polygons):
        rows = np.flatnonzero(are_single_rings(outlines))
        outlines = Polygons.of(outlines[rows])
    rounded = outlines.with_points(round_points(outlines.points)).without_repeats()
    clear = are_clear(rounded)
    return (rows, rounded) if clear.all() else (rows[clear], rounded.take(np.flatnonzero(clear)))


def _in_order(
    rows: NDArray[np.int64], outlines: list[Polygons]
) -> tuple[NDArray[np.int64], Polygons]:
    order = np.argsort(rows)
    return rows[order], Polygons.concatenate(outlines).take(order)


def _all_finite(geometries: NDArray[np.object_]) -> NDArray[np.bool_]:
    points, owner = shapely.get_coordinates(geometries, return_index=True)
    bad = owner[~both(np.isfinite(points))]
    finite: NDArray[np.bool_] = np.bincount(bad, minlength=len(geometries)) == 0
    return finite


def _rounded(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return polygons rounded to 0.01 px."""
    points, owner = shapely.get_coordinates(geometries, return_index=True)
    fine = round_points(points)
    changed = np.zeros(len(geometries), dtype=bool)
    changed[owner[either((fine != points) | (np.signbit(points) & (points == 0)))]] = True
    result = geometries.copy()
    result[changed] = shapely.transform(geometries[changed], round_points)
    return result


def _without_repeats(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return valid polygons without repeated vertices."""
    points, owner = shapely.get_coordinates(geometries, return_index=True)
    repeated = np.zeros(len(geometries), dtype=bool)
    repeated[owner[1:][both(points[1:] == points[:-1]) & (owner[1:] == owner[:-1])]] = True
    result = geometries.copy()
    result[repeated] = shapely.remove_repeated_points(geometries[repeated], 0)
    return result


def is_cut_by_rounding(geometries: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Tell which valid, rounded polygons QuPath would still cut where they almost touch."""
    cut = ~is_kept_by_rounding(Polygons.of(geometries))
    reduced = reduce_to_grid(geometries[cut])
    before, after = count_parts(geometries[cut]), count_parts(reduced)
    cut[cut] = (before[0] != after[0]) | (before[1] != after[1])
    return cut


def repaired(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons that a broken outline stands for, on the 0.01 px grid; may be empty.

    What touches itself is repaired as QuPath would; what crosses is first split where it crosses.
    """
    (fixed,) = reduce_to_grid(np.array([geometry]))
    if fixed is None:
        fixed = _uncrossed(geometry)
    for _ in range(ROUNDS):
        fixed = shapely.transform(_polygons_of(fixed), round_points)
        if not is_cut_by_rounding(np.array([fixed]))[0]:
            return fixed
        (fixed,) = reduce_to_grid(np.array([fixed]))
    return shapely.Polygon()


def _uncrossed(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return what the shells of crossing outlines cover, without their holes."""
    # A hole outside its shell would become a part of its own: hence the intersection.
    shells = shapely.polygons([part.exterior for part in shapely.get_parts(geometry)])
    try:
        covered = shapely.union_all([_valid(shell) for shell in shells], grid_size=GRID)
        return shapely.intersection(_valid(geometry), covered, grid_size=GRID)
    except GEOSException:  # beyond repair: dropped, and counted by the caller
        return shapely.Polygon()


def _valid(geometry: shapely.Geometry) -> shapely.Geometry:
    return _polygons_of(shapely.make_valid(geometry, method="structure", keep_collapsed=False))


def _polygons_of(geometry: shapely.Geometry) -> shapely.Geometry:
    parts = shapely.get_parts(shapely.get_parts(geometry))
    parts = parts[(shapely.get_type_id(parts) == 3) & (shapely.area(parts) > 0)]
    return parts[0] if len(parts) == 1 else shapely.multipolygons(parts)


def _simplest(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return a `Polygon` for each multipolygon of one part: QuPath 0.5 fails on the latter."""
    for row in np.flatnonzero(shapely.get_type_id(geometries) == 6):
        geometries[row] = _polygons_of(geometries[row])
    return geometries
