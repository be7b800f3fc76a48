"""From a network's grid to the scan's own voxels, plane by plane: resampled and reduced at once.

Nothing is ever as large as classes times voxels: two planes of each class are kept, resampled
within the plane, and each plane of the scan between them is a mean of the two.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Box
from wsiseg.resample import AxisMap, bracket
from wsiseg.stitch import Codes, Sink, Slab

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["ArgmaxRule", "FusedExport", "LabelRule", "RegionRule", "ThresholdRule", "export_bytes"]

Planes = NDArray[np.float32]


class LabelRule(Protocol):
    """Makes labels of one plane from its classes, given one after the other."""

    def begin(self, shape: tuple[int, ...]) -> None:
        """Begin a plane."""
        ...

    def add(self, channel: int, plane: Planes) -> None:
        """Take the next channel; `plane` is the caller's."""
        ...

    def labels(self) -> Codes:
        """Return the labels of the plane."""
        ...


class ArgmaxRule:
    """The channel of the largest value; of equal ones the first."""

    def begin(self, shape: tuple[int, ...]) -> None:
        """Begin a plane."""
        self._best = np.full(shape, -np.inf, np.float32)
        self._labels = np.zeros(shape, np.uint8)
        self._better = np.empty(shape, np.bool_)

    def add(self, channel: int, plane: Planes) -> None:
        """Compare with those before."""
        np.greater(plane, self._best, out=self._better)
        np.copyto(self._labels, np.uint8(channel), where=self._better)
        np.maximum(self._best, plane, out=self._best)

    def labels(self) -> Codes:
        """Return the labels.

        Raises
        ------
        HeatmapError
            If a value is not a number.
        """
        if np.isnan(self._best.max()):
            raise HeatmapError(
                "needed numbers, found NaN: the network overflowed; try another device or precision"
            )
        return self._labels


class ThresholdRule:
    """1 where the second of two channels, or the difference to the first, reaches a limit.

    Parameters
    ----------
    limit
        What is compared.
    difference
        Compare the second less the first; of raw values before a softmax.
    """

    def __init__(self, limit: float, *, difference: bool) -> None:
        self._limit = np.float32(limit)
        self._difference = difference

    def begin(self, shape: tuple[int, ...]) -> None:
        """Begin a plane."""
        self._values = np.zeros(shape, np.float32)

    def add(self, channel: int, plane: Planes) -> None:
        """Take a channel."""
        if channel == 1:
            self._values += plane
        elif self._difference:
            self._values -= plane

    def labels(self) -> Codes:
        """Return the labels."""
        return (self._values >= self._limit).astype(np.uint8)


class RegionRule:
    """The class of the last channel that is above a limit; 0 where none is.

    Parameters
    ----------
    classes
        Of each channel, in the order in which they are written.
    limit
        What is compared.
    """

    def __init__(self, classes: Sequence[int], limit: float) -> None:
        self._classes = tuple(classes)
        self._limit = np.float32(limit)

    def begin(self, shape: tuple[int, ...]) -> None:
        """Begin a plane."""
        self._labels = np.zeros(shape, np.uint8)

    def add(self, channel: int, plane: Planes) -> None:
        """Write a channel over those before."""
        np.copyto(self._labels, np.uint8(self._classes[channel]), where=plane > self._limit)

    def labels(self) -> Codes:
        """Return the labels."""
        return self._labels


class FusedExport:
    """A `Reducer` of the slabs of a volume: labels on the scan's own voxels.

    Parameters
    ----------
    maps
        Per axis, where the scan's voxels in the box lie among those stitched.
    orders
        Per axis, 1 linear or 0 nearest.
    channels
        Values per voxel.
    box, whole
        The part of the scan that is written, and the shape of all of it; the rest is 0.
    rule
        Makes labels of planes.
    labels
        Gets uint8 planes `(1, y, x)` of the whole scan, in order.
    blank
        Values of voxels that no window decided, float (channel,).
    probabilities
        Also given every plane, float32 `(y, x, channel)`, with its number; `None`: nobody.
    wanted
        Tells whether a plane of the whole scan is to be made; the others are left out.
    """

    def __init__(  # noqa: PLR0913 - where from, where to, and by what rule
        self,
        maps: Sequence[AxisMap],
        orders: Sequence[Literal[0, 1]],
        channels: int,
        *,
        box: Box,
        whole: Sequence[int],
        rule: LabelRule,
        labels: Sink,
        blank: Sequence[float],
        probabilities: Callable[[int, Planes], None] | None = None,
        wanted: Callable[[int], bool] = lambda _: True,
    ) -> None:
        self._low, self._high, self._share = bracket(maps[0], 0, maps[0].target, order=orders[0])
        self._down, self._across = (_matrix(maps[a], orders[a]) for a in (1, 2))
        self._swapped = self._down is not None or self._across is not None
        self._channels = channels
        self._box, self._whole = box, tuple(whole)
        self._rule, self._labels, self._probabilities = rule, labels, probabilities
        self._blank = np.asarray(blank, np.float32)
        self._wanted = wanted
        self._needed = set(self._low.tolist()) | set(self._high.tolist())
        self._planes: dict[int, Planes] = {}
        self._next = 0  # plane of the box that is to be made next
        self._written = 0  # planes of the whole scan
        self._source = maps[0].source

    def push(self, slab: Slab) -> None:
        """Take the next planes of the stitched grid."""
        values = np.moveaxis(slab.values, -1, 0)
        for row in range(slab.box.shape[0]):
            plane = slab.box.start[0] + row
            if plane not in self._needed or not self._is_read(plane):
                self._emit(plane)
                continue
            covered = slab.covered[row]
            if covered.all():
                self._planes[plane] = self._within(values[:, row])
            else:
                filled = np.where(covered, values[:, row], self._blank[:, None, None])
                self._planes[plane] = self._within(filled)
            self._emit(plane)

    def finish(self) -> None:
        """Write what is left, and finish the labels."""
        self._blank_planes(self._whole[0])
        self._labels.finish()

    def _is_read(self, plane: int) -> bool:
        """Return whether a wanted plane of the scan lies beside a plane of the grid."""
        first = int(np.searchsorted(self._high, plane, side="left"))
        last = int(np.searchsorted(self._low, plane, side="right"))
        return any(self._wanted(self._box.start[0] + o) for o in range(first, last))

    def _within(self, planes: Planes) -> Planes:
        """Return planes `(channel, y, x)` resampled, with their axes swapped: (channel, x, y).

        Where nothing is to be resampled, they are copied as they are.
        """
        if not self._swapped:
            return np.array(planes)
        shape = (self._channels, self._box.shape[2], self._box.shape[1])
        found = np.empty(shape, np.float32)
        for channel, plane in enumerate(planes):
            rows = plane if self._down is None else self._down @ np.ascontiguousarray(plane)
            turned = np.ascontiguousarray(rows.T)
            found[channel] = turned if self._across is None else self._across @ turned
        return found

    def _emit(self, plane: int) -> None:
        """Write the planes of the scan that need no later plane of the grid than this."""
        while self._next < len(self._high) and self._high[self._next] <= plane:
            number = self._box.start[0] + self._next
            if self._wanted(number):
                self._blank_planes(number)
                self._write(number, self._next)
            else:
                self._blank_planes(number + 1)
            self._next += 1
        least = self._low[self._next] if self._next < len(self._low) else self._source
        for old in [key for key in self._planes if key < least]:
            del self._planes[old]

    def _write(self, number: int, place: int) -> None:
        one, other = self._planes[int(self._low[place])], self._planes[int(self._high[place])]
        share = np.float32(self._share[place])
        between = np.empty(one.shape[1:], np.float32)
        kept = None if self._probabilities is None else np.empty_like(one)
        self._rule.begin(between.shape)
        for channel in range(self._channels):
            plane = one[channel]
            if share:
                np.subtract(other[channel], plane, out=between)
                between *= share
                between += plane
                plane = between
            self._rule.add(channel, plane)
            if kept is not None:
                kept[channel] = plane
        labels = self._rule.labels()
        self._put(number, labels.T if self._swapped else labels)
        if kept is not None and self._probabilities is not None:
            order = (2, 1, 0) if self._swapped else (1, 2, 0)
            self._probabilities(number, kept.transpose(order))

    def _put(self, number: int, labels: Codes) -> None:
        plane = np.zeros((1, *self._whole[1:]), np.uint8)
        (_, y, x), (_, y1, x1) = self._box.start, self._box.stop
        plane[0, y:y1, x:x1] = labels
        self._labels.write(Box((number, 0, 0), (number + 1, *self._whole[1:])), plane)
        self._written = number + 1

    def _blank_planes(self, stop: int) -> None:
        """Write empty planes up to one of the whole scan."""
        for number in range(self._written, stop):
            box = Box((number, 0, 0), (number + 1, *self._whole[1:]))
            self._labels.write(box, np.zeros(box.shape, np.uint8))
        self._written = max(self._written, stop)


def export_bytes(channels: int, grid: Sequence[int], box: Sequence[int]) -> int:
    """Return the most memory a `FusedExport` needs: three planes of each class, and some of one."""
    _, y, x = box
    return 4 * (3 * channels + 8) * y * x + 4 * channels * grid[1] * grid[2]


def _matrix(index: AxisMap, order: int) -> "csr_array | None":
    """Return the weights (target, source) of an axis, float32; `None` where nothing changes."""
    if index.is_identity:
        return None
    from scipy.sparse import csr_array

    low, high, share = bracket(index, 0, index.target, order=order)
    weights = np.stack([1 - share, share], axis=1).astype(np.float32)
    places: NDArray[Any] = np.stack([low, high], axis=1)
    ends = 2 * np.arange(index.target + 1)
    return csr_array(
        (weights.reshape(-1), places.reshape(-1), ends), shape=(index.target, index.source)
    )
