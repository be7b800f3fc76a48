"""Levels that several stages read: each block decoded once, reduced for all of them.

Stages run one after the other. When one reads a block of a level, the same pixels are reduced at
once for the stages that come later, and kept in a file without a name until these ask for them.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsiseg.engine.block_store import BlockStore
from wsiseg.engine.blocks import BlockUses, block_box
from wsiseg.engine.graph import StageSetup
from wsiseg.engine.walk import all_runs
from wsiseg.geometry import Box
from wsiseg.resample import area, area_span
from wsiseg.source import Level, View
from wsiseg.source.base import Pixels

__all__ = [
    "SOURCE_CACHE_BYTES",
    "SharedLevel",
    "SharedView",
    "share_levels",
    "shared_blocks",
]

LEAST_SIDE = 256
"""Level pixels of a block at least, so that small tiles in the file do not make small blocks."""

SOURCE_CACHE_BYTES = 8 << 20
"""Decoded tiles that the source keeps where nobody comes back to them."""

MOST_SIDE = 2048
"""Level pixels of a block at most; where no smaller one fits the file's tiles and all ratios, each
view is read for itself."""


@dataclass(frozen=True, slots=True)
class _Wish:
    """What one stage will want of a level."""

    view: View
    uses: BlockUses
    store: "BlockStore"


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
        self._wishes: list[_Wish] = []

    def block_of(self, view: View) -> tuple[int, ...]:
        """Return the pixels of a block on the grid of a view."""
        return tuple(n // int(r) for n, r in zip(self.side, view.ratio, strict=True))

    def add(self, view: View, uses: BlockUses) -> "SharedView":
        """Return the reader of the next stage; all are added before the first is read."""
        self._wishes.append(_Wish(view, uses, BlockStore(self._folder)))
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
            other.store.put(index, _reduce(other.view, pixels, whole, box))
        return _reduce(wish.view, pixels, whole, mine)


class SharedView:
    """The blocks of one view of a shared level; a `Readable` for whole blocks only."""

    def __init__(self, shared: SharedLevel, turn: int, view: View, block: tuple[int, ...]) -> None:
        self.shape = view.shape
        self.block = block
        self._shared = shared
        self._turn = turn

    def read(self, box: Box) -> Pixels:
        """Return the pixels of one block of the grid of blocks, uint8 `(*block, 3)`."""
        index = tuple(a // n for a, n in zip(box.start, self.block, strict=True))
        return self._shared.read(self._turn, index)


@contextmanager
def share_levels(
    setups: Sequence[StageSetup], selected: Sequence[NDArray[np.bool_]], folder: Path
) -> Iterator[dict[tuple[int, int], SharedView]]:
    """Give the shared view of each slide input, by (stage, input).

    Inputs that are missing are better read by themselves: their ratio is not whole, or no block of
    moderate size fits.
    """
    shared: dict[tuple[int, int], SharedView] = {}
    with ExitStack() as stack:
        for level, side, readers in _shared_levels(setups):
            blocks = stack.enter_context(closing(SharedLevel(level, side, folder)))
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
        (s, k): tuple(n // int(r) for n, r in zip(side, view.ratio, strict=True))
        for _, side, readers in _shared_levels(setups)
        for s, k, view in readers
    }


def _shared_levels(
    setups: Sequence[StageSetup],
) -> Iterator[tuple[Level, tuple[int, ...], list[tuple[int, int, View]]]]:
    """Yield each level read in whole blocks, the side of a block, and who reads it."""
    wanted: dict[int, list[tuple[int, int, View]]] = {}
    for (s, k), view in _slide_inputs(setups).items():
        if _is_shared(view):
            wanted.setdefault(view.level.index, []).append((s, k, view))
    for readers in wanted.values():
        level = readers[0][2].level
        side = _common_side(level, [view for _, _, view in readers])
        if side is not None:
            yield level, side, readers


def _slide_inputs(setups: Sequence[StageSetup]) -> dict[tuple[int, int], View]:
    """Return the views of the slide by (stage, input)."""
    return {
        (s, k): item.view
        for s, setup in enumerate(setups)
        for k, item in enumerate(setup.inputs)
        if item.view is not None
    }


def _is_shared(view: View) -> bool:
    """Tell whether the view is made of whole level pixels, all of them."""
    return not view.scaled and all(float(r).is_integer() for r in view.ratio)


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


def _reduce(view: View, pixels: Pixels, whole: Box, box: Box) -> Pixels:
    """Return a block of a view from the pixels of its block of the level."""
    out = np.empty((*box.shape, 3), np.uint8)
    inside = box.clip(view.shape)
    if inside != box:
        out[:] = view.background
    if inside.size:
        span = area_span(inside, view.ratio).clip(view.level.shape)
        part = pixels[span.relative_to(whole).slices()]
        reduced = area(part, span, inside, view.ratio, view.level.shape)
        out[inside.relative_to(box).slices()] = reduced
    return out
