"""The places where a heatmap is highest, found in slabs of rows and the same wherever these end."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.basins import basins
from wsiseg.annotations.instances import MAX_WAITING, ended
from wsiseg.annotations.trace import RowsOfPixels

__all__ = ["Peaks", "find_peaks"]


@dataclass(frozen=True, slots=True)
class Peaks:
    """Peaks of a plane of codes, sorted by row, then column."""

    places: NDArray[np.float64]
    """(n, 2), y and x in pixels, corners counted: the mean of the highest pixels of a peak."""

    codes: NDArray[np.int64]
    """(n,) what they are there."""


def find_peaks(codes: RowsOfPixels, *, least: int, depth: int, block: int = 1024) -> Peaks:
    """Return the peaks of a plane.

    Parameters
    ----------
    codes
        uint8 (y, x), read once, `block` rows at a time.
    least
        Lowest code of a pixel that counts.
    depth
        Codes by which every way from a peak to a higher one leads down, or out of what counts.

    Notes
    -----
    See `basins`. Memory grows with the rows of the largest connected region that counts.
    """
    height, width = codes.shape
    waiting: NDArray[np.uint8] = np.zeros((0, width), np.uint8)
    top = 0
    found: list[NDArray[np.float64]] = [np.empty((0, 3))]
    for start in range(0, height, block):
        rows = np.asarray(codes[start : min(start + block, height)])
        waiting = np.concatenate([waiting, rows])
        whole: NDArray[np.bool_] = waiting >= least
        first = len(waiting)
        if start + block < height and waiting.size <= MAX_WAITING:
            whole, first = ended(whole)
        found.append(_peaks(whole, waiting, depth) + np.array([top, 0, 0]))
        waiting = np.where(whole, np.uint8(0), waiting)[first:]
        top += first
    y, x, value = np.concatenate(found).T
    order = np.lexsort((x, y))
    return Peaks(np.stack([y, x], axis=1)[order], value[order].astype(np.int64))


def _peaks(mask: NDArray[np.bool_], codes: NDArray[np.uint8], depth: int) -> NDArray[np.float64]:
    """Return y, x and code (n, 3) of the peaks within a mask."""
    ids, count = basins(mask, codes, depth)
    if not count:
        return np.empty((0, 3))
    places = np.argwhere(mask)
    owner, values = ids[mask] - 1, codes[mask].astype(np.int64)
    highest = np.zeros(count, np.int64)
    np.maximum.at(highest, owner, values)
    on_top = values == highest[owner]
    owner, places = owner[on_top], places[on_top] + 0.5
    sizes = np.bincount(owner, minlength=count)
    y, x = (np.bincount(owner, axis, minlength=count) / sizes for axis in places.T)
    return np.stack([y, x, highest], axis=1)
