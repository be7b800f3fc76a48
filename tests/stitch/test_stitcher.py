"""Laws of stitching, in two and three dimensions."""

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import GridError, HeatmapError
from wsiseg.geometry import Box
from wsiseg.grid import Grid
from wsiseg.stitch import CellStitcher, Stitcher, projected_bytes, stitch_tiles, window_weights

BLENDS = ("constant", "gaussian")


@st.composite
def grids(draw, max_overlap=5):
    axes = draw(st.integers(2, 3))
    sizes = st.tuples(*[st.integers(1, 9)] * axes)
    return Grid(
        draw(sizes),
        stride=draw(st.tuples(*[st.integers(1, 6)] * axes)),
        halo=draw(st.tuples(*[st.integers(0, 3)] * axes)),
        overlap=draw(st.tuples(*[st.integers(0, max_overlap)] * axes)),
    )


def random_image(shape, channels, seed=0):
    return np.random.default_rng(seed).random((*shape, channels), dtype=np.float32)


def cut(image, box):
    """What an identity network returns for `box`: the image, and its edge pixels beyond it."""
    axes = zip(box.start, box.stop, image.shape, strict=False)
    return image[np.ix_(*(np.arange(a, b).clip(0, n - 1) for a, b, n in axes))]


def assemble(slabs, shape, channels):
    """Put slabs into one array, checking that they partition it in order."""
    values = np.full((*shape, channels), np.nan, dtype=np.float32)
    covered = np.zeros(shape, dtype=bool)
    row = 0
    for slab in slabs:
        assert slab.box == Box((row, *(0 for _ in shape[1:])), (slab.box.stop[0], *shape[1:]))
        assert slab.box.stop[0] > row
        assert slab.values.dtype == np.float32
        assert slab.covered.dtype == bool
        values[slab.box.slices()] = slab.values
        covered[slab.box.slices()] = slab.covered
        row = slab.box.stop[0]
    assert row == shape[0]
    return values, covered


def run(grid, image, blend, skipped=frozenset()):
    stitcher = Stitcher(grid, image.shape[-1], blend=blend)
    outputs = ((t, cut(image, t.read)) for t in grid if t.index not in skipped)
    return assemble(stitch_tiles(outputs, stitcher), grid.shape, image.shape[-1])


def weighted_mean(grid, outputs, weights):
    """The definition, in float64: weighted sum over sum of weights."""
    total = np.zeros(grid.shape + next(iter(outputs.values())).shape[-1:])
    weight_sum = np.zeros(grid.shape)
    for index, values in outputs.items():
        tile = grid.tile(index)
        window = weights[tuple(slice(n) for n in tile.write.shape)].astype(np.float64)
        inner = values[tile.write.relative_to(tile.read).slices()]
        total[tile.write.slices()] += inner * window[..., np.newaxis]
        weight_sum[tile.write.slices()] += window
    shares = np.divide(1, weight_sum, where=weight_sum > 0, out=np.zeros_like(weight_sum))
    return total * shares[..., np.newaxis], weight_sum > 0


@given(grid=grids(max_overlap=0), channels=st.integers(1, 3))
def test_crop_returns_the_image_of_an_identity_network_bit_for_bit(grid, channels):
    image = random_image(grid.shape, channels)
    values, covered = run(grid, image, "crop")
    np.testing.assert_array_equal(values, image)
    assert covered.all()


@given(grid=grids(), channels=st.integers(1, 3), blend=st.sampled_from(BLENDS))
def test_blends_return_the_image_of_an_identity_network(grid, channels, blend):
    image = random_image(grid.shape, channels)
    values, covered = run(grid, image, blend)
    np.testing.assert_allclose(values, image, rtol=0, atol=1e-6)
    assert covered.all()


@given(grid=grids(), blend=st.sampled_from(BLENDS), seed=st.integers(0, 99), data=st.data())
def test_blends_are_the_weighted_mean_of_the_tiles_that_are_there(grid, blend, seed, data):
    kept = data.draw(st.sets(st.sampled_from([t.index for t in grid])))
    rng = np.random.default_rng(seed)
    outputs = {i: rng.random((*grid.patch, 2), dtype=np.float32) for i in sorted(kept)}
    window = tuple(s + o for s, o in zip(grid.stride, grid.overlap, strict=True))
    stitcher = Stitcher(grid, 2, blend=blend)
    slabs = stitch_tiles(((grid.tile(i), v) for i, v in outputs.items()), stitcher)
    values, covered = assemble(slabs, grid.shape, 2)
    outputs = outputs or {(0,) * len(grid.shape): np.zeros((*grid.patch, 2))}
    expected, decided = weighted_mean(grid, outputs, window_weights(window, blend))
    if kept:
        np.testing.assert_array_equal(covered, decided)
        np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)
    else:
        assert not covered.any()
        assert not values.any()


@given(grid=grids(max_overlap=2), blend=st.sampled_from(BLENDS))
def test_the_shares_of_all_tiles_sum_to_one_everywhere(grid, blend):
    shares = np.zeros(grid.shape)
    for one in grid:
        indicator = ((t, np.full((*grid.patch, 1), t == one, dtype=np.float32)) for t in grid)
        slabs = stitch_tiles(indicator, Stitcher(grid, 1, blend=blend))
        shares += assemble(slabs, grid.shape, 1)[0][..., 0]
    np.testing.assert_allclose(shares, 1, rtol=0, atol=1e-6)


@given(grid=grids(), blend=st.sampled_from(("crop", *BLENDS)), data=st.data())
def test_nodata_is_exactly_where_no_tile_writes(grid, blend, data):
    if blend == "crop":
        grid = Grid(grid.shape, grid.stride, grid.halo, (0,) * len(grid.shape))
    skipped = data.draw(st.sets(st.sampled_from([t.index for t in grid])))
    image = random_image(grid.shape, 1) + 1
    values, covered = run(grid, image, blend, skipped)
    written = np.zeros(grid.shape, dtype=bool)
    for tile in grid:
        written[tile.write.slices()] |= tile.index not in skipped
    np.testing.assert_array_equal(covered, written)
    np.testing.assert_array_equal(values[..., 0] > 0, written)


@pytest.mark.parametrize("blend", BLENDS)
def test_more_than_255_tiles_over_one_pixel_keep_their_weight(blend):
    grid = Grid.of_patches((24, 24), (18, 18), stride=(1, 1))
    rng = np.random.default_rng(5)
    outputs = {t.index: rng.random((18, 18, 1), dtype=np.float32) for t in grid}
    stitcher = Stitcher(grid, 1, blend=blend)
    slabs = stitch_tiles(((grid.tile(i), v) for i, v in outputs.items()), stitcher)
    values, _ = assemble(slabs, grid.shape, 1)
    expected, _ = weighted_mean(grid, outputs, window_weights((18, 18), blend))
    np.testing.assert_allclose(values, expected, rtol=0, atol=1e-6)


def test_slabs_come_as_soon_as_no_later_tile_can_write_to_them():
    grid = Grid.of_patches((12, 8), (4, 4), stride=(2, 4))
    stitcher = Stitcher(grid, 1, blend="constant")
    ready = []
    for tile in grid:
        ready += [(tile.index, slab.box.stop[0]) for slab in stitcher.add(tile, ones(grid))]
    assert ready == [((row, 0), 2 * row) for row in range(1, 5)]
    assert [slab.box.stop[0] for slab in stitcher.finish()] == [10, 12]


def test_slabs_of_skipped_rows_come_one_stride_at_a_time():
    grid = Grid((10, 4), (2, 4), (0, 0), (0, 0))
    stitcher = Stitcher(grid, 1)
    slabs = list(stitcher.add(grid.tile((4, 0)), ones(grid)))
    assert [slab.box.stop[0] for slab in slabs] == [2, 4, 6, 8]
    assert not any(slab.covered.any() for slab in slabs)


def test_the_receiver_owns_a_slab():
    grid = Grid((6, 4), (2, 4), (0, 0), (0, 0))
    slabs = []
    for slab in stitch_tiles(((t, ones(grid)) for t in grid), Stitcher(grid, 1)):
        slab.values[...] = 7
        slab.covered[...] = False
        slabs.append(slab)
    assert all((slab.values == 7).all() and not slab.covered.any() for slab in slabs)


def ones(grid, channels=1):
    return np.ones((*grid.patch, channels), dtype=np.float32)


GRID = Grid((8, 8), (4, 4), (1, 1), (0, 0))


def test_tiles_out_of_order_or_twice_are_refused():
    stitcher = Stitcher(GRID, 1)
    list(stitcher.add(GRID.tile((0, 1)), ones(GRID)))
    for index in ((0, 0), (0, 1)):
        with pytest.raises(HeatmapError, match="row-major order"):
            stitcher.add(GRID.tile(index), ones(GRID))


def test_a_tile_of_another_grid_is_refused():
    other = Grid((8, 8), (4, 4), (0, 0), (0, 0)).tile((0, 0))
    with pytest.raises(HeatmapError, match="needed a tile of the grid"):
        Stitcher(GRID, 1).add(other, ones(GRID))


@pytest.mark.parametrize(
    "values",
    [np.ones((6, 6, 2), np.float32), np.ones((4, 4, 1), np.float32), np.ones((6, 6, 1))],
)
def test_values_of_another_shape_or_type_are_refused(values):
    with pytest.raises(HeatmapError, match="needed values of shape"):
        Stitcher(GRID, 1).add(GRID.tile((0, 0)), values)


def test_slabs_left_behind_are_noticed():
    stitcher = Stitcher(GRID, 1)
    stitcher.add(GRID.tile((1, 0)), ones(GRID))
    with pytest.raises(HeatmapError, match="take all slabs"):
        stitcher.add(GRID.tile((1, 1)), ones(GRID))
    with pytest.raises(HeatmapError, match="take all slabs"):
        stitcher.finish()


def test_nothing_is_added_after_the_end():
    stitcher = Stitcher(GRID, 1)
    list(stitcher.finish())
    with pytest.raises(HeatmapError, match="finished"):
        stitcher.add(GRID.tile((0, 0)), ones(GRID))
    with pytest.raises(HeatmapError, match="finished"):
        stitcher.finish()


def test_crop_of_overlapping_tiles_is_refused():
    with pytest.raises(GridError, match="do not overlap"):
        Stitcher(Grid((8, 8), (4, 4), (0, 0), (0, 1)), 1, blend="crop")


def test_a_heatmap_without_channels_is_refused():
    with pytest.raises(HeatmapError, match="at least one channel"):
        Stitcher(GRID, 0)


@given(grid=grids(), channels=st.integers(1, 3), size=st.integers(1, 7), seed=st.integers(0, 99))
def test_cells_hold_the_vector_of_their_tile(grid, channels, size, seed):
    present = np.random.default_rng(seed).random(grid.counts) < 0.6
    expected = random_image(grid.counts, channels) + 1
    stitcher = CellStitcher(grid, channels)
    indices = np.argwhere(present)
    slabs = []
    for start in range(0, len(indices), size):
        some = indices[start : start + size]
        slabs += stitcher.add(some, expected[tuple(some.T)])
    slabs += stitcher.finish()
    values, covered = assemble(iter(slabs), stitcher.shape, channels)
    np.testing.assert_array_equal(covered, present)
    np.testing.assert_array_equal(values, expected * present[..., np.newaxis])


def test_a_cell_of_another_length_is_refused():
    with pytest.raises(HeatmapError, match="one per channel"):
        CellStitcher(GRID, 2).add(np.array([[0, 0]]), np.ones((1, 3), np.float32))


@pytest.mark.parametrize("indices", [[[0, 1], [0, 0]], [[0, 0], [0, 0]], [[-1, 0]], [[0, 99]]])
def test_cells_out_of_order_or_outside_are_refused(indices):
    with pytest.raises(HeatmapError, match="row-major order"):
        CellStitcher(GRID, 1).add(np.array(indices), np.ones((len(indices), 1), np.float32))


def test_a_cell_cannot_come_again_in_a_later_batch():
    stitcher = CellStitcher(GRID, 1)
    one = np.ones((1, 1), np.float32)
    list(stitcher.add(np.array([[0, 1]]), one))
    with pytest.raises(HeatmapError, match="row-major order"):
        stitcher.add(np.array([[0, 1]]), one)


@given(window=st.lists(st.integers(1, 40), min_size=1, max_size=3).map(tuple))
def test_gaussian_weights_are_positive_symmetric_and_highest_in_the_middle(window):
    weights = window_weights(window, "gaussian")
    assert weights.dtype == np.float32
    assert weights.min() > 0
    np.testing.assert_array_equal(weights, np.flip(weights))
    assert weights.max() == weights[tuple(n // 2 for n in window)] <= 1


def test_gaussian_weights_have_an_eighth_of_the_window_as_sigma():
    weights = window_weights((64,), "gaussian").astype(np.float64)
    place = np.arange(64)
    mean = (weights * place).sum() / weights.sum()
    assert mean == pytest.approx(31.5)
    # Cut at 4 sigma the variance is 0.1 % short of sigma squared.
    assert (weights * (place - mean) ** 2).sum() / weights.sum() == pytest.approx(64, rel=2e-3)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize(
    ("grid", "blend"),
    [
        (Grid.of_patches((700, 1500), (160, 160), halo=(16, 16)), "crop"),
        (Grid.of_patches((700, 1500), (160, 160), stride=(80, 80)), "constant"),
        (Grid.of_patches((700, 1500), (160, 160), stride=(40, 40)), "gaussian"),
        (Grid.of_patches((60, 200, 200), (16, 64, 64), stride=(8, 32, 32)), "gaussian"),
    ],
)
def test_projected_bytes_bounds_what_is_allocated_and_is_not_far_off(
    grid, blend, channels, monkeypatch
):
    # tracemalloc does not see pages that are taken from the system.
    monkeypatch.setattr(
        "wsiseg.stitch.stitcher._zero_pages", lambda shape: np.zeros(shape, np.float32)
    )
    values = ones(grid, channels)
    tracemalloc.start()
    try:
        for _ in stitch_tiles(((t, values) for t in grid), Stitcher(grid, channels, blend=blend)):
            pass
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    projected = projected_bytes(grid, channels, blend)
    assert 0.6 * projected <= peak <= projected + (1 << 18)
