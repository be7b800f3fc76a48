"""QuPath's frame by vendor, and moving there and back."""

from dataclasses import replace

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.annotations import AnnotationClass, Annotations, ImageRef, qupath_frame, to_frame
from wsiseg.geometry import Box, Spacing

SHAPE = (3000, 2000)
BOUNDS = Box((100, 200), (2100, 1200))
SPACING = Spacing((0.25, 0.25))


def image(vendor, bounds=BOUNDS):
    return ImageRef("a", SHAPE, SPACING, vendor, bounds)


@pytest.mark.parametrize("vendor", ["mirax", "leica", "MIRAX"])
def test_vendors_whose_bounds_qupath_subtracts(vendor):
    frame = qupath_frame(image(vendor))
    assert (frame.offset, frame.width, frame.height) == ((200, 100), 1000, 2000)
    assert frame.bounds_applied
    assert (frame.note is not None) == (vendor == "leica")


@pytest.mark.parametrize(
    "vendor",
    ["aperio", "hamamatsu", "philips", "ventana", "trestle", "sakura", "dicom", "zeiss", "generic",
     "generic-tiff", "argos", "something new"],
)  # fmt: skip
def test_vendors_shown_whole(vendor):
    frame = qupath_frame(image(vendor))
    assert (frame.offset, frame.width, frame.height) == ((0, 0), 2000, 3000)
    assert not frame.bounds_applied
    assert frame.note


@pytest.mark.parametrize("vendor", ["generic", "generic-tiff", "argos"])
def test_the_note_says_what_another_version_shows(vendor):
    note = qupath_frame(image(vendor)).note
    assert "0.8" in note
    assert "1000 x 2000 at x=200, y=100" in note


@pytest.mark.parametrize("vendor", ["mirax", "leica", "aperio", "generic", "argos"])
@pytest.mark.parametrize("bounds", [None, Box((0, 0), SHAPE), Box((5, 5), (5, 9))])
def test_without_bounds_of_their_own_all_show_the_whole_image(vendor, bounds):
    frame = qupath_frame(image(vendor, bounds))
    assert (frame.offset, frame.width, frame.height) == ((0, 0), 2000, 3000)
    assert not frame.bounds_applied
    assert frame.note is None


hundredths = st.integers(-(10**8), 10**8).map(lambda n: n / 100)
sixths = st.integers(-(10**12), 10**12).map(lambda n: n / 10**6)


@given(
    x=hundredths | sixths,
    y=hundredths | sixths,
    corner=st.tuples(st.integers(0, 10**6), st.integers(0, 10**6)),
    start=st.sampled_from(["level0", "qupath"]),
)
def test_there_and_back_is_exact(x, y, corner, start):
    bounds = Box(corner, (corner[0] + 7, corner[1] + 9))
    ref = ImageRef("a", (2 * 10**6, 2 * 10**6), SPACING, "mirax", bounds)
    triangle = shapely.Polygon([(x, y), (x + 1000, y), (x, y + 1000)])
    vertices = shapely.get_coordinates(triangle).round(6)
    triangle = shapely.Polygon(vertices)
    annotations = Annotations(
        np.array([triangle]), np.zeros(1, np.int64), (AnnotationClass("a", (0, 0, 0)),), ref,
        frame=start,
    )  # fmt: skip
    other = "qupath" if start == "level0" else "level0"
    moved = to_frame(annotations, other)
    assert moved.frame == other
    sign = -1 if other == "qupath" else 1
    shift = shapely.get_coordinates(moved.geometries[0]) - vertices
    np.testing.assert_allclose(shift, np.tile((corner[1], corner[0]), (4, 1)) * sign, atol=1e-6)
    back = to_frame(moved, start)
    np.testing.assert_array_equal(shapely.get_coordinates(back.geometries[0]), vertices)
    assert to_frame(annotations, start) is annotations


def test_without_an_offset_coordinates_stay_bit_for_bit():
    triangle = shapely.Polygon([(1 / 3, 0), (1, 2 / 7), (0, np.pi)])
    annotations = Annotations(
        np.array([triangle]), np.zeros(1, np.int64), (AnnotationClass("a", (0, 0, 0)),),
        image("aperio"),
    )  # fmt: skip
    moved = to_frame(annotations, "qupath")
    assert moved.geometries[0].equals_exact(triangle, 0)
    assert replace(moved, frame="level0").image is annotations.image
