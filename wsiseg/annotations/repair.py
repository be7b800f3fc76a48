"""GeoJSON that QuPath would refuse or change, mended where it is plain what was meant."""

import gzip
import json
import math
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from wsiseg.annotations import _gson
from wsiseg.annotations._attributes import TYPES
from wsiseg.annotations._documents import JsonWalk, open_documents
from wsiseg.annotations._mend_outline import LostError, mended_geometry
from wsiseg.annotations._read_qupath import TYPE_KEYS, features_of
from wsiseg.annotations.columns import clean_name, usual_color
from wsiseg.errors import AnnotationError
from wsiseg.files import write_whole

__all__ = ["Change", "FixReport", "fix_geojson"]

MAX_BYTES = 1 << 30
NAMESPACE = uuid.UUID("7a5bb1c5-6f0e-5d0d-9f1b-2f7c2f6f5a11")
"""Of ids that are made: the same file gets the same ids."""

Note = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Change:
    """What was done to an object."""

    index: int
    """Position of its feature in the file, from 0."""

    id: str | None
    """As it stands in the file."""

    what: str

    def __str__(self) -> str:
        name = f" ({self.id})" if self.id else ""
        return f"feature {self.index}{name}: {self.what}"


@dataclass(frozen=True, slots=True)
class FixReport:
    """A file that was written, and how it differs."""

    path: Path
    objects: int
    removed: int
    """Features that stood for nothing QuPath could show."""

    changes: tuple[Change, ...]


def fix_geojson(path: Path | str, out: Path | str) -> FixReport:
    """Write a GeoJSON file as QuPath 0.5 to 0.8 read it alike, and tell what was changed.

    Mended is what has one plain meaning: rings that are not closed, outlines that cross themselves
    (split where they cross, holes kept), numbers that are text or not finite, ids that are missing,
    taken or no UUID, classes without colour, old spellings. What cannot be shown is removed. Keys
    that QuPath does not read stay.

    Parameters
    ----------
    path
        `.geojson`, `.json`, each also `.gz`; any other ending is read as the first.
    out
        The file to write, another one.

    Raises
    ------
    AnnotationError
        If it cannot be read, is no JSON, or holds no object: that cannot be mended.
    """
    path, out = Path(path), Path(out)
    if out.resolve() == path.resolve():
        raise AnnotationError(f"{path}: is not mended in place; name another file (out=)")
    walk = JsonWalk(_text(path))
    mender = _Mender()
    try:
        features = [
            f for i, feature in enumerate(features_of(walk)) for f in mender.mend(i, feature)
        ]
    except (ValueError, RecursionError) as error:
        raise AnnotationError(f"{path}: not one JSON text: {error}; it cannot be mended") from error
    if not features:
        raise AnnotationError(f"{path}: no object that QuPath could show; it cannot be mended")
    members = walk.members if (walk.members or {}).get("type") == "FeatureCollection" else None
    collection = {"type": "FeatureCollection", **(members or {}), "features": features}
    try:
        content = orjson.dumps(collection)
    except orjson.JSONEncodeError as error:  # whole numbers of more than 64 bits
        raise AnnotationError(f"{path}: {error}; it cannot be mended") from error
    write_whole(out, gzip.compress(content, mtime=0) if out.suffix == ".gz" else content)
    return FixReport(out, len(features), mender.removed, tuple(mender.changes))


def _text(path: Path) -> str:
    # The ending decides for QuPath what it reads; for a file to be mended its content does.
    named = path if path.name.lower().endswith((".gz", ".json", ".geojson")) else None
    documents = list(open_documents(path, max_bytes=MAX_BYTES)) if named else []
    if named and (len(documents) != 1 or documents[0].trouble):
        detail = documents[0].detail if documents else "nothing"
        raise AnnotationError(f"{path}: cannot be mended: {detail}")
    try:
        content = documents[0].content if documents else path.read_bytes()
    except OSError as error:
        raise AnnotationError(f"{path}: cannot be read: {error.strerror}") from error
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("latin-1")


class _Mender:
    """Mends features one by one; knows the ids and class colours so far."""

    def __init__(self) -> None:
        self.changes: list[Change] = []
        self.removed = 0
        self._ids: set[str] = set()
        self._colors: dict[str, list[int]] = {}

    def mend(self, index: int, feature: object) -> Iterator[dict[str, Any]]:
        """Yield the feature, if anything is left of it."""
        known = feature.get("id") if isinstance(feature, Mapping) else None
        shown = known if isinstance(known, str) else None

        def note(what: str) -> None:
            change = Change(index, shown, what)
            if change not in self.changes[-8:]:  # once for all rings of an object
                self.changes.append(change)

        try:
            yield self._mended(feature, note)
        except LostError as why:
            self.removed += 1
            note(f"removed: {why}")

    def _mended(self, feature: object, note: Note) -> dict[str, Any]:
        if not isinstance(feature, Mapping):
            raise LostError("no Feature")
        result = dict(feature)
        if result.get("type") != "Feature":
            note("wrapped in a Feature")
        result["type"] = "Feature"
        result["geometry"] = mended_geometry(feature.get("geometry"), note)
        properties = feature.get("properties", {})
        if not isinstance(properties, Mapping):
            note("properties that were no object left out")
            properties = {}
        result["properties"] = self._properties(dict(properties), note)
        _mend_nucleus(result, note)
        result["id"] = self._id(result, note)
        return result

    def _id(self, feature: dict[str, Any], note: Note) -> str:
        given = feature.get("id")
        known = _gson.as_uuid(given) if isinstance(given, str) else None
        if known is not None and known not in self._ids:
            if known != given:
                note(f"id spelled {known}")
        else:
            rest = {key: value for key, value in feature.items() if key != "id"}
            text = json.dumps([given, rest], sort_keys=True)  # of any size, unlike orjson
            number = 0
            while known is None or known in self._ids:
                known = str(uuid.uuid5(NAMESPACE, f"{number} {text}"))
                number += 1
            note(
                f"id {str(given)[:40]!r} became {known}" if "id" in feature else f"id {known} added"
            )
        self._ids.add(known)
        return known

    def _properties(self, properties: dict[str, Any], note: Note) -> dict[str, Any]:
        _mend_type(properties, note)
        name = properties.get("name", "")
        if not isinstance(name, str):
            note(f"name {str(name)[:40]} {'left out' if name is None else 'written as text'}")
            properties["name"] = str(name)
            if name is None or isinstance(name, dict | list):
                del properties["name"]
        for key, usable in (("isLocked", bool), ("isMissing", bool)):
            if key in properties and not isinstance(properties[key], usable):
                note(f"{key} {str(properties.pop(key))[:20]} left out")
        if "color" in properties and not _is_rgb(properties["color"]):
            note(f"color {str(properties.pop('color'))[:40]} left out")
        if "classification" in properties:
            self._mend_class(properties, note)
        if "measurements" in properties:
            properties["measurements"] = _measurements(properties["measurements"], note)
        if "metadata" in properties:
            properties["metadata"] = _metadata(properties["metadata"], note)
        for key in ("childObjects", "children"):
            if key in properties:
                children = properties[key] if isinstance(properties[key], list) else []
                properties[key] = [one for child in children for one in self._child(child, note)]
        return properties

    def _child(self, child: object, note: Note) -> Iterator[dict[str, Any]]:
        try:
            yield self._mended(child, lambda what: note(f"child: {what}"))
        except LostError as why:
            self.removed += 1
            note(f"child removed: {why}")

    def _mend_class(self, properties: dict[str, Any], note: Note) -> None:
        """Write the class as {name, color}; one colour per class."""
        given = properties.pop("classification")
        if given is None:
            return
        color: object = None
        if isinstance(given, Mapping):
            names = given.get("names")
            joined = ": ".join(map(str, names)) if isinstance(names, list) else None
            text, color = given.get("name", joined), given.get("color", given.get("colorRGB"))
        else:
            text = given
        name = clean_name(text) if isinstance(text, str) else None
        if name is None:
            note(f"class {str(given)[:40]} left out")
            return
        first = self._colors.get(name)
        mended = first or _rgb(color) or list(usual_color(name, len(self._colors)))
        self._colors[name] = mended
        properties["classification"] = {"name": name, "color": mended}
        if properties["classification"] != given:
            note(f"class {str(given)[:60]} became {name} {mended}")


def _mend_nucleus(feature: dict[str, Any], note: Note) -> None:
    """Put a cell's nucleus beside its outline, where QuPath looks for it."""
    properties = feature["properties"]
    if "nucleusGeometry" in properties:
        feature.setdefault("nucleusGeometry", properties.pop("nucleusGeometry"))
        note("nucleusGeometry moved beside geometry")
    if "nucleusGeometry" not in feature:
        return
    nucleus = feature.pop("nucleusGeometry")
    if properties.get("objectType") != "cell":
        note("nucleusGeometry left out: only cells have one")
        return
    try:
        feature["nucleusGeometry"] = mended_geometry(nucleus, note)
    except LostError as why:
        note(f"nucleusGeometry left out: {why}")


def _mend_type(properties: dict[str, Any], note: Note) -> None:
    if not (given := [properties[key] for key in TYPE_KEYS if key in properties]):
        return
    kind = TYPES.get(str(given[0]), "annotation") if isinstance(given[0], str) else "annotation"
    if str(given[0]) in ("tmaCore", "tma_core"):
        kind = "tmaCore"
    if properties.get("objectType") != kind or len(given) > 1:
        note(f"object type {str(given[0])[:40]!r} became {kind!r}")
    for key in TYPE_KEYS:
        properties.pop(key, None)
    properties["objectType"] = kind


def _measurements(values: object, note: Note) -> dict[str, float]:
    """Return a map of finite numbers."""
    if isinstance(values, Mapping):
        pairs = list(values.items())
    else:
        note("measurements written as a map")
        items = (
            [item for item in values if isinstance(item, Mapping)]
            if isinstance(values, list)
            else []
        )
        pairs = [(item.get("name"), item.get("value")) for item in items]
    found = {}
    for name, value in pairs:
        number = None if isinstance(value, bool) else _gson.as_double(value)
        if not isinstance(name, str) or number is None or not math.isfinite(number):
            note(f"measurement {str(name)[:40]} {str(value)[:20]} left out")
            continue
        if isinstance(value, str):
            note(f"measurement {name[:40]} written as number")
        found[name] = value if isinstance(value, int | float) else number
    return found


def _metadata(values: object, note: Note) -> dict[str, str]:
    """Return a map of texts."""
    if not isinstance(values, Mapping):
        note("metadata that was no map left out")
        return {}
    found = {}
    for name, value in values.items():
        if value is None or isinstance(value, Mapping | list):
            note(f"metadata {str(name)[:40]} left out")
        else:
            found[str(name)] = value if isinstance(value, str) else _gson.as_string(value) or ""
    return found


def _is_rgb(value: object) -> bool:
    return (
        isinstance(value, list)
        and len(value) == 3
        and all(type(one) is int and 0 <= one <= 255 for one in value)
    )


def _rgb(value: object) -> list[int] | None:
    """Return what a colour of QuPath's old or new spelling, or of the web, says."""
    if isinstance(value, list) and len(value) in (3, 4) and _is_rgb(value[:3]):
        return value[:3]
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if type(value) is int and -(1 << 31) <= value < 1 << 31:  # packed, as QuPath up to 0.2 wrote it
        return [value >> shift & 0xFF for shift in (16, 8, 0)]
    if isinstance(value, str) and value.startswith("#") and len(value) == 7:
        try:
            return list(bytes.fromhex(value[1:]))
        except ValueError:
            return None
    return None
