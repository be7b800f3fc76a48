"""`TissueMask` against areas counted by hand: every mask pixel clipped to the box, one by one."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import TissueError
from wsiseg.geometry import Spacing
from wsiseg.grid import Grid
from wsiseg.tissue import TissueMask

downsamples = st.tuples(st.sampled_from([0.7, 1.0, 3.0, 16.25]), st.sampled_from([0.5, 2.0, 8.1]))
shapes = st.tuples(st.integers(1, 6), st.integers(1, 6))
edges = st.floats(-20, 130, allow_nan=False)


def a_mask(shape, downsample, seed=0, level0_shape=(0, 0)):
    pixels = np.random.default_rng(seed).random(shape) < 0.5
    spacing = Spacing((8.0, 8.0))
    return TissueMask(pixels, downsample, spacing, level0_shape)


def fraction_by_hand(tissue, box):
    """Tissue area over area, summing the overlap of the box with each mask pixel."""
    (height, width), (down_y, down_x) = tissue.level0_shape, tissue.downsample
    y0, y1 = (min(max(v, 0.0), height, tissue.mask.shape[0] * down_y) for v in (box[0], box[2]))
    x0, x1 = (min(max(v, 0.0), width, tissue.mask.shape[1] * down_x) for v in (box[1], box[3]))
    covered = 0.0
    for i, j in np.argwhere(tissue.mask):
        tall = min(y1, (i + 1) * down_y) - max(y0, i * down_y)
        wide = min(x1, (j + 1) * down_x) - max(x0, j * down_x)
        covered += max(0.0, tall) * max(0.0, wide)
    area = (y1 - y0) * (x1 - x0)
    return covered / area if area > 1e-6 else None


@given(shapes, downsamples, st.integers(0, 9), st.floats(0, 0.99), st.floats(0, 0.99))
def test_share_is_the_area_counted_by_hand(shape, downsample, seed, beyond_y, beyond_x):
    pairs = zip(shape, (beyond_y, beyond_x), downsample, strict=True)
    level0_shape = tuple(max(1, round((n - beyond) * d)) for n, beyond, d in pairs)
    tissue = a_mask(shape, downsample, seed, level0_shape)
    by_hand = fraction_by_hand(tissue, (0, 0, *level0_shape))
    assert tissue.share == pytest.approx(by_hand, abs=1e-6)


@given(shapes, downsamples, st.integers(0, 9), st.lists(st.tuples(edges, edges, edges, edges)))
def test_fraction_is_the_area_counted_by_hand(shape, downsample, seed, corners):
    tissue = a_mask(shape, downsample, seed)
    boxes = [(min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in corners]
    found = tissue.fraction(np.array(boxes, float).reshape(-1, 4))
    assert found.dtype == np.float32
    for box, share in zip(boxes, found, strict=True):
        expected = fraction_by_hand(tissue, box)
        if expected is not None:
            assert share == pytest.approx(expected, abs=1e-4)


@given(
    shapes,
    downsamples,
    st.integers(0, 9),
    st.tuples(st.integers(1, 9), st.integers(1, 9)),
    st.integers(0, 3),
    st.sampled_from([1.0, 2.0, 3.7]),
    st.sampled_from([0.0, 0.05, 0.3, 0.5, 1.0]),
)
def test_select_is_fraction_of_every_tile(shape, downsample, seed, stride, overlap, scale, least):
    tissue = a_mask(shape, downsample, seed)
    own = tuple(max(1, int(n / scale)) for n in tissue.level0_shape)
    grid = Grid(own, stride, (2, 1), (overlap, 0))
    taken = tissue.select(grid, (scale, scale), least)
    assert taken.shape == grid.counts
    for tile in grid:
        y0, x0, y1, x1 = (scale * v for v in (*tile.write.start, *tile.write.stop))
        share = fraction_by_hand(tissue, (y0, x0, y1, x1)) or 0.0
        if abs(share - least) > 1e-5:
            assert taken[tile.index] == (share > least)
        elif share == 0:
            assert not taken[tile.index]


def test_tile_full_of_tissue_passes_one_and_empty_tile_fails_zero():
    mask = np.zeros((4, 4), bool)
    mask[:2, :2] = True
    tissue = TissueMask(mask, (3.3, 3.3), Spacing((8.0, 8.0)))
    grid = Grid((2, 2), (1, 1), (0, 0), (0, 0))
    assert tissue.select(grid, (6.6, 6.6), 1.0).tolist() == [[True, False], [False, False]]
    assert tissue.select(grid, (6.6, 6.6), 0.0).tolist() == [[True, False], [False, False]]


def test_box_over_the_edge_counts_what_is_on_the_slide():
    tissue = TissueMask(np.ones((2, 2), bool), (10.0, 10.0), Spacing((8.0, 8.0)), (15, 20))
    shares = tissue.fraction([(-10, -10, 5, 5), (10, 10, 40, 40), (30, 30, 40, 40), (3, 3, 3, 9)])
    assert shares.tolist() == [1, 1, 0, 0]


def test_area_is_that_of_the_slide_not_of_overhanging_pixels():
    tissue = TissueMask(np.ones((2, 2), bool), (10.0, 10.0), Spacing((20.0, 10.0)), (15, 20))
    assert tissue.share == 1
    assert tissue.area_mm2 == pytest.approx(15 * 2.0 * 20 * 1.0 * 1e-6)
    assert TissueMask(np.eye(2, dtype=bool), (4.0, 4.0), Spacing((8.0, 8.0))).level0_shape == (8, 8)


def test_a_million_tiles_in_one_call():
    tissue = a_mask((400, 300), (64.0, 64.0))
    grid = Grid((25_600, 19_200), (20, 20), (4, 4), (0, 0))
    assert len(grid) > 1_000_000
    assert tissue.select(grid, (1.0, 1.0), 0.5).shape == grid.counts


def test_mask_cannot_be_changed():
    tissue = a_mask((3, 3), (1.0, 1.0))
    with pytest.raises(ValueError, match="read-only"):
        tissue.mask[0, 0] = True


@pytest.mark.parametrize(
    "mask", [np.zeros((2, 2), np.uint8), np.zeros((2, 2, 2), bool), np.zeros((0, 3), bool)]
)
def test_mask_must_be_a_bool_image(mask):
    with pytest.raises(TissueError, match="needs bool"):
        TissueMask(mask, (1.0, 1.0), Spacing((8.0, 8.0)))


def test_wrong_arguments_are_named():
    tissue = a_mask((3, 3), (1.0, 1.0))
    with pytest.raises(TissueError, match="downsample above 0"):
        a_mask((3, 3), (0.0, 1.0))
    with pytest.raises(TissueError, match=r"\(n, 4\)"):
        tissue.fraction([1, 2, 3, 4])
    with pytest.raises(TissueError, match="within 0-1"):
        tissue.select(Grid((3, 3), (1, 1), (0, 0), (0, 0)), (1.0, 1.0), 1.5)
    with pytest.raises(TissueError, match="two axes"):
        tissue.select(Grid((3,), (1,), (0,), (0,)), (1.0,), 0.5)
