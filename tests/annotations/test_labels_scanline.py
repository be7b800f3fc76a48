"""Polygons to pixels: against rasterio, against shapely at pixel centres, and back from masks."""

from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import shapely
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from labelled_slides import pixels_over
from rasterio.features import rasterize
from scipy.spatial import Delaunay

from wsiseg.annotations.scanline import PolygonRaster
from wsiseg.annotations.trace import to_level0, trace_labels
from wsiseg.geometry import Box

masks = st.tuples(st.integers(1, 14), st.integers(1, 14)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.integers(0, 3))
)
factors = st.tuples(st.floats(1, 9), st.floats(1, 9))


def star(rng, centre, radius, corners, hole=None):
    angle = np.sort(rng.uniform(0, 2 * np.pi, corners))
    reach = radius * rng.uniform(0.3, 1, corners)
    outline = np.stack([np.cos(angle), np.sin(angle)], axis=1) * reach[:, None]
    polygon = shapely.make_valid(shapely.Polygon(centre + outline), method="structure")
    return polygon if hole is None else polygon - shapely.Point(centre).buffer(hole)


def at_centres(polygons, layers, pixels):
    """The rule itself: the highest layer of those that hold the centre, plus one."""
    y, x = (np.arange(n) + 0.5 for n in pixels.shape)
    x, y = np.meshgrid(x * pixels.downsample[1], y * pixels.downsample[0])
    top = np.zeros(pixels.shape, np.uint8)
    for layer in sorted(set(layers)):
        for polygon, of in zip(polygons, layers, strict=True):
            if of == layer:
                top[shapely.contains_xy(polygon, x, y)] = layer + 1
    return top


@given(mask=masks, downsample=factors, cut=st.tuples(st.floats(0.01, 1), st.floats(0.01, 1)))
def test_a_traced_mask_comes_back_bit_for_bit(mask, downsample, cut):
    size = tuple((n - 1 + c) * d for n, c, d in zip(mask.shape, cut, downsample, strict=True))
    traced = trace_labels(mask)
    polygons = to_level0(traced.geometries, downsample=downsample, size=size)
    raster = PolygonRaster(polygons, [int(value) - 1 for value in traced.values], size)
    pixels = pixels_over(size, downsample)
    assert pixels.shape == mask.shape
    np.testing.assert_array_equal(raster.read(pixels, Box.of_shape(mask.shape)), mask)


@given(mask=masks, data=st.data())
def test_a_part_is_the_same_as_cut_from_the_whole(mask, data):
    traced = trace_labels(mask)
    raster = PolygonRaster(traced.geometries, (traced.values - 1).tolist(), mask.shape)
    pixels = pixels_over(mask.shape, (1.0, 1.0))
    spans = [sorted(data.draw(st.tuples(*[st.integers(0, n)] * 2))) for n in mask.shape]
    box = Box(tuple(a for a, _ in spans), tuple(b for _, b in spans))
    if box.size:
        np.testing.assert_array_equal(raster.read(pixels, box), mask[box.slices()])


@pytest.mark.parametrize("seed", range(5))
def test_equals_rasterio_on_odd_polygons(seed):
    rng = np.random.default_rng(seed)
    polygons = [star(rng, rng.uniform(0, 90, 2), 40, 60, hole=5) for _ in range(6)]
    layers = rng.permutation(6).tolist()
    raster = PolygonRaster(np.array(polygons, object), layers, (90, 97))
    ordered = sorted(zip(polygons, layers, strict=True), key=lambda pair: pair[1])
    expected = rasterize([(g, n + 1) for g, n in ordered], out_shape=(90, 97), dtype=np.uint8)
    found = raster.read(pixels_over((90, 97), (1, 1)), Box((0, 0), (90, 97)))
    np.testing.assert_array_equal(found, expected)
    assert len(np.unique(found)) == 7


@given(seed=st.integers(0, 1 << 32), downsample=factors)
def test_equals_the_rule_at_any_downsample(seed, downsample):
    rng = np.random.default_rng(seed)
    polygons = [star(rng, rng.uniform(-10, 110, 2), 60, 30) for _ in range(4)]
    apart = [shapely.box(3, 3, 20, 9), shapely.box(40, 50, 60, 99)]
    polygons.append(shapely.transform(shapely.MultiPolygon(apart), lambda xy: xy + np.pi / 100))
    layers = [0, 1, 0, 2, 1]
    whole = pixels_over((100, 100), downsample)
    size = tuple(n * d for n, d in zip(whole.shape, downsample, strict=True))
    raster = PolygonRaster(np.array(polygons, object), layers, size)
    found = raster.read(whole, Box.of_shape(whole.shape))
    np.testing.assert_array_equal(found, at_centres(polygons, layers, whole))


@given(seed=st.integers(0, 1 << 32), on_grid=st.booleans())
def test_polygons_that_share_edges_share_no_pixel_and_leave_none_out(seed, on_grid):
    rng = np.random.default_rng(seed)
    points = rng.uniform(0, 20, (12, 2))
    if on_grid:  # centres lie on edges and vertices
        points = np.unique(np.floor(points) + 0.5, axis=0)
    corners = np.array([[0, 0], [0, 20], [20, 0], [20, 20]], float)
    points = np.concatenate([corners, points])
    triangles = points[Delaunay(points).simplices]
    pixels = pixels_over((20, 20), (1, 1))
    counts = np.zeros((20, 20), int)
    for triangle in triangles:
        raster = PolygonRaster(np.array([shapely.Polygon(triangle)], object), [0], (20, 20))
        counts += raster.read(pixels, Box((0, 0), (20, 20)))
    assert (counts == 1).all()


def test_threads_read_the_same():
    rng = np.random.default_rng(0)
    polygons = np.array([star(rng, rng.uniform(0, 300, 2), 40, 200) for _ in range(40)], object)
    pixels = pixels_over((300, 300), (1, 1))
    boxes = [Box((a, b), (a + 100, b + 100)) for a in (0, 100, 200) for b in (0, 100, 200)] * 8
    raster = PolygonRaster(polygons, [i % 4 for i in range(40)], (300, 300))
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda box: raster.read(pixels, box), boxes))
    alone = PolygonRaster(polygons, [i % 4 for i in range(40)], (300, 300))
    for box, part in zip(boxes, found, strict=True):
        np.testing.assert_array_equal(part, alone.read(pixels, box))


def test_nothing_drawn_is_nothing():
    raster = PolygonRaster(np.empty(0, object), [], (10, 10))
    assert not raster.read(pixels_over((10, 10), (1, 1)), Box((0, 0), (10, 10))).any()
