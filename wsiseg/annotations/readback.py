"""GeoJSON back into `Annotations`: polygons with classes and measurements."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import shapely

from wsiseg.annotations._attributes import AttributeReader, Attributes, Rgb
from wsiseg.annotations._documents import JsonWalk, open_documents
from wsiseg.annotations._outlines import Outline, read_outline
from wsiseg.annotations._rules import RULES
from wsiseg.annotations.base import AnnotationClass, Annotations, Frame, ImageRef, ObjectType
from wsiseg.errors import AnnotationError, GridError
from wsiseg.geometry import Box, Spacing

__all__ = ["read_geojson", "read_image"]

MAX_BYTES = 1 << 30
UNCLASSIFIED = "Unclassified"
GRAY: Rgb = (64, 64, 64)
"""QuPath's color for a class that has none."""


def read_geojson(path: Path | str, *, image: ImageRef | None = None) -> Annotations:
    """Read polygons from GeoJSON: a FeatureCollection, a Feature, a geometry or an array of them.

    Parameters
    ----------
    path
        `.geojson` or `.json`, either with `.gz`.
    image
        The image they belong to; not needed for files that wsiseg wrote. A file of other origin is
        taken to be in QuPath's frame.

    Raises
    ------
    AnnotationError
        If the file cannot be read, holds something QuPath would refuse, other than polygons, or
        more than one object type, or does not say which image it belongs to.
    """
    path = Path(path)
    documents = [d for d in open_documents(path, max_bytes=MAX_BYTES) if d.trouble is None]
    if len(documents) != 1:
        raise AnnotationError(f"{path}: needed one GeoJSON text of at most {MAX_BYTES} bytes")
    try:
        walk = JsonWalk(documents[0].content.decode("utf-8-sig"))
        features = [value for _, item in walk for value in _features(item)]
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not GeoJSON: {error}; write it again") from error
    members = walk.members or {}
    if members.get("type") != "FeatureCollection":
        features += list(_features(members)) if members else []
    about = members.get("wsiseg")
    frame: Frame = "qupath"
    if isinstance(about, Mapping):
        frame = "level0" if about.get("frame") == "level0" else "qupath"
        image = image or read_image(path, about)
    if image is None:
        raise AnnotationError(f"{path}: does not say which image it belongs to; pass image=")
    reader = AttributeReader()
    objects = [_read_object(path, i, feature, reader) for i, feature in enumerate(features)]
    return _build(objects, image, frame, path)


def _features(item: object) -> Iterator[Mapping[str, Any]]:
    """Yield the Features an element stands for."""
    if isinstance(item, list):
        for value in item:
            yield from _features(value)
    elif isinstance(item, Mapping) and item.get("type") == "FeatureCollection":
        yield from _features(item.get("features", []))
    elif isinstance(item, Mapping) and "coordinates" in item:
        yield {"type": "Feature", "geometry": item}
    elif isinstance(item, Mapping) and "geometry" in item:
        yield item


class _Object:
    """One polygon with what QuPath would keep of it."""

    def __init__(
        self, outline: Outline, attributes: Attributes, values: Mapping[str, float]
    ) -> None:
        polygons = [shapely.Polygon(part[0], part[1:]) for part in outline.parts if part]
        single = len(polygons) == 1
        self.geometry = polygons[0] if single else shapely.MultiPolygon(polygons)
        self.attributes = attributes
        self.values = values


def _read_object(
    path: Path, index: int, feature: Mapping[str, Any], reader: AttributeReader
) -> _Object:
    where = f"{path}: feature {index}"

    def found(code: str, detail: str) -> None:
        if "0.6" in RULES[code].raises:
            raise AnnotationError(f"{where}: {RULES[code].what} ({detail}); {RULES[code].remedy}")

    attributes = reader.read(feature, found)
    outline = read_outline(feature.get("geometry"), found)
    if outline is None or outline.kind != "area" or not outline.is_finite:
        raise AnnotationError(f"{where}: needed a polygon; remove other geometries")
    measurements = feature.get("properties", {}).get("measurements", {})
    items = measurements.items() if isinstance(measurements, Mapping) else ()
    values = {k: float(v) for k, v in items if type(v) in {int, float} and math.isfinite(v)}
    return _Object(outline, attributes, values)


def _build(objects: list[_Object], image: ImageRef, frame: Frame, path: Path) -> Annotations:
    types = {item.attributes.object_type for item in objects} or {"annotation"}
    if len(types) > 1 or not types <= {"annotation", "detection", "tile", "cell"}:
        raise AnnotationError(f"{path}: needed one object type, found {sorted(types)}; split it")
    classes: dict[str, Rgb] = {}
    for item in objects:
        name = item.attributes.class_name or UNCLASSIFIED
        classes.setdefault(name, item.attributes.class_color or GRAY)
    number = {name: i for i, name in enumerate(classes)}
    index = [number[item.attributes.class_name or UNCLASSIFIED] for item in objects]
    geometries = np.empty(len(objects), dtype=object)
    geometries[:] = [item.geometry for item in objects]
    names = dict.fromkeys(name for item in objects for name in item.values)
    kind: ObjectType = types.pop()  # type: ignore[assignment]
    return Annotations(
        geometries,
        np.array(index, dtype=np.int64),
        tuple(AnnotationClass(name, color) for name, color in classes.items()),
        image,
        {name: np.array([item.values.get(name, math.nan) for item in objects]) for name in names},
        frame,
        kind,
    )


def read_image(path: Path, about: Mapping[str, Any]) -> ImageRef:
    """Return the image that the `wsiseg` member of a collection names."""
    try:
        bounds = None
        if "bounds" in about:
            x, y, width, height = (int(value) for value in about["bounds"])
            bounds = Box((y, x), (y + height, x + width))
        return ImageRef(
            name=str(about["image"]),
            shape=(int(about["level0_height"]), int(about["level0_width"])),
            spacing=Spacing.from_mpp(*about["mpp"]),
            vendor=str(about["vendor"]),
            bounds=bounds,
        )
    except (KeyError, TypeError, ValueError, OverflowError, GridError) as error:
        raise AnnotationError(f"{path}: its wsiseg member is incomplete: {error!r}") from error
