"""Objects by place: the index finds what a search through all of them finds."""

import numpy as np
import pytest
import shapely
from view_made import SIZE, index_of, make_result

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, Polygons, read_geojson
from wsiseg.errors import RunError
from wsiseg.exchange.finished import FinishedResult
from wsiseg.geometry import Box, Spacing
from wsiseg.view.objects import BLOCK, ObjectIndex, build, build_beside
from wsiseg.view.outlines import draw_tile, outline_grid
from wsiseg.view.places import list_objects


@pytest.fixture(scope="module")
def many(tmp_path_factory):
    """Return 20,000 small squares of two classes, and their index."""
    rng = np.random.default_rng(3)
    corners = rng.uniform(0, 9900, (20_000, 2))
    sizes = rng.uniform(1, 90, 20_000)
    squares = shapely.box(*corners.T, *(corners.T + sizes))
    squares = shapely.set_precision(squares, 0.01)
    image = ImageRef("a.svs", (10_000, 10_000), Spacing((0.5, 0.5)))
    classes = (AnnotationClass("A", (1, 2, 3)), AnnotationClass("B", (4, 5, 6)))
    measured = {"size": sizes, "some": np.where(sizes > 45, sizes, np.nan)}
    given = Annotations(squares, rng.integers(0, 2, 20_000), classes, image, measured)
    folder = tmp_path_factory.mktemp("index")
    build([given], folder)
    return given, ObjectIndex.open(folder)


def test_a_box_finds_what_all_would(many):
    given, index = many
    boxes = shapely.bounds(given.geometries)
    rng = np.random.default_rng(0)
    for _ in range(20):
        x, y = rng.uniform(-500, 10_000, 2)
        side = rng.choice([0.0, 20.0, 700.0, 20_000.0])
        box = (x, y, x + side, y + side)
        touched = (boxes[:, :2] <= box[2:]).all(1) & (boxes[:, 2:] >= box[:2]).all(1)
        found = index.inside(box)
        assert len(np.unique(found)) == len(found)
        assert len(found) == pytest.approx(touched.sum(), abs=2)  # boxes are float32


def test_a_click_finds_the_smallest_object_over_it(many):
    given, index = many
    rng = np.random.default_rng(1)
    for x, y in rng.uniform(0, 10_000, (40, 2)):
        over = given.geometries[shapely.contains_xy(given.geometries, x, y)]
        row = index.at(x, y)
        if not len(over):
            assert row is None
        else:
            assert index.polygon(row).equals_exact(min(over, key=shapely.area), 1e-6)


def test_objects_keep_class_outline_and_measurements(many):
    given, index = many
    assert len(index) == len(given) > 70 * BLOCK
    by_place = {g.wkt: i for i, g in enumerate(shapely.normalize(given.geometries))}
    for row in range(0, len(index), 997):
        there = by_place[shapely.normalize(index.polygon(row)).wkt]
        assert index.class_name(row) == "AB"[given.class_index[there]]
        assert index.measurements[row, 0] == pytest.approx(given.measurements["size"][there])


def test_neighbours_lie_side_by_side(many):
    _, index = many
    sides = index.blocks[:, 2:] - index.blocks[:, :2]
    assert np.median(sides) < 3000  # of 10,000: a box around any 256 of them would be all


def test_lists_are_in_order_and_leave_out_what_is_not_measured(many):
    given, index = many
    listed = list_objects(index, by="size", descending=True, class_name="B", limit=50)
    expected = np.sort(given.measurements["size"][given.class_index == 1])[::-1][:50]
    assert [one["measurements"]["size"] for one in listed] == pytest.approx(expected)
    listed = list_objects(index, by="some", descending=False, class_name=None, limit=20_000)
    assert len(listed) == np.count_nonzero(given.measurements["size"] > 45)


def test_a_tile_of_very_many_objects_shows_all_and_draws_the_largest(many):
    given, index = many
    _, levels = outline_grid(given.image.shape)
    codes = draw_tile(index, given.image.shape, 0, 0, 0)
    assert (codes > 0).mean() > 0.5
    assert levels == 8


def test_holes_and_parts_stay(tmp_path):
    hole = shapely.Polygon(
        [(0, 0), (90, 0), (90, 90), (0, 90)], [[(10, 10), (10, 80), (80, 80), (80, 10)]]
    )
    parts = shapely.MultiPolygon([shapely.box(200, 0, 210, 9), shapely.box(220, 0, 230, 9)])
    image = ImageRef("a.svs", (500, 500), Spacing((0.5, 0.5)))
    given = np.array([hole, parts], object)
    build([Annotations(given, np.array([-1, -1]), (), image)], tmp_path / "index")
    index = ObjectIndex.open(tmp_path / "index")
    assert index.at(50, 50) is None
    assert index.polygon(index.at(5, 5)).equals(hole)
    assert index.polygon(index.at(225, 5)).equals(parts)
    assert index.class_name(0) is None


def test_no_objects_are_an_index_too(tmp_path):
    image = ImageRef("a.svs", (500, 500), Spacing((0.5, 0.5)))
    empty = Annotations(
        Polygons(np.empty((0, 2)), *(np.zeros(1, np.int64),) * 3), np.empty(0, np.int64), (), image
    )
    build([empty], tmp_path / "index")
    index = ObjectIndex.open(tmp_path / "index")
    assert len(index) == 0
    assert index.at(1, 1) is None
    assert not draw_tile(index, (500, 500), 0, 0, 0).any()


def test_objects_in_the_frame_of_bounds_lie_where_the_slide_has_them(tmp_path, made_run):
    image = ImageRef("a.mrxs", SIZE, Spacing((0.5, 0.5)), "mirax", Box((100, 200), (1300, 2200)))
    folder = make_result(tmp_path / "a", made_run / "slides" / "a.svs", image=image)
    result = FinishedResult(folder)
    build(result.objects(), tmp_path / "index")
    index = ObjectIndex.open(tmp_path / "index")
    shown = read_geojson(folder / "annotations.geojson")
    shift = shapely.bounds(shown.geometries).min(axis=0)[:2] + np.array([200, 100])
    assert index.bounds.min(axis=0)[:2] == pytest.approx(shift)


def test_an_index_can_be_made_by_another_process(shown, tmp_path):
    build_beside(shown[0].result, "annotations", tmp_path / "index")
    made, here = ObjectIndex.open(tmp_path / "index"), index_of(shown[0])
    assert np.array_equal(made.bounds, here.bounds)
    assert made.classes == here.classes
    (shown[1].result.folder / "annotations.geojson").write_text("{")
    with pytest.raises(RunError, match="cannot be shown"):
        build_beside(shown[1].result, "annotations", tmp_path / "other")
