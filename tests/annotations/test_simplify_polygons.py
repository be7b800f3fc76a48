"""Simplified polygons stay valid, and neighbours stay neighbours."""

import numpy as np
import pytest
import shapely
from hypothesis import assume, example, given
from hypothesis import strategies as st

from wsiseg.annotations import simplify as module
from wsiseg.annotations.simplify import drop_small, round_valid, simplify
from wsiseg.annotations.trace import to_level0, trace_labels
from wsiseg.errors import AnnotationError

TOLERANCES = st.sampled_from([0.3, 0.8, 1.5, 4.0, 20.0])


@st.composite
def masks(draw, background=True):
    """Blobs of two or three classes with some noise, up to 36 x 36 pixels."""
    rng = np.random.default_rng(draw(st.integers(0, 10_000)))
    shape = draw(st.tuples(st.integers(1, 12), st.integers(1, 12)))
    classes = draw(st.integers(1, 3))
    coarse = rng.integers(0 if background else 1, classes + 1, shape).astype(np.uint8)
    coarse[rng.random(shape) < draw(st.sampled_from([0, 0.6]))] = 1  # with holes, filled and not
    zoom = draw(st.integers(1, 3))
    mask = coarse.repeat(zoom, axis=0).repeat(zoom, axis=1)
    noisy = rng.random(mask.shape) < draw(st.sampled_from([0, 0.05, 0.3]))
    mask[noisy] = rng.integers(0 if background else 1, classes + 1, noisy.sum())
    return mask


def polygons(*wkts):
    return np.array([shapely.from_wkt(wkt) for wkt in wkts], object)


@given(mask=masks(), tolerance=TOLERANCES, downsample=st.sampled_from([(1, 1), (4.4055, 3.1)]))
def test_simplified_polygons_are_valid_and_do_not_overlap(mask, tolerance, downsample):
    exact = to_level0(trace_labels(mask).geometries, downsample=downsample)
    simple = simplify(exact, tolerance)
    assert len(simple) == len(exact)
    assert shapely.is_valid(simple).all()
    assert (shapely.area(simple) > 0).all()
    together = shapely.area(shapely.union_all(simple)) if len(simple) else 0.0
    assert shapely.area(simple).sum() == pytest.approx(together, rel=1e-12)
    assert shapely.coverage_is_valid(simple)


def share_a_border(polygons):
    """Return for each pair whether their boundaries meet along a line (DE-9IM, fifth place)."""
    codes = shapely.relate(polygons[:, None], polygons[None])
    return np.array([[code[4] == "1" for code in row] for row in codes])


@given(mask=masks(background=False), tolerance=TOLERANCES)
def test_no_gaps_open_between_neighbours(mask, tolerance):
    exact = trace_labels(mask).geometries
    simple = simplify(exact, tolerance)
    whole = shapely.coverage_union_all(simple)
    assert sum(len(p.interiors) for p in shapely.get_parts(whole)) == 0
    np.testing.assert_array_equal(share_a_border(exact), share_a_border(simple))


@given(mask=masks(), tolerance=TOLERANCES)
def test_area_changes_within_the_stated_bound(mask, tolerance):
    exact = trace_labels(mask).geometries
    assume(len(exact))
    simple = simplify(exact, tolerance)
    change = np.abs(shapely.area(simple) - shapely.area(exact))
    dense = shapely.get_num_coordinates(module._insert_junctions(exact))
    removed = dense - shapely.get_num_coordinates(simple)
    assert (change <= removed * tolerance**2 + 1e-9).all()


@given(mask=masks(), tolerance=TOLERANCES)
def test_vertices_are_a_subset(mask, tolerance):
    exact = to_level0(trace_labels(mask).geometries, downsample=(4.4055, 3.1))
    simple = simplify(exact, tolerance)
    before = set(map(tuple, shapely.get_coordinates(exact)))
    assert set(map(tuple, shapely.get_coordinates(simple))) <= before


@given(mask=masks())
def test_junctions_do_not_change_outlines(mask):
    exact = trace_labels(mask).geometries
    assume(len(exact))
    dense = module._insert_junctions(exact)
    assert shapely.equals(dense, exact).all()
    assert shapely.coverage_is_valid(dense)
    assert (shapely.area(dense) == shapely.area(exact)).all()


def test_junction_of_three_classes_is_needed():
    exact = trace_labels(np.array([[1, 1], [2, 3]], np.uint8)).geometries
    assert not shapely.coverage_is_valid(exact)
    assert (1.0, 1.0) in shapely.get_coordinates(module._insert_junctions(exact)[:1])


def test_steps_of_pixels_are_smoothed():
    mask = np.tril(np.ones((40, 40), np.uint8))
    exact = trace_labels(mask).geometries
    assert len(shapely.get_coordinates(simplify(exact, 0.8))) < 10
    assert shapely.equals_exact(simplify(exact, 0.7), exact).all()


def test_tolerance_is_in_the_unit_of_the_pixel():
    exact = trace_labels(np.tril(np.ones((40, 40), np.uint8))).geometries
    by_hand = shapely.transform(exact, lambda xy: xy * (0.25, 1.0))
    by_hand = shapely.transform(simplify(by_hand, 0.4), lambda xy: xy * (4.0, 1.0))
    simple = simplify(exact, 0.4, pixel=(1.0, 0.25))
    assert shapely.equals_exact(simple, by_hand, 1e-9).all()
    assert len(shapely.get_coordinates(simple)) < len(shapely.get_coordinates(exact))
    assert shapely.equals_exact(simplify(exact, 0.17, pixel=(0.25, 0.25)), exact).all()


def test_zero_tolerance_changes_nothing():
    exact = trace_labels(np.tril(np.ones((5, 5), np.uint8))).geometries
    assert simplify(exact, 0.0) is exact
    assert len(simplify(exact[:0], 1.0)) == 0


def test_what_collapses_stays_exact_with_all_that_touches_it(monkeypatch):
    mask = np.zeros((12, 20), np.uint8)
    mask[1:9, 1:9] = np.tril(np.ones((8, 8), np.uint8)) + 1
    mask[1:9, 11:19] = np.tril(np.ones((8, 8), np.uint8))
    exact = trace_labels(mask).geometries
    assert len(exact) == 3
    honest = shapely.coverage_simplify

    def collapse_first(geometries, tolerance):
        simple = honest(geometries, tolerance)
        simple[0] = shapely.Polygon()
        return simple

    monkeypatch.setattr(shapely, "coverage_simplify", collapse_first)
    changed = ~shapely.equals(simplify(exact, 1.0), exact)
    apart = shapely.bounds(exact)[:, 0] > 10
    np.testing.assert_array_equal(changed, apart)


@pytest.mark.parametrize("tolerance", [-1.0, float("nan"), float("inf")])
def test_useless_tolerance_is_refused(tolerance):
    with pytest.raises(AnnotationError, match="needs a tolerance >= 0"):
        simplify(polygons("POLYGON ((0 0, 1 0, 1 1, 0 0))"), tolerance)


def test_only_polygons_are_taken():
    multi = polygons("MULTIPOLYGON (((0 0, 1 0, 1 1, 0 0)))")
    with pytest.raises(AnnotationError, match="polygons are needed, found <MULTIPOLYGON"):
        simplify(multi, 1.0)


@given(mask=masks(), min_area=st.integers(0, 12))
def test_small_polygons_are_dropped(mask, min_area):
    traced = trace_labels(mask)
    kept, index = drop_small(traced.geometries, min_area=min_area * 0.25, pixel_area=0.25)
    np.testing.assert_array_equal(index, np.flatnonzero(traced.pixels >= min_area))
    assert (kept == traced.geometries[index]).all()


@given(mask=masks(), min_area=st.integers(0, 6), min_hole=st.integers(0, 12))
def test_small_holes_are_filled_where_nothing_is_in_them(mask, min_area, min_hole):
    traced = trace_labels(mask)
    kept, index = drop_small(traced.geometries, min_area=min_area, min_hole=min_hole)
    assert shapely.is_valid(kept).all()
    if not len(kept):
        return
    together = shapely.area(shapely.union_all(kept))
    assert shapely.area(kept).sum() == pytest.approx(together)
    for before, after in zip(traced.geometries[index], kept, strict=True):
        holes = [shapely.Polygon(ring) for ring in before.interiors]
        others = [p for p in kept if p is not after]
        filled = [
            hole
            for hole in holes
            if hole.area < min_hole and not any(hole.covers(p) for p in others)
        ]
        assert after.equals(shapely.union_all([before, *filled]))


GRAZED = np.array(
    [
        [1, 1, 1, 0, 0, 0],
        [0, 0, 0, 1, 1, 1],
        [1, 1, 1, 1, 1, 1],
        [1, 1, 0, 1, 1, 0],
        [0, 1, 1, 0, 1, 1],
    ],
    np.uint8,
)
"""Simplified, a corner of it lies so near an edge that rounding puts it on the other side."""


@example(mask=GRAZED, tolerance=3.0, decimals=2)
@given(mask=masks(), tolerance=st.sampled_from([0.0, 0.9, 3.0]), decimals=st.integers(0, 2))
def test_rounded_polygons_are_valid(mask, tolerance, decimals):
    exact = to_level0(trace_labels(mask).geometries, downsample=(0.611, 1.377))
    rounded = round_valid(simplify(exact, tolerance), decimals=decimals)
    assert shapely.is_valid(rounded.geometries).all()
    assert (shapely.area(rounded.geometries) > 0).all()
    xy = shapely.get_coordinates(rounded.geometries)
    np.testing.assert_array_equal(xy, np.round(xy, decimals))
    assert (np.diff(rounded.index) >= 0).all()
    assert len(np.unique(rounded.index)) + rounded.dropped == len(exact)
    if decimals == 2:
        assert rounded.dropped == 0
        assert tolerance or not rounded.repaired  # corners of pixels are far from each other
        # each vertex left out changes the area by less than the tolerance squared
        areas = np.bincount(rounded.index, shapely.area(rounded.geometries), len(exact))
        changed = np.abs(areas - shapely.area(exact))
        vertices = shapely.get_num_coordinates(exact)
        assert (changed <= tolerance**2 * vertices + 0.01 * shapely.length(exact)).all()


def test_rounding_cuts_necks_and_drops_slivers():
    neck = "POLYGON ((0 0, 2 0, 2 2, 1 1.001, 0 2, 0 1.5, 1 1, 0 0.5, 0 0))"
    sliver = "POLYGON ((0 0, 5 0.001, 5 0.002, 0 0))"
    square = "POLYGON ((0 0, 1.234 0, 1.234 1, 0 1, 0 0))"
    dumbbell = "POLYGON ((0 0, 1 0.499, 2 0, 2 1, 1 0.501, 0 1, 0 0))"
    rounded = round_valid(polygons(sliver, square, dumbbell, neck))
    assert rounded.dropped == 1
    assert rounded.repaired == 2
    assert rounded.index.tolist()[:3] == [1, 2, 2]
    assert rounded.geometries[0].wkt == "POLYGON ((0 0, 1.23 0, 1.23 1, 0 1, 0 0))"
    assert shapely.is_valid(rounded.geometries).all()
    assert shapely.area(rounded.geometries[1:3]).tolist() == [0.5, 0.5]


def test_nothing_to_round_or_drop():
    nothing = np.empty(0, object)
    assert len(round_valid(nothing).geometries) == 0
    kept, index = drop_small(nothing, min_area=1, min_hole=1)
    assert len(kept) == len(index) == 0
