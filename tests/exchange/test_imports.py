"""What other programs wrote comes out as GeoJSON that QuPath opens in the right place."""

import gzip
import json
import sqlite3
import zipfile
import zlib
from dataclasses import replace

import numpy as np
import pytest
import shapely
from made_results import IMAGE, MIRAX, make_result
from test_export_qupath import export, features_of, flat, shards

import wsiseg
from wsiseg.annotations import verify_geojson
from wsiseg.errors import AnnotationError, RunError, UsageError
from wsiseg.exchange import ExportRequest, import_annotations, write_imported
from wsiseg.geometry import Box
from wsiseg.source import Pyramid

ID = "6f0d9d0e-6b0a-5b7e-9a55-1f0c5a1e000"
SQUARE = [[10, 10], [40, 10], [40, 30], [10, 30], [10, 10]]
HOLE = [[15, 15], [20, 15], [20, 20], [15, 20], [15, 15]]
NUCLEUS = [[25, 15], [30, 15], [30, 20], [25, 15]]


def slide(shape=(400, 600), bounds: Box | None = None) -> Pyramid:
    made = wsiseg.open(np.zeros((*shape, 3), np.uint8), mpp=0.5)
    if bounds is not None:
        made.metadata = replace(made.metadata, vendor="mirax", bounds=bounds)
    return made


CROPPED = Box((100, 200), (300, 500))


def feature(number=1, rings=(SQUARE,), kind="Polygon", **properties) -> dict:
    geometry = {"type": kind, "coordinates": list(rings) if kind == "Polygon" else rings}
    return {
        "type": "Feature",
        "id": f"{ID}{number}",
        "geometry": geometry,
        "properties": properties,
    }


def imported(tmp_path, path, of=None, format=None, **asked):
    found = import_annotations(path, of or slide(), format=format)
    report = write_imported(found, tmp_path / "out", "a", request=ExportRequest(**asked))
    assert all(verify_geojson(file).verdict == "clean" for file in shards(report))
    return [f for file in shards(report) for f in features_of(file)], report


def text(path, value):
    path.write_text(value if isinstance(value, str) else json.dumps(value), encoding="utf-8")
    return path


# --- QuPath


@pytest.mark.parametrize("which", [IMAGE, MIRAX])
@pytest.mark.parametrize(
    "asked",
    [
        {"kind": "annotations", "named": True, "locked": True, "simplify_um": 2.0},
        {"kind": "tiles", "tile_um": 64.0},
        {"kind": "points", "compress": True},
        {"kind": "cells", "parents": True},
    ],
    ids=lambda asked: asked["kind"],
)
def test_what_was_exported_comes_back_as_it_was(tmp_path, which, asked):
    folder = make_result(tmp_path / "r", which)
    (path,) = export(folder, tmp_path / "exported", **asked).files
    found = import_annotations(path)
    report = write_imported(found, tmp_path / "again", "r")
    before = {f["id"]: f for f in flat(features_of(path))}
    after = {f["id"]: f for f in features_of(report.files[0])}
    assert after.keys() == before.keys()
    for name, one in before.items():
        one["properties"].pop("childObjects", None)
        assert after[name]["properties"] == one["properties"]
        ring = shapely.geometry.shape(one["geometry"])
        assert shapely.geometry.shape(after[name]["geometry"]).equals_exact(ring, 0)
    wrong = slide()
    with pytest.raises(AnnotationError, match="belongs to a slide of 2439 x 1399"):
        import_annotations(path, wrong)


VARIANTS = {
    "collection": {"type": "FeatureCollection", "features": [feature()]},
    "array": [feature()],
    "feature": feature(),
    "geometry": {"type": "Polygon", "coordinates": [SQUARE]},
    "geometries": [{"type": "Polygon", "coordinates": [SQUARE]}],
}


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("ending", [".geojson", ".json", ".geojson.gz", ".zip"])
def test_qupath_in_any_wrapping(tmp_path, variant, ending):
    path, raw = tmp_path / f"a{ending}", json.dumps(VARIANTS[variant]).encode()
    if ending == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("a.geojson", raw)
    else:
        path.write_bytes(gzip.compress(raw) if ending.endswith(".gz") else raw)
    (found,), _ = imported(tmp_path, path)
    assert found["geometry"]["coordinates"] == [SQUARE]
    assert "classification" not in found["properties"]
    if "geometr" not in variant:
        assert found["id"] == f"{ID}1"


def test_qupath_of_all_versions(tmp_path):
    old = feature(
        1,
        object_type="detection",
        classification={"name": "Tumor: Positive", "colorRGB": -3670016},
        measurements=[{"name": "Area µm^2", "value": 7.5}, {"name": "bad", "value": "NaN"}],
    )
    older = {**feature(2, classification={"name": "Tumor", "colorRGB": -3670016})}
    older["id"] = "PathDetectionObject"
    cell = feature(3, (SQUARE, HOLE), objectType="cell", measurements={"a": 1.5, "b": None})
    cell["nucleusGeometry"] = {"type": "Polygon", "coordinates": [NUCLEUS]}
    names = feature(4, objectType="annotation", name="mine", isLocked=True)
    names["properties"]["classification"] = {"names": ["A", "B"], "color": [1, 2, 3]}
    points = feature(5, [[1, 2], [3, 4]], "MultiPoint", objectType="annotation")
    line = feature(6, [[1, 2], [3, 4]], "LineString")
    core = feature(7, objectType="tmaCore")
    double = feature(1, objectType="detection")
    path = text(tmp_path / "a.json", [old, older, cell, names, points, line, core, double])
    found, report = imported(tmp_path, path)
    by_id = {f["id"]: f for f in found}
    assert len(found) == 6
    one = by_id[f"{ID}1"]["properties"]
    assert one["objectType"] == "detection"
    assert one["classification"] == {"name": "Tumor: Positive", "color": [200, 0, 0]}
    assert one["measurements"] == {"Area µm^2": 7.5}
    assert sum(f["properties"]["objectType"] == "detection" for f in found) == 3
    assert by_id[f"{ID}3"]["nucleusGeometry"]["coordinates"] == [NUCLEUS]
    assert len(by_id[f"{ID}3"]["geometry"]["coordinates"]) == 2
    assert by_id[f"{ID}3"]["properties"]["measurements"] == {"a": 1.5}
    four = by_id[f"{ID}4"]["properties"]
    assert (four["name"], four["isLocked"]) == ("mine", True)
    assert four["classification"] == {"name": "A: B", "color": [1, 2, 3]}
    assert by_id[f"{ID}5"]["geometry"] == {"type": "MultiPoint", "coordinates": [[1, 2], [3, 4]]}
    assert report.notes == {"lines": 1, "TMA cores": 1}


@pytest.mark.parametrize(
    ("of_file", "corner"), [("geojson", (10, 10)), ("geojson-level0", (-190, -90))]
)
def test_frames_of_a_slide_with_bounds(tmp_path, of_file, corner):
    x, y = corner
    ring = [[a + 10 - x, b + 10 - y] for a, b in SQUARE]
    path = text(tmp_path / "a.geojson", [feature(1, [ring])])
    (found,), _ = imported(tmp_path, path, slide(bounds=CROPPED), of_file)
    shown = shapely.geometry.shape(found["geometry"]).bounds
    assert shown == ((20 - x, 20 - y, 50 - x, 40 - y) if of_file == "geojson" else (10, 10, 40, 30))


def test_the_other_frame_is_proposed(tmp_path):
    ring = [[a + 520, b + 210] for a, b in SQUARE]
    path = text(tmp_path / "a.geojson", [feature(1, [ring])])
    with pytest.raises(AnnotationError, match="as format 'geojson-level0' it would fit"):
        import_annotations(path, slide(bounds=CROPPED))


def test_a_foreign_file_needs_a_slide(tmp_path):
    path = text(tmp_path / "a.geojson", [feature()])
    with pytest.raises(AnnotationError, match="name the slide"):
        import_annotations(path)


UNREAD = {
    "11_unclosed_ring", "14_geometry_null", "15_geometry_missing", "17_zero_area_collinear",
    "18_subpixel_tiny", "29_plane", "30_plane_extra_key", "91_empty_fc", "92_not_geojson",
    "93_empty_file", "96_feature_null_in_fc", "97_one_bad_of_many", "99_newline_delimited",
    "9A_nan_coord", "c4", "c5", "c8", "c9",
}  # fmt: skip
"""What no object can be made of, or not all of them: QuPath reads nothing of it, or empty outlines,
or another plane (29), or leaves a broken part out without a word (c8)."""

OTHER_COUNT = {
    "13_empty_coordinates": 1,  # QuPath adds an empty outline
    "27_points": 2,  # and three lines
    "37_objectType_variants": 8,  # and two TMA cores and a root
    "84_children": 2,  # QuPath counts the parent alone
}
OWN_COLOR = {"41_class_name_color", "48_class_name_color_rgba"}
"""Tumor in a colour that QuPath's own Tumor does not have: kept, and warned of."""


@pytest.mark.realdata
def test_every_case_measured_in_qupath_is_imported_or_named(data_dir, tmp_path):
    cases = data_dir / "annotations" / "qupath_cases"
    expected = json.loads((cases / "expected.json").read_text(encoding="utf-8"))
    of, unread = slide((12_000, 12_000)), set()
    for name, measured in expected.items():
        case = name.split(".")[0]
        try:
            found = import_annotations(cases / name, of)
            report = write_imported(found, tmp_path, case)
        except AnnotationError:
            unread.add(case)
            assert not list(tmp_path.glob(f"{case}*"))
            continue
        codes = {f.code for f in verify_geojson(report.files[0]).findings if f.severity != "note"}
        assert codes == ({"class-color-lost"} if case in OWN_COLOR else set()), name
        counts = {m["objects"] for m in measured.values() if "raises" not in m}
        wanted = {OTHER_COUNT[case]} if case in OTHER_COUNT else counts
        assert not wanted or report.objects in wanted, name
    assert unread == UNREAD
    assert len(expected) == 83


def test_objects_without_ids_get_different_ones_whatever_they_are(tmp_path):
    twins = [feature(1, objectType=kind) for kind in ("annotation", "detection", "cell")]
    for one in twins:
        del one["id"]
    first, _ = imported(tmp_path / "a", text(tmp_path / "a.geojson", twins))
    again, _ = imported(tmp_path / "b", text(tmp_path / "a.geojson", twins))
    assert len({f["id"] for f in first}) == 3
    assert [f["id"] for f in first] == [f["id"] for f in again]


# --- WSInfer, CLAM


@pytest.mark.parametrize("to", ["wsinfer", "clam"])
def test_tiles_come_back_with_their_probabilities(tmp_path, to):
    if to == "clam":
        pytest.importorskip("h5py")
    image = replace(MIRAX, spacing=IMAGE.spacing.__class__((0.25, 0.25)), shape=(2799, 2439))
    folder = make_result(tmp_path / "r", image)
    asked = {"tile_um": 64.0}
    (path,) = export(folder, tmp_path / "e", to, **asked).files
    (tiles,) = export(folder, tmp_path / "e", kind="tiles", **asked).files
    whole = wsiseg.open(np.zeros((2799, 2439, 3), np.uint8), mpp=0.25)
    whole.metadata = replace(whole.metadata, vendor="mirax", bounds=image.bounds)
    found, _ = imported(tmp_path, path, whole)
    needed = {
        tuple(np.floor(np.array(shapely.geometry.shape(f["geometry"]).bounds) + 0.5)): f
        for f in features_of(tiles)
    }
    compared = 0
    for one in found:
        assert one["properties"]["objectType"] == "tile"
        other = needed.get(shapely.geometry.shape(one["geometry"]).bounds)
        if other is None:  # CLAM has whole tiles alone
            continue
        compared += 1
        measured, known = (f["properties"]["measurements"] for f in (one, other))
        assert measured.keys() == known.keys()
        assert list(measured.values()) == pytest.approx(list(known.values()), abs=1e-4)
        classes = [f["properties"].get("classification", {}).get("name") for f in (one, other)]
        assert classes[0] == classes[1]
    assert compared > 0.6 * len(found) > 20


def test_what_probabilities_leave_of_one_is_background(tmp_path):
    rows = {"0.2,0.1": None, "0.4,0.25": "Tumor", "0.1,0.9": "Stroma", "0.45,0.55": "Stroma"}
    lines = [f"{64 * i},0,64,64,{row}" for i, row in enumerate(rows)]
    table = "\n".join(["minx,miny,width,height,prob_Tumor,prob_Stroma", *lines])
    found, _ = imported(tmp_path, text(tmp_path / "a.csv", table))
    names = [f["properties"].get("classification", {}).get("name") for f in found]
    assert names == list(rows.values())


def test_wsinfer_tables_that_are_none(tmp_path):
    path = text(tmp_path / "a.csv", "x,y\n1,2\n")
    with pytest.raises(AnnotationError, match="needed the columns minx"):
        import_annotations(path, slide())
    path = text(tmp_path / "b.csv", "minx,miny,width,height,prob_a\n1,2,3,oops,0.5\n")
    with pytest.raises(AnnotationError, match="oops"):
        import_annotations(path, slide())


def test_clam_and_trident_have_their_patch_sizes(tmp_path):
    h5py = pytest.importorskip("h5py")
    layouts = {
        "clam": {"patch_size": 16, "patch_level": 1, "downsample": np.array([4.0, 4.0])},
        "trident": {"patch_size": 16, "patch_size_level0": 64, "overlap": 0},
    }
    for name, attributes in layouts.items():
        path = tmp_path / f"{name}.h5"
        with h5py.File(path, "w") as file:
            file["coords"] = np.array([[0, 0], [64, 128]])
            file["coords"].attrs.update(attributes)
            file["attention_scores"] = np.array([[0.25], [0.75]], np.float32)
        found, _ = imported(tmp_path / name, path)
        bounds = [shapely.geometry.shape(f["geometry"]).bounds for f in found]
        assert bounds == [(0, 0, 64, 64), (64, 128, 128, 192)]
        assert [f["properties"]["measurements"]["attention_scores"] for f in found] == [0.25, 0.75]
    with h5py.File(tmp_path / "bad.h5", "w") as file:
        file["coords"] = np.zeros((2, 2))
    with pytest.raises(AnnotationError, match="patch_size"):
        import_annotations(tmp_path / "bad.h5", slide())
    (tmp_path / "broken.h5").write_bytes((tmp_path / "clam.h5").read_bytes()[:300])
    with pytest.raises(AnnotationError, match="cannot be read as HDF5"):
        import_annotations(tmp_path / "broken.h5", slide())


# --- TIAToolbox


def make_store(path, rows, compression="zlib", **kept):
    """Write a store as TIAToolbox's SQLiteStore 1.0.1 lays it out."""
    with sqlite3.connect(path) as database:
        database.executescript(
            kept.get("before", "") + "CREATE TABLE metadata (key TEXT UNIQUE, value TEXT);"
            "CREATE VIRTUAL TABLE rtree USING rtree_i32(id, min_x, max_x, min_y, max_y);"
            "CREATE TABLE annotations(id INTEGER PRIMARY KEY, key TEXT UNIQUE, objtype TEXT,"
            " cx INTEGER NOT NULL, cy INTEGER NOT NULL, geometry BLOB, properties TEXT,"
            " area INTEGER NOT NULL);"
        )
        meta = [("version", '"1.0.1"'), ("compression", json.dumps(compression))]
        database.executemany("INSERT INTO metadata VALUES (?, ?)", meta)
        for key, geometry, properties in rows:
            blob = geometry if isinstance(geometry, bytes) else geometry.wkb
            if compression == "zlib" and not isinstance(geometry, bytes):
                blob = zlib.compress(blob, 9)
            is_point = not isinstance(geometry, bytes) and geometry.geom_type == "Point"
            place = (0, 0) if isinstance(geometry, bytes) else (
                int(geometry.centroid.x), int(geometry.centroid.y)
            )  # fmt: skip
            row = (key, "", *place, None if is_point else blob, json.dumps(properties), 0)
            database.execute("INSERT INTO annotations VALUES (NULL, ?, ?, ?, ?, ?, ?, ?)", row)
    database.close()
    return path


@pytest.mark.parametrize("compression", ["zlib", None])
def test_a_store_of_tiatoolbox(tmp_path, compression):
    rows = [
        (f"{ID}1", shapely.Polygon(SQUARE, [HOLE]), {"type": "Tumor", "prob": 0.75, "box": [1, 2]}),
        ("2", shapely.MultiPolygon([shapely.box(0, 0, 4, 4), shapely.box(9, 9, 12, 12)]), {}),
        ("3", shapely.Point(100, 50), {"type": 4, "prob": None}),
        ("4", shapely.LineString([(0, 0), (5, 5)]), {"type": "Tumor"}),
    ]
    path = make_store(tmp_path / "a.db", rows, compression)
    before = path.read_bytes()
    found, report = imported(tmp_path, path, slide(bounds=Box((0, 0), (200, 300))))
    assert path.read_bytes() == before
    first = next(f for f in found if f["id"] == f"{ID}1")
    assert shapely.geometry.shape(first["geometry"]).equals(rows[0][1])
    assert first["properties"]["measurements"] == {"prob": 0.75}
    assert first["properties"]["classification"]["name"] == "Tumor"
    point = next(f for f in found if f["geometry"]["type"] == "Point")
    assert point["geometry"]["coordinates"] == [100, 50]
    assert point["properties"]["classification"]["name"] == "4"
    assert sum(f["geometry"]["type"] == "MultiPolygon" for f in found) == 1
    assert report.notes == {"lines": 1}


def test_a_store_is_data_and_runs_nothing(tmp_path):
    rows = [(f"{ID}1", shapely.Polygon(SQUARE), {})]
    path = make_store(tmp_path / "view.db", rows)
    with sqlite3.connect(path) as database:
        database.executescript(
            "ALTER TABLE annotations RENAME TO real;CREATE VIEW annotations AS SELECT * FROM real;"
        )
    database.close()
    with pytest.raises(AnnotationError, match="no table of it"):
        import_annotations(path, slide())


@pytest.mark.parametrize(
    ("blob", "said"),
    [(b"not zlib", "annotation 0"), (zlib.compress(b"no wkb"), "annotation 0")],
)
def test_a_damaged_outline_is_named(tmp_path, blob, said):
    path = make_store(tmp_path / "a.db", [("k", blob, {})])
    with pytest.raises(AnnotationError, match=said):
        import_annotations(path, slide())


def test_an_outline_that_unpacks_without_end_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("wsiseg.exchange.from_tiatoolbox.LARGEST", 1 << 16)
    blob = zlib.compress(bytes(1 << 20))
    path = make_store(tmp_path / "a.db", [("k", blob, {})])
    with pytest.raises(AnnotationError, match="more than 65536 bytes"):
        import_annotations(path, slide())


def test_json_of_tiatoolbox(tmp_path):
    bare = {
        "type": "FeatureCollection",
        "features": [feature(1, (SQUARE, HOLE), type="Tumor", prob=0.5)],
    }
    nuclei = {
        "mag": 40,
        "nuc": {"7": {"contour": SQUARE[:-1], "type": 2, "type_prob": 0.9, "centroid": [1, 2]}},
    }
    (one,), _ = imported(tmp_path / "a", text(tmp_path / "a.json", bare))
    assert one["properties"]["classification"]["name"] == "Tumor"
    assert one["properties"]["measurements"] == {"prob": 0.5}
    assert len(one["geometry"]["coordinates"]) == 2
    (two,), _ = imported(tmp_path / "b", text(tmp_path / "b.json", nuclei))
    assert two["properties"]["classification"]["name"] == "2"
    assert two["properties"]["measurements"] == {"type_prob": 0.9}
    assert shapely.geometry.shape(two["geometry"]).equals(shapely.Polygon(SQUARE))


# --- HistomicsUI


def element(kind, **more):
    return {"type": kind, "lineColor": "rgb(10, 20, 30)", "group": "Gland", **more}


def test_histomicsui(tmp_path):
    flat_ring = [[x, y, 0] for x, y in SQUARE[:-1]]
    hole = [[x, y, 0] for x, y in HOLE[:-1]]
    elements = [
        element("polyline", points=flat_ring, closed=True, holes=[hole], label={"value": "a"}),
        element("rectangle", center=[100, 50, 0], width=40, height=20, rotation=np.pi / 2),
        element("ellipse", center=[200, 50, 0], width=40, height=20, rotation=0),
        element("circle", center=[300, 50, 0], radius=10, group=None, label={"value": "Lumen"}),
        element("point", center=[5, 6, 0], lineColor="#0f8", group="Mark"),
        element("polyline", points=flat_ring, closed=False),
        element("arrow", points=flat_ring[:2]),
        element("heatmap", points=[]),
    ]
    value = [{"annotation": {"name": "layer", "elements": elements}, "_id": "x"}]
    found, report = imported(tmp_path, text(tmp_path / "a.json", value))
    first, second, ellipse, circle, point = found
    assert len(first["geometry"]["coordinates"]) == 2
    assert first["properties"]["classification"] == {"name": "Gland", "color": [10, 20, 30]}
    assert first["properties"]["name"] == "a"
    assert shapely.geometry.shape(second["geometry"]).equals(shapely.box(90, 30, 110, 70))
    assert shapely.geometry.shape(ellipse["geometry"]).area == pytest.approx(np.pi * 200, rel=1e-3)
    assert shapely.geometry.shape(circle["geometry"]).area == pytest.approx(np.pi * 100, rel=1e-3)
    assert circle["properties"]["classification"]["name"] == "Lumen"
    assert point["geometry"] == {"type": "Point", "coordinates": [5, 6]}
    assert point["properties"]["classification"]["color"] == [0, 255, 136]
    assert report.notes == {"lines": 2, "elements of type heatmap": 1}


def test_an_element_that_cannot_be_read_is_named(tmp_path):
    value = {"elements": [element("point", center=[1, 2, 0]), element("point", center=["a"])]}
    with pytest.raises(AnnotationError, match="element 1: cannot be read"):
        import_annotations(text(tmp_path / "a.json", value), slide())


# --- ASAP, ImageScope


def test_asap_keeps_groups_and_colors(tmp_path):
    corners = "".join(
        f'<Coordinate Order="{i}" X="{x}" Y="{y}"/>' for i, (x, y) in enumerate(SQUARE[:-1])
    )
    body = (
        "<ASAP_Annotations><Annotations>"
        f'<Annotation Name="a" Type="Polygon" PartOfGroup="metastasis" Color="#F4FA58">'
        f"<Coordinates>{corners}</Coordinates></Annotation></Annotations>"
        '<AnnotationGroups><Group Name="metastasis" PartOfGroup="None" Color="#0000ff"/>'
        "</AnnotationGroups></ASAP_Annotations>"
    )
    (found,), _ = imported(tmp_path, text(tmp_path / "a.xml", body))
    assert found["properties"]["classification"] == {"name": "metastasis", "color": [0, 0, 255]}
    assert shapely.geometry.shape(found["geometry"]).equals(shapely.Polygon(SQUARE))


def test_imagescope_keeps_layers_and_colors(tmp_path):
    vertices = "".join(f'<Vertex X="{x}" Y="{y}" Z="0"/>' for x, y in SQUARE[:-1])
    body = (
        '<Annotations MicronsPerPixel="0.5"><Annotation Id="1" Name="CaP" LineColor="65280">'
        f'<Regions><Region Id="1" Type="0"><Vertices>{vertices}</Vertices></Region></Regions>'
        "</Annotation></Annotations>"
    )
    (found,), _ = imported(tmp_path, text(tmp_path / "a.xml", body))
    assert found["properties"]["classification"] == {"name": "CaP", "color": [0, 255, 0]}


@pytest.mark.realdata
def test_annotations_of_camelyon(tmp_path, data_dir):
    path = data_dir / "annotations" / "camelyon16" / "tumor_036.xml"
    found, _ = imported(tmp_path, path, _large())
    names = {f["properties"]["classification"]["name"] for f in found}
    assert names <= {"metastasis", "negative"}
    assert len(found) > 0


def _large() -> Pyramid:
    import dask.array

    return wsiseg.open(
        dask.array.zeros((250_000, 250_000, 3), dtype=np.uint8, chunks=8192), mpp=0.25
    )


# --- refusals


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("a.txt", "hello", "known format"),
        ("a.geojson", "", "the file is empty"),
        ("a.geojson", "{", "not GeoJSON"),
        ("a.geojson", '{"a": 1}', "no area and no point"),
        ("a.db", "SQLite format 3\0 nonsense", "annotation store of TIAToolbox"),
        ("a.xml", "<svg/>", "needed XML of ASAP"),
    ],
)
def test_what_cannot_be_read_is_named(tmp_path, name, content, said):
    path = text(tmp_path / name, content)
    with pytest.raises(AnnotationError, match=said):
        write_imported(import_annotations(path, slide()), tmp_path / "out", "a")
    assert not (tmp_path / "out").exists()


def test_objects_beside_the_slide_are_refused(tmp_path):
    path = text(tmp_path / "a.geojson", [feature()])
    with pytest.raises(AnnotationError, match="only 0% of its objects lie on"):
        import_annotations(path, slide((8, 8)))
    with pytest.raises(UsageError, match="needed one of geojson"):
        import_annotations(path, slide(), format="shp")


def test_nothing_is_replaced_unasked_on_import(tmp_path):
    path = text(tmp_path / "a.geojson", [feature()])
    imported(tmp_path, path)
    with pytest.raises(RunError, match="--overwrite"):
        imported(tmp_path, path)
    imported(tmp_path, path, overwrite=True)
