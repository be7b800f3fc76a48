"""A slide as JPEG tiles, straight from its reader.

Levels are halved as long as one tile does not hold all. Each is a view of the slide: the coarsest
level of the file that serves it, reduced by a whole number. So its downsample is the file's true
one (4.0003, say), which the page is told; at rounded ones the far end of a slide would jump.
"""

import math
from dataclasses import dataclass

import numpy as np
import simplejpeg  # type: ignore[import-untyped]

from wsiseg.geometry import Box, ceil_div
from wsiseg.source import Pyramid
from wsiseg.source.view import View

__all__ = ["TILE", "SlideTiles", "TileLevel"]

TILE = 512
"""Pixels along a side: a request costs as much as the pixels of 256, and there are a quarter."""

QUALITY = 88
"""Beyond it files grow, and stain and nuclei look the same."""

CACHED_BYTES = 96_000_000
"""Decoded blocks that a slide may keep."""


@dataclass(frozen=True, slots=True)
class TileLevel:
    """One resolution that is shown."""

    shape: tuple[int, int]
    """Pixels (y, x)."""

    downsample: float
    """Level-0 pixels per pixel, along x."""

    @property
    def grid(self) -> tuple[int, int]:
        """Tiles (rows, columns)."""
        return ceil_div(self.shape[0], TILE), ceil_div(self.shape[1], TILE)


class SlideTiles:
    """The tiles of an open slide. Thread-safe.

    Parameters
    ----------
    slide
        With a known pixel size; it should replace what is damaged.

    Attributes
    ----------
    levels
        From the coarsest, which is one tile, to level 0.
    """

    def __init__(self, slide: Pyramid) -> None:
        self._slide = slide
        slide.levels[0].limit_cache(CACHED_BYTES)
        doublings = max(0, math.ceil(math.log2(max(slide.shape) / TILE)))
        self._views = [self._view(2**k) for k in range(doublings, -1, -1)]
        self.levels = tuple(
            TileLevel((view.shape[0], view.shape[1]), view.downsample[1]) for view in self._views
        )

    def _view(self, downsample: int) -> View:
        return self._slide.at(self._slide.spacing.times(downsample), scaled=True)

    def jpeg(self, level: int, row: int, column: int) -> bytes:
        """Return a tile of a level; at the right and lower edge it ends with the slide.

        Raises
        ------
        IndexError
            If there is no such tile.
        """
        if not 0 <= level < len(self.levels):
            raise IndexError(level)
        rows, columns = self.levels[level].grid
        if not (0 <= row < rows and 0 <= column < columns):
            raise IndexError(row, column)
        box = Box((row * TILE, column * TILE), ((row + 1) * TILE, (column + 1) * TILE))
        pixels = self._views[level].read(box.clip(self.levels[level].shape))
        return encode(pixels)

    def thumbnail(self, size: int) -> bytes:
        """Return the whole slide as a JPEG, no side longer than `size`."""
        return encode(self._slide.thumbnail(size))


def encode(pixels: np.ndarray[tuple[int, ...], np.dtype[np.uint8]]) -> bytes:
    """Return a JPEG of pixels (y, x, 3)."""
    content: bytes = simplejpeg.encode_jpeg(
        np.ascontiguousarray(pixels), quality=QUALITY, colorsubsampling="422", fastdct=True
    )
    return content
