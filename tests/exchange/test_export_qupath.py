"""Exports for QuPath: valid by its rules, of the mask's areas, the same however they are cut."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest
import shapely
from made_results import CLASSES, IMAGE, MIRAX, feature_area, make_result, mask_area, probabilities

from wsiseg.annotations import read_objects, verify_geojson
from wsiseg.errors import RunError, UsageError
from wsiseg.exchange import (
    ExportReport,
    ExportRequest,
    FinishedResult,
    export_result,
    find_results,
)

KINDS = {"annotations": "annotation", "detections": "detection", "cells": "cell"}


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return make_result(tmp_path_factory.mktemp("results") / "case é")


@pytest.fixture(scope="module")
def cropped(tmp_path_factory):
    return make_result(tmp_path_factory.mktemp("results") / "cropped", MIRAX)


def features_of(path: Path) -> list[dict]:
    raw = path.read_bytes()
    return json.loads(gzip.decompress(raw) if path.suffix == ".gz" else raw)["features"]


def flat(features: list[dict]) -> list[dict]:
    found = []
    for feature in features:
        found += [feature, *flat(feature["properties"].get("childObjects", []))]
    return found


def export(result, out, to="qupath", **asked):
    return export_result(result, to, out, request=ExportRequest(**asked))


def shards(report) -> list[Path]:
    return [path for path in report.files if not path.name.endswith(".index.json")]


def is_clean(path) -> bool:
    report = verify_geojson(path)
    assert report.verdict == "clean", str(report)
    return True


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("which", ["result", "cropped"])
def test_every_kind_is_clean_and_has_the_masks_area(request, tmp_path, kind, which):
    folder = request.getfixturevalue(which)
    (path,) = export(folder, tmp_path, kind=kind).files
    assert is_clean(path)
    features = features_of(path)
    assert {f["properties"]["objectType"] for f in features} == {KINDS[kind]}
    needed = mask_area(folder, MIRAX if which == "cropped" else IMAGE)
    assert feature_area(features) == pytest.approx(needed, rel=1e-12)
    colors = {f["properties"]["classification"]["name"]: f["properties"] for f in features}
    for item in CLASSES[1:]:
        assert tuple(colors[item.name]["classification"]["color"]) == item.color
    assert any(len(f["geometry"]["coordinates"]) > 1 for f in features)  # holes


def test_objects_keep_their_ids_and_measurements(result, tmp_path):
    (path,) = export(result, tmp_path, kind="detections").files
    before = {f["id"]: f["properties"] for f in features_of(result / "annotations.geojson")}
    after = {f["id"]: f["properties"] for f in features_of(path)}
    assert after.keys() == before.keys()
    for name, properties in after.items():
        assert properties["measurements"] == before[name]["measurements"]
        assert properties["classification"] == before[name]["classification"]


def test_a_sharded_result_is_read_shard_by_shard(tmp_path):
    whole = make_result(tmp_path / "whole")
    cut = make_result(tmp_path / "cut", limits=(20, 10**7))
    assert (cut / "annotations.index.json").exists()
    (one,) = export(whole, tmp_path / "a").files
    several = export(cut, tmp_path / "b", limits=(7, 10**7))
    assert len(shards(several)) > 3
    found = [f for path in shards(several) for f in features_of(path)]
    assert found == features_of(one)
    assert all(is_clean(path) for path in shards(several))


def test_tissue_becomes_the_parent_of_what_lies_in_it(result, tmp_path):
    (path,) = export(result, tmp_path, parents=True, compress=True, locked=True).files
    assert path.name.endswith(".geojson.gz")
    assert is_clean(path)
    features = features_of(path)
    parents = [f for f in features if "childObjects" in f["properties"]]
    assert len(parents) == 2
    assert all(f["properties"]["isLocked"] is True for f in flat(features))
    for parent in parents:
        outline = shapely.geometry.shape(parent["geometry"]).buffer(1e-9)
        for child in parent["properties"]["childObjects"]:
            anchor = shapely.geometry.shape(child["geometry"]).point_on_surface()
            assert outline.contains(anchor)
    (plain,) = export(result, tmp_path / "plain").files
    children = [f for f in flat(features) if f not in parents]
    assert {f["id"] for f in children} == {f["id"] for f in features_of(plain)}


def test_children_that_do_not_fit_follow_their_parent(result, tmp_path):
    report = export(result, tmp_path, parents=True, limits=(10, 10**7))
    found = [flat(features_of(path)) for path in shards(report)]
    assert all(len(some) <= 10 for some in found)
    assert all(is_clean(path) for path in shards(report))
    ids = [f["id"] for some in found for f in some]
    (plain,) = export(result, tmp_path / "plain").files
    assert len(ids) == len(set(ids)) == len(features_of(plain)) + 2 == report.objects


def test_points_lie_in_their_objects(result, tmp_path):
    (path,) = export(result, tmp_path, kind="points").files
    assert is_clean(path)
    outlines = {
        f["id"]: shapely.geometry.shape(f["geometry"])
        for f in features_of(result / "annotations.geojson")
    }
    points = features_of(path)
    assert len(points) == len(outlines)
    for feature in points:
        point = shapely.geometry.shape(feature["geometry"])
        assert outlines[feature["id"]].buffer(0.01).contains(point)
        assert feature["properties"]["measurements"]


def test_peaks_are_where_the_heatmap_is_highest(result, cropped, tmp_path):
    for i, folder in enumerate((result, cropped)):
        (path,) = export(folder, tmp_path / str(i), kind="peaks", least_peak=0.6).files
        assert is_clean(path)
        features = features_of(path)
        assert features
        for one in features:
            assert one["geometry"]["type"] == "Point"
            assert one["properties"]["objectType"] == "detection"
            ((name, value),) = one["properties"]["measurements"].items()
            assert name == f"prob_{one['properties']['classification']['name']}"
            assert value >= 0.6
    store = FinishedResult(result).heatmap()
    x, y = features_of(shards_of(tmp_path / "0"))[0]["geometry"]["coordinates"]
    pixel = int(y / store.downsample[0]), int(x / store.downsample[1])
    assert store.codes[:, pixel[0], pixel[1]].max() > 0


def shards_of(folder):
    (path,) = folder.glob("*.geojson")
    return path


def test_names_are_numbered_by_class(result, tmp_path):
    (path,) = export(result, tmp_path, named=True, kind="cells").files
    names = [f["properties"]["name"] for f in features_of(path)]
    assert {"Tumor 1", "Tumor 2", "Immune: CD3é 1"} <= set(names)
    assert len(set(names)) == len(names)


def test_small_objects_go_and_are_counted(result, tmp_path):
    before = read_objects(result / "annotations.geojson").groups[0]
    um2 = shapely.area(before.geometries) * 0.125
    report = export(result, tmp_path, min_area_um2=100)
    assert report.objects == np.count_nonzero(um2 >= 100)
    assert report.notes["smaller than asked for"] == np.count_nonzero(um2 < 100)


def test_simplified_neighbours_share_their_borders(result, tmp_path):
    report = export(result, tmp_path, simplify_um=2.0, limits=(30, 10**7))
    after = [f for path in shards(report) for f in features_of(path)]
    outlines = [shapely.geometry.shape(f["geometry"]) for f in after]
    assert all(is_clean(path) for path in shards(report))
    before = features_of(result / "annotations.geojson")
    assert [f["id"] for f in after] == [f["id"] for f in before]
    count = sum(shapely.get_num_coordinates(shapely.geometry.shape(f["geometry"])) for f in before)
    assert sum(map(shapely.get_num_coordinates, outlines)) < 0.5 * count
    total, united = sum(o.area for o in outlines), shapely.union_all(outlines).area
    assert total == pytest.approx(united, rel=1e-9)  # nothing overlaps


def test_the_area_measured_is_that_of_the_outline_written(result, tmp_path):
    (path,) = export(result, tmp_path, simplify_um=3.0).files
    for feature in features_of(path):
        mm2 = shapely.geometry.shape(feature["geometry"]).area * 0.125e-6
        measured = feature["properties"]["measurements"]["wsiseg: Area mm^2"]
        assert measured == pytest.approx(mm2, rel=1e-4)


def test_outlines_have_no_more_vertices_than_asked_for(result, tmp_path):
    report = export(result, tmp_path, max_vertices=24)
    (path,) = report.files
    assert is_clean(path)
    counts = [
        shapely.get_num_coordinates(shapely.geometry.shape(f["geometry"]))
        for f in features_of(path)
    ]
    still = report.notes.get("with more vertices than asked for: many holes or parts", 0)
    assert sum(count > 24 for count in counts) <= still < 5
    assert report.notes["simplified to have fewer vertices"] > 10


def test_tiles_have_the_mean_probability_of_what_is_known(result, tmp_path):
    (path,) = export(result, tmp_path, kind="tiles", tile_um=16).files
    assert is_clean(path)
    codes = probabilities().astype(float)
    values = np.where(codes > 0, (codes - 1) / 254, np.nan)
    features = features_of(path)
    for feature in features[:: max(1, len(features) // 40)]:
        x0, y0, x1, y1 = shapely.geometry.shape(feature["geometry"]).bounds
        rows, columns = slice(int(y0 // 2), int(-(-y1 // 2))), slice(int(x0 // 4), int(-(-x1 // 4)))
        needed = np.nanmean(values[:, rows, columns], axis=(1, 2))
        found = feature["properties"]["measurements"]
        names = [f"prob_{item.name}" for item in CLASSES]
        assert [found[name] for name in names] == pytest.approx(needed.tolist(), abs=6e-5)
        likeliest = CLASSES[int(needed.argmax())].name
        known = feature["properties"].get("classification", {"name": "background"})
        assert known["name"] == likeliest
    area = sum(shapely.geometry.shape(f["geometry"]).area for f in features)
    united = shapely.union_all([shapely.geometry.shape(f["geometry"]) for f in features])
    assert area == pytest.approx(united.area)
    assert {"Tumor", "background"} <= {
        f["properties"].get("classification", {"name": "background"})["name"] for f in features
    }


def test_tiles_of_a_cropped_slide_lie_in_qupaths_frame(result, cropped, tmp_path):
    (whole,) = export(result, tmp_path / "a", kind="tiles", tile_um=64).files
    (shown,) = export(cropped, tmp_path / "b", kind="tiles", tile_um=64).files
    assert is_clean(shown)
    box = shapely.box(200, 100, 2300, 1300)

    def area_in_box(path, dx, dy):
        shapes = [shapely.geometry.shape(f["geometry"]) for f in features_of(path)]
        shifted = shapely.transform(np.array(shapes), lambda xy: xy + np.array([dx, dy]))
        return shapely.area(shapely.intersection(shifted, box)).sum()

    assert area_in_box(shown, 200, 100) == pytest.approx(area_in_box(whole, 0, 0))


def test_a_result_without_objects_is_clean(tmp_path):
    codes = np.zeros((3, 700, 610), np.uint8)
    codes[:, 100:200, 100:200] = 1
    codes[0, 100:200, 100:200] = 255
    folder = make_result(tmp_path / "empty", codes=codes)
    for kind in ("annotations", "points"):
        (path,) = export(folder, tmp_path / kind, kind=kind).files
        assert verify_geojson(path).counts == {"nothing-found": 1}


def test_nothing_is_replaced_unasked(result, tmp_path):
    (path,) = export(result, tmp_path).files
    with pytest.raises(RunError, match="is there already; pass --overwrite"):
        export(result, tmp_path)
    before = path.read_bytes()
    export(result, tmp_path, overwrite=True)
    assert path.read_bytes() == before  # and the same bytes each time


@pytest.mark.parametrize(
    ("asked", "said"),
    [
        ({"kind": "blobs"}, "needed one of result, annotations"),
        ({"frame": "mm"}, "needed one of qupath"),
        ({"max_vertices": 3}, "at least 4"),
        ({"simplify_um": -1.0}, "at least 0"),
        ({"tile_um": 0.3, "kind": "tiles"}, "one pixel of the heatmap"),
        ({"heatmap": "other", "kind": "tiles"}, "found heatmap"),
    ],
)
def test_what_makes_no_sense_is_refused(result, tmp_path, asked, said):
    with pytest.raises((UsageError, RunError), match=said):
        export(result, tmp_path, **asked)
    assert not list(tmp_path.iterdir())


def test_an_unknown_format_is_refused(result, tmp_path):
    with pytest.raises(UsageError, match="needed one of qupath"):
        export(result, tmp_path, to="shapefile")


def test_an_installed_package_adds_a_format(result, tmp_path, monkeypatch):
    def to_count(finished, out, request):
        return ExportReport((), sum(len(group) for group in finished.objects()))

    class Point:
        name = "count"

        def load(self):
            return to_count

    monkeypatch.setattr("importlib.metadata.entry_points", lambda group: [Point()])
    assert export(result, tmp_path, to="count").objects > 100
    with pytest.raises(UsageError, match="dicom-ann, count"):
        export(result, tmp_path, to="shapefile")


def test_results_are_found_in_the_folder_of_a_run(result, tmp_path):
    assert find_results(result) == [result]
    assert find_results(result.parent) == [result]
    with pytest.raises(RunError, match="no result in it"):
        find_results(tmp_path)
    with pytest.raises(RunError, match="no such folder"):
        find_results(tmp_path / "none")


def test_annotations_edited_in_qupath_are_taken_as_they_are(result, tmp_path):
    folder = make_result(tmp_path / "edited")
    path = folder / "annotations.geojson"
    kept = features_of(path)[:5]
    kept[0]["properties"] |= {"objectType": "annotation", "name": "mine", "isLocked": True}
    del kept[1]["properties"]["classification"]
    path.write_text(json.dumps(kept))  # QuPath writes a bare array, without our head
    (exported,) = export(folder, tmp_path / "out").files
    assert is_clean(exported)
    found = {f["id"]: f for f in features_of(exported)}
    assert found.keys() == {f["id"] for f in kept}
    assert found[kept[0]["id"]]["properties"]["name"] == "mine"
    assert "classification" not in found[kept[1]["id"]]["properties"]
