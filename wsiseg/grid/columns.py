"""A grid cut along its last axis into columns, each walked on its own from top to bottom.

What a walk keeps in memory is as wide as a column. So an image wider than high is turned where
that makes it narrower: the same tiles, walked from left to right.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import GridError
from wsiseg.geometry import Box, ceil_div
from wsiseg.grid.grid import Grid, Tile

__all__ = ["Column", "cut_columns"]


@dataclass(frozen=True, slots=True)
class Column:
    """Some tiles of a grid, and what they decide of the image.

    Caches, stitcher and writer are as wide as a column, so that memory does not grow with the
    width of the image. Where tiles overlap, those at a cut are predicted for both sides.

    All is in the frame of the walk: the image's, or with its axes swapped where it is `turned`.
    """

    grid: Grid
    """The tiles, on a grid of their own whose origin is pixel `offset` of the image."""

    tiles: range
    """Places of the tiles along the last axis of the whole grid."""

    decided: range
    """Tiles whose start lies in this column; the others are there for their overlap."""

    offset: int
    """First pixel of `grid` along the last axis of the image."""

    turned: bool = False
    """The image's axes are swapped: the last one here is its first."""

    beyond: int = 0
    """Pixels after those decided along the last axis that its tiles give in full as well."""

    def on_image(self, box: Box) -> Box:
        """Return a box of `grid` in the pixels of the image."""
        box = box.shift((*(0 for _ in box.start[1:]), self.offset))
        return Box(box.start[::-1], box.stop[::-1]) if self.turned else box

    def part_of(self, selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return which tiles of `grid` are selected, of those of the image's grid."""
        if self.turned:
            selected = selected.T
        return selected[..., self.tiles.start : self.tiles.stop]

    def place(self, tile: Tile) -> Tile:
        """Return a tile of `grid` as one of the whole walk; `write` ends with the column."""
        pixels = (*(0 for _ in tile.index[1:]), self.offset)
        index = (*tile.index[:-1], tile.index[-1] + self.tiles.start)
        return Tile(index, tile.write.shift(pixels), tile.read.shift(pixels))


def cut_columns(
    grid: Grid, width: int, *, cells: bool = False, turned: bool = False, beyond: int = 0
) -> Iterator[Column]:
    """Yield the columns of a grid from left to right; of a turned one from top to bottom.

    Parameters
    ----------
    grid
        The whole grid.
    width
        Pixels a column decides along the last axis, about: columns are whole strides, and alike.
    cells
        Each tile decides its own cell, so none is needed on both sides of a cut.
    turned
        Swap the axes first: `width` counts along the image's first axis.
    beyond
        Pixels of the next column that each one gives in full, too, for who interpolates.

    Raises
    ------
    GridError
        If the width is less than a pixel.
    """
    if width < 1:
        raise GridError(f"a column needs a width of at least 1 pixel, got {width}")
    grid = grid.turned if turned else grid
    *_, size = grid.shape
    *_, count = grid.counts
    step = ceil_div(count, ceil_div(size, width))  # columns of one width, or nearly so
    for first in range(0, count, step):
        decided = range(first, min(first + step, count))
        stop = _stop_covering(grid, decided.stop, beyond)
        tiles = range(first if cells else _first_reaching(grid, first), stop)
        yield _column(grid, tiles, decided, turned=turned, beyond=beyond)


def _stop_covering(grid: Grid, stop: int, beyond: int) -> int:
    """Return the first tile along the last axis that begins some pixels after tile `stop`."""
    axis, *_, count = len(grid.shape) - 1, *grid.counts
    later = stop
    while later < count and grid.start(axis, later) < grid.start(axis, stop) + beyond:
        later += 1
    return later


def _first_reaching(grid: Grid, tile: int) -> int:
    """Return the first tile along the last axis whose window reaches the start of another."""
    axis, left = len(grid.shape) - 1, grid.start(len(grid.shape) - 1, tile)
    while tile > 0 and grid.start(axis, tile - 1) + grid.window[-1] > left:
        tile -= 1
    return tile


def _column(grid: Grid, tiles: range, decided: range, *, turned: bool, beyond: int) -> Column:
    axis, size = len(grid.shape) - 1, grid.shape[-1]
    offset = max(0, grid.start(axis, tiles.start))
    stop = size
    if tiles.stop < grid.counts[-1]:
        stop = min(size, grid.start(axis, tiles.stop - 1) + grid.window[-1])
    starts = grid.starts
    if starts is not None:
        own = tuple(grid.start(axis, i) - offset for i in tiles)
        starts = (*starts[:-1], own)
    part = replace(grid, shape=(*grid.shape[:-1], stop - offset), starts=starts)
    return Column(part, tiles, decided, offset, turned, beyond)
