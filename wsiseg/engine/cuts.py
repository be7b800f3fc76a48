"""What lies at the cuts between columns: made once, and kept for the next column in a file."""

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.block_store import BlockStore
from wsiseg.engine.blocks import BlockUses, Readable
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.inputs import Input, SlideInput, block_uses
from wsiseg.geometry import Box
from wsiseg.grid import Column
from wsiseg.source.base import Pixels

__all__ = ["column_uses", "keep_cuts"]


def column_uses(
    setup: StageSetup, k: int, one: Input, columns: Sequence[Column], selected: NDArray[np.bool_]
) -> BlockUses:
    """Count the columns that need each block of input `k`.

    Parameters
    ----------
    setup
        The stage.
    k, one
        Index of the input, and the input.
    columns
        Of the stage's grid.
    selected
        Tiles that run, bool of the grid's counts.
    """
    walks = [
        block_uses(setup, k, one, column, [np.argwhere(column.part_of(selected))])
        for column in columns
    ]
    return BlockUses.of_walks(walks)


@contextmanager
def keep_cuts(
    setup: StageSetup,
    inputs: Sequence[Input],
    columns: Sequence[Column],
    selected: NDArray[np.bool_],
    folder: Path,
) -> Iterator[tuple[Input, ...]]:
    """Give the inputs; blocks of the slide that several columns need are made by the first.

    Parameters
    ----------
    setup, inputs
        The stage and what it reads from.
    columns, selected
        See `column_uses`.
    folder
        Where the blocks wait, in a file that vanishes with the process.
    """
    with ExitStack() as stack:
        found: list[Input] = []
        for k, one in enumerate(inputs):
            if setup.inputs[k].view is None or len(columns) == 1:
                found.append(one)
                continue
            uses = column_uses(setup, k, one, columns, selected)
            store = stack.enter_context(closing(BlockStore(folder)))
            found.append(SlideInput(_Kept(one.source, uses, store), one.block))
        yield tuple(found)


class _Kept:
    """Blocks of the slide; those that several columns need are kept. For whole blocks only."""

    def __init__(self, source: Readable, uses: BlockUses, store: BlockStore) -> None:
        self.shape = source.shape
        self._source = source
        self._uses = uses
        self._store = store

    def read(self, box: Box) -> Pixels:
        """Return the pixels of one block, uint8 `(*box.shape, 3)`."""
        index = tuple(a // n for a, n in zip(box.start, self._uses.block, strict=True))
        kept = self._store.get(index)
        if kept is not None:
            return kept
        pixels = self._source.read(box)
        if self._uses.count(index) > 1:
            self._store.put(index, pixels)
        return pixels
