"""Integral images, row by row: sums over a polygon from its corners alone.

With `S(y, x)` the sum over all pixels above and left of a lattice point, the sum over a polygon of
pixel edges is `S` at the start minus `S` at the end of each of its horizontal edges (Crow 1984,
doi:10.1145/800031.808600; Green's theorem on a grid). Sums are integers and wrap around, so that
they are exact for every polygon below 2^33 pixels, however large the image, in whatever slabs.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import AnnotationError

__all__ = ["Integral", "ProbabilityIntegral"]

FRACTION_BITS = 30
"""Floating-point probabilities are summed in steps of 2^-30, about 1e-9."""


class Integral:
    """Integral image of an integer image that arrives in slabs of rows."""

    def __init__(self, width: int) -> None:
        self.line = np.zeros(width + 1, np.int64)
        """Values on the lattice line below the rows added so far."""

    def add(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Return the values (h, w + 1) on the lattice lines above each of `rows` (h, w)."""
        sums = np.zeros((len(rows) + 1, len(self.line)), np.int64)
        np.cumsum(rows, axis=1, out=sums[1:, 1:])
        sums[0] = self.line
        np.cumsum(sums, axis=0, out=sums)
        self.line = sums[-1].copy()
        return sums[:-1]


class ProbabilityIntegral:
    """Integral images of a probability and of the pixels that have one."""

    def __init__(self, width: int) -> None:
        self._sum = Integral(width)
        self._known = Integral(width)
        self._scale = 1.0

    def add(self, rows: NDArray[Any]) -> NDArray[np.int64]:
        """Return both values (2, h, w + 1) on the lattice lines above each of `rows` (h, w).

        `rows` is uint8 (0 = no data, else 1 + 254 times the probability) or floating point in 0..1
        (NaN = no data).
        """
        if rows.dtype == np.uint8:
            known = rows != 0
            steps, self._scale = rows.astype(np.int64) - known, 254.0
        else:
            known = ~np.isnan(rows)
            steps, self._scale = _fixed_point(rows, known), float(1 << FRACTION_BITS)
        return np.stack([self._sum.add(steps), self._known.add(known)])

    def last_line(self) -> NDArray[np.int64]:
        """Return both values (2, 1, w + 1) on the lattice line below all rows."""
        return np.stack([self._sum.line, self._known.line])[:, None]

    def mean(self, total: NDArray[np.int64], known: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return mean probabilities from sums over polygons; NaN where no pixel has one."""
        mean = np.full(len(total), np.nan)
        np.divide(total, self._scale * known, out=mean, where=known > 0)
        return mean


def _fixed_point(rows: NDArray[Any], known: NDArray[np.bool_]) -> NDArray[np.int64]:
    values = np.where(known, rows, 0).astype(np.float64)
    if not ((values >= 0) & (values <= 1)).all():
        raise AnnotationError(
            f"probabilities must lie in 0..1 (NaN where unknown), found {values.min():g} to "
            f"{values.max():g}; pass the heatmap, not the network's raw values"
        )
    return np.rint(values * (1 << FRACTION_BITS)).astype(np.int64)
