"""What QuPath makes of everything in a Feature but its outline."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from wsiseg.annotations import _gson
from wsiseg.annotations._rules import Found

__all__ = ["AttributeReader", "Attributes"]

Rgb = tuple[int, int, int]

TYPES = {
    "annotation": "annotation",
    "detection": "detection",
    "tile": "tile",
    "cell": "cell",
    "tmaCore": "tmaCore",
    "tma_core": "tmaCore",
    "root": "root",
    "PathAnnotationObject": "annotation",
    "PathDetectionObject": "detection",
    "PathTileObject": "tile",
    "PathCellObject": "cell",
    "TMACoreObject": "tmaCore",
    "PathRootObject": "root",
    "unknown": "annotation",
}
OLD_TYPE_IDS = frozenset(name for name in TYPES if name.endswith("Object"))
FEATURE_KEYS = frozenset({"type", "id", "geometry", "nucleusGeometry", "properties", "bbox"})
TYPE_KEYS = ("objectType", "object_type", "type")
READ_KEYS = frozenset(TYPE_KEYS) | {
    "childObjects",
    "children",
    "classification",
    "color",
    "isLocked",
    "isMissing",
    "measurements",
    "metadata",
    "name",
    "nucleusGeometry",
}

PLAIN_KEYS = frozenset({"type", "id", "geometry", "properties"})
MAX_KNOWN = 1_000
"""Properties remembered, which are classes rather than objects."""

FLOAT32_MAX = float(np.finfo(np.float32).max)
NOT_FINITE = {"nan": math.nan, "inf": math.inf, "infinity": math.inf}


@dataclass(slots=True)
class Attributes:
    """An object as QuPath would have it, outline aside."""

    id: str | None = None
    object_type: str = "annotation"
    class_name: str | None = None
    class_color: Rgb | None = None
    nan_measurements: int = 0
    children: list[Any] = field(default_factory=list)


class AttributeReader:
    """Reads the Features of a file, which mostly differ in id and measurements alone.

    Other properties that are as they should be are remembered and not read again.
    """

    def __init__(self) -> None:
        self._known: dict[str, Attributes] = {}

    def read(self, feature: Mapping[str, Any], found: Found) -> Attributes:
        """Return what QuPath reads from a Feature; report what it refuses, changes or ignores."""
        attributes = Attributes()
        old_type = _read_id(feature, attributes, found)
        properties = feature.get("properties")
        if old_type or not isinstance(properties, dict) or not feature.keys() <= PLAIN_KEYS:
            _read_rest(feature, old_type, attributes, found)
            return attributes
        key = repr([item for item in properties.items() if item[0] != "measurements"])
        known = self._known.get(key)
        if known is not None:
            attributes.object_type = known.object_type
            attributes.class_name, attributes.class_color = known.class_name, known.class_color
            _read_measurements(properties, attributes, found)
            return attributes
        faults = 0

        def counted(code: str, detail: str) -> None:
            nonlocal faults
            faults += 1
            found(code, detail)

        _read_rest(feature, old_type, attributes, counted)
        if not faults and not attributes.children and len(self._known) < MAX_KNOWN:
            self._known[key] = attributes
        return attributes


def _read_rest(
    feature: Mapping[str, Any], old_type: str | None, attributes: Attributes, found: Found
) -> None:
    """Read everything but the id."""
    for key in sorted(feature.keys() - FEATURE_KEYS):
        found("key-ignored", repr(key))
    properties = feature.get("properties", {})
    if not isinstance(properties, dict):
        found("properties", _show(properties))
        return
    _read_type(properties, old_type, attributes, found)
    _read_name(properties, found)
    _read_color(properties, found)
    if "classification" in properties:
        _read_class(properties["classification"], attributes, found)
    _read_flags(properties, found)
    _read_measurements(properties, attributes, found)
    _read_metadata(properties, attributes, found)
    key = "childObjects" if "childObjects" in properties else "children"
    if isinstance(properties.get(key), list):
        attributes.children = properties[key]
    elif key in properties:
        found("key-ignored", f"{key!r} is not a list")
    for key in sorted(properties.keys() - READ_KEYS):
        found("key-ignored", repr(key))
    if "nucleusGeometry" in properties:
        found("nucleus-ignored", "inside properties")
    elif "nucleusGeometry" in feature and attributes.object_type != "cell":
        found("nucleus-ignored", f"objectType {attributes.object_type}")


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _read_id(feature: Mapping[str, Any], attributes: Attributes, found: Found) -> str | None:
    """Read the id; return it where it is an object type, as in QuPath 0.2."""
    if "id" not in feature:
        found("id-missing", "")
        return None
    text = _gson.as_string(feature["id"])
    if text is None:
        found("id", _show(feature["id"]))
        return None
    attributes.id = _gson.as_uuid(text)
    if attributes.id is None:
        found("id-not-uuid", _show(text))
    elif attributes.id != text:
        found("id-respelled", text)
    return text if text in OLD_TYPE_IDS else None


def _read_type(
    properties: Mapping[str, Any], old_type: str | None, attributes: Attributes, found: Found
) -> None:
    keys = [key for key in TYPE_KEYS if key in properties]
    if not keys:
        attributes.object_type = TYPES[old_type or "annotation"]
        return
    if len(keys) > 1:
        found("key-duplicate-alias", ", ".join(keys))
    if keys[0] != "objectType":
        found("object-type-alias", repr(keys[0]))
    text = _gson.as_string(properties[keys[0]])
    if text is None:
        found("object-type", _show(properties[keys[0]]))
        return
    attributes.object_type = TYPES.get(text, "annotation")
    if text not in TYPES or text == "unknown":
        found("object-type-unknown", _show(text))
    elif text in OLD_TYPE_IDS:
        found("object-type-alias", repr(text))
    if attributes.object_type in {"tmaCore", "root"}:
        found("object-type-special", repr(text))


def _read_name(properties: Mapping[str, Any], found: Found) -> None:
    if "name" not in properties or isinstance(properties["name"], str):
        return
    text = _gson.as_string(properties["name"])
    found("name" if text is None else "name-not-text", _show(properties["name"]))


def _read_color(properties: Mapping[str, Any], found: Found) -> None:
    color = properties.get("color", [0, 0, 0])
    if _gson.is_primitive(color):
        if _gson.as_int(color) is None:
            found("color", _show(color))
    elif isinstance(color, list) and len(color) == 3:
        _read_rgb(color, found, fault="color")
    else:
        found("color-ignored", _show(color))


def _read_rgb(values: list[Any], found: Found, *, fault: str) -> Rgb | None:
    numbers = [_gson.as_int(value) for value in values]
    if any(number is None for number in numbers):
        found(fault, _show(values))
        return None
    kept = [(number or 0) & 0xFF for number in numbers]
    if kept != values:
        found("color-wraps", f"{values} becomes {kept}")
    return kept[0], kept[1], kept[2]


def _read_class(value: object, attributes: Attributes, found: Found) -> None:
    if value is None:
        return
    if isinstance(value, str):
        _name_class(value.split(":"), None, attributes, found)
    elif not isinstance(value, dict):
        found("class", _show(value))
    elif not value or "colorRGB" in value or "parentClass" in value:
        _read_old_class(value, attributes, found)
    elif "color" in value and ("name" in value or "names" in value):
        _read_new_class(value, attributes, found)
    else:
        found("class", f"{_show(value)} lacks name or color")


def _read_old_class(value: Mapping[str, Any], attributes: Attributes, found: Found) -> None:
    """Read a class as QuPath up to 0.3 wrote it; its name is not checked."""
    packed = value.get("colorRGB")
    color = None if packed is None else _gson.as_int(packed)
    if packed is not None and color is None:
        found("class-color", _show(packed))
    name = _gson.as_string(value.get("name"))
    if name is None:
        if value:
            found("class-without-name", _show(value))
        return
    attributes.class_name = _gson.strip(name)
    if color is not None:
        attributes.class_color = (color >> 16 & 0xFF, color >> 8 & 0xFF, color & 0xFF)


def _read_new_class(value: Mapping[str, Any], attributes: Attributes, found: Found) -> None:
    color = value["color"]
    rgb: Rgb | None = None
    if isinstance(color, list) and len(color) in {3, 4}:
        rgb = _read_rgb(color, found, fault="class-color")
    elif isinstance(color, list) and len(color) == 1 and _gson.as_int(color[0]) is not None:
        packed = _gson.as_int(color[0]) or 0
        rgb = (packed >> 16 & 0xFF, packed >> 8 & 0xFF, packed & 0xFF)
    elif color is not None and color != []:
        found("class-color", _show(color))
    name, names = value.get("name"), value.get("names")
    if name is not None:
        text = _gson.as_string(name)
        if text is None or isinstance(name, list):
            found("class-name", _show(name))
        else:
            _name_class(text.split(":"), rgb, attributes, found)
    elif isinstance(names, list) and names:
        texts = [_gson.as_string(item) for item in names]
        if any(text is None or ":" in text for text in texts):
            found("class-name", _show(names))
        else:
            _name_class([text or "" for text in texts], rgb, attributes, found, trailing=True)
    elif names is None or names == []:
        found("class-without-name", _show(value))
    else:
        found("class-name", _show(names))


def _name_class(
    parts: list[str],
    rgb: Rgb | None,
    attributes: Attributes,
    found: Found,
    *,
    trailing: bool = False,
) -> None:
    """Name the class after its parts; empty ones at the end of split text do not count in Java."""
    written = list(parts)
    while not trailing and len(parts) > 1 and parts[-1] == "":
        parts = parts[:-1]
    names = [_gson.strip(part) for part in parts]
    if names == [""] and len(written) > 1:
        found("class-without-name", repr(":".join(written)))
        return
    if not all(names) or any("\n" in name or "\r" in name for name in names):
        found("class-name", repr(":".join(written)))
        return
    attributes.class_name = ": ".join(names)
    attributes.class_color = rgb
    spaced = [part[1:] if i and part.startswith(" ") else part for i, part in enumerate(parts)]
    if spaced != names or parts != written:
        found("class-stripped", repr(":".join(written)))


def _read_flags(properties: Mapping[str, Any], found: Found) -> None:
    for key in ("isLocked", "isMissing"):
        if key in properties and not isinstance(properties[key], bool):
            value = properties[key]
            read = _gson.is_primitive(value) and _gson.as_boolean(value)
            found("locked", f"{key} {_show(value)} is read as {str(read).lower()}")


def _read_measurements(properties: Mapping[str, Any], attributes: Attributes, found: Found) -> None:
    values = properties.get("measurements", {})
    if isinstance(values, dict):
        numbers = values.values()
        if {*map(type, numbers)} <= {float, int} and all(abs(v) <= FLOAT32_MAX for v in numbers):
            return
        for name, value in values.items():
            _read_measurement(name, value, attributes, found)
    elif isinstance(values, list):
        for item in values:
            _read_listed_measurement(item, attributes, found)
    else:
        found("measurements-ignored", _show(values))


def _read_measurement(name: str, value: object, attributes: Attributes, found: Found) -> None:
    """Read one entry of a map."""
    shown = f"{name!r}: {_show(value)}"
    if isinstance(value, bool) or not _gson.is_primitive(value):
        found("measurement-0.4", shown)
        found("measurement-skipped", shown)
        return
    number = _gson.as_double(value)
    if isinstance(value, str):
        number = NOT_FINITE.get(value.strip().lower().lstrip("+-"), number)
        if number is None:
            found("measurement-text", shown)
            return
        found("measurement-as-text", shown)
    if number is not None and (isinstance(value, str) or not math.isfinite(number)):
        found("measurement-0.4", shown)
    _judge_number(number, shown, attributes, found)


def _read_listed_measurement(item: object, attributes: Attributes, found: Found) -> None:
    """Read one entry of a list of {name, value}, as QuPath up to 0.3 wrote it."""
    if not isinstance(item, dict) or _gson.as_string(item.get("name")) is None:
        found("measurement-text", _show(item))
        return
    number = _gson.as_double(item.get("value"))
    if number is None:
        found("measurement-text", _show(item))
        return
    if not isinstance(item["value"], int | float):
        found("measurement-as-text", _show(item))
    _judge_number(number, _show(item), attributes, found)


def _judge_number(number: float | None, shown: str, attributes: Attributes, found: Found) -> None:
    if number is not None and not abs(number) <= FLOAT32_MAX:
        attributes.nan_measurements += math.isnan(number)
        found("measurement-not-finite", shown)


def _read_metadata(properties: Mapping[str, Any], attributes: Attributes, found: Found) -> None:
    metadata = properties.get("metadata", {})
    if not isinstance(metadata, dict):
        found("metadata-dropped", _show(metadata))
        return
    for key, value in metadata.items():
        if not _gson.is_primitive(value):
            found("metadata-dropped", f"{key!r}: {_show(value)}")
    if metadata and attributes.object_type != "annotation":
        found("metadata-0.5", f"of a {attributes.object_type}")
