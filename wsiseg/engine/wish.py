"""What a stage will want of a level, and its blocks made of the level's pixels."""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from wsiseg.engine.block_store import BlockStore
from wsiseg.engine.blocks import BlockUses
from wsiseg.geometry import Box
from wsiseg.resample import area, area_span
from wsiseg.source import View
from wsiseg.source.base import Pixels

__all__ = ["SharedView", "Wish", "level_span", "reduced"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What one stage will want of a level."""

    view: View
    uses: BlockUses
    store: BlockStore
    """Blocks that were made before their turn."""


class _InTurns(Protocol):
    """A level that several views read, one after the other."""

    def read(self, turn: int, index: tuple[int, ...]) -> Pixels:
        """Return a block for the view whose turn it is."""
        ...


class SharedView:
    """The blocks of one view of a shared level; a `Readable` for whole blocks only."""

    def __init__(self, shared: _InTurns, turn: int, view: View, block: tuple[int, ...]) -> None:
        self.shape = view.shape
        self.block = block
        self._shared = shared
        self._turn = turn

    def read(self, box: Box) -> Pixels:
        """Return the pixels of one block of the grid of blocks, uint8 `(*block, 3)`."""
        index = tuple(a // n for a, n in zip(box.start, self.block, strict=True))
        return self._shared.read(self._turn, index)


def level_span(view: View, box: Box) -> Box:
    """Return the level pixels, inside the level, of a box of a view; empty outside the view."""
    inside = box.clip(view.shape)
    if not inside.size:
        return Box((0, 0), (0, 0))
    return area_span(inside, view.ratio).clip(view.level.shape)


def reduced(view: View, pixels: Pixels, whole: Box, box: Box) -> Pixels:
    """Return a box of a view from level pixels: those of `whole`, which holds its span."""
    out = np.empty((*box.shape, 3), np.uint8)
    inside = box.clip(view.shape)
    if inside != box:
        out[:] = view.background
    if inside.size:
        span = level_span(view, inside)
        part = pixels[span.relative_to(whole).slices()]
        made = area(part, span, inside, view.ratio, view.level.shape)
        out[inside.relative_to(box).slices()] = made
    return out
