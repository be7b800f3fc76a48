"""GeoParquet and GeoDataFrames: the objects of the GeoJSON, in columns."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
import shapely

from wsiseg.annotations import (
    AnnotationClass,
    Annotations,
    ImageRef,
    to_geopandas,
    write_geojson,
    write_geoparquet,
)
from wsiseg.errors import AnnotationError
from wsiseg.geometry import Box, Spacing

IMAGE = ImageRef("a.mrxs", (900, 800), Spacing((0.5, 0.5)), "mirax", Box((10, 20), (510, 620)))
CLASSES = (AnnotationClass("Tumor", (200, 0, 0)), AnnotationClass("Stroma", (150, 200, 150)))
BOWTIE = shapely.Polygon([(100, 100), (110, 110), (110, 100), (100, 110)])


def annotate(*geometries, **columns):
    column = np.empty(len(geometries), dtype=object)
    column[:] = geometries
    index = np.arange(len(geometries), dtype=np.int64) % 2
    return Annotations(column, index, CLASSES, IMAGE, columns)


@pytest.fixture
def annotations():
    geometries = shapely.box(100, 100, 110, 120), BOWTIE, None, shapely.box(300, 50, 310, 60)
    return annotate(*geometries, **{"Area µm^2": np.array([50.0, 12.5, 1.0, np.nan])})


def test_a_table_holds_the_objects_of_the_geojson(annotations, tmp_path):
    pytest.importorskip("geopandas")
    table = to_geopandas(annotations, frame="qupath")
    write_geojson(annotations, tmp_path / "a.geojson")
    features = json.loads((tmp_path / "a.geojson").read_bytes())["features"]
    assert table["id"].tolist() == [feature["id"] for feature in features]
    assert table["class"].tolist() == ["Tumor", "Stroma", "Stroma"]
    assert table["color"].tolist() == ["#c80000", "#96c896", "#96c896"]
    assert table["object_type"].unique().tolist() == ["annotation"]
    np.testing.assert_array_equal(table["Area µm^2"], [50, 12.5, np.nan])
    for geometry, feature in zip(table.geometry, features, strict=True):
        assert geometry.equals_exact(shapely.geometry.shape(feature["geometry"]), 0)
    assert table.crs is None
    assert table.attrs["wsiseg"]["frame"] == "qupath"
    level0 = annotations.to_geopandas()
    assert level0.total_bounds.tolist() == [100, 50, 310, 120]
    assert level0["id"].tolist() == table["id"].tolist()


def test_other_programs_read_the_file(annotations, tmp_path):
    geopandas = pytest.importorskip("geopandas")
    path = write_geoparquet(annotations, tmp_path / "a.parquet")
    table = geopandas.read_parquet(path)
    assert table.crs is None
    ours = to_geopandas(annotations)
    assert table.drop(columns="geometry").equals(ours.drop(columns="geometry"))
    assert table.geometry.geom_equals_exact(ours.geometry, 0).all()
    assert [p.name for p in tmp_path.iterdir()] == ["a.parquet"]


def test_metadata_follow_geoparquet_1_1(annotations, tmp_path):
    parquet = pytest.importorskip("pyarrow.parquet")
    path = write_geoparquet(annotations, tmp_path / "a.parquet", frame="qupath")
    metadata = parquet.read_schema(path).metadata
    geo = json.loads(metadata[b"geo"])
    assert (geo["version"], geo["primary_column"]) == ("1.1.0", "geometry")
    column = geo["columns"]["geometry"]
    assert column["encoding"] == "WKB"
    assert column["crs"] is None
    assert column["geometry_types"] == ["MultiPolygon", "Polygon"]
    assert column["bbox"] == [80, 40, 290, 110]
    about = json.loads(metadata[b"wsiseg"])
    assert (about["image"], about["frame"], about["offset"]) == ("a.mrxs", "qupath", [20, 10])


def test_no_objects_are_a_table_too(tmp_path):
    geopandas = pytest.importorskip("geopandas")
    path = write_geoparquet(annotate(), tmp_path / "a.parquet")
    assert len(geopandas.read_parquet(path)) == 0
    assert len(to_geopandas(annotate())) == 0


def test_a_measurement_may_not_hide_a_column(annotations):
    with pytest.raises(AnnotationError, match=r"\['class'\] are named like columns"):
        to_geopandas(replace(annotations, measurements={"class": np.zeros(4)}))


@pytest.mark.parametrize(
    ("package", "call"),
    [("geopandas", to_geopandas), ("pyarrow", lambda a: write_geoparquet(a, "a.parquet"))],
)
def test_a_missing_extra_is_named(annotations, monkeypatch, package, call):
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(AnnotationError, match=r'pip install "wsiseg\[notebook\]"'):
        call(annotations)
