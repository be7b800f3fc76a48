"""Tiles of a heatmap with their probabilities, read a band of rows at a time."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import UsageError
from wsiseg.stitch import ChunkRows, HeatmapStore

__all__ = ["BACKGROUND", "HeatmapTiles", "TileTable", "likeliest", "whole_edges"]

BACKGROUND = "background"
CELLS_UM = 8.0
"""Cells wider than this are tiles by themselves: those of a classifier."""

TILE_UM = 64.0
"""About the side of a tile of a dense heatmap: 256 pixels at 0.25 µm."""

BAND = 512
"""Rows of a heatmap looked at in one go, at most."""

TILES = 1 << 16
"""Tiles made in one go, unless a single row has more: bounds what an export holds of them."""


@dataclass(frozen=True, slots=True)
class TileTable:
    """Some tiles, row by row and from left to right."""

    boxes: NDArray[np.float64]
    """(n, 4) x0, y0, x1, y1 in level-0 pixels, within the slide."""

    probabilities: NDArray[np.float64]
    """(n, channel) the mean over the tile's known pixels."""

    def __len__(self) -> int:
        return len(self.boxes)


class HeatmapTiles:
    """The tiles of a heatmap in which something is known.

    Parameters
    ----------
    store
        The heatmap.
    size
        Level-0 pixels (y, x) of the slide: tiles end at its edge.
    tile_um
        Side of a tile, made a whole number of the heatmap's pixels; 0 chooses one.

    Raises
    ------
    UsageError
        If a tile would be smaller than half a pixel of the heatmap.
    """

    def __init__(self, store: HeatmapStore, size: Sequence[int], tile_um: float = 0.0) -> None:
        self.channels = store.channels
        self._codes = ChunkRows(store.codes)
        self._size = size
        self._placement = store.placement
        cell = store.spacing.um
        if 0 < tile_um < min(cell) / 2:
            raise UsageError(
                f"{store.path}: tiles of {tile_um:g} µm: needed at least {min(cell):g} µm, one "
                "pixel of the heatmap"
            )
        wanted = tile_um or (0.0 if min(cell) >= CELLS_UM else TILE_UM)
        self.pixels: tuple[int, int] = tuple(max(1, round(wanted / um)) for um in cell)  # type: ignore[assignment]
        """Heatmap pixels (y, x) of a tile."""

    @property
    def tile_um(self) -> tuple[float, float]:
        """Side of a tile in µm (y, x)."""
        (y, x), (um_y, um_x) = self.pixels, self._placement.spacing.um
        return y * um_y, x * um_x

    @property
    def tile_pixels(self) -> tuple[float, float]:
        """Side of a tile in level-0 pixels (y, x)."""
        (y, x), (down_y, down_x) = self.pixels, self._placement.downsample
        return y * down_y, x * down_x

    def __iter__(self) -> Iterator[TileTable]:
        height, width = self._codes.shape
        rows = min(BAND // self.pixels[0], TILES * self.pixels[1] // width)
        step = max(1, rows) * self.pixels[0]
        for top in range(0, height, step):
            table = self._band(top, self._codes[top : min(top + step, height)])
            if len(table):
                yield table

    def _band(self, top: int, codes: NDArray[np.uint8]) -> TileTable:
        """Return the tiles of some rows (channel, y, x) of codes."""
        starts = [np.arange(0, n, p) for n, p in zip(codes.shape[1:], self.pixels, strict=True)]
        known = _sums((codes != 0).any(axis=0), starts)
        sums = np.stack([_sums(plane, starts) for plane in codes], axis=-1)
        (y0, x0), (y1, x1) = self._edges(top, codes.shape[1:])
        is_there = (known > 0) & (y1 > y0)[:, np.newaxis] & (x1 > x0)
        row, column = np.nonzero(is_there)
        boxes = np.stack([x0[column], y0[row], x1[column], y1[row]], axis=1)
        count = known[row, column][:, np.newaxis]
        return TileTable(boxes, (sums[row, column] - count) / (254 * count))

    def _edges(
        self, top: int, shape: Sequence[int]
    ) -> tuple[list[NDArray[np.float64]], list[NDArray[np.float64]]]:
        """Return where tiles begin and where they end, along y and along x, in level-0 pixels."""
        begin, end = [], []
        for axis, first in enumerate((top, 0)):
            cells = np.append(np.arange(0, shape[axis], self.pixels[axis]), shape[axis]) + first
            place = self._placement.origin[axis] + cells * self._placement.downsample[axis]
            place = np.clip(place, 0, self._size[axis])
            begin.append(place[:-1])
            end.append(place[1:])
        return begin, end


def _sums(
    plane: NDArray[np.uint8] | NDArray[np.bool_], starts: Sequence[NDArray[np.int64]]
) -> NDArray[np.int64]:
    rows = np.add.reduceat(plane, starts[0], axis=0, dtype=np.int64)
    sums: NDArray[np.int64] = np.add.reduceat(rows, starts[1], axis=1)
    return sums


def likeliest(probabilities: NDArray[np.float64], *, has_background: bool) -> NDArray[np.int64]:
    """Return the column (n,) of the likeliest class, -1 where background is likelier.

    Parameters
    ----------
    probabilities
        (n, class)
    has_background
        Whether background has a column; else its probability is what the others leave of 1.
    """
    if not probabilities.shape[1]:
        return np.full(len(probabilities), -1, np.int64)
    best: NDArray[np.int64] = probabilities.argmax(axis=1)
    if has_background:
        return best
    rest = 1 - probabilities.sum(axis=1)
    found: NDArray[np.int64] = np.where(probabilities.max(axis=1) >= rest, best, -1)
    return found


def whole_edges(boxes: NDArray[np.float64]) -> NDArray[np.int64]:
    """Return boxes (n, 4) with edges on whole pixels: neighbours still share theirs."""
    edges: NDArray[np.int64] = np.floor(boxes + 0.5).astype(np.int64)
    return edges
