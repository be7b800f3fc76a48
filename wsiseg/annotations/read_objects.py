"""GeoJSON as any version of QuPath wrote it, with all that QuPath keeps of an object.

`read_areas` gives what was drawn, as labels. This gives the objects: types, ids, names, classes
with colours, measurements, nuclei.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from wsiseg.annotations import _gson
from wsiseg.annotations._attributes import TYPES
from wsiseg.annotations._documents import JsonWalk
from wsiseg.annotations._outlines import Outline
from wsiseg.annotations._read_qupath import (
    NO_ANNOTATIONS,
    TYPE_KEYS,
    class_name_of,
    features_of,
    open_whole,
    outline_of,
)
from wsiseg.annotations.base import Frame, ImageRef, ObjectType
from wsiseg.annotations.columns import Columns, Found, FoundObjects, Rgb, clean_name
from wsiseg.annotations.drawing import UNCLASSIFIED, ellipse_outline
from wsiseg.annotations.readback import read_image
from wsiseg.errors import AnnotationError

__all__ = ["read_objects"]

MAX_KNOWN = 1_000
"""Classes remembered; a file that has more is odd, and read all the same."""


def read_objects(path: Path | str, *, image: ImageRef | None = None) -> FoundObjects:
    """Read the objects of a GeoJSON file with all that QuPath keeps of them.

    Parameters
    ----------
    path
        A FeatureCollection, a Feature, a geometry, or an array of them, as any QuPath from 0.2
        wrote it: `.geojson` or `.json`, each also `.gz`, or `.zip`.
    image
        The image they belong to; not needed for files that wsiseg wrote. A file of other origin is
        taken to be in QuPath's frame.

    Returns
    -------
    FoundObjects
        Areas and points; lines and TMA cores are counted in `left_out`. Children come after their
        parent. Of several objects with one id the first keeps it.

    Raises
    ------
    AnnotationError
        If the file cannot be read, an outline cannot be known or lies in another plane than the
        first, or the image is not known.
    """
    path = Path(path)
    columns, known = Columns(), KnownClasses()
    frame: Frame = "qupath"
    for document in open_whole(path):
        try:
            walk = JsonWalk(document.content.decode("utf-8-sig"))
            for position, feature in enumerate(features_of(walk)):
                _add(columns, known, feature, f"{path}: feature {position}")
        except AnnotationError:
            raise
        except (ValueError, RecursionError) as error:
            raise AnnotationError(f"{path}: not GeoJSON: {error}; export it anew") from error
        about = (walk.members or {}).get("wsiseg")
        if isinstance(about, dict):
            frame = "level0" if about.get("frame") == "level0" else "qupath"
            image = image or read_image(path, about)
            _check_image(path, about, image)
            columns.says_empty |= about.get("empty") is True
    if image is None:
        raise AnnotationError(
            f"{path}: does not say which image it belongs to; name the slide (image=)"
        )
    return columns.finish(image, frame)


def _check_image(path: Path, about: Mapping[str, Any], image: ImageRef) -> None:
    said = (about.get("level0_height"), about.get("level0_width"))
    if None not in said and said != image.shape:
        raise AnnotationError(
            f"{path}: belongs to a slide of {said[1]} x {said[0]} pixels, {image.name} has "
            f"{image.shape[1]} x {image.shape[0]}; name the right slide"
        )


def _add(columns: Columns, known: "KnownClasses", feature: object, where: str) -> None:
    """Add an object and its children."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    properties = {} if properties is None else properties
    if not isinstance(feature, dict) or not isinstance(properties, dict):
        raise AnnotationError(f"{where}: not a Feature object; remove it")
    kinds = (properties[key] for key in TYPE_KEYS if key in properties)
    kind = str(next(kinds, feature.get("id")))  # QuPath 0.2 wrote the type as id
    if kind in NO_ANNOTATIONS:
        columns.left_out[NO_ANNOTATIONS[kind]] += 1
    else:
        outline = outline_of(feature.get("geometry"), where)
        _add_outline(columns, _found(known, feature, properties, kind, where), outline)
    children = properties.get("childObjects", properties.get("children"))
    for number, child in enumerate(children if isinstance(children, list) else []):
        _add(columns, known, child, f"{where}, child {number}")


def _add_outline(columns: Columns, found: Found, outline: Outline) -> None:
    if outline.kind == "line":
        columns.left_out["lines"] += 1
    elif outline.kind == "point":
        for part in outline.parts:
            for xy in part:
                columns.add_points(found, xy)
    elif outline.is_ellipse and any(outline.parts):
        columns.add_area(found, [[ellipse_outline(outline.parts[0][0])]])
    else:
        columns.add_area(found, outline.parts)


def _found(
    known: "KnownClasses",
    feature: Mapping[str, Any],
    properties: Mapping[str, Any],
    kind: str,
    where: str,
) -> Found:
    class_name, color = known.read(properties.get("classification"), where)
    nucleus = feature.get("nucleusGeometry")
    shown = properties.get("name")
    return Found(
        class_name=class_name,
        color=color,
        object_type=cast("ObjectType", TYPES.get(kind, "annotation")),
        id=feature["id"] if isinstance(feature.get("id"), str) else None,
        name=shown if isinstance(shown, str) else None,
        is_locked=properties.get("isLocked") is True,
        measurements=dict(_measurements(properties.get("measurements"))),
        nucleus=None if nucleus is None else outline_of(nucleus, f"{where}, nucleus").parts,
    )


class KnownClasses:
    """Classes of a file, each read once: a million objects have a handful."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[str | None, Rgb | None]] = {}

    def read(self, classification: object, where: str) -> tuple[str | None, Rgb | None]:
        """Return name and colour."""
        key = repr(classification)
        known = self._known.get(key)
        if known is None:
            name = class_name_of(classification, where)
            known = None if name == UNCLASSIFIED else clean_name(name), _color(classification)
            if len(self._known) < MAX_KNOWN:
                self._known[key] = known
        return known


def _color(classification: object) -> Rgb | None:
    """Return the colour of a class as any QuPath wrote it."""
    if not isinstance(classification, dict):
        return None
    value = classification.get("color", classification.get("colorRGB"))
    if isinstance(value, Sequence) and not isinstance(value, str) and len(value) in {3, 4}:
        numbers = [_gson.as_int(v) for v in value[:3]]
        if None not in numbers:
            red, green, blue = (cast("int", number) & 0xFF for number in numbers)
            return red, green, blue
    packed = _gson.as_int(value)
    return None if packed is None else (packed >> 16 & 0xFF, packed >> 8 & 0xFF, packed & 0xFF)


def _measurements(values: object) -> Iterator[tuple[str, float]]:
    """Yield the measurements of a map, or of a list of {name, value} as up to QuPath 0.3."""
    if isinstance(values, dict):
        pairs = list(values.items())
    elif isinstance(values, list):
        items = [item for item in values if isinstance(item, dict)]
        pairs = [(item.get("name"), item.get("value")) for item in items]
    else:
        return
    for name, value in pairs:
        number = value if type(value) is float else _gson.as_double(value)
        if isinstance(name, str) and number is not None and math.isfinite(number):
            yield name, number
