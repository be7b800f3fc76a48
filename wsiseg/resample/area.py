"""Area resampling to a coarser grid: each target pixel is the mean of what it covers.

Target pixel `j` covers source pixels `[j * ratio, (j + 1) * ratio)`, counted from the origin of the
whole image, so a pixel gets the same value whichever tile asks for it.
"""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["area", "area_span", "target_shape"]

SNAP = 1e-6
"""Edges this close to a pixel edge (in source pixels) are on it: floats are not exact."""

Pixels = NDArray[np.uint8]


def target_shape(shape: Sequence[int], ratio: Sequence[float]) -> tuple[int, ...]:
    """Return the pixels per axis that cover an image of `shape`, `ratio` source pixels each."""
    return tuple(max(1, math.ceil(n / r - SNAP)) for n, r in zip(shape, ratio, strict=True))


def area_span(target: Box, ratio: Sequence[float]) -> Box:
    """Return the source pixels that the target pixels of `target` touch."""
    start = (math.floor(a * r + SNAP) for a, r in zip(target.start, ratio, strict=True))
    stop = (math.ceil(b * r - SNAP) for b, r in zip(target.stop, ratio, strict=True))
    pairs = [(a, max(a, b)) for a, b in zip(start, stop, strict=True)]
    return Box(tuple(a for a, _ in pairs), tuple(b for _, b in pairs))


def area(
    source: Pixels, source_box: Box, target: Box, ratio: Sequence[float], shape: Sequence[int]
) -> Pixels:
    """Return the pixels of `target`, each the mean of the source pixels it covers.

    Parameters
    ----------
    source
        uint8 (y, x, channel), the pixels of `source_box`, which holds `area_span(target, ratio)`.
    source_box
        Where `source` lies, in source pixels.
    target
        Wanted pixels, inside the image (see `target_shape`).
    ratio
        Source pixels per target pixel, per axis, >= 1.
    shape
        Pixels of the whole source image; a last target pixel that overhangs it is the mean of the
        part inside.

    Returns
    -------
    uint8 (*target.shape, channel)
        Whole-number ratios give the bytes of OpenCV's `INTER_AREA`, other ratios are computed with
        fractional weights in float32.
    """
    whole = [round(r) for r in ratio]
    if any(abs(r - w) > SNAP for r, w in zip(ratio, whole, strict=True)):
        return _fractional(source, source_box, target, ratio, shape)
    inside = target.intersect(Box.of_shape([n // w for n, w in zip(shape, whole, strict=True)]))
    if inside == target:
        return _whole(source, source_box, target, whole)
    out = np.empty((*target.shape, source.shape[2]), np.uint8)
    (top, left), (bottom, right) = target.start, target.stop
    row, column = inside.stop
    if inside.size:
        out[inside.relative_to(target).slices()] = _whole(source, source_box, inside, whole)
    for edge in (Box((row, left), (bottom, right)), Box((top, column), (row, right))):
        if edge.size:
            pixels = _fractional(source, source_box, edge, ratio, shape)
            out[edge.relative_to(target).slices()] = pixels
    return out


def _whole(source: Pixels, source_box: Box, target: Box, ratio: Sequence[int]) -> Pixels:
    import cv2

    span = Box(
        tuple(a * r for a, r in zip(target.start, ratio, strict=True)),
        tuple(b * r for b, r in zip(target.stop, ratio, strict=True)),
    )
    crop = source[span.relative_to(source_box).slices()]
    if all(r == 1 for r in ratio):
        return crop
    resized = cv2.resize(crop, target.shape[::-1], interpolation=cv2.INTER_AREA)
    return resized.reshape((*target.shape, source.shape[2])).astype(np.uint8, copy=False)


def _fractional(
    source: Pixels, source_box: Box, target: Box, ratio: Sequence[float], shape: Sequence[int]
) -> Pixels:
    values = source.astype(np.float32)
    for axis in range(2):
        weights = _weights(
            (target.start[axis], target.stop[axis]),
            (source_box.start[axis], source_box.stop[axis]),
            ratio[axis],
            shape[axis],
        )
        moved = np.ascontiguousarray(np.moveaxis(values, axis, 0))
        reduced = weights @ moved.reshape(moved.shape[0], -1)
        values = np.moveaxis(reduced.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.asarray(np.floor(values + np.float32(0.5)).clip(0, 255), dtype=np.uint8)


def _weights(
    target: tuple[int, int], source: tuple[int, int], ratio: float, size: int
) -> "csr_array":
    """Return the sparse (target, source) matrix of the share each source pixel has in a target."""
    from scipy.sparse import csr_array

    index = np.arange(*target, dtype=np.float64)
    low, high = (np.clip(_snap(edge * ratio), 0, size) for edge in (index, index + 1))
    first = np.floor(low).astype(np.int64)
    taps = math.ceil(ratio) + 1
    columns = first[:, None] + np.arange(taps)
    overlap = np.minimum(columns + 1, high[:, None]) - np.maximum(columns, low[:, None])
    share = np.maximum(overlap, 0) / np.maximum(high - low, SNAP)[:, None]
    used = share > 0
    rows = np.broadcast_to(np.arange(len(index))[:, None], columns.shape)
    return csr_array(
        (share[used].astype(np.float32), (rows[used], columns[used] - source[0])),
        shape=(len(index), source[1] - source[0]),
    )


def _snap(edges: NDArray[np.float64]) -> NDArray[np.float64]:
    nearest = np.rint(edges)
    return np.where(np.abs(edges - nearest) < SNAP, nearest, edges)
