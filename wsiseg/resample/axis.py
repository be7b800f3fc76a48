"""Splines along one axis of an array: from one regular row of samples to another.

Every resampling of a volume is one of these after the other. Where samples lie is told by two
numbers, so that conventions differ in numbers only and never in code.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["AxisMap", "along_axis", "bracket"]

Order = int


@dataclass(frozen=True, slots=True)
class AxisMap:
    """Where the target samples of an axis lie among the source samples.

    Target sample `i` covers source samples `[origin + i * step, origin + (i + 1) * step)`, so its
    centre has the index `origin + (i + 0.5) * step - 0.5`. Beyond the ends the last sample holds.
    """

    source: int
    """Samples there are."""

    target: int
    """Samples wanted."""

    step: float
    origin: float = 0.0

    first: int = 0
    """Number of the first target sample, where this is a part of a longer row."""

    before: int = 0
    """Source samples of the longer row before the first one here."""

    @classmethod
    def extent(cls, source: int, target: int) -> "AxisMap":
        """Return the map that keeps the outer faces where they are (nnU-Net, skimage, OpenCV)."""
        return cls(source, target, source / target)

    @classmethod
    def centres(cls, source: int, target: int, step: float) -> "AxisMap":
        """Return the map that keeps the centre of the first sample (MONAI's `Spacing`)."""
        return cls(source, target, step, (1 - step) / 2)

    @property
    def is_identity(self) -> bool:
        """Whether each target sample is the source sample of its number."""
        mine = (self.source, self.step, self.origin, self.first)
        return mine == (self.target, 1.0, 0.0, self.before)

    def part(self, source: tuple[int, int], target: tuple[int, int]) -> "AxisMap":
        """Return the map between parts of a whole row; positions are those of the whole.

        Source samples that targets lie between must be in the part, bit for bit the same result.
        """
        sizes = source[1] - source[0], target[1] - target[0]
        return AxisMap(*sizes, self.step, self.origin, target[0], source[0])

    @property
    def inverse(self) -> "AxisMap":
        """The map from the target's samples back to the source's, of a whole row."""
        return AxisMap(self.target, self.source, 1 / self.step, -self.origin / self.step)

    def centre(self, index: NDArray[np.floating | np.integer]) -> NDArray[np.float64]:
        """Return the source indices, not rounded, of the centres of target samples."""
        whole = self.origin + (index + self.first + 0.5) * self.step - 0.5
        return np.asarray(whole - self.before, np.float64)


def bracket(
    index: AxisMap, start: int, stop: int, *, order: Order
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
    """Return between which source samples targets `[start, stop)` lie, and the second's share.

    Parameters
    ----------
    index
        The axis.
    start, stop
        Target samples.
    order
        0: the nearest sample, both times (halves go up); 1: the neighbours, or where a target lies
        on a sample that one, both times.

    Returns
    -------
    low, high, share
        int64, int64 and float64 (target,).
    """
    centres = np.clip(index.centre(np.arange(start, stop)), 0, index.source - 1)
    if order == 0:
        low = np.minimum(np.floor(centres + 0.5), index.source - 1).astype(np.int64)
        return low, low, np.zeros(len(low))
    low = np.floor(centres).astype(np.int64)
    share = centres - low
    return low, np.minimum(low + (share > 0), index.source - 1), share


def along_axis(values: NDArray[Any], axis: int, index: AxisMap, *, order: Order) -> NDArray[Any]:
    """Return `values` resampled along one axis, in their own floating type.

    Parameters
    ----------
    values
        float32 or float64, `index.source` samples along `axis`.
    axis
        Which.
    index
        Where the target samples lie.
    order
        0 nearest, 1 linear, 3 cubic spline. A spline rings near edges: clip it where that matters.

    Notes
    -----
    Order 3 is the interpolating B-spline (Unser et al. 1993), with the samples continued by the
    last one before they are filtered, as SciPy does in mode `nearest`.
    """
    if index.is_identity:
        return values
    if order == 3:
        return np.moveaxis(_cubic(np.moveaxis(values, axis, 0), index), 0, axis)
    weights = _matrix(index, order, values.dtype)
    moved = np.moveaxis(values, axis, 0)
    flat = np.ascontiguousarray(moved).reshape(index.source, -1)
    found = (weights @ flat).reshape(index.target, *moved.shape[1:])
    return np.moveaxis(found, 0, axis)


def _matrix(index: AxisMap, order: Order, dtype: np.dtype[Any]) -> "csr_array":
    from scipy.sparse import csr_array

    low, high, share = bracket(index, 0, index.target, order=order)
    rows = np.arange(index.target)
    places = np.stack([low, high], axis=1).reshape(-1)
    weights = np.stack([1 - share, share], axis=1)
    return csr_array(
        (weights.reshape(-1).astype(dtype), places, 2 * np.append(rows, index.target)),
        shape=(index.target, index.source),
    )


PADDING = 12
"""Samples that SciPy continues an axis by before it filters it."""


def _cubic(values: NDArray[Any], index: AxisMap) -> NDArray[Any]:
    """Resample along the first axis."""
    from scipy.ndimage import spline_filter1d

    padding = [(PADDING, PADDING), *((0, 0) for _ in values.shape[1:])]
    padded = np.pad(values.astype(np.float64, copy=False), padding, mode="edge")
    coefficients = spline_filter1d(padded, 3, axis=0, mode="nearest")
    centres = index.centre(np.arange(index.target)) + PADDING
    centres = np.clip(centres, 1, len(padded) - 3)
    low = np.floor(centres).astype(np.int64)
    t = (centres - low).reshape(-1, *(1 for _ in values.shape[1:]))
    u = 1 - t
    shares = (u**3, 3 * t**3 - 6 * t**2 + 4, 3 * u**3 - 6 * u**2 + 4, t**3)
    found = sum(
        share * coefficients[low + step] for step, share in zip((-1, 0, 1, 2), shares, strict=True)
    )
    return np.asarray(found / 6, values.dtype)
