"""What a person says of a result: GeoJSON beside it, that QuPath opens and `wsiseg train` takes.

Each correction is an object of the class it should have, named by what was done, and a region
`Region*` of the same outline: what is in it is known for sure, what lies outside is not. So with
`within = ["Region*"]` in a data set, training learns from what was looked at and from nothing else.
A rejected object is one of the background.
"""

import threading
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import shapely

from wsiseg.annotations import (
    AnnotationClass,
    Annotations,
    ImageRef,
    read_objects,
    to_frame,
    write_geojson,
)
from wsiseg.errors import UsageError

__all__ = ["REGION", "Action", "Correction", "Corrections", "checked_action", "outline"]

Action = Literal["accepted", "rejected", "reclassified", "redrawn", "added"]

REGION = "Region*"
REGION_COLOR = (0, 0, 180)
"""QuPath's own colour for it."""
SPACE = uuid.UUID("a3d0c1d6-93f4-4be5-9a55-0c6d1f2a7b84")
"""Names ids of regions after those of their objects."""

MOST_VERTICES = 100_000
"""Of one outline."""

MOST = 100_000
"""Corrections of one slide."""

Rgb = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Correction:
    """One object, as it should be."""

    id: str
    """UUID of the object of the result, or a new one where something was added."""

    action: Action
    class_name: str
    """The class it should have; of rejected ones the background."""

    was: str | None
    """The class it had."""

    polygon: shapely.Geometry
    """Level-0 pixels."""

    def describe(self) -> dict[str, Any]:
        """Return what the page shows of it."""
        return {
            "id": self.id,
            "action": self.action,
            "class": self.class_name,
            "was": self.was,
            "geometry": shapely.geometry.mapping(self.polygon),
        }


class Corrections:
    """The corrections of one slide, in their file. Thread-safe.

    Each change is written at once, to what the file holds at that moment: what QuPath or another
    viewer saved meanwhile is kept.

    Parameters
    ----------
    path
        The file; it appears with the first correction.
    image
        The slide.
    classes
        Name and colour of the classes; the first is the background.
    """

    def __init__(self, path: Path, image: ImageRef, classes: Mapping[str, Rgb]) -> None:
        self._path, self._image, self._classes = path, image, dict(classes)
        self._lock = threading.Lock()

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def background(self) -> str:
        """The class of rejected objects."""
        return next(iter(self._classes))

    def listed(self) -> list[Correction]:
        """Return the corrections in the file.

        Raises
        ------
        AnnotationError
            If it cannot be read.
        """
        with self._lock:
            return list(self._read().values())

    def put(self, correction: Correction) -> Correction:
        """Enter a correction; one of the same object is replaced.

        Raises
        ------
        UsageError
            If the class is unknown, or there are too many.
        AnnotationError, DiskFullError
            If the file cannot be read or written.
        """
        if correction.class_name not in self._classes:
            raise UsageError(
                f"class {correction.class_name!r}: needed one of {', '.join(self._classes)}"
            )
        with self._lock:
            known = self._read()
            if len(known) >= MOST and correction.id not in known:
                raise UsageError(f"{self._path}: has {MOST} corrections; train with them first")
            known[correction.id] = correction
            self._write(known)
        return correction

    def remove(self, id: str) -> bool:
        """Take a correction back; return whether there was one."""
        with self._lock:
            known = self._read()
            if known.pop(id, None) is None:
                return False
            self._write(known)
            return True

    def _read(self) -> dict[str, Correction]:
        if not self._path.exists():
            return {}
        found = read_objects(self._path, image=self._image)
        listed: dict[str, Correction] = {}
        for group in found.groups:
            if not group.are_points:
                listed |= {c.id: c for c in _corrections(to_frame(group, "level0"))}
        return listed

    def _write(self, known: Mapping[str, Correction]) -> None:
        if not known:
            self._path.unlink(missing_ok=True)
            return
        self._path.parent.mkdir(parents=True, exist_ok=True)
        write_geojson(self._annotations(list(known.values())), self._path)

    def _annotations(self, listed: Sequence[Correction]) -> Annotations:
        """Return regions and objects, each region before its object."""
        extra = {c.class_name: (90, 90, 90) for c in listed if c.class_name not in self._classes}
        colors = {REGION: REGION_COLOR, **self._classes, **extra}
        place = {name: i for i, name in enumerate(colors)}
        polygons = np.empty(2 * len(listed), object)
        polygons[0::2] = polygons[1::2] = [c.polygon for c in listed]
        ids = [text for c in listed for text in (str(uuid.uuid5(SPACE, c.id)), c.id)]
        names = np.empty(2 * len(listed), object)
        names[1::2] = [_name(c) for c in listed]
        index = [i for c in listed for i in (place[REGION], place[c.class_name])]
        return Annotations(
            polygons,
            np.array(index, np.int64),
            tuple(AnnotationClass(name, color) for name, color in colors.items()),
            self._image,
            ids=np.array([text.encode() for text in ids], "S36"),
            names=names,
        )


def outline(coordinates: object, image: ImageRef) -> shapely.Polygon:
    """Return a drawn ring [[x, y], ...] in level-0 pixels as a valid polygon on the slide.

    Where it crosses itself, its largest part is taken.

    Raises
    ------
    UsageError
        If it is none, has too many vertices, or lies outside the slide.
    """
    try:
        ring = np.asarray(coordinates, np.float64)
    except (TypeError, ValueError) as error:
        raise UsageError("an outline needs a list of [x, y]") from error
    if ring.ndim != 2 or ring.shape[1:] != (2,) or not 3 <= len(ring) <= MOST_VERTICES:
        raise UsageError(f"an outline needs 3 to {MOST_VERTICES} places [x, y]")
    if not np.isfinite(ring).all():
        raise UsageError("an outline needs finite places [x, y]")
    whole = shapely.box(0, 0, image.shape[1], image.shape[0])
    drawn = shapely.make_valid(shapely.Polygon(ring), method="structure", keep_collapsed=False)
    parts = shapely.get_parts(shapely.intersection(drawn, whole))
    parts = [part for part in parts if isinstance(part, shapely.Polygon) and part.area > 0]
    if not parts:
        raise UsageError("the outline encloses nothing on the slide; draw it on the slide")
    return max(parts, key=lambda part: float(part.area))


def checked_action(value: object) -> Action:
    """Return an action as such.

    Raises
    ------
    UsageError
        If it is none.
    """
    for action in get_args(Action):
        if action == value:
            return action  # type: ignore[no-any-return]
    raise UsageError(f"action: needed one of {', '.join(get_args(Action))}, found {value!r}")


def _name(correction: Correction) -> str:
    return f"{correction.action}: was {correction.was}" if correction.was else correction.action


def _corrections(group: Annotations) -> "list[Correction]":
    """Return the corrections among objects; what others drew into the file counts as added."""
    listed = []
    for row, polygon in enumerate(group.geometries):
        index = int(group.class_index[row])
        name = group.classes[index].name if index >= 0 else None
        if name is None or name == REGION:
            continue
        text = "" if group.names is None else group.names[row] or ""
        action, _, was = text.partition(": was ")
        known = action if action in get_args(Action) else "added"
        id = b"" if group.ids is None else group.ids[row]
        listed.append(
            Correction(
                id.decode() or str(uuid.uuid5(SPACE, polygon.wkt)),
                checked_action(known),
                name,
                was or None,
                polygon,
            )
        )
    return listed
