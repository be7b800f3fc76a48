"""Tiles back to one array, in a moving front: memory grows with a row of tiles, not the image."""

import contextlib
import math
import mmap
import tempfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import GridError, HeatmapError, unwritable
from wsiseg.geometry import Box
from wsiseg.grid import Grid, Tile
from wsiseg.stitch.blend import Blend, window_weights
from wsiseg.stitch.slab import BLOCK_VALUES, Slab, Values, row_blocks

__all__ = [
    "AddWeighted",
    "CellStitcher",
    "Stitcher",
    "infinite_values",
    "projected_bytes",
    "stitch_tiles",
]

AddWeighted = Callable[[Values, Values, Values], None]
"""Adds values `(channel, ...)` times weights `(...)` to sums `(channel, ...)`, in place."""

LARGE_PAGE = 2 << 20
"""Bytes of a large page."""

SLAB_VALUES = 1 << 18
"""float32 values of a slab: 1 MiB."""


class Stitcher:
    """Put dense network outputs together, in any number of dimensions.

    Parameters
    ----------
    grid
        The tiles. Its halo is thrown away.
    channels
        Values per pixel.
    blend
        `crop`: each pixel is decided by one tile and copied bit for bit; needs overlap 0.
        `constant`, `gaussian`: weighted mean of the tiles that overlap there.
    shares
        Given, slabs have a channel more: the weighted variance of what the tiles that overlap at a
        pixel say of each channel, times the channel's share, summed; NaN where only one tile says
        something.
    spill
        Given, the front is kept in a file without a name in this folder, not in memory; the values
        are the same.
    summed
        Keep weighted sums and divide at the end, which takes half the time; see the notes.
    add_weighted
        What adds to them; default: NumPy, which rounds products and sums.

    Raises
    ------
    GridError
        If `crop` is asked of a grid whose tiles overlap, or shares are given where none do.
    HeatmapError
        While stitching, if weighted sums are no finite numbers.

    Notes
    -----
    Blending keeps the running weighted mean, mean += (value - mean) * weight / sum of weights
    (West 1979), instead of a sum to be divided later: tiles that agree leave the mean as it is,
    so an identity network comes back bit for bit, and the rounding of early steps fades. The sum of
    weighted squares behind the variance is kept in the same way; means are the same without it.
    Weighted sums, as peers keep them for volumes, differ from that by rounding alone. Tiles that
    are constant stay so in both, as value and weight are added in the same order.
    The slabs partition the image in order of axis 0; each is at most one stride deep, and holds
    `SLAB_VALUES` values or a single row, so that beside the front nothing as large as it is kept.

    References
    ----------
    West 1979, Updating mean and variance estimates, doi:10.1145/359146.359153.
    """

    def __init__(
        self,
        grid: Grid,
        channels: int,
        *,
        blend: Blend = "crop",
        shares: Sequence[float] | None = None,
        spill: Path | None = None,
        summed: bool = False,
        add_weighted: AddWeighted | None = None,
    ) -> None:
        if channels < 1:
            raise HeatmapError(f"a heatmap needs at least one channel, got {channels}")
        if shares is not None and summed:
            raise GridError("a variance needs running means: leave out `summed`")
        if shares is not None and (len(shares) != channels or not grid.overlaps):
            raise GridError(
                f"a variance needs a share for each of {channels} channels and tiles that overlap, "
                f"got {len(shares)} shares and overlap {grid.overlap}"
            )
        if blend == "crop" and grid.overlaps:
            raise GridError(
                f"blend 'crop' needs tiles that do not overlap, got overlap {grid.overlap}; take "
                "a larger stride or halo, or blend 'constant' or 'gaussian'"
            )
        self.grid = grid
        self.channels = channels
        window = grid.window
        self._weights = None if blend == "crop" else window_weights(window, blend)
        # Channels first: adding a channel-last tile would make inner loops of length `channels`.
        front = (min(window[0], grid.shape[0]), *grid.shape[1:])
        self._shares = None if shares is None else np.asarray(shares, dtype=np.float32)
        self._summed = summed and blend != "crop"
        self._add_weighted = add_weighted or _add_weighted
        self._planes = channels if shares is None else channels + 1
        self._front = _zeros((self._planes, *front), spill)
        self._mean = self._front[:channels]
        self._weight_sum: NDArray[Any] = np.zeros(
            front, dtype=np.bool_ if blend == "crop" else np.float32
        )
        self._top = 0  # image row of the first row of the front
        self._bottom = 0  # image row from which on no tile has written yet
        self._last: tuple[int, ...] = ()
        self._state: Literal["ready", "busy", "finished"] = "ready"

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the stitched array, without the channels."""
        return self.grid.shape

    def add(self, tile: Tile, values: Values) -> Iterator[Slab]:
        """Take one tile; yield the slabs that no later tile can change.

        Parameters
        ----------
        tile
            A tile of the grid, later in row-major order than all before it. Some may be left out.
        values
            float32 `(*tile.read.shape, channel)`.

        Raises
        ------
        HeatmapError
            If the tile is not of this grid or out of order, `values` has another shape or dtype,
            or the slabs of the tile before were not all taken.
        """
        self._enter("add a tile")
        if tile.index <= self._last or tile != self.grid.tile(tile.index):
            raise HeatmapError(
                f"tile {tile.index} cannot follow {self._last}: needed a tile of the grid in "
                "row-major order, so that sums never depend on batches or threads"
            )
        needed = (*self.grid.patch, self.channels)
        if values.shape != needed or values.dtype != np.float32:
            raise HeatmapError(
                f"tile {tile.index}: needed values of shape {needed} and float32, found "
                f"{values.shape} and {values.dtype}"
            )
        self._state = "busy"
        return self._take(tile, values)

    def finish(self) -> Iterator[Slab]:
        """Yield what is left, to the end of the image; nothing can be added afterwards.

        Raises
        ------
        HeatmapError
            If the slabs of the last tile were not all taken, or it was finished before.
        """
        self._enter("finish")
        self._state = "finished"
        return self._release(self.shape[0])

    def _enter(self, what: str) -> None:
        if self._state == "busy":
            raise HeatmapError(f"cannot {what}: take all slabs of tile {self._last} first")
        if self._state == "finished":
            raise HeatmapError(f"cannot {what}: the stitcher is finished; make a new one")

    def _take(self, tile: Tile, values: Values) -> Iterator[Slab]:
        self._last = tile.index
        yield from self._release(tile.write.start[0])
        halo = tile.write.relative_to(tile.read).slices()
        place = tile.write.shift((-self._top, *(0 for _ in self.shape[1:]))).slices()
        weights = None
        if self._weights is not None:
            pairs = zip(halo, self.grid.halo, strict=True)
            weights = self._weights[tuple(slice(s.start - h, s.stop - h) for s, h in pairs)]
        planes = np.moveaxis(values[halo], -1, 0)
        if self._summed and weights is not None:
            self._weight_sum[place] += weights
            self._add_weighted(self._mean[:, *place], planes, weights)
        else:
            for rows in row_blocks(tile.write.shape, self.channels):
                block = None if weights is None else weights[rows]
                self._add_rows(rows, place, planes[:, rows], block)
        self._bottom = tile.write.stop[0]
        self._state = "ready"

    def _add_rows(
        self, rows: slice, place: tuple[slice, ...], values: Values, weights: Values | None
    ) -> None:
        mean, weight_sum = self._mean[:, *place][:, rows], self._weight_sum[place][rows]
        if weights is None:
            mean[...] = values
            weight_sum[...] = True
            return
        weight_sum += weights
        step = np.array(values, order="C")  # channels first too, which keeps the loops long
        step -= mean
        if self._shares is not None:
            squares = self._front[-1][place][rows]
            _add_squares(squares, step, weights, weight_sum, self._shares)
        step *= weights / weight_sum
        mean += step

    def _release(self, stop: int) -> Iterator[Slab]:
        """Yield the rows above `stop`, and move the front down, a stride at a time."""
        while self._top < stop:
            rows = min(self.grid.stride[0], stop - self._top)
            depth = _slab_depth(self.grid, self._planes)
            for start in range(0, rows, depth):
                # No slab is named here: a suspended generator would keep it in memory.
                yield self._cut(start, min(start + depth, rows))
            self._drop(rows)

    def _cut(self, start: int, stop: int) -> Slab:
        """Return a copy of some rows of the front."""
        rest = self.shape[1:]
        top = (self._top + start, *(0 for _ in rest))
        box = Box(top, (self._top + stop, *rest))
        if self._top >= self._bottom:  # no tile has written here
            blank = np.zeros((*box.shape, self._planes), dtype=np.float32)
            return Slab(box, blank, np.zeros(box.shape, dtype=np.bool_))
        covered = self._weight_sum[start:stop] != 0
        if self._summed:
            weights = np.where(covered, self._weight_sum[start:stop], np.float32(1))
            planes = self._front[:, start:stop] / weights
            _refuse_infinite(planes, box)
            return Slab(box, np.moveaxis(planes, 0, -1), covered)
        planes = self._front[:, start:stop].copy()
        if self._shares is not None:
            np.divide(planes[-1], self._weight_sum[start:stop], out=planes[-1], where=covered)
        return Slab(box, np.moveaxis(planes, 0, -1), covered)

    def _drop(self, rows: int) -> None:
        """Forget the first rows of the front; the others move up, blank ones follow."""
        if self._top < self._bottom:
            for plane in (*self._front, self._weight_sum):
                _move_up(plane, rows)
        self._top += rows


class CellStitcher:
    """Put classifier outputs together: one value vector per tile, one heatmap pixel per tile.

    The slabs count in cells, so the array has shape `grid.counts`. A tile left out is a nodata
    cell.

    Parameters
    ----------
    grid
        The tiles.
    channels
        Values per tile.
    """

    def __init__(self, grid: Grid, channels: int) -> None:
        self.shape = grid.counts
        self.channels = channels
        self._row = 0
        self._last = -1  # place of the last cell in row-major order
        self._values, self._covered = self._blank(1)

    def add(self, indices: NDArray[np.int64], values: Values) -> Iterator[Slab]:
        """Take the values of some tiles; yield finished rows of cells.

        Parameters
        ----------
        indices
            Places in the grid, int (n, axes), in row-major order and after all before them.
        values
            float32 (n, channel).

        Raises
        ------
        HeatmapError
            If a tile is not of the grid or out of order, or `values` has another shape or dtype.
        """
        if values.shape != (len(indices), self.channels) or values.dtype != np.float32:
            raise HeatmapError(
                f"needed values of shape {(len(indices), self.channels)} and float32, one per "
                f"channel, found {values.shape} and {values.dtype}"
            )
        inside = ((indices >= 0) & (indices < self.shape)).all()
        places = np.ravel_multi_index(tuple(indices.T), self.shape) if inside else np.array([-1])
        if not inside or (np.diff(places, prepend=self._last) <= 0).any():
            raise HeatmapError(
                f"tiles {indices.tolist()} cannot follow: needed tiles of a grid of {self.shape} "
                "in row-major order, each once"
            )
        self._last = int(places[-1])
        return self._take(indices, values)

    def finish(self) -> Iterator[Slab]:
        """Yield what is left, to the last row of cells."""
        return self._release(self.shape[0])

    def _take(self, indices: NDArray[np.int64], values: Values) -> Iterator[Slab]:
        for row in np.unique(indices[:, 0]).tolist():
            yield from self._release(row)
            mine = indices[:, 0] == row
            place = (0, *indices[mine, 1:].T)
            self._values[place] = values[mine]
            self._covered[place] = True

    def _release(self, stop: int) -> Iterator[Slab]:
        """Yield the rows above `stop`."""
        while self._row < stop:
            start = (self._row, *(0 for _ in self.shape[1:]))
            self._row += 1
            box = Box(start, (self._row, *self.shape[1:]))
            slab = Slab(box, self._values, self._covered)
            self._values, self._covered = self._blank(1)
            yield slab

    def _blank(self, rows: int) -> tuple[Values, NDArray[np.bool_]]:
        shape = (rows, *self.shape[1:])
        return np.zeros((*shape, self.channels), np.float32), np.zeros(shape, np.bool_)


def projected_bytes(grid: Grid, channels: int, blend: Blend) -> int:
    """Return the most memory a `Stitcher` needs.

    That is its front and two slabs: one being cut, and one the receiver still holds. Further
    slabs that the receiver keeps come on top, and so do the tiles given to it.
    """
    row = math.prod(grid.shape[1:])
    window = grid.window
    front = min(window[0], grid.shape[0]) * row
    slab = min(_slab_depth(grid, channels), grid.shape[0]) * row * (4 * channels + 1)
    if blend == "crop":
        return front * (4 * channels + 1) + 2 * slab
    block = 3 * 4 * min(BLOCK_VALUES, math.prod(window) * channels)
    return front * (4 * channels + 4) + 2 * slab + 4 * math.prod(window) + block


def _add_weighted(sums: Values, values: Values, weights: Values) -> None:
    """Add values times weights to sums, in parts that stay in the cache."""
    rows_of = 1 if _channels_apart(values) else len(values)
    for rows in row_blocks(weights.shape, rows_of):
        some, part = values[:, rows], weights[rows]
        step = np.empty((len(values) if rows_of > 1 else 1, *part.shape), np.float32)
        for start in range(0, len(values), len(step)):
            stop = start + len(step)
            np.multiply(some[start:stop], part, out=step)
            sums[start:stop, rows] += step


def _add_squares(
    squares: Values, step: Values, weights: Values, weight_sum: Values, shares: Values
) -> None:
    """Add a tile to the weighted sums of squares around the mean, before the mean takes its step.

    Parameters
    ----------
    squares
        Sums so far, changed in place; NaN where the first tile writes, which differs from nobody.
    step
        Values of the tile less the mean so far, channels first.
    weights, weight_sum
        Of the tile, and of all tiles with this one.
    shares
        Of each channel.
    """
    before = weight_sum - weights
    added = np.tensordot(shares, step * step, axes=1)
    added *= weights * before / weight_sum
    added += np.nan_to_num(squares)
    added[before == 0] = np.nan
    squares[...] = added


def _channels_apart(values: Values) -> bool:
    """Whether the pixels of a channel lie together, and not the channels of a pixel."""
    return values.strides[0] > values.strides[-1]


def _refuse_infinite(planes: Values, box: Box) -> None:
    # What is not finite stays so in every sum; but a sum of large finite values may overflow.
    if not np.isfinite(planes.sum()) and not np.isfinite(planes).all():
        raise infinite_values(box)


def infinite_values(box: Box) -> HeatmapError:
    """Return the error of weighted sums that are no finite numbers."""
    return HeatmapError(
        f"needed finite values, found others in planes {box.start[0]} to {box.stop[0]}: the "
        "weights are damaged or the precision is too low; try another device or precision"
    )


def _slab_depth(grid: Grid, channels: int) -> int:
    """Return the rows of a slab."""
    row = math.prod(grid.shape[1:]) * channels
    return max(1, min(grid.stride[0], SLAB_VALUES // row))


def _move_up(front: NDArray[np.float32] | NDArray[np.bool_], rows: int) -> None:
    """Drop the first rows, move the others up, blank the end; in place, without a copy."""
    kept = len(front) - rows
    for start in range(0, kept, rows):
        stop = min(start + rows, kept)
        front[start:stop] = front[start + rows : stop + rows]
    front[kept:] = 0


def _zeros(shape: tuple[int, ...], spill: Path | None) -> Values:
    """Return zeros, float32; in a file that goes with the array where there is a folder for it."""
    if spill is None:
        return _zero_pages(shape)
    try:
        with tempfile.TemporaryFile(dir=spill) as file:
            file.truncate(4 * math.prod(shape))  # a hole: reads as zeros
            return np.memmap(file, np.float32, "r+", shape=shape)
    except OSError as error:
        raise unwritable(error, spill) from error


def _zero_pages(shape: tuple[int, ...]) -> Values:
    """Return zeros, float32, in memory that the system takes back as soon as they go.

    Where it can, in large pages: taking 200 MB page by page costs as much as adding a window to
    each (measured).
    """
    size = 4 * math.prod(shape)
    if size < LARGE_PAGE:
        return np.zeros(shape, dtype=np.float32)
    memory = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        with contextlib.suppress(OSError):  # a kernel without them
            memory.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(memory, np.float32).reshape(shape)


def stitch_tiles(outputs: Iterable[tuple[Tile, Values]], stitcher: Stitcher) -> Iterator[Slab]:
    """Yield the slabs of a whole image from its tiles, given in grid order."""
    for tile, values in outputs:
        yield from stitcher.add(tile, values)
    yield from stitcher.finish()
