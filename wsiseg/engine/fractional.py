"""A level read at ratios whose pixels do not fit its tiles: each tile decoded once all the same.

A block of a view then shares tiles with its neighbours, and with the blocks of other views. So all
blocks that will be made are counted beforehand, and a tile is kept until the last of them. Blocks
that later stages want are made along with the last block of an earlier one that needs a tile of
theirs, and wait in a file, a fraction of the tiles' size.
"""

import threading
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from wsiseg.engine.block_store import BlockStore
from wsiseg.engine.blocks import BlockUses, block_box
from wsiseg.engine.decoded import DecodedTiles
from wsiseg.engine.wish import SharedView, Wish, level_span, reduced
from wsiseg.geometry import Box, ceil_div
from wsiseg.source import Level, View
from wsiseg.source.base import Pixels

__all__ = ["FractionalLevel", "unit_of"]

LEAST_SIDE = 256
"""Level pixels that are kept together at least, so that small tiles cost no more than others."""

MOST_SIDE = 2048
"""Level pixels that are kept together at most."""

BLOCK_SIDE, BLOCK_PIXELS = 1024, 256
"""Level pixels that a block of a view covers, about, so that few tiles are needed by several; and
its own pixels at most, as rows of blocks are kept."""

Index = tuple[int, ...]
Wanted = tuple[int, Index]
"""A block: whose, and its index."""


def unit_of(level: Level) -> tuple[int, ...] | None:
    """Return the level pixels kept together, in whole tiles; `None` where tiles are too large."""
    if level.chunk == level.shape:  # decoded as one, and cut anywhere
        return (LEAST_SIDE,) * len(level.shape)
    unit = tuple(n * ceil_div(LEAST_SIDE, n) for n in level.chunk)
    return None if max(unit) > MOST_SIDE else unit


class FractionalLevel:
    """One level of a slide, read by views in turn, block by block.

    Parameters
    ----------
    level
        The level.
    unit
        Level pixels that are kept together; see `unit_of`.
    folder
        Where blocks and tiles wait, in files that vanish with the process.
    """

    def __init__(self, level: Level, unit: tuple[int, ...], folder: Path) -> None:
        self._level, self._unit, self._folder = level, unit, folder
        self._wishes: list[Wish] = []
        self._lock = threading.Lock()
        self._tiles: DecodedTiles | None = None
        self._along: dict[Wanted, list[Wanted]] = {}

    def block_of(self, view: View) -> tuple[int, ...]:
        """Return the pixels of a block on the grid of a view."""
        return tuple(max(1, min(BLOCK_PIXELS, round(BLOCK_SIDE / r))) for r in view.ratio)

    def add(self, view: View, uses: BlockUses) -> SharedView:
        """Return the reader of the next stage; all are added before the first is read."""
        self._wishes.append(Wish(view, uses, BlockStore(self._folder)))
        return SharedView(self, len(self._wishes) - 1, view, self.block_of(view))

    def close(self) -> None:
        """Free memory and files."""
        for wish in self._wishes:
            wish.store.close()
        if self._tiles is not None:
            self._tiles.close()

    def read(self, turn: int, index: Index) -> Pixels:
        """Return a block for the view whose turn it is, uint8 `(*block, 3)`."""
        with self._lock:
            if self._tiles is None:
                self._tiles = self._prepared()
        stored = self._wishes[turn].store.get(index)
        pixels = self._make(self._tiles, turn, index) if stored is None else stored
        for later, other in self._along.pop((turn, index), ()):
            self._wishes[later].store.put(other, self._make(self._tiles, later, other))
        return pixels

    def _make(self, tiles: DecodedTiles, turn: int, index: Index) -> Pixels:
        wish = self._wishes[turn]
        box = block_box(index, wish.uses.block)
        span = level_span(wish.view, box)
        return reduced(wish.view, tiles.read(span), span, box)

    def _prepared(self) -> DecodedTiles:
        """Count the blocks that need each tile, and say which are made along with which."""
        wanted = [list(self._wanted(wish)) for wish in self._wishes]
        spans = (span for one in wanted for _, span in one)
        uses = BlockUses.of_boxes(spans, self._unit)
        made: set[Wanted] = set()
        for turn, own in enumerate(wanted):
            last = np.full(uses.counts.shape, -1)  # of the blocks that need each tile
            for number, (_, span) in enumerate(own):
                last[self._tiles_of(span, uses)] = number
            for later in range(turn + 1, len(wanted)):
                for index, span in wanted[later]:
                    beside = int(last[self._tiles_of(span, uses)].max())
                    if beside >= 0 and (later, index) not in made:
                        made.add((later, index))
                        place = (turn, own[beside][0])
                        self._along.setdefault(place, []).append((later, index))
        return DecodedTiles(self._level, uses, self._folder)

    def _wanted(self, wish: Wish) -> Iterator[tuple[Index, Box]]:
        """Yield the blocks of a view that are needed, and their level pixels."""
        for place in np.argwhere(wish.uses.counts):
            index = tuple((place + wish.uses.first).tolist())
            span = level_span(wish.view, block_box(index, wish.uses.block))
            if span.size:
                yield index, span

    def _tiles_of(self, span: Box, uses: BlockUses) -> tuple[slice, ...]:
        """Return the place of the tiles of a box among those counted."""
        edges = zip(span.start, span.stop, self._unit, uses.first, strict=True)
        return tuple(slice(a // n - first, (b - 1) // n + 1 - first) for a, b, n, first in edges)
