"""Where heatmaps lie on the slide."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Spacing
from wsiseg.grid import Grid
from wsiseg.stitch import Placement

sizes = st.integers(1, 5000)
factors = st.floats(0.5, 40)


@given(
    shape=st.tuples(sizes, sizes),
    downsample=st.tuples(factors, factors),
    origin=st.tuples(st.floats(0, 1e4), st.floats(0, 1e4)),
    um=st.floats(0.1, 1),
)
def test_every_level_starts_at_the_same_corner(shape, downsample, origin, um):
    """The corner of pixel 0 is half a pixel before its centre, on every level."""
    spacing = Spacing(tuple(um * d for d in downsample))
    placement = Placement(shape, spacing, downsample, origin)
    for level in range(placement.levels):
        centre = np.array(placement.translation_um(level))
        corner = centre - np.array(placement.scale_um(level)) / 2
        # Level-0 pixel 0 is centred on 0, so the slide's corner lies at half a pixel before.
        np.testing.assert_allclose(corner, np.array(origin) * um - um / 2, rtol=0, atol=1e-6)


@given(shape=st.tuples(sizes, sizes, sizes))
def test_levels_are_halved_until_512(shape):
    placement = Placement(shape, Spacing((1.0,) * 3), (1.0,) * 3)
    shapes = [placement.level_shape(level) for level in range(placement.levels)]
    assert shapes[0] == shape
    assert max(shapes[-1]) <= 512
    for finer, coarser in itertools.pairwise(shapes):
        assert max(finer) > 512
        assert coarser == tuple((n + 1) // 2 for n in finer)


def test_cells_lie_at_the_centre_of_their_windows():
    view = Placement((1000, 800), Spacing((2.0, 2.0)), (8.0, 8.0))
    grid = Grid.of_patches(view.shape, (128, 64), stride=(32, 64))
    cells = view.cells(grid)
    assert cells.shape == grid.counts
    assert cells.spacing == Spacing((64.0, 128.0))
    tile = grid.tile((3, 2))
    for axis in range(2):
        centre = cells.origin[axis] + (tile.index[axis] + 0.5) * cells.downsample[axis]
        window = 8 * (tile.read.start[axis] + tile.read.stop[axis]) / 2
        assert centre == window


@pytest.mark.parametrize(
    "arguments",
    [
        ((10,), Spacing((1.0, 1.0)), (1.0, 1.0)),
        ((0, 10), Spacing((1.0, 1.0)), (1.0, 1.0)),
        ((10, 10), Spacing((1.0, 1.0)), (0.0, 1.0)),
        ((10, 10), Spacing((1.0, 1.0)), (1.0, 1.0), (0.0, float("nan"))),
        ((), Spacing(()), ()),
    ],
)
def test_impossible_placements_are_refused(arguments):
    with pytest.raises(HeatmapError, match="per axis"):
        Placement(*arguments)
