"""Where in a scan something is: the box that networks look at."""

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.model.scan_card import CropSpec
from wsiseg.volume.scan import Scan

__all__ = ["crop_box", "nonzero_mask"]

BODY_MM = 4.0
"""The body is looked for in blocks of about this size: its box is taken to whole blocks."""


def crop_box(scan: Scan, spec: CropSpec | None) -> Box:
    """Return the box that the card's crop leaves; the whole scan where nothing is found.

    Reads the scan once, slab by slab.
    """
    if spec is None:
        return scan.box
    whole = scan.within(Box.of_shape(scan.whole))
    if spec.to == "body":
        found = _body(whole, spec.threshold)
    else:
        found = _box_where(whole, _foreground(whole, spec))
    if found is None:
        return whole.box
    margin = [math.ceil(spec.margin_mm / mm) for mm in scan.affine.spacing_mm]
    return found.grow(margin).clip(scan.whole)


def nonzero_mask(scan: Scan) -> NDArray[np.bool_]:
    """Return where any channel is not 0, and the holes in that; bool of the part looked at.

    Held in memory, a byte per voxel and what filling takes.
    """
    from scipy.ndimage import binary_fill_holes

    mask = np.zeros(scan.shape, np.bool_)
    for box in scan.slabs():
        mask[box.slices()] = (scan.read(box) != 0).any(axis=-1)
    filled: NDArray[np.bool_] = binary_fill_holes(mask)
    return filled


def _foreground(scan: Scan, spec: CropSpec) -> Callable[[NDArray[np.float32]], NDArray[np.bool_]]:
    """Return what tells of values whether they are looked at."""
    if spec.to == "nonzero":
        return lambda values: values != 0
    if spec.threshold_share is None:
        return lambda values: values > spec.threshold
    ranges = [(values.min(), values.max()) for values in map(scan.read, scan.slabs())]
    low, high = min(low for low, _ in ranges), max(high for _, high in ranges)
    limit = int((high - low) * spec.threshold_share)  # whole, and of the range, as Raidionics
    return lambda values: values >= limit


def _box_where(
    scan: Scan, foreground: Callable[[NDArray[np.float32]], NDArray[np.bool_]]
) -> Box | None:
    """Return the box of the voxels of which any channel is foreground."""
    low, high = list(scan.shape), [0, 0, 0]
    for box in scan.slabs():
        some: NDArray[np.bool_] = np.any(foreground(scan.read(box)), axis=-1)
        for axis in range(3):
            places = np.flatnonzero(some.any(axis=tuple(a for a in range(3) if a != axis)))
            if len(places):
                low[axis] = min(low[axis], int(places[0]) + box.start[axis])
                high[axis] = max(high[axis], int(places[-1]) + 1 + box.start[axis])
    return Box(tuple(low), tuple(high)) if all(high) else None


def _body(scan: Scan, threshold: float) -> Box | None:
    """Return the box of the largest piece of blocks in which a voxel is above the threshold."""
    blocks = [max(1, round(BODY_MM / mm)) for mm in scan.affine.spacing_mm]
    mask = body_blocks(scan, threshold, blocks)
    if mask is None:
        return None
    places = [np.flatnonzero(mask.any(axis=tuple(a for a in range(3) if a != x))) for x in range(3)]
    start = tuple(int(p[0]) * b for p, b in zip(places, blocks, strict=True))
    stop = tuple((int(p[-1]) + 1) * b for p, b in zip(places, blocks, strict=True))
    return Box(start, stop).clip(scan.shape)


def body_blocks(scan: Scan, threshold: float, blocks: Sequence[int]) -> NDArray[np.bool_] | None:
    """Return the blocks of the largest piece above a threshold, bool; `None` where there is none.

    A block counts where any of its voxels does, so that nothing of the body is left out.
    """
    from scipy.ndimage import label

    counts = [-(-n // b) for n, b in zip(scan.shape, blocks, strict=True)]
    above = np.zeros(counts, np.bool_)
    depth = blocks[0] * max(1, (1 << 22) // max(1, blocks[0] * scan.shape[1] * scan.shape[2]))
    for start in range(0, scan.shape[0], depth):
        stop = min(start + depth, scan.shape[0])
        part = scan.read(Box((start, 0, 0), (stop, *scan.shape[1:])))[..., 0] > threshold
        for axis in range(3):
            part = np.logical_or.reduceat(part, range(0, part.shape[axis], blocks[axis]), axis=axis)
        above[start // blocks[0] : start // blocks[0] + len(part)] = part
    pieces, count = label(above, np.ones((3, 3, 3)))
    if not count:
        return None
    sizes = np.bincount(pieces.reshape(-1))
    sizes[0] = 0
    largest: NDArray[np.bool_] = pieces == sizes.argmax()
    return largest
