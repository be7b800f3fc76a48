"""Slabs of probabilities to what is kept of them: codes, labels. One pass, constant memory."""

from collections.abc import Iterator, Sequence
from typing import Protocol

import numpy as np

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Box
from wsiseg.stitch.slab import MAX_CLASSES, Codes, Slab, Values, row_blocks

__all__ = [
    "ArgmaxLabels",
    "ArraySink",
    "Probabilities",
    "Reducer",
    "Reducers",
    "Sink",
    "ThresholdLabels",
    "covered_blocks",
    "decode",
]

NODATA = 0
"""Code of a pixel no tile decided; also the label of background."""

STEPS = 254
"""Codes 1..255 are the probabilities 0..1 in this many steps."""

TOLERANCE = 1e-3
"""Rounding may leave a probability this far outside 0..1; a quarter of a step."""

_PROBABILITIES = np.concatenate([[0], np.arange(STEPS + 1) / STEPS]).astype(np.float32)


def decode(codes: Codes) -> Values:
    """Return probabilities of codes, float32 of the same shape; nodata becomes 0."""
    return _PROBABILITIES.take(codes)


class Sink(Protocol):
    """Where codes go: an array, or a store on disk."""

    def write(self, box: Box, codes: Codes) -> None:
        """Take the next rows, `box.shape` or `(*box.shape, channel)`."""
        ...

    def finish(self) -> object:
        """Complete the array."""
        ...


class Reducer(Protocol):
    """Consumes slabs in order; memory does not grow with the image."""

    def push(self, slab: Slab) -> None:
        """Take the next slab."""
        ...

    def finish(self) -> None:
        """No more slabs: complete the result."""
        ...


class Reducers:
    """Several reducers on one pass."""

    def __init__(self, reducers: Sequence[Reducer]) -> None:
        self._reducers = tuple(reducers)

    def push(self, slab: Slab) -> None:
        """Hand the slab to each reducer."""
        for reducer in self._reducers:
            reducer.push(slab)

    def finish(self) -> None:
        """Finish each reducer, in the order given."""
        for reducer in self._reducers:
            reducer.finish()


class Probabilities:
    """Keep probabilities as uint8 codes: 0 is nodata, 1 + round(254 p) a probability.

    Parameters
    ----------
    sink
        Gets uint8 `(*box.shape, channel)`.
    channels
        Which channels are kept; default: all.
    """

    def __init__(self, sink: Sink, *, channels: Sequence[int] | None = None) -> None:
        self._sink = sink
        self._channels = None if channels is None else list(channels)

    def push(self, slab: Slab) -> None:
        """Encode one slab.

        Raises
        ------
        HeatmapError
            If a covered value is not between 0 and 1 (or not a number).
        """
        planes = np.moveaxis(slab.values, -1, 0)
        if self._channels is not None:
            planes = planes[self._channels]
        codes = np.zeros(planes.shape, dtype=np.uint8)
        for rows in covered_blocks(slab):
            block = planes[:, rows]
            # Written so that NaN fails: every comparison with it is false.
            if not (block.min() >= -TOLERANCE and block.max() <= 1 + TOLERANCE):
                raise HeatmapError(
                    f"needed probabilities between 0 and 1, found {block.min()} to {block.max()} "
                    f"near row {slab.box.start[0] + rows.start}; apply the card's activation first"
                )
            steps = block * np.float32(STEPS)
            np.rint(steps, out=steps)
            steps += 1
            codes[:, rows] = steps
            codes[:, rows] *= slab.covered[rows]
        self._sink.write(slab.box, np.moveaxis(codes, 0, -1))

    def finish(self) -> None:
        """Finish the sink."""
        self._sink.finish()


class ArgmaxLabels:
    """Keep the most probable class: label k is channel k, 0 background or nodata.

    Ties go to the lower class. The sink gets uint8 `box.shape`.
    """

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def push(self, slab: Slab) -> None:
        """Label one slab.

        Raises
        ------
        HeatmapError
            If a value is not a number, or there are more than 256 channels.
        """
        planes = np.moveaxis(slab.values, -1, 0)
        if len(planes) > MAX_CLASSES:
            raise HeatmapError(
                f"labels are uint8: at most {MAX_CLASSES} classes, found {len(planes)}"
            )
        labels = np.zeros(slab.box.shape, dtype=np.uint8)
        for rows in covered_blocks(slab):
            best = planes[0, rows].copy()
            for label in range(1, len(planes)):
                better = planes[label, rows] > best
                np.maximum(labels[rows], better * np.uint8(label), out=labels[rows])
                np.maximum(best, planes[label, rows], out=best)
            _refuse_nan(best, slab, rows)
            labels[rows] *= slab.covered[rows]
        self._sink.write(slab.box, labels)

    def finish(self) -> None:
        """Finish the sink."""
        self._sink.finish()


class ThresholdLabels:
    """Keep foreground (1) where one channel's probability is at least `threshold`, else 0.

    Parameters
    ----------
    sink
        Gets uint8 `box.shape`.
    threshold
        Between 0 and 1.
    channel
        The foreground; default: the last channel.
    """

    def __init__(self, sink: Sink, threshold: float, *, channel: int = -1) -> None:
        self._sink = sink
        self._threshold = np.float32(threshold)
        self._channel = channel

    def push(self, slab: Slab) -> None:
        """Label one slab.

        Raises
        ------
        HeatmapError
            If a value is not a number.
        """
        plane = slab.values[..., self._channel]
        labels = np.zeros(slab.box.shape, dtype=np.uint8)
        for rows in covered_blocks(slab):
            _refuse_nan(plane[rows], slab, rows)
            labels[rows] = (plane[rows] >= self._threshold) & slab.covered[rows]
        self._sink.write(slab.box, labels)

    def finish(self) -> None:
        """Finish the sink."""
        self._sink.finish()


class ArraySink:
    """Collects codes in memory, for arrays known to be small.

    Parameters
    ----------
    shape
        Of the whole array, with the channels last where there are any.
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self.array: Codes = np.zeros(shape, dtype=np.uint8)

    def write(self, box: Box, codes: Codes) -> None:
        """Put the codes where they belong."""
        self.array[box.slices()] = codes

    def finish(self) -> Codes:
        """Return the whole array."""
        return self.array


def covered_blocks(slab: Slab) -> Iterator[slice]:
    """Yield ranges of axis 0 that hold covered pixels."""
    for rows in row_blocks(slab.box.shape, slab.values.shape[-1]):
        if slab.covered[rows].any():
            yield rows


def _refuse_nan(values: Values, slab: Slab, rows: slice) -> None:
    if np.isnan(values.max()):
        raise HeatmapError(
            f"needed numbers, found NaN near row {slab.box.start[0] + rows.start}: the network "
            "overflowed; try another device or precision"
        )
