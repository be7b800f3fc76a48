"""The verifier against what QuPath's own parser did with 83 files in five versions."""

import json
import math
from pathlib import Path

import pytest

from wsiseg.annotations import LoadedObjects, VerifyReport, verify_geojson

COUNTED = "0.5", "0.6", "0.7", "0.8-dev"

CASES = [
    line.strip() for line in (Path(__file__).parent / "qupath_cases.txt").read_text().splitlines()
]

CLEAN = {
    "01_ok_annotation.geojson",
    "02_ok_tile.geojson",
    "03_ok_cell_nucleus.geojson",
    "05_hole_same_orientation_cw_shell.geojson",
    "06_ok_multipolygon.geojson",
    "19_high_precision.geojson",
    "27_points.geojson",
    "29_plane.geojson",
    "31_isEllipse.geojson",
    "43_class_string.geojson",
    "44_class_string_derived.geojson",
    "45_class_name_colorRGB.geojson",
    "51_class_names_color.geojson",
    "52_class_null.geojson",
    "53_class_empty_obj.geojson",
    "71_meas_list.geojson",
    "84_children.geojson",
    "87_bare_array.geojson",
    "88_bare_feature.geojson",
    "95_bom.geojson",
    "9D_cell_no_nucleus.geojson",
    "c1.geojson.gz",
    "c2.json",
    "c6.GeoJSON",
}
"""Loaded by every QuPath from 0.5 as the file says."""

COLOR_OF_AN_EARLIER_CASE = "51_class_names_color.geojson"
"""Its class exists since case 44 of the same session, and the first color seen stays."""


@pytest.fixture(scope="session")
def cases(data_dir):
    folder = data_dir / "annotations" / "qupath_cases"
    if not folder.is_dir():
        pytest.skip(f"no QuPath cases in {folder}")
    return folder


@pytest.fixture(scope="session")
def expected(cases):
    return json.loads((cases / "expected.json").read_bytes())


def is_lost(measured: dict) -> bool:
    """Tell whether a QuPath loaded nothing, or something without or with an invalid outline."""
    if "raises" in measured:
        return True
    return measured["objects"] == 0 or measured["empty"] > 0 or measured["invalid"] > 0


def describe_classes(load: LoadedObjects, *, with_colors: bool) -> str:
    """Write the classes as the measurements do; `?` for colors QuPath picks by itself."""
    texts = []
    for name in sorted(load.classes):
        color = (128, 128, 128) if name == "Image" else load.colors.get(name)
        rgba = ",".join(map(str, (*color, 255))) if color else "?"
        text = f"{name} rgba={rgba}" if with_colors and name != "(none)" else name
        texts.append(f"{text}={load.classes[name]}")
    return ", ".join(texts)


def without_colors(classes: str) -> str:
    parts = classes.split(", ") if classes else []
    return ", ".join(f"{p.split(' rgba=')[0]}={p.rsplit('=', 1)[1]}" for p in parts)


def test_the_list_of_cases_is_complete(expected):
    assert sorted(expected) == CASES
    assert len(CASES) == 83


@pytest.mark.parametrize("name", CASES)
def test_verdict_follows_from_what_qupath_did(cases, expected, name):
    report = verify_geojson(cases / name)
    lost = any(is_lost(expected[name][version]) for version in COUNTED)
    assert (report.verdict == "error") == lost, str(report)
    assert (report.verdict == "clean") == (name in CLEAN), str(report)
    if lost:
        assert report.first is not None
        assert report.first.severity == "error"
        assert report.first.remedy


@pytest.mark.parametrize("name", CASES)
def test_objects_are_those_qupath_loaded(cases, expected, name):
    report: VerifyReport = verify_geojson(cases / name)
    for version, measured in expected[name].items():
        load = report.loads[version]
        assert (load.raises is not None) == ("raises" in measured), f"{version}: {report}"
        if load.raises is not None:
            continue
        assert math.isclose(load.area, measured["area"], rel_tol=1e-6, abs_tol=1e-3), version
        assert load.types == measured["types"]
        for key in ("objects", "holes", "empty", "invalid", "duplicate_ids", "nan_measurements"):
            assert getattr(load, key) == measured[key], f"{version} {key}: {report}"
        with_colors = name != COLOR_OF_AN_EARLIER_CASE and None not in load.colors.values()
        classes = measured["classes"] if with_colors else without_colors(measured["classes"])
        assert describe_classes(load, with_colors=with_colors) == classes


@pytest.mark.parametrize(
    ("name", "index", "code"),
    [
        ("97_one_bad_of_many.geojson", 1, "ring-open"),
        ("10_bowtie.geojson", 0, "crossing"),
        ("14_geometry_null.geojson", 0, "geometry"),
        ("13_empty_coordinates.geojson", 0, "empty"),
        ("57_class_color_out_of_range.geojson", 0, "color-wraps"),
    ],
)
def test_the_first_bad_feature_is_named(cases, name, index, code):
    first = verify_geojson(cases / name).first
    assert first is not None
    assert (first.index, first.code) == (index, code)
    features = json.loads((cases / name).read_bytes())["features"]
    assert first.id == features[index]["id"]
    assert f"feature {index} (id {first.id})" in str(first)
