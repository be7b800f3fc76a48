"""Labels of a volume that is walked in blocks, each from end to end along the first axis.

A block's network values are complete for its own pixels and the one beyond them, between which its
voxels of the scan lie: each voxel is made once, of the same values as in a walk of the whole.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from wsiseg.errors import HeatmapError
from wsiseg.geometry import Box
from wsiseg.resample import AxisMap, bracket
from wsiseg.stitch import Codes, Sink
from wsiseg.volume.export import AnySlab, FusedExport

__all__ = ["BlockExport", "Part", "parts_of"]

Span = tuple[int, int]


@dataclass(frozen=True, slots=True)
class Part:
    """What one block gives of the last axis."""

    decided: Span
    """First and last + 1 pixel of the network's grid that the block decides."""

    index: AxisMap
    """Where its voxels lie among the pixels of the block and the one beyond."""

    voxels: Span
    """Of the box that is looked at."""

    columns: Span
    """Of the whole scan: with what lies beside the box."""

    @property
    def beyond(self) -> int:
        """Pixels that are needed after those decided."""
        return self.index.source - (self.decided[1] - self.decided[0])


def parts_of(
    spans: Sequence[Span], index: AxisMap, order: int, *, first: int, whole: int
) -> tuple[Part, ...]:
    """Return what blocks give of the last axis.

    Parameters
    ----------
    spans
        Pixels that each block decides; together those of the grid.
    index, order
        Where the voxels of the box lie among them, and the spline between.
    first, whole
        The box's first voxel in the scan, and the scan's voxels.
    """
    low, high, _ = bracket(index, 0, index.target, order=order)
    edges = [int(np.searchsorted(low, left)) for left, _ in spans] + [index.target]
    parts = []
    for k, (left, right) in enumerate(spans):
        start, stop = edges[k], edges[k + 1]
        last = max(right, int(high[stop - 1]) + 1) if stop > start else right
        columns = (0 if k == 0 else first + start, whole if stop == index.target else first + stop)
        part = index.part((left, last), (start, stop))
        parts.append(Part((left, right), part, (start, stop), columns))
    return tuple(parts)


class BlockExport:
    """A `Reducer` that gives the slabs of each block to an export of its own.

    Parameters
    ----------
    parts
        Of the blocks, in order; those without voxels are left out.
    make
        Makes the export of a block, given its sinks.
    sinks
        Get what all of them give, and are finished once.
    """

    def __init__(
        self,
        parts: Sequence[Part],
        make: Callable[[Part, Sequence[Sink]], FusedExport],
        sinks: Sequence[Sink],
    ) -> None:
        self._parts = {part.decided[0]: part for part in parts}
        self._make = make
        self._sinks = sinks
        self._left: int | None = None
        self._export: FusedExport | None = None

    def push(self, slab: AnySlab) -> None:
        """Take the next slab of a block; a block's first ends the one before."""
        left = slab.box.start[-1]
        if left != self._left:
            self._end()
            part = self._parts.get(left)
            if part is None or slab.box.start[0]:
                raise HeatmapError(f"slab {slab.box} begins no block: needed one of {self._parts}")
            self._left = left
            filled = part.voxels[1] > part.voxels[0]
            sinks = [_Unfinished(sink) for sink in self._sinks]
            self._export = self._make(part, sinks) if filled else None
        if self._export is not None:
            self._export.push(slab.within(left, left + self._parts[left].index.source))

    def finish(self) -> None:
        """Write what is left, and finish the sinks."""
        self._end()
        for sink in self._sinks:
            sink.finish()

    def _end(self) -> None:
        if self._export is not None:
            self._export.finish()
            self._export = None


class _Unfinished:
    """A sink that others write after."""

    def __init__(self, sink: Sink) -> None:
        self._sink = sink

    def write(self, box: Box, codes: Codes) -> None:
        self._sink.write(box, codes)

    def finish(self) -> None:
        """Nothing: others come."""
