"""Layers of uncertainty: one number per pixel of a heatmap, beside its probabilities."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.stitch.reduce import STEPS, Reducer, Sink, covered_blocks
from wsiseg.stitch.slab import Codes, Slab, Values

__all__ = [
    "ClassPlanes",
    "LayerCodes",
    "LayerMean",
    "NeighbourSpread",
    "deviation",
    "entropy",
    "seen_by_neighbours",
]


def entropy(planes: Values, *, exclusive: bool) -> Values:
    """Return the normalised Shannon entropy of class probabilities, float32 in 0..1.

    Parameters
    ----------
    planes
        Probabilities, float32 `(class, ...)`.
    exclusive
        The classes exclude each other: entropy of their shares, over that of equal ones. Else the
        mean over the classes but the first, the background, of the entropy of each one's yes or
        no, in bits.

    References
    ----------
    Shannon 1948, A mathematical theory of communication, doi:10.1002/j.1538-7305.1948.tb01338.x.
    """
    planes = np.clip(planes, 0, 1)
    if not exclusive:
        bits = np.array([_surprise(p) + _surprise(1 - p) for p in planes[1:]])
        return np.asarray(bits.mean(axis=0) / np.log(2), np.float32)
    total = planes.sum(axis=0)
    known = total > 0
    found = np.zeros(total.shape, np.float32)
    for plane in planes:
        found += _surprise(np.divide(plane, total, out=np.zeros_like(plane), where=known))
    found /= np.float32(np.log(len(planes)))
    found[~known] = 1  # nothing speaks for any class
    return found


def _surprise(share: Values) -> Values:
    """Return -p ln p, 0 for p = 0."""
    logarithm = np.log(share, out=np.zeros_like(share), where=share > 0)
    return np.asarray(-share * logarithm, np.float32)


def deviation(planes: Values) -> Values:
    """Return the standard deviation of a variance, float32 `(1, ...)`, without that axis."""
    (variance,) = planes
    return np.asarray(np.sqrt(np.maximum(variance, 0)), np.float32)


class LayerMean:
    """The mean of a layer over the pixels that have a value, as these are written."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._sum = self._known = 0

    @property
    def mean(self) -> float | None:
        """Between 0 and 1; `None` where no pixel has a value."""
        return self._sum / (STEPS * self._known) if self._known else None

    def write(self, box: Box, codes: Codes) -> None:
        """Take the next rows, uint8 `(*box.shape, 1)`."""
        known = int(np.count_nonzero(codes))
        self._known += known
        self._sum += int(codes.sum(dtype=np.int64)) - known
        self._sink.write(box, codes)

    def finish(self) -> None:
        """Finish the sink."""
        self._sink.finish()


class ClassPlanes:
    """Hands the probabilities of the classes on to a reducer, without what comes after them.

    Parameters
    ----------
    reducer
        Gets slabs of the first channels.
    classes
        How many these are.
    """

    def __init__(self, reducer: Reducer, classes: int) -> None:
        self._reducer = reducer
        self._classes = classes

    def push(self, slab: Slab) -> None:
        """Hand a slab on."""
        self._reducer.push(Slab(slab.box, slab.values[..., : self._classes], slab.covered))

    def finish(self) -> None:
        """Finish the reducer."""
        self._reducer.finish()


class LayerCodes:
    """Keep a number from 0 to 1 per pixel as uint8 codes: 0 is no data, else 1 + round(254 x).

    Parameters
    ----------
    sink
        Gets uint8 `(*box.shape, 1)`.
    channels
        Which channels of a slab the layer is made of.
    measure
        From these, float32 `(channel, ...)`, to the layer, float32 `(...)`; NaN is no data.
    """

    def __init__(self, sink: Sink, channels: slice, measure: Callable[[Values], Values]) -> None:
        self._sink = sink
        self._channels = channels
        self._measure = measure

    def push(self, slab: Slab) -> None:
        """Encode one slab."""
        planes = np.moveaxis(slab.values, -1, 0)[self._channels]
        codes = np.zeros(slab.box.shape, np.uint8)
        for rows in covered_blocks(slab):
            codes[rows] = _encoded(self._measure(planes[:, rows]))
            codes[rows] *= slab.covered[rows]
        self._sink.write(slab.box, codes[..., np.newaxis])

    def finish(self) -> None:
        """Finish the sink."""
        self._sink.finish()


def _encoded(values: NDArray[np.float32] | NDArray[np.float64]) -> Codes:
    known = ~np.isnan(values)
    steps = np.rint(np.clip(np.where(known, values, 0), 0, 1) * STEPS)
    return np.asarray((steps + 1) * known, np.uint8)


def seen_by_neighbours(patch: Sequence[int], stride: Sequence[int]) -> list[NDArray[np.float64]]:
    """Return the share of a cell that the patches of the cells around it cover, per axis.

    A cell is as wide as the stride, and its patch lies centred on it. The middle value, 1, is the
    cell's own patch.
    """
    shares = []
    for p, s in zip(patch, stride, strict=True):
        reach = max(0, -(-(p + s) // (2 * s)) - 1)  # the furthest cell whose patch touches this one
        distance = np.abs(np.arange(-reach, reach + 1))
        shares.append(np.clip(p / 2 - (distance * s - s / 2), 0, s) / s)
    return shares


class NeighbourSpread:
    """How far the patches of a classifier that see a cell differ, from the heatmap it wrote.

    The patches of neighbouring cells overlap: each is a vote on every cell it covers, weighted with
    the share it covers. The layer is the weighted standard deviation of the votes, no data where
    there is only one.

    Parameters
    ----------
    seen
        See `seen_by_neighbours`.
    shares
        What the variance of each stored class counts, float (class,).
    rest_share
        The same of what the stored classes leave of 1, the background; 0: they do not exclude it.
    """

    def __init__(
        self, seen: Sequence[NDArray[np.float64]], shares: Sequence[float], *, rest_share: float
    ) -> None:
        self._seen = list(seen)
        self._shares = tuple(shares)
        self._rest_share = rest_share

    def rows(self, codes: Iterator[Codes]) -> Iterator[Codes]:
        """Yield the layer's codes, uint8 `(row, ..., 1)`, for rows of those of a heatmap.

        Parameters
        ----------
        codes
            uint8 `(class, row, ...)`, from the first row to the last.
        """
        reach = len(self._seen[0]) // 2
        kept: Codes | None = None
        for band in codes:
            blank = np.zeros((band.shape[0], reach, *band.shape[2:]), np.uint8)
            kept = np.concatenate([blank if kept is None else kept, band], axis=1)
            if kept.shape[1] > 2 * reach:
                yield self._inner(kept, reach)
                kept = kept[:, kept.shape[1] - 2 * reach :]
        if kept is not None:
            blank = np.zeros((kept.shape[0], reach, *kept.shape[2:]), np.uint8)
            kept = np.concatenate([kept, blank], axis=1)
            if kept.shape[1] > 2 * reach:
                yield self._inner(kept, reach)

    def _inner(self, codes: Codes, reach: int) -> Codes:
        inner = slice(reach, codes.shape[1] - reach)
        known = (codes[0] != 0).astype(np.float64)
        weight = self._around(known)[inner]
        votes = self._around(known, count=True)[inner]
        total = np.zeros(weight.shape)
        values = (codes.astype(np.float64) - 1) / STEPS * known
        planes = [*zip(values, self._shares, strict=True)]
        if self._rest_share:
            planes.append(((1 - values.sum(axis=0)) * known, self._rest_share))
        with np.errstate(invalid="ignore", divide="ignore"):
            for plane, share in planes:
                mean = self._around(plane)[inner] / weight
                square = self._around(plane * plane)[inner] / weight
                total += share * np.maximum(square - mean * mean, 0)
        missing = (known[inner] == 0) | (votes < 2)
        return _encoded(np.where(missing, np.nan, np.sqrt(total)))[..., np.newaxis]

    def _around(self, plane: NDArray[np.float64], *, count: bool = False) -> NDArray[np.float64]:
        """Return the weighted sum over the cells around each cell, nothing beyond the edge."""
        from scipy.ndimage import correlate1d

        for axis, weights in enumerate(self._seen):
            used = (weights > 0).astype(np.float64) if count else weights
            plane = correlate1d(plane, used, axis=axis, mode="constant")
        return plane
