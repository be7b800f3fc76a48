"""Whatever the mask, what is written is read by every QuPath, and has the mask's area."""

import json

import numpy as np
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.annotations import (
    AnnotationClass,
    Annotations,
    ImageRef,
    verify_geojson,
    write_geojson,
)
from wsiseg.annotations.trace import ToLevel0, trace_labels
from wsiseg.geometry import Box, Spacing

CLASSES = (AnnotationClass("Tumor", (200, 0, 0)), AnnotationClass("Stroma", (150, 200, 150)))
LABELS = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=24),
    elements=st.integers(0, 2),
    fill=st.just(0),
)


@given(
    labels=LABELS,
    downsample=st.sampled_from([1.0, 4.0, 4.4055, 16.02]),
    vendor=st.sampled_from(["aperio", "mirax"]),
    kind=st.sampled_from(["annotation", "detection", "cell"]),
)
def test_any_mask_is_clean_and_keeps_its_areas(tmp_path_factory, labels, downsample, vendor, kind):
    size = tuple(int(np.ceil(n * downsample)) + 20 for n in labels.shape)
    image = ImageRef("a", size, Spacing((0.5, 0.5)), vendor, Box((8, 8), size))
    place = ToLevel0((downsample,) * 2, origin=(8, 8), size=size)
    traced = trace_labels(labels, place=place)
    found = Annotations(traced.outlines, traced.values - 1, CLASSES, image, object_type=kind)
    path = tmp_path_factory.mktemp("mask") / "a.geojson"
    report = write_geojson(found, path)
    assert report.dropped == {}
    checked = verify_geojson(path)
    assert checked.verdict == "clean", str(checked)
    areas = dict.fromkeys(("Tumor", "Stroma"), 0.0)
    around = dict.fromkeys(areas, 0.0)
    for feature in json.loads(path.read_text())["features"]:
        name = feature["properties"]["classification"]["name"]
        shape = shapely.geometry.shape(feature["geometry"])
        areas[name] += shape.area
        around[name] += shape.length
        cells = (shapely.get_coordinates(shape) - (0 if vendor == "mirax" else 8)) / downsample
        assert np.abs(cells - np.rint(cells)).max() * downsample <= 0.005 + 1e-6  # on pixels' edges
    for value, name in enumerate(areas, start=1):
        wanted = np.count_nonzero(labels == value) * downsample**2
        assert abs(areas[name] - wanted) <= 0.005 * around[name] + 1e-6  # half of 0.01 px
