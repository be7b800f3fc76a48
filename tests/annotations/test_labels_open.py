"""Labels as class pixels of views: names, priorities, regions, frames, and what is refused."""

import json

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from labelled_slides import (
    BOUNDS,
    SQUARE,
    box_feature,
    cropped_slide,
    feature,
    pixels_over,
    read_all,
    slide,
    write,
)

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, write_geojson
from wsiseg.annotations.labels import IGNORE, open_labels
from wsiseg.annotations.read_drawing import read_points
from wsiseg.annotations.trace import to_level0, trace_labels
from wsiseg.errors import AnnotationError, LabelError
from wsiseg.geometry import Box, Spacing

CLASSES = ("background", "stroma", "tumour")


def filled(shape, *boxes):
    """Class values of boxes (x0, y0, x1, y1, value), later ones on top."""
    values = np.zeros(shape, np.uint8)
    for x0, y0, x1, y1, value in boxes:
        values[y0:y1, x0:x1] = value
    return values


def opened(tmp_path, *features, on=None, classes=CLASSES, **options):
    on = on or slide()
    labels = open_labels(write(tmp_path / "a.geojson", *features), on, classes, **options)
    return read_all(labels, on.levels[0])


def test_later_classes_win_whatever_the_order_in_the_file(tmp_path):
    tumour, stroma = box_feature(10, 10, 40, 40), box_feature(30, 20, 60, 50, "stroma")
    expected = filled((100, 120), (30, 20, 60, 50, 1), (10, 10, 40, 40, 2))
    for features in ([tumour, stroma], [stroma, tumour]):
        np.testing.assert_array_equal(opened(tmp_path, *features), expected)


def test_priority_turns_it_round_and_background_may_cut(tmp_path):
    parts = box_feature(10, 10, 40, 40), box_feature(30, 20, 60, 50, "background")
    order = ("stroma", "tumour", "background")
    expected = filled((100, 120), (10, 10, 40, 40, 2), (30, 20, 60, 50, 0))
    np.testing.assert_array_equal(opened(tmp_path, *parts, priority=order), expected)


def test_mapping_ignore_and_regions(tmp_path):
    found = opened(
        tmp_path,
        box_feature(10, 10, 40, 40, "Tumor: Positive"),
        box_feature(20, 20, 30, 30, "Artefact"),
        box_feature(5, 5, 60, 35, "Region*"),
        mapping={"Tumor: Positive": "tumour"},
        ignore=["Artefact"],
        within=["Region*"],
    )
    expected = np.full((100, 120), IGNORE, np.uint8)
    expected[5:35, 5:60] = 0
    expected[10:35, 10:40] = 2
    expected[20:30, 20:30] = IGNORE
    np.testing.assert_array_equal(found, expected)


def test_a_class_as_region_leaves_the_rest_unknown(tmp_path):
    found = opened(
        tmp_path,
        box_feature(10, 10, 40, 40),
        box_feature(50, 10, 60, 40, "background"),
        within=["tumour", "background"],
    )
    expected = np.full((100, 120), IGNORE, np.uint8)
    expected[10:40, 10:40], expected[10:40, 50:60] = 2, 0
    np.testing.assert_array_equal(found, expected)


def test_outside_the_slide_nobody_knows(tmp_path):
    path = write(tmp_path / "a.geojson", box_feature(0, 0, 120, 100))
    view = open_labels(path, slide(), CLASSES).at(slide().levels[0])
    found = view.read(Box((-5, -7), (103, 130)))
    assert found.shape == (108, 137)
    assert (found[5:105, 7:127] == 2).all()
    assert (found == IGNORE).sum() == found.size - 100 * 120
    assert (view.read(Box((200, 0), (210, 5))) == IGNORE).all()
    assert view.read(Box((3, 3), (3, 9))).shape == (0, 6)


def test_a_view_between_levels(tmp_path):
    on = slide(101, 127)
    view = on.at(1.3)
    path = write(tmp_path / "a.geojson", box_feature(11, 10, 71, 83))
    found = read_all(open_labels(path, on, CLASSES), view)
    assert found.shape == view.shape
    y, x = ((np.arange(n) + 0.5) * d for n, d in zip(view.shape, view.downsample, strict=True))
    expected = np.outer((y >= 10) & (y < 83), (x >= 11) & (x < 71)) * 2
    np.testing.assert_array_equal(found, expected)


@settings(max_examples=25)
@given(
    seed=st.integers(0, 1 << 32),
    factor=st.integers(1, 7),
    frame=st.sampled_from(["level0", "qupath"]),
)
def test_our_own_geojson_gives_the_mask_back(tmp_path_factory, seed, factor, frame):
    on = cropped_slide()
    size, origin = BOUNDS.shape, BOUNDS.start
    rng = np.random.default_rng(seed)
    mask = np.zeros([-(-n // factor) for n in on.shape], np.uint8)
    inner = tuple(
        slice(-(-a // factor), (a + n) // factor) for a, n in zip(origin, size, strict=True)
    )
    coarse = rng.integers(0, 3, [-(-n // 5) for n in mask[inner].shape], dtype=np.uint8)
    mask[inner] = coarse.repeat(5, 0).repeat(5, 1)[tuple(slice(n) for n in mask[inner].shape)]
    traced = trace_labels(mask)
    image = ImageRef("s", on.shape, on.spacing, "mirax", BOUNDS)
    annotations = Annotations(
        to_level0(traced.geometries, downsample=(factor, factor), size=on.shape),
        traced.values - 1,
        tuple(AnnotationClass(name, (1, 2, 3)) for name in CLASSES[1:]),
        image,
    )
    path = tmp_path_factory.mktemp("own") / "a.geojson.gz"
    write_geojson(annotations, path, frame=frame)
    labels = open_labels(path, on, CLASSES)
    np.testing.assert_array_equal(read_all(labels, pixels_over(on.shape, (factor, factor))), mask)


def test_our_own_file_may_say_that_nothing_was_found(tmp_path):
    on = slide()
    nothing = Annotations(
        np.empty(0, object), np.empty(0, np.int64), (), ImageRef("s", on.shape, Spacing((0.5, 0.5)))
    )
    write_geojson(nothing, tmp_path / "a.geojson")
    labels = open_labels(tmp_path / "a.geojson", on, CLASSES, within=["Region*"])
    assert not read_all(labels, on.levels[0]).any()


def test_qupath_files_are_in_qupaths_frame(tmp_path):
    path = write(tmp_path / "a.geojson", box_feature(10, 20, 40, 60))
    on = cropped_slide()
    expected = filled((400, 600), (210, 120, 240, 160, 2))
    np.testing.assert_array_equal(read_all(open_labels(path, on, CLASSES), on.levels[0]), expected)
    whole = filled((400, 600), (10, 20, 40, 60, 2))
    labels = open_labels(path, on, CLASSES, format="geojson-level0")
    np.testing.assert_array_equal(read_all(labels, on.levels[0]), whole)


def test_what_is_no_area_is_counted(tmp_path):
    path = write(
        tmp_path / "a.geojson",
        feature(),
        feature([3, 4], kind="Point"),
        feature([[3, 4], [8, 9]], kind="LineString"),
        feature([[[1, 1], [2, 2], [3, 3], [1, 1]]]),
    )
    left_out = open_labels(path, slide(), CLASSES).left_out
    assert left_out == {"points": 1, "lines": 1, "outlines without area": 1}


@pytest.mark.parametrize(
    ("features", "message"),
    [
        ([], "no area in it: needed polygons, found nothing"),
        ([feature([3, 4], kind="Point")] * 2, "found 2 x 'points'"),
        ([feature([[3, 4], [8, 9]], kind="LineString")], "found 1 x 'lines'"),
        ([box_feature(900, 10, 990, 40)], r"only 0% of its area lies on array"),
        ([box_feature(100, 10, 190, 40)], "only 22% of its area"),
        ([feature([[[0, 0], [50, 50], [50, 0], [0, 50], [0, 0]]])], "feature 0.* crosses itself"),
        ([feature(plane={"z": 2})], "lies in plane {'z': 2}"),
        ([feature(name="Tumor")], r'found 1 x .Tumor.; map them in \[labels\].*= {"Tumor" = "tu'),
        ([feature(name=None)], "'Unclassified'"),
    ],
)
def test_bad_files_are_refused(tmp_path, features, message):
    with pytest.raises(AnnotationError, match=message):
        opened(tmp_path, *features)


@pytest.mark.parametrize(
    "text", ['{"type": "FeatureCollection", "features": []}', "[]", "<ASAP_Annotations/>"]
)
def test_a_file_without_objects_is_background_where_that_is_said(tmp_path, text):
    path = tmp_path / ("a.xml" if text.startswith("<") else "a.geojson")
    path.write_text(text)
    on = slide()
    with pytest.raises(AnnotationError, match=r"found nothing.*allow_empty = true in \[labels\]"):
        open_labels(path, on, CLASSES)
    for within in ([], ["Region*"]):
        labels = open_labels(path, on, CLASSES, within=within, allow_empty=True)
        assert not read_all(labels, on.levels[0]).any()
    with pytest.raises(AnnotationError, match=r"no point in it.*allow_empty"):
        read_points(path, on)
    assert len(read_points(path, on, allow_empty=True)) == 0


@pytest.mark.parametrize(
    "text",
    [
        "{}",
        '{"type": "Topology"}',
        "  ",
        '[{"a": 1}]',
        json.dumps({"type": "FeatureCollection", "features": [feature([3, 4], kind="Point")]}),
    ],
)
def test_what_lists_something_else_is_never_empty(tmp_path, text):
    path = tmp_path / "a.geojson"
    path.write_text(text)
    with pytest.raises(AnnotationError, match=r"a\.geojson: no") as caught:
        open_labels(path, slide(), CLASSES, allow_empty=True)
    assert "allow_empty" not in str(caught.value)


def test_the_other_frame_is_proposed(tmp_path):
    path = write(tmp_path / "a.geojson", box_feature(420, 150, 590, 390))
    with pytest.raises(AnnotationError, match="as format 'geojson-level0' it would fit"):
        open_labels(path, cropped_slide(), CLASSES)


def test_another_slide_is_refused(tmp_path):
    about = {"frame": "level0", "level0_width": 120, "level0_height": 101}
    path = write(tmp_path / "a.geojson", feature(), wsiseg=about)
    with pytest.raises(AnnotationError, match="120 x 101 pixels, array has 120 x 100"):
        open_labels(path, slide(), CLASSES)
    labels = open_labels(write(tmp_path / "b.geojson", feature()), slide(), CLASSES)
    with pytest.raises(LabelError, match="need a view of its 120 x 100"):
        labels.at(slide(90, 120).levels[0])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"classes": ()}, "1 to 254 different classes"),
        ({"classes": ("a", "a")}, "different classes"),
        ({"mapping": {"x": "tumor"}}, "mapping: names become .'tumor'."),
        ({"ignore": ["x"], "mapping": {"x": "tumour"}}, "ignored and mapped"),
        ({"ignore": "x"}, "needs a list of names"),
        ({"priority": ("tumour", "stroma")}, "each class once"),
        ({"within": ["Region"]}, "needed a region Region"),
    ],
)
def test_contradicting_names_are_refused(tmp_path, options, message):
    with pytest.raises(AnnotationError, match=message):
        opened(tmp_path, feature(), **options)


def test_a_small_loop_is_repaired_and_a_large_one_named(tmp_path):
    def with_loop(size):
        top = [
            [100, 80],
            [52, 80],
            [50 - size, 80 + 2 * size],
            [50 + size, 80 + 2 * size],
            [48, 80],
        ]
        return feature([[[0, 0], [100, 0], *top, [0, 80], [0, 0]]])

    assert not shapely.from_geojson(json.dumps(with_loop(4)["geometry"])).is_valid
    found = opened(tmp_path, with_loop(4))
    assert (found[:80, :100] == 2).all()
    assert found[87, 50] == 2
    with pytest.raises(AnnotationError, match=r"repairing it would change its area by \d"):
        opened(tmp_path, with_loop(9))


def test_areas_bounds_and_repr(tmp_path):
    path = write(
        tmp_path / "a.geojson", box_feature(10, 20, 40, 60), box_feature(30, 20, 50, 60, "stroma")
    )
    labels = open_labels(path, slide(), CLASSES)
    assert labels.areas() == {
        "background": (12000 - 1600) * 0.25,
        "stroma": 400 * 0.25,
        "tumour": 1200 * 0.25,
    }
    assert labels.bounds(2) == Box((20, 10), (60, 40))
    assert labels.bounds(1) == Box((20, 40), (60, 50))
    assert open_labels(write(path, box_feature(1, 1, 9, 9)), slide(), CLASSES).bounds(1) is None
    assert "stroma" in repr(labels)
    assert SQUARE[0] == [10, 10]
