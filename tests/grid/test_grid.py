"""Laws of the grid, in two and three dimensions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import GridError
from wsiseg.geometry import Box
from wsiseg.grid import Grid


@st.composite
def grids(draw, overlapping=True):
    """Any grid of 2 or 3 axes, small enough to try every pixel."""
    axes = draw(st.integers(2, 3))
    sizes = st.tuples(*[st.integers(1, 9)] * axes)
    small = st.tuples(*[st.integers(0, 4)] * axes)
    overlap = draw(small) if overlapping else (0,) * axes
    stride = draw(st.tuples(*[st.integers(1, 7)] * axes))
    return Grid(draw(sizes), stride=stride, halo=draw(small), overlap=overlap)


def times_written(grid):
    written = np.zeros(grid.shape, dtype=int)
    for tile in grid:
        written[tile.write.slices()] += 1
    return written


@given(grid=grids(overlapping=False))
def test_write_boxes_partition_the_image_without_overlap(grid):
    assert (times_written(grid) == 1).all()


@given(grid=grids())
def test_write_boxes_cover_the_image_and_lie_inside(grid):
    assert times_written(grid).min() >= 1
    image = Box.of_shape(grid.shape)
    assert all(tile.write.intersect(image) == tile.write for tile in grid)


@given(grid=grids())
def test_no_tile_is_superfluous(grid):
    for axis, count in enumerate(grid.counts):
        stop = (
            max(t.write.stop[axis] for t in grid if t.index[axis] < count - 1) if count > 1 else 0
        )
        assert stop < grid.shape[axis]


@given(grid=grids())
def test_every_read_box_is_the_write_window_grown_by_the_halo(grid):
    for tile in grid:
        assert tile.read.shape == grid.patch
        assert tile.read.grow(tuple(-h for h in grid.halo)).clip(grid.shape) == tile.write


@given(grid=grids())
def test_tiles_come_in_row_major_order_and_length_counts_them(grid):
    indices = [tile.index for tile in grid]
    assert indices == sorted(set(indices)) == list(np.ndindex(grid.counts))
    assert len(grid) == len(indices)
    assert all(grid.tile(tile.index) == tile for tile in grid)


def test_of_patches_leaves_what_is_not_stride_or_halo_as_overlap():
    grid = Grid.of_patches((1000, 900), (512, 256), stride=(384, 192), halo=(64, 16))
    assert grid.overlap == (0, 32)
    assert grid.patch == (512, 256)
    assert Grid.of_patches((9, 9), (4, 4)).stride == (4, 4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"patch": (4, 4), "stride": (5, 4)}, "leaves gaps"),
        ({"patch": (4, 4), "halo": (2, 2)}, "stride >= 1"),
        ({"patch": (4, 4, 4)}, "one value per axis"),
        ({"patch": (4, 4), "halo": (1,)}, "one value per axis"),
        ({"patch": (4, 4), "stride": (1, 1, 1)}, "one value per axis"),
    ],
)
def test_impossible_patches_are_refused(arguments, message):
    with pytest.raises(GridError, match=message):
        Grid.of_patches((10, 10), **arguments)


@pytest.mark.parametrize(
    "arguments",
    [
        ((0, 4), (1, 1), (0, 0), (0, 0)),
        ((4, 4), (0, 1), (0, 0), (0, 0)),
        ((4, 4), (1, 1), (-1, 0), (0, 0)),
        ((4, 4), (1, 1), (0, 0), (0, -1)),
        ((4, 4), (1,), (0, 0), (0, 0)),
        ((), (), (), ()),
    ],
)
def test_impossible_grids_are_refused(arguments):
    with pytest.raises(GridError, match="need"):
        Grid(*arguments)


@pytest.mark.parametrize("index", [(3, 0), (0, -1), (0,), (0, 0, 0)])
def test_a_tile_outside_the_grid_is_refused(index):
    with pytest.raises(GridError, match="no tile"):
        Grid((10, 10), (4, 4), (0, 0), (0, 0)).tile(index)
