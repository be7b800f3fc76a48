"""Tracing is exact: outlines along pixel edges, whatever the mask, whatever the slabs."""

import itertools
import sys

import numpy as np
import pytest
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from wsiseg.annotations import _rings
from wsiseg.annotations.trace import TracedPolygons, Tracer, to_level0, trace_labels
from wsiseg.errors import AnnotationError, LabelError

rasterio_features = pytest.importorskip("rasterio.features")


@st.composite
def masks(draw, max_side=12):
    """Small masks: noise, or nested rectangles with some noise, in several integer types."""
    shape = draw(st.tuples(st.integers(1, max_side), st.integers(1, max_side)))
    dtype = draw(st.sampled_from([np.uint8, np.int16, np.uint16, np.int32, np.int64, np.uint64]))
    classes = draw(st.integers(1, 3))
    values = hnp.from_dtype(np.dtype(dtype), min_value=0, max_value=classes)
    if draw(st.booleans()):
        return draw(hnp.arrays(dtype, shape, elements=values))
    mask = np.full(shape, draw(values), dtype)
    for depth, value in enumerate(draw(st.lists(values, max_size=5))):
        mask[depth : shape[0] - depth, depth : shape[1] - depth] = value
    for y, x, value in draw(
        st.lists(st.tuples(st.integers(0, shape[0] - 1), st.integers(0, shape[1] - 1), values))
    ):
        mask[y, x] = value
    return mask


def same(a: TracedPolygons, b: TracedPolygons) -> bool:
    return (
        len(a) == len(b)
        and bool(shapely.equals_exact(a.geometries, b.geometries).all())
        and np.array_equal(a.values, b.values)
        and np.array_equal(a.pixels, b.pixels)
    )


def component_count(mask, ignore=(0,)):
    from scipy.ndimage import label

    return sum(label(mask == value)[1] for value in np.unique(mask) if value not in ignore)


def check_exact(mask, traced):
    """Assert the laws of D9 with other people's code: rasterio, GEOS, scipy."""
    assert shapely.is_valid(traced.geometries).all()
    assert len(traced) == component_count(mask)
    np.testing.assert_array_equal(shapely.area(traced.geometries), traced.pixels)
    assert traced.pixels.sum() == np.count_nonzero(mask)
    if len(traced):
        pairs = zip(traced.geometries, traced.values.tolist(), strict=True)
        back = rasterio_features.rasterize(pairs, mask.shape, fill=0, dtype="int32")
        np.testing.assert_array_equal(back, mask)


def turns_at_every_vertex(polygon):
    """Whether no vertex of any ring is collinear with its neighbours, or doubled."""
    for ring in (polygon.exterior, *polygon.interiors):
        edges = np.diff(np.asarray(ring.coords), axis=0)
        following = np.roll(edges, -1, axis=0)
        if (edges[:, 0] * following[:, 1] == edges[:, 1] * following[:, 0]).any():
            return False
    return True


@given(mask=masks())
@settings(max_examples=150)
def test_polygons_are_the_mask(mask):
    traced = trace_labels(mask)
    check_exact(mask, traced)
    assert all(turns_at_every_vertex(polygon) for polygon in traced.geometries)
    rings = shapely.get_rings(traced.geometries)
    shells = shapely.get_exterior_ring(traced.geometries)
    assert shapely.is_ccw(shells).all()
    assert shapely.is_ccw(rings).sum() == len(shells)


@given(mask=masks(), block=st.integers(1, 13))
def test_seams_are_invisible(mask, block):
    assert same(trace_labels(mask, block=block), trace_labels(mask))


@pytest.mark.parametrize("seed", range(3))
def test_every_block_size_gives_identical_polygons(seed, monkeypatch):
    mask = np.random.default_rng(seed).integers(0, 3, (40, 33)).astype(np.uint8)
    whole = trace_labels(mask)
    for block in range(1, 42):
        assert same(trace_labels(mask, block=block), whole), block
    monkeypatch.setattr("wsiseg.annotations.trace.STRIP_PIXELS", 100)
    assert same(trace_labels(mask), whole)


@given(mask=masks())
def test_many_edges_are_followed_by_scipy_as_few_are_by_a_loop(mask):
    few = trace_labels(mask)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsiseg.annotations._rings.FEW_EDGES", 0)
        many = trace_labels(mask)
    check_exact(mask, many)
    assert same(many, few)


def test_loops_give_way_once_they_have_gone_through_much(monkeypatch):
    monkeypatch.delitem(sys.modules, _rings.GRAPHS, raising=False)
    monkeypatch.setattr(_rings._Looped, "edges", 0)
    assert not _rings._suit_a_loop(_rings.FEW_EDGES + 1)
    for _ in range(_rings.MANY_EDGES // _rings.FEW_EDGES):
        assert _rings._suit_a_loop(_rings.FEW_EDGES)
    assert not _rings._suit_a_loop(1)


@given(mask=masks(), block=st.integers(1, 5), enough=st.integers(0, 20))
def test_polygons_that_are_whole_may_be_made_before_the_end(mask, block, enough):
    probability = np.linspace(0, 1, mask.size).reshape(mask.shape)
    whole = trace_labels(mask, probability=probability)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("wsiseg.annotations.trace.STRIP_PIXELS", 1)
        patch.setattr("wsiseg.annotations.trace.WAITING_CORNERS", enough)
        early = trace_labels(mask, probability=probability, block=block)
    assert same(early, whole)
    np.testing.assert_array_equal(early.probability, whole.probability)


@given(mask=masks(max_side=9))
def test_rasterio_finds_the_same_polygons(mask):
    mask = mask.astype(np.uint8)
    found = rasterio_features.shapes(mask, mask=mask > 0, connectivity=4)
    theirs = {(shapely.normalize(shapely.geometry.shape(g)).wkt, int(v)) for g, v in found}
    traced = trace_labels(mask)
    ours = {
        (shapely.normalize(g).wkt, int(v))
        for g, v in zip(traced.geometries, traced.values, strict=True)
    }
    assert ours == theirs


def test_every_mask_of_3_by_3_pixels():
    for bits in itertools.product((0, 1), repeat=9):
        mask = np.array(bits, np.uint8).reshape(3, 3)
        check_exact(mask, trace_labels(mask, block=2))


@pytest.mark.parametrize(
    ("mask", "wkts"),
    [
        ([[1]], ["POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0))"]),
        ([[1, 1, 1, 1]], ["POLYGON ((0 0, 4 0, 4 1, 0 1, 0 0))"]),
        (
            [[1, 0], [0, 1]],
            ["POLYGON ((0 0, 1 0, 1 1, 0 1, 0 0))", "POLYGON ((1 1, 2 1, 2 2, 1 2, 1 1))"],
        ),
        (  # a hole touches its shell at (2, 2)
            [[1, 1, 1], [1, 0, 1], [1, 1, 0]],
            ["POLYGON ((0 0, 3 0, 3 2, 2 2, 2 3, 0 3, 0 0), (2 1, 1 1, 1 2, 2 2, 2 1))"],
        ),
        (  # two holes touch at (2, 2)
            [[1, 1, 1, 1], [1, 0, 1, 1], [1, 1, 0, 1], [1, 1, 1, 1]],
            [
                "POLYGON ((0 0, 4 0, 4 4, 0 4, 0 0), (2 1, 1 1, 1 2, 2 2, 2 1),"
                " (3 2, 2 2, 2 3, 3 3, 3 2))"
            ],
        ),
    ],
)
def test_known_outlines(mask, wkts):
    traced = trace_labels(np.array(mask, np.uint8))
    assert [polygon.wkt for polygon in traced.geometries] == wkts


def test_classes_share_their_border():
    traced = trace_labels(np.array([[1, 2], [1, 2]], np.uint8))
    left, right = traced.geometries
    assert traced.values.tolist() == [1, 2]
    assert left.intersection(right).wkt == "LINESTRING (1 0, 1 2)"


def test_islands_in_holes_nest():
    mask = np.zeros((11, 11), np.uint8)
    for depth in range(5):
        mask[depth : 11 - depth, depth : 11 - depth] = (depth + 1) % 2
    traced = trace_labels(mask)
    check_exact(mask, traced)
    assert [len(polygon.interiors) for polygon in traced.geometries] == [1, 1, 0]


def test_holes_in_a_row_belong_to_one_shell():
    mask = np.ones((5, 21), np.uint8)
    mask[0, -1] = 2  # a polygon between shell and holes in row-major order
    mask[1:4, 1:-1:2] = 0
    mask[2, 2:-2] = 2
    traced = trace_labels(mask)
    check_exact(mask, traced)
    assert len(traced.geometries[0].interiors) == 1
    mask[2, 2:-2:2] = 1
    assert len(trace_labels(mask).geometries[0].interiors) == 10


def test_polygons_come_in_order_of_their_first_pixel():
    mask = np.array([[0, 2, 0, 1], [1, 0, 3, 0]], np.uint8)
    assert trace_labels(mask).values.tolist() == [2, 1, 1, 3]


@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0), (4, 6)])
def test_nothing_to_trace(shape):
    traced = trace_labels(np.zeros(shape, np.uint8))
    assert len(traced) == 0
    assert traced.values.dtype == np.int64
    assert traced.probability is None


@given(mask=masks(max_side=6))
def test_nothing_ignored(mask):
    traced = trace_labels(mask, ignore=())
    assert len(traced) == component_count(mask, ignore=())
    assert traced.pixels.sum() == mask.size
    assert shapely.is_valid(traced.geometries).all()


@given(mask=masks(max_side=8))
def test_ignored_values_have_no_polygons(mask):
    ignore = (0, 2, 700, -1)
    traced = trace_labels(mask, ignore=ignore)
    assert same(traced, trace_labels(np.where(mask == 2, 0, mask).astype(mask.dtype)))


def test_bool_and_negative_labels():
    mask = np.array([[True, False], [True, True]])
    assert trace_labels(mask).pixels.tolist() == [3]
    assert trace_labels(mask.astype(np.int8) * -5).values.tolist() == [-5]


def test_thousands_of_instances():
    mask = np.arange(1, 6401, dtype=np.int32).reshape(80, 80).repeat(2, axis=0)
    traced = trace_labels(mask, block=7)
    assert traced.values.tolist() == list(range(1, 6401))
    assert set(traced.pixels) == {2}


def test_one_large_polygon():
    rng = np.random.default_rng(0)
    mask = np.ones((600, 700), np.uint8)
    mask[1:-1:2, 1:-1] = rng.random((299, 698)) < 0.5
    traced = trace_labels(mask, block=50)  # rasterio takes half a minute for this one
    assert len(traced) == component_count(mask)
    assert shapely.is_valid(traced.geometries).all()
    assert shapely.area(traced.geometries).sum() == np.count_nonzero(mask)
    assert shapely.get_num_coordinates(traced.geometries).max() > 200_000


def test_zarr_and_dask_arrays_are_read_in_rows():
    import dask.array
    import zarr

    mask = np.random.default_rng(1).integers(0, 3, (50, 20)).astype(np.uint8)
    whole = trace_labels(mask)
    stored = zarr.array(mask, chunks=(16, 8))
    assert same(trace_labels(stored, block=16), whole)
    assert same(trace_labels(dask.array.from_array(mask, chunks=7), block=9), whole)


def test_mask_is_never_read_whole():
    class Recorder:
        shape = (100, 10)
        reads: list[tuple[int, int]] = []  # noqa: RUF012

        def __getitem__(self, rows):
            self.reads.append((rows.start, rows.stop))
            return np.ones((rows.stop - rows.start, 10), np.uint8)

    recorder = Recorder()
    assert trace_labels(recorder, block=32).pixels.tolist() == [1000]
    assert recorder.reads == [(0, 32), (32, 64), (64, 96), (96, 100)]


@given(mask=masks(), data=st.data())
def test_mean_probability_is_the_mean_over_the_pixels(mask, data):
    from scipy.ndimage import label

    rng = np.random.default_rng(data.draw(st.integers(0, 99)))
    codes = rng.integers(0, 256, mask.shape).astype(np.uint8)
    codes[rng.random(mask.shape) < 0.3] = 0
    floats = np.where(codes, (codes.astype(np.float32) - 1) / 254, np.nan).astype(np.float32)
    block = data.draw(st.integers(1, 13))
    from_codes = trace_labels(mask, probability=codes, block=block)
    from_floats = trace_labels(mask, probability=floats, block=block)
    expected = np.full(len(from_codes), np.nan)
    corner = {tuple(g.exterior.coords[0]): i for i, g in enumerate(from_codes.geometries)}
    for value in set(np.unique(mask)) - {0}:
        components, n = label(mask == value)
        for component in range(1, n + 1):
            inside = components == component
            y, x = np.argwhere(inside)[0]
            known = inside & (codes > 0)
            if known.any():
                expected[corner[x, y]] = np.mean((codes[known].astype(np.float64) - 1) / 254)
    np.testing.assert_allclose(from_codes.probability, expected, rtol=1e-12)
    np.testing.assert_allclose(from_floats.probability, expected, atol=1e-7)


@given(mask=masks(), block=st.integers(1, 13))
def test_mean_probability_does_not_depend_on_slabs(mask, block):
    probability = np.random.default_rng(0).random(mask.shape, np.float32)
    a = trace_labels(mask, probability=probability, block=block).probability
    b = trace_labels(mask, probability=probability).probability
    np.testing.assert_array_equal(a, b)


def test_no_probability_known_is_nan():
    traced = trace_labels(np.ones((2, 2), np.uint8), probability=np.zeros((2, 2), np.uint8))
    assert np.isnan(traced.probability).all()
    nothing = trace_labels(np.zeros((2, 2), np.uint8), probability=np.zeros((2, 2), np.uint8))
    assert nothing.probability.shape == (0,)


def test_what_cannot_be_traced_is_refused():
    ones = np.ones((3, 3), np.uint8)
    with pytest.raises(LabelError, match="must be integers, found float64"):
        trace_labels(np.ones((3, 3)))
    with pytest.raises(LabelError, match="at most 9223372036854775807"):
        trace_labels(np.full((1, 1), 2**63, np.uint64))
    with pytest.raises(AnnotationError, match=r"needs labels \(y, x\), found shape \(3, 3, 1\)"):
        trace_labels(ones[..., None])
    with pytest.raises(AnnotationError, match="one value per label"):
        trace_labels(ones, probability=np.ones((3, 4)))
    with pytest.raises(AnnotationError, match="one value per label"):
        trace_labels(ones, probability=np.ones((4, 3)))
    with pytest.raises(AnnotationError, match=r"must lie in 0\.\.1"):
        trace_labels(ones, probability=np.full((3, 3), 1.5))
    with pytest.raises(AnnotationError, match="at least 1 row"):
        trace_labels(ones, block=0)


def test_slabs_must_fit_together():
    tracer = Tracer(3)
    tracer.add(np.ones((2, 3), np.uint8))
    with pytest.raises(AnnotationError, match=r"shape \(h, 3\), found \(2, 4\)"):
        tracer.add(np.ones((2, 4), np.uint8))
    with pytest.raises(LabelError, match="must stay uint8, found int32"):
        tracer.add(np.ones((2, 3), np.int32))
    with pytest.raises(AnnotationError, match="for every slab"):
        tracer.add(np.ones((2, 3), np.uint8), {"probability": np.ones((2, 3))})
    tracer = Tracer(3)
    with pytest.raises(AnnotationError, match=r"needed shape \(2, 3\), found \(1, 3\)"):
        tracer.add(np.ones((2, 3), np.uint8), {"probability": np.ones((1, 3))})


def test_to_level0_multiplies_and_cuts_at_the_edge():
    traced = trace_labels(np.array([[1, 1, 0], [0, 1, 1]], np.uint8))
    moved = to_level0(traced.geometries, downsample=(2.5, 4.4055), origin=(10, 20))
    assert moved[0].bounds == (20.0, 10.0, 3 * 4.4055 + 20, 15.0)
    cut = to_level0(traced.geometries, downsample=(2.5, 4.4055), size=(4, 13))
    assert cut[0].bounds == (0.0, 0.0, 13.0, 4.0)
    assert shapely.is_valid(cut).all()
    assert len(to_level0(traced.geometries[:0], downsample=(2, 2), size=(4, 4))) == 0


def test_to_level0_refuses_another_image():
    traced = trace_labels(np.ones((2, 3), np.uint8))
    with pytest.raises(AnnotationError, match="check downsample and origin"):
        to_level0(traced.geometries, downsample=(2, 2), size=(4, 4))
    with pytest.raises(AnnotationError, match="reach x -1 to 2"):
        to_level0(traced.geometries, downsample=(1, 1), origin=(0, -1), size=(4, 4))
