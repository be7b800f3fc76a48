"""Where in a scan something is: the box that networks look at."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box
from wsiseg.model.scan_card import CropSpec
from wsiseg.volume.scan import Scan

__all__ = ["Body", "find_body", "nonzero_mask"]

BODY_MM = 4.0
"""The body is looked for in blocks of about this size: its box is taken to whole blocks."""


@dataclass(frozen=True, slots=True)
class Body:
    """Where in a scan networks look."""

    box: Box
    """Voxels of the whole scan."""

    blocks: NDArray[np.bool_] | None = None
    """Blocks of the whole scan that hold something of the body; `None`: not looked for."""

    block: tuple[int, ...] = (1, 1, 1)
    """Voxels of a block."""

    def touches(self, start: Sequence[float], stop: Sequence[float]) -> bool:
        """Return whether a box, in voxels of the whole scan and not rounded, holds a block of it.

        True where it was not looked for.
        """
        if self.blocks is None:
            return True
        part = tuple(
            slice(max(0, math.floor(a / n)), max(0, math.ceil(b / n)))
            for a, b, n in zip(start, stop, self.block, strict=True)
        )
        return bool(self.blocks[part].any())


def find_body(scan: Scan, spec: CropSpec | None) -> Body:
    """Return what the card's crop leaves; the whole scan where nothing is found.

    Reads the scan once, slab by slab.
    """
    whole = scan.within(Box.of_shape(scan.whole))
    if spec is None:
        return Body(whole.box)
    margin = [math.ceil(spec.margin_mm / mm) for mm in scan.affine.spacing_mm]
    if spec.to != "body":
        box = _box_where(whole, _foreground(whole, spec))
        return Body(whole.box if box is None else box.grow(margin).clip(scan.whole))
    block = tuple(max(1, round(BODY_MM / mm)) for mm in scan.affine.spacing_mm)
    blocks = body_blocks(whole, spec.threshold, block)
    if blocks is None:
        return Body(whole.box)
    box = _box_of(blocks, block).grow(margin).clip(scan.whole)
    if not spec.skip_windows:
        return Body(box)
    from scipy.ndimage import binary_dilation

    # One block more: voxels at the skin lie between those of a window and of its neighbour.
    return Body(box, binary_dilation(blocks, np.ones((3, 3, 3), np.bool_)), block)


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


def _box_of(blocks: NDArray[np.bool_], block: Sequence[int]) -> Box:
    """Return the voxels that hold all blocks; the last may overhang the scan."""
    others = [tuple(a for a in range(3) if a != axis) for axis in range(3)]
    places = [np.flatnonzero(blocks.any(axis=axes)) for axes in others]
    start = tuple(int(p[0]) * n for p, n in zip(places, block, strict=True))
    return Box(start, tuple((int(p[-1]) + 1) * n for p, n in zip(places, block, strict=True)))


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
