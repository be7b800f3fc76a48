"""The writer: what it writes is valid for QuPath, stable, and comes back as it was."""

import gzip
import json
import math
import uuid
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.annotations import (
    AnnotationClass,
    Annotations,
    ImageRef,
    read_geojson,
    to_frame,
    verify_geojson,
    write_annotations,
    write_geojson,
)
from wsiseg.annotations.geojson import clean_class_name
from wsiseg.errors import AnnotationError, DiskFullError, LabelError
from wsiseg.geometry import Box, Spacing

IMAGE = ImageRef("case é.svs", (3000, 2000), Spacing((0.5, 0.25)), "aperio")
MIRAX = replace(IMAGE, vendor="mirax", bounds=Box((100, 200), (2100, 1200)))
CLASSES = (AnnotationClass("Gland", (1, 2, 3)), AnnotationClass("Stroma: loose", (9, 8, 7)))


def annotate(*geometries, image=IMAGE, classes=CLASSES, **columns):
    column = np.empty(len(geometries), dtype=object)
    column[:] = geometries
    index = np.arange(len(geometries), dtype=np.int64) % len(classes)
    measurements = {name: np.array(values, dtype=float) for name, values in columns.items()}
    return Annotations(column, index, classes, image, measurements)


def features(path: Path) -> list[dict]:
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)["features"]


def square(x: float, y: float, size: float = 10) -> shapely.Polygon:
    return shapely.box(x, y, x + size, y + size)


points = st.tuples(st.integers(0, 40), st.integers(0, 40))
fractions = st.tuples(*[st.floats(0, 40, allow_nan=False)] * 2)


@st.composite
def ragged_polygons(draw: st.DrawFn, coordinates=points | fractions) -> shapely.Polygon:
    """Any closed ring with any holes: mostly invalid."""
    rings = draw(st.lists(st.lists(coordinates, min_size=4, max_size=9), min_size=1, max_size=3))
    return shapely.Polygon(rings[0], rings[1:])


@st.composite
def clean_polygons(draw: st.DrawFn) -> shapely.Polygon:
    """A valid polygon with whole or hundredth coordinates, perhaps with a hole."""
    scale = draw(st.sampled_from([1.0, 0.01]))
    x, y, width, height = (draw(st.integers(3, 90_000)) * scale for _ in range(4))
    shell = [(x, y), (x + width, y), (x + width, y + height), (x, y + height)]
    hole = [(x + width * a, y + height * b) for a, b in ((0.25, 0.25), (0.25, 0.5), (0.5, 0.5))]
    holes = [np.round(hole, 2)] if draw(st.booleans()) and width * height > 100 else []
    return shapely.Polygon(np.round(shell, 2), holes)


@given(geometries=st.lists(ragged_polygons(), min_size=1, max_size=6))
def test_whatever_comes_in_qupath_takes_what_comes_out(tmp_path_factory, geometries):
    path = tmp_path_factory.mktemp("any") / "a.geojson"
    done = write_geojson(annotate(*geometries), path)
    assert done.objects + sum(done.dropped.values()) == len(geometries)
    report = verify_geojson(path)
    if done.objects:
        assert report.verdict == "clean", str(report)
        assert not report.findings
    else:
        assert report.counts == {"no-objects": 1}
    assert report.loads["0.7"].objects == done.objects


@given(
    geometries=st.lists(clean_polygons(), max_size=5),
    values=st.lists(st.floats(width=32) | st.none(), min_size=5, max_size=5),
    name=st.sampled_from(["a.geojson", "a.geojson.gz", "A.JSON"]),
    frame=st.sampled_from(["level0", "qupath"]),
)
def test_reading_gives_back_what_was_written(tmp_path_factory, geometries, values, name, frame):
    image = replace(MIRAX, shape=(2000, 2000))
    image = replace(image, bounds=Box((0, 0), (180_000, 180_000)), shape=(180_000, 190_000))
    column = [math.nan if value is None else value for value in values[: len(geometries)]]
    annotations = annotate(*geometries, image=image, **{"Area µm^2": column})
    path = tmp_path_factory.mktemp("back") / name
    write_geojson(annotations, path, frame=frame)
    again = read_geojson(path)
    assert again.image == image
    assert again.frame == frame
    assert len(again) == len(geometries)
    assert all(a.equals_exact(b, 0) for a, b in zip(again.geometries, geometries, strict=True))
    names = [again.classes[i].name for i in again.class_index]
    assert names == [CLASSES[i % 2].name for i in range(len(geometries))]
    back = again.measurements.get("Area µm^2", np.full(len(geometries), np.nan))
    kept = np.where(np.isfinite(column), column, np.nan)
    np.testing.assert_array_equal(back, kept)


def test_no_annotations_are_written_as_such(tmp_path):
    done = write_geojson(annotate(), tmp_path / "a.geojson")
    assert (done.objects, done.dropped) == (0, {})
    assert verify_geojson(tmp_path / "a.geojson").counts == {"nothing-found": 1}


@given(geometries=st.lists(ragged_polygons(), min_size=1, max_size=5))
def test_two_writes_give_the_same_bytes(tmp_path_factory, geometries):
    folder = tmp_path_factory.mktemp("twice")
    for name in ("a.geojson", "a.geojson.gz"):
        first, second = folder / name, folder / "other" / name
        second.parent.mkdir(exist_ok=True)
        for path in (first, second):
            write_geojson(annotate(*geometries, p=[0.5] * len(geometries)), path)
        assert first.read_bytes() == second.read_bytes()


@given(geometries=st.lists(st.sampled_from([square(0, 0), square(3, 5)]), min_size=1, max_size=8))
def test_ids_are_uuids_unique_and_do_not_depend_on_frame_or_neighbours(
    tmp_path_factory, geometries
):
    folder = tmp_path_factory.mktemp("ids")
    geometries = [shapely.affinity.translate(g, 300, 200) for g in geometries]
    annotations = annotate(*geometries, image=MIRAX)
    write_geojson(annotations, folder / "q.geojson", frame="qupath")
    write_geojson(annotations, folder / "l.geojson", frame="level0")
    ids = [feature["id"] for feature in features(folder / "q.geojson")]
    assert len(set(ids)) == len(ids)
    assert all(str(uuid.UUID(name)) == name and uuid.UUID(name).version == 5 for name in ids)
    assert ids == [feature["id"] for feature in features(folder / "l.geojson")]
    write_geojson(annotate(geometries[0], square(700, 900), image=MIRAX), folder / "n.geojson")
    assert features(folder / "n.geojson")[0]["id"] == ids[0]


def test_ids_differ_by_image_class_and_outline(tmp_path):
    def first_id(annotations):
        write_geojson(annotations, tmp_path / "a.geojson")
        return features(tmp_path / "a.geojson")[0]["id"]

    ids = {
        first_id(annotate(square(0, 0))),
        first_id(annotate(square(0, 0), classes=CLASSES[::-1])),
        first_id(annotate(square(0, 1))),
        first_id(annotate(square(0, 0), image=replace(IMAGE, name="other.svs"))),
        first_id(annotate(square(0, 0) - square(2, 2, 3))),
        first_id(annotate(shapely.union(square(0, 0), square(20, 20)))),
    }
    assert len(ids) == 6


def test_the_id_of_a_known_object_never_changes(tmp_path):
    write_geojson(annotate(square(0, 0)), tmp_path / "a.geojson")
    known = features(tmp_path / "a.geojson")[0]["id"]
    assert known == "445e187f-c665-5b1f-9995-dfb6533b8656"  # ids in people's projects depend on it


def test_a_feature_is_what_qupath_documents(tmp_path):
    geometry = square(0, 0) - square(2, 2, 3)
    annotations = annotate(geometry, **{"Area µm^2": [91.0], "p": [math.nan]})
    write_geojson(annotations, tmp_path / "a.geojson", extra={"model": "m"})
    text = json.loads((tmp_path / "a.geojson").read_bytes())
    assert list(text) == ["type", "wsiseg", "features"]
    (feature,) = text["features"]
    assert list(feature) == ["type", "id", "geometry", "properties"]
    assert feature["properties"] == {
        "objectType": "annotation",
        "classification": {"name": "Gland", "color": [1, 2, 3]},
        "measurements": {"Area µm^2": 91.0},
    }
    assert feature["geometry"]["type"] == "Polygon"
    assert shapely.geometry.shape(feature["geometry"]).equals(geometry)
    about = text["wsiseg"]
    assert (about["image"], about["image_width"], about["image_height"]) == (
        "case é.svs",
        2000,
        3000,
    )
    assert (about["mpp"], about["offset"], about["frame"]) == ([0.25, 0.5], [0, 0], "qupath")
    assert about["model"] == "m"
    assert about["bounds_applied"] is False
    assert None not in about.values()


@pytest.mark.parametrize("frame", ["level0", "qupath"])
def test_the_frame_is_read_back(tmp_path, frame):
    write_geojson(annotate(square(300, 200), image=MIRAX), tmp_path / "a.geojson", frame=frame)
    again = read_geojson(tmp_path / "a.geojson")
    assert (again.frame, again.image) == (frame, MIRAX)
    assert to_frame(again, "level0").geometries[0].bounds == (300, 200, 310, 210)


def test_qupath_frame_starts_at_the_bounds_and_clips_to_them(tmp_path):
    inside, across, outside = square(300, 200), square(195, 95), square(0, 0)
    done = write_geojson(annotate(inside, across, outside, image=MIRAX), tmp_path / "a.geojson")
    first, second = features(tmp_path / "a.geojson")
    assert shapely.geometry.shape(first["geometry"]).bounds == (100, 100, 110, 110)
    assert shapely.geometry.shape(second["geometry"]).bounds == (0, 0, 5, 5)
    assert (done.objects, done.clipped, done.dropped) == (2, 1, {"outside the image": 1})
    about = json.loads((tmp_path / "a.geojson").read_bytes())["wsiseg"]
    assert (about["image_width"], about["image_height"]) == (1000, 2000)
    assert (about["offset"], about["bounds"]) == ([200, 100], [200, 100, 1000, 2000])
    assert about["bounds_applied"] is True


def test_numbers_are_short(tmp_path):
    fraction = shapely.Polygon([(0, 0), (1.006, 0), (10.5, 3), (0, 3)])
    write_geojson(annotate(square(1, 2), fraction), tmp_path / "a.geojson")
    text = (tmp_path / "a.geojson").read_text("utf-8")
    assert "[11,2]" in text
    assert "[[0,0],[1.01,0],[10.5,3],[0,3],[0,0]]" in text
    assert ".0," not in text.replace('"version":', "").split('"features"')[1]


def test_a_class_name_may_look_like_a_number(tmp_path):
    classes = (AnnotationClass("grade 1.0, low [2.0]", (0, 0, 0)),)
    fraction = shapely.Polygon([(0, 0), (1.5, 0), (10, 3)])
    write_geojson(annotate(fraction, classes=classes), tmp_path / "a.geojson")
    (feature,) = features(tmp_path / "a.geojson")
    assert feature["properties"]["classification"]["name"] == "grade 1.0, low [2.0]"


BOWTIE = shapely.Polygon([(0, 0), (10, 10), (10, 0), (0, 10)])
NASTY = {
    "bow-tie": (BOWTIE, 50.0, 2),
    "spike": (shapely.Polygon([(0, 0), (10, 0), (10, 10), (20, 10), (10, 10), (0, 10)]), 100, 1),
    "hole touching the shell at a point": (
        shapely.Polygon(square(0, 0).exterior, [[(0, 5), (5, 3), (5, 7)]]),
        90,
        1,
    ),
    "hole along the shell": (
        shapely.Polygon(square(0, 0).exterior, [square(0, 0, 5).exterior.coords]),
        75,
        1,
    ),
    "hole outside the shell": (
        shapely.Polygon(square(0, 0).exterior, [square(50, 50, 5).exterior.coords]),
        100,
        1,
    ),
    "corners touching": (
        shapely.Polygon(
            [(0, 0), (10, 0), (10, 10), (20, 10), (20, 20), (10, 20), (10, 10), (0, 10)]
        ),
        200,
        2,
    ),
    "repeated vertices": (shapely.Polygon([(0, 0), (0, 0), (10, 0), (10, 0), (5, 8)]), 40, 1),
    "vertices that rounding makes equal": (
        shapely.Polygon([(0, 0), (0.001, 0), (10, 0), (10, 10), (0, 10)]),
        100,
        1,
    ),
    "parts sharing an edge": (shapely.MultiPolygon([square(0, 0), square(10, 0)]), 200, 1),
    "one part": (shapely.MultiPolygon([square(0, 0)]), 100, 1),
    "what rounds once more when rounded": (
        shapely.Polygon(
            [(0, 0), (2, 9), (0, 1), (0, 0), (0, 0), (0.016, 0.062), (0, 1), (1, 0), (0, 0)]
        ),
        1.32,
        2,
    ),
    "valid, but almost cut": (
        shapely.Polygon(
            [
                (0, 0),
                (10, 0),
                (10, 5),
                (20, 5),
                (20, 0),
                (30, 0),
                (30, 10),
                (20, 10),
                (20, 5.004),
                (10, 5.004),
                (10, 10),
                (0, 10),
            ]
        ),
        200,
        2,
    ),
    "a vertex close to a long edge": (
        shapely.Polygon([(0, 0), (1000, 1), (1000, 100), (999, 1), (0, 100)]),
        49999.5,
        2,
    ),
    "minus zero": (shapely.Polygon([(-0.0, -0.001), (10, -0.0), (10, 10)]), 50, 1),
}


ONLY_TIDIED = {
    "hole touching the shell at a point",
    "repeated vertices",
    "vertices that rounding makes equal",
    "one part",
    "minus zero",
}


@pytest.mark.parametrize("name", NASTY)
def test_a_broken_outline_is_repaired(tmp_path, name):
    geometry, area, parts = NASTY[name]
    done = write_geojson(annotate(geometry), tmp_path / "a.geojson")
    (feature,) = features(tmp_path / "a.geojson")
    written = shapely.geometry.shape(feature["geometry"])
    assert written.is_valid
    assert written.area == pytest.approx(area, rel=1e-3)
    assert len(shapely.get_parts(written)) == parts
    assert feature["geometry"]["type"] == ("Polygon" if parts == 1 else "MultiPolygon")
    assert done.repaired == (name not in ONLY_TIDIED)
    report = verify_geojson(tmp_path / "a.geojson")
    assert not report.findings, str(report)
    assert "-0" not in json.dumps(feature["geometry"])


DROPPED = {
    "sliver": (shapely.Polygon([(0, 0), (10, 0.001), (10, 0.002)]), "smaller than 0.01 px"),
    "speck": (square(5, 5, 0.002), "smaller than 0.01 px"),
    "line": (shapely.Polygon([(0, 0), (10, 0), (20, 0)]), "smaller than 0.01 px"),
    "empty": (shapely.Polygon(), "smaller than 0.01 px"),
    "nothing": (None, "not a polygon"),
    "point": (shapely.Point(1, 1), "not a polygon"),
    "infinite": (shapely.Polygon([(0, 0), (np.inf, 0), (1, 1)]), "coordinates not finite"),
    "outside": (square(5000, 5000), "outside the image"),
}


@pytest.mark.parametrize("name", DROPPED)
def test_what_qupath_cannot_show_is_dropped_and_counted(tmp_path, name):
    geometry, reason = DROPPED[name]
    done = write_geojson(annotate(geometry, square(0, 0)), tmp_path / "a.geojson")
    assert done.dropped == {reason: 1}
    assert done.objects == len(features(tmp_path / "a.geojson")) == 1
    assert verify_geojson(tmp_path / "a.geojson").verdict == "clean"


def test_measurements_are_finite_or_absent(tmp_path):
    columns = {"a": [1.5, math.nan], "b": [math.inf, -math.inf], "c": [1e300, 2]}
    write_geojson(annotate(square(0, 0), square(50, 0), **columns), tmp_path / "a.geojson")
    first, second = features(tmp_path / "a.geojson")
    assert first["properties"]["measurements"] == {"a": 1.5}
    assert second["properties"]["measurements"] == {"c": 2}
    assert verify_geojson(tmp_path / "a.geojson").verdict == "clean"


@pytest.mark.parametrize("name", ["", "  ", "a\nb", "a\rb", ":", "a:", ":b", "a: :b", "\ud800"])
def test_class_names_qupath_refuses_are_refused(tmp_path, name):
    with pytest.raises(LabelError, match="rename the class"):
        write_geojson(
            annotate(square(0, 0), classes=(AnnotationClass(name, (0, 0, 0)),)),
            tmp_path / "a.geojson",
        )
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "shown"), [(" Tumor ", "Tumor"), ("a:b", "a: b"), ("a : b ", "a: b"), ("é*", "é*")]
)
def test_class_names_are_written_as_qupath_shows_them(name, shown):
    assert clean_class_name(name) == shown


@pytest.mark.parametrize("color", [(0, 0, 256), (-1, 0, 0), (1, 2), (1, 2, 3, 4)])
def test_colors_are_rgb(tmp_path, color):
    with pytest.raises(LabelError, match="three integers 0-255"):
        write_geojson(
            annotate(square(0, 0), classes=(AnnotationClass("a", color),)), tmp_path / "a.geojson"
        )


def test_classes_that_become_one_are_refused(tmp_path):
    classes = (AnnotationClass("a", (0, 0, 0)), AnnotationClass("a ", (1, 1, 1)))
    with pytest.raises(LabelError, match="need to differ"):
        write_geojson(annotate(square(0, 0), classes=classes), tmp_path / "a.geojson")


def test_a_class_index_without_a_class_is_refused(tmp_path):
    annotations = replace(annotate(square(0, 0)), class_index=np.array([2]))
    with pytest.raises(LabelError, match="class_index needs 0 to 1"):
        write_geojson(annotations, tmp_path / "a.geojson")


def test_an_outline_that_also_touches_the_edge_is_clipped_not_lost(tmp_path):
    """In the image, whose edge is at x = 200, it is an area and a line along that edge."""
    outline = shapely.Polygon(
        [(150, 110), (240, 110), (240, 140), (200, 140), (200, 180), (150, 180)]
    )
    done = write_geojson(annotate(outline, image=MIRAX), tmp_path / "a.geojson")
    assert (done.objects, done.clipped, done.dropped) == (1, 1, {})
    (written,) = features(tmp_path / "a.geojson")
    assert shapely.geometry.shape(written["geometry"]).equals(shapely.box(0, 10, 40, 40))


def test_members_that_are_no_json_are_refused(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be JSON"):
        write_geojson(annotate(square(0, 0)), tmp_path / "a.geojson", extra={"x": object()})
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ["a.txt", "a.gz", "a.geojson.gzip", "a.zip"])
def test_endings_qupath_does_not_read_are_refused(tmp_path, name):
    with pytest.raises(AnnotationError, match=r"use \.geojson"):
        write_geojson(annotate(square(0, 0)), tmp_path / name)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
@pytest.mark.parametrize("name", ["a.geojson", "a.geojson.gz"])
def test_a_full_disk_leaves_nothing_behind(tmp_path, name):
    (tmp_path / f".{name}.part").symlink_to("/dev/full")
    many = annotate(*[square(i, 0) for i in range(300)])
    with pytest.raises(DiskFullError, match="no room left"):
        write_geojson(many, tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_a_full_disk_keeps_the_shards_of_before(tmp_path, monkeypatch):
    write_annotations(tmp_path, annotate(square(0, 0)))
    before = (tmp_path / "annotations.geojson").read_bytes()
    real = Path.open

    def full(self, *args, **kwargs):
        if "0002" in self.name:
            return real(Path("/dev/full"), *args, **kwargs)
        return real(self, *args, **kwargs)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(DiskFullError):
        write_annotations(tmp_path, annotate(*[square(i, 0) for i in range(9)]), limits=(3, 10**6))
    assert [path.name for path in tmp_path.iterdir()] == ["annotations.geojson"]
    assert (tmp_path / "annotations.geojson").read_bytes() == before


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(AnnotationError, match="cannot be written"):
        write_geojson(annotate(square(0, 0)), tmp_path / "none" / "a.geojson")


@given(
    count=st.integers(0, 12),
    objects=st.integers(1, 5),
    size=st.sampled_from([1, 700, 10**6]),
    compress=st.booleans(),
)
def test_shards_hold_each_object_once_and_the_index_lists_them(
    tmp_path_factory, count, objects, size, compress
):
    folder = tmp_path_factory.mktemp("shards")
    annotations = annotate(*[square(20 * i, 0) for i in range(count)])
    done = write_annotations(folder, annotations, compress=compress, limits=(objects, size))
    assert set(folder.iterdir()) == set(done.files)
    assert done.bytes == sum(path.stat().st_size for path in done.files)
    shards = [path for path in done.files if not path.name.endswith(".index.json")]
    found = [feature["id"] for path in shards for feature in features(path)]
    assert len(found) == len(set(found)) == count == done.objects
    assert all(len(features(path)) <= objects for path in shards)
    if len(shards) == 1:
        assert shards[0].name == ("annotations.geojson.gz" if compress else "annotations.geojson")
        return
    index = json.loads((folder / "annotations.index.json").read_bytes())
    assert [entry["file"] for entry in index["files"]] == [path.name for path in shards]
    assert [entry["objects"] for entry in index["files"]] == [len(features(p)) for p in shards]
    assert index["objects"] == count
    assert index["wsiseg"]["image"] == IMAGE.name


def test_a_second_run_replaces_the_files_of_the_first(tmp_path):
    annotations = annotate(*[square(20 * i, 0) for i in range(5)])
    (tmp_path / "annotations-draft.geojson").write_text("mine")
    write_annotations(tmp_path, annotations, limits=(2, 10**6))
    write_annotations(tmp_path, annotations, name="tissue")
    assert len(list(tmp_path.iterdir())) == 6
    write_annotations(tmp_path, annotations)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"annotations.geojson", "annotations-draft.geojson", "tissue.geojson"}


@pytest.mark.parametrize(
    "text",
    [
        '{"type":"FeatureCollection","features":[%s,%s]}',
        "[%s,%s]",
        '[{"type":"FeatureCollection","features":[%s]},%s]',
    ],
)
def test_reading_takes_collections_and_arrays(tmp_path, text):
    feature = json.dumps({"type": "Feature", "geometry": square(0, 0).__geo_interface__})
    bare = json.dumps(square(50, 50).__geo_interface__)
    (tmp_path / "a.geojson").write_text(text % (feature, bare))
    with pytest.raises(AnnotationError, match="pass image="):
        read_geojson(tmp_path / "a.geojson")
    again = read_geojson(tmp_path / "a.geojson", image=IMAGE)
    assert shapely.area(again.geometries).tolist() == [100, 100]
    assert [item.name for item in again.classes] == ["Unclassified"]
    (tmp_path / "b.geojson").write_text(feature)
    assert len(read_geojson(tmp_path / "b.geojson", image=IMAGE)) == 1
    (tmp_path / "c.geojson").write_text(bare)
    assert len(read_geojson(tmp_path / "c.geojson", image=IMAGE)) == 1


@pytest.mark.parametrize(
    ("feature", "match"),
    [
        ({"geometry": {"type": "Point", "coordinates": [1, 1]}}, "needed a polygon"),
        ({"geometry": {"type": "Polygon", "coordinates": [[[0, 0], [1, 0], [1, 1]]]}}, "closed"),
        ({"geometry": square(0, 0).__geo_interface__, "properties": None}, "properties"),
    ],
)
def test_reading_names_the_feature_it_refuses(tmp_path, feature, match):
    text = json.dumps({"type": "FeatureCollection", "features": [{"type": "Feature"} | feature]})
    (tmp_path / "a.geojson").write_text(text)
    with pytest.raises(AnnotationError, match=f"feature 0: .*{match}"):
        read_geojson(tmp_path / "a.geojson", image=IMAGE)


def test_reading_names_a_file_that_is_no_json(tmp_path):
    (tmp_path / "a.geojson").write_text('{"type":')
    with pytest.raises(AnnotationError, match="not GeoJSON"):
        read_geojson(tmp_path / "a.geojson", image=IMAGE)
    with pytest.raises(AnnotationError, match="no such file"):
        read_geojson(tmp_path / "b.geojson", image=IMAGE)
