"""Files that QuPath would refuse or change, mended: judged by the rules measured in QuPath."""

import gzip
import json

import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.annotations import fix_geojson, verify_geojson
from wsiseg.errors import AnnotationError

BEYOND = {
    "15_geometry_missing",
    "17_zero_area_collinear",
    "18_subpixel_tiny",
    "91_empty_fc",
    "92_not_geojson",
    "93_empty_file",
    "96_feature_null_in_fc",
    "99_newline_delimited",
    "9A_nan_coord",
    "c4",
    "c8",
    "c9",
}
"""No JSON, no object, or an ending that says it is packed."""

STAYS = {
    "37_objectType_variants": {"object-type-special"},
    "41_class_name_color": {"class-color-lost"},
    "48_class_name_color_rgba": {"class-color-lost"},
    "49_class_name_color_hex": {"class-color-lost"},
    "85_isLocked_variants": {"key-ignored"},
}
"""What is meant so, perhaps: TMA cores, a colour of one's own, keys for other programs."""

SQUARE = [[0, 0], [10, 0], [10, 10], [0, 10], [0, 0]]


def feature(coordinates=None, kind="Polygon", **members):
    geometry = {"type": kind, "coordinates": coordinates or [SQUARE]}
    plain = {"type": "Feature", "geometry": geometry, "properties": {"objectType": "annotation"}}
    return plain | {"id": "6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e0001"} | members


def fixed(tmp_path, *features, **members):
    path = tmp_path / "in.geojson"
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **members}))
    report = fix_geojson(path, tmp_path / "out.geojson")
    return report, json.loads((tmp_path / "out.geojson").read_text())


def test_every_case_measured_in_qupath(data_dir, tmp_path):
    cases = data_dir / "annotations" / "qupath_cases"
    if not cases.is_dir():
        pytest.skip("no cases")
    seen = 0
    for path in sorted(cases.iterdir()):
        name = path.name.split(".")[0]
        if name == "expected":
            continue
        seen += 1
        out = tmp_path / f"{name}.geojson"
        if name in BEYOND:
            with pytest.raises(AnnotationError, match="cannot be mended"):
                fix_geojson(path, out)
            continue
        done = fix_geojson(path, out)
        report = verify_geojson(out)
        codes = {f.code for f in report.findings if f.severity != "note"}
        assert codes == STAYS.get(name, set()), (name, str(report))
        assert not any(load.raises or load.invalid or load.empty for load in report.loads.values())
        if verify_geojson(path).verdict == "clean":
            for version, load in verify_geojson(path).loads.items():
                after = report.loads[version]
                assert (after.objects, after.types) == (load.objects, load.types), name
                assert after.holes == load.holes
                assert after.area == pytest.approx(load.area, rel=1e-4)  # of rounding
        told = done.changes or name in STAYS or name == "c5"  # whose ending alone is wrong
        assert told or verify_geojson(path).verdict == "clean", name
    assert seen == 83


def test_a_change_names_its_feature_and_nothing_else_is_touched(tmp_path):
    bad = feature([SQUARE[:-1]], id="11111111-2222-3333-4444-555555555555", extra=[1])
    report, content = fixed(tmp_path, feature(), bad, wsiseg={"frame": "qupath"})
    (change,) = report.changes
    assert (change.index, change.id) == (1, bad["id"])
    assert str(change) == f"feature 1 ({bad['id']}): an open ring closed"
    assert content["wsiseg"] == {"frame": "qupath"}
    assert content["features"][0] == feature()
    assert content["features"][1]["extra"] == [1]


def test_areas_are_those_of_the_pieces(tmp_path):
    bow = [[0, 0], [10, 10], [10, 0], [0, 10], [0, 0]]
    report, content = fixed(tmp_path, feature([bow]))
    assert "area 0 to 50 px, 2 part(s)" in report.changes[0].what
    assert shapely.geometry.shape(content["features"][0]["geometry"]).area == 50


def test_made_ids_are_the_same_every_time(tmp_path):
    twice = [fixed(tmp_path, feature(), feature())[1] for _ in range(2)]
    assert twice[0] == twice[1]
    ids = [one["id"] for one in twice[0]["features"]]
    assert len(set(ids)) == 2
    assert ids[0] == feature()["id"]


def test_children_and_nuclei_are_mended_too(tmp_path):
    child = feature([SQUARE[:-1]], id="x")
    parent = feature(properties={"childObjects": [child, None]})
    inner = [[2, 2], [4, 2], [4, 4], [2, 4], [2, 2]]
    cell = feature(
        id="6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e0002",
        properties={
            "objectType": "cell",
            "nucleusGeometry": {"type": "Polygon", "coordinates": [inner]},
        },
    )
    report, content = fixed(tmp_path, parent, cell)
    assert report.removed == 1
    (kept,) = content["features"][0]["properties"]["childObjects"]
    assert kept["geometry"]["coordinates"][0][0] == kept["geometry"]["coordinates"][0][-1]
    assert "nucleusGeometry" in content["features"][1]
    assert verify_geojson(report.path).verdict == "clean"


def test_packed_in_and_out_and_latin(tmp_path):
    name = {"classification": {"name": "Tumör", "color": [1, 2, 3]}}
    text = json.dumps({"type": "FeatureCollection", "features": [feature(properties=name)]})
    path = tmp_path / "in.geojson.gz"
    path.write_bytes(gzip.compress(text.replace("\\u00f6", "ö").encode("latin-1")))
    report = fix_geojson(path, tmp_path / "out.geojson.gz")
    assert "Tumör" in gzip.decompress(report.path.read_bytes()).decode("utf-8")
    with pytest.raises(AnnotationError, match="not mended in place"):
        fix_geojson(path, path)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=4),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=8,
)
RINGS = st.lists(
    st.lists(st.tuples(st.integers(-3, 9), st.integers(-3, 9)).map(list), max_size=9), max_size=3
)


KEYS = ["objectType", "name", "color", "classification", "isLocked", "measurements", "metadata"]


@given(
    rings=st.lists(RINGS, min_size=1, max_size=3),
    properties=st.dictionaries(
        st.sampled_from(
            [
                "objectType",
                "name",
                "color",
                "classification",
                "isLocked",
                "measurements",
                "metadata",
            ]
        ),
        JSON,
    ),
    identity=JSON,
)
def test_whatever_is_in_it_what_is_written_is_read(tmp_path_factory, rings, properties, identity):
    folder = tmp_path_factory.mktemp("fix")
    odd = feature(rings, "MultiPolygon", properties=properties, id=identity)
    good = feature()
    report, _ = fixed(folder, good, odd)
    checked = verify_geojson(report.path)
    for load in checked.loads.values():
        assert load.raises is None, str(checked)
        assert not load.invalid
        assert not load.empty
    assert report.objects + report.removed == 2
