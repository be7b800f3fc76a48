"""Exports for other programs, read back by those programs' own readers."""

import csv
import json
import shutil
import sys
from dataclasses import replace
from xml.etree import ElementTree

import numpy as np
import pytest
import shapely
from made_results import (
    CLASSES,
    DOWNSAMPLE,
    IMAGE,
    MIRAX,
    ODD,
    SIZE,
    make_result,
    mask_area,
    probabilities,
)

from wsiseg.errors import RunError, UsageError
from wsiseg.exchange import ExportRequest, export_result
from wsiseg.exchange.pieces import without_holes
from wsiseg.geometry import Box, Spacing
from wsiseg.stitch import HeatmapStore

NAMES = [item.name for item in CLASSES]


@pytest.fixture(scope="module")
def result(tmp_path_factory):
    return make_result(tmp_path_factory.mktemp("results") / "case é")


@pytest.fixture(scope="module")
def codes():
    return probabilities()


def export(result, out, to, **asked):
    return export_result(result, to, out, request=ExportRequest(**asked))


def labels_of(codes):
    return np.where(codes[0] > 0, codes.argmax(axis=0), 0)


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_classes_of_any_name_stay_what_they_are(tmp_path, monkeypatch):
    import geopandas
    import tifffile
    import zarr

    monkeypatch.setattr("made_results.CLASSES", ODD)
    folder = make_result(tmp_path / "odd")
    names = [item.name for item in ODD]
    (path,) = export(folder, tmp_path, "wsinfer", tile_um=64).files
    with path.open(encoding="utf-8", newline="") as file:
        assert next(csv.reader(file))[4:] == [f"prob_{name}" for name in names]
    mask, heatmap = export(folder, tmp_path, "ome-tiff").files
    with tifffile.TiffFile(mask) as tiff:
        values = ElementTree.fromstring(tiff.ome_metadata).iterfind(".//{*}M")
        assert [value.text.rsplit(" ", 1)[0] for value in values] == names
    with tifffile.TiffFile(heatmap) as tiff:
        channels = ElementTree.fromstring(tiff.ome_metadata).iterfind(".//{*}Channel")
        assert [channel.get("Name") for channel in channels] == names
    (path,) = export(folder, tmp_path, "ome-zarr").files
    label = zarr.open_group(path, mode="r")["labels/classes"].attrs["image-label"]
    assert [item["class"] for item in label["properties"]] == names
    (path,) = export(folder, tmp_path, "geoparquet").files
    areas = geopandas.read_parquet(path).dissolve("class").geometry.area.to_dict()
    assert areas == pytest.approx(mask_area(folder), rel=1e-9)
    (path,) = export(folder, tmp_path, "coco").files
    assert [c["name"] for c in json.loads(path.read_bytes())["categories"]] == names[1:]


# --- WSInfer


def test_wsinfer_csv_has_whole_pixels_and_a_probability_per_class(result, tmp_path, codes):
    report = export(result, tmp_path, "wsinfer", tile_um=32)
    assert report.files == (tmp_path / "model-outputs-csv" / "case é.csv",)
    with report.files[0].open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == report.objects
    assert list(rows[0]) == ["minx", "miny", "width", "height", *(f"prob_{n}" for n in NAMES)]
    boxes = np.array([[int(row[k]) for k in ("minx", "miny", "width", "height")] for row in rows])
    assert (boxes[:, :2] >= 0).all()
    assert (boxes[:, :2] + boxes[:, 2:] <= SIZE[::-1]).all()
    sums = [sum(float(row[f"prob_{name}"]) for name in NAMES) for row in rows]
    assert np.allclose(sums, 1, atol=0.01)
    assert len(np.unique(boxes[:, :2], axis=0)) == len(rows)
    seen = np.zeros(SIZE, bool)
    for x, y, w, h in boxes:
        assert not seen[y : y + h, x : x + w].any()  # neighbours share edges, and nothing else
        seen[y : y + h, x : x + w] = True
    known = np.argwhere(codes[0] > 0)
    y, x = (known * DOWNSAMPLE).astype(int).T
    assert seen[y[y < SIZE[0]], x[y < SIZE[0]]].all()


def test_wsinfer_csv_has_background_though_the_heatmap_has_not(tmp_path, codes):
    folder = make_result(tmp_path / "case")
    placement = HeatmapStore.open(folder / "heatmap.zarr").placement
    shutil.rmtree(folder / "heatmap.zarr")
    with HeatmapStore.create(folder / "heatmap.zarr", placement, channels=NAMES[1:]) as writer:
        writer.write(Box((0, 0), codes.shape[1:]), np.moveaxis(codes[1:], 0, -1))
        writer.finish()
    (path,) = export(folder, tmp_path, "wsinfer", tile_um=32).files
    with path.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0])[4:] == [f"prob_{name}" for name in NAMES]
    assert all(
        sum(float(r[f"prob_{n}"]) for n in NAMES) == pytest.approx(1, abs=0.01) for r in rows
    )


# --- OME-TIFF


def test_ome_tiff_is_a_tiled_pyramid_of_the_mask(result, tmp_path, codes):
    import tifffile

    mask, heatmap = export(result, tmp_path, "ome-tiff").files
    with tifffile.TiffFile(mask) as tiff:
        assert tiff.is_ome
        (series,) = tiff.series
        assert [level.shape for level in series.levels] == [(700, 610), (350, 305)]
        assert np.array_equal(series.asarray(), labels_of(codes))
        page = series.pages[0]
        assert page.is_tiled
        assert page.compression.name == "ADOBE_DEFLATE"
        pixels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]
        assert (pixels["PhysicalSizeX"], pixels["PhysicalSizeXUnit"]) == (1.0, "µm")
        assert "Immune: CD3é #a05aa0" in tiff.ome_metadata
    with tifffile.TiffFile(heatmap) as tiff:
        assert np.array_equal(tiff.series[0].asarray(), codes)
        assert tiff.series[0].levels[1].shape == (3, 350, 305)
        channels = tifffile.xml2dict(tiff.ome_metadata)["OME"]["Image"]["Pixels"]["Channel"]
        assert [channel["Name"] for channel in channels] == NAMES


def test_ome_tiff_has_the_same_bytes_each_time(result, tmp_path):
    (mask, heatmap), again = (export(result, tmp_path / n, "ome-tiff").files for n in "ab")
    assert [path.read_bytes() for path in again] == [mask.read_bytes(), heatmap.read_bytes()]


# --- OME-Zarr


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_opens_in_ome_zarr_py(result, tmp_path, codes, version):
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader

    (path,) = export(result, tmp_path, "ome-zarr", ngff=version).files
    nodes = list(Reader(parse_url(path))())
    image = next(node for node in nodes if node.data and node.data[0].ndim == 3)
    label = next(node for node in nodes if node.data and node.data[0].ndim == 2)
    assert np.array_equal(np.asarray(image.data[0]), codes)
    assert np.array_equal(np.asarray(label.data[0]), labels_of(codes))
    assert len(label.data) == 2
    assert label.metadata["color"][1][:3] == pytest.approx([200 / 255, 0, 0])
    assert image.metadata["channel_names"] == NAMES


@pytest.mark.parametrize("version", ["0.4", "0.5"])
def test_ome_zarr_follows_the_schema(result, tmp_path, version):
    import zarr
    from ome_zarr_models import open_ome_zarr

    (path,) = export(result, tmp_path, "ome-zarr", ngff=version).files
    group = zarr.open_group(path, mode="r")
    assert group.metadata.zarr_format == (2 if version == "0.4" else 3)
    image = open_ome_zarr(group)
    assert image.ome_zarr_version == version
    label = open_ome_zarr(group["labels/classes"])
    assert "Label" in type(label).__name__


# --- CLAM and TRIDENT


def test_clam_coordinates_are_squares_on_the_slide(tmp_path):
    h5py = pytest.importorskip("h5py")
    height, width = 2799, SIZE[1]
    image = replace(IMAGE, shape=(height, width), spacing=Spacing((0.25, 0.25)))
    square = make_result(tmp_path / "case é", image)
    report = export(square, tmp_path, "clam", tile_um=32)
    tiles = export(square, tmp_path, "wsinfer", tile_um=32)
    with h5py.File(report.files[0]) as file:
        coords, attributes = file["coords"][:], dict(file["coords"].attrs)
        probability = file["probabilities"][:]
        assert list(file["probabilities"].attrs["classes"]) == NAMES
    assert len(coords) == len(probability) == report.objects > 100
    over = report.notes["tiles across the slide's edge left out"]
    assert report.objects + over == tiles.objects
    assert over > 0
    assert coords.dtype == np.int64
    side = attributes["patch_size_level0"]
    assert (coords >= 0).all()
    assert (coords + side <= (width, height)).all()
    assert (attributes["level0_width"], attributes["level0_height"]) == (width, height)
    assert attributes["patch_level"] == 0
    assert attributes["name"] == "case é"


def test_clam_wants_squares(result, tmp_path):
    pytest.importorskip("h5py")
    with pytest.raises(UsageError, match="needed squares"):
        export(result, tmp_path, "clam", tile_um=33.4)
    assert not list(tmp_path.iterdir())


def test_a_missing_h5py_is_named(result, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "h5py", None)
    with pytest.raises(RunError, match=r"wsiseg\[hdf5\]"):
        export(result, tmp_path, "clam")


# --- GeoParquet


@pytest.mark.parametrize("kind", ["annotations", "tiles", "points"])
def test_geoparquet_of_a_sharded_result_opens_in_geopandas(tmp_path, kind):
    import geopandas

    folder = make_result(tmp_path / "cut", limits=(40, 10**7))
    report = export(folder, tmp_path, "geoparquet", kind=kind, tile_um=32)
    table = geopandas.read_parquet(report.files[0])
    assert len(table) == report.objects > 100
    assert table["id"].is_unique
    if kind == "annotations":
        areas = table.geometry.area.groupby(table["class"]).sum().to_dict()
        assert areas == pytest.approx(mask_area(folder), rel=1e-12)
    elif kind == "tiles":
        assert table["class"].isna().any()  # background
        assert table[[f"prob_{name}" for name in NAMES]].notna().all(axis=None)
    else:
        assert set(table.geometry.geom_type) == {"Point"}


# --- COCO


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_coco_areas_and_masks_are_those_of_the_mask(result, tmp_path, codes):
    coco = pytest.importorskip("pycocotools.coco")
    masks = pytest.importorskip("pycocotools.mask")
    report = export(result, tmp_path, "coco")
    data = coco.COCO(str(report.files[0]))
    names = {entry["id"]: entry["name"] for entry in data.dataset["categories"]}
    areas = dict.fromkeys(NAMES[1:], 0.0)
    runs = {name: [] for name in NAMES[1:]}
    for entry in data.anns.values():
        name = names[entry["category_id"]]
        areas[name] += entry["area"]
        runs[name].append(data.annToRLE(entry))
        assert masks.area(runs[name][-1]) == entry["area"]
    assert areas == pytest.approx(mask_area(result), rel=1e-12)
    large = np.repeat(np.repeat(labels_of(codes), 2, axis=0), 4, axis=1)[: SIZE[0], : SIZE[1]]
    for name, several in runs.items():
        drawn = masks.decode(masks.merge(several))
        assert np.array_equal(drawn > 0, large == NAMES.index(name))
    assert len(data.anns) == report.objects


def test_coco_numbers_classes_alike_for_all_slides_of_a_model(tmp_path, codes):
    only_last = codes.copy()
    only_last[1] = np.where(codes[1] > 0, 1, 0)
    numbers = []
    for name, own in (("both", codes), ("last", only_last)):
        folder = make_result(tmp_path / name, codes=own)
        (path,) = export(folder, tmp_path, "coco").files
        numbers.append([c["name"] for c in json.loads(path.read_bytes())["categories"]])
    assert numbers == [NAMES[1:], NAMES[1:]]


def test_coco_is_in_level_0_whatever_qupath_shows(tmp_path):
    folder = make_result(tmp_path / "cropped", MIRAX)
    (path,) = export(folder, tmp_path, "coco").files
    found = json.loads(path.read_bytes())
    assert sum(entry["area"] for entry in found["annotations"]) == pytest.approx(
        sum(mask_area(folder, MIRAX).values())
    )
    x0 = min(entry["bbox"][0] for entry in found["annotations"])
    assert x0 >= MIRAX.bounds.start[1]
    assert (found["images"][0]["width"], found["images"][0]["height"]) == SIZE[::-1]


def test_pieces_cover_the_same_without_holes():
    rng = np.random.default_rng(1)
    holes = [
        shapely.box(x, y, x + 2.5, y + 3)
        for x in range(5, 95, 6)
        for y in range(5, 95, 7)
        if rng.random() < 0.6
    ]
    swiss = shapely.difference(shapely.Point(50, 50).buffer(49), shapely.union_all(holes))
    pieces = without_holes(swiss)
    assert not any(len(piece.interiors) for piece in pieces)
    assert sum(piece.area for piece in pieces) == pytest.approx(swiss.area, rel=1e-9)
    assert shapely.union_all(pieces).symmetric_difference(swiss).area < 1e-6


def test_a_box_touched_by_two_holes_is_cut():
    square = shapely.Polygon(
        [(0, 0), (8, 0), (8, 8), (0, 8)],
        [[(1, 1), (2, 1), (2, 2), (1, 2)], [(2, 2), (3, 2), (3, 3), (2, 3)]],
    )
    pieces = without_holes(shapely.MultiPolygon([square, shapely.box(20, 0, 21, 1)]))
    assert sum(piece.area for piece in pieces) == 63
