"""Area resampling to a coarser grid: each target pixel is the mean of what it covers.

Target pixel `j` covers source pixels `[j * ratio, (j + 1) * ratio)`, counted from the origin of the
whole image, so a pixel gets the same value whichever tile asks for it.
"""

import math
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box

if TYPE_CHECKING:
    from scipy.sparse import csr_array

__all__ = ["area", "area_span", "target_shape"]

SNAP = 1e-6
"""Edges this close to a pixel edge (in source pixels) are on it: floats are not exact."""

ROWS = 32
"""Target rows averaged at once where ratios are fractional: their floats stay in the cache of a
core (0.5 MB for a patch of 256 px). Counted from the image's origin, so tiles share weights."""

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
    if not target.size:
        return np.empty((*target.shape, source.shape[2]), np.uint8)
    whole = round(ratio[0]), round(ratio[1])
    if abs(ratio[0] - whole[0]) > SNAP or abs(ratio[1] - whole[1]) > SNAP:
        return _fractional(source, source_box, target, ratio, shape)
    return _whole(source, source_box, target, whole, shape)


def _whole(
    source: Pixels, source_box: Box, target: Box, ratio: tuple[int, int], shape: Sequence[int]
) -> Pixels:
    (y0, x0), (top, left) = source_box.start, target.start
    out = np.empty((*target.shape, source.shape[2]), np.uint8)
    for rows, high in _blocks(top, target.stop[0], ratio[0], shape[0]):
        for columns, wide in _blocks(left, target.stop[1], ratio[1], shape[1]):
            y, x = rows.start * ratio[0] - y0, columns.start * ratio[1] - x0
            covered = source[y : y + len(rows) * high, x : x + len(columns) * wide]
            means = _block_means(covered, (len(rows), len(columns)))
            if means.shape == out.shape:
                return means
            out[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left] = (
                means
            )
    return out


def _blocks(start: int, stop: int, ratio: int, size: int) -> list[tuple[range, int]]:
    """Return target pixels along an axis, and the source pixels each covers.

    They are `ratio`, but in a last pixel that overhangs the image, which has fewer.
    """
    full = max(start, min(stop, size // ratio))
    parts = (range(start, full), ratio), (range(full, stop), size % ratio)
    return [(targets, covered) for targets, covered in parts if targets]


def _block_means(source: Pixels, shape: tuple[int, int]) -> Pixels:
    """Return `source` reduced to `shape`, whose multiple it is along both axes."""
    import cv2

    if source.shape[:2] == shape:
        return source.copy()  # what is given may lie in memory that is used again
    means = cv2.resize(source, shape[::-1], interpolation=cv2.INTER_AREA)
    return means.reshape(*shape, -1).astype(np.uint8, copy=False)


def _fractional(
    source: Pixels, source_box: Box, target: Box, ratio: Sequence[float], shape: Sequence[int]
) -> Pixels:
    """Average over rows, then over columns, a few target rows at a time.

    Both are products with a sparse matrix, fast where each of its sums runs over contiguous
    pixels: rows do, and columns once they are transposed. A pixel is the same sum, in the same
    order, whichever box it is asked for in.
    """
    import cv2

    channels = source.shape[2]
    left, right, across = _weights(target.start[1], target.stop[1], ratio[1], shape[1])
    columns = slice(left - source_box.start[1], right - source_box.start[1])
    out = np.empty((*target.shape, channels), np.uint8)
    for first in range(target.start[0] // ROWS * ROWS, target.stop[0], ROWS):
        start, stop = max(first, target.start[0]), min(first + ROWS, target.stop[0])
        top, bottom, down = _weights(start, stop, ratio[0], shape[0])
        part = source[top - source_box.start[0] : bottom - source_box.start[0], columns]
        rows = down @ part.astype(np.float32).reshape(bottom - top, -1)
        turned = cv2.transpose(rows.reshape(stop - start, right - left, channels))
        means = across @ turned.reshape(right - left, -1)
        means += np.float32(0.5)  # cut off below, as all are positive: rounds halves up
        turned = cv2.transpose(means.astype(np.uint8).reshape(-1, stop - start, channels))
        out[start - target.start[0] : stop - target.start[0]] = turned.reshape(
            stop - start, -1, channels
        )
    return out


@lru_cache(maxsize=1024)
def _weights(start: int, stop: int, ratio: float, size: int) -> "tuple[int, int, csr_array]":
    """Return the source pixels that targets touch along an axis, and the share each one has.

    Parameters
    ----------
    start, stop
        The target pixels.
    ratio, size
        Source pixels per target pixel, and in the image.

    Returns
    -------
    first, last, weights
        Source pixels `[first, last)`, and the sparse matrix (target, source pixel - first).
        Remembered, as the tiles of a row or column share them; some 30 bytes per target pixel.
    """
    from scipy.sparse import csr_array

    edges = np.clip(_snap(np.arange(start, stop + 1, dtype=np.float64) * ratio), 0, size)
    low, high = edges[:-1], edges[1:]
    taps = math.ceil(ratio) + 1
    columns = np.floor(low).astype(np.int32)[:, None] + np.arange(taps, dtype=np.int32)
    overlap = np.minimum(columns + 1, high[:, None]) - np.maximum(columns, low[:, None])
    share = np.maximum(overlap, 0) / np.maximum(high - low, SNAP)[:, None]
    used = share > 0
    first, last = math.floor(edges[0]), math.ceil(edges[-1])
    row_ends = np.concatenate(([0], np.cumsum(used.sum(axis=1))))
    weights = csr_array(
        (share[used].astype(np.float32), columns[used] - first, row_ends.astype(np.int32)),
        shape=(stop - start, last - first),
    )
    return first, last, weights


def _snap(edges: NDArray[np.floating]) -> NDArray[np.floating]:
    nearest = np.rint(edges)
    return np.where(np.abs(edges - nearest) < SNAP, nearest, edges)
