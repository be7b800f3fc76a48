"""Touching objects told apart: each pixel climbs to a peak, and peaks too shallow are joined.

A height belongs to every pixel: how far it is from the edge of the foreground, or how near to the
centre of its object a network puts it. What a pixel gets depends on its own connected component
alone, and on no coordinate: so cutting a mask anywhere beside a component changes nothing.
"""

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

__all__ = ["basins", "distances", "grow"]

Mask = NDArray[np.bool_]
Ids = NDArray[np.int32]


def distances(mask: Mask) -> NDArray[np.float32]:
    """Return how far each pixel's centre is from the nearest one outside of `mask`, in pixels.

    Exactly the square root of a whole number, wherever the mask lies; what is beyond the array's
    edge is outside.
    """
    padded = np.pad(mask, 1).view(np.uint8)
    found = cv2.distanceTransform(padded, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)[1:-1, 1:-1]
    exact: NDArray[np.float32] = np.sqrt(np.rint(found * found))
    return exact


def basins(mask: Mask, height: NDArray[Any], depth: float) -> tuple[Ids, int]:
    """Return the objects of a mask (y, x), numbered from 1, 0 outside, and how many there are.

    Parameters
    ----------
    mask
        Foreground.
    height
        Of each pixel, (y, x); highest at the centre of an object.
    depth
        Two peaks are two objects if the way between them leads down by at least so much from the
        lower one (its dynamics; Grimaud 1992, doi:10.1117/12.60650).

    Notes
    -----
    Each pixel goes to its highest 4-neighbour, as far as that leads (a watershed by rainfall); of
    equally high ones the later in row-major order counts as higher. Objects are 4-connected.
    """
    foreground = _Foreground(mask)
    if not len(foreground):
        return np.zeros(mask.shape, np.int32), 0
    levels = height[mask]
    rank = np.empty(len(levels), np.int64)
    rank[np.argsort(levels, kind="stable")] = np.arange(len(levels))
    peaks, basin = np.unique(_climbed(foreground, rank), return_inverse=True)
    owner = _joined(basin, levels, peaks, foreground, depth)
    kept, number = np.unique(owner, return_inverse=True)
    return foreground.image(number[basin] + 1), len(kept)


def grow(ids: Ids, mask: Mask) -> Ids:
    """Return ids (y, x) grown over a mask that holds them, along 4-connected ways, 0 elsewhere.

    A pixel gets the id that is the fewest steps away, the largest of several. Parts of the mask
    that no id reaches stay 0.
    """
    foreground = _Foreground(mask)
    found, around = ids[mask], foreground.neighbours()
    front = np.flatnonzero(found)
    while len(front):
        cells, values = around[front].ravel(), np.repeat(found[front], around.shape[1])
        free = (cells >= 0) & (found[cells] == 0)
        cells, values = cells[free], values[free]
        order = np.lexsort((values, cells))
        last = order[np.flatnonzero(np.diff(cells[order], append=-1))]
        front = cells[last]
        found[front] = values[last]
    return foreground.image(found)


class _Foreground:
    """The pixels of a mask in row-major order, and which of them are neighbours.

    Attributes
    ----------
    pairs
        Below one another and side by side: two columns of places in that order.
    """

    def __init__(self, mask: Mask) -> None:
        self._mask = mask
        padded = np.pad(mask, ((0, 1), (0, 1))).ravel()  # so that no row's end meets the next
        spot = np.flatnonzero(padded)
        self._count = len(spot)
        place = np.full(len(padded), -1, np.int64)
        place[spot] = every = np.arange(self._count)
        below, right = (place[spot + step] for step in (mask.shape[1] + 1, 1))
        self.pairs = tuple((every[to >= 0], to[to >= 0]) for to in (below, right))

    def __len__(self) -> int:
        return self._count

    def neighbours(self) -> NDArray[np.int64]:
        """Return the places of each pixel's neighbours (n, 4), -1 where there is none."""
        around = np.full((self._count, 4), -1, np.int64)
        for i, (here, there) in enumerate(self.pairs):
            around[here, 2 * i] = there
            around[there, 2 * i + 1] = here
        return around

    def image(self, values: NDArray[Any]) -> Ids:
        """Return values (n,) where their pixels are, 0 elsewhere."""
        image = np.zeros(self._mask.shape, np.int32)
        image[self._mask] = values
        return image


def _climbed(foreground: _Foreground, rank: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the peak of each pixel."""
    target = np.arange(len(rank))
    for pairs in foreground.pairs:
        for here, there in (pairs, pairs[::-1]):
            up = rank[there] > rank[target[here]]
            target[here[up]] = there[up]
    while True:
        further = target[target]
        if np.array_equal(further, target):
            return target
        target = further


def _joined(
    basin: NDArray[np.int64],
    levels: NDArray[Any],
    peaks: NDArray[np.int64],
    foreground: _Foreground,
    depth: float,
) -> NDArray[np.int64]:
    """Return for each basin the one that it is joined to: itself, or one with a higher peak."""
    one, other, saddle = _passes(basin, levels, foreground)
    owner = list(range(len(peaks)))
    tops = levels[peaks].tolist()

    def root(i: int) -> int:
        while owner[i] != i:
            owner[i] = owner[owner[i]]
            i = owner[i]
        return i

    for a, b, level in zip(one.tolist(), other.tolist(), saddle.tolist(), strict=True):
        a, b = root(a), root(b)  # noqa: PLW2901 - the basins that these now belong to
        if a == b:
            continue
        low, high = (a, b) if (tops[a], a) < (tops[b], b) else (b, a)
        if tops[low] - level < depth:
            owner[low] = high
    return np.array([root(i) for i in range(len(owner))], np.int64)


def _passes(
    basin: NDArray[np.int64], levels: NDArray[Any], foreground: _Foreground
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[Any]]:
    """Return pairs of neighbouring basins with the highest pass between them, highest first."""
    here, there = (np.concatenate(column) for column in zip(*foreground.pairs, strict=True))
    border = basin[here] != basin[there]
    here, there = here[border], there[border]
    ends = np.sort(np.stack([basin[here], basin[there]]), axis=0)
    level = np.minimum(levels[here], levels[there])
    order = np.lexsort((level, ends[1], ends[0]))
    ends, level = ends[:, order], level[order]
    last = np.flatnonzero((np.diff(ends, axis=1, append=-1) != 0).any(axis=0))
    ends, level = ends[:, last], level[last]
    order = np.argsort(-level, kind="stable")
    return ends[0][order], ends[1][order], level[order]
