"""From the values of a plane to its labels, class by class or of all classes at once."""

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from wsiseg.errors import HeatmapError
from wsiseg.stitch import Codes

__all__ = ["ArgmaxRule", "LabelRule", "RegionRule", "ThresholdRule"]

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

    def of_stack(self, stack: Any) -> Any:  # noqa: ANN401 - an array or a tensor of any library
        """Return the same labels of all channels at once, `(channel, ...)`, in any integer type."""
        ...


class ArgmaxRule:
    """The channel of the largest value; of equal ones the first."""

    def begin(self, shape: tuple[int, ...]) -> None:
        """Begin a plane."""
        self._best = np.full(shape, -np.inf, np.float32)
        self._labels = np.zeros(shape, np.uint8)
        self._better = np.empty(shape, np.bool_)
        self._mine = np.empty(shape, np.uint8)

    def add(self, channel: int, plane: Planes) -> None:
        """Compare with those before."""
        np.greater(plane, self._best, out=self._better)
        # Later channels have larger numbers; a masked copy takes four times as long.
        np.multiply(self._better.view(np.uint8), np.uint8(channel), out=self._mine)
        np.maximum(self._labels, self._mine, out=self._labels)
        np.maximum(self._best, plane, out=self._best)

    def labels(self) -> Codes:
        """Return the labels.

        Raises
        ------
        HeatmapError
            If a value is not a number.
        """
        _refuse_nan(self._best.max())
        return self._labels

    def of_stack(self, stack: Any) -> Any:  # noqa: ANN401
        """Return the labels of all channels at once."""
        _refuse_nan(float(stack.max()))
        return stack.argmax(0)


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

    def of_stack(self, stack: Any) -> Any:  # noqa: ANN401
        """Return the labels of all channels at once."""
        values = stack[1] - stack[0] if self._difference else stack[1]
        return values >= float(self._limit)


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

    def of_stack(self, stack: Any) -> Any:  # noqa: ANN401
        """Return the labels of all channels at once."""
        found = 0
        for value, plane in zip(self._classes, stack, strict=True):
            above = plane > float(self._limit)
            found = above * value + ~above * found
        return found


def _refuse_nan(value: float) -> None:
    if np.isnan(value):
        raise HeatmapError(
            "needed numbers, found NaN: the network overflowed; try another device or precision"
        )
