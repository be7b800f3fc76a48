"""Which blocks of a slide are damaged, and what stands in their place."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from wsiseg.geometry import Box, LevelInfo
from wsiseg.source._blocks import block_indices

__all__ = ["DamagedBlock", "Ledger", "State"]

SNAP = 1e-6
"""Edges this close to a pixel edge are on it: downsamples are floats."""


class State(IntEnum):
    """What became of the pixels of a block; the larger, the worse."""

    INTACT = 0
    """As the file has them."""

    RESTORED = 1
    """Damaged; made of a finer level by the mean over its pixels, which is how levels are made."""

    DEGRADED = 2
    """Damaged; enlarged from a coarser level: the place is right, fine detail is missing."""

    NODATA = 3
    """Damaged, and no other level has it: what is read there stands for nothing."""


@dataclass(frozen=True, slots=True)
class DamagedBlock:
    """One block that could not be decoded."""

    level: int
    index: tuple[int, int]
    """Row and column among the blocks of the level."""

    box: Box
    """Pixels of the level, inside it."""

    l0_box: Box
    """The same in level-0 pixels, rounded outwards."""

    state: State
    source_level: int | None
    """The level whose pixels stand in its place; `None`: none could."""

    reason: str
    """What the reader said."""


class Ledger:
    """The damaged blocks of a slide, each once however often it is read; safe from many threads.

    Parameters
    ----------
    levels
        Of the slide.
    """

    def __init__(self, levels: Sequence[LevelInfo]) -> None:
        self._levels = tuple(levels)
        self._lock = threading.Lock()
        self._tell: Callable[[DamagedBlock], None] = lambda _: None
        self._blocks: dict[tuple[int, tuple[int, int]], DamagedBlock] = {}
        self._damaged_levels: frozenset[int] = frozenset()
        self._l0_boxes: dict[tuple[int, State, int], NDArray[np.float64]] = {}

    def __len__(self) -> int:
        return len(self._blocks)

    @property
    def blocks(self) -> tuple[DamagedBlock, ...]:
        """All blocks known so far, by level, row and column."""
        with self._lock:
            return tuple(self._blocks[key] for key in sorted(self._blocks))

    def add(
        self,
        level: int,
        index: tuple[int, int],
        *,
        state: State,
        source_level: int | None,
        reason: str,
    ) -> None:
        """Enter a block; one that is known already stays as it was."""
        info = self._levels[level]
        start = tuple(i * n for i, n in zip(index, info.chunk, strict=True))
        stop = tuple(a + n for a, n in zip(start, info.chunk, strict=True))
        box = Box(start, stop).clip(info.shape)
        block = DamagedBlock(
            level, index, box, self._l0_box(info, box), state, source_level, reason
        )
        with self._lock:
            if (level, index) not in self._blocks:
                self._tell(block)  # whoever keeps it has it before anybody uses its pixels
                self._blocks[level, index] = block
                self._damaged_levels |= {level}

    def follow(self, tell: Callable[[DamagedBlock], None]) -> None:
        """Call `tell` with each block that is known, and from now on with each new one."""
        with self._lock:
            self._tell = tell
            for block in self._blocks.values():
                tell(block)

    def at(self, level: int, index: tuple[int, int]) -> DamagedBlock | None:
        """Return what is known of a block; `None`: no damage."""
        return self._blocks.get((level, index))

    def touches(self, level: int, box: Box) -> bool:
        """Return whether a box of a level has pixels of a block known to be damaged."""
        if level not in self._damaged_levels:
            return False
        info = self._levels[level]
        indices = block_indices(box.clip(info.shape), info.chunk)
        return any((level, index) in self._blocks for index in indices)

    def l0_boxes(self, level: int, state: State) -> NDArray[np.float64]:
        """Return the blocks of a level in a state, float64 (n, 4): y0, x0, y1, x1 at level 0."""
        if level not in self._damaged_levels:
            return np.empty((0, 4))
        key = level, state, len(self._blocks)
        found = self._l0_boxes.get(key)
        if found is None:
            info = self._levels[level]
            scale = np.tile(info.downsample, 2)
            own = [b for b in self.blocks if b.level == level and b.state == state]
            pixels = [(*b.box.start, *b.box.stop) for b in own]
            found = np.array(pixels, np.float64).reshape(-1, 4) * scale
            self._l0_boxes = {k: v for k, v in self._l0_boxes.items() if k[2] == key[2]}
            self._l0_boxes[key] = found
        return found

    def _l0_box(self, info: LevelInfo, box: Box) -> Box:
        start = (int(n * d + SNAP) for n, d in zip(box.start, info.downsample, strict=True))
        stop = (
            int(-(-(n * d - SNAP) // 1)) for n, d in zip(box.stop, info.downsample, strict=True)
        )
        return Box(tuple(start), tuple(stop)).clip(self._levels[0].shape)

    def __repr__(self) -> str:
        return f"<Ledger of {len(self)} damaged blocks>"
