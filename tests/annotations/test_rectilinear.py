"""Outlines along pixel edges: the same polygons and files, in a fraction of the memory."""

import pickle

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.annotations import (
    AnnotationClass,
    Annotations,
    ImageRef,
    Polygons,
    to_frame,
    write_geojson,
)
from wsiseg.annotations.chunks import chunks, in_shapely
from wsiseg.annotations.measure import area_um2
from wsiseg.annotations.rectilinear import Rectilinear, in_columns
from wsiseg.annotations.trace import ToLevel0, trace_labels
from wsiseg.geometry import Box, Spacing

MASKS = hnp.arrays(
    np.uint8, hnp.array_shapes(min_dims=2, max_dims=2, max_side=12), elements=st.integers(0, 2)
)
CLASSES = tuple(AnnotationClass(name, (200, 0, 0)) for name in ("Tumor", "Stroma"))


def drawn(rings):
    """Return polygons drawn by hand, each a list of closed rings."""
    return np.array([shapely.Polygon(shell, holes) for shell, *holes in rings], object)


def test_a_ring_with_a_hole_is_what_one_draws_by_hand():
    mask = np.array([[1, 1, 1, 0], [1, 0, 1, 2], [1, 1, 1, 0]], np.uint8)
    traced = trace_labels(mask)
    by_hand = drawn(
        [
            [[(0, 0), (3, 0), (3, 3), (0, 3)], [(1, 1), (1, 2), (2, 2), (2, 1)]],
            [[(3, 1), (4, 1), (4, 2), (3, 2)]],
        ]
    )
    assert shapely.equals(traced.outlines.to_shapely(), by_hand).all()
    assert traced.outlines.corners.tolist().count([0, 0]) == 1
    assert len(traced.outlines.corners) == 6  # two horizontal edges of each of three rings
    assert traced.outlines.spans.tolist() == [0, 10, 15]


@given(MASKS, st.data())
def test_any_rows_are_those_of_the_whole(mask, data):
    outlines = trace_labels(mask, place=ToLevel0((4.4055, 3.0), origin=(8, 9))).outlines
    whole = outlines.to_shapely()
    rows = np.array(data.draw(st.lists(st.integers(0, max(0, len(whole) - 1)), max_size=9)), int)
    rows = rows[: len(whole) and None]
    taken = outlines.take(rows)
    assert shapely.equals_exact(taken.to_shapely(), whole[rows]).all()
    assert shapely.equals_exact(taken[1:3].to_shapely(), whole[rows][1:3]).all()
    assert np.diff(taken.spans).tolist() == shapely.get_num_coordinates(whole[rows]).tolist()
    in_columns(taken).check()
    again = pickle.loads(pickle.dumps(taken))
    assert shapely.equals_exact(again.to_shapely(), whole[rows]).all()


@given(MASKS, st.sampled_from([1.0, 4.4055, 16.02]), st.sampled_from(["aperio", "mirax"]))
def test_files_are_those_of_shapely_objects(tmp_path_factory, mask, downsample, vendor):
    folder = tmp_path_factory.mktemp("columns")
    size = tuple(int(np.ceil(n * downsample)) + 20 for n in mask.shape)
    image = ImageRef("a", size, Spacing((0.5, 0.5)), vendor, Box((8, 8), size))
    traced = trace_labels(mask, place=ToLevel0((downsample,) * 2, (8, 8), size))
    held = Annotations(traced.outlines, traced.values - 1, CLASSES, image)
    made = Annotations(traced.geometries, traced.values - 1, CLASSES, image)
    reports = [
        write_geojson(one, folder / name) for one, name in ((held, "a.json"), (made, "b.json"))
    ]
    assert (folder / "a.json").read_bytes() == (folder / "b.json").read_bytes()
    assert reports[0].objects == reports[1].objects
    assert isinstance(held.outlines, Rectilinear)  # nothing was made to stay
    pixel = image.spacing.um
    assert (
        area_um2(held.outlines, pixel=pixel).tolist()
        == area_um2(made.geometries, pixel=pixel).tolist()
    )
    moved = to_frame(held, "qupath")
    assert isinstance(moved.outlines, Polygons)
    assert shapely.equals_exact(moved.geometries, to_frame(made, "qupath").geometries).all()


def test_chunks_are_those_of_shapely_objects():
    mask = np.random.default_rng(0).integers(0, 3, (300, 200)).astype(np.uint8)
    traced = trace_labels(mask, block=64)
    assert len(traced) > 5_000  # more than one chunk
    assert list(chunks(traced.outlines)) == list(chunks(traced.geometries))
    parts = [shapes for _, shapes in in_shapely(traced.outlines)]
    assert shapely.equals_exact(np.concatenate(parts), traced.geometries).all()


@pytest.mark.parametrize(("side", "bytes_each"), [(200, 1), (2_000, 2), (70_000, 4)])
def test_a_vertex_takes_as_few_bytes_as_its_mask_allows(side, bytes_each):
    mask = np.zeros((4, side), np.uint8)
    mask[1:3, ::2] = 1
    outlines = trace_labels(mask).outlines
    vertices = outlines.spans[-1] - len(outlines)  # rings end where they begin
    assert outlines.corners.nbytes == vertices * bytes_each


def test_without_polygons_there_are_empty_columns():
    nothing = trace_labels(np.zeros((3, 3), np.uint8)).outlines
    assert len(nothing) == 0
    assert len(nothing[0:5]) == 0
    assert nothing.spans.tolist() == [0]
    assert list(in_shapely(nothing)) == []
