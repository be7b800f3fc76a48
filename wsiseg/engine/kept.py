"""Rows of a stage that are finished already: they are not made again, only put to their place.

A stage gives rows in order, column after column. Where an earlier run has finished some of them,
only the tiles that touch the others are predicted, in the very batches of the whole walk. What they
give for finished rows is incomplete, and dropped; the finished rows come from the log instead.
"""

from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.graph import StageSetup
from wsiseg.engine.journal import Block, StageLog
from wsiseg.geometry import Box
from wsiseg.grid import Column
from wsiseg.stitch import Codes, Reducer, Sink, Slab

__all__ = ["KeptRows", "Span", "column_span", "rows_of_tiles"]

Span = tuple[int, int]
"""First and last + 1 pixel of a column along the last axis of the walk."""


@dataclass(frozen=True, slots=True)
class _Piece:
    """Rows of a block that are needed."""

    block: Block
    rows: slice
    """Of the block."""

    @property
    def box(self) -> Box:
        (top, *_), rest = self.block.box.start, self.block.box
        return Box((top + self.rows.start, *rest.start[1:]), (top + self.rows.stop, *rest.stop[1:]))

    @property
    def place(self) -> tuple[int, int]:
        """Where it comes in the walk: column, then row."""
        return self.box.start[-1], self.box.start[0]


class KeptRows:
    """The finished rows of a stage, and where new ones are kept.

    Parameters
    ----------
    log
        Of the stage.
    parts
        Names of the arrays the stage gives; a row is finished when all have it.
    height
        Rows of the walk.
    wanted
        Given, only these rows of each column are to be made, and nothing but the log gets them.
    """

    def __init__(
        self,
        log: StageLog,
        parts: Sequence[str],
        height: int,
        wanted: Mapping[Span, slice] | None = None,
    ) -> None:
        self._log = log
        self._height = height
        self._wanted = wanted
        spans = {_span(block.box) for block in log.blocks}
        self._last = {part: {span: self._last_of(part, span) for span in spans} for part in parts}
        self._done = {
            span: np.logical_and.reduce([self._last[part][span] >= 0 for part in parts])
            for span in spans
        }

    def missing(self, span: Span, rows: slice = slice(None)) -> NDArray[np.bool_]:
        """Return which rows of a column are to be made, bool (row,)."""
        done = self._done.get(span)
        missing = np.ones(self._height, np.bool_) if done is None else ~done
        if self._wanted is not None:
            mine = np.zeros(self._height, np.bool_)
            mine[self._wanted.get(span, slice(0))] = True
            missing &= mine
        return missing[rows]

    def sink(self, part: str, sink: Sink) -> Sink:
        """Return a sink that takes the missing rows, and gives all to `sink`, in order."""
        return _KeptSink(self, self._log, part, sink if self._wanted is None else None)

    def reducer(self, part: str, reducer: Reducer, selected: NDArray[np.bool_]) -> Reducer:
        """Return a reducer of cells that takes the missing rows, and gives all to `reducer`.

        Parameters
        ----------
        part, reducer
            Gets slabs in any order.
        selected
            Cells that will be covered, bool (row, column).
        """
        return _KeptReducer(self, self._log, part, reducer, selected)

    def pieces(self, part: str) -> Iterator[_Piece]:
        """Yield the finished rows of an array in the order of the walk."""
        for span in sorted(self._done):
            last = np.where(self._done[span], self._last[part][span], -1)
            for rows in _runs(last):
                block = self._log.blocks[last[rows.start]]
                top, *_ = block.box.start
                yield _Piece(block, slice(rows.start - top, rows.stop - top))

    def _last_of(self, part: str, span: Span) -> NDArray[np.int64]:
        """Return the number of the block that holds each row of a column, the last if several."""
        last = np.full(self._height, -1)
        for number, block in enumerate(self._log.blocks):
            if block.part == part and _span(block.box) == span:
                last[block.box.start[0] : block.box.stop[0]] = number
        return last


def column_span(setup: StageSetup, column: Column) -> Span:
    """Return what a column decides along the last axis of the walk, in pixels of the output."""
    if setup.spec.kind != "segmenter":
        return column.tiles.start, column.tiles.stop
    grid = setup.grid.turned if column.turned else setup.grid
    axis, (*_, width), (*_, count) = len(grid.shape) - 1, grid.shape, grid.counts
    decided = column.decided
    right = width if decided.stop == count else grid.start(axis, decided.stop)
    return max(0, grid.start(axis, decided.start)), right


def rows_of_tiles(
    setup: StageSetup, column: Column, missing: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which rows of tiles of a column touch missing rows of the output, bool (row,)."""
    if setup.spec.kind != "segmenter":
        return missing
    grid = column.grid
    before = np.concatenate([[0], np.cumsum(missing)])
    start = np.array([grid.start(0, i) for i in range(grid.counts[0])])
    stop = np.minimum(start + grid.window[0], len(missing))
    touched: NDArray[np.bool_] = before[stop] > before[np.maximum(start, 0)]
    return touched


class _KeptSink:
    """Merges the rows that are finished with those that are made now."""

    def __init__(self, kept: KeptRows, log: StageLog, part: str, sink: Sink | None) -> None:
        self._kept = kept
        self._log = log
        self._part = part
        self._sink = sink
        self._waiting = deque(kept.pieces(part) if sink is not None else ())

    def write(self, box: Box, codes: Codes) -> None:
        """Take the next rows; those that are finished already are dropped."""
        top, *rest = box.start
        missing = self._kept.missing(_span(box), slice(top, box.stop[0]))
        for rows in _runs(missing.astype(np.int64) - 1):
            part = Box((top + rows.start, *rest), (top + rows.stop, *box.stop[1:]))
            if self._sink is not None:
                self._feed(self._sink, (part.start[-1], part.start[0]))
                self._sink.write(part, codes[rows])
            self._log.add(self._part, part, codes[rows])

    def finish(self) -> object:
        """Give what is left, and finish the sink."""
        if self._sink is None:
            return None
        self._feed(self._sink, None)
        return self._sink.finish()

    def _feed(self, sink: Sink, until: tuple[int, int] | None) -> None:
        """Give the finished rows that come before a place."""
        while self._waiting and (until is None or self._waiting[0].place < until):
            piece = self._waiting.popleft()
            sink.write(piece.box, self._log.load(piece.block)[piece.rows])


class _KeptReducer:
    """The same for vectors, whose place is given by their cell."""

    def __init__(
        self,
        kept: KeptRows,
        log: StageLog,
        part: str,
        reducer: Reducer,
        selected: NDArray[np.bool_],
    ) -> None:
        self._kept = kept
        self._log = log
        self._part = part
        self._reducer = reducer
        self._selected = selected

    def push(self, slab: Slab) -> None:
        """Take the next row of cells, unless it is finished."""
        (top, left), (_, right) = slab.box.start, slab.box.stop
        if self._kept.missing((left, right))[top]:
            self._reducer.push(slab)
            self._log.add(self._part, slab.box, slab.values[slab.covered])

    def finish(self) -> None:
        """Give the rows that were finished, and finish the reducer."""
        for piece in self._kept.pieces(self._part):
            vectors = self._log.load(piece.block)
            covered = self._selected[piece.box.slices()]
            values = np.zeros((*covered.shape, vectors.shape[-1]), np.float32)
            values[covered] = vectors
            self._reducer.push(Slab(piece.box, values, covered))
        self._reducer.finish()


def _span(box: Box) -> Span:
    return box.start[-1], box.stop[-1]


def _runs(numbers: NDArray[np.int64]) -> Iterator[slice]:
    """Yield the ranges of one number each, but for those below 0."""
    edges = np.flatnonzero(np.diff(numbers)) + 1
    for start, stop in pairwise([0, *edges.tolist(), len(numbers)]):
        if numbers[start] >= 0:
            yield slice(start, stop)
