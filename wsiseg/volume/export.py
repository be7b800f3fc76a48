"""From a network's grid to the scan's own voxels, plane by plane: resampled and reduced at once.

Nothing is ever as large as classes times voxels: two planes of each class are kept, resampled
within the plane, and each plane of the scan between them is a mean of the two.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.resample import AxisMap, bracket
from wsiseg.stitch import Codes, Sink
from wsiseg.volume.probabilities import ProbabilityPlanes
from wsiseg.volume.rules import LabelRule

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = [
    "AnySlab",
    "FusedExport",
    "HostPlanes",
    "PlaneMath",
    "export_bytes",
]

Planes = NDArray[np.float32]


class PlaneMath(Protocol):
    """What is done to planes of all channels, in an array library; the planes are its own."""

    def within(self, values: Any, covered: Any) -> Any:  # noqa: ANN401
        """Return planes `(channel, y, x)` resampled; where not covered they are blank."""
        ...

    def reduced(
        self,
        one: Any,  # noqa: ANN401
        other: Any,  # noqa: ANN401
        share: float,
        rule: LabelRule,
        *,
        keep: bool,
    ) -> tuple[Codes, Planes | None]:
        """Return labels (y, x) between two planes, and where asked the values (y, x, channel).

        Parameters
        ----------
        one, other
            What `within` gave.
        share
            Of the other in the mean.
        rule
            Makes the labels.
        keep
            Whether the values are wanted, too.
        """
        ...


class HostPlanes:
    """`PlaneMath` of NumPy, which goes class by class, so that a plane stays in the cache.

    Parameters
    ----------
    maps, orders
        Of the two axes within a plane.
    blank
        Values of pixels that nothing covers.
    """

    def __init__(self, maps: Sequence[AxisMap], orders: Sequence[int], blank: Planes) -> None:
        self._down, self._across = (
            _matrix(one, order) for one, order in zip(maps, orders, strict=True)
        )
        self._swapped = self._down is not None or self._across is not None
        self._shape = (len(blank), maps[1].target, maps[0].target)
        self._blank = blank

    def within(self, values: Planes, covered: NDArray[np.bool_]) -> Planes:
        """Return planes resampled, with their axes swapped: (channel, x, y).

        Where nothing is to be resampled, they stay as they are.
        """
        if not covered.all():
            values = np.where(covered, values, self._blank[:, None, None])
        if not self._swapped:
            return values
        found = np.empty(self._shape, np.float32)
        for channel, plane in enumerate(values):
            rows = plane if self._down is None else self._down @ np.ascontiguousarray(plane)
            turned = np.ascontiguousarray(rows.T)
            found[channel] = turned if self._across is None else self._across @ turned
        return found

    def reduced(
        self, one: Planes, other: Planes, share: float, rule: LabelRule, *, keep: bool
    ) -> tuple[Codes, Planes | None]:
        """Return labels between two planes, and where asked the values."""
        between = np.empty(one.shape[1:], np.float32)
        kept = np.empty_like(one) if keep else None
        rule.begin(between.shape)
        for channel, below in enumerate(one):
            plane = below
            if share:
                plane = np.subtract(other[channel], below, out=between)
                plane *= np.float32(share)
                plane += below
            rule.add(channel, plane)
            if kept is not None:
                kept[channel] = plane
        labels = rule.labels()
        order = (2, 1, 0) if self._swapped else (1, 2, 0)
        values = None if kept is None else kept.transpose(order)
        return labels.T if self._swapped else labels, values


class AnySlab(Protocol):
    """A finished part of a volume, in any array library; see `wsiseg.stitch.Slab`."""

    @property
    def box(self) -> Box:
        """Where it lies."""
        ...

    def within(self, left: int, right: int) -> Self:
        """Return the part between two pixels of the last axis."""
        ...

    def plane(self, row: int) -> tuple[Any, Any]:
        """Return a plane across axis 0, `(channel, y, x)`, and what of it is covered."""
        ...


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
        The part of the scan that is written, and the shape of all of it; labels beyond are 0.
    rule
        Makes labels of planes.
    labels
        Gets uint8 planes `(1, y, x)` of the whole scan, in order.
    blank
        Values of voxels that no window decided, float (channel,).
    probabilities
        Also made of every plane, those of `blank` beyond the box; `None`: none are.
    wanted
        Tells whether a plane of the whole scan is to be made; the others are left out.
    planes
        Computes them, of the library of the slabs; default: NumPy.
    columns
        Voxels of the whole scan, along the last axis, that are written; the box lies within.
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
        probabilities: ProbabilityPlanes | None = None,
        wanted: Callable[[int], bool] = lambda _: True,
        planes: PlaneMath | None = None,
        columns: tuple[int, int] | None = None,
    ) -> None:
        self._low, self._high, self._share = bracket(maps[0], 0, maps[0].target, order=orders[0])
        self._blank = np.asarray(blank, np.float32)
        self._math = planes or HostPlanes(maps[1:], orders[1:], self._blank)
        self._channels = channels
        self._box, self._whole = box, tuple(whole)
        self._columns = columns or (0, self._whole[2])
        self._rule, self._labels, self._probabilities = rule, labels, probabilities
        self._wanted = wanted
        self._needed = set(self._low.tolist()) | set(self._high.tolist())
        self._planes: dict[int, Any] = {}
        self._next = 0  # plane of the box that is to be made next
        self._written = 0  # planes of the whole scan
        self._source = maps[0].source

    def push(self, slab: AnySlab) -> None:
        """Take the next planes of the stitched grid."""
        for row in range(slab.box.shape[0]):
            plane = slab.box.start[0] + row
            if plane in self._needed and self._is_read(plane):
                self._planes[plane] = self._math.within(*slab.plane(row))
            self._emit(plane)

    def finish(self) -> None:
        """Write what is left, and finish the labels."""
        self._blank_planes(self._whole[0])
        self._labels.finish()
        if self._probabilities is not None:
            self._probabilities.sink.finish()

    def _is_read(self, plane: int) -> bool:
        """Return whether a wanted plane of the scan lies beside a plane of the grid."""
        first = int(np.searchsorted(self._high, plane, side="left"))
        last = int(np.searchsorted(self._low, plane, side="right"))
        return any(self._wanted(self._box.start[0] + o) for o in range(first, last))

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
        share = float(np.float32(self._share[place]))
        keep = self._probabilities is not None
        labels, kept = self._math.reduced(one, other, share, self._rule, keep=keep)
        self._put(number, labels, kept)
        self._written = number + 1

    def _blank_planes(self, stop: int) -> None:
        """Write empty planes up to one of the whole scan."""
        for number in range(self._written, stop):
            self._put(number)
        self._written = max(self._written, stop)

    def _put(self, number: int, labels: Codes | None = None, values: Planes | None = None) -> None:
        """Write a plane of the whole scan, of what is known in the box and blank beyond it."""
        place = self._place(number)
        (_, y, x), (_, y1, x1) = self._box.start, self._box.stop
        left = self._columns[0]
        inside = (0, slice(y, y1), slice(x - left, x1 - left))
        plane = np.zeros(place.shape, np.uint8)
        if labels is not None:
            plane[inside] = labels
        self._labels.write(place, plane)
        if self._probabilities is None:
            return
        outside = self._probabilities.codes(self._blank)
        codes = np.tile(outside, (*place.shape, 1))
        if values is not None:
            codes[inside] = self._probabilities.codes(values)
        self._probabilities.sink.write(place, codes)

    def _place(self, number: int) -> Box:
        left, right = self._columns
        return Box((number, 0, left), (number + 1, self._whole[1], right))


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
