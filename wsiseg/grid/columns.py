"""A grid cut along its last axis into columns, each walked on its own from top to bottom."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from wsiseg.errors import GridError
from wsiseg.geometry import ceil_div
from wsiseg.grid.grid import Grid, Tile

__all__ = ["Column", "cut_columns"]


@dataclass(frozen=True, slots=True)
class Column:
    """Some tiles of a grid, and what they decide of the image.

    Caches, stitcher and writer are as wide as a column, so that memory does not grow with the
    width of the image. Where tiles overlap, those at a cut are predicted for both sides.
    """

    grid: Grid
    """The tiles, on a grid of their own whose origin is pixel `offset` of the image."""

    tiles: range
    """Places of the tiles along the last axis of the whole grid."""

    decided: range
    """Tiles whose start lies in this column; the others are there for their overlap."""

    @property
    def offset(self) -> int:
        """First pixel of `grid` along the last axis of the image."""
        return self.tiles.start * self.grid.stride[-1]

    def place(self, tile: Tile) -> Tile:
        """Return a tile of `grid` as a tile of the whole grid; `write` ends with the column."""
        *_, stride = self.grid.stride
        shift = (*(0 for _ in tile.index[1:]), self.tiles.start)
        pixels = tuple(n * stride for n in shift)
        index = tuple(i + n for i, n in zip(tile.index, shift, strict=True))
        return Tile(index, tile.write.shift(pixels), tile.read.shift(pixels))


def cut_columns(grid: Grid, width: int, *, cells: bool = False) -> Iterator[Column]:
    """Yield the columns of a grid from left to right.

    Parameters
    ----------
    grid
        The whole grid.
    width
        Pixels a column decides along the last axis, about: columns are whole strides, and alike.
    cells
        Each tile decides its own cell, so none is needed on both sides of a cut.

    Raises
    ------
    GridError
        If the width is less than a pixel.
    """
    if width < 1:
        raise GridError(f"a column needs a width of at least 1 pixel, got {width}")
    *_, stride = grid.stride
    *_, overlap = grid.overlap
    *_, size = grid.shape
    *_, count = grid.counts
    before = 0 if cells else ceil_div(overlap, stride)
    step = ceil_div(count, ceil_div(size, width))  # columns of one width, or nearly so
    for first in range(0, count, step):
        decided = range(first, min(first + step, count))
        tiles = range(max(0, first - before), decided.stop)
        stop = size if decided.stop == count else decided.stop * stride + overlap
        shape = (*grid.shape[:-1], stop - tiles.start * stride)
        yield Column(replace(grid, shape=shape), tiles, decided)
