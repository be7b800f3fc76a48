"""Which class lies where on a slide, coarsely: for drawing places, and for areas."""

from typing import final

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import LabelError
from wsiseg.geometry import Box, Spacing

__all__ = ["ClassMap"]


@final
class ClassMap:
    """Class values of a whole slide at one spacing.

    Parameters
    ----------
    values
        uint8 (h, w): class values, 255 where nobody knows. Made read-only.
    downsample
        Level-0 pixels per pixel of the map, (y, x).
    spacing
        µm per pixel of the map, (y, x).
    level0_shape
        Level-0 pixels (y, x) of the slide; the last pixels of the map may overhang it.
    """

    def __init__(
        self,
        values: NDArray[np.uint8],
        downsample: tuple[float, float],
        spacing: Spacing,
        level0_shape: tuple[int, int],
    ) -> None:
        self.values = values.view()
        self.values.flags.writeable = False
        self.downsample = downsample
        self.spacing = spacing
        self.level0_shape = level0_shape
        self._before: dict[int, NDArray[np.int64]] = {}

    def count(self, value: int) -> int:
        """Return the pixels of the map with a class value."""
        return int(self._rows(value)[-1])

    def area_um2(self, value: int) -> float:
        """Return the area of a class value in µm², exact but for the pixels of the map."""
        return self.count(value) * self.spacing.area_um2

    def bounds(self, value: int) -> Box | None:
        """Return the level-0 box around a class value; `None` where there is none."""
        found = self.values == value
        rows, columns = np.flatnonzero(found.any(axis=1)), np.flatnonzero(found.any(axis=0))
        if not len(rows):
            return None
        pairs = list(zip((rows, columns), self.downsample, self.level0_shape, strict=True))
        start = tuple(int(places[0] * d) for places, d, _ in pairs)
        stop = tuple(min(int(np.ceil((places[-1] + 1) * d)), n) for places, d, n in pairs)
        return Box(start, stop)

    def draw(self, value: int, count: int, rng: np.random.Generator) -> NDArray[np.float64]:
        """Return places of a class, each as likely as any other.

        Parameters
        ----------
        value
            Class value, or 255.
        count
            How many places.
        rng
            Where chance comes from; the same state gives the same places.

        Returns
        -------
        ndarray
            (count, 2) level-0 pixels (y, x), anywhere within pixels of the map.

        Raises
        ------
        LabelError
            If the map has no pixel of that class.
        """
        before = self._rows(value)
        if not before[-1]:
            raise LabelError(f"no place of class value {value} on the map; take finer pixels")
        chosen = rng.integers(before[-1], size=count)
        row = np.searchsorted(before, chosen, side="right") - 1
        column = np.empty(count, np.int64)
        for one in np.unique(row):
            here = row == one
            column[here] = np.flatnonzero(self.values[one] == value)[chosen[here] - before[one]]
        inside = rng.random((count, 2))
        start = np.stack([row, column], axis=1) * self.downsample
        stop = np.minimum(start + self.downsample, self.level0_shape)
        places: NDArray[np.float64] = start + inside * (stop - start)
        return places

    def _rows(self, value: int) -> NDArray[np.int64]:
        """Return how many pixels of a class lie above each row, (h + 1,)."""
        if value not in self._before:
            counts = np.count_nonzero(self.values == value, axis=1)
            self._before[value] = np.concatenate([[0], np.cumsum(counts)])
        return self._before[value]

    def __repr__(self) -> str:
        height, width = self.values.shape
        return f"<ClassMap {width} x {height} px, {self.spacing.um[1]:.4g} µm/px>"
