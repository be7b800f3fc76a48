"""Linear interpolation between pixel centres, for heatmaps read on another grid."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

__all__ = ["linear", "linear_span"]


def linear_span(
    target: Box, ratio: Sequence[float], *, offset: Sequence[float] | None = None
) -> Box:
    """Return the source pixels that linear interpolation of `target` needs."""
    parts = zip(target.start, target.stop, ratio, offset or (0.0,) * len(ratio), strict=True)
    centres = [_centres(*part) for part in parts]
    start = tuple(int(np.floor(c[0])) if len(c) else 0 for c in centres)
    stop = tuple(int(np.floor(c[-1])) + 2 if len(c) else 0 for c in centres)
    return Box(start, stop)


def linear(
    source: NDArray[np.float32],
    source_box: Box,
    target: Box,
    ratio: Sequence[float],
    *,
    offset: Sequence[float] | None = None,
) -> NDArray[np.float32]:
    """Return the values at the centres of the pixels of `target`.

    Parameters
    ----------
    source
        float32 (*source_box.shape, channel), any number of axes.
    source_box
        Where `source` lies, in source pixels; holds `linear_span(target, ratio)`.
    target
        Wanted pixels.
    ratio
        Source pixels per target pixel, per axis; below 1 where the source is coarser.
    offset
        Source pixels from the target's origin to the source's, per axis; default: none.

    Returns
    -------
    float32 (*target.shape, channel)
    """
    values = source
    for axis, (factor, shift) in enumerate(zip(ratio, offset or (0.0,) * len(ratio), strict=True)):
        centres = _centres(target.start[axis], target.stop[axis], factor, shift)
        low = np.floor(centres)
        share = (centres - low).astype(np.float32).reshape([-1] + [1] * (values.ndim - axis - 1))
        index = low.astype(np.int64) - source_box.start[axis]
        below, above = (np.take(values, index + step, axis=axis) for step in (0, 1))
        values = below + (above - below) * share
    return values


def _centres(start: int, stop: int, ratio: float, offset: float) -> NDArray[np.float64]:
    """Return pixel centres as source indices: pixel i of the source has its centre at i + 0.5."""
    return (np.arange(start, stop, dtype=np.float64) + 0.5) * ratio - 0.5 - offset
