"""GeoJSON as any version of QuPath wrote it, and as other programs write it.

Read for what is drawn, not for what QuPath would load: colours, ids and measurements do not count,
and a class may lack its colour. An outline that cannot be known is refused.
"""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, cast

from wsiseg.annotations import _gson
from wsiseg.annotations._documents import Document, JsonWalk, open_documents
from wsiseg.annotations._outlines import Outline, read_outline
from wsiseg.annotations._rules import RULES
from wsiseg.annotations.base import Frame
from wsiseg.annotations.drawing import UNCLASSIFIED, Drawing, ellipse_outline
from wsiseg.errors import AnnotationError

__all__ = [
    "NO_ANNOTATIONS",
    "TYPE_KEYS",
    "class_name_of",
    "features_of",
    "open_whole",
    "outline_of",
    "read_qupath",
]

MAX_BYTES = 1 << 30
FATAL = frozenset({"coordinates", "geometry", "plane", "ring-open", "ring-short"})
"""Findings that leave an outline unknown; QuPath refuses these, too."""

NO_ANNOTATIONS: Mapping[str, str] = {
    "tmaCore": "TMA cores",
    "tma_core": "TMA cores",
    "TMACoreObject": "TMA cores",
    "root": "root objects",
    "PathRootObject": "root objects",
}
"""Object types that nobody drew as a label."""

TYPE_KEYS = ("objectType", "object_type", "type")


def read_qupath(path: Path) -> Drawing:
    """Read GeoJSON: a FeatureCollection, a Feature, a geometry or an array of them, also nested.

    Raises
    ------
    AnnotationError
        If the file cannot be read, or an object has an outline that cannot be known or lies in
        another plane than the first; the message names the object.
    """
    drawing = Drawing(path, frame="qupath")
    for document in open_whole(path):
        _add_document(drawing, document)
    return drawing


def open_whole(path: Path) -> Iterator[Document]:
    """Yield the JSON texts of a file, all of which have to be readable.

    Raises
    ------
    AnnotationError
        If one is not, or the ending is none of GeoJSON.
    """
    for document in open_documents(path, max_bytes=MAX_BYTES):
        if document.trouble == "ignored-entry":
            continue
        if document.trouble is not None:
            raise AnnotationError(
                f"{path}: needed GeoJSON (.geojson, .json, each also .gz, or .zip) of at most "
                f"{MAX_BYTES} bytes, found {document.detail}; export it anew"
            )
        yield document


def _add_document(drawing: Drawing, document: Document) -> None:
    place = "" if document.entry is None else f"{document.entry}, "
    try:
        walk = JsonWalk(document.content.decode("utf-8-sig"))
        items: list[None] = []
        for position, feature in enumerate(features_of(walk, items)):
            _add(drawing, feature, f"{place}feature {position}")
    except AnnotationError:
        raise
    except (ValueError, RecursionError) as error:
        raise AnnotationError(
            f"{drawing.path}: {place}not GeoJSON: {error}; export it anew"
        ) from error
    is_collection = walk.members is None or walk.members.get("type") == "FeatureCollection"
    drawing.is_list = drawing.is_list and is_collection and not items
    drawing.is_list = drawing.is_list and bool(document.content.strip())
    about = (walk.members or {}).get("wsiseg")
    if isinstance(about, dict):
        _take_header(drawing, about)


def features_of(walk: JsonWalk, items: list[None] | None = None) -> Iterator[object]:
    """Yield the Features of a text, whatever they are wrapped in; `items` grows with its list."""
    for _, item in walk:
        if items is not None:
            items.append(None)
        yield from _unwrapped(item)
    members = walk.members or {}
    if members and members.get("type") != "FeatureCollection":
        yield from _unwrapped(members)


def _unwrapped(item: object) -> Iterator[object]:
    if isinstance(item, list):
        for value in item:
            yield from _unwrapped(value)
    elif isinstance(item, dict) and item.get("type") == "FeatureCollection":
        features = item.get("features")
        yield from features if isinstance(features, list) else []
    elif isinstance(item, dict) and item.keys() & {"coordinates", "geometries"}:
        yield {"type": "Feature", "geometry": item}
    elif isinstance(item, dict) and item.get("type") != "Feature" and "geometry" not in item:
        return  # some other JSON; the file then counts as empty
    else:
        yield item


def _add(drawing: Drawing, feature: object, where: str) -> None:
    """Add an object and its children."""
    properties = feature.get("properties") if isinstance(feature, dict) else None
    properties = {} if properties is None else properties
    if not isinstance(feature, dict) or not isinstance(properties, dict):
        raise AnnotationError(f"{drawing.path}: {where}: not a Feature object; remove it")
    shown = properties.get("name") or feature.get("id")
    where = f"{where} ({shown!r})" if isinstance(shown, str) else where  # so found in QuPath
    kinds = (properties[key] for key in TYPE_KEYS if key in properties)
    kind = str(next(kinds, feature.get("id")))  # QuPath 0.2 wrote the type as id
    if kind in NO_ANNOTATIONS:
        drawing.left_out[NO_ANNOTATIONS[kind]] += 1
    else:
        place = f"{drawing.path}: {where}"
        outline = outline_of(feature.get("geometry"), place)
        name = class_name_of(properties.get("classification"), place)
        _add_outline(drawing, name, outline, where)
    children = properties.get("childObjects", properties.get("children"))
    for number, child in enumerate(children if isinstance(children, list) else []):
        _add(drawing, child, f"{where}, child {number}")


def outline_of(geometry: object, where: str) -> Outline:
    def found(code: str, detail: str) -> None:
        if code in FATAL:
            raise AnnotationError(f"{where}: {RULES[code].what} ({detail}); {RULES[code].remedy}")

    outline = read_outline(geometry, found)
    plane = geometry.get("plane", {}) if isinstance(geometry, dict) else {}
    elsewhere = {axis: plane[axis] for axis in "zt" if _gson.as_double(plane.get(axis, 0))}
    if elsewhere:
        raise AnnotationError(
            f"{where}: lies in plane {elsewhere}, needed z = 0 and t = 0: a slide has one plane "
            "here; move the object, or remove it"
        )
    return cast("Outline", outline)  # None only after a fatal finding


def _add_outline(drawing: Drawing, name: str, outline: Outline, where: str) -> None:
    if outline.kind == "point":
        for part in outline.parts:
            for xy in part:
                drawing.add_points(name, xy)
    elif outline.kind == "line":
        drawing.left_out["lines"] += 1
    elif outline.is_ellipse and any(outline.parts):
        drawing.add_area(name, [[ellipse_outline(outline.parts[0][0])]], where)
    else:
        drawing.add_area(name, outline.parts, where)


def class_name_of(value: object, where: str) -> str:
    """Return the name of a class as QuPath shows it; derived classes are `A: B`."""
    if isinstance(value, dict):
        value = value.get("names") if value.get("name") is None else value["name"]
    if value is None or value == []:
        return UNCLASSIFIED
    parts = value if isinstance(value, list) else [value]
    texts = [_gson.as_string(part) for part in parts]
    if None in texts:
        raise AnnotationError(
            f"{where}: its classification has no name that is text ({value!r}); export it anew"
        )
    names = [_gson.strip(part) for text in texts for part in (text or "").split(":")]
    return ": ".join(name for name in names if name) or UNCLASSIFIED


def _take_header(drawing: Drawing, about: Mapping[str, Any]) -> None:
    """Take what files of wsiseg say of themselves."""
    frame: Frame = "level0" if about.get("frame") == "level0" else "qupath"
    drawing.frame = frame
    drawing.says_empty = about.get("empty") is True
    height, width = about.get("level0_height"), about.get("level0_width")
    if isinstance(height, int) and isinstance(width, int):
        drawing.level0_shape = (height, width)
    height, width = about.get("image_height"), about.get("image_width")
    if isinstance(height, int) and isinstance(width, int):
        drawing.image_shape = (height, width)
