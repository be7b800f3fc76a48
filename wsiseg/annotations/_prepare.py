"""Objects as QuPath can take them: rounded, valid, inside the image, with an id that stays.

QuPath from 0.6 rounds to 0.01 px and refuses a whole file for one invalid polygon. So each polygon
is rounded first and checked afterwards; what is invalid is repaired, or dropped and counted.
"""

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import shapely
from numpy.typing import NDArray
from shapely.errors import GEOSException

from wsiseg.annotations._grid import (
    GRID,
    count_parts,
    is_kept_by_rounding,
    reduce_to_grid,
    round_points,
)
from wsiseg.annotations._ragged import Ragged, both, either
from wsiseg.annotations.base import Annotations, Frame
from wsiseg.annotations.chunks import chunks
from wsiseg.annotations.frames import clip_to_size, frame_size, qupath_frame, to_frame

__all__ = ["Preparation", "Prepared"]

ROUNDS = 10
"""Roundings tried until an outline stays as it is; two are rare."""

NAMESPACE = uuid.UUID("8f0c3a54-3f0b-5f5e-9d5c-6a1f2c7f4b10")
"""Never change it: the ids of all objects written so far depend on it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """Some objects of an `Annotations`, ready to be written."""

    rows: NDArray[np.int64]
    """(n,) their rows in the `Annotations`."""

    geometries: NDArray[np.object_]
    """(n,) valid `Polygon`, or `MultiPolygon` of two parts or more, rounded to 0.01 px."""

    ragged: Ragged
    """The same geometries as arrays."""

    ids: list[str]
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
    """

    annotations: Annotations
    frame: Frame
    repaired: int = 0
    clipped: int = 0
    dropped: Counter[str] = field(default_factory=Counter)

    def __iter__(self) -> Iterator[Prepared]:
        moved = to_frame(self.annotations, self.frame)
        size = frame_size(moved.image, self.frame)
        namer = _Namer(moved)
        for chunk in chunks(moved.geometries):
            rows = np.arange(chunk.start, chunk.stop)
            geometries = self._clean(moved.geometries[rows])
            geometries, clipped = clip_to_size(geometries, *size)
            geometries[clipped] = self._clean(geometries[clipped], reason="outside the image")
            self.clipped += int(np.count_nonzero(clipped & ~shapely.is_missing(geometries)))
            kept = ~shapely.is_missing(geometries)
            rows, geometries = rows[kept], geometries[kept]
            ragged = Ragged.of(geometries)
            yield Prepared(rows, geometries, ragged, namer.names(rows, ragged))

    @np.errstate(all="ignore")  # NaN and denormal coordinates
    def _clean(
        self, geometries: NDArray[np.object_], reason: str = "smaller than 0.01 px"
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
        invalid[valid] = _is_cut_by_rounding(result[valid])
        for row in np.flatnonzero(invalid):
            result[row] = _repaired(geometries[row])
        self.repaired += int(np.count_nonzero(invalid & ~shapely.is_empty(result)))
        self._drop(result, polygonal & shapely.is_empty(result), reason)
        return _simplest(result)

    def _drop(self, result: NDArray[np.object_], which: NDArray[np.bool_], reason: str) -> None:
        result[which] = None
        if which.any():
            self.dropped[reason] += int(np.count_nonzero(which))


class _Namer:
    """Gives each object an id that depends on the image, the class and the outline alone."""

    def __init__(self, annotations: Annotations) -> None:
        self._class_index = annotations.class_index
        # Level-0 coordinates are hashed, so that both frames give the same ids.
        offset = qupath_frame(annotations.image).offset if annotations.frame == "qupath" else (0, 0)
        self._offset = np.array(offset, dtype=np.int64) * 100
        start = NAMESPACE.bytes + annotations.image.name.encode("utf-8", "replace")
        self._starts = [
            hashlib.sha1(b"\0".join((start, item.name.encode("utf-8", "replace"), b"")))
            for item in annotations.classes
        ]
        self._seen: set[str] = set()

    def names(self, rows: NDArray[np.int64], ragged: Ragged) -> list[str]:
        """Return one UUID (version 5, RFC 9562) per object, all different within a file."""
        points = np.rint(ragged.points * 100).astype("<i8") + self._offset
        ring_sizes = np.diff(ragged.rings).astype("<i8")
        part_sizes = np.diff(ragged.parts).astype("<i8")
        spans = [
            (points, ragged.spans.tolist()),
            (ring_sizes, ragged.parts[ragged.objects].tolist()),
            (part_sizes, ragged.objects.tolist()),
        ]
        names = []
        for i, index in enumerate(self._class_index[rows].tolist()):
            digest = self._starts[index].copy()
            for column, offsets in spans:
                digest.update(column[offsets[i] : offsets[i + 1]])
            while (name := _uuid5(digest.digest())) in self._seen:
                digest.update(b"again")  # an object drawn twice
            self._seen.add(name)
            names.append(name)
        return names


def _uuid5(digest: bytes) -> str:
    """Return the UUID of version 5 made of a SHA-1 digest (RFC 9562, 5.5)."""
    value = bytearray(digest[:16])
    value[6] = value[6] & 0x0F | 0x50
    value[8] = value[8] & 0x3F | 0x80
    text = value.hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


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


def _is_cut_by_rounding(geometries: NDArray[np.object_]) -> NDArray[np.bool_]:
    """Tell which valid, rounded polygons QuPath would still cut where they almost touch."""
    cut = ~is_kept_by_rounding(Ragged.of(geometries))
    reduced = reduce_to_grid(geometries[cut])
    before, after = count_parts(geometries[cut]), count_parts(reduced)
    cut[cut] = (before[0] != after[0]) | (before[1] != after[1])
    return cut


def _repaired(geometry: shapely.Geometry) -> shapely.Geometry:
    """Return the polygons that a broken outline stands for, on the 0.01 px grid; may be empty.

    What touches itself is repaired as QuPath would; what crosses is first split where it crosses.
    """
    (fixed,) = reduce_to_grid(np.array([geometry]))
    if fixed is None:
        fixed = _uncrossed(geometry)
    for _ in range(ROUNDS):
        fixed = shapely.transform(_polygons_of(fixed), round_points)
        if not _is_cut_by_rounding(np.array([fixed]))[0]:
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
