"""Polygons in columns: the same as shapely's, and clear outlines are valid ones."""

import pickle
from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.annotations import (
    AnnotationClass,
    Annotations,
    ImageRef,
    Polygons,
    read_geojson,
    to_frame,
    verify_geojson,
    write_annotations,
    write_geojson,
)
from wsiseg.annotations._clear import are_clear
from wsiseg.annotations._coordinates import coordinates
from wsiseg.errors import AnnotationError
from wsiseg.geometry import Box, Spacing

IMAGE = ImageRef("a.svs", (3000, 2000), Spacing((0.25, 0.25)))
MIRAX = replace(IMAGE, vendor="mirax", bounds=Box((10, 20), (2000, 1500)))
CLASSES = (AnnotationClass("A", (1, 2, 3)), AnnotationClass("B", (4, 5, 6)))
SQUARE = [(0, 0), (0, 4), (4, 4), (4, 0)]


def circle(vertices):
    angles = np.arange(vertices) / vertices * 2 * np.pi
    return np.stack([np.cos(angles), np.sin(angles)], axis=1) * 4_000


def annotate(geometries, image=IMAGE, frame="level0"):
    index = np.arange(len(geometries)) % 2
    return Annotations(geometries, index, CLASSES, image, frame=frame)


def rings(coordinates, largest=9):
    return st.lists(st.tuples(coordinates, coordinates), min_size=3, max_size=largest)


@st.composite
def shapes(draw: st.DrawFn) -> shapely.Geometry:
    """Polygons of one or more parts with any holes, mostly invalid, never empty."""
    coordinates = st.integers(0, 3000).map(lambda n: n / 100) | st.floats(-9, 40)
    parts = draw(
        st.lists(st.lists(rings(coordinates), min_size=1, max_size=3), min_size=1, max_size=2)
    )
    polygons = [shapely.Polygon(part[0], part[1:]) for part in parts]
    return polygons[0] if len(polygons) == 1 else shapely.MultiPolygon(polygons)


def column(geometries):
    result = np.empty(len(geometries), object)
    result[:] = geometries
    return result


@given(st.lists(shapes(), min_size=1, max_size=6), st.data())
def test_columns_hold_what_shapely_holds(geometries, data):
    polygons = Polygons.of(column(geometries))
    polygons.check()
    assert shapely.equals_exact(polygons.to_shapely(), geometries).all()
    rows = np.array(data.draw(st.lists(st.integers(0, len(geometries) - 1))), np.int64)
    taken = polygons.take(rows).to_shapely()
    assert shapely.equals_exact(taken, column(geometries)[rows]).all()
    start, stop = sorted(data.draw(st.tuples(*[st.integers(0, len(geometries))] * 2)))
    several = Polygons.concatenate([polygons[:start], polygons[start:stop], polygons[stop:]])
    assert shapely.equals_exact(several.to_shapely(), geometries).all()
    low, high = polygons.bounds()
    for i, geometry in enumerate(geometries):
        vertices = shapely.get_coordinates(geometry)  # holes outside the shell counted
        assert (low[i] == vertices.min(axis=0)).all()
        assert (high[i] == vertices.max(axis=0)).all()


@given(st.lists(shapes(), max_size=6), st.sampled_from([IMAGE, MIRAX]), st.sampled_from(["a", "b"]))
def test_the_same_file_comes_from_columns_and_from_shapely(
    tmp_path_factory, geometries, image, start
):
    frames = {"a": ("level0", "qupath"), "b": ("qupath", "level0")}[start]
    folder = tmp_path_factory.mktemp("same")
    objects = column(geometries)
    reports = [
        write_geojson(annotate(held, image, frames[0]), folder / name, frame=frames[1])
        for name, held in (("shapely.geojson", objects), ("columns.geojson", Polygons.of(objects)))
    ]
    assert (folder / "shapely.geojson").read_bytes() == (folder / "columns.geojson").read_bytes()
    assert replace(reports[0], files=()) == replace(reports[1], files=())


@given(
    st.lists(rings(st.integers(0, 12), 12) | rings(st.integers(0, 300), 12), min_size=1),
    st.sampled_from([0, 1_234, 90_000_000]),
    st.sampled_from([1, 1_000]),
)
def test_clear_outlines_are_valid_and_stay_so_when_snapped(outlines, shift, scale):
    points = [(np.array([*ring, ring[0]]) * scale + shift) / 100 for ring in outlines]
    polygons = Polygons.of_rings([[[ring]] for ring in points])
    geometries = polygons.to_shapely()[are_clear(polygons)]
    assert shapely.is_valid(geometries).all()
    assert (shapely.area(geometries) > 0).all()
    snapped = shapely.set_precision(geometries, 0.01)
    assert (shapely.get_type_id(snapped) == shapely.GeometryType.POLYGON).all()
    assert shapely.area(snapped) == pytest.approx(shapely.area(geometries))


@pytest.mark.parametrize(
    ("ring", "clear"),
    [
        (SQUARE, True),
        ([*SQUARE, (2, 2)], True),
        ([*SQUARE, (0, 0)], False),  # a repeated vertex
        ([(0, 0), (4, 4), (4, 0), (0, 4)], False),  # crosses
        ([(0, 0), (4, 0), (4, 4), (2, 0), (0, 4)], False),  # touches an edge
        ([(0, 0), (4, 0), (2, 0), (2, 4)], False),  # turns back on itself
        ([(0, 0), (400, 1), (401, 0), (400, 2)], False),  # a vertex within reach of an edge
        ([(0, 0), (4, 0), (8, 0)], False),  # flat
        ([(0, 0), (100, 100), (0, 1)], False),  # a needle
        (circle(256), True),
        (circle(257), False),  # more edges than are compared
        ([(0, 0), (0, 1 << 26), (9, 0)], False),  # too large to be exact
    ],
)
def test_which_outlines_are_clear(ring, clear):
    points = np.rint(np.array([*ring, ring[0]], float)) / 100
    assert are_clear(Polygons.of_rings([[[points]]])).tolist() == [clear]


def test_whatever_has_holes_or_parts_is_not_called_clear():
    ring = np.array([*SQUARE, SQUARE[0]], float)
    polygons = Polygons.of_rings([[[ring * 9, ring + 1]], [[ring], [ring + 9]], [[ring]]])
    assert are_clear(polygons).tolist() == [False, False, True]


@given(st.lists(st.integers(0, 10**7) | st.integers(0, 10**14), min_size=6, max_size=6))
def test_coordinates_are_written_as_the_shortest_decimals(hundredths):
    points = np.array(hundredths).reshape(3, 2) / 100
    ring = np.concatenate([points, points[:1]])
    (text,) = coordinates(Polygons.of_rings([[[ring]]]))
    shortest = ",".join(f"[{x!r},{y!r}]" for x, y in ring.tolist())
    assert text.decode() == f"[[{shortest}]]".replace(".0,", ",").replace(".0]", "]")


def test_rings_and_parts_are_nested_as_geojson_needs():
    ring = np.array([(0, 0), (1, 0), (0, 1), (0, 0)], float)
    text = "[[0,0],[1,0],[0,1],[0,0]]"
    polygons = Polygons.of_rings([[[ring, ring], [ring]], [[ring]], [[ring, ring]]])
    assert [found.decode() for found in coordinates(polygons)] == [
        f"[[{text},{text}],[{text}]]",
        f"[{text}]",
        f"[{text},{text}]",
    ]


def test_geometries_are_made_when_asked_for_and_then_kept():
    geometries = column([shapely.box(0, 0, 4, 4), shapely.box(5, 5, 7, 9)])
    annotations = annotate(Polygons.of(geometries))
    assert isinstance(annotations.outlines, Polygons)
    assert "2 objects of 'a.svs'" in repr(annotations)
    assert isinstance(pickle.loads(pickle.dumps(annotations)).outlines, Polygons)
    assert isinstance(to_frame(annotate(annotations.outlines, MIRAX), "qupath").outlines, Polygons)
    made = annotations.geometries
    assert shapely.equals_exact(made, geometries).all()
    assert made is annotations.geometries is annotations.outlines
    again = pickle.loads(pickle.dumps(annotations))
    assert shapely.equals_exact(again.geometries, geometries).all()


def test_columns_are_written_without_shapely_objects(tmp_path, monkeypatch):
    ring = np.array([(1, 1), (5.25, 1), (3, 4.5), (1, 1)])
    polygons = Polygons.of_outlines(np.concatenate([ring, ring + 9]), np.array([0, 4, 8]))

    def refuse(self):
        raise AssertionError("made shapely objects")

    with monkeypatch.context() as patched:
        patched.setattr(Polygons, "to_shapely", refuse)
        done = write_annotations(tmp_path, annotate(polygons))
    assert done.objects == 2
    assert verify_geojson(done.files[0]).verdict == "clean"
    assert shapely.equals_exact(read_geojson(done.files[0]).geometries, polygons.to_shapely()).all()


@pytest.mark.parametrize(
    ("points", "offsets", "message"),
    [
        ([*SQUARE, (0, 0)], [0, 4], "from 0 to 5 .* found 0 to 4"),
        ([*SQUARE, (0, 0)], [1, 5], "found 1 to 5"),
        ([*SQUARE, (0, 0)], [0, 5, 5], "at least 4.* steps of 0"),
        ([(0, 0), (1, 1), (0, 0)], [0, 3], "at least 4.* steps of 3"),
        (SQUARE, [0, 4], "ring 0 does not end where it starts"),
    ],
)
def test_columns_that_do_not_fit_together_are_refused(points, offsets, message):
    polygons = Polygons.of_outlines(np.array(points, float), np.array(offsets))
    with pytest.raises(AnnotationError, match=message):
        annotate(polygons)
