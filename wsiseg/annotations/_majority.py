"""Labels at a coarser or finer spacing: the label that covers most of each pixel."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["majority"]

STEPS = 1 << 20
"""Areas are compared in 1/2^20 of a source pixel, so that a tie is one whichever box is read."""

AT_ONCE = 1 << 20
"""Source pixels under mixed target pixels that are weighed together."""

Labels = NDArray[np.uint8]


def majority(
    labels: Labels, rows: NDArray[np.float64], columns: NDArray[np.float64], rank: NDArray[np.int64]
) -> Labels:
    """Return the label that covers the largest area of each target pixel.

    Parameters
    ----------
    labels
        uint8 (y, x).
    rows, columns
        Edges (n + 1,) and (m + 1,) of the target pixels in pixels of `labels`, rising, within it.
        A target pixel without area gets any label.
    rank
        (256,); of labels that cover the same area the one of highest rank wins.

    Returns
    -------
    ndarray
        uint8 (n, m).

    Notes
    -----
    Most target pixels lie within one label: that is told from the lowest and the highest label
    they touch. Areas are summed up for the others only.
    """
    y, x = _Windows.of(rows, labels.shape[0]), _Windows.of(columns, labels.shape[1])
    if y.is_all_of(labels.shape[0]) and x.is_all_of(labels.shape[1]):
        return labels
    lowest, highest = labels[y.index[:, 0]], labels[y.index[:, 0]]
    for place in y.index.T[1:]:
        row = labels[place]
        np.minimum(lowest, row, out=lowest)
        np.maximum(highest, row, out=highest)
    best, most = lowest[:, x.index[:, 0]], highest[:, x.index[:, 0]]
    for place in x.index.T[1:]:
        np.minimum(best, lowest[:, place], out=best)
        np.maximum(most, highest[:, place], out=most)
    i, j = np.nonzero(best != most)
    step = max(1, AT_ONCE // (y.index.shape[1] * x.index.shape[1]))
    for start in range(0, len(i), step):
        some = i[start : start + step], j[start : start + step]
        best[some] = _weighed(labels, y, x, some, rank)
    return best


@dataclass(frozen=True, slots=True)
class _Windows:
    """Source pixels that target pixels touch along one axis, as many for each."""

    index: NDArray[np.int64]
    """(n, k); where there are fewer, the last one again."""

    length: NDArray[np.float64]
    """(n, k): how much of each lies in the target pixel; 0 for repeated ones."""

    @classmethod
    def of(cls, edges: NDArray[np.float64], size: int) -> "_Windows":
        low, high = edges[:-1, None], edges[1:, None]
        first = np.floor(low).astype(np.int64)
        last = np.maximum(np.ceil(high).astype(np.int64) - 1, first)
        touched = first + np.arange(int((last - first).max()) + 1)
        length = np.minimum(touched + 1, high) - np.maximum(touched, low)
        index = np.minimum(np.minimum(touched, last), size - 1)
        return cls(index, np.maximum(length, 0))

    def is_all_of(self, size: int) -> bool:
        """Tell whether each source pixel is a target pixel."""
        return self.index.shape == (size, 1) and bool((self.index[:, 0] == np.arange(size)).all())


def _weighed(
    labels: Labels,
    y: _Windows,
    x: _Windows,
    wanted: tuple[NDArray[np.int64], NDArray[np.int64]],
    rank: NDArray[np.int64],
) -> Labels:
    """Return the label of some target pixels (n,), given by row and column."""
    i, j = wanted
    under = labels[y.index[i][:, :, None], x.index[j][:, None, :]]
    area = y.length[i][:, :, None] * x.length[j][:, None, :]
    best, largest = np.zeros(len(i), np.uint8), np.full(len(i), -1, np.int64)
    present = np.flatnonzero(np.bincount(under.ravel(), minlength=len(rank)))
    for label in sorted(present, key=lambda value: rank[value]):
        covered = np.rint((area * (under == label)).sum(axis=(1, 2)) * STEPS).astype(np.int64)
        won = covered >= largest
        best[won], largest[won] = label, covered[won]
    return best
