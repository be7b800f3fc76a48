"""Where a stage has no result, because the pixels it would rest on cannot be read.

Nothing is predicted from made-up pixels: a cell of a classifier is nodata where its patch touches
such a pixel, a pixel of a segmenter where one lies within the halo. The halo is the context that
the card declares, so beyond it the result is what it would have been. What a later stage reads of
an earlier one's heatmap counts the same way.
"""

from collections.abc import Mapping
from itertools import product
from typing import TYPE_CHECKING, TypeVar, cast

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.graph import StageInput, StageSetup
from wsiseg.geometry import Box, ceil_div
from wsiseg.source import State
from wsiseg.stitch import Slab

if TYPE_CHECKING:
    from wsiseg.stitch.device import CodeSlab
    from wsiseg.stitch.device_volume import TensorSlab

__all__ = ["Gaps", "disjoint"]

STRIP_PIXELS = 1 << 22
"""Output pixels counted at once."""

AnySlab = TypeVar("AnySlab", Slab, "CodeSlab", "TensorSlab")
Boxes = NDArray[np.float64]
"""(n, 4): y0, x0, y1, x1 in level-0 pixels."""

SNAP = 1e-6
"""Edges this close to a pixel edge are on it: downsamples are floats."""


class Gaps:
    """What damage does to the output of one stage on its slide.

    Parameters
    ----------
    setup
        The stage.
    earlier
        The gaps of the stages whose heatmaps it reads, by output name.
    """

    def __init__(self, setup: StageSetup, earlier: Mapping[str, "Gaps"]) -> None:
        self._setup = setup
        self._earlier = dict(earlier)

    def blank(self, slab: AnySlab, *, turned: bool) -> AnySlab:
        """Return a finished slab, in its place on the walk, with the gaps as nodata.

        All that its pixels rest on has been read by now, so the ledger knows of all damage there.
        """
        boxes = self._output_boxes(State.NODATA)
        if not len(boxes):
            return slab
        if turned:
            boxes = boxes[:, [1, 0, 3, 2]]
        start, stop = np.array(slab.box.start), np.array(slab.box.stop)
        near = ((boxes[:, :2] < stop) & (boxes[:, 2:] > start)).all(axis=1)
        if not near.any():
            return slab
        lost = np.zeros(slab.box.shape, np.bool_)
        for y0, x0, y1, x1 in (boxes[near] - np.tile(start, 2)).tolist():
            lost[max(y0, 0) : y1, max(x0, 0) : x1] = True
        return slab.without(lost)

    def l0_boxes(self, state: State) -> Boxes:
        """Return the part of the output that a state of pixels reaches, in level-0 pixels."""
        place = self._setup.placement
        boxes = self._output_boxes(state) * np.tile(place.downsample, 2)
        return cast("Boxes", boxes + np.tile(place.origin, 2))

    def lost_mm2(self, selected: NDArray[np.bool_]) -> float:
        """Return the area that has no result although its tiles were selected.

        Parameters
        ----------
        selected
            bool of `decided.counts`.
        """
        pixels = 0
        for y0, x0, y1, x1 in disjoint(self._output_boxes(State.NODATA).astype(float)).tolist():
            rows = max(1, int(STRIP_PIXELS / (x1 - x0)))
            for top in range(int(y0), int(y1), rows):
                box = Box((top, int(x0)), (min(top + rows, int(y1)), int(x1)))
                pixels += int(np.count_nonzero(self._decided(box, selected)))
        return pixels * self._setup.placement.spacing.area_um2 * 1e-6

    def _decided(self, box: Box, selected: NDArray[np.bool_]) -> NDArray[np.bool_]:
        """Return the output pixels of a box that a selected tile decides."""
        if self._setup.spec.kind != "segmenter":
            return selected[box.slices()]
        grid = self._setup.decided
        tiles: list[list[tuple[NDArray[np.int64], NDArray[np.bool_]]]] = []
        for axis in range(2):
            pixels, stride = np.arange(box.start[axis], box.stop[axis]), grid.stride[axis]
            window, count = stride + grid.overlap[axis], grid.counts[axis]
            first = pixels // stride
            own = [first - step for step in range(ceil_div(window, stride))]
            valid = [(i >= 0) & (i < count) & (pixels < i * stride + window) for i in own]
            tiles.append([(np.clip(i, 0, count - 1), v) for i, v in zip(own, valid, strict=True)])
        found = np.zeros(box.shape, np.bool_)
        for (rows, in_rows), (columns, in_columns) in product(*tiles):
            found |= selected[np.ix_(rows, columns)] & np.outer(in_rows, in_columns)
        return found

    def _output_boxes(self, state: State) -> NDArray[np.int64]:
        """Return the output pixels that pixels of a state reach, clipped, (n, 4) int."""
        if len(self._setup.grid.shape) != 2:
            return np.empty((0, 4), np.int64)
        parts = [self._reached(item, self._boxes_of(item, state)) for item in self._setup.inputs]
        boxes = np.concatenate(parts)
        limit = np.tile(self._setup.placement.shape, 2)
        boxes = np.clip(boxes, 0, limit)
        filled: NDArray[np.int64] = boxes[(boxes[:, :2] < boxes[:, 2:]).all(axis=1)]
        return filled

    def _boxes_of(self, item: StageInput, state: State) -> Boxes:
        """Return what is in a state in one input."""
        if item.view is not None:
            return item.view.damaged(state)
        earlier = self._earlier.get(item.spec.source)
        if earlier is None:
            return np.empty((0, 4))
        boxes = earlier.l0_boxes(state)
        cell = np.array(earlier._setup.placement.downsample)  # values between cells hold of both
        return cast("Boxes", boxes + np.concatenate([-cell, cell]))

    def _reached(self, item: StageInput, l0_boxes: Boxes) -> NDArray[np.int64]:
        """Return the output pixels whose context has a pixel of these boxes."""
        if not len(l0_boxes):
            return np.empty((0, 4), np.int64)
        own = np.array(item.downsample)
        first = np.floor(l0_boxes[:, :2] / own + SNAP) * own  # whole pixels of the input
        last = np.ceil(l0_boxes[:, 2:] / own - SNAP) * own
        grid, scale = self._setup.grid, np.array(self._setup.reference.downsample)
        if self._setup.spec.kind == "segmenter":
            margin = np.array(grid.halo)
            low = np.floor(first / scale + SNAP) - margin
            high = np.ceil(last / scale - SNAP) + margin
        else:
            middle = (np.array(grid.patch) / 2 - grid.halo) * scale
            reach = np.array(item.spec.patch) / 2 * own
            if item is not self._setup.reference:
                reach = reach + own / 2  # its patch lies on whole pixels
            stride = np.array(grid.stride) * scale
            low = np.floor((first - middle - reach) / stride + SNAP) + 1
            high = np.ceil((last - middle + reach) / stride - SNAP)
        both: NDArray[np.int64] = np.concatenate([low, high], axis=1).astype(np.int64)
        return both


def disjoint(boxes: Boxes) -> Boxes:
    """Return boxes that cover the same and do not overlap.

    Parameters
    ----------
    boxes
        float64 (n, 4): y0, x0, y1, x1; in any order, also with repetitions.
    """
    boxes = boxes.reshape(-1, 4)
    edges = np.unique(boxes[:, [0, 2]])
    found: list[tuple[float, float, float, float]] = []
    for top, bottom in zip(edges[:-1].tolist(), edges[1:].tolist(), strict=True):
        spans = boxes[(boxes[:, 0] <= top) & (boxes[:, 2] >= bottom)][:, [1, 3]]
        left = right = -np.inf
        for start, stop in spans[np.lexsort(spans.T[::-1])].tolist():
            if start > right:
                if right > left:
                    found.append((top, left, bottom, right))
                left, right = start, stop
            right = max(right, stop)
        if right > left:
            found.append((top, left, bottom, right))
    return np.array(found, np.float64).reshape(-1, 4)
