"""Outlines as every QuPath takes them: rings closed, crossings split, rounded to 0.01 px."""

import math
from collections.abc import Callable
from typing import Any, cast

import numpy as np
import shapely
from shapely.errors import GEOSException

from wsiseg.annotations import _gson
from wsiseg.annotations._grid import round_points
from wsiseg.annotations._prepare import is_cut_by_rounding, repaired

__all__ = ["LostError", "Said", "mended_geometry"]

Said = Callable[[str], None]
"""Called with what was changed."""

CLOSED = 4
"""Vertices of the shortest ring, the first repeated."""


class LostError(Exception):
    """Nothing that can be shown is left; says why."""


def mended_geometry(geometry: object, said: Said) -> dict[str, Any]:
    """Return a geometry that QuPath 0.5 to 0.8 reads alike.

    Raises
    ------
    LostError
        If it stands for nothing that QuPath could show.
    """
    if not isinstance(geometry, dict):
        raise LostError("no geometry")
    kind = geometry.get("type")
    kept = {key: value for key, value in geometry.items() if key in ("plane", "isEllipse")}
    if "plane" in kept and not _is_plane(kept["plane"]):
        said(f"plane {str(kept.pop('plane'))[:40]} removed")
    if "isEllipse" in kept and not isinstance(kept["isEllipse"], bool):
        said(f"isEllipse {str(kept.pop('isEllipse'))[:20]} removed")
    if kind in ("Point", "MultiPoint", "LineString", "MultiLineString"):
        return _mended_thin(geometry, kind, said) | kept
    areas = _areas(geometry, said)
    if not areas:
        raise LostError("an outline without area")
    return _written(_valid(areas, said)) | kept


def _mended_thin(geometry: dict[str, Any], kind: str, said: Said) -> dict[str, Any]:
    """Return points or lines with plain numbers."""
    value = geometry.get("coordinates")
    depth = {"Point": 0, "MultiPoint": 1, "LineString": 1, "MultiLineString": 2}[kind]
    plain = _plain(value, depth, said)
    if kind == "MultiLineString" and len(plain) == 1:
        said("MultiLineString of one part written as LineString")
        kind, plain = "LineString", plain[0]
    lines = [plain] if kind == "LineString" else plain if kind == "MultiLineString" else []
    if any(len(line) < 2 for line in lines) or not plain:
        raise LostError("a line or set of points with too few places")
    return {"type": kind, "coordinates": plain}


def _plain(value: object, depth: int, said: Said) -> list[Any]:
    """Return nested lists of [x, y], finite numbers."""
    if not isinstance(value, list):
        raise LostError(f"coordinates {str(value)[:40]}")
    if depth:
        return [_plain(item, depth - 1, said) for item in value]
    numbers = [_gson.as_double(item) for item in value[:2]]
    if len(numbers) < 2 or any(n is None or not math.isfinite(n) for n in numbers):
        raise LostError(f"a vertex {str(value)[:40]}")
    if len(value) > 2:
        said("third coordinates removed")
    if any(isinstance(item, str) for item in value[:2]):
        said("coordinates that were text written as numbers")
    return numbers


def _areas(geometry: dict[str, Any], said: Said) -> list[shapely.Polygon]:
    """Return the polygons of a Polygon, MultiPolygon or collection, as they are."""
    kind, value = geometry.get("type"), geometry.get("coordinates")
    if kind == "GeometryCollection":
        members = geometry.get("geometries")
        found = [
            area
            for member in (members if isinstance(members, list) else [])
            if isinstance(member, dict) and member.get("type") in ("Polygon", "MultiPolygon")
            for area in _areas(member, said)
        ]
        said(f"GeometryCollection written as its {len(found)} areas")
        return found
    if kind == "Polygon":
        parts = [_plain(value, 2, said)]
    elif kind == "MultiPolygon":
        parts = _plain(value, 3, said)
        if len(parts) == 1:
            said("MultiPolygon of one part written as Polygon")
    else:
        raise LostError(f"geometry type {str(kind)[:40]!r}")
    return [area for part in parts if (area := _area(part, said)) is not None]


def _area(rings: list[list[list[float]]], said: Said) -> shapely.Polygon | None:
    closed = [_closed(ring, said) for ring in rings]
    if not closed or closed[0] is None:
        return None
    holes = [ring for ring in closed[1:] if ring is not None]
    if len(holes) < len(closed) - 1:
        said("holes without area removed")
    return shapely.Polygon(closed[0], holes)


def _closed(ring: list[list[float]], said: Said) -> list[list[float]] | None:
    if ring and ring[0] != ring[-1]:
        said("an open ring closed")
        ring = [*ring, ring[0]]
    return ring if len(ring) >= CLOSED else None


def _valid(areas: list[shapely.Polygon], said: Said) -> shapely.Geometry:
    """Return the areas as one geometry that rounding leaves alone."""
    whole = areas[0] if len(areas) == 1 else shapely.MultiPolygon(areas)
    fine = shapely.transform(whole, round_points)
    with np.errstate(all="ignore"):
        if fine.is_valid and fine.area > 0 and not is_cut_by_rounding(np.array([fine]))[0]:
            slim = shapely.remove_repeated_points(fine, 0)
            if shapely.get_num_coordinates(slim) < shapely.get_num_coordinates(fine):
                said("repeated vertices removed")
            return slim
        try:
            fixed = repaired(whole)
        except GEOSException as error:
            raise LostError(f"an outline beyond repair: {error}") from error
    if fixed.is_empty:
        raise LostError("an outline of which nothing is left at 0.01 px")
    parts = len(shapely.get_parts(fixed))
    said(f"outline repaired: area {whole.area:.6g} to {fixed.area:.6g} px, {parts} part(s)")
    return fixed


def _written(geometry: shapely.Geometry) -> dict[str, Any]:
    parts = [
        [ring.coords[:] for ring in (part.exterior, *part.interiors)]
        for part in shapely.get_parts(geometry)
    ]
    return {
        "type": "Polygon" if len(parts) == 1 else "MultiPolygon",
        "coordinates": parts[0] if len(parts) == 1 else parts,
    }


def _is_plane(value: object) -> bool:
    return isinstance(value, dict) and all(
        key in ("c", "z", "t") and type(cast("object", number)) is int
        for key, number in value.items()
    )
