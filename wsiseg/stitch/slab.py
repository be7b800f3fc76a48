"""What flows from the stitcher to the reducers: finished parts of the array."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

__all__ = ["MAX_CLASSES", "Codes", "Slab", "Values", "row_blocks"]

Values = NDArray[np.float32]
Codes = NDArray[np.uint8 | np.uint16]

MAX_CLASSES = 256
"""Labels are uint8."""

BLOCK_VALUES = 1 << 16
"""float32 values handled at once: 256 KiB, so that intermediate results stay in the cache."""


@dataclass(frozen=True, slots=True)
class Slab:
    """A finished part of the stitched array: a range of axis 0, full width in the other axes.

    Where the image is walked in columns, the last axis is as wide as the column.
    """

    box: Box
    """Where it lies."""

    values: Values
    """float32 `(*box.shape, channel)`; 0 where not covered. The receiver owns it."""

    covered: NDArray[np.bool_]
    """bool `box.shape`: pixels that at least one tile decided. The others are nodata."""

    def within(self, left: int, right: int) -> "Slab":
        """Return the part between two pixels of the last axis; no copy."""
        box = Box((*self.box.start[:-1], left), (*self.box.stop[:-1], right))
        part = box.relative_to(self.box).slices()
        return Slab(box, self.values[part], self.covered[part])

    def plane(self, row: int) -> tuple[Values, NDArray[np.bool_]]:
        """Return a plane across axis 0, `(channel, ...)`, and what of it is covered; no copies."""
        return np.moveaxis(self.values[row], -1, 0), self.covered[row]

    def scaled(self, weights: Sequence[float], biases: Sequence[float]) -> "Slab":
        """Return the slab with the values of each channel, or of all, multiplied and shifted."""
        factors, shifts = np.asarray(weights, np.float32), np.asarray(biases, np.float32)
        return Slab(self.box, self.values * factors + shifts, self.covered)

    def without(self, undecided: NDArray[np.bool_]) -> "Slab":
        """Return the slab with some pixels, bool `box.shape`, left as nodata."""
        if not undecided.any():
            return self
        values = np.where(undecided[..., None], np.float32(0), self.values)
        return Slab(self.box, values, self.covered & ~undecided)

    def moved(self, pixels: int) -> "Slab":
        """Return the slab further along the last axis."""
        offset = (*(0 for _ in self.box.start[1:]), pixels)
        return Slab(self.box.shift(offset), self.values, self.covered)


def row_blocks(shape: tuple[int, ...], channels: int) -> Iterator[slice]:
    """Yield ranges of axis 0 that partition an array, each about `BLOCK_VALUES` values."""
    depth = max(1, BLOCK_VALUES // (math.prod(shape[1:]) * channels))
    for start in range(0, shape[0], depth):
        yield slice(start, min(start + depth, shape[0]))
