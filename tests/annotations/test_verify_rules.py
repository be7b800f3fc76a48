"""Each rule of the verifier, on cases made for it: what QuPath 0.4, 0.5 and 0.6 do."""

import math
from typing import Any

import pytest
from made_features import (
    ID,
    SQUARE,
    classified,
    collection,
    feature,
    measured,
    moved,
    multipolygon,
    polygon,
    verify,
    without,
)

from wsiseg.annotations._rules import RULES

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
