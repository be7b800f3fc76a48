"""Each rule of the verifier, on cases made for it: what QuPath 0.4, 0.5 and 0.6 do."""

import copy
import gzip
import json
import math
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.annotations import verify_geojson
from wsiseg.annotations._rules import RULES
from wsiseg.errors import AnnotationError

ID = "6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e0001"
SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def polygon(*rings) -> dict:
    return {"type": "Polygon", "coordinates": list(rings) or [SQUARE]}


def multipolygon(*parts) -> dict:
    return {"type": "MultiPolygon", "coordinates": list(parts)}


def moved(ring, x, y) -> list:
    return [[a + x, b + y] for a, b in ring]


def feature(geometry=None, *, name=ID, **properties) -> dict:
    return {
        "type": "Feature",
        "id": name,
        "geometry": geometry or polygon(),
        "properties": {"objectType": "annotation"} | properties,
    }


def classified(value: Any) -> dict:
    return feature(classification=value)


def measured(values: Any) -> dict:
    return feature(measurements=values)


def without(key: str) -> dict:
    return {k: v for k, v in feature().items() if k != key}


def collection(*features, **members) -> dict:
    return {"type": "FeatureCollection", **members, "features": list(features)}


def verify(tmp_path: Path, value: Any, name: str = "a.geojson"):
    path = tmp_path / name
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return verify_geojson(path)


ALL = ("0.4", "0.5", "0.6")
NEW = ("0.6",)
OLD = ("0.4", "0.5")
NOBODY = ()

# Feature -> (code, verdict, readers that lose the file over it)
CASES: dict[str, tuple[Any, str | None, str, tuple[str, ...]]] = {
    "clean": (feature(), None, "clean", NOBODY),
    # outlines
    "crossing in a hole": (
        feature(polygon(SQUARE, [[2, 2], [8, 8], [8, 2], [2, 8], [2, 2]])),
        "crossing",
        "error",
        NEW,
    ),
    "overlapping parts": (
        feature(multipolygon([SQUARE], [moved(SQUARE, 5, 5)])),
        "crossing",
        "error",
        NEW,
    ),
    "part inside a part": (
        feature(multipolygon([SQUARE], [[[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]])),
        "invalid",
        "error",
        NOBODY,
    ),
    "parts touching at a point": (
        feature(multipolygon([SQUARE], [moved(SQUARE, 10, 10)])),
        None,
        "clean",
        NOBODY,
    ),
    "parts sharing half an edge": (
        feature(multipolygon([SQUARE], [moved(SQUARE, 10, 5)])),
        "invalid-0.5",
        "error",
        NOBODY,
    ),
    "holes sharing an edge": (
        feature(
            polygon(
                [[0, 0], [90, 0], [90, 90], [0, 90], [0, 0]],
                [[10, 10], [20, 10], [20, 20], [10, 20], [10, 10]],
                [[20, 10], [30, 10], [30, 20], [20, 20], [20, 10]],
            )
        ),
        "invalid-0.5",
        "error",
        NOBODY,
    ),
    "corners touching in one ring": (
        feature(
            polygon(
                [[0, 0], [10, 0], [10, 10], [20, 10], [20, 20], [10, 20], [10, 10], [0, 10], [0, 0]]
            )
        ),
        "repaired",
        "warning",
        NOBODY,
    ),
    "hole touching the shell": (
        feature(polygon(SQUARE, [[0, 5], [5, 3], [5, 7], [0, 5]])),
        None,
        "clean",
        NOBODY,
    ),
    "spike": (
        feature(polygon([[0, 0], [10, 0], [10, 5], [30, 5], [10, 5], [0, 10], [0, 0]])),
        "repaired",
        "warning",
        NOBODY,
    ),
    "repeated vertex": (
        feature(polygon([[0, 0], [10, 0], [10, 0], [10, 10], [0, 0]])),
        "vertices-repeated",
        "warning",
        NOBODY,
    ),
    "neck below a hundredth": (
        feature(
            polygon(
                [
                    [0, 0],
                    [10, 0],
                    [10, 5],
                    [20, 5],
                    [20, 0],
                    [30, 0],
                    [30, 10],
                    [20, 10],
                    [20, 5.003],
                    [10, 5.003],
                    [10, 10],
                    [0, 10],
                    [0, 0],
                ]
            )
        ),
        "rounding",
        "warning",
        NOBODY,
    ),
    "hole below a hundredth": (
        feature(polygon(SQUARE, [[5, 5], [5.004, 5], [5.004, 5.004], [5, 5]])),
        "rounding",
        "warning",
        NOBODY,
    ),
    "more decimals": (
        feature(polygon([[0, 0], [10.12345, 0], [10, 10], [0, 0]])),
        "rounded",
        "clean",
        NOBODY,
    ),
    "three vertices": (feature(polygon([[0, 0], [5, 5], [0, 0]])), "empty", "error", NOBODY),
    "on one line": (feature(polygon([[0, 0], [5, 5], [9, 9], [0, 0]])), "empty", "error", NOBODY),
    "no rings": (feature({"type": "Polygon", "coordinates": []}), "empty", "error", NOBODY),
    "no parts": (feature(multipolygon()), "empty", "error", NOBODY),
    "empty ring": (feature(polygon([])), "empty", "error", NOBODY),
    "empty hole": (feature(polygon(SQUARE, [])), None, "clean", NOBODY),
    "hole without shell": (feature(polygon([], SQUARE)), "ring-short", "error", ALL),
    "hole of the whole shell": (feature(polygon(SQUARE, SQUARE)), "empty", "error", NOBODY),
    "no points": (feature({"type": "MultiPoint", "coordinates": []}), "empty", "error", NOBODY),
    "a line to itself": (
        feature({"type": "LineString", "coordinates": [[1, 1], [1, 1]]}),
        "empty",
        "error",
        NOBODY,
    ),
    "one part": (feature(multipolygon([SQUARE])), "multipolygon-single", "error", OLD),
    "one line": (
        feature({"type": "MultiLineString", "coordinates": [[[0, 0], [1, 1]]]}),
        "multiline-single",
        "warning",
        NOBODY,
    ),
    "open": (feature(polygon(SQUARE[:-1])), "ring-open", "error", ALL),
    "almost closed": (feature(polygon([*SQUARE[:-1], [0, 1e-9]])), "ring-open", "error", ALL),
    "open hole": (feature(polygon(SQUARE, [[1, 1], [2, 1], [2, 2]])), "ring-open", "error", ALL),
    "two vertices": (feature(polygon([[0, 0], [0, 0]])), "ring-short", "error", ALL),
    "one vertex": (feature(polygon([[0, 0]])), "ring-short", "error", ALL),
    "line of one": (
        feature({"type": "LineString", "coordinates": [[0, 0]]}),
        "ring-short",
        "error",
        ALL,
    ),
    "NaN": (feature(polygon([[0, 0], [math.nan, 0], [5, 8], [0, 0]])), "not-finite", "error", NEW),
    "infinite": (
        feature(polygon([[0, 0], [math.inf, 0], [5, 8], [0, 0]])),
        "not-finite",
        "error",
        NEW,
    ),
    "geometry null": (feature() | {"geometry": None}, "geometry", "error", ALL),
    "geometry empty": (feature() | {"geometry": {}}, "geometry", "error", ALL),
    "geometry a list": (feature() | {"geometry": [1]}, "geometry", "error", ALL),
    "geometry missing": (without("geometry"), "geometry", "error", ALL),
    "unknown geometry": (
        feature({"type": "Circle", "coordinates": [0, 0]}),
        "geometry",
        "error",
        ALL,
    ),
    "geometry in lower case": (
        feature({"type": "polygon", "coordinates": [SQUARE]}),
        "geometry",
        "error",
        ALL,
    ),
    "no coordinates": (feature({"type": "Polygon"}), "coordinates", "error", ALL),
    "coordinates null": (
        feature({"type": "Polygon", "coordinates": None}),
        "coordinates",
        "error",
        ALL,
    ),
    "coordinates too flat": (feature(polygon([0, 0])), "coordinates", "error", ALL),
    "coordinate null": (
        feature(polygon([[0, 0], [None, 1], [1, 1], [0, 0]])),
        "coordinates",
        "error",
        ALL,
    ),
    "coordinate boolean": (
        feature(polygon([[0, 0], [True, 1], [1, 1], [0, 0]])),
        "coordinates",
        "error",
        ALL,
    ),
    "coordinate alone": (
        feature(polygon([[0, 0], [1], [1, 1], [0, 0]])),
        "coordinates",
        "error",
        ALL,
    ),
    "coordinates as text": (
        feature(polygon([[0, 0], ["10", " 1e1 "], [0, 10], [0, 0]])),
        "coordinate-text",
        "warning",
        NOBODY,
    ),
    "coordinate a word": (
        feature(polygon([[0, 0], ["ten", 1], [1, 1], [0, 0]])),
        "coordinates",
        "error",
        ALL,
    ),
    "three coordinates": (
        feature(polygon([[*vertex, 7] for vertex in SQUARE])),
        "coordinate-3d",
        "warning",
        NOBODY,
    ),
    "collection": (
        feature({"type": "GeometryCollection", "geometries": [polygon()]}),
        "collection",
        "error",
        NEW,
    ),
    "collection with coordinates": (
        feature(
            {
                "type": "GeometryCollection",
                "coordinates": [],
                "geometries": [polygon(), {"type": "Point", "coordinates": [1, 1]}],
            }
        ),
        "collection-reduced",
        "warning",
        NOBODY,
    ),
    "collection without members": (
        feature({"type": "GeometryCollection", "coordinates": []}),
        "coordinates",
        "error",
        ALL,
    ),
    "plane": (feature(polygon() | {"plane": {"z": 2, "c": -1}}), None, "clean", NOBODY),
    "plane null": (feature(polygon() | {"plane": None}), "plane", "error", ALL),
    "plane with more": (feature(polygon() | {"plane": {"x": 1}}), "plane", "error", ALL),
    "plane of a half": (feature(polygon() | {"plane": {"z": 0.5}}), "plane", "error", ALL),
    "ellipse": (feature(polygon() | {"isEllipse": True}), None, "clean", NOBODY),
    "ellipse null": (feature(polygon() | {"isEllipse": None}), "ellipse", "error", ALL),
    "left of the image": (feature(polygon(moved(SQUARE, -5, 0))), "outside", "warning", NOBODY),
    # identity
    "id missing": (without("id"), "id-missing", "warning", NOBODY),
    "id null": (feature(name=None), "id", "error", ALL),
    "id an object": (feature(name={}), "id", "error", ALL),
    "id a number": (feature(name=7), "id-not-uuid", "warning", NOBODY),
    "id a word": (feature(name="tumor-1"), "id-not-uuid", "warning", NOBODY),
    "id without dashes": (feature(name=ID.replace("-", "")), "id-not-uuid", "warning", NOBODY),
    "id in upper case": (feature(name=ID.upper()), "id-respelled", "clean", NOBODY),
    "id in short": (feature(name="1-2-3-4-5"), "id-respelled", "clean", NOBODY),
    # properties
    "no properties": (without("properties"), None, "clean", NOBODY),
    "properties null": (feature() | {"properties": None}, "properties", "error", ALL),
    "properties a list": (feature() | {"properties": []}, "properties", "error", ALL),
    "name": (feature(name=ID) | {"properties": {"name": "r1"}}, None, "clean", NOBODY),
    "name empty": (feature() | {"properties": {"name": ""}}, None, "clean", NOBODY),
    "name null": (feature() | {"properties": {"name": None}}, "name", "error", ALL),
    "name an object": (feature() | {"properties": {"name": {}}}, "name", "error", ALL),
    "name a number": (feature() | {"properties": {"name": 5}}, "name-not-text", "warning", NOBODY),
    "objectType null": (feature(objectType=None), "object-type", "error", ALL),
    "objectType Annotation": (
        feature(objectType="Annotation"),
        "object-type-unknown",
        "warning",
        NOBODY,
    ),
    "objectType missing": (feature() | {"properties": {}}, None, "clean", NOBODY),
    "objectType root": (feature(objectType="root"), "object-type-special", "warning", NOBODY),
    "objectType tmaCore": (feature(objectType="tmaCore"), "object-type-special", "warning", NOBODY),
    "object_type": (
        feature() | {"properties": {"object_type": "tile"}},
        "object-type-alias",
        "warning",
        NOBODY,
    ),
    "type null": (feature() | {"properties": {"type": None}}, "object-type", "error", ALL),
    "type a class": (
        feature() | {"properties": {"type": "Tumor"}},
        "object-type-unknown",
        "warning",
        NOBODY,
    ),
    "object color": (feature(color=[1, 2, 3]), None, "clean", NOBODY),
    "object color packed": (feature(color=-3670016), None, "clean", NOBODY),
    "object color hex": (feature(color="#ff0000"), "color", "error", ALL),
    "object color of words": (feature(color=["a", 1, 2]), "color", "error", ALL),
    "object color of nulls": (feature(color=[None, 1, 2]), "color", "error", ALL),
    "object color of four": (feature(color=[1, 2, 3, 4]), "color-ignored", "warning", NOBODY),
    "object color null": (feature(color=None), "color-ignored", "warning", NOBODY),
    "object color too bright": (feature(color=[256, 0, 0]), "color-wraps", "warning", NOBODY),
    "locked as text": (feature(isLocked="true"), "locked", "warning", NOBODY),
    "locked as a number": (feature(isLocked=1), "locked", "warning", NOBODY),
    "locked": (feature(isLocked=True), None, "clean", NOBODY),
    "locked in other words": (feature(locked=True), "key-ignored", "warning", NOBODY),
    "parent": (feature(parentId=ID), "key-ignored", "warning", NOBODY),
    "foreign member": (feature() | {"color": [1, 2, 3]}, "key-ignored", "warning", NOBODY),
    "bbox": (feature() | {"bbox": [0, 0, 10, 10]}, None, "clean", NOBODY),
    "metadata": (feature(metadata={"a": "x", "b": 1, "c": True}), None, "clean", NOBODY),
    "metadata null": (feature(metadata={"a": None}), "metadata-dropped", "warning", NOBODY),
    "metadata a list": (feature(metadata=[1]), "metadata-dropped", "warning", NOBODY),
    "metadata of a tile": (
        feature(objectType="tile", metadata={"a": "b"}),
        "metadata-0.5",
        "clean",
        NOBODY,
    ),
    "nucleus": (feature(objectType="cell") | {"nucleusGeometry": polygon()}, None, "clean", NOBODY),
    "nucleus null": (
        feature(objectType="cell") | {"nucleusGeometry": None},
        "geometry",
        "error",
        ALL,
    ),
    "nucleus crossing": (
        feature(objectType="cell")
        | {"nucleusGeometry": polygon([[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]])},
        "crossing",
        "error",
        NEW,
    ),
    "nucleus of an annotation": (
        feature() | {"nucleusGeometry": polygon()},
        "nucleus-ignored",
        "warning",
        NOBODY,
    ),
    "child": (feature(childObjects=[feature(name="1" + ID[1:])]), None, "clean", NOBODY),
    "child null": (feature(childObjects=[None]), "feature", "error", ALL),
    "child broken": (
        feature(childObjects=[feature(polygon(SQUARE[:-1]), name="1" + ID[1:])]),
        "ring-open",
        "error",
        ALL,
    ),
    "child with the parent's id": (
        feature(childObjects=[feature()]),
        "id-duplicate",
        "warning",
        NOBODY,
    ),
    "children no list": (feature(children={}), "key-ignored", "warning", NOBODY),
    # classes
    "class": (classified({"name": "A", "color": [1, 2, 3]}), None, "clean", NOBODY),
    "class with alpha": (classified({"name": "A", "color": [1, 2, 3, 4]}), None, "clean", NOBODY),
    "class packed": (classified({"name": "A", "color": [-3670016]}), None, "clean", NOBODY),
    "class color null": (classified({"name": "A", "color": None}), None, "clean", NOBODY),
    "class color empty": (classified({"name": "A", "color": []}), None, "clean", NOBODY),
    "class null": (classified(None), None, "clean", NOBODY),
    "class empty": (classified({}), None, "clean", NOBODY),
    "class as text": (classified("Tumor: Positive"), None, "clean", NOBODY),
    "class derived": (classified({"names": ["A", "B"], "color": [1, 2, 3]}), None, "clean", NOBODY),
    "class of 0.3": (classified({"name": "A", "colorRGB": -1}), None, "clean", NOBODY),
    "class of 0.3 in hex": (
        classified({"name": "A", "colorRGB": "#fff"}),
        "class-color",
        "error",
        ALL,
    ),
    "class without color": (classified({"name": "A"}), "class", "error", ALL),
    "class without name": (classified({"color": [1, 2, 3]}), "class", "error", ALL),
    "class name null": (
        classified({"name": None, "color": [1, 2, 3]}),
        "class-without-name",
        "warning",
        NOBODY,
    ),
    "class names empty": (
        classified({"names": [], "color": [1, 2, 3]}),
        "class-without-name",
        "warning",
        NOBODY,
    ),
    "class color packed bare": (
        classified({"name": "A", "color": 255}),
        "class-color",
        "error",
        ALL,
    ),
    "class color hex": (classified({"name": "A", "color": "#ff0000"}), "class-color", "error", ALL),
    "class color of two": (classified({"name": "A", "color": [1, 2]}), "class-color", "error", ALL),
    "class color of five": (
        classified({"name": "A", "color": [1, 2, 3, 4, 5]}),
        "class-color",
        "error",
        ALL,
    ),
    "class color of words": (
        classified({"name": "A", "color": ["a", 0, 0]}),
        "class-color",
        "error",
        ALL,
    ),
    "class color in floats": (
        classified({"name": "A", "color": [0.5, 0.2, 1.0]}),
        "color-wraps",
        "warning",
        NOBODY,
    ),
    "class color too bright": (
        classified({"name": "A", "color": [300, -5, 3]}),
        "color-wraps",
        "warning",
        NOBODY,
    ),
    "class a list": (classified(["A"]), "class", "error", ALL),
    "class a number": (classified(3), "class", "error", ALL),
    "class name blank": (
        classified({"name": " \t", "color": [1, 2, 3]}),
        "class-name",
        "error",
        ALL,
    ),
    "class name with a line break": (
        classified({"name": "a\nb", "color": [1, 2, 3]}),
        "class-name",
        "error",
        ALL,
    ),
    "class name as text, blank": (classified(""), "class-name", "error", ALL),
    "class name with an empty part": (classified("a::b"), "class-name", "error", ALL),
    "class names with a colon": (
        classified({"names": ["a:b", "c"], "color": [1, 2, 3]}),
        "class-name",
        "error",
        ALL,
    ),
    "class name with spaces": (
        classified({"name": " a ", "color": [1, 2, 3]}),
        "class-stripped",
        "warning",
        NOBODY,
    ),
    "class name with a colon last": (classified("a:"), "class-stripped", "warning", NOBODY),
    "class name of a hard space": (classified("\u00a0"), None, "clean", NOBODY),
    "default class in another color": (
        classified({"name": "Stroma", "color": [1, 2, 3]}),
        "class-color-lost",
        "warning",
        NOBODY,
    ),
    "default class": (
        classified({"name": "Stroma", "color": [150, 200, 150]}),
        None,
        "clean",
        NOBODY,
    ),
    # measurements
    "numbers": (measured({"a": 1, "b": 2.5, "c": -0.0}), None, "clean", NOBODY),
    "a list of numbers": (measured([{"name": "a", "value": 1}]), None, "clean", NOBODY),
    "NaN measured": (measured({"a": math.nan}), "measurement-not-finite", "warning", ("0.4",)),
    "inf as text": (measured({"a": "-inf"}), "measurement-not-finite", "warning", ("0.4",)),
    "too large": (measured({"a": 1e39}), "measurement-not-finite", "warning", NOBODY),
    "number as text": (measured({"a": "3.5"}), "measurement-as-text", "warning", ("0.4",)),
    "number as Java text": (measured({"a": "3.f"}), "measurement-as-text", "warning", ("0.4",)),
    "word": (measured({"a": "high"}), "measurement-text", "error", ALL),
    "number with a comma": (measured({"a": "3,5"}), "measurement-text", "error", ALL),
    "empty text": (measured({"a": ""}), "measurement-text", "error", ALL),
    "null measured": (measured({"a": None}), "measurement-skipped", "warning", ("0.4",)),
    "boolean measured": (measured({"a": True}), "measurement-skipped", "warning", ("0.4",)),
    "nested measured": (measured({"a": {"b": 1}}), "measurement-skipped", "warning", ("0.4",)),
    "measurements null": (measured(None), "measurements-ignored", "warning", NOBODY),
    "measurements a number": (measured(3), "measurements-ignored", "warning", NOBODY),
    "list with a word": (
        measured([{"name": "a", "value": "high"}]),
        "measurement-text",
        "error",
        ALL,
    ),
    "list without a name": (measured([{"value": 1}]), "measurement-text", "error", ALL),
    "list without a value": (measured([{"name": "a"}]), "measurement-text", "error", ALL),
    # what is no Feature
    "null": (None, "feature", "error", ALL),
    "number": (3, "feature", "error", ALL),
    "feature without type": (without("type"), None, "clean", NOBODY),
}


@pytest.mark.parametrize("name", CASES)
def test_rule(tmp_path, name):
    value, code, verdict, raising = CASES[name]
    other = feature(polygon(moved(SQUARE, 50, 50)), name="2" + ID[1:])
    report = verify(tmp_path, collection(other, value))
    assert report.verdict == verdict, str(report)
    lost = tuple(v for v in ("0.4", "0.5", "0.6") if report.loads[v].raises)
    assert lost == raising, str(report)
    assert report.loads["0.6"] == report.loads["0.7"] == report.loads["0.8-dev"]
    if code is None:
        assert not report.findings, str(report)
        return
    assert code in report.counts, str(report)
    (finding,) = (f for f in report.findings if f.code == code)
    assert finding.index == 1
    assert finding.severity == RULES[code].severity
    if verdict != "error":
        assert report.loads["0.5"].objects == 2


def test_every_rule_has_a_case():
    about_files = {
        "extension", "packing", "too-large", "json", "top-level-type", "no-objects", "not-utf8",
        "entry-ignored", "entry-lost", "element-ignored", "bare-geometry", "key-duplicate-alias",
        "measurement-0.4", "nothing-found",
    }  # fmt: skip
    assert set(RULES) - about_files == {case[1] for case in CASES.values()} - {None}


def test_a_bad_rule_is_seen_wherever_the_feature_stands(tmp_path):
    good = [feature(name=f"{i:08x}{ID[8:]}") for i in range(2500)]
    bad = feature(polygon([[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]), name="f" + ID[1:])
    for place in (0, 999, 1000, 2499):
        report = verify(tmp_path, collection(*good[:place], bad, *good[place:]))
        assert report.first.index == place
        assert report.first.id == bad["id"]
        assert report.counts == {"crossing": 1}
        assert report.loads["0.5"].objects == 2501


def test_findings_are_counted(tmp_path):
    report = verify(tmp_path, collection(*[feature(locked=True) for _ in range(5)]))
    assert report.counts == {"key-ignored": 5, "id-duplicate": 4}
    assert report.loads["0.6"].duplicate_ids == 4
    assert "[5 times]" in str(report)


def test_the_first_color_of_a_class_stays(tmp_path):
    first, second = ({"name": "Z", "color": color} for color in ([1, 2, 3], [9, 9, 9]))
    third = feature(classification="Z", name="3" + ID[1:])
    report = verify(
        tmp_path,
        collection(
            feature(classification=first), feature(classification=second, name="2" + ID[1:]), third
        ),
    )
    assert report.counts == {"class-color-lost": 1}
    assert report.loads["0.6"].colors == {"Z": (1, 2, 3)}
    assert report.loads["0.6"].classes == {"Z": 3}


@pytest.mark.parametrize(
    ("text", "code", "verdict"),
    [
        ("", "no-objects", "error"),
        ("  \n", "no-objects", "error"),
        ("{}", "no-objects", "error"),
        ("[]", "no-objects", "error"),
        ("3", "no-objects", "error"),
        ("null", "no-objects", "error"),
        ('{"type":"FeatureCollection"}', "no-objects", "error"),
        ('{"type":"FeatureCollection","features":{}}', "no-objects", "error"),
        ('{"type":"Topology","features":[null]}', "no-objects", "error"),
        ('{"features":[{"type":"Feature"}]}', "no-objects", "error"),
        ('{"type":null,"features":[]}', "top-level-type", "error"),
        ('{"type":"FeatureCollection","features":[', "json", "error"),
        ('{"type":"FeatureCollection","features":[]', "json", "error"),
        ('{"type":"FeatureCollection","features":[]}{}', "json", "error"),
        ('{"type":"FeatureCollection","features":[,]}', "json", "error"),
        ("[" * 100_000, "json", "error"),
        ('{"a":' * 100_000, "json", "error"),
    ],
    ids=range(17),
)
def test_texts_without_objects(tmp_path, text, code, verdict):
    report = verify(tmp_path, text)
    assert code in report.counts, str(report)
    assert report.verdict == verdict
    assert report.loads["0.7"].objects == 0
    assert (report.loads["0.7"].raises is not None) == bool(RULES[code].raises)


def test_a_file_may_say_itself_that_nothing_was_found(tmp_path):
    report = verify(tmp_path, collection(wsiseg={"empty": True}))
    assert report.counts == {"nothing-found": 1}
    assert report.verdict == "clean"
    assert verify(tmp_path, collection(wsiseg={"empty": "yes"})).verdict == "error"
    assert verify(tmp_path, collection(feature(), wsiseg={"empty": True})).verdict == "clean"


def test_the_type_may_come_last(tmp_path):
    text = json.dumps({"features": [feature()], "type": "FeatureCollection"})
    assert verify(tmp_path, text).verdict == "clean"


def test_lines_of_features_are_refused(tmp_path):
    report = verify(tmp_path, "\n".join(json.dumps(feature()) for _ in range(3)))
    assert report.verdict == "error"
    assert report.loads["0.6"].raises == "json"


def test_truncation_is_noticed_anywhere(tmp_path):
    text = json.dumps(collection(feature(), feature(name="2" + ID[1:])))
    for length in range(1, len(text), 7):
        assert verify(tmp_path, text[:length]).verdict == "error", text[:length]


@pytest.mark.parametrize(
    "wrap", [lambda f: [f, f], lambda f: [[f], [[f]]], lambda f: [collection(f, f)]]
)
def test_arrays_are_gone_through(tmp_path, wrap):
    report = verify(tmp_path, wrap(feature()))
    assert report.loads["0.6"].objects == 2
    assert report.counts == {"id-duplicate": 1}


def test_elements_of_other_kinds_are_ignored(tmp_path):
    report = verify(tmp_path, [feature(), {"type": "x"}, {}, 3, None])
    assert report.counts == {"element-ignored": 4}
    assert report.loads["0.5"].objects == 1


def test_a_bare_geometry_is_an_annotation(tmp_path):
    report = verify(tmp_path, polygon() | {"plane": "ignored"})
    assert report.counts == {"bare-geometry": 1}
    assert report.loads["0.6"].types == {"annotation": 1}
    assert report.loads["0.6"].area == 100


def test_latin_1_garbles_names(tmp_path):
    text = json.dumps(collection(classified({"name": "é", "color": [1, 2, 3]})), ensure_ascii=False)
    (tmp_path / "a.geojson").write_bytes(text.encode("latin-1"))
    report = verify_geojson(tmp_path / "a.geojson")
    assert report.counts == {"not-utf8": 1}
    assert report.verdict == "warning"
    (tmp_path / "a.geojson").write_bytes(text.encode("utf-8-sig"))
    assert verify_geojson(tmp_path / "a.geojson").verdict == "clean"
    (tmp_path / "a.geojson").write_bytes(text.encode("utf-16"))
    assert verify_geojson(tmp_path / "a.geojson").verdict == "error"


@pytest.mark.parametrize(
    ("name", "reads"),
    [
        ("a.geojson", True), ("a.json", True), ("A.GEOJSON", True), ("a.b.Json", True),
        ("a.txt", False), ("geojson", False), ("a.geojson.bak", False), ("a.qpdata", False),
    ],
)  # fmt: skip
def test_the_ending_decides(tmp_path, name, reads):
    report = verify(tmp_path, collection(feature()), name)
    assert report.counts == ({} if reads else {"extension": 1})
    assert report.loads["0.6"].objects == int(reads)


@pytest.mark.parametrize(
    ("name", "reads"),
    [("a.geojson.gz", True), ("a.JSON.GZ", True), ("a.gz", False), ("a.geojson.gzip", False)],
)
def test_gzip_is_unpacked_by_name(tmp_path, name, reads):
    packed = gzip.compress(json.dumps(collection(feature())).encode())
    (tmp_path / name).write_bytes(packed)
    assert (verify_geojson(tmp_path / name).verdict == "clean") == reads
    for broken in (b"", packed[:-3], packed[:20], b"{}", packed[:-8] + b"\0" * 8):
        (tmp_path / name).write_bytes(broken)
        assert verify_geojson(tmp_path / name).verdict == "error"


def zipped(path: Path, **entries: bytes) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), content)
    return path


def test_zip_entries_are_read_one_by_one(tmp_path):
    good = json.dumps(collection(feature())).encode()
    other = json.dumps(collection(feature(name="2" + ID[1:]))).encode()
    path = zipped(tmp_path / "a.zip", a_geojson=good, sub__b_geojson_gz=gzip.compress(other))
    report = verify_geojson(path)
    assert report.verdict == "clean"
    assert report.loads["0.5"].objects == 2
    assert verify_geojson(zipped(path, a_geojson=good, b_geojson=good)).counts == {
        "id-duplicate": 1
    }
    report = verify_geojson(zipped(path, a_geojson=good, b_geojson=b"{", c_txt=b"hello"))
    assert report.counts == {"entry-lost": 1, "entry-ignored": 1}
    assert report.verdict == "warning"
    assert report.first.entry == "b.geojson"
    assert report.loads["0.6"].objects == 1
    assert verify_geojson(zipped(path, a_txt=good)).counts == {"entry-ignored": 1, "no-objects": 1}
    assert verify_geojson(zipped(path)).counts == {"no-objects": 1}
    assert verify_geojson(zipped(path, a_json=b"{")).verdict == "error"


def test_an_entry_may_be_lost_in_one_version_only(tmp_path):
    bowtie = feature(polygon([[0, 0], [9, 9], [9, 0], [0, 9], [0, 0]]), name="2" + ID[1:])
    path = zipped(
        tmp_path / "a.zip",
        a_json=json.dumps(collection(feature())).encode(),
        b_json=json.dumps(collection(bowtie)).encode(),
    )
    report = verify_geojson(path)
    assert report.verdict == "warning"
    assert (report.loads["0.5"].objects, report.loads["0.6"].objects) == (2, 1)


def test_a_broken_zip_is_an_error(tmp_path):
    path = zipped(tmp_path / "a.zip", a_geojson=json.dumps(collection(feature())).encode())
    raw = path.read_bytes()
    path.write_bytes(raw[:-30])
    assert verify_geojson(path).counts == {"packing": 1}
    path.write_bytes(raw[:50] + bytes(10) + raw[60:])  # damaged inside the entry
    report = verify_geojson(path)
    assert report.verdict == "error"
    assert "entry-lost" in report.counts


def test_bombs_are_not_unpacked(tmp_path):
    packed = gzip.compress(bytes(50_000_000))
    (tmp_path / "a.geojson.gz").write_bytes(packed)
    report = verify_geojson(tmp_path / "a.geojson.gz", max_bytes=1_000_000)
    assert report.counts == {"too-large": 1}
    assert report.verdict == "error"
    zeros = bytes(700_000)
    path = zipped(tmp_path / "a.zip", a_json=zeros, b_json=zeros)
    assert "too-large" in verify_geojson(path, max_bytes=1_000_000).counts


def test_a_missing_file_is_an_error_of_its_own(tmp_path):
    with pytest.raises(AnnotationError, match="no such file"):
        verify_geojson(tmp_path / "a.geojson")
    (tmp_path / "b.geojson").mkdir()
    with pytest.raises(AnnotationError, match="cannot be read"):
        verify_geojson(tmp_path / "b.geojson")


@pytest.mark.parametrize("last", [False, True])
def test_outside_the_image_is_noticed(tmp_path, last):
    inside, outside = feature(), feature(polygon(moved(SQUARE, 95, 0)), name="2" + ID[1:])
    member = {"wsiseg": {"image_width": 100, "image_height": 10}}
    value = collection(inside, outside) | member if last else collection(inside, outside, **member)
    report = verify(tmp_path, value)
    assert report.counts == {"outside": 1}
    assert report.first.index == 1
    assert "95 to 105" in report.first.detail
    assert verify(tmp_path, collection(inside, **member)).verdict == "clean"
    assert verify(tmp_path, collection(inside, outside)).verdict == "clean"
    for odd in (3, None, {"image_width": "wide"}, []):
        assert verify(tmp_path, collection(inside, wsiseg=odd)).verdict == "clean"


def test_nan_and_line_breaks_are_taken_as_qupath_takes_them(tmp_path):
    text = json.dumps(feature() | {"properties": {"name": "two lines"}}).replace("two ", "two\n")
    assert verify(tmp_path, text).verdict == "clean"
    report = verify(tmp_path, json.dumps(measured({"a": -math.inf})))
    assert report.counts == {"measurement-0.4": 1, "measurement-not-finite": 1}


def test_keys_twice(tmp_path):
    report = verify(tmp_path, collection(feature(type="tile")))
    assert report.counts == {"key-duplicate-alias": 1}
    text = json.dumps(feature()).replace('"annotation"', '"tile","objectType":"detection"')
    assert verify(tmp_path, text).loads["0.6"].types == {"detection": 1}  # the last one counts


def test_the_report_reads_well(tmp_path):
    report = verify(tmp_path, collection(feature(), feature(multipolygon([SQUARE]), name=None)))
    lines = str(report).splitlines()
    assert lines[0] == "a.geojson: error"
    assert "QuPath 0.4, 0.5, 0.6, 0.7, 0.8-dev: nothing, refused" in lines[1]
    assert "error: feature 1: id is not text (None); leave the key out or write a UUID" in lines[2]


def test_the_report_is_fit_for_json(tmp_path):
    report = verify(tmp_path, collection(feature(locked=True, classification="Tumor")))
    again = json.loads(json.dumps(report.to_dict()))
    assert again["verdict"] == "warning"
    assert again["findings"][0]["code"] == "key-ignored"
    assert (again["findings"][0]["index"], again["findings"][0]["id"]) == (0, ID)
    assert again["loads"]["0.5"]["classes"] == {"Tumor": 1}


KEYS = st.sampled_from(
    ["type", "id", "geometry", "coordinates", "properties", "features", "name", "color", "names",
     "classification", "measurements", "metadata", "objectType", "plane", "geometries", "value",
     "childObjects", "wsiseg", "isEllipse", "nucleusGeometry"]
)  # fmt: skip
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(KEYS, inner, max_size=4),
    max_leaves=8,
)


@given(value=values)
def test_any_json_gets_a_verdict(tmp_path_factory, value):
    report = verify(tmp_path_factory.mktemp("any"), value)
    assert report.verdict in {"clean", "warning", "error"}
    assert str(report)


@given(value=values, data=st.data())
def test_any_value_in_any_place_gets_a_verdict(tmp_path_factory, value, data):
    whole = collection(
        feature(
            name=ID,
            classification={"name": "A", "color": [1, 2, 3]},
            measurements={"a": 1},
            metadata={"a": "b"},
            childObjects=[feature(name="2" + ID[1:])],
        ),
        feature(multipolygon([SQUARE], [moved(SQUARE, 20, 0)]), name="3" + ID[1:]),
    )
    place: Any = copy.deepcopy(whole)
    whole = place
    while isinstance(place, dict | list) and place:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = data.draw(st.sampled_from(list(keys)))
        if not isinstance(place[key], dict | list) or data.draw(st.integers(0, 5)) == 0:
            place[key] = value
            break
        place = place[key]
    report = verify(tmp_path_factory.mktemp("any"), whole)
    assert (report.verdict == "error") == any(f.severity == "error" for f in report.findings)
    for version in ("0.5", "0.6"):
        load = report.loads[version]
        lost = load.raises or load.objects == 0 or load.empty or load.invalid
        assert not lost or report.verdict == "error", str(report)


@given(text=st.text(max_size=30) | st.binary(max_size=30))
def test_any_bytes_get_a_verdict(tmp_path_factory, text):
    folder = tmp_path_factory.mktemp("any")
    raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogatepass")
    for name in ("a.geojson", "a.geojson.gz", "a.zip"):
        (folder / name).write_bytes(raw)
        assert verify_geojson(folder / name).verdict == "error"
