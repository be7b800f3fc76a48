"""Outlines parsed as QuPath's parser does it."""

from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from wsiseg.annotations import _gson
from wsiseg.annotations._rules import Found
from wsiseg.annotations.polygons import Points

__all__ = ["Outline", "read_geometry", "read_outline"]

Kind = Literal["area", "line", "point"]


@dataclass(slots=True)
class Outline:
    """A geometry as parsed: parts of rings for an area, of one line or some points for others."""

    kind: Kind
    parts: list[list[Points]]
    is_multi: bool = False
    is_ellipse: bool = False

    @property
    def is_finite(self) -> bool:
        """Whether all coordinates are numbers."""
        return all(bool(np.isfinite(ring).all()) for part in self.parts for ring in part)


def read_outline(geometry: object, found: Found) -> Outline | None:
    """Return the outline of a feature, or `None` where every QuPath refuses it."""
    outline = read_geometry(geometry, found)
    if not isinstance(geometry, dict):
        return outline
    if "plane" in geometry and not _is_plane(geometry["plane"]):
        found("plane", repr(geometry["plane"])[:40])
    if "isEllipse" in geometry:
        flag = geometry["isEllipse"]
        if not _gson.is_primitive(flag):
            found("ellipse", repr(flag)[:40])
        elif outline is not None:
            outline.is_ellipse = _gson.as_boolean(flag)
    return outline


def read_geometry(geometry: object, found: Found) -> Outline | None:
    """Return the outline of a bare geometry, where plane and ellipse do not count."""
    kind = _gson.as_string(geometry.get("type")) if isinstance(geometry, dict) else None
    if isinstance(geometry, dict) and kind == "GeometryCollection":
        return _read_collection(geometry, found)
    if not isinstance(geometry, dict) or kind is None or kind not in READ:
        found("geometry", repr(geometry)[:40])
        return None
    coordinates = geometry.get("coordinates")
    if not isinstance(coordinates, list):
        found("coordinates", repr(coordinates)[:40])
        return None
    outline = READ[kind](coordinates, found)
    if outline is not None and kind == "MultiPolygon" and len(outline.parts) == 1:
        found("multipolygon-single", "")
    if outline is not None and kind == "MultiLineString" and len(outline.parts) == 1:
        found("multiline-single", "")
    return outline


def _read_collection(geometry: Mapping[str, Any], found: Found) -> Outline | None:
    """Read a collection: areas win over lines, lines over points."""
    # Measured: with a `coordinates` member QuPath from 0.6 reads a collection, without it raises.
    found("collection-reduced" if "coordinates" in geometry else "collection", "")
    members = geometry.get("geometries")
    if not isinstance(members, list):
        found("coordinates", "no geometries")
        return None
    outlines = [read_geometry(member, found) for member in members]
    whole = [outline for outline in outlines if outline is not None]
    if len(whole) < len(outlines):
        return None
    kind: Kind = min((outline.kind for outline in whole), default="area")  # area < line < point
    parts = [part for outline in whole if outline.kind == kind for part in outline.parts]
    return Outline(kind, parts, is_multi=len(parts) > 1)


def _read_polygon(coordinates: list[Any], found: Found) -> Outline | None:
    rings = _read_rings(coordinates, found)
    return None if rings is None else Outline("area", [rings])


def _read_multipolygon(coordinates: list[Any], found: Found) -> Outline | None:
    parts = []
    for polygon in coordinates:
        rings = _read_rings(polygon, found)
        if rings is None:
            return None
        parts.append(rings)
    return Outline("area", parts, is_multi=True)


def _read_line(coordinates: list[Any], found: Found) -> Outline | None:
    points = _read_points(coordinates, found)
    if points is None:
        return None
    if len(points) == 1:
        found("ring-short", "a line of one vertex")
        return None
    return Outline("line", [[points]] if len(points) else [])


def _read_multiline(coordinates: list[Any], found: Found) -> Outline | None:
    lines = [_read_line(line, found) for line in coordinates]
    parts = [part for line in lines if line is not None for part in line.parts]
    return None if None in lines else Outline("line", parts, is_multi=True)


def _read_point(coordinates: list[Any], found: Found) -> Outline | None:
    return _read_multipoint([coordinates], found)


def _read_multipoint(coordinates: list[Any], found: Found) -> Outline | None:
    points = _read_points(coordinates, found)
    return None if points is None else Outline("point", [[points]] if len(points) else [])


READ: Mapping[str, Callable[[list[Any], Found], Outline | None]] = {
    "Polygon": _read_polygon,
    "MultiPolygon": _read_multipolygon,
    "LineString": _read_line,
    "MultiLineString": _read_multiline,
    "Point": _read_point,
    "MultiPoint": _read_multipoint,
}


def _read_rings(coordinates: object, found: Found) -> list[Points] | None:
    """Return the rings of a polygon, shell first; empty ones do not count."""
    if not isinstance(coordinates, list):
        found("coordinates", repr(coordinates)[:40])
        return None
    rings: list[Points] = []
    for number, ring in enumerate(coordinates):
        points = _read_points(ring, found)
        if points is None:
            return None
        if len(points) == 0:
            if number == 0 and any(coordinates):
                found("ring-short", "no shell around the holes")
                return None
            continue
        if points[0, 0] != points[-1, 0] or points[0, 1] != points[-1, 1]:  # also NaN
            found("ring-open", f"ring {number}")
            return None
        if len(points) < 3:
            found("ring-short", f"ring {number} of {len(points)}")
            return None
        # GEOS wants four vertices where JTS takes three; the area is zero either way.
        rings.append(points if len(points) > 3 else points[[0, 1, 2, 2]])
    return rings


def _read_points(coordinates: object, found: Found) -> Points | None:
    """Return (n, 2) coordinates (x, y)."""
    if isinstance(coordinates, np.ndarray):  # `JsonWalk` has read them
        return coordinates
    if isinstance(coordinates, list):
        try:
            x, y = zip(*coordinates, strict=True)
            if {*map(type, x), *map(type, y)} <= {int, float}:  # then these are lists of numbers
                return np.frombuffer(array("d", x + y)).reshape(2, -1).T
        except (TypeError, ValueError, OverflowError):  # also whole numbers of over 308 digits
            pass
        return _read_odd_points(coordinates, found)
    found("coordinates", repr(coordinates)[:40])
    return None


def _read_odd_points(coordinates: list[Any], found: Found) -> Points | None:
    """Read vertices that are not plainly two numbers."""
    flat: list[float | None] = []
    for vertex in coordinates:
        if not isinstance(vertex, list) or len(vertex) < 2:
            found("coordinates", repr(vertex)[:40])
            return None
        numbers = [_gson.as_double(value) for value in vertex[:3]]
        if None in numbers:
            found("coordinates", repr(vertex)[:40])
            return None
        if len(vertex) > 2:
            found("coordinate-3d", repr(vertex)[:40])
        if any(isinstance(value, str) for value in vertex):
            found("coordinate-text", repr(vertex)[:40])
        flat += numbers[:2]
    return _as_points(flat)


def _as_points(flat: Sequence[float | None]) -> Points:
    return np.array(flat, dtype=np.float64).reshape(-1, 2)


def _is_plane(plane: object) -> bool:
    if not isinstance(plane, dict) or not plane.keys() <= {"c", "z", "t"}:
        return False
    return all(_is_whole(value) for value in plane.values())


def _is_whole(value: object) -> bool:
    number = None if isinstance(value, list) else _gson.as_double(value)
    return number is not None and number.is_integer()
