"""Levels that several stages read: each block decoded once, reduced for all of them.

Stages run one after the other. When one reads a block of a level, the same pixels are reduced at
once for the stages that come later, and kept in a file without a name until these ask for them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.block_store import BlockStore
from wsiseg.engine.blocks import BlockUses, block_box
from wsiseg.engine.decoded import KEPT_BYTES
from wsiseg.engine.fractional import FractionalLevel, unit_of
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.walk import all_runs
from wsiseg.engine.wish import SharedView, Wish, reduced
from wsiseg.geometry import Box
from wsiseg.source import Level, View
from wsiseg.source.base import Pixels

__all__ = [
    "SOURCE_CACHE_BYTES",
    "SharedLevel",
    "SharedView",
    "kept_bytes",
    "share_levels",
    "shared_blocks",
]

LEAST_SIDE = 256
"""Level pixels of a block at least, so that small tiles in the file do not make small blocks."""

SOURCE_CACHE_BYTES = 8 << 20
"""Decoded tiles that the source keeps where nobody comes back to them."""

MOST_SIDE = 2048
"""Level pixels of a block at most; where no smaller one fits the file's tiles and all ratios, the
level is read as at fractional ones."""


class SharedLevel:
    """One level of a slide, read by several views in turn, block by block.

    Parameters
    ----------
    level
        The level.
    side
        Level pixels of a block per axis: whole tiles of the file, and whole pixels of each view.
    folder
        Where reduced blocks wait, in a file that vanishes with the process.
    """

    def __init__(self, level: Level, side: tuple[int, ...], folder: Path) -> None:
        self._level = level
        self.side = side
        self._folder = folder
        self._wishes: list[Wish] = []

    def block_of(self, view: View) -> tuple[int, ...]:
        """Return the pixels of a block on the grid of a view."""
        return tuple(n // int(r) for n, r in zip(self.side, view.ratio, strict=True))

    def add(self, view: View, uses: BlockUses) -> "SharedView":
        """Return the reader of the next stage; all are added before the first is read."""
        self._wishes.append(Wish(view, uses, BlockStore(self._folder)))
        return SharedView(self, len(self._wishes) - 1, view, self.block_of(view))

    def close(self) -> None:
        """Free the files."""
        for wish in self._wishes:
            wish.store.close()

    def read(self, turn: int, index: tuple[int, ...]) -> Pixels:
        """Return a block for the view whose turn it is, uint8 `(*block, 3)`."""
        wish, *later = self._wishes[turn:]
        stored = wish.store.get(index)
        if stored is not None:
            return stored
        whole, mine = block_box(index, self.side), block_box(index, self.block_of(wish.view))
        others = [w for w in later if w.uses.needed(index) and not w.store.holds(index)]
        if not others or not whole.clip(self._level.shape).size:
            return wish.view.read(mine)  # each tile of the file is reduced while it is in the cache
        pixels = self._level.read(whole)
        for other in others:
            box = block_box(index, self.block_of(other.view))
            other.store.put(index, reduced(other.view, pixels, whole, box))
        return reduced(wish.view, pixels, whole, mine)


@contextmanager
def share_levels(
    setups: Sequence[StageSetup], selected: Sequence[NDArray[np.bool_]], folder: Path
) -> Iterator[dict[tuple[int, int], SharedView]]:
    """Give the shared view of each slide input, by (stage, input).

    Inputs that are missing are better read by themselves: the codec reduces for them, or the tiles
    of the file are too large to be kept.
    """
    shared: dict[tuple[int, int], SharedView] = {}
    with ExitStack() as stack:
        for blocks, readers in _shared_levels(setups, folder):
            stack.enter_context(closing(blocks))
            for s, k, view in readers:
                boxes = _wanted(setups[s], k, selected[s])
                uses = BlockUses.of_boxes(boxes, blocks.block_of(view))
                shared[s, k] = blocks.add(view, uses)
        views = _slide_inputs(setups)
        if views.keys() <= shared.keys():  # all is read in whole blocks, and each once
            for view in views.values():
                view.level.limit_cache(SOURCE_CACHE_BYTES)
                stack.callback(view.level.limit_cache, None)
        yield shared


def shared_blocks(setups: Sequence[StageSetup]) -> dict[tuple[int, int], tuple[int, ...]]:
    """Return the pixels of a block of each shared input, by (stage, input)."""
    return {
        (s, k): blocks.block_of(view)
        for blocks, readers in _shared_levels(setups, Path())
        for s, k, view in readers
    }


def kept_bytes(setups: Sequence[StageSetup]) -> int:
    """Return the bytes of decoded tiles in memory while stages read the slide in whole blocks."""
    levels = (blocks for blocks, _ in _shared_levels(setups, Path()))
    fractional = sum(isinstance(blocks, FractionalLevel) for blocks in levels)
    return SOURCE_CACHE_BYTES + fractional * KEPT_BYTES


def _shared_levels(
    setups: Sequence[StageSetup], folder: Path
) -> Iterator[tuple[SharedLevel | FractionalLevel, list[tuple[int, int, View]]]]:
    """Yield each level read in whole blocks, and who reads it."""
    wanted: dict[int, list[tuple[int, int, View]]] = {}
    for (s, k), view in _slide_inputs(setups).items():
        if not view.scaled:
            wanted.setdefault(view.level.index, []).append((s, k, view))
    for readers in wanted.values():
        level, views = readers[0][2].level, [view for _, _, view in readers]
        side = _common_side(level, views) if all(map(_is_whole, views)) else None
        if side is not None:
            yield SharedLevel(level, side, folder), readers
        elif (unit := unit_of(level)) is not None:
            yield FractionalLevel(level, unit, folder), readers


def _slide_inputs(setups: Sequence[StageSetup]) -> dict[tuple[int, int], View]:
    """Return the views of the slide by (stage, input)."""
    return {
        (s, k): item.view
        for s, setup in enumerate(setups)
        for k, item in enumerate(setup.inputs)
        if item.view is not None
    }


def _is_whole(view: View) -> bool:
    """Tell whether each pixel of the view is made of whole pixels of the level."""
    return all(float(r).is_integer() for r in view.ratio)


def _wanted(setup: StageSetup, k: int, selected: NDArray[np.bool_]) -> Iterator[Box]:
    """Yield boxes of input `k` that together are what the selected tiles read."""
    for run in all_runs(selected):
        first, last = (
            setup.inputs[k].box_of(tile.read, setup.reference) for tile in run.tiles(setup.grid)
        )
        yield Box(first.start, last.stop)


def _common_side(level: Level, views: Sequence[View]) -> tuple[int, ...] | None:
    """Return the side of blocks that are whole tiles of the file and whole pixels of all views."""
    sides = []
    for axis, (chunk, size) in enumerate(zip(level.chunk, level.shape, strict=True)):
        ratios = [int(view.ratio[axis]) for view in views]
        # A level of one tile may be cut anywhere, but a strip is decoded for each of its blocks.
        tile = 1 if level.chunk == level.shape else min(chunk, size)
        unit = math.lcm(tile, *ratios)
        side = unit * max(1, math.ceil(LEAST_SIDE / unit))
        if side > MOST_SIDE:
            return None
        sides.append(side)
    return tuple(sides)
