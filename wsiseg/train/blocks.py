"""Blocks of a slide: one is left out in training, and only there is the network's heatmap used."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsiseg.annotations.class_map import ClassMap
from wsiseg.engine.graph import StageSetup
from wsiseg.geometry import Box
from wsiseg.stitch import HeatmapStore

__all__ = ["Blocks", "BlockwiseHeatmap", "outside_block"]


@dataclass(frozen=True, slots=True)
class Blocks:
    """Equal blocks along the longer side of a slide.

    Parameters
    ----------
    shape
        Level-0 pixels (y, x) of the slide.
    count
        How many blocks.
    """

    shape: tuple[int, ...]
    count: int

    @property
    def axis(self) -> int:
        """The axis that is cut."""
        return int(self.shape[1] > self.shape[0])

    def span(self, block: int) -> tuple[float, float]:
        """Return where a block begins and ends, in level-0 pixels along the axis."""
        size = self.shape[self.axis]
        return size * block / self.count, size * (block + 1) / self.count

    def of(self, places: NDArray[np.floating[Any]]) -> NDArray[np.int64]:
        """Return the block of, or nearest to, each place: level-0 pixels along the axis."""
        blocks = np.floor(places * self.count / self.shape[self.axis]).astype(np.int64)
        return np.clip(blocks, 0, self.count - 1)


def outside_block(
    setup: StageSetup, cells: ClassMap, *, block: int, count: int, margin: float
) -> NDArray[np.bool_]:
    """Return which cells of a map of places lie outside a block and a guard band of one patch.

    A patch centred outside ends half a patch from the block at least, where patches of the block
    itself end: the network sees nothing of what it is asked about.

    Parameters
    ----------
    setup
        The stage, whose patches these are.
    cells
        The map.
    block, count
        Which of how many blocks.
    margin
        Patches are read this much larger.
    """
    blocks = Blocks(cells.level0_shape, count)
    axis = blocks.axis
    reference = setup.reference
    guard = margin * reference.spec.patch[axis] * reference.downsample[axis]
    start, stop = blocks.span(block)
    edges = np.arange(cells.values.shape[axis] + 1) * cells.downsample[axis]
    free = (edges[1:] <= start - guard) | (edges[:-1] >= stop + guard)
    return np.broadcast_to(free if axis else free[:, None], cells.values.shape)


class BlockwiseHeatmap:
    """Heatmaps of one slide, each of which is read in its own block only.

    Parameters
    ----------
    parts
        One per block, all of one shape.
    slide_shape
        Level-0 pixels (y, x) of the slide.
    """

    def __init__(self, parts: Sequence[HeatmapStore], slide_shape: tuple[int, ...]) -> None:
        first = parts[0]
        self._parts = tuple(parts)
        self._blocks = Blocks(slide_shape, len(parts))
        self.shape, self.channels = first.shape, first.channels
        self.downsample, self.placement = first.downsample, first.placement

    def read(self, box: Box) -> NDArray[np.float32]:
        """Return float32 `(*box.shape, channel)`; 0 outside. Cells belong where their centre is."""
        axis = self._blocks.axis
        lines = np.arange(box.start[axis], box.stop[axis]) + 0.5
        owners = self._blocks.of(lines * self.downsample[axis] + self.placement.origin[axis])
        values = np.zeros((*box.shape, len(self.channels)), np.float32)
        for block in np.unique(owners).tolist():
            here = owners == block
            where = (slice(None), here) if axis else (here,)
            values[where] = self._parts[block].read(box)[where]
        return values
