"""What QuPath makes of outlines: loads, repairs, empties or refuses them."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import shapely
from numpy.typing import NDArray

from wsiseg.annotations._grid import (
    GRID,
    count_parts,
    is_kept_by_rounding,
    reduce_to_grid,
    round_points,
)
from wsiseg.annotations._outlines import Outline
from wsiseg.annotations.polygons import Points, Polygons, both, either

__all__ = ["Fate", "Judgement", "ellipse", "judge"]


class Fate(NamedTuple):
    """What one reader makes of an outline."""

    area: float = 0.0
    """Square pixels."""

    holes: int = 0
    is_empty: bool = False
    is_invalid: bool = False
    bounds: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    """x0, y0, x1, y1."""


NOTHING = Fate()


@dataclass(slots=True)
class Judgement:
    """What the readers make of an outline, and what is to be said about it."""

    old: Fate = NOTHING
    """QuPath 0.4 and 0.5; where it raises, a finding says so."""

    new: Fate = NOTHING
    """QuPath from 0.6; where it raises, a finding says so."""

    findings: list[tuple[str, str]] = field(default_factory=list)


@np.errstate(all="ignore")  # denormal coordinates
def judge(outlines: Sequence[Outline]) -> list[Judgement]:
    """Return what the readers make of some outlines; one call for many is much faster."""
    judgements = [Judgement() for _ in outlines]
    areas = []
    all_finite = _are_finite(outlines)
    for outline, judgement in zip(outlines, judgements, strict=True):
        if not all_finite and not outline.is_finite:
            judgement.findings.append(("not-finite", ""))
            if outline.kind == "area":
                judgement.findings.append(("invalid-0.5", "a coordinate is not finite"))
            judgement.old = Fate(is_invalid=outline.kind == "area")
        elif outline.kind == "area":
            areas.append((outline, judgement))
        else:
            _judge_thin(outline, judgement)
    if areas:
        _judge_areas(*map(list, zip(*areas, strict=True)))
    for outline, judgement in zip(outlines, judgements, strict=True):
        if outline.is_ellipse:
            judgement.old = ellipse(judgement.old)
            judgement.new = ellipse(judgement.new)
    return judgements


def _are_finite(outlines: Sequence[Outline]) -> bool:
    rings = [ring for outline in outlines for part in outline.parts for ring in part]
    return not rings or bool(np.isfinite(np.concatenate(rings)).all())


def ellipse(fate: Fate) -> Fate:
    """Return the ellipse QuPath puts into the bounding box of an outline."""
    x0, y0, x1, y1 = fate.bounds
    return Fate((x1 - x0) * (y1 - y0) * math.pi / 4, 0, fate.is_empty, bounds=fate.bounds)


def _judge_thin(outline: Outline, judgement: Judgement) -> None:
    points = [ring for part in outline.parts for ring in part]
    if outline.kind == "point":
        geometry = shapely.multipoints(np.concatenate(points)) if points else shapely.MultiPoint()
    else:
        geometry = shapely.multilinestrings([shapely.linestrings(line) for line in points])
    reduced = shapely.set_precision(geometry, GRID)
    is_empty = geometry.is_empty or (outline.kind == "line" and reduced.is_empty)
    judgement.old = judgement.new = Fate(is_empty=is_empty, bounds=_bounds(geometry))
    if is_empty:
        judgement.findings.append(("empty", ""))
    _note_rounding(np.concatenate(points) if points else np.empty((0, 2)), judgement)


def _note_rounding(points: Points, judgement: Judgement) -> None:
    if (round_points(points) != points).any():
        judgement.findings.append(("rounded", ""))


def _judge_areas(outlines: list[Outline], judgements: list[Judgement]) -> None:
    geometries, safe = _survey(outlines, judgements)
    valid = shapely.is_valid(geometries)
    before = _count(geometries)
    for judgement, fate in zip(judgements, before.fates(), strict=True):
        judgement.old = judgement.new = fate
    doubtful = np.flatnonzero(~(valid & safe) | (before.parts == 0))
    reduced = reduce_to_grid(geometries[doubtful])
    after = _count(reduced)
    for k, (i, fate) in enumerate(zip(doubtful.tolist(), after.fates(), strict=True)):
        judgement, is_valid = judgements[i], bool(valid[i])
        judgement.old = _judge_old(geometries[i], judgement.old, is_valid, judgement)
        if reduced[k] is None:
            judgement.new = Fate()
            judgement.findings.append(("crossing", shapely.is_valid_reason(geometries[i])))
            continue
        judgement.new = _judge_new(reduced[k], fate, is_valid, judgement)
        counts = f"{after.parts[k]} part(s), {after.holes[k]} hole(s)"
        if judgement.new.is_empty:
            # Without holes QuPath 0.5 empties the same outlines.
            if before.parts[i] <= 1 and before.holes[i] == 0:
                judgement.old = judgement.new
            judgement.findings.append(("empty", ""))
        elif not is_valid and not judgement.new.is_invalid:
            judgement.findings.append(("repaired", counts))
        elif (before.parts[i], before.holes[i]) != (after.parts[k], after.holes[k]):
            judgement.findings.append(("rounding", counts))


@dataclass(frozen=True, slots=True)
class _Counts:
    """What there is in some polygonal geometries, in columns (n,)."""

    areas: NDArray[np.float64]
    holes: NDArray[np.int64]
    parts: NDArray[np.int64]
    bounds: NDArray[np.float64]

    def fates(self) -> list[Fate]:
        columns = (self.areas, self.holes, self.parts == 0, self.bounds)
        rows = zip(*(column.tolist() for column in columns), strict=True)
        return [
            Fate(area, holes, is_empty, bounds=(x0, y0, x1, y1))
            for area, holes, is_empty, (x0, y0, x1, y1) in rows
        ]


def _count(geometries: NDArray[np.object_]) -> _Counts:
    parts, holes = count_parts(geometries)
    areas = np.nan_to_num(shapely.area(geometries))
    return _Counts(areas, holes, parts, np.nan_to_num(shapely.bounds(geometries)))


def _survey(
    outlines: list[Outline], judgements: list[Judgement]
) -> tuple[NDArray[np.object_], NDArray[np.bool_]]:
    """Return the areas as `MultiPolygon` (n,), and which of them rounding keeps if valid."""
    polygons = Polygons.of_rings([[part for part in o.parts if part] for o in outlines])
    edges = polygons.edges()
    sizes = np.diff(polygons.rings)
    # A ring of three vertices was filled up to four.
    repeated = polygons.any_of_objects(both(edges == 0) & np.repeat(sizes > 4, sizes))
    off_grid = polygons.any_of_objects(either(round_points(polygons.points) != polygons.points))
    for i, judgement in enumerate(judgements):
        if repeated[i]:
            judgement.findings.append(("vertices-repeated", ""))
        if off_grid[i]:
            judgement.findings.append(("rounded", ""))
    return polygons.to_multipolygons(), is_kept_by_rounding(polygons)


def _judge_old(geometry: shapely.Geometry, raw: Fate, is_valid: bool, judgement: Judgement) -> Fate:
    """Return what QuPath 0.5 makes of an area: only single polygons without holes are repaired."""
    if is_valid or raw.is_empty:
        return raw
    if len(geometry.geoms) == 1 and raw.holes == 0:
        fixed = _count(np.array([shapely.make_valid(geometry, method="linework")])).fates()[0]
        return fixed._replace(bounds=raw.bounds)
    judgement.findings.append(("invalid-0.5", shapely.is_valid_reason(geometry)))
    return raw._replace(is_invalid=True)


def _judge_new(
    geometry: shapely.Geometry, reduced: Fate, is_valid: bool, judgement: Judgement
) -> Fate:
    """Return what QuPath from 0.6 makes of an area it could reduce."""
    if is_valid or geometry.is_valid:  # reduced from a valid one it is valid
        return reduced
    judgement.findings.append(("invalid", shapely.is_valid_reason(geometry)))
    return reduced._replace(is_invalid=True)


def _bounds(geometry: shapely.Geometry) -> tuple[float, float, float, float]:
    x0, y0, x1, y1 = geometry.bounds if not geometry.is_empty else (0.0, 0.0, 0.0, 0.0)
    return x0, y0, x1, y1
