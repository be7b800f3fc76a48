"""Tiles of a regular grid, in any number of dimensions."""

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from wsiseg.errors import GridError
from wsiseg.geometry import Box, ceil_div

__all__ = ["Grid", "Tile"]


@dataclass(frozen=True, slots=True)
class Tile:
    """One step of a grid."""

    index: tuple[int, ...]
    """Place in the grid, per axis."""

    write: Box
    """Pixels this tile decides, inside the image. Partition it, or overlap to be blended."""

    read: Box
    """Pixels the network sees: the full window with its halo; may overhang the edge."""


@dataclass(frozen=True, slots=True)
class Grid:
    """Tiles covering an image of `shape` pixels, in row-major order.

    Along each axis tile `i` writes `[i * stride, i * stride + stride + overlap)`, clipped to the
    image, and reads the unclipped window grown by `halo`. Every `read` box therefore has the same
    shape, `patch = stride + overlap + 2 * halo`. With `overlap` 0 the write boxes partition the
    image; otherwise neighbours share pixels, which the stitcher blends.

    Parameters
    ----------
    shape
        Pixels of the image per axis, any number of axes.
    stride, halo, overlap
        Pixels per axis.
    starts
        Given, tile `i` writes from `starts[axis][i]` on instead of `i * stride`; see
        `wsiseg.grid.windows`. Windows may begin before the image, and begin at most a stride apart.

    Raises
    ------
    GridError
        If the axes do not agree, a stride is below 1, a halo or overlap is negative, or windows
        that are not regular leave gaps.
    """

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    halo: tuple[int, ...]
    overlap: tuple[int, ...]
    starts: tuple[tuple[int, ...], ...] | None = None

    def __post_init__(self) -> None:
        axes = {len(self.shape), len(self.stride), len(self.halo), len(self.overlap)}
        if len(axes) != 1 or axes == {0}:
            raise GridError(
                f"shape {self.shape}, stride {self.stride}, halo {self.halo} and overlap "
                f"{self.overlap} need one value per axis each"
            )
        if min(self.shape) < 1 or min(self.stride) < 1 or min(self.halo + self.overlap) < 0:
            raise GridError(
                f"need shape and stride >= 1, halo and overlap >= 0; got shape {self.shape}, "
                f"stride {self.stride}, halo {self.halo}, overlap {self.overlap}"
            )
        if self.starts is not None:
            self._check_starts(self.starts)

    def _check_starts(self, starts: tuple[tuple[int, ...], ...]) -> None:
        if len(starts) != len(self.shape):
            raise GridError(f"windows need starts for each axis of {self.shape}, got {len(starts)}")
        parts = zip(starts, self.shape, self.stride, self.window, strict=True)
        for places, size, stride, window in parts:
            steps = [b - a for a, b in pairwise(places)]
            reaches = bool(places) and places[0] <= 0 < places[0] + window
            if not reaches or any(not 0 < n <= stride for n in steps) or places[-1] + window < size:
                raise GridError(
                    f"windows of {window} pixels from {places} on do not cover {size} pixels: "
                    f"needed ascending starts at most {stride} apart, the first at or before 0"
                )

    @classmethod
    def of_patches(
        cls,
        shape: tuple[int, ...],
        patch: tuple[int, ...],
        *,
        stride: tuple[int, ...] | None = None,
        halo: tuple[int, ...] | None = None,
    ) -> "Grid":
        """Return the grid whose read windows are `patch` pixels, `stride` apart.

        What is left of the patch after the halo on both sides and the stride is overlap.

        Raises
        ------
        GridError
            If the stride leaves gaps: stride + 2 * halo > patch; or the axes do not agree.
        """
        halo = halo or (0,) * len(patch)
        if len(halo) != len(patch) or len(stride or patch) != len(patch):
            raise GridError(
                f"patch {patch}, stride {stride} and halo {halo} need one value per axis each"
            )
        inner = tuple(p - 2 * h for p, h in zip(patch, halo, strict=True))
        stride = stride or inner
        overlap = tuple(i - s for i, s in zip(inner, stride, strict=True))
        if min(overlap) < 0:
            raise GridError(
                f"stride {stride} with halo {halo} leaves gaps between patches of {patch}: "
                "needed stride + 2 * halo <= patch; take a smaller stride or halo"
            )
        return cls(shape, stride, halo, overlap)

    @property
    def patch(self) -> tuple[int, ...]:
        """Shape of every read box."""
        parts = zip(self.stride, self.overlap, self.halo, strict=True)
        return tuple(s + o + 2 * h for s, o, h in parts)

    @property
    def window(self) -> tuple[int, ...]:
        """Pixels a tile decides per axis, where it is not clipped."""
        return tuple(s + o for s, o in zip(self.stride, self.overlap, strict=True))

    @property
    def overlaps(self) -> bool:
        """Whether some pixel is decided by more than one tile."""
        return self.starts is not None or any(self.overlap)

    def start(self, axis: int, i: int) -> int:
        """Return the first pixel that tile `i` along an axis decides, before it is clipped."""
        return i * self.stride[axis] if self.starts is None else self.starts[axis][i]

    @property
    def counts(self) -> tuple[int, ...]:
        """Tiles along each axis."""
        if self.starts is not None:
            return tuple(len(places) for places in self.starts)
        parts = zip(self.shape, self.overlap, self.stride, strict=True)
        return tuple(max(1, ceil_div(n - o, s)) for n, o, s in parts)

    def __len__(self) -> int:
        return math.prod(self.counts)

    def __iter__(self) -> Iterator[Tile]:
        for index in itertools.product(*(range(n) for n in self.counts)):
            yield self.tile(index)

    @property
    def turned(self) -> "Grid":
        """The same tiles with the axes in reverse order, so that rows become columns."""
        starts = None if self.starts is None else self.starts[::-1]
        return Grid(
            self.shape[::-1], self.stride[::-1], self.halo[::-1], self.overlap[::-1], starts
        )

    def tile(self, index: tuple[int, ...]) -> Tile:
        """Return the tile at `index`.

        Raises
        ------
        GridError
            If there is no such tile.
        """
        if len(index) != len(self.shape) or any(
            not 0 <= i < n for i, n in zip(index, self.counts, strict=True)
        ):
            raise GridError(f"no tile {index} in a grid of {self.counts} tiles")
        start = tuple(self.start(axis, i) for axis, i in enumerate(index))
        full = Box(start, tuple(a + w for a, w in zip(start, self.window, strict=True)))
        return Tile(index=index, write=full.clip(self.shape), read=full.grow(self.halo))
